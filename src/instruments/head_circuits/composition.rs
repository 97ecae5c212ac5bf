//! Composition: how strongly the output of a head stands in what a later head reads (Elhage et al. 2021, "Composition" and the
//! appendix on its measure).
//!
//! For heads 1 and 2 the score is `‖W₁ W₂‖ / (‖W₁‖ ‖W₂‖)` in Frobenius norms, with `W₁` the OV circuit of the earlier head and `W₂` what
//! the later one reads it by: its QK circuit on the side of queries (`q`) or of keys (`k`), or its OV circuit (`v`). Invariant: two
//! heads whose spaces in the stream have nothing to do with each other score `1/√d_model` in the mean square, so every score stands
//! beside that of the same two heads with the stream between them permuted and its signs drawn at random.

use candle_core::{DType, Tensor};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::HeadName;
use super::factors::Factor;
use crate::error::{Error, Result};
use crate::figure::builders::entries;
use crate::figure::{Anchor, AxisLabel, Cell, Grid, Scale, Table, TableRow};
use crate::instruments::params::{Count, choices, params};
use crate::instruments::{Draft, Measurement, Reads};
use crate::lab::Lab;
use crate::lab::run::Run;
use crate::model::host::ToHost;
use crate::model::memory;
use crate::model::network::finite::order;
use crate::model::network::head_circuits::HeadInput;
use crate::text::size;
use crate::vectors::function_vector::Head;

/// How often the stream between two heads is mixed for the control.
const DRAWS: u64 = 20;

choices! {
    /// What the later head reads the earlier one's output for.
    pub enum ComposedBy { Query = "q", Key = "k", Value = "v" }
}

params! {
    /// What `composition` is asked.
    pub struct CompositionParams {
        /// what the later head reads the earlier one's output for: q: its queries; k: its keys; v: its values
        by: ComposedBy = "k",
        /// one head as LAYER.HEAD: a grid of the earlier heads that it reads and the later ones that read it; without one, the strongest pairs of all
        head: Option<HeadName>,
        /// how many pairs to list
        count: Count<1, 1000> = "20",
        /// the seed of the control
        seed: Count<0, 1_000_000> = "0",
    }
}

pub struct Composition;

impl Measurement for Composition {
    type Params = CompositionParams;
    const NAME: &'static str = "composition";
    const ABOUT: &'static str = "How strongly the output of each head stands in what later heads read, from the weights alone (composition scores)";
    const SOURCE: &'static str =
        "Elhage et al. 2021, \"A Mathematical Framework for Transformer Circuits\"";
    const READS: Reads<CompositionParams> = Reads::Others;

    fn measure(params: &CompositionParams, _run: &Run, lab: &mut Lab) -> Result<Draft> {
        lab.model.transformer.check_head_writes()?;
        let head = params.head.map(|head| head.on(lab)).transpose()?;
        let card = &lab.model.card;
        if card.layers < 2 {
            return Err(Error::argument(
                "model",
                format!("{} layer", card.layers),
                "a model of two layers or more: heads of one layer do not read each other",
            ));
        }
        let sides = CircuitSides::of(lab, params.by)?;
        let word = match params.by {
            ComposedBy::Query => "queries",
            ComposedBy::Key => "keys",
            ComposedBy::Value => "values",
        };
        let chance = (card.d_model as f64).sqrt().recip();
        let draft = match head {
            Some(head) => grid(lab, &sides, head, chance)?
                .titled(format!("{}.{} · through {word}", head.0, head.1)),
            None => table(lab, &sides, params)?.titled(format!("through {word}")),
        };
        Ok(draft
            .note(format!("score: ‖W₁W₂‖/(‖W₁‖‖W₂‖) of the earlier head's OV circuit W₁ and the later head's {} W₂; 1 at the most; two heads that have nothing to do with each other score {chance:.4} (1/√d_model, root mean square)",
                match params.by {
                    ComposedBy::Query => "QK circuit on the side of its queries",
                    ComposedBy::Key => "QK circuit on the side of its keys",
                    ComposedBy::Value => "OV circuit",
                }))
            .note("from the weights alone: gains of norms are folded in; scales of norms, biases and the rotation by positions are left out, so queries and keys are compared at distance 0")
            .note("a high score says that a head can read another, not that it does so on a text: `patching` and `attention` show that"))
    }
}

/// What heads write and read, each divided by the norm of its circuit, so that a score is the norm of a product.
struct CircuitSides {
    /// By layer: `[heads * head_dim, d_model]`, f32.
    writes: Vec<Tensor>,
    reads: Vec<Tensor>,
    heads: usize,
}

impl CircuitSides {
    fn of(lab: &Lab, by: ComposedBy) -> Result<Self> {
        let model = &lab.model;
        let (card, shape) = (&model.card, &model.transformer.blueprint);
        let need = (8 * card.layers * card.heads * shape.head_dim * card.d_model) as u64;
        if let Some(free) = memory::available(&model.transformer.device)
            && need > free
        {
            return Err(Error::TooLarge {
                name: "The circuits of all heads".into(),
                need: size(need),
                free: size(free),
                next: "Take a smaller model: they are compared in f32".into(),
            });
        }
        let (mut writes, mut reads) = (Vec::new(), Vec::new());
        for layer in 0..card.layers {
            lab.report(0.7 * layer as f32 / card.layers as f32)?;
            let output = model.transformer.head_output_rows(layer)?;
            let rows = |input| model.transformer.head_input_rows(layer, input);
            let values = rows(HeadInput::Value)?;
            let (read, beside) = match by {
                ComposedBy::Query => (rows(HeadInput::Query)?, rows(HeadInput::Key)?),
                ComposedBy::Key => (rows(HeadInput::Key)?, rows(HeadInput::Query)?),
                ComposedBy::Value => (values.clone(), output.clone()),
            };
            writes.push(circuit_side(&output, &values, card.heads)?);
            reads.push(circuit_side(&read, &beside, card.heads)?);
        }
        Ok(Self {
            writes,
            reads,
            heads: card.heads,
        })
    }

    /// The scores of all heads of a layer with all of a later one: `[heads, heads]`, row after row.
    fn scores(&self, earlier: usize, later: usize) -> Result<Vec<f32>> {
        let heads = self.heads;
        let products = self.writes[earlier].matmul(&self.reads[later].t()?)?;
        let width = products.dim(0)? / heads;
        let blocks = products.sqr()?.reshape((heads, width, heads, width))?;
        let squares = blocks.sum((1, 3))?;
        Ok(squares.sqrt()?.flatten_all()?.host_vec1()?)
    }

    /// The rows of one head on one side.
    fn rows(&self, side: &[Tensor], (layer, head): Head) -> Result<Tensor> {
        let width = side[layer].dim(0)? / self.heads;
        Ok(side[layer].narrow(0, head * width, width)?)
    }

    /// The scores of two heads with the stream between them mixed: permuted, with random signs.
    fn controls(&self, (from, to): (Head, Head), seed: u64) -> Result<Vec<f64>> {
        let (writes, reads) = (self.rows(&self.writes, from)?, self.rows(&self.reads, to)?);
        let width = reads.dim(1)?;
        let device = reads.device();
        let mut rng = StdRng::seed_from_u64(seed);
        let draw = |_| -> Result<f64> {
            let mut places: Vec<u32> = (0..width as u32).collect();
            places.shuffle(&mut rng);
            let signs: Vec<f32> = (0..width)
                .map(|_| if rng.random::<bool>() { 1.0 } else { -1.0 })
                .collect();
            let mixed = reads
                .index_select(&Tensor::new(places, device)?, 1)?
                .broadcast_mul(&Tensor::new(signs, device)?)?;
            let square = writes.matmul(&mixed.t()?)?.sqr()?.sum_all()?;
            Ok(f64::from(square.host_scalar::<f32>()?).sqrt())
        };
        (0..DRAWS).map(draw).collect()
    }
}

/// One side of the circuits of all heads, times the root of the other side's Gram matrix, over the circuit's norm.
fn circuit_side(own: &Tensor, beside: &Tensor, heads: usize) -> Result<Tensor> {
    let mut all = Vec::new();
    let mut width = 0;
    for head in 0..heads {
        let (own, beside) = (Factor::of(own, head)?, Factor::of(beside, head)?);
        let side = own.times(&beside.root());
        let length = side.length().max(f64::MIN_POSITIVE);
        all.extend(side.rows.iter().map(|x| (x / length) as f32));
        width = side.width;
    }
    let device = own.device();
    Ok(
        Tensor::from_vec(all.clone(), (all.len() / width.max(1), width), device)?
            .to_dtype(DType::F32)?,
    )
}

/// The strongest pairs of all.
fn table(lab: &Lab, sides: &CircuitSides, params: &CompositionParams) -> Result<Draft> {
    let (layers, heads) = (lab.model.card.layers, sides.heads);
    let mut found: Vec<(f32, Head, Head)> = Vec::new();
    let mut all = 0usize;
    for later in 1..layers {
        lab.report(0.7 + 0.25 * later as f32 / layers as f32)?;
        for earlier in 0..later {
            let scores = sides.scores(earlier, later)?;
            if scores.iter().any(|s| !s.is_finite()) {
                return Err(lab.not_finite(&format!(
                    "Weights of heads of layer {earlier} or {later} are"
                )));
            }
            all += scores.len();
            let pairs = scores.into_iter().enumerate();
            found.extend(pairs.map(|(i, s)| (s, (earlier, i / heads), (later, i % heads))));
        }
        found.sort_by(|a, b| order(b.0, a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        found.truncate(params.count.0);
    }
    let mut rows = Vec::with_capacity(found.len());
    for (i, (score, from, to)) in found.iter().enumerate() {
        lab.report(0.95 + 0.05 * i as f32 / found.len() as f32)?;
        let controls = sides.controls((*from, *to), params.seed.0 as u64 + i as u64)?;
        let mean = controls.iter().sum::<f64>() / controls.len() as f64;
        let most = controls.iter().copied().fold(0f64, f64::max);
        rows.push(TableRow::at(
            Anchor::head(to.0, to.1),
            entries![
                format!("{}.{}", from.0, from.1),
                format!("{}.{}", to.0, to.1),
                *score,
                mean as f32,
                most as f32,
                *score / mean as f32,
            ],
        ));
    }
    let columns = [
        "from",
        "to",
        "score",
        "control",
        "largest control",
        "over control",
    ];
    Ok(Draft::of(Table::of(&columns, rows))
        .note(format!("the strongest of {all} pairs; control: the mean of {DRAWS} draws in which the stream between the two heads is permuted and its signs are drawn, and the largest of them")))
}

/// What one head reads and what reads it: layers by heads.
fn grid(lab: &Lab, sides: &CircuitSides, (layer, head): Head, chance: f64) -> Result<Draft> {
    let (layers, heads) = (lab.model.card.layers, sides.heads);
    let others: Vec<usize> = (0..layers).filter(|other| *other != layer).collect();
    let mut values = Vec::new();
    for (done, other) in others.iter().enumerate() {
        lab.report(0.7 + 0.3 * done as f32 / others.len() as f32)?;
        let scores = sides.scores(layer.min(*other), layer.max(*other))?;
        let own = |h: usize| {
            if *other < layer {
                scores[h * heads + head]
            } else {
                scores[head * heads + h]
            }
        };
        values.push((0..heads).map(own).collect::<Vec<f32>>());
    }
    if values.iter().flatten().any(|s| !s.is_finite()) {
        return Err(lab.not_finite("Weights of heads are"));
    }
    let cell = |row: usize, column: usize| {
        let value = values[row][column];
        Cell::of("", value, Anchor::head(others[row], column))
            .more([("times the chance level".to_string(), value / chance as f32)])
    };
    let rows = others.iter().map(|l| AxisLabel::layer(*l)).collect();
    let hi = values.iter().flatten().copied().fold(0f32, f32::max);
    let grid = Grid::of(
        ("layer", rows),
        ("head", AxisLabel::heads(heads)),
        "composition score",
        cell,
    );
    Ok(Draft::of(grid.scaled(Scale::up_to(hi))).note(format!(
        "rows below layer {layer}: heads whose output {layer}.{head} reads; rows above: heads that read the output of {layer}.{head}"
    )))
}
