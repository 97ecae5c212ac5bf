//! What a relation is measured with: its map, the choices that were made, and the subjects that were held out.
//!
//! Invariant: nothing is chosen on the held-out subjects.

use std::cell::RefCell;
use std::rc::Rc;

use super::parameters::{BetaChoice, RelationParams, RelationShots, RelationView};
use crate::edit::relation_map::{
    RelationInverse, RelationMap, RelationOrigin, RelationPair, RelationPrompts,
};
use crate::error::{Error, Result};
use crate::instruments::params::ParameterValue;
use crate::lab::Lab;
use crate::lab::run::Run;
use crate::model::Fingerprint;
use crate::text;
use crate::vectors::proportion::Proportion;
use crate::vectors::relation::fit::{BETAS, FitScore, RelationFit, RelationMethod, best};
use crate::vectors::relation::pairs::{self, Relation};
use crate::vectors::relation::states::SubjectStates;

/// The maps of the relation that was asked about last, so that another view of it takes no time.
type LastFit = RefCell<Option<(u64, Rc<RelationFit>)>>;

/// Where the map comes from.
pub(super) enum MapSource {
    /// Made here, with the scores of the choice by layer and scale.
    Fitted {
        fit: Rc<RelationFit>,
        scores: Vec<Vec<FitScore>>,
        betas: Vec<f64>,
    },
    Saved(Box<RelationMap>),
}

/// Where edits change the state, and by an inverse of what rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EditChoice {
    /// The block, and its place in [`RelationPlan::layers`].
    pub layer: usize,
    pub place: usize,
    pub rank: usize,
}

/// A relation to be measured.
pub(super) struct RelationPlan {
    pub relation: Relation,
    pub prompts: RelationPrompts,
    pub source: MapSource,
    /// The blocks whose states were kept, of training and of held-out subjects.
    pub layers: Vec<usize>,
    /// The chosen block and its place in [`RelationPlan::layers`].
    pub layer: usize,
    pub place: usize,
    pub beta: f64,
    pub training: Vec<RelationPair>,
    pub held_out: Vec<SubjectStates>,
    few_shot: bool,
    unread: usize,
}

impl RelationPlan {
    pub fn new(params: &RelationParams, run: &Run, lab: &mut Lab) -> Result<Self> {
        let Some(path) = &params.relation else {
            let expected = "a file with the relation, such as docs/guide/relations/capitals.json";
            return Err(Error::argument("relation", "", expected));
        };
        let relation = pairs::read(path)?;
        let count = lab.model.card.layers;
        let saved = params.map.as_ref();
        let saved = saved.map(|map| RelationMap::load(map, &lab.model.card));
        if let Some(map) = saved.transpose()? {
            return Self::of_map(params, relation, map, lab);
        }
        let split = relation.split(params.examples.0, params.held_out.0, run.seed)?;
        let few_shot = params.prompts == RelationShots::Few;
        let prompts = RelationPrompts {
            template: relation.template(params.template.0, !few_shot)?.to_string(),
            examples: if few_shot {
                split.training.clone()
            } else {
                Vec::new()
            },
        };
        let layer = params.layer.within("layer", count)?;
        params.edit_layer.within("edit-layer", count)?;
        let edits = params.show.is_about_edits() || params.save.is_some();
        let layers: Vec<usize> = match layer {
            Some(layer) if !edits => vec![layer],
            Some(_) | None => (0..count).collect(),
        };
        let mut key = Fingerprint::default();
        key.write(
            format!(
                "{prompts:?} {:?} {layers:?} {}",
                split.training, lab.model.card.revision
            )
            .as_bytes(),
        );
        let key = key.finish();
        let held: Rc<LastFit> = lab.derived();
        let known = held
            .borrow()
            .as_ref()
            .filter(|(k, _)| *k == key)
            .map(|(_, fit)| fit.clone());
        let fit = if let Some(fit) = known {
            fit
        } else {
            let fit = lab.part(0.0..0.9, |lab| {
                RelationFit::measure(lab, &prompts, &split.training, &layers)
            })?;
            let fit = Rc::new(fit);
            *held.borrow_mut() = Some((key, fit.clone()));
            fit
        };
        let betas = match params.beta {
            BetaChoice::Chosen => BETAS.to_vec(),
            BetaChoice::Given(beta) => vec![beta],
        };
        let scores = fit.scores(lab, RelationMethod::Lre, &betas)?;
        let (place, beta) = choose(layer, &scores, &layers);
        let beta = betas[beta];
        let mut plan = Self {
            layer: layers[place],
            place,
            beta,
            layers,
            source: MapSource::Fitted { fit, scores, betas },
            training: split.training,
            held_out: Vec::new(),
            few_shot,
            unread: 0,
            relation,
            prompts,
        };
        lab.part(0.9..1.0, |lab| plan.hold_out(&split.held_out, lab))?;
        Ok(plan)
    }

    /// The plan of a saved map.
    fn of_map(
        params: &RelationParams,
        relation: Relation,
        map: RelationMap,
        lab: &mut Lab,
    ) -> Result<Self> {
        if matches!(
            params.show,
            RelationView::Layers | RelationView::Betas | RelationView::EditLayers
        ) {
            let expected = "faithfulness, subjects, causality or edit-ranks of a saved map; its other layers were not saved";
            return Err(Error::argument("show", params.show.print(), expected));
        }
        let fitted = |pair: &&RelationPair| {
            map.origin
                .fitted
                .iter()
                .all(|own| own.subject != pair.subject)
        };
        let others: Vec<RelationPair> = relation
            .samples
            .iter()
            .filter(fitted)
            .take(params.held_out.0)
            .cloned()
            .collect();
        if others.is_empty() {
            let expected = "a relation with subjects that the map was not made from";
            return Err(Error::argument(
                "relation",
                text::plain(relation.name.as_bytes()),
                expected,
            ));
        }
        let mut layers = vec![map.origin.layer, map.origin.edit_layer];
        layers.dedup();
        let mut plan = Self {
            prompts: map.origin.prompts.clone(),
            layer: map.origin.layer,
            place: 0,
            beta: map.origin.beta,
            layers,
            training: map.origin.fitted.clone(),
            few_shot: !map.origin.prompts.examples.is_empty(),
            source: MapSource::Saved(Box::new(map)),
            held_out: Vec::new(),
            unread: 0,
            relation,
        };
        plan.hold_out(&others, lab)?;
        Ok(plan)
    }

    /// Reads the held-out subjects; those that the tokenizer does not spell again are left out, and counted.
    fn hold_out(&mut self, pairs: &[RelationPair], lab: &mut Lab) -> Result<()> {
        for (i, pair) in pairs.iter().enumerate() {
            lab.report(i as f32 / pairs.len() as f32)?;
            match lab.without_progress(|lab| {
                SubjectStates::measure(lab, &self.prompts, pair, &self.layers)
            }) {
                Ok(found) => self.held_out.push(found),
                Err(Error::BadArgument { .. } | Error::PromptTooLong { .. }) => self.unread += 1,
                Err(other) => return Err(other),
            }
        }
        if self.held_out.is_empty() {
            let expected = "a relation whose subjects this model's tokenizer can spell";
            return Err(Error::argument(
                "relation",
                text::plain(self.relation.name.as_bytes()),
                expected,
            ));
        }
        Ok(())
    }

    /// The map, with the layer and rank of edits; without, those of reading and the whole rank.
    pub fn map(&self, edit: Option<EditChoice>, run: &Run, lab: &Lab) -> Result<RelationMap> {
        let (fit, card) = match &self.source {
            MapSource::Saved(map) => return Ok((**map).clone()),
            MapSource::Fitted { fit, .. } => (fit, &lab.model.card),
        };
        let d = card.d_model;
        let place = edit.map_or(self.place, |choice| choice.place);
        let inverse = RelationInverse::new(fit.weights[place].clone(), d)?;
        Ok(RelationMap {
            origin: RelationOrigin {
                model: card.name.clone(),
                revision: card.revision.clone(),
                relation: self.relation.name.clone(),
                prompts: self.prompts.clone(),
                fitted: self.training.clone(),
                layer: self.layer,
                beta: self.beta,
                edit_layer: self.layers[place],
                rank: edit.map_or(inverse.spectrum.rank(), |choice| choice.rank),
                seed: run.seed,
                version: env!("CARGO_PKG_VERSION").into(),
            },
            weight: fit.weights[self.place].clone(),
            bias: fit.biases[self.place].clone(),
            inverse,
        })
    }

    /// Whether the examples stand before every question.
    pub fn few_shot(&self) -> bool {
        self.few_shot
    }

    /// The relation's name, as safe text.
    pub fn name(&self) -> String {
        text::plain(self.relation.name.as_bytes())
    }

    /// Lines of provenance.
    pub fn resolved(&self, edit: Option<EditChoice>) -> Vec<(String, String)> {
        let mut lines = vec![
            ("chosen layer".into(), self.layer.to_string()),
            ("chosen beta".into(), self.beta.to_string()),
            (
                "template used".into(),
                text::plain(self.prompts.template.as_bytes()),
            ),
            (
                "training subjects".into(),
                self.training
                    .iter()
                    .map(|p| text::plain(p.subject.as_bytes()))
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
        ];
        if let Some(choice) = edit {
            lines.push(("chosen edit layer".into(), choice.layer.to_string()));
            lines.push(("chosen rank".into(), choice.rank.to_string()));
        }
        lines
    }

    /// What a reader must know of every view.
    pub fn notes(&self, edits: bool) -> Vec<String> {
        let known = Proportion::count(self.held_out.iter().map(|own| own.right));
        let mut notes = vec![format!(
            "held out: {} subjects, of which the model itself gets {} right ({}); s is the state at the subject's last token, o the state at the end of the prompt after the last block",
            self.held_out.len(),
            known.hits,
            if self.few_shot {
                format!("behind {} examples", self.prompts.examples.len())
            } else {
                "without examples".into()
            },
        )];
        match &self.source {
            MapSource::Fitted { fit, scores, betas } => {
                let known = Proportion::count(fit.training.iter().map(|own| own.right));
                let at = betas
                    .iter()
                    .position(|b| (b - self.beta).abs() < f64::EPSILON)
                    .unwrap_or(0);
                notes.push(format!(
                    "made from {} pairs, {} of which the model gets right; layer {} and beta {} chosen on them, each subject left out of the map that judges it: {} agree with the model",
                    fit.training.len(), known.hits, self.layer, self.beta, scores[self.place][at].agree.sentence(),
                ));
            }
            MapSource::Saved(map) => {
                notes.push(format!(
                    "a saved map of `{}`, made from {} pairs at layer {}, beta {}",
                    crate::text::plain(map.origin.relation.as_bytes()),
                    map.origin.fitted.len(),
                    self.layer,
                    self.beta
                ));
                if map.origin.relation != self.relation.name {
                    notes.push(format!(
                        "the map is of another relation than the file, `{}`, and asks with its own template: what is counted here is how that map does on subjects of this file",
                        crate::text::plain(self.relation.name.as_bytes()),
                    ));
                }
            }
        }
        if self.unread > 0 {
            notes.push(format!("{} subjects were left out: the tokenizer does not spell them again, or their prompts are too long", self.unread));
        }
        if edits {
            return notes;
        }
        notes.push("not shown: whether the model uses this map. It is the first-order approximation of what the model computes near a few subjects; a high count says that a linear read-out is enough, and only the edits say that the state matters. First tokens alone are compared".into());
        notes
    }
}

/// The place of the best layer and of the best scale.
fn choose(layer: Option<usize>, scores: &[Vec<FitScore>], layers: &[usize]) -> (usize, usize) {
    let beta = |place: usize| best(&scores[place], FitScore::better).unwrap_or(0);
    let given = layer.and_then(|layer| layers.iter().position(|l| *l == layer));
    let place = given.unwrap_or_else(|| {
        let tops = (0..layers.len()).map(|place| scores[place][beta(place)]);
        let tops: Vec<FitScore> = tops.collect();
        best(&tops, FitScore::better).unwrap_or(0)
    });
    (place, beta(place))
}
