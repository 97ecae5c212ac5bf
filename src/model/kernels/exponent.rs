//! Exponentials and hyperbolic tangents of vectors.
//!
//! Invariant: the relative error of an exponential is below 1e-7 on every machine. To add a function, build it on
//! [`exp_parts`], which has no branches.
#![allow(unsafe_code)] // Vector instructions; who calls has made sure that the machine has them (machine.rs).

use super::lanes::Lanes;

/// 1.5 * 2^23: adding it to a small number rounds to an integer, which is then in the low bits.
const ROUND: f32 = 12_582_912.0;

/// The logarithm of two in two parts; the first has few bits, so that its product with a small integer is exact.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];

/// Smaller arguments are replaced by this; its exponential is about 1e-38.
pub(super) const SMALLEST: f32 = -87.0;

/// Returns `t` and a power of two `p` with `e^x = p (1 + t)`, for x from -87 to 87: the power from the bits of a rounded
/// multiple of ln 2, `t` by a polynomial (that of Cephes' `expf`).
#[inline(always)]
unsafe fn exp_parts<S: Lanes>(x: S::F) -> (S::F, S::F) {
    // SAFETY: the caller's machine has the lanes.
    unsafe {
        let shifted = S::fma(x, S::splat(std::f32::consts::LOG2_E), S::splat(ROUND));
        let whole = S::minus(shifted, S::splat(ROUND));
        let rest = S::fma(whole, S::splat(-LN_2[0]), x);
        let rest = S::fma(whole, S::splat(-LN_2[1]), rest);
        let mut sum = S::splat(1.987_569_2e-4);
        for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
            sum = S::fma(sum, rest, S::splat(coefficient));
        }
        let t = S::fma(sum, S::mul(rest, rest), rest);
        let biased = S::sub(S::bits(shifted), S::ints(ROUND.to_bits() as i32 - 127));
        (t, S::from_bits(S::left32(biased, 23)))
    }
}

/// `e^x` for `x <= 0`.
#[inline(always)]
pub(super) unsafe fn exp<S: Lanes>(x: S::F) -> S::F {
    // SAFETY: the caller's machine has the lanes.
    unsafe {
        let (t, power) = exp_parts::<S>(S::max(x, S::splat(SMALLEST)));
        S::mul(S::add(t, S::splat(1.0)), power)
    }
}

/// `e^x` to about 2 units in the last place, for any x: the square of `e^(x / 2)`, which has no subnormal numbers on its way to
/// zero, nor an infinite one before its square is. What is not a number stays so.
#[inline(always)]
pub(super) unsafe fn exp_of_any<S: Lanes>(x: S::F) -> S::F {
    // SAFETY: the caller's machine has the lanes.
    unsafe {
        let half = S::mul(x, S::splat(0.5));
        let half = S::max(S::splat(-80.0), S::min(S::splat(60.0), half));
        let (t, power) = exp_parts::<S>(half);
        let half = S::mul(S::add(t, S::splat(1.0)), power);
        S::mul(half, half)
    }
}

/// `tanh x`, from `e^2x - 1`, which is exact to its last bits even near zero. NaN stays NaN.
#[inline(always)]
pub(super) unsafe fn tanh<S: Lanes>(x: S::F) -> S::F {
    // SAFETY: the caller's machine has the lanes.
    unsafe {
        // From 10 on the result is one. The order of arguments makes NaN stay NaN on every machine.
        let near = S::max(S::splat(-10.0), S::min(S::splat(10.0), x));
        let (t, power) = exp_parts::<S>(S::add(near, near));
        let less_one = S::fma(power, t, S::minus(power, S::splat(1.0)));
        S::over(less_one, S::add(less_one, S::splat(2.0)))
    }
}
