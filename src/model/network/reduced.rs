//! Statistics of the vocabulary taken on a device, of logits that are laid out there.
//!
//! What crosses to the host is what was asked: some dozens of numbers a row, and not a row of logits. The strongest tokens are found by
//! as many passes of a masked maximum as are wanted, because sorting a vocabulary costs more. Invariant: everything that is asked of all
//! rows comes back in one piece, so that the device is waited for once; sums are f32, where the CPU's read-out sums in f64 by strips. A
//! row with a logit that is NaN or plus infinity names no token, and all its numbers are not-a-number.

use candle_core::{D, DType, Tensor};

use super::statistics::{ReadoutRequest, StrongestLookup, StrongestToken};
use crate::error::Result;
use crate::model::host::ToHost;
use crate::model::kernels::vocabulary::{OtherRow, RowQuestion, RowSums};

/// In the place of a banned token's logit where it is multiplied by its probability, which is 0.
const BANNED: f64 = -1e30;

/// Where the numbers of a question lie in what comes back.
struct QuestionLayout {
    top: usize,
    tokens: Vec<u32>,
}

/// What rows of logits `[n, vocab]` say, of which the first `known` tokens can be among the strongest.
pub(super) fn reduced(
    logits: &Tensor,
    request: &ReadoutRequest,
) -> Result<(Vec<RowSums>, Vec<StrongestToken>)> {
    let (known, questions) = (request.known, request.questions);
    let logits = logits.to_dtype(DType::F32)?;
    let vocab = logits.dim(1)?;
    let mut pieces: Vec<Tensor> = Vec::new();
    let mut layouts = Vec::with_capacity(questions.len());
    for question in questions {
        let inside = |id: &u32| (*id as usize) < vocab;
        let tokens: Vec<u32> = question.tokens.iter().copied().filter(inside).collect();
        let z = logits.narrow(0, question.row, 1)?;
        let sums = DistributionSums::of(&z)?;
        pieces.extend([
            sums.largest.clone(),
            sums.total.clone(),
            sums.weighted.clone(),
        ]);
        pieces.extend(against(&logits, &z, question)?);
        pieces.extend(strongest(&z.narrow(1, 0, known.min(vocab))?, question.top)?);
        if !tokens.is_empty() {
            let ids = Tensor::from_vec(tokens.clone(), (1, tokens.len()), z.device())?;
            let own = z.gather(&ids, 1)?;
            for at in 0..tokens.len() {
                let larger = z.broadcast_gt(&own.narrow(1, at, 1)?)?;
                let rank = larger.to_dtype(DType::F32)?.sum_keepdim(1)?;
                pieces.extend([own.narrow(1, at, 1)?, rank]);
            }
        }
        layouts.push(QuestionLayout {
            top: question.top.min(known.min(vocab)),
            tokens,
        });
    }
    for lookup in request.lookups {
        pieces.extend(looked_up(&logits, lookup)?);
    }
    if pieces.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let numbers = Tensor::cat(&pieces, 1)?.flatten_all()?.host_vec1::<f32>()?;
    let mut numbers = numbers.into_iter();
    let out = layouts
        .iter()
        .zip(questions)
        .map(|(layout, question)| layout.read(&mut numbers, question));
    let out = out.collect();
    let looked = request.lookups.iter().map(|lookup| {
        let id = numbers.next().unwrap_or(f32::NAN) as u32;
        let own: Vec<f32> = numbers.by_ref().take(2 * lookup.rows.len()).collect();
        let (values, ranks) = own.split_at(own.len() / 2);
        let rows = values.iter().zip(ranks).map(|(z, rank)| (*z, *rank as u32));
        StrongestToken {
            id,
            rows: rows.collect(),
        }
    });
    Ok((out, looked.collect()))
}

/// The number of a row's strongest token, its logits in other rows, and its ranks there.
fn looked_up(logits: &Tensor, lookup: &StrongestLookup) -> Result<Vec<Tensor>> {
    let vocab = logits.dim(1)?;
    let of = logits.narrow(0, lookup.of, 1)?;
    let at = of
        .narrow(1, 0, lookup.known.min(vocab))?
        .argmax_keepdim(1)?;
    let mut out = vec![at.to_dtype(DType::F32)?];
    if lookup.rows.is_empty() {
        return Ok(out);
    }
    let which: Vec<u32> = lookup.rows.iter().map(|row| *row as u32).collect();
    let rows = logits.index_select(&Tensor::new(which, logits.device())?, 0)?;
    let count = rows.dim(0)?;
    let own = rows.gather(&at.broadcast_as((count, 1))?.contiguous()?, 1)?;
    let larger = rows.broadcast_gt(&own)?.to_dtype(DType::F32)?;
    out.push(own.reshape((1, count))?);
    out.push(larger.sum_keepdim(1)?.reshape((1, count))?);
    Ok(out)
}

/// The strongest tokens of every row `[n, known]` with their values, strongest first, in one read-back; a row with a number that is
/// none has none.
pub fn strongest_of_rows(rows: &Tensor, count: usize) -> Result<Vec<Vec<(u32, f32)>>> {
    let rows = rows.to_dtype(DType::F32)?;
    let (n, known) = rows.dims2()?;
    let count = count.min(known);
    // Not-a-number hides from a maximum, and shows in a sum.
    let sums = (&rows * 0.0)?.sum_keepdim(1)?;
    let mut pieces = strongest(&rows, count)?;
    pieces.push(sums);
    let numbers = Tensor::cat(&pieces, 1)?.flatten_all()?.host_vec1::<f32>()?;
    let width = 2 * count + 1;
    let row = |i: usize| {
        let own = &numbers[i * width..(i + 1) * width];
        let (pairs, sum) = own.split_at(2 * count);
        if !sum[0].is_finite() {
            return Vec::new();
        }
        let pairs = pairs.chunks_exact(2);
        pairs.map(|pair| (pair[0] as u32, pair[1])).collect()
    };
    Ok((0..n).map(row).collect())
}

/// The largest difference of two rows of logits `[vocab]`, in one read-back; not finite where something is not finite in either, except
/// for minus infinity in both, which is a banned token.
pub fn largest_gap(a: &Tensor, b: &Tensor) -> Result<f32> {
    let (a, b) = (a.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?);
    let alike = (a.eq(&b)? * a.lt(f32::INFINITY)?)?;
    let apart = alike.where_cond(&a.zeros_like()?, &(&a - &b)?.abs()?)?;
    // Not-a-number hides from a maximum, and shows in a sum.
    let ends = [apart.max(0)?, (apart * 0.0)?.sum_all()?];
    let ends = Tensor::stack(&ends, 0)?.host_vec1::<f32>()?;
    Ok(ends[0] + ends[1])
}

/// The sums of a distribution `[1, vocab]`, `[1, 1]` each.
struct DistributionSums {
    largest: Tensor,
    /// `Σ exp(z − largest)`.
    total: Tensor,
    /// `Σ exp(z − largest)·(z − largest)`.
    weighted: Tensor,
    /// `exp(z − largest)`, `[1, vocab]`.
    shares: Tensor,
}

impl DistributionSums {
    fn of(z: &Tensor) -> Result<Self> {
        let largest = z.max_keepdim(D::Minus1)?;
        let apart = z.broadcast_sub(&largest)?;
        let shares = apart.exp()?;
        let weighted = (&shares * apart.maximum(BANNED)?)?;
        Ok(Self {
            largest,
            total: shares.sum_keepdim(1)?,
            weighted: weighted.sum_keepdim(1)?,
            shares,
        })
    }
}

/// `Σ p_other·(z_other − z)` with the other's maximum and sum, and the largest difference; nothing where no other row is asked about.
fn against(logits: &Tensor, z: &Tensor, question: &RowQuestion) -> Result<Vec<Tensor>> {
    let other = match question.against {
        None => return Ok(Vec::new()),
        Some(OtherRow::Row(at)) => logits.narrow(0, at, 1)?,
        Some(OtherRow::Logits(all)) => {
            let vocab = z.dim(1)?;
            Tensor::from_slice(&all[..vocab], (1, vocab), z.device())?
        }
    };
    let of_other = DistributionSums::of(&other)?;
    let apart = (other.maximum(BANNED)? - z.maximum(BANNED)?)?;
    let weighted = (&of_other.shares * &apart)?.sum_keepdim(1)?;
    let gap = apart.abs()?.max_keepdim(1)?;
    Ok(vec![of_other.largest, of_other.total, weighted, gap])
}

/// The numbers and logits of the strongest tokens of rows `[n, known]`, one after the other, `[n, 1]` each.
fn strongest(z: &Tensor, count: usize) -> Result<Vec<Tensor>> {
    let (rows, known) = z.dims2()?;
    let mut left = z.clone();
    let mut out = Vec::with_capacity(2 * count);
    for _ in 0..count.min(known) {
        let at = left.argmax_keepdim(1)?;
        out.push(at.to_dtype(DType::F32)?);
        out.push(z.gather(&at, 1)?);
        let ban = Tensor::full(f32::NEG_INFINITY, (rows, 1), z.device())?;
        left = left.scatter_add(&at, &ban, 1)?;
    }
    Ok(out)
}

impl QuestionLayout {
    /// The numbers of one question, in the order in which [`reduced`] put them.
    fn read(&self, numbers: &mut impl Iterator<Item = f32>, question: &RowQuestion) -> RowSums {
        let mut next = || numbers.next().unwrap_or(f32::NAN);
        let (largest, sum, weighted) = (f64::from(next()), f64::from(next()), f64::from(next()));
        let total = largest + sum.ln();
        let (mut kl, mut gap) = (f64::NAN, f32::NAN);
        if question.against.is_some() {
            let (other, sum) = (f64::from(next()), f64::from(next()));
            let (weighted, other_total) = (f64::from(next()), other + sum.ln());
            gap = match next() {
                // The largest of a row passes over what is not a number.
                _ if !other_total.is_finite() => f32::NAN,
                // A token that one row bans and the other does not.
                gap if gap > 1e20 => f32::INFINITY,
                gap => gap,
            };
            kl = RowSums::divergence(weighted / sum - other_total + total, gap);
        }
        let mut top: Vec<(u32, f32)> = (0..self.top).map(|_| (next() as u32, next())).collect();
        let tokens = self.tokens.iter();
        let tokens = tokens.map(|id| (*id, next(), next() as u32)).collect();
        if !total.is_finite() || largest <= BANNED {
            return RowSums::no_distribution(tokens);
        }
        // A banned token is none of the strongest.
        top.retain(|(_, z)| z.is_finite());
        RowSums {
            total,
            top,
            tokens,
            entropy: if question.entropy {
                (sum.ln() - weighted / sum).max(0.0)
            } else {
                f64::NAN
            },
            kl,
            gap,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)] // two infinities are one
mod tests {
    use candle_core::Device;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::model::kernels::vocabulary::read_rows;

    /// Near, or both not-a-number.
    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 2e-5 * a.abs().max(1.0) || a.is_nan() && b.is_nan() || a == b
    }

    #[test]
    fn a_device_says_what_the_kernels_say() {
        let (vocab, known) = (1000, 990);
        let mut rng = StdRng::seed_from_u64(7);
        let mut rows: Vec<Vec<f32>> = (0..6)
            .map(|_| (0..vocab).map(|_| rng.random_range(-9.0..9.0)).collect())
            .collect();
        // The largest is beyond what the tokenizer knows; two equal ones; banned tokens; rows that are no distribution.
        rows[0][995] = 40.0;
        (rows[1][3], rows[1][700]) = (20.0, 20.0);
        rows[2][..500].fill(f32::NEG_INFINITY);
        rows[3][17] = f32::NAN;
        rows[4][17] = f32::INFINITY;
        let other: Vec<f32> = (0..vocab).map(|i| (i % 13) as f32).collect();
        let ask = |row: usize, against| RowQuestion {
            row,
            top: 5,
            tokens: &[3, 700, 2_000],
            ranks: true,
            entropy: true,
            against,
        };
        let mut questions: Vec<RowQuestion> = (0..6).map(|row| ask(row, None)).collect();
        questions.extend([
            ask(1, Some(OtherRow::Row(1))),
            ask(1, Some(OtherRow::Row(5))),
            ask(5, Some(OtherRow::Logits(&other))),
            // A banned token that the other row has.
            ask(2, Some(OtherRow::Row(5))),
            ask(5, Some(OtherRow::Row(2))),
            // Other rows that are no distribution.
            ask(5, Some(OtherRow::Row(3))),
            ask(5, Some(OtherRow::Row(4))),
            RowQuestion::default(),
        ]);
        let slices: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let expected = read_rows(&slices, known, &questions);
        let all = Tensor::from_vec(rows.concat(), (6, vocab), &Device::Cpu).unwrap();
        let lookups = [
            StrongestLookup {
                of: 5,
                known,
                rows: &[1, 5],
            },
            StrongestLookup {
                of: 0,
                known: vocab,
                rows: &[5],
            },
        ];
        let request = ReadoutRequest {
            questions: &questions,
            known,
            lookups: &lookups,
            ..ReadoutRequest::default()
        };
        let (found, looked) = reduced(&all, &request).unwrap();
        let best = expected[5].top[0].0;
        let of = |row: usize, id: u32| {
            let own = rows[row][id as usize];
            (own, rows[row].iter().filter(|z| **z > own).count() as u32)
        };
        assert_eq!(looked[0].id, best);
        assert_eq!(looked[0].rows, [of(1, best), of(5, best)]);
        // Beyond what the tokenizer knows, where all of the vocabulary counts.
        assert_eq!(
            (looked[1].id, &looked[1].rows[..]),
            (995, &[of(5, 995)][..])
        );
        assert_eq!(found.len(), questions.len());
        for (i, (own, kernel)) in found.iter().zip(&expected).enumerate() {
            assert!(near(own.total, kernel.total), "{i}: {own:?} {kernel:?}");
            assert_eq!(own.top, kernel.top, "{i}");
            assert!(near(own.entropy, kernel.entropy), "{i}: {own:?} {kernel:?}");
            assert!(near(own.kl, kernel.kl), "{i}: {own:?} {kernel:?}");
            assert!(
                near(own.gap.into(), kernel.gap.into()),
                "{i}: {own:?} {kernel:?}"
            );
            for (a, b) in own.tokens.iter().zip(&kernel.tokens) {
                assert!(
                    a.0 == b.0 && near(a.1.into(), b.1.into()),
                    "{i}: {own:?} {kernel:?}"
                );
                assert!(
                    kernel.total.is_nan() || a.2 == b.2,
                    "{i}: {own:?} {kernel:?}"
                );
            }
            assert_eq!(own.tokens.len(), kernel.tokens.len());
        }
    }
    #[test]
    fn a_gap_is_that_of_the_check() {
        let rows = [
            [1.0f32, 2.0, f32::NEG_INFINITY],
            [1.0, 2.5, f32::NEG_INFINITY],
            [1.0, 2.0, 0.0],
            [1.0, f32::NAN, f32::NEG_INFINITY],
            [1.0, f32::INFINITY, f32::NEG_INFINITY],
        ];
        for a in &rows {
            for b in &rows {
                let tensor = |row: &[f32; 3]| Tensor::new(row, &Device::Cpu).unwrap();
                let own = largest_gap(&tensor(a), &tensor(b)).unwrap();
                let of_host = crate::figure::Check::of(a, b, 0.0).error;
                assert_eq!(own.is_finite(), of_host.is_finite(), "{a:?} {b:?}");
                assert!(!own.is_finite() || own == of_host, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn the_strongest_of_many_rows_are_those_of_each() {
        let rows = [
            [3.0f32, -1.0, 7.0, 0.5],
            [0.0, f32::NAN, 1.0, 2.0],
            [-4.0, -3.0, -2.0, -1.0],
        ];
        let found = strongest_of_rows(&Tensor::new(&rows, &Device::Cpu).unwrap(), 2).unwrap();
        assert_eq!(found[0], [(2, 7.0), (0, 3.0)]);
        assert!(found[1].is_empty(), "a row with a number that is none");
        assert_eq!(found[2], [(3, -1.0), (2, -2.0)]);
    }
}
