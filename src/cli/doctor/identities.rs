//! Identities: equations that hold on any model, whatever its weights, measured on the model at hand.
//!
//! Invariant: every identity is measured on values of a real pass; a difference that is NaN counts as infinite; an identity
//! that a model cannot have is reported with the reason, never silently skipped. Differences of vectors are relative to the
//! largest entry of the reference. To add one, write a function that returns `Found` and call it in `check_all`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::row_programs::RowPrograms;
use crate::lab::run::Run;
use crate::lab::runner::read_on;
use crate::lab::tap::{RecordedPositions, RunTap};
use crate::model::Model;
use crate::model::host::ToHost;
use crate::model::network::blueprint::BlockOrder;
use crate::model::network::linear::Linear;
use crate::model::network::linear::Precision;
use crate::model::network::readout::ReadoutRequest;
use crate::model::network::site::{Address, Axis, SITES, Site};
use crate::model::network::tap::{NoTap, PassPhase, PassSpan};

/// The text to measure on, if there is a tokenizer; cut to the length that the model allows.
const TEXT: &str = "The capital of France is Paris, and the river that runs through it is the Seine. Ada Lovelace wrote the first program for a machine that was never built. In 1969 two people walked on the Moon, and 3 + 4 = 7 stayed true. def add(a, b): return a + b";

/// The most tokens that are read.
const LONGEST: usize = 64;

/// The most bytes of recorded values that are held at once.
const BUDGET: usize = 512 << 20;

/// The time limit for reading tokens one by one; at least two are read.
const PATIENCE: Duration = Duration::from_secs(15);

/// One identity, measured or not applicable.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// A short name.
    pub name: &'static str,
    /// What was compared and on how much data, or why it is not applicable.
    pub what: String,
    /// The measurement; none if the model cannot have the identity.
    pub measured: Option<IdentityError>,
}

/// The difference between the two sides of an identity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IdentityError {
    /// The largest difference that was found.
    pub difference: f32,
    /// The largest difference that rounding can explain.
    pub tolerance: f32,
}

impl Identity {
    fn of((name, (what, measured)): (&'static str, Found)) -> Self {
        Self {
            name,
            what,
            measured,
        }
    }

    /// Whether the identity holds or is not applicable.
    pub fn passed(&self) -> bool {
        self.measured.is_none_or(|m| m.difference <= m.tolerance)
    }
}

/// A description of the comparison, or why it is not applicable; and the difference.
type Found = (String, Option<IdentityError>);

fn found(what: String, difference: f32, tolerance: f32) -> Found {
    let measured = IdentityError {
        difference,
        tolerance,
    };
    (what, Some(measured))
}

fn refused(why: &str) -> Found {
    (why.into(), None)
}

/// One pass over a text with all sites recorded.
struct FullRecording {
    sites: HashMap<Address, Tensor>,
    /// `[tokens, vocab]`, f32.
    logits: Tensor,
}

impl FullRecording {
    /// A recorded value without its batch dimension, f32.
    fn get(&self, at: Address) -> Result<Tensor> {
        let held = self.sites.get(&at).ok_or_else(|| Error::Refused {
            address: at.to_string(),
            why: "the forward pass did not visit it. Please report this.".into(),
        })?;
        Ok(held.squeeze(0)?.to_dtype(DType::F32)?)
    }
}

/// The text to measure on: words if there is a tokenizer, else fixed ids. It is as long as can be read quickly, and longer than
/// the attention windows if those are short.
pub fn text(lab: &Lab) -> Result<Vec<u32>> {
    let model = &lab.model;
    let limit = LONGEST
        .min(model.card.context)
        .min(BUDGET / bytes_of_a_token(model).max(1))
        .max(1);
    let ids = match &model.tokenizer {
        Some(_) => model.encode(TEXT, false)?,
        None => (0..LONGEST)
            .map(|i| ((i * 17 + 5) % model.card.vocab) as u32)
            .collect(),
    };
    let mut ids: Vec<u32> = ids.iter().copied().cycle().take(limit).collect();
    let probe = ids.len().min(8);
    let since = Instant::now();
    let tokens = model.tokens(&ids[..probe])?;
    model
        .transformer
        .trunk(&tokens, PassSpan::prompt(probe), None, &mut NoTap)?;
    ids.truncate(match since.elapsed().as_secs_f32() {
        s if s < 1.0 => LONGEST,
        s if s < 4.0 => LONGEST / 2,
        _ => LONGEST / 4,
    });
    Ok(ids)
}

/// An estimate of the bytes recorded for one token with all sites.
fn bytes_of_a_token(model: &Model) -> usize {
    let width = |site: Site| {
        if site.spec().axis == Axis::Positions {
            model.card.heads * LONGEST
        } else {
            model.width(site)
        }
    };
    let entries: usize = addresses(model).iter().map(|a| width(a.site)).sum();
    4 * entries
}

fn addresses(model: &Model) -> Vec<Address> {
    let layers = |layered: bool| if layered { model.card.layers } else { 1 };
    let all = SITES
        .iter()
        .flat_map(|s| (0..layers(s.layered)).map(|l| s.site.at(l)));
    all.filter(|a| model.offers(*a).is_ok()).collect()
}

pub fn measure(lab: &mut Lab, run: &Run) -> Result<Vec<Identity>> {
    lab.model.check_prompt(&run.tokens)?;
    let all = addresses(&lab.model);
    let seen = pass(lab, run, &all)?;
    let bare = pass(lab, run, &[])?;
    let mut out = check_all(&lab.model, &seen, &bare)?;
    let cached = cache(lab, run, &bare.logits)?;
    out.push(Identity::of(("cache on = off", cached)));
    Ok(out)
}

/// Checks the identities that need two passes over one text: one with all sites recorded, and one with none.
fn check_all(model: &Model, seen: &FullRecording, bare: &FullRecording) -> Result<Vec<Identity>> {
    let all = [
        ("finite", finite(seen)?),
        ("lens = logits", lens(model, seen)?),
        ("live lens = logits", live_lens(model, seen)?),
        ("parts = stream", parts(model, seen)?),
        ("captures change nothing", captures(seen, bare)?),
        ("attention sums to one", rows(model, seen)?),
        ("masks", masks(model, seen)?),
        ("probabilities x values = heads", mixed_values(model, seen)?),
        ("heads = attention", heads(model, seen)?),
        ("neurons = MLP", neurons(model, seen)?),
    ];
    Ok(all.map(Identity::of).into())
}

/// One pass over the whole run without a cache, recording `wanted`.
fn pass(lab: &mut Lab, run: &Run, wanted: &[Address]) -> Result<FullRecording> {
    let mut program = lab.compile(run)?;
    let mut tap = RunTap::new(
        RowPrograms::all(&mut program),
        &[],
        wanted,
        RecordedPositions::All,
        lab.guard().lenient(),
    );
    let span = PassSpan {
        start: 0,
        len: run.tokens.len(),
        prompt: run.prompt,
        phase: PassPhase::Prefill,
    };
    let transformer = &lab.model.transformer;
    let x = transformer.trunk(&lab.model.tokens(&run.tokens)?, span, None, &mut tap)?;
    let logits = transformer.read_out(&x, &mut tap)?;
    Ok(FullRecording {
        sites: std::mem::take(&mut tap.recorded),
        logits: logits.squeeze(0)?,
    })
}

/// The relative error that rounding can explain: `exact` if everything is f32.
fn slack(model: &Model, exact: f32) -> f32 {
    match model.transformer.precision {
        Precision::Dense(DType::F32 | DType::F64) => exact,
        Precision::Dense(DType::BF16) => 1e-1,
        // Quantized blocks: kernels round activations as well, differently for different numbers of rows.
        Precision::Dense(_) | Precision::Q8 | Precision::Stored(_) => 2e-2,
    }
}

fn values(t: &Tensor) -> Result<Vec<f32>> {
    Ok(t.on_device(&Device::Cpu)?
        .to_dtype(DType::F32)?
        .flatten_all()?
        .host_vec1()?)
}

/// The largest of some differences; NaN counts as infinite.
fn worst(differences: impl IntoIterator<Item = f32>) -> f32 {
    differences.into_iter().fold(0.0, |most, d| {
        if d.is_nan() {
            f32::INFINITY
        } else {
            most.max(d)
        }
    })
}

/// The largest absolute difference.
fn gap(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return f32::INFINITY;
    }
    worst(a.iter().zip(b).map(|(a, b)| (a - b).abs()))
}

/// The largest difference relative to the largest entry of `whole`.
fn relative(found: &Tensor, whole: &Tensor) -> Result<f32> {
    let (found, whole) = (values(found)?, values(whole)?);
    let reach = worst(whole.iter().map(|v| v.abs()));
    Ok(gap(&found, &whole) / reach.max(f32::MIN_POSITIVE))
}

fn finite(seen: &FullRecording) -> Result<Found> {
    let logits = values(&seen.logits)?;
    let broken = logits.iter().filter(|v| !v.is_finite()).count();
    let what = format!("logits that are not finite, of {}", logits.len());
    Ok(found(what, broken as f32, 0.0))
}

/// I1 with the same kernel: the lens at the last layer equals the model's own output, bit for bit.
fn lens(model: &Model, seen: &FullRecording) -> Result<Found> {
    let last = Site::ResidPost.at(model.card.layers - 1);
    let rows = seen.sites.get(&last).map(|t| t.squeeze(0)).transpose()?;
    let Some(rows) = rows else {
        return Ok(refused(&format!("{last} was not visited")));
    };
    let read = model.transformer.unembed(&rows)?;
    let difference = gap(&values(&read)?, &values(&seen.logits)?);
    let what = format!(
        "{last} through the lens against the logits, {} tokens",
        rows.dim(0)?
    );
    Ok(found(what, difference, 0.0))
}

/// I1 as the live lens computes it: all layers in one product with the model's own row.
fn live_lens(model: &Model, seen: &FullRecording) -> Result<Found> {
    let row = |layer: usize| -> Result<Tensor> {
        let rows = seen.get(Site::ResidPost.at(layer))?;
        Ok(rows.narrow(0, rows.dim(0)? - 1, 1)?)
    };
    let layers = model.card.layers;
    let stack = (0..layers).map(row).collect::<Result<Vec<_>>>()?;
    let stack = Tensor::cat(&stack, 0)?.to_dtype(model.transformer.dtype())?;
    let own = stack.narrow(0, layers - 1, 1)?.unsqueeze(0)?.contiguous()?;
    // The model's own row comes first.
    let asked = ReadoutRequest {
        whole: &[layers],
        ..ReadoutRequest::default()
    };
    let transformer = &model.transformer;
    let (own, said) = transformer.read_out_beside(&own, &stack, &asked, Vec::new(), &mut NoTap)?;
    let own = own.flatten_all()?;
    let rider = Tensor::from_vec(said.whole, own.shape(), &Device::Cpu)?;
    let what = format!("the last of {layers} lens rows against the logits of its own step");
    let difference = relative(&rider, &own)?;
    Ok(found(what, difference, slack(model, 1e-5)))
}

/// I2: the stream after every block is the embedding plus all component outputs so far.
fn parts(model: &Model, seen: &FullRecording) -> Result<Found> {
    if model.transformer.blueprint.arrangement == BlockOrder::NormedStream {
        let why =
            "the stream is normalized after every component, so it is not a sum of their outputs";
        return Ok(refused(why));
    }
    let mut sum = seen.get(Site::Embed.at(0))?;
    let mut differences = Vec::new();
    for layer in 0..model.card.layers {
        sum = (sum + seen.get(Site::AttnAdd.at(layer))?)?;
        sum = (sum + seen.get(Site::MlpAdd.at(layer))?)?;
        differences.push(relative(&sum, &seen.get(Site::ResidPost.at(layer))?)?);
    }
    let what = format!(
        "embedding and all component outputs against resid_post, {} blocks, relative",
        model.card.layers
    );
    Ok(found(what, worst(differences), slack(model, 1e-5)))
}

/// I26: a pass in which everything is recorded gives the same bits as one in which nothing is.
fn captures(seen: &FullRecording, bare: &FullRecording) -> Result<Found> {
    let count = seen.sites.len();
    let (seen, bare) = (values(&seen.logits)?, values(&bare.logits)?);
    let other = seen
        .iter()
        .zip(&bare)
        .filter(|(a, b)| a.to_bits() != b.to_bits());
    let what = format!("logits that differ in any bit when {count} sites are recorded");
    Ok(found(what, other.count() as f32, 0.0))
}

/// I4: the probabilities of every query sum to one.
fn rows(model: &Model, seen: &FullRecording) -> Result<Found> {
    let mut most = Vec::new();
    for layer in 0..model.card.layers {
        let sums = values(&seen.get(Site::AttnProbs.at(layer))?.sum(2)?)?;
        most.push(worst(sums.iter().map(|s| (s - 1.0).abs())));
    }
    let what = format!(
        "sums of attention probabilities against one, {} layers of {} heads",
        model.card.layers, model.card.heads
    );
    Ok(found(what, worst(most), 1e-5))
}

/// Scores are -inf exactly at positions that a query cannot attend to, and such positions have probability 0.
fn masks(model: &Model, seen: &FullRecording) -> Result<Found> {
    let specs = &model.transformer.blueprint.layers;
    let (mut wrong, mut windows, mut tokens) = (0usize, Vec::new(), 0);
    for (layer, spec) in specs.iter().enumerate() {
        let scores = seen.get(Site::AttnScores.at(layer))?;
        tokens = scores.dim(1)?;
        let probs = values(&seen.get(Site::AttnProbs.at(layer))?)?;
        let pairs = values(&scores)?.into_iter().zip(probs);
        let hidden = |q: usize, k: usize| k > q || spec.window.is_some_and(|w| k + w <= q);
        for (i, (score, prob)) in pairs.enumerate() {
            let (q, k) = (i / tokens % tokens, i % tokens);
            let is_hidden = score == f32::NEG_INFINITY;
            if is_hidden != hidden(q, k) || (is_hidden && prob != 0.0) {
                wrong += 1;
            }
        }
        windows.extend(spec.window);
    }
    windows.sort_unstable();
    windows.dedup();
    let reached = |w: &usize| {
        if *w < tokens {
            format!("window {w}")
        } else {
            format!("window {w}, longer than this text")
        }
    };
    let mut kinds = vec!["causal".to_string()];
    kinds.extend(windows.iter().map(reached));
    let what = format!(
        "scores on the wrong side of the mask ({}), {tokens} tokens",
        kinds.join("; ")
    );
    Ok(found(what, wrong as f32, 0.0))
}

/// I4: probabilities times the values of the head's group give the head's `z`.
fn mixed_values(model: &Model, seen: &FullRecording) -> Result<Found> {
    let shape = &model.transformer.blueprint;
    let group = shape.heads / shape.kv_heads;
    let mut most = Vec::new();
    for layer in 0..model.card.layers {
        let probs = seen.get(Site::AttnProbs.at(layer))?;
        let (v, z) = (seen.get(Site::V.at(layer))?, seen.get(Site::Z.at(layer))?);
        let mixed = (0..shape.heads)
            .map(|h| {
                let v = v.narrow(1, h / group, 1)?.squeeze(1)?.contiguous()?;
                Ok(probs.get(h)?.matmul(&v)?.unsqueeze(1)?)
            })
            .collect::<Result<Vec<_>>>()?;
        most.push(relative(&Tensor::cat(&mixed, 1)?, &z)?);
    }
    let what = format!(
        "in {} layers, {group} heads a key-value head, relative",
        model.card.layers
    );
    let difference = worst(most);
    Ok(found(what, difference, slack(model, 1e-5)))
}

/// The first, the middle and the last of some layers.
fn first_middle_last(layers: &[usize]) -> Vec<usize> {
    let mut some = Vec::new();
    if let (Some(first), Some(last)) = (layers.first(), layers.last()) {
        some = vec![*first, layers[layers.len() / 2], *last];
        some.dedup();
    }
    some
}

/// `x Wᵀ + b`, with the input split into `pieces` parts whose products are summed: `[n, in] -> [n, out]`, f32.
fn summed(x: &Tensor, by: &Linear, pieces: usize) -> Result<Tensor> {
    let (weight, width) = (by.weight()?.on_device(x.device())?, x.dim(1)?);
    let size = width.div_ceil(pieces.max(1));
    let mut sum = Tensor::zeros((x.dim(0)?, by.out), DType::F32, x.device())?;
    for start in (0..width).step_by(size) {
        let size = size.min(width - start);
        let x = x.narrow(1, start, size)?.contiguous()?;
        sum = (sum + x.matmul(&weight.narrow(1, start, size)?.t()?)?)?;
    }
    Ok(match &by.bias {
        Some(bias) => sum.broadcast_add(&bias.to_dtype(DType::F32)?.on_device(sum.device())?)?,
        None => sum,
    })
}

/// I5: the attention output is the sum of the heads' outputs, plus the bias once.
fn heads(model: &Model, seen: &FullRecording) -> Result<Found> {
    let layers = first_middle_last(&(0..model.card.layers).collect::<Vec<_>>());
    let mut most = Vec::new();
    for &layer in &layers {
        let z = seen.get(Site::Z.at(layer))?.flatten_from(1)?;
        let out = &model.transformer.blocks[layer].attention.out;
        let sum = summed(&z, out, model.card.heads)?;
        most.push(relative(&sum, &seen.get(Site::AttnOut.at(layer))?)?);
    }
    let what = format!(
        "sum of all head outputs against attn_out, {}, relative",
        blocks(&layers)
    );
    Ok(found(what, worst(most), slack(model, 1e-5)))
}

/// I5: the MLP output is the sum of the neurons' outputs, plus the bias once.
fn neurons(model: &Model, seen: &FullRecording) -> Result<Found> {
    const PIECES: usize = 8;
    let layers = first_middle_last(&model.transformer.blueprint.dense_layers());
    let mut most = Vec::new();
    for &layer in &layers {
        let Some(mlp) = model.transformer.blocks[layer].mlp.dense() else {
            continue;
        };
        let sum = summed(&seen.get(Site::MlpAct.at(layer))?, &mlp.down, PIECES)?;
        most.push(relative(&sum, &seen.get(Site::MlpOut.at(layer))?)?);
    }
    if most.is_empty() {
        let why = "every block is a mixture of experts, whose neurons have no address";
        return Ok(refused(why));
    }
    let what = format!(
        "sum of all neuron outputs against mlp_out, {}, relative",
        blocks(&layers)
    );
    Ok(found(what, worst(most), slack(model, 1e-5)))
}

fn blocks(layers: &[usize]) -> String {
    let numbers: Vec<String> = layers.iter().map(ToString::to_string).collect();
    match numbers.as_slice() {
        [one] => format!("block {one}"),
        many => format!("blocks {}", many.join(", ")),
    }
}

/// I20: half of the text through the cache at once and then token by token, as in generation, compared with one pass over the
/// same tokens; the text is read again where the frequencies of the rotation change.
fn cache(lab: &mut Lab, run: &Run, whole: &Tensor) -> Result<Found> {
    let total = run.tokens.len();
    if total < 2 {
        return Ok(refused("one token leaves nothing to cache"));
    }
    let first = total / 2;
    let regime = lab.model.transformer.rope_scaling_regime(total);
    let mut program = lab.compile(run)?;
    let mut cache = lab.model.cache(1)?;
    let since = Instant::now();
    let (mut most, mut rereads) = (Vec::new(), 0);
    for length in first..=total {
        let text = &run.tokens[..length];
        let held = cache.len();
        let transformer = &lab.model.transformer;
        let mut tap = RunTap::new(
            RowPrograms::all(&mut program),
            &[],
            &[],
            RecordedPositions::Last,
            lab.guard().lenient(),
        );
        let text = [text.to_vec()];
        let logits = read_on(&lab.model, &text, first, &mut cache, &mut tap)?.flatten_all()?;
        if held > 0
            && transformer.rope_scaling_regime(held) != transformer.rope_scaling_regime(length)
        {
            rereads += 1;
        }
        let own = if transformer.rope_scaling_regime(length) == regime {
            whole.get(length - 1)?
        } else {
            let own = lab.last_logits(&run.clone().until(length))?;
            Tensor::from_vec(own, whole.dim(1)?, whole.device())?
        };
        most.push(relative(&logits, &own)?);
        if most.len() > 2 && since.elapsed() > PATIENCE {
            break;
        }
    }
    let again = match rereads {
        0 => String::new(),
        n => format!(", read again {n} times for other rotary frequencies"),
    };
    let what = format!(
        "{first} tokens and then {} one by one, against one pass{again}, relative",
        most.len() - 1
    );
    Ok(found(what, worst(most), slack(&lab.model, 1e-4)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::network::families::FAMILIES;

    fn failures(found: &[Identity]) -> Vec<&str> {
        let failed = found.iter().filter(|i| !i.passed());
        failed.map(|i| i.name).collect()
    }

    /// A copy of a tensor with `by` added to one entry.
    fn with_one_entry_changed(whole: &Tensor, entry: usize, by: f32) -> Tensor {
        let mut all = values(whole).unwrap();
        all[entry] += by;
        Tensor::from_vec(all, whole.shape(), whole.device()).unwrap()
    }

    #[test]
    fn one_wrong_number_at_a_site_breaks_the_identities_that_it_is_in() {
        let faults: &[(Site, usize, f32, &[&str])] = &[
            (Site::Embed, 3, 1e-2, &["parts = stream"]),
            (Site::AttnAdd, 3, 1e-2, &["parts = stream"]),
            (
                Site::ResidPost,
                3,
                1e-2,
                &["lens = logits", "parts = stream"],
            ),
            // The tenth token attends to itself; the fourth entry of its row is visible.
            (
                Site::AttnProbs,
                9 * 10 + 3,
                1e-2,
                &["attention sums to one", "probabilities x values = heads"],
            ),
            (Site::AttnScores, 9 * 10 + 3, f32::NEG_INFINITY, &["masks"]),
            (Site::AttnScores, 3 * 10 + 9, f32::INFINITY, &["masks"]),
            (Site::V, 3, 1e-1, &["probabilities x values = heads"]),
            (
                Site::Z,
                3,
                1e-1,
                &["probabilities x values = heads", "heads = attention"],
            ),
            (Site::AttnOut, 3, 1e-2, &["heads = attention"]),
            (Site::MlpAct, 3, 1e-1, &["neurons = MLP"]),
            (Site::MlpOut, 3, 1e-2, &["neurons = MLP"]),
        ];
        let llama = FAMILIES.iter().find(|f| f.name == "llama").unwrap();
        let mut lab = Lab::new(Model::tiny(llama, 7).unwrap());
        let run = Run::plain((1..11).collect());
        let all = addresses(&lab.model);
        let mut seen = pass(&mut lab, &run, &all).unwrap();
        let bare = pass(&mut lab, &run, &[]).unwrap();
        let model = &lab.model;
        assert_eq!(failures(&check_all(model, &seen, &bare).unwrap()), [""; 0]);
        for (site, entry, by, expected) in faults {
            let at = site.at(model.card.layers - 1);
            let whole = seen.sites[&at].clone();
            seen.sites
                .insert(at, with_one_entry_changed(&whole, *entry, *by));
            let found = check_all(model, &seen, &bare).unwrap();
            assert_eq!(failures(&found), *expected, "{at} {entry}");
            seen.sites.insert(at, whole);
        }
        let honest = seen.logits.clone();
        seen.logits = with_one_entry_changed(&honest, 5, 1e-3);
        let found = check_all(model, &seen, &bare).unwrap();
        assert_eq!(
            failures(&found),
            ["lens = logits", "captures change nothing"]
        );
        seen.logits = with_one_entry_changed(&honest, 5, f32::NAN);
        let found = check_all(model, &seen, &bare).unwrap();
        assert!(failures(&found).contains(&"finite"));
        let far = found[1].measured.unwrap().difference;
        assert!(
            far.is_infinite(),
            "no number is far from every number: {far}"
        );
    }

    #[test]
    fn one_wrong_logit_breaks_the_cache_s_identity() {
        let llama = FAMILIES.iter().find(|f| f.name == "llama").unwrap();
        let mut lab = Lab::new(Model::tiny(llama, 7).unwrap());
        let run = Run::plain((1..11).collect());
        let whole = pass(&mut lab, &run, &[]).unwrap().logits;
        let mut cached = |run: &Run, whole: &Tensor| {
            Identity::of(("cache on = off", cache(&mut lab, run, whole).unwrap()))
        };
        assert!(cached(&run, &whole).passed());
        let vocab = whole.dim(1).unwrap();
        // The cached run gives no logits for the rows before the last of the half that is read at once.
        for row in 4..10 {
            let wrong = with_one_entry_changed(&whole, row * vocab + 7, 1e-2);
            assert!(!cached(&run, &wrong).passed(), "row {row}");
        }
        let found = cached(&Run::plain(vec![3]), &whole);
        assert_eq!(found.measured, None, "{}", found.what);
    }
}
