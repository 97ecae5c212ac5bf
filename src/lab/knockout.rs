//! Attention knockout: some positions cannot attend to some others, in some heads (Geva et al. 2023, 2304.14767, section 4).
//!
//! A knockout adds `ln(1 - strength)` to the scores of the edges it covers, before the softmax: the odds of each edge are
//! multiplied by `1 - strength`, and at strength 1 the score is -inf. Invariants: a position can always attend to itself, so
//! that no row is left without an edge; scores of other edges keep their bits; rows still sum to one. The control knocks out as
//! many random other edges of the same query and heads, seeded. To choose edges by another rule, add it to
//! [`KnockoutRule::hidden_sources`].

use candle_core::{D, DType, Tensor};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::edit::positions::Positions;
use crate::error::Result;
use crate::model::Fingerprint;
use crate::model::network::tap::PassSpan;

/// The edges of one layer that are knocked out.
#[derive(Clone, Debug)]
pub(crate) struct KnockoutRule {
    /// The query heads; empty for all.
    pub(crate) heads: Vec<u32>,
    /// The source positions, resolved: an edge is knocked out if any of these covers its source.
    pub(crate) sources: Vec<Positions>,
    /// The share of the odds that is removed, at most 1.
    pub(crate) strength: f64,
    /// The attention window of the layer: how many positions a query sees, itself included; none for all.
    pub(crate) window: Option<usize>,
    /// The seed of a control, which knocks out as many random other edges instead; none for the knockout itself.
    pub(crate) control: Option<u64>,
}

/// What a knockout did in one pass.
pub(crate) struct KnockoutEffect {
    /// The scores after the knockout, `[batch, heads, tokens, positions]`.
    pub(crate) scores: Tensor,
    /// The (row, token) values with at least one edge knocked out, as indices `row * tokens + token`.
    pub(crate) hit: Vec<u32>,
    /// The share of attention that moved to other positions in each of these values: half the sum of the absolute changes of
    /// the probabilities, averaged over the heads. `[hit]`, f32.
    pub(crate) moved: Tensor,
}

impl KnockoutRule {
    /// The positions, out of those that a query would see, to which it cannot attend; never the query itself.
    pub(crate) fn hidden_sources(&self, query: usize, prompt: usize) -> Vec<usize> {
        let first = self.window.map_or(0, |w| (query + 1).saturating_sub(w));
        let covers = |source| self.sources.iter().any(|s| s.covers(source, prompt));
        let (hidden, mut others): (Vec<usize>, Vec<usize>) =
            (first..query).partition(|source| covers(*source));
        let Some(seed) = self.control else {
            return hidden;
        };
        // The first position is an attention sink in many models, and no edge to it is like another. A control knocks it out only
        // where the knockout does too.
        if !hidden.contains(&0) {
            others.retain(|source| *source > 0);
        }
        let mut hash = Fingerprint::default();
        hash.write(&seed.to_le_bytes());
        hash.write(&query.to_le_bytes());
        others.shuffle(&mut StdRng::seed_from_u64(hash.finish()));
        others.truncate(hidden.len());
        others
    }

    /// Knocks out edges in scores `[batch, heads, tokens, positions]`, f32, at the (row, token) values that `covered` marks.
    /// None if there is no edge to knock out.
    pub(crate) fn apply(
        &self,
        scores: &Tensor,
        covered: &[bool],
        span: PassSpan,
        prompt: usize,
    ) -> Result<Option<KnockoutEffect>> {
        let (batch, heads, tokens, positions) = scores.dims4()?;
        let mut flags = vec![0u8; batch * heads * tokens * positions];
        let chosen = |head: usize| self.heads.is_empty() || self.heads.contains(&(head as u32));
        let mut hit = Vec::new();
        for token in 0..tokens {
            let rows = (0..batch).filter(|row| covered.get(row * tokens + token) == Some(&true));
            let rows: Vec<usize> = rows.collect();
            if rows.is_empty() {
                continue;
            }
            let hidden = self.hidden_sources(span.start + token, prompt);
            if hidden.is_empty() {
                continue;
            }
            for row in rows {
                hit.push((row * tokens + token) as u32);
                for head in (0..heads).filter(|h| chosen(*h)) {
                    let line = ((row * heads + head) * tokens + token) * positions;
                    hidden.iter().for_each(|source| flags[line + source] = 1);
                }
            }
        }
        if hit.is_empty() {
            return Ok(None);
        }
        hit.sort_unstable();
        let shape = (batch, heads, tokens, positions);
        let flags = Tensor::from_vec(flags, shape, scores.device())?;
        let less = (scores + (1.0 - self.strength).ln())?;
        let after = flags.where_cond(&less, scores)?;
        let apart = (probabilities(&after.detach())? - probabilities(&scores.detach())?)?.abs()?;
        let count = if self.heads.is_empty() {
            heads
        } else {
            self.heads.len()
        };
        let moved = (apart.sum(D::Minus1)?.sum(1)? / (2.0 * count as f64))?;
        let index = Tensor::new(hit.as_slice(), scores.device())?;
        let moved = moved.flatten_all()?.index_select(&index, 0)?;
        Ok(Some(KnockoutEffect {
            scores: after,
            hit,
            moved: moved.to_dtype(DType::F32)?,
        }))
    }
}

fn probabilities(scores: &Tensor) -> Result<Tensor> {
    Ok(candle_nn::ops::softmax_last_dim(&scores.contiguous()?)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rule(sources: Positions) -> KnockoutRule {
        KnockoutRule {
            heads: Vec::new(),
            sources: vec![sources],
            strength: 1.0,
            window: None,
            control: None,
        }
    }

    #[test]
    fn a_query_loses_what_lies_before_it_and_never_itself() {
        let all = rule(Positions::All);
        assert_eq!(all.hidden_sources(3, 9), [0, 1, 2]);
        assert_eq!(all.hidden_sources(0, 9), [0; 0]);
        assert_eq!(rule(Positions::Span(2, 7)).hidden_sources(4, 9), [2, 3]);
        let near = KnockoutRule {
            window: Some(2),
            ..all
        };
        assert_eq!(
            near.hidden_sources(4, 9),
            [3],
            "the others it does not see anyway"
        );
    }

    #[test]
    fn the_control_cuts_as_many_other_edges_and_leaves_the_first_position_alone() {
        for seed in 0..30 {
            let control = |sources, query| {
                let rule = KnockoutRule {
                    control: Some(seed),
                    ..rule(sources)
                };
                let mut drawn = rule.hidden_sources(query, 20);
                assert_eq!(drawn, rule.hidden_sources(query, 20), "a seed decides");
                drawn.sort_unstable();
                drawn
            };
            let drawn = control(Positions::Span(3, 6), 12);
            assert_eq!(drawn.len(), 3);
            assert!(drawn.iter().all(|j| ![0, 3, 4, 5].contains(j) && *j < 12));
            assert_eq!(
                control(Positions::Span(1, 9), 12),
                [9, 10, 11],
                "no more than are left, without the first"
            );
            assert!(control(Positions::Span(20, 30), 12).is_empty());
        }
        let draws = (0..9u64).map(|seed| {
            let rule = KnockoutRule {
                control: Some(seed),
                ..rule(Positions::Span(1, 2))
            };
            rule.hidden_sources(19, 20)
        });
        let draws: Vec<Vec<usize>> = draws.collect();
        assert!(draws.iter().any(|d| *d != draws[0]), "seeds differ");
    }
}
