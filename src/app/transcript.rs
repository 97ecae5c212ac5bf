//! The text of the run: tokens, the prose they make together, and how it wraps.
//!
//! Invariant: `pieces` has one entry a token and joins to the same prose as all bytes at once; a character split
//! over tokens appears once, at the token that completes it. Wrapping keeps every token whole in its own spans.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::edit::EditId;
use crate::edit::receipt::FiredAt;
use crate::engine::{Ending, Token};
use crate::lab::writer::BaselineMode;
use crate::text;

/// What the engine is doing with the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    #[default]
    Idle,
    /// The model reads the prompt.
    Reading,
    Writing,
}

/// A part of a line that belongs to one token.
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
    /// The prose of each token.
    pub pieces: Vec<String>,
    /// How the unedited run was generated next to the text, for each token.
    baseline_modes: Vec<BaselineMode>,
    /// How many tokens the prompt has.
    pub prompt: usize,
    /// First positions of changes made from now.
    pub boundaries: Vec<usize>,
    /// The edits that were in force before each of them.
    before: BTreeMap<usize, Vec<EditId>>,
    /// What is going on.
    pub activity: Activity,
    /// Why writing stopped last.
    pub ending: Option<Ending>,
    /// Tokens a second of the last writing.
    pub rate: Option<f32>,
    /// When the present writing began, and how many tokens it has brought.
    pub since: Option<(Duration, usize)>,
    /// The prompt as it was written, and whether it went through the chat template.
    pub source: Option<(String, bool)>,
    /// The way out, in a few words, where what the model makes of it is not finite.
    pub not_finite: Option<&'static str>,
    open: text::TextStream,
}

impl Transcript {
    /// Starts anew with the tokens of a prompt.
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

    /// Appends a token that was written.
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

    /// Appends a token of a text that is only read beside this one.
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

    /// Keeps the first `count` tokens.
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

    /// Takes in what the edits did at every position of a text that was read again.
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

    /// What every edit did at a position that did something there.
    pub fn fired_at(&self, position: usize) -> &[FiredAt] {
        self.tokens.get(position).map_or(&[], |t| &t.fired)
    }

    /// How the unedited run was generated next to the text when a token was written.
    pub fn baseline_mode_at(&self, position: usize) -> BaselineMode {
        self.baseline_modes
            .get(position)
            .copied()
            .unwrap_or_default()
    }

    /// What changed before a token was written, in words, where something did.
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

    /// Notes which edits are in force from a position on, and which were before. What was changed there and changed back
    /// is no change.
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

    /// Forgets the other boundaries.
    pub fn keep_boundaries(&mut self, keep: impl Fn(usize) -> bool) {
        self.boundaries.retain(|b| keep(*b));
        self.before.retain(|b, _| keep(*b));
    }

    /// Whether the engine works on the text.
    pub fn busy(&self) -> bool {
        self.activity != Activity::Idle
    }

    /// The token as it is spelled alone: `␣Paris`.
    pub fn spelled(&self, position: usize) -> String {
        self.tokens
            .get(position)
            .map_or_else(String::new, |t| text::visible(&t.bytes))
    }

    /// Lines of at most `width` columns, and the line of every token.
    pub fn wrap(&self, width: usize) -> Vec<Vec<TokenSpan>> {
        wrap(&self.pieces, &self.breaks(), width)
    }
}

/// Wraps pieces at spaces, the way prose wraps; a change of edits starts a line of its own.
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
            // Marks that belong to the letter before stay with it, whatever becomes of the rest.
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

/// Puts a part of a token on the last line.
fn append(lines: &mut [Vec<TokenSpan>], token: usize, text: &str) {
    if let Some(line) = lines.last_mut() {
        let text = text.into();
        line.push(TokenSpan { token, text });
    }
}

/// How many bytes at the beginning belong to the letter before.
fn leading_marks(part: &str) -> usize {
    use unicode_segmentation::UnicodeSegmentation as _;
    let first = part.graphemes(true).next().unwrap_or_default();
    if text::width(first) == 0 {
        first.len()
    } else {
        0
    }
}

/// Starts a line; the unfinished word goes along. Returns the columns used on the new line.
fn break_line(lines: &mut Vec<Vec<TokenSpan>>, part: &str) -> usize {
    let Some(line) = lines.last_mut() else {
        return 0;
    };
    let begins = line.iter().rposition(|s| s.text.starts_with(' '));
    let word = begins.filter(|_| !part.starts_with(' '));
    // A word that fills its line is cut.
    let word = word.filter(|at| *at > 0).unwrap_or(line.len());
    let tail = line.split_off(word);
    let used = tail.iter().map(|s| text::width(&s.text)).sum();
    lines.push(tail);
    used
}

/// Puts text on the last line, and on more lines when it is longer than one.
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

/// The token nearest to a column of a line.
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

    fn token(position: usize, bytes: &[u8]) -> Token {
        Token {
            position,
            id: 0,
            bytes: bytes.to_vec(),
            special: false,
            logprob: None,
            rank: None,
            kl: None,
            fired: Vec::new(),
            other: None,
        }
    }

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
            vec![token(0, b"hi \xf0"), token(1, b"\x9f\x91")],
            Duration::ZERO,
            BaselineMode::default(),
        );
        t.push(token(2, b"\x8d!"), BaselineMode::default());
        assert_eq!(t.pieces, ["hi ", "", "👍!"]);
        t.push(token(1, b"x"), BaselineMode::default());
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
