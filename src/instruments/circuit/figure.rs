//! The figures of a circuit: its edges, strongest first, or what circuits of growing size keep.
//!
//! Invariant: both say how much the circuit keeps, how much is left without it, and what random circuits of its size keep. To show something
//! else, add a view.

use super::evaluate::Evaluated;
use super::task::{CircuitTask, Outside};
use super::{CircuitOthers, CircuitParams, CircuitView, FoundCircuit};
use crate::figure::builders::entries;
use crate::figure::{Anchor, AxisLabel, Body, Curve, Scale, Series, Style, Table, TableRow};
use crate::instruments::Draft;
use crate::lab::Lab;
use crate::lab::circuit::graph::{Receiver, Sender};

pub fn draft(
    params: &CircuitParams,
    lab: &Lab,
    outside: &Outside,
    found: &FoundCircuit,
    own: &Evaluated,
    all: &[Evaluated],
    seed: u64,
) -> Draft {
    let task = outside.task;
    let body: Body = match params.show {
        CircuitView::Edges => edges(task, found).into(),
        CircuitView::Curve => curve(all, outside).into(),
    };
    let count = task.graph.edges();
    let title = format!(
        "{} of {count} edges ({:.1} %), faithfulness {:.2}",
        own.edges,
        100.0 * own.edges as f64 / count as f64,
        own.faithfulness
    );
    Draft::of(body)
        .titled(title)
        .notes(notes(params, lab, outside, found, own, seed))
}

fn edges(task: &CircuitTask, found: &FoundCircuit) -> Table {
    let graph = &task.graph;
    let mut order: Vec<usize> = found.edges.iter().collect();
    order.sort_by(|a, b| found.scores[*b].abs().total_cmp(&found.scores[*a].abs()));
    let rows = order.into_iter().enumerate().map(|(place, edge)| {
        let (from, to) = graph.ends(edge);
        let number = found.scores[edge] as f32;
        let entries = entries![place + 1, from.name(), to.name(), number];
        TableRow::at(anchor(from, to), entries)
    });
    Table::of(&["", "from", "to", found.called], rows.collect())
}

/// The place of an edge: the head or MLP that it comes from; of the embedding's, what it leads to.
fn anchor(from: Sender, to: Receiver) -> Anchor {
    match from {
        Sender::Head { layer, head } => Anchor::head(layer, head),
        Sender::Mlp { layer } => Anchor::layer(layer),
        Sender::Embedding => match to {
            Receiver::Query { layer, head } => Anchor::head(layer, head),
            Receiver::Key { layer, .. }
            | Receiver::Value { layer, .. }
            | Receiver::Mlp { layer } => Anchor::layer(layer),
            Receiver::Logits => Anchor::default(),
        },
    }
}

fn curve(all: &[Evaluated], outside: &Outside) -> Series {
    let line = |label: &str, of: &dyn Fn(&Evaluated) -> f64| Curve {
        label: label.into(),
        anchor: Anchor::default(),
        values: all.iter().map(|own| of(own) as f32).collect(),
        total: None,
    };
    let curves = vec![
        line("faithfulness", &|own| own.faithfulness),
        line("without it", &|own| own.without),
        line("random, most", &|own| own.band().1),
        line("random, least", &|own| own.band().0),
    ];
    let numbers = curves.iter().flat_map(|curve| curve.values.iter().copied());
    let numbers = numbers.filter(|number| number.is_finite());
    let (lo, hi) = numbers.fold((0.0f32, 1.0f32), |(lo, hi), x| (lo.min(x), hi.max(x)));
    let points = all
        .iter()
        .map(|own| AxisLabel::of(own.edges.to_string(), Anchor::default()));
    Series {
        axis: "edges".into(),
        value: match outside.texts() {
            None => "share of the metric (0: corrupted, 1: clean)".into(),
            Some(_) => "share of the metric (0: means alone, 1: clean)".into(),
        },
        points: points.collect(),
        curves,
        scale: Scale::Range { lo, hi },
        style: Style::Lines,
    }
}

fn notes(
    params: &CircuitParams,
    lab: &Lab,
    outside: &Outside,
    found: &FoundCircuit,
    own: &Evaluated,
    seed: u64,
) -> Vec<String> {
    let task = outside.task;
    let (value, there, ends) = match outside.texts() {
        None => (
            "at the corrupted run's value".to_string(),
            "with the corrupted run's values elsewhere, not with zeros",
            "corrupted",
        ),
        Some(texts) => (
            format!(
                "at the mean of what its sender writes over the corrupted texts ({texts}; the first position by itself)"
            ),
            "with means elsewhere, not with zeros",
            "means alone",
        ),
    };
    let pairs = match task.pairs.len() {
        1 => String::new(),
        n => format!(", mean over {n} pairs; the tokens named are those of the first"),
    };
    let metric = task.pairs.first().map(|pair| pair.metric.in_words(lab));
    let (least, most) = own.band();
    let mut notes = vec![
        format!(
            "{}: clean {:.4}, corrupted {:.4}{pairs}",
            metric.unwrap_or_default(),
            task.clean,
            task.corrupt
        ),
        format!(
            "faithfulness {:.3}: with every edge outside the circuit {value} the metric is {:.4} (0: {ends}, 1: clean); with the circuit's own edges there instead, {:.3} is left",
            own.faithfulness, own.metric, own.without
        ),
        format!(
            "control: {} random circuits with as many edges into every block keep {least:.3} to {most:.3} (seeds {seed} to {})",
            own.random.len(),
            seed.wrapping_add(own.random.len() as u64 - 1)
        ),
    ];
    if outside.texts().is_some() {
        notes.push(format!(
            "with means alone, without any edge, the metric is {:.4}",
            outside.nothing
        ));
    }
    notes.extend(found.notes.clone());
    if params.load.is_none() && found.called == "score" {
        let value = match params.others {
            CircuitOthers::Corrupted => "the corrupted value",
            CircuitOthers::Mean => "the mean",
        };
        notes.push(format!("score: what the metric changes by, to first order, if this edge alone has {value}; negative: the edge holds the clean answer up"));
    }
    if params.show == CircuitView::Curve && found.called == "loss" {
        notes.push("the curve goes by what each edge took from the metric when ACDC tried it; edges that were removed come last, in no order".into());
    }
    if task.graph.kv_heads < task.graph.heads {
        notes.push(format!(
            "keys and values are shared: a head's <k> and <v> are those of a group of {} heads",
            task.graph.heads / task.graph.kv_heads
        ));
    }
    notes.push(format!("a circuit is made for these pairs and this metric: other texts may take other ways, and what it keeps is measured {there}"));
    notes
}
