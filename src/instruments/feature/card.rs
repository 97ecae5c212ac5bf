//! The card of a feature: how active it is here, what it promotes, where in a text it is strongest, and which features are near.
//!
//! What it promotes is `W_U (γ ⊙ w)`, through the final norm's gain and without its scale, of what one unit of the feature adds to
//! the stream. Near are the features whose vectors have the largest cosine with its own, and of a transcoder also those that read
//! alike. What a corpus index says (density, strongest contexts, whether the promised tokens follow) is of another text than
//! this one. Invariant: all of it but the activation depends on files alone, and is made once. To add a line, see
//! `FixedRows::of`.
//!
//! Sources: Bricken et al. 2023; Templeton et al. 2024 (feature dashboards); logit effects: methods of Geva et al. 2022.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;

use super::follows::{PROMISED, PromiseFit, is_promised};
use super::{DictionaryFiles, FeatureName, GivenDictionary, layer_of};
use crate::dictionaries::captured::values;
use crate::dictionaries::in_stream::stream_vectors;
use crate::dictionaries::index::{FeatureIndex, LayerIndex};
use crate::dictionaries::matrix::FeatureMatrix;
use crate::dictionaries::opened::{PlacedDictionary, named, none_named};
use crate::error::{Error, Result};
use crate::figure::builders::entries;
use crate::figure::{
    Anchor, Body, Curve, Entry, FeatureHandle, Series, Style, Table, TablePage, TableRow,
};
use crate::instruments::params::{Count, choices, params};
use crate::instruments::{Draft, Measurement, last};
use crate::lab::Lab;
use crate::lab::capture::{Capture, Needs};
use crate::lab::features::activation;
use crate::lab::logit_effects::{TopAndBottom, ValueNorm, logit_effects};
use crate::lab::run::Run;
use crate::lab::sample::top;
use crate::lab::snippet::{bars, snippet, sparkline};
use crate::model::Card;
use crate::model::network::finite::{self, order};

/// The width of a context on the screen, in columns.
const WIDE: usize = 44;

choices! {
    /// What is shown of a feature.
    pub enum FeatureCardView { Card = "card", Text = "text" }
}

params! {
    /// What `feature` is asked.
    pub struct FeatureParams {
        /// the dictionary: its name, or the folder or file, with @ADDRESS after it where its file does not say the place
        dictionary: String,
        /// the feature: its number, 1234, with its layer in a set of several, 12/1234; by default the strongest at the last position
        feature: String,
        /// card: what it promotes, where it is strongest, what is near; text: its activation at every position
        show: FeatureCardView = "card",
        /// how many contexts, tokens and near features to list
        count: Count<1, 30> = "5",
        /// a corpus index that `lmscope dictionary index` wrote
        index: Option<PathBuf>,
        /// a JSON file with labels of the features (Neuronpedia's export)
        labels: String,
        /// how many of the last positions to read; 0: one for the card, all for the text
        window: Count<0, 4096> = "0",
    }
}

const COLUMNS: &[&str] = &["part", "value", "what"];
const ACTIVATION: &str = "activation";

pub struct FeatureCard;

impl Measurement for FeatureCard {
    type Params = FeatureParams;
    const NAME: &'static str = "feature";
    const ABOUT: &'static str = "The card of one feature of a dictionary: its activation, the tokens it promotes, its strongest contexts, and the features near it";
    const SOURCE: &'static str = "feature dashboards: Bricken et al. 2023, Templeton et al. 2024; logit effects: Geva et al. 2022 (2203.14680)";

    fn live(params: &FeatureParams, card: &Card) -> bool {
        params.named(card).is_some() && !params.feature.trim().is_empty()
    }

    fn positions(params: &FeatureParams, run: &Run) -> Result<Range<usize>> {
        let window = match (params.window.0, params.show) {
            (0, FeatureCardView::Card) => 1,
            (0, FeatureCardView::Text) => run.tokens.len(),
            (window, _) => window,
        };
        Ok(last(window, run))
    }

    fn needs(params: &FeatureParams, _run: &Run, lab: &Lab) -> Result<Needs> {
        let name = params.named(&lab.model.card).ok_or_else(none_named)?;
        let given = params.open(&name, lab)?;
        let layer = params.feature()?.and_then(|feature| feature.layer);
        let mut record: Vec<_> = given
            .at(layer)?
            .iter()
            .flat_map(|d| d.reads.clone())
            .collect();
        record.sort_unstable();
        record.dedup();
        Ok(Needs {
            record,
            ..Needs::default()
        })
    }

    fn figure(params: &FeatureParams, of: &Capture, lab: &mut Lab) -> Result<Draft> {
        let name = params.named(&lab.model.card).ok_or_else(none_named)?;
        let given = params.open(&name, lab)?;
        let feature = match params.feature()? {
            Some(feature) => feature,
            None => strongest(&given, of)?,
        };
        let placed = given.of(&feature)?;
        let fixed = FixedRows::kept(params, &given, placed, feature.feature, lab)?;
        let rows = placed.encode(of, values)?.features;
        let acts: Vec<f32> = rows
            .iter()
            .map(|row| activation(row, feature.feature))
            .collect();
        let spelled = given.spell(placed, feature.feature);
        let title = match given.label(placed, feature.feature) {
            "" => spelled.clone(),
            label => format!("{spelled} · {label}"),
        };
        let draft = match params.show {
            FeatureCardView::Card => {
                let own = given.handle(placed, feature.feature, None);
                card(&fixed, &own, &acts, layer_of(placed), of, lab)
            }
            FeatureCardView::Text => curve(&spelled, &acts, layer_of(placed), of, lab),
        };
        Ok(draft
            .titled(title)
            .notes(given.note())
            .notes(fixed.notes.iter().cloned())
            .notes(placed.notes(&lab.model.card)))
    }

    fn summary(body: &Body) -> Option<String> {
        let Body::Table(table) = body else {
            return None;
        };
        let acts = table.pages.iter().filter_map(|page| {
            let row = page.rows.first()?;
            match row.entries[..] {
                [Entry::Text(ref part), Entry::Number(act), ..] if part == ACTIVATION => {
                    Some((act, page))
                }
                _ => None,
            }
        });
        let acts: Vec<(f32, &TablePage)> = acts.collect();
        let (most, page) = acts.iter().max_by(|a, b| order(a.0, b.0))?;
        if acts.len() < 2 {
            return None;
        }
        let values: Vec<f32> = acts.iter().map(|(act, _)| *act).collect();
        Some(format!(
            "over these {} positions: ▕{}▏, largest {most:.3} {}",
            acts.len(),
            sparkline(&values),
            page.title
        ))
    }
}

impl FeatureParams {
    /// The dictionary that is named, by itself or before the feature.
    fn named(&self, card: &Card) -> Option<String> {
        let before = self
            .feature
            .rsplit_once('#')
            .map_or("", |(name, _)| name.trim());
        let given = if before.is_empty() {
            &self.dictionary
        } else {
            before
        };
        named(given, card)
    }

    /// The feature that is named.
    fn feature(&self) -> Result<Option<FeatureName>> {
        match self.feature.trim() {
            "" => Ok(None),
            given => FeatureName::parse(given).map(Some),
        }
    }

    fn open(&self, name: &str, lab: &Lab) -> Result<GivenDictionary> {
        let files = DictionaryFiles {
            dictionary: name,
            labels: &self.labels,
            index: self.index.as_deref(),
        };
        GivenDictionary::open(&files, lab)
    }
}

/// The feature that adds most, `|f| ‖w‖`, at the last captured position.
fn strongest(given: &GivenDictionary, of: &Capture) -> Result<FeatureName> {
    let mut best: Option<(f32, FeatureName)> = None;
    for placed in given.at(None)? {
        let rows = placed.encode(of, values)?.features;
        let row = rows.last().map_or(&[][..], Vec::as_slice);
        let ids: Vec<u32> = row.iter().map(|(f, _)| *f).collect();
        let Some(target) = placed.dictionary.targets.first() else {
            continue;
        };
        let norms = target.decoder.norms_of(&ids);
        for ((feature, act), norm) in row.iter().zip(norms) {
            let size = (act * norm * target.scale.of(*feature as usize)).abs();
            if best.as_ref().is_none_or(|(held, _)| size > *held) {
                let name = FeatureName {
                    dictionary: None,
                    layer: Some(layer_of(placed)),
                    feature: *feature,
                };
                best = Some((size, name));
            }
        }
    }
    best.map(|(_, name)| name).ok_or_else(|| {
        Error::argument(
            "feature",
            "",
            "the number of a feature: none is active at the last position",
        )
    })
}

/// The card at every position. A row is about the feature itself, or about another one that is near.
fn card(
    fixed: &FixedRows,
    own: &FeatureHandle,
    acts: &[f32],
    layer: usize,
    of: &Capture,
    lab: &Lab,
) -> Draft {
    let page = |(position, act): (usize, &f32)| {
        let anchor = Anchor::cell(layer, position);
        let what = match fixed.largest {
            _ if position == 0 => "outside training: the first position".to_string(),
            Some(largest) if largest.abs() > 0.0 => {
                format!("{:.0} % of the largest in the index", 100.0 * act / largest)
            }
            _ if *act == 0.0 => "not active here".to_string(),
            _ => String::new(),
        };
        let own = FeatureHandle {
            activation: Some(*act).filter(|act| *act != 0.0),
            ..own.clone()
        };
        let mut rows = vec![TableRow::at(anchor, entries![ACTIVATION, *act, what])];
        // The number above is what the encoder reads after these.
        let acting = of.run.schedule.on_features().filter(|(span, _, chosen)| {
            let same = chosen.dictionary == own.dictionary && chosen.layer == own.layer;
            same && chosen.numbers.contains(&own.feature) && span.contains(&position)
        });
        rows.extend(acting.map(|(_, edit, _)| {
            let edit = format!("{edit}; the activation is what the encoder reads after it");
            TableRow::at(anchor, entries!["edit that is on", Entry::Missing, edit])
        }));
        rows.extend(fixed.rows.iter().cloned());
        // Rows about the feature itself share their place, so that the cursor moves among them.
        let of_itself = rows.iter_mut().filter(|row| row.handle.is_none());
        of_itself.for_each(|row| row.handle = Some(own.clone()));
        let title = format!("after {}", lab.visible(of.run.tokens[position]));
        TablePage::of(title, Anchor::position(position), rows)
    };
    let pages = of.positions.clone().zip(acts).map(page).collect();
    Draft::of(Table::paged(COLUMNS, pages))
}

/// The activation at every position.
fn curve(name: &str, acts: &[f32], layer: usize, of: &Capture, lab: &Lab) -> Draft {
    let positions = of.positions.clone();
    let points = lab.headers(&of.run, positions.clone());
    // The first position is outside training, and its activation would set the scale.
    let values = positions.zip(acts);
    let values = values.map(|(position, act)| if position == 0 { f32::NAN } else { *act });
    let curve = Curve::of(name, Anchor::layer(layer), values.collect());
    let series = Series::of("position", ACTIVATION, points, vec![curve], Style::Bars);
    Draft::of(series).note("the first position is left out: dictionaries are trained without it")
}

/// What a card says that depends on files alone.
#[derive(Debug)]
struct FixedRows {
    rows: Vec<TableRow>,
    notes: Vec<String>,
    /// The largest activation in the index.
    largest: Option<f32>,
}

/// What fixed rows depend on: dictionary, layer, feature, index, labels, count.
type FixedKey = (String, usize, u32, Option<PathBuf>, String, usize);

/// The cards that were made; kept by the lab.
#[derive(Debug, Default)]
struct KeptCards(RefCell<HashMap<FixedKey, Rc<FixedRows>>>);

/// How many cards are kept.
const KEPT: usize = 64;

impl FixedRows {
    fn kept(
        params: &FeatureParams,
        given: &GivenDictionary,
        placed: &PlacedDictionary,
        feature: u32,
        lab: &Lab,
    ) -> Result<Rc<Self>> {
        let key = (
            given.name.clone(),
            layer_of(placed),
            feature,
            params.index.clone(),
            params.labels.clone(),
            params.count.0,
        );
        let cards = lab.derived::<KeptCards>();
        if let Some(held) = cards.0.borrow().get(&key) {
            return Ok(held.clone());
        }
        let made = match params.show {
            FeatureCardView::Card => {
                Rc::new(Self::of(given, placed, feature, params.count.0, lab)?)
            }
            FeatureCardView::Text => {
                return Ok(Rc::new(Self {
                    rows: Vec::new(),
                    notes: Vec::new(),
                    largest: None,
                }));
            }
        };
        let mut held = cards.0.borrow_mut();
        if held.len() >= KEPT {
            held.clear();
        }
        held.insert(key, made.clone());
        Ok(made)
    }

    fn of(
        given: &GivenDictionary,
        placed: &PlacedDictionary,
        feature: u32,
        count: usize,
        lab: &Lab,
    ) -> Result<Self> {
        let anchor = Anchor::layer(layer_of(placed));
        let (mut rows, mut notes) = (Vec::new(), Vec::new());
        let mut say = |part: &str, value: f32, what: String| {
            rows.push(TableRow::at(anchor, entries![part, value, what]));
        };
        let sides = match promised(placed, feature, lab) {
            Ok(sides) => Some(sides),
            Err(Error::Refused { address, why }) => {
                notes.push(format!("it promotes no tokens directly: {address}: {why}"));
                None
            }
            Err(other) => return Err(other),
        };
        if let Some(sides) = &sides {
            for (part, side) in [
                ("promotes", &sides.promoted),
                ("suppresses", &sides.suppressed),
            ] {
                let some = side.iter().take(count);
                let words: Vec<String> = some
                    .map(|(id, z)| format!("{} {z:.2}", lab.visible(*id)))
                    .collect();
                let first = side.first().map_or(f32::NAN, |(_, z)| *z);
                say(part, first, words.join("  "));
            }
        }
        let layer = given.index_of(placed);
        if let (Some(index), Some(layer)) = (&given.index, layer) {
            indexed_rows(index, layer, feature, count, sides.as_ref(), lab, &mut say);
        }
        rows.extend(near_rows(given, placed, feature, count, lab)?);
        notes.extend(match (&given.index, layer) {
            (None, _) => Some("density, strongest contexts and what follows them are shown with --index: `lmscope dictionary index` makes it".into()),
            (Some(_), None) => Some("the index does not have this layer".into()),
            (Some(_), Some(_)) => None,
        });
        notes.push("promotes, suppresses: logits per unit of activation, W_U (γ⊙w), with the final norm's gain γ and without its scale; near: cosine of decoder vectors".into());
        Ok(Self {
            rows,
            notes,
            largest: layer.and_then(|layer| layer.largest(feature)),
        })
    }
}

/// The tokens that a feature promotes and suppresses.
fn promised(placed: &PlacedDictionary, feature: u32, lab: &Lab) -> Result<TopAndBottom> {
    let row = stream_vectors(placed, &lab.model, &[feature])?;
    let (_, logits) = logit_effects(&lab.model, &row, ValueNorm::Gained)?;
    let logits = logits.into_iter().next().unwrap_or_default();
    if !finite::all(&logits) {
        return Err(lab.not_finite("The logits to which the feature adds are"));
    }
    Ok(TopAndBottom::of(logits, lab.model.known_tokens()))
}

/// What the index says of a feature.
fn indexed_rows(
    index: &FeatureIndex,
    layer: &LayerIndex,
    feature: u32,
    count: usize,
    sides: Option<&TopAndBottom>,
    lab: &Lab,
    say: &mut impl FnMut(&str, f32, String),
) {
    let of = |number: Option<f32>| number.unwrap_or(f32::NAN);
    let (density, largest) = (of(layer.density(feature)), of(layer.largest(feature)));
    let about = index.about();
    if largest == 0.0 {
        say("density", 0.0, format!("never active in {about}"));
        return;
    }
    say(
        "density",
        density,
        format!(
            "of {about}; mean {:.3}, largest {largest:.3} ▕{}▏",
            of(layer.mean(feature)),
            bars(&layer.histogram(feature))
        ),
    );
    for context in layer.contexts(feature).iter().take(count) {
        let mut words = snippet(index.before(context.at), WIDE, lab);
        if let Some(next) = index.after(context.at) {
            words.push_str(" → ");
            words.push_str(&lab.visible(next));
            if sides.is_some_and(|sides| is_promised(sides, context.act, next)) {
                words.push_str(" ✓");
            }
        }
        say("strongest", context.act, words);
    }
    let Some(sides) = sides else {
        return;
    };
    let fit = PromiseFit::of(index, layer, feature, sides);
    let (low, high) = fit.own.interval();
    say(
        "follows",
        fit.own.share() as f32,
        format!(
            "a promoted token (of {PROMISED}) after {} of {} contexts, {low:.2} to {high:.2}: {}",
            fit.own.hits,
            fit.own.of,
            if fit.holds() {
                "more than after any of the control"
            } else {
                "no more than in the control"
            }
        ),
    );
    if let Some((mean, low, high)) = fit.control_shares() {
        say(
            "control",
            mean as f32,
            format!(
                "the same tokens after the contexts of {} other features of similar density, {low:.2} to {high:.2}",
                fit.control.len()
            ),
        );
    }
}

/// The features near one, each with a handle of its own, and the norms of the feature's vectors.
fn near_rows(
    given: &GivenDictionary,
    placed: &PlacedDictionary,
    feature: u32,
    count: usize,
    lab: &Lab,
) -> Result<Vec<TableRow>> {
    let (Some(input), Some(target)) = (
        placed.dictionary.inputs.first(),
        placed.dictionary.targets.first(),
    ) else {
        return Ok(Vec::new());
    };
    let anchor = Anchor::layer(layer_of(placed));
    let near = |part: &str, (other, cosine): (u32, f32)| {
        let name = given.spell(placed, other);
        let name = match given.label(placed, other) {
            "" => name,
            label => format!("{name} {label}"),
        };
        let handle = given.handle(placed, other, None);
        TableRow::feature(anchor, handle, entries![part, cosine, name])
    };
    let found = neighbours(&target.decoder, feature, count, lab)?.into_iter();
    let mut rows: Vec<TableRow> = found.map(|other| near("near", other)).collect();
    let autoencoder = placed.dictionary.is_autoencoder();
    if !autoencoder {
        let found = neighbours(&input.encoder, feature, count, lab)?.into_iter();
        rows.extend(found.map(|other| near("reads alike", other)));
    }
    let (read, written) = (
        input.encoder.row(feature as usize),
        target.decoder.row(feature as usize),
    );
    let norm = |row: &[f32]| {
        row.iter()
            .map(|w| f64::from(*w).powi(2))
            .sum::<f64>()
            .sqrt()
    };
    let (of_read, of_written) = (
        norm(&read) * f64::from(input.scale.of(feature as usize)),
        norm(&written) * f64::from(target.scale.of(feature as usize)),
    );
    let mut what = format!("of its decoder vector; of its encoder vector {of_read:.3}");
    if autoencoder && read.len() == written.len() {
        let both = read.iter().zip(&written);
        let dot: f64 = both.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        let cosine = dot / (norm(&read) * norm(&written)).max(f64::MIN_POSITIVE);
        what = format!("{what}, cosine of the two {cosine:.3}");
    }
    rows.push(TableRow::at(
        anchor,
        entries!["norm", of_written as f32, what],
    ));
    Ok(rows)
}

/// The features whose rows of a matrix have the largest cosine with that of one. Reads the matrix twice.
fn neighbours(
    matrix: &FeatureMatrix,
    feature: u32,
    count: usize,
    lab: &Lab,
) -> Result<Vec<(u32, f32)>> {
    let told = |done: f32| lab.report(done);
    let mut products = vec![0f32; matrix.features];
    matrix.add_products(&matrix.row(feature as usize), &mut products, &told)?;
    let norms = matrix.norms(&told)?;
    let own = norms.get(feature as usize).copied().unwrap_or_default();
    for (product, norm) in products.iter_mut().zip(&norms) {
        // A row of zeros has no direction.
        *product = if own * norm > 0.0 {
            *product / (own * norm)
        } else {
            -1.0
        };
    }
    if let Some(itself) = products.get_mut(feature as usize) {
        *itself = f32::NEG_INFINITY;
    }
    let mut found = top(&products, products.len(), count);
    found.retain(|(_, cosine)| cosine.is_finite());
    Ok(found)
}
