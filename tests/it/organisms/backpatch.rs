//! O1 by its instrument: `backpatch` finds the pairs of layers that mend a question of two hops, no more and no less.

use std::collections::BTreeMap;

use lmscope::figure::{Anchor, Body, Entry, Figure, Table};
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;

use super::Layout;
use super::two_hop::{BRIDGES, LAYERS, LAYOUTS, SHARED, SUBJECTS, TwoHop, pairs, run_of};

fn backpatch(lab: &mut Lab, run: &Run, given: &Arguments) -> Figure {
    let backpatch = instrument("backpatch").unwrap();
    backpatch.observe(run, given, lab).unwrap()
}

/// The numbers of `backpatch` for one question by source and target, as the titles of columns and rows name them.
fn grid(lab: &mut Lab, subject: usize, given: &Arguments) -> BTreeMap<(usize, usize), f32> {
    let run = run_of(lab, subject);
    let figure = backpatch(lab, &run, given);
    let Body::Grid(grid) = &figure.body else {
        panic!("a grid of pairs")
    };
    let mut out = BTreeMap::new();
    for (source, cells) in grid.columns.iter().zip(&grid.cells) {
        for (target, cell) in grid.rows.iter().zip(cells) {
            assert_eq!(cell.anchor.position, Some(2));
            let layer = |anchor: Anchor| usize::from(anchor.layer.unwrap());
            out.insert((layer(source.anchor), layer(target.anchor)), cell.value);
        }
    }
    assert_eq!(out.len(), LAYERS * LAYERS);
    out
}

/// Whether a state of `from` put at `to` ends in the answer: block by block, what is known of the question.
fn solves(world: &TwoHop, (from, to): (usize, usize)) -> bool {
    let step = |(bridge, answer): (bool, bool), block: usize| {
        let answer = answer || (block == world.hop2 && bridge);
        (bridge || block == world.hop1, answer)
    };
    let there = (0..=from).fold((false, false), step);
    (to + 1..LAYERS).fold(there, step).1
}

/// The pairs that `backpatch` finds for each of the six, with the probabilities of the answer that it shows.
#[test]
fn backpatch_finds_exactly_the_pairs_that_theory_names() {
    let named = TwoHop::new(Layout::Llama, 2, 1);
    let mending: Vec<_> = pairs().filter(|p| solves(&named, *p)).collect();
    assert_eq!(mending, [(2, 0), (3, 0)]);
    for layout in LAYOUTS {
        for (hop1, hop2) in [(2, 1), (3, 2), (1, 2)] {
            let world = TwoHop::new(layout, hop1, hop2);
            let mut lab = world.open();
            let what = format!("{layout:?}, hops at {hop1} and {hop2}");
            for subject in 0..6 {
                let given = Arguments::default().with("answer", world.answer(subject));
                for (pair, p) in grid(&mut lab, subject, &given) {
                    let expected = solves(&world, pair);
                    assert_eq!(p > 0.9, expected, "{what}: {pair:?} {p}");
                    assert!(!(0.1..=0.9).contains(&p), "{what}: {pair:?} {p}");
                }
            }
        }
    }
}

/// The states of another question give its own answer, and so ours only where both share it.
#[test]
fn the_control_of_backpatch_succeeds_by_chance_alone() {
    let world = TwoHop {
        second: SHARED,
        ..TwoHop::new(Layout::Llama, 2, 1)
    };
    let mut lab = world.open();
    for subject in 0..6 {
        for other in (0..6).filter(|other| *other != subject) {
            let given = Arguments::default()
                .with("answer", world.answer(subject))
                .with("control", "unrelated")
                .with("unrelated", TwoHop::prompt(other));
            let shared = world.answer(subject) == world.answer(other);
            for (pair, p) in grid(&mut lab, subject, &given) {
                let expected = shared && [(2, 0), (3, 0)].contains(&pair);
                assert_eq!(p > 0.9, expected, "{subject} {other} {pair:?}: {p}");
            }
        }
    }
}

fn number(table: &Table, page: usize, row: usize, column: &str) -> f32 {
    let at = table.columns.iter().position(|c| c == column).unwrap();
    match &table.pages[page].rows[row].entries[at] {
        Entry::Whole(number) => *number as f32,
        Entry::Number(number) => *number,
        Entry::Missing => panic!("no number"),
        Entry::Text(text) => panic!("{column}: {text}"),
    }
}

/// The paper's table: none of six right, all six by some pair, by two of the six pairs that go back; unrelated states never.
#[test]
fn backpatch_tables_six_questions() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("questions.json");
    for ((hop1, hop2), before, share) in [((2, 1), 0.0, 2.0 / 6.0), ((1, 2), 1.0, 1.0)] {
        let world = TwoHop::new(Layout::Llama, hop1, hop2);
        let mut lab = world.open();
        let questions: Vec<serde_json::Value> = (0..6)
            .map(|i| {
                serde_json::json!({"prompt": TwoHop::prompt(i), "answer": world.answer(i),
                    "bridge": BRIDGES[world.first[i]], "entity": SUBJECTS[i]})
            })
            .collect();
        std::fs::write(&file, serde_json::to_vec(&questions).unwrap()).unwrap();
        let given = Arguments::default()
            .with("questions", file.display())
            .with("position", "last")
            .with("tokens", 2);
        let figure = backpatch(&mut lab, &Run::default(), &given);
        let Body::Table(table) = &figure.body else {
            panic!("a table")
        };
        let of = |column: &str| number(table, 0, 0, column);
        assert_eq!(of("questions"), 6.0);
        assert_eq!(of("right before"), before);
        let found = of("pairs that work");
        assert!((found - share).abs() < 1e-6, "{hop1} {hop2}: {found}");
        assert_eq!(of("any pair (oracle)"), 1.0);
        if hop1 > hop2 {
            assert_eq!(of("unrelated: pairs"), 0.0);
            assert_eq!(of("unrelated: any (oracle)"), 0.0);
        }
    }
}

/// The trace: the bridge can be read at the last position from the layer of the first hop on, the answer nowhere.
#[test]
fn backpatch_traces_the_bridge() {
    for hop1 in [1, 2] {
        let world = TwoHop::new(Layout::Llama, hop1, 3 - hop1);
        let mut lab = world.open();
        let run = run_of(&lab, 4);
        let given = Arguments::default()
            .with("show", "trace")
            .with("bridge", BRIDGES[world.first[4]])
            .with("answer", world.answer(4))
            .with("reader", "x is")
            .with("unrelated", TwoHop::prompt(1));
        let figure = backpatch(&mut lab, &run, &given);
        let Body::Grid(grid) = &figure.body else {
            panic!("a grid of layers")
        };
        let column = |what: &str| {
            let at = grid
                .columns
                .iter()
                .position(|c| c.label.starts_with(what) && c.label.ends_with("lens"));
            let cells = &grid.cells[at.unwrap()];
            cells.iter().map(|c| c.value).collect::<Vec<_>>()
        };
        let top = |values: Vec<f32>| -> Vec<bool> { values.iter().map(|v| *v == 1.0).collect() };
        let expected = if hop1 == 1 {
            // Then the answer takes its place.
            [[false, true, false, false], [false, false, true, true]]
        } else {
            [[false, false, true, true], [false; 4]]
        };
        assert_eq!(top(column("bridge")), expected[0], "{hop1}");
        assert_eq!(top(column("answer")), expected[1], "{hop1}");
    }
}
