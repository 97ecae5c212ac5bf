//! Means and variances over a text: against two plain passes in f64, without the first positions, on every family.

use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::lab::statistics::{Statistics, TextReading, pieces};
use lmscope::model::Model;
use lmscope::model::network::families::FAMILIES;
use lmscope::model::network::site::{Address, Axis, SITES, Site};

use super::demo::demo;
use super::tools::{every_family, prompt, tiny};

/// Every address with a vector a position that the model has.
fn vectors(lab: &Lab) -> Vec<Address> {
    let layers = lab.model.card.layers;
    let layered = |site: Site| (0..layers).map(move |l| site.at(l));
    let sites = SITES.iter().filter(|s| s.axis != Axis::Positions);
    let mut all: Vec<Address> = sites.flat_map(|s| layered(s.site)).collect();
    all.dedup();
    all.retain(|at| lab.model.offers(*at).is_ok());
    all
}

fn how(skip: usize) -> TextReading {
    TextReading {
        skip,
        piece: 12,
        text: "neutral.txt".into(),
    }
}

/// Mean and variance of an address in two passes over recorded rows, f64.
fn brute(lab: &mut Lab, pieces: &[Vec<u32>], at: Address, skip: usize) -> (Vec<f64>, Vec<f64>) {
    let mut rows: Vec<Vec<f64>> = Vec::new();
    for piece in pieces {
        let found = lab.record(&Run::plain(piece.clone()), &[at]).unwrap();
        let all = found.get(at).unwrap().flatten_from(1).unwrap();
        let all = all.to_vec2::<f32>().unwrap();
        rows.extend(
            all[skip..]
                .iter()
                .map(|r| r.iter().map(|v| f64::from(*v)).collect()),
        );
    }
    let count = rows.len() as f64;
    let column = |i: usize| rows.iter().map(move |r| r[i]);
    let mean: Vec<f64> = (0..rows[0].len())
        .map(|i| column(i).sum::<f64>() / count)
        .collect();
    let variance = (0..mean.len())
        .map(|i| column(i).map(|v| (v - mean[i]).powi(2)).sum::<f64>() / count)
        .collect();
    (mean, variance)
}

fn near(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let reach = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    for (a, b) in found.iter().zip(expected) {
        assert!(
            (f64::from(*a) - b).abs() <= 1e-6 * reach.max(1e-3),
            "{what}: {a} and {b}"
        );
    }
}

#[test]
fn statistics_are_those_of_recorded_activations_on_every_family() {
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        let cut = pieces(&prompt(40), None, 12);
        let wanted = vectors(&lab);
        let found = Statistics::measure(&mut lab, &cut, &wanted, &how(2)).unwrap();
        assert_eq!(found.rows.len(), wanted.len());
        assert_eq!(
            (found.origin.tokens, found.origin.skipped),
            (40 - 8, 8),
            "{name}"
        );
        for at in wanted {
            let (mean, variance) = brute(&mut lab, &cut, at, 2);
            near(found.mean(at).unwrap(), &mean, &format!("{name} mean {at}"));
            near(
                found.variance(at).unwrap(),
                &variance,
                &format!("{name} variance {at}"),
            );
        }
    }
}

/// Attention sinks: a first position with a residual of several hundred times the rest changes no figure.
#[test]
fn a_sink_at_the_first_position_changes_no_figure() {
    let gpt2 = FAMILIES.iter().find(|f| f.name == "gpt2").unwrap();
    let mut lab = tiny(gpt2);
    let positions = lab.model.transformer.positions.take().unwrap();
    let first = (positions.narrow(0, 0, 1).unwrap() * 3e4).unwrap();
    let rest = positions
        .narrow(0, 1, positions.dim(0).unwrap() - 1)
        .unwrap();
    let sunk = candle_core::Tensor::cat(&[&first, &rest], 0).unwrap();
    lab.model.transformer.positions = Some(sunk);
    let cut = pieces(&prompt(40), None, 12);
    let at = Site::ResidPost.at(0);
    let sound = Statistics::measure(&mut lab, &cut, &[at], &how(1)).unwrap();
    let (mean, variance) = brute(&mut lab, &cut, at, 1);
    near(sound.mean(at).unwrap(), &mean, "mean");
    near(sound.variance(at).unwrap(), &variance, "variance");
    let washed = Statistics::measure(&mut lab, &cut, &[at], &how(0)).unwrap();
    let size = |v: &[f32]| v.iter().map(|x| x.abs()).sum::<f32>();
    let (sound, washed) = (
        size(sound.variance(at).unwrap()),
        size(washed.variance(at).unwrap()),
    );
    assert!(
        washed > 1e3 * sound,
        "without leaving it out: {washed}, with: {sound}"
    );
}

#[test]
fn a_file_gives_back_what_was_measured_and_belongs_to_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.safetensors");
    let mut lab = tiny(&FAMILIES[0]);
    let other = Lab::new(Model::tiny(&FAMILIES[0], 8).unwrap());
    let wanted = [Site::MlpAct.at(1), Site::MlpAct.at(0), Site::Z.at(1)];
    let cut = pieces(&prompt(30), None, 12);
    let found = Statistics::measure(&mut lab, &cut, &wanted, &how(1)).unwrap();
    assert!(
        found.origin.caution.contains("only 27 tokens"),
        "{}",
        found.origin.caution
    );
    assert!(
        found
            .about()
            .starts_with("mean over 27 tokens of neutral.txt, fewer"),
        "{}",
        found.about()
    );
    found.save(&path).unwrap();
    let read = Statistics::load(&path).unwrap();
    assert_eq!(read, found);
    assert_eq!(read.places(), "z.1, mlp_act.0-1");
    read.check(&lab.model.card).unwrap();
    let refusal = read.check(&other.model.card).unwrap_err().to_string();
    assert!(
        refusal.contains(&lab.model.card.revision) && refusal.contains(&other.model.card.revision),
        "{refusal}"
    );
    let missing = read.mean(Site::Z.at(0)).unwrap_err().to_string();
    assert!(
        missing.contains("z.0") && missing.contains("z.1, mlp_act.0-1"),
        "{missing}"
    );
    // Files that are something else, or damaged, are refused by name.
    let bytes = std::fs::read(&path).unwrap();
    for damaged in [&b"short"[..], &bytes[..bytes.len() - 4]] {
        std::fs::write(&path, damaged).unwrap();
        let error = Statistics::load(&path).unwrap_err().to_string();
        assert!(error.contains("s.safetensors"), "{error}");
    }
    let direction = demo().directions["mood"].clone();
    direction
        .save_as(&path, lmscope::file::Overwrite::Allowed)
        .unwrap();
    let error = Statistics::load(&path).unwrap_err().to_string();
    assert!(error.contains("no statistics"), "{error}");
}

#[test]
fn what_has_no_mean_is_refused() {
    let mut lab = every_family().next().unwrap();
    let cut = pieces(&prompt(20), None, 12);
    let mut refused = |at: Address, cut: &[Vec<u32>], skip: usize| {
        let found = Statistics::measure(&mut lab, cut, &[at], &how(skip));
        found.unwrap_err().to_string()
    };
    let error = refused(Site::AttnProbs.at(0), &cut, 1);
    assert!(error.contains("one row for each query"), "{error}");
    let error = refused(Site::ResidPost.at(99), &cut, 1);
    assert!(error.contains("layers"), "{error}");
    let error = refused(Site::ResidPost.at(0), &[vec![3]], 1);
    assert!(error.contains("more tokens"), "{error}");
}

/// The subcommand, on a text that is too short and on one that does not exist.
#[test]
fn the_subcommand_writes_a_file_that_its_model_takes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let call = |arguments: &[&str]| {
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_lmscope"))
            .args(arguments)
            .output();
        let out = out.unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    let text = "The capital of France is Paris. ".repeat(40);
    std::fs::write(path("t.txt"), text).unwrap();
    let (code, said) = call(&[
        "stats",
        "demo",
        &path("t.txt"),
        "-o",
        &path("s"),
        "--sites",
        "mlp_act,logits",
    ]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("WARNING: only") && said.contains("10 000"),
        "{said}"
    );
    let found = Statistics::load(std::path::Path::new(&path("s"))).unwrap();
    let lab = demo();
    found.check(&lab.model.card).unwrap();
    assert_eq!(found.rows.len(), lab.model.card.layers + 1);
    assert_eq!(found.origin.text, "t.txt");
    for (arguments, words) in [
        (
            vec!["stats", "demo", "nowhere.txt", "-o", "x"],
            "nowhere.txt",
        ),
        (
            vec!["stats", "demo", &path("t.txt"), "-o", "x", "--piece", "1"],
            "--piece",
        ),
        (
            vec![
                "stats",
                "demo",
                &path("t.txt"),
                "-o",
                "x",
                "--sites",
                "mlp_akt",
            ],
            "mlp_act",
        ),
    ] {
        let (code, said) = call(&arguments);
        assert!(
            code != Some(0) && said.contains(words),
            "{arguments:?}: {said}"
        );
    }
}

/// A `mean` edit takes its target from the file it names, at its units and nowhere else, and the receipt says from what.
#[test]
fn a_mean_edit_takes_its_values_from_the_file_that_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("neutral.safetensors");
    for mut lab in super::tools::dense_families() {
        let at = Site::MlpAct.at(1);
        let text = prompt(40);
        let made =
            Statistics::measure(&mut lab, std::slice::from_ref(&text), &[at], &how(1)).unwrap();
        std::fs::write(&path, made.bytes().unwrap()).unwrap();
        let rows = |lab: &mut Lab, edits: &[&str]| {
            let run = super::tools::edited(prompt(7), edits);
            let found = lab.record(&run, &[at]).unwrap();
            (
                found.get(at).unwrap().to_vec2::<f32>().unwrap(),
                found.receipts.clone(),
            )
        };
        let edit = format!("mean:2,5={}@mlp_act.1", path.display());
        let (plain, _) = rows(&mut lab, &[]);
        let (edited, receipts) = rows(&mut lab, &[&edit]);
        for (row, before) in edited.iter().zip(&plain) {
            for (unit, value) in row.iter().enumerate() {
                let expected = if unit == 2 || unit == 5 {
                    made.mean(at).unwrap()[unit]
                } else {
                    before[unit]
                };
                assert_eq!(value.to_bits(), expected.to_bits());
            }
        }
        assert!(
            receipts[0].note.contains("neutral.txt"),
            "{}",
            receipts[0].note
        );
    }
    // Statistics of another model are refused; another seed, as random weights of one seed are one model to the fingerprint.
    let mut lab = Lab::new(Model::tiny(&FAMILIES[0], 8).unwrap());
    let error = lab
        .record(
            &super::tools::edited(
                prompt(7),
                &[&format!("mean:2={}@mlp_act.1", path.display())],
            ),
            &[Site::Logits.at(0)],
        )
        .unwrap_err();
    assert!(error.to_string().contains("of this model"), "{error}");
}
