"""A store of images on a host whose build tools are data, and the recipes of two images."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.images.store.store import ImageStore
from tests.support.build_tools import BuildTools

COMMON = """\
version: 1
suite: bookworm
kernel: linux-image-cloud-amd64
packages: [systemd, udev]
files: [files/common]
remove: [/etc/ssh/ssh_host_*]
mask: [apt-daily.timer]
initrd: {init: files/init, modules: [virtio_blk, ext4]}
cmdline: [root=/dev/vda, rw]
"""
DEMO = """\
version: 1
name: demo
extends: common
packages: [munge]
disable: [munge.service]
"""


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    """A directory with the recipes `common` and `demo`."""
    directory = tmp_path / "recipes"
    (directory / "files" / "common" / "etc").mkdir(parents=True)
    (directory / "files" / "common" / "etc" / "fstab").write_text("/dev/vda / ext4 rw 0 0\n")
    (directory / "files" / "init").write_text("#!/bin/busybox sh\n")
    (directory / "common.yaml").write_text(COMMON)
    (directory / "demo.yaml").write_text(DEMO)
    return directory


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> BuildTools:
    """The tools of a host on which the test is root."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return BuildTools()


@pytest.fixture
def store(tmp_path: Path, recipes: Path, tools: BuildTools) -> ImageStore:
    return ImageStore(tmp_path / "images", tools, recipes=recipes)
