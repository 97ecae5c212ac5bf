//! Edits: one intervention each, as one line of text that prints and parses the same everywhere.
//!
//! `OP[:WHAT]@ADDRESS[:POSITIONS][/PHASE][*STRENGTH]`, for example `zero:17,52@mlp_act.3` or
//! `add:refusal@resid_pre.3:prompt*1.5`. Invariant: printing and parsing are inverse.
//! Operations are in [`super::op`]; to add a kind of argument, add a variant of [`What`].

use std::fmt;
use std::str::FromStr;

use super::op::{OPS, Op, Takes};
use super::positions::Positions;
use crate::error::{Error, Result};
use crate::model::site::{Address, Axis, SITES, Site, check_layer, site_named};
use crate::model::tap::Phase;

/// Where an edit acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// One address.
    At(Address),
    /// A site at layers `a` to `b`, both included.
    Layers(Site, u16, u16),
    /// A site at every layer.
    Every(Site),
    /// Every block input, attention write and MLP write (Arditi et al. 2024).
    Writes,
}

impl Place {
    /// The addresses on a model of so many layers.
    pub fn addresses(&self, layers: usize) -> Result<Vec<Address>> {
        let out = match self {
            Self::At(address) => vec![*address],
            Self::Layers(site, a, b) => (*a..=*b).map(|l| site.at(usize::from(l))).collect(),
            Self::Every(site) => (0..layers).map(|l| site.at(l)).collect(),
            Self::Writes => (0..layers)
                .flat_map(|l| {
                    [
                        Site::ResidPre.at(l),
                        Site::AttnAdd.at(l),
                        Site::MlpAdd.at(l),
                    ]
                })
                .collect(),
        };
        out.iter().try_for_each(|a| check_layer(*a, layers))?;
        Ok(out)
    }

    /// The site it is about; `writes` begin with the block inputs.
    pub fn site(&self) -> Site {
        match self {
            Self::At(address) => address.site,
            Self::Layers(site, ..) | Self::Every(site) => *site,
            Self::Writes => Site::ResidPre,
        }
    }
}

/// What an operation works with.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A direction's name or file.
    Direction(String),
    /// A direction and where its component goes.
    DirectionTo(String, f32),
    /// A direction and the bounds of its component.
    DirectionWithin(String, f32, f32),
    /// The direction that is taken and the one that is given.
    Swap(String, String),
    /// Units; empty means all of them. Heads at `q`, `k`, `v` and `z`.
    Units(Vec<u32>),
    /// Units and their value.
    UnitsTo(Vec<u32>, f32),
    /// Units and the text whose values they take.
    UnitsFrom(Vec<u32>, String),
}

/// One intervention.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    /// What it does.
    pub op: Op,
    /// With what.
    pub what: What,
    /// Where.
    pub place: Place,
    /// Which positions.
    pub positions: Positions,
    /// Prompt, continuation, or both.
    pub phase: Option<Phase>,
    /// How much; [`Op::neutral`] touches nothing.
    pub strength: f32,
    /// Whether it is in force. Not part of the text.
    pub on: bool,
}

impl Edit {
    /// Ablates one neuron.
    pub fn ablate(op: Op, layer: usize, neuron: u32) -> Self {
        Self {
            op,
            what: What::Units(vec![neuron]),
            place: Place::At(Site::MlpAct.at(layer)),
            positions: Positions::All,
            phase: None,
            strength: 1.0,
            on: true,
        }
    }

    /// The direction it is about; empty for operations on units.
    pub fn direction(&self) -> &str {
        match &self.what {
            What::Direction(name)
            | What::DirectionTo(name, _)
            | What::DirectionWithin(name, ..)
            | What::Swap(name, _) => name,
            What::Units(_) | What::UnitsTo(..) | What::UnitsFrom(..) => "",
        }
    }

    /// Its units; none for directions, and none when it is about all of them.
    pub fn units(&self) -> &[u32] {
        match &self.what {
            What::Units(units) | What::UnitsTo(units, _) | What::UnitsFrom(units, _) => units,
            _ => &[],
        }
    }

    /// Whether it changes anything at all.
    pub fn active(&self) -> bool {
        #[allow(clippy::float_cmp)] // the zero rule is about exactly this value
        let neutral = self.strength == self.op.neutral();
        self.on && !neutral
    }

    /// Whether it acts on a position.
    pub fn covers(&self, position: usize, prompt: usize) -> bool {
        let phase = match self.phase {
            None => true,
            Some(Phase::Prefill) => position < prompt,
            Some(Phase::Decode) => position >= prompt,
        };
        phase && self.positions.covers(position, prompt)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |units: &[u32]| {
            let units: Vec<String> = units.iter().map(u32::to_string).collect();
            units.join(",")
        };
        match self {
            Self::Direction(name) => f.write_str(name),
            Self::DirectionTo(name, value) => write!(f, "{name}={value}"),
            Self::DirectionWithin(name, low, high) => write!(f, "{name}={low}..{high}"),
            Self::Swap(from, to) => write!(f, "{from}>{to}"),
            Self::Units(units) => f.write_str(&list(units)),
            Self::UnitsTo(units, value) => write!(f, "{}={value}", list(units)),
            Self::UnitsFrom(units, text) => write!(f, "{}={text}", list(units)),
        }
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.op.spec().name)?;
        match &self.what {
            What::Units(units) if units.is_empty() => {}
            what => write!(f, ":{what}")?,
        }
        match &self.place {
            Place::At(address) => write!(f, "@{address}")?,
            Place::Layers(site, a, b) => write!(f, "@{}.{a}-{b}", site.spec().name)?,
            Place::Every(site) => write!(f, "@{}.*", site.spec().name)?,
            Place::Writes => f.write_str("@writes")?,
        }
        if self.positions != Positions::All {
            write!(f, ":{}", self.positions)?;
        }
        match self.phase {
            Some(Phase::Prefill) => f.write_str("/prefill")?,
            Some(Phase::Decode) => f.write_str("/decode")?,
            None => {}
        }
        #[allow(clippy::float_cmp)] // 1 is what is left out
        if self.strength != 1.0 {
            write!(f, "*{}", self.strength)?;
        }
        Ok(())
    }
}

impl FromStr for Edit {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let bad = |why: String| Error::BadEdit {
            edit: s.to_string(),
            why,
        };
        let (head, tail) = s
            .rsplit_once('@')
            .ok_or_else(|| bad("there is no `@ADDRESS`".into()))?;
        let (name, what) = head.split_once(':').unwrap_or((head, ""));
        let spec = OPS.iter().find(|o| o.name == name.trim()).ok_or_else(|| {
            bad(format!(
                "`{name}` is no operation; they are {}",
                OPS.iter().map(|o| o.name).collect::<Vec<_>>().join(", ")
            ))
        })?;
        let (tail, strength) = strength(tail).map_err(&bad)?;
        let (tail, phase) = match tail.rsplit_once('/') {
            Some((t, "prefill")) => (t, Some(Phase::Prefill)),
            Some((t, "decode")) => (t, Some(Phase::Decode)),
            Some(_) | None => (tail, None),
        };
        let (address, positions) = tail.split_once(':').unwrap_or((tail, "all"));
        let place = place(address)?;
        let positions: Positions = positions.parse().map_err(|e: Error| bad(e.to_string()))?;
        let edit = Self {
            op: spec.op,
            what: read_what(name.trim(), spec.takes, what, address).map_err(&bad)?,
            place,
            positions,
            phase,
            strength,
            on: true,
        };
        edit.check_site().map_err(&bad)?;
        Ok(edit)
    }
}

/// Reads what an operation works with; says what is missing.
fn read_what(op: &str, takes: Takes, text: &str, address: &str) -> Result<What, String> {
    let wants = |why: &str, example: &str| format!("`{op}` needs {why}: {op}:{example}@{address}");
    let number = |text: &str| {
        let value = text.trim().parse::<f32>().ok().filter(|v| v.is_finite());
        value.ok_or_else(|| format!("`{text}` is no number"))
    };
    let named = |name: &str, example: &str| match name.trim() {
        "" => Err(wants("a direction", example)),
        name => Ok(name.to_string()),
    };
    let split = |why: &str, example: &str| {
        let parts = text.rsplit_once('=');
        parts.ok_or_else(|| wants(why, example))
    };
    Ok(match takes {
        Takes::Direction => What::Direction(named(text, "NAME")?),
        Takes::DirectionTo => {
            let (name, value) = split("a direction and a value", "NAME=2.5")?;
            What::DirectionTo(named(name, "NAME=2.5")?, number(value)?)
        }
        Takes::DirectionWithin => {
            let example = "NAME=-1..2.5";
            let (name, bounds) = split("a direction and bounds", example)?;
            let (low, high) = bounds
                .split_once("..")
                .ok_or_else(|| wants("bounds", example))?;
            let (low, high) = (number(low)?, number(high)?);
            if low > high {
                return Err(format!("the bounds {low}..{high} are the wrong way round"));
            }
            What::DirectionWithin(named(name, example)?, low, high)
        }
        Takes::TwoDirections => {
            let example = "FROM>TO";
            let (from, to) = text
                .split_once('>')
                .ok_or_else(|| wants("two directions", example))?;
            What::Swap(named(from, example)?, named(to, example)?)
        }
        Takes::Units => What::Units(units(text)?),
        Takes::UnitsTo => {
            let (list, value) = split("a value", "17=3.5")?;
            What::UnitsTo(units(list)?, number(value)?)
        }
        Takes::UnitsFrom => {
            let (list, from) = text
                .split_once('=')
                .filter(|(_, from)| !from.is_empty())
                .ok_or_else(|| wants("a text", "17=another text"))?;
            What::UnitsFrom(units(list)?, from.to_string())
        }
    })
}

fn units(list: &str) -> Result<Vec<u32>, String> {
    list.split(',')
        .map(str::trim)
        .filter(|u| !u.is_empty())
        .map(|unit| {
            unit.parse()
                .map_err(|_| format!("`{unit}` is no unit number"))
        })
        .collect()
}

impl Edit {
    /// Refuses sites that no operation can act on, with the reason.
    fn check_site(&self) -> Result<(), String> {
        let spec = self.place.site().spec();
        match spec.axis {
            Axis::Model | Axis::Mlp | Axis::Heads | Axis::KvHeads | Axis::Experts => Ok(()),
            Axis::Positions => Err(format!(
                "`{}` has a row a query and cannot be edited by this operation; use z (a head's result) instead",
                spec.name
            )),
            Axis::Vocab => Err(format!(
                "`{}` is the model's output; edit final_norm or a residual site instead",
                spec.name
            )),
        }
    }
}

/// Splits `*STRENGTH` off the end; the star of `resid_post.*` belongs to the address.
fn strength(tail: &str) -> Result<(&str, f32), String> {
    let Some((rest, number)) = tail.rsplit_once('*') else {
        return Ok((tail, 1.0));
    };
    if number.is_empty() || number.starts_with(':') || number.starts_with('/') {
        return Ok((tail, 1.0));
    }
    match number.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok((rest, value)),
        Ok(_) | Err(_) => Err(format!(
            "`{number}` is no strength; write a number after `*`"
        )),
    }
}

fn place(text: &str) -> Result<Place> {
    if text == "writes" {
        return Ok(Place::Writes);
    }
    if let Ok(address) = text.parse::<Address>() {
        return Ok(Place::At(address));
    }
    if let Some((name, range)) = text.split_once('.')
        && SITES.iter().any(|s| s.name == name && s.layered)
    {
        let site = site_named(name)?;
        if range == "*" {
            return Ok(Place::Every(site));
        }
        if let Some((Ok(a), Ok(b))) = range
            .split_once('-')
            .map(|(a, b)| (a.parse::<u16>(), b.parse::<u16>()))
            && a <= b
        {
            return Ok(Place::Layers(site, a, b));
        }
    }
    text.parse::<Address>().map(Place::At)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn edits_print_and_parse_inversely() {
        for text in [
            "zero:17,52@mlp_act.3",
            "add:calm.gguf@resid_post.4-9*1.5",
            "project_out:refusal.safetensors@writes",
            "add_unit_norm:a/b@c:d@resid_pre.0:last*-0.5",
            "zero@attn_out.*",
            "zero@attn_out.*:prompt",
            "mean:3@z.1:generated",
            "scale:1@mlp_act.0:2..5/prefill*0",
            "set:9=3.5@mlp_act.2:token:\" x\"/decode*2",
            "add_renorm:calm@resid_post.3*0.5",
            "icv:calm@mlp_out.**0.1",
            "scale_along:calm@resid_pre.2*-1",
            "clamp_along:calm=-1.5..2@resid_pre.2:last",
            "set_along:calm=3@writes",
            "swap:red>blue@resid_post.1",
            "replace:calm@resid_post.1:4*0.5",
            "resample:3,4=The capital of Italy: is@mlp_act.0",
        ] {
            let edit: Edit = text.parse().unwrap();
            assert_eq!(edit.to_string(), text);
            assert_eq!(edit.to_string().parse::<Edit>().unwrap(), edit);
        }
    }

    #[test]
    fn bad_edits_say_why() {
        for (text, why) in [
            ("zero:17", "@ADDRESS"),
            ("zap:1@mlp_act.0", "no operation"),
            ("zero:x@mlp_act.0", "no unit"),
            ("add@resid_pre.0", "needs a direction"),
            ("zero@attn_probs.0", "z (a head"),
            ("zero@logits", "model's output"),
            ("zero@mlp_akt.0", "mlp_act"),
            ("zero:1@mlp_act.0*huge", "no strength"),
            ("set:1@mlp_act.0", "needs a value"),
            ("set_along:d@resid_pre.0", "and a value"),
            ("clamp_along:d=3..1@resid_pre.0", "wrong way round"),
            ("swap:d@resid_pre.0", "two directions"),
            ("resample:1@mlp_act.0", "needs a text"),
        ] {
            let error = text.parse::<Edit>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
