//! Schedules: which edits were in force at which positions.
//!
//! Invariant: stages are in ascending order of `since`; in the mode `as if always` there is a single stage, and every change in
//! the mode `from now` adds one.
//! To add another way for edits to change over a text, add it to [`Schedule::spans`], which everything reads.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::feature::FeatureChoice;
use super::intervention::{Edit, EditIds, EditPlace};
use super::op::UnitChoice;
use crate::error::Result;
use crate::model::Fingerprint;
use crate::model::network::blueprint::Blueprint;
use crate::model::network::site::Site;

/// How a change of edits treats what was already computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Keep the cache: the change applies from the next position on.
    #[default]
    #[serde(rename = "from now")]
    FromNow,
    /// Read the whole text again under the new edits; the tokens stay the same.
    #[serde(rename = "as if always")]
    AsIfAlways,
}

impl Mode {
    /// Its name on the screen and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::FromNow => "from now",
            Self::AsIfAlways => "as if always",
        }
    }

    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::FromNow => Self::AsIfAlways,
            Self::AsIfAlways => Self::FromNow,
        }
    }
}

/// A set of edits, and the position from which on it is in force.
#[derive(Clone, Debug, PartialEq)]
pub struct EditStage {
    /// The first position at which it is in force.
    pub since: usize,
    /// The edits, on and off.
    pub edits: Vec<Edit>,
}

/// Which edits were in force at which positions: a single stage in the mode `as if always`, one more for every change in the
/// mode `from now`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schedule {
    /// The stages, in ascending order of `since`.
    pub stages: Vec<EditStage>,
    /// Where it is a control: the seed of the random directions and units of equal size that take the places of those of the edits.
    pub random: Option<u64>,
}

impl Schedule {
    /// A schedule with these edits in force from the first position on.
    pub fn always(edits: Vec<Edit>) -> Self {
        let mut schedule = Self::none();
        schedule.change(0, edits);
        schedule
    }

    /// Every edit of every stage.
    fn edits(&self) -> impl Iterator<Item = &Edit> {
        self.stages.iter().flat_map(|s| &s.edits)
    }

    /// The schedule with one more edit, in force from the first position on.
    #[must_use]
    pub fn and(&self, edit: &Edit) -> Self {
        let mut stages = self.stages.clone();
        if stages.first().is_none_or(|first| first.since > 0) {
            let edits = Vec::new();
            stages.insert(0, EditStage { since: 0, edits });
        }
        let mut ids = EditIds::of(self.edits());
        for stage in &mut stages {
            stage.edits.push(edit.clone());
            ids.give(&mut stage.edits);
        }
        Self {
            stages,
            random: self.random,
        }
    }

    /// The schedule as a control: random directions and units of equal size, from this seed, in the places of those of the edits.
    #[must_use]
    pub fn control(&self, seed: u64) -> Self {
        Self {
            random: Some(seed),
            ..self.clone()
        }
    }

    pub fn none() -> Self {
        Self::default()
    }

    /// The schedule with TransformerLens names resolved for an architecture, where their meaning depends on it.
    pub fn on(&self, blueprint: &Blueprint) -> Result<Self> {
        let resolved = |stage: &EditStage| {
            // An edit without effect may be written for another architecture.
            let edits = stage.edits.iter().map(|edit| match edit.on(blueprint) {
                Err(_) if !edit.active() => Ok(edit.clone()),
                resolved => resolved,
            });
            Ok(EditStage {
                since: stage.since,
                edits: edits.collect::<Result<_>>()?,
            })
        };
        let stages = self.stages.iter().map(resolved);
        Ok(Self {
            stages: stages.collect::<Result<_>>()?,
            random: self.random,
        })
    }

    /// Puts these edits in force from `position` on. An edit without an id gets that of the equal edit that was in force, if
    /// any.
    pub fn change(&mut self, position: usize, mut edits: Vec<Edit>) {
        EditIds::of(self.edits().chain(&edits)).give(&mut edits);
        self.stages.retain(|s| s.since < position);
        self.stages.push(EditStage {
            since: position,
            edits,
        });
    }

    /// Drops changes at or after a position (a rewind); the latest edits are in force from there on.
    pub fn rewind(&mut self, position: usize) {
        if let Some(last) = self.stages.last().cloned().filter(|s| s.since > position) {
            self.change(position, last.edits);
        }
    }

    /// Whether no edit ever changes anything.
    pub fn is_idle(&self) -> bool {
        !self.edits().any(Edit::active)
    }

    /// Whether the effect of an active edit depends on the prompt's tokens ([`Edit::reads_prompt`]).
    pub fn reads_prompt(&self) -> bool {
        self.edits().any(|e| e.active() && e.reads_prompt())
    }

    /// The first position at which any edit was in force.
    pub fn began(&self) -> usize {
        let active = self
            .spans()
            .filter(|(_, edits)| edits.iter().any(Edit::active));
        active
            .map(|(span, _)| span.start)
            .min()
            .unwrap_or(usize::MAX)
    }

    /// Whether any active edit acts at a site.
    pub fn acts_at(&self, site: Site) -> bool {
        self.edits().filter(|e| e.active()).any(|e| {
            !matches!(e.place, EditPlace::Writes | EditPlace::Edges) && e.place.site() == site
        })
    }

    /// The edits of the latest stage.
    pub fn latest(&self) -> &[Edit] {
        self.stages.last().map_or(&[], |s| &s.edits)
    }

    /// All stages with the range of positions of each.
    pub fn spans(&self) -> impl Iterator<Item = (Range<usize>, &[Edit])> {
        self.stages.iter().enumerate().map(|(i, stage)| {
            let end = self.stages.get(i + 1).map_or(usize::MAX, |next| next.since);
            (stage.since..end, stage.edits.as_slice())
        })
    }

    /// The active edits that act on features of a dictionary, with the positions from which and until which each is on.
    pub fn on_features(&self) -> impl Iterator<Item = (Range<usize>, &Edit, &FeatureChoice)> {
        self.spans().flat_map(|(span, edits)| {
            let active = edits.iter().filter(|edit| edit.active());
            active.filter_map(move |edit| match edit.op.argument().mentions().units {
                Some(UnitChoice::Features(chosen)) => Some((span.clone(), edit, chosen)),
                Some(UnitChoice::All | UnitChoice::List(_) | UnitChoice::Set(_)) | None => None,
            })
        })
    }

    /// The active edits, each as its line of the edit grammar, with `since N` if it began later than position 0.
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

    /// A digest of the active edits; 0 if nothing is changed.
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
        if let Some(seed) = self.random {
            hash.write(&seed.to_le_bytes());
        }
        hash.finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

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
        assert_ne!(schedule.digest(), schedule.control(1).digest());
        assert_ne!(schedule.control(2).digest(), schedule.control(1).digest());
        let more: Edit = "zero:1@mlp_act.0".parse().unwrap();
        assert_eq!(
            schedule.and(&more).lines(),
            [
                "zero:1@mlp_act.0",
                "zero@mlp_out.0 since 3",
                "zero:1@mlp_act.0 since 3"
            ]
        );
        assert_eq!(Schedule::none().and(&more), Schedule::always(vec![more]));
        let mut off = edit;
        off.strength = 0.0;
        assert!(Schedule::always(vec![off]).is_idle());
    }
}
