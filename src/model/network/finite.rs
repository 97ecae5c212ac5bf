//! Whether numbers are finite: the one place that decides it.
//!
//! Invariant: a test is one reduction where the tensor lies, and reads back one number; NaN and infinity never pass. Minus
//! infinity passes in logits alone, where it bans a token. To test another kind of value, add a function that ends in
//! `verdict`.

use std::cmp::Ordering;
use std::fmt;

use candle_core::{D, DType, Device, Storage, Tensor};

use super::site::{Address, Site};
use super::tap::Tap;
use crate::error::{Error, Result};

/// A tensor with values that are not finite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonFinite {
    /// Its name in the checkpoint.
    pub name: String,
    /// How many values, or blocks of values.
    pub count: usize,
    /// Whether the file holds them so; otherwise the dtype made them so.
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

/// What stands where a number should and is none.
pub const NOT_FINITE: &str = "not finite";

/// Whether every number is one.
pub fn all(values: &[f32]) -> bool {
    values.iter().all(|v| v.is_finite())
}

/// Whether a row of logits or log-probabilities is a distribution: minus infinity bans a token, but not all of them.
pub fn distribution(row: &[f32]) -> bool {
    let (mut fine, mut some) = (true, false);
    for z in row {
        // Not a number is less than nothing.
        fine &= *z < f32::INFINITY;
        some |= *z > f32::NEG_INFINITY;
    }
    fine && some
}

/// The order of numbers, for sorting: what is not finite is less than everything, so that it is never the largest.
pub fn order(a: impl Into<f64>, b: impl Into<f64>) -> Ordering {
    let (a, b) = (a.into(), b.into());
    let lowest = |x: f64| if x.is_finite() { x } else { f64::NEG_INFINITY };
    lowest(a).total_cmp(&lowest(b))
}

/// 0 where a stream `[.., width]` and the sum of squares of each of its rows, which every norm takes, are finite, and NaN
/// elsewhere; a scalar on its device.
pub fn stream(x: &Tensor) -> Result<Tensor> {
    let squares = x.to_dtype(DType::F32)?.sqr()?.sum(D::Minus1)?;
    verdict(&squares)
}

/// For every row of a stream `[rows, tokens, width]` whether it passes that test.
///
/// # Errors
///
/// When the device does not give it.
pub fn rows(x: &Tensor) -> Result<Vec<bool>> {
    let squares = x.to_dtype(DType::F32)?.sqr()?.sum(D::Minus1)?;
    let verdicts = (squares * 0.0)?.sum(D::Minus1)?.to_vec1::<f32>()?;
    Ok(verdicts.into_iter().map(f32::is_finite).collect())
}

/// The verdict on any values: 0 where all are finite, else NaN; a scalar on their device.
pub fn values(x: &Tensor) -> Result<Tensor> {
    verdict(&x.to_dtype(DType::F32)?)
}

/// The verdict on logits `[.., vocab]`, f32: 0 where they are numbers or -inf (a token that cannot come), else NaN.
pub fn logits(x: &Tensor) -> Result<Tensor> {
    if let Some(fine) = on_host(x)? {
        let sign = if fine { 0.0f32 } else { f32::NAN };
        return Ok(Tensor::new(sign, &Device::Cpu)?);
    }
    let banned = x.eq(f32::NEG_INFINITY)?;
    let numbers = banned.where_cond(&x.zeros_like()?, &(x * 0.0)?)?;
    Ok((numbers.sum_all()? + verdict(&x.max(D::Minus1)?)?)?)
}

/// Zero times a number is zero, and zero times what is none is not: the sum of the products.
fn verdict(x: &Tensor) -> Result<Tensor> {
    Ok((x * 0.0)?.sum_all()?)
}

/// Rows that lie in the memory of the host, looked at in place.
fn on_host(x: &Tensor) -> Result<Option<bool>> {
    let width = x.dim(D::Minus1)?.max(1);
    let (storage, layout) = x.storage_and_layout();
    let (Storage::Cpu(held), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
        return Ok(None);
    };
    if x.dtype() != DType::F32 {
        return Ok(None);
    }
    let rows = &held.as_slice::<f32>()?[start..end];
    Ok(Some(rows.chunks(width).all(distribution)))
}

/// Whether all of these verdicts are good; one number is read back.
pub fn passed(verdicts: &[Tensor]) -> Result<bool> {
    let Some(first) = verdicts.first() else {
        return Ok(true);
    };
    let sum = verdicts[1..]
        .iter()
        .try_fold(first.clone(), |sum, more| sum + more)?;
    // NaN is not equal to anything.
    #[allow(clippy::float_cmp)]
    Ok(sum.to_scalar::<f32>()? == 0.0)
}

/// The residual stream.
const STREAM: [Site; 4] = [Site::Embed, Site::ResidPre, Site::ResidMid, Site::ResidPost];

/// A tap that looks at every site, stops at the first value that is not finite, and keeps where that was.
#[derive(Clone, Copy, Debug, Default)]
pub struct NonFiniteFinder {
    /// Where it began.
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
        // The way of other devices: a view that is not contiguous is not looked at in place.
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
