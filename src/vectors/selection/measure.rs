//! What candidates do on held-out prompts, against unedited passes that are made once, and what the controls of the chosen one do.
//!
//! Invariant: the lab's directions are after a measurement what they were before. To measure something else, add it to
//! [`CandidateOutcome`].

use candle_core::DType;

use super::{
    Candidate, CandidateScores, PromptSides, SelectionRules, TokenizedPrompts, average, behaviour,
    divergence, mean_behaviour, whole_rows,
};
use crate::edit::direction::{Direction, DirectionOrigin, NOTHING, norm, random_like};
use crate::edit::op::{DirectionName, Op};
use crate::edit::schedule::Schedule;
use crate::edit::{Edit, EditPlace};
use crate::error::Result;
use crate::lab::Lab;
use crate::lab::capture::Capture;
use crate::lab::draws::{DRAWS, draw_seed};
use crate::lab::pass::{Pass, PassRow};
use crate::lab::readout::RowStats;
use crate::lab::run::Run;
use crate::model::host::ToHost;
use crate::model::network::site::{Address, Site};
use crate::vectors::function_vector::add;
use crate::vectors::labels::exchange;

/// What the candidate is called while it is measured.
const CANDIDATE: &str = "the candidate";

/// What a candidate does on each held-out prompt.
pub(super) struct CandidateOutcome {
    pub(super) ablation: Vec<f64>,
    pub(super) addition: Vec<f64>,
    kl: Vec<f64>,
}

/// The fewest held-out prompts of a list that are split into a half that chooses and one that judges.
pub(super) const FEWEST: usize = 4;

/// A half of the held-out prompts: every other one.
#[derive(Clone, Copy, Debug)]
pub(super) enum SelectionHalf {
    Chooses = 0,
    Judges = 1,
}

impl CandidateOutcome {
    pub(super) fn scores(&self) -> CandidateScores {
        let mean = |all: &[f64]| average(all.iter().copied());
        CandidateScores {
            ablation: mean(&self.ablation),
            addition: mean(&self.addition),
            kl: mean(&self.kl),
        }
    }

    /// The ablation and addition scores on the prompts of even number, which choose, or of odd number, which judge; none where a list has
    /// too few.
    pub(super) fn half(&self, half: SelectionHalf) -> Option<(f64, f64)> {
        let mean = |all: &[f64]| average(all.iter().skip(half as usize).step_by(2).copied());
        let enough = self.ablation.len().min(self.addition.len()) >= FEWEST;
        enough.then(|| (mean(&self.ablation), mean(&self.addition)))
    }
}

/// Measures candidates on held-out prompts, against unedited passes that are made once.
pub(super) struct CandidateMeasurer<'a> {
    pub(super) lab: &'a mut Lab,
    pub(super) held_out: PromptSides,
    markers: Vec<u32>,
    schedule: Schedule,
    base: Vec<RowStats>,
    pub(super) unedited: (f64, f64),
}

impl<'a> CandidateMeasurer<'a> {
    pub(super) fn new(
        lab: &'a mut Lab,
        held_out: PromptSides,
        rules: &SelectionRules,
        schedule: &Schedule,
    ) -> Result<Self> {
        let plus = lab.last_of(&held_out.plus, schedule, whole_rows())?;
        let base = lab.last_of(&held_out.minus, schedule, whole_rows())?;
        let score = |rows: &[RowStats]| mean_behaviour(rows, &rules.markers);
        Ok(Self {
            unedited: (score(&plus), score(&base)),
            lab,
            held_out,
            markers: rules.markers.clone(),
            schedule: schedule.clone(),
            base,
        })
    }

    /// What the controls of a chosen candidate do: differences of means with exchanged labels, and random directions.
    pub(super) fn controls(
        &mut self,
        best: &Candidate,
        making: &PromptSides,
        seed: u64,
    ) -> Result<(Vec<CandidateScores>, Vec<CandidateScores>)> {
        let at = Site::ResidPre.at(best.layer);
        let mut read = |prompts: &TokenizedPrompts| -> Result<Vec<Vec<f32>>> {
            let row = |tokens: &Vec<u32>| {
                let run = Run::plain(tokens.clone()).under(&self.schedule);
                let recording = self.lab.run_one(&Pass {
                    record: vec![at],
                    ..Pass::of(run)
                })?;
                let row = recording
                    .get(at)?
                    .narrow(0, tokens.len() - best.position, 1)?;
                Ok(row
                    .to_dtype(DType::F32)?
                    .flatten_all()?
                    .host_vec1::<f32>()?)
            };
            prompts.iter().map(row).collect()
        };
        let (plus, minus) = (read(&making.plus)?, read(&making.minus)?);
        let mean = |rows: &[Vec<f32>]| {
            let mut sum = vec![0f64; best.vector.len()];
            rows.iter().for_each(|row| add(&mut sum, row));
            sum.iter_mut().for_each(|x| *x /= rows.len().max(1) as f64);
            sum
        };
        let (mut shuffled, mut random) = (Vec::new(), Vec::new());
        for draw in 0..DRAWS {
            let seed = draw_seed(seed, draw);
            let (p, m) = exchange(&plus, &minus, false, seed);
            let apart = mean(&p)
                .into_iter()
                .zip(mean(&m))
                .map(|(p, m)| (p - m) as f32);
            let apart: Vec<f32> = apart.collect();
            let scale = norm(&best.vector) / norm(&apart).max(f32::MIN_POSITIVE);
            let apart: Vec<f32> = apart.into_iter().map(|x| x * scale).collect();
            shuffled.push(self.outcome(best.layer, &apart)?.scores());
            let other = random_like(&best.vector, seed);
            random.push(self.outcome(best.layer, &other)?.scores());
        }
        Ok((shuffled, random))
    }

    /// What a vector measured at `resid_pre` of a layer does.
    pub(super) fn outcome(&mut self, layer: usize, vector: &[f32]) -> Result<CandidateOutcome> {
        // Of length zero, where both sides' tokens are alike: it is no edit, and the scores are those of none.
        if norm(vector) <= NOTHING {
            return Ok(CandidateOutcome {
                ablation: vec![self.unedited.0],
                addition: vec![self.unedited.1],
                kl: vec![0.0],
            });
        }
        let at = Site::ResidPre.at(layer);
        let origin = DirectionOrigin {
            revision: self.lab.model.card.revision.clone(),
            ..DirectionOrigin::default()
        };
        let rows = vec![(at, vector.to_vec())];
        let direction = Direction { rows, origin };
        self.lab.directions.insert(CANDIDATE.into(), direction);
        let scores = self.measure(at);
        self.lab.directions.remove(CANDIDATE);
        scores
    }

    /// The candidate ablated on both sides and added on one, in one pass.
    fn measure(&mut self, at: Address) -> Result<CandidateOutcome> {
        let with = |op: fn(DirectionName) -> Op, place| {
            let op = op(DirectionName(CANDIDATE.into()));
            self.schedule.and(&Edit::new(op, place))
        };
        let ablated = with(Op::ProjectOut, EditPlace::Writes);
        let added = with(Op::Add, EditPlace::At(at));
        let (plus, minus) = (&self.held_out.plus, &self.held_out.minus);
        let sides = [(plus, &ablated), (minus, &ablated), (minus, &added)];
        let rows = sides.iter().flat_map(|(prompts, schedule)| {
            prompts.iter().map(|prompt| PassRow {
                tokens: prompt.clone(),
                ..PassRow::edited((*schedule).clone())
            })
        });
        let found = self.lab.run(&Pass {
            rows: rows.collect(),
            ..Pass::prompts(&[], &self.schedule, whole_rows())
        })?;
        if !found.iter().all(Capture::is_finite) {
            return Ok(CandidateOutcome {
                ablation: vec![f64::NAN],
                addition: vec![f64::NAN],
                kl: vec![f64::NAN],
            });
        }
        let stats = found.into_iter().filter_map(|mut row| row.output.pop());
        let stats: Vec<RowStats> = stats.collect();
        let (ablated_plus, rest) = stats.split_at(plus.len());
        let (ablated_minus, added_minus) = rest.split_at(minus.len());
        let pairs = self.base.iter().zip(ablated_minus);
        let odds = |rows: &[RowStats]| -> Vec<f64> {
            rows.iter()
                .map(|row| behaviour(&row.logits, &self.markers))
                .collect()
        };
        Ok(CandidateOutcome {
            ablation: odds(ablated_plus),
            addition: odds(added_minus),
            kl: pairs
                .map(|(p, q)| divergence(&p.logits, &q.logits))
                .collect(),
        })
    }
}
