"""The checkpoints: a tiny config of every family, in which every multiplier, cap, epsilon and bias differs from its default.

`matters` names keys of config.json with another value, usually the one that a reader who ignores the key would use; the
logits of the long prompt must change by far more than the tests' tolerance, so that no key is there in vain.
"""

from dataclasses import dataclass, field

from transformers import (
    CohereConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OlmoConfig,
    OlmoeConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
)

from record import Family

WINDOW = 16  # shorter than the long prompt, longer than the short one and its continuation
ORIGINAL = 32  # the trained length that scaled ropes name


@dataclass(frozen=True)
class Case:
    name: str
    config: PretrainedConfig
    seed: int
    family: Family = Family()
    windows: tuple = (None, None)  # the sliding window of each layer
    float32: bool = False  # else stored in bfloat16
    left_out: tuple = ()  # keys taken from config.json that transformers derives from others
    matters: dict = field(default_factory=dict)


POST_NORMED = {"attn_norm": "post_attention_layernorm", "mlp_norm": "post_feedforward_layernorm"}
GEMMA2 = {"mid": "pre_feedforward_layernorm:in", **POST_NORMED}
NEOX = {
    "block": "gpt_neox.layers.{}",
    "norm_final": "gpt_neox.final_layer_norm",
    "head": "embed_out",
    "attention": "attention",
    "q": "",
    "k": "",
    "out": "attention.dense",
    "gate": "",
    "up": "mlp.dense_h_to_4h",
    "down": "mlp.dense_4h_to_h",
}
OPT = {
    "block": "model.decoder.layers.{}",
    "out": "self_attn.out_proj",
    "mlp": "",
    "gate": "",
    "up": "fc1",
    "down": "fc2",
}
PHI = {
    "norm_final": "model.final_layernorm",
    "out": "self_attn.dense",
    "mid": "",
    "gate": "",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}
GPT2 = {
    "block": "transformer.h.{}",
    "norm_final": "transformer.ln_f",
    "attention": "attn",
    "q": "",
    "k": "",
    "out": "attn.c_proj",
    "mid": "ln_2:in",
    "gate": "",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}


def sizes(vocab, d_model=16, heads=4, kv_heads=2, d_mlp=20, **others):
    """What nearly all configs call the same. With theta 100 and head_dim 6 the wavelengths are 6, 29 and 135 tokens."""
    return {
        "vocab_size": vocab,
        "hidden_size": d_model,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": d_mlp,
        "max_position_embeddings": 128,
        "rope_theta": 100.0,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": None,
        **others,
    }


def llama(**others):
    """Without the biases of the first case, as most checkpoints are."""
    return LlamaConfig(**sizes(45, d_mlp=18, rms_norm_eps=3e-3, head_dim=8, tie_word_embeddings=False, **others))


# Epsilons are large, so that a wrong one shows. With theta 100 and head_dim 8 the four wavelengths are 6, 20, 63 and 199
# tokens: under llama3 scaling from 32 tokens one is kept, one blended, two stretched, and 72 tokens go far past 32.
CASES = [
    Case(
        "llama",
        LlamaConfig(
            vocab_size=53,
            hidden_size=20,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            intermediate_size=28,
            max_position_embeddings=256,
            rms_norm_eps=3e-3,
            attention_bias=True,
            mlp_bias=True,
            tie_word_embeddings=False,
            rope_theta=100.0,
            rope_scaling={
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": ORIGINAL,
            },
            bos_token_id=0,
            eos_token_id=1,
        ),
        seed=11,
        float32=True,
        matters={
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e4,
            "rope_scaling": None,
            "rope_scaling.factor": 1.0,
            "rope_scaling.high_freq_factor": 2.0,
            "rope_scaling.low_freq_factor": 2.0,
            "rope_scaling.original_max_position_embeddings": 64,
        },
    ),
    Case(
        "llama_linear",
        llama(rope_scaling={"type": "linear", "factor": 2.5}),
        seed=111,
        matters={"rope_scaling": None, "rope_scaling.factor": 1.0},
    ),
    Case(
        "llama_dynamic",  # its trained length is max_position_embeddings
        llama(max_position_embeddings=ORIGINAL, rope_scaling={"rope_type": "dynamic", "factor": 3.0}),
        seed=112,
        matters={"rope_scaling": None, "rope_scaling.factor": 2.0, "max_position_embeddings": 128},
    ),
    Case(
        "llama_yarn",
        llama(
            rope_scaling={
                "rope_type": "yarn",
                "factor": 4.0,
                "beta_fast": 3.0,
                "beta_slow": 0.6,
                "mscale": 1.7,
                "mscale_all_dim": 0.4,
                "truncate": False,
                "original_max_position_embeddings": ORIGINAL,
            }
        ),
        seed=113,
        matters={
            "rope_scaling": None,
            "rope_scaling.factor": 2.0,
            "rope_scaling.beta_fast": None,
            "rope_scaling.beta_slow": None,
            "rope_scaling.mscale": None,
            "rope_scaling.mscale_all_dim": 1.0,
            "rope_scaling.truncate": True,
            "rope_scaling.original_max_position_embeddings": None,
        },
    ),
    Case(
        "mistral",
        MistralConfig(**sizes(43, head_dim=6, rms_norm_eps=2e-3, sliding_window=WINDOW)),
        seed=12,
        windows=(WINDOW, WINDOW),
        matters={"rms_norm_eps": 1e-6, "rope_theta": 1e4, "sliding_window": None},
    ),
    Case(
        "mixtral",
        MixtralConfig(
            **sizes(41, d_mlp=12, head_dim=6, rms_norm_eps=2e-3, sliding_window=WINDOW),
            num_local_experts=4,
            num_experts_per_tok=2,
        ),
        seed=15,
        family=Family(mlp="block_sparse_moe"),
        windows=(WINDOW, WINDOW),
        matters={"rms_norm_eps": 1e-5, "sliding_window": None, "num_experts_per_tok": 1},
    ),
    Case(
        "qwen2",
        Qwen2Config(
            **sizes(59, d_mlp=24, rope_theta=1e6, rms_norm_eps=2e-3, tie_word_embeddings=True),
            use_sliding_window=True,
            sliding_window=WINDOW,
            max_window_layers=1,
        ),
        seed=22,
        windows=(None, WINDOW),
        left_out=("layer_types",),
        matters={
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e4,
            "use_sliding_window": False,
            "sliding_window": 24,
            "max_window_layers": 0,
        },
    ),
    Case(
        "qwen3",
        Qwen3Config(
            **sizes(47, head_dim=8, rms_norm_eps=2e-3, tie_word_embeddings=False),
            attention_bias=True,
            use_sliding_window=True,
            sliding_window=WINDOW,
            layer_types=["sliding_attention", "full_attention"],
            rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL},
        ),
        seed=23,
        windows=(WINDOW, None),
        matters={
            "rms_norm_eps": 1e-6,
            "sliding_window": 24,
            "layer_types": ["full_attention", "sliding_attention"],
            "rope_scaling": None,
            "rope_scaling.attention_factor": 1.0,
        },
    ),
    Case(
        "qwen3_moe",  # layer 0 is dense
        Qwen3MoeConfig(
            **sizes(45, d_mlp=22, head_dim=6, rms_norm_eps=2e-3, tie_word_embeddings=False),
            attention_bias=True,
            mlp_only_layers=[0],
            decoder_sparse_step=1,
            moe_intermediate_size=10,
            num_experts=4,
            num_experts_per_tok=2,
            norm_topk_prob=True,
        ),
        seed=24,
        matters={"rms_norm_eps": 1e-6, "norm_topk_prob": False, "num_experts_per_tok": 3},
    ),
    Case(
        "gemma",
        GemmaConfig(**sizes(43, head_dim=6, rms_norm_eps=2e-3), attention_bias=True),
        seed=31,
        matters={"rms_norm_eps": 1e-6, "hidden_act": "gelu"},
    ),
    Case(
        "gemma2",
        Gemma2Config(
            **sizes(45, head_dim=6, rms_norm_eps=2e-3),
            attention_bias=True,
            query_pre_attn_scalar=7,
            sliding_window=WINDOW,
            attn_logit_softcapping=3.0,
            final_logit_softcapping=5.0,
        ),
        seed=32,
        family=Family(**GEMMA2),
        windows=(WINDOW, None),
        left_out=("layer_types",),
        matters={
            "rms_norm_eps": 1e-6,
            "query_pre_attn_scalar": 6,
            "sliding_window": 24,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "hidden_activation": "gelu",
        },
    ),
    Case(
        "gemma3_text",
        Gemma3TextConfig(
            **sizes(47, head_dim=6, rms_norm_eps=2e-3, rope_theta=1000.0),
            attention_bias=True,
            query_pre_attn_scalar=7,
            sliding_window=WINDOW,
            layer_types=["sliding_attention", "full_attention"],
            rope_local_base_freq=50.0,
            rope_scaling={"rope_type": "linear", "factor": 3.0},
        ),
        seed=34,
        family=Family(**GEMMA2),
        windows=(WINDOW, None),
        matters={
            "rms_norm_eps": 1e-6,
            "query_pre_attn_scalar": 6,
            "sliding_window": 24,
            "layer_types": ["full_attention", "sliding_attention"],
            "rope_theta": 50.0,
            "rope_local_base_freq": 1000.0,
            "rope_scaling": None,
        },
    ),
    Case(
        "gemma3",  # the multimodal checkpoint, of which only the language model runs
        Gemma3Config(
            text_config={
                **sizes(49, head_dim=6, rms_norm_eps=2e-3, rope_theta=1000.0),
                "attention_bias": False,
                "query_pre_attn_scalar": 9,
                "sliding_window": WINDOW,
                "sliding_window_pattern": 2,
                "rope_local_base_freq": 50.0,
                "rope_scaling": {"rope_type": "linear", "factor": 3.0},
            },
            vision_config={
                "hidden_size": 4,
                "intermediate_size": 4,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "image_size": 8,
                "patch_size": 4,
                "vision_use_head": False,
            },
            mm_tokens_per_image=1,
            boi_token_index=60,
            eoi_token_index=61,
            image_token_index=62,
        ),
        seed=136,
        family=Family(block="model.language_model.layers.{}", norm_final="model.language_model.norm", **GEMMA2),
        windows=(WINDOW, None),
        left_out=("text_config.layer_types",),
        matters={
            "text_config.rms_norm_eps": 1e-6,
            "text_config.query_pre_attn_scalar": 6,
            "text_config.sliding_window": 24,
            "text_config.sliding_window_pattern": 6,
            "text_config.rope_local_base_freq": 1000.0,
            "text_config.rope_scaling": None,
        },
    ),
    Case(
        "phi",
        PhiConfig(**sizes(43, d_model=32, layer_norm_eps=3e-3), partial_rotary_factor=0.5),
        seed=41,
        family=Family(**PHI),
        matters={"layer_norm_eps": 1e-5, "partial_rotary_factor": 1.0, "hidden_act": "gelu"},
    ),
    Case(
        "phi_qk",
        PhiConfig(**sizes(43, heads=2, kv_heads=1, layer_norm_eps=3e-3), partial_rotary_factor=0.75, qk_layernorm=True),
        seed=42,
        family=Family(**PHI | {"q": "self_attn.q_layernorm", "k": "self_attn.k_layernorm"}),
        matters={"qk_layernorm": False, "partial_rotary_factor": 0.5},
    ),
    Case(
        "phi3",
        Phi3Config(
            **sizes(45, d_model=32, rms_norm_eps=3e-3, sliding_window=WINDOW),
            original_max_position_embeddings=ORIGINAL,
            partial_rotary_factor=0.75,
            rope_scaling={
                "type": "longrope",
                "short_factor": [1.1, 1.4, 1.8],
                "long_factor": [1.3, 2.5, 4.5],
            },
        ),
        seed=43,
        family=Family(gate_up="mlp.gate_up_proj", q="", k=""),
        windows=(WINDOW, WINDOW),
        matters={
            "rms_norm_eps": 1e-5,
            "sliding_window": None,
            "original_max_position_embeddings": 128,
            "max_position_embeddings": 256,
            "rope_scaling.long_factor": [1.1, 1.4, 1.8],
        },
    ),
    Case(
        "gpt2",
        GPT2Config(
            vocab_size=57,
            n_embd=16,
            n_layer=2,
            n_head=4,
            n_inner=36,
            n_positions=96,
            layer_norm_epsilon=4e-3,
            activation_function="gelu_new",
            bos_token_id=0,
            eos_token_id=1,
        ),
        seed=33,
        family=Family(**GPT2),
        float32=True,
        matters={"layer_norm_epsilon": 1e-5, "activation_function": "gelu"},
    ),
    Case(
        "gpt_neox",
        GPTNeoXConfig(
            vocab_size=43,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=20,
            max_position_embeddings=128,
            rotary_pct=0.25,
            rotary_emb_base=100,
            layer_norm_eps=3e-3,
            bos_token_id=0,
            eos_token_id=1,
        ),
        seed=137,
        family=Family(**NEOX | {"mid": ""}),
        left_out=("rope_theta", "partial_rotary_factor"),  # as Pythia's checkpoints
        matters={
            "layer_norm_eps": 1e-5,
            "rotary_pct": 0.5,
            "rotary_emb_base": 10000,
            "use_parallel_residual": False,
            "hidden_act": "gelu_new",
        },
    ),
    Case(
        "gpt_neox_serial",
        GPTNeoXConfig(
            vocab_size=45,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=3,
            intermediate_size=20,
            max_position_embeddings=128,
            rotary_pct=0.5,
            rotary_emb_base=50,
            layer_norm_eps=3e-3,
            use_parallel_residual=False,
            attention_bias=False,
            hidden_act="gelu_new",
            bos_token_id=0,
            eos_token_id=1,
        ),
        seed=52,
        family=Family(**NEOX),
        matters={"rotary_pct": 0.25, "use_parallel_residual": True, "hidden_act": "gelu"},
    ),
    Case(
        "opt",
        OPTConfig(
            vocab_size=43,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            ffn_dim=28,
            max_position_embeddings=80,
            do_layer_norm_before=True,
            word_embed_proj_dim=16,
            bos_token_id=2,
            eos_token_id=2,
            pad_token_id=1,
        ),
        seed=61,
        family=Family(
            **OPT | {"mid": "final_layer_norm:in"}, norm_final="model.decoder.final_layer_norm"
        ),
        matters={"activation_function": "gelu"},
    ),
    Case(
        "opt_350m",
        OPTConfig(
            vocab_size=41,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            ffn_dim=24,
            max_position_embeddings=80,
            do_layer_norm_before=False,
            word_embed_proj_dim=12,
            activation_function="gelu",
            bos_token_id=2,
            eos_token_id=2,
            pad_token_id=1,
        ),
        seed=62,
        family=Family(
            **OPT | {"mid": "self_attn_layer_norm:out"},
            norm_final="",
            resid_norms=("self_attn_layer_norm", "final_layer_norm"),
        ),
        matters={"activation_function": "relu"},
    ),
    Case(
        "olmo",
        OlmoConfig(**sizes(43, tie_word_embeddings=False), attention_bias=True, clip_qkv=0.9),
        seed=71,
        matters={"clip_qkv": None, "rope_theta": 1e4},
    ),
    Case(
        "olmo2",
        Olmo2Config(**sizes(43, rms_norm_eps=3e-3, tie_word_embeddings=False), attention_bias=True),
        seed=72,
        family=Family(mid="mlp:in", **POST_NORMED),
        matters={"rms_norm_eps": 1e-5, "rope_theta": 1e4},
    ),
    Case(
        "olmoe",
        OlmoeConfig(
            **sizes(45, d_mlp=12, rms_norm_eps=3e-3, tie_word_embeddings=False),
            attention_bias=True,
            clip_qkv=1.1,
            num_experts=4,
            num_experts_per_tok=2,
            norm_topk_prob=False,
        ),
        seed=73,
        matters={"rms_norm_eps": 1e-5, "clip_qkv": None, "norm_topk_prob": True, "num_experts_per_tok": 1},
    ),
    Case(
        "starcoder2",
        Starcoder2Config(**sizes(47, norm_epsilon=3e-3, sliding_window=WINDOW)),
        seed=81,
        family=Family(gate="", up="mlp.c_fc", down="mlp.c_proj"),
        windows=(WINDOW, WINDOW),
        matters={"norm_epsilon": 1e-5, "sliding_window": None, "hidden_act": "gelu"},
    ),
    Case(
        "smollm3",  # layer 1 has no rope, and slides
        SmolLM3Config(
            **sizes(45, d_model=32, rms_norm_eps=3e-3),
            attention_bias=True,
            mlp_bias=True,
            no_rope_layers=[1, 0],
            use_sliding_window=True,
            sliding_window=WINDOW,
            rope_scaling={
                "rope_type": "yarn",
                "factor": 4.0,
                "attention_factor": 1.3,
                "original_max_position_embeddings": ORIGINAL,
            },
        ),
        seed=82,
        windows=(None, WINDOW),
        matters={
            "rms_norm_eps": 1e-6,
            "no_rope_layers": [1, 1],
            "sliding_window": 24,
            "rope_scaling.attention_factor": None,
        },
    ),
    Case(
        "granite",
        GraniteConfig(
            **sizes(43, rms_norm_eps=3e-3, tie_word_embeddings=True),
            attention_bias=True,
            mlp_bias=True,
            embedding_multiplier=1.7,
            residual_multiplier=0.6,
            attention_multiplier=0.35,
            logits_scaling=1.9,
        ),
        seed=83,
        matters={
            "rms_norm_eps": 1e-6,
            "embedding_multiplier": 1.0,
            "residual_multiplier": 1.0,
            "attention_multiplier": 0.5,
            "logits_scaling": 1.0,
        },
    ),
    Case(
        "cohere",
        CohereConfig(
            **sizes(43, layer_norm_eps=3e-3),
            attention_bias=True,
            use_qk_norm=True,
            logit_scale=0.4,
        ),
        seed=84,
        family=Family(mid=""),
        matters={"layer_norm_eps": 1e-5, "use_qk_norm": False, "logit_scale": 0.0625},
    ),
    Case(
        "stablelm",
        StableLmConfig(
            **sizes(43, d_model=32, layer_norm_eps=3e-3),
            use_qkv_bias=True,
            qk_layernorm=True,
            partial_rotary_factor=0.5,
        ),
        seed=91,
        family=Family(q="self_attn.q_layernorm", k="self_attn.k_layernorm"),
        matters={
            "layer_norm_eps": 1e-5,
            "use_qkv_bias": False,
            "qk_layernorm": False,
            "partial_rotary_factor": 0.25,
        },
    ),
    Case(
        "stablelm_parallel",
        StableLmConfig(
            **sizes(45, heads=2, kv_heads=1, layer_norm_eps=3e-3),
            use_qkv_bias=False,
            use_parallel_residual=True,
            partial_rotary_factor=0.75,
        ),
        seed=92,
        family=Family(mid=""),
        matters={"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25},
    ),
]
