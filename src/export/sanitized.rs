//! A figure with all text made safe to show, from which the formats for people are written.
//!
//! Invariant: each text of a figure becomes one line without control, bidi or invisible characters; numbers and anchors are
//! unchanged. The compiler lists the fields: to add one to a figure, make it safe here.

use crate::figure::cell_details::{CellDetails, Number, RankStory};
use crate::figure::{
    AxisLabel, Body, Cell, Curve, Entry, Figure, GivenPrompt, Graph, GraphEdge, GraphNode, Grid,
    Provenance, Series, Table, TablePage, TableRow, Text,
};
use crate::text;

/// The figure with every text made safe to show.
pub(super) fn clean(figure: &Figure) -> Figure {
    let mut figure = figure.clone();
    let Figure {
        title,
        body,
        notes,
        check: _,
        provenance,
    } = &mut figure;
    one(title);
    match body {
        Body::Grid(grid) => clean_grid(grid),
        Body::Table(table) => clean_table(table),
        Body::Series(series) => clean_series(series),
        Body::Graph(graph) => clean_graph(graph),
        Body::Text(Text { lines }) => all(lines),
    }
    all(notes);
    clean_provenance(provenance);
    figure
}

/// Makes a text one safe line.
fn one(words: &mut String) {
    *words = text::plain(words.replace(['\n', '\r'], " ").as_bytes());
}

fn all<'a>(lines: impl IntoIterator<Item = &'a mut String>) {
    lines.into_iter().for_each(one);
}

fn headers(headers: &mut [AxisLabel]) {
    for AxisLabel { label, anchor: _ } in headers {
        one(label);
    }
}

fn clean_grid(grid: &mut Grid) {
    let Grid {
        row_axis,
        column_axis,
        value,
        rows,
        columns,
        cells,
        scale: _,
        also,
        opening,
    } = grid;
    all([row_axis, column_axis, value]);
    all(opening.iter_mut().map(|opening| &mut opening.why));
    headers(rows);
    headers(columns);
    for cell in cells.iter_mut().flatten() {
        let Cell {
            label,
            value: _,
            anchor: _,
            more,
            ids: _,
        } = cell;
        one(label);
        all(more.iter_mut().map(|(word, _)| word));
    }
    let CellDetails {
        numbers,
        candidates,
        stories,
    } = also;
    all(numbers.iter_mut().map(|Number { value, .. }| value));
    all(candidates);
    all(stories.iter_mut().map(|RankStory { token, .. }| token));
}

fn clean_table(Table { columns, pages }: &mut Table) {
    all(columns);
    for page in pages {
        let TablePage {
            title,
            anchor: _,
            rows,
        } = page;
        one(title);
        for TableRow {
            anchor: _,
            entries,
            // Names and numbers, for edits: nothing shows them.
            handle: _,
            ids: _,
        } in rows
        {
            for entry in entries {
                match entry {
                    Entry::Whole(_) | Entry::Number(_) | Entry::Missing => {}
                    Entry::Text(words) => one(words),
                }
            }
        }
    }
}

fn clean_series(series: &mut Series) {
    let Series {
        axis,
        value,
        points,
        curves,
        scale: _,
        style: _,
    } = series;
    all([axis, value]);
    headers(points);
    for curve in curves {
        let Curve {
            label,
            anchor: _,
            values: _,
            total: _,
        } = curve;
        one(label);
    }
}

fn clean_graph(graph: &mut Graph) {
    let Graph {
        rows,
        columns,
        weight,
        share,
        nodes,
        edges,
        steps: _,
        shown: _,
        listed: _,
    } = graph;
    headers(rows);
    headers(columns);
    all([weight, share]);
    for node in nodes {
        let GraphNode {
            label,
            row: _,
            column: _,
            anchor: _,
        } = node;
        one(label);
    }
    for edge in edges {
        let GraphEdge {
            name,
            from: _,
            to: _,
            part,
            weight: _,
            step: _,
        } = edge;
        all([name, part]);
    }
}

fn clean_provenance(provenance: &mut Provenance) {
    let Provenance {
        model,
        revision,
        dtype,
        device,
        tokens: _,
        edits,
        seed: _,
        parameters,
        version,
        texts,
        prompts,
    } = provenance;
    all([model, revision, dtype, device, version]);
    all(edits);
    all(texts.values_mut().flatten());
    for prompt in prompts {
        match prompt {
            GivenPrompt::Text(text) | GivenPrompt::Chat(text) => one(text),
            GivenPrompt::Messages(turns) => turns
                .iter_mut()
                .for_each(|turn| all([&mut turn.role, &mut turn.content])),
        }
    }
    for (name, value) in parameters {
        all([name, value]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::samples;

    #[test]
    fn what_is_safe_already_stays_as_it_is() {
        for figure in samples::all() {
            assert_eq!(clean(&figure), figure);
        }
    }
}
