//! O1 and O10 by activation patching and by knockout: which cells carry the answer from one prompt to another, and which edges
//! it needs, is known one by one.

use std::collections::BTreeMap;

use lmscope::figure::{Body, Unit};
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;

use super::super::tools::edited;
use super::repair::{self, ANSWERS, ASKED, BACKUP, FIRST};
use super::two_hop::{LAYERS, LAYOUTS, SUBJECTS, TwoHop, run_of};

/// The cells of a heat map by layer and column: a position, or a head.
fn cells(of: &str, lab: &mut Lab, run: &Run, given: &Arguments) -> BTreeMap<(usize, usize), f32> {
    let figure = instrument(of).unwrap().observe(run, given, lab).unwrap();
    let Body::Grid(grid) = &figure.body else {
        panic!("a heat map")
    };
    let cells = grid.cells.iter().flatten();
    cells
        .map(|cell| {
            let column = match (cell.anchor.unit, cell.anchor.position) {
                (Some(Unit::Head(head)), _) => head as usize,
                (None, Some(position)) => position as usize,
                other => panic!("no place: {other:?}"),
            };
            (
                (usize::from(cell.anchor.layer.unwrap()), column),
                cell.value,
            )
        })
        .collect()
}

/// Every cell is all or nothing.
fn exactly(found: &BTreeMap<(usize, usize), f32>, carries: &[(usize, usize)], what: &str) {
    for (at, share) in found {
        let expected = f32::from(u8::from(carries.contains(at)));
        assert!((share - expected).abs() < 0.02, "{what}: {at:?} {share}");
    }
    assert!(carries.iter().all(|at| found.contains_key(at)), "{what}");
}

const WAYS: [&str; 2] = ["denoise", "noise"];

/// The subject lies on its own token when block 0 is entered, at the end afterwards; attention brings it in block 0, and the
/// MLPs of both hops write what follows from it.
#[test]
fn patching_follows_the_subject() {
    for layout in LAYOUTS {
        let world = TwoHop::new(layout, 1, 2);
        let mut lab = world.open();
        let run = run_of(&lab, 0);
        let answers = format!("\"{}\" - \"{}\"", world.answer(0), world.answer(3));
        let stream: Vec<_> = (1..LAYERS).map(|l| (l, 2)).chain([(0, 1)]).collect();
        for (site, carries) in [
            ("resid", stream),
            ("attn", vec![(0, 2)]),
            ("mlp", vec![(1, 2), (2, 2)]),
            ("heads", vec![(0, 1)]),
        ] {
            for way in WAYS {
                let given = Arguments::default()
                    .with("corrupt", TwoHop::prompt(3))
                    .with("answer", &answers)
                    .with("site", site)
                    .with("way", way);
                let found = cells("patching", &mut lab, &run, &given);
                exactly(&found, &carries, &format!("{layout:?} {site} {way}"));
            }
        }
    }
}

/// Patched from another question, the first head carries everything, although its ablation loses nothing; once it is silent,
/// the backup does.
#[test]
fn patching_finds_the_head_that_ablation_does_not_miss() {
    for layout in LAYOUTS {
        let mut lab = repair::organism(layout).open();
        let run = repair::run_of(&lab, 2);
        let cut = edited(run.tokens.clone(), &[&repair::silence(FIRST)]);
        for (run, carrier) in [(&run, FIRST), (&cut, BACKUP)] {
            for way in WAYS {
                let given = Arguments::default()
                    .with("corrupt", format!("{} stone", ASKED[1].trim()))
                    .with("answer", format!("\"{}\" - \"{}\"", ANSWERS[2], ANSWERS[1]))
                    .with("site", "heads")
                    .with("way", way);
                let found = cells("patching", &mut lab, run, &given);
                exactly(&found, &[carrier], &format!("{layout:?} {way}"));
            }
        }
    }
}

/// What each knockout takes from an answer that is certain: all, or nothing.
fn lost(lab: &mut Lab, run: &Run, given: &Arguments) -> BTreeMap<(usize, usize), f32> {
    // A model that knows nothing any more spreads over its vocabulary, and so keeps a little.
    let most = 1.0 - 1.0 / (lab.model.card.vocab as f32 - 1.0);
    let mut found = cells("knockout", lab, run, given);
    found.values_mut().for_each(|change| *change /= -most);
    found
}

#[test]
fn knockout_finds_the_one_edge_that_is_needed() {
    for layout in LAYOUTS {
        let world = TwoHop::new(layout, 1, 2);
        let mut lab = world.open();
        for subject in [0, 5] {
            let run = run_of(&lab, subject);
            let given = Arguments::default().with("window", 1);
            let found = lost(&mut lab, &run, &given);
            exactly(&found, &[(0, 1)], &format!("{layout:?} by source"));
            let given = given.with("by", "head").with("sources", SUBJECTS[subject]);
            let found = lost(&mut lab, &run, &given);
            exactly(&found, &[(0, 1)], &format!("{layout:?} by head"));
        }
    }
}

/// One layer at a time nothing is lost, as one head stands in for the other; cut in both, everything is.
#[test]
fn knockout_needs_a_window_over_both_heads() {
    for layout in LAYOUTS {
        let mut lab = repair::organism(layout).open();
        let run = repair::run_of(&lab, 1);
        let given = Arguments::default().with("sources", ASKED[1]);
        let narrow = lost(&mut lab, &run, &given.clone().with("window", 1));
        exactly(&narrow, &[], &format!("{layout:?}: a layer"));
        let wide = lost(&mut lab, &run, &given.with("window", 3));
        // Three layers around 0 and 1 hold both heads; around 2 the second alone.
        for (at, change) in wide {
            assert_eq!(change > 0.9, at.0 < 2, "{layout:?} {at:?}: {change}");
        }
    }
}
