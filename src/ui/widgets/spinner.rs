//! A spinner, one column wide.
//!
//! Invariant: at most eight changes a second; where nothing may move, the caller shows elapsed seconds instead.

use std::time::Duration;

use crate::ui::theme::Glyphs;

/// How long each frame of the spinner is shown.
pub const STEP: Duration = Duration::from_millis(125);

/// The frame of the spinner after `elapsed`.
pub fn spinner(elapsed: Duration, glyphs: Glyphs) -> char {
    let frames: &[char] = match glyphs {
        Glyphs::Unicode => &['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'],
        Glyphs::Ascii => &['|', '/', '-', '\\'],
    };
    let step = elapsed.as_millis() / STEP.as_millis();
    frames[(step % frames.len() as u128) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_turns_eight_times_a_second_and_comes_round() {
        let at = |ms| spinner(Duration::from_millis(ms), Glyphs::Unicode);
        assert_eq!(at(0), at(124));
        assert_ne!(at(0), at(125));
        assert_eq!(at(0), at(1250));
        assert_eq!(spinner(Duration::from_millis(375), Glyphs::Ascii), '\\');
    }
}
