//! The arithmetic that edit formulas use, on whole tensors `[batch, tokens, width]`, for any device and for gradients.
//!
//! Invariant: computed in f32 and returned in the dtype of the value; of several errors the first is returned.
//! To add a method, see [`super::HiddenState`].

use std::ops::{Add, Div, Mul, Neg, Sub};
use std::sync::Arc;

use candle_core::{D, DType, Tensor};

use super::{HiddenState, Numbers, PreparedEdit, RowNumber};
use crate::error::{Error, Result};

type Candle = candle_core::Result<Tensor>;

/// A tensor, or the first error that occurred while computing it.
#[derive(Clone)]
pub(crate) struct PendingTensor(std::result::Result<Tensor, Arc<candle_core::Error>>);

impl PendingTensor {
    fn then(&self, make: impl FnOnce(&Tensor) -> Candle) -> Self {
        let held = self.0.as_ref().map_err(Arc::clone);
        Self(held.and_then(|t| make(t).map_err(Arc::new)))
    }

    fn with(&self, other: &Self, make: impl FnOnce(&Tensor, &Tensor) -> Candle) -> Self {
        match &other.0 {
            Ok(other) => self.then(|own| make(own, other)),
            Err(_) => other.clone(),
        }
    }
}

/// Arithmetic operators on [`PendingTensor`].
macro_rules! operators {
    ($($operator:ident $name:ident($other:ty) |$own:ident, $by:ident| $make:expr;)*) => {
        $(impl $operator<$other> for PendingTensor {
            type Output = Self;

            fn $name(self, $by: $other) -> Self {
                let $own = self;
                $make
            }
        })*
    };
}

operators! {
    Add add(f64) |own, number| own.then(|t| t + number);
    Mul mul(f64) |own, number| own.then(|t| t * number);
    Sub sub(Self) |own, other| own.with(&other, Tensor::broadcast_sub);
    Mul mul(Self) |own, other| own.with(&other, Tensor::broadcast_mul);
    Div div(Self) |own, other| own.with(&other, Tensor::broadcast_div);
}

impl Neg for PendingTensor {
    type Output = Self;

    fn neg(self) -> Self {
        self * -1.0
    }
}

impl RowNumber for PendingTensor {
    fn within(self, low: f64, high: f64) -> Self {
        self.then(|t| t.clamp(low, high))
    }
}

/// The values of all rows, in f32.
struct DeviceRows<'a> {
    x: PendingTensor,
    /// The position of the first token.
    start: usize,
    /// The post-activation values of the layer's neurons, `[batch, tokens, d_mlp]`, for an overlay.
    neurons: Option<&'a Tensor>,
}

impl HiddenState for DeviceRows<'_> {
    type Number = PendingTensor;

    fn number(&self, number: f64) -> PendingTensor {
        self.x
            .then(|x| Tensor::new(&[[[number as f32]]], x.device()))
    }

    fn dot(&self, v: &Numbers<f32>) -> PendingTensor {
        self.x
            .then(|x| x.broadcast_mul(&v.tensor)?.sum_keepdim(D::Minus1))
    }

    fn length(&self) -> PendingTensor {
        self.x.then(|x| x.sqr()?.sum_keepdim(D::Minus1)?.sqrt())
    }

    fn add(&mut self, n: PendingTensor, v: &Numbers<f32>) {
        self.x = self.x.with(&n, |x, n| {
            let moved = x.broadcast_add(&n.broadcast_mul(&v.tensor)?)?;
            if x.track_op() {
                // A gradient passes through `n` where it happens to be 0, as where a value is 0 along the direction.
                return Ok(moved);
            }
            // Where `n` is 0 the value is kept as it is: adding 0 would still turn -0 into 0.
            n.ne(0f32)?.broadcast_as(x.shape())?.where_cond(&moved, x)
        });
    }

    fn turn(&mut self, n: PendingTensor, from: &Numbers<f32>, to: &Numbers<f32>) {
        self.x = self.x.with(&n, |x, n| {
            x.broadcast_add(&n.broadcast_mul(&(&to.tensor - &from.tensor)?)?)
        });
    }

    fn stretch(&mut self, n: PendingTensor) {
        self.x = self.x.with(&n, Tensor::broadcast_mul);
    }

    fn scale(&mut self, mask: &Numbers<u8>, factor: f64) {
        self.x = self.x.then(|x| {
            mask.tensor
                .broadcast_as(x.shape())?
                .where_cond(&(x * factor)?, x)
        });
    }

    fn towards(&mut self, mask: &Numbers<u8>, target: &Numbers<f32>, c: f64) {
        let start = self.start;
        self.x = self.x.then(|x| {
            let target = rows(&target.tensor, start, x.dim(1)?)?.broadcast_as(x.shape())?;
            #[allow(clippy::float_cmp)] // exactly full strength
            let moved = if c == 1.0 {
                target.contiguous()?
            } else {
                (x + (target.sub(x)? * c)?)?
            };
            mask.tensor.broadcast_as(x.shape())?.where_cond(&moved, x)
        });
    }

    fn overlay(&mut self, units: &[u32], deltas: &Numbers<f32>) {
        let Some(neurons) = self.neurons else { return };
        self.x = self.x.then(|x| {
            let index = Tensor::new(units, neurons.device())?;
            let act = neurons.to_dtype(DType::F32)?.index_select(&index, 2)?;
            // The delta of a single unit is stored as a vector, hence the reshape.
            let deltas = deltas.tensor.reshape((units.len(), ()))?;
            x + act.broadcast_matmul(&deltas)?
        });
    }
}

impl PreparedEdit {
    /// The whole of `x`, `[batch, tokens, width]`, after the edit; its first token is at position `start`. `neurons` are the
    /// post-activation values of the layer's neurons, `[batch, tokens, d_mlp]`, for an overlay.
    pub(crate) fn on_tensor(
        &self,
        x: &Tensor,
        start: usize,
        neurons: Option<&Tensor>,
    ) -> Result<Tensor> {
        let wide = x.to_dtype(DType::F32)?;
        let mut rows = DeviceRows {
            x: PendingTensor(Ok(wide)),
            start,
            neurons,
        };
        self.on(&mut rows);
        let failed = |e: Arc<candle_core::Error>| {
            let own = Arc::try_unwrap(e);
            Error::from(own.unwrap_or_else(|e| candle_core::Error::Msg(e.to_string())))
        };
        Ok(rows.x.0.map_err(failed)?.to_dtype(x.dtype())?)
    }
}

/// The rows of a target for consecutive positions; a target with a single row is used for all of them.
fn rows(target: &Tensor, start: usize, tokens: usize) -> Candle {
    if target.rank() == 1 {
        return Ok(target.clone());
    }
    let last = target.dim(0)? - 1;
    let index: Vec<u32> = (start..start + tokens)
        .map(|p| p.min(last) as u32)
        .collect();
    target.index_select(&Tensor::new(index, target.device())?, 0)
}
