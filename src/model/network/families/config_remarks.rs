//! Remarks for the user on keys of a config.json that are not used.
//!
//! Invariant: an ordinary model's configuration gives no remark; a key is left out silently only if it is known to change no
//! number, or if its value means nothing (null, false, 0, 1, an empty list). To silence another key, add it to [`HARMLESS`].

use serde_json::Value;

use super::{Family, config_defaults, names, rope_config};

/// Keys that change no number here: names, ids, settings of training and generation, and keys that other programs add.
const HARMLESS: &str = "
    _commit_hash _name_or_path _sliding_window_pattern architectures attention_probs_dropout_prob
    attention_softmax_in_fp32 attn_implementation auto_map bad_words_ids boi_token_index bos_token
    cache_implementation chunk_size_feed_forward compression_config custom_pipelines decoder_start_token_id
    do_sample dtype early_stopping eoi_token_index eos_token flash_attn forced_bos_token_id forced_eos_token_id
    full_attn_mod gradient_checkpointing hidden_dropout_prob id2label image_token_index is_llama_config
    keys_to_ignore_at_inference label2id max_length max_new_tokens max_sequence_length min_length
    mm_tokens_per_image model_max_length model_type n_ctx no_repeat_ngram_size num_labels output_attentions
    output_hidden_states pad_token prefix problem_type quantization_config repetition_penalty return_dict
    rope_interleaved scale_attention_softmax_in_fp32 seq_length task_specific_params temperature text_config
    tokenizer_class top_k top_p torch_dtype transformers.js_config transformers_version unsloth_fixed
    unsloth_version use_flash_attn use_flash_attention_2 vision_config
";

/// Keys that are read although no class lists them. Unused rope keys are reported by `ropes`.
const UNLISTED: &str = "
    head_dim original_max_position_embeddings partial_rotary_factor rope_local_base_freq rope_scaling rope_theta
    rotary_emb_base rotary_pct sliding_window_pattern
";

/// The most keys that one remark lists.
const LISTED: usize = 8;

/// Remarks on the keys of a configuration that are not used.
pub fn remarks(config: &Value, family: &Family) -> Vec<String> {
    let text = config.get("text_config").filter(|v| v.is_object());
    let text = text.unwrap_or(config);
    let mut out = rope_config::remarks(text, family.name);
    let Ok(class) = config_defaults::class(family.name) else {
        return out;
    };
    let unknown: Vec<&String> = text
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, value)| {
            let key = key.as_str();
            !(class.knows(key)
                || names(HARMLESS, key)
                || names(UNLISTED, key)
                || key.ends_with("_token_id")
                || means_nothing(value)
                || says_what_holds(key, value, text))
        })
        .map(|(key, _)| key)
        .collect();
    if !unknown.is_empty() {
        let keys = crate::text::quoted(&unknown, LISTED);
        let are = if unknown.len() == 1 {
            "it is"
        } else {
            "they are"
        };
        out.push(format!(
            "config.json sets {keys}, which {} does not know: {are} not used, as in transformers.",
            family.name
        ));
    }
    out
}

/// Whether a value is null, false, empty, or a number that neither adds nor scales (0, 1).
fn means_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(_) => [0.0, 1.0].map(Some).contains(&value.as_f64()),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// Whether an older key merely repeats what the model does anyway.
fn says_what_holds(key: &str, value: &Value, config: &Value) -> bool {
    let same = |other: &str| config.get(other).is_some_and(|v| v == value);
    match key {
        "hidden_activation" => same("hidden_act") || value == "gelu_pytorch_tanh",
        "hidden_act" => same("hidden_activation") || value == "gelu_pytorch_tanh",
        "activation_function" => same("hidden_act"),
        "layer_norm_epsilon" => same("norm_epsilon") || same("layer_norm_eps"),
        "norm_eps" => same("layer_norm_eps") || same("rms_norm_eps"),
        "mlp_type" => value == "default",
        "norm_type" => value == "layer_norm",
        "position_embedding_type" => value == "rope" || value == "absolute",
        "scale_attn_weights" => value == true,
        "max_window_layers" => true,
        "layer_types" => value
            .as_array()
            .is_some_and(|kinds| kinds.iter().all(|k| k == "full_attention")),
        _ => false,
    }
}
