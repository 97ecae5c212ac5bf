//! Models: tensors and the forward pass; knows nothing else of ours but errors and text.
//!
//! Invariant: whatever the argument was (the demo, a folder, a hub id), a [`Model`] is loaded by one path.
//! To add a family see [`crate::model::network::families`]; to add a site see [`crate::model::network::site`].

pub mod checkpoint;
pub mod gaussian;
pub mod hub;
pub mod kernels;
pub mod load;
pub mod memory;
mod memory_limits;
pub(crate) mod memory_map;
pub mod network;
pub mod tokenizer;
pub mod truncated_file;

use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::model::checkpoint::weights::Weights;
use crate::model::network::cache::Cache;
use crate::model::network::families::Family;
use crate::model::network::linear::Precision;
use crate::model::network::site::{Address, Site};
use crate::model::network::transformer::Transformer;
use crate::model::tokenizer::template::{ChatTemplate, Message};
use tokenizer::{Bos, Tokenizer};

/// What a model is, for headers, provenance and checks.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// The argument that named it.
    pub name: String,
    pub family: &'static str,
    /// The architecture, which decides what some borrowed names mean.
    pub blueprint: Arc<crate::model::network::blueprint::Blueprint>,
    /// Fingerprint of the weights, 16 hexadecimal digits.
    pub revision: String,
    /// How matrices are kept: `f32`, `f16`, `bf16`, `q8_0`.
    pub dtype: &'static str,
    /// Where it runs: `cpu`, `cuda:0`, `metal`.
    pub device: String,
    /// Number of weights.
    pub parameters: usize,
    /// Blocks.
    pub layers: usize,
    /// Residual width.
    pub d_model: usize,
    /// Neurons a block.
    pub d_mlp: usize,
    /// The layers whose neurons can be followed to the logits.
    pub neuron_layers: Vec<usize>,
    /// Whether what the MLP writes is normed before it is added.
    pub norms_writes: bool,
    /// Whether the stream itself is normed after every write, so that it is no sum of them.
    pub norms_stream: bool,
    /// Query heads.
    pub heads: usize,
    /// Rows of the unembedding.
    pub vocab: usize,
    /// Most tokens of one run.
    pub context: usize,
    /// Whether a chat template is there.
    pub chat: bool,
}

/// A loaded model.
pub struct Model {
    pub card: Card,
    /// The forward pass with its weights.
    pub transformer: Transformer,
    /// Its tokenizer; random test models have none.
    pub tokenizer: Option<Tokenizer>,
    pub template: Option<ChatTemplate>,
    /// What a reader should know of how it was loaded, in sentences.
    pub notes: Vec<String>,
    /// What comes up while it is used.
    pub remarks: Remarks,
    /// How much memory it was estimated to need before it was loaded; nothing for models that are made up.
    pub need: memory::MemoryNeed,
}

impl Model {
    /// A random model of a family, small enough for tests: two or three layers, odd widths, every bias.
    pub fn tiny(family: &'static Family, seed: u64) -> Result<Self> {
        let config = (family.tiny)();
        let blueprint = (family.blueprint)(&config)?;
        let weights = Weights::random(seed, Precision::Dense(DType::F32), &Device::Cpu);
        let context = blueprint.context;
        Self::assemble(
            format!("tiny-{}", family.name),
            family,
            blueprint,
            weights,
            context,
        )
    }

    /// Builds the model once its parts are known.
    pub(crate) fn assemble(
        name: String,
        family: &'static Family,
        blueprint: crate::model::network::blueprint::Blueprint,
        weights: Weights,
        context: usize,
    ) -> Result<Self> {
        let revision = format!("{:016x}", weights.fingerprint());
        let (transformer, notes) = Transformer::load(family, blueprint, weights, context)?;
        let b = &transformer.blueprint;
        let card = Card {
            name,
            family: b.family,
            blueprint: Arc::new(b.clone()),
            revision,
            dtype: transformer.precision.name(),
            device: device_name(&transformer.device),
            parameters: b.parameters(),
            layers: b.layers.len(),
            d_model: b.d_model,
            d_mlp: b.d_mlp,
            neuron_layers: transformer.neuron_layers(),
            norms_writes: transformer.norms_writes(),
            norms_stream: b.arrangement
                == crate::model::network::blueprint::BlockOrder::NormedStream,
            heads: b.heads,
            vocab: b.vocab,
            context,
            chat: false,
        };
        Ok(Self {
            card,
            transformer,
            tokenizer: None,
            template: None,
            notes,
            remarks: Remarks::default(),
            need: memory::MemoryNeed::default(),
        })
    }

    /// Parses an address, in our words or in those of TransformerLens, and says why it does not exist on this model.
    pub fn address(&self, text: &str) -> Result<Address> {
        let at = crate::model::network::address::resolve(text, &self.transformer.blueprint)?;
        self.offers(at)?;
        Ok(at)
    }

    /// Says why an address does not exist on this model.
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

    /// The width of a site's last axis, and for heads all of them together; 0 for positions.
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

    /// An empty cache for `batch` runs.
    pub fn cache(&self, batch: usize) -> Result<Cache> {
        let t = &self.transformer;
        Cache::new(&t.blueprint, batch, self.card.context, t.dtype(), &t.device)
    }

    /// What to say where the dtype made weights infinite that the file holds as numbers.
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

    /// Refuses a token that the embedding has no row for, by name.
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

    /// Refuses an empty prompt, one that leaves no room in the context, and tokens without a row.
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

    /// Text to ids, as the model's tokenizer does it; `chat` wraps it as one user turn. An empty text is what the tokenizer
    /// puts before every text, if it does.
    pub fn encode(&self, text: &str, chat: bool) -> Result<Vec<u32>> {
        if chat {
            if text.is_empty() {
                return Err(Error::EmptyPrompt);
            }
            return self.encode_chat(&[Message {
                role: "user".into(),
                content: text.into(),
            }]);
        }
        if text.is_empty() && self.tokenizer.is_none() {
            return Err(Error::EmptyPrompt);
        }
        let tokenizer = self.tokenizer()?;
        let ids = tokenizer.encode(text, Bos::Add)?;
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

    /// Turns to ids through the chat template, with the prompt for an answer at the end.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let template = self.template.as_ref().ok_or_else(|| Error::Text {
            what: format!("{} has no chat template", self.card.name),
            next: "Leave --chat out, and write the prompt as the model saw it in training.".into(),
        })?;
        self.tokenizer()?
            .encode(&template.render(messages, true)?, Bos::Raw)
    }

    /// The tokenizer, or a sentence.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| Error::Text {
            what: format!("{} has no tokenizer", self.card.name),
            next: "Put tokenizer.json (or vocab.json and merges.txt, or tokenizer.model) beside config.json, or give token ids with --ids.".into(),
        })
    }

    /// The bytes a token stands for; ids that no tokenizer knows are spelled as `[id]`.
    pub fn bytes(&self, id: u32) -> Vec<u8> {
        match &self.tokenizer {
            Some(tokenizer) if tokenizer.knows(id) => tokenizer.bytes(id).to_vec(),
            _ => format!("[{id}]").into_bytes(),
        }
    }

    /// Whether a token ends a text.
    pub fn is_end(&self, id: u32) -> bool {
        self.tokenizer
            .as_ref()
            .is_some_and(|t| t.eos().contains(&id))
    }

    /// Token ids that the tokenizer knows; rows of the unembedding past them are padding.
    pub fn known_tokens(&self) -> usize {
        self.tokenizer
            .as_ref()
            .map_or(self.card.vocab, |t| t.vocab_size().min(self.card.vocab))
    }
}

/// Notes that come up while a model is used: each is said once, at once where somebody listens, or kept until it is taken.
#[derive(Debug, Default)]
pub struct Remarks {
    /// Called with every remark at once, if set.
    pub listener: Option<fn(&str)>,
    /// All of them, and how many were taken.
    sentences: Mutex<(Vec<String>, usize)>,
}

impl Remarks {
    /// Says a sentence, unless it was said before.
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

    /// What was said since the last time.
    pub fn take(&self) -> Vec<String> {
        let Ok(mut sentences) = self.sentences.lock() else {
            return Vec::new();
        };
        let new = sentences.0[sentences.1..].to_vec();
        sentences.1 = sentences.0.len();
        new
    }
}

/// `cpu`, `cuda:0`, `metal`.
fn device_name(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".into(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { .. } => "metal".into(),
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
    /// Takes bytes in.
    pub fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// The hash so far.
    pub fn finish(self) -> u64 {
        self.0
    }

    /// The hash of numbers, for example a seed and what is drawn with it.
    pub fn of(numbers: impl IntoIterator<Item = u64>) -> u64 {
        let mut hash = Self::default();
        numbers
            .into_iter()
            .for_each(|n| hash.write(&n.to_le_bytes()));
        hash.finish()
    }
}
