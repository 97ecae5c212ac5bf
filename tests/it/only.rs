//! The edit `only`: a saved circuit alone is left of the model, and everything else has its mean.

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use lmscope::edit::schedule::Schedule;
use lmscope::edit::{Edit, EditId};
use lmscope::figure::{Check, Figure};
use lmscope::instruments::circuit::task::{CircuitTask, Outside};
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::capture::{After, Output};
use lmscope::lab::circuit::edges::EdgeSet;
use lmscope::lab::circuit::file::{CircuitFile, SavedCircuit, means_path};
use lmscope::lab::circuit::graph::CircuitGraph;
use lmscope::lab::circuit::means::{MeanStreams, SenderMeans};
use lmscope::lab::pairs::{MeasuredPair, Metric, MetricKind, PairSource, measured};
use lmscope::lab::pass::{Pass, PassRow, Patch};
use lmscope::lab::run::Run;
use lmscope::lab::sample::Sampling;
use lmscope::lab::writer::{BaselineMode, Writer};
use lmscope::model::network::families::FAMILIES;
use lmscope::model::network::site::Site;

use super::circuits::{GIFTS, apart, corrupted, graphs, logits, pair, texts, under};
use super::demo::demo;
use super::gradient::opened;
use super::tools::{edited, every_family, gap, prompt, same_bits, tiny, values};

/// Makes a circuit known to a lab, with means over these texts.
fn keep(lab: &mut Lab, name: &str, edges: EdgeSet, texts: &[Vec<u32>]) {
    let graph = CircuitGraph::of(&lab.model).unwrap();
    let runs: Vec<_> = texts
        .iter()
        .map(|text| corrupted(lab, &graph, text))
        .collect();
    let means = SenderMeans::over(&runs, &graph, &lab.model).unwrap();
    let saved = SavedCircuit {
        file: CircuitFile::of(&graph, &edges, &[], &lab.model.card),
        graph,
        edges: Arc::new(edges),
        means: Arc::new(means),
    };
    lab.circuits.insert(name.into(), Arc::new(saved));
}

/// Some edges, about two of three.
fn some(graph: &CircuitGraph) -> EdgeSet {
    EdgeSet::of(graph, (0..graph.edges()).filter(|edge| edge * 7 % 11 > 3))
}

/// Labs that know the circuits `all`, `some` and `none`, with means over two texts.
fn labs() -> impl Iterator<Item = (Lab, CircuitGraph)> {
    graphs().into_iter().map(|(mut lab, graph)| {
        let over = [texts(17).1, prompt(9)];
        keep(&mut lab, "all", EdgeSet::all(&graph), &over);
        keep(&mut lab, "some", some(&graph), &over);
        keep(&mut lab, "none", EdgeSet::none(&graph), &over);
        (lab, graph)
    })
}

/// Logits after every position of a run.
fn everywhere(lab: &mut Lab, run: &Run) -> Vec<Vec<f32>> {
    let output = Output::whole(After::Each(0..run.tokens.len()));
    let read = lab.run_one(&Pass::after(run.clone(), output)).unwrap();
    read.output.into_iter().map(|row| row.logits).collect()
}

fn furthest(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    let gaps = a.iter().zip(b).map(|(a, b)| apart(a, b));
    gaps.fold(0.0, f32::max)
}

#[test]
fn with_all_edges_it_is_the_unedited_run() {
    let mut families = 0;
    for (mut lab, _) in labs() {
        let name = lab.model.card.name.clone();
        let plain = everywhere(&mut lab, &Run::plain(prompt(17)));
        for line in ["only:all@edges", "only:all@edges*0.5"] {
            let found = everywhere(&mut lab, &edited(prompt(17), &[line]));
            let far = furthest(&found, &plain);
            assert!(far < 1e-5, "{name} {line}: {far}");
        }
        families += 1;
    }
    assert!(families >= 15, "{families}");
}

/// Of two texts nothing is left but where a position is: the first, or another one.
#[test]
fn without_edges_nothing_is_left_of_the_text() {
    for (mut lab, graph) in labs() {
        let name = lab.model.card.name.clone();
        let of = |lab: &mut Lab, tokens| everywhere(lab, &edited(tokens, &["only:none@edges"]));
        let (one, other) = (of(&mut lab, prompt(11)), of(&mut lab, texts(11).1));
        assert!(furthest(&one, &other) < 1e-6, "{name}");
        assert!(apart(&one[1], &one[10]) < 1e-6, "{name}");
        assert!(apart(&one[0], &one[1]) > 1e-3, "{name}");
        // The logits read the sum of the means, with what no head writes.
        let saved = lab.circuits["none"].clone();
        let streams = MeanStreams::new(graph, saved.means.clone(), &lab.model).unwrap();
        for position in [0, 3] {
            let stream = streams.up_to(graph.senders(), position).to_vec();
            let transformer = &lab.model.transformer;
            let shape = (1, lab.model.card.d_model);
            let stream = Tensor::from_vec(stream, shape, &transformer.device).unwrap();
            let read = values(&transformer.unembed(&stream).unwrap());
            assert!(apart(&read, &one[position]) < 1e-5, "{name} {position}");
        }
    }
}

/// Over one text of two tokens the means are its own values, so that means and corrupted values are one, whatever is kept.
#[test]
fn means_over_one_short_text_are_the_corrupted_values() {
    for (mut lab, graph) in graphs() {
        let name = lab.model.card.name.clone();
        let (clean, corrupt) = (vec![5, 22], vec![44, 3]);
        let held = corrupted(&mut lab, &graph, &corrupt);
        for (number, edges) in [some(&graph), some(&graph).complement()]
            .into_iter()
            .enumerate()
        {
            let exact = under(
                &mut lab,
                &clean,
                &held,
                &graph,
                std::slice::from_ref(&edges),
            );
            keep(&mut lab, "own", edges, std::slice::from_ref(&corrupt));
            let found = everywhere(&mut lab, &edited(clean.clone(), &["only:own@edges"]));
            let far = apart(&found[1], &exact[0]);
            assert!(far < 1e-5, "{name} {number}: {far}");
            let plain = logits(&mut lab, &clean);
            assert!(apart(&found[1], &plain) > 1e-4, "{name} {number}");
        }
    }
}

/// The figure's numbers are those of the run under the edit.
#[test]
fn the_figure_evaluates_what_the_edit_does() {
    for (mut lab, graph) in labs() {
        let name = lab.model.card.name.clone();
        let mut pairs = Vec::new();
        for (length, tokens) in [(9, (5, 9)), (13, (7, 2)), (9, (11, 3))] {
            let (mut clean, corrupt) = texts(length);
            clean[2] = tokens.0;
            pairs.push(pair(&mut lab, &clean, &corrupt, tokens));
        }
        let task = CircuitTask::new(&mut lab, pairs.clone()).unwrap();
        let means = task.means(&lab).unwrap();
        let outside = Outside::means(&mut lab, &task, means).unwrap();
        let corrupt: Vec<Vec<u32>> = pairs
            .iter()
            .map(|pair| pair.runs.corrupt.tokens.clone())
            .collect();
        for edges in [some(&graph), some(&graph).random_like(&graph, 3)] {
            let metric = outside.under(&mut lab, &edges).unwrap();
            keep(&mut lab, "own", edges, &corrupt);
            let mut sum = 0.0;
            for pair in &pairs {
                let run = edited(pair.runs.clean.tokens.clone(), &["only:own@edges"]);
                let row = lab.last_logits(&run).unwrap();
                let Metric::Difference(target) = pair.metric else {
                    panic!("a difference")
                };
                let (token, other) = (target.token, target.minus.unwrap());
                sum += f64::from(row[token as usize] - row[other as usize]) / 3.0;
            }
            assert!((metric - sum).abs() < 1e-5, "{name}: {metric} {sum}");
        }
        let nothing = outside.under(&mut lab, &EdgeSet::none(&graph)).unwrap();
        assert!(outside.share(nothing).abs() < 1e-6, "{name}");
    }
}

#[test]
fn token_by_token_is_the_whole_text() {
    for (mut lab, _) in labs() {
        let name = lab.model.card.name.clone();
        let sampling = Sampling::default();
        let schedule = Schedule::always(vec!["only:some@edges".parse().unwrap()]);
        let plain = Writer::begin(&mut lab, prompt(7), Schedule::none(), sampling).unwrap();
        let mut own = Writer::begin_with_baseline(
            &mut lab,
            prompt(7),
            schedule,
            sampling,
            BaselineMode::OwnText,
        )
        .unwrap();
        // Switched on between two tokens: what was read before stays.
        let mut later = plain;
        later.step(&mut lab, &[]).unwrap();
        let edits = vec!["only:some@edges".parse().unwrap()];
        let since = later.edit_from_now(&mut lab, edits.clone()).unwrap();
        assert_eq!(since, 8);
        for _ in 0..4 {
            let step = own.step(&mut lab, &[]).unwrap();
            later.step(&mut lab, &[]).unwrap();
            assert!(step.choice.kl.is_some_and(|kl| kl > 0.0), "{name}");
        }
        for writer in [&own, &later] {
            let whole = lab.last_logits(&writer.run).unwrap();
            let far = apart(&writer.output().unwrap(), &whole);
            assert!(far < 1e-5, "{name}: {far}");
        }
        // Beside it the unedited run, bit for bit to the width of the batch.
        let baseline = own.baseline_row().unwrap().to_vec();
        let mut alone = Writer::begin(&mut lab, prompt(7), Schedule::none(), sampling).unwrap();
        for _ in 0..4 {
            alone.step(&mut lab, &[]).unwrap();
        }
        assert_eq!(baseline, alone.run.tokens, "{name}");
        // As if it had always been on, and off again.
        later.edit_always(&mut lab, edits).unwrap();
        let whole = lab
            .last_logits(&edited(later.run.tokens.clone(), &["only:some@edges"]))
            .unwrap();
        assert!(apart(&later.output().unwrap(), &whole) < 1e-5, "{name}");
        later.edit_always(&mut lab, Vec::new()).unwrap();
        let whole = logits(&mut lab, &later.run.tokens.clone());
        assert!(apart(&later.output().unwrap(), &whole) < 1e-5, "{name}");
    }
}

#[test]
fn strength_goes_from_the_unedited_run_to_the_circuit() {
    let (mut lab, _) = labs().next().unwrap();
    let embed = Site::Embed.at(0);
    let mut at = |line: &str| {
        let run = edited(prompt(9), &[line]);
        lab.record(&run, &[embed, Site::ResidPost.at(0)]).unwrap()
    };
    let (zero, half, one) = (
        at("only:none@edges*0"),
        at("only:none@edges*0.5"),
        at("only:none@edges"),
    );
    let plain = at("zero@mlp_out.0*0");
    for site in [embed, Site::ResidPost.at(0)] {
        assert!(same_bits(zero.get(site).unwrap(), plain.get(site).unwrap()));
    }
    let middle = ((zero.get(embed).unwrap() + one.get(embed).unwrap()).unwrap() * 0.5).unwrap();
    assert!(gap(&middle, half.get(embed).unwrap()) < 1e-6);
    assert!(gap(zero.get(embed).unwrap(), one.get(embed).unwrap()) > 1e-2);
    let run = edited(prompt(9), &["only:none@edges*1.25"]);
    let error = lab.last_logits(&run).unwrap_err().to_string();
    assert!(error.contains("from 0 to 1"), "{error}");
}

/// Positions that it does not cover keep what they read, and see the others only through attention.
#[test]
fn positions_that_it_does_not_cover_read_everything() {
    let (mut lab, _) = labs().next().unwrap();
    let plain = everywhere(&mut lab, &Run::plain(prompt(9)));
    let found = everywhere(&mut lab, &edited(prompt(9), &["only:none@edges:4..6"]));
    for position in 0..4 {
        assert!(
            apart(&plain[position], &found[position]) < 1e-6,
            "{position}"
        );
    }
    for position in 4..9 {
        assert!(
            apart(&plain[position], &found[position]) > 1e-4,
            "{position}"
        );
    }
    assert!(apart(&found[4], &found[5]) < 1e-6);
    assert!(apart(&found[5], &found[6]) > 1e-3);
}

/// Where all edges are kept, another edit under the circuit is that edit alone: what it changes reaches every receiver.
#[test]
fn other_edits_act_under_it() {
    for (mut lab, _) in labs() {
        let name = lab.model.card.name.clone();
        for line in [
            "zero:1@z.1",
            "scale:0@q.1*0.2",
            "zero:0@k.0",
            "scale:0@v.1*3",
            "scale@mlp_out.0*2",
            "scale@mlp_in.1*0.5",
            "zero@mlp_add.0",
            "scale@embed*1.5",
            "cut:0@attn_scores.1",
            "scale@final_norm*0.5",
        ] {
            let alone = everywhere(&mut lab, &edited(prompt(9), &[line]));
            for lines in [[line, "only:all@edges"], ["only:all@edges", line]] {
                let found = everywhere(&mut lab, &edited(prompt(9), &lines));
                let far = furthest(&alone, &found);
                assert!(far < 2e-5, "{name} {line}: {far}");
            }
        }
        // Under a smaller circuit it changes something as well, where that circuit keeps anything of it.
        let under = everywhere(&mut lab, &edited(prompt(9), &["only:some@edges"]));
        let lines = ["only:some@edges", "scale@embed*1.5"];
        let both = everywhere(&mut lab, &edited(prompt(9), &lines));
        assert!(furthest(&under, &both) > 1e-4, "{name}");
    }
}

/// A patch is an activation of the run under the circuit; patches of what nothing reads are refused.
#[test]
fn patches_act_under_it() {
    for (mut lab, _) in labs() {
        let name = lab.model.card.name.clone();
        let source = lab
            .record(&Run::plain(texts(9).1), &[Site::Z.at(1)])
            .unwrap();
        let value = source.get(Site::Z.at(1)).unwrap().get(6).unwrap();
        let patch = Patch::new(Site::Z.at(1), 6, value);
        let patched = |lab: &mut Lab, lines: &[&str], patch: Patch| {
            let pass = Pass {
                rows: vec![PassRow::patched(vec![patch])],
                output: Output::whole(After::Last(1)),
                ..Pass::of(edited(prompt(9), lines))
            };
            lab.run_one(&pass)
        };
        let plain = patched(&mut lab, &[], patch.clone()).unwrap();
        let found = patched(&mut lab, &["only:all@edges"], patch.clone()).unwrap();
        assert!(apart(plain.logits(), found.logits()) < 1e-5, "{name}");
        let stream = lab
            .record(&Run::plain(prompt(9)), &[Site::ResidPre.at(1)])
            .unwrap();
        let value = stream.get(Site::ResidPre.at(1)).unwrap().get(6).unwrap();
        let patch = Patch::new(Site::ResidPre.at(1), 6, value);
        let error = patched(&mut lab, &["only:all@edges"], patch).unwrap_err();
        assert!(error.to_string().contains("a stream of its own"), "{error}");
    }
}

#[test]
fn what_has_no_meaning_under_it_is_refused() {
    let (mut lab, _) = labs().next().unwrap();
    for (lines, why) in [
        (
            vec!["only:some@edges", "zero@resid_pre.1"],
            "no residual stream",
        ),
        (
            vec!["zero@attn_out.0", "only:some@edges"],
            "heads write one by one",
        ),
        (vec!["zero@attn_in.1", "only:some@edges"], "read by none"),
        (vec!["only:some@edges", "only:all@edges"], "two circuits"),
        (vec!["only:nothing@edges"], "loaded: all, none, some"),
        (vec!["only:some@edges*-0.5"], "from 0 to 1"),
    ] {
        let run = edited(prompt(9), &lines);
        let error = lab.last_logits(&run).unwrap_err().to_string();
        assert!(error.contains(why), "{lines:?}: {error}");
    }
    let run = edited(prompt(9), &["only:some@edges"]);
    let error = lab.record(&run, &[Site::AttnIn.at(1)]).unwrap_err();
    assert!(error.to_string().contains("read by none"), "{error}");
    for (line, why) in [
        ("only:some@resid_pre.1", "only:CIRCUIT@edges, not resid_pre"),
        ("zero@edges", "`edges` is the address of `only`"),
        ("only@edges", "needs a circuit: only:CIRCUIT@edges"),
        ("cut:0@edges", "not edges"),
    ] {
        let error = line.parse::<Edit>().unwrap_err().to_string();
        assert!(error.contains(why), "{line}: {error}");
    }
    let figure = instrument("saliency").unwrap();
    let error = figure
        .observe(&run, &Arguments::default(), &mut lab)
        .unwrap_err();
    assert!(error.to_string().contains("no gradient"), "{error}");
    // Families whose heads do not add to the stream one by one, for the same reason as circuits themselves.
    let refused = every_family().filter_map(|lab| {
        let error = CircuitGraph::of(&lab.model).err()?.to_string();
        Some((lab, error))
    });
    for (mut lab, reason) in refused {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.json");
        std::fs::write(&path, "{}").unwrap();
        let line = format!("only:\"{}\"@edges", path.display());
        let error = lab.last_logits(&edited(prompt(9), &[&line])).unwrap_err();
        assert_eq!(error.to_string(), reason);
    }
}

#[test]
fn its_receipt_says_what_it_did_beside_a_random_circuit() {
    let (mut lab, graph) = labs().next().unwrap();
    let run = edited(prompt(12), &["only:some@edges"]);
    let receipt = lab.receipts(&run).unwrap().remove(0);
    assert_ne!(receipt.id, EditId::default());
    // Every receiver at every position.
    assert_eq!(receipt.fired, graph.receivers() * 12);
    assert!(receipt.relative > 0.0 && receipt.relative.is_finite());
    let (own, control) = (receipt.kl.unwrap(), receipt.control.unwrap());
    assert!(own > 0.0 && control > 0.0 && (own - control).abs() > 1e-6);
    assert!(receipt.control_is.contains("random circuit"), "{receipt:?}");
    let kept = some(&graph).len();
    let says = format!("{kept} of {} edges", graph.edges());
    assert!(receipt.note.contains(&says), "{}", receipt.note);
    assert!(receipt.elsewhere.is_some_and(|kl| kl > 0.0));
    let off = edited(prompt(12), &["only:some@edges*0"]);
    let receipt = lab.receipts(&off).unwrap().remove(0);
    assert!(!receipt.active && receipt.fired == 0, "{receipt:?}");
}

/// Saved, read and refused.
#[test]
fn a_file_keeps_its_means_and_takes_no_others() {
    let (mut lab, graph) = labs().next().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("some.json");
    let saved = lab.circuits["some"].clone();
    let never = lmscope::file::Overwrite::Never;
    assert!(saved.file.save(&path, &saved.means, 0.5, never).unwrap());
    let read = SavedCircuit::load(&path, &lab.model).unwrap();
    assert_eq!((&read.edges, &read.means), (&saved.edges, &saved.means));
    let line = format!("only:\"{}\"@edges", path.display());
    let own = lab
        .last_logits(&edited(prompt(9), &["only:some@edges"]))
        .unwrap();
    let file = lab.last_logits(&edited(prompt(9), &[&line])).unwrap();
    assert_eq!(own, file);
    let error = saved
        .file
        .save(&path, &saved.means, 0.5, never)
        .unwrap_err();
    assert!(error.to_string().contains("taken"), "{error}");

    let beside = means_path(&path);
    let bytes = std::fs::read(&beside).unwrap();
    let refuses = |lab: &mut Lab, why: &str| {
        let run = edited(prompt(9), &[&line]);
        let error = lab.last_logits(&run).unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
        // As a circuit it is read all the same.
        let file = CircuitFile::load(&path, &lab.model.card).unwrap();
        assert_eq!(file.edges(&path, &graph).unwrap().0, *saved.edges);
    };
    std::fs::write(&beside, &bytes[..bytes.len() - 4]).unwrap();
    refuses(&mut lab, "some.means.safetensors");
    let mut wrong = bytes.clone();
    let last = wrong.len() - 2;
    wrong[last] ^= 0x10;
    std::fs::write(&beside, &wrong).unwrap();
    refuses(&mut lab, "the means of another circuit");
    wrong.splice(last - 2.., f32::NAN.to_le_bytes());
    std::fs::write(&beside, &wrong).unwrap();
    refuses(&mut lab, "not finite");
    std::fs::remove_file(&beside).unwrap();
    refuses(&mut lab, "some.means.safetensors");
    // A document of before there were means.
    let mut old = CircuitFile::load(&path, &lab.model.card).unwrap();
    old.means = None;
    std::fs::write(&path, serde_json::to_string(&old).unwrap()).unwrap();
    refuses(&mut lab, "--load FILE --save OTHER");
}

/// What a document says that its circuit keeps was measured for those edges: after a change by hand it is not repeated.
#[test]
fn a_changed_file_says_nothing_of_what_it_keeps() {
    let (mut lab, graph) = labs().next().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("some.json");
    let saved = lab.circuits["some"].clone();
    let never = lmscope::file::Overwrite::Never;
    saved.file.save(&path, &saved.means, 0.78, never).unwrap();
    let line = format!("only:\"{}\"@edges", path.display());
    let mut note = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let run = edited(prompt(9), &[&line]);
        lab.receipts(&run)
            .map(|mut receipts| receipts.remove(0).note)
    };
    let text = std::fs::read_to_string(&path).unwrap();
    let own = note(&text).unwrap();
    assert!(own.contains("keep 0.78 of the metric"), "{own}");
    let edited: serde_json::Value = serde_json::from_str(&text).unwrap();
    let with = |key: &str, value: serde_json::Value| {
        let mut edited = edited.clone();
        edited[key] = value;
        edited.to_string()
    };
    let mut means = edited["means"].clone();
    means["faithfulness"] = 0.99.into();
    let fewer = edited["edges"].as_array().unwrap()[1..].to_vec();
    for text in [
        with("edges", Vec::<serde_json::Value>::new().into()),
        with("edges", fewer.into()),
        with("means", means),
        with("measured", "".into()),
    ] {
        let note = note(&text).unwrap();
        assert!(!note.contains("of the metric with"), "{note}");
        assert!(
            note.contains("of the metric they keep is not known"),
            "{note}"
        );
    }
    let mut shape = edited["graph"].clone();
    shape["layers"] = 1_000_000_000_000_u64.into();
    let error = note(&with("graph", shape)).unwrap_err().to_string();
    assert!(error.contains("1000000000000 sequential blocks"), "{error}");
    assert!(
        error.contains(&format!("{} sequential blocks", graph.layers)),
        "{error}"
    );
}

/// Quantized weights and weights in half precision go the same way.
#[test]
fn quantized_and_half_weights_run_under_it() {
    for (name, dtype, most) in [
        ("llama_bf16", None, 1e-4),
        ("gpt2_f16", None, 1e-4),
        ("llama", Some("q8_0"), 1e-4),
        ("llama", Some("f16"), 1e-2),
    ] {
        let mut lab = opened(name, dtype);
        let text: Vec<u32> = prompt(9).iter().map(|id| id % 40).collect();
        let graph = CircuitGraph::of(&lab.model).unwrap();
        keep(
            &mut lab,
            "all",
            EdgeSet::all(&graph),
            std::slice::from_ref(&text),
        );
        keep(&mut lab, "some", some(&graph), std::slice::from_ref(&text));
        let plain = everywhere(&mut lab, &Run::plain(text.clone()));
        let found = everywhere(&mut lab, &edited(text.clone(), &["only:all@edges"]));
        let far = furthest(&plain, &found);
        assert!(far < most, "{name} {dtype:?}: {far}");
        let found = everywhere(&mut lab, &edited(text, &["only:some@edges"]));
        let far = furthest(&plain, &found);
        assert!(far > 2.0 * most.max(1e-3), "{name} {dtype:?}: {far}");
    }
}

fn circuit(lab: &mut Lab, given: &[(&str, &str)]) -> Figure {
    let arguments = given
        .iter()
        .fold(Arguments::default(), |all, (name, value)| {
            all.with(name, value)
        });
    let of = instrument("circuit").unwrap();
    of.observe(&Run::plain(Vec::new()), &arguments, lab)
        .unwrap()
}

/// On the demo: under its circuit for indirect objects, a fifth of its edges, it still names who gets the gift and no longer the capital of
/// France; under a random circuit of that size it names nobody.
#[test]
fn the_indirect_object_is_named_under_its_circuit() {
    let mut lab = demo();
    let held = lab.circuits["gifts"].clone();
    assert!(held.edges.len() * 5 <= held.graph.edges());
    let source = PairSource {
        corrupt: None,
        pairs: Some(Path::new(GIFTS)),
        answer: None,
        chat: false,
        ends: false,
    };
    let runs = source.runs(&Run::plain(Vec::new()), &lab).unwrap();
    let pairs = measured(&mut lab, MetricKind::Difference, runs).unwrap();
    let random = held.edges.random_like(&held.graph, 1);
    let random = SavedCircuit {
        edges: Arc::new(random),
        ..(*held).clone()
    };
    lab.circuits.insert("random".into(), Arc::new(random));
    let mut right = |line: &str| {
        let of = |pair: &MeasuredPair| {
            let run = edited(pair.runs.clean.tokens.clone(), &[line]);
            let best = lab.top_prediction(&run).unwrap();
            let plain = lab.top_prediction(&pair.runs.clean).unwrap();
            usize::from(best == plain)
        };
        pairs[..20].iter().map(of).sum::<usize>()
    };
    let (own, control) = (right("only:gifts@edges"), right("only:random@edges"));
    assert!(own >= 18 && control <= 4, "{own} {control}");
    let capital = lab.model.encode("The capital of France is", false).unwrap();
    let plain = lab.top_prediction(&Run::plain(capital.clone())).unwrap();
    let under = lab
        .top_prediction(&edited(capital, &["only:gifts@edges"]))
        .unwrap();
    assert_ne!(plain, under);
}

/// The figure with means says what its numbers mean, and a saved circuit is evaluated with its own.
#[test]
fn a_circuit_is_evaluated_with_means() {
    let mut lab = demo();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("g.json").display().to_string();
    let given = [
        ("pairs", GIFTS),
        ("others", "mean"),
        ("method", "eap"),
        ("edges", "5%"),
        ("controls", "1"),
        ("save", &file),
    ];
    let found = circuit(&mut lab, &given);
    let says = |figure: &Figure, what: &str| figure.notes.iter().any(|note| note.contains(what));
    assert!(
        says(&found, "at the mean of what its sender writes"),
        "{:?}",
        found.notes
    );
    assert!(says(&found, "with means alone"), "{:?}", found.notes);
    assert!(says(&found, "@edges leaves it alone"), "{:?}", found.notes);
    let again = circuit(
        &mut lab,
        &[
            ("pairs", GIFTS),
            ("others", "mean"),
            ("controls", "1"),
            ("load", &file),
        ],
    );
    assert_eq!(found.title, again.title);
}

/// The lens shows the run under the circuit, and ends in its output.
#[test]
fn the_lens_ends_in_the_output_under_it() {
    for (mut lab, _) in labs().take(6) {
        let run = edited(prompt(9), &["only:some@edges"]);
        let lens = instrument("lens").unwrap();
        let figure = lens.observe(&run, &Arguments::default(), &mut lab).unwrap();
        assert!(
            figure.check.is_some_and(Check::passed),
            "{:?}",
            figure.check
        );
    }
    let mut lab = tiny(&FAMILIES[0]);
    let graph = CircuitGraph::of(&lab.model).unwrap();
    keep(&mut lab, "some", some(&graph), &[texts(9).1]);
    let run = edited(prompt(9), &["only:some@edges"]);
    for name in ["neurons", "attention", "residual"] {
        let of = instrument(name).unwrap();
        of.observe(&run, &Arguments::default(), &mut lab)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
