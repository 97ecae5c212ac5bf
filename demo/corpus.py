"""Writes documents of the world, one a line, for the demo's dictionary: what the model was trained on, drawn anew.

Run:  python corpus.py TEXT        (Python 3.11, no packages; the same file comes out every time)
Documents of several lines are left out, and so are those that were read under an edit: the dictionary sees the model as it is.
"""
import random
import sys
from pathlib import Path

import world

DOCUMENTS = 24000


def main():
    rng = random.Random(2024)
    lines = []
    while len(lines) < DOCUMENTS:
        pieces, edit = world.sample(rng)
        text = "".join(piece for piece, _ in pieces)
        if "\n" not in text and edit == "":
            lines.append(text)
    Path(sys.argv[1]).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
