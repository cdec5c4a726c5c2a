#!/usr/bin/env bash
# Sets up .venv and inspects the shipped footage with the shipped model; shows what was found against what was planted.
#   tools/demo.sh [OUTPUT]    default out/demo
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/setup.sh
setup_venv
out="${1:-out/demo}"
linescan-replay tools/demo/plain --recipe config/recipes/weave.toml --output "$out"
echo
echo "against the defects that were planted (docs/acceptance.md):"
python tools/score.py "$out/events.jsonl" tools/demo/plain/defects.json --columns 640 --demand
echo "look at $out/web.png: the defects are outlined in red"
