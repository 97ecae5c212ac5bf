"""Edits of features by PyTorch hooks and sae-lens, for tests/it/dictionaries/handles.rs.

    python tests/references/feature_edits.py     makes tests/references/feature_edits

Needs torch, transformers 4.57, safetensors, sae-lens 6.54. The model is the checkpoint `llama` beside this file, in eager
attention and f32; the dictionaries are random ones in sae-lens' own classes, saved by its own writer. A hook replaces a value
`x` by `decode(f') + (x - decode(f))`: features are changed and what the dictionary leaves out is kept, by the tool's own encoder
and decoder. `edits.json` lists the edits of each case as lmscope writes them (DICTIONARY stands for the folder), and
`logits.safetensors` has the logits of each, `[positions, vocab]`, at `positions` of `tokens`.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from sae_lens.saes.abstopk_sae import AbsTopKSAE, AbsTopKSAEConfig
from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig
from sae_lens.saes.transcoder import Transcoder, TranscoderConfig

from make import eager
from record import HERE, prompt

OUT = Path(__file__).parent / "feature_edits"
D, F, TOKENS = 20, 32, 18
KEPT = [0, 1, 2, 9, 16, 17]
cases, logits = [], {}


def make(name, sae_class, config_class, seed, **more):
    transcoder = "d_out" in more
    places = {"hook_name": "blocks.0.hook_resid_post"}
    if transcoder:
        places = {"hook_name": "blocks.0.mlp.hook_in", "hook_name_out": "blocks.0.hook_mlp_out"}
        more |= {"apply_b_dec_to_input": False}
    metadata = SAEMetadata(model_name="llama", sae_lens_version="6.54.12", **places)
    sae = sae_class(config_class(d_in=D, d_sae=F, metadata=metadata, **more))
    with torch.no_grad():
        for i, (key, parameter) in enumerate(sorted(sae.named_parameters())):
            draw = torch.randn(*parameter.shape, generator=torch.Generator().manual_seed(seed + i)) * 0.4
            parameter.copy_(draw.abs() if key == "threshold" else draw)
    sae.save_model(OUT / name)
    return sae, transcoder


def run(model, ids, transcoder, change=lambda read, x: x):
    """Logits with the value where the dictionary writes replaced by `change(what it reads, value)`; and both values."""
    seen = {}
    block = model.model.layers[0]

    def at_block(_module, _args, out):
        own = out[0] if isinstance(out, tuple) else out
        seen["read"] = seen["x"] = own[0]
        new = change(own[0], own[0])[None]
        return (new, *out[1:]) if isinstance(out, tuple) else new

    def at_mlp(_module, args, out):
        seen["read"], seen["x"] = args[0][0], out[0]
        return change(args[0][0], out[0])[None]

    hook = block.mlp.register_forward_hook(at_mlp) if transcoder else block.register_forward_hook(at_block)
    with torch.no_grad():
        out = model(ids[None], use_cache=False).logits[0]
    hook.remove()
    return out, seen["read"], seen["x"]


def changing(sae, rows, *changes):
    """One after another; each on the positions `rows` and on what the ones before it left."""

    def change(read, x):
        same = torch.equal(read, x)
        for one in changes:

            def decode(f, read=read):
                sae.encode(read)  # sae-lens forgets the norm of a row once it has been undone
                return sae.decode(f)

            f = sae.encode(read)
            new = one(f, decode(f), x, decode)
            x = torch.where(rows[:, None], new, x)
            read = x if same else read
        return x

    return change


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    model = eager(HERE / "llama")
    ids = prompt(TOKENS, model.config.vocab_size, 5)
    everywhere = torch.ones(TOKENS, dtype=torch.bool)
    behind = everywhere.clone()
    behind[0] = False
    dictionaries = {
        "standard": make("standard", StandardSAE, StandardSAEConfig, 100),
        "jumprelu": make("jumprelu", JumpReLUSAE, JumpReLUSAEConfig, 110),
        "gated": make("gated", GatedSAE, GatedSAEConfig, 120),
        "topk": make("topk", TopKSAE, TopKSAEConfig, 130, k=5),
        "abstopk": make("abstopk", AbsTopKSAE, AbsTopKSAEConfig, 140, k=5),
        "constant_norm": make("constant_norm", StandardSAE, StandardSAEConfig, 150, normalize_activations="constant_norm_rescale"),
        "layer_norm": make("layer_norm", TopKSAE, TopKSAEConfig, 160, k=6, normalize_activations="layer_norm"),
        "transcoder": make("transcoder", Transcoder, TranscoderConfig, 170, d_out=D),
    }
    for name, (sae, transcoder) in dictionaries.items():
        plain, read, x = run(model, ids, transcoder)
        with torch.no_grad():
            f = sae.encode(read)
        at = "mlp_add.0" if transcoder else "resid_post.0"
        # Two features that are active at some positions and not at others.
        count = (f[1:] != 0).sum(0)
        some = [i for i in torch.argsort(f[1:].amax(0), descending=True).tolist() if 0 < count[i] < TOKENS - 1]
        a, b = some[:2]

        def edited(f, **new):
            f = f.clone()
            for i, value in new.items():
                i = int(i[1:])
                f[:, i] = value(f[:, i]) if callable(value) else value
            return f

        def features(**new):
            return lambda f, before, x, decode: decode(edited(f, **new)) + (x - before)

        largest = f[1:, a].max().item()
        directions = sae.W_dec.detach()
        lines = {
            f"zero:DICTIONARY#{a},{b}@{at}": [features(**{f"f{a}": 0.0, f"f{b}": 0.0})],
            f"scale:DICTIONARY#{a}@{at}*-1.5": [features(**{f"f{a}": lambda f: f * -1.5})],
            f"set:DICTIONARY#{a}=2.5@{at}": [features(**{f"f{a}": 2.5})],
            f"set:DICTIONARY#{b}=-1@{at}*0.5": [features(**{f"f{b}": lambda f: f + 0.5 * (-1 - f)})],
            f"set:DICTIONARY#{a}=3x@{at}": [features(**{f"f{a}": 3 * largest})],
            f"mean:DICTIONARY#{a}@{at}": [features(**{f"f{a}": f[1:, a].mean().item()})],
            f"splice:DICTIONARY@{at}": [lambda f, before, x, decode: before],
            f"splice:DICTIONARY@{at}*0.5": [lambda f, before, x, decode: x + 0.5 * (before - x)],
            f"add:DICTIONARY#{a}@{at}*2": [lambda f, before, x, decode: x + 2 * directions[a]],
            f"set:DICTIONARY#{a}=2@{at};zero:DICTIONARY#{b}@{at}": [features(**{f"f{a}": 2.0}), features(**{f"f{b}": 0.0})],
        }
        for i, (line, changes) in enumerate(lines.items()):
            for rows, suffix in [(everywhere, ""), (behind, ":all-but-bos")][i % 2 : i % 2 + 1]:
                with torch.no_grad():
                    out, _, _ = run(model, ids, transcoder, changing(sae, rows, *changes))
                assert not torch.allclose(out, plain, atol=1e-3), line
                key = str(len(cases))
                edits = line.split(";")
                edits = [e.replace(f"@{at}", f"@{at}{suffix}") for e in edits]
                cases.append({"dictionary": name, "edits": edits, "key": key})
                logits[key] = out[KEPT].contiguous()
    (OUT / "edits.json").write_text(json.dumps(cases, indent=1) + "\n")
    save_file({"tokens": ids, "positions": torch.tensor(KEPT)} | logits, OUT / "logits.safetensors")


main()
