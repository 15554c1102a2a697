"""The initial RAM file system: a cpio archive of a static busybox, one script and the drivers of the disk."""

from __future__ import annotations

import lzma
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from emulator.core.errors import HyperscalerError

_TRAILER = "TRAILER!!!"
_DIRECTORIES = ("bin", "dev", "modules", "proc", "root")


@dataclass(frozen=True, slots=True)
class Entry:
    """One member of a cpio archive; `name` has no leading slash, `device` is (major, minor)."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def newc(entries: Iterable[Entry]) -> bytes:
    """A cpio archive in the format that the kernel unpacks (`Documentation/driver-api/early-userspace`, newc).

    Owner is root and every time stamp is 0, so that equal contents give equal bytes.
    """
    out = bytearray()
    for inode, entry in enumerate((*entries, Entry(_TRAILER, 0)), start=1):
        name = entry.name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        header = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
        out += b"070701" + b"".join(b"%08X" % value for value in header) + name
        out += bytes(-len(out) % 4)
        out += entry.data
        out += bytes(-len(out) % 4)
    return bytes(out) + bytes(-len(out) % 512)


def build_initrd(root: Path, *, kernel_version: str, init: Path, modules: Sequence[str]) -> bytes:
    """The archive for the system unpacked under `root`.

    The drivers are numbered in the order in which they must be loaded. Nothing is compressed: unpacking costs an
    emulated CPU more than reading two MiB more.

    Raises:
        HyperscalerError: a driver or the static busybox is not in the system.
    """
    busybox = root / "bin" / "busybox"
    if not busybox.is_file():
        raise HyperscalerError(
            "the image has no static busybox for its initial RAM file system",
            fix="add busybox-static to the recipe's packages",
        )
    entries = [Entry(name, stat.S_IFDIR | 0o755) for name in _DIRECTORIES]
    entries.append(Entry("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes()))
    entries.append(Entry("init", stat.S_IFREG | 0o755, init.read_bytes()))
    # The kernel opens /dev/console for the first process before that process can mount anything.
    entries.append(Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)))
    for index, path in enumerate(load_order(root, kernel_version=kernel_version, modules=modules)):
        name, driver = _unpacked(path)
        entries.append(Entry(f"modules/{index:02d}-{name}", stat.S_IFREG | 0o644, driver))
    return newc(entries)


def _unpacked(path: Path) -> tuple[str, bytes]:
    """Name and contents of a driver as busybox can load it. From Debian 13 on the kernel's packages have them as
    `.ko.xz`, which the kernel unpacks for kmod and not for busybox."""
    driver = path.read_bytes()
    if path.suffix != ".xz":
        return path.name, driver
    try:
        return path.stem, lzma.decompress(driver)
    except lzma.LZMAError as error:
        raise HyperscalerError(f"the driver cannot be unpacked: {error}", where=str(path)) from error


def load_order(root: Path, *, kernel_version: str, modules: Sequence[str]) -> list[Path]:
    """Files of `modules` with all that they depend on, dependencies first. Drivers built into the kernel need none."""
    base = root / "usr" / "lib" / "modules" / kernel_version
    needs: dict[str, list[str]] = {}
    for line in (base / "modules.dep").read_text(encoding="ascii").splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
    by_name = {_module_name(path): path for path in needs}
    builtin = {_module_name(path) for path in (base / "modules.builtin").read_text(encoding="ascii").splitlines()}
    order: dict[str, None] = {}
    for module in modules:
        name = _module_name(module)
        if name in by_name:
            # modules.dep lists the nearest dependency first.
            order.update(dict.fromkeys((*reversed(needs[by_name[name]]), by_name[name])))
        elif name not in builtin:
            raise HyperscalerError(
                f"kernel {kernel_version} has no driver {module!r}",
                where="initrd.modules",
                fix="remove it from the recipe or choose another kernel package",
            )
    return [base / path for path in order]


def _module_name(path: str) -> str:
    name = PurePosixPath(path).name
    return name.split(".ko")[0].replace("-", "_")
