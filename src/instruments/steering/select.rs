//! Selecting a direction between two behaviours: every layer and position as a candidate, scored by what it does.
//!
//! The procedure of Arditi et al. 2024 (2406.11717), which is in `vectors/selection/`, for any two lists of prompts and any
//! tokens that mark the first. Discarded candidates stay in the figure, with the reason; the choice stands beside the
//! unedited scores and those of a random direction of its length.

use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::edit::direction::{Direction, DirectionOrigin, norm};
use crate::error::{Error, Result};
use crate::figure::{Anchor, AxisLabel, Cell, Grid, Scale, Unit};
use crate::instruments::params::{Fraction, NonNegative, ParameterValue, choices, params};
use crate::instruments::{Draft, Measurement, Reads};
use crate::lab::Lab;
use crate::lab::run::Run;
use crate::lab::target::first_tokens;
use crate::model::network::site::Site;
use crate::vectors::interval::MeanInterval;
use crate::vectors::selection::{
    Candidate, CandidateScores, CandidateVerdict, PromptSides, Selection, SelectionRules,
    after_instruction, find_markers, select,
};

choices! {
    /// Which prompts are used.
    pub enum Used { Behaving = "yes", All = "no" }
}

choices! {
    /// The score that is coloured.
    pub enum Coloured { Ablation = "ablation", Addition = "addition", Kl = "kl" }
}

params! {
    /// What `select` is asked.
    pub struct SelectParams {
        /// a file of prompts that show the behaviour, one a line
        plus: Option<PathBuf>,
        /// a file of prompts that do not show it
        minus: Option<PathBuf>,
        /// yes: every prompt is one user turn of the chat template
        chat: bool,
        /// texts separated by |, whose first tokens mark the behaviour in an answer; by default the tokens that begin answers to plus prompts and not to minus prompts
        markers: Option<String>,
        /// candidate positions: 5 for the last five, or -1,-3; by default the template's tokens after the user's words, or the last five
        positions: String,
        /// the share of each list that is held out to measure the candidates, at most 32 prompts; the rest makes them
        validation: Fraction = "0.5",
        /// a file of plus prompts to measure on, instead of a share of the list
        plus_validation as "plus-validation": Option<PathBuf>,
        /// a file of minus prompts to measure on, instead of a share of the list
        minus_validation as "minus-validation": Option<PathBuf>,
        /// candidates from layers beyond this share of the depth are discarded
        depth: Fraction = "0.8",
        /// candidates are discarded if ablating them changes the next-token distribution on minus prompts by more KL divergence than this, in nats
        kl: NonNegative = "0.1",
        /// yes: uses only prompts on which the model behaves as their list says; no: uses all
        filter: Used = "yes",
        /// the score that sets the colour; every cell holds all three
        measure: Coloured = "ablation",
        /// a safetensors file to save the chosen direction in
        save: Option<PathBuf>,
    }
}

/// The most prompts of a list that measure.
const HELD_OUT: usize = 32;

/// The most candidate positions.
const POSITIONS: usize = 64;

pub struct Select;

impl Measurement for Select {
    type Params = SelectParams;
    const NAME: &'static str = "select";
    const ABOUT: &'static str = "Candidate directions for a behaviour, by layer and position (difference of means), and the one that best removes and induces it";
    const SOURCE: &'static str = "refusal direction: Arditi et al. 2024 (2406.11717)";
    const READS: Reads<SelectParams> = Reads::Others;
    const EDITS_ITS_TEXTS: bool = true;

    fn measure(params: &SelectParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let save = &params.save;
        check_folder(save.as_deref())?;
        if let Some(path) = save {
            crate::file::check(path, lab.overwrite)?;
        }
        let (making, held_out) = params.sides(run, lab)?;
        let markers = match &params.markers {
            None => find_markers(lab, &making, &run.schedule)?,
            Some(given) => {
                let ids = first_tokens("markers", given, &lab.model)?;
                ids.into_iter().map(|id| (id, f64::NAN)).collect()
            }
        };
        let rules = SelectionRules {
            positions: params.positions(lab, &[&making, &held_out])?,
            markers: markers.iter().map(|m| m.0).collect(),
            depth: params.depth.0,
            kl: params.kl.0,
            filter: params.filter == Used::Behaving,
        };
        let found = select(lab, &making, &held_out, &rules, &run.schedule, run.seed)?;
        let mut notes = notes(lab, run, &found, &markers, &rules);
        if let Some(path) = save {
            match found.chosen.map(|i| &found.candidates[i]) {
                Some(best) => {
                    direction(lab, best, &found, &markers).save_as(path, lab.overwrite)?;
                    notes.insert(
                        1,
                        format!("the chosen direction was saved in {}", path.display()),
                    );
                }
                None => notes.insert(
                    1,
                    "NOTHING WAS SAVED, because no candidate was chosen".into(),
                ),
            }
        }
        let titles = titles(lab, &rules, &making);
        let grid = params.measure.grid(lab.model.card.layers, &found, titles);
        let mut draft = Draft::of(grid)
            .titled(format!("{} score", params.measure.print()))
            .notes(notes);
        let ids: Vec<String> = rules.markers.iter().map(ToString::to_string).collect();
        draft.resolved = vec![("ids of markers".into(), ids.join(","))];
        draft.named = rules.markers;
        Ok(draft)
    }
}

/// Refuses a folder that is not there before the work, not after it.
fn check_folder(path: Option<&Path>) -> Result<()> {
    let folder = path.and_then(Path::parent);
    match folder.filter(|f| !f.as_os_str().is_empty() && !f.is_dir()) {
        None => Ok(()),
        Some(folder) => Err(Error::argument(
            "save",
            folder.display(),
            "a file in an existing folder",
        )),
    }
}

impl SelectParams {
    /// The prompts that make candidates, and those that measure them.
    fn sides(&self, run: &Run, lab: &Lab) -> Result<(PromptSides, PromptSides)> {
        let tokens = |path: &Path| -> Result<Vec<Vec<u32>>> {
            let prompts = crate::file::prompts(path)?;
            prompts
                .iter()
                .map(|p| {
                    let ids = lab.model.encode(p, self.chat)?;
                    lab.model.check_prompt(&ids)?;
                    Ok(ids)
                })
                .collect()
        };
        let mut out = (PromptSides::default(), PromptSides::default());
        let lists = [
            ("plus", &self.plus, &self.plus_validation),
            ("minus", &self.minus, &self.minus_validation),
        ];
        for (list, path, apart) in lists {
            let Some(path) = path else {
                return Err(Error::argument(list, "", "a file of prompts, one a line"));
            };
            let mut making = tokens(path)?;
            let held_out = if let Some(apart) = apart {
                tokens(apart)?
            } else {
                let mut rng = StdRng::seed_from_u64(run.seed);
                making.shuffle(&mut rng);
                let held = (making.len() as f64 * self.validation.0) as usize;
                making.split_off(making.len() - held.min(HELD_OUT))
            };
            if making.is_empty() || held_out.is_empty() {
                let given = format!("{} and {}", making.len(), held_out.len());
                let expected = format!(
                    "more prompts in `{list}`: it has to both make and measure candidates; change `validation`, or give `{list}-validation`"
                );
                return Err(Error::argument("validation", given, expected));
            }
            if list == "plus" {
                (out.0.plus, out.1.plus) = (making, held_out);
            } else {
                (out.0.minus, out.1.minus) = (making, held_out);
            }
        }
        Ok(out)
    }

    /// Candidate positions from the end, the farthest first.
    fn positions(&self, lab: &Lab, sides: &[&PromptSides]) -> Result<Vec<usize>> {
        let text = self.positions.trim();
        let prompts = sides.iter().flat_map(|s| s.plus.iter().chain(&s.minus));
        let shortest = prompts.map(Vec::len).min().unwrap_or(1);
        let bad = || {
            let expected = format!(
                "a count, or negative positions such as -1,-3, down to -{shortest} (the shortest prompt)"
            );
            Error::argument("positions", text, expected)
        };
        let last = |n: usize| (1..=n).collect::<Vec<_>>();
        let mut out = if text.is_empty() {
            let template = if self.chat { after_instruction(lab) } else { 0 };
            // The first token is a sink in most models, and no candidate unless somebody asks for it.
            let usual = if template == 0 { 5 } else { template };
            last(usual.min(shortest - 1).max(1))
        } else if let Ok(count) = text.parse::<usize>() {
            last(count)
        } else {
            let parts = text.split(',').map(|part| {
                let number = part.trim().strip_prefix('-').map(str::parse::<usize>);
                number.and_then(Result::ok).ok_or_else(bad)
            });
            parts.collect::<Result<Vec<_>>>()?
        };
        out.sort_unstable();
        out.dedup();
        out.reverse();
        let fits =
            (1..=POSITIONS).contains(&out.len()) && out.iter().all(|p| (1..=shortest).contains(p));
        if fits { Ok(out) } else { Err(bad()) }
    }
}

fn direction(lab: &Lab, best: &Candidate, found: &Selection, markers: &[(u32, f64)]) -> Direction {
    let card = &lab.model.card;
    let CandidateScores {
        ablation,
        addition,
        kl,
    } = best.scores;
    Direction {
        rows: vec![(Site::ResidPre.at(best.layer), best.vector.clone())],
        origin: DirectionOrigin {
            model: card.name.clone(),
            revision: card.revision.clone(),
            method: format!(
                "difference of means, selected on {} + {} other prompts (Arditi et al. 2024): ablation {ablation:.3}, addition {addition:.3}, KL {kl:.4}; markers {}",
                found.measured.0,
                found.measured.1,
                spell(lab, markers)
            ),
            positions: format!("-{}", best.position),
            prompts: found.made,
            dtype: card.dtype.into(),
            strength: 1.0,
            version: env!("CARGO_PKG_VERSION").into(),
            ..DirectionOrigin::default()
        },
    }
}

impl Coloured {
    fn grid(self, layers: usize, found: &Selection, columns: Vec<AxisLabel>) -> Grid {
        let shown = |s: &CandidateScores| match self {
            Self::Addition => s.addition,
            Self::Kl => s.kl,
            Self::Ablation => s.ablation,
        } as f32;
        let cell = |row: usize, column: usize| {
            let i = column * layers + row;
            let candidate = &found.candidates[i];
            let label = match found.chosen {
                Some(chosen) if chosen == i => "chosen",
                Some(_) | None => candidate.verdict.word(),
            };
            let (scores, at) = (&candidate.scores, Anchor::layer(candidate.layer));
            Cell::of(label, shown(scores), at).more([
                ("ablation", scores.ablation as f32),
                ("addition", scores.addition as f32),
                ("kl", scores.kl as f32),
            ])
        };
        let value = match self {
            Self::Kl => "KL in nats",
            Self::Ablation | Self::Addition => "log-odds of the markers",
        };
        let rows = ("layer", AxisLabel::layers(layers));
        let grid = Grid::of(rows, ("position", columns), value, cell).around_zero();
        match self {
            Self::Kl => {
                let hi = grid.reach();
                grid.scaled(Scale::up_to(hi))
            }
            Self::Ablation | Self::Addition => grid,
        }
    }
}

/// Column titles: the position, and its token where every prompt has the same.
fn titles(lab: &Lab, rules: &SelectionRules, making: &PromptSides) -> Vec<AxisLabel> {
    let title = |position: usize| {
        let mut tokens = making
            .plus
            .iter()
            .chain(&making.minus)
            .filter_map(|t| t.len().checked_sub(position).map(|i| t[i]));
        let first = tokens.next();
        match first.filter(|f| tokens.all(|t| t == *f)) {
            Some(token) => AxisLabel::of(
                format!("-{position} {}", lab.visible(token)),
                Anchor::default().with(Unit::Token(token)),
            ),
            None => AxisLabel::of(format!("-{position}"), Anchor::default()),
        }
    };
    rules.positions.iter().map(|p| title(*p)).collect()
}

fn spell(lab: &Lab, markers: &[(u32, f64)]) -> String {
    let spelled = markers.iter().map(|(id, ahead)| {
        if ahead.is_nan() {
            lab.visible(*id)
        } else {
            format!("{} ({ahead:+.2})", lab.visible(*id))
        }
    });
    spelled.collect::<Vec<_>>().join(", ")
}

/// What a control of the chosen direction does in several draws, and whether the choice does more than all of them.
fn control_note(best: &Candidate, what: &str, draws: &[CandidateScores], seed: u64) -> String {
    let spread = |of: fn(&CandidateScores) -> f64| {
        let all: Vec<f64> = draws.iter().map(of).collect();
        let least = all.iter().copied().fold(f64::INFINITY, f64::min);
        let most = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        (least, most, format!("{mean:.3} ({least:.3} to {most:.3})"))
    };
    let (low, _, ablation) = spread(|s| s.ablation);
    let (_, high, addition) = spread(|s| s.addition);
    let most = draws.iter().map(|s| s.kl).fold(0.0, f64::max);
    let mut out = format!(
        "control: {what} at the same layer and length, {} draws, seed {seed}: ablation {ablation}, addition {addition}, KL at most {most:.4}",
        draws.len()
    );
    if best.scores.ablation >= low {
        out.push_str("; THE CHOICE REMOVES NO MORE");
    }
    if best.scores.addition <= high {
        out.push_str("; THE CHOICE INDUCES NO MORE");
    }
    out
}

fn notes(
    lab: &Lab,
    run: &Run,
    found: &Selection,
    markers: &[(u32, f64)],
    rules: &SelectionRules,
) -> Vec<String> {
    let mut out = Vec::new();
    match (found.chosen.map(|i| &found.candidates[i]), &found.controls) {
        (Some(best), Some(controls)) => {
            let (plus, minus) = found.unedited;
            let [ablation, addition] = controls
                .each
                .each_ref()
                .map(|each| MeanInterval::of(each, run.seed).sentence());
            out.push(format!(
                "chosen: resid_pre.{} at -{}, norm {:.3}: ablation {ablation} (unedited {plus:.3}), addition {addition} (unedited {minus:.3}), KL {:.4}; intervals of 95 % over the held-out prompts",
                best.layer,
                best.position,
                norm(&best.vector),
                best.scores.kl,
            ));
            let beside = [
                (
                    "the difference of means with shuffled labels",
                    &controls.shuffled,
                ),
                ("a random direction", &controls.random),
            ];
            for (what, draws) in beside {
                out.push(control_note(best, what, draws, run.seed));
            }
            if let Some((ablation, addition)) = controls.judged {
                out.push(format!(
                    "the choice is the best of {} candidates, which flatters it: chosen anew on every other held-out prompt, the best has ablation {ablation:.3} and addition {addition:.3} on the rest",
                    found.candidates.len()
                ));
            }
        }
        _ => out
            .push("no candidate was chosen: each was discarded, for the reason in its cell".into()),
    }
    let count = |verdict| {
        let of = found.candidates.iter().filter(|c| c.verdict == verdict);
        of.count()
    };
    out.push(format!(
        "ablation: log-odds of the markers on plus prompts with the candidate projected out of the residual stream and all component outputs (lower is better); addition: on minus prompts with it added (higher is better); discarded: {} late (from {} of the depth on), {} kl (above {} nats), {} weak (addition below 0), {} nan",
        count(CandidateVerdict::Late),
        rules.depth,
        count(CandidateVerdict::Kl),
        rules.kl,
        count(CandidateVerdict::Weak),
        count(CandidateVerdict::NotANumber),
    ));
    let from = if markers.iter().any(|m| m.1.is_nan()) {
        "given"
    } else {
        "found; in brackets: how much more probable they are at the start of a plus answer than of a minus answer"
    };
    out.push(format!("markers: {} ({from})", spell(lab, markers)));
    out.push(format!(
        "candidates are made from {} + {} prompts and measured on {} + {} others, drawn with seed {}; left out because the model does not behave on them as their list says: {} + {}",
        found.made.0,
        found.made.1,
        found.measured.0,
        found.measured.1,
        run.seed,
        found.left_out.0,
        found.left_out.1,
    ));
    out.push("KL: Σ p·(ln(p + 1e-6) − ln(q + 1e-6)) as in the reference code of Arditi et al., which is about a hundredth below the KL of the other figures".into());
    out
}
