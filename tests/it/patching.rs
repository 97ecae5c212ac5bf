//! Activation patching: on every family, every cell against the whole run patched by hand, and on the demo the heads that
//! it finds for the indirect object are those whose ablation breaks the task.

use candle_core::Tensor;
use lmscope::edit::receipt::range as draws_range;
use lmscope::figure::{Body, Cell, Figure, Grid, Unit};
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::draws::draw_seed;
use lmscope::lab::pairs::{embedding_spread, noised};
use lmscope::lab::pass::Patch;
use lmscope::lab::progress::WorkProgress;
use lmscope::lab::run::Run;
use lmscope::lab::sample::log_softmax;
use lmscope::model::network::site::Site;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::demo::demo;
use super::tools::{edited, every_family, prompt, read_again, values};

fn observe(lab: &mut Lab, run: &Run, arguments: &Arguments) -> Figure {
    let of = instrument("patching").unwrap();
    of.observe(run, arguments, lab).unwrap()
}

fn refused(lab: &mut Lab, run: &Run, arguments: &Arguments) -> String {
    let of = instrument("patching").unwrap();
    of.observe(run, arguments, lab).unwrap_err().to_string()
}

fn grid(figure: &Figure) -> &Grid {
    match &figure.body {
        Body::Grid(grid) => grid,
        _ => panic!("a grid"),
    }
}

fn number(cell: &Cell, name: &str) -> f32 {
    let found = cell.more.iter().find(|(n, _)| n == name);
    found
        .unwrap_or_else(|| panic!("{name} in {:?}", cell.more))
        .1
}

fn with(pairs: &[(&str, &str)]) -> Arguments {
    let all = Arguments::default();
    pairs
        .iter()
        .fold(all, |all, (name, value)| all.with(name, value))
}

const FACT: &str = "The capital of France is";
const OTHER: &str = "The capital of Japan is";

/// A metric by hand.
fn difference(row: &[f32], a: usize, b: usize) -> f32 {
    row[a] - row[b]
}

fn value(
    lab: &mut Lab,
    run: &Run,
    at: lmscope::model::network::site::Address,
    position: usize,
) -> Tensor {
    let row = lab
        .record(run, &[at])
        .unwrap()
        .get(at)
        .unwrap()
        .get(position)
        .unwrap();
    row.flatten_all().unwrap()
}

fn again(lab: &mut Lab, run: &Run, patches: &[Patch]) -> Vec<f32> {
    read_again(lab, run, run.tokens.len() - 1, patches)
}

/// With nothing said, everything after the first token is noised.
#[test]
fn without_a_subject_all_but_the_first_token_is_noised() {
    let mut lab = demo();
    let (clean, _) = two(&lab, &[]);
    let figure = observe(&mut lab, &clean, &Arguments::default());
    let grid = grid(&figure);
    let positions: Vec<u32> = grid
        .columns
        .iter()
        .filter_map(|c| c.anchor.position)
        .collect();
    assert_eq!(positions, [1, 2, 3, 4, 5]);
    assert!(
        figure
            .notes
            .iter()
            .any(|n| n.contains("at positions 1 to 5, 10 draws, seed 1"))
    );
    assert!(
        grid.cells.iter().all(|c| number(&c[0], "before") < 0.1),
        "noise takes the answer"
    );
    // Means over the ten draws, each by hand.
    let at = Site::Embed.at(0);
    let (site, layer, position) = (Site::ResidPre, 6, 5);
    let sigma: f64 = 3.0 * embedding_spread(&lab, &clean.tokens[1..6]).unwrap();
    let put = value(&mut lab, &clean, site.at(layer), position);
    let (mut sum, draws) = (0.0, 10);
    for draw in 0..draws {
        let seed = draw_seed(1, draw);
        let noise = noised(&mut lab, &clean, 1..6, sigma, seed).unwrap();
        assert!(noise.iter().all(|patch| patch.at == at));
        let own = Patch::new(site.at(layer), position, put.clone());
        let mut row = again(&mut lab, &clean, &[noise, vec![own]].concat());
        log_softmax(&mut row);
        let paris = lab.model.tokenizer().unwrap().single(" Paris").unwrap();
        sum += row[paris as usize].exp() / draws as f32;
    }
    let found = number(&grid.cells[position - 1][layer], "patched");
    assert!((found - sum).abs() < 1e-4, "{found} {sum}");
}

/// The prompts of the demo, or of a lab without a tokenizer: two runs that differ at one place.
fn two(lab: &Lab, edits: &[&str]) -> (Run, Run) {
    let encode = |text: &str| edited(lab.model.encode(text, false).unwrap(), edits);
    (encode(FACT), encode(OTHER))
}

#[test]
fn every_cell_is_the_whole_run_with_that_value_put_in() {
    let mut lab = demo();
    let id = |text: &str| lab.model.tokenizer().unwrap().single(text).unwrap() as usize;
    let (paris, tokyo) = (id(" Paris"), id(" Tokyo"));
    for edits in [&[][..], &["scale@mlp_out.2*1.3", "zero:0@z.3"]] {
        let (clean, corrupt) = two(&lab, edits);
        let [m_clean, m_corrupt] =
            [&clean, &corrupt].map(|run| difference(&again(&mut lab, run, &[]), paris, tokyo));
        for (word, site) in [
            ("resid", Site::ResidPre),
            ("attn", Site::AttnOut),
            ("mlp", Site::MlpOut),
        ] {
            for way in ["denoise", "noise"] {
                let (base, source, m_base, m_source) = match way {
                    "denoise" => (&corrupt, &clean, m_corrupt, m_clean),
                    _ => (&clean, &corrupt, m_clean, m_corrupt),
                };
                let arguments = with(&[
                    ("corrupt", OTHER),
                    ("site", word),
                    ("way", way),
                    ("answer", " Paris - Tokyo"),
                ]);
                // The answer's spelling keeps its space.
                let arguments = arguments.with("answer", "\" Paris\" - \" Tokyo\"");
                let figure = observe(&mut lab, &clean, &arguments);
                let grid = grid(&figure);
                // France is the fifth token; nothing differs before it.
                assert_eq!(grid.columns.len(), 2, "France, is");
                assert_eq!(grid.columns[0].label, "␣France/␣Japan");
                for (column, cells) in grid.cells.iter().enumerate() {
                    for (layer, cell) in cells.iter().enumerate() {
                        let at = site.at(layer);
                        let position = 4 + column;
                        let put = value(&mut lab, source, at, position);
                        let patch = Patch::new(at, position, put);
                        let expected = difference(&again(&mut lab, base, &[patch]), paris, tokyo);
                        assert!((number(cell, "patched") - expected).abs() < 2e-4);
                        let share = (expected - m_base) / (m_source - m_base);
                        assert!((cell.value - share).abs() < 1e-4, "{word} {way} {layer}");
                        let found = (cell.anchor.layer, cell.anchor.position);
                        assert_eq!(found, (Some(layer as u16), Some(position as u32)));
                    }
                }
                let ends = &figure.notes[0];
                assert!(
                    ends.contains(&format!("{m_base:.3}")[..5])
                        && ends.contains(&format!("{m_source:.3}")[..5]),
                    "{ends}"
                );
            }
        }
    }
}

/// Patch everything and it is the clean run, nothing and it is the corrupted one, a run into itself and it stays.
#[test]
fn everything_is_the_clean_run_and_nothing_the_corrupted_one() {
    for mut lab in every_family() {
        let layers = lab.model.card.layers;
        let clean = Run::plain(prompt(12));
        // Noise on one token alone, and on the whole text: then every state of block 0 is the clean run again.
        let arguments = with(&[
            ("subject", "[5]"),
            ("samples", "2"),
            ("metric", "kl"),
            ("sigma", "20"),
        ]);
        let figure = observe(&mut lab, &clean, &arguments);
        let grid = grid(&figure);
        assert_eq!(
            (grid.columns.len(), grid.rows.len()),
            (12, layers),
            "the subject is the first token"
        );
        assert!(
            (grid.cells[0][0].value - 1.0).abs() < 1e-3,
            "all that differs, put right"
        );
        for cells in &grid.cells[1..] {
            assert!(
                cells[0].value.abs() < 1e-3,
                "nothing differs there before the first block"
            );
        }
        let reach = |cells: &Vec<Cell>| number(&cells[0], "other run");
        assert!(
            grid.cells.iter().all(|c| reach(c).abs() < 1e-6),
            "no KL from itself"
        );
        // The windows of all layers put every write back.
        let all = (2 * layers).to_string();
        for site in ["attn", "mlp"] {
            let whole = observe(
                &mut lab,
                &clean,
                &arguments.clone().with("site", site).with("window", &all),
            );
            let one = observe(&mut lab, &clean, &arguments.clone().with("site", site));
            let cell = |figure: &Figure, layer: usize| self::grid(figure).cells[11][layer].value;
            assert!(
                self::grid(&whole)
                    .cells
                    .iter()
                    .all(|c| (c[0].value - c[layers - 1].value).abs() < 1e-5)
            );
            assert!(
                (0..layers).any(|l| (cell(&one, l) - cell(&whole, l)).abs() > 1e-6),
                "{}",
                lab.model.card.name
            );
        }
    }
}

#[test]
fn heads_are_patched_alone_and_where_it_was_said() {
    let mut lab = demo();
    let (clean, corrupt) = two(&lab, &[]);
    let id = |text: &str| lab.model.tokenizer().unwrap().single(text).unwrap() as usize;
    let (paris, tokyo) = (id(" Paris"), id(" Tokyo"));
    let width = lab.model.transformer.blueprint.head_dim;
    for (word, positions) in [
        ("all", vec![4, 5]),
        ("last", vec![5]),
        ("4", vec![4]),
        ("-2", vec![4]),
    ] {
        let arguments = with(&[("corrupt", OTHER), ("site", "heads"), ("positions", word)]);
        let arguments = arguments.with("answer", "\" Paris\" - \" Tokyo\"");
        let figure = observe(&mut lab, &clean, &arguments);
        let grid = grid(&figure);
        assert_eq!((grid.columns.len(), grid.rows.len()), (4, 8));
        for (layer, head) in [(0, 0), (3, 2), (7, 3), (5, 1)] {
            let at = Site::Z.at(layer);
            let patches: Vec<Patch> = positions
                .iter()
                .map(|position| {
                    let own = value(&mut lab, &clean, at, *position);
                    let mut mixed = values(&value(&mut lab, &corrupt, at, *position));
                    let part = head * width..(head + 1) * width;
                    mixed[part.clone()].copy_from_slice(&values(&own)[part]);
                    let value = Tensor::new(mixed.as_slice(), own.device()).unwrap();
                    Patch::new(at, *position, value)
                })
                .collect();
            let expected = difference(&again(&mut lab, &corrupt, &patches), paris, tokyo);
            let cell = &grid.cells[head][layer];
            assert!(
                (number(cell, "patched") - expected).abs() < 2e-4,
                "{word} {layer}.{head}"
            );
            assert_eq!(cell.anchor.unit, Some(Unit::Head(head as u32)));
        }
    }
}

#[test]
fn metrics_and_their_defaults_are_those_of_the_two_runs() {
    let mut lab = demo();
    let (clean, corrupt) = two(&lab, &[]);
    let [a, b] = [&clean, &corrupt].map(|run| {
        let mut row = again(&mut lab, run, &[]);
        log_softmax(&mut row);
        row
    });
    let paris = lab.model.tokenizer().unwrap().single(" Paris").unwrap() as usize;
    let ends = |lab: &mut Lab, metric: &str| {
        let figure = observe(
            lab,
            &clean,
            &with(&[("corrupt", OTHER), ("metric", metric)]),
        );
        let cell = grid(&figure).cells[0][0].clone();
        (
            number(&cell, "before"),
            number(&cell, "other run"),
            figure.notes[0].clone(),
        )
    };
    let (before, other, note) = ends(&mut lab, "auto");
    assert!(
        note.contains("␣Paris − ␣Tokyo"),
        "what each run favours: {note}"
    );
    assert!(before < 0.0 && other > 0.0);
    let (before, other, _) = ends(&mut lab, "probability");
    assert!((before - b[paris].exp()).abs() < 1e-5 && (other - a[paris].exp()).abs() < 1e-5);
    let (before, other, _) = ends(&mut lab, "kl");
    let kl: f64 = a
        .iter()
        .zip(&b)
        .map(|(p, q)| f64::from(*p).exp() * f64::from(p - q))
        .sum();
    assert!(
        (f64::from(before) - kl).abs() < 1e-3 && other.abs() < 1e-6,
        "{before} {kl}"
    );
}

#[test]
fn the_control_is_a_change_of_equal_size_that_says_little() {
    let mut lab = demo();
    let (clean, _) = two(&lab, &[]);
    let arguments = with(&[("corrupt", OTHER)]);
    let own = observe(&mut lab, &clean, &arguments);
    let null = observe(
        &mut lab,
        &clean,
        &arguments.clone().with("control", "random"),
    );
    let (own_cells, null_cells) = (&grid(&own).cells, &grid(&null).cells);
    assert!((own_cells[0][0].value - 1.0).abs() < 1e-3);
    assert!(null_cells[0][0].value < 0.5, "{}", null_cells[0][0].value);
    assert!(null.title.contains("control"));
    let noted: Vec<&String> = own
        .notes
        .iter()
        .filter(|n| n.starts_with("control:"))
        .collect();
    assert_eq!(noted.len(), 3);
    // The note of a strong cell is the mean of eight grids of the null, with their range.
    let shares: Vec<f32> = (0..8)
        .map(|draw| {
            let run = Run {
                seed: draw_seed(1, draw),
                ..clean.clone()
            };
            let null = arguments.clone().with("control", "random");
            grid(&observe(&mut lab, &run, &null)).cells[0][0].value
        })
        .collect();
    let (low, high) = draws_range(&shares).unwrap();
    let mean = shares.iter().sum::<f32>() / 8.0;
    let strongest = format!("{mean:+.3}, {low:+.3} to {high:+.3} in 8 draws (seed 1)");
    assert!(
        noted
            .iter()
            .any(|n| n.contains("layer 0 at 4") && n.ends_with(&strongest)),
        "{noted:?} {strongest}"
    );
    assert_eq!(number(&own_cells[0][0], "random, to"), high);
}

#[test]
fn prompts_that_do_not_fit_are_refused_in_a_sentence() {
    let mut lab = demo();
    let (clean, _) = two(&lab, &[]);
    let longer = "The capital city of Japan is";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pairs.json");
    std::fs::write(
        &file,
        format!(r#"[{{"clean": "{FACT}", "corrupt": "{longer}"}}]"#),
    )
    .unwrap();
    let path = file.display().to_string();
    let alone = refused(&mut lab, &Run::plain(vec![5]), &Arguments::default());
    assert!(alone.contains("a single token"), "{alone}");
    for (pairs, why) in [
        (
            &[("corrupt", longer)][..],
            "as many tokens as the clean prompt, 6 (they differ from position 3 on: ␣of against ␣city)",
        ),
        (&[("corrupt", FACT)], "differs from the clean one"),
        (
            &[("corrupt", OTHER), ("subject", "France")],
            "nothing where `corrupt`",
        ),
        (&[("subject", "Peru")], "occurs in the prompt"),
        (&[("subject", "France"), ("sigma", "-1")], "above 0"),
        (&[("corrupt", OTHER), ("window", "3")], "for attn and mlp"),
        (
            &[("corrupt", OTHER), ("site", "heads"), ("positions", "9")],
            "0 to 5",
        ),
        (
            &[("corrupt", OTHER), ("answer", "\" Paris\" - \" Paris\"")],
            "differs between the clean and the corrupted run",
        ),
        (
            &[("corrupt", OTHER), ("positions", "last")],
            "are for heads",
        ),
        (&[("pairs", path.as_str())], "not both"),
    ] {
        let error = refused(&mut lab, &clean, &with(pairs));
        assert!(error.contains(why), "{pairs:?}: {error}");
    }
    let nothing = Run {
        seed: 1,
        ..Run::default()
    };
    let error = refused(&mut lab, &nothing, &with(&[("pairs", &path)]));
    assert!(
        error.contains("pair 1") && error.contains("align=ends"),
        "{error}"
    );
    for name in ["corrupt", "subject"] {
        let error = refused(&mut lab, &nothing, &with(&[("pairs", &path), (name, "a")]));
        assert!(
            error.contains(&format!("`{name}` is `a`"))
                && error.contains("nothing when a file of pairs"),
            "{error}"
        );
    }
    // What is wrong with a later pair is said before the first is measured, with its number.
    let long = "the ".repeat(600);
    for (second, why) in [
        (
            serde_json::json!({"clean": FACT, "corrupt": OTHER, "answer": "#99999"}),
            "token id below",
        ),
        (
            serde_json::json!({"clean": FACT, "corrupt": OTHER, "other": "#99999"}),
            "token id below",
        ),
        (serde_json::json!({"clean": FACT, "corrupt": long}), "512"),
    ] {
        let all = serde_json::json!([{"clean": FACT, "corrupt": OTHER}, second]);
        let file = folder.path().join("two.json");
        std::fs::write(&file, all.to_string()).unwrap();
        let asked = with(&[("pairs", &file.display().to_string()), ("site", "heads")]);
        lab.progress = WorkProgress::reporting_to(|_| panic!("nothing is measured yet"));
        let error = refused(&mut lab, &nothing, &asked);
        lab.progress = WorkProgress::default();
        assert!(error.contains("pair 2") && error.contains(why), "{error}");
    }
    // Asked for, they are paired at their ends, and what stands for nothing is said.
    let figure = observe(
        &mut lab,
        &clean,
        &with(&[("corrupt", longer), ("align", "ends")]),
    );
    let labels: Vec<&str> = grid(&figure)
        .columns
        .iter()
        .map(|c| c.label.as_str())
        .collect();
    assert_eq!(labels, ["␣of", "␣France/␣Japan", "␣is"]);
    assert!(
        figure
            .notes
            .iter()
            .any(|n| n.contains("6 and 7 tokens; 1 tokens of the longer")),
        "{:?}",
        figure.notes
    );
}

/// Prompts about a gift, each beside the same with the other name as the giver.
fn gifts() -> Vec<serde_json::Value> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/lists/gifts.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// How many of the prompts are answered with their receiver, under edits.
fn answered(lab: &mut Lab, all: &[serde_json::Value], edits: &[String]) -> usize {
    let edits: Vec<&str> = edits.iter().map(String::as_str).collect();
    let right = |pair: &&serde_json::Value| {
        let tokens = lab
            .model
            .encode(pair["clean"].as_str().unwrap(), false)
            .unwrap();
        let run = edited(tokens, &edits);
        let row = lab.last_logits(&run).unwrap();
        let best = (0..row.len())
            .max_by(|a, b| row[*a].total_cmp(&row[*b]))
            .unwrap();
        let name = lab.model.tokenizer().unwrap();
        name.single(pair["answer"].as_str().unwrap()).unwrap() as usize == best
    };
    all.iter().filter(right).count()
}

/// Heads that are taken away.
const HEADS: usize = 2;

/// Judged on the demo: the heads that patching finds on some prompts are those that others cannot do without.
#[test]
fn the_heads_found_for_the_indirect_object_are_those_whose_ablation_breaks_it() {
    let mut lab = demo();
    let all = gifts();
    assert_eq!(all.len(), 64);
    let (found_on, tried_on) = all.split_at(24);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gifts.json");
    std::fs::write(&file, serde_json::to_string(found_on).unwrap()).unwrap();
    let path = file.display().to_string();
    let nothing = Run {
        seed: 1,
        ..Run::default()
    };
    let figure = observe(
        &mut lab,
        &nothing,
        &with(&[("pairs", &path), ("site", "heads")]),
    );
    println!("{:#?}", figure.notes);
    let grid = grid(&figure);
    let mut heads: Vec<(f32, usize, usize)> = Vec::new();
    for (head, cells) in grid.cells.iter().enumerate() {
        heads.extend(
            cells
                .iter()
                .enumerate()
                .map(|(layer, c)| (c.value, layer, head)),
        );
    }
    heads.sort_by(|a, b| b.0.total_cmp(&a.0));
    println!("{:?}", &heads[..6]);
    let ablate = |heads: &[(f32, usize, usize)]| -> Vec<String> {
        heads
            .iter()
            .map(|(_, layer, head)| format!("zero:{head}@z.{layer}"))
            .collect()
    };
    let count = tried_on.len();
    let plain = answered(&mut lab, tried_on, &[]);
    let without = answered(&mut lab, tried_on, &ablate(&heads[..HEADS]));
    let mut rng = StdRng::seed_from_u64(1);
    let mut others = heads[HEADS..].to_vec();
    let mut beside = Vec::new();
    for _ in 0..20 {
        others.shuffle(&mut rng);
        beside.push(answered(&mut lab, tried_on, &ablate(&others[..HEADS])));
    }
    println!(
        "{count} prompts: {plain} right, {without} without the two heads, {beside:?} without two others"
    );
    assert!(plain * 20 >= count * 19);
    // Half would be a guess between the two names.
    assert!(without * 5 <= count * 4, "{without} of {count}");
    // No two others cost as much, and most of them nothing.
    assert!(beside.iter().all(|right| *right > without), "{beside:?}");
    let spared = beside.iter().filter(|right| **right * 20 >= count * 19);
    assert!(spared.count() >= 16, "{beside:?}");
}

/// Draws of noise favour other tokens, and all of them are measured by the one difference that is named.
#[test]
fn noise_is_measured_by_one_difference() {
    let mut lab = demo();
    let run = Run::plain(lab.model.encode(FACT, false).unwrap());
    let arguments = |samples: &str| {
        with(&[
            ("subject", "France"),
            ("metric", "difference"),
            ("samples", samples),
        ])
    };
    let [one, many] = ["1", "6"].map(|samples| {
        let figure = observe(&mut lab, &run, &arguments(samples));
        let note = figure.notes[0].clone();
        let clean = note.split("1 the clean run (").nth(1).unwrap();
        let clean: f32 = clean.split(')').next().unwrap().parse().unwrap();
        (note.split(':').next().unwrap().to_string(), clean)
    });
    assert_eq!(one.0, many.0, "the same two tokens");
    assert!((one.1 - many.1).abs() < 1e-3, "{one:?} {many:?}");
}

/// The other prompt goes through the template where the clean one did.
#[test]
fn a_corrupted_prompt_is_a_turn_of_chat_where_it_is_said() {
    let mut lab = demo();
    let [clean, corrupt] =
        [FACT, OTHER].map(|text| Run::plain(lab.model.encode(text, true).unwrap()));
    let arguments = with(&[("corrupt", OTHER), ("answer", "\" Paris\" - \" Tokyo\"")]);
    let raw = refused(&mut lab, &clean, &arguments);
    assert!(raw.contains("as many tokens as the clean prompt"), "{raw}");
    let figure = observe(&mut lab, &clean, &arguments.clone().with("chat", "yes"));
    let cells = &grid(&figure).cells;
    assert_eq!(grid(&figure).columns[0].label, "␣France/␣Japan");
    let id = |text: &str| lab.model.tokenizer().unwrap().single(text).unwrap() as usize;
    let (paris, tokyo) = (id(" Paris"), id(" Tokyo"));
    let before = difference(&again(&mut lab, &corrupt, &[]), paris, tokyo);
    assert!((number(&cells[0][0], "before") - before).abs() < 1e-4);
    // And so do both prompts of a file.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pairs.json");
    let one = format!(r#"[{{"clean": "{FACT}", "corrupt": "{OTHER}"}}]"#);
    std::fs::write(&file, one).unwrap();
    let listed = with(&[("answer", "\" Paris\" - \" Tokyo\""), ("chat", "yes")]);
    let listed = listed.with("pairs", file.display());
    let listed = observe(&mut lab, &Run::default(), &listed);
    assert_eq!(grid(&listed).columns.len(), grid(&figure).columns.len());
    for (own, other) in cells
        .iter()
        .flatten()
        .zip(grid(&listed).cells.iter().flatten())
    {
        assert!((own.value - other.value).abs() < 1e-4);
    }
}

#[test]
fn heads_are_patched_in_every_pair_or_refused() {
    let mut lab = demo();
    let (clean, _) = two(&lab, &[]);
    // The corrupted prompt ends where they part: nothing stands for what comes after.
    for positions in ["all", "last"] {
        let arguments = with(&[
            ("corrupt", "The capital of France"),
            ("align", "ends"),
            ("site", "heads"),
            ("positions", positions),
        ]);
        let error = refused(&mut lab, &clean, &arguments);
        assert!(error.contains("tokens in common"), "{error}");
    }
    let early = with(&[("corrupt", OTHER), ("site", "heads"), ("positions", "2")]);
    let error = refused(&mut lab, &clean, &early);
    assert!(error.contains("difference: from 4 to 5"), "{error}");
    // Pairs of different lengths: a position is looked for in each.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pairs.json");
    let (longer, other) = (
        "We know the capital of France is",
        "We know the capital of Japan is",
    );
    let list = format!(
        r#"[{{"clean": "{longer}", "corrupt": "{other}"}}, {{"clean": "{FACT}", "corrupt": "{OTHER}"}}]"#
    );
    std::fs::write(&file, list).unwrap();
    let path = file.display().to_string();
    let at = |positions: &str| with(&[("site", "heads"), ("positions", positions)]);
    for (positions, why) in [("8", "a position from 0 to 5"), ("-3", "from 8 to 9")] {
        let error = refused(
            &mut lab,
            &Run::default(),
            &at(positions).with("pairs", &path),
        );
        assert!(
            error.contains(why)
                && error.contains(if positions == "8" { "pair 2" } else { "pair 1" }),
            "{error}"
        );
    }
    let both = observe(&mut lab, &Run::default(), &at("-2").with("pairs", &path));
    let mut single = |clean: &str, corrupt: &str| {
        let run = Run::plain(lab.model.encode(clean, false).unwrap());
        observe(&mut lab, &run, &at("-2").with("corrupt", corrupt))
    };
    let each = [single(longer, other), single(FACT, OTHER)];
    let mut moved = [0.0f32; 2];
    for (head, cells) in grid(&both).cells.iter().enumerate() {
        for (layer, cell) in cells.iter().enumerate() {
            let [a, b] = [&each[0], &each[1]].map(|f| &grid(f).cells[head][layer]);
            let mean = f32::midpoint(number(a, "patched"), number(b, "patched"));
            assert!((number(cell, "patched") - mean).abs() < 1e-4);
            for (moved, cell) in moved.iter_mut().zip([a, b]) {
                *moved = moved.max((number(cell, "patched") - number(cell, "before")).abs());
            }
        }
    }
    // Some head does something in each of them.
    assert!(moved.iter().all(|m| *m > 0.005), "{moved:?}");
    let note = "at position -2 of every clean prompt";
    assert!(
        both.notes.iter().any(|n| n.contains(note)),
        "{:?}",
        both.notes
    );
}
