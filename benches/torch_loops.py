"""The lens grid, back-patching and Jacobians as plain PyTorch, timed beside lmscope; `benches/compare.sh` runs both sides.

    python benches/torch_loops.py make FOLDER     random models of two shapes, and prompts
    python benches/torch_loops.py time FOLDER     a line of JSON for each loop; appends to FOLDER/times.jsonl
    python benches/torch_loops.py ratio FOLDER    both sides of FOLDER/times.jsonl

Needs torch and transformers (written with torch 2.15.0 and transformers 4.57.1). Two threads, f32, eager attention, no
gradients but for the last; one unmeasured turn of every loop, then a prompt a turn. The loops keep what they find, and `time` leaves it in
FOLDER/found.json, so that lmscope says whether it has found the same.

What is looped, for 12 layers and 128 tokens:

* `lens, cell by cell`: one pass, then final norm, unembedding, softmax and top-k of every layer and position by itself, as
  the prediction tables of LM-Debugger are made (with `topk` where it sorts the vocabulary in Python);
* `lens, in hooks`: the decoder runs in a forward hook of every block over all positions, logits go to numpy, then argmax and
  softmax over the whole array, as nostalgebraist's `transformer-utils` does it;
* `lens, layer by layer`: one pass, then a batch a layer: what a careful reader of those would write;
* `back-patching, full passes`: for each pair (source, target), source above target, a forward pass over all tokens with a
  hook that overwrites the target block's output at the last position, as the code of Hopping Too Late does it (which then
  goes on to generate; here, as there, only the last position is unembedded);
* `back-patching, cached`: the same with the keys and values of all but the last token computed once;
* `jacobian, torch.func`: on a Llama of SmolLM2-135M's shape (30 layers of 576) and 12 tokens, all 576 rows of the derivative of
  what leaves the last block at the last token by what enters the first block at the first: `jacrev`, with its fastest chunk.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import DynamicCache

SEED, TOKENS, TURNS, TOP = 7, 128, 3, 5
SUFFIX, CHUNKS = 12, [96, 192, 576]
THREADS = 2


def make(folder):
    torch.manual_seed(SEED)
    config = GPT2Config()  # 12 layers, 768 wide, 12 heads, 50 257 tokens
    model = GPT2LMHeadModel(config)
    model.save_pretrained(folder)
    # One prompt for every turn, and one to warm up with.
    prompts = torch.randint(0, config.vocab_size, (TURNS + 1, TOKENS)).tolist()
    (folder / "prompts.json").write_text(json.dumps(prompts))
    llama = LlamaForCausalLM(
        LlamaConfig(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                    num_key_value_heads=3, tie_word_embeddings=True, rope_theta=1e5, max_position_embeddings=2048))
    llama.save_pretrained(folder / "llama")
    print(json.dumps({"seed": SEED, "parameters": sum(p.numel() for p in model.parameters()), "tokens": TOKENS}))


def stream(output):
    """A block's residual stream, whether the block returns a tuple or not."""
    return output[0] if isinstance(output, tuple) else output


def states(model, ids):
    """What leaves every block: `[layers][tokens, width]`, of one pass."""
    kept, hooks = [], []
    for block in model.transformer.h:
        hooks.append(block.register_forward_hook(lambda _m, _i, output: kept.append(stream(output)[0])))
    model(ids, use_cache=False, logits_to_keep=1)
    for hook in hooks:
        hook.remove()
    return kept


def cell_by_cell(model, ids):
    grid = []
    for state in states(model, ids):
        row = []
        for position in range(state.shape[0]):
            logits = model.lm_head(model.transformer.ln_f(state[position]))
            best = torch.topk(torch.softmax(logits, dim=-1), TOP)
            row.append((best.indices.tolist(), best.values.tolist()))
        grid.append(row)
    return [[(ids[0], values[0]) for ids, values in row] for row in grid]


def in_hooks(model, ids):
    logits, hooks = [], []

    def decode(_module, _inputs, output):
        logits.append(model.lm_head(model.transformer.ln_f(stream(output))).cpu().numpy())

    for block in model.transformer.h:
        hooks.append(block.register_forward_hook(decode))
    model(ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    logits = np.concatenate(logits, axis=0)
    best = logits.argmax(axis=-1)
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probs = shifted / shifted.sum(axis=-1, keepdims=True)
    return [[(int(b), float(p[b])) for b, p in zip(*row)] for row in zip(best, probs)]


def layer_by_layer(model, ids):
    grid = []
    for state in states(model, ids):
        best = torch.topk(torch.softmax(model.lm_head(model.transformer.ln_f(state)), dim=-1), TOP)
        grid.append([(i[0], v[0]) for i, v in zip(best.indices.tolist(), best.values.tolist())])
    return grid


def patched(model, block, value):
    """Overwrites what leaves a block at the last position until the handle is removed."""

    def overwrite(_module, _inputs, output):
        stream(output)[0, -1] = value
        return output

    return block.register_forward_hook(overwrite)


def answer(logits):
    best = torch.softmax(logits[0, -1], dim=-1).max(dim=-1)
    return (best.indices.item(), best.values.item())


def pairs(model):
    layers = len(model.transformer.h)
    return [(source, target) for source in range(layers) for target in range(source)]


def full_passes(model, ids):
    last = [state[-1].clone() for state in states(model, ids)]
    found = []
    for source, target in pairs(model):
        hook = patched(model, model.transformer.h[target], last[source])
        found.append(((source, target), answer(model(ids, use_cache=False, logits_to_keep=1).logits)))
        hook.remove()
    return found


def cached(model, ids):
    last = [state[-1].clone() for state in states(model, ids)]
    past = DynamicCache()
    model(ids[:, :-1], past_key_values=past, use_cache=True, logits_to_keep=1)
    length, found = ids.shape[1] - 1, []
    for source, target in pairs(model):
        past.crop(length)
        hook = patched(model, model.transformer.h[target], last[source])
        logits = model(ids[:, -1:], past_key_values=past, use_cache=True, cache_position=torch.tensor([length])).logits
        found.append(((source, target), answer(logits)))
        hook.remove()
    return found


def jacobian(model, ids, chunk):
    """Rows of d (what leaves the last block, last token) / d (what enters the first, first token): `[width, width]`."""
    seen = []
    hook = model.model.norm.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    embedded = model.model.embed_tokens(ids).detach()

    def last(first):
        seen.clear()
        model.model(inputs_embeds=torch.cat([first[None, None], embedded[:, 1:]], dim=1), use_cache=False)
        return seen[0][0, -1]

    with torch.enable_grad():
        rows = torch.func.jacrev(last, chunk_size=chunk)(embedded[0, 0])
    hook.remove()
    return rows.detach()


def time_jacobian(folder):
    model = AutoModelForCausalLM.from_pretrained(folder / "llama", dtype=torch.float32, attn_implementation="eager").eval()
    prompts = [torch.tensor([ids[:SUFFIX]]) for ids in json.loads((folder / "prompts.json").read_text())]
    prompts = [ids % model.config.vocab_size for ids in prompts]
    took = {}
    for chunk in CHUNKS:
        start = time.perf_counter()
        jacobian(model, prompts[0], chunk)
        took[chunk] = time.perf_counter() - start
    best, seconds, found = min(took, key=took.get), [], []
    for ids in prompts[1:]:
        start = time.perf_counter()
        rows = jacobian(model, ids, best)
        seconds.append(time.perf_counter() - start)
        found.append(rows[::191, ::97].tolist())
    return seconds, found


LOOPS = {
    "lens, cell by cell": cell_by_cell,
    "lens, in hooks": in_hooks,
    "lens, layer by layer": layer_by_layer,
    "back-patching, full passes": full_passes,
    "back-patching, cached": cached,
}


def agree(what, a, b):
    """Two ways to the same answer: the same tokens, but for ties, and the same probabilities."""
    a, b = (np.array([[p for _, p in row] if isinstance(row, list) else row[1][1] for row in x]) for x in (a, b))
    apart = (np.abs(a - b) / a).max()
    assert apart < 1e-3, f"{what} differs by {apart:.1e}"


def timed(folder):
    torch.set_num_threads(THREADS)
    torch.set_grad_enabled(False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    prompts = [torch.tensor([ids]) for ids in json.loads((folder / "prompts.json").read_text())]
    found = {}
    for what, loop in LOOPS.items():
        loop(model, prompts[0])
        seconds = []
        for turn, ids in enumerate(prompts[1:]):
            start = time.perf_counter()
            answers = loop(model, ids)
            seconds.append(time.perf_counter() - start)
            first = found.setdefault(what.split(",")[0], [None] * TURNS)
            if first[turn] is None:
                first[turn] = answers
            agree(what, first[turn], answers)
        line = {"side": "torch", "what": what, "median": statistics.median(seconds), "seconds": seconds}
        print(json.dumps(line), flush=True)
        with open(folder / "times.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
    seconds, found["jacobian"] = time_jacobian(folder)
    line = {"side": "torch", "what": "jacobian, torch.func", "median": statistics.median(seconds), "seconds": seconds}
    print(json.dumps(line), flush=True)
    with open(folder / "times.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")
    (folder / "found.json").write_text(json.dumps(found))


def ratio(folder):
    lines = [json.loads(line) for line in (folder / "times.jsonl").read_text().splitlines()]
    medians = {}
    for line in lines:
        medians.setdefault((line["side"], line["what"]), []).append(line["median"])
    print(f"medians of {TURNS} turns, lowest to highest of the rounds; {torch.__version__=}, {THREADS} threads")
    span = lambda values: f"{min(values):.2f} to {max(values):.2f} s"
    for (side, what), values in medians.items():
        if side == "lmscope" and "," in what:
            print(f"{what}: lmscope {span(values)}")
    for what in [*LOOPS, "jacobian, torch.func"]:
        ours = medians.get(("lmscope", what.split(",")[0]))
        theirs = medians.get(("torch", what))
        if ours and theirs:
            # Round by round, because what else runs on the machine slows both sides of one round.
            ratios = [t / o for t, o in zip(theirs, ours)]
            print(f"{what}: torch {span(theirs)}, lmscope {span(ours)}, ratio {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("make", "time", "ratio"):
        raise SystemExit(__doc__)
    {"make": make, "time": timed, "ratio": ratio}[sys.argv[1]](Path(sys.argv[2]))
