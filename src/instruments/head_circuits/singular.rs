//! The singular directions of a head's OV or QK circuit, with the tokens at their ends (Millidge and Black 2022, "The Singular Value
//! Decompositions of Transformer Weight Matrices are Highly Interpretable"; Elhage et al. 2021).
//!
//! `x W = Σ σ (x·u) z`: of the OV circuit a head reads along `u` and writes along `z`, of the QK circuit queries are read along `u` and
//! keys along `z`. Both ends of a direction are listed, since `(u, z)` and `(−u, −z)` are the same. Invariant: it is about weights alone.

use candle_core::{DType, Tensor};

use super::HeadName;
use super::factors::{Factor, SingularDirection, singular_directions};
use crate::error::Result;
use crate::figure::builders::entries;
use crate::figure::{Anchor, Table, TableRow};
use crate::instruments::params::{Count, choices, params};
use crate::instruments::{Draft, Measurement, Reads};
use crate::lab::Lab;
use crate::lab::logit_effects::{TopAndBottom, ValueNorm, logit_effects};
use crate::lab::run::Run;
use crate::model::Model;
use crate::model::host::ToHost;
use crate::model::network::finite;
use crate::model::network::head_circuits::HeadInput;
use crate::vectors::function_vector::Head;

/// How many token embeddings are read at once.
const ROWS: usize = 4096;

choices! {
    /// The circuit.
    pub enum HeadCircuit { Ov = "ov", Qk = "qk" }
}

choices! {
    /// The tokens by which what a head reads is named.
    pub enum ReadThrough { Embedding = "embedding", Unembedding = "unembedding" }
}

params! {
    /// What `head-svd` is asked.
    pub struct HeadSvdParams {
        /// the head, as LAYER.HEAD
        head: HeadName = "0.0",
        /// ov: what it reads and writes; qk: which queries attend to which keys
        circuit: HeadCircuit = "ov",
        /// how many singular directions to list
        count: Count<1, 256> = "8",
        /// the tokens that stand for what is read: embedding: as they enter the first block; unembedding: as they are predicted, which suits later layers
        through: ReadThrough = "embedding",
    }
}

pub struct HeadSvd;

impl Measurement for HeadSvd {
    type Params = HeadSvdParams;
    const NAME: &'static str = "head-svd";
    const ABOUT: &'static str = "The singular directions of a head's OV or QK circuit, with the tokens that it reads and writes along them";
    const SOURCE: &'static str =
        "Millidge and Black 2022 (SVD of weight matrices); Elhage et al. 2021";
    const READS: Reads<HeadSvdParams> = Reads::Others;

    fn measure(params: &HeadSvdParams, _run: &Run, lab: &mut Lab) -> Result<Draft> {
        let (layer, head) = params.head.on(lab)?;
        let transformer = &lab.model.transformer;
        let rows = |input| Factor::of(&transformer.head_input_rows(layer, input)?, head);
        let (a, b) = match params.circuit {
            HeadCircuit::Ov => {
                transformer.check_head_writes()?;
                let output = transformer.head_output_rows(layer)?;
                (rows(HeadInput::Value)?, Factor::of(&output, head)?)
            }
            HeadCircuit::Qk => (rows(HeadInput::Query)?, rows(HeadInput::Key)?),
        };
        if !a.rows.iter().chain(&b.rows).all(|x| x.is_finite()) {
            return Err(lab.not_finite(&format!("Weights of head {layer}.{head} are")));
        }
        let (found, squares, fourth) = singular_directions(&a, &b, params.count.0);
        lab.report(0.3)?;
        let left: Vec<&[f32]> = found.iter().map(|d| d.left.as_slice()).collect();
        let right: Vec<&[f32]> = found.iter().map(|d| d.right.as_slice()).collect();
        let read = |rows: &[&[f32]]| match params.through {
            ReadThrough::Embedding => embedded(lab, layer, rows),
            ReadThrough::Unembedding => promoted(&lab.model, rows),
        };
        let ends = match params.circuit {
            HeadCircuit::Ov => (read(&left)?, promoted(&lab.model, &right)?),
            HeadCircuit::Qk => (read(&left)?, read(&right)?),
        };
        let sides = match params.circuit {
            HeadCircuit::Ov => ["reads", "writes"],
            HeadCircuit::Qk => ["query", "key"],
        };
        let rows = table((&found, squares), &ends, sides, (layer, head), lab);
        let columns = ["direction", "value", "share", sides[0], sides[1]];
        let through = match params.through {
            ReadThrough::Embedding => {
                "reads: tokens whose embedding, normed as this layer norms it, lies furthest along the direction; in later layers the stream holds more than the token"
            }
            ReadThrough::Unembedding => {
                "reads: tokens whose prediction lies furthest along the direction (unembedding with the final norm's gain)"
            }
        };
        let word = params.circuit.print_name();
        Ok(Draft::of(Table::of(&columns, rows))
            .titled(format!("{layer}.{head} · {word} circuit"))
            .note("each singular direction has two ends, + and −; share: of the sum of all squared singular values")
            .note(format!("effective rank {:.1} of {}: (Σσ²)²/Σσ⁴", squares * squares / fourth.max(f64::MIN_POSITIVE), a.rows.len() / a.width.max(1)))
            .note(through)
            .note("from the weights alone: gains of norms are folded in; scales of norms, biases and the rotation by positions are left out"))
    }
}

impl HeadCircuit {
    fn print_name(self) -> &'static str {
        match self {
            Self::Ov => "OV",
            Self::Qk => "QK",
        }
    }
}

fn table(
    (found, squares): (&[SingularDirection], f64),
    (reads, writes): &(Vec<TopAndBottom>, Vec<TopAndBottom>),
    sides: [&str; 2],
    (layer, head): Head,
    lab: &Lab,
) -> Vec<TableRow> {
    let ends = found.iter().zip(reads.iter().zip(writes)).enumerate();
    let rows = ends.flat_map(|(i, (direction, (reads, writes)))| {
        let share = direction.value.powi(2) / squares.max(f64::MIN_POSITIVE);
        let ends = reads.ids(1.0).into_iter().zip(writes.ids(1.0));
        ["+", "−"]
            .into_iter()
            .zip(ends)
            .map(move |(sign, (read, written))| {
                let words = |ids: &[u32]| lab.visibles(ids.iter().copied());
                let name = format!("{}{sign}", i + 1);
                let (value, share) = (direction.value as f32, share as f32);
                TableRow::at(
                    Anchor::head(layer, head),
                    entries![name, value, share, words(&read), words(&written)],
                )
                .naming(sides[0], read)
                .naming(sides[1], written)
            })
    });
    rows.collect()
}

/// The tokens whose embeddings lie furthest along each direction, as a layer norms them.
fn embedded(lab: &Lab, layer: usize, directions: &[&[f32]]) -> Result<Vec<TopAndBottom>> {
    let (model, transformer) = (&lab.model, &lab.model.transformer);
    let known = model.known_tokens();
    let matrix = matrix(model, directions)?.t()?.contiguous()?;
    let norm = transformer.blocks[layer].norms_attn.input.as_ref();
    let mut along: Vec<Vec<f32>> = vec![Vec::with_capacity(known); directions.len()];
    for first in (0..known).step_by(ROWS) {
        lab.report(0.3 + 0.6 * first as f32 / known as f32)?;
        let ids: Vec<u32> = (first as u32..(first + ROWS).min(known) as u32).collect();
        let rows = transformer.embed_tokens(&Tensor::new(ids, &transformer.device)?)?;
        let rows = rows.to_dtype(DType::F32)?;
        let mut products = rows.matmul(&matrix)?;
        if let Some(norm) = norm {
            products = products.broadcast_mul(&norm.inverse_scale(&rows)?)?;
        }
        for row in products.host_vec2::<f32>()? {
            along.iter_mut().zip(row).for_each(|(all, x)| all.push(x));
        }
    }
    if !along.iter().all(|row| finite::all(row)) {
        return Err(lab.not_finite("Token embeddings are"));
    }
    Ok(along
        .into_iter()
        .map(|row| TopAndBottom::of(row, known))
        .collect())
}

/// The tokens that each direction promotes and suppresses, after the final norm's gain.
fn promoted(model: &Model, directions: &[&[f32]]) -> Result<Vec<TopAndBottom>> {
    let (_, logits) = logit_effects(model, &matrix(model, directions)?, ValueNorm::Gained)?;
    let known = model.known_tokens();
    Ok(logits
        .into_iter()
        .map(|row| TopAndBottom::of(row, known))
        .collect())
}

fn matrix(model: &Model, directions: &[&[f32]]) -> Result<Tensor> {
    let shape = (directions.len(), model.card.d_model);
    Ok(Tensor::from_vec(
        directions.concat(),
        shape,
        &model.transformer.device,
    )?)
}
