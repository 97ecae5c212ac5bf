"""A net under refactoring: what every subcommand and instrument prints, kept, and compared with what it prints now.

    python3 tests/net/net.py make  [--binary target/debug/lmscope] [NAME ...]   # writes goldens/NAME.txt
    python3 tests/net/net.py check [--binary target/debug/lmscope] [NAME ...]   # says what differs; exit code 1 if anything does
    python3 tests/net/net.py diff OLD NEW [NAME ...]                            # runs two binaries side by side, without goldens

The runs stand in runs.txt. A golden holds the command, its exit code, what it printed on standard output and, after a line
`--- stderr`, on standard error. Times, speeds, memory and the folder of written files are blanked. Where all else agrees,
numbers may differ by rounding: as many last digits as another processor's products change (see `near`).
Needs Python 3.9 and nothing else. It is not part of `cargo test`: run it before and after moving code.
"""

import argparse
import difflib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
GOLDENS = HERE / "goldens"
NUMBER = re.compile(r"[-+−]?(?:\d+\.\d+|\.\d+|\d+)(?:e[-+]?\d+)?")
BLANK = [
    (re.compile(r'"(prompt_seconds|seconds|tokens_per_second)":[0-9.e-]+'), r'"\1":0'),
    (re.compile(r"\d+(\.\d+)?(e-?\d+)? tokens/s"), "N tokens/s"),
    (re.compile(r"at most about \d+ \w+|less than a second"), "TIME"),
    (re.compile(r"\bin \d+(\.\d+)? (ms|s)\b"), "in TIME"),
    (re.compile(r"^memory .*$", re.M), "memory ..."),
]


def runs(names):
    for line in (HERE / "runs.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, command = line.split(None, 1)
            if not names or name in names:
                yield name, command


def run(binary, command, folder):
    """What a run printed, with what changes from run to run blanked."""
    words = [w.replace("$R", "tests/references").replace("$T", str(folder)) for w in shlex.split(command)]
    words = [re.sub(r"\b([a-z]+\.(?:safetensors|gguf))", lambda m: str(folder / m[1]), w) if "/" not in w else w for w in words]
    words = [re.sub(r"(?<![/\w])(mood|icv|task|stats)\.safetensors", lambda m: f"{folder}/{m[0]}", w) for w in words]
    quiet = dict(os.environ, RAYON_NUM_THREADS="1", XDG_STATE_HOME=str(folder / "state"), XDG_CONFIG_HOME=str(folder / "config"), LMSCOPE_LOG="", COLUMNS="120", HF_HUB_OFFLINE="1")
    out = subprocess.run([str(binary), *words], cwd=ROOT, env=quiet, capture_output=True, stdin=subprocess.DEVNULL)
    text = f"$ lmscope {command}\nexit {out.returncode}\n{out.stdout.decode(errors='replace')}"
    if out.stderr:
        text += f"--- stderr\n{out.stderr.decode(errors='replace')}"
    text = text.replace(str(folder), "$T")
    for pattern, blank in BLANK:
        text = pattern.sub(blank, text)
    return text if text.endswith("\n") else text + "\n"


def near(a, b):
    """Whether two spellings of a number differ by rounding only: two units of the last digit shown, or 2e-4 of the larger."""
    if a == b:
        return True
    if "." not in a + b and "e" not in a + b:
        return False
    x, y = (float(s.replace("−", "-")) for s in (a, b))
    shown = max(len(s.split("e")[0].partition(".")[2]) for s in (a, b))
    scale = 10.0 ** int(a.partition("e")[2] or 0)
    return abs(x - y) <= max(2.01 * scale * 10.0**-shown, 2e-4 * max(abs(x), abs(y)), 2e-6)


def same(old, new):
    """Whether two texts agree but for rounding (and the padding that follows from it)."""
    if old == new:
        return True
    words = [re.sub(r"[ ]+", " ", NUMBER.sub("#", t)) for t in (old, new)]
    numbers = [NUMBER.findall(t) for t in (old, new)]
    return words[0] == words[1] and len(numbers[0]) == len(numbers[1]) and all(map(near, *numbers))


def show(name, old, new):
    print(f"== {name}")
    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), "before", "now", n=0, lineterm=""))
    print("\n".join(line[:400] for line in lines[:40]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "check", "diff"])
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--binary", default=str(ROOT / "target/debug/lmscope"))
    given = parser.parse_args()
    binaries, names = (given.rest[:2], given.rest[2:]) if given.what == "diff" else ([given.binary], given.rest)
    differ = count = 0
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / str(i) for i in range(len(binaries))]
        for folder in folders:
            folder.mkdir()
        GOLDENS.mkdir(exist_ok=True)
        for name, command in runs(names):
            texts = [run(Path(b).resolve(), command, f) for b, f in zip(binaries, folders)]
            golden = GOLDENS / f"{name}.txt"
            count += 1
            if given.what == "make":
                golden.write_text(texts[0])
                continue
            old = texts[0] if given.what == "diff" else golden.read_text() if golden.exists() else ""
            if not same(old, texts[-1]):
                differ += 1
                show(name, old, texts[-1])
    print(f"{count} runs" + ("" if given.what == "make" else f", {differ} differ"))
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
