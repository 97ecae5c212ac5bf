//! What senders write on average, which a receiver has instead of what a circuit does not let through (mean ablation; Wang et al. 2022,
//! 2211.00593, section 3.1).
//!
//! The first position of a text is kept apart: what is written there is of another size in most models. Invariant: the mean of a stream is
//! the sum of the means of what was written into it, with the biases of attention, which belong to no head. To average over something
//! else, add a way to [`SenderMeans`].

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::edges::EdgeSet;
use super::graph::{CircuitGraph, Receiver, Sender};
use super::mixed::add;
use super::states::NodeValues;
use crate::error::Result;
use crate::model::Model;
use crate::model::host::ToHost;
use crate::model::network::site::Site;

/// The means of what every sender writes into the stream, `[senders, d_model]` each, sender after sender.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SenderMeans {
    /// At the first position of a text.
    pub first: Vec<f32>,
    /// Over all later positions.
    pub later: Vec<f32>,
    /// How many texts they were taken over.
    pub texts: usize,
    /// Over how many positions the later ones are means.
    pub positions: usize,
}

/// The sum of rows, and how many there were.
struct RowSum {
    sum: Vec<f64>,
    rows: usize,
}

impl RowSum {
    fn of(width: usize) -> Self {
        Self {
            sum: vec![0.0; width],
            rows: 0,
        }
    }

    fn add(&mut self, row: &[f32]) {
        let both = self.sum.iter_mut().zip(row);
        both.for_each(|(sum, x)| *sum += f64::from(*x));
        self.rows += 1;
    }

    fn mean(&self) -> Vec<f32> {
        let rows = self.rows.max(1) as f64;
        self.sum.iter().map(|sum| (sum / rows) as f32).collect()
    }
}

impl SenderMeans {
    /// The means over runs. Of texts of one token the later positions have what the first ones have.
    ///
    /// # Errors
    ///
    /// When something of a run was not recorded.
    pub fn over(runs: &[Arc<NodeValues>], graph: &CircuitGraph, model: &Model) -> Result<Self> {
        let b = &model.transformer.blueprint;
        let (d, width) = (b.d_model, b.head_dim);
        let averaged = |site: Site, layer: usize, line: usize| -> Result<[Vec<f32>; 2]> {
            let (mut first, mut later) = (RowSum::of(line), RowSum::of(line));
            for run in runs {
                for (position, row) in run.at(site.at(layer))?.chunks_exact(line).enumerate() {
                    if position == 0 {
                        &mut first
                    } else {
                        &mut later
                    }
                    .add(row);
                }
            }
            let later = if later.rows == 0 { &first } else { &later };
            Ok([first.mean(), later.mean()])
        };
        let mut own = averaged(Site::Embed, 0, d)?;
        let scale = b.residual_scale as f32;
        for layer in 0..graph.layers {
            let z = averaged(Site::Z, layer, graph.heads * width)?;
            // A head's write is linear in its z, so that the write of the mean is the mean of the writes.
            for head in 0..graph.heads {
                let z = z.iter().flat_map(|z| &z[head * width..(head + 1) * width]);
                let z: Vec<f32> = z.map(|x| x * scale).collect();
                let z = Tensor::from_vec(z, (2, width), &model.transformer.device)?;
                let written = model.transformer.head_product(layer, head, &z)?;
                let written = written.host_vec2::<f32>()?;
                let both = own.iter_mut().zip(written);
                both.for_each(|(own, written)| own.extend(written));
            }
            let mlp = averaged(Site::MlpAdd, layer, d)?;
            let both = own.iter_mut().zip(mlp);
            both.for_each(|(own, mlp)| own.extend(mlp));
        }
        let [first, later] = own;
        Ok(Self {
            first,
            later,
            texts: runs.len(),
            positions: runs.iter().map(|run| run.tokens.saturating_sub(1)).sum(),
        })
    }
}

/// The streams that means alone make.
#[derive(Clone, Debug)]
pub struct MeanStreams {
    pub graph: CircuitGraph,
    pub means: Arc<SenderMeans>,
    width: usize,
    /// By block, what attention adds apart from its heads, `[d_model]`; none without a bias.
    biases: Vec<Option<Vec<f32>>>,
    /// At the first position, then at later ones: the sums of the means of the first so many senders, `[senders + 1, d_model]`, with the
    /// bias of attention behind the last head of each block.
    sums: [Vec<f32>; 2],
}

impl MeanStreams {
    /// The streams of a model.
    ///
    /// # Errors
    ///
    /// When a bias cannot be read.
    pub fn new(graph: CircuitGraph, means: Arc<SenderMeans>, model: &Model) -> Result<Self> {
        let transformer = &model.transformer;
        let d = transformer.blueprint.d_model;
        let biases = transformer.blocks.iter().map(|block| {
            let Some(bias) = &block.attention.out.bias else {
                return Ok(None);
            };
            let scaled = (bias.to_dtype(DType::F32)? * transformer.blueprint.residual_scale)?;
            Ok(Some(scaled.host_vec1::<f32>()?))
        });
        let biases = biases.collect::<Result<Vec<_>>>()?;
        let summed = |means: &[f32]| {
            let mut sum = vec![0f64; d];
            let mut out = vec![0f32; d];
            for (number, mean) in means.chunks_exact(d).enumerate() {
                let mut add = |row: &[f32]| {
                    let both = sum.iter_mut().zip(row);
                    both.for_each(|(sum, x)| *sum += f64::from(*x));
                };
                add(mean);
                if let Sender::Head { layer, head } = graph.sender(number)
                    && head + 1 == graph.heads
                    && let Some(bias) = &biases[layer]
                {
                    add(bias);
                }
                out.extend(sum.iter().map(|x| *x as f32));
            }
            out
        };
        let sums = [summed(&means.first), summed(&means.later)];
        Ok(Self {
            graph,
            means,
            width: d,
            biases,
            sums,
        })
    }

    /// The mean of what a sender writes at a position, `[d_model]`.
    pub fn of_sender(&self, sender: usize, position: usize) -> &[f32] {
        let means = if position == 0 {
            &self.means.first
        } else {
            &self.means.later
        };
        &means[sender * self.width..][..self.width]
    }

    /// The stream that the first so many senders make at a position, `[d_model]`.
    pub fn up_to(&self, senders: usize, position: usize) -> &[f32] {
        &self.sums[usize::from(position > 0)][senders * self.width..][..self.width]
    }

    /// What a receiver reads of means alone at a position, `[d_model]`.
    pub fn of_receiver(&self, receiver: Receiver, position: usize) -> &[f32] {
        self.up_to(self.graph.reach(receiver), position)
    }

    /// What attention adds in a block if all of its heads write their means, `[d_model]`.
    pub fn of_attention(&self, layer: usize, position: usize) -> Vec<f32> {
        let mut sum = match &self.biases[layer] {
            Some(bias) => bias.clone(),
            None => vec![0.0; self.width],
        };
        for head in 0..self.graph.heads {
            let sender = self.graph.sender_number(Sender::Head { layer, head });
            add(&mut sum, self.of_sender(sender, position));
        }
        sum
    }
}

/// A circuit outside of which everything has its mean.
#[derive(Clone, Debug)]
pub struct MeanCircuit {
    /// The edges that are kept.
    pub edges: Arc<EdgeSet>,
    pub streams: Arc<MeanStreams>,
}

impl MeanCircuit {
    /// Whether both are one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.streams, &other.streams) && self.edges == other.edges
    }
}
