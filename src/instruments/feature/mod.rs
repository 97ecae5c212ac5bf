//! Single features of a dictionary: the card of one, a search for them, and which of them wrote a logit.
//!
//! Invariant: a feature is written `NAME#1234`, and `NAME#LAYER/1234` in a set of several layers, where NAME is what was given as the
//! dictionary. To add a question about single features, write a file here and a word in the list of instruments.

pub mod card;
mod follows;
pub mod logits;
pub mod search;
mod sum;

use std::rc::Rc;

pub use crate::dictionaries::feature_name::FeatureName;
use crate::dictionaries::index::{FeatureIndex, LayerIndex, OpenIndexes};
use crate::dictionaries::labels::FeatureLabels;
use crate::dictionaries::opened::{
    DictionarySet, OpenDictionaries, PlacedDictionary, named, none_named,
};
use crate::error::{Error, Result};
use crate::figure::{Entry, FeatureHandle, TableRow};
use crate::lab::Lab;
use crate::text;

/// A name of a dictionary wider than this is left out of the names of features in a figure.
const WIDE: usize = 16;

/// The dictionaries that a parameter names, with what belongs to them.
struct GivenDictionary {
    /// As it was given.
    name: String,
    set: Rc<DictionarySet>,
    labels: Rc<FeatureLabels>,
    index: Option<Rc<FeatureIndex>>,
}

/// What the parameters say of a dictionary.
struct DictionaryFiles<'a> {
    dictionary: &'a str,
    labels: &'a str,
    index: Option<&'a std::path::Path>,
}

impl GivenDictionary {
    /// Opens it, with labels and index; each is read once.
    fn open(files: &DictionaryFiles, lab: &Lab) -> Result<Self> {
        let open = lab.derived::<OpenDictionaries>();
        let name = named(files.dictionary, &lab.model.card).ok_or_else(none_named)?;
        let set = open.get(&name, lab)?;
        let index = match files.index {
            None => None,
            Some(path) => {
                let indexes = lab.derived::<OpenIndexes>();
                Some(indexes.get(path, &name, &set, &lab.model)?)
            }
        };
        let labels = files.labels.trim();
        let labels = match &set.labels {
            Some(own) if labels.is_empty() => open.labels(own)?,
            Some(_) | None => open.labels(std::path::Path::new(labels))?,
        };
        Ok(Self {
            name,
            set,
            labels,
            index,
        })
    }

    /// The dictionaries of the set at a layer, or all.
    fn at(&self, layer: Option<usize>) -> Result<Vec<&PlacedDictionary>> {
        let all = self.set.dictionaries.iter();
        let found: Vec<&PlacedDictionary> = all
            .filter(|d| layer.is_none_or(|layer| layer == layer_of(d)))
            .collect();
        if found.is_empty() {
            let layers = self.set.dictionaries.iter();
            let layers: Vec<String> = layers.map(|d| layer_of(d).to_string()).collect();
            let expected = format!("a layer with a dictionary: {}", layers.join(", "));
            return Err(Error::argument(
                "layer",
                layer.unwrap_or_default(),
                expected,
            ));
        }
        Ok(found)
    }

    /// The dictionary of a feature.
    fn of(&self, feature: &FeatureName) -> Result<&PlacedDictionary> {
        let found = self.at(feature.layer)?;
        let [one] = found[..] else {
            let layers: Vec<String> = found.iter().map(|d| layer_of(d).to_string()).collect();
            return Err(Error::argument(
                "feature",
                feature.feature,
                format!(
                    "a feature with its layer, such as {}/{}: this set has layers {}",
                    layer_of(found[0]),
                    feature.feature,
                    layers.join(", ")
                ),
            ));
        };
        if feature.feature as usize >= one.dictionary.features() {
            return Err(crate::dictionaries::in_stream::no_feature(
                one,
                feature.feature,
            ));
        }
        Ok(one)
    }

    /// A feature as it is written; without the name of the dictionary where that is long, such as a path.
    fn spell(&self, placed: &PlacedDictionary, feature: u32) -> String {
        let name = text::visible(self.name.as_bytes());
        let name = if text::width(&name) > WIDE { "" } else { &name };
        if self.set.dictionaries.len() == 1 {
            format!("{name}#{feature}")
        } else {
            format!("{name}#{}/{feature}", layer_of(placed))
        }
    }

    /// A feature as edits name it, with its activation where it is active.
    fn handle(
        &self,
        placed: &PlacedDictionary,
        feature: u32,
        activation: Option<f32>,
    ) -> FeatureHandle {
        let several = self.set.dictionaries.len() > 1;
        FeatureHandle {
            dictionary: self.name.clone(),
            layer: several.then_some(layer_of(placed) as u16),
            feature,
            place: placed.written_at(),
            activation,
        }
    }

    /// Says what `#1234` stands for where the name is left out.
    fn note(&self) -> Option<String> {
        let name = text::visible(self.name.as_bytes());
        (text::width(&name) > WIDE).then(|| format!("#1234 is feature 1234 of {name}"))
    }

    fn label(&self, placed: &PlacedDictionary, feature: u32) -> &str {
        self.labels.get(layer_of(placed), feature)
    }

    fn index_of(&self, placed: &PlacedDictionary) -> Option<&LayerIndex> {
        self.index.as_ref()?.layer(layer_of(placed))
    }
}

/// The layer that a dictionary reads.
fn layer_of(placed: &PlacedDictionary) -> usize {
    placed.reads.first().map_or(0, |at| usize::from(at.layer))
}

/// Drops columns of rows in which nothing stands, with their names.
fn without_empty(columns: &[&'static str], rows: &mut [TableRow]) -> Vec<&'static str> {
    let kept: Vec<usize> = (0..columns.len())
        .filter(|i| {
            let empty = |row: &TableRow| match row.entries.get(*i) {
                Some(Entry::Text(words)) => words.is_empty(),
                Some(Entry::Missing) => true,
                Some(Entry::Whole(_) | Entry::Number(_)) | None => false,
            };
            *i == 0 || !rows.iter().all(empty)
        })
        .collect();
    for row in rows.iter_mut() {
        let entries = std::mem::take(&mut row.entries).into_iter().enumerate();
        row.entries = entries
            .filter(|(i, _)| kept.contains(i))
            .map(|(_, entry)| entry)
            .collect();
    }
    kept.into_iter().map(|i| columns[i]).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_is_read_with_or_without_layer_and_dictionary() {
        let read = |given: &str| {
            let found = FeatureName::parse(given).unwrap();
            (
                found.dictionary.unwrap_or_default(),
                found.layer,
                found.feature,
            )
        };
        assert_eq!(read("12"), (String::new(), None, 12));
        assert_eq!(read(" #12 "), (String::new(), None, 12));
        assert_eq!(read("3/12"), (String::new(), Some(3), 12));
        assert_eq!(read("sae#12"), ("sae".into(), None, 12));
        assert_eq!(read("a/b#c#3/12"), ("a/b#c".into(), Some(3), 12));
        for bad in [
            "",
            "x",
            "sae#",
            "a/b",
            "3/",
            "/3",
            "-1",
            "sae#x/1",
            "99999999999",
        ] {
            assert!(FeatureName::parse(bad).is_err(), "{bad}");
        }
    }
}
