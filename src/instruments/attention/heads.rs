//! The effect of every attention head on an answer, as a grid of layers and heads.
//!
//! With demonstrations: the average indirect effect (Todd et al. 2024, 2310.15213, section 2.3). On prompts that do not show
//! the task, a head's output at the last token is replaced by its mean over prompts that do; the effect is the change of the
//! answer's probability. Without demonstrations: the change of the top prediction's probability when a head is set to 0 at the
//! last token. The control uses a random vector of the same norm instead. Cells are anchored to heads, so that ablation can be
//! applied to them.

use std::path::{Path, PathBuf};

use crate::edit::Edit;
use crate::error::Result;
use crate::figure::{Anchor, AxisLabel, Cell, Grid, Unit};
use crate::instruments::params::{Count, choices, params};
use crate::instruments::{Draft, Measurement, Reads};
use crate::lab::Lab;
use crate::lab::run::Run;
use crate::vectors::few_shot::{ShotLayout, read};
use crate::vectors::function_vector::{Effects, HeadMeans};
use crate::vectors::task_vector::ShotPrompts;

choices! {
    /// The prompts in which head outputs are replaced.
    pub enum CorruptPrompts { Shuffled = "shuffled", ZeroShot = "zero_shot" | "asked" }
}

choices! {
    /// What replaces a head's output.
    pub enum HeadAblation { No = "no", Random = "random" }
}

params! {
    /// What `heads` is asked.
    pub struct HeadsParams {
        /// a file of demonstrations of a task, input and output with a tab between; without one, each head is ablated in the run itself, and a cell is the change of the top prediction's probability
        demos: Option<PathBuf>,
        /// the form of a demonstration, with {x} for the input and {y} for the output
        template: String = "Q: {x}\\nA: {y}",
        /// the text between demonstrations
        separator: String = "\\n\\n",
        /// the form of a query without demonstrations, if it differs from that of a demonstration
        ask: Option<String>,
        /// the prompts that head outputs are patched into: shuffled: demonstrations with permuted labels; zero_shot: no demonstrations
        rank: CorruptPrompts = "shuffled",
        /// how many demonstrations stand before a query
        shots: Count<1, 1000> = "10",
        /// how many prompts a head's mean output is taken over
        trials: Count<1, 10_000> = "100",
        /// how many prompts the mean outputs are patched into
        prompts: Count<1, 10_000> = "25",
        /// the control: random draws the grid with a random vector of the same norm in the place of each head's mean output
        control was "null": HeadAblation = "no",
    }
}

pub struct Heads;

impl Measurement for Heads {
    type Params = HeadsParams;
    const NAME: &'static str = "heads";
    const ABOUT: &'static str = "Causal effect of every attention head on an answer: its output replaced by its mean over demonstrations of a task, or ablated (set to 0)";
    const SOURCE: &'static str = "average indirect effect: Todd et al. 2024 (2310.15213)";
    const READS: Reads<HeadsParams> = Reads::TextWhere(|params| params.demos.is_none());
    const READS_END: bool = true;

    fn measure(params: &HeadsParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let control = params.control == HeadAblation::Random;
        let found = match &params.demos {
            None => drop_without_head(run, lab, control)?,
            Some(demos) => params.mean_effects(demos, run, lab, control)?,
        };
        Ok(found.draft(lab, control))
    }
}

/// The measured effects, with their title and notes.
struct HeadEffects {
    effects: Effects,
    title: String,
    value: String,
    position: Option<usize>,
    notes: Vec<String>,
}

impl HeadsParams {
    /// The effect of replacing head outputs by their means over prompts with demonstrations.
    fn mean_effects(
        &self,
        demos: &Path,
        run: &Run,
        lab: &mut Lab,
        control: bool,
    ) -> Result<HeadEffects> {
        let pairs = read(demos)?;
        let layout = ShotLayout::new(&self.template, &self.separator)?;
        let query_layout = match &self.ask {
            None => layout.clone(),
            Some(other) => ShotLayout::new(other, &self.separator)?,
        };
        let prompts = ShotPrompts {
            pairs: &pairs,
            layout: &layout,
            query_layout: &query_layout,
            count: self.shots.0,
            seed: run.seed,
        };
        let clean = prompts.on(lab).clean(self.trials.0)?;
        let count = self.prompts.0;
        let (corrupt, how) = match self.rank {
            CorruptPrompts::Shuffled => (prompts.on(lab).shuffled(count)?, "with permuted labels"),
            CorruptPrompts::ZeroShot => {
                (prompts.on(lab).zero_shot(count)?, "without demonstrations")
            }
        };
        let measured = HeadMeans::measure(lab, &clean)?;
        let random = measured.random_like(run.seed);
        let effects = Effects::indirect(lab, &corrupt, if control { &random } else { &measured })?;
        let mut notes = vec![format!(
            "each cell: the change of the probability of the answer's first token when the head's output at the last token is replaced by {}; mean over {count} prompts {how}, where the answer has probability {:.3}",
            if control {
                "a random vector with the norm of its mean"
            } else {
                "its mean over prompts that demonstrate the task"
            },
            effects.base,
        )];
        if !control && let Some((head, effect)) = effects.top(1).first() {
            let chance = Effects::at(lab, &corrupt, &random, *head)?;
            notes.push(format!(
                "control: head {}.{} {effect:+.4}; a random vector with the norm of its mean, in the same place, {chance:+.4} (seed {}). control=random draws the whole grid of it",
                head.0, head.1, run.seed
            ));
        }
        if run.schedule.latest().iter().any(Edit::active) {
            notes.push(
                "the run's edits do not apply here: the prompts are made of the demonstrations"
                    .into(),
            );
        }
        Ok(HeadEffects {
            effects,
            title: "average indirect effect".into(),
            value: "change of the answer's probability".into(),
            position: None,
            notes,
        })
    }
}

/// The change of the probability of the run's top prediction when each head is ablated.
fn drop_without_head(run: &Run, lab: &mut Lab, control: bool) -> Result<HeadEffects> {
    let top_prediction = lab.top_prediction(run)?;
    let width = lab.model.transformer.blueprint.head_dim;
    let effects = if control {
        let own = HeadMeans::of_run(lab, run)?.random_like(run.seed);
        Effects::of(lab, run, top_prediction, |head| own.head(head).to_vec())?
    } else {
        Effects::of(lab, run, top_prediction, |_| vec![0.0; width])?
    };
    let name = lab.visible(top_prediction);
    let instead = if control {
        "replaced by a random vector of the same norm"
    } else {
        "ablated (set to 0)"
    };
    Ok(HeadEffects {
        notes: vec![
            format!(
                "each cell: the change of the probability of {name} after the last token ({:.3}) when the head's output there is {instead}",
                effects.base
            ),
            "other heads can take over from an ablated one, so a small change does not show that a head does nothing; compare with control=random".into(),
        ],
        effects,
        title: format!("{name} with each head ablated at the last token"),
        value: format!("change of the probability of {name}"),
        position: run.tokens.len().checked_sub(1),
    })
}

impl HeadEffects {
    fn draft(self, lab: &Lab, control: bool) -> Draft {
        let (layers, heads) = (lab.model.card.layers, lab.model.card.heads);
        let effects = &self.effects;
        let cell = |layer: usize, head: usize| {
            let value = effects.values[layer][head] as f32;
            let at = match self.position {
                Some(position) => Anchor::cell(layer, position),
                None => Anchor::layer(layer),
            };
            let base = effects.base as f32;
            Cell::of("", value, at.with(Unit::Head(head as u32)))
                .more([("before", base), ("after", base + value)])
        };
        let rows = ("layer", AxisLabel::layers(layers));
        let columns = ("head", AxisLabel::heads(heads));
        let grid = Grid::of(rows, columns, self.value, cell).around_zero();
        let of = if control {
            " · control: random vectors of the same norm"
        } else {
            ""
        };
        Draft::of(grid).titled(self.title + of).notes(self.notes)
    }
}
