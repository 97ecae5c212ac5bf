//! Notices: messages for the user, how long they are shown, and the history of all of them.
//!
//! Invariant: an error stays until dismissed, equal notices merge, and every notice is in the history.
//! To add a level, add a variant of [`Level`] and its [`Level::stays`].

use std::time::Duration;

/// The severity of a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something happened.
    Info,
    /// Something to know before going on.
    Warning,
    /// Something could not be done.
    Error,
}

impl Level {
    /// How long a notice is shown; none for an error, which stays until dismissed.
    pub fn stays(self) -> Option<Duration> {
        match self {
            Self::Info => Some(Duration::from_secs(3)),
            Self::Warning => Some(Duration::from_secs(6)),
            Self::Error => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// A notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The severity.
    pub level: Level,
    /// The message.
    pub text: String,
    /// How often it was repeated in a row.
    pub times: usize,
    /// When it was last shown, since the start of the program.
    pub at: Duration,
    until: Option<Duration>,
    seen: bool,
}

/// All notices so far.
#[derive(Clone, Debug, Default)]
pub struct Notices {
    /// Oldest first.
    pub all: Vec<Notice>,
}

impl Notices {
    /// Adds a notice; an equal one that is still shown is repeated instead.
    pub fn say(&mut self, now: Duration, level: Level, text: impl Into<String>) {
        let text = text.into();
        let until = level.stays().map(|stay| now + stay);
        if let Some(index) = self.all.iter().rposition(|n| !n.seen && n.text == text) {
            // Moved to the end, because it is now the newest.
            let mut same = self.all.remove(index);
            same.times += 1;
            same.at = now;
            same.until = until;
            self.all.push(same);
            return;
        }
        self.all.push(Notice {
            level,
            text,
            times: 1,
            at: now,
            until,
            seen: false,
        });
        if self.all.len() > 500 {
            self.all.remove(0);
        }
    }

    /// The notice that is shown: the newest among the most severe.
    pub fn shown(&self) -> Option<&Notice> {
        self.all
            .iter()
            .filter(|n| !n.seen)
            .max_by_key(|n| (n.level, n.at))
    }

    /// Dismisses a message that no longer holds.
    pub fn take_back(&mut self, text: Option<&str>) {
        let shown = self.all.iter_mut();
        let shown = shown.filter(|n| !n.seen && Some(n.text.as_str()) == text);
        shown.for_each(|notice| notice.seen = true);
    }

    /// Dismisses everything that only informs, which nobody has to acknowledge; false if there was nothing.
    pub fn dismiss_information(&mut self) -> bool {
        let mut changed = false;
        let shown = self.all.iter_mut().filter(|n| !n.seen);
        for notice in shown.filter(|n| n.level == Level::Info) {
            notice.seen = true;
            changed = true;
        }
        changed
    }

    /// Dismisses the shown notice; false if there is none.
    pub fn dismiss(&mut self) -> bool {
        let Some(shown) = self.shown().cloned() else {
            return false;
        };
        self.all
            .iter_mut()
            .filter(|n| **n == shown)
            .for_each(|n| n.seen = true);
        true
    }

    /// Removes notices whose time is over; true if there were any.
    pub fn expire(&mut self, now: Duration) -> bool {
        let mut changed = false;
        for notice in self
            .all
            .iter_mut()
            .filter(|n| !n.seen && n.until.is_some_and(|u| u <= now))
        {
            notice.seen = true;
            changed = true;
        }
        changed
    }

    /// When the next notice must be removed.
    pub fn deadline(&self) -> Option<Duration> {
        self.all
            .iter()
            .filter(|n| !n.seen)
            .filter_map(|n| n.until)
            .min()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn errors_stay_and_equal_ones_merge() {
        let mut notices = Notices::default();
        let second = Duration::from_secs(1);
        notices.say(second, Level::Error, "no");
        notices.say(second, Level::Error, "no");
        notices.say(second, Level::Info, "yes");
        assert_eq!(
            notices.shown().map(|n| (n.text.as_str(), n.times)),
            Some(("no", 2))
        );
        assert_eq!(notices.deadline(), Some(second * 4));
        assert!(notices.expire(second * 4));
        assert!(!notices.expire(second * 400), "the error stays");
        assert!(notices.dismiss());
        assert!(notices.shown().is_none() && !notices.dismiss());
        assert_eq!(notices.all.len(), 2, "the history keeps them");
        for text in ["one", "two", "one"] {
            notices.say(second, Level::Info, text);
        }
        assert_eq!(notices.shown().map(|n| n.text.as_str()), Some("one"));
    }
}
