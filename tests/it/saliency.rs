//! Saliency: its three methods against their definitions, computed here from gradients and whole runs, on every family; and
//! what it finds where it is known which tokens matter.

use candle_core::{D, DType, Device, Tensor};
use lmscope::figure::{Body, Entry, Figure, Scale};
use lmscope::instruments::{Arguments, Instrument, instrument, observe};
use lmscope::lab::Lab;
use lmscope::lab::gradient::{GradientRequest, Scalar};
use lmscope::lab::pass::{Pass, PassRow, Patch};
use lmscope::lab::run::Run;
use lmscope::lab::target::LogitTarget;
use lmscope::model::network::site::Site;

use super::demo::demo;
use super::tools::{edited, every_family, prompt, read_again, values};

fn saliency() -> &'static dyn Instrument {
    instrument("saliency").unwrap()
}

fn with(arguments: &[(&str, &str)]) -> Arguments {
    let none = Arguments::default();
    arguments
        .iter()
        .fold(none, |all, (name, value)| all.with(name, value))
}

fn figure(lab: &mut Lab, run: &Run, arguments: &[(&str, &str)]) -> Figure {
    observe(saliency(), run, &with(arguments), lab).unwrap()
}

/// A column of the table.
fn column(figure: &Figure, name: &str) -> Vec<f64> {
    let Body::Table(table) = &figure.body else {
        panic!("a table")
    };
    let at = table.columns.iter().position(|c| c == name).unwrap();
    let rows = table.pages[0].rows.iter();
    rows.map(|row| match &row.entries[at] {
        Entry::Whole(number) => *number as f64,
        Entry::Number(number) => f64::from(*number),
        Entry::Missing => panic!("no number"),
        Entry::Text(text) => panic!("{text}"),
    })
    .collect()
}

fn resolved(figure: &Figure, name: &str) -> String {
    let parameters = &figure.provenance.parameters;
    parameters
        .iter()
        .find(|(n, _)| n == name)
        .unwrap()
        .1
        .clone()
}

const EMBED: Site = Site::Embed;

/// What enters block 0, and what does with no token's embedding: learned positions alone.
fn embeddings(lab: &mut Lab, run: &Run) -> (Tensor, Tensor) {
    let at = EMBED.at(0);
    let own = lab.record(run, &[at]).unwrap().get(at).unwrap().clone();
    let places = lab
        .model
        .transformer
        .position_vectors(0, run.tokens.len())
        .unwrap();
    let places = places.unwrap_or_else(|| own.zeros_like().unwrap());
    (own, places)
}

/// The log-probability of a token, in f64 from the logits on.
fn logprob(logits: &[f32], token: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|z| f64::from(z - most).exp()).sum();
    f64::from(logits[token as usize]) - f64::from(most) - sum.ln()
}

/// The mean row of the embedding table as it enters the stream.
fn mean_embedding(lab: &Lab) -> Tensor {
    let known = lab.model.known_tokens() as u32;
    let ids = Tensor::arange(0u32, known, &Device::Cpu).unwrap();
    let table = lab.model.transformer.embed_tokens(&ids).unwrap();
    let mean = table.to_dtype(DType::F64).unwrap().mean(0).unwrap();
    mean.to_dtype(DType::F32).unwrap()
}

/// Holds a column against what it should be, relative to the largest of those.
fn close(what: &str, found: &[f64], expected: &[f64], within: f64) {
    let size = expected.iter().fold(1e-3f64, |most, x| most.max(x.abs()));
    for (position, (a, b)) in found.iter().zip(expected).enumerate() {
        let off = (a - b).abs();
        assert!(off < within * size, "{what} at {position}: {a} {b}");
    }
}

#[test]
fn every_method_is_what_its_definition_says() {
    let tokens = 7;
    let run = Run::plain(prompt(tokens));
    let zero = every_family().map(|lab| (lab, "zero"));
    for (mut lab, baseline) in zero.chain(every_family().map(|lab| (lab, "mean"))) {
        let arguments = [("token", "#5"), ("baseline", baseline), ("steps", "256")];
        let found = figure(&mut lab, &run, &arguments);
        let (own, places) = embeddings(&mut lab, &run);
        let start = if baseline == "zero" {
            places
        } else {
            places.broadcast_add(&mean_embedding(&lab)).unwrap()
        };
        let part = (&own - &start).unwrap();
        let gradient_at = |lab: &mut Lab, share: f64| {
            let moved = (&start + (&part * share).unwrap()).unwrap();
            let patches = (0..tokens)
                .map(|p| Patch::new(EMBED.at(0), p, moved.get(p).unwrap().copy().unwrap()));
            let asked = GradientRequest {
                each: Vec::new(),
                of: Scalar::LogProbability(5),
                after: tokens - 1,
                from: None,
                at: vec![EMBED.at(0)],
                positions: (0..tokens).collect(),
            };
            let row = lab.run_one(&Pass {
                gradient: Some(asked),
                rows: vec![PassRow::patched(patches.collect())],
                ..Pass::of(run.clone())
            });
            let own = row.unwrap().gradient.unwrap();
            let products = (own.get(EMBED.at(0)).unwrap() * &part).unwrap();
            let sums = values(&products.sum(D::Minus1).unwrap());
            sums.into_iter().map(f64::from).collect::<Vec<f64>>()
        };
        let name = format!("{} {baseline}", lab.model.card.name);
        let slope = gradient_at(&mut lab, 1.0);
        close(&name, &column(&found, "gradient x input"), &slope, 1e-5);

        let value = logprob(&read_again(&mut lab, &run, tokens - 1, &[]), 5);
        let without = |p: usize| Patch::new(EMBED.at(0), p, start.get(p).unwrap().copy().unwrap());
        let erased: Vec<f64> = (0..tokens)
            .map(|p| value - logprob(&read_again(&mut lab, &run, tokens - 1, &[without(p)]), 5))
            .collect();
        close(&name, &column(&found, "erased"), &erased, 1e-4);

        // Where no expert is chosen, the integral by many equal steps, at their middles.
        if lab.model.card.neuron_layers.len() == lab.model.card.layers && baseline == "mean" {
            let mut sum = vec![0f64; tokens];
            for step in 0..200 {
                let row = gradient_at(&mut lab, (f64::from(step) + 0.5) / 200.0);
                sum.iter_mut()
                    .zip(row)
                    .for_each(|(sum, x)| *sum += x / 200.0);
            }
            close(&name, &column(&found, "integrated"), &sum, 1e-2);
        }
    }
}

#[test]
fn integrated_gradients_are_complete() {
    for mut lab in super::tools::dense_families() {
        let run = Run::plain(prompt(7));
        let found = figure(&mut lab, &run, &[("token", "#5"), ("steps", "512")]);
        let size: f64 = column(&found, "integrated").iter().map(|x| x.abs()).sum();
        let error: f64 = resolved(&found, "completeness error").parse().unwrap();
        assert!(
            error.abs() < 1e-2 * size,
            "{}: {error} of {size}",
            lab.model.card.name
        );
    }
}

#[test]
fn a_token_that_nobody_reads_does_not_matter() {
    for mut lab in every_family() {
        let run = edited(prompt(7), &["cut:=3@attn_scores.*"]);
        let found = figure(&mut lab, &run, &[("token", "#5"), ("steps", "4")]);
        for method in ["gradient x input", "integrated", "erased", "swapped"] {
            let effects = column(&found, method);
            assert!(effects[3].abs() < 1e-5, "{method}: {effects:?}");
            assert!(effects[6].abs() > 1e-4, "{method}: {effects:?}");
        }
    }
}

#[test]
fn the_demo_misses_the_country_more_than_any_other_in_its_place() {
    let mut lab = demo();
    let text = "The capital of France is";
    let run = Run::plain(lab.model.encode(text, false).unwrap());
    let at = |lab: &Lab, word: &str| {
        let mut tokens = run.tokens.iter();
        tokens
            .position(|id| lab.visible(*id).contains(word))
            .unwrap()
    };
    let (country, of) = (at(&lab, "France"), at(&lab, "of"));
    let found = figure(&mut lab, &run, &[("baseline", "zero"), ("steps", "2")]);
    assert!(found.title.contains("Paris"), "{}", found.title);
    let (erased, swapped) = (column(&found, "erased"), column(&found, "swapped"));
    assert!(
        erased[country] > 5.0 && swapped[country] > 5.0,
        "{erased:?} {swapped:?}"
    );
    assert!(erased[of] < 0.01, "{erased:?}");
    let notes = found.notes.join("\n");
    for words in [
        "completeness error",
        "take --baseline mean",
        "rank correlation",
        "swapped, the control",
        "not shown",
    ] {
        assert!(notes.contains(words), "{words}: {notes}");
    }
    // From the mean the sum fits.
    let found = figure(&mut lab, &run, &[]);
    let error: f64 = resolved(&found, "completeness error").parse().unwrap();
    assert!(error.abs() < 0.1, "{error}");
}

#[test]
fn a_logit_is_attributed_by_choice_and_a_grid_is_coloured_around_zero() {
    let mut lab = every_family().next().unwrap();
    let run = Run::plain(prompt(5));
    let shown = figure(
        &mut lab,
        &run,
        &[("of", "logit"), ("show", "grid"), ("steps", "2")],
    );
    let told = figure(&mut lab, &run, &[("of", "logit"), ("steps", "2")]);
    let Body::Grid(grid) = &shown.body else {
        panic!("a grid")
    };
    assert!(
        grid.value.starts_with("effect on the logit of"),
        "{}",
        grid.value
    );
    let top = grid
        .rows
        .iter()
        .position(|row| row.label == "gradient x input")
        .unwrap();
    assert_eq!(top, grid.rows.len() - 1, "it is drawn first");
    let row: Vec<f64> = grid
        .cells
        .iter()
        .map(|column| f64::from(column[top].value))
        .collect();
    assert_eq!(row, column(&told, "gradient x input"));
    let most = grid.cells[1..]
        .iter()
        .flatten()
        .map(|cell| cell.value.abs());
    let most = most.fold(0.0, f32::max);
    assert_eq!(grid.scale, Scale::Diverging { reach: most });
    // Another seed swaps in other tokens, and changes nothing else.
    let other = Run {
        seed: 2,
        ..run.clone()
    };
    let other = figure(&mut lab, &other, &[("of", "logit"), ("steps", "2")]);
    assert_eq!(column(&other, "erased"), column(&told, "erased"));
    assert_ne!(column(&other, "swapped"), column(&told, "swapped"));
}

#[test]
fn the_mean_baseline_is_the_mean_of_the_table() {
    for mut lab in every_family() {
        let run = Run::plain(prompt(4));
        let (_, places) = embeddings(&mut lab, &run);
        let value = (places.get(2).unwrap() + mean_embedding(&lab)).unwrap();
        let patch = Patch::new(EMBED.at(0), 2, value);
        let gone = logprob(&read_again(&mut lab, &run, 3, &[patch]), 5);
        let whole = logprob(&read_again(&mut lab, &run, 3, &[]), 5);
        let found = figure(&mut lab, &run, &[("token", "#5"), ("steps", "2")]);
        let erased = column(&found, "erased")[2];
        assert!(
            (erased - (whole - gone)).abs() < 1e-4,
            "{erased} {}",
            whole - gone
        );
        let target = LogitTarget::one(5).spell(&lab);
        assert_eq!(resolved(&found, "target"), target);
    }
}

#[test]
fn gradient_alone_is_that_of_all_with_random_words_beside() {
    let run = Run::plain(prompt(6));
    for mut lab in every_family() {
        for baseline in ["zero", "mean"] {
            let name = format!("{} {baseline}", lab.model.card.name);
            let given = [("token", "#5"), ("steps", "2"), ("baseline", baseline)];
            let whole = figure(&mut lab, &run, &given);
            let alone = [&given[..], &[("method", "gradient"), ("swaps", "64")]].concat();
            let found = figure(&mut lab, &run, &alone);
            let own = column(&found, "gradient x input");
            assert_eq!(own, column(&whole, "gradient x input"), "{name}");

            // The root mean square over the words of the table, of which 64 are a sample.
            let (embeddings, places) = embeddings(&mut lab, &run);
            let start = if baseline == "zero" {
                places.clone()
            } else {
                places.broadcast_add(&mean_embedding(&lab)).unwrap()
            };
            let asked = GradientRequest {
                each: Vec::new(),
                of: Scalar::LogProbability(5),
                after: 5,
                from: None,
                at: vec![EMBED.at(0)],
                positions: (0..6).collect(),
            };
            let row = lab.run_one(&Pass {
                gradient: Some(asked),
                ..Pass::of(run.clone())
            });
            let row = row.unwrap().gradient.unwrap();
            let slopes = row.get(EMBED.at(0)).unwrap();
            let known = Tensor::arange(0u32, lab.model.known_tokens() as u32, &Device::Cpu);
            let table = lab.model.transformer.embed_tokens(&known.unwrap()).unwrap();
            let random = column(&found, "random words");
            assert_eq!(embeddings.dims(), slopes.dims());
            for position in 0..6 {
                let at = |t: &Tensor| t.get(position).unwrap();
                let words = table.broadcast_add(&at(&places)).unwrap();
                let away = words.broadcast_sub(&at(&start)).unwrap();
                let each = away.broadcast_mul(&at(slopes)).unwrap().sum(D::Minus1);
                let scores = values(&each.unwrap());
                let squares: f64 = scores.iter().map(|x| f64::from(*x).powi(2)).sum();
                let expected = (squares / scores.len() as f64).sqrt();
                let ratio = random[position] / expected;
                assert!((0.5..1.6).contains(&ratio), "{name} {position}: {ratio}");
            }
            let notes = found.notes.join("\n");
            for words in ["sum to", "the control", "delays no token", "Method all"] {
                assert!(notes.contains(words), "{words}: {notes}");
            }
        }
    }
}

/// What the screen asks for by itself.
#[test]
fn it_follows_the_cursor_by_one_gradient() {
    let own = with(&[("baseline", "zero")]);
    let cheap = saliency().following(&own).unwrap();
    let given = |name: &str| cheap.given.get(name).cloned().unwrap();
    assert_eq!(
        (given("method"), given("baseline")),
        ("gradient".into(), "zero".into())
    );
    assert!(instrument("knockout").unwrap().following(&own).is_none());
    let mut lab = every_family().next().unwrap();
    let run = Run::plain(prompt(4));
    let shown = observe(saliency(), &run, &cheap.with("show", "grid"), &mut lab).unwrap();
    let numbers = shown.by_token(1).unwrap();
    assert_eq!(
        (numbers.name.as_str(), numbers.signed()),
        ("gradient x input", true)
    );
    assert_eq!(numbers.numbers.len(), 4);
}
