"""Gradients by PyTorch's automatic differentiation, for `cargo test gradient`.

    python tests/references/gradients.py      # rewrites gradients/ beside this file

Written with: python 3.11, transformers 4.57.1, torch 2.15.0 (CPU). The real Hugging Face modules of two reference checkpoints,
in eager attention and f32: Gemma 2 (grouped heads, a window, soft-caps of scores and logits, norms on both sides) and Qwen 3
MoE (norms of queries and keys, a mixture of experts). Values are caught by hooks on the modules that make or take them:

* `embed`, `resid_post.L`: what enters block 0 and leaves block L;
* `v.L`: the output of the projection; `z.L`: the input of the output projection; `mlp_act.L`: the input of the down projection.

A file `CASE.safetensors` holds for every scalar `S` its value `S` `[1]` and its gradient `S.ADDRESS` `[positions, width]` at
`positions` of the long prompt of `make.py`, all for the output after position `after`:

* `logits`: logit of token 3 minus logit of token 7; `logprob`: log-probability of token 5;
* `kl`: KL from the log-probabilities `given` to the model's own;
* `along`: the inner product of `vector` with `z.1` at that position.
"""

import torch
from safetensors.torch import load_file, save_file

from cases import CASES
from make import eager
from record import HERE

CHOSEN = ["gemma2", "qwen3_moe"]
AFTER, POSITIONS = 70, [0, 17, 40, 70]


def caught(case, model, ids):
    """The values by address, with their graph, and the logits."""
    family, values, hooks = case.family, {}, []

    def keep(address, tensor):
        values[address] = tensor

    for layer in range(model.config.num_hidden_layers):
        module = lambda path: model.get_submodule(f"{family.block.format(layer)}.{path}".rstrip("."))
        take = lambda address: lambda _m, args, kwargs: keep(address, args[0] if args else kwargs["hidden_states"])
        give = lambda address: lambda _m, _a, out: keep(address, out[0] if isinstance(out, tuple) else out)
        if layer == 0:
            hooks.append(module("").register_forward_pre_hook(take("embed"), with_kwargs=True))
        hooks.append(module("").register_forward_hook(give(f"resid_post.{layer}")))
        hooks.append(module(family.out).register_forward_pre_hook(take(f"z.{layer}"), with_kwargs=True))
        hooks.append(module("self_attn.v_proj").register_forward_hook(give(f"v.{layer}")))
        try:
            hooks.append(module(family.down).register_forward_pre_hook(take(f"mlp_act.{layer}"), with_kwargs=True))
        except AttributeError:
            pass  # a mixture, whose neurons have no address
    logits = model(ids[None], use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    return values, logits


def gradients(case, dtype):
    model = eager(HERE / case.name).to(dtype)
    model.requires_grad_(False)
    model.get_input_embeddings().requires_grad_(True)
    ids = load_file(HERE / case.name / "activations.safetensors")["tokens"]
    values, logits = caught(case, model, ids)
    generator = torch.Generator().manual_seed(case.seed)
    given = torch.log_softmax(torch.randn(logits.shape[-1], generator=generator), -1)
    vector = torch.randn(values["z.1"].shape[-1], generator=generator)
    logprobs = torch.log_softmax(logits[AFTER], -1)
    scalars = {
        "logits": logits[AFTER, 3] - logits[AFTER, 7],
        "logprob": logprobs[5],
        "kl": (given.to(dtype).exp() * (given.to(dtype) - logprobs)).sum(),
        "along": values["z.1"][0, AFTER] @ vector.to(dtype),
    }
    out = {"given": given, "vector": vector, "after": torch.tensor([AFTER]), "positions": torch.tensor(POSITIONS)}
    for name, scalar in scalars.items():
        out[name] = scalar.detach()[None]
        wanted = list(values)
        found = torch.autograd.grad(scalar, [values[w] for w in wanted], retain_graph=True, allow_unused=True)
        for address, gradient in zip(wanted, found):
            gradient = torch.zeros_like(values[address]) if gradient is None else gradient
            out[f"{name}.{address}"] = gradient[0, POSITIONS].detach()
    return out


def main():
    (HERE / "gradients").mkdir(exist_ok=True)
    for case in CASES:
        if case.name not in CHOSEN:
            continue
        out, wide = gradients(case, torch.float32), gradients(case, torch.float64)
        apart = max(
            float((out[k] - wide[k]).norm() / wide[k].norm().clamp_min(1e-12)) for k in out if "." in k and wide[k].norm() > 0
        )
        print(f"{case.name}: {len(out)} tensors; f32 is within {apart:.1e} of f64, relative to the length of a gradient")
        save_file({k: v.contiguous() for k, v in out.items()}, HERE / "gradients" / f"{case.name}.safetensors")


if __name__ == "__main__":
    main()
