//! The mouse: what it points at is what is drawn there, and it does what keys do.

use lmscope::app::layout::Pane;
use lmscope::app::pointer::{PointedAt, Pointer, PointerMove};
use lmscope::app::{App, Effect, Event};
use lmscope::engine::{Ending, Update};
use lmscope::ui::theme::Theme;
use lmscope::ui::{Memory, draw};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use crate::recorded::{self, PROMPT, began, lens, loaded, say, shown, wrote};

/// The screen of an app, and what stands where.
fn painted(app: &App) -> (Buffer, Memory) {
    let (width, height) = app.layout.size;
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
    let mut memory = Memory::default();
    draw(app, &Theme::default(), &mut memory, &mut buffer);
    (buffer, memory)
}

/// Where a text is drawn, within one row.
fn place(buffer: &Buffer, text: &str) -> (u16, u16) {
    let area = buffer.area;
    for y in area.y..area.bottom() {
        let row: Vec<&str> = (area.x..area.right())
            .map(|x| buffer[(x, y)].symbol())
            .collect();
        let letters: Vec<String> = text.chars().map(|c| c.to_string()).collect();
        let found = row.windows(letters.len()).position(|w| w == letters);
        if let Some(x) = found {
            return (x as u16, y);
        }
    }
    panic!("`{text}` is not on the screen")
}

fn app() -> App {
    let updates = vec![
        loaded(),
        began(&PROMPT),
        wrote(6, b" Paris", None),
        Update::Ended {
            ending: Ending::Count,
            written: 1,
            rate: 1.0,
        },
        shown("lens", lens(0, 7, 0.0)),
    ];
    let mut app = recorded::app((120, 40), updates);
    app.settings.mouse = true;
    app
}

fn act(app: &mut App, how: PointerMove, at: (u16, u16)) -> Vec<Effect> {
    let what = painted(app).1.at(at);
    app.update(Event::Pointer(Pointer { how, at, what }))
}

#[test]
fn a_click_puts_the_cursor_on_the_token_or_cell_that_is_drawn_there() {
    let mut app = app();
    let (buffer, _) = painted(&app);
    let (x, y) = place(&buffer, "capital of");
    act(&mut app, PointerMove::Press, (x + 1, y));
    assert_eq!(app.layout.focus, Pane::Transcript);
    let token = &app.transcript.tokens[app.cursor.position];
    assert_eq!(token.bytes, b" capital");
    // The last letter of one token, and the first of the next.
    act(&mut app, PointerMove::Press, (x + 8, y));
    assert_eq!(app.transcript.tokens[app.cursor.position].bytes, b" of");
    // A cell of the lens: layer 3 of the column of the third token.
    let (buffer, _) = painted(&app);
    let (column, _) = place(&buffer, "t2");
    let rows: Vec<u16> = (0..40)
        .filter(|y| buffer[(49, *y)].symbol() == "3")
        .collect();
    let [row] = rows[..] else { panic!("{rows:?}") };
    act(&mut app, PointerMove::Press, (column + 1, row));
    assert_eq!(app.layout.focus, Pane::Figure("lens"));
    assert_eq!((app.cursor.position, app.cursor.layer), (2, 3));
}

#[test]
fn an_edit_is_chosen_by_its_line_and_switched_by_its_mark() {
    let mut app = app();
    let (buffer, _) = painted(&app);
    let (x, y) = place(&buffer, "add:politeness");
    act(&mut app, PointerMove::Press, (x, y));
    assert_eq!((app.layout.focus, app.history.selected), (Pane::Edits, 1));
    assert_eq!(app.history.active(), 0);
    let asked = act(&mut app, PointerMove::Press, (x - 2, y));
    assert_eq!(app.history.active(), 1);
    let asked: Vec<String> = asked.iter().map(say).collect();
    assert!(asked[0].starts_with("edits [add:politeness"), "{asked:?}");
}

#[test]
fn a_border_is_dragged_as_far_as_it_goes_and_the_wheel_moves_where_it_is() {
    let mut app = app();
    let edge = |app: &App| app.arrangement().unwrap().area(Pane::Transcript).unwrap();
    let before = edge(&app);
    let border = (before.x + before.width, 10);
    act(&mut app, PointerMove::Press, border);
    act(&mut app, PointerMove::Drag, (border.0 + 6, 12));
    assert_eq!(edge(&app).width, before.width + 6);
    act(&mut app, PointerMove::Drag, (119, 12));
    act(&mut app, PointerMove::Release, (119, 12));
    let wide = edge(&app).width;
    assert!(wide < 90, "the figure keeps some columns: {wide}");
    act(&mut app, PointerMove::Drag, (20, 12));
    assert_eq!(edge(&app).width, wide, "nothing is dragged any more");
    let low = edge(&app);
    act(&mut app, PointerMove::Press, (5, low.y + low.height));
    act(&mut app, PointerMove::Drag, (5, low.y + low.height - 3));
    assert_eq!(edge(&app).height, low.height - 3);
    // The wheel moves in the pane under it, and the focus stays.
    let focus = app.layout.focus;
    let layer = app.cursor.layer;
    let figure = app
        .arrangement()
        .unwrap()
        .area(Pane::Figure("lens"))
        .unwrap();
    act(
        &mut app,
        PointerMove::WheelDown,
        (figure.x + 9, figure.y + 3),
    );
    assert_eq!((app.layout.focus, app.cursor.layer), (focus, layer - 1));
}

#[test]
fn without_the_setting_and_behind_an_overlay_nothing_happens() {
    let mut off = app();
    off.settings.mouse = false;
    let before = off.cursor;
    let (_, memory) = painted(&off);
    assert!(memory.spots.is_empty());
    let pointer = Pointer {
        how: PointerMove::Press,
        at: (3, 2),
        what: PointedAt::Token(1),
    };
    off.update(Event::Pointer(pointer));
    assert_eq!(off.cursor, before);
    let mut covered = app();
    recorded::press(&mut covered, "?");
    covered.update(Event::Pointer(pointer));
    assert_eq!(covered.cursor, before);
}
