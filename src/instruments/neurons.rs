//! Neurons that mattered: activations ranked, with what each one's value vector promotes and suppresses.
//!
//! Ranked by `|act|·‖v‖` (Geva et al. 2022, LM-Debugger 2204.12130) or by the direct effect on the favoured
//! token's logit, `act · v·(γ ⊙ W_U[t]) / scale` with the final norm's own scale at that position
//! (direct logit attribution). The direct effect ignores what later layers do with the write, and is on the logit before
//! a soft-cap. Where the family norms what the MLP writes, that norm's gain and its scale at the position are included.

use super::{Arguments, Instrument, Kind, Parameter};
use crate::error::{Error, Result};
use crate::lab::bench::Bench;
use crate::lab::figure::{Anchor, Body, Entry, Figure, Page, Row, Table, Unit};
use crate::lab::run::Run;
use crate::lab::sample::top;
use crate::lab::writer::{Needs, Step};
use crate::model::Card;
use crate::model::blueprint::NormKind;
use crate::model::site::{Address, Site};
use candle_core::{DType, Tensor};

/// The instrument.
pub struct Neurons;

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "count",
        kind: Kind::Count { lo: 1, hi: 200 },
        default: "12",
        about: "how many neurons to list at every position",
    },
    Parameter {
        name: "rank",
        kind: Kind::Choice(&["size", "effect"]),
        default: "size",
        about: "size: |activation| times the value vector's length; effect: on the favoured token's logit",
    },
    Parameter {
        name: "layer",
        kind: Kind::Layer,
        default: "all",
        about: "one layer, or all",
    },
    Parameter {
        name: "window",
        kind: Kind::Count { lo: 1, hi: 256 },
        default: "16",
        about: "how many of the last positions to read",
    },
];

const COLUMNS: &[&str] = &["neuron", "act", "size", "effect", "promotes", "suppresses"];

/// What one position looks like from here.
struct Sight {
    position: usize,
    /// Layers, with the activations of their neurons.
    activations: Vec<(usize, Vec<f32>)>,
    /// What writes of each of those layers were scaled by on their way into the stream.
    factors: Vec<f32>,
    /// The residual stream after the last block.
    last: Vec<f32>,
    /// The token the model favours next.
    favoured: u32,
}

impl Instrument for Neurons {
    fn name(&self) -> &'static str {
        "neurons"
    }

    fn about(&self) -> &'static str {
        "The neurons that wrote most at each position, and the tokens their value vectors promote"
    }

    fn source(&self) -> &'static str {
        "key-value memories: Geva et al. 2022 (2203.14680), LM-Debugger (2204.12130)"
    }

    fn parameters(&self) -> &'static [Parameter] {
        PARAMETERS
    }

    fn live(&self, card: &Card, _arguments: &Arguments) -> Option<Needs> {
        if card.neuron_layers.is_empty() {
            return None;
        }
        Some(Needs {
            record: addresses(card),
            unembed: Vec::new(),
        })
    }

    fn column(&self, step: &Step, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        let card = &bench.model.card;
        let rows: Vec<&Tensor> = addresses(card)
            .iter()
            .filter_map(|a| step.rows.get(a))
            .collect();
        // One transfer for all layers.
        let all = Tensor::cat(&rows, 0)?.to_vec1::<f32>()?;
        let mut rows = Rows::new(&all, card);
        let favoured = top(&step.logits, bench.model.known_tokens(), 1)[0].0;
        let sight = rows.sight(step.choice.position, favoured, bench);
        let page = self.page(&sight, &step.run, arguments, bench)?;
        Ok(self.figure(vec![page], &step.run, arguments, bench))
    }

    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        arguments.check(self)?;
        if bench.model.card.neuron_layers.is_empty() {
            return Err(bench.model.transformer.no_neurons());
        }
        let layers = bench.model.card.layers;
        let wanted = addresses(&bench.model.card);
        let recording = bench.record(run, &wanted)?;
        let total = run.tokens.len();
        let first = total - arguments.count(self, "window")?.min(total);
        let window = |at: Address| {
            recording
                .get(at)?
                .narrow(0, first, total - first)
                .map_err(Error::from)
        };
        let favoured = bench.read(&window(Site::ResidPost.at(layers - 1))?, 1)?;
        let recorded = wanted
            .iter()
            .map(|at| Ok(window(*at)?.to_dtype(DType::F32)?))
            .collect::<Result<Vec<_>>>()?;
        let recorded = Tensor::cat(&recorded, 1)?.to_vec2::<f32>()?;
        let mut pages = Vec::with_capacity(total - first);
        for (i, row) in recorded.iter().enumerate() {
            bench.report(i as f32 / (total - first) as f32)?;
            let sight =
                Rows::new(row, &bench.model.card).sight(first + i, favoured[i].top[0].0, bench);
            pages.push(self.page(&sight, run, arguments, bench)?);
        }
        Ok(self.figure(pages, run, arguments, bench))
    }
}

/// What is recorded, in this order: activations, the writes where they are normed, the end of the stream.
fn addresses(card: &Card) -> Vec<Address> {
    let of = |site: Site| card.neuron_layers.iter().map(move |l| site.at(*l));
    let writes = card.norms_writes.then(|| of(Site::MlpOut));
    of(Site::MlpAct)
        .chain(writes.into_iter().flatten())
        .chain([Site::ResidPost.at(card.layers - 1)])
        .collect()
}

/// One position's recorded rows, one after the other as [`addresses`] has them.
struct Rows<'a> {
    rest: &'a [f32],
    d_mlp: usize,
    d_model: usize,
}

impl<'a> Rows<'a> {
    fn new(rest: &'a [f32], card: &Card) -> Self {
        Self {
            rest,
            d_mlp: card.d_mlp,
            d_model: card.d_model,
        }
    }

    fn take(&mut self, width: usize) -> &'a [f32] {
        let (row, rest) = self.rest.split_at(width);
        self.rest = rest;
        row
    }

    fn sight(&mut self, position: usize, favoured: u32, bench: &Bench) -> Sight {
        let (card, transformer) = (&bench.model.card, &bench.model.transformer);
        let (d_mlp, d_model) = (self.d_mlp, self.d_model);
        let layers = &card.neuron_layers;
        let activations = layers
            .iter()
            .map(|layer| (*layer, self.take(d_mlp).to_vec()))
            .collect();
        let factors = layers.iter().map(|layer| {
            if card.norms_writes {
                transformer.write_factor(*layer, self.take(d_model))
            } else {
                1.0
            }
        });
        Sight {
            position,
            activations,
            factors: factors.collect(),
            last: self.take(d_model).to_vec(),
            favoured,
        }
    }
}

impl Neurons {
    fn page(
        &self,
        sight: &Sight,
        run: &Run,
        arguments: &Arguments,
        bench: &mut Bench,
    ) -> Result<Page> {
        let count = arguments.count(self, "count")?;
        let only = arguments.layer(self, "layer", bench.model.card.layers)?;
        let by_effect = arguments.text(self, "rank") == "effect";
        let scale = bench.model.transformer.norm.inverse_scale_of(&sight.last);
        let direction = bench.model.transformer.logit_direction(sight.favoured)?;
        let target = direction.to_vec1::<f32>()?;
        let norms = bench.cards.norms(&bench.model)?.to_vec();
        let mut ranked: Vec<(f32, u16, u32)> = Vec::new();
        let factor_of = |layer: usize| {
            let place = sight.activations.iter().position(|(l, _)| *l == layer);
            place.map_or(1.0, |i| sight.factors[i])
        };
        let shown = sight
            .activations
            .iter()
            .filter(|(l, _)| only.is_none_or(|o| o == *l));
        for (layer, row) in shown {
            let factor = factor_of(*layer);
            // Effects of all neurons at once: the target seen from the layer's value vectors.
            let view = by_effect
                .then(|| view(bench, *layer, &direction))
                .transpose()?;
            let weight = |i: usize| match &view {
                Some(view) => (row[i] * view[i] * scale * factor).abs(),
                None => row[i].abs() * norms[*layer][i] * factor,
            };
            let scores: Vec<f32> = (0..row.len()).map(weight).collect();
            ranked.extend(
                top(&scores, scores.len(), count)
                    .into_iter()
                    .map(|(i, s)| (s, *layer as u16, i)),
            );
        }
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        ranked.truncate(count);
        let neurons: Vec<(u16, u32)> = ranked.iter().map(|(_, l, i)| (*l, *i)).collect();
        bench.cards.prepare(&bench.model, &neurons)?;
        let rows = neurons.iter().filter_map(|&(layer, neuron)| {
            let card = bench.cards.get(layer, neuron)?;
            let (_, row) = sight
                .activations
                .iter()
                .find(|(l, _)| *l == usize::from(layer))?;
            let (act, factor) = (row[neuron as usize], factor_of(usize::from(layer)));
            let effect = act
                * scale
                * factor
                * card
                    .gained
                    .iter()
                    .zip(&target)
                    .map(|(v, u)| v * u)
                    .sum::<f32>();
            let words = |side: &[(u32, f32)]| {
                side.iter()
                    .take(4)
                    .map(|(id, _)| bench.visible(*id))
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            // A negative activation writes the opposite of the value vector.
            let (up, down) = if act < 0.0 {
                (&card.suppressed, &card.promoted)
            } else {
                (&card.promoted, &card.suppressed)
            };
            Some(Row {
                anchor: Anchor::cell(usize::from(layer), sight.position).with(Unit::Neuron(neuron)),
                entries: vec![
                    Entry::Text(format!("{layer}/{neuron}")),
                    Entry::Number(act),
                    Entry::Number(act.abs() * norms[usize::from(layer)][neuron as usize] * factor),
                    Entry::Number(effect),
                    Entry::Text(words(up)),
                    Entry::Text(words(down)),
                ],
            })
        });
        let rows = rows.collect();
        let title = format!(
            "after {} · effect on {}",
            bench.visible(run.tokens[sight.position]),
            bench.visible(sight.favoured)
        );
        Ok(Page {
            title,
            anchor: Anchor::position(sight.position),
            rows,
        })
    }

    fn figure(&self, pages: Vec<Page>, run: &Run, arguments: &Arguments, bench: &Bench) -> Figure {
        let rank = arguments.text(self, "rank");
        Figure {
            title: format!("neurons · by {rank}"),
            body: Body::Table(Table { columns: COLUMNS.iter().map(ToString::to_string).collect(), pages }),
            notes: vec![
                "size is |act|·‖v‖; effect is the direct effect on the favoured token's logit (before a soft-cap), before any later layer reacts".into(),
                "tokens are those the write promotes and suppresses at the sign of its activation".into(),
            ],
            check: None,
            provenance: bench.provenance(run, arguments.provenance(self)),
        }
    }
}

/// A logit direction's dot with every value vector of a layer through the final norm's gain: `[d_mlp]`.
fn view(bench: &Bench, layer: usize, direction: &Tensor) -> Result<Vec<f32>> {
    let transformer = &bench.model.transformer;
    let target = direction.mul(&transformer.norm.gain)?;
    let target = match transformer.norm.kind {
        NormKind::Rms | NormKind::Identity => target,
        // Centring the value vectors is the same as centring what they are compared with.
        NormKind::Layer => target.broadcast_sub(&target.mean_keepdim(0)?)?,
    };
    Ok(target
        .unsqueeze(0)?
        .matmul(&transformer.value_vectors(layer)?)?
        .squeeze(0)?
        .to_vec1()?)
}
