//! Normalisation, with means and variances in f32 whatever the dtype of the weights.
//!
//! Invariant: the fused and the plain path compute the same function; the plain one carries gradients (candle's fused kernels
//! end the graph silently). To add a kind, add an arm in [`Norm::forward`].

use candle_core::{DType, Device, Tensor};

use super::blueprint::{NormKind, NormSpec};
use super::numbers::{made, on_numbers, plain, wide};
use crate::error::Result;
use crate::model::host::ToHost;
use crate::model::kernels::rows;

/// A norm with its learned gain, and bias for LayerNorm. Both are kept in f32.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Which function.
    pub kind: NormKind,
    /// `[width]`, f32: the factor on the normed input, converted from what the checkpoint stores.
    pub gain: Tensor,
    /// `[width]`, f32; only LayerNorm has one.
    pub bias: Option<Tensor>,
    /// Added to the mean square or the variance before the root.
    pub epsilon: f64,
}

impl Norm {
    /// A norm of this kind, with gain and bias converted to f32.
    pub fn new(spec: NormSpec, gain: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let bias = match (spec.kind, bias) {
            (NormKind::Rms | NormKind::Identity, _) => None,
            // The fused kernel requires a bias; adding zero changes nothing.
            (NormKind::Layer, None) => Some(gain.zeros_like()?),
            (NormKind::Layer, some) => some,
        };
        Ok(Self {
            kind: spec.kind,
            gain,
            bias,
            epsilon: spec.epsilon,
        })
    }

    /// A norm that changes nothing: the final norm of a family without one.
    pub fn identity(width: usize, device: &Device) -> Result<Self> {
        Ok(Self {
            kind: NormKind::Identity,
            gain: Tensor::ones(width, DType::F32, device)?,
            bias: None,
            epsilon: 0.0,
        })
    }

    /// `[.., width] -> [.., width]`, in the input's dtype.
    pub fn forward(&self, x: &Tensor, differentiable: bool) -> Result<Tensor> {
        let dtype = x.dtype();
        if self.kind == NormKind::Identity {
            return Ok(x.clone());
        }
        if x.device().is_cpu() && !differentiable && !x.track_op() {
            return self.on_cpu(x);
        }
        if !x.device().same_device(self.gain.device()) {
            return self.on(x.device())?.forward(x, differentiable);
        }
        let wide = x.to_dtype(wide(x.dtype()))?;
        let out = match (self.kind, &self.bias, differentiable) {
            (NormKind::Rms, _, false) => {
                candle_nn::ops::rms_norm(&wide.contiguous()?, &self.gain, self.epsilon as f32)?
            }
            (NormKind::Layer, Some(bias), false) => candle_nn::ops::layer_norm(
                &wide.contiguous()?,
                &self.gain,
                bias,
                self.epsilon as f32,
            )?,
            _ => self.plain(&wide, &self.gain, self.bias.as_ref())?,
        };
        Ok(out.to_dtype(dtype)?)
    }

    /// The same norm on another device.
    pub fn on(&self, device: &Device) -> Result<Self> {
        let bias = self.bias.as_ref().map(|bias| bias.on_device(device));
        Ok(Self {
            gain: self.gain.on_device(device)?,
            bias: bias.transpose()?,
            ..self.clone()
        })
    }

    /// The same norm without gain and bias.
    pub fn without_gain(&self) -> Result<Self> {
        Ok(Self {
            gain: self.gain.ones_like()?,
            bias: self.bias.as_ref().map(Tensor::zeros_like).transpose()?,
            ..self.clone()
        })
    }

    /// Applies gain and bias to what [`Norm::without_gain`] returned in f32, to `dtype`: the same bits as [`Norm::forward`] at
    /// once.
    pub fn gained(&self, normed: &Tensor, dtype: DType, differentiable: bool) -> Result<Tensor> {
        if self.kind == NormKind::Identity {
            return Ok(normed.to_dtype(dtype)?);
        }
        if normed.device().is_cpu() && !differentiable && !normed.track_op() {
            let wide = plain(normed)?;
            return made(normed.dims(), dtype, |y| {
                on_numbers(&wide, |x| {
                    on_numbers(&self.gain, |gain| {
                        let Some(bias) = &self.bias else {
                            rows::gained(x, gain, None, y);
                            return Ok(());
                        };
                        on_numbers(bias, |bias| rows::gained(x, gain, Some(bias), y))
                    })?
                })?
            });
        }
        let wide = wide(normed.dtype());
        let out = normed.to_dtype(wide)?;
        let out = out.broadcast_mul(&self.gain.to_dtype(wide)?)?;
        let out = match &self.bias {
            Some(bias) => out.broadcast_add(&bias.to_dtype(wide)?)?,
            None => out,
        };
        Ok(out.to_dtype(dtype)?)
    }

    fn on_cpu(&self, x: &Tensor) -> Result<Tensor> {
        let wide = plain(x)?;
        let epsilon = self.epsilon as f32;
        made(x.dims(), x.dtype(), |y| {
            on_numbers(&wide, |x| {
                on_numbers(&self.gain, |gain| {
                    if let Some(bias) = &self.bias {
                        on_numbers(bias, |bias| {
                            rows::layer_norm(x, gain, bias, epsilon, y);
                        })
                    } else {
                        rows::rms_norm(x, gain, epsilon, y);
                        Ok(())
                    }
                })?
            })?
        })
    }

    /// The norm of one head, of a norm with a gain `[heads, width]`.
    pub fn of_head(&self, head: usize, width: usize) -> Result<Self> {
        let own = |t: &Tensor| {
            t.flatten_all()?
                .narrow(0, head * width, width)?
                .contiguous()
        };
        Ok(Self {
            gain: own(&self.gain)?,
            bias: self.bias.as_ref().map(own).transpose()?,
            ..self.clone()
        })
    }

    /// `[.., heads, head_dim]` normed along `head_dim`, with a gain `[heads, head_dim]` (Cohere, StableLM).
    pub fn per_head(&self, x: &Tensor) -> Result<Tensor> {
        let dtype = x.dtype();
        let (heads, width) = (x.dim(x.rank() - 2)?, x.dim(x.rank() - 1)?);
        let shaped = |t: &Tensor| t.reshape((heads, width));
        let bias = self.bias.as_ref().map(shaped).transpose()?;
        let wide = x.to_dtype(wide(x.dtype()))?;
        let out = self.plain(&wide, &shaped(&self.gain)?, bias.as_ref())?;
        Ok(out.to_dtype(dtype)?)
    }

    /// Norms `[n, width]` with the scale of other rows: `scale` is their [`Norm::inverse_scale`], `[n, 1]`. LayerNorm still
    /// subtracts each row's own mean, so that the result is additive over the terms of a sum.
    pub fn forward_scaled(&self, x: &Tensor, scale: &Tensor) -> Result<Tensor> {
        if self.kind == NormKind::Identity {
            return Ok(x.clone());
        }
        let wide = x.to_dtype(wide(x.dtype()))?;
        let out = self.centred(wide)?.broadcast_mul(scale)?;
        let out = out.broadcast_mul(&self.gain)?;
        let out = match &self.bias {
            Some(bias) => out.broadcast_add(bias)?,
            None => out,
        };
        Ok(out.to_dtype(x.dtype())?)
    }

    /// Rows through the norm with a scale of 1 and without the bias, `[.., width]`, f32: centred for LayerNorm, and multiplied by the
    /// gain. What it does to a term of a sum, but for the scale of the whole.
    pub fn at_scale_one(&self, rows: &Tensor) -> Result<Tensor> {
        let wide = rows.to_dtype(DType::F32)?;
        let gain = self.gain.on_device(wide.device())?;
        Ok(self.centred(wide)?.broadcast_mul(&gain)?)
    }

    /// Rows less their mean, for LayerNorm; the others leave it.
    fn centred(&self, rows: Tensor) -> Result<Tensor> {
        Ok(match self.kind {
            NormKind::Rms | NormKind::Identity => rows,
            NormKind::Layer => rows.broadcast_sub(&rows.mean_keepdim(candle_core::D::Minus1)?)?,
        })
    }

    fn plain(&self, wide: &Tensor, gain: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let out = self
            .centred(wide.clone())?
            .broadcast_mul(&self.inverse_scale(wide)?)?
            .broadcast_mul(&gain.to_dtype(wide.dtype())?)?;
        Ok(match bias {
            Some(bias) => out.broadcast_add(&bias.to_dtype(wide.dtype())?)?,
            None => out,
        })
    }

    /// Pulls directions of the normed stream back through the norm with its scale held constant: `[n, width] -> [n, width]`,
    /// f32. They are multiplied by the gain and, for LayerNorm, centred (centring the direction equals centring the input). The
    /// dot product with the input, times [`Norm::inverse_scale`], is the dot product with the output without the bias's part.
    pub fn seen_from_behind(&self, directions: &Tensor) -> Result<Tensor> {
        let gain = self.gain.on_device(directions.device())?;
        self.centred(directions.broadcast_mul(&gain)?)
    }

    /// `1 / rms(x)` or `1 / std(x)` of one row that has been read back; sums in f64.
    pub fn inverse_scale_of(&self, row: &[f32]) -> f32 {
        let count = row.len().max(1) as f64;
        let mean = match self.kind {
            NormKind::Identity => return 1.0,
            NormKind::Rms => 0.0,
            NormKind::Layer => row.iter().map(|v| f64::from(*v)).sum::<f64>() / count,
        };
        let square = row
            .iter()
            .map(|v| (f64::from(*v) - mean).powi(2))
            .sum::<f64>()
            / count;
        (square + self.epsilon).sqrt().recip() as f32
    }

    /// `1 / rms(x)` or `1 / std(x)`: `[.., width] -> [.., 1]`, f32.
    pub fn inverse_scale(&self, x: &Tensor) -> Result<Tensor> {
        let wide = x.to_dtype(wide(x.dtype()))?;
        if self.kind == NormKind::Identity {
            return Ok(wide.narrow(x.rank() - 1, 0, 1)?.ones_like()?);
        }
        let square = self.centred(wide)?.sqr()?;
        let mean = square.mean_keepdim(candle_core::D::Minus1)?;
        Ok((mean + self.epsilon)?.sqrt()?.recip()?)
    }
}
