#!/usr/bin/env bash
# Installs the units, the user and the folders; run it again after an update. Starts and enables nothing.
#   sudo systemd/install.sh
# DESTDIR=FOLDER installs into a tree and leaves the running system alone.
set -euo pipefail
cd "$(dirname "$0")"

lib="${DESTDIR:-}/usr/local/lib"
install -d "$lib/systemd/system" "$lib/sysusers.d" "$lib/tmpfiles.d"
install -m 644 linescan.target linescan-*.service "$lib/systemd/system/"
install -m 644 linescan.sysusers "$lib/sysusers.d/linescan.conf"
install -m 644 linescan.tmpfiles "$lib/tmpfiles.d/linescan.conf"

version="$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')"
dropins="$lib/systemd/system/linescan-acquire@.service.d"
rm -f "$dropins/growing-pauses.conf"
if [ "${version:-0}" -ge 254 ]; then
  install -d "$dropins"
  install -m 644 254/growing-pauses.conf "$dropins/"
fi

[ -z "${DESTDIR:-}" ] || exit 0
systemd-sysusers linescan.conf
systemd-tmpfiles --create linescan.conf
systemctl daemon-reload
