//! A graph as a picture, for SVG and HTML: nodes in rows, edges by weight and sign, below them what pruning keeps.
//!
//! Invariant: every edge that the shown step keeps is a line with a title that gives its name and weight; a sign is a dash as well as a
//! colour. To draw something else of an edge, add it in [`edges`].

use std::fmt::Write as _;

use super::markup::escape;
use super::number::significant;
use super::plot::Plot;
use crate::figure::graph::EdgeEnd;
use crate::figure::{Graph, GraphEdge, GraphNode};
use crate::text::{clip, width};

const CHAR: f32 = 7.2;
const LINE: f32 = 18.0;
/// The distance of two rows.
const ROW: f32 = 54.0;
/// The longest label, in characters.
const LABEL: usize = 12;
/// Colours of Okabe and Ito that most people can tell apart: of positive and of negative weights.
const COLOURS: [&str; 2] = ["#0072b2", "#d55e00"];
const DASH: &str = " stroke-dasharray=\"5 3\"";

/// A picture for use inside a page; HTML needs no namespace.
pub(super) fn picture(graph: &Graph) -> String {
    draw(graph).alone()
}

/// Draws the step that is shown.
pub(super) fn draw(graph: &Graph) -> Plot {
    let places = Places::of(graph);
    let mut plot = Plot::empty();
    legend(&mut plot, graph);
    let top = plot.high + LINE;
    for (row, y) in &places.rows {
        let label = graph.rows.get(*row).map_or("", |row| row.label.as_str());
        let label = clip(label, LABEL);
        plot.text(0.0, top + y + 4.0, &label, "fill=\"#666666\"");
    }
    edges(&mut plot, graph, &places, top);
    let present = graph.present();
    for node in (0..present.len()).filter(|node| present[*node]) {
        box_of(&mut plot, graph, node, &places, top);
    }
    plot.high = top + places.high + LINE;
    plot.wide = plot.wide.max(places.wide);
    if !graph.steps.is_empty() {
        below(&mut plot, graph);
    }
    plot
}

/// Where rows and columns of nodes are.
struct Places {
    /// Rows that have a node, with their heights from the top.
    rows: Vec<(usize, f32)>,
    /// Columns that have a node.
    columns: Vec<usize>,
    left: f32,
    column: f32,
    high: f32,
    wide: f32,
}

impl Places {
    fn of(graph: &Graph) -> Self {
        let nodes = graph.nodes.iter().zip(graph.present());
        let there: Vec<&GraphNode> = nodes.filter(|(_, there)| *there).map(|(n, _)| n).collect();
        let used = |of: fn(&GraphNode) -> usize| {
            let mut all: Vec<usize> = there.iter().map(|node| of(node)).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        let (rows, columns) = (used(|node| node.row), used(|node| node.column));
        let names = there.iter().map(|node| width(&clip(&node.label, LABEL)));
        let titles = rows.iter().filter_map(|row| graph.rows.get(*row));
        let titles = titles.map(|row| width(&clip(&row.label, LABEL)));
        let left = (titles.max().unwrap_or(0) + 2) as f32 * CHAR;
        let column = (names.max().unwrap_or(0) + 3) as f32 * CHAR;
        let high = rows.len().saturating_sub(1) as f32 * ROW + LINE;
        let from_top = |(i, row): (usize, &usize)| (*row, ROW * (rows.len() - 1 - i) as f32);
        Self {
            rows: rows.iter().enumerate().map(from_top).collect(),
            wide: left + columns.len() as f32 * column,
            columns,
            left,
            column,
            high,
        }
    }

    /// The middle of a node.
    fn at(&self, node: &GraphNode) -> (f32, f32) {
        let column = self.columns.iter().position(|own| *own == node.column);
        let row = self.rows.iter().find(|(row, _)| *row == node.row);
        let x = self.left + (column.unwrap_or(0) as f32 + 0.5) * self.column;
        (x, row.map_or(0.0, |(_, y)| *y))
    }
}

fn style(edge: &GraphEdge, reach: f32) -> (&'static str, &'static str, f32) {
    let negative = edge.weight < 0.0;
    let wide = 0.6 + 5.0 * edge.strength() / reach;
    let dash = if negative { DASH } else { "" };
    (COLOURS[usize::from(negative)], dash, wide)
}

fn edges(plot: &mut Plot, graph: &Graph, places: &Places, top: f32) {
    let reach = graph.reach();
    // The strongest are drawn last, over the others.
    for i in graph.kept().into_iter().rev() {
        let edge = &graph.edges[i];
        let (from, to) = (&graph.nodes[edge.from], &graph.nodes[edge.to]);
        let ((x1, y1), (x2, y2)) = (places.at(from), places.at(to));
        let aside = match edge.part.as_str() {
            "q" => -12.0,
            "v" => 12.0,
            _ => 0.0,
        };
        let (y1, y2, x2) = (top + y1 - 10.0, top + y2 + 10.0, x2 + aside);
        let bend = if from.row == to.row { 26.0 } else { ROW / 2.0 };
        let (colour, dash, wide) = style(edge, reach);
        let _ = writeln!(
            plot.body,
            "<path d=\"M{x1:.1} {y1:.1}C{x1:.1} {:.1} {x2:.1} {:.1} {x2:.1} {y2:.1}\" stroke=\"{colour}\" \
             stroke-width=\"{wide:.1}\"{dash} stroke-opacity=\"0.75\" fill=\"none\"><title>{} · {} {}</title></path>",
            y1 - bend,
            y2 + bend,
            escape(&edge.name),
            escape(&graph.weight),
            significant(edge.weight)
        );
    }
}

fn box_of(plot: &mut Plot, graph: &Graph, index: usize, places: &Places, top: f32) {
    let node = &graph.nodes[index];
    let count = |end: EdgeEnd| graph.at(index, end).len();
    let (into, out) = (count(EdgeEnd::Into), count(EdgeEnd::OutOf));
    let label = clip(&node.label, LABEL);
    let wide = (width(&label) + 1) as f32 * CHAR;
    let (x, y) = places.at(node);
    let (x, y) = (x - wide / 2.0, top + y - 10.0);
    let _ = writeln!(
        plot.body,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{wide:.1}\" height=\"20\" rx=\"4\" fill=\"#ffffff\" stroke=\"#444444\"><title>{}: {into} edges in, {out} out</title></rect>",
        escape(&node.label)
    );
    plot.text(x + CHAR / 2.0, y + 14.0, &label, "");
}

/// What colour, dash and width of a line say.
fn legend(plot: &mut Plot, graph: &Graph) {
    let words = [
        format!("positive {}", graph.weight),
        format!("negative {}", graph.weight),
    ];
    let mut x = 0.0;
    for (i, word) in words.iter().enumerate() {
        let dash = if i == 1 { DASH } else { "" };
        let _ = writeln!(
            plot.body,
            "<path d=\"M{x:.1} {0:.1}H{1:.1}\" stroke=\"{2}\" stroke-width=\"3\"{dash} fill=\"none\"/>",
            LINE - 9.0,
            x + 26.0,
            COLOURS[i]
        );
        plot.text(x + 32.0, LINE - 5.0, word, "");
        x += 32.0 + (width(word) + 2) as f32 * CHAR;
    }
    let most = format!(
        "the widest line: |{}| {}",
        graph.weight,
        significant(graph.reach())
    );
    plot.text(x, LINE - 5.0, &most, "fill=\"#666666\"");
    plot.high = LINE * 1.5;
}

/// What every step of pruning keeps, with the step that is shown in words.
fn below(plot: &mut Plot, graph: &Graph) {
    if let Some(step) = graph.step() {
        let words = format!(
            "{} edges: faithfulness {}, without it {}, random {} to {}",
            step.edges,
            significant(step.faithfulness),
            significant(step.without),
            significant(step.random_least),
            significant(step.random_most)
        );
        plot.text(0.0, plot.high + LINE, &words, "font-weight=\"bold\"");
        plot.high += 2.0 * LINE;
    }
    let curve = Plot::new(&graph.curve());
    let _ = writeln!(
        plot.body,
        "<g transform=\"translate(0 {:.1})\">\n{}</g>",
        plot.high, curve.body
    );
    plot.high += curve.high;
    plot.wide = plot.wide.max(curve.wide);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::export::samples;
    use crate::figure::Body;

    fn sample() -> Graph {
        match samples::graph().body {
            Body::Graph(graph) => graph,
            Body::Grid(_) | Body::Table(_) | Body::Series(_) | Body::Text(_) => panic!("a graph"),
        }
    }

    #[test]
    fn a_line_for_every_kept_edge_dashed_where_it_is_negative() {
        let mut graph = sample();
        let out = draw(&graph).body;
        let lines = |out: &str| out.matches("fill=\"none\"><title>").count();
        assert_eq!(lines(&out), graph.kept().len());
        let of = |name: &str| {
            let own = out
                .lines()
                .find(|line| line.contains(&format!("<title>{name} ·")));
            own.unwrap().to_owned()
        };
        assert!(of("a0.h1-&gt;a2.h0&lt;v&gt;").contains("stroke-dasharray"));
        assert!(!of("input-&gt;m0").contains("stroke-dasharray"));
        graph.show_step(0);
        assert!(lines(&draw(&graph).body) < lines(&out));
        assert!(out.contains("faithfulness 0.800") && out.contains("<circle"));
    }

    #[test]
    fn later_rows_are_higher_and_columns_keep_their_order() {
        let graph = sample();
        let places = Places::of(&graph);
        let at = |label: &str| places.at(graph.nodes.iter().find(|n| n.label == label).unwrap());
        assert!(at("input").1 > at("m0").1 && at("m0").1 > at("logits").1);
        assert!(at("a0.h1").0 < at("m0").0);
        assert!(places.at(&graph.nodes[0]).0 < places.wide);
    }
}
