"""Loss, perplexity and accuracy of a text by transformers, for `cargo test score`.

    python tests/references/score.py              # rewrites score.json beside this file
    python tests/references/score.py MODEL TEXT   # prints the same for a folder in Hugging Face layout, to compare with `lmscope score`

Written with: python 3.11, transformers 4.57.1, torch (CPU), eager attention, f32. Windows are those of the guide "Perplexity of
fixed-length models": window k begins `stride` tokens after window k - 1, and scores the tokens that no earlier window did. Where the
tokenizer puts a begin token before a text, every window has it, in the place of one token.

Under `zero@mlp_out.L` a hook makes the output of that MLP zero; under `scale@attn_out.L*F` it multiplies that of attention.
"""

import json
import math
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
WINDOW, STRIDE = 24, 10


def windows(tokens, bos, window, stride):
    """By window: its tokens, and how many of its last ones are scored."""
    first = bos is not None and tokens[0] == bos
    begin, scored, out = 0, 1, []
    while scored < len(tokens):
        again = [bos] if first and begin else []
        room = window - len(again)
        end = min(begin + room, len(tokens))
        if end > scored:
            out.append((again + tokens[begin:end], end - scored))
            scored = end
        begin += min(stride, room)
    return out


def hooked(model, edit):
    if edit == "plain":
        return None
    op, place = edit.split("@")
    place, _, factor = place.partition("*")
    site, layer = place.split(".")
    block = model.model.layers[int(layer)]
    module = {"mlp_out": block.mlp, "attn_out": block.self_attn}[site]
    by = {"zero": 0.0, "scale": float(factor or 1)}[op]
    scale = lambda out: (out[0] * by, *out[1:]) if isinstance(out, tuple) else out * by
    return module.register_forward_hook(lambda _m, _a, out: scale(out))


@torch.no_grad()
def score(model, tokens, bos, window, stride, edit):
    hook = hooked(model, edit)
    losses, hits = [], 0
    for own, count in windows(tokens, bos, window, stride):
        logits = model(torch.tensor([own]), use_cache=False).logits[0, :-1].double()
        targets = torch.tensor(own[1:])
        loss = -logits.log_softmax(-1)[torch.arange(len(targets)), targets]
        losses += loss[-count:].tolist()
        hits += int((logits.argmax(-1) == targets)[-count:].sum())
    if hook is not None:
        hook.remove()
    mean = sum(losses) / len(losses)
    return {"tokens": len(losses), "loss": mean, "perplexity": math.exp(mean), "accuracy": hits / len(losses), "losses": [round(x, 6) for x in losses]}


def opened(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, attn_implementation="eager").eval()
    return tokenizer, model


def main():
    if len(sys.argv) > 2:
        tokenizer, model = opened(sys.argv[1])
        tokens = tokenizer(Path(sys.argv[2]).read_text(encoding="utf-8")).input_ids
        for edit in ["plain", "zero@mlp_out.5"]:
            found = score(model, tokens, tokenizer.bos_token_id, 512, 256, edit)
            print(edit, {name: value for name, value in found.items() if name != "losses"})
        return
    tokenizer, model = opened(ROOT / "demo" / "model")
    text = (ROOT / "demo" / "lists" / "map_text.txt").read_text(encoding="utf-8")[:1500]
    tokens = tokenizer(text).input_ids
    bos = tokenizer.bos_token_id
    cases = {edit: score(model, tokens, bos, WINDOW, STRIDE, edit) for edit in ["plain", "zero@mlp_out.5", "scale@attn_out.2*0.5"]}
    out = {"text": text, "window": WINDOW, "stride": STRIDE, "cases": cases}
    (HERE / "score.json").write_text(json.dumps(out, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
