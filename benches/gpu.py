"""What gpu.sh runs: identities against the CPU, tokens a second, bytes that cross to the host, launches. See there.

On a CPU the identities compare the CPU with itself, which only tries the script. Every part has a share of the eight minutes
and is left out, with a sentence, when its time is up or what it needs is missing.
"""

import argparse
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 460.0

# Most that a site may differ between device and CPU, over the norm of the CPU's: f32 products in another order, and
# activations of eight bits of mantissa.
WITHIN = {"f32": 2e-4, "bf16": 4e-2}

SHAPE = {
    "0.5B": dict(vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
                 num_key_value_heads=2, tie_word_embeddings=True, rope_theta=1e6, max_position_embeddings=4096),
    "8B": dict(vocab_size=151936, hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32,
               num_key_value_heads=8, tie_word_embeddings=False, rope_theta=1e6, max_position_embeddings=4096),
}

MAKE = """
import json, sys, torch
from transformers import Qwen2Config, Qwen2ForCausalLM
torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
    model = Qwen2ForCausalLM(Qwen2Config(rms_norm_eps=1e-6, **json.loads(sys.argv[2])))
model.save_pretrained(sys.argv[1], max_shard_size="4GB")
"""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--shapes", nargs="*", default=["0.5B"])
    parser.add_argument("--tokens", type=int, default=64)
    return parser.parse_args()


def run(words, seconds, **more):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=max(seconds, 1), **more)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, words[:3]))} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout


def said(error):
    """What went wrong, in one line of a table."""
    return " ".join(str(error).replace("|", "/").split())[-200:]


def tensors(path):
    """A safetensors file of f32 tensors (and i64 tokens) as lists of floats by name."""
    data = Path(path).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    found = {}
    for name, of in header.items():
        if name != "__metadata__" and of["dtype"] == "F32":
            begin, end = of["data_offsets"]
            found[name] = struct.unpack(f"<{(end - begin) // 4}f", data[8 + length + begin:8 + length + end])
    return found


def apart(a, b):
    """The norm of the difference over the norm of the first; infinite where something is not finite."""
    difference = sum((x - y) ** 2 for x, y in zip(a, b)) ** 0.5
    size = sum(x * x for x in a) ** 0.5
    ratio = difference / size if size else difference
    return ratio if ratio == ratio else float("inf")


def identities(given, left):
    """Every family's tiny checkpoint, the same sites on the CPU and on the device."""
    rows = []
    folders = sorted(p.parent for p in (ROOT / "tests/references").glob("*/config.json"))
    dtypes = ["f32"] if given.device == "cpu" else ["f32", "bf16"]
    with tempfile.TemporaryDirectory() as scratch:
        for folder in folders:
            if not (folder / "model.safetensors").exists():
                continue
            for dtype in dtypes:
                if left() < 240:
                    rows.append({"family": folder.name, "dtype": dtype, "failed": "no time left"})
                    continue
                try:
                    both = []
                    for side, device, kind in (("host", "cpu", "f32"), ("device", given.device, dtype)):
                        file = f"{scratch}/{folder.name}-{side}-{dtype}.safetensors"
                        run([given.binary, "trace", folder, "--ids", "3,1,4,1,5,9,2,6", "--sites", "resid_post.*,logits",
                             "--dtype", kind, "--device", device, "-o", file], 60)
                        both.append(tensors(file))
                    worst = max((apart(both[0][n], both[1][n]), n) for n in both[0])
                    rows.append({"family": folder.name, "dtype": dtype, "apart": worst[0], "at": worst[1],
                                 "fine": worst[0] <= WITHIN[dtype]})
                except (RuntimeError, OSError, KeyError, subprocess.TimeoutExpired) as error:
                    rows.append({"family": folder.name, "dtype": dtype, "failed": said(error)})
    return rows


def launches(given, model, left):
    """Kernel launches and synchronisations a token, as Nsight Systems counts them, where it is."""
    if given.device != "cuda" or not shutil.which("nsys") or left() < 60:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        counts = []
        for tokens in (8, 24):
            report = f"{scratch}/{tokens}"
            run(["nsys", "profile", "-t", "cuda", "-o", report, given.binary, "generate", model, "--ids", "1,2,3", "-n", tokens,
                 "--device", given.device], 60)
            text = run(["nsys", "stats", "-r", "cuda_api_sum", "-f", "csv", report + ".nsys-rep"], 60)
            count = {}
            for line in text.splitlines():
                parts = line.split(",")
                if len(parts) > 8 and parts[2].isdigit():
                    count[parts[-1]] = int(parts[2])
            counts.append(count)
        per = lambda word: sum((counts[1].get(k, 0) - counts[0].get(k, 0)) for k in counts[1] if word in k) / 16
        return {"launches": per("Launch"), "synchronisations": per("Synchronize"), "copies": per("Memcpy")}


def speeds(given, left):
    """Tokens a second bare and with the steady panes, on the demo and on the shapes, beside transformers with hooks."""
    rows = []
    models = [("demo", "demo", None)]
    scratch = tempfile.mkdtemp()
    for shape in given.shapes:
        if given.device == "cpu" and shape != "0.5B":
            rows.append({"model": shape, "failed": "not tried on a CPU"})
            continue
        folder = f"{scratch}/{shape}"
        try:
            run([sys.executable, "-c", MAKE, folder, json.dumps(SHAPE[shape])], min(left() - 90, 200))
            models.append((shape, folder, folder))
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            rows.append({"model": shape, "failed": f"no random weights: {said(error)}"})
    for name, model, folder in models:
        if left() < 45:
            rows.append({"model": name, "failed": "no time left"})
            continue
        words = [given.binary, "bench", "--brief", "--format", "json", "-n", given.tokens, "--device", given.device, model]
        try:
            rounds = [json.loads(run(words, left()).strip().splitlines()[-1]) for _ in range(3 if folder is None else 2)]
            middle = lambda key: statistics.median(r[key] for r in rounds)
            row = {"model": name, "dtype": rounds[0]["dtype"], "bare": middle("bare_tokens_per_second"),
                   "live": middle("live_tokens_per_second"), "reading": middle("prompt_tokens_per_second"),
                   "read_back": rounds[0].get("read_back_bytes_per_token")}
            row["driver"] = launches(given, model, left)
            if folder:
                row["transformers"] = beside(given, folder, left)
            rows.append(row)
        except (RuntimeError, OSError, ValueError, subprocess.TimeoutExpired) as error:
            rows.append({"model": name, "failed": said(error)})
    shutil.rmtree(scratch, ignore_errors=True)
    return rows


def beside(given, folder, left):
    """The live view of transformers with hooks on the same device, from peers.py."""
    source = (ROOT / "benches/peers.py").read_text()
    script = source.split("LIVE_SCRIPT = '''")[1].split("'''")[0]
    if given.device == "cuda":
        script = script.replace("dtype=dtype).eval()", "dtype=dtype).eval().cuda()\ntorch.set_default_device('cuda')")
    try:
        out = run([sys.executable, "-c", script, folder, "bfloat16", given.tokens, os.cpu_count()], left(), input="\n\n")
        return json.loads(out.strip().splitlines()[-1])
    except (RuntimeError, OSError, ValueError, subprocess.TimeoutExpired) as error:
        return {"failed": said(error)}


def markdown(report):
    lines = [f"Measured on {report['device']} ({report['machine']}), {report['seconds']:.0f} seconds in all (`benches/gpu.sh`).", ""]
    if report["device"] == "cpu":
        lines += ["No GPU answered: these are figures of the CPU.", ""]
    lines += ["| family | dtype | farthest from the CPU in f32 | at | |", "|---|---|---|---|---|"]
    for r in report["identities"]:
        end = f"| {r['failed']} | | |" if "failed" in r else f"| {r['apart']:.1e} | {r['at']} | {'fine' if r['fine'] else 'APART'} |"
        lines.append(f"| {r['family']} | {r['dtype']} {end}")
    lines += ["", "| model | bare | live | reading | read back a token | transformers + hooks, bare and live | launches, synchronisations, copies a token |",
              "|---|---|---|---|---|---|---|"]
    for r in report["speeds"]:
        if "failed" in r:
            lines.append(f"| {r['model']} | not measured: {r['failed']} | | | | | |")
            continue
        back = "not counted by this build" if r["read_back"] is None else f"{r['read_back'] / 1024:.1f} KiB"
        theirs = r.get("transformers") or {}
        theirs = theirs.get("failed", "") if "bare" not in theirs else f"{theirs['bare']:.1f}, {theirs['live']:.1f}"
        driver = r["driver"]
        driver = "not counted (needs CUDA and nsys)" if not driver else ", ".join(f"{driver[k]:.1f}" for k in ("launches", "synchronisations", "copies"))
        lines.append(f"| {r['model']}, {r['dtype']} | {r['bare']:.1f} | {r['live']:.1f} | {r['reading']:.0f} | {back} | {theirs} | {driver} |")
    return "\n".join(lines) + "\n"


def main():
    given = arguments()
    began = time.monotonic()
    left = lambda: LIMIT - (time.monotonic() - began)
    report = {"device": given.device}
    if given.device == "cuda":
        report["machine"] = run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], 20).strip().splitlines()[0]
    else:
        report["machine"] = f"{os.cpu_count()} cores"
    report["identities"] = identities(given, left)
    report["speeds"] = speeds(given, left)
    report["seconds"] = time.monotonic() - began
    out = Path(given.out)
    (out / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
    (out / "gpu.md").write_text(markdown(report))
    print(markdown(report), end="")
    wrong = [r for r in report["identities"] if not r.get("fine")]
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
