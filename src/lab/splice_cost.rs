//! What it costs a text that a dictionary's reconstruction stands in place of an activation: how much less probable its own tokens become,
//! and which share of what zeros in its place would cost is kept.
//!
//! Invariant: the three runs (as it is, spliced, zeros) read the same tokens. Source: "loss recovered", Bricken et al. 2023 and
//! Gao et al. 2024 (2406.04093): `(CE_zero − CE_spliced) / (CE_zero − CE)`.

use super::capture::Output;
use super::lab::Lab;
use super::pass::Pass;
use super::run::Run;
use crate::edit::Edit;
use crate::edit::op::{Op, UnitChoice};
use crate::edit::schedule::Schedule;
use crate::error::Result;
use crate::text;

/// The least cost of zeros in nats of which a share says anything.
const LEAST: f64 = 1e-3;

impl Lab {
    /// The cost over the last `window` tokens of a run, in a sentence; none where the edit is no splice, or nothing stands before a token.
    ///
    /// # Errors
    ///
    /// Those of the pass.
    pub(super) fn splice_cost(
        &mut self,
        run: &Run,
        alone: &Schedule,
        window: usize,
    ) -> Result<Option<String>> {
        let tokens = &run.tokens;
        let spliced = |edit: &Edit| matches!(edit.op, Op::Splice(_));
        let edits = || alone.stages.iter().flat_map(|stage| &stage.edits);
        if tokens.len() < 2 || !edits().any(spliced) {
            return Ok(None);
        }
        let mut zeros = alone.clone();
        for edit in zeros.stages.iter_mut().flat_map(|stage| &mut stage.edits) {
            edit.op = Op::Zero(UnitChoice::All);
        }
        let scored = tokens.len().saturating_sub(window).max(1)..tokens.len();
        let mut loss = |schedule: &Schedule| -> Result<f64> {
            let read = self.run_one(&Pass {
                output: Output::next_tokens([&tokens[..]], scored.clone()),
                lenient: true,
                ..Pass::after(run.clone().under(schedule), Output::default())
            })?;
            Ok(read.next_token_losses().sum::<f64>() / scored.len() as f64)
        };
        let (own, spliced, zero) = (loss(&Schedule::none())?, loss(alone)?, loss(&zeros)?);
        let recovered = if zero - own >= LEAST && zero.is_finite() {
            let share = (zero - spliced) / (zero - own);
            format!(", CE recovered {share:.3} (zeros in its place: 0, no splice: 1)")
        } else {
            String::new()
        };
        Ok(Some(format!(
            "ΔCE {:+.4} nats over {}{recovered}",
            spliced - own,
            text::counted(scored.len(), "token")
        )))
    }
}
