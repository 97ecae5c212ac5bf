//! What keeps edits honest: conditions, groups, receipts at every position, reasons for silence, and the unedited run
//! in the same passes.

use std::sync::atomic::Ordering;

use candle_core::{Device, Tensor};
use lmscope::edit::Edit;
use lmscope::edit::direction::{Direction, DirectionOrigin, norm};
use lmscope::edit::receipt::Receipt;
use lmscope::edit::schedule::Schedule;
use lmscope::edit::unit_set::UnitSet;
use lmscope::error::{Error, Result};
use lmscope::instruments::{Arguments, instrument, observe};
use lmscope::lab::Lab;
use lmscope::lab::capture::{After, Output};
use lmscope::lab::pass::Pass;
use lmscope::lab::run::Run;
use lmscope::lab::sample::{Sampling, kl, log_probs};
use lmscope::lab::writer::{BaselineMode, SavedText, Writer};
use lmscope::model::load::Options;
use lmscope::model::network::blueprint::NormKind;
use lmscope::model::network::linear::Linear;
use lmscope::model::network::mlp::Mlp;
use lmscope::model::network::site::{Address, Site};

use super::tools::{dense_families, edited, every_family, gap, prompt, reach, same_bits, values};

fn demo() -> Lab {
    Lab::open("demo", &Options::default()).unwrap()
}

/// Knows a direction `d` for every address of the stream, and its unit vector.
fn with_direction(lab: &mut Lab) -> Vec<f32> {
    let width = lab.model.card.d_model;
    let vector: Vec<f32> = (0..width)
        .map(|i| ((i * 7919) % 13) as f32 / 6.0 - 1.0)
        .collect();
    let direction = Direction {
        rows: vec![(Site::ResidPre.at(0), vector.clone())],
        origin: DirectionOrigin::default(),
    };
    lab.directions.insert("d".into(), direction);
    let length = norm(&vector);
    vector.iter().map(|v| v / length).collect()
}

fn rows(lab: &mut Lab, run: &Run, at: Address) -> Vec<Vec<f32>> {
    let recording = lab.record(run, &[at]).unwrap();
    let rows = recording.get(at).unwrap().flatten_from(1).unwrap();
    rows.to_vec2().unwrap()
}

fn receipts(lab: &mut Lab, run: &Run) -> Vec<Receipt> {
    lab.record(run, &[Site::Logits.at(0)])
        .unwrap()
        .receipts
        .clone()
}

/// A condition holds exactly where brute force says so, whether the text is read at once or written token by token.
#[test]
fn an_edit_acts_where_its_condition_holds() {
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        let unit = with_direction(&mut lab);
        let probe = Site::ResidPre.at(1);
        let plain = rows(&mut lab, &Run::plain(prompt(12)), probe);
        let along: Vec<f32> = plain
            .iter()
            .map(|row| row.iter().zip(&unit).map(|(x, v)| x * v).sum())
            .collect();
        let mut sorted = along.clone();
        sorted.sort_by(f32::total_cmp);
        let middle = (sorted[5] + sorted[6]) / 2.0;
        for (word, side) in [("when", ">"), ("when", "<"), ("once", ">")] {
            let holds = |p: usize| {
                if side == ">" {
                    along[p] > middle
                } else {
                    along[p] < middle
                }
            };
            let acts = |p: usize| match word {
                "when" => holds(p),
                _ => (0..=p).any(holds),
            };
            let text = format!("add:d@resid_pre.1*2 {word} d@resid_pre.1{side}{middle}");
            let run = edited(prompt(12), &[&text]);
            let moved = rows(&mut lab, &run, probe);
            for p in 0..12 {
                let same = moved[p] == plain[p];
                assert_eq!(same, !acts(p), "{name}: {text} at {p}: {along:?}");
            }
            let found = receipts(&mut lab, &run);
            assert_eq!(
                found[0].fired,
                (0..12).filter(|p| acts(*p)).count(),
                "{name}"
            );
            // Token by token: what is streamed is what one pass says, and the same positions are changed.
            let mut writer = Writer::begin_with_baseline(
                &mut lab,
                prompt(12),
                run.schedule.clone(),
                Sampling {
                    temperature: 1.0,
                    ..Sampling::default()
                },
                BaselineMode::Nothing,
            )
            .unwrap();
            let mut streamed = Vec::new();
            for _ in 0..6 {
                writer.step(&mut lab, &[]).unwrap();
                streamed.push(writer.output().unwrap());
            }
            let whole = rows(&mut lab, &writer.run, Site::Logits.at(0));
            for (i, row) in streamed.iter().enumerate() {
                let apart = row.iter().zip(&whole[12 + i]).map(|(a, b)| (a - b).abs());
                let apart = apart.fold(0.0, f32::max);
                assert!(apart < 1e-4, "{name}: {text} step {i}: {apart}");
            }
            let again = receipts(&mut lab, &writer.run.clone());
            assert_eq!(again[0].fired, writer.receipts()[0].fired, "{name}: {text}");
        }
    }
}

/// A condition on the unedited model's probability: the edit acts at the very position after which the token would have come.
#[test]
fn an_edit_acts_where_the_unedited_model_would_say_a_word() {
    let mut lab = demo();
    let text = "The capital of France is";
    let tokens = lab.model.encode(text, false).unwrap();
    let last = tokens.len() - 1;
    let run = |edit: &str, tokens: &[u32]| edited(tokens.to_vec(), &[edit]);
    let edit = "zero@attn_out.* when p(\" Paris\")>0.5";
    let found = receipts(&mut lab, &run(edit, &tokens));
    assert_eq!(
        found[0].fired, lab.model.card.layers,
        "one position, every layer"
    );
    let plain = rows(&mut lab, &Run::plain(tokens.clone()), Site::ResidPost.at(7));
    let moved = rows(&mut lab, &run(edit, &tokens), Site::ResidPost.at(7));
    for p in 0..tokens.len() {
        assert_eq!(plain[p] == moved[p], p != last, "{p}");
    }
    // While it writes, the same: the unedited run is always one token ahead of the edit.
    let schedule = Schedule::always(vec![edit.parse().unwrap()]);
    for beside in [
        BaselineMode::Nothing,
        BaselineMode::SameText,
        BaselineMode::OwnText,
    ] {
        let mut writer = Writer::begin_with_baseline(
            &mut lab,
            tokens[..3].to_vec(),
            schedule.clone(),
            Sampling::default(),
            beside,
        )
        .unwrap();
        for _ in 0..12 {
            writer.step(&mut lab, &[]).unwrap();
        }
        let whole = receipts(&mut lab, &writer.run.clone());
        assert_eq!(whole[0].fired, writer.receipts()[0].fired, "{beside:?}");
    }
    // A word that never comes is said so, with how near it came.
    let found = receipts(
        &mut lab,
        &run("zero@attn_out.0 when p(\" Rome\")>0.5", &tokens),
    );
    assert!(
        found[0].idle() && found[0].why.contains("never held"),
        "{}",
        found[0].why
    );
}

/// Every way of doing nothing is told, each in its own words.
#[test]
fn no_edit_is_silent() {
    let mut lab = demo();
    let tokens = lab.model.encode("The capital of France is", false).unwrap();
    let set = UnitSet::new(Site::MlpAct, vec![(7, 1)], "");
    lab.sets.insert("late".into(), set);
    for (edit, why) in [
        ("add:mood@resid_pre.4:50..60", "not among"),
        ("add:mood@resid_pre.4:-40", "not among"),
        ("add:mood@resid_pre.4/decode", "phase is decode"),
        ("add:mood@resid_pre.4:generated/prefill", "not among"),
        ("add:mood@resid_pre.4:prompt/decode", "phase is decode"),
        ("add:mood@resid_pre.4*0", "changes nothing"),
        ("scale:3@mlp_act.2*1", "changes nothing"),
        (
            "add:mood@resid_pre.4 when mood@resid_pre.4>1000",
            "never held",
        ),
        ("zero:{late}@mlp_act.0-3", "no units at its layers"),
        ("clamp_along:mood=-1000..1000@resid_pre.4", "already had"),
    ] {
        let found = receipts(&mut lab, &edited(tokens.clone(), &[edit]));
        assert!(found[0].idle(), "{edit}");
        assert!(found[0].why.contains(why), "{edit}: {}", found[0].why);
    }
    // What cannot fit is refused outright.
    let mut foreign = lab.directions["mood"].clone();
    foreign.origin.revision = "another".into();
    lab.directions.insert("foreign".into(), foreign);
    for (edit, why) in [
        ("add:foreign@resid_pre.4", "measured on this model"),
        ("add:mood@resid_pre.99", "8 layers"),
        ("zero:9999@mlp_act.0", "past the end"),
        ("zero:{none}@mlp_act.0", "kept: late"),
        ("zero:{late}@z.7", "units of `mlp_act`"),
        (
            "add:mood@resid_pre.2 when mood@resid_post.2>1",
            "earlier address",
        ),
        (
            "add:mood@resid_pre.2 when nothing@resid_pre.2>1",
            "loaded: ",
        ),
        (
            "mean:1=missing.safetensors@mlp_act.0",
            "missing.safetensors",
        ),
    ] {
        let run = edited(tokens.clone(), &[edit]);
        let error = lab
            .record(&run, &[Site::Logits.at(0)])
            .unwrap_err()
            .to_string();
        assert!(error.contains(why), "{edit}: {error}");
    }
    // From now on, before anything was written.
    let mut writer =
        Writer::begin(&mut lab, tokens, Schedule::none(), Sampling::default()).unwrap();
    let edit: Edit = "add:mood@resid_pre.4".parse().unwrap();
    writer.edit_from_now(&mut lab, vec![edit]).unwrap();
    let why = writer.receipts()[0].why.clone();
    assert!(why.contains("from position 6 on"), "{why}");
    writer.step(&mut lab, &[]).unwrap();
    assert!(!writer.receipts()[0].idle());
}

/// A group is its members, at every layer that has some; its order does not matter, nor in how many edits it comes.
#[test]
fn a_group_is_its_members() {
    for mut lab in dense_families() {
        let revision = lab.model.card.revision.clone();
        let set = UnitSet::new(Site::MlpAct, vec![(1, 4), (0, 2), (0, 5)], &revision);
        lab.sets.insert("group".into(), set);
        let logits = |lab: &mut Lab, edits: &[&str]| {
            let run = edited(prompt(9), edits);
            let recording = lab.record(&run, &[Site::Logits.at(0)]).unwrap();
            (
                recording.get(Site::Logits.at(0)).unwrap().clone(),
                recording.receipts.clone(),
            )
        };
        let (group, receipt) = logits(&mut lab, &["zero:{group}@mlp_act.*"]);
        assert_eq!(receipt[0].fired, 2 * 9, "two layers, nine positions");
        let (apart, _) = logits(
            &mut lab,
            &["zero:5@mlp_act.0", "zero:4@mlp_act.1", "zero:2@mlp_act.0"],
        );
        let (list, _) = logits(&mut lab, &["zero:2,5@mlp_act.0", "zero:4@mlp_act.1"]);
        let (plain, _) = logits(&mut lab, &[]);
        assert!(same_bits(&group, &list) && same_bits(&group, &apart));
        assert!(!same_bits(&group, &plain));
    }
}

/// Two equal edits act twice, and each has a receipt of its own.
#[test]
fn equal_edits_have_a_receipt_each() {
    for mut lab in dense_families() {
        let line = "scale:1@mlp_act.0*0.5";
        let twice = edited(prompt(6), &[line, line]);
        let [one, other] = lab.receipts(&twice).unwrap().try_into().unwrap();
        assert!(one.id != other.id && one.edit == other.edit);
        assert_eq!((one.fired, other.fired), (6, 6));
        // Each is measured alone, as if the other was not there.
        let alone = lab.receipts(&edited(prompt(6), &[line])).unwrap();
        assert!(one.kl.is_some());
        assert_eq!((one.kl, other.kl), (alone[0].kl, alone[0].kl));
        // Written on with one of them off, the counts go on where they were.
        let schedule = twice.schedule.clone();
        let mut writer = Writer::begin(&mut lab, prompt(6), schedule, Sampling::default()).unwrap();
        let mut edits = twice.schedule.latest().to_vec();
        edits[0].on = false;
        writer.edit_from_now(&mut lab, edits).unwrap();
        let step = writer.step(&mut lab, &[]).unwrap();
        assert_eq!(step.fired.len(), 1);
        assert_eq!(step.fired[0].edit, other.id);
        let counts: Vec<usize> = writer.receipts().iter().map(|r| r.fired).collect();
        assert_eq!(counts, [6, 7]);
    }
}

/// What the edits did at each position adds up to their receipts.
#[test]
fn receipts_are_the_sum_of_what_happened_at_every_position() {
    for mut lab in dense_families() {
        with_direction(&mut lab);
        let edits = ["add:d@resid_pre.*:2..9*0.5", "zero:1@mlp_act.0:generated"];
        let schedule = edited(vec![], &edits).schedule;
        let mut writer = Writer::begin(&mut lab, prompt(6), schedule, Sampling::default()).unwrap();
        let mut all = writer.fired().to_vec();
        for _ in 0..4 {
            let step = writer.step(&mut lab, &[]).unwrap();
            assert!(
                step.fired
                    .iter()
                    .all(|f| f.position == step.choice.position)
            );
            all.extend(step.fired);
        }
        let layers = lab.model.card.layers;
        for (i, receipt) in writer.receipts().iter().enumerate() {
            let own: Vec<_> = all.iter().filter(|f| f.edit == receipt.id).collect();
            assert_eq!(own.iter().map(|f| f.fired).sum::<usize>(), receipt.fired);
            let weighed: f32 = own.iter().map(|f| f.relative * f.fired as f32).sum();
            let mean = weighed / receipt.fired as f32;
            assert!((mean - receipt.relative).abs() < 1e-5 * mean.max(1.0));
            let positions: Vec<usize> = own.iter().map(|f| f.position).collect();
            let expected: Vec<usize> = if i == 0 {
                (2..9).collect()
            } else {
                (6..10).collect()
            };
            assert_eq!(positions, expected);
            let each = if i == 0 { layers } else { 1 };
            assert!(own.iter().all(|f| f.fired == each));
        }
        // Measured afterwards, an edit's KL is known at every position, and their mean is the receipt's.
        let measured = lab.receipts(&writer.run.clone()).unwrap();
        for receipt in &measured {
            let positions: Vec<usize> = receipt.positions.iter().map(|p| p.0).collect();
            assert_eq!(positions, (0..10).collect::<Vec<_>>());
            let mean = receipt.positions.iter().map(|p| p.1).sum::<f32>() / 10.0;
            assert!((mean - receipt.kl.unwrap()).abs() < 1e-6);
            assert!(
                receipt.positions[..2].iter().all(|p| p.1 == 0.0),
                "no prediction before it"
            );
            assert!(receipt.elsewhere.is_some() && receipt.control.is_some() && receipt.seed == 1);
        }
    }
}

/// The unedited run in the second row is the unedited run: its tokens are those of a writer without edits, the edited
/// tokens are those of a writer without company, and KL is what two separate passes say.
#[test]
fn lockstep_is_two_runs() {
    let sampling = Sampling {
        temperature: 1.0,
        seed: 5,
        ..Sampling::default()
    };
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        with_direction(&mut lab);
        let schedule = edited(vec![], &["add:d@resid_pre.1*1.5"]).schedule;
        let mut text = |schedule: &Schedule, beside, count: usize| {
            let mut writer = Writer::begin_with_baseline(
                &mut lab,
                prompt(7),
                schedule.clone(),
                sampling,
                beside,
            )
            .unwrap();
            let choices: Vec<_> = (0..count)
                .map(|_| writer.step(&mut lab, &[]).unwrap().choice)
                .collect();
            (
                writer.run.tokens.clone(),
                choices,
                writer.diverged(),
                writer.baseline_row().map(<[u32]>::to_vec),
            )
        };
        let (edited_text, ..) = text(&schedule, BaselineMode::Nothing, 10);
        let (plain_text, ..) = text(&Schedule::none(), BaselineMode::Nothing, 10);
        let (own, choices, diverged, companion) = text(&schedule, BaselineMode::OwnText, 10);
        assert_eq!(own, edited_text, "{name}");
        assert_eq!(companion.unwrap(), plain_text, "{name}");
        let first = (7..17).find(|p| edited_text[*p] != plain_text[*p]);
        assert_eq!(diverged, first, "{name}");
        assert_eq!(choices[0].other.unwrap().id, plain_text[7]);
        // Forced: the edited run reads the unedited text, and says what it would have written.
        let (forced, choices, diverged, _) = text(&schedule, BaselineMode::Forced, 10);
        assert_eq!(forced, plain_text, "{name}");
        assert_eq!(choices[0].other.unwrap().id, edited_text[7], "{name}");
        assert!(
            diverged <= first
                && diverged.is_some() == choices.iter().any(|c| c.other.unwrap().id != c.id)
        );
        let run = Run {
            prompt: 7,
            schedule: schedule.clone(),
            ..Run::plain(forced.clone())
        };
        let whole = Output::whole(After::Last(17));
        let plain = Pass::after(run.unedited(), whole.clone());
        let mut rows = |pass: &Pass| {
            let read = lab.run_one(pass).unwrap().output;
            let rows = read.iter().map(|said| log_probs(&said.logits));
            rows.collect::<Vec<_>>()
        };
        let plain = rows(&plain);
        let moved = rows(&Pass::after(run, whole));
        for choice in choices {
            let before = choice.position - 1;
            let expected = kl(&plain[before], &moved[before]);
            let found = choice.kl.unwrap();
            assert!(
                (found - expected).abs() < 1e-4 * expected.max(1.0),
                "{name}: {found} {expected}"
            );
            assert!((choice.logprob - moved[before][choice.id as usize]).abs() < 1e-3);
        }
    }
}

/// A change of the text that is stopped half-way leaves everything as it was: the text goes on as if nobody had tried.
#[test]
fn what_is_stopped_half_way_changes_nothing() {
    type Try = fn(&mut Writer, &mut Lab, &SavedText) -> Result<()>;
    let tries: [(&str, Try); 5] = [
        ("rewind", |w, b, _| w.rewind(b, 6)),
        ("resume", |w, b, held| w.resume(b, held)),
        ("edit_always", |w, b, _| w.edit_always(b, Vec::new())),
        ("set_beside", |w, b, _| {
            w.set_beside(b, BaselineMode::Forced)
        }),
        ("edit_from_now", |w, b, _| {
            let edit = "add:d@resid_pre.1*2 when p(#3)>0".parse()?;
            w.edit_from_now(b, vec![edit]).map(|_| ())
        }),
    ];
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        with_direction(&mut lab);
        let go = |lab: &mut Lab, stopped: Option<Try>| {
            let edits = vec!["add:d@resid_pre.1*1.5".parse().unwrap()];
            let mut writer = Writer::begin_with_baseline(
                lab,
                prompt(5),
                Schedule::always(edits),
                Sampling::default(),
                BaselineMode::OwnText,
            )
            .unwrap();
            let held = writer.hold();
            for _ in 0..3 {
                writer.step(lab, &[]).unwrap();
            }
            if let Some(attempt) = stopped {
                lab.cancel.store(true, Ordering::Relaxed);
                let error = attempt(&mut writer, lab, &held).unwrap_err();
                lab.cancel.store(false, Ordering::Relaxed);
                assert!(matches!(error, Error::Cancelled), "{error}");
            }
            writer.step(lab, &[]).unwrap();
            writer.step(lab, &[]).unwrap();
            let output = writer.output().unwrap();
            let bits: Vec<u32> = output.iter().map(|x| x.to_bits()).collect();
            (
                writer.run.tokens.clone(),
                writer.run.schedule.stages.len(),
                writer.baseline_row().map(<[u32]>::to_vec),
                (writer.baseline_mode(), writer.diverged()),
                (
                    writer.receipts()[0].edit.clone(),
                    writer.receipts()[0].fired,
                ),
                bits,
            )
        };
        let undisturbed = go(&mut lab, None);
        for (what, attempt) in tries {
            assert_eq!(go(&mut lab, Some(attempt)), undisturbed, "{name}: {what}");
        }
    }
}

/// A lockstep that begins in the middle shares what was written, and can be left again; the edited text does not notice.
#[test]
fn a_lockstep_may_begin_and_end_in_the_middle() {
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        with_direction(&mut lab);
        let edit: Edit = "add:d@resid_pre.1*1.5".parse().unwrap();
        let go = |lab: &mut Lab, besides: [BaselineMode; 3]| {
            let mut writer = Writer::begin_with_baseline(
                lab,
                prompt(5),
                Schedule::none(),
                Sampling::default(),
                besides[0],
            )
            .unwrap();
            writer.step(lab, &[]).unwrap();
            writer.edit_from_now(lab, vec![edit.clone()]).unwrap();
            writer.step(lab, &[]).unwrap();
            writer.set_beside(lab, besides[1]).unwrap();
            let middle = writer.run.tokens.clone();
            writer.step(lab, &[]).unwrap();
            let shared = writer
                .baseline_row()
                .map(|c| c[..middle.len()] == middle[..]);
            let counted = writer.receipts()[0].fired;
            writer.set_beside(lab, besides[2]).unwrap();
            writer.step(lab, &[]).unwrap();
            (
                writer.run.tokens.clone(),
                writer.output().unwrap(),
                shared,
                counted,
                writer.receipts()[0].fired,
            )
        };
        let (alone, logits, none, ..) = go(&mut lab, [BaselineMode::Nothing; 3]);
        assert_eq!(none, None);
        let (text, beside, shared, counted, fired) = go(
            &mut lab,
            [
                BaselineMode::SameText,
                BaselineMode::OwnText,
                BaselineMode::Nothing,
            ],
        );
        assert_eq!((text, shared), (alone, Some(true)), "{name}");
        assert_eq!((counted, fired), (2, 3), "{name}: nothing is counted twice");
        let apart = logits
            .iter()
            .zip(&beside)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(apart < 1e-4, "{name}: {apart}");
    }
}

/// A value edit is the model with other weights, and without it the model is what it was, bit for bit.
#[test]
fn a_turned_value_is_an_edited_weight() {
    let at = Site::Logits.at(0);
    let logits = |lab: &mut Lab, edits: &[&str]| {
        let recording = lab.record(&edited(prompt(12), edits), &[at]).unwrap();
        recording.get(at).unwrap().clone()
    };
    for mut lab in dense_families() {
        let name = lab.model.card.name.clone();
        let plain = logits(&mut lab, &[]);
        let edit = "rewrite:3,1=\"#7\">\"#11\"@mlp_act.1*0.5";
        let overlaid = logits(&mut lab, &[edit]);
        assert!(same_bits(&logits(&mut lab, &[]), &plain), "{name}");
        // The same in the weights themselves.
        let transformer = &mut lab.model.transformer;
        let deltas = transformer.turned_values(1, &[3, 1], (7, 11), (0.5, 4.0));
        let deltas = deltas.unwrap().to_vec2::<f32>().unwrap();
        let Mlp::Dense(mlp) = &mut transformer.blocks[1].mlp else {
            panic!("a dense block")
        };
        let mut weight = mlp.down.weight().unwrap().to_vec2::<f32>().unwrap();
        for (unit, delta) in [3, 1].into_iter().zip(deltas) {
            for (row, d) in weight.iter_mut().zip(&delta) {
                row[unit] += d;
            }
        }
        let shape = (weight.len(), weight[0].len());
        let weight = Tensor::from_vec(weight.concat(), shape, &Device::Cpu).unwrap();
        mlp.down = Linear::dense(weight, mlp.down.bias.clone()).unwrap();
        let mut written = Lab::new(lab.model);
        let written = logits(&mut written, &[]);
        let (apart, effect) = (gap(&overlaid, &written), gap(&overlaid, &plain));
        assert!(apart < 2e-5 * reach(&plain).max(1.0), "{name}: {apart}");
        assert!(effect > 1e-3, "{name}: {effect}");
    }
}

/// A turned value raises the new token and lowers the old one, as far as its neuron is on.
#[test]
fn a_turned_value_raises_one_token_and_lowers_another() {
    for lab in dense_families() {
        let transformer = &lab.model.transformer;
        let deltas = transformer
            .turned_values(0, &[2], (7, 11), (1.0, 8.0))
            .unwrap();
        let value = transformer.value_vector(0, 2).unwrap();
        let size = norm(&values(&value));
        // In the stream, as the block adds it: through the gain and the multiplier again.
        let mut added = values(&deltas.get(0).unwrap());
        if let Some(own) = &transformer.blocks[0].norms_mlp.output {
            let gain = values(&own.gain);
            added.iter_mut().zip(gain).for_each(|(d, g)| *d *= g);
        }
        let scale = transformer.blueprint.residual_scale as f32;
        added.iter_mut().for_each(|d| *d *= scale);
        let direction = |token| {
            let raw = transformer.logit_direction(token).unwrap();
            let raised = values(&raw.mul(&transformer.norm.gain).unwrap());
            let layer = transformer.norm.kind == NormKind::Layer;
            let mean = raised.iter().sum::<f32>() / raised.len() as f32;
            let raised: Vec<f32> = raised
                .iter()
                .map(|r| if layer { r - mean } else { *r })
                .collect();
            let length = norm(&raised);
            raised.iter().map(|r| r / length).collect::<Vec<f32>>()
        };
        let (from, to) = (direction(7), direction(11));
        let expected: Vec<f32> = from
            .iter()
            .zip(&to)
            .map(|(f, t)| size * (8.0 * t - f))
            .collect();
        let apart = added
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(
            apart < 1e-4 * size.max(1.0),
            "{}: {apart}",
            lab.model.card.name
        );
    }
}

/// A text of several tokens stands for its first one: the figure names it, and says nothing of a text that is one token.
#[test]
fn a_text_of_several_tokens_is_named_with_the_one_that_counts() {
    let mut lab = demo();
    let run = Run::plain(lab.model.encode("The capital of France is", true).unwrap());
    let mut notes = |token: &str| {
        let arguments = Arguments::default().with("token", token);
        let of = instrument("neurons").unwrap();
        let figure = observe(of, &run, &arguments, &mut lab).unwrap();
        let about = figure.notes.into_iter();
        about
            .filter(|note| note.contains("is looked at"))
            .collect::<Vec<_>>()
    };
    let none: [String; 0] = [];
    assert_eq!(notes(" Paris"), none);
    assert_eq!(notes("\" Paris\" - \" Rome\""), none);
    assert_eq!(notes("#17"), none);
    let said = notes(" Paris Rome");
    assert_eq!(
        said,
        ["`token`: “ Paris Rome” has 2 tokens, of which the first alone, “ Paris”, is looked at"]
    );
    assert_eq!(notes("\" Paris\" - \" Rome Paris\"").len(), 1);
}
