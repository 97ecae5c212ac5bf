//! Short spellings of numbers.
//!
//! Invariant: the result is ASCII, so its length is its width. To add a spelling, add a function.

use crate::figure::Scale;

/// Spells a number with three significant digits: `0.0123`, `12.3`, `1230`, `1.23e7`, `-0.5`.
pub fn significant(value: f32) -> String {
    if !value.is_finite() {
        return value.to_string().to_lowercase();
    }
    let size = value.abs();
    if size == 0.0 {
        return "0".into();
    }
    if !(1e-3..1e6).contains(&size) {
        return tidy_exponent(&format!("{value:.2e}"));
    }
    // Rounded first, so that 0.9996 counts as 1.00 when digits are counted.
    let rounded: f32 = format!("{value:.2e}").parse().unwrap_or(value);
    let whole = rounded.abs().log10().floor() as i32;
    format!("{rounded:.*}", (2 - whole).max(0) as usize)
}

/// Spells a number in at most `columns` columns for a cell: shares as `.94`, others as space allows; `signed` shows `+`.
pub fn compact(value: f32, columns: usize, signed: bool) -> String {
    let sign = if value < 0.0 {
        "-"
    } else if signed && value > 0.0 {
        "+"
    } else {
        ""
    };
    let size = value.abs();
    let room = columns.saturating_sub(sign.len());
    let text = if !size.is_finite() {
        size.to_string().to_lowercase()
    } else if size < 0.995 {
        let digits = room.saturating_sub(1).clamp(1, 3);
        let text = format!("{size:.digits$}");
        // Rounding may give 1.
        text.strip_prefix('0')
            .map_or_else(|| "1.0".chars().take(room).collect(), str::to_owned)
    } else {
        let whole = format!("{size:.0}");
        let digits = room
            .saturating_sub(whole.len() + 1)
            .min(3 - whole.len().min(3));
        if whole.len() > room {
            short_exponent(size)
        } else if digits == 0 {
            whole
        } else {
            format!("{size:.digits$}")
        }
    };
    fitting(format!("{sign}{text}"), columns)
}

/// Spells a rank, which counts from 1, in at most `columns` columns if possible: `#1`, `#348`, `#4.7k`, `#49k`.
pub fn rank(value: f32, columns: usize) -> String {
    if !value.is_finite() {
        return compact(value, columns, false);
    }
    let room = columns.saturating_sub(1);
    let whole = format!("{value:.0}");
    let short = if whole.len() <= room.min(3) {
        whole
    } else {
        let (size, unit) = if value < 999_500.0 {
            (value / 1e3, "k")
        } else {
            (value / 1e6, "M")
        };
        let fine = format!("{size:.1}{unit}");
        if fine.len() <= room && size < 9.95 {
            fine
        } else {
            format!("{size:.0}{unit}")
        }
    };
    fitting(format!("#{short}"), columns)
}

/// Spells a number of a table: without a point in a column of whole numbers, which may be ids, else with three significant digits.
pub fn entry_number(value: f32, whole: bool) -> String {
    if whole {
        format!("{value:.0}")
    } else {
        significant(value)
    }
}

/// Spells a number for its scale in full: ranks as integers, others with three significant digits.
pub fn spelled(scale: Scale, value: f32) -> String {
    match scale {
        Scale::Rank { .. } if value.is_finite() => format!("#{value:.0}"),
        Scale::Rank { .. } | Scale::Unit | Scale::Range { .. } | Scale::Diverging { .. } => {
            significant(value)
        }
    }
}

/// The number, or `#` in every column if it is too wide.
fn fitting(number: String, columns: usize) -> String {
    if number.len() > columns {
        "#".repeat(columns)
    } else {
        number
    }
}

/// `1.20e-5` as `1.2e-5`.
fn tidy_exponent(text: &str) -> String {
    let Some((mantissa, exponent)) = text.split_once('e') else {
        return text.to_owned();
    };
    let mantissa = if mantissa.contains('.') {
        mantissa.trim_end_matches('0').trim_end_matches('.')
    } else {
        mantissa
    };
    format!("{mantissa}e{exponent}")
}

fn short_exponent(size: f32) -> String {
    if size < 99_500.0 {
        format!("{:.0}k", size / 1000.0)
    } else {
        format!("{size:.0e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn three_significant_digits() {
        for (value, want) in [
            (0.0, "0"),
            (0.012_345, "0.0123"),
            (0.999_6, "1.00"),
            (12.345, "12.3"),
            (-1234.5, "-1230"),
            (1.2e-5, "1.2e-5"),
            (3.0e8, "3e8"),
            (f32::NEG_INFINITY, "-inf"),
            (f32::NAN, "nan"),
        ] {
            assert_eq!(significant(value), want);
        }
    }

    #[test]
    fn shares_lose_their_zero_and_nothing_grows() {
        for (value, columns, signed, want) in [
            (0.94, 3, false, ".94"),
            (0.0, 3, false, ".00"),
            (0.996, 3, false, "1.0"),
            (1.0, 3, false, "1.0"),
            (0.31, 4, true, "+.31"),
            (-0.05, 4, true, "-.05"),
            (12.34, 5, false, "12.3"),
            (1234.0, 5, false, "1234"),
            (-123_456.0, 5, false, "-1e5"),
            (45_678.0, 4, false, "46k"),
            (f32::NAN, 2, false, "##"),
        ] {
            assert_eq!(compact(value, columns, signed), want);
        }
    }

    #[test]
    fn ranks_are_whole() {
        for (value, columns, want) in [
            (1.0, 5, "#1"),
            (44.0, 5, "#44"),
            (348.0, 5, "#348"),
            (4561.0, 5, "#4.6k"),
            (4561.0, 4, "#5k"),
            (9_970.0, 5, "#10k"),
            (49_152.0, 5, "#49k"),
            (151_936.0, 5, "#152k"),
            (1_200_000.0, 5, "#1.2M"),
            (f32::NAN, 5, "nan"),
            (44.0, 2, "##"),
        ] {
            assert_eq!(rank(value, columns), want);
        }
        let scale = Scale::Rank { worst: 49_152.0 };
        assert_eq!(spelled(scale, 4561.0), "#4561");
        assert_eq!(spelled(Scale::Unit, 0.25), "0.250");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_rank_fits(value in 1.0_f32..1e8, columns in 0_usize..8) {
            prop_assert!(rank(value, columns).len() <= columns);
        }

        #[test]
        fn compact_fits(value in any::<f32>(), columns in 0_usize..8, signed: bool) {
            prop_assert!(compact(value, columns, signed).len() <= columns);
        }

        #[test]
        fn significant_is_close(value in -1e7_f32..1e7) {
            let back: f32 = significant(value).parse().unwrap_or(f32::NAN);
            prop_assert!((back - value).abs() <= value.abs() * 0.006);
        }
    }
}
