"""A simulated `/sys`, with the needed parts of `/proc` and `/dev`, whose files act when they are written.

Plain files cannot run code on a write, so the tree consists of nodes, which are built on the way to a path and kept as
long as the state does not change.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class File:
    """A file. `text` None: write-only. `write` None: read-only."""

    text: str | None = None
    write: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link: the text that readlink returns, and the absolute path that it leads to."""

    text: str
    to: str


@dataclass(frozen=True, slots=True)
class Device:
    """A device node; `busy`: another process has it open, and the kernel allows only one."""

    busy: bool = False


@dataclass(frozen=True, slots=True)
class Directory:
    """Entries by name, each built on first access."""

    entries: Mapping[str, Callable[[], Node]] = field(default_factory=dict)
    made: dict[str, Node] = field(default_factory=dict, compare=False)

    def get(self, name: str) -> Node | None:
        """The entry of that name, built once, or None."""
        node = self.made.get(name)
        if node is None and name in self.entries:
            node = self.made[name] = self.entries[name]()
        return node


Node = File | Link | Device | Directory


def refuse(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


class SimulatedFiles:
    """`FileAccess` over a tree.

    Args:
        tree: gives the root directory for the present state; called for each access.
    """

    def __init__(self, tree: Callable[[], Directory]) -> None:
        self._tree = tree
        self._root: Directory | None = None
        self._found: dict[tuple[str, bool], Node] = {}  # below that root

    def read(self, path: str) -> str:
        node = self._find(path)
        if isinstance(node, Directory):
            raise refuse(errno.EISDIR, path)
        if not isinstance(node, File) or node.text is None:
            raise refuse(errno.EACCES, path)
        return node.text

    def write(self, path: str, text: str, *, timeout: float = 10.0) -> None:  # noqa: ARG002 - never blocks
        node = self._find(path)
        if not isinstance(node, File) or node.write is None:
            raise refuse(errno.EACCES, path)
        node.write(text)

    def listdir(self, path: str) -> tuple[str, ...]:
        node = self._find(path)
        if not isinstance(node, Directory):
            raise refuse(errno.ENOTDIR, path)
        return tuple(sorted(node.entries))

    def readlink(self, path: str) -> str:
        node = self._find(path, follow=False)
        if not isinstance(node, Link):
            raise refuse(errno.EINVAL, path)
        return node.text

    def exists(self, path: str) -> bool:
        try:
            self._find(path, follow=False)
        except OSError:
            return False
        return True

    def probe_open(self, path: str) -> None:
        node = self._find(path)
        if isinstance(node, Device) and node.busy:
            raise refuse(errno.EBUSY, path)

    def _find(self, path: str, *, follow: bool = True) -> Node:
        """The node at a path: the same one as long as the root is the same."""
        root = self._tree()
        if root is not self._root:
            self._root, self._found = root, {}
        return self._at(root, path, follow=follow, hops=8)

    def _at(self, root: Directory, path: str, *, follow: bool, hops: int) -> Node:
        node = self._found.get((path, follow))
        if node is None:
            try:
                node = self._found[path, follow] = self._entry(root, path, follow=follow, hops=hops)
            except OSError as error:
                raise refuse(error.errno or 0, path) from None
        return node

    def _entry(self, root: Directory, path: str, *, follow: bool, hops: int) -> Node:
        if hops == 0:
            raise refuse(errno.ELOOP, path)
        above, _, name = path.rstrip("/").rpartition("/")
        parent = self._at(root, above, follow=True, hops=hops) if above else root
        if not name:
            return parent
        if not isinstance(parent, Directory):
            raise refuse(errno.ENOTDIR, path)
        node = parent.get(name)
        if node is None:
            raise refuse(errno.ENOENT, path)
        if follow and isinstance(node, Link):
            return self._at(root, node.to, follow=True, hops=hops - 1)
        return node
