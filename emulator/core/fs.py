"""Files and directories of the program: written whole, kept private, removed without reaching out of a tree.

`replacing` is the one way in which a file takes the place of another. Everything else here that writes goes through
it; `tests/architecture/test_writes.py` lists what cannot, and why.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from emulator.core.errors import ConflictError, StateError
from emulator.core.trust.opening import open_directory
from emulator.core.trust.processes import start_time


def sync(path: Path) -> None:
    """Make the content of a file, or the names in a directory, survive a power loss.

    Raises:
        OSError: it is missing, or the disk fails.
    """
    # O_NONBLOCK: a FIFO planted in its place must not hold us up.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------------------------------ writing
_WRITER = r"[.](?P<pid>[0-9]{1,10})-(?P<started>[0-9]{1,20})-[0-9]{1,20}"
"""In the name of an unfinished file: the process that writes it, by id and start time, and a running number."""
_count = itertools.count()
_writing: set[str] = set()
"""Names of the unfinished files that this process writes now."""


def unfinished(path: Path, ending: str = ".new") -> Path:
    """The name that a file has until it is whole, where another program writes it under a lock of ours: in the same
    directory, hidden, the same in every run, so that the next one replaces what a killed one left."""
    return path.with_name(f".{path.name}{ending}")


def finished_name(name: str, ending: str = ".new") -> str | None:
    """The name that a file of this name was going to have; None for one that is not unfinished."""
    found = re.fullmatch(rf"[.](?P<name>.+?)(?:{_WRITER})?{re.escape(ending)}", name)
    return found["name"] if found else None


def remove_unfinished(path: Path, ending: str = ".new") -> None:
    """Remove what writers of the file `path` left who were killed. Those that still write keep theirs.

    Raises:
        OSError: the directory cannot be read.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        directory = open_directory(path.parent)
        try:
            _sweep(directory, path.name, ending)
        finally:
            os.close(directory)


def _sweep(directory: int, name: str, ending: str) -> None:
    pattern = re.compile(rf"[.]{re.escape(name)}(?:{_WRITER})?{re.escape(ending)}")
    for entry in os.listdir(directory):
        found = pattern.fullmatch(entry)
        if found and not _is_written(entry, found["pid"], found["started"]):
            with contextlib.suppress(OSError):  # a directory that was planted, or another who tidies up
                os.unlink(entry, dir_fd=directory)


def _is_written(name: str, pid: str | None, started: str | None) -> bool:
    if pid is None:  # a name of earlier versions, which had one writer
        return False
    if int(pid) == os.getpid():
        return name in _writing
    return start_time(int(pid)) == started


def _new_name(name: str, ending: str) -> str:
    return f".{name}.{os.getpid()}-{start_time(os.getpid())}-{next(_count)}{ending}"


@contextlib.contextmanager
def replacing(
    path: Path,
    *,
    mode: int = 0o600,
    owner: tuple[int, int] | None = None,
    mtime_ns: int | None = None,
    ending: str = ".new",
) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends without an error: whole or not at all, even after a
    power loss. Until then, and after an error, `path` is as it was.

    Nobody sees the file with wider permissions than `mode`, and no symbolic link is followed, whether it has the final
    name or the temporary one; root follows none of another account on the way there either. The directory stays as it
    is: it may be shared with other accounts. Of several writers at a time each has a file of its own, and the last one
    stays.

    Args:
        path: where the file goes; a file or link that is there is replaced, a directory is an error.
        mode: permission bits, whatever the umask.
        owner: uid and gid; None leaves the file to this process.
        mtime_ns: time of the last change, in nanoseconds since the epoch; None is now.
        ending: of the temporary name, where another program reads files by their ending.

    Raises:
        StateError: see `open_directory`.
        OSError: it cannot be written.
    """
    directory, temporary = open_directory(path.parent), _new_name(path.name, ending)
    try:
        _sweep(directory, path.name, ending)
        _writing.add(temporary)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, mode & 0o600, dir_fd=directory)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                if owner is not None:
                    os.fchown(descriptor, *owner)  # before fchmod: it takes set-user-id bits away
                os.fchmod(descriptor, mode)
                if mtime_ns is not None:
                    os.utime(descriptor, ns=(mtime_ns, mtime_ns))
                os.fsync(descriptor)
            os.replace(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        except (Exception, KeyboardInterrupt):
            with contextlib.suppress(OSError):  # the first error is the one to report
                os.unlink(temporary, dir_fd=directory)
            raise
        os.fsync(directory)
    finally:
        _writing.discard(temporary)
        os.close(directory)


def replace_file(
    path: Path,
    content: bytes,
    *,
    mode: int = 0o600,
    owner: tuple[int, int] | None = None,
    mtime_ns: int | None = None,
    ending: str = ".new",
) -> None:
    """Write `content` as `replacing` does; for callers that have their own words for an `OSError`."""
    with replacing(path, mode=mode, owner=owner, mtime_ns=mtime_ns, ending=ending) as file:
        file.write(content)


def write_whole(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a file so that it is there whole or not at all, even after a power loss. Its directory, which may be shared
    with other accounts, stays as it is.

    Raises:
        StateError: it cannot be written; what was at `path` before is untouched.
    """
    try:
        replace_file(path, content, mode=mode)
    except OSError as error:
        raise StateError(
            f"cannot be written: {error.strerror}",
            where=str(path),
            fix="free space on that file system or fix its permissions, then run the command again",
        ) from error


def write_private(path: Path, content: bytes) -> None:
    """As `write_whole`, in a directory of the program's own, which is made where it is missing and closed to others.

    Raises:
        StateError: the file or its directory cannot be made.
    """
    private_directory(path.parent)
    write_whole(path, content)


def private_opener(path: str, flags: int) -> int:
    """An `opener` for `open`: a file that it makes is closed to others from its first byte on; no link is followed."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def write_new(path: Path, text: str) -> None:
    """Write a file that only its owner reads, in a work directory that is thrown away if the run fails: not synced.

    Raises:
        FileExistsError: something is there already, and may be readable.
    """
    with open(path, "x", encoding="utf-8", opener=private_opener) as stream:
        stream.write(text)


def append_line(descriptor: int, line: bytes) -> None:
    """Append a line, its line break included, to a file that is open for reading and appending; on the disk when this
    returns, and not there at all after an error.

    Raises:
        OSError: it cannot be written, or not whole.
    """
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        line = b"\n" + line  # a line that a full disk or a power cut tore must not swallow this one
    if os.write(descriptor, line) != len(line):
        os.ftruncate(descriptor, size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(descriptor)


def replace_link(path: Path, target: str) -> None:
    """Make `path` a symbolic link to `target` in one step, in the place of any link or file that is there.

    Raises:
        OSError: it cannot be made, or a directory is there.
    """
    directory = open_directory(path.parent)
    try:
        _sweep(directory, path.name, ".new")
        temporary = _new_name(path.name, ".new")
        os.symlink(target, temporary, dir_fd=directory)
        try:
            os.replace(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError:
            with contextlib.suppress(OSError):  # the first error is the one to report
                os.unlink(temporary, dir_fd=directory)
            raise
        os.fsync(directory)
    finally:
        os.close(directory)


def publish_tree(stage: Path, final: Path) -> None:
    """Give a finished tree its name, which nothing has yet; what has it is whole, even after a power loss.

    Raises:
        OSError: a tree or file with that name is there, or the disk is full.
    """
    os.sync()  # thousands of files: one call for all of them
    stage.rename(final)
    sync(final.parent)


# -------------------------------------------------------------------------------------------------- directories
def private_directory(path: Path) -> None:
    """Make `path` a directory that others can neither list nor write, and that is still there after a power loss.

    Raises:
        StateError: it is something else (a link that was planted), or cannot be made.
    """
    try:
        fresh = [directory for directory in (path, *path.parents) if not directory.exists()]
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in fresh:
            sync(directory.parent)
        _close_to_others(path)
    except FileExistsError as error:
        raise StateError("a file is in the place of a directory", where=str(path), fix="remove it") from error
    except OSError as error:
        raise StateError(f"cannot be made: {error.strerror}", where=str(path)) from error


def _close_to_others(directory: Path) -> None:
    """Mode 0700, by descriptor: what was looked at is what is changed. The group's right to pass, which QEMU's account
    needs, stays: see `Hypervisor.admit_guests`."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise _not_ours(directory) from error
        if error.errno != errno.EACCES:
            raise
        # A directory of our own that nobody may read: chmod needs no permission on it, only that it is ours.
        if directory.is_symlink() or directory.stat().st_uid != os.geteuid():
            raise _not_ours(directory) from error
        directory.chmod(_closed(directory.stat().st_mode))
        return
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid():
            raise _not_ours(directory)
        os.fchmod(descriptor, _closed(status.st_mode))
    finally:
        os.close(descriptor)


def _closed(mode: int) -> int:
    """0700, or 0710 where it was just that: any other right of others is no trace of `admit_guests`."""
    return 0o710 if stat.S_IMODE(mode) == 0o710 else 0o700


def _not_ours(directory: Path) -> StateError:
    return StateError("not a directory of our own", where=str(directory), fix="remove it and try again")


def left_by_the_dead(directory: Path, prefix: str, ending: str) -> Iterator[Path]:
    """Entries whose names are `prefix`, the id of the process that made them, `ending` and whatever follows, and whose
    process is gone."""
    for path in directory.glob(f"{prefix}*{ending}*"):
        pid = path.name.removeprefix(prefix).partition(ending)[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            yield path


def mounts_below(root: Path, mountinfo: str) -> Iterator[Path]:
    """Mount points in the directory `root`, from the text of `/proc/self/mountinfo`."""
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) > 4:
            # proc(5): blanks and the like are written as \\ and three octal digits.
            point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4]))
            if root in point.parents:
                yield point


def remove_tree(path: Path) -> None:
    """Remove a file or tree, but never through a mount: a killed build tool could have left the host's /dev in it.

    Raises:
        ConflictError: something is mounted below.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    held = list(mounts_below(path.resolve(), Path("/proc/self/mountinfo").read_text(encoding="utf-8")))
    if held:
        raise ConflictError(
            f"something is mounted in a left-over of an image build: {held[0]}",
            where=str(path),
            fix=f"umount {held[-1]}",
        )
    shutil.rmtree(path)
