//! The vectors of a machine, as the kernels use them: some lanes of f32 or of 32 bits.
//!
//! Invariant: every implementation computes the same, but for the rounding of a fused product and the order of a sum.
//! To add a machine, implement [`Lanes`] in a file of its own and name it in [`super::machine`].
#![allow(unsafe_code)] // SAFETY of the whole file: who calls has made sure that the machine has the instructions (machine.rs).

/// Vectors of `N` lanes. Sixteen is a multiple of `N`.
///
/// # Safety
/// Only for machines that have the instructions; a pointer must have `N` values (or `size_of` a vector) behind it.
#[allow(clippy::missing_safety_doc)] // one contract for all of them, above
pub trait Lanes: Copy {
    const N: usize;
    /// `N` numbers.
    type F: Copy;
    /// `N` times 32 bits, which are also 2 `N` times 16.
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
    /// The larger of each pair; where one of them is not a number, either may be the result.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// The smaller, likewise.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// Which lanes of `a` are greater than those of `b`, one bit a lane; what is not a number is neither.
    unsafe fn greater(a: Self::F, b: Self::F) -> u32;
    unsafe fn bits(v: Self::F) -> Self::I;
    unsafe fn from_bits(v: Self::I) -> Self::F;
    /// Adds to four numbers of each of `X` rows of `sums` the products of four rows at `w` and `X` rows at `x`, over `depth`
    /// columns, a multiple of `N`; `false` where the machine has no better way than the plain one.
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

    unsafe fn ints(x: i32) -> Self::I;
    unsafe fn load_ints(p: *const u8) -> Self::I;
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn sub(a: Self::I, b: Self::I) -> Self::I;
    /// The halves of 16 bits, shifted left.
    unsafe fn left16<const BY: u32>(v: Self::I) -> Self::I;
    /// The halves of 16 bits, shifted right, zeros coming in.
    unsafe fn right16<const BY: u32>(v: Self::I) -> Self::I;
    /// The halves of 16 bits, shifted right, the sign coming in.
    unsafe fn signed16<const BY: u32>(v: Self::I) -> Self::I;
    /// 32 bits, shifted right, zeros coming in.
    unsafe fn right32(v: Self::I, by: u32) -> Self::I;
    /// 32 bits, shifted left.
    unsafe fn left32(v: Self::I, by: u32) -> Self::I;
    /// `sum`, and for every lane the products of both halves of 16 bits, signed, added to it.
    unsafe fn pairs(sum: Self::I, a: Self::I, b: Self::I) -> Self::I;
    /// Signed 32 bits as numbers.
    unsafe fn to_f(v: Self::I) -> Self::F;
}

/// How numbers are stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Width {
    F32,
    F16,
    Bf16,
}

/// Rows, and the bytes from one to the next.
#[derive(Clone, Copy)]
pub struct Strided<T> {
    pub start: *const T,
    pub bytes: usize,
}

/// One number of sixteen bits, IEEE 754.
pub fn from_f16(bits: u16) -> f32 {
    let (sign, rest) = (u32::from(bits >> 15) << 31, u32::from(bits & 0x7fff));
    if rest >= 0x7c00 {
        return f32::from_bits(sign | 0x7f80_0000 | (rest << 13));
    }
    // Subnormals and all: the exponents differ by a factor of 2^112.
    f32::from_bits(sign | (rest << 13)) * f32::from_bits(0x7780_0000)
}

/// One number of the upper sixteen bits of an f32.
pub fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}
