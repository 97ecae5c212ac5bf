"""What TransformerLens has under each of its names, architecture by architecture, for `cargo test --test it names`.

    python tests/references/transformer_lens_names.py    # rewrites transformer_lens_names.json beside this file

Written with: python 3.11, transformer_lens 4.3.0, transformers 5.24.0, torch 2.15.0 (CPU), safetensors 0.8.0.

Every checkpoint of `cases.py` is run by `TransformerBridge` as it is (no folding, no centring, no compatibility mode), in f32
and eager attention, on the prompts of its `activations*.safetensors`. Each tensor of its cache is compared with every site
that Hugging Face's own modules gave at the same layer (`record.py`): all positions of the short prompt, and those that the
file keeps of the long one, which is past every sliding window. The bridge's logits must be those of Hugging Face, so that
what is compared is the same run.

`transformer_lens_names.json` holds

* `cases`: of every checkpoint what the bridge says when it cannot run it, else an empty text;
* `names`: by name (the layer is 1, or 0 where layer 0 differs) and checkpoint,
  `[sites, digest]` where the tensor is one of ours: all sites that equal it, separated by spaces, those whose first two axes
  it has the other way round marked with `^T`; `digest` is the sum of `x[i] * cos(i + 1)` over the short prompt's tensor in the
  order of our axes, with 0 for a masked score;
  `[nearest]` where it is none of ours: the site of its shape that is most alike (by correlation), empty without one;
  `[]` where the name exists and nothing is ever kept under it.
Names of images' encoders are left out.
"""

import contextlib
import io
import json
import logging
import math
import tempfile
import warnings

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens.model_bridge.transformer_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from cases import CASES
from record import HERE

SAME = 2e-4  # the sites of these checkpoints lie at least a hundred times farther apart
# Other ropes and another wrapper of the same blocks: that their names mean the same is checked, and only the first is kept.
VARIANTS = {"llama_linear": "llama", "llama_dynamic": "llama", "llama_yarn": "llama", "gemma3": "gemma3_text"}


def tokenizer(folder):
    """The bridge wants one; no text is ever encoded."""
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(9)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", eos_token="w1", pad_token="w1").save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def bridge(case, words):
    folder = str(HERE / case.name)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    ).eval()
    if case.name == "starcoder2":  # the bridge knows the epsilon of a norm by other keys
        model.config.layer_norm_eps = model.config.norm_epsilon
    return TransformerBridge.boot_transformers(folder, hf_model=model, device="cpu", dtype=torch.float32, tokenizer=words)


def masked(tensor):
    """Masked scores are -inf here, and the lowest number of their type there."""
    return torch.where(tensor < -1e30, -math.inf, tensor.float())


def ran(model, tokens):
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens[None])
    kept = {}
    for name, value in cache.cache_dict.items():
        if isinstance(value, torch.Tensor):
            kept[name] = masked(value[0] if value.ndim > 2 and value.shape[0] == 1 else value)
    return logits[0], kept


def apart(a, b):
    """The largest difference; -inf equals -inf."""
    if a.shape != b.shape or not torch.equal(a.isinf(), b.isinf()):
        return math.inf
    return torch.where(a.isinf(), 0.0, a - b).abs().max().item()


def shaped(tensor, like):
    """The tensor with the axes of a site, and whether the first two had to change places."""
    if tensor.numel() != like.numel():
        return []
    if tensor.shape == like.shape or tensor.flatten(1).shape == like.flatten(1).shape:
        return [(tensor.reshape(like.shape), "")]
    if tensor.ndim == 3 and tensor.transpose(0, 1).shape == like.shape:
        return [(tensor.transpose(0, 1), "^T")]
    return []


def alike(tensor, like):
    pair = torch.stack([t.flatten().nan_to_num(neginf=0.0).double() for t in (tensor, like)])
    return abs(torch.corrcoef(pair)[0, 1].item()) if pair.std(1).min() > 0 else 0.0


def digest(tensor):
    flat = tensor.flatten().nan_to_num(neginf=0.0).double()
    return float(f"{(flat * torch.cos(torch.arange(1, len(flat) + 1).double())).sum().item():.6g}")


def layer_of(name):
    return name.split(".")[1] if name.startswith("blocks.") else None


def entry(name, short, long, sites):
    """What a name is, on both prompts."""
    layer, found, near = layer_of(name), [], (0.0, "")
    if name not in short:
        return []
    for site in sites["short"]:
        own = site.split(".")[1] if "." in site else None
        if site in ("tokens", "positions", "greedy") or own != layer:
            continue
        for tensor, turned in shaped(short[name], sites["short"][site]):
            if apart(tensor, sites["short"][site]) < SAME:
                whole = long[name].transpose(0, 1) if turned else long[name]
                rows = 1 if site.startswith("attn_") and sites["long"][site].ndim == 3 else 0
                kept = whole.index_select(rows, sites["long"]["positions"])
                assert apart(kept.reshape(sites["long"][site].shape), sites["long"][site]) < SAME, (name, site)
                found.append((site + turned, digest(tensor)))
            else:
                near = max(near, (alike(tensor, sites["short"][site]), site))
    if found:
        assert max(d for _, d in found) - min(d for _, d in found) < 1e-3, (name, found)
        return [" ".join(site for site, _ in found), found[0][1]]
    return [near[1]]


def table(words):
    cases, names = {}, {}
    for case in CASES:
        sites = {
            "short": load_file(HERE / case.name / "activations.short.safetensors"),
            "long": load_file(HERE / case.name / "activations.safetensors"),
        }
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                model = bridge(case, words)
                runs = {length: ran(model, sites[length]["tokens"]) for length in sites}
        except Exception as error:  # noqa: BLE001 (whatever it says is the result)
            cases[case.name] = f"{type(error).__name__}: {str(error).split('. ')[0]}".rstrip(": ")
            print(case.name, "cannot be run:", cases[case.name])
            continue
        cases[case.name] = ""
        assert apart(runs["short"][0], sites["short"]["logits"]) < SAME, case.name
        assert apart(runs["long"][0][sites["long"]["positions"]], sites["long"]["logits"]) < SAME, case.name
        of = {
            name: entry(name, runs["short"][1], runs["long"][1], sites)
            for name in model.hook_dict
            if not name.startswith("vision_")
        }
        if case.name in VARIANTS:
            first = {name: row[VARIANTS[case.name]] for name, row in names.items() if VARIANTS[case.name] in row}
            sites_of = lambda entry: entry[0] if len(entry) == 2 else ""
            assert {n: sites_of(e) for n, e in first.items()} == {n: sites_of(of[n]) for n in first}, case.name
            del cases[case.name]
            continue
        for name, what in of.items():
            if layer_of(name) == "0":
                other = of.get(name.replace("blocks.0.", "blocks.1."), ["none"])
                sites_at = lambda entry: entry[0].replace(".0", "").replace(".1", "") if len(entry) == 2 else ""
                if sites_at(what) == sites_at(other) and other != ["none"]:
                    continue
            names.setdefault(name, {})[case.name] = what
        print(case.name, len(of), "names")
    return {"cases": cases, "names": dict(sorted(names.items()))}


def main():
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        found = table(tokenizer(folder))
    lines = [f"  {json.dumps(name)}: {json.dumps(row, separators=(',', ':'))}" for name, row in found["names"].items()]
    cases = [f"  {json.dumps(name)}: {json.dumps(why)}" for name, why in found["cases"].items()]
    text = '{\n "cases": {\n' + ",\n".join(cases) + '\n },\n "names": {\n' + ",\n".join(lines) + "\n }\n}\n"
    (HERE / "transformer_lens_names.json").write_text(text)


if __name__ == "__main__":
    main()
