//! Lists to choose from by typing: the palette, help, and pickers. All three are the same list with other items.
//!
//! Invariant: an item is a command with its argument; choosing it runs exactly what typing it would run.
//! To add a picker, build a [`Listing`] of [`picks`].

use nucleo_matcher::pattern::{CaseMatching, Normalization, Pattern};
use nucleo_matcher::{Config, Matcher, Utf32Str};

use super::commands::{Command, command};
use super::key::{Code, Key};
use super::prompt::{Prompt, Typed};

/// One thing to choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its name with the arguments it takes.
    pub name: String,
    /// One sentence.
    pub about: String,
    /// Its keys.
    pub keys: Vec<String>,
    /// What it runs.
    pub command: &'static Command,
    /// With what.
    pub argument: String,
}

/// Values of a command to choose from, each with a sentence.
pub fn picks(name: &str, values: Vec<(String, String)>) -> Vec<Item> {
    let item = |command, (value, about): (String, String)| Item {
        name: value.clone(),
        about,
        keys: Vec::new(),
        command,
        argument: value,
    };
    let Some(command) = command(name) else {
        return Vec::new();
    };
    let values = values.into_iter();
    values.map(|value| item(command, value)).collect()
}

/// Keys in a few columns: `h, Left`, and `1-9` for a long row of them.
pub fn span(keys: &[String]) -> String {
    match keys {
        [first, .., last] if keys.len() > 3 => format!("{first}-{last}"),
        keys => keys.join(", "),
    }
}

/// Which list it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Type a command; what is typed may be a whole command line.
    Palette,
    /// Read about keys; Enter runs the line.
    Help,
    /// Choose one of a few values.
    Picker,
    /// Choose a theme; the selected one is shown at once.
    Theme,
}

/// A list with a filter.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Which list.
    pub purpose: Purpose,
    /// Its title.
    pub title: String,
    /// What is typed.
    pub filter: Prompt,
    /// Everything there is.
    pub items: Vec<Item>,
    /// Indices of the items that match, best first.
    pub shown: Vec<usize>,
    /// The selected one of them.
    pub selected: usize,
}

/// What a key led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Still choosing.
    Stay,
    /// Nothing was chosen.
    Close,
    /// Run this, with this argument.
    Run(&'static Command, String),
    /// Run a command line as it was typed.
    Typed(String),
}

impl Listing {
    /// A list that shows everything.
    pub fn new(purpose: Purpose, title: &str, items: Vec<Item>) -> Self {
        let shown = (0..items.len()).collect();
        Self {
            purpose,
            title: title.to_string(),
            filter: Prompt::line(),
            items,
            shown,
            selected: 0,
        }
    }

    /// The selected item.
    pub fn current(&self) -> Option<&Item> {
        self.shown.get(self.selected).map(|i| &self.items[*i])
    }

    /// Takes a key.
    pub fn press(&mut self, key: Key) -> Choice {
        let last = self.shown.len().saturating_sub(1);
        match (key.ctrl, key.code) {
            (false, Code::Esc) => return Choice::Close,
            (false, Code::Char('?') | Code::F(1))
                if self.purpose == Purpose::Help && self.filter.is_empty() =>
            {
                return Choice::Close;
            }
            (false, Code::Char('q'))
                if self.purpose != Purpose::Palette && self.filter.is_empty() =>
            {
                return Choice::Close;
            }
            (true, Code::Char('p')) if self.purpose == Purpose::Palette => return Choice::Close,
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
                Typed::Changed => self.narrow(),
                Typed::Sent => return self.choose(),
                Typed::Ignored => {}
            },
        }
        Choice::Stay
    }

    /// Takes pasted text.
    pub fn paste(&mut self, text: &str) {
        self.filter.paste(text);
        self.narrow();
    }

    fn complete(&mut self) {
        if let Some(item) = self.current() {
            let line = format!("{} {}", item.command.name, item.argument);
            let line = format!("{} ", line.trim_end());
            self.filter.set(&line);
            self.narrow();
        }
    }

    fn choose(&mut self) -> Choice {
        let typed = self.filter.text().trim().to_string();
        // A line with arguments is meant as typed, so that a slip in its first word is refused by name.
        let meant =
            !typed.is_empty() && (typed.contains(char::is_whitespace) || self.current().is_none());
        if meant && self.purpose == Purpose::Palette {
            return Choice::Typed(typed);
        }
        let run = |item: &Item| Choice::Run(item.command, item.argument.clone());
        self.current().map_or(Choice::Stay, run)
    }

    /// Keeps what matches: by the name first, by the sentence after it.
    fn narrow(&mut self) {
        self.selected = 0;
        let typed = self.filter.text().trim();
        let words = if self.purpose == Purpose::Palette && self.filter.text().contains(' ') {
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

    fn item(name: &str, about: &str, keys: &str) -> Item {
        Item {
            name: name.into(),
            about: about.into(),
            keys: vec![keys.into()],
            command: command(name).unwrap(),
            argument: String::new(),
        }
    }

    fn listing(purpose: Purpose) -> Listing {
        let items = vec![
            item("theme", "choose colours", ""),
            item("temperature", "set it", "t"),
            item("steer", "add a direction", "s"),
        ];
        Listing::new(purpose, "test", items)
    }

    fn type_in(list: &mut Listing, text: &str) -> Choice {
        text.chars()
            .map(|c| list.press(Key::char(c)))
            .last()
            .unwrap()
    }

    #[test]
    fn typing_narrows_and_enter_runs() {
        let mut list = listing(Purpose::Palette);
        type_in(&mut list, "temp");
        assert_eq!(
            list.press(Key::plain(Code::Enter)),
            Choice::Run(command("temperature").unwrap(), String::new())
        );
        let mut list = listing(Purpose::Palette);
        type_in(&mut list, "temperature 0.7");
        assert_eq!(
            list.press(Key::plain(Code::Enter)),
            Choice::Typed("temperature 0.7".into())
        );
        let mut list = listing(Purpose::Palette);
        type_in(&mut list, "nonsense 3");
        assert_eq!(
            list.press(Key::plain(Code::Enter)),
            Choice::Typed("nonsense 3".into()),
            "so that it can be refused by name"
        );
    }

    #[test]
    fn help_is_found_by_key_and_by_sentence() {
        let mut list = listing(Purpose::Help);
        type_in(&mut list, "s");
        assert_eq!(list.current().unwrap().name, "steer");
        let mut list = listing(Purpose::Help);
        type_in(&mut list, "colour");
        assert_eq!(list.current().unwrap().name, "theme");
        assert_eq!(listing(Purpose::Help).press(Key::char('?')), Choice::Close);
    }
}
