//! The residual stream as a sum: on every family, against brute force, under edits, and refused where there is no sum.

use std::path::Path;

use candle_core::Tensor;
use lmscope::edit::direction::{Direction, DirectionOrigin};
use lmscope::edit::schedule::Schedule;
use lmscope::figure::{Body, Figure, Scale};
use lmscope::instruments::residual::attribution::{Attribution, AttributionRequest, LogitPart};
use lmscope::instruments::residual::decomposition::{of_attention, of_mlp};
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::effect::EffectScale;
use lmscope::lab::run::Run;
use lmscope::lab::sample::Sampling;
use lmscope::lab::target::LogitTarget;
use lmscope::lab::writer::Writer;
use lmscope::model::load::Options;
use lmscope::model::network::blueprint::NormKind;
use lmscope::model::network::families::FAMILIES;
use lmscope::model::network::site::Site;

use super::tools::{dense_families, edited, every_family, next, prompt, tiny, values};

const LENGTH: usize = 30;

fn pair() -> AttributionRequest {
    AttributionRequest {
        target: Some(LogitTarget {
            token: 3,
            minus: Some(11),
        }),
        scale: EffectScale::Logit,
    }
}

fn one() -> AttributionRequest {
    AttributionRequest {
        target: Some(LogitTarget::one(7)),
        scale: EffectScale::Logit,
    }
}

fn observe(lab: &mut Lab, run: &Run, arguments: &[(&str, &str)]) -> Figure {
    let mut given = Arguments::default();
    for (name, value) in arguments {
        given = given.with(name, value);
    }
    instrument("residual")
        .unwrap()
        .observe(run, &given, lab)
        .unwrap()
}

/// Rows of a recorded address at one position, f32.
fn row(lab: &mut Lab, run: &Run, site: Site, layer: usize, position: usize) -> Vec<f32> {
    let at = site.at(layer);
    let recording = lab.record(run, &[at]).unwrap();
    values(&recording.get(at).unwrap().get(position).unwrap())
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let both = a.iter().zip(b);
    both.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn near(found: f32, expected: f64, reach: f32, what: &str) {
    let gap = (f64::from(found) - expected).abs();
    assert!(
        gap <= 2e-5 * f64::from(reach.max(1.0)),
        "{what}: {found} is not {expected}"
    );
}

fn sum(whole: &Attribution, i: usize) -> f64 {
    whole.shares[i].iter().map(|s| f64::from(s.effect)).sum()
}

#[test]
fn the_parts_sum_to_the_stream_and_to_the_model_s_own_logit() {
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        let run = Run::plain(prompt(LENGTH));
        let raw = lab.record(&run, &[Site::LogitsRaw.at(0)]).unwrap();
        let raw = raw.get(Site::LogitsRaw.at(0)).unwrap().to_vec2::<f32>();
        let (raw, scale) = (raw.unwrap(), lab.model.transformer.blueprint.logit_scale);
        let known = lab.model.known_tokens();
        let any = AttributionRequest {
            scale: EffectScale::Logit,
            ..AttributionRequest::default()
        };
        for question in [pair(), one(), any] {
            let whole = lab.attribute(&run, 0..LENGTH, question).unwrap();
            assert!(whole.check.passed(), "{name}: {:?}", whole.check);
            assert!(whole.check.tolerance < 1e-2, "{name}: {:?}", whole.check);
            assert!(whole.stream_error <= 1e-5, "{name}: {}", whole.stream_error);
            for (i, logits) in raw.iter().enumerate() {
                let target = whole.targets[i];
                let own = f64::from(target.of(logits)) * scale;
                let reach = logits.iter().fold(0f32, |m, v| m.max(v.abs())) * scale as f32;
                near(whole.logits[i], own, reach, &name);
                near(sum(&whole, i) as f32, own, reach, &name);
                if question.target.is_none() {
                    let best = logits[..known].iter().copied().fold(f32::MIN, f32::max);
                    assert_eq!(logits[target.token as usize], best, "{name}");
                }
            }
        }
        // By default it is the log-probability that is split: its parts sum to it and the entropy.
        let whole = lab.attribute(
            &run,
            5..9,
            AttributionRequest {
                target: Some(LogitTarget::one(7)),
                ..AttributionRequest::default()
            },
        );
        let whole = whole.unwrap();
        assert!(whole.check.passed(), "{name}: {:?}", whole.check);
        for (i, logits) in raw[5..9].iter().enumerate() {
            let cap = lab.model.transformer.blueprint.logit_cap;
            let capped = |z: f64| cap.map_or(z, |cap| cap * (z / cap).tanh());
            let z: Vec<f64> = logits.iter().map(|z| f64::from(*z) * scale).collect();
            let total: f64 = z.iter().map(|z| capped(*z).exp()).sum();
            let slope = |z: f64| cap.map_or(1.0, |cap| 1.0 - (capped(z) / cap).powi(2));
            let mean: f64 = z
                .iter()
                .map(|z| capped(*z).exp() / total * slope(*z) * z)
                .sum();
            let own = slope(z[7]) * z[7] - mean;
            near(sum(&whole, i) as f32, own, 10.0, &name);
            if cap.is_none() {
                let entropy: f64 = z
                    .iter()
                    .map(|z| -(z.exp() / total) * (z - total.ln()))
                    .sum();
                near(
                    sum(&whole, i) as f32,
                    z[7] - total.ln() + entropy,
                    10.0,
                    &name,
                );
            }
        }
        let centred = AttributionRequest {
            scale: EffectScale::Centred,
            ..one()
        };
        let whole = lab.attribute(&run, 5..9, centred).unwrap();
        assert!(whole.check.passed(), "{name}: {:?}", whole.check);
        for (i, logits) in raw[5..9].iter().enumerate() {
            let mean = logits[..known].iter().map(|z| f64::from(*z)).sum::<f64>() / known as f64;
            let own = (f64::from(logits[7]) - mean) * scale;
            near(sum(&whole, i) as f32, own, 10.0, &name);
        }
    }
}

/// Every part by the formula, in f64, from the weights themselves: nothing of the code under test but the recording.
#[test]
fn every_part_is_what_the_formula_says() {
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        let run = Run::plain(prompt(LENGTH));
        let layers = lab.model.card.layers;
        let whole = lab.attribute(&run, 0..LENGTH, pair()).unwrap();
        let transformer = lab.model.transformer.clone();
        let shape = &transformer.blueprint;
        let table = transformer.head.weight().unwrap();
        let table = match &transformer.project_out {
            Some(p) => table.matmul(&p.weight().unwrap()).unwrap(),
            None => table,
        };
        let table = table.to_vec2::<f32>().unwrap();
        let gain = values(&transformer.norm.gain);
        for position in [0, 1, LENGTH - 1] {
            let end = row(&mut lab, &run, Site::ResidPost, layers - 1, position);
            let mean = |v: &[f32]| match transformer.norm.kind {
                NormKind::Layer => v.iter().map(|x| f64::from(*x)).sum::<f64>() / v.len() as f64,
                NormKind::Rms | NormKind::Identity => 0.0,
            };
            let middle = mean(&end);
            let square = end
                .iter()
                .map(|x| (f64::from(*x) - middle).powi(2))
                .sum::<f64>();
            let size = (square / end.len() as f64 + transformer.norm.epsilon).sqrt();
            let size = if transformer.norm.kind == NormKind::Identity {
                1.0
            } else {
                size
            };
            let by_hand = |part: &[f32]| -> f64 {
                let middle = mean(part);
                let each = part.iter().zip(&gain).enumerate();
                let each = each.map(|(i, (c, g))| {
                    let u = f64::from(table[3][i]) - f64::from(table[11][i]);
                    (f64::from(*c) - middle) / size * f64::from(*g) * u
                });
                each.sum::<f64>() * shape.logit_scale
            };
            let mut stream = row(&mut lab, &run, Site::Embed, 0, position);
            let embed = by_hand(&stream);
            let found: f32 = [LogitPart::Embed, LogitPart::Token, LogitPart::Position]
                .iter()
                .map(|p| whole.effect(position, *p))
                .sum();
            near(found, embed, 10.0, &format!("{name} embed"));
            for layer in 0..layers {
                let writes = [
                    (Site::AttnAdd, LogitPart::Attention(layer)),
                    (Site::MlpAdd, LogitPart::Mlp(layer)),
                ];
                for (site, part) in writes {
                    let own = row(&mut lab, &run, site, layer, position);
                    let what = format!("{name} {} at {position}", part.name());
                    near(whole.effect(position, part), by_hand(&own), 10.0, &what);
                    let k = whole.parts.iter().position(|p| *p == part).unwrap();
                    let share = whole.shares[position][k];
                    let size = dot(&own, &own).sqrt();
                    near(share.size, size, size as f32, &what);
                    let cosine = dot(&own, &stream) / size / dot(&stream, &stream).sqrt();
                    near(share.cosine, cosine, 1.0, &what);
                    stream.iter_mut().zip(&own).for_each(|(x, c)| *x += c);
                }
            }
            let shares: f32 = whole.shares[position].iter().map(|s| s.share).sum();
            near(shares, 1.0, 1.0, &name);
        }
        let learned = transformer.positions.is_some();
        assert_eq!(
            whole.parts.contains(&LogitPart::Position),
            learned,
            "{name}"
        );
        let biased = transformer.norm.bias.is_some();
        assert_eq!(whole.parts.contains(&LogitPart::NormBias), biased, "{name}");
    }
}

#[test]
fn heads_and_the_tokens_they_read_sum_to_attention() {
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        let run = Run::plain(prompt(LENGTH));
        let layers: Vec<usize> = (0..lab.model.card.layers).collect();
        let normed = lab.model.card.norms_writes;
        let shape = lab.model.transformer.blueprint.clone();
        let wanted = [
            of_attention(&layers, normed, true),
            of_attention(&layers, normed, false),
        ];
        let recording = lab.record(&run, &wanted.concat()).unwrap();
        let first = LENGTH - 4;
        let whole = lab.attribute(&run, first..LENGTH, pair()).unwrap();
        for layer in layers {
            let heads = whole.heads(&lab, &run, &recording, layer).unwrap();
            assert!(!heads.edited);
            let direction = whole.directions.to_vec2::<f32>().unwrap();
            for i in 0..4 {
                assert!(heads.rest[i].abs() <= heads.tolerance, "{name}: {heads:?}");
                assert!(heads.tolerance < 1e-3, "{name}: {heads:?}");
                let z = row(&mut lab, &run, Site::Z, layer, first + i);
                let out = row(&mut lab, &run, Site::AttnOut, layer, first + i);
                let scale = lab.model.transformer.attention_scale(layer, &out);
                for (head, z) in z.chunks(shape.head_dim).enumerate() {
                    let transformer = &lab.model.transformer;
                    let written = transformer.head_write(layer, head, z).unwrap();
                    let added = transformer.head_added(layer, &written, scale).unwrap();
                    let expected = dot(&added, &direction[i]);
                    near(heads.values[i][head], expected, 1.0, &name);
                }
            }
            let sources = whole.sources(&lab, &run, &recording, layer, 3).unwrap();
            assert!(sources.rest[0].abs() <= sources.tolerance, "{name}");
            assert_eq!(sources.values[0].len(), shape.heads * LENGTH);
            for head in 0..shape.heads {
                let own = &sources.values[0][head * LENGTH..][..LENGTH];
                let all: f64 = own.iter().map(|v| f64::from(*v)).sum();
                near(heads.values[3][head], all, 1.0, &name);
            }
            // A value set to nothing takes exactly what was read from its position, and only from its heads.
            let (source, group) = (LENGTH - 2, shape.heads / shape.kv_heads);
            let cut = format!("zero:0@v.{layer}:{source}");
            let without = edited(prompt(LENGTH), &[&cut]);
            let before = row(&mut lab, &run, Site::Z, layer, LENGTH - 1);
            let after = row(&mut lab, &without, Site::Z, layer, LENGTH - 1);
            let out = row(&mut lab, &run, Site::AttnOut, layer, LENGTH - 1);
            let scale = lab.model.transformer.attention_scale(layer, &out);
            for head in 0..shape.heads {
                let span = head * shape.head_dim..(head + 1) * shape.head_dim;
                let lost: Vec<f32> = before[span.clone()]
                    .iter()
                    .zip(&after[span])
                    .map(|(b, a)| b - a)
                    .collect();
                let transformer = &lab.model.transformer;
                let written = transformer.head_write(layer, head, &lost).unwrap();
                let added = transformer.head_added(layer, &written, scale).unwrap();
                let expected = if head < group {
                    dot(&added, &direction[3])
                } else {
                    assert!(lost.iter().all(|v| *v == 0.0), "{name}");
                    continue;
                };
                let found = sources.values[0][head * LENGTH + source];
                near(found, expected, 1.0, &format!("{name} {layer}.{head}"));
            }
        }
    }
}

#[test]
fn neurons_sum_to_their_mlp() {
    for mut lab in dense_families() {
        let name = lab.model.card.name.clone();
        let run = Run::plain(prompt(LENGTH));
        let layers: Vec<usize> = (0..lab.model.card.layers).collect();
        let wanted = of_mlp(&layers, lab.model.card.norms_writes);
        let recording = lab.record(&run, &wanted).unwrap();
        let whole = lab.attribute(&run, LENGTH - 3..LENGTH, one()).unwrap();
        for layer in layers {
            let pieces = whole.neurons(&lab, &run, &recording, layer).unwrap();
            let direction = whole.directions.to_vec2::<f32>().unwrap();
            for i in 0..3 {
                assert!(pieces.rest[i].abs() <= pieces.tolerance, "{name}: {layer}");
                let position = LENGTH - 3 + i;
                let acts = row(&mut lab, &run, Site::MlpAct, layer, position);
                let out = row(&mut lab, &run, Site::MlpOut, layer, position);
                let transformer = &lab.model.transformer;
                let factor = transformer.write_factor(layer, &out);
                for neuron in [0, 5, acts.len() - 1] {
                    let vector = values(&transformer.value_vector(layer, neuron).unwrap());
                    let expected = dot(&vector, &direction[i]) * f64::from(acts[neuron] * factor);
                    near(pieces.values[i][neuron], expected, 1.0, &name);
                }
            }
        }
    }
}

#[test]
fn what_edits_move_is_a_part_and_the_sum_stays_exact() {
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        let width = lab.model.card.d_model;
        let vector: Vec<f32> = (0..width).map(|i| (i * 7919 % 13) as f32 - 6.0).collect();
        let direction = Direction {
            rows: vec![(Site::ResidPre.at(0), vector)],
            origin: DirectionOrigin::default(),
        };
        lab.directions.insert("d".into(), direction);
        let mid = lab.model.offers(Site::ResidMid.at(0)).is_ok();
        let mut edits = vec![
            "add:d@resid_pre.1:last",
            "scale@resid_post.0*1.5",
            "scale@resid_post.1*0.5",
            "scale@attn_out.0*3",
            "scale:0@embed*0.5",
        ];
        if mid {
            edits.push("zero:1,2@resid_mid.1");
        }
        let run = edited(prompt(LENGTH), &edits);
        let whole = lab.attribute(&run, 0..LENGTH, pair()).unwrap();
        assert!(whole.check.passed(), "{name}: {:?}", whole.check);
        assert!(whole.stream_error < 1e-5, "{name}: {}", whole.stream_error);
        let k = |at| whole.parts.iter().position(|p| *p == LogitPart::Edits(at));
        let added = k(Site::ResidPre.at(1)).unwrap();
        assert_eq!(whole.shares[4][added].effect, 0.0, "{name}");
        assert!(whole.shares[LENGTH - 1][added].size > 1.0, "{name}");
        assert_eq!(k(Site::ResidMid.at(1)).is_some(), mid, "{name}");
        assert!(k(Site::AttnOut.at(0)).is_none());
        // The write is attributed as it was edited, and its heads say that they do not make it up.
        let wanted = of_attention(&[0], lab.model.card.norms_writes, false);
        let recording = lab.record(&run, &wanted).unwrap();
        let heads = whole.heads(&lab, &run, &recording, 0).unwrap();
        assert!(heads.edited, "{name}");
        for by in ["head", "source"] {
            let figure = observe(&mut lab, &run, &[("by", by), ("token", "#7")]);
            assert!(figure.check.unwrap().passed(), "{name} {by}");
            let said = figure
                .notes
                .iter()
                .any(|n| n.contains("edits of the component outputs"));
            assert_eq!(said, heads.rest[LENGTH - 1].abs() > 0.0, "{name} {by}");
        }
        // Live figures record other sites and come to the same sum.
        let residual = instrument("residual").unwrap();
        let arguments = Arguments::default().with("token", "#7");
        assert!(residual.live(&lab.model.card, &arguments));
        let schedule = run.schedule.clone();
        let text = prompt(LENGTH);
        let mut writer = Writer::begin(&mut lab, text, schedule, Sampling::default()).unwrap();
        let live = next(residual, &mut writer, &arguments, &mut lab);
        assert!(live.check.unwrap().passed(), "{name}: {:?}", live.check);
        let whole = residual.observe(&writer.run, &arguments, &mut lab).unwrap();
        let effects = |figure: &Figure| -> f64 {
            let Body::Series(series) = &figure.body else {
                panic!("a series")
            };
            let curve = &series.curves[0];
            let (sum, total) = (curve.sum(), curve.total.unwrap());
            assert!((sum - total).abs() < 1e-3, "{name}: {sum} {total}");
            f64::from(total)
        };
        let both = (effects(&live), effects(&whole));
        assert!((both.0 - both.1).abs() < 1e-3, "{name}: {both:?}");
        // A bar for a head of one layer, and one for what the edit of the write made of them.
        let figure = observe(
            &mut lab,
            &run,
            &[("by", "head"), ("layer", "0"), ("token", "#7")],
        );
        assert!((effects(&figure)).is_finite());
        let mut twice = live;
        twice.append(whole.clone().into());
        assert_eq!(twice.body, whole.body, "a waterfall is of one position");
    }
}

#[test]
fn live_pages_are_those_of_the_whole_figure() {
    for mut lab in every_family() {
        let name = lab.model.card.name.clone();
        let residual = instrument("residual").unwrap();
        let arguments = Arguments::default().with("window", 8);
        assert!(residual.live(&lab.model.card, &arguments));
        let text = prompt(5);
        let mut writer =
            Writer::begin(&mut lab, text, Schedule::none(), Sampling::default()).unwrap();
        let live = next(residual, &mut writer, &arguments, &mut lab);
        let whole = residual.observe(&writer.run, &arguments, &mut lab).unwrap();
        let (Body::Grid(live), Body::Grid(whole)) = (&live.body, &whole.body) else {
            panic!("grids")
        };
        assert_eq!(live.rows, whole.rows, "{name}");
        let last = whole.columns.len() - 1;
        assert_eq!(live.columns[0], whole.columns[last], "{name}");
        for (a, b) in live.cells[0].iter().zip(&whole.cells[last]) {
            assert!((a.value - b.value).abs() < 1e-4, "{name}: {a:?} {b:?}");
            assert_eq!(a.anchor, b.anchor);
        }
    }
}

#[test]
fn capped_logits_are_attributed_before_the_cap_and_the_figure_says_so() {
    let mut capped = 0;
    for mut lab in every_family() {
        let run = Run::plain(prompt(LENGTH));
        let figure = observe(&mut lab, &run, &[("token", "#3")]);
        let cap = lab.model.transformer.blueprint.logit_cap;
        let said = figure.notes.iter().any(|n| n.contains("before the cap"));
        assert_eq!(said, cap.is_some(), "{}", lab.model.card.name);
        let Some(cap) = cap else { continue };
        capped += 1;
        let whole = lab.attribute(
            &run,
            LENGTH - 1..LENGTH,
            AttributionRequest {
                target: Some(LogitTarget::one(3)),
                scale: EffectScale::Logit,
            },
        );
        let own = whole.unwrap().logits[0];
        let seen = lab.last_logits(&run).unwrap()[3];
        assert!((cap as f32 * (own / cap as f32).tanh() - seen).abs() < 1e-4);
        assert!((own - seen).abs() > 1e-6, "the cap does something here");
    }
    assert!(capped > 0);
}

#[test]
fn a_stream_that_is_normed_between_writes_is_refused_with_the_reason() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references/opt_350m");
    let mut lab = Lab::open(folder.to_str().unwrap(), &Options::default()).unwrap();
    let run = Run::plain(vec![1, 2, 3]);
    for by in ["layer", "head", "neuron", "source"] {
        let arguments = Arguments::default().with("by", by).with("token", "#3");
        let error = instrument("residual")
            .unwrap()
            .observe(&run, &arguments, &mut lab)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("not a sum of component outputs"),
            "{by}: {error}"
        );
    }
    // Nor is it offered at every new token.
    let residual = instrument("residual").unwrap();
    assert!(!residual.live(&lab.model.card, &Arguments::default()));
}

/// O11 on figures: whatever the first position holds, colours and everybody else's numbers stay.
#[test]
fn the_first_position_has_no_part_in_the_colours() {
    let llama = FAMILIES.iter().find(|f| f.name == "llama").unwrap();
    let mut lab = tiny(llama);
    let width = lab.model.card.d_model;
    let run = Run::plain(prompt(8));
    let scale = |figure: &Figure| match &figure.body {
        Body::Grid(grid) => grid.scale,
        other => panic!("{other:?}"),
    };
    let loud = Tensor::full(300f32, width, &candle_core::Device::Cpu).unwrap();
    let direction = Direction {
        rows: vec![(Site::MlpAdd.at(1), values(&loud))],
        origin: DirectionOrigin::default(),
    };
    lab.directions.insert("loud".into(), direction);
    for value in ["effect", "size"] {
        let arguments = [("window", "8"), ("value", value), ("token", "#7")];
        let plain = observe(&mut lab, &run, &arguments);
        let last = lab.model.card.layers - 1;
        // After the last block nobody reads it any more, so only the first column changes.
        let edit = format!("add:loud@mlp_add.{last}:0");
        let sunk = observe(&mut lab, &edited(prompt(8), &[&edit]), &arguments);
        let (Scale::Range { hi: a, .. } | Scale::Diverging { reach: a }) = scale(&plain) else {
            panic!("a scale with an end")
        };
        let (Scale::Range { hi: b, .. } | Scale::Diverging { reach: b }) = scale(&sunk) else {
            panic!("a scale with an end")
        };
        assert_eq!(a, b, "{value}");
        let (Body::Grid(plain), Body::Grid(sunk)) = (&plain.body, &sunk.body) else {
            panic!("grids")
        };
        assert_ne!(plain.cells[0], sunk.cells[0], "{value}");
        assert_eq!(plain.cells[1..], sunk.cells[1..], "{value}");
    }
}

/// What a live figure says goes with what it shows: the waterfall of the newest token, its title and its notes.
#[test]
fn a_live_figure_speaks_of_what_it_shows() {
    let residual = instrument("residual").unwrap();
    let mut moved = 0;
    for mut lab in dense_families() {
        for window in [1, 8] {
            let name = format!("{} {window}", lab.model.card.name);
            let arguments = Arguments::default().with("window", window);
            assert!(residual.live(&lab.model.card, &arguments));
            let sampling = Sampling::default();
            let mut writer =
                Writer::begin(&mut lab, prompt(1), Schedule::none(), sampling).unwrap();
            let mut live = next(residual, &mut writer, &arguments, &mut lab);
            let first = (live.title.clone(), live.notes.clone());
            for _ in 0..2 {
                let column = next(residual, &mut writer, &arguments, &mut lab);
                live.append(column.into());
            }
            let whole = residual.observe(&writer.run, &arguments, &mut lab).unwrap();
            assert_eq!(live.title, whole.title, "{name}");
            let after = |notes: &[String]| notes[0].split(':').next().map(str::to_owned);
            assert_eq!(after(&live.notes), after(&whole.notes), "{name}");
            assert_ne!(live.notes[0], first.1[0], "{name}");
            moved += usize::from(live.title != first.0);
            let value = |figure: &Figure| match &figure.body {
                Body::Grid(grid) => grid.value.clone(),
                Body::Series(series) => series.value.clone(),
                Body::Table(_) | Body::Graph(_) | Body::Text(_) => panic!("numbers"),
            };
            assert_eq!(value(&live), value(&whole), "{name}");
        }
    }
    assert!(moved > 0, "some model favours another token later");
}

/// Edits of the stream are parts that the unedited run lacks: all of them is difference, and it still sums.
#[test]
fn a_difference_is_of_one_logit_and_still_sums() {
    for family in [&FAMILIES[0], &FAMILIES[1]] {
        let mut lab = tiny(family);
        let edited = edited(prompt(LENGTH), &["scale@resid_post.0*1.5"]);
        let plain = Run::plain(prompt(LENGTH));
        let by = |lab: &mut Lab, run: &Run, token: &str, window: &str| {
            observe(lab, run, &[("token", token), ("window", window)])
        };
        let (a, b) = (
            by(&mut lab, &edited, "#7", "1"),
            by(&mut lab, &plain, "#7", "1"),
        );
        let less = a.minus(&b).unwrap();
        let (Body::Series(less), Body::Series(a), Body::Series(b)) = (&less.body, &a.body, &b.body)
        else {
            panic!("series")
        };
        let part = less
            .points
            .iter()
            .position(|p| p.label.starts_with("edit "));
        let part = part.unwrap();
        assert_eq!(less.curves[0].values[part], a.curves[0].values[part]);
        let mlp = a.points.iter().position(|p| p.label == "mlp 1").unwrap();
        let same = b.points.iter().position(|p| p.label == "mlp 1").unwrap();
        assert_ne!(mlp, same, "the parts of the edit stand between");
        let expected = a.curves[0].values[mlp] - b.curves[0].values[same];
        assert_eq!(less.curves[0].values[mlp], expected);
        let total = less.curves[0].total.unwrap();
        assert!((less.curves[0].sum() - total).abs() < 1e-3);
        let other = by(&mut lab, &plain, "#3", "1");
        let said = by(&mut lab, &edited, "#7", "1").minus(&other);
        let said = said.unwrap_err().to_string();
        assert!(said.contains("Name the token"), "{said}");
        let (a, b) = (
            by(&mut lab, &edited, "#7", "4"),
            by(&mut lab, &plain, "#7", "4"),
        );
        assert!(a.minus(&b).is_ok());
    }
}

/// A grid of favoured tokens is compared only where both runs favour the same.
#[test]
fn a_grid_of_other_top_predictions_has_no_difference() {
    let mut lab = tiny(&FAMILIES[0]);
    let last = lab.model.card.layers - 1;
    let turned = edited(prompt(6), &[&format!("scale@resid_post.{last}*-1")]);
    let plain = Run::plain(prompt(6));
    for by in ["layer", "head"] {
        let asked = [("window", "4"), ("by", by)];
        let a = observe(&mut lab, &turned, &asked);
        let b = observe(&mut lab, &plain, &asked);
        let said = a.minus(&b).unwrap_err().to_string();
        assert!(said.contains("token #"), "{by}: {said}");
        assert!(b.minus(&b).is_ok(), "{by}");
    }
}
