"""Writes small random dictionaries as their tools write them, with what the tools compute, for tests/it/dictionaries.rs.

    python tests/references/dictionaries.py     makes tests/references/dictionaries

Needs torch, numpy, safetensors, sae-lens 6.54, eai-sparsify 1.3, and the sources of saprmarks/dictionary_learning (Aug 2025),
openai/sparse_autoencoder and safety-research/circuit-tracer (June 2025) in PYTHONPATH. What has a tool is written and computed
by it; Llama Scope, cross-layer transcoders and crosscoders by the formulas of their authors, written out here.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

D, F, ROWS = 8, 16, 3
OUT = Path(__file__).parent / "dictionaries"
expected = {}


def folder(name):
    path = OUT / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def numbers(*shape, seed, scale=0.5):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


X = numbers(ROWS, D, seed=1, scale=1.0) + 0.25


def case(name, path, features, output, x=X, about=""):
    """What a dictionary makes of x: [rows, features] and [rows, width]."""
    expected[name] = {
        "path": path,
        "about": about,
        "x": x.tolist(),
        "features": features.tolist(),
        "output": output.tolist(),
    }


def weights(seed, out=D):
    return {
        "W_enc": numbers(D, F, seed=seed),
        "W_dec": numbers(F, out, seed=seed + 1),
        "b_enc": numbers(F, seed=seed + 2, scale=0.2),
        "b_dec": numbers(out, seed=seed + 3, scale=0.2),
    }


def fill(sae, seed):
    with torch.no_grad():
        for i, (name, parameter) in enumerate(sorted(sae.named_parameters())):
            parameter.copy_(numbers(*parameter.shape, seed=seed + i))
            if name == "threshold":
                parameter.copy_(parameter.abs())


# SAELens: every architecture and norm, in its own writer.
def saelens():
    from sae_lens.saes.abstopk_sae import AbsTopKSAE, AbsTopKSAEConfig
    from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig
    from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
    from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig
    from sae_lens.saes.transcoder import (
        JumpReLUSkipTranscoder,
        JumpReLUSkipTranscoderConfig,
        JumpReLUTranscoder,
        JumpReLUTranscoderConfig,
        SkipTranscoder,
        SkipTranscoderConfig,
        Transcoder,
        TranscoderConfig,
    )

    def make(name, sae_class, config_class, seed, **more):
        out = {"hook_name_out": "blocks.1.hook_mlp_out"} if "d_out" in more else {}
        more |= {"apply_b_dec_to_input": False} if out else {}
        hook = "blocks.1.mlp.hook_in" if out else "blocks.1.hook_resid_post"
        metadata = SAEMetadata(model_name="tiny", hook_name=hook, sae_lens_version="6.54.12", **out)
        sae = sae_class(config_class(d_in=D, d_sae=F, metadata=metadata, **more))
        fill(sae, seed)
        path = folder(f"saelens_{name}")
        sae.save_model(path)
        with torch.no_grad():
            features = sae.encode(X)
            output = sae(X)
            if more.get("normalize_activations", "none") == "none" and "W_skip" not in dict(sae.named_parameters()):
                assert torch.allclose(output, sae.decode(features))
        case(f"saelens_{name}", f"saelens_{name}", features, output)
        return sae

    make("standard", StandardSAE, StandardSAEConfig, 100)
    make("standard_bare", StandardSAE, StandardSAEConfig, 110, apply_b_dec_to_input=False)
    make("constant_norm", StandardSAE, StandardSAEConfig, 120, normalize_activations="constant_norm_rescale")
    make("layer_norm", StandardSAE, StandardSAEConfig, 130, normalize_activations="layer_norm")
    make("gated", GatedSAE, GatedSAEConfig, 140)
    make("jumprelu", JumpReLUSAE, JumpReLUSAEConfig, 150)
    make("topk", TopKSAE, TopKSAEConfig, 160, k=4)
    make("topk_rescaled", TopKSAE, TopKSAEConfig, 170, k=4, rescale_acts_by_decoder_norm=True)
    make("abstopk", AbsTopKSAE, AbsTopKSAEConfig, 180, k=5)
    make("transcoder", Transcoder, TranscoderConfig, 190, d_out=D)
    make("transcoder_wide", Transcoder, TranscoderConfig, 200, d_out=6)
    make("skip", SkipTranscoder, SkipTranscoderConfig, 210, d_out=6)
    make("jumprelu_transcoder", JumpReLUTranscoder, JumpReLUTranscoderConfig, 220, d_out=D)
    make("jumprelu_skip", JumpReLUSkipTranscoder, JumpReLUSkipTranscoderConfig, 230, d_out=D)

    # Folded by the tool itself, against ours of the unfolded file (fold_W_dec_norm and a scale to an average norm).
    folded = make("to_fold", JumpReLUSAE, JumpReLUSAEConfig, 240)
    folded.fold_W_dec_norm()
    with torch.no_grad():
        expected["saelens_to_fold"]["folded"] = folded.encode(X).tolist()
    scaled = make("average_norm", StandardSAE, StandardSAEConfig, 250, normalize_activations="expected_average_only_in")
    scaled.fold_activation_norm_scaling_factor(1.7)
    (OUT / "saelens_average_norm" / "activation_scaler.json").write_text('{"scaling_factor": 1.7}\n')
    with torch.no_grad():
        features = scaled.encode(X)
        case("saelens_average_norm", "saelens_average_norm", features, scaled.decode(features))

    # The flat config of versions before 6, with its old names; the tool's own translation is asked what it means.
    from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting

    old = make("old", TopKSAE, TopKSAEConfig, 260, k=3)
    config = {
        "d_in": D,
        "d_sae": F,
        "dtype": "torch.float32",
        "device": "cpu",
        "model_name": "tiny",
        "hook_point": "blocks.1.hook_resid_post",
        "hook_point_layer": 1,
        "hook_point_head_index": None,
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 3},
        "normalize_activations": False,
        "prepend_bos": True,
    }
    assert handle_config_defaulting(dict(config))["architecture"] == "topk"
    (OUT / "saelens_old" / "cfg.json").write_text(json.dumps(config) + "\n")


def jumprelu(w, x):
    from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig

    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=D, d_sae=F, apply_b_dec_to_input=False))
    sae.load_state_dict(w)
    with torch.no_grad():
        features = sae.encode(x)
        return features, sae.decode(features)


# Gemma Scope 1 and 2, in their layouts; computed by sae-lens.
def gemma():
    w = weights(300) | {"threshold": numbers(F, seed=304).abs()}
    arrays = {name: value.numpy() for name, value in w.items()}
    path = "gemma-scope-2b-pt-res/layer_1/width_16/average_l0_4"
    np.savez(folder(path) / "params.npz", **arrays)
    case("gemma_scope", path, *jumprelu(w, X))
    path = "gemma-scope-2b-pt-mlp/layer_1/width_16/average_l0_4"
    np.savez_compressed(folder(path) / "params.npz", **arrays)
    case("gemma_scope_compressed", path, *jumprelu(w, X), about="not as Google writes it; numpy may")
    path = "gemma-scope-2b-pt-res/embedding/width_16/average_l0_4"
    np.savez(folder(path) / "params.npz", **arrays)
    # Trained on rows of the table: the model's are times √d.
    features, output = jumprelu(w, X / D**0.5)
    case("gemma_scope_embedding", path, features, output * D**0.5)

    from sae_lens.saes.transcoder import JumpReLUSkipTranscoder, JumpReLUSkipTranscoderConfig

    w = weights(310) | {"threshold": numbers(F, seed=314).abs()}
    skip = numbers(D, D, seed=315)
    path = folder("gemma-scope-2-1b-pt/transcoder/layer_1_width_16_l0_small_affine")
    lower = {("w_" + name[2:] if name.startswith("W_") else name): value for name, value in w.items()}
    save_file(lower | {"affine_skip_connection": skip}, path / "params.safetensors")
    config = {
        "hf_hook_point_in": "model.layers.1.pre_feedforward_layernorm.output",
        "hf_hook_point_out": "model.layers.1.post_feedforward_layernorm.output",
        "width": F,
        "model_name": "gemma-3-1b-pt",
        "architecture": "jump_relu",
        "l0": 4,
        "affine_connection": True,
        "type": "transcoder",
    }
    (path / "config.json").write_text(json.dumps(config) + "\n")
    coder = JumpReLUSkipTranscoder(JumpReLUSkipTranscoderConfig(d_in=D, d_sae=F, d_out=D, apply_b_dec_to_input=False))
    coder.load_state_dict(w | {"W_skip": skip.T.contiguous()})
    with torch.no_grad():
        case("gemma_scope_2", str(path.relative_to(OUT)), coder.encode(X), coder(X))


# Llama Scope by the recipe of its authors.
def llama():
    path = folder("Llama3_1-8B-Base-L1R-8x")
    (path / "checkpoints").mkdir(exist_ok=True)
    w = weights(320)
    state = {
        "encoder.weight": w["W_enc"].T.contiguous(),
        "encoder.bias": w["b_enc"],
        "decoder.weight": w["W_dec"].T.contiguous(),
        "decoder.bias": w["b_dec"],
    }
    save_file({name: value.bfloat16() for name, value in state.items()}, path / "checkpoints/final.safetensors")
    w = {name: value.bfloat16().float() for name, value in w.items()}
    norms = {"in": 4.0, "out": 5.0}
    config = {
        "d_model": D,
        "d_sae": F,
        "hook_point_in": "blocks.1.hook_resid_post",
        "hook_point_out": "blocks.1.hook_resid_post",
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": norms,
        "sparsity_include_decoder_norm": True,
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.3,
        "apply_decoder_bias_to_pre_encoder": False,
    }
    (path / "hyperparams.json").write_text(json.dumps(config) + "\n")
    s_in, s_out = (D**0.5 / norms[side] for side in ("in", "out"))
    w_enc, w_dec = w["W_enc"], w["W_dec"] * s_in / s_out
    n = w_dec.norm(dim=1)
    h = X @ (w_enc * n) + w["b_enc"] / s_in * n
    features = h * (h > 0.3)
    case("llama_scope", path.name, features, features @ (w_dec / n[:, None]) + w["b_dec"] / s_out)

    path = folder("Llama-Scope-R1-Distill/L1R")
    logs = numbers(F, seed=330) - 1.0
    save_file(state | {"log_jumprelu_threshold": logs}, path / "sae_weights.safetensors")
    config = {"d_model": D, "expansion_factor": 2, "hook_point_in": "blocks.1.hook_resid_post", "dataset_average_activation_norm": norms | {"out": 4.0}}
    (path / "config.json").write_text(json.dumps(config) + "\n")
    # As sae-lens: activations times s before the encoder; ours are in units of the model, s times smaller.
    w = weights(320) | {"threshold": logs.exp()}
    features, output = jumprelu(w, X * s_in)
    case("llama_scope_distill", "Llama-Scope-R1-Distill/L1R", features / s_in, output / s_in)


def qwen():
    from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

    w = weights(340)
    path = folder("SAE-Res-Qwen3-1.7B-Base-W32K-L0_5")
    state = {"W_enc": w["W_enc"].T.contiguous(), "W_dec": w["W_dec"].T.contiguous(), "b_enc": w["b_enc"], "b_dec": w["b_dec"]}
    torch.save(state, path / "layer1.sae.pt")
    sae = TopKSAE(TopKSAEConfig(d_in=D, d_sae=F, k=5, apply_b_dec_to_input=False))
    sae.load_state_dict(w)
    with torch.no_grad():
        features = sae.encode(X)
        case("qwen_scope", path.name + "/layer1.sae.pt", features, sae.decode(features))


def dictionary_learning():
    from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    made = [
        (AutoEncoder, {}, {}),
        (AutoEncoderNew, {}, {}),
        (GatedAutoEncoder, {}, {}),
        (JumpReluAutoEncoder, {}, {}),
        (AutoEncoderTopK, {"k": 4}, {"threshold": 0.9}),
        (BatchTopKSAE, {"k": 4}, {"threshold": 0.4}),
        (MatryoshkaBatchTopKSAE, {"k": 4, "group_sizes": [4, 12]}, {"threshold": 0.4}),
    ]
    for i, (kind, more, buffers) in enumerate(made):
        name = kind.__name__
        sae = kind(D, F, **more)
        fill(sae, 400 + 20 * i)
        for buffer, value in buffers.items():
            getattr(sae, buffer).fill_(value)
        path = folder(f"dictionary_learning/{name}/trainer_0")
        torch.save(sae.state_dict(), path / "ae.pt")
        trainer = {"dict_class": name, "layer": 1, "lm_name": "tiny", "activation_dim": D, "dict_size": F, "submodule_name": "resid_post_layer_1"}
        trainer |= {key: value for key, value in more.items() if key == "k"}
        (path / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}) + "\n")
        loaded = kind.from_pretrained(path / "ae.pt")
        with torch.no_grad():
            features = loaded.encode(X)
            case(f"dictionary_learning_{name}", str(path.relative_to(OUT)), features, loaded.decode(features))


def sparsify():
    from sparsify.config import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder

    def make(name, hook, seed, **more):
        coder = SparseCoder(D, SparseCoderConfig(num_latents=F, **more))
        fill(coder, seed)
        path = folder(f"sparsify_{name}/{hook}")
        coder.save_to_disk(path)
        coder = SparseCoder.load_from_disk(path)
        with torch.no_grad():
            values, indices, _ = coder.encode(X)
            features = torch.zeros(ROWS, F).scatter_(1, indices, values)
            output = features @ coder.W_dec + coder.b_dec
            if coder.W_skip is not None:
                output += X @ coder.W_skip.mT
        case(f"sparsify_{name}", f"sparsify_{name}/{hook}", features, output)

    make("topk", "layers.1", 600, k=4)
    make("groupmax", "layers.1", 620, k=4, activation="groupmax")
    make("transcoder", "layers.1.mlp", 640, k=4, transcode=True)
    make("skip", "layers.1.mlp", 660, k=4, transcode=True, skip_connection=True)


def openai():
    from sparse_autoencoder.model import Autoencoder, TopK

    for name, activation, normalize in [("relu", torch.nn.ReLU(), False), ("topk", TopK(4), True)]:
        sae = Autoencoder(F, D, activation=activation, normalize=normalize)
        fill(sae, 700)
        path = folder(f"openai/resid_post_mlp_v5_{name}/autoencoders")
        # Newer versions of torch write the activation's k a second time, under a name that the tool refuses.
        state = {key: value for key, value in sae.state_dict().items() if not key.startswith("activation.")}
        torch.save(state, path / "1.pt")
        loaded = Autoencoder.from_state_dict(torch.load(path / "1.pt"))
        with torch.no_grad():
            features, info = loaded.encode(X)
            case(f"openai_{name}", str(path.relative_to(OUT)) + "/1.pt", features, loaded.decode(features, info))


def goodfire():
    from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig

    w = weights(720)
    for name, after in [("Llama-3.3-70B-Instruct-SAE-l1.pt", "_linear"), ("DeepSeek-R1-Distill-Llama-8B-SAE-l1.pt", "")]:
        state = {
            f"encoder{after}.weight": w["W_enc"].T.contiguous(),
            f"encoder{after}.bias": w["b_enc"],
            f"decoder{after}.weight": w["W_dec"].T.contiguous(),
            f"decoder{after}.bias": w["b_dec"],
        }
        torch.save(state, folder("goodfire") / name)
        sae = StandardSAE(StandardSAEConfig(d_in=D, d_sae=F, apply_b_dec_to_input=False))
        sae.load_state_dict(w)
        with torch.no_grad():
            features = sae.encode(X)
            case(f"goodfire{after}", f"goodfire/{name}", features, sae.decode(features))


def circuit_tracer():
    from circuit_tracer.transcoder.activation_functions import JumpReLU
    from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder

    config = "model_name: tiny\nmodel_kind: {}\nfeature_input_hook: mlp.hook_in\nfeature_output_hook: hook_mlp_out\n"
    path = folder("circuit_tracer")
    (path / "config.yaml").write_text(config.format("transcoder_set"))
    for layer in range(2):
        skip = layer == 1
        activation = torch.nn.functional.relu
        if skip:
            activation = JumpReLU(0.0, 0.1)
            activation.threshold = torch.nn.Parameter(torch.zeros(F))
        coder = SingleLayerTranscoder(D, F, activation, layer, skip_connection=skip)
        w = weights(740 + 10 * layer)
        state = dict(w)
        if skip:
            state |= {"W_skip": numbers(D, D, seed=759), "activation_function.threshold": numbers(F, seed=758).abs()}
        coder.load_state_dict(state, assign=True)
        save_file(state | {"W_enc": w["W_enc"].T.contiguous()}, path / f"layer_{layer}.safetensors")
        with torch.no_grad():
            features = coder.encode(X)
        case(f"circuit_tracer_{layer}", f"circuit_tracer/layer_{layer}.safetensors", features, coder(X).detach())

    # Cross-layer: layer l writes to l and every later layer.
    path = folder("circuit_tracer_clt")
    (path / "config.yaml").write_text(config.format("cross_layer_transcoder"))
    layers, xs, active, written = 3, [], [], [torch.zeros(ROWS, D) for _ in range(3)]
    for layer in range(layers):
        w = weights(780 + 10 * layer)
        x = numbers(ROWS, D, seed=789 + layer, scale=1.0)
        decoders = numbers(F, layers - layer, D, seed=795 + layer)
        threshold = numbers(F, seed=785 + layer).abs()
        save_file({f"W_enc_{layer}": w["W_enc"].T.contiguous(), f"b_enc_{layer}": w["b_enc"], f"b_dec_{layer}": w["b_dec"], f"threshold_{layer}": threshold}, path / f"W_enc_{layer}.safetensors")
        save_file({f"W_dec_{layer}": decoders}, path / f"W_dec_{layer}.safetensors")
        h = x @ w["W_enc"] + w["b_enc"]
        f = h * (h > threshold)
        xs.append(x.tolist())
        active.append(f.tolist())
        written[layer] += w["b_dec"]
        for later in range(layer, layers):
            written[later] += f @ decoders[:, later - layer]
    expected["circuit_tracer_clt"] = {"path": "circuit_tracer_clt", "xs": xs, "active": active, "written": [y.tolist() for y in written]}


def crosscoder():
    models = 2
    xs = [X, numbers(ROWS, D, seed=801, scale=1.0)]
    w_enc, w_dec = numbers(models, D, F, seed=802), numbers(F, models, D, seed=803)
    b_enc, b_dec = numbers(F, seed=804), numbers(models, D, seed=805)
    path = folder("crosscoder")
    torch.save({"W_enc": w_enc, "W_dec": w_dec, "b_enc": b_enc, "b_dec": b_dec}, path / "cc_weights.pt")
    (path / "cfg.json").write_text('{"model_name": "tiny", "hook_point": "blocks.1.hook_resid_pre"}\n')
    h = torch.einsum("lrd,ldf->rf", torch.stack(xs), w_enc) + b_enc
    f = torch.relu(h)
    written = torch.einsum("rf,fld->lrd", f, w_dec) + b_dec[:, None]
    entry = {"xs": [x.tolist() for x in xs]}
    expected["crosscoder"] = entry | {"path": "crosscoder", "features": f.tolist(), "written": written.tolist()}

    # The fork of dictionary_learning: decoders by model, and activations times the sum of decoder norms against one threshold.
    w_dec = w_dec.transpose(0, 1).contiguous()
    path = folder("crosscoder_batchtopk")
    state = {"encoder.weight": w_enc, "encoder.bias": b_enc, "decoder.weight": w_dec, "decoder.bias": b_dec, "threshold": torch.tensor(2.0)}
    save_file(state, path / "model.safetensors")
    (path / "config.json").write_text("{}\n")
    n = w_dec.norm(dim=2).sum(dim=0)
    f = f * (f * n > 2.0)
    written = torch.einsum("rf,lfd->lrd", f, w_dec) + b_dec[:, None]
    expected["crosscoder_batchtopk"] = entry | {"path": "crosscoder_batchtopk", "features": f.tolist(), "written": written.tolist()}


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    for part in (saelens, gemma, llama, qwen, dictionary_learning, sparsify, openai, goodfire, circuit_tracer, crosscoder):
        part()
    (OUT / "expected.json").write_text(json.dumps(expected) + "\n")
    print(len(expected), "cases")
