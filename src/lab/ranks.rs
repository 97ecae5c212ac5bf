//! Rank correlation: how far two ways of measuring order the same things alike.
//!
//! Invariant: equal numbers share their ranks, and what is not finite has no rank. To compare in another way, add a function.

/// Spearman's rank correlation, equal numbers sharing their ranks; none where one list is all equal or not finite.
pub fn rank_correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.iter().chain(b).any(|x| !x.is_finite()) {
        return None;
    }
    let (a, b) = (ranks(a), ranks(b));
    let mean = f64::midpoint(1.0, a.len() as f64);
    let (mut both, mut own, mut other) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(&b) {
        both += (a - mean) * (b - mean);
        own += (a - mean).powi(2);
        other += (b - mean).powi(2);
    }
    (own > 0.0 && other > 0.0).then(|| both / (own * other).sqrt())
}

/// The 95 % interval of a rank correlation over so many things: Fisher's transformation with the variance of Bonett and Wright (2000).
pub fn correlation_interval(correlation: f64, count: usize) -> Option<(f64, f64)> {
    let own = (count > 3 && correlation.abs() < 1.0).then(|| correlation.atanh())?;
    let spread = ((1.0 + correlation.powi(2) / 2.0) / (count as f64 - 3.0)).sqrt() * 1.96;
    Some(((own - spread).tanh(), (own + spread).tanh()))
}

/// Ranks from 1; equal numbers have the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut out = vec![0.0; values.len()];
    let mut first = 0;
    #[allow(clippy::float_cmp)] // ties are the same number
    for group in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let last = first + group.len();
        let own = f64::midpoint((first + 1) as f64, last as f64);
        group.iter().for_each(|i| out[*i] = own);
        first = last;
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ties_share_their_ranks_and_zero_is_one_number() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert_eq!(ranks(&[0.0, -0.0, 1.0]), [1.5, 1.5, 3.0]);
        assert_eq!(rank_correlation(&[1.0, 2.0], &[3.0, 3.0]), None);
        assert_eq!(rank_correlation(&[1.0, f64::NAN], &[3.0, 4.0]), None);
    }

    #[test]
    fn the_interval_is_around_the_number_and_narrows() {
        let (low, high) = correlation_interval(0.8, 28).unwrap();
        // By hand: atanh 0.8 = 1.0986, its deviation sqrt(1.32 / 25) = 0.2298.
        assert!(
            (low - 0.5701).abs() < 1e-3 && (high - 0.9136).abs() < 1e-3,
            "{low} {high}"
        );
        let (narrow, _) = correlation_interval(0.8, 280).unwrap();
        assert!(narrow > low);
        assert_eq!(correlation_interval(0.8, 3), None);
    }

    #[test]
    fn ranks_agree_where_orders_do() {
        let rho = |a: &[f64], b: &[f64]| rank_correlation(a, b);
        assert_eq!(rho(&[1.0, 5.0, 9.0], &[-3.0, 0.0, 100.0]), Some(1.0));
        assert_eq!(rho(&[1.0, 5.0, 9.0], &[3.0, 2.0, 1.0]), Some(-1.0));
        // Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / √(4.5 · 5).
        let tied = rho(&[1.0, 2.0, 2.0, 3.0], &[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert!((tied - 4.5 / (4.5f64 * 5.0).sqrt()).abs() < 1e-12);
        assert_eq!(rho(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(rho(&[f64::NAN, 1.0], &[1.0, 2.0]), None);
    }
}
