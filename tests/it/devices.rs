//! Blocks over several devices: logical CPU devices stand in for GPUs and take the same way, so what a model says is the same to the
//! bit, and every border that a pass goes over is counted.

use lmscope::edit::schedule::Schedule;
use lmscope::figure::Figure;
use lmscope::instruments::{Arguments, INSTRUMENTS, instrument, observe};
use lmscope::lab::Lab;
use lmscope::lab::capture::{After, Needs, Output};
use lmscope::lab::gradient::{GradientRequest, Scalar};
use lmscope::lab::pass::{Pass, PassRow, Patch};
use lmscope::lab::run::Run;
use lmscope::lab::sample::Sampling;
use lmscope::lab::writer::{BaselineMode, Writer};
use lmscope::model::Model;
use lmscope::model::host::{Crossings, crossed};
use lmscope::model::load::Options;
use lmscope::model::network::families::{FAMILIES, Family};
use lmscope::model::network::site::{Address, SITES, Site};
use lmscope::model::network::tap::{NoTap, PassSpan};

use crate::tools::{edited, lmscope, lmscope_on, prompt, tiny, values};

/// Edits at borders, of neurons, of heads, of attention, of everything that is written, and under a condition.
const EDITS: [&str; 6] = [
    "scale@mlp_out.0*0.5",
    "zero:1,2@mlp_act.1",
    "zero:1@z.0",
    "cut:1=0..2@attn_scores.1",
    "scale@writes*0.9",
    "set:3=0.5@resid_pre.1:last",
];

/// A model whose every block is on a device of its own.
fn spread(family: &'static Family) -> Lab {
    let layers = Model::tiny(family, 7).unwrap().card.layers;
    let config = (family.tiny)();
    let split = vec![1; layers];
    Lab::new(Model::random(family, &config, 7, &split).unwrap())
}

fn both(family: &'static Family) -> [Lab; 2] {
    [tiny(family), spread(family)]
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

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

/// The edits that a family has.
fn edits(lab: &mut Lab) -> Vec<&'static str> {
    let fits = |edit: &&str| lab.compile(&edited(prompt(9), &[*edit])).is_ok();
    EDITS.into_iter().filter(fits).collect()
}

#[test]
fn every_value_of_every_family_is_the_same_to_the_bit_with_edits_and_without() {
    for family in FAMILIES {
        let [mut whole, mut spread] = both(family);
        let edits = edits(&mut whole);
        assert!(edits.len() > 2, "{}", family.name);
        for edits in [&[][..], &edits] {
            let run = edited(prompt(9), edits);
            let of = |lab: &mut Lab| {
                let wanted = addresses(lab);
                let found = lab.record(&run, &wanted).unwrap();
                let rows = wanted
                    .iter()
                    .map(|at| bits(&values(found.get(*at).unwrap())));
                (
                    rows.collect::<Vec<_>>(),
                    format!("{:?}", found.receipts),
                    wanted,
                )
            };
            let (own, receipts, wanted) = of(&mut whole);
            let (found, said, _) = of(&mut spread);
            for ((at, own), found) in wanted.iter().zip(&own).zip(&found) {
                assert_eq!(own, found, "{} {at} {edits:?}", family.name);
            }
            assert_eq!(receipts, said, "{}", family.name);
        }
    }
}

#[test]
fn texts_grow_alike_with_a_cache_beside_every_block() {
    for family in FAMILIES {
        let of = |mut lab: Lab, edits: &[&str]| {
            let sampling = Sampling {
                temperature: 0.8,
                ..Sampling::default()
            };
            let mut writer = Writer::begin_with_baseline(
                &mut lab,
                prompt(7),
                edited(prompt(7), edits).schedule,
                sampling,
                BaselineMode::OwnText,
            )
            .unwrap();
            let lens = instrument("lens").unwrap();
            let mut said = Vec::new();
            for step in 0..5 {
                let needs = [lens
                    .needs(&writer.run, &Arguments::default(), &lab)
                    .unwrap()];
                let token = writer.step(&mut lab, &needs).unwrap();
                let lens = &token.captures[0].read;
                said.push(format!(
                    "{:?} {:?} {:?}",
                    token.choice, token.fired, lens.layers
                ));
                said.push(format!("{:?}", bits(&writer.output().unwrap())));
                if step == 2 {
                    let later = vec!["scale@mlp_out.1*0.3".parse().unwrap()];
                    writer.edit_from_now(&mut lab, later).unwrap();
                }
            }
            // Past what the cache had room for at first.
            writer.rewind(&mut lab, 8).unwrap();
            said.push(format!("{:?}", bits(&writer.output().unwrap())));
            said
        };
        for edits in [&[][..], &["scale@mlp_out.0*0.5"]] {
            let [whole, spread] = both(family);
            assert_eq!(of(whole, edits), of(spread, edits), "{}", family.name);
        }
    }
}

#[test]
fn gradients_are_the_same_at_every_address() {
    for family in FAMILIES {
        let of = |mut lab: Lab, edits: &[&str], scalar: Scalar| {
            let all = addresses(&lab);
            let late =
                |at: &Address| matches!(at.site, Site::FinalNorm | Site::LogitsRaw | Site::Logits);
            let at: Vec<Address> = all.into_iter().filter(|at| !late(at)).collect();
            let request = GradientRequest {
                of: scalar,
                each: Vec::new(),
                after: 7,
                from: None,
                at: at.clone(),
                positions: vec![3, 7],
            };
            let pass = Pass {
                gradient: Some(request),
                ..Pass::of(edited(prompt(8), edits))
            };
            let found = lab.run_one(&pass).unwrap().gradient.unwrap();
            let rows = at
                .iter()
                .map(|at| (*at, bits(&values(found.get(*at).unwrap()))));
            (found.scalar.to_bits(), rows.collect::<Vec<_>>())
        };
        // By the kernels, and where an edit acts by a graph of the block.
        for edits in [&[][..], &["scale@mlp_out.1*0.5"], &["scale@writes*0.9"]] {
            let inside = || {
                let vector = vec![0.3f32; tiny(family).model.card.d_model];
                let vector = candle_core::Tensor::new(vector, &candle_core::Device::Cpu).unwrap();
                Scalar::Along {
                    at: Site::MlpOut.at(1),
                    vector,
                }
            };
            for of_value in [false, true] {
                let scalar = || {
                    if of_value {
                        inside()
                    } else {
                        Scalar::LogProbability(3)
                    }
                };
                let [whole, spread] = both(family);
                let own = of(whole, edits, scalar());
                let found = of(spread, edits, scalar());
                assert_eq!(own, found, "{} {edits:?}", family.name);
            }
        }
    }
}

/// Rows with patches join a batch at the block where they begin to differ, and go on from there with caches of their own.
#[test]
fn batches_of_patched_rows_are_the_same_and_go_on_alike() {
    for family in FAMILIES {
        let of = |mut lab: Lab| {
            let layers = lab.model.card.layers;
            let device = lab.model.transformer.device.clone();
            let width = lab.model.card.d_model;
            let row = |layer: usize, position: usize| {
                let value: Vec<f32> = (0..width).map(|i| (i % 5) as f32 * 0.2 - 0.4).collect();
                let value = candle_core::Tensor::new(value, &device).unwrap();
                PassRow::patched(vec![Patch::new(Site::ResidPost.at(layer), position, value)])
            };
            let mut rows: Vec<PassRow> = (0..layers).map(|layer| row(layer, 4)).collect();
            rows.push(PassRow::default());
            let pass = Pass {
                rows,
                record: vec![Site::ResidPost.at(0), Site::MlpOut.at(layers - 1)],
                output: Output {
                    after: After::Last(1),
                    top: 5,
                    ..Output::default()
                },
                tail: 4,
                ..Pass::of(Run::plain(prompt(9)))
            };
            let found = lab.run(&pass).unwrap();
            let one = |row: &lmscope::lab::capture::Capture| {
                let recorded = pass
                    .record
                    .iter()
                    .map(|at| bits(&values(row.get(*at).unwrap())));
                let recorded: Vec<_> = recorded.collect();
                format!("{:?} {:?} {recorded:?}", row.output, row.tail)
            };
            found.iter().map(one).collect::<Vec<_>>()
        };
        let [whole, spread] = both(family);
        assert_eq!(of(whole), of(spread), "{}", family.name);
    }
}

/// The demo as `device` and `split` say.
fn demo(device: &str, split: &[usize]) -> Lab {
    let options = Options {
        device: Some(device.into()),
        split: split.to_vec(),
        ..Options::default()
    };
    Lab::open("demo", &options).unwrap()
}

#[test]
fn every_figure_of_the_demo_is_the_same() {
    let demo_file = |name: &str| format!("{}/demo/{name}", env!("CARGO_MANIFEST_DIR"));
    let (mut whole, mut spread) = (demo("cpu", &[]), demo("cpu:0-2", &[3, 1, 4]));
    let run = Run::plain(
        whole
            .model
            .encode("The capital of France is", false)
            .unwrap(),
    );
    let mut compared = 0;
    for of in INSTRUMENTS {
        if matches!(of.name(), "select" | "triggers" | "languages" | "probe") {
            continue;
        }
        let given = Arguments::default();
        let given = match of.name() {
            "relation" => given
                .with("relation", demo_file("relations/capital.json"))
                .with("prompts", "zero-shot"),
            "attribute-lens" => given.with("map", demo_file("vectors/capital.safetensors")),
            "attribution" | "circuit" => given.with("corrupt", "The capital of Spain is"),
            _ => given,
        };
        let own = observe(*of, &run, &given, &mut whole).unwrap();
        let found = observe(*of, &run, &given, &mut spread).unwrap();
        let text = |figure: &Figure| serde_json::to_string(&figure.body).unwrap();
        assert_eq!(text(&own), text(&found), "{}", of.name());
        assert_eq!(own.notes, found.notes, "{}", of.name());
        compared += 1;
    }
    assert!(compared > 20, "{compared}");
}

/// What a piece of work took over borders.
fn borders(work: impl FnOnce()) -> Crossings {
    let before = crossed();
    work();
    crossed() - before
}

#[test]
fn a_pass_goes_over_every_border_once_and_nothing_else_crosses() {
    let wide = |lab: &Lab| 4 * lab.model.card.d_model;
    for (device, split, over) in [("cpu", &[][..], 0), ("cpu:0-3", &[2, 2, 1, 3], 3)] {
        let lab = demo(device, split);
        let transformer = &lab.model.transformer;
        let tokens = lab.model.tokens(&prompt(11)).unwrap();
        let mut cache = lab.model.cache(1).unwrap();
        let found = borders(|| {
            let span = PassSpan::prompt(11);
            transformer
                .trunk(&tokens, span, Some(&mut cache), &mut NoTap)
                .unwrap();
        });
        assert_eq!(
            (found.borders, found.border_bytes),
            (over, over * 11 * wide(&lab))
        );
        assert_eq!(found.bytes, 0);
    }
    // A token of a text that grows takes its own stream over, whatever lies before it.
    for length in [3, 60] {
        let mut lab = demo("cpu:0-3", &[2, 2, 1, 3]);
        let schedule = Schedule::default();
        let greedy = Sampling::default();
        let mut writer = Writer::begin(&mut lab, prompt(length), schedule, greedy).unwrap();
        let found = borders(|| {
            writer.step(&mut lab, &[]).unwrap();
        });
        assert_eq!(
            (found.borders, found.border_bytes),
            (3, 3 * wide(&lab)),
            "{length}"
        );
        // What is recorded comes home from where it is, and from the last device it need not.
        let needs = Needs {
            record: vec![
                Site::ResidPost.at(0),
                Site::MlpOut.at(4),
                Site::MlpOut.at(7),
            ],
            ..Needs::default()
        };
        let found = borders(|| {
            writer.step(&mut lab, &[needs]).unwrap();
        });
        assert_eq!(
            (found.borders, found.border_bytes),
            (5, 5 * wide(&lab)),
            "{length}"
        );
    }
}

#[test]
fn the_command_line_says_where_blocks_are_and_what_does_not_fit() {
    let command = [
        "generate",
        "demo",
        "-p",
        "The capital of France is",
        "-n",
        "3",
    ];
    let (whole, _) = lmscope(&[&command[..], &["--device", "cpu"]].concat());
    let over = ["--device", "cpu:0-2", "--split", "4,1,3"];
    let (spread, said) = lmscope(&[&command[..], &over].concat());
    assert_eq!(whole, spread);
    for words in [
        "blocks 0 to 3 on cpu:0",
        "block 4 on cpu:1",
        "blocks 5 to 7 on cpu:2",
    ] {
        assert!(said.contains(words), "{said}");
    }
    let (_, said) = lmscope(&[&command[..], &["--device", "cpu:0,2"]].concat());
    assert!(said.contains("blocks 4 to 7 on cpu:2"), "{said}");
    for (given, words) in [
        (&["--device", "cpu:0-2", "--split", "4,4"][..], "3 numbers"),
        (
            &["--device", "cpu:0-1", "--split", "4,5"],
            "add up to the model's 8 blocks",
        ),
        (
            &["--device", "cpu:0-1", "--split", "8,0"],
            "numbers above 0",
        ),
        (&["--device", "cpu:0-8"], "at most 8 devices"),
        (
            &["--device", "cpu", "--split", "8"],
            "--device names one (cpu)",
        ),
        (&["--device", "cpu:0-1,1"], "each once"),
        (&["--device", "cuda:0-1"], "cuda:0"),
    ] {
        let (code, out, said) = lmscope_on("", &[&command[..], given].concat());
        assert!(code == Some(1) || code == Some(2), "{given:?}: {code:?}");
        assert!(out.is_empty() && said.contains(words), "{given:?}: {said}");
    }
}
