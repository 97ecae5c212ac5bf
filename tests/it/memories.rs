//! Neurons as memories: value cards, triggers, promoters, effects, facts and value edits, on every family that has
//! neurons, on a planted neuron, and on the demo's planted facts.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use candle_core::{Device, Tensor};
use lmscope::edit::Edit;
use lmscope::edit::schedule::Schedule;
use lmscope::error::Error;
use lmscope::figure::{Body, Entry, Figure, TableRow, Unit};
use lmscope::instruments::knowledge::fact_neurons::{
    AnswerDirection, FactScoring, Search, ask, refine,
};
use lmscope::instruments::knowledge::facts;
use lmscope::instruments::knowledge::facts::Fact;
use lmscope::instruments::knowledge::integrated::{IntegralRule, IntegralSteps};
use lmscope::instruments::knowledge::value_edit;
use lmscope::instruments::knowledge::value_edit::{NeuronChange, NeuronScore, ValueEditPlan};
use lmscope::instruments::neurons::at_position::neurons_at;
use lmscope::instruments::neurons::contexts::{ContextScan, Scanner};
use lmscope::instruments::neurons::value_card::ValueCards;
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::capture::{After, Output};
use lmscope::lab::effect::EffectScale;
use lmscope::lab::logit_effects::{SIDE, ValueNorm};
use lmscope::lab::progress::WorkProgress;
use lmscope::lab::run::Run;
use lmscope::lab::sample::log_softmax;
use lmscope::lab::target::LogitTarget;
use lmscope::model::load::Options;
use lmscope::model::network::blueprint::NormKind;
use lmscope::model::network::linear::Linear;
use lmscope::model::network::mlp::Mlp;
use lmscope::model::network::site::Site;

use super::cli::{refused, written};
use super::tools::{edited, every_family, gap, prompt, same_bits, tiny, values};

/// Families with at least one layer whose neurons can be addressed.
fn with_neurons() -> impl Iterator<Item = Lab> {
    every_family().filter(|b| !b.model.card.neuron_layers.is_empty())
}

fn demo() -> Lab {
    let options = Options {
        device: Some("cpu".into()),
        ..Options::default()
    };
    Lab::open("demo", &options).unwrap()
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn observe(lab: &mut Lab, name: &str, run: &Run, given: &[(&str, &str)]) -> Figure {
    tried(lab, name, run, given).unwrap()
}

fn tried(
    lab: &mut Lab,
    name: &str,
    run: &Run,
    given: &[(&str, &str)],
) -> lmscope::error::Result<Figure> {
    let arguments = given
        .iter()
        .fold(Arguments::default(), |a, (name, value)| a.with(name, value));
    instrument(name).unwrap().observe(run, &arguments, lab)
}

/// The rows of the last page.
fn rows(figure: &Figure) -> &[TableRow] {
    match &figure.body {
        Body::Table(table) => &table.pages.last().unwrap().rows,
        Body::Grid(_) | Body::Series(_) | Body::Graph(_) | Body::Text(_) => panic!("a table"),
    }
}

fn number(row: &TableRow, column: usize) -> f32 {
    match &row.entries[column] {
        Entry::Whole(n) => *n as f32,
        Entry::Number(n) => *n,
        Entry::Missing => panic!("no number"),
        Entry::Text(text) => panic!("{text} is no number"),
    }
}

fn word(row: &TableRow, column: usize) -> &str {
    match &row.entries[column] {
        Entry::Text(text) => text,
        other @ (Entry::Whole(_) | Entry::Number(_) | Entry::Missing) => panic!("{other:?}"),
    }
}

fn logits(lab: &mut Lab, run: &Run) -> Tensor {
    let at = Site::Logits.at(0);
    lab.record(run, &[at]).unwrap().get(at).unwrap().clone()
}

/// What the weights say, by one explicit product: logits of a value vector, `[vocab]`.
fn promoted_by_hand(lab: &Lab, layer: usize, neuron: usize, reading: ValueNorm) -> Vec<f32> {
    let t = &lab.model.transformer;
    let block = &t.blocks[layer];
    let down = block.mlp.dense().unwrap().down.weight().unwrap();
    let mut v = values(&down.narrow(1, neuron, 1).unwrap());
    if let Some(norm) = &block.norms_mlp.output {
        v.iter_mut()
            .zip(values(&norm.gain))
            .for_each(|(v, g)| *v *= g);
    }
    v.iter_mut()
        .for_each(|v| *v *= t.blueprint.residual_scale as f32);
    if reading == ValueNorm::Gained {
        if t.norm.kind == NormKind::Layer {
            let mean = v.iter().sum::<f32>() / v.len() as f32;
            v.iter_mut().for_each(|v| *v -= mean);
        }
        v.iter_mut()
            .zip(values(&t.norm.gain))
            .for_each(|(v, g)| *v *= g);
    }
    if let Some(projection) = &t.project_out {
        let weight = projection.weight().unwrap().to_vec2::<f32>().unwrap();
        v = weight
            .iter()
            .map(|row| row.iter().zip(&v).map(|(a, b)| a * b).sum())
            .collect();
    }
    let table = t.head.weight().unwrap().to_vec2::<f32>().unwrap();
    table
        .iter()
        .map(|row| row.iter().zip(&v).map(|(a, b)| a * b).sum::<f32>())
        .map(|z| z * t.blueprint.logit_scale as f32)
        .collect()
}

#[test]
fn a_card_holds_the_ends_of_an_explicit_product() {
    for mut lab in with_neurons() {
        let layer = *lab.model.card.neuron_layers.last().unwrap();
        for reading in [ValueNorm::Gained, ValueNorm::Raw] {
            let by_hand = promoted_by_hand(&lab, layer, 5, reading);
            let mut order: Vec<usize> = (0..by_hand.len()).collect();
            order.sort_by(|a, b| by_hand[*b].total_cmp(&by_hand[*a]));
            let sides = ValueCards::on(&mut lab)
                .borrow_mut()
                .sides(&lab.model, (layer as u16, 5), reading)
                .unwrap();
            assert_eq!(sides.promoted.len(), SIDE.min(by_hand.len()));
            let name = &lab.model.card.name;
            for (place, (id, z)) in sides.promoted.iter().enumerate() {
                assert!((by_hand[*id as usize] - z).abs() < 1e-4, "{name}");
                assert!((by_hand[order[place]] - z).abs() < 1e-4, "{name}: in order");
            }
            for (place, (id, z)) in sides.suppressed.iter().enumerate() {
                let last = order[order.len() - 1 - place];
                assert!((by_hand[*id as usize] - z).abs() < 1e-4, "{name}");
                assert!((by_hand[last] - z).abs() < 1e-4, "{name}: in order");
            }
        }
        // The instrument shows the same, for the neuron that was asked for.
        let given = format!("{layer}/5");
        let figure = observe(
            &mut lab,
            "value",
            &Run::default(),
            &[("neuron", &given), ("count", "3")],
        );
        let by_hand = promoted_by_hand(&lab, layer, 5, ValueNorm::Raw);
        let most = by_hand.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert!((number(&rows(&figure)[0], 5) - most).abs() < 1e-4);
        assert_eq!(rows(&figure).len(), 3);
        assert_eq!(rows(&figure)[0].anchor.unit, Some(Unit::Neuron(5)));
    }
}

#[test]
fn promoters_are_the_largest_and_smallest_of_all_neurons() {
    for mut lab in with_neurons() {
        let token = 7;
        let figure = observe(
            &mut lab,
            "promoters",
            &Run::default(),
            &[("token", "#7"), ("count", "4"), ("on", "logit")],
        );
        let layers = lab.model.card.neuron_layers.clone();
        let mut all: Vec<f32> = Vec::new();
        for layer in layers {
            for neuron in 0..lab.model.card.d_mlp {
                let logits = promoted_by_hand(&lab, layer, neuron, ValueNorm::Gained);
                all.push(logits[token]);
            }
        }
        all.sort_by(|a, b| b.total_cmp(a));
        let shown: Vec<f32> = rows(&figure).iter().map(|r| number(r, 1)).collect();
        let expected = [&all[..4], &all[all.len() - 4..]].concat();
        let near = shown
            .iter()
            .zip(&expected)
            .all(|(a, b)| (a - b).abs() < 1e-4);
        let name = &lab.model.card.name;
        assert!(shown.len() == 8 && near, "{name}: {shown:?} {expected:?}");
        // x ablates the neuron of the row.
        let row = &rows(&figure)[0];
        let anchor = row.anchor;
        let Some(Unit::Neuron(unit)) = anchor.unit else {
            panic!("a neuron")
        };
        assert_eq!(word(row, 0), format!("{}/{unit}", anchor.layer.unwrap()));
    }
}

/// The slope of each logit before the soft-cap: what a small change of it makes of the model's own.
fn slopes(lab: &Lab, logits: &[f32]) -> Vec<f32> {
    let cap = lab.model.transformer.blueprint.logit_cap;
    let slope = |z: &f32| cap.map_or(1.0, |cap| 1.0 - (z / cap as f32).powi(2));
    logits.iter().map(slope).collect()
}

/// By hand: what adding these logits to the run's own does to a token's log-probability, to first order.
fn on_log_prob(added: &[f32], p: &[f32], slopes: &[f32], token: usize) -> f32 {
    let mean: f32 = (0..p.len()).map(|j| p[j] * slopes[j] * added[j]).sum();
    slopes[token] * added[token] - mean
}

#[test]
fn effects_are_on_the_log_probability_by_default() {
    for mut lab in with_neurons() {
        let name = lab.model.card.name.clone();
        let run = Run::plain(prompt(9));
        let mut p = lab.last_logits(&run).unwrap();
        let slopes = slopes(&lab, &p);
        log_softmax(&mut p);
        p.iter_mut().for_each(|z| *z = z.exp());
        let sight = neurons_at(&mut lab, &run, 8).unwrap().remove(0);
        let given = [("rank", "effect"), ("token", "#3"), ("window", "1")];
        let figure = observe(&mut lab, "neurons", &run, &given);
        let Body::Table(table) = &figure.body else {
            panic!("a table")
        };
        assert!(
            table.pages[0].title.contains("log-probability of"),
            "{name}"
        );
        for row in &rows(&figure)[..4] {
            let (layer, neuron) = word(row, 0).split_once('/').unwrap();
            let (layer, neuron): (usize, usize) = (layer.parse().unwrap(), neuron.parse().unwrap());
            let card = promoted_by_hand(&lab, layer, neuron, ValueNorm::Gained);
            let (acts, factor) = sight.layer(layer).unwrap();
            let size = acts[neuron] * factor * sight.scale;
            let expected = size * on_log_prob(&card, &p, &slopes, 3);
            let apart = (number(row, 3) - expected).abs();
            assert!(apart < 1e-4, "{name}: {} {expected}", number(row, 3));
        }
        // From a token, under the run's own distribution; without a run under an even one, which is the centred logit.
        let known = lab.model.known_tokens();
        for (run, title) in [(run, "log-probability"), (Run::default(), "centred logit")] {
            let given = [("token", "#7"), ("count", "4")];
            let figure = observe(&mut lab, "promoters", &run, &given);
            assert!(figure.title.contains(title), "{}", figure.title);
            for row in rows(&figure) {
                let (layer, neuron) = word(row, 0).split_once('/').unwrap();
                let (layer, neuron) = (layer.parse().unwrap(), neuron.parse().unwrap());
                let card = promoted_by_hand(&lab, layer, neuron, ValueNorm::Gained);
                let expected = if run.tokens.is_empty() {
                    card[7] - card[..known].iter().sum::<f32>() / known as f32
                } else {
                    on_log_prob(&card, &p, &slopes, 7)
                };
                let apart = (number(row, 1) - expected).abs();
                assert!(apart < 1e-4, "{name}: {} {expected}", number(row, 1));
            }
        }
    }
}

#[test]
fn effects_are_differences_of_frozen_scale_logits() {
    for mut lab in with_neurons() {
        let run = Run::plain(prompt(9));
        let (a, b) = (3u32, 11u32);
        let given = [("rank", "effect"), ("token", "#3 - #11"), ("window", "1")];
        let figure = observe(&mut lab, "neurons", &run, &given);
        let sight = neurons_at(&mut lab, &run, 8).unwrap().remove(0);
        for row in &rows(&figure)[..4] {
            let (layer, neuron) = word(row, 0).split_once('/').unwrap();
            let (layer, neuron): (usize, usize) = (layer.parse().unwrap(), neuron.parse().unwrap());
            // One unit of activation more, the scale of the final norm and of the write held: the logits move by
            // act · (z[a] - z[b]) of the card, and so by nothing else when the activation is taken away.
            let card = promoted_by_hand(&lab, layer, neuron, ValueNorm::Gained);
            let (acts, factor) = sight.layer(layer).unwrap();
            let moved = card[a as usize] - card[b as usize];
            let expected = acts[neuron] * factor * sight.scale * moved;
            let name = &lab.model.card.name;
            assert!(
                (number(row, 3) - expected).abs() < 1e-4,
                "{name}: {} {expected}",
                number(row, 3)
            );
        }
        let shown: Vec<f32> = rows(&figure).iter().map(|r| number(r, 3).abs()).collect();
        assert!(shown.windows(2).all(|w| w[0] >= w[1] - 1e-6), "ranked");
    }
}

#[test]
fn the_total_effect_is_what_an_ablation_takes_away() {
    for mut lab in with_neurons() {
        let run = Run::plain(prompt(9));
        let given = [
            ("token", "#3"),
            ("on", "logit"),
            ("total", "yes"),
            ("window", "3"),
            ("count", "20"),
        ];
        let figure = observe(&mut lab, "neurons", &run, &given);
        let Body::Table(table) = &figure.body else {
            panic!("a table")
        };
        assert_eq!(table.columns[4], "total");
        let before = logits(&mut lab, &run).to_vec2::<f32>().unwrap();
        let mut apart = 0.0f32;
        // A position that is not the last, and a row of the second batch.
        for (page, row) in [(0, 0), (0, 17), (2, 1)] {
            let page = &table.pages[page];
            let position = page.anchor.position.unwrap() as usize;
            let row = &page.rows[row];
            let (layer, neuron) = word(row, 0).split_once('/').unwrap();
            let edit = format!("zero:{neuron}@mlp_act.{layer}:{position}");
            let without = logits(&mut lab, &edited(run.tokens.clone(), &[&edit]));
            let after = without.to_vec2::<f32>().unwrap();
            let expected = before[position][3] - after[position][3];
            let name = &lab.model.card.name;
            let total = number(row, 4);
            assert!(
                (total - expected).abs() < 1e-4,
                "{name}: {total} {expected}"
            );
            apart = apart.max((total - number(row, 3)).abs());
        }
        assert!(apart > 1e-5, "later layers react, and the norm does");
        let arguments = Arguments::default().with("total", "yes");
        let live = instrument("neurons")
            .unwrap()
            .live(&lab.model.card, &arguments);
        assert!(!live, "reruns are no live figure");
    }
}

#[test]
fn neurons_set_to_their_own_values_change_no_bit() {
    for mut lab in with_neurons() {
        let tokens = prompt(6);
        let plain = Run::plain(tokens.clone());
        let before = logits(&mut lab, &plain);
        let layers = lab.model.card.neuron_layers.clone();
        let mut edits = Vec::new();
        for layer in layers {
            let at = Site::MlpAct.at(layer);
            let own = lab.record(&plain, &[at]).unwrap();
            let own = own.get(at).unwrap().to_vec2::<f32>().unwrap();
            edits.push(format!("set:2={}@mlp_act.{layer}:3", own[3][2]));
            edits.push(format!("set:9={}@mlp_act.{layer}:5", own[5][9]));
        }
        let edits: Vec<&str> = edits.iter().map(String::as_str).collect();
        let after = logits(&mut lab, &edited(tokens, &edits));
        assert!(same_bits(&before, &after), "{}", lab.model.card.name);
    }
}

#[test]
fn zeroing_a_layers_neurons_deletes_its_mlp_up_to_the_bias() {
    for mut lab in with_neurons() {
        let layer = lab.model.card.neuron_layers[0];
        if let Mlp::Dense(mlp) = &mut lab.model.transformer.blocks[layer].mlp {
            // Without its bias the MLP is gone altogether.
            mlp.down.bias = None;
        }
        let zeroed = edited(prompt(6), &[&format!("zero@mlp_act.{layer}")]);
        let deleted = edited(prompt(6), &[&format!("zero@mlp_out.{layer}")]);
        let (a, b) = (logits(&mut lab, &zeroed), logits(&mut lab, &deleted));
        assert!(gap(&a, &b) < 1e-6, "{}", lab.model.card.name);
        let plain = logits(&mut lab, &Run::plain(prompt(6)));
        assert!(gap(&a, &plain) > 1e-4, "the MLP did something");
    }
}

#[test]
fn the_order_of_a_group_does_not_matter() {
    for mut lab in with_neurons() {
        let layers = &lab.model.card.neuron_layers;
        let (a, b) = (layers[0], *layers.last().unwrap());
        let one = [
            format!("zero:1,4@mlp_act.{a}"),
            format!("zero:3,5,7,8,11@mlp_act.{b}"),
        ];
        let other = [
            format!("zero:3,5,7,8,11@mlp_act.{b}"),
            format!("zero:4@mlp_act.{a}"),
            format!("zero:1@mlp_act.{a}"),
        ];
        let mut of = |edits: &[String]| {
            let edits: Vec<&str> = edits.iter().map(String::as_str).collect();
            logits(&mut lab, &edited(prompt(7), &edits))
        };
        let (first, second) = (of(&one), of(&other));
        assert!(same_bits(&first, &second));
        assert!(!same_bits(&first, &of(&one[..1])), "each of them counts");
    }
}

#[test]
fn prompts_side_by_side_are_read_as_alone() {
    for mut lab in with_neurons() {
        let layer = lab.model.card.neuron_layers[0];
        let schedule = Schedule::always(vec![format!("zero:1@mlp_act.{layer}").parse().unwrap()]);
        let prompts: Vec<Vec<u32>> = [5, 3, 5, 8]
            .iter()
            .enumerate()
            .map(|(i, n)| prompt(*n).iter().map(|t| (t + i as u32) % 59).collect())
            .collect();
        let whole = Output::whole(After::Last(1));
        let together = lab.last_of(&prompts, &schedule, whole).unwrap();
        for (tokens, row) in prompts.iter().zip(together) {
            let run = Run {
                schedule: schedule.clone(),
                ..Run::plain(tokens.clone())
            };
            let alone = lab.last_logits(&run).unwrap();
            let far = alone.iter().zip(&row.logits).map(|(a, b)| (a - b).abs());
            assert!(far.fold(0.0, f32::max) < 1e-4, "{}", lab.model.card.name);
        }
    }
}

#[test]
fn triggers_are_the_largest_activations_of_the_whole_text() {
    for mut lab in with_neurons() {
        let layer = lab.model.card.neuron_layers[0];
        let text: Vec<u32> = (0..50u32).map(|i| (i * 23 + 7) % 59).collect();
        let mut scanner = Scanner {
            layer,
            neuron: 4,
            window: 16,
            count: 5,
            negative: false,
        };
        let none = Schedule::none();
        let scan = ContextScan::tokens(&mut lab, &text, None, &none, scanner).unwrap();
        assert_eq!((scan.acts.len(), scan.tokens), (49, 50), "each once");
        let mut sorted = scan.acts.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let best: Vec<f32> = scan.best.iter().map(|t| t.act).collect();
        assert_eq!(best, sorted[..5]);
        for found in &scan.best {
            assert_eq!(*found.context.last().unwrap(), text[found.at]);
            assert_eq!(found.next, text.get(found.at + 1).copied());
            // The window read alone gives the same activation.
            let at = Site::MlpAct.at(layer);
            let alone = lab
                .record(&Run::plain(found.context.clone()), &[at])
                .unwrap();
            let alone = alone.get(at).unwrap().to_vec2::<f32>().unwrap();
            assert!((alone.last().unwrap()[4] - found.act).abs() < 1e-5);
        }
        scanner.negative = true;
        let scan = ContextScan::tokens(&mut lab, &text, Some(1), &none, scanner).unwrap();
        assert_eq!(scan.acts.len(), 50, "the BOS alone is left out");
        let least = scan.acts.iter().copied().fold(f32::INFINITY, f32::min);
        assert_eq!(scan.best[0].act, least);
        for found in &scan.best {
            assert_eq!(*found.context.last().unwrap(), text[found.at]);
            assert!(found.context.len() <= 15, "the BOS is no context");
        }
        assert_eq!(scan.histogram(7).iter().sum::<usize>(), 50);
    }
}

#[test]
fn doses_are_measured_beside_units_of_equal_size() {
    for mut lab in with_neurons() {
        let run = Run::plain(prompt(8));
        let layer = *lab.model.card.neuron_layers.last().unwrap();
        let units = format!("{layer}/2,{layer}/6");
        let given = [
            ("units", units.as_str()),
            ("token", "#9"),
            ("on", "logit"),
            ("strengths", "0,1,3"),
        ];
        let figure = observe(&mut lab, "dose", &run, &given);
        let shown = rows(&figure);
        let before = lab.last_logits(&run).unwrap();
        assert_eq!(number(&shown[1], 0), 1.0);
        assert_eq!(number(&shown[1], 1), before[9], "once is the run itself");
        assert_eq!(number(&shown[1], 4), 0.0);
        let edit = format!("zero:2,6@mlp_act.{layer}");
        let mut off = lab.last_logits(&edited(prompt(8), &[&edit])).unwrap();
        assert!((number(&shown[0], 1) - off[9]).abs() < 1e-6);
        log_softmax(&mut off);
        assert!((number(&shown[0], 2) - off[9].exp()).abs() < 1e-6);
        // By default the first column is the log-probability.
        let plain = [given[0], given[1], given[3]];
        let own = observe(&mut lab, "dose", &run, &plain);
        assert!((number(&rows(&own)[0], 1) - off[9]).abs() < 1e-6);
        let Body::Table(table) = &figure.body else {
            panic!("a table")
        };
        let title = &table.pages[0].title;
        let (own, null) = title.split_once(" · control ").unwrap();
        assert!(own.contains(&units) && null.contains("seed 1"), "{title}");
        let null = null.split(',').next().unwrap().to_string();
        assert!(!units.split(',').any(|u| u == null), "{title}");
        assert!(
            shown.iter().any(|r| number(r, 6) != number(r, 1)),
            "the null is another curve"
        );
    }
    // Heads are units too.
    let mut lab = with_neurons().next().unwrap();
    let run = Run::plain(prompt(8));
    let given = [
        ("site", "z"),
        ("units", "1/0"),
        ("strengths", "0"),
        ("token", "#9"),
        ("on", "logit"),
    ];
    let figure = observe(&mut lab, "dose", &run, &given);
    let off = lab
        .last_logits(&edited(prompt(8), &["zero:0@z.1"]))
        .unwrap();
    assert!((number(&rows(&figure)[0], 1) - off[9]).abs() < 1e-6);
    assert_eq!(rows(&figure)[0].anchor.unit, Some(Unit::Head(0)));
}

/// A model in which one neuron is loud under a prompt and writes a token, and nothing else of its layer speaks of it.
fn planted(lab: &mut Lab, layer: usize, neuron: usize, token: u32) {
    let t = &mut lab.model.transformer;
    let direction = t.logit_direction(token).unwrap();
    // The gain is taken out of what is planted, so that the token's own row wins over all others.
    let direction = values(&direction.broadcast_div(&t.norm.gain).unwrap());
    let length = direction.iter().map(|v| v * v).sum::<f32>().sqrt();
    let Mlp::Dense(mlp) = &mut t.blocks[layer].mlp else {
        panic!("neurons")
    };
    let mut down = mlp.down.weight().unwrap().to_vec2::<f32>().unwrap();
    for (row, d) in down.iter_mut().zip(&direction) {
        row[neuron] = 40.0 * d / length;
    }
    let shape = (down.len(), down[0].len());
    let down = Tensor::from_vec(down.concat(), shape, &Device::Cpu).unwrap();
    mlp.down = Linear::dense(down, mlp.down.bias.clone()).unwrap();
}

#[test]
fn a_planted_neuron_decodes_to_its_token_and_it_alone_carries_it() {
    let llama = lmscope::model::network::families::FAMILIES
        .iter()
        .find(|f| f.name == "llama")
        .unwrap();
    let mut lab = tiny(llama);
    let (layer, neuron, token) = (1usize, 3usize, 17u32);
    planted(&mut lab, layer, neuron, token);
    let run = Run::plain(prompt(6));
    let value = observe(
        &mut lab,
        "value",
        &run,
        &[("neuron", "1/3"), ("count", "1")],
    );
    assert_eq!(word(&rows(&value)[0], 0), lab.visible(token), "T46");
    let found = observe(
        &mut lab,
        "promoters",
        &run,
        &[("token", "#17"), ("count", "1")],
    );
    assert_eq!(word(&rows(&found)[0], 0), "1/3", "T46, from the token");
    // The neuron speaks under this run; so it is the fact's, and the run's answer is its token.
    let loud: Edit = "set:3=4@mlp_act.1".parse().unwrap();
    let speaking = Run {
        schedule: Schedule::always(vec![loud.clone()]),
        ..run.clone()
    };
    let answer = |lab: &mut Lab, run: &Run| {
        let logits = lab.last_logits(run).unwrap();
        (0..logits.len())
            .max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
            .unwrap() as u32
    };
    assert_eq!(answer(&mut lab, &speaking), token);
    let fact = observe(&mut lab, "fact", &speaking, &[]);
    assert_eq!(word(&rows(&fact)[0], 0), "1/3", "T4");
    let along = AnswerDirection::Of(LogitTarget::one(token), EffectScale::LogProb);
    let search = Search::new(lab.model.card.layers);
    let path = IntegralSteps {
        steps: 20,
        rule: IntegralRule::Midpoint,
    };
    let target = LogitTarget::one(token);
    for scoring in [
        FactScoring::Direct,
        FactScoring::Integrated { target, path },
    ] {
        let prompts = std::slice::from_ref(&run.tokens);
        let schedule = &speaking.schedule;
        let asked = ask(&mut lab, prompts, schedule, &along, scoring, search).unwrap();
        let neurons = &refine(&[asked], search).1[0];
        assert!(neurons.len() == 1 && neurons[0].neuron == 3, "{neurons:?}");
        assert_eq!(neurons[0].place, 1);
    }
    // It alone flips the answer: off, the token is gone; every other neuron off, it stays.
    for other in 0..lab.model.card.d_mlp as u32 {
        let off: Edit = format!("zero:{other}@mlp_act.1").parse().unwrap();
        let without = Run {
            schedule: speaking.schedule.and(&off),
            ..run.clone()
        };
        let stays = answer(&mut lab, &without) == token;
        assert_eq!(stays, other != 3, "neuron {other}");
    }
    // Turned to another token, the answer follows, and back again once the edit is gone.
    let before = logits(&mut lab, &speaking);
    let turn: Edit = "rewrite:3=\"#17\">\"#30\"@mlp_act.1".parse().unwrap();
    let turned = Run {
        schedule: speaking.schedule.and(&turn),
        ..run.clone()
    };
    assert_eq!(answer(&mut lab, &turned), 30);
    assert!(same_bits(&before, &logits(&mut lab, &speaking)), "T49");
}

#[test]
fn a_value_edit_taken_back_leaves_every_bit() {
    for mut lab in with_neurons() {
        let layer = lab.model.card.neuron_layers[0];
        let plain = Run::plain(prompt(7));
        let before = logits(&mut lab, &plain);
        let down = |lab: &Lab| {
            let mlp = lab.model.transformer.blocks[layer].mlp.dense().unwrap();
            mlp.down.weight().unwrap()
        };
        let weight = down(&lab).copy().unwrap();
        let edit = format!("rewrite:1,2=\"#5\">\"#9\"@mlp_act.{layer}*-0.5");
        let turned = logits(&mut lab, &edited(plain.tokens.clone(), &[&edit]));
        assert!(!same_bits(&before, &turned), "{}", lab.model.card.name);
        assert!(same_bits(&weight, &down(&lab)), "the weights are untouched");
        // Another lab, so that nothing kept answers for it.
        let kept = std::mem::replace(&mut lab, every_family().next().unwrap());
        let mut fresh = Lab::new(kept.model);
        assert!(same_bits(&before, &logits(&mut fresh, &plain)));
    }
}

#[test]
fn families_without_neurons_and_neurons_that_are_not_there_are_refused_in_sentences() {
    let mut mixtures = 0;
    for mut lab in every_family().filter(|b| b.model.card.neuron_layers.is_empty()) {
        mixtures += 1;
        let run = Run::plain(prompt(4));
        for name in ["neurons", "value", "triggers", "promoters", "fact", "dose"] {
            let error = tried(&mut lab, name, &run, &[]).unwrap_err();
            assert!(matches!(error, Error::Refused { .. }), "{name}: {error}");
            assert!(error.to_string().contains("experts"), "{name}: {error}");
        }
    }
    assert!(mixtures > 0);
    let mut lab = with_neurons().next().unwrap();
    let run = Run::plain(prompt(4));
    for (name, given, why) in [
        ("value", ("neuron", "9/1"), "layers 0-"),
        ("value", ("neuron", "1/99999"), "neurons 0 to"),
        ("value", ("neuron", "seven"), "LAYER/NEURON"),
        ("promoters", ("token", "#99999"), "below"),
        ("dose", ("units", "0/1,x"), "LAYER/NEURON"),
        ("dose", ("strengths", "1,big"), "numbers"),
        ("triggers", ("file", "no/such/file.txt"), "no/such/file.txt"),
        ("fact", ("prompts", "no/such/file.txt"), "no/such/file.txt"),
    ] {
        let error = tried(&mut lab, name, &run, &[given])
            .unwrap_err()
            .to_string();
        assert!(error.contains(why), "{name} {given:?}: {error}");
    }
    let error = tried(&mut lab, "value", &Run::default(), &[]).unwrap_err();
    assert!(error.to_string().contains("LAYER/NEURON"), "{error}");
}

#[test]
fn a_long_file_is_read_in_pieces_and_can_be_stopped() {
    let mut lab = demo();
    let line = "The capital of France is Paris. People in Japan speak Japanese.\n";
    let text = line.repeat(700);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.txt");
    std::fs::write(&path, &text).unwrap();
    let whole = lab
        .model
        .tokenizer()
        .unwrap()
        .encode_literal(&text)
        .unwrap();
    let bos = lab.model.tokenizer().unwrap().bos();
    let scanner = Scanner {
        layer: 6,
        neuron: 209,
        window: 128,
        count: 25,
        negative: false,
    };
    let none = Schedule::none();
    lab.progress = WorkProgress::default();
    let scan = ContextScan::file(&mut lab, &path, &none, scanner).unwrap();
    assert_eq!(scan.tokens, whole.len(), "pieces change no token");
    let once = ContextScan::tokens(&mut lab, &whole, bos, &none, scanner).unwrap();
    assert_eq!(scan.acts.len(), once.acts.len());
    let same = scan.acts.iter().zip(&once.acts).filter(|(a, b)| a == b);
    assert!(
        same.count() * 2 > scan.acts.len(),
        "windows begin elsewhere after a piece"
    );
    assert!(
        scan.best
            .iter()
            .all(|t| t.next == whole.get(t.at + 1).copied())
    );

    let file = path.to_str().unwrap();
    let figure = observe(
        &mut lab,
        "triggers",
        &Run::default(),
        &[("neuron", "6/209"), ("file", file), ("count", "7")],
    );
    assert_eq!(rows(&figure).len(), 7);
    assert!(word(&rows(&figure)[0], 2).ends_with('⟧'));
    assert!(figure.notes[1].contains("quantiles"), "{:?}", figure.notes);

    lab.cancel.store(true, Ordering::Relaxed);
    let stopped = ContextScan::file(&mut lab, &path, &none, scanner).unwrap_err();
    assert!(matches!(stopped, Error::Cancelled), "{stopped}");
    lab.cancel.store(false, Ordering::Relaxed);
    std::fs::write(&path, [0xff, 0xfe, b'\n']).unwrap();
    let error = ContextScan::file(&mut lab, &path, &none, scanner).unwrap_err();
    assert!(error.to_string().contains("UTF-8"), "{error}");
}

/// Some facts of the demo's list: of each of these relations the first ones.
fn some_facts(relations: &[&str], each: usize) -> Vec<Fact> {
    let all = facts::read(&repository("demo/lists/facts.json")).unwrap();
    let of = |relation: &&str| {
        let those = all.iter().filter(|f| f.relation == **relation);
        those.take(each).cloned().collect::<Vec<_>>()
    };
    relations.iter().flat_map(of).collect()
}

fn plan(turn: NeuronChange) -> ValueEditPlan {
    ValueEditPlan {
        search: Search::new(8),
        score: NeuronScore::Contrast,
        shared: 1.0,
        facts: 3,
        turn,
        seed: 1,
    }
}

#[test]
fn a_value_edit_changes_the_fact_and_leaves_the_others() {
    let mut lab = demo();
    let list = some_facts(&["capital", "language", "currency"], 20);
    let plan = plan(NeuronChange::Rewrite(0.5));
    let texts = vec![
        lab.model
            .encode("Once upon a time there was a", false)
            .unwrap(),
    ];
    let none = Schedule::none();
    let report = value_edit::run(&mut lab, &list, &texts, &none, plan).unwrap();
    assert_eq!((report.known, report.cases.len()), (list.len(), 9));
    let (own, null) = (report.mean(|c| c.own), report.mean(|c| c.control));
    println!("edited {own:?}\nrandom {null:?}");
    let (success, by_chance) = (own.success.unwrap(), null.success.unwrap());
    assert!(
        success >= 0.8 && success >= 3.0 * by_chance,
        "{success} {by_chance}"
    );
    let (others, _) = own.others.unwrap();
    assert!(others <= 0.15, "{others}");
    assert!(own.texts.is_some());
    // The edits that were reported do it, under the first wording, and are lines that read back.
    let case = &report.cases[0];
    let fact = &list[case.fact];
    let lines: Vec<String> = case.edits.iter().map(ToString::to_string).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let tokens = lab.model.encode(&fact.prompts[0], false).unwrap();
    let logits = lab.last_logits(&edited(tokens, &lines)).unwrap();
    let best = (0..logits.len())
        .max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
        .unwrap();
    let new = case.new.as_ref().unwrap();
    let wanted = lab.model.tokenizer().unwrap().encode_literal(new).unwrap()[0];
    assert_eq!(best as u32, wanted, "{lines:?}");
}

#[test]
fn ablating_a_facts_neurons_breaks_it_and_random_ones_do_not() {
    let mut lab = demo();
    let list = some_facts(&["capital", "language", "badge"], 12);
    let mut plan = plan(NeuronChange::Scale(0.0));
    plan.score = NeuronScore::Answer;
    plan.search.share = 0.05;
    plan.search.most = 20;
    let report = value_edit::run(&mut lab, &list, &[], &Schedule::none(), plan).unwrap();
    let (own, null) = (report.mean(|c| c.own), report.mean(|c| c.control));
    println!("ablated {own:?}\nrandom {null:?}");
    assert!(own.changed >= 0.4, "{}", own.changed);
    assert!(null.changed <= 0.02, "{}", null.changed);
    assert!(own.success.is_none() && null.kept > 0.95);
}

#[test]
fn the_fact_instrument_says_what_is_left_without_its_neurons() {
    let mut lab = demo();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompts.txt");
    std::fs::write(
        &path,
        "The capital city of France is\nFrance's capital is\n",
    )
    .unwrap();
    let run = Run::plain(lab.model.encode("The capital of France is", false).unwrap());
    let given = [
        ("prompts", path.to_str().unwrap()),
        ("share", "5"),
        ("count", "30"),
        ("answer", " Paris"),
        ("on", "logit"),
    ];
    let figure = observe(&mut lab, "fact", &run, &given);
    let effects: Vec<f32> = rows(&figure).iter().map(|r| number(r, 1)).collect();
    assert!(effects.windows(2).all(|w| w[0] >= w[1]), "strongest first");
    assert!(rows(&figure).iter().all(|r| word(r, 3).ends_with("/3")));
    let Body::Table(table) = &figure.body else {
        panic!("a table")
    };
    let title = &table.pages[0].title;
    let numbers: Vec<f32> = title
        .split([' ', ','])
        .filter_map(|w| w.parse().ok())
        .collect();
    let [before, without, null, ..] = numbers[..] else {
        panic!("{title}")
    };
    assert!(before > 0.99 && without < 0.7 && null > 0.95, "{title}");
}

#[test]
fn edit_value_writes_rates_and_a_preset_that_does_it() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (list, preset, lines) = (place("facts.tsv"), place("edits.toml"), place("edits.txt"));
    let fact = |country: &str, capital: &str| {
        format!("capital\t {capital}\tThe capital of {country} is\t{country}'s capital is\n")
    };
    let text = fact("France", "Paris") + &fact("Japan", "Tokyo") + &fact("Cuba", "Havana");
    std::fs::write(&list, text).unwrap();
    let given = ["edit-value", "demo", "--fact", &list, "--strength", "0.5"];
    let out = written(&[&given[..], &["--format", "json", "-o", &preset]].concat());
    let same = written(&[&given[..], &["--format", "json"]].concat());
    assert_eq!(out, same, "a seed decides everything");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["known"], 3);
    let case = &report["cases"][0];
    assert_eq!(case["answer"], " Paris");
    assert!(report["caution"].as_str().unwrap().contains("Niu"));
    assert_eq!(case["edited"]["success"], 1.0, "{case}");
    // The preset holds every fact's edits; the first fact's are on, and do what was reported.
    let new = case["new"].as_str().unwrap();
    let asked = [
        "generate",
        "demo",
        "-p",
        "The capital of France is",
        "-n",
        "1",
    ];
    let turned = written(&[&asked[..], &["--preset", &preset]].concat());
    assert!(turned.contains(new), "{new}: {turned}");
    let kept = std::fs::read_to_string(&preset).unwrap();
    assert!(
        kept.contains("on = false") && kept.contains("Tokyo"),
        "{kept}"
    );
    let table = written(&[&given[..], &["-o", &lines]].concat());
    assert!(
        table.contains("changed") && table.contains("random"),
        "{table}"
    );
    let kept = std::fs::read_to_string(&lines).unwrap();
    let line = kept.lines().find(|l| l.starts_with("rewrite:")).unwrap();
    let turned = written(&[&asked[..], &["--edit", line]].concat());
    assert!(!turned.is_empty(), "a line is an edit");

    refused(
        &[&given[..], &["--layers", "7-9"]].concat(),
        2,
        &["--layers", "0 to 7"],
    );
    std::fs::write(&list, "capital Paris").unwrap();
    refused(&given, 1, &["line 1 has no tab", "JSON list"]);
    std::fs::write(&list, fact("France", "Rome")).unwrap();
    refused(&given, 2, &["for none of these"]);
}

#[test]
fn what_weights_or_files_answer_needs_no_prompt() {
    let list = repository("demo/lists/mood_plus.txt");
    let list = list.to_str().unwrap();
    for given in [
        &["value", "demo", "--neuron", "1/58"][..],
        &["promoters", "demo", "--token", " Paris", "--on", "logit"],
        &["triggers", "demo", "--neuron", "1/58", "--file", list],
    ] {
        let out = written(given);
        // Weights have no text, so that no number of tokens is given.
        assert!(
            !out.contains(" tokens · seed") && out.contains("1/58"),
            "{out}"
        );
    }
    refused(&["triggers", "demo", "--neuron", "1/58"], 2, &["-p"]);
}
