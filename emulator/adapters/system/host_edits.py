"""Host files, changed in a way that can be undone: looked at, copied aside, replaced in one step.

Paths are absolute on the host; `root` stands for `/`. Paths that contain a symbolic link or do not lead to an ordinary
file are refused, because the caller would change something else than it meant to.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from pathlib import Path

from emulator.core.errors import ConflictError, StateError
from emulator.core.fs import remove_unfinished, replace_file, sync
from emulator.core.ports.files import FileLook

_LIMIT = 64 * 1024 * 1024
_ABSENT = FileLook(None)
_UNFINISHED = ".hyperscaler-new"  # an ending that keeps modprobe, sysctl and GRUB from reading the file


class HostEdits:
    """`HostFileEditor` below `root`, with copies of earlier files in `backups` (0700)."""

    def __init__(self, root: Path, backups: Path) -> None:
        self._root, self._backups = root, backups

    def look(self, path: str) -> FileLook:
        """The file at `path`.

        Raises:
            ConflictError: the path contains a symbolic link, or it is not an ordinary file.
        """
        target = self._target(path)
        try:
            descriptor = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return _ABSENT
        except OSError as error:
            raise ConflictError(f"cannot be inspected: {error.strerror}", where=path, fix=f"ls -l {path}") from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LIMIT:
            os.close(descriptor)
            raise ConflictError("not an ordinary file", where=path, fix=f"ls -l {path}")
        with os.fdopen(descriptor, "rb") as file:
            digest = hashlib.sha256(file.read(_LIMIT)).hexdigest()
        return FileLook(digest, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns)

    def back_up(self, path: str, look: FileLook) -> None:
        """Keep a copy named by the digest of its content; it is on the disk when this returns."""
        if look.digest is None:
            return
        self._copy(path, look, self._backups / look.digest)

    def keep(self, path: str, look: FileLook) -> str:
        """Keep a copy for people, named by the file's path and the start of its digest; `forget` does not remove it."""
        name = f"{path.strip('/').replace('/', '_')}.{(look.digest or '')[:12]}"
        copy = self._backups / "replaced" / name
        self._copy(path, look, copy)
        return str(copy)

    def _copy(self, path: str, look: FileLook, copy: Path) -> None:
        for directory in (self._backups, copy.parent):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if copy.exists():
            return
        content = self._target(path).read_bytes()
        if hashlib.sha256(content).hexdigest() != look.digest:
            raise ConflictError("changed while it was being copied", where=path, fix="run the command again")
        _replace(copy, content, FileLook(look.digest, 0o600, os.geteuid(), os.getegid()))
        for directory in (copy.parent.parent, self._backups.parent):
            sync(directory)

    def missing_parents(self, path: str) -> tuple[str, ...]:
        """Directories that `write` would have to create, the outermost first."""
        found = []
        parent = Path(path).parent
        while not self._target(str(parent)).is_dir():
            found.append(str(parent))
            parent = parent.parent
        return tuple(reversed(found))

    def write(self, path: str, content: str, *, mode: int = 0o644) -> None:
        """Replace the file, or create it with its parent directories; it belongs to root."""
        for parent in self.missing_parents(path):
            directory = self._target(parent)
            directory.mkdir(mode=0o755, exist_ok=True)
            directory.chmod(0o755)
            sync(directory.parent)
        look = FileLook(None, mode, os.geteuid(), os.getegid())
        _replace(self._target(path), content.encode(), look)

    def put_back(self, path: str, look: FileLook) -> None:
        """Restore the state that `look` saw, from its copy; absence as well.

        Raises:
            StateError: the copy is gone or damaged.
        """
        target = self._target(path)
        if look.digest is None:
            target.unlink(missing_ok=True)
            if target.parent.is_dir():
                sync(target.parent)
            return
        try:
            content = (self._backups / look.digest).read_bytes()
        except OSError as error:
            raise StateError(f"its copy cannot be read: {error.strerror}", where=path) from error
        if hashlib.sha256(content).hexdigest() != look.digest:
            raise StateError("its copy is damaged", where=path)
        _replace(target, content, look)

    def tidy(self, path: str) -> None:
        """Remove temporary files that an interrupted write left next to the file."""
        remove_unfinished(self._target(path), _UNFINISHED)

    def remove_directory(self, path: str) -> None:
        """Remove a directory if it is empty."""
        with contextlib.suppress(OSError):
            self._target(path).rmdir()

    def forget(self) -> None:
        """Remove all copies except the ones to keep."""
        if self._backups.is_dir():
            for copy in self._backups.iterdir():
                if not copy.is_dir():
                    copy.unlink()
            with contextlib.suppress(OSError):  # not empty: some copies are kept
                self._backups.rmdir()

    def _target(self, path: str) -> Path:
        target = self._root / path.lstrip("/")
        parent = target.parent
        if Path(os.path.realpath(parent)) != Path(os.path.realpath(self._root)) / parent.relative_to(self._root):
            raise ConflictError("the path contains a symbolic link", where=path, fix=f"namei -l {path}")
        return target


def _replace(target: Path, content: bytes, look: FileLook) -> None:
    """Replace by one rename, so that no reader sees half a file; owner, mode and time as in `look`."""
    owner, mtime = (look.uid, look.gid), look.mtime_ns or None
    replace_file(target, content, mode=look.mode, owner=owner, mtime_ns=mtime, ending=_UNFINISHED)
