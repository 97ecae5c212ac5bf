//! The neurons of a fact: ranked by their direct effect on the answer over several wordings of a prompt, and the answer's
//! probability when they are ablated.
//!
//! Scores and refining are those of [`crate::instruments::knowledge::fact_neurons`] (Dai et al. 2022, 2104.08696, with direct
//! effects instead of integrated gradients). All neurons found are set to 0 together; the control is as many neurons of the
//! same layers, each next in size to one of them.

use std::path::PathBuf;

use crate::edit::op::{Op, UnitChoice};
use crate::edit::{Edit, EditPlace};
use crate::error::Result;
use crate::figure::builders::entries;
use crate::figure::{Anchor, Table, TablePage, TableRow, Unit};
use crate::instruments::knowledge::control_units::near_in_size;
use crate::instruments::knowledge::fact_neurons::{FactNeuron, Search, ask, refine};
use crate::instruments::neurons::at_position::neurons_at;
use crate::instruments::neurons::value_card::ValueCards;
use crate::instruments::neurons::words;
use crate::instruments::params::{Count, LayerOrAll, params};
use crate::instruments::{Draft, Measurement};
use crate::lab::Lab;
use crate::lab::capture::Output;
use crate::lab::run::Run;
use crate::lab::target::LogitTarget;
use crate::model::network::site::Site;

params! {
    /// What `fact` is asked.
    pub struct FactParams {
        /// the answer: a text (its first token) or #ID; "A" - "B" scores by the logit difference; by default the run's top prediction
        answer: String,
        /// a file with other wordings of the prompt, one a line; the run's own prompt is always used
        prompts: Option<PathBuf>,
        /// a neuron counts under a prompt if its direct effect is at least this percentage of the largest one
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

pub struct FactNeurons;

impl Measurement for FactNeurons {
    type Params = FactParams;
    const NAME: &'static str = "fact";
    const ABOUT: &'static str = "Knowledge neurons: the neurons that express a fact over several wordings, and the answer's probability when they are ablated (set to 0)";
    const SOURCE: &'static str =
        "knowledge neurons, by direct effect: Dai et al. 2022 (2104.08696)";
    const READS_END: bool = true;

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
        let direction = target.direction(&lab.model)?;
        let scores = ask(lab, &prompts, &run.schedule, &direction, search)?;
        let (present, mut found) = refine(&[scores], search);
        let mut found = found.remove(0);
        found.truncate(search.most);
        let without = without(run, &prompts, &found, target, lab)?;
        let neurons: Vec<(u16, u32)> = found.iter().map(|n| (n.layer, n.neuron)).collect();
        let cards = ValueCards::on(lab);
        let mut cards = cards.borrow_mut();
        cards.prepare(&lab.model, &neurons)?;
        let last = run.tokens.len() - 1;
        let row = |n: &FactNeuron| {
            let card = cards.get(n.layer, n.neuron)?;
            let [up, down] = words(&card.sides, n.act, lab);
            Some(TableRow::at(
                Anchor::cell(usize::from(n.layer), last).with(Unit::Neuron(n.neuron)),
                entries![
                    format!("{}/{}", n.layer, n.neuron),
                    n.effect,
                    n.act,
                    format!("{}/{}", n.prompts, prompts.len()),
                    up,
                    down,
                ],
            ))
        };
        let name = target.spell(lab);
        let page = TablePage::of(
            format!("p of {} · {without}", lab.visible(target.token)),
            Anchor::position(last),
            found.iter().filter_map(row).collect(),
        );
        let mut draft = Draft::of(Table::paged(COLUMNS, vec![page]))
            .note(format!("p: mean over the prompts, after the last token; ablated: all listed neurons set to 0 at every position; control: as many other neurons of the same layers, next in size, seed {}", run.seed))
            .note(format!("effect: mean direct effect on the logit of {name}; kept under at least {:.0} % of {} prompts", present * 100.0, prompts.len()))
            .note("these neurons express the answer; it does not follow that the fact is stored in them (Niu et al. 2024, 2405.02421)")
            .titled(name);
        draft.run = Some(run.clone());
        Ok(draft)
    }
}

/// The mean probability of the answer over the prompts, in words: unedited, with the neurons ablated, and with as many other
/// neurons ablated.
fn without(
    run: &Run,
    prompts: &[Vec<u32>],
    found: &[FactNeuron],
    target: LogitTarget,
    lab: &mut Lab,
) -> Result<String> {
    let local = neurons_at(lab, run, run.tokens.len() - 1)?.remove(0);
    let (mut own, mut control) = (run.schedule.clone(), run.schedule.clone());
    let mut layers: Vec<u16> = found.iter().map(|n| n.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    let cards = ValueCards::on(lab);
    for layer in layers {
        let here = found.iter().filter(|n| n.layer == layer);
        let units: Vec<u32> = here.map(|n| n.neuron).collect();
        let at = usize::from(layer);
        let sizes = local.sizes(at, &cards.borrow_mut().norms(&lab.model)?[at]);
        let others = near_in_size(&sizes, &units, run.seed);
        own = own.and(&zero(at, units));
        if !others.is_empty() {
            control = control.and(&zero(at, others));
        }
    }
    let mut mean = |schedule| -> Result<f32> {
        let rows = lab.last_of(prompts, schedule, Output::tokens(&[target.token]))?;
        let p = rows
            .iter()
            .map(|stats| stats.token(target.token).logprob.exp());
        Ok(p.sum::<f32>() / prompts.len() as f32)
    };
    Ok(format!(
        "{:.3}, ablated {:.3}, control {:.3}",
        mean(&run.schedule)?,
        mean(&own)?,
        mean(&control)?
    ))
}

fn zero(layer: usize, units: Vec<u32>) -> Edit {
    let at = Site::MlpAct.at(layer);
    Edit::new(Op::Zero(UnitChoice::List(units)), EditPlace::At(at))
}
