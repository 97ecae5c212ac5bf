//! The parameters of instruments, each declared once as a field of a struct.
//!
//! Invariant: a value is parsed once, where its text comes in (flag, form, session, ready prompt); inside there are types. The
//! name of a parameter, its accepted values, default and description are derived from the field; its flag, its form field, its
//! line of provenance and the reference follow from them. To add a parameter, add a field to the struct in the instrument's
//! `params!`; to add a kind of value, implement [`ParameterValue`] (for a choice of a few words: `choices!`).

use std::any::Any;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::edit::positions::Positions;
use crate::error::{Error, Result};

/// The values that a parameter accepts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ParamKind {
    /// A whole number from `lo` to `hi`.
    Count { lo: usize, hi: usize },
    /// A layer of the model, or `all` if that is the default.
    Layer,
    /// A token position; negative counts from the end.
    Position,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// Any text; a few values are suggested.
    Word(&'static [&'static str]),
    /// Any text.
    Text,
}

/// One parameter of an instrument: becomes a flag, a form field and a line of provenance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameter {
    /// The name, in lower case.
    pub name: &'static str,
    /// What it accepts.
    pub kind: ParamKind,
    /// The value if none is given, as text.
    pub default: &'static str,
    /// What the parameter does, in a sentence.
    pub about: &'static str,
    /// Earlier names, which are still read but no longer offered.
    pub older: &'static [&'static str],
    /// Earlier spellings of values, each with its current one; see [`ParameterValue::OLDER`].
    pub older_values: &'static [(&'static str, &'static str)],
    /// Whether it says nothing of a single prompt; see [`ParameterValue::OF_LISTS`].
    pub of_lists: bool,
}

impl Parameter {
    /// Whether `name` is the parameter's name or an earlier one.
    fn is_called(&self, name: &str) -> bool {
        self.name == name || self.older.contains(&name)
    }

    /// The earlier spellings of one of its values.
    pub fn older_spellings(&self, today: &str) -> impl Iterator<Item = &'static str> {
        let pairs = self.older_values.iter();
        pairs.filter(move |pair| pair.1 == today).map(|pair| pair.0)
    }
}

pub trait ParameterValue: Sized {
    /// The values that the type accepts.
    const KIND: ParamKind;
    /// The default of a parameter that declares none.
    const DEFAULT: &'static str = "";
    /// The description of a parameter that declares none.
    const ABOUT: &'static str = "";
    /// Earlier spellings that are still read, each with its current one.
    const OLDER: &'static [(&'static str, &'static str)] = &[];
    /// Whether it is about lists of prompts alone, so that figures of a single prompt do not name it.
    const OF_LISTS: bool = false;

    /// Parses a value.
    ///
    /// # Errors
    ///
    /// Describes what was expected instead.
    fn parse(text: &str) -> std::result::Result<Self, String>;

    /// The value as text, in the form that is parsed.
    fn print(&self) -> String;
}

/// The parameters of an instrument; see `params!`.
pub trait Params: Clone + std::fmt::Debug + PartialEq + Send + Sync + Sized + 'static {
    /// The parameters in their order.
    const ROWS: &'static [Parameter];

    /// Parses the given arguments; parameters that are not given have their defaults.
    ///
    /// # Errors
    ///
    /// When a parameter does not accept its value.
    fn parse(arguments: &Arguments) -> Result<Self>;

    /// The values as text, in the order of [`Params::ROWS`].
    fn print(&self) -> Vec<String>;
}

/// No parameters.
impl Params for () {
    const ROWS: &'static [Parameter] = &[];

    fn parse(_arguments: &Arguments) -> Result<Self> {
        Ok(())
    }

    fn print(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Values of parameters as text, by name, with the typed values that were parsed from them.
#[derive(Clone, Default)]
pub struct Arguments {
    pub given: BTreeMap<String, String>,
    /// The parsed parameters, if an instrument has read them.
    read: Option<Arc<dyn Any + Send + Sync>>,
}

impl std::fmt::Debug for Arguments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(&self.given).finish()
    }
}

impl PartialEq for Arguments {
    fn eq(&self, other: &Self) -> bool {
        self.given == other.given
    }
}

impl Eq for Arguments {}

impl Arguments {
    /// Arguments from values by name.
    pub fn of(given: BTreeMap<String, String>) -> Self {
        Self { given, read: None }
    }

    /// Sets a value.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.given.insert(name.to_string(), value.to_string());
        self.read = None;
        self
    }

    /// Takes away the file that a figure was saved to, and says which: it is written once, and measuring again would find its name taken.
    pub fn forget_saved(&mut self) -> Option<String> {
        let file = self.given.get_mut("save").filter(|file| !file.is_empty())?;
        self.read = None;
        Some(std::mem::take(file))
    }

    /// The arguments parsed as the parameters `P` of an instrument, in current spellings.
    pub(super) fn read<P: Params>(&self, instrument: &str) -> Result<Self> {
        Ok(Self {
            read: Some(self.params::<P>(instrument)?),
            ..self.today(P::ROWS)?
        })
    }

    /// The arguments with every earlier spelling of a name or value replaced by the current one. This is the only place that
    /// reads earlier spellings.
    fn today(&self, rows: &[Parameter]) -> Result<Self> {
        let mut given = BTreeMap::new();
        for (name, value) in &self.given {
            let row = rows.iter().find(|row| row.is_called(name));
            let pairs = row.map_or(&[][..], |row| row.older_values);
            let pair = pairs.iter().find(|(older, _)| older == value);
            let value = pair.map_or(value.as_str(), |(_, today)| today);
            let today = row.map_or(name.as_str(), |row| row.name);
            if given.insert(today.to_string(), value.to_string()).is_some() {
                let older = row.map_or_else(String::new, |row| row.older.join(", "));
                let expected = format!(
                    "one value for `{today}`, which was called {older} in earlier versions"
                );
                return Err(Error::argument(name, value, expected));
            }
        }
        Ok(Self::of(given))
    }

    /// The parameters `P`: as parsed before, or parsed now.
    pub(super) fn params<P: Params>(&self, instrument: &str) -> Result<Arc<P>> {
        let read = self.read.clone().and_then(|read| read.downcast().ok());
        if let Some(read) = read {
            return Ok(read);
        }
        let today = self.today(P::ROWS)?;
        today.fit(P::ROWS, instrument)?;
        P::parse(&today).map(Arc::new)
    }

    /// Refuses names that the instrument does not have, and choices that it does not offer.
    pub(super) fn fit(&self, rows: &[Parameter], instrument: &str) -> Result<()> {
        for (name, value) in &self.given {
            let Some(row) = rows.iter().find(|row| row.name == name) else {
                let known: Vec<&str> = rows.iter().map(|row| row.name).collect();
                let expected = format!("a parameter of {instrument}: {}", known.join(", "));
                return Err(Error::argument(name, value, expected));
            };
            if let ParamKind::Choice(words) = row.kind
                && !words.contains(&value.as_str())
            {
                let expected = format!("one of {}", words.join(", "));
                return Err(Error::argument(name, value, expected));
            }
        }
        Ok(())
    }

    /// The value of one parameter, or its default.
    ///
    /// # Errors
    ///
    /// When the parameter does not accept the value.
    pub fn value<V: ParameterValue>(&self, name: &str, default: &str) -> Result<V> {
        let text = self.given.get(name).map_or(default, String::as_str);
        V::parse(text).map_err(|expected| Error::argument(name, text, expected))
    }
}

/// The first of these texts that is not empty.
pub const fn first(texts: &[&'static str]) -> &'static str {
    let mut i = 0;
    while i < texts.len() {
        if !texts[i].is_empty() {
            return texts[i];
        }
        i += 1;
    }
    ""
}

/// Declares the parameters of an instrument: a struct with one field for each parameter.
///
/// The sentence above a field, on one line, describes the parameter in its help, its form and the reference. `= "..."` is its
/// default; the type may have one as well. `as "..."` gives a name that is not a Rust identifier, and `was "..." | "..."` earlier
/// names, which are still read.
///
/// ```text
/// params! {
///     /// What `settle` is asked.
///     pub struct SettleParams {
///         /// how many of the last positions to read
///         window: Count<1, 4096> = "64",
///         /// a file of held-out prompts
///         held_out as "held-out" was "kept": String,
///     }
/// }
/// ```
macro_rules! params {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $(
                $(#[doc = $about:literal])?
                $field:ident $(as $word:literal)? $(was $($older:literal)|+)? : $type:ty $(= $default:expr)?
            ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)] // a parameter that several instruments have gets its sentence from its type
        #[allow(rustdoc::broken_intra_doc_links)] // the sentences are help, and their brackets no links
        pub struct $name {
            $( $(#[doc = $about])? pub $field: $type, )*
        }

        impl $crate::instruments::params::Params for $name {
            const ROWS: &'static [$crate::instruments::params::Parameter] = &[
                $( $crate::instruments::params::Parameter {
                    name: $crate::instruments::params::first(&[$($word,)? stringify!($field)]),
                    kind: <$type as $crate::instruments::params::ParameterValue>::KIND,
                    default: $crate::instruments::params::first(&[
                        $($default,)? <$type as $crate::instruments::params::ParameterValue>::DEFAULT
                    ]),
                    about: $crate::instruments::params::first(&[
                        $($about,)? <$type as $crate::instruments::params::ParameterValue>::ABOUT
                    ]).trim_ascii(),
                    older: &[$( $($older),+ )?],
                    older_values: <$type as $crate::instruments::params::ParameterValue>::OLDER,
                    of_lists: <$type as $crate::instruments::params::ParameterValue>::OF_LISTS,
                }, )*
            ];

            fn parse(arguments: &$crate::instruments::params::Arguments) -> $crate::error::Result<Self> {
                Ok(Self {
                    $( $field: arguments.value(
                        $crate::instruments::params::first(&[$($word,)? stringify!($field)]),
                        $crate::instruments::params::first(&[
                            $($default,)? <$type as $crate::instruments::params::ParameterValue>::DEFAULT
                        ]),
                    )?, )*
                })
            }

            fn print(&self) -> Vec<String> {
                vec![ $( $crate::instruments::params::ParameterValue::print(&self.$field), )* ]
            }
        }
    };
}

/// Declares a parameter that is one of a few words: an enum with a word for each variant, in the order in which they are
/// offered; words after `|` are earlier spellings that are still read. With `for TYPE` the words are those of an enum that is
/// declared elsewhere.
macro_rules! choices {
    (
        $(#[$meta:meta])*
        pub enum $name:ident { $( $(#[$doc:meta])* $variant:ident = $word:literal $(| $older:literal)* ),* $(,)? }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)] // a variant is what its word says
        pub enum $name { $( $(#[$doc])* $variant, )* }

        $crate::instruments::params::choices! { for $name { $($variant = $word $(| $older)*),* } }
    };
    (
        for $name:ty { $( $variant:ident = $word:literal $(| $older:literal)* ),* $(,)? } $(= $default:literal, $about:literal)?
    ) => {
        impl $crate::instruments::params::ParameterValue for $name {
            const KIND: $crate::instruments::params::ParamKind =
                $crate::instruments::params::ParamKind::Choice(&[$($word),*]);
            const OLDER: &'static [(&'static str, &'static str)] = &[$( $( ($older, $word), )* )*];
            $( const DEFAULT: &'static str = $default; const ABOUT: &'static str = $about; )?

            fn parse(text: &str) -> std::result::Result<Self, String> {
                match text {
                    $( $word => Ok(Self::$variant), )*
                    _ => Err(format!("one of {}", [$($word),*].join(", "))),
                }
            }

            fn print(&self) -> String {
                match self { $( Self::$variant => $word, )* }.to_string()
            }
        }
    };
}

pub(crate) use {choices, params};

/// A whole number from `LO` to `HI`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count<const LO: usize, const HI: usize>(pub usize);

impl<const LO: usize, const HI: usize> ParameterValue for Count<LO, HI> {
    const KIND: ParamKind = ParamKind::Count { lo: LO, hi: HI };

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let number = text.parse().ok().filter(|n| (LO..=HI).contains(n));
        number
            .map(Self)
            .ok_or_else(|| format!("a whole number from {LO} to {HI}"))
    }

    fn print(&self) -> String {
        self.0.to_string()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerOrAll(pub Option<usize>);

impl LayerOrAll {
    /// The layer, checked against the number of layers; none for all layers.
    ///
    /// # Errors
    ///
    /// When the model has no such layer.
    pub fn within(self, layers: usize) -> Result<Option<usize>> {
        match self.0.filter(|layer| *layer >= layers) {
            None => Ok(self.0),
            Some(layer) => {
                let expected = format!("`all` or a layer from 0 to {}", layers - 1);
                Err(Error::argument("layer", layer, expected))
            }
        }
    }
}

impl ParameterValue for LayerOrAll {
    const KIND: ParamKind = ParamKind::Layer;

    fn parse(text: &str) -> std::result::Result<Self, String> {
        match text {
            "all" => Ok(Self(None)),
            text => text
                .parse()
                .map(|layer| Self(Some(layer)))
                .map_err(|_| "`all` or the number of a layer".into()),
        }
    }

    fn print(&self) -> String {
        self.0
            .map_or_else(|| "all".into(), |layer| layer.to_string())
    }
}

/// A token position; negative counts from the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position(pub i64);

impl Position {
    /// The position in a text of `tokens` tokens.
    ///
    /// # Errors
    ///
    /// When the text has no such position.
    pub fn within(self, tokens: usize) -> Result<usize> {
        self.named("position", tokens)
    }

    /// The position, with errors that name this parameter.
    pub(super) fn named(self, name: &str, tokens: usize) -> Result<usize> {
        let at = if self.0 < 0 {
            self.0 + tokens as i64
        } else {
            self.0
        };
        if (0..tokens as i64).contains(&at) {
            return Ok(at as usize);
        }
        let expected = format!(
            "a position from 0 to {}, or -1 for the last",
            tokens.saturating_sub(1)
        );
        Err(Error::argument(name, self.0.to_string(), expected))
    }
}

impl ParameterValue for Position {
    const KIND: ParamKind = ParamKind::Position;
    const DEFAULT: &'static str = "-1";

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let number = text.parse().map(Self);
        number.map_err(|_| "the number of a position, or -1 for the last".into())
    }

    fn print(&self) -> String {
        self.0.to_string()
    }
}

impl ParameterValue for String {
    const KIND: ParamKind = ParamKind::Text;

    fn parse(text: &str) -> std::result::Result<Self, String> {
        Ok(text.to_string())
    }

    fn print(&self) -> String {
        self.clone()
    }
}

/// `no` or `yes`.
impl ParameterValue for bool {
    const KIND: ParamKind = ParamKind::Choice(&["no", "yes"]);
    const DEFAULT: &'static str = "no";

    fn parse(text: &str) -> std::result::Result<Self, String> {
        match text {
            "no" => Ok(false),
            "yes" => Ok(true),
            _ => Err("one of no, yes".into()),
        }
    }

    fn print(&self) -> String {
        if *self { "yes" } else { "no" }.into()
    }
}

/// An optional text: none if it is empty.
impl ParameterValue for Option<String> {
    const KIND: ParamKind = ParamKind::Text;

    fn parse(text: &str) -> std::result::Result<Self, String> {
        Ok((!text.is_empty()).then(|| text.to_string()))
    }

    fn print(&self) -> String {
        self.clone().unwrap_or_default()
    }
}

/// An optional file: none if its name is empty.
impl ParameterValue for Option<PathBuf> {
    const KIND: ParamKind = ParamKind::Text;

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let name = text.trim();
        Ok((!name.is_empty()).then(|| name.into()))
    }

    fn print(&self) -> String {
        let name = self.as_deref().map(std::path::Path::display);
        name.map_or_else(String::new, |name| name.to_string())
    }
}

/// Positions of a text, in the syntax of edits.
impl ParameterValue for Positions {
    const KIND: ParamKind = ParamKind::Text;
    const DEFAULT: &'static str = "all";
    const ABOUT: &'static str = "which positions, as in edits";

    fn parse(text: &str) -> std::result::Result<Self, String> {
        text.parse().map_err(|error| {
            if let Error::BadArgument { expected, .. } = error {
                expected
            } else {
                error.to_string()
            }
        })
    }

    fn print(&self) -> String {
        self.to_string()
    }
}

/// A number from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fraction(pub f64);

impl ParameterValue for Fraction {
    const KIND: ParamKind = ParamKind::Text;

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let number = text.trim().parse().ok();
        let within = number.filter(|n| (0.0..=1.0).contains(n));
        within
            .map(Self)
            .ok_or_else(|| "a number from 0 to 1".into())
    }

    fn print(&self) -> String {
        self.0.to_string()
    }
}

/// A number, 0 or more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NonNegative(pub f64);

impl ParameterValue for NonNegative {
    const KIND: ParamKind = ParamKind::Text;

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let number = text.trim().parse().ok();
        let within = number.filter(|n| (0.0..=f64::MAX).contains(n));
        within.map(Self).ok_or_else(|| "a number, 0 or more".into())
    }

    fn print(&self) -> String {
        self.0.to_string()
    }
}

/// A list of strengths.
#[derive(Clone, Debug, PartialEq)]
pub struct Strengths(pub Vec<f32>);

impl Strengths {
    pub const MOST: usize = 64;
}

impl ParameterValue for Strengths {
    const KIND: ParamKind = ParamKind::Text;

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let number = |part: &str| part.trim().parse::<f32>().ok().filter(|n| n.is_finite());
        let numbers: Option<Vec<f32>> = text.split(',').map(number).collect();
        numbers
            .filter(|numbers| numbers.len() <= Self::MOST)
            .map(Self)
            .ok_or_else(|| format!("1 to {} numbers between commas", Self::MOST))
    }

    fn print(&self) -> String {
        let numbers: Vec<String> = self.0.iter().map(f32::to_string).collect();
        numbers.join(",")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    choices! {
        /// A choice.
        pub enum Colour { Red = "red", DeepBlue = "deep_blue" | "navy" | "ink" }
    }

    params! {
        /// Parameters of a made-up instrument.
        pub struct SettleParams {
            /// how many
            count: Count<1, 9> = "4",
            /// which colour
            colour was "tint" | "paint": Colour = "deep_blue",
            /// a file of others
            held_out as "held-out" was "others": Option<PathBuf>,
            position: Position,
            /// which layer
            layer: LayerOrAll = "all",
            /// what stands between
            between: String = "\n",
        }
    }

    #[test]
    fn what_was_saved_is_not_saved_again() {
        let mut given = Arguments::default().with("save", "x.json").with("layer", 3);
        assert_eq!(given.forget_saved().as_deref(), Some("x.json"));
        assert_eq!(
            given,
            Arguments::default().with("save", "").with("layer", 3)
        );
        let mut other = Arguments::default().with("layer", 3);
        assert_eq!(other.forget_saved(), None);
        assert_eq!(other, Arguments::default().with("layer", 3));
    }

    fn parsed(given: &[(&str, &str)]) -> Result<Arc<SettleParams>> {
        let none = Arguments::default();
        let all = given.iter().fold(none, |all, (n, v)| all.with(n, v));
        all.params("test")
    }

    #[test]
    fn a_field_is_a_row_and_what_is_given_prints_as_it_was_read() {
        let names: Vec<&str> = SettleParams::ROWS.iter().map(|row| row.name).collect();
        assert_eq!(
            names,
            [
                "count", "colour", "held-out", "position", "layer", "between"
            ]
        );
        assert_eq!(SettleParams::ROWS[0].about, "how many");
        assert_eq!(
            SettleParams::ROWS[0].kind,
            ParamKind::Count { lo: 1, hi: 9 }
        );
        assert_eq!(
            SettleParams::ROWS[1].kind,
            ParamKind::Choice(&["red", "deep_blue"])
        );
        assert_eq!(SettleParams::ROWS[3].default, "-1");
        let defaults = parsed(&[]).unwrap();
        assert_eq!(defaults.count, Count(4));
        assert_eq!(defaults.print(), ["4", "deep_blue", "", "-1", "all", "\n"]);
        let given = parsed(&[("colour", "red"), ("held-out", " a.txt "), ("layer", "3")]).unwrap();
        assert_eq!(given.colour, Colour::Red);
        assert_eq!(given.print(), ["4", "red", "a.txt", "-1", "3", "\n"]);
    }

    #[test]
    fn older_spellings_are_read_as_todays_and_named_nowhere() {
        let today = parsed(&[("colour", "red"), ("held-out", "a.txt")]).unwrap();
        for (colour, file) in [("tint", "others"), ("paint", "held-out")] {
            assert_eq!(parsed(&[(colour, "red"), (file, "a.txt")]).unwrap(), today);
        }
        for older in ["navy", "ink"] {
            let given = Arguments::default().with("tint", older);
            let read = given.read::<SettleParams>("test").unwrap();
            assert_eq!(read.given["colour"], "deep_blue");
            assert_eq!(read.given.len(), 1);
            assert_eq!(parsed(&[("colour", older)]).unwrap(), parsed(&[]).unwrap());
        }
        let row = SettleParams::ROWS[1];
        assert_eq!(row.kind, ParamKind::Choice(&["red", "deep_blue"]));
        assert_eq!(
            row.older_spellings("deep_blue").collect::<Vec<_>>(),
            ["navy", "ink"]
        );
        assert_eq!(row.older_spellings("red").count(), 0);
        let error = parsed(&[("tint", "red"), ("colour", "red")]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("was called tint, paint in earlier versions"),
            "{error}"
        );
        let error = parsed(&[("colour", "green")]).unwrap_err().to_string();
        assert!(!error.contains("navy"), "{error}");
    }

    #[test]
    fn what_no_parameter_accepts_is_refused_with_what_it_does() {
        for (name, value, expected) in [
            ("count", "10", "a whole number from 1 to 9"),
            ("count", "x", "a whole number from 1 to 9"),
            ("colour", "green", "one of red, deep_blue"),
            ("layer", "last", "`all` or the number of a layer"),
            ("position", "end", "the number of a position"),
            ("size", "1", "a parameter of test: count, colour"),
        ] {
            let error = parsed(&[(name, value)]).unwrap_err().to_string();
            assert!(
                error.contains(expected) && error.contains(value),
                "{name}: {error}"
            );
        }
    }

    #[test]
    fn layers_and_positions_are_checked_against_what_there_is() {
        assert_eq!(LayerOrAll(None).within(2).unwrap(), None);
        assert_eq!(LayerOrAll(Some(1)).within(2).unwrap(), Some(1));
        assert!(LayerOrAll(Some(2)).within(2).is_err());
        assert_eq!(Position(-2).within(5).unwrap(), 3);
        assert_eq!(Position(4).within(5).unwrap(), 4);
        assert!(Position(5).within(5).is_err() && Position(-6).within(5).is_err());
    }

    #[test]
    fn arguments_that_were_read_are_not_read_again_until_they_change() {
        let given = Arguments::default().with("count", 7);
        let read = given.read::<SettleParams>("test").unwrap();
        assert_eq!(read, given);
        let first = read.params::<SettleParams>("test").unwrap();
        assert!(Arc::ptr_eq(
            &first,
            &read.params::<SettleParams>("test").unwrap()
        ));
        let other = read
            .with("count", 8)
            .params::<SettleParams>("test")
            .unwrap();
        assert_eq!((first.count, other.count), (Count(7), Count(8)));
    }
}
