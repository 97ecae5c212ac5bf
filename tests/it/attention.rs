//! What attention reads: patterns, scores, cuts, on every family and on heads wired by hand; and on the demo model, that the heads
//! found by score are those that copying needs.

use lmscope::edit::Edit;
use lmscope::edit::direction::norm;
use lmscope::edit::schedule::Schedule;
use lmscope::figure::{Body, Cell, Entry, Figure, Grid, Scale, Unit};
use lmscope::instruments::attention::head_scores::{
    CopyScores, HeadScore, HeadScores, Repeated, ablation_of, other_heads,
};
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::progress::WorkProgress;
use lmscope::lab::run::Run;
use lmscope::lab::sample::{Sampling, log_softmax};
use lmscope::lab::writer::Writer;
use lmscope::model::load::Options;
use lmscope::model::network::site::Site;

use super::tools::{edited, every_family, gap, next, prompt, same_bits, values};

const LENGTH: usize = 24;

fn observe(lab: &mut Lab, run: &Run, arguments: &[(&str, &str)]) -> Figure {
    let mut given = Arguments::default();
    for (name, value) in arguments {
        given = given.with(name, value);
    }
    let attention = instrument("attention").unwrap();
    attention.observe(run, &given, lab).unwrap()
}

fn grid(figure: &Figure) -> &Grid {
    match &figure.body {
        Body::Grid(grid) => grid,
        other => panic!("no grid: {other:?}"),
    }
}

/// `[heads][queries][sources]` of a layer.
fn probs(lab: &mut Lab, run: &Run, layer: usize) -> Vec<Vec<Vec<f32>>> {
    let at = Site::AttnProbs.at(layer);
    let recording = lab.record(run, &[at]).unwrap();
    recording.get(at).unwrap().to_vec3().unwrap()
}

fn demo() -> Lab {
    Lab::open("demo", &Options::default()).unwrap()
}

#[test]
fn patterns_are_what_flowed() {
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        let run = Run::plain(prompt(LENGTH));
        let layer = lab.model.card.layers - 1;
        // Not the first of its group, and not the one that a wrong order of groups gives the same values.
        let head = 1;
        let own = probs(&mut lab, &run, layer);
        let (l, h) = (layer.to_string(), head.to_string());
        let at = [
            ("show", "pattern"),
            ("layer", l.as_str()),
            ("head", h.as_str()),
        ];
        let figure = observe(&mut lab, &run, &at);
        let pattern = grid(&figure);
        assert_eq!(pattern.columns.len(), LENGTH);
        for (source, column) in pattern.cells.iter().enumerate() {
            for (row, cell) in column.iter().enumerate() {
                let query = LENGTH - 1 - row;
                assert_eq!(cell.value, own[head][query][source], "{name}");
                assert_eq!(cell.anchor.position, Some(query as u32));
                assert_eq!(cell.anchor.unit, Some(Unit::Head(head as u32)));
                assert_eq!(pattern.rows[row].anchor.position, Some(query as u32));
            }
        }
        // What an edge carries: the length of probability times value, through the head's slice of the projection.
        let v = Site::V.at(layer);
        let recording = lab.record(&run, &[v]).unwrap();
        let v = recording.get(v).unwrap().to_vec3::<f32>().unwrap();
        let shape = lab.model.transformer.blueprint.clone();
        let group = shape.heads / shape.kv_heads;
        for value in ["value", "output"] {
            let mut with = at.to_vec();
            with.push(("value", value));
            let figure = observe(&mut lab, &run, &with);
            for (query, source) in [(LENGTH - 1, 3), (LENGTH - 1, LENGTH - 1), (5, 0)] {
                let own_v = &v[source][head / group];
                let carried = if value == "value" {
                    own_v.clone()
                } else {
                    let transformer = &lab.model.transformer;
                    transformer.head_write(layer, head, own_v).unwrap()
                };
                let square: f64 = carried.iter().map(|x| f64::from(*x).powi(2)).sum();
                let expected = f64::from(own[head][query][source]) * square.sqrt();
                let found = grid(&figure).cells[source][LENGTH - 1 - query].value;
                assert!((f64::from(found) - expected).abs() < 1e-5, "{name} {value}");
            }
        }
    }
}

#[test]
fn the_strongest_sources_of_all_heads_grow_live_as_they_are() {
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        let attention = instrument("attention").unwrap();
        for value in ["probability", "entropy"] {
            let arguments = Arguments::default().with("value", value).with("window", 3);
            assert!(attention.live(&lab.model.card, &arguments));
            let text = prompt(6);
            let mut writer =
                Writer::begin(&mut lab, text, Schedule::none(), Sampling::default()).unwrap();
            next(attention, &mut writer, &arguments, &mut lab);
            let live = next(attention, &mut writer, &arguments, &mut lab);
            let whole = attention
                .observe(&writer.run, &arguments, &mut lab)
                .unwrap();
            let (live, whole) = (grid(&live), grid(&whole));
            assert_eq!(live.rows, whole.rows);
            assert_eq!(live.columns[0], whole.columns[2]);
            for (a, b) in live.cells[0].iter().zip(&whole.cells[2]) {
                assert!((a.value - b.value).abs() < 1e-4, "{name}: {a:?} {b:?}");
                assert_eq!(a.anchor, b.anchor);
            }
        }
        // By hand: the largest but the first.
        let run = Run::plain(prompt(LENGTH));
        let own = probs(&mut lab, &run, 1);
        let figure = observe(&mut lab, &run, &[("layer", "1")]);
        for (query, column) in grid(&figure).cells.iter().enumerate().skip(1) {
            for (head, cell) in column.iter().enumerate() {
                let row = &own[head][query][1..=query];
                let most = row.iter().copied().fold(0.0, f32::max);
                assert_eq!(cell.value, most, "{name}");
                let at = row.iter().position(|p| *p == most).unwrap() + 1;
                assert!(
                    cell.more[0].0.ends_with(&format!(" {at}")),
                    "{:?}",
                    cell.more
                );
            }
        }
    }
}

#[test]
fn what_a_head_writes_is_what_taking_it_away_takes() {
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        let run = Run::plain(prompt(LENGTH));
        let figure = observe(&mut lab, &run, &[("show", "outputs"), ("count", "200")]);
        let Body::Table(table) = &figure.body else {
            panic!("a table")
        };
        let card = lab.model.card.clone();
        assert_eq!(table.pages[0].rows.len(), card.layers * card.heads);
        let at = Site::AttnAdd.at(0);
        let add = |lab: &mut Lab, run: &Run| {
            let recording = lab.record(run, &[at]).unwrap();
            recording.get(at).unwrap().get(LENGTH - 1).unwrap()
        };
        for row in &table.pages[0].rows {
            let (Some(0), Some(Unit::Head(head))) = (row.anchor.layer, row.anchor.unit) else {
                continue;
            };
            let Entry::Number(size) = row.entries[1] else {
                panic!("a size")
            };
            // Behind a norm of the write, taking a head away changes its scale as well.
            if card.norms_writes {
                continue;
            }
            let without = edited(prompt(LENGTH), &[&format!("zero:{head}@z.0")]);
            let lost = (add(&mut lab, &run) - add(&mut lab, &without)).unwrap();
            let length = values(&lost.sqr().unwrap().sum_all().unwrap())[0].sqrt();
            assert!(
                (length - size).abs() < 1e-4 * size.max(1.0),
                "{name}: {length} {size}"
            );
        }
    }
}

/// The card of a head says what its row of the outputs and its row of the pattern say.
#[test]
fn a_head_alone_attends_and_promotes_as_beside_the_others() {
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        let run = Run::plain(prompt(LENGTH));
        let table = |figure: Figure| match figure.body {
            Body::Table(table) => table,
            Body::Grid(_) | Body::Series(_) | Body::Graph(_) | Body::Text(_) => panic!("a table"),
        };
        let position = (LENGTH - 2).to_string();
        let given = [("layer", "1"), ("position", position.as_str())];
        let mut show = |more: &[(&str, &str)]| {
            table(observe(&mut lab, &run, &[given.as_slice(), more].concat()))
        };
        let card = show(&[("show", "head"), ("head", "1")]);
        assert_eq!(card.pages.len(), LENGTH - 1, "{name}: a page a position");
        let page = card.pages.last().unwrap();
        assert_eq!(page.anchor.position, Some(LENGTH as u32 - 2));
        let outputs = show(&[("show", "outputs"), ("count", "200")]);
        let own = outputs.pages[0].rows.iter();
        let own = own
            .clone()
            .find(|row| row.anchor.unit == Some(Unit::Head(1)));
        let own = own.unwrap();
        assert_eq!(page.rows[0].anchor, own.anchor, "{name}");
        assert_eq!(page.rows[0].entries[0], own.entries[2], "{name}");
        assert_eq!(page.rows[0].entries[1], own.entries[3], "{name}");
        for (column, side) in [(2, 4), (4, 5)] {
            let words = page.rows.iter().map(|row| match &row.entries[column] {
                Entry::Text(word) => word.clone(),
                other @ (Entry::Whole(_) | Entry::Number(_) | Entry::Missing) => {
                    panic!("{other:?}")
                }
            });
            let words: Vec<String> = words.collect();
            assert_eq!(Entry::Text(words.join(" ")), own.entries[side], "{name}");
        }
        let given = Arguments::default().with("show", "head");
        let attention = instrument("attention").unwrap();
        let error = attention.observe(&run, &given, &mut lab).unwrap_err();
        assert!(
            error.to_string().contains("show=head is about one head"),
            "{name}: {error}"
        );
    }
}

/// I23: a wired head scores 1, an even one what the mean of its rows says.
#[test]
fn i23_scores_are_the_attention_to_what_the_kind_names() {
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        let text = Repeated::random(&lab.model, 9, 5).unwrap();
        assert_eq!(text.tokens.len(), text.first + 18);
        assert_eq!(
            text.tokens[text.first..text.first + 9],
            text.tokens[text.first + 9..]
        );
        let run = Run::plain(text.tokens.clone());
        let (first, period, length) = (text.first, text.period, text.tokens.len());
        for score in [
            HeadScore::Induction,
            HeadScore::Previous,
            HeadScore::Duplicate,
            HeadScore::Sink,
        ] {
            let found = HeadScores::measure(&mut lab, score, &[(run.clone(), first)]).unwrap();
            // The definitions by offsets, on the second copy.
            let pairs: Vec<(usize, usize)> = match score {
                HeadScore::Induction => (first + period..length)
                    .map(|i| (i, i + 1 - period))
                    .collect(),
                HeadScore::Duplicate => (first + period..length).map(|i| (i, i - period)).collect(),
                HeadScore::Previous => (first + 1..length).map(|i| (i, i - 1)).collect(),
                HeadScore::Sink => (1..length).map(|i| (i, 0)).collect(),
            };
            assert_eq!(found.queries, pairs.len(), "{name} {score:?}");
            for layer in 0..lab.model.card.layers {
                let own = probs(&mut lab, &run, layer);
                for (head, own) in own.iter().enumerate() {
                    let sum: f64 = pairs.iter().map(|(i, j)| f64::from(own[*i][*j])).sum();
                    let expected = sum / pairs.len() as f64;
                    let gap = (found.values[layer][head] - expected).abs();
                    assert!(gap < 1e-6, "{name} {score:?}: {gap}");
                }
                let window = lab.model.transformer.blueprint.layers[layer].window;
                let seen = |i: usize| window.map_or(i + 1, |w| w.min(i + 1));
                let even = pairs.iter().filter(|(i, j)| j + seen(*i) > *i);
                let even: f64 = even.map(|(i, _)| 1.0 / seen(*i) as f64).sum();
                let gap = (found.uniform[layer] - even / pairs.len() as f64).abs();
                assert!(gap < 1e-9, "{name} {score:?}: {gap}");
            }
        }
        // Queries that are nothing read evenly what they see.
        let even = edited(text.tokens.clone(), &["zero@q.*"]);
        let found = HeadScores::measure(&mut lab, HeadScore::Induction, &[(even, first)]).unwrap();
        for (row, even) in found.values.iter().zip(&found.uniform) {
            assert!(
                row.iter().all(|v| (v - even).abs() < 1e-6),
                "{name}: {row:?} {even}"
            );
        }
        let figure = observe(
            &mut lab,
            &Run::plain(vec![]),
            &[("show", "scores"), ("period", "9")],
        );
        let scores = grid(&figure);
        assert_eq!(scores.cells.len(), lab.model.card.heads);
        assert_eq!(scores.cells[1][0].anchor.unit, Some(Unit::Head(1)));
        assert!(figure.notes.iter().any(|n| n.contains("control")));
    }
}

/// Cutting all but a token's predecessor, itself too weak to matter, makes a previous-token head of every head.
#[test]
fn a_head_that_can_read_only_one_token_scores_one() {
    let mut lab = demo();
    let text = Repeated::random(&lab.model, 6, 1).unwrap();
    let length = text.tokens.len();
    let mut edits: Vec<String> = Vec::new();
    for query in 2..length {
        edits.push(format!("cut:1=0..{}@attn_scores.3:{query}", query - 1));
    }
    let edits: Vec<&str> = edits.iter().map(String::as_str).collect();
    let run = edited(text.tokens.clone(), &edits);
    let own = probs(&mut lab, &run, 3);
    let found = HeadScores::measure(&mut lab, HeadScore::Previous, &[(run, 1)]).unwrap();
    let both: f64 = (2..length)
        .map(|i| f64::from(own[1][i][i - 1]) + f64::from(own[1][i][i]))
        .sum::<f64>()
        / (length - 2) as f64;
    assert!((both - 1.0).abs() < 1e-6, "nothing else is left: {both}");
    let itself: f64 =
        (2..length).map(|i| f64::from(own[1][i][i])).sum::<f64>() / (length - 2) as f64;
    assert!((found.values[3][1] - (1.0 - itself)).abs() < 1e-6);
}
#[test]
fn a_cut_hides_what_it_says_and_nothing_else() {
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        let text = prompt(LENGTH);
        let run = Run::plain(text.clone());
        let wanted = [
            Site::AttnScores.at(1),
            Site::AttnProbs.at(1),
            Site::Z.at(1),
            Site::V.at(1),
            Site::ResidPre.at(1),
            Site::Logits.at(0),
        ];
        let get = |lab: &mut Lab, edits: &[&str], at: usize| {
            let run = edited(text.clone(), edits);
            let recording = lab.record(&run, &wanted).unwrap();
            recording.get(wanted[at]).unwrap().clone()
        };
        let logits = |lab: &mut Lab, edits: &[&str]| get(lab, edits, 5);
        let plain = lab.record(&run, &wanted).unwrap();
        let own = plain.get(wanted[5]).unwrap();
        // Nothing cut is nothing changed.
        for nothing in [
            "cut:0=3..6@attn_scores.1*0",
            "cut:0=20..24@attn_scores.1:3..9",
            "cut:0=last@attn_scores.1",
        ] {
            assert!(
                same_bits(&logits(&mut lab, &[nothing]), own),
                "{name} {nothing}"
            );
        }
        // One head, one rectangle: -inf there, every other score keeps its bits, rows sum to one.
        let cut = ["cut:1=3..6@attn_scores.1:8..12"];
        let (before, after) = (plain.get(wanted[0]).unwrap(), get(&mut lab, &cut, 0));
        let (before, after) = (
            before.to_vec3::<f32>().unwrap(),
            after.to_vec3::<f32>().unwrap(),
        );
        let rows = get(&mut lab, &cut, 1).to_vec3::<f32>().unwrap();
        for head in 0..lab.model.card.heads {
            for query in 0..LENGTH {
                let sum: f32 = rows[head][query].iter().sum();
                assert!((sum - 1.0).abs() < 1e-5, "{name}");
                for source in 0..LENGTH {
                    let (a, b) = (before[head][query][source], after[head][query][source]);
                    let inside = head == 1 && (8..12).contains(&query) && (3..6).contains(&source);
                    if inside {
                        assert_eq!(b, f32::NEG_INFINITY, "{name}");
                        assert_eq!(rows[head][query][source], 0.0, "{name}");
                    } else {
                        assert_eq!(a.to_bits(), b.to_bits(), "{name} {head} {query} {source}");
                    }
                }
            }
        }
        // I25: no logit before the first query changes, later ones do.
        let changed = logits(&mut lab, &cut);
        assert!(same_bits(
            &changed.narrow(0, 0, 8).unwrap(),
            &own.narrow(0, 0, 8).unwrap()
        ));
        assert!(gap(&changed, own) > 0.0, "{name}: the cut does something");
        // All sources cut: a head's result is its own value, as if the token stood alone.
        let alone = get(&mut lab, &["cut@attn_scores.1"], 2)
            .to_vec3::<f32>()
            .unwrap();
        let v = plain.get(wanted[3]).unwrap().to_vec3::<f32>().unwrap();
        let group =
            lab.model.transformer.blueprint.heads / lab.model.transformer.blueprint.kv_heads;
        for (position, heads) in alone.iter().enumerate() {
            for (head, z) in heads.iter().enumerate() {
                let near = z.iter().zip(&v[position][head / group]);
                assert!(
                    near.into_iter().all(|(a, b)| (a - b).abs() < 1e-5),
                    "{name}"
                );
            }
        }
        // Half a cut halves the odds.
        let half = get(&mut lab, &["cut:0=3@attn_scores.1:9*0.5"], 1);
        let half = half.to_vec3::<f32>().unwrap()[0][9].clone();
        let full = plain.get(wanted[1]).unwrap().to_vec3::<f32>().unwrap()[0][9].clone();
        let odds = |row: &[f32]| row[3] / row[9];
        assert!((odds(&half) / odds(&full) - 0.5).abs() < 1e-4, "{name}");
    }
}

#[test]
fn a_cut_holds_while_the_model_writes_and_its_receipt_says_what_moved() {
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        let edits: Vec<Edit> = [
            "cut:0=2..5@attn_scores.*",
            "cut:1=1@attn_scores.0:generated",
        ]
        .map(|e| e.parse().unwrap())
        .to_vec();
        let schedule = Schedule::always(edits);
        let text = prompt(7);
        let mut writer = Writer::begin(&mut lab, text, schedule, Sampling::default()).unwrap();
        let mut steps = Vec::new();
        for _ in 0..5 {
            steps.push(writer.step(&mut lab, &[]).unwrap());
        }
        // Token by token through the cache, beside an unedited run in the same batch, and in one pass: the same (I20).
        let run = writer.run.clone();
        let at = [Site::Logits.at(0), Site::AttnProbs.at(0)];
        let whole = lab.record(&run, &at).unwrap();
        let output = writer.output().unwrap();
        let logits = whole.get(at[0]).unwrap();
        let own = values(&logits.get(run.tokens.len() - 1).unwrap());
        let gap = own.iter().zip(&output).map(|(a, b)| (a - b).abs());
        assert!(gap.fold(0.0, f32::max) < 1e-4, "{name}");
        let receipts = lab.receipts(&run).unwrap();
        // The share of attention that moved, over layers and queries, by hand.
        let plain = lab.record(&run.unedited(), &at).unwrap();
        let seen = plain.get(at[1]).unwrap().to_vec3::<f32>().unwrap();
        let window = lab.model.transformer.blueprint.layers[0].window;
        let seen_from = |query: &usize| window.is_none_or(|w| 1 + w > *query);
        let moved: Vec<f32> = (7..run.tokens.len())
            .filter(seen_from)
            .map(|query| seen[1][query][1])
            .collect();
        let expected = moved.iter().sum::<f32>() / moved.len() as f32;
        assert_eq!(receipts[1].fired, moved.len(), "{name}: {:?}", receipts[1]);
        // A head that reads nothing of the other head's edges: layer 0 is untouched by what is cut in it elsewhere.
        assert!(
            (receipts[1].relative - expected).abs() < 1e-5,
            "{name}: {:?}",
            receipts[1]
        );
        assert!(
            receipts[0].control.is_some() && receipts[0].kl.is_some(),
            "{name}"
        );
        assert!(receipts[0].kl.unwrap() > 0.0, "{name}");
    }
}

#[test]
fn cuts_that_can_never_do_anything_are_refused_or_say_why() {
    let mut lab = demo();
    let run = |edit: &str| edited(vec![0, 5, 6, 7], &[edit]);
    for (edit, why) in [
        ("cut:9=1@attn_scores.0", "past the end"),
        ("cut:0=1@attn_scores.0*2", "at most all"),
        ("cut:0=text:\"zebra\"@attn_scores.0", "occurs in the prompt"),
        ("cut:0=1@attn_scores.99", "layers"),
    ] {
        let error = lab.receipts(&run(edit)).unwrap_err().to_string();
        assert!(error.contains(why), "{edit}: {error}");
    }
    let receipts = lab.receipts(&run("cut:0=3@attn_scores.1")).unwrap();
    assert_eq!(receipts[0].fired, 0);
    assert!(
        receipts[0].why.contains("always attend to itself"),
        "{}",
        receipts[0].why
    );
}

/// O11 on patterns: a sink changes no colour.
#[test]
fn a_sink_has_no_part_in_the_colours() {
    for mut lab in every_family() {
        let run = Run::plain(prompt(LENGTH));
        let reach = |figure: &Figure| match grid(figure).scale {
            Scale::Range { hi, .. } => hi,
            other => panic!("{other:?}"),
        };
        let at = [("show", "pattern"), ("layer", "1"), ("value", "value")];
        let plain = observe(&mut lab, &run, &at);
        // The first value a thousand times as long: nobody else's edges change.
        let loud = edited(prompt(LENGTH), &["scale@v.1:0*1000"]);
        let sunk = observe(&mut lab, &loud, &at);
        assert_eq!(reach(&plain), reach(&sunk));
        assert_ne!(grid(&plain).cells[0], grid(&sunk).cells[0]);
        assert_eq!(grid(&plain).cells[1..], grid(&sunk).cells[1..]);
        let counted = [at.to_vec(), vec![("first", "counted")]].concat();
        let counted = observe(&mut lab, &loud, &counted);
        assert!(reach(&counted) > 100.0 * reach(&sunk));
    }
}

#[test]
fn wrong_questions_get_a_sentence() {
    let mut lab = demo();
    let attention = instrument("attention").unwrap();
    let run = Run::plain(vec![0, 5, 6]);
    for (arguments, why) in [
        (vec![("show", "pattern")], "one layer"),
        (
            vec![("show", "pattern"), ("layer", "0"), ("head", "7")],
            "head from 0 to 3",
        ),
        (
            vec![("show", "pattern"), ("layer", "0"), ("value", "entropy")],
            "no entropy",
        ),
        (
            vec![("show", "scores"), ("period", "400")],
            "fit into the context",
        ),
    ] {
        let mut given = Arguments::default();
        for (name, value) in &arguments {
            given = given.with(name, value);
        }
        let error = attention
            .observe(&run, &given, &mut lab)
            .unwrap_err()
            .to_string();
        assert!(error.contains(why), "{arguments:?}: {error}");
    }
    // A text without a repetition has nothing to copy, and the figure says so.
    let figure = observe(&mut lab, &run, &[("show", "scores"), ("on", "prompt")]);
    assert!(figure.notes.iter().any(|n| n.contains("repeats itself")));
}

/// The heads found by score are those whose silence breaks copying.
#[test]
fn the_demo_s_induction_heads_are_those_that_copying_needs() {
    let mut lab = demo();
    let texts: Vec<Repeated> = (11..15)
        .map(|seed| Repeated::random(&lab.model, 20, seed).unwrap())
        .collect();
    assert!(
        texts.iter().all(|t| t.first == 1 && t.tokens[0] == 0),
        "BOS"
    );
    let runs: Vec<(Run, usize)> = texts
        .iter()
        .map(|t| (Run::plain(t.tokens.clone()), t.first))
        .collect();
    let found = HeadScores::measure(&mut lab, HeadScore::Induction, &runs).unwrap();
    let top = found.top(4);
    println!("induction {top:.3?}, evenly {:.3}", found.uniform[0]);
    assert!(
        top[2].1 > 0.7 && top[3].1 < 0.2,
        "three heads stand out: {top:?}"
    );
    let heads: Vec<(usize, usize)> = top[..3].iter().map(|(head, _)| *head).collect();
    let all = CopyScores::measure(&mut lab, &texts, &Schedule::none()).unwrap();
    let without =
        CopyScores::measure(&mut lab, &texts, &Schedule::always(ablation_of(&heads))).unwrap();
    println!("copying {all:?}, without {heads:?} {without:?}");
    assert!(all.right > 0.95 && all.probability > 0.9, "{all:?}");
    assert!(
        without.right < 0.1 && without.probability < 0.05,
        "{without:?}"
    );
    for seed in 0..8 {
        let others = other_heads(&lab, &heads, seed);
        let null =
            CopyScores::measure(&mut lab, &texts, &Schedule::always(ablation_of(&others))).unwrap();
        println!("without {others:?} {null:?}");
        assert!(null.right > 0.5, "{others:?}: {null:?}");
    }
    // The head before them reads the token before; without it they find nothing.
    let previous = HeadScores::measure(&mut lab, HeadScore::Previous, &runs).unwrap();
    let (head, score) = previous.top(1)[0];
    assert!(
        score > 0.9 && head.0 < heads.iter().map(|h| h.0).min().unwrap(),
        "{head:?}"
    );
    let edit = ablation_of(&[head]);
    let blind: Vec<(Run, usize)> = runs
        .iter()
        .map(|(run, first)| {
            let schedule = Schedule::always(edit.clone());
            (
                Run {
                    schedule,
                    ..run.clone()
                },
                *first,
            )
        })
        .collect();
    let lost = HeadScores::measure(&mut lab, HeadScore::Induction, &blind).unwrap();
    for (layer, head) in &heads {
        let (with, without) = (found.values[*layer][*head], lost.values[*layer][*head]);
        assert!(without < 0.3 * with, "{layer}.{head}: {with} {without}");
    }
}

fn knock(lab: &mut Lab, run: &Run, arguments: &[(&str, &str)]) -> Figure {
    let mut given = Arguments::default();
    for (name, value) in arguments {
        given = given.with(name, value);
    }
    let knockout = instrument("knockout").unwrap();
    knockout.observe(run, &given, lab).unwrap()
}

/// Every cell is the run with the cut that it names switched on as an edit.
#[test]
fn a_cell_of_a_knockout_is_a_run_with_that_cut() {
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        // Edits of the run stay in force beside the cuts.
        let text = prompt(9);
        let run = edited(text.clone(), &["scale@mlp_out.0*1.2"]);
        let layers = lab.model.card.layers;
        let probability = |lab: &mut Lab, cut: &str| {
            let edits = ["scale@mlp_out.0*1.2", cut];
            let run = edited(text.clone(), &edits);
            let mut row = lab.last_logits(&run).unwrap();
            log_softmax(&mut row);
            row[7].exp()
        };
        let base = probability(&mut lab, "scale@mlp_out.0*1");
        for (targets, window) in [("last", 1), ("3..9", 2)] {
            let window = window.to_string();
            let arguments = [
                ("token", "#7"),
                ("targets", targets),
                ("sources", "a=1..3; b=6"),
                ("window", window.as_str()),
            ];
            let figure = knock(&mut lab, &run, &arguments);
            assert!(figure.check.unwrap().passed(), "{name}: {:?}", figure.check);
            let grid = grid(&figure);
            let mut moved = 0.0f32;
            for (column, sources) in [(0, "1..3"), (1, "6")] {
                assert_eq!(grid.columns[column].label, ["a", "b"][column]);
                for layer in 0..layers {
                    let last = (layer + window.parse::<usize>().unwrap() / 2).min(layers - 1);
                    let cut = format!("cut:={sources}@attn_scores.{layer}-{last}:{targets}");
                    let expected = probability(&mut lab, &cut) - base;
                    let cell = &grid.cells[column][layer];
                    assert!(
                        (cell.value - expected).abs() < 1e-5,
                        "{name} {cut}: {} {expected}",
                        cell.value
                    );
                    assert_eq!(cell.anchor.layer, Some(layer as u16));
                    moved = moved.max(cell.value.abs());
                }
            }
            assert!(moved > 1e-6, "{name}: the cuts do something");
        }
        let heads = knock(
            &mut lab,
            &run,
            &[
                ("token", "#7"),
                ("by", "head"),
                ("sources", "1..3; 6"),
                ("window", "1"),
                ("value", "relative"),
            ],
        );
        let grid = grid(&heads);
        assert_eq!(grid.columns.len(), lab.model.card.heads);
        let edits = [
            "scale@mlp_out.0*1.2",
            "cut:1=1..3@attn_scores.1:last",
            "cut:1=6@attn_scores.1:last",
        ];
        let mut row = lab.last_logits(&edited(text.clone(), &edits)).unwrap();
        log_softmax(&mut row);
        let expected = row[7].exp() / base - 1.0;
        assert!((grid.cells[1][1].value - expected).abs() < 1e-5, "{name}");
        assert_eq!(grid.cells[1][1].anchor.unit, Some(Unit::Head(1)));
    }
}

/// The relation is read early and the subject after it, as Geva et al. found; random edges lose nothing.
#[test]
fn the_demo_reads_the_subject_where_its_heads_do() {
    let mut lab = demo();
    let text = "The language of the country of Yuki Silva is";
    let run = Run::plain(lab.model.encode(text, false).unwrap());
    let arguments = [
        ("sources", "subject=Yuki Silva; rest; start=0"),
        ("window", "2"),
    ];
    let figure = knock(&mut lab, &run, &arguments);
    let grid = grid(&figure);
    let labels: Vec<&str> = grid.columns.iter().map(|c| c.label.as_str()).collect();
    assert_eq!(labels, ["subject", "rest", "start"]);
    let by_layer = |column: usize| -> Vec<f32> {
        let cells = grid.cells[column].iter();
        cells.map(|c| c.value).collect()
    };
    let (subject, rest, start) = (by_layer(0), by_layer(1), by_layer(2));
    println!("subject {subject:.3?}, rest {rest:.3?}");
    assert!(subject[2] < -0.9 && subject[0] > -0.1, "{subject:?}");
    assert!(subject[6..].iter().all(|v| v.abs() < 0.05), "{subject:?}");
    assert!(
        rest[0] < -0.9 && rest[3..].iter().all(|v| v.abs() < 0.05),
        "{rest:?}"
    );
    assert!(
        start.iter().all(|v| v.abs() < 0.05),
        "what begins the text says nothing"
    );
    let null = |cell: &Cell| {
        let found = cell.more.iter().find(|(name, _)| name == "random edges");
        found.map(|(_, p)| *p)
    };
    // Two tokens have seven others beside them, six have two.
    assert!(grid.cells[0].iter().all(|c| null(c).unwrap() > 0.9));
    assert!(grid.cells[1].iter().all(|c| null(c).is_none()));
    assert!(figure.notes.iter().any(|n| n.contains("strongest")));
    let knockout = instrument("knockout").unwrap();
    for (name, value, why) in [
        ("sources", "zebra", "text that occurs in the run"),
        ("sources", "last", "always attend to itself"),
        ("sources", "1..9; rest", "other groups do not cover"),
        ("targets", "0", "before them"),
        ("targets", "99", "positions of this text"),
        ("heads", "0,9", "heads from 0 to 3"),
        ("by", "head", "nothing with by=head"),
    ] {
        let mut arguments = Arguments::default().with(name, value);
        if value == "head" {
            arguments = arguments.with("heads", 1);
        }
        let error = knockout.observe(&run, &arguments, &mut lab).unwrap_err();
        assert!(error.to_string().contains(why), "{name}={value}: {error}");
    }
}

/// What scores will take is said before: their runs, and, with heads to silence, those of copying with and without them.
#[test]
fn scores_say_what_they_will_take() {
    let lab = Lab::open("demo", &Options::default()).unwrap();
    let of = instrument("attention").unwrap();
    let cost = |arguments: Arguments| of.cost(7, &arguments, &lab.model.card);
    let scores = Arguments::default().with("show", "scores");
    assert_eq!(cost(Arguments::default()), None, "one pass");
    let found = cost(scores.clone()).unwrap();
    assert_eq!((found.passes, found.tokens), (8, 41));
    let found = cost(scores.clone().with("ablate", 3).with("trials", 2)).unwrap();
    assert_eq!((found.passes, found.tokens), (2 * 11, 41));
    let found = cost(scores.with("on", "prompt")).unwrap();
    assert_eq!((found.passes, found.tokens), (1, 7));
}

/// With heads to silence there are two things to do, and one progress for both.
#[test]
fn scores_and_what_they_are_for_have_one_progress() {
    let mut lab = demo();
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let shares = seen.clone();
    lab.progress = WorkProgress::reporting_to(move |done| shares.lock().unwrap().push(done));
    let run = Run::plain(prompt(7));
    for (silence, passes) in [("3", 11.0), ("0", 1.0)] {
        let arguments = [("show", "scores"), ("ablate", silence), ("trials", "2")];
        observe(&mut lab, &run, &arguments);
        let shares = std::mem::take(&mut *seen.lock().unwrap());
        assert!(shares.is_sorted() && shares[0] == 0.0, "{shares:?}");
        // Of the passes over both texts this one is over the second.
        assert_eq!(shares[1], 0.5 / passes, "{shares:?}");
        assert!(shares.iter().all(|s| *s < 1.0), "{shares:?}");
        assert_eq!(shares.len(), if silence == "3" { 11 } else { 2 });
    }
}

/// Where attention of all layers would take too much memory it is recorded a few layers at a time, to the same numbers.
#[test]
fn attention_of_few_layers_at_a_time_is_the_same() {
    let run = Run::plain(prompt(14));
    for mut lab in every_family() {
        let family = lab.model.card.family;
        assert!(lab.attention_layers(run.tokens.len()) >= lab.model.card.layers);
        let asked = [
            ("attention", [("show", "outputs"), ("position", "9")]),
            ("attention", [("show", "scores"), ("on", "prompt")]),
            ("residual", [("by", "source"), ("position", "9")]),
        ];
        let mut seen = Vec::new();
        for budget in [lab.budget, 1] {
            lab.budget = budget;
            seen.push(asked.map(|(name, parameters)| {
                let given = Arguments::default();
                let given = parameters.iter().fold(given, |g, (k, v)| g.with(k, v));
                let figure = instrument(name).unwrap().observe(&run, &given, &mut lab);
                figure.map_err(|e| e.to_string()).map(|f| (f.body, f.notes))
            }));
        }
        assert_eq!(lab.attention_layers(run.tokens.len()), 1);
        assert!(seen[0] == seen[1], "{family}");
        assert!(seen[0][1].is_ok(), "{family}");
    }
}

/// The change of an entropy is that of the cell; the change of a probability is that of the same source.
#[test]
fn differences_are_of_the_same_number() {
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        let loud = edited(prompt(6), &["scale@mlp_add.0*20"]);
        let plain = Run::plain(prompt(6));
        let of = |lab: &mut Lab, value: &str| {
            let asked = [("layer", "1"), ("value", value)];
            let (a, b) = (observe(lab, &loud, &asked), observe(lab, &plain, &asked));
            let less = a.minus(&b).unwrap();
            (a, b, less)
        };
        let (a, b, less) = of(&mut lab, "entropy");
        for (p, column) in grid(&less).cells.iter().enumerate() {
            for (h, cell) in column.iter().enumerate() {
                let expected = grid(&a).cells[p][h].value - grid(&b).cells[p][h].value;
                assert_eq!(cell.value, expected, "{name} {p} {h}");
            }
        }
        let before = probs(&mut lab, &plain, 1);
        let (a, b, less) = of(&mut lab, "probability");
        let mut moved = 0;
        for (p, column) in grid(&less).cells.iter().enumerate() {
            for (h, cell) in column.iter().enumerate() {
                let (own, base) = (&grid(&a).cells[p][h], &grid(&b).cells[p][h]);
                let source: usize = own.more[0].0.rsplit(' ').next().unwrap().parse().unwrap();
                let expected = own.value - before[h][p][source];
                assert!((cell.value - expected).abs() < 1e-6, "{name} {p} {h}");
                if own.more[0].0 != base.more[0].0 {
                    moved += 1;
                    assert_eq!(cell.more[0].0, format!("was {}", base.more[0].0));
                }
            }
        }
        assert!(moved > 0, "{name}: some head reads another source");
    }
}

/// `last` and ends are those of the whole text, wherever its prompt ended; the strongest cell is the one whose number is
/// largest, also where the answer gains.
#[test]
fn a_knockout_is_about_the_run_s_last_token() {
    let (mut gained, mut by_head) = (false, false);
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        let text = Run::plain(prompt(9));
        let written = Run {
            prompt: 5,
            ..text.clone()
        };
        for arguments in [
            vec![("window", "1")],
            vec![("window", "1"), ("targets", "-2"), ("sources", "-4")],
            vec![("window", "1"), ("targets", "last"), ("by", "head")],
        ] {
            let whole = knock(&mut lab, &text, &arguments);
            let figure = knock(&mut lab, &written, &arguments);
            assert_eq!(whole.body, figure.body, "{name} {arguments:?}");
            let grid = grid(&figure);
            if arguments.len() == 1 {
                assert_eq!(grid.columns.len(), 7, "{name}: without the sink");
            }
            let cells = grid.cells.iter().flatten();
            let largest = cells.max_by(|a, b| a.value.abs().total_cmp(&b.value.abs()));
            let largest = largest.unwrap();
            let column = grid.cells.iter().position(|c| c.contains(largest));
            let head = grid.column_axis == "head";
            let label = &grid.columns[column.unwrap()].label;
            let label = format!("{}{label}", if head { "head " } else { "" });
            let layer = largest.anchor.layer.unwrap();
            let note = figure.notes.iter().find(|n| n.starts_with("strongest"));
            let note = note.unwrap();
            let expected =
                format!("strongest: `{label}` knocked out in layers {layer} to {layer} ");
            assert!(note.starts_with(&expected), "{name} {arguments:?}: {note}");
            gained |= largest.value > 0.0;
            by_head |= figure.notes[0].contains("the sources, in the column's head");
        }
        let arguments = [("targets", "generated"), ("sources", "prompt")];
        let generated = knock(&mut lab, &written, &arguments);
        let note = &generated.notes[0];
        assert!(note.contains("positions 5 to 8"), "{name}: {note}");
    }
    assert!(gained, "somewhere the largest change is a gain");
    assert!(by_head);
}

/// What copying is measured under are the edits that the scores were measured under.
#[test]
fn copying_keeps_the_run_s_edits() {
    let mut lab = demo();
    let tokens = lab.model.encode("The capital of France is", false);
    let tokens = tokens.unwrap();
    let arguments = [("show", "scores"), ("ablate", "3"), ("trials", "2")];
    let copying = |lab: &mut Lab, edits: &[&str]| -> Vec<String> {
        let figure = observe(lab, &edited(tokens.clone(), edits), &arguments);
        let found = figure.notes.iter().filter(|n| n.contains("ablated"));
        found.cloned().collect()
    };
    let plain = copying(&mut lab, &[]);
    assert!(plain[0].contains("probability 0.9"), "{plain:?}");
    // Without attention nothing is copied, whatever else is silenced.
    let blind = copying(&mut lab, &["zero@attn_out.*"]);
    assert!(blind[0].contains("probability 0.0"), "{blind:?}");
    assert!(blind[1].contains("ablated 0.0"), "{blind:?}");
}

#[test]
fn text_opens_with_the_heads_that_add_most_and_other_formats_have_all() {
    let mut lab = demo();
    let run = Run::plain(lab.model.encode("The capital of France is", false).unwrap());
    let figure = observe(&mut lab, &run, &[]);
    let Body::Grid(grid) = &figure.body else {
        panic!("a grid")
    };
    let opening = grid.opening.as_ref().unwrap();
    let heads = lab.model.card.heads;
    assert_eq!(
        (opening.rows.len(), grid.rows.len()),
        (12, lab.model.card.layers * heads)
    );
    let write = |name: &str| (lmscope::export::format_named(name).unwrap().write)(&figure).unwrap();
    let text = write("text");
    assert!(
        text.contains("12 of 32 rows: the heads whose outputs"),
        "{text}"
    );
    assert!(write("csv").lines().count() >= grid.rows.len());
    // By hand: the norm of what a head adds, in shares of the stream there.
    let last = run.tokens.len() - 1;
    let wanted: Vec<_> = (0..lab.model.card.layers)
        .flat_map(|l| [Site::Z.at(l), Site::ResidPre.at(l)])
        .collect();
    let recording = lab.record(&run, &wanted).unwrap();
    let row = |at| {
        let row = recording.get(at).unwrap().get(last).unwrap();
        row.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let transformer = &lab.model.transformer;
    let width = transformer.blueprint.head_dim;
    let mut shares: Vec<(f32, usize)> = Vec::new();
    for layer in 0..lab.model.card.layers {
        let (z, stream) = (row(Site::Z.at(layer)), row(Site::ResidPre.at(layer)));
        for head in 0..heads {
            let own = transformer
                .head_write(layer, head, &z[head * width..(head + 1) * width])
                .unwrap();
            shares.push((norm(&own) / norm(&stream), layer * heads + head));
        }
    }
    shares.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut largest: Vec<usize> = shares[..12].iter().map(|(_, row)| *row).collect();
    largest.sort_unstable();
    assert_eq!(opening.rows, largest);
}
