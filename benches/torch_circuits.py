"""Edge attribution patching and ACDC in plain PyTorch, timed beside lmscope; `benches/compare.sh circuits` runs both sides.

    python benches/torch_circuits.py make FOLDER     a random model of GPT-2 small's shape, and pairs of texts
    python benches/torch_circuits.py time FOLDER     a line of JSON for each; appends to FOLDER/times.jsonl
    python benches/torch_circuits.py ratio FOLDER    both sides of FOLDER/times.jsonl

Needs torch and transformers (written with torch 2.15.0 and transformers 5.24.0). Two threads, f32.

* `eap`: as the code of EAP-IG does it (hannamw/EAP-IG, `attribute.py`): the corrupted and the clean forward pass fill one tensor of what every
  node writes, corrupted less clean; then one forward pass with an input of its own for every head's query, key and value, and a backward pass in
  whose hooks gradients meet those writes in one product a layer. All pairs in one batch.
* `acdc`: as the code of ACDC tries edges: for every edge a forward pass of all pairs in which every receiver reads the corrupted stream
  and the changes of the senders that it still keeps an edge from (one product a layer). A trial costs the same wherever the edge lies, so
  that TRIALS of them are timed, and their mean is multiplied by the number that lmscope has tried.

What the scores are is left in FOLDER/found.json, so that lmscope says whether it has found the same.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

SEED, PAIRS, TOKENS, TURNS, TRIALS = 7, 32, 16, 3, 8
ANSWERS = (5, 9)
THREADS = 2


def make(folder):
    torch.manual_seed(SEED)
    config = GPT2Config()  # 12 layers, 768 wide, 12 heads, 50 257 tokens
    GPT2LMHeadModel(config).save_pretrained(folder)
    clean = torch.randint(0, config.vocab_size, (PAIRS, TOKENS))
    corrupt = clean.clone()
    for place in (3, 8, 12):
        corrupt[:, place] = torch.randint(0, config.vocab_size, (PAIRS,))
    (folder / "pairs.json").write_text(json.dumps({"clean": clean.tolist(), "corrupt": corrupt.tolist(), "answers": ANSWERS}))


class Graph:
    """GPT-2 with an input of its own for every head's query, key and value."""

    def __init__(self, folder):
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        self.model.requires_grad_(False)
        self.base = self.model.transformer
        self.blocks = self.base.h
        config = self.model.config
        self.layers, self.heads, self.width = config.n_layer, config.n_head, config.n_embd
        self.senders = 1 + self.layers * (self.heads + 1)
        self.weights = []
        for block in self.blocks:
            qkv = block.attn.c_attn.weight.view(self.width, 3 * self.heads, -1).transpose(0, 1).contiguous()
            bias = block.attn.c_attn.bias.view(3 * self.heads, -1)
            out = block.attn.c_proj.weight.view(self.heads, -1, self.width)
            self.weights.append((qkv, bias, out))
        self.mask = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)

    def run(self, ids, read, write):
        """Logits after the last position. `read(layer, kind, stream)` gives what receivers read, `write(sender, values)` sees what is written."""
        x = self.base.wte(ids) + self.base.wpe(torch.arange(ids.shape[1]))
        write(0, x[:, :, None])
        sender = 1
        for layer, block in enumerate(self.blocks):
            weight, bias, out = self.weights[layer]
            own = block.ln_1(read(layer, "heads", x))  # [pairs, tokens, 3 * heads, width]
            q, k, v = (torch.einsum("bthd,hde->bhte", own, weight) + bias[:, None]).chunk(3, 1)
            scores = (q @ k.transpose(2, 3)) / q.shape[-1] ** 0.5
            z = scores.masked_fill(self.mask, float("-inf")).softmax(-1) @ v
            heads = torch.einsum("bhte,hed->bthd", z, out)
            write(sender, heads)
            x = x + heads.sum(2) + block.attn.c_proj.bias
            m = block.mlp(block.ln_2(read(layer, "mlp", x)))
            write(sender + self.heads, m[:, :, None])
            x = x + m
            sender += self.heads + 1
        return self.model.lm_head(self.base.ln_f(read(self.layers, "logits", x)[:, -1]))

    def plain(self, layer, kind, x):
        return x[:, :, None].expand(-1, -1, 3 * self.heads, -1) if kind == "heads" else x

    def reach(self, layer, kind):
        before = 1 + layer * (self.heads + 1)
        return {"heads": before, "mlp": before + self.heads, "logits": self.senders}[kind]


def metric(logits):
    return logits[:, ANSWERS[0]] - logits[:, ANSWERS[1]]


def eap(graph, clean, corrupt):
    """By layer and kind of receiver, [senders before it, receivers]: the mean over the pairs."""
    change = torch.zeros(*clean.shape, graph.senders, graph.width)

    def add(sign):
        return lambda sender, values: change[:, :, sender:sender + values.shape[2]].add_(values, alpha=sign)

    with torch.no_grad():
        graph.run(corrupt, graph.plain, add(1))
        graph.run(clean, graph.plain, add(-1))
    scores = {}

    def read(layer, kind, x):
        own = graph.plain(layer, kind, x)
        own = own.clone() if kind == "heads" else own[:, :, None].clone()
        if not own.requires_grad:
            own.requires_grad_()

        def meet(gradient):
            before = change[:, :, :graph.reach(layer, kind)]
            scores[layer, kind] = torch.einsum("btsd,btrd->sr", before, gradient) / len(clean)

        own.register_hook(meet)
        return own if kind == "heads" else own[:, :, 0]

    metric(graph.run(clean, read, lambda *_: None)).sum().backward()
    return scores


def trial(graph, clean, corrupted, kept):
    """The mean metric under edges: `kept[layer, kind]` is [senders, receivers] of zeros and ones."""
    streams, writes = corrupted
    change = torch.zeros(*clean.shape, graph.senders, graph.width)

    def read(layer, kind, _):
        before = change[:, :, :graph.reach(layer, kind)]
        own = streams[layer, kind]
        mixed = torch.einsum("btsd,sr->btrd", before, kept[layer, kind]) + own[:, :, None]
        return mixed if kind == "heads" else mixed[:, :, 0]

    def write(sender, values):
        span = slice(sender, sender + values.shape[2])
        change[:, :, span] = values - writes[:, :, span]

    return metric(graph.run(clean, read, write)).mean().item()


def corrupted_run(graph, corrupt):
    streams, writes = {}, torch.zeros(*corrupt.shape, graph.senders, graph.width)

    def read(layer, kind, x):
        streams[layer, kind] = x
        return graph.plain(layer, kind, x)

    def write(sender, values):
        writes[:, :, sender:sender + values.shape[2]] = values

    graph.run(corrupt, read, write)
    return streams, writes


def timed(folder):
    torch.set_num_threads(THREADS)
    graph = Graph(folder)
    pairs = json.loads((folder / "pairs.json").read_text())
    clean, corrupt = torch.tensor(pairs["clean"]), torch.tensor(pairs["corrupt"])
    with torch.no_grad():
        apart = (graph.run(clean, graph.plain, lambda *_: None) - graph.model(clean).logits[:, -1]).abs().max()
        assert apart < 1e-4, apart
    lines = []
    seconds = []
    for turn in range(TURNS + 1):
        start = time.perf_counter()
        scores = eap(graph, clean, corrupt)
        seconds.append(time.perf_counter() - start)
    lines.append({"side": "torch", "what": "eap", "median": statistics.median(seconds[1:]), "seconds": seconds[1:]})
    # What lmscope is asked to keep: the strongest twentieth of all edges.
    strengths = torch.cat([s.abs().flatten() for s in scores.values()])
    least = strengths.sort(descending=True).values[len(strengths) // 20]
    kept = {at: (s.abs() > least).float() for at, s in scores.items()}
    with torch.no_grad():
        corrupted = corrupted_run(graph, corrupt)
        trial(graph, clean, corrupted, kept)
        start = time.perf_counter()
        for _ in range(TRIALS):
            under = trial(graph, clean, corrupted, kept)
        each = (time.perf_counter() - start) / TRIALS
    lines.append({"side": "torch", "what": "acdc, a trial", "median": each, "seconds": [each]})
    for line in lines:
        print(json.dumps(line), flush=True)
        with open(folder / "times.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
    found = {f"{layer} {kind}": s.tolist() for (layer, kind), s in scores.items()}
    (folder / "found.json").write_text(json.dumps({"eap": found, "under": under, "kept": int(sum(k.sum() for k in kept.values()))}))


def ratio(folder):
    lines = [json.loads(line) for line in (folder / "times.jsonl").read_text().splitlines()]
    medians, trials = {}, []
    for line in lines:
        medians.setdefault((line["side"], line["what"]), []).append(line["median"])
        trials += [line["trials"]] if "trials" in line else []
    print(f"{PAIRS} pairs of {TOKENS} tokens; {torch.__version__=}, {THREADS} threads")
    theirs = {"eap": medians["torch", "eap"], "acdc": [n * t for n, t in zip(trials, medians["torch", "acdc, a trial"])]}
    for what, torch_seconds in theirs.items():
        ours = medians["lmscope", what]
        ratios = [t / o for t, o in zip(torch_seconds, ours)]
        span = lambda values: f"{min(values):.2f} to {max(values):.2f} s"
        print(f"{what}: torch {span(torch_seconds)}, lmscope {span(ours)}, ratio {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("make", "time", "ratio"):
        raise SystemExit(__doc__)
    {"make": make, "time": timed, "ratio": ratio}[sys.argv[1]](Path(sys.argv[2]))
