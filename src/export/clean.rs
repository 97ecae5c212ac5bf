//! A figure whose every word is safe: what formats for people are written from.
//!
//! Invariant: each text of a figure is one line without control, bidi or invisible characters; numbers and places are as
//! they were. The compiler lists the fields: to add one to a figure, spell it here.

use crate::figure::also::{Also, Number, Story};
use crate::figure::{
    Body, Cell, Curve, Entry, Figure, Grid, Header, Page, Provenance, Row, Series, Table, Text,
};
use crate::text;

/// The same figure, safe to show.
pub(super) fn clean(figure: &Figure) -> Figure {
    let Figure {
        title,
        body,
        notes,
        check,
        provenance,
    } = figure;
    Figure {
        title: one(title),
        body: match body {
            Body::Grid(grid) => Body::Grid(clean_grid(grid)),
            Body::Table(table) => Body::Table(clean_table(table)),
            Body::Series(series) => Body::Series(clean_series(series)),
            Body::Text(Text { lines }) => Body::Text(Text { lines: all(lines) }),
        },
        notes: all(notes),
        check: *check,
        provenance: clean_provenance(provenance),
    }
}

/// One safe line.
fn one(words: &str) -> String {
    text::plain(words.replace(['\n', '\r'], " ").as_bytes())
}

fn all(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| one(line)).collect()
}

fn header(Header { label, anchor }: &Header) -> Header {
    Header::of(one(label), *anchor)
}

fn clean_grid(grid: &Grid) -> Grid {
    let Grid {
        row_axis,
        column_axis,
        value,
        rows,
        columns,
        cells,
        scale,
        also,
    } = grid;
    let cell = |cell: &Cell| {
        let Cell {
            label,
            value,
            anchor,
            more,
        } = cell;
        Cell {
            label: one(label),
            value: *value,
            anchor: *anchor,
            more: more.iter().map(|(word, n)| (one(word), *n)).collect(),
        }
    };
    Grid {
        row_axis: one(row_axis),
        column_axis: one(column_axis),
        value: one(value),
        rows: rows.iter().map(header).collect(),
        columns: columns.iter().map(header).collect(),
        cells: cells
            .iter()
            .map(|column| column.iter().map(cell).collect())
            .collect(),
        scale: *scale,
        also: clean_also(also),
    }
}

fn clean_also(also: &Also) -> Also {
    let Also {
        numbers,
        candidates,
        stories,
    } = also;
    Also {
        numbers: numbers
            .iter()
            .map(|number| Number {
                value: one(&number.value),
                ..number.clone()
            })
            .collect(),
        candidates: candidates.as_deref().map(one),
        stories: stories
            .iter()
            .map(|story| Story {
                token: one(&story.token),
                ..story.clone()
            })
            .collect(),
    }
}

fn clean_table(Table { columns, pages }: &Table) -> Table {
    let entry = |entry: &Entry| match entry {
        Entry::Number(number) => Entry::Number(*number),
        Entry::Text(words) => Entry::Text(one(words)),
    };
    let row = |Row { anchor, entries }: &Row| Row {
        anchor: *anchor,
        entries: entries.iter().map(entry).collect(),
    };
    let page = |Page {
                    title,
                    anchor,
                    rows,
                }: &Page| Page {
        title: one(title),
        anchor: *anchor,
        rows: rows.iter().map(row).collect(),
    };
    Table {
        columns: all(columns),
        pages: pages.iter().map(page).collect(),
    }
}

fn clean_series(series: &Series) -> Series {
    let Series {
        axis,
        value,
        points,
        curves,
        scale,
        style,
    } = series;
    let curve = |curve: &Curve| {
        let Curve {
            label,
            anchor,
            values,
            total,
        } = curve;
        Curve {
            label: one(label),
            anchor: *anchor,
            values: values.clone(),
            total: *total,
        }
    };
    Series {
        axis: one(axis),
        value: one(value),
        points: points.iter().map(header).collect(),
        curves: curves.iter().map(curve).collect(),
        scale: *scale,
        style: *style,
    }
}

fn clean_provenance(provenance: &Provenance) -> Provenance {
    let Provenance {
        model,
        revision,
        dtype,
        device,
        tokens,
        edits,
        seed,
        parameters,
        version,
    } = provenance;
    Provenance {
        model: one(model),
        revision: one(revision),
        dtype: one(dtype),
        device: one(device),
        tokens: tokens.clone(),
        edits: all(edits),
        seed: *seed,
        parameters: parameters
            .iter()
            .map(|(name, value)| (one(name), one(value)))
            .collect(),
        version: one(version),
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
