//! `lmscope bench`: the speed of a model on this machine: bare, with the steady instruments live, and under edits.
//!
//! Invariant: start-up is measured from outside, in a fresh process; rounds of all kinds alternate, so that a slow moment of
//! the machine affects all of them. To measure something else, add a field to [`BenchReport`] and fill it in `measure`.

use std::io::{BufRead, BufReader};
use std::process::{Command as Process, Stdio};
use std::time::Instant;

use clap::{ArgAction, ArgMatches, Command, value_parser};

use super::bench_report::BenchReport;
use super::output::PrintedForm;
use super::{Subcommand, arguments, doctor, models, output};
use crate::edit::direction::{Direction, DirectionOrigin, random_like};
use crate::edit::op::{DirectionName, DirectionWithin, Op, SetValue, UnitChoice, UnitsTo};
use crate::edit::schedule::Schedule;
use crate::edit::{Edit, EditPlace};
use crate::error::{Error, Result};
use crate::instruments::{Arguments, INSTRUMENTS, Instrument};
use crate::lab::Lab;
use crate::lab::capture::Needs;
use crate::lab::run::Run;
use crate::lab::sample::Sampling;
use crate::lab::writer::{BaselineMode, Writer};
use crate::model::host::crossed;
use crate::model::network::site::Site;

pub const BENCH: Subcommand = Subcommand {
    name: "bench",
    about: "Measures start-up time, memory, and tokens per second: plain, with the live instruments, and under ten edits",
    arguments: build,
    run,
};

/// The prompt that is continued.
const PROMPT: &str = "The capital of France is";

/// How many layers the lens shows on a screen of 80 columns and 24 lines, the last ones until somebody scrolls.
pub const LAYERS_IN_VIEW: usize = 9;

/// The number of rounds of each kind; fewer if one takes longer than [`PATIENCE`] seconds.
const ROUNDS: usize = 5;

/// The duration of a round, in seconds, above which there are fewer rounds.
const PATIENCE: f64 = 5.0;

/// The length of the prompt whose reading is timed, in tokens, if the context allows it.
const PREFILL: usize = 256;

/// The number of fresh processes that are started.
const STARTS: usize = 3;

/// The words that a fresh process prints when the model is loaded, and when the first token is written.
const LOADED: &str = "loaded";
const FIRST: &str = "first";

fn build(command: Command) -> Command {
    models::format(arguments::model(command))
        .arg(arguments::value("count", "N", "Tokens of one round").short('n').value_parser(value_parser!(usize)).default_value("96"))
        .arg(arguments::value("dictionary", "PATH", "Measures also with the features of this dictionary live; may be repeated").action(ArgAction::Append))
        .arg(super::switch("brief", "Measures writing and reading only, one round of each: for scripts that alternate with other programs").hide(true))
        .arg(super::switch("startup", "Reports when the model is loaded and when the first token is generated, for the measuring parent process").hide(true))
}

fn run(matches: &ArgMatches) -> Result<()> {
    if matches.get_flag("startup") {
        return startup(matches);
    }
    let report = measure(matches)?;
    output::clear_status();
    match models::form(matches) {
        PrintedForm::Text => output::text(&report.table()),
        form @ (PrintedForm::Json | PrintedForm::Csv) => output::document(&report.json(), "", form),
    }
}

/// The work of the fresh process: loads the model, generates one token, and prints a word after each.
fn startup(matches: &ArgMatches) -> Result<()> {
    let mut lab = arguments::open(matches)?;
    output::line(LOADED)?;
    let prompt = start(&lab)?;
    let mut writer = Writer::begin(&mut lab, prompt, Schedule::none(), Sampling::default())?;
    writer.step(&mut lab, &[])?;
    output::line(FIRST)
}

/// The prompt's tokens; for a model without a tokenizer, its first ids.
fn start(lab: &Lab) -> Result<Vec<u32>> {
    let mut ids = if lab.model.tokenizer.is_some() {
        lab.model.encode(PROMPT, false)?
    } else {
        (1..7).collect()
    };
    ids.truncate((lab.model.card.context / 2).max(1));
    Ok(ids)
}

/// The times in milliseconds from the start of a fresh process to the loaded model and to its first token: medians.
fn outside(matches: &ArgMatches) -> Result<(f64, f64)> {
    let (mut loaded, mut first) = (Vec::new(), Vec::new());
    for i in 0..STARTS {
        let (a, b) = once(matches)?;
        loaded.push(a);
        first.push(b);
        if b > PATIENCE * 1e3 && i == 0 {
            break;
        }
    }
    Ok((median(&mut loaded), median(&mut first)))
}

fn once(matches: &ArgMatches) -> Result<(f64, f64)> {
    let fail = |e: std::io::Error| {
        Error::Engine(format!("a new process to measure could not be run: {e}"))
    };
    let mut process = Process::new(std::env::current_exe().map_err(fail)?);
    process.args(["bench", "--startup"]);
    for name in ["dtype", "device"] {
        if let Some(value) = matches.get_one::<String>(name) {
            process.arg(format!("--{name}={value}"));
        }
    }
    if let Some(counts) = matches.get_many::<usize>("split") {
        let counts: Vec<String> = counts.map(ToString::to_string).collect();
        process.arg(format!("--split={}", counts.join(",")));
    }
    for name in ["context", "threads"] {
        if let Some(value) = matches.get_one::<usize>(name) {
            process.arg(format!("--{name}={value}"));
        }
    }
    process
        .arg("--")
        .arg(arguments::model_name(matches))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let since = Instant::now();
    let mut child = process.spawn().map_err(fail)?;
    let (mut loaded, mut first) = (None, None);
    let said = child.stdout.take().map(BufReader::new).into_iter();
    for line in said.flat_map(BufReader::lines) {
        let at = since.elapsed().as_secs_f64() * 1e3;
        match line.map_err(fail)?.as_str() {
            LOADED => loaded = Some(at),
            FIRST => first = Some(at),
            _ => {}
        }
    }
    if !child.wait().map_err(fail)?.success() {
        return Err(Error::Text {
            what: "Nothing was measured: a new process that was to be timed failed, for the reason above".into(),
            next: "Solve that first.".into(),
        });
    }
    loaded
        .zip(first)
        .ok_or_else(|| Error::Engine("a new process to measure ended without a token".into()))
}

fn measure(matches: &ArgMatches) -> Result<BenchReport> {
    let count = matches.get_one::<usize>("count").map_or(96, |n| *n.max(&1));
    output_status("starting new processes");
    let mut lab = arguments::open(matches)?;
    let brief = matches.get_flag("brief");
    let (load_ms, first_token_ms) = if brief {
        (f64::NAN, f64::NAN)
    } else {
        outside(matches)?
    };
    let card = lab.model.card.clone();
    let prompt = start(&lab)?;
    let count = count.min(card.context.saturating_sub(prompt.len())).max(1);
    let defaults = Arguments::default();
    let of_prompt = Run::plain(prompt.clone());
    let (mut needs, mut live) = (Vec::new(), Vec::new());
    for of in INSTRUMENTS.iter().filter(|of| of.steady()) {
        if of.live(&card, &defaults) {
            needs.push(of.needs(&of_prompt, &defaults, &lab)?);
            live.push((*of, defaults.clone()));
        }
    }
    let dictionaries = matches
        .get_many::<String>("dictionary")
        .into_iter()
        .flatten();
    let dictionaries: Vec<&str> = dictionaries.map(String::as_str).collect();
    let dictionaries = dictionaries.join(",");

    let in_view = card.layers.saturating_sub(LAYERS_IN_VIEW)..card.layers;
    let viewed = live.iter().zip(&needs).map(|((of, _), needs)| {
        let needs = needs.clone();
        if of.rows_are_layers() {
            needs.with_states_at_once(in_view.clone(), card.layers)
        } else {
            needs
        }
    });
    let viewed: Vec<Needs> = viewed.collect();
    let (mut also, mut also_needs) = (live.clone(), viewed.clone());
    if !dictionaries.is_empty() {
        let given = defaults.clone().with(DICTIONARY, &dictionaries);
        // The pane that `--dictionary` opens; the card of a feature and what features wrote of a logit are further questions.
        if let Some(of) = INSTRUMENTS.iter().find(|of| reads_dictionaries(**of)) {
            also_needs.push(of.needs(&of_prompt, &given, &lab)?);
            also.push((*of, given));
        }
    }
    let edits = ten_edits(&mut lab);
    let kinds = [
        BenchMode::Bare,
        BenchMode::Live(&live, &needs),
        BenchMode::Live(&live, &viewed),
        BenchMode::Live(&also, &also_needs),
        BenchMode::Edited(&edits, BaselineMode::Nothing),
        BenchMode::Edited(&edits, BaselineMode::SameText),
    ];
    let wanted = |i: usize| match i {
        FEATURES => !dictionaries.is_empty(),
        i => !brief || i < FEATURES,
    };
    let kinds: Vec<(usize, BenchMode)> = kinds
        .into_iter()
        .enumerate()
        .filter(|(i, _)| wanted(*i))
        .collect();
    // A short round of each kind fills the caches of value cards and starts the threads.
    for (_, kind) in &kinds {
        round(&mut lab, &prompt, count.min(8), kind)?;
    }
    let mut speeds: [Vec<f64>; 6] = Default::default();
    let mut read_back = None;
    for i in 0..ROUNDS {
        output_status(&format!("round {} of {ROUNDS}", i + 1));
        let mut spent = 0.0;
        for (i, kind) in &kinds {
            let before = crossed();
            let seconds = round(&mut lab, &prompt, count, kind)?;
            if *i == LIVE && !lab.model.transformer.device.is_cpu() {
                read_back = Some(crossed() - before);
            }
            spent += seconds;
            speeds[*i].push(count as f64 / seconds);
        }
        if brief || spent > 2.0 * PATIENCE {
            break;
        }
    }
    let [
        mut bare,
        mut full,
        mut view,
        mut features,
        mut edited,
        mut accompanied,
    ] = speeds;
    let over = |other: &[f64], of: &[f64]| {
        let pairs = other.iter().zip(of);
        median(&mut pairs.map(|(other, of)| other / of).collect::<Vec<_>>())
    };
    let of_bare = |other: &[f64]| over(other, &bare);
    let of_view = over(&features, &view);
    let ratios = [&full, &view, &edited, &accompanied].map(|speeds| of_bare(speeds));
    let rounds = bare.len();
    let long = prompt.iter().copied().cycle();
    let long: Vec<u32> = long.take(PREFILL.min(card.context)).collect();
    let mut reads = Vec::new();
    for _ in 0..rounds {
        let (long, since) = (long.clone(), Instant::now());
        let count = long.len() as f64;
        Writer::begin(&mut lab, long, Schedule::none(), Sampling::default())?;
        reads.push(count / since.elapsed().as_secs_f64());
    }
    Ok(BenchReport {
        card,
        cpu: doctor::cpu(),
        threads: rayon::current_num_threads(),
        prompt_tokens: prompt.len(),
        tokens: count,
        rounds,
        load_ms,
        first_token_ms,
        bare: median(&mut bare),
        live: median(&mut full),
        ratio: ratios[0],
        read_back: read_back.map(|all| {
            let each = |whole: usize| whole as f64 / count as f64;
            (each(all.bytes), each(all.synchronisations))
        }),
        view: median(&mut view),
        view_ratio: ratios[1],
        features: (!dictionaries.is_empty()).then(|| (median(&mut features), of_view)),
        dictionaries,
        edited: median(&mut edited),
        edited_ratio: ratios[2],
        accompanied: median(&mut accompanied),
        accompanied_ratio: ratios[3],
        edits: edits.iter().map(ToString::to_string).collect(),
        instruments: live.iter().map(|(of, _)| of.name()).collect(),
        prefill_tokens: long.len(),
        prefill: median(&mut reads),
        peak_memory: doctor::kilobytes("/proc/self/status", "VmHWM"),
        estimated_memory: lab.model.need.total(),
    })
}

/// Which of the kinds of rounds has all layers live.
const LIVE: usize = 1;

/// Which of the kinds of rounds has the features of dictionaries live; a brief measurement has no later ones.
const FEATURES: usize = 3;

/// What a round does while it generates.
enum BenchMode<'a> {
    /// No instruments and no edits.
    Bare,
    /// With the columns of the steady live instruments: of all layers, or of those in view.
    Live(&'a [(&'static dyn Instrument, Arguments)], &'a [Needs]),
    /// Under edits.
    Edited(&'a [Edit], BaselineMode),
}

/// Ten edits of different kinds that every model supports: four vectors added and two projected out, at layers spread over the
/// model, a component clamped, heads scaled, and neurons or coordinates set.
fn ten_edits(lab: &mut Lab) -> Vec<Edit> {
    let (layers, width) = (lab.model.card.layers, lab.model.card.d_model);
    let vector = random_like(&vec![1.0; width], 1);
    let direction = Direction {
        rows: vec![(Site::ResidPre.at(0), vector)],
        origin: DirectionOrigin::default(),
    };
    lab.directions.insert(DIRECTION.into(), direction);
    let name = || DirectionName(DIRECTION.into());
    let neurons = lab.model.card.neuron_layers.first();
    let neurons = neurons.map_or(Site::MlpOut.at(0), |l| Site::MlpAct.at(*l));
    let at = |site: Site, i: usize| site.at(i * (layers - 1) / 9);
    let heads = Op::Scale(UnitChoice::List(vec![0]));
    let bounded = Op::ClampAlong(DirectionWithin(DIRECTION.into(), -1.0, 1.0));
    let set = Op::Set(UnitsTo(UnitChoice::List(vec![4, 5]), SetValue::Is(0.1)));
    let edits = [
        (Op::Add(name()), at(Site::ResidPre, 1), 0.01),
        (Op::Add(name()), at(Site::ResidPre, 3), -0.01),
        (Op::Add(name()), at(Site::ResidPost, 5), 0.01),
        (Op::AddUnitNorm(name()), at(Site::ResidPost, 7), 0.01),
        (Op::ProjectOut(name()), at(Site::ResidPre, 2), 1.0),
        (Op::ProjectOut(name()), at(Site::AttnOut, 4), 1.0),
        (bounded, at(Site::MlpOut, 6), 1.0),
        (heads, at(Site::Z, 8), 0.9),
        (Op::Zero(UnitChoice::List(vec![1, 2, 3])), neurons, 1.0),
        (set, neurons, 1.0),
    ];
    let edit = |(op, at, strength)| Edit {
        strength,
        ..Edit::new(op, EditPlace::At(at))
    };
    edits.map(edit).into()
}

/// The parameter that names dictionaries.
const DICTIONARY: &str = "dictionary";

/// Whether an instrument shows what it reads of a text by dictionaries.
fn reads_dictionaries(of: &dyn Instrument) -> bool {
    of.parameters().iter().any(|row| row.name == DICTIONARY)
}

/// The name of the direction of [`ten_edits`].
const DIRECTION: &str = "bench";

/// The time in seconds to generate `count` tokens after a prompt.
fn round(lab: &mut Lab, prompt: &[u32], count: usize, kind: &BenchMode) -> Result<f64> {
    let (live, needs, edits, beside) = match kind {
        BenchMode::Bare => (&[][..], &[][..], &[][..], BaselineMode::Nothing),
        BenchMode::Live(live, needs) => (*live, *needs, &[][..], BaselineMode::Nothing),
        BenchMode::Edited(edits, beside) => (&[][..], &[][..], *edits, *beside),
    };
    let mut writer = Writer::begin_with_baseline(
        lab,
        prompt.to_vec(),
        Schedule::always(edits.to_vec()),
        Sampling::default(),
        beside,
    )?;
    let since = Instant::now();
    for _ in 0..count {
        let step = writer.step(lab, needs)?;
        for ((of, arguments), capture) in live.iter().zip(&step.captures) {
            std::hint::black_box(of.column(capture, arguments, lab)?);
        }
    }
    Ok(since.elapsed().as_secs_f64())
}

fn output_status(words: &str) {
    if output::stderr_is_terminal() {
        output::status(words);
    }
}

/// The middle value.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
