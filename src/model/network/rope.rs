//! Rotary position embeddings: frequencies from the configuration, tables of cosines and sines, and the rotation.
//!
//! Invariant: an unknown scaling is refused by name, never ignored; the fused and the plain rotation agree.
//! To add a scaling, add a variant of [`RopeScaling`], its parsing and its frequencies.
//!
//! Two scalings, `dynamic` and `longrope`, change the frequencies of *every* position once a text is longer than the original
//! context. The reference is one pass over the whole text. A cache holds keys that were rotated with the old frequencies, so
//! where [`Rope::scaling_regime`] changes, the text must be read again.

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// How frequencies are stretched for texts longer than the length the model was first trained on.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Frequencies as they are.
    None,
    /// All frequencies divided by a factor.
    Linear { factor: f64 },
    /// The base grows with the length of the text once that exceeds the original context.
    Dynamic {
        /// The factor of the growth.
        factor: f64,
        /// The original context, in positions.
        original: usize,
    },
    /// YaRN (Peng et al. 2023, 2309.00071): low frequencies are divided by a factor, high ones kept, with a ramp between.
    Yarn {
        /// The divisor of low frequencies.
        factor: f64,
        /// The original context, in positions.
        original: f64,
        /// Frequencies with more rotations than this over the original context are kept.
        fast: f64,
        /// Frequencies with fewer rotations than this over the original context are divided.
        slow: f64,
        /// Whether the ends of the ramp are rounded to whole dimensions.
        whole: bool,
    },
    /// LongRoPE (Ding et al. 2024, 2402.13753): a divisor for each frequency, with a second list for texts beyond the original
    /// context.
    Long {
        /// Divisors for texts up to the original context.
        short: Vec<f64>,
        /// Divisors for longer texts.
        long: Vec<f64>,
        /// The original context, in positions.
        original: usize,
    },
    /// Llama 3: frequencies with long wavelengths are divided by a factor, those with short ones kept, with a blend between.
    Llama3 {
        /// The divisor of frequencies with long wavelengths.
        factor: f64,
        /// Wavelengths above `original / low` are scaled by the whole factor.
        low: f64,
        /// Wavelengths below `original / high` are kept.
        high: f64,
        /// The original context, in positions.
        original: f64,
    },
    /// A divisor for each frequency at any length: what GGUF files store instead of Llama 3's four numbers.
    Divisors(Vec<f64>),
}

/// A rotary embedding's parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base of the frequencies.
    pub theta: f64,
    /// How many of a head's dimensions are rotated, from the first on.
    pub width: usize,
    /// Whether neighbouring dimensions form the rotated pairs (GPT-J, Cohere); otherwise dimension i pairs with i + width / 2.
    pub interleaved: bool,
    pub scaling: RopeScaling,
    /// The factor on cosines and sines (YaRN, LongRoPE).
    pub magnitude: f64,
}

/// Reads numbers from a rope dictionary; the error names a missing key. Null counts as absent; another type is refused.
struct Parameters<'a> {
    kind: &'a str,
    dictionary: &'a Map<String, Value>,
}

impl Parameters<'_> {
    fn wrong(&self, what: &str) -> Error {
        Error::Config {
            what: format!("rope scaling `{}` needs {what}", self.kind),
            next: "Compare config.json with the one on the hub.".into(),
        }
    }

    fn optional(&self, key: &str) -> Result<Option<f64>> {
        match self.dictionary.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64().filter(|n| n.is_finite()) {
                Some(number) => Ok(Some(number)),
                None => Err(self.wrong(&format!("a number as `{key}`, not {value}"))),
            },
        }
    }

    fn positive(&self, key: &str) -> Result<f64> {
        self.optional(key)?
            .filter(|n| *n > 0.0)
            .ok_or_else(|| self.wrong(&format!("the positive number `{key}`")))
    }

    fn list(&self, key: &str, length: usize) -> Result<Vec<f64>> {
        let found = self.dictionary.get(key).and_then(Value::as_array);
        let numbers: Option<Vec<f64>> =
            found.and_then(|list| list.iter().map(Value::as_f64).collect());
        numbers
            .filter(|n| n.len() == length && n.iter().all(|d| d.is_finite() && *d != 0.0))
            .ok_or_else(|| {
                let what = format!("`{key}`, a list of {length} numbers that are not zero");
                self.wrong(&what)
            })
    }
}

impl Rope {
    /// Reads a complete dictionary, as `families::ropes` makes it. `most` is the model's maximum length, which some scalings
    /// start from.
    pub fn read(dictionary: &Map<String, Value>, most: f64, head_dim: usize) -> Result<Self> {
        let read = Parameters {
            kind: "default",
            dictionary,
        };
        let theta = read.positive("rope_theta")?;
        let part = match dictionary.get("partial_rotary_factor") {
            None => 1.0,
            Some(_) => read.positive("partial_rotary_factor")?,
        };
        let width = (head_dim as f64 * part) as usize;
        if width < 2 || width > head_dim || !width.is_multiple_of(2) {
            return Err(Error::Config {
                what: format!(
                    "a rotation of {width} of {head_dim} dimensions with base {theta} makes no sense"
                ),
                next: "Compare rope_theta, head_dim and partial_rotary_factor with the config.json on the hub.".into(),
            });
        }
        let (scaling, magnitude) = scaling(dictionary, most, width)?;
        Ok(Self {
            theta,
            width,
            interleaved: false,
            scaling,
            magnitude,
        })
    }

    /// The regime of a text of `total` tokens: texts of the same regime use the same frequencies.
    pub fn scaling_regime(&self, total: usize) -> usize {
        if let RopeScaling::Dynamic { original, .. } = self.scaling
            && total > original
        {
            return total;
        }
        let long = matches!(self.scaling, RopeScaling::Long { original, .. } if total > original);
        usize::from(long)
    }

    /// The frequencies for a text of `total` tokens, `[width / 2]`, in radians a position.
    pub fn frequencies(&self, total: usize) -> Vec<f32> {
        let half = self.width / 2;
        let width = self.width as f64;
        let base = if let RopeScaling::Dynamic { factor, original } = self.scaling
            && total > original
        {
            let stretch = factor * total as f64 / original as f64 - (factor - 1.0);
            self.theta * stretch.powf(width / (width - 2.0))
        } else {
            self.theta
        };
        let plain = |i: usize| 1.0 / base.powf(2.0 * i as f64 / width);
        (0..half)
            .map(|i| self.scale(i, plain(i), total) as f32)
            .collect()
    }

    fn scale(&self, i: usize, frequency: f64, total: usize) -> f64 {
        match &self.scaling {
            RopeScaling::None | RopeScaling::Dynamic { .. } => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Divisors(divisors) => frequency / divisors[i],
            RopeScaling::Long {
                short,
                long,
                original,
            } => frequency / if total > *original { long[i] } else { short[i] },
            RopeScaling::Llama3 {
                factor,
                low,
                high,
                original,
            } => {
                let wavelength = 2.0 * std::f64::consts::PI / frequency;
                if wavelength < original / high {
                    frequency
                } else if wavelength > original / low {
                    frequency / factor
                } else {
                    let blend = (original / wavelength - low) / (high - low);
                    (1.0 - blend) * frequency / factor + blend * frequency
                }
            }
            RopeScaling::Yarn {
                factor,
                original,
                fast,
                slow,
                whole,
            } => {
                let width = self.width as f64;
                // The dimension whose frequency makes `turns` rotations within the original context.
                let dimension = |turns: f64| {
                    width * (original / (turns * 2.0 * std::f64::consts::PI)).ln()
                        / (2.0 * self.theta.ln())
                };
                let (mut from, mut to) = (dimension(*fast), dimension(*slow));
                if *whole {
                    (from, to) = (from.floor(), to.ceil());
                }
                let (from, mut to) = (from.max(0.0), to.min(width - 1.0));
                if from >= to && to >= from {
                    to += 0.001;
                }
                let ramp = ((i as f64 - from) / (to - from)).clamp(0.0, 1.0);
                frequency / factor * ramp + frequency * (1.0 - ramp)
            }
        }
    }
}

/// The scaling that a rope dictionary describes, and the factor on cosines and sines.
fn scaling(dictionary: &Map<String, Value>, most: f64, width: usize) -> Result<(RopeScaling, f64)> {
    let kind = match dictionary.get("rope_type") {
        None => "default",
        Some(kind) => kind.as_str().unwrap_or("null"),
    };
    let read = Parameters { kind, dictionary };
    let original = || read.positive("original_max_position_embeddings");
    Ok(match kind {
        "default" => (RopeScaling::None, 1.0),
        "linear" => {
            let factor = read.positive("factor")?;
            (RopeScaling::Linear { factor }, 1.0)
        }
        "dynamic" => {
            let (factor, original) = (read.positive("factor")?, most as usize);
            (RopeScaling::Dynamic { factor, original }, 1.0)
        }
        "llama3" => (
            RopeScaling::Llama3 {
                factor: read.positive("factor")?,
                low: read.positive("low_freq_factor")?,
                high: read.positive("high_freq_factor")?,
                original: original()?,
            },
            1.0,
        ),
        "yarn" => {
            let original = original()?;
            // As in transformers, the key must exist; if it is null, the factor is the ratio of the lengths.
            let factor = match dictionary.get("factor") {
                Some(Value::Null) => most / original,
                _ => read.positive("factor")?,
            };
            let growth = |scale: f64| {
                if factor <= 1.0 {
                    1.0
                } else {
                    0.1 * scale * factor.ln() + 1.0
                }
            };
            let given = |key: &str| Ok::<_, Error>(read.optional(key)?.filter(|n| *n != 0.0));
            let magnitude = match (
                read.optional("attention_factor")?,
                given("mscale")?,
                given("mscale_all_dim")?,
            ) {
                (Some(factor), _, _) => factor,
                (None, Some(all), Some(dim)) => growth(all) / growth(dim),
                (None, _, _) => growth(1.0),
            };
            let scaling = RopeScaling::Yarn {
                factor,
                original,
                fast: given("beta_fast")?.unwrap_or(32.0),
                slow: given("beta_slow")?.unwrap_or(1.0),
                whole: match dictionary.get("truncate") {
                    None | Some(Value::Bool(true)) => true,
                    Some(Value::Null | Value::Bool(false)) => false,
                    Some(other) => {
                        return Err(
                            read.wrong(&format!("true or false as `truncate`, not {other}"))
                        );
                    }
                },
            };
            (scaling, magnitude)
        }
        "longrope" => {
            let original = original()?;
            let factor = read.optional("factor")?.unwrap_or(most / original);
            let magnitude = match read.optional("attention_factor")? {
                Some(factor) => factor,
                None if factor <= 1.0 => 1.0,
                None => (1.0 + factor.ln() / original.ln()).sqrt(),
            };
            let scaling = RopeScaling::Long {
                short: read.list("short_factor", width / 2)?,
                long: read.list("long_factor", width / 2)?,
                original: original as usize,
            };
            (scaling, magnitude)
        }
        "frequency_factors" => (RopeScaling::Divisors(read.list("factors", width / 2)?), 1.0),
        other => {
            return Err(Error::Config {
                what: format!(
                    "rope scaling `{other}` is not supported (default, linear, dynamic, llama3, yarn and longrope are)"
                ),
                next: "Ignoring it would give wrong numbers, so the model is refused.".into(),
            });
        }
    })
}

/// Cosines and sines of a rotation for all positions, in the regime of short texts.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// The rotation that the table was made from.
    pub rope: Rope,
    first: Rotation,
    dtype: DType,
}

impl RopeTable {
    /// The tables for `context` positions.
    pub fn new(rope: &Rope, context: usize, dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self {
            rope: rope.clone(),
            first: Rotation::new(rope, 0, context, 0, dtype, device)?,
            dtype,
        })
    }

    /// The rotation of positions `start..start + tokens` in a text of `start + tokens` tokens.
    pub fn at(&self, start: usize, tokens: usize) -> Result<Rotation> {
        let total = start + tokens;
        if self.rope.scaling_regime(total) != 0 {
            let device = self.first.cos.device();
            return Rotation::new(&self.rope, start, tokens, total, self.dtype, device);
        }
        Ok(Rotation {
            cos: self.first.cos.narrow(0, start, tokens)?,
            sin: self.first.sin.narrow(0, start, tokens)?,
            interleaved: self.rope.interleaved,
        })
    }
}

/// Cosines and sines of consecutive positions, to rotate queries and keys with.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// `[positions, width / 2]`.
    cos: Tensor,
    /// `[positions, width / 2]`.
    sin: Tensor,
    interleaved: bool,
}

impl Rotation {
    fn new(
        rope: &Rope,
        start: usize,
        count: usize,
        total: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let frequencies = rope.frequencies(total);
        let half = frequencies.len();
        let angles: Vec<f32> = (start..start + count)
            .flat_map(|p| frequencies.iter().map(move |f| p as f32 * f))
            .collect();
        let angles = Tensor::from_vec(angles, (count, half), device)?;
        let table = |t: Tensor| -> Result<Tensor> { Ok((t * rope.magnitude)?.to_dtype(dtype)?) };
        Ok(Self {
            cos: table(angles.cos()?)?,
            sin: table(angles.sin()?)?,
            interleaved: rope.interleaved,
        })
    }

    /// Cosines and sines, `[positions, width / 2]` each, and whether neighbouring dimensions are paired.
    pub(super) fn tables(&self) -> (&Tensor, &Tensor, bool) {
        (&self.cos, &self.sin, self.interleaved)
    }

    /// Rotates the first `width` dimensions of `[batch, heads, tokens, head_dim]`.
    pub fn apply(&self, x: &Tensor, differentiable: bool) -> Result<Tensor> {
        use candle_nn::rotary_emb::{rope, rope_i, rope_i_slow, rope_slow};
        let (width, head_dim) = (2 * self.cos.dim(1)?, x.dim(3)?);
        let turned = x.narrow(3, 0, width)?.contiguous()?;
        let turned = match (self.interleaved, differentiable) {
            (false, false) => rope(&turned, &self.cos, &self.sin)?,
            (false, true) => rope_slow(&turned, &self.cos, &self.sin)?,
            (true, false) => rope_i(&turned, &self.cos, &self.sin)?,
            (true, true) => rope_i_slow(&turned, &self.cos, &self.sin)?,
        };
        if width == head_dim {
            return Ok(turned);
        }
        let rest = x.narrow(3, width, head_dim - width)?.contiguous()?;
        Ok(Tensor::cat(&[&turned, &rest], 3)?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use super::*;
    use crate::model::host::ToHost;

    fn read(config: &Value) -> Result<Rope> {
        crate::model::network::families::rope_of(config, "llama", 16)
    }

    #[test]
    fn unknown_scaling_is_refused_by_name() {
        let config = serde_json::json!({"rope_scaling": {"rope_type": "yarnish", "factor": 2.0}});
        assert!(read(&config).unwrap_err().to_string().contains("yarnish"));
    }

    #[test]
    fn lists_of_the_wrong_length_are_refused() {
        let config = serde_json::json!({"max_position_embeddings": 64, "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [2.0]}});
        let error = read(&config).unwrap_err().to_string();
        assert!(
            error.contains("short_factor") && error.contains('8'),
            "{error}"
        );
    }

    #[test]
    fn llama3_keeps_short_and_stretches_long_wavelengths() {
        let config = serde_json::json!({"rope_parameters": {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}});
        let scaled = read(&config).unwrap().frequencies(1);
        let plain = read(&serde_json::json!({})).unwrap().frequencies(1);
        assert_eq!(plain[0], scaled[0]);
        assert!((scaled[7] - plain[7] / 8.0).abs() < 1e-9);
        assert!(scaled[2] < plain[2] && scaled[2] > plain[2] / 8.0);
    }

    #[test]
    fn dynamic_and_long_scalings_change_past_the_original_context() {
        let dynamic = serde_json::json!({"max_position_embeddings": 32, "rope_scaling": {"type": "dynamic", "factor": 2.0}});
        let rope = read(&dynamic).unwrap();
        assert_eq!(
            (
                rope.scaling_regime(32),
                rope.scaling_regime(33),
                rope.scaling_regime(40)
            ),
            (0, 33, 40)
        );
        assert!(rope.frequencies(40)[3] < rope.frequencies(33)[3]);
        assert_eq!(rope.frequencies(32), rope.frequencies(5));
        let long = serde_json::json!({"max_position_embeddings": 128, "original_max_position_embeddings": 32,
            "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
                "long_factor": [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]}});
        let rope = read(&long).unwrap();
        assert_eq!(
            (
                rope.scaling_regime(32),
                rope.scaling_regime(33),
                rope.scaling_regime(100)
            ),
            (0, 1, 1)
        );
        assert!((rope.frequencies(33)[1] * 2.0 - rope.frequencies(32)[1]).abs() < 1e-7);
        assert!((rope.magnitude - (1.0 + 4f64.ln() / 32f64.ln()).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn the_fused_and_the_plain_rotation_agree_on_a_part_of_the_head() {
        let x = Tensor::randn(0f32, 1.0, (1, 2, 5, 16), &Device::Cpu).unwrap();
        for interleaved in [false, true] {
            let rope = Rope {
                interleaved,
                width: 8,
                ..read(&serde_json::json!({})).unwrap()
            };
            let turn = RopeTable::new(&rope, 64, DType::F32, &Device::Cpu)
                .unwrap()
                .at(7, 5)
                .unwrap();
            let (fused, plain) = (
                turn.apply(&x, false).unwrap(),
                turn.apply(&x, true).unwrap(),
            );
            let gap = (fused.sub(&plain).unwrap().abs().unwrap())
                .flatten_all()
                .unwrap();
            assert!(gap.max(0).unwrap().host_scalar::<f32>().unwrap() < 1e-6);
            let kept = |t: &Tensor| {
                t.narrow(3, 8, 8)
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .host_vec1::<f32>()
                    .unwrap()
            };
            assert_eq!(kept(&fused), kept(&x));
            assert_ne!(
                fused
                    .narrow(3, 0, 8)
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .host_vec1::<f32>()
                    .unwrap(),
                x.narrow(3, 0, 8)
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .host_vec1::<f32>()
                    .unwrap()
            );
        }
    }
}
