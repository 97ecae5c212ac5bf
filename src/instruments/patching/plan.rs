//! The plan of a patching sweep: the cases (pairs of runs), the cells, and their measurement.
//!
//! Invariant: a cell has the same meaning in every case, so that their mean has one; a case is loaded when its first cell is
//! measured and dropped after its last.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::case::{HeadsAt, PatchingCase, cases, heads_pairs, positions};
use super::{Control, PatchDirection, Patching, PatchingMeasure, PatchingParams};
use crate::edit::direction::random_like;
use crate::error::{Error, Result};
use crate::figure::Unit;
use crate::instruments::lines;
use crate::instruments::params::{ParameterValue, choices};
use crate::lab::Lab;
use crate::lab::capture::{After, Capture, Output};
use crate::lab::draws::{DRAWS, draw_seed};
use crate::lab::pairs::{Alignment, Metric, MetricKind, ensure_metric_separates, noised};
use crate::lab::pass::{Pass, PassRow, Patch};
use crate::lab::run::Run;
use crate::model::Fingerprint;
use crate::model::host::ToHost;
use crate::model::network::site::{Address, Site};
use crate::vectors::interval::MeanInterval;

/// The most cells in one slice.
const SLICE: usize = 256;

/// How many of the strongest cells get a control.
const STRONGEST: usize = 3;

choices! {
    /// The value that is patched.
    pub enum PatchKind {
        /// The stream that enters a block.
        Resid = "resid",
        /// The attention output.
        Attn = "attn",
        /// The MLP output.
        Mlp = "mlp",
        /// The output of one head, before the output projection.
        Heads = "heads",
    }
}

impl PatchKind {
    pub fn site(self) -> Site {
        match self {
            Self::Resid => Site::ResidPre,
            Self::Attn => Site::AttnOut,
            Self::Mlp => Site::MlpOut,
            Self::Heads => Site::Z,
        }
    }
}

/// One cell: a layer, and a head or an aligned pair of positions (an index into the alignment).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchSpot {
    pub layer: usize,
    /// The index of the head or of the pair.
    pub column: usize,
}

/// A case with its captured runs.
struct LoadedCase {
    case: usize,
    /// The pass over the base run, which is patched, and its capture.
    base: Pass,
    base_capture: Capture,
    /// The first captured position of the source run, and its capture from there on.
    source_start: usize,
    source: Capture,
    metric: Metric,
    base_value: f32,
    source_value: f32,
}

/// The result of one cell in one case.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PatchedCell {
    /// The metric after patching.
    pub patched: f32,
    /// The metric of the base run.
    pub base: f32,
    /// The metric of the source run.
    pub source: f32,
    /// The top prediction after patching.
    pub top: u32,
}

/// The means of a cell over the cases.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CellMeans {
    /// The metric after patching.
    pub patched: f32,
    /// The metric of the base run.
    pub base: f32,
    /// The metric of the source run.
    pub source: f32,
    /// The top prediction after patching, in the first case.
    pub top: u32,
    /// Between which numbers the metric after patching lies with 95 %, by the bootstrap over the cases; none of few.
    pub interval: Option<(f32, f32)>,
}

impl CellMeans {
    fn of(cells: &[PatchedCell]) -> Option<Self> {
        let count = cells.len() as f64;
        let mean = |pick: fn(&PatchedCell) -> f32| {
            let sum: f64 = cells.iter().map(|c| f64::from(pick(c))).sum();
            (sum / count) as f32
        };
        Some(Self {
            patched: mean(|c| c.patched),
            base: mean(|c| c.base),
            source: mean(|c| c.source),
            top: cells.first()?.top,
            interval: None,
        })
    }

    /// With the interval over its cases.
    fn with_interval(cells: &[PatchedCell], seed: u64) -> Option<Self> {
        let patched: Vec<f64> = cells.iter().map(|c| f64::from(c.patched)).collect();
        let found = MeanInterval::of(&patched, seed);
        let interval = (!found.low.is_nan()).then_some((found.low as f32, found.high as f32));
        Some(Self {
            interval,
            ..Self::of(cells)?
        })
    }

    /// The share of the way from the base run's metric (0) to the source run's (1).
    pub fn share(&self) -> f32 {
        (self.patched - self.base) / (self.source - self.base)
    }
}

/// The results of a sweep.
pub struct PatchingResult {
    /// Means over the cases, by cell; none for cells that were not reached before the sweep was stopped.
    pub cells: Vec<Option<CellMeans>>,
    /// A note if the sweep was stopped.
    pub stopped: Option<String>,
}

pub struct PatchingPlan<'a> {
    pub params: &'a PatchingParams,
    /// The cells, column by column, layers ascending.
    pub spots: Vec<PatchSpot>,
    /// The standard deviation of the noise, if there is any.
    pub sigma: Option<f64>,
    /// A description of the metric and its tokens.
    pub metric_words: String,
    cases: Vec<PatchingCase>,
    metric: MetricKind,
    /// The aligned pairs at which heads are patched, by case; empty for other sites.
    heads_pairs: Vec<Vec<(usize, usize)>>,
    loaded: Option<LoadedCase>,
}

impl<'a> PatchingPlan<'a> {
    pub fn read(params: &'a PatchingParams, run: &Run, lab: &mut Lab) -> Result<Self> {
        let window = params.window.0;
        if window > 1 && !matches!(params.site, PatchKind::Attn | PatchKind::Mlp) {
            let expected = "1 for this site; a window is for attn and mlp";
            return Err(Error::argument("window", window, expected));
        }
        if params.site != PatchKind::Heads && params.positions != HeadsAt::All {
            let expected =
                "all, because the grid of this site has every position; other values are for heads";
            return Err(Error::argument(
                "positions",
                params.positions.print(),
                expected,
            ));
        }
        let metric = match (params.metric, params.noised()) {
            (PatchingMeasure::Kl, _) => MetricKind::Kl,
            (PatchingMeasure::Probability, _) | (PatchingMeasure::Auto, true) => {
                MetricKind::Probability
            }
            (PatchingMeasure::Difference, _) | (PatchingMeasure::Auto, false) => {
                MetricKind::Difference
            }
        };
        let (cases, sigma) = cases(params, run, lab)?;
        let layers = lab.model.card.layers;
        let (columns, heads_pairs) = if params.site == PatchKind::Heads {
            let heads = (0..lab.model.card.heads).collect();
            (heads, heads_pairs(params, &cases)?)
        } else {
            (positions(&cases)?, Vec::new())
        };
        let spots = columns.iter().flat_map(|column| {
            (0..layers).map(move |layer| PatchSpot {
                layer,
                column: *column,
            })
        });
        let mut plan = Self {
            params,
            spots: spots.collect(),
            sigma,
            metric_words: String::new(),
            cases,
            metric,
            heads_pairs,
            loaded: None,
        };
        // The first case determines the metric, and shows whether there is a difference to measure.
        let loaded = plan.load(lab, 0)?;
        plan.metric_words = loaded.metric.in_words(lab);
        if let (Some(_), Metric::Difference(target)) = (plan.sigma, &loaded.metric) {
            // All draws of noise share a clean run, so the target's second token is fixed for all of them, whatever each
            // predicts.
            let other = target.minus.map(|less| format!("#{less}"));
            for case in &mut plan.cases {
                case.other.clone_from(&other);
            }
        }
        if plan.cases.len() == 1 {
            ensure_metric_separates(loaded.base_value, loaded.source_value)?;
        }
        plan.loaded = Some(loaded);
        Ok(plan)
    }

    /// Measures every cell in every case.
    pub fn measure(&mut self, run: &Run, lab: &mut Lab) -> Result<PatchingResult> {
        let (count, random) = (self.spots.len(), self.is_control());
        let mut parameters = lines::<Patching>(self.params);
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
            // A slice may extend from one case into the next.
            while start < range.end {
                let (case, first) = (start / count, start % count);
                let last = count.min(first + range.end - start);
                let spots: Vec<PatchSpot> = self.spots[first..last].to_vec();
                out.extend(self.cells(lab, case, &spots, run.seed, random)?);
                start += last - first;
            }
            Ok(out)
        })?;
        let mean = |spot: usize| {
            let cases = (0..self.cases.len()).map(|case| trials.results[case * count + spot]);
            CellMeans::with_interval(&cases.flatten().collect::<Vec<PatchedCell>>(), run.seed)
        };
        let cells: Vec<Option<CellMeans>> = (0..count).map(mean).collect();
        if let Some(some) = cells.iter().flatten().next() {
            ensure_metric_separates(some.base, some.source)?;
        }
        Ok(PatchingResult {
            stopped: trials.note(),
            cells,
        })
    }

    /// The strongest cells, each with the shares that random changes of equal norm reach, in several draws.
    pub fn strongest_with_controls(
        &mut self,
        run: &Run,
        lab: &mut Lab,
        found: &PatchingResult,
    ) -> Result<Vec<(PatchSpot, Vec<f32>)>> {
        if self.is_control() || found.stopped.is_some() {
            return Ok(Vec::new());
        }
        let mut order: Vec<usize> = (0..self.spots.len()).collect();
        let size = |i: &usize| found.cells[*i].map_or(0.0, |m| m.share().abs());
        order.retain(|i| size(i).is_finite());
        order.sort_by(|a, b| size(b).total_cmp(&size(a)));
        let spots: Vec<PatchSpot> = order
            .iter()
            .take(STRONGEST)
            .map(|i| self.spots[*i])
            .collect();
        let mut cells = vec![vec![Vec::new(); DRAWS]; spots.len()];
        for case in 0..self.cases.len() {
            for draw in 0..DRAWS {
                let seed = draw_seed(run.seed, draw);
                let measured = self.cells(lab, case, &spots, seed, true)?;
                for (own, cell) in cells.iter_mut().zip(measured) {
                    own[draw].push(cell);
                }
            }
        }
        let share = |cases: &Vec<PatchedCell>| CellMeans::of(cases).map_or(f32::NAN, |m| m.share());
        let shares = cells.iter().map(|draws| draws.iter().map(share).collect());
        Ok(spots.into_iter().zip(shares).collect())
    }

    /// Where on the scale of shares the metric is 0, if it is a difference of logits: what erases all information comes to this share, and
    /// not to 0. None for other metrics, whose scale has no such point.
    pub fn zero_share(&self, found: &PatchingResult) -> Option<f32> {
        let mean = found.cells.iter().flatten().next()?;
        let zero = CellMeans {
            patched: 0.0,
            ..*mean
        };
        (self.metric == MetricKind::Difference).then(|| zero.share())
    }

    /// How many cases there are.
    pub fn cases(&self) -> usize {
        self.cases.len()
    }

    /// The clean and the corrupted run of the first case, and their alignment.
    pub fn first_case(&self) -> (&Run, &Run, &Alignment) {
        let case = &self.cases[0];
        (&case.clean, &case.corrupt, &case.alignment)
    }

    /// The head of a column, and its position in the clean run.
    pub fn place(&self, column: usize) -> (Option<Unit>, Option<usize>) {
        let case = &self.cases[0];
        if self.params.site != PatchKind::Heads {
            return (None, Some(case.alignment.pairs[column].0));
        }
        let at = match (self.params.positions, self.heads_pairs[0].first()) {
            (HeadsAt::One(_), Some((clean, _))) => *clean,
            _ => case.clean.tokens.len() - 1,
        };
        (Some(Unit::Head(column as u32)), Some(at))
    }

    /// The positions at which heads are patched, for the notes.
    pub fn heads_at(&self) -> String {
        match self.params.positions {
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

    /// The positions that are noised, for the notes.
    pub fn noised_positions(&self) -> String {
        match &self.cases[0].noise {
            Some((positions, _)) if positions.len() > 1 => {
                format!("positions {} to {}", positions.start, positions.end - 1)
            }
            Some((positions, _)) => format!("position {}", positions.start),
            None => "no position".into(),
        }
    }

    /// Whether the clean run's values are patched into the corrupted run.
    pub fn is_denoising(&self) -> bool {
        self.params.way == PatchDirection::Denoise
    }

    /// Whether every cell shows the control: random changes of equal norm.
    pub fn is_control(&self) -> bool {
        self.params.control == Control::Random
    }

    /// Measures cells of one case.
    fn cells(
        &mut self,
        lab: &mut Lab,
        case: usize,
        spots: &[PatchSpot],
        seed: u64,
        random: bool,
    ) -> Result<Vec<PatchedCell>> {
        if self.loaded.as_ref().is_none_or(|l| l.case != case) {
            self.loaded = None;
            self.loaded = Some(self.load(lab, case)?);
        }
        let Some(loaded) = &self.loaded else {
            return Ok(Vec::new());
        };
        let trial = |spot: &PatchSpot| {
            let patches = self.trial(lab, loaded, *spot, random.then_some(seed))?;
            Ok(PassRow::patched(patches))
        };
        let pass = Pass {
            rows: spots.iter().map(trial).collect::<Result<_>>()?,
            ..loaded.base.clone()
        };
        let cell = |row: &Capture| PatchedCell {
            patched: loaded.metric.of(row.last()),
            base: loaded.base_value,
            source: loaded.source_value,
            top: row.last().first().0,
        };
        Ok(lab.run(&pass)?.iter().map(cell).collect())
    }

    /// The patches of a cell: the source run's values, or for a control changes of equal norm in random directions.
    fn trial(
        &self,
        lab: &Lab,
        loaded: &LoadedCase,
        spot: PatchSpot,
        random: Option<u64>,
    ) -> Result<Vec<Patch>> {
        let case = &self.cases[loaded.case];
        let heads = self.params.site == PatchKind::Heads;
        let pairs = if heads {
            self.heads_pairs[loaded.case].as_slice()
        } else {
            &case.alignment.pairs[spot.column..=spot.column]
        };
        let head = heads.then_some(spot.column);
        let layers = lab.model.card.layers;
        let first = spot.layer.saturating_sub(self.params.window.0 / 2);
        let last = (spot.layer + self.params.window.0 - self.params.window.0 / 2).min(layers);
        let mut trial = Vec::new();
        for layer in first..last {
            let at = self.params.site.site().at(layer);
            for (clean, corrupt) in pairs {
                let (base, source) = if self.is_denoising() {
                    (*corrupt, *clean)
                } else {
                    (*clean, *corrupt)
                };
                let value = recorded_value(&loaded.source, at, source - loaded.source_start, head)?;
                let value = match random {
                    None => value,
                    Some(seed) => {
                        let here = loaded.base.from.unwrap_or_default();
                        let own = recorded_value(&loaded.base_capture, at, base - here, head)?;
                        let place = [layer, spot.column, *clean, loaded.case];
                        random_perturbation(&own, &value, seed, &place)?
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

    /// Captures both runs of a case.
    fn load(&self, lab: &mut Lab, index: usize) -> Result<LoadedCase> {
        let case = &self.cases[index];
        let layers = lab.model.card.layers;
        let wanted: Vec<Address> = (0..layers).map(|l| self.params.site.site().at(l)).collect();
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
            // Only these rows determine the metric.
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
        // The base run is captured last, so that it is still cached for the passes that patch it.
        let (base, other) = if self.is_denoising() {
            (corrupt, clean)
        } else {
            (clean, corrupt)
        };
        let source = lab.run_one(&other)?;
        let own = lab.run_one(&base)?;
        let (of_clean, of_corrupt) = if self.is_denoising() {
            (source.last(), own.last())
        } else {
            (own.last(), source.last())
        };
        let answers = (case.answer.as_deref(), case.other.as_deref());
        let metric = self.metric.metric(lab, answers, of_clean, of_corrupt)?;
        let known = lab.model.known_tokens();
        Ok(LoadedCase {
            case: index,
            base_value: metric.of_logits(own.logits(), known),
            source_value: metric.of_logits(source.logits(), known),
            base: Pass {
                record: Vec::new(),
                output: metric.output(),
                ..base
            },
            base_capture: own,
            source_start: other.from.unwrap_or_default(),
            source,
            metric,
        })
    }
}

/// A recorded value at a position, `[width]`, or `[head_dim]` for one head.
fn recorded_value(
    read: &Capture,
    at: Address,
    position: usize,
    head: Option<usize>,
) -> Result<Tensor> {
    let row = read.get(at)?.get(position)?;
    Ok(match head {
        None => row.flatten_all()?,
        Some(head) => row.get(head)?,
    })
}

/// The base run's value, changed in a random direction by the norm of its difference from the source run's value.
fn random_perturbation(
    base: &Tensor,
    source: &Tensor,
    seed: u64,
    place: &[usize],
) -> Result<Tensor> {
    let read = |t: &Tensor| t.to_dtype(DType::F32)?.host_vec1::<f32>();
    let (own, other) = (read(base)?, read(source)?);
    let change: Vec<f32> = own.iter().zip(&other).map(|(a, b)| b - a).collect();
    let place = place.iter().map(|p| *p as u64);
    let drawn = random_like(&change, Fingerprint::of([seed].into_iter().chain(place)));
    let moved: Vec<f32> = own.iter().zip(drawn).map(|(a, d)| a + d).collect();
    Ok(Tensor::new(moved.as_slice(), base.device())?.to_dtype(base.dtype())?)
}
