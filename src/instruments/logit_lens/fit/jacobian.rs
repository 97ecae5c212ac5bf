//! The Jacobian lens: the mean Jacobian of the last state with respect to the state after each block (Gurnee et al. 2026,
//! 2607.15495; its reference implementation `anthropics/jacobian-lens`).
//!
//! `J̄_ℓ = E[∂x^{L−1}/∂x^ℓ]`. Of a prompt, row `d` of the Jacobian after block ℓ is the mean over the positions `p` of `Σ_{p' ≥ p}
//! ∂x^{L−1}_{p'}[d] / ∂x^ℓ_p`, where `p` and `p'` go over the same positions: all but the first ones, where attention sinks are, and the
//! last. The lens is the mean over prompts, each of one weight. Invariant: two fits merge into what one fit of all their prompts is, to
//! rounding.

use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::model::network::site::Site;
use crate::vectors::jacobian::{JacobianRequest, jacobian_rows};

/// How many positions of a prompt are left out at its beginning, as in the reference implementation.
pub const SKIPPED: usize = 16;

/// How many tokens a prompt has there.
pub const LENGTH: usize = 128;

/// The sums of the Jacobians of some prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct JacobianFit {
    /// `d_model`.
    pub width: usize,
    /// By block, from the first to the last but one: `[d_model, d_model]`, row after row.
    sums: Vec<Vec<f64>>,
    pub prompts: usize,
    /// By prompt: `‖J̄_n − J̄_{n−1}‖ / ‖J̄_n‖` over all blocks together; 1 for the first.
    pub changes: Vec<f64>,
}

impl JacobianFit {
    /// A fit to a model of so many blocks, without prompts.
    ///
    /// # Errors
    ///
    /// When the model has one block: the state after the last one is read without a map.
    pub fn new(layers: usize, width: usize) -> Result<Self> {
        if layers < 2 {
            return Err(Error::argument(
                "model",
                format!("{layers} block"),
                "a model of two blocks or more: the state after the last one needs no map",
            ));
        }
        Ok(Self {
            width,
            sums: vec![vec![0.0; width * width]; layers - 1],
            prompts: 0,
            changes: Vec::new(),
        })
    }

    /// A fit that goes on from means over some prompts.
    pub fn from_means(means: &[Vec<f32>], width: usize, prompts: usize) -> Self {
        let sum = |mean: &Vec<f32>| {
            mean.iter()
                .map(|x| f64::from(*x) * prompts as f64)
                .collect()
        };
        Self {
            width,
            sums: means.iter().map(sum).collect(),
            prompts,
            changes: Vec::new(),
        }
    }

    /// The blocks after which there is a map.
    pub fn blocks(&self) -> usize {
        self.sums.len()
    }

    /// The mean after a block, `[d_model, d_model]`, row after row.
    pub fn mean(&self, block: usize) -> Vec<f32> {
        let count = self.prompts.max(1) as f64;
        self.sums[block]
            .iter()
            .map(|x| (x / count) as f32)
            .collect()
    }

    /// Adds the Jacobians of a prompt.
    ///
    /// # Errors
    ///
    /// When the prompt is too short, numbers are not finite, or the work is stopped: then nothing was added.
    pub fn add(&mut self, lab: &mut Lab, tokens: &[u32], skipped: usize) -> Result<()> {
        let own = jacobians(lab, tokens, skipped, self.blocks())?;
        let n = (self.prompts + 1) as f64;
        let (mut change, mut size) = (0f64, 0f64);
        for (sum, own) in self.sums.iter_mut().zip(&own) {
            for (sum, x) in sum.iter_mut().zip(own) {
                let before = if self.prompts == 0 {
                    0.0
                } else {
                    *sum / (n - 1.0)
                };
                *sum += f64::from(*x);
                let after = *sum / n;
                change += (after - before).powi(2);
                size += after.powi(2);
            }
        }
        self.prompts += 1;
        self.changes
            .push((change / size.max(f64::MIN_POSITIVE)).sqrt());
        Ok(())
    }

    /// Adds the prompts of another fit of the same model.
    pub fn merge(&mut self, other: &Self) {
        for (sum, own) in self.sums.iter_mut().zip(&other.sums) {
            sum.iter_mut().zip(own).for_each(|(a, b)| *a += b);
        }
        self.prompts += other.prompts;
    }
}

/// The Jacobians of one prompt after each block, `[d_model, d_model]`, row after row.
fn jacobians(
    lab: &mut Lab,
    tokens: &[u32],
    skipped: usize,
    blocks: usize,
) -> Result<Vec<Vec<f32>>> {
    let end = tokens.len().saturating_sub(1);
    if end <= skipped {
        return Err(Error::argument(
            "prompt",
            format!("{} tokens", tokens.len()),
            format!(
                "more than {} tokens: the first {skipped} and the last are left out",
                skipped + 1
            ),
        ));
    }
    let layers: Vec<usize> = (0..blocks).collect();
    let request = JacobianRequest {
        tokens,
        end: Site::ResidPost.at(blocks),
        after: skipped..=end - 1,
        layers: &layers,
        positions: (skipped..end).collect(),
    };
    jacobian_rows(lab, &request, |gradient| Ok(gradient.mean(1)?))
}
