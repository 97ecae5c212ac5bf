//! A sentence on the contents of a checkpoint that were not read: other heads, adapters, further layers.
//!
//! Invariant: an ordinary checkpoint gives no sentence; buffers that the model computes itself, and parts of multimodal models
//! that are known to be unused, are not mentioned. To ignore another buffer, add it to [`BUFFERS`]; to recognise another head,
//! add a row to [`KINDS`].

/// The endings of buffer names.
const BUFFERS: [&str; 12] = [
    "inv_freq",
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
    ".cos_cached",
    ".sin_cached",
    "_extra_state",
    "position_ids",
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
];

/// Parts of the names of other components of a multimodal model.
const OTHER_PARTS: [&str; 4] = [
    "vision_tower.",
    "vision_model.",
    "multi_modal_projector.",
    "audio_tower.",
];

/// Parts of names, with what they show.
const KINDS: [(&str, &str); 16] = [
    ("lora_", "an adapter's tensors, which are not applied"),
    (
        "modules_to_save",
        "an adapter's tensors, which are not applied",
    ),
    (
        "lora_magnitude",
        "an adapter's tensors, which are not applied",
    ),
    ("score.", "a classification head"),
    ("classifier", "a classification head"),
    ("classification_head", "a classification head"),
    ("qa_outputs", "a question-answering head"),
    ("v_head", "a value head"),
    ("value_head", "a value head"),
    ("reward", "a reward head"),
    ("medusa", "heads for speculative decoding"),
    ("mtp", "heads that predict further tokens"),
    ("nextn", "heads that predict further tokens"),
    (
        "lm_head",
        "an unembedding, or its bias, that this family does not have",
    ),
    ("output.weight", "an unembedding that is not used"),
    ("_scale", "scales of quantized weights or caches"),
];

/// The most names that the sentence lists.
const LISTED: usize = 4;

/// The sentence, if there is anything to report.
pub(crate) fn sentence(unread: &[String], layers: usize) -> Option<String> {
    let left: Vec<&String> = unread
        .iter()
        .filter(|name| {
            !(BUFFERS.iter().any(|end| name.ends_with(end))
                || OTHER_PARTS.iter().any(|part| name.contains(part)))
        })
        .collect();
    if left.is_empty() {
        return None;
    }
    let kind = KINDS
        .iter()
        .find(|(part, _)| left.iter().any(|name| name.contains(part)))
        .map(|(_, kind)| format!(" ({kind})"))
        .or_else(|| {
            let beyond = left.iter().filter_map(|name| layer(name)).max()?;
            (beyond >= layers).then(|| format!(" (config.json says {layers} layers)"))
        })
        .or_else(|| {
            let biases = left
                .iter()
                .all(|name| name.rsplit('.').next() == Some("bias"));
            biases.then(|| " (config.json says there are no such biases)".to_owned())
        })
        .unwrap_or_default();
    let are = match left.len() {
        1 => "1 tensor of the file is".to_owned(),
        more => format!("{more} tensors of the file are"),
    };
    let names = crate::text::quoted(&left, LISTED);
    Some(format!("{are} not used: {names}{kind}."))
}

/// The layer number in a name.
fn layer(name: &str) -> Option<usize> {
    let mut parts = name.split('.');
    parts.find(|part| matches!(*part, "layers" | "h" | "blk"))?;
    parts.next()?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn said(names: &[&str]) -> Option<String> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        sentence(&names, 2)
    }

    #[test]
    fn buffers_and_towers_are_passed_over() {
        for name in [
            "model.layers.0.self_attn.rotary_emb.inv_freq",
            "h.0.attn.bias",
            "transformer.h.1.attn.masked_bias",
            "gpt_neox.layers.0.attention.masked_bias",
            "rope_freqs.weight",
            "vision_tower.vision_model.post_layernorm.bias",
        ] {
            assert_eq!(said(&[name]), None, "{name}");
        }
    }

    #[test]
    fn heads_layers_and_biases_are_named() {
        let one = said(&["score.weight"]).unwrap();
        assert_eq!(
            one,
            "1 tensor of the file is not used: `score.weight` (a classification head)."
        );
        assert!(
            said(&["model.layers.2.mlp.x.weight", "a.b"])
                .unwrap()
                .contains("says 2 layers")
        );
        let biases = said(&["model.layers.0.self_attn.q_proj.bias"; 6]).unwrap();
        assert!(
            biases.starts_with("6 tensors")
                && biases.contains("and 2 more")
                && biases.contains("no such biases"),
            "{biases}"
        );
        let lora = said(&["q_proj.lora_A.default.weight"]).unwrap();
        assert!(lora.contains("not applied"), "{lora}");
    }
}
