//! Input: from the terminal library's events to the app's.
//!
//! Invariant: releases are dropped, Shift is folded into characters, and nothing here decides what a key does.
//! To understand another key, add its arm in [`key`].

use std::pin::Pin;
use std::task::Poll;

use crossterm::event::{Event as Raw, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures_util::Stream as _;

use crate::app::Event;
use crate::app::key::{Code, Key};

/// Waits for input and takes everything that is there. A stream that ends or fails means a terminal that is gone.
///
/// Polled with the caller's own waker throughout: crossterm keeps the first waker it is given until the next event.
pub async fn gather(input: &mut EventStream) -> Vec<Event> {
    std::future::poll_fn(|context| {
        let mut events = Vec::new();
        let mut some = false;
        loop {
            match Pin::new(&mut *input).poll_next(context) {
                Poll::Ready(Some(Ok(raw))) => {
                    some = true;
                    events.extend(event(raw));
                }
                Poll::Ready(Some(Err(_)) | None) => {
                    events.push(Event::Terminate);
                    return Poll::Ready(events);
                }
                Poll::Pending if some => return Poll::Ready(events),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

/// The app's event for a terminal's, if it has one.
pub fn event(raw: Raw) -> Option<Event> {
    match raw {
        Raw::Key(key) if key.kind != KeyEventKind::Release => self::key(key).map(Event::Key),
        Raw::Paste(text) => Some(Event::Paste(text)),
        Raw::Resize(width, height) => Some(Event::Resize(width, height)),
        Raw::Key(_) | Raw::FocusGained | Raw::FocusLost | Raw::Mouse(_) => None,
    }
}

fn key(event: KeyEvent) -> Option<Key> {
    let ctrl = event.modifiers.contains(KeyModifiers::CONTROL);
    let shift = event.modifiers.contains(KeyModifiers::SHIFT);
    let code = match event.code {
        KeyCode::Char(' ') => Code::Space,
        KeyCode::Char(c) if ctrl => Code::Char(c.to_ascii_lowercase()),
        KeyCode::Char(c) => Code::Char(c),
        KeyCode::Enter => Code::Enter,
        KeyCode::Esc => Code::Esc,
        KeyCode::Tab => Code::Tab,
        KeyCode::BackTab => {
            return Some(Key {
                code: Code::Tab,
                ctrl: false,
                shift: true,
            });
        }
        KeyCode::Backspace => Code::Backspace,
        KeyCode::Delete => Code::Delete,
        KeyCode::Up => Code::Up,
        KeyCode::Down => Code::Down,
        KeyCode::Left => Code::Left,
        KeyCode::Right => Code::Right,
        KeyCode::Home => Code::Home,
        KeyCode::End => Code::End,
        KeyCode::PageUp => Code::PageUp,
        KeyCode::PageDown => Code::PageDown,
        KeyCode::F(n) => Code::F(n),
        _ => return None,
    };
    let named = !matches!(code, Code::Char(_) | Code::Space);
    Some(Key {
        code,
        ctrl,
        shift: shift && named,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_as_they_are_written() {
        let read = |code, modifiers| key(KeyEvent::new(code, modifiers)).map(|k| k.to_string());
        assert_eq!(
            read(KeyCode::Char('G'), KeyModifiers::SHIFT).as_deref(),
            Some("G")
        );
        assert_eq!(
            read(KeyCode::Char('p'), KeyModifiers::CONTROL).as_deref(),
            Some("ctrl-p")
        );
        assert_eq!(
            read(KeyCode::BackTab, KeyModifiers::SHIFT).as_deref(),
            Some("S-Tab")
        );
        assert_eq!(
            read(KeyCode::Char(' '), KeyModifiers::NONE).as_deref(),
            Some("Space")
        );
        assert_eq!(read(KeyCode::CapsLock, KeyModifiers::NONE), None);
    }
}
