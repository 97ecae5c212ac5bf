//! Edits mean on every prompt what they mean there: positions by text, means over the prompt and conditions, wherever
//! several prompts are read under one schedule, or the beginning of one.

use lmscope::edit::Edit;
use lmscope::edit::direction::{Direction, norm};
use lmscope::edit::schedule::Schedule;
use lmscope::figure::{Body, Figure};
use lmscope::instruments::knowledge::fact_neurons::Search;
use lmscope::instruments::knowledge::facts::Fact;
use lmscope::instruments::knowledge::value_edit;
use lmscope::instruments::knowledge::value_edit::{NeuronChange, NeuronScore, ValueEditPlan};
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::capture::{After, Output};
use lmscope::lab::pass::{Knockout, Pass, PassRow, Patch};
use lmscope::lab::row_programs::RowPrograms;
use lmscope::lab::run::Run;
use lmscope::lab::sample::{Sampling, kl, log_softmax};
use lmscope::lab::tap::{RecordedPositions, RunTap};
use lmscope::lab::writer::Writer;
use lmscope::model::Model;
use lmscope::model::network::families::FAMILIES;
use lmscope::model::network::site::Site;
use lmscope::model::network::tap::PassSpan;

use super::demo::demo;
use super::tools::{read_again, values};

/// Three prompts of six tokens: ` France` is the fifth of the first and the third of the second.
const PROMPTS: [&str; 2] = ["The capital of France is", "In France the capital is"];

/// Edits of every kind that several prompts of a length may meet differently, and some that they meet alike.
const EDITS: &[&str] = &[
    "add:refusal@resid_pre.3:token:\" France\"*2",
    "zero@attn_out.2:text:\" France\"",
    "zero@mlp_out.*:text:\"The capital\"",
    "mean:0,1,2@z.2:last",
    "mean@mlp_out.3",
    "cut:=text:\" France\"@attn_scores.*:last",
    "cut:=token:\" France\"@attn_scores.3",
    "add:refusal@resid_pre.3*3 when p(\" Paris\")>0.5",
    "add:refusal@resid_pre.5*3 when refusal@resid_pre.3>-0.5",
    "add:refusal@resid_pre.5*3 once refusal@resid_pre.3>0",
    "add:refusal@resid_pre.3:last*2",
    "add:refusal@resid_pre.3:-2*2",
    "add:refusal@resid_pre.3:1..3*2",
    "zero:1,5,9@mlp_act.4:2",
    "resample:1=The king of Japan is@z.2",
];

fn under(tokens: &[u32], schedule: &Schedule) -> Run {
    Run {
        schedule: schedule.clone(),
        ..Run::plain(tokens.to_vec())
    }
}

fn schedule(lines: &[&str]) -> Schedule {
    Schedule::always(lines.iter().map(|l| l.parse().unwrap()).collect())
}

fn encoded(lab: &Lab, prompts: &[&str]) -> Vec<Vec<u32>> {
    let encode = |p: &&str| lab.model.encode(p, false).unwrap();
    prompts.iter().map(encode).collect()
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    let far = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    far.fold(0.0, f32::max)
}

#[test]
fn prompts_of_one_length_meet_their_own_edits() {
    let mut lab = demo();
    let prompts = encoded(&lab, &PROMPTS);
    assert_eq!(prompts[0].len(), prompts[1].len());
    for line in EDITS {
        // Where a prompt lacks the text, each says so.
        let count = if line.contains("The capital") { 1 } else { 2 };
        let own = prompts[..count].to_vec();
        let schedule = schedule(&[line]);
        let whole = Output::whole(After::Last(1));
        let rows = |lab: &mut Lab, prompts: &[Vec<u32>]| {
            let said = lab.last_of(prompts, &schedule, whole.clone()).unwrap();
            said.into_iter().map(|said| said.logits).collect::<Vec<_>>()
        };
        let together = rows(&mut lab, &own);
        for (tokens, row) in own.iter().zip(&together) {
            let alone = lab.last_logits(&under(tokens, &schedule)).unwrap();
            assert!(apart(&alone, row) < 1e-3, "{line}: {}", apart(&alone, row));
        }
        let backwards: Vec<Vec<u32>> = own.iter().rev().cloned().collect();
        let mut turned = rows(&mut lab, &backwards);
        turned.reverse();
        for (a, b) in together.iter().zip(&turned) {
            assert!(apart(a, b) < 1e-3, "{line}: the order of prompts decides");
        }
    }
}

fn title(figure: &Figure) -> String {
    match &figure.body {
        Body::Table(table) => table.pages[0].title.clone(),
        _ => String::new(),
    }
}

#[test]
fn fact_measures_every_wording_under_its_own_edits() {
    let mut lab = demo();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wordings.txt");
    std::fs::write(&file, PROMPTS[1]).unwrap();
    let prompts = encoded(&lab, &PROMPTS);
    let answer = lab.model.encode(" Paris", false).unwrap()[1] as usize;
    for line in EDITS.iter().filter(|l| !l.contains("The capital")) {
        let schedule = schedule(&[line]);
        let asked = Arguments::default()
            .with("answer", " Paris")
            .with("prompts", file.to_str().unwrap());
        let fact = instrument("fact").unwrap();
        let figure = fact.observe(&under(&prompts[0], &schedule), &asked, &mut lab);
        let title = title(&figure.unwrap());
        let mut mean = 0.0;
        for tokens in &prompts {
            let mut row = lab.last_logits(&under(tokens, &schedule)).unwrap();
            log_softmax(&mut row);
            mean += row[answer].exp() / 2.0;
        }
        let expected = format!("· {mean:.3}, ablated");
        assert!(title.contains(&expected), "{line}: {title}: {expected}");
    }
}

#[test]
fn edit_value_measures_every_prompt_under_its_own_edits() {
    let mut lab = demo();
    let fact = Fact {
        relation: "capital".into(),
        prompts: vec![PROMPTS[0].into()],
        answer: " Paris".into(),
        new: Some(" Tokyo".into()),
    };
    let plan = ValueEditPlan {
        search: Search::new(lab.model.card.layers),
        score: NeuronScore::Answer,
        shared: 1.0,
        facts: 1,
        turn: NeuronChange::Rewrite(0.5),
        seed: 1,
    };
    let texts = encoded(&lab, &PROMPTS[1..]);
    for line in [
        "add:refusal@resid_pre.6:token:\" France\"*2",
        "mean:0@z.2",
        "add:refusal@resid_pre.5*0.5 when refusal@resid_pre.3>-0.5",
    ] {
        let schedule = schedule(&[line]);
        let report = value_edit::run(
            &mut lab,
            std::slice::from_ref(&fact),
            &texts,
            &schedule,
            plan,
        );
        let report = report.unwrap();
        let case = &report.cases[0];
        let edited = case.edits.iter().fold(schedule.clone(), |s, e| s.and(e));
        let mut rows = [&schedule, &edited].map(|schedule| {
            let mut row = lab.last_logits(&under(&texts[0], schedule)).unwrap();
            log_softmax(&mut row);
            row
        });
        let after = std::mem::take(&mut rows[1]);
        let expected = kl(&rows[0], &after);
        let (_, found) = case.own.texts.unwrap();
        assert!(
            (found - expected).abs() < 1e-3 * expected.max(0.1),
            "{line}: {found} {expected}"
        );
    }
}

#[test]
fn edits_prepared_for_one_prompt_do_not_meet_another() {
    let mut lab = demo();
    let prompts = encoded(&lab, &PROMPTS);
    for line in EDITS.iter().filter(|l| !l.contains("The capital")) {
        let schedule = schedule(&[line]);
        let mut program = lab.compile(&under(&prompts[0], &schedule)).unwrap();
        let mut read = |tokens: &[u32]| {
            let mut tap = RunTap::new(
                RowPrograms::all(&mut program),
                &[],
                &[],
                RecordedPositions::All,
                lab.guard(),
            );
            let ids = lab.model.tokens(tokens).unwrap();
            let span = PassSpan::prompt(tokens.len());
            lab.model.transformer.trunk(&ids, span, None, &mut tap)
        };
        read(&prompts[0]).unwrap();
        let edit: Edit = line.parse().unwrap();
        let other = read(&prompts[1]);
        assert_eq!(other.is_err(), edit.reads_prompt(), "{line}");
        if let Err(error) = other {
            assert!(error.to_string().contains("met another"), "{error}");
        }
    }
}

#[test]
fn the_beginning_of_a_run_is_what_it_is_in_the_whole() {
    let mut lab = demo();
    let tokens = lab.model.encode(
        "The capital of France is Paris. The capital of Japan is",
        false,
    );
    let tokens = tokens.unwrap();
    let at = Site::ResidPost.at(6);
    for line in [
        "add:refusal@resid_pre.3:last*2",
        "add:refusal@resid_pre.3:-9*2",
        "add:refusal@resid_pre.3:token:\" capital\"*2",
        "zero@mlp_out.2:text:\" of France\"",
        "mean@mlp_out.3",
        "add:refusal@resid_pre.3:generated*2",
        "add:refusal@resid_pre.3/prefill*2",
        "add:refusal@resid_pre.4*3 once p(\" Paris\")>0.5",
    ] {
        for prompt in [tokens.len(), 4] {
            let mut run = under(&tokens, &schedule(&[line]));
            run.prompt = prompt;
            if prompt == 4 && (line.contains("France") || line.contains("-9")) {
                continue;
            }
            let whole = lab.record(&run, &[at]).unwrap();
            let whole = values(whole.get(at).unwrap());
            for length in 1..tokens.len() {
                let part = run.clone().until(length);
                assert_eq!(part.clone().until(length), part);
                let found = lab.record(&part, &[at]).unwrap();
                let found = values(found.get(at).unwrap());
                let far = apart(&found, &whole[..found.len()]);
                assert!(far < 1e-3, "{line}, {length} of {prompt}: {far}");
            }
        }
    }
}

#[test]
fn a_patched_row_meets_its_own_condition() {
    let mut lab = demo();
    let tokens = encoded(&lab, &PROMPTS).remove(0);
    let refusal = lab.directions["refusal"].clone();
    let vector = refusal.rows[0].1.clone();
    let size = 60.0 / norm(&vector);
    let value: Vec<f32> = vector.iter().map(|v| v * size).collect();
    let value = candle_core::Tensor::new(value, &candle_core::Device::Cpu).unwrap();
    let patch = Patch::new(Site::ResidPre.at(1), 2, value);
    // A row that differs in nothing, read as the others are.
    let whole = PassRow {
        knockout: Some(Knockout {
            layers: 0..1,
            heads: Vec::new(),
            sources: Vec::new(),
            targets: vec![2],
            control: None,
        }),
        ..PassRow::default()
    };
    let rows = |lab: &mut Lab, run: &Run, rows: Vec<PassRow>| {
        let pass = Pass {
            rows,
            ..Pass::after(run.clone(), Output::whole(After::Last(1)))
        };
        let read = lab.run(&pass).unwrap().into_iter();
        read.map(|row| row.logits().to_vec()).collect::<Vec<_>>()
    };
    let patched = PassRow::patched(vec![patch.clone()]);
    for word in ["once", "when"] {
        let line = format!("add:refusal@resid_pre.5*5 {word} refusal@resid_pre.2>40");
        let run = under(&tokens, &schedule(&[&line]));
        let plain = lab.last_logits(&run.unedited()).unwrap();
        let last = tokens.len() - 1;
        let both = rows(&mut lab, &run, vec![patched.clone(), whole.clone()]);
        assert!(
            apart(&both[1], &plain) < 1e-3,
            "{word}: the other row's condition"
        );
        let alone = read_again(&mut lab, &run, last, std::slice::from_ref(&patch));
        assert!(apart(&both[0], &alone) < 1e-3, "{word}");
        let unedited = run.unedited();
        let unedited = read_again(&mut lab, &unedited, last, std::slice::from_ref(&patch));
        assert!(apart(&alone, &unedited) > 1e-2, "position 2 holds it");
        // Rows that differ at the last token alone: what held in the run itself does not hold in each.
        let line = format!("add:refusal@resid_pre.5*5 {word} refusal@resid_pre.2>-1000");
        let run = under(&tokens, &schedule(&[&line]));
        let far: Vec<f32> = vector.iter().map(|v| -1e3 * size * v).collect();
        let far = candle_core::Tensor::new(far, &candle_core::Device::Cpu).unwrap();
        let far = Patch::new(Site::ResidPre.at(1), last, far);
        let found = rows(&mut lab, &run, vec![PassRow::patched(vec![far.clone()])]);
        let expected = read_again(&mut lab, &run, last, &[far]);
        assert!(apart(&found[0], &expected) < 1e-3, "{word}");
    }
}

#[test]
fn what_a_condition_asks_of_the_unedited_model_is_asked_of_what_is_written() {
    let mut lab = demo();
    let tokens = encoded(&lab, &PROMPTS).remove(0);
    for line in [
        "zero@mlp_out.*:generated when p(\".\")>0.5",
        "add:refusal@resid_pre.3:generated*6 once p(\".\")>0.5",
    ] {
        let edits = schedule(&[line]);
        let prompts = std::slice::from_ref(&tokens);
        let found = lab.run(&Pass {
            tail: 6,
            ..Pass::prompts(prompts, &edits, Output::top(1))
        });
        let found = found.unwrap();
        let greedy = Sampling {
            temperature: 0.0,
            ..Sampling::default()
        };
        let mut text = |schedule: &Schedule| {
            let mut writer =
                Writer::begin(&mut lab, tokens.clone(), schedule.clone(), greedy).unwrap();
            for _ in 0..6 {
                writer.step(&mut lab, &[]).unwrap();
            }
            writer.run.tokens[tokens.len()..].to_vec()
        };
        let own = text(&edits);
        let count = found[0].tail.len();
        assert_eq!(found[0].tail, own[..count], "{line}");
        assert_ne!(own, text(&Schedule::none()), "{line} does something");
    }
}

#[test]
fn a_name_that_means_something_else_is_recorded_anew() {
    let mut lab = demo();
    let tokens = encoded(&lab, &PROMPTS).remove(0);
    let run = under(&tokens, &schedule(&["add:mine@resid_pre.3*2"]));
    let at = Site::ResidPost.at(5);
    let refusal = lab.directions["refusal"].clone();
    let turned = Direction {
        rows: refusal
            .rows
            .iter()
            .map(|(at, v)| (*at, v.iter().map(|x| -x).collect()))
            .collect(),
        origin: refusal.origin.clone(),
    };
    let mut rows = Vec::new();
    for direction in [refusal, turned] {
        lab.directions.insert("mine".into(), direction);
        let held = lab.record(&run, &[at]).unwrap();
        rows.push(values(held.get(at).unwrap()));
    }
    assert!(apart(&rows[0], &rows[1]) > 0.1);
}

#[test]
fn an_unrelated_text_without_a_place_for_an_edit_is_no_control() {
    let mut lab = demo();
    let tokens = encoded(&lab, &PROMPTS).remove(0);
    for (line, placed) in [
        ("add:refusal@resid_pre.3*2", true),
        ("add:refusal@resid_pre.3:last*2", true),
        ("add:refusal@resid_pre.3:generated*2", true),
        ("add:refusal@resid_pre.3/decode*2", true),
        ("add:refusal@resid_pre.3:40..44*2", false),
        ("add:refusal@resid_pre.3:token:\" France\"*2", false),
    ] {
        let mut run = under(&tokens, &schedule(&[line]));
        run.prompt = if line.contains("last") { 6 } else { 5 };
        if line.contains("40") {
            run.tokens = run.tokens.repeat(8);
            run.prompt = run.tokens.len();
        }
        let receipts = lab.receipts(&run).unwrap();
        assert_eq!(receipts[0].elsewhere.is_some(), placed, "{line}");
        let moved = receipts[0].elsewhere.unwrap_or(1.0);
        assert!(moved > 0.0, "{line} acts there");
    }
}

/// Rows of one pass under edits of their own: each says what a run of its own says, and goes on as it does, patched or not.
#[track_caller]
fn rows_are_runs_of_their_own(lab: &mut Lab, tokens: &[u32], base: &Schedule, edits: &[&str]) {
    let schedules: Vec<Schedule> = edits
        .iter()
        .map(|line| base.and(&line.parse().unwrap()))
        .chain([Schedule::none(), base.clone()])
        .collect();
    let width = lab.model.card.d_model;
    let value = candle_core::Tensor::new(vec![0.5f32; width], &candle_core::Device::Cpu).unwrap();
    let patch = Patch::new(Site::ResidPost.at(0), tokens.len() - 2, value);
    let patched = schedules.iter().map(|schedule| PassRow {
        patches: vec![patch.clone()],
        ..PassRow::edited(schedule.clone())
    });
    let plain = schedules.iter().cloned().map(PassRow::edited);
    let rows: Vec<PassRow> = plain.chain(patched).chain([PassRow::default()]).collect();
    let pass = Pass {
        run: under(tokens, base),
        rows: rows.clone(),
        output: Output::whole(After::Last(1)),
        tail: 3,
        ..Pass::default()
    };
    let together = lab.run(&pass).unwrap();
    assert_eq!(together.len(), rows.len());
    for (i, (row, found)) in rows.iter().zip(&together).enumerate() {
        let run = under(tokens, row.schedule.as_ref().unwrap_or(base));
        assert_eq!(found.run.schedule, run.schedule);
        let alone = Pass {
            run,
            rows: vec![PassRow {
                schedule: None,
                ..row.clone()
            }],
            ..pass.clone()
        };
        let alone = lab.run_one(&alone).unwrap();
        let line = edits
            .get(i % schedules.len())
            .unwrap_or(&"no edit of its own");
        let apart = apart(alone.logits(), found.logits());
        assert!(apart < 1e-3, "row {i}, {line}: {apart}");
        assert_eq!(alone.tail, found.tail, "row {i}, {line}");
        assert!(found.is_finite(), "row {i}, {line}");
    }
}

#[test]
fn rows_under_edits_of_their_own_are_what_runs_of_their_own_are() {
    let mut lab = demo();
    let tokens = encoded(&lab, &PROMPTS[..1]).remove(0);
    let conditional = |line: &&&str| line.contains(" when ") || line.contains(" once ");
    // Those that say nothing of what an earlier value was are read on from what rows share.
    let unconditional = EDITS.iter().filter(|line| !conditional(line));
    let unconditional: Vec<&str> = unconditional.copied().collect();
    for base in [&[][..], &["add:refusal@resid_pre.2:3*0.5"]] {
        let base = schedule(base);
        rows_are_runs_of_their_own(&mut lab, &tokens, &base, &unconditional);
    }
    let asked = |line: &&&str| !line.contains("when p(");
    let all: Vec<&str> = EDITS.iter().filter(asked).copied().collect();
    rows_are_runs_of_their_own(&mut lab, &tokens, &Schedule::none(), &all);
}

#[test]
fn rows_under_edits_of_their_own_serve_every_family() {
    const LINES: &[&str] = &[
        "zero@attn_out.0",
        "scale@mlp_out.1:2*0.5",
        "zero:1@z.1:last",
        "cut:=0@attn_scores.1",
        "scale@final_norm*0.5",
        "scale@resid_post.0:3*2",
        "zero@attn_out.1:0",
    ];
    for family in FAMILIES {
        let mut lab = Lab::new(Model::tiny(family, 3).unwrap());
        let tokens = [1, 5, 9, 2, 7, 3];
        let base = schedule(&["scale@attn_out.1:1*0.5"]);
        rows_are_runs_of_their_own(&mut lab, &tokens, &base, LINES);
        // What enters the first block is changed: rows are read whole.
        rows_are_runs_of_their_own(&mut lab, &tokens, &base, &["scale@embed:2*0.5"]);
    }
}

/// An edit that overflows spoils its own row, and says so; the rows beside it keep their numbers.
#[test]
fn a_row_whose_edit_is_too_strong_is_broken_alone() {
    let mut lab = demo();
    let tokens = encoded(&lab, &PROMPTS[..1]).remove(0);
    let lines = ["add:refusal@resid_pre.3*1e30", "add:refusal@resid_pre.3*2"];
    for own_text in [false, true] {
        let rows = lines.map(|line| PassRow {
            tokens: if own_text { tokens.clone() } else { Vec::new() },
            ..PassRow::edited(schedule(&[line]))
        });
        let pass = Pass {
            rows: rows.into(),
            ..Pass::after(Run::plain(tokens.clone()), Output::whole(After::Last(1)))
        };
        let found = lab.run(&pass).unwrap();
        assert!(!found[0].is_finite() && found[1].is_finite());
        let alone = lab
            .last_logits(&under(&tokens, &schedule(&lines[1..])))
            .unwrap();
        assert!(apart(&alone, found[1].logits()) < 1e-3);
    }
}
