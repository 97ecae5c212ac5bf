//! Vectors from demonstrations: identities on a tiny random model of every family, and the planted mappings of the demo.

use std::path::{Path, PathBuf};

use candle_core::{D, DType};
use lmscope::app::Event;
use lmscope::app::layout::Pane;
use lmscope::edit::direction::{Direction, DirectionOrigin, norm, random_like};
use lmscope::edit::positions::Positions;
use lmscope::figure::{Body, Unit};
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::effect::AnswerMeasure;
use lmscope::lab::run::Run;
use lmscope::lab::sample::log_softmax;
use lmscope::model::load::Options;
use lmscope::model::network::site::{Address, Site};
use lmscope::vectors::combine::combine;
use lmscope::vectors::contrast::{Contrast, ContrastRequest, Method, check_letters};
use lmscope::vectors::evaluate::{Insertion, Questions, TaskEvaluation};
use lmscope::vectors::few_shot::{FewShotPrompt, ShotLayout, ShotPair, read, split};
use lmscope::vectors::function_vector::{Effects, Head, HeadMeans, assemble};
use lmscope::vectors::task_vector::{HeadRanking, InContext, Recipe, ShotPrompts, states};

use super::recorded;
use super::tools::{edited, every_family, gap, prompt, reach, same_bits, values};

fn demo() -> Lab {
    let options = Options {
        device: Some("cpu".into()),
        ..Options::default()
    };
    Lab::open("demo", &options).unwrap()
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Prompts of different lengths, as tiny models have no tokenizer.
fn asks() -> Vec<FewShotPrompt> {
    let ask = |length: usize, shift: u32| FewShotPrompt {
        tokens: prompt(length).iter().map(|t| (t + shift) % 41).collect(),
        answer: (7 + shift) % 41,
    };
    vec![ask(12, 0), ask(9, 3), ask(40, 11)]
}

fn one_row(at: Address, vector: Vec<f32>) -> Direction {
    Direction {
        rows: vec![(at, vector)],
        origin: DirectionOrigin::default(),
    }
}

fn last_row(lab: &mut Lab, run: &Run, at: Address) -> Vec<f32> {
    let recording = lab.record(run, &[at]).unwrap();
    let rows = recording.get(at).unwrap();
    let last = rows.dim(0).unwrap() - 1;
    values(&rows.narrow(0, last, 1).unwrap())
}

fn probability(lab: &mut Lab, run: &Run, token: u32) -> f64 {
    let mut row = lab.last_logits(run).unwrap();
    log_softmax(&mut row);
    f64::from(row[token as usize]).exp()
}

fn all_heads(lab: &Lab) -> Vec<Head> {
    let card = &lab.model.card;
    (0..card.layers)
        .flat_map(|l| (0..card.heads).map(move |h| (l, h)))
        .collect()
}

fn relative(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let apart: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    norm(&apart) / norm(b).max(1e-12)
}

#[test]
fn a_task_vector_put_back_where_it_came_from_changes_nothing() {
    for mut lab in every_family() {
        let ask = &asks()[0];
        let run = Run::plain(ask.tokens.clone());
        let plain = lab.last_logits(&run).unwrap();
        let vectors = states(&mut lab, &asks()[..1]).unwrap();
        let mean = states(&mut lab, &asks()[..2]).unwrap();
        for layer in 0..lab.model.card.layers {
            let at = Site::ResidPost.at(layer);
            let row = one_row(at, vectors[layer].clone());
            lab.directions.insert("t".into(), row);
            let line = format!("replace:t@{at}:last");
            let back = lab
                .last_logits(&edited(ask.tokens.clone(), &[&line]))
                .unwrap();
            let same = plain
                .iter()
                .zip(&back)
                .all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{} {at}", lab.model.card.name);
            // Another prompt's state does change it, and the mean of two lies in the middle of both.
            let other = last_row(&mut lab, &Run::plain(asks()[1].tokens.clone()), at);
            let middle: Vec<f32> = vectors[layer]
                .iter()
                .zip(&other)
                .map(|(a, b)| (a + b) / 2.0)
                .collect();
            assert!(relative(&mean[layer], &middle) < 1e-5);
            lab.directions.insert("t".into(), one_row(at, other));
            let changed = lab
                .last_logits(&edited(ask.tokens.clone(), &[&line]))
                .unwrap();
            assert_ne!(plain, changed, "{} {at}", lab.model.card.name);
        }
    }
}

#[test]
fn function_vectors_of_heads_apart_add_up() {
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        let means = HeadMeans::measure(&mut lab, &asks()).unwrap();
        let heads = all_heads(&lab);
        let (a, b): (Vec<Head>, Vec<Head>) = heads.iter().partition(|(l, h)| (l + h) % 2 == 0);
        let make = |heads: &[Head]| assemble(&lab.model, &means, heads).unwrap();
        let (whole, a, b) = (make(&heads), make(&a), make(&b));
        let sum: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        assert!(
            relative(&sum, &whole) <= 1e-6,
            "{name}: {}",
            relative(&sum, &whole)
        );
        assert!(relative(&a, &whole) > 1e-3, "{name}: each part counts");
        assert!(assemble(&lab.model, &means, &[]).is_err());
    }
}

/// Σ W_O z = attn_out − bias, and what each head adds, with what the bias adds, is what attention adds.
#[test]
fn what_all_heads_write_is_what_attention_returns_but_for_the_bias() {
    let mut biased = 0;
    for mut lab in every_family() {
        let run = Run::plain(prompt(40));
        for layer in 0..lab.model.card.layers {
            let [z, out, add] = [Site::Z, Site::AttnOut, Site::AttnAdd].map(|s| s.at(layer));
            let (z, out, add) = (
                last_row(&mut lab, &run, z),
                last_row(&mut lab, &run, out),
                last_row(&mut lab, &run, add),
            );
            let transformer = &lab.model.transformer;
            let width = transformer.blueprint.head_dim;
            let scale = transformer.attention_scale(layer, &out);
            let mut written = vec![0f32; out.len()];
            let mut added = vec![0f32; out.len()];
            for (head, z) in z.chunks_exact(width).enumerate() {
                let write = transformer.head_write(layer, head, z).unwrap();
                let through = transformer.head_added(layer, &write, scale).unwrap();
                written.iter_mut().zip(write).for_each(|(s, w)| *s += w);
                added.iter_mut().zip(through).for_each(|(s, w)| *s += w);
            }
            if let Some(bias) = &transformer.blocks[layer].attention.out.bias {
                biased += 1;
                let bias = values(bias);
                let through = transformer.head_added(layer, &bias, scale).unwrap();
                written.iter_mut().zip(bias).for_each(|(s, w)| *s += w);
                added.iter_mut().zip(through).for_each(|(s, w)| *s += w);
            }
            let name = &lab.model.card.name;
            assert!(
                relative(&written, &out) <= 1e-5,
                "{name} {layer}: {}",
                relative(&written, &out)
            );
            assert!(
                relative(&added, &add) <= 1e-5,
                "{name} {layer}: {}",
                relative(&added, &add)
            );
            assert!(transformer.head_write(layer, 99, &z[..width]).is_err());
        }
    }
    assert!(biased > 4, "families with a bias on the output were there");
}

#[test]
fn a_stream_that_is_normed_after_every_write_has_no_function_vector() {
    let path = root("tests/references/opt_350m");
    let mut lab = Lab::open(path.to_str().unwrap(), &Options::default()).unwrap();
    let means = HeadMeans::measure(&mut lab, &asks()[..2]).unwrap();
    let why = assemble(&lab.model, &means, &[(0, 0)])
        .unwrap_err()
        .to_string();
    assert!(
        why.contains("normalizes the stream after every component") && why.contains("task-vector"),
        "{why}"
    );
    assert_eq!(
        states(&mut lab, &asks()[..2]).unwrap().len(),
        lab.model.card.layers
    );
}

/// One text read once and its last token many times gives what whole passes under edits give.
#[test]
fn the_effect_of_a_head_is_that_of_the_edit_that_does_the_same() {
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        let (heads, width) = (
            lab.model.card.heads,
            lab.model.transformer.blueprint.head_dim,
        );
        for (tokens, answer) in [(prompt(40), 7), (vec![5], 9)] {
            // Under an edit of the run itself, which must be in force in every branch.
            for own in [&[][..], &["zero@mlp_out.0"][..]] {
                let run = edited(tokens.clone(), own);
                let effects =
                    Effects::of(&mut lab, &run, (answer, AnswerMeasure::Probability), |_| {
                        vec![0.0; width]
                    })
                    .unwrap();
                let base = probability(&mut lab, &run, answer);
                assert!((effects.base - base).abs() < 1e-5, "{name}");
                for head in 0..heads {
                    let line = format!("zero:{head}@z.1:last");
                    let both: Vec<&str> = own.iter().copied().chain([line.as_str()]).collect();
                    let after = probability(&mut lab, &edited(tokens.clone(), &both), answer);
                    let apart = (after - base) - effects.values[1][head];
                    assert!(apart.abs() < 1e-5, "{name} head {head}: {apart}");
                }
            }
        }
    }
}

/// The mean over prompts of what a head's mean does, against a loop of recorded means and single edits.
#[test]
fn the_average_indirect_effect_is_the_mean_of_single_replacements() {
    for mut lab in every_family().take(4) {
        let (clean, corrupt) = (asks(), asks().into_iter().rev().take(2).collect::<Vec<_>>());
        let means = HeadMeans::measure(&mut lab, &clean).unwrap();
        let effects =
            Effects::indirect(&mut lab, &corrupt, &means, AnswerMeasure::Probability).unwrap();
        let (at, head) = (Site::Z.at(1), 1);
        let width = means.width;
        let rows: Vec<Vec<f32>> = clean
            .iter()
            .map(|ask| last_row(&mut lab, &Run::plain(ask.tokens.clone()), at))
            .collect();
        for i in 0..width {
            let mean = rows.iter().map(|r| r[head * width + i]).sum::<f32>() / rows.len() as f32;
            assert!((means.head((1, head))[i] - mean).abs() < 1e-5);
        }
        let mut expected = 0.0;
        for ask in &corrupt {
            let run = Run::plain(ask.tokens.clone());
            let base = probability(&mut lab, &run, ask.answer);
            let mut whole = last_row(&mut lab, &run, at);
            whole[head * width..(head + 1) * width].copy_from_slice(means.head((1, head)));
            lab.directions.insert("z".into(), one_row(at, whole));
            let after = edited(ask.tokens.clone(), &["replace:z@z.1:last"]);
            expected += (probability(&mut lab, &after, ask.answer) - base) / corrupt.len() as f64;
        }
        assert!(
            (effects.values[1][head] - expected).abs() < 1e-5,
            "{}",
            lab.model.card.name
        );
        let value = ((1, head), means.head((1, head)).to_vec());
        let each = Effects::by_prompt(&mut lab, &corrupt, &[value], AnswerMeasure::Probability);
        let each = each.unwrap().remove(0);
        let one = each.iter().sum::<f64>() / corrupt.len() as f64;
        assert!((one - expected).abs() < 1e-5 && each.len() == corrupt.len());
        let top = effects.top(3);
        assert!(top.windows(2).all(|w| w[0].1 >= w[1].1));
        let most = effects
            .values
            .iter()
            .flatten()
            .copied()
            .fold(f64::MIN, f64::max);
        assert_eq!(top[0].1, most);
    }
}

#[test]
fn an_in_context_vector_of_no_strength_is_nothing_and_of_some_keeps_the_norm() {
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        let width = lab.model.card.d_model;
        let vector = random_like(&vec![1.0; width], 5);
        lab.directions
            .insert("v".into(), one_row(Site::MlpOut.at(0), vector));
        let record = |lab: &mut Lab, edits: &[&str]| {
            let at = [Site::MlpOut.at(0), Site::Logits.at(0)];
            let recording = lab.record(&edited(prompt(12), edits), &at).unwrap();
            at.map(|a| recording.get(a).unwrap().clone())
        };
        let plain = record(&mut lab, &[]);
        let off = record(&mut lab, &["icv:v@mlp_out.*:all*0"]);
        assert!(same_bits(&plain[1], &off[1]), "{name}");
        let on = record(&mut lab, &["icv:v@mlp_out.0*0.7"]);
        assert!(
            gap(&plain[0], &on[0]) > 1e-3 * reach(&plain[0]),
            "{name}: it acts"
        );
        let norms = |t: &candle_core::Tensor| {
            let wide = t.to_dtype(DType::F32).unwrap();
            values(&wide.sqr().unwrap().sum(D::Minus1).unwrap().sqrt().unwrap())
        };
        for (before, after) in norms(&plain[0]).iter().zip(norms(&on[0])) {
            assert!(
                (before - after).abs() <= 1e-5 * before,
                "{name}: {before} {after}"
            );
        }
    }
}

#[test]
fn answer_letters_are_read_where_they_stand() {
    let mut lab = demo();
    let text = |subject: &str, letter: &str| format!("Is {subject} good? Answer: ({letter}");
    let side = |letter: &str| {
        let subjects = ["rain", "snow", "fire"];
        subjects.map(|s| text(s, letter)).to_vec()
    };
    let (plus, minus) = (side("A"), side("B"));
    check_letters(&lab.model, &plus, &minus, &Positions::Last).unwrap();
    let measure = ContrastRequest {
        site: Method::Caa.site(),
        layers: vec![2, 5],
        positions: Positions::Last,
        chat: false,
    };
    let contrast = Contrast::measure(&mut lab, &plus, &minus, measure).unwrap();
    let made = contrast.direction(Method::Caa, &lab).unwrap();
    assert!(
        made.origin.method.starts_with("CAA"),
        "{}",
        made.origin.method
    );
    assert_eq!(
        made.rows.iter().map(|r| r.0).collect::<Vec<_>>(),
        [Site::ResidPost.at(2), Site::ResidPost.at(5)]
    );
    for (at, vector) in &made.rows {
        let mut expected = vec![0f64; vector.len()];
        for (texts, sign) in [(&plus, 1.0), (&minus, -1.0)] {
            for text in texts {
                let run = Run::plain(lab.model.encode(text, false).unwrap());
                for (e, v) in expected.iter_mut().zip(last_row(&mut lab, &run, *at)) {
                    *e += sign * f64::from(v) / texts.len() as f64;
                }
            }
        }
        for (e, v) in expected.iter().zip(vector) {
            assert!((e - f64::from(*v)).abs() < 1e-5);
        }
    }
    // A bracket behind the letter: it is refused there, and read one token earlier.
    let closed = |texts: &[String]| texts.iter().map(|t| format!("{t})")).collect::<Vec<_>>();
    let (plus, minus) = (closed(&plus), closed(&minus));
    let why = check_letters(&lab.model, &plus, &minus, &Positions::Last)
        .unwrap_err()
        .to_string();
    assert!(why.contains("pair 1") && why.contains("-2"), "{why}");
    check_letters(&lab.model, &plus, &minus, &Positions::FromEnd(2)).unwrap();
}

#[test]
fn prompts_ask_for_the_first_token_of_an_answer_they_do_not_hold() {
    let lab = demo();
    let pairs = read(&root("demo/lists/antonyms.tsv")).unwrap();
    let layout = ShotLayout::new("{x} -> {y}", " ; ").unwrap();
    let prompts = ShotPrompts {
        pairs: &pairs,
        layout: &layout,
        query_layout: &layout,
        count: 6,
        seed: 3,
    };
    let tokenizer = lab.model.tokenizer().unwrap();
    let spell = |ask: &FewShotPrompt| String::from_utf8(tokenizer.join(&ask.tokens[1..])).unwrap();
    let answer = |ask: &FewShotPrompt| String::from_utf8(tokenizer.join(&[ask.answer])).unwrap();
    let shuffled = prompts.on(&lab).shuffled(40).unwrap();
    let clean = prompts.on(&lab).clean(40).unwrap();
    for (asks, permuted) in [(&clean, false), (&shuffled, true)] {
        for ask in asks {
            let text = spell(ask);
            let mut parts: Vec<&str> = text.split(" ; ").collect();
            let query = parts.pop().unwrap().strip_suffix(" ->").unwrap();
            assert_eq!(parts.len(), 6, "{text}");
            let label = |input: &str| &pairs.iter().find(|p| p.input == input).unwrap().output;
            assert_eq!(answer(ask), format!(" {}", label(query)), "{text}");
            let shown: Vec<(&str, &str)> = parts
                .iter()
                .map(|p| p.split_once(" -> ").unwrap())
                .collect();
            assert!(shown.iter().all(|(input, _)| *input != query), "{text}");
            let right = shown
                .iter()
                .filter(|(input, output)| output == label(input))
                .count();
            if permuted {
                assert!(right < 6, "{text}");
                assert!(
                    shown.iter().all(|(_, output)| output != label(query)),
                    "{text}"
                );
                // The same labels, in another order.
                let mut own: Vec<&str> = shown.iter().map(|(i, _)| label(i).as_str()).collect();
                let mut given: Vec<&str> = shown.iter().map(|(_, o)| *o).collect();
                own.sort_unstable();
                given.sort_unstable();
                assert_eq!(own, given);
            } else {
                assert_eq!(right, 6, "{text}");
            }
        }
    }
    // One set of demonstrations behind a task vector, and queries that differ.
    let dummies = prompts.on(&lab).with_dummy_queries(2).unwrap();
    let (a, b) = (spell(&dummies[0]), spell(&dummies[1]));
    assert_eq!(
        a.rsplit_once(" ; ").unwrap().0,
        b.rsplit_once(" ; ").unwrap().0
    );
    assert_ne!(a, b);
    // The same seed draws the same, another one something else.
    assert_eq!(clean, prompts.on(&lab).clean(40).unwrap());
    let other = ShotPrompts { seed: 4, ..prompts };
    assert_ne!(clean, other.on(&lab).clean(40).unwrap());
    // A query in other words, and its space before the answer belongs to the answer.
    let asked = ShotLayout::new("Say {x}:\\n{y}", "").unwrap();
    let other = ShotPrompts {
        query_layout: &asked,
        ..prompts
    };
    let bare = other.on(&lab).bare(&pairs[..1]).unwrap();
    assert_eq!(spell(&bare[0]), "Say hot:\n");
    let (made, held) = split(&pairs, 0.25, 1).unwrap();
    assert_eq!((made.len(), held.len()), (30, 10));
    assert!(held.iter().all(|p| !made.contains(p)));
    // Too few to draw from.
    let few = ShotPrompts {
        pairs: &pairs[..4],
        ..prompts
    };
    assert!(
        few.on(&lab)
            .clean(1)
            .unwrap_err()
            .to_string()
            .contains("fewer")
    );
    // Labels that several inputs share: the query's is in no shuffled prompt.
    let kinds: Vec<ShotPair> = [
        "robin bird",
        "crow bird",
        "swan bird",
        "pear fruit",
        "plum fruit",
        "apple fruit",
        "saw tool",
        "rake tool",
        "axe tool",
    ]
    .map(|line| line.split_once(' ').unwrap())
    .map(|(input, output)| ShotPair {
        input: input.into(),
        output: output.into(),
    })
    .to_vec();
    let shared = ShotPrompts {
        pairs: &kinds,
        count: 4,
        ..prompts
    };
    for ask in shared.on(&lab).shuffled(30).unwrap() {
        let (text, own) = (spell(&ask), answer(&ask));
        assert!(!text.contains(own.trim()), "{text}: {own}");
    }
    let same: Vec<ShotPair> = ["a", "b", "c"]
        .map(|input| ShotPair {
            input: input.into(),
            output: "one".into(),
        })
        .to_vec();
    let alike = ShotPrompts {
        pairs: &same,
        count: 2,
        ..prompts
    };
    assert!(
        alike.on(&lab).shuffled(1).is_err(),
        "nothing is left without the query's label"
    );
}

/// Zero-shot antonyms in a form that the demo does not take for a question on antonyms.
fn antonyms(lab: &mut Lab, method: InContext, seed: u64) -> (Direction, TaskEvaluation) {
    let pairs = read(&root("demo/lists/antonyms.tsv")).unwrap();
    let (made_from, held) = split(&pairs, 0.5, seed).unwrap();
    let layout = ShotLayout::new("{x} -> {y}", " ; ").unwrap();
    let asked = ShotLayout::new("{x} - {y}", " ; ").unwrap();
    let prompts = ShotPrompts {
        pairs: &made_from,
        layout: &layout,
        query_layout: &asked,
        count: 5,
        seed,
    };
    let recipe = Recipe {
        rank: HeadRanking::ZeroShot,
        trials: 50,
        ..Recipe::default()
    };
    let direction = method.make(lab, &prompts, recipe).unwrap();
    let shots = prompts.on(lab);
    let questions = Questions {
        fit: shots.bare(&made_from).unwrap(),
        held: shots.bare(&held).unwrap(),
        answered: shots.answered(&held).unwrap(),
    };
    let verdict =
        TaskEvaluation::evaluate(lab, &direction, method.insertion(), &questions, seed).unwrap();
    (direction, verdict)
}

#[test]
fn a_function_vector_lifts_zero_shot_accuracy_and_chance_does_not() {
    let mut lab = demo();
    for (method, least) in [
        (InContext::FunctionVector, 0.5),
        (InContext::LayerAverage, 0.5),
        (InContext::TaskVector, 0.5),
    ] {
        for seed in [1, 2] {
            let (direction, verdict) = antonyms(&mut lab, method, seed);
            println!("{method}, seed {seed}: {}", verdict.sentence());
            let best = verdict.best().unwrap();
            assert_eq!((best.held.of, best.fit.of, verdict.bare.of), (20, 20, 20));
            assert!(
                best.held.accuracy() - best.random.accuracy() >= least,
                "{}",
                verdict.sentence()
            );
            assert!(
                best.held.accuracy() - verdict.bare.accuracy() >= 0.4,
                "{}",
                verdict.sentence()
            );
            assert!(
                best.random.accuracy() <= verdict.bare.accuracy() + 0.05,
                "{}",
                verdict.sentence()
            );
            assert_eq!(
                verdict.answered.accuracy(),
                1.0,
                "behind examples it is known"
            );
            assert!(direction.origin.method.contains("et al."));
        }
    }
}

/// A vector of English to French answers in French, and not in German, and the other way round: words that can be translated
/// into either have to be told.
#[test]
fn a_function_vector_says_which_task() {
    let mut lab = demo();
    let layout = ShotLayout::new("{x} -> {y}", " ; ").unwrap();
    let recipe = Recipe {
        rank: HeadRanking::ZeroShot,
        trials: 40,
        ..Recipe::default()
    };
    let tasks = ["french", "german"].map(|name| {
        let pairs = read(&root(&format!("demo/lists/{name}.tsv"))).unwrap();
        split(&pairs, 0.5, 1).unwrap()
    });
    let prompts = tasks.each_ref().map(|(made_from, _)| ShotPrompts {
        pairs: made_from,
        layout: &layout,
        query_layout: &layout,
        count: 5,
        seed: 1,
    });
    for (own, prompt) in prompts.iter().enumerate() {
        let made = InContext::FunctionVector
            .make(&mut lab, prompt, recipe)
            .unwrap();
        assert!(!made.origin.notes.iter().any(|n| n.contains("WARNING")));
        for (task, (made_from, held)) in tasks.iter().enumerate() {
            let shots = prompts[task].on(&lab);
            let questions = Questions {
                fit: shots.bare(made_from).unwrap(),
                held: shots.bare(held).unwrap(),
                answered: Vec::new(),
            };
            let verdict =
                TaskEvaluation::evaluate(&mut lab, &made, Insertion::Add, &questions, 1).unwrap();
            println!("{own} on {task}: {}", verdict.sentence());
            let held = verdict.best().unwrap().held.accuracy();
            let chance = verdict.best().unwrap().random.accuracy();
            if own == task {
                assert!(
                    held >= chance + 0.4 && held >= 0.7,
                    "{}",
                    verdict.sentence()
                );
            } else {
                assert!(held <= verdict.bare.accuracy(), "{}", verdict.sentence());
            }
        }
    }
    // Permuted labels do not hide this task, and the vector says so.
    let recipe = Recipe {
        rank: HeadRanking::Shuffled,
        trials: 2,
        shuffled: 4,
        ..recipe
    };
    let made = InContext::FunctionVector
        .make(&mut lab, &prompts[0], recipe)
        .unwrap();
    assert!(
        made.origin.notes.iter().any(|n| n.contains("WARNING")),
        "{:?}",
        made.origin.notes
    );
}

/// What the verdict counts is what the edit that it recommends does.
#[test]
fn the_verdict_counts_what_the_edit_does() {
    let mut lab = demo();
    let pairs = read(&root("demo/lists/plurals.tsv")).unwrap();
    let layout = ShotLayout::new("{x} - {y}", "").unwrap();
    let prompts = ShotPrompts {
        pairs: &pairs,
        layout: &layout,
        query_layout: &layout,
        count: 3,
        seed: 1,
    };
    let asks = prompts.on(&lab).bare(&pairs[..12]).unwrap();
    let vector = random_like(&vec![0.5; lab.model.card.d_model], 3);
    for (op, word) in [(Insertion::Add, "add"), (Insertion::Replace, "replace")] {
        let direction = one_row(Site::ResidPost.at(2), vector.clone());
        lab.directions.insert("v".into(), direction.clone());
        let questions = Questions {
            fit: asks[..4].to_vec(),
            held: asks[4..].to_vec(),
            answered: Vec::new(),
        };
        let verdict = TaskEvaluation::evaluate(&mut lab, &direction, op, &questions, 1).unwrap();
        assert_eq!(
            verdict.layers.len(),
            lab.model.card.layers,
            "one vector is tried everywhere"
        );
        for layer in [0, 5] {
            let mut expected = (0, 0.0);
            for ask in &asks[4..] {
                let line = format!("{word}:v@resid_post.{layer}:last");
                let run = edited(ask.tokens.clone(), &[&line]);
                let logits = lab.last_logits(&run).unwrap();
                let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
                expected.0 += usize::from(best == Some(ask.answer as usize));
                expected.1 += probability(&mut lab, &run, ask.answer);
            }
            let held = verdict.layers[layer].held;
            assert_eq!((held.right, held.of), (expected.0, 8));
            assert!((held.probability - expected.1).abs() < 1e-3);
        }
    }
}

#[test]
fn sums_of_directions_are_sums_of_their_vectors() {
    let mut lab = demo();
    let folder = tempfile::tempdir().unwrap();
    let width = lab.model.card.d_model;
    let vectors: Vec<Vec<f32>> = (1..4).map(|s| random_like(&vec![1.0; width], s)).collect();
    for ((name, layer), vector) in [("a", 2), ("b", 3), ("c-d", 2)].iter().zip(&vectors) {
        let row = one_row(Site::ResidPost.at(*layer), vector.clone());
        row.save(&folder.path().join(name)).unwrap();
        lab.directions.insert((*name).to_string(), row);
    }
    let sum = combine(&lab, "a + 2*b - c-d").unwrap();
    assert_eq!(
        sum.rows[0].0,
        Site::ResidPost.at(2),
        "where the first one stood"
    );
    let [a, b, c] = vectors.as_slice() else {
        panic!("three")
    };
    let by_hand = a.iter().zip(b).zip(c).map(|((a, b), c)| a + 2.0 * b - c);
    for (own, expected) in sum.rows[0].1.iter().zip(by_hand) {
        assert!((own - expected).abs() < 1e-6);
    }
    assert_eq!(
        combine(&lab, "a + b - b").unwrap().rows,
        lab.directions["a"].rows
    );
    let file = folder.path().join("c-d");
    let from_file = combine(&lab, &format!("a - {}", file.display())).unwrap();
    assert_eq!(from_file.rows, combine(&lab, "a - c-d").unwrap().rows);
    let other_site = one_row(Site::MlpOut.at(2), vectors[0].clone());
    lab.directions.insert("m".into(), other_site);
    let why = combine(&lab, "a + m").unwrap_err().to_string();
    assert!(
        why.contains("mlp_out.2") && why.contains("resid_post.2"),
        "{why}"
    );
    let narrow = one_row(Site::ResidPost.at(2), vec![1.0; 7]);
    lab.directions.insert("n".into(), narrow);
    assert!(combine(&lab, "a + n").is_err());
    assert!(
        combine(&lab, "a + nothing")
            .unwrap_err()
            .to_string()
            .contains("nothing")
    );
}

#[test]
fn the_heads_instrument_anchors_cells_to_heads_that_can_be_ablated() {
    let mut lab = demo();
    let of = instrument("heads").unwrap();
    let tokens = lab.model.encode("The capital of France is", false).unwrap();
    let run = Run::plain(tokens.clone());
    let figure = of.observe(&run, &Arguments::default(), &mut lab).unwrap();
    let on = Arguments::default().with("on", "probability");
    let share = of.observe(&run, &on, &mut lab).unwrap();
    let (Body::Grid(grid), Body::Grid(share)) = (&figure.body, &share.body) else {
        panic!("a grid")
    };
    let (layers, heads) = (lab.model.card.layers, lab.model.card.heads);
    assert_eq!(
        (grid.rows.len(), grid.columns.len(), grid.cells.len()),
        (layers, heads, heads)
    );
    let logits = lab.last_logits(&run).unwrap();
    let favoured = (0..logits.len())
        .max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
        .unwrap();
    let before = probability(&mut lab, &run, favoured as u32);
    for (layer, head) in [(7, 0), (3, 2)] {
        let cell = &grid.cells[head][layer];
        assert_eq!(cell.anchor.unit, Some(Unit::Head(head as u32)));
        assert_eq!(cell.anchor.layer, Some(layer as u16));
        let line = format!("zero:{head}@z.{layer}:last");
        let after = probability(&mut lab, &edited(tokens.clone(), &[&line]), favoured as u32);
        let own = &share.cells[head][layer];
        assert!((f64::from(own.value) - (after - before)).abs() < 1e-5);
        let logs = after.ln() - before.ln();
        assert!((f64::from(cell.value) - logs).abs() < 1e-4, "{logs}");
    }
    // On the screen, x on such a cell writes the edit.
    let mut app = recorded::app((120, 40), recorded::session());
    app.update(Event::Engine(recorded::shown("heads", figure.clone())));
    app.set_focus(Pane::Figure("heads"));
    recorded::press(&mut app, "l j x");
    let lines: Vec<String> = app
        .history
        .edits()
        .iter()
        .map(ToString::to_string)
        .collect();
    let line = lines.last().map(String::as_str).unwrap_or_default();
    assert!(line.starts_with("zero:1@z."), "{lines:?}");
    // From demonstrations: no text is read, and the null has effects of its own.
    let file = root("demo/lists/antonyms.tsv");
    let shown = Arguments::default()
        .with("demos", file.display())
        .with("template", "{x} -> {y}")
        .with("separator", " ; ")
        .with("ask", "{x} - {y}")
        .with("rank", "zero_shot")
        .with("shots", 4)
        .with("trials", 10)
        .with("prompts", 5);
    assert!(of.needs_prompt(&Arguments::default()) && !of.needs_prompt(&shown));
    let aie = of.observe(&Run::default(), &shown, &mut lab).unwrap();
    assert!(
        aie.notes.iter().any(|n| n.starts_with("control: ")),
        "{:?}",
        aie.notes
    );
    let null = of
        .observe(&Run::default(), &shown.with("control", "random"), &mut lab)
        .unwrap();
    assert!(null.title.contains("control"));
    assert_ne!(aie.body, null.body);
    let missing = Arguments::default().with("demos", "no/such/file.tsv");
    assert!(of.observe(&run, &missing, &mut lab).is_err());
}

/// The binary: what it prints, what it writes, what it refuses.
fn ask(arguments: &[&str]) -> (i32, String, String) {
    let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_lmscope"))
        .env("HF_HUB_OFFLINE", "1")
        .args(["direction", "demo"])
        .args(arguments)
        .output()
        .unwrap();
    let spell = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (
        output.status.code().unwrap_or(-1),
        spell(output.stdout),
        spell(output.stderr),
    )
}

#[test]
fn the_command_writes_what_it_judged() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let antonyms = root("demo/lists/antonyms.tsv")
        .to_str()
        .unwrap()
        .to_string();
    let file = path("v.safetensors");
    let common = [
        "--demos",
        &antonyms,
        "--template",
        "{x} -> {y}",
        "--separator",
        " ; ",
        "--shots",
        "4",
        "--trials",
        "8",
        "--shuffled",
        "3",
        "--seed",
        "2",
    ];
    let make = |more: &[&str]| ask(&[&common[..], more].concat());
    let (code, out, err) = make(&["--method", "function-vector", "--heads", "3", "-o", &file]);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("held out") && out.contains("random") && out.contains("heads (layer.head"),
        "{out}"
    );
    let made = Direction::load(Path::new(&file)).unwrap();
    let (at, vector) = &made.rows[0];
    assert_eq!(
        (made.rows.len(), at.site, made.origin.prompts),
        (1, Site::ResidPost, (8, 0))
    );
    assert!(err.contains(&format!("add:{file}@{at}:last")), "{err}");
    assert!(
        made.origin
            .notes
            .iter()
            .any(|n| n.contains("12 held-out pairs")),
        "{:?}",
        made.origin.notes
    );
    // The same again, bit for bit; judged again, the same numbers.
    let again = path("again.safetensors");
    make(&["--method", "function-vector", "--heads", "3", "-o", &again]);
    assert_eq!(
        &Direction::load(Path::new(&again)).unwrap().rows[0].1,
        vector
    );
    let (code, judged, err) = make(&["--evaluate", &file]);
    assert_eq!(code, 0, "{err}");
    let rows = |text: &str| {
        text.lines()
            .filter(|l| l.trim_start().starts_with(|c: char| c.is_ascii_digit()))
            .map(String::from)
            .collect::<Vec<_>>()
    };
    assert_eq!(rows(&judged), rows(&out));
    assert_eq!(rows(&out).len(), 8);
    // Every layer is kept where every layer was asked for; task vectors take the state's place.
    let (code, _, err) = make(&[
        "--method",
        "task-vector",
        "--layer",
        "2-4",
        "--force",
        "-o",
        &again,
    ]);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("replace:"), "{err}");
    assert_eq!(Direction::load(Path::new(&again)).unwrap().rows.len(), 3);
    let sum = |text: &str| ask(&["--combine", text, "--force", "-o", &again]);
    let (code, _, err) = sum(&format!("2*{file} - {file} - 2*{file}"));
    assert_eq!(code, 0, "{err}");
    let turned = Direction::load(Path::new(&again)).unwrap().rows.remove(0).1;
    assert!(turned.iter().zip(vector).all(|(a, b)| *a == -b));
    let (code, _, err) = sum(&format!("{file} - {file}"));
    assert!(code == 2 && err.contains("cancel out"), "{err}");
}

#[test]
fn the_command_says_what_is_wrong_with_demonstrations() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_string()
    };
    let antonyms = root("demo/lists/antonyms.tsv")
        .to_str()
        .unwrap()
        .to_string();
    let (few, torn) = (path("few.tsv", "a\tb\nc\td\n"), path("torn.tsv", "a b\n"));
    let plain = path("few.txt", "a\nc\n");
    let out = folder
        .path()
        .join("v.safetensors")
        .to_str()
        .unwrap()
        .to_string();
    let cases: &[(&[&str], i32, &[&str])] = &[
        (
            &["--demos", &antonyms, "-o", &out],
            2,
            &["--method", "function-vector"],
        ),
        (
            &["--demos", &antonyms, "--method", "mean", "-o", &out],
            2,
            &["--method", "mean"],
        ),
        (
            &["--demos", &few, "--method", "task-vector", "-o", &out],
            2,
            &["shots", "fewer"],
        ),
        (
            &["--demos", &torn, "--method", "task-vector", "-o", &out],
            1,
            &["torn.tsv", "line 1", "tab"],
        ),
        (
            &[
                "--demos",
                &antonyms,
                "--method",
                "task-vector",
                "--template",
                "{x}",
                "-o",
                &out,
            ],
            2,
            &["template", "{y}"],
        ),
        (
            &[
                "--demos",
                &antonyms,
                "--method",
                "task-vector",
                "--layer",
                "9",
                "-o",
                &out,
            ],
            2,
            &["--layer", "9"],
        ),
        (
            &[
                "--demos",
                &antonyms,
                "--method",
                "task-vector",
                "--held-out",
                "2",
                "-o",
                &out,
            ],
            2,
            &["held-out"],
        ),
        (
            &["--demos", &antonyms, "--evaluate", "nothing"],
            2,
            &["nothing", "mood"],
        ),
        (
            &[
                "--method",
                "task-vector",
                "--plus",
                &few,
                "--minus",
                &few,
                "--layer",
                "1",
                "-o",
                &out,
            ],
            2,
            &["--method", "--demos"],
        ),
        (
            &[
                "--method", "caa", "--plus", &few, "--minus", &few, "--layer", "1", "--chat", "-o",
                &out,
            ],
            2,
            &["--chat"],
        ),
        (
            &[
                "--method", "caa", "--plus", &plain, "--minus", &plain, "--layer", "1", "-o", &out,
            ],
            2,
            &["pair 1", "letter"],
        ),
        (
            &["--combine", "mood + nothing", "-o", &out],
            2,
            &["nothing", "mood"],
        ),
        (&["--combine", "mood +", "-o", &out], 2, &["spaces"]),
    ];
    for (arguments, expected, words) in cases {
        let (code, written, err) = ask(arguments);
        assert_eq!(
            (code, written.as_str()),
            (*expected, ""),
            "{arguments:?}: {err}"
        );
        for word in *words {
            assert!(err.contains(word), "{arguments:?} lacks {word}: {err}");
        }
        assert!(!Path::new(&out).exists(), "{arguments:?} left a file");
    }
}

/// What `tests/references/in_context.py` measured with Hugging Face modules and hooks alone.
#[derive(serde::Deserialize)]
struct Reference {
    clean: Vec<Asked>,
    corrupt: Vec<Asked>,
    base: f64,
    heads: Vec<Head>,
    effects: Vec<Vec<f64>>,
    vector: Vec<f32>,
    layer_average: Vec<Vec<f32>>,
}

#[derive(serde::Deserialize)]
struct Asked {
    tokens: Vec<u32>,
    answer: u32,
}

#[test]
fn effects_and_vectors_agree_with_transformers() {
    let text = std::fs::read_to_string(root("tests/references/in_context.json")).unwrap();
    let cases: std::collections::BTreeMap<String, Reference> = serde_json::from_str(&text).unwrap();
    assert_eq!(cases.len(), 7);
    for (name, expected) in cases {
        let path = root(&format!("tests/references/{name}"));
        let options = Options {
            device: Some("cpu".into()),
            dtype: Some("f32".into()),
            ..Options::default()
        };
        let mut lab = Lab::open(path.to_str().unwrap(), &options).unwrap();
        let asks = |list: &[Asked]| -> Vec<FewShotPrompt> {
            let ask = |a: &Asked| FewShotPrompt {
                tokens: a.tokens.clone(),
                answer: a.answer,
            };
            list.iter().map(ask).collect()
        };
        let (clean, corrupt) = (asks(&expected.clean), asks(&expected.corrupt));
        let means = HeadMeans::measure(&mut lab, &clean).unwrap();
        let effects =
            Effects::indirect(&mut lab, &corrupt, &means, AnswerMeasure::Probability).unwrap();
        assert!((effects.base - expected.base).abs() < 1e-5, "{name}");
        let all = effects
            .values
            .iter()
            .flatten()
            .zip(expected.effects.iter().flatten());
        let apart = all.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(apart < 1e-5, "{name}: {apart}");
        let largest = expected
            .effects
            .iter()
            .flatten()
            .fold(0f64, |m, v| m.max(v.abs()));
        assert!(largest > 1e-3, "{name}: effects are there to compare");
        let heads: Vec<Head> = effects.top(3).into_iter().map(|(head, _)| head).collect();
        assert_eq!(heads, expected.heads, "{name}");
        let vector = assemble(&lab.model, &means, &heads).unwrap();
        assert!(
            relative(&vector, &expected.vector) < 1e-5,
            "{name}: {}",
            relative(&vector, &expected.vector)
        );
        let average = states(&mut lab, &clean).unwrap();
        for (layer, (own, other)) in average.iter().zip(&expected.layer_average).enumerate() {
            assert!(
                relative(own, other) < 1e-5,
                "{name} {layer}: {}",
                relative(own, other)
            );
        }
    }
}
