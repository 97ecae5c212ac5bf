//! A place of a text in one line: the token with what stands before it; and counts as one line of bars.
//!
//! Invariant: both are safe visible text, and a snippet is never wider than asked. To show something else of a text in a line, add
//! a function.

use super::lab::Lab;
use crate::text;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The end of a context with its last token marked, in at most `wide` columns.
pub fn snippet(context: &[u32], wide: usize, lab: &Lab) -> String {
    let Some((last, before)) = context.split_last() else {
        return String::new();
    };
    let mark = format!("⟦{}⟧", lab.visible(*last));
    let bytes: Vec<u8> = before.iter().flat_map(|id| lab.model.bytes(*id)).collect();
    let words = text::plain(&bytes).replace(['\n', '\r', '\t'], " ");
    let room = wide.saturating_sub(text::width(&mark));
    let mut from = 0;
    if text::width(&words) > room {
        // Cuts from the left at a character boundary, leaving room for the mark of the cut.
        let places = words.char_indices().map(|(i, _)| i);
        from = places
            .chain([words.len()])
            .find(|i| text::width(&words[*i..]) < room)
            .unwrap_or(words.len());
    }
    let cut = if from > 0 { "…" } else { "" };
    format!("{cut}{}{mark}", &words[from..])
}

/// A histogram as one line of bars, on a logarithmic scale; every bin that is not empty has a visible bar.
pub fn bars(bins: &[usize]) -> String {
    let most = bins.iter().copied().max().unwrap_or(0).max(1);
    // Most activations are near zero and the tail is of interest.
    let height = |n: usize| ((n + 1) as f32).ln() / ((most + 1) as f32).ln();
    bins.iter()
        .map(|n| match n {
            0 => ' ',
            n => bar(height(*n)),
        })
        .collect()
}

/// Numbers as one line of bars from zero to the largest; nothing and what is negative is a blank.
pub fn sparkline(values: &[f32]) -> String {
    let most = values.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    let values = values.iter();
    values
        .map(|v| if *v > 0.0 { bar(v / most) } else { ' ' })
        .collect()
}

/// A bar for a share of the height.
fn bar(share: f32) -> char {
    BARS[((share * 7.0).round() as usize).min(7)]
}
