//! The Jacobian lens that is fitted here: against differences on every family, merged, saved and gone on with; and the directions
//! of its tokens.

use candle_core::{DType, Device, Tensor};
use lmscope::edit::Edit;
use lmscope::edit::schedule::Schedule;
use lmscope::file::Overwrite;
use lmscope::instruments::logit_lens::fit::jacobian::JacobianFit;
use lmscope::instruments::logit_lens::fit::saved::{LensOrigin, resume, save};
use lmscope::instruments::logit_lens::fit::tuned::TunedFit;
use lmscope::instruments::logit_lens::lens_file::LensFile;
use lmscope::instruments::logit_lens::token_direction::token_direction;
use lmscope::lab::Lab;
use lmscope::lab::capture::Output;
use lmscope::lab::pass::{Pass, PassRow, Patch};
use lmscope::lab::run::Run;
use lmscope::lab::target::LogitTarget;
use lmscope::model::load::Options;
use lmscope::model::network::site::Site;
use serde_json::Value;

use super::circuits::linear;
use super::demo::demo;
use super::text::references;
use super::tools::{every_family, prompt};

/// The last states at positions `from..end`, summed over them, with `x` in the place of the state after a block at a position.
fn summed(
    lab: &mut Lab,
    tokens: &[u32],
    patch: Option<Patch>,
    from: usize,
    end: usize,
) -> Vec<f64> {
    let last = Site::ResidPost.at(lab.model.card.layers - 1);
    let pass = Pass {
        rows: vec![PassRow::patched(patch.into_iter().collect())],
        record: vec![last],
        from: Some(0),
        ..Pass::of(Run::plain(tokens.to_vec()))
    };
    let read = lab.run_one(&pass).unwrap();
    let rows = read.get(last).unwrap().to_dtype(DType::F64).unwrap();
    let own = rows.narrow(0, from, end - from).unwrap().sum(0).unwrap();
    own.to_vec1().unwrap()
}

#[test]
fn the_lens_is_the_mean_of_differences() {
    let (skipped, tokens) = (2, prompt(7));
    let end = tokens.len() - 1;
    for mut lab in every_family() {
        let (layers, width) = (lab.model.card.layers, lab.model.card.d_model);
        let mut fit = JacobianFit::new(layers, width).unwrap();
        fit.add(&mut lab, &tokens, skipped).unwrap();
        let at = Site::ResidPost.at(0);
        let states = lab.record(&Run::plain(tokens.clone()), &[at]).unwrap();
        let states = states.get(at).unwrap().to_dtype(DType::F32).unwrap();
        let states: Vec<Vec<f32>> = states.to_vec2().unwrap();
        let found = fit.mean(0);
        let step = 1e-2f32;
        for column in [0, width / 2] {
            let mut expected = vec![0f64; width];
            for position in skipped..end {
                let mut side = |step: f32| {
                    let mut x = states[position].clone();
                    x[column] += step;
                    let value = Tensor::new(x, &Device::Cpu).unwrap();
                    let patch = Patch::new(at, position, value);
                    summed(&mut lab, &tokens, Some(patch), skipped, end)
                };
                let (up, down) = (side(step), side(-step));
                for (sum, (up, down)) in expected.iter_mut().zip(up.iter().zip(&down)) {
                    *sum += (up - down) / f64::from(2.0 * step) / (end - skipped) as f64;
                }
            }
            let size = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
            let apart: f64 = (0..width)
                .map(|row| (expected[row] - f64::from(found[row * width + column])).powi(2))
                .sum();
            let name = &lab.model.card.name;
            assert!(size > 0.1, "{name}: {size}");
            assert!(
                apart.sqrt() < 1e-2 * size,
                "{name} {column}: {} of {size}",
                apart.sqrt()
            );
        }
    }
}

/// T64. In a linear model the lens carries any change of a state to what it makes of the last one.
#[test]
fn in_a_linear_model_the_lens_is_exact() {
    let mut lab = linear(false);
    let tokens = prompt(6);
    let position = tokens.len() - 2;
    let (layers, width) = (lab.model.card.layers, lab.model.card.d_model);
    let mut fit = JacobianFit::new(layers, width).unwrap();
    fit.add(&mut lab, &tokens, position).unwrap();
    for block in 0..layers - 1 {
        let at = Site::ResidPost.at(block);
        let states = lab.record(&Run::plain(tokens.clone()), &[at]).unwrap();
        let states: Vec<Vec<f32>> = states.get(at).unwrap().to_vec2().unwrap();
        let change = |i: usize| (((i * 5) % 11) as f32 - 5.0) * 0.1;
        let change: Vec<f32> = (0..width).map(change).collect();
        let x: Vec<f32> = states[position]
            .iter()
            .zip(&change)
            .map(|(x, d)| x + d)
            .collect();
        let patch = Patch::new(at, position, Tensor::new(x, &Device::Cpu).unwrap());
        let after = summed(&mut lab, &tokens, Some(patch), position, position + 1);
        let before = summed(&mut lab, &tokens, None, position, position + 1);
        let map = fit.mean(block);
        for (row, (after, before)) in map.chunks_exact(width).zip(after.iter().zip(&before)) {
            let said: f64 = row.iter().zip(&change).map(|(a, b)| f64::from(a * b)).sum();
            assert!(
                (said - (after - before)).abs() < 1e-4,
                "{said} {}",
                after - before
            );
        }
    }
}

/// What PyTorch's automatic differentiation and its optimiser make of two reference checkpoints (`tests/references/lens_fits.py`).
#[test]
fn pytorch_fits_the_same_lenses() {
    for case in ["gpt2", "llama"] {
        let folder = references().join(case);
        let mut lab = Lab::open(folder.to_str().unwrap(), &Options::default()).unwrap();
        let file = references().join(format!("lens_fits/{case}.json"));
        let said: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let numbers = |of: &Value| -> Vec<f64> { serde_json::from_value(of.clone()).unwrap() };
        let prompts: Vec<Vec<u32>> = serde_json::from_value(said["prompts"].clone()).unwrap();
        let skipped = said["skipped"].as_u64().unwrap() as usize;
        let close = |found: &[f32], expected: &[f64], what: &str| {
            assert_eq!(found.len(), expected.len(), "{case} {what}");
            let most = expected.iter().fold(0f64, |most, x| most.max(x.abs()));
            for (found, expected) in found.iter().zip(expected) {
                let apart = (f64::from(*found) - expected).abs();
                assert!(apart < 1e-4 * most, "{case} {what}: {found} {expected}");
            }
        };
        let (layers, width) = (lab.model.card.layers, lab.model.card.d_model);
        let mut fit = JacobianFit::new(layers, width).unwrap();
        for tokens in &prompts {
            fit.add(&mut lab, tokens, skipped).unwrap();
        }
        for block in 0..fit.blocks() {
            close(
                &fit.mean(block),
                &numbers(&said["jacobian"][block]),
                "jacobian",
            );
        }

        let losses = numbers(&said["losses"]);
        let mut fit = TunedFit::new(&lab, losses.len()).unwrap();
        for loss in losses {
            fit.train(&mut lab, &prompts).unwrap();
            let found = fit.losses.last().unwrap();
            assert!((found - loss).abs() < 1e-4 * loss, "{case}: {found} {loss}");
        }
        for block in 0..layers {
            let (weight, bias) = fit.map(block).unwrap();
            let rows = weight.chunks_exact(width).step_by(7).flatten();
            let rows: Vec<f32> = rows.copied().collect();
            close(&rows, &numbers(&said["tuned"][block]["rows"]), "rows");
            close(&bias, &numbers(&said["tuned"][block]["bias"]), "bias");
        }
    }
}

/// T62, T63. What is fitted reads better than the plain lens after every block, on text that it has not seen.
#[test]
fn a_tuned_lens_reads_better_than_the_plain_one() {
    let mut lab = every_family().next().unwrap();
    let texts = |range: std::ops::Range<usize>| -> Vec<Vec<u32>> {
        let text = |i: usize| {
            prompt(40)
                .into_iter()
                .map(|t| (t * 7 + i as u32 * 13) % 50)
                .collect()
        };
        range.map(text).collect()
    };
    let mut fit = TunedFit::new(&lab, 40).unwrap();
    let held_out = texts(50..54);
    for (plain, own) in fit.held_out(&mut lab, &held_out).unwrap() {
        assert!(
            (plain - own).abs() < 1e-6,
            "maps of zeros are the plain lens"
        );
    }
    for step in 0..40 {
        fit.train(&mut lab, &texts(step..step + 4)).unwrap();
    }
    let means: Vec<f64> = fit.losses.chunks(10).map(|own| own.iter().sum()).collect();
    assert!(means.windows(2).all(|pair| pair[1] < pair[0]), "{means:?}");
    for (block, (plain, own)) in fit
        .held_out(&mut lab, &held_out)
        .unwrap()
        .into_iter()
        .enumerate()
    {
        assert!(own < 0.95 * plain, "block {block}: {plain} {own}");
    }
}

#[test]
fn fits_of_parts_merge_into_the_fit_of_all_and_go_on_from_their_file() {
    let mut lab = every_family().next().unwrap();
    let (layers, width) = (lab.model.card.layers, lab.model.card.d_model);
    let prompts = [
        prompt(12),
        prompt(13)[1..].to_vec(),
        prompt(14)[2..].to_vec(),
    ];
    let mut fit = |some: &[Vec<u32>]| {
        let mut fit = JacobianFit::new(layers, width).unwrap();
        some.iter().for_each(|p| fit.add(&mut lab, p, 3).unwrap());
        fit
    };
    let whole = fit(&prompts);
    let (mut first, last) = (fit(&prompts[..2]), fit(&prompts[2..]));
    let (mut small, large) = (fit(&prompts[..1]), fit(&prompts[1..]));
    let close = |a: &JacobianFit, b: &JacobianFit| {
        assert_eq!(a.prompts, b.prompts);
        for block in 0..a.blocks() {
            let (a, b) = (a.mean(block), b.mean(block));
            let most = a.iter().fold(0f32, |m, x| m.max(x.abs()));
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 2e-6 * most));
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lens.pt");
    let origin = LensOrigin {
        model: "tiny".into(),
        revision: lab.model.card.revision.clone(),
        text: "text.txt".into(),
        tokens: "3".into(),
        length: 12,
        skipped: 3,
    };
    save(&first, &origin, &path, Overwrite::Never).unwrap();
    assert!(
        save(&first, &origin, &path, Overwrite::Never).is_err(),
        "nothing is overwritten"
    );
    let mut later = resume(&path, &origin, &lab.model.card).unwrap();
    assert_eq!(later.prompts, 2);
    later.add(&mut lab, &prompts[2], 3).unwrap();
    close(&whole, &later);
    first.merge(&last);
    close(&whole, &first);
    small.merge(&large);
    close(&whole, &small);
    assert_eq!(whole.changes.len(), 3);
    assert!(whole.changes[2] < whole.changes[0], "{:?}", whole.changes);

    let other = LensOrigin {
        tokens: "4".into(),
        ..origin
    };
    let error = resume(&path, &other, &lab.model.card).unwrap_err();
    assert!(error.to_string().contains("tokens is 3"), "{error}");
}

/// A lens that is fitted on the demo in a moment.
fn fitted(lab: &mut Lab, folder: &std::path::Path) -> LensFile {
    let text = "The capital of France is Paris. The capital of Japan is Tokyo. The language of Italy is Italian.";
    let tokens = lab.model.encode(text, false).unwrap();
    let mut fit = JacobianFit::new(lab.model.card.layers, lab.model.card.d_model).unwrap();
    fit.add(lab, &tokens, 2).unwrap();
    let origin = LensOrigin {
        model: "demo".into(),
        revision: lab.model.card.revision.clone(),
        text: String::new(),
        tokens: String::new(),
        length: tokens.len(),
        skipped: 2,
    };
    let path = folder.join("lens.pt");
    save(&fit, &origin, &path, Overwrite::Never).unwrap();
    LensFile::open(path.to_str().unwrap(), &lab.model).unwrap()
}

#[test]
fn a_token_s_direction_is_what_its_logit_reads() {
    let mut lab = demo();
    let folder = tempfile::tempdir().unwrap();
    let lens = fitted(&mut lab, folder.path());
    let target = LogitTarget::parse("token", " Rome", &lab.model).unwrap();
    let two = LogitTarget::parse("token", "\" Rome\" - \" Paris\"", &lab.model).unwrap();
    let direction = token_direction(&lab, &lens, two).unwrap();
    assert_eq!(direction.rows.len(), lab.model.card.layers - 1);
    // The difference of two logits through the lens, times the scale of the final norm, is the product with the direction.
    let run = Run::plain(lab.model.encode("The capital of France is", false).unwrap());
    let at = Site::ResidPost.at(2);
    let state = lab.record(&run, &[at]).unwrap();
    let state = state.get(at).unwrap().to_dtype(DType::F32).unwrap();
    let last = state.get(state.dim(0).unwrap() - 1).unwrap();
    let mapped = lens.apply(at, &last.unsqueeze(0).unwrap()).unwrap();
    let transformer = &lab.model.transformer;
    let scale = transformer.norm.inverse_scale(&mapped).unwrap();
    let scale: f32 = scale.flatten_all().unwrap().to_vec1().unwrap()[0];
    let normed = transformer.norm.forward(&mapped, false).unwrap();
    let logits = transformer.direct_logits(&normed).unwrap();
    let logits: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
    let x: Vec<f32> = last.to_vec1().unwrap();
    let v = direction.at(at).unwrap();
    let along: f32 = x.iter().zip(v).map(|(x, v)| x * v).sum();
    let (found, expected) = (along * scale, two.of(&logits));
    assert!((found - expected).abs() < 2e-2, "{found} {expected}");

    // Steering along the one token's direction makes it likelier, more than a random direction of that length does.
    let direction = token_direction(&lab, &lens, target).unwrap();
    lab.directions.insert("rome".into(), direction);
    let edit: Edit = "add_unit_norm:rome@resid_post.4:last*0.5".parse().unwrap();
    let mut probability = |random: Option<u64>, edits: Vec<Edit>| {
        let schedule = Schedule {
            random,
            ..Schedule::always(edits)
        };
        let run = run.clone().under(&schedule);
        let pass = Pass::after(run, Output::tokens(&[target.token]));
        lab.run_one(&pass).unwrap().output[0]
            .token(target.token)
            .logprob
    };
    let plain = probability(None, Vec::new());
    let steered = probability(None, vec![edit.clone()]);
    let controls = (1..6).map(|seed| probability(Some(seed), vec![edit.clone()]));
    let most = controls.fold(f32::MIN, f32::max);
    assert!(
        steered > plain + 1.0 && steered > most + 1.0,
        "{plain} {steered} {most}"
    );
}
