//! Sweeps over lists of prompts: against texts written one by one, with the null beside them and the best cell named.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use lmscope::edit::Edit;
use lmscope::edit::direction::{Direction, random_like};
use lmscope::edit::schedule::Schedule;
use lmscope::figure::{Body, Cell, Figure, Grid};
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::capture::Output;
use lmscope::lab::draws::draw_seed;
use lmscope::lab::progress::WorkProgress;
use lmscope::lab::run::Run;
use lmscope::lab::sample::Sampling;
use lmscope::lab::target::first_tokens;
use lmscope::lab::writer::Writer;
use lmscope::model::network::site::Site;

use super::demo::{demo, plants, texts};
use super::tools::edited;

const ANSWERS: &str = " sunny| bright| lovely| warm";

fn grid(figure: &Figure) -> &Grid {
    match &figure.body {
        Body::Grid(grid) => grid,
        Body::Table(_) | Body::Series(_) | Body::Graph(_) | Body::Text(_) => panic!("a grid"),
    }
}

fn sweep(lab: &mut Lab, arguments: &Arguments) -> Figure {
    let run = Run {
        seed: 1,
        ..Run::default()
    };
    instrument("sweep")
        .unwrap()
        .observe(&run, arguments, lab)
        .unwrap()
}

/// Neutral stories in a file, and the arguments that sweep mood over them.
fn stories(folder: &tempfile::TempDir, count: usize) -> (Vec<String>, Arguments) {
    let prompts = texts(&plants()["vectors"]["mood"]["test"])[..count].to_vec();
    let file = folder.path().join("stories.txt");
    std::fs::write(&file, prompts.join("\n\n") + "\n").unwrap();
    let arguments = Arguments::default()
        .with("direction", "mood")
        .with("prompts", file.display())
        .with("answers", ANSWERS)
        .with("match", "begins")
        .with("tokens", 6);
    (prompts, arguments)
}

fn number(cell: &Cell, name: &str) -> f32 {
    let found = cell.more.iter().find(|(n, _)| n == name);
    found
        .unwrap_or_else(|| panic!("{name} in {:?}", cell.more))
        .1
}

/// Logits after every position, f64 log-probabilities.
fn log_probabilities(lab: &mut Lab, run: &Run) -> Vec<Vec<f64>> {
    let at = Site::Logits.at(0);
    let rows = lab.record(run, &[at]).unwrap();
    let rows = rows.get(at).unwrap().to_vec2::<f32>().unwrap();
    let normal = |row: &Vec<f32>| {
        let total = row.iter().map(|z| f64::from(*z).exp()).sum::<f64>().ln();
        row.iter().map(|z| f64::from(*z) - total).collect()
    };
    rows.iter().map(normal).collect()
}

/// Success, KL and fluency of a list under an edit, one prompt at a time through the writer.
fn brute(lab: &mut Lab, prompts: &[String], edit: Option<&str>, count: usize) -> [f64; 3] {
    let edits: Vec<&str> = edit.into_iter().collect();
    let mut sums = [0.0; 3];
    for prompt in prompts {
        let tokens = lab.model.encode(prompt, false).unwrap();
        let parsed = edits.iter().map(|e| e.parse::<Edit>().unwrap()).collect();
        let schedule = Schedule::always(parsed);
        let mut writer = Writer::begin(lab, tokens.clone(), schedule, Sampling::default()).unwrap();
        for _ in 0..count {
            let step = writer.step(lab, &[]).unwrap();
            if lab.model.is_end(step.choice.id) {
                break;
            }
        }
        let whole = writer.run.tokens.clone();
        let written = &whole[tokens.len()..];
        let said = lab.model.tokenizer().unwrap().text(written);
        let hit = ANSWERS
            .split('|')
            .any(|a| said.trim_start().starts_with(a.trim_start()));
        sums[0] += f64::from(u8::from(hit));
        let base = log_probabilities(lab, &Run::plain(tokens.clone()));
        let moved = log_probabilities(lab, &edited(tokens.clone(), &edits));
        let pairs = base.last().unwrap().iter().zip(moved.last().unwrap());
        sums[1] += pairs.map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        let plain = log_probabilities(lab, &Run::plain(whole.clone()));
        let nats = written.iter().enumerate();
        let nats = nats.map(|(i, t)| -plain[tokens.len() + i - 1][*t as usize]);
        sums[2] += nats.sum::<f64>() / written.len() as f64;
    }
    sums.map(|s| s / prompts.len() as f64)
}

#[test]
fn every_number_is_that_of_texts_written_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut lab = demo();
    let (prompts, arguments) = stories(&folder, 6);
    let figure = sweep(&mut lab, &arguments.with("strengths", "0,0.5"));
    let grid = grid(&figure);
    assert_eq!(grid.columns.len(), 2);
    // Cells take turns of the control's draws: that of a cell is named by its layer and its strength.
    for draw in 0..8 {
        let mood = lab.directions["mood"].clone();
        let null = Direction {
            rows: vec![(
                mood.rows[0].0,
                random_like(&mood.rows[0].1, draw_seed(1, draw)),
            )],
            origin: mood.origin,
        };
        lab.directions.insert(format!("null{draw}"), null);
    }
    let near = |found: f32, expected: f64, what: &str| {
        assert!(
            (f64::from(found) - expected).abs() < 2e-3,
            "{what}: {found} and {expected}"
        );
    };
    let unedited = brute(&mut lab, &prompts, None, 6);
    for layer in [1, 4] {
        let places = [
            (0, "", unedited),
            (0, ", random", unedited),
            (
                1,
                "",
                brute(
                    &mut lab,
                    &prompts,
                    Some(&format!("add:mood@resid_pre.{layer}*0.5")),
                    6,
                ),
            ),
            (
                1,
                ", random",
                brute(
                    &mut lab,
                    &prompts,
                    Some(&format!("add:null{}@resid_pre.{layer}*0.5", 1 + layer)),
                    6,
                ),
            ),
        ];
        for (column, which, expected) in places {
            let cell = &grid.cells[column][layer];
            for (name, expected) in ["success", "kl", "fluency"].iter().zip(expected) {
                let name = format!("{name}{which}");
                near(
                    number(cell, &name),
                    expected,
                    &format!("layer {layer} column {column} {name}"),
                );
            }
        }
    }
}

#[test]
fn a_sweep_over_prompts_finds_the_mood_and_its_control_finds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut lab = demo();
    let (_, arguments) = stories(&folder, 32);
    let arguments = arguments.with("strengths", "-0.5,0,0.5");
    let figure = sweep(&mut lab, &arguments);
    let cells = &grid(&figure).cells;
    let baseline = cells[1][0].value;
    assert!(
        cells[1].iter().all(|c| c
            == &Cell {
                anchor: c.anchor,
                ..cells[1][0].clone()
            }),
        "strength 0 is one model"
    );
    assert_eq!(
        (
            number(&cells[1][3], "kl"),
            number(&cells[1][3], "success, random")
        ),
        (0.0, baseline)
    );
    let best = &cells[2][4];
    assert!(best.value >= 0.9 && cells[0][4].value <= 0.05, "{best:?}");
    assert_eq!(
        (best.value, best.label.as_str()),
        (number(best, "success"), "␣sunny")
    );
    assert!((0.2..0.6).contains(&baseline), "{baseline}");
    // The note names a maximum that was chosen on one half of the prompts and is judged on the other, beside the one of the control's
    // grid that was chosen alike; the title has both.
    let note = &figure.notes[0];
    assert!(
        note.starts_with("selected maximum: strength 0.5 at layer"),
        "{note}"
    );
    let said = "the best of 24 cells, chosen on 16 prompts and judged on the other 16";
    assert!(note.contains(said), "{note}");
    let control =
        "selected maximum of the control, chosen alike from as many cells of 8 random directions";
    assert!(note.contains(control), "{note}");
    let numbers: Vec<f32> = figure
        .title
        .split(" · ")
        .last()
        .unwrap()
        .split(", control's ")
        .filter_map(|part| {
            let part = part.trim_start_matches("selected maximum ");
            part.split(',').next()?.parse().ok()
        })
        .collect();
    let most = |name: &str| {
        let cells = cells.iter().flatten().map(|c| number(c, name));
        cells.fold(0.0, f32::max)
    };
    assert!(numbers[0] >= 0.85 && numbers[0] <= 1.0, "{numbers:?}");
    // The control's best is that of its grid, chosen on one half: near its largest mean, and at least the unedited share.
    let largest = most("success, random");
    assert!((numbers[1] - largest).abs() < 0.3, "{numbers:?} {largest}");
    let less = figure.title.contains("no more than its control");
    assert_eq!(less, numbers[1] >= numbers[0], "{}", figure.title);
}

/// The same numbers under other colours, and the null in columns of its own or alone.
#[test]
fn colours_and_controls_are_a_matter_of_choice() {
    let folder = tempfile::tempdir().unwrap();
    let mut lab = demo();
    let (_, arguments) = stories(&folder, 4);
    let arguments = arguments.with("strengths", "0.5,1");
    let figure = sweep(&mut lab, &arguments);
    let cell = &grid(&figure).cells[1][2];
    assert_eq!(cell.value, number(cell, "success"));
    for measure in ["kl", "fluency"] {
        let figure = sweep(&mut lab, &arguments.clone().with("measure", measure));
        let other = &grid(&figure).cells[1][2];
        assert_eq!(other.value, number(other, measure));
        assert_eq!(other.value, number(cell, measure));
    }
    let beside = sweep(&mut lab, &arguments.clone().with("control", "columns"));
    let titles: Vec<&str> = grid(&beside)
        .columns
        .iter()
        .map(|c| c.label.as_str())
        .collect();
    assert_eq!(titles, ["0.5", "0.5 random", "1", "1 random"]);
    for layer in 0..8 {
        let cells = [
            &grid(&beside).cells[2][layer],
            &grid(&beside).cells[3][layer],
        ];
        assert_eq!(cells[1].value, number(cells[0], "success, random"));
        assert_eq!(cells[0].value, number(cells[0], "success"));
    }
    let alone = sweep(&mut lab, &arguments.clone().with("control", "random"));
    assert_eq!(grid(&alone).cells[1], grid(&beside).cells[3]);
    let without = sweep(&mut lab, &arguments.with("control", "no"));
    let names = grid(&without).cells[1][2].more.iter().map(|m| m.0.as_str());
    assert_eq!(
        names.collect::<Vec<_>>(),
        ["success", "success, from", "success, to", "kl", "fluency"]
    );
}

/// Another direction beside the first, at equal norm: what is the same but for its length has the same numbers; one that is not, others.
#[test]
fn another_direction_stands_beside_at_equal_norm() {
    let folder = tempfile::tempdir().unwrap();
    let mut lab = demo();
    let (_, arguments) = stories(&folder, 4);
    let mut longer = lab.directions["mood"].clone();
    for (_, vector) in &mut longer.rows {
        vector.iter_mut().for_each(|x| *x *= 3.0);
    }
    lab.directions.insert("longer".into(), longer);
    let arguments = arguments
        .with("strengths", "0.5")
        .with("control", "columns");
    let beside = |lab: &mut Lab, name: &str| {
        let figure = sweep(lab, &arguments.clone().with("against", name));
        let own = grid(&figure).clone();
        assert_eq!(own.columns[1].label, format!("0.5 {name}"));
        assert!(
            figure
                .notes
                .iter()
                .any(|n| n.starts_with(&format!("{name}: another direction")))
        );
        own
    };
    let same = beside(&mut lab, "longer");
    let other = beside(&mut lab, "politeness");
    let mut apart = 0f32;
    for layer in 0..8 {
        for name in ["success", "kl", "fluency"] {
            let (own, beside) = (
                number(&same.cells[0][layer], name),
                number(&same.cells[1][layer], name),
            );
            assert!(
                (own - beside).abs() < 1e-4,
                "{layer} {name}: {own} {beside}"
            );
        }
        let kl = number(&other.cells[0][layer], "kl, politeness");
        assert_eq!(kl, number(&other.cells[1][layer], "kl"));
        apart = apart.max((kl - number(&other.cells[0][layer], "kl")).abs());
    }
    assert!(apart > 1e-3, "{apart}");
}

/// A cell that breaks the text is not called the best, however often it succeeds: a word said over and over does succeed.
#[test]
fn the_best_cell_keeps_its_fluency() {
    let folder = tempfile::tempdir().unwrap();
    let mut lab = demo();
    let (_, arguments) = stories(&folder, 8);
    let sunny = lab
        .model
        .tokenizer()
        .unwrap()
        .encode_literal(" sunny")
        .unwrap()[0];
    let word = lab.model.transformer.logit_direction(sunny).unwrap();
    let direction = Direction {
        rows: vec![(Site::ResidPre.at(7), word.to_vec1().unwrap())],
        origin: lab.directions["mood"].origin.clone(),
    };
    lab.directions.insert("word".into(), direction);
    let arguments = arguments
        .with("direction", "word")
        .with("strengths", "0.1,200")
        .with("control", "no");
    let strict = sweep(&mut lab, &arguments.clone().with("within", "0.3"));
    let lenient = sweep(&mut lab, &arguments.with("within", "100"));
    let cells = &grid(&strict).cells;
    let (whole, broken) = (&cells[0][7], &cells[1][7]);
    assert!(broken.value > whole.value, "{broken:?} {whole:?}");
    assert!(
        number(broken, "fluency") > number(whole, "fluency") + 0.3,
        "{broken:?} {whole:?}"
    );
    assert!(
        strict.notes[0].starts_with("selected maximum: strength 0.1 "),
        "{}",
        strict.notes[0]
    );
    // The title does not say the opposite of the grid: what does more and is no candidate stands in it.
    let said = format!("others reach {:.3})", broken.value);
    assert!(
        strict.title.contains("among fluent cells (") && strict.title.contains(&said),
        "{}",
        strict.title
    );
    assert!(strict.notes[0].contains("cells are no candidates"));
    assert!(!lenient.title.contains("others reach"), "{}", lenient.title);
    assert!(
        lenient.notes[0].starts_with("selected maximum: strength 200 "),
        "{}",
        lenient.notes[0]
    );
}

#[test]
fn what_a_sweep_lacks_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let mut lab = demo();
    let (_, listed) = stories(&folder, 2);
    let text = Run::plain(lab.model.encode("The capital of France is", false).unwrap());
    let mut refused = |run: &Run, arguments: &Arguments| {
        let found = instrument("sweep")
            .unwrap()
            .observe(run, arguments, &mut lab);
        found.unwrap_err().to_string()
    };
    let success = Arguments::default().with("measure", "success");
    assert!(refused(&text, &success).contains("prompts=FILE"));
    assert!(refused(&Run::default(), &Arguments::default()).contains("prompt is empty"));
    assert!(
        refused(&Run::default(), &listed.clone().with("answers", ""))
            .contains("count as a success")
    );
    assert!(refused(&Run::default(), &listed.clone().with("within", "-1")).contains("0 or more"));
    assert!(
        refused(&Run::default(), &listed.with("prompts", "nowhere.txt")).contains("nowhere.txt")
    );
}

/// Without a prompt on the command line, and refused with two.
#[test]
fn a_list_takes_the_place_of_a_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let (_, arguments) = stories(&folder, 2);
    let file = arguments.given["prompts"].as_str();
    let call = |more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lmscope"));
        command
            .args(["sweep", "demo", "--strengths", "0.5", "--tokens", "2"])
            .args(more);
        let out = command.output().unwrap();
        let words =
            String::from_utf8(out.stdout).unwrap() + &String::from_utf8(out.stderr).unwrap();
        (out.status.code(), words)
    };
    let (code, words) = call(&[
        "--direction",
        "mood",
        "--prompts",
        file,
        "--answers",
        ANSWERS,
    ]);
    assert_eq!(code, Some(0), "{words}");
    assert!(
        words.contains("success") && words.contains("prompts="),
        "{words}"
    );
    let (code, words) = call(&["--prompts", file, "-p", "x"]);
    assert_eq!(code, Some(2), "{words}");
    assert!(words.contains("not both"), "{words}");
    let (code, words) = call(&[]);
    assert_eq!(code, Some(2), "{words}");
    assert!(words.contains("prompt is empty"), "{words}");
}

/// A sweep that is stopped shows what it has, with holes; asked again it measures the rest, and is the whole one bit for bit.
#[test]
fn a_stopped_sweep_shows_what_it_has_and_goes_on() {
    let mut lab = demo();
    let tokens = lab.model.encode("The capital of France is", false);
    let run = Run::plain(tokens.unwrap());
    let arguments = Arguments::default()
        .with("direction", "mood")
        .with("strengths", "-1,1");
    let of = instrument("sweep").unwrap();
    let whole = of.observe(&run, &arguments, &mut demo()).unwrap();

    let cancel = lab.cancel.clone();
    lab.progress = WorkProgress::reporting_to(move |done| {
        if done > 0.3 {
            cancel.store(true, Ordering::Relaxed);
        }
    });
    let part = of.observe(&run, &arguments, &mut lab).unwrap();
    lab.progress = WorkProgress::default();
    assert!(std::mem::take(&mut lab.unfinished.stopped));
    let cells = grid(&part).cells.iter().flatten();
    let known = cells.filter(|c| c.value.is_finite()).count();
    assert_eq!(known, 8, "of 16 cells, those of the first strength");
    assert!(part.notes[0].contains("8 of 16"), "{:?}", part.notes);

    let mut asked = Vec::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let shares = seen.clone();
    lab.progress = WorkProgress::reporting_to(move |done| shares.lock().unwrap().push(done));
    let rest = of.observe(&run, &arguments, &mut lab).unwrap();
    lab.progress = WorkProgress::default();
    asked.append(&mut seen.lock().unwrap());
    assert_eq!(asked, [0.5], "what was measured is not measured again");
    assert_eq!(rest.body, whole.body);
    assert_eq!(rest.notes, whole.notes);
}

/// On the command line: Ctrl-C prints what there is and exits with 130, and the same command goes on from there.
#[test]
fn ctrl_c_keeps_what_is_done() {
    let state = tempfile::tempdir().unwrap();
    let strengths: Vec<String> = (1..60).map(|i| format!("{}", i as f32 / 40.0)).collect();
    let ids = vec!["5"; 240].join(",");
    let wanted = state.path().join("sweep.json");
    // How many trials were done when it was stopped after so many seconds; none if it was stopped before the sweep began.
    let stopped_after = |seconds: u64| -> Option<usize> {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lmscope"));
        command
            .env("XDG_STATE_HOME", state.path())
            .env("HOME", state.path())
            .args(["sweep", "demo", "--ids", &ids])
            .args(["--strengths", &strengths.join(","), "-o"])
            .arg(&wanted)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let child = command.spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_secs(seconds));
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let out = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(130), "{said}");
        // What is not complete does not take the name that the same command will want.
        assert!(!wanted.exists(), "{said}");
        let part = state.path().join("sweep.json.unfinished");
        let shown = std::fs::read_to_string(part).unwrap_or_default();
        assert!(shown.is_empty() || shown.contains("STOPPED BEFORE ITS END"));
        let (_, rest) = shown.split_once("stopped after ")?;
        assert!(
            said.contains("the same command continues from there"),
            "{said}"
        );
        rest.split(' ').next()?.parse().ok()
    };
    let (seconds, first) = [2, 5, 15]
        .into_iter()
        .find_map(|seconds| Some((seconds, stopped_after(seconds)?)))
        .expect("a sweep that begins within a quarter of a minute");
    let second = stopped_after(seconds + 1).unwrap();
    assert!(first > 0 && second > first, "{first}, then {second}");
}

/// A direction that was not measured everywhere is swept where it was; the other layers are empty, and a note names them.
#[test]
fn layers_without_a_vector_are_left_empty() {
    let mut lab = demo();
    let mut direction = lab.direction("mood").unwrap();
    let own = direction.rows[0].1.clone();
    direction.rows = vec![
        (Site::ResidPre.at(2), own.clone()),
        (Site::ResidPre.at(3), own),
    ];
    lab.directions.insert("partial".into(), direction);
    let tokens = lab.model.encode("The capital of France is", false);
    let run = Run::plain(tokens.unwrap());
    let arguments = Arguments::default()
        .with("direction", "partial")
        .with("strengths", "0,1");
    let of = instrument("sweep").unwrap();
    let figure = of.observe(&run, &arguments, &mut lab).unwrap();
    let finite = |column: &[Cell]| -> Vec<usize> {
        let cells = column.iter().enumerate();
        cells
            .filter(|(_, c)| c.value.is_finite())
            .map(|(l, _)| l)
            .collect()
    };
    let cells = &grid(&figure).cells;
    assert_eq!(
        finite(&cells[0]).len(),
        lab.model.card.layers,
        "strength 0 is the run"
    );
    assert_eq!(finite(&cells[1]), [2, 3]);
    let note = "the direction has no vector for resid_pre.0, resid_pre.1, resid_pre.4";
    assert!(
        figure.notes.iter().any(|n| n.starts_with(note)),
        "{:?}",
        figure.notes
    );
    let nowhere = arguments.with("site", "attn_out");
    let refused = of
        .observe(&run, &nowhere, &mut lab)
        .unwrap_err()
        .to_string();
    assert!(refused.contains("no vector for this address"), "{refused}");
}

/// Edits that are on act on the prompts of a list too: on the command line, and so in every cell.
#[test]
fn edits_that_are_on_act_on_the_prompts_of_a_list() {
    let folder = tempfile::tempdir().unwrap();
    let mut lab = demo();
    let (prompts, _) = stories(&folder, 3);
    let line = "add:refusal@resid_pre.3*3";
    let schedule = Schedule::always(vec![line.parse().unwrap()]);
    let answer = first_tokens("answers", " sunny", &lab.model).unwrap();
    let mean = |lab: &mut Lab, schedule: &Schedule| {
        let each = prompts.iter().map(|prompt| {
            let tokens = lab.model.encode(prompt, false).unwrap();
            let run = Run::plain(tokens).under(schedule);
            lab.last(&run, Output::tokens(&answer)).unwrap().share()
        });
        each.sum::<f64>() / prompts.len() as f64
    };
    let (edited, plain) = (mean(&mut lab, &schedule), mean(&mut lab, &Schedule::none()));
    assert!((edited - plain).abs() > 1e-4, "{edited} and {plain}");
    let of = |edit: &[&str]| -> f64 {
        let file = folder.path().join("stories.txt");
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_lmscope"))
            .args([
                "sweep",
                "demo",
                "--direction",
                "mood",
                "--answers",
                " sunny",
            ])
            .args([
                "--measure",
                "answers",
                "--strengths",
                "0",
                "--format",
                "json",
            ])
            .arg("--prompts")
            .arg(file)
            .args(edit)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        let figure: Figure = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(figure.provenance.edits.len(), edit.len() / 2);
        f64::from(grid(&figure).cells[0][0].value)
    };
    assert!((of(&[]) - plain).abs() < 1e-4);
    assert!((of(&["--edit", line]) - edited).abs() < 1e-4);
}
