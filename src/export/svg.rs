//! SVG: a figure as a picture, with its legend and provenance.
//!
//! Invariant: no scripts, no other files, all text escaped; the provenance is also in `<desc>`, for programs.

use std::fmt::Write as _;

use super::markup::{candidate, escape, paint};
use super::number::{entry_number, spelled};
use super::provenance;
use super::screen::FONTS;
use crate::figure::{Body, Entry, Figure, Grid, Scale, Table, TableRow};
use crate::text::{clip, width};

/// The width of a grid cell, in characters, and the size of a character.
const TOKEN: usize = 10;
const CHAR: f32 = 7.2;
const LINE: f32 = 18.0;
const MARGIN: f32 = 16.0;

/// A drawing to which lines are added at the bottom.
struct SvgPage {
    body: String,
    wide: f32,
    y: f32,
}

impl SvgPage {
    /// A drawing of its own below what is there.
    fn embed(&mut self, body: &str, wide: f32, high: f32) {
        self.wide = self.wide.max(wide);
        let _ = writeln!(
            self.body,
            "<g transform=\"translate({MARGIN:.1} {:.1})\">\n{body}</g>",
            self.y
        );
        self.y += high;
    }

    /// Writes a line of text at a column, in characters.
    fn text(&mut self, x: f32, text: &str, style: &str) {
        if !text.trim().is_empty() {
            let (x, y) = (MARGIN + x, self.y + LINE - 5.0);
            let _ = writeln!(
                self.body,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{}</text>",
                escape(text)
            );
        }
        self.wide = self.wide.max(x + width(text) as f32 * CHAR);
    }

    /// Paints a box on the current line.
    fn fill(&mut self, x: f32, wide: f32, color: impl std::fmt::Display, hover: &str) {
        let (x, y) = (MARGIN + x, self.y);
        let title = if hover.is_empty() {
            String::new()
        } else {
            format!("<title>{}</title>", escape(hover))
        };
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{wide:.1}\" height=\"{LINE}\" fill=\"{color}\">{title}</rect>"
        );
        self.wide = self.wide.max(x - MARGIN + wide);
    }
}

pub(super) fn write(figure: &Figure) -> String {
    let mut page = SvgPage {
        body: String::new(),
        wide: 480.0,
        y: MARGIN,
    };
    page.text(0.0, &figure.title, "font-weight=\"bold\"");
    page.y += LINE * 1.5;
    match &figure.body {
        Body::Grid(grid) => draw_grid(&mut page, grid),
        Body::Table(table) => draw_table(&mut page, table),
        Body::Series(series) => {
            let plot = super::plot::Plot::new(series);
            page.embed(&plot.body, plot.wide, plot.high);
        }
        Body::Graph(graph) => {
            let plot = super::graph_plot::draw(graph);
            page.embed(&plot.body, plot.wide, plot.high);
        }
        Body::Text(text) => {
            for line in &text.lines {
                page.text(0.0, line, "");
                page.y += LINE;
            }
        }
    }
    page.y += LINE / 2.0;
    let facts = provenance::lines(figure).into_iter();
    let facts: Vec<String> = facts
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    for fact in &facts {
        let quiet = "fill=\"#666666\" font-size=\"10\"";
        page.text(0.0, &clip(fact, 110), quiet);
        page.y += LINE * 0.75;
    }
    let (wide, high) = (page.wide + 2.0 * MARGIN, page.y + MARGIN);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {wide:.0} {high:.0}\" width=\"{wide:.0}\" height=\"{high:.0}\" \
         font-family=\"{FONTS}\" font-size=\"12\" fill=\"#111111\" xml:space=\"preserve\">\n<title>{}</title>\n<desc>{}</desc>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{}</svg>\n",
        escape(&figure.title),
        escape(&facts.join("\n")),
        page.body
    )
}

fn draw_grid(page: &mut SvgPage, grid: &Grid) {
    let titles = grid.title_width().max(width(&grid.row_axis));
    let left = (titles + 1) as f32 * CHAR;
    let cell = TOKEN as f32 * CHAR + 6.0;
    page.text(0.0, &grid.row_axis, "fill=\"#666666\"");
    for (i, title) in grid.columns.iter().enumerate() {
        let x = left + i as f32 * cell + 3.0;
        page.text(x, &clip(&title.label, TOKEN), "fill=\"#666666\"");
    }
    page.y += LINE;
    for (row, title) in grid.rows.iter().enumerate().rev() {
        let pad = titles - width(&title.label).min(titles);
        page.text(pad as f32 * CHAR, &title.label, "fill=\"#666666\"");
        for (i, column) in grid.cells.iter().enumerate() {
            let Some(cell_here) = column.get(row) else {
                continue;
            };
            let (back, ink) = paint(grid.scale, cell_here.value);
            let x = left + i as f32 * cell;
            let value = spelled(grid.scale, cell_here.value);
            let mut hover = vec![format!("{} {value}", cell_here.label)];
            hover.extend(cell_here.more.iter().map(candidate));
            page.fill(x, cell, back, &hover.join("\n"));
            let shown = if cell_here.label.is_empty() {
                value
            } else {
                clip(&cell_here.label, TOKEN)
            };
            let style = format!("fill=\"{ink}\" pointer-events=\"none\"");
            page.text(x + 3.0, &shown, &style);
        }
        page.y += LINE;
    }
    page.y += LINE / 2.0;
    draw_legend(page, grid.scale, &grid.value);
}

fn draw_legend(page: &mut SvgPage, scale: Scale, value: &str) {
    let (lo, hi) = scale.ends();
    let text = spelled(scale, lo);
    page.text(0.0, &text, "");
    let start = (text.len() + 1) as f32 * CHAR;
    for step in 0..16 {
        let at = scale.along(step as f32 / 15.0);
        page.fill(start + step as f32 * 8.0, 8.0, paint(scale, at).0, "");
    }
    let text = format!("{} {value}", spelled(scale, hi));
    page.text(start + 16.0 * 8.0 + CHAR, &text, "");
    page.y += LINE;
}

fn draw_table(page: &mut SvgPage, table: &Table) {
    let blank = (false, String::new());
    for one in &table.pages {
        page.text(0.0, &one.title, "font-weight=\"bold\"");
        page.y += LINE;
        let count = table.columns_of(one);
        let mut x = 0.0;
        let top = page.y;
        for i in 0..count {
            let name = table.columns.get(i).map_or("", String::as_str);
            let whole = one.is_whole(i);
            let entry_text = |entry: &Entry| match entry {
                Entry::Whole(value) => (true, value.to_string()),
                Entry::Number(value) => (true, entry_number(*value, whole)),
                Entry::Missing => (true, String::new()),
                Entry::Text(text) => (false, clip(text, 60)),
            };
            let text = |row: &TableRow| row.entries.get(i).map_or(blank.clone(), entry_text);
            let texts: Vec<(bool, String)> = one.rows.iter().map(text).collect();
            let widths = texts.iter().map(|(_, text)| width(text));
            let wide = widths.max().unwrap_or(0).max(width(name));
            page.y = top;
            page.text(x, name, "fill=\"#666666\"");
            for (number, text) in &texts {
                page.y += LINE;
                let pad = if *number { wide - width(text) } else { 0 };
                page.text(x + pad as f32 * CHAR, text, "");
            }
            x += (wide + 2) as f32 * CHAR;
        }
        page.y = top + (one.rows.len() + 1) as f32 * LINE + LINE / 2.0;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::export::samples;

    #[test]
    fn a_rectangle_a_cell_with_its_candidates_and_a_legend() {
        let out = write(&samples::lens(3, 4));
        assert_eq!(out.matches("<rect").count(), 1 + 12 + 16);
        assert!(out.contains("␣the 0.02"), "runners-up on hover");
        assert!(out.contains(">1.00 probability</text>"));
        let y = |label: &str| -> f32 {
            let line = out
                .lines()
                .find(|l| l.contains("#666666") && l.ends_with(&format!(">{label}</text>")))
                .unwrap();
            line.split("y=\"")
                .nth(1)
                .unwrap()
                .split('"')
                .next()
                .unwrap()
                .parse()
                .unwrap()
        };
        assert!(y("2") < y("1") && y("1") < y("0"), "layer 0 at the bottom");
    }

    #[test]
    fn tags_are_closed_and_everything_lies_inside() {
        for figure in samples::all() {
            let out = write(&figure);
            for tag in ["rect", "text", "title", "desc", "svg"] {
                let closed = out.matches(&format!("</{tag}>")).count() + usize::from(tag == "rect");
                assert_eq!(out.matches(&format!("<{tag}")).count(), closed, "{tag}");
            }
            let number = |from: &str| {
                from.split('"')
                    .next()
                    .unwrap()
                    .parse::<f32>()
                    .unwrap_or(0.0)
            };
            let wide = number(out.split("width=\"").nth(1).unwrap());
            assert!(
                out.split("<text x=\"")
                    .skip(1)
                    .all(|part| number(part) < wide)
            );
            let groups = out.matches("<g ").count();
            assert_eq!(groups, out.matches("</g>").count());
        }
    }
}
