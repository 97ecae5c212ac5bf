//! States of the newest position that are read in the model's own pass over the unembedding: which rows they are, what is asked of
//! them for everybody who looks, and who gets which answer.
//!
//! Invariant: a state is one row, however many look at it; what is asked and what becomes of the answers is that of a whole text
//! ([`StateRows`]). The answer is known after the pass: on the host the logits in which its rank is counted are laid out; on a device
//! it is looked up where they are. To let other states ride along, give them rows here.

use std::ops::Range;

use candle_core::Tensor;

use super::capture::{Needs, NormOf, StateStats};
use super::readout::RowStats;
use super::unembed::StateRows;
use crate::error::{Error, Result};
use crate::figure::Check;
use crate::model::Model;
use crate::model::host::ToHost;
use crate::model::kernels::vocabulary::RowQuestion;
use crate::model::network::readout::{ReadoutRows, StatisticsOn, StrongestLookup};
use crate::model::network::reduced::largest_gap;
use crate::model::network::site::{Address, Site};

/// The rows of a pass.
pub(super) struct LensRows<'a> {
    /// The states, in the order of their rows, which come behind the model's own.
    pub at: Vec<Address>,
    /// Rows whose logits are laid out.
    pub whole: Vec<usize>,
    /// Rows in which the answer is looked up on the device.
    about: Vec<usize>,
    known: usize,
    on: StatisticsOn,
    /// By need.
    by_need: Vec<Option<StateRows<'a>>>,
    /// The row of the last state, where there are any.
    last: usize,
}

/// What the rows say.
#[derive(Default)]
pub(super) struct LensRead {
    /// By need.
    pub states: Vec<StateStats>,
    /// Logits that were laid out.
    pub laid_out: Vec<f32>,
    /// Where those of the last state are among them.
    last: Option<Range<usize>>,
    /// Those on the device.
    kept: Option<Tensor>,
}

impl LensRead {
    /// The largest difference between what the lens reads of the last state and the model's own logits `[vocab]`; none where no state
    /// was read.
    ///
    /// # Errors
    ///
    /// When the device does not give them.
    pub fn check(&self, own: &Tensor, tolerance: f32) -> Result<Option<Check>> {
        if let Some(kept) = &self.kept {
            let error = largest_gap(own, kept)?;
            return Ok(Some(Check { error, tolerance }));
        }
        let Some(last) = self.last.clone() else {
            return Ok(None);
        };
        let own = own.host_vec1::<f32>()?;
        Ok(Some(Check::of(&own, &self.laid_out[last], tolerance)))
    }
}

impl<'a> LensRows<'a> {
    /// The rows that these needs read, behind so many of the model's own.
    ///
    /// # Errors
    ///
    /// When a norm or a map of another kind is asked for, which is none of the model's own product.
    pub fn of(needs: &'a [Needs], model: &Model, own: usize) -> Result<Self> {
        let end = Site::ResidPost.at(model.card.layers - 1);
        let mut at = Vec::new();
        for need in needs {
            let Some(readout) = &need.read else { continue };
            if readout.norm != NormOf::Own || readout.maps.is_some() {
                return Err(Error::Engine("only the plain lens reads new tokens".into()));
            }
            at.extend(&readout.at[need.at_once(readout)]);
            at.push(end);
        }
        at.sort_unstable();
        at.dedup();
        let row = |state: &Address| own + at.binary_search(state).unwrap_or(0);
        let by_need = needs.iter().map(|need| {
            need.read.as_ref().map(|readout| StateRows {
                readout,
                count: 1,
                at: need.at_once(readout),
                states: readout.at[need.at_once(readout)].iter().map(row).collect(),
                finals: row(&end),
            })
        });
        let by_need: Vec<Option<StateRows>> = by_need.collect();
        let about_answers = by_need.iter().flatten().filter(|a| a.readout.answer);
        let mut about: Vec<usize> = about_answers.flat_map(|a| a.states.clone()).collect();
        let on = model.transformer.statistics;
        let last = row(&end);
        if on == StatisticsOn::Host {
            // It is compared with the model's own output.
            about.push(last);
        }
        about.sort_unstable();
        about.dedup();
        let (whole, about) = match on {
            StatisticsOn::Host => (about, Vec::new()),
            StatisticsOn::Device => (Vec::new(), about),
        };
        Ok(Self {
            at,
            whole,
            about,
            known: model.known_tokens(),
            on,
            by_need,
            last,
        })
    }

    /// The answer, in all rows that are about it; on the host it is looked up afterwards.
    pub fn lookups(&self) -> Vec<StrongestLookup<'_>> {
        if self.about.is_empty() {
            return Vec::new();
        }
        vec![StrongestLookup {
            of: self.last,
            known: self.known,
            rows: &self.about,
        }]
    }

    /// The row whose logits stay on the device, to be compared with the model's own.
    pub fn keep(&self) -> Option<usize> {
        (self.on == StatisticsOn::Device).then_some(self.last)
    }

    /// The questions of all needs, one need after the other.
    pub fn questions(&self) -> Vec<RowQuestion<'_>> {
        let by_need = self.by_need.iter().flatten();
        by_need.flat_map(|rows| rows.questions(None)).collect()
    }

    /// Sorts the statistics of the rows by the need that asked for them.
    pub fn sort(&self, output: ReadoutRows, vocab: usize) -> LensRead {
        let place = |row: usize| {
            let at = self.whole.binary_search(&row).ok()?;
            let place = at * vocab..(at + 1) * vocab;
            (place.end <= output.whole.len()).then_some(place)
        };
        let mut sums = output.sums.into_iter();
        let mut states = Vec::with_capacity(self.by_need.len());
        for need in &self.by_need {
            let mut read = StateStats::default();
            if let Some(rows) = need {
                read = StateStats::of(rows.readout);
                let own = rows.questions(None);
                let own = own.iter().zip(&mut sums);
                let own = own.map(|(q, sums)| RowStats::of(sums, q.ranks, Vec::new()));
                let own = own.collect();
                let look = |answer: u32| match output.looked.first() {
                    None => rows.look_in(answer, |row| Some(&output.whole[place(row)?])),
                    Some(found) => {
                        let at = |row: &usize| self.about.binary_search(row).ok();
                        let own = rows.states.iter().filter_map(at);
                        own.map(|at| found.rows[at]).collect()
                    }
                };
                rows.sort_with_answers(own, look, &mut read);
            }
            states.push(read);
        }
        LensRead {
            states,
            last: place(self.last),
            laid_out: output.whole,
            kept: output.kept,
        }
    }
}
