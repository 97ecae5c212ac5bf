"""Knowledge neurons by integrated gradients, for `cargo test knowledge`: Dai et al. 2022 (2104.08696) written out in PyTorch.

    python tests/references/knowledge_neurons.py      # rewrites knowledge_neurons/ beside this file

Written with: python 3.11, transformers 4.57.1, torch 2.15.0 (CPU). The real Hugging Face modules of three reference
checkpoints, in eager attention and f32: Llama (gated, with biases), Gemma 2 (a norm after the MLP, soft-caps) and GPT-2 (no
gate). The input of a layer's down projection at the last position is replaced by a share of itself, all neurons together, and
the probability of the answer differentiated (equation 3):

    Attr(w_i) = w_i / m * sum over k of dP/dw_i at (share_k w),   share_k = (k + 1/2) / m, k / m or (k + 1) / m

for m = 20 and k of 0..m. The prompts are the first tokens of the long prompt of `make.py`, cut at LENGTHS; the answer is the
token that the checkpoint predicts after the longest.

A file `CASE.safetensors` holds `lengths` i64, `answer` i64, for every rule and layer `RULE.LAYER` `[prompts, d_mlp]`, and
`whole.LAYER` `[prompts]`, P(w) - P(0). `chosen` i64 `[neurons, 2]` are the layers and neurons of at least a fifth of the
largest attribution (midpoint, mean order) under at least TWO of the three prompts, largest mean first (section 3.3, without
moving the threshold).
"""

import torch
from safetensors.torch import load_file, save_file

from cases import CASES
from make import eager
from record import HERE

CHOSEN = ["llama", "gemma2", "gpt2"]
LENGTHS, STEPS, SHARE, TWO = [40, 56, 71], 20, 0.2, 2
RULES = {"midpoint": 0.5, "left": 0.0, "right": 1.0}


def probability(case, model, ids, layer, answer, scaled=None):
    """P of the answer after the ids, and the activations of a layer at the last position, or with others there."""
    seen = {}

    def put(_module, args):
        x = args[0]
        flat = x.reshape(-1, x.shape[-1])  # OPT and GPT-2 flatten here, others do not
        seen["own"] = flat[-1].detach()
        if scaled is None:
            return None
        last = torch.zeros_like(flat[:, :1])
        last[-1] = 1
        return ((flat * (1 - last) + last * scaled).reshape(x.shape),)

    module = model.get_submodule(f"{case.family.block.format(layer)}.{case.family.down}")
    hook = module.register_forward_pre_hook(put)
    logits = model(ids[None], use_cache=False).logits[0, -1]
    hook.remove()
    return torch.softmax(logits, -1)[answer], seen["own"]


def attributions(case, dtype):
    model = eager(HERE / case.name).to(dtype)
    model.requires_grad_(False)
    tokens = load_file(HERE / case.name / "activations.safetensors")["tokens"]
    answer = int(model(tokens[None, : LENGTHS[-1]], use_cache=False).logits[0, -1].argmax())
    layers = range(model.config.num_hidden_layers)
    out = {"lengths": torch.tensor(LENGTHS), "answer": torch.tensor([answer])}
    for layer in layers:
        rows = {rule: [] for rule in RULES}
        wholes = []
        for length in LENGTHS:
            ids = tokens[:length]
            before, own = probability(case, model, ids, layer, answer)
            without, _ = probability(case, model, ids, layer, answer, torch.zeros_like(own))
            wholes.append((before - without).detach())
            for rule, offset in RULES.items():
                total = torch.zeros_like(own)
                for k in range(STEPS):
                    w = ((k + offset) / STEPS * own).requires_grad_(True)
                    p, _ = probability(case, model, ids, layer, answer, w)
                    total += torch.autograd.grad(p, w)[0]
                rows[rule].append(own * total / STEPS)
        out[f"whole.{layer}"] = torch.stack(wholes)
        out.update({f"{rule}.{layer}": torch.stack(own) for rule, own in rows.items()})
    every = torch.stack([out[f"midpoint.{layer}"] for layer in layers], 1)  # [prompts, layers, d_mlp]
    large = (every > 0) & (every >= SHARE * every.amax((1, 2), keepdim=True))
    kept = (large.sum(0) >= TWO).nonzero()
    mean = every.mean(0)
    order = torch.tensor([float(mean[l, i]) for l, i in kept]).argsort(descending=True)
    out["chosen"] = kept[order]
    return out


def main():
    (HERE / "knowledge_neurons").mkdir(exist_ok=True)
    for case in CASES:
        if case.name not in CHOSEN:
            continue
        out, wide = attributions(case, torch.float32), attributions(case, torch.float64)
        numbers = [name for name in out if out[name].is_floating_point()]
        apart = max(float((out[n] - wide[n]).abs().max() / wide[n].abs().max()) for n in numbers)
        assert torch.equal(out["chosen"], wide["chosen"])
        sums = {
            rule: max(
                float(((wide[f"{rule}.{l}"].sum(-1) - wide[f"whole.{l}"]) / wide[f"whole.{l}"]).abs().max()) for l in (0, 1)
            )
            for rule in RULES
        }
        print(f"{case.name}: {len(out['chosen'])} neurons; f32 is within {apart:.1e} of f64; completeness errors {sums}")
        save_file({k: v.contiguous() for k, v in out.items()}, HERE / "knowledge_neurons" / f"{case.name}.safetensors")


if __name__ == "__main__":
    main()
