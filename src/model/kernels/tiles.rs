//! The innermost loops of dense products for AVX-512, in assembly: the compiler keeps their 24 sums in memory, which is three
//! times slower, and without optimisation (in tests) a hundred times slower.
//!
//! Invariant: every sum is over lanes first, in the order of `add!`, whatever other rows are computed with it.
//! To add a storage format of weights, write its `as_` macro and a row at the end.
#![allow(unsafe_code)] // Each block says what it relies on.

use super::lanes::Strided;

/// Sets the four sums of a row to zero.
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

/// Multiplies a row of activations with four rows of weights.
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

/// Sums the lanes of four vectors and adds the results to four numbers in memory.
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

/// Loads sixteen weights as f32.
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

/// Prefetches the next four rows of weights, one cache line of each: narrow rows are too short for the hardware to predict that
/// they follow each other (a sixth faster on a Zen 4; no gain for f32). Memory after the last row is prefetched as well, which
/// is harmless.
macro_rules! ahead {
    (ahead) => {
        concat!(
            "prefetcht0 [{w4}]\n",
            "prefetcht0 [{w4} + {ws}]\n",
            "prefetcht0 [{w4} + 2*{ws}]\n",
            "prefetcht0 [{w4} + {ws3}]\n",
        )
    };
    (alone) => {
        ""
    };
}

/// Defines a function for four rows of weights with some rows of activations. Parameters: how weights are stored, the bytes of
/// sixteen of them, and for every row of activations its offset, the registers of its sums, and the offset of its sums.
macro_rules! tile {
    ($name:ident, $as:ident, $bytes:literal, $ahead:ident: $(($x:literal, $a:literal, $b:literal, $c:literal, $d:literal, $y:literal))*) => {
        /// # Safety
        ///
        /// AVX-512 VL; four rows of `depth` numbers at `w`, and rows at `x`, with `depth` a positive multiple of 16; four
        /// numbers in each row at `sums`, which may be written.
        #[inline(always)]
        pub unsafe fn $name(w: Strided<u8>, x: Strided<f32>, depth: usize, sums: Strided<f32>) {
            // SAFETY: accesses only memory that the caller promises to exist; every changed register is declared, and the stack
            // is not used.
            unsafe {
                std::arch::asm!(
                    concat!(
                        $(zero!($a, $b, $c, $d),)*
                        "2:\n",
                        ahead!($ahead),
                        $as!(24, "{w}"),
                        $as!(25, "{w} + {ws}"),
                        $as!(26, "{w} + 2*{ws}"),
                        $as!(27, "{w} + {ws3}"),
                        $(times!($x, $a, $b, $c, $d),)*
                        "add {w}, ", $bytes, "\n",
                        "add {w4}, ", $bytes, "\n",
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
                    w4 = inout(reg) w.start.wrapping_add(4 * w.bytes) => _,
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
    ($one:ident $three:ident $six:ident, $as:ident, $bytes:literal, $ahead:ident) => {
        tile!($one, $as, $bytes, $ahead: ("{x}", 0, 1, 2, 3, "{y}"));
        tile!($three, $as, $bytes, $ahead:
            ("{x}", 0, 1, 2, 3, "{y}")
            ("{x} + {xs}", 4, 5, 6, 7, "{y} + {ys}")
            ("{x} + 2*{xs}", 8, 9, 10, 11, "{y} + 2*{ys}")
        );
        tile!($six, $as, $bytes, alone:
            ("{x}", 0, 1, 2, 3, "{y}")
            ("{x} + {xs}", 4, 5, 6, 7, "{y} + {ys}")
            ("{x} + 2*{xs}", 8, 9, 10, 11, "{y} + 2*{ys}")
            ("{x3}", 12, 13, 14, 15, "{y3}")
            ("{x3} + {xs}", 16, 17, 18, 19, "{y3} + {ys}")
            ("{x3} + 2*{xs}", 20, 21, 22, 23, "{y3} + 2*{ys}")
        );
    };
}

tile!(f32_1 f32_3 f32_6, as_f32, 64, alone);
tile!(f16_1 f16_3 f16_6, as_f16, 32, ahead);
tile!(bf16_1 bf16_3 bf16_6, as_bf16, 32, ahead);
