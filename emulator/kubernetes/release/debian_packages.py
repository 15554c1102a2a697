"""Debian packages fetched with the host's own apt sources into a directory of ours; nothing is installed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from emulator.core.errors import HostNotFitError
from emulator.core.ports import Completed, ProcessRunner

_UPDATE_TIMEOUT = 300.0
_FETCH_TIMEOUT = 1800.0
_UNPACK_TIMEOUT = 300.0
_NAME = re.compile(r"(?P<name>[a-z0-9][a-z0-9+.-]+)_(?P<version>[^_]+)_(?P<architecture>[a-z0-9]+)\.deb")


@dataclass(frozen=True, slots=True)
class DebianArchive:
    """apt with lists and caches of its own under `directory`.

    `lines` are one-line `deb` sources of a Debian release. Proxy and keys stay what the host's apt configuration says.
    """

    directory: Path
    lines: tuple[str, ...]
    runner: ProcessRunner

    def update(self) -> None:
        """Fetch the package lists.

        Raises:
            HostNotFitError: the host's apt has no sources of the Debian release.
            CommandError: apt could not reach them.
        """
        require_sources(self.lines)
        # The sources may hold a password: no access for others.
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        for name in ("lists/partial", "cache/archives/partial", "parts", "debs"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        (self.directory / "sources.list").write_text("\n".join(self.lines) + "\n", encoding="utf-8")
        self._apt(["update"], timeout=_UPDATE_TIMEOUT)

    def versions(self, package: str) -> tuple[str, ...]:
        """Every version of a binary package that the sources have; none of a package that they do not know."""
        rows = self._apt(["madison", package], timeout=_UNPACK_TIMEOUT, program="apt-cache").stdout.splitlines()
        return tuple(dict.fromkeys(row.split("|")[1].strip() for row in rows if row.count("|") >= 2))

    def unpack(self, packages: Sequence[str], root: Path) -> dict[str, str]:
        """Fetch binary packages and lay their files under `root`; the versions by name. Scripts are not run.

        A package is a name, or `NAME=VERSION`.
        """
        directory = self.directory / "debs"
        self._apt(["download", *packages], timeout=_FETCH_TIMEOUT, cwd=directory)
        versions = {}
        root.mkdir(parents=True, exist_ok=True)
        for name in (package.partition("=")[0] for package in packages):
            path = _newest(directory.glob(f"{name}_*.deb"))
            match = _NAME.fullmatch(path.name)
            versions[name] = match["version"].replace("%3a", ":") if match else ""
            self.runner.run(["dpkg-deb", "-x", path, root], timeout=_UNPACK_TIMEOUT)
        return versions

    def _apt(
        self, words: Sequence[str], *, timeout: float, cwd: Path | None = None, program: str = "apt-get"
    ) -> Completed:
        options = {
            "Dir::Etc::SourceList": self.directory / "sources.list",
            "Dir::Etc::SourceParts": self.directory / "parts",
            # The host may keep itself from taking packages of Debian's (a priority of -1); these are not for it.
            "Dir::Etc::Preferences": self.directory / "preferences",
            "Dir::Etc::PreferencesParts": self.directory / "parts",
            "Dir::State::Lists": self.directory / "lists",
            "Dir::Cache": self.directory / "cache",
            # The download directory is ours alone, which apt's own user cannot enter.
            "APT::Sandbox::User": "root",
            "APT::Get::List-Cleanup": "false",
        }
        settings = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        return self.runner.run([program, "--quiet", *settings, *words], timeout=timeout, cwd=cwd)


def require_sources(lines: Sequence[str]) -> None:
    """Raises: HostNotFitError when there are no sources of the Debian release."""
    if not lines:
        raise HostNotFitError(
            "Kubernetes cannot be prepared here: this host's apt has no sources of Debian 12",
            fix="add them (hyperscaler host check says how), or take a release that another host has built: there"
            " hyperscaler bundle create, here kubernetes_config.source: bundle:PATH",
        )


def _newest(paths: Iterable[Path]) -> Path:
    return max(paths, key=lambda path: path.stat().st_mtime)
