//! What SVG and HTML have in common.
//!
//! Invariant: all text of a model or user is escaped.

use super::colour::{self, Rgb};
use super::number::significant;
use crate::figure::Scale;
use crate::text;

/// Escapes text for XML and HTML, in content and in quoted attributes. Characters that could reverse or hide text, and those
/// that XML forbids, are replaced by visible ones.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text::plain(text.as_bytes()).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// One of a cell's candidates, as text.
pub(super) fn candidate((token, value): &(String, f32)) -> String {
    format!("{token} {}", significant(*value))
}

/// Background and text colour for a number, on white: magnitudes from light to dark, signed numbers through a light middle.
pub(super) fn paint(scale: Scale, value: f32) -> (Rgb, Rgb) {
    let ramp = match scale {
        Scale::Unit | Scale::Range { .. } | Scale::Rank { .. } => "viridis",
        Scale::Diverging { .. } => "purple-orange",
    };
    let back = colour::sample(colour::ramp(ramp).unwrap_or_default(), scale.place(value));
    (back, colour::ink(back))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_and_forbidden_characters_are_spelled() {
        assert_eq!(
            escape("<a href=\"x\">&'\u{1b}\0é"),
            "&lt;a href=&quot;x&quot;&gt;&amp;&#39;␛␀é"
        );
    }

    #[test]
    fn zero_is_the_middle_and_ink_is_readable() {
        let (zero, _) = paint(Scale::Diverging { reach: 3.0 }, 0.0);
        assert_eq!((zero.0, zero.1), (zero.1, zero.2));
        for value in [-1.0, 0.0, 0.3, 1.0, f32::NAN] {
            for scale in [Scale::Unit, Scale::Diverging { reach: 1.0 }] {
                let (back, ink) = paint(scale, value);
                assert!(colour::contrast(back, ink) >= 4.5);
            }
        }
    }
}
