//! Strips against logits that are laid out, and against plain sums in f64.
#![allow(clippy::unwrap_used, clippy::float_cmp)]

use super::*;
use crate::model::kernels::encoding::Encoding;
use crate::model::kernels::exponent::{exp, tanh};
use crate::model::kernels::lanes::Lanes;
use crate::model::kernels::machine::with_lanes;
use crate::model::kernels::tests::Random;
use crate::model::kernels::{Packed, PlainWeights, dense_on, packed_on};

const PLAIN: LogitScale = LogitScale {
    bias: None,
    scale: 1.0,
    cap: None,
};

/// Runs work on a pool of its own size.
fn threads<R: Send>(count: usize, work: impl FnOnce() -> R + Send) -> R {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(count);
    pool.build().unwrap().install(work)
}

/// Everything is asked of every row; the other row is the last.
fn everything(rows: usize, tokens: &[u32]) -> Vec<RowQuestion<'_>> {
    let one = |row| RowQuestion {
        row,
        top: 5,
        tokens,
        ranks: true,
        entropy: true,
        against: Some(OtherRow::Row(rows - 1)),
    };
    (0..rows).map(one).collect()
}

/// Reads in pieces of so many strips; raw logits of the first row, and all rows laid out.
fn strips(
    on: Processor,
    unembedding: Unembedding,
    x: &[f32],
    questions: &[RowQuestion],
    piece: usize,
) -> (Vec<RowSums>, Vec<f32>, Vec<f32>) {
    let vocab = unembedding.matrix.out();
    let rows = x.len() / unembedding.matrix.input();
    let which: Vec<usize> = (0..rows).collect();
    let (mut raw, mut whole) = (vec![0.0; vocab], vec![0.0; rows * vocab]);
    let mut reading = Reading::new_on(on, unembedding, x, questions);
    for start in (0..reading.strips()).step_by(piece) {
        let some = start..reading.strips().min(start + piece);
        let mut lay = LaidOut {
            raw: &mut raw,
            whole: &mut whole,
            which: &which,
        };
        reading.take(some, &mut lay);
    }
    (reading.into_sums(), raw, whole)
}

/// The same bits, not-a-number among them.
fn same(a: &[RowSums], b: &[RowSums]) -> bool {
    format!("{a:?}") == format!("{b:?}")
}

/// The statistics of a row in f64.
fn by_hand(row: &[f32], other: &[f32], known: usize, tokens: &[u32]) -> RowSums {
    let total = |row: &[f32]| {
        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row
            .iter()
            .map(|z| (f64::from(*z) - f64::from(top)).exp())
            .sum();
        f64::from(top) + sum.ln()
    };
    let logs = |row: &[f32]| -> Vec<f64> {
        let total = total(row);
        row.iter().map(|z| f64::from(*z) - total).collect()
    };
    let (own, theirs) = (logs(row), logs(other));
    let mut order: Vec<(u32, f32)> = (0u32..).zip(row[..known].iter().copied()).collect();
    order.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
    order.truncate(5);
    let token = |id: &u32| {
        let z = row[*id as usize];
        (
            *id,
            z,
            row.iter().filter(|other| **other > z).count() as u32,
        )
    };
    let gaps = row.iter().zip(other).map(|(a, b)| (a - b).abs());
    RowSums {
        total: total(row),
        top: order,
        tokens: tokens.iter().map(token).collect(),
        entropy: own.iter().map(|l| -l.exp() * l).sum(),
        kl: theirs
            .iter()
            .zip(&own)
            .map(|(p, q)| p.exp() * (p - q))
            .sum(),
        gap: gaps.fold(0.0, f32::max),
    }
}

fn check(found: &RowSums, hand: &RowSums, what: &str) {
    assert_eq!(found.top, hand.top, "{what}");
    assert_eq!(found.tokens, hand.tokens, "{what}");
    assert_eq!(found.gap, hand.gap, "{what}");
    for (a, b, tolerance) in [
        (found.total, hand.total, 5e-7),
        (found.entropy, hand.entropy, 2e-6),
        (found.kl, hand.kl, 1e-6 * (1.0 + hand.kl)),
    ] {
        assert!((a - b).abs() <= tolerance, "{what}: {a} and {b}");
    }
}

/// Whatever the weights are stored in, the strips say what is said of the whole product laid out, bit for bit, which is what
/// sums in f64 say.
#[test]
fn strips_say_what_whole_rows_say() {
    let mut random = Random(11);
    for vocab in [7, 256, 1003] {
        let input = 256;
        let bits: Vec<u16> = (0..vocab * input)
            .map(|_| random.bits() as u16 & 0xbfff & 0x83ff | 0x2400)
            .collect();
        let halves: Vec<u16> = (0..vocab * input)
            .map(|_| (random.normals(1, 0.3)[0].to_bits() >> 16) as u16)
            .collect();
        let floats = random.normals(vocab * input, 0.3);
        let packed: Vec<Packed> = Encoding::BLOCKS
            .iter()
            .map(|encoding| {
                let size = encoding.bytes();
                let mut bytes: Vec<u8> = (0..vocab * input / encoding.length() * size)
                    .map(|_| (random.bits() >> 20) as u8)
                    .collect();
                for block in bytes.chunks_exact_mut(size) {
                    for at in encoding.fields().halves {
                        block[*at..at + 2].copy_from_slice(&0x1c1fu16.to_le_bytes());
                    }
                }
                Packed::new(*encoding, vocab, input, &bytes).unwrap()
            })
            .collect();
        let plain = [
            PlainWeights::F32(&floats),
            PlainWeights::F16(&bits),
            PlainWeights::Bf16(&halves),
        ];
        let matrices = plain
            .map(|weights| Matrix::Plain(weights, input))
            .into_iter();
        let matrices = matrices.chain(packed.iter().map(Matrix::Packed));
        let bias = random.normals(vocab, 1.0);
        let known = vocab - vocab / 4;
        let tokens = [0, 3, vocab as u32 - 1, vocab as u32 / 2];
        for (number, matrix) in matrices.enumerate() {
            for rows in [1, 3, 31] {
                let x = random.normals(rows * input, 1.0);
                let questions = everything(rows, &tokens);
                for (on, scale) in Processor::all().into_iter().zip(
                    [
                        PLAIN,
                        LogitScale {
                            bias: Some(&bias),
                            scale: 0.7,
                            cap: Some(30.0),
                        },
                    ]
                    .into_iter()
                    .cycle()
                    .skip(number),
                ) {
                    let what = format!("{vocab} matrix {number} {rows} rows {}", on.name());
                    let unembedding = Unembedding {
                        matrix,
                        scale,
                        known,
                    };
                    let (found, raw, whole) = strips(on, unembedding, &x, &questions, 2);
                    let mut product = vec![0.0; rows * vocab];
                    match matrix {
                        Matrix::Plain(weights, _) => {
                            dense_on(on, weights, input, &x, &mut product);
                        }
                        Matrix::Packed(packed) => {
                            packed_on(on, packed, 0..vocab, &x, &mut product);
                        }
                    }
                    if let Some(bias) = scale.bias {
                        for row in product.chunks_exact_mut(vocab) {
                            row.iter_mut().zip(bias).for_each(|(z, b)| *z += b);
                        }
                    }
                    assert_eq!(raw, product[..vocab], "{what}");
                    for (z, p) in whole.iter().zip(&product) {
                        let p = f64::from(*p) * f64::from(scale.scale);
                        let p = scale
                            .cap
                            .map_or(p, |cap| (p / f64::from(cap)).tanh() * f64::from(cap));
                        assert!((f64::from(*z) - p).abs() < 4e-7 * (1.0 + p.abs()), "{what}");
                    }
                    let each: Vec<&[f32]> = whole.chunks_exact(vocab).collect();
                    let laid = read_rows_on(on, &each, known, &questions);
                    assert!(same(&found, &laid), "{what}: {found:?} {laid:?}");
                    for (row, found) in each.iter().zip(&found) {
                        check(found, &by_hand(row, each[rows - 1], known, &tokens), &what);
                    }
                }
            }
        }
    }
}

/// Rows do not depend on their neighbours, on the number of threads, or on how many strips are read between two reports.
#[test]
fn a_row_says_the_same_beside_others_and_on_any_number_of_threads() {
    let (vocab, input, rows) = (5003, 136, 9);
    let mut random = Random(12);
    let weights = random.normals(vocab * input, 0.3);
    let x = random.normals(rows * input, 1.0);
    let tokens = [1, 4999, 5002];
    let questions: Vec<RowQuestion> = everything(rows, &tokens)
        .into_iter()
        .map(|question| RowQuestion {
            against: None,
            ..question
        })
        .collect();
    for on in Processor::all() {
        let unembedding = Unembedding {
            matrix: Matrix::Plain(PlainWeights::F32(&weights), input),
            scale: PLAIN,
            known: vocab,
        };
        let one = threads(1, || strips(on, unembedding, &x, &questions, 100));
        for (count, piece) in [(2, 100), (3, 1), (5, 3)] {
            let many = threads(count, || strips(on, unembedding, &x, &questions, piece));
            assert!(same(&one.0, &many.0), "{} {count}", on.name());
            assert_eq!(one.1, many.1);
        }
        for (row, x) in x.chunks(input).enumerate() {
            let question = RowQuestion {
                row: 0,
                ..questions[row]
            };
            let alone = strips(on, unembedding, x, &[question], 100).0;
            assert!(same(&alone, &one.0[row..=row]), "{} row {row}", on.name());
        }
    }
}

/// Logits of tokens of interest are those of the strips, to the bit, where columns are left over too.
#[test]
fn the_logit_of_a_token_is_that_of_its_strip() {
    let mut random = Random(13);
    for (vocab, input) in [(70, 19), (259, 1100), (17, 5)] {
        let weights = random.normals(vocab * input, 0.3);
        let tokens: Vec<u32> = (0..vocab as u32).collect();
        let x = random.normals(7 * input, 1.0);
        for on in Processor::all() {
            let unembedding = Unembedding {
                matrix: Matrix::Plain(PlainWeights::F32(&weights), input),
                scale: PLAIN,
                known: vocab,
            };
            let (found, _, whole) = strips(on, unembedding, &x, &everything(7, &tokens), 1);
            for (found, row) in found.iter().zip(whole.chunks(vocab)) {
                for ((id, logit, above), z) in found.tokens.iter().zip(row) {
                    assert_eq!(logit, z, "{} token {id} of {vocab}", on.name());
                    let larger = row.iter().filter(|other| *other > z).count();
                    assert_eq!(*above, larger as u32);
                    assert_eq!(ranks(&[row], *id), [*above]);
                }
            }
        }
    }
}

#[test]
fn ties_padding_bans_and_what_is_not_finite() {
    let ask = RowQuestion {
        top: 3,
        tokens: &[2, 400],
        ranks: true,
        entropy: true,
        ..RowQuestion::default()
    };
    for on in Processor::all() {
        let read = |row: &[f32], known: usize| read_rows_on(on, &[row], known, &[ask]).remove(0);
        // Equals by their ids, across strips; the larger ones behind are padding, which has ranks but is never named.
        let mut row = vec![0.0; 600];
        for at in [590, 5, 300, 299, 77] {
            row[at] = 2.0;
        }
        row[599] = 9.0;
        let found = read(&row, 599);
        assert_eq!(found.top, [(5, 2.0), (77, 2.0), (299, 2.0)]);
        assert_eq!(found.tokens, [(2, 0.0, 6), (400, 0.0, 6)]);
        assert_eq!(read(&row, 600).top[0], (599, 9.0));
        assert_eq!(read(&row, 2).top, [(0, 0.0), (1, 0.0)]);
        // A token that the vocabulary has not is left out.
        assert_eq!(read(&row[..300], 300).tokens.len(), 1);
        // Banned tokens have no probability.
        let mut banned = vec![f32::NEG_INFINITY; 600];
        banned[2] = 1.0;
        banned[511] = 1.0;
        let found = read(&banned, 600);
        assert!((found.total - (1.0 + 2f64.ln())).abs() < 1e-7);
        assert!((found.entropy - 2f64.ln()).abs() < 1e-6);
        assert_eq!(found.top[..2], [(2, 1.0), (511, 1.0)]);
        assert_eq!(found.tokens[1].2, 2);
        let against = |rows: &[&[f32]]| {
            let question = RowQuestion {
                against: Some(OtherRow::Row(1)),
                ..ask
            };
            read_rows_on(on, rows, 600, &[question]).remove(0)
        };
        let itself = against(&[&banned, &banned]);
        assert_eq!((itself.kl, itself.gap), (0.0, 0.0));
        let fewer = against(&[&row, &banned]);
        assert!(fewer.kl.is_finite() && fewer.gap == f32::INFINITY);
        assert_eq!(against(&[&banned, &row]).kl, f64::INFINITY);
        // Rows that differ by a constant are one distribution.
        let shifted: Vec<f32> = row.iter().map(|z| z + 700.0).collect();
        assert!(against(&[&row, &shifted]).kl < 1e-7);
        for bad in [f32::NAN, f32::INFINITY] {
            for at in [0, 255, 256, 511, 597, 599] {
                let mut broken = row.clone();
                broken[at] = bad;
                let found = against(&[&broken, &row]);
                let numbers = [found.total, found.entropy, found.kl, f64::from(found.gap)];
                assert!(numbers.iter().all(|n| n.is_nan()), "{bad} at {at}");
                assert!(found.top.is_empty());
                assert_eq!(found.tokens.len(), 2);
                let beside = against(&[&row, &broken]);
                assert!(beside.kl.is_nan() && beside.gap.is_nan());
                assert!(beside.total.is_finite());
            }
        }
        assert!(read(&[f32::NEG_INFINITY; 300], 300).total.is_nan());
    }
}

/// A divergence that is small beside the logits is not lost.
#[test]
fn a_small_divergence_is_exact() {
    let mut random = Random(14);
    let row = random.normals(3000, 8.0);
    let noise = random.normals(3000, 1e-2);
    let other: Vec<f32> = row.iter().zip(noise).map(|(z, n)| z + n).collect();
    let question = RowQuestion {
        against: Some(OtherRow::Logits(&other)),
        ..RowQuestion::default()
    };
    for on in Processor::all() {
        let found = read_rows_on(on, &[&row], 0, &[question]);
        let exact = by_hand(&row, &other, 0, &[]).kl;
        let error = (found[0].kl - exact).abs();
        assert!(
            exact > 1e-6 && error < 3e-7,
            "{} {exact:e} {error:e}",
            on.name()
        );
    }
}

/// Sixteen numbers through a function of lanes.
fn each(on: Processor, function: Function, numbers: &mut [f32; 16]) {
    unsafe fn apply<S: Lanes>(function: Function, numbers: &mut [f32; 16]) {
        for at in (0..16).step_by(S::N) {
            // SAFETY: sixteen numbers are whole vectors of every machine.
            unsafe {
                let at = numbers.as_mut_ptr().add(at);
                let y = match function {
                    Function::Exp => exp::<S>(S::load(at)),
                    Function::Tanh => tanh::<S>(S::load(at)),
                };
                S::store(y, at);
            }
        }
    }
    with_lanes!(on, apply(function: Function, numbers: &mut [f32; 16]));
}

#[derive(Clone, Copy)]
enum Function {
    Exp,
    Tanh,
}

#[test]
fn exponentials_are_within_one_part_in_ten_million() {
    for on in Processor::all() {
        let (mut worst, mut worst_tanh) = (0f64, 0f64);
        for i in 0..20_000 {
            let x: [f32; 16] = std::array::from_fn(|k| -((i * 16 + k) as f32) / 3700.0);
            let mut y = x;
            each(on, Function::Exp, &mut y);
            for (x, y) in x.iter().zip(y) {
                let exact = f64::from(*x).exp();
                worst = worst.max((f64::from(y) - exact).abs() / exact);
            }
            let x = x.map(|x| (x + 43.0) / 4.0);
            let mut y = x;
            each(on, Function::Tanh, &mut y);
            for (x, y) in x.iter().zip(y) {
                let exact = f64::from(*x).tanh();
                worst_tanh = worst_tanh.max((f64::from(y) - exact).abs() / exact.abs().max(1e-30));
            }
        }
        assert!(worst < 1e-7, "{}: {worst:e}", on.name());
        assert!(worst_tanh < 3e-7, "{}: {worst_tanh:e}", on.name());
        let mut rest = [0.0; 16];
        rest[..3].copy_from_slice(&[f32::NEG_INFINITY, -1e30, -200.0]);
        each(on, Function::Exp, &mut rest);
        assert!(rest[..3].iter().all(|y| *y < 2e-38) && rest[3] == 1.0);
        rest[..3].copy_from_slice(&[f32::NAN, 1e30, f32::NEG_INFINITY]);
        each(on, Function::Tanh, &mut rest);
        assert!(rest[0].is_nan() && rest[1] == 1.0 && rest[2] == -1.0);
    }
}
