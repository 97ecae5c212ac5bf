//! Layout: the areas of all panes for a terminal size. One pure function, used for drawing and for keys.
//!
//! Invariant: panes never overlap and are inside the screen. A figure has the height that is left; what stands beside it is as high as
//! its content, in steps, so that borders rest while the cursor moves.
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

impl LayoutRequest {
    /// Whether the height of the text follows from its length; else those of cell and edits follow from what they hold.
    pub fn divides_by_text(&self) -> bool {
        self.size.0 < 100 || self.zoom != Zoom::Normal
    }

    /// Chooses a figure. Where there is room for several, the one chosen before it moves below it.
    pub fn choose(&mut self, slot: PaneName) {
        self.figure = slot;
        if ![self.first, self.second, self.third].contains(&slot) {
            self.third = self.second;
            self.second = slot;
        } else if slot == self.third && !wide(self) {
            std::mem::swap(&mut self.second, &mut self.third);
        }
    }
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

/// How many rows the contents of panes have, without their borders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentRows {
    /// The text, at the width of the screen.
    pub text: u16,
    pub cell: u16,
    pub edits: u16,
}

/// What the user has given to the panes of the text's side, beyond what they have by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resized {
    /// Columns of the text's side.
    pub columns: i16,
    /// Rows of the text.
    pub rows: i16,
}

impl Resized {
    /// With so many more columns and rows.
    #[must_use]
    pub fn by(self, columns: i16, rows: i16) -> Self {
        Self {
            columns: self.columns.saturating_add(columns),
            rows: self.rows.saturating_add(rows),
        }
    }
}

/// A size with what the user has given to it, between two limits; the upper one yields.
fn resized(size: u16, by: i16, low: u16, high: u16) -> u16 {
    size.saturating_add_signed(by).min(high).max(low)
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
    /// The figure shown beside the first if there is room for two.
    pub second: PaneName,
    /// The figure shown below the second if there is room for three.
    pub third: PaneName,
    /// What the panes hold.
    pub rows: ContentRows,
    /// What the user has changed of their sizes.
    pub resized: Resized,
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
    if wide(wish) {
        panes.extend(figures(wish).map(Pane::Figure));
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
/// ┌──────────────┐  ┌────────┬─────────┐  ┌────────┬─────────┬────────┐
/// │  text        │  │ text   │ figure  │  │ text   │ first   │ second │
/// ├─[tabs]───────┤  ├────────┤         │  ├────────┤         │        │
/// │ figure, ...  │  │ cell   │         │  │ cell   │         ├────────┤
/// │              │  ├────────┤         │  ├────────┤         │ third  │
/// └──────────────┘  │ edits  │         │  │ edits  │         │        │
///                   └────────┴─────────┘  └────────┴─────────┴────────┘
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
        Zoom::Wide => (stacked(body, wish, wish.focus == Pane::Transcript), true),
        Zoom::Normal if wide(wish) => (columns(body, wish), false),
        Zoom::Normal if wish.size.0 >= 100 && body.height >= 18 => (sides(body, wish), false),
        Zoom::Normal if wish.size.0 >= 100 => (halves(body, wish), true),
        Zoom::Normal if body.height >= 36 => (tower(body, wish), false),
        Zoom::Normal if body.height >= 14 => (stacked(body, wish, false), true),
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

/// Whether there is room for several figures side by side.
fn wide(wish: &LayoutRequest) -> bool {
    wish.size.0 >= 160 && wish.size.1 >= 30
}

/// The figures that are shown where there is room for several, each once.
fn figures(wish: &LayoutRequest) -> impl Iterator<Item = PaneName> {
    let tall = wish.size.1 >= 40 && ![wish.first, wish.second].contains(&wish.third);
    [
        Some(wish.first),
        Some(wish.second),
        tall.then_some(wish.third),
    ]
    .into_iter()
    .flatten()
}

/// The pane that shares the screen with the text.
fn beside(wish: &LayoutRequest) -> Pane {
    if wish.focus == Pane::Transcript {
        wish.last_side_pane
    } else {
        wish.focus
    }
}

/// The text above, as high as it is long, and a pane below; more of it for one who reads.
fn stacked(body: Area, wish: &LayoutRequest, reading: bool) -> Vec<(Pane, Area)> {
    let share = if reading {
        body.height * 2 / 3
    } else {
        let most = (body.height * 2 / 5).clamp(6, 14);
        (wish.rows.text.saturating_add(2)).clamp(4, most)
    };
    let share = resized(share, wish.resized.rows, 3, body.height.saturating_sub(6));
    let (top, bottom) = body.top(share);
    vec![(Pane::Transcript, top), (beside(wish), bottom)]
}

/// The columns of the text's side.
fn left_columns(wish: &LayoutRequest, own: u16, most: u16) -> u16 {
    resized(own, wish.resized.columns, 24, most)
}

fn halves(body: Area, wish: &LayoutRequest) -> Vec<(Pane, Area)> {
    let own = left_columns(wish, body.width * 2 / 5, body.width - 40);
    let (left, right) = body.left(own);
    vec![(Pane::Transcript, left), (beside(wish), right)]
}

/// The side of the text: cell and edits as high as what they hold, the text gets the rest.
fn left_side(left: Area, wish: &LayoutRequest) -> Vec<(Pane, Area)> {
    let third = left.height / 3;
    let edits = (wish.rows.edits + 2).clamp(4, third.max(4));
    // Steps, so that the border rests while the cursor moves between cells of nearly the same size.
    let steps = [4, 7, 10, 13];
    let cell = steps.into_iter().find(|step| *step >= wish.rows.cell);
    let cell = (cell.unwrap_or(16) + 2).clamp(5, (left.height * 2 / 5).max(5));
    let low = resized(
        edits + cell,
        wish.resized.rows.saturating_neg(),
        7,
        left.height.saturating_sub(5),
    );
    let (text, low) = left.bottom(low);
    // What the user gave to both or took from both goes to the cell or comes from it, as far as it goes.
    let edits = edits.min(low.height.saturating_sub(4));
    let (cell, edits) = low.bottom(edits);
    vec![
        (Pane::Transcript, text),
        (Pane::Edits, edits),
        (Pane::Cell, cell),
    ]
}

fn sides(body: Area, wish: &LayoutRequest) -> Vec<(Pane, Area)> {
    let own = left_columns(wish, body.width * 2 / 5, body.width - 40);
    let (left, right) = body.left(own);
    let mut panes = left_side(left, wish);
    panes.insert(1, (Pane::Figure(wish.figure), right));
    panes
}

fn columns(body: Area, wish: &LayoutRequest) -> Vec<(Pane, Area)> {
    let own = (body.width * 3 / 10).clamp(46, 70);
    let (left, right) = body.left(left_columns(wish, own, body.width - 90));
    let mut panes = left_side(left, wish);
    let shown: Vec<PaneName> = figures(wish).collect();
    let (first, rest) = right.left(right.width.div_ceil(2));
    let second = if shown.len() > 2 {
        rest.height.div_ceil(2)
    } else {
        rest.height
    };
    let (second, third) = rest.top(second);
    let areas = [first, second, third].into_iter();
    let figures = shown.into_iter().map(Pane::Figure).zip(areas);
    panes.splice(1..1, figures);
    panes
}

fn tower(body: Area, wish: &LayoutRequest) -> Vec<(Pane, Area)> {
    let most = body.height * 3 / 10;
    let text = (wish.rows.text.saturating_add(2)).clamp(5, most);
    let text = resized(text, wish.resized.rows, 4, body.height / 2);
    let (text, rest) = body.top(text);
    let edits = (wish.rows.edits + 2).clamp(4, 8);
    let (figure, low) = rest.bottom(edits + 9);
    let (cell, edits) = low.bottom(edits);
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
        fn panes_fill_the_screen_without_overlap(width in 0u16..260, height in 0u16..90, focus in pane(), zoom in 0..3, tour: bool,
            text in 0u16..300, cell in 0u16..40, edits in 0u16..40, columns: i16, more: i16) {
            let zoom = [Zoom::Normal, Zoom::Wide, Zoom::Full][zoom as usize];
            let beside = if focus == Pane::Transcript { Pane::Cell } else { focus };
            let wish = LayoutRequest { size: (width, height), focus, last_side_pane: beside, first: "lens", figure: "lens", second: "neurons", third: "patchscope", zoom,
                rows: ContentRows { text, cell, edits }, resized: Resized { columns, rows: more } };
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
