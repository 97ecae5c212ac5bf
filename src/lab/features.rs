//! Dictionaries as edits and conditions see them: what the lab asks of whoever can open one.
//!
//! The lab knows no format of a dictionary. It is given an `super::lab::OpenDictionary`, which `dictionaries/handles.rs` is, and
//! gets [`FeatureDictionary`]s back: features by number, read at some addresses and written to others. By which names they are
//! known is in `lab/named_features.rs`.
//! Invariant: rows do not depend on each other. To ask something else of a dictionary, add a method to [`FeatureDictionary`].

use std::fmt;
use std::sync::Arc;

use candle_core::Tensor;

use crate::error::Result;
use crate::model::network::site::Address;

/// The active features of a row: number and activation, by number.
pub type ActiveRow = Vec<(u32, f32)>;

/// The activation of a feature in a row; 0 where it is not active.
pub fn activation(row: &[(u32, f32)], feature: u32) -> f32 {
    let found = row.binary_search_by_key(&feature, |(f, _)| *f);
    found.map_or(0.0, |i| row[i].1)
}

/// A dictionary on a model. Rows of inputs are `[rows, width]`, one slice for each address that it reads.
pub trait FeatureDictionary: fmt::Debug + Send + Sync {
    /// What edits call it.
    fn name(&self) -> &str;
    /// How many features it has.
    fn count(&self) -> usize;
    /// Where it reads.
    fn reads(&self) -> &[Address];
    /// Where it writes, by target.
    fn writes(&self) -> &[Address];
    /// What a reader of a receipt must know of it; empty where that is nothing.
    fn caution(&self) -> String;

    /// Prepares some of its features to be read again and again.
    ///
    /// # Errors
    ///
    /// When its file does not give their vectors.
    fn reader(&self, features: &[u32]) -> Result<Arc<dyn FeatureReader>>;

    /// All active features of rows.
    ///
    /// # Errors
    ///
    /// When an input does not fit, or a product is not finite.
    fn active(&self, inputs: &[&[f32]]) -> Result<Vec<ActiveRow>>;

    /// What it makes of rows at a target, `[rows, width]`.
    ///
    /// # Errors
    ///
    /// Those of [`FeatureDictionary::active`].
    fn reconstruct(&self, target: usize, inputs: &[&[f32]]) -> Result<Vec<f32>>;

    /// The vector that one unit of a feature adds at a target, `[width]`, before a norm of the input is undone.
    ///
    /// # Errors
    ///
    /// When there is no such feature or target.
    fn direction(&self, target: usize, feature: u32) -> Result<Vec<f32>>;
}

/// Some features of a dictionary, ready to be read at every token.
pub trait FeatureReader: fmt::Debug + Send + Sync {
    /// Their activations in rows of inputs.
    ///
    /// # Errors
    ///
    /// Those of [`FeatureDictionary::active`].
    fn read(&self, target: usize, inputs: &[&[f32]]) -> Result<FeatureRows>;

    /// As [`FeatureReader::read`] with every feature taken as active, through which gradients pass: the activations
    /// `[batch, tokens, features]` and the factor `[batch, tokens, 1]`, f32, of inputs `[batch, tokens, width]`.
    ///
    /// # Errors
    ///
    /// When an input does not fit.
    fn differentiable(&self, target: usize, inputs: &[Tensor]) -> Result<(Tensor, Tensor)>;
}

/// Activations of some features.
#[derive(Clone, Debug, Default)]
pub struct FeatureRows {
    /// 0 where a feature is not active: `[rows, features]`.
    pub activations: Vec<f32>,
    /// By what each row multiplies what its features write to the target, because the norm of its input is undone there:
    /// `[rows]`, 1 without such a norm.
    pub undo: Vec<f32>,
}
