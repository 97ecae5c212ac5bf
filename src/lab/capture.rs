//! Captures: what one row of a pass leaves behind, and the types with which a caller asks for it.
//!
//! Invariant: a capture is plain data about consecutive positions of one run. A position has the same numbers whether it was
//! read with the whole text or was the newest position of a growing text; an instrument that makes a figure of a capture cannot
//! tell the two apart. Logits are reduced to statistics where they are computed, and only the statistics are kept, unless
//! [`Output::whole`] asks for whole rows. To keep something else, add a field to [`Needs`] or [`Output`] and one to
//! [`Capture`].

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use candle_core::Tensor;

use super::circuit::states::SenderChanges;
use super::gradient::Gradient;
use super::readout::{ReferenceRows, RowRequest, RowStats, Tokens};
use super::run::Run;
use crate::edit::receipt::Receipt;
use crate::error::{Error, Result};
use crate::figure::Check;
use crate::model::network::site::{Address, Site};

/// What is kept of every captured position.
#[derive(Clone, Default)]
pub struct Needs {
    /// Addresses whose values are recorded.
    pub record: Vec<Address>,
    /// States of the residual stream that are read through the unembedding, and the statistics wanted of each.
    pub read: Option<Readout>,
    /// Which of those states, by their place in [`Readout::at`], are read in the pass that writes a token; all where this is none.
    /// The others are recorded in that pass, and [`Lab::read_later`](super::Lab::read_later) reads them.
    pub at_once: Option<Range<usize>>,
    /// Whether statistics of the distribution that each token was drawn from are wanted.
    pub before: bool,
}

/// The positions after which statistics of the model's own output are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum After {
    /// After no position.
    #[default]
    Nothing,
    /// After the last so many positions of a text.
    Last(usize),
    /// After each position of this range.
    Each(Range<usize>),
}

/// Which statistics of the model's own output are wanted, and after which positions. Logits are reduced to these statistics
/// where they are computed; only the statistics come back.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// After which positions.
    pub after: After,
    /// The number of top predictions; at least one.
    pub top: usize,
    /// Tokens whose statistics are wanted after every position.
    pub tokens: Vec<u32>,
    /// Instead of [`Output::tokens`], one token for each position: a list for each row. A list that is shorter than the
    /// positions belongs to the last positions.
    pub each: Vec<Vec<u32>>,
    /// Whether the ranks of the tokens of interest are computed.
    pub ranks: bool,
    pub entropy: bool,
    /// Whole rows of reference logits, by row and position: KL from them and the largest absolute difference of logits are
    /// computed. Where the pass has more rows than this list, the list is repeated.
    pub kl: Option<Arc<Vec<Vec<RowStats>>>>,
    /// Whether whole rows of logits come back, `[vocab]` each.
    pub whole: bool,
}

impl Output {
    /// The `count` top predictions after the last position.
    pub fn top(count: usize) -> Self {
        Self {
            after: After::Last(1),
            top: count,
            ..Self::default()
        }
    }

    /// The top prediction after the last position, and the statistics of these tokens there.
    pub fn tokens(tokens: &[u32]) -> Self {
        Self {
            tokens: tokens.to_vec(),
            ..Self::top(1)
        }
    }

    /// Whole rows of logits, `[vocab]` each, after these positions.
    pub fn whole(after: After) -> Self {
        Self {
            after,
            whole: true,
            ..Self::default()
        }
    }

    /// The request for one row at the position that lies `back` positions before the last one read.
    pub(crate) fn ask(&self, row: usize, back: usize) -> RowRequest<'_> {
        let tokens = match self.each.get(row) {
            Some(each) => behind(each, back),
            None => &self.tokens,
        };
        let base = self.kl.as_ref();
        let base = base.and_then(|kl| kl.get(row % kl.len().max(1)));
        let against = base.map(|base| ReferenceRows {
            rows: behind(base, back),
            of: &[0],
        });
        RowRequest {
            top: self.top.max(1),
            tokens: Tokens::Same(tokens),
            ranks: self.ranks,
            entropy: self.entropy,
            against: against.filter(|against| !against.rows.is_empty()),
            keep: self.whole,
        }
    }
}

/// The entry `back` places before the end of a list, as a slice; empty where the list is shorter.
fn behind<T>(list: &[T], back: usize) -> &[T] {
    let at = list.len().checked_sub(back + 1);
    at.map_or(&[], |at| &list[at..=at])
}

/// Whose mean and variance the final norm uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NormOf {
    /// The statistics of the state that is read.
    #[default]
    Own,
    /// The statistics of the model's last state at the same position. The result is what a component contributes to the model's
    /// output, rather than what the component alone would predict.
    Final,
}

/// Linear maps applied to states before the final norm, such as those of a tuned lens.
pub trait StateMaps {
    /// Refuses a state that can have no map.
    ///
    /// # Errors
    ///
    /// Names the states that can be read.
    fn check(&self, at: Address) -> Result<()>;

    /// The rows of a state, `[n, d_model]`, after its map; unchanged if the state has no map.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    fn map(&self, at: Address, rows: &Tensor) -> Result<Tensor>;
}

/// States of the residual stream that are read through the final norm and the unembedding, and the vocabulary statistics that
/// are wanted of each.
#[derive(Clone, Default)]
#[allow(clippy::struct_excessive_bools)] // questions that have nothing to do with each other
pub struct Readout {
    /// The states, in the order of the results.
    pub at: Vec<Address>,
    /// Whose mean and variance the final norm uses.
    pub norm: NormOf,
    /// The linear maps that states go through first; none for the plain logit lens.
    pub maps: Option<Rc<dyn StateMaps>>,
    /// Whether the reading without maps is wanted as well.
    pub plain: bool,
    /// The number of top predictions.
    pub top: usize,
    /// Tokens whose statistics are wanted in every row.
    pub tokens: Vec<u32>,
    /// Whether the token of interest is instead the model's own top prediction at each position.
    pub answer: bool,
    /// Whether the ranks of the tokens of interest are computed.
    pub ranks: bool,
    pub entropy: bool,
    /// Whether KL from the model's own output is computed.
    pub kl: bool,
}

/// The vocabulary statistics of the states of a [`Readout`].
#[derive(Clone, Debug, Default)]
pub struct StateStats {
    /// By state, in the order of [`Readout::at`], then by position; empty for a state that was not read yet.
    pub layers: Vec<Vec<RowStats>>,
    /// The same states read without the maps, if [`Readout::plain`] asked for it and there are maps.
    pub plain: Vec<Vec<RowStats>>,
    /// The output of the last block, read with the statistics of its own norm, by position.
    pub finals: Vec<RowStats>,
    /// The token called the answer at each position: the model's own top prediction, or that of another run ([`Run::answers`]).
    pub answers: Vec<u32>,
}

/// The statistics that stand for a row that was not computed.
static NOTHING: RowStats = RowStats {
    top: Vec::new(),
    tokens: Vec::new(),
    entropy: f32::NAN,
    kl: f32::NAN,
    gap: f32::NAN,
    total: f64::NAN,
    logits: Vec::new(),
};

/// What one row of a pass leaves behind.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    /// The run (tokens, edits and seed) that the capture belongs to.
    pub run: Arc<Run>,
    pub positions: Range<usize>,
    /// Recorded values, `[positions, width]`; the attention sites have a heads dimension before. Positions ascend. The dtype is
    /// the run's, or f32 where they were captured for a figure.
    pub recorded: HashMap<Address, Tensor>,
    /// The statistics of the states that were read through the unembedding.
    pub read: StateStats,
    /// For every position, statistics of the distribution that its token was drawn from, if they were asked for:
    /// [`RowStats::tokens`] holds the token itself, next to entropy and top predictions. None for the first token of a text.
    pub before: Vec<Option<RowStats>>,
    /// Statistics of the model's own output after each position that was asked for.
    pub output: Vec<RowStats>,
    /// Receipts of the edits; only for a row that was read as a whole, since a row that shares positions with its run does not
    /// compute those again.
    pub receipts: Vec<Receipt>,
    /// The tokens with which the row was continued greedily.
    pub tail: Vec<u32>,
    /// Whether the continuation was stopped because its logits were no longer finite.
    pub silent: bool,
    /// Whether the residual stream, or the change made by one of the row's own edits, is not finite: a failed trial (see
    /// [`super::pass::Pass::lenient`]).
    pub broken: bool,
    /// The gradient that was asked for.
    pub gradient: Option<Gradient>,
    /// What senders wrote under a circuit, where that was asked for.
    pub changes: Option<Arc<SenderChanges>>,
    /// The comparison of the last residual state, read through the unembedding, with the model's own logits. None if that state
    /// was not read or an edit acts after it.
    pub check: Option<Check>,
}

impl Needs {
    /// Needs nothing but a reading through the unembedding.
    pub fn of(readout: Readout) -> Self {
        Self {
            read: Some(readout),
            ..Self::default()
        }
    }
}

impl Needs {
    /// Whether some states are left to be read after the pass that writes a token.
    pub fn is_partial(&self) -> bool {
        let readout = self.read.as_ref();
        readout.is_some_and(|readout| self.at_once(readout).len() < readout.at.len())
    }

    /// The places of the states of a readout that are read in the pass that writes a token.
    pub(super) fn at_once(&self, readout: &Readout) -> Range<usize> {
        let all = readout.at.len();
        let some = self.at_once.clone().unwrap_or(0..all);
        some.start.min(all)..some.end.min(all)
    }

    /// These needs with only some states read in the pass that writes a token: the places of [`Readout::at`]. The others are
    /// recorded, with the last block's stream, for [`Lab::read_later`](super::Lab::read_later).
    #[must_use]
    pub fn with_states_at_once(mut self, places: Range<usize>, layers: usize) -> Self {
        if let Some(readout) = &self.read {
            self.record.extend(&readout.at);
            self.record.push(Site::ResidPost.at(layers - 1));
            self.record.sort_unstable();
            self.record.dedup();
            self.at_once = Some(places);
        }
        self
    }
}

impl Capture {
    /// The captures of consecutive positions of one text as one, with what they recorded and nothing that was read. All recorded
    /// the same addresses, `[positions, width]`.
    ///
    /// # Errors
    ///
    /// When the recorded values do not fit together.
    pub fn join(parts: &[Self]) -> Result<Self> {
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
            return Ok(Self::default());
        };
        let mut joined = Self::of(last.run.clone(), first.positions.start..last.positions.end);
        for at in first.recorded.keys() {
            let rows = parts.iter().map(|part| part.get(*at));
            let rows = rows.collect::<Result<Vec<_>>>()?;
            joined.recorded.insert(*at, Tensor::cat(&rows, 0)?);
        }
        joined.receipts.clone_from(&last.receipts);
        Ok(joined)
    }

    /// An empty capture of these positions.
    pub fn of(run: Arc<Run>, positions: Range<usize>) -> Self {
        Self {
            run,
            positions,
            recorded: HashMap::new(),
            read: StateStats::default(),
            before: Vec::new(),
            output: Vec::new(),
            receipts: Vec::new(),
            tail: Vec::new(),
            silent: false,
            broken: false,
            gradient: None,
            changes: None,
            check: None,
        }
    }

    /// The statistics of the model's own output after the last position asked for; without any, statistics that are not finite.
    pub fn last(&self) -> &RowStats {
        self.output.last().unwrap_or(&NOTHING)
    }

    /// The whole row of logits after that position, `[vocab]`; empty unless [`Output::whole`] asked for it.
    pub fn logits(&self) -> &[f32] {
        &self.last().logits
    }

    /// Whether all numbers of the capture are finite; those of a trial may not be.
    pub fn is_finite(&self) -> bool {
        !self.broken && self.output.iter().all(RowStats::is_finite)
    }

    /// Whether every one of these addresses was recorded.
    pub fn holds(&self, wanted: &[Address]) -> bool {
        wanted.iter().all(|at| self.recorded.contains_key(at))
    }

    /// The memory that the capture holds, in bytes.
    pub fn bytes(&self) -> usize {
        let size = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
        self.recorded.values().map(size).sum()
    }

    /// The recorded value at an address, shaped as in [`crate::model::network::site::SITES`].
    ///
    /// # Errors
    ///
    /// When the address was not recorded.
    pub fn get(&self, at: Address) -> Result<&Tensor> {
        self.recorded.get(&at).ok_or_else(|| Error::Refused {
            address: at.to_string(),
            why: "it was not recorded. Ask for it before the run.".into(),
        })
    }
}

impl StateStats {
    /// Whether every state was read.
    pub fn is_whole(&self) -> bool {
        self.layers
            .iter()
            .all(|rows| rows.len() == self.finals.len())
    }

    /// The convergence layer at the `i`th position read: the first state from which on the top prediction equals the model's
    /// own. None only if even the last state's top prediction differs from the model's.
    pub fn settles(&self, i: usize) -> Option<usize> {
        let answer = self.finals.get(i)?.first().0;
        let agree = |l: &usize| {
            self.layers[*l]
                .get(i)
                .is_some_and(|s| s.first().0 == answer)
        };
        (0..self.layers.len()).rev().take_while(agree).last()
    }
}
