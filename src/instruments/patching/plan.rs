//! What is patched where: the cases (pairs of runs) and the cells, and what came of them.
//!
//! Invariant: a cell means the same in every case, so that their mean is one; a case is loaded when its first cell is
//! measured and forgotten after its last.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::case::{Case, HeadsAt, cases, heads_pairs, positions};
use super::{Control, Patching, PatchingParams, Wanted, Way};
use crate::edit::direction::random_like;
use crate::error::{Error, Result};
use crate::figure::Unit;
use crate::instruments::lines;
use crate::instruments::params::{ParameterValue, choices};
use crate::instruments::patching::contrast::{Alignment, Metric, beside, noised};
use crate::lab::Lab;
use crate::lab::capture::{After, Capture, Output};
use crate::lab::pass::{Pass, PassRow, Patch};
use crate::lab::readout::Said;
use crate::lab::run::Run;
use crate::lab::target::Target;
use crate::model::Fingerprint;
use crate::model::network::site::{Address, Site};

/// Most cells of one slice.
const SLICE: usize = 256;

/// How many of the strongest cells get a null of their own.
const STRONGEST: usize = 3;

choices! {
    /// What is put in.
    pub enum Kind {
        /// What enters a block.
        Resid = "resid",
        /// What attention returns.
        Attn = "attn",
        /// What the MLP returns.
        Mlp = "mlp",
        /// What a head hands to the output projection.
        Heads = "heads",
    }
}

impl Kind {
    /// Its site.
    pub fn site(self) -> Site {
        match self {
            Self::Resid => Site::ResidPre,
            Self::Attn => Site::AttnOut,
            Self::Mlp => Site::MlpOut,
            Self::Heads => Site::Z,
        }
    }
}

/// One cell: a layer, and a head or a pair of positions (an index into the alignment).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The layer.
    pub layer: usize,
    /// Head, or pair of positions.
    pub column: usize,
}

/// A case whose runs were read.
struct Loaded {
    case: usize,
    /// The run that is patched, and what it holds.
    base: Pass,
    own: Capture,
    /// The first position of the other run, and what that holds from there on.
    there: usize,
    source: Capture,
    metric: Metric,
    base_value: f32,
    source_value: f32,
}

/// What came of one cell in one case.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The metric of the patched run.
    pub patched: f32,
    /// The metric of the run that is patched.
    pub base: f32,
    /// The metric of the run that values come from.
    pub source: f32,
    /// The patched run's most probable next token.
    pub top: u32,
}

/// A cell's means over the cases.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mean {
    /// The metric of the patched run.
    pub patched: f32,
    /// The metric of the run that is patched.
    pub base: f32,
    /// The metric of the run that values come from.
    pub source: f32,
    /// The most probable next token, in the first case.
    pub top: u32,
}

impl Mean {
    fn of(cells: &[Cell]) -> Option<Self> {
        let count = cells.len() as f64;
        let mean = |pick: fn(&Cell) -> f32| {
            let sum: f64 = cells.iter().map(|c| f64::from(pick(c))).sum();
            (sum / count) as f32
        };
        Some(Self {
            patched: mean(|c| c.patched),
            base: mean(|c| c.base),
            source: mean(|c| c.source),
            top: cells.first()?.top,
        })
    }

    /// How much of the way from the patched run to the other one: 0 is the former, 1 the latter.
    pub fn share(&self) -> f32 {
        (self.patched - self.base) / (self.source - self.base)
    }
}

/// Everything measured.
pub struct Found {
    /// By cell; none where the sweep was stopped before.
    pub cells: Vec<Option<Mean>>,
    /// What to say if it was stopped.
    pub stopped: Option<String>,
}

/// What is patched where.
pub struct Plan<'a> {
    /// What was asked.
    pub asked: &'a PatchingParams,
    /// The cells, column after column, layers rising.
    pub spots: Vec<Spot>,
    /// The standard deviation of the noise, where there is any.
    pub sigma: Option<f64>,
    /// The metric's name, the answer's and the other's.
    pub told: String,
    cases: Vec<Case>,
    metric: Which,
    /// Pairs of positions that heads are patched at, by case; none for other sites.
    heads_pairs: Vec<Vec<(usize, usize)>>,
    loaded: Option<Loaded>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Difference,
    Probability,
    Kl,
}

impl<'a> Plan<'a> {
    /// Reads what was asked for.
    pub fn read(asked: &'a PatchingParams, run: &Run, lab: &mut Lab) -> Result<Self> {
        let window = asked.window.0;
        if window > 1 && !matches!(asked.site, Kind::Attn | Kind::Mlp) {
            let expected = "1 for this site; a window is for attn and mlp";
            return Err(Error::argument("window", window, expected));
        }
        if asked.site != Kind::Heads && asked.positions != HeadsAt::All {
            let expected =
                "all, because the grid of this site has every position; other values are for heads";
            return Err(Error::argument(
                "positions",
                asked.positions.print(),
                expected,
            ));
        }
        let metric = match (asked.metric, asked.noised()) {
            (Wanted::Kl, _) => Which::Kl,
            (Wanted::Probability, _) | (Wanted::Auto, true) => Which::Probability,
            (Wanted::Difference, _) | (Wanted::Auto, false) => Which::Difference,
        };
        let (cases, sigma) = cases(asked, run, lab)?;
        let layers = lab.model.card.layers;
        let (columns, heads_pairs) = if asked.site == Kind::Heads {
            let heads = (0..lab.model.card.heads).collect();
            (heads, heads_pairs(asked, &cases)?)
        } else {
            (positions(&cases)?, Vec::new())
        };
        let spots = columns.iter().flat_map(|column| {
            (0..layers).map(move |layer| Spot {
                layer,
                column: *column,
            })
        });
        let mut plan = Self {
            asked,
            spots: spots.collect(),
            sigma,
            told: String::new(),
            cases,
            metric,
            heads_pairs,
            loaded: None,
        };
        // The first case says what is measured, and whether there is anything to measure.
        let loaded = plan.load(lab, 0)?;
        plan.told = told(lab, &loaded.metric);
        if let (Some(_), Metric::Difference(target)) = (plan.sigma, &loaded.metric) {
            // One clean run, so one difference for all draws of the noise, whatever each of them favours.
            let other = target.less.map(|less| format!("#{less}"));
            for case in &mut plan.cases {
                case.other.clone_from(&other);
            }
        }
        if plan.cases.len() == 1 {
            apart(loaded.base_value, loaded.source_value)?;
        }
        plan.loaded = Some(loaded);
        Ok(plan)
    }

    /// Every cell in every case.
    pub fn measure(&mut self, run: &Run, lab: &mut Lab) -> Result<Found> {
        let (count, random) = (self.spots.len(), self.random());
        let mut parameters = lines::<Patching>(self.asked);
        let mut digest = Fingerprint::default();
        for case in &self.cases {
            digest.write(&case.clean.digest().to_le_bytes());
            digest.write(&case.corrupt.digest().to_le_bytes());
            digest.write(format!("{:?} {:?} {:?}", case.noise, case.answer, case.other).as_bytes());
        }
        parameters.push(("cases".into(), format!("{:016x}", digest.finish())));
        let total = count * self.cases.len();
        let trials = lab.trials(run, parameters, total, SLICE, |lab, range| {
            let mut out = Vec::with_capacity(range.len());
            let mut start = range.start;
            // A slice may reach from one case into the next.
            while start < range.end {
                let (case, first) = (start / count, start % count);
                let last = count.min(first + range.end - start);
                let spots: Vec<Spot> = self.spots[first..last].to_vec();
                out.extend(self.cells(lab, case, &spots, run.seed, random)?);
                start += last - first;
            }
            Ok(out)
        })?;
        let mean = |spot: usize| {
            let cases = (0..self.cases.len()).map(|case| trials.results[case * count + spot]);
            Mean::of(&cases.flatten().collect::<Vec<Cell>>())
        };
        let cells: Vec<Option<Mean>> = (0..count).map(mean).collect();
        if let Some(some) = cells.iter().flatten().next() {
            apart(some.base, some.source)?;
        }
        Ok(Found {
            stopped: trials.note(),
            cells,
        })
    }

    /// The strongest cells, each with the share that a random change of equal size makes.
    pub fn nulls(&mut self, run: &Run, lab: &mut Lab, found: &Found) -> Result<Vec<(Spot, f32)>> {
        if self.random() || found.stopped.is_some() {
            return Ok(Vec::new());
        }
        let mut order: Vec<usize> = (0..self.spots.len()).collect();
        let size = |i: &usize| found.cells[*i].map_or(0.0, |m| m.share().abs());
        order.retain(|i| size(i).is_finite());
        order.sort_by(|a, b| size(b).total_cmp(&size(a)));
        let spots: Vec<Spot> = order
            .iter()
            .take(STRONGEST)
            .map(|i| self.spots[*i])
            .collect();
        let mut cells = vec![Vec::new(); spots.len()];
        for case in 0..self.cases.len() {
            let measured = self.cells(lab, case, &spots, run.seed, true)?;
            for (own, cell) in cells.iter_mut().zip(measured) {
                own.push(cell);
            }
        }
        let shares = cells
            .iter()
            .map(|c| Mean::of(c).map_or(f32::NAN, |m| m.share()));
        Ok(spots.into_iter().zip(shares).collect())
    }

    /// How many cases there are.
    pub fn cases(&self) -> usize {
        self.cases.len()
    }

    /// The clean run of the first case, and its alignment with the corrupted one.
    pub fn shown(&self) -> (&Run, &Run, &Alignment) {
        let case = &self.cases[0];
        (&case.clean, &case.corrupt, &case.alignment)
    }

    /// The unit and the position in the clean run that a column stands for.
    pub fn place(&self, column: usize) -> (Option<Unit>, Option<usize>) {
        let case = &self.cases[0];
        if self.asked.site != Kind::Heads {
            return (None, Some(case.alignment.pairs[column].0));
        }
        let at = match (self.asked.positions, self.heads_pairs[0].first()) {
            (HeadsAt::One(_), Some((clean, _))) => *clean,
            _ => case.clean.tokens.len() - 1,
        };
        (Some(Unit::Head(column as u32)), Some(at))
    }

    /// Where heads are patched, for the notes.
    pub fn heads_at(&self) -> String {
        match self.asked.positions {
            HeadsAt::All => "at every position from the first that differs".into(),
            HeadsAt::Last => "at the last position".into(),
            HeadsAt::One(position) if position < 0 && self.cases.len() > 1 => {
                format!("at position {position} of every clean prompt")
            }
            HeadsAt::One(position) => {
                let pair = self.heads_pairs.first().and_then(|pairs| pairs.first());
                format!("at position {}", pair.map_or(position, |p| p.0 as i64))
            }
        }
    }

    /// Which positions are noised, for the notes.
    pub fn noised(&self) -> String {
        match &self.cases[0].noise {
            Some((positions, _)) if positions.len() > 1 => {
                format!("positions {} to {}", positions.start, positions.end - 1)
            }
            Some((positions, _)) => format!("position {}", positions.start),
            None => "no position".into(),
        }
    }

    /// Whether clean values go into the corrupted run.
    pub fn denoise(&self) -> bool {
        self.asked.way == Way::Denoise
    }

    /// Whether the whole grid is the null.
    pub fn random(&self) -> bool {
        self.asked.control == Control::Random
    }

    /// Cells of one case.
    fn cells(
        &mut self,
        lab: &mut Lab,
        case: usize,
        spots: &[Spot],
        seed: u64,
        random: bool,
    ) -> Result<Vec<Cell>> {
        if self.loaded.as_ref().is_none_or(|l| l.case != case) {
            self.loaded = None;
            self.loaded = Some(self.load(lab, case)?);
        }
        let Some(loaded) = &self.loaded else {
            return Ok(Vec::new());
        };
        let trial = |spot: &Spot| {
            let patches = self.trial(lab, loaded, *spot, random.then_some(seed))?;
            Ok(PassRow::patched(patches))
        };
        let pass = Pass {
            rows: spots.iter().map(trial).collect::<Result<_>>()?,
            ..loaded.base.clone()
        };
        let cell = |row: &Capture| Cell {
            patched: loaded.metric.of(row.last()),
            base: loaded.base_value,
            source: loaded.source_value,
            top: row.last().first().0,
        };
        Ok(lab.run(&pass)?.iter().map(cell).collect())
    }

    /// The patches of a cell: the source's values, or changes of equal size in random directions.
    fn trial(
        &self,
        lab: &Lab,
        loaded: &Loaded,
        spot: Spot,
        random: Option<u64>,
    ) -> Result<Vec<Patch>> {
        let case = &self.cases[loaded.case];
        let heads = self.asked.site == Kind::Heads;
        let pairs = if heads {
            self.heads_pairs[loaded.case].as_slice()
        } else {
            &case.alignment.pairs[spot.column..=spot.column]
        };
        let head = heads.then_some(spot.column);
        let layers = lab.model.card.layers;
        let first = spot.layer.saturating_sub(self.asked.window.0 / 2);
        let last = (spot.layer + self.asked.window.0 - self.asked.window.0 / 2).min(layers);
        let mut trial = Vec::new();
        for layer in first..last {
            let at = self.asked.site.site().at(layer);
            for (clean, corrupt) in pairs {
                let (base, source) = if self.denoise() {
                    (*corrupt, *clean)
                } else {
                    (*clean, *corrupt)
                };
                let value = held(&loaded.source, at, source - loaded.there, head)?;
                let value = match random {
                    None => value,
                    Some(seed) => {
                        let here = loaded.base.from.unwrap_or_default();
                        let own = held(&loaded.own, at, base - here, head)?;
                        let place = [layer, spot.column, *clean, loaded.case];
                        astray(&own, &value, seed, &place)?
                    }
                };
                trial.push(Patch {
                    head,
                    ..Patch::new(at, base, value)
                });
            }
        }
        Ok(trial)
    }

    /// Reads both runs of a case.
    fn load(&self, lab: &mut Lab, index: usize) -> Result<Loaded> {
        let case = &self.cases[index];
        let layers = lab.model.card.layers;
        let wanted: Vec<Address> = (0..layers).map(|l| self.asked.site.site().at(l)).collect();
        let from = case.alignment.pairs.get(case.alignment.first);
        let (from_clean, from_corrupt) = from.copied().unwrap_or_default();
        let common = match (&case.noise, self.sigma) {
            (Some((positions, seed)), Some(sigma)) => {
                noised(lab, &case.corrupt, positions.clone(), sigma, *seed)?
            }
            _ => Vec::new(),
        };
        let clean = Pass {
            from: Some(from_clean),
            record: wanted,
            // Only these rows say what the metric is of.
            ..Pass::after(
                case.clean.clone(),
                Output {
                    top: 2,
                    ..Output::whole(After::Last(1))
                },
            )
        };
        let corrupt = Pass {
            run: case.corrupt.clone(),
            common,
            from: Some(from_corrupt),
            ..clean.clone()
        };
        // The one that is patched comes last, so that its reading is kept for the passes to come.
        let (base, other) = if self.denoise() {
            (corrupt, clean)
        } else {
            (clean, corrupt)
        };
        let source = lab.run_one(&other)?;
        let own = lab.run_one(&base)?;
        let (of_clean, of_corrupt) = if self.denoise() {
            (source.last(), own.last())
        } else {
            (own.last(), source.last())
        };
        let metric = self.metric_of(lab, case, of_clean, of_corrupt)?;
        let known = lab.model.known_tokens();
        Ok(Loaded {
            case: index,
            base_value: metric.of_logits(own.logits(), known),
            source_value: metric.of_logits(source.logits(), known),
            base: Pass {
                record: Vec::new(),
                output: metric.output(),
                ..base
            },
            own,
            there: other.from.unwrap_or_default(),
            source,
            metric,
        })
    }

    fn metric_of(&self, lab: &Lab, case: &Case, clean: &Said, corrupt: &Said) -> Result<Metric> {
        let given = match &case.answer {
            Some(text) => Target::parse("answer", text, &lab.model)?,
            None => Target::one(clean.first().0),
        };
        Ok(match self.metric {
            Which::Kl => Metric::Kl(Arc::new(vec![vec![clean.clone()]])),
            Which::Probability => Metric::Probability(given.token),
            Which::Difference => {
                let other = case.other.as_deref().map(|text| {
                    let found = Target::parse("other", text, &lab.model)?;
                    Ok::<_, Error>(Some(found.token))
                });
                let less = other.transpose()?.flatten().or(given.less);
                Metric::Difference(match less {
                    Some(less) => Target {
                        less: Some(less),
                        ..given
                    },
                    None => beside(given.token, corrupt),
                })
            }
        })
    }
}

/// Refuses runs that the metric does not tell apart.
fn apart(base: f32, source: f32) -> Result<()> {
    if (base - source).abs() > 1e-6 * base.abs().max(source.abs()).max(1e-3) {
        return Ok(());
    }
    Err(Error::argument(
        "metric",
        format!("{base} on both runs"),
        "a metric that differs between the clean and the corrupted run; choose another answer, metric or prompt",
    ))
}

/// A recorded value at a position, `[width]`, or `[head_dim]` of one head.
fn held(read: &Capture, at: Address, position: usize, head: Option<usize>) -> Result<Tensor> {
    let row = read.get(at)?.get(position)?;
    Ok(match head {
        None => row.flatten_all()?,
        Some(head) => row.get(head)?,
    })
}

/// The base's value changed by as much as the source differs from it, in a random direction.
fn astray(base: &Tensor, source: &Tensor, seed: u64, place: &[usize]) -> Result<Tensor> {
    let read = |t: &Tensor| t.to_dtype(DType::F32)?.to_vec1::<f32>();
    let (own, other) = (read(base)?, read(source)?);
    let change: Vec<f32> = own.iter().zip(&other).map(|(a, b)| b - a).collect();
    let place = place.iter().map(|p| *p as u64);
    let drawn = random_like(&change, Fingerprint::of([seed].into_iter().chain(place)));
    let moved: Vec<f32> = own.iter().zip(drawn).map(|(a, d)| a + d).collect();
    Ok(Tensor::new(moved.as_slice(), base.device())?.to_dtype(base.dtype())?)
}

/// The metric in words.
fn told(lab: &Lab, metric: &Metric) -> String {
    match metric {
        Metric::Difference(target) => format!("logit difference {}", target.spell(lab)),
        Metric::Probability(token) => format!("probability of {}", lab.visible(*token)),
        Metric::Kl(_) => "KL divergence from the clean run, nats".into(),
    }
}
