//! Selecting a direction between two behaviours: every layer and position as a candidate, scored by what it does.
//!
//! The procedure of Arditi et al. 2024 (2406.11717), which is in `vectors/selection.rs`, for any two lists of prompts and any
//! tokens that mark the first. Discarded candidates stay in the figure, with the reason; the choice stands beside the
//! unedited scores and those of a random direction of its length.

use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::edit::direction::{Direction, Origin, norm};
use crate::error::{Error, Result};
use crate::figure::{Anchor, Body, Cell, Figure, Grid, Header, Scale};
use crate::instruments::{Arguments, Instrument, Kind, Parameter};
use crate::lab::batch::{first_tokens, read_prompts};
use crate::lab::bench::Bench;
use crate::lab::run::Run;
use crate::model::network::site::Site;
use crate::vectors::selection::{
    Candidate, Rules, Scores, Selection, Sides, Verdict, after_instruction, find_markers, select,
};

/// The instrument.
pub struct Select;

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "plus",
        kind: Kind::Text,
        default: "",
        about: "a file of prompts that show the behaviour, one a line",
    },
    Parameter {
        name: "minus",
        kind: Kind::Text,
        default: "",
        about: "a file of prompts that do not",
    },
    Parameter {
        name: "chat",
        kind: Kind::Choice(&["no", "yes"]),
        default: "no",
        about: "yes: every prompt is one user turn of the chat template",
    },
    Parameter {
        name: "markers",
        kind: Kind::Text,
        default: "",
        about: "texts separated by |, whose first tokens mark the behaviour; by default those that begin plus answers and not minus answers",
    },
    Parameter {
        name: "positions",
        kind: Kind::Text,
        default: "",
        about: "candidate positions: 5 for the last five, or -1,-3; by default the template's tokens after the user's words, or the last five",
    },
    Parameter {
        name: "validation",
        kind: Kind::Text,
        default: "0.5",
        about: "share of each list that measures the candidates and makes none, at most 32 prompts",
    },
    Parameter {
        name: "plus-validation",
        kind: Kind::Text,
        default: "",
        about: "a file of plus prompts to measure on, instead of a share of the list",
    },
    Parameter {
        name: "minus-validation",
        kind: Kind::Text,
        default: "",
        about: "a file of minus prompts to measure on, instead of a share of the list",
    },
    Parameter {
        name: "depth",
        kind: Kind::Text,
        default: "0.8",
        about: "layers from this share of the depth on are discarded",
    },
    Parameter {
        name: "kl",
        kind: Kind::Text,
        default: "0.1",
        about: "candidates that move minus prompts by more than so many nats are discarded",
    },
    Parameter {
        name: "filter",
        kind: Kind::Choice(&["yes", "no"]),
        default: "yes",
        about: "yes: only prompts that behave as their list says are used",
    },
    Parameter {
        name: "measure",
        kind: Kind::Choice(&["ablation", "addition", "kl"]),
        default: "ablation",
        about: "the score that is coloured; all three are in every cell",
    },
    Parameter {
        name: "save",
        kind: Kind::Text,
        default: "",
        about: "a safetensors file for the chosen direction",
    },
];

/// The most prompts of a list that measure.
const HELD_OUT: usize = 32;

/// The most candidate positions.
const POSITIONS: usize = 64;

impl Instrument for Select {
    fn name(&self) -> &'static str {
        "select"
    }

    fn about(&self) -> &'static str {
        "Which layer and position give the direction that switches a behaviour off and on"
    }

    fn source(&self) -> &'static str {
        "refusal direction: Arditi et al. 2024 (2406.11717)"
    }

    fn parameters(&self) -> &'static [Parameter] {
        PARAMETERS
    }

    fn always_needs_prompt(&self) -> bool {
        false
    }

    fn needs_prompt(&self, _arguments: &Arguments) -> bool {
        false
    }

    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        arguments.check(self)?;
        let save = arguments.text(self, "save").trim();
        let save = (!save.is_empty()).then(|| PathBuf::from(save));
        check_folder(save.as_deref())?;
        if let Some(path) = &save {
            crate::file::check(path, bench.overwrite)?;
        }
        let (making, held_out) = self.sides(run, arguments, bench)?;
        let given = arguments.text(self, "markers");
        let markers = if given.is_empty() {
            find_markers(bench, &making, &run.schedule)?
        } else {
            let ids = first_tokens(bench, "markers", given)?;
            ids.into_iter().map(|id| (id, f64::NAN)).collect()
        };
        let rules = Rules {
            positions: self.positions(arguments, bench, &[&making, &held_out])?,
            markers: markers.iter().map(|m| m.0).collect(),
            depth: self.number(arguments, "depth", 0.0..=1.0)?,
            kl: self.number(arguments, "kl", 0.0..=f64::MAX)?,
            filter: arguments.text(self, "filter") == "yes",
        };
        let found = select(bench, &making, &held_out, &rules, &run.schedule, run.seed)?;
        let mut notes = notes(bench, run, &found, &markers, &rules);
        if let Some(path) = save {
            match found.chosen.map(|i| &found.candidates[i]) {
                Some(best) => {
                    self.direction(bench, best, &found, &markers)
                        .save_as(&path, bench.overwrite)?;
                    notes.insert(1, format!("the chosen direction is in {}", path.display()));
                }
                None => notes.insert(1, "NOTHING WAS SAVED, for nothing was chosen".into()),
            }
        }
        let titles = titles(bench, &rules, &making);
        Ok(self.figure(run, arguments, bench, &found, titles, notes))
    }
}

/// Refuses a folder that is not there before the work, not after it.
fn check_folder(path: Option<&Path>) -> Result<()> {
    let folder = path.and_then(Path::parent);
    match folder.filter(|f| !f.as_os_str().is_empty() && !f.is_dir()) {
        None => Ok(()),
        Some(folder) => Err(Error::argument(
            "save",
            folder.display().to_string(),
            "a file in a folder that is there",
        )),
    }
}

impl Select {
    fn number(
        &self,
        arguments: &Arguments,
        name: &str,
        within: std::ops::RangeInclusive<f64>,
    ) -> Result<f64> {
        let text = arguments.text(self, name);
        let number = text.trim().parse::<f64>().ok();
        number.filter(|n| within.contains(n)).ok_or_else(|| {
            let expected = if *within.end() < f64::MAX {
                format!("a number from {} to {}", within.start(), within.end())
            } else {
                format!("a number, {} or more", within.start())
            };
            Error::argument(name, text, expected)
        })
    }

    /// The prompts that make candidates, and those that measure them.
    fn sides(&self, run: &Run, arguments: &Arguments, bench: &Bench) -> Result<(Sides, Sides)> {
        let chat = arguments.text(self, "chat") == "yes";
        let share = self.number(arguments, "validation", 0.0..=1.0)?;
        let tokens = |path: &str| -> Result<Vec<Vec<u32>>> {
            let prompts = read_prompts(Path::new(path))?;
            prompts
                .iter()
                .map(|p| {
                    let ids = bench.model.encode(p, chat)?;
                    bench.model.check_prompt(&ids)?;
                    Ok(ids)
                })
                .collect()
        };
        let mut out = (Sides::default(), Sides::default());
        for list in ["plus", "minus"] {
            let path = arguments.text(self, list).trim();
            if path.is_empty() {
                return Err(Error::argument(list, path, "a file of prompts, one a line"));
            }
            let mut making = tokens(path)?;
            let apart = arguments.text(self, &format!("{list}-validation")).trim();
            let held_out = if apart.is_empty() {
                let mut rng = StdRng::seed_from_u64(run.seed);
                making.shuffle(&mut rng);
                let held = (making.len() as f64 * share) as usize;
                making.split_off(making.len() - held.min(HELD_OUT))
            } else {
                tokens(apart)?
            };
            if making.is_empty() || held_out.is_empty() {
                let given = format!("{} and {}", making.len(), held_out.len());
                let expected = format!(
                    "prompts of `{list}` both to make candidates and to measure them; change `validation`, or give `{list}-validation`"
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
    fn positions(
        &self,
        arguments: &Arguments,
        bench: &Bench,
        sides: &[&Sides],
    ) -> Result<Vec<usize>> {
        let text = arguments.text(self, "positions").trim();
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
            let template = if arguments.text(self, "chat") == "yes" {
                after_instruction(bench)
            } else {
                0
            };
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

    fn direction(
        &self,
        bench: &Bench,
        best: &Candidate,
        found: &Selection,
        markers: &[(u32, f64)],
    ) -> Direction {
        let card = &bench.model.card;
        let Scores {
            ablation,
            addition,
            kl,
        } = best.scores;
        Direction {
            rows: vec![(Site::ResidPre.at(best.layer), best.vector.clone())],
            origin: Origin {
                model: card.name.clone(),
                revision: card.revision.clone(),
                method: format!(
                    "difference of means, selected on {} + {} other prompts (Arditi et al. 2024): ablation {ablation:.3}, addition {addition:.3}, KL {kl:.4}; markers {}",
                    found.measured.0,
                    found.measured.1,
                    spell(bench, markers)
                ),
                positions: format!("-{}", best.position),
                prompts: found.made,
                dtype: card.dtype.into(),
                strength: 1.0,
                version: env!("CARGO_PKG_VERSION").into(),
                ..Origin::default()
            },
        }
    }

    fn figure(
        &self,
        run: &Run,
        arguments: &Arguments,
        bench: &Bench,
        found: &Selection,
        columns: Vec<Header>,
        notes: Vec<String>,
    ) -> Figure {
        let layers = bench.model.card.layers;
        let measure = arguments.text(self, "measure");
        let shown = |s: &Scores| match measure {
            "addition" => s.addition,
            "kl" => s.kl,
            _ => s.ablation,
        } as f32;
        let cell = |i: usize, c: &Candidate| Cell {
            label: if found.chosen == Some(i) {
                "chosen".into()
            } else {
                c.verdict.word().into()
            },
            value: shown(&c.scores),
            anchor: Anchor::layer(c.layer),
            more: vec![
                ("ablation".into(), c.scores.ablation as f32),
                ("addition".into(), c.scores.addition as f32),
                ("kl".into(), c.scores.kl as f32),
            ],
        };
        let cells: Vec<Cell> = found
            .candidates
            .iter()
            .enumerate()
            .map(|(i, c)| cell(i, c))
            .collect();
        let reach = cells
            .iter()
            .map(|c| c.value.abs())
            .filter(|v| v.is_finite())
            .fold(1e-6, f32::max);
        let (value, scale) = if measure == "kl" {
            ("KL in nats", Scale::Range { lo: 0.0, hi: reach })
        } else {
            ("log-odds of the markers", Scale::Diverging { reach })
        };
        Figure {
            title: format!("select · {measure} score"),
            body: Body::Grid(Grid {
                also: crate::figure::also::Also::default(),
                row_axis: "layer".into(),
                column_axis: "position".into(),
                value: value.into(),
                rows: (0..layers)
                    .map(|l| Header {
                        label: l.to_string(),
                        anchor: Anchor::layer(l),
                    })
                    .collect(),
                columns,
                cells: cells.chunks(layers).map(<[Cell]>::to_vec).collect(),
                scale,
            }),
            notes,
            check: None,
            provenance: bench.provenance(run, arguments.provenance(self)),
        }
    }
}

/// Column titles: the position, and its token where every prompt has the same.
fn titles(bench: &Bench, rules: &Rules, making: &Sides) -> Vec<Header> {
    let title = |position: usize| {
        let mut tokens = making
            .plus
            .iter()
            .chain(&making.minus)
            .filter_map(|t| t.len().checked_sub(position).map(|i| t[i]));
        let first = tokens.next();
        let label = match first.filter(|f| tokens.all(|t| t == *f)) {
            Some(token) => format!("-{position} {}", bench.visible(token)),
            None => format!("-{position}"),
        };
        Header {
            label,
            anchor: Anchor::default(),
        }
    };
    rules.positions.iter().map(|p| title(*p)).collect()
}

fn spell(bench: &Bench, markers: &[(u32, f64)]) -> String {
    let spelled = markers.iter().map(|(id, ahead)| {
        if ahead.is_nan() {
            bench.visible(*id)
        } else {
            format!("{} ({ahead:+.2})", bench.visible(*id))
        }
    });
    spelled.collect::<Vec<_>>().join(", ")
}

fn notes(
    bench: &Bench,
    run: &Run,
    found: &Selection,
    markers: &[(u32, f64)],
    rules: &Rules,
) -> Vec<String> {
    let mut out = Vec::new();
    match (found.chosen.map(|i| &found.candidates[i]), &found.null) {
        (Some(best), Some(null)) => {
            let (plus, minus) = found.unedited;
            out.push(format!(
                "chosen: resid_pre.{} at -{}, length {:.3}: ablation {:.2} (unedited {plus:.2}, random {:.2}), addition {:.2} (unedited {minus:.2}, random {:.2}), KL {:.4} (random {:.4}); random: a direction of its length, seed {}",
                best.layer,
                best.position,
                norm(&best.vector),
                best.scores.ablation,
                null.ablation,
                best.scores.addition,
                null.addition,
                best.scores.kl,
                null.kl,
                run.seed,
            ));
        }
        _ => out.push(
            "nothing was chosen: every candidate is discarded, for the reason in its cell".into(),
        ),
    }
    let count = |verdict| {
        let of = found.candidates.iter().filter(|c| c.verdict == verdict);
        of.count()
    };
    out.push(format!(
        "ablation: log-odds of the markers on plus prompts with the candidate projected out of every write (lower is better); addition: on minus prompts with it added (higher); discarded: {} late (from {} of the depth on), {} kl (above {} nats), {} weak (addition below 0), {} nan",
        count(Verdict::Late),
        rules.depth,
        count(Verdict::Kl),
        rules.kl,
        count(Verdict::Weak),
        count(Verdict::NotANumber),
    ));
    let from = if markers.iter().any(|m| m.1.is_nan()) {
        "given"
    } else {
        "found: how much more probable they begin a plus answer than a minus answer"
    };
    out.push(format!("markers: {} ({from})", spell(bench, markers)));
    out.push(format!(
        "candidates from {} + {} prompts, measured on {} + {} others, drawn with seed {}; left out because they do not behave as their list says: {} + {}",
        found.made.0,
        found.made.1,
        found.measured.0,
        found.measured.1,
        run.seed,
        found.left_out.0,
        found.left_out.1,
    ));
    out
}
