"""Reads single files from a guest's ext4 without mounting it, and checks how the image was made."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from emulator.core.errors import HyperscalerError
from emulator.core.ports import ProcessRunner
from emulator.images.packer.scripts import WORK_DIRECTORY
from emulator.images.recipe import Recipe
from emulator.images.supply_chain.sbom import Package

_PATH = re.compile(r"(/\.?[A-Za-z0-9_+~-][A-Za-z0-9._+~-]*)+")
_REGULAR = re.compile(r"^Inode: \d+ +Type: regular\b", re.MULTILINE)
_TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class GuestTree:
    """The file system in the raw file `image`; what is fetched lies under `directory` at the guest's path."""

    image: Path
    directory: Path
    runner: ProcessRunner

    def names(self, path: str) -> tuple[str, ...]:
        """Names in a directory of the guest, sorted; none when there is no such directory."""
        rows = self._debugfs(f"ls -p {_checked(path)}").splitlines()
        # /inode/mode/uid/gid/name/size/, the size empty for directories
        fields = [row.split("/") for row in rows if row.startswith("/")]
        return tuple(sorted(row[5] for row in fields if len(row) >= 7 and row[5] not in ("", ".", "..")))

    def fetch(self, path: str, *, at: str = "") -> Path:
        """Copy a regular file of the guest to this host, under the name `at` if it is given.

        Raises:
            HyperscalerError: the guest has no such file.
        """
        target = self.directory / _checked(at or path).lstrip("/")
        # `dump` would write what a link consists of.
        if not _REGULAR.search(self._debugfs(f"stat {_checked(path)}")):
            raise HyperscalerError(f"the image has no file {path}", fix="see the log of its build for the first error")
        target.parent.mkdir(parents=True, exist_ok=True)
        self._debugfs(f"dump {path} {target.relative_to(self.directory)}")
        return target

    def _debugfs(self, request: str) -> str:
        # Requests are words between spaces, so the place of the files on this host is not part of them.
        self.directory.mkdir(parents=True, exist_ok=True)
        argv = ["debugfs", "-R", request, str(self.image.absolute())]
        done = self.runner.run(argv, timeout=_TIMEOUT, cwd=self.directory)
        return done.stdout + done.stderr


def _checked(path: str) -> str:
    if not _PATH.fullmatch(path):
        raise HyperscalerError(f"{path!r} cannot be asked of a file system")
    return path


def check_finished(recipe: Recipe, tree: GuestTree, packages: Iterable[Package]) -> None:
    """Refuse a system that differs from the recipe, or would share an identity or a secret between guests.

    Raises:
        HyperscalerError: all that is wrong, one per line.
    """
    faults = faults_of(recipe, {package.name: package.version for package in packages})
    work = PurePosixPath(WORK_DIRECTORY)
    if work.name in tree.names(str(work.parent)):
        faults.append("the scripts of the build are still there: it did not end")
    if tree.fetch("/etc/machine-id").read_bytes().strip():
        faults.append("/etc/machine-id is not empty: every guest would have the same identity")
    keys = [name for name in tree.names("/etc/ssh") if name.startswith("ssh_host_")]
    if keys:
        faults.append(f"/etc/ssh/{keys[0]} is in it: every guest would have the same host key")
    homes = ["/root", *(f"/home/{name}" for name in tree.names("/home") if _PATH.fullmatch(f"/{name}"))]
    for home in homes:
        if "authorized_keys" in tree.names(f"{home}/.ssh"):
            faults.append(f"{home}/.ssh/authorized_keys is in it: its holder could log in everywhere")
    faults += [
        f"/etc/ssh/lab_keys/{name} is in it: its holder could log in everywhere"
        for name in tree.names("/etc/ssh/lab_keys")
    ]
    faults += [f"{name} has a password" for name in accounts_with_password(tree.fetch("/etc/shadow").read_text())]
    if faults:
        raise HyperscalerError(
            f"the disk is no finished image of {recipe.name}:\n    " + "\n    ".join(faults),
            fix="build it again with packer/image.pkr.hcl, and look at Packer's output for the first error",
        )


def faults_of(recipe: Recipe, installed: dict[str, str]) -> list[str]:
    """Packages that are not installed as the recipe says."""
    faults = []
    for word in (recipe.kernel, *recipe.packages):
        name, _, version = word.partition("=")
        name = name.partition(":")[0]
        if name not in installed:
            faults.append(f"package {name} is not installed")
        elif version and installed[name] != version:
            faults.append(f"package {name} is {installed[name]}, the recipe says {version}")
    return faults


def accounts_with_password(shadow: str) -> list[str]:
    """Accounts of a shadow file that admit a login with a password, an empty one included (shadow(5))."""
    found = []
    for line in shadow.splitlines():
        name, _, rest = line.partition(":")
        if name and rest.partition(":")[0][:1] not in ("!", "*"):
            found.append(name)
    return found
