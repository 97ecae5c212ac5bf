//! Converts token bytes to safe visible text, computes the width of text in a terminal, and spells large numbers.
//!
//! Invariant: no text from here can move the cursor, reverse the reading direction or be hidden: every control, format and
//! invisible character is replaced by a visible stand-in, and that is decided only here. Widths are sums over grapheme
//! clusters, as ratatui lays out cells.
//! To add a stand-in, add an arm in `stand_in`.
//!
//! A token is bytes, often not whole characters, and has three spellings: [`plain`] for prose, [`visible`] for a single token,
//! and [`exact`], which is the only unambiguous one (a model can generate `␣` or `⟨e2⟩` as well).

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use unicode_segmentation::UnicodeSegmentation as _;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr};

use crate::error::{Error, Result};

/// The mark of a cut.
const CUT: &str = "…";

/// A number of bytes, for users: `7.3 MiB`.
pub fn size(n: u64) -> String {
    scaled(n, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB"])
}

/// A number of things, for users: `3.6M`.
pub fn count(n: u64) -> String {
    scaled(n, 1000.0, &["", "K", "M", "B", "T"])
}

/// A whole number with its digits in groups of three: `4 561`.
pub fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

fn scaled(n: u64, step: f64, units: &[&str]) -> String {
    let mut n = n as f64;
    let mut i = 0;
    while n >= step && i + 1 < units.len() {
        n /= step;
        i += 1;
    }
    if i == 0 {
        format!("{n:.0}{}", units[0])
    } else {
        format!("{n:.1}{}", units[i])
    }
}

/// A duration, for users: `53 s`, `1 min 53 s`, `2 h 5 min`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

/// Refuses a file whose first bytes are UTF-16.
///
/// # Errors
///
/// When they are; says what to do.
pub fn refuse_wide(path: &Path, bytes: &[u8]) -> Result<()> {
    match wide(bytes) {
        None => Ok(()),
        Some((what, next)) => Err(Error::bad_file(path, what, next)),
    }
}

/// Names from outside for a sentence, each in backquotes, at most `most` of them.
pub fn quoted(names: &[impl AsRef<str>], most: usize) -> String {
    let quoted = |name: &_| format!("`{}`", plain(AsRef::<str>::as_ref(name).as_bytes()));
    let shown: Vec<String> = names.iter().take(most).map(quoted).collect();
    match names.len().saturating_sub(most) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// What is wrong with bytes of UTF-16, and what to do; none for other bytes.
fn wide(bytes: &[u8]) -> Option<(String, &'static str)> {
    let told = |name: &str| {
        Some((
            format!("it is {name}, and texts are read as UTF-8"),
            "Save it as UTF-8 (iconv -f UTF-16 -t UTF-8; in an editor: \"save with encoding\")",
        ))
    };
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return told("UTF-16");
    }
    // Without a byte-order mark: most texts contain ASCII, in which every second byte is zero.
    let zeros = |from: usize| {
        let half = bytes.iter().skip(from).step_by(2);
        half.filter(|b| **b == 0).count()
    };
    if bytes.len() >= 4 && zeros(0).max(zeros(1)) * 4 > bytes.len() {
        return told("UTF-16 without a byte-order mark");
    }
    None
}

/// Decodes UTF-8 and removes a byte-order mark.
///
/// # Errors
///
/// What is wrong with the bytes, and what to do.
pub fn decode(bytes: Vec<u8>) -> Result<String, (String, &'static str)> {
    if let Some(wrong) = wide(&bytes) {
        return Err(wrong);
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(match text.strip_prefix('\u{feff}') {
            Some(rest) => rest.to_owned(),
            None => text,
        }),
        Err(e) => Err((
            format!(
                "it is not UTF-8 (from byte {} on)",
                e.utf8_error().valid_up_to()
            ),
            "Save it as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8, where it comes from there)",
        )),
    }
}

/// Spells bytes as prose: spaces and newlines are kept; unsafe and invisible characters are replaced by stand-ins.
///
/// The variation selectors of text and emoji style (U+FE0E, U+FE0F) are dropped: they only choose a glyph, and terminals
/// disagree on its width. Every character is spelled independently, so that [`TextStream`] gives the same result piece by
/// piece.
pub fn plain(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        push_plain(&mut out, chunk.valid());
        push_bytes(&mut out, chunk.invalid());
    }
    out
}

/// Spells text as prose on one line: as [`plain`], with `⏎` for a line feed, so that no name can forge a second line.
pub fn line(words: &str) -> String {
    plain(words.as_bytes()).replace('\n', "⏎")
}

/// Escapes in a JSON text what [`plain`] would replace, in JSON's own notation (`\u001b`): every value is unchanged, and a
/// terminal that shows the text is safe.
pub fn json(text: &str) -> String {
    let (mut out, mut trash) = (String::with_capacity(text.len()), String::new());
    for c in text.chars() {
        if c == '\n' || !stand_in(&mut trash, c) {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    out
}

/// Whether a text is safe to show: [`plain`] would not change it.
pub fn is_safe(text: &str) -> bool {
    let mut trash = String::new();
    text.chars().all(|c| c == '\n' || !stand_in(&mut trash, c))
}

/// Spells one token on one line: `␣the`, `⏎`, `⇥`, `␛`, `⟨e2 96⟩`, `⟨zwj⟩`.
///
/// Wide characters are kept. A combining mark at the beginning is put on a dotted circle.
pub fn visible(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 8);
    let mut broken: Vec<u8> = Vec::new();
    for chunk in bytes.utf8_chunks() {
        if !chunk.valid().is_empty() {
            push_bytes(&mut out, &broken);
            broken.clear();
        }
        for c in chunk.valid().chars() {
            match c {
                ' ' => out.push('␣'),
                '\n' => out.push('⏎'),
                '\u{a0}' => out.push('⍽'),
                c if blank(c) => push_code(&mut out, c),
                c => {
                    if !stand_in(&mut out, c) {
                        if out.is_empty() && c.width() == Some(0) {
                            out.push('◌');
                        }
                        out.push(c);
                    }
                }
            }
        }
        broken.extend_from_slice(chunk.invalid());
    }
    push_bytes(&mut out, &broken);
    out
}

/// Spells bytes without ambiguity, in printable ASCII and `␣` only: `caf<0xC3><0xA9>`.
///
/// A `<` that could be read as the start of such an escape is spelled `<0x3C>`.
pub fn exact(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for (i, &byte) in bytes.iter().enumerate() {
        match byte {
            b' ' => out.push('␣'),
            b'<' if bytes[i..].starts_with(b"<0x") => out.push_str("<0x3C>"),
            0x21..=0x7e => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "<0x{byte:02X}>");
            }
        }
    }
    out
}

/// Spells one token as [`visible`] does, cut and padded to exactly `columns` terminal columns.
pub fn cell(bytes: &[u8], columns: usize) -> String {
    fit(&visible(bytes), columns)
}

/// The width of text in terminal columns: the sum over its grapheme clusters.
pub fn width(text: &str) -> usize {
    if text.is_ascii() {
        return text.len();
    }
    text.graphemes(true).map(UnicodeWidthStr::width).sum()
}

/// Cuts text, with a `…`, and pads it to exactly `columns` columns. The text must already be safe.
pub fn fit(text: &str, columns: usize) -> String {
    let mut out = clip(text, columns);
    let used = width(&out);
    out.extend(std::iter::repeat_n(' ', columns.saturating_sub(used)));
    out
}

/// Cuts text, with a `…`, to at most `columns` columns. The text must already be safe.
///
/// It is cut between grapheme clusters; a wide cluster that does not fit completely is dropped.
pub fn clip(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    if columns == 0 {
        return String::new();
    }
    let mut out = String::new();
    let mut used = 0;
    for grapheme in text.graphemes(true) {
        let wide = grapheme.width();
        if used + wide + 1 > columns {
            break;
        }
        used += wide;
        out.push_str(grapheme);
    }
    // A stand-in in brackets is not cut in the middle, because the rest of it would be read as text.
    if let Some(open) = out.rfind('⟨').filter(|at| !out[*at..].contains('⟩')) {
        out.truncate(open);
    }
    out.push_str(CUT);
    out
}

/// Joins the bytes of successive tokens into prose: a character split over tokens appears once, when it is complete.
///
/// All pushes and the finish together give what [`plain`] gives for the whole.
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    /// The beginning of a character that the tokens so far leave incomplete: at most three bytes.
    open: Vec<u8>,
}

impl TextStream {
    /// Takes the bytes of one token and returns the text that is complete now.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.open.extend_from_slice(bytes);
        let keep = unfinished(&self.open);
        let rest = self.open.split_off(self.open.len() - keep);
        let text = plain(&self.open);
        self.open = rest;
        text
    }

    /// Returns the incomplete bytes as `⟨f0 9f⟩`, and resets the stream.
    pub fn finish(&mut self) -> String {
        plain(&std::mem::take(&mut self.open))
    }

    /// The bytes of the incomplete character; empty between characters.
    pub fn open(&self) -> &[u8] {
        &self.open
    }
}

/// How many bytes at the end begin a character that later bytes may complete.
fn unfinished(bytes: &[u8]) -> usize {
    (1..=bytes.len().min(3))
        .find(|&n| {
            let tail = &bytes[bytes.len() - n..];
            tail[0] >= 0xc2
                && std::str::from_utf8(tail)
                    .is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
        })
        .unwrap_or(0)
}

/// Appends text spelled as prose.
fn push_plain(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\n' => out.push(c),
            '\u{fe0e}' | '\u{fe0f}' => {}
            c => {
                if !stand_in(out, c) {
                    out.push(c);
                }
            }
        }
    }
}

/// Appends `⟨e2 96⟩`; nothing if there are no bytes.
fn push_bytes(out: &mut String, bytes: &[u8]) {
    for (i, byte) in bytes.iter().enumerate() {
        let _ = write!(out, "{}{byte:02x}", if i == 0 { '⟨' } else { ' ' });
    }
    if !bytes.is_empty() {
        out.push('⟩');
    }
}

/// Appends `⟨U+200B⟩`.
fn push_code(out: &mut String, c: char) {
    let _ = write!(out, "⟨U+{:04X}⟩", u32::from(c));
}

/// Appends the stand-in of an unsafe or invisible character; false if the character has none.
///
/// The ranges are Unicode's Cc, Cf, Zl, Zp and `Default_Ignorable_Code_Point`, noncharacters, and the blank Braille pattern.
fn stand_in(out: &mut String, c: char) -> bool {
    match c {
        '\t' => out.push('⇥'),
        '\u{0}'..='\u{1f}' => out.push(char::from_u32(0x2400 + u32::from(c)).unwrap_or('␦')),
        '\u{7f}' => out.push('␡'),
        '\u{200b}' => out.push_str("⟨zwsp⟩"),
        '\u{200c}' => out.push_str("⟨zwnj⟩"),
        '\u{200d}' => out.push_str("⟨zwj⟩"),
        '\u{fe0e}' => out.push_str("⟨vs15⟩"),
        '\u{fe0f}' => out.push_str("⟨vs16⟩"),
        '\u{feff}' => out.push_str("⟨bom⟩"),
        '\u{ad}' => out.push_str("⟨shy⟩"),
        '\u{80}'..='\u{9f}'
        | '\u{34f}'
        | '\u{600}'..='\u{605}'
        | '\u{61c}'
        | '\u{6dd}'
        | '\u{70f}'
        | '\u{890}'..='\u{891}'
        | '\u{8e2}'
        | '\u{115f}'..='\u{1160}'
        | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{200e}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{2800}'
        | '\u{3164}'
        | '\u{fdd0}'..='\u{fdef}'
        | '\u{fe00}'..='\u{fe0d}'
        | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}'
        | '\u{fffe}'..='\u{ffff}'
        | '\u{110bd}'
        | '\u{110cd}'
        | '\u{13430}'..='\u{1343f}'
        | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}' => push_code(out, c),
        c if u32::from(c) & 0xfffe == 0xfffe => push_code(out, c),
        _ => return false,
    }
    true
}

/// Whether a character is a space other than U+0020: prose keeps it; in a single token it is spelled as a name.
fn blank(c: char) -> bool {
    matches!(
        c,
        '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}'
    )
}

/// Where bytes occur last in others.
pub fn last_in(all: &[u8], wanted: &[u8]) -> Option<usize> {
    if wanted.is_empty() || wanted.len() > all.len() {
        return None;
    }
    (0..=all.len() - wanted.len()).rfind(|at| all[*at..].starts_with(wanted))
}

/// So many of a thing in words: `1 token`, `3 400 tokens`.
pub fn counted(count: usize, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", grouped(count))
}

/// Bytes in hexadecimal, two digits each.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _infallible = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_may_begin_with_a_mark_and_must_be_utf8() {
        let told = |bytes: &[u8]| decode(bytes.to_vec()).map_err(|(what, _)| what);
        assert_eq!(told(b"\xef\xbb\xbfthe king\r\n").unwrap(), "the king\r\n");
        assert_eq!(told("\u{feff}\u{feff}a".as_bytes()).unwrap(), "\u{feff}a");
        assert_eq!(told(b"").unwrap(), "");
        for wide in [
            &b"\xff\xfet\0h\0"[..],
            b"\xfe\xff\0t\0h",
            b"t\0h\0e\0",
            b"\0t\0h\0e",
        ] {
            assert!(told(wide).unwrap_err().contains("UTF-16"), "{wide:?}");
        }
        let latin = told(b"caf\xe9 au lait").unwrap_err();
        assert!(latin.contains("not UTF-8 (from byte 3 on)"), "{latin}");
    }

    #[test]
    fn times_are_short() {
        let spelled = |s| duration(Duration::from_secs(s));
        assert_eq!(spelled(53), "53 s");
        assert_eq!(spelled(113), "1 min 53 s");
        assert_eq!(spelled(7500), "2 h 5 min");
    }

    #[test]
    fn large_numbers_are_short() {
        assert_eq!(size(12), "12 B");
        assert_eq!(size(7_654_321), "7.3 MiB");
        assert_eq!(count(3_600_000), "3.6M");
    }

    /// Bytes that are often, but not always, UTF-8, with many dangerous characters.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            any::<char>().prop_map(|c| c.to_string().into_bytes()),
            "[ -~]{0,4}".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..4),
            prop::sample::select(vec![
                "漢字",
                "👩\u{200d}🚀",
                "❤\u{fe0f}",
                "🇫🇷",
                "🇫",
                "\u{1b}[2J",
                "\u{202e}",
                "e\u{301}",
                "\u{301}",
                "क्षि",
                "لا",
                "한",
                "\u{1161}",
                "\u{9b}31m",
                "\r\n",
                "\u{e0041}",
                "👍🏽",
                "\u{600}1",
                "ำ",
            ])
            .prop_map(|s| s.as_bytes().to_vec()),
        ];
        prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
    }

    #[test]
    fn one_token_alone() {
        for (bytes, want) in [
            (&b" the"[..], "␣the"),
            (b"a b ", "a␣b␣"),
            (b"\n\t\x1b\x7f\0\r", "⏎⇥␛␡␀␍"),
            (b"\xe2\x96", "⟨e2 96⟩"),
            (b"\x96\x84", "⟨96 84⟩"),
            (b"\xffok\xfe", "⟨ff⟩ok⟨fe⟩"),
            ("é漢👍".as_bytes(), "é漢👍"),
            ("\u{200d}\u{202e}\u{fe0f}".as_bytes(), "⟨zwj⟩⟨U+202E⟩⟨vs16⟩"),
            ("\u{301}".as_bytes(), "◌\u{301}"),
            ("\u{a0}x".as_bytes(), "⍽x"),
            ("\u{2003}x".as_bytes(), "⟨U+2003⟩x"),
            (b"", ""),
        ] {
            assert_eq!(visible(bytes), want);
        }
    }

    #[test]
    fn prose_keeps_lines_and_spaces() {
        assert_eq!(plain(b"one two\n\x1b[31mred\x07"), "one two\n␛[31mred␇");
        assert_eq!(plain("❤\u{fe0f} 漢".as_bytes()), "❤ 漢");
        assert_eq!(plain(b"a\xe2\x96"), "a⟨e2 96⟩");
        assert_eq!(plain("a\u{85}\u{2028}".as_bytes()), "a⟨U+0085⟩⟨U+2028⟩");
    }

    #[test]
    fn exact_is_ascii_and_unambiguous() {
        assert_eq!(
            exact("caf\u{e9} ▁\n".as_bytes()),
            "caf<0xC3><0xA9>␣<0xE2><0x96><0x81><0x0A>"
        );
        assert_eq!(exact(b"<0x41> <b>"), "<0x3C>0x41>␣<b>");
    }

    #[test]
    fn cuts_by_column_never_inside_a_character() {
        assert_eq!(fit("token", 8), "token   ");
        assert_eq!(fit("tokenizer", 5), "toke…");
        assert_eq!(fit("漢字", 4), "漢字");
        assert_eq!(fit("漢字", 3), "漢…");
        assert_eq!(fit("漢字", 2), "… ");
        assert_eq!(fit("漢", 1), "…");
        assert_eq!(fit("漢", 0), "");
        assert_eq!(clip("e\u{301}e\u{301}e\u{301}", 2), "e\u{301}…");
        assert_eq!(clip("abc", 3), "abc");
        assert_eq!(clip("a⟨U+2003⟩b", 7), "a…", "a stand-in is whole or gone");
        assert_eq!(clip("a⟨U+2003⟩bcd", 11), "a⟨U+2003⟩b…");
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(4561), "4 561");
        assert_eq!(grouped(1_234_567), "1 234 567");
        assert_eq!(width("漢e\u{301}👍🏽"), 5);
    }

    #[test]
    fn an_emoji_split_over_three_tokens_appears_once() {
        let mut stream = TextStream::default();
        let said: Vec<String> = [&b"hi \xf0"[..], b"\x9f\x91", b"\x8d!", b"\xe2\x96"]
            .map(|b| stream.push(b))
            .into();
        assert_eq!(said, ["hi ", "", "👍!", ""]);
        assert_eq!(stream.open(), b"\xe2\x96");
        assert_eq!(stream.finish(), "⟨e2 96⟩");
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn a_broken_character_does_not_swallow_the_next() {
        let mut stream = TextStream::default();
        assert_eq!(stream.push(b"\xe2\x96"), "");
        assert_eq!(stream.push(b"a"), "⟨e2 96⟩a");
        assert_eq!(stream.push(b"\xf0"), "");
        assert_eq!(stream.push(b"\xf0\x9f\x91\x8d"), "⟨f0⟩👍");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_cell_is_exactly_as_wide_as_asked(bytes in bytes(), columns in 0_usize..24) {
            let cell = cell(&bytes, columns);
            prop_assert_eq!(width(&cell), columns);
            let mut invisible = String::new();
            prop_assert!(!cell.chars().any(|c| c.is_control() || stand_in(&mut invisible, c)));
        }

        #[test]
        fn nothing_dangerous_gets_through(bytes in bytes()) {
            let mut trash = String::new();
            prop_assert!(!plain(&bytes).chars().any(|c| c != '\n' && stand_in(&mut trash, c)));
            prop_assert!(!visible(&bytes).chars().any(|c| stand_in(&mut trash, c)));
            prop_assert!(exact(&bytes).chars().all(|c| c == '␣' || c.is_ascii_graphic()));
        }

        #[test]
        fn a_line_is_one_safe_line(bytes in bytes()) {
            let said = line(&String::from_utf8_lossy(&bytes));
            prop_assert!(is_safe(&said) && !said.contains('\n'));
            prop_assert_eq!(line(&said), said);
        }

        #[test]
        fn json_keeps_its_values_and_harms_nobody(bytes in bytes()) {
            let value = serde_json::json!({ "a": [String::from_utf8_lossy(&bytes)] });
            let spelled = json(&serde_json::to_string_pretty(&value).unwrap());
            prop_assert!(is_safe(&spelled));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&spelled).unwrap(), value);
        }

        #[test]
        fn a_stream_says_what_the_whole_says(bytes in bytes(), cuts in prop::collection::vec(0_usize..5, 0..40)) {
            let (mut stream, mut rest, mut said) = (TextStream::default(), &bytes[..], String::new());
            for cut in cuts {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                said += &stream.push(head);
                rest = tail;
            }
            said += &stream.push(rest);
            prop_assert!(stream.open().len() < 4);
            said += &stream.finish();
            prop_assert_eq!(said, plain(&bytes));
        }

        #[test]
        fn exact_can_be_read_back(bytes in bytes()) {
            let (spelled, mut back) = (exact(&bytes), Vec::new());
            let mut rest = spelled.as_str();
            while let Some(c) = rest.chars().next() {
                if let Some(code) = rest.strip_prefix("<0x") {
                    back.push(u8::from_str_radix(&code[..2], 16).unwrap());
                    rest = &code[3..];
                } else {
                    back.push(if c == '␣' { b' ' } else { c as u8 });
                    rest = &rest[c.len_utf8()..];
                }
            }
            prop_assert_eq!(back, bytes);
        }
    }
}
