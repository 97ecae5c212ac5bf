"""Linear relational embeddings by PyTorch's automatic differentiation, for `cargo test relation`.

    python tests/references/relations.py      # rewrites relations/ beside this file

Written with: python 3.11, transformers 4.57.1, torch 2.15.0 (CPU). The formulas are those of Hernandez et al. 2024 (2308.09124):
with `s` the output of a block at the subject's last token and `o` the output of the last block at the last token of the
prompt, `W = mean ∂o/∂s` and `b = mean (o − W_i s)` over the training prompts (equation 3), `LRE(s) = β W s + b` (4), and the edit
`Δs = W†(o' − o)` with the pseudo-inverse of the singular value decomposition cut at a rank (5).

`demo.safetensors` is about the demo model: the first 8 pairs of `demo/relations/capital.json` make the map, the next 12 are
asked. For `zero` (the question alone, block 0) and `few` (the other pairs, a line each, before it; block 1):

* `CASE.W` `[d, d]`, `CASE.b` `[d]`, with the Jacobians in f64 before the mean;
* `CASE.s` `[12, d]`, `CASE.object` `[12, d]` = LRE(s) with β = 2, `CASE.says` what the model says, `CASE.lre` what LRE says;
* `CASE.change` `[12, d]` = Δs of subject i towards subject i + 1 at rank 24, `CASE.edited` what the model says under it.

`FAMILY.safetensors` (gpt2, gemma2) holds `J.L` `[d, d]` = ∂o/∂s of the short prompt of `make.py` after block L at position 2, in f64.
"""

import json

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from cases import CASES
from make import eager
from record import HERE

ROOT = HERE.parent.parent
FIT, ASKED, BETA, RANK = 8, 12, 2.0, 24


class Hooked:
    """A model whose block outputs are read, and one of them overwritten at a position."""

    def __init__(self, model, blocks):
        self.model, self.out, self.put = model, {}, None
        for layer, block in enumerate(blocks):
            block.register_forward_hook(self.leaving(layer))

    def leaving(self, layer):
        def hook(_, _inputs, output):
            own = output[0] if isinstance(output, tuple) else output
            if self.put and self.put[0] == layer:
                _, at, value = self.put
                own = own.clone()
                own[0, at] = value
            self.out[layer] = own
            return (own,) + output[1:] if isinstance(output, tuple) else own

        return hook

    def run(self, ids, put=None):
        self.put = put
        return self.model(torch.tensor([ids]), use_cache=False).logits[0, -1]

    def jacobian(self, ids, layer, at):
        """∂o/∂s, s and o."""
        with torch.no_grad():
            self.run(ids)
            s = self.out[layer][0, at].clone()
        last = max(self.out)

        def of(value):
            self.run(ids, (layer, at, value))
            return self.out[last][0, -1]

        return torch.autograd.functional.jacobian(of, s), s, of(s).detach()


def demo():
    model = eager(ROOT / "demo" / "model").double().requires_grad_(False)
    tokenizer = Tokenizer.from_file(str(ROOT / "demo" / "model" / "tokenizer.json"))
    relation = json.loads((ROOT / "demo" / "relations" / "capital.json").read_text())
    template, pairs = relation["prompt_templates"][0], [(p["subject"], p["object"]) for p in relation["samples"]]
    fit, asked = pairs[:FIT], pairs[FIT : FIT + ASKED]
    hooked = Hooked(model, model.model.layers)
    head = lambda o: model.lm_head(model.model.norm(o))
    out = {}
    for case, layer in [("zero", 0), ("few", 1)]:

        def located(subject):
            lines = [template.replace("{}", s) + " " + o + "\n" for s, o in fit if s != subject]
            text = "".join(lines if case == "few" else []) + template.replace("{}", subject)
            found = tokenizer.encode(text, add_special_tokens=False)
            end = text.rindex(subject) + len(subject) - 1
            at = next(i for i, (a, b) in enumerate(found.offsets) if a <= end < b)
            return [0] + found.ids, at + 1

        parts = [hooked.jacobian(*(lambda ids, at: (ids, layer, at))(*located(s))) for s, _ in fit]
        W = torch.stack([J for J, _, _ in parts]).mean(0)
        b = torch.stack([o - J @ s for J, s, o in parts]).mean(0)
        u, values, vt = torch.linalg.svd(W)
        inverse = vt[:RANK].T @ torch.diag(1 / values[:RANK]) @ u[:, :RANK].T
        states, objects, says, places = [], [], [], []
        with torch.no_grad():
            for subject, _ in asked:
                ids, at = located(subject)
                says.append(hooked.run(ids).argmax())
                states.append(hooked.out[layer][0, at].clone())
                objects.append(hooked.out[max(hooked.out)][0, -1].clone())
                places.append((ids, at))
            s = torch.stack(states)
            lre = BETA * s @ W.T + b
            changes = [inverse @ (objects[(i + 1) % ASKED] - objects[i]) for i in range(ASKED)]
            edited = [hooked.run(ids, (layer, at, s[i] + changes[i])).argmax() for i, (ids, at) in enumerate(places)]
            found = head(lre).argmax(-1)
        says, edited = torch.stack(says), torch.stack(edited)
        print(f"{case}: {int((found == says).sum())} of {ASKED} faithful, {int((edited == says.roll(-1)).sum())} edits,",
              f"singular values {values[0]:.3f} .. {values[RANK - 1]:.3f}, {values[RANK]:.3f}")
        out |= {f"{case}.W": W, f"{case}.b": b, f"{case}.s": s, f"{case}.object": lre, f"{case}.change": torch.stack(changes)}
        out |= {f"{case}.says": says, f"{case}.lre": found, f"{case}.edited": edited}
    return out


def family(case):
    model = eager(HERE / case.name).double().requires_grad_(False)
    blocks = [model.get_submodule(case.family.block.format(l)) for l in range(model.config.num_hidden_layers)]
    ids = load_file(HERE / case.name / "activations.short.safetensors")["tokens"].tolist()
    hooked = Hooked(model, blocks)
    return {"tokens": torch.tensor(ids)} | {f"J.{l}": hooked.jacobian(ids, l, 2)[0] for l in range(len(blocks) - 1)}


def save(name, tensors):
    wide = lambda t: t.float() if t.is_floating_point() else t
    save_file({k: wide(v).contiguous() for k, v in tensors.items()}, HERE / "relations" / f"{name}.safetensors")


def main():
    (HERE / "relations").mkdir(exist_ok=True)
    save("demo", demo())
    for case in CASES:
        if case.name in ["gpt2", "gemma2"]:
            save(case.name, family(case))


if __name__ == "__main__":
    main()
