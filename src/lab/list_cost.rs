//! What a list will take, said before most of it is measured.
//!
//! Invariant: a time is taken from a part of the same list, never assumed. To say something else of a list, add a field to [`ListCost`].

use std::fmt;
use std::time::Duration;

use super::trials::WORTH_SAYING;
use crate::text;

/// By how much more a list may take than one of its parts says: for other work on the machine.
pub const SLACK: f64 = 1.5;

/// What a list will take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListCost {
    /// What it is a list of, one of them: `prompt`.
    pub what: &'static str,
    pub count: usize,
    pub tokens: usize,
    /// At the pace of the part that was measured for it.
    pub time: Duration,
    /// The most memory, in bytes.
    pub memory: u64,
    /// Whether what is measured is kept when it is stopped.
    pub keeps: bool,
}

impl fmt::Display for ListCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, tokens) = (
            text::counted(self.count, self.what),
            text::counted(self.tokens, "token"),
        );
        write!(f, "{count}, {tokens}, at most")?;
        if self.time >= WORTH_SAYING {
            write!(f, " about {} and", text::duration(self.time))?;
        }
        write!(f, " about {} of memory", text::size(self.memory))?;
        if self.keeps {
            write!(f, "; Ctrl-C keeps the {}s so far", self.what)?;
        }
        Ok(())
    }
}
