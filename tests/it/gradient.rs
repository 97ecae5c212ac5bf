//! Gradients: of every family against finite differences, against one graph over the whole pass, and against what PyTorch's
//! automatic differentiation says of two reference checkpoints (`tests/references/gradients.py`).
//!
//! The plain implementations run in f64 as well, where differences are exact to seven digits; the kernels are held against the plain
//! graph. As it runs, the forward pass computes in f32 whatever the weights: a logit carries an error of about 1e-6, which a step of 0.01 turns into 1e-4 of a
//! derivative. Directional derivatives, extrapolated from several steps, come to within 1e-3 of a gradient's length (5e-6 as a
//! rule) and are held to 2e-3; the exact comparisons are those with another graph (1e-5) and with PyTorch (1e-4, where its own
//! f32 is within 1e-6 of f64).

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use candle_core::quantized::GgmlDType;
use candle_core::{D, DType, Device, Tensor, Var};
use lmscope::edit::direction::{Direction, DirectionOrigin};
use lmscope::error::{Error, Result};
use lmscope::lab::Lab;
use lmscope::lab::capture::{After, Output};
use lmscope::lab::gradient::{Gradient, GradientRequest, Scalar};
use lmscope::lab::pass::{Knockout, Pass, PassRow, Patch};
use lmscope::lab::run::Run;
use lmscope::lab::target::LogitTarget;
use lmscope::model::load::{Options, load};
use lmscope::model::network::linear::{Linear, Precision};
use lmscope::model::network::mlp::{DenseMlp, Mlp};
use lmscope::model::network::quantized::Blocks;
use lmscope::model::network::rope::RopeTable;
use lmscope::model::network::site::{Address, Axis, SITES, Site};
use lmscope::model::network::tap::{PassSpan, Tap};
use lmscope::model::network::transformer::Transformer;

use super::tools::{edited, every_family, prompt, values};

/// Numbers between -1 and 1 that are nobody's state.
fn noise(seed: u64, count: usize) -> Vec<f32> {
    let number = |i: usize| {
        let mixed = (seed + 1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add((i as u64 + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9));
        let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 2.0
    };
    (0..count).map(number).collect()
}

fn length(v: &[f32]) -> f64 {
    v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

/// How far two lists are from each other, of the length of the second.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().all(|x| x.is_finite()), "a gradient is a number");
    let between: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    length(&between) / length(b).max(1e-12)
}

fn logit(token: u32) -> Scalar {
    Scalar::Logit(LogitTarget::one(token))
}

fn request(of: Scalar, after: usize, at: &[Address], positions: &[usize]) -> GradientRequest {
    GradientRequest {
        each: Vec::new(),
        of,
        after,
        from: None,
        at: at.to_vec(),
        positions: positions.to_vec(),
    }
}

fn asking(run: &Run, request: GradientRequest) -> Pass {
    Pass {
        gradient: Some(request),
        ..Pass::of(run.clone())
    }
}

fn gradient(lab: &mut Lab, run: &Run, request: GradientRequest) -> Gradient {
    let row = lab.run_one(&asking(run, request)).unwrap();
    row.gradient.unwrap()
}

/// Every address that the model has.
fn addresses(lab: &Lab) -> Vec<Address> {
    let layers = lab.model.card.layers;
    let all = SITES.iter().flat_map(|s| {
        let count = if s.layered { layers } else { 1 };
        (0..count).map(|l| s.site.at(l))
    });
    all.filter(|at| lab.model.offers(*at).is_ok()).collect()
}

/// One graph over the whole pass, with a variable of zeros at every site.
#[derive(Default)]
struct OneGraph {
    wanted: Vec<Address>,
    leaves: HashMap<Address, Var>,
}

impl Tap for OneGraph {
    fn visit(&mut self, at: Address, x: Tensor) -> Result<Tensor> {
        if !self.wanted.contains(&at) {
            return Ok(x);
        }
        let leaf = Var::zeros(x.shape(), x.dtype(), x.device())?;
        let x = (x + leaf.as_tensor())?;
        self.leaves.insert(at, leaf);
        Ok(x)
    }
    fn differentiable(&self) -> bool {
        true
    }
}

/// Gradients of a token's log-probability after the last position, of one graph: by address, all positions.
fn of_one_graph(
    lab: &Lab,
    tokens: &[u32],
    token: u32,
    wanted: &[Address],
) -> HashMap<Address, Tensor> {
    let transformer = &lab.model.transformer;
    let mut tap = OneGraph {
        wanted: wanted.to_vec(),
        ..OneGraph::default()
    };
    let ids = lab.model.tokens(tokens).unwrap();
    let span = PassSpan::prompt(tokens.len());
    let x = transformer.trunk(&ids, span, None, &mut tap).unwrap();
    let logits = transformer.read_out(&x, &mut tap).unwrap();
    let last = logits.get(0).unwrap().get(tokens.len() - 1).unwrap();
    let total = last.exp().unwrap().sum_all().unwrap().log().unwrap();
    let own = last.get(token as usize).unwrap();
    let gradients = (own - total).unwrap().backward().unwrap();
    let of = |(at, leaf): (Address, Var)| {
        let own = gradients.get(&leaf).cloned();
        let own = own.unwrap_or_else(|| leaf.zeros_like().unwrap());
        (at, own.get(0).unwrap())
    };
    tap.leaves.into_iter().map(of).collect()
}

/// Some positions of a value of one text.
fn at_positions(at: Address, whole: &Tensor, positions: &[usize]) -> Vec<f32> {
    let axis = usize::from(at.site.spec().axis == Axis::Positions);
    let rows: Vec<Tensor> = positions
        .iter()
        .map(|p| whole.narrow(axis, *p, 1).unwrap())
        .collect();
    values(&Tensor::cat(&rows, axis).unwrap())
}

#[test]
fn blocks_one_by_one_are_one_graph_at_every_site_of_every_family() {
    let tokens = prompt(40);
    for mut lab in every_family() {
        let all = addresses(&lab);
        let whole = of_one_graph(&lab, &tokens, 5, &all);
        let run = Run::plain(tokens.clone());
        // From the first position, and from a late one with what lies before in a cache.
        for positions in [vec![0, 7, 39], vec![39, 31, 33]] {
            let asked = request(Scalar::LogProbability(5), 39, &all, &positions);
            let own = gradient(&mut lab, &run, asked);
            for at in &all {
                let name = &lab.model.card.name;
                let expected = at_positions(*at, &whole[at], &positions);
                let found = values(own.get(*at).unwrap());
                let size = length(&expected);
                assert!(
                    apart(&found, &expected) < 1e-5 || length(&found) + size < 1e-9,
                    "{name} {at}: {:.1e} of {size:.1e}",
                    apart(&found, &expected)
                );
            }
        }
    }
}

/// A model in f64, by the plain implementations: what its graph says can be held against differences to many digits.
fn in_f64(of: &Transformer) -> Transformer {
    let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
    let linear = |l: &mut Linear| {
        *l = Linear::dense(wide(&l.weight().unwrap()), l.bias.as_ref().map(wide)).unwrap();
    };
    let dense = |mlp: &mut DenseMlp| {
        mlp.gate.iter_mut().for_each(linear);
        linear(&mut mlp.up);
        linear(&mut mlp.down);
    };
    let mut own = of.clone();
    own.precision = Precision::Dense(DType::F64);
    own.positions = own.positions.as_ref().map(wide);
    own.project_in.iter_mut().for_each(linear);
    own.project_out.iter_mut().for_each(linear);
    linear(&mut own.embed);
    linear(&mut own.head);
    for rope in own.ropes.iter_mut().flatten() {
        *rope = RopeTable::new(&rope.rope, own.context, DType::F64, &Device::Cpu).unwrap();
    }
    for block in &mut own.blocks {
        let attention = &mut block.attention;
        for own in [
            &mut attention.q,
            &mut attention.k,
            &mut attention.v,
            &mut attention.out,
        ] {
            linear(own);
        }
        match &mut block.mlp {
            Mlp::Dense(mlp) => dense(mlp),
            Mlp::Experts(mixture) => {
                linear(&mut mixture.router);
                mixture.experts.iter_mut().for_each(dense);
            }
        }
    }
    own
}

/// Adds a tensor to the value at an address.
struct Added {
    at: Address,
    by: Tensor,
}

impl Tap for Added {
    fn visit(&mut self, at: Address, x: Tensor) -> Result<Tensor> {
        if at != self.at {
            return Ok(x);
        }
        // An expert that was not chosen stays out: its weight remains zero.
        let by = match at.site {
            Site::Router => (&self.by * x.ne(0f64)?.to_dtype(x.dtype())?)?,
            _ => self.by.clone(),
        };
        Ok((x + by)?)
    }
    fn differentiable(&self) -> bool {
        true
    }
}

/// The log-probability of a token after a text, f64.
fn logprob_of(transformer: &Transformer, ids: &Tensor, token: u32, tap: &mut dyn Tap) -> Tensor {
    let count = ids.dim(1).unwrap();
    let x = transformer
        .trunk(ids, PassSpan::prompt(count), None, tap)
        .unwrap();
    let logits = transformer.read_out(&x, tap).unwrap();
    let last = logits.get(0).unwrap().get(count - 1).unwrap();
    assert_eq!(last.dtype(), DType::F64);
    let total = last.exp().unwrap().sum_all().unwrap().log().unwrap();
    (last.get(token as usize).unwrap() - total).unwrap()
}

/// Automatic differentiation of the plain implementations, at every site of every family, along noise: central differences of two
/// steps, extrapolated, say the same to seven digits.
#[test]
fn the_plain_graph_in_f64_is_what_differences_say() {
    for lab in every_family() {
        let transformer = in_f64(&lab.model.transformer);
        let ids = lab.model.tokens(&prompt(9)[2..]).unwrap();
        let all = addresses(&lab);
        let mut graph = OneGraph {
            wanted: all.clone(),
            ..OneGraph::default()
        };
        let gradients = logprob_of(&transformer, &ids, 5, &mut graph);
        let gradients = gradients.backward().unwrap();
        // A step must be too small for a token to be sent to another expert.
        let mixed = transformer.blueprint.experts.is_some();
        let step = if mixed { 2e-6 } else { 2e-5 };
        for at in &all {
            let leaf = &graph.leaves[at];
            let name = &lab.model.card.name;
            let noise = noise(7, leaf.elem_count())
                .into_iter()
                .map(f64::from)
                .collect();
            let along = Tensor::from_vec(noise, leaf.shape(), &Device::Cpu).unwrap();
            let differ = |step: f64| {
                let side = |step: f64| {
                    let by = (&along * step).unwrap();
                    let mut tap = Added { at: *at, by };
                    let own = logprob_of(&transformer, &ids, 5, &mut tap);
                    own.to_scalar::<f64>().unwrap()
                };
                (side(step) - side(-step)) / (2.0 * step)
            };
            let (wide, narrow) = (differ(2.0 * step), differ(step));
            let measured = narrow + (narrow - wide) / 3.0;
            let said = match gradients.get(leaf) {
                Some(own) => (own * &along).unwrap().sum_all().unwrap(),
                None => Tensor::new(0f64, &Device::Cpu).unwrap(),
            };
            let said = said.to_scalar::<f64>().unwrap();
            let size = said.abs().max(10.0 * 1e-7 / step);
            assert!(
                (said - measured).abs() < 1e-7 * size,
                "{name} {at}: {said} {measured}"
            );
        }
    }
}

/// The log-probability of a token after the last position of a run with values put in; in f64 from the logits on.
fn measured(lab: &mut Lab, run: &Run, token: u32, rows: Vec<Vec<Patch>>) -> Vec<f64> {
    let pass = Pass {
        rows: rows.into_iter().map(PassRow::patched).collect(),
        ..Pass::after(run.clone(), Output::whole(After::Last(1)))
    };
    let rows = lab.run(&pass).unwrap();
    let each = rows.iter().map(|row| {
        let logits: Vec<f64> = row.logits().iter().map(|z| f64::from(*z)).collect();
        let most = logits.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = logits.iter().map(|z| (z - most).exp()).sum();
        logits[token as usize] - most - sum.ln()
    });
    each.collect()
}

/// The derivative along a direction at an address and positions: central differences with steps that are halved, each two
/// extrapolated to no step (Richardson), and of these the ones that agree best with their neighbours (after Ridders 1982). Large
/// steps meet curvature and kinks, small ones the rounding of the logits.
fn by_differences(
    lab: &mut Lab,
    run: &Run,
    token: u32,
    at: Address,
    around: &[(usize, Vec<f32>)],
    way: &[Vec<f32>],
) -> f64 {
    let moved = |factor: f64| -> Vec<Patch> {
        let places = around.iter().zip(way);
        let patch = places.map(|((position, value), way)| {
            let numbers = value.iter().zip(way);
            let numbers: Vec<f32> = numbers
                .map(|(x, d)| (f64::from(*x) + factor * f64::from(*d)) as f32)
                .collect();
            let value = Tensor::new(numbers.as_slice(), &Device::Cpu).unwrap();
            Patch::new(at, *position, value)
        });
        patch.collect()
    };
    let all: Vec<f32> = around.iter().flat_map(|(_, v)| v.iter().copied()).collect();
    let reach = length(&all);
    let steps: Vec<f64> = (0..10).map(|i| 0.16 * reach / f64::from(1 << i)).collect();
    let sides = steps.iter().flat_map(|step| [moved(*step), moved(-step)]);
    let told = measured(lab, run, token, sides.collect());
    let slopes: Vec<f64> = told
        .chunks(2)
        .zip(&steps)
        .map(|(pair, step)| (pair[0] - pair[1]) / (2.0 * step))
        .collect();
    let limits: Vec<f64> = slopes
        .windows(2)
        .map(|d| (4.0 * d[1] - d[0]) / 3.0)
        .collect();
    let spread = |of: &&[f64]| {
        let most = of.iter().copied().fold(f64::MIN, f64::max);
        most - of.iter().copied().fold(f64::MAX, f64::min)
    };
    let best = limits
        .windows(3)
        .min_by(|a, b| spread(a).total_cmp(&spread(b)));
    best.map(|three| three[1]).unwrap()
}

/// Where differences are taken: values of every axis but attention's.
fn differed(lab: &Lab) -> Vec<Address> {
    let sites = [
        Site::Embed,
        Site::AttnIn,
        Site::Q,
        Site::K,
        Site::V,
        Site::Z,
        Site::AttnAdd,
        Site::MlpAct,
        Site::MlpOut,
        Site::ResidPost,
    ];
    let all = sites.map(|site| site.at(0));
    all.into_iter()
        .filter(|at| lab.model.offers(*at).is_ok())
        .collect()
}

/// Holds the gradient of a run at some addresses against differences along itself and along noise.
fn hold_against_differences(lab: &mut Lab, run: &Run, within: f64) {
    let (token, last) = (5, run.tokens.len() - 1);
    let positions = [2, last - 1];
    for at in differed(lab) {
        let asked = request(Scalar::LogProbability(token), last, &[at], &positions);
        let pass = Pass {
            record: vec![at],
            ..asking(run, asked)
        };
        let row = lab.run_one(&pass).unwrap();
        let first = row.positions.start;
        let value = row.get(at).unwrap();
        let around: Vec<(usize, Vec<f32>)> = positions
            .iter()
            .map(|p| (*p, values(&value.get(p - first).unwrap())))
            .collect();
        let whole = row.gradient.unwrap();
        let whole = whole.get(at).unwrap();
        let rows = [0, 1].map(|i| values(&whole.get(i).unwrap()));
        let size = length(&rows.concat());
        let width = rows[0].len();
        let unit = |way: [Vec<f32>; 2]| {
            let size = length(&way.concat());
            way.map(|row| row.iter().map(|x| (f64::from(*x) / size) as f32).collect())
        };
        for (what, way) in [
            ("itself", unit(rows.clone())),
            ("noise", unit([noise(1, width), noise(2, width)])),
        ] {
            let way: [Vec<f32>; 2] = way;
            let exact: f64 = rows
                .concat()
                .iter()
                .zip(way.concat())
                .map(|(g, d)| f64::from(*g) * f64::from(d))
                .sum();
            let numeric = by_differences(lab, run, token, at, &around, &way);
            assert!(
                (numeric - exact).abs() < within * size,
                "{} {at} along {what}: {numeric:.6} {exact:.6} of {size:.6}, edits {:?}",
                lab.model.card.name,
                run.schedule.lines()
            );
        }
    }
}

#[test]
fn every_family_agrees_with_finite_differences() {
    for mut lab in every_family() {
        hold_against_differences(&mut lab, &Run::plain(prompt(9)), 2e-3);
    }
}

/// A direction called `d` for block 1.
fn with_direction(lab: &mut Lab) -> Vec<f32> {
    let vector = noise(3, lab.model.card.d_model);
    let direction = Direction {
        rows: vec![(Site::ResidPre.at(1), vector.clone())],
        origin: DirectionOrigin::default(),
    };
    lab.directions.insert("d".into(), direction);
    vector
}

#[test]
fn edits_act_as_in_any_pass() {
    for mut lab in every_family() {
        let vector = with_direction(&mut lab);
        let neurons = lab.model.card.neuron_layers.contains(&1);
        let mut edits = vec![
            "add:d@resid_pre.1*0.7",
            "project_out:d@resid_pre.1",
            "add_renorm:d@resid_pre.1*0.5",
            "clamp_along:d=-0.1..0.1@resid_pre.1",
            "zero@attn_out.1:7",
            "cut:0=2@attn_scores.1",
        ];
        if neurons {
            edits.push("zero:1,2@mlp_act.1");
            edits.push("scale:0,3@mlp_act.1*0.25");
        }
        // Where activations or queries are clipped, steps meet corners.
        let blueprint = &lab.model.transformer.blueprint;
        let corners = blueprint.family == "opt" || blueprint.clip_qkv.is_some();
        let within = if corners { 3e-2 } else { 2e-3 };
        for edit in edits {
            hold_against_differences(&mut lab, &edited(prompt(9), &[edit]), within);
        }
        // What is taken out cannot matter where it is taken out.
        let run = edited(prompt(9), &["project_out:d@resid_post.0"]);
        let at = Site::MlpAdd.at(0);
        if lab.model.transformer.blocks[0].norms_mlp.stream.is_none() {
            let own = gradient(&mut lab, &run, request(logit(5), 8, &[at], &[3, 8]));
            for row in [0, 1] {
                let row = values(&own.get(at).unwrap().get(row).unwrap());
                let along: f64 = row.iter().zip(&vector).map(|(g, d)| f64::from(g * d)).sum();
                assert!(
                    along.abs() < 1e-5 * length(&row) * length(&vector),
                    "{along}"
                );
            }
        }
    }
}

#[test]
fn a_zeroed_neuron_has_no_gradient_before_and_one_behind() {
    let mut lab = super::tools::dense_families().next().unwrap();
    let run = edited(prompt(9), &["zero:1@mlp_act.0"]);
    let (before, behind) = (Site::MlpUp.at(0), Site::MlpAct.at(0));
    let own = gradient(
        &mut lab,
        &run,
        request(logit(5), 8, &[before, behind], &[8]),
    );
    assert_eq!(values(own.get(before).unwrap())[1], 0.0);
    assert_ne!(values(own.get(before).unwrap())[0], 0.0);
    assert_ne!(
        values(own.get(behind).unwrap())[1],
        0.0,
        "what flows on still matters"
    );
}

#[test]
fn rows_with_patches_and_knockouts_have_gradients_of_their_own() {
    for mut lab in every_family() {
        let run = Run::plain(prompt(9));
        let width = lab.model.card.d_model;
        let at = [Site::Embed.at(0), Site::V.at(1), Site::MlpOut.at(0)];
        let value = Tensor::new(noise(4, width).as_slice(), &Device::Cpu).unwrap();
        let cut = Knockout {
            layers: 0..lab.model.card.layers,
            heads: Vec::new(),
            sources: vec![4],
            targets: (5..9).collect(),
            control: None,
        };
        let rows = [
            PassRow::default(),
            PassRow::patched(vec![Patch::new(Site::ResidPost.at(0), 4, value.clone())]),
            PassRow {
                knockout: Some(cut),
                ..PassRow::default()
            },
            PassRow {
                tokens: prompt(11)[2..].to_vec(),
                ..PassRow::default()
            },
        ];
        let asked = request(logit(3), 8, &at, &[4, 6]);
        let pass = Pass {
            rows: rows[..3].to_vec(),
            ..asking(&run, asked.clone())
        };
        let together = lab.run(&pass).unwrap();
        let alone = |lab: &mut Lab, row: &PassRow| {
            let pass = Pass {
                rows: vec![row.clone()],
                ..asking(&run, asked.clone())
            };
            lab.run_one(&pass).unwrap().gradient.unwrap()
        };
        for (row, own) in rows.iter().zip(&together) {
            let expected = alone(&mut lab, row);
            let own = own.gradient.as_ref().unwrap();
            assert!((own.scalar - expected.scalar).abs() < 1e-5);
            for at in at {
                let (own, expected) = (own.get(at).unwrap(), expected.get(at).unwrap());
                assert!(apart(&values(own), &values(expected)) < 1e-5, "{at}");
            }
        }
        let row = |i: usize, at: Address| {
            let own = together[i].gradient.as_ref().unwrap();
            length(&values(&own.get(at).unwrap().get(0).unwrap()))
        };
        let (mlp, v) = (Site::MlpOut.at(0), Site::V.at(1));
        assert_eq!(row(1, mlp), 0.0, "nothing passes a value that was put in");
        assert_eq!(row(2, v), 0.0, "nobody reads position 4");
        assert!(row(0, mlp) > 0.0 && row(0, v) > 0.0);
        // A text of its own is a run of its own.
        let other = alone(&mut lab, &rows[3]);
        let expected = gradient(
            &mut lab,
            &Run::plain(prompt(11)[2..].to_vec()),
            asked.clone(),
        );
        assert_eq!(other.scalar, expected.scalar);
    }
}

#[test]
fn a_vector_jacobian_product_is_the_gradient_of_what_it_stands_for() {
    for mut lab in every_family() {
        let (run, last) = (Run::plain(prompt(12)), 11);
        let layers = lab.model.card.layers;
        let at = [Site::Embed.at(0), Site::Z.at(0), Site::ResidPost.at(0)];
        let end = Site::ResidPost.at(layers - 1);
        let with_end = [&at[..], &[end, Site::Logits.at(0)]].concat();
        let whole = gradient(
            &mut lab,
            &run,
            request(logit(5), last, &with_end, &[1, last]),
        );
        // The logit as an inner product with the logits.
        let mut one = vec![0f32; lab.model.card.vocab];
        one[5] = 1.0;
        let of = Scalar::Along {
            at: Site::Logits.at(0),
            vector: Tensor::new(one, &Device::Cpu).unwrap(),
        };
        let through_logits = gradient(&mut lab, &run, request(of, last, &at, &[1, last]));
        assert!((through_logits.scalar - whole.scalar).abs() < 1e-5);
        // The chain rule: along its own gradient at the end of the stream.
        let of = Scalar::Along {
            at: end,
            vector: whole.get(end).unwrap().get(1).unwrap(),
        };
        let through_stream = gradient(&mut lab, &run, request(of, last, &with_end, &[1, last]));
        for at in at {
            let expected = values(whole.get(at).unwrap());
            for product in [&through_logits, &through_stream] {
                let found = values(product.get(at).unwrap());
                assert!(
                    apart(&found, &expected) < 1e-5,
                    "{} {at}",
                    lab.model.card.name
                );
            }
        }
        let own = through_stream.get(end).unwrap().get(1).unwrap();
        let given = whole.get(end).unwrap().get(1).unwrap();
        assert_eq!(
            values(&own),
            values(&given),
            "of the value itself it is the vector"
        );
        let behind = values(through_stream.get(Site::Logits.at(0)).unwrap());
        assert_eq!(length(&behind), 0.0, "what comes later does not matter");
    }
}

#[test]
fn scalars_are_what_the_model_says_and_their_gradients_sum_as_they_do() {
    for mut lab in every_family() {
        let (run, last) = (Run::plain(prompt(12)), 11);
        let logits = lab.last_logits(&run).unwrap();
        let at = Site::Logits.at(0);
        let mut of =
            |scalar: Scalar| gradient(&mut lab, &run, request(scalar, last, &[at], &[last]));
        let mut own: Vec<f32> = logits.clone();
        lmscope::lab::sample::log_softmax(&mut own);
        let logprob = of(Scalar::LogProbability(5));
        assert!((logprob.scalar - own[5]).abs() < 1e-5);
        let difference = of(Scalar::Logit(LogitTarget {
            token: 5,
            minus: Some(9),
        }));
        assert!((difference.scalar - (logits[5] - logits[9])).abs() < 1e-5);
        let row = values(difference.get(at).unwrap());
        assert_eq!(
            (row[5], row[9], length(&row) as f32),
            (1.0, -1.0, 2f32.sqrt())
        );
        // The gradient of a log-probability is what is missing to certainty.
        let row = values(logprob.get(at).unwrap());
        for (id, found) in row.iter().enumerate() {
            let expected = f32::from(u8::from(id == 5)) - own[id].exp();
            assert!((found - expected).abs() < 1e-6);
        }
        // From its own distribution there is no KL, and no way down.
        let same = of(Scalar::Kl(Arc::new(own.clone())));
        assert!(same.scalar.abs() < 1e-5, "{}", same.scalar);
        assert!(length(&values(same.get(at).unwrap())) < 1e-5);
        let mut certain = vec![f32::NEG_INFINITY; own.len()];
        certain[5] = 0.0;
        let surprise = of(Scalar::Kl(Arc::new(certain)));
        assert!((surprise.scalar + logprob.scalar).abs() < 1e-5);
        let negative: Vec<f32> = row.iter().map(|g| -g).collect();
        assert!(apart(&values(surprise.get(at).unwrap()), &negative) < 1e-5);
    }
}

fn folder(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/references")
        .join(name)
        .to_string_lossy()
        .into_owned()
}

pub fn opened(name: &str, dtype: Option<&str>) -> Lab {
    let options = Options {
        dtype: dtype.map(ToString::to_string),
        device: Some("cpu".into()),
        ..Options::default()
    };
    Lab::new(load(&folder(name), &options).unwrap())
}

#[test]
fn pytorch_says_the_same_of_reference_checkpoints() {
    for case in ["gemma2", "qwen3_moe"] {
        let mut lab = opened(case, Some("f32"));
        let read = |file: &str| candle_core::safetensors::load(folder(file), &Device::Cpu).unwrap();
        let expected = read(&format!("gradients/{case}.safetensors"));
        let ids = |t: &Tensor| t.to_dtype(DType::U32).unwrap().to_vec1::<u32>().unwrap();
        let tokens = ids(&read(&format!("{case}/activations.safetensors"))["tokens"]);
        let positions: Vec<usize> = ids(&expected["positions"])
            .iter()
            .map(|p| *p as usize)
            .collect();
        let after = ids(&expected["after"])[0] as usize;
        let scalars = [
            (
                "logits",
                Scalar::Logit(LogitTarget {
                    token: 3,
                    minus: Some(7),
                }),
            ),
            ("logprob", Scalar::LogProbability(5)),
            ("kl", Scalar::Kl(Arc::new(values(&expected["given"])))),
            (
                "along",
                Scalar::Along {
                    at: Site::Z.at(1),
                    vector: expected["vector"].clone(),
                },
            ),
        ];
        let mut compared = 0;
        for (name, of) in scalars {
            let prefix = format!("{name}.");
            let named = expected.keys().filter_map(|key| key.strip_prefix(&prefix));
            let at: Vec<Address> = named.map(|at| at.parse().unwrap()).collect();
            let run = Run::plain(tokens.clone());
            let own = gradient(&mut lab, &run, request(of, after, &at, &positions));
            let scalar = values(&expected[name])[0];
            assert!(
                (own.scalar - scalar).abs() < 1e-4,
                "{case} {name}: {} {scalar}",
                own.scalar
            );
            for at in &at {
                let theirs = values(&expected[&format!("{name}.{at}")]);
                let ours = values(own.get(*at).unwrap());
                let off = apart(&ours, &theirs);
                assert!(
                    off < 1e-4 || length(&ours) + length(&theirs) == 0.0,
                    "{case} {name} {at}: {off:.1e}"
                );
                compared += 1;
            }
        }
        assert!(compared >= 28, "{compared}");
    }
}

#[test]
fn the_backward_of_every_way_of_keeping_weights_is_the_plain_one() {
    let kinds = [
        GgmlDType::Q4_0,
        GgmlDType::Q4_1,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::Q8_0,
        GgmlDType::Q2K,
        GgmlDType::Q3K,
        GgmlDType::Q4K,
        GgmlDType::Q5K,
        GgmlDType::Q6K,
    ];
    let (out, input, rows) = (37, 256, 5);
    let tensor = |seed, shape: (usize, usize)| {
        Tensor::from_vec(noise(seed, shape.0 * shape.1), shape, &Device::Cpu).unwrap()
    };
    let weight = tensor(5, (out, input));
    let blocks = kinds.map(|kind| Linear::blocks(Blocks::quantize(&weight, kind).unwrap(), None));
    let narrow = [DType::F32, DType::F16, DType::BF16]
        .map(|dtype| Linear::dense(weight.to_dtype(dtype).unwrap(), None).unwrap());
    for linear in blocks.into_iter().chain(narrow) {
        let x = Var::from_tensor(&tensor(6, (rows, input))).unwrap();
        let by = tensor(7, (rows, out));
        let y = linear.product(x.as_tensor()).unwrap();
        let gradients = (y * &by).unwrap().sum_all().unwrap().backward().unwrap();
        let own = values(gradients.get(&x).unwrap());
        let plain = values(&by.matmul(&linear.weight().unwrap()).unwrap());
        assert!(apart(&own, &plain) < 1e-5, "{linear:?}");
    }
}

#[test]
fn weights_in_blocks_and_in_half_precision_let_gradients_through() {
    for (name, dtype) in [
        ("llama_bf16", None),
        ("gpt2_f16", None),
        ("llama", Some("q8_0")),
        ("gemma2", Some("q8_0")),
    ] {
        let mut lab = opened(name, dtype);
        let run = Run::plain(prompt(9).iter().map(|id| id % 40).collect());
        hold_against_differences(&mut lab, &run, 2e-3);
    }
    // Activations in f16 are coarse, but a gradient through them points where that in f32 does.
    let run = Run::plain(prompt(9).iter().map(|id| id % 40).collect());
    let at = Site::Embed.at(0);
    let of = |dtype| {
        let mut lab = opened("llama", Some(dtype));
        let own = gradient(
            &mut lab,
            &run,
            request(Scalar::LogProbability(5), 8, &[at], &[0, 8]),
        );
        values(own.get(at).unwrap())
    };
    let (wide, half) = (of("f32"), of("f16"));
    assert!(apart(&half, &wide) < 2e-2, "{}", apart(&half, &wide));
}

#[test]
fn progress_is_told_and_work_is_stopped() {
    let mut lab = every_family().next().unwrap();
    let run = Run::plain(prompt(9));
    let asked = request(logit(5), 8, &[Site::Embed.at(0)], &[0, 8]);
    let heard = Rc::new(RefCell::new(Vec::new()));
    let ears = heard.clone();
    let pass = asking(&run, asked);
    lab.with_progress(
        move |done| ears.borrow_mut().push(done),
        |lab| lab.run_one(&pass),
    )
    .unwrap();
    let heard = heard.borrow();
    assert!(heard.len() > lab.model.card.layers && heard.windows(2).all(|w| w[0] <= w[1]));
    assert_eq!(heard.last(), Some(&1.0));
    lab.cancel.store(true, Ordering::Relaxed);
    assert!(matches!(lab.run_one(&pass), Err(Error::Cancelled)));
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let mut lab = every_family().next().unwrap();
    let run = Run::plain(prompt(9));
    let embed = [Site::Embed.at(0)];
    let along = |width: usize| Scalar::Along {
        at: Site::ResidPost.at(0),
        vector: Tensor::zeros(width, DType::F32, &Device::Cpu).unwrap(),
    };
    let width = lab.model.card.d_model;
    for (asked, word) in [
        (request(logit(5), 9, &embed, &[0]), "position"),
        (request(logit(5), 8, &embed, &[9]), "position"),
        (request(logit(9999), 8, &embed, &[0]), "token"),
        (
            request(Scalar::Kl(Arc::new(vec![0.0])), 8, &embed, &[0]),
            "log-probabilities",
        ),
        (request(along(width + 1), 8, &embed, &[0]), "numbers"),
        (
            request(logit(5), 8, &[Site::ResidPost.at(99)], &[0]),
            "layer",
        ),
    ] {
        let error = lab.run_one(&asking(&run, asked)).unwrap_err().to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
    let late = request(logit(5), 4, &embed, &[2, 6]);
    let own = gradient(&mut lab, &run, late);
    let later = own.get(embed[0]).unwrap().get(1).unwrap();
    assert_eq!(
        length(&values(&later)),
        0.0,
        "no position depends on a later one"
    );
    let sum = own
        .get(embed[0])
        .unwrap()
        .sqr()
        .unwrap()
        .sum(D::Minus1)
        .unwrap();
    assert!(values(&sum)[0] > 0.0);
}

/// Rows of a Jacobian taken together are the rows taken one by one: as the model is, under an edit in one of the blocks, and
/// with the text's first tokens in a cache.
#[test]
fn several_vectors_at_once_are_each_by_itself() {
    for mut lab in every_family() {
        let layers = lab.model.card.layers;
        let plain = Run::plain(prompt(12));
        let under = edited(prompt(12), &["scale:0,3@resid_post.0*0.5"]);
        for (run, positions) in [(&plain, [1, 11]), (&plain, [7, 9]), (&under, [1, 11])] {
            let end = Site::ResidPost.at(layers - 1);
            let mut at = vec![Site::ResidPre.at(0), Site::Z.at(0), Site::K.at(layers - 1)];
            at.extend(
                [Site::MlpAct.at(0)]
                    .iter()
                    .filter(|at| lab.model.offers(**at).is_ok()),
            );
            let width = lab.model.card.d_model;
            let vectors = Tensor::new(noise(3, 3 * width), &Device::Cpu).unwrap();
            let vectors = vectors.reshape((3, width)).unwrap();
            let each = |vectors| Scalar::Each { at: end, vectors };
            let all = request(each(vectors.clone()), 11, &at, &positions);
            let all = gradient(&mut lab, run, all);
            for number in 0..3 {
                let vector = vectors.get(number).unwrap();
                let of = Scalar::Along { at: end, vector };
                let one = gradient(&mut lab, run, request(of, 11, &at, &positions));
                for at in &at {
                    let expected = values(one.get(*at).unwrap());
                    assert!(length(&expected) > 0.0, "{at} matters");
                    let found = values(&all.get(*at).unwrap().get(number).unwrap());
                    let name = &lab.model.card.name;
                    assert!(apart(&found, &expected) < 1e-5, "{name} {at} {number}");
                }
            }
        }
    }
}

/// A line of this process's status, in bytes.
fn memory(name: &str) -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let number = line.trim_start_matches(':').split_whitespace().next()?;
    Some(1024 * number.parse::<usize>().ok()?)
}

#[test]
fn a_real_model_takes_the_memory_that_was_estimated() {
    let Ok(model) = std::env::var("LMSCOPE_REAL_MODEL") else {
        println!("skipped: LMSCOPE_REAL_MODEL names no model");
        return;
    };
    let mut lab = Lab::open(&model, &Options::default()).unwrap();
    for tokens in [32, 128, 512] {
        let run = Run::plain((0..tokens).map(|i| (i * 37 % 1000) as u32 + 20).collect());
        let positions: Vec<usize> = (0..tokens).collect();
        let since = std::time::Instant::now();
        let logits = lab.last_logits(&run).unwrap();
        let forward = since.elapsed();
        // Peaks are counted from here where the system lets us.
        let own_peak = std::fs::write("/proc/self/clear_refs", "5").is_ok();
        let before = memory("VmRSS");
        let asked = request(logit(100), tokens - 1, &[Site::Embed.at(0)], &positions);
        let since = std::time::Instant::now();
        let own = gradient(&mut lab, &run, asked);
        let spent = since.elapsed();
        assert!((own.scalar - logits[100]).abs() < 1e-3);
        let estimate = lab.gradient_bytes(0..tokens);
        let grown = memory("VmHWM")
            .zip(before)
            .map(|(most, before)| most.saturating_sub(before));
        println!(
            "{tokens} tokens: forward {forward:.2?}, gradient {spent:.2?}, {grown:?} bytes more at the peak of {estimate} estimated"
        );
        if let Some(grown) = grown.filter(|_| own_peak) {
            // What the allocator holds back is not counted.
            assert!(grown < estimate + (16 << 20), "{grown} {estimate}");
        }
    }
}
