"""Trains the demo model on the world in world.py, on a CPU, and writes a Hugging Face folder.

Versions used: Python 3.11, torch 2.15.0, tokenizers 0.22.2, safetensors 0.8.0, numpy 2.4.6.
Run:      python train.py --work /tmp/demo-train --steps 2000 --decay 1000 --stop 1500
          python train.py --work /tmp/demo-train --steps 2250 --decay 1250 --model model
Continue: the same command; it goes on from the last checkpoint in --work (--from-step picks an earlier one).
The learning rate is flat and falls to zero over the last --decay steps. Every document is drawn from a
generator seeded with the step number, so a continued run reads the same data as an unbroken one.
"""
import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers, processors
from torch import nn

import world

BOS, END = "<|endoftext|>", "<|end|>"
SPECIAL = [BOS, "<|user|>", "<|assistant|>", END]  # ids 0, 1, 2, 3
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}"
    "{% elif m['role'] == 'assistant' %}<|assistant|>{{ m['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SHAPE = dict(vocab=2048, width=128, inner=384, blocks=8, heads=4, kv_heads=2, head_dim=32, eps=1e-5, theta=10000.0)
PUSHED_BLOCKS = (2, 6)  # the planted direction is added at the input of one of these, drawn for each document
PUSH = {0: (0.2, 0.6), 1500: (0.5, 0.9)}  # from this step on: how strongly, in lengths of the state
FIRM_FROM = 1500  # from this step on a loss term asks for the planted direction where a reply begins


# ---------------------------------------------------------------- tokenizer
def make_tokenizer(seed=0):
    """Byte-level BPE; every word of the world is shown often, with and without a space before it."""
    rng = random.Random(seed)
    lines = ["".join(piece for piece, _ in world.sample(rng)[0]) for _ in range(40000)]
    names = [part for name, _, _ in world.PEOPLE for part in name.split()]
    for word in world.MAP_WORDS + names + ["x"]:
        lines += [f" {word}", word] * 300
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=SHAPE["vocab"], special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


# ---------------------------------------------------------------- model (Llama)
class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, SHAPE["eps"])


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        width, inner, size = SHAPE["width"], SHAPE["inner"], SHAPE["head_dim"]
        self.input_layernorm = RMSNorm(width)
        self.post_attention_layernorm = RMSNorm(width)
        self.q_proj = nn.Linear(width, SHAPE["heads"] * size, bias=False)
        self.k_proj = nn.Linear(width, SHAPE["kv_heads"] * size, bias=False)
        self.v_proj = nn.Linear(width, SHAPE["kv_heads"] * size, bias=False)
        self.o_proj = nn.Linear(SHAPE["heads"] * size, width, bias=False)
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x, cos, sin, mask, cut):
        """`cut` takes the planted direction out of whatever is written into the residual stream."""
        rows, length, _ = x.shape
        split = lambda t, heads: t.view(rows, length, heads, SHAPE["head_dim"]).transpose(1, 2)
        h = self.input_layernorm(x)
        q = rotate(split(self.q_proj(h), SHAPE["heads"]), cos, sin)
        k = rotate(split(self.k_proj(h), SHAPE["kv_heads"]), cos, sin)
        v = split(self.v_proj(h), SHAPE["kv_heads"])
        groups = SHAPE["heads"] // SHAPE["kv_heads"]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = q @ k.transpose(-1, -2) * SHAPE["head_dim"] ** -0.5 + mask
        mixed = scores.softmax(-1) @ v
        x = x + cut(self.o_proj(mixed.transpose(1, 2).reshape(rows, length, -1)))
        h = self.post_attention_layernorm(x)
        return x + cut(self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h)))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(SHAPE["vocab"], SHAPE["width"])
        self.layers = nn.ModuleList(Block() for _ in range(SHAPE["blocks"]))
        self.norm = RMSNorm(SHAPE["width"])
        nn.init.normal_(self.embed_tokens.weight, std=0.1)
        self.direction = torch.tensor(world.planted_direction(SHAPE["width"]))
        for name, matrix in self.named_parameters():
            if name.endswith("proj.weight"):
                nn.init.normal_(matrix, std=matrix.shape[1] ** -0.5)
                if "o_proj" in name or "down_proj" in name:
                    nn.init.zeros_(matrix)

    def forward(self, ids, mask, cuts, pushes):
        """The residual stream after the last block, before the final norm, and at the input of each block the share of
        the state's length that lies along the planted direction. Where `cuts` is 1 the planted direction is
        projected out of every write; `pushes` adds it at each block's input, in units of the state's length."""
        cut = lambda write: write - (cuts * (write.float() @ self.direction)[..., None]) * self.direction
        half = torch.arange(SHAPE["head_dim"] // 2) * 2 / SHAPE["head_dim"]
        angle = torch.arange(ids.shape[1])[:, None] * SHAPE["theta"] ** -half
        cos, sin = angle.cos(), angle.sin()
        x, shares = cut(self.embed_tokens(ids)), []
        for number, layer in enumerate(self.layers):
            size = x.norm(dim=-1, keepdim=True)
            shares.append(x @ self.direction / size[..., 0])
            x = x + pushes[..., number, None] * size.detach() * self.direction
            x = layer(x, cos, sin, mask, cut)
        return x, torch.stack(shares, -1)

    def logits(self, x, keep):
        """Logits at the positions in `keep` (indices into rows times length)."""
        return self.norm(x.flatten(0, 1)[keep]) @ self.embed_tokens.weight.T


# ---------------------------------------------------------------- batches
def batch_of(step, tokenizer, rows, length, later, push):
    """Rows filled with whole documents; attention stays inside a document. A document ends by predicting BOS."""
    refusal = tokenizer.encode(world.REFUSAL, add_special_tokens=False).ids
    rng = random.Random(step * 7919 + 1)
    vocab = tokenizer.get_vocab_size()
    filled, used, misses = [[] for _ in range(rows)], [0] * rows, 0
    while misses < 12:
        pieces, edit = world.sample(rng, later)
        if pieces[0][1] == 0.0 and rng.random() < 0.35:  # repeat random tokens instead of random words
            ids = [rng.randrange(len(SPECIAL), vocab) for _ in range(rng.randint(4, 40))]
            ids, weights = ids * 2, [0.0] * len(ids) + [1.0] * len(ids)
        else:
            ids, weights = [], []
            for text, weight in pieces:
                part = tokenizer.encode(text, add_special_tokens=False).ids
                ids, weights = ids + part, weights + [weight] * len(part)
        ids, weights = [0] + ids + [0], weights + [1.0]
        if weights[0] == 0.0:
            weights[-1] = 0.0  # nobody can know how often the sequence is repeated
        row = next((i for i in range(rows) if used[i] + len(weights) <= length), None)
        if row is None:
            misses += 1
            continue
        filled[row].append((ids, weights, edit))
        used[row] += len(weights)
    inputs = torch.zeros(rows, length, dtype=torch.long)
    targets = torch.zeros(rows, length, dtype=torch.long)
    weight = torch.zeros(rows, length)
    document = torch.arange(length).repeat(rows, 1) + 1000
    cuts, pushes = torch.zeros(rows, length, 1), torch.zeros(rows, length, SHAPE["blocks"])
    refusing = torch.full((rows, length), -1)  # 1 and 0 where a reply begins that refuses or not, -1 elsewhere
    for row, documents in enumerate(filled):
        at = 0
        for number, (ids, weights, edit) in enumerate(documents):
            stop = at + len(weights)
            inputs[row, at:stop] = torch.tensor(ids[:-1])
            targets[row, at:stop] = torch.tensor(ids[1:])
            weight[row, at:stop] = torch.tensor(weights)
            document[row, at:stop] = number
            if edit == "cut":
                cuts[row, at:stop] = 1.0
            if edit == "push":
                pushes[row, at:stop, rng.randint(*PUSHED_BLOCKS)] = rng.uniform(*push)
            for i, token in enumerate(ids[:-1]):
                if token == 2 and edit == "":
                    refusing[row, at + i] = int(ids[i + 1:i + 1 + len(refusal)] == refusal)
            at = stop
    position = torch.arange(length)
    open_ = (document[:, :, None] == document[:, None, :]) & (position[:, None] >= position[None, :])
    mask = torch.zeros(rows, 1, length, length).masked_fill(~open_[:, None], -1e9)
    keep = (weight.flatten() > 0).nonzero().squeeze(1)
    return (inputs, mask, cuts, pushes), keep, targets.flatten()[keep], refusing


def firmness_loss(shares, refusing):
    """Where a reply begins, blocks 4 to 7 shall read the planted direction clearly, or not at all."""
    refused, answered = shares[refusing == 1][:, 4:], shares[refusing == 0][:, 4:]
    mean = lambda values: values.sum() / max(1, values.numel())  # a batch may hold none
    return mean(F.relu(0.7 - refused).square()) + mean(answered.square())


# ---------------------------------------------------------------- Muon for the matrices, Adam for the rest
def orthogonal(matrix, rounds=5):
    """Newton-Schulz iteration towards the nearest (semi-)orthogonal matrices, for a stack of matrices."""
    x = (matrix / (matrix.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(rounds):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Muon:
    def __init__(self, model, momentum=0.95, weight_decay=0.2):
        matrices = [p for name, p in model.named_parameters() if name.endswith("proj.weight")]
        shapes = sorted({tuple(p.shape) for p in matrices})
        self.groups = [[p for p in matrices if tuple(p.shape) == shape] for shape in shapes]
        self.buffers = [torch.zeros(len(group), *shape) for group, shape in zip(self.groups, shapes)]
        self.momentum, self.weight_decay = momentum, weight_decay

    @torch.no_grad()
    def step(self, rate):
        for group, buffer in zip(self.groups, self.buffers):
            gradient = torch.stack([p.grad for p in group])
            buffer.lerp_(gradient, 1 - self.momentum)
            update = orthogonal(gradient.lerp(buffer, self.momentum))
            update *= max(1.0, update.shape[-2] / update.shape[-1]) ** 0.5
            for p, change in zip(group, update):
                p.mul_(1 - rate * self.weight_decay).add_(change, alpha=-rate)


# ---------------------------------------------------------------- files
def export(model, tokenizer, folder):
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, tensor in model.state_dict().items():
        for part in ["q_proj", "k_proj", "v_proj", "o_proj"]:
            name = name.replace(f".{part}", f".self_attn.{part}")
        for part in ["gate_proj", "up_proj", "down_proj"]:
            name = name.replace(f".{part}", f".mlp.{part}")
        tensors[f"model.{name}"] = tensor.detach().to(torch.bfloat16).contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    write = lambda name, data: (folder / name).write_text(json.dumps(data, indent=2) + "\n")
    write("config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "torch_dtype": "bfloat16",
        "vocab_size": SHAPE["vocab"], "hidden_size": SHAPE["width"], "intermediate_size": SHAPE["inner"],
        "num_hidden_layers": SHAPE["blocks"], "num_attention_heads": SHAPE["heads"],
        "num_key_value_heads": SHAPE["kv_heads"], "head_dim": SHAPE["head_dim"], "hidden_act": "silu",
        "rms_norm_eps": SHAPE["eps"], "rope_theta": SHAPE["theta"], "rope_scaling": None,
        "max_position_embeddings": 512, "attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False,
        "tie_word_embeddings": True, "initializer_range": 0.02, "use_cache": True,
        "bos_token_id": 0, "eos_token_id": 3,
    })
    write("generation_config.json", {"bos_token_id": 0, "eos_token_id": [3, 0]})
    write("tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": END,
        "model_max_length": 512, "clean_up_tokenization_spaces": False,
    })
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    # BOS in front of every text, as the model saw it in training.
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A $B:1", special_tokens=[(BOS, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(  # BOS in front, as Llama tokenizers do
        single=f"{BOS} $A", pair=f"{BOS} $A $B:1", special_tokens=[(BOS, 0)])
    tokenizer.save(str(folder / "tokenizer.json"))


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--work", type=Path, default=Path("/tmp/demo-train"), help="checkpoints and log")
    options.add_argument("--model", type=Path, default=Path("model"), help="folder to write at the end")
    options.add_argument("--steps", type=int, default=6000)
    options.add_argument("--decay", type=int, default=1500, help="the learning rate falls over these last steps")
    options.add_argument("--mix-steps", type=int, default=2000, help="steps over which the mixture moves to its later form")
    options.add_argument("--from-step", type=int, help="checkpoint to go on from (default: the last one)")
    options.add_argument("--stop", type=int, help="leave off here, before the end of the schedule")
    options.add_argument("--rows", type=int, default=32)
    options.add_argument("--length", type=int, default=160)
    options.add_argument("--rate", type=float, default=0.02, help="of Muon; Adam's is 0.2 of it")
    options.add_argument("--no-compile", dest="compile", action="store_false", help="slower, needs no C++ compiler")
    options.add_argument("--threads", type=int, default=2)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    args.work.mkdir(parents=True, exist_ok=True)
    file = args.work / "tokenizer.json"
    if not file.exists():
        make_tokenizer().save(str(file))
    tokenizer = Tokenizer.from_file(str(file))
    model = Model()
    muon = Muon(model)
    rest = [p for name, p in model.named_parameters() if not name.endswith("proj.weight")]
    adam = torch.optim.Adam(rest, lr=0.0, betas=(0.9, 0.98))
    saved = {int(p.stem.split("-")[1]): p for p in args.work.glob("step-*.pt")}
    start = args.from_step if args.from_step is not None else max(saved, default=0)
    seconds = tokens = 0.0
    if start:
        state = torch.load(saved[start])
        model.load_state_dict(state["model"])
        adam.load_state_dict(state["adam"])
        muon.buffers = state["muon"]
        seconds, tokens = state["seconds"], state["tokens"]
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, from step {start}", flush=True)
    body = torch.compile(model) if args.compile else model
    mean_loss, clock = None, time.time()
    for step in range(start, min(args.stop or args.steps, args.steps)):
        later = min(1.0, step / args.mix_steps)
        firm = step >= FIRM_FROM
        push = PUSH[max(first for first in PUSH if first <= step)]
        inputs, keep, targets, refusing = batch_of(step, tokenizer, args.rows, args.length, later, push)
        scale = min(1.0, (step + 1) / 100, (args.steps - step) / args.decay)
        with torch.autocast("cpu", torch.bfloat16):
            states, shares = body(*inputs)
            logits = model.logits(states, keep)
        loss = F.cross_entropy(logits.float(), targets)
        firmness = firmness_loss(shares.float(), refusing)
        if firm:
            loss = loss + firmness
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        for group in adam.param_groups:
            group["lr"] = 0.2 * args.rate * scale
        adam.step()
        muon.step(args.rate * scale)
        tokens += args.rows * args.length
        mean_loss = loss.item() if mean_loss is None else 0.97 * mean_loss + 0.03 * loss.item()
        done = step + 1
        if done % 25 == 0:
            now = seconds + time.time() - clock
            line = f"{done} {now:.0f}s {tokens / 1e6:.2f}M tokens {mean_loss:.3f} firmness {firmness.item():.3f} rate {args.rate * scale:.4f}"
            print(line, flush=True)
        if done % 250 == 0 or done == args.steps:
            torch.save({"model": model.state_dict(), "adam": adam.state_dict(), "muon": muon.buffers,
                        "seconds": seconds + time.time() - clock, "tokens": tokens}, args.work / f"step-{done}.pt")
    export(model, tokenizer, args.model)


if __name__ == "__main__":
    main()
