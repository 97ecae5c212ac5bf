"""What TransformerLens says of four tiny checkpoints, for `cargo test transformer_lens`.

    python tests/references/against_transformer_lens.py    # rewrites the folder transformer_lens beside this file

Written with: python 3.11, transformer_lens 3.9.0 (the last release that has `HookedTransformer`), transformers 5.23.0,
torch 2.15.0 (CPU), safetensors 0.8.0. `pip install 'transformer_lens<4'` brings them; no model is downloaded.

A checkpoint is random, in Hugging Face layout, with weights that bfloat16 holds exactly; its tokenizer knows the words `w0`,
`w1` and so on, so that prompts can be given as text. TransformerLens gets it by its own
conversion of the architecture's weights and runs it in f32, with `center_writing_weights`, `center_unembed` and
`fold_value_biases` off. `fold_ln` is off as well, but for `direct.*`: `logit_attrs` leaves the gain of the final norm out
unless it has been folded into the unembedding, so a second copy of the model with `fold_ln` on answers those. The script
asserts that the Hugging Face model, both copies, and the sum of the attributions agree.

`results.safetensors` holds, for a prompt of n tokens, f32 unless said otherwise:

* `tokens` and `corrupted` `[n]` i64: the clean prompt, and one of the same length in which two tokens differ; `answers` `[2]`
  i64: a right and a wrong token; `repeated` i64: a token, then p random ones twice; `text` i64: tokens of which many come again,
  though never at once; neither begins with the token that begins texts;
* `logits` `[n, vocab]`: of the clean prompt, soft-capped where the model caps them;
* `direct.{embed,pos_embed}.{token,difference}` `[n]`, `direct.{attn,attn_bias,mlp}.*` `[layers, n]`,
  `direct.head.*` `[layers, heads, n]`, `direct.neuron.*` `[layers, d_mlp]` (last position), `direct.bias.*` `[1]`: what each
  write adds to the logit of the right token, or to the right minus the wrong, at the scale of the final norm at that
  position. Heads are without the output bias, which is `attn_bias`; `bias` is what the final norm and the unembedding add;
* `direct.source.*` `[layers, heads, n]`: the heads of the last position by the tokens that they read;
* `direct.head.all` `[layers, heads, vocab]`: a head's write at the last position, read for every token;
* `lens` `[layers + 1, n, vocab]`: logits of each block's input and of the last block's output through the final norm, with
  statistics of the row itself; `lens.mid` `[layers, n, vocab]`: between attention and MLP; `lens.attn` and `lens.mlp`
  `[layers, vocab]`: the writes alone, at the last position;
* `pattern` `[layers, heads, n, n]`: attention of the clean prompt;
* `scores.{induction,duplicate,previous}.{repeated,text}` `[layers, heads]`: `head_detector.detect_head` with `mul`, the share of
  a head's attention that it pays as such a head would;
* `clean` and `baseline` `[3]`: logit difference, probability of the right token and KL(clean || run) of the clean and of the
  corrupted run at the last position. `denoise.SITE.METRIC`: the same after one activation of the corrupted run was replaced
  by the clean one, `[layers, n]` for `resid_pre`, `attn_out` and `mlp_out`, `[layers, heads]` for `z` (all positions) and
  `[layers, n, heads]` for `z_by_pos`; `noise.SITE.difference`: the clean run with an activation of the corrupted one;
* `knockout.logits` `[vocab]`: at the last position when from layer 1 on no head sees the positions `knockout.sources` i64
  from the last position.
"""

import math
from functools import partial
from unittest import mock

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens import HookedTransformer, HookedTransformerConfig, head_detector, patching
from transformer_lens.pretrained.weight_conversions import (
    convert_gemma_weights,
    convert_gpt2_weights,
    convert_llama_weights,
    convert_neox_weights,
)
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
)

from record import HERE, fresh, randomise

FOLDER = HERE / "transformer_lens"
LENGTH, PERIOD = 12, 11
CHANGED = [3, 7]  # where the corrupted prompt differs
HIDDEN = [2, 3]  # the sources of the knockout
LAYERS, WIDTH, HEADS, MLP = 4, 16, 4, 24
EPS, THETA = 2e-3, 500.0  # other than any default

COMMON = {"n_layers": LAYERS, "d_model": WIDTH, "n_heads": HEADS, "d_mlp": MLP, "eps": EPS, "n_ctx": 64}
LLAMA_LIKE = {
    "num_hidden_layers": LAYERS,
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "intermediate_size": MLP,
    "max_position_embeddings": 64,
    "rms_norm_eps": EPS,
    "bos_token_id": 0,
    "eos_token_id": 1,
}

# Name, the Hugging Face config, the conversion and what else HookedTransformerConfig has to be told, the seed.
CASES = [
    (
        "gpt2",
        GPT2Config(
            vocab_size=37, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_inner=MLP, n_positions=64,
            layer_norm_epsilon=EPS, activation_function="gelu_new", bos_token_id=0, eos_token_id=1,
        ),
        convert_gpt2_weights,
        {"d_head": 4, "act_fn": "gelu_new", "normalization_type": "LN"},
        11,
    ),
    (
        "llama",
        LlamaConfig(
            vocab_size=41, head_dim=4, tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": THETA}, **LLAMA_LIKE,
        ),
        convert_llama_weights,
        {
            "d_head": 4, "n_key_value_heads": 2, "act_fn": "silu", "gated_mlp": True, "normalization_type": "RMS",
            "final_rms": True, "positional_embedding_type": "rotary", "rotary_dim": 4, "rotary_base": THETA,
            "rotary_adjacent_pairs": False,
        },
        12,
    ),
    (
        "gpt_neox",
        GPTNeoXConfig(
            vocab_size=39, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=MLP,
            max_position_embeddings=64, layer_norm_eps=EPS, use_parallel_residual=True, bos_token_id=0, eos_token_id=1,
            rope_parameters={"rope_type": "default", "rope_theta": THETA, "partial_rotary_factor": 0.5},
            tie_word_embeddings=False,
        ),
        convert_neox_weights,
        {
            "n_heads": 2, "d_head": 8, "act_fn": "gelu", "normalization_type": "LN", "parallel_attn_mlp": True,
            "positional_embedding_type": "rotary", "rotary_dim": 4, "rotary_base": THETA, "rotary_adjacent_pairs": False,
        },
        13,
    ),
    (
        "gemma2",
        Gemma2Config(
            vocab_size=43, head_dim=6, query_pre_attn_scalar=7, sliding_window=5, attn_logit_softcapping=3.0,
            final_logit_softcapping=5.0, rope_parameters={"rope_type": "default", "rope_theta": THETA}, **LLAMA_LIKE,
        ),
        convert_gemma_weights,
        {
            "d_head": 6, "n_key_value_heads": 2, "act_fn": "gelu_pytorch_tanh", "gated_mlp": True, "final_rms": True,
            "normalization_type": "RMS", "positional_embedding_type": "rotary", "rotary_dim": 6, "rotary_base": THETA,
            "rotary_adjacent_pairs": False, "attn_scale": math.sqrt(7), "window_size": 5, "use_local_attn": True,
            "attn_types": ["local", "global"] * (LAYERS // 2), "attn_scores_soft_cap": 3.0, "output_logits_soft_cap": 5.0,
            "use_normalization_before_and_after": True,
        },
        14,
    ),
]


def checkpoint(name, config, seed):
    """A random model, as a reader of the folder that it writes has it."""
    folder = fresh(FOLDER / name)
    model = AutoModelForCausalLM.from_config(config)
    randomise(model, seed)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "model.safetensors").chmod(0o644)
    words = Tokenizer(models.WordLevel({f"w{id}": id for id in range(config.vocab_size)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(folder / "tokenizer.json"), pretty=False)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def hooked(hf, convert, told, fold):
    """The same weights in TransformerLens."""
    cfg = HookedTransformerConfig(**COMMON | told, d_vocab=hf.config.vocab_size, device="cpu", dtype=torch.float32)
    model = HookedTransformer(cfg)
    state = {name: tensor.detach().clone() for name, tensor in convert(hf, cfg).items()}
    model.load_and_process_state_dict(
        state, fold_ln=fold, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    return model.eval()


def capped(model, logits):
    """As the model caps its own logits at the very end."""
    cap = model.cfg.output_logits_soft_cap
    return cap * torch.tanh(logits / cap) if cap > 0 else logits


def same(a, b, what, tolerance=2e-5):
    worst = (a - b).abs().max().item()
    assert a.shape == b.shape and worst < tolerance, f"{what}: {worst:.1e}"


def prompts(hf, seed):
    """A clean and a corrupted prompt whose most likely next tokens differ: these are the answers."""
    rng = torch.Generator().manual_seed(seed)
    vocab = hf.config.vocab_size
    while True:
        clean = torch.randint(2, vocab, (LENGTH,), generator=rng)
        clean[0] = 0
        corrupted = clean.clone()
        corrupted[CHANGED] = torch.randint(2, vocab, (len(CHANGED),), generator=rng)
        right, wrong = (hf(ids[None], use_cache=False).logits[0, -1].argmax().item() for ids in (clean, corrupted))
        if right != wrong and (clean != corrupted).sum() == len(CHANGED):
            return clean, corrupted, right, wrong


def read_tokens(model, cache, layer):
    """What each head writes at the last position by reading each token: `[heads * n, 1, d_model]`."""
    attn = model.blocks[layer].attn
    values = cache["v", layer][0]
    values = values.repeat_interleave(model.cfg.n_heads // values.shape[1], dim=1)
    weighted = cache["pattern", layer][0, :, -1, :, None] * values.transpose(0, 1)
    return (weighted @ attn.W_O).flatten(0, 1)[:, None]


def attributions(model, tokens, right, wrong):
    """Direct logit attribution at every position, of a model whose norms are folded."""
    cfg, out = model.cfg, {}
    logits, cache = model.run_with_cache(tokens[None])
    stack, labels = cache.decompose_resid(layer=-1, return_labels=True)
    assert torch.allclose(stack.sum(0), cache["resid_post", cfg.n_layers - 1], atol=1e-5)
    per_head = not cfg.use_normalization_before_and_after  # else a norm stands between the heads and the stream
    heads = cache.stack_head_results(layer=-1) if per_head else None
    at = {"pos_slice": -1}
    neurons = cache.stack_neuron_results(layer=-1, **at) if per_head else None
    sources = torch.cat([read_tokens(model, cache, layer) for layer in range(cfg.n_layers)]) if per_head else None
    for kind, other in [("token", None), ("difference", wrong)]:
        read = partial(cache.logit_attrs, tokens=right, incorrect_tokens=other)
        parts = dict(zip(labels, read(stack)[:, 0]))
        for name in ("embed", "pos_embed"):
            if name in parts:
                out[f"direct.{name}.{kind}"] = parts[name]
        for name in ("attn", "mlp"):
            out[f"direct.{name}.{kind}"] = torch.stack([parts[f"{layer}_{name}_out"] for layer in range(cfg.n_layers)])
        bias = model.b_U[right] - (0 if other is None else model.b_U[other])
        out[f"direct.bias.{kind}"] = bias[None]
        uncapped = model.unembed(model.ln_final(cache["resid_post", cfg.n_layers - 1]))[0]
        whole = uncapped[:, right] - (0 if other is None else uncapped[:, other])
        same(sum(parts.values()) + bias, whole, "the sum of the attributions")
        if not per_head:
            continue
        out[f"direct.head.{kind}"] = read(heads)[:, 0].reshape(cfg.n_layers, cfg.n_heads, -1)
        written = torch.stack([model.blocks[layer].attn.b_O for layer in range(cfg.n_layers)])
        spread = written[:, None, None].expand(-1, 1, len(tokens), -1).contiguous()
        out[f"direct.attn_bias.{kind}"] = read(spread)[:, 0]
        whole = out[f"direct.head.{kind}"].sum(1) + out[f"direct.attn_bias.{kind}"]
        same(whole, out[f"direct.attn.{kind}"], "the sum of the heads")
        out[f"direct.neuron.{kind}"] = read(neurons, **at)[:, 0].reshape(cfg.n_layers, -1)
        by_source = read(sources, **at)[:, 0].reshape(cfg.n_layers, cfg.n_heads, -1)
        same(by_source.sum(-1), out[f"direct.head.{kind}"][..., -1], "the sum of the sources")
        out[f"direct.source.{kind}"] = by_source
    if per_head:
        last = cache.apply_ln_to_stack(cache.stack_head_results(layer=-1, **at), layer=-1, **at)[:, 0]
        out["direct.head.all"] = (last @ model.W_U).reshape(cfg.n_layers, cfg.n_heads, -1)
    return capped(model, uncapped), out


def lens(model, tokens):
    cfg, out = model.cfg, {}
    logits, cache = model.run_with_cache(tokens[None])
    read = lambda rows: capped(model, model.unembed(rows))[:, 0]
    out["lens"] = read(cache.accumulated_resid(layer=-1, apply_ln=True))
    same(out["lens"][-1], logits[0], "the last row of the lens")
    if not cfg.parallel_attn_mlp:
        rows, labels = cache.accumulated_resid(layer=-1, incl_mid=True, apply_ln=True, return_labels=True)
        out["lens.mid"] = read(torch.stack([row for row, label in zip(rows, labels) if label.endswith("_mid")]))
    for name in ("attn", "mlp"):
        writes = torch.stack([cache[f"{name}_out", layer] for layer in range(cfg.n_layers)])
        out[f"lens.{name}"] = read(cache.apply_ln_to_stack(writes, layer=-1, recompute_ln=True))[:, -1]
    out["pattern"] = torch.stack([cache["pattern", layer][0] for layer in range(cfg.n_layers)])
    return logits[0], out


def scores(model, texts):
    out = {}
    for text, tokens in texts.items():
        _, cache = model.run_with_cache(tokens[None], remove_batch_dim=True)
        for name, kind in [("induction", "induction"), ("duplicate", "duplicate_token"), ("previous", "previous_token")]:
            with mock.patch.object(model, "to_tokens", lambda _: tokens[None]):  # there is no tokenizer; the text is ours
                out[f"scores.{name}.{text}"] = head_detector.detect_head(model, "", f"{kind}_head", cache=cache)
    return out


def returning(length, few, rng):
    """Random tokens of a few, no token twice in a row."""
    tokens = [2]
    while len(tokens) < length:
        tokens += [t for t in torch.randint(2, 2 + few, (1,), generator=rng).tolist() if t != tokens[-1]]
    return torch.tensor(tokens)


SWEEPS = {
    "resid_pre": patching.get_act_patch_resid_pre,
    "attn_out": patching.get_act_patch_attn_out,
    "mlp_out": patching.get_act_patch_mlp_out,
    "z": patching.get_act_patch_attn_head_out_all_pos,
    "z_by_pos": patching.get_act_patch_attn_head_out_by_pos,
}


def patches(model, clean, corrupted, right, wrong):
    out = {}
    clean_logits, clean_cache = model.run_with_cache(clean[None])
    corrupted_logits, corrupted_cache = model.run_with_cache(corrupted[None])
    reference = clean_logits[0, -1].log_softmax(-1)

    def kl(logits):
        return (reference.exp() * (reference - logits[0, -1].log_softmax(-1))).sum()

    metrics = {
        "difference": lambda logits: logits[0, -1, right] - logits[0, -1, wrong],
        "probability": lambda logits: logits[0, -1].softmax(-1)[right],
        "kl": kl,
    }
    out["clean"] = torch.stack([metric(clean_logits) for metric in metrics.values()])
    out["baseline"] = torch.stack([metric(corrupted_logits) for metric in metrics.values()])
    for site, sweep in SWEEPS.items():
        for name, metric in metrics.items():
            if name == "difference" or site == "resid_pre":
                out[f"denoise.{site}.{name}"] = sweep(model, corrupted[None], clean_cache, metric)
        out[f"noise.{site}.difference"] = sweep(model, clean[None], corrupted_cache, metrics["difference"])
    return out


def knockout(model, tokens):
    def hide(scores, hook):
        scores[:, :, -1, HIDDEN] = -math.inf
        return scores

    hooks = [(f"blocks.{layer}.attn.hook_attn_scores", hide) for layer in range(1, model.cfg.n_layers)]
    logits = model.run_with_hooks(tokens[None], fwd_hooks=hooks)[0, -1]
    return {"knockout.logits": logits, "knockout.sources": torch.tensor(HIDDEN)}


def make(name, config, convert, told, seed):
    hf = checkpoint(name, config, seed)
    clean, corrupted, right, wrong = prompts(hf, seed)
    rng = torch.Generator().manual_seed(seed + 1)
    drawn = torch.randperm(config.vocab_size - 2, generator=rng)[: PERIOD + 1] + 2
    texts = {"repeated": torch.cat([drawn, drawn[1:]]), "text": returning(20, 5, rng)}

    plain, folded = (hooked(hf, convert, told, fold) for fold in (False, True))
    logits, out = lens(plain, clean)
    uncapped, direct = attributions(folded, clean, right, wrong)
    same(hf(clean[None], use_cache=False).logits[0], logits, "TransformerLens and transformers")
    same(uncapped, logits, "the folded model")
    out |= direct | scores(plain, texts) | patches(plain, clean, corrupted, right, wrong) | knockout(plain, clean)
    out |= texts | {"tokens": clean, "corrupted": corrupted, "answers": torch.tensor([right, wrong])}
    out["logits"] = logits
    moved = (out["knockout.logits"] - logits[-1]).abs().max().item()
    spread = {site: (out[f"denoise.{site}.difference"] - out["baseline"][0]).abs().max().item() for site in SWEEPS}
    print(f"{name}: answers {right} and {wrong}, clean {out['clean'].tolist()}, corrupted {out['baseline'].tolist()}")
    print(f"  patches move the difference by up to {spread}, the knockout a logit by {moved:.2f}")
    assert moved > 0.01 and min(spread.values()) > 0.01
    assert all(tensor.isfinite().all() for tensor in out.values())
    path = FOLDER / name / "results.safetensors"
    save_file({key: tensor.contiguous().clone() for key, tensor in sorted(out.items())}, path)
    path.chmod(0o644)


def main():
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
    for case in CASES:
        make(*case)
    sizes = {str(f.relative_to(FOLDER)): f.stat().st_size for f in sorted(FOLDER.rglob("*")) if f.is_file()}
    print(sizes, sum(sizes.values()))


if __name__ == "__main__":
    main()
