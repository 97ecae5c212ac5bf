//! Steering sweep: one direction, every layer, several strengths: what becomes of a text, or of a list of prompts.
//!
//! Every cell is a pass of its own with one more edit, `op:direction@site.layer:positions*strength`. On the text that is
//! there, the value is the probability of the answers after the last token, or KL(run ‖ edited) there. On a list of prompts
//! it is a mean over them: of the same two, of *success* (the share whose greedy continuation says one of the answers), or of
//! *fluency* (how surprising the edited continuation is to the unedited model, nats a token). The control, a random direction of
//! equal norm, stands beside every cell (steering vectors: Turner et al. 2023, 2308.10248; Arditi et al. 2024, 2406.11717).

mod plan;

use std::fmt::Write as _;

use std::path::PathBuf;

use crate::edit::op::{DirectionName, Op};
use crate::edit::positions::Positions;
use crate::edit::{Edit, EditPlace};
use crate::error::{Error, Result};
use crate::figure::{Anchor, AxisLabel, Cell, Grid, Scale};
use crate::instruments::params::{Count, NonNegative, ParameterValue, Strengths, choices, params};
use crate::instruments::steering::outcome::{SteeringOutcome, SteeringTrial};
use crate::instruments::{Draft, Measurement, Reads};
use crate::lab::Lab;
use crate::lab::draws::DRAWS;
use crate::lab::run::Run;
use crate::lab::trials::SweepCost;
use crate::model::Card;
use crate::model::network::site::{Address, Site};
use crate::text;
use plan::{SteeringMeasure, SteeringPlan, SteeringResult};

choices! {
    /// The operation at every cell.
    pub enum SweptOp {
        Add = "add",
        AddUnitNorm = "add_unit_norm",
        AddRenorm = "add_renorm",
        ScaleAlong = "scale_along",
        ProjectOut = "project_out",
    }
}

choices! {
    /// Where in the block.
    pub enum SteerSite { ResidPre = "resid_pre", ResidPost = "resid_post", AttnOut = "attn_out", MlpOut = "mlp_out" }
}

choices! {
    /// What is asked to be coloured.
    pub enum Colour { Auto = "auto", Answers = "answers", Kl = "kl", Success = "success", Fluency = "fluency" }
}

choices! {
    /// How an answer is looked for in what is written.
    pub enum Match { Contains = "contains", Begins = "begins" }
}

choices! {
    /// Where the random direction stands.
    pub enum ControlColumn { Beside = "cells" | "beside", Columns = "columns", Alone = "random", No = "no" }
}

params! {
    /// What `sweep` is asked.
    pub struct SweepParams {
        /// the name of a loaded direction, a file, or a feature of a dictionary (NAME#12); by default the first that is loaded
        direction: Option<String>,
        /// another direction to stand beside it, scaled to the same norm, in the place of the random one: a difference of means beside a feature
        against: Option<String>,
        /// the steering operation of every cell
        op: SweptOp = "add",
        /// strengths, one column each
        strengths: Strengths = "-2,-1,-0.5,0,0.5,1,2",
        /// where in the block it is applied
        site: SteerSite = "resid_pre",
        positions: Positions,
        /// what a cell shows: answers: their probability after the last token; kl: KL divergence of the next-token distribution from the run's, in nats; with prompts also success: the share of prompts whose continuation contains an answer, and fluency: surprisal of the continuation under the unedited model, in nats a token; auto: success with prompts, else answers
        measure: Colour = "auto",
        /// texts separated by |; their first tokens are the answers, and writing one is a success; by default the run's top prediction
        answers: String,
        /// a file of prompts, one a line, instead of the run's own text; every number is then a mean over them
        prompts: Option<PathBuf>,
        /// yes: every prompt of the file is one user turn of the chat template
        chat: bool,
        /// how many tokens are generated after every prompt, for success and fluency
        tokens: Count<1, 512> = "16",
        /// whether a continuation has to contain an answer or begin with one to be a success
        found as "match": Match = "contains",
        /// a cell can be the selected maximum only if it is at most this much less fluent than the unedited text, in nats a token
        within: NonNegative = "0.5",
        /// the control, a random direction of equal norm: cells: its number inside every cell; columns: a column of its own after every strength; random: the grid of the control alone; no: none
        control was "null": ControlColumn = "cells",
    }
}

/// What the random direction is called while it is measured.
const CONTROL: &str = "sweep's control";

pub struct Sweep;

impl Measurement for Sweep {
    type Params = SweepParams;
    const NAME: &'static str = "sweep";
    const ABOUT: &'static str = "Steering at every layer and several strengths: the effect of a direction on the next token, or on the continuations of a list of prompts";
    const SOURCE: &'static str = "activation addition: Turner et al. 2023 (2308.10248)";
    const READS: Reads<SweepParams> = Reads::TextWhere(|params| params.prompts.is_none());
    const READS_END: bool = true;
    const EDITS_ITS_TEXTS: bool = true;

    fn cost(params: &SweepParams, tokens: usize, card: &Card) -> Option<SweepCost> {
        // How long a list's prompts are is not known before they are read.
        if params.prompts.is_some() {
            return None;
        }
        let moved = params.strengths.0.iter().filter(|s| **s != 0.0).count();
        let rows = match params.control {
            ControlColumn::Alone | ControlColumn::No => 1,
            ControlColumn::Beside | ControlColumn::Columns => 2,
        };
        Some(SweepCost {
            passes: moved * card.layers * rows + 1,
            tokens,
        })
    }

    fn measure(params: &SweepParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let plan = SteeringPlan::read(params, run, lab)?;
        let controls = plan.controls(lab, run.seed)?;
        for (name, control) in &controls {
            lab.directions.insert(name.clone(), control.clone());
        }
        let found = plan.measure_all(lab);
        for (name, _) in &controls {
            lab.directions.remove(name);
        }
        Ok(plan.draft(run, lab, &found?))
    }
}

impl SweepParams {
    fn edit(&self, direction: &str, layer: usize, strength: f32) -> Edit {
        let name = DirectionName(direction.into());
        let op = match self.op {
            SweptOp::Add => Op::Add(name),
            SweptOp::AddUnitNorm => Op::AddUnitNorm(name),
            SweptOp::AddRenorm => Op::AddRenorm(name),
            SweptOp::ScaleAlong => Op::ScaleAlong(name),
            SweptOp::ProjectOut => Op::ProjectOut(name),
        };
        Edit {
            positions: self.positions.clone(),
            strength,
            ..Edit::new(op, EditPlace::At(self.address(layer)))
        }
    }

    /// Where the direction is applied at a layer.
    fn address(&self, layer: usize) -> Address {
        let site = match self.site {
            SteerSite::ResidPre => Site::ResidPre,
            SteerSite::ResidPost => Site::ResidPost,
            SteerSite::AttnOut => Site::AttnOut,
            SteerSite::MlpOut => Site::MlpOut,
        };
        site.at(layer)
    }

    /// The direction that was named, or the first of those that are loaded.
    fn direction(&self, lab: &Lab) -> Result<String> {
        let first = || lab.directions.keys().min().cloned();
        self.direction.clone().or_else(first).ok_or_else(|| {
            let expected =
                "the file of a direction, because none is loaded (`lmscope direction` makes one)";
            Error::argument("direction", "", expected)
        })
    }
}

impl SteeringPlan<'_> {
    fn draft(&self, run: &Run, lab: &Lab, found: &SteeringResult) -> Draft {
        let plan = self;
        let anchor = |layer: usize| match &plan.trial.subject {
            SteeringTrial::Text(run) => Anchor::cell(layer, run.tokens.len() - 1),
            SteeringTrial::Prompts(..) => Anchor::layer(layer),
        };
        let column = |outcomes: &[SteeringOutcome], controls: &[SteeringOutcome]| -> Vec<Cell> {
            let cell = |(layer, own): (usize, &SteeringOutcome)| {
                Cell::of(&own.label, plan.measure.of(own), anchor(layer))
                    .more(plan.numbers(own, controls.get(layer)))
            };
            outcomes.iter().enumerate().map(cell).collect()
        };
        let (mut columns, mut cells) = (Vec::new(), Vec::new());
        for (i, strength) in plan.params.strengths.0.iter().enumerate() {
            let (real, control) = (&found.real[i], &found.control[i]);
            let mut add =
                |label: String, outcomes: &[SteeringOutcome], controls: &[SteeringOutcome]| {
                    columns.push(AxisLabel::of(label, Anchor::default()));
                    cells.push(column(outcomes, controls));
                };
            match plan.params.control {
                ControlColumn::Alone => add(strength.to_string(), control, &[]),
                ControlColumn::No | ControlColumn::Beside => {
                    add(strength.to_string(), real, control);
                }
                ControlColumn::Columns => {
                    add(strength.to_string(), real, control);
                    add(format!("{strength} {}", plan.beside()), control, &[]);
                }
            }
        }
        let peak = cells
            .iter()
            .flatten()
            .map(|c| c.value)
            .filter(|v| v.is_finite())
            .fold(0.0, f32::max);
        let alone = if plan.params.control == ControlColumn::Alone {
            match &plan.params.against {
                Some(_) => format!(" · {} at equal norm", plan.beside()),
                None => format!(
                    " · control: a random direction of equal norm, seed {}",
                    run.seed
                ),
            }
        } else {
            String::new()
        };
        let name = text::visible(plan.direction.as_bytes());
        let (rows, columns) = (
            AxisLabel::layers(lab.model.card.layers),
            ("strength", columns),
        );
        let grid = Grid::filled(("layer", rows), columns, plan.measure.value(), cells);
        let scale = match plan.measure {
            SteeringMeasure::Answers | SteeringMeasure::Success => Scale::Unit,
            SteeringMeasure::Kl | SteeringMeasure::Fluency => Scale::Range { lo: 0.0, hi: peak },
        };
        let (op, word) = (plan.params.op.print(), plan.measure.word());
        Draft::of(grid.scaled(scale))
            .titled(format!("{op} {name} · {word}{alone}{}", plan.claim(found)))
            .notes(notes(lab, run, plan, found))
    }
}

impl SteeringPlan<'_> {
    /// The best cell's number and that of the control's best, for the title; empty where nothing is aimed at.
    fn claim(&self, found: &SteeringResult) -> String {
        let Some(aim) = self.aim() else {
            return String::new();
        };
        let of = if aim == self.measure {
            String::new()
        } else {
            format!(" of {}", aim.word())
        };
        let broken = self.left_out(found);
        let Some((s, layer)) = self.best(found, &found.real) else {
            return broken.map_or_else(String::new, |(count, _)| {
                format!(" · no selected maximum{of}: all {count} cells are too little fluent")
            });
        };
        let own = self.aimed(aim, &found.real[s][layer])[1];
        let among = match broken {
            Some((count, highest)) if highest > own => {
                format!(" among fluent cells ({count} others reach {highest:.3})")
            }
            Some(_) | None => String::new(),
        };
        let Some((s, layer)) = self.best(found, &found.control) else {
            return format!(" · selected maximum{of} {own:.3}{among}");
        };
        let control = self.aimed(aim, &found.control[s][layer])[1];
        let less = if control >= own {
            ", no more than its control"
        } else {
            ""
        };
        format!(" · selected maximum{of} {own:.3}{among}, control's {control:.3}{less}")
    }

    /// The best cell in words, beside the best of the control's grid.
    fn selected(&self, found: &SteeringResult) -> Option<String> {
        let (aim, (s, layer)) = (self.aim()?, self.best(found, &found.real)?);
        let (own, unedited) = (&found.real[s][layer], self.aimed(aim, &found.unedited)[1]);
        let strengths = &self.params.strengths.0;
        let cells = found.real.iter().map(Vec::len).sum::<usize>();
        let split = self.halves().map_or_else(String::new, |(chosen, judged)| {
            format!(", chosen on {chosen} prompts and judged on the other {judged}")
        });
        let value = self.aimed(aim, own)[1];
        let interval = |of: &SteeringOutcome| {
            self.interval(aim, of, &self.judging(of))
                .map_or_else(String::new, |(low, high)| {
                    format!(" (95 % {low:.3} to {high:.3})")
                })
        };
        let mut words = format!(
            "selected maximum: strength {} at layer {layer}: {} {value:.3}{} (unedited {unedited:.3}), the best of {cells} cells{split}",
            strengths[s],
            aim.word(),
            interval(own)
        );
        let mut beside = vec![SteeringMeasure::Kl];
        if self.measure.writes() {
            beside.insert(0, SteeringMeasure::Fluency);
        }
        for measure in beside {
            let of = measure.of(own);
            let _ = write!(words, "; {} {of:.3}", measure.word());
        }
        if let Some((count, highest)) = self.left_out(found) {
            let _ = write!(
                words,
                "; {count} cells are no candidates, because their texts are more than {} nats a token less fluent",
                self.params.within.0
            );
            if highest > value {
                let _ = write!(words, "; the highest of them: {highest:.3}");
            }
        }
        if value <= unedited {
            words.push_str("; NO CELL IS BETTER THAN THE UNEDITED TEXT");
        }
        let Some((s, layer)) = self.best(found, &found.control) else {
            return Some(words);
        };
        let control = self.aimed(aim, &found.control[s][layer])[1];
        let of = match &self.params.against {
            Some(_) => self.beside(),
            None => format!("{DRAWS} random directions, which take turns"),
        };
        let _ = write!(
            words,
            "; selected maximum of the control, chosen alike from as many cells of {of}: {control:.3}{} (strength {} at layer {layer})",
            interval(&found.control[s][layer]),
            strengths[s]
        );
        if control >= value {
            words.push_str(", NO LESS");
        }
        Some(words)
    }
}

fn notes(lab: &Lab, run: &Run, plan: &SteeringPlan, found: &SteeringResult) -> Vec<String> {
    let mut out: Vec<String> = found.stopped.iter().cloned().collect();
    if let (SteeringTrial::Prompts(prompts, _), Some(tokens)) =
        (&plan.trial.subject, plan.trial.tokens)
    {
        let room = |prompt: &&Vec<u32>| prompt.len() + tokens > lab.model.card.context + 1;
        let cut = prompts.iter().filter(room).count();
        if cut > 0 {
            out.push(format!(
                "{cut} of {} prompts leave no room for {tokens} tokens: their continuations end with the context of {}",
                prompts.len(),
                lab.model.card.context
            ));
        }
    }
    if !plan.without_vector.is_empty() {
        let layers = plan
            .without_vector
            .iter()
            .map(|layer| plan.params.address(*layer).to_string());
        out.push(format!(
            "the direction has no vector for {}: not measured",
            layers.collect::<Vec<_>>().join(", ")
        ));
    }
    out.extend(plan.selected(found));
    let names: Vec<String> = plan.trial.answers.iter().map(|a| lab.visible(*a)).collect();
    let words = match &plan.trial.subject {
        SteeringTrial::Text(_) => {
            "the most probable next token with the direction applied there".to_string()
        }
        SteeringTrial::Prompts(prompts, _) => format!(
            "the most frequent first token over {} prompts with the direction applied there",
            prompts.len()
        ),
    };
    let colour = match plan.measure {
        SteeringMeasure::Answers => format!("probability after the last token of {}", names.join(" or ")),
        SteeringMeasure::Kl => "KL(run ‖ edited) after the last token".to_string(),
        SteeringMeasure::Success => format!(
            "share of prompts whose next {} tokens {} {}",
            plan.trial.tokens.unwrap_or(1),
            if plan.trial.begins {
                "begin with"
            } else {
                "say"
            },
            plan.trial.looks.join(" or ")
        ),
        SteeringMeasure::Fluency => {
            "surprisal of the continuation under the unedited model, nats a token; lower is more fluent"
                .to_string()
        }
    };
    out.push(format!("each cell: {words}; colour: {colour}"));
    if plan.measure.writes() && !plan.trial.looks.is_empty() {
        out.push(format!(
            "the selected cell has the highest success among those at most {} nats a token less fluent than the unedited text",
            plan.params.within.0
        ));
    }
    out.push(match plan.params.control {
        ControlColumn::No => "a strong edit that breaks the text also moves these numbers: compare with control=cells, and read the text that it generates".into(),
        ControlColumn::Beside | ControlColumn::Columns | ControlColumn::Alone
            if plan.params.against.is_some() =>
        {
            format!(
                "{}: another direction, scaled to the norm of the first; without against= a random one stands there",
                plan.beside()
            )
        }
        ControlColumn::Beside | ControlColumn::Columns | ControlColumn::Alone => format!(
            "random: the control, directions of equal norm, {DRAWS} draws of which the cells take turns, seed {}; a strong edit that breaks the text moves the control's numbers too",
            run.seed
        ),
    });
    out
}
