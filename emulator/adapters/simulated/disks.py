"""Simulated disks: small JSON files instead of qcow2 overlays."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path

from emulator.adapters.simulated.calls import CallHook
from emulator.core.errors import ConflictError, DamagedDiskError, HyperscalerError
from emulator.core.fs import replace_file

_FORMAT = "hyperscaler-simulated-overlay"
_MAGIC = f'{{"format": "{_FORMAT}"'


class SimulatedDisks:
    """`DiskTool` with the rules of qemu-img: no overwriting, no shrinking, and the base must exist."""

    def __init__(self, *, hook: CallHook | None = None) -> None:
        self._hook = hook or CallHook()

    def create_overlay(self, path: Path, *, base: Path, size_gib: int) -> None:
        with self._hook.around("create_overlay"):
            if path.exists() or path.is_symlink():
                raise ConflictError("the disk exists already", where=str(path))
            if not base.is_file():
                raise HyperscalerError("the golden image is missing", where=str(base))
            inherited = _read(base)
            least = inherited[1] if inherited else 0
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(path, base.absolute(), max(size_gib, least), uuid.uuid4().hex)

    def freeze(self, path: Path, frozen: Path) -> None:
        with self._hook.around("freeze"):
            self._require(path)
            if frozen.exists():
                if backing_of(path) == frozen.absolute():
                    return
                frozen.unlink()
            frozen.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.link(path, frozen)
            frozen.chmod(0o400)
        self.rewind(path, base=frozen)

    def rewind(self, path: Path, *, base: Path) -> None:
        with self._hook.around("rewind"):
            size = self._require(base)[1]
            _write(path, base.absolute(), size, uuid.uuid4().hex)

    def resize(self, path: Path, *, size_gib: int) -> None:
        with self._hook.around("resize"):
            base, size, data = self._require(path)
            if size_gib < size:
                raise HyperscalerError(f"the disk has {size} GiB and cannot shrink to {size_gib} GiB", where=str(path))
            _write(path, base, size_gib, data)

    def size_gib(self, path: Path) -> int:
        with self._hook.around("size_gib"):
            return self._require(path)[1]

    def overlay_base(self, path: Path) -> Path | None:
        with self._hook.around("overlay_base"):
            overlay = backing_of(path) if path.exists() else None
            if overlay is None and path.is_file() and path.read_text(errors="replace").startswith(_MAGIC):
                raise DamagedDiskError("the disk is damaged: its description is truncated", where=str(path))
            return overlay

    @staticmethod
    def _require(path: Path) -> tuple[Path, int, str]:
        overlay = _read(path)
        if overlay is None:
            raise HyperscalerError("the disk is not a qcow2", where=str(path))
        return overlay


def backing_of(path: Path) -> Path | None:
    """The base of a simulated overlay; None for any other file."""
    overlay = _read(path)
    return overlay[0] if overlay else None


def put_on(path: Path, base: Path) -> None:
    """Let a simulated overlay stand on another base: what lay between is in the overlay from now on."""
    overlay = _read(path)
    if overlay is not None:
        _write(path, base, overlay[1], overlay[2])


def data_of(path: Path) -> str:
    """A token for the data on the disk: a new one for each new disk, kept when the disk grows."""
    overlay = _read(path)
    return overlay[2] if overlay else ""


def _read(path: Path) -> tuple[Path, int, str] | None:
    """Base, size in GiB and data; None if the file is absent or something else."""
    try:
        data = json.loads(path.read_text()[:65536])
    except (OSError, ValueError):
        return None
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        return None
    return Path(data["base"]), int(data["size_gib"]), str(data.get("data", ""))


def _write(path: Path, base: Path, size_gib: int, data: str) -> None:
    text = json.dumps({"format": _FORMAT, "base": str(base), "size_gib": size_gib, "data": data})
    replace_file(path, text.encode(), ending=".partial")
