//! Edits: one intervention each, at a place, on positions, in a phase, under a condition, with a strength.
//!
//! How they are written is in [`super::edit::grammar`], what they do in [`super::edit::op`]. Invariant: an edit is a plain value, equal
//! to another when it prints alike and is on alike. To add a kind of argument, add a variant of [`What`].

pub mod condition;
pub mod direction;
pub mod grammar;
pub mod op;
pub mod positions;
pub mod preset;
pub mod quotes;
pub mod receipt;
pub mod schedule;
pub mod unit_set;

use super::edit::condition::{Condition, Probe};
use super::edit::op::Op;
use super::edit::positions::Positions;
use crate::error::{Error, Result};
use crate::model::network::address::Borrowed;
use crate::model::network::blueprint::Blueprint;
use crate::model::network::site::{Address, Axis, Site, check_layer};
use crate::model::network::tap::Phase;

/// Where an edit acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// One address.
    At(Address),
    /// A site at layers `a` to `b`, both included.
    Layers(Site, u16, u16),
    /// A site at every layer.
    Every(Site),
    /// A name of TransformerLens of which the architecture says what it means; [`Edit::on`] puts a site in its place.
    Borrowed(Borrowed),
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
            Self::Borrowed(name) => vec![name.anywhere()?.at(0)],
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
            Self::Borrowed(name) => name.spelling.near,
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
    /// Units. Heads at `q`, `k`, `v` and `z`.
    Units(Which),
    /// Units and their value.
    UnitsTo(Which, f32),
    /// Units and the text on which their values are taken.
    UnitsAsIn(Which, String),
    /// Units and the statistics file that has their means.
    UnitsFrom(Which, String),
    /// Neurons, the token their value vectors turn away from, and the one they turn to.
    Turn(Which, String, String),
    /// Heads, and the positions that cannot be read.
    Edges(Which, Positions),
}

/// Which units of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// Every one.
    All,
    /// These.
    List(Vec<u32>),
    /// Those of a named set at each layer.
    Set(String),
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
    /// What must hold at a position.
    pub when: Option<Condition>,
    /// Whether it is in force. Not part of the text.
    pub on: bool,
}

impl Edit {
    /// An edit that is on everywhere in the text, at strength 1.
    pub fn new(op: Op, what: What, place: Place) -> Self {
        Self {
            op,
            what,
            place,
            positions: Positions::All,
            phase: None,
            strength: 1.0,
            when: None,
            on: true,
        }
    }

    /// The same done to a few units of an address.
    pub fn units(op: Op, units: Vec<u32>, at: Address) -> Self {
        Self::new(op, What::Units(Which::List(units)), Place::At(at))
    }

    /// The direction it is about; empty for operations on units.
    pub fn direction(&self) -> &str {
        match &self.what {
            What::Direction(name)
            | What::DirectionTo(name, _)
            | What::DirectionWithin(name, ..)
            | What::Swap(name, _) => name,
            What::Units(_)
            | What::UnitsTo(..)
            | What::UnitsAsIn(..)
            | What::UnitsFrom(..)
            | What::Turn(..)
            | What::Edges(..) => "",
        }
    }

    /// Its units; none for operations on directions.
    pub fn which(&self) -> Option<&Which> {
        match &self.what {
            What::Units(which)
            | What::UnitsTo(which, _)
            | What::UnitsAsIn(which, _)
            | What::UnitsFrom(which, _)
            | What::Turn(which, ..)
            | What::Edges(which, _) => Some(which),
            What::Direction(_)
            | What::DirectionTo(..)
            | What::DirectionWithin(..)
            | What::Swap(..) => None,
        }
    }

    /// Every name in it that may stand for a file: directions, sets of units, and statistics.
    pub fn names(&self) -> Vec<&str> {
        let mut names = match &self.what {
            What::Direction(name)
            | What::DirectionTo(name, _)
            | What::DirectionWithin(name, ..)
            | What::UnitsFrom(_, name) => vec![name.as_str()],
            What::Swap(from, to) => vec![from.as_str(), to.as_str()],
            What::Units(_)
            | What::UnitsTo(..)
            | What::UnitsAsIn(..)
            | What::Turn(..)
            | What::Edges(..) => vec![],
        };
        if let Some(Which::Set(name)) = self.which() {
            names.push(name);
        }
        if let Some(Probe::Along(name, _)) = self.when.as_ref().map(|when| &when.probe) {
            names.push(name);
        }
        names
    }

    /// Whether what it does depends on which tokens the prompt has, not on how many: texts that name positions, means over
    /// the prompt, conditions. Prepared for one prompt, such an edit means something else on another.
    pub fn reads_prompt(&self) -> bool {
        let named = |p: &Positions| matches!(p, Positions::Token(_) | Positions::Text(_));
        let sources = matches!(&self.what, What::Edges(_, sources) if named(sources));
        let mean = self.op == Op::Mean && matches!(self.what, What::Units(_));
        named(&self.positions) || sources || mean || self.when.is_some()
    }

    /// The same on an architecture: a borrowed name becomes the site that it means there, or is refused.
    pub fn on(&self, blueprint: &Blueprint) -> Result<Self> {
        let Place::Borrowed(name) = &self.place else {
            return Ok(self.clone());
        };
        let place = super::edit::grammar::placed(name.on(blueprint)?, name.layers);
        let edit = Self {
            place,
            ..self.clone()
        };
        let bad = |why| Error::BadEdit {
            edit: self.to_string(),
            why,
        };
        edit.check_site().map_err(bad)?;
        Ok(edit)
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

impl Edit {
    /// Refuses sites that its operation cannot act on, with the reason.
    pub(crate) fn check_site(&self) -> Result<(), String> {
        let spec = self.place.site().spec();
        if self.op == Op::Rewrite && spec.site != Site::MlpAct {
            return Err(format!(
                "`rewrite` changes what neurons write and is addressed by them: rewrite:17=\"A\">\"B\"@mlp_act.L, not {}",
                spec.name
            ));
        }
        match spec.axis {
            Axis::Positions if self.op == Op::Cut && spec.site == Site::AttnScores => Ok(()),
            _ if self.op == Op::Cut => Err(format!(
                "`cut` acts on the scores of attention: cut:2=0..4@attn_scores.L, not {}",
                spec.name
            )),
            Axis::Model | Axis::Mlp | Axis::Heads | Axis::KvHeads | Axis::Experts => Ok(()),
            Axis::Positions => Err(format!(
                "`{}` has a row a query and cannot be edited by this operation; use z (a head's result), or cut:HEADS=POSITIONS@attn_scores.L instead",
                spec.name
            )),
            Axis::Vocab => Err(format!(
                "`{}` is the model's output; edit final_norm or a residual site instead",
                spec.name
            )),
        }
    }
}
