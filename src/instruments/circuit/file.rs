//! Circuits as files: a JSON document with the edges and their scores, by the names that EAP-IG gives them, and where it comes from.
//!
//! Invariant: what is read is a circuit of the model that it is read for, or an error. To keep something else, add a field with a default.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::file::Overwrite;
use crate::lab::circuit::edges::EdgeSet;
use crate::lab::circuit::graph::CircuitGraph;
use crate::model::Card;

/// The most bytes that are read: edges of large models, named.
const MOST: u64 = 256 << 20;

/// What such a file says it is.
const FORMAT: &str = "lmscope circuit";

/// A circuit with where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CircuitFile {
    pub format: String,
    pub model: String,
    /// The fingerprint of the model's weights.
    pub revision: String,
    pub graph: GraphShape,
    /// How the edges were chosen.
    pub method: String,
    pub metric: String,
    /// The pairs: their file or the two prompts, how many, and a digest of their tokens.
    pub pairs: String,
    pub count: usize,
    pub digest: String,
    /// The share of the metric that it kept on those pairs.
    pub faithfulness: f64,
    pub edges: Vec<ScoredEdge>,
}

/// The shape of the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphShape {
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub parallel: bool,
}

/// An edge by its name, `a0.h1->a5.h2<q>`, and its score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoredEdge {
    pub edge: String,
    pub score: f64,
}

impl From<CircuitGraph> for GraphShape {
    fn from(graph: CircuitGraph) -> Self {
        Self {
            layers: graph.layers,
            heads: graph.heads,
            kv_heads: graph.kv_heads,
            parallel: graph.parallel,
        }
    }
}

impl CircuitFile {
    /// A file of these edges, without what is known of them.
    pub fn of(graph: &CircuitGraph, edges: &EdgeSet, scores: &[f64], card: &Card) -> Self {
        let edge = |edge: usize| ScoredEdge {
            edge: graph.edge_name(edge),
            score: scores.get(edge).copied().unwrap_or_default(),
        };
        Self {
            format: FORMAT.into(),
            model: card.name.clone(),
            revision: card.revision.clone(),
            graph: (*graph).into(),
            method: String::new(),
            metric: String::new(),
            pairs: String::new(),
            count: 0,
            digest: String::new(),
            faithfulness: f64::NAN,
            edges: edges.iter().map(edge).collect(),
        }
    }

    /// Writes it.
    ///
    /// # Errors
    ///
    /// When the file cannot be written, or is there already and must stay.
    pub fn save(&self, path: &Path, overwrite: Overwrite) -> Result<()> {
        let text = serde_json::to_string_pretty(self);
        let text = text.map_err(|e| Error::Engine(format!("a circuit as JSON: {e}")))?;
        crate::file::write(path, text.as_bytes(), overwrite)
    }

    /// Reads a circuit for a model.
    ///
    /// # Errors
    ///
    /// When it is not a file of a circuit, or belongs to other weights.
    pub fn load(path: &Path, card: &Card) -> Result<Self> {
        let text = crate::file::words_of(path, MOST)?;
        let next = "Give a file that `lmscope circuit MODEL ... --save FILE` wrote for this model.";
        let own: Self = serde_json::from_str(&text)
            .map_err(|e| Error::bad_file(path, format!("it is no circuit: {e}"), next))?;
        if own.format != FORMAT {
            let why = format!(
                "its format is {:?}, and {FORMAT:?} was expected",
                own.format
            );
            return Err(Error::bad_file(path, why, next));
        }
        if own.revision != card.revision {
            let why = format!(
                "it was made for weights with the fingerprint {}, and these have {}",
                own.revision, card.revision
            );
            return Err(Error::bad_file(path, why, next));
        }
        Ok(own)
    }

    /// Its edges and their scores, by edge.
    ///
    /// # Errors
    ///
    /// When the graph has no such edge.
    pub fn edges(&self, path: &Path, graph: &CircuitGraph) -> Result<(EdgeSet, Vec<f64>)> {
        let mut edges = EdgeSet::none(graph);
        let mut scores = vec![0.0; graph.edges()];
        for own in &self.edges {
            let Some(edge) = graph.edge_named(&own.edge) else {
                let why = format!(
                    "it has an edge {:?}, which this model's graph has not",
                    own.edge
                );
                let next = "Edges are written as a0.h1->a5.h2<q>, input->m0 or m3->logits.";
                return Err(Error::bad_file(path, why, next));
            };
            edges.set(edge, true);
            scores[edge] = own.score;
        }
        Ok((edges, scores))
    }
}
