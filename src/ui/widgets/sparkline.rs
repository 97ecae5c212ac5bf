//! A sparkline: the last values of a series, one column for each: `▁▂▅█`.
//!
//! Invariant: the width is exactly as requested; the newest value is the rightmost.

use crate::ui::theme::Glyphs;

/// A sparkline of the last `columns` values on a scale from `lo` to `hi`; a value that is not finite is a gap.
pub fn sparkline(values: &[f32], (lo, hi): (f32, f32), columns: usize, glyphs: Glyphs) -> String {
    let steps: &[char] = match glyphs {
        Glyphs::Unicode => &['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
        Glyphs::Ascii => &['_', '.', '-', '=', '^'],
    };
    let shown = &values[values.len().saturating_sub(columns)..];
    let mut out: String = std::iter::repeat_n(' ', columns - shown.len()).collect();
    out.extend(shown.iter().map(|value| {
        let place = (value - lo) / (hi - lo).max(f32::MIN_POSITIVE);
        if place.is_nan() {
            return ' ';
        }
        steps[(place.clamp(0.0, 1.0) * (steps.len() - 1) as f32).round() as usize]
    }));
    out
}

/// The lowest and the highest finite value, for a sparkline that uses its whole height.
pub fn range(values: &[f32]) -> (f32, f32) {
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    let (lo, hi) = (
        finite().fold(f32::INFINITY, f32::min),
        finite().fold(f32::NEG_INFINITY, f32::max),
    );
    if lo <= hi { (lo, hi) } else { (0.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn newest_right_gaps_for_what_is_no_number() {
        assert_eq!(
            sparkline(&[0.0, 0.5, 1.0], (0.0, 1.0), 5, Glyphs::Unicode),
            "  ▁▅█"
        );
        assert_eq!(
            sparkline(&[0.0, f32::NAN, 9.0], (0.0, 1.0), 2, Glyphs::Unicode),
            " █"
        );
        assert_eq!(
            sparkline(&[2.0, 2.0], range(&[2.0, 2.0]), 2, Glyphs::Ascii),
            "__"
        );
        assert_eq!(range(&[f32::NAN, -1.0, 3.0, f32::INFINITY]), (-1.0, 3.0));
        assert_eq!(range(&[]), (0.0, 1.0));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn exact_width(values in prop::collection::vec(any::<f32>(), 0..20), columns in 0_usize..30) {
            for glyphs in [Glyphs::Unicode, Glyphs::Ascii] {
                let strip = sparkline(&values, range(&values), columns, glyphs);
                prop_assert_eq!(crate::text::width(&strip), columns);
            }
        }
    }
}
