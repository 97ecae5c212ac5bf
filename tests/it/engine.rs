//! The engine over its channel: streaming, live columns, cancelling, panics, edits between two tokens.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use lmscope::engine::{
    Ending, FigureRequest, Handle, Mode, OtherText, PromptSource, Request, Update, spawn,
};
use lmscope::figure::{Body, Figure};
use lmscope::instruments::{Arguments, complete, grow, instrument};
use lmscope::lab::prompt_list;
use lmscope::model::known::opens;
use lmscope::model::load::Options;
use serde_json::json;

struct Session {
    handle: Handle,
    updates: Receiver<Update>,
}

fn session() -> Session {
    let (sender, updates) = channel();
    let handle = spawn(move |update| sender.send(update).is_ok()).unwrap();
    handle.ask(Request::Load {
        model: "demo".into(),
        options: Options {
            device: Some("cpu".into()),
            ..Options::default()
        },
    });
    let session = Session { handle, updates };
    session.until(|u| matches!(u, Update::Loaded(_)));
    session
}

impl Session {
    /// Everything up to and including the first update that fits.
    fn until(&self, fits: impl Fn(&Update) -> bool) -> Vec<Update> {
        let mut seen = Vec::new();
        loop {
            let update = self
                .updates
                .recv_timeout(Duration::from_mins(1))
                .unwrap_or_else(|_| panic!("nothing fitting came; saw {seen:#?}"));
            let done = fits(&update);
            seen.push(update);
            if done {
                return seen;
            }
        }
    }

    fn generate(&self, text: &str, count: usize) -> Vec<Update> {
        self.handle.ask(Request::Generate {
            prompt: PromptSource::Text(text.into()),
            count,
        });
        self.until(|u| matches!(u, Update::Ended { .. }))
    }
}

fn ids(updates: &[Update]) -> Vec<u32> {
    updates
        .iter()
        .filter_map(|u| {
            if let Update::Token { token, .. } = u {
                Some(token.id)
            } else {
                None
            }
        })
        .collect()
}

fn live(name: &'static str) -> FigureRequest {
    FigureRequest {
        instrument: name,
        arguments: Arguments::default(),
        unedited: false,
        other: None,
        until: None,
    }
}

#[test]
fn streams_tokens_and_grows_live_figures_by_columns() {
    let session = session();
    session
        .handle
        .ask(Request::Live(vec![live("lens"), live("neurons")]));
    let seen = session.generate("The capital of France is", 6);
    let tokens = ids(&seen);
    assert!(!tokens.is_empty());
    let whole = seen
        .iter()
        .filter(|u| matches!(u, Update::Figure { slot: "lens", .. }))
        .count();
    assert_eq!(whole, 1, "one whole figure, then columns");
    let mut positions = Vec::new();
    for update in &seen {
        if let Update::Column {
            slot: "lens",
            column,
        } = update
        {
            assert_eq!(column.tokens.len(), 1, "nothing of earlier tokens");
            let Body::Grid(grid) = &column.body else {
                panic!("a grid")
            };
            assert_eq!(grid.columns.len(), 1, "a token costs one column");
            positions.push(grid.columns[0].anchor.position.unwrap());
        }
    }
    assert!(
        positions.windows(2).all(|w| w[1] == w[0] + 1),
        "{positions:?}"
    );
    assert!(
        seen.iter()
            .any(|u| matches!(u, Update::Checked(check) if check.passed())),
        "the lens checks itself"
    );
    assert!(!seen.iter().any(|u| matches!(u, Update::Failed { .. })));
}

#[test]
fn a_live_column_equals_the_whole_figure() {
    let session = session();
    session
        .handle
        .ask(Request::Live(vec![live("lens"), live("neurons")]));
    let seen = session.generate("The capital of France is", 4);
    for slot in ["lens", "neurons"] {
        let column = seen
            .iter()
            .rev()
            .find_map(|u| match u {
                Update::Column { slot: s, column } if *s == slot => Some(column.clone()),
                _ => None,
            })
            .unwrap();
        session.handle.ask(Request::Observe(live(slot)));
        let whole = session
            .until(|u| matches!(u, Update::Figure { slot: s, .. } if *s == slot))
            .pop()
            .unwrap();
        let Update::Figure { figure, .. } = whole else {
            unreachable!()
        };
        match (&column.body, &figure.body) {
            (Body::Grid(a), Body::Grid(b)) => {
                let (a, b) = (a.cells.last().unwrap(), b.cells.last().unwrap());
                assert!(
                    a.iter()
                        .zip(b)
                        .all(|(a, b)| a.label == b.label && (a.value - b.value).abs() < 1e-3),
                    "{a:?}\n{b:?}"
                );
            }
            (Body::Table(a), Body::Table(b)) => {
                let (a, b) = (a.pages.last().unwrap(), b.pages.last().unwrap());
                assert_eq!(a.title, b.title);
                assert_eq!(
                    a.rows.iter().map(|r| r.anchor).collect::<Vec<_>>(),
                    b.rows.iter().map(|r| r.anchor).collect::<Vec<_>>()
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

/// The lens as the screen has it after these updates.
fn lens_after(updates: &[Update]) -> Figure {
    let of = instrument("lens").unwrap();
    let mut figure = None;
    for update in updates {
        match update {
            Update::Figure {
                slot: "lens",
                figure: whole,
                ..
            } => figure = Some(*whole.clone()),
            Update::Column {
                slot: "lens",
                column,
            } => grow(of, figure.as_mut().unwrap(), *column.clone()),
            Update::Completed {
                slot: "lens",
                column,
            } => complete(of, figure.as_mut().unwrap(), *column.clone()),
            _ => {}
        }
    }
    figure.unwrap()
}

/// The layers that a column of the lens has read, by their cells.
fn layers_read(body: &Body) -> Vec<usize> {
    let Body::Grid(grid) = body else {
        panic!("a grid")
    };
    let cells = grid.cells[0].iter().enumerate();
    let read = cells.filter(|(_, cell)| cell.value.is_finite());
    read.map(|(layer, _)| layer).collect()
}

#[test]
fn layers_that_nobody_sees_are_read_when_writing_pauses() {
    let text = "Tell me";
    let all = session();
    all.handle.ask(Request::Live(vec![live("lens")]));
    let every_layer = lens_after(&all.generate(text, 12));

    let session = session();
    session.handle.ask(Request::Live(vec![live("lens")]));
    session.handle.ask(Request::View {
        slot: "lens",
        layers: 5..7,
    });
    let mut seen = session.generate(text, 12);
    let columns: Vec<_> = seen
        .iter()
        .filter_map(|u| match u {
            Update::Column { column, .. } => Some(column.clone()),
            _ => None,
        })
        .collect();
    assert!(columns.len() > 8, "more than share a pass");
    for column in &columns {
        assert_eq!(layers_read(&column.body), [5, 6], "what is in view");
        assert!(column.check.is_some_and(lmscope::figure::Check::passed));
    }
    assert!(!seen.iter().any(|u| matches!(u, Update::Completed { .. })));
    // Several positions come with one update, the newest first.
    let mut left = columns.len();
    while left > 0 {
        seen.extend(session.until(|u| matches!(u, Update::Completed { .. })));
        let Some(Update::Completed { column, .. }) = seen.last() else {
            unreachable!()
        };
        let Body::Grid(grid) = &column.body else {
            panic!("a grid")
        };
        assert_eq!(grid.cells.len(), left.min(8));
        left -= grid.cells.len();
    }
    let completed = lens_after(&seen);
    assert_eq!(completed.body, every_layer.body, "to the bit");
    assert_eq!(completed.notes, every_layer.notes);
    assert!(!seen.iter().any(|u| matches!(u, Update::Failed { .. })));
}

#[test]
fn layers_that_come_into_view_are_read_while_the_text_is_written() {
    let session = session();
    session.handle.ask(Request::Live(vec![live("lens")]));
    session.handle.ask(Request::View {
        slot: "lens",
        layers: 0..0,
    });
    session.handle.ask(Request::Generate {
        prompt: PromptSource::Ids(vec![1, 5, 9]),
        count: 400,
    });
    let column = |u: &Update| matches!(u, Update::Column { .. });
    let hidden = session.until(column);
    let Some(Update::Column { column: first, .. }) = hidden.last() else {
        unreachable!()
    };
    assert!(layers_read(&first.body).is_empty(), "nothing is in view");
    session.handle.ask(Request::View {
        slot: "lens",
        layers: 2..4,
    });
    let seen = session.until(|u| matches!(u, Update::Completed { .. } | Update::Ended { .. }));
    let Some(Update::Completed { column, .. }) = seen.last() else {
        panic!("the text ended before the layers came")
    };
    assert_eq!(layers_read(&column.body), [0, 1, 2, 3, 4, 5, 6, 7]);
    session.handle.cancel();
    session.until(|u| matches!(u, Update::Ended { .. }));
}

#[test]
fn states_of_a_text_that_is_cut_are_not_read_later() {
    let session = session();
    session.handle.ask(Request::Live(vec![live("lens")]));
    session.handle.ask(Request::View {
        slot: "lens",
        layers: 7..8,
    });
    session.generate("Tell me", 12);
    session.handle.ask(Request::Rewind { position: 5 });
    session.until(|u| matches!(u, Update::Rewound(_)));
    // The figure is made whole anew; nothing of the cut text comes behind it.
    session.until(|u| matches!(u, Update::Figure { slot: "lens", .. }));
    session.handle.ask(Request::Observe(live("neurons")));
    let seen = session.until(|u| {
        matches!(
            u,
            Update::Figure {
                slot: "neurons",
                ..
            }
        )
    });
    assert!(!seen.iter().any(|u| matches!(u, Update::Completed { .. })));
}

#[test]
fn stops_within_a_turn_and_goes_on() {
    let session = session();
    session.handle.ask(Request::Generate {
        prompt: PromptSource::Text("Once upon a time".into()),
        count: 400,
    });
    session.until(|u| matches!(u, Update::Token { .. }));
    session.handle.cancel();
    let seen = session.until(|u| matches!(u, Update::Ended { .. }));
    assert!(matches!(
        seen.last(),
        Some(Update::Ended {
            ending: Ending::Stopped | Ending::EndToken,
            ..
        })
    ));
    session.handle.ask(Request::Continue { count: 2 });
    let more = session.until(|u| matches!(u, Update::Ended { .. }));
    assert!(!ids(&more).is_empty());
}

#[test]
fn a_panic_inside_becomes_a_notice_and_the_text_survives() {
    let session = session();
    let written = ids(&session.generate("The capital of France is", 2));
    session.handle.ask(Request::Panic);
    let seen = session.until(|u| matches!(u, Update::Failed { .. }));
    assert!(
        matches!(seen.last(), Some(Update::Failed { message, .. }) if message.contains("a test asked"))
    );
    session.handle.ask(Request::Rewind { position: 6 });
    session.until(|u| matches!(u, Update::Rewound(_)));
    session.handle.ask(Request::Continue { count: 2 });
    assert_eq!(
        ids(&session.until(|u| matches!(u, Update::Ended { .. }))),
        written
    );
    assert!(!ids(&session.generate("The capital of France is", 3)).is_empty());
}

#[test]
fn an_edit_between_two_tokens_draws_a_boundary_and_a_bad_one_changes_nothing() {
    let session = session();
    session.generate("The capital of France is", 2);
    let edit = "zero@mlp_out.*:all".parse().unwrap();
    session.handle.ask(Request::Edits {
        edits: vec![edit],
        mode: Mode::FromNow,
    });
    let seen = session.until(|u| matches!(u, Update::Edited { .. }));
    let Some(Update::Edited {
        boundary: Some(boundary),
        ..
    }) = seen.last()
    else {
        panic!("{seen:?}")
    };
    session.handle.ask(Request::Continue { count: 3 });
    let seen = session.until(|u| matches!(u, Update::Ended { .. }));
    let first = seen
        .iter()
        .find_map(|u| {
            if let Update::Token { token, receipts } = u {
                Some((token.clone(), receipts.clone()))
            } else {
                None
            }
        })
        .unwrap();
    assert_eq!(first.0.position, *boundary);
    assert!(first.1[0].fired > 0);
    assert!(first.0.kl.is_some());
    let measured = session.until(|u| matches!(u, Update::Receipts(_)));
    let Some(Update::Receipts(receipts)) = measured.last() else {
        unreachable!()
    };
    assert!(receipts[0].kl.unwrap() > 0.0);
    assert_eq!(
        receipts[0].control, None,
        "every unit of a site has no null of equal size"
    );
    session.handle.ask(Request::Edits {
        edits: vec!["zero:999999@mlp_act.0".parse().unwrap()],
        mode: Mode::FromNow,
    });
    session.until(|u| matches!(u, Update::Failed { .. }));
    session.handle.ask(Request::Continue { count: 1 });
    let seen = session.until(|u| matches!(u, Update::Ended { .. }));
    assert!(seen.iter().any(|u| matches!(u, Update::Token { receipts, .. } if receipts[0].edit.starts_with("zero@mlp_out"))), "the old edits are in force");
}

/// "The answer" of a difference is the edited run's in both figures: a rank is never taken from that of another token.
#[test]
fn the_unedited_figure_is_about_the_answers_of_the_edited_run() {
    let session = session();
    session.generate("The capital of France is", 1);
    session.handle.ask(Request::Edits {
        edits: vec!["scale@resid_pre.4*-1".parse().unwrap()],
        mode: Mode::AsIfAlways,
    });
    session.until(|u| matches!(u, Update::Edited { .. }));
    let figure = |instrument, unedited, arguments: &Arguments| {
        session.handle.ask(Request::Observe(FigureRequest {
            arguments: arguments.clone(),
            unedited,
            until: Some(6),
            ..live(instrument)
        }));
        let seen = session.until(|u| matches!(u, Update::Figure { .. } | Update::Failed { .. }));
        let Some(Update::Figure { figure, .. }) = seen.last() else {
            panic!("{seen:?}")
        };
        (**figure).clone()
    };
    let column = |figure: &lmscope::figure::Figure| {
        let Body::Grid(grid) = &figure.body else {
            panic!("a grid")
        };
        let column = grid.cells.last().unwrap().iter().map(|c| c.value);
        let story = grid.also.stories.last().unwrap();
        (column.collect::<Vec<f32>>(), story.token.clone())
    };
    for show in ["rank", "probability"] {
        let of = Arguments::default().with("show", show).with("of", "answer");
        let edited = figure("lens", false, &of);
        let unedited = figure("lens", true, &of);
        assert!(unedited.same_tokens_followed(&edited), "{show}");
        let (_, answer) = column(&edited);
        let (found, about) = column(&unedited);
        assert_ne!(answer, "␣Paris", "the edit changes the answer");
        assert_eq!(about, answer, "{show}");
        let named = Arguments::default()
            .with("show", show)
            .with("of", answer.replace('␣', " "));
        // One pass counts other roundings than another.
        for (a, b) in column(&figure("lens", true, &named)).0.iter().zip(found) {
            assert!((a - b).abs() <= 1e-4 * b.abs(), "{show}: {a} {b}");
        }
    }
}

#[test]
fn the_baseline_is_the_unedited_run_of_the_same_seed() {
    let session = session();
    let plain = ids(&session.generate("The capital of France is", 4));
    session.handle.ask(Request::Edits {
        edits: vec!["zero@mlp_out.*".parse().unwrap()],
        mode: Mode::AsIfAlways,
    });
    session.until(|u| matches!(u, Update::Edited { .. }));
    let edited = ids(&session.generate("The capital of France is", 4));
    assert_ne!(plain, edited);
    session.handle.ask(Request::Baseline);
    let seen = session.until(|u| matches!(u, Update::Baseline { .. }));
    let Some(Update::Baseline { tokens, diverges }) = seen.last() else {
        unreachable!()
    };
    let base: Vec<u32> = tokens.iter().map(|t| t.id).collect();
    assert_eq!(base, plain[..base.len()]);
    assert!(diverges.is_some());
}

#[test]
fn a_rewind_forgets_and_writes_the_same_again() {
    let session = session();
    let seen = session.generate("The capital of France is", 5);
    let Update::Began(prompt) = seen.iter().find(|u| matches!(u, Update::Began(_))).unwrap() else {
        unreachable!()
    };
    let written = ids(&seen);
    session.handle.ask(Request::Rewind {
        position: prompt.len() + 1,
    });
    assert!(
        matches!(session.until(|u| matches!(u, Update::Rewound(_))).last(), Some(Update::Rewound(n)) if *n == prompt.len() + 1)
    );
    session.handle.ask(Request::Continue {
        count: written.len() - 1,
    });
    assert_eq!(
        ids(&session.until(|u| matches!(u, Update::Ended { .. }))),
        written[1..]
    );
}

#[test]
fn a_newer_question_replaces_the_waiting_one() {
    let session = session();
    session.generate("The capital of France is", 1);
    for _ in 0..30 {
        session.handle.ask(Request::Observe(live("neurons")));
    }
    session.handle.ask(Request::Observe(live("lens")));
    let seen = session.until(|u| matches!(u, Update::Figure { slot: "lens", .. }));
    let figures = seen
        .iter()
        .filter(|u| {
            matches!(
                u,
                Update::Figure {
                    slot: "neurons",
                    ..
                }
            )
        })
        .count();
    assert!(figures < 30, "{figures} figures for 30 questions");
}

/// An edit of the stream from now on adds a row to a sum: what follows fits what is there, and is what a new measurement
/// gives.
#[test]
fn a_live_sum_is_asked_anew_when_edits_give_it_other_rows() {
    let session = session();
    let question = FigureRequest {
        arguments: Arguments::default().with("window", 8),
        ..live("residual")
    };
    session
        .handle
        .ask(Request::Live(vec![live("lens"), question.clone()]));
    session.generate("Once upon a time", 2);
    session.handle.ask(Request::Edits {
        edits: vec!["zero@resid_post.1".parse().unwrap()],
        mode: Mode::FromNow,
    });
    session.handle.ask(Request::Continue { count: 8 });
    let seen = session.until(|u| matches!(u, Update::Ended { .. }));
    let edited = seen
        .iter()
        .position(|u| matches!(u, Update::Edited { .. }))
        .unwrap();
    let mut held = None;
    let (mut lenses, mut columns) = (0, 0);
    for update in &seen[edited..] {
        match update {
            Update::Figure { slot: "lens", .. } => lenses += 1,
            Update::Figure {
                slot: "residual",
                figure,
                ..
            } => held = Some(figure.clone()),
            Update::Column {
                slot: "residual",
                column,
            } => {
                columns += 1;
                let held = held.as_mut().expect("the whole figure comes first");
                let (Body::Grid(a), Body::Grid(b)) = (&held.body, &column.body) else {
                    panic!("grids")
                };
                assert_eq!(a.rows, b.rows);
                held.append((**column).clone());
            }
            _ => {}
        }
    }
    assert_eq!(lenses, 0, "the rows of a lens stay what they are");
    assert!(columns > 0);
    let Body::Grid(grown) = &held.unwrap().body.clone() else {
        panic!("a grid")
    };
    assert!(grown.rows.iter().any(|r| r.label.starts_with("edit ")));
    session.handle.ask(Request::Observe(question));
    let whole = session.until(|u| {
        matches!(
            u,
            Update::Figure {
                slot: "residual",
                ..
            }
        )
    });
    let Some(Update::Figure { figure, .. }) = whole.last() else {
        unreachable!()
    };
    let Body::Grid(whole) = &figure.body else {
        panic!("a grid")
    };
    let last = (grown.cells.last().unwrap(), whole.cells.last().unwrap());
    for (a, b) in last.0.iter().zip(last.1) {
        assert!((a.value - b.value).abs() < 1e-3, "{a:?} {b:?}");
    }
}

/// Questions that wait when something new begins are told off, each by its name.
#[test]
fn a_stopped_question_is_said_to_be_dropped() {
    let session = session();
    session.generate("The capital of France is", 1);
    for slot in ["lens", "neurons", "residual"] {
        session.handle.ask(Request::Observe(live(slot)));
    }
    session.handle.ask(Request::Generate {
        prompt: PromptSource::Text("Once".into()),
        count: 1,
    });
    let seen = session.until(|u| matches!(u, Update::Began(_)));
    for slot in ["lens", "neurons", "residual"] {
        let ends = seen.iter().filter(|u| match u {
            Update::Figure { slot: s, .. } | Update::Dropped(s) => *s == slot,
            _ => false,
        });
        assert_eq!(ends.count(), 1, "{slot}: made or dropped");
    }
    assert!(seen.iter().any(|u| matches!(u, Update::Dropped(_))));
}

/// What follows the cursor waits until the text is written, makes way for any request, and comes in the end.
#[test]
fn what_follows_the_cursor_delays_no_token() {
    let session = session();
    let question = |steps: usize| FigureRequest {
        arguments: Arguments::default().with("steps", steps).with("swaps", 4),
        ..live("saliency")
    };
    // Long enough for work that can be interrupted.
    let text = "The river runs through the city. ".repeat(8) + "The capital of France is";
    session.handle.ask(Request::Generate {
        prompt: PromptSource::Text(text),
        count: 12,
    });
    session.until(|u| matches!(u, Update::Token { .. }));
    session.handle.ask(Request::Follow(question(2)));
    let place = |seen: &[Update], fits: fn(&Update) -> bool| seen.iter().position(fits);
    let made: fn(&Update) -> bool = |u| {
        matches!(
            u,
            Update::Figure {
                slot: "saliency",
                ..
            }
        )
    };
    let ended: fn(&Update) -> bool = |u| matches!(u, Update::Ended { .. });
    let seen = session.until(made);
    assert!(place(&seen, ended).is_some(), "the text came first");

    // One that takes long is interrupted by a request, and begins again.
    session.handle.ask(Request::Follow(question(1024)));
    session.until(|u| {
        matches!(
            u,
            Update::Working {
                slot: "saliency",
                ..
            }
        )
    });
    session.handle.ask(Request::Continue { count: 3 });
    let seen = session.until(ended);
    assert_eq!(ids(&seen).len(), 3);
    assert!(place(&seen, made).is_none(), "it was not finished before");
    assert!(!seen.iter().any(|u| matches!(u, Update::Dropped(_))));
    session.until(|u| {
        matches!(
            u,
            Update::Working {
                slot: "saliency",
                ..
            }
        )
    });
    // The newest question is the one that is made.
    session.handle.ask(Request::Follow(question(3)));
    let seen = session.until(made);
    assert!(!seen.iter().any(|u| matches!(u, Update::Failed { .. })));
    let Some(Update::Figure { figure, .. }) = seen.last() else {
        unreachable!()
    };
    let parameters = &figure.provenance.parameters;
    assert!(
        parameters.contains(&("steps".into(), "3".into())),
        "{parameters:?}"
    );

    // Who stops it is told.
    session.handle.ask(Request::Follow(question(1024)));
    session.until(|u| {
        matches!(
            u,
            Update::Working {
                slot: "saliency",
                ..
            }
        )
    });
    session.handle.cancel();
    session.until(|u| matches!(u, Update::Dropped("saliency")));
}

/// A row of a list names its prompt: run by itself it has the tokens that the list measured, whatever is shown of it.
#[test]
fn a_listed_prompt_runs_as_it_was_measured() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("list.json");
    let listed = json!([
        { "prompt": "The capital\tof\n\nFrance\u{1} is" },
        { "messages": [
            { "role": "system", "content": "You know every town." },
            { "role": "user", "content": "What is the capital of Norway?" },
            { "role": "assistant", "content": "The capital is" },
        ] },
        { "prompt": " Rome⏎is ␣in" },
    ]);
    std::fs::write(&file, listed.to_string()).unwrap();
    let lab = crate::demo::demo();
    let prompts = prompt_list::read(&file).unwrap();
    for chat in [false, true] {
        let session = session();
        let arguments = Arguments::default()
            .with("prompts", file.to_str().unwrap())
            .with("list", "prompts")
            .with("chat", if chat { "yes" } else { "no" });
        session.handle.ask(Request::Observe(FigureRequest {
            arguments,
            ..live("answers")
        }));
        let seen = session.until(|u| matches!(u, Update::Figure { .. } | Update::Failed { .. }));
        let Some(Update::Figure { figure, .. }) = seen.last() else {
            panic!("{seen:?}")
        };
        assert_eq!(figure.provenance.prompts.len(), prompts.len());
        for (given, prompt) in figure.provenance.prompts.iter().zip(&prompts) {
            session.handle.ask(Request::Generate {
                prompt: given.clone().into(),
                count: 0,
            });
            let seen = session.until(|u| matches!(u, Update::Began(_) | Update::Failed { .. }));
            let Some(Update::Began(tokens)) = seen.last() else {
                panic!("{seen:?}")
            };
            let run: Vec<u32> = tokens.iter().map(|token| token.id).collect();
            assert_eq!(run, prompt.tokens(&lab, chat).unwrap().tokens);
        }
    }
}

/// A figure of another text is what a run of that text gives, under the edits that are on; the text that is shown stays.
#[test]
fn a_figure_of_another_text_is_that_of_its_own_run() {
    let session = session();
    session.generate("The capital of Japan is", 2);
    session.handle.ask(Request::Observe(live("lens")));
    let figure = |seen: Vec<Update>| {
        let found = seen.into_iter().rev().find_map(|update| match update {
            Update::Figure {
                slot: "lens",
                unedited,
                figure,
            } => Some((unedited, *figure)),
            _ => None,
        });
        found.unwrap()
    };
    let of_lens = |u: &Update| matches!(u, Update::Figure { slot: "lens", .. });
    let (compared, first) = figure(session.until(of_lens));
    assert!(!compared);
    let tokens = first.provenance.tokens.clone();
    session.generate("The capital of France is", 2);
    session.handle.ask(Request::Observe(FigureRequest {
        other: Some(OtherText {
            prompt: tokens.len() - 2,
            tokens: tokens.clone(),
        }),
        ..live("lens")
    }));
    let (compared, other) = figure(session.until(of_lens));
    assert!(compared, "it is no figure of the text that is shown");
    assert_eq!(other.provenance.tokens, tokens);
    assert_eq!(other.body, first.body);
    session.handle.ask(Request::Observe(live("lens")));
    let (_, own) = figure(session.until(of_lens));
    assert_ne!(own.provenance.tokens, tokens);
}

/// The list of models has the demo, and the models of a folder that is named; what is no model is not in it.
#[test]
fn models_of_a_folder_are_listed_with_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("small.gguf"), b"GGUF").unwrap();
    std::fs::write(folder.path().join("notes.txt"), b"no model").unwrap();
    let half = folder.path().join("half");
    std::fs::create_dir(&half).unwrap();
    std::fs::write(half.join("config.json"), br#"{"model_type": "llama"}"#).unwrap();
    let session = session();
    session
        .handle
        .ask(Request::ListModels(vec![folder.path().to_path_buf()]));
    let seen = session.until(|u| matches!(u, Update::Models(_)));
    let Some(Update::Models(models)) = seen.last() else {
        panic!("{seen:?}")
    };
    assert_eq!(models[0].argument, "demo");
    let here: Vec<(String, String)> = models
        .iter()
        .filter(|m| {
            m.path
                .as_ref()
                .is_some_and(|p| p.starts_with(folder.path()))
        })
        .map(|m| {
            let name = m.path.as_ref().unwrap().file_name().unwrap();
            (name.to_string_lossy().into_owned(), m.family.clone())
        })
        .collect();
    // What the command line opens, :models opens too: also a folder that holds a GGUF file.
    let path = folder.path();
    assert!(opens(path) && opens(&half) && opens(&path.join("small.gguf")));
    assert!(!opens(&path.join("notes.txt")));
    assert_eq!(here[0].0, "half");
    assert_eq!(here[1], ("small.gguf".to_string(), "gguf".to_string()));
    assert_eq!(here.len(), 2);
}
