//! Features: the strongest features of a dictionary at every token, and what it leaves out.
//!
//! Beside them stand L0, the share of the variance that is explained, the error (what is not reconstructed), and a control: the
//! same dictionary on the same numbers in reverse order. The variance is that around the decoder's bias, `‖y − b‖²`, so that a
//! position needs no other: explained is `1 − ‖y − ŷ‖² / ‖y − b‖²`. Features of the first position, of positions with very large
//! activations, and of those where the reconstruction is no better than the bias alone, are not listed: dictionaries are trained
//! without such activations. Special tokens later in a text are listed, because turns of a chat begin and end with them, and are
//! marked.
//!
//! Sources: Cunningham 2309.08600; Bricken et al. 2023; Gemma Scope 2408.05147 (L0 and explained variance); circuit-tracer leaves
//! the first position out.

mod grids;
mod pages;
mod reconstruction;
mod shown;

use std::ops::Range;

use super::{Draft, Measurement, last};
use crate::dictionaries::opened::none_named;
use crate::error::Result;
use crate::figure::{Anchor, Body, Table, TablePage};
use crate::instruments::params::{Count, LayerOrAll, choices, params};
use crate::lab::Lab;
use crate::lab::capture::{Capture, Needs};
use crate::lab::run::Run;
use crate::model::Card;
use crate::model::network::site::Address;
use reconstruction::Reconstruction;
use shown::ShownSet;

choices! {
    /// What the figure of features is.
    pub enum FeatureView { Tokens = "tokens", Layers = "layers" }
}

params! {
    /// What `features` is asked.
    pub struct FeaturesParams {
        /// the folder, file, hub id or name (config.toml) of a dictionary (sparse autoencoder or transcoder), with @ADDRESS after it where its file does not say the place; several separated by commas; by default the one that is embedded for the model
        dictionary: String,
        /// how many features to list at every position
        count: Count<1, 200> = "10",
        /// one layer of a set of dictionaries, or all
        layer: LayerOrAll = "all",
        /// how many of the last positions to read
        window: Count<1, 256> = "16",
        /// tokens: a page a position; layers: the strongest feature of every dictionary, positions beside each other
        view: FeatureView = "tokens",
        /// features to follow over the whole text instead: 1234, LAYER/1234 or NAME#1234, separated by commas
        feature: String,
        /// a JSON file with labels of the features (Neuronpedia's export)
        labels: String,
    }
}

pub struct Features;

impl Measurement for Features {
    type Params = FeaturesParams;
    const NAME: &'static str = "features";
    const ABOUT: &'static str = "The strongest features of a sparse autoencoder or transcoder at each position, and what it does not reconstruct";
    const SOURCE: &'static str = "sparse autoencoders: Cunningham et al. 2023 (2309.08600), Bricken et al. 2023; transcoders: Dunefsky et al. 2024 (2406.11944)";

    fn live(params: &FeaturesParams, card: &Card) -> bool {
        !shown::names(&params.dictionary, card).is_empty()
    }

    fn positions(params: &FeaturesParams, run: &Run) -> Result<Range<usize>> {
        Ok(if params.follows() {
            0..run.tokens.len()
        } else {
            last(params.window.0, run)
        })
    }

    fn needs(params: &FeaturesParams, _run: &Run, lab: &Lab) -> Result<Needs> {
        let sets = ShownSet::all(params, lab)?;
        if sets.is_empty() {
            return Err(none_named());
        }
        let mut record: Vec<Address> = Vec::new();
        for shown in sets {
            for chosen in shown.dictionaries() {
                let at = chosen.placed.writes[0];
                record.push(at);
                let all = shown.set.dictionaries.iter();
                let parts = all.filter(|d| d.writes.contains(&at));
                record.extend(parts.flat_map(|d| &d.reads));
            }
        }
        record.sort_unstable();
        record.dedup();
        Ok(Needs {
            record,
            ..Needs::default()
        })
    }

    fn figure(params: &FeaturesParams, of: &Capture, lab: &mut Lab) -> Result<Draft> {
        let sets = ShownSet::all(params, lab)?;
        let card = &lab.model.card;
        let mut notes = Vec::new();
        let mut titles: Vec<String> = Vec::new();
        for set in &sets {
            let all: Vec<_> = set.dictionaries().collect();
            let other = all.iter().find_map(|shown| shown.placed.other_model(card));
            titles.push(match other {
                Some(other) => {
                    let this = card.name.trim_end_matches('/').rsplit('/').next();
                    let this = this.unwrap_or_default();
                    format!("MADE FOR {other}, THIS IS {this}: {}", set.title())
                }
                None => set.title(),
            });
            notes.extend(all.iter().flat_map(|shown| shown.notes(card)));
        }
        let title = titles.join(", ");
        if params.follows() {
            let grid = grids::followed(&params.feature, &sets, of, lab)?;
            return Ok(Draft::of(grid)
                .titled(title)
                .note(
                    "each cell: the activation of that feature; 0: not active; ×: outside training",
                )
                .notes(notes));
        }
        let steps = sets.len() as f32;
        let mut read = Vec::new();
        for (i, set) in sets.iter().enumerate() {
            let told = |done: f32| lab.report((i as f32 + done) / steps);
            let all = Reconstruction::all(set, of, lab, &told)?;
            for (shown, read) in set.dictionaries().zip(&all) {
                notes.extend(of_several(&shown, read));
            }
            read.push(all);
        }
        if params.view == FeatureView::Layers {
            let grid = grids::strongest(&sets, &read, of, lab);
            return Ok(Draft::of(grid)
                .titled(title)
                .note("each cell: the feature that adds most to the reconstruction; the next ones are in the cell; ×: outside training, or no better than the bias alone")
                .notes(notes));
        }
        let page = |position: usize| {
            let id = of.run.tokens[position];
            let tokenizer = lab.model.tokenizer.as_ref();
            let special = position > 0 && tokenizer.is_some_and(|t| t.is_special(id));
            let special = if special { " (a special token)" } else { "" };
            let title = format!("after {}{special}", lab.visible(id));
            TablePage::of(title, Anchor::position(position), Vec::new())
        };
        let mut pages: Vec<TablePage> = of.positions.clone().map(page).collect();
        for (set, read) in sets.iter().zip(&read) {
            for (shown, read) in set.dictionaries().zip(read) {
                let rows = pages::rows(read, &shown, of, params.count.0);
                for (page, rows) in pages.iter_mut().zip(rows) {
                    page.rows.extend(rows);
                }
            }
        }
        Ok(Draft::of(Table::paged(pages::COLUMNS, pages))
            .titled(title)
            .notes(notes)
            .note("act: activation of the feature; size: the norm of what it adds to the reconstruction; L0: active features")
            .note("reconstruction: share of the variance explained, 1 − ‖y − ŷ‖²/‖y − b‖² with the decoder's bias b; error: what is left of it, and its norm; control: the same dictionary on the same numbers in reverse order")
            .note("features are not listed at the first position, where the activation is more than 10 times as large as usual, and where the reconstruction is no better than the bias alone: dictionaries are trained without such activations"))
    }

    fn summary(body: &Body) -> Option<String> {
        match body {
            Body::Table(table) => pages::summary(table),
            Body::Grid(_) | Body::Series(_) | Body::Graph(_) | Body::Text(_) => None,
        }
    }
}

/// What is to be known of dictionaries that write to a place together.
fn of_several(shown: &shown::ShownDictionary, read: &Reconstruction) -> Option<String> {
    let at = shown.placed.writes[0];
    let several = shown.placed.dictionary.targets.len() > 1;
    if several && read.parts == 1 && shown.layer() > 0 {
        return Some(format!(
            "of a cross-layer transcoder one layer alone: what earlier layers write to {at} is in the error"
        ));
    }
    (read.parts > 1).then(|| {
        format!(
            "{at} is reconstructed by {} dictionaries of the set together",
            read.parts
        )
    })
}

impl FeaturesParams {
    /// Whether features are followed over the text.
    fn follows(&self) -> bool {
        !self.feature.trim().is_empty()
    }
}
