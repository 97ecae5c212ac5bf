//! Single features: `feature`, `feature-search` and `feature-logits` against PyTorch (`tests/references/features.py`), their sums on
//! every family, and controls that fail where nothing is planted.

use std::path::{Path, PathBuf};

use lmscope::dictionaries::handles::with_features;
use lmscope::dictionaries::in_stream::{role, stream_vectors};
use lmscope::dictionaries::opened::OpenDictionaries;
use lmscope::edit::schedule::Schedule;
use lmscope::figure::{Body, Entry, Figure, TablePage, TableRow};
use lmscope::instruments::{Arguments, instrument, observe};
use lmscope::lab::Lab;
use lmscope::lab::logit_effects::{ValueNorm, logit_effects};
use lmscope::lab::run::Run;
use lmscope::lab::sample::Sampling;
use lmscope::lab::writer::Writer;
use lmscope::model::load::Options;
use lmscope::model::network::families::FAMILIES;
use lmscope::model::network::site::{Address, Site};
use serde_json::Value;

use super::hostile::{saelens, write};
use super::rows;
use crate::tools::{edited, every_family, next, prompt, tiny};

pub const CASES: [&str; 3] = ["llama", "gpt2", "gemma2"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references")
}

/// A reference model, its dictionary as it is given, and what PyTorch says of it.
pub fn case(name: &str) -> (Lab, String, Value) {
    let options = Options {
        dtype: Some("f32".into()),
        device: Some("cpu".into()),
        ..Options::default()
    };
    let lab = Lab::open(root().join(name).to_str().unwrap(), &options).unwrap();
    let folder = root().join("features");
    let text = std::fs::read(folder.join("expected.json")).unwrap();
    let all: Value = serde_json::from_slice(&text).unwrap();
    // The hook of its config is that of TransformerLens, which is behind the norm; the reference is of what is before it.
    let at = if name == "gemma2" { "@mlp_out.0" } else { "" };
    let given = format!("{}{at}", folder.join(name).display());
    (lab, given, all[name].clone())
}

pub fn whole_numbers(of: &Value) -> Vec<u32> {
    let numbers = of.as_array().unwrap().iter();
    numbers.map(|n| n.as_u64().unwrap() as u32).collect()
}

pub fn numbers(of: &Value) -> Vec<f32> {
    let numbers = of.as_array().unwrap().iter();
    numbers.map(|n| n.as_f64().unwrap() as f32).collect()
}

#[track_caller]
pub fn close(a: f32, b: f32, tolerance: f32) {
    assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{a} and {b}");
}

fn figure(lab: &mut Lab, name: &str, run: &Run, arguments: &Arguments) -> Figure {
    observe(instrument(name).unwrap(), run, arguments, lab).unwrap_or_else(|e| panic!("{e}"))
}

fn refused(lab: &mut Lab, name: &str, arguments: &Arguments) -> String {
    let run = Run::plain(prompt(6));
    let found = observe(instrument(name).unwrap(), &run, arguments, lab);
    found.map(|f| f.title).unwrap_err().to_string()
}

fn pages(figure: &Figure) -> &[TablePage] {
    let Body::Table(table) = &figure.body else {
        panic!("a table");
    };
    &table.pages
}

fn words(row: &TableRow, column: usize) -> &str {
    match &row.entries[column] {
        Entry::Text(words) => words,
        other @ (Entry::Whole(_) | Entry::Number(_) | Entry::Missing) => panic!("{other:?}"),
    }
}

fn number(row: &TableRow, column: usize) -> f32 {
    match row.entries[column] {
        Entry::Whole(number) => number as f32,
        Entry::Number(number) => number,
        Entry::Missing => panic!("no number"),
        Entry::Text(ref words) => panic!("{words}"),
    }
}

/// A folder whose name is too long to stand before every feature.
fn long_name(folder: &Path) -> PathBuf {
    folder.join("a-dictionary-with-a-long-name")
}

/// The rows of a part.
fn rows_named<'a>(page: &'a TablePage, name: &str) -> Vec<&'a TableRow> {
    let named = page.rows.iter();
    named.filter(|row| words(row, 0) == name).collect()
}

#[test]
fn promoted_tokens_and_near_features_are_those_of_pytorch() {
    for name in CASES {
        let (mut lab, given, expected) = case(name);
        let set = lab.derived::<OpenDictionaries>().get(&given, &lab).unwrap();
        let some = whole_numbers(&expected["some"]);
        let vectors = stream_vectors(&set.dictionaries[0], &lab.model, &some).unwrap();
        let (_, logits) = logit_effects(&lab.model, &vectors, ValueNorm::Gained).unwrap();
        let promoted = rows(&expected["promoted"]);
        for (found, expected) in logits.iter().zip(&promoted) {
            assert_eq!(found.len(), expected.len());
            found
                .iter()
                .zip(expected)
                .for_each(|(a, b)| close(*a, *b, 1e-5));
        }
        let run = Run::plain(whole_numbers(&expected["prompt"]));
        let near = rows(&expected["near"]);
        for ((feature, promoted), near) in some.iter().zip(&promoted).zip(&near) {
            let arguments = Arguments::default()
                .with("dictionary", &given)
                .with("feature", feature)
                .with("count", 3);
            let shown = figure(&mut lab, "feature", &run, &arguments);
            let page = &pages(&shown)[0];
            let most = promoted.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let least = promoted.iter().copied().fold(f32::INFINITY, f32::min);
            close(number(rows_named(page, "promotes")[0], 1), most, 1e-5);
            close(number(rows_named(page, "suppresses")[0], 1), least, 1e-5);
            let mut others: Vec<(f32, usize)> =
                near.iter().enumerate().map(|(f, c)| (*c, f)).collect();
            others.retain(|(_, f)| *f != *feature as usize);
            others.sort_by(|a, b| b.0.total_cmp(&a.0));
            let found = rows_named(page, "near");
            assert_eq!(found.len(), 3);
            for (row, (cosine, f)) in found.iter().zip(&others) {
                close(number(row, 1), *cosine, 1e-5);
                assert_eq!(words(row, 2), format!("#{f}"));
            }
        }
    }
}

#[test]
fn the_features_that_promote_a_token_are_those_of_pytorch() {
    for name in CASES {
        let (mut lab, given, expected) = case(name);
        let arguments = Arguments::default()
            .with("dictionary", &given)
            .with("token", format!("#{}", expected["target"]))
            .with("count", 5);
        let shown = figure(&mut lab, "feature-search", &Run::default(), &arguments);
        let effects = numbers(&expected["effects"]);
        let page = &pages(&shown)[0];
        assert_eq!(page.rows.len(), 5);
        for row in &page.rows {
            let feature: usize = words(row, 0).trim_start_matches('#').parse().unwrap();
            close(number(row, 1), effects[feature], 1e-5);
        }
        // Of features whose whole row is known, rank and z.
        let some = whole_numbers(&expected["some"]);
        let target = expected["target"].as_u64().unwrap() as usize;
        let mut seen = 0;
        let few: Vec<_> = page
            .rows
            .iter()
            .map(|row| words(row, 0).to_string())
            .collect();
        let arguments = arguments.with("count", 32);
        let shown = figure(&mut lab, "feature-search", &Run::default(), &arguments);
        // Of all features those with the largest z, whatever they add to every token.
        let all = &pages(&shown)[0].rows;
        assert!(all.len() > few.len());
        assert!(
            all.is_sorted_by(|a, b| number(a, 2) >= number(b, 2)),
            "{all:?}"
        );
        assert!(
            all.iter()
                .zip(&few)
                .all(|(row, name)| words(row, 0) == name)
        );
        for (feature, logits) in some.iter().zip(rows(&expected["promoted"])) {
            let named = rows_named(&pages(&shown)[0], &format!("#{feature}"));
            let above = logits.iter().filter(|z| **z > logits[target]).count();
            assert_eq!(named[0].entries[3], Entry::from(above + 1));
            let count = logits.len() as f32;
            let mean = logits.iter().sum::<f32>() / count;
            let square = logits.iter().map(|z| (z - mean).powi(2)).sum::<f32>() / count;
            close(
                number(named[0], 2),
                (logits[target] - mean) / square.sqrt(),
                1e-4,
            );
            seen += 1;
        }
        assert_eq!(seen, 3);
    }
}

#[test]
fn what_features_wrote_of_a_logit_is_that_of_pytorch() {
    for name in CASES {
        let (mut lab, given, expected) = case(name);
        let run = Run::plain(whole_numbers(&expected["prompt"]));
        let arguments = Arguments::default()
            .with("dictionary", &given)
            .with("token", format!("#{}", expected["target"]))
            .with("on", "logit")
            .with("count", 20);
        let shown = figure(&mut lab, "feature-logits", &run, &arguments);
        let page = &pages(&shown)[0];
        let Value::Object(written) = &expected["written"] else {
            panic!("an object");
        };
        let features: Vec<&TableRow> = page
            .rows
            .iter()
            .filter(|r| words(r, 0).starts_with('#'))
            .collect();
        assert_eq!(features.len(), written.len(), "{name}");
        for row in features {
            let pair = numbers(&written[words(row, 0).trim_start_matches('#')]);
            close(number(row, 2), pair[0], 1e-4);
            close(number(row, 1), pair[1], 1e-4);
        }
        let part = |name: &str| number(rows_named(page, name)[0], 1);
        let of = |name: &str| expected[name].as_f64().unwrap() as f32;
        close(part("decoder bias"), of("bias"), 1e-4);
        close(part("error"), of("error"), 1e-4);
        // Biases of the norm and of the unembedding stand apart here.
        let constants = page.rows.iter().filter(|r| words(r, 0).contains(" bias"));
        let constants = constants.filter(|r| words(r, 0) != "decoder bias");
        let constants: f32 = constants.map(|r| number(r, 1)).sum();
        close(part("rest") + constants, of("rest"), 2e-4);
        let check = shown.check.unwrap();
        assert!(check.passed(), "{name}: {check:?}");
        assert!(
            page.title.contains(&format!("{:.4}", of("logit"))),
            "{}",
            page.title
        );
    }
}

/// Numbers that look random and are the same everywhere.
fn noise(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 37 + seed * 101 + i * i % 29) % 41) as f32 / 20.0 - 1.0)
        .collect()
}

/// The sum of all parts, but for the control.
fn total(page: &TablePage) -> f64 {
    let parts = page.rows.iter().filter(|row| words(row, 0) != "control");
    parts.map(|row| f64::from(number(row, 1))).sum()
}

/// Features, bias, error and rest sum to the logit: at every place of the stream or of a term of it, on every family.
#[test]
fn the_parts_sum_to_the_logit_on_every_family() {
    let features = 12;
    let mut seen = 0;
    for mut lab in every_family() {
        let family = lab.model.card.family;
        for site in [
            Site::Embed,
            Site::ResidPre,
            Site::ResidMid,
            Site::ResidPost,
            Site::AttnOut,
            Site::AttnAdd,
            Site::Z,
            Site::MlpOut,
            Site::MlpAdd,
            Site::MlpAct,
        ] {
            let at = site.at(1);
            if lab.model.offers(at).is_err() {
                continue;
            }
            let width = lab.model.width(site);
            let folder = tempfile::tempdir().unwrap();
            let (w_enc, w_dec) = (noise(width * features, 1), noise(width * features, 2));
            saelens(folder.path(), width, features, &w_enc, &w_dec, "topk");
            let arguments = Arguments::default()
                .with("dictionary", format!("{}@{at}", folder.path().display()))
                .with("token", "#3")
                .with("on", "logit")
                .with("window", 3);
            let run = Run::plain(prompt(7));
            let found = observe(
                instrument("feature-logits").unwrap(),
                &run,
                &arguments,
                &mut lab,
            );
            if lab.model.card.norms_stream {
                let said = found.unwrap_err().to_string();
                assert!(said.contains("normalizes the stream"), "{said}");
                continue;
            }
            let shown = match found {
                // Neurons of a mixture are inside its experts.
                Err(error) if site == Site::MlpAct => {
                    assert!(lab.model.card.neuron_layers.is_empty(), "{family}: {error}");
                    continue;
                }
                found => found.unwrap_or_else(|e| panic!("{family} {at}: {e}")),
            };
            let check = shown.check.unwrap();
            assert!(
                check.passed() && check.error < 1e-4,
                "{family} {at}: {check:?}"
            );
            let logits = lab.last_logits(&run).unwrap();
            let cap = lab.model.transformer.blueprint.logit_cap;
            let page = pages(&shown).last().unwrap();
            let sum = total(page) as f32;
            let capped = cap.map_or(sum, |cap| (sum / cap as f32).tanh() * cap as f32);
            close(capped, logits[3], 1e-4);
            assert_eq!(pages(&shown).len(), 3);
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen}");
}

/// Edits of the stream, and of an output behind the place of the dictionary, are parts of the sum; and a wrong sum fails its check.
#[test]
fn edits_are_in_the_sum() {
    let mut lab = tiny(FAMILIES.iter().find(|f| f.name == "gemma2").unwrap());
    let (width, features) = (lab.model.card.d_model, 12);
    let folder = tempfile::tempdir().unwrap();
    let (w_enc, w_dec) = (noise(width * features, 1), noise(width * features, 2));
    saelens(folder.path(), width, features, &w_enc, &w_dec, "topk");
    for (at, edit, named) in [
        ("resid_post.0", "zero:3@resid_post.1*0.5", false),
        ("resid_post.1", "scale@resid_mid.1*0.5", false),
        ("mlp_out.1", "scale@mlp_add.1*0.5", true),
        ("attn_out.1", "scale@attn_out.1*0.5", false),
    ] {
        let run = edited(prompt(7), &[edit]);
        let arguments = Arguments::default()
            .with("dictionary", format!("{}@{at}", folder.path().display()))
            .with("on", "logit")
            .with("token", "#3");
        let shown = figure(&mut lab, "feature-logits", &run, &arguments);
        assert!(
            shown.check.unwrap().passed(),
            "{at} {edit}: {:?}",
            shown.check
        );
        let page = &pages(&shown)[0];
        assert_eq!(
            rows_named(page, "edits").len(),
            usize::from(named),
            "{at} {edit}"
        );
        let cap = lab.model.transformer.blueprint.logit_cap.unwrap() as f32;
        let sum = total(page) as f32;
        close(
            (sum / cap).tanh() * cap,
            lab.last_logits(&run).unwrap()[3],
            1e-4,
        );
    }
}

/// Transcoders of all layers split all MLP outputs at once; so does a cross-layer set, whose features write to later layers too.
#[test]
fn a_set_of_transcoders_splits_every_mlp() {
    let mut lab = tiny(FAMILIES.iter().find(|f| f.name == "llama").unwrap());
    let (width, features) = (lab.model.card.d_model, 16);
    let folder = tempfile::tempdir().unwrap();
    let path = &long_name(folder.path());
    std::fs::create_dir(path).unwrap();
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
                (
                    &name("W_enc"),
                    &[features, width],
                    noise(features * width, layer),
                ),
                (&name("b_enc"), &[features], noise(features, 9)),
                (&name("b_dec"), &[width], noise(width, layer + 20)),
            ],
        );
        let targets = 3 - layer;
        write(
            &path.join(format!("W_dec_{layer}.safetensors")),
            &[(
                &name("W_dec"),
                &[features, targets, width],
                noise(features * targets * width, layer + 5),
            )],
        );
    }
    let run = Run::plain(prompt(7));
    let given = Arguments::default()
        .with("dictionary", path.display())
        .with("token", "#3")
        .with("count", 200);
    let on_logit = given.clone().with("on", "logit");
    let all = figure(&mut lab, "feature-logits", &run, &on_logit);
    assert!(all.check.unwrap().passed(), "{:?}", all.check);
    close(
        total(&pages(&all)[0]) as f32,
        lab.last_logits(&run).unwrap()[3],
        1e-4,
    );
    let own = figure(
        &mut lab,
        "feature-logits",
        &run,
        &on_logit.clone().with("layer", 0),
    );
    assert!(own.check.unwrap().passed(), "{:?}", own.check);
    close(
        total(&pages(&own)[0]) as f32,
        lab.last_logits(&run).unwrap()[3],
        1e-4,
    );
    assert!(
        all.title.contains("mlp_add.0, mlp_add.1, mlp_add.2"),
        "{}",
        all.title
    );
    // By hand: a feature of layer 0 through all three of its targets.
    let set = lab
        .derived::<OpenDictionaries>()
        .get(&path.display().to_string(), &lab)
        .unwrap();
    let placed = &set.dictionaries[0];
    let capture = lab
        .record(&run, &[placed.reads[0], Site::ResidPost.at(2)])
        .unwrap();
    let x = crate::tools::values(capture.get(placed.reads[0]).unwrap());
    let last = crate::tools::values(capture.get(Site::ResidPost.at(2)).unwrap());
    let scale = lab
        .model
        .transformer
        .norm
        .inverse_scale_of(&last[6 * width..]);
    let (feature, act) = placed
        .dictionary
        .encode(&[&x[6 * width..]])
        .unwrap()
        .features[0][0];
    let vectors = stream_vectors(placed, &lab.model, &[feature]).unwrap();
    let (_, logits) = logit_effects(&lab.model, &vectors, ValueNorm::Gained).unwrap();
    let row = rows_named(&pages(&all)[0], &format!("#0/{feature}"))[0];
    close(number(row, 1), act * logits[0][3] * scale, 1e-4);
    // Its card adds them up as well, and says how it reads.
    let card = given
        .with("feature", format!("0/{feature}"))
        .with("count", 3);
    let card = Arguments::of(
        card.given
            .into_iter()
            .filter(|(name, _)| name != "token" && name != "on")
            .collect(),
    );
    let shown = figure(&mut lab, "feature", &run, &card);
    let page = &pages(&shown)[0];
    close(number(&page.rows[0], 1), act, 1e-5);
    let most = logits[0].iter().copied().fold(f32::NEG_INFINITY, f32::max);
    close(number(rows_named(page, "promotes")[0], 1), most, 1e-5);
    assert_eq!(rows_named(page, "reads alike").len(), 3);
    let said = refused(
        &mut lab,
        "feature",
        &Arguments::default()
            .with("dictionary", path.display())
            .with("feature", 3),
    );
    assert!(said.contains("0/3") && said.contains("0, 1, 2"), "{said}");
}

#[test]
fn places_that_write_to_no_logit_are_refused_by_name() {
    let mut lab = tiny(FAMILIES.iter().find(|f| f.name == "llama").unwrap());
    let width = lab.model.card.d_model;
    let folder = tempfile::tempdir().unwrap();
    saelens(
        folder.path(),
        width,
        8,
        &noise(width * 8, 1),
        &noise(width * 8, 2),
        "topk",
    );
    let at = |place: &str| {
        Arguments::default().with("dictionary", format!("{}@{place}", folder.path().display()))
    };
    let said = refused(&mut lab, "feature-logits", &at("mlp_in.1"));
    assert!(
        said.contains("mlp_in.1") && said.contains("no term"),
        "{said}"
    );
    let said = refused(
        &mut lab,
        "feature-search",
        &at("mlp_in.1").with("token", "#3"),
    );
    assert!(said.contains("no term"), "{said}");
    // The card has everything else.
    let run = Run::plain(prompt(6));
    let shown = figure(
        &mut lab,
        "feature",
        &run,
        &at("mlp_in.1").with("feature", 2),
    );
    let page = &pages(&shown)[0];
    assert!(rows_named(page, "promotes").is_empty() && rows_named(page, "near").len() == 5);
    assert!(
        shown
            .notes
            .iter()
            .any(|n| n.contains("promotes no tokens directly"))
    );
    for (feature, expected) in [("8", "0 to 7"), ("x", "NAME#12/1234"), ("7/1", "1")] {
        let said = refused(
            &mut lab,
            "feature",
            &at("resid_post.1").with("feature", feature),
        );
        assert!(said.contains(expected), "{feature}: {said}");
    }
    assert!(
        role(Address {
            site: Site::Logits,
            layer: 0
        })
        .is_err()
    );
}

/// The card grows by the newest token, with the same numbers as of the whole text.
#[test]
fn the_card_is_the_same_live() {
    let mut lab = tiny(FAMILIES.iter().find(|f| f.name == "llama").unwrap());
    let width = lab.model.card.d_model;
    let folder = tempfile::tempdir().unwrap();
    saelens(
        folder.path(),
        width,
        8,
        &noise(width * 8, 1),
        &noise(width * 8, 2),
        "standard",
    );
    let arguments = Arguments::default()
        .with("dictionary", folder.path().display())
        .with("feature", 2);
    for (name, arguments) in [
        ("feature", arguments.clone()),
        (
            "feature",
            arguments.clone().with("show", "text").with("window", 1),
        ),
        (
            "feature-logits",
            Arguments::default().with("dictionary", folder.path().display()),
        ),
    ] {
        let of = instrument(name).unwrap();
        assert!(of.live(&lab.model.card, &of.read(&arguments).unwrap()));
        let begin = Writer::begin(&mut lab, prompt(6), Schedule::none(), Sampling::default());
        let mut live = begin.unwrap();
        let grown = next(of, &mut live, &arguments, &mut lab);
        let whole = observe(of, &live.run, &arguments, &mut lab).unwrap();
        assert_eq!(grown.title, whole.title);
        match (&grown.body, &whole.body) {
            (Body::Table(a), Body::Table(b)) => {
                assert_eq!(a.columns, b.columns);
                let (a, b) = (&a.pages[0].rows, &b.pages[0].rows);
                assert_eq!(a.len(), b.len());
                for (a, b) in a.iter().zip(b) {
                    for (a, b) in a.entries.iter().zip(&b.entries) {
                        if let (Entry::Number(a), Entry::Number(b)) = (a, b) {
                            close(*a, *b, 1e-3);
                        }
                    }
                }
            }
            (Body::Series(a), Body::Series(b)) => {
                close(a.curves[0].values[0], b.curves[0].values[0], 1e-4);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// What is planted is found by every question, and the controls stay below it.
#[test]
fn a_planted_feature_is_found_by_token_by_text_and_in_the_logit() {
    let mut lab = tiny(FAMILIES.iter().find(|f| f.name == "llama").unwrap());
    let (width, features) = (lab.model.card.d_model, 64);
    let run = Run::plain(prompt(8));
    let capture = lab.record(&run, &[Site::ResidPost.at(1)]).unwrap();
    let x = crate::tools::values(capture.get(Site::ResidPost.at(1)).unwrap());
    // Feature 5 reads the state at the last position, and writes the direction of token 9.
    let planted = &x[7 * width..8 * width];
    let length = planted.iter().map(|v| v * v).sum::<f32>().sqrt();
    let direction = lab.model.transformer.logit_direction(9).unwrap();
    let direction: Vec<f32> = direction.to_vec1().unwrap();
    let mut w_enc = noise(width * features, 3);
    let mut w_dec = noise(width * features, 4);
    w_enc.iter_mut().for_each(|w| *w *= 0.01);
    w_dec.iter_mut().for_each(|w| *w *= 0.01);
    for j in 0..width {
        w_enc[j * features + 5] = planted[j] / length;
        w_dec[5 * width + j] = direction[j];
    }
    let folder = tempfile::tempdir().unwrap();
    saelens(
        &long_name(folder.path()),
        width,
        features,
        &w_enc,
        &w_dec,
        "topk",
    );
    let labels = folder.path().join("labels.json");
    std::fs::write(&labels, r#"{"5": "The planted one", "6": "another"}"#).unwrap();
    let given = Arguments::default()
        .with("dictionary", long_name(folder.path()).display())
        .with("labels", labels.display());
    let search = |lab: &mut Lab, name: &str, value: &str| {
        let shown = figure(
            lab,
            "feature-search",
            &Run::default(),
            &given.clone().with(name, value),
        );
        let rows = pages(&shown)[0].rows.clone();
        rows.iter()
            .map(|row| words(row, 0).to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(search(&mut lab, "token", "#9")[0], "#5");
    assert_eq!(search(&mut lab, "label", "PLANTED the"), ["#5"]);
    assert_eq!(search(&mut lab, "number", "6, #5"), ["#6", "#5"]);
    assert!(search(&mut lab, "label", "nothing").is_empty());
    let logits = given.clone().with("token", "#9").with("count", 1);
    let shown = figure(&mut lab, "feature-logits", &run, &logits);
    let page = &pages(&shown)[0];
    assert_eq!(words(&page.rows[0], 0), "#5");
    assert!(words(&page.rows[0], 5).contains("planted"));
    let control = rows_named(page, "control")[0];
    assert!(
        number(&page.rows[0], 1) > 3.0 * number(control, 1).abs(),
        "{page:?}"
    );
}

/// Whatever names a feature can be clamped: what is found by search, what wrote a logit, the feature of a card, and those near it.
#[test]
fn every_row_about_a_feature_is_a_handle() {
    let (lab, given, _) = case("llama");
    let mut lab = with_features(lab);
    let run = Run::plain((0..8).map(|i| (i * 7 + 3) % 50).collect());
    let arguments = Arguments::default().with("dictionary", &given);
    let rows = |lab: &mut Lab, name: &str, given: &[(&str, &str)]| {
        let mut arguments = arguments.clone();
        for (key, value) in given {
            arguments = arguments.with(key, value);
        }
        pages(&figure(lab, name, &run, &arguments))[0].rows.clone()
    };
    let handle = |row: &TableRow| row.handle.clone().unwrap_or_else(|| panic!("{row:?}"));

    let found = rows(&mut lab, "feature-search", &[("number", "6, 5")]);
    let numbers: Vec<u32> = found.iter().map(|row| handle(row).feature).collect();
    assert_eq!(numbers, [6, 5]);
    assert_eq!(handle(&found[0]).activation, None);
    let both = arguments.clone().with("token", "#9").with("number", "6");
    let notes = figure(&mut lab, "feature-search", &run, &both).notes;
    let said = "not used, because `token` is searched for: number";
    assert!(notes.iter().any(|note| note == said), "{notes:?}");

    let wrote = rows(
        &mut lab,
        "feature-logits",
        &[("token", "#9"), ("count", "2")],
    );
    let own = handle(&wrote[0]);
    assert!(words(&wrote[0], 0).ends_with(&format!("#{}", own.feature)));
    assert_eq!(own.activation, Some(number(&wrote[0], 2)));
    assert!(
        wrote.last().unwrap().handle.is_none(),
        "a sum is no feature"
    );

    let card = rows(
        &mut lab,
        "feature",
        &[("feature", &own.feature.to_string())],
    );
    for row in &card {
        let of = handle(row);
        let near = ["near", "reads alike"].contains(&words(row, 0));
        assert_eq!(near, of.feature != own.feature, "{row:?}");
        assert!(!near || words(row, 2).ends_with(&format!("#{}", of.feature)));
    }
    assert!(card.len() > 5);
    let of = handle(&card[0]);
    let act = number(&card[0], 1);
    assert_eq!(of.activation, (act != 0.0).then_some(act));
    // One that is not active has no activation that could be clamped.
    let silent = (0..32).find_map(|feature: u32| {
        let card = rows(&mut lab, "feature", &[("feature", &feature.to_string())]);
        (number(&card[0], 1) == 0.0).then(|| card[0].clone())
    });
    assert_eq!(handle(&silent.unwrap()).activation, None);
    // What a handle says is an edit that works.
    let edit = format!(
        "set:\"{}\"#{}=7@{}:all-but-bos",
        of.dictionary, of.feature, of.place
    );
    let plain = lab.last_logits(&run).unwrap();
    let schedule = Schedule::always(vec![edit.parse().unwrap()]);
    let under = lab.last_logits(&run.clone().under(&schedule)).unwrap();
    assert!(plain.iter().zip(&under).any(|(a, b)| (a - b).abs() > 1e-3));
}

/// Features that differ between two texts, against positions that are exchanged at random.
#[test]
fn features_of_one_text_are_compared_with_those_of_another() {
    let (mut lab, given, _) = case("llama");
    let folder = root().join("features/llama").display().to_string();
    assert_eq!(given, folder);
    let arguments = Arguments::default()
        .with("dictionary", &given)
        .with("count", 4);
    let run = Run::plain(prompt(8).iter().map(|t| t % 53).collect());
    let shown = figure(&mut lab, "feature-search", &run, &arguments);
    let set = lab.derived::<OpenDictionaries>().get(&given, &lab).unwrap();
    let placed = &set.dictionaries[0];
    let capture = lab.record(&run, &placed.reads).unwrap();
    let x = crate::tools::values(capture.get(placed.reads[0]).unwrap());
    let width = lab.model.card.d_model;
    let encoded = placed.dictionary.encode(&[&x[width..]]).unwrap();
    let mut means = vec![0f32; placed.dictionary.features()];
    for (f, act) in encoded.features.iter().flatten() {
        means[*f as usize] += act / 7.0;
    }
    for row in &pages(&shown)[0].rows {
        let feature: usize = words(row, 0).trim_start_matches('#').parse().unwrap();
        close(number(row, 2), means[feature], 1e-5);
        let norm = placed.dictionary.targets[0]
            .decoder
            .norms_of(&[feature as u32])[0];
        close(number(row, 1), means[feature] * norm, 1e-5);
    }
}
