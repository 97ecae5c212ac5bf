//! Placeholders: the tokens of a target prompt whose states are overwritten.
//!
//! Invariant: a placeholder is never the first token, whose state is unlike any other; an occurrence that is a token of its own
//! is preferred to one inside a longer token. To add a rule, add a variant of [`PlaceholderChoice`] and its arm in
//! [`PlaceholderChoice::place`].

use std::ops::RangeInclusive;

use crate::error::{Error, Result};

/// Which occurrences of the placeholder's text are overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceholderChoice {
    /// The last occurrence, by a single state.
    Last,
    /// Every occurrence, by the same state.
    All,
    /// The occurrences in order, by consecutive source tokens; a single occurrence is repeated as often as needed.
    Each,
}

impl PlaceholderChoice {
    /// Finds the occurrences of `placeholder` in a target prompt for `count` source tokens. `pieces` are the bytes of each
    /// token.
    ///
    /// # Errors
    ///
    /// When the text does not occur, occurs only in the first token, or the number of occurrences does not fit the source
    /// tokens.
    pub fn place(
        self,
        tokens: &[u32],
        pieces: &[Vec<u8>],
        placeholder: &str,
        count: usize,
    ) -> Result<PromptWithPlaceholders> {
        let found = occurrences(pieces, placeholder);
        let whole = found.iter().any(|o| o.whole);
        let all: Vec<&Occurrence> = found.iter().filter(|o| o.whole == whole).collect();
        let last = all.last().ok_or_else(|| {
            let text = String::from_utf8_lossy(&pieces.concat()).into_owned();
            let expected = format!("a text that occurs in the target prompt `{text}`");
            Error::argument("placeholder", placeholder, expected)
        })?;
        let mut out = PromptWithPlaceholders {
            tokens: tokens.to_vec(),
            placeholders: Vec::new(),
            whole,
        };
        let end = |o: &Occurrence| *o.tokens.end();
        match self {
            Self::Last => out.placeholders.push(end(last)),
            Self::All => out.placeholders.extend(all.iter().map(|o| end(o))),
            Self::Each if all.len() == count => out.placeholders.extend(all.iter().map(|o| end(o))),
            Self::Each if all.len() == 1 => {
                let at = end(last);
                let token = tokens[at];
                let more = std::iter::repeat_n(token, count - 1);
                out.tokens.splice(at..at, more);
                out.placeholders.extend(at..at + count);
            }
            Self::Each => {
                let expected = format!(
                    "a text that occurs in the target prompt once, or {count} times, once for each source token; it occurs {} times",
                    all.len()
                );
                return Err(Error::argument("placeholder", placeholder, expected));
            }
        }
        out.placeholders.dedup();
        if out.placeholders.contains(&0) {
            let expected = "a placeholder after the first token, whose state is unlike any other; begin the target prompt with another word";
            return Err(Error::argument("placeholder", placeholder, expected));
        }
        Ok(out)
    }
}

/// A target prompt with the positions of its placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptWithPlaceholders {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// The positions, ascending.
    pub placeholders: Vec<usize>,
    /// Whether the placeholder consists of whole tokens, rather than of parts of longer ones.
    pub whole: bool,
}

/// The tokens of the last occurrence of a text; occurrences of whole tokens are preferred.
pub fn last_of(pieces: &[Vec<u8>], text: &str) -> Option<RangeInclusive<usize>> {
    let found = occurrences(pieces, text);
    let own = found.iter().rev().find(|o| o.whole);
    own.or(found.last()).map(|o| o.tokens.clone())
}

/// An occurrence of a text in tokens.
struct Occurrence {
    /// The tokens that overlap it.
    tokens: RangeInclusive<usize>,
    /// Whether it fills these tokens, except for a leading space.
    whole: bool,
}

/// The occurrences of a text in tokens, from left to right, without overlapping ones.
fn occurrences(pieces: &[Vec<u8>], text: &str) -> Vec<Occurrence> {
    let needle = text.as_bytes();
    let whole: Vec<u8> = pieces.concat();
    let mut ends = Vec::with_capacity(pieces.len());
    let mut seen = 0;
    for piece in pieces {
        seen += piece.len();
        ends.push(seen);
    }
    let token = |byte: usize| ends.partition_point(|end| *end <= byte);
    let start = |token: usize| if token == 0 { 0 } else { ends[token - 1] };
    let mut out = Vec::new();
    let mut i = 0;
    while !needle.is_empty() && i + needle.len() <= whole.len() {
        if !whole[i..].starts_with(needle) {
            i += 1;
            continue;
        }
        let (first, last) = (token(i), token(i + needle.len() - 1));
        let begins = i == start(first) || (i == start(first) + 1 && whole[i - 1] == b' ');
        out.push(Occurrence {
            tokens: first..=last,
            whole: begins && i + needle.len() == ends[last],
        });
        i += needle.len();
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pieces(words: &[&str]) -> (Vec<u32>, Vec<Vec<u8>>) {
        let ids = (0..words.len() as u32).collect();
        (ids, words.iter().map(|w| w.as_bytes().to_vec()).collect())
    }

    #[test]
    fn a_token_of_its_own_is_preferred_over_letters_in_another() {
        let (ids, texts) = pieces(&["<s>", "x", " is", " next", " to", " x", " and", " Texas"]);
        let at = |rule: PlaceholderChoice, n| rule.place(&ids, &texts, "x", n).unwrap();
        assert_eq!(at(PlaceholderChoice::Last, 1).placeholders, [5]);
        assert_eq!(at(PlaceholderChoice::All, 1).placeholders, [1, 5]);
        assert_eq!(
            at(PlaceholderChoice::Each, 2).placeholders,
            [1, 5],
            "as many as source tokens: in order"
        );
        assert!(at(PlaceholderChoice::Last, 1).whole);
        let inside = PlaceholderChoice::Last
            .place(&ids, &texts, "exa", 1)
            .unwrap();
        assert_eq!((inside.placeholders, inside.whole), (vec![7], false));
    }

    #[test]
    fn a_single_placeholder_is_repeated_for_several_source_tokens() {
        let (ids, texts) = pieces(&["<s>", "the", " x", "."]);
        let three = PlaceholderChoice::Each.place(&ids, &texts, "x", 3).unwrap();
        assert_eq!(three.tokens, [0, 1, 2, 2, 2, 3]);
        assert_eq!(three.placeholders, [2, 3, 4]);
        let one = PlaceholderChoice::Each.place(&ids, &texts, "x", 1).unwrap();
        assert_eq!((one.tokens, one.placeholders), (ids, vec![2]));
    }

    #[test]
    fn what_cannot_be_a_placeholder_is_refused() {
        let (ids, texts) = pieces(&["x", " and", " x"]);
        for (placeholder, rule, n, why) in [
            (
                "y",
                PlaceholderChoice::Last,
                1,
                "occurs in the target prompt",
            ),
            (
                "",
                PlaceholderChoice::Last,
                1,
                "occurs in the target prompt",
            ),
            ("x", PlaceholderChoice::All, 1, "after the first token"),
            ("x", PlaceholderChoice::Each, 3, "it occurs 2 times"),
        ] {
            let error = rule
                .place(&ids, &texts, placeholder, n)
                .unwrap_err()
                .to_string();
            assert!(error.contains(why), "{placeholder}: {error}");
        }
        assert_eq!(
            PlaceholderChoice::Last
                .place(&ids, &texts, "x", 1)
                .unwrap()
                .placeholders,
            [2],
            "the later one will do"
        );
    }
}
