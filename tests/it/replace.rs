//! Replacing and reading on: every trial against the whole run with the same values put in, on every family.

use candle_core::{DType, Device, Tensor};
use lmscope::edit::direction::{Direction, DirectionOrigin};
use lmscope::lab::Lab;
use lmscope::lab::capture::{After, Capture, Output};
use lmscope::lab::pass::{Pass, PassRow, Patch};
use lmscope::lab::run::Run;
use lmscope::model::network::site::{Address, Site};

use super::tools::{dense_families, edited, every_family, prompt, read_again, tiny, values};

/// Numbers that are nobody's state, of the size of a state.
fn noise(seed: u64, width: usize) -> Tensor {
    let number = |i: usize| {
        let mixed = (seed + 1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add((i as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9));
        ((mixed >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 2.0
    };
    let numbers: Vec<f32> = (0..width).map(number).collect();
    Tensor::new(numbers.as_slice(), &Device::Cpu).unwrap()
}

fn gap(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

/// A run whose rows may differ from a position on, read after its last token.
fn reading(run: &Run, from: usize) -> Pass {
    Pass {
        from: Some(from),
        ..Pass::after(run.clone(), Output::whole(After::Last(1)))
    }
}

/// The logits of every trial.
fn collect(pass: &Pass, lab: &mut Lab, trials: &[Vec<Patch>]) -> Vec<Vec<f32>> {
    let pass = Pass {
        rows: trials.iter().cloned().map(PassRow::patched).collect(),
        ..pass.clone()
    };
    let rows = lab.run(&pass).unwrap();
    assert_eq!(rows.len(), trials.len(), "every trial comes back once");
    rows.iter().map(|row| row.logits().to_vec()).collect()
}

/// The run itself.
fn own(pass: &Pass, lab: &mut Lab) -> Capture {
    lab.run_one(pass).unwrap()
}

/// Vec<Patch>s of every kind that a family offers, over several layers and positions: one slot, several, none.
fn trials(lab: &Lab, length: usize) -> Vec<Vec<Patch>> {
    let layers = lab.model.card.layers;
    let slot = |at: Address, position: usize, seed: usize| {
        Patch::new(at, position, noise(seed as u64, lab.model.width(at.site)))
    };
    let mut out: Vec<Vec<Patch>> = vec![vec![]];
    let sites = [
        Site::ResidPre,
        Site::AttnIn,
        Site::Q,
        Site::K,
        Site::V,
        Site::Z,
        Site::AttnOut,
        Site::AttnAdd,
        Site::ResidMid,
        Site::MlpAct,
        Site::MlpOut,
        Site::ResidPost,
    ];
    for layer in 0..layers {
        for (i, site) in sites.iter().enumerate() {
            let at = site.at(layer);
            if lab.model.offers(at).is_ok() {
                out.push(vec![slot(at, length - 1 - (i + layer) % 4, i)]);
            }
        }
    }
    let last = Site::ResidPost.at(layers - 1);
    out.push(vec![slot(Site::Embed.at(0), length - 6, 30)]);
    out.push(vec![slot(Site::Logits.at(0), length - 1, 31)]);
    out.push(vec![slot(last, length - 1, 32)]);
    // Earlier than anything else, several in one row, the higher block first.
    out.push(vec![
        slot(Site::ResidPost.at(1), 2, 33),
        slot(Site::ResidPost.at(0), length - 2, 34),
        slot(Site::MlpOut.at(0), length - 3, 35),
        slot(Site::ResidPre.at(1), length - 1, 36),
    ]);
    out
}

const EDITS: &[&[&str]] = &[
    &[],
    &[
        "scale@attn_out.0*1.3",
        "zero:1,2@mlp_out.1:3..30",
        "scale:0@resid_pre.1*2",
        "set:3=0.4@resid_post.0:last",
        "scale:0,1@resid_post.1:last*0.5",
    ],
];

#[test]
fn a_trial_is_the_whole_run_with_the_same_values_put_in() {
    // Longer than every window and than the original length of the dynamic rotations.
    for mut lab in every_family() {
        for length in [1, 11, 40] {
            for edits in EDITS {
                let run = edited(prompt(length), edits);
                let from = usize::from(length > 1);
                let mut all = if length == 1 {
                    let at = Site::ResidPost.at(0);
                    vec![vec![Patch::new(at, 0, noise(1, lab.model.card.d_model))]]
                } else {
                    trials(&lab, length)
                };
                let pass = reading(&run, from);
                let found = collect(&pass, &mut lab, &all);
                let plain = read_again(&mut lab, &run, length - 1, &[]);
                assert!(gap(own(&pass, &mut lab).logits(), &plain) < 1e-5);
                let (mut moved, count) = (0, all.len());
                for (trial, found) in all.drain(..).zip(&found) {
                    let expected = read_again(&mut lab, &run, length - 1, &trial);
                    let reach = expected.iter().fold(1f32, |m, v| m.max(v.abs()));
                    let error = gap(found, &expected) / reach;
                    let what: Vec<String> = trial
                        .iter()
                        .map(|s| format!("{}@{}", s.at, s.position))
                        .collect();
                    assert!(
                        error < 1e-5,
                        "{} {length} {edits:?} {what:?}: {error}",
                        lab.model.card.name
                    );
                    moved += usize::from(gap(found, &plain) > 1e-4);
                }
                // What lies in the last block before the last position is read by nothing.
                assert!(2 * moved >= count, "{moved} of {count} trials do something");
            }
        }
    }
}

#[test]
fn logits_may_be_read_anywhere_and_the_run_may_have_patches_of_its_own() {
    for mut lab in every_family() {
        let length = 30;
        let run = Run::plain(prompt(length));
        let width = lab.model.card.d_model;
        let common = vec![
            Patch::new(Site::Embed.at(0), 4, noise(50, width)),
            Patch::new(Site::MlpOut.at(1), 9, noise(51, width)),
            Patch::new(Site::ResidPost.at(0), 12, noise(52, width)),
        ];
        for read in [14, 20] {
            let pass = Pass {
                common: common.clone(),
                record: vec![Site::Z.at(1)],
                output: Output::whole(After::Each(read..read + 1)),
                ..reading(&run, 6)
            };
            let plain = own(&pass, &mut lab);
            assert!(gap(plain.logits(), &read_again(&mut lab, &run, read, &common)) < 1e-5);
            let all: Vec<Vec<Patch>> = vec![
                vec![Patch::new(Site::ResidPost.at(0), 8, noise(1, width))],
                vec![Patch::new(Site::AttnOut.at(1), 14, noise(2, width))],
                vec![Patch::new(Site::ResidPost.at(0), 12, noise(3, width))],
                vec![Patch::new(Site::MlpOut.at(1), 9, noise(4, width))],
            ];
            for (trial, found) in all.iter().zip(collect(&pass, &mut lab, &all)) {
                let both = [common.clone(), trial.clone()].concat();
                let expected = read_again(&mut lab, &run, read, &both);
                assert!(gap(&found, &expected) < 1e-5, "{}", lab.model.card.name);
            }
            // What it kept is what the run had, here with slots of its own.
            assert!(plain.get(Site::Z.at(0)).is_err(), "not asked for");
            let z = plain.get(Site::Z.at(1)).unwrap().get(8 - 6).unwrap();
            let same = vec![vec![Patch::new(Site::Z.at(1), 8, z)]];
            let found = collect(&pass, &mut lab, &same);
            assert!(gap(&found[0], plain.logits()) < 1e-5);
        }
    }
}

#[test]
fn a_head_is_replaced_alone() {
    for mut lab in every_family() {
        let run = Run::plain(prompt(12));
        let heads = lab.model.card.heads;
        let width = lab.model.transformer.blueprint.head_dim;
        let (at, position) = (Site::Z.at(0), 8);
        let pass = Pass {
            record: vec![at],
            ..reading(&run, 5)
        };
        let plain = own(&pass, &mut lab);
        let whole_z = plain.get(at).unwrap().get(position - 5).unwrap();
        for head in [0, heads - 1] {
            let value = noise(head as u64, width);
            let own = whole_z.get(head).unwrap();
            assert_eq!(
                values(&own),
                values(&whole_z)[head * width..(head + 1) * width]
            );
            let slot = |value: Tensor| {
                vec![Patch {
                    at,
                    position,
                    head: Some(head),
                    value,
                }]
            };
            let found = collect(&pass, &mut lab, &[slot(value.clone()), slot(own)]);
            let mut all = values(&whole_z);
            all[head * width..(head + 1) * width].copy_from_slice(&values(&value));
            let all = Tensor::new(all.as_slice(), &Device::Cpu).unwrap();
            let expected = read_again(&mut lab, &run, 11, &[Patch::new(at, position, all)]);
            assert!(gap(&found[0], &expected) < 1e-5);
            assert!(gap(&found[1], plain.logits()) < 1e-5 && gap(&found[0], plain.logits()) > 1e-4);
        }
    }
}

#[test]
fn a_state_put_back_where_it_was_changes_nothing() {
    for mut lab in every_family() {
        let (layers, length) = (lab.model.card.layers, 30);
        for edits in EDITS {
            let run = edited(prompt(length), edits);
            for position in [length - 1, 21] {
                let pass = Pass {
                    record: (0..layers).map(|l| Site::ResidPost.at(l)).collect(),
                    ..reading(&run, position)
                };
                let plain = own(&pass, &mut lab);
                let all: Vec<Vec<Patch>> = (0..layers)
                    .map(|l| {
                        let state = plain.get(Site::ResidPost.at(l)).unwrap();
                        let state = state.get(0).unwrap();
                        vec![Patch::new(Site::ResidPost.at(l), position, state)]
                    })
                    .collect();
                for (layer, found) in collect(&pass, &mut lab, &all).iter().enumerate() {
                    assert!(gap(found, plain.logits()) < 1e-5, "{layer} at {position}");
                }
                // The same kernels, the same bits: rows of one pass, and the pass over the whole text.
                let twice = [all.clone(), all.clone()].concat();
                let found = collect(&pass, &mut lab, &twice);
                for (a, b) in found[..layers].iter().zip(&found[layers..]) {
                    assert!(gap(a, b) < 1e-6);
                }
                for (layer, trial) in all.iter().enumerate() {
                    let at = Site::ResidPost.at(layer);
                    let recording = lab.record(&run, &[at]).unwrap();
                    let state = recording.get(at).unwrap().get(position).unwrap();
                    let same = read_again(
                        &mut lab,
                        &run,
                        length - 1,
                        &[Patch::new(at, position, state)],
                    );
                    let again = read_again(&mut lab, &run, length - 1, &[]);
                    assert!(
                        same.iter()
                            .zip(&again)
                            .all(|(a, b)| a.to_bits() == b.to_bits())
                    );
                    // One layer off is another run.
                    let off = if layer == 0 { 1 } else { layer - 1 };
                    let moved = vec![Patch::new(
                        Site::ResidPost.at(off),
                        position,
                        trial[0].value.clone(),
                    )];
                    let found = gap(&collect(&pass, &mut lab, &[moved])[0], plain.logits());
                    assert!(found > 1e-4 || position + 1 < length);
                }
            }
        }
    }
}

#[test]
fn texts_go_on_as_whole_reruns_would() {
    // Across the length at which dynamic rotations change (24 and 32 tokens), and past every window.
    for mut lab in every_family() {
        for (length, edits) in [(22, EDITS[0]), (29, EDITS[1])] {
            let run = edited(prompt(length), edits);
            let width = lab.model.card.d_model;
            let slot = |layer, position, seed| {
                Patch::new(Site::ResidPost.at(layer), position, noise(seed, width))
            };
            let all: Vec<Vec<Patch>> = vec![
                vec![],
                vec![slot(0, length - 1, 1)],
                vec![slot(1, length - 1, 2)],
                vec![slot(1, length - 5, 3)],
                vec![slot(0, length - 5, 4), slot(1, length - 2, 5)],
            ];
            let pass = Pass {
                rows: all.iter().cloned().map(PassRow::patched).collect(),
                tail: 7,
                ..reading(&run, length - 5)
            };
            let out = lab.run(&pass).unwrap();
            for (trial, row) in all.iter().zip(&out) {
                let (first, written) = (row.logits(), &row.tail);
                assert_eq!(written.len(), 7);
                let expected = read_again(&mut lab, &run, length - 1, trial);
                assert!(gap(first, &expected) < 1e-5);
                let mut longer = run.clone();
                for id in written {
                    let logits = read_again(&mut lab, &longer, longer.tokens.len() - 1, trial);
                    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    // A tie to rounding may fall either way.
                    assert!(
                        best - logits[*id as usize] < 1e-4,
                        "{} {length} at {}",
                        lab.model.card.name,
                        longer.tokens.len()
                    );
                    longer.tokens.push(*id);
                }
            }
            let early = Pass {
                from: Some(0),
                output: Output::whole(After::Each(5..6)),
                tail: 2,
                ..pass
            };
            let error = lab.run(&early);
            assert!(error.unwrap_err().to_string().contains("the last"));
        }
    }
}

#[test]
fn under_a_condition_trials_are_read_whole() {
    for mut lab in dense_families() {
        let width = lab.model.card.d_model;
        let direction = Direction {
            rows: vec![(Site::ResidPre.at(0), values(&noise(9, width)))],
            origin: DirectionOrigin::default(),
        };
        lab.directions.insert("d".into(), direction);
        let edits = [
            "add:d@resid_pre.1*0.7 when d@resid_pre.0>0",
            "scale@mlp_out.1*1.2",
        ];
        let run = edited(prompt(12), &edits);
        let pass = reading(&run, 3);
        // One slot turns the condition itself, the other leaves it as it is.
        let all: Vec<Vec<Patch>> = vec![
            vec![Patch::new(Site::Embed.at(0), 5, noise(9, width))],
            vec![Patch::new(
                Site::Embed.at(0),
                5,
                (noise(9, width) * -1.0).unwrap(),
            )],
            vec![Patch::new(Site::ResidPost.at(0), 11, noise(3, width))],
            vec![],
        ];
        for (trial, found) in all.iter().zip(collect(&pass, &mut lab, &all)) {
            let expected = read_again(&mut lab, &run, 11, trial);
            assert!(gap(&found, &expected) < 1e-5, "{}", lab.model.card.name);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_the_numbers() {
    let mut lab = tiny(&lmscope::model::network::families::FAMILIES[0]);
    let run = Run::plain(prompt(9));
    let width = lab.model.card.d_model;
    let mut refused = |patch: Patch| {
        let pass = Pass {
            rows: vec![PassRow::patched(vec![patch])],
            ..reading(&run, 4)
        };
        lab.run(&pass).unwrap_err().to_string()
    };
    let at = Site::ResidPost.at(0);
    let short = refused(Patch::new(at, 5, noise(1, width - 1)));
    assert!(short.contains(&width.to_string()), "{short}");
    assert!(refused(Patch::new(at, 3, noise(1, width))).contains("position 3"));
    assert!(refused(Patch::new(at, 9, noise(1, width))).contains("4 to 8"));
    let probs = Patch::new(Site::AttnProbs.at(0), 5, noise(1, 9));
    assert!(refused(probs).contains("Use z"));
    let head = Patch {
        head: Some(99),
        ..Patch::new(Site::Z.at(0), 5, noise(1, 8))
    };
    assert!(refused(head).contains("99"));
    let far = Patch::new(Site::ResidPost.at(99), 5, noise(1, width));
    assert!(refused(far).contains("layers"));
    let beyond = Pass {
        output: Output::whole(After::Each(9..10)),
        ..reading(&run, 4)
    };
    for pass in [reading(&run, 9), beyond] {
        let error = lab.run(&pass).unwrap_err();
        assert!(error.to_string().contains("0 to 8"));
    }
    assert_eq!(noise(1, 4).dtype(), DType::F32);
}

#[test]
fn a_patched_row_is_recorded_as_the_whole_run_with_the_same_values_put_in() {
    for mut lab in every_family() {
        for edits in EDITS {
            let (length, from) = (11, 1);
            let run = edited(prompt(length), edits);
            let sites = [
                Site::Embed,
                Site::ResidPre,
                Site::Z,
                Site::AttnProbs,
                Site::AttnOut,
                Site::MlpOut,
                Site::ResidPost,
            ];
            let all = sites.iter().flat_map(|site| [site.at(0), site.at(1)]);
            let record: Vec<Address> = all.filter(|at| lab.model.offers(*at).is_ok()).collect();
            let patched = trials(&lab, length).into_iter().map(PassRow::patched);
            let pass = Pass {
                rows: patched.collect(),
                record: record.clone(),
                ..reading(&run, from)
            };
            // A row with a text of its own is read whole.
            let mut whole = pass.clone();
            for row in &mut whole.rows {
                row.tokens.clone_from(&run.tokens);
            }
            let (found, whole) = (lab.run(&pass).unwrap(), lab.run(&whole).unwrap());
            for (i, (row, whole)) in found.iter().zip(&whole).enumerate() {
                assert_eq!(row.positions, from..length);
                for at in &record {
                    let axis = usize::from(at.site == Site::AttnProbs);
                    let whole = whole.get(*at).unwrap();
                    let whole = whole.narrow(axis, from, length - from).unwrap();
                    let whole = values(&whole);
                    let size = whole.iter().fold(1.0f32, |most, x| most.max(x.abs()));
                    let far = gap(&values(row.get(*at).unwrap()), &whole) / size;
                    let name = &lab.model.card.name;
                    assert!(far < 1e-5, "{name} {at} of trial {i}: {far}");
                }
            }
        }
    }
}
