//! Circuits as files: a JSON document with the edges and their scores, by the names that EAP-IG gives them, and where it comes from; and
//! beside it a safetensors file with the means of what senders write, `first` and `later`, `[senders, d_model]` each.
//!
//! `gifts.json` has its means in `gifts.means.safetensors`, and their digest in itself, so that no others are taken for them. A document
//! without means is evaluated as any other; the edit `only` refuses it. Invariant: what is read is a circuit of the model that it is read
//! for, with its own means, or an error. To keep something else, add a field with a default.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::edges::EdgeSet;
use super::graph::CircuitGraph;
use super::means::SenderMeans;
use crate::edit::tensor_file::{self, NamedTensor, SavedTensors};
use crate::error::{Error, Result};
use crate::file::{self, Overwrite};
use crate::model::{Card, Fingerprint, Model};

/// The most bytes that are read: edges of large models, named.
const MOST: u64 = 256 << 20;

/// What such a file says it is.
const FORMAT: &str = "lmscope circuit";

/// The key of the metadata entry that says where means come from.
const ORIGIN: &str = "lmscope.circuit";

const NEXT: &str = "Give a file that `lmscope circuit MODEL ... --save FILE` wrote for this model.";

const NEXT_MEANS: &str = "Save the circuit again with its pairs: `lmscope circuit MODEL --pairs PAIRS --load FILE --save OTHER`.";

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
    /// What everything outside had: `corrupted` values or the `mean`.
    #[serde(default = "corrupted")]
    pub others: String,
    /// The share of the metric that it kept on those pairs; not a number where that is not known.
    #[serde(deserialize_with = "number")]
    pub faithfulness: f64,
    /// The means in the file beside it; none where there is no such file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub means: Option<MeansNote>,
    /// A digest of the edges and of the shares that were measured with them: a document that was changed since has another.
    #[serde(default)]
    pub measured: String,
    pub edges: Vec<ScoredEdge>,
}

/// What a document says of the means beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeansNote {
    /// How many texts they were taken over.
    pub texts: usize,
    /// Over how many positions those of later positions were.
    pub positions: usize,
    /// A digest of the numbers.
    pub digest: String,
    /// The share of the metric that the circuit kept on its pairs with them.
    #[serde(deserialize_with = "number")]
    pub faithfulness: f64,
}

/// A digest of means.
fn digest(means: &SenderMeans) -> String {
    let mut digest = Fingerprint::default();
    for number in means.first.iter().chain(&means.later) {
        digest.write(&number.to_le_bytes());
    }
    format!("{:016x}", digest.finish())
}

/// What everything outside of the circuits in older documents had.
fn corrupted() -> String {
    "corrupted".into()
}

/// JSON has no not-a-number: it is written as null.
fn number<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
}

/// The file of the means of a circuit: `gifts.means.safetensors` beside `gifts.json`.
pub fn means_path(path: &Path) -> PathBuf {
    path.with_extension("means.safetensors")
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

impl From<GraphShape> for CircuitGraph {
    fn from(shape: GraphShape) -> Self {
        Self {
            layers: shape.layers,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            parallel: shape.parallel,
        }
    }
}

/// A saved circuit with its means, which edits can name.
#[derive(Clone, Debug)]
pub struct SavedCircuit {
    pub file: CircuitFile,
    pub graph: CircuitGraph,
    pub edges: Arc<EdgeSet>,
    pub means: Arc<SenderMeans>,
}

impl SavedCircuit {
    /// Reads a circuit with its means for a model.
    ///
    /// # Errors
    ///
    /// When the family is refused, or those of [`CircuitFile::load`] and [`CircuitFile::means`].
    pub fn load(path: &Path, model: &Model) -> Result<Self> {
        // A family without circuits is refused whatever the file is.
        CircuitGraph::of(model)?;
        let file = CircuitFile::load(path, &model.card)?;
        let means = file.means(path, model)?;
        Self::of(file, means, path, model)
    }

    /// The same for the contents of both files; `name` is for messages.
    ///
    /// # Errors
    ///
    /// As [`SavedCircuit::load`].
    pub fn parse(name: &str, text: &str, means: &[u8], model: &Model) -> Result<Self> {
        let path = Path::new(name);
        let file = CircuitFile::parse(text, path, &model.card)?;
        let means = file.parse_means(means, path, model)?;
        Self::of(file, means, path, model)
    }

    fn of(file: CircuitFile, means: SenderMeans, path: &Path, model: &Model) -> Result<Self> {
        let graph = CircuitGraph::of(model)?;
        let (edges, _) = file.edges(path, &graph)?;
        Ok(Self {
            file,
            graph,
            edges: Arc::new(edges),
            means: Arc::new(means),
        })
    }

    /// Writes its edges and means into a digest.
    pub(crate) fn write_into(&self, into: &mut Fingerprint) {
        for edge in self.edges.iter() {
            into.write(&edge.to_le_bytes());
        }
        into.write(digest(&self.means).as_bytes());
    }

    /// How much it is and where it comes from, in a few words.
    pub fn about(&self) -> String {
        let kept = self.file.means.as_ref().map(|note| note.faithfulness);
        let kept = match kept.filter(|kept| kept.is_finite()) {
            Some(kept) => format!(", which keep {kept:.2} of the metric with means elsewhere"),
            None if self.file.means.is_none() => String::new(),
            None => "; how much of the metric they keep is not known: the file was changed after it was saved".into(),
        };
        let texts = if self.means.texts == 1 {
            "text"
        } else {
            "texts"
        };
        let about = format!(
            "{} of {} edges ({:.1} %){kept}; means over {} corrupted {texts} of {}",
            self.edges.len(),
            self.graph.edges(),
            100.0 * self.edges.len() as f64 / self.graph.edges() as f64,
            self.means.texts,
            self.file.pairs
        );
        crate::text::plain(about.as_bytes())
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
            others: corrupted(),
            faithfulness: f64::NAN,
            means: None,
            measured: String::new(),
            edges: edges.iter().map(edge).collect(),
        }
    }

    /// Refuses paths to which [`CircuitFile::save`] could not write; to be called before long work.
    ///
    /// # Errors
    ///
    /// Those of [`file::check`], for both files.
    pub fn check(path: &Path, overwrite: Overwrite) -> Result<()> {
        file::check(path, overwrite)?;
        if file::is_pipe(path) {
            return Ok(());
        }
        file::check(&means_path(path), overwrite)
    }

    /// Writes it, with its means beside it, with which it keeps `faithfulness` of the metric; into a pipe or a device without them.
    /// Returns whether the means are there.
    ///
    /// # Errors
    ///
    /// When a file cannot be written, or is there already and must stay.
    pub fn save(
        &self,
        path: &Path,
        means: &SenderMeans,
        faithfulness: f64,
        overwrite: Overwrite,
    ) -> Result<bool> {
        let beside = !file::is_pipe(path);
        let note = || MeansNote {
            texts: means.texts,
            positions: means.positions,
            digest: digest(means),
            faithfulness,
        };
        let mut own = Self {
            means: beside.then(note),
            ..self.clone()
        };
        own.measured = own.digest_of_measured();
        let text = serde_json::to_string_pretty(&own);
        let text = text.map_err(|e| Error::Engine(format!("a circuit as JSON: {e}")))?;
        let mut files = vec![(path.to_path_buf(), text.into_bytes())];
        if beside {
            files.push((means_path(path), self.means_bytes(means)?));
        }
        file::write_together(&files, overwrite)?;
        Ok(beside)
    }

    fn means_bytes(&self, means: &SenderMeans) -> Result<Vec<u8>> {
        let graph = CircuitGraph::from(self.graph);
        let d = means.first.len() / graph.senders();
        let tensor = |name: &str, values| NamedTensor {
            name: name.into(),
            shape: vec![graph.senders(), d],
            values,
        };
        let tensors = [
            tensor("first", &means.first[..]),
            tensor("later", &means.later),
        ];
        let origin = HashMap::from([
            ("model", self.model.as_str()),
            ("revision", self.revision.as_str()),
            ("pairs", self.pairs.as_str()),
        ]);
        tensor_file::bytes(&tensors, Some((ORIGIN, &origin)))
    }

    /// Reads a circuit for a model.
    ///
    /// # Errors
    ///
    /// When it is not a file of a circuit, or belongs to other weights.
    pub fn load(path: &Path, card: &Card) -> Result<Self> {
        Self::parse(&file::words_of(path, MOST)?, path, card)
    }

    /// The same for its text; `path` is for messages.
    ///
    /// # Errors
    ///
    /// As [`CircuitFile::load`].
    pub fn parse(text: &str, path: &Path, card: &Card) -> Result<Self> {
        let mut own: Self = serde_json::from_str(text)
            .map_err(|e| Error::bad_file(path, format!("it is no circuit: {e}"), NEXT))?;
        if own.format != FORMAT {
            let why = format!(
                "its format is {:?}, and {FORMAT:?} was expected",
                own.format
            );
            return Err(Error::bad_file(path, why, NEXT));
        }
        if own.revision != card.revision {
            let why = format!(
                "it was made for weights with the fingerprint {}, and these have {}",
                own.revision, card.revision
            );
            return Err(Error::bad_file(path, why, NEXT));
        }
        if own.measured != own.digest_of_measured() {
            own.faithfulness = f64::NAN;
            if let Some(note) = &mut own.means {
                note.faithfulness = f64::NAN;
            }
        }
        Ok(own)
    }

    /// What [`CircuitFile::measured`] is for these edges and shares, which are compared to six decimals.
    fn digest_of_measured(&self) -> String {
        let mut digest = Fingerprint::default();
        for own in &self.edges {
            digest.write(own.edge.as_bytes());
            digest.write(b"\n");
        }
        digest.write(format!("{:.6}\n", self.faithfulness).as_bytes());
        if let Some(note) = &self.means {
            digest.write(format!("{} {:.6}\n", note.digest, note.faithfulness).as_bytes());
        }
        format!("{:016x}", digest.finish())
    }

    /// Reads the means beside it.
    ///
    /// # Errors
    ///
    /// When it has none, or what is there is damaged or belongs to another circuit.
    pub fn means(&self, path: &Path, model: &Model) -> Result<SenderMeans> {
        self.note(path)?;
        let beside = means_path(path);
        if !beside.exists() {
            let why = "the means that belong to a circuit are missing beside it";
            return Err(Error::bad_file(&beside, why, NEXT_MEANS));
        }
        let bytes = file::read(&beside, file::NUMBERS)?;
        self.parse_means(&bytes, &beside, model)
    }

    fn note(&self, path: &Path) -> Result<&MeansNote> {
        self.means.as_ref().ok_or_else(|| {
            let why = "it has no means of what its heads and MLPs write, which everything outside the circuit would have";
            Error::bad_file(path, why, NEXT_MEANS)
        })
    }

    /// The same for the bytes of that file; `path` is for messages.
    ///
    /// # Errors
    ///
    /// As [`CircuitFile::means`].
    pub fn parse_means(&self, bytes: &[u8], path: &Path, model: &Model) -> Result<SenderMeans> {
        let note = self.note(path)?;
        let graph = CircuitGraph::of(model)?;
        let file = SavedTensors::parse(bytes, path, NEXT_MEANS)?;
        let shape = [graph.senders(), model.card.d_model];
        let values = |name: &str| {
            let values = file.values(name, &shape)?;
            values.ok_or_else(|| file.bad(format!("it lacks `{name}`")))
        };
        let own = SenderMeans {
            first: values("first")?,
            later: values("later")?,
            texts: note.texts,
            positions: note.positions,
        };
        if digest(&own) != note.digest {
            return Err(file.bad("it has the means of another circuit"));
        }
        Ok(own)
    }

    /// Its edges and their scores, by edge.
    ///
    /// # Errors
    ///
    /// When the graph has no such edge, or another shape than the document says.
    pub fn edges(&self, path: &Path, graph: &CircuitGraph) -> Result<(EdgeSet, Vec<f64>)> {
        let own = GraphShape::from(*graph);
        if self.graph != own {
            let shape = |of: GraphShape| {
                let GraphShape {
                    layers,
                    heads,
                    kv_heads,
                    parallel,
                } = of;
                let blocks = if parallel { "parallel" } else { "sequential" };
                format!("{layers} {blocks} blocks of {heads} heads ({kv_heads} of keys)")
            };
            let why = format!(
                "its graph has {}, and this model's {}",
                shape(self.graph),
                shape(own)
            );
            return Err(Error::bad_file(path, why, NEXT));
        }
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
            let twice = edges.contains(edge);
            if twice || !(own.score as f32).is_finite() {
                let why = if twice {
                    "twice"
                } else {
                    "with a score that is no finite number of 32 bits"
                };
                let why = format!("it has the edge {} {why}", own.edge);
                return Err(Error::bad_file(path, why, NEXT));
            }
            edges.set(edge, true);
            scores[edge] = own.score;
        }
        Ok((edges, scores))
    }
}

/// The circuits embedded in the binary, for the demo model (see demo/CARD.md): name, document and means.
#[cfg(feature = "demo")]
pub fn embedded() -> &'static [(&'static str, &'static str, &'static [u8])] {
    &[(
        "gifts",
        include_str!("../../../demo/circuits/gifts.json"),
        include_bytes!("../../../demo/circuits/gifts.means.safetensors"),
    )]
}

/// This build contains neither the demo model nor its circuits.
#[cfg(not(feature = "demo"))]
pub fn embedded() -> &'static [(&'static str, &'static str, &'static [u8])] {
    &[]
}
