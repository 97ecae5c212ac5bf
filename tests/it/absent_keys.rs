//! config.json with keys absent, null, or in both dialects of rope, against what transformers makes of the same files.
//!
//! Invariant: the expected values come from `tests/references/absent_keys.py`. To add a variant, add a patch there.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::model::load::{Options, load};
use lmscope::model::network::families;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Case {
    same: Vec<String>,
    refused: BTreeMap<String, String>,
    missing: BTreeMap<String, String>,
    other: BTreeMap<String, Other>,
}

#[derive(Deserialize)]
struct Other {
    logits: Option<Vec<f32>>,
    sizes: Option<BTreeMap<String, Option<usize>>>,
    unused: Option<usize>,
}

fn references() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references")
}

/// The configuration that a variant's name stands for.
fn variant(base: &Value, name: &str, patches: &Value) -> Value {
    let mut config = base.clone();
    let mut put = |path: &str, value: Option<Value>| {
        let (above, last) = path.rsplit_once('.').unwrap_or(("", path));
        let mut at = &mut config;
        for part in above.split('.').filter(|p| !p.is_empty()) {
            at = at.get_mut(part).unwrap();
        }
        match value {
            None => drop(at.as_object_mut().unwrap().remove(last)),
            Some(value) => at[last] = value,
        }
    };
    if let Some(patch) = patches.get(name) {
        for (key, value) in patch.as_object().unwrap() {
            put(key, (value != "-").then(|| value.clone()));
        }
    } else if let Some(key) = name.strip_suffix(" absent") {
        put(key, None);
    } else if let Some(key) = name.strip_suffix(" null") {
        put(key, Some(Value::Null));
    } else {
        assert_eq!(name, "as it is");
    }
    config
}

/// Keys whose nulls transformers refuses and that nothing here depends on.
fn irrelevant(name: &str) -> bool {
    let key = name.strip_suffix(" null").unwrap_or_default();
    let key = key.strip_prefix("text_config.").unwrap_or(key);
    name.starts_with("vision_config.")
        || key.ends_with("dropout")
        || key.ends_with("pdrop")
        || key.starts_with("summary_")
        || key.starts_with("router_")
        || [
            "use_cache",
            "initializer_range",
            "init_std",
            "layerdrop",
            "output_router_logits",
            "is_decoder",
            "reorder_and_upcast_attn",
            "pretraining_tp",
            "image_token_index",
            "mm_tokens_per_image",
        ]
        .contains(&key)
}

/// A folder with a case's weights and another configuration.
struct Made(tempfile::TempDir);

impl Made {
    fn new(case: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let weights = references().join(case).join("model.safetensors");
        std::fs::copy(weights, folder.path().join("model.safetensors")).unwrap();
        Self(folder)
    }

    fn lab(&self, config: &Value) -> lmscope::error::Result<Lab> {
        std::fs::write(self.0.path().join("config.json"), config.to_string()).unwrap();
        let options = Options {
            dtype: Some("f32".into()),
            device: Some("cpu".into()),
            ..Options::default()
        };
        load(&self.0.path().to_string_lossy(), &options).map(Lab::new)
    }
}

/// Six logits of the last position, and six of the middle one.
fn logits(lab: &mut Lab, tokens: &[u32]) -> Vec<f32> {
    let at = "logits".parse().unwrap();
    let found = lab.record(&Run::plain(tokens.to_vec()), &[at]).unwrap();
    let rows: Vec<Vec<f32>> = found.get(at).unwrap().to_vec2().unwrap();
    let row = |i: usize| rows[i][..6].to_vec();
    [row(rows.len() - 1), row(rows.len() / 2)].concat()
}

fn apart(expected: &[f32], found: &[f32]) -> f32 {
    assert_eq!(expected.len(), found.len());
    let gaps = expected.iter().zip(found).map(|(a, b)| (a - b).abs());
    gaps.fold(0.0, |most, gap| if gap <= most { most } else { gap })
}

fn prompt(case: &str) -> Vec<u32> {
    let file = references().join(case).join("activations.safetensors");
    let tensors = candle_core::safetensors::load(file, &candle_core::Device::Cpu).unwrap();
    let tokens = tensors["tokens"].to_dtype(candle_core::DType::U32).unwrap();
    tokens.to_vec1().unwrap()
}

#[test]
fn keys_that_are_absent_null_or_in_two_dialects_are_read_as_transformers_reads_them() {
    let text = std::fs::read_to_string(references().join("absent_keys.json")).unwrap();
    let mut all: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
    let patches = all.remove("patches").unwrap();
    let (mut wrong, mut compared, mut passes, mut too_long) = (Vec::new(), 0, 0, 0);
    for (place, case) in &all {
        let case: Case = serde_json::from_value(case.clone()).unwrap();
        let (name, file) = place.split_once('/').unwrap();
        let text = std::fs::read_to_string(references().join(name).join(file)).unwrap();
        let base: Value = serde_json::from_str(&text).unwrap();
        let (made, tokens) = (Made::new(name), prompt(name));
        let mut known: HashMap<String, Vec<f32>> = HashMap::new();
        let mut of = |config: &Value| -> Result<(Vec<f32>, usize), String> {
            let (_, blueprint) = families::read(config).map_err(|e| e.to_string())?;
            // Equal blueprints give equal numbers, once the weights fit.
            if tokens.len() > blueprint.context {
                // Here the length that a model was made for is a bound; there it is none.
                return Ok((Vec::new(), usize::MAX));
            }
            let key = format!("{blueprint:?}");
            if let Some(found) = known.get(&key) {
                return Ok((found.clone(), usize::MAX));
            }
            let mut lab = made.lab(config).map_err(|e| e.to_string())?;
            let unused = usize::from(lab.model.notes.iter().any(|n| n.contains("not used")));
            passes += 1;
            let found = logits(&mut lab, &tokens);
            known.insert(key, found.clone());
            Ok((found, unused))
        };
        let plain = case.other["as it is"].logits.clone().unwrap();
        let expected = (case.same.iter().map(|name| (name, &plain, None))).chain(
            case.other
                .iter()
                .map(|(name, other)| (name, other.logits.as_ref().unwrap_or(&plain), Some(other))),
        );
        for (variant_name, expected, other) in expected {
            compared += 1;
            let config = variant(&base, variant_name, &patches);
            match of(&config) {
                Err(e) => wrong.push(format!("{place}, {variant_name}: refused: {e}")),
                Ok((found, _)) if found.is_empty() => too_long += 1,
                Ok((found, unused)) => {
                    let gap = apart(expected, &found);
                    if gap.is_nan() || gap > 2e-4 {
                        wrong.push(format!("{place}, {variant_name}: {gap:.1e} apart"));
                    }
                    if other.and_then(|o| o.unused).is_some_and(|n| n > 0) && unused == 0 {
                        wrong.push(format!(
                            "{place}, {variant_name}: unused tensors are not said"
                        ));
                    }
                }
            }
            let Some(sizes) = other.and_then(|o| o.sizes.as_ref()) else {
                continue;
            };
            let Ok((_, b)) = families::read(&config) else {
                continue;
            };
            let ours = [
                ("d_model", b.d_model),
                ("layers", b.layers.len()),
                ("heads", b.heads),
                ("kv_heads", b.kv_heads),
                ("vocab", b.vocab),
                ("context", b.context),
            ];
            for (size, ours) in ours {
                let theirs = sizes.get(size).copied().flatten();
                let stretched = size == "context" && name == "llama_dynamic";
                if theirs.is_some_and(|n| n != ours) && !stretched {
                    wrong.push(format!(
                        "{place}, {variant_name}: {size} {ours}, not {theirs:?}"
                    ));
                }
            }
        }
        for (variant_name, why) in case.refused.iter().chain(&case.missing) {
            compared += 1;
            if irrelevant(variant_name) {
                continue;
            }
            let config = variant(&base, variant_name, &patches);
            if families::read(&config).is_ok() && made.lab(&config).is_ok() {
                wrong.push(format!(
                    "{place}, {variant_name}: loads, and transformers: {why}"
                ));
            }
        }
    }
    println!("{compared} variants, {passes} passes");
    assert!(compared > 2500 && too_long < 30, "{compared}, {too_long}");
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
