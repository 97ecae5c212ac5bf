//! Tests of attention, gradients and row operations against plain loops in f64.
#![allow(clippy::unwrap_used, clippy::float_cmp)]

use super::attention::{HeadShape, Kept, Segment, ToScores, Turn, by_head, mix_on, scores_on};
use super::backward::backward_on;
use super::encoding::Encoding;
use super::machine::Processor;
use super::rows::{Gate, activated_on, normed, slopes_on, softmax_on};
use super::{Packed, PlainWeights, StoredRows, backward};

/// Pseudorandom numbers between -size and size.
fn numbers(seed: u32, count: usize, size: f32) -> Vec<f32> {
    let mut state = u64::from(seed) + 1;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ((state >> 40) as f32 / 8_388_608.0 - 1.0) * size
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn close(found: &[f32], expected: &[f64], within: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        let apart = (f64::from(*a) - b).abs();
        assert!(apart <= within * b.abs().max(1.0), "{i}: {a} and {b}");
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

#[test]
fn norms_are_those_of_the_formula() {
    for on in Processor::all() {
        for width in [1, 3, 16, 40, 577] {
            let (x, gain) = (numbers(1, 5 * width, 3.0), numbers(2, width, 2.0));
            let bias = numbers(3, width, 1.0);
            for centred in [false, true] {
                let mut y = vec![9.0; x.len()];
                let bias_of = centred.then_some(&bias[..]);
                normed(on, &x, &gain, bias_of, 1e-5, &mut y);
                let rows = x.chunks(width).flat_map(|row| {
                    let row = wide(row);
                    let mean = if centred {
                        row.iter().sum::<f64>() / width as f64
                    } else {
                        0.0
                    };
                    let square = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / width as f64;
                    let scale = (square + 1e-5).sqrt().recip();
                    let of = |(i, v): (usize, &f64)| {
                        let bias = if centred { f64::from(bias[i]) } else { 0.0 };
                        (v - mean) * scale * f64::from(gain[i]) + bias
                    };
                    row.iter().enumerate().map(of).collect::<Vec<_>>()
                });
                close(&y, &rows.collect::<Vec<_>>(), 3e-6);
            }
        }
    }
}

#[test]
fn a_softmax_is_that_of_the_formula_and_knows_nothing_of_what_stands_behind() {
    for on in Processor::all() {
        for width in [1, 5, 16, 33, 700] {
            let x = numbers(4, 3 * width, 20.0);
            let mut y = x.clone();
            softmax_on(on, &mut y, width);
            let rows = x.chunks(width).flat_map(|row| {
                let most = row.iter().fold(f32::MIN, |a, b| a.max(*b));
                let e: Vec<f64> = wide(row)
                    .iter()
                    .map(|v| (v - f64::from(most)).exp())
                    .collect();
                let sum: f64 = e.iter().sum();
                e.into_iter().map(|e| e / sum).collect::<Vec<_>>()
            });
            close(&y, &rows.collect::<Vec<_>>(), 5e-7);
            // The same row followed by masked positions.
            let mut longer = [&x[..width], &[f32::NEG_INFINITY; 45]].concat();
            softmax_on(on, &mut longer, width + 45);
            assert_eq!(longer[..width], y[..width]);
            assert!(longer[width..].iter().all(|p| *p == 0.0));
        }
        let mut between = [0.0, f32::NEG_INFINITY, 0.0];
        softmax_on(on, &mut between, 3);
        assert_eq!(between, [0.5, 0.0, 0.5]);
        for bad in [f32::NAN, f32::INFINITY] {
            let mut row = numbers(5, 40, 1.0);
            row[17] = bad;
            softmax_on(on, &mut row, 40);
            assert!(row.iter().any(|p| p.is_nan()));
        }
    }
}

/// An activation in f64.
fn formula(gate: Gate, x: f64) -> f64 {
    match gate {
        Gate::Silu => x / (1.0 + (-x).exp()),
        Gate::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
        Gate::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
    }
}

#[test]
fn activations_are_those_of_the_formula() {
    for on in Processor::all() {
        let mut x = numbers(6, 2000, 12.0);
        x.extend([0.0, -0.0, 1e-30, 90.0, -90.0, 300.0, -300.0]);
        let by = numbers(7, x.len(), 2.0);
        for gate in [Gate::Silu, Gate::QuickGelu, Gate::GeluTanh] {
            let of = |x: f64| formula(gate, x);
            let expected: Vec<f64> = wide(&x).into_iter().map(of).collect();
            let mut y = vec![9.0; x.len()];
            activated_on(on, gate, &x, None, &mut y);
            close(&y, &expected, 2e-6);
            activated_on(on, gate, &x, Some(&by), &mut y);
            let expected: Vec<f64> = expected
                .iter()
                .zip(wide(&by))
                .map(|(e, by)| e * by)
                .collect();
            close(&y, &expected, 4e-6);
            let mut y = [0.0; 3];
            activated_on(on, gate, &[1.0, f32::NAN, 2.0], None, &mut y);
            assert!(y[0].is_finite() && y[1].is_nan() && y[2].is_finite());
        }
    }
}

const SHAPE: HeadShape = HeadShape {
    batch: 2,
    heads: 6,
    group: 3,
    tokens: 70,
    width: 40,
};

/// Scores and sums of values by plain loops; keys and values are `[batch, kv_heads, positions, width]`.
fn plainly(s: HeadShape, q: &[f32], k: &[f32], v: &[f32], to: ToScores) -> (Vec<f64>, Vec<f64>) {
    let (positions, kv_heads) = (to.start + s.tokens, s.heads / s.group);
    let mut all = Vec::new();
    let mut z = vec![0.0; s.batch * s.tokens * s.heads * s.width];
    for b in 0..s.batch {
        for h in 0..s.heads {
            for t in 0..s.tokens {
                let at = |p: usize| ((b * kv_heads + h / s.group) * positions + p) * s.width;
                let q = &q[((b * s.heads + h) * s.tokens + t) * s.width..][..s.width];
                let row: Vec<f64> = (0..positions)
                    .map(|p| {
                        let seen =
                            p <= to.start + t && to.window.is_none_or(|w| p + w > to.start + t);
                        let dot: f64 = (0..s.width)
                            .map(|i| f64::from(q[i]) * f64::from(k[at(p) + i]))
                            .sum();
                        let score = dot * f64::from(to.scale);
                        let score = to.cap.map_or(score, |cap| {
                            (score / f64::from(cap)).tanh() * f64::from(cap)
                        });
                        if seen { score } else { f64::NEG_INFINITY }
                    })
                    .collect();
                let sum: f64 = row.iter().map(|s| s.exp()).sum();
                for i in 0..s.width {
                    let of = |p: usize| row[p].exp() / sum * f64::from(v[at(p) + i]);
                    z[((b * s.tokens + t) * s.heads + h) * s.width + i] =
                        (0..positions).map(of).sum();
                }
                all.extend(row);
            }
        }
    }
    (all, z)
}

fn segment(kept: Kept, s: HeadShape, positions: usize) -> Segment {
    Segment {
        kept,
        batch: s.heads / s.group * positions * s.width,
        head: positions * s.width,
        positions,
    }
}

/// Scores and sums of values by the kernels.
fn by_kernels(
    on: Processor,
    s: HeadShape,
    q: &[f32],
    keys: &[Segment],
    values: &[Segment],
    to: ToScores,
) -> (Vec<f32>, Vec<f32>) {
    let positions: usize = keys.iter().map(|k| k.positions).sum();
    let mut found = vec![9.0; s.batch * s.heads * s.tokens * positions];
    scores_on(on, s, q, keys, to, &mut found);
    let mut probs = found.clone();
    softmax_on(on, &mut probs, positions);
    let mut z = vec![9.0; s.batch * s.tokens * s.heads * s.width];
    mix_on(on, s, &probs, values, &mut z);
    (found, z)
}

#[test]
fn attention_is_that_of_the_formula() {
    for on in Processor::all() {
        for (tokens, start) in [(70, 0), (1, 0), (1, 300), (5, 260), (33, 31)] {
            for (window, cap) in [(None, None), (Some(20), None), (None, Some(3.0))] {
                let s = HeadShape { tokens, ..SHAPE };
                let to = ToScores {
                    start,
                    window,
                    scale: 0.3,
                    cap,
                };
                let positions = start + tokens;
                let q = numbers(8, s.batch * s.heads * tokens * s.width, 1.0);
                let k = numbers(9, s.batch * 2 * positions * s.width, 1.0);
                let v = numbers(10, k.len(), 1.0);
                let (expected, expected_z) = plainly(s, &q, &k, &v, to);
                let (found, z) = by_kernels(
                    on,
                    s,
                    &q,
                    &[segment(Kept::F32(&k), s, positions)],
                    &[segment(Kept::F32(&v), s, positions)],
                    to,
                );
                for (a, b) in found.iter().zip(&expected) {
                    assert!(
                        (f64::from(*a) - b).abs() < 1e-5 || f64::from(*a) == *b,
                        "{a} {b}"
                    );
                }
                close(&z, &expected_z, 3e-6);
            }
        }
    }
}

#[test]
fn what_a_query_reads_is_the_same_alone_and_beside_others() {
    for on in Processor::all() {
        let s = HeadShape { batch: 1, ..SHAPE };
        let to = ToScores {
            start: 0,
            window: None,
            scale: 0.3,
            cap: None,
        };
        let q = numbers(11, s.heads * s.tokens * s.width, 1.0);
        let k = numbers(12, 2 * s.tokens * s.width, 1.0);
        let v = numbers(13, k.len(), 1.0);
        let whole = |x| [segment(Kept::F32(x), s, s.tokens)];
        let (_, all) = by_kernels(on, s, &q, &whole(&k), &whole(&v), to);
        for t in [0, 1, 31, 32, 50, 69] {
            let of = |h: usize| q[(h * s.tokens + t) * s.width..][..s.width].to_vec();
            let q: Vec<f32> = (0..s.heads).flat_map(of).collect();
            let one = HeadShape { tokens: 1, ..s };
            let to = ToScores { start: t, ..to };
            // As a cache stores them: the first positions of longer rows.
            let so_far = |x| {
                [Segment {
                    positions: t + 1,
                    ..segment(Kept::F32(x), s, s.tokens)
                }]
            };
            let (_, z) = by_kernels(on, one, &q, &so_far(&k), &so_far(&v), to);
            assert_eq!(z, all[t * s.heads * s.width..][..s.heads * s.width], "{t}");
            // In two segments, the first of them shared by all rows.
            let cut = t / 2;
            let part = |x: &[f32], from: usize, to: usize| -> Vec<f32> {
                let of = |h: usize| {
                    x[(h * s.tokens + from) * s.width..(h * s.tokens + to) * s.width].to_vec()
                };
                (0..2).flat_map(of).collect()
            };
            let parts = |x: &[f32]| [part(x, 0, cut), part(x, cut, t + 1)];
            let ([k0, k1], [v0, v1]) = (parts(&k), parts(&v));
            let keys = [
                segment(Kept::F32(&k0), s, cut),
                segment(Kept::F32(&k1), s, t + 1 - cut),
            ];
            let values = [
                segment(Kept::F32(&v0), s, cut),
                segment(Kept::F32(&v1), s, t + 1 - cut),
            ];
            let (_, parted) = by_kernels(on, one, &q, &keys, &values, to);
            assert_eq!(parted, z, "{t}");
        }
    }
}

#[test]
fn narrow_keys_and_values_are_widened() {
    for on in Processor::all() {
        let s = HeadShape { tokens: 3, ..SHAPE };
        let to = ToScores {
            start: 9,
            window: None,
            scale: 0.3,
            cap: None,
        };
        let q = numbers(14, s.batch * s.heads * s.tokens * s.width, 1.0);
        let bits: Vec<u16> = numbers(15, s.batch * 2 * 12 * s.width, 1.0)
            .iter()
            .map(|x| (x.to_bits() >> 16) as u16)
            .collect();
        let wide: Vec<f32> = bits.iter().map(|b| super::lanes::from_bf16(*b)).collect();
        let as_f16: Vec<f32> = bits
            .iter()
            .map(|b| super::lanes::from_f16(*b & 0xbfff))
            .collect();
        let f16: Vec<u16> = bits.iter().map(|b| b & 0xbfff).collect();
        for (narrow, wide) in [(Kept::Bf16(&bits), &wide), (Kept::F16(&f16), &as_f16)] {
            let (narrow, wide) = ([segment(narrow, s, 12)], [segment(Kept::F32(wide), s, 12)]);
            assert_eq!(
                by_kernels(on, s, &q, &narrow, &narrow, to),
                by_kernels(on, s, &q, &wide, &wide, to)
            );
        }
    }
}

#[test]
fn heads_are_turned_as_the_formula_says() {
    let [batch, tokens, heads, width] = [2, 3, 4, 10];
    let x = numbers(16, batch * tokens * heads * width, 1.0);
    let (cos, sin) = (numbers(17, tokens * 4, 1.0), numbers(18, tokens * 4, 1.0));
    for interleaved in [false, true] {
        let turn = Turn {
            cos: &cos,
            sin: &sin,
            half: 4,
            interleaved,
        };
        let mut y = vec![9.0; x.len()];
        by_head([batch, tokens, heads, width], &x, Some(turn), &mut y);
        for (row, y) in y.chunks(width).enumerate() {
            let (t, h, b) = (row % tokens, row / tokens % heads, row / tokens / heads);
            let x = &x[((b * tokens + t) * heads + h) * width..][..width];
            for i in 0..4 {
                let (a, b) = if interleaved {
                    (2 * i, 2 * i + 1)
                } else {
                    (i, i + 4)
                };
                let (cos, sin) = (cos[t * 4 + i], sin[t * 4 + i]);
                assert_eq!(y[a], x[a] * cos - x[b] * sin);
                assert_eq!(y[b], x[a] * sin + x[b] * cos);
            }
            assert_eq!(y[8..], x[8..]);
        }
    }
}

#[test]
fn the_gradient_of_a_product_is_that_of_the_unpacked_weights() {
    let (out, input, rows) = (1100, 96, 3);
    let w = numbers(19, out * input, 0.2);
    let by = numbers(20, rows * out, 1.0);
    let bits: Vec<u16> = w.iter().map(|x| (x.to_bits() >> 16) as u16).collect();
    let narrow: Vec<f32> = bits.iter().map(|b| super::lanes::from_bf16(*b)).collect();
    let bytes: Vec<u8> = (0..out * 3 * 34)
        .map(|i| {
            if i % 34 == 1 {
                0x21
            } else {
                (i * 7 % 251) as u8
            }
        })
        .collect();
    let packed = Packed::new(Encoding::Q8_0, out, input, &bytes).unwrap();
    let blocks = packed.rows(0..out);
    let kinds = [
        (StoredRows::Plain(PlainWeights::F32(&w)), &w),
        (StoredRows::Plain(PlainWeights::Bf16(&bits)), &narrow),
        (StoredRows::Packed(&packed, 0..out), &blocks),
    ];
    for (weights, wide) in kinds {
        let expected = by.chunks(out).flat_map(|by| {
            let of = |i: usize| -> f64 {
                let terms = (0..out).map(|o| f64::from(by[o]) * f64::from(wide[o * input + i]));
                terms.sum()
            };
            (0..input).map(of).collect::<Vec<_>>()
        });
        let mut y = vec![9.0; rows * input];
        backward(input, &weights, &by, &mut y);
        close(&y, &expected.collect::<Vec<_>>(), 1e-4);
    }
    // Some rows of blocks, beginning in the middle of a group of sixteen.
    let (mut part, mut rest) = (vec![0.0; input], vec![0.0; input]);
    backward(
        input,
        &StoredRows::Packed(&packed, 0..37),
        &by[..37],
        &mut part,
    );
    backward(
        input,
        &StoredRows::Packed(&packed, 37..out),
        &by[37..out],
        &mut rest,
    );
    let sum: Vec<f32> = part.iter().zip(&rest).map(|(a, b)| a + b).collect();
    let mut whole = vec![0.0; input];
    backward(
        input,
        &StoredRows::Packed(&packed, 0..out),
        &by[..out],
        &mut whole,
    );
    close(&sum, &wide(&whole), 1e-4);
}

/// The slopes against differences of the formulas in f64.
#[test]
fn slopes_are_those_of_the_formula() {
    for on in Processor::all() {
        let mut x = numbers(8, 2000, 12.0);
        x.extend([0.0, -0.0, 1e-30, 90.0, -90.0]);
        for gate in [Gate::Silu, Gate::QuickGelu, Gate::GeluTanh] {
            let of = |x: f64| formula(gate, x);
            let step = 1e-5;
            let slope = |x: f64| (of(x + step) - of(x - step)) / (2.0 * step);
            let expected: Vec<f64> = wide(&x).into_iter().map(slope).collect();
            let mut y = vec![9.0; x.len()];
            slopes_on(on, gate, &x, &mut y);
            close(&y, &expected, 1e-5);
        }
    }
}

/// Many rows at once, of every odd shape, against a plain sum; and no row depends on the others.
#[test]
fn many_rows_go_back_as_one_by_one() {
    for on in Processor::all() {
        for (rows, out, input) in [(32, 5, 7), (97, 129, 64), (101, 300, 203), (200, 64, 65)] {
            let w = numbers(9, out * input, 1.0);
            let by = numbers(10, rows * out, 1.0);
            let weights = StoredRows::Plain(PlainWeights::F32(&w));
            let mut y = vec![9.0; rows * input];
            backward_on(on, input, &weights, &by, &mut y);
            let cell = |i: usize| {
                let (row, column) = (i / input, i % input);
                let terms = (0..out)
                    .map(|o| f64::from(by[row * out + o]) * f64::from(w[o * input + column]));
                terms.sum::<f64>()
            };
            let expected: Vec<f64> = (0..y.len()).map(cell).collect();
            let largest = expected.iter().fold(0f64, |a, b| a.max(b.abs()));
            for (found, expected) in y.iter().zip(&expected) {
                assert!((f64::from(*found) - expected).abs() < 1e-5 * largest);
            }
            let mut alone = vec![9.0; 40 * input];
            backward_on(
                on,
                input,
                &weights,
                &by[..40.min(rows) * out],
                &mut alone[..40.min(rows) * input],
            );
            assert_eq!(alone[..32 * input], y[..32 * input], "{rows} {out} {input}");
        }
    }
}
