"""Composition scores and singular directions of heads' circuits with whole matrices, for `cargo test head_circuits`.

    python tests/references/head_circuits.py      # rewrites head_circuits.json beside this file

Written with: python 3.11, transformers 4.57.1, numpy 2. Elhage et al. 2021: with rows as vectors `W_QK = W_Q W_Kᵀ` and `W_OV = W_V W_O`,
`[d_model, d_model]`, the score of two heads is `‖W_OV W‖ / (‖W_OV‖ ‖W‖)` with `W` = `W_QK` (queries), `W_QKᵀ` (keys) or `W_OV` (values)
of the later head. Gains of norms are folded in, and the mean that LayerNorm takes off is taken off.

For each model: `scores.q`, `.k`, `.v`: `[heads of block 0][heads of block 1]`; for head 1.1 `ov.values`, `qk.values`: all singular values
above rounding; `ov.left`, `ov.right`, `qk.left`, `qk.right`: the first singular vectors, with the largest entry of `left` positive.
"""

import json
from pathlib import Path

import numpy as np
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
MODELS = ["gpt2", "llama", "qwen3", "gemma2", "olmo2", "cohere"]


def array(tensor):
    return tensor.detach().double().numpy()


def centring(width):
    return np.eye(width) - np.ones((width, width)) / width


def gain(norm):
    """The linear part of a norm for rows, `[width, width]`, with a scale of 1."""
    kind = type(norm).__name__
    weight = array(norm.weight)
    if kind.startswith("Gemma"):
        weight = 1 + weight
    takes_mean_off = kind in ("LayerNorm", "CohereLayerNorm")
    return (centring(len(weight)) if takes_mean_off else np.eye(len(weight))) @ np.diag(weight)


def parts(model, name, layer):
    """Q, K, V `[heads][d_model, head_dim]` and O `[heads][head_dim, d_model]` of a block."""
    config = model.config
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    if name == "gpt2":
        block = model.transformer.h[layer]
        q, k, v = np.split(array(block.attn.c_attn.weight), 3, axis=1)
        out, before, after = array(block.attn.c_proj.weight), gain(block.ln_1), None
    else:
        block = model.model.layers[layer]
        own = block.self_attn
        q, k, v = (array(p.weight).T for p in (own.q_proj, own.k_proj, own.v_proj))
        out = array(own.o_proj.weight).T
        before = None if name == "olmo2" else gain(block.input_layernorm)
        after = {"gemma2": "post_attention_layernorm", "olmo2": "post_attention_layernorm"}.get(name)
        after = gain(getattr(block, after)) if after else None
        if hasattr(own, "q_norm"):
            q, k = normed(q, own.q_norm, heads), normed(k, own.k_norm, groups)
    if before is not None:
        q, k, v = before @ q, before @ k, before @ v
    if after is not None:
        out = out @ after
    of = lambda x, count, head: x[:, (head * count // heads) * width : (head * count // heads + 1) * width]
    every = range(heads)
    return (
        [of(q, heads, h) for h in every],
        [of(k, groups, h) for h in every],
        [of(v, groups, h) for h in every],
        [out[h * width : (h + 1) * width] for h in every],
    )


def normed(projection, norm, count):
    """A projection through the norm of queries or keys, with a scale of 1: over all heads, or over each."""
    weight = array(norm.weight)
    if weight.ndim == 1 and weight.size == projection.shape[1]:
        return projection @ np.diag(weight)
    if weight.ndim == 1:
        return projection @ np.diag(np.tile(weight, count))
    width = weight.shape[1]
    mean_off = np.kron(np.eye(count), centring(width))
    return projection @ mean_off @ np.diag(weight.flatten())


def score(a, b):
    return float(np.linalg.norm(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def singular(w):
    u, values, zt = np.linalg.svd(w)
    values = [float(v) for v in values if v > 1e-7 * values[0]]
    left, right = u[:, 0], zt[0]
    sign = np.sign(left[np.argmax(np.abs(left))])
    return {"values": values, "left": list(map(float, left * sign)), "right": list(map(float, right * sign))}


def main():
    found = {}
    for name in MODELS:
        model = AutoModelForCausalLM.from_pretrained(HERE / name, torch_dtype="float32")
        first, second = parts(model, name, 0), parts(model, name, 1)
        ov = lambda p: [v @ o for v, o in zip(p[2], p[3])]
        qk = lambda p: [q @ k.T for q, k in zip(p[0], p[1])]
        scores = {
            "q": [[score(a, b) for b in qk(second)] for a in ov(first)],
            "k": [[score(a, b.T) for b in qk(second)] for a in ov(first)],
            "v": [[score(a, b) for b in ov(second)] for a in ov(first)],
        }
        found[name] = {"scores": scores, "ov": singular(ov(second)[1]), "qk": singular(qk(second)[1])}
    round_all = json.loads(json.dumps(found), parse_float=lambda x: round(float(x), 8))
    (HERE / "head_circuits.json").write_text(json.dumps(round_all) + "\n")


main()
