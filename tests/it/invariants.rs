//! The identities that hold for any weights, on a tiny random model of every family. The number in a test's name is that
//! of its identity; `tests/mutations.py` plants a fault for each and says which test notices.

use candle_core::{D, DType, Device, Tensor, Var};
use lmscope::edit::Edit;
use lmscope::edit::direction::{Direction, DirectionOrigin, norm};
use lmscope::edit::schedule::Schedule;
use lmscope::error::Result;
use lmscope::figure::{Body, Entry};
use lmscope::instruments::logit_lens::lens_view::LensView;
use lmscope::instruments::patchscope::target::{ContinuedText, TargetPrompt};
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::apply::Program;
use lmscope::lab::capture::Needs;
use lmscope::lab::pass::Patch;
use lmscope::lab::readout::RowRequest;
use lmscope::lab::row_programs::RowPrograms;
use lmscope::lab::run::Run;
use lmscope::lab::sample::{Sampling, log_softmax};
use lmscope::lab::tap::{RecordedPositions, RunTap};
use lmscope::lab::writer::Writer;
use lmscope::model::network::blueprint::NormKind;
use lmscope::model::network::linear::Linear;
use lmscope::model::network::mlp::Mlp;
use lmscope::model::network::site::{Address, SITES, Site};
use lmscope::model::network::tap::{GradientTap, NoTap, PassSpan, Tap};

use lmscope::model::gaussian::normals;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::tools::{
    dense_families, edited, every_family, gap, prompt, reach, read_again, same_bits, tiny, values,
};

/// Every address that the model has.
fn all_addresses(lab: &Lab) -> Vec<Address> {
    let layers = lab.model.card.layers;
    let at = |site: Site| (0..layers).map(move |l| site.at(l));
    let mut all: Vec<Address> = SITES
        .iter()
        .flat_map(|s| {
            if s.layered {
                at(s.site).collect()
            } else {
                vec![s.site.at(0)]
            }
        })
        .collect();
    all.retain(|a| lab.model.offers(*a).is_ok());
    all
}

fn logits(lab: &mut Lab, run: &Run) -> Tensor {
    lab.record(run, &[Site::Logits.at(0)])
        .unwrap()
        .get(Site::Logits.at(0))
        .unwrap()
        .clone()
}

/// A lab that knows a random direction called `d`, of the given width.
fn with_direction(mut lab: Lab) -> (Lab, Vec<f32>) {
    let width = lab.model.card.d_model;
    let vector: Vec<f32> = (0..width)
        .map(|i| ((i * 7919) % 13) as f32 / 6.0 - 1.0)
        .collect();
    let direction = Direction {
        rows: vec![(Site::ResidPre.at(0), vector.clone())],
        origin: DirectionOrigin::default(),
    };
    lab.directions.insert("d".into(), direction);
    (lab, vector)
}

#[test]
fn i1_the_last_lens_row_is_the_output_bit_for_bit() {
    for mut lab in every_family() {
        let last = Site::ResidPost.at(lab.model.card.layers - 1);
        let run = Run::plain(prompt(40));
        let recording = lab.record(&run, &[last, Site::Logits.at(0)]).unwrap();
        let lens = lab
            .model
            .transformer
            .unembed(recording.get(last).unwrap())
            .unwrap();
        assert!(
            same_bits(&lens, recording.get(Site::Logits.at(0)).unwrap()),
            "{}",
            lab.model.card.name
        );
        let figure = instrument("lens")
            .unwrap()
            .observe(&run, &Arguments::default(), &mut lab)
            .unwrap();
        assert_eq!(figure.check.unwrap().error, 0.0);
        let top = figure.cell(last.layer, 39).unwrap();
        let mut own = values(
            &recording
                .get(Site::Logits.at(0))
                .unwrap()
                .narrow(0, 39, 1)
                .unwrap(),
        );
        log_softmax(&mut own);
        assert!(
            (own.iter().copied().fold(f32::NEG_INFINITY, f32::max).exp() - top.value).abs() < 1e-6
        );
    }
}

#[test]
fn i1_holds_for_every_live_step() {
    for mut lab in every_family() {
        let needs = [Needs::of(LensView::plain().readout(lab.model.card.layers))];
        let mut writer =
            Writer::begin(&mut lab, prompt(5), Schedule::none(), Sampling::default()).unwrap();
        for _ in 0..4 {
            let step = writer.step(&mut lab, &needs).unwrap();
            let check = step.captures[0].check;
            assert!(check.unwrap().error <= 1e-6, "{check:?}");
        }
    }
}

#[test]
fn i2_the_residual_stream_is_the_sum_of_its_writes() {
    for mut lab in every_family() {
        let layers = lab.model.card.layers;
        let writes: Vec<Address> = std::iter::once(Site::Embed.at(0))
            .chain((0..layers).flat_map(|l| [Site::AttnAdd.at(l), Site::MlpAdd.at(l)]))
            .collect();
        let last = Site::ResidPost.at(layers - 1);
        let recording = lab
            .record(
                &Run::plain(prompt(40)),
                &[writes.clone(), vec![last]].concat(),
            )
            .unwrap();
        let sum = writes[1..]
            .iter()
            .fold(recording.get(writes[0]).unwrap().clone(), |sum, a| {
                (sum + recording.get(*a).unwrap()).unwrap()
            });
        let end = recording.get(last).unwrap();
        assert!(
            gap(&sum, end) <= 1e-5 * reach(end),
            "{}: {}",
            lab.model.card.name,
            gap(&sum, end)
        );
    }
}

#[test]
fn i3_direct_effects_sum_to_the_raw_logit_difference() {
    for mut lab in every_family() {
        let layers = lab.model.card.layers;
        let parts: Vec<Address> = std::iter::once(Site::Embed.at(0))
            .chain((0..layers).flat_map(|l| [Site::AttnAdd.at(l), Site::MlpAdd.at(l)]))
            .collect();
        let last = Site::ResidPost.at(layers - 1);
        let recording = lab
            .record(
                &Run::plain(prompt(30)),
                &[parts.clone(), vec![last, Site::LogitsRaw.at(0)]].concat(),
            )
            .unwrap();
        let row = |a: Address| {
            recording
                .get(a)
                .unwrap()
                .narrow(0, 29, 1)
                .unwrap()
                .squeeze(0)
                .unwrap()
        };
        let transformer = &lab.model.transformer;
        let direction = |token| transformer.logit_direction(token).unwrap();
        let difference =
            ((direction(3) - direction(11)).unwrap() / transformer.blueprint.logit_scale).unwrap();
        let target = (&difference * &transformer.norm.gain).unwrap();
        let scale = transformer
            .norm
            .inverse_scale(&row(last))
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()[0];
        let mut total = 0.0;
        for part in &parts {
            let mut part = row(*part);
            if transformer.norm.kind == NormKind::Layer {
                part = part.broadcast_sub(&part.mean_keepdim(0).unwrap()).unwrap();
            }
            total += (part * &target)
                .unwrap()
                .sum_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
                * scale;
        }
        if let Some(bias) = &transformer.norm.bias {
            total += (bias * &difference)
                .unwrap()
                .sum_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap();
        }
        if let Some(bias) = &transformer.head.bias {
            total += values(bias)[3] - values(bias)[11];
        }
        let raw = values(&row(Site::LogitsRaw.at(0)));
        assert!(
            (total - (raw[3] - raw[11])).abs() < 1e-4,
            "{}: {total} {}",
            lab.model.card.name,
            raw[3] - raw[11]
        );
    }
}

#[test]
fn i3_the_neurons_instrument_reports_the_frozen_scale_effect() {
    for mut lab in dense_families() {
        let run = Run::plain(prompt(12));
        let figure = instrument("neurons")
            .unwrap()
            .observe(
                &run,
                &Arguments::default()
                    .with("rank", "effect")
                    .with("on", "logit"),
                &mut lab,
            )
            .unwrap();
        let Body::Table(table) = &figure.body else {
            panic!("a table")
        };
        let page = table.pages.last().unwrap();
        let (Entry::Text(name), Entry::Number(effect)) =
            (&page.rows[0].entries[0], &page.rows[0].entries[3])
        else {
            panic!("entries")
        };
        let (layer, neuron) = name.split_once('/').unwrap();
        let (layer, neuron): (usize, usize) = (layer.parse().unwrap(), neuron.parse().unwrap());
        // By hand: the raw logit of the favoured token with the write taken out of the last residual row,
        // the scale frozen, differs by exactly the effect.
        let last = Site::ResidPost.at(lab.model.card.layers - 1);
        let recording = lab
            .record(
                &run,
                &[
                    last,
                    Site::MlpAct.at(layer),
                    Site::MlpOut.at(layer),
                    Site::Logits.at(0),
                ],
            )
            .unwrap();
        let row = |a: Address| {
            recording
                .get(a)
                .unwrap()
                .narrow(0, 11, 1)
                .unwrap()
                .squeeze(0)
                .unwrap()
        };
        let logits = values(&row(Site::Logits.at(0)));
        let favoured = (0..logits.len())
            .max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
            .unwrap();
        let transformer = &lab.model.transformer;
        let act = values(&row(Site::MlpAct.at(layer)))[neuron];
        // What the block adds for this neuron: its column, through the norm of the write and the multiplier.
        let block = &transformer.blocks[layer];
        let down = &block.mlp.dense().unwrap().down;
        let mut write = (down.column(neuron).unwrap() * f64::from(act)).unwrap();
        if let Some(norm) = &block.norms_mlp.output {
            let scale = norm.inverse_scale(&row(Site::MlpOut.at(layer))).unwrap();
            write = write
                .broadcast_mul(&scale)
                .unwrap()
                .mul(&norm.gain)
                .unwrap();
        }
        let mut write = (write * transformer.blueprint.residual_scale).unwrap();
        if transformer.norm.kind == NormKind::Layer {
            write = write
                .broadcast_sub(&write.mean_keepdim(0).unwrap())
                .unwrap();
        }
        let scale = values(&transformer.norm.inverse_scale(&row(last)).unwrap())[0];
        let target = (transformer.logit_direction(favoured as u32).unwrap()
            * &transformer.norm.gain)
            .unwrap();
        let expected = (write * target)
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap()
            * scale;
        assert!(
            (expected - effect).abs() < 1e-4,
            "{}: {expected} {effect}",
            lab.model.card.name
        );
        let shown: Vec<f32> = page
            .rows
            .iter()
            .map(|r| match &r.entries[3] {
                Entry::Whole(n) => *n as f32,
                Entry::Number(n) => n.abs(),
                Entry::Missing | Entry::Text(_) => panic!("number"),
            })
            .collect();
        assert!(
            shown.windows(2).all(|w| w[0] >= w[1] - 1e-6),
            "ranked by effect"
        );
    }
}

#[test]
fn i4_probabilities_times_values_are_z_and_rows_sum_to_one() {
    let mut windows = 0;
    for mut lab in every_family() {
        let (tokens, layer) = (40, 1);
        let recording = lab
            .record(
                &Run::plain(prompt(tokens)),
                &[
                    Site::AttnProbs.at(layer),
                    Site::V.at(layer),
                    Site::Z.at(layer),
                ],
            )
            .unwrap();
        let probs = recording.get(Site::AttnProbs.at(layer)).unwrap();
        let (v, z) = (
            recording.get(Site::V.at(layer)).unwrap(),
            recording.get(Site::Z.at(layer)).unwrap(),
        );
        let blueprint = &lab.model.transformer.blueprint;
        for head in 0..blueprint.heads {
            let group = head / (blueprint.heads / blueprint.kv_heads);
            let pattern = probs.get(head).unwrap();
            let values_of = v
                .narrow(1, group, 1)
                .unwrap()
                .squeeze(1)
                .unwrap()
                .contiguous()
                .unwrap();
            let expected = pattern.matmul(&values_of).unwrap();
            assert!(
                gap(
                    &expected,
                    &z.narrow(1, head, 1)
                        .unwrap()
                        .squeeze(1)
                        .unwrap()
                        .contiguous()
                        .unwrap()
                ) < 1e-5,
                "{} head {head}",
                lab.model.card.name
            );
            let rows = values(&pattern.sum(D::Minus1).unwrap());
            assert!(rows.iter().all(|r| (r - 1.0).abs() < 1e-5));
            let grid = pattern.to_vec2::<f32>().unwrap();
            assert!(
                (0..tokens).all(|q| (q + 1..tokens).all(|k| grid[q][k] == 0.0)),
                "nobody looks ahead"
            );
            if let Some(window) = blueprint.layers[layer].window {
                windows += 1;
                assert!(
                    (0..tokens).all(|q| (0..tokens).all(|k| k + window > q || grid[q][k] == 0.0)),
                    "nobody looks past the window"
                );
                let oldest = |q: usize| grid[q][q + 1 - window];
                assert!(
                    (window..tokens).all(|q| oldest(q) > 0.0),
                    "the whole window is seen"
                );
            }
        }
    }
    assert!(windows > 0);
}

#[test]
fn i5_heads_and_neurons_sum_to_their_modules() {
    for mut lab in every_family() {
        let layer = 1;
        let recording = lab
            .record(
                &Run::plain(prompt(20)),
                &if lab.model.card.neuron_layers.contains(&layer) {
                    vec![
                        Site::Z.at(layer),
                        Site::AttnOut.at(layer),
                        Site::MlpAct.at(layer),
                        Site::MlpOut.at(layer),
                    ]
                } else {
                    vec![Site::Z.at(layer), Site::AttnOut.at(layer)]
                },
            )
            .unwrap();
        let block = &lab.model.transformer.blocks[layer];
        let blueprint = &lab.model.transformer.blueprint;
        let sum = |parts: Vec<Tensor>, bias: &Option<Tensor>| {
            let sum = parts
                .iter()
                .skip(1)
                .fold(parts[0].clone(), |a, b| (a + b).unwrap());
            bias.as_ref()
                .map_or(sum.clone(), |b| sum.broadcast_add(b).unwrap())
        };
        let (z, out) = (
            recording.get(Site::Z.at(layer)).unwrap(),
            block.attention.out.weight().unwrap(),
        );
        let heads = (0..blueprint.heads).map(|h| {
            let columns = out
                .narrow(1, h * blueprint.head_dim, blueprint.head_dim)
                .unwrap()
                .t()
                .unwrap()
                .contiguous()
                .unwrap();
            z.narrow(1, h, 1)
                .unwrap()
                .squeeze(1)
                .unwrap()
                .contiguous()
                .unwrap()
                .matmul(&columns)
                .unwrap()
        });
        assert!(
            gap(
                &sum(heads.collect(), &block.attention.out.bias),
                recording.get(Site::AttnOut.at(layer)).unwrap()
            ) < 1e-5
        );
        let Some(mlp) = block.mlp.dense() else {
            continue;
        };
        let act = recording.get(Site::MlpAct.at(layer)).unwrap();
        let neurons = (0..blueprint.d_mlp).map(|i| {
            act.narrow(1, i, 1)
                .unwrap()
                .broadcast_mul(&mlp.down.column(i).unwrap().unsqueeze(0).unwrap())
                .unwrap()
        });
        assert!(
            gap(
                &sum(neurons.collect(), &mlp.down.bias),
                recording.get(Site::MlpOut.at(layer)).unwrap()
            ) < 1e-5
        );
    }
}

#[test]
fn i5_experts_under_the_routers_weights_sum_to_their_module() {
    let mut mixtures = 0;
    for mut lab in every_family() {
        let layers = 0..lab.model.card.layers;
        let mixed: Vec<usize> = layers
            .filter(|l| lab.model.offers(Site::Router.at(*l)).is_ok())
            .collect();
        for layer in mixed {
            mixtures += 1;
            let (at, input, out) = (
                Site::Router.at(layer),
                Site::MlpIn.at(layer),
                Site::MlpOut.at(layer),
            );
            let recording = lab
                .record(&Run::plain(prompt(20)), &[at, input, out])
                .unwrap();
            let Mlp::Experts(mixture) = &lab.model.transformer.blocks[layer].mlp else {
                panic!("a router without experts")
            };
            let (weights, input) = (recording.get(at).unwrap(), recording.get(input).unwrap());
            let mut sum = input.zeros_like().unwrap();
            for (e, expert) in mixture.experts.iter().enumerate() {
                let weight = weights.narrow(1, e, 1).unwrap();
                sum = (sum + expert.plain(input).unwrap().broadcast_mul(&weight).unwrap()).unwrap();
            }
            assert!(
                gap(&sum, recording.get(out).unwrap()) < 1e-5,
                "{}",
                lab.model.card.name
            );
            let rows = weights.to_vec2::<f32>().unwrap();
            let chosen = |r: &Vec<f32>| r.iter().filter(|w| **w != 0.0).count();
            assert!(rows.iter().all(|r| chosen(r) == mixture.spec.active));
            if mixture.spec.renormalise {
                assert!(
                    rows.iter()
                        .all(|r| (r.iter().sum::<f32>() - 1.0).abs() < 1e-5)
                );
            }
        }
    }
    assert!(mixtures >= 3, "{mixtures}");
}

/// The router's choice is an edit's to make: an expert that nobody chose speaks when its weight is set.
#[test]
fn an_edit_of_the_router_changes_who_speaks() {
    for mut lab in every_family() {
        let at = Site::Router.at(0);
        if lab.model.offers(at).is_err() {
            continue;
        }
        let out = Site::MlpOut.at(0);
        let plain = lab.record(&Run::plain(prompt(9)), &[at, out]).unwrap();
        let row = values(&plain.get(at).unwrap().get(8).unwrap());
        let silent = row.iter().position(|w| *w == 0.0).unwrap();
        let run = edited(prompt(9), &[&format!("set:{silent}=0.8@router.0:8")]);
        let recording = lab.record(&run, &[at, out]).unwrap();
        assert!((values(&recording.get(at).unwrap().get(8).unwrap())[silent] - 0.8).abs() < 1e-6);
        let moved = |p: usize| {
            gap(
                &recording.get(out).unwrap().get(p).unwrap(),
                &plain.get(out).unwrap().get(p).unwrap(),
            )
        };
        assert!(
            moved(8) > 1e-3 && moved(7) < 1e-5,
            "{}",
            lab.model.card.name
        );
    }
}

#[test]
fn i6_a_neutral_strength_changes_no_bit_and_fires_nowhere() {
    for lab in dense_families() {
        let (mut lab, _) = with_direction(lab);
        let plain = logits(&mut lab, &Run::plain(prompt(10)));
        for text in [
            "add:d@resid_pre.1*0",
            "add_unit_norm:d@resid_pre.*:all*0",
            "add_renorm:d@resid_pre.*:all*0",
            "icv:d@mlp_out.*:all*0",
            "project_out:d@writes*0",
            "scale_along:d@resid_pre.1",
            "clamp_along:d=-1..1@resid_pre.1*0",
            "set_along:d=2@resid_pre.1*0",
            "swap:d>d@resid_pre.1*0",
            "replace:d@resid_pre.1*0",
            "zero:1@mlp_act.0*0",
            "mean:1@mlp_act.0*0",
            "scale:1@z.1",
            "set:2=4@mlp_act.1*0",
        ] {
            let run = edited(prompt(10), &[text]);
            assert!(same_bits(&plain, &logits(&mut lab, &run)), "{text}");
            assert_eq!(lab.receipts(&run).unwrap()[0].fired, 0, "{text}");
        }
    }
}

/// What the operations along a direction promise of the component, and those that keep the norm of it.
#[test]
fn i7_operations_along_a_direction_keep_their_word() {
    for lab in every_family() {
        let (mut lab, vector) = with_direction(lab);
        let unit: Vec<f32> = vector.iter().map(|v| v / norm(&vector)).collect();
        let unit = Tensor::new(unit, &Device::Cpu).unwrap();
        let at = Site::ResidPre.at(1);
        let mut after = |text: &str| {
            let run = if text.is_empty() {
                Run::plain(prompt(12))
            } else {
                edited(prompt(12), &[text])
            };
            lab.record(&run, &[at]).unwrap().get(at).unwrap().clone()
        };
        let along = |x: &Tensor| values(&x.broadcast_mul(&unit).unwrap().sum(D::Minus1).unwrap());
        let lengths =
            |x: &Tensor| values(&x.sqr().unwrap().sum(D::Minus1).unwrap().sqrt().unwrap());
        let plain = after("");
        let (before, sizes, near) = (
            along(&plain),
            lengths(&plain),
            1e-5 * reach(&plain).max(1.0),
        );
        let held = |found: Vec<f32>, expected: &dyn Fn(usize) -> f32| {
            (0..found.len()).all(|i| (found[i] - expected(i)).abs() < near * 4.0)
        };
        assert!(held(along(&after("set_along:d=0.7@resid_pre.1")), &|_| 0.7));
        assert!(held(along(&after("scale_along:d@resid_pre.1*-1")), &|i| {
            -before[i]
        }));
        assert!(held(
            along(&after("clamp_along:d=-0.1..0.2@resid_pre.1")),
            &|i| before[i].clamp(-0.1, 0.2)
        ));
        let inside = format!(
            "clamp_along:d=-{0}..{0}@resid_pre.1",
            10.0 * sizes.iter().sum::<f32>()
        );
        assert!(same_bits(&after(&inside), &plain));
        assert!(held(lengths(&after("add_renorm:d@resid_pre.1*2")), &|i| {
            sizes[i]
        }));
        assert!(held(lengths(&after("icv:d@resid_pre.1*0.3")), &|i| sizes[i]));
        assert!(held(along(&after("swap:d>d@resid_pre.1")), &|i| before[i]));
        let replaced = after("replace:d@resid_pre.1:3");
        assert_eq!(values(&replaced.get(3).unwrap()), vector);
        assert!(same_bits(&replaced.get(2).unwrap(), &plain.get(2).unwrap()));
    }
}

#[test]
fn i7_projecting_out_twice_is_once_and_leaves_no_component() {
    for lab in every_family() {
        let (mut lab, vector) = with_direction(lab);
        let unit: Vec<f32> = vector.iter().map(|v| v / norm(&vector)).collect();
        let unit = Tensor::new(unit, &Device::Cpu).unwrap();
        let layers = lab.model.card.layers;
        let wanted: Vec<Address> = (0..layers).map(|l| Site::ResidPost.at(l)).collect();
        let once = lab
            .record(&edited(prompt(12), &["project_out:d@writes"]), &wanted)
            .unwrap();
        for at in &wanted {
            let x = once.get(*at).unwrap();
            let along = x.broadcast_mul(&unit).unwrap().sum(D::Minus1).unwrap();
            assert!(
                reach(&along) < 1e-5 * reach(x).max(1.0),
                "{} {at}: {}",
                lab.model.card.name,
                reach(&along)
            );
        }
        let at = Site::ResidPre.at(1);
        let one = lab
            .record(&edited(prompt(12), &["project_out:d@resid_pre.1"]), &[at])
            .unwrap();
        let two = lab
            .record(
                &edited(
                    prompt(12),
                    &[
                        "project_out:d@resid_pre.1",
                        "project_out:d@resid_pre.1:all*1",
                    ],
                ),
                &[at],
            )
            .unwrap();
        assert!(
            gap(one.get(at).unwrap(), two.get(at).unwrap())
                < 1e-6 * reach(one.get(at).unwrap()).max(1.0)
        );
    }
}

/// Weights that cannot write along a direction any more: `W − r̂ r̂ᵀ W` for everything that writes into the stream, biases
/// and learned positions included; the unembedding keeps its own copy.
fn orthogonalised(lab: &mut Lab, unit: &Tensor) {
    let column = unit.unsqueeze(1).unwrap();
    // `[d_model, n]`, every column without its component.
    let clean = |w: &Tensor| {
        let along = column.t().unwrap().matmul(w).unwrap();
        (w - column.matmul(&along).unwrap()).unwrap()
    };
    let linear = |l: &Linear| {
        let bias = l
            .bias
            .as_ref()
            .map(|b| clean(&b.unsqueeze(1).unwrap()).squeeze(1).unwrap());
        Linear::dense(clean(&l.weight().unwrap()).contiguous().unwrap(), bias).unwrap()
    };
    let table = |t: &Tensor| {
        clean(&t.t().unwrap().contiguous().unwrap())
            .t()
            .unwrap()
            .contiguous()
            .unwrap()
    };
    let transformer = &mut lab.model.transformer;
    match &mut transformer.project_in {
        Some(projection) => *projection = linear(projection),
        None => {
            transformer.embed =
                Linear::dense(table(&transformer.embed.weight().unwrap()), None).unwrap();
        }
    }
    transformer.positions = transformer.positions.as_ref().map(table);
    for block in &mut transformer.blocks {
        block.attention.out = linear(&block.attention.out);
        match &mut block.mlp {
            Mlp::Dense(mlp) => mlp.down = linear(&mlp.down),
            Mlp::Experts(mixture) => mixture
                .experts
                .iter_mut()
                .for_each(|e| e.down = linear(&e.down)),
        }
    }
}

#[test]
fn i8_ablating_a_direction_equals_orthogonalised_weights() {
    let mut seen = 0;
    for lab in every_family() {
        // Where writes are normed, what is added is no linear image of the weights.
        if lab.model.card.norms_writes {
            continue;
        }
        seen += 1;
        let (mut lab, vector) = with_direction(lab);
        let unit: Vec<f32> = vector.iter().map(|v| v / norm(&vector)).collect();
        let plain = logits(&mut lab, &Run::plain(prompt(20)));
        let ablated = logits(&mut lab, &edited(prompt(20), &["project_out:d@writes"]));
        orthogonalised(&mut lab, &Tensor::new(unit, &Device::Cpu).unwrap());
        let mut fresh = Lab::new(lab.model);
        let changed = logits(&mut fresh, &Run::plain(prompt(20)));
        let (apart, effect) = (gap(&ablated, &changed), gap(&ablated, &plain));
        assert!(
            apart < 1e-5 * reach(&plain).max(1.0),
            "{}: {apart}",
            fresh.model.card.name
        );
        assert!(effect > 1e-2, "{}: {effect}", fresh.model.card.name);
    }
    assert!(seen >= 15, "{seen}");
}

#[test]
fn i9_a_state_put_back_where_it_was_changes_nothing() {
    for mut lab in every_family() {
        let tokens = prompt(9);
        let at = Site::ResidPost.at(1);
        let state = lab
            .record(&Run::plain(tokens.clone()), &[at])
            .unwrap()
            .get(at)
            .unwrap()
            .get(4)
            .unwrap();
        let put = Patch::new(at, 4, state);
        let target = TargetPrompt {
            tokens: tokens.clone(),
            from: 0,
        };
        let mut written = |put: Vec<Patch>, count| {
            let written = target.branches(&mut lab, vec![put], count, &[]);
            let written = written.unwrap().remove(0);
            let p = written.first.top[0].1;
            (written.tokens, p)
        };
        let (own, plain) = (written(vec![put.clone()], 20), written(vec![], 20));
        assert_eq!(own.0, plain.0);
        // What is shared is multiplied in other shapes; the same steps give the same bits.
        assert!((own.1 - plain.1).abs() < 1e-6);
        // The same state one layer off changes the text's numbers: the slot is where it says.
        let off = Patch {
            at: Site::ResidPost.at(0),
            ..put.clone()
        };
        assert!((written(vec![off], 1).1 - plain.1).abs() > 1e-6);
        let run = Run::plain(tokens);
        let bits = |row: Vec<f32>| row.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let again = bits(read_again(&mut lab, &run, 8, &[put]));
        assert_eq!(again, bits(read_again(&mut lab, &run, 8, &[])));
    }
}

#[test]
fn a_patch_fires_once_and_only_in_its_row() {
    for mut lab in every_family() {
        let tokens = prompt(6);
        let at = Site::ResidPost.at(0);
        let zero = Tensor::zeros(lab.model.card.d_model, DType::F32, &Device::Cpu).unwrap();
        let patch = Patch::new(at, 5, zero);
        let target = TargetPrompt {
            tokens: tokens.clone(),
            from: 5,
        };
        let mut rows = |branches: [Vec<Patch>; 3]| {
            target
                .branches(&mut lab, branches.to_vec(), 4, &[])
                .unwrap()
        };
        let both = rows([vec![], vec![patch.clone()], vec![]]);
        let plain = rows([vec![], vec![], vec![]]);
        // Rows that visit one expert are multiplied together, so the last bits may move.
        let p = |written: &ContinuedText| written.first.top[0].1;
        let close = |row: usize| (p(&both[row]) - p(&plain[row])).abs() < 1e-6;
        assert!(both[0].tokens == plain[0].tokens && close(0));
        assert!(both[2].tokens == plain[2].tokens && close(2));
        assert!(!close(1));
        let mut idle = Program::default();
        let (patches, wanted) = ([(1, &patch)], [at]);
        let mut tap = RunTap::new(
            RowPrograms::all(&mut idle),
            &patches,
            &wanted,
            RecordedPositions::All,
            lab.guard(),
        );
        let ids = lab.model.tokens(&tokens).unwrap().repeat((3, 1)).unwrap();
        lab.model
            .transformer
            .trunk(&ids, PassSpan::prompt(6), None, &mut tap)
            .unwrap();
        let kept = tap.recorded[&at].to_vec3::<f32>().unwrap();
        let zeros = kept.iter().enumerate().flat_map(|(row, positions)| {
            let zero = |p: &usize| positions[*p].iter().all(|v| *v == 0.0);
            (0..6)
                .filter(zero)
                .map(move |p| (row, p))
                .collect::<Vec<_>>()
        });
        assert_eq!(zeros.collect::<Vec<_>>(), [(1, 5)], "T55");
    }
}

#[test]
fn i11_a_patchscope_into_the_last_layer_is_the_lens() {
    for mut lab in every_family() {
        let layers = lab.model.card.layers;
        let source = Site::ResidPost.at(0);
        let state = lab
            .record(&Run::plain(prompt(8)), &[source])
            .unwrap()
            .get(source)
            .unwrap()
            .get(3)
            .unwrap();
        let target: Vec<u32> = prompt(12)[5..].to_vec();
        let last = target.len() - 1;
        let put = Patch::new(Site::ResidPost.at(layers - 1), last, state.clone());
        let target = TargetPrompt {
            tokens: target,
            from: last,
        };
        let patched = target
            .branches(&mut lab, vec![vec![put]], 1, &[])
            .unwrap()
            .remove(0);
        let ask = RowRequest {
            top: 1,
            ..RowRequest::default()
        };
        let lens = lab.read(&state.unsqueeze(0).unwrap(), &ask).unwrap();
        assert_eq!(patched.tokens[0], lens[0].top[0].0);
        assert_eq!(patched.first.top[0].1.to_bits(), lens[0].top[0].1.to_bits());
    }
}

#[test]
fn i19_a_neuron_set_to_its_own_value_changes_no_bit() {
    for mut lab in dense_families() {
        let at = Site::MlpAct.at(1);
        let tokens = prompt(7);
        let recording = lab
            .record(&Run::plain(tokens.clone()), &[at, Site::Logits.at(0)])
            .unwrap();
        let own = values(&recording.get(at).unwrap().get(4).unwrap())[3];
        let run = edited(tokens.clone(), &[&format!("set:3={own}@mlp_act.1:4")]);
        assert!(same_bits(
            &logits(&mut lab, &run),
            recording.get(Site::Logits.at(0)).unwrap()
        ));
        assert_eq!(lab.receipts(&run).unwrap()[0].fired, 1);
        let run = edited(tokens, &[&format!("set:3={}@mlp_act.1:4", own + 2.0)]);
        assert!(!same_bits(
            &logits(&mut lab, &run),
            recording.get(Site::Logits.at(0)).unwrap()
        ));
    }
}

#[test]
fn zeroing_every_neuron_leaves_the_bias_alone() {
    for mut lab in dense_families() {
        let at = Site::MlpOut.at(0);
        let out = lab
            .record(&edited(prompt(5), &["zero@mlp_act.0"]), &[at])
            .unwrap();
        let bias = lab.model.transformer.blocks[0]
            .mlp
            .dense()
            .unwrap()
            .down
            .bias
            .clone();
        let zero = Tensor::zeros(lab.model.card.d_model, DType::F32, &Device::Cpu).unwrap();
        let expected = bias.unwrap_or(zero);
        assert!(gap(&out.get(at).unwrap().get(2).unwrap(), &expected) < 1e-6);
    }
}

#[test]
fn the_mean_is_the_prompts_without_its_first_token() {
    for mut lab in dense_families() {
        let at = Site::MlpAct.at(0);
        let tokens = prompt(6);
        let own = lab
            .record(&Run::plain(tokens.clone()), &[at])
            .unwrap()
            .get(at)
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        let mean = own[1..].iter().map(|r| f64::from(r[2])).sum::<f64>() / 5.0;
        let run = edited(tokens, &["mean:2@mlp_act.0"]);
        let ablated = lab
            .record(&run, &[at])
            .unwrap()
            .get(at)
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        assert!(
            ablated
                .iter()
                .all(|r| (f64::from(r[2]) - mean).abs() < 1e-6)
        );
        assert!(
            ablated[1][3] == own[1][3],
            "its neighbours keep their values"
        );
        assert!(lab.receipts(&run).unwrap()[0].note.contains("5 tokens"));
    }
}

#[test]
fn i20_cached_decoding_equals_one_pass_with_and_without_edits() {
    for lab in dense_families() {
        let (mut lab, _) = with_direction(lab);
        for edits in [
            vec![],
            vec!["add:d@resid_pre.1*0.7", "zero:3@mlp_act.0:generated"],
        ] {
            let schedule = edited(vec![], &edits).schedule;
            let mut writer =
                Writer::begin(&mut lab, prompt(34), schedule.clone(), Sampling::default()).unwrap();
            let mut streamed = Vec::new();
            for _ in 0..8 {
                writer.step(&mut lab, &[]).unwrap();
                streamed.push(writer.output().unwrap());
            }
            let whole = logits(&mut lab, &writer.run).to_vec2::<f32>().unwrap();
            for (i, row) in streamed.iter().enumerate() {
                let worst = row
                    .iter()
                    .zip(&whole[34 + i])
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f32::max);
                assert!(
                    worst < 1e-4,
                    "{} {edits:?} step {i}: {worst}",
                    lab.model.card.name
                );
            }
        }
    }
}

#[test]
fn i25_an_edit_at_a_position_changes_no_logit_before_it() {
    for lab in every_family() {
        let (mut lab, _) = with_direction(lab);
        let plain = logits(&mut lab, &Run::plain(prompt(12)));
        let moved = logits(&mut lab, &edited(prompt(12), &["add:d@resid_pre.1:6..7*3"]));
        assert!(same_bits(
            &plain.narrow(0, 0, 6).unwrap(),
            &moved.narrow(0, 0, 6).unwrap()
        ));
        assert!(
            (6..12).all(|p| !same_bits(&plain.get(p).unwrap(), &moved.get(p).unwrap())),
            "and does change the later ones"
        );
    }
}

#[test]
fn i26_recording_everything_changes_no_bit() {
    for mut lab in every_family() {
        let run = Run::plain(prompt(40));
        let plain = logits(&mut lab, &run);
        let all = all_addresses(&lab);
        let full = lab.record(&run, &all).unwrap();
        assert!(same_bits(&plain, full.get(Site::Logits.at(0)).unwrap()));
        for at in all {
            let shape = at.site.spec().shape;
            assert_eq!(
                full.get(at).unwrap().rank(),
                shape.matches(',').count() + 1,
                "{at} is {shape}"
            );
        }
        // The same through no tap at all.
        let ids = lab.model.tokens(&run.tokens).unwrap();
        let transformer = &lab.model.transformer;
        let x = transformer
            .trunk(&ids, PassSpan::prompt(40), None, &mut NoTap)
            .unwrap();
        let bare = transformer.read_out(&x, &mut NoTap).unwrap();
        assert!(same_bits(&bare.squeeze(0).unwrap(), &plain));
    }
}

#[test]
fn from_now_and_as_if_always_differ_where_they_should() {
    for lab in every_family() {
        let (mut lab, _) = with_direction(lab);
        let edit: Edit = "add:d@resid_pre.1*2".parse().unwrap();
        let needs = [];
        let begin = |lab: &mut Lab, schedule| {
            Writer::begin(lab, prompt(6), schedule, Sampling::default()).unwrap()
        };
        let mut always = begin(&mut lab, Schedule::always(vec![edit.clone()]));
        always.step(&mut lab, &needs).unwrap();
        let always_logits = always.output().unwrap();
        // Made from now, the prompt stays as it was read.
        let mut now = begin(&mut lab, Schedule::none());
        assert_eq!(now.edit_from_now(&mut lab, vec![edit.clone()]).unwrap(), 6);
        now.step(&mut lab, &needs).unwrap();
        let now_logits = now.output().unwrap();
        assert_ne!(now_logits, always_logits);
        assert_eq!(now.receipts()[0].fired, 1, "one position so far");
        let whole = logits(&mut lab, &now.run).to_vec2::<f32>().unwrap();
        assert!(
            now_logits
                .iter()
                .zip(&whole[6])
                .all(|(a, b)| (a - b).abs() < 1e-4),
            "a from-now run can be measured again"
        );
        // As if always: off after on is the unedited run, bit for bit.
        let mut plain = begin(&mut lab, Schedule::none());
        let first = plain.step(&mut lab, &needs).unwrap().choice.id;
        let mut toggled = begin(&mut lab, Schedule::none());
        toggled.step(&mut lab, &needs).unwrap();
        toggled.edit_always(&mut lab, vec![edit.clone()]).unwrap();
        assert_eq!(toggled.receipts()[0].fired, 7);
        let mut off = edit.clone();
        off.on = false;
        toggled.edit_always(&mut lab, vec![off]).unwrap();
        plain.rewind(&mut lab, 7).unwrap();
        assert_eq!(toggled.run.tokens[6], first);
        toggled.step(&mut lab, &needs).unwrap();
        plain.step(&mut lab, &needs).unwrap();
        assert_eq!(toggled.output().unwrap(), plain.output().unwrap());
    }
}

#[test]
fn receipts_are_measured_beside_a_control() {
    for lab in dense_families() {
        let (mut lab, vector) = with_direction(lab);
        let run = edited(
            prompt(10),
            &["add:d@resid_pre.1:3..5*2", "zero:1@mlp_act.0:20..30"],
        );
        let receipts = lab.receipts(&run).unwrap();
        assert_eq!(receipts[0].fired, 2);
        let x = lab
            .record(&run.unedited(), &[Site::ResidPre.at(1)])
            .unwrap();
        let x = x
            .get(Site::ResidPre.at(1))
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        let expected =
            (2.0 * norm(&vector) / norm(&x[3]) + 2.0 * norm(&vector) / norm(&x[4])) / 2.0;
        assert!(
            (receipts[0].relative - expected).abs() < 1e-3 * expected,
            "{} {expected}",
            receipts[0].relative
        );
        assert!(receipts[0].kl.unwrap() > 0.0 && receipts[0].control.unwrap() > 0.0);
        assert_ne!(receipts[0].kl, receipts[0].control);
        assert!(
            receipts[1].idle(),
            "an edit past the end fired nowhere and says so"
        );
        assert_eq!(receipts[1].kl, Some(0.0));
    }
}

#[test]
fn an_edit_that_does_not_fit_is_refused_with_the_numbers() {
    for lab in dense_families() {
        let (mut lab, _) = with_direction(lab);
        let refuse = |lab: &mut Lab, text: &str| {
            lab.record(&edited(prompt(4), &[text]), &[Site::Logits.at(0)])
                .unwrap_err()
                .to_string()
        };
        let width = lab.model.card.d_mlp.to_string();
        assert!(refuse(&mut lab, "add:d@mlp_act.0").contains(&width));
        assert!(refuse(&mut lab, "zero:99999@mlp_act.0").contains("99999"));
        let layers = format!("{} layers", lab.model.card.layers);
        assert!(refuse(&mut lab, "zero:0@mlp_act.77").contains(&layers));
        assert!(refuse(&mut lab, "add:nosuch@resid_pre.0").contains("nosuch"));
        lab.directions.get_mut("d").unwrap().origin.revision = "another".into();
        assert!(refuse(&mut lab, "add:d@resid_pre.0").contains("another"));
    }
}

#[test]
fn heads_are_units_at_z() {
    for mut lab in every_family() {
        let at = Site::Z.at(0);
        let cut = lab
            .record(&edited(prompt(6), &["zero:2@z.0"]), &[at])
            .unwrap();
        let whole = lab.record(&Run::plain(prompt(6)), &[at]).unwrap();
        for head in 0..lab.model.card.heads {
            let (cut, whole) = (
                cut.get(at).unwrap().narrow(1, head, 1).unwrap(),
                whole.get(at).unwrap().narrow(1, head, 1).unwrap(),
            );
            assert_eq!(reach(&cut) == 0.0, head == 2);
            assert_eq!(same_bits(&cut, &whole), head != 2);
        }
    }
}

#[test]
fn batch_rows_do_not_see_each_other() {
    for lab in every_family() {
        let (a, b) = (prompt(9), prompt(20)[11..].to_vec());
        let both = Tensor::new(vec![a.clone(), b.clone()], &Device::Cpu).unwrap();
        let run = |ids: &Tensor| {
            lab.model
                .transformer
                .trunk(ids, PassSpan::prompt(9), None, &mut NoTap)
                .unwrap()
        };
        let rows = run(&both);
        for (i, ids) in [a, b].iter().enumerate() {
            let alone = run(&lab.model.tokens(ids).unwrap());
            let apart = gap(&rows.narrow(0, i, 1).unwrap(), &alone);
            assert!(
                apart < 1e-5 * reach(&alone),
                "{}: {apart}",
                lab.model.card.name
            );
        }
    }
}

#[test]
fn a_cache_can_be_cut_and_copied() {
    for lab in every_family() {
        let transformer = &lab.model.transformer;
        let ids = |tokens: &[u32]| lab.model.tokens(tokens).unwrap();
        let mut cache = lab.model.cache(1).unwrap();
        transformer
            .trunk(
                &ids(&prompt(8)),
                PassSpan::prompt(8),
                Some(&mut cache),
                &mut NoTap,
            )
            .unwrap();
        let step = |cache: &mut lmscope::model::network::cache::Cache| {
            let span = PassSpan {
                start: cache.len(),
                len: 1,
                prompt: 6,
                phase: lmscope::model::network::tap::PassPhase::Decode,
            };
            transformer
                .trunk(&ids(&[9]), span, Some(cache), &mut NoTap)
                .unwrap()
        };
        cache.truncate(6);
        let mut copy = cache.copy(1).unwrap();
        let cut = step(&mut cache);
        let whole: Vec<u32> = prompt(8)[..6].iter().copied().chain([9]).collect();
        let fresh = transformer
            .trunk(&ids(&whole), PassSpan::prompt(7), None, &mut NoTap)
            .unwrap();
        assert!(gap(&cut, &fresh.narrow(1, 6, 1).unwrap()) < 1e-5);
        step(&mut cache);
        assert_eq!(copy.len(), 6, "the copy does not grow with the original");
        assert!(same_bits(&step(&mut copy), &cut));
    }
}

/// Seeded standard normal numbers, `[1, 6, width]`.
fn noise(seed: u64, width: usize) -> Tensor {
    let values = normals(&mut StdRng::seed_from_u64(seed), 6 * width);
    Tensor::from_vec(values, (1, 6, width), &Device::Cpu).unwrap()
}

/// Replaces the embedding by a tensor of our own and lets gradients through.
struct Inject(Tensor);

impl Tap for Inject {
    fn visit(&mut self, at: Address, x: Tensor) -> Result<Tensor> {
        Ok(if at.site == Site::Embed {
            self.0.clone()
        } else {
            x
        })
    }
    fn differentiable(&self) -> bool {
        true
    }
}

#[test]
fn gradients_agree_with_finite_differences_and_both_paths_with_each_other() {
    for lab in every_family() {
        let transformer = &lab.model.transformer;
        let ids = lab.model.tokens(&prompt(6)).unwrap();
        let score = |x: &Tensor, tap: &mut dyn Tap| {
            let _ = x;
            let end = transformer
                .trunk(&ids, PassSpan::prompt(6), None, tap)
                .unwrap();
            let logits = transformer.read_out(&end, tap).unwrap();
            logits
                .narrow(1, 5, 1)
                .unwrap()
                .narrow(2, 4, 1)
                .unwrap()
                .sum_all()
                .unwrap()
        };
        let fused = score(&ids, &mut NoTap).to_scalar::<f32>().unwrap();
        let plain = score(&ids, &mut GradientTap).to_scalar::<f32>().unwrap();
        assert!((fused - plain).abs() < 1e-4, "{fused} {plain}");

        let width = lab.model.card.d_model;
        let start = noise(1, width);
        let way = noise(2, width);
        let at = |x: Tensor| score(&ids, &mut Inject(x)).to_scalar::<f32>().unwrap();
        let step = 3e-3;
        let numeric = (at((&start + (&way * step).unwrap()).unwrap())
            - at((&start - (&way * step).unwrap()).unwrap()))
            / (2.0 * step as f32);
        let leaf = Var::from_tensor(&start).unwrap();
        let grads = score(&ids, &mut Inject(leaf.as_tensor().clone()))
            .backward()
            .unwrap();
        let exact = (grads.get(&leaf).expect("the graph reaches the embedding") * way)
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        assert!(
            (numeric - exact).abs() < 2e-2 * exact.abs().max(1.0),
            "{}: {numeric} {exact}",
            lab.model.card.name
        );
    }
}

#[test]
fn sites_that_a_family_lacks_are_refused_with_what_to_use() {
    let mut lab = tiny(
        lmscope::model::network::families::FAMILIES
            .iter()
            .find(|f| f.name == "gpt2")
            .unwrap(),
    );
    let error = lab
        .record(&Run::plain(prompt(3)), &[Site::MlpGate.at(1)])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("mlp_gate.1") && error.contains("mlp_up.1"),
        "{error}"
    );
    assert!(
        lab.record(&Run::plain(prompt(3)), &[Site::MlpAct.at(9)])
            .is_err()
    );
    assert!(lab.record(&Run::plain(vec![]), &[]).is_err());
    let long = lab
        .record(&Run::plain(prompt(97)), &[])
        .unwrap_err()
        .to_string();
    assert!(long.contains("97") && long.contains("96"), "{long}");
}

#[test]
fn an_edit_after_the_last_block_acts_at_its_own_position() {
    for mut lab in every_family() {
        let run = edited(prompt(70), &["zero:0,1,2@final_norm:69"]);
        let plain = lab.last_logits(&run.unedited()).unwrap();
        assert_ne!(lab.last_logits(&run).unwrap(), plain);
        let elsewhere = edited(prompt(70), &["zero:0,1,2@final_norm:0"]);
        assert_eq!(lab.last_logits(&elsewhere).unwrap(), plain);
        let lens = instrument("lens").unwrap();
        let figure = lens.observe(&run, &Arguments::default(), &mut lab).unwrap();
        assert_eq!(
            figure.check, None,
            "the lens does not see past the last block, and says nothing"
        );
    }
}

#[test]
fn controls_have_equal_size_and_other_units() {
    for lab in dense_families() {
        let (mut lab, _) = with_direction(lab);
        let run = edited(prompt(6), &["zero:1,2@mlp_act.0"]);
        let at = Site::MlpAct.at(0);
        let plain = lab.record(&Run::plain(prompt(6)), &[at]).unwrap();
        let plain = values(&plain.get(at).unwrap().get(3).unwrap());
        let mut program = lab
            .compile(&run.clone().under(&run.schedule.control(3)))
            .unwrap();
        let mut tap = RunTap::new(
            RowPrograms::all(&mut program),
            &[],
            std::slice::from_ref(&at),
            RecordedPositions::All,
            lab.guard(),
        );
        lab.model
            .transformer
            .trunk(
                &lab.model.tokens(&run.tokens).unwrap(),
                PassSpan::prompt(6),
                None,
                &mut tap,
            )
            .unwrap();
        let row = tap.recorded[&at]
            .squeeze(0)
            .unwrap()
            .to_vec2::<f32>()
            .unwrap()[3]
            .clone();
        let zeros: Vec<usize> = (0..row.len())
            .filter(|i| row[*i] == 0.0 && plain[*i] != 0.0)
            .collect();
        let already = plain.iter().filter(|v| **v == 0.0).count();
        assert!(
            zeros.len() == 2 || (already > 0 && zeros.len() <= 2),
            "{zeros:?}"
        );
        assert!(!zeros.contains(&1) && !zeros.contains(&2), "{zeros:?}");
    }
}
