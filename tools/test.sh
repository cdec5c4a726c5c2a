#!/usr/bin/env bash
# Sets up .venv and runs the tests.
#   tools/test.sh           everything
#   tools/test.sh --fast    without the slow ones; those that only compute, which tell most faults, come first (four minutes on two cores)
#   tools/test.sh ARGS…     pytest with these arguments
# Tests that only compute run several at a time, a file in one process; those that live in real time (marked `alone`)
# follow one after the other.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
. tools/setup.sh
setup_venv dev || exit
install_for_tests
fast=""
if [ "${1:-}" = "--fast" ]; then
  fast=" and not slow"
  shift
fi
[ $# = 0 ] || exec python -m pytest -rs ${fast:+-m "not slow"} "$@"

if [ -z "$fast" ]; then # what tests/test_systemd.py boots takes minutes to download; the test says why it cannot be had
  tools/systemd_root.sh >/dev/null 2>&1 &
fi
cores="$(getconf _NPROCESSORS_ONLN)"
code=0
# in the files' order: by their number of tests, as is xdist's way, the longest would come last; a process that dies ends
# the run, since with files kept together the rest would wait for it for ever
python -m pytest -rs -n "$((cores < 4 ? cores : 4))" --dist loadfile --no-loadscope-reorder --max-worker-restart 0 \
  -m "not alone$fast" || code=$?
wait
python -m pytest -rs -m "alone$fast" || code=$?
exit "$code"
