#!/usr/bin/env bash
# Installs what hyperscaler needs: Debian packages (as root or with sudo), then Python packages into .venv.
# Safe to run again: what is there already is left alone.
set -euo pipefail
cd "$(dirname "$0")/.."

list=scripts/system-packages.txt
mapfile -t wanted < <(grep -v '# optional' "$list" | sed 's/#.*//' | awk 'NF { print $1 }')
mapfile -t optional < <(grep '# optional' "$list" | sed 's/#.*//' | awk 'NF { print $1 }')
is_missing() { ! dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }
missing=() lacking=()
for package in "${wanted[@]}"; do
  if is_missing "$package"; then missing+=("$package"); fi
done
for package in "${optional[@]}"; do
  if is_missing "$package"; then lacking+=("$package"); fi
done
if [ ${#missing[@]} -gt 0 ] || [ ${#lacking[@]} -gt 0 ]; then
  echo "setup: installing Debian packages: ${missing[*]} ${lacking[*]}"
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "setup: run as root, or install sudo, to install them" >&2; exit 1; }
    as_root=(sudo)
  fi
  "${as_root[@]}" apt-get update -q
  install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends)
  if [ ${#missing[@]} -gt 0 ]; then "${install[@]}" "${missing[@]}" >/dev/null; fi
  # One by one: apt installs all that it is asked for or nothing, and not every release has them.
  for package in "${lacking[@]}"; do
    "${install[@]}" "$package" >/dev/null || echo "setup: without $package, which labs do not need" >&2
  done
else
  echo "setup: all Debian packages are there"
fi

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "setup: Python 3.11 or newer is needed; set PYTHON to one" >&2
  exit 1
}
extras=${1:-}
stamp=.venv/.installed-$(cat pyproject.toml scripts/setup.sh | sha256sum | cut -c1-16)${extras:+-dev}
if [ ! -e "$stamp" ]; then
  echo "setup: installing Python packages into .venv"
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install -qq --disable-pip-version-check --editable ".${extras}"
  rm -f .venv/.installed-*
  touch "$stamp"
else
  echo "setup: all Python packages are there"
fi
echo "setup: done; the command is $PWD/.venv/bin/hyperscaler"
