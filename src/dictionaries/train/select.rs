//! The largest numbers of a row, and of all rows of a batch.
//!
//! Invariant: of equal numbers the first is taken, as [`super::super::gate`] does; numbers that are not finite are refused before.

use crate::model::network::finite::order;

/// So many numbers share a maximum.
const STRIP: usize = 16;

/// The `k` largest numbers of a row by their places, in ascending order.
pub(super) fn largest(h: &[f32], k: usize) -> Vec<(u32, f32)> {
    if k == 0 {
        return Vec::new();
    }
    // The k-th largest of the maxima of strips is no larger than the k-th largest number, so what is smaller need not be sorted.
    let mut tops: Vec<f32> = h
        .chunks(STRIP)
        .map(|strip| strip.iter().copied().fold(f32::NEG_INFINITY, f32::max))
        .collect();
    let bound = if tops.len() > k {
        *tops.select_nth_unstable_by(k - 1, |a, b| order(*b, *a)).1
    } else {
        f32::NEG_INFINITY
    };
    let mut found: Vec<(u32, f32)> = h
        .iter()
        .enumerate()
        .filter(|(_, h)| **h >= bound)
        .map(|(f, h)| (f as u32, *h))
        .collect();
    cut(&mut found, k);
    found.sort_unstable_by_key(|(f, _)| *f);
    found
}

/// Keeps the `k` largest of numbered values, in any order; of equal ones the first.
fn cut(found: &mut Vec<(u32, f32)>, k: usize) {
    if k < found.len() {
        found.select_nth_unstable_by(k, |a, b| order(b.1, a.1).then(a.0.cmp(&b.0)));
        found.truncate(k);
    }
}

/// The smallest number that is among the `count` largest of all rows; `NEG_INFINITY` where there are not so many.
pub(super) fn cut_of_all(rows: &[Vec<(u32, f32)>], count: usize) -> f32 {
    let mut all: Vec<f32> = rows.iter().flatten().map(|(_, h)| *h).collect();
    if count == 0 || count >= all.len() {
        return f32::NEG_INFINITY;
    }
    *all.select_nth_unstable_by(count - 1, |a, b| order(*b, *a))
        .1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_those_of_a_whole_sort() {
        let h: Vec<f32> = (0..1000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 20) as f32 % 97.0)
            .collect();
        for k in [1, 5, 62, 63, 64, 999, 1000, 2000] {
            let mut all: Vec<(u32, f32)> =
                h.iter().enumerate().map(|(f, h)| (f as u32, *h)).collect();
            all.sort_by(|a, b| order(b.1, a.1).then(a.0.cmp(&b.0)));
            all.truncate(k);
            all.sort_by_key(|(f, _)| *f);
            assert_eq!(largest(&h, k), all, "{k}");
        }
        assert!(largest(&h, 0).is_empty());
    }

    #[test]
    fn the_cut_of_all_rows_leaves_so_many() {
        let rows = [vec![(0, 1.0), (3, 5.0)], vec![], vec![(1, 3.0), (2, 4.0)]];
        assert!((cut_of_all(&rows, 2) - 4.0).abs() < 1e-6);
        assert!(cut_of_all(&rows, 4).is_infinite());
    }
}
