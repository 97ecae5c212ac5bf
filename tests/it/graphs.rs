//! Graphs on the whole screen: at two sizes and more, in few colours and none, with hostile names, and in every format.

use lmscope::app::App;
use lmscope::figure::{Body, Figure};
use lmscope::ui::theme::{Depth, Theme};

use crate::recorded::{self, press, session, shown, type_in};
use crate::screens::{paint, text};

fn with(figure: Figure, size: (u16, u16), keys: &str) -> App {
    let mut updates = session();
    updates.push(shown("circuit", figure));
    let mut app = recorded::app(size, updates);
    press(&mut app, ":");
    type_in(&mut app, "show circuit");
    press(&mut app, "Enter");
    press(&mut app, keys);
    app
}

#[test]
fn graphs_at_three_sizes() {
    for size in [(80, 24), (120, 40), (200, 60)] {
        let app = with(recorded::circuit(), size, "k k l");
        insta::assert_snapshot!(
            format!("graph_{}x{}", size.0, size.1),
            text(&paint(&app, &Theme::default()))
        );
    }
}

/// Signs are characters, so that nothing is lost without colours; what lines cannot show then is not drawn.
#[test]
fn no_colour_is_needed() {
    for depth in [Depth::Ansi16, Depth::None] {
        let theme = Theme::default().adapt(depth);
        let wide = text(&paint(
            &with(recorded::circuit(), (120, 40), "k k l"),
            &theme,
        ));
        for sign in ["▐a4.h0▌", "+a2.h1", "-m0", "-logits"] {
            assert!(wide.contains(sign), "{sign}:\n{wide}");
        }
        let small = text(&paint(
            &with(recorded::circuit(), (80, 19), "k k l"),
            &theme,
        ));
        assert!(
            small.contains("input -→ m0 -→ a4.h0<v> -→ logits"),
            "{small}"
        );
        assert!(
            small.contains("m0 -→ a2.h1<v> +→ a4.h0<q> -→ logits"),
            "{small}"
        );
    }
}

/// Turned round, up is still up: the first layer is on top then.
#[test]
fn a_flipped_graph_is_walked_as_it_is_drawn() {
    let line = |app: &App, words: &str| {
        let drawn = text(&paint(app, &Theme::default()));
        drawn.lines().position(|line| line.contains(words))
    };
    let mut app = with(recorded::circuit(), (120, 40), "k");
    assert!(line(&app, "logits") < line(&app, "▐m0▌"));
    app.flip = true;
    press(&mut app, "j");
    let here = app.cell_under_cursor().map(|cell| cell.label);
    assert_eq!(here.as_deref(), Some("a2.h1"), "down, towards the logits");
    assert!(line(&app, "▐a2.h1▌") > line(&app, "m0"));
}

/// A cursor that another pane moves takes the graph's with it.
#[test]
fn other_panes_follow_and_are_followed() {
    let mut app = with(recorded::circuit(), (120, 40), "k k l");
    assert_eq!(app.cursor.layer, 4);
    assert_eq!(app.cursor.unit, Some(lmscope::figure::Unit::Head(0)));
    let position = app.cursor.position;
    app.cursor.layer = 2;
    app.cursor.unit = Some(lmscope::figure::Unit::Head(1));
    let here = app.cell_under_cursor().map(|cell| cell.label);
    assert_eq!(here.as_deref(), Some("a2.h1"));
    press(&mut app, "k k k l l h g g G");
    assert_eq!(app.cursor.position, position, "no walk moves in the text");
}

/// Names of strangers break no line, and no line is longer than its pane.
#[test]
fn names_of_any_kind_stay_in_their_place() {
    let mut figure = recorded::circuit();
    if let Body::Graph(graph) = &mut figure.body {
        for node in &mut graph.nodes {
            node.label = format!("漢字漢字漢字漢字{}", node.label);
        }
        for row in &mut graph.rows {
            row.label = "a very long name of a row".into();
        }
    }
    for size in [(80, 24), (120, 40), (200, 60)] {
        let app = with(figure.clone(), size, "k k l");
        let drawn = text(&paint(&app, &Theme::default()));
        let frame = |c: char| matches!(c, '│' | '┃' | '║' | '┐' | '┘' | '┓' | '┛' | '┤');
        let body = drawn.lines().skip(2).take(usize::from(size.1) - 5);
        for line in body.filter(|line| line.contains('漢')) {
            assert!(line.ends_with(frame), "{size:?}: {line}\n{drawn}");
        }
    }
}
