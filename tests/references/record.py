"""Runs a Hugging Face model and keeps what it computes at every site; nothing is recomputed, everything is checked.

A site is the input or the output of a module, taken by a forward hook, or an argument or result of a function that the
attention or the router calls, taken by wrapping that function during the run:

* `attn_scores` and `attn_probs`: what goes into and comes out of `torch.nn.functional.softmax` inside the attention module.
  Hugging Face masks by adding the lowest finite number, here written as -inf;
* `q` and `k`: the arguments of `apply_rotary_pos_emb`. Where that function sees a slice (Phi, StableLM) or is not called
  (OPT, GPT-2, layers without rope) the module that makes them, or the arguments of the attention function;
* `v`: an argument of `eager_attention_forward` or `repeat_kv`;
* `router`: the result of `torch.topk` as it is after the block has renormalised it in place, spread over all experts.
"""

import math
import shutil
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Family:
    """Where a family keeps its modules; all but the first three are relative to the block."""

    block: str = "model.layers.{}"
    norm_final: str = "model.norm"  # empty where there is none
    head: str = "lm_head"
    attention: str = "self_attn"
    q: str = "self_attn.q_proj"  # empty where the attention function has q and k unrotated
    k: str = "self_attn.k_proj"
    out: str = "self_attn.o_proj"
    mid: str = "post_attention_layernorm:in"  # the module that reads (or writes) resid_mid; empty in parallel blocks
    mlp: str = "mlp"  # empty where up and down stand in the block itself
    gate: str = "mlp.gate_proj"  # empty without a gate
    up: str = "mlp.up_proj"
    gate_up: str = ""  # one projection for both
    down: str = "mlp.down_proj"
    attn_norm: str = ""  # a norm between the module and the residual stream
    mlp_norm: str = ""
    resid_norms: tuple = ()  # norms of the residual stream itself, after each add


def randomise(model, seed):
    """Gives every parameter a random value: gains around one, biases that matter, matrices that keep the scale."""
    generator = torch.Generator().manual_seed(seed)
    kind = model.config.model_type
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            norm = name.endswith("weight") and (parameter.ndim == 1 or "norm" in name)
            if norm and kind.startswith("gemma"):  # Gemma's gain is 1 + weight
                parameter.copy_(0.3 * noise)
            elif norm or parameter.ndim == 1:
                parameter.copy_((1 if norm else 0) + 0.3 * noise)
            elif any(part in name for part in ("embed_tokens", "embed_in", "embed_positions", "wte", "wpe")):
                gemma = kind.startswith("gemma")  # which multiplies by the root of d_model
                parameter.copy_(0.7 * noise / (math.sqrt(parameter.shape[1]) if gemma else 1))
            elif parameter.ndim == 2:
                conv1d = kind == "gpt2"  # stored [in, out]
                router = name.endswith((".mlp.gate.weight", ".block_sparse_moe.gate.weight"))
                parameter.copy_((3 if router else 1) * noise / math.sqrt(parameter.shape[0 if conv1d else 1]))
            else:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))


def prompt(length, vocab, seed):
    """Random ids that include the first and the last of the vocabulary, and a repetition."""
    ids = torch.randint(0, vocab, (length,), generator=torch.Generator().manual_seed(seed))
    if length > 8:
        ids[3], ids[5] = 0, vocab - 1
        ids[length // 2 : length // 2 + 8] = ids[:8]
    return ids


def text(config):
    """The config of the language model, also inside a multimodal one."""
    return config.get_text_config()


def record(model, family, ids, windows):
    """Runs the model and returns every site, by address, without the batch dimension, with all positions."""
    config = text(model.config)
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    tokens = len(ids)
    sites, hooks = {}, []
    seen = {}  # what the wrapped functions saw, by name and layer
    now = {"layer": None, "attention": False}

    def keep(address, tensor, into=sites):
        assert address not in into, address
        into[address] = (tensor[0] if tensor.ndim > 2 else tensor).detach().clone()

    def first(value):
        return value[0] if isinstance(value, tuple) else value

    def module(layer, path):
        return model.get_submodule(f"{family.block.format(layer)}.{path}".rstrip("."))

    def on_input(target, address):
        def hook(_module, args, kwargs):
            keep(address, args[0] if args else kwargs["hidden_states"])

        hooks.append(target.register_forward_pre_hook(hook, with_kwargs=True))

    def on_output(target, *addresses, into=sites):
        hooks.append(target.register_forward_hook(lambda _m, _i, o: [keep(a, first(o), into) for a in addresses] and None))

    def enters(target, layer):
        def before(*_):
            now.update(layer=layer, attention=True)

        def after(*_):
            now.update(attention=False)

        hooks.extend([target.register_forward_pre_hook(before), target.register_forward_hook(after)])

    for layer in range(layers):
        on_input(module(layer, ""), f"resid_pre.{layer}")
        on_output(module(layer, ""), f"resid_post.{layer}")
        attention = module(layer, family.attention)
        enters(attention, layer)
        on_input(attention, f"attn_in.{layer}")
        on_output(attention, f"attn_out.{layer}")
        if family.q:
            on_output(module(layer, family.q), f"q.{layer}", into=seen)
            on_output(module(layer, family.k), f"k.{layer}", into=seen)
        on_input(module(layer, family.out), f"z.{layer}")
        if family.mid:
            path, side = family.mid.split(":")
            (on_input if side == "in" else on_output)(module(layer, path), f"resid_mid.{layer}")
        if family.attn_norm:
            on_output(module(layer, family.attn_norm), f"attn_add.{layer}")
        if family.mlp_norm:
            on_output(module(layer, family.mlp_norm), f"mlp_add.{layer}")
        on_input(module(layer, family.mlp or family.up), f"mlp_in.{layer}")
        on_output(module(layer, family.mlp or family.down), f"mlp_out.{layer}")
        if family.mlp and hasattr(module(layer, family.mlp), "experts"):

            def routed(_module, _inputs, output, layer=layer):
                weights, chosen = seen.pop("topk")
                keep(f"router.{layer}", torch.zeros_like(output[1]).scatter(-1, chosen, weights))

            hooks.append(module(layer, family.mlp).register_forward_hook(routed))
            continue
        if family.gate_up:
            on_output(module(layer, family.gate_up), f"gate_up.{layer}", into=seen)
        else:
            on_output(module(layer, family.up), f"mlp_up.{layer}")
            if family.gate:
                on_output(module(layer, family.gate), f"mlp_gate.{layer}")
        on_input(module(layer, family.down), f"mlp_act.{layer}")
    if family.norm_final:
        on_output(model.get_submodule(family.norm_final), "final_norm")
    on_output(model.get_submodule(family.head), "logits_raw")

    modeling = sys.modules[type(module(0, family.attention)).__module__]
    softmax, topk = torch.nn.functional.softmax, torch.topk

    def spy_softmax(x, *args, **kwargs):
        out = softmax(x, *args, **kwargs)
        if now["attention"]:
            keep(f"attn_scores.{now['layer']}", x)
            keep(f"attn_probs.{now['layer']}", out)
        return out

    def spy_topk(*args, **kwargs):
        out = topk(*args, **kwargs)
        assert "topk" not in seen
        seen["topk"] = out  # not a copy: the block divides the weights in place
        return out

    def spy_rotary(q, k, *args, **kwargs):
        for name, tensor in [("q", q), ("k", k)]:
            keep(f"{name}_rotary.{now['layer']}", tensor, seen)
        return rotary(q, k, *args, **kwargs)

    def spy_eager(owner, query, key, value, *args, **kwargs):
        for name, tensor in [("q", query), ("k", key), ("v", value)]:
            keep(f"{name}_attended.{now['layer']}", tensor, seen)
        return eager(owner, query, key, value, *args, **kwargs)

    def spy_repeat(states, *args, **kwargs):
        name = f"k_attended.{now['layer']}"
        keep(name if name not in seen else f"v_attended.{now['layer']}", states, seen)
        return repeat(states, *args, **kwargs)

    rotary = getattr(modeling, "apply_rotary_pos_emb", None)
    eager = getattr(modeling, "eager_attention_forward", None)
    repeat = getattr(modeling, "repeat_kv", None)
    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(mock.patch.object(torch.nn.functional, "softmax", spy_softmax))
        stack.enter_context(mock.patch.object(torch, "topk", spy_topk))
        if rotary:
            stack.enter_context(mock.patch.object(modeling, "apply_rotary_pos_emb", spy_rotary))
        if eager:
            stack.enter_context(mock.patch.object(modeling, "eager_attention_forward", spy_eager))
        else:
            stack.enter_context(mock.patch.object(modeling, "repeat_kv", spy_repeat))
        output = model(ids[None], use_cache=False, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    keep("logits", output.logits)
    sites["embed"] = sites["resid_pre.0"]

    past = torch.arange(tokens)[:, None] - torch.arange(tokens)[None]  # how far back a key lies
    for layer in range(layers):
        score = sites[f"attn_scores.{layer}"]
        masked = (past < 0) | (past >= (windows[layer] or tokens))
        assert score.shape == (heads, tokens, tokens)
        assert (score[:, masked] < -1e30).all() and score[:, ~masked].abs().max() < 100, f"the mask of layer {layer}"
        sites[f"attn_scores.{layer}"] = score.masked_fill(masked, -math.inf)

        sites[f"v.{layer}"] = seen[f"v_attended.{layer}"].transpose(0, 1)
        width = sites[f"v.{layer}"].shape[-1]
        for name, count in [("q", heads), ("k", kv_heads)]:
            rotated, made = seen.get(f"{name}_rotary.{layer}"), seen.get(f"{name}.{layer}")
            if rotated is not None and rotated.shape[-1] == width:
                found = rotated.transpose(0, 1)
            elif made is not None:
                found = made.transpose(0, 1) if made.ndim == 3 else made.reshape(tokens, count, width)
                if rotated is not None:
                    assert torch.equal(rotated.transpose(0, 1), found[..., : rotated.shape[-1]])
            else:
                found = seen[f"{name}_attended.{layer}"].transpose(0, 1)
            sites[f"{name}.{layer}"] = found
        sites[f"z.{layer}"] = sites[f"z.{layer}"].reshape(tokens, heads, width)
        for name, count in [("q", heads), ("k", kv_heads), ("v", kv_heads)]:
            assert sites[f"{name}.{layer}"].shape == (tokens, count, width), (name, sites[f"{name}.{layer}"].shape)

        if f"gate_up.{layer}" in seen:
            sites[f"mlp_gate.{layer}"], sites[f"mlp_up.{layer}"] = seen[f"gate_up.{layer}"].chunk(2, -1)
        multiplier = getattr(config, "residual_multiplier", 1.0)
        for part in ("attn", "mlp"):
            sites.setdefault(f"{part}_add.{layer}", sites[f"{part}_out.{layer}"] * multiplier)
    check(model, family, sites, output.hidden_states)
    return sites


def check(model, family, sites, hidden_states):
    """The sites are what they are called: Hugging Face's own hidden states, and the sums that define them."""
    config = text(model.config)
    layers = config.num_hidden_layers

    def near(a, b):
        return torch.allclose(a, b, atol=2e-5, rtol=1e-5)

    for layer in range(layers):
        pre, post = sites[f"resid_pre.{layer}"], sites[f"resid_post.{layer}"]
        attn, mlp = sites[f"attn_add.{layer}"], sites[f"mlp_add.{layer}"]
        assert torch.equal(pre, hidden_states[layer][0])
        if family.mid:
            norms = [model.get_submodule(f"{family.block.format(layer)}.{path}") for path in family.resid_norms]
            norms = norms or [lambda x: x] * 2
            assert near(norms[0](pre + attn), sites[f"resid_mid.{layer}"])
            assert near(norms[1](sites[f"resid_mid.{layer}"] + mlp), post)
        else:
            assert near(pre + attn + mlp, post)
        probs, values = sites[f"attn_probs.{layer}"], sites[f"v.{layer}"]
        assert near(torch.softmax(sites[f"attn_scores.{layer}"], -1), probs)
        values = values.repeat_interleave(probs.shape[0] // values.shape[1], dim=1)
        assert near(torch.einsum("hqk,khd->qhd", probs, values), sites[f"z.{layer}"])
        if f"router.{layer}" in sites:
            router, block = sites[f"router.{layer}"], model.get_submodule(f"{family.block.format(layer)}.{family.mlp}")
            each = torch.stack([expert(sites[f"mlp_in.{layer}"]) for expert in block.experts], -2)
            assert near((router[..., None] * each).sum(-2), sites[f"mlp_out.{layer}"])
            assert ((router > 0).sum(-1) == block.top_k).all()
            ordered = block.gate(sites[f"mlp_in.{layer}"]).sort(-1, descending=True).values
            gap = (ordered[:, block.top_k - 1] - ordered[:, block.top_k]).min()
            assert gap > 5e-3, f"the choice of experts in layer {layer} is almost a tie: {gap:.1e}"
        else:
            assert sites[f"mlp_act.{layer}"].shape == sites[f"mlp_up.{layer}"].shape
    if not family.resid_norms:
        adds = sum(sites[f"{part}_add.{layer}"] for part in ("attn", "mlp") for layer in range(layers))
        assert near(sites["embed"] + adds, sites[f"resid_post.{layers - 1}"])
    # Hugging Face's last hidden state is after the final norm.
    last = hidden_states[layers][0]
    if family.norm_final:
        assert torch.equal(sites["final_norm"], last)
    assert torch.equal(model.get_submodule(family.head)(last), sites["logits_raw"])


def greedy(model, ids, steps):
    """The most likely continuation, one full pass a token."""
    for _ in range(steps):
        with torch.no_grad():
            last = model(ids[None], use_cache=False).logits[0, -1]
        best, second = last.topk(2).values
        assert best - second > 2e-3, f"the next token is almost a tie: {best - second:.1e}"
        assert last.argmax() != text(model.config).eos_token_id, "the continuation ends early"
        ids = torch.cat([ids, last.argmax()[None]])
    return ids[-steps:]


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
