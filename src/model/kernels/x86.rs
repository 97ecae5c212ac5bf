//! The vectors of x86-64: AVX-512 and AVX2.
//!
//! Invariant: that of [`Lanes`]; AVX-512 sums in the order of its hand-written loops.
#![allow(unsafe_code)] // Each block says what it relies on.

#[allow(clippy::wildcard_imports)] // an instruction set
use std::arch::x86_64::*;

use super::lanes::{Lanes, Strided, Width};
use super::tiles;

/// The instructions AVX-512 F, VL, BW and VNNI.
#[derive(Clone, Copy)]
pub struct Avx512;

impl Lanes for Avx512 {
    const N: usize = 16;
    type F = __m512;
    type I = __m512i;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        // SAFETY: the machine has the instructions and the pointer has as many values, as [`Lanes`] requires.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        // SAFETY: the machine has the instructions and the pointer has as many values, as [`Lanes`] requires.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::F {
        // SAFETY: the machine has the instructions and the pointer has as many values, as [`Lanes`] requires.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn store(v: Self::F, p: *mut f32) {
        // SAFETY: the machine has the instructions and the pointer has as many values, as [`Lanes`] requires.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn sum(v: Self::F) -> f32 {
        // In the order of `add!`.
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe {
            let low = _mm512_castps512_ps256(v);
            let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v)));
            let eight = _mm256_add_ps(low, high);
            let four = _mm256_add_ps(eight, _mm256_permute_ps::<0b01_00_11_10>(eight));
            let two = _mm256_add_ps(four, _mm256_permute_ps::<0b10_11_00_01>(four));
            let one = _mm_add_ss(_mm256_castps256_ps128(two), _mm256_extractf128_ps::<1>(two));
            _mm_cvtss_f32(one)
        }
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn minus(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn over(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn greater(a: Self::F, b: Self::F) -> u32 {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        u32::from(unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) })
    }
    #[inline(always)]
    unsafe fn bits(v: Self::F) -> Self::I {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm512_castps_si512(v) }
    }
    #[inline(always)]
    unsafe fn from_bits(v: Self::I) -> Self::F {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm512_castsi512_ps(v) }
    }
    #[inline(always)]
    unsafe fn tile<const X: usize>(
        width: Width,
        w: Strided<u8>,
        x: Strided<f32>,
        depth: usize,
        sums: Strided<f32>,
    ) -> bool {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe {
            match (width, X) {
                (Width::F32, 1) => tiles::f32_1(w, x, depth, sums),
                (Width::F32, 3) => tiles::f32_3(w, x, depth, sums),
                (Width::F32, 6) => tiles::f32_6(w, x, depth, sums),
                (Width::F16, 1) => tiles::f16_1(w, x, depth, sums),
                (Width::F16, 3) => tiles::f16_3(w, x, depth, sums),
                (Width::F16, 6) => tiles::f16_6(w, x, depth, sums),
                (Width::Bf16, 1) => tiles::bf16_1(w, x, depth, sums),
                (Width::Bf16, 3) => tiles::bf16_3(w, x, depth, sums),
                (Width::Bf16, 6) => tiles::bf16_6(w, x, depth, sums),
                _ => return false,
            }
        }
        true
    }
    #[inline(always)]
    fn fetch(p: *const u8) {
        // SAFETY: a prefetch reads nothing and faults nowhere.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn ints(x: i32) -> Self::I {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn load_ints(p: *const u8) -> Self::I {
        // SAFETY: the machine has the instructions and the pointer has as many values, as [`Lanes`] requires.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm512_sub_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn left16<const BY: u32>(v: Self::I) -> Self::I {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm512_slli_epi16::<BY>(v) }
    }
    #[inline(always)]
    unsafe fn right16<const BY: u32>(v: Self::I) -> Self::I {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm512_srli_epi16::<BY>(v) }
    }
    #[inline(always)]
    unsafe fn signed16<const BY: u32>(v: Self::I) -> Self::I {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm512_srai_epi16::<BY>(v) }
    }
    #[inline(always)]
    unsafe fn right32(v: Self::I, by: u32) -> Self::I {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm512_srl_epi32(v, _mm_cvtsi32_si128(by as i32)) }
    }
    #[inline(always)]
    unsafe fn left32(v: Self::I, by: u32) -> Self::I {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm512_sll_epi32(v, _mm_cvtsi32_si128(by as i32)) }
    }
    #[inline(always)]
    unsafe fn pairs(sum: Self::I, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm512_dpwssd_epi32(sum, a, b) }
    }
    #[inline(always)]
    unsafe fn pairs_with(sum: Self::I, a: Self::I, b: *const i32) -> Self::I {
        /// One instruction with its operand in memory. The compiler makes three of the intrinsic, because these have a shorter
        /// way to the sum; where many sums are under way, only their number counts.
        #[inline]
        #[target_feature(enable = "avx512f,avx512vnni")]
        unsafe fn dot(sum: __m512i, a: __m512i, b: *const i32) -> __m512i {
            let mut sum = sum;
            // SAFETY: reads the four bytes that the caller promises; nothing else is touched.
            unsafe {
                std::arch::asm!(
                    "vpdpwssd {sum}, {a}, dword ptr [{b}]{{1to16}}",
                    sum = inout(zmm_reg) sum,
                    a = in(zmm_reg) a,
                    b = in(reg) b,
                    options(pure, readonly, nostack, preserves_flags),
                );
            }
            sum
        }
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { dot(sum, a, b) }
    }
    #[inline(always)]
    unsafe fn to_f(v: Self::I) -> Self::F {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm512_cvtepi32_ps(v) }
    }
}

/// The instructions AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub struct Avx2;

impl Lanes for Avx2 {
    const N: usize = 8;
    type F = __m256;
    type I = __m256i;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        // SAFETY: the machine has the instructions and the pointer has as many values, as [`Lanes`] requires.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        // SAFETY: the machine has the instructions and the pointer has as many values, as [`Lanes`] requires.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::F {
        // SAFETY: the machine has the instructions and the pointer has as many values, as [`Lanes`] requires.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn store(v: Self::F, p: *mut f32) {
        // SAFETY: the machine has the instructions and the pointer has as many values, as [`Lanes`] requires.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn sum(v: Self::F) -> f32 {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn minus(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn over(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn greater(a: Self::F, b: Self::F) -> u32 {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        (unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) }) as u32
    }
    #[inline(always)]
    unsafe fn bits(v: Self::F) -> Self::I {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm256_castps_si256(v) }
    }
    #[inline(always)]
    unsafe fn from_bits(v: Self::I) -> Self::F {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm256_castsi256_ps(v) }
    }
    #[inline(always)]
    fn fetch(p: *const u8) {
        // SAFETY: a prefetch reads nothing and faults nowhere.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn ints(x: i32) -> Self::I {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm256_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn load_ints(p: *const u8) -> Self::I {
        // SAFETY: the machine has the instructions and the pointer has as many values, as [`Lanes`] requires.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm256_and_si256(a, b) }
    }
    #[inline(always)]
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm256_or_si256(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm256_sub_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn left16<const BY: u32>(v: Self::I) -> Self::I {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm256_sll_epi16(v, _mm_cvtsi32_si128(BY as i32)) }
    }
    #[inline(always)]
    unsafe fn right16<const BY: u32>(v: Self::I) -> Self::I {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm256_srl_epi16(v, _mm_cvtsi32_si128(BY as i32)) }
    }
    #[inline(always)]
    unsafe fn signed16<const BY: u32>(v: Self::I) -> Self::I {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm256_sra_epi16(v, _mm_cvtsi32_si128(BY as i32)) }
    }
    #[inline(always)]
    unsafe fn right32(v: Self::I, by: u32) -> Self::I {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm256_srl_epi32(v, _mm_cvtsi32_si128(by as i32)) }
    }
    #[inline(always)]
    unsafe fn left32(v: Self::I, by: u32) -> Self::I {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm256_sll_epi32(v, _mm_cvtsi32_si128(by as i32)) }
    }
    #[inline(always)]
    unsafe fn pairs(sum: Self::I, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)) }
    }
    #[inline(always)]
    unsafe fn to_f(v: Self::I) -> Self::F {
        // SAFETY: the machine has the instructions, as [`Lanes`] requires.
        unsafe { _mm256_cvtepi32_ps(v) }
    }
}
