"""Passwords of package sources do not come to where Packer serves them to everybody, unless that is asked for."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from emulator.adapters.system.process import HostProcess
from emulator.core.errors import HyperscalerError
from emulator.core.ports import Completed
from emulator.core.progress import SilentReporter
from emulator.images.build.apt_sources import AptSources
from emulator.images.build.builder import BuildPhase
from emulator.images.store.store import ImageStore
from emulator.operations.images.packer import write_files

TARGETS = "http://me:secret@mirror.invalid/debian|bookworm|main||Debian|\n"
PROXY = 'Acquire::http::Proxy "http://me:se@cret@proxy.invalid:3142/";\n'


def quiet(phase: BuildPhase, line: str) -> None:
    """Progress of nobody."""


class Host(HostProcess):
    """This host with another configuration of apt."""

    def run(self, argv: Sequence[str | Path], **options: Any) -> Completed:
        known = {"apt-get": TARGETS, "apt-config": PROXY}
        if argv[0] in known:
            return Completed(tuple(str(word) for word in argv), 0, known[str(argv[0])], "")
        return super().run(argv, **options)


def write(directory: Path, images: Any, **options: Any) -> Path:
    env: Any = SimpleNamespace(runner=Host(), accelerate=lambda _: SimpleNamespace(accelerated=False))
    return write_files(env, images, "hpc-base", directory, SilentReporter(), **options)


def test_a_password_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(HyperscalerError, match="holds a user name or password") as told:
        write(tmp_path / "build", images=None)
    assert not (tmp_path / "build").exists()
    assert "cret" not in str(told.value)
    assert "deb http://***@mirror.invalid/debian bookworm main" in told.value.where
    assert '"http://***@proxy.invalid:3142/"' in told.value.where
    assert "--with-passwords" in told.value.fix


@pytest.mark.skipif(os.geteuid() != 0, reason="the store's tests play root, whose directory this has to be")
def test_it_is_written_if_somebody_says_so(tmp_path: Path, store: ImageStore) -> None:
    base = store.build("demo", progress=quiet)
    images = SimpleNamespace(current=lambda _: base, needs_build=lambda _: None, inputs=lambda *_: {})
    build = write(tmp_path / "build", images, passwords=True).parent
    with tarfile.open(build / "http" / "image-files.tar") as archive:
        lines = archive.extractfile("sources.list").read().decode()  # type: ignore[union-attr]
    assert lines == "deb http://me:secret@mirror.invalid/debian bookworm main\n"


@pytest.mark.parametrize(
    "line",
    [
        "deb [signed-by=/usr/share/keyrings/a@b.gpg] http://mirror.invalid/debian bookworm main",
        "deb http://mirror.invalid/path@version/debian bookworm main",
        'Acquire::http::Proxy "DIRECT";',
    ],
)
def test_an_at_sign_elsewhere_is_no_account(line: str) -> None:
    assert AptSources(lines=(line,)).with_account() == ()
