"""Makes `vectors/`: direction files of other tools, made on the demo model, and what those tools make of ours.

    python tests/references/vectors.py LLAMA_SOURCE LLAMA_BUILD LMSCOPE

LLAMA_SOURCE is the source of llama.cpp (its converter is used), LLAMA_BUILD a folder with `bin/llama-cvector-generator`,
`bin/llama-completion` and `bin/loader` (vectors.cpp beside this file, linked with llama.cpp's libraries), LMSCOPE our own binary, which writes `ours.gguf` and `ours.pt`. Written with: python 3.11, repeng
0.4.0, scikit-learn 1.9.1, transformers 4.57.1, torch 2.15.0 (CPU), gguf 0.19.0, numpy 2.4.6, and the llama.cpp in the source
package of llama-cpp-python 0.3.36 (ggml 0.25.3).

* `prompts.json`: pairs of prompts, all of one number of tokens, so that llama-cvector-generator pads none;
* `repeng_*.gguf`: by repeng's own code, from the Hugging Face model;
* `llama_*.gguf`: by llama-cvector-generator, from the model as llama.cpp's converter writes it in f32;
* `direction.pt`, `direction_metadata.json`, `mean_diffs.safetensors` [positions, layers, d_model] f64: by refusal_direction's
  formula, in f64, from the inputs of the blocks, at the last token and the one before it;
* `function_vector.pt`: a tensor [1, 1, d_model] that says nothing of where it belongs;
* `ours.gguf`, `ours.pt`: ours, from the same prompts;
* `report.json`: what repeng, torch and llama.cpp's loader read in these files, odd files (in hexadecimal) with what that loader
  makes of them, and what llama.cpp writes, greedily, under control vectors. A file that its loader refuses does not stop
  llama-completion: it writes without it and exits with 0, which is why the loader is asked itself.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

np.float_ = np.float64  # repeng 0.4.0 still calls it so

import gguf
import torch
from repeng import ControlVector, DatasetEntry
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).parent
OUT = HERE / "vectors"
DEMO = HERE.parents[1] / "demo/model"
ANIMALS = ["pony", "rabbit", "owl", "mouse", "turtle", "fox", "cat", "dog", "bear", "duck"]
NAMES = ["Tom", "Mary", "Dan", "Bob", "Nick", "Carol", "Anna", "Lily", "Ben", "Sam"]
ASK = "Once upon a time there was a pony named Tom. It was a"
POSITIONS = [-1, -2]
LAYER = 5


def prompts(tokenizer):
    pairs = []
    for animal in ANIMALS:
        for name in NAMES:
            text = [f"Once upon a time there was a {mood} {animal} named {name}. It was a" for mood in ["happy", "sad"]]
            if all(len(tokenizer(t).input_ids) == len(tokenizer(ASK).input_ids) + 1 for t in text):
                pairs.append(text)
    assert len(pairs) >= 8, len(pairs)
    return pairs[:: max(1, len(pairs) // 10)][:10]


def by_repeng(model, tokenizer, pairs):
    tokenizer.pad_token = tokenizer.eos_token
    data = [DatasetEntry(positive=plus, negative=minus) for plus, minus in pairs]
    for method in ["pca_diff", "pca_center"]:
        ControlVector.train(model, tokenizer, data, method=method).export_gguf(OUT / f"repeng_{method}.gguf")


def by_refusal_direction(model, tokenizer, pairs):
    """Means of the block inputs, accumulated in f64, of one side less those of the other."""
    layers = model.model.layers
    sides = []
    for side in [0, 1]:
        mean = torch.zeros(len(POSITIONS), len(layers), model.config.hidden_size, dtype=torch.float64)

        def hook(layer):
            def take(_, args):
                mean[:, layer] += args[0][0, POSITIONS].double() / len(pairs)

            return take

        hooks = [block.register_forward_pre_hook(hook(i)) for i, block in enumerate(layers)]
        with torch.inference_mode():
            for pair in pairs:
                model(tokenizer(pair[side], return_tensors="pt").input_ids)
        for handle in hooks:
            handle.remove()
        sides.append(mean)
    diffs = sides[0] - sides[1]
    save_file({"mean_diffs": diffs}, OUT / "mean_diffs.safetensors")
    torch.save(diffs[0, LAYER].clone(), OUT / "direction.pt")
    (OUT / "direction_metadata.json").write_text(json.dumps({"pos": POSITIONS[0], "layer": LAYER}, indent=4) + "\n")
    torch.save(diffs[0, LAYER].float().reshape(1, 1, -1), OUT / "function_vector.pt")


def convert(source, target):
    """llama.cpp's converter, told which way our tokenizer cuts words: as GPT-2's does."""
    code = (
        "import runpy, sys; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/gguf-py']\n"
        "import conversion.base as base; base.TextModel.get_vocab_base_pre = lambda self, t: 'gpt-2'\n"
        "sys.argv = ['convert', sys.argv[2], '--outfile', sys.argv[3], '--outtype', 'f32']\n"
        "runpy.run_path(sys.path[0] + '/convert_hf_to_gguf.py', run_name='__main__')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(source), str(DEMO), str(target)], check=True, capture_output=True)




def main():
    source, build, lmscope = (Path(p).resolve() for p in sys.argv[1:4])
    OUT.mkdir(exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32, attn_implementation="eager")
    pairs = prompts(tokenizer)
    (OUT / "prompts.json").write_text(json.dumps({"plus": [p for p, _ in pairs], "minus": [m for _, m in pairs]}, indent=1) + "\n")
    by_repeng(model, tokenizer, pairs)
    by_refusal_direction(model, tokenizer, pairs)

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        demo = folder / "demo.gguf"
        convert(source, demo)
        for name, side in [("plus", 0), ("minus", 1)]:
            (folder / name).write_text("\n".join(pair[side] for pair in pairs) + "\n")
        files = ["--positive-file", folder / "plus", "--negative-file", folder / "minus"]
        for method in ["mean", "pca"]:
            command = [build / "bin/llama-cvector-generator", "-m", demo, *files, "--method", method, "-t", "2"]
            subprocess.run([*command, "-o", OUT / f"llama_{method}.gguf"], check=True, capture_output=True)

        for target, layers in [("ours.gguf", "all"), ("ours.pt", str(LAYER))]:
            command = [lmscope, "direction", "demo", "--plus", folder / "plus", "--minus", folder / "minus", "--layer", layers]
            subprocess.run([*command, "-o", OUT / target], check=True, capture_output=True)

        def write(vector, scale):
            command = [build / "bin/llama-completion", "-m", demo, "-p", ASK, "-n", "12", "--temp", "0", "-no-cnv", "-t", "2"]
            if vector:
                command += ["--control-vector-scaled", f"{vector}:{scale}"]
            done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True)
            return done.stdout.strip()

        def load(file):
            """n_embd, or -1 of a refused file, and of every layer from 1 on the sums of its numbers and their squares."""
            words = subprocess.run([build / "bin/loader", file], capture_output=True, text=True, check=True).stdout.split()
            sums = [float(word) for word in words[2:]]
            return {"n_embd": int(words[1]), "sums": [sums[i : i + 2] for i in range(0, len(sums), 2)]}

        texts = [{"file": "", "scale": 0.0, "text": write("", 0)}]
        for file in ["ours.gguf", "repeng_pca_center.gguf", "llama_mean.gguf"]:
            for scale in [-0.2, -0.1, 0.1, 0.2] if file == "ours.gguf" else [-2.0, -1.0, 1.0, 2.0]:
                texts.append({"file": file, "scale": scale, "text": write(OUT / file, scale)})

        loaded = {file.name: load(file) for file in sorted(OUT.glob("*.gguf"))}
        odd = {}
        vector = np.arange(1, 9, dtype=np.float32)
        for name, tensors in {
            "layer 0": [("direction.0", vector)],
            "negative layer": [("direction.-1", vector)],
            "no layer": [("direction.x", vector)],
            "no number": [("direction", vector)],
            "another tensor": [("direction.1", vector), ("token_embd.weight", vector)],
            "f16": [("direction.1", vector.astype(np.float16))],
            "a matrix": [("direction.1", np.ones((2, 4), dtype=np.float32))],
            "sizes differ": [("direction.1", vector), ("direction.2", vector[:4])],
            "no vector": [],
            "a row": [("direction.1", vector.reshape(1, 8))],
            "one layer twice": [("direction.3", vector), ("direction.03", 2 * vector)],
            "words after the layer": [("direction.3 or so", vector)],
            "blank and sign": [("direction. +2", vector)],
            "a layer beyond numbers": [("direction.99999999999", vector)],
        }.items():
            file = folder / "odd.gguf"
            writer = gguf.GGUFWriter(file, "controlvector")
            writer.add_string("controlvector.model_hint", "llama")
            writer.add_uint32("controlvector.layer_count", 7)
            for tensor, values in tensors:
                writer.add_tensor(tensor, values)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            odd[name] = load(file) | {"hex": file.read_bytes().hex()}

    ours = ControlVector.import_gguf(OUT / "ours.gguf")
    report = {
        "ask": ASK,
        "texts": texts,
        "loaded": loaded,
        "odd": odd,
        "repeng_reads_ours": {
            "model_type": ours.model_type,
            "layers": {str(layer): float(np.linalg.norm(v)) for layer, v in sorted(ours.directions.items())},
        },
        "torch_reads_ours": {
            "shape": list(torch.load(OUT / "ours.pt", weights_only=True).shape),
            "length": float(torch.load(OUT / "ours.pt", weights_only=True).norm()),
        },
    }
    (OUT / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
