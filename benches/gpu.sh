#!/usr/bin/env bash
# One command for a machine with a GPU, under eight minutes: whether the device computes what the CPU does, how fast it writes,
# and what crosses to the host.
#
#   BINARY=target/release/lmscope PYTHON=python3 OUT=gpu benches/gpu.sh [cuda|metal]
#
# BINARY is built with `--features cuda` (or metal); without one, this builds it where nvcc is. PYTHON needs torch and
# transformers for the shapes with random weights and for the loop beside ours; without them those rows are left out, and said.
# SHAPES="0.5B 8B" chooses the shapes. Writes OUT/gpu.json and OUT/gpu.md. Where there is no GPU it says so and measures on the
# CPU what can be measured there. Metal is the same script and has been run by nobody yet.
set -euo pipefail
cd "$(dirname "$0")/.."
device=${1:-cuda}
PYTHON=${PYTHON:-python3}
OUT=${OUT:-gpu}
SHAPES=${SHAPES:-0.5B 8B}
BINARY=${BINARY:-target/release/lmscope}
mkdir -p "$OUT"

there=no
case $device in
cuda) if command -v nvidia-smi >/dev/null && nvidia-smi -L | grep -q GPU; then there=yes; fi ;;
metal) if [ "$(uname -s)" = Darwin ]; then there=yes; fi ;;
*)
  echo "gpu.sh: cuda or metal, not $device" >&2
  exit 2
  ;;
esac

if [ $there = no ]; then
  echo "gpu.sh: no $device device answers on this machine. What follows is measured on the CPU: it is no figure of a GPU." >&2
  device=cpu
elif [ ! -x "$BINARY" ]; then
  if [ "$device" = cuda ] && ! command -v nvcc >/dev/null; then
    echo "gpu.sh: $BINARY is missing and nvcc too: build with --features cuda where nvcc is, and set BINARY." >&2
    exit 1
  fi
  cargo build --release --features "$device"
fi
if [ ! -x "$BINARY" ]; then
  echo "gpu.sh: $BINARY is missing: cargo build --release, or set BINARY." >&2
  exit 1
fi
exec "$PYTHON" benches/gpu.py --binary "$BINARY" --device "$device" --out "$OUT" --shapes $SHAPES
