"""Reading a lab file from disk, which may be anything: every refusal is one line, never an exception."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from emulator.labfile.findings import Finding, Severity

# A 500-node lab with a comment on each node is about 100 KiB.
MAX_BYTES = 1024 * 1024


def read_lab_stream(stream: BinaryIO, name: Path) -> tuple[str, None] | tuple[None, Finding]:
    """As `read_lab_file`, from a stream such as standard input; `name` is what findings call it."""
    try:
        data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        return None, _refused(name, f"cannot be read: {error.strerror or error}", "")
    return _decoded(name, data)


def read_lab_file(path: Path) -> tuple[str, None] | tuple[None, Finding]:
    """Text of the file without a byte order mark, or the finding that says why there is none."""
    try:
        # Opening a device or a pipe can block or have effects, so its kind is looked at first.
        kind = os.stat(path).st_mode  # noqa: PTH116 - Path.stat raises for embedded NULs in other ways by version
        if not stat.S_ISREG(kind):
            return None, _refused(path, f"this is {_kind(kind)}, not a file", "name the lab file, such as cluster.yaml")
        data = _read(path)
    except FileNotFoundError:
        return None, _refused(path, "there is no such file", "check the name; `ls *.yaml` lists the candidates here")
    except PermissionError:
        return None, _refused(path, "no permission to read this file", "run as a user who may, or `chmod +r` it")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return None, _refused(path, f"cannot be read: {reason}", "")
    return _decoded(path, data)


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):  # swapped since it was looked at
            raise OSError("not a regular file")
        return stream.read(MAX_BYTES + 1)


def _decoded(path: Path, data: bytes) -> tuple[str, None] | tuple[None, Finding]:
    if len(data) > MAX_BYTES:
        return None, _refused(path, f"larger than the limit of {MAX_BYTES // 1024} KiB", "is this the right file?")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return None, _refused(path, "this is UTF-16 text, and a lab file is UTF-8", "save it as UTF-8")
    if b"\0" in data:
        return None, _refused(path, "this is a binary file, not YAML text", "name the lab file, such as cluster.yaml")
    try:
        return data.decode("utf-8").removeprefix("\ufeff"), None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = len(data[data.rfind(b"\n", 0, error.start) + 1 : error.start].decode("utf-8", "replace")) + 1
        what = f"not UTF-8 text: byte 0x{data[error.start]:02x} fits no character"
        return None, Finding(
            Severity.ERROR, "file.encoding", str(path), line, column, "", what, "save the file as UTF-8"
        )


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def _refused(path: Path, what: str, fix: str) -> Finding:
    return Finding(Severity.ERROR, "file.unusable", str(path), 0, 0, "", what, fix)
