"""Edge scores and a circuit's metric by PyTorch's automatic differentiation, for `cargo test circuits`.

    python tests/references/circuits.py      # rewrites circuits/ beside this file

Written with: python 3.11, transformers 4.57.1, torch 2.15.0 (CPU). The weights and the modules of two reference checkpoints, in f64:
GPT-2 (LayerNorm, biases, learned positions) and Llama (RMSNorm, grouped heads, rotations). Every receiver (a head's query, key or
value, the MLP's input, the final norm) reads a copy of the residual stream of its own, so that the gradient with respect to that copy is
PyTorch's. With nothing changed the logits are those of the Hugging Face model, which is checked.

A file `CASE.json` holds the two texts, the two tokens whose logits' difference is the metric, and

* `eap`, `eap_ig`: by edge, Σ (corrupted − clean) · gradient in the clean run, or the mean gradient at embeddings k/5 of the way
  from the corrupted to the clean ones, k = 0..4;
* `heads`: by head `aL.hH`, Σ (corrupted − clean) · gradient of its z in the clean run;
* `under`: the metric when every edge whose place in the sorted list of names is 1 after a multiple of 3 has the corrupted run's value;
* `under_means`: the same with the mean of that value over all positions but the first, which has its own.
"""

import json

import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from make import eager
from record import HERE

STEPS = 5
TOKENS = (5, 9)


class Graph:
    def __init__(self, case):
        self.model = eager(HERE / case).double()
        self.model.requires_grad_(False)
        self.llama = case == "llama"
        config = self.model.config
        self.layers, self.heads = config.num_hidden_layers, config.num_attention_heads
        self.kv = getattr(config, "num_key_value_heads", self.heads)
        base = self.model.model if self.llama else self.model.transformer
        self.blocks = base.layers if self.llama else base.h
        self.final = base.norm if self.llama else base.ln_f
        self.base = base

    def embed(self, ids):
        if self.llama:
            return self.base.embed_tokens(ids)
        return self.base.wte(ids) + self.base.wpe(torch.arange(len(ids)))

    def project(self, block, part, head, x):
        """One head's query, key or value, from a stream before its norm: [tokens, head_dim]."""
        if self.llama:
            linear = getattr(block.self_attn, f"{part}_proj")
            y = torch.nn.functional.linear(block.input_layernorm(x), linear.weight, linear.bias)
            width = block.self_attn.head_dim
            return y[:, head * width : (head + 1) * width]
        width = block.attn.head_dim
        start = "qkv".index(part) * self.heads * width + head * width
        y = block.ln_1(x) @ block.attn.c_attn.weight + block.attn.c_attn.bias
        return y[:, start : start + width]

    def attend(self, block, q, k, v):
        """[tokens, heads, head_dim] each, of keys and values fewer, to z."""
        tokens, heads, width = q.shape
        if self.llama:
            cos, sin = self.base.rotary_emb(q[None], torch.arange(tokens)[None])
            q, k = apply_rotary_pos_emb(q.transpose(0, 1)[None], k.transpose(0, 1)[None], cos.double(), sin.double())
            q, k = q[0], k[0]
        else:
            q, k = q.transpose(0, 1), k.transpose(0, 1)
        k = k.repeat_interleave(heads // self.kv, 0)
        v = v.transpose(0, 1).repeat_interleave(heads // self.kv, 0)
        scores = q @ k.transpose(1, 2) / width**0.5
        mask = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        return (scores.masked_fill(mask, float("-inf")).softmax(-1) @ v).transpose(0, 1)

    def head_write(self, block, head, z):
        if self.llama:
            width = block.self_attn.head_dim
            return z @ block.self_attn.o_proj.weight[:, head * width : (head + 1) * width].T
        width = block.attn.head_dim
        return z @ block.attn.c_proj.weight[head * width : (head + 1) * width]

    def bias(self, block):
        out = block.self_attn.o_proj.bias if self.llama else block.attn.c_proj.bias
        return 0.0 if out is None else out

    def mlp(self, block, x):
        norm = block.post_attention_layernorm if self.llama else block.ln_2
        return block.mlp(norm(x)[None])[0]

    def run(self, embed, grad=False, kept=None, corrupted=None):
        """Writes by sender, what receivers read, z by head, and the logits after the last position. Under a circuit (`kept`) a
        receiver reads the corrupted run's stream with the changes of the senders that it keeps an edge from."""
        writes, reads, zs = {"input": embed}, {}, {}
        stream = embed

        def read(name):
            if kept is None:
                x = stream
            else:
                x = corrupted["reads"][name]
                for sender in writes:
                    if f"{sender}->{name}" in kept:
                        x = x + writes[sender] - corrupted["writes"][sender]
            if grad:
                # A leaf of zeros of its own.
                leaf = torch.zeros_like(x, requires_grad=True)
                reads[name] = leaf
                return x + leaf
            reads[name] = x
            return x

        for layer, block in enumerate(self.blocks):
            parts = {}
            for part, count in (("q", self.heads), ("k", self.kv), ("v", self.kv)):
                own = [self.project(block, part, h, read(f"a{layer}.h{h}<{part}>")) for h in range(count)]
                parts[part] = torch.stack(own, 1)
            z = self.attend(block, **parts)
            if grad:
                z.retain_grad()
            zs[layer] = z
            heads = {f"a{layer}.h{h}": self.head_write(block, h, z[:, h]) for h in range(self.heads)}
            writes.update(heads)
            stream = stream + sum(heads.values()) + self.bias(block)
            m = self.mlp(block, read(f"m{layer}"))
            writes[f"m{layer}"] = m
            stream = stream + m
        logits = self.model.lm_head(self.final(read("logits")[-1]))
        return {"writes": writes, "reads": reads, "zs": zs, "logits": logits}

    def names(self):
        before = ["input"]
        for layer in range(self.layers):
            for part, count in (("q", self.heads), ("k", self.kv), ("v", self.kv)):
                for h in range(count):
                    yield from (f"{s}->a{layer}.h{h}<{part}>" for s in before)
            before += [f"a{layer}.h{h}" for h in range(self.heads)]
            yield from (f"{s}->m{layer}" for s in before)
            before.append(f"m{layer}")
        yield from (f"{s}->logits" for s in before)


def metric(logits):
    return logits[TOKENS[0]] - logits[TOKENS[1]]


def averaged(run):
    """A run in whose writes and reads every position but the first has the mean of those positions."""
    mean = lambda x: torch.cat([x[:1], x[1:].mean(0, keepdim=True).expand(len(x) - 1, -1)])
    return {part: {name: mean(x) for name, x in run[part].items()} for part in ("writes", "reads")}


def main():
    (HERE / "circuits").mkdir(exist_ok=True)
    for case in ("gpt2", "llama"):
        graph = Graph(case)
        clean = torch.tensor([(i * 17 + 5) % 51 for i in range(14)])
        corrupt = clean.clone()
        for place, token in ((1, 44), (6, 3), (12, 27)):
            corrupt[place] = token
        own, other = graph.run(graph.embed(clean)), graph.run(graph.embed(corrupt))
        for ids, found in ((clean, own), (corrupt, other)):
            apart = (graph.model(ids[None]).logits[0, -1] - found["logits"]).abs().max()
            # The rotations of the Hugging Face model are f32 numbers.
            assert apart < 1e-6, apart
        change = {s: other["writes"][s] - own["writes"][s] for s in own["writes"]}

        def scores(embeds):
            out = dict.fromkeys(graph.names(), 0.0)
            heads = {}
            for embed in embeds:
                found = graph.run(embed, grad=True)
                metric(found["logits"]).backward()
                for name in out:
                    sender, receiver = name.split("->")
                    out[name] += float((change[sender] * found["reads"][receiver].grad).sum()) / len(embeds)
                for layer, z in found["zs"].items():
                    moved = (other["zs"][layer] - own["zs"][layer]) * z.grad
                    heads |= {f"a{layer}.h{h}": float(x) for h, x in enumerate(moved.sum((0, 2)))}
            return out, heads

        a, b = graph.embed(clean), graph.embed(corrupt)
        eap, heads = scores([a])
        eap_ig, _ = scores([b + k / STEPS * (a - b) for k in range(STEPS)])
        kept = {name for i, name in enumerate(sorted(eap)) if i % 3 != 1}
        under = graph.run(a, kept=kept, corrupted=other)
        under_means = graph.run(a, kept=kept, corrupted=averaged(other))
        rounded = lambda scores: {name: float(f"{x:.8g}") for name, x in scores.items()}
        out = {
            "clean": clean.tolist(),
            "corrupt": corrupt.tolist(),
            "tokens": TOKENS,
            "clean_metric": float(metric(own["logits"])),
            "corrupt_metric": float(metric(other["logits"])),
            "under": float(metric(under["logits"])),
            "under_means": float(metric(under_means["logits"])),
            "heads": rounded(heads),
            "eap": rounded(eap),
            "eap_ig": rounded(eap_ig),
        }
        (HERE / "circuits" / f"{case}.json").write_text(json.dumps(out, indent=0) + "\n")
        print(case, len(eap), "edges", out["clean_metric"], out["corrupt_metric"], out["under"])


if __name__ == "__main__":
    main()
