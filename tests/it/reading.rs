//! The lens as a person reads it: ranks of a large vocabulary, where the cursor stands, what a window holds, what an older figure
//! is about, and letters with marks. On recorded updates, without a model.

use lmscope::app::{App, CursorFocus, Event};
use lmscope::edit::Edit;
use lmscope::engine::{Ending, Update};
use lmscope::figure::cell_details::{CellDetails, Number, RankStory};
use lmscope::figure::{Anchor, Body, Figure, Scale};
use lmscope::ui::theme::Theme;
use ratatui::style::Modifier;

use crate::recorded::{self, LAYERS, PROMPT, began, lens, loaded, press, session, shown, wrote};
use crate::screens::{paint, text};

/// Ranks along the layers of the last position.
const RANKS: [u32; LAYERS] = [4721, 4561, 348, 44, 48, 30, 3, 1];

/// A lens of a large vocabulary, which opens with ranks.
fn ranked(from: usize, to: usize) -> Figure {
    let mut figure = lens(from, to, 0.0);
    let Body::Grid(grid) = &mut figure.body else {
        panic!("a grid")
    };
    let number = |value: &str, scale, of: fn(usize) -> f32| Number {
        value: value.into(),
        scale,
        values: (from..to).map(|_| (0..LAYERS).map(of).collect()).collect(),
    };
    let ranks = Scale::Rank { worst: 49_152.0 };
    let numbers = vec![
        number("rank of the answer", ranks, |l| RANKS[l] as f32),
        number("probability of the answer", Scale::Unit, |l| 0.1 * l as f32),
        number("probability", Scale::Unit, |l| 0.11 * l as f32),
        number(
            "KL divergence from the output (nats)",
            Scale::Range { lo: 0.0, hi: 9.0 },
            |l| 7.0 - l as f32,
        ),
        number("entropy (nats)", Scale::Range { lo: 0.0, hi: 10.8 }, |l| {
            l as f32
        }),
    ];
    let story = |p: usize| {
        let shares = (0..LAYERS).map(|l| 0.1 * l as f32).collect();
        RankStory::of("␣Paris".into(), Anchor::position(p), RANKS.to_vec(), shares)
    };
    grid.also = CellDetails {
        candidates: Some("probability".into()),
        numbers,
        stories: (from..to).map(story).collect(),
    };
    figure.title = "lens · norm own · rank of the answer".into();
    assert!(figure.show_number(0));
    figure
}

fn tell(app: &mut App, update: Update) {
    app.update(Event::Engine(update));
}

fn screen(app: &App) -> String {
    text(&paint(app, &Theme::default()))
}

#[test]
fn a_large_vocabulary_shows_the_fall_of_the_rank_at_once() {
    let mut app = recorded::app((120, 40), session());
    tell(&mut app, shown("lens", ranked(0, 11)));
    let seen = screen(&app);
    for part in [
        "#4.6k",
        "#348",
        "#44",
        "#49152 rank of the answer, log scale",
    ] {
        assert!(seen.contains(part), "{part}\n{seen}");
    }
    let told = "␣Paris: #1 at 7, top-5 from 6, top-100 from 3, jump 1 to 3 (#4 561 to #44)";
    assert!(seen.contains(&told[..60]), "the caption\n{seen}");
    assert!(
        seen.contains("␣Paris  #1 of 2 048 · p 0.700 at layer 7"),
        "{seen}"
    );
    // The candidates stay in the cell, with their probabilities.
    assert!(seen.contains("bars: probability, 0 to 1.00"), "{seen}");
}

#[test]
fn one_key_goes_through_the_numbers_and_asks_nothing() {
    let mut app = recorded::app((120, 40), session());
    tell(&mut app, shown("lens", ranked(0, 11)));
    let value = |app: &App| match &app.figure("lens").unwrap().body {
        Body::Grid(grid) => grid.value.clone(),
        _ => panic!("a grid"),
    };
    let mut seen = vec![value(&app)];
    for _ in 0..5 {
        assert!(press(&mut app, "#").is_empty(), "nothing is asked");
        seen.push(value(&app));
        assert!(screen(&app).contains(seen.last().unwrap()));
    }
    assert_eq!(
        seen,
        [
            "rank of the answer",
            "probability of the answer",
            "probability",
            "KL divergence from the output (nats)",
            "entropy (nats)",
            "rank of the answer"
        ]
    );
    // What comes live is shown as was chosen.
    press(&mut app, "#");
    tell(&mut app, wrote(11, b" x", None));
    tell(
        &mut app,
        Update::Column {
            slot: "lens",
            column: Box::new(ranked(11, 12).into()),
        },
    );
    assert_eq!(value(&app), "probability of the answer");
    let Body::Grid(grid) = &app.figure("lens").unwrap().body else {
        panic!("a grid")
    };
    assert!((grid.cells[11][3].value - 0.3).abs() < 1e-6);
    assert_eq!(grid.also.stories.len(), 12);
    assert!(
        app.figure("lens")
            .unwrap()
            .title
            .ends_with("probability of the answer")
    );
}

#[test]
fn a_run_leaves_the_cursor_where_the_first_token_was_predicted() {
    let mut app = recorded::app((120, 40), session());
    assert_eq!(app.cursor.position, PROMPT.len() - 1);
    let seen = screen(&app);
    assert!(seen.contains("position 5 "), "the cell under it\n{seen}");
    // G follows what is written, and keeps doing so when the prompt runs again.
    press(&mut app, "G");
    assert_eq!(app.cursor.position, 10);
    press(&mut app, "R");
    tell(&mut app, began(&PROMPT));
    tell(&mut app, wrote(6, b" a", None));
    assert_eq!(app.cursor.position, 6);
    // A place in the prompt is kept.
    press(&mut app, "h h h");
    assert_eq!(app.cursor.position, 3);
    press(&mut app, "R");
    tell(&mut app, began(&PROMPT));
    tell(&mut app, wrote(6, b" a", None));
    assert_eq!(app.cursor.position, 3);
    // Another prompt is another run.
    tell(&mut app, began(&["A", " b", " c"]));
    assert_eq!(app.cursor.position, 2);
}

#[test]
fn a_figure_says_which_positions_it_holds() {
    let words: Vec<String> = (0..30).map(|i| format!(" w{i}")).collect();
    let pieces: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut app = recorded::app((120, 40), vec![loaded(), began(&pieces)]);
    tell(&mut app, shown("lens", ranked(20, 30)));
    tell(
        &mut app,
        Update::Ended {
            ending: Ending::Count,
            written: 0,
            rate: 1.0,
        },
    );
    let before = screen(&app);
    assert!(
        before.contains(" of 20-29") || before.contains("position 26-29"),
        "{before}"
    );
    // Beside the cells stands the rank of the answer of the cursor's column, at every layer: the best one has the longest bar.
    assert!(before.contains("rank of ␣Paris"), "{before}");
    let bar = |layer: char| {
        let row = before
            .lines()
            .find(|row| row.contains(&format!("│{layer}  ")));
        row.unwrap().matches('█').count()
    };
    assert!(bar('7') > bar('3') && bar('3') > bar('0'), "{before}");
    press(&mut app, "g g");
    assert_eq!(app.cursor_focus("lens"), CursorFocus::Outside(20, 29));
    assert!(
        app.cell_under_cursor().is_none(),
        "no other position's cell is shown"
    );
    let seen = screen(&app);
    let held = "the lens shows positions 20-29 of 0-29; w";
    assert!(seen.matches(held).count() >= 1, "{seen}");
    // No column is marked, and the cell pane is about the cursor's token.
    let lens = seen.lines().take(24).collect::<String>();
    assert!(!lens.contains('▐'), "{seen}");
    assert!(seen.contains("lens · layer 7 · position 0 "), "{seen}");
    assert_eq!(
        app.layer_and_position(),
        (7, 0),
        "commands are about the cursor's own place"
    );
    // To the side it is the text's cursor that moves, from the figure too.
    press(&mut app, "Tab l");
    assert_eq!(app.cursor.position, 1);
    let asked = format!("{:?}", press(&mut app, "w"));
    assert!(asked.contains("\"window\": \"30\""), "{asked}");
}

#[test]
fn an_older_figure_says_what_it_is_about() {
    let mut app = recorded::app((120, 40), session());
    // One that is not live stays when another text begins.
    app.set_focus(lmscope::app::layout::Pane::Figure("patchscope"));
    let mut asked = recorded::patchscope();
    asked.provenance.tokens = vec![1, 2, 3];
    tell(&mut app, shown("patchscope", asked));
    tell(&mut app, began(&["Other", " text"]));
    let seen = screen(&app);
    assert!(seen.contains("for an earlier text: 3 tokens"), "{seen}");
    assert!(seen.contains("then at the cursor: ␣France at 4"), "{seen}");
    let buffer = paint(&app, &Theme::default());
    let (y, line) = seen
        .lines()
        .enumerate()
        .find(|(_, l)| l.contains("then at the cursor"))
        .unwrap();
    let x = lmscope::text::width(&line[..line.find("then").unwrap()]) as u16;
    let stale = Theme::default().style(lmscope::ui::theme::Role::Stale);
    let cell = &buffer[(x, y as u16)];
    assert_eq!(Some(cell.fg), stale.fg.or(Some(cell.fg)));
    assert!(cell.modifier.contains(stale.add_modifier));
}

fn edited(app: &mut App, boundary: usize) {
    let receipts = recorded::receipts(app, 1);
    tell(
        app,
        Update::Edited {
            boundary: Some(boundary),
            receipts,
        },
    );
}

#[test]
fn an_edit_that_is_off_ages_nothing_and_an_undone_one_leaves_no_line() {
    let mut app = recorded::app((120, 40), session());
    let mut figure = recorded::patchscope();
    figure.provenance.edits = Vec::new();
    tell(&mut app, shown("patchscope", figure));
    let stale = |app: &App| app.shown["patchscope"].stale;
    // A strength of an edit that is off.
    press(&mut app, "Tab Tab Tab");
    while !matches!(app.layout.focus, lmscope::app::layout::Pane::Edits) {
        press(&mut app, "Tab");
    }
    press(&mut app, ">");
    assert!(app.history.edits().iter().all(|e: &Edit| !e.active()));
    assert_eq!(stale(&app), None, "nothing that acts has changed");
    edited(&mut app, 11);
    assert!(app.transcript.boundaries.is_empty());
    press(&mut app, "1");
    edited(&mut app, 11);
    assert!(stale(&app).is_some(), "an edit is on");
    assert_eq!(app.transcript.boundaries, [11]);
    assert!(screen(&app).contains("edits changed here"));
    press(&mut app, "1");
    edited(&mut app, 11);
    assert_eq!(stale(&app), None, "what was measured is what stands again");
    assert!(app.transcript.boundaries.is_empty());
    assert!(!screen(&app).contains("edits changed here"));
}

/// Marks are tokens of their own, as byte pair encodings have them, and belong to the letter before.
#[test]
fn combining_marks_are_shown_at_every_width() {
    let texts = ["cafe\u{301} fin", "नमस्ते", "สวัสดี", "مَرْحَبًا", "漢\u{301}字"];
    for said in texts {
        let tokens: Vec<String> = said.chars().map(|c| c.to_string()).collect();
        let pieces: Vec<&str> = tokens.iter().map(String::as_str).collect();
        for width in [40, 41, 47, 80, 120] {
            let mut app = recorded::app((width, 24), vec![loaded(), began(&pieces)]);
            let seen = screen(&app);
            assert!(seen.contains(said), "{said} {width}\n{seen}");
            for at in 0..tokens.len() {
                app.cursor.position = at;
                assert!(screen(&app).contains(said), "{said} {width} at {at}");
            }
        }
        // And while it is typed.
        let mut app = recorded::app((80, 24), vec![loaded()]);
        press(&mut app, "i");
        app.update(Event::Paste(said.into()));
        assert!(screen(&app).contains(said), "{said} in the write box");
    }
}

#[test]
fn a_mark_stays_with_its_letter_where_a_line_ends() {
    // Long enough to fill lines of every width with letters that carry a mark.
    let tokens: Vec<String> = (0..240)
        .map(|i| {
            if i % 2 == 0 {
                "e".into()
            } else {
                "\u{301}".into()
            }
        })
        .collect();
    let pieces: Vec<&str> = tokens.iter().map(String::as_str).collect();
    for width in 40..60 {
        let mut app = recorded::app((width, 24), vec![loaded(), began(&pieces)]);
        // The footer names the token under the cursor: a letter.
        app.cursor.position = 0;
        let seen = screen(&app);
        assert_eq!(seen.matches("e\u{301}").count(), 120, "{width}\n{seen}");
        let alone = seen.matches('\u{301}').count();
        assert_eq!(alone, 120, "{width}: on nothing else");
    }
}

#[test]
fn full_lines_keep_their_last_letter_beside_the_scroll_mark() {
    let letters: Vec<String> = (0..26 * 60)
        .map(|i| char::from(b'a' + (i % 26) as u8).to_string())
        .collect();
    let pieces: Vec<&str> = letters.iter().map(String::as_str).collect();
    let mut app = recorded::app((80, 24), vec![loaded(), began(&pieces)]);
    press(&mut app, "G");
    let seen = screen(&app);
    let mut all = String::new();
    let pane = seen.lines().take_while(|l| !l.starts_with('┗'));
    for line in pane.filter(|l| l.starts_with('┃')) {
        let inner: String = line.chars().filter(char::is_ascii_lowercase).collect();
        all.push_str(&inner);
    }
    assert!(all.len() > 200, "{seen}");
    let start = all.as_bytes()[0] - b'a';
    for (i, c) in all.bytes().enumerate() {
        let wanted = b'a' + ((usize::from(start) + i) % 26) as u8;
        assert_eq!(c, wanted, "a letter is missing at {i}\n{seen}");
    }
}

#[test]
fn a_notice_wears_nothing_of_what_lies_beneath() {
    let mut app = recorded::app((120, 40), session());
    app.warn_loudly("something failed, and the whole sentence is as loud as its first word; do the next thing. ".repeat(2));
    let buffer = paint(&app, &Theme::default());
    let seen = text(&buffer);
    let (y, _) = seen
        .lines()
        .enumerate()
        .find(|(_, l)| l.contains("error: something"))
        .unwrap();
    for y in y as u16..40 {
        let styles: std::collections::BTreeSet<String> = (1..119)
            .filter(|x| buffer[(*x, y)].symbol() != " ")
            .map(|x| {
                let cell = &buffer[(x, y)];
                format!("{:?} {:?} {:?}", cell.fg, cell.bg, cell.modifier)
            })
            .collect();
        assert!(styles.len() <= 1, "{y}: {styles:?}");
    }
}

#[test]
fn the_cursor_keeps_the_colour_of_its_cell() {
    let theme = Theme::default();
    let mut app = recorded::app((120, 40), session());
    press(&mut app, "Tab");
    let hold = |app: &App| {
        let buffer = paint(app, &theme);
        let seen = text(&buffer);
        let (y, line) = seen
            .lines()
            .enumerate()
            .find(|(_, l)| l.contains('▌'))
            .unwrap();
        let close = lmscope::text::width(&line[..line.find('▌').unwrap()]) as u16;
        (buffer[(close - 1, y as u16)].clone(), y)
    };
    let (cell, _) = hold(&app);
    let value = app.cell_under_cursor().unwrap().value.unwrap().1;
    assert_eq!(Some(cell.bg), theme.heat(value).bg, "its number's colour");
    assert!(cell.modifier.contains(Modifier::UNDERLINED));
    assert!(!cell.modifier.contains(Modifier::REVERSED));
    press(&mut app, "S-Tab");
    let (cell, _) = hold(&app);
    assert_eq!(Some(cell.bg), theme.heat(value).bg, "unfocused too");
}

#[test]
fn all_notes_are_a_key_away() {
    let mut app = recorded::app((80, 24), session());
    let mut figure = ranked(0, 11);
    figure.notes = (0..40)
        .map(|i| format!("note number {i} says something"))
        .collect();
    tell(&mut app, shown("lens", figure));
    press(&mut app, "N");
    let seen = screen(&app);
    assert!(seen.contains("note number 0 "), "{seen}");
    assert!(seen.contains("at the cursor (5 t5)"), "{seen}");
    press(&mut app, &"j ".repeat(40));
    assert!(screen(&app).contains("note number 39 "));
    press(&mut app, "Esc");
    assert!(app.overlay.is_none());
}
