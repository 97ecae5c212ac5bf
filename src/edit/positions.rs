//! Position rules: the token positions at which an edit acts.
//!
//! Invariant: printing and parsing are inverse; a rule is resolved against a run's tokens, never against text.
//! To add a rule, add a variant, its spelling in both directions, and its arm in [`Positions::covers`].

use std::fmt;
use std::str::FromStr;

use super::quotes::{quoted, read};
use crate::error::{Error, Result};
use crate::text::last_in;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Positions {
    #[default]
    All,
    /// Every position except the first.
    AllButBos,
    /// The last prompt token.
    Last,
    Prompt,
    /// The generated tokens.
    Generated,
    /// Positions `a` to `b`, `b` excluded.
    Span(usize, usize),
    /// The n-th prompt token from its end; 1 is the last.
    FromEnd(usize),
    /// The last token of the last occurrence of a text in the prompt; resolved to a span before a run.
    Token(String),
    /// All tokens of the last occurrence of a text in the prompt; resolved like `Token`.
    Text(String),
}

impl Positions {
    /// Whether the rule covers a position of a run whose prompt has `prompt` tokens.
    pub fn covers(&self, position: usize, prompt: usize) -> bool {
        match self {
            Self::All => true,
            Self::AllButBos => position > 0,
            Self::Last => position + 1 == prompt,
            Self::Prompt => position < prompt,
            Self::Generated => position >= prompt,
            Self::Span(a, b) => (*a..*b).contains(&position),
            Self::FromEnd(n) => position + n == prompt,
            Self::Token(_) | Self::Text(_) => false,
        }
    }

    /// Replaces `token:"text"` and `text:"text"` by the positions they mean in this run; other rules are returned unchanged.
    pub fn resolve(&self, pieces: &[Vec<u8>]) -> Result<Self> {
        let (Self::Token(text) | Self::Text(text)) = self else {
            return Ok(self.clone());
        };
        let needle = text.as_bytes();
        let whole: Vec<u8> = pieces.concat();
        let start = last_in(&whole, needle).ok_or_else(|| {
            Error::argument(
                "positions",
                self.to_string(),
                "a text that occurs in the prompt",
            )
        })?;
        let end = start + needle.len();
        // The index of the token that contains byte number `bytes`, counted from 1.
        let reaching = |bytes: usize| {
            let mut seen = 0;
            let at = pieces.iter().position(|p| {
                seen += p.len();
                seen >= bytes
            });
            at.unwrap_or(0)
        };
        let last = reaching(end);
        let first = if matches!(self, Self::Text(_)) {
            reaching(start + 1)
        } else {
            last
        };
        Ok(Self::Span(first, last + 1))
    }

    /// The positions that the rule covers in a text that is a prompt from its first token to its last, ascending; `pieces`: the bytes of
    /// its tokens.
    ///
    /// # Errors
    ///
    /// When the rule names a text that does not occur.
    pub fn in_prompt(&self, pieces: &[Vec<u8>]) -> Result<Vec<usize>> {
        let (rule, length) = (self.resolve(pieces)?, pieces.len());
        Ok((0..length).filter(|p| rule.covers(*p, length)).collect())
    }
}

impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::AllButBos => f.write_str("all-but-bos"),
            Self::Last => f.write_str("last"),
            Self::Prompt => f.write_str("prompt"),
            Self::Generated => f.write_str("generated"),
            Self::Span(a, b) if *b == a + 1 => write!(f, "{a}"),
            Self::Span(a, b) => write!(f, "{a}..{b}"),
            Self::FromEnd(n) => write!(f, "-{n}"),
            Self::Token(text) => write!(f, "token:{}", quoted(text)),
            Self::Text(text) => write!(f, "text:{}", quoted(text)),
        }
    }
}

impl FromStr for Positions {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let bad = || {
            Error::argument(
                "positions",
                s,
                "all, all-but-bos, last, prompt, generated, N, -N (from the prompt's end), A..B, token:\"text\" (its last token) or text:\"text\" (all of them)",
            )
        };
        let s = s.trim();
        Ok(match s {
            "all" => Self::All,
            "all-but-bos" => Self::AllButBos,
            "last" => Self::Last,
            "prompt" => Self::Prompt,
            "generated" => Self::Generated,
            _ => {
                let text_of = |text: &str| {
                    let text = read(text)
                        .map_err(|why| Error::argument("positions", s, format!("a text: {why}")))?;
                    (!text.is_empty()).then_some(text).ok_or_else(bad)
                };
                if let Some(text) = s.strip_prefix("token:") {
                    text_of(text).map(Self::Token)
                } else if let Some(text) = s.strip_prefix("text:") {
                    text_of(text).map(Self::Text)
                } else if let Some((a, b)) = s.strip_prefix("span:").unwrap_or(s).split_once("..") {
                    let (a, b) = (a.parse().map_err(|_| bad())?, b.parse().map_err(|_| bad())?);
                    if a < b {
                        Ok(Self::Span(a, b))
                    } else {
                        Err(bad())
                    }
                } else if let Some(n) = s.strip_prefix('-') {
                    match n.parse() {
                        Ok(n) if n > 0 => Ok(Self::FromEnd(n)),
                        Ok(_) | Err(_) => Err(bad()),
                    }
                } else {
                    let at: usize = s.parse().map_err(|_| bad())?;
                    Ok(Self::Span(at, at + 1))
                }?
            }
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rules_print_and_parse_inversely() {
        for text in [
            "all",
            "all-but-bos",
            "last",
            "prompt",
            "generated",
            "7",
            "3..9",
            "-2",
            "token:\" Paris\"",
            "text:\" New York\"",
        ] {
            assert_eq!(text.parse::<Positions>().unwrap().to_string(), text);
        }
        for text in ["", "9..3", "token:", "some", "-0", "-"] {
            assert!(text.parse::<Positions>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_text_means_the_last_token_of_its_last_occurrence() {
        let pieces: Vec<Vec<u8>> = ["A", " Pa", "ris", " or", " Pa", "ris", " ?"]
            .iter()
            .map(|s| s.as_bytes().to_vec())
            .collect();
        assert_eq!(
            Positions::Token(" Paris".into()).resolve(&pieces).unwrap(),
            Positions::Span(5, 6)
        );
        assert!(Positions::Token("Rome".into()).resolve(&pieces).is_err());
        for (text, span) in [
            (" Paris", Positions::Span(4, 6)),
            ("Paris or", Positions::Span(1, 4)),
            ("A", Positions::Span(0, 1)),
            ("aris ?", Positions::Span(4, 7)),
        ] {
            let found = Positions::Text(text.into()).resolve(&pieces).unwrap();
            assert_eq!(found, span, "{text}");
        }
        assert!(Positions::Text("Rome".into()).resolve(&pieces).is_err());
    }

    #[test]
    fn rules_cover_what_they_say() {
        let covered = |p: Positions| (0..5).filter(|i| p.covers(*i, 3)).collect::<Vec<_>>();
        assert_eq!(covered(Positions::AllButBos), [1, 2, 3, 4]);
        assert_eq!(covered(Positions::Last), [2]);
        assert_eq!(covered(Positions::FromEnd(1)), [2]);
        assert_eq!(covered(Positions::FromEnd(3)), [0]);
        assert!(covered(Positions::FromEnd(4)).is_empty());
        assert_eq!(covered(Positions::Generated), [3, 4]);
        assert_eq!(covered(Positions::Span(1, 3)), [1, 2]);
    }
}
