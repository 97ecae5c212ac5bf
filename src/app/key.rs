//! Key presses, independent of the terminal library, and their spelling.
//!
//! Invariant: printing and parsing are inverse, so help, `keys.toml` and `lmscope keys` spell a key alike.
//! To add a named key, add a variant of [`Code`] and a row in `NAMES`.

use std::fmt;
use std::str::FromStr;

/// The key itself, without modifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// A character, as typed with or without Shift.
    Char(char),
    Enter,
    /// Escape.
    Esc,
    Tab,
    Backspace,
    Delete,
    /// Arrow up.
    Up,
    /// Arrow down.
    Down,
    /// Arrow left.
    Left,
    /// Arrow right.
    Right,
    Home,
    End,
    PageUp,
    PageDown,
    /// The space bar.
    Space,
    /// A function key.
    F(u8),
}

/// The spelling of named keys.
const NAMES: &[(Code, &str)] = &[
    (Code::Enter, "Enter"),
    (Code::Esc, "Esc"),
    (Code::Tab, "Tab"),
    (Code::Backspace, "Backspace"),
    (Code::Delete, "Delete"),
    (Code::Up, "Up"),
    (Code::Down, "Down"),
    (Code::Left, "Left"),
    (Code::Right, "Right"),
    (Code::Home, "Home"),
    (Code::End, "End"),
    (Code::PageUp, "PgUp"),
    (Code::PageDown, "PgDn"),
    (Code::Space, "Space"),
];

/// A key press. Shift is recorded only for keys that are not characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub code: Code,
    /// Whether Control was held.
    pub ctrl: bool,
    /// Whether Shift was held (named keys only).
    pub shift: bool,
}

impl Key {
    /// A key without modifiers.
    pub const fn plain(code: Code) -> Self {
        Self {
            code,
            ctrl: false,
            shift: false,
        }
    }

    /// A character as typed.
    pub const fn char(c: char) -> Self {
        if c == ' ' {
            Self::plain(Code::Space)
        } else {
            Self::plain(Code::Char(c))
        }
    }

    /// A letter with Control.
    pub const fn ctrl(c: char) -> Self {
        Self {
            code: Code::Char(c),
            ctrl: true,
            shift: false,
        }
    }

    /// The character that the key inserts into a text, if any.
    pub fn text(self) -> Option<char> {
        match (self.ctrl, self.code) {
            (false, Code::Char(c)) => Some(c),
            (false, Code::Space) => Some(' '),
            _ => None,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ctrl {
            f.write_str("ctrl-")?;
        }
        if self.shift {
            f.write_str("S-")?;
        }
        if let Code::Char(c) = self.code {
            write!(f, "{c}")
        } else if let Code::F(n) = self.code {
            write!(f, "F{n}")
        } else {
            let named = NAMES.iter().find(|(code, _)| *code == self.code);
            f.write_str(named.map_or("", |(_, name)| name))
        }
    }
}

impl FromStr for Key {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "`{s}` is not a key; write a character, ctrl-x, S-Tab, Enter, Space, PgUp or F1"
            )
        };
        let (mut rest, mut ctrl, mut shift) = (s, false, false);
        while rest.chars().count() > 1 {
            let lower = rest.to_ascii_lowercase();
            let Some(cut) = ["ctrl-", "c-", "shift-", "s-"]
                .iter()
                .find(|p| lower.starts_with(**p))
            else {
                break;
            };
            ctrl |= cut.starts_with('c');
            shift |= cut.starts_with('s');
            rest = &rest[cut.len()..];
        }
        let named = NAMES
            .iter()
            .find(|(_, name)| name.eq_ignore_ascii_case(rest))
            .map(|(code, _)| *code);
        let function = rest
            .strip_prefix(['F', 'f'])
            .and_then(|n| n.parse().ok())
            .filter(|n| (1..=12).contains(n))
            .map(Code::F);
        let mut chars = rest.chars();
        let single = match (chars.next(), chars.next()) {
            (Some(c), None) if !c.is_control() && c != ' ' => Some(Code::Char(c)),
            _ => None,
        };
        let code = named.or(function).or(single).ok_or_else(bad)?;
        if let Code::Char(c) = code {
            let c = if shift {
                c.to_ascii_uppercase()
            } else if ctrl {
                c.to_ascii_lowercase()
            } else {
                c
            };
            return Ok(Self {
                code: Code::Char(c),
                ctrl,
                shift: false,
            });
        }
        Ok(Self { code, ctrl, shift })
    }
}

/// Parses a sequence of keys: `g g`.
pub fn chord(text: &str) -> Result<Vec<Key>, String> {
    let keys: Vec<Key> = text
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    if keys.is_empty() {
        Err("a key is missing; write for example \"g g\"".into())
    } else {
        Ok(keys)
    }
}

/// Prints a sequence of keys.
pub fn spell(keys: &[Key]) -> String {
    keys.iter()
        .map(Key::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn keys_print_and_parse_inversely() {
        for text in [
            "a", "G", "?", "ctrl-p", "S-Tab", "Enter", "Space", "F1", "PgDn", "<", "-", "g g",
            "ctrl-c q",
        ] {
            assert_eq!(spell(&chord(text).unwrap()), text);
        }
        assert_eq!("space".parse::<Key>().unwrap(), Key::char(' '));
        assert_eq!("Ctrl-P".parse::<Key>().unwrap(), Key::ctrl('p'));
        assert_eq!("shift-g".parse::<Key>().unwrap(), Key::char('G'));
        for bad in ["", "ctl-x", "F99", "Entr"] {
            assert!(chord(bad).is_err(), "{bad}");
        }
    }
}
