"""Makes the reference checkpoints and activations that `cargo test --test it parity` compares with.

    python tests/references/make.py            # rewrites the folders beside this file
    python tests/references/make.py phi opt    # only these cases

Written with: python 3.11, transformers 4.57.1, torch 2.15.0 (CPU), safetensors 0.8.0, tokenizers 0.22.2, numpy 2.4.6.

Every case of `cases.py` is a tiny random checkpoint in Hugging Face layout. Its numbers come from the real Hugging Face
modules, in eager attention and f32, run on fixed token ids; `record.py` tells how. `llama` and `gpt2` are stored in f32, the
others in bfloat16, of which every value is exact: the weights are rounded before anything runs.

`activations.safetensors` holds a prompt of 72 tokens, past every sliding window and every length that a rope was trained
for, and `activations.short.safetensors` one of 6, within all of them. In a file:

* `tokens` i64: the prompt;
* `positions` i64: the positions that were kept, six of the long prompt, all of the short one;
* one f32 tensor an address of `src/model/network/site.rs`: of a site with a row a token the rows at `positions`, of `attn_scores` and
  `attn_probs` `[heads, positions, tokens]`: the queries at `positions`, with all keys. Sites that a family does not have are
  not there. `router.L` `[positions, experts]` is the weight with which each expert enters the sum, zero where not chosen;
* `greedy` i64, in the short file: the 6 tokens that continue the prompt, each the most likely, one full pass a token.
"""

import copy
import json
import sys
from unittest import mock

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from cases import CASES
from record import HERE, fresh, greedy, prompt, randomise, record, text
from vocabularies import tokenizer_cases

LONG, SHORT, STEPS = 72, 6, 6
POSITIONS = [0, 1, 17, 40, 70, 71]
SIGNIFICANT = 2e-4  # several times what the tests let a number differ; the two kinds of gelu are not farther apart


def make(case):
    """One checkpoint with its activations; what is run is what a reader of the folder would load."""
    folder = fresh(HERE / case.name)
    with untouched():
        model = AutoModelForCausalLM.from_config(case.config)
    randomise(model, case.seed)
    exact = torch.float32 if case.float32 else torch.bfloat16
    model.to(exact).save_pretrained(folder)
    leave_out(folder / "config.json", case.left_out)
    weights = {name: parameter.float() for name, parameter in model.named_parameters()}

    model = eager(folder)
    assert all(torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())
    for length, file in [(LONG, "activations.safetensors"), (SHORT, "activations.short.safetensors")]:
        ids = prompt(length, text(case.config).vocab_size, case.seed + length)
        positions = torch.tensor(POSITIONS if length == LONG else range(SHORT))
        sites = record(model, case.family, ids, case.windows if length == LONG else (None, None))
        out = {"tokens": ids, "positions": positions}
        for address, tensor in sites.items():
            assert tensor.dtype == torch.float32 and tensor.isfinite().all() or address.startswith("attn_scores")
            out[address] = tensor.index_select(1 if address.startswith("attn_") and tensor.ndim == 3 else 0, positions)
        if length == SHORT:
            out["greedy"] = greedy(model, ids, STEPS)
        else:
            all_matter(case, folder, ids, sites["logits"])
        save_file({name: tensor.contiguous() for name, tensor in out.items()}, folder / file)
    return model


def untouched():
    """Leaves parameters as they are: all are written here, and StableLM's own start fails with qk_layernorm."""
    return mock.patch.object(PreTrainedModel, "_initialize_weights", lambda *_: None)


def eager(folder, config=None):
    """The model as a reader of the folder has it, or with another config."""
    config = config or AutoConfig.from_pretrained(folder)
    with untouched():
        model = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=torch.float32, attn_implementation="eager"
        )
    return model.eval()


def leave_out(path, keys):
    config = json.loads(path.read_text())
    for key in keys:
        *parents, last = key.split(".")
        inner = config
        for parent in parents:
            inner = inner[parent]
        del inner[last]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def all_matter(case, folder, ids, logits):
    """With another value of a key the logits are others; else a reader that ignores the key would pass."""
    config = json.loads((folder / "config.json").read_text())
    for key, value in case.matters.items():
        other = copy.deepcopy(config)
        *parents, last = key.split(".")
        inner = other
        for parent in parents:
            inner = inner[parent]
        assert inner.get(last) != value, f"{case.name} has {key} = {value}"
        inner[last] = value
        with torch.no_grad():
            found = eager(folder, config=type(case.config).from_dict(other))(ids[None], use_cache=False).logits[0]
        change = (found - logits)[POSITIONS].abs().max()
        print(f"  {case.name}: {key} = {value} changes logits by {change:.1e}")
        assert change > SIGNIFICANT, f"{case.name} does not depend on {key}"


def sharded(model):
    """The llama case in two shards with an index, its config.json in the spelling of transformers 5."""
    folder = fresh(HERE / "llama_sharded")
    model.save_pretrained(folder, max_shard_size="22KB")
    assert len(list(folder.glob("model-*-of-00002.safetensors"))) == 2, sorted(folder.iterdir())
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["rope_parameters"] = {"rope_theta": config.pop("rope_theta"), **config.pop("rope_scaling")}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def half(model, name, dtype, bare):
    """A case stored in 16 bits, with the logits that its rounded weights give in f32.

    `bare` drops `transformer.` from the names, as OpenAI's own GPT-2 checkpoints on the hub have it.
    """
    folder = fresh(HERE / name)
    vocab = model.config.vocab_size
    model.to(dtype)
    (model.transformer if bare else model).save_pretrained(folder)
    assert bare != any(key.startswith(("model.", "transformer.")) for key in load_file(folder / "model.safetensors"))
    model = eager(folder)
    ids = prompt(24, vocab, 7)
    with torch.no_grad():
        logits = model(ids[None], use_cache=False).logits[0]
    save_file({"tokens": ids, "logits": logits.contiguous()}, folder / "activations.safetensors")


def main(wanted):
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for case in CASES:
        if wanted and case.name not in wanted:
            continue
        model = make(case)
        if case.name == "llama":
            sharded(model)
            half(model, "llama_bf16", torch.bfloat16, bare=False)
        if case.name == "gpt2":
            half(model, "gpt2_f16", torch.float16, bare=True)
    if not wanted:
        tokenizer_cases()
    for file in HERE.rglob("generation_config.json"):
        file.unlink()  # nothing here generates
    for file in HERE.rglob("*.safetensors"):
        file.chmod(0o644)
    sizes = {p.name: sum(f.stat().st_size for f in p.rglob("*") if f.is_file()) for p in sorted(HERE.iterdir()) if p.is_dir()}
    print(sizes, sum(sizes.values()))


if __name__ == "__main__":
    main(sys.argv[1:])
