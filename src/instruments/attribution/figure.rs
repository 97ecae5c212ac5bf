//! The figures of attribution patching: a grid of layers by heads or positions, or a table of the strongest neurons.
//!
//! Invariant: a number is in the metric's unit, negative where the corrupted value takes the answer away. To show other nodes, add their axis.

use super::exact::Compared;
use super::nodes::Nodes;
use super::scores::NodeScores;
use super::{AttributionParams, NodeKind};
use crate::figure::builders::entries;
use crate::figure::{Anchor, AxisLabel, Body, Cell, Grid, Table, TableRow};
use crate::instruments::Draft;
use crate::lab::Lab;
use crate::lab::pairs::{MeasuredPair, MetricKind};
use crate::lab::ranks::rank_correlation;

pub fn draft(
    params: &AttributionParams,
    lab: &Lab,
    nodes: &Nodes,
    pairs: &[MeasuredPair],
    found: &NodeScores,
    exact: &Compared,
    seed: u64,
) -> Draft {
    let body: Body = match nodes.kind {
        NodeKind::Neurons => table(nodes, pairs, found, exact, params.top.0).into(),
        NodeKind::Heads
        | NodeKind::Queries
        | NodeKind::Keys
        | NodeKind::Values
        | NodeKind::Resid
        | NodeKind::Attn
        | NodeKind::Mlp => grid(lab, nodes, pairs, found, exact).into(),
    };
    let fixed = if params.fix { " · QK fix" } else { "" };
    Draft::of(body)
        .titled(format!(
            "{} · corrupted into clean{fixed}",
            in_words(nodes.kind)
        ))
        .notes(notes(params, lab, nodes, pairs, found, exact, seed))
}

fn in_words(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::Heads => "heads",
        NodeKind::Queries => "queries",
        NodeKind::Keys => "keys",
        NodeKind::Values => "values",
        NodeKind::Resid => "residual stream",
        NodeKind::Attn => "attention output",
        NodeKind::Mlp => "MLP output",
        NodeKind::Neurons => "neurons",
    }
}

fn grid(
    lab: &Lab,
    nodes: &Nodes,
    pairs: &[MeasuredPair],
    found: &NodeScores,
    exact: &Compared,
) -> Grid {
    let first = &pairs[0];
    let (axis, columns): (&str, Vec<AxisLabel>) = if nodes.kind.by_position() {
        let label = |column: usize| {
            let (here, there) = first.runs.alignment.pairs[nodes.first + column];
            let (own, other) = (
                first.runs.clean.tokens[here],
                first.runs.corrupt.tokens[there],
            );
            let label = if pairs.len() > 1 {
                here.to_string()
            } else if own == other {
                lab.visible(own)
            } else {
                format!("{}/{}", lab.visible(own), lab.visible(other))
            };
            AxisLabel::of(label, Anchor::position(here))
        };
        ("position", (0..nodes.columns).map(label).collect())
    } else {
        match nodes.kind {
            NodeKind::Keys | NodeKind::Values => {
                let label = |head: usize| AxisLabel::of(head.to_string(), Anchor::default());
                ("key-value head", (0..nodes.columns).map(label).collect())
            }
            NodeKind::Heads
            | NodeKind::Queries
            | NodeKind::Resid
            | NodeKind::Attn
            | NodeKind::Mlp
            | NodeKind::Neurons => ("head", AxisLabel::heads(nodes.columns)),
        }
    };
    let cell = |layer: usize, column: usize| {
        let node = layer * nodes.columns + column;
        let score = found.scores[node] as f32;
        let mut more = vec![
            ("attributed", score),
            ("with unrelated values", found.control[node] as f32),
        ];
        more.extend(exact.effect(node).map(|effect| ("patched", effect as f32)));
        Cell::of("", score, nodes.anchor(node, first)).more(more)
    };
    let value = "change of the metric, to first order (negative: holds the clean answer up)";
    Grid::of(
        ("layer", AxisLabel::layers(nodes.layers)),
        (axis, columns),
        value,
        cell,
    )
    .around_zero()
}

fn table(
    nodes: &Nodes,
    pairs: &[MeasuredPair],
    found: &NodeScores,
    exact: &Compared,
    top: usize,
) -> Table {
    let mut order: Vec<usize> = (0..nodes.count())
        .filter(|node| nodes.is_there(*node))
        .collect();
    order.sort_by(|a, b| found.scores[*b].abs().total_cmp(&found.scores[*a].abs()));
    let rows = order.into_iter().take(top).map(|node| {
        let (layer, column) = (node / nodes.columns, node % nodes.columns);
        let patched = exact.effect(node).map(|effect| effect as f32);
        let entries = entries![
            layer,
            column,
            found.scores[node] as f32,
            found.control[node] as f32,
            patched,
        ];
        TableRow::at(nodes.anchor(node, &pairs[0]), entries)
    });
    let columns = [
        "layer",
        "neuron",
        "attributed",
        "with unrelated values",
        "patched",
    ];
    Table::of(&columns, rows.collect())
}

fn notes(
    params: &AttributionParams,
    lab: &Lab,
    nodes: &Nodes,
    pairs: &[MeasuredPair],
    found: &NodeScores,
    exact: &Compared,
    seed: u64,
) -> Vec<String> {
    let mean = |of: fn(&MeasuredPair) -> f32| {
        let sum: f64 = pairs.iter().map(|pair| f64::from(of(pair))).sum();
        sum / pairs.len() as f64
    };
    let over = match pairs.len() {
        1 => String::new(),
        n => format!(", mean over {n} pairs; the tokens named are those of the first"),
    };
    let first = &pairs[0];
    let mut notes = vec![
        format!(
            "{}: clean {:.4}, corrupted {:.4}{over}",
            first.metric.in_words(lab),
            mean(|pair| pair.clean),
            mean(|pair| pair.corrupt)
        ),
        format!(
            "each number: what {} of the corrupted run, put into the clean run, would change the metric by, from the slope of the clean run alone{}",
            nodes.kind.site().spec().name,
            if params.fix {
                "; the softmax is recomputed with the corrupted values, and what follows it is the slope"
            } else {
                ""
            }
        ),
    ];
    if params.metric == MetricKind::Difference {
        notes.push(format!(
            "a change by {:+.4} is a logit difference of 0, where neither answer is ahead: what erases all information comes to that, and only what goes beyond it speaks for the other answer",
            -mean(|pair| pair.clean)
        ));
    }
    match exact.in_words(&found.scores) {
        Some(words) => notes.push(format!("{words}; random ones by seed {seed}")),
        None => notes.push(
            "too few nodes were patched to say how well the scores order them: give --exact 10"
                .into(),
        ),
    }
    let wrong = exact.nodes.iter().take(exact.strongest);
    let wrong = wrong
        .filter(|(node, effect)| found.scores[*node] * effect < 0.0)
        .count();
    if exact.strongest > 0 {
        notes.push(format!(
            "of the {} strongest, patching has the other sign in {wrong}",
            exact.strongest
        ));
    }
    let agreement = rank_correlation(
        &found.scores.iter().map(|x| x.abs()).collect::<Vec<_>>(),
        &found.control.iter().map(|x| x.abs()).collect::<Vec<_>>(),
    );
    let size = |list: &[f64]| list.iter().fold(0f64, |most, x| most.max(x.abs()));
    notes.push(format!(
        "control: with the values of {} in place of the corrupted run's, the largest score is {:.4} (here {:.4}), and the sizes of all correlate {} (Spearman): a node that is strong there as well is disturbed by any other text",
        if pairs.len() > 1 { "another pair's corrupted run" } else { "an unrelated text of the same length" },
        size(&found.control),
        size(&found.scores),
        agreement.map_or_else(|| "not at all".into(), |rho| format!("{rho:.2}"))
    ));
    notes.push("a slope knows nothing of what saturates: a head whose attention would move altogether, or a neuron that would switch off, is misjudged (Kramár et al. 2024, 2403.00745, section 3)".into());
    notes
}
