//! Which features wrote a logit: direct attribution through the decoder, exact, with what the dictionary leaves out as a part.
//!
//! The logit is the sum of [`crate::instruments::residual::attribution`]. What the dictionary reconstructs is a state of the stream or
//! a term of it, `y = Σ f_i w_i + b + e`, and its part of the sum is split: `u·y = Σ f_i (u·w_i) + u·b + u·e`, where `u` is the
//! token's direction pulled back through the final norm with its scale held constant, and through the norm of the written output,
//! if the family has one. Everything else of the stream is one row. Beside it stands a control: as many random features of the
//! dictionary with the same activations. Invariant: the rows sum to the model's own logit before a soft-cap, and the figure
//! carries the error. To split another part, add it to [`SplitPart`].
//!
//! Sources: direct logit attribution: nostalgebraist 2020, Elhage et al. 2021; features and error nodes: Marks et al. 2024
//! (2403.19647), Ameisen et al. 2025.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::Tensor;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::search::deviations;
use super::{DictionaryFiles, GivenDictionary, layer_of, nothing, values};
use crate::dictionaries::dictionary::{Encoded, Target};
use crate::dictionaries::in_stream::{
    StreamRole, constants_behind, role, seen_from, stream_vectors, write_scale, written_at,
    written_targets,
};
use crate::dictionaries::opened::PlacedDictionary;
use crate::error::{Error, Result};
use crate::figure::builders::entries;
use crate::figure::{Anchor, Check, Table, TablePage, TableRow};
use crate::instruments::params::{Count, LayerOrAll, Position, params};
use crate::instruments::residual::attribution::{
    Attribution, AttributionRequest, LogitPart, edited, needs, rounding,
};
use crate::instruments::{Draft, Measurement};
use crate::lab::Lab;
use crate::lab::capture::{Capture, Needs};
use crate::lab::logit_effects::{TopAndBottom, ValueNorm, logit_effects};
use crate::lab::run::Run;
use crate::lab::target::LogitTarget;
use crate::model::network::finite::order;
use crate::model::network::site::{Address, Site};
use crate::model::{Card, Fingerprint};

/// Draws of the control.
const DRAWS: usize = 8;

/// The rounding error of a dot product in f32, relative to the norms of its factors.
const EXACT: f32 = 1e-6;

params! {
    /// What `feature-logits` is asked.
    pub struct FeatureLogitsParams {
        /// the dictionary: its name, or the folder or file, with @ADDRESS after it where its file does not say the place
        dictionary: String,
        /// the token whose logit is split: a text (its first token) or #ID; "A" - "B" for a logit difference; by default the top prediction at each position
        token: Option<String>,
        /// how many features to list
        count: Count<1, 200> = "10",
        /// one layer of a set of dictionaries, or all
        layer: LayerOrAll = "all",
        /// the position whose next-token logit is split
        position: Position,
        /// how many positions, up to that one
        window: Count<1, 64> = "1",
        /// a JSON file with labels of the features (Neuronpedia's export)
        labels: String,
    }
}

const COLUMNS: &[&str] = &["feature", "effect", "act", "z", "promotes", "label"];

pub struct FeatureLogits;

impl Measurement for FeatureLogits {
    type Params = FeatureLogitsParams;
    const NAME: &'static str = "feature-logits";
    const ABOUT: &'static str = "Which features of a dictionary wrote a logit: direct attribution through their decoder vectors, with the error and the rest of the stream as parts";
    const SOURCE: &'static str = "direct logit attribution: nostalgebraist 2020, Elhage et al. 2021; features with their error: Marks et al. 2024 (2403.19647)";
    // The rest has changes by edits of the stream, which are recorded where edits act.
    const ROWS_FOLLOW_EDITS: bool = true;

    fn live(params: &FeatureLogitsParams, card: &Card) -> bool {
        !params.dictionary.trim().is_empty()
            && params.position == Position(-1)
            && !card.norms_stream
    }

    fn positions(params: &FeatureLogitsParams, run: &Run) -> Result<Range<usize>> {
        let end = params.position.within(run.tokens.len())? + 1;
        Ok(end - params.window.0.min(end)..end)
    }

    fn needs(params: &FeatureLogitsParams, run: &Run, lab: &Lab) -> Result<Needs> {
        if params.dictionary.trim().is_empty() {
            return Ok(Needs::default());
        }
        let given = params.open(lab)?;
        let layer = params.layer.within(lab.model.card.layers)?;
        let mut needs = needs(&lab.model, run)?;
        for split in SplitPart::all(&given, layer)? {
            needs.record.push(split.at);
            needs.record.extend(written_at(&lab.model, split.at)?);
            for (n, _) in &split.writers {
                needs.record.extend(&given.set.dictionaries[*n].reads);
            }
        }
        needs.record.sort_unstable();
        needs.record.dedup();
        Ok(needs)
    }

    fn figure(params: &FeatureLogitsParams, of: &Capture, lab: &mut Lab) -> Result<Draft> {
        if params.dictionary.trim().is_empty() {
            return Ok(nothing());
        }
        let given = params.open(lab)?;
        let layer = params.layer.within(lab.model.card.layers)?;
        let splits = SplitPart::all(&given, layer)?;
        let question = AttributionRequest {
            target: LogitTarget::chosen(params.token.as_deref(), &lab.model)?,
            centred: false,
        };
        let sum = Attribution::read(lab, of, question)?;
        let features = FeatureSum::read(&sum, &splits, &given, of, lab)?;
        let mut pages = Vec::with_capacity(sum.positions.len());
        for i in 0..sum.positions.len() {
            lab.report(i as f32 / sum.positions.len() as f32)?;
            pages.push(params.page(i, &sum, &features, &given, of, lab)?);
        }
        let places: Vec<String> = splits.iter().map(|s| s.at.to_string()).collect();
        let mut draft = Draft::of(Table::paged(COLUMNS, pages))
            .titled(places.join(", "))
            .checked(Some(features.check));
        draft = draft
            .note("effect: direct effect on the logit, act times the feature's vector times the token's direction; the final norm's scale is frozen, and later blocks do not react; all parts sum to the logit")
            .note("error: what the dictionary leaves out; rest: everything else of the stream; z: standard deviations above the mean of what the feature adds to all tokens, at its activation");
        if let Some(cap) = lab.model.transformer.blueprint.logit_cap {
            draft = draft.note(format!(
                "this model soft-caps its logits at {cap}; the logit before the cap is attributed, where the sum is exact"
            ));
        }
        if of.positions.contains(&0) {
            draft = draft.note("dictionaries are trained without the first position: features there are no finding");
        }
        if sum.targets.iter().any(|target| target.minus.is_none()) {
            draft = draft.note("the logit of a single token has no natural zero: compare it with another token (\"A\" - \"B\")");
        }
        let mut notes: Vec<String> = Vec::new();
        for split in &splits {
            for (n, _) in &split.writers {
                for note in given.set.dictionaries[*n].notes(&lab.model.card) {
                    if !notes.contains(&note) {
                        notes.push(note);
                    }
                }
            }
        }
        Ok(draft.notes(given.note()).notes(notes))
    }
}

/// A place whose part of the sum is split into features.
struct SplitPart {
    at: Address,
    /// Dictionaries of the set, by number, each with the target that is there.
    writers: Vec<(usize, usize)>,
}

impl SplitPart {
    /// The places of the dictionaries at a layer, or of all.
    fn all(given: &GivenDictionary, layer: Option<usize>) -> Result<Vec<Self>> {
        let chosen = given.at(layer)?;
        let dictionaries = &given.set.dictionaries;
        let mut places: Vec<Address> = Vec::new();
        for placed in &chosen {
            let targets = written_targets(placed)?;
            // Of a cross-layer transcoder one layer alone is asked for its own place.
            let own = if layer.is_some() && targets.len() > 1 {
                &targets[..1]
            } else {
                &targets[..]
            };
            places.extend(own.iter().map(|target| placed.writes[*target]));
        }
        places.sort_unstable();
        places.dedup();
        let parts = places.iter().map(|at| part_of(*at));
        let mut parts = parts.collect::<Result<Vec<_>>>()?;
        let states = parts.iter().filter(|part| part.is_none()).count();
        let count = parts.len();
        parts.sort_unstable_by_key(|part| part.map(|p| (p.layer(), p.name())));
        parts.dedup();
        if parts.len() < count || (states > 0 && count > 1) {
            let layers: Vec<String> = chosen.iter().map(|d| layer_of(d).to_string()).collect();
            return Err(Error::argument(
                "layer",
                "all",
                format!(
                    "one layer of this set, {}: its dictionaries reconstruct the same parts of the stream",
                    layers.join(", ")
                ),
            ));
        }
        let split = |at: Address| {
            let writers = dictionaries.iter().enumerate().filter_map(|(n, placed)| {
                let target = placed.writes.iter().position(|write| *write == at)?;
                // Dictionaries of one place are alternatives, unless they are one set that writes there together.
                let alone = part_of(at).ok()?.is_none() && !std::ptr::eq(placed, chosen[0]);
                (!alone).then_some((n, target))
            });
            Self {
                at,
                writers: writers.collect(),
            }
        };
        Ok(places.into_iter().map(split).collect())
    }
}

/// The part of the attribution that a place is; none for a state of the stream.
fn part_of(at: Address) -> Result<Option<LogitPart>> {
    let layer = usize::from(at.layer);
    Ok(match role(at)? {
        StreamRole::State => None,
        StreamRole::Heads | StreamRole::Attention => Some(LogitPart::Attention(layer)),
        StreamRole::Neurons | StreamRole::Mlp => Some(LogitPart::Mlp(layer)),
        StreamRole::Added if at.site == Site::AttnAdd => Some(LogitPart::Attention(layer)),
        StreamRole::Added => Some(LogitPart::Mlp(layer)),
    })
}

/// The parts of the attribution that a state of the stream is the sum of: how many from the first.
fn parts_in(at: Address, parts: &[LogitPart]) -> usize {
    let layer = usize::from(at.layer);
    let is_in = |part: &LogitPart| match part {
        LogitPart::Embed | LogitPart::Token | LogitPart::Position => true,
        LogitPart::Attention(of) => {
            *of < layer || (*of == layer && matches!(at.site, Site::ResidMid | Site::ResidPost))
        }
        LogitPart::Mlp(of) => *of < layer || (*of == layer && at.site == Site::ResidPost),
        LogitPart::Edits(of) => of.seen_by(at),
        LogitPart::NormBias | LogitPart::TokenBias => false,
    };
    let embed = at.site == Site::Embed;
    let inside = |part: &&LogitPart| {
        is_in(part)
            && (!embed
                || matches!(
                    part,
                    LogitPart::Embed | LogitPart::Token | LogitPart::Position
                ))
    };
    parts.iter().take_while(inside).count()
}

/// One feature at one position.
#[derive(Clone, Copy, Debug, Default)]
struct FeatureEffect {
    act: f32,
    effect: f64,
}

/// The effects of random features in place of the active ones, by dictionary and place in its list of active ones.
type ControlDraw = BTreeMap<(usize, usize), f64>;

/// The sum at one position.
#[derive(Clone, Debug, Default)]
struct PositionSum {
    /// By dictionary of the set and feature.
    features: BTreeMap<(usize, u32), FeatureEffect>,
    bias: f64,
    skip: f64,
    error: f64,
    /// What edits change between the dictionary's place and the stream.
    edits: f64,
    rest: f64,
    /// Biases behind the place and after the stream, by name.
    constants: Vec<(String, f64)>,
    control: Vec<ControlDraw>,
}

impl PositionSum {
    fn total(&self) -> f64 {
        let features = self.features.values().map(|f| f.effect).sum::<f64>();
        let constants = self.constants.iter().map(|(_, effect)| effect).sum::<f64>();
        features + self.bias + self.skip + self.error + self.edits + self.rest + constants
    }

    /// The sum of the magnitudes of all parts.
    fn mass(&self) -> f64 {
        let features = self.features.values().map(|f| f.effect.abs());
        let constants = self.constants.iter().map(|(_, effect)| effect.abs());
        let others = [self.bias, self.skip, self.error, self.edits, self.rest];
        features.chain(constants).sum::<f64>() + others.iter().map(|e| e.abs()).sum::<f64>()
    }
}

/// The sum at all positions.
struct FeatureSum {
    positions: Vec<PositionSum>,
    check: Check,
}

impl FeatureSum {
    fn read(
        sum: &Attribution,
        splits: &[SplitPart],
        given: &GivenDictionary,
        of: &Capture,
        lab: &Lab,
    ) -> Result<Self> {
        let model = &lab.model;
        let count = sum.positions.len();
        let dictionaries = &given.set.dictionaries;
        let mut read = BTreeMap::new();
        for (n, _) in splits.iter().flat_map(|split| &split.writers) {
            if !read.contains_key(n) {
                read.insert(*n, ReadFeatures::of(&dictionaries[*n], *n, of)?);
            }
        }
        let control = vec![ControlDraw::new(); DRAWS];
        let empty = PositionSum {
            control,
            ..PositionSum::default()
        };
        let mut positions = vec![empty; count];
        let mut lengths = vec![0f64; count];
        let touched = edited(&of.run, model.card.layers)?;
        let mut split_parts = Vec::new();
        let mut inside = 0;
        for split in splits {
            let scales = write_scales(split.at, of, lab, count)?;
            let seen = seen_from(model, split.at, &sum.directions)?.to_vec2::<f32>()?;
            let directions: Vec<Vec<f32>> = seen
                .into_iter()
                .zip(&scales)
                .map(|(row, scale)| row.into_iter().map(|u| u * scale).collect())
                .collect();
            let y = values(of, split.at)?;
            let mut made = vec![0f32; y.len()];
            for (n, target) in &split.writers {
                let dictionary = &dictionaries[*n].dictionary;
                let features = &read[n];
                let part = dictionary.decode(*target, &features.encoded, &features.first)?;
                made.iter_mut().zip(&part).for_each(|(m, p)| *m += p);
                for (i, here) in positions.iter_mut().enumerate() {
                    features.take(*n, &dictionary.targets[*target], i, &directions[i], here)?;
                }
            }
            let part = part_of(split.at)?;
            if part.is_none() {
                inside = parts_in(split.at, &sum.parts);
            }
            let behind = constants_behind(model, split.at, &sum.directions)?;
            let layer = usize::from(split.at.layer);
            let later = [
                Site::Z,
                Site::AttnOut,
                Site::AttnAdd,
                Site::MlpAct,
                Site::MlpOut,
                Site::MlpAdd,
            ];
            let is_edited = later.iter().map(|site| site.at(layer)).any(|at| {
                at > split.at && part_of(at).is_ok_and(|of| of == part) && touched.contains(&at)
            });
            let width = y.len() / count.max(1);
            for (i, here) in positions.iter_mut().enumerate() {
                let (y, made) = (&y[i * width..][..width], &made[i * width..][..width]);
                let u = &directions[i];
                let own = dot(y, u);
                here.error += own - dot(made, u);
                lengths[i] += dot(u, u).sqrt() * (dot(y, y).sqrt() + dot(made, made).sqrt());
                let Some(part) = part else { continue };
                let constant =
                    f64::from(behind.scaled[i]) * f64::from(scales[i]) + f64::from(behind.fixed[i]);
                if constant.abs() > 0.0 {
                    let name = format!("biases of {}", part.name());
                    here.constants.push((name, constant));
                }
                if is_edited {
                    here.edits += f64::from(sum.effect(i, part)) - own - constant;
                }
            }
            split_parts.extend(part);
        }
        let mut check = Check {
            error: 0.0,
            tolerance: 0.0,
        };
        for (i, here) in positions.iter_mut().enumerate() {
            for (k, part) in sum.parts.iter().enumerate() {
                let effect = f64::from(sum.shares[i][k].effect);
                if matches!(part, LogitPart::NormBias | LogitPart::TokenBias) {
                    here.constants.push((part.name(), effect));
                } else if k >= inside && !split_parts.contains(part) {
                    here.rest += effect;
                }
            }
            let error = (here.total() - f64::from(sum.logits[i])).abs();
            let tolerance = f64::from(rounding(model)) * here.mass().max(1.0);
            check = check.worst(Check {
                error: error as f32,
                tolerance: (tolerance + f64::from(EXACT) * lengths[i]) as f32 + sum.check.tolerance,
            });
        }
        Ok(Self { positions, check })
    }
}

/// The scale of the norm of the written output behind a place, at every captured position.
fn write_scales(at: Address, of: &Capture, lab: &Lab, count: usize) -> Result<Vec<f32>> {
    let Some(written) = written_at(&lab.model, at)? else {
        return Ok(vec![1.0; count]);
    };
    let rows = values(of, written)?;
    let width = (rows.len() / count.max(1)).max(1);
    let rows = rows.chunks_exact(width);
    rows.map(|row| write_scale(&lab.model, at, row)).collect()
}

/// The features of a dictionary at all positions, with random ones in their place.
struct ReadFeatures {
    encoded: Encoded,
    /// The first input, `[positions * width]`, for a skip connection.
    first: Vec<f32>,
    /// As many random features as are active: by position and draw.
    drawn: Vec<Vec<Vec<u32>>>,
}

impl ReadFeatures {
    fn of(placed: &PlacedDictionary, n: usize, of: &Capture) -> Result<Self> {
        let first = values(of, placed.reads[0])?;
        let encoded = super::encode(placed, of)?;
        let features = placed.dictionary.features() as u32;
        let drawn = of.positions.clone().zip(&encoded.features);
        let drawn = drawn.map(|(position, active)| {
            let draw = |draw: usize| {
                let seed = [of.run.seed, position as u64, draw as u64, n as u64];
                let mut rng = StdRng::seed_from_u64(Fingerprint::of(seed));
                let ids = active.iter().map(|_| rng.random_range(0..features));
                ids.collect()
            };
            (0..DRAWS).map(draw).collect()
        });
        Ok(Self {
            drawn: drawn.collect(),
            first,
            encoded,
        })
    }

    /// Adds what the dictionary writes to one target at the `i`th position, along a direction there.
    fn take(
        &self,
        n: usize,
        target: &Target,
        i: usize,
        direction: &[f32],
        here: &mut PositionSum,
    ) -> Result<()> {
        let active = &self.encoded.features[i];
        let norm = self.encoded.norms[i];
        let back = if target.undo {
            f64::from(norm.back)
        } else {
            1.0
        };
        let decoder = &target.decoder;
        // Few rows are read one by one, many as all of them at once.
        let mut all = Vec::new();
        if active.len() * (DRAWS + 1) > decoder.features {
            all.resize(decoder.features, 0f32);
            decoder.add_products(direction, &mut all, &|_| Ok(()))?;
        }
        let product = |f: u32| {
            let f = f as usize;
            let product = match all.get(f) {
                Some(product) => f64::from(*product),
                None => dot(&decoder.row(f), direction),
            };
            product * f64::from(target.scale.of(f)) * back
        };
        for (f, act) in active {
            let held = here.features.entry((n, *f)).or_default();
            held.act = *act;
            held.effect += f64::from(*act) * product(*f);
        }
        for (draw, ids) in here.control.iter_mut().zip(&self.drawn[i]) {
            for (k, (f, (_, act))) in ids.iter().zip(active).enumerate() {
                *draw.entry((n, k)).or_default() += f64::from(*act) * product(*f);
            }
        }
        here.bias += dot(&target.bias, direction) * back;
        if target.undo {
            let all: f64 = direction.iter().map(|u| f64::from(*u)).sum();
            here.bias += f64::from(norm.mean) * all;
        }
        if let Some(skip) = &target.skip {
            let width = skip.width;
            let mut row = vec![0f32; skip.features];
            skip.add_products(&self.first[i * width..][..width], &mut row, &|_| Ok(()))?;
            here.skip += dot(&row, direction);
        }
        Ok(())
    }
}

impl FeatureLogitsParams {
    fn open(&self, lab: &Lab) -> Result<GivenDictionary> {
        let files = DictionaryFiles {
            dictionary: &self.dictionary,
            labels: &self.labels,
            index: None,
        };
        GivenDictionary::open(&files, lab)
    }

    /// The parts of the logit after the `i`th position.
    fn page(
        &self,
        i: usize,
        sum: &Attribution,
        features: &FeatureSum,
        given: &GivenDictionary,
        of: &Capture,
        lab: &Lab,
    ) -> Result<TablePage> {
        let here = &features.positions[i];
        let (position, target) = (sum.positions[i], sum.targets[i]);
        let mut ranked: Vec<((usize, u32), FeatureEffect)> = here
            .features
            .iter()
            .map(|(key, effect)| (*key, *effect))
            .collect();
        ranked.sort_by(|a, b| order(b.1.effect.abs(), a.1.effect.abs()).then(a.0.cmp(&b.0)));
        let (listed, others) = ranked.split_at(self.count.0.min(ranked.len()));
        let logits = self.logits(listed, given, lab)?;
        let known = lab.model.known_tokens();
        let mut rows = Vec::with_capacity(listed.len() + 10);
        for (((n, feature), found), logits) in listed.iter().zip(logits) {
            let placed = &given.set.dictionaries[*n];
            // A negative activation turns what the feature adds around.
            let z = deviations(target, &logits[..known]) * found.act.signum();
            let [up, _] = TopAndBottom::of(logits, known).words(found.act, lab);
            rows.push(TableRow::at(
                Anchor::cell(layer_of(placed), position),
                entries![
                    given.spell(placed, *feature),
                    found.effect as f32,
                    found.act,
                    z,
                    up,
                    given.label(placed, *feature)
                ],
            ));
        }
        let anchor = Anchor::position(position);
        let mut line = |name: &str, value: f64, words: String| {
            let entries = entries![name, value as f32, "", "", words, ""];
            rows.push(TableRow::at(anchor, entries));
        };
        let effects = |some: &[((usize, u32), FeatureEffect)]| -> f64 {
            some.iter().map(|(_, found)| found.effect).sum()
        };
        if !others.is_empty() {
            let words = format!("{} that are not listed", others.len());
            line("other features", effects(others), words);
        }
        line("decoder bias", here.bias, String::new());
        if here.skip.abs() > 0.0 {
            line(
                "skip",
                here.skip,
                "the linear part of the dictionary".into(),
            );
        }
        line("error", here.error, "what the dictionary leaves out".into());
        if here.edits.abs() > 0.0 {
            line(
                "edits",
                here.edits,
                "of the output, after the dictionary".into(),
            );
        }
        line("rest", here.rest, "everything else of the stream".into());
        for (name, effect) in &here.constants {
            line(name, *effect, String::new());
        }
        let (own, low, high) = self.control(&ranked, &here.control);
        line(
            "control",
            own,
            format!(
                "Σ|effect| of the listed: {:.3}; here of as many random features with the same activations, the strongest: {low:.3} to {high:.3} in {DRAWS} draws (seed {})",
                listed
                    .iter()
                    .map(|(_, found)| found.effect.abs())
                    .sum::<f64>(),
                of.run.seed
            ),
        );
        let title = format!(
            "after {} · logit of {}: {:.4}, the parts sum to {:.4}",
            lab.visible(of.run.tokens[position]),
            target.spell(lab),
            sum.logits[i],
            here.total()
        );
        Ok(TablePage::of(title, anchor, rows))
    }

    /// What one unit of each feature adds to all logits.
    fn logits(
        &self,
        listed: &[((usize, u32), FeatureEffect)],
        given: &GivenDictionary,
        lab: &Lab,
    ) -> Result<Vec<Vec<f32>>> {
        let vectors = listed.iter().map(|((n, feature), _)| {
            stream_vectors(&given.set.dictionaries[*n], &lab.model, &[*feature])
        });
        let vectors = vectors.collect::<Result<Vec<_>>>()?;
        if vectors.is_empty() {
            return Ok(Vec::new());
        }
        Ok(logit_effects(&lab.model, &Tensor::cat(&vectors, 0)?, ValueNorm::Gained)?.1)
    }

    /// `Σ|effect|` of the strongest features of each draw, as many as are listed: mean, smallest and largest.
    fn control(
        &self,
        ranked: &[((usize, u32), FeatureEffect)],
        draws: &[ControlDraw],
    ) -> (f64, f64, f64) {
        let count = self.count.0.min(ranked.len());
        let sums = draws.iter().map(|draw| {
            let mut sizes: Vec<f64> = draw.values().map(|e| e.abs()).collect();
            sizes.sort_by(|a, b| order(*b, *a));
            sizes.iter().take(count).sum::<f64>()
        });
        let sums: Vec<f64> = sums.collect();
        let low = sums.iter().copied().fold(f64::INFINITY, f64::min);
        let high = sums.iter().copied().fold(0.0, f64::max);
        (
            sums.iter().sum::<f64>() / sums.len().max(1) as f64,
            low,
            high,
        )
    }
}

/// The dot product, summed in f64.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let both = a.iter().zip(b);
    both.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
