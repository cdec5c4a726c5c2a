# Sourced by demo.sh and test.sh: makes the project's own .venv once, from pinned packages, and activates it.
# setup_venv [extra]   e.g. setup_venv dev

setup_venv() {
  local extra="${1:+[$1]}" root python stamp wanted
  root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
  python="${PYTHON:-python3}"
  "$python" - <<'PY' || { echo "linescan needs Python 3.10 or newer; set PYTHON to one" >&2; return 1; }
import sys
sys.exit(sys.version_info < (3, 10))
PY
  stamp="$root/.venv/.linescan${extra}"
  wanted="$(cat "$root/pyproject.toml" "$root/tools/constraints.txt" | cksum)"
  if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    [ -x "$root/.venv/bin/python" ] || "$python" -m venv "$root/.venv" || {
      echo "cannot make $root/.venv: is the venv module installed (Debian: apt-get install python3-venv)?" >&2; return 1; }
    echo "installing into .venv (once; several hundred MB) ..."
    # torch first and by itself: it comes as a CPU build where the machine's pip offers one, and stays
    "$root/.venv/bin/python" -m pip install --quiet --constraint "$root/tools/constraints.txt" torch || return 1
    "$root/.venv/bin/python" -m pip install --quiet --constraint "$root/tools/constraints.txt" --editable "$root$extra" || return 1
    install_libraries "$root" || return 1
    echo "$wanted" > "$stamp"
  fi
  export PATH="$root/.venv/bin:$PATH"
}

# What tests need beyond Python packages: a compiler for the simulated camera, an MQTT broker. Without root they skip,
# and say so.
install_for_tests() {
  local missing=()
  command -v cc >/dev/null || missing+=(gcc libc6-dev)
  PATH="$PATH:/usr/sbin" command -v mosquitto >/dev/null || missing+=(mosquitto)
  if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null || true
  fi
}

# opencv-python links against libGL and friends, which a bare server lacks
install_libraries() {
  "$1/.venv/bin/python" -c 'import cv2' 2>/dev/null && return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -y -qq libgl1 libglib2.0-0 libxcb1 >/dev/null
  fi
  "$1/.venv/bin/python" -c 'import cv2' || {
    echo "OpenCV cannot be loaded; it needs system libraries (Debian: apt-get install libgl1 libglib2.0-0 libxcb1)" >&2
    return 1; }
}
