//! The values of a block that the way back needs, and what is called at every site of it.
//!
//! Invariant: values are those of the pass as it ran, and are read in f32.

use std::collections::HashMap;

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::model::network::numbers::{on_numbers, plain};
use crate::model::network::site::{Address, Site};
use crate::model::network::tap::Tap;

/// What is called at every site on the way back, with the gradient with respect to its value.
pub trait AdjointTap {
    /// Whether the gradient at an address is looked at or changed.
    fn wants(&self, at: Address) -> bool;
    /// Called with the gradient at a site, `[gradients, tokens, ..]` (`[gradients, heads, tokens, positions]` for scores and
    /// probabilities, which cannot be changed); what is added to it goes on.
    fn visit(&mut self, at: Address, gradient: &mut [f32]) -> Result<()>;
}

/// A tap that keeps every value of a block.
#[derive(Debug, Default)]
pub struct BlockValues(pub HashMap<Address, Tensor>);

impl Tap for BlockValues {
    fn visit(&mut self, at: Address, x: Tensor) -> Result<Tensor> {
        self.0.insert(at, x.clone());
        Ok(x)
    }

    // What is between a norm and its gain follows from what the norm reads.
    fn wants(&self, at: Address) -> bool {
        at.site != Site::MlpNormed
    }
}

/// The values of a pass at the sites of one block.
pub(super) struct Values<'a> {
    pub of: &'a HashMap<Address, Tensor>,
    pub layer: usize,
}

impl Values<'_> {
    /// A value, f32 and contiguous.
    pub fn get(&self, site: Site) -> Result<Tensor> {
        let at = site.at(self.layer);
        let own = self.of.get(&at);
        plain(own.ok_or_else(|| Error::Engine(format!("{at} was not kept")))?)
    }

    /// The numbers of a value.
    pub fn numbers(&self, site: Site) -> Result<Vec<f32>> {
        on_numbers(&self.get(site)?, <[f32]>::to_vec)
    }

    /// The sum of two values.
    pub fn sum(&self, a: Site, b: Site) -> Result<Tensor> {
        Ok((self.get(a)? + self.get(b)?)?)
    }
}
