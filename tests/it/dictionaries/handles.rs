//! Features as handles of edits and conditions: by hand, against sae-lens and PyTorch, token by token, in rows, with gradients.

use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use lmscope::dictionaries::handles::with_features;
use lmscope::dictionaries::opened::OpenDictionaries;
use lmscope::edit::Edit;
use lmscope::edit::direction::{Direction, DirectionOrigin};
use lmscope::edit::receipt::Receipt;
use lmscope::edit::schedule::Schedule;
use lmscope::lab::Lab;
use lmscope::lab::capture::{After, Output};
use lmscope::lab::gradient::{GradientRequest, Scalar};
use lmscope::lab::pass::{Pass, PassRow, Patch};
use lmscope::lab::run::Run;
use lmscope::lab::sample::Sampling;
use lmscope::lab::target::LogitTarget;
use lmscope::lab::writer::{BaselineMode, Writer};
use lmscope::model::load::{Options, load};
use lmscope::model::network::families::FAMILIES;
use lmscope::model::network::site::{Address, Site};

use super::hostile::{saelens, write};
use crate::tools::{edited, prompt, read_again, tiny, values};

/// The width of the small models' stream, and how many features their dictionaries have.
const D: usize = 24;
const F: usize = 40;

fn lab() -> Lab {
    with_features(tiny(FAMILIES.iter().find(|f| f.name == "llama").unwrap()))
}

fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 37 + seed * 101 + i * i % 29) % 41) as f32 / 60.0 - 0.33)
        .collect()
}

/// A folder with a dictionary of an architecture and a norm, of the stream behind block 1.
fn dictionary(kind: &str, norm: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tensors = [
        ("W_enc", &[D, F][..], numbers(D * F, 1)),
        ("W_dec", &[F, D], numbers(D * F, 2)),
        ("b_enc", &[F], numbers(F, 3)),
        ("b_dec", &[D], numbers(D, 4)),
        ("threshold", &[F], vec![0.1; F]),
        ("b_gate", &[F], numbers(F, 5)),
        ("b_mag", &[F], numbers(F, 6)),
        ("r_mag", &[F], numbers(F, 7)),
    ];
    write(&folder.path().join("sae_weights.safetensors"), &tensors);
    let out = if kind.contains("transcoder") {
        r#""hook_name": "blocks.1.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out""#
    } else {
        r#""hook_name": "blocks.1.hook_resid_post""#
    };
    let config = format!(
        r#"{{"architecture": "{kind}", "d_in": {D}, "d_sae": {F}, "k": 6, "normalize_activations": "{norm}", "metadata": {{"sae_lens_version": "6.54.12", "model_name": "tiny", {out}}}}}"#
    );
    std::fs::write(folder.path().join("cfg.json"), config).unwrap();
    folder
}

/// `W_enc = [I, −I]`, `W_dec = W_encᵀ`: what it makes of anything is that thing.
fn identity(folder: &Path) {
    let sign = |f: usize| if f < D { 1.0f32 } else { -1.0 };
    let w_enc: Vec<f32> = (0..D)
        .flat_map(|j| (0..2 * D).map(move |f| if f % D == j { sign(f) } else { 0.0 }))
        .collect();
    let w_dec: Vec<f32> = (0..2 * D)
        .flat_map(|f| (0..D).map(move |j| if f % D == j { sign(f) } else { 0.0 }))
        .collect();
    saelens(folder, D, 2 * D, &w_enc, &w_dec, "standard");
}

fn name(folder: &tempfile::TempDir) -> String {
    folder.path().display().to_string()
}

/// Some edits of a dictionary, whose name is `N` in them.
fn run(tokens: Vec<u32>, folder: &tempfile::TempDir, edits: &[&str]) -> Run {
    let edits: Vec<String> = edits
        .iter()
        .map(|e| e.replace('N', &name(folder)))
        .collect();
    edited(
        tokens,
        &edits.iter().map(String::as_str).collect::<Vec<_>>(),
    )
}

fn recorded(lab: &mut Lab, run: &Run, at: Address) -> Vec<f32> {
    let capture = lab.record(run, &[at]).unwrap();
    values(capture.get(at).unwrap())
}

/// Logits after every position.
fn logits(lab: &mut Lab, run: &Run) -> Vec<Vec<f32>> {
    let output = Output::whole(After::Each(0..run.tokens.len()));
    let read = lab.run_one(&Pass::after(run.clone(), output)).unwrap();
    read.output.into_iter().map(|row| row.logits).collect()
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let each = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    each.fold(0.0, f32::max)
}

fn bits(rows: &[Vec<f32>]) -> Vec<u32> {
    rows.iter().flatten().map(|v| v.to_bits()).collect()
}

fn refused(lab: &mut Lab, run: &Run) -> String {
    match lab.last_logits(run) {
        Ok(_) => panic!("{:?} was accepted", run.schedule.lines()),
        Err(error) => error.to_string(),
    }
}

fn receipt(lab: &mut Lab, run: &Run) -> Receipt {
    lab.receipts(run).unwrap().into_iter().next().unwrap()
}

/// An active feature of a position, and its activation there as edits read it.
fn active(lab: &mut Lab, folder: &tempfile::TempDir, at: Address, position: usize) -> (u32, f32) {
    let x = recorded(lab, &Run::plain(prompt(9)), at);
    let x = &x[position * D..][..D];
    let own = &lab.dictionaries(&name(folder)).unwrap()[0];
    let (feature, _) = own.active(&[x]).unwrap()[0]
        .iter()
        .copied()
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .unwrap();
    let read = own.reader(&[feature]).unwrap().read(0, &[x]).unwrap();
    (feature, read.activations[0])
}

/// T17 and T19: an identity spliced in changes no bit; another dictionary leaves out its error, and no more.
#[test]
fn a_splice_is_the_reconstruction_and_of_an_identity_nothing() {
    let (mut lab, folder) = (lab(), tempfile::tempdir().unwrap());
    identity(folder.path());
    let plain = logits(&mut lab, &Run::plain(prompt(9)));
    for strength in ["", "*0.5"] {
        let own = run(
            prompt(9),
            &folder,
            &[&format!("splice:N@resid_post.1{strength}")],
        );
        assert_eq!(bits(&logits(&mut lab, &own)), bits(&plain));
        let said = receipt(&mut lab, &own);
        assert_eq!((said.fired, said.kl), (0, Some(0.0)));
    }
    let other = dictionary("jumprelu", "none");
    let at = Site::ResidPost.at(1);
    let x = recorded(&mut lab, &Run::plain(prompt(9)), at);
    let made = lab.dictionaries(&name(&other)).unwrap()[0]
        .reconstruct(0, &[&x])
        .unwrap();
    let spliced = run(prompt(9), &other, &["splice:N@resid_post.1"]);
    let found = recorded(&mut lab, &spliced, at);
    assert_eq!(found, made);
    for ((x, made), found) in x.iter().zip(&made).zip(&found) {
        let error = x - made;
        assert!((found + error - x).abs() <= f32::EPSILON * x.abs().max(made.abs()));
    }
    let said = receipt(&mut lab, &spliced);
    assert_eq!(said.fired, 9);
    assert!(said.relative > 0.1 && said.kl.unwrap() > 1e-4, "{said:?}");
    assert!(said.control_is.contains("equal norm"), "{said:?}");
    assert!(said.note.contains("first position"), "{said:?}");
    // What it costs the text's own tokens, against their probabilities one by one.
    let tokens = prompt(9);
    let mut loss = |edits: &[&str]| {
        let all = logits(&mut lab, &run(tokens.clone(), &other, edits));
        let each = all.iter().zip(&tokens[1..]).map(|(of, next)| {
            let most = of.iter().copied().fold(f32::MIN, f32::max);
            let total: f64 = of.iter().map(|z| f64::from(z - most).exp()).sum();
            total.ln() - f64::from(of[*next as usize] - most)
        });
        each.sum::<f64>() / (tokens.len() - 1) as f64
    };
    let (plain, with, zero) = (
        loss(&[]),
        loss(&["splice:N@resid_post.1"]),
        loss(&["zero@resid_post.1"]),
    );
    let cost = format!("ΔCE {:+.4} nats over 8 tokens", with - plain);
    // Where zeros cost nothing, there is no share of what they cost.
    let share = format!("CE recovered {:.3}", (zero - with) / (zero - plain));
    let costs = zero - plain >= 1e-3;
    assert!(
        said.note.contains(&cost)
            && said.note.contains("CE recovered") == costs
            && (!costs || said.note.contains(&share)),
        "{cost}, {share}: {said:?}"
    );
    // The control moves as far: at the spliced place the change has the same norm at every position.
    let mut program = lab
        .compile(&spliced.clone().under(&spliced.schedule.control(3)))
        .unwrap();
    let value = Tensor::from_vec(x.clone(), (1, 9, D), &candle_core::Device::Cpu).unwrap();
    let span = lmscope::model::network::tap::PassSpan::prompt(9);
    program.begin(span);
    let random = values(&program.apply(at, value, span).unwrap());
    let norm = |a: &[f32], b: &[f32]| {
        a.iter()
            .zip(b)
            .map(|(a, b)| (a - b).powi(2))
            .sum::<f32>()
            .sqrt()
    };
    for i in 0..9 {
        let row = i * D..(i + 1) * D;
        let (own, control) = (
            norm(&x[row.clone()], &made[row.clone()]),
            norm(&x[row.clone()], &random[row.clone()]),
        );
        assert!((own - control).abs() < 1e-3 * own, "{own} {control}");
        assert!(norm(&made[row.clone()], &random[row]) > 0.1 * own);
    }
}

/// T18: what a feature is already changes nothing, bit for bit, whatever the architecture.
#[test]
fn a_feature_that_is_set_to_what_it_is_changes_no_bit() {
    for kind in ["standard", "jumprelu", "gated", "topk", "abstopk"] {
        let (mut lab, folder) = (lab(), dictionary(kind, "none"));
        let at = Site::ResidPost.at(1);
        let plain = logits(&mut lab, &Run::plain(prompt(9)));
        let (feature, now) = active(&mut lab, &folder, at, 4);
        let clamp = |value: f32| format!("set:N#{feature}={value}@resid_post.1:4..5");
        let same = run(prompt(9), &folder, &[&clamp(now)]);
        assert_eq!(bits(&logits(&mut lab, &same)), bits(&plain), "{kind}");
        let said = receipt(&mut lab, &same);
        assert!(said.fired == 0 && said.why.contains("already"), "{said:?}");
        let more = run(prompt(9), &folder, &[&clamp(2.0 * now)]);
        assert_ne!(bits(&logits(&mut lab, &more)), bits(&plain), "{kind}");
        // And at the neutral strength.
        let none = run(
            prompt(9),
            &folder,
            &[&format!("scale:N#{feature}@resid_post.1")],
        );
        assert_eq!(bits(&logits(&mut lab, &none)), bits(&plain), "{kind}");
        // A feature that is not active cannot be ablated.
        let all = recorded(&mut lab, &Run::plain(prompt(9)), at);
        let rows = lab.dictionaries(&name(&folder)).unwrap()[0]
            .active(&[&all])
            .unwrap();
        let silent = (0..F as u32).find(|f| rows.iter().flatten().all(|(other, _)| other != f));
        if let Some(silent) = silent {
            let none = run(
                prompt(9),
                &folder,
                &[&format!("zero:N#{silent}@resid_post.1")],
            );
            assert_eq!(bits(&logits(&mut lab, &none)), bits(&plain), "{kind}");
            // But it can be set, here by a shift of exactly 1.
            let one = format!("set:N#{silent}=1@resid_post.1");
            let one = run(prompt(9), &folder, &[&one]);
            assert_ne!(bits(&logits(&mut lab, &one)), bits(&plain), "{kind}");
        }
    }
}

/// What an edit of features makes of a value is the reconstruction of the changed features, and the error as it was: by hand,
/// through the dictionary's own encoder and decoder.
#[test]
fn what_the_dictionary_leaves_out_is_kept() {
    let kinds = [
        ("standard", "none"),
        ("jumprelu", "none"),
        ("gated", "none"),
        ("topk", "none"),
        ("abstopk", "none"),
        ("standard", "constant_norm_rescale"),
        ("gated", "layer_norm"),
        ("topk", "layer_norm"),
        ("transcoder", "none"),
        ("jumprelu_transcoder", "none"),
    ];
    for (kind, norm) in kinds {
        let (mut lab, folder) = (lab(), dictionary(kind, norm));
        let set = lab
            .derived::<OpenDictionaries>()
            .get(&name(&folder), &lab)
            .unwrap();
        let placed = &set.dictionaries[0];
        let (own, read, at) = (&placed.dictionary, placed.reads[0], placed.writes[0]);
        let inputs = recorded(&mut lab, &Run::plain(prompt(9)), read);
        let x = recorded(&mut lab, &Run::plain(prompt(9)), at);
        let encoded = own.encode(&[&inputs]).unwrap();
        let before = own.decode(0, &encoded, &inputs).unwrap();
        let (a, b) = (3u32, 17u32);
        let activation = |row: &Vec<(u32, f32)>, f: u32| {
            row.iter()
                .find(|(g, _)| *g == f)
                .map_or(0.0, |(_, act)| *act)
        };
        let rows = &encoded.features[1..];
        let largest = rows
            .iter()
            .map(|row| activation(row, a))
            .fold(0.0, f32::max);
        let mean = rows.iter().map(|row| activation(row, a)).sum::<f32>() / 8.0;
        #[allow(clippy::items_after_statements)] // it stands where it is used
        type Turn<'a> = (String, Box<dyn Fn(u32, f32) -> f32 + 'a>);
        let turns: Vec<Turn> = vec![
            (format!("zero:N#{a},{b}@{at}"), Box::new(|_, _| 0.0)),
            (
                format!("zero:N#{a},{b},{a}@{at}*0.25"),
                Box::new(|_, f| 0.75 * f),
            ),
            (
                format!("scale:N#{a},{b}@{at}*-2"),
                Box::new(|_, f| -2.0 * f),
            ),
            (format!("set:N#{a},{b}=1.5@{at}"), Box::new(|_, _| 1.5)),
            (
                format!("set:N#{a},{b}=1.5@{at}*2"),
                Box::new(|_, f| f + 2.0 * (1.5 - f)),
            ),
            (
                format!("set:N#{a}=3x@{at}"),
                Box::new(|g, f| if g == a { 3.0 * largest } else { f }),
            ),
            (
                format!("mean:N#{a}@{at}"),
                Box::new(|g, f| if g == a { mean } else { f }),
            ),
        ];
        for (line, turn) in turns {
            if line.contains("3x") && largest == 0.0 {
                continue;
            }
            let mut changed = encoded.clone();
            for row in &mut changed.features {
                let mut new = row.clone();
                new.retain(|(f, _)| *f != a && *f != b);
                new.extend([a, b].map(|f| (f, turn(f, activation(row, f)))));
                new.sort_by_key(|(f, _)| *f);
                *row = new;
            }
            let after = own.decode(0, &changed, &inputs).unwrap();
            let expected: Vec<f32> = x
                .iter()
                .zip(before.iter().zip(&after))
                .map(|(x, (before, after))| x + (after - before))
                .collect();
            let edit = run(prompt(9), &folder, &[&line]);
            let found = recorded(&mut lab, &edit, at);
            assert!(
                apart(&found, &expected) < 2e-5,
                "{kind} {norm} {line}: {}",
                apart(&found, &expected)
            );
            if !line.contains("zero:N#3,17,3") {
                assert!(
                    apart(&found, &x) > 1e-4 || largest == 0.0,
                    "{kind} {norm} {line}"
                );
            }
        }
    }
}

fn references() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references")
}

/// The same logits as PyTorch with hooks that encode and decode by sae-lens.
#[test]
fn logits_are_those_of_sae_lens_in_pytorch() {
    let options = Options {
        dtype: Some("f32".into()),
        device: Some("cpu".into()),
        ..Options::default()
    };
    let model = references().join("llama");
    let mut lab = with_features(Lab::new(load(&model.to_string_lossy(), &options).unwrap()));
    let folder = references().join("feature_edits");
    let cases = std::fs::read(folder.join("edits.json")).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_slice(&cases).unwrap();
    let expected = candle_core::safetensors::load(
        folder.join("logits.safetensors"),
        &candle_core::Device::Cpu,
    )
    .unwrap();
    let ids = |name: &str| -> Vec<u32> {
        let own = expected[name].to_dtype(DType::U32).unwrap();
        own.to_vec1().unwrap()
    };
    let (tokens, positions) = (ids("tokens"), ids("positions"));
    let mut worst = 0f32;
    for case in &cases {
        let own = folder.join(case["dictionary"].as_str().unwrap());
        let lines: Vec<String> = case["edits"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| {
                e.as_str()
                    .unwrap()
                    .replace("DICTIONARY", &own.display().to_string())
            })
            .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let found = logits(&mut lab, &edited(tokens.clone(), &lines));
        let rows = expected[case["key"].as_str().unwrap()]
            .to_vec2::<f32>()
            .unwrap();
        for (row, position) in rows.iter().zip(&positions) {
            let off = apart(row, &found[*position as usize]);
            assert!(off < 1e-4, "{lines:?} after {position}: {off}");
            worst = worst.max(off);
        }
    }
    assert_eq!(cases.len(), 80);
    assert!(worst > 0.0);
}

/// A feature is a direction of every operation on directions, everywhere in the stream.
#[test]
fn a_feature_is_a_direction() {
    let (mut lab, folder) = (lab(), dictionary("standard", "none"));
    let vector = lab.dictionaries(&name(&folder)).unwrap()[0]
        .direction(0, 5)
        .unwrap();
    assert_eq!(vector, numbers(D * F, 2)[5 * D..6 * D]);
    let own = Direction {
        rows: vec![(Site::ResidPost.at(1), vector)],
        origin: DirectionOrigin::default(),
    };
    lab.directions.insert("same".into(), own);
    for edit in [
        "add:N#5@resid_post.1*2",
        "add_unit_norm:N#5@resid_pre.2*0.5",
        "project_out:N#5@resid_post.0",
        "project_out:N#5@writes",
        "scale_along:N#5@mlp_out.*:3*-1",
        "clamp_along:N#5=-0.1..0.1@resid_post.1",
        "set_along:N#5=2@resid_mid.1",
        "swap:N#5>N#6@resid_post.1",
        "replace:N#5@resid_post.1:2",
        "add:N#5@resid_post.1 when N#5@resid_post.0>0",
    ] {
        let found = run(prompt(9), &folder, &[edit]);
        let found = logits(&mut lab, &found);
        let by_name = edit.replace("N#5", "same");
        let expected = run(prompt(9), &folder, &[&by_name]);
        assert_eq!(bits(&found), bits(&logits(&mut lab, &expected)), "{edit}");
    }
    let said = receipt(
        &mut lab,
        &run(prompt(9), &folder, &["add:N#5@resid_post.0"]),
    );
    assert!(said.note.contains("writes to resid_post.1"), "{said:?}");
    let said = receipt(&mut lab, &run(prompt(9), &folder, &["add:N#5@resid_pre.2"]));
    assert!(
        !said.note.contains("writes to"),
        "the same point of the stream: {said:?}"
    );
}

/// Written token by token or read at once, the text has the same logits; and the unedited row beside it is not edited.
#[test]
fn token_by_token_is_as_at_once() {
    for (kind, edits) in [
        (
            "topk",
            &[
                "set:N#3=2@resid_post.1:all-but-bos",
                "zero:N#17@resid_post.1",
            ][..],
        ),
        (
            "gated",
            &[
                "scale:N#3,5,8@resid_post.1*3",
                "splice:N@resid_post.1:generated*0.5",
            ],
        ),
        (
            "transcoder",
            &["zero:N#3,4,5,6,7,8@mlp_add.1", "set:N#9=2@mlp_add.1/decode"],
        ),
        (
            "standard",
            &[
                "set:N#3=4@resid_post.1 when N#5>0.1",
                "set:N#4=4@resid_post.2 once N#6>0.5",
            ],
        ),
    ] {
        let (mut lab, folder) = (lab(), dictionary(kind, "none"));
        // A condition's edit may lie behind where its features are written.
        let edits: Vec<&str> = edits
            .iter()
            .filter(|e| !e.contains("resid_post.2 once"))
            .copied()
            .collect();
        let schedule = run(vec![], &folder, &edits).schedule;
        for beside in [BaselineMode::SameText, BaselineMode::OwnText] {
            let mut writer = Writer::begin_with_baseline(
                &mut lab,
                prompt(12),
                schedule.clone(),
                Sampling::default(),
                beside,
            )
            .unwrap();
            let mut streamed = Vec::new();
            for _ in 0..6 {
                writer.step(&mut lab, &[]).unwrap();
                streamed.push(writer.output().unwrap());
            }
            let whole = logits(&mut lab, &writer.run);
            for (i, row) in streamed.iter().enumerate() {
                let off = apart(row, &whole[12 + i]);
                assert!(off < 1e-4, "{kind} {edits:?} step {i}: {off}");
            }
            if let Some(own) = writer.baseline_row() {
                let plain = Run::plain(own[..own.len().min(18)].to_vec());
                let plain = logits(&mut lab, &plain);
                if beside == BaselineMode::OwnText {
                    let choice = |row: &Vec<f32>| {
                        (0..row.len())
                            .max_by(|a, b| row[*a].total_cmp(&row[*b]))
                            .unwrap() as u32
                    };
                    for p in 11..17 {
                        assert_eq!(
                            choice(&plain[p]),
                            own[p + 1],
                            "{kind}: the row beside is edited"
                        );
                    }
                }
            }
        }
    }
}

/// Rows that share what they have in common have the logits of each row read whole and alone: edits in a block, across blocks,
/// with patches, several programs in a batch.
#[test]
fn rows_that_share_are_as_rows_alone() {
    let (mut lab, sae, coder) = (
        lab(),
        dictionary("topk", "none"),
        dictionary("transcoder", "none"),
    );
    let across = format!("\"{}@resid_post.0>mlp_add.2\"", name(&coder));
    let late = format!("\"{}@resid_post.1>resid_post.1\"", name(&sae));
    let lines: Vec<Vec<String>> = vec![
        vec![],
        vec![format!("zero:{}#3,4,5,6@mlp_add.1:4..9", name(&coder))],
        vec![format!("set:{}#3=2@resid_post.1:5", name(&sae))],
        vec![
            format!("set:{late}#3=2@resid_post.1:5"),
            "zero:1@mlp_act.2".into(),
        ],
        vec![
            format!("set:{across}#3=2@mlp_add.2:5"),
            format!("zero:{across}#4,5,6,7@mlp_add.2"),
        ],
        vec![format!("splice:{}@resid_post.1:6", name(&sae))],
    ];
    let schedule = |lines: &Vec<String>| {
        let edits = lines.iter().map(|l| l.parse::<Edit>().unwrap());
        Schedule::always(edits.collect())
    };
    let value = Tensor::new(numbers(D, 9).as_slice(), &candle_core::Device::Cpu).unwrap();
    let patch = Patch::new(Site::ResidPost.at(1), 6, value.clone());
    for base in [&lines[0], &lines[1], &lines[4]] {
        let run = Run {
            schedule: schedule(base),
            ..Run::plain(prompt(9))
        };
        let mut rows: Vec<PassRow> = lines.iter().map(|l| PassRow::edited(schedule(l))).collect();
        rows.push(PassRow::patched(vec![patch.clone()]));
        for rows in [rows.clone(), rows[..4].to_vec(), rows[6..].to_vec()] {
            let pass = Pass {
                rows: rows.clone(),
                output: Output::whole(After::Last(1)),
                ..Pass::of(run.clone())
            };
            let found = lab.run(&pass).unwrap();
            for (i, (row, found)) in rows.iter().zip(&found).enumerate() {
                let own = Run {
                    schedule: row.schedule.clone().unwrap_or(run.schedule.clone()),
                    ..run.clone()
                };
                let expected = read_again(&mut lab, &own, 8, &row.patches);
                let off = apart(&found.last().logits, &expected);
                assert!(
                    off < 1e-4,
                    "{base:?} row {i} {:?}: {off}",
                    own.schedule.lines()
                );
            }
        }
    }
}

#[test]
fn a_feature_is_a_condition() {
    let (mut lab, folder) = (lab(), dictionary("standard", "none"));
    let at = Site::ResidPost.at(1);
    let x = recorded(&mut lab, &Run::plain(prompt(9)), at);
    let rows = lab.dictionaries(&name(&folder)).unwrap()[0]
        .active(&[&x])
        .unwrap();
    let act = |p: usize, f: u32| {
        rows[p]
            .iter()
            .find(|(g, _)| *g == f)
            .map_or(0.0, |(_, a)| *a)
    };
    // A feature that is above a threshold at some positions, and first at one behind the first.
    let (feature, threshold, held) = (0..F as u32)
        .find_map(|f| {
            let all: Vec<f32> = (0..9).map(|p| act(p, f)).collect();
            let mut sorted = all.clone();
            sorted.sort_by(f32::total_cmp);
            let threshold = (sorted[5] + sorted[6]) / 2.0;
            let held: Vec<usize> = (0..9).filter(|p| all[*p] > threshold).collect();
            (sorted[6] - sorted[5] > 1e-3 && held[0] > 0 && held[0] + 3 < 9)
                .then_some((f, threshold, held))
        })
        .unwrap();
    assert_eq!(held.len(), 3);
    let mut fired = |when: &str| {
        let edit = format!("add:N#2@resid_post.2 {when} N#{feature}>{threshold}");
        let run = run(prompt(9), &folder, &[&edit]);
        let found = recorded(&mut lab, &run, Site::ResidPost.at(2));
        let plain = recorded(&mut lab, &Run::plain(prompt(9)), Site::ResidPost.at(2));
        let moved = |p: &usize| apart(&found[p * D..][..D], &plain[p * D..][..D]) > 0.0;
        (0..9).filter(moved).collect::<Vec<_>>()
    };
    assert_eq!(fired("when"), held);
    assert_eq!(fired("once"), (held[0]..9).collect::<Vec<_>>());
    let never = format!("add:N#2@resid_post.2 when N#{feature}>1000");
    let said = receipt(&mut lab, &run(prompt(9), &folder, &[&never]));
    assert!(said.why.contains("came as near as"), "{said:?}");
    let early = run(prompt(9), &folder, &["add:N#2@resid_post.0 when N#2>1"]);
    let said = refused(&mut lab, &early);
    assert!(
        said.contains("resid_post.1") && said.contains("later address"),
        "{said}"
    );
    // Measured after earlier edits: a feature that is taken out there is never above.
    let edits = [
        format!("zero:N#{feature}@resid_post.1"),
        format!("add:N#2@resid_post.2 when N#{feature}>{threshold}"),
    ];
    let edits: Vec<&str> = edits.iter().map(String::as_str).collect();
    let both = run(prompt(9), &folder, &edits);
    let program = lab.run_one(&Pass::after(both, Output::top(1))).unwrap();
    assert!(program.receipts[0].fired > 0);
}

#[test]
fn receipts_have_other_active_features_as_control() {
    let (mut lab, folder) = (lab(), dictionary("standard", "none"));
    let (feature, now) = active(&mut lab, &folder, Site::ResidPost.at(1), 5);
    let said = receipt(
        &mut lab,
        &run(
            prompt(9),
            &folder,
            &[&format!(
                "set:N#{feature}={}@resid_post.1:all-but-bos",
                4.0 * now
            )],
        ),
    );
    assert!(
        said.fired == 8 && said.relative > 0.0 && said.kl.unwrap() > 0.0,
        "{said:?}"
    );
    assert!(
        said.control.unwrap() > 0.0 && said.elsewhere.is_some(),
        "{said:?}"
    );
    assert!(
        said.control_is
            .starts_with("other active features of similar size"),
        "{said:?}"
    );
    assert!(
        !said.control_is.contains(&format!("({feature})")),
        "{said:?}"
    );
    assert!(!said.note.contains("first position"), "{said:?}");
    let said = receipt(
        &mut lab,
        &run(
            prompt(9),
            &folder,
            &[&format!("set:N#{feature}=2x@resid_post.1")],
        ),
    );
    assert!(
        said.note.contains("2 times its largest activation"),
        "{said:?}"
    );
    assert!(said.note.contains("first position"), "{said:?}");
    // Without others there are random directions: of a single feature.
    let alone = tempfile::tempdir().unwrap();
    saelens(alone.path(), D, 1, &[1.0; D], &[1.0; D], "standard");
    let said = receipt(
        &mut lab,
        &run(prompt(9), &alone, &["set:N#0=2@resid_post.1"]),
    );
    assert!(said.control.unwrap() > 0.0, "{said:?}");
    assert!(
        said.control_is
            .starts_with("random directions of equal norm"),
        "{said:?}"
    );
}

/// A gradient passes through edits of features, with what is active held; a splice and features of another block are refused.
#[test]
fn gradients_pass_through_features() {
    let cases = [
        ("standard", "none", "scale:N#3,5,9@resid_post.1*2.5"),
        ("jumprelu", "none", "zero:N#1,2,3,4,5@resid_post.1"),
        ("gated", "layer_norm", "scale:N#1,2,3,4,5,6@resid_post.1*-1"),
        (
            "topk",
            "constant_norm_rescale",
            "set:N#1,2,3,4,5,6=0.5@resid_post.1*0.5",
        ),
        ("transcoder", "none", "scale:N#1,2,3,4,5,6,7@mlp_add.1*3"),
        ("topk", "none", "add:N#3@resid_post.1*2"),
    ];
    let logit = || Scalar::Logit(LogitTarget::one(5));
    let at = Site::ResidPost.at(0);
    for (kind, norm, edit) in cases {
        let (mut lab, folder) = (lab(), dictionary(kind, norm));
        let run = run(prompt(9), &folder, &[edit]);
        let pass = Pass {
            gradient: Some(GradientRequest {
                of: logit(),
                each: Vec::new(),
                after: 8,
                from: None,
                at: vec![at],
                positions: vec![6, 8],
            }),
            ..Pass::of(run.clone())
        };
        let own = lab.run_one(&pass).unwrap().gradient.unwrap();
        let rows = own.get(at).unwrap().to_vec2::<f32>().unwrap();
        let x = recorded(&mut lab, &run, at);
        for (row, position) in rows.iter().zip([6usize, 8]) {
            let length = row.iter().map(|g| g * g).sum::<f32>().sqrt();
            let step = 2e-3f32;
            let mut along = |sign: f32| {
                let moved = x[position * D..][..D]
                    .iter()
                    .zip(row)
                    .map(|(x, g)| x + sign * step * g / length);
                let value =
                    Tensor::new(moved.collect::<Vec<f32>>(), &candle_core::Device::Cpu).unwrap();
                read_again(&mut lab, &run, 8, &[Patch::new(at, position, value)])[5]
            };
            let slope = (along(1.0) - along(-1.0)) / (2.0 * step);
            assert!(
                (slope - length).abs() < 2e-2 * length,
                "{kind} {norm} {edit} at {position}: {slope}, {length}"
            );
        }
        // And it is another one than that of the unedited run.
        let plain = Pass {
            run: Run::plain(prompt(9)),
            ..pass
        };
        let plain = lab.run_one(&plain).unwrap().gradient.unwrap();
        let plain = values(plain.get(at).unwrap());
        assert!(
            kind == "topk" && edit.starts_with("add") || apart(&plain, &rows.concat()) > 1e-4,
            "{kind} {edit}"
        );
    }
    let (mut lab, folder) = (lab(), dictionary("transcoder", "none"));
    let asked = GradientRequest {
        of: logit(),
        each: Vec::new(),
        after: 8,
        from: None,
        at: vec![at],
        positions: vec![8],
    };
    for (edit, why) in [
        ("splice:N@mlp_add.1", "splice"),
        (
            "zero:\"N@resid_post.0>mlp_add.2\"#1,2,3,4@mlp_add.2",
            "another block",
        ),
    ] {
        let pass = Pass {
            gradient: Some(asked.clone()),
            ..Pass::of(run(prompt(9), &folder, &[edit]))
        };
        let said = lab.run_one(&pass).unwrap_err().to_string();
        assert!(said.contains(why) && said.contains("Switch"), "{said}");
    }
}

#[test]
fn what_cannot_be_edited_is_refused_with_what_to_do() {
    let (mut lab, folder) = (lab(), dictionary("standard", "none"));
    for (edit, why) in [
        ("zero:N#40@resid_post.1", "0 to 39"),
        ("add:N#40@resid_post.1", "0 to 39"),
        ("add:N#1@resid_post.1 when N#99>1", "0 to 39"),
        ("zero:N#3@resid_post.0", "resid_post.1"),
        ("zero:N#3@writes", "resid_post.1"),
        ("splice:N@mlp_out.1", "resid_post.1"),
        ("zero:N#1/3@resid_post.1", ""),
        ("zero:N#7/3@resid_post.1", "layers 1"),
        (
            "resample:N#3=\"a text\"@resid_post.1",
            "does not take features",
        ),
        (
            "mean:N#3=file.safetensors@resid_post.1",
            "does not take features",
        ),
        ("zero:nosuch#3@resid_post.1", "nosuch"),
        ("add:nosuch#3@resid_post.1", "nosuch"),
        ("splice:nosuch@resid_post.1", "nosuch"),
        ("add:N#3@mlp_act.1", "numbers and mlp_act.1 has"),
    ] {
        let run = run(prompt(9), &folder, &[edit]);
        if why.is_empty() {
            assert!(lab.last_logits(&run).is_ok(), "{edit}");
        } else {
            let said = refused(&mut lab, &run);
            assert!(said.contains(why), "{edit}: {said}");
        }
    }
    let x = recorded(&mut lab, &Run::plain(prompt(9)), Site::ResidPost.at(1));
    let rows = lab.dictionaries(&name(&folder)).unwrap()[0]
        .active(&[&x])
        .unwrap();
    if let Some(silent) = (0..F as u32).find(|f| rows[1..].iter().flatten().all(|(g, _)| g != f)) {
        let said = refused(
            &mut lab,
            &run(
                prompt(9),
                &folder,
                &[&format!("set:N#{silent}=3x@resid_post.1")],
            ),
        );
        assert!(
            said.contains("not active in this prompt") && said.contains("=5"),
            "{said}"
        );
    }
    for (line, why) in [
        ("cut:sae#3@attn_scores.1", "heads"),
        ("rewrite:sae#3=\"a\">\"b\"@mlp_act.1", "neurons"),
        ("set:3=2x@mlp_act.1", "NAME#12=3x"),
        ("set:sae#3=@resid_post.1", "not a number"),
        ("set:sae#3=nanx@resid_post.1", "not a number"),
        ("zero:sae#x@resid_post.1", "number of a feature"),
        ("splice@resid_post.1", "needs a dictionary"),
        ("add:d@resid_post.1 when sae#3,4>1", "not a condition"),
    ] {
        let said = line.parse::<Edit>().unwrap_err().to_string();
        assert!(said.contains(why), "{line}: {said}");
    }
    // A lab that was made without a reader of dictionaries says so.
    let run = run(prompt(9), &folder, &["zero:N#3@resid_post.1"]);
    let said = refused(&mut Lab::new(lab.model), &run);
    assert!(said.contains("without a reader of dictionaries"), "{said}");
}

/// Numbers that are not finite: of a file they are refused; of an earlier edit they are that edit's.
#[test]
fn what_is_not_finite_is_said_of_what_made_it() {
    let (mut lab, folder) = (lab(), tempfile::tempdir().unwrap());
    let mut w_dec = numbers(D * F, 2);
    w_dec[3 * D] = f32::NAN;
    saelens(folder.path(), D, F, &numbers(D * F, 1), &w_dec, "standard");
    for edit in ["zero:N#3@resid_post.1", "add:N#3@resid_post.1"] {
        let said = refused(&mut lab, &run(prompt(9), &folder, &[edit]));
        assert!(
            said.contains("feature 3") && said.contains("finite"),
            "{said}"
        );
    }
    assert!(
        lab.last_logits(&run(prompt(9), &folder, &["zero:N#4@resid_post.1"]))
            .is_ok()
    );
    let good = dictionary("standard", "none");
    let run = run(
        prompt(9),
        &good,
        &["scale@resid_post.1:4*1e38", "set:N#4=2@resid_post.1"],
    );
    let receipts = lab.receipts(&run).unwrap();
    assert!(
        receipts[0].not_finite && !receipts[1].not_finite,
        "{receipts:?}"
    );
}

/// A dictionary is known by what was given, and by the name of its folder where that is one alone; it is opened once.
#[test]
fn dictionaries_have_short_names() {
    let (mut lab, folder) = (lab(), tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name).display().to_string();
    for (at, seed) in [("a/sae", 1), ("b/sae", 2), ("b/other", 3)] {
        let (enc, dec) = (numbers(D * F, seed), numbers(D * F, seed + 5));
        saelens(Path::new(&path(at)), D, F, &enc, &dec, "standard");
    }
    let edit = |name: &str| edited(prompt(9), &[&format!("set:{name}#3=2@resid_post.1")]);
    let said = refused(&mut lab, &edit("sae"));
    assert!(said.contains("sae"), "nothing is open: {said}");
    let open = lab.derived::<OpenDictionaries>();
    let shown = open.get(&path("a/sae"), &lab).unwrap();
    let by_path = logits(&mut lab, &edit(&path("a/sae")));
    assert_eq!(bits(&logits(&mut lab, &edit("sae"))), bits(&by_path));
    assert!(receipt(&mut lab, &edit("sae")).note.contains("a/sae"));
    let again = open.get(&path("a/sae"), &lab).unwrap();
    assert!(std::rc::Rc::ptr_eq(&shown, &again), "opened once");
    open.get(&path("b/sae"), &lab).unwrap();
    let said = refused(&mut lab, &edit("sae"));
    assert!(said.contains("a/sae") && said.contains("b/sae"), "{said}");
    // A name with what has a meaning in edits is put in quotation marks, all of it or what stands before the number.
    open.get(&format!("{}@resid_post.0", path("b/other")), &lab)
        .unwrap();
    let other = format!("set:\"{}@resid_post.0\"#3=2@resid_post.0", path("b/other"));
    let by_path = logits(&mut lab, &edited(prompt(9), &[&other]));
    let short = logits(
        &mut lab,
        &edited(prompt(9), &["set:other#3=2@resid_post.0"]),
    );
    assert_eq!(bits(&short), bits(&by_path));
}

/// `NAME#2`: a feature where NAME is a dictionary, a direction moved by layers where it is a direction; where it is both, the
/// feature, and that is said.
#[test]
fn a_number_behind_a_name_is_a_feature_or_a_layer() {
    let (mut lab, folder) = (lab(), tempfile::tempdir().unwrap());
    let at = |layer: usize| Site::ResidPost.at(layer);
    let moved = Direction {
        rows: vec![(at(0), numbers(D, 8))],
        origin: DirectionOrigin::default(),
    };
    lab.directions.insert("calm".into(), moved.clone());
    let rows = |found: &Direction| found.rows.iter().map(|(a, _)| *a).collect::<Vec<_>>();
    let direction = lab.direction("calm#2").unwrap();
    assert_eq!(
        (rows(&direction), &direction.rows[0].1),
        (vec![at(2)], &moved.rows[0].1)
    );
    saelens(
        &folder.path().join("calm"),
        D,
        F,
        &numbers(D * F, 1),
        &numbers(D * F, 2),
        "standard",
    );
    let path = folder.path().join("calm").display().to_string();
    lab.derived::<OpenDictionaries>().get(&path, &lab).unwrap();
    let feature = lab.direction("calm#2").unwrap();
    assert_eq!(feature.rows[0].1, numbers(D * F, 2)[2 * D..3 * D]);
    let said = receipt(&mut lab, &edited(prompt(9), &["add:calm#2@resid_post.1"])).note;
    assert!(
        said.contains("is a direction too") && said.contains("calm#+2"),
        "{said}"
    );
    for (name, layer) in [("calm#+2", 2), ("calm", 0)] {
        let direction = lab.direction(name).unwrap();
        assert_eq!(
            (rows(&direction), &direction.rows[0].1),
            (vec![at(layer)], &moved.rows[0].1)
        );
    }
}

/// A cross-layer set: features by layer, at one place or at all that they write to; spliced in, its layers together.
#[test]
fn features_of_a_set_are_named_by_layer() {
    let (mut lab, folder) = (lab(), tempfile::tempdir().unwrap());
    let path = folder.path();
    std::fs::write(
        path.join("config.yaml"),
        "model_name: tiny\nmodel_kind: cross_layer_transcoder\nfeature_input_hook: mlp.hook_in\nfeature_output_hook: hook_mlp_out\n",
    )
    .unwrap();
    for layer in 0..3usize {
        let name = |kind: &str| format!("{kind}_{layer}");
        write(
            &path.join(format!("W_enc_{layer}.safetensors")),
            &[
                (&name("W_enc"), &[F, D], numbers(D * F, layer)),
                (&name("b_enc"), &[F], numbers(F, 9)),
                (&name("b_dec"), &[D], numbers(D, 10 + layer)),
            ],
        );
        write(
            &path.join(format!("W_dec_{layer}.safetensors")),
            &[(
                &name("W_dec"),
                &[F, 3 - layer, D],
                numbers(D * F * (3 - layer), 20 + layer),
            )],
        );
    }
    let set = lab
        .derived::<OpenDictionaries>()
        .get(&name(&folder), &lab)
        .unwrap();
    let written = |layer: usize| set.dictionaries[layer].writes.clone();
    assert_eq!(written(1).len(), 2);
    let plain = Run::plain(prompt(9));
    let value = |lab: &mut Lab, edit: &str, at: Address| {
        recorded(lab, &run(prompt(9), &folder, &[edit]), at)
    };
    for at in written(1) {
        let x = recorded(&mut lab, &plain, at);
        let site = at.site.spec().name;
        let (one, all) = (format!("set:N#1/3=2@{at}"), format!("set:N#1/3=2@{site}.*"));
        let (one, all) = (value(&mut lab, &one, at), value(&mut lab, &all, at));
        assert!(apart(&x, &one) > 1e-3);
        if at == written(1)[0] {
            assert_eq!(one, all, "nothing before it has changed");
        }
        assert!(apart(&x, &all) > 1e-3, "{at}");
    }
    let first = Site::MlpAdd.at(0);
    assert_eq!(
        value(&mut lab, "set:N#1/3=2@mlp_add.*", first),
        recorded(&mut lab, &plain, first),
        "layer 1 writes nothing there"
    );
    let last = *written(0).last().unwrap();
    let spliced = value(&mut lab, &format!("splice:N@{last}"), last);
    let mut made = vec![0f32; 9 * D];
    for part in &set.dictionaries {
        let target = part.writes.iter().position(|w| *w == last).unwrap();
        let x = recorded(&mut lab, &plain, part.reads[0]);
        let encoded = part.dictionary.encode(&[&x]).unwrap();
        let sums = part.dictionary.decode(target, &encoded, &x).unwrap();
        made.iter_mut().zip(sums).for_each(|(m, s)| *m += s);
    }
    assert!(apart(&spliced, &made) < 1e-5);
    let said = refused(&mut lab, &run(prompt(9), &folder, &["zero:N#3@mlp_add.2"]));
    assert!(
        said.contains("layers 0, 1, 2") && said.contains("#0/3"),
        "{said}"
    );
    let said = refused(
        &mut lab,
        &run(prompt(9), &folder, &["zero:N#2/3@mlp_add.0"]),
    );
    assert!(said.contains("mlp_add.2"), "{said}");
}
