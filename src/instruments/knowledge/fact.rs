//! The neurons of a fact: ranked by integrated gradients of the answer's probability, or by their direct effect on its log-probability,
//! over several wordings of a prompt; and the answer's probability when they are ablated.
//!
//! Scores and refining are those of [`crate::instruments::knowledge::fact_neurons`] (Dai et al. 2022, 2104.08696). All neurons
//! found are set to 0 together; the control is as many neurons of the same layers, each next in size to one of them. Invariant:
//! with integrated gradients come the direct effects, what ablating the first by those does, and the completeness error.

use std::path::PathBuf;

use crate::edit::op::{Op, UnitChoice};
use crate::edit::receipt::{mean, range};
use crate::edit::schedule::Schedule;
use crate::edit::{Edit, EditPlace};
use crate::error::Result;
use crate::figure::builders::entries;
use crate::figure::{Anchor, Entry, Table, TablePage, TableRow, Unit};
use crate::instruments::knowledge::fact_neurons::{
    AnswerDirection, FactNeuron, FactScores, FactScoring, Search, ask, refine,
};
use crate::instruments::knowledge::integrated::{IntegralRule, IntegralSteps, LayerAttribution};
use crate::instruments::neurons::at_position::neurons_at;
use crate::instruments::neurons::value_card::ValueCards;
use crate::instruments::params::{Count, LayerOrAll, ParameterValue, choices, params};
use crate::instruments::{Draft, Measurement};
use crate::lab::Lab;
use crate::lab::capture::Output;
use crate::lab::control_units::near_in_size;
use crate::lab::draws::{DRAWS, draw_seed};
use crate::lab::effect::EffectScale;
use crate::lab::run::Run;
use crate::lab::target::LogitTarget;
use crate::lab::trials::SweepCost;
use crate::model::Card;
use crate::model::network::site::Site;
use crate::vectors::interval::MeanInterval;

choices! {
    /// By what the neurons are ranked.
    pub enum FactRanking { Direct = "direct", Integrated = "integrated" }
}

params! {
    /// What `fact` is asked.
    pub struct FactParams {
        /// the answer: a text (its first token) or #ID; "A" - "B" scores by the logit difference; by default the run's top prediction
        answer: String,
        on: EffectScale,
        /// a file with other wordings of the prompt, one a line; the run's own prompt is always used
        prompts: Option<PathBuf>,
        /// what ranks the neurons: direct: the direct effect on the answer (its log-probability), from one pass a prompt; integrated: integrated gradients of the answer's probability, from --steps gradients a layer and prompt, beside the direct effects
        by: FactRanking = "direct",
        /// the steps of integrated gradients
        steps: Count<1, 1024> = "20",
        /// where in each step the gradient is taken; the paper's sum is right, its code's left, and the midpoint is the most exact
        rule: IntegralRule = "midpoint",
        /// a neuron counts under a prompt if its number is at least this percentage of the largest one
        share: Count<1, 100> = "20",
        /// a neuron is kept if it counts under at least this percentage of the prompts; adjusted in steps of 5 until 2 to 5 neurons are left
        present: Count<1, 100> = "70",
        /// how many neurons are kept at most, strongest first
        count: Count<1, 200> = "5",
        /// one layer, or all
        layer: LayerOrAll = "all",
    }
}

const COLUMNS: &[&str] = &[
    "neuron",
    "effect",
    "act",
    "prompts",
    "promotes",
    "suppresses",
];

/// Those by integrated gradients.
const INTEGRATED: &[&str] = &[
    "neuron",
    "attribution",
    "effect",
    "by effect",
    "act",
    "prompts",
    "promotes",
    "suppresses",
];

pub struct FactNeurons;

impl Measurement for FactNeurons {
    type Params = FactParams;
    const NAME: &'static str = "fact";
    const ABOUT: &'static str = "Knowledge neurons: the neurons that express a fact over several wordings, and the answer's probability when they are ablated (set to 0)";
    const SOURCE: &'static str = "knowledge neurons, by integrated gradients or by direct effect: Dai et al. 2022 (2104.08696)";
    const READS_END: bool = true;

    fn cost(params: &FactParams, tokens: usize, card: &Card) -> Option<SweepCost> {
        // A gradient takes about three passes, here of the last position alone; the prompt is read once a layer.
        let layers = params.layer.0.map_or(card.neuron_layers.len(), |_| 1);
        (params.by == FactRanking::Integrated).then(|| SweepCost {
            passes: layers * (1 + (3 * params.steps.0).div_ceil(tokens.max(1))),
            tokens,
        })
    }

    fn measure(params: &FactParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        // The run's text is one of the prompts, so all of its tokens are prompt, as in the others.
        let run = &Run {
            schedule: run.schedule.clone(),
            seed: run.seed,
            ..Run::plain(run.tokens.clone())
        };
        let mut prompts = vec![run.tokens.clone()];
        if let Some(file) = &params.prompts {
            for text in crate::file::prompts(file)? {
                prompts.push(lab.model.encode(&text, false)?);
            }
        }
        let target = match params.answer.as_str() {
            "" => LogitTarget::one(lab.top_prediction(run)?),
            text => LogitTarget::parse("answer", text, &lab.model)?,
        };
        let all = Search::new(lab.model.card.layers);
        let search = Search {
            share: params.share.0 as f32 / 100.0,
            present: params.present.0 as f32 / 100.0,
            most: params.count.0,
            layers: (params.layer.within(lab.model.card.layers)?).map_or(all.layers, |l| (l, l)),
        };
        let along = AnswerDirection::Of(target, params.on);
        let ranking = Ranking {
            params,
            run,
            prompts: &prompts,
            target,
            search,
        };
        let path = IntegralSteps {
            steps: params.steps.0,
            rule: params.rule,
        };
        let direct = ask(
            lab,
            &prompts,
            &run.schedule,
            &along,
            FactScoring::Direct,
            search,
        )?;
        let scoring = FactScoring::Integrated { target, path };
        let integrated = match params.by {
            FactRanking::Direct => None,
            FactRanking::Integrated => Some(lab.part(0.0..0.95, |lab| {
                ask(lab, &prompts, &run.schedule, &along, scoring, search)
            })?),
        };
        let mut draft = match integrated {
            None => ranking.direct(&direct, lab)?,
            Some(scores) => ranking.integrated(&scores, &direct, lab)?,
        };
        draft.run = Some(run.clone());
        Ok(draft)
    }
}

/// What the neurons are ranked for.
struct Ranking<'a> {
    params: &'a FactParams,
    run: &'a Run,
    prompts: &'a [Vec<u32>],
    target: LogitTarget,
    search: Search,
}

impl Ranking<'_> {
    /// The neurons that refining leaves, strongest first, and the share of prompts that it came to.
    fn found(&self, scores: &FactScores) -> (f32, Vec<FactNeuron>) {
        let (present, mut found) = refine(std::slice::from_ref(scores), self.search);
        let mut found = found.remove(0);
        found.truncate(self.search.most);
        (present, found)
    }

    /// The figure by direct effect.
    fn direct(&self, scores: &FactScores, lab: &mut Lab) -> Result<Draft> {
        let (present, found) = self.found(scores);
        let p = self.probabilities(&[&found], lab)?;
        let title = format!(
            "p of {} · {:.3}, ablated {:.3}, {}",
            lab.visible(self.target.token),
            p.own.mean,
            p.ablated[0].mean,
            p.control_in_words()
        );
        let name = self.params.on.of(self.target, lab);
        let table = self.table(COLUMNS, title, &found, lab, |n| entries![n.effect, n.act])?;
        Ok(Draft::of(table)
            .note(format!("p: mean over the prompts, after the last token; ablated: all listed neurons set to 0 at every position; control: as many other neurons of the same layers, next in size, 8 draws, seed {}", self.run.seed))
            .note(format!("effect: mean direct effect on the {name}; kept under at least {:.0} % of {} prompts", present * 100.0, self.prompts.len()))
            .notes(p.intervals())
            .notes(scores.saturated.clone())
            .notes(self.target.minus.is_none().then(|| self.params.on.note().to_string()))
            .note(CAUTION)
            .titled(name))
    }

    /// The figure by integrated gradients, with the ranking by direct effect beside.
    fn integrated(&self, scores: &FactScores, direct: &FactScores, lab: &mut Lab) -> Result<Draft> {
        let (present, found) = self.found(scores);
        let (_, mut other) = self.found(direct);
        other.truncate(found.len());
        let p = self.probabilities(&[&found, &other], lab)?;
        let title = format!(
            "p of {} · {:.3}, ablated {:.3}, first {} by effect {:.3}, {}",
            lab.visible(self.target.token),
            p.own.mean,
            p.ablated[0].mean,
            other.len(),
            p.ablated[1].mean,
            p.control_in_words()
        );
        let name = self.target.spell(lab);
        let shared = found.iter().filter(|n| {
            let same = |o: &&FactNeuron| (o.layer, o.neuron) == (n.layer, n.neuron);
            other.iter().any(|o| same(&o))
        });
        let (shared, count) = (shared.count(), found.len());
        let table = self.table(INTEGRATED, title, &found, lab, |n| {
            entries![n.score, n.effect, n.place.to_string(), n.act]
        })?;
        let what = match self.target.minus {
            None => format!("p of {name}"),
            Some(_) => format!("the logit difference {name}"),
        };
        let mut draft = Draft::of(table)
            .note(format!("attribution: mean integrated gradients of {what}, while all neurons of a layer go from 0 to their activation at the last position; {} steps, {} rule", self.params.steps.0, self.params.rule.print()))
            .note(completeness(scores))
            .note(format!("p: mean over the prompts, after the last token; ablated: all listed neurons set to 0 at every position; first by effect: as many by direct effect, chosen alike, of which {shared} of {count} are the same; control: as many other neurons of the same layers, next in size, 8 draws, seed {}", self.run.seed))
            .note(format!("effect: mean direct effect on the {}, and by effect the place among all neurons by that; kept under at least {:.0} % of {} prompts", self.params.on.of(self.target, lab), present * 100.0, self.prompts.len()))
            .notes(left_out(&lab.model.card))
            .notes(normed(&lab.model.card))
            .notes(p.intervals())
            .notes(self.saturated(scores, p.own.mean as f32))
            .note(CAUTION)
            .titled(format!("{name}, by integrated gradients"));
        let worst = worst(scores).map_or(f64::NAN, LayerAttribution::completeness_error);
        draft.resolved = vec![("completeness error".into(), worst.to_string())];
        Ok(draft)
    }

    /// A caution where no layer is needed for the answer.
    fn saturated(&self, scores: &FactScores, p: f32) -> Option<String> {
        let idle = self.target.minus.is_none() && scores.most < 0.05 * f64::from(p);
        idle.then(|| format!("no layer's neurons at the last position make more than {:.4} of p: the answer is as good as certain without any one of them, so that these are parts of very little. A difference of two answers (--answer '\" A\" - \" B\"') does not saturate", scores.most))
    }

    /// A row a neuron: its numbers between its name and its tokens.
    fn table(
        &self,
        columns: &[&str],
        title: String,
        found: &[FactNeuron],
        lab: &mut Lab,
        numbers: impl Fn(&FactNeuron) -> Vec<Entry>,
    ) -> Result<Table> {
        let neurons: Vec<(u16, u32)> = found.iter().map(|n| (n.layer, n.neuron)).collect();
        let cards = ValueCards::on(lab);
        let mut cards = cards.borrow_mut();
        cards.prepare(&lab.model, &neurons)?;
        let last = self.run.tokens.len() - 1;
        let row = |n: &FactNeuron| {
            let card = cards.get(n.layer, n.neuron)?;
            let mut entries = entries![format!("{}/{}", n.layer, n.neuron)];
            entries.extend(numbers(n));
            entries.push(format!("{}/{}", n.prompts, self.prompts.len()).into());
            let anchor = Anchor::cell(usize::from(n.layer), last).with(Unit::Neuron(n.neuron));
            Some(card.sides.listed(n.act, lab, TableRow::at(anchor, entries)))
        };
        let rows = found.iter().filter_map(row).collect();
        let page = TablePage::of(title, Anchor::position(last), rows);
        Ok(Table::paged(columns, vec![page]))
    }

    /// The answer's probabilities over the prompts: of the run, with each list of neurons ablated, and with as many others as the first
    /// list has in several draws.
    fn probabilities(&self, lists: &[&[FactNeuron]], lab: &mut Lab) -> Result<AblatedAnswer> {
        let (run, target) = (self.run, self.target);
        let local = neurons_at(lab, run, run.tokens.len() - 1)?.remove(0);
        let mut controls = vec![run.schedule.clone(); DRAWS];
        let mut ablated = Vec::with_capacity(lists.len());
        for (i, found) in lists.iter().enumerate() {
            let mut own = run.schedule.clone();
            let mut layers: Vec<u16> = found.iter().map(|n| n.layer).collect();
            layers.sort_unstable();
            layers.dedup();
            let cards = ValueCards::on(lab);
            for layer in layers {
                let here = found.iter().filter(|n| n.layer == layer);
                let units: Vec<u32> = here.map(|n| n.neuron).collect();
                let at = usize::from(layer);
                let sizes = local.sizes(at, &cards.borrow_mut().norms(&lab.model)?[at]);
                for (draw, control) in controls.iter_mut().enumerate().filter(|_| i == 0) {
                    let others = near_in_size(&sizes, &units, draw_seed(run.seed, draw));
                    if !others.is_empty() {
                        *control = control.and(&zero(at, others));
                    }
                }
                own = own.and(&zero(at, units));
            }
            ablated.push(own);
        }
        let mut of = |schedule: &Schedule| {
            let rows = lab.last_of(self.prompts, schedule, Output::tokens(&[target.token]))?;
            let p = rows
                .iter()
                .map(|stats| f64::from(stats.token(target.token).logprob).exp());
            Ok(MeanInterval::of(&p.collect::<Vec<_>>(), run.seed))
        };
        Ok(AblatedAnswer {
            own: of(&run.schedule)?,
            ablated: ablated.iter().map(&mut of).collect::<Result<_>>()?,
            control: controls.iter().map(of).collect::<Result<_>>()?,
        })
    }
}

/// The mean probability of an answer over the prompts.
struct AblatedAnswer {
    /// Of the run.
    own: MeanInterval,
    /// With each list of neurons ablated.
    ablated: Vec<MeanInterval>,
    /// With as many others as the first list has, in every draw.
    control: Vec<MeanInterval>,
}

impl AblatedAnswer {
    /// The control's mean over the draws, and between which they lie.
    fn control_in_words(&self) -> String {
        let draws: Vec<f32> = self.control.iter().map(|p| p.mean as f32).collect();
        let (low, high) = range(&draws).unwrap_or((f32::NAN, f32::NAN));
        // An ablation that takes no more than another is no finding.
        let lost = self.ablated.first().is_some_and(|p| p.mean as f32 >= low);
        format!(
            "control {:.3} ({low:.3} to {high:.3} in {} draws{})",
            mean(&draws),
            draws.len(),
            if lost {
                "; THE ABLATION TAKES NO MORE THAN THAT"
            } else {
                ""
            }
        )
    }

    /// Between which numbers the means over the prompts lie; none of a prompt or two.
    fn intervals(&self) -> Option<String> {
        let ablated = self.ablated.first()?;
        (!self.own.low.is_nan()).then(|| {
            format!(
                "over the prompts, with intervals of 95 % (bootstrap): p {}, ablated {}",
                self.own.sentence(),
                ablated.sentence()
            )
        })
    }
}

const CAUTION: &str = "these neurons express the answer; it does not follow that the fact is stored in them (Niu et al. 2024, 2405.02421)";

/// The layer and prompt whose attributions are farthest from their sum.
fn worst(scores: &FactScores) -> Option<&LayerAttribution> {
    let error = |layer: &&LayerAttribution| layer.completeness_error().abs();
    let layers = scores.incomplete.iter();
    layers.max_by(|a, b| error(a).total_cmp(&error(b)))
}

/// How far the attributions are from their sums.
fn completeness(scores: &FactScores) -> String {
    let Some(layer) = worst(scores) else {
        return "there is no layer to sum over".into();
    };
    let error = layer.completeness_error();
    format!(
        "completeness: the attributions of layer {} sum to {:.4}, and all its neurons together make {:.4}: error {error:+.2e}, the largest of all layers and prompts; more --steps make it smaller",
        layer.layer,
        layer.whole + error,
        layer.whole,
    )
}

/// Where steps are worth little.
fn normed(card: &Card) -> Option<String> {
    card.norms_writes.then(|| "this family norms what an MLP writes, which hides how large it is: nearly all of the way from 0 changes nothing but its beginning, and needs many --steps".into())
}

/// The layers whose neurons cannot be ranked.
fn left_out(card: &Card) -> Option<String> {
    let count = card.layers - card.neuron_layers.len();
    (count > 0).then(|| format!("{count} layers of {} are mixtures of experts, whose neurons have no address: they are left out; where one of them chooses another expert on the way, the answer jumps, and no gradient sees that", card.layers))
}

fn zero(layer: usize, units: Vec<u32>) -> Edit {
    let at = Site::MlpAct.at(layer);
    Edit::new(Op::Zero(UnitChoice::List(units)), EditPlace::At(at))
}
