//! Surprisal: the numbers of transformers' own logits, the same while a text grows, and nothing before the first token.

use std::path::Path;

use candle_core::{DType, Device};
use lmscope::edit::schedule::Schedule;
use lmscope::figure::{Body, Figure, Series};
use lmscope::instruments::{Arguments, Instrument, grow, instrument, observe};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::lab::sample::Sampling;
use lmscope::lab::writer::Writer;
use lmscope::model::load::Options;

use crate::parity::CASES;

fn surprisal() -> &'static dyn Instrument {
    instrument("surprisal").unwrap()
}

fn curves(figure: &Figure) -> &Series {
    let Body::Series(series) = &figure.body else {
        panic!("curves")
    };
    series
}

/// By the position of a token: its `-ln p` and the entropy before it, from logits after some positions, in f64.
fn expected(tokens: &[u32], positions: &[u32], logits: &[Vec<f32>]) -> Vec<(usize, [f64; 2])> {
    let rows = positions.iter().map(|p| *p as usize + 1).zip(logits);
    rows.filter(|(at, _)| *at < tokens.len())
        .map(|(at, row)| {
            let token = tokens[at];
            let row: Vec<f64> = row.iter().map(|z| f64::from(*z)).collect();
            let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total = most + row.iter().map(|z| (z - most).exp()).sum::<f64>().ln();
            let entropy: f64 = row.iter().map(|z| (total - z) * (z - total).exp()).sum();
            (at, [total - row[token as usize], entropy])
        })
        .collect()
}

#[test]
fn it_is_that_of_transformers_logits_in_every_family() {
    let mut compared = 0;
    for case in CASES {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references");
        let folder = folder.join(case);
        let options = Options {
            dtype: Some("f32".into()),
            device: Some("cpu".into()),
            ..Options::default()
        };
        let mut lab = Lab::open(&folder.to_string_lossy(), &options).unwrap();
        let file = folder.join("activations.short.safetensors");
        let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        let ids = |name: &str| {
            let ids = tensors[name].to_dtype(DType::U32).unwrap();
            ids.flatten_all().unwrap().to_vec1().unwrap()
        };
        let (tokens, positions) = (ids("tokens"), ids("positions"));
        let logits = tensors["logits"].to_dtype(DType::F32).unwrap();
        let width = logits.dims().last().copied().unwrap();
        let logits = logits.reshape(((), width)).unwrap().to_vec2().unwrap();
        let expected = expected(&tokens, &positions, &logits);

        let run = Run::plain(tokens);
        let figure = observe(surprisal(), &run, &Arguments::default(), &mut lab).unwrap();
        let series = curves(&figure);
        assert_eq!(series.curves.len(), 2);
        for (i, curve) in series.curves.iter().enumerate() {
            assert_eq!(curve.values.len(), run.tokens.len(), "{case}");
            assert!(curve.values[0].is_nan(), "{case}: nothing stands before");
            for (at, numbers) in &expected {
                let (found, wanted) = (f64::from(curve.values[*at]), numbers[i]);
                let apart = (found - wanted).abs();
                assert!(apart < 2e-4, "{case}, {}: {found} {wanted}", curve.label);
            }
        }
        compared += expected.len();
    }
    assert!(compared > 3 * CASES.len(), "{compared} tokens compared");
}

#[test]
fn a_growing_figure_is_the_whole_one() {
    let mut lab = Lab::open("demo", &Options::default()).unwrap();
    let prompt = lab.model.encode("The capital of France is", false);
    for edits in [vec![], vec!["zero@mlp_out.1".parse().unwrap()]] {
        let schedule = Schedule::always(edits);
        let arguments = Arguments::default();
        let prompt = prompt.as_ref().unwrap().clone();
        let mut writer = Writer::begin(&mut lab, prompt, schedule, Sampling::default()).unwrap();
        let mut grown = observe(surprisal(), &writer.run, &arguments, &mut lab).unwrap();
        for _ in 0..6 {
            let needs = surprisal().needs(&writer.run, &arguments, &lab).unwrap();
            let step = writer.step(&mut lab, &[needs]).unwrap();
            let column = surprisal().column(&step.captures[0], &arguments, &mut lab);
            grow(surprisal(), &mut grown, column.unwrap());
        }
        let whole = observe(surprisal(), &writer.run, &arguments, &mut lab).unwrap();
        assert_eq!(grown.provenance.tokens, whole.provenance.tokens);
        assert_eq!(grown.notes.len(), whole.notes.len());
        let words = |figure: &Figure| figure.notes[0].split(',').next().unwrap().to_owned();
        assert_eq!(words(&grown), words(&whole), "a note about all of the text");
        let (grown, whole) = (curves(&grown), curves(&whole));
        assert_eq!(grown.points, whole.points);
        for (a, b) in grown.curves.iter().zip(&whole.curves) {
            assert!(a.values[0].is_nan() && a.values.len() == b.values.len());
            for (a, b) in a.values[1..].iter().zip(&b.values[1..]) {
                assert!((a - b).abs() < 1e-4, "{a} {b}");
            }
        }
    }
}
