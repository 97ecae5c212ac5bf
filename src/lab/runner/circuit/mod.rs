//! Rows under a circuit: every receiver reads the corrupted stream with the changes of the senders from which it keeps an edge (Conmy et
//! al. 2023, 2304.14997; Hanna et al. 2024, 2403.17806, section 2).
//!
//! The tap gives the forward pass the queries, keys and values that follow from each receiver's own stream, takes from it what heads and
//! MLPs write, and puts the logits' own stream in place of the last block's. The stream that the pass itself adds up is looked at by nobody.
//! What a circuit leaves as it is in the run that it goes on from ([`CircuitRow::base`], or the corrupted run) is not computed: a node is
//! if an edge into it differs, or if something has changed that it reads over one.
//! Invariant: with all edges a row's logits are those of its text, with none those of the corrupted run, to rounding. To split another
//! receiver, number it in [`crate::lab::circuit::graph`] and mix its stream here.

mod row;
mod tap;

use std::sync::Arc;

use super::output::read_output;
use super::shared::bytes;
use super::tail::tensor;
use super::{Rows, own_run, text};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::capture::{After, Capture};
use crate::lab::circuit::graph::CircuitGraph;
use crate::lab::circuit::states::{CircuitRow, SenderChanges};
use crate::lab::pass::Pass;
use crate::model::network::finite;
use crate::model::network::site::Site;
use crate::model::network::tap::{PassPhase, PassSpan};
use tap::CircuitTap;

impl Lab {
    /// Carries out a pass whose rows run under circuits.
    pub(super) fn circuits(&mut self, pass: &Pass) -> Result<Vec<Capture>> {
        let mut circuits = Vec::with_capacity(pass.rows.len());
        for row in &pass.rows {
            let Some(circuit) = &row.circuit else {
                return Err(refused(
                    "a row without a circuit stands beside rows with one. Read it in a pass of its own.",
                ));
            };
            self.check_circuit(pass, row.tokens.len(), circuit)?;
            if row.knockout.is_some() || !row.patches.is_empty() || row.schedule.is_some() {
                return Err(refused(
                    "a row under a circuit takes no patches, knockouts or edits of its own. Leave them out.",
                ));
            }
            circuits.push(circuit);
        }
        let length = |row: usize| text(pass, &pass.rows[row]).len();
        let mut order: Vec<usize> = (0..pass.rows.len()).collect();
        let entries: Vec<usize> = circuits.iter().map(|circuit| circuit.entry()).collect();
        let entry = |row: &usize| entries[*row];
        order.sort_by_key(|row| (length(*row), entry(row)));
        let mut out = Rows::with_capacity(order.len());
        let whole = order.len().max(1) as f32;
        for alike in order.chunk_by(|a, b| (length(*a), entry(a)) == (length(*b), entry(b))) {
            let tokens = length(alike[0]);
            let graph = circuits[alike[0]].graph;
            let changes = 4 * graph.senders() * tokens * self.model.card.d_model;
            let each = bytes(&self.model, tokens, tokens, false) + changes;
            for group in alike.chunks(self.room(each)) {
                let share = out.len() as f32 / whole..(out.len() + group.len()) as f32 / whole;
                let found = self.part(share, |lab| lab.under_circuits(pass, group))?;
                out.extend(group.iter().copied().zip(found));
            }
        }
        out.sort_unstable_by_key(|(row, _)| *row);
        Ok(out.into_iter().map(|(_, row)| row).collect())
    }

    /// Refuses what a circuit cannot be run with.
    fn check_circuit(&self, pass: &Pass, own: usize, circuit: &CircuitRow) -> Result<()> {
        if pass
            .run
            .schedule
            .spans()
            .any(|(_, edits)| edits.iter().any(crate::edit::intervention::Edit::active))
        {
            return Err(refused(
                "a circuit is run with the model's own weights, and edits would act on some of its values alone. Switch them off.",
            ));
        }
        if !pass.record.is_empty() || pass.tail > 0 || !pass.common.is_empty() {
            return Err(refused(
                "under a circuit the model's output alone is read. Record values in a pass without one.",
            ));
        }
        let tokens = if own == 0 { pass.run.tokens.len() } else { own };
        if circuit.corrupted.tokens != tokens {
            let expected = format!("as many tokens as the clean text, {tokens}");
            let given = format!("{} tokens", circuit.corrupted.tokens);
            return Err(Error::argument("corrupt", given, expected));
        }
        if CircuitGraph::of(&self.model)? != circuit.graph {
            return Err(refused(
                "it belongs to a model of another shape. Make it for this one.",
            ));
        }
        Ok(())
    }

    /// Rows of one length that begin at one block.
    fn under_circuits(&mut self, pass: &Pass, group: &[usize]) -> Result<Vec<Capture>> {
        let rows = group.iter().map(|i| &pass.rows[*i]);
        let circuits: Vec<&CircuitRow> = rows.filter_map(|row| row.circuit.as_ref()).collect();
        let texts = group.iter().map(|i| text(pass, &pass.rows[*i]).to_vec());
        let texts: Vec<Vec<u32>> = texts.collect();
        for text in &texts {
            self.model.check_prompt(text)?;
        }
        let (model, length) = (&self.model, texts[0].len());
        let wanted = match &pass.output.after {
            After::Nothing => 0..0,
            After::Last(n) => length - n.min(&length)..length,
            After::Each(at) => at.clone(),
        };
        if wanted.end > length {
            let expected = format!("positions to {}", length - 1);
            return Err(Error::argument(
                "after",
                (wanted.end - 1).to_string(),
                expected,
            ));
        }
        let span = PassSpan {
            start: 0,
            len: length,
            prompt: length,
            phase: PassPhase::Prefill,
        };
        let transformer = &model.transformer;
        let entry = circuits[0].entry();
        let mut tap = CircuitTap::new(model, &circuits, length, self.guard().lenient());
        if circuits.iter().all(|circuit| circuit.base.is_some()) {
            let context = transformer.prepare(span)?;
            let x = tap.corrupted(if entry < transformer.blocks.len() {
                Site::ResidPre.at(entry)
            } else {
                Site::ResidPost.at(entry.saturating_sub(1))
            })?;
            transformer.on_thread_pool(|| {
                transformer.through(entry..transformer.blocks.len(), x, &context, None, &mut tap)
            })?;
        } else {
            let tokens = tensor(model, &texts, 0)?;
            transformer.on_thread_pool(|| transformer.trunk(&tokens, span, None, &mut tap))?;
        }
        let x = tap.read_by_logits()?;
        let fine = finite::rows(&x)?;
        let mut stats = Vec::new();
        if !wanted.is_empty() {
            let own = x.narrow(1, wanted.start, wanted.len())?.contiguous()?;
            stats = read_output(model, &own, &mut tap, |i| {
                let (row, at) = (i / wanted.len(), i % wanted.len());
                pass.output.ask(group[row], wanted.len() - 1 - at)
            })?;
        }
        let changes = std::mem::take(&mut tap.rows);
        let mut out = Vec::with_capacity(group.len());
        for (i, (row, state)) in group.iter().zip(changes).enumerate() {
            let own = stats.iter().skip(i * wanted.len()).take(wanted.len());
            let run = Arc::new(own_run(pass, &pass.rows[*row]));
            let kept = state.circuit.keep.then(|| {
                Arc::new(SenderChanges {
                    edges: state.circuit.edges.clone(),
                    by_sender: state.mixed.changes,
                })
            });
            out.push(Capture {
                output: own.cloned().collect(),
                broken: !fine[i],
                changes: kept,
                ..Capture::of(run, 0..length)
            });
        }
        Ok(out)
    }
}

fn refused(why: &str) -> Error {
    Error::Refused {
        address: "circuit".into(),
        why: why.into(),
    }
}
