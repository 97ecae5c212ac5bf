//! Neurons that mattered: activations ranked, with what each one's value vector promotes and suppresses.
//!
//! Ranked by `|act|·‖v‖` (Geva et al. 2022, LM-Debugger 2204.12130) or by the direct effect on the favoured
//! token's logit, `act · v·(γ ⊙ W_U[t]) / scale` with the final norm's own scale at that position
//! (direct logit attribution). The direct effect ignores what later layers do with the write; soft-caps are left out.

use super::{Arguments, Instrument, Kind, Parameter};
use crate::error::Result;
use crate::lab::bench::Bench;
use crate::lab::figure::{Anchor, Body, Entry, Figure, Page, Row, Table, Unit};
use crate::lab::run::Run;
use crate::lab::sample::top;
use crate::lab::writer::{Needs, Step};
use crate::model::Card;
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
    /// Activations, a layer after the other.
    activations: Vec<Vec<f32>>,
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
        Some(Needs {
            record: addresses(card.layers),
            unembed: Vec::new(),
        })
    }

    fn column(&self, step: &Step, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        let layers = bench.model.card.layers;
        let rows: Vec<&Tensor> = addresses(layers)
            .iter()
            .filter_map(|a| step.rows.get(a))
            .collect();
        // One transfer for all layers.
        let all = Tensor::cat(&rows, 0)?.to_vec1::<f32>()?;
        let width = bench.model.card.d_mlp;
        let activations = all[..width * layers]
            .chunks_exact(width)
            .map(<[f32]>::to_vec)
            .collect();
        let favoured = top(&step.logits, bench.model.known_tokens(), 1)[0].0;
        let sight = Sight {
            position: step.choice.position,
            activations,
            last: all[width * layers..].to_vec(),
            favoured,
        };
        let page = self.page(&sight, &step.run, arguments, bench)?;
        Ok(self.figure(vec![page], &step.run, arguments, bench))
    }

    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        arguments.check(self)?;
        let layers = bench.model.card.layers;
        let recording = bench.record(run, &addresses(layers))?;
        let total = run.tokens.len();
        let first = total - arguments.count(self, "window")?.min(total);
        let last =
            recording
                .get(Site::ResidPost.at(layers - 1))?
                .narrow(0, first, total - first)?;
        let favoured = bench.read(&last, 1)?;
        let last = last.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        let mut activations: Vec<Vec<Vec<f32>>> = vec![Vec::new(); total - first];
        for layer in 0..layers {
            let rows = recording
                .get(Site::MlpAct.at(layer))?
                .narrow(0, first, total - first)?
                .to_dtype(DType::F32)?
                .to_vec2::<f32>()?;
            activations
                .iter_mut()
                .zip(rows)
                .for_each(|(held, row)| held.push(row));
        }
        let mut pages = Vec::with_capacity(total - first);
        for (i, (activations, last)) in activations.into_iter().zip(last).enumerate() {
            bench.report(i as f32 / (total - first) as f32)?;
            let sight = Sight {
                position: first + i,
                activations,
                last,
                favoured: favoured[i].top[0].0,
            };
            pages.push(self.page(&sight, run, arguments, bench)?);
        }
        Ok(self.figure(pages, run, arguments, bench))
    }
}

fn addresses(layers: usize) -> Vec<Address> {
    (0..layers)
        .map(|l| Site::MlpAct.at(l))
        .chain([Site::ResidPost.at(layers - 1)])
        .collect()
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
        let target = head_row(bench, sight.favoured)?;
        let norms = bench.cards.norms(&bench.model)?.to_vec();
        let shown = |layer: usize| only.is_none_or(|l| l == layer);
        // Effects of all neurons at once: the target seen from each layer's value vectors.
        let views: Vec<Option<Vec<f32>>> = (0..sight.activations.len())
            .map(|l| {
                if by_effect && shown(l) {
                    view(bench, l, &target).map(Some)
                } else {
                    Ok(None)
                }
            })
            .collect::<Result<_>>()?;
        let mut ranked: Vec<(f32, u16, u32)> = Vec::new();
        for (layer, row) in sight
            .activations
            .iter()
            .enumerate()
            .filter(|(l, _)| shown(*l))
        {
            let weight = |i: usize| match &views[layer] {
                Some(view) => (row[i] * view[i] * scale).abs(),
                None => row[i].abs() * norms[layer][i],
            };
            let scores: Vec<f32> = (0..row.len()).map(weight).collect();
            ranked.extend(
                top(&scores, scores.len(), count)
                    .into_iter()
                    .map(|(i, s)| (s, layer as u16, i)),
            );
        }
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        ranked.truncate(count);
        let neurons: Vec<(u16, u32)> = ranked.iter().map(|(_, l, i)| (*l, *i)).collect();
        bench.cards.prepare(&bench.model, &neurons)?;
        let rows = neurons.iter().filter_map(|&(layer, neuron)| {
            let card = bench.cards.get(layer, neuron)?;
            let act = sight.activations[usize::from(layer)][neuron as usize];
            let effect = act
                * scale
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
                    Entry::Number(act.abs() * norms[usize::from(layer)][neuron as usize]),
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
                "size is |act|·‖v‖; effect is the direct effect on the favoured token's logit, before any later layer reacts".into(),
                "tokens are those the write promotes and suppresses at the sign of its activation".into(),
            ],
            check: None,
            provenance: bench.provenance(run, arguments.provenance(self)),
        }
    }
}

/// A token's row of the unembedding, f32.
fn head_row(bench: &Bench, token: u32) -> Result<Vec<f32>> {
    let head = &bench.model.transformer.head;
    let weight = match head.as_dense() {
        Some(weight) => weight.clone(),
        None => head.weight()?,
    };
    Ok(weight
        .narrow(0, token as usize, 1)?
        .squeeze(0)?
        .to_dtype(DType::F32)?
        .to_vec1()?)
}

/// The target's dot with every value vector of a layer through the final norm's gain: `[d_mlp]`.
fn view(bench: &Bench, layer: usize, target: &[f32]) -> Result<Vec<f32>> {
    let transformer = &bench.model.transformer;
    let target = Tensor::new(target, &transformer.device)?.mul(&transformer.norm.gain)?;
    let target = match transformer.norm.kind {
        crate::model::blueprint::NormKind::Rms => target,
        // Centring the value vectors is the same as centring what they are compared with.
        crate::model::blueprint::NormKind::Layer => {
            target.broadcast_sub(&target.mean_keepdim(0)?)?
        }
    };
    Ok(target
        .unsqueeze(0)?
        .matmul(&transformer.blocks[layer].mlp.down.weight()?)?
        .squeeze(0)?
        .to_vec1()?)
}
