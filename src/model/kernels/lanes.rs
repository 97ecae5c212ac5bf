//! The vectors of a machine, as the kernels use them: some lanes of f32 or of 32 bits.
//!
//! Invariant: every implementation computes the same, but for the rounding of a fused product and the order of a sum.
//! To add a machine, implement [`Lanes`] and name it in [`super::machine`].
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
    /// Adds to four numbers of each of `X` rows of `sums` the products of four rows at `w` and `X` rows at `x`, over `depth`
    /// columns, a multiple of `N`; `false` where the machine has no better way than the plain one.
    #[inline(always)]
    unsafe fn tile<const X: usize>(
        _width: Width,
        _w: Matrix<u8>,
        _x: Matrix<f32>,
        _depth: usize,
        _sums: Matrix<f32>,
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
pub struct Matrix<T> {
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

/// Plain Rust: what every machine can do, and what the others are tested against.
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
        unsafe { p.cast::<Self::F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        unsafe { p.cast::<[u16; P]>().read_unaligned() }.map(from_f16)
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::F {
        unsafe { p.cast::<[u16; P]>().read_unaligned() }.map(from_bf16)
    }
    #[inline(always)]
    unsafe fn store(v: Self::F, p: *mut f32) {
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
    unsafe fn ints(x: i32) -> Self::I {
        [x as u32; P]
    }
    #[inline(always)]
    unsafe fn load_ints(p: *const u8) -> Self::I {
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

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    #[allow(clippy::wildcard_imports)] // an instruction set
    use std::arch::x86_64::*;

    use super::{Lanes, Matrix, Width};

    // The innermost loop of products of f32, written out: the compiler keeps 24 sums in memory, which is three times slower,
    // and without optimisation (in tests) it is a hundred times slower.

    /// Four sums of a row to zero.
    macro_rules! zero {
        ($a:literal, $b:literal, $c:literal, $d:literal) => {
            concat!(
                "vpxorq zmm",
                $a,
                ", zmm",
                $a,
                ", zmm",
                $a,
                "\n",
                "vpxorq zmm",
                $b,
                ", zmm",
                $b,
                ", zmm",
                $b,
                "\n",
                "vpxorq zmm",
                $c,
                ", zmm",
                $c,
                ", zmm",
                $c,
                "\n",
                "vpxorq zmm",
                $d,
                ", zmm",
                $d,
                ", zmm",
                $d,
                "\n",
            )
        };
    }

    /// A row of activations times four rows of weights.
    macro_rules! times {
        ($at:literal, $a:literal, $b:literal, $c:literal, $d:literal) => {
            concat!(
                "vmovups zmm28, [",
                $at,
                "]\n",
                "vfmadd231ps zmm",
                $a,
                ", zmm24, zmm28\n",
                "vfmadd231ps zmm",
                $b,
                ", zmm25, zmm28\n",
                "vfmadd231ps zmm",
                $c,
                ", zmm26, zmm28\n",
                "vfmadd231ps zmm",
                $d,
                ", zmm27, zmm28\n",
            )
        };
    }

    /// Sums of the lanes of four vectors, added to four numbers in memory.
    macro_rules! add {
        ($at:literal, $a:literal, $b:literal, $c:literal, $d:literal) => {
            concat!(
                "vextractf64x4 ymm24, zmm",
                $a,
                ", 1\n",
                "vaddps ymm24, ymm24, ymm",
                $a,
                "\n",
                "vextractf64x4 ymm25, zmm",
                $b,
                ", 1\n",
                "vaddps ymm25, ymm25, ymm",
                $b,
                "\n",
                "vextractf64x4 ymm26, zmm",
                $c,
                ", 1\n",
                "vaddps ymm26, ymm26, ymm",
                $c,
                "\n",
                "vextractf64x4 ymm27, zmm",
                $d,
                ", 1\n",
                "vaddps ymm27, ymm27, ymm",
                $d,
                "\n",
                "vunpcklps ymm28, ymm24, ymm25\n",
                "vunpckhps ymm29, ymm24, ymm25\n",
                "vaddps ymm24, ymm28, ymm29\n",
                "vunpcklps ymm28, ymm26, ymm27\n",
                "vunpckhps ymm29, ymm26, ymm27\n",
                "vaddps ymm26, ymm28, ymm29\n",
                "vunpcklpd ymm28, ymm24, ymm26\n",
                "vunpckhpd ymm29, ymm24, ymm26\n",
                "vaddps ymm24, ymm28, ymm29\n",
                "vextractf32x4 xmm25, ymm24, 1\n",
                "vaddps xmm24, xmm24, xmm25\n",
                "vaddps xmm24, xmm24, [",
                $at,
                "]\n",
                "vmovups [",
                $at,
                "], xmm24\n",
            )
        };
    }

    /// Sixteen weights as f32.
    macro_rules! as_f32 {
        ($r:literal, $at:literal) => {
            concat!("vmovups zmm", $r, ", [", $at, "]\n")
        };
    }
    macro_rules! as_f16 {
        ($r:literal, $at:literal) => {
            concat!("vcvtph2ps zmm", $r, ", ymmword ptr [", $at, "]\n")
        };
    }
    macro_rules! as_bf16 {
        ($r:literal, $at:literal) => {
            concat!(
                "vpmovzxwd zmm",
                $r,
                ", ymmword ptr [",
                $at,
                "]\n",
                "vpslld zmm",
                $r,
                ", zmm",
                $r,
                ", 16\n",
            )
        };
    }

    /// Four rows of weights with some of activations: how weights are stored, the bytes of sixteen, and for every row of
    /// activations its place, its sums' registers, and the sums' place.
    macro_rules! tile {
        ($name:ident, $as:ident, $bytes:literal: $(($x:literal, $a:literal, $b:literal, $c:literal, $d:literal, $y:literal))*) => {
            /// # Safety
            /// AVX-512 VL; four rows of `depth` numbers at `w`, rows at `x`, `depth` a multiple of 16 and not 0; four numbers
            /// a row at `sums`, which may be written.
            #[inline(always)]
            unsafe fn $name(w: Matrix<u8>, x: Matrix<f32>, depth: usize, sums: Matrix<f32>) {
                unsafe {
                    std::arch::asm!(
                        concat!(
                            $(zero!($a, $b, $c, $d),)*
                            "2:\n",
                            $as!(24, "{w}"),
                            $as!(25, "{w} + {ws}"),
                            $as!(26, "{w} + 2*{ws}"),
                            $as!(27, "{w} + {ws3}"),
                            $(times!($x, $a, $b, $c, $d),)*
                            "add {w}, ", $bytes, "\n",
                            "add {x}, 64\n",
                            "add {x3}, 64\n",
                            "sub {n}, 1\n",
                            "jnz 2b\n",
                            "/* {xs} {ys} {y3} */\n",
                            $(add!($y, $a, $b, $c, $d),)*
                        ),
                        w = inout(reg) w.start => _,
                        ws = in(reg) w.bytes,
                        ws3 = in(reg) 3 * w.bytes,
                        x = inout(reg) x.start => _,
                        xs = in(reg) x.bytes,
                        x3 = inout(reg) x.start.wrapping_byte_add(3 * x.bytes) => _,
                        n = inout(reg) depth / 16 => _,
                        y = in(reg) sums.start,
                        ys = in(reg) sums.bytes,
                        y3 = in(reg) sums.start.wrapping_byte_add(3 * sums.bytes),
                        out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _,
                        out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                        out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _, out("zmm16") _, out("zmm17") _,
                        out("zmm18") _, out("zmm19") _, out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
                        out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _, out("zmm28") _, out("zmm29") _,
                        options(nostack),
                    );
                }
            }
        };
        ($one:ident $three:ident $six:ident, $as:ident, $bytes:literal) => {
            tile!($one, $as, $bytes: ("{x}", 0, 1, 2, 3, "{y}"));
            tile!($three, $as, $bytes:
                ("{x}", 0, 1, 2, 3, "{y}")
                ("{x} + {xs}", 4, 5, 6, 7, "{y} + {ys}")
                ("{x} + 2*{xs}", 8, 9, 10, 11, "{y} + 2*{ys}")
            );
            tile!($six, $as, $bytes:
                ("{x}", 0, 1, 2, 3, "{y}")
                ("{x} + {xs}", 4, 5, 6, 7, "{y} + {ys}")
                ("{x} + 2*{xs}", 8, 9, 10, 11, "{y} + 2*{ys}")
                ("{x3}", 12, 13, 14, 15, "{y3}")
                ("{x3} + {xs}", 16, 17, 18, 19, "{y3} + {ys}")
                ("{x3} + 2*{xs}", 20, 21, 22, 23, "{y3} + 2*{ys}")
            );
        };
    }

    tile!(f32_1 f32_3 f32_6, as_f32, 64);
    tile!(f16_1 f16_3 f16_6, as_f16, 32);
    tile!(bf16_1 bf16_3 bf16_6, as_bf16, 32);

    /// AVX-512 F, VL, BW and VNNI.
    #[derive(Clone, Copy)]
    pub struct Avx512;

    impl Lanes for Avx512 {
        const N: usize = 16;
        type F = __m512;
        type I = __m512i;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::F {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self::F {
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn load_f16(p: *const u16) -> Self::F {
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
        }
        #[inline(always)]
        unsafe fn load_bf16(p: *const u16) -> Self::F {
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn store(v: Self::F, p: *mut f32) {
            unsafe { _mm512_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn sum(v: Self::F) -> f32 {
            // In the order of `add!`.
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
        unsafe fn tile<const X: usize>(
            width: Width,
            w: Matrix<u8>,
            x: Matrix<f32>,
            depth: usize,
            sums: Matrix<f32>,
        ) -> bool {
            unsafe {
                match (width, X) {
                    (Width::F32, 1) => f32_1(w, x, depth, sums),
                    (Width::F32, 3) => f32_3(w, x, depth, sums),
                    (Width::F32, 6) => f32_6(w, x, depth, sums),
                    (Width::F16, 1) => f16_1(w, x, depth, sums),
                    (Width::F16, 3) => f16_3(w, x, depth, sums),
                    (Width::F16, 6) => f16_6(w, x, depth, sums),
                    (Width::Bf16, 1) => bf16_1(w, x, depth, sums),
                    (Width::Bf16, 3) => bf16_3(w, x, depth, sums),
                    (Width::Bf16, 6) => bf16_6(w, x, depth, sums),
                    _ => return false,
                }
            }
            true
        }
        #[inline(always)]
        unsafe fn ints(x: i32) -> Self::I {
            unsafe { _mm512_set1_epi32(x) }
        }
        #[inline(always)]
        unsafe fn load_ints(p: *const u8) -> Self::I {
            unsafe { _mm512_loadu_si512(p.cast()) }
        }
        #[inline(always)]
        unsafe fn and(a: Self::I, b: Self::I) -> Self::I {
            unsafe { _mm512_and_si512(a, b) }
        }
        #[inline(always)]
        unsafe fn or(a: Self::I, b: Self::I) -> Self::I {
            unsafe { _mm512_or_si512(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: Self::I, b: Self::I) -> Self::I {
            unsafe { _mm512_sub_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn left16<const BY: u32>(v: Self::I) -> Self::I {
            unsafe { _mm512_slli_epi16::<BY>(v) }
        }
        #[inline(always)]
        unsafe fn right16<const BY: u32>(v: Self::I) -> Self::I {
            unsafe { _mm512_srli_epi16::<BY>(v) }
        }
        #[inline(always)]
        unsafe fn signed16<const BY: u32>(v: Self::I) -> Self::I {
            unsafe { _mm512_srai_epi16::<BY>(v) }
        }
        #[inline(always)]
        unsafe fn right32(v: Self::I, by: u32) -> Self::I {
            unsafe { _mm512_srl_epi32(v, _mm_cvtsi32_si128(by as i32)) }
        }
        #[inline(always)]
        unsafe fn left32(v: Self::I, by: u32) -> Self::I {
            unsafe { _mm512_sll_epi32(v, _mm_cvtsi32_si128(by as i32)) }
        }
        #[inline(always)]
        unsafe fn pairs(sum: Self::I, a: Self::I, b: Self::I) -> Self::I {
            unsafe { _mm512_dpwssd_epi32(sum, a, b) }
        }
        #[inline(always)]
        unsafe fn to_f(v: Self::I) -> Self::F {
            unsafe { _mm512_cvtepi32_ps(v) }
        }
    }

    /// AVX2, FMA and F16C.
    #[derive(Clone, Copy)]
    pub struct Avx2;

    impl Lanes for Avx2 {
        const N: usize = 8;
        type F = __m256;
        type I = __m256i;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::F {
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self::F {
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn load_f16(p: *const u16) -> Self::F {
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
        }
        #[inline(always)]
        unsafe fn load_bf16(p: *const u16) -> Self::F {
            unsafe {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn store(v: Self::F, p: *mut f32) {
            unsafe { _mm256_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn sum(v: Self::F) -> f32 {
            unsafe {
                let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
            }
        }
        #[inline(always)]
        unsafe fn ints(x: i32) -> Self::I {
            unsafe { _mm256_set1_epi32(x) }
        }
        #[inline(always)]
        unsafe fn load_ints(p: *const u8) -> Self::I {
            unsafe { _mm256_loadu_si256(p.cast()) }
        }
        #[inline(always)]
        unsafe fn and(a: Self::I, b: Self::I) -> Self::I {
            unsafe { _mm256_and_si256(a, b) }
        }
        #[inline(always)]
        unsafe fn or(a: Self::I, b: Self::I) -> Self::I {
            unsafe { _mm256_or_si256(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: Self::I, b: Self::I) -> Self::I {
            unsafe { _mm256_sub_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn left16<const BY: u32>(v: Self::I) -> Self::I {
            unsafe { _mm256_sll_epi16(v, _mm_cvtsi32_si128(BY as i32)) }
        }
        #[inline(always)]
        unsafe fn right16<const BY: u32>(v: Self::I) -> Self::I {
            unsafe { _mm256_srl_epi16(v, _mm_cvtsi32_si128(BY as i32)) }
        }
        #[inline(always)]
        unsafe fn signed16<const BY: u32>(v: Self::I) -> Self::I {
            unsafe { _mm256_sra_epi16(v, _mm_cvtsi32_si128(BY as i32)) }
        }
        #[inline(always)]
        unsafe fn right32(v: Self::I, by: u32) -> Self::I {
            unsafe { _mm256_srl_epi32(v, _mm_cvtsi32_si128(by as i32)) }
        }
        #[inline(always)]
        unsafe fn left32(v: Self::I, by: u32) -> Self::I {
            unsafe { _mm256_sll_epi32(v, _mm_cvtsi32_si128(by as i32)) }
        }
        #[inline(always)]
        unsafe fn pairs(sum: Self::I, a: Self::I, b: Self::I) -> Self::I {
            unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)) }
        }
        #[inline(always)]
        unsafe fn to_f(v: Self::I) -> Self::F {
            unsafe { _mm256_cvtepi32_ps(v) }
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub use arm::Neon;

#[cfg(target_arch = "aarch64")]
mod arm {
    #[allow(clippy::wildcard_imports)] // an instruction set
    use std::arch::aarch64::*;

    use super::{Lanes, from_f16};

    /// What every 64-bit ARM has.
    #[derive(Clone, Copy)]
    pub struct Neon;

    impl Lanes for Neon {
        const N: usize = 4;
        type F = float32x4_t;
        type I = int32x4_t;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::F {
            unsafe { vdupq_n_f32(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self::F {
            unsafe { vld1q_f32(p) }
        }
        #[inline(always)]
        unsafe fn load_f16(p: *const u16) -> Self::F {
            let four = unsafe { p.cast::<[u16; 4]>().read_unaligned() }.map(from_f16);
            unsafe { vld1q_f32(four.as_ptr()) }
        }
        #[inline(always)]
        unsafe fn load_bf16(p: *const u16) -> Self::F {
            unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p))) }
        }
        #[inline(always)]
        unsafe fn store(v: Self::F, p: *mut f32) {
            unsafe { vst1q_f32(p, v) }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
            unsafe { vmulq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
            unsafe { vfmaq_f32(c, a, b) }
        }
        #[inline(always)]
        unsafe fn sum(v: Self::F) -> f32 {
            unsafe { vaddvq_f32(v) }
        }
        #[inline(always)]
        unsafe fn ints(x: i32) -> Self::I {
            unsafe { vdupq_n_s32(x) }
        }
        #[inline(always)]
        unsafe fn load_ints(p: *const u8) -> Self::I {
            unsafe { vreinterpretq_s32_u8(vld1q_u8(p)) }
        }
        #[inline(always)]
        unsafe fn and(a: Self::I, b: Self::I) -> Self::I {
            unsafe { vandq_s32(a, b) }
        }
        #[inline(always)]
        unsafe fn or(a: Self::I, b: Self::I) -> Self::I {
            unsafe { vorrq_s32(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: Self::I, b: Self::I) -> Self::I {
            unsafe { vsubq_s32(a, b) }
        }
        #[inline(always)]
        unsafe fn left16<const BY: u32>(v: Self::I) -> Self::I {
            unsafe {
                let by = vdupq_n_s16(BY as i16);
                vreinterpretq_s32_s16(vshlq_s16(vreinterpretq_s16_s32(v), by))
            }
        }
        #[inline(always)]
        unsafe fn right16<const BY: u32>(v: Self::I) -> Self::I {
            unsafe {
                let by = vdupq_n_s16(-(BY as i16));
                vreinterpretq_s32_u16(vshlq_u16(vreinterpretq_u16_s32(v), by))
            }
        }
        #[inline(always)]
        unsafe fn signed16<const BY: u32>(v: Self::I) -> Self::I {
            unsafe {
                let by = vdupq_n_s16(-(BY as i16));
                vreinterpretq_s32_s16(vshlq_s16(vreinterpretq_s16_s32(v), by))
            }
        }
        #[inline(always)]
        unsafe fn right32(v: Self::I, by: u32) -> Self::I {
            unsafe {
                let by = vdupq_n_s32(-(by as i32));
                vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(v), by))
            }
        }
        #[inline(always)]
        unsafe fn left32(v: Self::I, by: u32) -> Self::I {
            unsafe { vshlq_s32(v, vdupq_n_s32(by as i32)) }
        }
        #[inline(always)]
        unsafe fn pairs(sum: Self::I, a: Self::I, b: Self::I) -> Self::I {
            unsafe {
                let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
                let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
                vaddq_s32(sum, vpaddq_s32(low, vmull_high_s16(a, b)))
            }
        }
        #[inline(always)]
        unsafe fn to_f(v: Self::I) -> Self::F {
            unsafe { vcvtq_f32_s32(v) }
        }
    }
}
