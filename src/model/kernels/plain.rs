//! Vectors in plain Rust: for any machine, and the reference for tests of the others.
//!
//! Invariant: no instruction is named; the compiler chooses.
#![allow(unsafe_code)] // Each block says what it relies on.

use super::lanes::{Lanes, from_bf16, from_f16};

/// Vectors in plain Rust: for any machine, and the reference for tests of the others.
#[derive(Clone, Copy)]
pub struct Plain;

const P: usize = 8;

fn halves(v: u32, f: impl Fn(u16) -> u16) -> u32 {
    u32::from(f(v as u16)) | u32::from(f((v >> 16) as u16)) << 16
}

impl Lanes for Plain {
    const N: usize = P;
    type F = [f32; P];
    type I = [u32; P];

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        [x; P]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        // SAFETY: the pointer has as many values, as [`Lanes`] requires.
        unsafe { p.cast::<Self::F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        // SAFETY: the pointer has as many values, as [`Lanes`] requires.
        unsafe { p.cast::<[u16; P]>().read_unaligned() }.map(from_f16)
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::F {
        // SAFETY: the pointer has as many values, as [`Lanes`] requires.
        unsafe { p.cast::<[u16; P]>().read_unaligned() }.map(from_bf16)
    }
    #[inline(always)]
    unsafe fn store(v: Self::F, p: *mut f32) {
        // SAFETY: the pointer has as many values, as [`Lanes`] requires.
        unsafe { p.cast::<Self::F>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn sum(v: Self::F) -> f32 {
        let four: [f32; 4] = std::array::from_fn(|i| v[i] + v[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn minus(a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn over(a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn greater(a: Self::F, b: Self::F) -> u32 {
        (0..P).map(|i| u32::from(a[i] > b[i]) << i).sum()
    }
    #[inline(always)]
    unsafe fn bits(v: Self::F) -> Self::I {
        v.map(f32::to_bits)
    }
    #[inline(always)]
    unsafe fn from_bits(v: Self::I) -> Self::F {
        v.map(f32::from_bits)
    }
    #[inline(always)]
    unsafe fn ints(x: i32) -> Self::I {
        [x as u32; P]
    }
    #[inline(always)]
    unsafe fn load_ints(p: *const u8) -> Self::I {
        // SAFETY: the pointer has as many values, as [`Lanes`] requires.
        unsafe { p.cast::<Self::I>().read_unaligned() }.map(u32::from_le)
    }
    #[inline(always)]
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I {
        std::array::from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::I, b: Self::I) -> Self::I {
        std::array::from_fn(|i| a[i].wrapping_sub(b[i]))
    }
    #[inline(always)]
    unsafe fn left16<const BY: u32>(v: Self::I) -> Self::I {
        v.map(|v| halves(v, |h| h << BY))
    }
    #[inline(always)]
    unsafe fn right16<const BY: u32>(v: Self::I) -> Self::I {
        v.map(|v| halves(v, |h| h >> BY))
    }
    #[inline(always)]
    unsafe fn signed16<const BY: u32>(v: Self::I) -> Self::I {
        v.map(|v| halves(v, |h| (h as i16 >> BY) as u16))
    }
    #[inline(always)]
    unsafe fn right32(v: Self::I, by: u32) -> Self::I {
        v.map(|v| v >> by)
    }
    #[inline(always)]
    unsafe fn left32(v: Self::I, by: u32) -> Self::I {
        v.map(|v| v << by)
    }
    #[inline(always)]
    unsafe fn pairs(sum: Self::I, a: Self::I, b: Self::I) -> Self::I {
        std::array::from_fn(|i| {
            let low = i32::from(a[i] as i16) * i32::from(b[i] as i16);
            let high = i32::from((a[i] >> 16) as i16) * i32::from((b[i] >> 16) as i16);
            sum[i].wrapping_add((low + high) as u32)
        })
    }
    #[inline(always)]
    unsafe fn to_f(v: Self::I) -> Self::F {
        v.map(|v| v as i32 as f32)
    }
}
