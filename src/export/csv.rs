//! CSV in long form: one number in each line, so that any spreadsheet or data frame can pivot it.
//!
//! Invariant: data lines have as many fields as the header; provenance is in `# ` lines before it. A text cell that a
//! spreadsheet would run as a formula begins with an apostrophe, which spreadsheets interpret as "this is text".

use std::fmt::Write as _;

use super::provenance;
use crate::figure::{Anchor, Body, Entry, Figure, Graph, Grid, Series, Style, Table, Unit};

pub(super) fn write(figure: &Figure) -> String {
    let mut out = String::new();
    for (name, value) in provenance::lines(figure) {
        comment(&mut out, name, &value);
    }
    match &figure.body {
        Body::Grid(grid) => write_grid(&mut out, grid),
        Body::Table(table) => write_table(&mut out, table),
        Body::Series(series) => write_series(&mut out, series),
        Body::Graph(graph) => write_graph(&mut out, graph),
        Body::Text(text) => {
            out.push_str("line,text\n");
            for (i, line) in text.lines.iter().enumerate() {
                record(&mut out, &[i.to_string(), line.clone()]);
            }
        }
    }
    out
}

/// One line for each candidate, from rank 1 on. If the cell's own number is not that of the first candidate (another number is
/// shown, or a difference), the cell comes first as rank 0.
fn write_grid(out: &mut String, grid: &Grid) {
    out.push_str("row,column,layer,position,unit,rank,token,value\n");
    for (column, cells) in grid.columns.iter().zip(&grid.cells) {
        for (row, cell) in grid.rows.iter().zip(cells) {
            let own = (cell.label.clone(), cell.value);
            let itself = cell.more.first().is_some_and(|(token, value)| {
                let same = *token == own.0 && value.to_bits() == own.1.to_bits();
                same && grid.shows_candidates()
            });
            // Without candidates, the cell itself is the first candidate.
            let first = usize::from(itself || cell.more.is_empty());
            let own = (!itself).then_some(&own);
            for (i, (token, value)) in own.into_iter().chain(&cell.more).enumerate() {
                let mut fields = vec![row.label.clone(), column.label.clone()];
                fields.extend(anchor_columns(cell.anchor));
                fields.extend([(first + i).to_string(), token.clone(), value.to_string()]);
                record(out, &fields);
            }
        }
    }
}

fn write_table(out: &mut String, table: &Table) {
    let columns = table.pages.iter().map(|page| table.columns_of(page));
    let columns = columns.max().unwrap_or(table.columns.len());
    let mut header: Vec<String> = ["page", "layer", "position", "unit"]
        .map(str::to_owned)
        .to_vec();
    for i in 0..columns {
        let name = table.columns.get(i).cloned().unwrap_or_default();
        header.push(another_than(&header, name));
    }
    record(out, &header);
    for page in &table.pages {
        for row in &page.rows {
            let mut fields = vec![page.title.clone()];
            fields.extend(anchor_columns(row.anchor));
            fields.extend(
                (0..columns).map(|i| row.entries.get(i).map_or_else(String::new, Entry::exact)),
            );
            record(out, &fields);
        }
    }
}

/// The name of a column, with a number behind it where one before it has the same: readers know columns by their names.
fn another_than(taken: &[String], name: String) -> String {
    let mut numbered = (2..).map(|n| format!("{name} {n}"));
    if taken.contains(&name) {
        numbered.find(|n| !taken.contains(n)).unwrap_or(name)
    } else {
        name
    }
}

/// One line for each point of a curve; the value is empty if the point was not measured, and the last line of a waterfall's
/// curve is its total.
fn write_series(out: &mut String, series: &Series) {
    out.push_str("curve,point,layer,position,unit,value\n");
    for (c, curve) in series.curves.iter().enumerate() {
        let mut line = |point: &str, anchor: Anchor, value: Option<f32>| {
            let [layer, position, unit] = anchor_columns(anchor);
            let value = value.map(|v| v.to_string()).unwrap_or_default();
            let label = curve.label.clone();
            record(out, &[label, point.into(), layer, position, unit, value]);
        };
        for (p, point) in series.points.iter().enumerate() {
            line(&point.label, series.anchor(c, p), series.value(c, p));
        }
        if series.style == Style::Waterfall && curve.total.is_some() {
            line("total", curve.anchor, curve.total);
        }
    }
}

/// One line for each edge, also of steps that are not shown; `step` is the first step that keeps it, counted from 0 as in JSON, and
/// `step_edges` how many edges that step has. What the steps keep is in comments before them.
fn write_graph(out: &mut String, graph: &Graph) {
    for (step, own) in graph.steps.iter().enumerate() {
        let shown = if step == graph.shown { " (shown)" } else { "" };
        let _ = writeln!(
            out,
            "# {} edges{shown}: faithfulness {}; without it {}; random {} to {}",
            own.edges, own.faithfulness, own.without, own.random_least, own.random_most
        );
    }
    out.push_str("edge,from,to,part,layer,position,unit,value,step,step_edges\n");
    for edge in &graph.edges {
        let of = |node: usize| graph.label(node).to_owned();
        let mut fields = vec![
            edge.name.clone(),
            of(edge.from),
            of(edge.to),
            edge.part.clone(),
        ];
        let node = graph.nodes.get(edge.from);
        fields.extend(anchor_columns(
            node.map_or(Anchor::default(), |node| node.anchor),
        ));
        let smallest = graph
            .steps
            .get(edge.step)
            .map(|step| step.edges.to_string());
        fields.extend([
            edge.weight.to_string(),
            edge.step.to_string(),
            smallest.unwrap_or_default(),
        ]);
        record(out, &fields);
    }
}

/// Layer, position and unit of an anchor; empty for absent ones.
fn anchor_columns(anchor: Anchor) -> [String; 3] {
    let unit = anchor.unit.map(|unit| match unit {
        Unit::Neuron(i) => format!("neuron {i}"),
        Unit::Head(i) => format!("head {i}"),
        Unit::Token(i) => format!("token {i}"),
        Unit::Feature(i) => format!("feature {i}"),
    });
    [
        anchor.layer.map(|l| l.to_string()).unwrap_or_default(),
        anchor.position.map(|p| p.to_string()).unwrap_or_default(),
        unit.unwrap_or_default(),
    ]
}

/// The characters with which formulas in spreadsheets begin.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// Whether a spreadsheet would run a cell: it begins like a formula and is not a number.
fn runs(cell: &str) -> bool {
    let cell = cell.trim_start_matches([' ', '"']);
    cell.starts_with(FORMULA) && cell.trim().parse::<f64>().is_err()
}

/// A cell made into text.
fn defused(cell: &str) -> String {
    if runs(cell) {
        format!("'{cell}")
    } else {
        cell.to_owned()
    }
}

/// A comment made safe: a spreadsheet splits it at commas and semicolons like any other line.
fn defused_parts(comment: &str) -> String {
    let mut out = String::with_capacity(comment.len());
    for (i, part) in comment.split_inclusive([',', ';']).enumerate() {
        // The first part comes after the `# ` of the line.
        if i > 0 && runs(part.trim_end_matches([',', ';'])) {
            let blank = part.len() - part.trim_start_matches(' ').len();
            out.push_str(&part[..blank]);
            out.push('\'');
            out.push_str(&part[blank..]);
        } else {
            out.push_str(part);
        }
    }
    out
}

/// Writes a comment line.
pub(super) fn comment(out: &mut String, name: &str, value: &str) {
    let _ = writeln!(out, "# {name}: {}", defused_parts(value).replace('\n', "⏎"));
}

/// Writes one line; fields are quoted where necessary (RFC 4180), and where a reader could take the line for a comment.
pub(super) fn record(out: &mut String, fields: &[String]) {
    for (i, field) in fields.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        let field = defused(field);
        if field.contains([',', ';', '"', '\n', '\r'])
            || field.starts_with(['#', ' '])
            || field.ends_with(' ')
        {
            out.push('"');
            out.push_str(&field.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(&field);
        }
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::samples;

    #[test]
    fn a_graph_has_a_line_for_each_edge_of_each_step() {
        let out = write(&samples::graph());
        let data: Vec<&str> = out.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(data.len(), 1 + 6);
        assert_eq!(
            data[0],
            "edge,from,to,part,layer,position,unit,value,step,step_edges"
        );
        assert_eq!(data[1], "input->m0,input,m0,,,,,4,0,3");
        assert_eq!(data[5], "a0.h1->a2.h0<v>,a0.h1,a2.h0,v,0,,head 1,-2,1,5");
        assert!(
            out.contains("# 5 edges (shown): faithfulness 0.8; without it"),
            "{out}"
        );
    }

    #[test]
    fn no_cell_is_a_formula() {
        let mut figure = samples::lens(1, 1);
        figure.provenance.parameters = vec![
            ("prompt".into(), "a,=cmd|' /C calc'!A0;+1+1, -2, -x".into()),
            ("slot".into(), "@SUM(1)".into()),
        ];
        let words = ["=1+1", "+x", "-x", "@SUM(A1)", " =x", "\"=x"];
        if let Body::Grid(grid) = &mut figure.body {
            grid.rows[0].label = "-0.5".into();
            grid.cells[0][0].more = words.iter().map(|w| ((*w).into(), -1.5)).collect();
        }
        let out = write(&figure);
        assert!(
            out.contains("prompt=a,'=cmd|' /C calc'!A0;'+1+1, -2, '-x, slot=@SUM(1)\n"),
            "{out}"
        );
        for expected in [
            ",1,'=1+1,-1.5\n",
            ",2,'+x,",
            ",3,'-x,",
            ",4,'@SUM(A1),",
            ",5,' =x,",
            ",6,\"'\"\"=x\",",
            "\n-0.5,The,",
        ] {
            assert!(out.contains(expected), "{expected}: {out}");
        }
    }

    #[test]
    fn a_line_a_candidate() {
        let out = write(&samples::lens(2, 2));
        let data: Vec<&str> = out
            .lines()
            .skip_while(|line| line.starts_with('#'))
            .collect();
        assert_eq!(data.len(), 1 + 2 * 2 * 3);
        assert_eq!(data[0], "row,column,layer,position,unit,rank,token,value");
        assert_eq!(data[2], "0,The,0,0,,2,␣the,0.02");
        assert!(
            data[4].starts_with("1,The,1,0,,1,␣capital,0.97"),
            "{}",
            data[4]
        );
    }

    #[test]
    fn a_cell_without_runners_up_is_one_line() {
        let mut figure = samples::lens(1, 1);
        if let Body::Grid(grid) = &mut figure.body {
            grid.cells[0][0].more.clear();
            grid.cells[0][0].label = "#,".into();
        }
        let out = write(&figure);
        assert!(out.ends_with("0,The,0,0,,1,\"#,\",0.97\n"), "{out}");
    }

    /// A difference, or a number that is not a candidate's, is written as well as the candidates.
    #[test]
    fn a_cell_whose_number_is_another_comes_first() {
        let mut figure = samples::lens(1, 1);
        if let Body::Grid(grid) = &mut figure.body {
            grid.cells[0][0].value = -0.25;
        }
        let out = write(&figure);
        assert!(out.contains("\n0,The,0,0,,0,␣capital,-0.25\n"), "{out}");
        assert!(out.contains("\n0,The,0,0,,1,␣capital,0.97\n"), "{out}");
        assert!(out.ends_with("0,The,0,0,,3,␣a,0.01\n"), "{out}");
    }

    #[test]
    fn a_line_a_point_and_nothing_where_nothing_was_measured() {
        let mut figure = samples::curves();
        if let Body::Series(series) = &mut figure.body {
            series.curves[1].values[2] = f32::NAN;
        }
        let out = write(&figure);
        let data: Vec<&str> = out.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(data[0], "curve,point,layer,position,unit,value");
        assert_eq!(data[1], "␣Paris,0,0,3,token 7,0.01");
        assert_eq!(data.len(), 1 + 2 * 6);
        assert_eq!(data[9], "␣Rome,2,2,3,token 8,");
        let out = write(&samples::waterfall());
        assert!(out.ends_with("\n␣Paris,total,,3,token 7,2\n"), "{out}");
    }

    #[test]
    fn no_two_columns_have_one_name() {
        let mut figure = samples::table();
        if let Body::Table(table) = &mut figure.body {
            table.columns = ["position", "unit", "unit"].map(str::to_owned).to_vec();
        }
        let out = write(&figure);
        let header = out.lines().find(|line| !line.starts_with('#'));
        assert_eq!(
            header,
            Some("page,layer,position,unit,position 2,unit 2,unit 3")
        );
    }

    #[test]
    fn a_table_keeps_its_columns_and_quotes() {
        let out = write(&samples::table());
        let data: Vec<&str> = out
            .lines()
            .skip_while(|line| line.starts_with('#'))
            .collect();
        assert_eq!(data[0], "page,layer,position,unit,neuron,activation,writes");
        assert!(
            data[1].starts_with("position 0,0,0,neuron 10,0.10,3,\"capital, of, \"\"France\"\""),
            "{}",
            data[1]
        );
        assert_eq!(data.len(), 61);
    }
}
