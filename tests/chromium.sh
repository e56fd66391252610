#!/usr/bin/env bash
# Have a Chromium for the browser tests: the machine's own, else Debian's where it may be installed.
set -u
for name in "${CHROMIUM:-}" chromium chromium-browser google-chrome; do
  if [ -n "$name" ] && command -v "$name" >/dev/null; then exit 0; fi
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "Installing Debian's chromium for the browser tests …"
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium; } >/dev/null 2>&1 && exit 0
fi
echo "Browser tests are left out: no Chromium here. Install one (Debian: apt install chromium) or set CHROMIUM=/path/to/it."
