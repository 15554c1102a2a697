"""A mirror, or whoever stands between it and this host, that gives out packages which the archive has not signed."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from emulator.adapters.system.process import HostProcess
from emulator.core.errors import CommandError
from emulator.core.ports import Completed
from emulator.images.build.apt_sources import host_sources
from emulator.kubernetes.release.debian_packages import DebianArchive

pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="no apt here")


class OtherApt(HostProcess):
    """A host with an apt configuration of its own."""

    def __init__(self, config: Path) -> None:
        super().__init__()
        self._config = config

    def run(self, argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, **rest: Any) -> Completed:
        return super().run(argv, env={**(env or {}), "APT_CONFIG": str(self._config)}, **rest)


def unsigned_mirror(directory: Path) -> Path:
    """An archive with nothing in it, and no signature."""
    packages = directory / "dists/bookworm/main/binary-amd64/Packages"
    packages.parent.mkdir(parents=True)
    packages.write_bytes(b"")
    digest = hashlib.sha256(b"").hexdigest()
    (directory / "dists/bookworm/Release").write_text(
        "Origin: Debian\nSuite: oldstable\nCodename: bookworm\nDate: Thu, 01 Jan 2026 00:00:00 UTC\n"
        f"Architectures: amd64\nComponents: main\nSHA256:\n {digest} 0 main/binary-amd64/Packages\n"
    )
    return directory


def host_with(tmp_path: Path, source: str) -> OtherApt:
    """A host whose apt has this source, and that has once fetched from there when it was still in order."""
    mirror = unsigned_mirror(tmp_path / "mirror")
    lists = tmp_path / "lists"
    for path in (lists / "partial", tmp_path / "cache/archives/partial", tmp_path / "parts", tmp_path / "trusted"):
        path.mkdir(parents=True)
    (tmp_path / "sources.list").write_text(f"{source.replace('MIRROR', f'file:{mirror}')}\n")
    stem = f"file:{mirror}/dists/bookworm/".removeprefix("file:").replace("_", "%5f").replace("/", "_")
    shutil.copyfile(mirror / "dists/bookworm/Release", lists / f"{stem}InRelease")
    (lists / f"{stem}main_binary-amd64_Packages").touch()
    config = tmp_path / "apt.conf"
    config.write_text(
        f'Dir::Etc::SourceList "{tmp_path}/sources.list";\nDir::Etc::SourceParts "{tmp_path}/parts";\n'
        f'Dir::Etc::Trusted "{tmp_path}/trusted.gpg";\nDir::Etc::TrustedParts "{tmp_path}/trusted";\n'
        f'Dir::State::Lists "{lists}";\nDir::Cache "{tmp_path}/cache";\nAPT::Architecture "amd64";\n'
        'APT::Architectures { "amd64"; };\nAPT::Sandbox::User "root";\nDir::State::status "/dev/null";\n'
    )
    return OtherApt(config)


def fetch(host: OtherApt, tmp_path: Path) -> None:
    lines = host_sources(host, suite="bookworm", components=["main"]).lines
    assert len(lines) == 1
    DebianArchive(tmp_path / "archive", lines, host).update()


def test_what_apt_has_once_verified_is_verified_again(tmp_path: Path) -> None:
    """apt calls such a repository trusted; that word in a source would switch the verification off."""
    host = host_with(tmp_path, "deb MIRROR bookworm main")
    listing = host.run(["apt-get", "indextargets", "Created-By: Packages"], timeout=60)
    assert "Trusted: yes" in listing.stdout
    with pytest.raises(CommandError) as caught:
        fetch(host, tmp_path)
    assert "is not signed" in f"{caught.value.what}{caught.value}"


@pytest.mark.skipif(os.geteuid() != 0, reason="apt gives its lists to root")
def test_only_the_hosts_administrator_can_do_without(tmp_path: Path) -> None:
    fetch(host_with(tmp_path, "deb [trusted=yes] MIRROR bookworm main"), tmp_path)
