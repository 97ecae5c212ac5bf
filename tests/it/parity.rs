//! Parity with Hugging Face transformers: every site of every family, the cached path, storage, token ids.
//!
//! Invariant: what is compared was computed elsewhere, by `tests/references/make.py`, and loads here through the public
//! loader like any other checkpoint. To add a case, add it to that script and to [`CASES`].

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use lmscope::edit::schedule::Schedule;
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::lab::sample::Sampling;
use lmscope::lab::writer::Writer;
use lmscope::model::Model;
use lmscope::model::load::{Options, load};
use lmscope::model::network::families;
use lmscope::model::network::families::FAMILIES;
use lmscope::model::network::site::{Address, Axis, SITES, Site};
use lmscope::model::network::tap::{NoTap, PassPhase, PassSpan};
use lmscope::model::tokenizer::{self, Bos, Tokenizer};

type Outcome = Result<(), Box<dyn Error>>;

/// Tensors by the name that the file gives them.
type Tensors = HashMap<String, Tensor>;

/// Checkpoints with every site, one for every way in which families and ropes differ.
pub const CASES: [&str; 30] = [
    "llama",
    "llama_linear",
    "llama_dynamic",
    "llama_yarn",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gemma3",
    "phi",
    "phi_qk",
    "phi3",
    "gpt2",
    "gpt_neox",
    "gpt_neox_serial",
    "opt",
    "opt_350m",
    "olmo",
    "olmo2",
    "olmoe",
    "starcoder2",
    "smollm3",
    "granite",
    "cohere",
    "stablelm",
    "stablelm_parallel",
];

/// A prompt past every window and every original context, and one within.
const PROMPTS: [&str; 2] = ["activations.safetensors", "activations.short.safetensors"];

/// Most that one number may differ, in f32.
const TOLERANCE: f32 = 5e-5;

/// Most that a logit may differ when positions come through the cache.
const CACHED: f32 = 1e-4;

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/references")
        .join(case)
}

fn model(case: &str, dtype: &str) -> Result<Model, lmscope::error::Error> {
    let options = Options {
        dtype: Some(dtype.into()),
        device: Some("cpu".into()),
        ..Options::default()
    };
    load(&folder(case).to_string_lossy(), &options)
}

/// What was computed elsewhere for one prompt.
struct Expected {
    /// Sites by address, with the rows at `positions`; attention matrices keep those queries.
    sites: Tensors,
    tokens: Vec<u32>,
    positions: Vec<u32>,
    /// What greedy decoding goes on with, where it was asked.
    greedy: Vec<u32>,
}

fn expected(case: &str, file: &str) -> Result<Expected, candle_core::Error> {
    let mut sites = candle_core::safetensors::load(folder(case).join(file), &Device::Cpu)?;
    let mut ids = |name: &str| -> Result<Vec<u32>, candle_core::Error> {
        let Some(found) = sites.remove(name) else {
            return Ok(Vec::new());
        };
        found.to_dtype(DType::U32)?.to_vec1()
    };
    Ok(Expected {
        tokens: ids("tokens")?,
        positions: ids("positions")?,
        greedy: ids("greedy")?,
        sites,
    })
}

/// The rows of a whole site that the references keep.
fn kept(at: Address, whole: &Tensor, positions: &[u32]) -> Result<Tensor, candle_core::Error> {
    let axis = usize::from(at.site.spec().axis == Axis::Positions);
    whole
        .contiguous()?
        .index_select(&Tensor::new(positions, &Device::Cpu)?, axis)
}

/// The largest difference between two tensors of one shape; -inf equals -inf, and a NaN differs from all.
fn difference(name: &str, expected: &Tensor, found: &Tensor) -> Result<f32, Box<dyn Error>> {
    assert_eq!(
        (found.dims(), found.dtype()),
        (expected.dims(), DType::F32),
        "{name}"
    );
    let (expected, found) = (
        expected.flatten_all()?.to_vec1::<f32>()?,
        found.flatten_all()?.to_vec1::<f32>()?,
    );
    let differences = expected.iter().zip(&found).map(|(a, b)| {
        let difference = if a == b { 0.0 } else { (a - b).abs() };
        if difference.is_nan() {
            f32::INFINITY
        } else {
            difference
        }
    });
    Ok(differences.fold(0.0, f32::max))
}

/// Records everything that is expected in one pass; returns what was found, by the expected name.
fn found(lab: &mut Lab, expected: &Expected) -> Result<Tensors, Box<dyn Error>> {
    let addresses = expected
        .sites
        .keys()
        .map(|name| name.parse())
        .collect::<Result<Vec<Address>, _>>()?;
    let recording = lab.record(&Run::plain(expected.tokens.clone()), &addresses)?;
    let named = expected.sites.keys().zip(addresses);
    named
        .map(|(name, at)| {
            let rows = kept(at, recording.get(at)?, &expected.positions)?;
            Ok((name.clone(), rows))
        })
        .collect()
}

/// All tensors that differ by more than the tolerance, and the largest difference of all.
fn compare(
    expected: &Tensors,
    found: &Tensors,
    tolerance: f32,
) -> Result<(Vec<String>, f32), Box<dyn Error>> {
    let mut wrong = Vec::new();
    let mut worst = 0f32;
    for (name, tensor) in expected {
        let difference = difference(name, tensor, &found[name])?;
        worst = worst.max(difference);
        if difference > tolerance {
            wrong.push(format!("{name} by {difference:.2e}"));
        }
    }
    wrong.sort();
    Ok((wrong, worst))
}

#[test]
#[allow(clippy::print_stdout)] // shown when a test fails, or with --nocapture
fn every_site_agrees_with_transformers() -> Outcome {
    let mut failures = Vec::new();
    for case in CASES {
        let mut lab = Lab::new(model(case, "f32")?);
        for prompt in PROMPTS {
            let expected = expected(case, prompt)?;
            let (wrong, worst) = compare(&expected.sites, &found(&mut lab, &expected)?, TOLERANCE)?;
            let (tokens, sites) = (expected.tokens.len(), expected.sites.len());
            println!("{case}, {tokens} tokens, {sites} tensors: at most {worst:.2e} apart");
            if !wrong.is_empty() {
                failures.push(format!("{case}, {tokens} tokens: {}", wrong.join(", ")));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

#[test]
fn the_references_leave_no_site_out() -> Outcome {
    for case in CASES {
        let model = model(case, "f32")?;
        for prompt in PROMPTS {
            let expected = expected(case, prompt)?;
            let named = expected
                .sites
                .keys()
                .map(|name| name.parse())
                .collect::<Result<Vec<Address>, _>>()?;
            // No module of transformers returns what is between a norm's two steps: `dictionaries::features::what_is_before`.
            let given = SITES.iter().filter(|spec| spec.site != Site::MlpNormed);
            for spec in given {
                for layer in 0..if spec.layered { model.card.layers } else { 1 } {
                    let at = spec.site.at(layer);
                    assert_eq!(
                        named.contains(&at),
                        model.offers(at).is_ok(),
                        "{at} of {case} in {prompt}"
                    );
                }
            }
        }
    }
    Ok(())
}

/// Every family has a case.
#[test]
fn no_family_goes_without_references() -> Outcome {
    let mut missing: Vec<&str> = FAMILIES.iter().map(|f| f.name).collect();
    for case in CASES {
        let family = model(case, "f32")?.card.family;
        missing.retain(|name| *name != family);
    }
    assert!(missing.is_empty(), "{missing:?}");
    Ok(())
}

/// transformers 4 and 5 spell one configuration differently (`rope_scaling` and `rope_parameters`, `torch_dtype` and `dtype`,
/// window rules and `layer_types`); both mean one blueprint.
#[test]
fn both_dialects_of_config_json_mean_the_same() -> Outcome {
    for case in CASES {
        let read = |name: &str| -> Result<_, Box<dyn Error>> {
            let config = serde_json::from_slice(&std::fs::read(folder(case).join(name))?)?;
            Ok(families::read(&config)?.1)
        };
        assert_eq!(read("config.json")?, read("config.v5.json")?, "{case}");
    }
    Ok(())
}

/// A comparison that cannot fail proves nothing.
#[test]
fn one_wrong_number_is_seen() -> Outcome {
    for case in CASES {
        let right = expected(case, PROMPTS[0])?;
        let found = found(&mut Lab::new(model(case, "f32")?), &right)?;
        for (name, tensor) in &right.sites {
            let values = tensor.flatten_all()?.to_vec1::<f32>()?;
            let middle = values.len() / 2;
            let finite = (middle..values.len())
                .chain(0..middle)
                .find(|i| values[*i].is_finite());
            let masked = values.iter().position(|v| v.is_infinite());
            assert_eq!(
                masked.is_some(),
                name.starts_with("attn_scores"),
                "{name} of {case}"
            );
            for (place, by) in finite
                .map(|i| (i, values[i] + 3.0 * TOLERANCE))
                .into_iter()
                .chain(masked.map(|i| (i, f32::MIN)))
            {
                let mut wrong = values.clone();
                wrong[place] = by;
                let wrong = Tensors::from([(
                    name.clone(),
                    Tensor::from_vec(wrong, tensor.dims(), &Device::Cpu)?,
                )]);
                assert_eq!(
                    compare(&wrong, &found, TOLERANCE)?.0.len(),
                    1,
                    "{name} of {case} at {place}"
                );
            }
        }
    }
    Ok(())
}

/// Our own greedy decoding, token by token through the cache and across every change of frequencies.
#[test]
fn greedy_decoding_agrees_with_transformers() -> Outcome {
    for case in CASES {
        let mut lab = Lab::new(model(case, "f32")?);
        let expected = expected(case, PROMPTS[1])?;
        assert!(!expected.greedy.is_empty(), "{case}");
        let mut writer = Writer::begin(
            &mut lab,
            expected.tokens.clone(),
            Schedule::none(),
            Sampling::default(),
        )?;
        let written = expected
            .greedy
            .iter()
            .map(|_| Ok(writer.step(&mut lab, &[])?.choice.id))
            .collect::<Result<Vec<_>, lmscope::error::Error>>()?;
        assert_eq!(written, expected.greedy, "{case}");
    }
    Ok(())
}

/// A text that grows into other frequencies is read again, so that a step equals one pass over the whole.
#[test]
fn steps_past_the_original_context_equal_one_pass() -> Outcome {
    for (case, regimes) in [("phi3", 2), ("llama_dynamic", 8)] {
        let mut lab = Lab::new(model(case, "f32")?);
        let long = expected(case, PROMPTS[0])?.tokens;
        let original = (1..long.len())
            .rfind(|n| lab.model.transformer.rope_scaling_regime(*n) == 0)
            .ok_or("a scaled rope has an original context")?;
        let start = long[..original - 3].to_vec();
        let mut writer = Writer::begin(&mut lab, start, Schedule::none(), Sampling::default())?;
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..10 {
            writer.step(&mut lab, &[])?;
            let whole = lab.last_logits(&Run::plain(writer.run.tokens.clone()))?;
            let worst = whole
                .iter()
                .zip(&writer.output()?)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(
                worst <= TOLERANCE,
                "{case} at {}: {worst:.2e}",
                writer.run.tokens.len()
            );
            seen.insert(
                lab.model
                    .transformer
                    .rope_scaling_regime(writer.run.tokens.len()),
            );
        }
        assert_eq!(seen.len(), regimes, "{case}: {seen:?}");
    }
    Ok(())
}

/// Logits of all positions, read in pieces through the cache.
fn cached(model: &Model, ids: &[u32], pieces: &[usize]) -> Result<Tensor, Box<dyn Error>> {
    let mut cache = model.cache(1)?;
    let mut rows = Vec::new();
    for (i, &len) in pieces.iter().enumerate() {
        let start = cache.len();
        let phase = if i == 0 {
            PassPhase::Prefill
        } else {
            PassPhase::Decode
        };
        let span = PassSpan {
            start,
            len,
            prompt: pieces[0],
            phase,
        };
        let x = model.transformer.trunk(
            &model.tokens(&ids[start..start + len])?,
            span,
            Some(&mut cache),
            &mut NoTap,
        )?;
        rows.push(model.transformer.read_out(&x, &mut NoTap)?.squeeze(0)?);
    }
    assert_eq!(cache.len(), ids.len());
    Ok(Tensor::cat(&rows, 0)?)
}

#[test]
fn cached_decoding_agrees_with_transformers() -> Outcome {
    for case in CASES {
        let model = model(case, "f32")?;
        let expected = expected(case, PROMPTS[0])?;
        let ids = &expected.tokens;
        // A cache serves one regime of frequencies; growing into another is tested by itself.
        let stable = (1..ids.len())
            .find(|n| {
                model.transformer.rope_scaling_regime(*n)
                    == model.transformer.rope_scaling_regime(ids.len())
            })
            .unwrap_or(ids.len());
        let mut splits = vec![
            [&[ids.len() - 8][..], &[1; 8]].concat(),
            [&[ids.len() - 24, 16][..], &[1; 8]].concat(),
            vec![1; ids.len()],
        ];
        splits.retain(|pieces| pieces[0] >= stable);
        if stable > 1 {
            splits.push(vec![ids.len()]);
        }
        let at = Site::Logits.at(0);
        for pieces in splits {
            let found = kept(at, &cached(&model, ids, &pieces)?, &expected.positions)?;
            let difference = difference("logits", &expected.sites["logits"], &found)?;
            assert!(
                difference <= CACHED,
                "{case} in {pieces:?}: {difference:.2e}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_cache_that_grows_agrees_with_one_pass() -> Outcome {
    for case in ["llama", "gemma2"] {
        let model = model(case, "f32")?;
        let ids = expected(case, PROMPTS[0])?.tokens.repeat(3);
        let ids = &ids[..ids.len().min(model.card.context)];
        let whole = cached(&model, ids, &[ids.len()])?;
        let grown = cached(
            &model,
            ids,
            &[&[100, 20][..], &vec![1; ids.len() - 120]].concat(),
        )?;
        let difference = difference("logits", &whole, &grown)?;
        assert!(difference <= CACHED, "{case}: {difference:.2e}");
    }
    Ok(())
}

/// The shards carry a config.json in the spelling of transformers 5, so that is compared as well.
#[test]
fn shards_are_the_same_model_bit_for_bit() -> Outcome {
    let expected = expected("llama", PROMPTS[0])?;
    let single = found(&mut Lab::new(model("llama", "f32")?), &expected)?;
    let sharded = found(&mut Lab::new(model("llama_sharded", "f32")?), &expected)?;
    for (name, tensor) in &single {
        let bits = |t: &Tensor| {
            t.flatten_all()?
                .to_vec1::<f32>()
                .map(|v| v.into_iter().map(f32::to_bits).collect::<Vec<_>>())
        };
        assert!(bits(tensor)? == bits(&sharded[name])?, "{name}");
    }
    Ok(())
}

/// Sixteen-bit storage is widened exactly; sixteen-bit arithmetic rounds. `gpt2_f16` also names its tensors as OpenAI's own
/// checkpoints do, without `transformer.`.
#[test]
fn sixteen_bit_checkpoints_agree() -> Outcome {
    for case in ["llama_bf16", "gpt2_f16"] {
        let mut expected = expected(case, PROMPTS[0])?;
        if expected.positions.is_empty() {
            expected.positions = (0..expected.tokens.len() as u32).collect();
        }
        for (dtype, tolerance) in [("f32", TOLERANCE), ("f16", 5e-2)] {
            let found = found(&mut Lab::new(model(case, dtype)?), &expected)?;
            let (wrong, _) = compare(&expected.sites, &found, tolerance)?;
            assert!(wrong.is_empty(), "{case} in {dtype}: {}", wrong.join(", "));
        }
    }
    Ok(())
}

/// What Python's `AutoTokenizer` gives for one text.
#[derive(serde::Deserialize)]
struct Encoded {
    text: String,
    /// As `tokenizer(text)` gives it.
    ids: Vec<u32>,
    /// Without the tokens that it puts around a text.
    raw: Vec<u32>,
}

/// What Python says of one tokenizer.
#[derive(serde::Deserialize)]
struct Vocabulary {
    bos: u32,
    eos: u32,
    size: usize,
    cases: Vec<Encoded>,
}

#[test]
fn token_ids_are_those_of_python() -> Outcome {
    let folder = folder("tokenizers");
    let all: HashMap<String, Vocabulary> =
        serde_json::from_slice(&std::fs::read(folder.join("tokenizers.json"))?)?;
    assert_eq!(all.len(), 2);
    for (name, expected) in all {
        let file = |file: &str| std::fs::read(folder.join(&name).join(file));
        let tokenizer = Tokenizer::from_files(&tokenizer::TokenizerFiles {
            tokenizer: &file("tokenizer.json")?,
            tokenizer_config: Some(&file("tokenizer_config.json")?),
            ..tokenizer::TokenizerFiles::default()
        })?;
        assert_eq!(
            (tokenizer.bos(), tokenizer.eos()),
            (Some(expected.bos), &[expected.eos][..]),
            "{name}"
        );
        assert_eq!(tokenizer.vocab_size(), expected.size, "{name}");
        let mut wrong = Vec::new();
        for case in &expected.cases {
            for (bos, ids) in [(Bos::Add, &case.ids), (Bos::Raw, &case.raw)] {
                let found = tokenizer.encode(&case.text, bos)?;
                if found != *ids {
                    wrong.push(format!(
                        "{:?} {bos:?}: Python {ids:?}, here {found:?}",
                        case.text
                    ));
                }
            }
        }
        assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
    }
    Ok(())
}
