//! Back-patching for pairs of layers: the state that left the source layer overwrites the state that left the target layer at
//! the same position, and the answer is measured (Biran et al. 2024, 2406.12775, section 6).
//!
//! Invariant: a pair is (source, target), blocks counted from 0, both at `resid_post`; a pair of a layer with itself is the
//! unpatched run. Controls differ from the back-patch only in the vector: the state of the same prompt about another entity or of an
//! unrelated text at the same layer, or random numbers with the norm of the own state. To add a control, add a variant of [`Vector`].

use candle_core::{D, DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::edit::direction::random_like;
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::capture::{Capture, Output};
use crate::lab::pass::{Pass, PassRow, Patch};
use crate::lab::readout::RowStats;
use crate::lab::run::Run;
use crate::lab::sample::NO_RANK;
use crate::lab::target::{first_token, id_of};
use crate::model::Fingerprint;
use crate::model::host::ToHost;
use crate::model::network::site::{Address, Site};

/// A source and a target layer.
pub type SourceAndTarget = (usize, usize);

/// All pairs of layers, the lowest target first, so that rows that join a pass at the same block are neighbours.
pub fn pairs(layers: usize) -> Vec<SourceAndTarget> {
    let all = (0..layers).flat_map(|t| (0..layers).map(move |s| (s, t)));
    all.collect()
}

/// Whether a pair carries a state back to an earlier layer.
pub fn is_backward((source, target): SourceAndTarget) -> bool {
    source > target
}

/// Which vector overwrites the target state.
#[derive(Clone, Copy, Debug)]
pub enum Vector<'a> {
    /// The run's own state.
    Own,
    /// The states of another text, by layer.
    Other(&'a [Tensor]),
    /// The states of several draws of another text, by draw and layer; pairs take turns.
    Draws(&'a [Vec<Tensor>]),
    /// Random numbers with the norm of the own state, drawn for each pair from this seed.
    Random(u64),
}

/// The states that leave every block at a position of a run, `[d_model]` each.
///
/// # Errors
///
/// When the run does not fit into the context, or the work is stopped.
pub fn block_outputs(lab: &mut Lab, run: &Run, position: usize) -> Result<Vec<Tensor>> {
    let layers = lab.model.card.layers;
    let wanted: Vec<Address> = (0..layers).map(|l| Site::ResidPost.at(l)).collect();
    let recording = lab.record(run, &wanted)?;
    let state = |at: &Address| {
        let row = recording.get(*at)?.narrow(0, position, 1)?;
        Ok(row.flatten_all()?.force_contiguous()?)
    };
    wanted.iter().map(state).collect()
}

/// As [`block_outputs`], for a run that is going to be continued from a position.
///
/// # Errors
///
/// When the run does not fit into the context, or the work is stopped.
pub fn block_outputs_from(
    lab: &mut Lab,
    run: &Run,
    from: usize,
    position: usize,
) -> Result<Vec<Tensor>> {
    let layers = lab.model.card.layers;
    let wanted: Vec<Address> = (0..layers).map(|l| Site::ResidPost.at(l)).collect();
    let read = lab.run_one(&Pass {
        from: Some(from),
        record: wanted.clone(),
        ..Pass::of(run.clone())
    })?;
    let state = |at: &Address| Ok(read.get(*at)?.get(position - from)?);
    wanted.iter().map(state).collect()
}

/// The rows of some pairs at a position of a run. `own` are the run's states at that position, by layer. If `renormed`, every
/// vector is scaled to the norm of the state it overwrites.
///
/// # Errors
///
/// When a tensor operation fails.
pub fn trials(
    own: &[Tensor],
    position: usize,
    pairs: &[SourceAndTarget],
    vector: Vector,
    renormed: bool,
) -> Result<Vec<PassRow>> {
    let trial = |(source, target): &SourceAndTarget| {
        let value = match vector {
            Vector::Draws(draws) => {
                draws[draw_of((*source, *target), draws.len())][*source].clone()
            }
            Vector::Own => own[*source].clone(),
            Vector::Other(states) => states[*source].clone(),
            Vector::Random(seed) => {
                let own = &own[*source];
                let numbers = own.to_dtype(DType::F32)?.host_vec1::<f32>()?;
                let seed = Fingerprint::of([seed, *source as u64, *target as u64]);
                let drawn = random_like(&numbers, seed);
                Tensor::new(drawn.as_slice(), own.device())?.to_dtype(own.dtype())?
            }
        };
        let value = if renormed && source != target {
            let factor = length(&own[*target])?;
            (&value * f64::from(factor / length(&value)?.max(f32::MIN_POSITIVE)))?
        } else {
            value
        };
        let at = Site::ResidPost.at(*target);
        Ok(PassRow::patched(vec![Patch::new(at, position, value)]))
    };
    pairs.iter().map(trial).collect()
}

/// Which of several draws a pair takes: neighbours take different ones, and every draw meets every source layer.
pub fn draw_of((source, target): SourceAndTarget, draws: usize) -> usize {
    (source + target) % draws.max(1)
}

/// The norm of a state.
///
/// # Errors
///
/// When a tensor operation fails.
pub fn length(state: &Tensor) -> Result<f32> {
    let wide = state.flatten_all()?.to_dtype(DType::F32)?;
    Ok(wide.sqr()?.sum(D::Minus1)?.sqrt()?.host_scalar()?)
}

/// An answer to test for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedAnswer {
    /// The first token of each of its spellings.
    pub firsts: Vec<u32>,
    /// Its spellings, trimmed and in lower case, to be searched for in the generated text.
    spellings: Vec<String>,
    /// How many tokens are generated; none if the next token decides.
    pub tokens: Option<usize>,
}

/// The result of testing for an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AnswerForms {
    /// The top prediction for the next token.
    pub top: u32,
    /// Total probability of the answer's first tokens.
    pub probability: f32,
    /// How many tokens are more probable than the most probable first token of the answer.
    pub rank: u32,
    /// The generated tokens, if any.
    pub written: Vec<u32>,
    /// Whether the answer was given: it occurs in the generated text or, without generation, is the top prediction.
    pub hit: bool,
}

impl WantedAnswer {
    /// An answer given by its spellings. Their first tokens count as next tokens; if `tokens` is given, their text is searched
    /// for in that many generated tokens.
    ///
    /// # Errors
    ///
    /// When there is no spelling, when a spelling has no token of the model, or when a spelling could never be found in
    /// generated text.
    pub fn new(lab: &Lab, name: &str, spellings: &[String], tokens: Option<usize>) -> Result<Self> {
        let mut firsts = Vec::new();
        for text in spellings {
            let first = first_token(name, text, &lab.model)?;
            if !firsts.contains(&first) {
                firsts.push(first);
            }
        }
        if firsts.is_empty() {
            let expected = "at least one text; several are separated by |";
            return Err(Error::argument(name, "", expected));
        }
        // A token id is replaced by the text of its token.
        let spelled: Vec<String> = spellings
            .iter()
            .map(|text| id_of(text).map_or_else(|| text.clone(), |id| letters(lab, id)))
            .collect();
        Self::from_spellings(lab, name, firsts, &spelled, tokens)
    }

    /// The model's own top prediction as the answer; `name` is the parameter that would set another answer.
    ///
    /// # Errors
    ///
    /// When its text could never be found in generated text, because it ends the text or has no letters.
    pub fn top_prediction(lab: &Lab, name: &str, best: u32, tokens: Option<usize>) -> Result<Self> {
        Self::from_spellings(lab, name, vec![best], &[letters(lab, best)], tokens)
    }

    fn from_spellings(
        lab: &Lab,
        name: &str,
        firsts: Vec<u32>,
        spelled: &[String],
        tokens: Option<usize>,
    ) -> Result<Self> {
        let spellings = searchable(spelled);
        let end = firsts.iter().find(|id| lab.model.is_end(**id));
        if tokens.is_some() && (end.is_some() || spellings.is_empty()) {
            let given = lab.visible(*end.unwrap_or(&firsts[0]));
            let expected = "an answer with letters that can be searched for in the generated text; use measure=probability for this one";
            return Err(Error::argument(name, given, expected));
        }
        Ok(Self {
            firsts,
            spellings,
            tokens,
        })
    }

    /// The output to request of a row for [`WantedAnswer::read`].
    pub fn output(&self) -> Output {
        Output {
            ranks: true,
            ..Output::tokens(&self.firsts)
        }
    }

    /// The result in a row and its continuation.
    pub fn read(&self, lab: &Lab, row: &Capture) -> AnswerForms {
        let (stats, rank) = (row.last(), rank(row.last(), &self.firsts));
        AnswerForms {
            top: stats.first().0,
            probability: stats.share() as f32,
            rank,
            hit: if self.tokens.is_some() {
                self.occurs_in(&self::written_text(lab, &row.tail))
            } else {
                rank == 0
            },
            written: row.tail.clone(),
        }
    }

    /// Whether the answer occurs in a text, ignoring case.
    pub fn occurs_in(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        self.spellings.iter().any(|s| text.contains(s))
    }

    /// The results in rows that all continue a run from a position, in the order of the rows.
    ///
    /// # Errors
    ///
    /// When a row does not fit into the context, or the work is stopped.
    pub fn of(
        &self,
        lab: &mut Lab,
        run: &Run,
        from: usize,
        rows: Vec<PassRow>,
    ) -> Result<Vec<AnswerForms>> {
        let pass = Pass {
            run: run.clone(),
            from: Some(from),
            rows,
            output: self.output(),
            tail: self.tokens.unwrap_or(0),
            ..Pass::default()
        };
        let rows = lab.run(&pass)?;
        Ok(rows.iter().map(|row| self.read(lab, row)).collect())
    }
}

/// How many tokens are more probable than the most probable of `of`; [`NO_RANK`] if the logits are not finite.
pub fn rank(stats: &RowStats, of: &[u32]) -> u32 {
    let ranks = of.iter().map(|id| stats.token(*id).rank);
    ranks.min().unwrap_or(NO_RANK)
}

/// Generated tokens as text, without the end token.
pub fn written_text(lab: &Lab, written: &[u32]) -> String {
    let bytes: Vec<u8> = written
        .iter()
        .filter(|id| !lab.model.is_end(**id))
        .flat_map(|id| lab.model.bytes(*id))
        .collect();
    crate::text::plain(&bytes)
}

/// The text of a token; empty if the token is only a part of a character.
fn letters(lab: &Lab, id: u32) -> String {
    String::from_utf8(lab.model.bytes(id)).unwrap_or_default()
}

/// Spellings prepared for searching: trimmed and in lower case. A spelling of one letter would be found almost anywhere, so it
/// is dropped if there is a longer one.
fn searchable(spellings: &[String]) -> Vec<String> {
    let all: Vec<String> = spellings
        .iter()
        .map(|s| {
            let s = s.trim();
            let inner = s.strip_prefix('"').and_then(|s| s.strip_suffix('"'));
            inner.unwrap_or(s).trim().to_lowercase()
        })
        .filter(|s| !s.is_empty())
        .collect();
    let long: Vec<String> = all
        .iter()
        .filter(|s| s.chars().count() > 1)
        .cloned()
        .collect();
    if long.is_empty() { all } else { long }
}

/// The result of a set of pairs: how many were tried, and how many gave the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PairScore {
    pub pairs: usize,
    /// How many pairs gave the answer.
    pub hits: usize,
}

impl PairScore {
    /// The score over those pairs for which `which` is true.
    pub fn of(
        pairs: &[SourceAndTarget],
        hits: &[bool],
        keep: impl Fn(SourceAndTarget) -> bool,
    ) -> Self {
        let kept = || pairs.iter().zip(hits).filter(|(pair, _)| keep(**pair));
        Self {
            pairs: kept().count(),
            hits: kept().filter(|(_, hit)| **hit).count(),
        }
    }

    /// The share of pairs that gave the answer.
    pub fn share(self) -> f32 {
        self.hits as f32 / self.pairs.max(1) as f32
    }

    /// Whether any pair gave the answer. This is an oracle's rate: choosing that pair requires knowing the answer.
    pub fn any_success(self) -> bool {
        self.hits > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::readout::read_rows;

    #[test]
    fn pairs_cover_every_source_and_target_once() {
        let all = pairs(4);
        assert_eq!(all.len(), 16);
        assert_eq!(all.iter().filter(|p| is_backward(**p)).count(), 6);
        assert!(all.windows(2).all(|w| w[0].1 <= w[1].1), "targets rise");
        assert_eq!(all[1], (1, 0), "source first");
    }

    #[test]
    fn scores_count_what_passes() {
        let all = [(1, 0), (2, 0), (2, 1), (0, 1)];
        let score = PairScore::of(&all, &[true, false, false, true], is_backward);
        assert_eq!(score, PairScore { pairs: 3, hits: 1 });
        assert!(score.any_success() && (score.share() - 1.0 / 3.0).abs() < 1e-6);
        assert!(!PairScore::of(&all, &[false; 4], is_backward).any_success());
    }

    #[test]
    fn ranks_count_what_is_strictly_more_probable() {
        let output = Output {
            ranks: true,
            ..Output::tokens(&[0, 1, 2, 3])
        };
        let read = |row: &[f32]| read_rows(&[row], 4, &output.ask(0, 0)).remove(0);
        let stats = read(&[1.0, 3.0, 2.0, 3.0]);
        assert_eq!(rank(&stats, &[1]), 0);
        assert_eq!(rank(&stats, &[2]), 2);
        assert_eq!(rank(&stats, &[0, 2]), 2);
    }

    #[test]
    fn a_single_letter_is_looked_for_only_when_there_is_nothing_longer() {
        let text =
            |all: &[&str]| searchable(&all.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(text(&[" Rome", "R", " "]), ["rome"]);
        assert_eq!(text(&[" R"]), ["r"]);
        assert_eq!(text(&["\" Mexico City\""]), ["mexico city"]);
    }
}
