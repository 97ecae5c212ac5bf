//! What several test modules need: prompts, comparisons, random models.

use std::io::Write as _;
use std::process::{Command, Stdio};

use candle_core::{DType, Tensor};
use lmscope::edit::Edit;
use lmscope::edit::schedule::Schedule;
use lmscope::figure::Figure;
use lmscope::instruments::{Arguments, Instrument};
use lmscope::lab::Lab;
use lmscope::lab::pass::Patch;
use lmscope::lab::row_programs::RowPrograms;
use lmscope::lab::run::Run;
use lmscope::lab::tap::{RecordedPositions, RunTap};
use lmscope::lab::writer::Writer;
use lmscope::model::Model;
use lmscope::model::network::families::{FAMILIES, Family};
use lmscope::model::network::tap::{PassPhase, PassSpan, Tap};

/// Runs the program with this on its standard input: the exit code, and what it printed on both outputs.
pub fn lmscope_on(input: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lmscope"));
    command.args(arguments).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It need not read all of it.
    let _read = child.stdin.take().unwrap().write_all(input.as_bytes());
    let done = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code(), text(&done.stdout), text(&done.stderr))
}

/// Runs the program, which must not fail: what it printed on both outputs.
pub fn lmscope(arguments: &[&str]) -> (String, String) {
    let (code, out, said) = lmscope_on("", arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {said}");
    (out, said)
}

/// A bench with a tiny random model.
pub fn tiny(family: &'static Family) -> Lab {
    Lab::new(Model::tiny(family, 7).unwrap())
}

/// A lab for every family.
pub fn every_family() -> impl Iterator<Item = Lab> {
    FAMILIES.iter().map(tiny)
}

/// A lab for every family whose blocks all have one MLP, so that neurons can be addressed in each.
pub fn dense_families() -> impl Iterator<Item = Lab> {
    every_family().filter(|b| b.model.card.neuron_layers.len() == b.model.card.layers)
}

/// Some tokens, all different ones, longer than the original length of the scaled rope.
pub fn prompt(length: usize) -> Vec<u32> {
    (0..length as u32).map(|i| (i * 17 + 5) % 59).collect()
}

/// A run under edits that were always on.
pub fn edited(tokens: Vec<u32>, edits: &[&str]) -> Run {
    let edits = edits.iter().map(|e| e.parse::<Edit>().unwrap()).collect();
    Run {
        schedule: Schedule::always(edits),
        ..Run::plain(tokens)
    }
}

/// Writes one token, and returns the figure of its position alone.
pub fn next(
    of: &dyn Instrument,
    writer: &mut Writer,
    arguments: &Arguments,
    lab: &mut Lab,
) -> Figure {
    let needs = of.needs(&writer.run, arguments, lab).unwrap();
    let step = writer.step(lab, &[needs]).unwrap();
    let column = of.column(&step.captures[0], arguments, lab).unwrap();
    let run = &writer.run;
    Figure {
        title: column.title,
        body: column.body,
        notes: column.notes,
        check: column.check,
        provenance: lab.provenance(run, Vec::new()),
    }
}

/// Logits after a position by reading the whole run again, alone, with values put in: nothing is shared with anything.
pub fn read_again(lab: &mut Lab, run: &Run, position: usize, patches: &[Patch]) -> Vec<f32> {
    let mut program = lab.compile(run).unwrap();
    let patches: Vec<(usize, &Patch)> = patches.iter().map(|patch| (0, patch)).collect();
    let guard = lab.guard().lenient();
    let mut tap = RunTap::new(
        RowPrograms::all(&mut program),
        &patches,
        &[],
        RecordedPositions::All,
        guard,
    );
    let span = PassSpan {
        start: 0,
        len: run.tokens.len(),
        prompt: run.prompt,
        phase: PassPhase::Prefill,
    };
    let transformer = &lab.model.transformer;
    let tokens = lab.model.tokens(&run.tokens).unwrap();
    let x = transformer.trunk(&tokens, span, None, &mut tap).unwrap();
    let x = x.narrow(1, position, 1).unwrap().contiguous().unwrap();
    tap.begin(PassSpan {
        start: position,
        len: 1,
        ..span
    });
    let logits = transformer.read_out(&x, &mut tap).unwrap();
    values(&logits)
}

/// Values in f32.
pub fn values(t: &Tensor) -> Vec<f32> {
    t.to_dtype(DType::F32)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// Largest absolute difference; equal infinities count as equal.
pub fn gap(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    values(a)
        .iter()
        .zip(values(b))
        .map(|(a, b)| if *a == b { 0.0 } else { (a - b).abs() })
        .fold(0.0, f32::max)
}

/// Whether two tensors have the same bits.
pub fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    a.dims() == b.dims()
        && values(a)
            .iter()
            .zip(values(b))
            .all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Largest magnitude.
pub fn reach(t: &Tensor) -> f32 {
    values(t).iter().fold(0.0, |m, v| m.max(v.abs()))
}
