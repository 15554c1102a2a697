"""Disks by qemu-img."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path

from emulator.adapters.system.process import command_error
from emulator.core.errors import ConflictError, DamagedDiskError, HyperscalerError
from emulator.core.fs import sync, unfinished
from emulator.core.ports import Completed, ProcessRunner
from emulator.core.units import GIB

# Creating and inspecting touch only headers; a minute means that the storage hangs.
_TIMEOUT = 60.0

# The end of refusals that come from the kernel (disk error, lack of memory or permission), not from the format.
_KERNEL_SAYS = tuple(os.strerror(number) for number in errno.errorcode)


class QemuImg:
    """`DiskTool` on qemu-img.

    Paths are made absolute before qemu-img sees them: a name such as `json:{...}` or `nbd:host` is a block
    driver to QEMU, an absolute path never is.
    """

    def __init__(self, runner: ProcessRunner) -> None:
        self._runner = runner

    def create_overlay(self, path: Path, *, base: Path, size_gib: int) -> None:
        """See `DiskTool.create_overlay`; a missing directory of `path` is created (0700).

        Raises:
            ConflictError: `path` exists; a disk is never overwritten.
            HyperscalerError: `base` is missing or not a qcow2.
        """
        target, backing = path.absolute(), base.absolute()
        if os.path.lexists(target):
            raise ConflictError("the disk exists already", where=str(target))
        size = max(size_gib * GIB, self._virtual_size(backing))
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = unfinished(target, ".partial")  # qemu-img writes it, so `replacing` cannot
        partial.unlink(missing_ok=True)
        try:
            # The backing format is given: with probing, a guest that writes a qcow2 header into a raw disk could read
            # any file of the host.
            self._runner.run(
                ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing, partial, str(size)],
                timeout=_TIMEOUT,
            )
            partial.chmod(0o600)
            sync(partial)
            partial.rename(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync(target.parent)

    def freeze(self, path: Path, frozen: Path) -> None:
        """See `DiskTool.freeze`. The disk has both names for a moment; then the overlay takes the first one."""
        target, kept = path.absolute(), frozen.absolute()
        if kept.exists():
            if self.overlay_base(target) == kept:
                return
            kept.unlink()  # the second name of a disk whose overlay was not made
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.link(target, kept, follow_symlinks=False)
        kept.chmod(0o400)
        sync(kept.parent)
        self.rewind(target, base=kept)

    def rewind(self, path: Path, *, base: Path) -> None:
        """See `DiskTool.rewind`.

        Raises:
            HyperscalerError: `base` is not a qcow2.
        """
        target, backing = path.absolute(), base.absolute()
        size = self._size(backing)
        partial = unfinished(target, ".partial")
        partial.unlink(missing_ok=True)
        try:
            # -u: QEMU's account could write the header of the base, so root opens nothing that this names.
            command: list[str | Path] = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing]
            self._runner.run([*command, partial, str(size)], timeout=_TIMEOUT)
            partial.chmod(0o600)
            sync(partial)
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync(target.parent)

    def resize(self, path: Path, *, size_gib: int) -> None:
        """Grow the qcow2 at `path`; the same size changes nothing.

        Raises:
            HyperscalerError: the disk is absent or larger; shrinking would cut off the guest's file system.
        """
        target = path.absolute()
        present = self._size(target)
        wanted = size_gib * GIB
        if present > wanted:
            raise HyperscalerError(
                f"the disk has {present // GIB} GiB and cannot shrink to {size_gib} GiB",
                where=str(target),
                fix="keep the size, or remove the node and provision it again",
            )
        if present < wanted:
            self._runner.run(["qemu-img", "resize", "-q", _alone(target), str(wanted)], timeout=_TIMEOUT)
            sync(target)

    def size_gib(self, path: Path) -> int:
        """Virtual size, rounded down to GiB."""
        return self._size(path.absolute()) // GIB

    def overlay_base(self, path: Path) -> Path | None:
        """The backing file of the qcow2 at `path`; None if the file is absent or not an overlay.

        Raises:
            DamagedDiskError: qemu-img has read the file and refuses its format.
            CommandError: qemu-img cannot read the file.
        """
        target = path.absolute()
        if not target.exists():
            return None
        try:
            info = self._info(target)
        except DamagedDiskError:
            if _is_of_another_kind(target):
                return None
            raise
        backing = info.get("full-backing-filename") or info.get("backing-filename")
        if info.get("format") != "qcow2" or not isinstance(backing, str):
            return None
        return Path(backing)

    def _virtual_size(self, base: Path) -> int:
        """Virtual size of the golden image `base` in bytes."""
        if not base.is_file():
            raise HyperscalerError(
                "the golden image is missing", where=str(base), fix="hyperscaler image build, then again"
            )
        return self._size(base)

    def _size(self, path: Path) -> int:
        """Virtual size of the qcow2 at `path` in bytes."""
        info = self._info(path)
        size = info.get("virtual-size")
        if info.get("format") != "qcow2" or not isinstance(size, int):
            raise HyperscalerError("the disk is not a qcow2", where=str(path))
        return size

    def _info(self, path: Path) -> dict[str, object]:
        """qemu-img's description of a file. `-U` ignores the lock of a running guest; reading a header is safe. The
        format is not guessed: in others (VMDK) a guest's user could name files that root would open."""
        command: list[str | Path] = ["qemu-img", "info", "-U", "-f", "qcow2", "--output=json", path]
        done = self._runner.run(command, timeout=_TIMEOUT, check=False)
        if done.returncode != 0 and _refuses_format(done):
            raise DamagedDiskError(f"the disk is damaged: {done.stderr.strip()}", where=str(path))
        if done.returncode != 0:
            raise command_error(done)
        with contextlib.suppress(ValueError, RecursionError):
            info = json.loads(done.stdout)
            if isinstance(info, dict):
                _refuse_data_file(info, path)
                return info
        raise HyperscalerError("qemu-img gave no usable description", where=str(path))


def _is_of_another_kind(path: Path) -> bool:
    """Whether it does not begin as a qcow2 does; what cannot be read is left to qemu-img and its words."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(4) != b"QFI\xfb"
    return False


def _alone(path: Path) -> str:
    """The qcow2 at `path` without its backing file, for qemu-img: QEMU's account, which owns the disk, can write any
    name there, also of a device that does something when it is opened, or of a server. Its size says nothing here: a
    disk is never smaller than the image behind it."""
    file = {"driver": "file", "filename": str(path)}
    return "json:" + json.dumps({"driver": "qcow2", "file": file, "backing": None})


def _refuse_data_file(info: dict[str, object], path: Path) -> None:
    """Raise for a qcow2 whose header names another file as the place of its data.

    We make none like that, and QEMU's account, which owns the disk, can write its header. What root does to such a
    disk, an enlargement for example, it would do to that other file (QEMU, docs/interop/qcow2.txt).
    """
    specific = info.get("format-specific")
    data = specific.get("data") if isinstance(specific, dict) else None
    if isinstance(data, dict) and "data-file" in data:
        raise HyperscalerError(
            "the header of the disk was changed: it names another file for its data",
            where=str(path),
            fix="do not start that node again; save what you need of it, take it out of the lab file and provision",
        )


def _refuses_format(done: Completed) -> bool:
    """Whether qemu-img has read the file and rejected its format; other failures prove nothing about the file."""
    said = done.stderr.strip()
    opened = done.returncode == 1 and said.startswith("qemu-img: Could not open ")
    return opened and not said.endswith(_KERNEL_SAYS) and "driver requires" not in said
