//! States of the stream read through the final norm and the unembedding, and captures of a whole text.
//!
//! Invariant: the model's own output is read with every lens, so that "the answer" and "KL to final" mean the same under
//! all of them: the last block's stream, its own norm, no map; and a state has the same statistics whether its logits were made
//! here, strip by strip, or rode along in the pass that wrote a token (`from_logits`). To read something else of a state, see
//! [`super::readout`].
//!
//! Sources: logit lens, nostalgebraist 2020, Kao et al. 2020 (2001.09309); entropy and KL along the layers, Ali et al.
//! 2025 (2502.16570); reciprocal ranks, Merullo et al. 2024 (2305.16130).

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};
use crate::figure::Check;
use crate::lab::Lab;
use crate::lab::capture::{After, Capture, Needs, NormOf, Output, Readout, StateStats};
use crate::lab::pass::Pass;
use crate::lab::readout::{
    ReferenceRows, RowRequest, RowStats, Tokens, read, read_rows, tolerance,
};
use crate::lab::run::Run;
use crate::model::network::site::{Address, Axis, Site};

/// Rows that go through the unembedding together: as many as have their logits for one strip of tokens near the processor.
const ROWS: usize = 1536;

/// How many of the strongest tokens are kept of the distribution that a token was drawn from.
const BEFORE: usize = 5;

impl Lab {
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
        let mut capture = Capture::of(Arc::new(run.clone()), positions.clone());
        if needs.before {
            capture.before = self.before(run, &positions)?;
        }
        if needs.read.is_some() || !wanted.is_empty() {
            let whole = if needs.read.is_some() {
                self.record_with_output(run, &wanted)?
            } else {
                self.record(run, &wanted)?
            };
            capture.receipts.clone_from(&whole.receipts);
            if let Some(readout) = &needs.read {
                capture.check = check(self, run, whole.get(last)?, whole.logits())?;
                capture.read = self.states(&whole, run.answers.as_deref(), &positions, readout)?;
            }
            for at in &needs.record {
                let axis = usize::from(at.site.spec().axis == Axis::Positions);
                let rows = whole
                    .get(*at)?
                    .narrow(axis, positions.start, positions.len())?;
                capture.recorded.insert(*at, rows.to_dtype(DType::F32)?);
            }
        }
        Ok(capture)
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
        let mut seen = StateStats::of(readout);
        let total = positions.len().max(1);
        let most = ROWS / readout.at.len().max(1);
        let most = if readout.kl {
            most.min(self.room(4 * self.model.card.vocab))
        } else {
            most
        };
        for start in positions.clone().step_by(most.max(1)) {
            let end = (start + most.max(1)).min(positions.end);
            let done = (start - positions.start) as f32 / total as f32;
            let share = (end - start) as f32 / total as f32;
            let both = (recording, other.as_deref());
            piece(self, both, readout, start..end, (done, share), &mut seen)?;
        }
        Ok(seen)
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
    fn of(readout: &Readout) -> Self {
        let plain = readout.plain && readout.maps.is_some();
        Self {
            layers: vec![Vec::new(); readout.at.len()],
            plain: vec![Vec::new(); if plain { readout.at.len() } else { 0 }],
            ..Self::default()
        }
    }
}

impl Readout {
    /// Whether its last state is the model's own output.
    fn ends_in_output(&self, last: Address) -> bool {
        self.at.last() == Some(&last) && self.maps.is_none()
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

/// What is read: the last states, or all of them, one state after the other.
enum RowsRead {
    Finals,
    States,
}

/// Reads some positions and adds what they say; `answers` are those of another run where one is given.
fn tell(
    readout: &Readout,
    last: Address,
    count: usize,
    answers: Option<Vec<u32>>,
    seen: &mut StateStats,
    mut read: impl FnMut(RowsRead, &RowRequest) -> Result<Vec<RowStats>>,
) -> Result<()> {
    // Where the model's own output decides what is asked of the others, it is read first; else all of it at once.
    let first = readout.answer || readout.kl || !readout.ends_in_output(last);
    let own = if first {
        let ask = RowRequest {
            top: readout.top.max(1),
            tokens: Tokens::Same(&readout.tokens),
            ranks: readout.ranks,
            entropy: readout.entropy,
            keep: readout.kl,
            ..RowRequest::default()
        };
        read(RowsRead::Finals, &ask)?
    } else {
        Vec::new()
    };
    let named = |said: &[RowStats]| said.iter().map(|s| s.first().0).collect::<Vec<u32>>();
    let of_each = answers.clone().unwrap_or_else(|| named(&own));
    let groups = seen.layers.len() + seen.plain.len();
    let ids: Vec<u32> = (0..groups).flat_map(|_| of_each.iter().copied()).collect();
    let numbers: Vec<usize> = (0..groups).flat_map(|_| 0..count).collect();
    let ask = RowRequest {
        top: readout.top,
        tokens: if readout.answer {
            Tokens::Each(&ids)
        } else {
            Tokens::Same(&readout.tokens)
        },
        ranks: readout.ranks,
        entropy: readout.entropy,
        against: readout.kl.then_some(ReferenceRows {
            rows: &own,
            of: &numbers,
        }),
        keep: false,
    };
    let mut said = read(RowsRead::States, &ask)?.into_iter();
    for layer in seen.layers.iter_mut().chain(&mut seen.plain) {
        layer.extend(said.by_ref().take(count));
    }
    let finals = match seen.layers.last() {
        Some(layer) if !first => layer[layer.len() - count..].to_vec(),
        // The logits have served.
        _ => own
            .into_iter()
            .map(|said| RowStats {
                logits: Vec::new(),
                ..said
            })
            .collect(),
    };
    seen.answers
        .extend(answers.unwrap_or_else(|| named(&finals)));
    seen.finals.extend(finals);
    Ok(())
}

/// What states of one position say, from their logits: `row` finds those of a state read with its own norm and through no map.
pub(crate) fn from_logits<'a>(
    readout: &Readout,
    last: Address,
    known: usize,
    row: impl Fn(Address) -> Option<&'a [f32]>,
) -> Result<StateStats> {
    let mut seen = StateStats::of(readout);
    let row = |at: &Address| {
        row(*at).ok_or_else(|| Error::Refused {
            address: at.to_string(),
            why: "it was not visited by this pass. Unembed a residual site.".into(),
        })
    };
    tell(readout, last, 1, None, &mut seen, |of, ask| {
        let rows = match of {
            RowsRead::Finals => vec![row(&last)?],
            RowsRead::States => readout.at.iter().map(row).collect::<Result<_>>()?,
        };
        Ok(read_rows(&rows, known, ask))
    })?;
    Ok(seen)
}

/// The last state against the model's own logits of the same pass; none where an edit acts after the last block, which
/// no lens sees.
fn check(lab: &Lab, run: &Run, last: &Tensor, own: &[f32]) -> Result<Option<Check>> {
    if run.schedule.acts_at(Site::FinalNorm) {
        return Ok(None);
    }
    let row = last.narrow(0, last.dim(0)? - 1, 1)?.contiguous()?;
    let lens = lab.model.transformer.unembed(&row)?;
    let lens = lens.flatten_all()?.to_vec1::<f32>()?;
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
    seen: &mut StateStats,
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
    let finals = transformer.normalize_for_unembed(&last, None)?;
    let ways = std::iter::once(true).chain((!seen.plain.is_empty()).then_some(false));
    let states = ways.flat_map(|mapped| readout.at.iter().map(move |at| (*at, mapped)));
    let states =
        states.map(|(at, mapped)| readout.rows(lab, &part(recording, at)?, at, &scale, mapped));
    let states = Tensor::cat(&states.collect::<Result<Vec<_>>>()?, 0)?;
    let answers = match other {
        Some(other) => {
            let rows = lab
                .model
                .transformer
                .normalize_for_unembed(&part(other, end)?, None)?;
            let ask = RowRequest {
                top: 1,
                ..RowRequest::default()
            };
            let said = reading(lab, &rows, &ask, (done, share * 0.1))?;
            Some(said.iter().map(|said| said.first().0).collect())
        }
        None => None,
    };
    let mut from = 0.0;
    tell(readout, end, count, answers, seen, |of, ask| match of {
        RowsRead::Finals => {
            from = 0.1;
            reading(lab, &finals, ask, (done, share * from))
        }
        RowsRead::States => reading(
            lab,
            &states,
            ask,
            (done + share * from, share * (1.0 - from)),
        ),
    })?;
    let own = &seen.finals[seen.finals.len() - count..];
    match own.iter().position(|said| !said.is_finite()) {
        Some(i) => {
            let after = positions.start + i;
            Err(lab.not_finite(&format!("The model's logits after position {after} are")))
        }
        None => Ok(()),
    }
}

/// Reads rows and tells how far it is.
fn reading(
    lab: &mut Lab,
    rows: &Tensor,
    ask: &RowRequest,
    (done, share): (f32, f32),
) -> Result<Vec<RowStats>> {
    lab.part(done..done + share, |lab| {
        read(&lab.model, rows, ask, &mut |part| lab.report(part))
    })
}
