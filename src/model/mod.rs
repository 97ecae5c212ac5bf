//! Models: tensors and the forward pass. Of our other modules it uses only errors, text and files.
//!
//! Invariant: whatever the argument (the demo, a folder, a hub id), there is only one way to load a [`Model`].
//! To add a family see [`crate::model::network::families`]; to add a site see [`crate::model::network::site`].

pub mod checkpoint;
mod device_memory;
pub mod devices;
pub mod folder_copy;
pub mod gaussian;
pub mod host;
pub mod hub;
pub mod kernels;
pub mod known;
pub mod load;
pub mod memory;
mod memory_limits;
pub(crate) mod memory_map;
pub mod network;
mod new_folder;
pub mod tokenizer;
pub mod truncated_file;

use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::model::checkpoint::weights::Weights;
use crate::model::network::blueprint::{BlockOrder, Blueprint};
use crate::model::network::cache::Cache;
use crate::model::network::families::Family;
use crate::model::network::linear::Precision;
use crate::model::network::placement::Placement;
use crate::model::network::site::{Address, Site};
use crate::model::network::transformer::Transformer;
use crate::model::tokenizer::encoding::{EncodedText, TextEncoding};
use crate::model::tokenizer::template::{ChatTemplate, Message};
use tokenizer::Tokenizer;

/// A description of a model, for headers, provenance and checks.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// The argument that named it.
    pub name: String,
    pub family: &'static str,
    /// The architecture; it decides the meaning of some TransformerLens names.
    pub blueprint: Arc<Blueprint>,
    /// Fingerprint of the weights, 16 hexadecimal digits.
    pub revision: String,
    /// How weight matrices are stored: `f32`, `f16`, `bf16`, `q8_0`.
    pub dtype: &'static str,
    /// Where it runs: `cpu`, `cuda:0`, `metal`.
    pub device: String,
    /// The number of weights.
    pub parameters: usize,
    /// The number of blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Neurons in the MLP of a block.
    pub d_mlp: usize,
    /// The layers whose neurons can be attributed to the logits.
    pub neuron_layers: Vec<usize>,
    /// Whether the MLP output is normed before it is added.
    pub norms_writes: bool,
    /// Whether the stream itself is normed after every addition, so that it is not a sum of component outputs.
    pub norms_stream: bool,
    /// Query heads.
    pub heads: usize,
    /// Rows of the unembedding.
    pub vocab: usize,
    /// The most tokens in a run.
    pub context: usize,
    /// Whether the model has a chat template.
    pub chat: bool,
}

impl Card {
    /// The card of a checkpoint of this architecture, in f32 on a CPU, without a chat template.
    pub(crate) fn of(name: String, revision: String, b: &Blueprint, context: usize) -> Self {
        Self {
            name,
            family: b.family,
            blueprint: Arc::new(b.clone()),
            revision,
            dtype: Precision::Dense(DType::F32).name(),
            device: "cpu".into(),
            parameters: b.parameters(),
            layers: b.layers.len(),
            d_model: b.d_model,
            d_mlp: b.d_mlp,
            neuron_layers: b.neuron_layers(),
            norms_writes: b.arrangement.norms_writes(),
            norms_stream: b.arrangement == BlockOrder::NormedStream,
            heads: b.heads,
            vocab: b.vocab,
            context,
            chat: false,
        }
    }

    /// Refuses what was made on other weights: `what` it is, on which model and revision, and how it should be (`a map made on`).
    pub(crate) fn check_made_on(
        &self,
        what: &str,
        (model, revision): (&str, &str),
        expected: &str,
    ) -> Result<()> {
        if revision == self.revision {
            return Ok(());
        }
        Err(Error::argument(
            what,
            format!("{model} ({revision})"),
            format!("{expected} this model, {} ({})", self.name, self.revision),
        ))
    }
}

/// A loaded model.
pub struct Model {
    pub card: Card,
    /// The forward pass with its weights.
    pub transformer: Transformer,
    /// The tokenizer; random test models have none.
    pub tokenizer: Option<Tokenizer>,
    pub template: Option<ChatTemplate>,
    /// The user's choices for all texts.
    pub encoding: TextEncoding,
    /// Notes for users on how it was loaded.
    pub notes: Vec<String>,
    /// Remarks that come up while the model is used.
    pub remarks: Remarks,
    /// The memory estimated for it before it was loaded; zero for random test models.
    pub need: memory::MemoryNeed,
}

impl Model {
    /// A random model of a family, small enough for tests: two or three layers, unusual widths, all biases nonzero.
    pub fn tiny(family: &'static Family, seed: u64) -> Result<Self> {
        Self::random(family, &(family.tiny)(), seed, &[])
    }

    /// A random model of a family in the shape that a configuration says, for tests; with a `split` over so many logical CPU devices.
    pub fn random(
        family: &'static Family,
        config: &Value,
        seed: u64,
        split: &[usize],
    ) -> Result<Self> {
        let blueprint = (family.blueprint)(config)?;
        let weights = Weights::random(seed, Precision::Dense(DType::F32), &Device::Cpu);
        let (context, blocks) = (blueprint.context, blueprint.layers.len());
        let last = split.len().saturating_sub(1);
        let given = if last == 0 {
            "cpu".to_owned()
        } else {
            format!("cpu:0-{last}")
        };
        let devices = devices::parse(&given)?;
        let placement = match split {
            [] | [_] => Placement::split(devices, &[blocks], blocks)?,
            counts => Placement::split(devices, counts, blocks)?,
        };
        Self::assemble(
            format!("tiny-{}", family.name),
            family,
            blueprint,
            weights,
            context,
            placement,
        )
    }

    /// Assembles the model from its parts.
    pub(crate) fn assemble(
        name: String,
        family: &'static Family,
        blueprint: Blueprint,
        weights: Weights,
        context: usize,
        placement: Placement,
    ) -> Result<Self> {
        let revision = format!("{:016x}", weights.fingerprint());
        let (transformer, notes) =
            Transformer::load(family, blueprint, weights, context, placement)?;
        let card = Card {
            dtype: transformer.precision.name(),
            device: devices::spelled(transformer.placement.devices()),
            ..Card::of(name, revision, &transformer.blueprint, context)
        };
        Ok(Self {
            card,
            transformer,
            tokenizer: None,
            template: None,
            encoding: TextEncoding::default(),
            notes,
            remarks: Remarks::default(),
            need: memory::MemoryNeed::default(),
        })
    }

    /// Parses an address, in our names or those of TransformerLens; the error says why it does not exist on this model.
    pub fn address(&self, text: &str) -> Result<Address> {
        let at = crate::model::network::address::resolve(text, &self.transformer.blueprint)?;
        self.offers(at)?;
        Ok(at)
    }

    /// An error that says why an address does not exist on this model, if it does not.
    pub fn offers(&self, at: Address) -> Result<()> {
        crate::model::network::site::check_layer(at, self.card.layers)?;
        match crate::model::network::address::why_absent(at, &self.transformer.blueprint) {
            Some(why) => Err(Error::Refused {
                address: at.to_string(),
                why,
            }),
            None => Ok(()),
        }
    }

    /// The width of a site's last axis, for head sites that of all heads together; 0 for sites over positions.
    pub fn width(&self, site: Site) -> usize {
        let b = &self.transformer.blueprint;
        match site.spec().axis {
            crate::model::network::site::Axis::Model => b.d_model,
            crate::model::network::site::Axis::Mlp => b.d_mlp,
            crate::model::network::site::Axis::Heads => b.heads * b.head_dim,
            crate::model::network::site::Axis::KvHeads => b.kv_heads * b.head_dim,
            crate::model::network::site::Axis::Experts => b.experts.map_or(0, |e| e.count),
            crate::model::network::site::Axis::Positions => 0,
            crate::model::network::site::Axis::Vocab => b.vocab,
        }
    }

    /// An empty cache for `batch` rows.
    pub fn cache(&self, batch: usize) -> Result<Cache> {
        let t = &self.transformer;
        let (context, dtype) = (self.card.context, t.dtype());
        Cache::new(&t.blueprint, batch, context, dtype, &t.placement)
    }

    /// A sentence for a model in which the conversion to the dtype made finite weights infinite.
    pub fn past_range(&self) -> Option<String> {
        let damage = self.transformer.damage.iter();
        let lost: Vec<_> = damage.filter(|d| !d.stored).collect();
        let first = lost.first()?;
        let count: usize = lost.iter().map(|d| d.count).sum();
        Some(format!(
            "{} cannot hold {count} of the weights, which became infinite (in `{}`{}): use --dtype f32",
            self.card.dtype,
            first.name,
            match lost.len() - 1 {
                0 => String::new(),
                1 => " and one more tensor".into(),
                more => format!(" and {more} more tensors"),
            }
        ))
    }

    /// Token ids as a `[1, tokens]` tensor on the model's device.
    pub fn tokens(&self, ids: &[u32]) -> Result<Tensor> {
        self.check_rows(ids)?;
        Ok(Tensor::new(ids, &self.transformer.device)?.unsqueeze(0)?)
    }

    /// Refuses a token for which the embedding has no row, by name.
    fn check_rows(&self, ids: &[u32]) -> Result<()> {
        let rows = self.card.vocab;
        let Some(&bad) = ids.iter().find(|id| **id as usize >= rows) else {
            return Ok(());
        };
        match &self.tokenizer {
            Some(tokenizer) if tokenizer.knows(bad) => Err(Error::Text {
                what: format!(
                    "The token `{}` (id {bad}) has no row in the model's embedding, which has {rows}: the tokenizer knows more tokens than the model",
                    tokenizer.visible(bad)
                ),
                next:
                    "Leave it out of the text, or take the tokenizer that belongs to these weights"
                        .into(),
            }),
            _ => Err(Error::argument(
                "ids",
                bad,
                format!("token ids below {rows}"),
            )),
        }
    }

    /// Refuses an empty prompt, one that leaves no room in the context, and tokens without a row in the embedding.
    pub fn check_prompt(&self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if ids.len() > self.card.context {
            let allows = self.transformer.blueprint.context;
            return Err(Error::PromptTooLong {
                tokens: ids.len(),
                context: self.card.context,
                allows,
            });
        }
        self.check_rows(ids)
    }

    /// Converts text to ids with the model's tokenizer and the user's choices ([`TextEncoding`]); with `chat` as one user turn. For an
    /// empty text the result is the tokens that the tokenizer adds to every text.
    pub fn encode(&self, text: &str, chat: bool) -> Result<Vec<u32>> {
        if chat {
            if text.is_empty() {
                return Err(Error::EmptyPrompt);
            }
            return Ok(self.encode_chat(&[Message::new("user", text)])?.tokens);
        }
        if text.is_empty() && self.tokenizer.is_none() {
            return Err(Error::EmptyPrompt);
        }
        let tokenizer = self.tokenizer()?;
        let ids = self.encoding.encode(tokenizer, text)?;
        if ids.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if let (Some(bos), [first, second, ..]) = (tokenizer.bos(), ids.as_slice())
            && (*first, *second) == (bos, bos)
        {
            self.remarks.say(format!(
                "the prompt spells out {0} and the tokenizer puts one before it, so there are two, as in Python; leave {0} out of the text for one.",
                tokenizer.visible(bos)
            ));
        }
        Ok(ids)
    }

    /// Converts turns to ids with the chat template, ending where the answer begins, or where its beginning ends: a last turn of the
    /// assistant is gone on with.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<EncodedText> {
        let template = self.template.as_ref().ok_or_else(|| Error::Text {
            what: format!("{} has no chat template", self.card.name),
            next: "Leave --chat out, and write the prompt as the model saw it in training.".into(),
        })?;
        let tokenizer = self.tokenizer()?;
        let (turns, begun) = self.encoding.conversation(messages)?;
        for name in template.unknown(&self.encoding.arguments) {
            self.remarks.say(format!(
                "the chat template does not use `{name}`, so --template-arg {name} changes nothing."
            ));
        }
        let rendered = template.render_with(&turns, true, &self.encoding.arguments)?;
        let before = self.encoding.encode_rendered(tokenizer, &rendered)?;
        if begun.is_empty() {
            return Ok(EncodedText {
                response: Some(before.len()),
                tokens: before,
            });
        }
        // A token may reach across the border; then the answer begins with it.
        let tokens = self
            .encoding
            .encode_rendered(tokenizer, &(rendered + &begun))?;
        let same = tokens
            .iter()
            .zip(&before)
            .take_while(|(a, b)| a == b)
            .count();
        Ok(EncodedText {
            tokens,
            response: Some(same),
        })
    }

    /// The tokenizer, or an error if there is none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| Error::Text {
            what: format!("{} has no tokenizer", self.card.name),
            next: "Put tokenizer.json (or vocab.json and merges.txt, or tokenizer.model) beside config.json, or give token ids with --ids.".into(),
        })
    }

    /// The bytes of a token; ids that the tokenizer does not know are spelled as `[id]`.
    pub fn bytes(&self, id: u32) -> Vec<u8> {
        match &self.tokenizer {
            Some(tokenizer) if tokenizer.knows(id) => tokenizer.bytes(id).to_vec(),
            _ => format!("[{id}]").into_bytes(),
        }
    }

    /// The bytes of every one of some tokens.
    pub fn pieces(&self, tokens: &[u32]) -> Vec<Vec<u8>> {
        tokens.iter().map(|id| self.bytes(*id)).collect()
    }

    /// A token's own text; none for one that holds only a part of a character.
    pub fn raw_text(&self, id: u32) -> Option<String> {
        String::from_utf8(self.bytes(id)).ok()
    }

    /// Whether a token ends a text.
    pub fn is_end(&self, id: u32) -> bool {
        self.tokenizer
            .as_ref()
            .is_some_and(|t| t.eos().contains(&id))
    }

    /// The number of token ids that the tokenizer knows; rows of the unembedding beyond them are padding.
    pub fn known_tokens(&self) -> usize {
        self.tokenizer
            .as_ref()
            .map_or(self.card.vocab, |t| t.vocab_size().min(self.card.vocab))
    }
}

/// Remarks that come up while a model is used. Each is reported only once: at once if there is a listener, else when it is
/// taken.
#[derive(Debug, Default)]
pub struct Remarks {
    /// Called with every remark, if set.
    pub listener: Option<fn(&str)>,
    /// All remarks, and the number of those that were taken.
    sentences: Mutex<(Vec<String>, usize)>,
}

impl Remarks {
    /// Adds a remark, unless it was made before.
    pub fn say(&self, sentence: String) {
        let Ok(mut sentences) = self.sentences.lock() else {
            return;
        };
        if sentences.0.contains(&sentence) {
            return;
        }
        if let Some(listener) = self.listener {
            listener(&sentence);
        }
        sentences.0.push(sentence);
    }

    /// The remarks since the last call.
    pub fn take(&self) -> Vec<String> {
        let Ok(mut sentences) = self.sentences.lock() else {
            return Vec::new();
        };
        let new = sentences.0[sentences.1..].to_vec();
        sentences.1 = sentences.0.len();
        new
    }
}

/// A 64-bit FNV-1a hash: the same on every machine and in every version, unlike the standard library's.
#[derive(Clone, Copy, Debug)]
pub struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fingerprint {
    /// Adds bytes to the hash.
    pub fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// The hash so far.
    pub fn finish(self) -> u64 {
        self.0
    }

    /// The hash of some numbers, for example of a seed and the index of a draw.
    pub fn of(numbers: impl IntoIterator<Item = u64>) -> u64 {
        let mut hash = Self::default();
        numbers
            .into_iter()
            .for_each(|n| hash.write(&n.to_le_bytes()));
        hash.finish()
    }
}
