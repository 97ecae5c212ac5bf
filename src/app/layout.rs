//! Layout: the areas of all panes for a terminal size. One pure function, used for drawing and for keys.
//!
//! Invariant: panes never overlap, are inside the screen, and depend only on size, focus and zoom, never on content.
//! To add a pane, add a variant of [`Pane`], a place in [`arrange`], and a row in `ui/panes`.

use serde::{Deserialize, Serialize};

use crate::engine::PaneName;
use crate::instruments::instrument;

/// The smallest usable screen: columns, rows.
pub const LEAST: (u16, u16) = (40, 10);

/// A rectangle of terminal cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Area {
    /// The first column.
    pub x: u16,
    /// The first row.
    pub y: u16,
    /// The number of columns.
    pub width: u16,
    pub height: u16,
}

impl Area {
    /// Splits off the top `rows` rows: returns them and the rest.
    pub fn top(self, rows: u16) -> (Self, Self) {
        let rows = rows.min(self.height);
        (
            Self {
                height: rows,
                ..self
            },
            Self {
                y: self.y + rows,
                height: self.height - rows,
                ..self
            },
        )
    }

    /// Splits off the bottom `rows` rows: returns the rest and them.
    pub fn bottom(self, rows: u16) -> (Self, Self) {
        self.top(self.height.saturating_sub(rows))
    }

    /// Splits off the left `columns` columns: returns them and the rest.
    pub fn left(self, columns: u16) -> (Self, Self) {
        let columns = columns.min(self.width);
        (
            Self {
                width: columns,
                ..self
            },
            Self {
                x: self.x + columns,
                width: self.width - columns,
                ..self
            },
        )
    }
}

/// A part of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pane {
    /// The text, token by token.
    Transcript,
    /// The figure of an instrument.
    Figure(PaneName),
    /// The edits and their receipts.
    Edits,
    /// The details of the cell under the cursor.
    Cell,
}

impl Pane {
    /// Its name in session files: that of its instrument, for a figure.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transcript => "transcript",
            Self::Figure(slot) => slot,
            Self::Edits => "edits",
            Self::Cell => "cell",
        }
    }

    /// The pane of a name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Transcript, Self::Edits, Self::Cell]
            .into_iter()
            .find(|pane| pane.name() == name)
            .or_else(|| Some(Self::Figure(instrument(name).ok()?.name())))
    }
}

/// How much room the focused pane gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Zoom {
    /// The normal layout.
    #[default]
    Normal,
    /// The full width, with the text above.
    Wide,
    /// The whole screen.
    Full,
}

impl Zoom {
    /// The next zoom level.
    #[must_use]
    pub fn next(self) -> Self {
        match self {
            Self::Normal => Self::Wide,
            Self::Wide => Self::Full,
            Self::Full => Self::Normal,
        }
    }
}

/// The inputs of the layout.
#[derive(Clone, Copy, Debug)]
pub struct LayoutRequest {
    /// The size of the screen: columns, rows.
    pub size: (u16, u16),
    /// The focused pane, which gets the keys.
    pub focus: Pane,
    /// The last focused pane that was not the transcript.
    pub last_side_pane: Pane,
    /// The figure that is always shown if there is room for two.
    pub first: PaneName,
    /// The figure that was chosen last.
    pub figure: PaneName,
    /// The figure shown below the first if there is room for two.
    pub second: PaneName,
    /// The zoom level of the focused pane.
    pub zoom: Zoom,
}

/// How many rows the tour takes.
const TOUR: u16 = 4;

/// The areas of everything on the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrangement {
    /// The header: one row at the top.
    pub header: Area,
    /// The step of the tour, below the header; empty where it is off, or the screen is low.
    pub tour: Area,
    /// The footer: two rows at the bottom.
    pub footer: Area,
    /// The visible panes, in the order of Tab.
    pub panes: Vec<(Pane, Area)>,
    /// Whether the pane next to the transcript has tabs for panes that have no area of their own.
    pub tabs: bool,
}

impl Arrangement {
    /// The area of a pane, if it is visible.
    pub fn area(&self, pane: Pane) -> Option<Area> {
        self.panes.iter().find(|(p, _)| *p == pane).map(|(_, a)| *a)
    }
}

/// All panes in the order of Tab, whether visible or not.
pub fn order(wish: &LayoutRequest) -> Vec<Pane> {
    let mut panes = vec![Pane::Transcript];
    if triple(wish) {
        panes.extend([Pane::Figure(wish.first), Pane::Figure(wish.second)]);
    } else {
        panes.push(Pane::Figure(wish.figure));
    }
    panes.extend([Pane::Edits, Pane::Cell]);
    panes
}

/// Arranges the screen, with a step of the tour or without; nothing when it is too small to be of use.
///
/// ```text
///  < 100 columns        100 to 159               160 and more
/// ┌──────────────┐  ┌────────┬─────────┐  ┌────────┬─────────┬───────┐
/// │  transcript  │  │ trans- │ figure  │  │ trans- │ first   │ cell  │
/// ├─[tabs]───────┤  │ cript  │         │  │ cript  ├─────────┼───────┤
/// │ figure, ...  │  ├────────┼─────────┤  │        │ second  │ edits │
/// └──────────────┘  │ edits  │ cell    │  └────────┴─────────┴───────┘
///                   └────────┴─────────┘
/// ```
pub fn arrange(wish: &LayoutRequest, tour: bool) -> Option<Arrangement> {
    if wish.size.0 < LEAST.0 || wish.size.1 < LEAST.1 {
        return None;
    }
    let screen = Area {
        x: 0,
        y: 0,
        width: wish.size.0,
        height: wish.size.1,
    };
    let (header, rest) = screen.top(1);
    let (rest, footer) = rest.bottom(2);
    let shown = tour && rest.height >= 3 * TOUR;
    let (tour, body) = rest.top(if shown { TOUR } else { 0 });
    let (panes, tabs) = match wish.zoom {
        Zoom::Wide => (
            stacked(
                body,
                wish.focus,
                wish.last_side_pane,
                wish.focus == Pane::Transcript,
            ),
            true,
        ),
        Zoom::Normal if triple(wish) => (columns(body, wish), false),
        Zoom::Normal if wish.size.0 >= 100 && body.height >= 18 => (quarters(body, wish), false),
        Zoom::Normal if wish.size.0 >= 100 => (halves(body, wish), true),
        Zoom::Normal if body.height >= 36 => (tower(body, wish), false),
        Zoom::Normal if body.height >= 14 => {
            (stacked(body, wish.focus, wish.last_side_pane, false), true)
        }
        Zoom::Full | Zoom::Normal => (vec![(wish.focus, body)], true),
    };
    Some(Arrangement {
        header,
        tour,
        footer,
        panes,
        tabs,
    })
}

fn triple(wish: &LayoutRequest) -> bool {
    wish.size.0 >= 160 && wish.size.1 >= 30
}

fn stacked(body: Area, focus: Pane, beside: Pane, reading: bool) -> Vec<(Pane, Area)> {
    let lower = if focus == Pane::Transcript {
        beside
    } else {
        focus
    };
    let share = if reading {
        body.height * 2 / 3
    } else {
        (body.height * 2 / 5).clamp(6, 14)
    };
    let (top, bottom) = body.top(share);
    vec![(Pane::Transcript, top), (lower, bottom)]
}

fn halves(body: Area, wish: &LayoutRequest) -> Vec<(Pane, Area)> {
    let (left, right) = body.left(body.width * 2 / 5);
    let beside = if wish.focus == Pane::Transcript {
        wish.last_side_pane
    } else {
        wish.focus
    };
    vec![(Pane::Transcript, left), (beside, right)]
}

fn quarters(body: Area, wish: &LayoutRequest) -> Vec<(Pane, Area)> {
    let (left, right) = body.left(body.width * 2 / 5);
    let low = (body.height / 3).clamp(7, 12);
    let (text, edits) = left.bottom(low);
    let (figure, cell) = right.bottom(low);
    vec![
        (Pane::Transcript, text),
        (Pane::Figure(wish.figure), figure),
        (Pane::Edits, edits),
        (Pane::Cell, cell),
    ]
}

fn columns(body: Area, wish: &LayoutRequest) -> Vec<(Pane, Area)> {
    let (text, rest) = body.left((body.width / 4).clamp(40, 70));
    let (figures, side) = rest.left(rest.width.saturating_sub((body.width / 4).clamp(44, 60)));
    let (first, second) = figures.top(figures.height / 2);
    let (cell, edits) = side.top(side.height / 2);
    vec![
        (Pane::Transcript, text),
        (Pane::Figure(wish.first), first),
        (Pane::Figure(wish.second), second),
        (Pane::Edits, edits),
        (Pane::Cell, cell),
    ]
}

fn tower(body: Area, wish: &LayoutRequest) -> Vec<(Pane, Area)> {
    let (text, rest) = body.top(body.height * 3 / 10);
    let (figure, low) = rest.bottom((body.height / 3).max(14));
    let (edits, cell) = low.top(low.height / 2);
    vec![
        (Pane::Transcript, text),
        (Pane::Figure(wish.figure), figure),
        (Pane::Edits, edits),
        (Pane::Cell, cell),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pane() -> impl Strategy<Value = Pane> {
        prop_oneof![
            Just(Pane::Transcript),
            Just(Pane::Figure("lens")),
            Just(Pane::Edits),
            Just(Pane::Cell)
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn panes_fill_the_screen_without_overlap(width in 0u16..260, height in 0u16..90, focus in pane(), zoom in 0..3, tour: bool) {
            let zoom = [Zoom::Normal, Zoom::Wide, Zoom::Full][zoom as usize];
            let beside = if focus == Pane::Transcript { Pane::Cell } else { focus };
            let wish = LayoutRequest { size: (width, height), focus, last_side_pane: beside, first: "lens", figure: "lens", second: "neurons", zoom };
            let Some(arrangement) = arrange(&wish, tour) else {
                prop_assert!(width < LEAST.0 || height < LEAST.1);
                return Ok(());
            };
            let mut areas: Vec<Area> = arrangement.panes.iter().map(|(_, a)| *a).collect();
            areas.extend([arrangement.header, arrangement.tour, arrangement.footer]);
            let mut taken = vec![0u8; usize::from(width) * usize::from(height)];
            for area in areas {
                prop_assert!(area.x + area.width <= width && area.y + area.height <= height);
                for y in area.y..area.y + area.height {
                    for x in area.x..area.x + area.width {
                        taken[usize::from(y) * usize::from(width) + usize::from(x)] += 1;
                    }
                }
            }
            prop_assert!(taken.iter().all(|t| *t == 1), "every cell belongs to exactly one part");
            prop_assert!(arrangement.area(focus).is_some(), "the focused pane is shown");
        }
    }
}
