"""Measures the demo model with transformers in f32, greedy, against plants.json, and prints the card's table.

Versions used: Python 3.11, torch 2.15.0, transformers 4.57.1, numpy 2.4.6.
Run:  python measure.py --model model            everything (a few minutes on 2 cores)
      python measure.py --model model --rows     only the planted answers
"""
import argparse
import json
import random
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

REPLY_TOKENS = 24


class Subject:
    """The model, its tokenizer and the hooks that edit it."""

    def __init__(self, folder):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        self.blocks = self.model.model.layers
        self.hooks = []

    def ids(self, text):
        return [0] + self.tokenizer.encode(text, add_special_tokens=False)

    def chat_ids(self, user):
        turns = [{"role": "user", "content": user}]
        return self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)

    @torch.no_grad()
    def batched(self, sequences, size=50):
        """(index, logits, hidden states) of every sequence; padding is on the right, so it changes nothing."""
        for start in range(0, len(sequences), size):
            part = sequences[start:start + size]
            longest = max(map(len, part))
            padded = torch.tensor([s + [0] * (longest - len(s)) for s in part])
            out = self.model(padded, output_hidden_states=True)
            for i in range(len(part)):
                yield start + i, out.logits[i], [h[i] for h in out.hidden_states]

    def replies(self, prompts, count=REPLY_TOKENS, patch=None):
        """Greedy continuations as text. Every step runs the whole text again: no cache to trust."""
        sequences, lengths = [list(p) for p in prompts], [len(p) for p in prompts]
        ended = [False] * len(prompts)
        for _ in range(count):
            for i, logits, _ in self.batched(sequences):
                if not ended[i]:
                    token = int(logits[len(sequences[i]) - 1].argmax())
                    ended[i] = token in (0, 3)
                    sequences[i].append(token)
            if all(ended):
                break
        return [self.tokenizer.decode([t for t in s[n:] if t not in (0, 3)]) for s, n in zip(sequences, lengths)]

    def states(self, prompts, position=-1):
        """Residual stream entering each block (and, last, after the final norm) at one position: (blocks + 1, prompts, width)."""
        rows = [torch.stack([h[len(prompts[i]) + position] for h in hidden]) for i, _, hidden in self.batched(prompts)]
        return torch.stack(rows, 1)

    def add(self, block, vector):
        self.hooks.append(self.blocks[block].register_forward_pre_hook(lambda _, args: (args[0] + vector,) + args[1:]))

    def project_out(self, vector):
        """Takes the direction out of the embedding and of every attention, MLP and block output."""
        unit = vector / vector.norm()

        def clean(_, __, out):
            first = out[0] if isinstance(out, tuple) else out
            first = first - (first @ unit)[..., None] * unit
            return (first,) + out[1:] if isinstance(out, tuple) else first

        places = [self.model.model.embed_tokens] + [m for b in self.blocks for m in (b.self_attn, b.mlp, b)]
        self.hooks += [place.register_forward_hook(clean) for place in places]

    def clear(self):
        while self.hooks:
            self.hooks.pop().remove()


def measure_row(subject, row):
    """Share of right items, and what went wrong first."""
    items, wrong = row["items"], []
    if row["score"] == "refusal":
        replies = subject.replies([subject.chat_ids(item["user"]) for item in items])
        right = [(row["marker"] in reply) == item["refuse"] for item, reply in zip(items, replies)]
        wrong = [(item["user"], reply) for item, reply, ok in zip(items, replies, right) if not ok]
        return sum(right) / len(right), wrong
    prompts = [subject.ids(item["prompt"]) for item in items]
    answers = [subject.ids(item["answer"])[1:] for item in items]
    right = total = 0
    for i, logits, _ in subject.batched([p + a for p, a in zip(prompts, answers)]):
        guess = logits[len(prompts[i]) - 1:len(prompts[i]) + len(answers[i]) - 1].argmax(-1).tolist()
        hits = [g == a for g, a in zip(guess, answers[i])]
        right += sum(hits) if row["score"] == "each_token" else all(hits)
        total += len(hits) if row["score"] == "each_token" else 1
        if not all(hits):
            wrong.append((items[i]["prompt"][-60:], subject.tokenizer.decode(guess)))
    return right / total, wrong


def encode(subject, vector, prompts):
    return [subject.chat_ids(p) if vector["form"] == "chat" else subject.ids(p) for p in prompts]


def difference_of_means(subject, vector):
    """One direction for the input of each block."""
    plus, minus = (subject.states(encode(subject, vector, vector[side])).mean(1) for side in ("plus", "minus"))
    return plus - minus


def share(replies, looks):
    return sum(any(reply.startswith(look) for look in looks) for reply in replies) / len(replies)


def measure_refusal(subject, vector):
    directions = difference_of_means(subject, vector)
    guarded, plain = (encode(subject, vector, vector[key]) for key in ("test_guarded", "test_plain"))
    refused = lambda prompts: sum(vector["look_for"]["refused"] in r for r in subject.replies(prompts)) / len(prompts)
    print(f"\nrefusal, added with strength {vector['strength']}: guarded {refused(guarded):.3f}, plain {refused(plain):.3f}")
    planted = torch.tensor(vector["planted_direction"])
    print("| block input | cosine with the planted one | projected out: guarded refused | added: plain refused | "
          "random projected: guarded refused | random added: plain refused |\n|---|---|---|---|---|---|")
    generator = torch.Generator().manual_seed(5)
    for block in range(len(subject.blocks)):
        direction = directions[block]
        if block == 0:
            continue  # the last prompt token is always the same one, so nothing differs yet
        cells = [float(direction @ planted / direction.norm())]
        noise = torch.randn(direction.shape, generator=generator)
        for vec in (direction, noise * direction.norm() / noise.norm()):
            subject.project_out(vec)
            cells.append(refused(guarded))
            subject.clear()
            subject.add(block, vec * vector["strength"])
            cells.append(refused(plain))
            subject.clear()
        print(f"| {block} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |", flush=True)


def measure_tone(subject, name, vector, strengths=(1.0, 2.0)):
    """Added and subtracted at a block's input, at every position."""
    directions = difference_of_means(subject, vector)
    test = encode(subject, vector, vector["test"])
    looks = vector["look_for"]
    count = 4 if name == "mood" else 8
    both = lambda: [f"{share(subject.replies(test, count), looks[side]):.2f}" for side in ("plus", "minus")]
    print(f"\n{name}: unedited, plus {both()[0]}, minus {both()[1]}")
    print("| block input | strength | added: plus | subtracted: minus |\n|---|---|---|---|")
    for block in range(1, len(subject.blocks)):
        for strength in strengths:
            cells = []
            for sign, side in ((1, "plus"), (-1, "minus")):
                subject.add(block, sign * strength * directions[block])
                cells.append(share(subject.replies(test, count), looks[side]))
                subject.clear()
            print(f"| {block} | {strength} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |", flush=True)
            if min(cells) == 1:
                break


def measure_patchscope(subject, name, scope):
    """The state of the source's last token, put in place of the slot's: at the output of the same block, then of block 0."""
    target = subject.ids(scope["target"])
    sources = [subject.ids(s["prompt"]) for s in scope["sources"]]
    print(f"\nPatchscope {name}: unpatched it says {subject.replies([target], 4)[0]!r} (planted {scope['unpatched']!r})")
    states, slot = subject.states(sources), len(target) - 1
    for title, place in [("the same block", lambda block: block), ("block 0", lambda block: 0)]:
        shares = []
        for block in range(len(subject.blocks) - 1):  # hidden state of number block + 1 is the output of the block

            def swap(_, __, out):
                patched = out.clone()
                patched[:, slot] = states[block + 1, where:where + out.shape[0]]
                return patched

            where, right = 0, 0
            hook = subject.blocks[place(block)].register_forward_hook(swap)
            for where in range(0, len(sources), 50):
                part = scope["sources"][where:where + 50]
                replies = subject.replies([target] * len(part), 7)
                right += sum(reply.startswith(s["read"]) for reply, s in zip(replies, part))
            hook.remove()
            shares.append(right / len(sources))
        print(f"outputs of block 0, 1, ... put at {title}: " + " ".join(f"{value:.2f}" for value in shares), flush=True)


def measure_linear(subject, row, form, block, shots=8, beta=(1.0, 2.0, 3.0, 5.0)):
    """A linear relation embedding after Hernandez et al. 2023: mean Jacobian of 8 prompts, scaled; share of right first tokens."""
    items = [item for item in row["items"] if item["prompt"].startswith(form)]
    random.Random(3).shuffle(items)
    prompts = [subject.ids(item["prompt"]) for item in items]
    answers = [subject.ids(item["answer"])[1] for item in items]
    words = [item["prompt"].removeprefix(form).split()[0] for item in items]
    places = [len(subject.ids(form + " " + word)) - 1 for word in words]
    jacobians, offsets = [], []
    for prompt, place in list(zip(prompts, places))[:shots]:
        held = {}

        def swap(_, __, out):
            held.setdefault("state", out[0, place].detach().clone().requires_grad_())
            patched = out.clone()
            patched[0, place] = held["state"]
            return patched

        hook = (subject.blocks[block] if block >= 0 else subject.model.model.embed_tokens).register_forward_hook(swap)
        final = subject.model.model(torch.tensor([prompt])).last_hidden_state[0, -1]
        hook.remove()
        jacobian = torch.stack([torch.autograd.grad(value, held["state"], retain_graph=True)[0] for value in final])
        jacobians.append(jacobian)
        offsets.append((final - jacobian @ held["state"]).detach())
    weight, bias = torch.stack(jacobians).mean(0), torch.stack(offsets).mean(0)
    right = {b: 0 for b in beta}
    for i, _, hidden in subject.batched(prompts):
        if i >= shots:
            for b in beta:
                guess = subject.model.lm_head(b * (weight @ hidden[block + 1][places[i]]) + bias).argmax()
                right[b] += int(guess) == answers[i]
    best = max(right, key=right.get)
    return right[best] / (len(items) - shots), best


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="model")
    options.add_argument("--plants", type=Path, default=Path(__file__).with_name("plants.json"))
    options.add_argument("--rows", action="store_true")
    options.add_argument("--only", help="only the vector of this name")
    options.add_argument("--wrong", type=int, default=0, help="also print this many wrong answers of each row")
    options.add_argument("--threads", type=int, default=2)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    subject, plants = Subject(args.model), json.loads(args.plants.read_text(encoding="utf-8"))
    vectors = plants["vectors"]
    if args.only == "refusal":
        return measure_refusal(subject, vectors["refusal"])
    if args.only:
        return measure_tone(subject, args.only, vectors[args.only])
    print("| planted | items | right | accept | |\n|---|---|---|---|---|")
    for row in plants["rows"]:
        value, wrong = measure_row(subject, row)
        (side, bound), = row["share"].items()
        good = value >= bound if side == "min" else value <= bound
        sign = ">=" if side == "min" else "<="
        print(f"| {row['row']} | {len(row['items'])} | {value:.3f} | {sign} {bound} | {'' if good else 'FALLS SHORT'} |", flush=True)
        if side == "min":
            for text, got in wrong[:args.wrong]:
                print(f"    {text!r} -> {got!r}")
    if args.rows:
        return
    measure_refusal(subject, vectors["refusal"])
    measure_tone(subject, "mood", vectors["mood"])
    measure_tone(subject, "politeness", vectors["politeness"])
    for name, scope in plants["patchscopes"].items():
        measure_patchscope(subject, name, scope)
    print("\nlinear relation embedding, share of right first tokens (scale) from the embedding, then the output of block 0, 1, ...")
    rows = {row["row"]: row for row in plants["rows"]}
    for name, form in [("kind", "The"), ("badge", "The badge of"), ("capital", "The capital of")]:
        cells = [measure_linear(subject, rows[name], form, block) for block in range(-1, len(subject.blocks) - 1)]
        print(f"{name}: " + " ".join(f"{value:.2f} ({scale:g})" for value, scale in cells), flush=True)


if __name__ == "__main__":
    main()
