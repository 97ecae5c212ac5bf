//! HTML: a figure as a page that needs no other file and runs no script.
//!
//! Invariant: one table for each figure, so that it can be read aloud and pasted; all text is escaped.

use std::fmt::Write as _;

use super::markup::{candidate, escape, paint};
use super::number::{entry_number, spelled};
use super::provenance;
use crate::figure::{Body, Cell, Entry, Figure, Grid, Table};

const STYLE: &str = "body{font:14px/1.45 system-ui,sans-serif;margin:2rem;color:#111;background:#fff}\
    table{border-collapse:collapse;font:12px/1.4 'JetBrains Mono',Menlo,Consolas,monospace;margin:.5rem 0 1rem}\
    td,th{padding:.15rem .5rem;text-align:left;font-weight:normal;white-space:pre}th{color:#555}\
    .n{text-align:right}.wide{overflow-x:auto}small{opacity:.75}\
    .ramp span{display:inline-block;width:.7rem;height:.9rem;vertical-align:middle}\
    dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;color:#555;font-size:12px}dd{margin:0;overflow-wrap:anywhere}\
    caption{text-align:left;font-weight:bold}";

pub(super) fn write(figure: &Figure) -> String {
    let title = escape(&figure.title);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<div class=\"wide\">\n"
    );
    match &figure.body {
        Body::Grid(grid) => write_grid(&mut out, grid),
        Body::Table(table) => write_table(&mut out, table),
        Body::Series(series) => {
            out.push_str(&super::plot::picture(series));
            write_table(&mut out, &series.table());
            let _ = writeln!(out, "<p>{}</p>", escape(&series.value));
        }
        Body::Graph(graph) => {
            out.push_str(&super::graph_plot::picture(graph));
            write_table(&mut out, &graph.path_table(super::text::PATHS));
            write_table(&mut out, &graph.edge_table());
            write_table(&mut out, &graph.step_table());
            let _ = writeln!(out, "<p>{}</p>", escape(&graph.share));
        }
        Body::Text(text) => text.lines.iter().for_each(|line| {
            let _ = writeln!(out, "<p>{}</p>", escape(line));
        }),
    }
    out.push_str("</div>\n<dl>\n");
    for (name, value) in provenance::lines(figure) {
        let _ = writeln!(out, "<dt>{name}</dt><dd>{}</dd>", escape(&value));
    }
    out.push_str("</dl>\n</body>\n</html>\n");
    out
}

fn write_grid(out: &mut String, grid: &Grid) {
    let _ = write!(out, "<table>\n<tr><th>{}</th>", escape(&grid.row_axis));
    for title in &grid.columns {
        let _ = write!(out, "<th scope=\"col\">{}</th>", escape(&title.label));
    }
    out.push_str("</tr>\n");
    for (row, title) in grid.rows.iter().enumerate().rev() {
        let label = escape(&title.label);
        let _ = write!(out, "<tr><th scope=\"row\" class=\"n\">{label}</th>");
        for column in &grid.cells {
            match column.get(row) {
                Some(cell) => write_cell(out, grid, cell),
                None => out.push_str("<td></td>"),
            }
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table>\n<p class=\"ramp\">");
    let (lo, hi) = grid.scale.ends();
    let _ = write!(out, "{} ", spelled(grid.scale, lo));
    for step in 0..16 {
        let at = grid.scale.along(step as f32 / 15.0);
        let back = paint(grid.scale, at).0;
        let _ = write!(out, "<span style=\"background:{back}\"></span>");
    }
    let (most, value) = (spelled(grid.scale, hi), escape(&grid.value));
    let _ = writeln!(out, " {most} {value}</p>");
}

fn write_cell(out: &mut String, grid: &Grid, cell: &Cell) {
    let (back, ink) = paint(grid.scale, cell.value);
    let more: Vec<String> = cell.more.iter().map(candidate).collect();
    let _ = write!(
        out,
        "<td style=\"background:{back};color:{ink}\" title=\"{}\">{} <small>{}</small></td>",
        escape(&more.join("\n")),
        escape(&cell.label),
        spelled(grid.scale, cell.value)
    );
}

fn write_table(out: &mut String, table: &Table) {
    for page in &table.pages {
        let title = escape(&page.title);
        let _ = write!(out, "<table>\n<caption>{title}</caption>\n<tr>");
        for name in &table.columns {
            let _ = write!(out, "<th scope=\"col\">{}</th>", escape(name));
        }
        out.push_str("</tr>\n");
        let whole: Vec<bool> = (0..table.columns_of(page))
            .map(|i| page.is_whole(i))
            .collect();
        for row in &page.rows {
            out.push_str("<tr>");
            for (entry, whole) in row.entries.iter().zip(&whole) {
                let (class, text) = match entry {
                    Entry::Whole(value) => (" class=\"n\"", value.to_string()),
                    Entry::Number(value) => (" class=\"n\"", entry_number(*value, *whole)),
                    Entry::Missing => ("", String::new()),
                    Entry::Text(text) => ("", escape(text)),
                };
                let _ = write!(out, "<td{class}>{text}</td>");
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</table>\n");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::export::samples;

    #[test]
    fn tags_are_balanced_and_nothing_is_loaded() {
        for figure in samples::all() {
            let out = write(&figure);
            for tag in [
                "table", "tr", "td", "th", "p", "span", "dl", "dt", "dd", "body", "html",
            ] {
                let open = out.matches(&format!("<{tag}>")).count()
                    + out.matches(&format!("<{tag} ")).count();
                assert_eq!(open, out.matches(&format!("</{tag}>")).count(), "{tag}");
            }
            assert!(!out.contains("http") && !out.contains("<script"));
        }
    }

    #[test]
    fn the_top_layer_stands_first_and_candidates_are_titles() {
        let out = write(&samples::lens(2, 1));
        let row = |label: &str| out.find(&format!("class=\"n\">{label}</th>")).unwrap();
        assert!(row("1") < row("0"));
        assert!(out.contains("\n␣the 0.0200\n␣a 0.0100\">"), "{out}");
        assert!(out.contains("1.00 probability</p>"));
    }
}
