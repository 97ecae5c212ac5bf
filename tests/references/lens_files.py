"""Writes tiny lens files as their tools write them, for tests/it/lens_files.rs.

    python tests/references/lens_files.py     makes tests/references/lenses (needs torch)

Numbers are fractions of 64, exact in half precision; the tests know the formula.
"""

import json
from pathlib import Path

import torch

D, LAYERS = 24, 3
OUT = Path(__file__).parent / "lenses"


def number(layer, i, j):
    return ((layer * 131 + i * 29 + j * 7) % 17 - 8) / 64


def matrix(layer):
    return torch.tensor([[number(layer, i, j) for j in range(D)] for i in range(D)])


def bias(layer):
    return torch.tensor([number(layer + 10, i, 3) for i in range(D)])


def tuned(name, weights):
    """`TunedLens.save`: the state dict of a ModuleList of Linear, and the config."""
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    state = {}
    for layer in range(LAYERS):
        weight, offset = weights(layer)
        state[f"{layer}.weight"], state[f"{layer}.bias"] = weight, offset
    torch.save(state, folder / "params.pt")
    config = {
        "base_model_name_or_path": "tiny",
        "d_model": D,
        "num_hidden_layers": LAYERS,
        "bias": True,
        "base_model_revision": None,
        "unembed_hash": None,
        "lens_type": "linear_tuned_lens",
    }
    (folder / "config.json").write_text(json.dumps(config) + "\n")


def jacobian(name, layers, **provenance):
    saved = {
        "J": {layer: matrix(layer).half() for layer in layers},
        "n_prompts": 100,
        "source_layers": list(layers),
        "d_model": D,
    }
    if provenance:
        saved["provenance"] = provenance
    torch.save(saved, OUT / name)


tuned("tuned", lambda layer: (matrix(layer), bias(layer)))
tuned("tuned_zero", lambda _: (torch.zeros(D, D), torch.zeros(D)))
jacobian("jacobian.pt", range(LAYERS - 1))
jacobian("jacobian_input.pt", range(LAYERS), capture_point="resid_pre")
jacobian("jacobian_elsewhere.pt", range(LAYERS), capture_point="attention.q")
