//! Mixtral: Mistral with a mixture of experts in every block.

use serde_json::{Value, json};

use super::llama::{NAMES, common, slide_all};
use super::{ConfigReader, ExpertNames, Family, TensorNames};
use crate::error::Result;
use crate::model::network::blueprint::{Blueprint, Experts, MlpKind};

/// The family's row of [`super::FAMILIES`].
pub const MIXTRAL: Family = Family {
    name: "mixtral",
    model_types: &["mixtral"],
    differs: "a mixture of experts in every block; the chosen experts' weights are made to sum to one; w1 is the gate, w3 up, w2 down",
    blueprint: read,
    names: TensorNames {
        experts: ExpertNames {
            router: "block_sparse_moe.gate",
            gate: "block_sparse_moe.experts.{}.w1",
            up: "block_sparse_moe.experts.{}.w3",
            down: "block_sparse_moe.experts.{}.w2",
        },
        ..NAMES
    },
    tiny,
};

fn read(config: &Value) -> Result<Blueprint> {
    let read = ConfigReader(config);
    let mut blueprint = common(config, "mixtral")?;
    blueprint.experts = Some(Experts {
        count: read.count_or(&["num_local_experts"], 8)?,
        active: read.count_or(&["num_experts_per_tok"], 2)?,
        width: blueprint.d_mlp,
        renormalise: true,
    });
    blueprint.set_mlp(MlpKind::Experts);
    slide_all(&mut blueprint, read.window()?);
    Ok(blueprint)
}

fn tiny() -> Value {
    json!({
        "model_type": "mixtral", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 20, "vocab_size": 61, "max_position_embeddings": 96, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 9
    })
}
