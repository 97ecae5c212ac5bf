//! Completion: what Tab adds to the argument of a command, in the palette and where an argument is asked for; and the lists of
//! values that need no completing.
//!
//! Invariant: only folders that the user has begun to write are read, and nothing that is there is replaced but by something that
//! begins with it. To complete another kind of argument, give its command's row `completes`.

use std::path::Path;

use super::commands::Command;
use super::palette::{Listing, PaletteList, named_picks};
use super::{App, ArgumentLine, Overlay};
use crate::text;

/// How many choices are named.
const NAMED: usize = 12;

/// What Tab makes of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Completed {
    /// The text goes on like this, and there are these choices; none where it is one.
    On(String, Vec<String>),
    Nothing,
}

/// The longest beginning that all texts have in common.
fn common(texts: &[String]) -> String {
    let Some((first, rest)) = texts.split_first() else {
        return String::new();
    };
    let mut common = first.as_str();
    for text in rest {
        let same = common.char_indices().zip(text.chars());
        let end = same
            .take_while(|((_, a), b)| a == b)
            .map(|((at, a), _)| at + a.len_utf8())
            .last();
        common = &common[..end.unwrap_or(0)];
    }
    common.into()
}

/// The files and folders that a path can go on to, folders with a slash at the end. Hidden ones only where a dot is written.
fn paths(typed: &str, home: Option<&str>) -> Vec<String> {
    let (folder, begun) = typed
        .rsplit_once('/')
        .map_or(("", typed), |(folder, begun)| {
            (&typed[..=folder.len()], begun)
        });
    let real = match (folder.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => format!("{}/{rest}", home.trim_end_matches('/')),
        (_, _) => folder.into(),
    };
    let real = if real.is_empty() { "." } else { &real };
    let entries = std::fs::read_dir(Path::new(real)).into_iter().flatten();
    let found = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let hidden = name.starts_with('.') && !begun.starts_with('.');
        let fits = name.starts_with(begun) && !hidden && !name.chars().any(char::is_control);
        let slash = if entry.path().is_dir() { "/" } else { "" };
        fits.then(|| format!("{folder}{name}{slash}"))
    });
    let mut found: Vec<String> = found.collect();
    found.sort();
    found
}

/// The text of a command with `~/` as a shell reads it, where a word begins with it.
pub(super) fn at_home(text: &str, home: &str) -> String {
    let home = format!("{}/", home.trim_end_matches('/'));
    let text = match text.strip_prefix("~/") {
        Some(rest) => format!("{home}{rest}"),
        None => text.to_string(),
    };
    text.replace(" ~/", &format!(" {home}"))
}

impl App {
    fn complete(&self, row: &Command, typed: &str) -> Completed {
        let home = std::env::var("HOME").ok();
        let words = row.arguments.trim_matches(['[', ']']).split_whitespace();
        // The file is the last of what the command takes; before it stand as many words as the row says.
        let before = words.count().saturating_sub(1);
        let mut all = row.completes.map_or_else(Vec::new, |of| of(self, typed));
        all.retain(|choice| choice.starts_with(typed));
        if row.takes_file() {
            let mut file = typed;
            for _ in 0..before {
                file = file.split_once(' ').map_or("", |(_, rest)| rest);
            }
            let head = &typed[..typed.len() - file.len()];
            let own = paths(file, home.as_deref()).into_iter();
            all.extend(own.map(|path| format!("{head}{path}")));
        }
        match all.len() {
            0 => Completed::Nothing,
            1 => Completed::On(common(&all), Vec::new()),
            _ => Completed::On(common(&all), all),
        }
    }

    /// Says what there is to choose from.
    fn say_choices(&mut self, choices: &[String]) {
        if choices.is_empty() {
            return;
        }
        let short = |choice: &String| {
            let name = choice.trim_end_matches('/').rsplit(['/', ' ']).next();
            let slash = if choice.ends_with('/') { "/" } else { "" };
            format!("{}{slash}", text::line(name.unwrap_or(choice)))
        };
        let mut named: Vec<String> = choices.iter().take(NAMED).map(short).collect();
        if choices.len() > NAMED {
            named.push(format!("{} more", choices.len() - NAMED));
        }
        self.inform(named.join("  "));
    }

    /// Tab in the palette behind a command: completes its argument. False where the palette itself completes the command.
    pub(super) fn complete_in_palette(&mut self, listing: &mut Listing) -> bool {
        let typed = listing.filter.text().to_string();
        let Some((word, argument)) = typed.split_once(' ') else {
            return false;
        };
        let row = super::commands::command(word);
        let Some(row) = row.filter(|_| listing.purpose == PaletteList::Palette) else {
            return false;
        };
        if !row.can_complete() {
            return false;
        }
        match self.complete(row, argument.trim_start()) {
            Completed::On(text, choices) => {
                listing.retype(&format!("{word} {text}"));
                self.say_choices(&choices);
            }
            Completed::Nothing => self.inform("nothing there begins so"),
        }
        true
    }

    /// Tab where an argument is asked for. False where nothing is known of it.
    pub(super) fn complete_in_line(&mut self, line: &mut ArgumentLine) -> bool {
        if !line.command.can_complete() {
            return false;
        }
        match self.complete(line.command, line.value.text()) {
            Completed::On(text, choices) => {
                line.value.set(&text);
                self.say_choices(&choices);
            }
            Completed::Nothing => self.inform("nothing there begins so"),
        }
        true
    }

    /// Opens a list of values for a command: a name and a description of each, and the value.
    pub(super) fn open_named_picker(
        &mut self,
        of: &str,
        title: &str,
        values: Vec<(String, String, String)>,
    ) {
        let items = named_picks(of, values);
        let listing = Listing::new(PaletteList::Picker, title, items);
        self.overlay = Some(Overlay::Listing(listing));
    }

    /// Opens the line for the argument of a command with its beginning written.
    pub(super) fn open_line_with(&mut self, row: &'static Command, begun: &str) {
        self.open_line(row);
        if let Some(Overlay::Line(line)) = &mut self.overlay {
            line.value.set(begun);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn paths_go_on_to_what_is_there() {
        let home = tempfile::tempdir().unwrap();
        let at = home.path();
        std::fs::create_dir(at.join("lists")).unwrap();
        for name in ["list.tsv", "liszt.txt", ".hidden", "über.txt"] {
            std::fs::write(at.join(name), "").unwrap();
        }
        let folder = format!("{}/", at.display());
        let from = |typed: &str| paths(typed, Some(&folder));
        let all = from("~/li");
        assert_eq!(all, ["~/list.tsv", "~/lists/", "~/liszt.txt"]);
        assert_eq!(common(&all), "~/lis");
        assert_eq!(from("~/ü"), ["~/über.txt"]);
        assert_eq!(from("~/.h"), ["~/.hidden"]);
        assert_eq!(from("~/").len(), 4, "what is hidden stays so");
        assert!(from("~/none/").is_empty());
        let path = format!("{folder}liszt");
        assert_eq!(paths(&path, None), [format!("{path}.txt")]);
        let umlauts = ["aü".to_string(), "aö".to_string()];
        assert_eq!(common(&umlauts), "a");
    }

    #[test]
    fn a_word_that_begins_at_home_is_there() {
        for (text, expected) in [
            ("~/a b", "/h/a b"),
            ("svg ~/x.svg", "svg /h/x.svg"),
            ("a~/b ~c", "a~/b ~c"),
        ] {
            assert_eq!(super::at_home(text, "/h/"), expected);
            assert_eq!(super::at_home(text, "/h"), expected);
        }
    }
}
