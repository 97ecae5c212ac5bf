//! Borrowed names: each is held to what TransformerLens has under it, by site and by value.
//!
//! Invariant: the table was measured by `tests/references/transformer_lens_names.py`; nothing here knows what a name ought to
//! mean. docs/names.md is written from the rows (`INSTA_UPDATE=always cargo test --test it names::the_page`). To add an architecture, add its checkpoint to `tests/references/cases.py` and make the table anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use lmscope::edit::Edit;
use lmscope::edit::schedule::Schedule;
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::model::Model;
use lmscope::model::load::{Options, load};
use lmscope::model::network::address::nearest_site;
use lmscope::model::network::names::{NameMeaning, SPELLINGS};
use lmscope::model::network::site::{Address, Site};
use serde::Deserialize;
use serde_json::Value;

/// Names on which TransformerLens has one of our sites, and we refuse, with the checkpoints (none named: all): the tensor is
/// read there by one reader only, so that an edit of the site would do more than an edit of TransformerLens; or the name means
/// something else in other families, and what it holds here is said instead.
const REFUSED: [(&str, &[&str]); 18] = [
    ("rotary_emb.hook_in", &[]),
    ("ln_final.hook_in", &[]),
    ("ln1.hook_in", &[]),
    ("ln1.hook_out", &["phi", "cohere", "stablelm_parallel"]),
    ("ln2.hook_in", &[]),
    ("attn.q.hook_in", &[]),
    ("attn.k.hook_in", &[]),
    ("attn.v.hook_in", &[]),
    ("attn.hook_rot_q", &["smollm3"]),
    ("attn.hook_rot_k", &["smollm3"]),
    ("attn.hook_hidden_states", &["phi3", "gpt2", "gpt_neox"]),
    ("attn.hook_attn_scores", &["opt"]),
    ("mlp.gate.hook_in", &[]),
    ("mlp.in.hook_in", &[]),
    ("mlp.dense_gate.hook_in", &[]),
    ("mlp.dense_in.hook_in", &[]),
    ("mlp.hook_pre", &["mixtral", "qwen3_moe", "olmoe"]),
    ("mlp.hook_post", &["mixtral", "qwen3_moe", "olmoe"]),
];

/// A name whose tensor has become a site since the table was measured. It was measured as what the MLP reads before the gain of
/// its norm; that the site is this is held by `dictionaries::features::what_is_before`.
const SINCE: (&str, Site) = ("ln2.hook_normalized", Site::MlpNormed);

#[derive(Deserialize)]
struct Measured {
    /// What the bridge said where it could not run a checkpoint.
    cases: BTreeMap<String, String>,
    /// By name and checkpoint.
    names: BTreeMap<String, BTreeMap<String, Vec<Value>>>,
}

fn references() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references")
}

fn measured() -> Measured {
    let text = std::fs::read_to_string(references().join("transformer_lens_names.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn model(case: &str) -> Model {
    let options = Options {
        dtype: Some("f32".into()),
        device: Some("cpu".into()),
        ..Options::default()
    };
    load(&references().join(case).to_string_lossy(), &options).unwrap()
}

/// The sum of `x[i] * cos(i + 1)`, as the script has it.
fn digest(tensor: &Tensor) -> f64 {
    let flat = tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
    let each = flat.to_vec1::<f64>().unwrap().into_iter().zip(1u32..);
    each.map(|(x, i)| {
        if x.is_finite() {
            x * f64::from(i).cos()
        } else {
            0.0
        }
    })
    .sum()
}

fn refused(name: &str, case: &str) -> bool {
    let name = name.strip_prefix("blocks.").map_or(name, |n| &n[2..]);
    REFUSED
        .iter()
        .any(|(r, cases)| *r == name && (cases.is_empty() || cases.contains(&case)))
}

#[test]
fn names_mean_what_transformer_lens_has_under_them() {
    let table = measured();
    let ran: Vec<&String> = table
        .cases
        .iter()
        .filter(|(_, why)| why.is_empty())
        .map(|(c, _)| c)
        .collect();
    assert!(ran.len() >= 23, "{ran:?}");
    let mut pairs = 0;
    for case in ran {
        let tensors = candle_core::safetensors::load(
            references()
                .join(case)
                .join("activations.short.safetensors"),
            &Device::Cpu,
        )
        .unwrap();
        let tokens = tensors["tokens"].to_dtype(DType::U32).unwrap();
        let mut lab = Lab::new(model(case));
        let mut meant: Vec<(String, Address, f64)> = Vec::new();
        for (name, row) in &table.names {
            let Some(entry) = row.get(case) else { continue };
            let found = lab.model.address(name);
            let (Some(sites), Some(value)) = (entry.first(), entry.get(1)) else {
                if name.ends_with(SINCE.0) {
                    assert_eq!(found.unwrap().site, SINCE.1, "{case}: {name}");
                    continue;
                }
                let error = found
                    .map(|at| format!("{case}: {name} reads as {at}"))
                    .unwrap_err();
                assert!(
                    error.to_string().contains("nearest site"),
                    "{name}: {error}"
                );
                continue;
            };
            let sites: BTreeSet<&str> = sites
                .as_str()
                .unwrap()
                .split(' ')
                .map(|s| s.trim_end_matches("^T"))
                .collect();
            match found {
                Ok(at) => {
                    assert!(
                        sites.contains(at.to_string().as_str()),
                        "{case}: {name} reads as {at}, and is {sites:?}"
                    );
                    meant.push((name.clone(), at, value.as_f64().unwrap()));
                }
                Err(error) => {
                    assert!(refused(name, case), "{case}: {name} is {sites:?}: {error}");
                    assert!(error.to_string().contains("nearest site"), "{error}");
                }
            }
        }
        let addresses: Vec<Address> = meant.iter().map(|(_, at, _)| *at).collect();
        let recording = lab
            .record(&Run::plain(tokens.to_vec1().unwrap()), &addresses)
            .unwrap();
        for (name, at, expected) in &meant {
            let own = digest(recording.get(*at).unwrap());
            assert!(
                (own - expected).abs() < 2e-3,
                "{case}: {name} is {expected} there, and {at} is {own}"
            );
        }
        pairs += meant.len();
    }
    assert!(pairs > 700, "{pairs}");
}

#[test]
fn no_other_name_is_read() {
    let table = measured();
    let listed = |name: &str| {
        let at = |layer: &str| table.names.get(&name.replace("{}", layer));
        at("1").into_iter().chain(at("0")).collect::<Vec<_>>()
    };
    for spelling in SPELLINGS {
        let rows = listed(spelling.name);
        assert!(
            !rows.is_empty() || spelling.name == "hook_tokens",
            "{}",
            spelling.name
        );
        for (case, _) in table.cases.iter().filter(|(_, why)| why.is_empty()) {
            if rows.iter().any(|row| row.contains_key(case)) {
                continue;
            }
            let model = model(case);
            for layer in 0..model.card.layers {
                let name = spelling.name.replace("{}", &layer.to_string());
                let found = model.address(&name);
                assert!(
                    found.is_err(),
                    "{case} has no {name} in TransformerLens, and it reads as {found:?}"
                );
            }
        }
    }
    let known: BTreeSet<&str> = SPELLINGS.iter().map(|s| s.name).collect();
    for name in table.names.keys() {
        let pattern = name.replace(".0.", ".{}.").replace(".1.", ".{}.");
        assert!(
            known.contains(pattern.as_str()),
            "{pattern} is in the table and no row of SPELLINGS"
        );
    }
}

/// What TransformerLens cannot run keeps the names that blocks of its kind have, and none that its kind leaves open.
#[test]
fn what_could_not_be_measured_is_not_guessed() {
    let table = measured();
    let failed: Vec<&String> = table
        .cases
        .iter()
        .filter(|(_, why)| !why.is_empty())
        .map(|(c, _)| c)
        .collect();
    assert_eq!(failed, ["gpt_neox_serial", "opt_350m", "phi_qk"]);
    let opt = model("opt_350m");
    for open in ["ln1.hook_out", "ln2.hook_out", "hook_resid_mid"] {
        let error = opt
            .address(&format!("blocks.1.{open}"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("nobody can say"), "{error}");
    }
    for name in ["hook_embed", "unembed.hook_in"] {
        assert!(opt.address(name).is_err(), "{name}");
    }
    assert!(model("phi_qk").address("blocks.1.attn.hook_q").is_err());
    let serial = model("gpt_neox_serial");
    assert_eq!(
        serial
            .address("blocks.1.hook_resid_mid")
            .unwrap()
            .to_string(),
        "resid_mid.1"
    );
}

/// Every refusal names a site that the model has.
#[test]
fn the_nearest_site_is_there() {
    for family in lmscope::model::network::families::FAMILIES {
        let model = Model::tiny(family, 3).unwrap();
        for spelling in SPELLINGS {
            for layer in 0..model.card.layers {
                let name = spelling.name.replace("{}", &layer.to_string());
                let Err(error) = model.address(&name) else {
                    continue;
                };
                let error = error.to_string();
                let words = error
                    .split_once("nearest site is ")
                    .or(error.split_once("Use "));
                let words = words.unwrap_or_else(|| panic!("{name}: {error}")).1;
                let near = words
                    .split([':', ' '])
                    .next()
                    .unwrap()
                    .trim_end_matches('.');
                let there = model.address(near);
                assert!(there.is_ok(), "{}: {error}: {there:?}", family.name);
            }
        }
    }
}

/// What a family has under a name: the site, or what is there instead.
fn told(model: &Model, name: &str) -> Option<String> {
    let spelling = SPELLINGS.iter().find(|s| s.name == name).unwrap();
    let blueprint = &model.card.blueprint;
    let written = |site: Site| {
        let layered = site.spec().layered;
        format!("`{}{}`", site.spec().name, if layered { ".L" } else { "" })
    };
    let mut all: Vec<String> = Vec::new();
    for layer in 0..blueprint.layers.len() {
        let text = match spelling.meaning(blueprint, layer) {
            NameMeaning::Is(site) if model.offers(site.at(layer)).is_ok() => written(site),
            NameMeaning::Holds(has, near) => {
                let near = nearest_site(near, layer, blueprint);
                format!("{has} (nearest: {})", written(near))
            }
            NameMeaning::Is(_) | NameMeaning::Absent | NameMeaning::Unmeasured => continue,
        };
        if !all.contains(&text) {
            all.push(text);
        }
    }
    (!all.is_empty()).then(|| all.join(", or "))
}

fn page() -> String {
    let models: Vec<Model> = lmscope::model::network::families::FAMILIES
        .iter()
        .map(|f| Model::tiny(f, 3).unwrap())
        .collect();
    let mut out = String::from(HEAD);
    for spelling in SPELLINGS {
        let mut by: Vec<(String, Vec<&str>)> = Vec::new();
        for model in &models {
            let Some(told) = told(model, spelling.name) else {
                continue;
            };
            match by.iter_mut().find(|(text, _)| *text == told) {
                Some((_, families)) => families.push(model.card.family),
                None => by.push((told, vec![model.card.family])),
            }
        }
        by.sort_by_key(|(_, families)| std::cmp::Reverse(families.len()));
        let one = by.len() == 1 && by[0].1.len() == models.len();
        let cells = by.iter().map(|(text, families)| {
            if one {
                text.clone()
            } else {
                format!("{text}: {}", families.join(", "))
            }
        });
        let cells = cells.collect::<Vec<_>>().join("<br>");
        out += &format!("| `{}` | {cells} |\n", spelling.name.replace("{}", "L"));
    }
    out
}

const HEAD: &str = "\
# Names of TransformerLens

An address is written in our words (`resid_post.10`; `lmscope sites` lists them) or with a name of TransformerLens. A borrowed name
is a claim about a tensor: it means what `TransformerBridge` of TransformerLens 4 has under it, weights as they are (no folding, no
centring), or it is refused with the nearest site. Layers are written `blocks.3.`, `blocks.3-5.` or `blocks.*.`.

The table is made from the code by `tests/it/names.rs`, which holds the code, by site and by value, to what
`tests/references/transformer_lens_names.py` measured on a small random checkpoint of every family. Families that are not named
in a row do not have the name. The families' configs are those of the tests, with every option on; `lmscope sites --model MODEL`
prints what holds for a checkpoint.

A name is refused, although TransformerLens has a tensor there that equals one of our sites, where only one reader of the site reads it
(`ln1.hook_in`, `attn.q.hook_in`): an edit of the site would do more. The same goes for `mlp.hook_pre` and `mlp.hook_post` of
mixtures of experts, which are the input and the output of the whole mixture, for `hook_attn_scores` of OPT, where TransformerLens 4.3
has the probabilities, and for `hook_normalized` of a norm with a gain, which is before the gain; that of the MLP's norm is a site, `mlp_normed`. `hook_q_normed` has heads before
tokens in some families; ours are always `[tokens, heads, head_dim]`.

TransformerLens 4.3 could not run three of the checkpoints, whose names follow the kind of their blocks and were not measured: Phi
with normed queries, GPT-NeoX with serial blocks and no biases, and the 350M OPT, where names that its norms leave open are refused.

| TransformerLens | here |
|---|---|
";

#[test]
fn the_page_says_what_the_code_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/names.md");
    let page = page();
    if std::env::var("INSTA_UPDATE").is_ok_and(|v| v == "always") {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/names.md is not what the rows say; write it anew with INSTA_UPDATE=always"
    );
}

#[test]
fn edits_say_what_they_understood() {
    let family = |name: &str| {
        let found = lmscope::model::network::families::FAMILIES.iter();
        let family = found.clone().find(|f| f.name == name).unwrap();
        Model::tiny(family, 5).unwrap()
    };
    let edit: Edit = "zero:1@blocks.0.mlp.hook_pre".parse().unwrap();
    for (name, becomes) in [("gpt2", "zero:1@mlp_up.0"), ("llama", "zero:1@mlp_gate.0")] {
        let mut lab = Lab::new(family(name));
        let card = lab.model.card.clone();
        assert_eq!(edit.on(&card.blueprint).unwrap().to_string(), becomes);
        // One that nobody resolved before is resolved when it is compiled.
        let run = Run {
            schedule: Schedule::always(vec![edit.clone()]),
            ..Run::plain(vec![1, 2, 3])
        };
        let recording = lab.record(&run, &[Site::MlpOut.at(0)]).unwrap();
        assert_eq!(recording.receipts[0].edit, becomes);
        assert!(recording.receipts[0].fired > 0, "{name}");
    }
    let error = edit.on(&family("mixtral").card.blueprint).unwrap_err();
    assert!(error.to_string().contains("mlp_in.0"), "{error}");
    let all: Edit = "zero@blocks.*.attn.hook_q".parse().unwrap();
    let llama = family("llama").card.blueprint;
    assert_eq!(all.on(&llama).unwrap().to_string(), "zero@q.*");
    assert!(all.on(&family("qwen3").card.blueprint).is_err());
    let always: Edit = "zero@blocks.2.hook_mlp_out".parse().unwrap();
    assert_eq!(always.to_string(), "zero@mlp_add.2");
}

#[test]
fn the_program_says_what_a_name_is() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("t.safetensors");
    let lmscope = |arguments: &[&str]| {
        let done = std::process::Command::new(env!("CARGO_BIN_EXE_lmscope"))
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (done.status.code(), text(&done.stdout), text(&done.stderr))
    };
    let at = |case: &str| references().join(case).to_string_lossy().into_owned();
    let trace = |case: &str, sites: &str| {
        let (model, file) = (at(case), out.to_string_lossy().into_owned());
        lmscope(&[
            "trace", &model, "--ids", "1,5,9", "--sites", sites, "--force", "-o", &file,
        ])
    };
    let (code, _, said) = trace("gemma2", "blocks.*.hook_attn_out");
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("blocks.*.hook_attn_out means attn_add.* on this model"),
        "{said}"
    );
    let kept = candle_core::safetensors::load(&out, &Device::Cpu).unwrap();
    assert!(kept.contains_key("attn_add.1") && !kept.contains_key("attn_out.1"));
    for (case, name, near) in [
        ("gemma2", "blocks.1.ln1.hook_normalized", "attn_in.1"),
        ("qwen3", "blocks.1.attn.hook_q", "q.1"),
        ("gpt2", "hook_embed", "embed"),
        ("cohere", "blocks.1.hook_resid_mid", "resid_pre.1"),
    ] {
        let (code, _, said) = trace(case, name);
        assert!(
            code == Some(1) && said.contains(near),
            "{case} {name}: {said}"
        );
    }
    let (_, sites, _) = lmscope(&["sites", "--model", &at("qwen3")]);
    let row = |name: &str| {
        sites
            .lines()
            .find(|l| l.starts_with(name))
            .unwrap_or_default()
            .to_string()
    };
    assert!(
        !row("q.L").contains("attn.hook_q,") && row("q.L").contains("hook_q_normed"),
        "{sites}"
    );
    assert!(
        row("attn_add.L").contains("blocks.L.hook_attn_out"),
        "{sites}"
    );
    assert!(
        row("blocks.L.attn.hook_q ").contains("queries before their norm"),
        "{sites}"
    );
    let (_, sites, _) = lmscope(&["sites", "--format", "json"]);
    let sites: Vec<Value> = serde_json::from_str(&sites).unwrap();
    let embed = sites.iter().find(|s| s["site"] == "embed").unwrap();
    assert!(
        embed["transformer_lens"][0]
            .as_str()
            .unwrap()
            .contains("positions are not learned")
    );
}
