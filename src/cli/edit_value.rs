//! `lmscope edit-value`: finds the neurons of facts, turns their value vectors to another answer, and counts the effects.
//!
//! Invariant: every rate is shown with that of random neurons, and the caution is printed with them. To report something else
//! of an edit, add it to `EditEffect` in `instruments/knowledge/value_edit.rs` and a column here.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::{Value, json};

use super::output::PrintedForm;
use super::{Subcommand, arguments, models, output};
use crate::edit::Edit;
use crate::edit::preset::EditPreset;
use crate::error::Result;
use crate::instruments::knowledge::fact_neurons::{FactNeuron, Search};
use crate::instruments::knowledge::facts;
use crate::instruments::knowledge::facts::Fact;
use crate::instruments::knowledge::integrated::{IntegralRule, IntegralSteps};
use crate::instruments::knowledge::value_edit;
use crate::instruments::knowledge::value_edit::{
    EditEffect, EditedFact, NeuronChange, NeuronScore, ValueEditPlan, ValueEditReport,
};
use crate::instruments::params::ParameterValue;
use crate::lab::Lab;

pub const EDIT_VALUE: Subcommand = Subcommand {
    name: "edit-value",
    about: "Edits the value vectors of a fact's neurons towards another answer, and counts what changed, with random neurons as a control",
    arguments: build,
    run,
};

const CAUTION: &str = "these edits change how a fact is expressed in these wordings; it does not follow that the fact was stored there, and other wordings may keep it (Niu et al. 2024, 2405.02421).";

fn build(command: Command) -> Command {
    let file = |name: &'static str, help: &'static str| {
        arguments::value(name, "FILE", help).value_parser(value_parser!(PathBuf))
    };
    let percent = |name: &'static str, default: &'static str, help: &'static str| {
        arguments::value(name, "PERCENT", help)
            .value_parser(value_parser!(u8).range(0..=100))
            .default_value(default)
    };
    let number = |name: &'static str, default: &'static str, help: &'static str| {
        arguments::value(name, "N", help)
            .value_parser(value_parser!(u32).range(1..))
            .default_value(default)
    };
    let command = models::format(arguments::edits(arguments::model(command)));
    command
        .arg(file("fact", "Facts: a JSON list of {\"prompts\", \"answer\", \"relation\", \"new\"}, or lines of relation, answer and prompts, separated by tabs; may be repeated").required(true).action(ArgAction::Append))
        .arg(file("others", "Unrelated prompts, one a line, to check for side effects"))
        .arg(arguments::value("strength", "C", "Strength C of the edit of a value vector: v - C|v|e_old + 8C|v|e_new").value_parser(value_parser!(f32)).default_value("1"))
        .arg(arguments::value("scale", "C", "Multiplies the neurons instead: 0 suppresses, 2 amplifies").value_parser(value_parser!(f32)).allow_negative_numbers(true).conflicts_with("erase"))
        .arg(super::switch("erase", "Ablates the neurons instead (sets them to 0)"))
        .arg(Arg::new("score").long("score").value_parser(["answer", "contrast", "integrated"]).default_value("answer").help("How neurons are scored: answer: direct effect on the answer's logit; contrast: that minus the mean over the relation's other answers; integrated: integrated gradients of the answer's probability, with as many neurons by direct effect edited beside"))
        .arg(number("steps", "20", "Steps of integrated gradients, at most 1024").value_parser(value_parser!(u32).range(1..=1024)))
        .arg(Arg::new("rule").long("rule").value_parser(["midpoint", "left", "right"]).default_value("midpoint").help("Where in each step of integrated gradients the gradient is taken; the paper's sum is right, its code's left"))
        .arg(number("neurons", "5", "Maximum neurons per fact"))
        .arg(percent("share", "20", "A neuron counts under a prompt if its score is at least this percentage of the largest one"))
        .arg(percent("present", "70", "A neuron is kept if it counts under at least this percentage of the prompts; adjusted in steps of 5 until 2 to 5 neurons are left"))
        .arg(percent("shared", "10", "Neurons shared by more than this percentage of a relation's facts are left alone"))
        .arg(number("facts", "10", "How many facts of each relation are edited, drawn by the seed"))
        .arg(arguments::value("layers", "A-B", "Only neurons of these layers"))
        .arg(file("output", "Writes the edits: a preset if FILE ends in .toml, with the edits of the first fact on and the others off; else one --edit a line, under its fact").short('o').long("output"))
        .arg(arguments::force())
}

fn run(matches: &ArgMatches) -> Result<()> {
    let output = arguments::output(matches)?;
    let edits = arguments::parse_edits(matches)?;
    let mut list: Vec<Fact> = Vec::new();
    for path in matches.get_many::<PathBuf>("fact").into_iter().flatten() {
        list.extend(facts::read(path)?);
    }
    let mut lab = arguments::open(matches)?;
    let plan = plan(matches, lab.model.card.layers)?;
    let mut texts = Vec::new();
    if let Some(path) = matches.get_one::<PathBuf>("others") {
        let text = crate::file::words(path)?;
        for line in text.lines().filter(|l| !l.trim().is_empty()) {
            texts.push(lab.model.encode(line, false)?);
        }
    }
    let schedule = arguments::schedule(edits, &lab)?;
    let report = arguments::showing_progress(&mut lab, "edit-value", |lab| {
        value_edit::run(lab, &list, &texts, &schedule, plan)
    })?;
    if let Some(path) = output {
        let written = if path.extension().is_some_and(|e| e == "toml") {
            preset(&report, &lab).to_string()
        } else {
            lines(&report, &list)
        };
        crate::file::write(path, written.as_bytes(), lab.overwrite)?;
    }
    match models::form(matches) {
        PrintedForm::Text => table(&report, &list)?,
        form @ (PrintedForm::Json | PrintedForm::Csv) => {
            output::document(&report_json(&report, &list, plan), "cases", form)?;
        }
    }
    let without = match report.without {
        0 => String::new(),
        n => format!("; for {n} no neuron or no other answer was left (--shared, --share)"),
    };
    output::note(&format!(
        "{} of {} facts are answered correctly in every wording; {} were edited, seed {}{without}.",
        report.known,
        list.len(),
        report.cases.len(),
        plan.seed,
    ));
    output::note(CAUTION);
    Ok(())
}

fn plan(matches: &ArgMatches, layers: usize) -> Result<ValueEditPlan> {
    let percent = |name: &str| f32::from(matches.get_one::<u8>(name).copied().unwrap_or(0)) / 100.0;
    let number = |name: &str| matches.get_one::<u32>(name).copied().unwrap_or(1) as usize;
    let strength = matches.get_one::<f32>("strength").copied().unwrap_or(1.0);
    let scale = if matches.get_flag("erase") {
        Some(0.0)
    } else {
        matches.get_one::<f32>("scale").copied()
    };
    let all = Search::new(layers);
    let range = match matches.get_one::<String>("layers") {
        None => all.layers,
        Some(given) => {
            let expected = format!("a layer from 0 to {}, or A-B", layers - 1);
            arguments::layers("--layers", given, layers, expected)?
        }
    };
    Ok(ValueEditPlan {
        search: Search {
            share: percent("share"),
            present: percent("present"),
            most: number("neurons"),
            layers: range,
        },
        score: match arguments::text(matches, "score") {
            "contrast" => NeuronScore::Contrast,
            "integrated" => NeuronScore::Integrated(IntegralSteps {
                steps: number("steps"),
                rule: IntegralRule::parse(arguments::text(matches, "rule"))
                    .unwrap_or(IntegralRule::Midpoint),
            }),
            _ => NeuronScore::Answer,
        },
        shared: percent("shared"),
        facts: number("facts"),
        turn: scale.map_or(NeuronChange::Rewrite(strength), NeuronChange::Scale),
        seed: arguments::seed(matches),
    })
}

const COLUMNS: &[&str] = &[
    "relation", "neurons", "facts", "changed", "success", "p kept", "others", "KL", "texts",
    "texts KL",
];

/// Prints the table: rates for each relation and for all facts, each with its control in the next row.
fn table(report: &ValueEditReport, list: &[Fact]) -> Result<()> {
    let mut rows = Vec::new();
    let mut groups: Vec<&str> = report.present.iter().map(|(r, _)| r.as_str()).collect();
    if groups.len() == 1 {
        groups.clear();
    }
    for relation in groups.iter().copied().map(Some).chain([None]) {
        let belongs = |c: &&EditedFact| relation.is_none_or(|r| list[c.fact].relation == r);
        let part = ValueEditReport {
            cases: report.cases.iter().filter(belongs).cloned().collect(),
            ..ValueEditReport::default()
        };
        let found: usize = part.cases.iter().map(|c| c.neurons.len()).sum();
        let mean = found as f32 / part.cases.len().max(1) as f32;
        let name = relation.unwrap_or("all");
        let count = part.cases.len();
        if count == 0 {
            continue;
        }
        let found = format!("{mean:.1} found");
        rows.push(row(name, found, count, part.mean(|c| c.own)));
        if let Some((count, effect)) = part.direct() {
            rows.push(row("", "by direct effect".into(), count, effect));
        }
        rows.push(row("", "random".into(), count, part.mean(|c| c.control)));
    }
    output::listing(COLUMNS, &rows, PrintedForm::Text)
}

fn row(name: &str, neurons: String, facts: usize, effect: EditEffect) -> Vec<Value> {
    let number = |value: f32| Value::String(format!("{value:.3}"));
    let maybe = |value: Option<f32>| value.map_or(Value::Null, number);
    vec![
        Value::String(name.into()),
        Value::String(neurons),
        json!(facts),
        number(effect.changed),
        maybe(effect.success),
        number(effect.kept),
        maybe(effect.others.map(|t| t.0)),
        maybe(effect.others.map(|t| t.1)),
        maybe(effect.texts.map(|t| t.0)),
        maybe(effect.texts.map(|t| t.1)),
    ]
}

/// The whole report as JSON for scripts.
fn report_json(report: &ValueEditReport, list: &[Fact], plan: ValueEditPlan) -> Value {
    let effect = |e: &EditEffect| {
        json!({
            "changed": e.changed, "success": e.success, "kept": e.kept,
            "others_changed": e.others.map(|t| t.0), "others_kl": e.others.map(|t| t.1),
            "texts_changed": e.texts.map(|t| t.0), "texts_kl": e.texts.map(|t| t.1),
        })
    };
    let case = |c: &EditedFact| {
        let neuron = |n: &FactNeuron| json!({"layer": n.layer, "neuron": n.neuron, "score": n.score, "effect": n.effect, "by_effect": n.place, "act": n.act, "prompts": n.prompts});
        let neurons: Vec<Value> = c.neurons.iter().map(neuron).collect();
        let edits: Vec<String> = c.edits.iter().map(ToString::to_string).collect();
        json!({
            "relation": list[c.fact].relation, "prompt": list[c.fact].prompts[0],
            "answer": list[c.fact].answer, "new": c.new, "neurons": neurons, "edits": edits,
            "edited": effect(&c.own), "direct": c.direct.as_ref().map(effect), "random": effect(&c.control),
        })
    };
    json!({
        "facts": list.len(), "known": report.known, "without": report.without, "seed": plan.seed,
        "edited": effect(&report.mean(|c| c.own)), "direct": report.direct().map(|(_, mean)| effect(&mean)),
        "random": effect(&report.mean(|c| c.control)),
        "cases": report.cases.iter().map(case).collect::<Vec<_>>(),
        "caution": CAUTION,
    })
}

/// A preset with the edits of all facts. Only those of the first fact are on, because all of them together would be another
/// experiment.
fn preset(report: &ValueEditReport, lab: &Lab) -> EditPreset {
    let of = |(i, case): (usize, &EditedFact)| {
        let edits = case.edits.clone().into_iter();
        edits.map(move |edit| Edit { on: i == 0, ..edit })
    };
    EditPreset {
        model: lab.model.card.name.clone(),
        revision: lab.model.card.revision.clone(),
        edits: report.cases.iter().enumerate().flat_map(of).collect(),
        ..EditPreset::default()
    }
}

/// The edits as text, one in each line below their fact.
fn lines(report: &ValueEditReport, list: &[Fact]) -> String {
    let mut out = String::new();
    for case in &report.cases {
        let fact = &list[case.fact];
        let new = case
            .new
            .as_ref()
            .map_or_else(String::new, |n| format!(" -> {n}"));
        let _ = writeln!(out, "# {}{}{new}", fact.prompts[0], fact.answer);
        for edit in &case.edits {
            let _ = writeln!(out, "{edit}");
        }
    }
    out
}
