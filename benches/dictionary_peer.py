"""Trains SAELens' TopK autoencoder on the activations that `lmscope dictionary train` read, and compares the two on held-out text.

Both see the same rows once: the text in contexts of --context tokens without their first position and without rows of ten times the
usual norm, its last tenth held out (as lmscope divides it); the same batch, learning rate with its decay over the last fifth, k and number of features. SAELens' own defaults for the
rest (initialisation, AuxK, clipping, expected_average_only_in).

Versions used: torch 2.15.0, transformers 4.57.1, sae-lens 6.54.12.
Run:  python dictionary_peer.py rows MODEL TEXT ROWS.npz --layer 14
      lmscope dictionary train MODEL --site resid_post.14 --text TEXT --features 16384 -k 32 -o OURS
      python dictionary_peer.py train ROWS.npz PEER --features 16384 -k 32
      python dictionary_peer.py compare ROWS.npz OURS PEER
"""
import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import numpy as np
import torch


def rows(given):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32).eval()
    model.model.layers = model.model.layers[: given.layer + 1]
    model.model.norm = torch.nn.Identity()
    ids = tokenizer(Path(given.text).read_text(encoding="utf-8"))["input_ids"]
    contexts = [ids[i:i + given.context] for i in range(0, len(ids), given.context)]
    contexts = [c for c in contexts if len(c) > 1]
    held = -(-len(contexts) // 10)
    since = time.time()
    parts = {"training": contexts[:-held], "held_out": contexts[-held:]}
    out = {}
    with torch.no_grad():
        for name, part in parts.items():
            found = []
            for i in range(0, len(part), 16):
                group = part[i:i + 16]
                for length in sorted({len(c) for c in group}):
                    tokens = torch.tensor([c for c in group if len(c) == length])
                    x = model.model(tokens).last_hidden_state[:, 1:]
                    found.append(x.reshape(-1, x.shape[-1]).numpy())
            out[name] = np.concatenate(found)
            print(name, out[name].shape, f"{time.time() - since:.0f} s", flush=True)
    norms = {name: np.linalg.norm(x, axis=1) for name, x in out.items()}
    limit = 10 * np.median(norms["training"])
    for name, x in out.items():
        out[name] = x[norms[name] <= limit]
        print(f"{name}: {len(x) - len(out[name])} rows with a norm above {limit:.1f} are left out")
    np.savez(given.rows, **out)


def batches(x, size, seed=1):
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(x))
        for i in range(0, len(x) - size + 1, size):
            yield torch.from_numpy(x[order[i:i + size]])


def train(given):
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(given.seed)
    x = np.load(given.rows)["training"]
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(
        d_in=x.shape[1], d_sae=given.features, k=given.k, normalize_activations="expected_average_only_in",
        use_sparse_activations=given.sparse))
    steps = len(x) // given.batch
    config = SAETrainerConfig(
        total_training_samples=steps * given.batch, train_batch_size_samples=given.batch, lr=given.lr, lr_end=0.0,
        lr_decay_steps=steps // 5, n_batches_for_norm_estimate=20)
    since = time.time()
    trainer = SAETrainer(config, sae, batches(x, given.batch))
    trainer.fit()
    sae.save_inference_model(given.folder)
    print(f"{steps} steps, {time.time() - since:.0f} s")


def measure(folder, x):
    from sae_lens import SAE

    sae = SAE.load_from_disk(folder)
    error, l0, active = 0.0, 0, torch.zeros(sae.cfg.d_sae, dtype=torch.bool)
    with torch.no_grad():
        for part in torch.from_numpy(x).split(512):
            f = sae.encode(part)
            error += (part - sae.decode(f)).double().pow(2).sum().item()
            l0 += (f > 0).sum().item()
            active |= (f > 0).any(0)
    variance = ((x - x.mean(0, dtype=np.float64)) ** 2).sum(dtype=np.float64)
    return {"explained": 1 - error / variance, "l0": l0 / len(x), "never_active": 1 - active.float().mean().item()}


def compare(given):
    x = np.load(given.rows)["held_out"]
    ours, peer = measure(given.ours, x), measure(given.peer, x)
    print(json.dumps({"rows": len(x), "lmscope": ours, "sae_lens": peer, "ratio": ours["explained"] / peer["explained"]}, indent=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("rows")
    one.set_defaults(run=rows)
    for name in ("model", "text", "rows"):
        one.add_argument(name)
    one.add_argument("--layer", type=int, required=True)
    one.add_argument("--context", type=int, default=128)
    one = commands.add_parser("train")
    one.set_defaults(run=train)
    one.add_argument("rows")
    one.add_argument("folder")
    one.add_argument("--features", type=int, default=16384)
    one.add_argument("-k", type=int, default=32)
    one.add_argument("--batch", type=int, default=1024)
    one.add_argument("--lr", type=float, default=3e-4)
    one.add_argument("--seed", type=int, default=1)
    one.add_argument("--sparse", action="store_true")
    one = commands.add_parser("compare")
    one.set_defaults(run=compare)
    for name in ("rows", "ours", "peer"):
        one.add_argument(name)
    given = parser.parse_args()
    given.run(given)


if __name__ == "__main__":
    main()
