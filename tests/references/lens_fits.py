"""Lenses fitted by PyTorch's automatic differentiation, for `cargo test lens_fit`.

    python tests/references/lens_fits.py      # rewrites lens_fits/ beside this file

Written with: python 3.11, transformers 4.57.1, torch 2.15.0 (CPU), in f64, on two reference checkpoints: GPT-2 (LayerNorm, biases) and Llama
(RMSNorm, grouped heads).

A file `CASE.json` holds the prompts, how many positions are left out at their beginning, and

* `jacobian`: by block but the last, `[d_model, d_model]`: row d is the gradient of Σ_{p'} x_last[p'][d] with respect to the state after the
  block at p, mean over p, then over prompts; p and p' go over all positions but the first ones and the last (Gurnee et al. 2026, 2607.15495);
* `tuned`: by block, every seventh row of A and all of b after STEPS steps of `torch.optim.SGD` with Nesterov's momentum on the mean KL over the
  tokens of all prompts, with `clip_grad_norm_` over all maps (Belrose et al. 2023, 2303.08112), and `losses`: the mean over tokens and blocks before each step.
"""

import json

import torch

from make import eager
from record import HERE

SKIPPED, STEPS, ROWS = 2, 3, 7
PROMPTS = [[(i * 17 + 5) % 51 for i in range(9)], [(i * 11 + 2) % 51 for i in range(12)]]


class Parts:
    def __init__(self, case):
        self.model = eager(HERE / case).double()
        self.model.requires_grad_(False)
        llama = case == "llama"
        self.base = self.model.model if llama else self.model.transformer
        self.blocks = self.base.layers if llama else self.base.h
        self.norm = self.base.norm if llama else self.base.ln_f

    def states(self, ids, leaf=None):
        """The state that enters every block and the one after the last; after block `leaf` it is a leaf of its own."""
        seen, hooks = [], []

        def enter(_module, given, named):
            seen.append(given[0] if given else named["hidden_states"])

        def leave(_module, _given, out):
            own = (out[0] if isinstance(out, tuple) else out).detach().requires_grad_()
            seen.append(own)
            return (own, *out[1:]) if isinstance(out, tuple) else own

        def last(_module, given, _out):
            seen.append(given[0])

        if leaf is None:
            hooks += [block.register_forward_pre_hook(enter, with_kwargs=True) for block in self.blocks]
        else:
            hooks.append(self.blocks[leaf].register_forward_hook(leave))
        hooks.append(self.norm.register_forward_hook(last))
        logits = self.model(torch.tensor([ids])).logits[0]
        for hook in hooks:
            hook.remove()
        return [x[0] if x.dim() == 3 and leaf is None else x for x in seen], logits

    def jacobian(self, block):
        total = 0
        for ids in PROMPTS:
            (leaf, last), _ = self.states(ids, leaf=block)
            among = slice(SKIPPED, len(ids) - 1)
            summed = last[0, among].sum(0)
            rows = [torch.autograd.grad(x, leaf, retain_graph=True)[0][0, among].mean(0) for x in summed]
            total = total + torch.stack(rows) / len(PROMPTS)
        return total

    def tuned(self):
        count, width = len(self.blocks), self.norm.weight.shape[0]
        maps = torch.nn.ModuleList(torch.nn.Linear(width, width).double() for _ in range(count))
        for parameter in maps.parameters():
            parameter.data.zero_()
        optimiser = torch.optim.SGD(maps.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
        decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / STEPS)
        losses = []
        given = [self.states(ids) for ids in PROMPTS]
        for _ in range(STEPS):
            optimiser.zero_grad()
            divergence = 0
            for states, logits in given:
                own = logits.log_softmax(-1)
                for map_, x in zip(maps, states):
                    read = self.model.lm_head(self.norm(x + map_(x))).log_softmax(-1)
                    divergence = divergence + (own.exp() * (own - read)).sum()
            tokens = sum(map(len, PROMPTS))
            (divergence / tokens).backward()
            torch.nn.utils.clip_grad_norm_(maps.parameters(), 1.0)
            optimiser.step()
            decay.step()
            losses.append(divergence.item() / tokens / count)
        return losses, maps


def main():
    (HERE / "lens_fits").mkdir(exist_ok=True)
    rounded = lambda x: [float(f"{v:.8g}") for v in x.flatten().tolist()]
    for case in ("gpt2", "llama"):
        parts = Parts(case)
        with torch.no_grad():
            states, logits = parts.states(PROMPTS[0])
            again = parts.model.lm_head(parts.norm(states[-1]))
            assert (again - logits).abs().max() < 1e-9
        losses, maps = parts.tuned()
        out = {
            "prompts": PROMPTS,
            "skipped": SKIPPED,
            "jacobian": [rounded(parts.jacobian(block)) for block in range(len(parts.blocks) - 1)],
            "losses": losses,
            "tuned": [{"rows": rounded(m.weight.data[::ROWS]), "bias": rounded(m.bias.data)} for m in maps],
        }
        (HERE / "lens_fits" / f"{case}.json").write_text(json.dumps(out) + "\n")
        print(case, losses, len(json.dumps(out)))


if __name__ == "__main__":
    main()
