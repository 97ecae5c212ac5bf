//! Circuits that are left alone, as parts of a program: what receivers read of them, what they take of senders, and what is measured.
//!
//! Invariant: at every position at most one circuit is in force. What a circuit makes of a pass is in [`super::only`]; to let one do
//! something else between edits, add it here and to [`super::tap::RunTap`].

use candle_core::Tensor;

use super::apply::{Program, covered};
use super::circuit::means::MeanCircuit;
use super::only::{CircuitRule, OnlyCircuit, refused_beside};
use crate::error::{Error, Result};
use crate::model::network::site::{Address, Site};
use crate::model::network::tap::PassSpan;
use crate::model::network::transformer::Transformer;

impl Program {
    /// Whether a circuit reads or changes the value at this address.
    pub(crate) fn has_circuit_at(&self, at: Address) -> bool {
        self.circuits.iter().any(|circuit| circuit.visits(at))
    }

    /// Runs everything under a circuit, as a row of a pass asks for it.
    ///
    /// # Errors
    ///
    /// When an edit is a circuit already.
    pub(crate) fn run_under(&mut self, circuit: &MeanCircuit) -> Result<()> {
        if !self.circuits.is_empty() {
            return Err(Error::Refused {
                address: "circuit".into(),
                why: "an edit leaves a circuit alone already (`only`). Switch it off.".into(),
            });
        }
        let own = OnlyCircuit::new(circuit.clone(), 1.0, None);
        self.circuits.push(own);
        Ok(())
    }

    /// Gives receivers what they read under a circuit, before edits act on it.
    pub(crate) fn give_streams(
        &mut self,
        transformer: &Transformer,
        at: Address,
        mut x: Tensor,
    ) -> Result<Tensor> {
        for circuit in &mut self.circuits {
            let mut moves = Vec::new();
            x = circuit.read(transformer, at, x, &mut moves)?;
            note(&mut self.measured, circuit.rule.as_ref(), moves);
        }
        Ok(x)
    }

    /// Lets circuits take what senders write, after edits and patches have acted on it.
    pub(crate) fn take_writes(
        &mut self,
        transformer: &Transformer,
        at: Address,
        mut x: Tensor,
        span: PassSpan,
    ) -> Result<Tensor> {
        let (rows, tokens) = (x.dim(0)?, x.dim(1)?);
        for circuit in &mut self.circuits {
            if at.site == Site::Embed {
                let covered = match &circuit.rule {
                    None => vec![true; rows * tokens],
                    Some(rule) => {
                        let (edit, held) = (&rule.edit, (&rule.span, rule.watch));
                        covered(edit, held, &self.watches, self.prompt, span, rows, tokens)
                    }
                };
                x = circuit.enter(&x, &covered, span)?;
                continue;
            }
            let mut moves = Vec::new();
            x = circuit.write(transformer, at, x, &mut moves)?;
            note(&mut self.measured, circuit.rule.as_ref(), moves);
        }
        Ok(x)
    }

    /// Why a value cannot be recorded in this pass; none where it can.
    pub(crate) fn hides(&self, site: Site) -> Option<&'static str> {
        let mut at_work = self.circuits.iter().filter(|own| own.is_at_work());
        let reads = matches!(site, Site::AttnIn | Site::MlpNormed);
        at_work.next().filter(|_| reads)?;
        refused_beside(site)
    }
}

/// Notes how far a circuit moved what was read, for its receipt.
fn note(
    measured: &mut Vec<(usize, usize, f64)>,
    rule: Option<&CircuitRule>,
    moves: Vec<(usize, f64)>,
) {
    if let Some(rule) = rule {
        let moves = moves.into_iter();
        measured.extend(moves.map(|(position, moved)| (rule.receipt, position, moved)));
    }
}
