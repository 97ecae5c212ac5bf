#!/usr/bin/env bash
# Times lmscope and PyTorch on the same random model, in turn, and prints how they compare: the loops of torch_loops.py, or
# the circuits of torch_circuits.py.
#
#   PYTHON=python3 ROUNDS=2 benches/compare.sh [loops|circuits]
#
# PYTHON needs torch and transformers. Takes about five minutes a round on two quiet cores, and 500 MB in the folder for
# temporary files. Both sides run in two threads on the first two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
ROUNDS=${ROUNDS:-2}
what=${1:-loops}
export RAYON_NUM_THREADS=2 CARGO_TERM_QUIET=true

two=()
if command -v taskset >/dev/null; then two=(taskset -c 0,1); fi

cargo bench --bench "$what" --no-run
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$PYTHON" "benches/torch_$what.py" make "$folder"
for _ in $(seq "$ROUNDS"); do
  "${two[@]}" "$PYTHON" "benches/torch_$what.py" time "$folder"
  "${two[@]}" cargo bench --bench "$what" -- "$folder"
done
"$PYTHON" "benches/torch_$what.py" ratio "$folder"
