//! `:dictionary` on the screen: what is asked for, and what stays when it fails.

use lmscope::app::{App, Effect, Event};
use lmscope::engine::{FigureRequest, Request, Update};
use lmscope::figure::{Anchor, Body, Figure, Table, TablePage};

use crate::recorded::{self, press, type_in};

/// The features that are asked for live.
fn asked(effects: &[Effect]) -> Option<FigureRequest> {
    effects.iter().find_map(|effect| match effect {
        Effect::Ask(Request::Live(questions)) => {
            let mut all = questions.iter();
            all.find(|q| q.instrument == "features").cloned()
        }
        _ => None,
    })
}

fn name(app: &mut App, words: &str) -> Option<FigureRequest> {
    press(app, ":");
    type_in(app, &format!("dictionary {words}"));
    asked(&press(app, "Enter"))
}

/// A figure of features of so many positions.
fn features(positions: usize) -> Update {
    let page = |p| TablePage::of(format!("after {p}"), Anchor::position(p), Vec::new());
    let body = Table::paged(&["feature"], (0..positions).map(page).collect());
    let figure = Figure {
        title: "features · resid_post.5".into(),
        body: Body::Table(body),
        ..recorded::patchscope()
    };
    recorded::shown("features", figure)
}

#[test]
fn another_dictionary_keeps_the_parameters_and_what_a_figure_has_grown_to() {
    let mut app = recorded::app((120, 40), recorded::session());
    let first = name(&mut app, "sae/one").unwrap();
    assert_eq!(first.arguments.given["dictionary"], "sae/one");
    app.update(Event::Engine(features(40)));
    let shown = app.shown.get_mut("features").unwrap();
    shown.arguments = shown.arguments.clone().with("count", 25);
    let second = name(&mut app, "sae/two").unwrap();
    let given = &second.arguments.given;
    assert_eq!(given["dictionary"], "sae/two");
    assert_eq!(
        (given["count"].as_str(), given["window"].as_str()),
        ("25", "40")
    );
}

#[test]
fn a_dictionary_that_fails_leaves_the_one_that_works() {
    let mut app = recorded::app((120, 40), recorded::session());
    name(&mut app, "sae/one").unwrap();
    app.update(Event::Engine(features(8)));
    name(&mut app, "sae/broken").unwrap();
    let effects = app.update(Event::Engine(Update::Failed {
        slot: Some("features"),
        message: "sae/broken has no encoder.".into(),
    }));
    let again = asked(&effects).expect("the working one is asked for");
    assert_eq!(again.arguments.given["dictionary"], "sae/one");
    assert!(app.figure("features").is_some());
    assert_eq!(app.shown["features"].failed, None);
    let said = app.notices.shown().unwrap().text.clone();
    assert!(said.contains("sae/broken has no encoder"), "{said}");
    // What fails later is no matter of the command.
    app.update(Event::Engine(features(8)));
    let effects = app.update(Event::Engine(Update::Failed {
        slot: Some("features"),
        message: "other".into(),
    }));
    assert!(asked(&effects).is_none());
}

#[test]
fn dictionaries_and_labels_of_the_command_line_are_shown_from_the_start() {
    let settings = lmscope::app::AppSettings {
        dictionaries: vec!["a".into(), "b@resid_post.1".into()],
        labels: Some("labels.json".into()),
        ..lmscope::app::AppSettings::default()
    };
    let (app, _) = App::new(settings);
    let given = &app.shown["features"].arguments.given;
    assert_eq!(given["dictionary"], "a,b@resid_post.1");
    assert_eq!(given["labels"], "labels.json");
}
