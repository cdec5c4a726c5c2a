#!/usr/bin/env bash
# Compiles the simulated camera.
#   tools/simulator/build.sh [OUTPUT.cti]     default build/simulator/linescan_sim.cti
#   tools/simulator/build.sh --harness OUTPUT the program that calls every entry point of a producer
#   SANITIZE=1 ...                            with the address and undefined-behaviour sanitizers
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
harness=no
if [ "${1:-}" = --harness ]; then
  harness=yes
  shift
fi
output="${1:-$here/../../build/simulator/linescan_sim.cti}"
compiler="${CC:-cc}"
if ! command -v "$compiler" >/dev/null; then
  echo "build.sh: no C compiler ($compiler): install gcc or clang, or name one in CC" >&2
  exit 69
fi
extra=()
if [ "${SANITIZE:-0}" = 1 ]; then
  extra=(-g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined)
fi
mkdir -p "$(dirname "$output")"
partial="$output.$$.partial"
trap 'rm -f "$partial"' EXIT
flags=(-std=c11 -pthread -O2 -Wall -Wextra -Werror "${extra[@]}")
if [ "$harness" = yes ]; then
  "$compiler" "${flags[@]}" -o "$partial" "$here/harness.c" -ldl
else
  "$compiler" "${flags[@]}" -shared -fPIC -fvisibility=hidden -o "$partial" \
    "$here"/{library,config,modules,ports,features,registers,describe,camera,control,stream,buffers,events,web}.c -lm -ldl
fi
mv "$partial" "$output" # whole or not at all: another build may be loading the old one
