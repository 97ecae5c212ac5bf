#!/bin/sh
# Makes docs/screen.svg, the picture of README.md, and docs/moving.svg, an animation of how one comes there, anew:
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
# The same as an animation, which begins with the unedited text: the edit is written, the prompt run again, and the difference shown.
"$binary" SmolLM2-135M-Instruct --no-session --config "$folder" --device cpu --dtype f32 --chat -p 'What is the capital of France?' -n 12 \
  --shot moving.svg --shot-size 120x32 --shot-seconds 2.5 \
  --shot-keys 'Tab j j j j j j e z e r o : 1 0 0 5 @ m l p _ a c t . 2 4 Enter R b b D'
mv moving.svg "$root/docs/moving.svg"
