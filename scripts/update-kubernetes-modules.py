#!/usr/bin/env python3
"""Writes the pins of a minor version of Kubernetes (`config/kubernetes/modules/MINOR/*/go.mod` and `go.sum`) anew.

    make kubernetes-modules MINOR=1.37                                the newest patch release of everything
    make kubernetes-modules MINOR=1.37 ARGS=kubernetes=1.37.3         that one, the rest as it is

Add-ons have one directory for all minor versions, and are renewed with any of them.

Kubernetes decides what etcd and CoreDNS it is made with: its kubeadm says so. The others are the newest releases whose
own go.mod the pinned Go toolchain can build. A new minor version, older or newer, starts with the files of the newest
one that is there.
Look at what has changed (`git diff`) before you commit it: from then on these hashes are what is trusted.

Modules come from GOPROXY, the toolchain from the package index that pip is configured for.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from emulator.adapters.system.process import HostProcess
from emulator.kubernetes.release.modules.module_set import (
    PROGRAMS_FILE,
    TOOLCHAIN_FILE,
    read_toolchain_pin,
    required_version,
)
from emulator.kubernetes.release.modules.toolchain import Toolchain

MODULES = Path(__file__).parents[1] / "config/kubernetes/modules"
KUBERNETES = "k8s.io/kubernetes"
# Where kubeadm keeps the versions that it asks for.
CONSTANTS = "cmd/kubeadm/app/constants/constants.go"
ASKED_FOR = {"etcd": r'DefaultEtcdVersion = "([0-9.]+)', "coredns": r'CoreDNSVersion = "v([0-9.]+)"'}
# Releases of these belong to a minor version of Kubernetes.
OF_THE_MINOR = ("kubernetes", "cri-tools")


class Go:
    """The pinned toolchain, with caches of its own."""

    def __init__(self, work: Path) -> None:
        pin = read_toolchain_pin(MODULES / TOOLCHAIN_FILE)
        self._root = Toolchain(pin, work / "toolchain", HostProcess()).provide(print)
        self._environment = {
            **os.environ,
            "GOROOT": str(self._root),
            "GOPATH": str(work / "gopath"),
            "GOCACHE": str(work / "cache"),
            "GOFLAGS": "-mod=mod -modcacherw",
            "GOTOOLCHAIN": "local",
            "GOWORK": "off",
            # Offline mirrors of modules have no checksum database; the diff is what is looked at.
            "GOSUMDB": os.environ.get("GOSUMDB", "off"),
        }

    def _started(self, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        command = [self._root / "bin/go", *words]
        return subprocess.run(command, cwd=cwd, env=self._environment, capture_output=True, text=True, check=False)

    def run(self, *words: str, cwd: Path) -> str:
        done = self._started(*words, cwd=cwd)
        if done.returncode != 0:
            sys.exit(f"go {' '.join(words)} failed in {cwd}:\n{done.stderr[-3000:]}")
        return done.stdout

    def download(self, module: str, version: str, cwd: Path) -> Path:
        """Directory of a module's source."""
        return Path(json.loads(self.run("mod", "download", "-json", f"{module}@v{version}", cwd=cwd))["Dir"])

    def releases(self, module: str, cwd: Path) -> list[str]:
        """Versions without pre-releases, newest first."""
        found = self.run("list", "-m", "-versions", module, cwd=cwd).split()[1:]
        return [version[1:] for version in reversed(found) if re.fullmatch(r"v\d+\.\d+\.\d+", version)]

    def releases_of_minor(self, module: str, minor: str, cwd: Path) -> list[str]:
        """Releases of one minor version, newest first. A mirror may list only what it was asked for before, so that
        those after the last one listed are asked for by number."""
        found = [each for each in self.releases(module, cwd) if each.startswith(f"{minor}.")]
        patch = int(found[0].rpartition(".")[2]) + 1 if found else 0
        while self.can_build(module, f"{minor}.{patch}", cwd):
            found.insert(0, f"{minor}.{patch}")
            patch += 1
        return found

    def can_build(self, module: str, version: str, cwd: Path) -> bool:
        """Whether the module's own go.mod asks for no newer Go: this one refuses even to fetch it then."""
        return self._started("mod", "download", "-json", f"{module}@v{version}", cwd=cwd).returncode == 0


def chosen_versions(
    go: Go, entries: list[dict[str, Any]], minor: str, given: Mapping[str, str], work: Path
) -> dict[str, str]:
    """Version of each module: as given, as Kubernetes asks for it, or the newest that can be built."""
    versions: dict[str, str] = {}
    for entry in entries:
        name, module = entry["name"], entry["version_of"]
        if name in given:
            versions[name] = given[name]
        elif name in ASKED_FOR:
            source = go.download(KUBERNETES, versions["kubernetes"], work)
            match = re.search(ASKED_FOR[name], (source / CONSTANTS).read_text())
            if match is None:
                sys.exit(f"kubeadm no longer says which {name} it asks for in {CONSTANTS}")
            versions[name] = match[1]
        else:
            of_minor = name in OF_THE_MINOR
            fitting = go.releases_of_minor(module, minor, work) if of_minor else go.releases(module, work)
            newest = next((each for each in fitting if go.can_build(module, each, work)), None)
            if newest is None:
                sys.exit(f"no release of {module} fits")
            versions[name] = newest
    return versions


def place_of(minor: str, name: str) -> Path:
    """Directory of a module: one for all minor versions, or one for each."""
    return MODULES / name if (MODULES / name).is_dir() else MODULES / minor / name


def staging_modules(go: Go, version: str, directory: Path) -> list[str]:
    """What Kubernetes has in its own repository has releases of its own, with 0 for 1."""
    text = (go.download(KUBERNETES, version, directory) / "go.mod").read_text()
    return re.findall(r"^\t(\S+) => \./staging/", text, re.MULTILINE)


def write_module(go: Go, name: str, module: str, version: str, directory: Path) -> None:
    """go.mod and go.sum of one project."""
    lines = [f"module hyperscaler.invalid/{name}", "", "go 1.26.0", ""]
    if module == KUBERNETES:
        lines += ["godebug default=go1.26", ""]
    lines += [f"require {module} v{version}", ""]
    if module == KUBERNETES:
        staging = staging_modules(go, version, directory)
        lines += ["replace (", *(f"\t{each} => {each} v0.{version.partition('.')[2]}" for each in staging), ")", ""]
    (directory / "go.sum").unlink(missing_ok=True)
    (directory / "go.mod").write_text("\n".join(lines))
    # -e: the programs are of package main, which no one imports, by Go's rules.
    go.run("mod", "tidy", "-e", cwd=directory)


def with_libraries_of(go: Go, kubernetes: str, directory: Path) -> None:
    """Client libraries of this version of Kubernetes, which its own programs are compiled with, in a module."""
    required = set(
        re.findall(r"^\t(k8s\.io/\S+) v0\.\d+\.\d+(?: |$)", (directory / "go.mod").read_text(), re.MULTILINE)
    )
    libraries = sorted(required & set(staging_modules(go, kubernetes, directory)))
    go.run("get", *(f"{each}@v0.{kubernetes.partition('.')[2]}" for each in libraries), cwd=directory)
    go.run("mod", "tidy", "-e", cwd=directory)


def main() -> None:
    if len(sys.argv) < 2 or not re.fullmatch(r"1\.\d+", sys.argv[1]):
        sys.exit(__doc__)
    minor = sys.argv[1]
    given = dict(word.split("=", 1) for word in sys.argv[2:])
    document = yaml.safe_load((MODULES / PROGRAMS_FILE).read_text(encoding="utf-8"))
    entries = [entry for entry in document["modules"] if "version_of" in entry]
    unknown = set(given) - {entry["name"] for entry in entries}
    if unknown:
        sys.exit(f"no such module: {', '.join(sorted(unknown))}")
    there = sorted((path for path in MODULES.glob("1.*")), key=lambda path: int(path.name.partition(".")[2]))
    if not (MODULES / minor).is_dir():
        shutil.copytree(there[-1], MODULES / minor)
    elif given:
        renewed = {*given, *(ASKED_FOR if "kubernetes" in given else ())}
        entries = [entry for entry in entries if entry["name"] in renewed]
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        (work / "go.mod").write_text("module hyperscaler.invalid/scratch\n\ngo 1.26.0\n")
        go = Go(work)
        for name, version in chosen_versions(go, entries, minor, given, work).items():
            module = next(entry["version_of"] for entry in entries if entry["name"] == name)
            print(f"{place_of(minor, name).relative_to(MODULES)}: {module} v{version}", flush=True)
            write_module(go, name, module, version, place_of(minor, name))
            if next(entry for entry in entries if entry["name"] == name).get("libraries") == "kubernetes":
                newest = (there[-1] if there else MODULES / minor) / "kubernetes/go.mod"
                with_libraries_of(go, required_version(newest.read_text(), KUBERNETES), place_of(minor, name))
        # Programs of our own follow the newest minor version, too.
        own = [each["name"] for each in document["modules"] if each.get("libraries") and "version_of" not in each]
        newest = (there[-1] if there else MODULES / minor) / "kubernetes/go.mod"
        for name in [] if given else own:
            with_libraries_of(go, required_version(newest.read_text(), KUBERNETES), MODULES / name)


if __name__ == "__main__":
    main()
