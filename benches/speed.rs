//! What speed we promise, measured on the demo model: writing bare, with each live instrument, and a whole figure.
//!
//! A receipt is timed with one draw of its control and with eight, on the demo or on the model of `LMSCOPE_REAL_MODEL`.
//!
//! Invariant: one iteration of the first three is one token, at a text of [`LENGTH`] tokens, so that their ratio is
//! the price of looking. To measure something else, add a function with `#[divan::bench]`.
#![allow(clippy::unwrap_used)] // a benchmark that cannot start should stop

use lmscope::edit::Edit;
use lmscope::edit::schedule::Schedule;
use lmscope::instruments::logit_lens::lens::Lens;
use lmscope::instruments::neurons::Neurons;
use lmscope::instruments::{Arguments, INSTRUMENTS, Instrument};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::lab::sample::Sampling;
use lmscope::lab::writer::Writer;
use lmscope::model::load::Options;

/// Tokens that stand before the one that is measured, and tokens of the whole figure.
const LENGTH: usize = 64;

fn main() {
    divan::main();
}

fn demo() -> (Lab, Vec<u32>) {
    let lab = Lab::open("demo", &Options::default()).unwrap();
    let prompt = lab.model.encode("The capital of France is", false).unwrap();
    let tokens = prompt.iter().copied().cycle().take(LENGTH).collect();
    (lab, tokens)
}

/// One token with these instruments live. The text is read again when the context is full.
fn decode(bencher: divan::Bencher, live: &[&dyn Instrument]) {
    let (mut lab, tokens) = demo();
    let arguments = Arguments::default();
    let run = Run::plain(tokens.clone());
    let needs = live
        .iter()
        .map(|of| of.needs(&run, &arguments, &lab).unwrap());
    let needs: Vec<_> = needs.collect();
    let begin = |lab: &mut Lab| {
        Writer::begin(lab, tokens.clone(), Schedule::none(), Sampling::default()).unwrap()
    };
    let mut writer = begin(&mut lab);
    bencher
        .counter(divan::counter::ItemsCount::new(1usize))
        .bench_local(|| {
            if writer.run.tokens.len() >= 2 * LENGTH {
                writer = begin(&mut lab);
            }
            let step = writer.step(&mut lab, &needs).unwrap();
            for (of, capture) in live.iter().zip(&step.captures) {
                divan::black_box(of.column(capture, &arguments, &mut lab).unwrap());
            }
        });
}

#[divan::bench]
fn decode_bare(bencher: divan::Bencher) {
    decode(bencher, &[]);
}

#[divan::bench]
fn decode_with_lens(bencher: divan::Bencher) {
    decode(bencher, &[&Lens]);
}

#[divan::bench]
fn decode_with_neurons(bencher: divan::Bencher) {
    decode(bencher, &[&Neurons]);
}

#[divan::bench]
fn decode_with_everything_live(bencher: divan::Bencher) {
    let (lab, _) = demo();
    let live: Vec<&dyn Instrument> = INSTRUMENTS
        .iter()
        .copied()
        .filter(|of| of.live(&lab.model.card, &Arguments::default()))
        .collect();
    decode(bencher, &live);
}

#[divan::bench]
fn whole_lens_over_64_positions(bencher: divan::Bencher) {
    let (_, tokens) = demo();
    let run = Run::plain(tokens);
    // A fresh bench every time, because recordings are kept.
    bencher
        .with_inputs(|| demo().0)
        .bench_local_values(|mut lab| Lens.observe(&run, &Arguments::default(), &mut lab).unwrap());
}

/// A receipt of an edit of a layer this share of the way up, over a text of so many tokens, with so many draws of the control.
#[divan::bench(sample_count = 9, args = [
    (0.0, 6, 1), (0.0, 6, 8), (0.5, 6, 1), (0.5, 6, 8), (0.9, 6, 1), (0.9, 6, 8),
    (0.0, 64, 1), (0.0, 64, 8), (0.5, 64, 1), (0.5, 64, 8), (0.9, 64, 1), (0.9, 64, 8),
])]
fn receipt(bencher: divan::Bencher, (height, length, draws): (f64, usize, usize)) {
    let model = std::env::var("LMSCOPE_REAL_MODEL").unwrap_or_else(|_| "demo".into());
    let mut lab = Lab::open(&model, &Options::default()).unwrap();
    let prompt = lab.model.encode("The capital of France is", false).unwrap();
    let tokens = prompt.iter().copied().cycle().take(length).collect();
    let layer = (height * lab.model.card.layers as f64) as usize;
    let edit: Edit = format!("zero:1,2,3@mlp_act.{layer}").parse().unwrap();
    let run = Run {
        schedule: Schedule::always(vec![edit]),
        ..Run::plain(tokens)
    };
    // The unrelated text is generated once and kept.
    lab.receipts(&run).unwrap();
    bencher.bench_local(|| lab.receipts_of_draws(&run, draws).unwrap());
}
