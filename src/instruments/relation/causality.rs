//! Causality: whether the change that a relation's map implies makes the model say the object of another subject (Hernandez et
//! al. 2024, section 5).
//!
//! The state of a subject after a block becomes `s + W†_ρ (o' − o)`, with `o'` the object's state of another subject. Invariant:
//! layer and rank are chosen on pairs of training subjects, and the counts are over pairs of held-out ones that the model gets
//! right, beside three controls at the same place: the other subject's state, the other object's state scaled to the length of
//! `s`, and a random change as long as the edit's. To compare with another change, add a variant of [`ChangeKind`].

use candle_core::{Device, Tensor};

use super::faithfulness::{other, unit};
use super::parameters::{RankChoice, RelationParams, RelationView};
use super::plan::{EditChoice, MapSource, RelationPlan};
use crate::edit::direction::{norm, random_like};
use crate::edit::relation_map::RelationInverse;
use crate::error::{Error, Result};
use crate::figure::builders::entries;
use crate::figure::{Anchor, AxisLabel, Curve, Series, Style, Table, TableRow};
use crate::instruments::Draft;
use crate::instruments::params::ParameterValue;
use crate::lab::Lab;
use crate::lab::capture::{After, Output};
use crate::lab::pass::{Pass, PassRow, Patch};
use crate::lab::run::Run;
use crate::model::Fingerprint;
use crate::model::host::ToHost;
use crate::model::network::site::Site;
use crate::vectors::proportion::Proportion;
use crate::vectors::relation::fit::best;
use crate::vectors::relation::states::SubjectStates;

/// What is done to the subject's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChangeKind {
    /// Nothing.
    Unchanged,
    /// `s + W†_ρ (o' − o)`.
    Edit,
    /// The other subject's state.
    Subject,
    /// The other object's state, as long as `s`.
    Object,
    /// `s` and a random vector as long as the edit's change.
    Random,
}

impl ChangeKind {
    const ALL: [Self; 5] = [
        Self::Edit,
        Self::Subject,
        Self::Object,
        Self::Random,
        Self::Unchanged,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Unchanged => "unedited",
            Self::Edit => "LRE edit",
            Self::Subject => "s replaced by s'",
            Self::Object => "s replaced by o'",
            Self::Random => "random change",
        }
    }
}

/// What the model says of a subject under a change.
#[derive(Clone, Copy, Debug)]
struct EditedAnswer {
    /// Whether it says the other object.
    changed: bool,
    /// Whether it finds the other object more probable than its own.
    prefers: bool,
    /// The natural log-probability of the other object.
    logprob: f32,
}

/// Edits of some pairs of subjects at one place.
#[derive(Clone, Copy, Debug)]
struct EditScore {
    changed: Proportion,
    prefers: Proportion,
    logprob: f64,
}

impl EditScore {
    fn of(answers: &[EditedAnswer]) -> Self {
        let sum: f64 = answers.iter().map(|a| f64::from(a.logprob)).sum();
        Self {
            changed: Proportion::count(answers.iter().map(|a| a.changed)),
            prefers: Proportion::count(answers.iter().map(|a| a.prefers)),
            logprob: sum / answers.len().max(1) as f64,
        }
    }

    fn better(&self, other: &Self) -> std::cmp::Ordering {
        let hits = self.changed.hits.cmp(&other.changed.hits);
        hits.then(self.logprob.total_cmp(&other.logprob))
    }
}

/// A change at one place.
#[derive(Clone, Copy)]
struct PlannedChange<'a> {
    kind: ChangeKind,
    /// The place of the block in the plan's layers.
    place: usize,
    rank: usize,
    inverse: &'a RelationInverse,
    seed: u64,
}

impl PlannedChange<'_> {
    /// The state that takes the place of `s`.
    fn state(&self, own: &SubjectStates, target: &SubjectStates) -> Vec<f32> {
        let s = &own.states[self.place];
        let implied = || {
            let pairs = target.object.iter().zip(&own.object);
            let difference: Vec<f32> = pairs.map(|(a, b)| a - b).collect();
            self.inverse.apply(&difference, self.rank)
        };
        let plus = |change: &[f32]| s.iter().zip(change).map(|(s, x)| s + x).collect();
        match self.kind {
            ChangeKind::Unchanged => s.clone(),
            ChangeKind::Edit => plus(&implied()),
            ChangeKind::Subject => target.states[self.place].clone(),
            ChangeKind::Object => {
                let factor = norm(s) / norm(&target.object).max(f32::MIN_POSITIVE);
                target.object.iter().map(|x| x * factor).collect()
            }
            ChangeKind::Random => plus(&random_like(&implied(), self.seed)),
        }
    }
}

/// Edits and their controls.
pub(super) struct Causality {
    pub choice: EditChoice,
    /// On held-out pairs.
    found: Vec<(ChangeKind, EditScore)>,
    /// On training pairs: by layer the edit at its best rank, and the controls.
    by_layer: Vec<(ChangeKind, Vec<f32>)>,
    /// On training pairs at the chosen layer: by rank.
    ranks: Vec<usize>,
    by_rank: Vec<(ChangeKind, Vec<f32>)>,
    chosen_on: usize,
}

/// The ranks that are tried: powers of two, three quarters between them from 12 on, and the whole.
fn ranks(whole: usize) -> Vec<usize> {
    let doubled = (0..usize::BITS as usize - 2).map(|i| 1 << i);
    let all = doubled.flat_map(|r: usize| [r, if r >= 8 { r + r / 2 } else { r }]);
    let mut all: Vec<usize> = all.take_while(|r| *r < whole).chain([whole]).collect();
    all.dedup();
    all
}

/// A subject with the one whose object it is to be given.
type EditPair = (usize, usize);

impl Causality {
    pub fn measure(
        params: &RelationParams,
        plan: &mut RelationPlan,
        run: &Run,
        lab: &mut Lab,
    ) -> Result<Self> {
        let mut out = match &plan.source {
            MapSource::Saved(map) => {
                let place = plan.layers.iter().position(|l| *l == map.origin.edit_layer);
                Self {
                    choice: EditChoice {
                        layer: map.origin.edit_layer,
                        place: place.unwrap_or(0),
                        rank: match params.rank {
                            RankChoice::Chosen => map.origin.rank,
                            RankChoice::Given(rank) => rank,
                        },
                    },
                    found: Vec::new(),
                    by_layer: Vec::new(),
                    ranks: Vec::new(),
                    by_rank: Vec::new(),
                    chosen_on: 0,
                }
            }
            MapSource::Fitted { .. } => {
                lab.part(0.0..0.7, |lab| Self::chosen(params, plan, run, lab))?
            }
        };
        let inverse = plan.inverse(out.choice.place, lab)?;
        let known: Vec<&SubjectStates> = plan.held_out.iter().filter(|own| own.right).collect();
        let pairs = pairs(&known)?;
        let rank = out.choice.rank.min(inverse.spectrum.rank());
        out.choice.rank = rank;
        let change = |kind| PlannedChange {
            kind,
            place: out.choice.place,
            rank,
            inverse: &inverse,
            seed: run.seed,
        };
        let changes: Vec<PlannedChange> = ChangeKind::ALL.into_iter().map(change).collect();
        let answers = lab.part(0.7..1.0, |lab| answers(lab, plan, &known, &pairs, &changes))?;
        out.found = ChangeKind::ALL
            .into_iter()
            .zip(answers.iter().map(|a| EditScore::of(a)))
            .collect();
        if out.by_rank.is_empty() && params.show == RelationView::EditRanks {
            out.rank_curve(plan, &known, &pairs, &inverse, run, lab)?;
        }
        Ok(out)
    }

    /// Chooses layer and rank on the training pairs.
    fn chosen(
        params: &RelationParams,
        plan: &RelationPlan,
        run: &Run,
        lab: &mut Lab,
    ) -> Result<Self> {
        let MapSource::Fitted { fit, .. } = &plan.source else {
            return Err(Error::Engine("a saved map chooses nothing".into()));
        };
        let training: Vec<&SubjectStates> = fit.training.iter().filter(|own| own.right).collect();
        let pairs = pairs(&training)?;
        let places: Vec<usize> = match params
            .edit_layer
            .within("edit-layer", lab.model.card.layers)?
        {
            Some(layer) => plan
                .layers
                .iter()
                .position(|l| *l == layer)
                .into_iter()
                .collect(),
            None => (0..plan.layers.len()).collect(),
        };
        let mut by_place: Vec<(usize, usize, EditScore)> = Vec::new();
        let mut curves: Vec<(ChangeKind, Vec<f32>)> = [
            ChangeKind::Edit,
            ChangeKind::Subject,
            ChangeKind::Object,
            ChangeKind::Random,
        ]
        .map(|kind| (kind, vec![f32::NAN; plan.layers.len()]))
        .to_vec();
        for (done, place) in places.iter().enumerate() {
            lab.report(done as f32 / places.len() as f32)?;
            let inverse = plan.inverse(*place, lab)?;
            let whole = inverse.spectrum.rank();
            if whole == 0 {
                // The subject's state no longer reaches the end of the prompt.
                continue;
            }
            let tried = match params.rank {
                RankChoice::Chosen => ranks(whole),
                RankChoice::Given(rank) => vec![rank.min(whole)],
            };
            let change = |kind, rank| PlannedChange {
                kind,
                place: *place,
                rank,
                inverse: &inverse,
                seed: run.seed,
            };
            let edits: Vec<PlannedChange> = tried
                .iter()
                .map(|rank| change(ChangeKind::Edit, *rank))
                .collect();
            let read = lab.without_progress(|lab| answers(lab, plan, &training, &pairs, &edits))?;
            let scores: Vec<EditScore> = read.iter().map(|a| EditScore::of(a)).collect();
            let Some(top) = best(&scores, EditScore::better) else {
                continue;
            };
            by_place.push((*place, tried[top], scores[top]));
            curves[0].1[*place] = scores[top].changed.share() as f32;
            let others: Vec<PlannedChange> = curves[1..]
                .iter()
                .map(|(kind, _)| change(*kind, tried[top]))
                .collect();
            let read =
                lab.without_progress(|lab| answers(lab, plan, &training, &pairs, &others))?;
            for ((_, curve), answers) in curves[1..].iter_mut().zip(&read) {
                curve[*place] = EditScore::of(answers).changed.share() as f32;
            }
        }
        let Some(top) = best(&by_place, |a, b| a.2.better(&b.2)) else {
            let expected = "a layer before the last one, where the subject's state still reaches the end of the prompt";
            return Err(Error::argument(
                "edit-layer",
                params.edit_layer.print(),
                expected,
            ));
        };
        let (place, rank, _) = by_place[top];
        let mut out = Self {
            choice: EditChoice {
                layer: plan.layers[place],
                place,
                rank,
            },
            found: Vec::new(),
            by_layer: curves,
            ranks: Vec::new(),
            by_rank: Vec::new(),
            chosen_on: pairs.len(),
        };
        if params.show == RelationView::EditRanks {
            let inverse = plan.inverse(place, lab)?;
            out.rank_curve(plan, &training, &pairs, &inverse, run, lab)?;
        }
        Ok(out)
    }

    fn rank_curve(
        &mut self,
        plan: &RelationPlan,
        subjects: &[&SubjectStates],
        pairs: &[EditPair],
        inverse: &RelationInverse,
        run: &Run,
        lab: &mut Lab,
    ) -> Result<()> {
        self.ranks = ranks(inverse.spectrum.rank());
        for kind in [ChangeKind::Edit, ChangeKind::Random] {
            let changes: Vec<PlannedChange> = self
                .ranks
                .iter()
                .map(|rank| PlannedChange {
                    kind,
                    place: self.choice.place,
                    rank: *rank,
                    inverse,
                    seed: run.seed,
                })
                .collect();
            let read = lab.without_progress(|lab| answers(lab, plan, subjects, pairs, &changes))?;
            let curve = read.iter().map(|a| EditScore::of(a).changed.share() as f32);
            self.by_rank.push((kind, curve.collect()));
        }
        Ok(())
    }

    pub fn draw(&self, view: RelationView, plan: &RelationPlan) -> Draft {
        let curve = |(kind, values): &(ChangeKind, Vec<f32>)| {
            Curve::of(
                kind.name(),
                Anchor::layer(self.choice.layer),
                values.clone(),
            )
        };
        let value = "share that says the other object";
        let draft = match view {
            RelationView::EditLayers => {
                let points = plan.layers.iter().map(|l| AxisLabel::layer(*l)).collect();
                let curves = self.by_layer.iter().map(curve).collect();
                Draft::of(unit(Series::of("layer", value, points, curves, Style::Lines)))
                    .titled(format!("{} · edits by layer", plan.name()))
                    .note(format!("over {} pairs of training subjects, on which layer and rank were chosen; the edit and the random change at the best rank of each layer", self.chosen_on))
            }
            RelationView::EditRanks => {
                let points = self
                    .ranks
                    .iter()
                    .map(|r| AxisLabel::of(r.to_string(), Anchor::layer(self.choice.layer)))
                    .collect();
                let curves = self.by_rank.iter().map(curve).collect();
                let on = match &plan.source {
                    MapSource::Fitted { .. } => format!(
                        "{} pairs of training subjects, on which the rank was chosen",
                        self.chosen_on
                    ),
                    MapSource::Saved(_) => {
                        "the held-out pairs; the rank in use was chosen when the map was made"
                            .into()
                    }
                };
                Draft::of(unit(Series::of(
                    "rank",
                    value,
                    points,
                    curves,
                    Style::Lines,
                )))
                .titled(format!(
                    "{} · edits by rank at layer {}",
                    plan.name(),
                    self.choice.layer
                ))
                .note(format!("over {on}"))
            }
            RelationView::Causality
            | RelationView::Faithfulness
            | RelationView::Subjects
            | RelationView::Layers
            | RelationView::Betas => self.table(plan),
        };
        draft.note(self.sentence())
    }

    fn table(&self, plan: &RelationPlan) -> Draft {
        let row = |(kind, score): &(ChangeKind, EditScore)| {
            let (low, high) = score.changed.interval();
            let entries = entries![
                kind.name(),
                score.changed.share() as f32,
                low as f32,
                high as f32,
                format!("{}/{}", score.changed.hits, score.changed.of),
                score.prefers.share() as f32,
                score.logprob.exp() as f32,
            ];
            TableRow::at(Anchor::layer(self.choice.layer), entries)
        };
        let columns = [
            "change of s",
            "says o'",
            "from",
            "to",
            "count",
            "p(o') > p(o)",
            "p(o')",
        ];
        Draft::of(Table::of(&columns, self.found.iter().map(row).collect()))
            .titled(format!("{} · causality at layer {}, rank {}", plan.name(), self.choice.layer, self.choice.rank))
            .note("pairs of held-out subjects that the model gets right, each with the next one whose object begins with another token. o': the object of the other subject; from, to: Wilson's interval of 95 %; p(o'): geometric mean. s replaced by s': the other subject's state; by o': the other object's state, as long as s; random change: as long as the edit's")
    }

    /// What was counted, in a sentence.
    pub fn sentence(&self) -> String {
        let of = |wanted: ChangeKind| {
            let found = self.found.iter().find(|(kind, _)| *kind == wanted);
            found.map_or_else(|| "none".into(), |(_, score)| score.changed.sentence())
        };
        format!(
            "at layer {}, rank {}: the edit makes the model say the other object for {} held-out pairs, a random change as long for {}, the other subject's state for {}",
            self.choice.layer,
            self.choice.rank,
            of(ChangeKind::Edit),
            of(ChangeKind::Random),
            of(ChangeKind::Subject),
        )
    }
}

impl RelationPlan {
    /// The inverse at a place.
    fn inverse(&self, place: usize, lab: &Lab) -> Result<RelationInverse> {
        match &self.source {
            MapSource::Saved(map) => Ok(map.inverse.clone()),
            MapSource::Fitted { fit, .. } => {
                RelationInverse::new(fit.weights[place].clone(), lab.model.card.d_model)
            }
        }
    }
}

/// Every subject with the next one of which the model says something else.
fn pairs(subjects: &[&SubjectStates]) -> Result<Vec<EditPair>> {
    let says: Vec<u32> = subjects.iter().map(|own| own.says.0).collect();
    let pairs: Vec<EditPair> = (0..says.len())
        .filter_map(|i| Some((i, other(&says, i)?)))
        .collect();
    if pairs.is_empty() {
        let expected = "a relation in which the model says different objects of at least two subjects, and gets them right";
        return Err(Error::argument(
            "relation",
            format!("{} subjects", says.len()),
            expected,
        ));
    }
    Ok(pairs)
}

/// What the model says of every pair under every change: by change, then by pair.
fn answers(
    lab: &mut Lab,
    plan: &RelationPlan,
    subjects: &[&SubjectStates],
    pairs: &[EditPair],
    changes: &[PlannedChange],
) -> Result<Vec<Vec<EditedAnswer>>> {
    let mut out = vec![Vec::with_capacity(pairs.len()); changes.len()];
    for (done, (i, j)) in pairs.iter().enumerate() {
        lab.report(done as f32 / pairs.len() as f32)?;
        let (own, target) = (subjects[*i], subjects[*j]);
        let rows = changes.iter().enumerate().map(|(c, change)| {
            // Another random vector for every pair.
            let seed = Fingerprint::of([change.seed, done as u64, c as u64]);
            let change = PlannedChange { seed, ..*change };
            let value = change.state(own, target);
            let value = Tensor::from_vec(value, own.states[change.place].len(), &Device::Cpu)?;
            let value = value.on_device(&lab.model.transformer.device)?;
            let at = Site::ResidPost.at(plan.layers[change.place]);
            Ok(PassRow::patched(vec![Patch::new(at, own.at, value)]))
        });
        let pass = Pass {
            from: Some(own.at),
            rows: rows.collect::<Result<_>>()?,
            ..Pass::after(
                Run::plain(own.tokens.clone()),
                Output {
                    after: After::Last(1),
                    ..Output::tokens(&[own.says.0, target.says.0])
                },
            )
        };
        let read = lab.without_progress(|lab| lab.run(&pass))?;
        for (answers, row) in out.iter_mut().zip(&read) {
            let stats = row.last();
            let (before, after) = (stats.token(own.says.0), stats.token(target.says.0));
            answers.push(EditedAnswer {
                changed: stats.first().0 == target.says.0,
                prefers: after.logprob > before.logprob,
                logprob: after.logprob,
            });
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_grow_to_the_whole() {
        assert_eq!(ranks(1), [1]);
        assert_eq!(ranks(20), [1, 2, 4, 8, 12, 16, 20]);
        assert_eq!(*ranks(576).last().unwrap_or(&0), 576);
        assert!(ranks(576).windows(2).all(|two| two[0] < two[1]));
    }
}
