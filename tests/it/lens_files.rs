//! Tuned and Jacobian lenses from files that torch wrote (`tests/references/lens_files.py`): which map meets which state, and
//! what is refused.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use lmscope::figure::{Body, Figure};
use lmscope::instruments::logit_lens::lens_file::{LensFile, MapKind};
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::lab::sample::{log_softmax, top};
use lmscope::model::network::families::FAMILIES;
use lmscope::model::network::site::Site;

use super::tools::{prompt, tiny, values};

const D: usize = 24;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/references/lenses")
        .join(name)
}

fn given(name: &str) -> String {
    path(name).to_string_lossy().into_owned()
}

/// The formula of `lens_files.py`.
fn number(layer: usize, i: usize, j: usize) -> f32 {
    ((layer * 131 + i * 29 + j * 7) % 17) as f32 / 64.0 - 0.125
}

/// A row through the matrix of a layer.
fn through(layer: usize, row: &[f32]) -> Vec<f32> {
    let dot = |i: usize| (0..D).map(|j| number(layer, i, j) * row[j]).sum();
    (0..D).map(dot).collect()
}

fn lab() -> Lab {
    tiny(FAMILIES.iter().find(|f| f.name == "llama").unwrap())
}

fn lens(lab: &mut Lab, arguments: &Arguments) -> Figure {
    let run = Run::plain(prompt(6));
    instrument("lens")
        .unwrap()
        .observe(&run, arguments, lab)
        .unwrap()
}

/// The strongest token of a state after a map, by hand.
fn said(
    lab: &mut Lab,
    at: lmscope::model::network::site::Address,
    map: impl Fn(&[f32]) -> Vec<f32>,
) -> (u32, f32) {
    let run = Run::plain(prompt(6));
    let recording = lab.record(&run, &[at]).unwrap();
    let row = values(&recording.get(at).unwrap().narrow(0, 4, 1).unwrap());
    let row = Tensor::from_vec(map(&row), (1, D), &Device::Cpu).unwrap();
    let mut logits = values(&lab.model.transformer.unembed(&row).unwrap());
    log_softmax(&mut logits);
    let best = top(&logits, lab.model.known_tokens(), 1)[0];
    (best.0, best.1.exp())
}

fn agrees(lab: &Lab, figure: &Figure, layer: u16, expected: (u32, f32)) {
    let cell = figure.cell(layer, 4).unwrap();
    assert_eq!(cell.label, lab.visible(expected.0), "layer {layer}");
    assert!(
        (cell.value - expected.1).abs() < 1e-5,
        "layer {layer}: {} {}",
        cell.value,
        expected.1
    );
}

/// Translator i reads what enters block i, so the state after block l meets translator l + 1, and the last none.
#[test]
fn a_tuned_lens_meets_the_input_of_its_block() {
    let mut lab = lab();
    let tuned = |layer: usize| {
        move |row: &[f32]| -> Vec<f32> {
            let mapped = through(layer, row);
            (0..D)
                .map(|i| row[i] + mapped[i] + number(layer + 10, i, 3))
                .collect()
        }
    };
    for name in ["tuned", "tuned/params.pt"] {
        let maps = Arguments::default().with("maps", given(name));
        let figure = lens(&mut lab, &maps);
        for l in 0..2usize {
            let expected = said(&mut lab, Site::ResidPost.at(l), tuned(l + 1));
            agrees(&lab, &figure, l as u16, expected);
        }
        let last = said(&mut lab, Site::ResidPost.at(2), <[f32]>::to_vec);
        agrees(&lab, &figure, 2, last);
        let figure = lens(&mut lab, &maps.with("site", "resid_pre"));
        for l in 0..3usize {
            let expected = said(&mut lab, Site::ResidPre.at(l), tuned(l));
            agrees(&lab, &figure, l as u16, expected);
        }
    }
}

/// J[l] reads what leaves block l; where the file says that it was fitted on inputs, what enters it.
#[test]
fn a_jacobian_lens_meets_the_output_of_its_block() {
    let mut lab = lab();
    let jacobian = |layer: usize| move |row: &[f32]| through(layer, row);
    let figure = lens(
        &mut lab,
        &Arguments::default().with("maps", given("jacobian.pt")),
    );
    for l in 0..2usize {
        let expected = said(&mut lab, Site::ResidPost.at(l), jacobian(l));
        agrees(&lab, &figure, l as u16, expected);
    }
    assert!(
        figure.notes.iter().any(|n| n.contains("100 prompts")),
        "{:?}",
        figure.notes
    );
    let figure = lens(
        &mut lab,
        &Arguments::default().with("maps", given("jacobian_input.pt")),
    );
    for l in 0..2usize {
        let expected = said(&mut lab, Site::ResidPost.at(l), jacobian(l + 1));
        agrees(&lab, &figure, l as u16, expected);
    }
}

/// I16: a tuned lens of zeros is the logit lens, bit for bit; and the plain lens stands beside.
#[test]
fn a_tuned_lens_of_zeros_is_the_logit_lens() {
    let mut lab = lab();
    let maps = Arguments::default().with("maps", given("tuned_zero"));
    let (tuned, plain) = (lens(&mut lab, &maps), lens(&mut lab, &Arguments::default()));
    let (Body::Grid(tuned), Body::Grid(plain)) = (tuned.body, plain.body) else {
        panic!("grids");
    };
    assert_eq!(tuned.rows.len(), 6);
    assert_eq!(tuned.rows[1].label, "0 plain");
    for (a, b) in tuned.cells.iter().zip(&plain.cells) {
        for layer in 0..3 {
            for row in [2 * layer, 2 * layer + 1] {
                assert_eq!(a[row].label, b[layer].label);
                assert_eq!(a[row].value.to_bits(), b[layer].value.to_bits());
                assert_eq!(a[row].anchor, b[layer].anchor);
            }
        }
    }
    let maps = Arguments::default().with("maps", given("tuned"));
    let Body::Grid(other) = lens(&mut lab, &maps).body else {
        panic!("a grid")
    };
    for (a, b) in other.cells.iter().zip(&plain.cells) {
        for layer in 0..3 {
            assert_eq!(
                a[2 * layer + 1].value.to_bits(),
                b[layer].value.to_bits(),
                "the plain lens"
            );
        }
        assert!(
            a[0].value.to_bits() != b[0].value.to_bits(),
            "a map does something"
        );
    }
}

/// The maps serve the instruments that follow tokens too.
#[test]
fn curves_stand_beside_the_plain_ones() {
    let mut lab = lab();
    let run = Run::plain(prompt(6));
    let arguments = Arguments::default()
        .with("maps", given("jacobian.pt"))
        .with("tokens", "#3|#5")
        .with("position", 4);
    let figure = instrument("track")
        .unwrap()
        .observe(&run, &arguments, &mut lab)
        .unwrap();
    let Body::Series(series) = figure.body else {
        panic!("a series")
    };
    let labels: Vec<&str> = series.curves.iter().map(|c| c.label.as_str()).collect();
    assert_eq!(labels, ["[3]", "[5]", "[3] plain", "[5] plain"]);
    let last = |i: usize| *series.curves[i].values.last().unwrap();
    assert!(last(0).to_bits() == last(2).to_bits() && last(1).to_bits() == last(3).to_bits());
    assert!(series.curves[0].values[0].to_bits() != series.curves[2].values[0].to_bits());
}

#[test]
fn a_lens_of_another_model_is_refused() {
    let lab = lab();
    let why = |given: &str| LensFile::open(given, &lab.model).err().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(path("tuned/params.pt"), folder.path().join("params.pt")).unwrap();
    let here = folder.path().to_string_lossy().into_owned();
    let config = |text: &str| std::fs::write(folder.path().join("config.json"), text).unwrap();
    config(r#"{"base_model_name_or_path": "gpt2", "d_model": 768, "num_hidden_layers": 12}"#);
    let said = why(&here);
    assert!(
        said.contains("made for gpt2, with d_model 768, and this model has 24"),
        "{said}"
    );
    config(r#"{"base_model_name_or_path": "gpt2", "d_model": 24, "num_hidden_layers": 12}"#);
    let said = why(&here);
    assert!(
        said.contains("num_hidden_layers 12, and this model has 3"),
        "{said}"
    );
    config("{");
    assert!(why(&here).contains("config.json"));
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    let without = LensFile::open(&here, &lab.model).unwrap();
    assert_eq!(without.kind, MapKind::Tuned);
    let said = why(&given("jacobian_elsewhere.pt"));
    assert!(said.contains("attention.q"), "{said}");
    assert!(why("/no/such/lens").contains("/no/such/lens"));
    // A file of tensors that is no lens, and one whose shapes are another model's.
    let other = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/references/llama_pickle/pytorch_model-00001-of-00002.bin");
    assert!(why(&other.to_string_lossy()).contains("neither translators"));
    let mut small = self::lab();
    small.model.card.d_model = 32;
    let said = LensFile::open(&given("jacobian.pt"), &small.model)
        .err()
        .unwrap()
        .to_string();
    assert!(
        said.contains("[24, 24]") && said.contains("width 32"),
        "{said}"
    );
    let mut short = self::lab();
    short.model.card.layers = 1;
    let said = LensFile::open(&given("jacobian.pt"), &short.model)
        .err()
        .unwrap()
        .to_string();
    assert!(said.contains("1 blocks"), "{said}");
    // A map of the stream says nothing of a write.
    let arguments = Arguments::default()
        .with("maps", given("tuned"))
        .with("site", "attn_add");
    let run = Run::plain(prompt(6));
    let mut lab = self::lab();
    let said = instrument("lens")
        .unwrap()
        .observe(&run, &arguments, &mut lab);
    assert!(said.unwrap_err().to_string().contains("resid_post"));
}

/// Half-precision models are mapped in f32: the products leave the range of f16.
#[test]
fn maps_are_applied_in_f32() {
    let lab = lab();
    let file = LensFile::open(&given("tuned"), &lab.model).unwrap();
    let rows = Tensor::full(3000f32, (2, D), &Device::Cpu).unwrap();
    let wide = file.apply(Site::ResidPre.at(1), &rows).unwrap();
    let narrow = file
        .apply(Site::ResidPre.at(1), &rows.to_dtype(DType::F16).unwrap())
        .unwrap();
    assert_eq!(narrow.dtype(), DType::F16);
    for (a, b) in values(&narrow).iter().zip(values(&wide)) {
        assert!((a - b).abs() <= 1e-3 * b.abs().max(1.0), "{a} {b}");
    }
}

/// States without a map are read plainly, and the figure names their layers; the last state needs none.
#[test]
fn layers_without_a_map_are_named() {
    let mut lab = lab();
    let named = |lab: &mut Lab, file: &str, site: &str| {
        let arguments = Arguments::default().with("maps", given(file));
        let figure = lens(lab, &arguments.with("site", site));
        let notes = figure.notes.into_iter().filter(|n| n.contains("no map"));
        notes.collect::<Vec<_>>()
    };
    assert_eq!(named(&mut lab, "jacobian.pt", "resid_post"), [""; 0]);
    assert_eq!(named(&mut lab, "tuned", "resid_post"), [""; 0]);
    assert_eq!(named(&mut lab, "tuned", "resid_pre"), [""; 0]);
    // The first Jacobian is of what leaves block 0, so what enters it has none.
    let said = named(&mut lab, "jacobian.pt", "resid_pre");
    assert!(said[0].contains("resid_pre of layer 0: "), "{said:?}");
    let file = LensFile::open(&given("jacobian.pt"), &lab.model).unwrap();
    assert_eq!(file.layers_without_map(Site::ResidPre, 3), [0]);
    assert_eq!(file.layers_without_map(Site::ResidPost, 3), [0; 0]);
}
