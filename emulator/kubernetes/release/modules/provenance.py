"""What is in the programs that were compiled, by the programs' own word, and the record of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from emulator.core.ports import ProcessRunner
from emulator.kubernetes.release.modules.module_set import ModuleSet, ToolchainPin, linked_modules
from emulator.kubernetes.release.modules.sbom import SBOM_PATH, Made, bill_of_materials
from emulator.kubernetes.release.release import describe_file

# `go version` reads the files and runs nothing; the deadline is for a broken program.
_LIST_TIMEOUT = 60.0


def linked_programs(
    runner: ProcessRunner, goroot: Path, compiled: Path, modules: ModuleSet
) -> dict[str, dict[str, str]]:
    """By program, hash by package URL of every module that is linked into it.

    Args:
        runner: for `go version`.
        goroot: the toolchain.
        compiled: directory of the programs.
        modules: what was compiled.

    Raises:
        CommandError: a file is no program of Go's.
    """
    linked = {}
    for _, program in modules.programs():
        argv = [str(goroot / "bin/go"), "version", "-m", str(compiled / program.name)]
        linked[program.name] = linked_modules(runner.run(argv, timeout=_LIST_TIMEOUT).stdout)
    return linked


def packages_of(linked: Mapping[str, Mapping[str, str]], toolchain: ToolchainPin) -> dict[str, str]:
    """Hash by package URL of the toolchain and of all that was linked, each once."""
    return {toolchain.purl: f"sha256:{toolchain.sha256}", **_merged(linked.values())}


def _merged(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return dict(sorted((url, digest) for part in parts for url, digest in part.items()))


def made_of(
    compiled: Path, modules: ModuleSet, linked: Mapping[str, Mapping[str, str]], packages: Mapping[str, str]
) -> Made:
    """What a build gave; the programs are read for their checksums."""
    digests = {program.name: describe_file(compiled / program.name).sha256 for _, program in modules.programs()}
    return Made(digests, linked, packages)


def write_sbom(stage: Path, name: str, version: str, modules: ModuleSet, made: Made, *, file: str = SBOM_PATH) -> None:
    """The bill of materials of what is in `stage`, for `bill_of_materials`; `file` is its path there."""
    path = stage / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(bill_of_materials(name, version, modules, made), encoding="utf-8")
