//! What a grid holds in addition to the number it shows: other numbers of the same cells, and the ranks of a token along each
//! column.
//!
//! Invariant: every number has one value for each cell, in the order of the grid's cells, and there is one rank story for each
//! column or none at all; they are appended and truncated together with the columns. [`Grid::show_number`] switches to another
//! number. Ranks count from 1.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Anchor, Body, Figure, Grid, Scale};
use crate::text::grouped;

/// The name of the number that is the probability of a cell's own top prediction.
pub const TOP: &str = "top-1";

/// The ranks for which a story gives the first layer within them.
const WITHIN: [u32; 3] = [1, 5, 100];

/// A step is a jump if the rank becomes at most this fraction of the rank before.
const JUMP: f64 = 0.5;

/// A number that every cell of a grid has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Number {
    /// Its name, for example `entropy (nats)`.
    pub value: String,
    /// Its colour scale.
    pub scale: Scale,
    /// Its values by column, then row.
    #[serde(deserialize_with = "columns")]
    pub values: Vec<Vec<f32>>,
}

/// Reads null as NaN: JSON has no NaN, so it is written as null.
fn columns<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Vec<f32>>, D::Error> {
    let read: Vec<Vec<Option<f32>>> = Vec::deserialize(from)?;
    let number = |v: Option<f32>| v.unwrap_or(f32::NAN);
    let column = |c: Vec<Option<f32>>| c.into_iter().map(number).collect();
    Ok(read.into_iter().map(column).collect())
}

/// A jump of a rank between two layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jump {
    /// The layer before it.
    pub from: usize,
    /// The layer after it.
    pub to: usize,
    /// The rank before.
    pub before: u32,
    /// The rank after.
    pub after: u32,
}

/// The ranks of one token along the layers at one position, with a summary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankStory {
    pub anchor: Anchor,
    /// The token as visible text.
    pub token: String,
    /// Its rank at every layer, from 1.
    pub ranks: Vec<u32>,
    /// Its probability at every layer.
    #[serde(deserialize_with = "super::series::numbers")]
    pub probabilities: Vec<f32>,
    /// The first layer from which on the token is the top prediction up to the last layer.
    pub first: Option<usize>,
    /// The first layer from which on it stays among the five most probable tokens.
    pub top_5: Option<usize>,
    /// The first layer from which on it stays among the hundred most probable tokens.
    pub top_100: Option<usize>,
    /// The layers between which the rank improved most.
    pub jump: Option<Jump>,
}

impl RankStory {
    /// Summarises the ranks of a token at every layer, which count from 1.
    pub fn of(token: String, anchor: Anchor, ranks: Vec<u32>, probabilities: Vec<f32>) -> Self {
        let [first, top_5, top_100] = WITHIN.map(|most| since(&ranks, most));
        let jump = jump(&ranks);
        Self {
            anchor,
            token,
            ranks,
            probabilities,
            first,
            top_5,
            top_100,
            jump,
        }
    }
}

/// The first layer from which on the rank is at most `most` up to the last layer.
pub fn since(ranks: &[u32], most: u32) -> Option<usize> {
    let held = ranks.iter().rev().take_while(|r| **r <= most).count();
    (held > 0).then(|| ranks.len() - held)
}

/// The largest decrease of the logarithm of a rank between neighbouring layers, extended by the steps directly before and after
/// it that decrease at least half as much. None if no step halves the rank. The first among equal ones.
pub fn jump(ranks: &[u32]) -> Option<Jump> {
    let log = |rank: u32| f64::from(rank.max(1)).ln();
    let falls: Vec<f64> = ranks.windows(2).map(|w| log(w[0]) - log(w[1])).collect();
    let (mut from, largest) = falls
        .iter()
        .copied()
        .enumerate()
        .reduce(|a, b| if b.1 > a.1 { b } else { a })?;
    if largest < -JUMP.ln() {
        return None;
    }
    let mut to = from + 1;
    let goes_on = |step: usize| falls.get(step).is_some_and(|fall| *fall >= largest / 2.0);
    while from > 0 && goes_on(from - 1) {
        from -= 1;
    }
    while goes_on(to) {
        to += 1;
    }
    Some(Jump {
        from,
        to,
        before: ranks[from],
        after: ranks[to],
    })
}

impl fmt::Display for RankStory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.token)?;
        let last = self.ranks.len().saturating_sub(1);
        let place = |layer: usize| {
            let word = if layer == last { "at" } else { "from" };
            format!("{word} {layer}")
        };
        match (self.first, self.ranks.last()) {
            (Some(layer), _) => write!(f, "#1 {}", place(layer))?,
            (None, Some(rank)) => write!(f, "#{} at {last}", grouped(*rank as usize))?,
            (None, None) => return f.write_str("every layer is read when writing pauses"),
        }
        let mut last_named = self.first;
        for (since, most) in [(self.top_5, 5), (self.top_100, 100)] {
            if let Some(layer) = since.filter(|_| since != last_named) {
                write!(f, ", top-{most} {}", place(layer))?;
                last_named = since;
            }
        }
        if let Some(jump) = self.jump {
            let [before, after] = [jump.before, jump.after].map(|rank| grouped(rank as usize));
            write!(
                f,
                ", jump {} to {} (#{before} to #{after})",
                jump.from, jump.to
            )?;
        }
        Ok(())
    }
}

/// What a grid holds in addition to the number it shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CellDetails {
    /// All numbers that it can show, including the one shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub numbers: Vec<Number>,
    /// The name of the candidates' number, if it is one of `numbers` and a share; none if candidates have the number that the
    /// grid shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidates: Option<String>,
    /// One rank story for each column, or none at all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stories: Vec<RankStory>,
}

impl CellDetails {
    /// Whether there are neither numbers nor stories.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Appends the details of later columns.
    pub(crate) fn extend(&mut self, more: Self) {
        let same = self.numbers.len() == more.numbers.len();
        if same {
            for (number, more) in self.numbers.iter_mut().zip(more.numbers) {
                number.scale = number.scale.around(more.scale);
                number.values.extend(more.values);
            }
        } else {
            self.numbers.clear();
        }
        self.stories.extend(more.stories);
    }

    /// Takes what belongs to one column, the `from`th of others, into the place of another.
    pub(crate) fn replace(&mut self, at: usize, others: &Self, from: usize) {
        if self.numbers.len() == others.numbers.len() {
            for (number, other) in self.numbers.iter_mut().zip(&others.numbers) {
                number.scale = number.scale.around(other.scale);
                if let (Some(held), Some(values)) =
                    (number.values.get_mut(at), other.values.get(from))
                {
                    held.clone_from(values);
                }
            }
        }
        if let (Some(held), Some(story)) = (self.stories.get_mut(at), others.stories.get(from)) {
            held.clone_from(story);
        }
    }

    /// Keeps the details of the first `count` columns.
    pub(crate) fn truncate(&mut self, count: usize) {
        for number in &mut self.numbers {
            number.values.truncate(count);
        }
        self.stories.truncate(count);
    }
}

impl Figure {
    /// Switches the figure to another number of its grid, and names it in the title; false if there is no such number.
    pub fn show_number(&mut self, to: usize) -> bool {
        let Body::Grid(grid) = &mut self.body else {
            return false;
        };
        let before = grid.value.clone();
        if !grid.show_number(to) {
            return false;
        }
        for name in [before.as_str(), TOP] {
            if let Some(at) = self.title.rfind(name) {
                self.title.replace_range(at..at + name.len(), &grid.value);
                break;
            }
        }
        true
    }
}

impl Grid {
    /// Switches to another number; false if there is no such number.
    pub fn show_number(&mut self, to: usize) -> bool {
        let Some(number) = self.also.numbers.get(to) else {
            return false;
        };
        self.value.clone_from(&number.value);
        self.scale = number.scale;
        for (cells, values) in self.cells.iter_mut().zip(&number.values) {
            for (cell, value) in cells.iter_mut().zip(values) {
                cell.value = *value;
            }
        }
        true
    }

    /// The index of the number that is shown.
    pub fn shown_number(&self) -> Option<usize> {
        let numbers = &self.also.numbers;
        numbers.iter().position(|n| n.value == self.value)
    }

    /// Whether a cell's number is that of its first candidate.
    pub fn shows_candidates(&self) -> bool {
        let other = |name: &String| *name != self.value;
        !self.also.candidates.as_ref().is_some_and(other)
    }

    /// The rank story of a column.
    pub fn rank_story(&self, column: usize) -> Option<&RankStory> {
        self.also.stories.get(column)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn story(ranks: &[u32]) -> RankStory {
        let shares = ranks.iter().map(|r| 1.0 / *r as f32).collect();
        RankStory::of(
            "␣Paris".into(),
            Anchor::position(41),
            ranks.to_vec(),
            shares,
        )
    }

    /// The ranks of a real model, from layer 19 on.
    const REAL: [u32; 11] = [4000, 6000, 4721, 4561, 348, 44, 48, 4, 3, 3, 1];

    #[test]
    fn a_rank_holds_from_where_it_never_leaves_again() {
        assert_eq!(since(&REAL, 1), Some(10));
        assert_eq!(since(&REAL, 5), Some(7));
        assert_eq!(since(&REAL, 100), Some(5));
        assert_eq!(since(&REAL, 10_000), Some(0));
        assert_eq!(since(&[1, 1, 9, 1], 1), Some(3), "it left in between");
        assert_eq!(since(&[1, 1, 9], 1), None, "it does not hold at the end");
        assert_eq!(since(&[], 1), None);
    }

    #[test]
    fn a_jump_is_the_largest_fall_and_what_goes_along() {
        let found = jump(&REAL).unwrap();
        assert_eq!((found.from, found.to), (3, 5), "4561 to 348 to 44");
        assert_eq!((found.before, found.after), (4561, 44));
        assert_eq!(jump(&[1, 1, 1]), None, "it was there all along");
        assert_eq!(jump(&[9, 8, 7, 6]), None, "no step halves it");
        assert_eq!(jump(&[7]), None);
        assert_eq!(jump(&[]), None);
        let alone = jump(&[1000, 900, 10, 9]).unwrap();
        assert_eq!((alone.from, alone.to), (1, 2));
        let again = jump(&[100, 1, 100, 1]).unwrap();
        assert_eq!((again.from, again.to), (0, 1), "of equal falls the first");
    }

    #[test]
    fn a_story_in_words() {
        let last_named = |ranks: &[u32]| story(ranks).to_string();
        assert_eq!(
            last_named(&REAL),
            "␣Paris: #1 at 10, top-5 from 7, top-100 from 5, jump 3 to 5 (#4 561 to #44)"
        );
        assert_eq!(
            last_named(&[40, 1, 1]),
            "␣Paris: #1 from 1, top-100 from 0, jump 0 to 1 (#40 to #1)"
        );
        assert_eq!(last_named(&[1, 1]), "␣Paris: #1 from 0");
        assert_eq!(last_named(&[2, 2000]), "␣Paris: #2 000 at 1");
        assert_eq!(
            last_named(&[]),
            "␣Paris: every layer is read when writing pauses"
        );
    }
}
