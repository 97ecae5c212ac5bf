"""What SAELens makes of dictionaries that lmscope trained: tests/references/trained.

Trains one small dictionary of each kind on the demo with the lmscope binary, and writes what SAELens encodes and decodes with it.

Versions used: Python 3.11, torch 2.15.0, sae-lens 6.54.12.
Run:  python trained.py LMSCOPE        (the binary; from the root of the repository)
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from sae_lens import SAE

HERE = Path(__file__).parent
FOLDER = HERE / "trained"
LISTS = HERE.parent.parent / "demo" / "lists"
TEXTS = ["refusal_plus.txt", "refusal_minus.txt", "mood_plus.txt", "mood_minus.txt"]


def main():
    torch.manual_seed(1)
    x = torch.randn(6, 128).mul(3).round(decimals=3)
    expected = {"x": x.tolist()}
    with tempfile.TemporaryDirectory() as scratch:
        text = Path(scratch) / "text.txt"
        text.write_text("".join((LISTS / name).read_text(encoding="utf-8") for name in TEXTS), encoding="utf-8")
        for kind in ["topk", "batchtopk", "jumprelu", "standard"]:
            folder = FOLDER / kind
            count = ["-k", "3"] if "topk" in kind else []
            subprocess.run(
                [sys.argv[1], "dictionary", "train", "demo", "--site", "resid_post.3", "--text", text, "--lines", "--kind", kind,
                 "--features", "16", *count, "--tokens", "2000", "--batch", "100", "--lr", "0.003", "-o", folder, "--force"],
                check=True, stdout=subprocess.DEVNULL)
            sae = SAE.load_from_disk(folder)
            with torch.no_grad():
                features = sae.encode(x)
                expected[kind] = {"features": features.tolist(), "reconstruction": sae.decode(features).tolist()}
    (FOLDER / "expected.json").write_text(json.dumps(expected) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
