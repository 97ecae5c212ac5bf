#!/usr/bin/env python3
"""Times lmscope beside llama.cpp and beside PyTorch with hooks, in turn, and writes the table of docs/checks.md.

    benches/peers.py --binary target/release/lmscope --llama-bench BIN/llama-bench --python PYTHON \\
        --gguf 'models/smol-*.gguf' --folder models/smol --folder models/qwen05-bf16 [--quick] [--out FOLDER]

Every row is a median over rounds in which both sides run one after the other, in as many threads; the ratio is the median of
the rounds' own ratios, so that a slow moment of the machine hits both. What is not given is left out: without --python no
live rows, without --llama-bench no bare ones. --quick takes two rounds of few tokens (under six minutes on two cores with
six small files). Writes peers.json and peers.md into --out, and prints the table. A side that fails is a row that says so.
"""

import argparse
import glob
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# What is asked of a bare token, by the type of the file, and of reading.
AT_LEAST = {"F32": 1.0, "F16": 1.0, "BF16": 1.0, "Q8_0": 1.0, "Q4_0": 1.0, "Q4_1": 1.0}
READING = {"F32": 0.8, "F16": 0.8, "BF16": 0.8}
LIVE = {"F32": 1.4, "F16": 1.4, "BF16": 1.4, "Q8_0": 2.2, "Q4_0": 2.5, "Q4_1": 2.5}

# transformers with forward hooks: the lens of every layer (softmax, five strongest) and every layer's ten strongest neurons.
LIVE_SCRIPT = '''
import json, sys, time, torch
from transformers import AutoModelForCausalLM
path, dtype, count, threads = sys.argv[1], getattr(torch, sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(threads)
model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
norms = [layer.mlp.down_proj.weight.float().norm(dim=0) for layer in model.model.layers]
seen = {}
def run(live):
    hooks = [layer.mlp.down_proj.register_forward_pre_hook(lambda m, a, i=i: seen.__setitem__(i, a[0][0, -1]))
             for i, layer in enumerate(model.model.layers)] if live else []
    with torch.inference_mode():
        kept = model(torch.arange(1, 7)[None], use_cache=True).past_key_values
        model(torch.tensor([[5]]), past_key_values=kept, use_cache=True)
        since = time.perf_counter()
        for i in range(count):
            out = model(torch.tensor([[7 + i]]), past_key_values=kept, use_cache=True, output_hidden_states=live)
            if live:
                rows = torch.stack([x[0, -1] for x in out.hidden_states[:-1]])
                model.lm_head(model.model.norm(rows)).float().softmax(-1).topk(5)
                for layer, acts in seen.items():
                    (acts.float().abs() * norms[layer]).topk(10)
            out.logits[0, -1].argmax().item()
        rate = count / (time.perf_counter() - since)
    [hook.remove() for hook in hooks]
    return rate
print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps({"bare": run(False), "live": run(True)}), flush=True)
'''


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True, help="a release build of lmscope")
    parser.add_argument("--llama-bench", help="llama.cpp's llama-bench")
    parser.add_argument("--python", help="a Python with torch and transformers")
    parser.add_argument("--gguf", action="append", default=[], help="GGUF files, also as a pattern")
    parser.add_argument("--folder", action="append", default=[], help="folders in Hugging Face layout, for the live rows")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a round")
    parser.add_argument("--quick", action="store_true", help="two rounds of 24 tokens")
    parser.add_argument("--out", default=".", help="where peers.json and peers.md go")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.tokens = min(given.rounds, 2), min(given.tokens, 24)
    given.gguf = sorted({path for pattern in given.gguf for path in glob.glob(pattern)})
    return given


def run(command, seconds=600, **more):
    """The output of a command, or what went wrong as an exception that says which."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=seconds, **more)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout


def ours(given, model):
    words = [given.binary, "bench", "--brief", "--format", "json", "-n", given.tokens, "--threads", given.threads, model]
    return json.loads(run(words).strip().splitlines()[-1])


def llama(given, file):
    words = [given.llama_bench, "-m", file, "-t", given.threads, "-p", 256, "-n", given.tokens, "-r", 1, "-o", "json"]
    found = json.loads(run(words))
    kind = found[0]["model_type"].split()[-1]
    rate = {("read" if test["n_prompt"] else "write"): test["avg_ts"] for test in found}
    return kind, rate


class Torch:
    """The live view in Python, loaded once and asked for rounds."""

    def __init__(self, given, folder, dtype):
        script = Path(tempfile.mkdtemp()) / "live.py"
        script.write_text(LIVE_SCRIPT)
        words = [given.python, script, folder, dtype, given.tokens, given.threads]
        quiet = dict(os.environ, OMP_NUM_THREADS=str(given.threads), TRANSFORMERS_VERBOSITY="error", HF_HUB_OFFLINE="1")
        self.process = subprocess.Popen([str(w) for w in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True, env=quiet)
        self.line("ready")

    def line(self, wanted=None):
        line = self.process.stdout.readline().strip()
        if not line or (wanted and line != wanted):
            raise RuntimeError(f"the Python side said {line!r} and ended with {self.process.poll()}")
        return line

    def round(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.line())

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)


def row(what, against, pairs, least):
    """One row of the table: the two medians, the median ratio, and the lowest and the highest."""
    ratios = [mine / theirs for mine, theirs in pairs]
    return {"what": what, "against": against, "ours": statistics.median(p[0] for p in pairs),
            "theirs": statistics.median(p[1] for p in pairs), "ratio": statistics.median(ratios),
            "lowest": min(ratios), "highest": max(ratios), "at_least": least, "rounds": len(pairs)}


def failed(what, against, why):
    return {"what": what, "against": against, "failed": str(why).replace("\n", " ")[:200]}


def bare_rows(given):
    """A token and reading 256 tokens, each file beside llama.cpp on the same file."""
    for file in given.gguf:
        name, writes, reads, kind = Path(file).stem, [], [], "?"
        try:
            for i in range(given.rounds):
                both = [lambda: ours(given, file), lambda: llama(given, file)]
                # Whoever comes second finds a warmer machine: they take turns.
                first, second = both[i % 2](), both[1 - i % 2]()
                mine, (kind, theirs) = (first, second) if i % 2 == 0 else (second, first)
                writes.append((mine["bare_tokens_per_second"], theirs["write"]))
                reads.append((mine["prompt_tokens_per_second"], theirs["read"]))
            yield row(f"{name}: one token, bare, {kind}", "llama-bench tg", writes, AT_LEAST.get(kind, 0.8))
            yield row(f"{name}: reading 256 tokens, {kind}", "llama-bench pp", reads, READING.get(kind, 0.5))
        except (RuntimeError, OSError, ValueError, subprocess.TimeoutExpired) as error:
            yield failed(f"{name}, {kind}", "llama-bench", error)


def live_rows(given):
    """The live view of the folder's own model and of GGUF files of it, beside PyTorch in bf16 in the same rounds."""
    for folder in given.folder:
        name = Path(folder).name
        stem = name.split("-")[0]
        models = [folder] + [f for f in given.gguf if Path(f).stem.split("-")[0] == stem]
        try:
            torch = Torch(given, folder, "bfloat16")
        except (RuntimeError, OSError) as error:
            yield failed(f"{name}: live", "transformers + hooks, bf16", error)
            continue
        found = {model: [] for model in models}
        views = {model: [] for model in models}
        shares = {model: [] for model in models}
        try:
            for _ in range(given.rounds):
                for model in models:
                    theirs, mine = torch.round(), ours(given, model)
                    found[model].append((mine["live_tokens_per_second"], theirs["live"]))
                    views[model].append((mine["view_tokens_per_second"], theirs["live"]))
                    shares[model].append((mine["view_tokens_per_second"], mine["bare_tokens_per_second"]))
        except (RuntimeError, OSError, ValueError, subprocess.TimeoutExpired) as error:
            yield failed(f"{name}: live", "transformers + hooks, bf16", error)
        torch.close()
        for model in models:
            if found[model]:
                kind = Path(model).stem.split("-")[-1]
                yield row(f"{Path(model).name}: live, all layers, neurons", "transformers + hooks, bf16",
                          found[model], LIVE.get(kind, 1.4))
                yield row(f"{Path(model).name}: live, layers in view at 80x24, neurons", "the same", views[model], 1.8)
                yield row(f"{Path(model).name}: that over bare", "own bare", shares[model], 0.7)


def start_rows(given):
    """From the start of a process to its first token, in milliseconds; more is worse."""
    for model, most in [("demo", 25.0), *((f, 150.0) for f in given.gguf if "Q4_1" in f)]:
        try:
            times = []
            for _ in range(max(3, given.rounds)):
                words = [given.binary, "bench", "--startup", f"--threads={given.threads}", "--", model]
                since = time.perf_counter()
                run(words)
                times.append((time.perf_counter() - since) * 1e3)
            yield {"what": f"{Path(model).stem}: process start to its end after one token, ms", "against": f"at most {most:.0f}",
                   "ours": statistics.median(times), "lowest": min(times), "highest": max(times), "rounds": len(times)}
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            yield failed(f"{model}: start", "", error)


def machine():
    name = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {"cpu": name, "cores": os.cpu_count(), "load": os.getloadavg()[0]}


def markdown(report):
    before, after, m = report["load_before"], report["load_after"], report["machine"]
    lines = [f"Measured on {report['threads']} threads of {m['cpu']} ({m['cores']} cores), load {before:.1f} before and "
             f"{after:.1f} after, medians of {report['rounds']} alternating rounds of {report['tokens']} tokens "
             "(`benches/peers.py`):", *(["", "The machine was not quiet: these ratios say little."] if before > 1.5 else []), "",
             "| what | against | lmscope | it | ratio (lowest to highest) | at least |",
             "|---|---|---|---|---|---|"]
    for r in report["rows"]:
        if "failed" in r:
            lines.append(f"| {r['what']} | {r['against']} | not measured: {r['failed']} | | | |")
        elif "ratio" in r:
            least = f"{r['at_least']:.1f}" + ("" if r["ratio"] >= r["at_least"] else ", missed")
            lines.append(f"| {r['what']} | {r['against']} | {r['ours']:.1f} | {r['theirs']:.1f} | "
                         f"{r['ratio']:.2f} ({r['lowest']:.2f} to {r['highest']:.2f}) | {least} |")
        else:
            lines.append(f"| {r['what']} | {r['against']} | {r['ours']:.1f} ({r['lowest']:.1f} to {r['highest']:.1f}) | | | |")
    return "\n".join(lines) + "\n"


def main():
    given = arguments()
    report = {"machine": machine(), "load_before": os.getloadavg()[0], "threads": given.threads, "rounds": given.rounds,
              "tokens": given.tokens, "rows": []}
    parts = [start_rows(given)]
    if given.llama_bench:
        parts.append(bare_rows(given))
    if given.python:
        parts.append(live_rows(given))
    for part in parts:
        for found in part:
            report["rows"].append(found)
            print(json.dumps(found), file=sys.stderr)
    report["load_after"] = os.getloadavg()[0]
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "peers.json").write_text(json.dumps(report, indent=1) + "\n")
    (out / "peers.md").write_text(markdown(report))
    print(markdown(report), end="")


if __name__ == "__main__":
    main()
