#!/usr/bin/env bash
# Sets up .venv and runs the tests; arguments go to pytest.
#   tools/test.sh           everything
#   tools/test.sh --fast    the fast core, which tells most faults in two minutes
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/setup.sh
setup_venv dev
install_for_tests
if [ "${1:-}" = "--fast" ]; then
  shift
  exec python -m pytest -rs -m "not slow" "$@"
fi
exec python -m pytest -rs "$@"
