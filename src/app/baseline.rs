//! The baseline run's text: generated in lockstep or afterwards, and how the two texts are laid out in common lines.
//!
//! Invariant: a line of two texts covers the same positions on both sides, so that tokens next to each other are at the same
//! position. To compare with another run, fill another [`Baseline`].

use std::ops::Range;

use super::App;
use super::transcript::{TokenSpan, Transcript};
use crate::engine::Token;
use crate::lab::writer::BaselineMode;
use crate::text;

/// The smallest width, in columns, at which two texts are shown side by side.
const LEAST: usize = 40;
/// How many positions a line may end earlier so that no word is cut.
const WORD: usize = 5;

/// The text to compare with: that of the unedited run or, in a forced run, the tokens that the edited run would have chosen.
#[derive(Clone, Debug, Default)]
pub struct Baseline {
    /// Its tokens after the prompt.
    pub text: Transcript,
    /// The first position that differs from the run's text.
    pub diverges: Option<usize>,
    /// Whether it grows together with the run's text.
    pub live: bool,
}

impl Baseline {
    /// A baseline that grows, with its tokens so far.
    pub fn live(tokens: impl IntoIterator<Item = Token>, diverges: Option<usize>) -> Self {
        let mut text = Transcript::default();
        tokens.into_iter().for_each(|t| text.join(t));
        Self {
            text,
            diverges,
            live: true,
        }
    }

    /// Appends the baseline's token for a token that was generated.
    pub fn grow(&mut self, token: &Token, beside: BaselineMode) {
        if let Some(other) = token.other.as_deref() {
            if other.id != token.id {
                self.diverges = self.diverges.or(Some(token.position));
            }
            self.text.join(other.clone());
        } else if token.kl.is_none() || beside == BaselineMode::Forced {
            // No edit is in force, so both runs have the same token.
            self.text.join(plain(token));
        }
    }
}

/// A token reduced to what both runs have in common.
pub fn plain(token: &Token) -> Token {
    Token {
        rank: None,
        kl: None,
        fired: Vec::new(),
        other: None,
        ..token.clone()
    }
}

/// The KL of every token, if both distributions followed the same text. In lockstep this ends with the first token that
/// differs, until both runs start from one text again.
pub fn comparable(text: &Transcript) -> Vec<Option<f32>> {
    let mut apart = false;
    let kl = |token: &Token| {
        let lockstep = text.baseline_mode_at(token.position) == BaselineMode::OwnText;
        apart &= lockstep;
        let kl = token.kl.filter(|_| !apart);
        let differs = token.other.as_ref().is_some_and(|o| o.id != token.id);
        apart |= lockstep && differs;
        kl
    };
    text.tokens.iter().map(kl).collect()
}

/// The widths, in columns, of each text and of the strip between them; none if the texts must be shown one above the other.
pub fn columns(width: usize) -> Option<(usize, usize)> {
    let strip = (width / 8).clamp(4, 10);
    (width >= LEAST).then(|| ((width - strip - 3) / 2, strip))
}

/// Lines as ranges of positions, from `from` on, that two texts share: each side fits into `width` columns, and no line has
/// more than `most` positions. `left` begins at position 0, `right` at `from`; a position in `breaks` starts a new line.
pub fn pair(
    left: &[String],
    right: &[String],
    from: usize,
    breaks: &[usize],
    width: usize,
    most: usize,
) -> Vec<Range<usize>> {
    let end = left.len().max(from + right.len());
    let both = |position: usize| {
        let index = position.checked_sub(from);
        let other = index.and_then(|i| right.get(i));
        [left.get(position), other].map(|piece| piece.map(String::as_str))
    };
    lines_of_two(from..end, both, breaks, width, most)
}

/// Lines of two texts as ranges of places, of each of which `both` gives what either text has there: each side fits into `width` columns, no
/// line has more than `most` places, and a place in `breaks` starts a new line. A line ends after a line break, and before a word if that
/// is near.
pub(super) fn lines_of_two<'a>(
    places: Range<usize>,
    both: impl Fn(usize) -> [Option<&'a str>; 2],
    breaks: &[usize],
    width: usize,
    most: usize,
) -> Vec<Range<usize>> {
    let Range { start: from, end } = places;
    // A line break is shown as one column.
    let wide = |piece: Option<&str>| {
        piece.map_or(0, |p| {
            if p.contains('\n') {
                text::width(&p.replace('\n', "⏎"))
            } else {
                text::width(p)
            }
        })
    };
    let starts_word = |position: usize| {
        let mut pieces = both(position).into_iter().flatten();
        pieces.all(|p| p.is_empty() || p.starts_with([' ', '\n']))
    };
    let mut lines = Vec::new();
    let mut start = from;
    let mut used = [0, 0];
    let mut position = from;
    while position < end {
        let wide = both(position).map(wide);
        let over = used.iter().zip(wide).any(|(u, w)| u + w > width);
        if position > start && (over || position - start >= most || breaks.contains(&position)) {
            let mut cut = position;
            if !breaks.contains(&position) {
                let back = (start + 1..=position).rev().take(WORD);
                cut = back
                    .into_iter()
                    .find(|p| starts_word(*p))
                    .unwrap_or(position);
            }
            lines.push(start..cut);
            (start, used, position) = (cut, [0, 0], cut);
            continue;
        }
        for (u, w) in used.iter_mut().zip(wide) {
            *u += w;
        }
        position += 1;
        if both(position - 1)
            .iter()
            .flatten()
            .any(|p| p.contains('\n'))
        {
            lines.push(start..position);
            (start, used) = (position, [0, 0]);
        }
    }
    if start < end {
        lines.push(start..end);
    }
    lines
}

/// The name of a lockstep mode; none for the other modes.
pub fn name(beside: BaselineMode) -> Option<&'static str> {
    match beside {
        BaselineMode::Nothing | BaselineMode::SameText => None,
        BaselineMode::OwnText => Some("lockstep"),
        BaselineMode::Forced => Some("lockstep forced"),
    }
}

impl App {
    /// The widths of texts and strip if both fit side by side into `width` columns.
    pub fn side_by_side(&self, width: usize) -> Option<(usize, usize)> {
        columns(width)
            .filter(|_| self.compare && self.baseline.is_some() && self.reference.is_none())
    }

    /// The common lines of the two texts, each text `width` columns wide.
    pub fn pairs(&self, width: usize, strip: usize) -> Vec<Range<usize>> {
        let right = self.baseline.as_ref().map_or(&[][..], |b| &b.text.pieces);
        let text = &self.transcript;
        pair(
            &text.pieces,
            right,
            text.prompt,
            &text.breaks(),
            width,
            strip,
        )
    }

    /// The lines along which the cursor moves: those of the run's text as it is laid out.
    pub(super) fn lines(&self, width: usize) -> Vec<Vec<TokenSpan>> {
        let text = &self.transcript;
        if self.compare && self.reference.is_some() {
            let lines = self.lines_of_both(Self::column_of_both(width));
            let own = |pairs: Vec<(Option<usize>, Option<usize>)>| -> Vec<TokenSpan> {
                let tokens = pairs.into_iter().filter_map(|(_, own)| own);
                tokens
                    .map(|token| TokenSpan {
                        token,
                        text: text.pieces[token].replace('\n', "⏎"),
                    })
                    .collect()
            };
            let lines = lines.into_iter().map(own);
            return lines.filter(|line| !line.is_empty()).collect();
        }
        let Some((column, strip)) = self.side_by_side(width) else {
            return text.wrap(width);
        };
        let mut lines = super::transcript::wrap(&text.pieces[..text.prompt], &[], width);
        let line = |range: Range<usize>| -> Vec<TokenSpan> {
            let here = range.filter(|p| *p < text.pieces.len());
            here.map(|token| TokenSpan {
                token,
                text: text.pieces[token].replace('\n', "⏎"),
            })
            .collect()
        };
        let pairs = self.pairs(column, strip).into_iter().map(line);
        lines.extend(pairs.filter(|l| !l.is_empty()));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<String> {
        text.split('|').map(str::to_string).collect()
    }

    #[test]
    fn lines_hold_the_same_positions_and_whole_words() {
        let left = words("p|q| The| capital| of| Bras|ilia| is");
        let right = words(" A| town| in| Fran|ce|.");
        assert_eq!(pair(&left, &right, 2, &[], 14, 9), [2..4, 4..5, 5..8]);
        assert_eq!(pair(&left, &right, 2, &[5], 99, 9), [2..5, 5..8]);
        assert_eq!(pair(&left, &right, 2, &[], 99, 2), [2..4, 4..5, 5..7, 7..8]);
        let ended = words(" A\n");
        assert_eq!(pair(&left, &ended, 2, &[], 99, 9), [2..3, 3..8]);
    }

    #[test]
    fn kl_is_comparable_up_to_the_first_token_that_differs() {
        let token = |position: usize| Token {
            position,
            id: 7,
            bytes: b"x".to_vec(),
            special: false,
            logprob: None,
            rank: None,
            kl: Some(position as f32),
            fired: Vec::new(),
            other: None,
        };
        let token = |position: usize, other: u32| Token {
            other: Some(Box::new(Token {
                id: other,
                ..token(position)
            })),
            ..token(position)
        };
        let mut text = Transcript::default();
        for (position, other, beside) in [
            (0, 7, BaselineMode::OwnText),
            (1, 8, BaselineMode::OwnText),
            (2, 7, BaselineMode::OwnText),
            (3, 8, BaselineMode::Forced),
            (4, 7, BaselineMode::Forced),
            (5, 8, BaselineMode::OwnText),
        ] {
            text.push(token(position, other), beside);
        }
        let known: Vec<bool> = comparable(&text).iter().map(Option::is_some).collect();
        assert_eq!(known, [true, true, false, true, true, true]);
        assert_eq!(text.breaks(), [3, 5]);
        assert_eq!(text.change_at(5), Some("own tokens from here"));
    }

    #[test]
    fn narrow_places_stack() {
        assert_eq!(columns(39), None);
        assert_eq!(columns(44), Some((18, 5)));
        assert_eq!(columns(78), Some((33, 9)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_position_is_on_one_line(
            left in prop::collection::vec("[ a-z漢\n]{0,7}", 0..20),
            right in prop::collection::vec("[ a-z\n]{0,7}", 0..20),
            from in 0usize..9, width in 8usize..30, most in 1usize..9,
        ) {
            let from = from.min(left.len());
            let lines = pair(&left, &right, from, &[], width, most);
            let mut next = from;
            for line in &lines {
                prop_assert!(line.start == next && line.end > line.start && line.len() <= most);
                next = line.end;
                let wide: usize = line.clone().filter_map(|p| left.get(p)).map(|p| text::width(&p.replace('\n', "⏎"))).sum();
                prop_assert!(wide <= width.max(14));
            }
            prop_assert_eq!(next, left.len().max(from + right.len()));
        }
    }
}
