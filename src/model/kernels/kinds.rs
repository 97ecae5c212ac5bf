//! The kinds of quantized blocks: the product of one block of sixteen interleaved rows.
//!
//! Invariant: within a block all arithmetic is on integers and exact, except for the scales.
//! To add a kind, implement [`BlockKind`] and name it in [`super::blocks`].
#![allow(unsafe_code)] // Each block says what it relies on.

use std::marker::PhantomData;

use super::activations::Record;
use super::encoding::Encoding;
use super::lanes::Lanes;
use super::packed::GROUP;

/// A kind of quantized block, with sixteen rows interleaved.
pub(super) trait BlockKind {
    const ENCODING: Encoding;

    /// Adds the products of one block to `sums`: `w` is the block of `S::N` rows from lane `lane` on.
    ///
    /// # Safety
    ///
    /// `w` points to a block of sixteen rows and `x` to one record for every 32 weights; the machine has the instructions.
    unsafe fn add<S: Lanes, const R: usize>(
        w: BlockRows<S>,
        x: *const Record<R>,
        sums: &mut [S::F; R],
    );
}

/// Pointers to the fields of one block, for `S::N` of its sixteen rows.
#[derive(Clone, Copy)]
pub(super) struct BlockRows<S> {
    block: *const u8,
    lane: usize,
    words: usize,
    lanes: PhantomData<S>,
}

impl<S: Lanes> BlockRows<S> {
    /// The fields from lane `lane` on, in a block of sixteen rows that begins at `block` and has `halves` two-byte fields.
    #[inline(always)]
    pub fn new(block: *const u8, lane: usize, halves: usize) -> Self {
        Self {
            block,
            lane,
            words: halves * 2 * GROUP,
            lanes: PhantomData,
        }
    }

    #[inline(always)]
    unsafe fn half(self, i: usize) -> S::F {
        // SAFETY: the caller guarantees what [`BlockKind::add`] requires.
        unsafe { S::load_f16(self.block.add(i * 2 * GROUP + 2 * self.lane).cast()) }
    }

    #[inline(always)]
    unsafe fn word(self, i: usize) -> S::I {
        // SAFETY: the caller guarantees what [`BlockKind::add`] requires.
        unsafe { S::load_ints(self.block.add(self.words + i * 4 * GROUP + 4 * self.lane)) }
    }
}

/// Adds the products of four weights in each lane, given by those at even and those at odd bytes, with the numbers from `4 *
/// four` on of a record.
#[inline(always)]
unsafe fn dot<S: Lanes, const R: usize>(
    sums: &mut [S::I; R],
    [even, odd]: [S::I; 2],
    x: *const Record<R>,
    four: usize,
) {
    for (r, sum) in sums.iter_mut().enumerate() {
        // SAFETY: the caller guarantees what [`BlockKind::add`] requires.
        unsafe {
            let numbers = (&raw const (*x).numbers[r]).cast::<i32>().add(2 * four);
            if R > 4 {
                *sum = S::pairs_with(*sum, even, numbers);
                *sum = S::pairs_with(*sum, odd, numbers.add(1));
            } else {
                *sum = S::pairs(*sum, even, S::ints(numbers.read_unaligned()));
                *sum = S::pairs(*sum, odd, S::ints(numbers.add(1).read_unaligned()));
            }
        }
    }
}

/// The sum of a row's numbers in a record, or in one half of it.
#[inline(always)]
unsafe fn total<const R: usize>(x: *const Record<R>, row: usize, half: Option<usize>) -> i32 {
    // SAFETY: the caller guarantees what [`BlockKind::add`] requires.
    let [a, b] = unsafe { (*x).sums[row] };
    match half {
        None => a + b,
        Some(0) => a,
        Some(_) => b,
    }
}

/// `by` times the negative of these sums: the contribution of a constant offset of the weights.
#[inline(always)]
unsafe fn below<S: Lanes, const R: usize>(
    x: *const Record<R>,
    half: Option<usize>,
    by: i32,
) -> [S::I; R] {
    // SAFETY: the caller guarantees what [`BlockKind::add`] requires.
    unsafe {
        let mut sums = [S::ints(0); R];
        for (r, sum) in sums.iter_mut().enumerate() {
            *sum = S::ints(-by * total(x, r, half));
        }
        sums
    }
}

/// Adds integers multiplied by the scales of both sides.
#[inline(always)]
unsafe fn scaled<S: Lanes, const R: usize>(
    whole: [S::I; R],
    scale: S::F,
    x: *const Record<R>,
    sums: &mut [S::F; R],
) {
    for r in 0..R {
        // SAFETY: the caller guarantees what [`BlockKind::add`] requires.
        unsafe {
            let scale = S::mul(scale, S::splat((*x).scales[r]));
            sums[r] = S::fma(S::to_f(whole[r]), scale, sums[r]);
        }
    }
}

/// Adds the contribution of a block's minimum weight: the minimum times the sum of the activations.
#[inline(always)]
unsafe fn least<S: Lanes, const R: usize>(
    low: S::F,
    x: *const Record<R>,
    half: Option<usize>,
    sums: &mut [S::F; R],
) {
    for r in 0..R {
        // SAFETY: the caller guarantees what [`BlockKind::add`] requires.
        unsafe {
            let sum = total(x, r, half) as f32 * (*x).scales[r];
            sums[r] = S::fma(low, S::splat(sum), sums[r]);
        }
    }
}

/// The four-bit numbers in the low and in the high halves of four bytes, in each lane.
#[inline(always)]
unsafe fn nibbles<S: Lanes>(v: S::I) -> [[S::I; 2]; 2] {
    // SAFETY: the caller guarantees what [`BlockKind::add`] requires.
    unsafe {
        let four = S::ints(0x000f_000f);
        [
            [S::and(v, four), S::and(S::right16::<8>(v), four)],
            [S::and(S::right16::<4>(v), four), S::right16::<12>(v)],
        ]
    }
}

/// Moves the bits at `from` to the bits of `mask` at `to`.
#[inline(always)]
unsafe fn brought<S: Lanes>(v: S::I, from: u32, to: u32, mask: i32) -> S::I {
    // SAFETY: the caller guarantees what [`BlockKind::add`] requires.
    unsafe {
        let there = if from >= to {
            S::right32(v, from - to)
        } else {
            S::left32(v, to - from)
        };
        S::and(there, S::ints(mask))
    }
}

/// Byte `i` of every word, zero-extended to 32 bits.
#[inline(always)]
unsafe fn byte<S: Lanes>(v: S::I, i: u32) -> S::I {
    // SAFETY: the caller guarantees what [`BlockKind::add`] requires.
    unsafe { S::and(S::right32(v, 8 * i), S::ints(0xff)) }
}

/// Q4_0, Q4_1, Q5_0 and Q5_1: four bits, with a fifth one if `FIFTH`, centred at zero or counted from the block's minimum if
/// `LEAST`.
pub(super) struct FourBits<const FIFTH: bool, const LEAST: bool>;
pub(super) struct Q8_0;
pub(super) struct Q2K;
pub(super) struct Q3K;
pub(super) struct Q4K;
pub(super) struct Q5K;
pub(super) struct Q6K;

/// The integer sums for weights of four bits, with a fifth if `FIFTH`; the words of the block begin with the fifth bits.
#[inline(always)]
unsafe fn small<S: Lanes, const R: usize, const FIFTH: bool>(
    w: BlockRows<S>,
    x: *const Record<R>,
    sums: &mut [S::I; R],
) {
    // SAFETY: the caller guarantees what [`BlockKind::add`] requires.
    unsafe {
        let fifth = if FIFTH { w.word(0) } else { S::ints(0) };
        for z in 0..4 {
            let parts = nibbles::<S>(w.word(z + usize::from(FIFTH)));
            for (high, pair) in parts.into_iter().enumerate() {
                let mut pair = pair;
                if FIFTH {
                    for (odd, p) in pair.iter_mut().enumerate() {
                        let bit = (4 * z + 2 * high + odd) as u32;
                        *p = S::or(*p, brought::<S>(fifth, bit, 4, 0x0010_0010));
                    }
                }
                dot::<S, R>(sums, pair, x, 4 * high + z);
            }
        }
    }
}

impl<const FIFTH: bool, const LEAST: bool> BlockKind for FourBits<FIFTH, LEAST> {
    const ENCODING: Encoding = match (FIFTH, LEAST) {
        (false, false) => Encoding::Q4_0,
        (false, true) => Encoding::Q4_1,
        (true, false) => Encoding::Q5_0,
        (true, true) => Encoding::Q5_1,
    };
    #[inline(always)]
    unsafe fn add<S: Lanes, const R: usize>(
        w: BlockRows<S>,
        x: *const Record<R>,
        sums: &mut [S::F; R],
    ) {
        // SAFETY: the caller guarantees what [`BlockKind::add`] requires.
        unsafe {
            let mut whole = if LEAST {
                [S::ints(0); R]
            } else {
                below::<S, R>(x, None, if FIFTH { 16 } else { 8 })
            };
            small::<S, R, FIFTH>(w, x, &mut whole);
            scaled::<S, R>(whole, w.half(0), x, sums);
            if LEAST {
                least::<S, R>(w.half(1), x, None, sums);
            }
        }
    }
}

impl BlockKind for Q8_0 {
    const ENCODING: Encoding = Encoding::Q8_0;
    #[inline(always)]
    unsafe fn add<S: Lanes, const R: usize>(
        w: BlockRows<S>,
        x: *const Record<R>,
        sums: &mut [S::F; R],
    ) {
        // SAFETY: the caller guarantees what [`BlockKind::add`] requires.
        unsafe {
            let mut whole = [S::ints(0); R];
            for z in 0..8 {
                let v = w.word(z);
                let pair = [S::signed16::<8>(S::left16::<8>(v)), S::signed16::<8>(v)];
                dot::<S, R>(&mut whole, pair, x, z);
            }
            scaled::<S, R>(whole, w.half(0), x, sums);
        }
    }
}

impl BlockKind for Q2K {
    const ENCODING: Encoding = Encoding::Q2K;
    #[inline(always)]
    unsafe fn add<S: Lanes, const R: usize>(
        w: BlockRows<S>,
        x: *const Record<R>,
        sums: &mut [S::F; R],
    ) {
        // SAFETY: the caller guarantees what [`BlockKind::add`] requires.
        unsafe {
            let (d, low) = (w.half(0), S::mul(w.half(1), S::splat(-1.0)));
            for part in 0..16 {
                let scales = byte::<S>(w.word(part / 4), part as u32 % 4);
                let x = x.add(part / 2);
                let at = 2 * (part as u32 % 8 / 2);
                let mut whole = [S::ints(0); R];
                for z in 0..4 {
                    let v = w.word(4 + part / 8 * 8 + part % 2 * 4 + z);
                    let pair = [
                        brought::<S>(v, at, 0, 0x0003_0003),
                        brought::<S>(v, at + 8, 0, 0x0003_0003),
                    ];
                    dot::<S, R>(&mut whole, pair, x, part % 2 * 4 + z);
                }
                let scale = S::mul(d, S::to_f(S::and(scales, S::ints(15))));
                scaled::<S, R>(whole, scale, x, sums);
                let low = S::mul(low, S::to_f(S::right32(scales, 4)));
                least::<S, R>(low, x, Some(part % 2), sums);
            }
        }
    }
}

impl BlockKind for Q3K {
    const ENCODING: Encoding = Encoding::Q3K;
    #[inline(always)]
    unsafe fn add<S: Lanes, const R: usize>(
        w: BlockRows<S>,
        x: *const Record<R>,
        sums: &mut [S::F; R],
    ) {
        // SAFETY: the caller guarantees what [`BlockKind::add`] requires.
        unsafe {
            let d = w.half(0);
            for part in 0..16 {
                let low = byte::<S>(w.word(24 + part % 8 / 4), part as u32 % 4);
                let low = S::and(S::right32(low, part as u32 / 8 * 4), S::ints(15));
                let high = byte::<S>(w.word(26), part as u32 % 4);
                let high = brought::<S>(high, part as u32 / 4 * 2, 4, 0x30);
                let scale = S::sub(S::or(low, high), S::ints(32));
                let x = x.add(part / 2);
                let (at, bit) = (2 * (part as u32 % 8 / 2), part as u32 / 2);
                let mut whole = below::<S, R>(x, Some(part % 2), 4);
                for z in 0..4 {
                    let v = w.word(8 + part / 8 * 8 + part % 2 * 4 + z);
                    let h = w.word(part % 2 * 4 + z);
                    let mut pair = [v; 2];
                    for (odd, p) in pair.iter_mut().enumerate() {
                        let odd = 8 * odd as u32;
                        let two = brought::<S>(v, at + odd, 0, 0x0003_0003);
                        *p = S::or(two, brought::<S>(h, bit + odd, 2, 0x0004_0004));
                    }
                    dot::<S, R>(&mut whole, pair, x, part % 2 * 4 + z);
                }
                scaled::<S, R>(whole, S::mul(d, S::to_f(scale)), x, sums);
            }
        }
    }
}

/// The scales and minimums of eight parts of 32 weights, six bits each, as bytes in two words for each.
#[inline(always)]
unsafe fn six_bits<S: Lanes>(w: BlockRows<S>) -> [[S::I; 2]; 2] {
    // SAFETY: the caller guarantees what [`BlockKind::add`] requires.
    unsafe {
        let [a, b, c] = [w.word(0), w.word(1), w.word(2)];
        let six = S::ints(0x3f3f_3f3f);
        let four = S::ints(0x0f0f_0f0f);
        let top = S::ints(0x3030_3030);
        let (high_a, high_b) = (S::and(S::right32(a, 2), top), S::and(S::right32(b, 2), top));
        [
            [S::and(a, six), S::or(S::and(c, four), high_a)],
            [
                S::and(b, six),
                S::or(S::and(S::right32(c, 4), four), high_b),
            ],
        ]
    }
}

#[inline(always)]
unsafe fn four_or_five<S: Lanes, const R: usize, const FIFTH: bool>(
    w: BlockRows<S>,
    x: *const Record<R>,
    sums: &mut [S::F; R],
) {
    // SAFETY: the caller guarantees what [`BlockKind::add`] requires.
    unsafe {
        let scales = six_bits::<S>(w);
        two_parts::<S, R, FIFTH, 0>(w, scales, x, sums);
        two_parts::<S, R, FIFTH, 1>(w, scales, x, sums);
        two_parts::<S, R, FIFTH, 2>(w, scales, x, sums);
        two_parts::<S, R, FIFTH, 3>(w, scales, x, sums);
    }
}

/// Two parts of 32 weights, which share their bytes: one has the low halves and one the high halves.
#[inline(always)]
unsafe fn two_parts<S: Lanes, const R: usize, const FIFTH: bool, const TWO: usize>(
    w: BlockRows<S>,
    scales: [[S::I; 2]; 2],
    x: *const Record<R>,
    sums: &mut [S::F; R],
) {
    // SAFETY: the caller guarantees what [`BlockKind::add`] requires.
    unsafe {
        if FIFTH && R > 4 {
            // The sums of both would not fit the registers beside the fifth bits.
            let mut whole = [S::ints(0); R];
            for z in 0..8 {
                let pair = four_or_five_bits::<S, FIFTH, TWO>(w, z)[0];
                dot::<S, R>(&mut whole, pair, x.add(2 * TWO), z);
            }
            with_scales::<S, R, TWO, 0>(w, scales, whole, x, sums);
            let mut whole = [S::ints(0); R];
            for z in 0..8 {
                let pair = four_or_five_bits::<S, FIFTH, TWO>(w, z)[1];
                dot::<S, R>(&mut whole, pair, x.add(2 * TWO + 1), z);
            }
            with_scales::<S, R, TWO, 1>(w, scales, whole, x, sums);
            return;
        }
        let mut whole = [[S::ints(0); R]; 2];
        for z in 0..8 {
            let parts = four_or_five_bits::<S, FIFTH, TWO>(w, z);
            dot::<S, R>(&mut whole[0], parts[0], x.add(2 * TWO), z);
            dot::<S, R>(&mut whole[1], parts[1], x.add(2 * TWO + 1), z);
        }
        with_scales::<S, R, TWO, 0>(w, scales, whole[0], x, sums);
        with_scales::<S, R, TWO, 1>(w, scales, whole[1], x, sums);
    }
}

/// Eight weights of two parts, with their fifth bits if there are any.
#[inline(always)]
unsafe fn four_or_five_bits<S: Lanes, const FIFTH: bool, const TWO: usize>(
    w: BlockRows<S>,
    z: usize,
) -> [[S::I; 2]; 2] {
    // SAFETY: the caller guarantees what [`BlockKind::add`] requires.
    unsafe {
        let quants = if FIFTH { 11 } else { 3 };
        let [low, high] = nibbles::<S>(w.word(quants + 8 * TWO + z));
        if !FIFTH {
            return [low, high];
        }
        let bits = w.word(3 + z);
        let bit = |at: usize| brought::<S>(bits, at as u32, 4, 0x0010_0010);
        [
            [S::or(low[0], bit(2 * TWO)), S::or(low[1], bit(2 * TWO + 8))],
            [
                S::or(high[0], bit(2 * TWO + 1)),
                S::or(high[1], bit(2 * TWO + 9)),
            ],
        ]
    }
}

/// Adds the sums of one of two parts with its scale and its least weight.
#[inline(always)]
unsafe fn with_scales<S: Lanes, const R: usize, const TWO: usize, const HIGH: usize>(
    w: BlockRows<S>,
    [scales, lows]: [[S::I; 2]; 2],
    whole: [S::I; R],
    x: *const Record<R>,
    sums: &mut [S::F; R],
) {
    // SAFETY: the caller guarantees what [`BlockKind::add`] requires.
    unsafe {
        let part = 2 * TWO + HIGH;
        let x = x.add(part);
        let (d, low) = (w.half(0), S::mul(w.half(1), S::splat(-1.0)));
        let scale = S::to_f(byte::<S>(scales[part / 4], part as u32 % 4));
        let least_of = S::to_f(byte::<S>(lows[part / 4], part as u32 % 4));
        scaled::<S, R>(whole, S::mul(d, scale), x, sums);
        least::<S, R>(S::mul(low, least_of), x, None, sums);
    }
}

impl BlockKind for Q4K {
    const ENCODING: Encoding = Encoding::Q4K;
    #[inline(always)]
    unsafe fn add<S: Lanes, const R: usize>(
        w: BlockRows<S>,
        x: *const Record<R>,
        sums: &mut [S::F; R],
    ) {
        // SAFETY: the caller guarantees what [`BlockKind::add`] requires.
        unsafe { four_or_five::<S, R, false>(w, x, sums) }
    }
}

impl BlockKind for Q5K {
    const ENCODING: Encoding = Encoding::Q5K;
    #[inline(always)]
    unsafe fn add<S: Lanes, const R: usize>(
        w: BlockRows<S>,
        x: *const Record<R>,
        sums: &mut [S::F; R],
    ) {
        // SAFETY: the caller guarantees what [`BlockKind::add`] requires.
        unsafe { four_or_five::<S, R, true>(w, x, sums) }
    }
}

/// One of the four quarters of 128 weights of six bits, in one half of their records: sixteen weights. The sums of one quarter fit
/// the registers, those of all would not.
#[inline(always)]
unsafe fn quarter<S: Lanes, const R: usize, const J: usize>(
    w: BlockRows<S>,
    n: usize,
    half: usize,
    d: S::F,
    x: *const Record<R>,
    sums: &mut [S::F; R],
) {
    // SAFETY: the caller guarantees what [`BlockKind::add`] requires.
    unsafe {
        let x = x.add(4 * n + J);
        let mut whole = below::<S, R>(x, Some(half), 32);
        for z in 4 * half..4 * half + 4 {
            let top = w.word(32 + 8 * n + z);
            let parts = nibbles::<S>(w.word(16 * n + 8 * (J % 2) + z));
            let [even, odd] = parts[J / 2];
            let from = 2 * J as u32;
            let even = S::or(even, brought::<S>(top, from, 4, 0x0030_0030));
            let odd = S::or(odd, brought::<S>(top, from + 8, 4, 0x0030_0030));
            dot::<S, R>(&mut whole, [even, odd], x, z);
        }
        let part = 8 * n + 2 * J + half;
        let scale = byte::<S>(w.word(48 + part / 4), part as u32 % 4);
        let low = S::and(scale, S::ints(0x7f));
        let scale = S::sub(low, S::and(scale, S::ints(0x80)));
        scaled::<S, R>(whole, S::mul(d, S::to_f(scale)), x, sums);
    }
}

impl BlockKind for Q6K {
    const ENCODING: Encoding = Encoding::Q6K;
    #[inline(always)]
    unsafe fn add<S: Lanes, const R: usize>(
        w: BlockRows<S>,
        x: *const Record<R>,
        sums: &mut [S::F; R],
    ) {
        // SAFETY: the caller guarantees what [`BlockKind::add`] requires.
        unsafe {
            let d = w.half(0);
            for n in 0..2 {
                for half in 0..2 {
                    quarter::<S, R, 0>(w, n, half, d, x, sums);
                    quarter::<S, R, 1>(w, n, half, d, x, sums);
                    quarter::<S, R, 2>(w, n, half, d, x, sums);
                    quarter::<S, R, 3>(w, n, half, d, x, sums);
                }
            }
        }
    }
}
