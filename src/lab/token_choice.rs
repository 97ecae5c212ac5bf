//! The next token of a text and of the unedited run beside it: how it is chosen, and what is told of the choice.
//!
//! Invariant: on a device the strongest token is found where the logits are, and what is told of it crosses with it; to draw one, the whole
//! row comes to the host, where the same numbers draw the same token as on a CPU. To tell something else, add it to [`Choice`] in both
//! ways here.

use candle_core::Tensor;

use super::lab::Lab;
use super::readout::RowStats;
use super::sample::{NO_RANK, Sampling, kl, log_probs, rank};
use super::token::{BaselineMode, Choice, Other};
use super::unembed::drawn_from;
use crate::error::Result;
use crate::model::host::ToHost;
use crate::model::kernels::vocabulary::{OtherRow, RowQuestion};
use crate::model::network::readout::{ReadoutRequest, StatisticsOn, StrongestLookup};

/// Two runs before their next token.
pub(super) struct BeforeToken<'a> {
    /// Where it will stand.
    pub position: usize,
    pub sampling: Sampling,
    pub beside: BaselineMode,
    /// The run's logits, `[vocab]`.
    pub logits: &'a Tensor,
    /// The unedited run's, and whether its own text has ended.
    pub unedited: Option<(&'a Tensor, bool)>,
}

/// The next token of both runs, before it is read in.
pub(super) struct NextToken {
    pub choice: Choice,
    /// That of the unedited run.
    pub unedited: u32,
    /// The distribution that it was drawn from, where its logits stayed on the device.
    pub before: Option<RowStats>,
    /// Those logits, where they came to the host.
    pub row: Vec<f32>,
}

/// Which token a text goes on with.
struct PickedToken {
    id: u32,
    /// With which one the unedited run does.
    unedited: u32,
    /// What the other run says.
    other: Option<Other>,
}

impl BeforeToken<'_> {
    /// Chooses the next token of both runs.
    pub fn choose(&self, lab: &Lab) -> Result<NextToken> {
        match lab.model.transformer.statistics {
            StatisticsOn::Device if self.sampling.is_greedy() => self.strongest(lab),
            StatisticsOn::Device | StatisticsOn::Host => self.draw(),
        }
    }

    /// The strongest tokens of both runs, with what is told of them, in one read-back of some dozens of numbers.
    fn strongest(&self, lab: &Lab) -> Result<NextToken> {
        let transformer = &lab.model.transformer;
        let unedited = self.unedited.map(|(logits, _)| logits);
        let rows: Vec<&Tensor> = std::iter::once(self.logits).chain(unedited).collect();
        let rows = Tensor::stack(&rows, 0)?;
        let numbers: Vec<usize> = (0..rows.dim(0)?).collect();
        let own = RowQuestion {
            against: unedited.map(|_| OtherRow::Row(1)),
            ..drawn_from()
        };
        let other = RowQuestion {
            row: 1,
            ..RowQuestion::default()
        };
        let lookup = |of: &usize| StrongestLookup {
            of: *of,
            known: transformer.head.out,
            rows: &numbers,
        };
        let lookups: Vec<StrongestLookup> = numbers.iter().map(lookup).collect();
        let request = ReadoutRequest {
            questions: &[own, other][..numbers.len()],
            known: lab.model.known_tokens(),
            lookups: &lookups,
            ..ReadoutRequest::default()
        };
        let mut read = transformer.logit_statistics(&rows, &request)?;
        let looked = read.looked;
        let of = |row: usize, id: u32| {
            let found = looked.iter().find(|token| token.id == id);
            found.map_or((f32::NAN, NO_RANK), |token| token.rows[row])
        };
        let logprob = |row: usize, id: u32| {
            let total = read.sums[row].total;
            (f64::from(of(row, id).0) - total) as f32
        };
        let wanted = looked[0].id;
        let theirs = looked.get(1).map_or(wanted, |token| token.id);
        let picked = self.pick(wanted, theirs, &logprob);
        let (logit, rank) = of(0, picked.id);
        let choice = Choice {
            position: self.position,
            id: picked.id,
            logprob: logprob(0, picked.id),
            rank,
            kl: unedited.map(|_| read.sums[0].kl as f32),
            other: picked.other,
        };
        let mut sums = read.sums.swap_remove(0);
        sums.tokens = vec![(picked.id, logit, rank)];
        Ok(NextToken {
            choice,
            unedited: picked.unedited,
            before: Some(RowStats::of(sums, true, Vec::new())),
            row: Vec::new(),
        })
    }

    /// Draws the next token of both runs on the host.
    fn draw(&self) -> Result<NextToken> {
        let row = self.logits.host_vec1::<f32>()?;
        let own = log_probs(&row);
        let wanted = self.sampling.choose(&row, self.position)?;
        let (picked, kl) = match self.unedited {
            None => (self.pick(wanted, wanted, &|_, id| own[id as usize]), None),
            Some((logits, ended)) => {
                let theirs = logits.host_vec1::<f32>()?;
                let base = log_probs(&theirs);
                let theirs = if self.beside.is_lockstep() && !ended {
                    self.sampling.choose(&theirs, self.position)?
                } else {
                    wanted
                };
                let rows = [&own, &base];
                let logprob = |row: usize, id: u32| rows[row][id as usize];
                (self.pick(wanted, theirs, &logprob), Some(kl(&base, &own)))
            }
        };
        let choice = Choice {
            position: self.position,
            id: picked.id,
            logprob: own[picked.id as usize],
            rank: rank(&own, picked.id),
            kl,
            other: picked.other,
        };
        Ok(NextToken {
            choice,
            unedited: picked.unedited,
            before: None,
            row,
        })
    }

    /// Which token the text goes on with, of the run's own choice and the unedited run's; `logprob` is told the row, 1 being the
    /// unedited run's.
    fn pick(&self, wanted: u32, theirs: u32, logprob: &dyn Fn(usize, u32) -> f32) -> PickedToken {
        let Some((_, ended)) = self.unedited else {
            return PickedToken {
                id: wanted,
                unedited: wanted,
                other: None,
            };
        };
        let unedited = if self.beside.is_lockstep() && !ended {
            theirs
        } else {
            wanted
        };
        let other = |id: u32, row: usize| {
            let logprob = logprob(row, id);
            Some(Other { id, logprob })
        };
        let (id, other) = match self.beside {
            BaselineMode::Nothing | BaselineMode::SameText => (wanted, None),
            BaselineMode::OwnText if ended => (wanted, None),
            BaselineMode::OwnText => (wanted, other(unedited, 1)),
            BaselineMode::Forced => (unedited, other(wanted, 0)),
        };
        PickedToken {
            id,
            unedited,
            other,
        }
    }
}
