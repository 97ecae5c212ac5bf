//! The guard of a pass: it tests whether streams and logits are finite, and if not, finds where that begins, why, and what to
//! do.
//!
//! Invariant: a pass whose output is not finite is an error, unless the caller looks at every row itself ([`Guard::lenient`]:
//! in the trials of a sweep a single one may overflow). There is one test for each step, read back once. To report another
//! cause, add a case in `Guard::explain`.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Tensor};

use super::apply::Program;
use super::row_programs::RowPrograms;
use crate::error::{Error, Result};
use crate::model::network::finite;
use crate::model::network::finite::NonFiniteFinder;
use crate::model::network::linear::Precision;
use crate::model::network::site::{Address, Site};
use crate::model::network::tap::{PassPhase, PassSpan, TapOutcome};
use crate::model::network::transformer::Transformer;

/// Stops a pass that is cancelled or whose numbers are not finite.
#[derive(Clone, Debug)]
pub struct Guard<'a> {
    transformer: &'a Transformer,
    cancel: &'a AtomicBool,
    strict: bool,
    tokens: Option<Tensor>,
    /// The verdict on the residual stream of a decoding step, kept until the verdict on its logits so that both are read back
    /// at once.
    held: Option<Tensor>,
}

impl<'a> Guard<'a> {
    /// A guard that refuses numbers that are not finite, and stops when `cancel` is raised.
    pub(crate) fn new(transformer: &'a Transformer, cancel: &'a AtomicBool) -> Self {
        Guard {
            transformer,
            cancel,
            strict: true,
            tokens: None,
            held: None,
        }
    }

    /// The network of the pass.
    pub(crate) fn transformer(&self) -> &'a Transformer {
        self.transformer
    }

    /// The attention window of a layer, in positions; none if a query sees all positions.
    pub(crate) fn window(&self, layer: usize) -> Option<usize> {
        self.transformer.blueprint.layers[layer].window
    }
}

impl Guard<'_> {
    /// Accepts numbers that are not finite: the caller looks at every row.
    #[must_use]
    pub fn lenient(self) -> Self {
        Self {
            strict: false,
            ..self
        }
    }

    /// As [`Guard::lenient`] if `lenient` is true.
    #[must_use]
    pub fn lenient_if(self, lenient: bool) -> Self {
        if lenient { self.lenient() } else { self }
    }

    /// Returns [`Error::Cancelled`] if the user has asked to stop.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) {
            Err(Error::Cancelled)
        } else {
            Ok(())
        }
    }

    /// Tests the residual stream that leaves the last block, and the logits.
    pub(crate) fn leaves(
        &mut self,
        leaving: TapOutcome,
        span: PassSpan,
        programs: &RowPrograms,
    ) -> Result<()> {
        if let TapOutcome::Stream { tokens, .. } = leaving {
            self.tokens = tokens.cloned();
        }
        if !self.strict {
            return Ok(());
        }
        // Products with quantized blocks can turn NaN into finite numbers, so the test cannot catch damaged weights there.
        let quantized = match self.transformer.precision {
            Precision::Dense(_) => false,
            Precision::Q8 | Precision::Stored(_) => true,
        };
        if quantized && !self.transformer.damage.is_empty() {
            return Err(self.model_error(None));
        }
        let mut verdicts: Vec<Tensor> = self.held.take().into_iter().collect();
        match leaving {
            TapOutcome::Stream { x, .. } => {
                verdicts.push(finite::stream(x)?);
                if span.phase == PassPhase::Decode {
                    self.held = verdicts.pop();
                    return Ok(());
                }
            }
            TapOutcome::Logits(x) => {
                let vocab = x.dim(candle_core::D::Minus1)?;
                verdicts.push(finite::logits(&x.reshape(((), vocab))?)?);
            }
            TapOutcome::Finite => {}
        }
        for program in programs.programs() {
            verdicts.extend(program.verdicts()?);
        }
        let overflowed = programs.programs().any(Program::overflowed);
        if finite::passed(&verdicts)? && !overflowed {
            Ok(())
        } else {
            Err(self.explain(programs))
        }
    }

    /// The error for a pass whose numbers are not finite: the cause and what to do.
    pub(crate) fn explain(&self, programs: &RowPrograms) -> Error {
        let edits: Vec<String> = programs
            .programs()
            .flat_map(Program::broken_edits)
            .collect();
        if !edits.is_empty() {
            return by_edits(&edits);
        }
        let active = programs.programs().flat_map(Program::active_edits);
        let active: Vec<String> = active.collect();
        match self.first_non_finite() {
            None if !active.is_empty() => by_edits(&active),
            at => self.model_error(at),
        }
    }

    /// The first address at which the unedited model's values are not finite, on the tokens of the pass read from position 0.
    fn first_non_finite(&self) -> Option<Address> {
        let tokens = self.tokens.as_ref()?;
        let length = tokens.dim(1).ok()?;
        let mut finder = NonFiniteFinder::default();
        let read = |finder: &mut NonFiniteFinder| -> Result<()> {
            let x = self
                .transformer
                .trunk(tokens, PassSpan::prompt(length), None, finder)?;
            let last = x.narrow(1, length - 1, 1)?.contiguous()?;
            self.transformer.read_out(&last, finder)?;
            Ok(())
        };
        match read(&mut finder) {
            Ok(()) | Err(_) => finder.first,
        }
    }

    /// The error where the unedited model itself is the cause: its weights, or the range of its dtype.
    fn model_error(&self, at: Option<Address>) -> Error {
        let place = at.map_or_else(
            || "The model's numbers are".to_string(),
            |at| {
                if matches!(at.site, Site::Logits | Site::LogitsRaw) {
                    return "The model's logits are".into();
                }
                format!("From `{at}` on the model's numbers are")
            },
        );
        not_finite(self.transformer, &place)
    }
}

/// The same error for any value computed from the model; `place` is the beginning of the sentence: "Its logits are".
pub(crate) fn not_finite(transformer: &Transformer, place: &str) -> Error {
    let what = format!("{place} not finite (NaN or infinity), so no result is read from them");
    let damage = &transformer.damage;
    let (stored, rounded): (Vec<_>, Vec<_>) = damage.iter().partition(|d| d.stored);
    let list = |of: &[&crate::model::network::finite::NonFinite]| {
        let first: Vec<String> = of.iter().take(3).map(|d| format!("`{}`", d.name)).collect();
        let more = of.len().saturating_sub(3);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        let plural = if of.len() == 1 { "" } else { "s" };
        format!("tensor{plural} {}{more}", first.join(", "))
    };
    let precision = transformer.precision;
    let dtype = precision.name();
    let (why, next, brief) = if !stored.is_empty() {
        (
                format!("the file itself holds such values, in {}", list(&stored)),
                "It is damaged, or was written that way: download it again; `lmscope doctor MODEL` lists every such tensor"
                    .to_string(),
                "damaged weights, see doctor",
            )
    } else if !rounded.is_empty() {
        (
            format!("{} holds values that do not fit {dtype}", list(&rounded)),
            "Load the model with --dtype f32".into(),
            "use --dtype f32",
        )
    } else if precision.compute() != DType::F32 {
        let end = if precision.compute() == DType::F16 {
            ", which ends at 65504"
        } else {
            ""
        };
        (
            format!("activations leave the range of {dtype}{end}"),
            "Load the model with --dtype f32".into(),
            "use --dtype f32",
        )
    } else {
        let next = match precision {
            Precision::Dense(_) => {
                "Do weights and config.json belong together? `lmscope doctor MODEL` measures them"
            }
            Precision::Q8 | Precision::Stored(_) => {
                "Load the model with --dtype f32; if that does not help, `lmscope doctor MODEL` measures it"
            }
        };
        (
            "the model's weights are finite, but activations leave the range of f32".into(),
            next.to_string(),
            "see lmscope doctor",
        )
    };
    Error::NotFinite {
        what: format!("{what}: {why}"),
        next,
        brief,
    }
}

/// The error where edits are the cause.
fn by_edits(edits: &[String]) -> Error {
    let named: Vec<String> = edits.iter().map(|e| format!("`{e}`")).collect();
    let (whose, it) = if edits.len() == 1 {
        ("edit", "it")
    } else {
        ("edits", "them")
    };
    Error::NotFinite {
        what: format!(
            "Under the {whose} {} the model's numbers are not finite (NaN or infinity), so no result is read from them: it is too strong",
            named.join(", ")
        ),
        next: format!("Lower the strength, or remove {it}"),
        brief: "lower the edit's strength",
    }
}
