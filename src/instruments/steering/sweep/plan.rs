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
use crate::lab::run::Run;
use crate::lab::target::first_tokens;
use crate::model::Fingerprint;
use crate::text;

/// How many rows are read side by side, so that a sweep that is stopped has lost little.
const ROWS: usize = 16;

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

    /// The direction beside it: a random one of equal norm, or another one scaled to the norm that the first has at each layer.
    pub(crate) fn control(&self, lab: &Lab, seed: u64) -> Result<Direction> {
        let mut own = lab.direction(&self.direction)?;
        let Some(name) = &self.params.against else {
            for (_, vector) in &mut own.rows {
                *vector = random_like(vector, seed);
            }
            return Ok(own);
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
        Ok(other)
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
        let kinds: Vec<&str> = [(real, self.direction.as_str()), (control, CONTROL)]
            .into_iter()
            .filter_map(|(wanted, name)| wanted.then_some(name))
            .collect();
        let together = (ROWS / (self.trial.rows() * kinds.len().max(1))).max(1);
        let trials = lab.trials(&text, parameters, count, together, |lab, range| {
            let edits = range.clone().flat_map(|i| {
                let layer = i % layers;
                let edit = move |name| params.edit(name, layer, strengths[i / layers]);
                kinds.iter().copied().map(edit).map(move |e| (layer, e))
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
            if let Some(control) = control {
                out.push((format!("{word}, {}", self.beside()), measure.of(control)));
            }
        }
        out.extend(own.top.iter().cloned());
        out
    }

    /// The cell that does most without costing fluency: strength, layer, as indices.
    pub(crate) fn best(&self, found: &SteeringResult) -> Option<(usize, usize)> {
        let aim = match self.measure {
            SteeringMeasure::Kl => return None,
            SteeringMeasure::Answers => SteeringMeasure::Answers,
            SteeringMeasure::Success | SteeringMeasure::Fluency if self.trial.looks.is_empty() => {
                return None;
            }
            SteeringMeasure::Success | SteeringMeasure::Fluency => SteeringMeasure::Success,
        };
        let least = found.unedited.fluency + self.params.within.0 as f32;
        let cells = found.real.iter().enumerate();
        let cells = cells.flat_map(|(s, column)| {
            let column = column.iter().enumerate();
            column.map(move |(layer, outcome)| (s, layer, outcome))
        });
        let measured = cells.filter(|(.., o)| aim.of(o).is_finite() && o.kl.is_finite());
        let fluent = measured.filter(|(.., o)| !aim.writes() || o.fluency <= least);
        let best = fluent.max_by(|(.., a), (.., b)| {
            let more = aim.of(a).total_cmp(&aim.of(b));
            more.then(b.fluency.total_cmp(&a.fluency))
                .then(b.kl.total_cmp(&a.kl))
        });
        best.map(|(s, layer, _)| (s, layer))
    }
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
