//! What a circuit is run with: the values of the corrupted run, which everything has that the circuit does not keep, and the changes of
//! senders under a circuit that was run before, from which a trial goes on.
//!
//! Invariant: all of it belongs to one pair of texts of one length; numbers are f32. To need another value of the corrupted run, add its site
//! to [`NodeValues::addresses`].

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::edges::EdgeSet;
use super::graph::CircuitGraph;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::host::ToHost;
use crate::model::network::site::{Address, Site};

/// The values of a run at the sites where senders write and receivers read.
#[derive(Clone, Debug, Default)]
pub struct NodeValues {
    /// How many tokens the text has.
    pub tokens: usize,
    values: HashMap<Address, Vec<f32>>,
}

impl NodeValues {
    /// What has to be recorded of the run.
    pub fn addresses(graph: &CircuitGraph) -> Vec<Address> {
        let mut all = vec![
            Site::Embed.at(0),
            Site::ResidPost.at(graph.layers.saturating_sub(1)),
        ];
        for layer in 0..graph.layers {
            let sites = [
                Site::ResidPre,
                Site::Q,
                Site::K,
                Site::V,
                Site::Z,
                Site::MlpAdd,
            ];
            all.extend(sites.map(|site| site.at(layer)));
            if !graph.parallel {
                all.push(Site::ResidMid.at(layer));
            }
        }
        all
    }

    /// The values of a run of so many tokens that was recorded at [`NodeValues::addresses`], all positions.
    ///
    /// # Errors
    ///
    /// When something was not recorded.
    pub fn of(
        graph: &CircuitGraph,
        tokens: usize,
        recorded: &HashMap<Address, Tensor>,
    ) -> Result<Self> {
        let mut values = HashMap::new();
        for at in Self::addresses(graph) {
            let own = recorded.get(&at);
            let own = own.ok_or_else(|| Error::Engine(format!("{at} was not recorded")))?;
            let own = own.to_dtype(DType::F32)?.flatten_all()?;
            values.insert(at, own.host_vec1::<f32>()?);
        }
        Ok(Self { tokens, values })
    }

    /// What every sender writes in this run, `[tokens, d_model]` each, in the order of senders.
    ///
    /// # Errors
    ///
    /// When a product fails.
    pub fn writes(&self, graph: &CircuitGraph, model: &Model) -> Result<Vec<Vec<f32>>> {
        self.written(graph, model, |at| Ok(self.at(at)?.to_vec()))
    }

    /// What every sender writes in this run less what it writes in another, as [`NodeValues::writes`] has it.
    ///
    /// # Errors
    ///
    /// When the runs are of different length.
    pub fn less(&self, other: &Self, graph: &CircuitGraph, model: &Model) -> Result<Vec<Vec<f32>>> {
        self.written(graph, model, |at| {
            let (own, other) = (self.at(at)?, other.at(at)?);
            if own.len() != other.len() {
                let expected = format!("as many tokens as the other run, {}", self.tokens);
                return Err(Error::argument(
                    "corrupt",
                    other.len().to_string(),
                    expected,
                ));
            }
            Ok(own.iter().zip(other).map(|(a, b)| a - b).collect())
        })
    }

    /// What senders write, from the values at the sites where they do.
    fn written(
        &self,
        graph: &CircuitGraph,
        model: &Model,
        value: impl Fn(Address) -> Result<Vec<f32>>,
    ) -> Result<Vec<Vec<f32>>> {
        let transformer = &model.transformer;
        let (width, heads) = (transformer.blueprint.head_dim, graph.heads);
        let scale = transformer.blueprint.residual_scale as f32;
        let mut out = vec![value(Site::Embed.at(0))?];
        for layer in 0..graph.layers {
            let z = value(Site::Z.at(layer))?;
            for head in 0..heads {
                let lines = z.chunks_exact(heads * width);
                let own = lines.flat_map(|line| &line[head * width..(head + 1) * width]);
                let own: Vec<f32> = own.map(|x| x * scale).collect();
                let own = Tensor::from_vec(own, (self.tokens, width), &transformer.device)?;
                let written = transformer.head_product(layer, head, &own)?;
                out.push(written.flatten_all()?.host_vec1()?);
            }
            out.push(value(Site::MlpAdd.at(layer))?);
        }
        Ok(out)
    }

    /// The numbers at an address, all positions.
    pub fn at(&self, at: Address) -> Result<&[f32]> {
        let own = self.values.get(&at).map(Vec::as_slice);
        own.ok_or_else(|| Error::Engine(format!("{at} of a run under a circuit was not kept")))
    }

    /// The memory that it holds, in bytes.
    pub fn bytes(&self) -> usize {
        self.values.values().map(|own| 4 * own.len()).sum()
    }
}

/// What every sender wrote under a circuit, as a change from the corrupted run.
#[derive(Clone, Debug)]
pub struct SenderChanges {
    /// The circuit.
    pub edges: Arc<EdgeSet>,
    /// By sender, `[tokens, d_model]`, as it enters the stream; none where it wrote what it wrote in the corrupted run.
    pub by_sender: Vec<Option<Arc<Vec<f32>>>>,
}

/// A circuit under which a row of a pass runs: its text is the clean one.
#[derive(Clone, Debug)]
pub struct CircuitRow {
    pub graph: CircuitGraph,
    /// The edges that are kept. What comes over another is the corrupted run's.
    pub edges: Arc<EdgeSet>,
    pub corrupted: Arc<NodeValues>,
    /// The same text under another circuit, whose values hold wherever both circuits make them alike; they are not computed again.
    pub base: Option<Arc<SenderChanges>>,
    /// Whether what senders write is wanted, as `Capture::changes`.
    pub keep: bool,
}

impl CircuitRow {
    /// The first block in which something has to be computed; the number of blocks if only what the logits read differs, or nothing.
    pub(crate) fn entry(&self) -> usize {
        let Some(base) = &self.base else {
            return 0;
        };
        let graph = &self.graph;
        let first = self.edges.first_difference(&base.edges);
        let layer = first.and_then(|edge| graph.ends(edge).1.layer());
        layer.unwrap_or(graph.layers)
    }
}
