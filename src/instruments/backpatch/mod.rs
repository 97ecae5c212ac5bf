//! Back-patching: is the answer given when a later layer's state is copied back into an earlier layer?
//!
//! A two-hop question ("The capital of the country of X is") fails when the first hop is resolved after the layers that could
//! have used it. The state that left a source layer overwrites the one that left a target layer at the same position, once, and
//! the model continues from there (Biran et al. 2024, 2406.12775, section 6). Three figures: the grid of pairs for one
//! question, the trace of the entities over layers, and the table over a file of questions. Invariant: every rate that takes
//! the best of many pairs is called an oracle's, and is shown with its controls. To add a figure, add a module with a function
//! that makes it and a variant of [`BackpatchView`].

mod grid;
pub mod layer_pairs;
mod table;
mod trace;
pub mod two_hop;

use std::path::PathBuf;

use candle_core::Tensor;

use super::params::{Count, ParamKind, ParameterValue, choices, params};
use super::{Draft, Measurement, Reads};
use crate::error::{Error, Result};
use crate::instruments::backpatch::layer_pairs::WantedAnswer;
use crate::instruments::backpatch::two_hop::{HopPlace, last_token_of};
use crate::instruments::params::Position;
use crate::lab::Lab;
use crate::lab::pairs::span_of;
use crate::lab::run::Run;
use crate::lab::trials::SweepCost;
use crate::model::Card;

choices! {
    /// The figure to make of one question.
    pub enum BackpatchView { Pairs = "pairs", Trace = "trace" }
}

choices! {
    /// What counts as a success.
    pub enum SuccessRule { Auto = "auto", Probability = "probability", Written = "success" }
}

choices! {
    /// The norm of the vectors that are patched in.
    pub enum VectorLength { Own = "own", Replaced = "replaced" }
}

choices! {
    /// Which grid is drawn.
    pub enum BackpatchGrid { Own = "all" | "both" | "beside", Matched = "matched", Unrelated = "unrelated", Random = "random" }
}

/// The positions at which states are taken and overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchPlace {
    /// The entity if one is given, else the last token; for a file, both.
    Auto,
    /// The entity and the last token of every question of a file.
    Both,
    /// The last token of the entity.
    Entity,
    /// The last token.
    Last,
    At(Position),
}

impl ParameterValue for PatchPlace {
    const KIND: ParamKind = ParamKind::Text;

    fn parse(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "both" => Ok(Self::Both),
            "entity" => Ok(Self::Entity),
            "last" => Ok(Self::Last),
            text => Position::parse(text).map(Self::At),
        }
    }

    fn print(&self) -> String {
        match self {
            Self::Auto => "auto".into(),
            Self::Both => "both".into(),
            Self::Entity => "entity".into(),
            Self::Last => "last".into(),
            Self::At(position) => position.print(),
        }
    }
}

params! {
    /// What `backpatch` is asked.
    pub struct BackpatchParams {
        /// pairs: the grid of source and target layers; trace: at which layer the bridge entity and the answer can be read; a file of questions gives a table
        show: BackpatchView = "pairs",
        /// the answer, with the space it begins with; several spellings are separated by |; by default the run's top prediction
        answer: Option<String>,
        /// the bridge entity between the two hops, spellings separated by |, for the trace
        bridge: String,
        /// the text in the prompt whose last token ends the first hop (last occurrence)
        entity: Option<String>,
        /// the position of the patch: last, entity, or a number; auto: the entity if one is given, else the last token, and both for a file
        position: PatchPlace = "auto",
        /// probability: of the answer's first tokens, and a success if they are the top prediction; success: the answer is in the generated text; auto: success for a file of questions, else probability
        measure: SuccessRule = "auto",
        /// how many tokens are generated, for success
        tokens: Count<1, 200> = "10",
        /// own: states are patched as they are; replaced: they are scaled to the norm of what they replace
        length: VectorLength = "own",
        /// the controls: matched: the states of the same prompt about another entity; unrelated: an unrelated text's states; random: random numbers of the same norm. all: the run's own grid, with the controls inside every cell; else the grid of that control alone
        control was "null": BackpatchGrid = "all",
        /// the matched prompt: the same question about another entity; without one the entity gets noise (3 standard deviations of its own embeddings, 8 draws)
        matched: Option<String>,
        /// the text in the prompt that gets noise for the matched control (last occurrence); by default the entity, or else the last word whose noise takes much from the answer
        subject: Option<String>,
        /// the unrelated prompt whose states are the control; by default a text that the model generates
        unrelated: Option<String>,
        /// yes: the unrelated prompt, and every prompt of a file of questions, is one user turn of the chat template; the reader stays as it is
        chat: bool,
        /// for the trace: the target prompt of the Patchscope that reads states; its placeholder is overwritten
        reader: String = "cat -> cat ; Tokyo -> Tokyo ; gold -> gold ; x ->",
        /// the placeholder of the reader: the text whose last token is overwritten (last occurrence)
        placeholder was "slot": String = "x",
        /// a JSON file of two-hop questions instead of the run's own text; gives a table of counts by case
        questions: Option<PathBuf>,
    }
}

pub struct Backpatch;

impl Measurement for Backpatch {
    type Params = BackpatchParams;
    const NAME: &'static str = "backpatch";
    const ABOUT: &'static str = "Back-patching: a later layer's hidden state patched into an earlier layer, and whether the answer then comes, for every pair of layers";
    const SOURCE: &'static str = "back-patching: Biran et al. 2024 (2406.12775)";
    const READS: Reads<BackpatchParams> = Reads::TextWhere(|params| params.questions.is_none());
    const READS_END: bool = true;

    fn cost(params: &BackpatchParams, tokens: usize, card: &Card) -> Option<SweepCost> {
        // The number of questions is unknown before the file is read, and the trace is short.
        if params.questions.is_some() || params.show == BackpatchView::Trace {
            return None;
        }
        let read = match (params.position, &params.entity) {
            (PatchPlace::Last, _) | (PatchPlace::Auto, None) => 1,
            (PatchPlace::Auto | PatchPlace::Both | PatchPlace::Entity | PatchPlace::At(_), _) => {
                tokens
            }
        };
        // Rows join the pass at their target layer, so on average they run through a little over half of the blocks, at one
        // position and those after.
        Some(SweepCost {
            passes: 4 * card.layers * card.layers,
            tokens: read.div_ceil(2) + params.tokens_to_generate().unwrap_or(0),
        })
    }

    fn measure(params: &BackpatchParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        match (&params.questions, params.show) {
            (Some(file), _) => table::table(params, file, run, lab),
            (None, BackpatchView::Trace) => trace::trace(params, run, lab),
            (None, BackpatchView::Pairs) => grid::pairs(params, run, lab),
        }
    }
}

impl BackpatchParams {
    /// How many tokens are generated in every trial; none if the next token decides.
    fn tokens_to_generate(&self) -> Option<usize> {
        let written = match self.measure {
            SuccessRule::Written => true,
            SuccessRule::Auto => self.questions.is_some(),
            SuccessRule::Probability => false,
        };
        written.then_some(self.tokens.0)
    }

    /// The places that `position` means for a file.
    fn positions_of_file(&self) -> Result<Vec<HopPlace>> {
        match self.position {
            PatchPlace::Auto | PatchPlace::Both => Ok(vec![HopPlace::Entity, HopPlace::Last]),
            PatchPlace::Entity => Ok(vec![HopPlace::Entity]),
            PatchPlace::Last => Ok(vec![HopPlace::Last]),
            PatchPlace::At(position) => {
                let expected = "last, entity or auto (both), because the positions differ between the questions of a file";
                Err(Error::argument("position", position.print(), expected))
            }
        }
    }

    /// The position that the parameter `position` means in a run.
    fn position(&self, run: &Run, lab: &Lab) -> Result<usize> {
        let tokens = run.tokens.len();
        match (self.position, &self.entity) {
            (PatchPlace::Entity, None) => {
                let expected = "a text of the prompt in `entity`; its last token is used";
                Err(Error::argument("position", "entity", expected))
            }
            (PatchPlace::Auto | PatchPlace::Entity, Some(entity)) => {
                last_token_of(lab, &run.tokens, "entity", entity)
            }
            (PatchPlace::Auto, None) | (PatchPlace::Last, _) => Ok(tokens.saturating_sub(1)),
            (PatchPlace::At(position), _) => position.within(tokens),
            (PatchPlace::Both, _) => {
                let expected =
                    "last, entity, auto or a position; `both` is for a file of questions";
                Err(Error::argument("position", "both", expected))
            }
        }
    }

    /// The answer given as a parameter, or the run's top prediction.
    fn wanted_answer(&self, run: &Run, lab: &mut Lab) -> Result<WantedAnswer> {
        let tokens = self.tokens_to_generate();
        match &self.answer {
            None => {
                let best = lab.top_prediction(run)?;
                WantedAnswer::top_prediction(lab, "answer", best, tokens)
            }
            Some(text) => WantedAnswer::new(lab, "answer", &spellings(text), tokens),
        }
    }

    /// The states of the matched control at a position, by draw and layer, and what they are; none where the prompt has no word that
    /// could be another one.
    fn matched_states(
        &self,
        run: &Run,
        position: usize,
        wanted: &WantedAnswer,
        lab: &mut Lab,
    ) -> Result<(Vec<Vec<Tensor>>, String)> {
        if let Some(text) = &self.matched {
            let other = Run::plain(lab.model.encode(text, self.chat)?);
            // As far from the end, because what differs stands before.
            let back = run.tokens.len() - 1 - position;
            let at = other.tokens.len().checked_sub(back + 1).ok_or_else(|| {
                let expected = "a prompt that goes on after the entity as the run does";
                Error::argument("matched", text, expected)
            })?;
            let states = layer_pairs::block_outputs(lab, &other, at)?;
            let about = format!(
                "{} (state at {})",
                quoted(lab, &other.tokens),
                lab.visible(other.tokens[at])
            );
            return Ok((vec![states], about));
        }
        let given = self.subject.as_ref().or(self.entity.as_ref());
        let span = match given {
            Some(text) => Some(span_of(lab, &run.tokens, "subject", text)?),
            None => lab.key_word(run, &wanted.firsts)?,
        };
        let Some(span) = span.filter(|span| span.start <= position) else {
            return Ok((Vec::new(), String::new()));
        };
        let states = lab.noised_states(run, &span, position)?;
        let why = if given.is_some() {
            ""
        } else {
            ", the last word whose noise takes much from the answer; subject= names another, matched= a prompt"
        };
        let about = format!(
            "the same prompt with noise on {} ({} draws{why})",
            lab.visibles(run.tokens[span].iter().copied()),
            states.len()
        );
        Ok((states, about))
    }

    /// The unrelated run whose states are the control.
    fn unrelated_run(&self, run: &Run, lab: &mut Lab) -> Result<Run> {
        match &self.unrelated {
            None => lab.unrelated(run.seed, run.tokens.len().clamp(2, 32)),
            Some(text) => Ok(Run::plain(lab.model.encode(text, self.chat)?)),
        }
    }

    fn scales_norm(&self) -> bool {
        self.length == VectorLength::Replaced
    }
}

/// Splits texts separated by `|`.
fn spellings(text: &str) -> Vec<String> {
    text.split('|')
        .filter(|t| !t.is_empty())
        .map(ToString::to_string)
        .collect()
}

/// A text as one line, for notes.
fn quoted(lab: &Lab, tokens: &[u32]) -> String {
    let bytes: Vec<u8> = tokens.iter().flat_map(|t| lab.model.bytes(*t)).collect();
    format!("{:?}", crate::text::plain(&bytes))
}

/// Tokens abbreviated for figures: the first one, and how many more.
fn spelled(lab: &Lab, tokens: &[u32]) -> String {
    match tokens {
        [] => String::new(),
        [one] => lab.visible(*one),
        [first, rest @ ..] => format!("{} and {} more", lab.visible(*first), rest.len()),
    }
}
