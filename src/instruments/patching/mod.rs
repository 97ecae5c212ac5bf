//! Activation patching: which states carry what one prompt says and another does not?
//!
//! There are two runs, a clean and a corrupted one (another prompt, or the same with noise on a subject's embeddings).
//! Denoising patches the clean run's values into the corrupted run, one cell at a time, and measures how much of the answer is
//! restored; noising patches the corrupted run's values into the clean run and measures how much is lost (Meng et al. 2022,
//! 2202.05262; Wang et al. 2022, 2211.00593; Zhang and Nanda 2023, 2309.16042). Invariant: 0 is the run that is patched, 1 the
//! run that the values come from, and both metrics are in the notes. To patch another site, add it to `plan::PatchKind`.

mod case;
mod figure;
mod plan;

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::params::{Count, ParameterValue, choices, params};
use super::{Draft, Measurement, Reads};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::run::Run;
use crate::lab::trials::SweepCost;
use crate::model::Card;
use case::HeadsAt;
use plan::PatchKind;

choices! {
    /// Which run's values are patched into which.
    pub enum PatchDirection { Denoise = "denoise", Noise = "noise" }
}

choices! {
    /// The metric.
    pub enum PatchingMeasure { Auto = "auto", Difference = "difference", Probability = "probability", Kl = "kl" }
}

choices! {
    /// How the positions of two prompts are aligned.
    pub enum Pairing { Length = "length", Ends = "ends" }
}

choices! {
    /// Which cells get a control: the strongest, or all of them.
    pub enum Control { Top = "top", Random = "random" }
}

/// A standard deviation of noise, in those of the noised embeddings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Deviations(pub f64);

impl ParameterValue for Deviations {
    const KIND: super::ParamKind = super::ParamKind::Text;

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let number = text.parse().ok().map(Self);
        number
            .filter(|s| s.0.is_finite() && s.0 > 0.0)
            .ok_or_else(|| "a number above 0, for example 3".into())
    }

    fn print(&self) -> String {
        self.0.to_string()
    }
}

params! {
    /// What `patching` is asked.
    pub struct PatchingParams {
        /// the corrupted prompt; the run's own prompt is the clean one; without a corrupted prompt, noise is added to the subject
        corrupt: Option<String>,
        /// the text in the prompt whose embeddings get noise (last occurrence), instead of a corrupted prompt; by default everything after the first token
        subject: Option<String>,
        /// the activation that is patched: resid: the residual stream entering a block; attn, mlp: the attention or MLP output (all three by layer and position); heads: a head's output (by layer and head)
        site: PatchKind = "resid",
        /// denoise: clean activations are patched into the corrupted run; noise: corrupted activations into the clean run
        way: PatchDirection = "denoise",
        /// difference: logit difference between the answer and the other answer; probability: of the answer; kl: KL divergence from the clean run, nats; auto: difference, and with noise on a subject probability
        metric: PatchingMeasure = "auto",
        /// the clean run's answer, or two answers as " Ann" - " Bob"; by default the top prediction of each run
        answer: Option<String>,
        /// how positions of the two prompts are paired: length: one by one, and prompts of unequal length are refused; ends: the common beginning and the common end, and what lies between from its end
        align: Pairing = "length",
        /// how many layers around the cell's are patched together (attn and mlp; causal tracing used 10)
        window: Count<1, 1000> = "1",
        /// with site=heads, the positions that are patched: all from the first difference on, last, or one position
        positions: HeadsAt = "all",
        /// standard deviation of the noise on the subject, as a multiple of that of the entries of its own embeddings, as in ROME
        sigma: Deviations = "3",
        /// how many noise samples are drawn; every number is the mean over them
        samples: Count<1, 1000> = "10",
        /// the control, a random change of equal size in the same place: top: for the strongest cells, in a note; random: the grid of the control alone
        control was "null": Control = "top",
        /// a JSON file of clean and corrupted prompts instead of the run's own text; every number is the mean over the pairs
        pairs: Option<PathBuf>,
        /// yes: the corrupted prompt, and every prompt of the file, is one user turn of the chat template
        chat: bool,
    }
}

impl PatchingParams {
    /// Whether the corrupted run is the clean run with noise.
    fn noised(&self) -> bool {
        self.pairs.is_none() && self.corrupt.is_none()
    }
}

pub struct Patching;

impl Measurement for Patching {
    type Params = PatchingParams;
    const NAME: &'static str = "patching";
    const ABOUT: &'static str = "Activation patching: how far each activation of a clean run, put into a corrupted run, restores the answer; by layer and position, or by head";
    const SOURCE: &'static str = "activation patching, causal tracing: Meng et al. 2022 (2202.05262), Zhang and Nanda 2023 (2309.16042)";
    const READS: Reads<PatchingParams> = Reads::TextWhere(|params| params.pairs.is_none());
    const READS_END: bool = true;

    fn cost(params: &PatchingParams, tokens: usize, card: &Card) -> Option<SweepCost> {
        // The number of pairs is unknown before the file is read.
        if params.pairs.is_some() {
            return None;
        }
        let samples = if params.noised() { params.samples.0 } else { 1 };
        let columns = match params.site {
            PatchKind::Heads => card.heads,
            PatchKind::Resid | PatchKind::Attn | PatchKind::Mlp => tokens,
        };
        // A trial runs from its own layer and position on: a quarter of a pass on average.
        Some(SweepCost {
            passes: card.layers * columns * samples,
            tokens: tokens.div_ceil(4),
        })
    }

    fn measure(params: &PatchingParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let mut plan = plan::PatchingPlan::read(params, run, lab)?;
        let found = plan.measure(run, lab)?;
        let controls = match plan.strongest_with_controls(run, lab, &found) {
            // The sweep is done. A user who stops now does not want to wait for the controls, so the figure comes without them.
            Err(Error::Cancelled) => {
                lab.cancel.store(false, Ordering::Relaxed);
                None
            }
            controls => Some(controls?),
        };
        let shown = controls.as_deref().unwrap_or_default();
        let late = controls
            .is_none()
            .then_some("stopped before the controls were measured");
        Ok(figure::draft(run, lab, &plan, &found, shown).notes(late.map(String::from)))
    }
}
