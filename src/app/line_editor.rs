//! The line editor used wherever the user writes: prompt, palette, forms, filters.
//!
//! Invariant: the cursor is at a character boundary of the text; readline keys work as in a shell.
//! To add an editing key, add an arm in [`PromptInput::press`].

use super::key::{Code, Key};

/// The result of a key press.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EditorOutcome {
    /// The text or its cursor changed.
    Changed,
    /// Enter: the text is complete.
    Sent,
    /// The editor does not use the key; another part of the screen may.
    Ignored,
}

/// A text that is being written, with a cursor, a cut buffer and earlier texts.
#[derive(Clone, Debug, Default)]
pub struct PromptInput {
    text: String,
    at: usize,
    cut: String,
    /// Whether ctrl-j starts a new line.
    pub lines: bool,
    past: Vec<String>,
    /// The index of the earlier text that is shown, counted from the newest.
    back: Option<usize>,
    draft: String,
}

impl PromptInput {
    /// An empty editor for a single line.
    pub fn line() -> Self {
        Self::default()
    }

    /// An empty editor for several lines.
    pub fn paragraph() -> Self {
        Self {
            lines: true,
            ..Self::default()
        }
    }

    /// A single-line editor with a text.
    pub fn with(text: &str) -> Self {
        let mut out = Self::line();
        out.set(text);
        out
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text before and after the cursor.
    pub fn halves(&self) -> (&str, &str) {
        self.text.split_at(self.at)
    }

    /// Whether the text is empty.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Replaces the text; the cursor goes to its end.
    pub fn set(&mut self, text: &str) {
        self.text = text.to_string();
        self.at = self.text.len();
    }

    /// What was sent, oldest first.
    pub fn earlier(&self) -> &[String] {
        &self.past
    }

    /// Takes these for what was sent, oldest first.
    pub fn remember(&mut self, earlier: Vec<String>) {
        self.past = earlier;
        self.back = None;
    }

    /// Whether an earlier text is shown, and has not been changed.
    pub fn is_recalling(&self) -> bool {
        self.back.is_some()
    }

    /// Empties the text.
    pub fn clear(&mut self) {
        self.set("");
        self.back = None;
    }

    /// Returns the text, stores it among the earlier texts, and empties the editor.
    pub fn send(&mut self) -> String {
        let text = std::mem::take(&mut self.text);
        self.at = 0;
        self.back = None;
        if !text.trim().is_empty() && self.past.last() != Some(&text) {
            self.past.push(text.clone());
        }
        text
    }

    /// Inserts text as one edit; in a single-line editor, line breaks become spaces.
    pub fn paste(&mut self, text: &str) {
        let clean = text.replace("\r\n", "\n").replace('\r', "\n");
        let clean = if self.lines {
            clean
        } else {
            clean.replace('\n', " ")
        };
        self.text.insert_str(self.at, &clean);
        self.at += clean.len();
    }

    fn before(&self) -> usize {
        self.text[..self.at]
            .char_indices()
            .next_back()
            .map_or(0, |(i, _)| i)
    }

    fn after(&self) -> usize {
        self.text[self.at..]
            .chars()
            .next()
            .map_or(self.at, |c| self.at + c.len_utf8())
    }

    fn line_start(&self) -> usize {
        self.text[..self.at].rfind('\n').map_or(0, |i| i + 1)
    }

    fn line_end(&self) -> usize {
        self.text[self.at..]
            .find('\n')
            .map_or(self.text.len(), |i| self.at + i)
    }

    fn word_start(&self) -> usize {
        let head = self.text[..self.at].trim_end();
        head.rfind(char::is_whitespace).map_or(0, |i| {
            i + head[i..].chars().next().map_or(1, char::len_utf8)
        })
    }

    fn remove(&mut self, from: usize, to: usize, keep: bool) {
        let gone: String = self.text.drain(from..to).collect();
        if keep && !gone.is_empty() {
            self.cut = gone;
        }
        self.at = from;
    }

    fn recall(&mut self, back: Option<usize>) {
        if self.back.is_none() {
            self.draft = self.text.clone();
        }
        let text = back
            .and_then(|b| self.past.len().checked_sub(b + 1))
            .map_or(self.draft.clone(), |i| self.past[i].clone());
        self.set(&text);
        self.back = back;
    }

    fn up(&mut self) -> EditorOutcome {
        let start = self.line_start();
        if start > 0 {
            let column = self.text[start..self.at].chars().count();
            self.at = start - 1;
            let above = self.line_start();
            self.at = self.text[above..self.at]
                .char_indices()
                .nth(column)
                .map_or(self.at, |(i, _)| above + i);
            return EditorOutcome::Changed;
        }
        let next = self.back.map_or(0, |b| b + 1);
        if next < self.past.len() {
            self.recall(Some(next));
            return EditorOutcome::Changed;
        }
        EditorOutcome::Ignored
    }

    fn down(&mut self) -> EditorOutcome {
        let end = self.line_end();
        if end < self.text.len() {
            let column = self.text[self.line_start()..self.at].chars().count();
            self.at = end + 1;
            let (start, end) = (self.at, self.line_end());
            self.at = self.text[start..end]
                .char_indices()
                .nth(column)
                .map_or(end, |(i, _)| start + i);
            return EditorOutcome::Changed;
        }
        match self.back {
            Some(0) => self.recall(None),
            Some(b) => self.recall(Some(b - 1)),
            None => return EditorOutcome::Ignored,
        }
        EditorOutcome::Changed
    }

    pub fn press(&mut self, key: Key) -> EditorOutcome {
        if let Some(c) = key.text() {
            self.text.insert(self.at, c);
            self.at += c.len_utf8();
            return EditorOutcome::Changed;
        }
        match (key.ctrl, key.code) {
            (true, Code::Char('j')) if self.lines => {
                self.text.insert(self.at, '\n');
                self.at += 1;
            }
            (false, Code::Enter) | (true, Code::Char('j')) => return EditorOutcome::Sent,
            (false, Code::Backspace) => self.remove(self.before(), self.at, false),
            (false, Code::Delete) => self.remove(self.at, self.after(), false),
            (true, Code::Char('d')) if !self.is_empty() => {
                self.remove(self.at, self.after(), false);
            }
            (false, Code::Left) | (true, Code::Char('b')) => self.at = self.before(),
            (false, Code::Right) | (true, Code::Char('f')) => self.at = self.after(),
            (false, Code::Home) | (true, Code::Char('a')) => self.at = self.line_start(),
            (false, Code::End) | (true, Code::Char('e')) => self.at = self.line_end(),
            (true, Code::Left) => self.at = self.word_start(),
            (true, Code::Char('k')) => self.remove(self.at, self.line_end(), true),
            (true, Code::Char('u')) => self.remove(self.line_start(), self.at, true),
            (true, Code::Char('w')) => self.remove(self.word_start(), self.at, true),
            (true, Code::Char('y')) => {
                let cut = self.cut.clone();
                self.paste(&cut);
            }
            (false, Code::Up) => return self.up(),
            (false, Code::Down) => return self.down(),
            _ => return EditorOutcome::Ignored,
        }
        EditorOutcome::Changed
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn type_in(prompt: &mut PromptInput, keys: &str) {
        for key in keys.split_whitespace() {
            prompt.press(key.parse().unwrap());
        }
    }

    #[test]
    fn readline_keys_work() {
        let mut p = PromptInput::paragraph();
        p.paste("one two three");
        type_in(&mut p, "ctrl-w");
        assert_eq!(p.text(), "one two ");
        type_in(&mut p, "ctrl-a x ctrl-e y");
        assert_eq!(p.text(), "xone two y");
        type_in(&mut p, "ctrl-u ctrl-y ctrl-y");
        assert_eq!(p.text(), "xone two yxone two y");
        type_in(&mut p, "ctrl-u a b ctrl-j c Up Home z");
        assert_eq!(p.text(), "zab\nc");
    }

    #[test]
    fn earlier_texts_come_back() {
        let mut p = PromptInput::line();
        p.set("first");
        assert_eq!(p.send(), "first");
        p.set("second");
        p.send();
        p.set("draft");
        type_in(&mut p, "Up Up Up");
        assert_eq!(p.text(), "first");
        type_in(&mut p, "Down Down");
        assert_eq!(p.text(), "draft");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_cursor_stays_on_a_boundary(keys in prop::collection::vec(prop::sample::select(vec![
            "a", "é", "漢", "Space", "ctrl-j", "Backspace", "Delete", "Left", "Right", "Up", "Down", "Home", "End",
            "ctrl-w", "ctrl-k", "ctrl-u", "ctrl-y", "ctrl-Left", "ctrl-d",
        ]), 0..60)) {
            let mut p = PromptInput::paragraph();
            for key in keys {
                p.press(key.parse().unwrap());
                let (a, b) = p.halves();
                prop_assert_eq!(a.len() + b.len(), p.text().len());
            }
        }
    }
}
