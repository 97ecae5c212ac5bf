//! Edits: one intervention each, as one line of text that prints and parses the same everywhere.
//!
//! `OP[:WHAT]@ADDRESS[:POSITIONS][/PHASE][*STRENGTH]`, for example `zero:17,52@mlp_act.3` or
//! `add:refusal@resid_pre.3:prompt*1.5`. Invariant: printing and parsing are inverse.
//! To add an operation, add a variant of [`Op`], a row in [`OPS`], and its arm in `lab/apply.rs`.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::positions::Positions;
use crate::error::{Error, Result};
use crate::model::Fingerprint;
use crate::model::site::{Address, Axis, SITES, Site, check_layer, site_named};
use crate::model::tap::Phase;

/// What an edit does to the value at its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// `x + c·v`, the direction as it is.
    Add,
    /// `x + c·‖x‖·v̂`, with `|c|` at most 1.
    AddUnitNorm,
    /// `x − c·(x·v̂)·v̂`.
    ProjectOut,
    /// Units towards 0: `x·(1 − c)`.
    Zero,
    /// Units towards their mean over the prompt (first token excluded): `x + c·(μ − x)`.
    Mean,
    /// Units times `c`.
    Scale,
    /// Units towards a value: `x + c·(value − x)`.
    Set,
}

/// One row of [`OPS`].
pub struct OpSpec {
    /// The operation.
    pub op: Op,
    /// Its name.
    pub name: &'static str,
    /// What comes after the first colon.
    pub what: &'static str,
    /// One sentence.
    pub about: &'static str,
}

/// Every operation.
pub const OPS: &[OpSpec] = &[
    OpSpec {
        op: Op::Add,
        name: "add",
        what: "DIRECTION",
        about: "adds strength times a direction, unnormalised",
    },
    OpSpec {
        op: Op::AddUnitNorm,
        name: "add_unit_norm",
        what: "DIRECTION",
        about: "adds a direction scaled to the local norm, at most once that norm",
    },
    OpSpec {
        op: Op::ProjectOut,
        name: "project_out",
        what: "DIRECTION",
        about: "removes the component along a direction",
    },
    OpSpec {
        op: Op::Zero,
        name: "zero",
        what: "[UNITS]",
        about: "sets units (neurons, heads, coordinates; all without a list) to 0",
    },
    OpSpec {
        op: Op::Mean,
        name: "mean",
        what: "[UNITS]",
        about: "sets units to their mean over the prompt, first token excluded",
    },
    OpSpec {
        op: Op::Scale,
        name: "scale",
        what: "[UNITS]",
        about: "multiplies units by the strength",
    },
    OpSpec {
        op: Op::Set,
        name: "set",
        what: "[UNITS]=VALUE",
        about: "sets units to a value",
    },
];

impl Op {
    /// Its row.
    pub fn spec(self) -> &'static OpSpec {
        &OPS[self as usize]
    }

    /// Whether it needs a direction.
    pub fn directed(self) -> bool {
        matches!(self, Self::Add | Self::AddUnitNorm | Self::ProjectOut)
    }

    /// The strength at which it does nothing.
    pub fn neutral(self) -> f32 {
        if self == Self::Scale { 1.0 } else { 0.0 }
    }
}

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

    fn site(&self) -> Site {
        match self {
            Self::At(address) => address.site,
            Self::Layers(site, ..) | Self::Every(site) => *site,
            Self::Writes => Site::ResidPre,
        }
    }
}

/// One intervention.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    /// What it does.
    pub op: Op,
    /// The direction's name or file; empty for operations on units.
    pub direction: String,
    /// Units; empty means all of them. Heads at `q`, `k`, `v` and `z`.
    pub units: Vec<u32>,
    /// The value of `set`.
    pub value: f32,
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
            direction: String::new(),
            units: vec![neuron],
            value: 0.0,
            place: Place::At(Site::MlpAct.at(layer)),
            positions: Positions::All,
            phase: None,
            strength: 1.0,
            on: true,
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

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.op.spec().name)?;
        let units = self
            .units
            .iter()
            .map(u32::to_string)
            .collect::<Vec<_>>()
            .join(",");
        if self.op.directed() {
            write!(f, ":{}", self.direction)?;
        } else if self.op == Op::Set {
            write!(f, ":{units}={}", self.value)?;
        } else if !units.is_empty() {
            write!(f, ":{units}")?;
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
        let mut edit = Self {
            op: spec.op,
            direction: String::new(),
            units: Vec::new(),
            value: 0.0,
            place,
            positions,
            phase,
            strength,
            on: true,
        };
        edit.check_site().map_err(&bad)?;
        if spec.op.directed() {
            if what.is_empty() {
                return Err(bad(format!(
                    "`{name}` needs a direction: {name}:NAME@{address}"
                )));
            }
            edit.direction = what.to_string();
            return Ok(edit);
        }
        let units = if spec.op == Op::Set {
            let (units, value) = what
                .split_once('=')
                .ok_or_else(|| bad("`set` needs a value: set:17=3.5@mlp_act.2".into()))?;
            edit.value = value
                .trim()
                .parse()
                .ok()
                .filter(|v: &f32| v.is_finite())
                .ok_or_else(|| bad(format!("`{value}` is no number")))?;
            units
        } else {
            what
        };
        for unit in units.split(',').map(str::trim).filter(|u| !u.is_empty()) {
            edit.units.push(
                unit.parse()
                    .map_err(|_| bad(format!("`{unit}` is no unit number")))?,
            );
        }
        Ok(edit)
    }
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

/// A set of edits and since which position it has been in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// The first position it applies to.
    pub since: usize,
    /// The edits, on and off.
    pub edits: Vec<Edit>,
}

/// Which edits were in force at which positions: one stage under `as if always`, one more for every
/// change made `from now`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schedule {
    /// Stages, by rising `since`.
    pub stages: Vec<Stage>,
}

impl Schedule {
    /// The same edits from the first position on.
    pub fn always(edits: Vec<Edit>) -> Self {
        Self {
            stages: vec![Stage { since: 0, edits }],
        }
    }

    /// Nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// The edits in force from `position` on are these.
    pub fn change(&mut self, position: usize, edits: Vec<Edit>) {
        self.stages.retain(|s| s.since < position);
        self.stages.push(Stage {
            since: position,
            edits,
        });
    }

    /// Forgets changes at or after a position (a rewind); the latest edits stay in force from there.
    pub fn rewind(&mut self, position: usize) {
        if let Some(last) = self.stages.last().cloned().filter(|s| s.since > position) {
            self.change(position, last.edits);
        }
    }

    /// Whether nothing is ever changed.
    pub fn is_idle(&self) -> bool {
        !self.stages.iter().any(|s| s.edits.iter().any(Edit::active))
    }

    /// Whether any active edit acts at a site.
    pub fn acts_at(&self, site: Site) -> bool {
        let edits = self.stages.iter().flat_map(|s| &s.edits);
        edits
            .filter(|e| e.active())
            .any(|e| e.place != Place::Writes && e.place.site() == site)
    }

    /// The edits now in force.
    pub fn latest(&self) -> &[Edit] {
        self.stages.last().map_or(&[], |s| &s.edits)
    }

    /// Every stage with the positions it covers.
    pub fn spans(&self) -> impl Iterator<Item = (Range<usize>, &[Edit])> {
        self.stages.iter().enumerate().map(|(i, stage)| {
            let end = self.stages.get(i + 1).map_or(usize::MAX, |next| next.since);
            (stage.since..end, stage.edits.as_slice())
        })
    }

    /// Active edits as they print, with `since N` where they began later.
    pub fn lines(&self) -> Vec<String> {
        let mut out = Vec::new();
        for (span, edits) in self.spans() {
            for edit in edits.iter().filter(|e| e.active()) {
                out.push(if span.start == 0 {
                    edit.to_string()
                } else {
                    format!("{edit} since {}", span.start)
                });
            }
        }
        out
    }

    /// A digest that names the edits of a run; 0 when nothing is changed.
    pub fn digest(&self) -> u64 {
        let lines = self.lines();
        if lines.is_empty() {
            return 0;
        }
        let mut hash = Fingerprint::default();
        for (span, edits) in self.spans() {
            hash.write(&span.start.to_le_bytes());
            edits
                .iter()
                .filter(|e| e.active())
                .for_each(|e| hash.write(format!("{e}\n").as_bytes()));
        }
        hash.finish()
    }
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
        ] {
            let error = text.parse::<Edit>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn schedules_know_since_when() {
        let edit: Edit = "zero@mlp_out.0".parse().unwrap();
        let mut schedule = Schedule::always(vec![]);
        assert_eq!(schedule.digest(), 0);
        schedule.change(5, vec![edit.clone()]);
        assert_eq!(schedule.lines(), ["zero@mlp_out.0 since 5"]);
        assert_ne!(
            schedule.digest(),
            Schedule::always(vec![edit.clone()]).digest()
        );
        schedule.rewind(3);
        assert_eq!(schedule.lines(), ["zero@mlp_out.0 since 3"]);
        let mut off = edit;
        off.strength = 0.0;
        assert!(Schedule::always(vec![off]).is_idle());
    }
}
