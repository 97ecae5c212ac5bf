//! `lmscope doctor`: without a model, the features of this build, machine and terminal and whether the demo works; with a
//! model, how the engine understands it, and the identities of [`crate::cli::doctor::identities`] measured on it.
//!
//! Invariant: it only inspects; nothing is written or changed. To add a fact about the machine, add a row in `machine`; about a
//! model, in `model`; to add an identity, see `identities`.

pub mod identities;
mod machine;
mod model;

use clap::{Arg, ArgMatches, Command};
use serde_json::{Value, json};

use super::{Subcommand, arguments, models, output};
use crate::cli::doctor::identities::Identity;
use crate::dictionaries::handles;
use crate::error::{Error, Result};
use crate::export;
use crate::instruments::logit_lens::lens::Lens;
use crate::instruments::{Arguments, Instrument};
use crate::lab::run::Run;
use crate::model::Model;
use crate::model::load::Options;

pub use machine::{cpu, kilobytes};

pub const DOCTOR: Subcommand = Subcommand {
    name: "doctor",
    about: "Shows what this build and machine offer, or how a model is built, and checks its numbers",
    arguments: build,
    run,
};

fn build(command: Command) -> Command {
    let model = Arg::new("model")
        .value_name("MODEL")
        .help("Shows how this model is built and checks identities on it, instead of the machine");
    models::format(command.arg(model).args(arguments::loading()))
}

fn run(matches: &ArgMatches) -> Result<()> {
    arguments::threads(matches)?;
    if matches.contains_id("model") {
        examine(matches)
    } else {
        look(matches)
    }
}

/// Reports on the machine and the demo.
fn look(matches: &ArgMatches) -> Result<()> {
    let mut rows = listed(machine::facts());
    let checked = demo(&arguments::options(matches));
    let found = checked
        .as_ref()
        .map_or_else(ToString::to_string, Clone::clone);
    rows.push(vec![json!("demo"), json!(found)]);
    let form = models::form(matches);
    if form.for_scripts() {
        let mut numbers = machine::numbers();
        numbers.insert("demo".into(), json!(checked.is_ok()));
        for row in &mut rows {
            let own = row[0].as_str().and_then(|what| numbers.get(what));
            row.push(own.cloned().unwrap_or(Value::Null));
        }
        output::listing(&["what", "found", "value"], &rows, form)?;
    } else {
        output::listing(FACT, &rows, form)?;
    }
    checked.map(drop)
}

const FACT: &[&str] = &["what", "found"];

fn listed<'a>(facts: impl IntoIterator<Item = (&'a str, String)>) -> Vec<Vec<Value>> {
    let row = |(name, fact): (&str, String)| vec![json!(name), json!(fact)];
    facts.into_iter().map(row).collect()
}

/// Loads the demo, reads a prompt through the lens and evaluates the lens's own check.
fn demo(options: &Options) -> Result<String> {
    let mut lab = handles::open("demo", options)?;
    let run = Run::plain(lab.model.encode("The capital of France is", false)?);
    let figure = Lens.observe(&run, &Arguments::default(), &mut lab)?;
    match figure.check {
        Some(check) if check.passed() => Ok(format!(
            "loads, and its last lens row is the model's own output (largest difference {:.1e})",
            check.error
        )),
        Some(check) => Err(Error::Engine(format!(
            "the demo's last lens row differs from its output by {:.1e}, tolerated is {:.0e}",
            check.error, check.tolerance
        ))),
        None => Err(Error::Engine("the demo's lens has no check".into())),
    }
}

/// Reports on one model: its architecture, and whether the identities hold.
fn examine(matches: &ArgMatches) -> Result<()> {
    let mut lab = arguments::open(matches)?;
    let tokens = identities::text(&lab)?;
    let facts = model::facts(&lab.model);
    let found = identities::measure(&mut lab, &Run::plain(tokens.clone()))?;
    let failed: Vec<&str> = found
        .iter()
        .filter(|i| !i.passed())
        .map(|i| i.name)
        .collect();
    let form = models::form(matches);
    if form.for_scripts() {
        let fact = |(name, fact): &(&str, String)| json!({"what": name, "found": fact});
        let report = json!({
            "schema": export::SCHEMA,
            "model": lab.model.card.name,
            "numbers": model::numbers(&lab.model),
            "facts": facts.iter().map(fact).collect::<Vec<_>>(),
            "tokens": tokens,
            "texts": tokens.iter().map(|id| lab.model.raw_text(*id)).collect::<Vec<_>>(),
            "damage": lab.model.transformer.damage.iter().map(|d| json!({"tensor": d.name, "values": d.count, "in_file": d.stored})).collect::<Vec<_>>(),
            "identities": found.iter().map(as_json).collect::<Vec<_>>(),
            "passed": failed.is_empty() && lab.model.transformer.damage.is_empty(),
        });
        output::document(&report, "identities", form)?;
    } else {
        output::listing(FACT, &listed(facts), form)?;
        output::line("")?;
        let rows: Vec<Vec<Value>> = found.iter().map(as_row).collect();
        output::listing(
            &["identity", "", "difference", "at most", "compared"],
            &rows,
            form,
        )?;
    }
    if let Some(error) = damaged(&lab.model) {
        return Err(error);
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::Identities {
        model: lab.model.card.name.clone(),
        failed: failed.join(", "),
        count: found.len(),
    })
}

/// The error for weights that are not finite; whether they affect the results depends on the text.
fn damaged(model: &Model) -> Option<Error> {
    let damage = &model.transformer.damage;
    let named: Vec<String> = damage.iter().take(8).map(ToString::to_string).collect();
    let more = damage.len().saturating_sub(named.len());
    let more = if more == 0 {
        String::new()
    } else {
        format!(", and {more} more")
    };
    let next = if damage.iter().any(|d| d.stored) {
        "The file is damaged, or was written that way: download it again, and do not trust text generated from these weights"
    } else {
        "Load the model with --dtype f32"
    };
    (!damage.is_empty()).then(|| {
        Error::not_finite(
            format!(
                "Weights are not finite in {} of {}'s tensors: {}{more}",
                damage.len(),
                model.card.name,
                named.join(", ")
            ),
            next,
        )
    })
}

fn as_row(identity: &Identity) -> Vec<Value> {
    let number = |n: f32| {
        json!(if n == 0.0 {
            "0".into()
        } else {
            format!("{n:.1e}")
        })
    };
    let (verdict, difference, tolerance) = match identity.measured {
        None => ("not here", Value::Null, Value::Null),
        Some(m) if identity.passed() => ("holds", number(m.difference), number(m.tolerance)),
        Some(m) => ("FAILS", number(m.difference), number(m.tolerance)),
    };
    vec![
        json!(identity.name),
        json!(verdict),
        difference,
        tolerance,
        json!(identity.what),
    ]
}

/// The JSON of an identity; a difference that is not finite is null, and has not passed.
fn as_json(identity: &Identity) -> Value {
    json!({
        "name": identity.name,
        "what": identity.what,
        "difference": identity.measured.map(|m| m.difference),
        "tolerance": identity.measured.map(|m| m.tolerance),
        "refused": identity.measured.is_none(),
        "passed": identity.passed(),
    })
}
