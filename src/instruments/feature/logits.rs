//! Which features wrote a log-probability or a logit: direct attribution through the decoder, exact, with what the dictionary leaves out as a part.
//!
//! The logit is the sum of [`crate::instruments::residual::attribution`]. What the dictionary reconstructs is a state of the stream or
//! a term of it, `y = Σ f_i w_i + b + e`, and its part of the sum is split: `u·y = Σ f_i (u·w_i) + u·b + u·e`, where `u` is the
//! token's direction pulled back through the final norm with its scale held constant, and through the norm of the written output,
//! if the family has one. Everything else of the stream is one row. Beside it stands a control: as many random features of the
//! dictionary with the same activations. Invariant: the rows sum to the model's own logit before a soft-cap, and the figure
//! carries the error. To split another part, add it to `SplitPart`.
//!
//! Sources: direct logit attribution: nostalgebraist 2020, Elhage et al. 2021; features and error nodes: Marks et al. 2024
//! (2403.19647), Ameisen et al. 2025.

use std::ops::Range;

use candle_core::Tensor;

use super::search::deviations;
use super::sum::{ControlDraw, DRAWS, FeatureEffect, FeatureSum, SplitPart};
use super::{DictionaryFiles, GivenDictionary, layer_of};
use crate::dictionaries::in_stream::{stream_vectors, written_at};
use crate::dictionaries::opened::named;
use crate::error::Result;
use crate::figure::builders::entries;
use crate::figure::{Anchor, Entry, Table, TablePage, TableRow};
use crate::instruments::params::{Count, LayerOrAll, Position, params};
use crate::instruments::residual::attribution::{Attribution, AttributionRequest, needs};
use crate::instruments::{Draft, Measurement};
use crate::lab::Lab;
use crate::lab::capture::{Capture, Needs};
use crate::lab::effect::EffectScale;
use crate::lab::logit_effects::{TopAndBottom, ValueNorm, logit_effects};
use crate::lab::run::Run;
use crate::lab::target::LogitTarget;
use crate::model::Card;
use crate::model::network::finite::order;

params! {
    /// What `feature-logits` is asked.
    pub struct FeatureLogitsParams {
        /// the dictionary: its name, or the folder or file, with @ADDRESS after it where its file does not say the place
        dictionary: String,
        /// the token whose log-probability or logit is split: a text (its first token) or #ID; "A" - "B" for a logit difference; by default the top prediction at each position
        token: Option<String>,
        on: EffectScale,
        /// how many features to list
        count: Count<1, 200> = "10",
        /// one layer of a set of dictionaries, or all
        layer: LayerOrAll = "all",
        /// the position whose next token is asked about
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
    const ABOUT: &'static str = "Which features of a dictionary wrote a token's log-probability or logit: direct attribution through their decoder vectors, with the error and the rest of the stream as parts";
    const SOURCE: &'static str = "direct logit attribution: nostalgebraist 2020, Elhage et al. 2021; features with their error: Marks et al. 2024 (2403.19647)";
    // The rest has changes by edits of the stream, which are recorded where edits act.
    const ROWS_FOLLOW_EDITS: bool = true;

    fn live(params: &FeatureLogitsParams, card: &Card) -> bool {
        named(&params.dictionary, card).is_some()
            && params.position == Position(-1)
            && !card.norms_stream
    }

    fn positions(params: &FeatureLogitsParams, run: &Run) -> Result<Range<usize>> {
        let end = params.position.within(run.tokens.len())? + 1;
        Ok(end - params.window.0.min(end)..end)
    }

    fn needs(params: &FeatureLogitsParams, run: &Run, lab: &Lab) -> Result<Needs> {
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
        let given = params.open(lab)?;
        let layer = params.layer.within(lab.model.card.layers)?;
        let splits = SplitPart::all(&given, layer)?;
        let question = AttributionRequest {
            target: LogitTarget::chosen(params.token.as_deref(), &lab.model)?,
            scale: params.on,
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
            .note("effect: direct effect on what the title names, act times the feature's vector times the token's direction; the final norm's scale is frozen, and later blocks do not react; all parts sum to it")
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
            draft = draft.note(sum.scale.note());
            draft = draft.notes(sum.scale.sum_note().map(String::from));
        }
        let mut notes: Vec<String> = sum.saturated.iter().cloned().collect();
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
            let [up, _] = TopAndBottom::of(logits, known).ids(found.act);
            let row = TableRow::feature(
                Anchor::cell(layer_of(placed), position),
                given.handle(placed, *feature, Some(found.act)),
                entries![
                    given.spell(placed, *feature),
                    found.effect as f32,
                    found.act,
                    z,
                    lab.visibles(up.iter().copied()),
                    given.label(placed, *feature)
                ],
            );
            rows.push(row.naming("promotes", up));
        }
        let anchor = Anchor::position(position);
        let mut line = |name: &str, value: f64, words: String| {
            let entries = entries![
                name,
                value as f32,
                Entry::Missing,
                Entry::Missing,
                words,
                ""
            ];
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
            "after {} · {}: {:.4}, the parts sum to {:.4}",
            lab.visible(of.run.tokens[position]),
            sum.scale.sum_of(target, lab),
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
