//! `lmscope direction --demos FILE`: a vector for a task, made from demonstrations and evaluated on held-out pairs.
//!
//! Invariant: the results that are printed and stored in the file were measured on held-out pairs, with a random vector of the
//! same norm as control.
//! To add a method, add it to `vectors/task_vector.rs`.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{ArgMatches, Command, value_parser};

use super::{DirectionMethod, arguments, layers, models, other_method, output, write};
use crate::edit::direction::Direction;
use crate::error::{Error, Result};
use crate::export;
use crate::lab::Lab;
use crate::lab::capture::Output;
use crate::model::network::site::Site;
use crate::vectors::evaluate::{Insertion, Questions, TaskEvaluation};
use crate::vectors::few_shot::{ShotLayout, ShotPair, read, split};
use crate::vectors::task_vector::{HeadRanking, InContext, Recipe, ShotPrompts};

/// The flags for demonstrations.
pub(super) fn arguments(command: Command) -> Command {
    let count = |name: &'static str, default: &'static str, help: &'static str| {
        arguments::value(name, "N", help)
            .help_heading("Demonstrations")
            .default_value(default)
            .value_parser(value_parser!(u32).range(1..100_000))
    };
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        arguments::value(name, value, help)
            .help_heading("Demonstrations")
            .allow_hyphen_values(true)
    };
    command
        .arg(text("demos", "FILE", "Demonstrations of a task: one pair a line, input and output with a tab between, or JSON").value_parser(value_parser!(PathBuf)).conflicts_with_all(["plus", "minus"]))
        .arg(text("template", "TEXT", "The form of a demonstration; \\n and \\t may be used").default_value("Q: {x}\\nA: {y}"))
        .arg(text("separator", "TEXT", "The text between demonstrations").default_value("\\n\\n"))
        .arg(text("ask", "TEMPLATE", "The form of a query without demonstrations, if it differs from that of a demonstration, for example 'cat -> cat ; gold -> gold ; {x} -> {y}'"))
        .arg(count("shots", "10", "Demonstrations before a query"))
        .arg(count("trials", "100", "How many prompts means are taken over: function-vector, layer-average"))
        .arg(count("shuffled", "25", "How many prompts heads are ranked on: function-vector"))
        .arg(text("rank", "PROMPTS", "The prompts that heads are ranked on: shuffled: demonstrations with permuted labels; zero_shot: no demonstrations, for tasks that permuted labels do not hide").value_parser(PossibleValuesParser::new([PossibleValue::new("shuffled"), PossibleValue::new("zero_shot").alias("asked")]).map(|p| if p == "shuffled" { HeadRanking::Shuffled } else { HeadRanking::ZeroShot })).default_value("shuffled"))
        .arg(count("heads", "10", "How many heads are summed: function-vector"))
        .arg(count("dummies", "2", "How many queries the state after one set of demonstrations is averaged over: task-vector"))
        .arg(text("held-out", "SHARE", "The share of the pairs that is held out: neither the vector nor the layer is chosen on them").default_value("0.3").value_parser(value_parser!(f32)))
        .arg(arguments::value("seed", "N", "Random seed").help_heading("Demonstrations").value_parser(value_parser!(u64)).default_value("1"))
        .arg(text("evaluate", "NAME", "Evaluates a loaded or saved direction on the demonstrations instead of making one").requires("demos").conflicts_with_all(["method", "combine", "output", "name"]))
        .arg(text("op", "OP", "How an evaluated direction is applied at the last token [default: replace for task vectors, else add]").value_parser(PossibleValuesParser::new(["add", "replace"]).map(|p| if p == "add" { Insertion::Add } else { Insertion::Replace })))
}

/// The values of the flags for demonstrations.
struct ShotFlags {
    made_from: Vec<ShotPair>,
    held_out: Vec<ShotPair>,
    layout: ShotLayout,
    query_layout: ShotLayout,
    shots: usize,
    seed: u64,
}

impl ShotFlags {
    fn read(matches: &ArgMatches) -> Result<Self> {
        let path = matches
            .get_one::<PathBuf>("demos")
            .cloned()
            .unwrap_or_default();
        let seed = arguments::seed(matches);
        let held = matches.get_one::<f32>("held-out").copied().unwrap_or(0.3);
        let (made_from, held_out) = split(&read(&path)?, held, seed)?;
        let (template, separator) = (
            arguments::text(matches, "template"),
            arguments::text(matches, "separator"),
        );
        let query = matches
            .get_one::<String>("ask")
            .map_or(template, String::as_str);
        Ok(Self {
            made_from,
            held_out,
            layout: ShotLayout::new(template, separator)?,
            query_layout: ShotLayout::new(query, separator)?,
            shots: count(matches, "shots"),
            seed,
        })
    }

    fn prompts(&self) -> ShotPrompts<'_> {
        ShotPrompts {
            pairs: &self.made_from,
            layout: &self.layout,
            query_layout: &self.query_layout,
            count: self.shots,
            seed: self.seed,
        }
    }

    fn questions(&self, lab: &Lab) -> Result<Questions> {
        let shots = self.prompts().on(lab);
        Ok(Questions {
            fit: shots.bare(&self.made_from)?,
            held: shots.bare(&self.held_out)?,
            answered: shots.answered(&self.held_out)?,
        })
    }
}

fn count(matches: &ArgMatches, name: &str) -> usize {
    matches.get_one::<u32>(name).map_or(1, |n| *n as usize)
}

pub(super) fn run(matches: &ArgMatches) -> Result<()> {
    let method = match matches.get_one("method") {
        Some(DirectionMethod::Demos(method)) => *method,
        Some(DirectionMethod::Lists(_)) | None => {
            let next = "for --demos";
            return Err(other_method(matches, &InContext::names(), next));
        }
    };
    let given = ShotFlags::read(matches)?;
    let mut lab = arguments::open(matches)?;
    let kept = match arguments::text(matches, "layer") {
        "" | "auto" => None,
        text => Some(layers(text, lab.model.card.layers)?),
    };
    let recipe = Recipe {
        trials: count(matches, "trials"),
        shuffled: count(matches, "shuffled"),
        rank: *matches.get_one("rank").unwrap_or(&HeadRanking::Shuffled),
        heads: count(matches, "heads"),
        dummies: count(matches, "dummies"),
    };
    let (mut direction, verdict) = arguments::showing_progress(&mut lab, "direction", |lab| {
        let mut direction = method.make(lab, &given.prompts(), recipe)?;
        if let Some(kept) = &kept {
            direction
                .rows
                .retain(|(at, _)| kept.contains(&usize::from(at.layer)));
        }
        let questions = given.questions(lab)?;
        let verdict =
            TaskEvaluation::evaluate(lab, &direction, method.insertion(), &questions, given.seed)?;
        Ok::<_, Error>((direction, verdict))
    })?;
    let best = verdict.best().map_or(0, |b| b.layer);
    if kept.is_none() {
        direction
            .rows
            .retain(|(at, _)| usize::from(at.layer) == best);
    }
    direction.origin.notes.push(verdict.sentence());
    let file = write(matches, direction.clone())?;
    show(matches, &mut lab, &file, &direction, &verdict, given.seed)?;
    output::note(&format!(
        "{file}: {method}, from {} prompts at {}, norm {:.3}. Use it as --edit '{}:{file}@{}:last'.",
        direction.origin.prompts.0,
        direction.places(),
        direction.norm(),
        method.insertion().name(),
        Site::ResidPost.at(best),
    ));
    Ok(())
}

/// Evaluates a direction on the demonstrations that the flags name, and prints the result.
pub(super) fn evaluate(
    matches: &ArgMatches,
    lab: &mut Lab,
    name: &str,
    direction: &Direction,
) -> Result<()> {
    let given = ShotFlags::read(matches)?;
    // The method of a file is stored as a sentence.
    let replaces = direction.origin.method == InContext::TaskVector.to_string();
    let usual = if replaces {
        Insertion::Replace
    } else {
        Insertion::Add
    };
    let op = matches.get_one("op").copied().unwrap_or(usual);
    let questions = given.questions(lab)?;
    let verdict = arguments::showing_progress(lab, "direction", |lab| {
        TaskEvaluation::evaluate(lab, direction, op, &questions, given.seed)
    });
    show(matches, lab, name, direction, &verdict?, given.seed)
}

/// Prints the table on standard output.
fn show(
    matches: &ArgMatches,
    lab: &mut Lab,
    name: &str,
    direction: &Direction,
    verdict: &TaskEvaluation,
    seed: u64,
) -> Result<()> {
    let word = |name: &str| (name.to_string(), arguments::text(matches, name).to_string());
    let number = |name: &str| (name.to_string(), count(matches, name).to_string());
    let parameters = vec![
        ("method".to_string(), direction.origin.method.clone()),
        word("template"),
        word("separator"),
        word("ask"),
        number("shots"),
    ];
    let mut figure = verdict.figure(lab, name, seed, parameters);
    let kept = direction.origin.notes.iter();
    let kept: Vec<String> = kept
        .filter(|note| !figure.notes.contains(note))
        .map(|note| format!("of the vector: {note}"))
        .collect();
    figure.notes.extend(kept);
    if let Some((at, vector)) = direction.rows.first() {
        let device = &lab.model.transformer.device;
        let row = candle_core::Tensor::new(vector.as_slice(), device)?
            .unsqueeze(0)?
            .to_dtype(lab.model.transformer.dtype())?;
        let read = lab.read(&row, &Output::top(5).ask(0, 0))?;
        let words: Vec<String> = read
            .iter()
            .flat_map(|r| &r.top)
            .map(|(id, p)| format!("{} {p:.2}", lab.visible(*id)))
            .collect();
        figure.notes.push(format!(
            "logit lens of the vector of {at}, through the final norm and the unembedding: {}",
            words.join(", ")
        ));
    }
    let format = export::format_named(arguments::text(matches, "format"))?;
    let text = (format.write)(&figure)?;
    if models::form(matches).for_scripts() {
        return output::bytes(text.as_bytes());
    }
    output::text(&text)
}
