//! Figures: what instruments return. They contain no pixels: panes draw them, exporters write them, tests compare them.
//!
//! Invariant: every cell that belongs to a place in the model has an [`Anchor`], and every figure its [`Provenance`]. To add a
//! shape, add a variant of [`Body`]; the compiler lists the places to visit.

pub mod alignment;
pub(crate) mod builders;
pub mod by_token;
pub mod cell_details;
pub mod column;
pub(crate) mod difference;
pub mod graph;
pub mod series;
mod table;
mod token_ids;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::figure::cell_details::CellDetails;
use crate::model::network::finite::NOT_FINITE;
use crate::text::width;

pub use super::figure::graph::{Graph, GraphEdge, GraphNode, PruningStep};
pub use super::figure::series::{Curve, Series, Style};
pub use super::figure::table::{Table, TablePage, TableRow};

/// A unit at a layer and position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A neuron of `mlp_act`.
    Neuron(u32),
    /// An attention head.
    Head(u32),
    /// A vocabulary token.
    Token(u32),
    /// A feature of a dictionary.
    Feature(u32),
}

/// What edits need to name a feature of a dictionary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeatureHandle {
    /// The dictionary's name or path, as it was given.
    pub dictionary: String,
    /// The layer, where the dictionary is one of a set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<u16>,
    pub feature: u32,
    /// Where the dictionary writes: `resid_post.6`, or `mlp_add.*` where that is several layers.
    pub place: String,
    /// Its activation there, where the row has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<f32>,
}

/// The place in the model that a cell is about, so that steer, ablate, patch and copy can act on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Anchor {
    /// The block.
    pub layer: Option<u16>,
    /// The token position.
    pub position: Option<u32>,
    pub unit: Option<Unit>,
}

impl Anchor {
    pub fn cell(layer: usize, position: usize) -> Self {
        Self {
            position: Some(position as u32),
            ..Self::layer(layer)
        }
    }

    /// An anchor with only a position.
    pub fn position(position: usize) -> Self {
        Self {
            position: Some(position as u32),
            ..Self::default()
        }
    }

    /// An anchor with only a layer.
    pub fn layer(layer: usize) -> Self {
        Self {
            layer: Some(layer as u16),
            ..Self::default()
        }
    }

    pub fn head(layer: usize, head: usize) -> Self {
        Self::layer(layer).with(Unit::Head(head as u32))
    }

    /// The anchor with a unit added.
    pub fn with(self, unit: Unit) -> Self {
        Self {
            unit: Some(unit),
            ..self
        }
    }
}

/// One cell of a grid.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Safe visible text (see `text.rs`).
    pub label: String,
    /// The number that is shown as colour.
    pub value: f32,
    /// The layer, position and unit that it is about.
    pub anchor: Anchor,
    /// The candidates: text and number, strongest first, including the cell's own.
    pub more: Vec<(String, f32)>,
    /// The token ids of the first candidates, where those are tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<u32>,
}

impl Cell {
    /// A cell whose value is measured later, as those of layers that nobody sees while a text is written.
    pub fn unread(anchor: Anchor) -> Self {
        Self {
            label: "…".into(),
            value: f32::NAN,
            anchor,
            more: Vec::new(),
            ids: Vec::new(),
        }
    }
}

/// The label of a row or column.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AxisLabel {
    /// Safe visible text.
    pub label: String,
    /// The layer, position and unit that the row or column stands for.
    pub anchor: Anchor,
}

/// How a number is mapped to a colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Probabilities and other shares: 0 to 1.
    #[default]
    Unit,
    /// From `lo` to `hi`.
    Range {
        /// Lowest.
        lo: f32,
        /// Highest.
        hi: f32,
    },
    /// Ranks from 1, on a logarithmic scale: 1 is the brightest.
    Rank {
        /// The last rank.
        worst: f32,
    },
    /// From `-reach` to `reach`, with zero in the middle.
    Diverging {
        /// The largest magnitude.
        reach: f32,
    },
}

impl Scale {
    /// The place of a value on the scale, 0 to 1; NaN is at 0.
    pub fn place(self, value: f32) -> f32 {
        let at = match self {
            Self::Unit => value,
            Self::Range { lo, hi } => (value - lo) / (hi - lo).max(f32::MIN_POSITIVE),
            Self::Rank { worst } => 1.0 - value.max(1.0).ln() / worst.max(2.0).ln(),
            Self::Diverging { reach } => 0.5 + 0.5 * value / reach.max(f32::MIN_POSITIVE),
        };
        if at.is_nan() { 0.0 } else { at.clamp(0.0, 1.0) }
    }

    /// The smallest scale that covers both; if their kinds differ, the first one.
    #[must_use]
    pub fn around(self, other: Self) -> Self {
        match (self, other) {
            (Self::Diverging { reach: a }, Self::Diverging { reach: b }) => {
                Self::Diverging { reach: a.max(b) }
            }
            (Self::Range { lo: a, hi: b }, Self::Range { lo: c, hi: d }) => Self::Range {
                lo: a.min(c),
                hi: b.max(d),
            },
            (Self::Rank { worst: a }, Self::Rank { worst: b }) => Self::Rank { worst: a.max(b) },
            _ => self,
        }
    }

    /// The value at a fraction of the scale (0 is its first end, 1 its last), for legends.
    pub fn along(self, part: f32) -> f32 {
        let (lo, hi) = self.ends();
        match self {
            Self::Rank { .. } => hi.powf(part),
            Self::Unit | Self::Range { .. } | Self::Diverging { .. } => lo + (hi - lo) * part,
        }
    }

    /// The ends of the scale, for legends.
    pub fn ends(self) -> (f32, f32) {
        match self {
            Self::Unit => (0.0, 1.0),
            Self::Range { lo, hi } => (lo, hi),
            Self::Rank { worst } => (1.0, worst),
            Self::Diverging { reach } => (-reach, reach),
        }
    }
}

/// Rows by columns of cells; columns may be appended while a text grows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Grid {
    /// The name of the row axis, for example `layer`.
    pub row_axis: String,
    /// The name of the column axis, for example `position`.
    pub column_axis: String,
    /// The name of the numbers, for example `probability`.
    pub value: String,
    /// Row labels, from the row drawn at the bottom (layer 0) up.
    pub rows: Vec<AxisLabel>,
    /// Column labels.
    pub columns: Vec<AxisLabel>,
    /// Cells by column, then row.
    pub cells: Vec<Vec<Cell>>,
    /// The colour scale.
    pub scale: Scale,
    /// Further numbers of the cells.
    #[serde(default, skip_serializing_if = "CellDetails::is_empty")]
    pub also: CellDetails,
    /// Where there are too many rows to read, those that text shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opening: Option<OpeningRows>,
}

/// The rows of a large grid that text shows; every other export, and the screen, has all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpeningRows {
    /// Their numbers, ascending.
    pub rows: Vec<usize>,
    /// Which they are, as in `12 of 270 rows: WHY`.
    pub why: String,
}

/// One entry of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Entry {
    /// A whole number that counts or names something: a layer, a position, a rank, an id. Drawn right-aligned, every digit of it.
    Whole(u64),
    /// A measured number; drawn right-aligned with three significant digits.
    Number(f32),
    /// No number where other rows have one; null in JSON.
    Missing,
    /// Safe visible text.
    Text(String),
}

impl Entry {
    pub fn is_number(&self) -> bool {
        matches!(self, Self::Whole(_) | Self::Number(_) | Self::Missing)
    }

    /// A text as it is, and every digit of a number.
    pub fn exact(&self) -> String {
        match self {
            Self::Whole(number) => number.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Missing => String::new(),
            Self::Text(text) => text.clone(),
        }
    }
}

/// The first and the last position, if the anchors are ascending positions of a text. Labels of something else, such as
/// source layers, may all have the position at which they were measured.
pub fn positions(titles: impl IntoIterator<Item = Anchor>) -> Option<(u32, u32)> {
    let mut at = titles.into_iter().map(|anchor| anchor.position);
    let first = at.next()??;
    at.try_fold((first, first), |(first, last), at| {
        at.filter(|at| *at > last).map(|at| (first, at))
    })
}

impl Grid {
    /// A description of some columns: `position 426-431 of 420-484`, or their numbers if they are not positions.
    pub fn part(&self, columns: std::ops::Range<usize>) -> String {
        let axis = &self.column_axis;
        let of = |titles: &[AxisLabel]| positions(titles.iter().map(|h| h.anchor));
        let shown = self.columns.get(columns.clone()).and_then(of);
        let whole = of(&self.columns).zip(shown);
        match whole {
            Some(((lo, hi), (first, last))) => format!("{axis} {first}-{last} of {lo}-{hi}"),
            None => format!(
                "{axis} {}-{} of {}",
                columns.start,
                columns.end.saturating_sub(1),
                self.columns.len()
            ),
        }
    }

    /// The width of the widest row label, in terminal columns.
    pub fn title_width(&self) -> usize {
        self.rows.iter().map(|r| width(&r.label)).max().unwrap_or(0)
    }
}

/// Lines of prose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Text {
    /// Safe visible lines.
    pub lines: Vec<String>,
}

/// The shapes a figure can have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// Rows by columns with a colour scale.
    Grid(Grid),
    /// Rows of text and numbers.
    Table(Table),
    /// Named curves over a shared axis.
    Series(Series),
    /// Nodes and weighted edges between them.
    Graph(Graph),
    /// Prose.
    Text(Text),
}

/// What a figure was measured on: model, tokens, edits and parameters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The model argument.
    pub model: String,
    /// Fingerprint of its weights.
    pub revision: String,
    /// How weight matrices were stored.
    pub dtype: String,
    /// The device that the model ran on.
    pub device: String,
    /// Token ids of the run.
    pub tokens: Vec<u32>,
    /// The active edits, each as its line of the edit grammar, with `since N` if it began later than position 0.
    pub edits: Vec<String>,
    /// The seed of anything random.
    pub seed: u64,
    /// The instrument and its parameters.
    pub parameters: Vec<(String, String)>,
    /// The version of lmscope.
    pub version: String,
    /// The raw text of every token that the figure names by its id; none for one that holds only a part of a character.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub texts: BTreeMap<u32, Option<String>>,
    /// The prompts of the list that it shows one by one, in the list's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<GivenPrompt>,
}

/// A prompt as it was given, every character of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GivenPrompt {
    Text(String),
    /// One user turn of the chat template.
    Chat(String),
    /// A conversation.
    Messages(Vec<GivenTurn>),
}

/// One turn of a conversation as it was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenTurn {
    pub role: String,
    pub content: String,
}

/// A self-check of a figure: the last row of the lens against the model's own output.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// The largest absolute difference; NaN (null in JSON) if something was not finite.
    #[serde(deserialize_with = "super::edit::receipt::number")]
    pub error: f32,
    /// The largest difference that passes.
    pub tolerance: f32,
}

impl Check {
    /// Checks the largest difference of two rows of logits. It fails if a value is not finite in either, except for -inf in
    /// both, which is a banned token.
    pub fn of(own: &[f32], other: &[f32], tolerance: f32) -> Self {
        let mut error = if own.len() == other.len() {
            0.0f32
        } else {
            f32::NAN
        };
        for (a, b) in own.iter().zip(other) {
            #[allow(clippy::float_cmp)] // the same bits, minus infinity among them
            let apart = if *a == *b && *a < f32::INFINITY {
                0.0
            } else {
                (a - b).abs()
            };
            // NaN stays the maximum and is not replaced by a number.
            if apart > error || apart.is_nan() {
                error = apart;
            }
            if error.is_nan() {
                break;
            }
        }
        Self { error, tolerance }
    }

    /// A check that failed because something is not finite.
    pub fn not_finite() -> Self {
        Self {
            error: f32::NAN,
            tolerance: 0.0,
        }
    }

    /// Whether the check passed.
    pub fn passed(self) -> bool {
        self.error <= self.tolerance
    }

    /// The sentence for a check that failed.
    pub fn failure(self) -> Option<String> {
        if self.passed() {
            None
        } else if self.error.is_finite() {
            Some(format!(
                "the last lens row differs from the model's own output by {:.2e} (tolerated: {:.0e})",
                self.error, self.tolerance
            ))
        } else {
            Some("some of these numbers are not finite (NaN or infinity): lower the strength of an edit that is too strong; a model in f16 or bf16 may need --dtype f32".into())
        }
    }

    /// The worse of two.
    #[must_use]
    pub fn worst(self, other: Self) -> Self {
        if other.error > self.error || other.error.is_nan() {
            other
        } else {
            self
        }
    }
}

/// What an instrument returns: a body with title, notes and provenance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// A short title: the instrument and its choices.
    pub title: String,
    /// The content.
    pub body: Body,
    /// Notes: controls, limits, sources.
    pub notes: Vec<String>,
    /// Self-check, for figures that have one.
    pub check: Option<Check>,
    /// Model, tokens, edits and parameters that the figure was measured with.
    pub provenance: Provenance,
}

impl Body {
    /// Marks the cells whose numbers are not finite, and says how many numbers are not, and of how many. Values that were not measured do
    /// not count: empty cells without candidates, and gaps of curves.
    pub fn mark_not_finite(&mut self) -> (usize, usize) {
        let (mut bad, mut all) = (0, 0);
        let mut count = |value: f32, blank: bool| {
            let is_bad = value.is_infinite() || (value.is_nan() && !blank);
            all += usize::from(!value.is_nan() || !blank);
            bad += usize::from(is_bad);
            is_bad
        };
        match self {
            Body::Grid(grid) => {
                for cell in grid.cells.iter_mut().flatten() {
                    let unmeasured = cell.more.is_empty() && cell.label != NOT_FINITE;
                    if count(cell.value, unmeasured || cell.label == "–") && cell.label.is_empty()
                    {
                        cell.label = NOT_FINITE.into();
                    }
                }
            }
            Body::Table(table) => {
                for entry in table
                    .pages
                    .iter_mut()
                    .flat_map(|p| &mut p.rows)
                    .flat_map(|r| &mut r.entries)
                {
                    if let Entry::Number(value) = entry {
                        count(*value, false);
                    }
                }
            }
            Body::Series(series) => {
                for value in series.curves.iter().flat_map(|c| &c.values) {
                    count(*value, true);
                }
            }
            Body::Graph(graph) => {
                for edge in &graph.edges {
                    count(edge.weight, false);
                }
                for step in &graph.steps {
                    count(step.faithfulness, true);
                    count(step.without, true);
                }
            }
            Body::Text(_) => {}
        }
        (bad, all)
    }
}

impl Figure {
    /// Marks the cells whose numbers are not finite ([`Body::mark_not_finite`]), counts them in a note, and lets the check fail.
    pub fn mark_not_finite(&mut self) {
        let (bad, all) = self.body.mark_not_finite();
        if bad == 0 {
            return;
        }
        self.check = Some(Check::not_finite());
        let (are, they) = if bad == 1 {
            ("is", "it does")
        } else {
            ("are", "they do")
        };
        let narrow = ["f16", "bf16"].contains(&self.provenance.dtype.as_str());
        let way_out = if narrow {
            "lower the strength, or use --dtype f32"
        } else {
            "lower the strength"
        };
        self.notes.insert(
            0,
            format!(
                "{bad} of {all} numbers {are} not finite (NaN or infinity): {they} not count as the largest or the best; {way_out}"
            ),
        );
    }

    /// The cell of a grid at a layer and position.
    pub fn cell(&self, layer: u16, position: u32) -> Option<&Cell> {
        let Body::Grid(grid) = &self.body else {
            return None;
        };
        grid.cells
            .iter()
            .flatten()
            .find(|c| c.anchor.layer == Some(layer) && c.anchor.position == Some(position))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::float_cmp)]
mod tests {
    use super::*;

    fn grid(positions: std::ops::Range<usize>) -> Figure {
        let column = |p: usize| {
            vec![Cell {
                label: format!("t{p}"),
                value: 0.5,
                anchor: Anchor::cell(0, p),
                more: vec![],
                ids: vec![],
            }]
        };
        let columns = positions
            .clone()
            .map(|p| AxisLabel {
                label: p.to_string(),
                anchor: Anchor::position(p),
            })
            .collect();
        let body = Body::Grid(Grid {
            opening: None,
            also: crate::figure::cell_details::CellDetails::default(),
            row_axis: "layer".into(),
            column_axis: "position".into(),
            value: "probability".into(),
            rows: vec![AxisLabel::default()],
            columns,
            cells: positions.map(column).collect(),
            scale: Scale::Unit,
        });
        Figure {
            title: "t".into(),
            body,
            notes: vec![],
            check: None,
            provenance: Provenance::default(),
        }
    }

    fn width(figure: &Figure) -> usize {
        match &figure.body {
            Body::Grid(g) => g.columns.len(),
            Body::Table(_) | Body::Series(_) | Body::Graph(_) | Body::Text(_) => {
                panic!("a grid")
            }
        }
    }

    #[test]
    fn parts_of_a_grid_are_positions_only_where_its_columns_are() {
        let Body::Grid(mut shown) = grid(420..485).body else {
            panic!("a grid")
        };
        assert_eq!(shown.part(6..12), "position 426-431 of 420-484");
        // Source layers, all measured at one position.
        shown.column_axis = "source layer".into();
        for column in &mut shown.columns {
            column.anchor = Anchor::position(9);
        }
        assert_eq!(shown.part(6..12), "source layer 6-11 of 65");
    }

    #[test]
    fn a_column_appends_and_a_rewind_replaces() {
        let mut figure = grid(0..3);
        figure.append(grid(3..4).into());
        assert_eq!(width(&figure), 4);
        figure.append(grid(1..2).into());
        assert_eq!(width(&figure), 2, "positions from 1 on were rewritten");
    }

    /// Notes are about the newest position; a title about one position changes together with the body.
    #[test]
    fn what_is_said_is_about_what_is_shown() {
        let said = |mut figure: Figure, word: &str| {
            figure.title = format!("title {word}");
            figure.notes = vec![format!("after {word}")];
            figure
        };
        let heard = |figure: &Figure| (figure.title.clone(), figure.notes.clone());
        let both =
            |title: &str, note: &str| (format!("title {title}"), vec![format!("after {note}")]);
        let mut columns = said(grid(0..3), "a");
        columns.append(said(grid(3..4), "b").into());
        assert_eq!(heard(&columns), both("a", "b"), "grown");
        columns.append(grid(4..5).into());
        assert_eq!(
            heard(&columns),
            both("a", "b"),
            "a column that says nothing"
        );
        let waterfall = |word: &str| {
            let mut figure = said(curves(0..2, 0.0), word);
            if let Body::Series(series) = &mut figure.body {
                for point in &mut series.points {
                    point.anchor = Anchor::default();
                }
            }
            figure
        };
        let mut figure = waterfall("a");
        figure.append(waterfall("b").into());
        assert_eq!(heard(&figure), both("b", "b"), "replaced");
    }

    /// Figures about different tokens, rows or places have no difference, and the error names both.
    #[test]
    fn only_the_same_is_subtracted() {
        let refused = |a: &Figure, b: &Figure| a.minus(b).unwrap_err().to_string();
        let mut other = grid(0..2);
        if let Body::Grid(g) = &mut other.body {
            g.value = "probability of ␣Rome".into();
        }
        let said = refused(&other, &grid(0..2));
        assert!(
            said.contains("␣Rome") && said.contains("Name the token"),
            "{said}"
        );
        let targeted = |id| {
            let mut figure = grid(0..2);
            if let Body::Grid(g) = &mut figure.body {
                g.columns[1].anchor = g.columns[1].anchor.with(Unit::Token(id));
            }
            figure
        };
        assert!(targeted(5).minus(&targeted(5)).is_ok());
        let said = refused(&targeted(5), &targeted(9));
        assert!(said.contains("#5") && said.contains("#9"), "{said}");
        let mut other = curves(0..2, 0.0);
        if let Body::Series(series) = &mut other.body {
            series.value = "rank".into();
        }
        assert!(refused(&curves(0..2, 0.0), &other).contains("rank"));
        let mut moved = curves(0..2, 0.0);
        if let Body::Series(series) = &mut moved.body {
            series.curves[0].anchor = Anchor::layer(2);
        }
        assert!(refused(&curves(0..2, 0.0), &moved).contains("different place"));
        let mut table = grid(0..0);
        table.body = Body::Table(Table {
            columns: vec![],
            pages: vec![],
        });
        let said = refused(&table, &table);
        assert!(said.contains("table"), "{said}");
    }

    /// A part that exists only under edits counts whole; any other part must be in both figures.
    #[test]
    fn what_only_edits_have_counts_whole() {
        let sum = |parts: &[(&str, f32)]| {
            let mut figure = curves(0..parts.len(), 0.0);
            if let Body::Series(series) = &mut figure.body {
                series.points = parts
                    .iter()
                    .map(|(label, _)| AxisLabel {
                        label: (*label).into(),
                        anchor: Anchor::layer(1),
                    })
                    .collect();
                series.curves[0].values = parts.iter().map(|p| p.1).collect();
            }
            figure
        };
        let edited = sum(&[("embed", 1.0), ("edit resid_pre.1", 4.0), ("mlp 1", 2.0)]);
        let less = edited
            .minus(&sum(&[("embed", 1.0), ("mlp 1", 0.5)]))
            .unwrap();
        assert_eq!(values(&less), [0.0, 4.0, 1.5]);
        assert!(edited.minus(&sum(&[("embed", 1.0)])).is_err());
        let plain = sum(&[("embed", 1.0)]);
        assert!(plain.minus(&edited).is_err(), "the baseline has more");
    }

    #[test]
    fn a_graph_has_no_difference_and_says_so() {
        let mut graph = grid(0..1);
        graph.body = Body::Graph(Graph::default());
        let error = graph.minus(&graph).unwrap_err().to_string();
        assert!(error.contains("a graph has no difference"), "{error}");
        let error = graph.minus(&grid(0..1)).unwrap_err().to_string();
        assert!(error.contains("different shapes"), "{error}");
    }

    #[test]
    fn a_weight_that_is_not_finite_fails_the_check() {
        let mut figure = grid(0..1);
        let edge = GraphEdge {
            weight: f32::NAN,
            ..GraphEdge::default()
        };
        let graph = Graph {
            edges: vec![
                edge.clone(),
                GraphEdge {
                    weight: 1.0,
                    ..edge
                },
            ],
            steps: vec![PruningStep::default()],
            ..Graph::default()
        };
        figure.body = Body::Graph(graph);
        figure.mark_not_finite();
        assert!(!figure.check.unwrap().passed());
        assert!(
            figure.notes[0].starts_with("1 of 4 numbers"),
            "{:?}",
            figure.notes
        );
    }

    #[test]
    fn minus_subtracts_the_same_token() {
        let base = grid(0..2);
        let mut edited = grid(0..2);
        if let Body::Grid(g) = &mut edited.body {
            g.cells[0][0].value = 0.75;
        }
        let Body::Grid(g) = edited.minus(&base).unwrap().body else {
            panic!("a grid")
        };
        assert!((g.cells[0][0].value - 0.25).abs() < 1e-6);
        assert_eq!(g.cells[1][0].value, 0.0);
        assert!(grid(0..3).minus(&grid(0..2)).is_err());
    }

    fn curves(positions: std::ops::Range<usize>, value: f32) -> Figure {
        let mut figure = grid(0..0);
        figure.body = Body::Series(Series {
            axis: "position".into(),
            value: "probability".into(),
            points: positions
                .clone()
                .map(|p| AxisLabel {
                    label: p.to_string(),
                    anchor: Anchor::position(p),
                })
                .collect(),
            curves: vec![Curve {
                label: "a".into(),
                anchor: Anchor::layer(1),
                values: positions.map(|p| p as f32 + value).collect(),
                total: Some(value),
            }],
            scale: Scale::Unit,
            style: Style::Lines,
        });
        figure
    }

    fn values(figure: &Figure) -> &[f32] {
        match &figure.body {
            Body::Series(series) => {
                assert_eq!(series.points.len(), series.curves[0].values.len());
                &series.curves[0].values
            }
            Body::Grid(_) | Body::Table(_) | Body::Graph(_) | Body::Text(_) => {
                panic!("a series")
            }
        }
    }

    #[test]
    fn curves_grow_are_rewound_and_are_compared() {
        let mut figure = curves(0..3, 0.5);
        figure.append(curves(3..4, 0.5).into());
        assert_eq!(values(&figure), [0.5, 1.5, 2.5, 3.5]);
        figure.append(curves(1..2, 0.0).into());
        assert_eq!(values(&figure), [0.5, 1.0]);
        let less = figure.minus(&curves(0..2, 0.5)).unwrap();
        assert_eq!(values(&less), [0.0, -0.5]);
        let Body::Series(series) = less.body else {
            panic!("a series")
        };
        assert_eq!(series.scale, Scale::Diverging { reach: 0.5 });
        assert_eq!(series.curves[0].total, Some(-0.5));
        let mut other = curves(0..2, 0.5);
        if let Body::Series(series) = &mut other.body {
            series.curves[0].label = "b".into();
        }
        assert!(figure.minus(&other).is_err(), "another curve");
        // A series over layers contains no positions, so a newer one replaces it.
        let mut layers = curves(0..3, 0.0);
        let mut newer = curves(0..2, 1.0);
        for figure in [&mut layers, &mut newer] {
            if let Body::Series(series) = &mut figure.body {
                for (l, point) in series.points.iter_mut().enumerate() {
                    point.anchor = Anchor::layer(l);
                }
            }
        }
        layers.append(newer.clone().into());
        assert_eq!(values(&layers), values(&newer));
    }

    #[test]
    fn scales_put_zero_where_it_belongs() {
        assert_eq!(Scale::Diverging { reach: 2.0 }.place(0.0), 0.5);
        assert_eq!(Scale::Unit.place(f32::NAN), 0.0);
        assert_eq!(Scale::Range { lo: 1.0, hi: 3.0 }.place(2.0), 0.5);
    }
}
