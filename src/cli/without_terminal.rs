//! The output of `lmscope` without a terminal: a short text with its lens, streamed as plain lines.
//!
//! Invariant: works offline on the embedded demo, ends by itself, and exits 0. To show another instrument, capture what it
//! needs.

use clap::ArgMatches;

use super::{arguments, output};
use crate::edit::schedule::Schedule;
use crate::error::{Error, Result};
use crate::figure::column::Column;
use crate::figure::{Body, Check};
use crate::instruments::logit_lens::lens::Lens;
use crate::instruments::{Arguments, Instrument};
use crate::lab::sample::Sampling;
use crate::lab::writer::Writer;
use crate::text;

/// The prompt to continue: a fact that the demo model was trained on.
const PROMPT: &str = "The capital of France is";

/// The most tokens to generate.
const COUNT: usize = 24;

/// The width of a cell, in columns.
const CELL: usize = 10;

/// The most layers to show next to each other; of deeper models, a selection at equal distances.
const SHOWN: usize = 8;

/// Streams the demonstration.
pub fn run(matches: &ArgMatches) -> Result<()> {
    let mut lab = arguments::open(matches)?;
    let layers = lab.model.card.layers;
    let card = lab.model.card.clone();
    let tokens = lab.model.encode(PROMPT, false)?;
    let mut writer = Writer::begin(&mut lab, tokens, Schedule::none(), Sampling::default())?;
    output::line(&format!(
        "lmscope {} · {} · {} · {} · {}",
        env!("CARGO_PKG_VERSION"),
        card.name,
        card.family,
        card.dtype,
        card.device
    ))?;
    output::line(&format!("prompt: {PROMPT}"))?;
    output::line(
        "each line: a generated token, and the prediction of every layer for the next one, read through the final norm and the unembedding (logit lens)",
    )?;
    output::line("")?;
    let shown: Vec<usize> = (0..SHOWN.min(layers))
        .map(|i| (i + 1) * layers / SHOWN.min(layers) - 1)
        .collect();
    let heads: String = shown
        .iter()
        .map(|l| text::fit(&format!("layer {l}"), CELL + 6))
        .collect();
    output::line(format!("{}  {heads}", text::fit("token", CELL)).trim_end())?;

    let arguments = Arguments::default();
    let needs = [Lens.needs(&writer.run, &arguments, &lab)?];
    let mut written = Vec::new();
    let mut check: Option<Check> = None;
    while written.len() < COUNT && writer.has_room(&lab) {
        let step = writer.step(&mut lab, &needs)?;
        let column = Lens.column(&step.captures[0], &arguments, &mut lab)?;
        check = match (check, column.check) {
            (Some(a), Some(b)) => Some(a.worst(b)),
            (a, b) => a.or(b),
        };
        let token = text::fit(&lab.visible(step.choice.id), CELL);
        output::line(format!("{token}  {}", cells(&column, &shown)).trim_end())?;
        if lab.model.is_end(step.choice.id) {
            break;
        }
        written.push(step.choice.id);
    }
    let whole: Vec<u8> = written.iter().flat_map(|id| lab.model.bytes(*id)).collect();
    output::line("")?;
    output::line(&format!("{PROMPT}{}", text::plain(&whole)))?;
    if let Some(check) = check {
        let mark = if check.passed() {
            "✓ the last row is the model's own output"
        } else {
            "✗ the last row is NOT the model's own output"
        };
        output::line(&format!("{mark} (largest difference {:.1e})", check.error))?;
    }
    output::note(
        "standard output is not a terminal, so this was a demonstration; in a terminal `lmscope` opens the screen; `lmscope --help` lists the commands for scripts.",
    );
    if lab.cancel.load(std::sync::atomic::Ordering::Relaxed) {
        Err(Error::Cancelled)
    } else {
        Ok(())
    }
}

fn cells(column: &Column, shown: &[usize]) -> String {
    let Body::Grid(grid) = &column.body else {
        return String::new();
    };
    let cell = |layer: &usize| {
        let cell = grid.cells.first().and_then(|rows| rows.get(*layer));
        cell.map_or_else(String::new, |c| {
            format!("{} {:.2}  ", text::fit(&c.label, CELL - 1), c.value)
        })
    };
    shown
        .iter()
        .map(|layer| text::fit(&cell(layer), CELL + 6))
        .collect()
}
