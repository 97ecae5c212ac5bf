//! The number of colours and the characters that the terminal can show.
//!
//! Invariant: the user's flag takes precedence over the environment, and `NO_COLOR` over the terminal's capabilities.
//! To add a terminal that is known for truecolor by its `TERM`, add its word to [`TRUE_TERMS`].

use crate::error::{Error, Result};

/// Values of `TERM`, or parts of them, of terminals with truecolor. `TERM` is passed on by SSH, `COLORTERM` is not.
const TRUE_TERMS: &str = "direct kitty ghostty alacritty wezterm foot truecolor 24bit";

/// The number of colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Depth {
    /// No colours: only bold, dim, reversed, underlined.
    None,
    /// The terminal's own 16.
    #[default]
    Ansi16,
    /// The palette of 256 colours.
    Ansi256,
    /// 24 bit.
    True,
}

impl Depth {
    /// Reads the value of `--color`; `auto` is `None`.
    pub fn parse(flag: &str) -> Result<Option<Self>> {
        match flag.trim().to_ascii_lowercase().as_str() {
            "auto" | "" => Ok(None),
            "none" | "never" | "no" | "0" => Ok(Some(Self::None)),
            "16" | "ansi" => Ok(Some(Self::Ansi16)),
            "256" => Ok(Some(Self::Ansi256)),
            "true" | "truecolor" | "24bit" | "always" => Ok(Some(Self::True)),
            _ => {
                let expected = "auto, truecolor, 256, 16 or none";
                Err(Error::argument("--color", flag, expected))
            }
        }
    }

    /// Decides from the flag, then `NO_COLOR`, `COLORTERM`, `TERM`, and `CLICOLOR` and `CLICOLOR_FORCE`.
    pub fn detect(flag: Option<&str>, env: impl Fn(&str) -> Option<String>) -> Result<Self> {
        if let Some(depth) = flag.map(Self::parse).transpose()?.flatten() {
            return Ok(depth);
        }
        let env = |name: &str| env(name).unwrap_or_default().to_ascii_lowercase();
        if !env("NO_COLOR").is_empty() {
            return Ok(Self::None);
        }
        if ["truecolor", "24bit"].contains(&env("COLORTERM").as_str()) {
            return Ok(Self::True);
        }
        let forced = !matches!(env("CLICOLOR_FORCE").as_str(), "" | "0");
        if env("CLICOLOR") == "0" && !forced {
            return Ok(Self::None);
        }
        let term = env("TERM");
        Ok(
            if matches!(term.as_str(), "dumb" | "unknown") || term.contains("mono") {
                if forced { Self::Ansi16 } else { Self::None }
            } else if TRUE_TERMS.split(' ').any(|word| term.contains(word)) {
                Self::True
            } else if term.contains("256color") || env("TERM_PROGRAM") == "apple_terminal" {
                Self::Ansi256
            } else {
                Self::Ansi16
            },
        )
    }

    /// The name, as in `--color` and `:stats`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Ansi16 => "16",
            Self::Ansi256 => "256",
            Self::True => "truecolor",
        }
    }
}

/// The characters that may be drawn in addition to text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Glyphs {
    /// Blocks, shades and braille, all one column wide.
    #[default]
    Unicode,
    Ascii,
}

impl Glyphs {
    /// Decides from the locale, and from `TERM` for the Linux console, whose font lacks most blocks.
    pub fn detect(env: impl Fn(&str) -> Option<String>) -> Self {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .iter()
            .find_map(|name| env(name).filter(|value| !value.is_empty()));
        let other = locale.is_some_and(|value| {
            let value = value.to_ascii_lowercase();
            value.contains('.') && !value.contains("utf-8") && !value.contains("utf8")
        });
        if other || env("TERM").as_deref() == Some("linux") {
            Self::Ascii
        } else {
            Self::Unicode
        }
    }

    /// One of two signs: any Unicode character, or its replacement in ASCII.
    pub fn pick<T>(self, unicode: T, ascii: T) -> T {
        match self {
            Self::Unicode => unicode,
            Self::Ascii => ascii,
        }
    }

    /// Shades from empty to full.
    pub fn ramp(self) -> &'static [char] {
        self.pick(
            &[' ', '░', '▒', '▓', '█'],
            &[' ', '.', ':', '-', '=', '+', '*', '#', '%', '@'],
        )
    }

    /// The brackets left and right of the cell under the cursor.
    pub fn brackets(self) -> [&'static str; 2] {
        self.pick(["▐", "▌"], [">", "<"])
    }

    /// The sign next to a marked unit.
    pub fn mark(self) -> &'static str {
        self.pick("◆", "*")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn depth(flag: Option<&str>, vars: &[(&str, &str)]) -> Depth {
        Depth::detect(flag, |name| {
            vars.iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        })
        .unwrap()
    }

    #[test]
    fn the_first_evidence_wins() {
        let rich = ("COLORTERM", "truecolor");
        for (flag, vars, want) in [
            (Some("256"), &[("NO_COLOR", "1"), rich][..], Depth::Ansi256),
            (Some("auto"), &[("NO_COLOR", "1"), rich], Depth::None),
            (None, &[("NO_COLOR", ""), rich], Depth::True),
            (None, &[rich, ("TERM", "dumb")], Depth::True),
            (None, &[("TERM", "xterm-256color")], Depth::Ansi256),
            (
                None,
                &[("TERM", "tmux-256color"), ("COLORTERM", "24bit")],
                Depth::True,
            ),
            (None, &[("TERM", "xterm")], Depth::Ansi16),
            (None, &[("TERM", "linux")], Depth::Ansi16),
            (None, &[("TERM", "xterm-direct")], Depth::True),
            (None, &[("TERM", "xterm-kitty")], Depth::True),
            (None, &[("TERM", "dumb")], Depth::None),
            (
                None,
                &[("TERM", "dumb"), ("CLICOLOR_FORCE", "1")],
                Depth::Ansi16,
            ),
            (
                None,
                &[("TERM", "dumb"), ("CLICOLOR_FORCE", "0")],
                Depth::None,
            ),
            (
                None,
                &[("TERM", "xterm-256color"), ("CLICOLOR", "0")],
                Depth::None,
            ),
            (None, &[], Depth::Ansi16),
        ] {
            assert_eq!(depth(flag, vars), want, "{flag:?} {vars:?}");
        }
    }

    #[test]
    fn a_wrong_flag_is_an_error_that_lists_the_right_ones() {
        let error = Depth::detect(Some("pink"), |_| None)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("pink") && error.contains("truecolor, 256, 16 or none"),
            "{error}"
        );
    }

    #[test]
    fn depth_spells_as_it_parses() {
        for depth in [Depth::None, Depth::Ansi16, Depth::Ansi256, Depth::True] {
            assert_eq!(Depth::parse(depth.name()).unwrap(), Some(depth));
        }
    }

    #[test]
    fn blocks_need_a_utf8_locale() {
        let with = |name: &'static str, value: &'static str| {
            Glyphs::detect(move |n| (n == name).then(|| value.to_owned()))
        };
        assert_eq!(with("LANG", "de_DE.ISO-8859-1"), Glyphs::Ascii);
        assert_eq!(with("LANG", "en_US.UTF-8"), Glyphs::Unicode);
        assert_eq!(
            with("LC_ALL", "C"),
            Glyphs::Unicode,
            "C says nothing about the terminal"
        );
        assert_eq!(with("TERM", "linux"), Glyphs::Ascii);
    }
}
