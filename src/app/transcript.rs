//! The text of the run: tokens, the prose they form together, and its wrapping.
//!
//! Invariant: `pieces` has one entry for each token and joins to the same prose as all bytes at once; a character split over
//! several tokens appears once, at the token that completes it. Wrapping keeps every token whole in its own spans.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::edit::EditId;
use crate::edit::receipt::FiredAt;
use crate::engine::{Ending, PromptSource, Token};
use crate::lab::writer::BaselineMode;
use crate::text;

/// The engine's current work on the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    #[default]
    Idle,
    /// The model reads the prompt.
    Reading,
    Writing,
}

/// The part of a line that belongs to one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSpan {
    /// The token's index.
    pub token: usize,
    /// Safe visible text, without line breaks.
    pub text: String,
}

/// The text of the run.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    pub tokens: Vec<Token>,
    /// The prose of each token; see the invariant above.
    pub pieces: Vec<String>,
    /// For each token, how the baseline run was made when it was generated.
    baseline_modes: Vec<BaselineMode>,
    /// The number of tokens in the prompt.
    pub prompt: usize,
    /// The first positions read under changed edits, if earlier positions keep the old ones.
    pub boundaries: Vec<usize>,
    /// The edits that were in force before each boundary.
    before: BTreeMap<usize, Vec<EditId>>,
    /// The engine's current work.
    pub activity: Activity,
    /// Why generation ended last.
    pub ending: Option<Ending>,
    /// The speed of the last generation, in tokens a second.
    pub rate: Option<f32>,
    /// When the current generation began, and the number of tokens it has produced.
    pub since: Option<(Duration, usize)>,
    /// The prompt as it was given.
    pub source: Option<PromptSource>,
    /// If the model's numbers are not finite: what to do, in a few words.
    pub not_finite: Option<&'static str>,
    open: text::TextStream,
}

impl Transcript {
    /// Begins a new text with the tokens of a prompt.
    pub fn begin(&mut self, tokens: Vec<Token>, now: Duration, mode: BaselineMode) {
        *self = Self {
            activity: Activity::Writing,
            prompt: tokens.len(),
            since: Some((now, 0)),
            ..Self::default()
        };
        for token in tokens {
            self.add(token, mode);
        }
    }

    /// The ids of its tokens.
    pub fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.id).collect()
    }

    /// Appends a generated token.
    pub fn push(&mut self, token: Token, mode: BaselineMode) {
        if token.position < self.tokens.len() {
            self.truncate(token.position);
        }
        self.add(token, mode);
        self.activity = Activity::Writing;
        if let Some((_, count)) = &mut self.since {
            *count += 1;
        }
    }

    /// Appends a token to a text that is only shown for comparison.
    pub fn join(&mut self, token: Token) {
        self.add(token, BaselineMode::default());
    }

    fn add(&mut self, token: Token, mode: BaselineMode) {
        let piece = if token.special {
            let rest = self.open.finish();
            if let Some(last) = self.pieces.last_mut() {
                last.push_str(&rest);
            }
            text::visible(&token.bytes)
        } else {
            self.open.push(&token.bytes)
        };
        self.pieces.push(piece);
        self.tokens.push(token);
        self.baseline_modes.push(mode);
    }

    /// Keeps only the first `count` tokens.
    pub fn truncate(&mut self, count: usize) {
        if count >= self.tokens.len() {
            return;
        }
        let tokens = std::mem::take(&mut self.tokens);
        let modes = std::mem::take(&mut self.baseline_modes);
        self.pieces.clear();
        self.open = text::TextStream::default();
        for (token, mode) in tokens.into_iter().zip(modes).take(count) {
            self.add(token, mode);
        }
        self.keep_boundaries(|b| b < count);
        self.prompt = self.prompt.min(count);
    }

    /// Stores what each edit did at every position of a text that was read again.
    pub fn refire(&mut self, fired: &[FiredAt]) {
        self.tokens.iter_mut().for_each(|t| t.fired.clear());
        for fired in fired {
            if let Some(token) = self.tokens.get_mut(fired.position) {
                token.fired.push(*fired);
            }
        }
    }

    /// What an edit did at a position.
    pub fn fired(&self, position: usize, edit: EditId) -> Option<FiredAt> {
        let mut fired = self.fired_at(position).iter();
        fired.find(|f| f.edit == edit).copied()
    }

    /// What each edit did at a position, for those that acted there.
    pub fn fired_at(&self, position: usize) -> &[FiredAt] {
        self.tokens.get(position).map_or(&[], |t| &t.fired)
    }

    /// How the baseline run was made when a token was generated.
    pub fn baseline_mode_at(&self, position: usize) -> BaselineMode {
        self.baseline_modes
            .get(position)
            .copied()
            .unwrap_or_default()
    }

    /// A description of what changed before a token was generated; none if nothing did.
    pub fn change_at(&self, position: usize) -> Option<&'static str> {
        if self.boundaries.contains(&position) {
            return Some("edits changed here");
        }
        if position <= self.prompt || position >= self.tokens.len() {
            return None;
        }
        let forced = |p: usize| self.baseline_mode_at(p) == BaselineMode::Forced;
        match (forced(position - 1), forced(position)) {
            (false, true) => Some("forced tokens from here"),
            (true, false) => Some("own tokens from here"),
            (true, true) | (false, false) => None,
        }
    }

    /// The positions before which something changed.
    pub fn breaks(&self) -> Vec<usize> {
        let all = 0..=self.tokens.len();
        all.filter(|p| self.change_at(*p).is_some()).collect()
    }

    /// Records which edits are in force from a position on, and which were before. A change that was reverted at the same
    /// position is no change.
    pub fn mark(&mut self, boundary: usize, before: &[EditId], now: &[EditId]) {
        let first = match self.before.get(&boundary) {
            Some(first) => first.as_slice(),
            None => before,
        };
        if first == now {
            self.keep_boundaries(|b| b != boundary);
        } else if !self.boundaries.contains(&boundary) {
            self.boundaries.push(boundary);
            self.before.insert(boundary, before.to_vec());
        }
    }

    /// Removes the boundaries for which `keep` is false.
    pub fn keep_boundaries(&mut self, keep: impl Fn(usize) -> bool) {
        self.boundaries.retain(|b| keep(*b));
        self.before.retain(|b, _| keep(*b));
    }

    /// Whether the engine is working on the text.
    pub fn busy(&self) -> bool {
        self.activity != Activity::Idle
    }

    /// A token as visible text by itself: `␣Paris`.
    pub fn spelled(&self, position: usize) -> String {
        self.tokens
            .get(position)
            .map_or_else(String::new, |t| text::visible(&t.bytes))
    }

    /// The text wrapped into lines of at most `width` columns.
    pub fn wrap(&self, width: usize) -> Vec<Vec<TokenSpan>> {
        wrap(&self.pieces, &self.breaks(), width)
    }
}

/// Wraps pieces into lines of at most `width` columns, at spaces like prose; a change of edits starts a new line.
pub fn wrap(pieces: &[String], breaks: &[usize], width: usize) -> Vec<Vec<TokenSpan>> {
    let width = width.max(1);
    let mut lines: Vec<Vec<TokenSpan>> = vec![Vec::new()];
    let mut used = 0;
    for (token, piece) in pieces.iter().enumerate() {
        if breaks.contains(&token) && used > 0 {
            lines.push(Vec::new());
            used = 0;
        }
        for (i, part) in piece.split('\n').enumerate() {
            if i > 0 {
                append(&mut lines, token, "⏎");
                lines.push(Vec::new());
                used = 0;
            }
            if part.is_empty() {
                continue;
            }
            let wide = text::width(part);
            // Combining marks at the beginning belong to the previous letter and stay on its line.
            let marks = leading_marks(part);
            if marks > 0 && used > 0 {
                append(&mut lines, token, &part[..marks]);
            }
            let part = if used > 0 { &part[marks..] } else { part };
            if part.is_empty() {
                continue;
            }
            if used > 0 && used + wide > width {
                used = break_line(&mut lines, part);
            }
            place(&mut lines, &mut used, token, part, width);
        }
        if piece.is_empty() {
            append(&mut lines, token, "");
        }
    }
    lines
}

/// Appends a part of a token to the last line.
fn append(lines: &mut [Vec<TokenSpan>], token: usize, text: &str) {
    if let Some(line) = lines.last_mut() {
        let text = text.into();
        line.push(TokenSpan { token, text });
    }
}

/// The number of bytes at the beginning that are combining marks of the previous letter.
fn leading_marks(part: &str) -> usize {
    use unicode_segmentation::UnicodeSegmentation as _;
    let first = part.graphemes(true).next().unwrap_or_default();
    if text::width(first) == 0 {
        first.len()
    } else {
        0
    }
}

/// Starts a new line and moves an unfinished word to it. Returns the width used on the new line.
fn break_line(lines: &mut Vec<Vec<TokenSpan>>, part: &str) -> usize {
    let Some(line) = lines.last_mut() else {
        return 0;
    };
    let begins = line.iter().rposition(|s| s.text.starts_with(' '));
    let word = begins.filter(|_| !part.starts_with(' '));
    // A word that fills its whole line is cut.
    let word = word.filter(|at| *at > 0).unwrap_or(line.len());
    let tail = line.split_off(word);
    let used = tail.iter().map(|s| text::width(&s.text)).sum();
    lines.push(tail);
    used
}

/// Appends text to the last line, and to further lines if it is longer than one.
fn place(
    lines: &mut Vec<Vec<TokenSpan>>,
    used: &mut usize,
    token: usize,
    part: &str,
    width: usize,
) {
    use unicode_segmentation::UnicodeSegmentation as _;
    let mut held = String::new();
    for grapheme in part.graphemes(true) {
        let wide = text::width(grapheme);
        if *used + wide > width && *used > 0 {
            append(lines, token, &std::mem::take(&mut held));
            lines.push(Vec::new());
            *used = 0;
        }
        held.push_str(grapheme);
        *used += wide;
    }
    append(lines, token, &held);
}

/// The first line that shows a token.
pub fn line_of(lines: &[Vec<TokenSpan>], token: usize) -> usize {
    lines
        .iter()
        .position(|l| l.iter().any(|s| s.token == token))
        .unwrap_or(0)
}

/// The token of a line nearest to a column.
pub fn token_at(line: &[TokenSpan], column: usize) -> Option<usize> {
    let mut used = 0;
    for span in line {
        used += text::width(&span.text);
        if used > column {
            return Some(span.token);
        }
    }
    line.last().map(|s| s.token)
}

/// The column at which a token starts on a line.
pub fn column_of(line: &[TokenSpan], token: usize) -> usize {
    line.iter()
        .take_while(|s| s.token != token)
        .map(|s| text::width(&s.text))
        .sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(pieces: &[&str], width: usize) -> Vec<String> {
        let pieces: Vec<String> = pieces.iter().map(ToString::to_string).collect();
        wrap(&pieces, &[], width)
            .iter()
            .map(|l| l.iter().map(|s| s.text.as_str()).collect())
            .collect()
    }

    #[test]
    fn words_wrap_whole_although_they_are_several_tokens() {
        assert_eq!(
            lines(&["The", " capital", " of", " Bras", "ilia"], 15),
            ["The capital of", " Brasilia"]
        );
        assert_eq!(lines(&["a\nb", "\n"], 9), ["a⏎", "b⏎", ""]);
        assert_eq!(lines(&["abcdefgh"], 3), ["abc", "def", "gh"]);
    }

    #[test]
    fn a_split_emoji_appears_once() {
        let mut t = Transcript::default();
        t.begin(
            vec![
                Token::of_prompt(0, b"hi \xf0"),
                Token::of_prompt(1, b"\x9f\x91"),
            ],
            Duration::ZERO,
            BaselineMode::default(),
        );
        t.push(Token::of_prompt(2, b"\x8d!"), BaselineMode::default());
        assert_eq!(t.pieces, ["hi ", "", "👍!"]);
        t.push(Token::of_prompt(1, b"x"), BaselineMode::default());
        assert_eq!(t.tokens.len(), 2, "a rewound position replaces");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn wrapping_loses_nothing_and_stays_inside(pieces in prop::collection::vec("[ a-z漢\n]{0,9}", 0..30), width in 2usize..40) {
            let wrapped = wrap(&pieces, &[], width);
            for line in &wrapped {
                let text: String = line.iter().map(|s| s.text.as_str()).collect();
                prop_assert!(text::width(text.trim_end_matches('⏎')) <= width.max(2), "{text:?}");
            }
            let all: String = wrapped.concat().iter().map(|s| s.text.as_str()).collect();
            prop_assert_eq!(all.replace('⏎', "\n"), pieces.concat());
        }
    }
}
