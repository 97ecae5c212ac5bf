//! Selecting a direction: candidates from every layer and position, scored by what they do (Arditi et al. 2024, 2406.11717,
//! section 2.3 and appendix C; formulas as in the code that goes with it).
//!
//! A candidate is the difference of means of `resid_pre` of a layer at one position, in f64. Its scores, on held-out prompts:
//! *ablation*, the behaviour's log-odds on plus prompts with the candidate projected out of every write; *addition*, the
//! same on minus prompts with the candidate added, unnormalised, at its own layer; and *kl*, how far ablation moves the next
//! token of minus prompts. Nothing here knows about refusal: any two behaviours, and any tokens that mark the first.
//!
//! Invariant: prompts that measure a candidate never made it. To add a reason to discard, add a variant of [`CandidateVerdict`].

mod measure;

use candle_core::DType;

use measure::{CandidateMeasurer, SelectionHalf};

use super::function_vector::add;
use crate::edit::direction::{NOTHING, norm};
use crate::edit::schedule::Schedule;
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::capture::{After, Output};
use crate::lab::pass::Pass;
use crate::lab::readout::RowStats;
use crate::lab::run::Run;
use crate::lab::sample::log_probs;
use crate::model::host::ToHost;
use crate::model::network::finite::order;
use crate::model::network::site::{Address, Site};

/// Prompts as token ids.
pub type TokenizedPrompts = Vec<Vec<u32>>;

/// The behaviour and its absence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptSides {
    /// Prompts that show it.
    pub plus: TokenizedPrompts,
    /// Prompts that do not.
    pub minus: TokenizedPrompts,
}

/// What decides.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectionRules {
    /// Candidate positions, from the end of a prompt; 1 is the last token.
    pub positions: Vec<usize>,
    /// Tokens that mark the behaviour.
    pub markers: Vec<u32>,
    /// Layers from this share of the depth on are too late.
    pub depth: f64,
    /// The most KL on minus prompts, nats.
    pub kl: f64,
    /// Whether to keep only prompts that behave as their list says.
    pub filter: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CandidateScores {
    /// Log-odds of the markers on plus prompts with the candidate projected out of every write; lower is better.
    pub ablation: f64,
    /// Log-odds of the markers on minus prompts with the candidate added at its layer; higher is better.
    pub addition: f64,
    /// KL(base ‖ ablated) of the next token of minus prompts, nats; lower is better.
    pub kl: f64,
}

/// Whether a candidate may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CandidateVerdict {
    /// The candidate may be chosen.
    Kept,
    /// A score is no number.
    NotANumber,
    /// Discarded: its layer is too late.
    Late,
    /// Ablating it moves unrelated prompts too far.
    Kl,
    /// Adding it does not bring the behaviour.
    Weak,
}

impl CandidateVerdict {
    /// One word, for cells; empty for what is kept.
    pub fn word(self) -> &'static str {
        match self {
            Self::Kept => "",
            Self::NotANumber => "nan",
            Self::Late => "late",
            Self::Kl => "kl",
            Self::Weak => "weak",
        }
    }

    /// The rules in the order of the reference code: no number, late, KL, weak.
    pub fn of(
        scores: &CandidateScores,
        layer: usize,
        layers: usize,
        rules: &SelectionRules,
    ) -> Self {
        // The reference code cuts the product down to a whole layer.
        let late = (layers as f64 * rules.depth) as usize;
        if [scores.ablation, scores.addition, scores.kl]
            .iter()
            .any(|s| s.is_nan())
        {
            Self::NotANumber
        } else if layer >= late {
            Self::Late
        } else if scores.kl > rules.kl {
            Self::Kl
        } else if scores.addition < 0.0 {
            Self::Weak
        } else {
            Self::Kept
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// `resid_pre` of this layer.
    pub layer: usize,
    /// From the end of the prompt; 1 is the last token.
    pub position: usize,
    /// `[d_model]`.
    pub vector: Vec<f32>,
    pub scores: CandidateScores,
    /// Whether it may be chosen.
    pub verdict: CandidateVerdict,
}

/// What a chosen direction is held against, at its layer and of its length.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectionControls {
    /// Differences of means of the same prompts with labels that are exchanged at random, in several draws.
    pub shuffled: Vec<CandidateScores>,
    /// Random directions, in several draws.
    pub random: Vec<CandidateScores>,
    /// The choice's scores on each held-out prompt: ablation on plus, addition on minus prompts.
    pub each: [Vec<f64>; 2],
    /// Ablation and addition on every other held-out prompt of the candidate that is best on the rest: unlike the choice's own scores
    /// they are not lifted by having been selected. None where a list has fewer than four held-out prompts.
    pub judged: Option<(f64, f64)>,
}

/// Every candidate, and the choice.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// By position, then layer.
    pub candidates: Vec<Candidate>,
    /// The kept candidate with the lowest ablation score.
    pub chosen: Option<usize>,
    /// Unedited log-odds: of plus prompts, of minus prompts.
    pub unedited: (f64, f64),
    /// What the choice is held against; none without a choice.
    pub controls: Option<SelectionControls>,
    /// How many prompts made the candidates and how many measured them: plus, minus.
    pub made: (usize, usize),
    /// See `made`.
    pub measured: (usize, usize),
    /// Prompts left out because they did not behave as their list says: plus, minus.
    pub left_out: (usize, usize),
}

/// The behaviour's log-odds after a row of logits: `log(P + ε) − log(1 − P + ε)` with ε = 1e-8, in f64, where P is the
/// probability of all markers together.
pub fn behaviour(logits: &[f32], markers: &[u32]) -> f64 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |z: f32| f64::from(z - top).exp();
    let total: f64 = logits.iter().map(|z| weight(*z)).sum();
    let marked: f64 = markers.iter().map(|m| weight(logits[*m as usize])).sum();
    let share = marked / total;
    (share + 1e-8).ln() - (1.0 - share + 1e-8).ln()
}

/// `Σ p·(log(p + 1e-6) − log(q + 1e-6))` in f64, from logits: the reference code's KL, which an unlikely token cannot blow up.
pub fn divergence(base: &[f32], edited: &[f32]) -> f64 {
    let shares = |logits: &[f32]| log_probs(logits).into_iter().map(|l| f64::from(l).exp());
    shares(base)
        .zip(shares(edited))
        .map(|(p, q)| p * ((p + 1e-6).ln() - (q + 1e-6).ln()))
        .sum()
}

/// The scores are sums over the vocabulary in f64, so rows are read whole.
fn whole_rows() -> Output {
    Output::whole(After::Last(1))
}

fn mean_behaviour(rows: &[RowStats], markers: &[u32]) -> f64 {
    average(rows.iter().map(|row| behaviour(&row.logits, markers)))
}

/// The mean of some numbers; of none 0.
pub(crate) fn average(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.sum::<f64>() / count
}

/// Tokens that begin the answers of plus prompts and not those of minus prompts: where the mean probability differs by
/// at least a twentieth, at most eight of them, with that difference.
///
/// # Errors
///
/// When the lists begin their answers alike.
pub fn find_markers(
    lab: &mut Lab,
    sides: &PromptSides,
    schedule: &Schedule,
) -> Result<Vec<(u32, f64)>> {
    let mut ahead = vec![0f64; lab.model.known_tokens()];
    for (prompts, sign) in [(&sides.plus, 1.0), (&sides.minus, -1.0)] {
        let share = sign / prompts.len().max(1) as f64;
        for row in lab.last_of(prompts, schedule, whole_rows())? {
            for (ahead, log) in ahead.iter_mut().zip(log_probs(&row.logits)) {
                *ahead += share * f64::from(log).exp();
            }
        }
    }
    let mut found: Vec<(u32, f64)> = (0u32..)
        .zip(ahead)
        .filter(|(_, ahead)| *ahead >= 0.05)
        .collect();
    found.sort_by(|a, b| order(b.1, a.1));
    found.truncate(8);
    if found.is_empty() {
        let expected = "texts separated by |, because the answers to both lists begin alike";
        return Err(Error::argument("markers", "", expected));
    }
    Ok(found)
}

/// How many tokens the chat template puts after a user's words; none without a template.
pub fn after_instruction(lab: &Lab) -> usize {
    // Words that share no last token: what they have in common is the template's.
    let texts: Vec<Vec<u32>> = ["alpha", "7", "("]
        .iter()
        .filter_map(|words| lab.model.encode(words, true).ok())
        .collect();
    let Some(first) = texts.first().filter(|_| texts.len() == 3) else {
        return 0;
    };
    (1..=first.len())
        .take_while(|n| {
            texts
                .iter()
                .all(|t| t.len() > *n && t[t.len() - n] == first[first.len() - n])
        })
        .count()
}

/// Makes and scores every candidate. `making` and `held_out` are different prompts.
///
/// # Errors
///
/// When a side is empty, or becomes so by the filter; when a prompt is shorter than a candidate position; when the work is
/// stopped.
pub fn select(
    lab: &mut Lab,
    making: &PromptSides,
    held_out: &PromptSides,
    rules: &SelectionRules,
    schedule: &Schedule,
    seed: u64,
) -> Result<Selection> {
    let mut left_out = (0, 0);
    let (making, held_out) = if rules.filter {
        (
            behaves_as_listed(lab, making, rules, schedule, &mut left_out)?,
            behaves_as_listed(lab, held_out, rules, schedule, &mut left_out)?,
        )
    } else {
        (making.clone(), held_out.clone())
    };
    for (prompts, list) in [
        (&making.plus, "plus"),
        (&making.minus, "minus"),
        (&held_out.plus, "plus"),
        (&held_out.minus, "minus"),
    ] {
        if prompts.is_empty() {
            return Err(Error::argument(
                list,
                format!(
                    "no prompt is left (on {} plus and {} minus prompts the model does not behave as their list says)",
                    left_out.0, left_out.1
                ),
                "two prompts or more on which it does; other markers, or filter=no, may help",
            ));
        }
    }
    let layers = lab.model.card.layers;
    let plus = means(lab, &making.plus, rules, schedule)?;
    let minus = means(lab, &making.minus, rules, schedule)?;
    let mut gauge = CandidateMeasurer::new(lab, held_out, rules, schedule)?;
    let mut candidates = Vec::with_capacity(layers * rules.positions.len());
    let mut outcomes = Vec::with_capacity(layers * rules.positions.len());
    let total = (layers * rules.positions.len() + 1) as f32;
    for (i, position) in rules.positions.iter().enumerate() {
        for layer in 0..layers {
            gauge.lab.report(candidates.len() as f32 / total)?;
            let pair = plus[i][layer].iter().zip(&minus[i][layer]);
            let vector: Vec<f32> = pair.map(|(p, m)| (p - m) as f32).collect();
            let outcome = gauge.outcome(layer, &vector)?;
            let scores = outcome.scores();
            outcomes.push(outcome);
            candidates.push(Candidate {
                layer,
                position: *position,
                verdict: CandidateVerdict::of(&scores, layer, layers, rules),
                vector,
                scores,
            });
        }
    }
    let kept = (0..candidates.len()).filter(|i| {
        let candidate = &candidates[*i];
        candidate.verdict == CandidateVerdict::Kept && norm(&candidate.vector) > NOTHING
    });
    let kept: Vec<usize> = kept.collect();
    let lowest = |score: &dyn Fn(usize) -> f64| {
        let all = kept.iter().copied();
        all.min_by(|a, b| score(*a).total_cmp(&score(*b)))
    };
    let chosen = lowest(&|i| candidates[i].scores.ablation);
    let controls = match chosen {
        None => None,
        Some(i) => {
            let (shuffled, random) = gauge.controls(&candidates[i], &making, seed)?;
            let judge = lowest(&|i| {
                let chooses = outcomes[i].half(SelectionHalf::Chooses);
                chooses.map_or(f64::NAN, |(ablation, _)| ablation)
            });
            let judged = judge.and_then(|i| outcomes[i].half(SelectionHalf::Judges));
            Some(SelectionControls {
                shuffled,
                random,
                each: [outcomes[i].ablation.clone(), outcomes[i].addition.clone()],
                judged,
            })
        }
    };
    Ok(Selection {
        chosen,
        controls,
        unedited: gauge.unedited,
        made: (making.plus.len(), making.minus.len()),
        measured: (gauge.held_out.plus.len(), gauge.held_out.minus.len()),
        left_out,
        candidates,
    })
}

/// The prompts that behave as their list says: plus with log-odds above 0, minus below.
fn behaves_as_listed(
    lab: &mut Lab,
    sides: &PromptSides,
    rules: &SelectionRules,
    schedule: &Schedule,
    left_out: &mut (usize, usize),
) -> Result<PromptSides> {
    let mut keep = |prompts: &TokenizedPrompts, sign: f64| -> Result<TokenizedPrompts> {
        let stats = lab.last_of(prompts, schedule, whole_rows())?;
        let pairs = prompts.iter().zip(&stats);
        Ok(pairs
            .filter(|(_, z)| sign * behaviour(&z.logits, &rules.markers) > 0.0)
            .map(|(p, _)| p.clone())
            .collect())
    };
    let kept = PromptSides {
        plus: keep(&sides.plus, 1.0)?,
        minus: keep(&sides.minus, -1.0)?,
    };
    left_out.0 += sides.plus.len() - kept.plus.len();
    left_out.1 += sides.minus.len() - kept.minus.len();
    Ok(kept)
}

/// Means of `resid_pre`, `[position][layer][d_model]`, in f64.
fn means(
    lab: &mut Lab,
    prompts: &[Vec<u32>],
    rules: &SelectionRules,
    schedule: &Schedule,
) -> Result<Vec<Vec<Vec<f64>>>> {
    let layers = lab.model.card.layers;
    let wanted: Vec<Address> = (0..layers).map(|l| Site::ResidPre.at(l)).collect();
    let width = lab.model.card.d_model;
    let mut sums = vec![vec![vec![0f64; width]; layers]; rules.positions.len()];
    for tokens in prompts {
        let farthest = rules.positions.iter().max().copied().unwrap_or(1);
        if tokens.len() < farthest {
            return Err(Error::argument(
                "positions",
                format!("-{farthest}"),
                format!(
                    "positions that every prompt has; one has {} tokens",
                    tokens.len()
                ),
            ));
        }
        lab.report(0.0)?;
        let run = Run::plain(tokens.clone()).under(schedule);
        let recording = lab.run_one(&Pass {
            record: wanted.clone(),
            ..Pass::of(run)
        })?;
        for (layer, at) in wanted.iter().enumerate() {
            let rows = recording.get(*at)?;
            for (i, position) in rules.positions.iter().enumerate() {
                let row = rows.narrow(0, tokens.len() - position, 1)?;
                let row = row
                    .to_dtype(DType::F32)?
                    .flatten_all()?
                    .host_vec1::<f32>()?;
                add(&mut sums[i][layer], &row);
            }
        }
    }
    let share = 1.0 / prompts.len().max(1) as f64;
    let all = sums.iter_mut().flatten().flatten();
    all.for_each(|s| *s *= share);
    Ok(sums)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use super::*;

    fn rules() -> SelectionRules {
        SelectionRules {
            positions: vec![1],
            markers: vec![0],
            depth: 0.8,
            kl: 0.1,
            filter: true,
        }
    }

    #[test]
    fn log_odds_of_a_half_are_nothing_and_certainty_is_bounded() {
        assert!(behaviour(&[2.0, 2.0], &[0]).abs() < 1e-12);
        assert!((behaviour(&[0.0, 0.0, 0.0, 0.0], &[1, 2, 3]) - 3f64.ln()).abs() < 1e-6);
        let sure = behaviour(&[100.0, 0.0], &[0]);
        assert!((sure - (1.0f64 + 1e-8).ln() + (1e-8f64).ln()).abs() < 1e-6);
        assert_eq!(sure, -behaviour(&[100.0, 0.0], &[1]));
    }

    #[test]
    fn the_divergence_of_itself_is_nothing_and_of_the_impossible_is_bounded() {
        assert_eq!(divergence(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
        let far = divergence(&[50.0, 0.0], &[-50.0, 0.0]);
        assert!(
            (far - (1.0f64 + 1e-6).ln() + (1e-6f64).ln()).abs() < 1e-3,
            "{far}"
        );
    }

    #[test]
    fn candidates_are_discarded_in_the_order_of_the_reference() {
        let good = CandidateScores {
            ablation: -3.0,
            addition: 0.0,
            kl: 0.1,
        };
        let of = |scores: CandidateScores, layer| CandidateVerdict::of(&scores, layer, 8, &rules());
        assert_eq!(
            of(good, 5),
            CandidateVerdict::Kept,
            "both bounds belong to what is kept"
        );
        assert_eq!(of(good, 6), CandidateVerdict::Late, "int(0.8 · 8) = 6");
        assert_eq!(
            of(CandidateScores { kl: 0.11, ..good }, 5),
            CandidateVerdict::Kl
        );
        assert_eq!(
            of(CandidateScores { kl: 0.11, ..good }, 7),
            CandidateVerdict::Late
        );
        assert_eq!(
            of(
                CandidateScores {
                    addition: -0.1,
                    ..good
                },
                5
            ),
            CandidateVerdict::Weak
        );
        let bad = CandidateScores {
            ablation: f64::NAN,
            ..good
        };
        assert_eq!(of(bad, 7), CandidateVerdict::NotANumber);
    }
}
