//! Features: the strongest features of a dictionary at every token, and what it leaves out.
//!
//! Beside them stand L0, the share of the variance that is explained, the error (what is not reconstructed), and a control: the
//! same dictionary on the same numbers in reverse order. The variance is that around the decoder's bias, `‖y − b‖²`, so that a
//! position needs no other: explained is `1 − ‖y − ŷ‖² / ‖y − b‖²`. Features of the first position, and of positions where the
//! reconstruction is no better than the bias alone, are not listed: dictionaries are trained without such activations.
//!
//! Sources: Cunningham 2309.08600; Bricken et al. 2023; Gemma Scope 2408.05147 (L0 and explained variance); circuit-tracer leaves
//! the first position out.

use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use candle_core::DType;

use super::{Draft, Measurement, last};
use crate::dictionaries::dictionary::Encoded;
use crate::dictionaries::labels::FeatureLabels;
use crate::dictionaries::opened::{DictionarySet, OpenDictionaries, PlacedDictionary};
use crate::error::{Error, Result};
use crate::figure::builders::entries;
use crate::figure::{Anchor, Body, Entry, FeatureHandle, Table, TablePage, TableRow, Text};
use crate::instruments::params::{Count, LayerOrAll, params};
use crate::lab::Lab;
use crate::lab::capture::{Capture, Needs};
use crate::lab::run::Run;
use crate::model::Card;
use crate::model::network::finite::order;
use crate::model::network::site::Address;

params! {
    /// What `features` is asked.
    pub struct FeaturesParams {
        /// the folder or file of a dictionary (sparse autoencoder or transcoder), with @ADDRESS after it where its file does not say the place; several separated by commas
        dictionary: String,
        /// how many features to list at every position
        count: Count<1, 200> = "10",
        /// one layer of a set of dictionaries, or all
        layer: LayerOrAll = "all",
        /// how many of the last positions to read
        window: Count<1, 256> = "16",
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

    fn live(params: &FeaturesParams, _card: &Card) -> bool {
        !params.dictionary.trim().is_empty()
    }

    fn positions(params: &FeaturesParams, run: &Run) -> Result<Range<usize>> {
        Ok(last(params.window.0, run))
    }

    fn needs(params: &FeaturesParams, _run: &Run, lab: &Lab) -> Result<Needs> {
        let mut record: Vec<Address> = Vec::new();
        for (_, set) in params.sets(lab)? {
            for chosen in params.chosen(&set, lab)? {
                record.push(chosen.writes[0]);
                let parts = set
                    .dictionaries
                    .iter()
                    .filter(|d| d.writes.contains(&chosen.writes[0]));
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
        let sets = params.sets(lab)?;
        if sets.is_empty() {
            return Ok(nothing());
        }
        let labels = lab.derived::<OpenDictionaries>();
        let labels = labels.labels(params.labels.trim())?;
        let mut pages: Vec<TablePage> = of
            .positions
            .clone()
            .map(|position| {
                let title = format!("after {}", lab.visible(of.run.tokens[position]));
                TablePage::of(title, Anchor::position(position), Vec::new())
            })
            .collect();
        let mut notes = Vec::new();
        let mut titles = Vec::new();
        for (given, set) in &sets {
            for chosen in params.chosen(set, lab)? {
                lab.report(0.0)?;
                let read = Reconstruction::of(chosen, set, of)?;
                titles.push(format!("{}", chosen.reads[0]));
                notes.extend(chosen.notes(&lab.model));
                notes.extend(read.notes(chosen));
                let several = set.dictionaries.len() > 1;
                let handle = FeatureHandle {
                    dictionary: given.clone(),
                    layer: several.then_some(chosen.reads[0].layer),
                    feature: 0,
                    place: place(&chosen.writes),
                    activation: None,
                };
                let rows = read.rows(chosen, of, params.count.0, &labels, &handle);
                for (page, rows) in pages.iter_mut().zip(rows) {
                    page.rows.extend(rows);
                }
            }
        }
        let mut draft = Draft::of(Table::paged(COLUMNS, pages)).titled(titles.join(", "));
        draft.notes = notes;
        Ok(draft
            .note("act: activation of the feature; size: the norm of what it adds to the reconstruction; L0: active features")
            .note("reconstruction: share of the variance explained, 1 − ‖y − ŷ‖²/‖y − b‖² with the decoder's bias b; error: what is left of it, and its norm; control: the same dictionary on the same numbers in reverse order")
            .note("features are not listed at the first position and where the reconstruction is no better than the bias alone: dictionaries are trained without such activations"))
    }

    fn summary(body: &Body) -> Option<String> {
        let Body::Table(table) = body else {
            return None;
        };
        let number = |row: &TableRow, column: usize| match row.entries.get(column) {
            Some(Entry::Number(number)) if number.is_finite() => Some(*number),
            _ => None,
        };
        let named = |name: &str, column: usize| -> Vec<f32> {
            let counted = table.pages.iter().filter(|p| p.anchor.position != Some(0));
            let rows = counted.flat_map(|page| &page.rows);
            rows.filter(|row| matches!(row.entries.first(), Some(Entry::Text(t)) if t == name))
                .filter_map(|row| number(row, column))
                .collect()
        };
        let mean = |values: Vec<f32>| values.iter().sum::<f32>() / values.len().max(1) as f32;
        let explained = named(RECONSTRUCTION, SHARE);
        if explained.is_empty() {
            return None;
        }
        let (count, l0) = (explained.len(), mean(named(L0, ACT)));
        let (explained, control) = (median(explained), median(named(CONTROL, SHARE)));
        let mut said = format!(
            "without the first position: mean L0 {l0:.1}, median share explained {explained:.2} (control {control:.2}), over {count}"
        );
        if explained < 0.5 {
            said.push_str("; less than half is explained: does the dictionary belong to this model, layer and place?");
        }
        Some(said)
    }
}

const COLUMNS: &[&str] = &["feature", "act", "size", "share", "label"];
const ACT: usize = 1;
const SHARE: usize = 3;
const L0: &str = "L0";
const RECONSTRUCTION: &str = "reconstruction";
const CONTROL: &str = "control";

/// The middle of some values; NaN of none.
fn median(mut values: Vec<f32>) -> f32 {
    values.sort_by(f32::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f32::NAN)
}

/// What is said where no dictionary is named.
fn nothing() -> Draft {
    let lines = [
        "No dictionary is named.",
        "Name the folder or file of a sparse autoencoder or transcoder: `lmscope MODEL --dictionary PATH`, `:dictionary PATH`, or the form (o).",
    ];
    Draft::of(Text {
        lines: lines.map(String::from).to_vec(),
    })
}

impl FeaturesParams {
    /// The dictionaries that are named, each with its name.
    fn sets(&self, lab: &Lab) -> Result<Vec<(String, Rc<DictionarySet>)>> {
        let open = lab.derived::<OpenDictionaries>();
        let given = self.dictionary.trim();
        // A path may hold a comma.
        let names: Vec<&str> = if Path::new(given).exists() {
            vec![given]
        } else {
            given.split(',').collect()
        };
        let names = names
            .into_iter()
            .map(str::trim)
            .filter(|name| !name.is_empty());
        let opened = names.map(|name| Ok((name.to_string(), open.get(name, &lab.model)?)));
        opened.collect()
    }

    /// The dictionaries of a set at the chosen layer.
    fn chosen<'a>(&self, set: &'a DictionarySet, lab: &Lab) -> Result<Vec<&'a PlacedDictionary>> {
        let only = self.layer.within(lab.model.card.layers)?;
        let at =
            |d: &&PlacedDictionary| only.is_none_or(|only| usize::from(d.reads[0].layer) == only);
        let found: Vec<&PlacedDictionary> = set.dictionaries.iter().filter(at).collect();
        if found.is_empty() {
            let layers = set
                .dictionaries
                .iter()
                .map(|d| d.reads[0].layer.to_string());
            let layers: Vec<String> = layers.collect();
            let expected = format!("a layer with a dictionary: {}", layers.join(", "));
            return Err(Error::argument("layer", only.unwrap_or_default(), expected));
        }
        Ok(found)
    }
}

/// Where edits change features of a dictionary that writes to these places: the place, or all of a site.
fn place(writes: &[Address]) -> String {
    let first = writes[0];
    if writes.len() > 1 && writes.iter().all(|at| at.site == first.site) {
        return format!("{}.*", first.site.spec().name);
    }
    first.to_string()
}

/// The rows of an address, `[positions · width]`, f32.
fn values(of: &Capture, at: Address) -> Result<Vec<f32>> {
    Ok(of.get(at)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// What a dictionary makes of the captured positions.
struct Reconstruction {
    encoded: Encoded,
    /// The norms of the active features' vectors, by position.
    norms: Vec<Vec<f32>>,
    /// Of each position.
    fits: Vec<PositionFit>,
    controls: Vec<(usize, PositionFit)>,
    /// How many dictionaries of the set write to the same place.
    parts: usize,
    width: usize,
}

/// How well one position is reconstructed.
#[derive(Clone, Copy)]
struct PositionFit {
    /// `‖ŷ‖`.
    size: f32,
    /// `‖y − ŷ‖`.
    error: f32,
    explained: f32,
}

impl PositionFit {
    /// Sums in f64.
    fn of(y: &[f32], made: &[f32], bias: &[f32]) -> Self {
        let (mut size, mut error, mut around) = (0f64, 0f64, 0f64);
        for (i, (y, made)) in y.iter().zip(made).enumerate() {
            let (y, made) = (f64::from(*y), f64::from(*made));
            size += made * made;
            error += (y - made).powi(2);
            around += (y - bias.get(i).map_or(0.0, |b| f64::from(*b))).powi(2);
        }
        Self {
            size: size.sqrt() as f32,
            error: error.sqrt() as f32,
            explained: (1.0 - error / around.max(f64::MIN_POSITIVE)) as f32,
        }
    }
}

impl Reconstruction {
    fn of(chosen: &PlacedDictionary, set: &DictionarySet, of: &Capture) -> Result<Self> {
        let at = chosen.writes[0];
        let width = chosen.dictionary.targets[0].decoder.width;
        let y = values(of, at)?;
        let backwards = |x: &[f32], width: usize| -> Vec<f32> {
            let rows = x.chunks_exact(width.max(1));
            rows.flat_map(|row| row.iter().rev().copied()).collect()
        };
        // Of a cross-layer set every earlier layer writes to the same place.
        let mut made = vec![0f32; y.len()];
        let mut control = made.clone();
        let (mut own, mut bias, mut parts, mut active) =
            (Encoded::default(), Vec::new(), 0, Vec::new());
        for part in &set.dictionaries {
            let Some(target) = part.writes.iter().position(|write| *write == at) else {
                continue;
            };
            let dictionary = &part.dictionary;
            let xs = part
                .reads
                .iter()
                .map(|read| values(of, *read))
                .collect::<Result<Vec<_>>>()?;
            let turned: Vec<Vec<f32>> = xs
                .iter()
                .zip(&dictionary.inputs)
                .map(|(x, input)| backwards(x, input.encoder.width))
                .collect();
            for (xs, made, is_control) in [(&xs, &mut made, false), (&turned, &mut control, true)] {
                let inputs: Vec<&[f32]> = xs.iter().map(Vec::as_slice).collect();
                let encoded = dictionary.encode(&inputs)?;
                let sums = dictionary.decode(target, &encoded, inputs[0])?;
                made.iter_mut().zip(sums).for_each(|(m, s)| *m += s);
                if std::ptr::eq(part, chosen) {
                    if is_control {
                        active = encoded.features.iter().map(Vec::len).collect();
                    } else {
                        own = encoded;
                    }
                }
            }
            let target = &dictionary.targets[target];
            if !target.bias.is_empty() {
                bias.clone_from(&target.bias);
            }
            parts += 1;
        }
        let autoencoder = chosen.dictionary.is_autoencoder();
        let to = if autoencoder {
            backwards(&y, width)
        } else {
            y.clone()
        };
        let fit = |y: &[f32], made: &[f32]| -> Vec<PositionFit> {
            let rows = y
                .chunks_exact(width.max(1))
                .zip(made.chunks_exact(width.max(1)));
            rows.map(|(y, made)| PositionFit::of(y, made, &bias))
                .collect()
        };
        let (fits, controls) = (fit(&y, &made), fit(&to, &control));
        let target = &chosen.dictionary.targets[0];
        let norms = own.features.iter().zip(&own.norms).map(|(features, norm)| {
            let ids: Vec<u32> = features.iter().map(|(f, _)| *f).collect();
            let back = if target.undo { norm.back } else { 1.0 };
            let norms = target.decoder.norms_of(&ids);
            let scaled = ids.iter().zip(norms);
            scaled
                .map(|(f, norm)| norm * target.scale.of(*f as usize).abs() * back)
                .collect()
        });
        Ok(Self {
            norms: norms.collect(),
            encoded: own,
            fits,
            controls: active.into_iter().zip(controls).collect(),
            parts,
            width,
        })
    }

    /// Whether a position lies outside what the dictionary was trained on.
    fn outside(&self, i: usize, position: usize) -> Option<&'static str> {
        if position == 0 {
            return Some("outside training: the first position");
        }
        (self.fits[i].explained <= 0.0)
            .then_some("outside what it reconstructs: no better than the bias alone")
    }

    /// The rows of every position.
    fn rows(
        &self,
        chosen: &PlacedDictionary,
        of: &Capture,
        count: usize,
        labels: &FeatureLabels,
        handle: &FeatureHandle,
    ) -> Vec<Vec<TableRow>> {
        let layer = usize::from(chosen.reads[0].layer);
        let position = |(i, position): (usize, usize)| {
            let anchor = Anchor::cell(layer, position);
            let row = |name: &str, act: f32, size: f32, share: f32, label: String| {
                let number = |n: f32| {
                    if n.is_nan() {
                        Entry::Text(String::new())
                    } else {
                        Entry::Number(n)
                    }
                };
                TableRow::at(
                    anchor,
                    vec![
                        name.into(),
                        number(act),
                        number(size),
                        number(share),
                        label.into(),
                    ],
                )
            };
            let active = &self.encoded.features[i];
            let mut sized: Vec<(f32, u32, f32)> = active
                .iter()
                .zip(&self.norms[i])
                .map(|((f, act), norm)| (act.abs() * norm, *f, *act))
                .collect();
            sized.sort_by(|a, b| order(b.0, a.0).then(a.1.cmp(&b.1)));
            let outside = self.outside(i, position);
            let listed = if outside.is_some() { 0 } else { count };
            let mut rows: Vec<TableRow> = sized
                .iter()
                .take(listed)
                .map(|(size, f, act)| {
                    let label = labels.get(layer, *f);
                    let entries = entries![format!("{layer}/{f}"), *act, *size, "", label];
                    let handle = FeatureHandle {
                        feature: *f,
                        activation: Some(*act),
                        ..handle.clone()
                    };
                    TableRow::feature(anchor, handle, entries)
                })
                .collect();
            let (fit, (control_l0, control)) = (self.fits[i], self.controls[i]);
            let of_all = format!("of {} features", chosen.dictionary.features());
            let target = chosen.writes[0].to_string();
            rows.push(row(L0, active.len() as f32, f32::NAN, f32::NAN, of_all));
            let mark = outside.map_or(format!("of {target}"), |mark| {
                format!("of {target} · {mark}")
            });
            rows.push(row(RECONSTRUCTION, f32::NAN, fit.size, fit.explained, mark));
            let rest = "what the dictionary leaves out".to_string();
            rows.push(row("error", f32::NAN, fit.error, 1.0 - fit.explained, rest));
            let turned = "the same numbers in reverse order (act: L0)".to_string();
            rows.push(row(
                CONTROL,
                control_l0 as f32,
                f32::NAN,
                control.explained,
                turned,
            ));
            rows
        };
        of.positions.clone().enumerate().map(position).collect()
    }

    fn notes(&self, chosen: &PlacedDictionary) -> Vec<String> {
        let mut notes = Vec::new();
        let alone =
            chosen.dictionary.targets.len() > 1 && self.parts == 1 && chosen.reads[0].layer > 0;
        if alone {
            notes.push(format!(
                "of a cross-layer transcoder one layer alone: what earlier layers write to {} is in the error",
                chosen.writes[0]
            ));
        } else if self.parts > 1 {
            notes.push(format!(
                "{} is reconstructed by {} dictionaries of the set together, each of them {} wide",
                chosen.writes[0], self.parts, self.width
            ));
        }
        notes
    }
}
