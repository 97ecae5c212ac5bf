//! Lists filtered by typing: the palette, help, and pickers. All three are the same list with different items.
//!
//! Invariant: an item is a command with its argument; choosing it does exactly what typing it would do.
//! To add a picker, build a [`Listing`] of [`picks`].

use nucleo_matcher::pattern::{CaseMatching, Normalization, Pattern};
use nucleo_matcher::{Config, Matcher, Utf32Str};

use super::commands::{Command, command};
use super::key::{Code, Key};
use super::line_editor::{EditorOutcome, PromptInput};

/// An item of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaletteItem {
    /// Its name with the arguments it takes.
    pub name: String,
    /// A one-sentence description.
    pub about: String,
    pub keys: Vec<String>,
    /// The command that the item runs.
    pub command: &'static Command,
    pub argument: String,
}

/// Items that run one command with different values, each with a description.
pub fn picks(name: &str, values: Vec<(String, String)>) -> Vec<PaletteItem> {
    let values = values.into_iter();
    named_picks(
        name,
        values
            .map(|(value, about)| (value.clone(), about, value))
            .collect(),
    )
}

/// Items that run one command with different values: a name and a description of each, and the value.
pub fn named_picks(command_name: &str, values: Vec<(String, String, String)>) -> Vec<PaletteItem> {
    let Some(command) = command(command_name) else {
        return Vec::new();
    };
    let item = |(name, about, argument)| PaletteItem {
        name,
        about,
        keys: Vec::new(),
        command,
        argument,
    };
    values.into_iter().map(item).collect()
}

/// Keys in a few columns: `h, Left`, and `1-9` for a run of digits.
pub fn span(keys: &[String]) -> String {
    match keys {
        [first, .., last] if keys.len() > 3 => format!("{first}-{last}"),
        keys => keys.join(", "),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaletteList {
    /// The palette of commands; a whole command line can be typed.
    Palette,
    /// Help on keys; Enter runs the selected command.
    Help,
    /// A choice of a few values.
    Picker,
    /// A choice of theme; the selected one is applied at once.
    Theme,
}

/// A list with a filter.
#[derive(Clone, Debug)]
pub struct Listing {
    pub purpose: PaletteList,
    pub title: String,
    /// The filter text.
    pub filter: PromptInput,
    /// All items.
    pub items: Vec<PaletteItem>,
    /// Indices of the items that match, best first.
    pub shown: Vec<usize>,
    pub selected: usize,
}

/// The result of a key press.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PaletteKey {
    /// The list stays open.
    Stay,
    /// The list is closed without a choice.
    Close,
    /// Run this command with this argument.
    Run(&'static Command, String),
    /// Run a command line as it was typed.
    Typed(String),
}

impl Listing {
    /// A list that shows all items.
    pub fn new(purpose: PaletteList, title: &str, items: Vec<PaletteItem>) -> Self {
        let shown = (0..items.len()).collect();
        Self {
            purpose,
            title: title.to_string(),
            filter: PromptInput::line(),
            items,
            shown,
            selected: 0,
        }
    }

    /// The selected item.
    pub fn current(&self) -> Option<&PaletteItem> {
        self.shown.get(self.selected).map(|i| &self.items[*i])
    }

    pub fn press(&mut self, key: Key) -> PaletteKey {
        let last = self.shown.len().saturating_sub(1);
        match (key.ctrl, key.code) {
            (false, Code::Esc) => return PaletteKey::Close,
            (false, Code::Char('?') | Code::F(1))
                if self.purpose == PaletteList::Help && self.filter.is_empty() =>
            {
                return PaletteKey::Close;
            }
            (false, Code::Char('q'))
                if self.purpose != PaletteList::Palette && self.filter.is_empty() =>
            {
                return PaletteKey::Close;
            }
            (true, Code::Char('p')) if self.purpose == PaletteList::Palette => {
                return PaletteKey::Close;
            }
            (false, Code::Up) if self.recalls() => self.recall(key),
            (false, Code::Down) if self.filter.is_recalling() => self.recall(key),
            (false, Code::Up) | (true, Code::Char('p')) => {
                self.selected = self.selected.saturating_sub(1);
            }
            (false, Code::Down) | (true, Code::Char('n')) => {
                self.selected = (self.selected + 1).min(last);
            }
            (false, Code::PageUp) => self.selected = self.selected.saturating_sub(10),
            (false, Code::PageDown) => self.selected = (self.selected + 10).min(last),
            (false, Code::Tab) => self.complete(),
            _ => match self.filter.press(key) {
                EditorOutcome::Changed => self.narrow(),
                EditorOutcome::Sent => return self.choose(),
                EditorOutcome::Ignored => {}
            },
        }
        PaletteKey::Stay
    }

    /// Whether Up brings back an earlier command line: at the top of the palette, before anything is typed.
    fn recalls(&self) -> bool {
        self.purpose == PaletteList::Palette
            && (self.filter.is_recalling() || self.selected == 0 && self.filter.is_empty())
    }

    fn recall(&mut self, key: Key) {
        self.filter.press(key);
        self.narrow();
    }

    /// Puts another text into the filter.
    pub fn retype(&mut self, text: &str) {
        self.filter.set(text);
        self.narrow();
    }

    /// Inserts pasted text into the filter.
    pub fn paste(&mut self, text: &str) {
        self.filter.paste(text);
        self.narrow();
    }

    fn complete(&mut self) {
        if let Some(item) = self.current() {
            let line = format!("{} {}", item.command.name, item.argument);
            self.retype(&format!("{} ", line.trim_end()));
        }
    }

    fn choose(&mut self) -> PaletteKey {
        let typed = self.filter.text().trim().to_string();
        // A line with spaces is a command line with arguments. It is run as typed, so that a mistake in the command's name is
        // reported.
        let meant =
            !typed.is_empty() && (typed.contains(char::is_whitespace) || self.current().is_none());
        if meant && self.purpose == PaletteList::Palette {
            return PaletteKey::Typed(typed);
        }
        let run = |item: &PaletteItem| PaletteKey::Run(item.command, item.argument.clone());
        self.current().map_or(PaletteKey::Stay, run)
    }

    /// Filters the items: matches in the name come before matches in the description.
    fn narrow(&mut self) {
        self.selected = 0;
        let typed = self.filter.text().trim();
        let words = if self.purpose == PaletteList::Palette && self.filter.text().contains(' ') {
            typed.split_whitespace().next().unwrap_or("")
        } else {
            typed
        };
        if words.is_empty() {
            self.shown = (0..self.items.len()).collect();
            return;
        }
        let mut matcher = Matcher::new(Config::DEFAULT);
        let pattern = Pattern::parse(words, CaseMatching::Ignore, Normalization::Smart);
        let mut buffer = Vec::new();
        let mut score = |text: &str| pattern.score(Utf32Str::new(text, &mut buffer), &mut matcher);
        let mut found: Vec<(u32, usize)> = Vec::new();
        for (i, item) in self.items.iter().enumerate() {
            let command = item.argument.is_empty() && item.command.name == words;
            let exact = if command { 100_000 } else { 0 };
            let key = if item.keys.iter().any(|k| k == words) {
                50_000
            } else {
                0
            };
            let name = score(&item.name).map_or(0, |s| s * 4);
            let about = if words.len() > 1 {
                score(&item.about).unwrap_or(0)
            } else {
                0
            };
            let best = exact + key + name.max(about);
            if best > 0 {
                found.push((best, i));
            }
        }
        found.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        self.shown = found.into_iter().map(|(_, i)| i).collect();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn item(name: &str, about: &str, keys: &str) -> PaletteItem {
        PaletteItem {
            name: name.into(),
            about: about.into(),
            keys: vec![keys.into()],
            command: command(name).unwrap(),
            argument: String::new(),
        }
    }

    fn listing(purpose: PaletteList) -> Listing {
        let items = vec![
            item("theme", "choose colours", ""),
            item("temperature", "set it", "t"),
            item("steer", "add a direction", "s"),
        ];
        Listing::new(purpose, "test", items)
    }

    fn type_in(list: &mut Listing, text: &str) -> PaletteKey {
        text.chars()
            .map(|c| list.press(Key::char(c)))
            .last()
            .unwrap()
    }

    #[test]
    fn typing_narrows_and_enter_runs() {
        let mut list = listing(PaletteList::Palette);
        type_in(&mut list, "temp");
        assert_eq!(
            list.press(Key::plain(Code::Enter)),
            PaletteKey::Run(command("temperature").unwrap(), String::new())
        );
        let mut list = listing(PaletteList::Palette);
        type_in(&mut list, "temperature 0.7");
        assert_eq!(
            list.press(Key::plain(Code::Enter)),
            PaletteKey::Typed("temperature 0.7".into())
        );
        let mut list = listing(PaletteList::Palette);
        type_in(&mut list, "nonsense 3");
        assert_eq!(
            list.press(Key::plain(Code::Enter)),
            PaletteKey::Typed("nonsense 3".into()),
            "so that it can be refused by name"
        );
    }

    #[test]
    fn help_is_found_by_key_and_by_sentence() {
        let mut list = listing(PaletteList::Help);
        type_in(&mut list, "s");
        assert_eq!(list.current().unwrap().name, "steer");
        let mut list = listing(PaletteList::Help);
        type_in(&mut list, "colour");
        assert_eq!(list.current().unwrap().name, "theme");
        assert_eq!(
            listing(PaletteList::Help).press(Key::char('?')),
            PaletteKey::Close
        );
    }
}
