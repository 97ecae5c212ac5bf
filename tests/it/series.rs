//! Curves, bars and waterfalls on the whole screen, in few colours and none, under the keys.

use lmscope::app::App;
use lmscope::engine::Update;
use lmscope::figure::{
    Anchor, AxisLabel, Body, Curve, Figure, Provenance, Scale, Series, Style, Unit,
};
use lmscope::ui::theme::{Depth, Theme};

use crate::recorded::{self, LAYERS, press, session, shown};
use crate::screens::{paint, text};

fn figure(series: Series) -> Figure {
    Figure {
        title: "lens · tracked".into(),
        body: Body::Series(series),
        notes: vec!["rows use their own norm".into()],
        check: None,
        provenance: Provenance::default(),
    }
}

/// Two answers over the layers, at position 5; they cross in the middle.
fn curves() -> Figure {
    let curve = |label: &str, token: u32, values: Vec<f32>| Curve {
        label: label.into(),
        anchor: Anchor::position(5).with(Unit::Token(token)),
        values,
        total: None,
    };
    let place = |l: usize| l as f32 / (LAYERS - 1) as f32;
    figure(Series {
        axis: "layer".into(),
        value: "probability".into(),
        points: (0..LAYERS)
            .map(|l| AxisLabel {
                label: l.to_string(),
                anchor: Anchor::layer(l),
            })
            .collect(),
        curves: vec![
            curve("␣Paris", 7, (0..LAYERS).map(|l| 0.9 * place(l)).collect()),
            curve(
                "␣Rome",
                8,
                (0..LAYERS).map(|l| 0.6 - 0.5 * place(l)).collect(),
            ),
        ],
        scale: Scale::Unit,
        style: Style::Lines,
    })
}

/// What each block wrote towards an answer.
fn waterfall() -> Figure {
    let writes = (0..LAYERS).flat_map(|l| [("attn", l), ("mlp", l)]);
    let points: Vec<AxisLabel> = std::iter::once(AxisLabel {
        label: "embed".into(),
        anchor: Anchor::default(),
    })
    .chain(writes.map(|(name, l)| AxisLabel {
        label: format!("{name} {l}"),
        anchor: Anchor::layer(l),
    }))
    .collect();
    let values: Vec<f32> = (0..points.len())
        .map(|i| {
            if i % 3 == 2 {
                -1.25
            } else {
                0.5 + i as f32 / 4.0
            }
        })
        .collect();
    let total = values.iter().sum();
    figure(Series {
        axis: "write".into(),
        value: "logit".into(),
        points,
        curves: vec![Curve {
            label: "␣Paris".into(),
            anchor: Anchor::position(5).with(Unit::Token(7)),
            values,
            total: Some(total),
        }],
        scale: Scale::Diverging { reach: 4.0 },
        style: Style::Waterfall,
    })
}

fn with(figure: Figure, size: (u16, u16)) -> App {
    let mut updates: Vec<Update> = session();
    updates.push(shown("lens", figure));
    recorded::app(size, updates)
}

#[test]
fn curves_and_waterfalls_at_both_sizes() {
    for (name, figure) in [("curves", curves()), ("waterfall", waterfall())] {
        for size in [(80, 24), (120, 40)] {
            let app = with(figure.clone(), size);
            insta::assert_snapshot!(
                format!("series_{name}_{}x{}", size.0, size.1),
                text(&paint(&app, &Theme::default()))
            );
        }
    }
}

/// Without a colour, and with sixteen, the curves differ by their marks and the cursor by its brackets.
#[test]
fn no_colour_is_needed() {
    for depth in [Depth::Ansi16, Depth::None] {
        let app = with(curves(), (80, 24));
        let drawn = text(&paint(&app, &Theme::default().adapt(depth)));
        assert!(drawn.contains('●') && drawn.contains('○'), "{drawn}");
        assert!(
            drawn.contains("● ␣Paris 0") && drawn.contains("○ ␣Rome 0"),
            "{drawn}"
        );
    }
}

/// Left and right go along the axis, up and down over the curves, and the number follows.
#[test]
fn the_cursor_goes_over_points_and_curves() {
    let mut app = with(curves(), (80, 24));
    press(&mut app, "Tab");
    let said = |app: &App| {
        app.cell_under_cursor()
            .map(|r| (r.anchor, r.value.map(|v| v.1)))
    };
    while app.cursor.layer > 0 {
        press(&mut app, "Left");
    }
    let (anchor, value) = said(&app).unwrap();
    assert_eq!(anchor, Anchor::cell(0, 5).with(Unit::Token(7)));
    assert_eq!(value, Some(0.0));
    press(&mut app, "Right Right Down");
    let (anchor, value) = said(&app).unwrap();
    assert_eq!(anchor, Anchor::cell(2, 5).with(Unit::Token(8)));
    let expected = 0.6 - 0.5 * 2.0 / (LAYERS - 1) as f32;
    assert!((value.unwrap() - expected).abs() < 1e-6);
    // A waterfall stands upright: down is the next part.
    let mut app = with(waterfall(), (80, 24));
    press(&mut app, "Tab");
    for _ in 0..40 {
        press(&mut app, "Up");
    }
    assert_eq!(
        app.cell_under_cursor().unwrap().label,
        "embed",
        "a place without a layer can be reached"
    );
    press(&mut app, "Down Down");
    let reading = app.cell_under_cursor().unwrap();
    assert_eq!(
        (reading.label.as_str(), reading.anchor.layer),
        ("mlp 0", Some(0))
    );
    assert!(reading.value.unwrap().1 < 0.0);
}
