//! States of the stream read through the final norm and the unembedding, and captures of a whole text.
//!
//! Invariant: the model's own output is read with every lens, so that "the answer" and "KL to final" mean the same under
//! all of them: the last block's stream, its own norm, no map; and a state has the same statistics whether it was read here or
//! rode along in the pass that wrote a token: `StateRows` asks and sorts the answers for both. To read something else of a
//! state, see [`super::readout`].
//!
//! Sources: logit lens, nostalgebraist 2020, Kao et al. 2020 (2001.09309); entropy and KL along the layers, Ali et al.
//! 2025 (2502.16570); reciprocal ranks, Merullo et al. 2024 (2305.16130).

use std::ops::Range;
use std::sync::Arc;

use candle_core::{D, DType, Tensor};

use crate::edit::receipt::Receipt;
use crate::error::Result;
use crate::figure::Check;
use crate::lab::Lab;
use crate::lab::capture::{After, Capture, Needs, NormOf, Output, Readout, StateStats};
use crate::lab::pass::Pass;
use crate::lab::readout::{
    RowRequest, RowStats, TokenStats, Tokens, read, read_questions, read_rows, tolerance,
};
use crate::lab::run::Run;
use crate::lab::sample::{NO_RANK, NO_TOKEN};
use crate::model::host::ToHost;
use crate::model::kernels::vocabulary::{OtherRow, RowQuestion, ranks};
use crate::model::network::readout::StatisticsOn;
use crate::model::network::site::{Address, Axis, Site};

/// Rows that go through the unembedding together: as many as have their logits for one strip of tokens near the processor.
const ROWS: usize = 1536;

/// How many of the strongest tokens are kept of the distribution that a token was drawn from.
const BEFORE: usize = 5;

impl Lab {
    /// The sum of `KL(given ‖ read)` in nats over rows of states, `[n, d_model]`, from natural log-probabilities, `[n, vocab]`.
    ///
    /// # Errors
    ///
    /// When shapes do not fit.
    pub fn reading_divergence(&self, rows: &Tensor, given: &Tensor) -> Result<f64> {
        let transformer = &self.model.transformer;
        let read = transformer.unembed(&rows.to_dtype(transformer.dtype())?)?;
        let read = candle_nn::ops::log_softmax(&read, D::Minus1)?;
        // Tokens without probability have no part in it.
        let known = given.clamp(-1e4f32, 0f32)?;
        let each = (given.exp()? * (known - read)?)?;
        Ok(f64::from(each.sum_all()?.host_scalar::<f32>()?))
    }

    /// One pass over a run, and what it leaves behind of some of its positions.
    ///
    /// # Errors
    ///
    /// When the model lacks a site, a file has no map for it, numbers are not finite, or the user stops it.
    pub fn capture(
        &mut self,
        run: &Run,
        positions: Range<usize>,
        needs: &Needs,
    ) -> Result<Capture> {
        let last = Site::ResidPost.at(self.model.card.layers - 1);
        let mut wanted: Vec<Address> = Vec::new();
        if let Some(readout) = &needs.read {
            wanted.clone_from(&readout.at);
            wanted.push(last);
            if let (Some(maps), Some(first)) = (&readout.maps, readout.at.first()) {
                maps.check(*first)?;
            }
        }
        wanted.extend(&needs.record);
        wanted.sort_unstable();
        wanted.dedup();
        let before = if needs.before {
            self.before(run, &positions)?
        } else {
            Vec::new()
        };
        let mut parts = CaptureParts {
            before,
            ..CaptureParts::default()
        };
        let whole = match (&needs.read, wanted.is_empty()) {
            (None, true) => Arc::default(),
            (Some(_), _) => self.record_with_output(run, &wanted)?,
            (None, false) => self.record(run, &wanted)?,
        };
        parts.receipts.clone_from(&whole.receipts);
        if let Some(readout) = &needs.read {
            parts.check = check(self, run, whole.get(last)?, whole.logits())?;
            parts.read = self.states(&whole, run.answers.as_deref(), &positions, readout)?;
        }
        let rows = |at: Address| -> Result<Tensor> {
            let axis = usize::from(at.site.spec().axis == Axis::Positions);
            let rows = whole.get(at)?;
            Ok(rows.narrow(axis, positions.start, positions.len())?)
        };
        captured(Arc::new(run.clone()), positions.clone(), needs, parts, rows)
    }

    /// Reads the states that positions of a growing text recorded ([`Needs::with_states_at_once`]), all of them, as those of a
    /// whole text are read: several positions share one pass over the vocabulary.
    ///
    /// # Errors
    ///
    /// When a state was not recorded, numbers are not finite, or the user stops it.
    pub fn read_later(&mut self, capture: &mut Capture, readout: &Readout) -> Result<()> {
        capture.read = self.states(capture, None, &(0..capture.positions.len()), readout)?;
        Ok(())
    }

    /// Reads states of recorded positions through the unembedding.
    fn states(
        &mut self,
        recording: &Capture,
        answers: Option<&Run>,
        positions: &Range<usize>,
        readout: &Readout,
    ) -> Result<StateStats> {
        let at = Site::ResidPost.at(self.model.card.layers - 1);
        let other = answers.filter(|_| readout.answer);
        let other = other.map(|run| self.record_with_output(run, &[at]));
        let other = other.transpose()?;
        let mut found = StateStats::of(readout);
        let total = positions.len().max(1);
        let rows = if self.model.transformer.statistics == StatisticsOn::Host {
            ROWS
        } else {
            self.room(4 * self.model.card.vocab).min(ROWS)
        };
        let most = rows / readout.at.len().max(1);
        for start in positions.clone().step_by(most.max(1)) {
            let end = (start + most.max(1)).min(positions.end);
            let done = (start - positions.start) as f32 / total as f32;
            let share = (end - start) as f32 / total as f32;
            let both = (recording, other.as_deref());
            piece(self, both, readout, start..end, (done, share), &mut found)?;
        }
        Ok(found)
    }

    /// The distributions that tokens of a run were drawn from: the model's own output one position before each.
    fn before(&mut self, run: &Run, positions: &Range<usize>) -> Result<Vec<Option<RowStats>>> {
        let (first, end) = (positions.start.max(1), positions.end);
        let mut out = vec![None; first.min(end) - positions.start];
        if first < end {
            let output = Output {
                after: After::Each(first - 1..end - 1),
                top: BEFORE,
                each: vec![run.tokens[first..end].to_vec()],
                ranks: true,
                entropy: true,
                ..Output::default()
            };
            let read = self.run_one(&Pass::after(run.clone().until(end - 1), output))?;
            out.extend(read.output.into_iter().map(Some));
        }
        Ok(out)
    }
}

/// What is asked of the distribution that a token was drawn from; the token itself is known with it.
pub(crate) fn drawn_from<'a>() -> RowQuestion<'a> {
    RowQuestion {
        top: BEFORE,
        ranks: true,
        entropy: true,
        ..RowQuestion::default()
    }
}

/// The distributions that tokens were drawn from, one row of the model's own logits each.
pub(crate) fn drawn(rows: &[&[f32]], tokens: &[u32], known: usize) -> Vec<RowStats> {
    let ask = RowRequest {
        top: BEFORE,
        tokens: Tokens::Each(tokens),
        ranks: true,
        entropy: true,
        ..RowRequest::default()
    };
    read_rows(rows, known, &ask)
}

impl StateStats {
    pub(crate) fn of(readout: &Readout) -> Self {
        let plain = readout.plain && readout.maps.is_some();
        Self {
            layers: vec![Vec::new(); readout.at.len()],
            plain: vec![Vec::new(); if plain { readout.at.len() } else { 0 }],
            ..Self::default()
        }
    }
}

impl Readout {
    /// Whether its last state is the model's own output, to the bit.
    fn ends_in_output(&self, last: Address) -> bool {
        self.at.last() == Some(&last) && self.maps.is_none() && self.norm == NormOf::Own
    }

    /// Rows of one state as the unembedding takes them; `scale` is that of the last states.
    fn rows(
        &self,
        lab: &Lab,
        rows: &Tensor,
        at: Address,
        scale: &Tensor,
        mapped: bool,
    ) -> Result<Tensor> {
        let last = Site::ResidPost.at(lab.model.card.layers - 1);
        let rows = match &self.maps {
            // The last state is the output; maps end before it.
            Some(maps) if mapped && at != last => maps.map(at, rows)?,
            Some(_) | None => rows.clone(),
        };
        let scale = match self.norm {
            NormOf::Own => None,
            NormOf::Final => Some(scale),
        };
        lab.model.transformer.normalize_for_unembed(&rows, scale)
    }
}

/// What positions of a run leave behind beside the values that are recorded.
#[derive(Default)]
pub(crate) struct CaptureParts {
    pub receipts: Vec<Receipt>,
    pub before: Vec<Option<RowStats>>,
    pub read: StateStats,
    pub check: Option<Check>,
}

/// The capture of some positions, whether they were read with the whole text or one is the newest of a growing text; `rows` finds
/// what was recorded of them.
pub(crate) fn captured(
    run: Arc<Run>,
    positions: Range<usize>,
    needs: &Needs,
    parts: CaptureParts,
    rows: impl Fn(Address) -> Result<Tensor>,
) -> Result<Capture> {
    let values = needs.record.iter();
    let values = values.map(|at| Ok((*at, rows(*at)?.to_dtype(DType::F32)?)));
    Ok(Capture {
        recorded: values.collect::<Result<_>>()?,
        receipts: parts.receipts,
        before: parts.before,
        read: parts.read,
        check: parts.check,
        ..Capture::of(run, positions)
    })
}

/// Where the states of a readout at some positions stand among the rows that are read.
pub(crate) struct StateRows<'a> {
    pub readout: &'a Readout,
    /// The places of [`Readout::at`] that are read.
    pub at: Range<usize>,
    /// Positions.
    pub count: usize,
    /// The first row of every state; of those through no map behind those through maps.
    pub states: Vec<usize>,
    /// The first row of the last block's stream with its own norm.
    pub finals: usize,
}

impl StateRows<'_> {
    /// The questions: of the states one after the other, then of the last; `answers` are the tokens of interest, one a position,
    /// where the readout is about those and they are known.
    pub fn questions<'q>(&'q self, answers: Option<&'q [u32]>) -> Vec<RowQuestion<'q>> {
        let readout = self.readout;
        let of_each = answers.filter(|_| readout.answer);
        let one = |row: usize, i: usize| RowQuestion {
            row: row + i,
            top: readout.top,
            tokens: match of_each {
                Some(answers) => &answers[i..=i],
                None if readout.answer => &[],
                None => &readout.tokens,
            },
            ranks: readout.ranks,
            entropy: readout.entropy,
            against: readout.kl.then_some(OtherRow::Row(self.finals + i)),
        };
        let states = self.states.iter();
        let states = states.flat_map(|first| (0..self.count).map(|i| one(*first, i)));
        let last = (0..self.count).map(|i| RowQuestion {
            top: readout.top.max(1),
            tokens: &readout.tokens,
            against: None,
            ..one(self.finals, i)
        });
        states.chain(last).collect()
    }

    /// Adds the statistics of the rows, in the order of the questions.
    pub fn sort(
        &self,
        mut stats: Vec<RowStats>,
        answers: Option<Vec<u32>>,
        found: &mut StateStats,
    ) {
        let finals = stats.split_off(self.states.len() * self.count);
        let mut stats = stats.into_iter();
        for layer in found.layers[self.at.clone()]
            .iter_mut()
            .chain(&mut found.plain)
        {
            layer.extend(stats.by_ref().take(self.count));
        }
        let named = || finals.iter().map(|row| row.first().0).collect();
        found.answers.extend(answers.unwrap_or_else(named));
        found.finals.extend(finals);
    }

    /// As `sort`, for states of one position whose answer became known with them: `look` finds its logit in each of their rows, and
    /// how many tokens have a larger one there.
    pub fn sort_with_answers(
        &self,
        mut stats: Vec<RowStats>,
        look: impl FnOnce(u32) -> Vec<(f32, u32)>,
        found: &mut StateStats,
    ) {
        let answer = stats.last().map_or(NO_TOKEN, |last| last.first().0);
        if self.readout.answer && answer != NO_TOKEN {
            for (row, (logit, above)) in stats.iter_mut().zip(look(answer)) {
                let above = if self.readout.ranks { above } else { 0 };
                let rank = if row.is_finite() { above } else { NO_RANK };
                row.tokens = vec![TokenStats::of(answer, logit, row.total, rank)];
            }
        }
        self.sort(stats, None, found);
    }

    /// An answer's logit in rows of logits that are laid out, which `logits_of` finds, and its ranks where they are asked for.
    pub fn look_in<'l>(
        &self,
        answer: u32,
        logits_of: impl Fn(usize) -> Option<&'l [f32]>,
    ) -> Vec<(f32, u32)> {
        let rows = self.states.iter().filter_map(|first| logits_of(*first));
        let rows: Vec<&[f32]> = rows.filter(|row| (answer as usize) < row.len()).collect();
        let above = if self.readout.ranks {
            ranks(&rows, answer)
        } else {
            vec![0; rows.len()]
        };
        let own = rows.iter().map(|row| row[answer as usize]);
        own.zip(above).collect()
    }
}

/// The last state against the model's own logits of the same pass; none where an edit acts after the last block, which
/// no lens sees.
fn check(lab: &Lab, run: &Run, last: &Tensor, own: &[f32]) -> Result<Option<Check>> {
    if run.schedule.acts_at(Site::FinalNorm) {
        return Ok(None);
    }
    let row = last.narrow(0, last.dim(0)? - 1, 1)?.contiguous()?;
    let lens = lab.model.transformer.unembed(&row)?;
    let lens = lens.flatten_all()?.host_vec1::<f32>()?;
    let tolerance = tolerance(lab.model.transformer.dtype());
    Ok(Some(Check::of(own, &lens, tolerance)))
}

/// Reads a few positions at all states; the answers are those of another run where one is given.
fn piece(
    lab: &mut Lab,
    (recording, other): (&Capture, Option<&Capture>),
    readout: &Readout,
    positions: Range<usize>,
    (done, share): (f32, f32),
    found: &mut StateStats,
) -> Result<()> {
    let count = positions.len();
    let end = Site::ResidPost.at(lab.model.card.layers - 1);
    let part = |recording: &Capture, at: Address| -> Result<Tensor> {
        let rows = recording.get(at)?.narrow(0, positions.start, count)?;
        Ok(rows.contiguous()?)
    };
    let last = part(recording, end)?;
    let transformer = &lab.model.transformer;
    let scale = transformer.norm.inverse_scale(&last)?;
    let ways = std::iter::once(true).chain((!found.plain.is_empty()).then_some(false));
    let states = ways.flat_map(|mapped| readout.at.iter().map(move |at| (*at, mapped)));
    let states =
        states.map(|(at, mapped)| readout.rows(lab, &part(recording, at)?, at, &scale, mapped));
    let mut rows = states.collect::<Result<Vec<_>>>()?;
    let states: Vec<usize> = (0..rows.len()).map(|i| i * count).collect();
    let finals = match states.last() {
        Some(first) if readout.ends_in_output(end) => *first,
        _ => {
            rows.push(transformer.normalize_for_unembed(&last, None)?);
            states.len() * count
        }
    };
    let rows = Tensor::cat(&rows, 0)?;
    // The strongest tokens of the model's own output come first where they are what the others are asked for.
    let strongest = match other {
        Some(other) => Some(transformer.normalize_for_unembed(&part(other, end)?, None)?),
        None if readout.answer => Some(rows.narrow(0, finals, count)?),
        None => None,
    };
    let mut from = 0.0;
    let mut answers = None;
    if let Some(strongest) = strongest {
        from = 0.1;
        let ask = RowRequest {
            top: 1,
            ..RowRequest::default()
        };
        let stats = lab.part(done..done + share * from, |lab| {
            read(&lab.model, &strongest, &ask, &mut |part| lab.report(part))
        })?;
        finite(lab, &stats, positions.start)?;
        answers = Some(stats.iter().map(|row| row.first().0).collect::<Vec<u32>>());
    }
    let layout = StateRows {
        readout,
        at: 0..readout.at.len(),
        count,
        states,
        finals,
    };
    let questions = layout.questions(answers.as_deref());
    let stats = lab.part(done + share * from..done + share, |lab| {
        read_questions(&lab.model, &rows, &questions, &[], &mut |part| {
            lab.report(part)
        })
    })?;
    layout.sort(stats, answers, found);
    finite(
        lab,
        &found.finals[found.finals.len() - count..],
        positions.start,
    )
}

/// Refuses rows of the model's own output that are no distributions.
fn finite(lab: &Lab, stats: &[RowStats], first: usize) -> Result<()> {
    match stats.iter().position(|row| !row.is_finite()) {
        Some(i) => {
            let after = first + i;
            Err(lab.not_finite(&format!("The model's logits after position {after} are")))
        }
        None => Ok(()),
    }
}
