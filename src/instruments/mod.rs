//! Instruments: one file a method, each turning a question about a run into a [`Figure`].
//!
//! Invariant: an instrument knows nothing of screens or command lines; parameters, panes, palette entries,
//! subcommands and exports are derived from its row. To add one, write `instruments/x.rs` with a unit struct
//! that implements [`Instrument`], and add a word to [`INSTRUMENTS`].

pub mod attention;
pub mod backpatch;
pub mod knockout;
pub mod knowledge;
pub mod logit_lens;
pub mod neurons;
pub mod patching;
pub mod patchscope;
pub mod residual;
pub mod steering;

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::figure::Figure;
use crate::lab::bench::Bench;
use crate::lab::run::Run;
use crate::lab::trials::Cost;
use crate::lab::writer::{Needs, Step};
use crate::model::Card;

/// What a parameter accepts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A whole number from `lo` to `hi`.
    Count {
        /// Lowest.
        lo: usize,
        /// Highest.
        hi: usize,
    },
    /// A layer of the model, or `all` where the default says so.
    Layer,
    /// A token position; negative counts from the end.
    Position,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// Any text, of which a few are known.
    Word(&'static [&'static str]),
    /// Any text.
    Text,
}

/// One parameter of an instrument: becomes a flag, a form field and a line of provenance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameter {
    /// Its name, lower case.
    pub name: &'static str,
    /// What it accepts.
    pub kind: Kind,
    /// The value when none is given.
    pub default: &'static str,
    /// One sentence.
    pub about: &'static str,
}

/// Values of parameters, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments(pub BTreeMap<String, String>);

impl Arguments {
    /// Sets a value.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.0.insert(name.to_string(), value.to_string());
        self
    }

    /// The text of a parameter, or its default.
    pub fn text<'a>(&'a self, of: &'a dyn Instrument, name: &str) -> &'a str {
        let default = of
            .parameters()
            .iter()
            .find(|p| p.name == name)
            .map_or("", |p| p.default);
        self.0.get(name).map_or(default, String::as_str)
    }

    /// A whole number, checked against its range.
    pub fn count(&self, of: &dyn Instrument, name: &str) -> Result<usize> {
        let text = self.text(of, name);
        let (lo, hi) = match of
            .parameters()
            .iter()
            .find(|p| p.name == name)
            .map(|p| p.kind)
        {
            Some(Kind::Count { lo, hi }) => (lo, hi),
            _ => (0, usize::MAX),
        };
        let expected = || format!("a whole number from {lo} to {hi}");
        text.parse()
            .ok()
            .filter(|n| (lo..=hi).contains(n))
            .ok_or_else(|| Error::argument(name, text, expected()))
    }

    /// A layer, or `None` for `all`.
    pub fn layer(&self, of: &dyn Instrument, name: &str, layers: usize) -> Result<Option<usize>> {
        match self.text(of, name) {
            "all" => Ok(None),
            text => {
                let layer = text.parse::<usize>().ok().filter(|l| *l < layers);
                layer.map(Some).ok_or_else(|| {
                    Error::argument(
                        name,
                        text,
                        format!("`all` or a layer from 0 to {}", layers - 1),
                    )
                })
            }
        }
    }

    /// A position in a text of `tokens` tokens; negative counts from the end.
    pub fn position(&self, of: &dyn Instrument, name: &str, tokens: usize) -> Result<usize> {
        let text = self.text(of, name);
        let number = text
            .parse::<i64>()
            .ok()
            .map(|p| if p < 0 { p + tokens as i64 } else { p });
        number
            .filter(|p| (0..tokens as i64).contains(p))
            .map(|p| p as usize)
            .ok_or_else(|| {
                Error::argument(
                    name,
                    text,
                    format!(
                        "a position from 0 to {}, or -1 for the last",
                        tokens.saturating_sub(1)
                    ),
                )
            })
    }

    /// Refuses names that the instrument does not have and choices it does not offer.
    pub fn check(&self, of: &dyn Instrument) -> Result<()> {
        for (name, value) in &self.0 {
            let Some(parameter) = of.parameters().iter().find(|p| p.name == name) else {
                let known = of
                    .parameters()
                    .iter()
                    .map(|p| p.name)
                    .collect::<Vec<_>>()
                    .join(", ");
                return Err(Error::argument(
                    name,
                    value,
                    format!("a parameter of {}: {known}", of.name()),
                ));
            };
            if let Kind::Choice(words) = parameter.kind
                && !words.contains(&value.as_str())
            {
                return Err(Error::argument(
                    name,
                    value,
                    format!("one of {}", words.join(", ")),
                ));
            }
        }
        Ok(())
    }
}

/// A method.
pub trait Instrument: Sync {
    /// Its name: pane, subcommand and slot.
    fn name(&self) -> &'static str;
    /// One sentence.
    fn about(&self) -> &'static str;
    /// The source: paper and equation or section.
    fn source(&self) -> &'static str;
    /// Its parameters.
    fn parameters(&self) -> &'static [Parameter];
    /// What it reads at every new position; `None` when it is no live instrument.
    fn live(&self, _card: &Card, _arguments: &Arguments) -> Option<Needs> {
        None
    }
    /// The newest position's part of the figure.
    fn column(&self, _step: &Step, _arguments: &Arguments, _bench: &mut Bench) -> Result<Figure> {
        Err(Error::Engine(format!("{} has no live form", self.name())))
    }
    /// Whether the rows of its live figure follow the edits, so that a change of them asks for the whole of it anew.
    fn rows_follow_edits(&self) -> bool {
        false
    }
    /// Whether it reads the run's own text under these arguments; where it does not, the command line asks for none,
    /// and the screen shows it without one.
    fn needs_prompt(&self, _arguments: &Arguments) -> bool {
        true
    }
    /// Whether it reads the run's own text under any arguments.
    fn always_needs_prompt(&self) -> bool {
        true
    }
    /// Whether it asks what follows the run's last token, so that on the screen the text it reads ends at the cursor.
    fn reads_end(&self) -> bool {
        false
    }
    /// What [`Instrument::observe`] will take, for sweeps: said before they start.
    fn cost(&self, _tokens: usize, _arguments: &Arguments, _card: &Card) -> Option<Cost> {
        None
    }
    /// The whole figure.
    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure>;
}

impl Arguments {
    /// The instrument and its parameters as used, for provenance.
    pub fn provenance(&self, of: &dyn Instrument) -> Vec<(String, String)> {
        let own = of
            .parameters()
            .iter()
            .map(|p| (p.name.to_string(), self.text(of, p.name).to_string()));
        std::iter::once(("instrument".to_string(), of.name().to_string()))
            .chain(own)
            .collect()
    }
}

/// Makes the figure of an instrument, and says how many of its numbers are not finite.
///
/// # Errors
///
/// Those of the instrument.
pub fn observe(
    of: &dyn Instrument,
    run: &Run,
    arguments: &Arguments,
    bench: &mut Bench,
) -> Result<Figure> {
    let mut figure = of.observe(run, arguments, bench)?;
    figure.mark_not_finite();
    Ok(figure)
}

/// Every instrument.
pub const INSTRUMENTS: &[&dyn Instrument] = &[
    &crate::instruments::logit_lens::lens::Lens,
    &neurons::Neurons,
    &patchscope::Patchscope,
    &backpatch::Backpatch,
    &patching::Patching,
    &crate::instruments::steering::sweep::Sweep,
    &crate::instruments::attention::heads::Heads,
    &residual::Residual,
    &attention::Attention,
    &knockout::Knock,
    &crate::instruments::neurons::value::Value,
    &crate::instruments::neurons::triggers::Triggers,
    &crate::instruments::neurons::promoters::Promoters,
    &crate::instruments::knowledge::fact::Fact,
    &crate::instruments::knowledge::dose::Dose,
    &crate::instruments::steering::select::Select,
    &crate::instruments::steering::meters::Meters,
    &crate::instruments::logit_lens::track::Track,
    &crate::instruments::logit_lens::settle::Settle,
    &crate::instruments::logit_lens::trajectory::Trajectory,
    &crate::instruments::logit_lens::languages::Languages,
];

/// How many of [`INSTRUMENTS`], from the first on, are always at work on a growing text; others only while they have a place on
/// the screen.
pub const STEADY: usize = 2;

/// Finds an instrument by name.
pub fn instrument(name: &str) -> Result<&'static dyn Instrument> {
    INSTRUMENTS
        .iter()
        .copied()
        .find(|i| i.name() == name)
        .ok_or_else(|| {
            let known = INSTRUMENTS
                .iter()
                .map(|i| i.name())
                .collect::<Vec<_>>()
                .join(", ");
            Error::argument("instrument", name, format!("one of {known}"))
        })
}
