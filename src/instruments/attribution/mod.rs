//! Attribution patching: activation patching of every node at once, to first order, beside the real thing for a few.
//!
//! `(a_corrupted − a_clean) · ∂metric/∂a` in the clean run, for every head, MLP, neuron or position: one forward pass of each run and one backward
//! pass (Nanda 2023; Syed et al. 2023, 2310.10348; AtP* of Kramár et al. 2024, 2403.00745). For queries and keys the QK fix of AtP* recomputes the
//! softmax with the corrupted values and multiplies the change of the probabilities with the gradient there. Invariant: the strongest nodes and as many random
//! ones are patched as well, and their rank correlation stands beside the scores; so do the scores with an unrelated run's values. To attribute another node, add a word to [`NodeKind`]
//! and its place in [`nodes`].

pub mod exact;
mod figure;
pub mod nodes;
pub mod scores;

use std::path::PathBuf;

use exact::compared;
use scores::node_scores;

use super::params::{Count, choices, params};
use super::{Draft, Measurement, Reads};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::pairs::{MetricKind, PairSource, measured};
use crate::lab::run::Run;
use crate::lab::trials::SweepCost;
use crate::model::Card;

choices! {
    /// What is attributed.
    pub enum NodeKind {
        /// The output of each head, before the output projection, over all aligned positions.
        Heads = "heads",
        /// Each head's queries.
        Queries = "queries",
        /// Each key-value head's keys.
        Keys = "keys",
        /// Each key-value head's values.
        Values = "values",
        /// The stream that enters a block, by position.
        Resid = "resid",
        /// The attention output, by position.
        Attn = "attn",
        /// The MLP output, by position.
        Mlp = "mlp",
        /// Single neurons, over all aligned positions.
        Neurons = "neurons",
    }
}

params! {
    /// What `attribution` is asked.
    pub struct AttributionParams {
        /// the corrupted prompt; the run's own prompt is the clean one
        corrupt: Option<String>,
        /// the activations: heads: a head's output; queries, keys, values: of a head (of a key-value head); resid: the residual stream entering a block; attn, mlp: the attention or MLP output (these three by layer and position); neurons: single neurons, the strongest
        site: NodeKind = "heads",
        metric: MetricKind,
        /// the clean run's answer, or two answers as " Ann" - " Bob"; by default the top prediction of each run
        answer: Option<String>,
        /// how positions of the two prompts are paired: length: one by one, and prompts of unequal length are refused; ends: the common beginning and the common end, and what lies between from its end
        align: super::patching::Pairing = "length",
        /// how many of the strongest nodes are patched as well, beside as many random ones
        exact: Count<0, 10000> = "10",
        /// yes: for queries and keys, the QK fix of AtP*: the softmax is recomputed with the corrupted values
        fix: bool,
        /// with site=neurons, how many are listed
        top: Count<1, 1000> = "20",
        /// a JSON file of clean and corrupted prompts instead of the run's own text; every number is the mean over the pairs
        pairs: Option<PathBuf>,
        /// yes: the corrupted prompt, and every prompt of the file, is one user turn of the chat template
        chat: bool,
    }
}

pub struct AttributionPatching;

impl Measurement for AttributionPatching {
    type Params = AttributionParams;
    const NAME: &'static str = "attribution";
    const ABOUT: &'static str = "Attribution patching: what putting each activation of a corrupted run into the clean run would change, all of them at once to first order, beside the real patching of a few";
    const SOURCE: &'static str = "attribution patching: Syed et al. 2023 (2310.10348); AtP*: Kramár et al. 2024 (2403.00745)";
    const READS: Reads<AttributionParams> = Reads::TextWhere(|params| params.pairs.is_none());
    const READS_END: bool = true;

    fn cost(params: &AttributionParams, tokens: usize, _card: &Card) -> Option<SweepCost> {
        // The number of pairs is unknown before the file is read.
        params.pairs.is_none().then_some(SweepCost {
            passes: 5 + 2 * params.exact.0,
            tokens,
        })
    }

    fn measure(params: &AttributionParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let attends = matches!(params.site, NodeKind::Queries | NodeKind::Keys);
        if params.fix && !attends {
            let expected =
                "no, or site=queries or site=keys: the fix is of the softmax that they go through";
            return Err(Error::argument("fix", "yes", expected));
        }
        if params.metric == MetricKind::Kl {
            return Err(Error::argument(
                "metric",
                "kl",
                "difference or probability: KL from the clean run is least there, so that its gradient in the clean run is zero",
            ));
        }
        let source = PairSource {
            corrupt: params.corrupt.as_deref(),
            pairs: params.pairs.as_deref(),
            answer: params.answer.as_deref(),
            chat: params.chat,
            ends: params.align == super::patching::Pairing::Ends,
        };
        let runs = source.runs(run, lab)?;
        let pairs = lab.part(0.0..0.2, |lab| measured(lab, params.metric, runs))?;
        let nodes = nodes::Nodes::new(params.site, lab, &pairs)?;
        let found = lab.part(0.2..0.5, |lab| {
            node_scores(lab, &nodes, &pairs, params.fix, run.seed)
        })?;
        let exact = lab.part(0.5..1.0, |lab| {
            compared(lab, &nodes, &pairs, &found, params.exact.0, run.seed)
        })?;
        let mut draft = figure::draft(params, lab, &nodes, &pairs, &found, &exact, run.seed);
        draft.run = params.pairs.as_ref().map(|_| Run {
            seed: run.seed,
            ..Run::default()
        });
        Ok(draft)
    }
}
