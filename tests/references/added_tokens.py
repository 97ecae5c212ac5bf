"""Token ids with tokens that only `tokenizer_config.json` or `added_tokens.json` know, beside the demo's tokenizer.json.

    python tests/references/added_tokens.py

Written with: python 3.11, transformers 5.24.0. Writes `added_tokens.json`: for every case the two files and the ids of some
texts. `cargo test --test it loading` reads the same files.
"""

import json
import shutil
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

HERE = Path(__file__).parent
DEMO = HERE.parent.parent / "demo/model"
END = "<|endoftext|>"
TEXTS = ["The <|probe|> king", "a<|probe|>b", "x  <|probe|>  y", "The<|two|> <|probe|>king", "THE <|Probe|> king", "the king"]


def token(content, **flags):
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {"content": content, **plain, **flags}


CASES = {
    "one": ({"added_tokens_decoder": {"2048": token("<|probe|>")}}, None),
    "plain": ({"added_tokens_decoder": {"2048": token("<|probe|>", special=False)}}, None),
    "strips left": ({"added_tokens_decoder": {"2048": token("<|probe|>", lstrip=True)}}, None),
    "strips right": ({"added_tokens_decoder": {"2048": token("<|probe|>", rstrip=True)}}, None),
    "single word": ({"added_tokens_decoder": {"2048": token("<|probe|>", single_word=True)}}, None),
    "normalized": ({"added_tokens_decoder": {"2048": token("<|probe|>", normalized=True, special=False)}}, None),
    "few keys": ({"added_tokens_decoder": {"2048": {"content": "<|probe|>"}}}, None),
    "far id": ({"added_tokens_decoder": {"5000": token("<|probe|>"), "4000": token("<|two|>")}}, None),
    "known text, other id": ({"added_tokens_decoder": {"2048": token("the"), "2049": token("<|probe|>")}}, None),
    "known id, other text": ({"added_tokens_decoder": {"7": token("<|probe|>")}}, None),
    "the end, other flags": ({"added_tokens_decoder": {"0": token(END, lstrip=True)}}, None),
    "empty list beside a file": ({"added_tokens_decoder": {}}, {"<|probe|>": 2048}),
    "file": ({}, {"<|probe|>": 2048}),
    "file, two": ({}, {"<|two|>": 2049, "<|probe|>": 2048}),
    "file, special by name": ({"pad_token": "<|probe|>"}, {"<|probe|>": 2048}),
    "file, special by list": ({"extra_special_tokens": ["<|probe|>"]}, {"<|probe|>": 2048, "<|two|>": 2049}),
    "name alone": ({"pad_token": "<|probe|>"}, None),
    "names alone": ({"pad_token": "<|probe|>", "unk_token": "<|two|>"}, None),
    "other names": ({"image_token": "<|probe|>", "audio_token": "<|two|>"}, None),
    "list alone": ({"additional_special_tokens": ["<|two|>", "<|probe|>"]}, None),
    "names by role": ({"extra_special_tokens": {"probe_token": "<|probe|>"}}, None),
    "name and decoder": (
        {"pad_token": "<|two|>", "added_tokens_decoder": {"2048": token("<|probe|>", special=False)}},
        None,
    ),
}


def main():
    out = {}
    for name, (config, added) in CASES.items():
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            shutil.copy(DEMO / "tokenizer.json", folder)
            shutil.copy(DEMO / "config.json", folder)
            whole = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END, **config}
            (folder / "tokenizer_config.json").write_text(json.dumps(whole))
            if added is not None:
                (folder / "added_tokens.json").write_text(json.dumps(added))
            tokenizer = AutoTokenizer.from_pretrained(folder)
            ids = {text: tokenizer(text)["input_ids"] for text in TEXTS}
            out[name] = {"config": whole, "added": added, "ids": ids, "special": sorted(tokenizer.all_special_ids)}
    rows = ",\n".join(f" {json.dumps(name)}: {json.dumps(row)}" for name, row in out.items())
    (HERE / "added_tokens.json").write_text("{\n" + rows + "\n}\n")


if __name__ == "__main__":
    main()
