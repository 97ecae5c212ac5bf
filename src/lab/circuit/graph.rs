//! The nodes of a model and the edges that it has between them.
//!
//! Senders are numbered in the order in which they write: the embedding, then of each block its heads and its MLP. A receiver reads
//! what was written before it, so that its edges come from the first so many senders. Receivers are numbered in the order in which they read:
//! of each block the queries, keys and values of its heads and its MLP, last the final norm. With grouped attention a key or a value is
//! that of a group of heads. In a block whose MLP reads beside attention no edge leads from one to the other.
//! Invariant: an edge is known by one number below [`CircuitGraph::edges`]; edges into one receiver follow each other.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::model::Model;

/// What writes into the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sender {
    /// The embedding, as it enters block 0.
    Embedding,
    /// An attention head, through its columns of the output projection.
    Head { layer: usize, head: usize },
    /// An MLP, or a mixture of experts as a whole.
    Mlp { layer: usize },
}

/// What reads of the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Receiver {
    /// The query of a head.
    Query {
        layer: usize,
        head: usize,
    },
    /// The key of a key-value head, which a group of heads shares.
    Key {
        layer: usize,
        head: usize,
    },
    /// The value of a key-value head.
    Value {
        layer: usize,
        head: usize,
    },
    Mlp {
        layer: usize,
    },
    /// The final norm, and with it the logits.
    Logits,
}

impl Sender {
    /// The block that it is in; none for the embedding.
    pub fn layer(self) -> Option<usize> {
        match self {
            Self::Embedding => None,
            Self::Head { layer, .. } | Self::Mlp { layer } => Some(layer),
        }
    }

    /// Its name, as in the files of EAP-IG: `input`, `a3.h1`, `m3`.
    pub fn name(self) -> String {
        match self {
            Self::Embedding => "input".into(),
            Self::Head { layer, head } => format!("a{layer}.h{head}"),
            Self::Mlp { layer } => format!("m{layer}"),
        }
    }
}

impl Receiver {
    /// The block that it is in; none for the logits.
    pub fn layer(self) -> Option<usize> {
        match self {
            Self::Query { layer, .. }
            | Self::Key { layer, .. }
            | Self::Value { layer, .. }
            | Self::Mlp { layer } => Some(layer),
            Self::Logits => None,
        }
    }

    /// Its name, as in the files of EAP-IG: `a3.h1<q>`, `m3`, `logits`. A key or value of a group has the number of its key-value head.
    pub fn name(self) -> String {
        match self {
            Self::Query { layer, head } => format!("a{layer}.h{head}<q>"),
            Self::Key { layer, head } => format!("a{layer}.h{head}<k>"),
            Self::Value { layer, head } => format!("a{layer}.h{head}<v>"),
            Self::Mlp { layer } => format!("m{layer}"),
            Self::Logits => "logits".into(),
        }
    }
}

/// The graph of a model: how many nodes it has, and which edges there can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CircuitGraph {
    pub layers: usize,
    pub heads: usize,
    /// Key-value heads; head `h` reads number `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Whether the MLP of a block reads what attention reads, without attention's own output.
    pub parallel: bool,
}

impl CircuitGraph {
    /// The graph of a model.
    ///
    /// # Errors
    ///
    /// When its heads do not add to the stream one by one, because what attention writes passes a norm as a whole.
    pub fn of(model: &Model) -> Result<Self> {
        let transformer = &model.transformer;
        let b = &transformer.blueprint;
        let refused = |why: &str| {
            Err(Error::Refused {
                address: "circuit".into(),
                why: format!("{why} Use patching, which takes one value at a time."),
            })
        };
        for block in &transformer.blocks {
            if block.norms_attn.stream.is_some() || block.norms_mlp.stream.is_some() {
                return refused(
                    "this family norms the whole residual stream after every component, so that what one of them wrote is not a term of what the next one reads.",
                );
            }
            if block.norms_attn.output.is_some() {
                return refused(
                    "this family norms the output of all heads together before it enters the residual stream, so that what one head adds depends on the others and no edge is that of one head.",
                );
            }
        }
        Ok(Self {
            layers: b.layers.len(),
            heads: b.heads,
            kv_heads: b.kv_heads,
            parallel: b.arrangement.is_parallel(),
        })
    }

    /// How many senders there are.
    pub fn senders(&self) -> usize {
        1 + self.layers * (self.heads + 1)
    }

    /// How many receivers there are.
    pub fn receivers(&self) -> usize {
        self.layers * self.in_block() + 1
    }

    /// Receivers of one block.
    fn in_block(&self) -> usize {
        self.heads + 2 * self.kv_heads + 1
    }

    /// How many edges there are.
    pub fn edges(&self) -> usize {
        self.offset(self.receivers())
    }

    /// The number of a sender.
    pub fn sender_number(&self, sender: Sender) -> usize {
        match sender {
            Sender::Embedding => 0,
            Sender::Head { layer, head } => 1 + layer * (self.heads + 1) + head,
            Sender::Mlp { layer } => 1 + layer * (self.heads + 1) + self.heads,
        }
    }

    /// The sender with a number.
    pub fn sender(&self, number: usize) -> Sender {
        let Some(after) = number.checked_sub(1) else {
            return Sender::Embedding;
        };
        let (layer, head) = (after / (self.heads + 1), after % (self.heads + 1));
        if head == self.heads {
            Sender::Mlp { layer }
        } else {
            Sender::Head { layer, head }
        }
    }

    /// The number of a receiver.
    pub fn receiver_number(&self, receiver: Receiver) -> usize {
        let (heads, kv) = (self.heads, self.kv_heads);
        let (layer, within) = match receiver {
            Receiver::Query { layer, head } => (layer, head),
            Receiver::Key { layer, head } => (layer, heads + head),
            Receiver::Value { layer, head } => (layer, heads + kv + head),
            Receiver::Mlp { layer } => (layer, heads + 2 * kv),
            Receiver::Logits => (self.layers, 0),
        };
        layer * self.in_block() + within
    }

    /// The receiver with a number.
    pub fn receiver(&self, number: usize) -> Receiver {
        let (layer, within) = (number / self.in_block(), number % self.in_block());
        let (heads, kv) = (self.heads, self.kv_heads);
        if layer >= self.layers {
            Receiver::Logits
        } else if within < heads {
            Receiver::Query {
                layer,
                head: within,
            }
        } else if within < heads + kv {
            Receiver::Key {
                layer,
                head: within - heads,
            }
        } else if within < heads + 2 * kv {
            Receiver::Value {
                layer,
                head: within - heads - kv,
            }
        } else {
            Receiver::Mlp { layer }
        }
    }

    /// Of how many senders a receiver can read: the first so many.
    pub fn reach(&self, receiver: Receiver) -> usize {
        let before = |layer: usize| 1 + layer * (self.heads + 1);
        match receiver {
            Receiver::Query { layer, .. }
            | Receiver::Key { layer, .. }
            | Receiver::Value { layer, .. } => before(layer),
            Receiver::Mlp { layer } if self.parallel => before(layer),
            Receiver::Mlp { layer } => before(layer) + self.heads,
            Receiver::Logits => self.senders(),
        }
    }

    /// How many edges lead into the receivers before this one.
    fn offset(&self, receiver: usize) -> usize {
        let (heads, kv) = (self.heads, self.kv_heads);
        let (layer, within) = (receiver / self.in_block(), receiver % self.in_block());
        let attended = heads + 2 * kv;
        let before = |layer: usize| 1 + layer * (heads + 1);
        let mlp = |layer: usize| before(layer) + if self.parallel { 0 } else { heads };
        let whole: usize = (0..layer.min(self.layers))
            .map(|l| attended * before(l) + mlp(l))
            .sum();
        if layer >= self.layers {
            whole + within * self.senders()
        } else {
            whole + within * before(layer)
        }
    }

    /// The edges into a receiver.
    pub fn into_receiver(&self, receiver: Receiver) -> Range<usize> {
        let start = self.offset(self.receiver_number(receiver));
        start..start + self.reach(receiver)
    }

    /// The number of an edge; none where there can be none.
    pub fn edge(&self, from: Sender, to: Receiver) -> Option<usize> {
        let (sender, range) = (self.sender_number(from), self.into_receiver(to));
        (sender < range.len()).then_some(range.start + sender)
    }

    /// The ends of an edge.
    pub fn ends(&self, edge: usize) -> (Sender, Receiver) {
        let (mut low, mut high) = (0, self.receivers());
        while high - low > 1 {
            let middle = usize::midpoint(low, high);
            if self.offset(middle) <= edge {
                low = middle;
            } else {
                high = middle;
            }
        }
        (self.sender(edge - self.offset(low)), self.receiver(low))
    }

    /// An edge, as the files of EAP-IG write it: `a0.h1->a5.h2<q>`.
    pub fn edge_name(&self, edge: usize) -> String {
        let (from, to) = self.ends(edge);
        format!("{}->{}", from.name(), to.name())
    }

    /// A receiver as figures name it: a key or value that a group of heads shares by the heads of that group, `a3.h2-3<k>`.
    pub fn label(&self, receiver: Receiver) -> String {
        let group = self.heads / self.kv_heads;
        let shared = |layer: usize, head: usize, part: &str| {
            let (first, last) = (head * group, (head + 1) * group - 1);
            format!("a{layer}.h{first}-{last}<{part}>")
        };
        match receiver {
            Receiver::Key { layer, head } if group > 1 => shared(layer, head, "k"),
            Receiver::Value { layer, head } if group > 1 => shared(layer, head, "v"),
            Receiver::Query { .. }
            | Receiver::Key { .. }
            | Receiver::Value { .. }
            | Receiver::Mlp { .. }
            | Receiver::Logits => receiver.name(),
        }
    }

    /// The edge of a name; none where the graph has no such edge.
    pub fn edge_named(&self, name: &str) -> Option<usize> {
        let (from, to) = name.split_once("->")?;
        let number = |text: &str, before: &str| -> Option<usize> {
            let digits = text.strip_prefix(before)?;
            (digits == "0" || !digits.starts_with('0'))
                .then(|| digits.parse().ok())
                .flatten()
        };
        let head = |text: &str| -> Option<(usize, usize)> {
            let (layer, head) = text.split_once('.')?;
            Some((number(layer, "a")?, number(head, "h")?))
        };
        let from = match from {
            "input" => Sender::Embedding,
            text if text.starts_with('m') => Sender::Mlp {
                layer: number(text, "m")?,
            },
            text => {
                let (layer, head) = head(text)?;
                Sender::Head { layer, head }
            }
        };
        let to = match to {
            "logits" => Receiver::Logits,
            text if text.starts_with('m') => Receiver::Mlp {
                layer: number(text, "m")?,
            },
            text => {
                let (node, part) = text.split_once('<')?;
                let (layer, head) = head(node)?;
                match part {
                    "q>" => Receiver::Query { layer, head },
                    "k>" => Receiver::Key { layer, head },
                    "v>" => Receiver::Value { layer, head },
                    _ => return None,
                }
            }
        };
        let fits = |layer: Option<usize>| layer.is_none_or(|layer| layer < self.layers);
        let head_fits = match to {
            Receiver::Query { head, .. } => head < self.heads,
            Receiver::Key { head, .. } | Receiver::Value { head, .. } => head < self.kv_heads,
            Receiver::Mlp { .. } | Receiver::Logits => true,
        };
        let from_fits = match from {
            Sender::Head { head, .. } => head < self.heads,
            Sender::Embedding | Sender::Mlp { .. } => true,
        };
        (fits(from.layer()) && fits(to.layer()) && head_fits && from_fits)
            .then(|| self.edge(from, to))
            .flatten()
    }

    /// The receivers through which something reaches a sender's output: of a head its query, key and value.
    pub fn inputs_of(&self, sender: Sender) -> Vec<Receiver> {
        match sender {
            Sender::Embedding => Vec::new(),
            Sender::Head { layer, head } => {
                let shared = head / (self.heads / self.kv_heads);
                vec![
                    Receiver::Query { layer, head },
                    Receiver::Key {
                        layer,
                        head: shared,
                    },
                    Receiver::Value {
                        layer,
                        head: shared,
                    },
                ]
            }
            Sender::Mlp { layer } => vec![Receiver::Mlp { layer }],
        }
    }

    /// The senders whose output a receiver goes into: of a key or value the heads of its group; none of the logits.
    pub fn outputs_of(&self, receiver: Receiver) -> Vec<Sender> {
        let group = self.heads / self.kv_heads;
        match receiver {
            Receiver::Query { layer, head } => vec![Sender::Head { layer, head }],
            Receiver::Key { layer, head } | Receiver::Value { layer, head } => {
                let heads = head * group..(head + 1) * group;
                heads.map(|head| Sender::Head { layer, head }).collect()
            }
            Receiver::Mlp { layer } => vec![Sender::Mlp { layer }],
            Receiver::Logits => Vec::new(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_numbered_without_gaps_and_named_as_others_name_them() {
        for (kv_heads, parallel) in [(4, false), (2, false), (1, true)] {
            let graph = CircuitGraph {
                layers: 3,
                heads: 4,
                kv_heads,
                parallel,
            };
            let mut next = 0;
            for number in 0..graph.receivers() {
                let receiver = graph.receiver(number);
                assert_eq!(graph.receiver_number(receiver), number);
                let range = graph.into_receiver(receiver);
                assert_eq!(range.start, next);
                next = range.end;
                for (sender, edge) in range.enumerate() {
                    let sender = graph.sender(sender);
                    assert_eq!(graph.ends(edge), (sender, receiver));
                    assert_eq!(graph.edge(sender, receiver), Some(edge));
                    assert_eq!(graph.edge_named(&graph.edge_name(edge)), Some(edge));
                }
            }
            assert_eq!(next, graph.edges());
            for number in 0..graph.senders() {
                assert_eq!(graph.sender_number(graph.sender(number)), number);
            }
            let label = graph.label(Receiver::Key { layer: 1, head: 0 });
            let expected = ["a1.h0<k>", "a1.h0-1<k>", "a1.h0-3<k>"];
            assert_eq!(label, expected[4 / kv_heads / 2]);
            // Nothing reads what comes after it, and beside attention the MLP does not read it.
            let own = Sender::Head { layer: 1, head: 0 };
            assert_eq!(graph.edge(own, Receiver::Query { layer: 1, head: 2 }), None);
            let mlp = graph.edge(own, Receiver::Mlp { layer: 1 });
            assert_eq!(mlp.is_none(), parallel);
        }
        for unknown in [
            "a0.h4->m1",
            "m0->a3.h0<q>",
            "a0.h0->a0.h1<q>",
            "m0",
            "a0.h0->m01",
        ] {
            let graph = CircuitGraph {
                layers: 3,
                heads: 4,
                kv_heads: 4,
                parallel: false,
            };
            assert_eq!(graph.edge_named(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn gpt2_small_has_as_many_edges_as_the_paper_counts() {
        let graph = CircuitGraph {
            layers: 12,
            heads: 12,
            kv_heads: 12,
            parallel: false,
        };
        assert_eq!(graph.edges(), 32_491);
    }
}
