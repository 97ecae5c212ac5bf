"""Makes `llama_pickle`: the `llama_bf16` checkpoint as `torch.save` writes it, in two shards with an index.

    python tests/references/pickles.py

Written with: python 3.11, torch 2.15.0 (CPU), safetensors 0.8.0. One matrix is saved as the transpose of another layout, and
two vectors are views of one storage, because checkpoints on the hub have both.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent


def main():
    folder = HERE / "llama_pickle"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(HERE / "llama_bf16/config.json", folder)
    tensors = load_file(HERE / "llama_bf16/model.safetensors")

    turned = "model.layers.0.mlp.down_proj.weight"
    tensors[turned] = tensors[turned].t().contiguous().t()
    assert not tensors[turned].is_contiguous()

    pair = ["model.layers.1.input_layernorm.weight", "model.layers.1.post_attention_layernorm.weight"]
    both = torch.stack([tensors[name] for name in pair])
    tensors.update({name: both[i] for i, name in enumerate(pair)})

    names = sorted(tensors)
    shards = {1: {}, 2: {}}
    for i, name in enumerate(names):
        shards[1 if i < len(names) // 2 else 2][name] = tensors[name]
    shards[1]["model.layers.0.self_attn.causal_mask"] = torch.ones(2, 2, dtype=torch.bool)  # older checkpoints have some
    index = {}
    for number, shard in shards.items():
        file = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save(shard, folder / file)
        index |= dict.fromkeys(shard, file)
    text = json.dumps({"metadata": {}, "weight_map": index}, indent=2, sort_keys=True)
    (folder / "pytorch_model.bin.index.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
