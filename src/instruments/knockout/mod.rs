//! Attention knockout: removes edges in a window of layers around each layer, and measures the answer (Geva et al. 2023,
//! 2304.14767).
//!
//! A cell removes the edges from some targets (by default the last token) to some sources in a window of layers around its row,
//! and shows the change of the answer's probability. Invariant: every cell comes with its control, as many random other edges
//! of the same layers, heads and targets; where there are not as many, the figure says so instead of knocking out fewer. To cut
//! something else, add a variant of [`KnockoutColumns`] and its columns in `KnockoutPlan::read`.

pub mod parameters;
mod plan;

use self::parameters::{KnockoutColumns, KnockoutParams};
use self::plan::{KnockoutPlan, KnockoutResult, three_digits};
use super::over_prompts::numbers::OverPrompts;
use super::params::ParameterValue;
use super::{Draft, Measurement};
use crate::edit::positions::Positions;
use crate::edit::receipt::{claim, mark, marked, range};
use crate::error::Result;
use crate::figure::{Anchor, AxisLabel, Cell, Check, Grid};
use crate::instruments::residual::attribution::rounding;
use crate::lab::Lab;
use crate::lab::draws::DRAWS;
use crate::lab::run::Run;
use crate::lab::sample::NO_RANK;
use crate::lab::trials::SweepCost;
use crate::model::Card;

pub struct AttentionKnockout;

impl Measurement for AttentionKnockout {
    type Params = KnockoutParams;
    const NAME: &'static str = "knockout";
    const ABOUT: &'static str = "Attention knockout: how an answer's probability changes when some tokens cannot attend to others, in a window of layers at a time";
    const SOURCE: &'static str = "attention knockout: Geva et al. 2023 (2304.14767)";
    const READS_END: bool = true;
    const OVER_PROMPTS: Option<OverPrompts<KnockoutParams>> = Some(KnockoutParams::OVER_PROMPTS);

    fn cost(params: &KnockoutParams, tokens: usize, card: &Card) -> Option<SweepCost> {
        let columns = match params.by {
            KnockoutColumns::Head => card.heads,
            KnockoutColumns::Source => params.sources.count(tokens),
        };
        let alone = params.targets.rule == Positions::Last;
        Some(SweepCost {
            passes: 2 * card.layers * columns + 1,
            tokens: if alone { 1 } else { tokens },
        })
    }

    fn measure(params: &KnockoutParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let plan = KnockoutPlan::read(params, run, lab)?;
        let found = plan.measure(run, lab)?;
        Ok(plan.draw(&found, run, lab))
    }
}

impl KnockoutPlan<'_> {
    /// The strongest cell's change and those of its control, for the title; empty without a control.
    fn claim(&self, found: &KnockoutResult) -> String {
        let change = |logprob: f32| self.params.value.of(logprob, found.base);
        let Some(strongest) = &found.strongest else {
            return String::new();
        };
        let draws: Vec<f32> = strongest.draws.iter().map(|draw| change(*draw)).collect();
        let own = found.outcomes[strongest.cell].as_ref();
        own.map_or_else(String::new, |own| claim(change(own.logprob), &draws))
    }

    fn draw(&self, found: &KnockoutResult, run: &Run, lab: &Lab) -> Draft {
        let params = self.params;
        let measure = |logprob: f32| params.value.of(logprob, found.base);
        let position = run.tokens.len() - 1;
        let cell = |layer: usize, column: usize| {
            let place = self.columns[column].anchor;
            let anchor = Anchor {
                layer: Some(layer as u16),
                position: place.position.or(Some(position as u32)),
                unit: place.unit,
            };
            let Some(outcome) = &found.outcomes[column * self.layers + layer] else {
                return Cell::of("", f32::NAN, anchor);
            };
            let rank = (outcome.rank != NO_RANK).then_some(outcome.rank as f32);
            let more = [
                ("before", Some(found.base.exp())),
                ("after", Some(outcome.logprob.exp())),
                ("rank after", rank),
                ("random edges", outcome.control.map(f32::exp)),
            ];
            let more = more.into_iter().filter_map(|(name, v)| Some((name, v?)));
            let drawn = found
                .strongest
                .as_ref()
                .filter(|strongest| strongest.cell == column * self.layers + layer)
                .and_then(|strongest| range(&strongest.draws));
            let drawn = drawn.map(|(low, high)| {
                [
                    (format!("least of {DRAWS} draws"), low.exp()),
                    (format!("most of {DRAWS} draws"), high.exp()),
                ]
            });
            let more = more.map(|(name, v)| (name.to_string(), v));
            let own = measure(outcome.logprob);
            let control: Vec<f32> = outcome.control.map(measure).into_iter().collect();
            Cell::of(mark(own, &control), own, anchor).more(more.chain(drawn.into_iter().flatten()))
        };
        let name = lab.visible(self.answer);
        let by = params.by.print();
        let columns = self.columns.iter();
        let columns = columns.map(|c| AxisLabel::of(c.label.clone(), c.anchor));
        let mut grid = Grid::of(
            ("layer", AxisLabel::layers(self.layers)),
            (&by, columns.collect()),
            format!("{} of {name}", params.value.words()),
            cell,
        );
        grid.value = marked(
            grid.value,
            grid.cells.iter().flatten().map(|cell| cell.label.as_str()),
        );
        let outcomes = found.outcomes.iter().flatten();
        let tolerance = rounding(&lab.model) * found.largest_logit;
        let checks = outcomes.clone().map(|o| Check {
            error: o.gap,
            tolerance,
        });
        let check = checks.reduce(Check::worst).unwrap_or(Check {
            error: 0.0,
            tolerance,
        });
        let controls: Vec<f32> = outcomes
            .clone()
            .filter_map(|o| o.control)
            .map(measure)
            .collect();
        let cells_done = outcomes.count();
        let notes = [
            format!(
                "each cell: the change for {name} after the last token (p {}, rank {} without a knockout) when {} cannot attend to {}, in {} layers around the row; a position can always attend to itself",
                three_digits(found.base.exp()),
                found.base_rank,
                positions_in_words(&self.targets),
                match params.by {
                    KnockoutColumns::Head => "the sources, in the column's head",
                    KnockoutColumns::Source => "the column",
                },
                self.window
            ),
            if controls.is_empty() {
                "control: none, because there are too few other edges to knock out as many; compare the columns, or knock out fewer".into()
            } else {
                format!(
                    "control: as many random other edges knocked out, same positions, heads and layers; {} of {cells_done} cells have enough other edges, mean {:+.4}; the number of each cell is its `random edges` (seed {})",
                    controls.len(),
                    controls.iter().sum::<f32>() / controls.len() as f32,
                    run.seed
                )
            },
        ];
        Draft::of(grid.around_zero())
            .titled(format!("{name} under attention knockout{}", self.claim(found)))
            .notes(notes)
            .notes(self.sink_left_out.then(|| {
                "position 0, on which attention rests in many models (an attention sink), is left out of the columns and of the controls: knocking it out hurts whatever is asked; sources=0 asks about it".to_string()
            }))
            .notes(found.strongest.as_ref().map(|strongest| strongest.sentence.clone()))
            .notes(found.stopped.clone())
            .note("a knockout in one window of layers shows what is attended to there; what was copied in earlier layers has already moved on")
            .checked(Some(check))
    }
}

/// Some positions in words.
fn positions_in_words(positions: &[usize]) -> String {
    match positions {
        [one] => format!("position {one}"),
        [first, .., last] => format!("positions {first} to {last}"),
        [] => "nobody".into(),
    }
}
