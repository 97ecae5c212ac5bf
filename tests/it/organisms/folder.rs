//! What an organism is on disk: a folder as the hub has them, which is loaded as any folder is.
//!
//! To write another file, add it to [`Organism::save`].

use std::path::Path;

use lmscope::lab::Lab;
use lmscope::model::load::Options;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize_to_file};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{BOS_ID, END_ID, Layout, Organism};

impl Organism {
    fn config(&self) -> Value {
        let size = self.size;
        match size.layout {
            Layout::Llama => json!({
                "model_type": "llama", "architectures": ["LlamaForCausalLM"], "torch_dtype": "float32",
                "vocab_size": self.words.len(), "hidden_size": self.width, "intermediate_size": size.neurons,
                "num_hidden_layers": size.layers, "num_attention_heads": size.heads,
                "num_key_value_heads": size.heads, "head_dim": self.head_dim, "hidden_act": "silu",
                "rms_norm_eps": 1e-12, "rope_theta": 1e12, "max_position_embeddings": self.context,
                "tie_word_embeddings": self.tied, "bos_token_id": BOS_ID, "eos_token_id": END_ID
            }),
            Layout::Gpt2 => json!({
                "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "torch_dtype": "float32",
                "vocab_size": self.words.len(), "n_embd": self.width, "n_inner": size.neurons,
                "n_layer": size.layers, "n_head": size.heads, "n_positions": self.context,
                "layer_norm_epsilon": 1e-12, "activation_function": "gelu_new",
                "tie_word_embeddings": self.tied, "bos_token_id": BOS_ID, "eos_token_id": END_ID
            }),
        }
    }

    /// One token a word, spelled in bytes as GPT-2 does.
    fn tokenizer(&self) -> Value {
        let special = |id: u32| {
            json!({"id": id, "content": self.words[id as usize], "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true})
        };
        let vocab: serde_json::Map<String, Value> = self
            .words
            .iter()
            .enumerate()
            .map(|(id, word)| (spelled(word), json!(id)))
            .collect();
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": self.spaced, "trim_offsets": true, "use_regex": true});
        json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "added_tokens": [special(BOS_ID), special(END_ID)],
            "pre_tokenizer": bytes, "decoder": bytes,
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                    {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<bos>": {"id": "<bos>", "ids": [BOS_ID], "tokens": ["<bos>"]}}
            },
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
                "vocab": vocab, "merges": []}
        })
    }

    /// Writes the folder.
    pub fn save(&self, folder: &Path) {
        let put = |name: &str, value: &Value| {
            std::fs::write(folder.join(name), serde_json::to_vec(value).unwrap()).unwrap();
        };
        put("config.json", &self.config());
        put("tokenizer.json", &self.tokenizer());
        put(
            "tokenizer_config.json",
            &json!({"bos_token": "<bos>", "eos_token": "<end>", "tokenizer_class": "PreTrainedTokenizerFast"}),
        );
        let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, m)| {
                let bytes = m.values.iter().flat_map(|v| v.to_le_bytes()).collect();
                (name, &m.shape, bytes)
            })
            .collect();
        let views = bytes.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, (*shape).clone(), bytes).unwrap();
            (*name, view)
        });
        serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
    }

    /// Writes the folder somewhere and loads it.
    pub fn open(&self) -> Lab {
        let folder = TempDir::new().unwrap();
        self.save(folder.path());
        let options = Options {
            device: Some("cpu".into()),
            dtype: Some("f32".into()),
            ..Options::default()
        };
        Lab::open(folder.path().to_str().unwrap(), &options).unwrap()
    }
}

/// Bytes as the printable characters that stand for them in byte-level vocabularies.
fn spelled(word: &str) -> String {
    let mut spare = 0x100;
    let table: Vec<char> = (0..=255u8)
        .map(|byte| match byte {
            0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
            _ => {
                spare += 1;
                char::from_u32(spare - 1).unwrap()
            }
        })
        .collect();
    if word.starts_with('<') {
        return word.to_string();
    }
    word.bytes().map(|b| table[usize::from(b)]).collect()
}
