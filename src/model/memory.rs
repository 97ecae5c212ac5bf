//! Memory: how much a model will need, whether it fits, and the default dtype.
//!
//! Invariant: everything except [`available`] is arithmetic over a [`Blueprint`], so that it can be computed before any weights
//! are read, and for hypothetical machines; an alternative is suggested only if the same arithmetic says that it fits. To
//! change what is counted, see [`need`]; to change a default, see [`choose`].
//!
//! Defaults. CUDA: bf16, and before Ampere f16 if the model is safe in it. CPU: f32 if it fits twice, else f16 if the model is
//! safe in it, else Q8_0 made while loading; never bf16, in which products would widen every weight at every step. A model is
//! safe in f16 if every weight is within its range (which is certain if the checkpoint is stored in f16) and its family is not
//! one of [`OVERFLOWING`], whose activations are known to leave that range.

use candle_core::{DType, Device};
use serde_json::Value;

use super::memory_limits;
use super::network::blueprint::{Blueprint, MlpKind, PositionEncoding, QkNormOver};
use super::network::families;
use super::network::linear::Precision;
use crate::error::{Error, Result};
use crate::text::size;

/// Families whose activations leave the range of f16 although their weights do not: residual streams beyond 65504 (Gemma),
/// products of queries and keys before scaling (Phi, Qwen 2).
pub const OVERFLOWING: &[&str] = &["gemma", "gemma2", "gemma3_text", "phi", "qwen2"];

/// The length of the prompt for which working memory is counted, in tokens; scores grow with its square.
const PROMPT: u64 = 1024;

/// The smallest number of rows that go through the unembedding at once.
const ROWS: u64 = 64;

/// The bytes of the program itself, and below those of a tokenizer's entry for each token.
const PROGRAM: u64 = 48 << 20;
const TOKEN: u64 = 512;

/// The largest amount of freed memory that the allocator was measured to keep, in bytes.
const HELD_BACK: u64 = 32 << 20;

/// The memory that a model needs, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Matrices, tables, biases and norms, as they are stored in memory.
    pub weights: u64,
    /// Keys and values for a full context.
    pub cache: u64,
    /// The most that one pass holds at a time, for a prompt of at most 1024 tokens; without recorded values.
    pub pass: u64,
    /// The copies of the largest matrix while it is loaded, when nothing else is being done.
    pub loading: u64,
    /// The program and the tokenizer.
    pub program: u64,
}

impl MemoryNeed {
    /// The most that is held at any time.
    pub fn total(&self) -> u64 {
        self.weights + self.cache + self.work()
    }

    /// The part of the total that is neither weights nor cache.
    pub fn work(&self) -> u64 {
        self.program + self.pass.max(self.loading.saturating_sub(self.cache))
    }
}

/// The memory for a model whose matrices are stored in `precision`. For weights that stay as in their file (quantized blocks
/// and, on the CPU, f16 or bf16 numbers), the size does not follow from the blueprint: it is given by `stored`. The result is
/// never more than for the same weights in the compute dtype.
pub fn need(
    b: &Blueprint,
    precision: Precision,
    context: usize,
    stored: Option<u64>,
) -> MemoryNeed {
    let wide = precision.compute().size_in_bytes() as u64;
    let (d, heads, context) = (b.d_model as u64, b.heads as u64, context as u64);
    let (vocab, layers) = (b.vocab as u64, b.layers.len() as u64);
    let head = b.head_dim as u64;
    let kv = b.kv_heads as u64 * head;
    let inner = b.experts.map_or(0, |e| e.width * e.active).max(b.d_mlp) as u64;
    let rows = ROWS.max(layers + 1);
    let (streams, scores) = trunk(b, precision, context);
    let largest = matrices(b).iter().map(|m| m.rows * m.columns).max();
    // The copies: as in the file, in the compute dtype and, if one tensor is split into parts, one of the parts.
    let fused = d * (2 * inner).max(heads * head + 2 * kv);
    let copies = match precision {
        Precision::Dense(DType::F32) => 4 + wide,
        Precision::Dense(_) => 2 * wide,
        Precision::Q8 | Precision::Stored(_) => 4 + 3 * wide,
    };
    let full = weight_bytes(b, precision);
    let weights = match precision {
        Precision::Dense(_) => stored.map_or(full, |stored| stored.min(full)),
        Precision::Q8 | Precision::Stored(_) => stored.unwrap_or(full),
    };
    MemoryNeed {
        weights: weights + rope_table_bytes(b, context, wide),
        cache: layers * 2 * kv * context * wide,
        pass: streams + scores.max(2 * rows * vocab * 4),
        loading: largest.unwrap_or(0).max(fused) * copies,
        program: PROGRAM + HELD_BACK + TOKEN * vocab,
    }
}

/// What a pass holds in the blocks: streams and projections, and scores.
fn trunk(b: &Blueprint, precision: Precision, context: u64) -> (u64, u64) {
    let wide = precision.compute().size_in_bytes() as u64;
    let (d, heads, head) = (b.d_model as u64, b.heads as u64, b.head_dim as u64);
    let kv = b.kv_heads as u64 * head;
    let inner = b.experts.map_or(0, |e| e.width * e.active).max(b.d_mlp) as u64;
    let prompt = PROMPT.min(context);
    let streams = prompt * (6 * d + 3 * inner + 2 * heads * head + 2 * kv) * wide;
    (streams, 4 * heads * prompt * prompt * 4)
}

/// The most that a pass holds in the blocks, without the vocabulary.
pub(super) fn trunk_bytes(b: &Blueprint, precision: Precision, context: usize) -> u64 {
    let (streams, scores) = trunk(b, precision, context as u64);
    streams + scores
}

/// The bytes of the embedding, or of the unembedding.
pub(super) fn end_bytes(b: &Blueprint, precision: Precision) -> u64 {
    let matrix = MatrixSize {
        rows: b.vocab as u64,
        columns: b.d_embed as u64,
        count: 1,
    };
    matrix_bytes(&matrix, precision)
}

/// A matrix shape, and how many matrices have it.
struct MatrixSize {
    rows: u64,
    columns: u64,
    count: u64,
}

/// All matrices that a loader may quantize.
fn matrices(b: &Blueprint) -> Vec<MatrixSize> {
    let matrix = |rows: usize, columns: usize, count: usize| MatrixSize {
        rows: rows as u64,
        columns: columns as u64,
        count: count as u64,
    };
    let (d, layers) = (b.d_model, b.layers.len());
    let (q, kv) = (b.heads * b.head_dim, b.kv_heads * b.head_dim);
    let of = |kind: MlpKind| b.layers.iter().filter(|l| l.mlp == kind).count();
    let mut all = vec![
        matrix(b.vocab, b.d_embed, if b.tied { 1 } else { 2 }),
        matrix(q, d, layers),
        matrix(kv, d, 2 * layers),
        matrix(d, q, layers),
        matrix(b.d_mlp, d, 2 * of(MlpKind::Gated) + of(MlpKind::Plain)),
        matrix(d, b.d_mlp, of(MlpKind::Gated) + of(MlpKind::Plain)),
    ];
    if b.d_embed != d {
        all.push(matrix(d, b.d_embed, 1));
        all.push(matrix(b.d_embed, d, 1));
    }
    if let Some(e) = b.experts {
        let mixed = of(MlpKind::Experts);
        all.push(matrix(e.count, d, mixed));
        all.push(matrix(e.width, d, 2 * e.count * mixed));
        all.push(matrix(d, e.width, e.count * mixed));
    }
    all
}

/// The size of matrices of one shape in bytes, as a loader stores them.
fn matrix_bytes(m: &MatrixSize, precision: Precision) -> u64 {
    // Blocks are 32 wide; other widths stay dense.
    let packed = match precision {
        Precision::Dense(_) => false,
        Precision::Q8 | Precision::Stored(_) => m.columns.is_multiple_of(32),
    };
    let row = if packed {
        m.columns / 32 * 34
    } else {
        m.columns * precision.compute().size_in_bytes() as u64
    };
    m.rows * row * m.count
}

/// The size of the weights in bytes, as a loader stores them.
fn weight_bytes(b: &Blueprint, precision: Precision) -> u64 {
    let wide = precision.compute().size_in_bytes() as u64;
    let blocks: u64 = matrices(b).iter().map(|m| matrix_bytes(m, precision)).sum();
    let (d, layers) = (b.d_model, b.layers.len());
    let (q, kv) = (b.heads * b.head_dim, b.kv_heads * b.head_dim);
    let learned = match b.positions {
        PositionEncoding::Learned { offset } => (b.context + offset) * d,
        PositionEncoding::Rotary(_) => 0,
    };
    let mlp = if b.biases.mlp { 2 * b.d_mlp + d } else { 0 };
    let attention = if b.biases.qkv { q + 2 * kv } else { 0 };
    let out = if b.biases.attn_out { d } else { 0 };
    let head = if b.biases.head { b.vocab } else { 0 };
    let computed = learned + layers * (mlp + attention + out) + head;
    let gains = match b.qk_norm.map(|n| n.over) {
        None => 0,
        Some(QkNormOver::Head) => 2 * b.head_dim,
        Some(QkNormOver::HeadOwnGain | QkNormOver::AllHeads) => q + kv,
    };
    // At most four norms in a block, with gain and bias.
    let norms = layers * (8 * d + gains) + 2 * d;
    blocks + computed as u64 * wide + 4 * norms as u64
}

/// The size of the tables of cosines and sines, in bytes.
fn rope_table_bytes(b: &Blueprint, context: u64, wide: u64) -> u64 {
    match &b.positions {
        PositionEncoding::Learned { .. } => 0,
        PositionEncoding::Rotary(ropes) => {
            let width: usize = ropes.iter().map(|r| r.width).sum();
            context * width as u64 * wide
        }
    }
}

/// The type of device on which a model is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DevicePlace {
    /// The CPU, whose kernels use f16, bf16 and quantized blocks as they are in the file.
    Cpu,
    /// An NVIDIA GPU.
    Cuda {
        /// Whether it computes in bf16: compute capability 8 (Ampere) or later.
        bf16: bool,
    },
    /// An Apple GPU.
    Metal,
}

/// A model that is about to be loaded, and the memory available for it.
#[derive(Clone, Copy, Debug)]
pub struct MemoryPlan<'a> {
    /// Its name, for messages.
    pub name: &'a str,
    /// Its architecture.
    pub blueprint: &'a Blueprint,
    /// The size of the context, in positions.
    pub context: usize,
    pub place: DevicePlace,
    /// The free memory on the device, in bytes; none if it is unknown, in which case everything fits.
    pub available: Option<u64>,
    /// The size of the tensors in their file, in bytes.
    pub stored: Option<u64>,
}

impl MemoryPlan<'_> {
    /// The memory for the model if its matrices are stored in `precision`.
    pub fn need(&self, precision: Precision) -> MemoryNeed {
        let stored = self.stored_for(precision);
        need(self.blueprint, precision, self.context, stored)
    }

    /// The size of the tensors in their file, if they stay as they are in this precision.
    pub(super) fn stored_for(&self, precision: Precision) -> Option<u64> {
        match (precision, self.place) {
            (Precision::Stored(_), _) | (Precision::Dense(DType::F32), DevicePlace::Cpu) => {
                self.stored
            }
            // Converted or quantized matrices are counted by the blueprint.
            (Precision::Dense(_) | Precision::Q8, _) => None,
        }
    }

    fn fits(&self, precision: Precision, times: u64) -> bool {
        self.available
            .is_none_or(|free| self.need(precision).total().saturating_mul(times) <= free)
    }

    /// The dtype to load in: the requested one, or the default with a note if that may be unexpected. Refuses a model that does
    /// not fit.
    pub fn settle(
        &self,
        asked: Option<Precision>,
        within_f16: impl FnOnce() -> bool,
    ) -> Result<(Precision, Option<String>)> {
        let (precision, note) = match asked {
            Some(precision) => (precision, None),
            None => choose(self, within_f16),
        };
        self.check(precision)?;
        Ok((precision, note))
    }

    /// Refuses a model that does not fit; the error has the numbers and the alternatives that fit.
    pub fn check(&self, precision: Precision) -> Result<()> {
        let Some(free) = self.available.filter(|_| !self.fits(precision, 1)) else {
            return Ok(());
        };
        let need = self.need(precision);
        Err(Error::TooLarge {
            name: self.name.to_string(),
            need: format!(
                "{} in {} (weights {}, a cache of {} tokens {}, working memory {})",
                size(need.total()),
                precision.name(),
                size(need.weights),
                self.context,
                size(need.cache),
                size(need.work()),
            ),
            free: size(free),
            next: self.options_that_fit(precision, free),
        })
    }

    /// The alternatives that fit, by the same arithmetic.
    fn options_that_fit(&self, precision: Precision, free: u64) -> String {
        let mut ways = Vec::new();
        let narrower: &[Precision] = &[Precision::Dense(DType::F16), Precision::Q8];
        let smaller = |p: &&Precision| self.need(**p).total() < self.need(precision).total();
        for other in narrower
            .iter()
            .filter(smaller)
            .filter(|p| self.fits(**p, 1))
        {
            if *other != Precision::Dense(DType::F16) || self.family_is_safe() {
                let takes = size(self.need(*other).total());
                ways.push(format!("--dtype {} ({takes})", other.name()));
            }
        }
        let shorter = |n: &u32| {
            let plan = MemoryPlan {
                context: self.context >> n,
                ..*self
            };
            plan.context >= 128 && plan.fits(precision, 1)
        };
        if let Some(n) = (1..16).find(shorter) {
            ways.push(format!("--context {}", self.context >> n));
        }
        // Q4_K_M takes 4.85 bits for each weight.
        let stored = (self.blueprint.parameters() as f64 * 4.85 / 8.0) as u64;
        let kind = Precision::Stored("q4_K_M");
        let gguf = need(self.blueprint, kind, self.context, Some(stored));
        if matches!(precision, Precision::Dense(_) | Precision::Q8) && gguf.total() <= free {
            ways.push(format!("a GGUF of it in Q4_K_M ({})", size(gguf.total())));
        }
        match ways.as_slice() {
            [] => "No dtype and no context of it fits; take a smaller model, or a machine with more memory".into(),
            ways => format!("These would fit: {}", ways.join(", ")),
        }
    }

    fn family_is_safe(&self) -> bool {
        !OVERFLOWING.contains(&self.blueprint.family)
    }
}

/// The default dtype, and a sentence if it may be unexpected. `within_f16` tells whether every weight is within the range of
/// f16; it may have to read them, so it is called only if it matters.
pub fn choose(plan: &MemoryPlan, within_f16: impl FnOnce() -> bool) -> (Precision, Option<String>) {
    let dense = Precision::Dense;
    let (full, half) = (dense(DType::F32), dense(DType::F16));
    match plan.place {
        DevicePlace::Metal => (full, None),
        DevicePlace::Cuda { bf16: true } => (dense(DType::BF16), None),
        DevicePlace::Cuda { bf16: false } => {
            let safe = plan.family_is_safe() && within_f16();
            (if safe { half } else { full }, None)
        }
        DevicePlace::Cpu if plan.fits(full, 2) => (full, None),
        DevicePlace::Cpu => {
            let safe = plan.family_is_safe() && plan.fits(half, 1) && within_f16();
            let taken = if safe { half } else { Precision::Q8 };
            let wish = if plan.fits(full, 1) {
                "--dtype f32 loads it in f32 anyway"
            } else {
                "--dtype sets another"
            };
            let note = format!(
                "{} is loaded in {}: in f32 it would take {} and {} are free, which is not twice as much ({wish}).",
                plan.name,
                taken.name(),
                size(plan.need(full).total()),
                size(plan.available.unwrap_or(0)),
            );
            (taken, Some(note))
        }
    }
}

/// Whether a model with this config.json can be loaded on a CPU with `available` bytes free, in the default dtype and with a
/// context of at most `context` tokens; none if no family supports it.
pub fn fits(config: &Value, context: usize, available: u64) -> Option<bool> {
    let (_, blueprint) = families::read(config).ok()?;
    let plan = MemoryPlan {
        name: "",
        blueprint: &blueprint,
        context: context.min(blueprint.context),
        place: place(&Device::Cpu),
        available: Some(available),
        stored: None,
    };
    let (precision, _) = choose(&plan, || true);
    Some(plan.fits(precision, 1))
}

/// The type of a device.
pub fn place(device: &Device) -> DevicePlace {
    match device {
        Device::Cpu => DevicePlace::Cpu,
        Device::Metal(_) => DevicePlace::Metal,
        #[cfg(feature = "cuda")]
        Device::Cuda(card) => DevicePlace::Cuda {
            bf16: card
                .cuda_stream()
                .context()
                .compute_capability()
                .is_ok_and(|(major, _)| major >= 8),
        },
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => DevicePlace::Cuda { bf16: true },
    }
}

/// The free memory of a device in bytes, within the limits of the process's control groups; none if it is unknown.
pub fn available(device: &Device) -> Option<u64> {
    match device {
        Device::Cpu => system(),
        Device::Metal(_) => None,
        #[cfg(feature = "cuda")]
        Device::Cuda(card) => {
            let (free, _) = card.cuda_stream().context().mem_get_info().ok()?;
            Some(free as u64)
        }
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => None,
    }
}

/// Memory that is taken without a look at what is free.
const SMALL: u64 = 64 << 20;

/// Refuses what would hold more than the free memory of the machine: `what` of `name`, so many bytes.
///
/// # Errors
///
/// With both numbers.
pub fn check_free(name: &str, what: &str, needed: u64) -> Result<()> {
    if needed <= SMALL {
        return Ok(());
    }
    within(name, what, needed, available(&Device::Cpu))
}

fn within(name: &str, what: &str, needed: u64, free: Option<u64>) -> Result<()> {
    match free.filter(|free| needed > *free) {
        Some(free) => Err(Error::TooLarge {
            name: name.into(),
            need: format!("{} for {what}", size(needed)),
            free: size(free),
            next: "Close other programs, or take a smaller one".into(),
        }),
        None => Ok(()),
    }
}

/// The memory in bytes that processes can still take without swapping.
fn system() -> Option<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    if system.total_memory() == 0 {
        return None;
    }
    let free = system.available_memory();
    Some(memory_limits::free().map_or(free, |l| free.min(l)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    const GIB: u64 = 1 << 30;

    #[test]
    fn what_does_not_fit_is_refused_with_both_numbers() {
        assert!(within("a", "b", 2 * GIB, Some(2 * GIB)).is_ok());
        assert!(within("a", "b", 2 * GIB, None).is_ok());
        let error = within("a", "its rows", 3 * GIB, Some(2 * GIB));
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("a needs about 3.0 GiB for its rows, and 2.0 GiB are free"),
            "{error}"
        );
        // A petabyte is free nowhere.
        assert!(check_free("a", "b", 1 << 50).is_err());
        assert!(check_free("a", "b", 1 << 20).is_ok());
    }

    /// Llama 2 7B: 6.74 billion weights, and a cache of 1 MiB for each token in f32.
    fn seven() -> Value {
        json!({
            "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": false
        })
    }

    fn plan(blueprint: &Blueprint, available: u64) -> MemoryPlan<'_> {
        MemoryPlan {
            name: "seven",
            blueprint,
            context: 4096,
            place: DevicePlace::Cpu,
            available: Some(available),
            stored: None,
        }
    }

    fn named(config: &Value) -> Blueprint {
        families::read(config).unwrap().1
    }

    #[test]
    fn a_seven_billion_llama_takes_what_people_know_it_to_take() {
        let b = named(&seven());
        let weights = |p| need(&b, p, 4096, None).weights as f64 / 1e9;
        assert!((weights(Precision::Dense(DType::F32)) - 26.95).abs() < 0.1);
        assert!((weights(Precision::Dense(DType::F16)) - 13.48).abs() < 0.1);
        assert!((weights(Precision::Q8) - 7.16).abs() < 0.1);
        let full = need(&b, Precision::Dense(DType::F32), 4096, None);
        assert_eq!(
            full.cache,
            4 * GIB,
            "2 x 32 layers x 4096 wide x 4096 tokens x 4 bytes"
        );
        assert_eq!(
            need(&b, Precision::Dense(DType::F16), 1024, None).cache,
            GIB / 2
        );
        assert!(
            full.pass > 32 * 1024 * 1024 * 4 && full.pass < GIB,
            "{}",
            full.pass
        );
        let stored = need(&b, Precision::Stored("q4_K_M"), 4096, Some(4 * GIB));
        assert!(stored.weights > 4 * GIB && stored.weights < 4 * GIB + (16 << 20));
    }

    #[test]
    fn odd_rows_stay_dense_and_every_part_is_counted() {
        let mut config = seven();
        config["hidden_size"] = 1000.into();
        config["num_attention_heads"] = 10.into();
        config["num_key_value_heads"] = 5.into();
        let b = named(&config);
        let (q8, full) = (
            need(&b, Precision::Q8, 128, None).weights,
            need(&b, Precision::Dense(DType::F32), 128, None).weights,
        );
        // Only the matrices whose rows are 11008 wide are quantized: 1000 is not a multiple of 32.
        let down = 32 * 11008 * 1000u64;
        assert_eq!(full - q8, down * 4 - down / 32 * 34);
        for family in families::FAMILIES {
            let b = (family.blueprint)(&(family.tiny)()).unwrap();
            let weights = need(&b, Precision::Dense(DType::F32), b.context, None).weights;
            let matrices = 4 * b.parameters() as u64;
            assert!(weights >= matrices, "{}: {weights} {matrices}", family.name);
            assert!(
                weights < 2 * matrices + 20_000,
                "{}: {weights} {matrices}",
                family.name
            );
        }
    }

    #[test]
    fn the_default_is_f32_where_it_fits_twice_then_f16_where_that_is_safe_then_q8_0() {
        let b = named(&seven());
        let taken = |free: u64, safe: bool| {
            let (precision, note) = choose(&plan(&b, free * GIB), || safe);
            (precision.name(), note.is_some())
        };
        assert_eq!(taken(80, true), ("f32", false));
        assert_eq!(taken(50, true), ("f16", true), "once is not twice");
        assert_eq!(taken(50, false), ("q8_0", true), "a weight is out of range");
        assert_eq!(taken(20, true), ("f16", true));
        assert_eq!(taken(14, true), ("q8_0", true));
        let (_, note) = choose(&plan(&b, 50 * GIB), || true);
        let note = note.unwrap();
        assert!(
            note.contains("f16") && note.contains("50.0 GiB") && note.contains("--dtype f32"),
            "{note}"
        );
        let (_, note) = choose(&plan(&b, 20 * GIB), || true);
        assert!(
            !note.unwrap().contains("--dtype f32"),
            "it would be refused"
        );
        // The free memory is unknown.
        let unknown = MemoryPlan {
            available: None,
            ..plan(&b, 0)
        };
        assert_eq!(choose(&unknown, || true).0.name(), "f32");
        unknown.check(Precision::Dense(DType::F32)).unwrap();
    }

    #[test]
    fn families_that_overflow_f16_are_never_given_it() {
        for name in OVERFLOWING {
            let family = families::FAMILIES.iter().find(|f| f.name == *name).unwrap();
            let b = (family.blueprint)(&(family.tiny)()).unwrap();
            let full = need(&b, Precision::Dense(DType::F32), b.context, None).total();
            let tight = MemoryPlan {
                context: b.context,
                ..plan(&b, full + full / 2)
            };
            assert_eq!(choose(&tight, || true).0, Precision::Q8, "{name}");
            let old = MemoryPlan {
                place: DevicePlace::Cuda { bf16: false },
                ..tight
            };
            assert_eq!(choose(&old, || true).0.name(), "f32", "{name}");
        }
    }

    #[test]
    fn cuda_takes_bf16_and_before_ampere_f16() {
        let b = named(&seven());
        let on = |bf16: bool| {
            choose(
                &MemoryPlan {
                    place: DevicePlace::Cuda { bf16 },
                    ..plan(&b, 40 * GIB)
                },
                || true,
            )
        };
        assert_eq!((on(true).0.name(), on(false).0.name()), ("bf16", "f16"));
        assert_eq!(on(true).1, None);
    }

    #[test]
    fn a_refusal_has_the_numbers_and_only_ways_that_fit() {
        let b = named(&seven());
        let refused = |free: u64, asked: Option<Precision>| {
            plan(&b, free * GIB)
                .settle(asked, || true)
                .unwrap_err()
                .to_string()
        };
        let full = Some(Precision::Dense(DType::F32));
        let told = refused(28, full);
        for part in [
            "seven needs about",
            "in f32",
            "28.0 GiB are free",
            "25.1 GiB",
            "4096 tokens 4.0 GiB",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        for way in ["--dtype f16", "--dtype q8_0", "--context 2048", "Q4_K_M"] {
            assert!(told.contains(way), "{way}: {told}");
        }
        let told = refused(14, full);
        assert!(
            told.contains("--dtype q8_0") && !told.contains("--dtype f16"),
            "{told}"
        );
        assert!(
            !told.contains("--context"),
            "weights alone are more: {told}"
        );
        // The default would be Q8_0; 6 GiB are enough for it without a context, and for a GGUF's weights with a short one.
        let told = refused(10, None);
        assert!(
            told.contains("in q8_0") && !told.contains("--dtype"),
            "{told}"
        );
        assert!(
            told.contains("--context 2048") && told.contains("Q4_K_M"),
            "{told}"
        );
        let told = refused(2, None);
        assert!(told.contains("smaller model"), "{told}");
        // The suggested alternatives do fit.
        let shorter = MemoryPlan {
            context: 2048,
            ..plan(&b, 10 * GIB)
        };
        shorter.check(Precision::Q8).unwrap();
    }

    #[test]
    fn a_configuration_alone_says_whether_it_fits() {
        // Q8_0 takes 7 GiB, plus a cache.
        assert_eq!(fits(&seven(), 4096, 16 * GIB), Some(true));
        assert_eq!(fits(&seven(), 4096, 6 * GIB), Some(false));
        assert_eq!(fits(&json!({"model_type": "mamba"}), 4096, GIB), None);
    }

    #[test]
    fn what_stays_as_the_file_has_it_is_counted_as_that() {
        let b = named(&seven());
        let full = Precision::Dense(DType::F32);
        let wide = plan(&b, 40 * GIB).need(full);
        let narrow = MemoryPlan {
            stored: Some(wide.weights / 2),
            ..plan(&b, 40 * GIB)
        };
        let saved = wide.weights - narrow.need(full).weights;
        assert!(saved > 12 * GIB, "{saved}");
        assert_eq!(choose(&narrow, || false).0, full, "it fits twice");
        // On a GPU and in another dtype they are converted.
        let half = Precision::Dense(DType::F16);
        assert_eq!(narrow.need(half), plan(&b, 0).need(half));
        let card = MemoryPlan {
            place: DevicePlace::Cuda { bf16: true },
            ..narrow
        };
        assert_eq!(card.need(full).weights, wide.weights);
        // A file with unused tensors does not count more than all used ones in f32.
        let larger = MemoryPlan {
            stored: Some(3 * wide.weights),
            ..narrow
        };
        assert_eq!(larger.need(full).weights, wide.weights);
    }

    #[test]
    fn this_machine_has_some_memory_left() {
        let free = available(&Device::Cpu).unwrap();
        assert!(free > 64 << 20, "{free}");
    }
}
