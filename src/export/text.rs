//! Plain text: what the command line prints.
//!
//! Invariant: columns are aligned by terminal width; no colour, ever. Wide grids are split into blocks below each other.

use std::cmp::Ordering;
use std::fmt::Write as _;

use super::number::{entry_number, significant, spelled};
use super::provenance;
use crate::figure::{
    Body, Cell, Entry, Figure, Graph, Grid, OpeningRows, Scale, Series, Style, Table,
};
use crate::text::{clip, width};

/// The width of a block of a grid, in columns.
const WIDE: usize = 100;
/// The longest token in a grid; longer ones are cut with `…`.
const TOKEN: usize = 14;
/// The longest text in a table; in its last column, after which nothing is aligned, a text is whole.
const ENTRY: usize = 60;
/// How many paths of a graph are listed.
pub(super) const PATHS: usize = 10;
/// The width of the longest bar, in columns.
const BAR: usize = 40;

pub(super) fn write(figure: &Figure) -> String {
    let from = &figure.provenance;
    let mut out = format!("{}\n", figure.title);
    // A figure of weights alone, or of a file of prompts, has no text of its own.
    let tokens = match from.tokens.len() {
        0 => String::new(),
        count => format!(" · {count} tokens"),
    };
    let _ = writeln!(
        out,
        "model {} · revision {} · {} · {}{tokens} · seed {} · lmscope {}",
        from.model, from.revision, from.dtype, from.device, from.seed, from.version
    );
    for (name, value) in provenance::lines(figure) {
        if matches!(name, "edits" | "parameters" | "check") {
            let _ = writeln!(out, "{name} {value}");
        }
    }
    out.push('\n');
    match &figure.body {
        Body::Grid(grid) => write_grid(&mut out, grid),
        Body::Table(table) => write_table(&mut out, table),
        Body::Series(series) => write_series(&mut out, series),
        Body::Graph(graph) => write_graph(&mut out, graph),
        Body::Text(text) => text.lines.iter().for_each(|line| {
            let _ = writeln!(out, "{line}");
        }),
    }
    if !figure.notes.is_empty() {
        out.push('\n');
        for note in &figure.notes {
            let _ = writeln!(out, "note: {note}");
        }
    }
    out
}

/// One line for each row, the first row at the bottom; a column is as wide as its widest cell.
fn write_grid(out: &mut String, grid: &Grid) {
    let titles = grid.title_width().max(width(&grid.row_axis));
    let shown = |row: usize| {
        let some = grid.opening.as_ref();
        some.is_none_or(|opening| opening.rows.binary_search(&row).is_ok())
    };
    let number = |cell: &Cell| spell(grid.scale, cell.value);
    let words = |cell: &Cell| clip(&cell.label, TOKEN);
    // (token columns, number columns, whole column)
    let sizes: Vec<(usize, usize, usize)> = grid
        .columns
        .iter()
        .zip(&grid.cells)
        .map(|(title, cells)| {
            let seen = || {
                cells
                    .iter()
                    .enumerate()
                    .filter(|(row, _)| shown(*row))
                    .map(|(_, cell)| cell)
            };
            let token = widest(seen().map(words));
            let value = widest(seen().map(number));
            let whole = token + usize::from(token > 0 && value > 0) + value;
            (token, value, whole.max(width(&clip(&title.label, TOKEN))))
        })
        .collect();
    let mut start = 0;
    while start < sizes.len() {
        let mut end = start;
        let mut used = titles;
        while end < sizes.len() && (end == start || used + 2 + sizes[end].2 <= WIDE) {
            used += 2 + sizes[end].2;
            end += 1;
        }
        if start > 0 {
            out.push('\n');
        }
        if start > 0 || end < sizes.len() {
            let _ = writeln!(out, "{}", grid.part(start..end));
        }
        let mut line = pad(&grid.row_axis, titles);
        for (title, size) in grid.columns.iter().zip(&sizes).take(end).skip(start) {
            line.push_str("  ");
            line.push_str(&pad(&clip(&title.label, TOKEN), size.2));
        }
        push_line(out, &line);
        let rows = grid.rows.iter().enumerate().rev();
        for (row, title) in rows.filter(|(row, _)| shown(*row)) {
            let mut line = right(&title.label, titles);
            for (cells, (token, value, whole)) in
                grid.cells.iter().zip(&sizes).take(end).skip(start)
            {
                let text = cells.get(row).map_or_else(String::new, |cell| {
                    let gap = if *token > 0 { " " } else { "" };
                    let words = pad(&words(cell), *token);
                    format!("{words}{gap}{}", right(&number(cell), *value))
                });
                line.push_str("  ");
                line.push_str(&pad(&text, *whole));
            }
            push_line(out, &line);
        }
        start = end;
    }
    if sizes.is_empty() {
        out.push_str("(no columns)\n");
    }
    if let Some(OpeningRows { rows, why }) = &grid.opening {
        let (some, all) = (rows.len(), grid.rows.len());
        let _ = writeln!(
            out,
            "{some} of {all} rows: {why}; the screen, --format csv and the others have all"
        );
    }
    let _ = writeln!(out, "numbers: {}", grid.value);
}

fn spell(scale: Scale, value: f32) -> String {
    match scale {
        Scale::Unit => format!("{value:.2}"),
        Scale::Diverging { .. } => format!("{value:+.2}"),
        Scale::Range { .. } => significant(value),
        Scale::Rank { .. } => spelled(scale, value),
    }
}

fn write_table(out: &mut String, table: &Table) {
    for (i, page) in table.pages.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if !page.title.is_empty() {
            push_line(out, &page.title);
        }
        let count = table.columns_of(page);
        let whole: Vec<bool> = (0..count).map(|i| page.is_whole(i)).collect();
        let entry_text = |(i, entry): (usize, &Entry)| match entry {
            Entry::Whole(value) => value.to_string(),
            Entry::Number(value) => entry_number(*value, whole[i]),
            Entry::Missing => String::new(),
            Entry::Text(text) if i + 1 == count => text.clone(),
            Entry::Text(text) => clip(text, ENTRY),
        };
        let column = |i: usize| page.rows.iter().filter_map(move |row| row.entries.get(i));
        let texts = |i: usize| column(i).map(move |entry| entry_text((i, entry)));
        let shape: Vec<(usize, bool)> = (0..count)
            .map(|i| {
                let name = table.columns.get(i).map_or(0, |name| width(name));
                let numbers = column(i).next().is_some() && column(i).all(Entry::is_number);
                (name.max(widest(texts(i))), numbers)
            })
            .collect();
        let line = |texts: &mut dyn Iterator<Item = String>| {
            let cells = texts.zip(&shape).map(|(text, (wide, number))| {
                let put = if *number { right } else { pad };
                put(&text, *wide)
            });
            cells.collect::<Vec<_>>().join("  ")
        };
        push_line(out, &line(&mut table.columns.iter().cloned()));
        for row in &page.rows {
            let entries = row.entries.iter().enumerate();
            let mut texts = entries.map(entry_text);
            push_line(out, &line(&mut texts));
        }
    }
}

/// The numbers as a table, with bars if there is a single curve.
fn write_series(out: &mut String, series: &Series) {
    let mut table = series.table();
    if series.curves.len() == 1 {
        let (lo, hi) = series.value_range(0);
        let steps = series.curves[0].steps();
        let at = |value: f32| {
            ((value - lo) / (hi - lo) * BAR as f32)
                .round()
                .clamp(0.0, BAR as f32) as usize
        };
        let bar = |from: f32, to: f32| {
            let (start, end) = (at(from.min(to)), at(from.max(to)));
            let glyph = if to < from { "▒" } else { "█" };
            // The smallest part is still visible; NaN has no bar.
            let differs = from.partial_cmp(&to).is_some_and(Ordering::is_ne);
            let long = (end - start).max(usize::from(differs));
            format!("{}{}", " ".repeat(start.min(BAR - 1)), glyph.repeat(long))
        };
        let zero = 0.0f32.clamp(lo, hi);
        let pages = table.pages.iter_mut().flat_map(|page| &mut page.rows);
        for (point, row) in pages.enumerate() {
            let drawn = match (series.style, steps.get(point), series.value(0, point)) {
                (Style::Lines | Style::Bars, _, Some(value)) => bar(zero, value),
                (Style::Waterfall, Some(step), Some(_)) => bar(step.0, step.1),
                (Style::Waterfall, None, _) => series.curves[0]
                    .total
                    .map_or_else(String::new, |total| bar(zero, total)),
                (_, _, None) => String::new(),
            };
            row.entries.push(Entry::Text(drawn));
        }
        table.columns.push(String::new());
    }
    write_table(out, &table);
    if series.points.is_empty() {
        out.push_str("(no points)\n");
    }
    let _ = writeln!(out, "numbers: {}", series.value);
}

/// The strongest paths, the edges that the shown step keeps, and what every step keeps.
fn write_graph(out: &mut String, graph: &Graph) {
    let _ = writeln!(
        out,
        "strongest paths, by the smallest |{}| along them",
        graph.weight
    );
    // Not as a table, whose entries are cut.
    for path in graph.strongest_paths(PATHS, None) {
        let strength = significant(path.strength());
        let _ = writeln!(out, "{strength:>8}  {}", graph.path_words(&path));
    }
    out.push_str("\nedges\n");
    write_table(out, &graph.edge_table());
    out.push_str("\npruning\n");
    write_table(out, &graph.step_table());
    let _ = writeln!(out, "numbers: {}", graph.share);
}

fn widest(texts: impl Iterator<Item = String>) -> usize {
    texts.map(|text| width(&text)).max().unwrap_or(0)
}

fn push_line(out: &mut String, line: &str) {
    out.push_str(line.trim_end());
    out.push('\n');
}

fn pad(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

fn right(text: &str, columns: usize) -> String {
    format!("{}{text}", " ".repeat(columns.saturating_sub(width(text))))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::export::samples;
    use crate::figure::{Anchor, AxisLabel, TableRow};

    #[test]
    fn a_grid_opens_with_some_rows_and_says_which() {
        let rows = (0..4).map(|h| AxisLabel::of(format!("0.{h}"), Anchor::default()));
        let columns = vec![AxisLabel::token("a".into(), 0)];
        let mut grid = Grid::of(
            ("head", rows.collect()),
            ("position", columns),
            "share",
            |row, _| Cell::of(format!("word{row}"), 0.5, Anchor::default()),
        );
        let mut all = String::new();
        write_grid(&mut all, &grid);
        grid.opening = Some(OpeningRows {
            rows: vec![1, 3],
            why: "the largest".into(),
        });
        let mut some = String::new();
        write_grid(&mut some, &grid);
        for row in 0..4 {
            assert!(all.contains(&format!("word{row}")));
            assert_eq!(some.contains(&format!("word{row}")), row % 2 == 1, "{some}");
        }
        assert!(some.contains("2 of 4 rows: the largest"), "{some}");
    }

    #[test]
    fn the_last_column_of_a_table_is_whole() {
        let long = "word ".repeat(40);
        let row = TableRow::at(
            Anchor::default(),
            vec![long.clone().into(), long.clone().into()],
        );
        let mut figure = samples::text();
        figure.body = Table::of(&["first", "last"], vec![row]).into();
        let out = write(&figure);
        let line = out.lines().find(|line| line.starts_with("word")).unwrap();
        assert!(
            line.contains('…') && line.ends_with(long.trim_end()),
            "{line}"
        );
        assert!(width(line) < ENTRY + 2 + width(&long), "{line}");
    }

    #[test]
    fn a_lens_reads_from_the_top() {
        let out = write(&samples::lens(2, 3));
        let want = "\
logit lens
model demo · revision 3f2a9c · f32 · cpu · 3 tokens · seed 7 · lmscope 0.1.0
edits add:calm@resid_post.4*1.5
parameters norm=own
check passed: largest difference 1.5e-6, tolerated 1.0e-3

layer  The            ␣capital       ␣of
    1  ␣capital 0.97  ␣of      0.97  ␣France 0.97
    0  ␣France  0.12  ␣located 0.12  ␣capital 0.12
numbers: probability

note: rows use their own norm
";
        // Only the format is compared with the sample, not the numbers.
        let shape = |text: &str| {
            text.lines()
                .map(|l| l.chars().position(|c| c == '0'))
                .collect::<Vec<_>>()
        };
        assert_eq!(shape(&out)[..6], shape(want)[..6], "{out}");
        assert_eq!(out.lines().count(), want.lines().count());
        assert!(
            out.lines()
                .nth(7)
                .unwrap()
                .starts_with("    1  ␣capital 0.97  ␣of"),
            "{out}"
        );
        assert!(out.ends_with("numbers: probability\n\nnote: rows use their own norm\n"));
    }

    #[test]
    fn columns_line_up_by_terminal_width() {
        let out = write(&samples::lens(6, 6));
        let lines: Vec<&str> = out.lines().skip(7).take(6).collect();
        let ends = |line: &str| -> Vec<usize> {
            line.match_indices('.')
                .map(|(at, _)| width(&line[..at]))
                .collect()
        };
        assert!(lines.iter().all(|line| ends(line).len() == 6));
        assert!(
            lines.iter().all(|line| ends(line) == ends(lines[0])),
            "{out}"
        );
    }

    #[test]
    fn wide_grids_go_on_below_and_nothing_is_lost() {
        let out = write(&samples::lens(2, 30));
        assert!(out.lines().all(|line| width(line) <= WIDE), "{out}");
        assert!(
            out.contains("position 0-") && out.contains("-29 of 0-29"),
            "{out}"
        );
        let layer0: usize = out
            .lines()
            .filter(|l| l.starts_with("    0  "))
            .map(|l| l.matches(" 0.").count())
            .sum();
        assert_eq!(layer0, 30, "{out}");
    }

    #[test]
    fn curves_stand_side_by_side_and_a_single_one_has_bars() {
        let out = write(&samples::curves());
        assert!(
            out.contains("layer  ␣Paris   ␣Rome\n0      0.0100  0.0400\n"),
            "{out}"
        );
        assert!(!out.contains('█') && out.contains("numbers: probability"));
        let out = write(&samples::waterfall());
        let line = |name: &str| out.lines().find(|l| l.starts_with(name)).unwrap();
        let bar = |name: &str| {
            let text = line(name);
            let start = text.find(['█', '▒']).unwrap();
            let count = text[start..].chars().count();
            (width(&text[..start]), count)
        };
        assert!(line("mlp 0").contains('▒'), "a part that takes away");
        let (embed, attn, mlp) = (bar("embed"), bar("attn 0"), bar("mlp 0"));
        assert_eq!(
            embed.0 + embed.1,
            attn.0,
            "a part begins where the one before ended: {out}"
        );
        assert_eq!(
            attn.0 + attn.1,
            mlp.0 + mlp.1,
            "and a part that takes away ends there"
        );
        assert_eq!(bar("total").0, embed.0);
        assert!(line("total").contains("2.00"), "{out}");
    }

    #[test]
    fn a_graph_is_its_paths_its_edges_and_its_steps() {
        let out = write(&samples::graph());
        let paths = "    1.50  input -> m0 -> a2.h0<q> -> logits\n   0.500  input -> a0.h1<k> -> a2.h0<v> -> logits\n";
        assert!(out.contains(paths), "{out}");
        let lines: Vec<Vec<&str>> = out
            .lines()
            .map(|l| l.split_whitespace().collect())
            .collect();
        assert!(
            lines.contains(&vec!["1", "input", "m0", "4.00", "3"]),
            "{out}"
        );
        assert!(
            lines.contains(&vec!["3", "a0.h1", "a2.h0<v>", "-2.00", "5"]),
            "{out}"
        );
        assert!(
            lines.contains(&vec!["5", "0.800", "0.200", "0.125", "-0.250", "yes"]),
            "{out}"
        );
        assert!(!out.contains("a0.h1   m0"), "an edge of a larger step");
    }

    #[test]
    fn a_table_is_aligned_with_numbers_to_the_right() {
        let out = write(&samples::table());
        assert!(out.contains("position 2\nneuron  activation  writes\n0.10          3.00  capital, of, \"France\""), "{out}");
        assert!(out.contains("1.11          1.50"));
    }
}
