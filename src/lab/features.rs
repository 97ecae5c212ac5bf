//! Dictionaries as edits and conditions see them: what the lab asks of whoever can open one.
//!
//! The lab knows no format of a dictionary. It is given an [`OpenDictionary`], which `dictionaries/handles.rs` is, and gets
//! [`FeatureDictionary`]s back: features by number, read at some addresses and written to others.
//! Invariant: a feature that a dictionary does not have, and a layer that a set does not have, are refused here. To ask something
//! else of a dictionary, add a method to [`FeatureDictionary`].

use std::fmt;
use std::sync::Arc;

use candle_core::Tensor;

use super::lab::Lab;
use crate::edit::Edit;
use crate::edit::direction::{Direction, DirectionOrigin};
use crate::edit::feature::FeatureChoice;
use crate::edit::op::UnitChoice;
use crate::error::{Error, Result};
use crate::model::network::site::Address;

/// Opens the dictionary of a name or path on the lab's model: one, or a set with one for each of several layers.
pub type OpenDictionary = fn(&Lab, &str) -> Result<Vec<Arc<dyn FeatureDictionary>>>;

/// The active features of a row: number and activation, by number.
pub type ActiveRow = Vec<(u32, f32)>;

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

/// A feature by the name of a direction.
pub(crate) struct NamedFeature {
    pub(crate) dictionary: Arc<dyn FeatureDictionary>,
    pub(crate) number: u32,
    /// What is to be said of the name.
    pub(crate) caution: String,
}

impl Lab {
    /// The dictionaries of a name or path.
    ///
    /// # Errors
    ///
    /// When there is none, or it does not fit the model.
    pub fn dictionaries(&self, name: &str) -> Result<Vec<Arc<dyn FeatureDictionary>>> {
        match self.open_dictionary {
            Some(open) => open(self, name),
            None => Err(Error::Engine(
                "this lab was made without a reader of dictionaries (dictionaries::handles)".into(),
            )),
        }
    }

    /// The dictionary that features belong to.
    ///
    /// # Errors
    ///
    /// When there is none, the set has several layers and none is named, or a number is past the end.
    pub fn dictionary_of(&self, features: &FeatureChoice) -> Result<Arc<dyn FeatureDictionary>> {
        let set = self.dictionaries(&features.dictionary)?;
        let layer = |d: &Arc<dyn FeatureDictionary>| d.reads().first().map_or(0, |at| at.layer);
        let refused = |expected: String| Err(Error::argument("feature", features, expected));
        let mut own = set
            .iter()
            .filter(|d| features.layer.is_none_or(|wanted| layer(d) == wanted));
        let (found, more) = (own.next(), own.next());
        let (Some(found), None) = (found, more) else {
            let layers: Vec<String> = set.iter().map(|d| layer(d).to_string()).collect();
            let example = FeatureChoice {
                layer: set.first().map(layer),
                ..features.clone()
            };
            return refused(format!(
                "the layer of one dictionary of the set (layers {}): {example}",
                layers.join(", ")
            ));
        };
        let count = found.count();
        match features.numbers.iter().find(|f| **f as usize >= count) {
            Some(bad) => refused(format!(
                "features from 0 to {} ({} has {count}), not {bad}",
                count.saturating_sub(1),
                found.name()
            )),
            None => Ok(found.clone()),
        }
    }

    /// The dictionaries whose features an edit changes: one, or a set that is spliced in; none for other edits.
    ///
    /// # Errors
    ///
    /// Those of [`Lab::dictionary_of`].
    pub(crate) fn changed_by(&self, edit: &Edit) -> Result<Vec<Arc<dyn FeatureDictionary>>> {
        let mentions = edit.op.argument().mentions();
        match (mentions.units, mentions.dictionary) {
            (Some(UnitChoice::Features(features)), _) => Ok(vec![self.dictionary_of(features)?]),
            (_, Some(name)) => self.dictionaries(name),
            _ => Ok(Vec::new()),
        }
    }

    /// Whether an edit reads features in one block and changes them in another: rows that share blocks must then be read whole.
    ///
    /// # Errors
    ///
    /// Those of [`Lab::changed_by`].
    pub(crate) fn reads_another_block(&self, edit: &Edit) -> Result<bool> {
        let block = |at: &Address| (at.site.spec().layered, at.layer);
        let across = |d: &Arc<dyn FeatureDictionary>| {
            let pairs = d
                .reads()
                .iter()
                .flat_map(|r| d.writes().iter().map(move |w| (r, w)));
            let mut apart = pairs.filter(|(read, write)| read != write);
            apart.any(|(read, write)| block(read) != block(write) || !read.site.spec().layered)
        };
        Ok(self.changed_by(edit)?.iter().any(across))
    }

    /// The feature that the name of a direction means; none if it means a direction. A dictionary comes before a direction that
    /// is moved by layers, and the caution says so.
    ///
    /// # Errors
    ///
    /// When the name has the form of a feature and means neither.
    pub(crate) fn feature_named(&self, name: &str) -> Result<Option<NamedFeature>> {
        let Some(choice) = FeatureChoice::of_direction(name) else {
            return Ok(None);
        };
        if self.open_dictionary.is_none() || self.directions.contains_key(name) {
            return Ok(None);
        }
        let plain = &choice.dictionary;
        let is_direction =
            self.directions.contains_key(plain) || matches!(Direction::at_path(plain), Ok(Some(_)));
        let opened = self.dictionaries(plain);
        match opened {
            Err(_) if is_direction => return Ok(None),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        let dictionary = self.dictionary_of(&choice)?;
        let number = choice.numbers[0];
        let caution = if is_direction {
            format!(
                "`{plain}` is a direction too; `{name}` means feature {number} of the dictionary, and `{plain}#+{number}` the direction moved by layers"
            )
        } else {
            String::new()
        };
        Ok(Some(NamedFeature {
            dictionary,
            number,
            caution,
        }))
    }

    /// A feature as a direction: its vector at each place that the dictionary writes to; that of a single place can be used
    /// everywhere.
    pub(crate) fn feature_direction(&self, name: &str) -> Result<Option<Direction>> {
        let Some(found) = self.feature_named(name)? else {
            return Ok(None);
        };
        let writes = found.dictionary.writes().iter().enumerate();
        let rows = writes.map(|(target, at)| {
            let vector = found.dictionary.direction(target, found.number)?;
            Ok((*at, vector))
        });
        let cautions = [found.caution, found.dictionary.caution()];
        let origin = DirectionOrigin {
            method: format!("feature {} of {}", found.number, found.dictionary.name()),
            cautions: cautions.into_iter().filter(|c| !c.is_empty()).collect(),
            ..DirectionOrigin::default()
        };
        Ok(Some(Direction {
            rows: rows.collect::<Result<_>>()?,
            origin,
        }))
    }
}
