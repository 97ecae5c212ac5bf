//! Draws a text token by token: colours, wrapping, the cursor, and a line where edits changed.
//!
//! Invariant: every token is visible under the cursor, even one without visible characters. Where there are few colours or none,
//! the size and the sign of a number are seen as well. To colour tokens by another number, add an arm in [`TokenColours::of`].

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;

use super::{Canvas, put};
use crate::app::layout::Pane;
use crate::app::pointer::PointedAt;
use crate::app::transcript::{Activity, TokenSpan as Piece, Transcript};
use crate::app::{App, TokenTint};
use crate::engine::Token;
use crate::figure::by_token::TokenNumbers;
use crate::text;
use crate::ui::paint;
use crate::ui::theme::{Depth, Role, Theme};
use crate::ui::widgets::scroll;

/// Surprisal, in nats, at the end of the colour ramp.
const SURPRISE: f32 = 6.0;
/// KL, in nats, at the end of the colour ramp.
const KL: f32 = 1.5;
/// Without a ramp: the share of the scale from which on a number is seen, and from which on it stands out.
const FAINT: f32 = 0.1;
const LARGE: f32 = 0.5;

pub(super) fn split(area: Rect, below: u16) -> (Rect, Rect) {
    let below = below.min(area.height);
    let [above, below] =
        Layout::vertical([Constraint::Fill(1), Constraint::Length(below)]).areas(area);
    (above, below)
}

/// One row on the screen: tokens, or the line where edits changed.
enum TextRow<'a> {
    Text(&'a [Piece]),
    Changed(&'static str),
}

/// The lines of a text, with a line where edits changed.
fn rows<'a>(text: &Transcript, lines: &'a [Vec<Piece>], own: bool) -> Vec<TextRow<'a>> {
    let mut rows: Vec<TextRow> = Vec::new();
    for line in lines {
        let change = line.first().and_then(|s| text.change_at(s.token));
        if let Some(words) = change.filter(|_| own && !rows.is_empty()) {
            rows.push(TextRow::Changed(words));
        }
        rows.push(TextRow::Text(line));
    }
    if let Some(words) = text.change_at(text.tokens.len()).filter(|_| own) {
        rows.push(TextRow::Changed(words));
    }
    rows
}

/// Draws tokens with the cursor visible; returns the first row drawn.
pub(super) fn tokens(
    canvas: &mut Canvas,
    area: Rect,
    text: &Transcript,
    offset: usize,
    cursor: usize,
    own: bool,
) -> usize {
    if area.is_empty() {
        return 0;
    }
    let app = canvas.app;
    let high = usize::from(area.height);
    let mut lines = text.wrap(usize::from(area.width));
    if rows(text, &lines, own).len() > high {
        // The last column is for the scroll mark.
        lines = text.wrap(usize::from(area.width).saturating_sub(1));
    }
    let rows = rows(text, &lines, own);
    let colours = TokenColours::of(app);
    let holds = |row: &TextRow| match row {
        TextRow::Text(line) => line.iter().any(|s| s.token + offset == cursor),
        TextRow::Changed(_) => false,
    };
    let at = rows.iter().rposition(holds).unwrap_or(0);
    let most = rows.len().saturating_sub(high);
    // While the cursor rests at the position that predicted the answer, the text scrolls on.
    let writing = app.cursor.at_run_start && app.transcript.activity == Activity::Writing;
    let first = if (app.cursor.follow || writing) && own {
        most
    } else {
        in_sight(at, canvas.memory.first_line.min(most), high)
    };
    for (i, row) in rows.iter().skip(first).take(high).enumerate() {
        let y = area.y + i as u16;
        match row {
            TextRow::Changed(words) => changed(canvas, Rect { y, ..area }, words),
            TextRow::Text(line) => {
                let last = first + i + 1 == rows.len();
                let end = draw_line(
                    (canvas.buf, &mut canvas.memory.spots),
                    canvas.theme,
                    (app, &colours),
                    (area.x, y, area.right()),
                    line,
                    text,
                    offset,
                    cursor,
                    own,
                );
                if last && own && app.transcript.activity == Activity::Writing && end < area.right()
                {
                    pen(canvas, end, y);
                }
            }
        }
    }
    scroll::draw(rows.len(), first, canvas.theme, area, canvas.buf);
    first
}

/// The first row to draw: the previous one, moved as little as necessary to make row `at` visible.
pub(super) fn in_sight(at: usize, before: usize, high: usize) -> usize {
    before.min(at).max((at + 1).saturating_sub(high))
}

/// The line where edits changed.
pub(super) fn changed(canvas: &mut Canvas, area: Rect, what: &str) {
    let dash = canvas.theme.glyphs.pick("╌", "-");
    let words = format!("{dash}{dash} {what} ");
    let fill = dash.repeat(usize::from(area.width).saturating_sub(text::width(&words)));
    let line = Line::from(canvas.span(words + &fill, Role::Edited));
    put(canvas.buf, area.x, area.y, area.width, &line);
}

/// Draws the place of the next token.
pub(super) fn pen(canvas: &mut Canvas, x: u16, y: u16) {
    let block = canvas.theme.glyphs.pick("▌", "_");
    let style = canvas.theme.style(Role::Accent);
    paint::write(canvas.buf, x, y, block, 1, style);
}

#[allow(clippy::too_many_arguments)] // one place, and all of them are needed
fn draw_line(
    (buf, spots): (&mut Buffer, &mut Vec<(Rect, PointedAt)>),
    theme: &Theme,
    (app, colours): (&App, &TokenColours),
    (left, y, right): (u16, u16, u16),
    line: &[Piece],
    text: &Transcript,
    offset: usize,
    cursor: usize,
    own: bool,
) -> u16 {
    let mut x = left;
    for piece in line {
        let Some(token) = text.tokens.get(piece.token) else {
            continue;
        };
        let here = piece.token + offset == cursor;
        let prompt = piece.token + offset < app.transcript.prompt;
        let mut style = style_of(theme, colours, token, prompt, own);
        let mut shown = piece.text.clone();
        if own
            && !here
            && let Some(mark) = colours.mark(theme, token)
            && let Some(rest) = shown.strip_prefix(' ')
        {
            shown = format!("{mark}{rest}");
        }
        if here {
            let role = if app.layout.focus == Pane::Transcript {
                Role::Cursor
            } else {
                Role::Selection
            };
            style = style.patch(theme.style(role));
            if shown.is_empty() {
                shown = crate::text::visible(&token.bytes);
            }
        } else if piece.text == "⏎" {
            style = theme.style(Role::Faint);
        }
        let room = usize::from(right.saturating_sub(x));
        let end = paint::joined(buf, (left, x, y), &shown, room, style);
        if own && app.settings.mouse && end > x {
            let place = Rect::new(x, y, end - x, 1);
            spots.push((place, PointedAt::Token(piece.token + offset)));
        }
        x = end;
    }
    x
}

pub(super) fn style_of(
    theme: &Theme,
    colours: &TokenColours,
    token: &Token,
    prompt: bool,
    own: bool,
) -> Style {
    let role = if token.special {
        Role::Special
    } else if prompt && own {
        Role::User
    } else if token.kl.is_some() {
        Role::Edited
    } else {
        Role::Model
    };
    let style = theme.style(role);
    match colours.place(token).filter(|_| own) {
        Some(place) => colours.style(theme, style, place),
        None => style,
    }
}

/// What tokens are coloured by, for one drawing of them.
pub(super) enum TokenColours {
    Nothing,
    Surprisal,
    Divergence,
    Figure(TokenNumbers),
}

impl TokenColours {
    pub(super) fn of(app: &App) -> Self {
        match app.tint {
            TokenTint::Surprisal => Self::Surprisal,
            TokenTint::Figure => app.token_numbers().map_or(Self::Nothing, Self::Figure),
            TokenTint::Nothing if app.compare => Self::Divergence,
            TokenTint::Nothing => Self::Nothing,
        }
    }

    /// The place of a token on the colour ramp; none where it has no colour.
    fn place(&self, token: &Token) -> Option<f32> {
        match self {
            Self::Nothing => None,
            Self::Surprisal => token.logprob.map(|l| (-l / SURPRISE).clamp(0.0, 1.0)),
            Self::Divergence => token.kl.map(|kl| (kl / KL).clamp(0.0, 1.0)),
            Self::Figure(numbers) => numbers.place(token.position),
        }
    }

    fn signed(&self) -> bool {
        match self {
            Self::Nothing | Self::Surprisal | Self::Divergence => false,
            Self::Figure(numbers) => numbers.signed(),
        }
    }

    /// How large a place is, 0 to 1, and whether it is below zero.
    fn size(&self, place: f32) -> (f32, bool) {
        if self.signed() {
            ((2.0 * place - 1.0).abs(), place < 0.5)
        } else {
            (place, false)
        }
    }

    /// The style of a token at a place: a colour behind it or, where there are too few, one of two colours or modifiers.
    fn style(&self, theme: &Theme, plain: Style, place: f32) -> Style {
        let (size, below) = self.size(place);
        if theme.paints() {
            return match (size > 0.02, self.signed()) {
                (false, _) => plain,
                (true, true) => plain.patch(theme.sign(place)),
                (true, false) => plain.patch(theme.heat(place)),
            };
        }
        // Without colours, roles are bold or underlined; here that means something else.
        let plain = if theme.depth == Depth::None {
            plain.remove_modifier(Modifier::BOLD | Modifier::UNDERLINED)
        } else {
            plain
        };
        if size < FAINT {
            return plain;
        }
        let sign = match (theme.depth, self.signed(), below) {
            (Depth::None, true, true) => Style::new().add_modifier(Modifier::UNDERLINED),
            (Depth::None, _, _) => Style::new().add_modifier(Modifier::BOLD),
            (_, true, true) => theme.style(Role::Error).remove_modifier(Modifier::BOLD),
            (_, true, false) => theme.style(Role::Ok),
            (_, false, _) => theme.style(Role::Warning),
        };
        let styled = plain.patch(sign);
        if size >= LARGE && theme.depth != Depth::None {
            styled.add_modifier(Modifier::REVERSED)
        } else {
            styled
        }
    }

    /// A mark in the blank before a word whose number is large, for when no colour can say its sign.
    fn mark(&self, theme: &Theme, token: &Token) -> Option<char> {
        let (size, below) = self.size(self.place(token)?);
        let marked = theme.depth == Depth::None && size >= LARGE;
        marked.then_some(if below { '-' } else { '+' })
    }
}
