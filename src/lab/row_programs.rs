//! Which program edits which rows of a batch.
//!
//! Invariant: a program changes and reads its own rows only; rows that belong to no program run unedited. To let something else
//! differ between rows, add a field to [`super::pass::PassRow`] and its part in [`super::tap::RunTap`].

use std::ops::Range;

use candle_core::Tensor;

use super::apply::Program;
use crate::edit::receipt::Receipt;
use crate::error::Result;
use crate::model::network::site::{Address, Site};
use crate::model::network::tap::PassSpan;
use crate::model::network::transformer::Transformer;

/// A program and the rows of the batch that it edits.
#[derive(Debug)]
pub struct ProgramOfRows<'a> {
    pub rows: Range<usize>,
    pub program: &'a mut Program,
}

/// The programs of a batch, in ascending order of rows.
#[derive(Debug)]
pub struct RowPrograms<'a>(Vec<ProgramOfRows<'a>>);

impl<'a> RowPrograms<'a> {
    /// One program for all rows.
    pub fn all(program: &'a mut Program) -> Self {
        Self::first(program, usize::MAX)
    }

    /// One program for the first `rows` rows; the others run unedited.
    pub fn first(program: &'a mut Program, rows: usize) -> Self {
        Self(vec![ProgramOfRows {
            rows: 0..rows,
            program,
        }])
    }

    /// One program for each of these ranges of rows.
    pub fn each(programs: impl IntoIterator<Item = (Range<usize>, &'a mut Program)>) -> Self {
        let parts = programs.into_iter();
        Self(
            parts
                .map(|(rows, program)| ProgramOfRows { rows, program })
                .collect(),
        )
    }

    /// The programs themselves.
    pub fn programs(&self) -> impl Iterator<Item = &Program> {
        self.0.iter().map(|part| &*part.program)
    }

    /// Whether any program edits, remembers or measures the value at this address.
    pub fn touches(&self, at: Address) -> bool {
        self.programs().any(|program| program.touches(at))
    }

    /// The receipts of the program that edits a row. What a program did in all of its rows is counted in the first of them, so that a sum
    /// over rows counts it once.
    pub fn receipts(&self, row: usize) -> Vec<Receipt> {
        let own = self.0.iter().find(|part| part.rows.contains(&row));
        let mut receipts = own.map_or_else(Vec::new, |part| part.program.receipts().to_vec());
        if own.is_some_and(|part| part.rows.start < row) {
            for receipt in &mut receipts {
                (receipt.fired, receipt.relative) = (0, 0.0);
            }
        }
        receipts
    }

    /// The program of the first rows, if there is any program.
    pub fn first_program(&mut self) -> Option<&mut Program> {
        self.0.first_mut().map(|part| &mut *part.program)
    }

    /// How many rows of a batch, counted from the first row, are edited by any program.
    pub fn edited(&self, batch: usize) -> usize {
        let ends = self.0.iter().map(|part| part.rows.end.min(batch));
        ends.max().unwrap_or(0)
    }

    /// Prepares every program for a pass over the positions of `span`.
    pub fn begin(&mut self, span: PassSpan) {
        self.0.iter_mut().for_each(|part| part.program.begin(span));
    }

    /// Refuses tokens `[batch, tokens]` for which a program was not compiled.
    ///
    /// # Errors
    ///
    /// Those of [`Program::admit`].
    pub fn admit(&self, tokens: &Tensor, span: PassSpan) -> Result<()> {
        let batch = tokens.dim(0)?;
        for part in &self.0 {
            let rows = within(&part.rows, batch);
            if !rows.is_empty() {
                let own = tokens.narrow(0, rows.start, rows.len())?;
                part.program.admit(&own, span)?;
            }
        }
        Ok(())
    }

    /// Lets every program act on its rows of `x`, `[batch, ..]`; other rows keep their bits.
    ///
    /// # Errors
    ///
    /// Those of [`Program::apply`].
    pub fn apply(&mut self, at: Address, x: Tensor, span: PassSpan) -> Result<Tensor> {
        if x.track_op() {
            return self.apply_to_parts(at, &x, span);
        }
        let edits = |program: &Program| program.edits(at);
        self.on_rows(x, edits, |program, x| program.apply(at, x, span))
    }

    /// Lets every program give the receivers of its rows what they read under its circuit.
    ///
    /// # Errors
    ///
    /// When a norm or product fails.
    pub(crate) fn give_streams(
        &mut self,
        transformer: &Transformer,
        at: Address,
        x: Tensor,
    ) -> Result<Tensor> {
        let has = |program: &Program| program.has_circuit_at(at);
        self.on_rows(x, has, |program, x| {
            program.give_streams(transformer, at, x)
        })
    }

    /// Lets the circuit of every program take what the senders of its rows write.
    ///
    /// # Errors
    ///
    /// When a product fails.
    pub(crate) fn take_writes(
        &mut self,
        transformer: &Transformer,
        at: Address,
        x: Tensor,
        span: PassSpan,
    ) -> Result<Tensor> {
        let has = |program: &Program| program.has_circuit_at(at);
        self.on_rows(x, has, |program, x| {
            program.take_writes(transformer, at, x, span)
        })
    }

    /// Whether a program has a circuit that reads or changes the value at this address.
    pub(crate) fn has_circuit_at(&self, at: Address) -> bool {
        self.programs().any(|program| program.has_circuit_at(at))
    }

    /// Why a value cannot be recorded in this pass; none where it can.
    pub(crate) fn hides(&self, site: Site) -> Option<&'static str> {
        self.programs().find_map(|program| program.hides(site))
    }

    /// Changes the rows of those programs for which it is meant.
    fn on_rows(
        &mut self,
        x: Tensor,
        meant: impl Fn(&Program) -> bool,
        mut change: impl FnMut(&mut Program, Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let batch = x.dim(0)?;
        let mut x = x;
        // The copy is made once: other holders of the tensor must not see the change.
        let mut own = false;
        for part in &mut self.0 {
            let rows = within(&part.rows, batch);
            if rows.is_empty() || !meant(part.program) {
                continue;
            }
            if rows.len() == batch {
                x = change(part.program, x)?;
                continue;
            }
            if !own {
                x = x.force_contiguous()?;
                own = true;
            }
            let before = x.narrow(0, rows.start, rows.len())?.force_contiguous()?;
            let after = change(part.program, before.clone())?;
            if after.id() != before.id() {
                x.slice_set(&after.contiguous()?, 0, rows.start)?;
            }
        }
        Ok(x)
    }

    /// The same where a gradient follows `x`, which does not pass through what is written in place.
    fn apply_to_parts(&mut self, at: Address, x: &Tensor, span: PassSpan) -> Result<Tensor> {
        let batch = x.dim(0)?;
        let mut parts = Vec::new();
        let mut done = 0;
        for part in &mut self.0 {
            let rows = within(&part.rows, batch);
            if rows.is_empty() || !part.program.edits(at) {
                continue;
            }
            if rows.len() == batch {
                return part.program.apply(at, x.clone(), span);
            }
            if rows.start > done {
                parts.push(x.narrow(0, done, rows.start - done)?);
            }
            let own = x.narrow(0, rows.start, rows.len())?.contiguous()?;
            parts.push(part.program.apply(at, own, span)?);
            done = rows.end;
        }
        if parts.is_empty() {
            return Ok(x.clone());
        }
        if done < batch {
            parts.push(x.narrow(0, done, batch - done)?);
        }
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// Reads back the measurements of all passes since the last call, and updates the receipts.
    ///
    /// # Errors
    ///
    /// When the read-back from the device fails.
    pub fn settle(&mut self) -> Result<()> {
        self.0.iter_mut().try_for_each(|part| part.program.settle())
    }
}

/// A range of rows, clipped to the batch.
fn within(rows: &Range<usize>, batch: usize) -> Range<usize> {
    rows.start.min(batch)..rows.end.min(batch)
}
