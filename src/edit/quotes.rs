//! Quotation marks in what users type: wherever an edit takes a text, they delimit it, and nothing between them has a special
//! meaning.
//!
//! `"…"` and its typographic forms (`“…”`, `„…“`) can begin anywhere; `'…'` and `‘…’` only where a text begins, so that an
//! apostrophe is a letter. Inside, `\"`, `\\`, `\n` and the other escapes of JSON have their JSON meaning. Invariant: [`read`]
//! inverts [`quoted`] and [`named`]; an unclosed mark is refused, never read as part of a text. To read another pair, add it to
//! `closing`.

/// Stands for every quoted byte in the shadow of a line.
const FILLER: char = '\u{1}';

/// The closing marks of an opening quotation mark; empty for any other character.
fn closing(open: char) -> &'static [char] {
    match open {
        '"' => &['"'],
        '“' => &['”'],
        '„' => &['“', '”'],
        '\'' => &['\''],
        '‘' => &['’'],
        _ => &[],
    }
}

/// Whether a mark is also a letter: an apostrophe.
fn single(mark: char) -> bool {
    matches!(mark, '\'' | '‘')
}

/// The end of a text after its opening mark, in bytes, and the closing mark.
fn end(rest: &str, open: char) -> Option<(usize, char)> {
    let mut characters = rest.char_indices();
    while let Some((at, c)) = characters.next() {
        if c == '\\' {
            characters.next();
            continue;
        }
        if !closing(open).contains(&c) {
            continue;
        }
        let next = rest[at + c.len_utf8()..].chars().next();
        let ends = |c: char| c.is_whitespace() || "@:=><(),{}*/".contains(c);
        if !single(open) || next.is_none_or(ends) {
            return Some((at, c));
        }
    }
    None
}

/// A line and its shadow, a copy of equal length in which quoted parts are masked.
pub(crate) struct QuotedLine<'a> {
    text: &'a str,
    shadow: String,
}

/// A part of a line, which is split only outside of quotation marks.
#[derive(Clone, Copy)]
pub(crate) struct LinePiece<'a> {
    /// The text as typed, quotation marks included.
    pub(crate) text: &'a str,
    shadow: &'a str,
}

impl<'a> QuotedLine<'a> {
    /// Finds the quoted parts; an error for a mark that is not closed.
    pub(crate) fn new(text: &'a str) -> Result<Self, String> {
        let mut shadow = String::with_capacity(text.len());
        let mut at = 0;
        while let Some(c) = text[at..].chars().next() {
            let begins = || {
                let before = shadow.trim_end();
                before.is_empty()
                    || before.ends_with(|c| ":=><(,{@".contains(c))
                    || before.ends_with(" when")
                    || before.ends_with(" once")
            };
            let after = at + c.len_utf8();
            if !closing(c).is_empty() && (!single(c) || begins()) {
                if let Some((length, close)) = end(&text[after..], c) {
                    let whole = c.len_utf8() + length + close.len_utf8();
                    shadow.extend(std::iter::repeat_n(FILLER, whole));
                    at += whole;
                    continue;
                }
                if !single(c) {
                    return Err(unclosed(&text[at..]));
                }
            }
            shadow.push(c);
            at = after;
        }
        Ok(Self { text, shadow })
    }

    pub(crate) fn whole(&self) -> LinePiece<'_> {
        LinePiece {
            text: self.text,
            shadow: &self.shadow,
        }
        .trim()
    }
}

impl LinePiece<'_> {
    /// The bytes from `start` to `end`.
    pub(crate) fn part(self, start: usize, end: usize) -> Self {
        Self {
            text: &self.text[start..end],
            shadow: &self.shadow[start..end],
        }
    }

    /// The piece without surrounding blanks.
    pub(crate) fn trim(self) -> Self {
        let start = self.shadow.len() - self.shadow.trim_start().len();
        let end = start + self.shadow.trim().len();
        self.part(start, end)
    }

    /// The last occurrence of an unquoted text.
    pub(crate) fn rfind(self, wanted: &str) -> Option<usize> {
        self.shadow.rfind(wanted)
    }

    /// The pieces before and after the first occurrence of an unquoted character.
    pub(crate) fn split_once(self, at: char) -> Option<(Self, Self)> {
        let found = self.shadow.find(at)?;
        Some((self.part(0, found), self.part(found + 1, self.text.len())))
    }

    /// As [`LinePiece::split_once`], at the last occurrence.
    pub(crate) fn rsplit_once(self, at: char) -> Option<(Self, Self)> {
        let found = self.shadow.rfind(at)?;
        Some((self.part(0, found), self.part(found + 1, self.text.len())))
    }

    /// The text of the piece, without quotation marks.
    pub(crate) fn read(self) -> Result<String, String> {
        read(self.text)
    }
}

fn unclosed(text: &str) -> String {
    format!("the quotation mark before `{}` is not closed", {
        let mut inside = text.chars();
        inside.next();
        inside.as_str()
    })
}

/// Reads a text with or without quotation marks around it; without them it is taken literally, blanks included.
pub fn read(text: &str) -> Result<String, String> {
    let bare = text.trim();
    let Some(open) = bare.chars().next().filter(|c| !closing(*c).is_empty()) else {
        if text.contains(['"', '“', '”', '„']) {
            return Err(format!(
                "`{bare}` has a quotation mark inside; write it whole between quotation marks, with \\\" for each in it"
            ));
        }
        return Ok(text.to_string());
    };
    let rest = &bare[open.len_utf8()..];
    let (length, close) = end(rest, open).ok_or_else(|| unclosed(bare))?;
    let after = &rest[length + close.len_utf8()..];
    if !after.is_empty() {
        return Err(format!(
            "`{}` follows the closing quotation mark; write the whole text between one pair, with \\\" for each mark in it",
            after.trim_start()
        ));
    }
    unescaped(&rest[..length])
}

/// Replaces the escapes in a quoted text.
fn unescaped(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let escape = rest.next().unwrap_or('\\');
        out.push(match escape {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            '0' => '\0',
            '"' | '\'' | '\\' | '/' | '“' | '”' | '„' | '‘' | '’' => escape,
            'u' => {
                let (found, after) = code(rest.as_str())
                    .ok_or_else(|| format!("`\\u` in `{text}` is not followed by the number of a character"))?;
                rest = after.chars();
                found
            }
            other => {
                return Err(format!(
                    "`\\{other}` in `{text}` is not an escape; between quotation marks write \\\\ for a backslash"
                ));
            }
        });
    }
    Ok(out)
}

/// The character of `XXXX`, of a pair of surrogates, or of `{X…}`, and the rest of the text.
fn code(text: &str) -> Option<(char, &str)> {
    if let Some(braced) = text.strip_prefix('{') {
        let (digits, after) = braced.split_once('}')?;
        let number = u32::from_str_radix(digits, 16).ok()?;
        return Some((char::from_u32(number)?, after));
    }
    let four = |text: &str| u32::from_str_radix(text.get(..4)?, 16).ok();
    let (first, after) = (four(text)?, text.get(4..)?);
    if !(0xd800..0xdc00).contains(&first) {
        return Some((char::from_u32(first)?, after));
    }
    let second = four(after.strip_prefix("\\u")?)?;
    let low = second.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
    let number = 0x10000 + ((first - 0xd800) << 10) + low;
    Some((char::from_u32(number)?, after.get(6..)?))
}

/// A text in quotation marks, escaped as in JSON.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A name or file, in quotation marks if it contains something that could be read as part of an edit.
pub fn named(name: &str) -> String {
    let special =
        |c: char| c.is_whitespace() || c.is_control() || "@:*=><,(){}\"'“”„‘’".contains(c);
    if name.is_empty() || name.contains(special) {
        quoted(name)
    } else {
        name.to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_every_kind_delimit() {
        for (typed, means) in [
            ("\"a b\"", "a b"),
            ("“a b”", "a b"),
            ("„a b“", "a b"),
            ("„a b”", "a b"),
            ("'a b'", "a b"),
            ("‘it’s late’", "it’s late"),
            ("'it's late'", "it's late"),
            (" \" a\" ", " a"),
            ("it's late", "it's late"),
            (" a ", " a "),
            (
                r#""a\"b\\c\n\td\u00e9\ud83d\ude00\u{301}\/""#,
                "a\"b\\c\n\tdé😀\u{301}/",
            ),
            ("\"\"", ""),
            ("C:\\d", "C:\\d"),
        ] {
            assert_eq!(read(typed).unwrap(), means, "{typed}");
        }
        for (typed, why) in [
            ("\"a", "not closed"),
            ("“a\"", "not closed"),
            ("'tis", "not closed"),
            ("\"a\" b", "follows the closing"),
            ("\"a\"\"b\"", "follows the closing"),
            ("say \"a\"", "inside"),
            ("a”", "inside"),
            ("\"C:\\dir\"", "not an escape"),
            ("\"\\u12\"", "number"),
            ("\"\\ud800x\"", "number"),
            ("\"a\\\"", "not closed"),
        ] {
            let error = read(typed).unwrap_err();
            assert!(error.contains(why), "{typed}: {error}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for text in [
            "",
            " a",
            "a\"b",
            "\\",
            "\n",
            "“a”",
            "it's",
            "a@b:c*d",
            "{x}",
            "\u{1}\u{202e}",
        ] {
            assert_eq!(read(&quoted(text)).unwrap(), text);
            assert_eq!(read(&named(text)).unwrap(), text);
        }
        assert_eq!(named("a/b-c.gguf#-1"), "a/b-c.gguf#-1");
        assert_eq!(named("my file"), "\"my file\"");
    }

    #[test]
    fn only_what_is_not_quoted_splits() {
        let line = QuotedLine::new("a:“x@y”=\"é@\" @'z@w' b").unwrap();
        let (head, tail) = line.whole().rsplit_once('@').unwrap();
        assert_eq!((head.text, tail.text), ("a:“x@y”=\"é@\" ", "'z@w' b"));
        let (name, text) = head.split_once('=').unwrap();
        assert_eq!(
            (name.text, text.read().unwrap().as_str()),
            ("a:“x@y”", "é@")
        );
        assert!(QuotedLine::new("a:\"x@y").is_err());
        // An apostrophe inside a text is a letter.
        assert!(
            QuotedLine::new("a:it's@x")
                .unwrap()
                .whole()
                .rsplit_once('@')
                .is_some()
        );
    }
}
