//! Windows: a long text in overlapping pieces, each of which scores the tokens that no earlier one did.
//!
//! Invariant: the windows of a text score its tokens from the second on, each once and in order; where windows neither overlap nor begin
//! with the begin token, the first token of each has nothing before it and is left out. To cut in another way, add a function that makes a
//! [`WindowedText`].

use std::ops::Range;

/// A piece of a text that is read at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TextWindow {
    pub tokens: Vec<u32>,
    /// The positions within the window whose tokens are scored.
    pub scored: Range<usize>,
    /// The position in the text of the first of them.
    pub at: usize,
}

/// A text in windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WindowedText {
    pub tokens: Vec<u32>,
    pub windows: Vec<TextWindow>,
    /// Whether the windows after the first begin with the begin token, too.
    pub begins_again: bool,
}

impl WindowedText {
    /// Cuts a text into windows of at most `window` tokens, of which each begins `stride` tokens after the one before. Where the text
    /// begins with the begin token, every window does; it takes the place of a token.
    pub fn cut(tokens: Vec<u32>, bos: Option<u32>, window: usize, stride: usize) -> Self {
        let mut windows = Vec::new();
        let bos = bos.filter(|bos| tokens.first() == Some(bos));
        let mut scored = 1;
        let mut begin = 0;
        while scored < tokens.len() {
            let again = bos.filter(|_| begin > 0);
            let room = window - usize::from(again.is_some());
            let end = (begin + room).min(tokens.len());
            if end > scored {
                let own = again.into_iter().chain(tokens[begin..end].iter().copied());
                let own: Vec<u32> = own.collect();
                let at = scored.max(begin + usize::from(again.is_none()));
                if at < end {
                    windows.push(TextWindow {
                        scored: own.len() - (end - at)..own.len(),
                        tokens: own,
                        at,
                    });
                }
                scored = end;
            }
            begin += stride.min(room);
        }
        Self {
            tokens,
            windows,
            begins_again: bos.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By window: its tokens, and which of them are scored.
    fn cut(
        count: u32,
        bos: Option<u32>,
        window: usize,
        stride: usize,
    ) -> Vec<(Vec<u32>, Vec<u32>)> {
        let tokens = (0..count).collect();
        let text = WindowedText::cut(tokens, bos, window, stride);
        let windows = text.windows.into_iter();
        windows
            .map(|w| (w.tokens.clone(), w.tokens[w.scored].to_vec()))
            .collect()
    }

    #[test]
    fn windows_are_those_of_transformers_guide() {
        // for begin in range(0, 10, 2): end = min(begin + 4, 10), of which the last end - previous end are scored.
        assert_eq!(
            cut(10, None, 4, 2),
            [
                (vec![0, 1, 2, 3], vec![1, 2, 3]),
                (vec![2, 3, 4, 5], vec![4, 5]),
                (vec![4, 5, 6, 7], vec![6, 7]),
                (vec![6, 7, 8, 9], vec![8, 9]),
            ]
        );
        assert_eq!(cut(3, None, 4, 2), [(vec![0, 1, 2], vec![1, 2])]);
        assert_eq!(
            cut(1, None, 4, 2),
            [],
            "nothing stands before the only token"
        );
    }

    #[test]
    fn each_token_but_the_first_is_scored_once() {
        for count in 1..40 {
            for window in 2..12 {
                for stride in 1..=window {
                    for bos in [None, Some(0), Some(7)] {
                        let windows = cut(count, bos, window, stride);
                        let scored: Vec<u32> =
                            windows.iter().flat_map(|(_, own)| own.clone()).collect();
                        let what = format!("{count} {window} {stride} {bos:?}");
                        // Without overlap the first token of a window has nothing before it, unless the begin token is there.
                        if stride < window || bos == Some(0) {
                            assert_eq!(scored, (1..count).collect::<Vec<_>>(), "{what}");
                        }
                        for (tokens, own) in &windows {
                            assert!(tokens.len() <= window && own.len() < tokens.len(), "{what}");
                            assert!(bos != Some(0) || tokens[0] == 0, "{what}");
                        }
                    }
                }
            }
        }
    }
}
