//! Faithfulness: how often a map says of a held-out subject what the model says (Hernandez et al. 2024, section 4).
//!
//! Invariant: every method is counted on the same subjects, at the layer that is best for it on the training pairs; the share is
//! of the subjects that the model itself gets right, with its interval, and that of all of them stands beside it. To compare
//! with another method, see `vectors/relation/fit`.

use super::parameters::{RelationParams, RelationView};
use super::plan::{MapSource, RelationPlan};
use crate::edit::relation_map::RelationPrompts;
use crate::error::Result;
use crate::figure::builders::entries;
use crate::figure::{Anchor, AxisLabel, Curve, Entry, Series, Style, Table, TableRow};
use crate::instruments::Draft;
use crate::lab::Lab;
use crate::text;
use crate::vectors::proportion::Proportion;
use crate::vectors::relation::fit::{
    FitScore, ObjectReading, RelationFit, RelationMethod, best, read_objects,
};
use crate::vectors::relation::states::{SubjectStates, begins};

/// What a method says of the held-out subjects.
struct MethodResult {
    name: String,
    /// The block after which the state is read; none for the model itself.
    layer: Option<usize>,
    /// None where a method cannot say anything of a subject.
    readings: Vec<Option<ObjectReading>>,
}

/// The methods on the held-out subjects, the map first.
pub(super) struct Faithfulness {
    methods: Vec<MethodResult>,
    /// By method and layer: agreement on the training pairs, each left out, and that of the map on held-out subjects.
    curves: Vec<(String, Vec<f32>)>,
}

impl Faithfulness {
    pub fn measure(params: &RelationParams, plan: &RelationPlan, lab: &mut Lab) -> Result<Self> {
        let expected: Vec<u32> = plan.held_out.iter().map(|own| own.says.0).collect();
        let mut out = Self {
            methods: Vec::new(),
            curves: Vec::new(),
        };
        let own = objects_of_map(plan, lab, plan.place)?;
        out.push(plan, "LRE", plan.layer, &own, &expected, lab)?;
        if params.show == RelationView::Betas || params.show == RelationView::Subjects {
            return Ok(out);
        }
        let others: Vec<Option<usize>> = (0..expected.len()).map(|i| other(&expected, i)).collect();
        let swapped: Vec<Vec<f32>> = others
            .iter()
            .enumerate()
            .map(|(i, j)| own[j.unwrap_or(i)].clone())
            .collect();
        out.push(
            plan,
            "LRE of another subject's s",
            plan.layer,
            &swapped,
            &expected,
            lab,
        )?;
        if let Some(last) = out.methods.last_mut() {
            let pairs = last.readings.iter_mut().zip(&others);
            pairs
                .filter(|(_, j)| j.is_none())
                .for_each(|(reading, _)| *reading = None);
        }
        match &plan.source {
            MapSource::Saved(map) => {
                let bias = vec![map.bias.clone(); expected.len()];
                out.push(
                    plan,
                    RelationMethod::Bias.name(),
                    plan.layer,
                    &bias,
                    &expected,
                    lab,
                )?;
                let states: Vec<Vec<f32>> = plan
                    .held_out
                    .iter()
                    .map(|own| own.states[plan.place].clone())
                    .collect();
                out.push(
                    plan,
                    RelationMethod::Lens.name(),
                    plan.layer,
                    &states,
                    &expected,
                    lab,
                )?;
            }
            MapSource::Fitted { fit, scores, .. } => {
                let tops = scores
                    .iter()
                    .map(|own| share(best(own, FitScore::better).map(|i| own[i])));
                out.curves
                    .push((RelationMethod::Lre.name().into(), tops.collect()));
                for method in RelationMethod::ALL.into_iter().skip(1) {
                    out.baseline(plan, fit, method, &expected, lab)?;
                }
                if params.show == RelationView::Layers {
                    out.held_out_by_layer(plan, fit, scores, &expected, lab)?;
                }
            }
        }
        if plan.few_shot() && params.show == RelationView::Faithfulness {
            out.methods.push(zero_shot(params, plan, &expected, lab)?);
        }
        Ok(out)
    }

    fn push(
        &mut self,
        plan: &RelationPlan,
        name: &str,
        layer: usize,
        objects: &[Vec<f32>],
        expected: &[u32],
        lab: &mut Lab,
    ) -> Result<()> {
        debug_assert_eq!(objects.len(), plan.held_out.len());
        self.methods.push(MethodResult {
            name: name.into(),
            layer: Some(layer),
            readings: read_objects(lab, objects, expected)?
                .into_iter()
                .map(Some)
                .collect(),
        });
        Ok(())
    }

    /// A method at its own best layer on the training pairs.
    fn baseline(
        &mut self,
        plan: &RelationPlan,
        fit: &RelationFit,
        method: RelationMethod,
        expected: &[u32],
        lab: &mut Lab,
    ) -> Result<()> {
        let scores = fit.scores(lab, method, &[1.0])?;
        let firsts: Vec<FitScore> = scores.iter().map(|own| own[0]).collect();
        let curve = firsts.iter().map(|own| share(Some(*own)));
        self.curves.push((method.name().into(), curve.collect()));
        let place = best(&firsts, FitScore::better).unwrap_or(plan.place);
        let states = states(&plan.held_out, place);
        let objects = fit.objects(lab, method, place, 1.0, &states)?;
        self.push(
            plan,
            method.name(),
            plan.layers[place],
            &objects,
            expected,
            lab,
        )
    }

    fn held_out_by_layer(
        &mut self,
        plan: &RelationPlan,
        fit: &RelationFit,
        scores: &[Vec<FitScore>],
        expected: &[u32],
        lab: &mut Lab,
    ) -> Result<()> {
        let MapSource::Fitted { betas, .. } = &plan.source else {
            return Ok(());
        };
        let mut curve = Vec::with_capacity(plan.layers.len());
        for place in 0..plan.layers.len() {
            let beta = best(&scores[place], FitScore::better).map_or(1.0, |i| betas[i]);
            let states = states(&plan.held_out, place);
            let objects = fit.objects(lab, RelationMethod::Lre, place, beta, &states)?;
            let read = read_objects(lab, &objects, expected)?;
            let known = read.iter().zip(&plan.held_out).filter(|(_, own)| own.right);
            curve.push(Proportion::count(known.map(|(r, _)| r.agrees)).share() as f32);
        }
        self.curves.insert(1, ("LRE, held out".into(), curve));
        Ok(())
    }

    /// How often a method says what the model says, of the held-out subjects that the model gets right, and of all.
    fn counts(&self, method: &MethodResult, plan: &RelationPlan) -> (Proportion, Proportion) {
        let all = || {
            method
                .readings
                .iter()
                .zip(&plan.held_out)
                .filter_map(|(r, own)| Some((r.as_ref()?, own)))
        };
        let known = all().filter(|(_, own)| own.right);
        (
            Proportion::count(known.map(|(r, _)| r.agrees)),
            Proportion::count(all().map(|(r, _)| r.agrees)),
        )
    }

    pub fn draw(&self, view: RelationView, plan: &RelationPlan, lab: &Lab) -> Draft {
        match view {
            RelationView::Layers => self.layers(plan),
            RelationView::Betas => betas(plan),
            RelationView::Subjects => self.subjects(plan, lab),
            RelationView::Faithfulness
            | RelationView::Causality
            | RelationView::EditLayers
            | RelationView::EditRanks => self.table(plan),
        }
    }

    fn table(&self, plan: &RelationPlan) -> Draft {
        let row = |method: &MethodResult| {
            let (known, all) = self.counts(method, plan);
            let (low, high) = known.interval();
            let p: f64 = {
                let own = method.readings.iter().flatten();
                let sum: f64 = own.clone().map(|r| f64::from(r.logprob).exp()).sum();
                sum / own.count() as f64
            };
            let entries = entries![
                method.name.clone(),
                method.layer,
                number(known.share()),
                number(low),
                number(high),
                format!("{}/{}", known.hits, known.of),
                number(all.share()),
                number(p),
            ];
            let anchor = method.layer.map_or_else(Anchor::default, Anchor::layer);
            TableRow::at(anchor, entries)
        };
        let columns = [
            "method", "layer", "faithful", "from", "to", "count", "of all", "p",
        ];
        let rows = self.methods.iter().map(row).collect();
        let mut draft =
            Draft::of(Table::of(&columns, rows)).titled(format!("{} · faithfulness", plan.name()));
        if let Some(own) = self.methods.first() {
            let (known, all) = self.counts(own, plan);
            draft = draft.note(format!(
                "LRE says what the model says for {} of the held-out subjects that the model gets right (from, to: Wilson's interval of 95 %), and for {} of all; p: the mean probability of what the model says",
                known.sentence(), all.sentence(),
            ));
        }
        draft.note("each method at the layer that is best for it on the training pairs. Another subject's s: the map's control, which should say what the model does not; b alone: what the map says without any subject; translation: s + mean(o − s); fitted linear: ridge regression of o on s over the same pairs; zero-shot: the model without examples")
    }

    fn subjects(&self, plan: &RelationPlan, lab: &Lab) -> Draft {
        let Some(own) = self.methods.first() else {
            return Draft::of(Table::of(&[], Vec::new()));
        };
        let row = |(reading, subject): (&Option<ObjectReading>, &SubjectStates)| {
            let says = reading.map_or((crate::lab::sample::NO_TOKEN, f32::NAN), |r| r.says);
            let mark = |yes: bool| if yes { "yes" } else { "no" };
            let right = begins(&lab.model, says.0, &subject.pair.object);
            let entries = entries![
                text::plain(subject.pair.subject.as_bytes()),
                text::plain(subject.pair.object.as_bytes()),
                lab.visible(subject.says.0),
                subject.says.1,
                mark(subject.right),
                lab.visible(says.0),
                says.1,
                mark(right),
                mark(reading.is_some_and(|r| r.agrees)),
            ];
            TableRow::at(Anchor::layer(plan.layer), entries)
        };
        let columns = [
            "subject",
            "object",
            "model says",
            "p",
            "right",
            "LRE says",
            "p",
            "right",
            "agree",
        ];
        let rows = own.readings.iter().zip(&plan.held_out).map(row).collect();
        let (known, _) = self.counts(own, plan);
        Draft::of(Table::of(&columns, rows))
            .titled(format!(
                "{} · held-out subjects, layer {}",
                plan.name(),
                plan.layer
            ))
            .note(format!(
                "agree: for {} of the subjects that the model gets right",
                known.sentence()
            ))
    }

    fn layers(&self, plan: &RelationPlan) -> Draft {
        let points = plan.layers.iter().map(|l| AxisLabel::layer(*l)).collect();
        let curves = self
            .curves
            .iter()
            .map(|(name, values)| Curve::of(name.clone(), Anchor::default(), values.clone()))
            .collect();
        Draft::of(unit(Series::of("layer", "share that agrees with the model", points, curves, Style::Lines)))
            .titled(format!("{} · faithfulness by layer", plan.name()))
            .note("on the training pairs, each subject judged by what was made of the others; LRE with the best beta of each layer. `LRE, held out` chose nothing: it is what the choice would have cost or won")
    }
}

/// The curve of the scale, at the chosen layer.
fn betas(plan: &RelationPlan) -> Draft {
    let MapSource::Fitted { scores, betas, .. } = &plan.source else {
        return Draft::of(Table::of(&[], Vec::new()));
    };
    let points = betas
        .iter()
        .map(|b| AxisLabel::of(b.to_string(), Anchor::layer(plan.layer)));
    let own = &scores[plan.place];
    let curve = |label: &str, number: fn(&FitScore) -> f64| {
        Curve::of(
            label,
            Anchor::layer(plan.layer),
            own.iter().map(|s| number(s) as f32).collect(),
        )
    };
    let curves = vec![
        curve("agrees", |s| s.agree.share()),
        curve("p", |s| s.logprob.exp()),
    ];
    Draft::of(unit(Series::of("beta", "share that agrees with the model", points.collect(), curves, Style::Lines)))
        .titled(format!("{} · the scale of W s at layer {}", plan.name(), plan.layer))
        .note("on the training pairs, each subject left out; p: the geometric mean of the probability of what the model says. Of equal shares the higher p is chosen")
}

/// A number of a count; of no cases there is none.
fn number(share: f64) -> Entry {
    Some(share as f32).filter(|share| !share.is_nan()).into()
}

fn share(score: Option<FitScore>) -> f32 {
    score.map_or(f32::NAN, |s| s.agree.share() as f32)
}

/// A series of shares, from 0 to 1.
pub(super) fn unit(series: Series) -> Series {
    Series {
        scale: crate::figure::Scale::up_to(1.0),
        ..series
    }
}

fn states(subjects: &[SubjectStates], place: usize) -> Vec<&[f32]> {
    let states = subjects.iter().map(|own| own.states[place].as_slice());
    states.collect()
}

/// The next subject of which the model says something else.
pub(super) fn other(says: &[u32], i: usize) -> Option<usize> {
    let mut next = (1..says.len()).map(|k| (i + k) % says.len());
    next.find(|j| says[*j] != says[i])
}

/// What the map makes of the held-out subjects.
fn objects_of_map(plan: &RelationPlan, lab: &Lab, place: usize) -> Result<Vec<Vec<f32>>> {
    let states = states(&plan.held_out, place);
    match &plan.source {
        MapSource::Saved(map) => Ok(states.iter().map(|s| map.object(s)).collect()),
        MapSource::Fitted { fit, .. } => {
            fit.objects(lab, RelationMethod::Lre, place, plan.beta, &states)
        }
    }
}

/// What the model says without examples.
fn zero_shot(
    params: &RelationParams,
    plan: &RelationPlan,
    expected: &[u32],
    lab: &mut Lab,
) -> Result<MethodResult> {
    let prompts = RelationPrompts {
        template: plan.relation.template(params.template.0, true)?.to_string(),
        examples: Vec::new(),
    };
    let mut readings = Vec::with_capacity(expected.len());
    for (own, expected) in plan.held_out.iter().zip(expected) {
        let tokens = lab.model.encode(&prompts.text(&own.pair.subject), false)?;
        let run = crate::lab::run::Run::plain(tokens);
        let stats = lab.without_progress(|lab| {
            lab.last(&run, crate::lab::capture::Output::tokens(&[*expected]))
        })?;
        readings.push(Some(ObjectReading {
            says: stats.first(),
            agrees: stats.first().0 == *expected,
            logprob: stats.token(*expected).logprob,
        }));
    }
    Ok(MethodResult {
        name: "the model, zero-shot".into(),
        layer: None,
        readings,
    })
}
