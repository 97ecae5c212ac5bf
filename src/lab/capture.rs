//! Captures: what one row of a pass leaves behind, and what may be asked of it.
//!
//! Invariant: a capture is plain data about consecutive positions of one run, and a position has the same numbers whether it was
//! read with the whole text or was the newest one of a growing text; an instrument makes its figure of a capture and cannot
//! tell which it was. Only statistics of vocabularies are kept, reduced where the logits are, unless [`Output::whole`]
//! asks for rows. To keep something else, add a field to [`Needs`] or [`Output`] and one to [`Capture`].

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use candle_core::Tensor;

use super::gradient::Gradient;
use super::readout::{ReferenceRows, RowRequest, RowStats, Tokens};
use super::run::Run;
use crate::edit::receipt::Receipt;
use crate::error::{Error, Result};
use crate::figure::Check;
use crate::model::network::site::Address;

/// What is kept of every position that is captured.
#[derive(Clone, Default)]
pub struct Needs {
    /// Addresses whose rows are recorded.
    pub record: Vec<Address>,
    /// States that are read through the unembedding, and what is asked of them.
    pub read: Option<Readout>,
    /// Whether the distribution that each token was drawn from is wanted.
    pub before: bool,
}

/// After which positions the model's own output is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum After {
    /// After none.
    #[default]
    Nothing,
    /// After the last so many of a text.
    Last(usize),
    /// After each of these.
    Each(Range<usize>),
}

/// Which statistics of the model's own output are wanted, and after which positions. They are reduced where the logits are,
/// and only they come back.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// After which positions.
    pub after: After,
    /// How many of the strongest tokens; one at least.
    pub top: usize,
    /// Tokens of interest, after every position.
    pub tokens: Vec<u32>,
    /// One token a position instead, by row. A list that is shorter than the positions is about the last ones.
    pub each: Vec<Vec<u32>>,
    /// Whether ranks of tokens of interest are counted.
    pub ranks: bool,
    pub entropy: bool,
    /// KL and the largest difference of logits from these, read whole: by row, from the first again where there are more rows
    /// than these, and by position.
    pub kl: Option<Arc<Vec<Vec<RowStats>>>>,
    /// Whether whole rows of logits come back.
    pub whole: bool,
}

impl Output {
    /// The strongest tokens after the last position.
    pub fn top(count: usize) -> Self {
        Self {
            after: After::Last(1),
            top: count,
            ..Self::default()
        }
    }

    /// The strongest token after the last position, and these.
    pub fn tokens(tokens: &[u32]) -> Self {
        Self {
            tokens: tokens.to_vec(),
            ..Self::top(1)
        }
    }

    /// Whole rows of logits.
    pub fn whole(after: After) -> Self {
        Self {
            after,
            whole: true,
            ..Self::default()
        }
    }

    /// What is asked of a row, so many positions before the last one that is read.
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

/// One entry of a list, counted from its end; nothing where it is shorter.
fn behind<T>(list: &[T], back: usize) -> &[T] {
    let at = list.len().checked_sub(back + 1);
    at.map_or(&[], |at| &list[at..=at])
}

/// Whose statistics the final norm uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NormOf {
    /// The statistics of the row that is read.
    #[default]
    Own,
    /// Those of the model's last state at the same position: what a part contributes, not what it would say alone.
    Final,
}

/// Linear maps that states go through before the final norm.
pub trait StateMaps {
    /// Refuses a state that has no map by its nature.
    ///
    /// # Errors
    ///
    /// Says which states are read.
    fn check(&self, at: Address) -> Result<()>;

    /// The rows of a state, `[n, d_model]`, through its map; as they are where there is none.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    fn map(&self, at: Address, rows: &Tensor) -> Result<Tensor>;
}

/// Which states of the stream are read through the final norm and the unembedding, and which statistics of the vocabulary
/// are wanted of each.
#[derive(Clone, Default)]
#[allow(clippy::struct_excessive_bools)] // questions that have nothing to do with each other
pub struct Readout {
    /// The states, in the order in which they come back.
    pub at: Vec<Address>,
    /// Whose statistics the final norm uses.
    pub norm: NormOf,
    /// Through which maps.
    pub maps: Option<Rc<dyn StateMaps>>,
    /// Whether the reading through no map is wanted beside that through maps.
    pub plain: bool,
    /// How many of the strongest tokens.
    pub top: usize,
    /// Tokens of interest, in every row.
    pub tokens: Vec<u32>,
    /// Whether the model's own strongest token at each position is of interest instead.
    pub answer: bool,
    /// Whether ranks are counted.
    pub ranks: bool,
    pub entropy: bool,
    /// KL from the model's own output.
    pub kl: bool,
}

/// What the states of a [`Readout`] say.
#[derive(Clone, Debug, Default)]
pub struct StateStats {
    /// By state, in the order of [`Readout::at`], then by position.
    pub layers: Vec<Vec<RowStats>>,
    /// The states read without the lens's maps, where there are maps and that was asked for.
    pub plain: Vec<Vec<RowStats>>,
    /// The last block's stream with its own norm, by position.
    pub finals: Vec<RowStats>,
    /// What is called the answer at each position: the model's own strongest token, or that of another run ([`Run::answers`]).
    pub answers: Vec<u32>,
}

/// The statistics of a row that was not read.
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
    /// The tokens and edits that it belongs to.
    pub run: Arc<Run>,
    pub positions: Range<usize>,
    /// Recorded values, `[positions, width]` (attention's sites have their heads before), in the order of the positions; in the
    /// dtype of the run, f32 where they were captured for a figure.
    pub recorded: HashMap<Address, Tensor>,
    /// What was read through the unembedding.
    pub read: StateStats,
    /// For every position the distribution that its token was drawn from, where it was asked for: the token itself is
    /// [`RowStats::tokens`], beside entropy and strongest tokens. None for the first token of a text.
    pub before: Vec<Option<RowStats>>,
    /// The model's own output after each position that was asked for.
    pub output: Vec<RowStats>,
    /// What the edits did, in a row that was read whole: what a row shares with its run is not read again.
    pub receipts: Vec<Receipt>,
    /// Tokens that the row was continued with.
    pub tail: Vec<u32>,
    /// Whether the continuation broke off because its numbers were not finite any more.
    pub silent: bool,
    /// Whether its stream, or what an edit of its own did, is not finite: a trial that came to nothing ([`super::pass::Pass::lenient`]).
    pub broken: bool,
    /// The gradient that was asked for.
    pub gradient: Option<Gradient>,
    /// The last state of the stream against the model's own logits, where it was read and no edit acts behind it.
    pub check: Option<Check>,
}

impl Needs {
    /// A reading through the unembedding and nothing else.
    pub fn of(readout: Readout) -> Self {
        Self {
            read: Some(readout),
            ..Self::default()
        }
    }
}

impl Capture {
    /// A capture of nothing yet.
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
            check: None,
        }
    }

    /// The model's own output after the last position that was asked for; numbers that are none where none was.
    pub fn last(&self) -> &RowStats {
        self.output.last().unwrap_or(&NOTHING)
    }

    /// The whole row of logits there, `[vocab]`; empty where it was not asked for.
    pub fn logits(&self) -> &[f32] {
        &self.last().logits
    }

    /// Whether all its numbers are some, as a trial's need not be.
    pub fn is_finite(&self) -> bool {
        !self.broken && self.output.iter().all(RowStats::is_finite)
    }

    /// Whether every address was recorded.
    pub fn holds(&self, wanted: &[Address]) -> bool {
        wanted.iter().all(|at| self.recorded.contains_key(at))
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let size = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
        self.recorded.values().map(size).sum()
    }

    /// A recorded value, shaped as in [`crate::model::network::site::SITES`].
    ///
    /// # Errors
    ///
    /// When they were not asked for.
    pub fn get(&self, at: Address) -> Result<&Tensor> {
        self.recorded.get(&at).ok_or_else(|| Error::Refused {
            address: at.to_string(),
            why: "it was not recorded. Ask for it before the run.".into(),
        })
    }
}

impl StateStats {
    /// The state from which on the strongest token never changes again, at the `i`th position read: the answer is the
    /// model's own, so this is none only where the last state does not give it.
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
