//! The labels of two lists of cases: how well numbers tell them apart, and labels that are exchanged at random.
//!
//! Invariant: an exchange loses no case, and the sizes of the lists stay. To tell lists apart by something else, add a function.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// The fewest cases of a list that are split into halves.
pub(super) const FEWEST: usize = 4;

/// The share of pairs in which the one of `plus` is larger than that of `minus`; equal ones count half (the area under the ROC curve).
/// Not-a-number where one has no case.
pub fn auroc(plus: &[f64], minus: &[f64]) -> f64 {
    let mut minus = minus.to_vec();
    minus.sort_by(f64::total_cmp);
    let below = |one: &f64| {
        let less = minus.partition_point(|other| other < one);
        let most = minus.partition_point(|other| other <= one);
        f64::midpoint(less as f64, most as f64)
    };
    let wins: f64 = plus.iter().map(below).sum();
    wins / (plus.len() * minus.len()) as f64
}

/// Which prompts change sides when labels are shuffled: of pairs the pairs that are turned around, else a new order of all.
pub(super) fn exchange<T: Clone>(
    plus: &[T],
    minus: &[T],
    paired: bool,
    seed: u64,
) -> (Vec<T>, Vec<T>) {
    let mut rng = StdRng::seed_from_u64(seed);
    if paired {
        // As many pairs are turned as are left, so that nothing of the difference remains on average.
        let mut turned: Vec<bool> = (0..plus.len()).map(|i| i % 2 == 0).collect();
        turned.shuffle(&mut rng);
        let pairs = plus.iter().cloned().zip(minus.iter().cloned()).zip(turned);
        return pairs
            .map(|((p, m), turn)| if turn { (m, p) } else { (p, m) })
            .unzip();
    }
    let mut all: Vec<T> = plus.iter().chain(minus).cloned().collect();
    all.shuffle(&mut rng);
    let minus = all.split_off(plus.len());
    (all, minus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auroc_counts_pairs_in_order() {
        assert!((auroc(&[3.0, 1.0], &[2.0, 0.0]) - 0.75).abs() < 1e-12);
        assert!((auroc(&[1.0], &[1.0]) - 0.5).abs() < 1e-12);
        assert!(auroc(&[1.0, 2.0], &[3.0]).abs() < 1e-12);
    }

    #[test]
    fn labels_are_exchanged_and_nothing_is_lost() {
        let (plus, minus) = ([1, 2, 3, 4], [5, 6, 7, 8]);
        let (a, b) = exchange(&plus, &minus, true, 3);
        let turned = (0..4)
            .filter(|i| a[*i] == minus[*i] && b[*i] == plus[*i])
            .count();
        assert_eq!(turned, 2, "half of the pairs are turned around");
        let (a, b) = exchange(&plus, &minus[..3], false, 3);
        let mut all = [a.clone(), b.clone()].concat();
        all.sort_unstable();
        assert_eq!((all, a.len(), b.len()), (vec![1, 2, 3, 4, 5, 6, 7], 4, 3));
    }
}
