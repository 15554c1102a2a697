"""Who owns which slice of the host's boards.

A GPU instance carries no mark of its maker, and a lab's journal can be lost; so the owner of each slice and of
each whole board is also written down in one file per host, next to the labs, not inside one.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emulator.apply.handlers.files import write_private
from emulator.errors import StateError

VERSION = 1


class GpuLedger:
    """Keys are `<pci address>/<profile>@<start>` for a slice and `<pci address>` for a whole board."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def owner(self, key: str) -> str | None:
        return self.read().get(key)

    def claim(self, key: str, lab: str) -> None:
        """Raises: StateError when another lab has it."""
        with self._locked():
            owners = self.read()
            if owners.get(key, lab) != lab:
                raise StateError(f"{key} belongs to lab {owners[key]}", where=str(self._path))
            if owners.get(key) != lab:
                self._write({**owners, key: lab})

    def release(self, key: str, lab: str) -> None:
        """Strike the entry out if it is this lab's."""
        with self._locked():
            owners = self.read()
            if owners.get(key) == lab:
                self._write({name: owner for name, owner in owners.items() if name != key})

    def of(self, lab: str) -> tuple[str, ...]:
        return tuple(key for key, owner in self.read().items() if owner == lab)

    def read(self) -> dict[str, str]:
        """All entries.

        Raises:
            StateError: the file is damaged or of a newer version; it is never overwritten then.
        """
        try:
            data = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise StateError(f"cannot be read: {error}", where=str(self._path), fix=self._fix()) from error
        if not isinstance(data, dict) or data.get("version") != VERSION or not isinstance(data.get("owners"), dict):
            raise StateError("not a GPU ledger of this version", where=str(self._path), fix=self._fix())
        return {str(key): str(owner) for key, owner in data["owners"].items()}

    def _fix(self) -> str:
        return "compare `hyperscaler gpu discover` with your labs, then move the file away"

    def _write(self, owners: dict[str, str]) -> None:
        text = json.dumps({"version": VERSION, "owners": owners}, indent=1, sort_keys=True)
        write_private(self._path, text.encode() + b"\n")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = self._path.with_name(f".{self._path.name}.lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
