//! The vectors of a machine, as the kernels use them: a number of lanes of f32 or of 32 bits.
//!
//! Invariant: all implementations compute the same results, except for the rounding of fused products and the order of sums.
//! To add a machine, implement [`Lanes`] in a file of its own and name it in [`super::machine`].
#![allow(unsafe_code)] // Each block says what it relies on.

/// Vectors of `N` lanes; sixteen is a multiple of `N`.
///
/// # Safety
///
/// Only for machines that have the instructions; a pointer must point to `N` values (or to `size_of` a vector).
#[allow(clippy::missing_safety_doc)] // one contract for all of them, above
pub trait Lanes: Copy {
    const N: usize;
    /// `N` numbers (f32).
    type F: Copy;
    /// `N` words of 32 bits, also used as `2 * N` words of 16.
    type I: Copy;

    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn load_f16(p: *const u16) -> Self::F;
    unsafe fn load_bf16(p: *const u16) -> Self::F;
    unsafe fn store(v: Self::F, p: *mut f32);
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// `a b + c`.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    unsafe fn sum(v: Self::F) -> f32;
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    unsafe fn minus(a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    unsafe fn over(a: Self::F, b: Self::F) -> Self::F;
    /// The larger of each pair; NaN if `b` is NaN; if only `a` is NaN, either may be the result.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// The smaller of each pair, with the same rule for NaN.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// Which lanes of `a` are greater than those of `b`, one bit for each lane; false for NaN.
    unsafe fn greater(a: Self::F, b: Self::F) -> u32;
    unsafe fn bits(v: Self::F) -> Self::I;
    unsafe fn from_bits(v: Self::I) -> Self::F;
    /// Adds the products of four rows at `w` and `X` rows at `x`, over `depth` columns (a multiple of `N`), to four numbers in
    /// each of `X` rows of `sums`; `false` if the machine has no better loop than the generic one.
    #[inline(always)]
    unsafe fn tile<const X: usize>(
        _width: Width,
        _w: Strided<u8>,
        _x: Strided<f32>,
        _depth: usize,
        _sums: Strided<f32>,
    ) -> bool {
        false
    }

    /// Fetches the cache line at an address, of which nothing is required: it may lie past the end of what is read.
    #[inline(always)]
    fn fetch(_p: *const u8) {}

    unsafe fn ints(x: i32) -> Self::I;
    unsafe fn load_ints(p: *const u8) -> Self::I;
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn sub(a: Self::I, b: Self::I) -> Self::I;
    /// Shifts each 16-bit half to the left.
    unsafe fn left16<const BY: u32>(v: Self::I) -> Self::I;
    /// Shifts each 16-bit half to the right, filling with zeros.
    unsafe fn right16<const BY: u32>(v: Self::I) -> Self::I;
    /// Shifts each 16-bit half to the right, filling with the sign.
    unsafe fn signed16<const BY: u32>(v: Self::I) -> Self::I;
    /// Shifts each word to the right, filling with zeros.
    unsafe fn right32(v: Self::I, by: u32) -> Self::I;
    /// Shifts each word to the left.
    unsafe fn left32(v: Self::I, by: u32) -> Self::I;
    /// Adds to every lane of `sum` the products of both signed 16-bit halves.
    unsafe fn pairs(sum: Self::I, a: Self::I, b: Self::I) -> Self::I;
    /// As [`Lanes::pairs`], with the same word of memory in every lane of `b`: for many sums at once, which need not wait for each
    /// other.
    #[inline(always)]
    unsafe fn pairs_with(sum: Self::I, a: Self::I, b: *const i32) -> Self::I {
        // SAFETY: the caller guarantees that the machine has the instructions and that `b` points to four bytes.
        unsafe { Self::pairs(sum, a, Self::ints(b.read_unaligned())) }
    }
    /// Converts signed words to f32.
    unsafe fn to_f(v: Self::I) -> Self::F;
}

/// The type of stored numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Width {
    F32,
    F16,
    Bf16,
}

/// A pointer to rows, and the bytes from one row to the next.
#[derive(Clone, Copy)]
pub struct Strided<T> {
    pub start: *const T,
    pub bytes: usize,
}

/// Widens an f16 number, given as bits.
pub fn from_f16(bits: u16) -> f32 {
    let (sign, rest) = (u32::from(bits >> 15) << 31, u32::from(bits & 0x7fff));
    if rest >= 0x7c00 {
        return f32::from_bits(sign | 0x7f80_0000 | (rest << 13));
    }
    // Correct for subnormal numbers as well: the exponents differ by a factor of 2^112.
    f32::from_bits(sign | (rest << 13)) * f32::from_bits(0x7780_0000)
}

/// Widens a bf16 number, given as bits.
pub fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}
