//! Tests whether numbers are finite. No other place decides that.
//!
//! Invariant: a test is one reduction on the tensor's device and reads back one number; NaN and infinity never pass. Minus
//! infinity passes only in logits, where it bans a token. To test another kind of value, add a function that ends in `verdict`.

use std::cmp::Ordering;
use std::fmt;

use candle_core::{D, DType, Device, Storage, Tensor};

use super::site::{Address, Site};
use super::tap::Tap;
use crate::error::{Error, Result};
use crate::model::host::{ToHost, lent};

/// A tensor of a checkpoint with values that are not finite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonFinite {
    /// The tensor's name in the checkpoint.
    pub name: String,
    /// How many values, or quantized blocks, are not finite.
    pub count: usize,
    /// Whether they are so in the file; otherwise the conversion to the compute dtype overflowed.
    pub stored: bool,
}

impl fmt::Display for NonFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, count, .. } = self;
        let values = if *count == 1 { "value" } else { "values" };
        if self.stored {
            write!(f, "{name} ({count} {values}, NaN or infinity in the file)")
        } else {
            write!(f, "{name} ({count} {values} past the range of the dtype)")
        }
    }
}

/// The text shown in place of a number that is not finite.
pub const NOT_FINITE: &str = "not finite";

/// Whether all values are finite.
pub fn all(values: &[f32]) -> bool {
    values.iter().all(|v| v.is_finite())
}

/// Whether a row of logits or log-probabilities is a distribution: -inf bans a token, but at least one is not banned.
pub fn distribution(row: &[f32]) -> bool {
    let (mut fine, mut some) = (true, false);
    for z in row {
        // False for NaN as well.
        fine &= *z < f32::INFINITY;
        some |= *z > f32::NEG_INFINITY;
    }
    fine && some
}

/// A total order for sorting in which values that are not finite are the smallest, so that none of them is ever the maximum.
pub fn order(a: impl Into<f64>, b: impl Into<f64>) -> Ordering {
    let (a, b) = (a.into(), b.into());
    let lowest = |x: f64| if x.is_finite() { x } else { f64::NEG_INFINITY };
    lowest(a).total_cmp(&lowest(b))
}

/// The verdict on a stream `[.., width]`: 0 if the stream and the sum of squares of each row, which every norm computes, are
/// finite; NaN otherwise. A scalar on the stream's device.
pub fn stream(x: &Tensor) -> Result<Tensor> {
    let squares = x.to_dtype(DType::F32)?.sqr()?.sum(D::Minus1)?;
    verdict(&squares)
}

/// For every row of a stream `[rows, tokens, width]`, whether it passes the test of [`stream`].
///
/// # Errors
///
/// When the read-back from the device fails.
pub fn rows(x: &Tensor) -> Result<Vec<bool>> {
    let squares = x.to_dtype(DType::F32)?.sqr()?.sum(D::Minus1)?;
    let verdicts = (squares * 0.0)?.sum(D::Minus1)?.host_vec1::<f32>()?;
    Ok(verdicts.into_iter().map(f32::is_finite).collect())
}

/// The verdict on any values: 0 if all are finite, else NaN. A scalar on their device.
pub fn values(x: &Tensor) -> Result<Tensor> {
    verdict(&x.to_dtype(DType::F32)?)
}

/// The verdict on logits `[.., vocab]`, f32: 0 if all are finite or -inf (a banned token), else NaN. A scalar on their device.
pub fn logits(x: &Tensor) -> Result<Tensor> {
    if let Some(fine) = on_host(x)? {
        let sign = if fine { 0.0f32 } else { f32::NAN };
        return Ok(Tensor::new(sign, &Device::Cpu)?);
    }
    let banned = x.eq(f32::NEG_INFINITY)?;
    let numbers = banned.where_cond(&x.zeros_like()?, &(x * 0.0)?)?;
    Ok((numbers.sum_all()? + verdict(&x.max(D::Minus1)?)?)?)
}

/// The sum of `0 * x`: 0 if all of `x` is finite, else NaN.
fn verdict(x: &Tensor) -> Result<Tensor> {
    Ok((x * 0.0)?.sum_all()?)
}

/// Tests rows in host memory in place; none for a tensor on a device.
fn on_host(x: &Tensor) -> Result<Option<bool>> {
    let width = x.dim(D::Minus1)?.max(1);
    let (storage, layout) = lent(x);
    let (Storage::Cpu(held), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
        return Ok(None);
    };
    if x.dtype() != DType::F32 {
        return Ok(None);
    }
    let rows = &held.as_slice::<f32>()?[start..end];
    Ok(Some(rows.chunks(width).all(distribution)))
}

/// Whether all of these verdicts are 0; reads back one number.
pub fn passed(verdicts: &[Tensor]) -> Result<bool> {
    let Some(first) = verdicts.first() else {
        return Ok(true);
    };
    let sum = verdicts[1..].iter().try_fold(first.clone(), |sum, more| {
        sum + more.on_device(first.device())?
    })?;
    // False for NaN, which is equal to nothing.
    #[allow(clippy::float_cmp)]
    Ok(sum.host_scalar::<f32>()? == 0.0)
}

/// The sites of the residual stream.
const STREAM: [Site; 4] = [Site::Embed, Site::ResidPre, Site::ResidMid, Site::ResidPost];

/// A tap that tests every site, and records the first address whose value is not finite.
#[derive(Clone, Copy, Debug, Default)]
pub struct NonFiniteFinder {
    /// The first address with a value that is not finite.
    pub first: Option<Address>,
}

impl Tap for NonFiniteFinder {
    fn visit(&mut self, at: Address, x: Tensor) -> Result<Tensor> {
        let scores = matches!(at.site, Site::AttnScores | Site::LogitsRaw | Site::Logits);
        let verdict = if scores {
            let last = x.dim(D::Minus1)?;
            logits(&x.to_dtype(DType::F32)?.reshape(((), last))?)?
        } else if STREAM.contains(&at.site) {
            stream(&x)?
        } else {
            values(&x)?
        };
        if passed(&[verdict])? {
            return Ok(x);
        }
        self.first = Some(at);
        Err(Error::Cancelled)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn row(values: &[f32]) -> Tensor {
        Tensor::new(values, &Device::Cpu)
            .unwrap()
            .unsqueeze(0)
            .unwrap()
    }

    fn fine(verdict: Tensor) -> bool {
        passed(&[verdict]).unwrap()
    }

    #[test]
    fn nan_and_infinity_never_pass() {
        for bad in [f32::NAN, f32::INFINITY] {
            let x = row(&[1.0, bad, -2.0]);
            assert!(!fine(stream(&x).unwrap()) && !fine(values(&x).unwrap()));
            assert!(!fine(logits(&x).unwrap()) && !distribution(&[0.0, bad]));
            assert!(!all(&[0.0, bad]));
        }
        let x = row(&[1.0, f32::NEG_INFINITY]);
        assert!(!fine(stream(&x).unwrap()) && !fine(values(&x).unwrap()));
        let x = row(&[1.0, 2.0]);
        assert!(fine(stream(&x).unwrap()) && fine(values(&x).unwrap()));
    }

    #[test]
    fn a_banned_token_passes_and_a_row_of_them_does_not() {
        let x = row(&[1.0, f32::NEG_INFINITY, -2.0]);
        assert!(fine(logits(&x).unwrap()));
        assert!(!fine(logits(&row(&[f32::NEG_INFINITY; 3])).unwrap()));
        // Takes the path for devices: a view that is not contiguous is not tested in place.
        let turned = |x: &[[f32; 2]; 3]| {
            let x = Tensor::new(x, &Device::Cpu).unwrap().t().unwrap();
            fine(logits(&x).unwrap())
        };
        assert!(turned(&[[1.0, 2.0], [f32::NEG_INFINITY, 3.0], [0.0, 0.0]]));
        assert!(!turned(&[[1.0, 2.0], [f32::NAN, 3.0], [0.0, 0.0]]));
        assert!(!turned(&[[1.0, 2.0], [f32::INFINITY, 3.0], [0.0, 0.0]]));
        assert!(!turned(&[[f32::NEG_INFINITY, 2.0]; 3]));
    }

    #[test]
    fn a_stream_whose_squares_overflow_has_no_norm() {
        let x = row(&[1e30, 1.0]);
        assert!(fine(values(&x).unwrap()) && !fine(stream(&x).unwrap()));
    }

    #[test]
    fn what_is_not_finite_is_never_the_largest() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let most = [-3.0, bad, -7.0].into_iter().max_by(|a, b| order(*a, *b));
            assert_eq!(most, Some(-3.0));
        }
    }

    #[test]
    fn several_verdicts_are_one() {
        let (good, bad) = (row(&[1.0]), row(&[f32::NAN]));
        let of = |x: &Tensor| values(x).unwrap();
        assert!(passed(&[of(&good), of(&good)]).unwrap());
        assert!(!passed(&[of(&good), of(&bad)]).unwrap());
        assert!(passed(&[]).unwrap());
    }
}
