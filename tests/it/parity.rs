//! Parity with Hugging Face transformers: every site of every family, the cached path, storage, token ids.
//!
//! Invariant: what is compared was computed elsewhere, by `tests/references/make.py`, and loads here through the public
//! loader like any other checkpoint. To add a case, add it to that script and to [`CASES`].

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use lmscope::lab::bench::Bench;
use lmscope::lab::run::Run;
use lmscope::model::Model;
use lmscope::model::load::{Options, load};
use lmscope::model::site::{Address, SITES};
use lmscope::model::tap::{NoTap, Phase, Span};
use lmscope::model::tokenizer::{self, Bos, Tokenizer};

type Outcome = Result<(), Box<dyn Error>>;

/// Tensors by the name that the file gives them.
type Tensors = HashMap<String, Tensor>;

/// Checkpoints with every site.
const CASES: [&str; 3] = ["llama", "qwen2", "gpt2"];

/// A long prompt and one of a single token.
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

/// The expected tensors of a prompt, and its token ids.
fn expected(case: &str, file: &str) -> Result<(Tensors, Vec<u32>), candle_core::Error> {
    let mut tensors = candle_core::safetensors::load(folder(case).join(file), &Device::Cpu)?;
    let tokens = tensors
        .remove("tokens")
        .map_or_else(|| Tensor::zeros(0, DType::I64, &Device::Cpu), Ok)?;
    Ok((tensors, tokens.to_dtype(DType::U32)?.to_vec1()?))
}

/// An address as the references name it: the last queries of an attention matrix end in `.tail`.
fn address(name: &str) -> Result<Address, lmscope::error::Error> {
    name.strip_suffix(".tail").unwrap_or(name).parse()
}

/// The largest difference between two tensors of one shape; -inf equals -inf, and a NaN differs from all.
fn difference(name: &str, expected: &Tensor, found: &Tensor) -> Result<f32, Box<dyn Error>> {
    let found = if name.ends_with(".tail") {
        let (queries, kept) = (found.dim(1)?, expected.dim(1)?);
        assert_eq!(found.dim(2)?, queries, "{name} is not whole");
        found.narrow(1, queries - kept, kept)?
    } else {
        found.clone()
    };
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
fn found(bench: &mut Bench, expected: &Tensors, ids: &[u32]) -> Result<Tensors, Box<dyn Error>> {
    let addresses = expected
        .keys()
        .map(|name| address(name))
        .collect::<Result<Vec<_>, _>>()?;
    let recording = bench.record(&Run::plain(ids.to_vec()), &addresses)?;
    let named = expected.keys().zip(&addresses);
    Ok(named
        .map(|(name, at)| Ok((name.clone(), recording.get(*at)?.clone())))
        .collect::<Result<_, lmscope::error::Error>>()?)
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
    for case in CASES {
        let mut bench = Bench::new(model(case, "f32")?);
        for prompt in PROMPTS {
            let (expected, ids) = expected(case, prompt)?;
            let (wrong, worst) =
                compare(&expected, &found(&mut bench, &expected, &ids)?, TOLERANCE)?;
            println!(
                "{case}, {} tokens, {} tensors: at most {worst:.2e} apart",
                ids.len(),
                expected.len()
            );
            assert!(
                wrong.is_empty(),
                "{case}, {} tokens: {}",
                ids.len(),
                wrong.join(", ")
            );
        }
    }
    Ok(())
}

#[test]
fn the_references_leave_no_site_out() -> Outcome {
    for case in CASES {
        let model = model(case, "f32")?;
        for prompt in PROMPTS {
            let (expected, _) = expected(case, prompt)?;
            let named = expected
                .keys()
                .map(|name| address(name))
                .collect::<Result<Vec<_>, _>>()?;
            for spec in SITES {
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

/// A comparison that cannot fail proves nothing.
#[test]
fn one_wrong_number_is_seen() -> Outcome {
    for case in CASES {
        let (right, ids) = expected(case, PROMPTS[0])?;
        let found = found(&mut Bench::new(model(case, "f32")?), &right, &ids)?;
        for (name, tensor) in &right {
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

/// Logits of all positions, read in pieces through the cache.
fn cached(model: &Model, ids: &[u32], pieces: &[usize]) -> Result<Tensor, Box<dyn Error>> {
    let mut cache = model.cache(1)?;
    let mut rows = Vec::new();
    for (i, &len) in pieces.iter().enumerate() {
        let start = cache.len();
        let phase = if i == 0 {
            Phase::Prefill
        } else {
            Phase::Decode
        };
        let span = Span {
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
        rows.push(
            model
                .transformer
                .read_out(&x, None, &mut NoTap)?
                .0
                .squeeze(0)?,
        );
    }
    assert_eq!(cache.len(), ids.len());
    Ok(Tensor::cat(&rows, 0)?)
}

#[test]
fn cached_decoding_agrees_with_transformers() -> Outcome {
    for case in CASES {
        let model = model(case, "f32")?;
        let (expected, ids) = expected(case, PROMPTS[0])?;
        let one_by_one = [&[ids.len() - 8][..], &[1; 8]].concat();
        let with_a_piece_between = [&[ids.len() - 24, 16][..], &[1; 8]].concat();
        for pieces in [one_by_one, with_a_piece_between, vec![1; ids.len()]] {
            let difference = difference(
                "logits",
                &expected["logits"],
                &cached(&model, &ids, &pieces)?,
            )?;
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
    let model = model("llama", "f32")?;
    let ids = expected("llama", PROMPTS[0])?.1.repeat(3);
    let whole = cached(&model, &ids, &[ids.len()])?;
    let grown = cached(
        &model,
        &ids,
        &[&[100, 20][..], &vec![1; ids.len() - 120]].concat(),
    )?;
    let difference = difference("logits", &whole, &grown)?;
    assert!(difference <= CACHED, "{difference:.2e}");
    Ok(())
}

/// The shards carry a config.json in the spelling of transformers 5, so that is compared as well.
#[test]
fn shards_are_the_same_model_bit_for_bit() -> Outcome {
    let (expected, ids) = expected("llama", PROMPTS[0])?;
    let single = found(&mut Bench::new(model("llama", "f32")?), &expected, &ids)?;
    let sharded = found(
        &mut Bench::new(model("llama_sharded", "f32")?),
        &expected,
        &ids,
    )?;
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
        let (expected, ids) = expected(case, PROMPTS[0])?;
        for (dtype, tolerance) in [("f32", TOLERANCE), ("f16", 5e-2)] {
            let found = found(&mut Bench::new(model(case, dtype)?), &expected, &ids)?;
            let (wrong, _) = compare(&expected, &found, tolerance)?;
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
struct Expected {
    bos: u32,
    eos: u32,
    size: usize,
    cases: Vec<Encoded>,
}

#[test]
fn token_ids_are_those_of_python() -> Outcome {
    let folder = folder("tokenizers");
    let all: HashMap<String, Expected> =
        serde_json::from_slice(&std::fs::read(folder.join("tokenizers.json"))?)?;
    assert_eq!(all.len(), 2);
    for (name, expected) in all {
        let file = |file: &str| std::fs::read(folder.join(&name).join(file));
        let tokenizer = Tokenizer::from_files(&tokenizer::Files {
            tokenizer: &file("tokenizer.json")?,
            tokenizer_config: Some(&file("tokenizer_config.json")?),
            ..tokenizer::Files::default()
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
