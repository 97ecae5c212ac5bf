//! Training of dictionaries: what is planted is found (T23, O7), every kind learns, dead features come back by AuxK, a stopped
//! training goes on as if it had not stopped, and what is written is what SAELens reads.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use lmscope::dictionaries::captured::captures;
use lmscope::dictionaries::evaluate::evaluate;
use lmscope::dictionaries::formats;
use lmscope::dictionaries::gate::FeatureGate;
use lmscope::dictionaries::opened::{DictionarySet, PlacedDictionary};
use lmscope::dictionaries::train::activations::{SplitText, TextCut, contexts, rows};
use lmscope::dictionaries::train::file::{CONFIG, TrainedDictionary, WEIGHTS};
use lmscope::dictionaries::train::losses::BatchMeasures;
use lmscope::dictionaries::train::state::{self, TrainingFacts};
use lmscope::dictionaries::train::training::{DictionaryTrainer, TrainingWatch, train};
use lmscope::dictionaries::train::{TrainKind, TrainOptions};
use lmscope::error::{Error, Result};
use lmscope::file::Overwrite;
use lmscope::lab::Lab;
use lmscope::model::network::site::{Address, Site};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use serde_json::Value;

use crate::cli::outcome;
use crate::demo::demo;

fn options(kind: TrainKind) -> TrainOptions {
    TrainOptions {
        kind,
        features: 64,
        k: 4,
        penalty: if kind == TrainKind::Standard {
            0.5
        } else {
            1.0
        },
        tokens: 20_000,
        batch: 200,
        rate: 5e-3,
        seed: 3,
        aux: 1.0,
        dead_after: 2000,
    }
}

/// Sparse sums of known directions, organism O7: `l0` of them at a time, with lognormal coefficients.
struct Planted {
    width: usize,
    l0: usize,
    directions: Vec<Vec<f32>>,
    rng: StdRng,
}

impl Planted {
    fn new(count: usize, width: usize, l0: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(11);
        let directions = (0..count)
            .map(|_| {
                let row: Vec<f32> = (0..width).map(|_| rng.sample(StandardNormal)).collect();
                let norm = row.iter().map(|w| w * w).sum::<f32>().sqrt();
                row.into_iter().map(|w| w / norm).collect()
            })
            .collect();
        Self {
            width,
            l0,
            directions,
            rng,
        }
    }

    fn rows(&mut self, count: usize) -> Vec<f32> {
        let mut out = vec![0f32; count * self.width];
        for row in out.chunks_exact_mut(self.width) {
            for _ in 0..self.l0 {
                let which = self.rng.random_range(0..self.directions.len());
                let size: f32 = self.rng.sample(StandardNormal);
                let size = (0.5 * size).exp();
                let direction = self.directions[which].iter();
                row.iter_mut()
                    .zip(direction)
                    .for_each(|(x, d)| *x += size * d);
            }
        }
        out
    }

    /// For every direction the largest cosine with a decoder's vector, on average.
    fn found(&self, trained: &TrainedDictionary) -> f32 {
        let best = self.directions.iter().map(|direction| {
            let rows = trained.decoder.chunks_exact(self.width);
            let cosines =
                rows.map(|row| row.iter().zip(direction).map(|(a, b)| a * b).sum::<f32>());
            cosines.fold(-1.0, f32::max)
        });
        best.sum::<f32>() / self.directions.len() as f32
    }

    fn train(&mut self, options: &TrainOptions) -> (DictionaryTrainer, Vec<BatchMeasures>) {
        let first = self.rows(2000);
        let mut trainer = DictionaryTrainer::new(options, self.width, &first);
        let measures = self.go_on(&mut trainer);
        (trainer, measures)
    }

    fn go_on(&mut self, trainer: &mut DictionaryTrainer) -> Vec<BatchMeasures> {
        let mut out = Vec::new();
        while !trainer.is_done() {
            let x = self.rows(trainer.options.batch);
            out.push(trainer.step(&x).unwrap());
        }
        out
    }
}

/// T23. An untrained dictionary, which is the control, has random directions.
#[test]
fn planted_directions_are_found() {
    let mut planted = Planted::new(256, 64, 4);
    let options = TrainOptions {
        features: 256,
        tokens: 200_000,
        batch: 256,
        rate: 1e-2,
        dead_after: 20_000,
        ..options(TrainKind::TopK)
    };
    let (trainer, _) = planted.train(&options);
    let found = planted.found(&trainer.finished());
    let before = planted.found(&trainer.untrained().finished());
    println!("mean max cosine {found:.3}, untrained {before:.3}");
    assert!(found >= 0.95, "{found}");
    assert!(before < 0.6, "{before}");
    // TopK does not shrink what it reconstructs.
    let x = planted.rows(500);
    let made = reconstructed(&trainer.finished(), &x);
    let along: f64 = x.iter().zip(&made).map(|(x, m)| f64::from(x * m)).sum();
    let size: f64 = made.iter().map(|m| f64::from(*m).powi(2)).sum();
    assert!((along / size - 1.0).abs() < 0.03, "{}", along / size);
}

fn reconstructed(trained: &TrainedDictionary, x: &[f32]) -> Vec<f32> {
    let dictionary = trained
        .dictionary("trained", Site::ResidPost.at(0))
        .unwrap();
    let encoded = dictionary.encode(&[x]).unwrap();
    dictionary.decode(0, &encoded, x).unwrap()
}

#[test]
fn every_kind_learns_and_is_sparse() {
    for kind in TrainKind::ALL {
        let mut planted = Planted::new(64, 32, 4);
        let options = TrainOptions {
            tokens: 60_000,
            dead_after: 6000,
            ..options(kind)
        };
        let (trainer, measures) = planted.train(&options);
        let (first, last) = (&measures[0], &measures[measures.len() - 1]);
        assert!(
            last.error < 0.5 * first.error,
            "{kind}: {} {}",
            first.error,
            last.error
        );
        let trained = trainer.finished();
        let x = planted.rows(1000);
        let dictionary = trained
            .dictionary("trained", Site::ResidPost.at(0))
            .unwrap();
        let encoded = dictionary.encode(&[&x]).unwrap();
        let l0 = encoded.features.iter().map(Vec::len).sum::<usize>() as f64 / 1000.0;
        println!(
            "{kind}: error {:.2} to {:.2}, L0 {l0:.1}, cosine {:.3}",
            first.error,
            last.error,
            planted.found(&trained)
        );
        // What is written is what was trained: with the threshold of BatchTopK as well.
        assert!(
            (l0 - last.l0).abs() < 0.25 * last.l0 + 0.5,
            "{kind}: {l0} {}",
            last.l0
        );
        assert!(l0 < 32.0, "{kind}: {l0}");
        assert!(planted.found(&trained) > planted.found(&trainer.untrained().finished()) + 0.1);
        let norms = trained
            .decoder
            .chunks_exact(32)
            .map(|row| row.iter().map(|w| w * w).sum::<f32>());
        norms.for_each(|n| assert!((n - 1.0).abs() < 1e-4, "{kind}: {n}"));
    }
}

/// Half of the features cannot be active at the beginning. Without AuxK they have no gradient, and stay dead.
#[test]
fn dead_features_come_back_by_auxk_alone() {
    let dead_after = |aux: f32| {
        let mut planted = Planted::new(64, 32, 4);
        let options = TrainOptions {
            aux,
            tokens: 60_000,
            dead_after: 1000,
            ..options(TrainKind::TopK)
        };
        let first = planted.rows(2000);
        let mut trainer = DictionaryTrainer::new(&options, 32, &first);
        trainer.weights.encoder_bias[..32].fill(-0.5);
        planted.go_on(&mut trainer);
        trainer.silent[..32].iter().filter(|n| **n >= 1000).count()
    };
    let (with, without) = (dead_after(1.0), dead_after(0.0));
    println!("dead of 32: {with} with AuxK, {without} without");
    assert_eq!(without, 32);
    assert!(with <= 16, "{with}");
}

/// Numbers that are not finite stop a training, and leave it as it was.
#[test]
fn a_step_that_is_not_finite_changes_nothing() {
    let mut planted = Planted::new(64, 32, 4);
    let (mut trainer, _) = planted.train(&options(TrainKind::TopK));
    let before = (
        trainer.weights.clone(),
        trainer.optimiser.clone(),
        trainer.seen,
    );
    let mut x = planted.rows(10);
    x[7] = f32::MAX;
    let error = trainer.step(&x).unwrap_err().to_string();
    assert!(error.contains("--lr"), "{error}");
    assert!(
        before
            == (
                trainer.weights.clone(),
                trainer.optimiser.clone(),
                trainer.seen
            )
    );
}

fn text() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/lists");
    let lists = [
        "refusal_plus.txt",
        "refusal_minus.txt",
        "mood_plus.txt",
        "mood_minus.txt",
        "politeness_plus.txt",
    ];
    lists
        .map(|name| std::fs::read_to_string(folder.join(name)).unwrap())
        .concat()
}

fn split(lab: &Lab) -> SplitText {
    let cut = TextCut {
        context: 32,
        lines: false,
    };
    SplitText::of(&lab.model, &text(), cut).unwrap()
}

/// Stops a training after so many steps.
struct StopAfter(usize);

impl TrainingWatch for StopAfter {
    fn stepped(&mut self, trainer: &mut DictionaryTrainer, measures: &BatchMeasures) -> Result<()> {
        trainer.note(measures);
        match self.0.checked_sub(1) {
            Some(left) => self.0 = left,
            None => return Err(Error::Cancelled),
        }
        Ok(())
    }
}

#[test]
fn a_resumed_training_ends_as_an_unbroken_one() {
    let mut lab = demo();
    let (at, text) = (Site::ResidPost.at(2), split(&lab));
    let options = TrainOptions {
        tokens: 6000,
        ..options(TrainKind::BatchTopK)
    };
    let facts = TrainingFacts {
        options: options.clone(),
        revision: lab.model.card.revision.clone(),
        dtype: lab.model.card.dtype.into(),
        site: at.to_string(),
        text: text.digest,
    };
    let mut whole = None;
    train(
        &mut lab,
        &text,
        at,
        &options,
        &mut whole,
        &mut StopAfter(usize::MAX),
    )
    .unwrap();
    let whole = whole.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let mut resumed: Option<DictionaryTrainer> = None;
    for steps in [0, 6, 1, usize::MAX] {
        let outcome = train(
            &mut lab,
            &text,
            at,
            &options,
            &mut resumed,
            &mut StopAfter(steps),
        );
        assert_eq!(outcome.is_ok(), steps == usize::MAX);
        // Through the file, every time.
        state::save(resumed.as_ref().unwrap(), &facts, &path).unwrap();
        let (again, changed) = state::load(&path, &facts).unwrap();
        assert_eq!(changed, None);
        resumed = Some(again);
    }
    let resumed = resumed.unwrap();
    assert_eq!(resumed.weights, whole.weights);
    assert_eq!(resumed.optimiser, whole.optimiser);
    assert_eq!(
        (resumed.seen, resumed.place, resumed.threshold),
        (whole.seen, whole.place, whole.threshold)
    );
    assert_eq!(resumed.curve.len(), whole.curve.len());
    assert_eq!(resumed.finished(), whole.finished());
    // And not for another training.
    #[allow(clippy::type_complexity)] // a name and a change
    let changes: [(&str, fn(&mut TrainingFacts)); 3] = [
        ("model", |f| f.revision = "0".into()),
        ("site", |f| f.site = "resid_post.3".into()),
        ("text", |f| f.text += 1),
    ];
    for (name, change) in changes {
        let mut other = facts.clone();
        change(&mut other);
        let error = state::load(&path, &other).unwrap_err().to_string();
        assert!(
            error.contains(name) && error.contains("--resume") | error.contains("Resume"),
            "{error}"
        );
    }
    // A smaller learning rate is what one wants after a divergence.
    let mut slower = facts.clone();
    slower.options.rate = 1e-4;
    let (again, changed) = state::load(&path, &slower).unwrap();
    assert_eq!(
        (again.options.rate, changed),
        (1e-4, Some(facts.options.rate))
    );
}

#[test]
fn a_cancelled_pass_leaves_the_training_as_it_was() {
    let mut lab = demo();
    let (at, text) = (Site::ResidPost.at(2), split(&lab));
    let options = TrainOptions {
        tokens: 6000,
        ..options(TrainKind::TopK)
    };
    let mut trainer = None;
    lab.cancel.store(true, Ordering::Relaxed);
    let outcome = train(
        &mut lab,
        &text,
        at,
        &options,
        &mut trainer,
        &mut StopAfter(usize::MAX),
    );
    assert!(matches!(outcome, Err(Error::Cancelled)) && trainer.is_none());
}

/// Blocks above the site are not computed, and what is read is the same.
#[test]
fn a_pass_stops_at_the_site_with_equal_bits() {
    let mut lab = demo();
    let cut = TextCut {
        context: 24,
        lines: false,
    };
    let some = contexts(&lab.model, &text(), cut).unwrap()[..3].to_vec();
    let at = Site::ResidPost.at(1);
    let partial = rows(&mut lab, &some, at).unwrap();
    let mut whole = Vec::new();
    for context in &some {
        let run = lmscope::lab::run::Run::plain(context.clone());
        let capture = lab.record(&run, &[at]).unwrap();
        let values = capture.get(at).unwrap().to_vec2::<f32>().unwrap();
        whole.extend(values[1..].concat());
    }
    let off = partial
        .iter()
        .zip(&whole)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(partial.len() == whole.len() && off < 1e-4, "{off}");
    // Blocks that are not there cannot be computed.
    lab.model.transformer.blocks.truncate(2);
    let layers = lab.model.card.layers;
    assert_eq!(layers, 8);
    assert_eq!(rows(&mut lab, &some, at).unwrap(), partial);
    assert!(
        captures(
            &mut lab,
            some.iter().cloned(),
            &[Site::ResidPost.at(1), Site::MlpAct.at(0)]
        )
        .is_ok()
    );
}

fn set_of(trained: &TrainedDictionary, at: Address, lab: &Lab) -> DictionarySet {
    let dictionary = trained.dictionary("test", at).unwrap();
    DictionarySet::of(PlacedDictionary::on(dictionary, &lab.model).unwrap())
}

/// A dictionary that leaves out nothing recovers everything, and one that writes nothing recovers nothing.
#[test]
fn evaluation_has_known_ends() {
    let mut lab = demo();
    let at = Site::ResidPost.at(3);
    let width = lab.model.width(at.site);
    let unit = |sign: f32| -> Vec<f32> {
        (0..width * width)
            .map(|i| if i / width == i % width { sign } else { 0.0 })
            .collect()
    };
    let both = [unit(1.0), unit(-1.0)].concat();
    let identity = TrainedDictionary {
        features: 2 * width,
        width,
        encoder: both.clone(),
        encoder_bias: vec![0.0; 2 * width],
        decoder: both,
        decoder_bias: vec![0.0; width],
        gate: FeatureGate::Relu,
    };
    let cut = TextCut {
        context: 40,
        lines: true,
    };
    let some = contexts(&lab.model, &text(), cut).unwrap()[..8].to_vec();
    let measure = |lab: &mut Lab, trained: &TrainedDictionary| {
        let set = set_of(trained, at, lab);
        evaluate(lab, &set, &set.dictionaries[0], &some, 1).unwrap()
    };
    let whole = measure(&mut lab, &identity);
    assert!((whole.explained.value - 1.0).abs() < 1e-6, "{whole:?}");
    assert!((whole.ce_recovered.value - 1.0).abs() < 1e-4, "{whole:?}");
    assert!((whole.ce_spliced - whole.ce_base).abs() < 1e-4);
    assert!(
        whole.l0 > 100.0 && whole.dead < 0.02 && whole.ce_zero > whole.ce_base + 0.5,
        "{whole:?}"
    );
    assert!(
        whole.explained_control < 0.2 && whole.ce_recovered_control < 0.9,
        "{whole:?}"
    );
    assert_eq!(
        whole.tokens,
        some.iter().map(|c| c.len() - 1).sum::<usize>()
    );
    assert!(
        whole.ce_recovered.low <= whole.ce_recovered.value
            && whole.ce_recovered.value <= whole.ce_recovered.high
    );
    // A text that zeros make no less probable has lost nothing that could be recovered: tokens in an order that the model never saw.
    let foreign: Vec<Vec<u32>> = (0..4u32)
        .map(|seed| {
            (0..40)
                .map(|i| (i * 7919 + seed * 104_729) % 1500 + 300)
                .collect()
        })
        .collect();
    let set = set_of(&identity, at, &lab);
    let found = evaluate(&mut lab, &set, &set.dictionaries[0], &foreign, 1).unwrap();
    assert!(found.ce_zero <= found.ce_base, "{found:?}");
    assert!(found.ce_recovered.value.is_nan() && found.ce_recovered_control.is_nan());
    assert!(serde_json::json!(found)["ce_recovered"]["value"].is_null());
    let silent = TrainedDictionary {
        encoder_bias: vec![-1e6; 2 * width],
        ..identity
    };
    let nothing = measure(&mut lab, &silent);
    assert!(
        (nothing.ce_recovered.value).abs() < 1e-4 && nothing.l0 == 0.0 && nothing.dead == 1.0,
        "{nothing:?}"
    );
    assert!(nothing.explained.value < 0.0 && (nothing.ce_base - whole.ce_base).abs() < 1e-9);
}

fn references() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references/trained")
}

fn flat(rows: &Value) -> Vec<f32> {
    let rows = rows.as_array().unwrap().iter();
    rows.flat_map(|row| {
        row.as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_f64().unwrap() as f32)
    })
    .collect()
}

/// Folders that were written here, and what SAELens makes of them (`tests/references/trained.py`).
#[test]
fn saelens_reads_what_is_written() {
    let expected: Value =
        serde_json::from_slice(&std::fs::read(references().join("expected.json")).unwrap())
            .unwrap();
    let (x, width) = (flat(&expected["x"]), 128);
    for kind in TrainKind::ALL {
        let folder = references().join(kind.name());
        let dictionary = formats::open(&folder).unwrap().remove(0);
        let encoded = dictionary.encode(&[&x]).unwrap();
        let features = dictionary.features();
        let mut dense = vec![0f32; x.len() / width * features];
        for (row, active) in encoded.features.iter().enumerate() {
            active
                .iter()
                .for_each(|(f, act)| dense[row * features + *f as usize] = *act);
        }
        let made = dictionary.decode(0, &encoded, &x).unwrap();
        let close = |name: &str, found: &[f32]| {
            let theirs = flat(&expected[kind.name()][name]);
            let off = found
                .iter()
                .zip(&theirs)
                .map(|(a, b)| (a - b).abs() / (1.0 + b.abs()))
                .fold(0.0, f32::max);
            assert!(
                found.len() == theirs.len() && off < 1e-5,
                "{kind} {name}: {off}"
            );
        };
        close("features", &dense);
        close("reconstruction", &made);
        assert!(dense.iter().any(|v| *v > 0.0));
        // The same keys and shapes as are written today.
        let config: Value =
            serde_json::from_slice(&std::fs::read(folder.join(CONFIG)).unwrap()).unwrap();
        let lab = demo();
        let options = TrainOptions {
            features: 16,
            tokens: 200,
            batch: 50,
            ..options(kind)
        };
        let trainer = DictionaryTrainer::new(&options, width, &x);
        let today =
            trainer
                .finished()
                .config(&lab.model, Site::ResidPost.at(3), &options, Value::Null);
        let keys = |v: &Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&today), keys(&config), "{kind}");
        assert_eq!(keys(&today["metadata"]), keys(&config["metadata"]));
        for key in [
            "architecture",
            "apply_b_dec_to_input",
            "normalize_activations",
            "dtype",
        ] {
            assert_eq!(today[key], config[key], "{kind} {key}");
        }
        assert_eq!(today["metadata"]["hook_name"], "blocks.3.hook_resid_post");
    }
}

#[test]
fn what_is_written_is_read_as_it_was_trained() {
    let lab = demo();
    for kind in TrainKind::ALL {
        let mut planted = Planted::new(64, 128, 4);
        let options = TrainOptions {
            tokens: 2000,
            ..options(kind)
        };
        let (trainer, _) = planted.train(&options);
        let trained = trainer.finished();
        let folder = tempfile::tempdir().unwrap();
        let at = Site::ResidPost.at(3);
        let config = trained.config(&lab.model, at, &options, Value::Null);
        trained
            .save(folder.path(), &config, Overwrite::Never)
            .unwrap();
        assert!(folder.path().join(WEIGHTS).is_file());
        let found = formats::open(folder.path()).unwrap().remove(0);
        let x = planted.rows(50);
        let (theirs, ours) = (
            found.encode(&[&x]).unwrap(),
            trained.dictionary("x", at).unwrap(),
        );
        let ours = ours.encode(&[&x]).unwrap();
        for (a, b) in theirs.features.iter().zip(&ours.features) {
            assert_eq!(a.len(), b.len(), "{kind}");
            assert!(
                a.iter()
                    .zip(b)
                    .all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-4)
            );
        }
        assert_eq!(found.targets[0].bias, trained.decoder_bias);
        // Nothing is overwritten unasked.
        assert!(
            trained
                .save(folder.path(), &config, Overwrite::Never)
                .is_err()
        );
    }
}

/// Exit code and error of a command that must fail.
fn refused(line: &[&str]) -> (i32, String) {
    let (code, out, error) = outcome(line);
    assert!(code != 0 && out.is_empty(), "{line:?}");
    (code, error)
}

/// The flags of a training of a few steps on the demo, to a folder.
fn short<'a>(text: &'a str, folder: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut line = vec![
        "dictionary",
        "train",
        "demo",
        "--text",
        text,
        "-o",
        folder,
        "--context",
        "32",
    ];
    for (flag, value) in [
        ("--site", "resid_post.2"),
        ("--features", "32"),
        ("-k", "4"),
        ("--tokens", "1000"),
        ("--batch", "100"),
    ] {
        let other_kind = flag == "-k" && more.contains(&"--kind");
        if !more.contains(&flag) && !other_kind {
            line.extend([flag, value]);
        }
    }
    line.extend(more);
    line
}

#[test]
fn bad_input_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (fine, empty, brief) = (at("text.txt"), at("empty.txt"), at("brief.txt"));
    std::fs::write(&fine, text()).unwrap();
    std::fs::write(&empty, " \n").unwrap();
    std::fs::write(&brief, "The capital of France is Paris.").unwrap();
    let (new, full, file) = (at("new"), at("full"), at("text.txt"));
    std::fs::create_dir(&full).unwrap();
    std::fs::write(Path::new(&full).join("notes"), "x").unwrap();
    let missing = at("no/such/text");
    let rows: [(&str, &str, &[&str], &str); 13] = [
        (&empty, &new, &[], "holds no text"),
        (&brief, &new, &[], "longer than one context"),
        (&missing, &new, &[], "no/such/text"),
        (&fine, &new, &["--features", "0"], "at least 1 feature"),
        (&fine, &new, &["-k", "33"], "1 to 32"),
        (&fine, &new, &["-k", "0"], "1 to 32"),
        (&fine, &new, &["--site", "resid_pst.2"], "resid_post"),
        (&fine, &new, &["--site", "resid_post.8"], "0 to 7"),
        (&fine, &new, &["--site", "attn_probs.2"], "Use z"),
        (&fine, &new, &["--site", "logits"], "resid_post"),
        (
            &fine,
            &new,
            &["--kind", "jumprelu", "--l1", "3"],
            "--l0 for jumprelu",
        ),
        (&fine, &full, &[], "nothing in it was overwritten"),
        (&fine, &file, &[], "not a folder"),
    ];
    for (text, to, more, says) in rows {
        let (code, error) = refused(&short(text, to, more));
        assert!(code == 1 || code == 2, "{more:?} {code}");
        assert!(error.contains(says), "{more:?}: {error}");
        assert!(!Path::new(&new).exists(), "{more:?}");
    }
    let (_, error) = refused(&short(&fine, "/proc/nothing/here", &[]));
    assert!(error.contains("/proc/nothing"), "{error}");
    let (_, error) = refused(&short(&fine, &new, &["--resume"]));
    assert!(error.contains("nothing to resume"), "{error}");
}

#[test]
fn a_short_training_is_written_reported_and_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (text_file, to) = (at("text.txt"), at("new"));
    std::fs::write(&text_file, text()).unwrap();
    let (code, out, error) = outcome(&short(&text_file, &to, &["--format", "json"]));
    assert_eq!(code, 0, "{error}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert!(
        (report["l0"].as_f64().unwrap() - 4.0).abs() < 0.1,
        "{report}"
    );
    assert!(report["untrained"]["explained"]["value"].is_number());
    assert!(error.contains("is held out"), "{error}");
    let mut names: Vec<String> = std::fs::read_dir(&to)
        .unwrap()
        .flatten()
        .map(|e| e.file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, [CONFIG, WEIGHTS]);
    // A second one does not replace it unasked.
    let (_, error) = refused(&short(&text_file, &to, &[]));
    assert!(error.contains("--force"), "{error}");
    let line = [
        "dictionary",
        "evaluate",
        "demo",
        "--dictionary",
        &to,
        "--text",
        &text_file,
        "--tokens",
        "300",
        "--context",
        "32",
        "--format",
        "json",
    ];
    let (code, out, error) = outcome(&line);
    assert_eq!(code, 0, "{error}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["target"], "resid_post.2");
    assert!((report["l0"].as_f64().unwrap() - 4.0).abs() < 0.1);
    // A rate at which the loss is no number stops with a sentence, and keeps what was saved.
    let wild = at("wild");
    let (code, _, error) = outcome(&short(&text_file, &wild, &["--lr", "1e38"]));
    assert_eq!(code, 1, "{error}");
    assert!(
        error.contains("not finite") && error.contains("--lr") && error.contains("--resume"),
        "{error}"
    );
    assert!(!Path::new(&wild).join(CONFIG).exists());
}
