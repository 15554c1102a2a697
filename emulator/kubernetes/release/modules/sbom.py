"""What compiled programs are made of and how, as a CycloneDX bill of materials. Pure.

Source: CycloneDX 1.6, JSON; a module's hash is Go's directory hash (golang.org/x/mod/sumdb/dirhash), which is a SHA-256
over the names and SHA-256 of its files, and stands here in hexadecimal as other tools for Go write it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from emulator.kubernetes.release.modules.go_build import SETTINGS
from emulator.kubernetes.release.modules.module_set import GoModule, ModuleSet, Program, ToolchainPin

SBOM_PATH = "sbom/bom.cdx.json"
_ROOT = "release"
# Go's standard library is in every program, and in no go.sum: the toolchain brings it.
_STANDARD_LIBRARY = "pkg:golang/std"


@dataclass(frozen=True, slots=True)
class Made:
    """What a build gave: `digests` are the SHA-256 of the programs (hexadecimal), `linked` the hash by package URL of
    the modules in each, `packages` the versions of Debian's packages whose files are in the release."""

    digests: Mapping[str, str]
    linked: Mapping[str, Mapping[str, str]]
    packages: Mapping[str, str]


def bill_of_materials(name: str, version: str, modules: ModuleSet, made: Made) -> str:
    """JSON text; the same for the same build, so that it says nothing of when and where.

    Args:
        name: of what is described, such as `kubernetes`.
        version: of it.
        modules: what was compiled.
        made: what came of it.
    """
    programs = {program.name: _program(module, program, made) for module, program in modules.programs()}
    standard = f"{_STANDARD_LIBRARY}@{modules.toolchain.version}"
    linked = {url: digest for each in made.linked.values() for url, digest in each.items()}
    debian = {package: _debian(package, has) for package, has in sorted(made.packages.items())}
    components = [*programs.values(), *(_module(url, linked[url]) for url in sorted(linked))]
    components += [_library(standard, "std", modules.toolchain.version), *debian.values()]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "lifecycles": [{"phase": "build"}],
            "component": {"type": "application", "bom-ref": _ROOT, "name": name, "version": version},
        },
        "components": components,
        "dependencies": [
            {"ref": _ROOT, "dependsOn": [each["bom-ref"] for each in (*programs.values(), *debian.values())]},
            *(
                {"ref": programs[program]["bom-ref"], "dependsOn": [standard, *sorted(made.linked[program])]}
                for program in programs
            ),
        ],
        "formulation": [_formula(modules)],
    }
    return json.dumps(document, indent=1) + "\n"


def _program(module: GoModule, program: Program, made: Made) -> dict[str, Any]:
    return {
        "type": "application",
        "bom-ref": f"program/{program.name}",
        "name": program.name,
        **({"version": module.version} if module.version else {}),
        "hashes": [{"alg": "SHA-256", "content": made.digests[program.name]}],
    }


def _module(url: str, digest: str) -> dict[str, Any]:
    path, _, version = url.removeprefix("pkg:golang/").rpartition("@")
    content = base64.b64decode(digest.removeprefix("h1:")).hex()
    return {
        **_library(url, unquote(path), unquote(version)),
        "hashes": [{"alg": "SHA-256", "content": content}],
        "properties": [{"name": "go.sum", "value": digest}],
    }


def _debian(package: str, version: str) -> dict[str, Any]:
    return _library(f"pkg:deb/debian/{quote(package)}@{quote(version)}?arch=amd64", package, version)


def _library(url: str, name: str, version: str) -> dict[str, Any]:
    return {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url}


def _formula(modules: ModuleSet) -> dict[str, Any]:
    """How the programs came to be: the toolchain, and what it was called with."""
    steps = [
        {"name": program.name, "commands": [{"executed": _command(module, program)}]}
        for module, program in modules.programs()
    ]
    settings = [{"name": name, "value": value} for name, value in sorted(SETTINGS.items())]
    return {
        "bom-ref": "build",
        "components": [_toolchain(modules.toolchain)],
        "workflows": [
            {
                "bom-ref": "build/compile",
                "uid": f"sha256:{modules.digest}",
                "name": "compile",
                "taskTypes": ["build"],
                "steps": steps,
                "properties": settings,
            }
        ],
    }


def _toolchain(pin: ToolchainPin) -> dict[str, Any]:
    return {
        "type": "application",
        "bom-ref": pin.purl,
        "name": pin.name,
        "version": pin.version,
        "purl": pin.purl,
        "hashes": [{"alg": "SHA-256", "content": pin.sha256}],
    }


def _command(module: GoModule, program: Program) -> str:
    return f'go build -ldflags "{module.linker_flags}" -o {program.name} {program.package}'
