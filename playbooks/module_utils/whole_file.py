"""Files that are complete or not there. Standard library only, because it runs in the guests."""

from __future__ import annotations

import os
import tempfile

# What is left where the node dies meanwhile. Hidden, because kubelet takes every other file of a directory for a pod.
PREFIX = ".hyperscaler."


def write_whole(path: str, data: bytes, *, mode: int = 0o600, owner: tuple[int, int] = (-1, -1)) -> None:
    """Write under another name with the final mode and owner (user and group by number, -1 for who runs this), then
    rename: never half there, never too open, and on the disk before it has its name. The directory must be there."""
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=PREFIX)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            os.fchown(stream.fileno(), *owner)
            os.fchmod(stream.fileno(), mode)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
