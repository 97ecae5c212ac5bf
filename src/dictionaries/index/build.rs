//! The making of an index: windows of a text are read, and what every feature does is noted.
//!
//! Invariant: work that was stopped goes on from its file and ends with the same bytes as unbroken work: windows are read together in
//! the same batches wherever it goes on.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{
    FeatureIndex, IndexOrigin, IndexRequest, IndexedDictionary, LayerIndex, MOST_KEPT, NOWHERE,
};
use crate::dictionaries::captured::{captures, later_values};
use crate::dictionaries::opened::DictionarySet;
use crate::error::{Error, Result};
use crate::file::{self, Overwrite};
use crate::lab::Lab;
use crate::lab::features::ActiveRow;
use crate::model::Fingerprint;

/// Tokens that are read in one pass.
const AT_ONCE: usize = 1024;

/// How often unfinished work is saved.
const SAVE_EVERY: Duration = Duration::from_mins(2);

impl FeatureIndex {
    /// Reads a text and indexes the features of a set over it. Work that is stopped is saved in the file `unfinished`, and goes on
    /// from there.
    ///
    /// # Errors
    ///
    /// When the text is too short, `unfinished` is of other work, numbers are not finite, or the work is stopped.
    pub fn build(
        lab: &mut Lab,
        set: &DictionarySet,
        request: IndexRequest,
        unfinished: &Path,
    ) -> Result<Self> {
        let mut index = Self::begin(lab, set, request)?;
        if unfinished.exists() {
            let held = Self::read(unfinished)?;
            if let Some(what) = held.origin.differs(&index.origin) {
                return Err(Error::bad_file(
                    unfinished,
                    format!("it is unfinished work with another {what}"),
                    "Finish that with its own arguments, delete the file, or name another output.",
                ));
            }
            index = held;
        }
        let done = index.go_on(lab, set, unfinished);
        if matches!(done, Err(Error::Cancelled)) {
            file::write(unfinished, &index.bytes()?, Overwrite::Allowed)?;
        }
        done.map(|()| index)
    }

    fn begin(lab: &Lab, set: &DictionarySet, request: IndexRequest) -> Result<Self> {
        let model = &lab.model;
        let chosen = set.dictionaries.iter().map(IndexedDictionary::of);
        let chosen: Vec<IndexedDictionary> = chosen
            .filter(|one| request.layer.is_none_or(|only| only == one.layer))
            .collect();
        if chosen.is_empty() {
            let layers = set.dictionaries.iter();
            let layers: Vec<String> = layers.map(|d| d.reads[0].layer.to_string()).collect();
            let expected = format!("a layer with a dictionary: {}", layers.join(", "));
            return Err(Error::argument(
                "--layer",
                request.layer.unwrap_or_default(),
                expected,
            ));
        }
        let bos = match &model.tokenizer {
            Some(tokenizer) => {
                let added = tokenizer.encode("", crate::model::tokenizer::Bos::Add)?;
                added.first().copied()
            }
            None => None,
        };
        let mut digest = Fingerprint::default();
        for token in &request.tokens {
            digest.write(&token.to_le_bytes());
        }
        let keep = request.keep.clamp(1, MOST_KEPT);
        let layers = chosen
            .iter()
            .map(|one| LayerIndex::new(one.layer, one.features, keep));
        let index = Self {
            layers: layers.collect(),
            origin: IndexOrigin {
                model: model.card.name.clone(),
                revision: model.card.revision.clone(),
                dtype: model.card.dtype.into(),
                dictionary: request.dictionary,
                dictionaries: chosen,
                text: request.text,
                text_fingerprint: format!("{:016x}", digest.finish()),
                bos,
                context: request.context.min(model.card.context).max(2),
                keep,
                windows: 0,
                positions: 0,
                version: env!("CARGO_PKG_VERSION").into(),
            },
            tokens: request.tokens,
        };
        if index.tokens.len() < 2 {
            return Err(Error::argument(
                "--text",
                format!("{} tokens", index.tokens.len()),
                "a text of two tokens or more",
            ));
        }
        if index.tokens.len() >= NOWHERE as usize {
            return Err(Error::argument(
                "--tokens",
                index.tokens.len(),
                "fewer than 2^32 tokens",
            ));
        }
        Ok(index)
    }

    /// Reads what is left of the text.
    fn go_on(&mut self, lab: &mut Lab, set: &DictionarySet, unfinished: &Path) -> Result<()> {
        let total = self.windows();
        let at_once = (AT_ONCE / self.origin.context).max(1);
        let mut chosen = Vec::new();
        for layer in &self.layers {
            let found = set.dictionaries.iter().enumerate();
            let found = found.filter(|(_, d)| usize::from(d.reads[0].layer) == layer.layer);
            chosen.extend(found.map(|(_, d)| d).next());
        }
        let mut record: Vec<_> = chosen.iter().flat_map(|d| d.reads.clone()).collect();
        record.sort_unstable();
        record.dedup();
        let mut saved = Instant::now();
        while self.origin.windows < total {
            lab.report(self.origin.windows as f32 / total as f32)?;
            // The same windows are read together wherever the work goes on, so that all numbers stay the same.
            let end = ((self.origin.windows / at_once + 1) * at_once).min(total);
            let (room, bos) = (self.room(), self.origin.bos);
            let own = |window: usize| {
                let own = window * room..((window + 1) * room).min(self.tokens.len());
                bos.into_iter()
                    .chain(self.tokens[own].iter().copied())
                    .collect()
            };
            let texts: Vec<Vec<u32>> = (self.origin.windows..end).map(own).collect();
            let captures = captures(lab, texts, &record)?;
            let mut found: Vec<Vec<Vec<ActiveRow>>> = vec![Vec::new(); self.layers.len()];
            for capture in &captures {
                for (found, placed) in found.iter_mut().zip(&chosen) {
                    found.push(placed.encode(capture, later_values)?.features);
                }
                lab.report(self.origin.windows as f32 / total as f32)?;
            }
            // Nothing stops from here on, so that what is saved ends with a whole batch.
            for (layer, found) in self.layers.iter_mut().zip(&found) {
                for (i, rows) in found.iter().enumerate() {
                    let first = (self.origin.windows + i) * room + usize::from(bos.is_none());
                    layer.take(rows, first);
                }
            }
            self.origin.windows = end;
            self.origin.positions = self.layers.first().map_or(0, |layer| layer.positions);
            if saved.elapsed() > SAVE_EVERY {
                file::write(unfinished, &self.bytes()?, Overwrite::Allowed)?;
                saved = Instant::now();
            }
        }
        Ok(())
    }
}
