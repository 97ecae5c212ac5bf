"""Writes every case's configuration once more, as transformers 5 spells it: `config.v5.json` beside `config.json`.

    python tests/references/dialect.py

Written with: python 3.11, transformers 5.23.0. `cargo test --test it parity` holds both spellings to one blueprint.
"""

from pathlib import Path

from transformers import AutoConfig

HERE = Path(__file__).parent

for folder in sorted(HERE.iterdir()):
    if (folder / "activations.short.safetensors").exists():
        AutoConfig.from_pretrained(folder).to_json_file(folder / "config.v5.json", use_diff=True)
