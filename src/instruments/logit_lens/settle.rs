//! Convergence layers: from which layer on does the lens predict what the model predicts?
//!
//! For every position it finds the last stretch of layers whose top prediction equals the model's and whose distribution is close to
//! the model's: a top prediction alone may agree nats away. To report more about a position, add a column. Sources: the lens's own; "first layer after which the top never changes" as in the literature on
//! early exits (Schuster et al. 2022, 2207.07061, use the same agreement).

use super::lens::cautions;
use crate::error::Result;
use crate::figure::builders::entries;
use crate::figure::{Anchor, Table, TableRow};
use crate::instruments::logit_lens::lens_view::{MapsFile, ReadSite, view};
use crate::instruments::over_prompts::numbers::{
    ListAnswers, OverPrompts, PromptNumbers, PromptPart, RowOrder,
};
use crate::instruments::over_prompts::parameters::params_over_prompts;
use crate::instruments::params::{Count, NonNegative};
use crate::instruments::{Draft, Measurement, last};
use crate::lab::Lab;
use crate::lab::capture::{Needs, NormOf, Readout};
use crate::lab::run::Run;

params_over_prompts! {
    /// What `settle` is asked.
    pub struct SettleParams {
        /// how many of the last positions to read
        window: Count<1, 4096> = "64",
        /// a layer agrees if its top prediction is the model's and KL(model ‖ layer) is at most this, in nats
        kl: NonNegative = "0.5",
        site: ReadSite,
        norm: NormOf,
        maps: MapsFile,
    }
}

const COLUMNS: &[&str] = &[
    "position",
    "after",
    "answer",
    "p",
    "converges",
    "same top from",
    "first",
    "p there",
    "KL there",
];

pub struct Settle;

impl Measurement for Settle {
    type Params = SettleParams;
    const NAME: &'static str = "settle";
    const ABOUT: &'static str = "Convergence layer of each prediction: from this layer on, every layer has the model's own top prediction and nearly its distribution";
    const SOURCE: &'static str =
        "agreement of layers: Schuster et al. 2022 (2207.07061); logit lens: nostalgebraist 2020";
    const OVER_PROMPTS: Option<OverPrompts<SettleParams>> = Some(OverPrompts {
        asked: SettleParams::asked,
        alone: |params, place| {
            Ok(SettleParams {
                window: Count(place.window),
                ..params.clone()
            })
        },
        numbers: |_, body, place| {
            let names = [
                "converges",
                "same top from",
                "first",
                "p",
                "p there",
                "KL there",
            ];
            let here = |row: &TableRow| row.anchor.position == Some(place.position as u32);
            PromptNumbers::of_table(body, "", &names, here)
        },
        note: "of the model's own top prediction: converges: the convergence layer, from which on the top prediction is the model's and KL(model ‖ layer) at most the limit `kl`; same top from: by the top prediction alone; first: the first layer with that top prediction; a prompt that never converges has no such layer and is left out of that mean",
        order: |_| RowOrder::AsMeasured,
        reads: PromptPart::Positions,
        answers: ListAnswers::Unasked,
    });

    fn measure(params: &SettleParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let view = view(params.site, params.norm, &params.maps, lab)?;
        let total = run.tokens.len();
        let shown = last(params.window.0, run);
        let start = shown.start;
        let readout = Readout {
            top: 1,
            answer: true,
            kl: true,
            ..view.readout(lab.model.card.layers)
        };
        let capture = lab.capture(run, shown.clone(), &Needs::of(readout))?;
        let seen = &capture.read;
        let layers = seen.layers.len();
        let (mut rows, mut settled) = (Vec::new(), Vec::new());
        for (i, position) in shown.enumerate() {
            let (answer, p) = seen.finals[i].first();
            let top = seen.settles(i);
            let close = |l: &usize| {
                let stats = &seen.layers[*l][i];
                top.is_some_and(|top| *l >= top) && f64::from(stats.kl) <= params.kl.0
            };
            let from = (0..layers).rev().take_while(close).last();
            // The first position is often an attention sink and not representative, so it is left out of the mean.
            if position > 0 || total == 1 {
                settled.extend(from);
            }
            let first = (0..layers).find(|l| seen.layers[*l][i].first().0 == answer);
            let there = from.map(|l| &seen.layers[l][i]);
            let row = TableRow::at(
                from.map_or(Anchor::position(position), |l| Anchor::cell(l, position)),
                entries![
                    position,
                    lab.visible(run.tokens[position]),
                    lab.visible(answer),
                    p,
                    from,
                    top,
                    first,
                    there.map(|stats| stats.first().1),
                    there.map(|stats| stats.kl),
                ],
            );
            rows.push(
                row.naming("after", [run.tokens[position]])
                    .naming("answer", [answer]),
            );
        }
        settled.sort_unstable();
        let mean = settled.iter().sum::<usize>() as f64 / settled.len().max(1) as f64;
        let summary = match settled.get(settled.len() / 2) {
            Some(median) => format!(
                "{} of {} positions after the first converge: convergence layer median {median}, mean {mean:.2}, of 0-{}",
                settled.len(),
                rows.len() - usize::from(start == 0 && total > 1),
                layers - 1
            ),
            None => "no position converges: this lens does not end in the model's output".into(),
        };
        Ok(Draft::of(Table::of(COLUMNS, rows))
            .titled(format!("{}, KL at most {} nats", view.site.spec().name, params.kl.0))
            .note(summary)
            .note("converges: the convergence layer, from which on the top prediction is the model's and KL(model ‖ layer) at most the limit `kl`; same top from: by the top prediction alone; first: the first layer with that top prediction; p there, KL there: at the convergence layer, KL divergence in nats from the model's output; empty: never")
            .notes(cautions(&view, lab.model.card.layers))
            .checked(capture.check))
    }
}
