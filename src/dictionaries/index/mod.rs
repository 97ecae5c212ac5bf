//! A corpus index: of every feature of a dictionary, how often it is active in a text, how strongly, and where most.
//!
//! The text is read in windows of so many tokens, each with the begin token, if the model has one. The first position of a window
//! and special tokens are left out, as in the training of dictionaries. Of a window only the strongest place of a feature is
//! among its strongest contexts, so that these are different places. Invariants: the index is the same however often it was
//! interrupted; it carries fingerprints of model, dictionary and text, and is refused for others; a file is checked whole before
//! a number of it is used. To keep something else of every feature, add a field to [`LayerIndex`] and its tensor in
//! [`FeatureIndex::bytes`] and [`FeatureIndex::parse`].
//!
//! Sources: Bricken et al. 2023 (density, strongest contexts); Gao et al. 2024 (2406.04093).

mod build;
mod file;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::opened::{DictionarySet, PlacedDictionary};
use crate::error::{Error, Result};
use crate::lab::features::ActiveRow;
use crate::model::{Fingerprint, Model};
use crate::text;

/// The bins of a histogram: powers of two from `2^LOWEST`.
pub const BINS: usize = 24;
const LOWEST: i32 = -8;

/// The most contexts that are kept of a feature.
pub const MOST_KEPT: usize = 200;

/// What stands for no place.
const NOWHERE: u32 = u32::MAX;

/// What an index is to be made of.
#[derive(Clone, Debug)]
pub struct IndexRequest {
    /// The dictionary, as it was named.
    pub dictionary: String,
    /// The name of the text.
    pub text: String,
    /// Its tokens, without a begin token.
    pub tokens: Vec<u32>,
    /// The most tokens of a window.
    pub context: usize,
    /// How many of the strongest contexts are kept of a feature.
    pub keep: usize,
    /// One layer of a set; none for all.
    pub layer: Option<usize>,
}

/// Of one dictionary of a set, what an index belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexedDictionary {
    /// The layer that it reads.
    pub layer: usize,
    pub features: usize,
    /// Where it reads and what it reconstructs.
    pub reads: Vec<String>,
    pub writes: Vec<String>,
    /// Of its matrices and biases.
    pub fingerprint: String,
}

/// What an index was made of; stored as JSON in the file's metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexOrigin {
    /// The model argument.
    pub model: String,
    /// Fingerprint of its weights.
    pub revision: String,
    /// How weight matrices were stored.
    pub dtype: String,
    /// The dictionary, as it was named.
    pub dictionary: String,
    pub dictionaries: Vec<IndexedDictionary>,
    /// The name of the text.
    pub text: String,
    /// Of the tokens that were read of it.
    pub text_fingerprint: String,
    /// The begin token of every window.
    pub bos: Option<u32>,
    /// The most tokens of a window, with the begin token.
    pub context: usize,
    /// How many of the strongest contexts are kept.
    pub keep: usize,
    /// How many windows have been read.
    pub windows: usize,
    /// How many positions were counted in them.
    pub positions: usize,
    /// The version of lmscope.
    pub version: String,
}

/// A place of the text at which a feature is strongly active.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FeatureContext {
    pub act: f32,
    /// The token of the text, from 0.
    pub at: usize,
}

/// The features of one dictionary.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerIndex {
    /// The layer that the dictionary reads.
    pub layer: usize,
    /// How many positions were counted.
    positions: usize,
    keep: usize,
    /// At how many positions a feature is active, `[features]`.
    active: Vec<u32>,
    /// The sum of its activations, `[features]`.
    sum: Vec<f64>,
    /// The activations of the strongest contexts, strongest first, 0 where there are fewer: `[features, keep]`.
    act: Vec<f32>,
    /// Their places, `[features, keep]`.
    at: Vec<u32>,
    /// How many activations have a magnitude in each power of two, `[features, BINS]`.
    histogram: Vec<u32>,
}

/// The index of the dictionaries of a set over a text.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureIndex {
    pub origin: IndexOrigin,
    /// The text.
    tokens: Vec<u32>,
    layers: Vec<LayerIndex>,
}

impl LayerIndex {
    fn new(layer: usize, features: usize, keep: usize) -> Self {
        Self {
            layer,
            positions: 0,
            keep,
            active: vec![0; features],
            sum: vec![0.0; features],
            act: vec![0.0; features * keep],
            at: vec![NOWHERE; features * keep],
            histogram: vec![0; features * BINS],
        }
    }

    pub fn features(&self) -> usize {
        self.active.len()
    }

    /// The share of positions at which a feature is active; none for a feature that the index does not have.
    pub fn density(&self, feature: u32) -> Option<f32> {
        let active = f64::from(*self.active.get(feature as usize)?);
        Some((active / self.positions.max(1) as f64) as f32)
    }

    /// The mean activation where it is active; 0 for one that never is.
    pub fn mean(&self, feature: u32) -> Option<f32> {
        let active = f64::from(*self.active.get(feature as usize)?);
        let sum = self.sum.get(feature as usize)?;
        Some((sum / active.max(1.0)) as f32)
    }

    /// The activation with the largest magnitude, with its sign; 0 for a feature that is never active.
    pub fn largest(&self, feature: u32) -> Option<f32> {
        let first = (feature as usize).checked_mul(self.keep)?;
        self.act.get(first).copied()
    }

    /// The strongest contexts, strongest first, at most one of every window.
    pub fn contexts(&self, feature: u32) -> Vec<FeatureContext> {
        let first = (feature as usize).saturating_mul(self.keep);
        let span = first..first.saturating_add(self.keep);
        let (Some(acts), Some(places)) = (self.act.get(span.clone()), self.at.get(span)) else {
            return Vec::new();
        };
        let places = places.iter().take_while(|at| **at != NOWHERE);
        let all = acts.iter().zip(places);
        all.map(|(act, at)| FeatureContext {
            act: *act,
            at: *at as usize,
        })
        .collect()
    }

    /// How many activations of a feature have a magnitude in each power of two, from the first to the last that is not empty.
    pub fn histogram(&self, feature: u32) -> Vec<usize> {
        let first = (feature as usize).saturating_mul(BINS);
        let bins = self.histogram.get(first..first.saturating_add(BINS));
        let bins = bins.unwrap_or_default();
        let some = |n: &u32| *n > 0;
        let (from, to) = (bins.iter().position(some), bins.iter().rposition(some));
        match (from, to) {
            (Some(from), Some(to)) => bins[from..=to].iter().map(|n| *n as usize).collect(),
            _ => Vec::new(),
        }
    }

    /// How many features are never active.
    pub fn silent(&self) -> usize {
        self.active.iter().filter(|n| **n == 0).count()
    }

    /// Some other features with about the density of this one that have contexts: those next to it in the order of densities.
    pub fn similar(&self, feature: u32, count: usize) -> Vec<u32> {
        let Some(own) = self.active.get(feature as usize) else {
            return Vec::new();
        };
        let others = self.active.iter().enumerate();
        let mut others: Vec<(u32, u32)> = others
            .filter(|(f, n)| *f != feature as usize && **n > 0)
            .map(|(f, n)| (n.abs_diff(*own), f as u32))
            .collect();
        others.sort_unstable();
        others.truncate(count);
        others.into_iter().map(|(_, f)| f).collect()
    }

    /// Takes the features of the counted positions of a window; the first of them is this token of the text.
    fn take(&mut self, rows: &[ActiveRow], first: usize) {
        let mut strongest: BTreeMap<u32, (f32, u32)> = BTreeMap::new();
        for (i, row) in rows.iter().enumerate() {
            let at = (first + i) as u32;
            for (feature, act) in row {
                let f = *feature as usize;
                self.active[f] += 1;
                self.sum[f] += f64::from(*act);
                self.histogram[f * BINS + bin(*act)] += 1;
                let held = strongest.entry(*feature).or_insert((*act, at));
                if act.abs() > held.0.abs() {
                    *held = (*act, at);
                }
            }
        }
        for (feature, (act, at)) in strongest {
            let span = feature as usize * self.keep..(feature as usize + 1) * self.keep;
            let (acts, places) = (&mut self.act[span.clone()], &mut self.at[span]);
            let place = acts.partition_point(|held| held.abs() >= act.abs());
            if place < self.keep {
                acts[place..].rotate_right(1);
                places[place..].rotate_right(1);
                (acts[place], places[place]) = (act, at);
            }
        }
        self.positions += rows.len();
    }
}

/// The bin of an activation.
fn bin(act: f32) -> usize {
    let power = act.abs().max(f32::MIN_POSITIVE).log2().floor() as i32;
    (power - LOWEST).clamp(0, BINS as i32 - 1) as usize
}

/// Of a dictionary: shapes, biases, and rows of its matrices at equal distances.
pub fn fingerprint(placed: &PlacedDictionary) -> String {
    const ROWS: usize = 32;
    let mut digest = Fingerprint::default();
    let dictionary = &placed.dictionary;
    let features = dictionary.features();
    let mut numbers = |numbers: &[f32]| {
        for number in numbers {
            digest.write(&number.to_le_bytes());
        }
    };
    numbers(&dictionary.bias);
    let some = (0..features).step_by((features / ROWS).max(1));
    for f in some {
        for input in &dictionary.inputs {
            numbers(&input.encoder.row(f));
        }
        if let Some(row) = dictionary.direction(0, f) {
            numbers(&row);
        }
    }
    digest.write(dictionary.gate.name().as_bytes());
    format!("{:016x}", digest.finish())
}

impl IndexedDictionary {
    fn of(placed: &PlacedDictionary) -> Self {
        let spell = |all: &[crate::model::network::site::Address]| {
            all.iter().map(ToString::to_string).collect()
        };
        Self {
            layer: usize::from(placed.reads[0].layer),
            features: placed.dictionary.features(),
            reads: spell(&placed.reads),
            writes: spell(&placed.writes),
            fingerprint: fingerprint(placed),
        }
    }
}

impl IndexOrigin {
    /// What differs from another origin, but for how far the work is.
    fn differs(&self, other: &Self) -> Option<&'static str> {
        if self.revision != other.revision {
            Some("model")
        } else if self.dtype != other.dtype {
            Some("--dtype")
        } else if self.dictionaries != other.dictionaries {
            Some("dictionary")
        } else if self.text_fingerprint != other.text_fingerprint {
            Some("text, or another number of tokens")
        } else if (self.context, self.keep, self.bos) != (other.context, other.keep, other.bos) {
            Some("--context or --keep")
        } else {
            None
        }
    }
}

impl FeatureIndex {
    /// Tokens of the text in a window.
    fn room(&self) -> usize {
        (self.origin.context - usize::from(self.origin.bos.is_some())).max(1)
    }

    /// How many windows the text has.
    pub fn windows(&self) -> usize {
        self.tokens.len().div_ceil(self.room())
    }

    pub fn is_complete(&self) -> bool {
        self.origin.windows >= self.windows()
    }

    /// The features of the dictionary that reads a layer.
    pub fn layer(&self, layer: usize) -> Option<&LayerIndex> {
        self.layers.iter().find(|one| one.layer == layer)
    }

    /// The activation of a feature with the largest magnitude in the text; none for one that the index does not have, 0 for one that
    /// is never active.
    pub fn largest(&self, layer: usize, feature: u32) -> Option<f32> {
        self.layer(layer)?.largest(feature)
    }

    /// The tokens of a window up to and including a token of the text.
    pub fn before(&self, at: usize) -> &[u32] {
        let from = at / self.room() * self.room();
        self.tokens.get(from..=at).unwrap_or_default()
    }

    /// The token of the text that follows one.
    pub fn after(&self, at: usize) -> Option<u32> {
        self.tokens.get(at + 1).copied()
    }

    /// What it was measured on, in a few words.
    pub fn about(&self) -> String {
        format!(
            "{} positions of {}",
            text::count(self.origin.positions as u64),
            text::visible(self.origin.text.as_bytes())
        )
    }

    /// Refuses an index of another model or dictionary, and one that is not finished.
    ///
    /// # Errors
    ///
    /// Says what it was made of.
    pub fn check(&self, set: &DictionarySet, model: &Model) -> Result<()> {
        let given = || text::visible(self.origin.dictionary.as_bytes());
        if self.origin.revision != model.card.revision {
            return Err(Error::argument(
                "index",
                format!(
                    "an index of {} ({})",
                    text::visible(self.origin.model.as_bytes()),
                    text::visible(self.origin.revision.as_bytes())
                ),
                format!(
                    "an index of this model, {} ({}); `lmscope dictionary index` makes it",
                    model.card.name, model.card.revision
                ),
            ));
        }
        let held = set.dictionaries.iter().map(IndexedDictionary::of);
        let held: Vec<IndexedDictionary> = held.collect();
        if !self
            .origin
            .dictionaries
            .iter()
            .all(|one| held.contains(one))
        {
            return Err(Error::argument(
                "index",
                format!("an index of {}", given()),
                "an index of this dictionary at the same place; `lmscope dictionary index` makes it",
            ));
        }
        if !self.is_complete() {
            return Err(Error::argument(
                "index",
                format!("{} of {} windows", self.origin.windows, self.windows()),
                "a finished index; the same `lmscope dictionary index` goes on with it",
            ));
        }
        Ok(())
    }

    /// Reads an index for a set of dictionaries on a model.
    ///
    /// # Errors
    ///
    /// When the file is of another kind, or as [`FeatureIndex::check`].
    pub fn open(path: &Path, set: &DictionarySet, model: &Model) -> Result<Self> {
        let index = Self::read(path)?;
        index.check(set, model)?;
        Ok(index)
    }
}

/// The indexes that were opened, by file and dictionary; kept by the lab.
#[derive(Debug, Default)]
pub struct OpenIndexes(RefCell<BTreeMap<(PathBuf, String), Rc<FeatureIndex>>>);

impl OpenIndexes {
    /// The index of a file for the dictionaries that were `given`, read once.
    ///
    /// # Errors
    ///
    /// As [`FeatureIndex::open`].
    pub fn get(
        &self,
        path: &Path,
        given: &str,
        set: &DictionarySet,
        model: &Model,
    ) -> Result<Rc<FeatureIndex>> {
        let key = (path.to_path_buf(), given.to_string());
        if let Some(held) = self.0.borrow().get(&key) {
            return Ok(held.clone());
        }
        let index = Rc::new(FeatureIndex::open(path, set, model)?);
        self.0.borrow_mut().insert(key, index.clone());
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_every_window_the_strongest_place_and_the_first_of_equals() {
        let mut layer = LayerIndex::new(0, 3, 2);
        layer.take(
            &[vec![(0, 1.0), (2, -3.0)], vec![(0, 2.0)], vec![(0, 2.0)]],
            1,
        );
        layer.take(&[vec![(0, 2.0)], vec![(2, 0.5)]], 5);
        layer.take(&[vec![(0, 5.0)]], 9);
        let found = |f: u32| -> Vec<(f32, usize)> {
            let all = layer.contexts(f).into_iter();
            all.map(|c| (c.act, c.at)).collect()
        };
        assert_eq!(found(0), [(5.0, 9), (2.0, 2)]);
        assert_eq!(found(1), []);
        assert_eq!(found(2), [(-3.0, 1), (0.5, 6)]);
        assert_eq!(layer.largest(2), Some(-3.0));
        assert_eq!(layer.largest(3), None);
        assert_eq!(layer.density(0), Some(5.0 / 6.0));
        assert_eq!(layer.mean(0), Some(12.0 / 5.0));
        assert_eq!(layer.mean(1), Some(0.0));
        assert_eq!(layer.histogram(0), [1, 3, 1]);
        assert_eq!(layer.histogram(2), [1, 0, 1]);
        assert_eq!((layer.silent(), layer.similar(0, 9)), (1, vec![2]));
    }

    #[test]
    fn bins_are_powers_of_two() {
        assert_eq!((bin(1.0), bin(1.99), bin(2.0)), (8, 8, 9));
        assert_eq!((bin(-1.0), bin(0.0), bin(1e30)), (8, 0, BINS - 1));
    }
}
