//! A search for features: by a token that they promote, by their label, by number, or by the text at which they are active.
//!
//! By token, `w·(γ ⊙ W_U[t])` of all features, without the final norm's scale: one product with the decoder. Beside it stand where
//! the token is among all tokens by what the feature adds to each, and how far above their mean in standard deviations, for a
//! feature that adds to every token's logit promotes none. By text, the mean activation here is compared with that in another
//! text or, with an index, in its text; the control exchanges positions of the two texts at random. Invariant: what is searched
//! for is the first of `token`, `label`, `number` that is given; without any it is the run's text. To search by something else,
//! add a parameter and its arm in [`FeatureSearch`]'s `measure`.
//!
//! Sources: Bricken et al. 2023; permutation test: Fisher 1935, with the maximum over features as in Westfall and Young 1993.

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::Tensor;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::{DictionaryFiles, FeatureName, GivenDictionary, layer_of, without_empty};
use crate::dictionaries::captured::values;
use crate::dictionaries::in_stream::{stream_products, stream_vectors};
use crate::dictionaries::opened::PlacedDictionary;
use crate::error::{Error, Result};
use crate::figure::builders::entries;
use crate::figure::{Anchor, Entry, Table, TablePage, TableRow};
use crate::instruments::params::{Count, LayerOrAll, params};
use crate::instruments::{Draft, Measurement, Reads};
use crate::lab::Lab;
use crate::lab::capture::Needs;
use crate::lab::features::ActiveRow;
use crate::lab::logit_effects::{TopAndBottom, ValueNorm, logit_effects};
use crate::lab::run::Run;
use crate::lab::sample::top;
use crate::lab::target::LogitTarget;
use crate::model::network::finite::{self, order};

/// How many features are multiplied with the unembedding at once.
const AT_ONCE: usize = 16;

/// How many features, for each that is listed, are candidates for a token: by their logit less its mean over all tokens.
const CANDIDATES: usize = 8;

/// Among how many tokens that a feature promotes most one is that the feature may stand for.
const MOST_PROMOTED: usize = 10;

/// Draws of the control.
const DRAWS: usize = 20;

params! {
    /// What `feature-search` is asked.
    pub struct FeatureSearchParams {
        /// the dictionary: its name, or the folder or file, with @ADDRESS after it where its file does not say the place
        dictionary: String,
        /// features that promote this token: a text (its first token) or #ID; "A" - "B" for a logit difference
        token: String,
        /// features whose label has these words
        label: String,
        /// features by number: 12, 77 or 3/12 with the layer
        number: String,
        /// without the above, features of the prompt: compared with this text, else with the index
        against: String,
        /// how many features to list
        count: Count<1, 200> = "12",
        /// one layer of a set of dictionaries, or all
        layer: LayerOrAll = "all",
        /// a corpus index that `lmscope dictionary index` wrote
        index: Option<PathBuf>,
        /// a JSON file with labels of the features (Neuronpedia's export)
        labels: String,
    }
}

const COLUMNS: &[&str] = &[
    "feature", "score", "z", "rank", "promotes", "density", "label",
];
const SCORE: usize = 1;

pub struct FeatureSearch;

/// A feature in the table, and what is known of a token: how far its logit lies above the mean, and its rank among all.
struct ListedFeature {
    row: TableRow,
    z: f32,
    rank: Option<usize>,
}

/// A feature that was found.
struct FoundFeature<'a> {
    placed: &'a PlacedDictionary,
    feature: u32,
    score: f32,
}

impl Measurement for FeatureSearch {
    type Params = FeatureSearchParams;
    const NAME: &'static str = "feature-search";
    const ABOUT: &'static str = "Features of a dictionary by a token that they promote, by label, by number, or by the text at which they are active";
    const SOURCE: &'static str =
        "logit effects of features: Bricken et al. 2023; of neurons: Geva et al. 2022 (2203.14680)";
    const READS: Reads<FeatureSearchParams> = Reads::TextWhere(FeatureSearchParams::by_text);

    fn measure(params: &FeatureSearchParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let files = DictionaryFiles {
            dictionary: &params.dictionary,
            labels: &params.labels,
            index: params.index.as_deref(),
        };
        let given = GivenDictionary::open(&files, lab)?;
        let layer = params.layer.within(lab.model.card.layers)?;
        if params.by_text() {
            return params.text(&given, layer, run, lab);
        }
        let mut target = None;
        let (found, score, title) = if !params.token.is_empty() {
            let of = LogitTarget::parse("token", &params.token, &lab.model)?;
            target = Some(of);
            let title = format!("promoting {}", of.spell(lab));
            (params.by_token(of, &given, layer, lab)?, "logit", title)
        } else if !params.label.trim().is_empty() {
            let title = format!("labelled {}", crate::text::line(params.label.trim()));
            (params.by_label(&given, layer)?, "", title)
        } else {
            (params.by_number(&given)?, "", "by number".to_string())
        };
        let most = match target {
            Some(_) => found.len(),
            None => found.len().min(params.count.0),
        };
        let mut listed = rows(&found[..most], target, &given, lab)?;
        if target.is_some() {
            listed.sort_by(|a, b| order(b.z, a.z));
        }
        listed.truncate(params.count.0);
        if listed.is_empty() {
            return Ok(Draft::of(Table::paged(
                COLUMNS,
                vec![TablePage::of("", Anchor::default(), Vec::new())],
            ))
            .titled(title)
            .note("no feature was found")
            .notes(given.note()));
        }
        let best = listed.iter().filter_map(|one| one.rank).min();
        let about = best.filter(|rank| *rank > MOST_PROMOTED).map(|rank| {
            format!("no feature listed has this token among the {MOST_PROMOTED} that it promotes most (the best rank is {rank}): none stands for it")
        });
        let mut rows: Vec<TableRow> = listed.into_iter().map(|one| one.row).collect();
        let mut columns = without_empty(COLUMNS, &mut rows);
        columns
            .iter_mut()
            .filter(|name| **name == COLUMNS[SCORE])
            .for_each(|name| *name = score);
        let page = TablePage::of("", Anchor::default(), rows);
        let draft = Draft::of(Table::paged(&columns, vec![page])).titled(title);
        let draft = draft.notes(about).notes(params.unused());
        let draft = if target.is_some() {
            draft
                .note("strongest first by z; logit: w·(γ⊙W_U[t]) of one unit of activation, through the final norm's gain and before its scale; z: standard deviations above the mean of what the feature adds to all tokens; rank: of the token among them, from 1")
                .note("computed from the weights alone; `feature` shows when one is active")
        } else {
            draft.note("promotes: tokens, by W_U (γ⊙w) of one unit of activation")
        };
        Ok(draft.notes(given.note()))
    }
}

impl FeatureSearchParams {
    /// A note on what was given beside that which is searched for.
    fn unused(&self) -> Option<String> {
        let named = [
            ("token", &self.token),
            ("label", &self.label),
            ("number", &self.number),
        ];
        let mut given = named
            .into_iter()
            .filter(|(_, words)| !words.trim().is_empty());
        let (first, _) = given.next()?;
        let others: Vec<&str> = given.map(|(name, _)| name).collect();
        (!others.is_empty()).then(|| {
            format!(
                "not used, because `{first}` is searched for: {}",
                others.join(", ")
            )
        })
    }

    fn by_text(&self) -> bool {
        let all = [&self.token, &self.label, &self.number];
        all.iter().all(|words| words.trim().is_empty())
    }

    /// Candidates for the features that add most to a target, all layers together: their logits less the mean over all tokens are
    /// the largest.
    fn by_token<'a>(
        &self,
        target: LogitTarget,
        given: &'a GivenDictionary,
        layer: Option<usize>,
        lab: &mut Lab,
    ) -> Result<Vec<FoundFeature<'a>>> {
        let direction = target.direction(&lab.model)?;
        let transformer = &lab.model.transformer;
        // A feature that adds to every token's logit is none of this token; a difference has no such part.
        let mean = match target.minus {
            None => {
                transformer
                    .mean_logit_direction(lab.model.known_tokens())?
                    .0
            }
            Some(_) => direction.zeros_like()?,
        };
        let norm = &transformer.norm;
        let behind = |direction: Tensor| -> Result<Tensor> {
            Ok(norm
                .seen_from_behind(&direction.unsqueeze(0)?)?
                .squeeze(0)?)
        };
        let (direction, mean) = (behind(direction)?, behind(mean)?);
        let mut found = Vec::new();
        let chosen = given.at(layer)?;
        for (done, placed) in chosen.iter().enumerate() {
            lab.report(done as f32 / chosen.len() as f32)?;
            let products = |direction| {
                stream_products(placed, &lab.model, direction, &|done| lab.report(done))
            };
            let scores = products(&direction)?;
            let mut centred = scores.clone();
            if target.minus.is_none() {
                let means = products(&mean)?;
                centred
                    .iter_mut()
                    .zip(means)
                    .for_each(|(own, mean)| *own -= mean);
            }
            if !finite::all(&centred) {
                return Err(lab.not_finite("The products of features with the unembedding are"));
            }
            let best = top(&centred, centred.len(), CANDIDATES * self.count.0);
            found.extend(best.into_iter().map(|(feature, centred)| {
                let score = scores[feature as usize];
                let one = FoundFeature {
                    placed,
                    feature,
                    score,
                };
                (one, centred)
            }));
        }
        found.sort_by(|a, b| order(b.1, a.1));
        found.truncate(CANDIDATES * self.count.0);
        Ok(found.into_iter().map(|(one, _)| one).collect())
    }

    /// The features whose label has all of the words.
    fn by_label<'a>(
        &self,
        given: &'a GivenDictionary,
        layer: Option<usize>,
    ) -> Result<Vec<FoundFeature<'a>>> {
        if self.labels.trim().is_empty() {
            return Err(Error::argument(
                "labels",
                "",
                "a file with labels of the features (Neuronpedia's export) to search in",
            ));
        }
        let wanted = self.label.to_lowercase();
        let wanted: Vec<&str> = wanted.split_whitespace().collect();
        let mut found = Vec::new();
        for placed in given.at(layer)? {
            for feature in 0..placed.dictionary.features() as u32 {
                let label = given.label(placed, feature).to_lowercase();
                if wanted.iter().all(|word| label.contains(word)) {
                    let score = f32::NAN;
                    found.push(FoundFeature {
                        placed,
                        feature,
                        score,
                    });
                }
            }
        }
        Ok(found)
    }

    fn by_number<'a>(&self, given: &'a GivenDictionary) -> Result<Vec<FoundFeature<'a>>> {
        let numbers = self.number.split(',').filter(|n| !n.trim().is_empty());
        let found = numbers.map(|number| {
            let name = FeatureName::parse(number)?;
            Ok(FoundFeature {
                placed: given.of(&name)?,
                feature: name.feature,
                score: f32::NAN,
            })
        });
        found.collect()
    }

    /// The features that are more active in the run's text than elsewhere.
    fn text(
        &self,
        given: &GivenDictionary,
        layer: Option<usize>,
        run: &Run,
        lab: &mut Lab,
    ) -> Result<Draft> {
        let chosen = given.at(layer)?;
        let here = rows_of(&chosen, run, lab)?;
        let there = if self.against.is_empty() {
            None
        } else {
            let tokens = lab.model.encode(&self.against, false)?;
            let other = Run {
                seed: run.seed,
                ..Run::plain(tokens).under(&run.schedule)
            };
            Some(rows_of(&chosen, &other, lab)?)
        };
        let mut scored: Vec<(FoundFeature, f32, f32)> = Vec::new();
        let mut norms: Vec<BTreeMap<u32, f32>> = Vec::new();
        for (n, placed) in chosen.iter().enumerate() {
            let own = means(&here[n]);
            let other = match (&there, given.index_of(placed)) {
                (Some(there), _) => means(&there[n]),
                (None, Some(index)) => own
                    .keys()
                    .map(|f| {
                        let both = (index.density(*f), index.mean(*f));
                        (*f, both.0.unwrap_or_default() * both.1.unwrap_or_default())
                    })
                    .collect(),
                (None, None) => BTreeMap::new(),
            };
            let ids: Vec<u32> = own.keys().chain(other.keys()).copied().collect();
            let own_norms: BTreeMap<u32, f32> = sizes(placed, ids).collect();
            for (feature, norm) in &own_norms {
                let of = |all: &BTreeMap<u32, f32>| all.get(feature).copied().unwrap_or_default();
                let (a, b) = (of(&own), of(&other));
                let found = FoundFeature {
                    placed,
                    feature: *feature,
                    score: (a - b) * norm,
                };
                scored.push((found, a, b));
            }
            norms.push(own_norms);
        }
        scored.sort_by(|a, b| {
            let key = |f: &FoundFeature| (layer_of(f.placed), f.feature);
            order(b.0.score, a.0.score).then(key(&a.0).cmp(&key(&b.0)))
        });
        scored.truncate(self.count.0);
        let found: Vec<FoundFeature> = scored
            .iter()
            .map(|(found, ..)| FoundFeature { ..*found })
            .collect();
        let compared = there.is_some() || given.index.is_some();
        let table = rows(&found, None, given, lab)?.into_iter();
        let mut table: Vec<TableRow> = table.map(|one| one.row).collect();
        for (row, (found, a, b)) in table.iter_mut().zip(&scored) {
            let there = compared.then_some(*b).into();
            let tail = row.entries.split_off(4);
            row.entries.truncate(1);
            row.entries
                .extend([Entry::Number(found.score), Entry::Number(*a), there]);
            row.entries.extend(tail);
        }
        let mut notes = vec!["mean activations over the positions, without the first; difference: of the means, times the norm of the feature's vector".to_string()];
        if let Some(there) = &there {
            let largest = exchanged(&here, there, &norms, run.seed);
            let mean = largest.iter().sum::<f32>() / largest.len().max(1) as f32;
            let low = largest.iter().copied().fold(f32::INFINITY, f32::min);
            let high = largest.iter().copied().fold(0.0, f32::max);
            let words = format!(
                "largest difference where the positions are assigned to the two texts at random: {low:.3} to {high:.3} in {DRAWS} draws (seed {})",
                run.seed
            );
            table.push(TableRow::at(
                Anchor::default(),
                entries![
                    "control",
                    mean,
                    Entry::Missing,
                    Entry::Missing,
                    words,
                    Entry::Missing,
                    ""
                ],
            ));
            let above = scored.iter().filter(|(f, ..)| f.score > high).count();
            notes.push(format!(
                "{above} of the {} listed differ by more than in any draw of the control",
                scored.len()
            ));
        }
        let columns = [
            "feature",
            if compared { "difference" } else { "size" },
            "here",
            "there",
            "promotes",
            "density",
            "label",
        ];
        let columns = without_empty(&columns, &mut table);
        let title = match (&there, &given.index) {
            (Some(_), _) => "active here rather than in the other text".to_string(),
            (None, Some(index)) => format!("active here rather than in {}", index.about()),
            (None, None) => "active here".to_string(),
        };
        let page = TablePage::of("", Anchor::default(), table);
        Ok(Draft::of(Table::paged(&columns, vec![page]))
            .titled(title)
            .notes(notes)
            .notes(given.note()))
    }
}

/// The features of some dictionaries at the positions of a run, without the first: `[dictionaries][positions]`.
fn rows_of(chosen: &[&PlacedDictionary], run: &Run, lab: &mut Lab) -> Result<Vec<Vec<ActiveRow>>> {
    if run.tokens.len() < 2 {
        return Err(Error::argument(
            "prompt",
            lab.model.tokenizer()?.text(&run.tokens),
            "a text of two tokens or more: the first position is left out",
        ));
    }
    let mut record: Vec<_> = chosen.iter().flat_map(|d| d.reads.clone()).collect();
    record.sort_unstable();
    record.dedup();
    let needs = Needs {
        record,
        ..Needs::default()
    };
    let capture = lab.capture(run, 1..run.tokens.len(), &needs)?;
    let rows = chosen
        .iter()
        .map(|placed| Ok(placed.encode(&capture, values)?.features));
    rows.collect()
}

/// The mean activation of every feature that is active at some position.
fn means(rows: &[ActiveRow]) -> BTreeMap<u32, f32> {
    let mut sums: BTreeMap<u32, f64> = BTreeMap::new();
    for (feature, act) in rows.iter().flatten() {
        *sums.entry(*feature).or_default() += f64::from(*act);
    }
    let count = rows.len().max(1) as f64;
    let mean = |(feature, sum)| (feature, (sum / count) as f32);
    sums.into_iter().map(mean).collect()
}

/// The norms of features' vectors, scaled.
fn sizes(placed: &PlacedDictionary, ids: Vec<u32>) -> impl Iterator<Item = (u32, f32)> {
    let target = placed.dictionary.targets.first();
    let norms = target.map_or_else(Vec::new, |t| {
        let norms = t.decoder.norms_of(&ids).into_iter().zip(&ids);
        norms
            .map(|(norm, f)| norm * t.scale.of(*f as usize).abs())
            .collect()
    });
    ids.into_iter().zip(norms)
}

/// The largest difference over all features in each draw, where positions of two texts are exchanged at random.
fn exchanged(
    here: &[Vec<ActiveRow>],
    there: &[Vec<ActiveRow>],
    norms: &[BTreeMap<u32, f32>],
    seed: u64,
) -> Vec<f32> {
    let (own, all) = match (here.first(), there.first()) {
        (Some(a), Some(b)) => (a.len(), a.len() + b.len()),
        _ => return Vec::new(),
    };
    let mut rng = StdRng::seed_from_u64(seed);
    let draw = |_| {
        let mut order: Vec<usize> = (0..all).collect();
        order.shuffle(&mut rng);
        let mut largest = 0f32;
        for ((here, there), norms) in here.iter().zip(there).zip(norms) {
            let rows: Vec<&ActiveRow> = here.iter().chain(there).collect();
            let mean = |part: &[usize]| {
                let part: Vec<ActiveRow> = part.iter().map(|i| rows[*i].clone()).collect();
                means(&part)
            };
            let (a, b) = (mean(&order[..own]), mean(&order[own..]));
            for (feature, norm) in norms {
                let of = |all: &BTreeMap<u32, f32>| all.get(feature).copied().unwrap_or_default();
                largest = largest.max((of(&a) - of(&b)) * norm);
            }
        }
        largest
    };
    (0..DRAWS).map(draw).collect()
}

/// The rows of features: what each promotes, and of a target its rank and z among all tokens.
fn rows(
    found: &[FoundFeature],
    target: Option<LogitTarget>,
    given: &GivenDictionary,
    lab: &mut Lab,
) -> Result<Vec<ListedFeature>> {
    let known = lab.model.known_tokens();
    let mut out = Vec::with_capacity(found.len());
    for (done, some) in found.chunks(AT_ONCE).enumerate() {
        lab.report((done * AT_ONCE) as f32 / found.len() as f32)?;
        let vectors = some.iter().map(|one| {
            match stream_vectors(one.placed, &lab.model, &[one.feature]) {
                Ok(vector) => Ok(Some(vector)),
                // What is no term of the stream promotes nothing, and is found all the same.
                Err(Error::Refused { .. }) if target.is_none() => Ok(None),
                Err(other) => Err(other),
            }
        });
        let vectors = vectors.collect::<Result<Vec<_>>>()?;
        let there: Vec<&Tensor> = vectors.iter().flatten().collect();
        let mut logits = if there.is_empty() {
            Vec::new()
        } else {
            let rows = Tensor::cat(&there, 0)?;
            logit_effects(&lab.model, &rows, ValueNorm::Gained)?.1
        }
        .into_iter();
        for (one, vector) in some.iter().zip(&vectors) {
            let logits = vector.as_ref().and_then(|_| logits.next());
            let mut entries = entries![given.spell(one.placed, one.feature)];
            entries.push(target.map(|_| one.score).into());
            let (mut z, mut place) = (f32::NAN, None);
            match (target, &logits) {
                (Some(target), Some(logits)) => {
                    let logits = &logits[..known];
                    z = deviations(target, logits);
                    place = target.minus.is_none().then(|| rank(logits, target.token));
                    entries.push(z.into());
                    entries.push(place.into());
                }
                _ => entries.extend([Entry::Missing, Entry::Missing]),
            }
            let promoted = logits.map(|logits| TopAndBottom::of(logits, known).ids(1.0)[0].clone());
            let promoted = promoted.unwrap_or_default();
            entries.push(lab.visibles(promoted.iter().copied()).into());
            let density = given
                .index_of(one.placed)
                .and_then(|index| index.density(one.feature));
            entries.push(density.into());
            entries.push(given.label(one.placed, one.feature).into());
            let anchor = Anchor::layer(layer_of(one.placed));
            let handle = given.handle(one.placed, one.feature, None);
            out.push(ListedFeature {
                row: TableRow::feature(anchor, handle, entries).naming("promotes", promoted),
                z,
                rank: place,
            });
        }
    }
    Ok(out)
}

/// How far a target's logit lies above the mean over all tokens, in standard deviations; of a difference those of a difference.
pub(super) fn deviations(target: LogitTarget, logits: &[f32]) -> f32 {
    let count = logits.len().max(1) as f64;
    let mean = logits.iter().map(|z| f64::from(*z)).sum::<f64>() / count;
    let square = |z: &f32| (f64::from(*z) - mean).powi(2);
    let deviation = (logits.iter().map(square).sum::<f64>() / count).sqrt();
    let own = f64::from(target.of(logits));
    let z = match target.minus {
        None => (own - mean) / deviation,
        Some(_) => own / (deviation * std::f64::consts::SQRT_2),
    };
    z as f32
}

/// The rank of a token, from 1.
fn rank(logits: &[f32], token: u32) -> usize {
    let own = logits.get(token as usize).copied().unwrap_or(f32::NAN);
    1 + logits.iter().filter(|z| **z > own).count()
}
