//! Edits: an edit is one intervention, at a place, on positions, in a phase, under a condition, with a strength.
//!
//! Their syntax is in [`super::grammar`], their operations in [`super::op`]. Invariant: an edit is a plain value, equal to
//! another if both print alike and are both on or both off; an [`EditId`] distinguishes equal edits, and identifies an edit in
//! its current form.
//! To add an operation or a kind of argument, see [`super::op`].

use serde::{Deserialize, Serialize};

use super::condition::{Condition, ConditionProbe};
use super::feature::FeatureChoice;
use super::op::{Op, OpSites, SetValue, UnitChoice};
use super::positions::Positions;
use crate::error::{Error, Result};
use crate::model::network::address::{ForeignName, Layers};
use crate::model::network::blueprint::Blueprint;
use crate::model::network::site::{Address, Axis, Site, check_layer};
use crate::model::network::tap::PassPhase;

/// The address of [`EditPlace::Edges`].
pub(crate) const EDGES: &str = "edges";

/// Where an edit acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EditPlace {
    At(Address),
    /// A site at layers `a` to `b`, both included.
    Layers(Site, u16, u16),
    /// A site at every layer.
    Every(Site),
    /// A TransformerLens name whose meaning depends on the architecture; [`Edit::on`] replaces it by a site.
    Borrowed(ForeignName),
    /// Every block input, attention output and MLP output (Arditi et al. 2024).
    Writes,
    /// The edges between heads and MLPs: what each of them reads of the others.
    Edges,
}

impl EditPlace {
    /// A site at some layers.
    pub fn of(site: Site, layers: Layers) -> Self {
        match layers {
            Layers::One(layer) => Self::At(site.at(layer.into())),
            Layers::Range(a, b) => Self::Layers(site, a, b),
            Layers::Every => Self::Every(site),
        }
    }

    /// The addresses on a model with `layers` layers.
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
            Self::Edges => {
                let read = [
                    Site::Q,
                    Site::K,
                    Site::V,
                    Site::AttnAdd,
                    Site::MlpIn,
                    Site::MlpAdd,
                ];
                let blocks = (0..layers).flat_map(|l| read.map(|site| site.at(l)));
                std::iter::once(Site::Embed.at(0)).chain(blocks).collect()
            }
        };
        out.iter().try_for_each(|a| check_layer(*a, layers))?;
        Ok(out)
    }

    /// The site; for `writes` the block inputs and for `edges` the embedding, which come first.
    pub fn site(&self) -> Site {
        match self {
            Self::At(address) => address.site,
            Self::Layers(site, ..) | Self::Every(site) => *site,
            Self::Borrowed(name) => name.spelling.near,
            Self::Writes => Site::ResidPre,
            Self::Edges => Site::Embed,
        }
    }
}

/// Identifies an edit of a session in its current form: with another strength it is another edit; switched on or off it is the
/// same. Zero identifies none.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct EditId(pub u32);

#[derive(Clone, Debug, Default)]
pub struct EditIds(Vec<Edit>);

impl EditIds {
    /// The ids that some edits already have.
    pub fn of<'a>(edits: impl Iterator<Item = &'a Edit>) -> Self {
        let mut own = Self::default();
        for edit in edits.filter(|e| e.id != EditId::default()) {
            if own.get(edit.id).is_none() {
                own.0.push(edit.clone());
            }
        }
        own
    }

    /// The edit with an id.
    pub fn get(&self, id: EditId) -> Option<&Edit> {
        self.0.iter().find(|e| e.id == id)
    }

    /// Gives every edit of a list a distinct id: its present one if it is unchanged, else that of an equal edit from earlier,
    /// else a new one.
    pub fn give(&mut self, edits: &mut [Edit]) {
        let mut taken = Vec::new();
        for edit in edits.iter_mut() {
            let kept = self.get(edit.id).is_some_and(|known| known.same(edit));
            if kept && !taken.contains(&edit.id) {
                taken.push(edit.id);
            } else {
                edit.id = EditId::default();
            }
        }
        let new = edits.iter_mut().filter(|e| e.id == EditId::default());
        for edit in new {
            let mut known = self.0.iter().filter(|k| k.same(edit)).map(|k| k.id);
            let back = known.find(|id| !taken.contains(id));
            edit.id = back.unwrap_or_else(|| {
                let last = self.0.iter().map(|k| k.id.0).max();
                EditId(last.unwrap_or(0) + 1)
            });
            if back.is_none() {
                self.0.push(edit.clone());
            }
            taken.push(edit.id);
        }
    }
}

/// One intervention.
#[derive(Clone, Debug)]
pub struct Edit {
    /// Its id within a list or session, given by [`EditIds`]; not part of the edit's value.
    pub id: EditId,
    pub op: Op,
    pub place: EditPlace,
    pub positions: Positions,
    /// The phase in which it acts: prefill, decode, or both if none.
    pub phase: Option<PassPhase>,
    /// The strength; at the neutral strength of its operation the edit changes nothing.
    pub strength: f32,
    /// The condition that must hold at a position.
    pub when: Option<Condition>,
    /// Whether it is switched on; not part of the printed edit.
    pub on: bool,
}

impl PartialEq for Edit {
    fn eq(&self, other: &Self) -> bool {
        self.on == other.on && self.same(other)
    }
}

impl Edit {
    /// Whether both are the same intervention, on or off.
    pub fn same(&self, other: &Self) -> bool {
        self.op == other.op
            && self.place == other.place
            && self.positions == other.positions
            && (self.phase, self.strength) == (other.phase, other.strength)
            && self.when == other.when
    }

    /// An edit that is switched on at all positions, with strength 1.
    pub fn new(op: Op, place: EditPlace) -> Self {
        Self {
            id: EditId::default(),
            op,
            place,
            positions: Positions::All,
            phase: None,
            strength: 1.0,
            when: None,
            on: true,
        }
    }

    /// The name of its direction; empty for operations on units.
    pub fn direction(&self) -> &str {
        self.op.argument().mentions().directions[0].unwrap_or_default()
    }

    /// The units that the operation acts on; none for operations on directions.
    pub fn which(&self) -> Option<&UnitChoice> {
        self.op.argument().mentions().units
    }

    /// The dictionary whose features it changes, or one of which is its direction, as it was named.
    pub fn dictionary(&self) -> Option<String> {
        let names = self.op.argument().mentions();
        if let Some(UnitChoice::Features(features)) = names.units {
            return Some(features.dictionary.clone());
        }
        let direction = names.directions[0].and_then(FeatureChoice::of_direction);
        let spliced = names.dictionary.map(ToString::to_string);
        spliced.or(direction.map(|feature| feature.dictionary))
    }

    /// All names in it that may be those of files: directions, sets of units, dictionaries, circuits, and statistics.
    pub fn names(&self) -> Vec<&str> {
        let names = self.op.argument().mentions();
        let set = names.units.and_then(|units| match units {
            UnitChoice::Set(name) => Some(name.as_str()),
            UnitChoice::Features(features) => Some(features.dictionary.as_str()),
            UnitChoice::All | UnitChoice::List(_) => None,
        });
        let probe = self.when.as_ref().and_then(|when| match &when.probe {
            ConditionProbe::Along(name, _) => Some(name.as_str()),
            ConditionProbe::Feature(feature) => Some(feature.dictionary.as_str()),
            ConditionProbe::Probability(_) => None,
        });
        let [first, second] = names.directions;
        let relation = names.relation.map(|turn| turn.0.as_str());
        let (dictionary, circuit) = (names.dictionary, names.circuit);
        let all = [
            first,
            second,
            names.statistics,
            set,
            probe,
            relation,
            dictionary,
            circuit,
        ];
        all.into_iter().flatten().collect()
    }

    /// Whether its effect depends on the prompt's tokens rather than only on their number: by texts that name positions, means
    /// or largest values over the prompt, or conditions. Compiled for one prompt, such an edit is wrong for another.
    pub fn reads_prompt(&self) -> bool {
        let named = |p: &Positions| matches!(p, Positions::Token(_) | Positions::Text(_));
        let names = self.op.argument().mentions();
        let sources = names.sources.is_some_and(named);
        let largest = matches!(names.value, Some(SetValue::Times(_)));
        named(&self.positions) || sources || names.prompt_mean || largest || self.when.is_some()
    }

    /// The edit on an architecture: a TransformerLens name is replaced by the site that it means there, or refused.
    pub fn on(&self, blueprint: &Blueprint) -> Result<Self> {
        let EditPlace::Borrowed(name) = &self.place else {
            return Ok(self.clone());
        };
        let place = EditPlace::of(name.on(blueprint)?, name.layers);
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

    /// Whether it is on and its strength is not neutral.
    pub fn active(&self) -> bool {
        #[allow(clippy::float_cmp)] // the zero rule is about exactly this value
        let neutral = self.strength == self.op.spec().neutral;
        self.on && !neutral
    }

    /// Whether it acts at a position.
    pub fn covers(&self, position: usize, prompt: usize) -> bool {
        let phase = match self.phase {
            None => true,
            Some(PassPhase::Prefill) => position < prompt,
            Some(PassPhase::Decode) => position >= prompt,
        };
        phase && self.positions.covers(position, prompt)
    }
}

impl Edit {
    fn place_name(&self) -> &'static str {
        match self.place {
            EditPlace::Edges => EDGES,
            EditPlace::Writes => "writes",
            EditPlace::At(_)
            | EditPlace::Layers(..)
            | EditPlace::Every(_)
            | EditPlace::Borrowed(_) => self.place.site().spec().name,
        }
    }

    /// Refuses sites on which its operation cannot act, with the reason.
    pub(crate) fn check_site(&self) -> Result<(), String> {
        let spec = self.place.site().spec();
        match self.op.spec().acts {
            OpSites::Only(site, _) if spec.site == site && self.place != EditPlace::Edges => {
                return Ok(());
            }
            OpSites::Edges(_) if self.place == EditPlace::Edges => return Ok(()),
            OpSites::Only(_, why) | OpSites::Edges(why) => {
                return Err(format!("{why}, not {}", self.place_name()));
            }
            OpSites::Values if self.place == EditPlace::Edges => {
                return Err(format!(
                    "`edges` is the address of `only`, which leaves a circuit alone, and `{}` acts on the values of a site, such as resid_post.4 or mlp_act.3",
                    self.op.spec().name
                ));
            }
            OpSites::Values => {}
        }
        match spec.axis {
            Axis::Model | Axis::Mlp | Axis::Heads | Axis::KvHeads | Axis::Experts => Ok(()),
            Axis::Positions => Err(format!(
                "`{}` has one row for each query position and cannot be edited by this operation; use z (the output of each head), or cut:HEADS=POSITIONS@attn_scores.L instead",
                spec.name
            )),
            Axis::Vocab => Err(format!(
                "`{}` is the model's output; edit final_norm or a residual site instead",
                spec.name
            )),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_an_edit_as_it_stands() {
        let edit = |text: &str| text.parse::<Edit>().unwrap();
        let ids = |edits: &[Edit]| edits.iter().map(|e| e.id.0).collect::<Vec<_>>();
        let mut known = EditIds::default();
        let mut edits = vec![edit("zero:1@mlp_act.0"); 2];
        known.give(&mut edits);
        assert_eq!(ids(&edits), [1, 2], "equal ones are two");
        edits[1].on = false;
        edits[0].strength = 0.5;
        known.give(&mut edits);
        assert_eq!(ids(&edits), [3, 2], "on or off it is the same");
        edits[0].strength = 1.0;
        edits.insert(0, edit("zero:1@mlp_act.0*0.5"));
        known.give(&mut edits);
        assert_eq!(ids(&edits), [3, 1, 2], "what comes back is what it was");
        let text = "zero:1@mlp_act.0*0.5";
        assert_eq!(known.get(edits[0].id).unwrap().to_string(), text);
    }
}
