//! The edits of rows: which program each needs, and where that makes it differ from the run that it shares.
//!
//! Invariant: what a row shares with its run is what both programs make alike: a row joins no later than the first position and
//! block at which they act otherwise. To let rows share more, see [`Lab::branching`].

use std::ops::Range;

use super::is_under_circuit;
use crate::edit::Edit;
use crate::edit::schedule::Schedule;
use crate::error::Result;
use crate::lab::Lab;
use crate::lab::apply::Program;
use crate::lab::pass::{Pass, PassRow};
use crate::lab::row_programs::RowPrograms;
use crate::lab::run::Run;
use crate::model::network::site::Site;

/// A program and the rows of a batch that it acts on.
pub(super) type OfRows = (Range<usize>, Program);

/// Where a row begins to differ from its run, and what acts on it from there.
pub(super) struct RowStart {
    /// The first position that differs; none where nothing does.
    pub(super) from: Option<usize>,
    /// The first block that differs.
    pub(super) entry: usize,
    /// Its own edits; none where they are those of the run.
    pub(super) program: Option<Program>,
}

impl Lab {
    /// Where the rows of a pass begin to differ from their run; none where they have to be read whole: texts of their own, the
    /// run alone, edits that look at values which are not computed again, or that change what enters the first block, and circuits,
    /// whose receivers read what the blocks below them write.
    pub(super) fn branching(&mut self, pass: &Pass) -> Result<Option<Vec<RowStart>>> {
        let own_texts = pass.rows.iter().any(|row| !row.tokens.is_empty());
        let alone = pass.rows.iter().all(PassRow::is_plain);
        let alone = alone && pass.common.is_empty() && pass.from.is_none();
        let edited = pass.rows.iter().any(|row| row.schedule.is_some());
        let under = pass.rows.iter().any(|row| is_under_circuit(pass, row));
        let mut schedules_of_rows = pass.rows.iter().filter_map(|row| row.schedule.as_ref());
        let drawn = schedules_of_rows.any(|schedule| schedule.random.is_some());
        if own_texts
            || drawn
            || alone
            || under
            || conditional(pass)
            || (edited && pass.run.schedule.random.is_some())
        {
            return Ok(None);
        }
        for edit in schedules(pass).flat_map(active_edits) {
            if self.reads_another_block(edit)? {
                return Ok(None);
            }
        }
        let (layers, end) = (self.model.card.layers, pass.run.tokens.len());
        let base = if edited {
            self.compile(&pass.run)?
        } else {
            Program::default()
        };
        let mut out = Vec::with_capacity(pass.rows.len());
        for row in &pass.rows {
            let mut start = RowStart {
                from: row.from(),
                entry: row.entry(layers),
                program: None,
            };
            if let Some(schedule) = &row.schedule {
                let own = self.compile(&pass.run.clone().under(schedule))?;
                for (at, position) in own.differences(&base, end) {
                    if at.site == Site::Embed {
                        return Ok(None);
                    }
                    let entry = if at.site.spec().layered {
                        usize::from(at.layer)
                    } else {
                        layers
                    };
                    start.entry = start.entry.min(entry);
                    start.from = Some(start.from.map_or(position, |from| from.min(position)));
                }
                start.program = Some(own);
            }
            out.push(start);
        }
        Ok(Some(out))
    }

    /// The programs of rows that are read whole, with the rows of each: neighbours share one where their edits are the same
    /// and do not depend on what their texts say.
    pub(super) fn programs(&mut self, rows: &[&PassRow], runs: &[Run]) -> Result<Vec<OfRows>> {
        let mut out: Vec<OfRows> = Vec::new();
        for (row, run) in runs.iter().enumerate() {
            let under = rows[row].only.as_ref();
            let before = row
                .checked_sub(1)
                .map(|i| (&runs[i], rows[i].only.as_ref()));
            let same = before.is_some_and(|(before, circuit)| {
                let bound = run.schedule.reads_prompt() || run.schedule.random.is_some();
                let circuits = match (circuit, under) {
                    (Some(circuit), Some(under)) => circuit.is(under),
                    (None, None) => true,
                    (Some(_), None) | (None, Some(_)) => false,
                };
                circuits
                    && before.schedule == run.schedule
                    && (!bound || before.tokens == run.tokens)
            });
            match out.last_mut() {
                Some((rows, _)) if same => rows.end = row + 1,
                Some(_) | None => {
                    let mut program = self.compile(run)?;
                    if let Some(circuit) = under {
                        program.run_under(circuit)?;
                    }
                    out.push((row..row + 1, program));
                }
            }
        }
        Ok(out)
    }
}

/// Programs at work on their rows.
pub(super) fn act_on(programs: &mut [OfRows]) -> RowPrograms<'_> {
    RowPrograms::each(
        programs
            .iter_mut()
            .map(|(rows, program)| (rows.clone(), program)),
    )
}

/// Whether an edit acts only where something holds: it looks at values that are not computed again for rows that share them.
pub(super) fn conditional(pass: &Pass) -> bool {
    let mut edits = schedules(pass).flat_map(active_edits);
    edits.any(|edit| edit.when.is_some())
}

/// The schedules of a pass and of its rows.
fn schedules(pass: &Pass) -> impl Iterator<Item = &Schedule> {
    let own = pass.rows.iter().filter_map(|row| row.schedule.as_ref());
    own.chain([&pass.run.schedule])
}

pub(super) fn active_edits(schedule: &Schedule) -> impl Iterator<Item = &Edit> {
    let edits = schedule.spans().flat_map(|(_, edits)| edits);
    edits.filter(|edit| edit.active())
}
