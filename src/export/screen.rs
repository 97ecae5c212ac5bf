//! The whole screen as a picture: every cell of a ratatui buffer, with its colours, as SVG.
//!
//! Invariant: the grid is exact: every run of text is stretched to the width of its columns, whatever the font.

use std::fmt::Write as _;

use ratatui::buffer::{Buffer, Cell};
use ratatui::style::Modifier;

use super::colour::{Rgb, mix, rgb};
use super::markup::escape;
use crate::text::width;

/// The size of a cell, and of the frame around the screen, in pixels.
const CELL: (f32, f32) = (8.4, 17.0);
const MARGIN: f32 = 12.0;
const TITLE: f32 = 28.0;
/// Fonts, those with block and shade characters first.
pub(super) const FONTS: &str = "'JetBrains Mono','Cascadia Mono','DejaVu Sans Mono',Menlo,Consolas,'Liberation Mono',monospace";

/// The style of a cell, resolved to colours.
#[derive(Clone, Copy, PartialEq)]
struct CellStyle {
    ink: Rgb,
    back: Rgb,
    modifier: Modifier,
}

/// Writes a buffer as an SVG image. `foreground` and `background` replace the terminal's own colours; with an empty title there
/// is no title bar.
pub fn svg(buffer: &Buffer, background: Rgb, foreground: Rgb, title: &str) -> String {
    let mut out = head(buffer, background, foreground, title);
    for y in 0..buffer.area.height {
        out.push_str(&row(buffer, y, background, foreground, title));
    }
    out.push_str("</svg>\n");
    out
}

/// Writes screens of one size as an SVG image that shows them in turn, each for so many seconds, and begins again. A line that stays is
/// written once; where nothing moves, the last screen is shown.
pub fn animation(
    screens: &[(Buffer, f32)],
    background: Rgb,
    foreground: Rgb,
    title: &str,
) -> String {
    let Some((last, _)) = screens.last() else {
        return String::new();
    };
    let mut out = head(last, background, foreground, title);
    let whole: f32 = screens.iter().map(|(_, seconds)| seconds).sum();
    let mut begins = vec![0.0];
    for (_, seconds) in screens {
        begins.push(begins.last().copied().unwrap_or(0.0) + seconds / whole.max(f32::MIN_POSITIVE));
    }
    for y in 0..last.area.height {
        let rows: Vec<String> = screens
            .iter()
            .map(|(screen, _)| row(screen, y, background, foreground, title))
            .collect();
        let mut from = 0;
        while from < rows.len() {
            let same = rows[from..].iter().take_while(|row| **row == rows[from]);
            let to = from + same.count();
            if rows[from].is_empty() {
                // A line without anything on it.
            } else if from == 0 && to == rows.len() {
                out.push_str(&rows[from]);
            } else {
                let shown = if to == rows.len() { "inline" } else { "none" };
                let times = match (from, to == rows.len()) {
                    (0, _) => format!("values=\"inline;none\" keyTimes=\"0;{:.4}\"", begins[to]),
                    (_, true) => {
                        format!("values=\"none;inline\" keyTimes=\"0;{:.4}\"", begins[from])
                    }
                    (_, false) => format!(
                        "values=\"none;inline;none\" keyTimes=\"0;{:.4};{:.4}\"",
                        begins[from], begins[to]
                    ),
                };
                let _ = write!(
                    out,
                    "<g display=\"{shown}\"><animate attributeName=\"display\" calcMode=\"discrete\" dur=\"{whole:.2}s\" repeatCount=\"indefinite\" {times}/>\n{}</g>\n",
                    rows[from]
                );
            }
            from = to;
        }
    }
    out.push_str("</svg>\n");
    out
}

/// The top of the screen, below the title bar, if there is one.
fn top(title: &str) -> f32 {
    if title.is_empty() {
        MARGIN
    } else {
        TITLE + MARGIN / 2.0
    }
}

/// The beginning of an image: its size, its ground and its title.
fn head(buffer: &Buffer, background: Rgb, foreground: Rgb, title: &str) -> String {
    let area = buffer.area;
    let wide = f32::from(area.width) * CELL.0 + 2.0 * MARGIN;
    let high = f32::from(area.height) * CELL.1 + top(title) + MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {wide:.1} {high:.1}\" width=\"{wide:.0}\" height=\"{high:.0}\" \
         font-family=\"{FONTS}\" font-size=\"14\" xml:space=\"preserve\">\n"
    );
    if !title.is_empty() {
        let _ = writeln!(out, "<title>{}</title>", escape(title));
    }
    let _ = writeln!(
        out,
        "<rect width=\"{wide:.1}\" height=\"{high:.1}\" rx=\"8\" fill=\"{background}\"/>"
    );
    if !title.is_empty() {
        let quiet = mix(foreground, background, 0.45);
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"20\" text-anchor=\"middle\" font-size=\"13\" fill=\"{quiet}\">{}</text>",
            wide / 2.0,
            escape(title)
        );
    }
    out
}

/// One line of the screen.
fn row(buffer: &Buffer, y: u16, background: Rgb, foreground: Rgb, title: &str) -> String {
    let mut out = String::new();
    let runs = runs(buffer, y, background, foreground);
    let line = top(title) + f32::from(y) * CELL.1;
    for run in &runs {
        if run.paint.back != background {
            let _ = writeln!(
                out,
                "<rect x=\"{:.1}\" y=\"{line:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>",
                at(run.column),
                // Slightly wider, because otherwise seams are visible between runs of the same colour.
                run.columns as f32 * CELL.0 + 0.3,
                CELL.1 + 0.3,
                run.paint.back
            );
        }
    }
    for run in &runs {
        write_text(&mut out, run, line);
    }
    out
}

/// Adjacent cells of one line with the same style.
struct StyledRun {
    column: usize,
    columns: usize,
    text: String,
    paint: CellStyle,
}

fn at(column: usize) -> f32 {
    MARGIN + column as f32 * CELL.0
}

fn runs(buffer: &Buffer, y: u16, background: Rgb, foreground: Rgb) -> Vec<StyledRun> {
    let area = buffer.area;
    let mut runs: Vec<StyledRun> = Vec::new();
    let mut hidden = 0;
    for x in 0..area.width {
        // A wide character is followed by an empty cell.
        if hidden > 0 {
            hidden -= 1;
            continue;
        }
        let Some(cell) = buffer.cell((area.x + x, area.y + y)) else {
            continue;
        };
        let symbol = match cell.symbol() {
            "" => " ",
            symbol => symbol,
        };
        let columns = width(symbol).clamp(1, usize::from(area.width - x));
        hidden = columns - 1;
        let paint = settle(cell, background, foreground);
        match runs.last_mut() {
            Some(run) if run.paint == paint && joins(&run.text) && joins(symbol) => {
                run.text.push_str(symbol);
                run.columns += columns;
            }
            _ => runs.push(StyledRun {
                column: x.into(),
                columns,
                text: symbol.to_owned(),
                paint,
            }),
        }
    }
    runs
}

/// Whether text can be part of a run. Text that is not ASCII is drawn alone, so that its font cannot shift the following text.
fn joins(text: &str) -> bool {
    text.is_ascii()
        || text
            .chars()
            .all(|c| matches!(c, '─' | '━' | '█' | '▀' | '▄' | ' ' | '·' | '…' | '␣'))
}

fn settle(cell: &Cell, background: Rgb, foreground: Rgb) -> CellStyle {
    let mut ink = rgb(cell.fg).unwrap_or(foreground);
    let mut back = rgb(cell.bg).unwrap_or(background);
    let modifier = cell.modifier;
    if modifier.contains(Modifier::REVERSED) {
        std::mem::swap(&mut ink, &mut back);
    }
    if modifier.contains(Modifier::DIM) {
        ink = mix(ink, back, 0.45);
    }
    if modifier.contains(Modifier::HIDDEN) {
        ink = back;
    }
    CellStyle {
        ink,
        back,
        modifier: modifier
            & (Modifier::BOLD | Modifier::ITALIC | Modifier::UNDERLINED | Modifier::CROSSED_OUT),
    }
}

fn write_text(out: &mut String, run: &StyledRun, line: f32) {
    let lead = run.text.len() - run.text.trim_start_matches(' ').len();
    let text = run.text.trim_matches(' ');
    if text.is_empty() {
        if run.paint.modifier.contains(Modifier::UNDERLINED) {
            let y = line + CELL.1 - 2.0;
            let _ = writeln!(
                out,
                "<path d=\"M{:.1} {y:.1}h{:.1}\" stroke=\"{}\"/>",
                at(run.column),
                run.columns as f32 * CELL.0,
                run.paint.ink
            );
        }
        return;
    }
    if blocks(out, text, run, lead, line) {
        return;
    }
    let mut style = String::new();
    if run.paint.modifier.contains(Modifier::BOLD) {
        style.push_str(" font-weight=\"bold\"");
    }
    if run.paint.modifier.contains(Modifier::ITALIC) {
        style.push_str(" font-style=\"italic\"");
    }
    let lines = [
        (Modifier::UNDERLINED, "underline"),
        (Modifier::CROSSED_OUT, "line-through"),
    ];
    let drawn = lines
        .iter()
        .filter(|(line, _)| run.paint.modifier.contains(*line));
    let drawn: Vec<&str> = drawn.map(|(_, word)| *word).collect();
    if !drawn.is_empty() {
        let _ = write!(style, " text-decoration=\"{}\"", drawn.join(" "));
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" textLength=\"{:.1}\" lengthAdjust=\"spacingAndGlyphs\" fill=\"{}\"{style}>{}</text>",
        at(run.column + lead),
        line + CELL.1 - 4.5,
        width(text) as f32 * CELL.0,
        run.paint.ink,
        escape(text)
    );
}

/// Draws block characters as rectangles, because fonts leave gaps between them; false if the text is anything else.
fn blocks(out: &mut String, text: &str, run: &StyledRun, lead: usize, line: f32) -> bool {
    /// The left, top, right and bottom edge of a block character within the cell, in eighths, and its opacity.
    fn shape(c: char) -> Option<(f32, f32, f32, f32, f32)> {
        let eighths = |base: char| (u32::from(c) - u32::from(base) + 1) as f32;
        Some(match c {
            ' ' => (0.0, 0.0, 0.0, 0.0, 0.0),
            '█' => (0.0, 0.0, 8.0, 8.0, 1.0),
            '▀' => (0.0, 0.0, 8.0, 4.0, 1.0),
            '▁'..='▇' => (0.0, 8.0 - eighths('▁'), 8.0, 8.0, 1.0),
            '▉'..='▏' => (0.0, 0.0, 8.0 - eighths('▉'), 8.0, 1.0),
            '▐' => (4.0, 0.0, 8.0, 8.0, 1.0),
            '░' => (0.0, 0.0, 8.0, 8.0, 0.25),
            '▒' => (0.0, 0.0, 8.0, 8.0, 0.5),
            '▓' => (0.0, 0.0, 8.0, 8.0, 0.75),
            _ => return None,
        })
    }
    let Some(shapes) = text.chars().map(shape).collect::<Option<Vec<_>>>() else {
        return false;
    };
    for (i, (left, top, right, bottom, solid)) in shapes.into_iter().enumerate() {
        if solid > 0.0 {
            let _ = writeln!(
                out,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>",
                at(run.column + lead + i) + left / 8.0 * CELL.0,
                line + top / 8.0 * CELL.1,
                (right - left) / 8.0 * CELL.0 + if right >= 8.0 { 0.3 } else { 0.0 },
                (bottom - top) / 8.0 * CELL.1 + if bottom >= 8.0 { 0.3 } else { 0.0 },
                mix(run.paint.back, run.paint.ink, solid)
            );
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::layout::Rect;
    use ratatui::style::{Color, Style};

    const BACK: Rgb = Rgb(16, 16, 20);
    const FRONT: Rgb = Rgb(220, 220, 220);

    fn shot(draw: impl FnOnce(&mut Buffer)) -> String {
        let mut buffer = Buffer::empty(Rect::new(3, 2, 10, 2));
        draw(&mut buffer);
        svg(&buffer, BACK, FRONT, "a <b>")
    }

    #[test]
    fn runs_of_one_style_are_one_text_of_exact_length() {
        let out = shot(|b| {
            b.set_string(4, 2, "a<b", Style::new().fg(Color::Rgb(1, 2, 3)));
            b.set_string(
                7,
                2,
                "c",
                Style::new()
                    .fg(Color::LightRed)
                    .add_modifier(Modifier::BOLD),
            );
        });
        assert!(out.contains("textLength=\"25.2\" lengthAdjust=\"spacingAndGlyphs\" fill=\"#010203\">a&lt;b</text>"), "{out}");
        assert!(
            out.contains("fill=\"#ff7b7b\" font-weight=\"bold\">c</text>"),
            "{out}"
        );
        assert!(out.contains("<title>a &lt;b&gt;</title>"));
    }

    #[test]
    fn an_animation_shows_every_screen_in_its_time_and_writes_what_stays_once() {
        let screen = |second: &str| {
            let mut buffer = Buffer::empty(Rect::new(0, 0, 10, 2));
            buffer.set_string(0, 0, "stays", Style::new());
            buffer.set_string(0, 1, second, Style::new());
            buffer
        };
        let screens = [
            (screen("one"), 1.0),
            (screen("two"), 2.0),
            (screen("end"), 1.0),
        ];
        let out = animation(&screens, BACK, FRONT, "");
        assert_eq!(out.matches(">stays<").count(), 1);
        let times = |values: &str, keys: &str| {
            format!("repeatCount=\"indefinite\" values=\"{values}\" keyTimes=\"{keys}\"/>")
        };
        for (word, shown, times) in [
            ("one", "none", times("inline;none", "0;0.2500")),
            ("two", "none", times("none;inline;none", "0;0.2500;0.7500")),
            ("end", "inline", times("none;inline", "0;0.7500")),
        ] {
            let at = out.find(&format!(">{word}<")).unwrap_or_default();
            let group = out[..at].rfind("<g display").unwrap_or_default();
            let own = &out[group..at];
            assert!(
                own.starts_with(&format!("<g display=\"{shown}\">")),
                "{own}"
            );
            assert!(
                own.contains(&times) && own.contains("dur=\"4.00s\""),
                "{own}"
            );
        }
        // Of one screen it is the picture.
        let one = animation(&screens[..1], BACK, FRONT, "t");
        assert_eq!(one, svg(&screens[0].0, BACK, FRONT, "t"));
        assert_eq!(animation(&[], BACK, FRONT, ""), "");
    }

    #[test]
    fn only_what_is_painted_gets_a_rectangle_and_reversed_swaps() {
        let plain = shot(|b| b.set_style(b.area, Style::new().fg(Color::Red)));
        assert_eq!(plain.matches("<rect").count(), 1, "the screen itself");
        let out = shot(|b| {
            b.set_string(3, 2, "xy", Style::new().bg(Color::Indexed(196)));
            b.set_string(3, 3, "z", Style::new().add_modifier(Modifier::REVERSED));
        });
        assert!(
            out.contains(&format!(
                "width=\"{:.1}\" height=\"17.3\" fill=\"#ff0000\"",
                2.0 * CELL.0 + 0.3
            )),
            "{out}"
        );
        assert!(
            out.contains("fill=\"#dcdcdc\"") && out.contains("fill=\"#101014\">z</text>"),
            "{out}"
        );
    }

    #[test]
    fn a_wide_character_takes_two_columns_and_the_next_stays_in_place() {
        let out = shot(|b| b.set_string(3, 2, "漢x", Style::new()));
        assert!(
            out.contains("textLength=\"16.8\"") && out.contains(">漢</text>"),
            "{out}"
        );
        assert!(out.contains(&format!("<text x=\"{:.1}\"", at(2))), "{out}");
    }

    #[test]
    fn half_blocks_are_rectangles_without_seams() {
        let out = shot(|b| b.set_style(Rect::new(3, 2, 1, 1), Style::new()));
        assert!(!out.contains("8.5"));
        let out = shot(|b| {
            b.set_string(
                3,
                2,
                "▀",
                Style::new().fg(Color::Rgb(9, 9, 9)).bg(Color::Rgb(8, 8, 8)),
            );
        });
        assert!(
            out.contains("height=\"8.5\" fill=\"#090909\"")
                && out.contains("height=\"17.3\" fill=\"#080808\""),
            "{out}"
        );
        assert!(!out.contains("▀"));
    }

    #[test]
    fn an_empty_buffer_is_an_empty_picture() {
        let out = svg(&Buffer::empty(Rect::ZERO), BACK, FRONT, "");
        assert!(out.starts_with("<svg") && out.ends_with("</svg>\n") && !out.contains("<text"));
    }
}
