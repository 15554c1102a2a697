"""The file of a bundle as it is read: a tar archive that may say anything, and never costs much memory."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emulator.core.errors import UsageError
from emulator.core.units import GIB, MIB, human_bytes
from emulator.kubernetes.release.release import MAX_MANIFEST_BYTES, ReleaseError, ReleaseManifest

MAX_FILES = 2000
MAX_UNPACKED_BYTES = 64 * GIB
"""Of all files of a bundle. A release with all add-ons has 2 GiB, one with CUDA images some ten more."""

BROKEN_FIX = "copy the bundle again, or make it anew: hyperscaler bundle create"
# What tarfile raises for a malformed header (invalid numbers, impossible sizes, headers of headers of headers), in
# addition to its own errors.
MALFORMED = (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError, MemoryError)

# tarfile reads an extended header whole into memory, however large it says that it is.
_MOST_AT_ONCE = 2 * MIB
# For each file: its header, its last block, and a long name with a header of its own.
_AROUND = 4 * tarfile.BLOCKSIZE


class _Bounded(io.FileIO):
    """A file of which nobody reads much at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _MOST_AT_ONCE:
            raise ValueError(f"a header says that {size} bytes belong to it")
        return super().read(size) or b""


@contextmanager
def opened_bundle(path: Path) -> Iterator[tarfile.TarFile]:
    """The archive; what is wrong with it in the block is raised as a `ReleaseError`.

    Raises:
        UsageError: there is no such file.
        ReleaseError: it is no bundle.
    """
    try:
        # O_NONBLOCK: a pipe in its place must not hold us up.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _no_bundle(path) from error
    with _Bounded(descriptor, "r") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _no_bundle(path)
        try:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                yield archive
        except MALFORMED as error:
            raise ReleaseError(f"not a bundle, or cut short: {error}", where=str(path), fix=BROKEN_FIX) from error


def _no_bundle(path: Path) -> UsageError:
    return UsageError(f"there is no bundle {path}", fix="kubernetes.source: bundle:PATH needs the path of a file")


def require_bounded(manifest: ReleaseManifest, *, where: str) -> None:
    """Raises: ReleaseError when the files of a bundle would take more of this host than any release does."""
    total = sum(file.size for file in manifest.files.values())
    if len(manifest.files) > MAX_FILES or total > MAX_UNPACKED_BYTES:
        raise ReleaseError(
            f"the bundle says that it has {len(manifest.files)} files of {human_bytes(total)}, and no release has more "
            f"than {MAX_FILES} of {human_bytes(MAX_UNPACKED_BYTES)}",
            where=where,
            fix=BROKEN_FIX,
        )


def surplus(archive: tarfile.TarFile, manifest: ReleaseManifest) -> str:
    """That the file is larger than what its manifest accounts for, in words; empty where it is not."""
    stream = archive.fileobj
    assert isinstance(stream, io.FileIO)  # noqa: S101  opened_bundle made it
    size = os.fstat(stream.fileno()).st_size
    files = sum(file.size + _AROUND for file in manifest.files.values())
    most = MAX_MANIFEST_BYTES + _AROUND + files + 2 * tarfile.RECORDSIZE
    return f"there is more behind the end of the bundle, or in it: {human_bytes(size - most)}" if size > most else ""
