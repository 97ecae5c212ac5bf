//! Decodes terminal input: from bytes to keys and pasted text.
//!
//! Invariant: input may be split between any two bytes, and any byte may be missing: the decoder waits for the rest of a
//! sequence for at most [`Decoder::patience`], and never interprets a part of an escape sequence or of a paste as typed keys.
//! Key releases are dropped, Shift is folded into characters, and nothing here decides what a key does. To decode another key,
//! add its arm in [`final_byte`] or [`numbered`].

use std::time::Duration;

use crate::app::Event;
use crate::app::key::{Code, Key};
use crate::app::pointer::{PointedAt, Pointer, PointerMove};
use crate::app::setting::Background;
use crate::export::colour::{self, Rgb};

/// How long after a single Escape a sequence may still follow.
const ESCAPE: Duration = Duration::from_millis(50);
/// The longest pause within a sequence or a paste.
const PAUSE: Duration = Duration::from_millis(400);
/// How long after an incomplete sequence its rest is still recognised.
const LATE: Duration = Duration::from_secs(1);
/// Bytes that follow each other within this time were not typed.
const BURST: Duration = Duration::from_millis(20);
/// Longer sequences are dropped.
const LONGEST: usize = 4096;
/// A paste is delivered in pieces of this size, in bytes.
const PIECE: usize = 1 << 24;

const ESC: u8 = 0x1b;
const CTRL_C: u8 = 0x03;
const PASTE_BEGINS: &[u8] = b"\x1b[200~";
const PASTE_ENDS: &[u8] = b"\x1b[201~";

/// The state of a bracketed paste.
#[derive(Debug, Default)]
enum PasteState {
    /// No paste is in progress.
    #[default]
    No,
    /// All bytes up to the end mark belong to the paste.
    Open(Vec<u8>),
    /// The end mark did not arrive in time. Several bytes at once are taken for more of the paste, single keys for keys.
    Torn,
    /// As `Torn`, after one character: it is a key unless more bytes follow at once.
    Unsure(Vec<u8>),
}

/// Converts bytes to events.
#[derive(Debug, Default)]
pub struct Decoder {
    /// An incomplete sequence or character.
    pending: Vec<u8>,
    /// An incomplete sequence that was given up.
    late: Vec<u8>,
    pasting: PasteState,
}

/// What the next bytes contain.
#[derive(Debug, PartialEq, Eq)]
enum InputState {
    /// An incomplete sequence or character.
    More,
    /// This many bytes are a key, or a sequence without meaning here.
    Done(usize, Option<Key>),
    /// This many bytes begin a paste.
    Paste(usize),
}

impl Decoder {
    /// How long to wait for more bytes before calling [`Self::expire`]; none to wait without limit.
    pub fn patience(&self) -> Option<Duration> {
        match self.pasting {
            PasteState::Unsure(_) => return Some(BURST),
            PasteState::Open(_) => return Some(PAUSE),
            PasteState::Torn | PasteState::No => {}
        }
        match (self.pending.as_slice(), self.late.is_empty()) {
            ([], true) => None,
            ([], false) => Some(LATE),
            ([ESC], _) => Some(ESCAPE),
            (_, _) => Some(PAUSE),
        }
    }

    /// Handles bytes that arrived together.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<Event>) {
        let mut bytes = bytes.to_vec();
        match std::mem::take(&mut self.pasting) {
            PasteState::Open(text) if bytes.iter().all(|b| *b == CTRL_C) => {
                // Ctrl-c only: the user wants to get out of the paste.
                paste(text, out);
                self.pasting = PasteState::Torn;
                self.keys(&bytes, out);
                return;
            }
            PasteState::Open(text) | PasteState::Unsure(text) => {
                self.more_paste(text, bytes, out);
                return;
            }
            PasteState::Torn => {
                let ended = bytes.windows(PASTE_ENDS.len()).any(|w| w == PASTE_ENDS);
                if !self.pending.is_empty() || (typed(&bytes) && !ended) {
                    self.pasting = PasteState::Torn;
                } else if single(&bytes) {
                    self.pasting = PasteState::Unsure(bytes);
                    return;
                } else {
                    self.more_paste(Vec::new(), bytes, out);
                    return;
                }
            }
            PasteState::No => {}
        }
        let late = std::mem::take(&mut self.late);
        if !late.is_empty() && bytes.len() > 1 {
            let joined = [late.as_slice(), &bytes].concat();
            let rest = match scan(&joined) {
                InputState::Done(length, _) => length == joined.len(),
                InputState::Paste(_) | InputState::More => true,
            };
            if rest {
                bytes = joined;
            }
        }
        self.keys(&bytes, out);
    }

    /// Handles the end of the wait: what is incomplete is given up.
    pub fn expire(&mut self, out: &mut Vec<Event>) {
        match std::mem::take(&mut self.pasting) {
            PasteState::Open(text) => {
                paste(text, out);
                self.pasting = PasteState::Torn;
                return;
            }
            PasteState::Unsure(bytes) => {
                self.keys(&bytes, out);
                return;
            }
            PasteState::Torn => self.pasting = PasteState::Torn,
            PasteState::No => {}
        }
        self.late.clear();
        match self.pending.as_slice() {
            [ESC] => out.push(Event::Key(Key::plain(Code::Esc))),
            // Alt with a letter; otherwise it would be the beginning of a terminal's reply.
            [ESC, c @ (b']' | b'P' | b'_')] => out.push(Event::Key(Key::char(char::from(*c)))),
            _ => {}
        }
        if self.pending.first() == Some(&ESC) {
            std::mem::swap(&mut self.late, &mut self.pending);
        }
        self.pending.clear();
    }

    fn more_paste(&mut self, mut text: Vec<u8>, bytes: Vec<u8>, out: &mut Vec<Event>) {
        let from = text.len().saturating_sub(PASTE_ENDS.len() - 1);
        text.extend(bytes);
        let end = text[from..]
            .windows(PASTE_ENDS.len())
            .position(|w| w == PASTE_ENDS);
        if let Some(end) = end {
            let rest = text.split_off(from + end + PASTE_ENDS.len());
            text.truncate(from + end);
            paste(text, out);
            self.keys(&rest, out);
            return;
        }
        if text.len() > PIECE {
            let tail = text.split_off(text.len() - PASTE_ENDS.len());
            paste(std::mem::replace(&mut text, tail), out);
        }
        self.pasting = PasteState::Open(text);
    }

    fn keys(&mut self, bytes: &[u8], out: &mut Vec<Event>) {
        let mut held = std::mem::take(&mut self.pending);
        // Alt and its key arrive together, so on a busy machine these are two separate keys.
        if held == [ESC] && !begins(bytes) {
            out.push(Event::Key(Key::plain(Code::Esc)));
            held.clear();
        }
        held.extend_from_slice(bytes);
        let mut at = 0;
        while at < held.len() {
            match scan(&held[at..]) {
                InputState::More if held.len() - at > LONGEST => break,
                InputState::More => {
                    self.pending = held.split_off(at);
                    return;
                }
                InputState::Done(length, key) => {
                    // The end mark, or a key that the user pressed: the torn paste is over.
                    let over = held[at..].starts_with(PASTE_ENDS);
                    if over || key.is_some_and(|key| key != Key::ctrl('c')) {
                        self.pasting = PasteState::No;
                    }
                    out.extend(key.map(Event::Key));
                    out.extend(pointer(&held[at..at + length]).map(Event::Pointer));
                    out.extend(background(&held[at..at + length]).map(Event::Background));
                    at += length;
                }
                InputState::Paste(length) => {
                    let rest = held.split_off(at + length);
                    self.more_paste(Vec::new(), rest, out);
                    return;
                }
            }
        }
    }
}

/// What a whole report of the mouse says: `ESC [ < BUTTON ; COLUMN ; ROW`, then `M` or, where a button is let go, `m`.
fn pointer(bytes: &[u8]) -> Option<Pointer> {
    let words = std::str::from_utf8(bytes.strip_prefix(b"\x1b[<")?).ok()?;
    let (numbers, last) = words.split_at(words.len().checked_sub(1)?);
    let mut numbers = numbers.split(';').map(|n| n.parse::<u16>().ok());
    let (button, x, y) = (numbers.next()??, numbers.next()??, numbers.next()??);
    // Shift, Alt and Ctrl are 4, 8 and 16, motion is 32, the wheel 64.
    let how = match (button & !0b1_1100, last) {
        (0, "M") => PointerMove::Press,
        (32, "M") => PointerMove::Drag,
        (0, "m") => PointerMove::Release,
        (64, "M") => PointerMove::WheelUp,
        (65, "M") => PointerMove::WheelDown,
        (_, _) => return None,
    };
    Some(Pointer {
        how,
        at: (x.checked_sub(1)?, y.checked_sub(1)?),
        what: PointedAt::Nothing,
    })
}

/// What a whole reply says of the background: `ESC ] 11 ; rgb:RRRR/GGGG/BBBB`, each with one to four digits.
fn background(bytes: &[u8]) -> Option<Background> {
    let words = std::str::from_utf8(bytes.strip_prefix(b"\x1b]11;")?).ok()?;
    let words = words.trim_end_matches(['\x07', '\\', '\x1b']);
    let colours = words.strip_prefix("rgba:").or(words.strip_prefix("rgb:"))?;
    let part = |part: &str| {
        let most = 16u32.checked_pow(part.len() as u32)?.checked_sub(1)?;
        let value = u32::from_str_radix(part, 16).ok()?;
        Some((value * 255 / most.max(1)) as u8)
    };
    let mut parts = colours.split('/').filter(|part| part.len() <= 4).map(part);
    let rgb = Rgb(parts.next()??, parts.next()??, parts.next()??);
    // Where black and white can be read equally well.
    let light = colour::luminance(rgb) > 0.18;
    Some(if light {
        Background::Light
    } else {
        Background::Dark
    })
}

fn paste(text: Vec<u8>, out: &mut Vec<Event>) {
    if !text.is_empty() {
        out.push(Event::Paste(String::from_utf8_lossy(&text).into_owned()));
    }
}

/// Whether the bytes are keys that are not characters; a paste never begins with these.
fn typed(bytes: &[u8]) -> bool {
    match bytes {
        [] | [ESC, b'[' | b'O', ..] => true,
        [ESC, ..] => match scan(bytes) {
            InputState::Done(length, _) => length == bytes.len(),
            InputState::More | InputState::Paste(_) => true,
        },
        [b'\r' | b'\n' | b'\t', ..] => false,
        [first, ..] => *first < b' ' || *first == 0x7f,
    }
}

/// Whether an Escape followed by these bytes begins a sequence.
fn begins(bytes: &[u8]) -> bool {
    match bytes {
        [b'[' | b'O', ..] => true,
        [b']' | b'P' | b'_', more @ ..] => !more.is_empty(),
        _ => false,
    }
}

/// Whether the bytes are a single character.
fn single(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| text.chars().nth(1).is_none())
}

/// Decodes the beginning of `bytes`, which are not empty.
fn scan(bytes: &[u8]) -> InputState {
    match bytes {
        [ESC, b'[', ..] => csi(bytes),
        [ESC, b'O', ..] => ss3(bytes),
        [ESC, ESC, ..] => InputState::Done(1, Some(Key::plain(Code::Esc))),
        [] | [ESC] | [ESC, b']' | b'P' | b'_'] => InputState::More,
        // Replies of the terminal, perhaps to an earlier program.
        [ESC, b']', b'0'..=b'9', ..]
        | [ESC, b'P', b'0'..=b'9' | b'>' | b'!' | b'$' | b'+', ..]
        | [ESC, b'_', b'G', ..] => answer(bytes),
        // Alt with a character; the app has no such keys, so Alt is ignored.
        [ESC, rest @ ..] => match character(rest) {
            InputState::Done(length, key) => InputState::Done(length + 1, key),
            scan @ (InputState::More | InputState::Paste(_)) => scan,
        },
        _ => character(bytes),
    }
}

/// A character, or a control byte.
fn character(bytes: &[u8]) -> InputState {
    let Some(first) = bytes.first().copied() else {
        return InputState::More;
    };
    let ctrl = |code| Key {
        ctrl: true,
        ..Key::plain(code)
    };
    let key = match first {
        b'\r' => Key::plain(Code::Enter),
        b'\t' => Key::plain(Code::Tab),
        0x7f => Key::plain(Code::Backspace),
        0 => ctrl(Code::Space),
        0x01..=0x1a => Key::ctrl(char::from(first - 1 + b'a')),
        ESC => Key::plain(Code::Esc),
        0x1c..=0x1f => Key::ctrl(char::from(first - 0x1c + b'4')),
        _ => {
            let head = &bytes[..bytes.len().min(4)];
            let (valid, bad) = match std::str::from_utf8(head) {
                Ok(text) => (text, None),
                Err(e) => (
                    std::str::from_utf8(&head[..e.valid_up_to()]).unwrap_or(""),
                    e.error_len(),
                ),
            };
            return match (valid.chars().next(), bad) {
                (Some(c), _) if c.is_control() => InputState::Done(c.len_utf8(), None),
                (Some(c), _) => InputState::Done(c.len_utf8(), Some(Key::char(c))),
                (None, Some(length)) => InputState::Done(length, None),
                (None, None) => InputState::More,
            };
        }
    };
    InputState::Done(1, Some(key))
}

/// `ESC O`, optional modifiers, and a letter.
fn ss3(bytes: &[u8]) -> InputState {
    for (i, byte) in bytes.iter().enumerate().skip(2) {
        match byte {
            b'0'..=b'9' | b';' if i < 6 => {}
            b' '..=b'~' => {
                let fields = fields(&bytes[2..i]);
                // A single number is the modifier.
                let fields = match fields.as_slice() {
                    [one] => vec![vec![1], one.clone()],
                    _ => fields,
                };
                return InputState::Done(i + 1, final_byte(*byte, &fields));
            }
            // Another sequence begins here, so this one was incomplete.
            _ => return InputState::Done(i, None),
        }
    }
    InputState::More
}

/// `ESC [`, parameters, and a final byte.
fn csi(bytes: &[u8]) -> InputState {
    match bytes.get(2) {
        // Function keys of the Linux console.
        Some(b'[') => {
            return match bytes.get(3) {
                None => InputState::More,
                Some(c @ b'A'..=b'E') => {
                    InputState::Done(4, Some(Key::plain(Code::F(c - b'A' + 1))))
                }
                Some(b' '..=b'~') => InputState::Done(4, None),
                Some(_) => InputState::Done(3, None),
            };
        }
        // An old mouse report: three more bytes, which may look like letters.
        Some(b'M') => {
            let cut = bytes.iter().take(6).skip(3).position(|b| *b < b' ');
            return match (cut, bytes.len()) {
                (Some(at), _) => InputState::Done(3 + at, None),
                (None, 0..6) => InputState::More,
                (None, _) => InputState::Done(6, None),
            };
        }
        _ => {}
    }
    for (i, byte) in bytes.iter().enumerate().skip(2) {
        match byte {
            b' '..=b'?' => {}
            b'@'..=b'~' if &bytes[..=i] == PASTE_BEGINS => return InputState::Paste(i + 1),
            b'@'..=b'~' => {
                let inside = &bytes[2..i];
                // Reports about the mouse, modes, and the identity of the terminal.
                let ours = inside
                    .iter()
                    .all(|b| b.is_ascii_digit() || b";:".contains(b));
                let key = ours.then(|| final_byte(*byte, &fields(inside))).flatten();
                return InputState::Done(i + 1, key);
            }
            // Another sequence begins here, so this one was incomplete.
            _ => return InputState::Done(i, None),
        }
    }
    InputState::More
}

/// A reply such as `ESC ]`, up to its end.
fn answer(bytes: &[u8]) -> InputState {
    for (i, byte) in bytes.iter().enumerate().skip(2) {
        match (byte, bytes.get(i + 1)) {
            (0x07, _) => return InputState::Done(i + 1, None),
            (&ESC, Some(b'\\')) => return InputState::Done(i + 2, None),
            (&ESC, None) => return InputState::More,
            (0..b' ', _) => return InputState::Done(i, None),
            (_, _) => {}
        }
    }
    InputState::More
}

/// The numbers between semicolons, each split at colons; a missing number is 1.
fn fields(inside: &[u8]) -> Vec<Vec<u32>> {
    let text = std::str::from_utf8(inside).unwrap_or("");
    if text.is_empty() {
        return Vec::new();
    }
    text.split(';')
        .map(|field| field.split(':').map(|n| n.parse().unwrap_or(1)).collect())
        .collect()
}

/// A key with the modifiers and event type of a number, as xterm and kitty encode them; none for a key release.
fn modified(code: Code, field: Option<&Vec<u32>>) -> Option<Key> {
    let part = |i: usize| field.and_then(|f| f.get(i)).copied().unwrap_or(1);
    let bits = part(0).saturating_sub(1);
    (part(1) != 3).then_some(Key {
        code,
        ctrl: bits & 4 != 0,
        shift: bits & 1 != 0,
    })
}

/// The key of a sequence by its final byte.
fn final_byte(byte: u8, fields: &[Vec<u32>]) -> Option<Key> {
    let code = match byte {
        b'A' => Code::Up,
        b'B' => Code::Down,
        b'C' => Code::Right,
        b'D' => Code::Left,
        b'H' => Code::Home,
        b'F' => Code::End,
        b'M' if fields.is_empty() => Code::Enter,
        b'P'..=b'S' => Code::F(byte - b'P' + 1),
        b'Z' => {
            return Some(Key {
                shift: true,
                ..Key::plain(Code::Tab)
            });
        }
        b'~' => return numbered(fields),
        b'u' => return spelled(fields.first()?, fields.get(1)),
        _ => return None,
    };
    // Reports of the cursor position look like F3 with a row number.
    (fields.first().is_none_or(|f| f.first() == Some(&1)) && fields.len() <= 2)
        .then(|| modified(code, fields.get(1)))
        .flatten()
}

fn numbered(fields: &[Vec<u32>]) -> Option<Key> {
    let code = match *fields.first()?.first()? {
        1 | 7 => Code::Home,
        3 => Code::Delete,
        4 | 8 => Code::End,
        5 => Code::PageUp,
        6 => Code::PageDown,
        n @ 11..=15 => Code::F((n - 10) as u8),
        n @ 17..=21 => Code::F((n - 11) as u8),
        n @ 23..=26 => Code::F((n - 12) as u8),
        n @ 28..=29 => Code::F((n - 13) as u8),
        n @ 31..=34 => Code::F((n - 14) as u8),
        // xterm's modifyOtherKeys.
        27 => return spelled(fields.get(2)?, fields.get(1)),
        _ => return None,
    };
    modified(code, fields.get(1))
}

/// A key given by its character (kitty's protocol, which we do not request, and fixterms).
fn spelled(points: &[u32], modifiers: Option<&Vec<u32>>) -> Option<Key> {
    let key = modified(Code::Space, modifiers)?;
    let given = char::from_u32(*points.first()?)?;
    let named = match given {
        '\x1b' => Some(Code::Esc),
        '\r' => Some(Code::Enter),
        '\t' => Some(Code::Tab),
        '\x7f' => Some(Code::Backspace),
        ' ' => Some(Code::Space),
        _ => None,
    };
    if let Some(code) = named {
        let shift = key.shift && code != Code::Space;
        return Some(Key { code, shift, ..key });
    }
    // Code points of the private use area stand for keys without a character.
    if given.is_control() || ('\u{e000}'..='\u{f8ff}').contains(&given) {
        return None;
    }
    let shifted = points.get(1).and_then(|c| char::from_u32(*c));
    let c = match shifted {
        Some(c) if key.shift => c,
        _ if key.shift => given.to_uppercase().next().unwrap_or(given),
        _ => given,
    };
    Some(Key {
        code: Code::Char(if key.ctrl { c.to_ascii_lowercase() } else { c }),
        shift: false,
        ..key
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events_in_words(events: Vec<Event>) -> Vec<String> {
        let word = |event: Event| match &event {
            Event::Key(key) => key.to_string(),
            Event::Paste(text) => format!("paste {text:?}"),
            Event::Resize(..)
            | Event::Edited(_)
            | Event::Engine(_)
            | Event::Pointer(_)
            | Event::Background(_)
            | Event::Tick(_)
            | Event::Terminate => format!("{event:?}"),
        };
        events.into_iter().map(word).collect()
    }

    /// Decodes pieces of input; an empty piece lets time pass until the decoder waits for nothing more.
    fn read(pieces: &[&[u8]]) -> Vec<String> {
        let (mut decoder, mut out) = (Decoder::default(), Vec::new());
        for piece in pieces {
            if piece.is_empty() {
                settle(&mut decoder, &mut out);
            } else {
                decoder.feed(piece, &mut out);
            }
        }
        events_in_words(out)
    }

    /// Lets the decoder's waits expire; returns their total time.
    fn settle(decoder: &mut Decoder, out: &mut Vec<Event>) -> Duration {
        let mut waited = Duration::ZERO;
        while let Some(time) = decoder.patience() {
            waited += time;
            assert!(waited < Duration::from_secs(3), "it waits for ever");
            decoder.expire(out);
        }
        waited
    }

    #[test]
    fn keys_read_as_they_are_written() {
        let pairs: &[(&[u8], &str)] = &[
            (b"G", "G"),
            (b"\x10", "ctrl-p"),
            (b"\x1b[Z", "S-Tab"),
            (b" ", "Space"),
            (b"\r", "Enter"),
            (b"\n", "ctrl-j"),
            (b"\t", "Tab"),
            (b"\x7f", "Backspace"),
            (b"\x08", "ctrl-h"),
            (b"\x1c", "ctrl-4"),
            ("漢".as_bytes(), "漢"),
            ("é".as_bytes(), "é"),
            (b"\x1b[A", "Up"),
            (b"\x1bOB", "Down"),
            (b"\x1b[1;5C", "ctrl-Right"),
            (b"\x1b[1;2D", "S-Left"),
            (b"\x1b[H", "Home"),
            (b"\x1b[4~", "End"),
            (b"\x1b[3;5~", "ctrl-Delete"),
            (b"\x1b[5~", "PgUp"),
            (b"\x1b[6~", "PgDn"),
            (b"\x1bOP", "F1"),
            (b"\x1b[15~", "F5"),
            (b"\x1b[24~", "F12"),
            (b"\x1b[[C", "F3"),
            (b"\x1b[112;5u", "ctrl-p"),
            (b"\x1b[97:65;2u", "A"),
            (b"\x1b[27u", "Esc"),
            (b"\x1b[27;5;112~", "ctrl-p"),
            (b"\x1b[1;1:2A", "Up"),
        ];
        for (bytes, key) in pairs {
            assert_eq!(read(&[bytes]), [*key], "{bytes:?}");
            // As a whole, and split at every place.
            for cut in 1..bytes.len() {
                assert_eq!(read(&[&bytes[..cut], &bytes[cut..]]), [*key], "{bytes:?}");
            }
        }
        assert_eq!(read(&[b"\x1b", b""]), ["Esc"]);
        assert_eq!(read(&[b"\x1b\x1b", b""]), ["Esc", "Esc"]);
        assert_eq!(read(&[b"\x1bx"]), ["x"], "Alt is no modifier of ours");
        assert_eq!(read(&[b"\x1bP", b""]), ["P"]);
        assert_eq!(read(&[b"\x1b", b"q"]), ["Esc", "q"], "two keys, soon");
        assert_eq!(read(&[b"\x1b", b"P"]), ["Esc", "P"]);
        assert_eq!(read(&[b"\x1b", b"\x1b[B"]), ["Esc", "Down"]);
        assert_eq!(read(&[b"ab\x1b[Bc"]), ["a", "b", "Down", "c"]);
    }

    #[test]
    fn what_is_no_key_is_dropped_whole() {
        let silent: &[&[u8]] = &[
            b"\x1b[1;1:3A",
            b"\x1b[<2;12;5M",
            b"\x1b[<35;12;5M",
            b"\x1b[M !q",
            b"\x1b[I",
            b"\x1b[O",
            b"\x1b[24;80R",
            b"\x1b[?62;22c",
            b"\x1b[?2026;2$y",
            b"\x1b[57441;1u",
            b"\x1b]10;rgb:1e1e/1e1e/1e1e\x07",
            b"\x1b]11;rgb:1e1e/1e1e\x1b\\",
            b"\x1b]11;rgb:12345/1/1\x1b\\",
            b"\x1b]11;?\x1b\\",
            b"\x1bP>|xterm(389)q\x1b\\",
            b"\x1b_Gi=1;OK\x1b\\",
            b"\x1b[201~",
            b"\x1b[2~",
            "\u{9b}".as_bytes(),
        ];
        for bytes in silent {
            assert_eq!(read(&[bytes, b"", b"j"]), ["j"], "{bytes:?}");
        }
    }

    #[test]
    fn reports_of_the_mouse_are_presses_drags_and_the_wheel() {
        let words = |how: &str, x: u16, y: u16| {
            format!("Pointer(Pointer {{ how: {how}, at: ({x}, {y}), what: Nothing }})")
        };
        for (bytes, expected) in [
            (&b"\x1b[<0;3;7M"[..], Some(words("Press", 2, 6))),
            (b"\x1b[<0;3;7m", Some(words("Release", 2, 6))),
            (b"\x1b[<32;300;2M", Some(words("Drag", 299, 1))),
            (b"\x1b[<64;1;1M", Some(words("WheelUp", 0, 0))),
            (b"\x1b[<81;1;1M", Some(words("WheelDown", 0, 0))),
            // The right button, nothing that is known, and what is no report.
            (b"\x1b[<2;3;7M", None),
            (b"\x1b[<0;0;7M", None),
            (b"\x1b[<0;99999;7M", None),
            (b"\x1b[<0;3M", None),
        ] {
            let mut expected: Vec<String> = expected.into_iter().collect();
            expected.push("j".into());
            assert_eq!(read(&[bytes, b"j"]), expected);
            for cut in 2..bytes.len() {
                assert_eq!(
                    read(&[&bytes[..cut], &bytes[cut..], b"j"]),
                    expected,
                    "{cut}"
                );
            }
        }
    }

    #[test]
    fn the_terminal_says_what_its_background_is() {
        for (bytes, said) in [
            (&b"\x1b]11;rgb:1e1e/1e1e/1e1e\x07"[..], "Background(Dark)"),
            (b"\x1b]11;rgb:fdfd/f6f6/e3e3\x1b\\", "Background(Light)"),
            (b"\x1b]11;rgb:ff/ff/ff\x07", "Background(Light)"),
            (b"\x1b]11;rgba:0/0/8/f\x07", "Background(Dark)"),
        ] {
            assert_eq!(read(&[bytes, b"j"]), [said, "j"]);
            for cut in 1..bytes.len() {
                assert_eq!(read(&[&bytes[..cut], &bytes[cut..]]), [said], "{cut}");
            }
        }
    }

    #[test]
    fn a_cut_sequence_is_given_up_and_leaves_no_keys() {
        let cut: &[&[u8]] = &[
            b"\x1b[",
            b"\x1bO",
            b"\x1b[<0;1;",
            b"\x1b[1;",
            b"\x1b[M !",
            b"\x1b[[",
            b"\x1b[200",
            b"\x1b]11;rgb",
            b"\x1bP>|x",
            b"\xe6\xbc",
            b"\xf0\x9f\x91",
        ];
        for bytes in cut {
            let (mut decoder, mut out) = (Decoder::default(), Vec::new());
            decoder.feed(bytes, &mut out);
            assert!(
                decoder
                    .patience()
                    .is_some_and(|p| p <= Duration::from_millis(500))
            );
            decoder.expire(&mut out);
            decoder.feed(b"q", &mut out);
            assert_eq!(events_in_words(out), ["q"], "{bytes:?}");
            assert_eq!(read(&[bytes, b"\x03"]), ["ctrl-c"], "{bytes:?} at once");
            assert_eq!(
                read(&[bytes, b"\x1b[A"]).last().map(String::as_str),
                Some("Up")
            );
        }
        assert_eq!(read(&[b"\xe6q"]), ["q"], "the key after half a character");
    }

    #[test]
    fn a_rest_that_comes_late_is_no_key() {
        let expire_once = |head: &[u8], rest: &[u8]| {
            let (mut decoder, mut out) = (Decoder::default(), Vec::new());
            decoder.feed(head, &mut out);
            decoder.expire(&mut out);
            decoder.feed(rest, &mut out);
            events_in_words(out)
        };
        assert_eq!(expire_once(b"\x1b", b"[A"), ["Esc", "Up"]);
        assert_eq!(expire_once(b"\x1b[<2;1;", b"5M"), Vec::<String>::new());
        assert_eq!(
            expire_once(b"\x1b", b"[200~dd\x1b[201~"),
            ["Esc", "paste \"dd\""]
        );
        assert_eq!(expire_once(b"\x1b", b"j"), ["Esc", "j"]);
        // Later, the same bytes are typed by the user.
        assert_eq!(read(&[b"\x1b", b"", b"[A"]), ["Esc", "[", "A"]);
    }

    #[test]
    fn a_paste_is_one_event_however_it_is_cut() {
        let bytes = "\x1b[200~漢q\r\x1b[20x\x1b[A\x03!\x1b[201~j".as_bytes();
        let whole = ["paste \"漢q\\r\\u{1b}[20x\\u{1b}[A\\u{3}!\"", "j"];
        assert_eq!(read(&[bytes]), whole);
        for cut in 1..bytes.len() {
            assert_eq!(read(&[&bytes[..cut], &bytes[cut..]]), whole, "{cut}");
        }
        let big = format!("\x1b[200~{}\x1b[201~", "x".repeat(1 << 20));
        let pieces: Vec<&[u8]> = big.as_bytes().chunks(4095).collect();
        assert_eq!(read(&pieces), [format!("paste {:?}", "x".repeat(1 << 20))]);
    }

    #[test]
    fn a_torn_paste_runs_no_letters_as_keys_and_lets_keys_through() {
        let torn = b"\x1b[200~dd";
        // The rest arrives late: as a whole, without its end mark, and only the end mark.
        assert_eq!(
            read(&[torn, b"", b"q:quit\r\x1b[201~"]),
            ["paste \"dd\"", "paste \"q:quit\\r\""]
        );
        assert_eq!(
            read(&[torn, b"", b"\x1bqq:quit\r\x1b[201~", b"j"]),
            ["paste \"dd\"", "paste \"\\u{1b}qq:quit\\r\"", "j"]
        );
        assert_eq!(
            read(&[torn, b"", b"xxqq", b""]),
            ["paste \"dd\"", "paste \"xxqq\""]
        );
        assert_eq!(
            read(&[torn, b"", b"\x1b[201~", b"q"]),
            ["paste \"dd\"", "q"]
        );
        // The rest arrives late, one byte at a time.
        for cut in 1..6 {
            let end = b"\x1b[201~";
            assert_eq!(
                read(&[torn, b"", &end[..cut], &end[cut..], b"q"]).pop(),
                Some("q".into()),
                "{cut}"
            );
        }
        assert_eq!(
            read(&[torn, b"", b"x", b"q", b"\x1b[201~"]),
            ["paste \"dd\"", "paste \"xq\""]
        );
        // The user presses keys.
        assert_eq!(
            read(&[torn, b"", b"q", b"", b"jk"]),
            ["paste \"dd\"", "q", "j", "k"]
        );
        assert_eq!(read(&[torn, b"", b"\x03"]), ["paste \"dd\"", "ctrl-c"]);
        assert_eq!(
            read(&[torn, b"\x03"]),
            ["paste \"dd\"", "ctrl-c"],
            "at once"
        );
        assert_eq!(
            read(&[torn, b"\x03", b"qq\x1b[201~", b"j"]),
            ["paste \"dd\"", "ctrl-c", "paste \"qq\"", "j"],
            "and what is still on its way"
        );
        assert_eq!(
            read(&[torn, b"", b"\x1b[A", b"jj"]),
            ["paste \"dd\"", "Up", "j", "j"]
        );
        assert_eq!(read(&[b"\x1b[200~", b"", "漢".as_bytes(), b""]), ["漢"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_comes_it_is_never_deaf(
            pieces in prop::collection::vec(
                prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"\x1b[]OPM<;0129~u\x03".to_vec())], 0..12),
                0..8,
            )
        ) {
            let (mut decoder, mut out) = (Decoder::default(), Vec::new());
            for piece in &pieces {
                decoder.feed(piece, &mut out);
            }
            let waited = settle(&mut decoder, &mut out);
            prop_assert!(waited <= Duration::from_millis(1500), "{:?}", waited);
            out.clear();
            decoder.feed(b"\x03", &mut out);
            prop_assert_eq!(events_in_words(out), ["ctrl-c"]);
        }

        #[test]
        fn text_is_read_byte_for_byte(text in "[ -~äß漢👩]{0,40}", cut in 0usize..80) {
            let cut = cut.min(text.len());
            let keys: Vec<String> = text.chars().map(|c| Key::char(c).to_string()).collect();
            prop_assert_eq!(read(&[&text.as_bytes()[..cut], &text.as_bytes()[cut..]]), keys);
        }
    }
}
