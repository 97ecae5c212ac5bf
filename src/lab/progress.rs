//! Progress: how far a piece of work is, told to whoever listens, as a share of the whole.
//!
//! Invariant: a part tells shares of its own range and no other, however deep parts lie in each other. To listen, see
//! [`super::lab::Lab::told`]; to do a part of something, see [`super::lab::Lab::part`].

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

/// Who listens: takes shares from 0 to 1.
type Listener = Rc<RefCell<dyn FnMut(f32)>>;

/// Which part of a whole is being done, and who is told.
#[derive(Clone)]
pub struct WorkProgress {
    listener: Option<Listener>,
    part: Range<f32>,
}

impl Default for WorkProgress {
    fn default() -> Self {
        Self {
            listener: None,
            part: 0.0..1.0,
        }
    }
}

impl fmt::Debug for WorkProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of the whole", self.part)
    }
}

impl WorkProgress {
    /// The whole of something, told to somebody.
    pub fn told(listener: impl FnMut(f32) + 'static) -> Self {
        Self {
            listener: Some(Rc::new(RefCell::new(listener))),
            ..Self::default()
        }
    }

    /// A part of this part: `share` of it, from 0 to 1.
    #[must_use]
    pub fn split(&self, share: Range<f32>) -> Self {
        let Range { start, end } = self.part;
        let at = |done: f32| start + done * (end - start);
        Self {
            listener: self.listener.clone(),
            part: at(share.start)..at(share.end),
        }
    }

    /// Tells that `done` of this part is done, from 0 to 1.
    pub fn tell(&self, done: f32) {
        // A listener that works on the lab itself is not told of that.
        if let Some(listener) = &self.listener
            && let Ok(mut listener) = listener.try_borrow_mut()
        {
            let Range { start, end } = self.part;
            listener(start + done * (end - start));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_part_tells_shares_of_the_whole() {
        let heard = Rc::new(RefCell::new(Vec::new()));
        let ears = heard.clone();
        let whole = WorkProgress::told(move |done| ears.borrow_mut().push(done));
        let half = whole.split(0.5..1.0);
        let quarter = half.split(0.0..0.5);
        for part in [&whole, &half, &quarter] {
            part.tell(0.0);
            part.tell(1.0);
        }
        assert_eq!(*heard.borrow(), [0.0, 1.0, 0.5, 1.0, 0.5, 0.75]);
        WorkProgress::default().tell(1.0);
    }
}
