#!/usr/bin/env bash
# Makes the container tree in which tests/test_systemd.py boots a real systemd with linescan's units.
#   tools/systemd_root.sh [ROOT]     default: build/systemd-root; made once, some 300 MB, kept
# Exits 77, with the reason on stderr, where such a tree cannot be made (not root, not Debian, packages missing).
# PYTHON is the interpreter whose environment the container runs (default: the project's .venv).
#
# linescan lies in the container as it does on a line, under /opt/linescan: the interpreter, the packages and this
# checkout are mounted there by the test, read-only, and what they need of /usr/lib is copied here.
set -euo pipefail
cd "$(dirname "$0")/.."

root="$(realpath --canonicalize-missing "${1:-build/systemd-root}")"
python="${PYTHON:-$PWD/.venv/bin/python}"

unavailable() {
  echo "$1" >&2
  exit 77
}

# install_debian PACKAGE...   those that are missing
install_debian() {
  local package missing=()
  for package in "$@"; do
    dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
      missing+=("$package")
  done
  [ "${#missing[@]}" = 0 ] && return
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}"; } >/dev/null ||
    unavailable "cannot install ${missing[*]}"
}

# the system libraries that the interpreter and its packages are linked with, and the tree lacks
copy_libraries() {
  local base packages library libraries target
  base="$("$python" -c 'import sys; print(sys.base_prefix)')"
  packages="$("$python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"
  libraries="$({ echo "$("$python" -c 'import sys; print(sys._base_executable)')"
    find "$base/lib/$("$python" -c 'import sys; print(f"python3.{sys.version_info[1]}")')/lib-dynload" "$packages" \
      -name '*.so*' -type f; } | LD_LIBRARY_PATH="$base/lib" xargs ldd 2>/dev/null |
    awk -v packages="$packages" '$2 == "=>" && $3 ~ /^\// && index($3, packages) != 1 {print $3}' | sort -u)"
  target="$root/usr/lib/$(gcc -print-multiarch 2>/dev/null || echo "$(uname -m)-linux-gnu")"
  for library in $libraries; do
    [ -e "$target/$(basename "$library")" ] || cp --dereference "$library" "$target/"
  done
}

[ "$(id -u)" = 0 ] || unavailable "a container tree is made by root only"
command -v apt-get >/dev/null || unavailable "a container tree is made with Debian's packages; there is no apt-get"
# shellcheck disable=SC1091
. /etc/os-release
[ "$ID" = debian ] || unavailable "the tree must be of the same Debian release as the interpreter; this is $ID"
install_debian systemd-container debootstrap

mkdir -p "$(dirname "$root")"
exec 9>"$root.lock"
flock 9 # two test runs may want it at the same time
wanted="$VERSION_CODENAME $(realpath "$python") $(cksum < tools/constraints.txt) $(cksum < tools/systemd_root.sh)"
[ "$(cat "$root.made" 2>/dev/null)" = "$wanted" ] && exit 0
rm -rf --one-file-system "$root" "$root.made"
mkdir -p "$root"
mirror="$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
  awk -v codename="$VERSION_CODENAME" '$2 == codename {print $1; exit}')"
debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,procps \
  "$VERSION_CODENAME" "$root" ${mirror:+"$mirror"} > "$root.log" 2>&1 ||
  unavailable "debootstrap failed; see $root.log"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
copy_libraries
echo "$wanted" > "$root.made"
