"""Features of small random dictionaries on reference checkpoints, for tests/it/dictionaries/: what they promote, which are near, which
wrote a logit, and how often each is active, written out in PyTorch.

    python tests/references/features.py     makes tests/references/features

Written with: python 3.11, transformers 4.57.1, torch 2.15.0 (CPU), sae-lens 6.54. The models are three checkpoints of `make.py`: Llama
(RMSNorm), GPT-2 (LayerNorm, biases) and Gemma 2 (a norm after the MLP, soft-caps), in eager attention and f64. The dictionaries
are TopK autoencoders in sae-lens' own writer, of resid_post.0 and, for Gemma 2, of the output of the first MLP before its norm;
activations are sae-lens' own, of f32.

    promoted    W_U (γ ⊙ w) of some features, centred first for LayerNorm: [features][vocab]
    near        cosines of the decoder vectors of some features with all: [features][features]
    effects     w · (γ ⊙ W_U[t]) of all features for the target: [features]
    logit       of the target after the last token of the prompt, before a soft-cap
    written     by feature: activation and effect on that logit, the final norm's scale held constant
    bias, error, rest   the effects of the decoder's bias, of y − ŷ, and of the rest of the stream with the biases behind it
    density, mean, largest, strongest   over the text, in windows of 16 tokens of which the first is left out; of the strongest
                contexts at most one a window
"""

import json
import shutil

import torch
from safetensors.torch import load_file
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

from make import eager
from record import HERE

OUT = HERE / "features"
FEATURES, K, SOME, WINDOW, KEEP, TARGET = 32, 5, [0, 7, 19], 16, 3, 11
CASES = {"llama": "blocks.0.hook_resid_post", "gpt2": "blocks.0.hook_resid_post", "gemma2": "blocks.0.hook_mlp_out"}


def dictionary(name, hook, width, seed):
    sae = TopKSAE(TopKSAEConfig(d_in=width, d_sae=FEATURES, k=K, metadata=SAEMetadata(model_name="tiny", hook_name=hook)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(sae.named_parameters()):
            parameter.copy_(torch.randn(*parameter.shape, generator=generator) * 0.5)
    sae.save_model(OUT / name)
    return sae


def run(model, name, ids):
    """What the dictionary reads at every token, the last residual stream, and the logits before a soft-cap."""
    seen = {}
    if name == "gemma2":
        model.model.layers[0].mlp.register_forward_hook(lambda _m, _i, out: seen.update(y=out[0].detach()))
        norm, head = model.model.norm, model.lm_head
    elif name == "llama":
        model.model.layers[0].register_forward_hook(
            lambda _m, _i, out: seen.update(y=(out[0] if isinstance(out, tuple) else out).reshape(len(ids), -1).detach())
        )
        norm, head = model.model.norm, model.lm_head
    else:
        model.transformer.h[0].register_forward_hook(
            lambda _m, _i, out: seen.update(y=(out[0] if isinstance(out, tuple) else out).reshape(len(ids), -1).detach())
        )
        norm, head = model.transformer.ln_f, model.lm_head
    norm.register_forward_hook(lambda _m, i, out: seen.update(last=i[0][0].detach(), normed=out[0].detach()))
    model(ids[None], use_cache=False)
    for module in model.modules():
        module._forward_hooks.clear()
    return seen["y"], seen["last"], head(seen["normed"]).detach()


def through_norm(model, name, rows):
    """Rows of the stream through the final norm without its scale and bias."""
    if name == "gpt2":
        return (rows - rows.mean(-1, keepdim=True)) * model.transformer.ln_f.weight
    gain = model.model.norm.weight
    return rows * (1 + gain if name == "gemma2" else gain)


def in_stream(model, name, rows):
    """What vectors at the place are in the stream, without the scale of a norm on the way."""
    return rows * (1 + model.model.layers[0].post_feedforward_layernorm.weight) if name == "gemma2" else rows


def case(name, hook, seed):
    model = eager(HERE / name).double()
    model.requires_grad_(False)
    config = model.config
    sae = dictionary(name, hook, config.hidden_size, seed)
    unembedding = model.lm_head.weight
    w = sae.W_dec.detach().double()
    ids = load_file(HERE / name / "activations.safetensors")["tokens"][:12]

    promoted = through_norm(model, name, in_stream(model, name, w)) @ unembedding.T
    unit = w / w.norm(dim=1, keepdim=True)
    out = {
        "prompt": ids.tolist(),
        "target": TARGET,
        "some": SOME,
        "promoted": promoted[SOME].tolist(),
        "near": (unit[SOME] @ unit.T).tolist(),
        "effects": promoted[:, TARGET].tolist(),
    }

    y, last, logits = run(model, name, ids)
    active = sae.encode(y.float()).detach().double()
    made = (active @ w + sae.b_dec.detach().double())[-1]
    x = last[-1]
    epsilon = config.layer_norm_epsilon if name == "gpt2" else config.rms_norm_eps
    centred = x - x.mean() if name == "gpt2" else x
    scale = (centred.square().mean() + epsilon).rsqrt()
    # Through the norm of the written output with its own scale.
    on_the_way = (y[-1].square().mean() + epsilon).rsqrt() if name == "gemma2" else 1.0

    def effect(vector):
        return (through_norm(model, name, in_stream(model, name, vector)) @ unembedding[TARGET] * scale * on_the_way).item()

    written = {int(f): [active[-1, f].item(), active[-1, f].item() * effect(w[f])] for f in active[-1].nonzero().flatten()}
    bias, error, logit = effect(sae.b_dec.detach().double()), effect(y[-1] - made), logits[-1, TARGET].item()
    rest = logit - sum(e for _, e in written.values()) - bias - error
    out |= {"logit": logit, "written": written, "bias": bias, "error": error, "rest": rest}

    tokens = torch.randint(0, config.vocab_size, (300,), generator=torch.Generator().manual_seed(seed))
    acts, places = [], []
    for start in range(0, len(tokens), WINDOW):
        window = tokens[start : start + WINDOW]
        acts.append(sae.encode(run(model, name, window)[0].float()).detach()[1:])
        places += range(start + 1, start + len(window))
    windows = [len(rows) for rows in acts]
    acts = torch.cat(acts)
    strongest = []
    for f in SOME:
        best, row = [], 0
        for length in windows:
            own = acts[row : row + length, f]
            if length and own.max() > 0:
                best.append((own.max().item(), places[row + int(own.argmax())]))
            row += length
        strongest.append(sorted(best, key=lambda b: -b[0])[:KEEP])
    count = (acts > 0).sum(0)
    out |= {
        "text": tokens.tolist(),
        "density": (count / len(acts)).tolist(),
        "mean": (acts.sum(0) / count.clamp(min=1)).tolist(),
        "largest": acts.amax(0).tolist(),
        "strongest": strongest,
    }
    return out


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    expected = {name: case(name, hook, seed) for seed, (name, hook) in enumerate(CASES.items(), 1)}
    (OUT / "expected.json").write_text(json.dumps(expected))


main()
