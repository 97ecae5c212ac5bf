//! Gradients as values: of which scalar of a pass, with respect to which of its values, and what they came to.
//!
//! A scalar is a number of the model's own output after one position, or the inner product of a given vector with the value at
//! an address, whose gradient is a vector-Jacobian product. `lab/runner` carries it out ([`super::pass::Pass::gradient`]).
//! Invariant: a gradient is that of the pass as it runs, with its edits, patches and weights as they are stored; what is
//! chosen on the way is held, as automatic differentiation holds it: which experts a token visits, where a condition
//! holds, which edges are cut. To take the gradient of something else, add a variant of [`Scalar`] and its arm in the runner.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::Tensor;

use super::target::LogitTarget;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::network::finite;
use crate::model::network::site::{Address, Site};

/// A number whose gradient is taken.
#[derive(Clone, Debug)]
pub enum Scalar {
    /// The logit of a token, or the difference of two tokens' logits, which is that of their log-probabilities too.
    Logit(LogitTarget),
    /// The natural log-probability of a token.
    LogProbability(u32),
    /// KL(given ‖ model's own), nats, from these natural log-probabilities `[vocab]`.
    Kl(Arc<Vec<f32>>),
    /// `v · x` for the value `x` at an address: its gradient is the vector-Jacobian product of `v`.
    Along {
        at: Address,
        /// As many numbers as the value of one position has.
        vector: Tensor,
    },
    /// The products of several vectors with the value at an address, each a scalar of its own: their gradients are rows of a
    /// Jacobian, and are taken together.
    Each {
        at: Address,
        /// `[n, width]`: in each row as many numbers as the value of one position has.
        vectors: Tensor,
    },
}

impl Scalar {
    /// Refuses what the model does not have.
    fn check(&self, model: &Model) -> Result<()> {
        let vocab = model.card.vocab;
        let tokens = match self {
            Self::Logit(target) => target.tokens(),
            Self::LogProbability(token) => vec![*token],
            Self::Kl(given) if given.len() == vocab => Vec::new(),
            Self::Kl(given) => {
                let expected = format!("{vocab} log-probabilities");
                return Err(Error::argument("kl", given.len().to_string(), expected));
            }
            Self::Along { at, .. } | Self::Each { at, .. } => {
                model.offers(*at)?;
                Vec::new()
            }
        };
        match tokens.iter().find(|token| **token as usize >= vocab) {
            Some(token) => {
                let expected = format!("the id of a token below {vocab}");
                Err(Error::argument("token", token.to_string(), expected))
            }
            None => Ok(()),
        }
    }

    /// How many scalars they are.
    pub(crate) fn vectors(&self) -> Result<usize> {
        match self {
            Self::Each { vectors, .. } => Ok(vectors.dim(0)?),
            Self::Logit(_) | Self::LogProbability(_) | Self::Kl(_) | Self::Along { .. } => Ok(1),
        }
    }

    /// The address of the value that they are products with, if they are such products.
    pub(crate) fn at(&self) -> Option<Address> {
        match self {
            Self::Along { at, .. } | Self::Each { at, .. } => Some(*at),
            Self::Logit(_) | Self::LogProbability(_) | Self::Kl(_) => None,
        }
    }

    /// One of them.
    pub(crate) fn one(&self, number: usize) -> Result<Self> {
        Ok(match self {
            Self::Each { at, vectors } => Self::Along {
                at: *at,
                vector: vectors.get(number)?,
            },
            Self::Logit(_) | Self::LogProbability(_) | Self::Kl(_) | Self::Along { .. } => {
                self.clone()
            }
        })
    }
}

/// What is asked of a pass: the gradient of a scalar with respect to values at positions.
#[derive(Clone, Debug)]
pub struct GradientRequest {
    pub of: Scalar,
    /// The scalar of every row of the pass, where rows differ in it: numbers of the output alone. Empty: [`GradientRequest::of`] for all.
    pub each: Vec<Scalar>,
    /// The position after which the output is read; with [`Scalar::Along`] and [`Scalar::Each`] that of the value.
    pub after: usize,
    /// With those, the first of several positions up to `after` over whose values the product is summed; none for one alone.
    pub from: Option<usize>,
    /// With respect to which values: as they flow on, after the edits there.
    pub at: Vec<Address>,
    /// At which positions, in any order.
    pub positions: Vec<usize>,
}

/// What a gradient came to.
#[derive(Clone, Debug, Default)]
pub struct Gradient {
    /// The scalar itself; of [`Scalar::Each`] the first.
    pub scalar: f32,
    /// By address, f32, shaped as in [`crate::model::network::site::SITES`] with the asked positions in the place of the tokens
    /// (of the queries, for attention's scores and probabilities). What the scalar does not depend on has zeros: positions
    /// after its own, values that come after its own, experts that were not chosen. With [`Scalar::Each`] an axis of the `n`
    /// vectors comes first.
    pub at: HashMap<Address, Tensor>,
}

impl Gradient {
    /// The gradient with respect to the values at an address.
    ///
    /// # Errors
    ///
    /// When it was not asked for.
    pub fn get(&self, at: Address) -> Result<&Tensor> {
        self.at.get(&at).ok_or_else(|| Error::Refused {
            address: at.to_string(),
            why: "no gradient was taken there. Ask for it in the pass.".into(),
        })
    }
}

impl Gradient {
    /// Whether all its numbers are some.
    pub(crate) fn is_finite(&self) -> Result<bool> {
        let verdicts = self.at.values().map(finite::values);
        let verdicts = verdicts.collect::<Result<Vec<_>>>()?;
        Ok(self.scalar.is_finite() && finite::passed(&verdicts)?)
    }
}

impl GradientRequest {
    /// Refuses what the model or the text does not have.
    pub(crate) fn check(&self, model: &Model, tokens: usize) -> Result<()> {
        for position in self.positions.iter().chain([&self.after]) {
            if *position >= tokens {
                let expected = format!("a position from 0 to {}", tokens.saturating_sub(1));
                return Err(Error::argument("position", position.to_string(), expected));
            }
        }
        self.at.iter().try_for_each(|at| model.offers(*at))?;
        if let Some(from) = self.from {
            let in_blocks = self.of.at().is_some_and(|at| at.site.spec().layered);
            if from > self.after || !in_blocks {
                let expected = format!(
                    "a position from 0 to {}, for a value in a block",
                    self.after
                );
                return Err(Error::argument("from", from.to_string(), expected));
            }
        }
        if let Some(at) = self.each.iter().find_map(Scalar::at) {
            return Err(Error::Refused {
                address: at.to_string(),
                why: "rows may differ in a number of the output alone. Ask for products with this value in passes of their own.".into(),
            });
        }
        self.each
            .iter()
            .chain([&self.of])
            .try_for_each(|scalar| scalar.check(model))
    }

    /// The scalar of a row.
    pub(crate) fn of_row(&self, row: usize) -> &Scalar {
        self.each.get(row).unwrap_or(&self.of)
    }

    /// The positions whose values are multiplied, where the scalar is a product.
    pub(crate) fn multiplied(&self) -> std::ops::Range<usize> {
        self.from.unwrap_or(self.after)..self.after + 1
    }

    /// The lowest block that has to be gone through backwards: that of the earliest address.
    pub(crate) fn lowest(&self, layers: usize) -> usize {
        let blocks = self.at.iter().map(|at| block(*at, layers).unwrap_or(0));
        blocks.min().unwrap_or(layers)
    }

    /// The block in which the scalar is taken; the number of blocks where that is behind them, none where it is before.
    pub(crate) fn source(&self, layers: usize) -> Option<usize> {
        match self.of.at() {
            None => Some(layers),
            Some(at) => block(at, layers),
        }
    }
}

/// The block of an address; the number of blocks for what lies behind them, none for what enters the first.
fn block(at: Address, layers: usize) -> Option<usize> {
    if at.site == Site::Embed {
        None
    } else if at.site.spec().layered {
        Some(usize::from(at.layer))
    } else {
        Some(layers)
    }
}
