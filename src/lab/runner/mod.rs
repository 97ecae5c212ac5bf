//! The runner: carries out a [`Pass`]. Nothing else calls the forward pass, but for what checks it.
//!
//! Rows of one text share what they have in common. It is read once and kept as a shared: keys and values of every position,
//! and the stream between the blocks. No position sees a later one, so what lies before the first change of a row is not
//! read again; blocks below the first change are not computed again either: a row joins the batch at the block where it
//! begins to differ, so that the batch grows on its way up. Edits with a condition look at values that are not computed
//! again, so under them rows are read whole. Rows with texts of their own are read side by side where they are of one
//! length, and one by one where the edits depend on the tokens of a prompt ([`crate::edit::Edit::reads_prompt`]).
//!
//! Invariant: a row's logits are those of its whole text with its edits and its patches put in after them, to the rounding
//! of wider products. To read something else of rows, add a field to [`Pass`] and serve it in both ways of reading here.

mod shared;
mod tail;

use shared::null;
use tail::{best, go_on, tensor};
pub(crate) use tail::{read_on, unedited};

use super::apply::Program;
use super::lab::Lab;
use super::pass::{Logits, Pass, PassRow, Patch, RowCapture};
use super::run::Run;
use super::tap::{Keep, RunTap};
use crate::edit::schedule::Schedule;
use crate::error::{Error, Result};
use crate::model::network::site::{Address, Site};
use crate::model::network::tap::{Phase, Span, Tap};

/// Most texts of their own in one pass.
const TEXTS: usize = 16;

/// Takes the number of a row and what it came to.
type Took<'a> = dyn FnMut(&Lab, usize, RowCapture) -> Result<()> + 'a;

impl Lab {
    /// Carries out a pass: what every row comes to, in their order.
    ///
    /// # Errors
    ///
    /// When a text, an edit or a patch does not fit, numbers are not finite, or the work is stopped.
    pub fn run(&mut self, pass: &Pass) -> Result<Vec<RowCapture>> {
        self.run_map(pass, |_, _, row| row)
    }

    /// The same, with what is made of each row as it comes, not in order: what is not kept takes no memory.
    ///
    /// # Errors
    ///
    /// Those of [`Lab::run`].
    pub fn run_map<T>(
        &mut self,
        pass: &Pass,
        mut make: impl FnMut(&Lab, usize, RowCapture) -> T,
    ) -> Result<Vec<T>> {
        let mut out: Vec<Option<T>> = pass.rows.iter().map(|_| None).collect();
        self.run_each(pass, &mut |lab, i, row| {
            out[i] = Some(make(lab, i, row));
            Ok(())
        })?;
        Ok(out.into_iter().flatten().collect())
    }

    /// The same for a pass of one row.
    ///
    /// # Errors
    ///
    /// Those of [`Lab::run`]; and when there is no row.
    pub fn run_one(&mut self, pass: &Pass) -> Result<RowCapture> {
        let row = self.run(pass)?.into_iter().next();
        row.ok_or_else(|| Error::Engine("a pass without rows".into()))
    }

    /// The same, handed over row by row as they come, not in order: what is not kept takes no memory.
    ///
    /// # Errors
    ///
    /// Those of [`Lab::run`], and those of `each`.
    pub fn run_each(&mut self, pass: &Pass, each: &mut Took) -> Result<()> {
        let alone = pass.rows.iter().all(PassRow::is_plain);
        if pass.rows.iter().any(|row| !row.tokens.is_empty())
            || (alone && pass.common.is_empty() && pass.from.is_none())
        {
            return self.side_by_side(pass, each);
        }
        let shared = self.shared_run(pass)?;
        self.branches(pass, &shared, each)
    }

    /// Reads texts side by side.
    fn side_by_side(&mut self, pass: &Pass, each: &mut Took) -> Result<()> {
        let texts: Vec<&[u32]> = pass.rows.iter().map(|row| text(pass, row)).collect();
        let groups = groups(&texts, &pass.run.schedule);
        for group in groups {
            self.together(pass, &group, each)?;
        }
        Ok(())
    }

    /// Reads texts of one length in one pass.
    fn together(&mut self, pass: &Pass, group: &[usize], each: &mut Took) -> Result<()> {
        let rows: Vec<&PassRow> = group.iter().map(|i| &pass.rows[*i]).collect();
        let mut texts: Vec<Vec<u32>> = rows.iter().map(|row| text(pass, row).to_vec()).collect();
        for text in &texts {
            self.model.check_prompt(text)?;
        }
        let length = texts[0].len();
        let run = if rows[0].tokens.is_empty() {
            pass.run.clone()
        } else {
            Run {
                schedule: pass.run.schedule.clone(),
                seed: pass.run.seed,
                ..Run::plain(texts[0].clone())
            }
        };
        let mut program = self.compile(&run, null(pass))?;
        let model = &self.model;
        let mut patches: Vec<(usize, &Patch)> = Vec::new();
        for (i, row) in rows.iter().enumerate() {
            for patch in pass.common.iter().chain(&row.patches) {
                patch.check(model, 0..length)?;
                patches.push((i, patch));
            }
        }
        let trials = pass.lenient || !rows.iter().all(|row| row.is_plain());
        let guard = self.guard().lenient_if(trials);
        // The last token that is chosen need not be read.
        let count = pass.tail.min(model.card.context - length + 1);
        let mut cache = (count > 1).then(|| model.cache(rows.len())).transpose()?;
        // The unedited model reads along where a condition asks what it says.
        let mut beside = (program.asks_probability() && count > 1)
            .then(|| model.cache(rows.len()))
            .transpose()?;
        let span = Span {
            start: 0,
            len: length,
            prompt: run.prompt,
            phase: Phase::Prefill,
        };
        let knockouts = rows.iter().enumerate();
        let knockouts = knockouts.filter_map(|(i, row)| Some((i, row.knockout.as_ref()?)));
        let mut tap = RunTap::new(&mut program, &patches, &pass.record, Keep::All, guard)
            .cutting(knockouts.collect());
        let transformer = &model.transformer;
        let tokens = tensor(model, &texts, 0)?;
        let x = transformer.trunk(&tokens, span, cache.as_mut(), &mut tap)?;
        let (first, wanted) = match pass.logits {
            Logits::None if count > 0 => (length - 1, 1),
            Logits::None => (0, 0),
            Logits::Last(n) => (length - n.min(length), n.min(length)),
            Logits::After(at) => (at, 1),
        };
        let late =
            |at: &Address| matches!(at.site, Site::FinalNorm | Site::LogitsRaw | Site::Logits);
        let mut logits: Vec<Vec<Vec<f32>>> = Vec::with_capacity(rows.len());
        if pass.record.iter().any(late) {
            let (all, _) = transformer.read_out(&x, None, &mut tap)?;
            if wanted > 0 {
                logits = all.narrow(1, first, wanted)?.to_vec3()?;
            }
        } else if wanted > 0 {
            // Edits after the last block see these positions and no others.
            tap.begin(Span {
                start: first,
                len: wanted,
                ..span
            });
            // Of one position all rows in one product, of many each row by itself, for they are large.
            let at_once = if wanted == 1 || !patches.is_empty() {
                rows.len()
            } else {
                1
            };
            for row in (0..rows.len()).step_by(at_once) {
                let own = x.narrow(0, row, at_once)?.narrow(1, first, wanted)?;
                let (read, _) = transformer.read_out(&own.contiguous()?, None, &mut tap)?;
                logits.extend(read.to_vec3()?);
            }
        }
        tap.program.settle()?;
        let mut out: Vec<RowCapture> = Vec::with_capacity(rows.len());
        let recorded = std::mem::take(&mut tap.recorded);
        for row in 0..rows.len() {
            let own = recorded.iter().map(|(at, t)| {
                let one = if rows.len() == 1 {
                    t.squeeze(0)
                } else {
                    t.get(row)
                };
                Ok((*at, one?))
            });
            out.push(RowCapture {
                recorded: own.collect::<Result<_>>()?,
                receipts: tap.program.receipts().to_vec(),
                ..RowCapture::default()
            });
        }
        if let Some(cache) = cache.as_mut().filter(|_| count > 0) {
            let last = logits
                .iter()
                .filter_map(|row| row.last().cloned())
                .collect();
            let mut listen = |program: &mut Program, texts: &[Vec<u32>]| match &mut beside {
                Some(beside) => {
                    program.hear(
                        texts[0].len() - 1,
                        &unedited(self, &texts[..1], run.prompt, beside)?,
                    );
                    Ok(())
                }
                None => Ok(()),
            };
            let tails = go_on(
                model,
                &mut texts,
                run.prompt,
                cache,
                &mut tap,
                last,
                count,
                &mut listen,
            )?;
            for (row, (tail, silent)) in out.iter_mut().zip(tails) {
                (row.tail, row.silent) = (tail, silent);
            }
        } else if count == 1 {
            for (row, logits) in out.iter_mut().zip(&logits) {
                let best = logits.last().and_then(|row| best(model, row));
                (row.tail, row.silent) = (best.into_iter().collect(), best.is_none());
            }
        }
        for (row, logits) in out.iter_mut().zip(logits) {
            row.logits = logits;
        }
        for (i, row) in group.iter().zip(out) {
            each(self, *i, row)?;
        }
        Ok(())
    }
}

/// The text of a row.
fn text<'a>(pass: &'a Pass, row: &'a PassRow) -> &'a [u32] {
    if row.tokens.is_empty() {
        &pass.run.tokens
    } else {
        &row.tokens
    }
}

/// Indices of texts that may be read together: of equal length, a few at a time; one by one where the edits depend on the
/// tokens of a prompt.
fn groups(texts: &[&[u32]], schedule: &Schedule) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|i| texts[*i].len());
    let most = if schedule.reads_prompt() { 1 } else { TEXTS };
    let mut out: Vec<Vec<usize>> = Vec::new();
    for i in order {
        match out.last_mut() {
            Some(group) if group.len() < most && texts[group[0]].len() == texts[i].len() => {
                group.push(i);
            }
            _ => out.push(vec![i]),
        }
    }
    out
}
