//! What is said of a claim: on which scale an effect is, what it is held against, and how sure that is.

use lmscope::edit::schedule::Schedule;
use lmscope::figure::{Body, Cell, Entry, Figure, Grid, Table};
use lmscope::instruments::{Arguments, instrument, observe as observed};
use lmscope::lab::Lab;
use lmscope::lab::capture::{After, Output};
use lmscope::lab::draws::{DRAWS, draw_seed};
use lmscope::lab::effect::EffectScale;
use lmscope::lab::pairs::embedding_spread;
use lmscope::lab::pass::{Pass, PassRow};
use lmscope::lab::run::Run;
use lmscope::lab::sample::{kl, log_probs};
use lmscope::lab::target::LogitTarget;
use lmscope::model::load::Options;
use lmscope::model::network::site::Site;
use lmscope::vectors::contrast::{Contrast, ContrastRequest, Method};

use super::organisms::Layout;
use super::organisms::two_hop::{SUBJECTS, TwoHop, run_of};
use super::tools::{dense_families, edited, every_family, prompt, values};

fn demo() -> Lab {
    Lab::open("demo", &Options::default()).unwrap()
}

fn observe(lab: &mut Lab, name: &str, run: &Run, given: &[(&str, &str)]) -> Figure {
    let arguments = given
        .iter()
        .fold(Arguments::default(), |all, (name, value)| {
            all.with(name, value)
        });
    observed(instrument(name).unwrap(), run, &arguments, lab).unwrap()
}

fn grid(figure: &Figure) -> &Grid {
    match &figure.body {
        Body::Grid(grid) => grid,
        other => panic!("a grid: {other:?}"),
    }
}

fn table(figure: &Figure) -> &Table {
    match &figure.body {
        Body::Table(table) => table,
        other => panic!("a table: {other:?}"),
    }
}

fn number(cell: &Cell, name: &str) -> f32 {
    let found = cell.more.iter().find(|(held, _)| held == name);
    found.unwrap_or_else(|| panic!("{name}: {:?}", cell.more)).1
}

/// The gradient of the log-probability, of any family: moving the stream along it by a little changes ln p by the square of its length.
#[test]
fn the_direction_of_a_log_probability_is_its_gradient() {
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        let run = Run::plain(prompt(9));
        let at = Site::ResidPost.at(lab.model.card.layers - 1);
        let last = lab.record(&run, &[at]).unwrap();
        let last = last.get(at).unwrap().narrow(0, 8, 1).unwrap();
        let target = LogitTarget::one(7);
        let along = lab
            .effect_directions(&last, Some(&[target]), EffectScale::LogProb)
            .unwrap();
        let norm = lab.model.transformer.norm.clone();
        let scale = norm.inverse_scale(&last).unwrap();
        let direction = along.of_stream(&lab.model).unwrap();
        let direction = direction.broadcast_mul(&scale).unwrap();
        let square: f32 = values(&direction).iter().map(|v| v * v).sum();
        // The norm's scale is held, so the step is taken behind it.
        let step = 1e-2 / square.sqrt();
        let after = |sign: f64| {
            let moved = (&last + (&direction * (sign * f64::from(step))).unwrap()).unwrap();
            let rows = norm.forward_scaled(&moved, &scale).unwrap();
            let logits = lab.model.transformer.logits_of_normed(&rows).unwrap();
            log_probs(&values(&logits))[7]
        };
        let slope = (after(1.0) - after(-1.0)) / (2.0 * step);
        assert!(
            (slope / square - 1.0).abs() < 2e-2,
            "{name}: {slope} {square}"
        );
    }
}

/// Eight draws ride one batch with the edit, which shares the blocks below it, and each is what it is alone.
#[test]
fn a_receipt_has_eight_draws_and_each_is_a_run_of_its_own() {
    for mut lab in dense_families() {
        let name = lab.model.card.name.clone();
        for line in [
            "zero:1,4@mlp_act.1",
            "zero:0@z.1:2..9",
            "cut:=2@attn_scores.1:last",
        ] {
            let run = Run {
                seed: 3,
                ..edited(prompt(9), &[line])
            };
            let receipt = lab.receipts(&run).unwrap().remove(0);
            // Of so few heads every other one is a draw.
            let heads = lab.model.card.heads;
            let count = if line.contains("@z") {
                heads - 1
            } else {
                DRAWS
            };
            assert_eq!(receipt.draws.len(), count.min(DRAWS), "{name} {line}");
            let logits = |lab: &mut Lab, run: &Run, random: Option<u64>| {
                let control = |seed| PassRow::edited(run.schedule.control(seed));
                let row = random.map_or_else(PassRow::default, control);
                let read = lab
                    .run_one(&Pass {
                        rows: vec![row],
                        lenient: true,
                        ..Pass::after(run.clone(), Output::whole(After::Last(9)))
                    })
                    .unwrap();
                let rows = read.output.iter().map(|stats| log_probs(&stats.logits));
                rows.collect::<Vec<_>>()
            };
            let plain = logits(&mut lab, &run.unedited(), None);
            let mut alone = |random: Option<u64>| {
                let moved = logits(&mut lab, &run, random);
                let each = plain.iter().zip(&moved).map(|(a, b)| kl(a, b));
                each.sum::<f32>() / 9.0
            };
            let own = receipt.kl.unwrap();
            assert!(
                (own - alone(None)).abs() < 1e-5 * own.max(1.0),
                "{name} {line}"
            );
            for (draw, found) in receipt.draws.iter().enumerate() {
                let expected = alone(Some(draw_seed(3, draw)));
                let apart = (found - expected).abs();
                assert!(
                    apart < 1e-5 * expected.max(1.0),
                    "{name} {line} {draw}: {found} {expected}"
                );
            }
            let mean = receipt.draws.iter().sum::<f32>() / receipt.draws.len() as f32;
            assert!((receipt.control.unwrap() - mean).abs() < 1e-6);
            let (low, high) = receipt.control_range().unwrap();
            assert!(low <= mean && mean <= high);
            assert!(receipt.within_control() || own > high);
        }
    }
}

/// Where an edit takes most units of a site, nothing of its size is left to compare with: no control is made up.
#[test]
fn there_is_no_control_where_too_few_units_are_left() {
    let mut lab = demo();
    let (heads, tokens) = (
        lab.model.card.heads,
        lab.model.encode("The capital of France is", false).unwrap(),
    );
    assert_eq!(heads, 4);
    let mut receipt = |edit: &str| {
        let run = Run {
            schedule: Schedule::always(vec![edit.parse().unwrap()]),
            seed: 1,
            ..Run::plain(tokens.clone())
        };
        lab.receipts(&run).unwrap().remove(0)
    };
    let most = receipt("zero:0,1,2@z.3");
    assert_eq!((most.control, most.draws.len()), (None, 0));
    assert!(most.kl.is_some() && !most.within_control());
    assert!(
        most.no_control.contains("3 of 4 units"),
        "{}",
        most.no_control
    );
    let all = receipt("zero@z.3");
    assert!(all.no_control.contains("all units"), "{}", all.no_control);
    // Each of the three others is one draw, and no draw is repeated.
    let one = receipt("zero:1@z.3");
    assert_eq!(one.draws.len(), heads - 1);
    let mut draws = one.draws.clone();
    draws.sort_by(f32::total_cmp);
    draws.dedup();
    assert_eq!(draws.len(), heads - 1, "{:?}", one.draws);
    let run = Run::plain(tokens);
    let dose = observe(
        &mut lab,
        "dose",
        &run,
        &[
            ("site", "z"),
            ("units", "3/0,3/1,3/2"),
            ("strengths", "0,1"),
        ],
    );
    assert!(
        dose.notes
            .iter()
            .any(|n| n.contains("no control of equal size"))
    );
    let rows = &table(&dose).pages[0].rows;
    let last = rows[0].entries.last().unwrap();
    assert_eq!(*last, Entry::Missing);
}

/// Another seed has other draws.
#[test]
fn seeds_of_receipts_share_no_draw() {
    let mut lab = dense_families().next().unwrap();
    let mut of = |seed| {
        let run = Run {
            seed,
            ..edited(prompt(9), &["zero:0@mlp_act.1"])
        };
        lab.receipts(&run).unwrap().remove(0).draws
    };
    let (a, b) = (of(1), of(2));
    assert!(a != b, "{a:?}");
    let shared = (0..DRAWS).filter(|i| a[*i] == b[*i + 1 - usize::from(*i + 1 == DRAWS)]);
    assert!(
        shared.count() < DRAWS / 2,
        "draws are not the same ones moved on: {a:?} {b:?}"
    );
}

/// The matched control of back-patching: the states of the prompt that is given, or of the prompt with noise on its entity.
#[test]
fn back_patching_stands_beside_the_same_prompt_about_another() {
    let world = TwoHop::new(Layout::Llama, 2, 1);
    let mut lab = world.open();
    let run = run_of(&lab, 0);
    let answer = world.answer(0);
    let other = TwoHop::prompt(1);
    let given = [
        ("answer", answer),
        ("matched", other.as_str()),
        ("unrelated", other.as_str()),
    ];
    let figure = observe(&mut lab, "backpatch", &run, &given);
    for cell in grid(&figure).cells.iter().flatten() {
        assert_eq!(number(cell, "matched"), number(cell, "unrelated"));
    }
    assert!(
        figure
            .title
            .contains("set right by 33 % of pairs, matched control 0 %"),
        "{}",
        figure.title
    );
    // Noise on the entity: what it takes from the answer is in the control, and the word is found.
    let figure = observe(&mut lab, "backpatch", &run, &[("answer", answer)]);
    let said = figure.notes.join("\n");
    assert!(
        said.contains("with noise on") && said.contains("8 draws"),
        "{said}"
    );
    let named = observe(
        &mut lab,
        "backpatch",
        &run,
        &[("answer", answer), ("subject", SUBJECTS[0])],
    );
    assert_eq!(
        figure.body, named.body,
        "the word that the answer depends on is the subject"
    );
    let alone = observe(
        &mut lab,
        "backpatch",
        &run,
        &[("answer", answer), ("control", "matched")],
    );
    assert!(alone.title.contains("control: matched"));
    // A question that is answered can only be kept right.
    let world = TwoHop::new(Layout::Llama, 1, 2);
    let mut lab = world.open();
    let run = run_of(&lab, 0);
    let figure = observe(&mut lab, "backpatch", &run, &[("answer", world.answer(0))]);
    assert!(figure.title.contains("kept right by"), "{}", figure.title);
    assert!(!figure.notes.join("\n").contains("set right"));
}

/// The states under noise are those of runs with that noise put in.
#[test]
fn noised_states_are_those_of_the_noised_run() {
    let mut lab = demo();
    let tokens = lab.model.encode("The capital of France is", false).unwrap();
    let run = Run::plain(tokens);
    let span = lab.word_at(&run, 3);
    assert!(span.contains(&3));
    let states = lab.noised_states(&run, &span, 4).unwrap();
    let draws = lab.noised_draws(&run, &span, DRAWS).unwrap();
    assert_eq!((states.len(), draws.len()), (DRAWS, DRAWS));
    let at = Site::ResidPost.at(2);
    for draw in [0, 5] {
        let read = lab.run_one(&Pass {
            common: draws[draw].clone(),
            from: Some(0),
            record: vec![at],
            ..Pass::of(run.clone())
        });
        let read = read.unwrap();
        let expected = values(&read.get(at).unwrap().get(4).unwrap());
        let apart = values(&states[draw][2])
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(apart < 1e-4, "{draw}: {apart}");
    }
    assert!(
        values(&states[0][2]) != values(&states[5][2]),
        "draws differ"
    );
    // Three deviations of the entity's own embeddings, and not of the whole table.
    let own = lab.model.transformer.embed_tokens(
        &lab.model
            .tokens(&run.tokens[span.clone()])
            .unwrap()
            .squeeze(0)
            .unwrap(),
    );
    let own = values(&own.unwrap());
    let mean = own.iter().sum::<f32>() / own.len() as f32;
    let spread = own.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / (own.len() - 1) as f32;
    let found = embedding_spread(&lab, &run.tokens[span]).unwrap() as f32;
    assert!((found - spread.sqrt()).abs() < 1e-5 * found);
}

/// A Patchscope stands beside the same state of the prompt with noise on its entity, without being asked.
#[test]
fn a_patchscope_stands_beside_the_noised_prompt() {
    let mut lab = demo();
    let run = Run::plain(lab.model.encode("People in Japan", false).unwrap());
    let given = [
        ("template", "world"),
        ("layer", "0-3"),
        ("answers", " Asia"),
    ];
    let figure = observe(&mut lab, "patchscope", &run, &given);
    let columns = &table(&figure).columns;
    let at = |name: &str| columns.iter().position(|c| c == name).unwrap();
    assert!(at("p matched") > at("p answers"));
    let (own, control) = (at("patched"), at("matched"));
    let says = |row: usize, column: usize| match &table(&figure).pages[0].rows[row].entries[column]
    {
        Entry::Text(text) => text.contains("Asia"),
        other @ (Entry::Whole(_) | Entry::Number(_) | Entry::Missing) => panic!("{other:?}"),
    };
    assert!(
        (0..4).any(|row| says(row, own) && !says(row, control)),
        "{figure:?}"
    );
    // Of probabilities there are eight draws: their mean, and the highest.
    let rows = &table(&figure).pages[0].rows;
    let (mean, most) = (at("p matched"), at("most p matched"));
    let number = |row: usize, column: usize| match rows[row].entries[column] {
        Entry::Whole(value) => value as f32,
        Entry::Number(value) => value,
        Entry::Missing => panic!("no number"),
        Entry::Text(ref text) => panic!("{text}"),
    };
    assert!((0..4).all(|row| number(row, mean) <= number(row, most)));
    assert!((0..4).any(|row| number(row, mean) < number(row, most)));
    let off = observe(
        &mut lab,
        "patchscope",
        &run,
        &[given[0], given[1], given[2], ("control", "no")],
    );
    assert!(!table(&off).columns.iter().any(|c| c.contains("matched")));
    let both = observe(
        &mut lab,
        "patchscope",
        &run,
        &[given[0], given[1], given[2], ("control", "both")],
    );
    assert!(table(&both).columns.iter().any(|c| c == "unrelated"));
}

/// The state at the end of a prompt is about the word that its prediction depends on, unless its own word alone decodes to the same; the
/// matched control of a Patchscope has its noise there, says so, and is that of the word given as the entity.
#[test]
fn a_patchscope_at_the_end_of_a_prompt_has_noise_on_the_word_that_is_asked_about() {
    let mut lab = demo();
    let run = Run::plain(lab.model.encode("The capital of Japan is", false).unwrap());
    let other = Run::plain(lab.model.encode("People in Japan", false).unwrap());
    let given = [("layer", "2"), ("answers", " Tokyo")];
    let figure = observe(&mut lab, "patchscope", &run, &given);
    let notes = figure.notes.join("\n");
    assert!(notes.contains("noise on ␣Japan, on which"), "{notes}");
    let named = observe(
        &mut lab,
        "patchscope",
        &run,
        &[given[0], given[1], ("entity", "Japan")],
    );
    assert_eq!(table(&figure).pages[0].rows, table(&named).pages[0].rows);
    let own = observe(
        &mut lab,
        "patchscope",
        &run,
        &[given[0], given[1], ("entity", " is")],
    );
    assert_ne!(table(&figure).pages[0].rows, table(&own).pages[0].rows);
    // A state that its own word decodes to as well is about that word.
    let given = [
        ("template", "world"),
        ("layer", "0-3"),
        ("answers", " Asia"),
    ];
    let people = observe(&mut lab, "patchscope", &other, &given);
    assert!(
        people
            .notes
            .join("\n")
            .contains("on the word at the source position")
    );
    // In the middle of a prompt the state is about its own word.
    let inner = observe(
        &mut lab,
        "patchscope",
        &run,
        &[given[0], given[1], ("position", "4")],
    );
    assert!(
        inner
            .notes
            .join("\n")
            .contains("on the word at the source position")
    );
}

/// The strongest cell of a knockout has eight draws of other edges, in its own numbers and in the title.
#[test]
fn the_strongest_knockout_stands_beside_eight_draws() {
    let mut lab = demo();
    let run = Run::plain(lab.model.encode("The capital of France is", false).unwrap());
    let figure = observe(&mut lab, "knockout", &run, &[("window", "3")]);
    let cells = grid(&figure).cells.iter().flatten();
    let drawn: Vec<&Cell> = cells
        .clone()
        .filter(|c| c.more.iter().any(|(name, _)| name == "most of 8 draws"))
        .collect();
    let [strongest] = drawn[..] else {
        panic!("one cell: {drawn:?}")
    };
    let largest = cells.map(|c| c.value.abs()).fold(0.0, f32::max);
    assert!((strongest.value.abs() - largest).abs() < 1e-6);
    let (low, high) = (
        number(strongest, "least of 8 draws"),
        number(strongest, "most of 8 draws"),
    );
    assert!(low <= high && low >= 0.0 && high <= 1.0);
    assert!(figure.title.contains("· strongest"), "{}", figure.title);
    let within = figure.title.contains("no more than its control");
    let before = number(strongest, "before");
    let far = |p: f32| (p - before).abs();
    assert_eq!(within, far(low).max(far(high)) >= strongest.value.abs());
}

/// The strongest heads over demonstrations stand beside eight random vectors each, with an interval over the prompts.
#[test]
fn heads_over_demonstrations_have_draws_and_intervals() {
    let mut lab = demo();
    let path = format!("{}/demo/lists/antonyms.tsv", env!("CARGO_MANIFEST_DIR"));
    let figure = observe(
        &mut lab,
        "heads",
        &Run {
            seed: 1,
            ..Run::default()
        },
        &[
            ("demos", &path),
            ("shots", "3"),
            ("trials", "4"),
            ("prompts", "4"),
        ],
    );
    let controls: Vec<&String> = figure
        .notes
        .iter()
        .filter(|n| n.starts_with("control: head"))
        .collect();
    assert_eq!(controls.len(), 3, "{:?}", figure.notes);
    assert!(
        controls
            .iter()
            .all(|n| n.contains("in 8 draws (seed 1)") && n.contains("over the prompts")),
        "{controls:?}"
    );
    let cells = grid(&figure).cells.iter().flatten();
    let drawn: Vec<&Cell> = cells
        .filter(|c| c.more.iter().any(|(name, _)| name == "random, to"))
        .collect();
    assert_eq!(drawn.len(), 3);
}

/// What a direction does best is held against what its control does best, and what does no more is called so.
#[test]
fn a_sweep_says_what_its_control_does_best() {
    use lmscope::edit::direction::{Direction, DirectionOrigin, random_like};
    let mut lab = demo();
    let run = Run::plain(lab.model.encode("The capital of France is", false).unwrap());
    let word = lab
        .model
        .tokenizer()
        .unwrap()
        .encode_literal(" Lima")
        .unwrap()[0];
    let planted = values(&lab.model.transformer.logit_direction(word).unwrap());
    let absent = random_like(&planted, 99);
    let maxima = |title: &str| -> Vec<f32> {
        let claim = title.split("selected maximum ").last().unwrap();
        let numbers = claim.split([' ', ',']).filter_map(|part| part.parse().ok());
        numbers.collect()
    };
    for (name, vector, beats) in [("planted", planted, true), ("absent", absent, false)] {
        let rows = vec![(Site::ResidPre.at(7), vector)];
        let origin = DirectionOrigin {
            anywhere: true,
            ..DirectionOrigin::default()
        };
        lab.directions
            .insert(name.into(), Direction { rows, origin });
        let given = [
            ("direction", name),
            ("answers", " Lima"),
            ("strengths", "1,4"),
        ];
        let figure = observe(&mut lab, "sweep", &run, &given);
        let found = maxima(&figure.title);
        let cells = grid(&figure).cells.iter().flatten();
        let most = |name: &str| cells.clone().map(|c| number(c, name)).fold(0.0, f32::max);
        assert!(
            (found[0] - most("answers")).abs() < 1e-3,
            "{}",
            figure.title
        );
        assert!(
            (found[1] - most("answers, random")).abs() < 1e-3,
            "{}",
            figure.title
        );
        assert_eq!(found[0] > found[1] + 0.5, beats, "{}", figure.title);
        let less = figure.title.contains("no more than its control");
        assert_eq!(less, found[1] >= found[0], "{}", figure.title);
    }
}

/// Where the answer is certain, the gradient of its log-probability says little, and that is said.
#[test]
fn a_certain_answer_is_a_caution() {
    let mut lab = demo();
    let run = Run::plain(lab.model.encode("The capital of France is", false).unwrap());
    for name in ["neurons", "fact", "residual", "promoters"] {
        let said = |figure: &Figure| {
            figure
                .notes
                .iter()
                .any(|n| n.contains("as good as certain"))
        };
        let given = [("window", "1"), ("token", " Paris")];
        let given = match name {
            "fact" => &[][..],
            "promoters" => &given[1..],
            _ => &given[..],
        };
        assert!(said(&observe(&mut lab, name, &run, given)), "{name}");
        let raw = [given, &[("on", "logit")]].concat();
        assert!(!said(&observe(&mut lab, name, &run, &raw)), "{name}");
    }
}

/// Nobody asks about the first position, an attention sink in many models, unless it is named.
#[test]
fn a_knockout_leaves_the_sink_out_unless_it_is_named() {
    let mut lab = every_family().next().unwrap();
    let run = Run::plain(prompt(7));
    let figure = observe(&mut lab, "knockout", &run, &[("window", "1")]);
    let first = grid(&figure).columns[0].anchor.position;
    assert_eq!((first, grid(&figure).columns.len()), (Some(1), 5));
    assert!(figure.notes.iter().any(|n| n.contains("sources=0")));
    let named = observe(
        &mut lab,
        "knockout",
        &run,
        &[("window", "1"), ("sources", "0")],
    );
    assert_eq!(grid(&named).columns[0].anchor.position, Some(0));
    assert!(!named.notes.iter().any(|n| n.contains("sources=0")));
    let short = Run::plain(prompt(2));
    let figure = observe(&mut lab, "knockout", &short, &[("window", "1")]);
    assert_eq!(grid(&figure).columns.len(), 1, "there is nothing else");
}

/// An answer without the space that its word begins with is asked about, and one with it is not.
#[test]
fn an_answer_without_its_space_is_asked_about() {
    let mut lab = demo();
    let run = Run::plain(lab.model.encode("The capital of France is", false).unwrap());
    let asked = |lab: &mut Lab, tokens: &str| {
        let figure = observe(lab, "track", &run, &[("tokens", tokens)]);
        figure
            .notes
            .iter()
            .filter(|n| n.contains("is meant") || n.contains("” meant"))
            .count()
    };
    assert_eq!(asked(&mut lab, "Paris"), 1);
    assert_eq!(asked(&mut lab, " Paris"), 0);
    // A thousand times is the measure, whatever the word.
    let (mut seldom, mut words) = (0, 0);
    for word in [
        "her", "country", "map", "closed", "very", "teacher", "is", "of", "no",
    ] {
        let tokenizer = lab.model.tokenizer().unwrap();
        let first = |text: &str| tokenizer.encode_literal(text).unwrap()[0];
        let ids = [first(word), first(&format!(" {word}"))];
        let stats = lab.last(&run, Output::tokens(&ids)).unwrap();
        let [own, spaced] = ids.map(|id| stats.token(id).logprob);
        let expected = ids[0] != ids[1] && spaced - own > 1000f32.ln();
        assert_eq!(asked(&mut lab, word), usize::from(expected), "{word}");
        words += usize::from(ids[0] != ids[1]);
        seldom += usize::from(ids[0] != ids[1] && !expected);
    }
    assert!(words > 3 && seldom > 0, "{seldom} of {words}");
}

/// Where a difference of logits is 0 on the scale of shares is said with the scale.
#[test]
fn shares_of_a_difference_say_where_it_is_zero() {
    let mut lab = demo();
    let run = Run::plain(lab.model.encode("The capital of France is", false).unwrap());
    let given = [("corrupt", "The capital of Italy is"), ("site", "heads")];
    let figure = observe(&mut lab, "patching", &run, &given);
    let cell = &grid(&figure).cells[0][0];
    let (base, other) = (number(cell, "before"), number(cell, "other run"));
    let said = format!("the logit difference is 0 at {:.2}", -base / (other - base));
    assert!(
        grid(&figure).value.contains(&said),
        "{} {said}",
        grid(&figure).value
    );
    let kl = observe(
        &mut lab,
        "patching",
        &run,
        &[given[0], given[1], ("metric", "kl")],
    );
    assert!(!grid(&kl).value.contains("difference is 0"));
}

/// Head scores over random sequences have the standard error over them.
#[test]
fn head_scores_say_how_sure_they_are() {
    use lmscope::instruments::attention::head_scores::{HeadScore, HeadScores, Repeated};
    let mut lab = every_family().next().unwrap();
    let runs: Vec<(Run, usize)> = (0..3)
        .map(|draw| {
            let text = Repeated::random(&lab.model, 6, draw_seed(1, draw)).unwrap();
            (Run::plain(text.tokens.clone()), text.first)
        })
        .collect();
    let all = HeadScores::measure(&mut lab, HeadScore::Induction, &runs).unwrap();
    let each: Vec<f64> = runs
        .iter()
        .map(|run| {
            let one =
                HeadScores::measure(&mut lab, HeadScore::Induction, std::slice::from_ref(run));
            let one = one.unwrap();
            assert!(one.errors[0][1].is_nan(), "of one there is none");
            one.values[0][1]
        })
        .collect();
    let (mean, error) = lmscope::vectors::interval::standard_error(&each);
    assert!((all.values[0][1] - mean).abs() < 1e-9);
    assert!((all.errors[0][1] - error).abs() < 1e-9 && error > 0.0);
}

/// A direction that is there tells held-out prompts apart and the halves agree; with shuffled labels neither.
#[test]
fn a_planted_direction_beats_shuffled_labels_and_an_absent_one_does_not() {
    let mut lab = demo();
    let capitals = [
        "France", "Italy", "Spain", "Japan", "Poland", "Egypt", "Kenya", "Peru",
    ];
    let ask = |form: &str| -> Vec<String> {
        capitals
            .iter()
            .map(|country| form.replace("{}", country))
            .collect()
    };
    let measure = ContrastRequest::last(4, false);
    let (plus, minus) = (ask("The capital of {} is"), ask("People in {} speak"));
    let contrast = Contrast::measure(&mut lab, &plus, &minus, measure.clone()).unwrap();
    for method in [Method::Mean, Method::Pca] {
        let found = contrast.quality(method, 1).unwrap().remove(0);
        assert_eq!(found.shuffled.len(), DRAWS);
        let shuffled = |i: usize| found.shuffled.iter().map(|d| d[i]).sum::<f64>() / DRAWS as f64;
        assert!(
            found.auroc > 0.95 && found.cosine > 0.5,
            "{method}: {found:?}"
        );
        assert!(
            shuffled(0) < 0.8 && shuffled(1) < 0.5,
            "{method}: {found:?}"
        );
        assert!(!found.sentence(1).contains("NO MORE"));
    }
    // Its file holds the shuffled ones, at its own length, and receipts draw them.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.safetensors");
    let mut direction = contrast.direction(Method::Mean, &lab).unwrap();
    direction.origin.shuffled = contrast.shuffled_rows(Method::Mean, &direction, 1);
    direction
        .save_as(&path, lmscope::file::Overwrite::Never)
        .unwrap();
    let read = lab.direction(&path.display().to_string()).unwrap();
    assert_eq!(read, direction);
    let at = Site::ResidPre.at(4);
    for draw in 0..DRAWS {
        let vector = read.shuffled(draw, at).unwrap();
        let length = lmscope::edit::direction::norm(&vector);
        assert!((length / read.norm() - 1.0).abs() < 1e-4 && vector != read.rows[0].1);
    }
    let tokens = lab.model.encode("People in Poland", false).unwrap();
    lab.directions.insert("d".into(), read.clone());
    let receipt = lab
        .receipts(&edited(tokens.clone(), &["add:d@resid_pre.4"]))
        .unwrap()
        .remove(0);
    assert!(
        receipt.control_is.contains("shuffled labels"),
        "{receipt:?}"
    );
    // Under another seed the draws are others, of the same kind and length.
    let again = Run {
        seed: 2,
        ..edited(tokens.clone(), &["add:d@resid_pre.4"])
    };
    let other = lab.receipts(&again).unwrap().remove(0);
    assert_eq!(other.draws.len(), DRAWS);
    assert!(other.draws.iter().all(|draw| !receipt.draws.contains(draw)));
    assert!(other.control_is.contains("mixture"), "{other:?}");
    let mixed: Vec<Vec<f32>> = [7, 8].map(|seed| read.mixed(seed, at).unwrap()).to_vec();
    assert!(mixed[0] != mixed[1] && read.mixed(7, at).unwrap() == mixed[0]);
    let length = lmscope::edit::direction::norm(&mixed[0]);
    assert!((length / read.norm() - 1.0).abs() < 1e-4);
    lab.directions.insert(
        "s".into(),
        lmscope::edit::direction::Direction {
            rows: read.origin.shuffled[3].clone(),
            origin: lmscope::edit::direction::DirectionOrigin::default(),
        },
    );
    let third = lab
        .receipts(&edited(tokens, &["add:s@resid_pre.4"]))
        .unwrap()
        .remove(0);
    let apart = (third.kl.unwrap() - receipt.draws[3]).abs();
    assert!(apart < 1e-5 * receipt.draws[3].max(1.0), "{apart}");
    // Two lists of one kind: nothing tells them apart.
    let (a, b) = (plus[..4].to_vec(), plus[4..].to_vec());
    let contrast = Contrast::measure(&mut lab, &a, &b, measure.clone()).unwrap();
    let found = contrast.quality(Method::Mean, 1).unwrap().remove(0);
    assert!(found.auroc < 0.9, "{found:?}");
    let contrast = Contrast::measure(&mut lab, &plus[..3], &minus[..3], measure).unwrap();
    assert!(
        contrast.quality(Method::Mean, 1).is_none(),
        "too few to hold some out"
    );
}

/// On the demo: an edit that is planted beats every draw of its control, one of units that do nothing does not.
#[test]
fn a_planted_effect_beats_its_control_and_an_absent_one_does_not() {
    let mut lab = demo();
    let tokens = lab.model.encode("The capital of France is", false).unwrap();
    let run = Run::plain(tokens.clone());
    let figure = observe(&mut lab, "fact", &run, &[]);
    let Entry::Text(strongest) = &table(&figure).pages[0].rows[0].entries[0] else {
        panic!("a neuron")
    };
    let (layer, unit) = strongest.split_once('/').unwrap();
    let planted = format!("zero:{unit}@mlp_act.{layer}:last");
    let receipt = lab
        .receipts(&edited(tokens.clone(), &[&planted]))
        .unwrap()
        .remove(0);
    assert!(!receipt.within_control(), "{receipt:?}");
    // The neuron whose output is smallest.
    let at = Site::MlpAct.at(layer.parse().unwrap());
    let acts = values(
        &lab.record(&run, &[at])
            .unwrap()
            .get(at)
            .unwrap()
            .get(tokens.len() - 1)
            .unwrap(),
    );
    let quiet = (0..acts.len())
        .min_by(|a, b| acts[*a].abs().total_cmp(&acts[*b].abs()))
        .unwrap();
    let absent = format!("zero:{quiet}@mlp_act.{layer}:last");
    let receipt = lab.receipts(&edited(tokens, &[&absent])).unwrap().remove(0);
    assert!(receipt.within_control(), "{receipt:?}");
}

/// Where nothing is planted, because the direction is itself a draw of random numbers, the control is beaten in at most 7 % of all
/// cases; for `.ci/nightly`.
#[test]
#[ignore = "minutes: run by .ci/nightly"]
fn nothing_planted_seldom_beats_its_control() {
    use lmscope::edit::direction::{Direction, DirectionOrigin, random_like};
    let (mut beaten, mut cases) = (0, 0);
    for seed in 0..60 {
        for mut lab in every_family() {
            let width = lab.model.card.d_model;
            let at = Site::ResidPre.at(1);
            let mut length = vec![0.0; width];
            length[0] = 2.0;
            let origin = DirectionOrigin {
                anywhere: true,
                ..DirectionOrigin::default()
            };
            let rows = vec![(at, random_like(&length, draw_seed(77, seed)))];
            lab.directions
                .insert("r".into(), Direction { rows, origin });
            let run = Run {
                seed: seed as u64,
                ..edited(prompt(9), &["add:r@resid_pre.1"])
            };
            let receipt = lab.receipts(&run).unwrap().remove(0);
            cases += 1;
            beaten += usize::from(!receipt.within_control());
        }
    }
    let share = beaten as f64 / f64::from(cases);
    println!("{beaten} of {cases}: {share:.3}");
    assert!(cases >= 1000 && share <= 0.07, "{beaten} of {cases}");
}
