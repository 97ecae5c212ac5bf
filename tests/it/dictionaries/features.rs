//! The instrument `features` on small random models: its numbers by hand, the same live, and what is refused or marked.

use std::path::Path;

use candle_core::{DType, Tensor};
use lmscope::dictionaries::opened::OpenDictionaries;
use lmscope::edit::schedule::Schedule;
use lmscope::figure::{Body, Entry, Figure, TablePage};
use lmscope::instruments::{Arguments, instrument, observe};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::lab::sample::Sampling;
use lmscope::lab::writer::Writer;
use lmscope::model::network::families::FAMILIES;
use lmscope::model::network::site::{Address, Site};

use super::hostile::{saelens, write};
use crate::tools::{every_family, next, prompt, same_bits, tiny, values};

/// The width of the small models' stream.
const D: usize = 24;
const F: usize = 40;

fn lab() -> Lab {
    tiny(FAMILIES.iter().find(|f| f.name == "llama").unwrap())
}

fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 37 + seed * 101 + i * i % 29) % 41) as f32 / 20.0 - 1.0)
        .collect()
}

fn recorded(lab: &mut Lab, run: &Run, at: Address) -> Vec<f32> {
    let capture = lab.record(run, &[at]).unwrap();
    values(capture.get(at).unwrap())
}

fn given(path: &Path) -> Arguments {
    Arguments::default().with("dictionary", path.display())
}

fn figure(lab: &mut Lab, arguments: &Arguments) -> Figure {
    let run = Run::plain(prompt(6));
    observe(instrument("features").unwrap(), &run, arguments, lab).unwrap()
}

fn refused(lab: &mut Lab, arguments: &Arguments) -> String {
    let run = Run::plain(prompt(6));
    let found = observe(instrument("features").unwrap(), &run, arguments, lab);
    found.map(|f| f.title).unwrap_err().to_string()
}

fn pages(figure: &Figure) -> &[TablePage] {
    let Body::Table(table) = &figure.body else {
        panic!("a table");
    };
    &table.pages
}

/// A number of the row with this name.
fn entry(page: &TablePage, name: &str, column: usize) -> f32 {
    let row = page
        .rows
        .iter()
        .find(|r| r.entries[0] == Entry::Text(name.into()));
    match row.unwrap_or_else(|| panic!("{name} in {page:?}")).entries[column] {
        Entry::Whole(number) => number as f32,
        Entry::Number(number) => number,
        Entry::Missing => panic!("no number"),
        Entry::Text(ref text) => panic!("{text}"),
    }
}

#[test]
fn features_and_what_is_left_out_are_the_numbers_by_hand() {
    let (mut lab, folder) = (lab(), tempfile::tempdir().unwrap());
    let (w_enc, w_dec) = (numbers(D * F, 1), numbers(D * F, 2));
    saelens(folder.path(), D, F, &w_enc, &w_dec, "standard");
    let shown = figure(&mut lab, &given(folder.path()).with("count", "5"));
    let run = Run::plain(prompt(6));
    let x = recorded(&mut lab, &run, Site::ResidPost.at(1));
    assert_eq!(pages(&shown).len(), 6);
    for (position, page) in pages(&shown).iter().enumerate() {
        let x = &x[position * D..][..D];
        let active: Vec<(usize, f32)> = (0..F)
            .map(|f| (f, (0..D).map(|j| x[j] * w_enc[j * F + f]).sum::<f32>()))
            .filter(|(_, h)| *h > 0.0)
            .collect();
        let mut made = [0f32; D];
        let mut sized: Vec<(f32, usize, f32)> = Vec::new();
        for (f, act) in &active {
            let row = &w_dec[f * D..][..D];
            made.iter_mut().zip(row).for_each(|(m, w)| *m += act * w);
            let norm = row.iter().map(|w| w * w).sum::<f32>().sqrt();
            sized.push((act * norm, *f, *act));
        }
        sized.sort_by(|a, b| b.0.total_cmp(&a.0));
        let error = x
            .iter()
            .zip(&made)
            .map(|(x, m)| (x - m).powi(2))
            .sum::<f32>();
        let all = x.iter().map(|x| x * x).sum::<f32>();
        let near = |a: f32, b: f32| assert!((a - b).abs() <= 1e-3 * b.abs().max(1.0), "{a} {b}");
        near(entry(page, "L0", 1), active.len() as f32);
        near(entry(page, "error", 2), error.sqrt());
        near(entry(page, "reconstruction", 3), 1.0 - error / all);
        near(entry(page, "error", 3), error / all);
        // At random numbers nothing is reconstructed, so nothing is a finding; nor at the first position.
        let listed = page.rows.len() - 4;
        assert_eq!(listed, if position == 0 || error >= all { 0 } else { 5 });
        for (row, (size, f, act)) in page.rows[..listed].iter().zip(&sized) {
            assert_eq!(row.entries[0], Entry::Text(format!("1/{f}")));
            near(entry(page, &format!("1/{f}"), 1), *act);
            near(entry(page, &format!("1/{f}"), 2), *size);
            assert_eq!(row.anchor.position, Some(position as u32));
        }
        if listed == 0 {
            let mark = format!("{:?}", page.rows[1].entries[4]);
            assert!(mark.contains("outside"), "{mark}");
        }
    }
}

/// An identity: everything is explained, at the place that is named, and the features are the coordinates with their signs.
#[test]
fn an_identity_leaves_nothing_out_and_live_is_the_same() {
    let (mut lab, folder) = (lab(), tempfile::tempdir().unwrap());
    let sign = |f: usize| if f < D { 1.0f32 } else { -1.0 };
    let w_enc: Vec<f32> = (0..D)
        .flat_map(|j| (0..2 * D).map(move |f| if f % D == j { sign(f) } else { 0.0 }))
        .collect();
    let w_dec: Vec<f32> = (0..2 * D)
        .flat_map(|f| (0..D).map(move |j| if f % D == j { sign(f) } else { 0.0 }))
        .collect();
    saelens(folder.path(), D, 2 * D, &w_enc, &w_dec, "standard");
    let labels = folder.path().join("labels.json");
    let all: Vec<String> = (0..2 * D)
        .map(|f| format!("\"{f}\": \"label {f}\""))
        .collect();
    std::fs::write(&labels, format!("{{{}}}", all.join(","))).unwrap();
    let arguments = given(folder.path())
        .with("labels", labels.display())
        .with("count", "3");
    let mut live =
        Writer::begin(&mut lab, prompt(6), Schedule::none(), Sampling::default()).unwrap();
    let grown = next(
        instrument("features").unwrap(),
        &mut live,
        &arguments,
        &mut lab,
    );
    let whole = observe(
        instrument("features").unwrap(),
        &live.run,
        &arguments,
        &mut lab,
    )
    .unwrap();
    let (last, grown) = (pages(&whole).last().unwrap(), &pages(&grown)[0]);
    assert_eq!((&last.title, last.anchor), (&grown.title, grown.anchor));
    for (a, b) in last.rows.iter().zip(&grown.rows) {
        assert_eq!(a.entries[0], b.entries[0]);
        for (a, b) in a.entries.iter().zip(&b.entries) {
            if let (Entry::Number(a), Entry::Number(b)) = (a, b) {
                assert!((a - b).abs() < 1e-4, "{a} {b}");
            }
        }
    }
    for page in &pages(&whole)[1..] {
        assert_eq!(entry(page, "error", 2), 0.0);
        assert_eq!(entry(page, "reconstruction", 3), 1.0);
        assert_eq!(entry(page, "L0", 1), D as f32);
        let Entry::Text(label) = &page.rows[0].entries[4] else {
            panic!("a label");
        };
        let Entry::Text(name) = &page.rows[0].entries[0] else {
            panic!("a name");
        };
        assert_eq!(format!("label {}", name.trim_start_matches("1/")), *label);
    }
    assert!(
        whole.notes[0].contains("median share explained 1.00"),
        "{:?}",
        whole.notes
    );
    assert!(
        whole
            .notes
            .iter()
            .any(|n| n.contains("names another model: tiny; this one is tiny-llama")),
        "{:?}",
        whole.notes
    );
}

#[test]
fn what_does_not_fit_the_model_is_refused_with_what_to_do() {
    let (mut lab, folder) = (lab(), tempfile::tempdir().unwrap());
    let said = refused(&mut lab, &given(&super::folder().join("saelens_standard")));
    assert!(said.contains("width 8") && said.contains("24"), "{said}");
    let said = refused(&mut lab, &given(&folder.path().join("nothing")));
    assert!(said.contains("exists"), "{said}");
    saelens(
        folder.path(),
        D,
        F,
        &numbers(D * F, 1),
        &numbers(D * F, 2),
        "standard",
    );
    let config = folder.path().join("cfg.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("blocks.1.", "blocks.7.")).unwrap();
    let said = refused(&mut lab, &given(folder.path()));
    assert!(said.contains("3 layers"), "{said}");
    // A place that is said replaces that of the file.
    let at = |place: &str| {
        Arguments::default().with("dictionary", format!("{}@{place}", folder.path().display()))
    };
    let shown = figure(&mut lab, &at("resid_post.0"));
    assert!(shown.title.contains("resid_post.0"), "{}", shown.title);
    std::fs::write(
        &config,
        text.replace("\"hook_name\": \"blocks.1.hook_resid_post\"", "\"x\": 1"),
    )
    .unwrap();
    let said = refused(&mut Lab::new(lab.model), &given(folder.path()));
    assert!(said.contains("FILE@ADDRESS"), "{said}");
}

/// A set of circuit-tracer and a cross-layer one, whose layers reconstruct together.
#[test]
fn layers_of_a_cross_layer_set_reconstruct_together() {
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
                (&name("b_dec"), &[D], numbers(D, layer + 20)),
            ],
        );
        let targets = 3 - layer;
        write(
            &path.join(format!("W_dec_{layer}.safetensors")),
            &[(
                &name("W_dec"),
                &[F, targets, D],
                numbers(F * targets * D, layer + 5),
            )],
        );
    }
    let shown = figure(&mut lab, &given(path).with("layer", "2"));
    let run = Run::plain(prompt(6));
    let open = lab.derived::<OpenDictionaries>();
    let set = open.get(&path.display().to_string(), &lab).unwrap();
    let mut made = vec![0f32; 6 * D];
    for (layer, placed) in set.dictionaries.iter().enumerate() {
        let x = recorded(&mut lab, &run, Site::MlpIn.at(layer));
        let encoded = placed.dictionary.encode(&[&x]).unwrap();
        let part = placed.dictionary.decode(2 - layer, &encoded, &x).unwrap();
        made.iter_mut().zip(part).for_each(|(m, p)| *m += p);
    }
    let y = recorded(&mut lab, &run, Site::MlpAdd.at(2));
    for (position, page) in pages(&shown).iter().enumerate() {
        let span = position * D..(position + 1) * D;
        let pairs = y[span.clone()].iter().zip(&made[span]);
        let error = pairs.map(|(y, m)| (y - m).powi(2)).sum::<f32>().sqrt();
        let found = entry(page, "error", 2);
        assert!(
            (found - error).abs() < 1e-3 * error.max(1.0),
            "{found} {error}"
        );
    }
    assert!(
        shown
            .notes
            .iter()
            .any(|n| n.contains("3 dictionaries of the set together"))
    );
}

/// `mlp_normed` is what the norm of the MLP gives before gain and bias; to look at it changes no bit.
#[test]
fn what_is_before_the_gain_becomes_the_input_of_the_mlp() {
    let mut seen = 0;
    for mut lab in every_family() {
        let (before, after) = (Site::MlpNormed.at(1), Site::MlpIn.at(1));
        if lab.model.offers(before).is_err() {
            continue;
        }
        let run = Run::plain(prompt(5));
        let plain = lab.record(&run, &[after]).unwrap();
        let both = lab.record(&run, &[before, after]).unwrap();
        assert!(same_bits(
            plain.get(after).unwrap(),
            both.get(after).unwrap()
        ));
        let norm = lab.model.transformer.blocks[1]
            .norms_mlp
            .input
            .clone()
            .unwrap();
        let normed = both.get(before).unwrap().to_dtype(DType::F32).unwrap();
        let by_hand = normed.broadcast_mul(&norm.gain).unwrap();
        let by_hand = match &norm.bias {
            Some(bias) => by_hand.broadcast_add(bias).unwrap(),
            None => by_hand,
        };
        for (a, b) in values(&by_hand)
            .iter()
            .zip(values(both.get(after).unwrap()))
        {
            assert!((a - b).abs() < 1e-5, "{}: {a} {b}", lab.model.card.family);
        }
        let square = |t: &Tensor| {
            let row = values(t);
            row.iter().map(|v| v * v).sum::<f32>() / row.len() as f32
        };
        for row in 0..5 {
            let rms = square(&normed.narrow(0, row, 1).unwrap());
            assert!((rms - 1.0).abs() < 0.02, "{}: {rms}", lab.model.card.family);
        }
        seen += 1;
    }
    assert!(seen > 15, "{seen}");
}
