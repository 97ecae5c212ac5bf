//! Operations: what an edit may do to the value at its address, each with what it works with.
//!
//! Invariant: an operation carries its own argument, so that an illegal pair cannot be written; names, help, grammar, the
//! sites it acts on and the neutral strength are read off its row, and what it works with is looked up by what its argument
//! mentions. To add an operation, add a row to `operations!` below and its formula to `lab/formulas/mod.rs`, where the compiler then asks
//! for it. To add a kind of argument, add an `argument!` below.

use std::any::Any;
use std::fmt;
use std::str::FromStr;

use super::feature::{FeatureChoice, direction_name};
use super::positions::Positions;
use super::quotes::{LinePiece, QuotedLine, named, quoted, read};
use crate::error::Error;
use crate::model::network::site::Site;

/// Where an operation acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpSites {
    /// Acts on the values of a site: a vector or units at every position.
    Values,
    /// On one site alone, which the sentence gives as the reason for refusing others.
    Only(Site, &'static str),
    /// On the edges between heads and MLPs, which no site has; the sentence gives that as the reason for refusing sites.
    Edges(&'static str),
}

/// One row of [`OPS`].
pub struct OpSpec {
    pub name: &'static str,
    /// The strength at which it does nothing.
    pub neutral: f32,
    pub acts: OpSites,
    /// One sentence.
    pub about: &'static str,
    /// An edit that does it, as it prints; the demo has what it names.
    pub example: &'static str,
    pub(crate) read: fn(ArgumentText<'_>) -> Result<Op, String>,
}

macro_rules! operations {
    ($($(#[$doc:meta])* $op:ident($argument:ty) $name:literal $neutral:literal $acts:expr, $about:literal $example:literal;)*) => {
        /// What an edit does to the value `x` at its address, and with what; `c` is the strength, `v̂` a unit vector.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op { $($(#[$doc])* $op($argument)),* }

        /// Every operation.
        pub const OPS: &[OpSpec] = &[$(OpSpec {
            name: $name, neutral: $neutral, acts: $acts, about: $about, example: $example,
            read: |typed| <$argument>::of(typed).map(Op::$op),
        }),*];

        impl Op {
            /// Its row.
            pub fn spec(&self) -> &'static OpSpec {
                enum OpRow { $($op),* }
                &OPS[match self { $(Self::$op(_) => OpRow::$op as usize),* }]
            }

            /// The argument of the operation.
            pub fn argument(&self) -> &dyn Argument {
                match self { $(Self::$op(argument) => argument),* }
            }

            /// Whether it leaves a circuit alone.
            pub fn is_only(&self) -> bool {
                matches!(self, Self::Only(_))
            }

            /// The strengths that it can have.
            pub fn strengths(&self) -> std::ops::RangeInclusive<f32> {
                if self.is_only() {
                    0.0..=1.0
                } else {
                    f32::MIN..=f32::MAX
                }
            }

            /// Whether the argument names a direction.
            pub fn directed(&self) -> bool {
                self.argument().mentions().directions[0].is_some()
            }
        }
    };
}

operations! {
    /// `x + c·v`, the direction as it is.
    Add(DirectionName) "add" 0.0 OpSites::Values, "adds strength times a direction, as it is (activation addition)" "add:mood@resid_pre.4*0.5";
    /// `x + c·‖x‖·v̂`, with `|c|` at most 1.
    AddUnitNorm(DirectionName) "add_unit_norm" 0.0 OpSites::Values, "adds strength times the norm of the activation, along a direction; at most once that norm" "add_unit_norm:mood@resid_pre.4*0.2";
    /// `y·‖x‖/‖y‖` with `y = x + c·v` (repeng's `normalize`).
    AddRenorm(DirectionName) "add_renorm" 0.0 OpSites::Values, "adds strength times a direction, then restores the norm of the activation" "add_renorm:mood@resid_pre.4*0.5";
    /// `‖x‖·unit(x/‖x‖ + c·(1 + max(0, cos(x, −v)))·v̂)` (in-context vectors, Liu et al. 2023, 2311.06668).
    Icv(DirectionName) "icv" 0.0 OpSites::Values, "rotates towards a direction, more where the activation points away from it, and keeps the norm (in-context vectors)" "icv:mood@mlp_out.*:all*0.2";
    /// `x − c·(x·v̂)·v̂`.
    ProjectOut(DirectionName) "project_out" 0.0 OpSites::Values, "removes the component along a direction (directional ablation)" "project_out:refusal@writes";
    /// `x + (c − 1)·(x·v̂)·v̂`: 0 ablates, 1 changes nothing, −1 reflects.
    ScaleAlong(DirectionName) "scale_along" 1.0 OpSites::Values, "multiplies the component along a direction by the strength" "scale_along:refusal@resid_pre.4*-1";
    /// Moves `x·v̂` to the nearer bound where it lies outside; `c` of the way.
    ClampAlong(DirectionWithin) "clamp_along" 0.0 OpSites::Values, "clamps the component along a direction to bounds" "clamp_along:mood=-1..1@resid_pre.4";
    /// Moves `x·v̂` to a value; `c` of the way.
    SetAlong(DirectionTo) "set_along" 0.0 OpSites::Values, "sets the component along a direction to a value" "set_along:mood=2.5@resid_pre.4";
    /// `x − (x·ŝ)·ŝ + (x·ŝ)·t̂`; `c` of the way.
    Swap(TwoDirections) "swap" 0.0 OpSites::Values, "moves the component along one direction to another direction" "swap:mood>politeness@resid_pre.4";
    /// `x + c·(v − x)`.
    Replace(DirectionName) "replace" 0.0 OpSites::Values, "replaces the activation by a vector" "replace:mood@resid_pre.4:last";
    /// Units towards 0: `x·(1 − c)`.
    Zero(UnitChoice) "zero" 0.0 OpSites::Values, "ablates units (neurons, heads, coordinates; without a list all) or features of a dictionary: sets them to 0" "zero:17,52@mlp_act.3";
    /// Units towards their mean over a text or over the prompt (first token excluded): `x + c·(μ − x)`.
    Mean(UnitsMean) "mean" 0.0 OpSites::Values, "mean-ablates units: sets them to their mean over a text (`lmscope stats`), or over the prompt without its first token" "mean:3@z.1:last";
    /// Units towards what they are on another text, at the same position: `x + c·(other − x)`.
    Resample(UnitsAsIn) "resample" 0.0 OpSites::Values, "sets units to their values on another text, at the same position (resample ablation)" r#"resample:0,3="The king of Japan is"@z.2"#;
    /// Units times `c`.
    Scale(UnitChoice) "scale" 1.0 OpSites::Values, "multiplies units or features by the strength" "scale:17@mlp_act.3*2";
    /// Units towards a value: `x + c·(value − x)`.
    Set(UnitsTo) "set" 0.0 OpSites::Values, "sets units or features to a value, features to a multiple of their largest activation too (`=3x`)" "set:17=3.5@mlp_act.3";
    /// Turns what neurons write from one token to another: `v − c·‖v‖·û_from + 8c·‖v‖·û_to` (Dai et al. 2022,
    /// 2104.08696, section 5.1), as an overlay on the value vectors that leaves the weights as they are.
    Rewrite(UnitsTurn) "rewrite" 0.0
        OpSites::Only(Site::MlpAct, "`rewrite` changes the value vectors of neurons, so its address is mlp_act: rewrite:17=\"A\">\"B\"@mlp_act.L"),
        "turns the value vectors of neurons from one token to another, without changing the weights" r#"rewrite:17=" Paris">" Rome"@mlp_act.5"#;
    /// `x + c·W†(o' − o)`: makes the object of a linear relation that of another subject (Hernandez et al. 2024, 2308.09124,
    /// equation 5).
    Relate(RelationTurn) "relate" 0.0
        OpSites::Only(Site::ResidPost, "`relate` changes the state of a subject between blocks, so its address is resid_post: relate:FILE=\"A\">\"B\"@resid_post.L:token:\"A\""),
        "changes a subject's state so that a linear relation (a file of `relation`) gives the object of another subject" r#"relate:capital="France">"Japan"@resid_post.1:token:" France""#;
    /// `x + c·(x̂ − x)`: what a dictionary makes of the activation in its place; at `c` = 1 without what it leaves out.
    Splice(DictionaryName) "splice" 0.0 OpSites::Values, "replaces the activation by its reconstruction through a dictionary" "splice:layer_3@resid_post.3";
    /// Edges of attention: scores `s + ln(1 − c)` before the softmax, `-inf` at full strength (attention knockout, Geva et
    /// al. 2023, 2304.14767). A position always reads itself.
    Cut(CutEdges) "cut" 0.0
        OpSites::Only(Site::AttnScores, "`cut` acts on attention scores: cut:2=0..4@attn_scores.L"),
        "attention knockout: positions cannot attend to some others, in some heads or all; each can still attend to itself" r#"cut:2=text:" France"@attn_scores.*:last"#;
    /// Every receiver reads the means of all senders, with what those really write that the circuit keeps an edge from (mean
    /// ablation of a circuit's complement; Wang et al. 2022, 2211.00593, section 3.1); `c` of the way.
    Only(CircuitName) "only" 0.0
        OpSites::Edges("`only` acts on what heads and MLPs read of each other, so its address is edges: only:CIRCUIT@edges"),
        "leaves a saved circuit alone: whatever comes over an edge outside it is its mean over the corrupted texts of the pairs that it was found on" "only:gifts@edges";
}

/// What an operation works with. It prints as it is read; what prints as nothing is left out, with its colon.
pub trait Argument: fmt::Display + Any {
    /// Reads it; says what is missing.
    fn of(typed: ArgumentText<'_>) -> Result<Self, String>
    where
        Self: Sized;

    fn mentions(&self) -> OpOperands<'_>;
}

/// What an argument mentions, to be looked up before the operation acts.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpOperands<'a> {
    /// The direction, and the other one of an operation that works with two.
    pub directions: [Option<&'a str>; 2],
    /// The units; none for operations on directions. Heads at `q`, `k`, `v` and `z`.
    pub units: Option<&'a UnitChoice>,
    /// A statistics file.
    pub statistics: Option<&'a str>,
    /// Another text, on which values are taken.
    pub text: Option<&'a str>,
    /// The value that units are set to.
    pub value: Option<SetValue>,
    /// A dictionary whose reconstruction is taken.
    pub dictionary: Option<&'a str>,
    /// Whether values are means over the prompt.
    pub prompt_mean: bool,
    /// Positions that cannot be read, in heads.
    pub sources: Option<&'a Positions>,
    /// A relation, and the subjects whose objects are exchanged.
    pub relation: Option<&'a RelationTurn>,
    /// A saved circuit.
    pub circuit: Option<&'a str>,
}

impl<'a> OpOperands<'a> {
    fn direction(name: &'a str) -> Self {
        Self {
            directions: [Some(name), None],
            ..Self::default()
        }
    }

    fn units(units: &'a UnitChoice) -> Self {
        Self {
            units: Some(units),
            ..Self::default()
        }
    }
}

/// What was typed after an operation's name, and what an answer to it has to name.
#[derive(Clone, Copy)]
pub struct ArgumentText<'a> {
    pub(crate) op: &'static str,
    pub(crate) what: LinePiece<'a>,
    pub(crate) address: &'a str,
}

impl<'a> ArgumentText<'a> {
    fn wants(self, why: &str, example: &str) -> String {
        let Self { op, address, .. } = self;
        format!("`{op}` needs {why}: {op}:{example}@{address}")
    }

    fn direction(self, name: LinePiece<'_>, example: &str) -> Result<String, String> {
        match direction_name(name)? {
            name if name.is_empty() => Err(self.wants("a direction", example)),
            name => Ok(name),
        }
    }

    /// What stands before and after the last `=`.
    fn split(self, why: &str, example: &str) -> Result<(LinePiece<'a>, LinePiece<'a>), String> {
        let parts = self.what.rsplit_once('=');
        parts.ok_or_else(|| self.wants(why, example))
    }

    /// Units, and the text or file after the first `=`.
    fn from(self, why: &str, example: &str) -> Result<(UnitChoice, String), String> {
        let parts = self.what.split_once('=');
        let (list, from) = parts.ok_or_else(|| self.wants(why, example))?;
        match from.read()? {
            from if from.is_empty() => Err(self.wants(why, example)),
            from => Ok((list.text.parse()?, from)),
        }
    }
}

fn number(text: &str) -> Result<f32, String> {
    match text.trim().parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        Ok(value) if value.is_infinite() => {
            Err(format!("`{text}` is not a number that fits in 32 bits"))
        }
        Ok(_) | Err(_) => Err(format!("`{text}` is not a number")),
    }
}

/// The units of a site that an operation acts on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitChoice {
    All,
    /// These.
    List(Vec<u32>),
    /// The units that a named set has at each layer.
    Set(String),
    /// Features of a dictionary.
    Features(FeatureChoice),
}

/// What units are set to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SetValue {
    Is(f32),
    /// So many times the largest activation of each over the unedited prompt, its first position left out; for features.
    Times(f32),
}

impl fmt::Display for SetValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(value) => write!(f, "{value}"),
            Self::Times(factor) => write!(f, "{factor}x"),
        }
    }
}

impl FromStr for SetValue {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim().strip_suffix('x') {
            Some(factor) => number(factor).map(Self::Times),
            None => number(text).map(Self::Is),
        }
    }
}

impl fmt::Display for UnitChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => Ok(()),
            Self::List(units) => {
                let units: Vec<String> = units.iter().map(u32::to_string).collect();
                f.write_str(&units.join(","))
            }
            Self::Set(name) => write!(f, "{{{}}}", named(name)),
            Self::Features(features) => write!(f, "{features}"),
        }
    }
}

impl FromStr for UnitChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(name) = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
            return match read(name.trim())?.as_str() {
                "" => Err("`{}` does not name a unit set; write {NAME}".into()),
                name => Ok(Self::Set(name.into())),
            };
        }
        if text.contains('#')
            && let Some(features) = FeatureChoice::read(QuotedLine::new(text)?.whole())?
        {
            return Ok(Self::Features(features));
        }
        let units = text.split(',').map(str::trim).filter(|u| !u.is_empty());
        let read = |unit: &str| {
            let hint = if unit.contains('/') {
                "; a feature of a dictionary is named with it: NAME#12, or NAME#LAYER/12"
            } else {
                ""
            };
            unit.parse()
                .map_err(|_| format!("`{unit}` is not the number of a unit{hint}"))
        };
        let units = units.map(read).collect::<Result<Vec<u32>, String>>()?;
        Ok(if units.is_empty() {
            Self::All
        } else {
            Self::List(units)
        })
    }
}

impl Argument for UnitChoice {
    fn of(typed: ArgumentText<'_>) -> Result<Self, String> {
        typed.what.text.parse()
    }

    fn mentions(&self) -> OpOperands<'_> {
        OpOperands::units(self)
    }
}

/// A kind of argument: its parts, how it prints, how it is read, and what it mentions.
macro_rules! argument {
    ($(#[$doc:meta])* $kind:ident($($part:ty),+), |$own:ident, $f:ident| $print:expr, |$typed:ident| $read:expr, |$of:ident| $mentions:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $kind($(pub $part),+);

        impl fmt::Display for $kind {
            fn fmt(&self, $f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let $own = self;
                $print
            }
        }

        impl Argument for $kind {
            fn of($typed: ArgumentText<'_>) -> Result<Self, String> {
                $read
            }

            fn mentions(&self) -> OpOperands<'_> {
                let $of = self;
                $mentions
            }
        }
    };
}

argument! {
    /// A direction's name or file.
    DirectionName(String),
    |own, f| f.write_str(&named(&own.0)),
    |typed| Ok(Self(typed.direction(typed.what, "NAME")?)),
    |own| OpOperands::direction(&own.0)
}

argument! {
    /// A direction and where its component goes.
    DirectionTo(String, f32),
    |own, f| write!(f, "{}={}", named(&own.0), own.1),
    |typed| {
        let example = "NAME=2.5";
        let (name, value) = typed.split("a direction and a value", example)?;
        Ok(Self(typed.direction(name, example)?, number(value.text)?))
    },
    |own| OpOperands::direction(&own.0)
}

argument! {
    /// A direction and the bounds of its component.
    DirectionWithin(String, f32, f32),
    |own, f| write!(f, "{}={}..{}", named(&own.0), own.1, own.2),
    |typed| {
        let example = "NAME=-1..2.5";
        let (name, bounds) = typed.split("a direction and bounds", example)?;
        let parts = bounds.text.split_once("..");
        let (low, high) = parts.ok_or_else(|| typed.wants("bounds", example))?;
        let (low, high) = (number(low)?, number(high)?);
        if low > high {
            return Err(format!("the bounds {low}..{high} are in the wrong order"));
        }
        Ok(Self(typed.direction(name, example)?, low, high))
    },
    |own| OpOperands::direction(&own.0)
}

argument! {
    /// The direction that is taken and the one that is given.
    TwoDirections(String, String),
    |own, f| write!(f, "{}>{}", named(&own.0), named(&own.1)),
    |typed| {
        let example = "FROM>TO";
        let parts = typed.what.split_once('>');
        let (from, to) = parts.ok_or_else(|| typed.wants("two directions", example))?;
        Ok(Self(typed.direction(from, example)?, typed.direction(to, example)?))
    },
    |own| OpOperands { directions: [Some(&own.0), Some(&own.1)], ..OpOperands::default() }
}

argument! {
    /// Units, and the statistics file that has their means; over the prompt without one.
    UnitsMean(UnitChoice, Option<String>),
    |own, f| match own {
        Self(units, None) => write!(f, "{units}"),
        Self(units, Some(file)) => write!(f, "{units}={}", named(file)),
    },
    |typed| {
        if typed.what.split_once('=').is_none() {
            return Ok(Self(typed.what.text.parse()?, None));
        }
        let (why, example) = ("a statistics file", "17=FILE");
        let (units, file) = typed.from(why, example)?;
        match file.trim() {
            "" => Err(typed.wants(why, example)),
            file => Ok(Self(units, Some(file.to_string()))),
        }
    },
    |own| OpOperands {
        statistics: own.1.as_deref(),
        prompt_mean: own.1.is_none(),
        ..OpOperands::units(&own.0)
    }
}

argument! {
    /// Units and the text on which their values are taken.
    UnitsAsIn(UnitChoice, String),
    |own, f| write!(f, "{}={}", own.0, quoted(&own.1)),
    |typed| typed.from("a text", "17=\"another text\"").map(|(units, text)| Self(units, text)),
    |own| OpOperands { text: Some(&own.1), ..OpOperands::units(&own.0) }
}

argument! {
    /// Units and their value.
    UnitsTo(UnitChoice, SetValue),
    |own, f| write!(f, "{}={}", own.0, own.1),
    |typed| {
        let (units, value) = typed.split("a value", "17=3.5")?;
        let (units, value) = (units.text.parse()?, value.text.parse()?);
        match (&units, value) {
            (UnitChoice::All | UnitChoice::List(_) | UnitChoice::Set(_), SetValue::Times(_)) => Err(format!(
                "`={value}` is a multiple of the largest activation of a feature; give a number for units, or a feature: {}",
                typed.wants("a value", "NAME#12=3x")
            )),
            (_, value) => Ok(Self(units, value)),
        }
    },
    |own| OpOperands { value: Some(own.1), ..OpOperands::units(&own.0) }
}

argument! {
    /// A dictionary's name or path.
    DictionaryName(String),
    |own, f| f.write_str(&named(&own.0)),
    |typed| match typed.what.trim().read()? {
        name if name.is_empty() => Err(typed.wants("a dictionary", "NAME")),
        name => Ok(Self(name)),
    },
    |own| OpOperands { dictionary: Some(&own.0), ..OpOperands::default() }
}

argument! {
    /// A circuit's name or file.
    CircuitName(String),
    |own, f| f.write_str(&named(&own.0)),
    |typed| match typed.what.trim().read()? {
        name if name.is_empty() => Err(typed.wants("a circuit", "CIRCUIT")),
        name => Ok(Self(name)),
    },
    |own| OpOperands { circuit: Some(&own.0), ..OpOperands::default() }
}

argument! {
    /// Neurons, the token their value vectors turn away from, and the one they turn to.
    UnitsTurn(UnitChoice, String, String),
    |own, f| write!(f, "{}={}>{}", own.0, quoted(&own.1), quoted(&own.2)),
    |typed| {
        let example = "17=\"A\">\"B\"";
        let parts = typed.what.split_once('=');
        let parts = parts.and_then(|(list, turn)| Some((list, turn.split_once('>')?)));
        let (list, (from, to)) = parts.ok_or_else(|| typed.wants("neurons and two tokens", example))?;
        let units: UnitChoice = list.text.parse()?;
        if matches!(units, UnitChoice::Features(_)) {
            return Err(typed.wants("neurons, not features", example));
        }
        let (from, to) = (from.read()?, to.read()?);
        if from.is_empty() || to.is_empty() {
            return Err(typed.wants("two tokens", example));
        }
        Ok(Self(units, from, to))
    },
    |own| OpOperands::units(&own.0)
}

argument! {
    /// A relation map's name or file, the subject whose object is taken away, and the one whose object is given.
    RelationTurn(String, String, String),
    |own, f| write!(f, "{}={}>{}", named(&own.0), quoted(&own.1), quoted(&own.2)),
    |typed| {
        let example = "FILE=\"A\">\"B\"";
        let parts = typed.what.split_once('=');
        let parts = parts.and_then(|(file, turn)| Some((file, turn.split_once('>')?)));
        let (file, (from, to)) = parts.ok_or_else(|| typed.wants("a relation and two subjects", example))?;
        let (file, from, to) = (file.trim().read()?, from.read()?, to.read()?);
        if file.is_empty() || from.trim().is_empty() || to.trim().is_empty() {
            return Err(typed.wants("a relation and two subjects", example));
        }
        Ok(Self(file, from, to))
    },
    |own| OpOperands { relation: Some(own), ..OpOperands::default() }
}

argument! {
    /// Heads, and the positions that cannot be read.
    CutEdges(UnitChoice, Positions),
    |own, f| match own {
        Self(heads, Positions::All) => write!(f, "{heads}"),
        Self(heads, sources) => write!(f, "{heads}={sources}"),
    },
    |typed| {
        let heads = |text: &str| match text.parse()? {
            UnitChoice::Features(_) => Err(typed.wants("heads, not features", "0,2")),
            heads @ (UnitChoice::All | UnitChoice::List(_) | UnitChoice::Set(_)) => Ok(heads),
        };
        let Some((own, sources)) = typed.what.split_once('=') else {
            return Ok(Self(heads(typed.what.text)?, Positions::All));
        };
        let sources = sources.text.trim().parse();
        let sources = sources.map_err(|e: Error| e.to_string())?;
        Ok(Self(heads(own.text)?, sources))
    },
    |own| OpOperands { sources: Some(&own.1), ..OpOperands::units(&own.0) }
}
