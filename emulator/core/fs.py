"""What several layers do with directories."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from emulator.core.errors import StateError


def sync_directory(path: Path) -> None:
    """Make a rename, a new name or a removal in `path` survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def left_by_the_dead(directory: Path, prefix: str, ending: str) -> Iterator[Path]:
    """Entries whose names are `prefix`, the id of the process that made them, `ending` and whatever follows, and whose
    process is gone."""
    for path in directory.glob(f"{prefix}*{ending}*"):
        pid = path.name.removeprefix(prefix).partition(ending)[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            yield path


def private_directory(path: Path) -> None:
    """Make `path` a directory that others can neither list nor write, and that is still there after a power loss.

    Raises:
        StateError: it is something else (a link that somebody planted), or cannot be made.
    """
    try:
        fresh = [directory for directory in (path, *path.parents) if not directory.exists()]
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in fresh:
            sync_directory(directory.parent)
        if path.is_symlink() or path.stat().st_uid != os.geteuid():
            raise StateError("not a directory of our own", where=str(path), fix="remove it and try again")
        # What QEMU's account may pass through stays so: see `Hypervisor.admit_guests`.
        path.chmod(0o700 | path.stat().st_mode & 0o010)
    except FileExistsError as error:
        raise StateError("a file is in the place of a directory", where=str(path), fix="remove it") from error
    except OSError as error:
        raise StateError(f"cannot be made: {error.strerror}", where=str(path)) from error


def write_private(path: Path, content: bytes) -> None:
    """As `write_whole`, in a directory of the program's own, which is made where it is missing and closed to others."""
    private_directory(path.parent)
    write_whole(path, content)


def write_whole(path: Path, content: bytes) -> None:
    """Write a 0600 file so that it is there whole or not at all, even after a power loss. Its directory may be
    somebody else's: it stays as it is.

    Raises:
        StateError: it cannot be written; what was at `path` before is untouched.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            temporary.unlink(missing_ok=True)
        raise StateError(
            f"cannot be written: {error.strerror}",
            where=str(path),
            fix="free space on that file system or mend its permissions, then run the command again",
        ) from error


def sync_file(path: Path) -> None:
    """Make what another program wrote survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
