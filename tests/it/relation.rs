//! Linear relations: Jacobians against finite differences on every family, the map and its edits against PyTorch, and what is
//! kept in files.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, safetensors};
use lmscope::edit::Edit;
use lmscope::edit::relation_map::{
    RelationInverse, RelationMap, RelationOrigin, RelationPair, RelationPrompts,
};
use lmscope::edit::schedule::Schedule;
use lmscope::figure::{Body, Entry, Figure};
use lmscope::file::Overwrite;
use lmscope::instruments::{Arguments, instrument, observe};
use lmscope::lab::Lab;
use lmscope::lab::pass::{Pass, PassRow, Patch};
use lmscope::lab::run::Run;
use lmscope::lab::sample::Sampling;
use lmscope::lab::writer::Writer;
use lmscope::model::load::Options;
use lmscope::model::network::site::Site;
use lmscope::vectors::relation::fit::{RelationFit, RelationMethod, read_objects};
use lmscope::vectors::relation::jacobian::jacobian;
use lmscope::vectors::relation::pairs;
use lmscope::vectors::relation::states::{SubjectStates, begins, located};

use super::demo::demo;
use super::tools::{every_family, next, prompt};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references")
}

fn capital() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/relations/capital.json")
}

/// `o` with `s` in the place of the state at a position after a block; `s` is the model's own where none is given.
fn object(lab: &mut Lab, tokens: &[u32], layer: usize, at: usize, s: Option<&[f32]>) -> Vec<f32> {
    let end = Site::ResidPost.at(lab.model.card.layers - 1);
    let patch = s.map(|s| {
        let value = Tensor::new(s, &Device::Cpu).unwrap();
        Patch::new(Site::ResidPost.at(layer), at, value)
    });
    let pass = Pass {
        rows: vec![PassRow::patched(patch.into_iter().collect())],
        record: vec![end],
        ..Pass::of(Run::plain(tokens.to_vec()))
    };
    let read = lab.run_one(&pass).unwrap();
    let rows = read.get(end).unwrap().to_dtype(DType::F32).unwrap();
    rows.get(rows.dim(0).unwrap() - 1)
        .unwrap()
        .to_vec1()
        .unwrap()
}

fn state(lab: &mut Lab, tokens: &[u32], layer: usize, at: usize) -> Vec<f32> {
    let address = Site::ResidPost.at(layer);
    let read = lab
        .record(&Run::plain(tokens.to_vec()), &[address])
        .unwrap();
    read.get(address)
        .unwrap()
        .get(at)
        .unwrap()
        .to_vec1()
        .unwrap()
}

fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn length(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

fn minus(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn plus(a: &[f32], times: f32, b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + times * b).collect()
}

fn times(matrix: &[f32], x: &[f32]) -> Vec<f32> {
    let rows = matrix.chunks(x.len());
    rows.map(|row| {
        row.iter()
            .zip(x)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum::<f64>() as f32
    })
    .collect()
}

/// I13: along noise, the Jacobian is the central difference, and what it leaves over is of second order.
#[test]
fn a_jacobian_is_the_slope_of_the_object_along_the_subject() {
    for mut lab in every_family() {
        let tokens = prompt(9);
        let (layers, d, at) = (lab.model.card.layers, lab.model.card.d_model, 4);
        let found = jacobian(&mut lab, &tokens, at, &[0]).unwrap();
        let s = state(&mut lab, &tokens, 0, at);
        let own = object(&mut lab, &tokens, 0, at, None);
        let same = object(&mut lab, &tokens, 0, at, Some(&s));
        assert!(
            length(&minus(&own, &same)) <= 1e-5 * length(&own),
            "the state itself changes nothing"
        );
        let u = noise(3, d);
        let expected = times(&found[0], &u);
        let step = (0.005 * length(&s) / length(&u)) as f32;
        let rest = |lab: &mut Lab, step: f32| {
            let moved = object(lab, &tokens, 0, at, Some(&plus(&s, step, &u)));
            plus(&minus(&moved, &own), -step, &expected)
        };
        let name = lab.model.card.name.clone();
        let ahead = object(&mut lab, &tokens, 0, at, Some(&plus(&s, step, &u)));
        let behind = object(&mut lab, &tokens, 0, at, Some(&plus(&s, -step, &u)));
        let slope: Vec<f32> = minus(&ahead, &behind)
            .iter()
            .map(|x| x / (2.0 * step))
            .collect();
        let off = length(&minus(&slope, &expected)) / length(&expected);
        assert!(layers < 2 || off < 5e-3, "{name}: {off}");
        let (whole, half) = (
            length(&rest(&mut lab, 8.0 * step)),
            length(&rest(&mut lab, 4.0 * step)),
        );
        let first = length(&expected) * f64::from(8.0 * step);
        // A rest that is rounding has no order.
        if whole > 1e-3 * first {
            assert!(half < 0.42 * whole, "{name}: {whole} {half}");
        }
    }
}

/// I14: after the last block, a state is its own object and no other's.
#[test]
fn after_the_last_block_a_state_is_its_own_object() {
    for mut lab in every_family() {
        let tokens = prompt(6);
        let (last, d) = (lab.model.card.layers - 1, lab.model.card.d_model);
        let own = jacobian(&mut lab, &tokens, 5, &[last]).unwrap();
        let other = jacobian(&mut lab, &tokens, 3, &[last]).unwrap();
        for i in 0..d {
            for j in 0..d {
                assert_eq!(own[0][i * d + j], f32::from(u8::from(i == j)));
            }
        }
        assert!(other[0].iter().all(|x| *x == 0.0));
    }
}

fn pair(subject: &str, object: &str) -> RelationPair {
    RelationPair {
        subject: subject.into(),
        object: object.into(),
    }
}

fn zero_shot() -> RelationPrompts {
    RelationPrompts {
        template: "The capital of {} is".into(),
        examples: Vec::new(),
    }
}

/// I22: with one example and beta 1 the map gives its own object; beta scales what W makes and nothing else.
#[test]
fn the_map_of_one_example_gives_its_object() {
    let mut lab = demo();
    let fit =
        RelationFit::measure(&mut lab, &zero_shot(), &[pair("France", "Paris")], &[0, 2]).unwrap();
    let own = fit.training[0].clone();
    for place in 0..2 {
        let s: [&[f32]; 1] = [&own.states[place]];
        let of = |beta: f64| {
            fit.objects(&lab, RelationMethod::Lre, place, beta, &s)
                .unwrap()
                .remove(0)
        };
        let (one, three) = (of(1.0), of(3.0));
        assert!(length(&minus(&one, &own.object)) < 1e-5 * length(&own.object));
        assert_eq!(fit.left_out(RelationMethod::Lre, place, 1.0).len(), 1);
        let (w1, w3) = (
            minus(&one, &fit.biases[place]),
            minus(&three, &fit.biases[place]),
        );
        let off = length(&plus(&w3, -3.0, &w1));
        assert!(off < 1e-5 * length(&w3), "{off}");
        assert_eq!(
            fit.objects(&lab, RelationMethod::Bias, place, 1.0, &s)
                .unwrap()[0],
            fit.biases[place]
        );
        assert_eq!(
            fit.objects(&lab, RelationMethod::Lens, place, 1.0, &s)
                .unwrap()[0],
            own.states[place]
        );
    }
}

/// Each training subject is judged by the map of the others: what the left-out map says is the map made without it.
#[test]
fn a_subject_has_no_part_in_the_map_that_judges_it() {
    let mut lab = demo();
    let all = [
        pair("France", "Paris"),
        pair("Peru", "Lima"),
        pair("Japan", "Tokyo"),
    ];
    let fit = RelationFit::measure(&mut lab, &zero_shot(), &all, &[1]).unwrap();
    for (i, own) in fit.training.iter().enumerate() {
        let mut others = all.to_vec();
        others.remove(i);
        let less = RelationFit::measure(&mut lab, &zero_shot(), &others, &[1]).unwrap();
        for method in RelationMethod::ALL {
            let expected = less
                .objects(&lab, method, 0, 2.0, &[&own.states[0]])
                .unwrap();
            let found = &fit.left_out(method, 0, 2.0)[i];
            let off = length(&minus(found, &expected[0])) / length(&expected[0]);
            assert!(off < 1e-4, "{method:?} {i}: {off}");
        }
    }
}

#[test]
fn a_subject_is_found_at_the_last_token_of_its_last_occurrence() {
    let lab = demo();
    let prompts = RelationPrompts {
        template: "The capital of {} is".into(),
        examples: vec![pair("France", "Paris"), pair("Peru", "Lima")],
    };
    for subject in ["Peru", "Zzyzx", "New Zealand"] {
        let (tokens, at) = located(&lab.model, &prompts, subject).unwrap();
        let spell = |range: &[u32]| -> String {
            let bytes: Vec<u8> = range.iter().flat_map(|t| lab.model.bytes(*t)).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        assert!(spell(&tokens[..=at]).ends_with(subject), "{subject}");
        assert_eq!(spell(&tokens[at + 1..]), " is", "{subject}");
    }
    let id = |text: &str| lab.model.encode(text, false).unwrap()[1];
    assert!(begins(&lab.model, id(" Paris"), "paris"));
    assert!(!begins(&lab.model, id(" Paris"), "Pari"));
    assert!(
        !begins(&lab.model, id("\n"), "Paris"),
        "what is empty begins nothing"
    );
}

fn reference(name: &str) -> std::collections::HashMap<String, Tensor> {
    let file = folder().join(format!("relations/{name}.safetensors"));
    safetensors::load(file, &Device::Cpu).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor
        .to_dtype(DType::F32)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

fn ids(tensor: &Tensor) -> Vec<u32> {
    tensor.to_dtype(DType::U32).unwrap().to_vec1().unwrap()
}

#[test]
fn jacobians_are_those_of_pytorch() {
    for name in ["gpt2", "gemma2"] {
        let expected = reference(name);
        let given = folder().join(name);
        let mut lab = Lab::open(given.to_str().unwrap(), &Options::default()).unwrap();
        let tokens = ids(&expected["tokens"]);
        let layers: Vec<usize> = (0..lab.model.card.layers - 1).collect();
        let found = jacobian(&mut lab, &tokens, 2, &layers).unwrap();
        for (layer, own) in layers.iter().zip(&found) {
            let expected = numbers(&expected[&format!("J.{layer}")]);
            let off = length(&minus(own, &expected)) / length(&expected);
            assert!(off < 1e-4, "{name} {layer}: {off}");
        }
    }
}

#[test]
fn map_faithfulness_and_edits_are_those_of_pytorch() {
    let expected = reference("demo");
    let relation = pairs::read(&capital()).unwrap();
    let mut lab = demo();
    for (case, layer) in [("zero", 0), ("few", 1)] {
        let of = |name: &str| &expected[&format!("{case}.{name}")];
        let close = |what: &str, found: &[f32], within: f64| {
            let expected = numbers(of(what));
            let off = length(&minus(found, &expected)) / length(&expected);
            assert!(off < within, "{case} {what}: {off}");
        };
        let prompts = RelationPrompts {
            template: relation.prompt_templates[0].clone(),
            examples: if case == "few" {
                relation.samples[..8].to_vec()
            } else {
                Vec::new()
            },
        };
        let fit =
            RelationFit::measure(&mut lab, &prompts, &relation.samples[..8], &[layer]).unwrap();
        close("W", &fit.weights[0], 1e-4);
        close("b", &fit.biases[0], 1e-4);
        let asked: Vec<SubjectStates> = relation.samples[8..20]
            .iter()
            .map(|pair| SubjectStates::measure(&mut lab, &prompts, pair, &[layer]).unwrap())
            .collect();
        let states: Vec<&[f32]> = asked.iter().map(|own| own.states[0].as_slice()).collect();
        close("s", &states.concat(), 1e-4);
        let objects = fit
            .objects(&lab, RelationMethod::Lre, 0, 2.0, &states)
            .unwrap();
        close("object", &objects.concat(), 1e-4);
        let says: Vec<u32> = asked.iter().map(|own| own.says.0).collect();
        assert_eq!(says, ids(of("says")), "{case}");
        let read = read_objects(&mut lab, &objects, &says).unwrap();
        let found: Vec<u32> = read.iter().map(|r| r.says.0).collect();
        assert_eq!(found, ids(of("lre")), "{case}");
        let inverse = RelationInverse::new(fit.weights[0].clone(), lab.model.card.d_model).unwrap();
        let mut changes = Vec::new();
        let mut edited = Vec::new();
        for (i, own) in asked.iter().enumerate() {
            let target = &asked[(i + 1) % asked.len()];
            let change = inverse.apply(&minus(&target.object, &own.object), 24);
            let value = Tensor::new(plus(&own.states[0], 1.0, &change), &Device::Cpu).unwrap();
            let patch = Patch::new(Site::ResidPost.at(layer), own.at, value);
            let row = super::organisms::patched(&mut lab, &Run::plain(own.tokens.clone()), patch);
            edited.push(super::organisms::best(&row));
            changes.extend(change);
        }
        close("change", &changes, 1e-4);
        assert_eq!(edited, ids(of("edited")), "{case}");
    }
}

fn given(show: &str) -> Arguments {
    Arguments::default()
        .with("relation", capital().display())
        .with("prompts", "zero-shot")
        .with("layer", 1)
        .with("edit-layer", 1)
        .with("show", show)
}

fn figure(lab: &mut Lab, given: &Arguments) -> Figure {
    observe(instrument("relation").unwrap(), &Run::default(), given, lab).unwrap()
}

fn column(figure: &Figure, name: &str) -> Vec<f32> {
    let Body::Table(table) = &figure.body else {
        panic!("a table")
    };
    let at = table.columns.iter().position(|c| c == name).unwrap();
    let rows = table.pages[0].rows.iter();
    rows.map(|row| match &row.entries[at] {
        Entry::Whole(number) => *number as f32,
        Entry::Number(number) => *number,
        Entry::Missing => panic!("no number"),
        Entry::Text(text) => panic!("{text}"),
    })
    .collect()
}

/// A saved map is read again bit for bit, says the same of the same subjects, and is refused for other weights.
#[test]
fn a_map_is_saved_read_and_used_by_lens_and_edit() {
    let mut lab = demo();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("capital.safetensors");
    let made = figure(&mut lab, &given("causality").with("save", file.display()));
    let map = RelationMap::load(&file, &lab.model.card).unwrap();
    assert_eq!((map.origin.layer, map.origin.edit_layer), (1, 1));
    let again = folder.path().join("again.safetensors");
    map.save(&again, &lab.model.card, Overwrite::Never).unwrap();
    assert_eq!(RelationMap::load(&again, &lab.model.card).unwrap(), map);
    assert_eq!(
        std::fs::read(&file).unwrap(),
        std::fs::read(&again).unwrap()
    );
    let own = Arguments::default()
        .with("relation", capital().display())
        .with("map", file.display());
    let read = figure(&mut lab, &own.clone().with("show", "causality"));
    assert!(column(&made, "says o'")[0] > 0.9);
    assert!(column(&read, "says o'")[0] > 0.9);
    assert!(column(&figure(&mut lab, &own), "faithful")[0] > 0.9);
    let mut other = lab.model.card.clone();
    other.revision = "another".into();
    let error = RelationMap::load(&file, &other).unwrap_err().to_string();
    assert!(error.contains("another"), "{error}");

    // The edit: the same as the patch of the same change, and neutral at strength 0.
    let prompt = lab.model.encode("The capital of France is", false).unwrap();
    let plain = Run::plain(prompt.clone());
    let under = |line: &str| {
        let edit: Edit = line.parse().unwrap();
        assert_eq!(edit.to_string(), line);
        plain.clone().under(&Schedule::always(vec![edit]))
    };
    let line = format!(
        "relate:{}=\"France\">\"Japan\"@resid_post.1:token:\" France\"",
        file.display()
    );
    let run = under(&line);
    let top = lab.top_prediction(&run).unwrap();
    assert_eq!(lab.visible(top).trim_start_matches('␣'), "Tokyo");
    let receipts = lab.receipts(&run).unwrap();
    assert_eq!(receipts[0].fired, 1);
    assert!(
        receipts[0].relative > 0.0 && receipts[0].why.is_empty(),
        "{receipts:?}"
    );
    assert!(
        receipts[0].kl.unwrap() > 5.0 * receipts[0].control.unwrap(),
        "{receipts:?}"
    );
    let prompts = &map.origin.prompts;
    let [france, japan] = ["France", "Japan"]
        .map(|s| SubjectStates::measure(&mut lab, prompts, &pair(s, "x"), &[1]).unwrap());
    let change = map
        .inverse
        .apply(&minus(&japan.object, &france.object), map.origin.rank);
    let value = Tensor::new(plus(&france.states[0], 1.0, &change), &Device::Cpu).unwrap();
    let patch = Patch::new(Site::ResidPost.at(1), france.at, value);
    let expected = super::organisms::patched(&mut lab, &plain, patch);
    let found = lab.last_logits(&run).unwrap();
    assert!(length(&minus(&found, &expected)) < 1e-5 * length(&expected));
    let neutral = under(&format!("{line}*0"));
    assert_eq!(
        lab.last_logits(&neutral).unwrap(),
        lab.last_logits(&plain).unwrap()
    );

    // The lens: at its own layer and the subject, the object of the relation, whatever the text goes on to say.
    let lens = instrument("attribute-lens").unwrap();
    let arguments = Arguments::default().with("map", file.display());
    let text = Run::plain(lab.model.encode("People in Japan speak", false).unwrap());
    let seen = observe(lens, &text, &arguments, &mut lab).unwrap();
    let japan = (0..text.tokens.len())
        .find(|p| lab.visible(text.tokens[*p]).contains("Japan"))
        .unwrap();
    let cell = seen.cell(1, japan as u32).unwrap();
    assert!(cell.label.contains("Tokyo"), "{cell:?}");
    let s = state(&mut lab, &text.tokens, 1, japan);
    let said = read_objects(&mut lab, &[map.object(&s)], &[top]).unwrap()[0];
    assert!((said.says.1 - cell.value).abs() < 1e-5);

    // Live: the newest position's column is that of the whole figure.
    let mut writer = Writer::begin(
        &mut lab,
        text.tokens.clone(),
        Schedule::none(),
        Sampling::default(),
    )
    .unwrap();
    let column = next(lens, &mut writer, &arguments, &mut lab);
    let whole = observe(lens, &writer.run, &arguments, &mut lab).unwrap();
    let at = column.provenance.tokens.len() as u32 - 1;
    for layer in 0..lab.model.card.layers as u16 {
        let (one, all) = (column.cell(layer, at), whole.cell(layer, at));
        assert_eq!(one.unwrap().label, all.unwrap().label, "{layer}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    let mut lab = demo();
    let ask = |lab: &mut Lab, arguments: &Arguments| {
        let of = instrument("relation").unwrap();
        observe(of, &Run::default(), arguments, lab)
            .unwrap_err()
            .to_string()
    };
    let none = ask(&mut lab, &Arguments::default());
    assert!(none.contains("a file with the relation"), "{none}");
    let many = ask(&mut lab, &given("faithfulness").with("examples", 40));
    assert!(many.contains("40 subjects"), "{many}");
    let layer = ask(&mut lab, &given("faithfulness").with("layer", 8));
    assert!(layer.contains("0 to 7"), "{layer}");
    let late = ask(&mut lab, &given("causality").with("edit-layer", 7));
    assert!(late.contains("before the last one"), "{late}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("no.safetensors");
    std::fs::write(&file, b"no").unwrap();
    let error = RelationMap::load(&file, &lab.model.card)
        .unwrap_err()
        .to_string();
    assert!(error.contains("A relation map is"), "{error}");
    let origin = RelationOrigin {
        revision: lab.model.card.revision.clone(),
        layer: 99,
        ..RelationOrigin::default()
    };
    let map = RelationMap {
        origin,
        ..RelationMap::default()
    };
    map.save(
        &folder.path().join("far.safetensors"),
        &lab.model.card,
        Overwrite::Never,
    )
    .unwrap();
    let error = RelationMap::load(&folder.path().join("far.safetensors"), &lab.model.card)
        .unwrap_err()
        .to_string();
    assert!(error.contains("layer 99"), "{error}");
}
