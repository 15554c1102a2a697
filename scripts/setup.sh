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

# Runs a command that may take minutes: `watched WHAT COMMAND ...`. What it prints goes to a file; every 20 seconds one
# line says how long it has run and what it prints now, and after a failure the end of it is shown.
log=$(mktemp)
running=
trap 'rm -f "$log"' EXIT
# A command behind a file does not hear Ctrl-C by itself; one that runs as root is left to finish, as apt should be.
trap 'if [ -n "$running" ]; then kill "$running" 2>/dev/null || say "what runs as root is left to finish" >&2; fi; exit 130' INT TERM
pause=${SETUP_PAUSE:-20}
watched() {
  local what=$1 started=$SECONDS pid status=0 next
  shift
  "$@" >"$log" 2>&1 </dev/null &
  pid=$! running=$!
  next=$((SECONDS + pause))
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.2
    [ "$SECONDS" -ge "$next" ] || continue
    next=$((SECONDS + pause))
    say "$what, $((SECONDS - started)) s so far: $(tail -n 1 "$log" | tr -d '\000-\037' | cut -c1-80)"
  done
  wait "$pid" || status=$?
  running=
  if [ "$status" -ne 0 ]; then
    tail -n 20 "$log" >&2
    say "$what: failed after $((SECONDS - started)) s (status $status); its last lines are above" >&2
  fi
  return "$status"
}

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
  say "installing Debian packages, usually in two to five minutes on a fresh machine: ${missing[*]} ${wanted[*]}"
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "run as root, or install sudo, to install them"
    as_root=(sudo)
    sudo -v # asks for the password, if need be, before anything runs behind the file
  fi
  watched "reading the package lists" "${as_root[@]}" apt-get update -q || fail "apt-get update failed"
  # --no-remove: what is in the way of a package is for the admin to decide.
  install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-remove --no-install-recommends)
  if [ ${#missing[@]} -gt 0 ]; then
    watched "installing ${#missing[@]} packages" "${install[@]}" "${missing[@]}" || fail "apt-get install failed"
  fi
  # One by one: apt installs all that it is asked for or nothing, and not every release has them.
  not_found=()
  for package in "${wanted[@]}"; do
    watched "installing $package" "${install[@]}" "$package" 2>/dev/null && continue
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
  say "installing $count Python packages into .venv, usually in one to three minutes, most of them for the download"
  [ -x .venv/bin/python ] || watched "making .venv" "$python" -m venv .venv
  pip=(.venv/bin/python -m pip install --disable-pip-version-check --progress-bar off)
  watched "tools to build with" "${pip[@]}" --require-hashes --requirement constraints/build.txt
  # What has no wheel is built with these tools, not with others that pip would fetch unchecked.
  watched "$count Python packages" \
    "${pip[@]}" --require-hashes --no-build-isolation --requirement "constraints/$extra.txt"
  watched "hyperscaler itself" "${pip[@]}" --no-deps --no-index --no-build-isolation --editable .
  rm -f .venv/.installed-*
  touch "$(stamp "$extra")"
  # The tests' packages contain a host's, in the same versions.
  if [ "$extra" = dev ]; then touch "$(stamp host)"; fi
else
  say "all Python packages are there"
fi
if [ ${#not_found[@]} -gt 0 ]; then printf '%s\n' "${not_found[@]}" >>"$absent"; fi
say "done after $((SECONDS - began)) s; the command is $PWD/.venv/bin/hyperscaler"
