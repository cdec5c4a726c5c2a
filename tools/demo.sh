#!/usr/bin/env bash
# Sets up .venv, then runs a live line against a simulated camera, and the same footage through linescan-replay.
#   tools/demo.sh [OUTPUT]    default out/demo; the line works in out/line
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/setup.sh
setup_venv
out="${1:-out/demo}"

camera=()
if ! tools/simulator/build.sh; then
  echo "no simulated camera without a C compiler: the footage is played into the line instead"
  camera=(--without-camera)
fi
echo "a live line: camera, acquire, worker, publisher, PLC, and a subscriber that prints"
python tools/live_demo.py "${camera[@]}"

echo
echo "the same footage by linescan-replay:"
linescan-replay tools/demo/plain --recipe config/recipes/weave.toml --output "$out" --quiet
echo "against the defects that were planted (docs/acceptance.md):"
python tools/score.py "$out/events.jsonl" tools/demo/plain/defects.json --columns 640 --demand
echo "look at $out/web.png: the defects are outlined in red"
