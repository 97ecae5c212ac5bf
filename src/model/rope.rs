//! Rotary position embeddings: frequencies from the configuration, tables, and the rotation.
//!
//! Invariant: an unknown scaling is refused by name, never ignored; the fused and the plain rotation agree.
//! To add a scaling, add a variant of [`RopeScaling`], its parsing and its frequencies.

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use crate::error::{Error, Result};

/// How frequencies are stretched beyond the length a model was first trained on.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Frequencies as they are.
    None,
    /// All frequencies divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3: long wavelengths divided by a factor, short ones kept, a blend between.
    Llama3 {
        /// Divides the frequencies of long wavelengths.
        factor: f64,
        /// Wavelengths above `original / low` are scaled.
        low: f64,
        /// Wavelengths below `original / high` are kept.
        high: f64,
        /// The original context.
        original: f64,
    },
}

/// A rotary embedding's parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Scaling.
    pub scaling: RopeScaling,
}

impl Rope {
    /// Reads both dialects of config.json: `rope_theta` + `rope_scaling`, or `rope_parameters`.
    pub fn from_config(config: &Value) -> Result<Self> {
        let parameters = config.get("rope_parameters").filter(|v| v.is_object());
        let scaling = parameters.or_else(|| config.get("rope_scaling").filter(|v| v.is_object()));
        let theta = parameters
            .and_then(|p| p.get("rope_theta"))
            .or_else(|| config.get("rope_theta"));
        let theta = theta.and_then(Value::as_f64).unwrap_or(10_000.0);
        let Some(scaling) = scaling else {
            return Ok(Self {
                theta,
                scaling: RopeScaling::None,
            });
        };
        let kind = scaling
            .get("rope_type")
            .or_else(|| scaling.get("type"))
            .and_then(Value::as_str)
            .unwrap_or("default");
        let number = |key: &str| {
            scaling
                .get(key)
                .and_then(Value::as_f64)
                .ok_or_else(|| Error::Config {
                    what: format!("rope scaling `{kind}` needs the number `{key}`"),
                    next: "Compare config.json with the one on the hub.".into(),
                })
        };
        let scaling = match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear {
                factor: number("factor")?,
            },
            "llama3" => RopeScaling::Llama3 {
                factor: number("factor")?,
                low: number("low_freq_factor")?,
                high: number("high_freq_factor")?,
                original: number("original_max_position_embeddings")?,
            },
            other => {
                return Err(Error::Config {
                    what: format!(
                        "rope scaling `{other}` is not served (default, linear and llama3 are)"
                    ),
                    next: "Ignoring it would give wrong numbers, so the model is refused.".into(),
                });
            }
        };
        Ok(Self { theta, scaling })
    }

    /// `[head_dim / 2]` angles per position.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let plain =
            (0..head_dim / 2).map(|i| 1.0 / self.theta.powf(2.0 * i as f64 / head_dim as f64));
        plain.map(|f| self.scale(f) as f32).collect()
    }

    fn scale(&self, frequency: f64) -> f64 {
        match self.scaling {
            RopeScaling::None => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
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
        }
    }
}

/// Cosines and sines for every position, ready to rotate.
#[derive(Clone, Debug)]
pub struct RopeTable {
    cos: Tensor,
    sin: Tensor,
}

impl RopeTable {
    /// Builds `[context, head_dim / 2]` tables.
    pub fn new(
        rope: &Rope,
        head_dim: usize,
        context: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let frequencies = rope.frequencies(head_dim);
        let half = frequencies.len();
        let angles: Vec<f32> = (0..context)
            .flat_map(|p| frequencies.iter().map(move |f| p as f32 * f))
            .collect();
        let angles = Tensor::from_vec(angles, (context, half), device)?;
        Ok(Self {
            cos: angles.cos()?.to_dtype(dtype)?,
            sin: angles.sin()?.to_dtype(dtype)?,
        })
    }

    /// Rotates `[batch, heads, tokens, head_dim]`, halves against halves, from position `start` on.
    pub fn rotate(&self, x: &Tensor, start: usize, differentiable: bool) -> Result<Tensor> {
        let tokens = x.dim(2)?;
        let cos = self.cos.narrow(0, start, tokens)?;
        let sin = self.sin.narrow(0, start, tokens)?;
        let x = x.contiguous()?;
        Ok(if differentiable {
            candle_nn::rotary_emb::rope_slow(&x, &cos, &sin)?
        } else {
            candle_nn::rotary_emb::rope(&x, &cos, &sin)?
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use super::*;

    #[test]
    fn unknown_scaling_is_refused_by_name() {
        let config = serde_json::json!({"rope_scaling": {"rope_type": "yarnish", "factor": 2.0}});
        assert!(
            Rope::from_config(&config)
                .unwrap_err()
                .to_string()
                .contains("yarnish")
        );
    }

    #[test]
    fn llama3_keeps_short_and_stretches_long_wavelengths() {
        let config = serde_json::json!({"rope_parameters": {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}});
        let rope = Rope::from_config(&config).unwrap();
        let plain = Rope {
            theta: 10_000.0,
            scaling: RopeScaling::None,
        }
        .frequencies(16);
        let scaled = rope.frequencies(16);
        assert_eq!(plain[0], scaled[0]);
        assert!((scaled[7] - plain[7] / 8.0).abs() < 1e-9);
        assert!(scaled[2] < plain[2] && scaled[2] > plain[2] / 8.0);
    }
}
