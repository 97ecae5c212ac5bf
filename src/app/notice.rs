//! Notices: what the program has to say, for how long, and everything it has said.
//!
//! Invariant: an error stays until dismissed, equal notices merge, and nothing said is lost from the history.
//! To add a level, add a variant of [`Level`] and its [`Level::stays`].

use std::time::Duration;

/// How serious.
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
    /// How long it stays on the screen; an error stays until dismissed.
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

/// One thing said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// How serious.
    pub level: Level,
    /// What was said.
    pub text: String,
    /// How often in a row.
    pub times: usize,
    /// When the notice was last shown, since the start.
    pub at: Duration,
    until: Option<Duration>,
    seen: bool,
}

/// Everything said so far.
#[derive(Clone, Debug, Default)]
pub struct Notices {
    /// Oldest first.
    pub all: Vec<Notice>,
}

impl Notices {
    /// Says something; merges with an equal notice that is still shown.
    pub fn say(&mut self, now: Duration, level: Level, text: impl Into<String>) {
        let text = text.into();
        let until = level.stays().map(|stay| now + stay);
        if let Some(index) = self.all.iter().rposition(|n| !n.seen && n.text == text) {
            // To the end, so that of two that were said at once the one said last is the newest.
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

    /// What is shown now: the most serious one, the newest of those.
    pub fn shown(&self) -> Option<&Notice> {
        self.all
            .iter()
            .filter(|n| !n.seen)
            .max_by_key(|n| (n.level, n.at))
    }

    /// Takes the shown notice off the screen; false when there is none.
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

    /// Lets time pass; true when something left the screen.
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

    /// When something leaves the screen next.
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
