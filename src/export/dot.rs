//! DOT: a graph for Graphviz.
//!
//! Invariant: every name is a quoted string in which nothing can end the string; provenance is in comments of one line. Other figures are
//! refused. To write another attribute of an edge, add it in [`write`].

use std::fmt::Write as _;

use super::number::significant;
use super::provenance;
use crate::error::{Error, Result};
use crate::figure::{Body, Figure, Graph};
use crate::text;

pub(super) fn write(figure: &Figure) -> Result<String> {
    match &figure.body {
        Body::Graph(graph) => Ok(write_graph(figure, graph)),
        Body::Grid(_) | Body::Table(_) | Body::Series(_) | Body::Text(_) => Err(not_a_graph()),
    }
}

/// The error for a figure of another shape.
pub fn not_a_graph() -> Error {
    Error::argument(
        "format",
        "dot",
        "a graph, as `circuit` with show=graph makes one; other figures are written as text, json, csv, svg or html",
    )
}

/// A text as a quoted string.
fn quoted(words: &str) -> String {
    let safe = text::line(words).replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{safe}\"")
}

fn write_graph(figure: &Figure, graph: &Graph) -> String {
    let mut out = String::new();
    for (name, value) in provenance::lines(figure) {
        let _ = writeln!(out, "// {name}: {}", text::line(&value));
    }
    for (step, own) in graph.steps.iter().enumerate() {
        let shown = if step == graph.shown { ", shown" } else { "" };
        let _ = writeln!(
            out,
            "// {} edges{shown}: faithfulness {}, without it {}, random {} to {}",
            own.edges, own.faithfulness, own.without, own.random_least, own.random_most
        );
    }
    let _ = writeln!(out, "digraph {} {{", quoted(&figure.title));
    out.push_str("  rankdir=BT;\n  node [shape=box, style=rounded, fontname=\"monospace\"];\n");
    out.push_str("  edge [fontname=\"monospace\", fontsize=10];\n");
    let present = graph.present();
    let nodes = || (0..graph.nodes.len()).filter(|node| present[*node]);
    for node in nodes() {
        let _ = writeln!(out, "  n{node} [label={}];", quoted(graph.label(node)));
    }
    let mut rows: Vec<usize> = nodes().map(|node| graph.nodes[node].row).collect();
    rows.sort_unstable();
    rows.dedup();
    for row in &rows {
        let label = graph.rows.get(*row).map_or("", |row| row.label.as_str());
        let _ = writeln!(out, "  r{row} [label={}, shape=plaintext];", quoted(label));
        let of_row = nodes().filter(|node| graph.nodes[*node].row == *row);
        let names: Vec<String> = of_row.map(|node| format!("n{node};")).collect();
        let _ = writeln!(out, "  {{ rank=same; r{row}; {} }}", names.join(" "));
    }
    // Rows without an edge between them stay in their order.
    for pair in rows.windows(2) {
        let _ = writeln!(out, "  r{} -> r{} [style=invis];", pair[0], pair[1]);
    }
    let reach = graph.reach();
    for edge in graph.kept() {
        let edge = &graph.edges[edge];
        let (colour, style) = if edge.weight < 0.0 {
            ("#d55e00", "dashed")
        } else {
            ("#0072b2", "solid")
        };
        let label = format!("{} {}", edge.part, significant(edge.weight));
        let _ = writeln!(
            out,
            "  n{} -> n{} [label={}, tooltip={}, weight={}, color=\"{colour}\", style={style}, penwidth={:.2}];",
            edge.from,
            edge.to,
            quoted(label.trim()),
            quoted(&edge.name),
            1 + (10.0 * edge.strength() / reach) as usize,
            0.5 + 4.5 * edge.strength() / reach
        );
    }
    out.push_str("}\n");
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::export::samples;

    #[test]
    fn nodes_ranks_and_edges_by_weight_and_sign() {
        let mut figure = samples::graph();
        let out = write(&figure).unwrap();
        assert!(
            out.contains("digraph \"logit lens\" {\n  rankdir=BT;"),
            "{out}"
        );
        assert!(out.contains("n1 [label=\"a0.h1\"];"), "{out}");
        assert!(out.contains("{ rank=same; r1; n1; n2; }"), "{out}");
        assert!(out.contains("r0 -> r1 [style=invis];"), "{out}");
        let edge = out.lines().find(|line| line.contains("n1 -> n3")).unwrap();
        assert!(
            edge.contains("label=\"v -2.00\"") && edge.contains("style=dashed"),
            "{edge}"
        );
        assert!(out.contains("n0 -> n2") && out.contains("style=solid"));
        assert_eq!(out.matches(" -> n").count(), 5);
        if let Body::Graph(graph) = &mut figure.body {
            graph.nodes[1].label = "a\"];\n evil [x=\"\\".into();
        }
        let out = write(&figure).unwrap();
        assert!(
            out.contains("[label=\"a\\\"];⏎ evil [x=\\\"\\\\\"];"),
            "{out}"
        );
    }

    #[test]
    fn what_is_no_graph_is_refused_with_what_to_do() {
        for figure in samples::all() {
            let graph = matches!(figure.body, Body::Graph(_));
            let out = write(&figure);
            assert_eq!(out.is_ok(), graph, "{}", figure.title);
            if let Err(error) = out {
                assert!(error.to_string().contains("show=graph"), "{error}");
            }
        }
    }
}
