//! The effect of every attention head on an answer, as a grid of layers and heads.
//!
//! With demonstrations: the average indirect effect (Todd et al. 2024, 2310.15213, section 2.3). On prompts that do not show
//! the task, a head's output at the last token is replaced by its mean over prompts that do; the effect is the change of the
//! answer's log-probability (probability in the paper). Without demonstrations: that of the top prediction when a head is set to 0 at the
//! last token. The control uses a random vector of the same norm instead. Cells are anchored to heads, so that ablation can be
//! applied to them.

use std::path::{Path, PathBuf};

use crate::edit::Edit;
use crate::edit::receipt::{claim, exceeds, mark, marked, mean, range};
use crate::error::{Error, Result};
use crate::figure::{Anchor, AxisLabel, Cell, Grid, Unit};
use crate::instruments::over_prompts::numbers::{
    ListAnswers, OverPrompts, PromptNumbers, PromptPart, PromptPlace, RowOrder,
};
use crate::instruments::over_prompts::parameters::{
    ListChat, ListView, MeansShown, PromptPositions, PromptsAsked,
};
use crate::instruments::params::{Count, ParamKind, ParameterValue, choices, params};
use crate::instruments::{Draft, Measurement, Reads};
use crate::lab::Lab;
use crate::lab::draws::{DRAWS, draw_seed};
use crate::lab::effect::AnswerMeasure;
use crate::lab::run::Run;
use crate::lab::target::first_token;
use crate::model::Fingerprint;
use crate::vectors::few_shot::{ShotLayout, read};
use crate::vectors::function_vector::{Effects, Head, HeadMeans};
use crate::vectors::interval::{MeanInterval, standard_error};
use crate::vectors::task_vector::ShotPrompts;

choices! {
    /// The prompts in which head outputs are replaced.
    pub enum CorruptPrompts { Shuffled = "shuffled", ZeroShot = "zero_shot" | "asked" }
}

choices! {
    /// What replaces a head's output.
    pub enum HeadAblation { No = "no", Random = "random", Every = "every" }
}

params! {
    /// What `heads` is asked.
    pub struct HeadsParams {
        /// a file of demonstrations of a task, input and output with a tab between; without one, each head is ablated in the run itself, and a cell is the change of the top prediction
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
        /// with demonstrations: how many prompts the mean outputs are patched into; without: a list of prompts instead of one, as for other methods, in each of which every head is ablated
        prompts: PromptsOrCount = "25",
        at: PromptPositions,
        list: ListView,
        rows: MeansShown,
        chat: ListChat,
        /// without demonstrations, the answer: a text (its first token) or #ID; by default the top prediction
        token: Option<String>,
        /// the control: no: for the strongest heads, in notes and cells; random: the grid with a random vector of the same norm in the place of each head's output; every: in every cell, one draw for each head (lists of prompts have this one, another draw for each prompt)
        control was "null": HeadAblation = "no",
        on: AnswerMeasure,
    }
}

/// The parameter `prompts`, which meant how many before it could mean which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromptsOrCount {
    /// How many prompts of demonstrations.
    Count(usize),
    /// A list.
    List(PathBuf),
}

impl ParameterValue for PromptsOrCount {
    const KIND: ParamKind = ParamKind::Text;

    fn parse(text: &str) -> std::result::Result<Self, String> {
        match text.trim().parse::<usize>() {
            Ok(count) if (1..=10_000).contains(&count) => Ok(Self::Count(count)),
            Ok(_) => Err("a number from 1 to 10000, or a file of prompts".into()),
            Err(_) if text.trim().is_empty() => Err("a number, or a file of prompts".into()),
            Err(_) => Ok(Self::List(text.trim().into())),
        }
    }

    fn print(&self) -> String {
        match self {
            Self::Count(count) => count.to_string(),
            Self::List(file) => file.display().to_string(),
        }
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
    const OVER_PROMPTS: Option<OverPrompts<HeadsParams>> = Some(OverPrompts {
        asked: HeadsParams::asked,
        alone: HeadsParams::alone,
        numbers: |params, body, _| {
            if params.control == HeadAblation::Random {
                return PromptNumbers::of_cells(body, "head", &["change"], |cell| vec![cell.value]);
            }
            let names = ["change", RANDOM, "beyond random"];
            let mut found = PromptNumbers::of_cells(body, "head", &names, |cell| {
                let random = cell.named(RANDOM).unwrap_or(f32::NAN);
                vec![cell.value, random, cell.value.abs() - random.abs()]
            })?;
            found.numbers[0].judged_by = Some(names[2].into());
            Ok(found)
        },
        note: "change: of the answer's log-probability after the position (or what `on` names), when the head's output there is ablated (set to 0) or, with control=random, replaced by a random vector of the same norm; other heads can take over from an ablated one; random: the control, a random vector with the norm of the head's output in its place, another draw for every prompt; beyond random: |change| minus |random|, prompt by prompt",
        order: |_| RowOrder::LargestFirst,
        reads: PromptPart::Positions,
        answers: ListAnswers::Asked,
    });

    fn measure(params: &HeadsParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let control = params.control;
        let found = match &params.demos {
            None => {
                let answer = match &params.token {
                    None => lab.top_prediction(run)?,
                    Some(text) => first_token("token", text, &lab.model)?,
                };
                drop_without_head(run, lab, control, (answer, params.on))?
            }
            Some(demos) => params.mean_effects(demos, run, lab, control)?,
        };
        Ok(found.draft(lab, control))
    }
}

/// The name of a single draw of the control in a cell.
const RANDOM: &str = "random";

/// The measured effects, with their title and notes.
struct HeadEffects {
    effects: Effects,
    title: String,
    value: String,
    position: Option<usize>,
    /// The strongest heads with what random vectors in the same place do, in several draws.
    controls: Vec<(Head, Vec<f32>)>,
    notes: Vec<String>,
}

impl HeadsParams {
    /// What is asked about a list of prompts.
    fn asked(&self) -> PromptsAsked {
        PromptsAsked {
            file: match &self.prompts {
                PromptsOrCount::Count(_) => None,
                PromptsOrCount::List(file) => Some(file.clone()),
            },
            at: self.at.clone(),
            view: self.list,
            rows: self.rows.0,
            chat: self.chat.0,
        }
    }

    /// The same about one prompt of a list.
    fn alone(&self, place: &PromptPlace) -> Result<Self> {
        if self.demos.is_some() {
            let expected = "how many prompts of the demonstrations, or no demonstrations";
            return Err(Error::argument("prompts", self.prompts.print(), expected));
        }
        Ok(Self {
            token: place.token(self.token.as_ref()),
            control: match self.control {
                HeadAblation::Random => HeadAblation::Random,
                HeadAblation::No | HeadAblation::Every => HeadAblation::Every,
            },
            ..self.clone()
        })
    }

    /// The effect of replacing head outputs by their means over prompts with demonstrations.
    fn mean_effects(
        &self,
        demos: &Path,
        run: &Run,
        lab: &mut Lab,
        control: HeadAblation,
    ) -> Result<HeadEffects> {
        if control == HeadAblation::Every {
            let expected = "no or random: with demonstrations, the control is of the strongest heads or of the whole grid";
            return Err(Error::argument("control", control.print(), expected));
        }
        let control = control == HeadAblation::Random;
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
        let PromptsOrCount::Count(count) = self.prompts else {
            let expected = "how many prompts of the demonstrations, or no demonstrations";
            return Err(Error::argument("prompts", self.prompts.print(), expected));
        };
        let (corrupt, how) = match self.rank {
            CorruptPrompts::Shuffled => (prompts.on(lab).shuffled(count)?, "with permuted labels"),
            CorruptPrompts::ZeroShot => {
                (prompts.on(lab).zero_shot(count)?, "without demonstrations")
            }
        };
        let measured = HeadMeans::measure(lab, &clean)?;
        let random = measured.random_like(run.seed);
        let put = if control { &random } else { &measured };
        let effects = Effects::indirect(lab, &corrupt, put, self.on)?;
        let mut notes = vec![format!(
            "each cell: the change of the {} when the head's output at the last token is replaced by {}; mean over {count} prompts {how}, where it is {:.3}",
            self.on.of_named("the answer's first token"),
            if control {
                "a random vector with the norm of its mean"
            } else {
                "its mean over prompts that demonstrate the task"
            },
            effects.base,
        )];
        let mut controls = Vec::new();
        if !control {
            let heads = effects.strongest(STRONGEST);
            let mut values: Vec<(Head, Vec<f32>)> = Vec::new();
            let mut add = |means: &HeadMeans| {
                values.extend(heads.iter().map(|head| (*head, means.head(*head).to_vec())));
            };
            add(&measured);
            (0..DRAWS).for_each(|draw| add(&measured.random_like(draw_seed(run.seed, draw))));
            let found = Effects::by_prompt(lab, &corrupt, &values, self.on)?;
            for (i, head) in heads.iter().enumerate() {
                let own = MeanInterval::of(&found[i], run.seed);
                let drawn = found.iter().skip(i + heads.len()).step_by(heads.len());
                let draws: Vec<f32> = drawn.map(|each| standard_error(each).0 as f32).collect();
                notes.extend(control_note(
                    *head,
                    own.mean,
                    &format!(" over the prompts ({})", own.sentence()),
                    &draws,
                    "random vectors with the norm of its mean",
                    run.seed,
                ));
                controls.push((*head, draws));
            }
        }
        if run.schedule.latest().iter().any(Edit::active) {
            notes.push(
                "the run's edits do not apply here: the prompts are made of the demonstrations"
                    .into(),
            );
        }
        Ok(HeadEffects {
            effects,
            title: format!(
                "average indirect effect on the {}",
                self.on.of_named("answer")
            ),
            value: format!("change of the {}", self.on.of_named("answer")),
            position: None,
            controls,
            notes,
        })
    }
}

/// The change of the answer when each head is ablated.
fn drop_without_head(
    run: &Run,
    lab: &mut Lab,
    control: HeadAblation,
    (answer, measure): (u32, AnswerMeasure),
) -> Result<HeadEffects> {
    let width = lab.model.transformer.blueprint.head_dim;
    let random = |lab: &mut Lab, seed: u64| {
        let own = HeadMeans::of_run(lab, run)?.random_like(seed);
        Effects::of(lab, run, (answer, measure), |head| own.head(head).to_vec())
    };
    let (ablated, replaced) = (
        "ablated (set to 0)",
        "replaced by a random vector of the same norm",
    );
    let (effects, instead) = if control == HeadAblation::Random {
        (random(lab, run.seed)?, replaced)
    } else {
        let own = Effects::of(lab, run, (answer, measure), |_| vec![0.0; width])?;
        (own, ablated)
    };
    let controls = match control {
        HeadAblation::Random => Vec::new(),
        HeadAblation::No => controls_of(&effects, run, lab, (answer, measure))?,
        HeadAblation::Every => {
            // Another draw for every text.
            let drawn = random(lab, Fingerprint::of([run.seed, run.digest()]))?;
            let heads = drawn.values.iter().enumerate();
            let of = |(layer, values): (usize, &Vec<f64>)| {
                let each = values.iter().enumerate();
                each.map(|(head, value)| ((layer, head), vec![*value as f32]))
                    .collect::<Vec<_>>()
            };
            heads.flat_map(of).collect()
        }
    };
    let name = measure.of_named(&lab.visible(answer));
    Ok(HeadEffects {
        notes: vec![
            format!(
                "each cell: the change of the {name} after the last token ({:.3}) when the head's output there is {instead}",
                effects.base
            ),
            "other heads can take over from an ablated one, so a small change does not show that a head does nothing; compare with control=random".into(),
        ]
        .into_iter()
        .chain((control == HeadAblation::Every).then(|| "random: a random vector with the norm of the head's output in its place, one draw for each head".to_string()))
        .chain(controls.iter().filter(|(_, draws)| draws.len() > 1).filter_map(|(head, draws)| {
            let (own, what) = (
                effects.values[head.0][head.1],
                "random vectors with the norm of its output",
            );
            control_note(*head, own, "", draws, what, run.seed)
        }))
        .collect(),
        controls,
        effects,
        title: format!("change of the {name} with each head ablated at the last token"),
        value: format!("change of the {name}"),
        position: run.tokens.len().checked_sub(1),
    })
}

/// What a head does beside what stands in its place in several draws; none without draws.
fn control_note(
    (layer, head): Head,
    own: f64,
    over: &str,
    draws: &[f32],
    what: &str,
    seed: u64,
) -> Option<String> {
    let (low, high) = range(draws)?;
    let within = if exceeds(own as f32, draws) {
        ""
    } else {
        ", NO MORE THAN THAT"
    };
    Some(format!(
        "control: head {layer}.{head} {own:+.4}{over}; {what} in its place {:+.4}, {low:+.4} to {high:+.4} in {} draws (seed {seed}){within}",
        mean(draws),
        draws.len()
    ))
}

/// How many of the strongest heads have a control.
const STRONGEST: usize = 3;

/// What random vectors with the norms of the strongest heads' outputs do in their places, in several draws.
fn controls_of(
    effects: &Effects,
    run: &Run,
    lab: &mut Lab,
    answer: (u32, AnswerMeasure),
) -> Result<Vec<(Head, Vec<f32>)>> {
    let heads = effects.strongest(STRONGEST);
    if heads.is_empty() {
        return Ok(Vec::new());
    }
    let own = HeadMeans::of_run(lab, run)?;
    let mut values = Vec::with_capacity(heads.len() * DRAWS);
    for draw in 0..DRAWS {
        let random = own.random_like(draw_seed(run.seed, draw));
        values.extend(
            heads
                .iter()
                .map(|head| (*head, random.head(*head).to_vec())),
        );
    }
    let found = Effects::of_heads(lab, run, answer, &values)?;
    let of = |i: usize| {
        found
            .iter()
            .skip(i)
            .step_by(heads.len())
            .map(|v| *v as f32)
            .collect()
    };
    Ok(heads
        .iter()
        .enumerate()
        .map(|(i, head)| (*head, of(i)))
        .collect())
}

impl HeadEffects {
    fn draft(self, lab: &Lab, control: HeadAblation) -> Draft {
        let (layers, heads) = (lab.model.card.layers, lab.model.card.heads);
        let effects = &self.effects;
        let cell = |layer: usize, head: usize| {
            let value = effects.values[layer][head] as f32;
            let at = match self.position {
                Some(position) => Anchor::cell(layer, position),
                None => Anchor::layer(layer),
            };
            let base = effects.base as f32;
            let own = self.controls.iter().find(|(at, _)| *at == (layer, head));
            let beside = match own.map(|(_, draws)| draws.as_slice()) {
                Some([one]) => vec![(RANDOM, *one)],
                draws => match draws.and_then(range) {
                    Some((low, high)) => vec![("random, from", low), ("random, to", high)],
                    None => Vec::new(),
                },
            };
            let numbers = [("before", base), ("after", base + value)];
            let mark = own.map_or("", |(_, draws)| mark(value, draws));
            Cell::of(mark, value, at.with(Unit::Head(head as u32)))
                .more(numbers.into_iter().chain(beside))
        };
        let rows = ("layer", AxisLabel::layers(layers));
        let columns = ("head", AxisLabel::heads(heads));
        let mut grid = Grid::of(rows, columns, self.value, cell).around_zero();
        let marks = grid.cells.iter().flatten().map(|cell| cell.label.as_str());
        grid.value = marked(std::mem::take(&mut grid.value), marks);
        // Those of lists have one draw each, and every head.
        let strongest = self.controls.first().filter(|(_, draws)| draws.len() > 1);
        let claim = strongest.map_or_else(String::new, |((layer, head), draws)| {
            claim(effects.values[*layer][*head] as f32, draws)
        });
        let of = if control == HeadAblation::Random {
            " · control: random vectors of the same norm"
        } else {
            ""
        };
        Draft::of(grid)
            .titled(self.title + of + &claim)
            .notes(self.notes)
    }
}
