"""Head effects, function vectors and layer averages by Hugging Face modules and hooks alone, for `cargo test in_context`.

    python tests/references/in_context.py      # rewrites in_context.json beside this file

Written with: python 3.11, transformers 4.57.1, torch 2.15.0 (CPU). As in the published code of Todd et al. (2024): a head's
output is its slice of what enters the output projection, its mean is taken over prompts at the last token, and its indirect
effect is the change of the answer's probability when that slice is overwritten there, one head and one pass at a time. Two
things differ on purpose: the projection is applied to the sum of the chosen heads without its bias, and what a family
does to attention's output before it is added is done to the vector (Granite's multiplier; Gemma 2's norm, with the mean of
its scales over the prompts). The prompts are random ids: what is compared is arithmetic.
"""

import json

import torch

from cases import CASES
from make import eager
from record import HERE

CHOSEN = ["llama", "gpt2", "gpt_neox", "qwen3", "granite", "gemma2", "phi"]
HEADS = 3


def asks(count, vocab, seed):
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(5, 14, (count,), generator=rng).tolist()
    draw = lambda n: torch.randint(0, vocab, (n,), generator=rng).tolist()
    return [{"tokens": draw(n), "answer": draw(1)[0]} for n in lengths]


class Hooked:
    """A model whose head outputs at the last token are read, and one of them overwritten."""

    def __init__(self, case):
        self.case, self.model = case, eager(HERE / case.name)
        config = self.model.config
        self.heads, self.layers = config.num_attention_heads, config.num_hidden_layers
        self.put, self.z, self.out, self.resid = None, {}, {}, {}
        for layer in range(self.layers):
            block = self.model.get_submodule(case.family.block.format(layer))
            projection = block.get_submodule(case.family.out)
            projection.register_forward_pre_hook(self.before(layer))
            projection.register_forward_hook(self.after(layer))
            block.register_forward_hook(self.leaving(layer))

    def before(self, layer):
        def hook(_, inputs):
            z = inputs[0].clone()
            self.z[layer] = z[0, -1].clone()
            if self.put and self.put[0] == layer:
                _, head, value = self.put
                z[0, -1].view(self.heads, -1)[head] = value
            return (z,)
        return hook

    def after(self, layer):
        return lambda _, inputs, output: self.out.__setitem__(layer, output[0, -1].clone())

    def leaving(self, layer):
        def hook(_, inputs, output):
            self.resid[layer] = (output[0] if isinstance(output, tuple) else output)[0, -1].clone()
        return hook

    def probability(self, ask, put=None):
        self.put = put
        with torch.no_grad():
            logits = self.model(torch.tensor([ask["tokens"]]), use_cache=False).logits[0, -1]
        return torch.softmax(logits.double(), -1)[ask["answer"]].item()

    def scale(self, layer):
        """Of the norm behind attention, at the last token of the last run."""
        if not self.case.family.attn_norm:
            return 1.0
        x = self.out[layer].double()
        return (x.pow(2).mean() + self.model.config.rms_norm_eps).rsqrt().item()

    def write(self, layer, z):
        """What a vector of all heads writes, as it is added; without the bias."""
        block = self.model.get_submodule(self.case.family.block.format(layer))
        projection = block.get_submodule(self.case.family.out)
        weight = projection.weight.double()
        written = z.double() @ (weight if self.case.name == "gpt2" else weight.T)  # Conv1D is stored [in, out]
        if self.case.family.attn_norm:
            written = written * (1 + block.get_submodule(self.case.family.attn_norm.split(":")[0]).weight.double())
        return written * getattr(self.model.config, "residual_multiplier", 1.0)


def measure(case):
    it = Hooked(case)
    vocab = it.model.config.vocab_size
    clean, corrupt = asks(6, vocab, case.seed + 1), asks(4, vocab, case.seed + 2)
    means, scales, resid = [0] * it.layers, [0] * it.layers, [0] * it.layers
    for ask in clean:
        it.probability(ask)
        for layer in range(it.layers):
            means[layer] = means[layer] + it.z[layer].double() / len(clean)
            resid[layer] = resid[layer] + it.resid[layer].double() / len(clean)
            scales[layer] += it.scale(layer) / len(clean)
    bases = [it.probability(ask) for ask in corrupt]
    effects = torch.zeros(it.layers, it.heads, dtype=torch.float64)
    for layer in range(it.layers):
        for head in range(it.heads):
            value = means[layer].view(it.heads, -1)[head].float()
            for ask, base in zip(corrupt, bases):
                effects[layer, head] += (it.probability(ask, (layer, head, value)) - base) / len(corrupt)
    top = effects.flatten().topk(HEADS).indices.tolist()
    heads = [divmod(i, it.heads) for i in top]
    vector = 0
    for layer, head in heads:
        alone = torch.zeros_like(means[layer]).view(it.heads, -1)
        alone[head] = means[layer].view(it.heads, -1)[head]
        vector = vector + it.write(layer, alone.flatten()) * scales[layer]
    rounded = lambda tensor: [float(f"{v:.8g}") for v in tensor.tolist()]
    return {
        "clean": clean, "corrupt": corrupt, "base": sum(bases) / len(bases), "heads": heads,
        "effects": [rounded(row) for row in effects], "vector": rounded(vector), "layer_average": [rounded(r) for r in resid],
    }


def main():
    torch.set_num_threads(1)
    out = {case.name: measure(case) for case in CASES if case.name in CHOSEN}
    assert sorted(out) == sorted(CHOSEN)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in out.items())
    (HERE / "in_context.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
