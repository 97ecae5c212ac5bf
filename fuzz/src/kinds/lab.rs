//! What an experiment reads: directions, lenses, statistics, maps, edits, presets, unit sets, template libraries, lists.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use lmscope::edit::Edit;
use lmscope::edit::direction::{Direction, FORMATS};
use lmscope::edit::preset::EditPreset;
use lmscope::edit::relation_map::{RelationInverse, RelationMap, RelationOrigin, RelationPrompts};
use lmscope::edit::schedule::Schedule;
use lmscope::edit::unit_set::UnitSet;
use lmscope::error::{Error, Result};
use lmscope::file::Overwrite;
use lmscope::instruments::backpatch::two_hop;
use lmscope::instruments::knowledge::facts;
use lmscope::instruments::logit_lens::lens_file::LensFile;
use lmscope::instruments::logit_lens::word_lists::WordList;
use lmscope::instruments::neurons::contexts::{ContextScan, Scanner};
use lmscope::instruments::patchscope::map::AffineMaps;
use lmscope::instruments::patchscope::templates;
use lmscope::lab::pairs;
use lmscope::lab::run::Run;
use lmscope::lab::statistics::{Statistics, TextReading, pieces};
use lmscope::model::network::address::expand;
use lmscope::model::network::site::Site;
use lmscope::vectors::few_shot;
use lmscope::vectors::few_shot::ShotLayout;
use lmscope::vectors::relation;
use safetensors::tensor::TensorView;

use super::{Place, file, references, repository};

/// One of every format, and a dozen bytes of raw numbers.
pub fn directions() -> Vec<Vec<u8>> {
    let vectors = [
        "direction.pt",
        "function_vector.pt",
        "ours.pt",
        "ours.gguf",
        "llama_mean.gguf",
        "mean_diffs.safetensors",
    ];
    let mut all: Vec<Vec<u8>> = vectors
        .iter()
        .map(|n| file(&references().join("vectors").join(n)))
        .collect();
    all.push(file(&repository().join("demo/vectors/mood.safetensors")));
    all.push(
        [1f32, -2.0, 0.5]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect(),
    );
    all
}

/// Reads it under every ending; what is read is moved, checked, saved and read back.
pub fn read_direction(place: &Place, bytes: &[u8]) -> Result<()> {
    let mut refused = None;
    let mut read = false;
    let endings = FORMATS.iter().flat_map(|format| format.extensions);
    for ending in endings.chain(&["no_ending"]) {
        let path = place.put(&format!("direction.{ending}"), bytes);
        match Direction::load(&path) {
            Ok(direction) => {
                read = true;
                used(place, &direction);
            }
            Err(error) => refused = Some(error),
        }
        std::fs::remove_file(path).unwrap();
    }
    match refused {
        Some(error) if !read => Err(error),
        Some(_) | None => Ok(()),
    }
}

fn used(place: &Place, direction: &Direction) {
    let _ = (direction.span(), direction.places(), direction.norm());
    let _ = direction.check(&place.tiny().model.card);
    let _ = (
        direction.shifted(1),
        direction.shifted(i32::MIN),
        direction.moved_to("resid_pre.1"),
    );
    for (at, row) in &direction.rows {
        assert!(
            row.iter().all(|v| v.is_finite()),
            "{at} holds a number that is not finite"
        );
    }
    let path = place.folder("saved").join("direction.safetensors");
    direction.save(&path).unwrap();
    let again = Direction::load(&path).unwrap();
    assert_eq!(again.rows, direction.rows, "what was saved reads back");
    std::fs::remove_file(&path).unwrap();
}

/// As torch wrote them.
pub fn lenses() -> Vec<Vec<u8>> {
    let names = [
        "lenses/jacobian.pt",
        "lenses/jacobian_elsewhere.pt",
        "lenses/jacobian_input.pt",
        "lenses/tuned/params.pt",
    ];
    names.map(|name| file(&references().join(name))).to_vec()
}

/// Opens it as a tuned lens with its configuration, and alone; puts states through its maps.
pub fn read_lens(place: &Place, bytes: &[u8]) -> Result<()> {
    let path = place.put("lens/params.pt", bytes);
    let config = path.with_file_name("config.json");
    if !config.exists() {
        std::fs::copy(references().join("lenses/tuned/config.json"), &config).unwrap();
    }
    let lab = place.tiny();
    let lens = LensFile::open(path.to_str().unwrap(), &lab.model)?;
    let width = lab.model.card.d_model;
    let rows = Tensor::ones((2, width), DType::F32, &Device::Cpu)?;
    for site in [Site::ResidPre, Site::ResidPost] {
        for layer in 0..lab.model.card.layers {
            let mapped = lens.apply(site.at(layer), &rows)?;
            assert_eq!(mapped.dims(), [2, width]);
        }
    }
    Ok(())
}

/// Of two sites of the tiny model.
pub fn statistics() -> Vec<Vec<u8>> {
    let place = Place::open();
    let mut lab = place.tiny();
    let tokens: Vec<u32> = (1..30).collect();
    let wanted = expand("mlp_act.0,resid_pre.1", &lab.model.card.blueprint).unwrap();
    let how = TextReading {
        skip: 1,
        piece: 10,
        text: "numbers".into(),
    };
    let measured = Statistics::measure(&mut lab, &pieces(&tokens, None, 10), &wanted, &how);
    vec![measured.unwrap().bytes().unwrap()]
}

/// Reads them; what is read is written and read back.
pub fn read_statistics(place: &Place, bytes: &[u8]) -> Result<()> {
    let path = Path::new("statistics.safetensors");
    let statistics = Statistics::parse(bytes, path)?;
    let _ = (
        statistics.places(),
        statistics.about(),
        statistics.check(&place.tiny().model.card),
    );
    let again = Statistics::parse(&statistics.bytes()?, path).unwrap();
    assert_eq!(
        again.places(),
        statistics.places(),
        "what was written reads back"
    );
    Ok(())
}

/// An affine map of the tiny model's width, between two addresses and for all.
pub fn maps() -> Vec<Vec<u8>> {
    let width = Place::open().tiny().model.card.d_model;
    let numbers: Vec<u8> = (0..width * width)
        .flat_map(|i| (i as f32 / 100.0).to_le_bytes())
        .collect();
    let view = |shape: &[usize]| {
        let bytes = &numbers[..4 * shape.iter().product::<usize>()];
        TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes).unwrap()
    };
    [
        ("weight", "bias"),
        (
            "resid_post.0>resid_post.1.weight",
            "resid_post.0>resid_post.1.bias",
        ),
    ]
    .map(|(weight, bias)| {
        let tensors = [(weight, view(&[width, width])), (bias, view(&[width]))];
        safetensors::serialize(tensors, None).unwrap()
    })
    .into_iter()
    .chain([relation_map()])
    .collect()
}

/// The map of a relation, for the tiny model.
fn relation_map() -> Vec<u8> {
    let place = Place::open();
    let card = place.tiny().model.card.clone();
    let width = card.d_model;
    let weight: Vec<f32> = (0..width * width).map(|i| (i % 7) as f32 - 3.0).collect();
    let map = RelationMap {
        origin: RelationOrigin {
            revision: card.revision.clone(),
            prompts: RelationPrompts {
                template: "The capital of {} is".into(),
                examples: Vec::new(),
            },
            beta: 2.0,
            rank: 2,
            ..RelationOrigin::default()
        },
        bias: vec![0.5; width],
        inverse: RelationInverse::new(weight.clone(), width).unwrap(),
        weight,
    };
    let path = place.folder("seed").join("relation.safetensors");
    map.save(&path, &card, Overwrite::Allowed).unwrap();
    file(&path)
}

/// Reads them for the tiny model; what is read is saved and read back.
pub fn read_maps(place: &Place, bytes: &[u8]) -> Result<()> {
    let path = place.put("maps.safetensors", bytes);
    let card = place.tiny().model.card.clone();
    if let Ok(map) = RelationMap::load(&path, &card) {
        let states = vec![1.0; card.d_model];
        assert_eq!(map.object(&states).len(), card.d_model);
        let _ = map.inverse.apply(&states, map.origin.rank);
    }
    let maps = AffineMaps::load(&path, &card)?;
    let saved = place.folder("saved").join("maps.safetensors");
    maps.save(&saved, Overwrite::Allowed)?;
    assert_eq!(
        AffineMaps::load(&saved, &card).unwrap().maps.len(),
        maps.maps.len()
    );
    std::fs::remove_file(&saved).unwrap();
    Ok(())
}

/// A line of every operation.
pub fn edits() -> Vec<Vec<u8>> {
    [
        "add:refusal@resid_pre.3*1.5",
        "add:mood@resid_pre.2:generated/decode*-0.5",
        "add:mood@resid_pre.4:token:\"capital\" when refusal@resid_pre.2>0.5",
        "add:mood@resid_post.4-6:2..9*0.25",
        "add_unit_norm:mood@resid_pre.4*0.5",
        "add_renorm:mood@resid_pre.4:-1*2",
        "icv:mood@mlp_out.*:all*0.1",
        "project_out:refusal@writes",
        "scale_along:refusal@resid_pre.3*0.5",
        "clamp_along:refusal=-1..2@resid_pre.3",
        "set_along:refusal=3@resid_pre.3:last",
        "swap:refusal>mood@resid_pre.3",
        "relate:capital=\"France\">\"Japan\"@resid_post.1:token:\" France\"",
        "replace:mood@resid_pre.3:0",
        "zero:17,52@mlp_act.3",
        "zero@attn_out.2:all-but-bos",
        "mean:1,2@mlp_act.0",
        "resample:2=\"The capital of Italy\"@z.1",
        "scale:0,3@z.2:prompt/prefill*0.5",
        "set:5=0.25@mlp_act.1:1..3",
        "rewrite:5= Paris> Rome@mlp_act.1",
        "cut:0,2=1..3@attn_scores.*:last",
        "cut:=text:\"capital\"@attn_scores.1-3",
        "zero:17@mlp_act.3 when p(\" Paris\")>0.1",
    ]
    .map(|line| line.as_bytes().to_vec())
    .to_vec()
}

/// Parses lines; what an accepted one prints as means the same; all are put on a prompt, with their receipts.
pub fn read_edit(place: &Place, bytes: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(bytes);
    let edits = text
        .lines()
        .map(str::parse)
        .collect::<Result<Vec<Edit>>>()?;
    for edit in &edits {
        let printed = edit.to_string();
        let again = printed.parse::<Edit>();
        assert!(
            again.as_ref().is_ok_and(|a| a == edit),
            "`{printed}` reads as {again:?}, not as {edit:?}"
        );
    }
    // A sentence that quotes itself is no test of the model.
    if edits.is_empty() || edits.len() > 4 {
        return Ok(());
    }
    let mut lab = place.demo();
    let tokens = lab.model.encode("The capital of France is", false)?;
    let run = Run {
        schedule: Schedule::always(edits),
        ..Run::plain(tokens)
    };
    let known = lab.model.card.vocab;
    assert!(lab.last_logits(&run)?.len() <= known);
    for receipt in lab.receipts(&run)? {
        assert!(
            !receipt.active || receipt.fired > 0 || !receipt.why.is_empty(),
            "{receipt:?} does not say why"
        );
    }
    Ok(())
}

/// As the screen saves them.
pub fn presets() -> Vec<Vec<u8>> {
    let edits = edits();
    let lines = edits
        .iter()
        .map(|line| String::from_utf8_lossy(line).parse().unwrap());
    let preset = EditPreset {
        model: "demo".into(),
        revision: "0f3a".into(),
        edits: lines.collect(),
        ..EditPreset::default()
    };
    vec![
        preset.to_string().into_bytes(),
        b"mode = \"as if always\"\n[[edit]]\nedit = \"zero@attn_out.2\"\non = false\n".to_vec(),
    ]
}

/// Reads one; what it prints as reads back the same.
pub fn read_preset(place: &Place, bytes: &[u8]) -> Result<()> {
    let preset = EditPreset::load(&place.put("preset.toml", bytes))?;
    let _ = preset.caution(Path::new("preset.toml"), &place.tiny().model.card);
    let printed = preset.to_string();
    let again = EditPreset::parse(&printed);
    assert!(
        again.as_ref().is_ok_and(|a| *a == preset),
        "{printed} reads as {again:?}, not as {preset:?}"
    );
    Ok(())
}

/// Neurons and heads.
pub fn unit_sets() -> Vec<Vec<u8>> {
    vec![
        b"site = \"mlp_act\"\nrevision = \"0f3a\"\nunits = [\"3/17\", \"5/2\"]\n".to_vec(),
        b"site = \"z\"\nunits = [\"0/1\"]\n".to_vec(),
    ]
}

/// Reads one; what is saved reads back the same.
pub fn read_unit_set(place: &Place, bytes: &[u8]) -> Result<()> {
    let set = UnitSet::load(&place.put("set.toml", bytes))?;
    let _ = (set.at(0), set.check(&place.tiny().model.card));
    let path = place.folder("saved").join("set.toml");
    set.save(&path)?;
    assert_eq!(UnitSet::load(&path).unwrap(), set);
    std::fs::remove_file(&path).unwrap();
    Ok(())
}

/// Two templates.
pub fn libraries() -> Vec<Vec<u8>> {
    vec![b"[[template]]\nname = \"near\"\nprompt = \"x is near\"\n\n[[template]]\nname = \"far\"\nprompt = \"cat -> cat ; _\"\nslot = \"_\"\nabout = \"far away\"\n".to_vec()]
}

/// Reads one, and finds each of its templates.
pub fn read_library(place: &Place, bytes: &[u8]) -> Result<()> {
    let path = place.put("templates.toml", bytes);
    for template in templates::read(&path)? {
        let found = templates::find(&template.name, Some(&path))?;
        assert_eq!(found, template);
    }
    Ok(())
}

/// Those of the demo, the longer ones cut.
pub fn lists() -> Vec<Vec<u8>> {
    let folder = repository().join("demo/lists");
    let read = |name: &str| file(&folder.join(name));
    let lines = |name: &str| {
        let text = String::from_utf8(read(name)).unwrap();
        let few: Vec<&str> = text.lines().take(12).collect();
        few.join("\n").into_bytes()
    };
    vec![
        lines("languages.tsv"),
        lines("capitals.tsv"),
        lines("descriptions.tsv"),
        lines("map_text.txt"),
        b"[{\"prompts\": [\"The capital of France is\"], \"answer\": \" Paris\", \"relation\": \"capital\", \"new\": \" Rome\"}]".to_vec(),
        b"[{\"prompt\": \"The capital of the home of Ben is\", \"answer\": \" Paris\", \"entity\": \"Ben\", \"bridge\": [\" France\"], \"first\": \"Ben lives in\", \"second\": \"The capital of France is\"}]".to_vec(),
        b"[{\"clean\": \"The capital of France is\", \"corrupt\": \"The capital of Italy is\", \"answer\": \" Paris\", \"other\": \" Rome\"}]".to_vec(),
        b"[{\"input\": \"hot\", \"output\": \"cold\"}, [\"big\", \"small\"]]".to_vec(),
        b"{\"hot\": \"cold\", \"big\": \"small\"}".to_vec(),
        b"{\"name\": \"capital\", \"prompt_templates\": [\"The capital of {} is\"], \"samples\": [{\"subject\": \"France\", \"object\": \"Paris\"}]}".to_vec(),
    ]
}

/// Reads it as every kind of list; as a text too, when it is short.
pub fn read_list(place: &Place, bytes: &[u8]) -> Result<()> {
    let path = place.put("list", bytes);
    let words = WordList::load(&path).map(drop);
    let pairs = few_shot::read(&path).map(|pairs| {
        let _ = few_shot::split(&pairs, 0.5, 1);
    });
    let facts = facts::read(&path).map(drop);
    let hops = two_hop::read(&path).map(drop);
    let contrasts = pairs::read(&path).map(drop);
    let relations = relation::pairs::read(&path).map(|found| {
        let _ = found.split(1, 4, 1);
    });
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = ShotLayout::new(text, "\n");
    }
    if bytes.len() <= 600 {
        let scanner = Scanner {
            layer: 1,
            neuron: 3,
            window: 16,
            count: 3,
            negative: false,
        };
        let _ = ContextScan::file(&mut place.demo(), &path, &Schedule::none(), scanner);
    }
    let mut outcomes = vec![words, pairs, facts, hops, contrasts, relations];
    match outcomes.iter().position(std::result::Result::is_ok) {
        Some(_) => Ok(()),
        None => outcomes.pop().unwrap_or_else(|| Err(Error::EmptyPrompt)),
    }
}
