//! The vectors of 64-bit ARM.
//!
//! Invariant: that of [`Lanes`]. So far only compiled, and measured on no machine.
#![allow(unsafe_code)] // Each block says what it relies on.

#[allow(clippy::wildcard_imports)] // an instruction set
use std::arch::aarch64::*;

use super::lanes::{Lanes, from_f16};

/// The NEON instructions of every 64-bit ARM.
#[derive(Clone, Copy)]
pub struct Neon;

impl Lanes for Neon {
    const N: usize = 4;
    type F = float32x4_t;
    type I = int32x4_t;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        // SAFETY: every 64-bit ARM has the instructions.
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        // SAFETY: every 64-bit ARM has the instructions; the pointer has as many values, as [`Lanes`] requires.
        unsafe { vld1q_f32(p) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        // SAFETY: every 64-bit ARM has the instructions; the pointer has as many values, as [`Lanes`] requires.
        let four = unsafe { p.cast::<[u16; 4]>().read_unaligned() }.map(from_f16);
        // SAFETY: every 64-bit ARM has the instructions.
        unsafe { vld1q_f32(four.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::F {
        // SAFETY: every 64-bit ARM has the instructions; the pointer has as many values, as [`Lanes`] requires.
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p))) }
    }
    #[inline(always)]
    unsafe fn store(v: Self::F, p: *mut f32) {
        // SAFETY: every 64-bit ARM has the instructions; the pointer has as many values, as [`Lanes`] requires.
        unsafe { vst1q_f32(p, v) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: every 64-bit ARM has the instructions.
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: every 64-bit ARM has the instructions.
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    unsafe fn sum(v: Self::F) -> f32 {
        // SAFETY: every 64-bit ARM has the instructions.
        unsafe { vaddvq_f32(v) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: every 64-bit ARM has the instructions.
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn minus(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: every 64-bit ARM has the instructions.
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn over(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: every 64-bit ARM has the instructions.
        unsafe { vdivq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: every 64-bit ARM has the instructions.
        unsafe { vmaxq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: every 64-bit ARM has the instructions.
        unsafe { vminq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn greater(a: Self::F, b: Self::F) -> u32 {
        // SAFETY: every 64-bit ARM has the instructions.
        unsafe {
            let each = vld1q_u32([1u32, 2, 4, 8].as_ptr());
            vaddvq_u32(vandq_u32(vcgtq_f32(a, b), each))
        }
    }
    #[inline(always)]
    unsafe fn bits(v: Self::F) -> Self::I {
        // SAFETY: every 64-bit ARM has the instructions.
        unsafe { vreinterpretq_s32_f32(v) }
    }
    #[inline(always)]
    unsafe fn from_bits(v: Self::I) -> Self::F {
        // SAFETY: every 64-bit ARM has the instructions.
        unsafe { vreinterpretq_f32_s32(v) }
    }
    #[inline(always)]
    unsafe fn ints(x: i32) -> Self::I {
        // SAFETY: every 64-bit ARM has the instructions.
        unsafe { vdupq_n_s32(x) }
    }
    #[inline(always)]
    unsafe fn load_ints(p: *const u8) -> Self::I {
        // SAFETY: every 64-bit ARM has the instructions; the pointer has as many values, as [`Lanes`] requires.
        unsafe { vreinterpretq_s32_u8(vld1q_u8(p)) }
    }
    #[inline(always)]
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: every 64-bit ARM has the instructions.
        unsafe { vandq_s32(a, b) }
    }
    #[inline(always)]
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: every 64-bit ARM has the instructions.
        unsafe { vorrq_s32(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: every 64-bit ARM has the instructions.
        unsafe { vsubq_s32(a, b) }
    }
    #[inline(always)]
    unsafe fn left16<const BY: u32>(v: Self::I) -> Self::I {
        // SAFETY: every 64-bit ARM has the instructions.
        unsafe {
            let by = vdupq_n_s16(BY as i16);
            vreinterpretq_s32_s16(vshlq_s16(vreinterpretq_s16_s32(v), by))
        }
    }
    #[inline(always)]
    unsafe fn right16<const BY: u32>(v: Self::I) -> Self::I {
        // SAFETY: every 64-bit ARM has the instructions.
        unsafe {
            let by = vdupq_n_s16(-(BY as i16));
            vreinterpretq_s32_u16(vshlq_u16(vreinterpretq_u16_s32(v), by))
        }
    }
    #[inline(always)]
    unsafe fn signed16<const BY: u32>(v: Self::I) -> Self::I {
        // SAFETY: every 64-bit ARM has the instructions.
        unsafe {
            let by = vdupq_n_s16(-(BY as i16));
            vreinterpretq_s32_s16(vshlq_s16(vreinterpretq_s16_s32(v), by))
        }
    }
    #[inline(always)]
    unsafe fn right32(v: Self::I, by: u32) -> Self::I {
        // SAFETY: every 64-bit ARM has the instructions.
        unsafe {
            let by = vdupq_n_s32(-(by as i32));
            vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(v), by))
        }
    }
    #[inline(always)]
    unsafe fn left32(v: Self::I, by: u32) -> Self::I {
        // SAFETY: every 64-bit ARM has the instructions.
        unsafe { vshlq_s32(v, vdupq_n_s32(by as i32)) }
    }
    #[inline(always)]
    unsafe fn pairs(sum: Self::I, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: every 64-bit ARM has the instructions.
        unsafe {
            let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
            let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
            vaddq_s32(sum, vpaddq_s32(low, vmull_high_s16(a, b)))
        }
    }
    #[inline(always)]
    unsafe fn to_f(v: Self::I) -> Self::F {
        // SAFETY: every 64-bit ARM has the instructions.
        unsafe { vcvtq_f32_s32(v) }
    }
}
