//! Organisms: models whose weights are written by hand, so that what an instrument must find is known beforehand.
//!
//! Each is written as a folder (config.json, model.safetensors, tokenizer.json) and loaded as any folder is. The residual
//! stream has a *slot* for every symbol; a large constant, the ballast, keeps the norms nearly constant, so that a slot
//! that holds 1 reads as 1 after any of them. Heads look by real softmax attention: a query slot times a key slot, with a
//! gain in nats. Neurons are thresholds. In the `gpt2` layout every slot is a pair of opposite coordinates, so that the
//! mean that LayerNorm takes away is zero. To add an organism, wire one with [`Organism`] in a file of its own.

mod backpatch;
pub mod bilingual;
pub mod circuit;
mod echo;
mod folder;
pub mod induction;
mod patching;
mod relation;
pub mod repair;
mod sink;
pub mod two_hop;

use std::collections::BTreeMap;

use lmscope::lab::Lab;
use lmscope::lab::pass::Patch;
use lmscope::lab::run::Run;
use lmscope::lab::sample::log_softmax;
use lmscope::model::network::site::{Address, Site};

/// What every token holds in slot 0.
pub const BALLAST: f32 = 18.75;
/// How much more a sink is than other tokens: its norm becomes 300, and a power of two leaves its normed bits alone.
pub const LOUD: f32 = 16.0;
/// The slot of the ballast.
pub const ONE: usize = 0;
/// The slot that only the first token holds.
pub const BOS: usize = 1;
/// Slots from here on are the organism's own.
pub const FREE: usize = 2;
/// The first token of every prompt.
pub const BOS_ID: u32 = 0;
/// The token that ends a text.
pub const END_ID: u32 = 1;
/// How steep neurons are: half a unit of a slot is 100 before the activation, where SiLU and GELU are straight on one side
/// and zero to the bit on the other.
const STEEP: f32 = 200.0;

/// Which checkpoint layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// RMSNorm, rotary positions, gated SiLU, no biases; matrices `[out, in]`.
    Llama,
    /// LayerNorm, learned positions, plain GELU, biases; matrices `[in, out]`.
    Gpt2,
}

/// How large an organism is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub layout: Layout,
    pub layers: usize,
    pub heads: usize,
    /// Slots of the stream, with the two that all organisms have.
    pub slots: usize,
    /// Terms that a head may look by, and slots that it may copy.
    pub terms: usize,
    /// Neurons a block.
    pub neurons: usize,
    /// What the squares of a token's slots add up to, beside the ballast.
    pub extra: f32,
}

/// A linear reading of slots.
pub type Reading<'a> = &'a [(usize, f32)];

struct Matrix {
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// A checkpoint that is being wired.
pub struct Organism {
    size: Size,
    words: Vec<String>,
    width: usize,
    head_dim: usize,
    context: usize,
    /// Whether the tokenizer puts a space before a text.
    spaced: bool,
    /// Whether the unembedding is the embedding.
    tied: bool,
    tensors: BTreeMap<String, Matrix>,
    /// How many terms and copies a head has, and how many neurons a block.
    used: BTreeMap<(char, usize, usize), usize>,
}

impl Organism {
    /// All weights zero, all gains one, the ballast in every token. A word begins with a space or not, as it is given.
    pub fn new(size: Size, words: &[&str]) -> Self {
        let words: Vec<String> = ["<bos>", "<end>"]
            .iter()
            .chain(words)
            .map(ToString::to_string)
            .collect();
        let (width, head_dim) = match size.layout {
            // Twice the terms, so that all of them find coordinates that turn too slowly to matter.
            Layout::Llama => (size.slots.next_multiple_of(2), 2 * size.terms),
            Layout::Gpt2 => {
                let head_dim = (2 * size.slots).div_ceil(size.heads).max(size.terms);
                let head_dim = head_dim.next_multiple_of(2);
                (head_dim * size.heads, head_dim)
            }
        };
        let mut organism = Self {
            size,
            words,
            width,
            head_dim,
            context: 256,
            spaced: true,
            tied: false,
            tensors: BTreeMap::new(),
            used: BTreeMap::new(),
        };
        organism.lay_out();
        for token in 0..organism.words.len() {
            organism.embed(token as u32, ONE, BALLAST);
        }
        organism.embed(BOS_ID, BOS, 1.0);
        // What begins a text never comes later.
        organism.unembed(BOS_ID, ONE, -40.0 / BALLAST);
        organism
    }

    fn lay_out(&mut self) {
        let (d, vocab, inner) = (self.width, self.words.len(), self.size.neurons);
        let flat = self.size.heads * self.head_dim;
        let mut add = |name: String, shape: &[usize], value: f32| {
            let values = vec![value; shape.iter().product()];
            let shape = shape.to_vec();
            self.tensors.insert(name, Matrix { shape, values });
        };
        match self.size.layout {
            Layout::Llama => {
                add("model.embed_tokens.weight".into(), &[vocab, d], 0.0);
                add("model.norm.weight".into(), &[d], 1.0);
                for layer in 0..self.size.layers {
                    let at = |part: &str| format!("model.layers.{layer}.{part}.weight");
                    add(at("input_layernorm"), &[d], 1.0);
                    add(at("post_attention_layernorm"), &[d], 1.0);
                    for part in ["q", "k", "v"] {
                        add(at(&format!("self_attn.{part}_proj")), &[flat, d], 0.0);
                    }
                    add(at("self_attn.o_proj"), &[d, flat], 0.0);
                    add(at("mlp.gate_proj"), &[inner, d], 0.0);
                    add(at("mlp.up_proj"), &[inner, d], 0.0);
                    add(at("mlp.down_proj"), &[d, inner], 0.0);
                }
            }
            Layout::Gpt2 => {
                add("transformer.wte.weight".into(), &[vocab, d], 0.0);
                add("transformer.wpe.weight".into(), &[self.context, d], 0.0);
                add("transformer.ln_f.weight".into(), &[d], 1.0);
                add("transformer.ln_f.bias".into(), &[d], 0.0);
                for layer in 0..self.size.layers {
                    let at = |part: &str| format!("transformer.h.{layer}.{part}");
                    for norm in ["ln_1", "ln_2"] {
                        add(at(&format!("{norm}.weight")), &[d], 1.0);
                        add(at(&format!("{norm}.bias")), &[d], 0.0);
                    }
                    for (part, from, to) in [
                        ("attn.c_attn", d, 3 * d),
                        ("attn.c_proj", d, d),
                        ("mlp.c_fc", d, inner),
                        ("mlp.c_proj", inner, d),
                    ] {
                        add(at(&format!("{part}.weight")), &[from, to], 0.0);
                        add(at(&format!("{part}.bias")), &[to], 0.0);
                    }
                }
            }
        }
        add("lm_head.weight".into(), &[vocab, d], 0.0);
    }

    /// What the norms divide by: `1 / scale` is what a slot that holds 1 becomes.
    fn scale(&self) -> f32 {
        let copies = match self.size.layout {
            Layout::Llama => 1.0,
            Layout::Gpt2 => 2.0,
        };
        (copies * (BALLAST * BALLAST + self.size.extra) / self.width as f32).sqrt()
    }

    /// The coordinates that read a slot.
    fn read(&self, slot: usize) -> Vec<(usize, f32)> {
        assert!(slot < self.size.slots, "slot {slot}");
        match self.size.layout {
            Layout::Llama => vec![(slot, 1.0)],
            Layout::Gpt2 => vec![(slot, 0.5), (slot + self.width / 2, -0.5)],
        }
    }

    /// The coordinates that write a slot.
    fn write(&self, slot: usize) -> Vec<(usize, f32)> {
        assert!(slot < self.size.slots, "slot {slot}");
        match self.size.layout {
            Layout::Llama => vec![(slot, 1.0)],
            Layout::Gpt2 => vec![(slot, 1.0), (slot + self.width / 2, -1.0)],
        }
    }

    fn add(&mut self, name: &str, row: usize, column: usize, value: f32) {
        let matrix = self.tensors.get_mut(name).unwrap();
        assert!(row < matrix.shape[0] && column < matrix.shape[1], "{name}");
        matrix.values[row * matrix.shape[1] + column] += value;
    }

    /// Adds to a matrix, given as from where and to where, whichever way it is stored.
    fn connect(&mut self, name: &str, from: usize, to: usize, value: f32) {
        match self.size.layout {
            Layout::Llama => self.add(name, to, from, value),
            Layout::Gpt2 => self.add(name, from, to, value),
        }
    }

    fn next(&mut self, what: char, layer: usize, head: usize, most: usize) -> usize {
        let count = self.used.entry((what, layer, head)).or_default();
        *count += 1;
        assert!(
            *count <= most,
            "no room for another {what} in {layer}.{head}"
        );
        *count - 1
    }

    /// The id of a word.
    pub fn id(&self, word: &str) -> u32 {
        let at = self.words.iter().position(|w| w == word);
        at.unwrap_or_else(|| panic!("no word {word}")) as u32
    }

    /// Puts a number into a slot of a token's embedding.
    pub fn embed(&mut self, token: u32, slot: usize, value: f32) {
        let name = match self.size.layout {
            Layout::Llama => "model.embed_tokens.weight",
            Layout::Gpt2 => "transformer.wte.weight",
        };
        for (i, sign) in self.write(slot) {
            self.add(name, token as usize, i, value * sign);
        }
    }

    /// Puts a number into a slot of a position's embedding; only the `gpt2` layout learns positions.
    pub fn position(&mut self, position: usize, slot: usize, value: f32) {
        for (i, sign) in self.write(slot) {
            self.add("transformer.wpe.weight", position, i, value * sign);
        }
    }

    /// How many positions there are.
    pub fn context(&self) -> usize {
        self.context
    }

    /// A head looks where what `query` reads at one place meets what `key` reads at another: `gain` nats for their product.
    pub fn look(&mut self, layer: usize, head: usize, query: Reading, key: Reading, gain: f32) {
        let (width, head_dim) = (self.width, self.head_dim);
        let term = self.next('q', layer, head, self.size.terms);
        let scale = self.scale();
        let gain = gain * (head_dim as f32).sqrt() * scale * scale;
        let (q, k, to) = match self.size.layout {
            Layout::Llama => {
                // The slowest rotations first: coordinate i turns with i + head_dim / 2.
                let slow = head_dim / 2 - 1 - term / 2 + (term % 2) * (head_dim / 2);
                let at = |part: &str| format!("model.layers.{layer}.self_attn.{part}_proj.weight");
                let to = head * head_dim + slow;
                (at("q"), at("k"), (to, to))
            }
            Layout::Gpt2 => {
                let name = format!("transformer.h.{layer}.attn.c_attn.weight");
                let to = head * head_dim + term;
                (name.clone(), name, (to, to + width))
            }
        };
        for (slot, weight) in query {
            for (i, share) in self.read(*slot) {
                self.connect(&q, i, to.0, gain * weight * share);
            }
        }
        for (slot, weight) in key {
            for (i, share) in self.read(*slot) {
                self.connect(&k, i, to.1, weight * share);
            }
        }
    }

    /// A head that looks at the first token unless something else is worth more than `gain` nats.
    pub fn rest(&mut self, layer: usize, head: usize, gain: f32) {
        self.look(layer, head, &[(ONE, 1.0 / BALLAST)], &[(BOS, 1.0)], gain);
    }

    /// What a head takes from a slot where it looks, into a slot where it stands.
    pub fn copy(&mut self, layer: usize, head: usize, from: usize, to: usize) {
        self.copy_times(layer, head, (from, to), 1.0);
    }

    /// The same, so many times as much.
    pub fn copy_times(
        &mut self,
        layer: usize,
        head: usize,
        (from, to): (usize, usize),
        times: f32,
    ) {
        let (width, head_dim, scale) = (self.width, self.head_dim, self.scale());
        let term = self.next('v', layer, head, self.size.terms);
        let at = head * head_dim + term;
        let (v, out, inner) = match self.size.layout {
            Layout::Llama => (
                format!("model.layers.{layer}.self_attn.v_proj.weight"),
                format!("model.layers.{layer}.self_attn.o_proj.weight"),
                at,
            ),
            Layout::Gpt2 => (
                format!("transformer.h.{layer}.attn.c_attn.weight"),
                format!("transformer.h.{layer}.attn.c_proj.weight"),
                2 * width + at,
            ),
        };
        for (i, share) in self.read(from) {
            self.connect(&v, i, inner, share * scale);
        }
        for (i, sign) in self.write(to) {
            self.connect(&out, at, i, sign * times);
        }
    }

    /// A neuron: what `reads` adds up to, where that is above zero, is written into slots. Thresholds read [`ONE`].
    pub fn neuron(&mut self, layer: usize, reads: Reading, writes: Reading) {
        let neuron = self.next('n', layer, 0, self.size.neurons);
        let scale = self.scale();
        let (gate, down) = match self.size.layout {
            Layout::Llama => {
                let up = format!("model.layers.{layer}.mlp.up_proj.weight");
                self.connect(&up, ONE, neuron, scale / BALLAST);
                let at = |part: &str| format!("model.layers.{layer}.mlp.{part}_proj.weight");
                (at("gate"), at("down"))
            }
            Layout::Gpt2 => {
                let at = |part: &str| format!("transformer.h.{layer}.mlp.{part}.weight");
                (at("c_fc"), at("c_proj"))
            }
        };
        for (slot, weight) in reads {
            for (i, share) in self.read(*slot) {
                self.connect(&gate, i, neuron, STEEP * scale * weight * share);
            }
        }
        for (slot, weight) in writes {
            for (i, sign) in self.write(*slot) {
                self.connect(&down, neuron, i, weight * sign / STEEP);
            }
        }
    }

    /// A token's logit is `nats` for each unit of a slot.
    pub fn unembed(&mut self, token: u32, slot: usize, nats: f32) {
        let scale = self.scale();
        for (i, share) in self.read(slot) {
            self.add("lm_head.weight", token as usize, i, nats * share * scale);
        }
    }

    /// Texts are read as they are: the tokenizer puts no space before them.
    #[must_use]
    pub fn literal(mut self) -> Self {
        self.spaced = false;
        self
    }

    /// A token's logit is what the stream has of its embedding.
    #[must_use]
    pub fn tied(mut self) -> Self {
        self.tied = true;
        self.tensors.remove("lm_head.weight");
        self
    }

    /// Makes the first token a sink: its embedding is [`LOUD`] times as long, and so nothing that reads through a norm changes.
    #[must_use]
    pub fn loud(mut self) -> Self {
        let names = match self.size.layout {
            Layout::Llama => vec!["model.embed_tokens.weight"],
            Layout::Gpt2 => vec!["transformer.wte.weight", "transformer.wpe.weight"],
        };
        for name in names {
            let row = &mut self.tensors.get_mut(name).unwrap().values[..self.width];
            row.iter_mut().for_each(|v| *v *= LOUD);
        }
        self
    }
}

/// The tokens of a text, with the first token that the tokenizer puts there.
pub fn tokens(lab: &Lab, text: &str) -> Vec<u32> {
    lab.model.encode(text, false).unwrap()
}

/// The word of the most probable token of a row of logits, with its space.
pub fn said(lab: &Lab, row: &[f32]) -> String {
    String::from_utf8(lab.model.bytes(best(row))).unwrap()
}

/// The most probable token of a row of logits, the first of equals.
pub fn best(row: &[f32]) -> u32 {
    let more = |best: usize, i: usize| if row[i] > row[best] { i } else { best };
    (0..row.len()).fold(0, more) as u32
}

/// Probabilities of a row of logits.
pub fn probabilities(row: &[f32]) -> Vec<f32> {
    let mut row = row.to_vec();
    log_softmax(&mut row);
    row.iter().map(|v| v.exp()).collect()
}

/// The state of a run at an address and position, `[width]`.
pub fn state(lab: &mut Lab, run: &Run, at: Address, position: usize) -> candle_core::Tensor {
    let rows = lab.record(run, &[at]).unwrap();
    let row = rows.get(at).unwrap().narrow(0, position, 1).unwrap();
    row.squeeze(0).unwrap().force_contiguous().unwrap()
}

/// Logits of every layer's residual stream at a position, through the final norm and the unembedding.
pub fn lens(lab: &mut Lab, run: &Run, position: usize) -> Vec<Vec<f32>> {
    (0..lab.model.card.layers)
        .map(|layer| {
            let row = state(lab, run, Site::ResidPost.at(layer), position);
            let row = row.unsqueeze(0).unwrap();
            let logits = lab.model.transformer.unembed(&row).unwrap();
            logits.flatten_all().unwrap().to_vec1().unwrap()
        })
        .collect()
}

/// The logits after a run's last token when a vector is put into a slot of it.
pub fn patched(lab: &mut Lab, run: &Run, patch: Patch) -> Vec<f32> {
    let last = run.tokens.len() - 1;
    crate::tools::read_again(lab, run, last, &[patch])
}

/// The attention probabilities of a layer, `[heads][queries][keys]`.
pub fn attention(lab: &mut Lab, run: &Run, layer: usize) -> Vec<Vec<Vec<f32>>> {
    let at = Site::AttnProbs.at(layer);
    let rows = lab.record(run, &[at]).unwrap();
    rows.get(at).unwrap().to_vec3().unwrap()
}
