//! Selecting a direction: scores against a brute-force recomputation, discards against the rules, and what the choice does.

use lmscope::edit::direction::{Direction, DirectionOrigin, norm, random_like};
use lmscope::edit::schedule::Schedule;
use lmscope::figure::{Body, Figure, Grid, Unit};
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::model::network::families::FAMILIES;
use lmscope::model::network::site::Site;
use lmscope::vectors::selection::{
    CandidateScores, CandidateVerdict, PromptSides, Selection, SelectionRules, select,
};

use super::demo::{demo, plants, refused, texts};
use super::tools::{edited, tiny};

/// Probabilities after the last token of a run, in f64.
fn probabilities(lab: &mut Lab, run: &Run) -> Vec<f64> {
    let at = Site::Logits.at(0);
    let logits = lab.record(run, &[at]).unwrap();
    let logits = logits.get(at).unwrap().to_vec2::<f32>().unwrap();
    let last = logits.last().unwrap();
    let weights: Vec<f64> = last.iter().map(|z| f64::from(*z).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

fn odds(probabilities: &[f64], markers: &[u32]) -> f64 {
    let share: f64 = markers.iter().map(|m| probabilities[*m as usize]).sum();
    (share + 1e-8).ln() - (1.0 - share + 1e-8).ln()
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let all: Vec<f64> = values.collect();
    all.iter().sum::<f64>() / all.len() as f64
}

/// Scores of the difference of means at a place, prompt by prompt, from recorded activations and logits.
fn brute(
    lab: &mut Lab,
    making: &PromptSides,
    held_out: &PromptSides,
    rules: &SelectionRules,
    (position, layer): (usize, usize),
) -> (Vec<f64>, CandidateScores) {
    let at = Site::ResidPre.at(layer);
    let mut side = |prompts: &[Vec<u32>]| {
        let mut sum = vec![0f64; lab.model.card.d_model];
        for tokens in prompts {
            let found = lab.record(&Run::plain(tokens.clone()), &[at]).unwrap();
            let rows = found.get(at).unwrap().to_vec2::<f32>().unwrap();
            for (s, v) in sum.iter_mut().zip(&rows[tokens.len() - position]) {
                *s += f64::from(*v) / prompts.len() as f64;
            }
        }
        sum
    };
    let (plus, minus) = (side(&making.plus), side(&making.minus));
    let vector: Vec<f64> = plus.iter().zip(&minus).map(|(p, m)| p - m).collect();
    let direction = Direction {
        rows: vec![(at, vector.iter().map(|v| *v as f32).collect())],
        origin: DirectionOrigin::default(),
    };
    let length = norm(&direction.rows[0].1);
    let x = format!("x-{position}-{layer}");
    lab.directions.insert(x.clone(), direction);
    let (out, add) = (format!("project_out:{x}@writes"), format!("add:{x}@{at}"));
    let mut after = |tokens: &[u32], edit: Option<&str>| {
        // A vector of length zero is no edit.
        let edits: Vec<&str> = edit.into_iter().filter(|_| length > 0.0).collect();
        probabilities(lab, &edited(tokens.to_vec(), &edits))
    };
    let ablation = mean(
        held_out
            .plus
            .iter()
            .map(|t| odds(&after(t, Some(&out)), &rules.markers)),
    );
    let addition = mean(
        held_out
            .minus
            .iter()
            .map(|t| odds(&after(t, Some(&add)), &rules.markers)),
    );
    let kl = mean(held_out.minus.iter().map(|t| {
        let (p, q) = (after(t, None), after(t, Some(&out)));
        let terms = p
            .iter()
            .zip(&q)
            .map(|(p, q)| p * ((p + 1e-6).ln() - (q + 1e-6).ln()));
        terms.sum()
    }));
    lab.directions.remove(&x);
    (
        vector,
        CandidateScores {
            ablation,
            addition,
            kl,
        },
    )
}

fn near(a: f64, b: f64, what: &str) {
    assert!(
        (a - b).abs() <= 2e-3 * b.abs().max(1.0),
        "{what}: {a} and {b}"
    );
}

/// Every discard by its rule, written out once more.
fn compare(
    lab: &mut Lab,
    making: &PromptSides,
    held_out: &PromptSides,
    rules: &SelectionRules,
) -> Selection {
    let name = lab.model.card.name.clone();
    let layers = lab.model.card.layers;
    let found = select(lab, making, held_out, rules, &Schedule::none(), 1).unwrap();
    assert_eq!(found.candidates.len(), layers * rules.positions.len());
    let mut best: Option<(usize, f64)> = None;
    for (i, candidate) in found.candidates.iter().enumerate() {
        let place = (rules.positions[i / layers], i % layers);
        assert_eq!((candidate.position, candidate.layer), place, "{name}");
        let (vector, scores) = brute(lab, making, held_out, rules, place);
        for (a, b) in candidate.vector.iter().zip(&vector) {
            assert!(
                (f64::from(*a) - b).abs() < 1e-4,
                "{name} {place:?}: {a} and {b}"
            );
        }
        near(
            candidate.scores.ablation,
            scores.ablation,
            &format!("{name} {place:?} ablation"),
        );
        near(
            candidate.scores.addition,
            scores.addition,
            &format!("{name} {place:?} addition"),
        );
        near(
            candidate.scores.kl,
            scores.kl,
            &format!("{name} {place:?} kl"),
        );
        // On our own scores, so that nothing hangs on the last digit of a threshold.
        let own = candidate.scores;
        let late = place.1 >= (rules.depth * layers as f64).floor() as usize;
        let expected = if late {
            CandidateVerdict::Late
        } else if own.kl > rules.kl {
            CandidateVerdict::Kl
        } else if own.addition < 0.0 {
            CandidateVerdict::Weak
        } else {
            CandidateVerdict::Kept
        };
        assert_eq!(candidate.verdict, expected, "{name} {place:?} {own:?}");
        if expected == CandidateVerdict::Kept && best.is_none_or(|(_, score)| own.ablation < score)
        {
            best = Some((i, own.ablation));
        }
    }
    assert_eq!(found.chosen, best.map(|b| b.0), "{name}");
    found
}

#[test]
fn scores_are_those_of_a_brute_force_on_random_models() {
    for family in ["llama", "gpt2", "gemma2", "gpt_neox", "mixtral"] {
        let family = FAMILIES.iter().find(|f| f.name == family).unwrap();
        let mut lab = tiny(family);
        // Lengths differ, so that some prompts are read together and some alone.
        let list = |step: u32| -> Vec<Vec<u32>> {
            (0..5u32)
                .map(|i| {
                    (0..6 + i % 3)
                        .map(|j| (i * 7 + j * step + 3) % 59)
                        .collect()
                })
                .collect()
        };
        let sides = |a, b| PromptSides {
            plus: list(a),
            minus: list(b),
        };
        let rules = SelectionRules {
            positions: vec![3, 1],
            markers: vec![4, 17, 30],
            depth: 0.8,
            kl: 1e3,
            filter: false,
        };
        compare(&mut lab, &sides(11, 13), &sides(17, 5), &rules);
    }
}

#[test]
fn holds_on_the_demo_with_its_filter_and_all_reasons_to_discard() {
    let mut lab = demo();
    let plants = plants();
    let vector = &plants["vectors"]["refusal"];
    let side = |name: &str, range: std::ops::Range<usize>| -> Vec<Vec<u32>> {
        let all = texts(&vector[name]);
        let some = all[range].iter();
        some.map(|t| lab.model.encode(t, true).unwrap()).collect()
    };
    let sides = |range: std::ops::Range<usize>| PromptSides {
        plus: side("plus", range.clone()),
        minus: side("minus", range),
    };
    let (making, held_out) = (sides(0..8), sides(8..14));
    let sorry = lab
        .model
        .tokenizer()
        .unwrap()
        .encode_literal("I'm sorry")
        .unwrap()[0];
    let rules = SelectionRules {
        positions: vec![4, 1],
        markers: vec![sorry],
        depth: 0.8,
        kl: 0.1,
        filter: true,
    };
    let found = compare(&mut lab, &making, &held_out, &rules);
    assert_eq!(found.left_out, (0, 0));
    for verdict in [
        CandidateVerdict::Kept,
        CandidateVerdict::Late,
        CandidateVerdict::Kl,
        CandidateVerdict::Weak,
    ] {
        assert!(
            found.candidates.iter().any(|c| c.verdict == verdict),
            "{verdict:?} occurs"
        );
    }
    // The filter takes out what does not behave as its list says; the rest scores as if it had never been there.
    let mut mixed = (making.clone(), held_out.clone());
    mixed.0.plus.push(making.minus[0].clone());
    mixed.1.minus.push(held_out.plus[0].clone());
    let filtered = select(&mut lab, &mixed.0, &mixed.1, &rules, &Schedule::none(), 1).unwrap();
    assert_eq!(filtered.left_out, (1, 1));
    assert_eq!((filtered.made, filtered.measured), ((8, 8), (6, 6)));
    for (a, b) in filtered.candidates.iter().zip(&found.candidates) {
        near(a.scores.ablation, b.scores.ablation, "filtered");
    }
    let all = PromptSides {
        plus: making.minus.clone(),
        minus: making.minus.clone(),
    };
    let none = select(&mut lab, &all, &held_out, &rules, &Schedule::none(), 1);
    let error = none.unwrap_err().to_string();
    assert!(
        error.contains("plus") && error.contains("filter=no"),
        "{error}"
    );
}

fn lists(name: &str) -> Arguments {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/lists");
    let file = |side: &str| {
        folder
            .join(format!("{name}_{side}.txt"))
            .display()
            .to_string()
    };
    Arguments::default()
        .with("plus", file("plus"))
        .with("minus", file("minus"))
}

fn observe(lab: &mut Lab, arguments: &Arguments) -> Figure {
    let run = Run {
        seed: 1,
        ..Run::default()
    };
    instrument("select")
        .unwrap()
        .observe(&run, arguments, lab)
        .unwrap()
}

fn grid(figure: &Figure) -> &Grid {
    match &figure.body {
        Body::Grid(grid) => grid,
        Body::Table(_) | Body::Series(_) | Body::Graph(_) | Body::Text(_) => panic!("a grid"),
    }
}

/// With the reference's own cuts, from the demo's lists: what is chosen brings refusals, and takes many of them away, for
/// requests worded otherwise.
#[test]
fn the_chosen_direction_turns_refusing_off_and_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("r.safetensors").display().to_string();
    let mut lab = demo();
    let arguments = lists("refusal")
        .with("chat", "yes")
        .with("positions", "4")
        .with("save", &file);
    let figure = observe(&mut lab, &arguments);
    let grid = grid(&figure);
    assert_eq!(grid.columns.len(), 4);
    assert!(
        grid.columns[3].label.starts_with("-1 <|assistant|>"),
        "{:?}",
        grid.columns
    );
    let chosen: Vec<_> = grid
        .cells
        .iter()
        .flatten()
        .filter(|c| c.label == "chosen")
        .collect();
    let [chosen] = chosen[..] else {
        panic!("one is chosen")
    };
    let names: Vec<&str> = chosen.more.iter().map(|m| m.0.as_str()).collect();
    assert_eq!(names, ["ablation", "addition", "kl"]);
    assert!(
        chosen.value < 0.0 && chosen.more[1].1 > 0.0 && chosen.more[2].1 <= 0.1,
        "{chosen:?}"
    );
    assert!(
        figure
            .notes
            .iter()
            .filter(|n| n.contains("8 draws, seed 1"))
            .count()
            == 2,
        "shuffled labels and random directions: {:?}",
        figure.notes
    );
    // The planted direction does what no control does; of the controls' range nothing is said then.
    assert!(
        figure.notes.iter().all(|n| !n.contains("THE CHOICE")),
        "{:?}",
        figure.notes
    );
    assert!(
        figure.notes.iter().any(|n| n.contains("markers: I")),
        "{:?}",
        figure.notes
    );

    let direction = Direction::load(std::path::Path::new(&file)).unwrap();
    direction.check(&lab.model.card).unwrap();
    let at = direction.rows[0].0;
    assert_eq!(Some(at.layer), chosen.anchor.layer);
    assert!(direction.origin.method.contains("selected") && direction.origin.positions == "-4");
    let [(off, on), (null_off, null_on)] = off_and_on(&mut lab, direction, 1.0);
    assert!(off <= 0.7 && on >= 0.9 && null_off >= 0.95 && null_on <= 0.05);
}

/// Guarded requests refused with a direction projected out, plain ones with it added at a strength; then the same for a random one of
/// its length. The requests are worded as none that made or measured it.
fn off_and_on(lab: &mut Lab, direction: Direction, strength: f32) -> [(f64, f64); 2] {
    let plants = plants();
    let refusal = &plants["vectors"]["refusal"];
    let (guarded, plain) = (
        texts(&refusal["test_guarded"]),
        texts(&refusal["test_plain"]),
    );
    let at = direction.rows[0].0;
    let random = Direction {
        rows: vec![(at, random_like(&direction.rows[0].1, 5))],
        origin: direction.origin.clone(),
    };
    lab.directions.insert("chosen".into(), direction);
    lab.directions.insert("random".into(), random);
    let found = ["chosen", "random"].map(|name| {
        let out = format!("project_out:{name}@writes");
        let add = format!("add:{name}@{at}*{strength}");
        let off = refused(lab, &guarded, &[&out], "I'm sorry");
        (off, refused(lab, &plain, &[&add], "I'm sorry"))
    });
    println!("refused at {at}: guarded projected out, plain added; chosen, random: {found:?}");
    found
}

/// At the position where the demo's planted direction lives, ablation decides all, and moves plain requests too far for the
/// reference's KL: the figure says so, and a wider cut chooses one that turns refusing off and on.
#[test]
fn a_discarded_candidate_stays_in_the_figure_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("r.safetensors").display().to_string();
    let mut lab = demo();
    let arguments = lists("refusal").with("chat", "yes").with("save", &file);
    let figure = observe(&mut lab, &arguments);
    assert_eq!(
        grid(&figure).columns.len(),
        1,
        "the demo's template has one token after the user's words"
    );
    let labels: Vec<&str> = grid(&figure).cells[0]
        .iter()
        .map(|c| c.label.as_str())
        .collect();
    assert_eq!(
        labels,
        ["weak", "weak", "weak", "weak", "kl", "kl", "late", "late"]
    );
    assert!(
        figure.notes[0].starts_with("no candidate was chosen"),
        "{:?}",
        figure.notes
    );
    assert!(figure.notes[1].contains("NOTHING WAS SAVED") && !std::path::Path::new(&file).exists());
    let figure = observe(&mut lab, &arguments.with("kl", "10"));
    let labels: Vec<&str> = grid(&figure).cells[0]
        .iter()
        .map(|c| c.label.as_str())
        .collect();
    assert_eq!(labels[4], "chosen", "{labels:?}");
    let direction = Direction::load(std::path::Path::new(&file)).unwrap();
    let [(off, on), (null_off, null_on)] = off_and_on(&mut lab, direction, 0.5);
    assert!(off <= 0.05 && on >= 0.9 && null_off >= 0.95 && null_on <= 0.05);
}

/// Other behaviours, other markers: nothing in it is about refusal.
#[test]
fn moods_are_selected_by_their_own_markers() {
    let mut lab = demo();
    let arguments = lists("mood")
        .with("markers", " sunny| bright| lovely| warm")
        .with("positions", "-1")
        .with("kl", "1");
    let figure = observe(&mut lab, &arguments);
    let cells = &grid(&figure).cells[0];
    let chosen = cells.iter().find(|c| c.label == "chosen").unwrap();
    assert!(
        chosen.anchor.layer.is_some_and(|l| (3..=5).contains(&l)),
        "{chosen:?}"
    );
    assert!(chosen.value < 1.0 && chosen.more[1].1 > 0.0, "{chosen:?}");
    let by_kl = observe(&mut lab, &arguments.clone().with("measure", "kl"));
    let cell = grid(&by_kl).cells[0]
        .iter()
        .find(|c| c.label == "chosen")
        .unwrap();
    assert_eq!(
        cell.value, chosen.more[2].1,
        "the same choice, another colour"
    );
    // Tokens have their ids and raw texts: the markers, and that which stands at the position in every prompt.
    let parameters = &figure.provenance.parameters;
    let ids = parameters.iter().find(|(name, _)| name == "ids of markers");
    let ids = ids
        .unwrap()
        .1
        .split(',')
        .map(|id| id.parse::<u32>().unwrap());
    let texts = &figure.provenance.texts;
    let raw: Vec<&str> = ids.map(|id| texts[&id].as_deref().unwrap()).collect();
    assert_eq!(raw, [" sunny", " bright", " lovely", " warm"]);
    if let Some((_, word)) = grid(&figure).columns[0].label.split_once(' ') {
        let Some(Unit::Token(id)) = grid(&figure).columns[0].anchor.unit else {
            panic!("a token")
        };
        assert_eq!(texts[&id].as_deref(), Some(word.replace('␣', " ").as_str()));
    }
    // Found by itself, the markers are among the words that the stories were planted with.
    let found = observe(&mut lab, &lists("mood").with("positions", "-1"));
    let words = found
        .notes
        .iter()
        .find(|n| n.starts_with("markers"))
        .unwrap();
    assert!(
        words.contains("␣sunny") && !words.contains("␣gloomy"),
        "{words}"
    );
}

#[test]
fn bad_parameters_are_refused_before_any_work() {
    let mut lab = demo();
    let run = Run::default();
    for (name, value, word) in [
        ("minus", "", "file of prompts"),
        ("plus", "nowhere.txt", "nowhere.txt"),
        ("depth", "2", "from 0 to 1"),
        ("kl", "-1", "0 or more"),
        ("validation", "0", "validation"),
        ("positions", "-99", "shortest prompt"),
        ("positions", "first", "negative positions"),
        ("save", "/no/such/folder/r.safetensors", "folder"),
        ("chat", "(optionally)", "one of no, yes"),
    ] {
        let arguments = lists("mood").with(name, value);
        let found = instrument("select")
            .unwrap()
            .observe(&run, &arguments, &mut lab);
        let error = found.unwrap_err().to_string();
        assert!(error.contains(word), "{name}={value}: {error}");
    }
}
