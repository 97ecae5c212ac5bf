#!/bin/sh
# Makes docs/screen.svg, the picture of README.md, anew:
#
#     docs/picture.sh FOLDER      FOLDER: HuggingFaceTB/SmolLM2-135M-Instruct, downloaded
#
# It runs one chat turn with one neuron of layer 24 silenced, and shows the lens less that of the unedited run. The picture is drawn
# by the program's own exporter. BINARY names another build than the release build of this tree.
set -eu
model=$(cd "${1:?names no model folder}" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
[ -n "${BINARY:-}" ] || cargo build --release --locked --manifest-path "$root/Cargo.toml"
binary=${BINARY:-${CARGO_TARGET_DIR:-$root/target}/release/lmscope}
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
ln -s "$model" "$folder/SmolLM2-135M-Instruct"
cd "$folder"
"$binary" SmolLM2-135M-Instruct --no-session --config "$folder" --device cpu --dtype f32 --chat -p 'What is the capital of France?' -n 12 \
  --edit zero:1005@mlp_act.24 --shot screen.svg --shot-size 120x32 --shot-keys 'D End h h h'
mv screen.svg "$root/docs/screen.svg"
