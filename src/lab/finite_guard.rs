//! The guard of a pass: whether what it came to is finite, and if not, where that begins, why, and the way out.
//!
//! Invariant: a pass whose output is not finite is an error, unless the caller said that it looks at every row itself
//! ([`Guard::lenient`]: trials of a sweep, where one of many may overflow). One test a step, read back once.
//! To blame something else, add a case in `Guard::explain`.

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

/// What a tap of the lab stops for.
#[derive(Clone, Debug)]
pub struct Guard<'a> {
    transformer: &'a Transformer,
    cancel: &'a AtomicBool,
    strict: bool,
    tokens: Option<Tensor>,
    /// The verdict on the stream of a step, which waits for that on its logits.
    held: Option<Tensor>,
}

impl<'a> Guard<'a> {
    /// A guard that refuses what is not finite, and stops when `cancel` is raised.
    pub(crate) fn new(transformer: &'a Transformer, cancel: &'a AtomicBool) -> Self {
        Guard {
            transformer,
            cancel,
            strict: true,
            tokens: None,
            held: None,
        }
    }

    /// How many positions a query of a layer sees; none for all.
    pub(crate) fn window(&self, layer: usize) -> Option<usize> {
        self.transformer.blueprint.layers[layer].window
    }
}

impl Guard<'_> {
    /// Lets pass what is not finite: the caller looks at every row.
    #[must_use]
    pub fn lenient(self) -> Self {
        Self {
            strict: false,
            ..self
        }
    }

    /// Lets pass what is not finite where that is so.
    #[must_use]
    pub fn lenient_if(self, lenient: bool) -> Self {
        if lenient { self.lenient() } else { self }
    }

    /// Stops where the user wants it.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) {
            Err(Error::Cancelled)
        } else {
            Ok(())
        }
    }

    /// Looks at what leaves the blocks, and at logits.
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
        // Products with quantized blocks lose NaN on their way, so that broken weights may come out as finite nonsense.
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

    /// Why the numbers of a pass are not finite.
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

    /// Where the unedited model stops being finite on the tokens of the pass, from position 0.
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

    /// The model's own numbers: its weights, or the range of its dtype.
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

/// The same for what is read of a model, as the beginning of a sentence: "Its logits are".
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
            "its weights are finite, but its activations leave the range of f32".into(),
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

/// Edits that did it.
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
