//! What a sweep was asked, and the measuring of its cells.
//!
//! Invariant: a cell and its control are one trial, measured together or not at all. To measure something else of every cell,
//! add a variant of [`SteeringMeasure`] and a field of [`SteeringOutcome`].

use super::{CONTROL, Colour, ControlColumn, Match, Sweep, SweepParams};
use crate::edit::Edit;
use crate::edit::direction::{Direction, norm, random_like, unit};
use crate::error::{Error, Result};
use crate::instruments::lines;
use crate::instruments::params::ParameterValue;
use crate::instruments::steering::outcome::{SteeringOutcome, SteeringTrial, Trial};
use crate::lab::Lab;
use crate::lab::draws::{DRAWS, draw_seed};
use crate::lab::run::Run;
use crate::lab::target::first_tokens;
use crate::model::Fingerprint;
use crate::text;
use crate::vectors::interval::MeanInterval;
use crate::vectors::proportion::Proportion;

/// How many rows are read side by side, so that a sweep that is stopped has lost little.
const ROWS: usize = 16;

/// The fewest prompts of a list that is split: the best cell is chosen on one half and judged on the other.
const SPLIT: usize = 16;

/// The outcomes of a cell: under the direction, and under the random one.
type WithControl = (Option<SteeringOutcome>, Option<SteeringOutcome>);

/// What is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SteeringMeasure {
    Answers,
    Kl,
    Success,
    Fluency,
}

impl SteeringMeasure {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Answers => "answers",
            Self::Kl => "kl",
            Self::Success => "success",
            Self::Fluency => "fluency",
        }
    }

    /// Whether texts must be written for it.
    pub(crate) fn writes(self) -> bool {
        matches!(self, Self::Success | Self::Fluency)
    }

    /// This number of an outcome.
    pub(crate) fn of(self, outcome: &SteeringOutcome) -> f32 {
        match self {
            Self::Answers => outcome.answers,
            Self::Kl => outcome.kl,
            Self::Success => outcome.success,
            Self::Fluency => outcome.fluency,
        }
    }

    /// What the colours are, for legends.
    pub(crate) fn value(self) -> &'static str {
        match self {
            Self::Answers => "probability",
            Self::Kl => "KL in nats",
            Self::Success => "success",
            Self::Fluency => "nats a token",
        }
    }
}

/// A sweep, read from its parameters.
pub(crate) struct SteeringPlan<'a> {
    pub(crate) params: &'a SweepParams,
    pub(crate) trial: Trial,
    pub(crate) direction: String,
    /// Layers that the direction has no vector for.
    pub(crate) without_vector: Vec<usize>,
    pub(crate) measure: SteeringMeasure,
    /// The seed of the intervals.
    pub(crate) seed: u64,
}

/// Everything measured: by strength, then layer; a cell that was not has no numbers.
pub(crate) struct SteeringResult {
    pub(crate) unedited: SteeringOutcome,
    pub(crate) stopped: Option<String>,
    pub(crate) real: Vec<Vec<SteeringOutcome>>,
    pub(crate) control: Vec<Vec<SteeringOutcome>>,
}

impl<'a> SteeringPlan<'a> {
    pub(crate) fn read(params: &'a SweepParams, run: &Run, lab: &mut Lab) -> Result<Self> {
        let subject = match &params.prompts {
            None => {
                lab.model.check_prompt(&run.tokens)?;
                SteeringTrial::Text(run.clone())
            }
            Some(file) if !run.tokens.is_empty() => {
                let expected = "either a prompt or a file of prompts, not both";
                return Err(Error::argument("prompts", file.display(), expected));
            }
            Some(file) => {
                let prompts = crate::file::prompts(file)?;
                let tokens = prompts.iter().map(|p| lab.model.encode(p, params.chat));
                SteeringTrial::Prompts(tokens.collect::<Result<_>>()?, run.schedule.clone())
            }
        };
        let listed = params.prompts.is_some();
        let measure = match (params.measure, listed) {
            (Colour::Kl, _) => SteeringMeasure::Kl,
            (Colour::Answers, _) | (Colour::Auto, false) => SteeringMeasure::Answers,
            (Colour::Fluency, true) => SteeringMeasure::Fluency,
            (Colour::Success | Colour::Auto, true) => SteeringMeasure::Success,
            (Colour::Success | Colour::Fluency, false) => {
                let expected = "answers or kl, because success and fluency are means over a list of prompts; give prompts=FILE";
                return Err(Error::argument("measure", params.measure.print(), expected));
            }
        };
        let given = params.answers.as_str();
        let mut plan = Self {
            params,
            trial: Trial {
                subject,
                answers: Vec::new(),
                looks: given
                    .split('|')
                    .map(str::trim)
                    .filter(|l| !l.is_empty())
                    .map(ToString::to_string)
                    .collect(),
                begins: params.found == Match::Begins,
                tokens: measure.writes().then_some(params.tokens.0),
            },
            without_vector: Vec::new(),
            direction: params.direction(lab)?,
            measure,
            seed: run.seed,
        };
        let direction = lab.direction(&plan.direction)?;
        let against = params.against.as_deref();
        let against = against.map(|name| lab.direction(name)).transpose()?;
        let missing = |layer: &usize| {
            let at = params.address(*layer);
            let other = against.as_ref().is_none_or(|other| other.at(at).is_ok());
            direction.at(at).is_err() || !other
        };
        plan.without_vector = (0..lab.model.card.layers).filter(missing).collect();
        if plan.without_vector.len() == lab.model.card.layers {
            // What is said of one layer is true of all.
            direction.at(params.address(0))?;
            against.map_or(Ok(()), |other| other.at(params.address(0)).map(|_| ()))?;
        }
        if !given.is_empty() {
            plan.trial.answers = first_tokens("answers", given, &lab.model)?;
        } else if let SteeringTrial::Text(run) = &plan.trial.subject {
            plan.trial.answers = vec![lab.top_prediction(run)?];
        } else if matches!(measure, SteeringMeasure::Answers | SteeringMeasure::Success) {
            let expected = "texts separated by | that count as a success";
            return Err(Error::argument("answers", "", expected));
        }
        Ok(plan)
    }

    /// The directions beside it, by name: several draws of a random one of equal norm, of which the cells of the control's grid take
    /// turns, or another one scaled to the norm that the first has at each layer.
    pub(crate) fn controls(&self, lab: &Lab, seed: u64) -> Result<Vec<(String, Direction)>> {
        let own = lab.direction(&self.direction)?;
        let Some(name) = &self.params.against else {
            let drawn = |draw| {
                let mut one = own.clone();
                for (_, vector) in &mut one.rows {
                    *vector = random_like(vector, draw_seed(seed, draw));
                }
                (control_name(draw), one)
            };
            return Ok((0..DRAWS).map(drawn).collect());
        };
        let mut other = lab.direction(name)?;
        let mut rows = Vec::new();
        let layers = (0..lab.model.card.layers).filter(|l| !self.without_vector.contains(l));
        for at in layers.map(|layer| self.params.address(layer)) {
            let length = norm(own.at(at)?);
            let scaled = unit(other.at(at)?).into_iter().map(|x| x * length);
            rows.push((at, scaled.collect()));
        }
        other.rows = rows;
        other.origin.anywhere = false;
        Ok(vec![(control_name(0), other)])
    }

    /// The control of a cell: neighbours have different draws.
    fn control_of(&self, cell: usize, layers: usize) -> String {
        let draws = if self.params.against.is_some() {
            1
        } else {
            DRAWS
        };
        control_name((cell / layers + cell % layers) % draws)
    }

    /// What the direction beside it is called.
    pub(crate) fn beside(&self) -> String {
        let other = self.params.against.as_deref();
        other.map_or_else(
            || "random".to_string(),
            |name| text::visible(name.as_bytes()),
        )
    }

    /// Every cell with its control, and the unedited outcome.
    pub(crate) fn measure_all(&self, lab: &mut Lab) -> Result<SteeringResult> {
        let (unedited, base) = self.trial.unedited(lab)?;
        let layers = lab.model.card.layers;
        let (params, strengths) = (self.params, &self.params.strengths.0);
        let (real, control) = (
            params.control != ControlColumn::Alone,
            params.control != ControlColumn::No,
        );
        let (text, prompts) = match &self.trial.subject {
            SteeringTrial::Text(run) => (run.clone(), &[][..]),
            SteeringTrial::Prompts(prompts, _) => (Run::default(), prompts.as_slice()),
        };
        let mut parameters = lines::<Sweep>(params);
        parameters.push(("texts".into(), digest(prompts)));
        let count = strengths.len() * layers;
        let kinds = usize::from(real) + usize::from(control);
        let together = (ROWS / (self.trial.rows() * kinds.max(1))).max(1);
        let trials = lab.trials(&text, parameters, count, together, |lab, range| {
            let edits = range.clone().flat_map(|i| {
                let layer = i % layers;
                let edit = move |name: String| params.edit(&name, layer, strengths[i / layers]);
                let own = real.then(|| self.direction.clone());
                let beside = control.then(|| self.control_of(i, layers));
                let names = own.into_iter().chain(beside);
                names.map(edit).map(move |e| (layer, e)).collect::<Vec<_>>()
            });
            let edits: Vec<(usize, Edit)> = edits.collect();
            let acts = |(layer, edit): &&(usize, Edit)| {
                edit.active() && !self.without_vector.contains(layer)
            };
            let active: Vec<Edit> = edits.iter().filter(acts).map(|(_, e)| e.clone()).collect();
            let mut moved = self.trial.under(lab, &active, &base)?.into_iter();
            let mut outcomes = edits.iter().map(|cell| {
                let outcome = if acts(&cell) {
                    moved.next()
                } else {
                    let unchanged = !cell.1.active();
                    unchanged.then(|| unedited.clone())
                };
                outcome.unwrap_or_else(SteeringOutcome::unmeasured)
            });
            let mut of = |wanted: bool| wanted.then(|| outcomes.next()).flatten();
            Ok(range.map(|_| (of(real), of(control))).collect())
        })?;
        let columns = |wanted: bool, pick: fn(&WithControl) -> Option<SteeringOutcome>| {
            let of = |cells: &[Option<WithControl>]| -> Vec<SteeringOutcome> {
                let cells = cells.iter().filter(|_| wanted);
                let found = cells.map(|c| c.as_ref().and_then(pick));
                found
                    .map(|o| o.unwrap_or_else(SteeringOutcome::unmeasured))
                    .collect()
            };
            trials.results.chunks(layers).map(of).collect()
        };
        Ok(SteeringResult {
            stopped: trials.note(),
            real: columns(real, |c| c.0.clone()),
            control: columns(control, |c| c.1.clone()),
            unedited,
        })
    }

    /// The numbers of a cell, its own first, each with that of the random direction.
    pub(crate) fn numbers(
        &self,
        own: &SteeringOutcome,
        control: Option<&SteeringOutcome>,
    ) -> Vec<(String, f32)> {
        let mut measures = vec![self.measure];
        if self.measure.writes() {
            measures.extend([
                SteeringMeasure::Success,
                SteeringMeasure::Kl,
                SteeringMeasure::Fluency,
            ]);
        } else if matches!(self.trial.subject, SteeringTrial::Prompts(..))
            && !self.trial.answers.is_empty()
        {
            measures.extend([SteeringMeasure::Answers, SteeringMeasure::Kl]);
        }
        let mut out: Vec<(String, f32)> = Vec::new();
        for measure in measures {
            let word = measure.word();
            if out.iter().any(|(held, _)| held == word) {
                continue;
            }
            out.push((word.into(), measure.of(own)));
            if let Some((low, high)) = self.interval(measure, own, &own.each) {
                out.push((format!("{word}, from"), low as f32));
                out.push((format!("{word}, to"), high as f32));
            }
            if let Some(control) = control {
                out.push((format!("{word}, {}", self.beside()), measure.of(control)));
            }
        }
        out.extend(own.top.iter().cloned());
        out
    }

    /// What the best cell is best at; none if nothing is aimed at.
    pub(crate) fn aim(&self) -> Option<SteeringMeasure> {
        match self.measure {
            SteeringMeasure::Kl => None,
            SteeringMeasure::Answers => Some(SteeringMeasure::Answers),
            SteeringMeasure::Success | SteeringMeasure::Fluency if self.trial.looks.is_empty() => {
                None
            }
            SteeringMeasure::Success | SteeringMeasure::Fluency => Some(SteeringMeasure::Success),
        }
    }

    /// On how many prompts of a list the best cell is chosen, and on how many others it is judged; none for one text and for lists
    /// that are too short to be split, where both are the same.
    pub(crate) fn halves(&self) -> Option<(usize, usize)> {
        let count = self.trial.rows();
        let list = matches!(self.trial.subject, SteeringTrial::Prompts(..));
        (list && count >= SPLIT).then(|| (count.div_ceil(2), count / 2))
    }

    /// The number by which a cell is chosen, and the one by which it is judged: of a list the means over its odd and over its even
    /// prompts.
    pub(crate) fn aimed(&self, aim: SteeringMeasure, outcome: &SteeringOutcome) -> [f32; 2] {
        if self.halves().is_none() || outcome.each.is_empty() {
            return [aim.of(outcome); 2];
        }
        [0, 1].map(|half| {
            let own: Vec<f32> = outcome.each.iter().skip(half).step_by(2).copied().collect();
            own.iter().sum::<f32>() / own.len() as f32
        })
    }

    /// The interval of 95 % of what is aimed at, over some prompts of a list: of a share, Wilson's, of a mean probability, the
    /// bootstrap's. None of other numbers, and of too few prompts.
    pub(crate) fn interval(
        &self,
        measure: SteeringMeasure,
        outcome: &SteeringOutcome,
        each: &[f32],
    ) -> Option<(f64, f64)> {
        let listed = self.aim() == Some(measure) && each.len() > 1 && outcome.kl.is_finite();
        match measure {
            SteeringMeasure::Success if listed => {
                Some(Proportion::count(each.iter().map(|hit| *hit > 0.5)).interval())
            }
            SteeringMeasure::Answers if listed => {
                let each: Vec<f64> = each.iter().map(|p| f64::from(*p)).collect();
                let found = MeanInterval::of(&each, self.seed);
                (!found.low.is_nan()).then_some((found.low, found.high))
            }
            SteeringMeasure::Success
            | SteeringMeasure::Answers
            | SteeringMeasure::Kl
            | SteeringMeasure::Fluency => None,
        }
    }

    /// The prompts of an outcome that judge it.
    pub(crate) fn judging(&self, outcome: &SteeringOutcome) -> Vec<f32> {
        let skipped = usize::from(self.halves().is_some());
        let each = outcome.each.iter().skip(skipped);
        each.step_by(1 + skipped).copied().collect()
    }

    /// Whether a cell costs no more fluency than is allowed; where no texts are written all are.
    fn is_fluent(
        &self,
        aim: SteeringMeasure,
        found: &SteeringResult,
        outcome: &SteeringOutcome,
    ) -> bool {
        !aim.writes() || outcome.fluency <= found.unedited.fluency + self.params.within.0 as f32
    }

    /// How many measured cells of the direction's own grid are no candidates because they are less fluent, and the highest number of
    /// them; none where there are none.
    pub(crate) fn left_out(&self, found: &SteeringResult) -> Option<(usize, f32)> {
        let aim = self.aim()?;
        let cells = found.real.iter().flatten();
        let measured = cells.filter(|o| aim.of(o).is_finite() && o.kl.is_finite());
        let broken = measured.filter(|o| !self.is_fluent(aim, found, o));
        let values: Vec<f32> = broken.map(|o| aim.of(o)).collect();
        let highest = values.iter().copied().reduce(f32::max)?;
        Some((values.len(), highest))
    }

    /// The cell of a grid that does most without costing fluency: strength, layer, as indices. It is a selected maximum: the best of
    /// many, which chance alone lifts, so it is only to be compared with one that was selected alike.
    pub(crate) fn best(
        &self,
        found: &SteeringResult,
        grid: &[Vec<SteeringOutcome>],
    ) -> Option<(usize, usize)> {
        let aim = self.aim()?;
        let cells = grid.iter().enumerate();
        let cells = cells.flat_map(|(s, column)| {
            let column = column.iter().enumerate();
            column.map(move |(layer, outcome)| (s, layer, outcome))
        });
        let measured = cells.filter(|(.., o)| aim.of(o).is_finite() && o.kl.is_finite());
        let fluent = measured.filter(|(.., o)| self.is_fluent(aim, found, o));
        let best = fluent.max_by(|(.., a), (.., b)| {
            let more = self.aimed(aim, a)[0].total_cmp(&self.aimed(aim, b)[0]);
            more.then(b.fluency.total_cmp(&a.fluency))
                .then(b.kl.total_cmp(&a.kl))
        });
        best.map(|(s, layer, _)| (s, layer))
    }
}

/// What a draw of the control is called while it is measured.
fn control_name(draw: usize) -> String {
    format!("{CONTROL} {draw}")
}

/// A digest of texts, so that a sweep over a file is one over what the file said.
fn digest(texts: &[Vec<u32>]) -> String {
    let mut digest = Fingerprint::default();
    for text in texts {
        digest.write(&text.len().to_le_bytes());
        text.iter().for_each(|t| digest.write(&t.to_le_bytes()));
    }
    format!("{:016x}", digest.finish())
}
