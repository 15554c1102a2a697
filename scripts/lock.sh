#!/usr/bin/env bash
# Writes constraints/*.txt anew from pyproject.toml: the newest versions that fit together, for every Python that the
# program supports, with the checksums of their files. `make lock` calls it and keeps every version that still fits;
# `make lock ARGS=--upgrade` takes the newest of all, `make lock ARGS='--upgrade-package rich'` that of one package.
#
# Packages come from the index that pip is configured for; no file names it. libvirt-python has no wheels: its checksum
# is that of the source archive, which is compiled during installation.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
echo "lock: installing uv, which resolves versions, into a directory of its own"
"${PYTHON:-python3}" -m venv "$tools"
"$tools/bin/pip" install -qq --disable-pip-version-check "uv>=0.9,<1"
# uv does not read pip's configuration.
index=$("$tools/bin/pip" config get global.index-url 2>/dev/null || true)
index=${PIP_INDEX_URL:-$index}
if [ -n "$index" ] && [ -z "${UV_DEFAULT_INDEX:-}" ]; then export UV_DEFAULT_INDEX=$index; fi

# Arguments: the file to write, then what uv takes. What the file has already is kept, unless --upgrade says otherwise.
compile() {
  local file=constraints/$1
  shift
  "$tools/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-binary libvirt-python \
    --custom-compile-command "make lock" --output-file "$file" "$@"
}
# The widest first: the others follow it, so that a package has one version everywhere.
compile dev.txt --extra dev "$@" pyproject.toml
compile host.txt --extra host --constraint constraints/dev.txt pyproject.toml
compile laptop.txt --constraint constraints/dev.txt pyproject.toml
compile build.txt --constraint constraints/dev.txt constraints/build.in
grep -c '^[a-z].*==' constraints/*.txt | sed 's/^\(.*\):\(.*\)/lock: \1 has \2 packages/'
