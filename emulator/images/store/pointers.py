"""The pointers to an image's builds: `current`, `previous`, `held` and tags. Each changes in one step."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from emulator.core.errors import UsageError
from emulator.core.fs import replace_link, sync

DIGEST_DIRECTORY = re.compile(r"[0-9a-f]{12}")
_TAG = re.compile(r"[a-z0-9_][a-z0-9._-]{0,62}")

CURRENT = "current"
"""The build that new guests start from."""
PREVIOUS = "previous"
"""The build that was current before, and that a rollback returns to."""
HELD = "held"
"""The build that a rollback chose: while it is current it counts as up to date, whatever the recipe says."""
_TAGS = "tags"


def require_tag(tag: str) -> None:
    """Raises `UsageError` when this cannot be a tag."""
    if not _TAG.fullmatch(tag):
        raise UsageError(f"{tag!r} cannot be a tag", fix="use lower-case letters, digits, '.', '_' and '-', 63 at most")


@dataclass(frozen=True, slots=True)
class Pointers:
    """The pointers in the directory of one image name. Reading needs no lock; a writer holds the name's lock."""

    home: Path

    def read(self, name: str) -> str | None:
        """The directory name of the build; None when the pointer is absent, dangling or leads out of the store."""
        return self._target(self.home / name)

    def set(self, name: str, build: str) -> None:
        replace_link(self.home / name, build)

    def drop(self, name: str) -> None:
        (self.home / name).unlink(missing_ok=True)
        sync(self.home)

    def tag(self, tag: str) -> str | None:
        """The build that has this tag."""
        return self._target(self.home / _TAGS / tag) if _TAG.fullmatch(tag) else None

    def tags(self) -> dict[str, str]:
        """Builds by tag, sorted."""
        found = {path.name: self.tag(path.name) for path in sorted((self.home / _TAGS).glob("*"))}
        return {tag: build for tag, build in found.items() if build is not None}

    def set_tag(self, tag: str, build: str) -> None:
        """Raises `UsageError` when this cannot be a tag."""
        require_tag(tag)
        (self.home / _TAGS).mkdir(mode=0o755, exist_ok=True)
        replace_link(self.home / _TAGS / tag, f"../{build}")

    def drop_tag(self, tag: str) -> bool:
        """Whether there was such a tag."""
        path = self.home / _TAGS / tag
        if not _TAG.fullmatch(tag) or not path.is_symlink():
            return False
        path.unlink()
        sync(path.parent)
        return True

    def forget(self, build: str) -> None:
        """Drop every pointer to a build that is about to be removed."""
        for name in (CURRENT, PREVIOUS, HELD):
            if (self.home / name).is_symlink() and (self.home / name).readlink().name == build:
                self.drop(name)
        for path in (self.home / _TAGS).glob("*"):
            if path.is_symlink() and path.readlink().name == build:
                path.unlink()

    def protected(self) -> frozenset[str]:
        """Builds that were chosen or may be wanted back: tagged ones, the previous and the held one."""
        named = {self.read(PREVIOUS), self.read(HELD), *self.tags().values()}
        return frozenset(build for build in named if build is not None)

    def _target(self, path: Path) -> str | None:
        try:
            target = path.readlink()
        except OSError:
            return None
        if not DIGEST_DIRECTORY.fullmatch(target.name) or str(target) not in (target.name, f"../{target.name}"):
            return None
        return target.name if (self.home / target.name).is_dir() else None
