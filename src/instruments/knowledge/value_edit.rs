//! Value edits: finds the neurons of a fact, turns their value vectors towards another answer, and counts the effects, compared
//! with random neurons.
//!
//! The experiment of Dai et al. 2022 (2104.08696, sections 4.3, 5.1, 5.2): facts that the model answers in every wording; their
//! neurons ([`super::fact_neurons`]), by the paper's integrated gradients or by direct effects, except for those that more than
//! a tenth of the relation's facts share; an overlay on the value vectors ([`crate::model::network::value_overlay`]), or a
//! factor on the activations. With integrated gradients, as many neurons by direct effect are edited beside. It departs from
//! the paper twice: a gated MLP's activations have both signs, so a value is turned with the sign of its
//! activation (otherwise a negative activation would suppress the new answer); and side effects are counted as changed answers
//! and KL rather than perplexity. Invariant: weights are not written, and every draw is seeded. To try another edit, add a
//! variant of [`NeuronChange`].

use std::sync::Arc;

use candle_core::Tensor;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::fact_neurons::{
    AnswerDirection, FactNeuron, FactScoring, Search, ask, drop_shared, refine,
};
use super::facts::Fact;
use super::integrated::IntegralSteps;
use crate::edit::op::{Op, UnitChoice, UnitsTurn};
use crate::edit::schedule::Schedule;
use crate::edit::{Edit, EditPlace};
use crate::error::{Error, Result};
use crate::instruments::neurons::at_position::neurons_at;
use crate::lab::Lab;
use crate::lab::capture::{After, Output};
use crate::lab::control_units;
use crate::lab::draws::draw_seed;
use crate::lab::effect::EffectScale;
use crate::lab::readout::RowStats;
use crate::lab::run::Run;
use crate::lab::target::{LogitTarget, first_token};
use crate::model::network::site::Site;

/// The edit of the neurons.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NeuronChange {
    /// `v ← v − c·‖v‖·ê_old + 8c·‖v‖·ê_new`; the paper has c = 1.
    Rewrite(f32),
    /// Activations are multiplied by this: 0 erases, 2 amplifies.
    Scale(f32),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NeuronScore {
    /// By the direct effect on the answer's logit.
    Answer,
    /// By the direct effect on the answer's logit minus the mean logit of the relation's other answers, which separates the
    /// fact from others of its relation.
    Contrast,
    /// By integrated gradients of the answer's probability, as in the paper.
    Integrated(IntegralSteps),
}

/// The settings of the experiment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValueEditPlan {
    /// The search for the neurons of each fact.
    pub search: Search,
    pub score: NeuronScore,
    /// Neurons that more than this share of a relation's facts have are not edited.
    pub shared: f32,
    /// How many facts of each relation are edited.
    pub facts: usize,
    /// The edit of the neurons.
    pub turn: NeuronChange,
    /// The seed for choosing facts, new answers and random neurons.
    pub seed: u64,
}

/// The effect of an edit, mostly as shares of prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EditEffect {
    /// Share of the fact's prompts whose answer changed.
    pub changed: f32,
    /// The share of prompts that give the new answer; none where the edit has no new answer.
    pub success: Option<f32>,
    /// Mean ratio of the old answer's probability, edited to unedited.
    pub kept: f32,
    /// Share of the prompts of other known facts whose answer changed, and mean KL(unedited ‖ edited) on them, in nats; none where
    /// no other fact is known.
    pub others: Option<(f32, f32)>,
    /// Share of changed top predictions and mean KL (nats) on the user's own unrelated prompts, if there are any.
    pub texts: Option<(f32, f32)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct EditedFact {
    /// The index of the fact in the list.
    pub fact: usize,
    /// The text of the new answer; none for [`NeuronChange::Scale`].
    pub new: Option<String>,
    pub neurons: Vec<FactNeuron>,
    pub edits: Vec<Edit>,
    /// The effect of the edits.
    pub own: EditEffect,
    /// Beside integrated gradients: the effect of the same edits on as many neurons by direct effect, where there are some.
    pub direct: Option<EditEffect>,
    /// Control: the effect of the same edits on as many random neurons of the same layers.
    pub control: EditEffect,
}

/// The results of the experiment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ValueEditReport {
    /// How many facts the model answers in every wording.
    pub known: usize,
    /// How many of the chosen facts had no neuron left to edit.
    pub without: usize,
    /// The facts that were edited.
    pub cases: Vec<EditedFact>,
    /// For every relation, the threshold that refining reached: the share of prompts under which a neuron's score had to be
    /// large.
    pub present: Vec<(String, f32)>,
}

/// A prompt of the suite with its top prediction, unedited.
struct ValueEditRequest {
    /// The fact it belongs to; none for the user's other prompts.
    fact: Option<usize>,
    top_prediction: u32,
}

/// All prompts that are measured before and after each edit.
struct EvaluationSuite {
    prompts: Vec<Vec<u32>>,
    questions: Vec<ValueEditRequest>,
    /// The unedited logits after each prompt, as whole rows.
    unedited: Arc<Vec<Vec<RowStats>>>,
    answers: Vec<u32>,
    known: Vec<bool>,
}

/// Runs the experiment over facts. `texts` are unrelated prompts on which side effects are measured as well.
pub fn run(
    lab: &mut Lab,
    facts: &[Fact],
    texts: &[Vec<u32>],
    schedule: &Schedule,
    plan: ValueEditPlan,
) -> Result<ValueEditReport> {
    if lab.model.card.neuron_layers.is_empty() {
        return Err(lab.model.transformer.no_neurons());
    }
    let suite = EvaluationSuite::ask(lab, facts, texts, schedule)?;
    let mut report = ValueEditReport {
        known: suite.known.iter().filter(|k| **k).count(),
        ..ValueEditReport::default()
    };
    if report.known == 0 {
        return Err(Error::argument(
            "--fact",
            format!("{} facts", facts.len()),
            "facts that the model knows: for none of these does it predict the answer's first token in every wording (does the answer begin with a space?)",
        ));
    }
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let mut chosen: Vec<(usize, FoundNeurons)> = Vec::new();
    let mut relations: Vec<&str> = facts.iter().map(|f| f.relation.as_str()).collect();
    relations.sort_unstable();
    relations.dedup();
    // Progress: finding by direct effect takes one pass for each prompt and measuring takes many; gradients take more.
    let finding = match plan.score {
        NeuronScore::Answer | NeuronScore::Contrast => 0.1,
        NeuronScore::Integrated(_) => 0.9,
    };
    for (i, relation) in relations.iter().enumerate() {
        let share = |i: usize| finding * i as f32 / relations.len() as f32;
        lab.report(share(i))?;
        let members: Vec<usize> = (0..facts.len())
            .filter(|f| facts[*f].relation == *relation && suite.known[*f])
            .collect();
        let (present, found) = lab.part(share(i)..share(i + 1), |lab| {
            suite.find(lab, &members, schedule, plan)
        })?;
        report.present.push(((*relation).to_string(), present));
        let mut of: Vec<(usize, FoundNeurons)> = members.into_iter().zip(found).collect();
        of.shuffle(&mut rng);
        of.truncate(plan.facts);
        chosen.extend(of);
    }
    chosen.sort_by_key(|(fact, _)| *fact);
    let count = chosen.len();
    for (i, (fact, found)) in chosen.into_iter().enumerate() {
        lab.report(finding + (1.0 - finding) * i as f32 / count as f32)?;
        let FoundNeurons {
            mut neurons,
            direct,
        } = found;
        neurons.truncate(plan.search.most);
        let new = suite.new_answer(lab, facts, fact, plan, &mut rng)?;
        if neurons.is_empty() || (new.is_none() && matches!(plan.turn, NeuronChange::Rewrite(_))) {
            report.without += 1;
            continue;
        }
        let seed = draw_seed(plan.seed, fact);
        let control = suite.control(lab, fact, &neurons, schedule, seed)?;
        let old = (facts[fact].answer.as_str(), suite.answers[fact]);
        let turned = new.as_ref().map(|(text, id)| (text.as_str(), *id));
        let edits = edits(&neurons, plan.turn, old, turned, lab);
        let idle = self::edits(&control, plan.turn, old, turned, lab);
        let target = turned.map(|(_, id)| id);
        let direct = match direct {
            Some(mut direct) if !direct.is_empty() => {
                direct.truncate(neurons.len());
                let edits = self::edits(&direct, plan.turn, old, turned, lab);
                Some(suite.effect(lab, fact, target, schedule, &edits)?)
            }
            Some(_) | None => None,
        };
        report.cases.push(EditedFact {
            fact,
            own: suite.effect(lab, fact, target, schedule, &edits)?,
            direct,
            control: suite.effect(lab, fact, target, schedule, &idle)?,
            new: new.map(|(text, _)| text),
            neurons,
            edits,
        });
    }
    Ok(report)
}

/// The neurons of a fact, strongest first, and beside integrated gradients those by direct effect.
struct FoundNeurons {
    neurons: Vec<FactNeuron>,
    direct: Option<Vec<FactNeuron>>,
}

impl EvaluationSuite {
    fn ask(lab: &mut Lab, facts: &[Fact], texts: &[Vec<u32>], schedule: &Schedule) -> Result<Self> {
        let answers = facts
            .iter()
            .map(|f| first_token("answer", &f.answer, &lab.model))
            .collect::<Result<Vec<_>>>()?;
        let mut prompts = Vec::new();
        let mut owners = Vec::new();
        for (i, fact) in facts.iter().enumerate() {
            for prompt in &fact.prompts {
                prompts.push(lab.model.encode(prompt, false)?);
                owners.push(Some(i));
            }
        }
        prompts.extend_from_slice(texts);
        owners.resize(prompts.len(), None);
        let output = Output {
            tokens: answers.clone(),
            ..Output::whole(After::Last(1))
        };
        let stats = lab.last_of(&prompts, schedule, output)?;
        let of = stats.iter().zip(owners);
        let questions: Vec<ValueEditRequest> = of
            .map(|(stats, fact)| ValueEditRequest {
                fact,
                top_prediction: stats.first().0,
            })
            .collect();
        let mut known = vec![true; facts.len()];
        for prompt in &questions {
            if let Some(fact) = prompt.fact {
                known[fact] &= prompt.top_prediction == answers[fact];
            }
        }
        Ok(Self {
            prompts,
            questions,
            unedited: Arc::new(stats.into_iter().map(|stats| vec![stats]).collect()),
            answers,
            known,
        })
    }

    /// The prompts of a fact.
    fn of(&self, fact: usize) -> Vec<Vec<u32>> {
        let own = self.prompts.iter().zip(&self.questions);
        own.filter(|(_, a)| a.fact == Some(fact))
            .map(|(tokens, _)| tokens.clone())
            .collect()
    }

    /// The neurons of a relation's facts, refined together, without those that many of them share.
    fn find(
        &self,
        lab: &mut Lab,
        members: &[usize],
        schedule: &Schedule,
        plan: ValueEditPlan,
    ) -> Result<(f32, Vec<FoundNeurons>)> {
        let mut all: Vec<u32> = members.iter().map(|f| self.answers[*f]).collect();
        all.sort_unstable();
        all.dedup();
        let mut scores = Vec::with_capacity(members.len());
        let mut beside = Vec::new();
        for (i, fact) in members.iter().enumerate() {
            let answer = self.answers[*fact];
            let others: Vec<u32> = all.iter().copied().filter(|a| *a != answer).collect();
            let along = if plan.score == NeuronScore::Contrast && !others.is_empty() {
                let others = others
                    .iter()
                    .map(|a| lab.model.transformer.logit_direction(*a))
                    .collect::<Result<Vec<_>>>()?;
                let own = lab.model.transformer.logit_direction(answer)?;
                AnswerDirection::Fixed((own - Tensor::stack(&others, 0)?.mean(0)?)?)
            } else {
                AnswerDirection::Of(LogitTarget::one(answer), EffectScale::LogProb)
            };
            let prompts = self.of(*fact);
            let by =
                |lab: &mut Lab, scoring| ask(lab, &prompts, schedule, &along, scoring, plan.search);
            let scoring = match plan.score {
                NeuronScore::Answer | NeuronScore::Contrast => FactScoring::Direct,
                NeuronScore::Integrated(path) => {
                    beside.push(by(lab, FactScoring::Direct)?);
                    let target = LogitTarget::one(answer);
                    FactScoring::Integrated { target, path }
                }
            };
            let share = |i: usize| i as f32 / members.len() as f32;
            scores.push(lab.part(share(i)..share(i + 1), |lab| by(lab, scoring))?);
        }
        let (present, mut found) = refine(&scores, plan.search);
        drop_shared(&mut found, plan.shared);
        let (_, mut direct) = refine(&beside, plan.search);
        drop_shared(&mut direct, plan.shared);
        let mut direct = direct.into_iter();
        let of = |neurons| FoundNeurons {
            neurons,
            direct: direct.next(),
        };
        Ok((present, found.into_iter().map(of).collect()))
    }

    /// The new answer: the fact's own `new`, or another answer of its relation; none for a factor on the activations.
    fn new_answer(
        &self,
        lab: &Lab,
        facts: &[Fact],
        fact: usize,
        plan: ValueEditPlan,
        rng: &mut StdRng,
    ) -> Result<Option<(String, u32)>> {
        if matches!(plan.turn, NeuronChange::Scale(_)) {
            return Ok(None);
        }
        if let Some(new) = &facts[fact].new {
            let id = first_token("new", new, &lab.model)?;
            return Ok(Some((new.clone(), id)));
        }
        let same = |f: &usize| facts[*f].relation == facts[fact].relation;
        let mut others: Vec<(u32, &str)> = (0..facts.len())
            .filter(|f| same(f) && self.answers[*f] != self.answers[fact])
            .map(|f| (self.answers[f], facts[f].answer.as_str()))
            .collect();
        others.sort_unstable();
        others.dedup_by_key(|(id, _)| *id);
        let drawn = others.choose(rng);
        Ok(drawn.map(|(id, text)| ((*text).to_string(), *id)))
    }

    /// As many random neurons of the same layers, with their own mean activations under the fact's prompts.
    fn control(
        &self,
        lab: &mut Lab,
        fact: usize,
        neurons: &[FactNeuron],
        schedule: &Schedule,
        seed: u64,
    ) -> Result<Vec<FactNeuron>> {
        let mut drawn: Vec<FactNeuron> = Vec::with_capacity(neurons.len());
        for (layer, units, _) in by_layer(neurons, |_| 1) {
            let others = control_units::any(lab.model.card.d_mlp, &units, seed);
            drawn.extend(others.into_iter().map(|neuron| FactNeuron {
                layer,
                neuron,
                score: 0.0,
                effect: 0.0,
                place: 0,
                act: 0.0,
                prompts: 0,
            }));
        }
        let prompts = self.of(fact);
        for prompt in &prompts {
            let run = Run::plain(prompt.clone()).under(schedule);
            let local = neurons_at(lab, &run, prompt.len() - 1)?.remove(0);
            for n in &mut drawn {
                let act = local.layer(usize::from(n.layer));
                n.act += act.map_or(0.0, |(row, _)| row[n.neuron as usize]) / prompts.len() as f32;
            }
        }
        Ok(drawn)
    }

    /// The effect of edits on the fact and on all other prompts.
    fn effect(
        &self,
        lab: &mut Lab,
        fact: usize,
        new: Option<u32>,
        schedule: &Schedule,
        edits: &[Edit],
    ) -> Result<EditEffect> {
        let edited = edits
            .iter()
            .fold(schedule.clone(), |schedule, edit| schedule.and(edit));
        // For each prompt: top prediction, ratio of the old answer's probability, KL.
        let old = self.answers[fact];
        let output = Output {
            kl: Some(self.unedited.clone()),
            ..Output::tokens(&[old])
        };
        let rows = lab.last_of(&self.prompts, &edited, output)?;
        let after: Vec<(u32, f32, f32)> = rows
            .iter()
            .zip(self.unedited.iter().flatten())
            .map(|(stats, before)| {
                let kept = (stats.token(old).logprob - before.token(old).logprob).exp();
                (stats.first().0, kept, stats.kl)
            })
            .collect();
        let both = || self.questions.iter().zip(&after);
        let own: Vec<&(u32, f32, f32)> = both()
            .filter(|(a, _)| a.fact == Some(fact))
            .map(|(_, after)| after)
            .collect();
        let share = |hit: &dyn Fn(u32) -> bool| {
            own.iter().filter(|(f, _, _)| hit(*f)).count() as f32 / own.len().max(1) as f32
        };
        let rest = |wanted: &dyn Fn(Option<usize>) -> bool| {
            let those: Vec<_> = both().filter(|(a, _)| wanted(a.fact)).collect();
            let count = those.len().max(1) as f32;
            let changed = those
                .iter()
                .filter(|(a, b)| a.top_prediction != b.0)
                .count() as f32;
            let kl = those.iter().map(|(_, b)| b.2).sum::<f32>();
            (!those.is_empty()).then_some((changed / count, kl / count))
        };
        Ok(EditEffect {
            changed: share(&|f| f != self.answers[fact]),
            success: new.map(|new| share(&|f| f == new)),
            kept: own.iter().map(|(_, kept, _)| kept).sum::<f32>() / own.len().max(1) as f32,
            others: rest(&|f| f.is_some_and(|f| f != fact && self.known[f])),
            texts: rest(&|f| f.is_none()),
        })
    }
}

/// Groups neurons by layer and sign: layer, unit indices in order, sign.
fn by_layer(neurons: &[FactNeuron], sign: impl Fn(&FactNeuron) -> i8) -> Vec<(u16, Vec<u32>, i8)> {
    let mut out: Vec<(u16, Vec<u32>, i8)> = Vec::new();
    let mut sorted: Vec<&FactNeuron> = neurons.iter().collect();
    sorted.sort_by_key(|n| (n.layer, -sign(n), n.neuron));
    for n in sorted {
        match out.last_mut() {
            Some((layer, units, s)) if *layer == n.layer && *s == sign(n) => units.push(n.neuron),
            _ => out.push((n.layer, vec![n.neuron], sign(n))),
        }
    }
    out
}

/// The edits that apply a change, one for each layer and sign; answers come as text and token id.
fn edits(
    neurons: &[FactNeuron],
    turn: NeuronChange,
    old: (&str, u32),
    new: Option<(&str, u32)>,
    lab: &Lab,
) -> Vec<Edit> {
    let edit = |layer: u16, op, strength| Edit {
        strength,
        ..Edit::new(op, EditPlace::At(Site::MlpAct.at(usize::from(layer))))
    };
    match (turn, new) {
        (NeuronChange::Rewrite(strength), Some(new)) => {
            let (old, new) = (spell(old, lab), spell(new, lab));
            let sign = |n: &FactNeuron| if n.act < 0.0 { -1 } else { 1 };
            let each = by_layer(neurons, sign).into_iter();
            let rewrite = |(layer, units, sign)| {
                let turn = UnitsTurn(UnitChoice::List(units), old.clone(), new.clone());
                edit(layer, Op::Rewrite(turn), f32::from(sign) * strength)
            };
            each.map(rewrite).collect()
        }
        (NeuronChange::Rewrite(_), None) => Vec::new(),
        (NeuronChange::Scale(factor), _) => {
            let each = by_layer(neurons, |_| 1).into_iter();
            let scale = |(layer, units, _)| edit(layer, Op::Scale(UnitChoice::List(units)), factor);
            each.map(scale).collect()
        }
    }
}

/// A token as an edit names it: its text if that is read back as the token, else its id.
fn spell((text, id): (&str, u32), lab: &Lab) -> String {
    let plain = !text.contains(['"', '\\', '<', '>', '=', '@', '#', '\n']);
    let reads_back = first_token("answer", text, &lab.model).is_ok_and(|t| t == id);
    if plain && reads_back {
        text.into()
    } else {
        format!("#{id}")
    }
}

impl ValueEditReport {
    /// The mean of an effect over all cases.
    pub fn mean(&self, of: impl Fn(&EditedFact) -> EditEffect) -> EditEffect {
        mean(&self.cases.iter().map(of).collect::<Vec<_>>())
    }

    /// The mean effect of as many neurons by direct effect, and of how many cases; none where there is no such case.
    pub fn direct(&self) -> Option<(usize, EditEffect)> {
        let effects: Vec<EditEffect> = self.cases.iter().filter_map(|case| case.direct).collect();
        (!effects.is_empty()).then(|| (effects.len(), mean(&effects)))
    }
}

fn mean(effects: &[EditEffect]) -> EditEffect {
    let count = effects.len().max(1) as f32;
    let mean = |part: &dyn Fn(&EditEffect) -> f32| effects.iter().map(part).sum::<f32>() / count;
    let every = |part: &dyn Fn(&EditEffect) -> Option<f32>| {
        let parts: Option<Vec<f32>> = effects.iter().map(part).collect();
        parts
            .filter(|p| !p.is_empty())
            .map(|p| p.iter().sum::<f32>() / p.len() as f32)
    };
    EditEffect {
        changed: mean(&|e| e.changed),
        success: every(&|e| e.success),
        kept: mean(&|e| e.kept),
        others: every(&|e| e.others.map(|t| t.0)).zip(every(&|e| e.others.map(|t| t.1))),
        texts: every(&|e| e.texts.map(|t| t.0)).zip(every(&|e| e.texts.map(|t| t.1))),
    }
}
