"""Plants one fault after another in the source and says which invariant tests notice.

    python3 tests/mutations.py            about three minutes on two cores, with a warm build

Every identity should be killed by its own fault; a fault that survives names a test that
does not test. Run it on a clean checkout: files are put back from memory, whatever happens.
"""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# (test, file, what is there, what is planted)
FAULTS = [
    ("i1", "src/model/transformer.rs", ".forward(&self.norm.forward(rows, false)?)?", ".forward(rows)?"),
    ("i2", "src/model/transformer.rs", "ResidMid.at(i), (x + a)?", "ResidMid.at(i), (x + (a * 0.5)?)?"),
    ("i3", "src/model/norm.rs", "            NormKind::Layer => wide.broadcast_sub(&wide.mean_keepdim(candle_core::D::Minus1)?)?,\n        };",
     "            NormKind::Layer => wide,\n        };"),
    ("i4", "src/model/transformer.rs", "if k <= span.start + q {", "if k <= span.start + q + 1 {"),
    ("i5", "src/model/linear.rs", ".narrow(1, i, 1)?\n                .squeeze(1)?", ".narrow(1, (i + 1) % 3, 1)?\n                .squeeze(1)?"),
    ("i6", "src/lab/edit.rs", "self.on && !neutral", "self.on"),
    ("i7", "src/lab/apply.rs", "Change::ProjectOut(Tensor::new(unit(&vector), device)?, c)", "Change::ProjectOut(Tensor::new(vector.clone(), device)?, c)"),
    ("i9", "src/lab/run.rs", "let position = patch.position - span.start;", "let position = (patch.position - span.start).saturating_sub(1);"),
    ("i19", "src/lab/apply.rs", "target.broadcast_as(wide.shape())?.contiguous()?\n", "(target.broadcast_as(wide.shape())?.contiguous()? + 1e-4)?\n"),
    ("i20", "src/model/rope.rs", "let cos = self.cos.narrow(0, start, tokens)?;", "let cos = self.cos.narrow(0, 0, tokens)?;"),
    ("i25", "src/lab/apply.rs", ".map(|i| span.start + i)", ".map(|i| span.start + i + 1)"),
    ("i26", "src/lab/run.rs", "            self.recorded.insert(at, kept);\n        }\n        Ok(x)",
     "            self.recorded.insert(at, kept);\n            return Ok((x + 1e-6)?);\n        }\n        Ok(x)"),
]


def main():
    survived = []
    for test, name, there, planted in FAULTS:
        path = ROOT / name
        source = path.read_text(encoding="utf-8")
        if there not in source:
            survived.append(test)
            print(f"{test}: {name} has changed, plant this fault anew")
            continue
        path.write_text(source.replace(there, planted, 1), encoding="utf-8")
        try:
            run = subprocess.run(["cargo", "test", "--test", "it", "--", "invariants::"], cwd=ROOT, capture_output=True, text=True)
        finally:
            path.write_text(source, encoding="utf-8")
        failed = re.findall(r"test invariants::(\S+) \.\.\. FAILED", run.stdout)
        print(f"{test}: {'killed by ' + ', '.join(failed) if failed else 'SURVIVED'}", flush=True)
        if not any(f.startswith(test + "_") for f in failed):
            survived.append(test)
    raise SystemExit(f"not killed by their own test: {survived}" if survived else 0)


if __name__ == "__main__":
    main()
