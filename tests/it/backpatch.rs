//! Back-patching: what is known of O1 comes out exactly, every cell is the whole run with that state put in, and the demo's
//! held-out questions are set right more often than by another question's state.

use std::collections::BTreeSet;

use candle_core::Tensor;
use lmscope::figure::{Body, Cell, Entry, Figure, Grid, Table};
use lmscope::instruments::backpatch::layer_pairs::WantedAnswer;
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::pass::Patch;
use lmscope::lab::progress::WorkProgress;
use lmscope::lab::run::Run;
use lmscope::lab::sample::log_softmax;
use lmscope::model::network::site::Site;

use super::demo::demo;
use super::organisms::Layout;
use super::organisms::two_hop::{ANSWERS, BRIDGES, SHARED, SUBJECTS, TwoHop, run_of};
use super::tools::{edited, every_family, prompt, read_again, values};

fn observe(lab: &mut Lab, run: &Run, arguments: &Arguments) -> Figure {
    let of = instrument("backpatch").unwrap();
    of.observe(run, arguments, lab).unwrap()
}

fn refused(lab: &mut Lab, run: &Run, arguments: &Arguments) -> String {
    let of = instrument("backpatch").unwrap();
    of.observe(run, arguments, lab).unwrap_err().to_string()
}

fn grid(figure: &Figure) -> &Grid {
    match &figure.body {
        Body::Grid(grid) => grid,
        _ => panic!("a grid"),
    }
}

fn table(figure: &Figure) -> &Table {
    match &figure.body {
        Body::Table(table) => table,
        _ => panic!("a table"),
    }
}

fn number(cell: &Cell, name: &str) -> f32 {
    let found = cell.more.iter().find(|(n, _)| n == name);
    found
        .unwrap_or_else(|| panic!("{name} in {:?}", cell.more))
        .1
}

/// Pairs (source, target) whose cell passes.
fn pairs(grid: &Grid, passes: impl Fn(&Cell) -> bool) -> BTreeSet<(usize, usize)> {
    let all = grid.cells.iter().enumerate().flat_map(|(source, column)| {
        let rows = column.iter().enumerate();
        rows.map(move |(target, cell)| (source, target, cell))
    });
    all.filter(|(.., cell)| passes(cell))
        .map(|(s, t, _)| (s, t))
        .collect()
}

fn probability(mut logits: Vec<f32>, token: usize) -> f32 {
    log_softmax(&mut logits);
    logits[token].exp()
}

fn length(t: &Tensor) -> f32 {
    values(t).iter().map(|v| v * v).sum::<f32>().sqrt()
}

#[test]
fn every_cell_is_the_whole_run_with_that_state_put_in() {
    for mut lab in every_family() {
        let layers = lab.model.card.layers;
        for (edits, position) in [(&[][..], "-1"), (&["scale@mlp_out.0*1.4"], "7")] {
            let run = edited(prompt(12), edits);
            let arguments = Arguments::default()
                .with("answer", "#17")
                .with("position", position);
            let at = if position == "-1" { 11 } else { 7 };
            let figure = observe(&mut lab, &run, &arguments);
            let other = lab.unrelated(run.seed, 12).unwrap();
            let sources: Vec<_> = (0..layers).map(|l| Site::ResidPost.at(l)).collect();
            let own = lab.record(&run, &sources).unwrap();
            let away = lab.record(&other, &sources).unwrap();
            let there = if at == 11 { other.tokens.len() - 1 } else { at };
            let grid = grid(&figure);
            assert_eq!((grid.rows.len(), grid.columns.len()), (layers, layers));
            for (s, column) in grid.cells.iter().enumerate() {
                for (t, cell) in column.iter().enumerate() {
                    let mut again = |value: Tensor| {
                        let patch = Patch::new(sources[t], at, value);
                        let row = read_again(&mut lab, &run, 11, &[patch]);
                        probability(row, 17)
                    };
                    let (state, null) = (
                        own.get(sources[s]).unwrap().get(at).unwrap(),
                        away.get(sources[s]).unwrap().get(there).unwrap(),
                    );
                    assert!((cell.value - again(state)).abs() < 1e-6);
                    assert!((number(cell, "unrelated") - again(null)).abs() < 1e-6);
                    let anchor = cell.anchor;
                    assert_eq!(
                        (anchor.layer, anchor.position),
                        (Some(s as u16), Some(at as u32))
                    );
                    let lengths =
                        [s, t].map(|l| length(&own.get(sources[l]).unwrap().get(at).unwrap()));
                    assert!((number(cell, "‖h‖ ratio") - lengths[0] / lengths[1]).abs() < 1e-4);
                }
            }
            // The diagonal is the run; beside the own states stand others.
            let plain = probability(lab.last_logits(&run).unwrap(), 17);
            assert!((0..layers).all(|l| (grid.cells[l][l].value - plain).abs() < 1e-6));
            let apart = pairs(grid, |c| {
                (number(c, "random") - number(c, "unrelated")).abs() > 1e-7
            });
            assert!(apart.len() >= layers, "{} {apart:?}", lab.model.card.name);
            // Scaled to what it replaces, a state put where it was is still the run.
            let scaled = observe(
                &mut lab,
                &run,
                &arguments.clone().with("length", "replaced"),
            );
            let scaled = self::grid(&scaled);
            assert!((0..layers).all(|l| (scaled.cells[l][l].value - plain).abs() < 1e-6));
            // Where the stream is normed all states are of one length.
            let stretched = pairs(grid, |c| (number(c, "‖h‖ ratio") - 1.0).abs() > 0.05);
            let moved = |(s, t): &(usize, usize)| {
                (scaled.cells[*s][*t].value - grid.cells[*s][*t].value).abs() > 1e-7
            };
            // Before the end a state is only read through norms, which do not see its length.
            assert!(at != 11 || stretched.is_empty() || stretched.iter().any(moved));
        }
    }
}

#[test]
fn is_mended_by_exactly_two_pairs_and_shows_its_bridge() {
    for layout in [Layout::Llama, Layout::Gpt2] {
        let world = TwoHop::new(layout, 2, 1);
        let mut lab = world.open();
        for subject in 0..6 {
            let run = run_of(&lab, subject);
            let bridge = BRIDGES[world.first[subject]];
            let arguments = Arguments::default()
                .with("answer", world.answer(subject))
                .with("bridge", bridge)
                .with("unrelated", TwoHop::prompt((subject + 1) % 6));
            let expected = BTreeSet::from([(2, 0), (3, 0)]);
            let figure = observe(&mut lab, &run, &arguments);
            assert_eq!(pairs(grid(&figure), |c| c.value > 0.5), expected);
            assert!(pairs(grid(&figure), |c| number(c, "unrelated") > 0.5).is_empty());
            assert!(
                figure.notes[1].contains("2 of 6 pairs (33 %, 10 to 70 %; at least one pair: yes)")
            );
            assert!(
                figure.notes[1].contains("0 of 6 pairs (0 %, 0 to 39 %; at least one pair: no)")
            );
            let written = arguments
                .clone()
                .with("measure", "success")
                .with("tokens", 2);
            let figure = observe(&mut lab, &run, &written);
            assert_eq!(pairs(grid(&figure), |c| c.value > 0.5), expected);
            // An id is looked for by the letters of its token.
            let tokenizer = lab.model.tokenizer().unwrap();
            let id = tokenizer.single(world.answer(subject)).unwrap();
            let by_id = written.clone().with("answer", format!("#{id}"));
            assert_eq!(observe(&mut lab, &run, &by_id).body, figure.body);
            let label = &grid(&figure).cells[2][0].label;
            // Marked where the matched control gives the answer, too.
            let label = label.trim_start_matches('~');
            assert!(label.starts_with(world.answer(subject)), "{label}");
            // The bridge is on top from the layer of the first hop on, the answer nowhere.
            let trace = arguments
                .with("show", "trace")
                .with("reader", "it is")
                .with("placeholder", "it");
            let figure = observe(&mut lab, &run, &trace);
            let column = |name: &str, what: &str| -> Vec<f32> {
                let grid = grid(&figure);
                let at = grid.columns.iter().position(|c| c.label == name).unwrap();
                grid.cells[at].iter().map(|c| number(c, what)).collect()
            };
            let bridge = column("bridge 2 lens", "rank");
            assert!(
                bridge[0] > 0.0 && bridge[1] > 0.0 && bridge[2..] == [0.0, 0.0],
                "{bridge:?}"
            );
            assert!(
                column("answer 2 lens", "rank")
                    .iter()
                    .all(|rank| *rank > 0.0)
            );
            // The reader's last block says a bridge that lies in its slot, so it reads one that is put in below.
            assert_eq!(column("bridge 2 scope", "rank")[2], 0.0);
            assert_eq!(column("bridge 2 oracle", "rank")[3], 0.0);
            let told = figure
                .notes
                .iter()
                .any(|n| n.contains(&TwoHop::prompt((subject + 1) % 6)) && n.ends_with("seed 1"));
            assert!(told, "the unrelated text is named: {:?}", figure.notes);
            // The unrelated question has another bridge to say.
            let away = column("bridge 2 scope", "rank, control");
            assert!(away[2] > 0.0, "{away:?}");
        }
    }
}

/// What another question's state brings is its own answer: right as often as answers are shared.
#[test]
fn an_unrelated_state_is_right_by_chance_only() {
    let world = TwoHop {
        second: SHARED,
        ..TwoHop::new(Layout::Llama, 2, 1)
    };
    let mut lab = world.open();
    let (mut found, mut chance) = (0, 0);
    for subject in 0..6 {
        for shift in 1..6 {
            let other = (subject + shift) % 6;
            let arguments = Arguments::default()
                .with("answer", world.answer(subject))
                .with("unrelated", TwoHop::prompt(other))
                .with("control", "unrelated");
            let run = run_of(&lab, subject);
            let figure = observe(&mut lab, &run, &arguments);
            assert!(figure.title.contains("control: unrelated"));
            let hits = pairs(grid(&figure), |c| c.value > 0.5);
            assert!(
                hits.is_empty() || hits == BTreeSet::from([(2, 0), (3, 0)]),
                "{hits:?}"
            );
            found += usize::from(!hits.is_empty());
            chance += usize::from(world.answer(subject) == world.answer(other));
        }
    }
    assert_eq!((found, chance), (8, 8), "of 30");
}

/// The six questions of O1 as a file, each hop beside them.
fn questions(world: &TwoHop, folder: &std::path::Path) -> std::path::PathBuf {
    let all: Vec<_> = (0..6)
        .map(|s| {
            serde_json::json!({
                "prompt": TwoHop::prompt(s),
                "answer": [world.answer(s)],
                "bridge": BRIDGES[world.first[s]],
                "entity": SUBJECTS[s].trim(),
                // What it answers alone, as far as it knows: the bridge; and never an answer.
                "first": TwoHop::prompt(s),
                "second": TwoHop::prompt((s + 1) % 6),
            })
        })
        .collect();
    let path = folder.join("hops.json");
    std::fs::write(&path, serde_json::to_string(&all).unwrap()).unwrap();
    path
}

fn entry(table: &Table, case: &str, at: &str, column: &str) -> f32 {
    let row = table.pages[0].rows.iter().find(|row| {
        row.entries[0] == Entry::Text(case.into()) && row.entries[1] == Entry::Text(at.into())
    });
    let column = table.columns.iter().position(|c| c == column).unwrap();
    match &row.unwrap_or_else(|| panic!("{case}")).entries[column] {
        Entry::Whole(n) => *n as f32,
        Entry::Number(n) => *n,
        Entry::Missing => panic!("no number"),
        Entry::Text(text) => panic!("{text}"),
    }
}

#[test]
fn o1s_table_counts_by_case() {
    let folder = tempfile::tempdir().unwrap();
    let world = TwoHop::new(Layout::Llama, 2, 1);
    let mut lab = world.open();
    let path = questions(&world, folder.path());
    let arguments = Arguments::default()
        .with("questions", path.display())
        .with("tokens", 2);
    let nothing = Run {
        seed: 1,
        ..Run::default()
    };
    let figure = observe(&mut lab, &nothing, &arguments);
    let table = table(&figure);
    let at = |case: &str, column: &str| entry(table, case, "last", column);
    assert_eq!(at("all", "questions"), 6.0);
    assert_eq!(at("all", "right before"), 0.0);
    assert_eq!(at("all", "any pair (oracle)"), 1.0);
    assert!((at("all", "pairs that work") - 2.0 / 6.0).abs() < 1e-6);
    assert_eq!(at("all", "unrelated: any (oracle)"), 0.0);
    // It goes on with the bridge after the question, which is what the file calls the first hop.
    assert_eq!(at("only the first hop known", "questions"), 6.0);
    // At the entity nothing of the hops is carried.
    assert_eq!(entry(table, "all", "entity", "any pair (oracle)"), 0.0);
    assert_eq!(
        table.pages[1].rows.len(),
        12,
        "each question at both places"
    );
    let last = table.pages[1].rows[1].entries.last().unwrap();
    assert_eq!(*last, Entry::Text("2 → 0".into()));
    // All six alike, so that every draw of them is; and the control has none.
    assert!((at("all", "low") - 2.0 / 6.0).abs() < 1e-6);
    let verdict = table.columns.iter().position(|c| c == "against matched");
    for (place, word) in [("last", "more"), ("entity", "no more")] {
        let rows = table.pages[0].rows.iter();
        let row = rows
            .into_iter()
            .find(|row| row.entries[..2] == ["all", place].map(Entry::from))
            .unwrap();
        assert_eq!(row.entries[verdict.unwrap()], Entry::from(word), "{place}");
    }
    let said = figure.notes.join("\n");
    assert!(
        said.contains(
            "of 6 questions that are answered wrongly without a patch, some pair at last sets right 6 of 6 (1.00, 0.61 to 1.00); controls: with the state of the same question about another entity 0 of 6"
        )
    );
    // The order of the hops that answers by itself.
    let right = TwoHop::new(Layout::Llama, 1, 2);
    let path = questions(&right, folder.path());
    let arguments = arguments
        .with("questions", path.display())
        .with("position", "last");
    let figure = observe(&mut right.open(), &nothing, &arguments);
    assert_eq!(
        entry(
            self::table(&figure),
            "right by itself (kept right)",
            "last",
            "questions"
        ),
        6.0
    );
    assert_eq!(self::table(&figure).pages[1].rows.len(), 6);
}

#[test]
fn every_rate_of_any_pair_is_called_an_oracles() {
    let world = TwoHop::new(Layout::Llama, 2, 1);
    let mut lab = world.open();
    let folder = tempfile::tempdir().unwrap();
    let path = questions(&world, folder.path());
    let nothing = Run {
        seed: 1,
        ..Run::default()
    };
    let arguments = Arguments::default().with("questions", path.display());
    let figure = observe(&mut lab, &nothing, &arguments);
    for text in table(&figure).columns.iter().chain(&figure.notes) {
        let any =
            text.split([' ', ':', ';', '(']).any(|word| word == "any") && text.contains("pair");
        assert!(
            !any && !text.contains("some pair") || text.contains("oracle"),
            "{text}"
        );
    }
    assert!(
        table(&figure)
            .columns
            .iter()
            .filter(|c| c.contains("oracle"))
            .count()
            == 4
    );
}

#[test]
fn a_stopped_table_keeps_what_it_has() {
    use std::sync::atomic::Ordering;
    let world = TwoHop::new(Layout::Llama, 2, 1);
    let mut lab = world.open();
    let folder = tempfile::tempdir().unwrap();
    let path = questions(&world, folder.path());
    let arguments = Arguments::default().with("questions", path.display());
    let nothing = Run {
        seed: 1,
        ..Run::default()
    };
    let cancel = lab.cancel.clone();
    lab.progress = WorkProgress::reporting_to(move |done| {
        if done > 0.4 {
            cancel.store(true, Ordering::Relaxed);
        }
    });
    let part = observe(&mut lab, &nothing, &arguments);
    assert!(
        part.notes.last().unwrap().contains("stopped after 3 of 6"),
        "{:?}",
        part.notes
    );
    assert_eq!(entry(table(&part), "all", "last", "questions"), 3.0);
    lab.progress = WorkProgress::default();
    let whole = observe(&mut lab, &nothing, &arguments);
    let anew = observe(&mut world.open(), &nothing, &arguments);
    assert_eq!(whole.body, anew.body);
}

#[test]
fn what_cannot_be_asked_is_refused_in_a_sentence() {
    let world = TwoHop::new(Layout::Llama, 2, 1);
    let mut lab = world.open();
    let run = run_of(&lab, 0);
    let with = |name: &str, value: &str| Arguments::default().with(name, value);
    for (arguments, why) in [
        (with("entity", "Nobody"), "occurs in the prompt"),
        (with("position", "entity"), "`entity`"),
        (with("position", "3"), "0 to 2"),
        (with("questions", "nowhere.json"), "not both"),
        (
            with("show", "trace").with("placeholder", "y"),
            "occurs in the reader",
        ),
        (with("show", "trace").with("position", "entity"), "`entity`"),
        (with("answer", "#99999"), "token id below"),
        (with("answer", "|"), "at least one text"),
    ] {
        let error = refused(&mut lab, &run, &arguments);
        assert!(error.contains(why), "{arguments:?}: {error}");
    }
    let nothing = Run {
        seed: 1,
        ..Run::default()
    };
    let error = refused(&mut lab, &nothing, &with("questions", "nowhere.json"));
    assert!(error.contains("nowhere.json"), "{error}");
    assert!(ANSWERS.contains(&world.answer(0)));
}

/// Judged on the demo: questions whose second hop was never trained together with the first.
#[test]
fn held_out_questions_are_set_right_three_times_as_often_as_by_an_unrelated_state() {
    let mut lab = demo();
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/lists/hops.json");
    let arguments = Arguments::default()
        .with("questions", path.display())
        .with("position", "last")
        .with("measure", "probability");
    let nothing = Run {
        seed: 1,
        ..Run::default()
    };
    let figure = observe(&mut lab, &nothing, &arguments);
    let wrong = |column: &str| {
        entry(
            table(&figure),
            "wrong by itself (set right)",
            "last",
            column,
        )
    };
    println!("{:#?}", figure.notes);
    assert_eq!(entry(table(&figure), "all", "last", "questions"), 144.0);
    assert!(wrong("questions") >= 70.0);
    let (own, unrelated) = (wrong("any pair (oracle)"), wrong("unrelated: any (oracle)"));
    assert!(
        own >= 0.2 && own >= 3.0 * unrelated,
        "{own} beside {unrelated}"
    );
    // The matched control is the harder one, and is beaten too.
    let matched = wrong("matched: any (oracle)");
    assert!(
        matched > unrelated && own > matched,
        "{own} beside {matched}"
    );
    // Pair by pair the own states do better than either null.
    assert!(wrong("pairs that work") >= 3.0 * wrong("unrelated: pairs"));
    assert!(wrong("pairs that work") > 2.0 * wrong("random: pairs"));
}

/// What ends a text is never written into it, and what holds a part of a letter is no text: no answers to look for there.
#[test]
fn an_end_is_no_answer_to_look_for() {
    let lab = demo();
    let end = lab.model.tokenizer().unwrap().eos()[0];
    let known = 0..lab.model.known_tokens() as u32;
    let part = known.into_iter().find(|id| {
        let bytes = lab.model.bytes(*id);
        !bytes.is_empty() && String::from_utf8(bytes).is_err()
    });
    let none = [(end, None), (part.unwrap(), None)];
    let some = none.map(|(id, _)| (id, Some(10)));
    for (end, tokens) in none.into_iter().chain(some) {
        let given = WantedAnswer::new(&lab, "answer", &[format!("#{end}")], tokens);
        let favoured = WantedAnswer::top_prediction(&lab, "answer", end, tokens);
        for wanted in [given, favoured] {
            match (wanted, tokens) {
                (Ok(wanted), None) => assert_eq!(wanted.firsts, [end]),
                (Err(error), Some(_)) => {
                    assert!(error.to_string().contains("use measure=probability"));
                }
                (other, _) => panic!("{tokens:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn an_unrelated_prompt_is_a_turn_of_chat_where_it_is_said() {
    let mut lab = demo();
    let run = Run::plain(lab.model.encode("The capital of France is", true).unwrap());
    let text = "Tell me about Japan.";
    let arguments = Arguments::default()
        .with("answer", " Paris")
        .with("unrelated", text)
        .with("chat", "yes");
    let figure = observe(&mut lab, &run, &arguments);
    let [source, target] = [6, 2];
    let found = number(&grid(&figure).cells[source][target], "unrelated");
    let (from, to) = (Site::ResidPost.at(source), Site::ResidPost.at(target));
    let last = run.tokens.len() - 1;
    let paris = lab.model.tokenizer().unwrap().single(" Paris").unwrap() as usize;
    let mut by_hand = |chat: bool| {
        let other = Run::plain(lab.model.encode(text, chat).unwrap());
        let recording = lab.record(&other, &[from]).unwrap();
        let value = recording.get(from).unwrap();
        let patch = Patch::new(to, last, value.get(other.tokens.len() - 1).unwrap());
        probability(read_again(&mut lab, &run, last, &[patch]), paris)
    };
    let (chat, raw) = (by_hand(true), by_hand(false));
    assert!((found - chat).abs() < 1e-6, "{found} {chat} {raw}");
    assert!((found - raw).abs() > 1e-6, "{found} {raw}");
}

/// What can be said before a long table begins is said then, and a question is never unrelated to itself.
#[test]
fn a_table_checks_its_questions_first_and_has_a_control_for_one() {
    let folder = tempfile::tempdir().unwrap();
    let world = TwoHop::new(Layout::Llama, 2, 1);
    let mut lab = world.open();
    let path = folder.path().join("few.json");
    let write = |all: &serde_json::Value| std::fs::write(&path, all.to_string()).unwrap();
    let own = |entity: &str| serde_json::json!({"prompt": TwoHop::prompt(0), "answer": world.answer(0), "entity": entity});
    let arguments = Arguments::default()
        .with("questions", path.display())
        .with("measure", "probability");
    let nothing = Run {
        seed: 1,
        ..Run::default()
    };
    write(&serde_json::json!([own(SUBJECTS[0].trim()), own("Nobody")]));
    let of = instrument("backpatch").unwrap();
    let error = of.observe(&nothing, &arguments, &mut lab).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("question 2") && error.contains("Nobody"),
        "{error}"
    );
    // Alone, the others' state is that of a text, and mends nothing.
    write(&serde_json::json!([own(SUBJECTS[0].trim())]));
    let figure = observe(&mut lab, &nothing, &arguments);
    let of_all = |column: &str| entry(table(&figure), "all", "last", column);
    assert_eq!(of_all("any pair (oracle)"), 1.0);
    assert_eq!(of_all("unrelated: any (oracle)"), 0.0);
    let note = "for 1 of 1 questions no other one is unrelated";
    assert!(
        figure.notes.iter().any(|n| n.contains(note)),
        "{:?}",
        figure.notes
    );
    // A row counts the questions that have its place, in every column.
    let mut right = serde_json::json!({"prompt": TwoHop::prompt(1), "answer": ""});
    let favoured = lab.model.encode(&TwoHop::prompt(1), false).unwrap();
    let row = lab.last_logits(&Run::plain(favoured)).unwrap();
    let best = (0..row.len())
        .max_by(|a, b| row[*a].total_cmp(&row[*b]))
        .unwrap();
    right["answer"] = format!("#{best}").into();
    write(&serde_json::json!([own(SUBJECTS[0].trim()), right]));
    let figure = observe(&mut lab, &nothing, &arguments);
    let at = |place: &str, column: &str| entry(table(&figure), "all", place, column);
    assert_eq!(
        (at("last", "questions"), at("last", "right before")),
        (2.0, 0.5)
    );
    assert_eq!(
        (at("entity", "questions"), at("entity", "right before")),
        (1.0, 0.0)
    );
}

/// Trials that write have no unedited run beside them, which a condition on its probability would need.
#[test]
fn conditions_on_probabilities_are_refused_where_trials_write() {
    let world = TwoHop::new(Layout::Llama, 2, 1);
    let mut lab = world.open();
    let tokens = lab.model.encode(&TwoHop::prompt(0), false).unwrap();
    let edit = format!("zero@resid_pre.1:generated when p(\"{}\")<2", SUBJECTS[0]);
    let run = edited(tokens, &[&edit]);
    let of = instrument("backpatch").unwrap();
    let asked = |measure: &str| {
        Arguments::default()
            .with("answer", world.answer(0))
            .with("measure", measure)
            .with("tokens", 3)
    };
    let error = of.observe(&run, &asked("success"), &mut lab).unwrap_err();
    assert!(error.to_string().contains("measure=probability"), "{error}");
    of.observe(&run, &asked("probability"), &mut lab).unwrap();
}

/// The token that begins every text has one state, so the null of the first position is taken elsewhere.
#[test]
fn the_first_position_has_a_control_of_its_own() {
    let mut lab = demo();
    let run = Run::plain(lab.model.encode("The capital of France is", false).unwrap());
    let figure = observe(&mut lab, &run, &Arguments::default().with("position", 0));
    let Body::Grid(grid) = &figure.body else {
        panic!("a grid")
    };
    let differ = grid.cells.iter().flatten().filter(|cell| {
        let number = |name: &str| cell.more.iter().find(|(n, _)| n == name).unwrap().1;
        (number("own") - number("unrelated")).abs() > 1e-6
    });
    assert!(differ.count() > 8);
}

/// Every prompt of a question is a turn of chat where that is said: its own, the unrelated one and both hops.
#[test]
fn a_table_asks_its_questions_as_turns_of_chat_where_it_is_said() {
    let mut lab = demo();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chat.json");
    let (own, other) = ("The capital of France is", "Tell me about Japan.");
    let favoured = |lab: &mut Lab, tokens: Vec<u32>| {
        let row = lab.last_logits(&Run::plain(tokens)).unwrap();
        let best = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]));
        best.unwrap()
    };
    // What is asked for is what the model says to it as a turn of chat: raw it says something else.
    let tokens = |lab: &Lab, text: &str, chat: bool| lab.model.encode(text, chat).unwrap();
    let [answer, raw] = [true, false].map(|chat| {
        let run = tokens(&lab, own, chat);
        favoured(&mut lab, run)
    });
    assert_ne!(answer, raw);
    let said = |id: usize| format!("#{id}");
    let questions = serde_json::json!([
        {"prompt": own, "answer": said(answer), "second": own},
        {"prompt": other, "answer": said(raw), "bridge": said(answer), "first": own},
    ]);
    std::fs::write(&path, questions.to_string()).unwrap();
    let arguments = Arguments::default()
        .with("questions", path.display())
        .with("measure", "probability");
    let nothing = Run {
        seed: 1,
        ..Run::default()
    };
    let mut figures = ["yes", "no"].map(|chat| {
        let arguments = arguments.clone().with("chat", chat);
        observe(&mut lab, &nothing, &arguments)
    });
    let layers = lab.model.card.layers;
    for (figure, chat) in figures.iter_mut().zip([true, false]) {
        let run = Run::plain(tokens(&lab, own, chat));
        let away = Run::plain(tokens(&lab, other, chat));
        let sites: Vec<_> = (0..layers).map(|l| Site::ResidPost.at(l)).collect();
        let [here, there] = [&run, &away].map(|of| {
            let recording = lab.record(of, &sites).unwrap();
            let last = of.tokens.len() - 1;
            let state = |at: &_| recording.get(*at).unwrap().get(last).unwrap();
            sites.iter().map(state).collect::<Vec<Tensor>>()
        });
        let last = run.tokens.len() - 1;
        let mut share = |states: &[Tensor]| {
            let (mut hits, mut all) = (0, 0);
            for (source, state) in states.iter().enumerate() {
                for target in &sites[..source] {
                    let patch = Patch::new(*target, last, state.clone());
                    let row = read_again(&mut lab, &run, last, &[patch]);
                    let best = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]));
                    hits += usize::from(best == Some(answer));
                    all += 1;
                }
            }
            hits as f32 / all as f32
        };
        let expected = [share(&here), share(&there)];
        let asked = &table(figure).pages[1].rows;
        let of = |row: usize, column: &str| {
            let at = table(figure).columns.iter().position(|c| c == column);
            asked[row].entries[at.unwrap()].clone()
        };
        for (column, share) in ["pairs that work", "unrelated: pairs"]
            .into_iter()
            .zip(expected)
        {
            assert_eq!(of(0, column), Entry::Number(share), "{chat} {column}");
        }
        assert_eq!(
            of(0, "right before"),
            Entry::Number(f32::from(u8::from(chat)))
        );
        let hop = if chat { "known" } else { "not known" };
        for (row, said) in [
            (0, format!("second hop {hop}")),
            (1, format!("first hop {hop}")),
        ] {
            let Entry::Text(text) = of(row, "case") else {
                panic!("a text")
            };
            assert!(text.contains(&said), "{chat}: {text}");
        }
    }
}
