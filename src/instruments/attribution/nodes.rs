//! The nodes of a site: which numbers of a recorded value belong to each.
//!
//! Invariant: a node has the same meaning in every pair, so that its mean over them has one. To add a kind, give its site and the width of its parts.

use super::NodeKind;
use crate::error::{Error, Result};
use crate::figure::{Anchor, Unit};
use crate::lab::Lab;
use crate::lab::pairs::MeasuredPair;
use crate::model::network::site::{Address, Site};

/// The nodes of one kind: by layer, then by column (a head, a neuron, or an aligned pair of positions).
pub struct Nodes {
    pub kind: NodeKind,
    pub layers: usize,
    /// Nodes of a layer.
    pub columns: usize,
    /// The index of the first column, of positions: those before are equal in both runs.
    pub first: usize,
    /// How many numbers of a position belong to one node.
    pub width: usize,
    /// The addresses, a layer each; none where the layer has no such node (neurons of a mixture of experts).
    pub at: Vec<Option<Address>>,
}

impl NodeKind {
    pub fn site(self) -> Site {
        match self {
            Self::Heads => Site::Z,
            Self::Queries => Site::Q,
            Self::Keys => Site::K,
            Self::Values => Site::V,
            Self::Resid => Site::ResidPre,
            Self::Attn => Site::AttnOut,
            Self::Mlp => Site::MlpOut,
            Self::Neurons => Site::MlpAct,
        }
    }

    /// Whether a node is at one position, rather than a part of the value at all of them.
    pub fn by_position(self) -> bool {
        match self {
            Self::Resid | Self::Attn | Self::Mlp => true,
            Self::Heads | Self::Queries | Self::Keys | Self::Values | Self::Neurons => false,
        }
    }
}

impl Nodes {
    /// The nodes of a kind in these pairs.
    ///
    /// # Errors
    ///
    /// When pairs have different positions and nodes are positions, or no layer has such nodes.
    pub fn new(kind: NodeKind, lab: &Lab, pairs: &[MeasuredPair]) -> Result<Self> {
        let b = &lab.model.transformer.blueprint;
        let layers = b.layers.len();
        let (mut first, mut columns) = (
            0,
            match kind {
                NodeKind::Heads | NodeKind::Queries => b.heads,
                NodeKind::Keys | NodeKind::Values => b.kv_heads,
                NodeKind::Neurons => b.d_mlp,
                NodeKind::Resid | NodeKind::Attn | NodeKind::Mlp => 0,
            },
        );
        if kind.by_position() {
            let aligned = &pairs[0].runs.alignment;
            if let Some(other) = pairs
                .iter()
                .find(|p| p.runs.alignment.pairs != aligned.pairs)
            {
                return Err(Error::argument(
                    "site",
                    "a grid of positions",
                    format!(
                        "prompts of one length in the whole file, but some have {} and some {} tokens; site=heads takes any",
                        pairs[0].runs.clean.tokens.len(),
                        other.runs.clean.tokens.len()
                    ),
                ));
            }
            first = pairs
                .iter()
                .map(|p| p.runs.alignment.first)
                .min()
                .unwrap_or(0);
            columns = aligned.pairs.len() - first.min(aligned.pairs.len());
        }
        let at = (0..layers).map(|layer| Some(kind.site().at(layer)));
        let at: Vec<Option<Address>> = at
            .map(|at| at.filter(|at| lab.model.offers(*at).is_ok()))
            .collect();
        if columns == 0 || at.iter().all(Option::is_none) {
            return Err(Error::argument(
                "site",
                kind.site().spec().name,
                "a site that the model has, and prompts with tokens in common after the first difference",
            ));
        }
        Ok(Self {
            kind,
            layers,
            columns,
            first,
            width: match kind {
                NodeKind::Heads | NodeKind::Queries | NodeKind::Keys | NodeKind::Values => {
                    b.head_dim
                }
                NodeKind::Neurons => 1,
                NodeKind::Resid | NodeKind::Attn | NodeKind::Mlp => b.d_model,
            },
            at,
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.layers * self.columns
    }

    /// The addresses that there are.
    pub fn addresses(&self) -> Vec<Address> {
        self.at.iter().flatten().copied().collect()
    }

    /// Whether the model has a node.
    pub fn is_there(&self, node: usize) -> bool {
        self.at[node / self.columns].is_some()
    }

    /// The aligned pairs of positions over which a node lies, in a pair of runs.
    pub fn places<'a>(&self, node: usize, pair: &'a MeasuredPair) -> &'a [(usize, usize)] {
        let alignment = &pair.runs.alignment;
        if self.kind.by_position() {
            let at = self.first + node % self.columns;
            &alignment.pairs[at..=at]
        } else {
            alignment.pairs.get(alignment.first..).unwrap_or_default()
        }
    }

    /// Where a node's numbers begin in the value of one position.
    pub fn offset(&self, node: usize) -> usize {
        if self.kind.by_position() {
            0
        } else {
            node % self.columns * self.width
        }
    }

    /// The place in the model that a node is; heads and neurons at the clean run's last position.
    pub fn anchor(&self, node: usize, pair: &MeasuredPair) -> Anchor {
        let (layer, column) = (node / self.columns, node % self.columns);
        let last = pair.runs.clean.tokens.len() - 1;
        match self.kind {
            NodeKind::Resid | NodeKind::Attn | NodeKind::Mlp => {
                Anchor::cell(layer, pair.runs.alignment.pairs[self.first + column].0)
            }
            NodeKind::Neurons => Anchor::cell(layer, last).with(Unit::Neuron(column as u32)),
            NodeKind::Heads | NodeKind::Queries => {
                Anchor::cell(layer, last).with(Unit::Head(column as u32))
            }
            // A key or value of a group is no head of its own.
            NodeKind::Keys | NodeKind::Values => Anchor::cell(layer, last),
        }
    }
}
