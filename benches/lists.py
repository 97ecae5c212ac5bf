"""A long list of prompts through every method that takes lists: does it keep to the time and memory that it announces, and does a list
that was stopped come to the same numbers?

    python3 benches/lists.py LMSCOPE MODEL [PROMPTS [METHOD...]]

LMSCOPE is a release build, MODEL what it takes (SmolLM2 is meant), PROMPTS how many (500). Every method is run whole, then stopped with
Ctrl-C when about a third of that time has passed and started again; both figures must be the same. Prints a row a method: what was
announced, what it took (seconds; peak resident memory), and how many prompts were done when it was stopped. Needs Linux and Python alone.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PLACES = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo", "China": "Beijing", "Russia": "Moscow",
    "Egypt": "Cairo", "Greece": "Athens", "Portugal": "Lisbon", "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki",
    "Denmark": "Copenhagen", "Austria": "Vienna", "Hungary": "Budapest", "Poland": "Warsaw", "Ireland": "Dublin", "Cuba": "Havana",
    "Peru": "Lima", "Chile": "Santiago", "Kenya": "Nairobi", "Iran": "Tehran", "Iraq": "Baghdad", "Turkey": "Ankara",
}
BEGINNINGS = [
    "The capital of {} is the city of", "The capital city of {} is called", "{}'s capital is", "In {}, the seat of government is in",
    "If you fly to the capital of {}, you land in", "Q: What is the capital of {}?\nA:", "The president of {} lives in the capital,",
    "The largest airport of {} is near the capital,", "Tourists who visit {} often begin in its capital,", "The parliament of {} meets in",
    "The embassy in {} stands in its capital,", "The national museum of {} can be found in the capital,", "The news from {} today comes from the capital,",
    "My friend from {} grew up in the capital,", "The government of {} sits in", "The railway of {} begins in the capital,",
    "The old town of the capital of {},", "The mayor of the capital of {} governs", "A map of {} shows the capital,", "The winter in the capital of {},",
]
METHODS = {
    "answers": [], "lens": [], "track": [], "settle": [], "trajectory": [], "residual": [], "neurons": [], "attention": ["--show", "scores", "--on", "prompt"],
    "dose": ["--units", "5/17,6/3"], "heads": ["--rows", "20"], "knockout": [], "patchscope": ["--layer", "4-7"],
}


def a_list(path, count):
    rows = [(text.format(place), f" {town}", place) for text in BEGINNINGS for place, town in PLACES.items()]
    lines = ["prompt\tanswer\tentity"]
    lines += ["\t".join((prompt.replace("\n", " "), answer, entity)) for prompt, answer, entity in rows[:count]]
    path.write_text("\n".join(lines) + "\n")
    return len(lines) - 1


def run(command, state, stop_after=None):
    """Exit code, what was said, seconds, peak memory in bytes."""
    said = tempfile.TemporaryFile("w+")
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, env={**os.environ, "XDG_STATE_HOME": state})
    while True:
        done, status, used = os.wait4(process.pid, os.WNOHANG)
        if done:
            break
        if stop_after is not None and time.monotonic() - began > stop_after:
            process.send_signal(signal.SIGINT)
            stop_after = None
        time.sleep(0.02)
    said.seek(0)
    return os.waitstatus_to_exitcode(status), said.read(), time.monotonic() - began, used.ru_maxrss * 1024


def seconds(words):
    unit = {"h": 3600, "min": 60, "s": 1}
    return sum(int(n) * unit[u] for n, u in re.findall(r"(\d+) (h|min|s)\b", words))


def announced(said):
    line = next(line for line in said.splitlines() if "at most" in line and "of memory" in line)
    size, unit = re.search(r"about ([\d.]+) (MiB|GiB) of memory", line).groups()
    size = float(size) * 1024 ** {"MiB": 2, "GiB": 3}[unit]
    span = re.search(r"at most about (.*?) and about", line)
    return (seconds(span.group(1)) if span else None), size


def body(path):
    figure = json.loads(path.read_text())
    return figure["body"], figure["notes"]


def main():
    lmscope, model = sys.argv[1:3]
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 500
    chosen = sys.argv[4:] or list(METHODS)
    failed = []
    print("| method | announced | took | memory announced | peak | stopped at | the same numbers |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        file = folder / "list.tsv"
        prompts = a_list(file, count)
        for method in chosen:
            command = [lmscope, method, model, "--prompts", str(file), *METHODS[method], "--format", "json", "-o"]
            whole, parts = folder / f"{method}.json", folder / f"{method}-parts.json"
            code, said, took, peak = run([*command, str(whole)], str(folder / "a"))
            if code != 0:
                failed.append(f"{method}: {said.strip().splitlines()[-1]}")
                continue
            most, memory = announced(said)
            state = str(folder / "b")
            stopped, note, _, _ = run([*command, str(parts)], state, took / 3)
            at = re.search(r"(?:after|of) (\d+) of \d+ prompts", note)
            unfinished = Path(f"{parts}.unfinished")
            if at is None and unfinished.exists():
                at = re.search(r"after (\d+) of", unfinished.read_text())
            code, said, _, _ = run([*command, str(parts)], state)
            same = code == 0 and body(whole) == body(parts)
            if not same:
                failed.append(f"{method}: another figure after it was stopped ({stopped}, {said.strip().splitlines()[-1]})")
            if (most and took > most) or peak > memory:
                failed.append(f"{method}: more than announced")
            done = f"{at.group(1)} of {prompts}" if at else f"code {stopped}"
            limit = f"{most} s" if most else "under 3 s"
            print(f"| `{method}` | {limit} | {took:.1f} s | {memory / 2**20:.0f} MiB | {peak / 2**20:.0f} MiB | {done} | {'yes' if same else 'NO'} |", flush=True)
    print("\n".join(failed))
    sys.exit(bool(failed))


main()
