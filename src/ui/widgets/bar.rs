//! A bar for a share: `█████▍    `.
//!
//! Invariant: the width is exactly as requested; a share above zero is visible.

use crate::ui::theme::Glyphs;

/// Parts of a column, from an eighth on.
const EIGHTHS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// A bar for `share`, 0 to 1, in `columns` columns, with a resolution of an eighth of a column.
pub fn bar(share: f32, columns: usize, glyphs: Glyphs) -> String {
    let share = if share.is_nan() {
        0.0
    } else {
        share.clamp(0.0, 1.0)
    };
    let parts = (share * columns as f32 * 8.0).round() as usize;
    let parts = if share > 0.0 { parts.max(1) } else { 0 }.min(columns * 8);
    let (full, rest) = (parts / 8, parts % 8);
    let mut out = String::with_capacity(columns * 3);
    let (block, tip) = match glyphs {
        Glyphs::Unicode => ('█', rest.checked_sub(1).map(|part| EIGHTHS[part])),
        // ASCII has one sign for half a column or more; the smallest share must remain visible.
        Glyphs::Ascii => {
            let some = (full == 0 && rest > 0).then_some('-');
            ('#', if rest >= 4 { Some('=') } else { some })
        }
    };
    out.extend(std::iter::repeat_n(block, full));
    out.extend(tip);
    let drawn = full + usize::from(tip.is_some());
    out.extend(std::iter::repeat_n(' ', columns - drawn));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn eighths() {
        assert_eq!(bar(0.0, 4, Glyphs::Unicode), "    ");
        assert_eq!(bar(1.0, 4, Glyphs::Unicode), "████");
        assert_eq!(bar(0.5, 4, Glyphs::Unicode), "██  ");
        assert_eq!(bar(0.4, 4, Glyphs::Unicode), "█▋  ");
        assert_eq!(bar(1e-6, 4, Glyphs::Unicode), "▏   ");
        assert_eq!(bar(f32::NAN, 2, Glyphs::Unicode), "  ");
        assert_eq!(bar(0.4, 4, Glyphs::Ascii), "#=  ");
        assert_eq!(bar(1e-6, 4, Glyphs::Ascii), "-   ");
        assert_eq!(bar(0.5, 0, Glyphs::Unicode), "");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn exact_width(share in any::<f32>(), columns in 0_usize..50) {
            for glyphs in [Glyphs::Unicode, Glyphs::Ascii] {
                prop_assert_eq!(crate::text::width(&bar(share, columns, glyphs)), columns);
            }
        }
    }
}
