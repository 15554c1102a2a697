#!/usr/bin/env bash
# Installs what hyperscaler needs: Debian packages (as root or with sudo), then Python packages into .venv, in the
# versions of constraints/ and checked against its checksums. Safe to run again: it leaves alone what is there, and then
# takes well under a second and asks neither apt nor a package index.
#
#   scripts/setup.sh          what a host needs (constraints/host.txt)
#   scripts/setup.sh dev      and what the tests need (constraints/dev.txt)
set -euo pipefail
cd "$(dirname "$0")/.."
extra=${1:-host}
began=$SECONDS
say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# ---------------------------------------------------------------- Debian packages
list=scripts/system-packages.txt
mapfile -t required < <(grep -v '# optional' "$list" | sed 's/#.*//' | awk 'NF { print $1 }')
mapfile -t optional < <(grep '# optional' "$list" | sed 's/#.*//' | awk 'NF { print $1 }')
# All installed packages, and what these provide in place of another: `qemu-kvm (= 1:10.2), qemu-system-x86:any`.
installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}, ${Provides}\n' 2>/dev/null |
  sed -n 's/^installed //p' | tr ',' '\n' | sed 's/(.*//; s/:.*//; s/[[:space:]]//g')
# Optional packages that this release does not have, so that apt is asked for them once and not in every run.
absent=.venv/.absent-packages
is_there() { grep -qxF "$1" <<<"$installed"; }
is_absent() { [ -e "$absent" ] && grep -qx "$1" "$absent"; }

missing=() wanted=()
for package in "${required[@]}"; do is_there "$package" || missing+=("$package"); done
for package in "${optional[@]}"; do is_there "$package" || is_absent "$package" || wanted+=("$package"); done
if [ $((${#missing[@]} + ${#wanted[@]})) -gt 0 ]; then
  say "installing Debian packages (a few minutes on a fresh machine): ${missing[*]} ${wanted[*]}"
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "run as root, or install sudo, to install them"
    as_root=(sudo)
  fi
  "${as_root[@]}" apt-get update -q
  install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-remove --no-install-recommends)
  if [ ${#missing[@]} -gt 0 ]; then "${install[@]}" "${missing[@]}" >/dev/null; fi
  # --no-remove: what is in the way of a package is for the admin to decide. One by one: apt installs all that it is asked for or nothing, and not every release has them.
  not_found=()
  for package in "${wanted[@]}"; do
    "${install[@]}" "$package" >/dev/null && continue
    say "without $package, which labs do not need" >&2
    not_found+=("$package")
  done
else
  say "all Debian packages are there"
  not_found=()
fi

# ---------------------------------------------------------------- Python packages
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  fail "Python 3.11 or newer is needed; set PYTHON to one"
}
# What an installation depends on: a change of any of it installs again.
stamp() { echo ".venv/.installed-$1-$(cat pyproject.toml scripts/setup.sh constraints/{build,"$1"}.txt | sha256sum | cut -c1-16)"; }
if [ ! -e "$(stamp "$extra")" ]; then
  count=$(grep -c '==' "constraints/$extra.txt")
  say "installing $count Python packages into .venv (one to three minutes, most of them for the download)"
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  pip=(.venv/bin/python -m pip --disable-pip-version-check --quiet install)
  "${pip[@]}" --require-hashes --requirement constraints/build.txt
  # What has no wheel is built with these tools, not with others that pip would fetch unchecked.
  "${pip[@]}" --require-hashes --no-build-isolation --requirement "constraints/$extra.txt"
  "${pip[@]}" --no-deps --no-index --no-build-isolation --editable .
  rm -f .venv/.installed-*
  touch "$(stamp "$extra")"
  # The tests' packages contain a host's, in the same versions.
  if [ "$extra" = dev ]; then touch "$(stamp host)"; fi
else
  say "all Python packages are there"
fi
if [ ${#not_found[@]} -gt 0 ]; then printf '%s\n' "${not_found[@]}" >>"$absent"; fi
say "done after $((SECONDS - began)) s; the command is $PWD/.venv/bin/hyperscaler"
