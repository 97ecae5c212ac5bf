"""Assembles a text from the documentation of installed Python packages, to train a dictionary on.

Docstrings of the standard library and of all packages, and their README and METADATA files: prose about code, each document once,
in an order that a seed decides. The same packages give the same text.

Run:  python dictionary_text.py TEXT [--megabytes 4]
"""
import argparse
import ast
import hashlib
import random
import re
import sysconfig
from pathlib import Path

LEAST, MOST = 200, 6000  # characters of a document


def docstrings(path):
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield text


def pages(path):
    """The body of a README or METADATA file, in parts."""
    try:
        text = path.read_text(encoding="utf-8")
    except (ValueError, OSError):
        return
    if path.name == "METADATA":
        text = text.partition("\n\n")[2]
    text = re.sub(r"<[^>\n]+>|!?\[!\[[^\n]+", " ", text)
    for start in range(0, len(text), MOST):
        yield text[start:start + MOST]


def documents():
    paths = sysconfig.get_paths()
    for root in sorted({Path(paths["stdlib"]), Path(paths["purelib"]), Path(paths["platlib"])}):
        for path in sorted(root.rglob("*")):
            if "tests" in path.parts or not path.is_file():
                continue
            if path.suffix == ".py":
                yield from docstrings(path)
            elif path.name == "METADATA" or path.suffix in (".md", ".rst"):
                yield from pages(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--megabytes", type=float, default=4)
    given = parser.parse_args()
    seen, kept = set(), []
    for text in documents():
        text = re.sub(r"\n{3,}", "\n\n", text.strip())
        digest = hashlib.sha256(text.encode()).digest()
        if len(text) >= LEAST and digest not in seen:
            seen.add(digest)
            kept.append(text[:MOST])
    kept.sort()
    random.Random(1).shuffle(kept)
    size, chosen = 0, []
    for text in kept:
        if size > given.megabytes * 1e6:
            break
        chosen.append(text)
        size += len(text.encode()) + 2
    given.text.write_text("\n\n".join(chosen) + "\n", encoding="utf-8")
    print(f"{len(chosen)} of {len(kept)} documents, {size} bytes")


if __name__ == "__main__":
    main()
