"""Who owns what of the host's boards.

A GPU instance carries no mark of its maker, nor does MIG mode, and a lab's journal can be lost; so the owner of
each is also written down in one file per host, next to the labs, not inside one. A claim is written before the
effect and struck out after the removal.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from emulator.apply.handlers.files import write_private
from emulator.errors import ConflictError, StateError

VERSION = 1


def slice_key(pci_address: str, profile: str, start: int) -> str:
    """A GPU instance."""
    return f"{pci_address}/{profile}@{start}"


def mode_key(pci_address: str) -> str:
    """That MIG mode of a board was off before: its owner switches it off again."""
    return f"{pci_address}/mig-mode"


def functions_key(pci_address: str) -> str:
    """That virtual functions of a board were off before: their owner disables them again."""
    return f"{pci_address}/virtual-functions"


def vgpu_key(pci_address: str, uuid: str, function: str) -> str:
    """A vGPU on a virtual function. In the vendor VFIO framework nothing on the host tells whose it is."""
    return f"{pci_address}/vgpu/{uuid}/{function}"


def whole_boards(keys: Iterable[str]) -> tuple[str, ...]:
    """Those of the keys that stand for whole boards: PCI addresses."""
    return tuple(key for key in keys if "/" not in key)


class GpuLedger:
    """Keys are those of the functions above, and `<pci address>` for a whole board; values are names of labs."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def owner(self, key: str) -> str | None:
        return self.read().get(key)

    def claim(self, key: str, lab: str) -> None:
        """Write the lab down as the owner; it may be so already.

        Raises:
            ConflictError: another lab has it.
        """
        with self._locked():
            owners = self.read()
            if owners.get(key, lab) != lab:
                raise ConflictError(
                    f"{key} belongs to lab {owners[key]}",
                    where=str(self._path),
                    fix=f"take another board, or hyperscaler gpu release {owners[key]}",
                )
            if owners.get(key) != lab:
                self._write({**owners, key: lab})

    def release(self, key: str, lab: str) -> None:
        """Strike the entry out if it is this lab's."""
        with self._locked():
            owners = self.read()
            if owners.get(key) == lab:
                self._write({name: owner for name, owner in owners.items() if name != key})

    def pass_on(self, key: str, lab: str, heir: str) -> None:
        """Make `heir` the owner of what was `lab`'s."""
        with self._locked():
            owners = self.read()
            if owners.get(key) == lab:
                self._write({**owners, key: heir})

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
    def layout(self) -> Iterator[None]:
        """Exclusive over all threads and labs of the host: who looks for a free place takes it before others look."""
        with self._flock("layout"):
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._flock("lock"):
            yield

    @contextmanager
    def _flock(self, suffix: str) -> Iterator[None]:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = self._path.with_name(f".{self._path.name}.{suffix}")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
