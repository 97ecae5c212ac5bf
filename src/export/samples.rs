//! Figures made by hand, for tests.

use crate::figure::{
    Anchor, AxisLabel, Body, Cell, Check, Curve, Entry, Figure, Graph, GraphEdge, GraphNode, Grid,
    Provenance, PruningStep, Scale, Series, Style, Table, TablePage, TableRow, Text, Unit,
};

/// A provenance with all fields filled in.
pub fn provenance() -> Provenance {
    Provenance {
        model: "demo".into(),
        revision: "3f2a9c".into(),
        dtype: "f32".into(),
        device: "cpu".into(),
        tokens: vec![1, 20, 3],
        edits: vec!["add:calm@resid_post.4*1.5".into()],
        seed: 7,
        parameters: vec![("norm".into(), "own".into())],
        version: "0.1.0".into(),
        texts: std::collections::BTreeMap::new(),
        prompts: Vec::new(),
    }
}

/// A figure with a body.
pub fn figure(body: Body) -> Figure {
    Figure {
        title: "logit lens".into(),
        body,
        notes: vec!["rows use their own norm".into()],
        check: Some(Check {
            error: 1.5e-6,
            tolerance: 1e-3,
        }),
        provenance: provenance(),
    }
}

/// A lens with some layers and positions. Layers in the lower half have low probabilities, those in the upper half high ones.
pub fn lens(layers: usize, positions: usize) -> Figure {
    const WORDS: [&str; 12] = [
        "The",
        "␣capital",
        "␣of",
        "␣France",
        "␣is",
        "␣Paris",
        ",",
        "␣and",
        "␣located",
        "⏎",
        "漢字",
        "⟨e2 96⟩",
    ];
    let cell = |position: usize, layer: usize| {
        let depth = (layer + 1) as f32 / layers as f32;
        let sure = if position % 4 == 3 {
            depth * 0.3
        } else {
            depth * depth * depth
        };
        let word = if depth > 0.6 {
            WORDS[(position + 1) % 12]
        } else {
            WORDS[(position * 5 + layer * 7 + 3) % 12]
        };
        let value = (sure * 0.97).clamp(0.01, 0.99);
        let more = vec![
            (word.to_owned(), value),
            ("␣the".to_owned(), 0.02),
            ("␣a".to_owned(), 0.01),
        ];
        Cell {
            label: word.into(),
            value,
            anchor: Anchor::cell(layer, position),
            more,
            ids: vec![],
        }
    };
    figure(Body::Grid(Grid {
        opening: None,
        also: crate::figure::cell_details::CellDetails::default(),
        row_axis: "layer".into(),
        column_axis: "position".into(),
        value: "probability".into(),
        rows: AxisLabel::layers(layers),
        columns: (0..positions)
            .map(|p| AxisLabel::of(WORDS[p % 12], Anchor::position(p)))
            .collect(),
        cells: (0..positions)
            .map(|p| (0..layers).map(|l| cell(p, l)).collect())
            .collect(),
        scale: Scale::Unit,
    }))
}

/// A difference: signed numbers from -0.8 to 0.8.
pub fn difference(layers: usize, positions: usize) -> Figure {
    let mut out = lens(layers, positions);
    if let Body::Grid(grid) = &mut out.body {
        grid.scale = Scale::Diverging { reach: 0.8 };
        for cell in grid.cells.iter_mut().flatten() {
            cell.value = (cell.value - 0.5) * 1.6;
        }
    }
    out
}

/// A table of neurons: a page for each of three positions.
pub fn table() -> Figure {
    let row = |position: usize, i: usize| TableRow {
        anchor: Anchor::cell(i % 3, position).with(Unit::Neuron(10 + i as u32)),
        entries: vec![
            Entry::Text(format!("{}.{}", i % 3, 10 + i)),
            Entry::Number(3.0 / (i + 1) as f32),
            Entry::Text("capital, of, \"France\"\u{2009}漢".into()),
        ],
        handle: None,
        ids: std::collections::BTreeMap::new(),
    };
    figure(Body::Table(Table {
        columns: vec!["neuron".into(), "activation".into(), "writes".into()],
        pages: (0..3)
            .map(|p| TablePage {
                title: format!("position {p}"),
                anchor: Anchor::position(p),
                rows: (0..20).map(|i| row(p, i)).collect(),
            })
            .collect(),
    }))
}

/// Two lines of prose.
pub fn text() -> Figure {
    figure(Body::Text(Text {
        lines: vec!["It means <Paris> & \"more\".".into(), "Two.".into()],
    }))
}

/// Two curves over six layers, which cross between layers 2 and 3.
pub fn curves() -> Figure {
    let curve = |label: &str, token: u32, values: &[f32]| Curve {
        label: label.into(),
        anchor: Anchor::position(3).with(Unit::Token(token)),
        values: values.to_vec(),
        total: None,
    };
    figure(Body::Series(Series {
        axis: "layer".into(),
        value: "probability".into(),
        points: AxisLabel::layers(6),
        curves: vec![
            curve("␣Paris", 7, &[0.01, 0.02, 0.05, 0.4, 0.7, 0.94]),
            curve("␣Rome", 8, &[0.04, 0.1, 0.3, 0.2, 0.1, 0.02]),
        ],
        scale: Scale::Unit,
        style: Style::Lines,
    }))
}

/// A waterfall of four parts, one of which is negative.
pub fn waterfall() -> Figure {
    let point = |label: &str, layer: Option<usize>| {
        AxisLabel::of(label, layer.map_or(Anchor::default(), Anchor::layer))
    };
    figure(Body::Series(Series {
        axis: "write".into(),
        value: "logit".into(),
        points: vec![
            point("embed", None),
            point("attn 0", Some(0)),
            point("mlp 0", Some(0)),
            point("attn 1", Some(1)),
        ],
        curves: vec![Curve {
            label: "␣Paris".into(),
            anchor: Anchor::position(3).with(Unit::Token(7)),
            values: vec![1.5, 2.5, -3.0, 1.0],
            total: Some(2.0),
        }],
        scale: Scale::Diverging { reach: 3.0 },
        style: Style::Waterfall,
    }))
}

/// The same parts as bars from zero, with those of a second curve.
pub fn bars() -> Figure {
    let mut out = waterfall();
    if let Body::Series(series) = &mut out.body {
        series.style = Style::Bars;
        let mut other = series.curves[0].clone();
        other.label = "␣Rome".into();
        other.values = vec![0.5, f32::MIN_POSITIVE, -1.0, 0.25];
        series.curves.push(other);
    }
    out
}

/// A circuit of three layers: five edges at the step that is shown, three at the one before, and one more at the one after.
pub fn graph() -> Figure {
    let node = |label: &str, row: usize, column: usize, anchor: Anchor| GraphNode {
        label: label.into(),
        row,
        column,
        anchor,
    };
    let edge =
        |name: &str, from: usize, to: usize, part: &str, weight: f32, step: usize| GraphEdge {
            name: name.into(),
            from,
            to,
            part: part.into(),
            weight,
            step,
        };
    let step = |edges: usize, faithfulness: f32| PruningStep {
        edges,
        faithfulness,
        without: 1.0 - faithfulness,
        random_most: 0.125,
        random_least: -0.25,
    };
    let mut rows = vec![AxisLabel::of("input", Anchor::default())];
    rows.extend(AxisLabel::layers(3));
    rows.push(AxisLabel::of("logits", Anchor::default()));
    let columns = ["h0", "h1", "mlp"];
    figure(Body::Graph(Graph {
        rows,
        columns: columns
            .map(|name| AxisLabel::of(name, Anchor::default()))
            .to_vec(),
        weight: "score".into(),
        share: "share of the metric".into(),
        nodes: vec![
            node("input", 0, 2, Anchor::default()),
            node("a0.h1", 1, 1, Anchor::head(0, 1)),
            node("m0", 1, 2, Anchor::layer(0)),
            node("a2.h0", 3, 0, Anchor::head(2, 0)),
            node("logits", 4, 2, Anchor::default()),
        ],
        edges: vec![
            edge("input->m0", 0, 2, "", 4.0, 0),
            edge("m0->a2.h0<q>", 2, 3, "q", 1.5, 0),
            edge("a2.h0->logits", 3, 4, "", -3.0, 0),
            edge("input->a0.h1<k>", 0, 1, "k", 0.5, 1),
            edge("a0.h1->a2.h0<v>", 1, 3, "v", -2.0, 1),
            edge("a0.h1->m0", 1, 2, "", 0.25, 2),
        ],
        steps: vec![step(3, 0.5), step(5, 0.8), step(6, 0.9), step(40, 1.0)],
        shown: 1,
        listed: 3,
    }))
}

/// One of each shape.
pub fn all() -> Vec<Figure> {
    vec![
        lens(4, 5),
        difference(3, 4),
        table(),
        text(),
        lens(0, 0),
        lens(3, 0),
        lens(1, 1),
        curves(),
        waterfall(),
        bars(),
        graph(),
        figure(Body::Graph(Graph::default())),
    ]
}
