//! How good a direction between two lists of prompts is: what it separates that it was not made from.
//!
//! Every list is split into halves. A direction of one half's prompts orders the other half's: AUROC, the share of pairs of a plus and
//! a minus prompt in which the plus prompt lies farther along it; both halves take turns. The two directions' cosine says how much of
//! them is the lists' and not the prompts'. Beside both stands the control: the same with labels that are exchanged at random, in
//! several draws. A difference of means has a length in either case, so a length alone says nothing. Invariant: no prompt is judged by a
//! direction that it is part of.

use super::contrast::{Contrast, Method};
use super::labels::FEWEST;
use crate::edit::receipt::control_bound;
use crate::lab::draws::{DRAWS, draw_seed};

/// The quality of a direction at one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct DirectionQuality {
    /// Held-out AUROC, mean of both halves.
    pub auroc: f64,
    /// The cosine of the directions of the two halves.
    pub cosine: f64,
    /// The length of the direction of all prompts.
    pub length: f64,
    /// The same three with shuffled labels, in every draw.
    pub shuffled: Vec<[f64; 3]>,
}

impl Contrast {
    /// The quality of the direction at each measured layer; none where a list has too few prompts to be split.
    pub fn quality(&self, method: Method, seed: u64) -> Option<Vec<DirectionQuality>> {
        let (plus, minus) = self.counts();
        if plus < FEWEST || minus < FEWEST {
            return None;
        }
        let own = self.separated(method);
        let shuffled: Vec<Vec<[f64; 3]>> = (0..DRAWS)
            .map(|draw| {
                self.shuffled(method, draw_seed(seed, draw))
                    .separated(method)
            })
            .collect();
        let layers = own.into_iter().enumerate();
        let of = layers.map(|(layer, [auroc, cosine, length])| DirectionQuality {
            auroc,
            cosine,
            length,
            shuffled: shuffled.iter().map(|draw| draw[layer]).collect(),
        });
        Some(of.collect())
    }

    /// Held-out AUROC, split-half cosine and length at each layer.
    fn separated(&self, method: Method) -> Vec<[f64; 3]> {
        let halves = [0, 1].map(|half| self.half(half));
        let vectors = halves.each_ref().map(|half| half.vectors(method));
        let whole = self.vectors(method);
        let layer = |layer: usize| {
            let [a, b] = [&vectors[0][layer], &vectors[1][layer]];
            let held_out = [halves[1].auroc(layer, a), halves[0].auroc(layer, b)];
            let length = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
            let dot: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            let cosine = dot / (length(a) * length(b)).max(f64::MIN_POSITIVE);
            [
                f64::midpoint(held_out[0], held_out[1]),
                cosine,
                length(&whole[layer]),
            ]
        };
        (0..whole.len()).map(layer).collect()
    }
}

impl DirectionQuality {
    /// In a sentence, with the control.
    pub fn sentence(&self, seed: u64) -> String {
        let spread = |i: usize| {
            let all: Vec<f64> = self.shuffled.iter().map(|draw| draw[i]).collect();
            let low = all.iter().copied().fold(f64::INFINITY, f64::min);
            let high = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mean = all.iter().sum::<f64>() / all.len().max(1) as f64;
            (mean, low, high)
        };
        let [auroc, cosine, length] = [0, 1, 2].map(|i| {
            let (mean, low, high) = spread(i);
            format!("{mean:.2} ({low:.2} to {high:.2})")
        });
        let draws: Vec<f32> = self.shuffled.iter().map(|draw| draw[0] as f32).collect();
        let weak = control_bound(&draws)
            .is_some_and(|bound| self.auroc <= f64::from(bound).min(1.0 - 1e-9));
        format!(
            "held-out AUROC {:.3}{}, split-half cosine {:.2}, length {:.2}; with shuffled labels, {} draws, seed {seed}: AUROC {auroc}, cosine {cosine}, length {length}",
            self.auroc,
            if weak {
                " (NO MORE THAN A SHUFFLED DRAW)"
            } else {
                ""
            },
            self.cosine,
            self.length,
            self.shuffled.len()
        )
    }
}
