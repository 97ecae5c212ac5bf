//! Features by the names that edits and directions use for them.
//!
//! Invariant: a feature that a dictionary does not have, and a layer that a set does not have, are refused here. To name features
//! in another way, see [`crate::edit::feature`].

use std::sync::Arc;

use super::features::FeatureDictionary;
use super::lab::Lab;
use crate::edit::Edit;
use crate::edit::direction::{Direction, DirectionOrigin};
use crate::edit::feature::FeatureChoice;
use crate::edit::op::UnitChoice;
use crate::error::{Error, Result};
use crate::model::network::site::Address;

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
