#!/usr/bin/env bash
# Have a Chromium for the browser tests: Debian's without windows where it may be installed, which starts in a tenth of
# the time, else the machine's own.
set -u
if command -v "${CHROMIUM:-chromium-headless-shell}" >/dev/null; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "Installing Debian's chromium-headless-shell for the browser tests …"
  for package in chromium-headless-shell chromium; do
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$package"; } >/dev/null 2>&1 && exit 0
  done
fi
for name in chromium chromium-browser google-chrome; do
  if command -v "$name" >/dev/null; then exit 0; fi
done
echo "Browser tests are left out: no Chromium here. Install one (Debian: apt install chromium-headless-shell) or set CHROMIUM=/path/to/it."
