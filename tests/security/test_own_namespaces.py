"""A guest that broke out of QEMU makes namespaces of its own: the lab's network is not looked for in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from emulator.adapters.embedded.processes import EmbeddedProcess, find_processes

GUEST = 65534
"""An account without rights."""
THERE = "echo there && exec sleep 600"


@contextmanager
def inside(directory: Path, *words: str) -> Iterator[Sequence[EmbeddedProcess]]:
    """What is found of a program in the mount namespace of a lab's hypervisor."""
    unshare = shutil.which("unshare")
    if os.geteuid() != 0 or unshare is None or not Path("/run").is_dir():
        pytest.skip("only root has mount namespaces")
    (directory / "run").mkdir()
    mounts = 'mount -t tmpfs none /run && mkdir /run/libvirt && mount --bind "$1" /run/libvirt && shift && exec "$@"'
    argv = [unshare, "-m", "sh", "-c", mounts, "sh", str(directory / "run"), *words, "sh", "-c", THERE]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            if process.stdout.readline() != "there\n":
                pytest.skip(f"no such namespaces here: {process.stderr.read()}")
            yield find_processes(directory)
        finally:
            process.kill()


def test_what_root_has_made_is_root_s(tmp_path: Path) -> None:
    with inside(tmp_path, "unshare", "-n") as found:
        (process,) = found
        assert process.roots_network and process.netns == Path(f"/proc/{process.pid}/ns/net").stat().st_ino
        assert process.netns != Path("/proc/self/ns/net").stat().st_ino


def test_what_a_guest_has_made_is_not(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    as_guest = ("setpriv", f"--reuid={GUEST}", "--clear-groups", "--", "unshare", "--user", "--map-root-user", "--net")
    with inside(tmp_path, *as_guest) as found:
        (process,) = found
        assert not process.roots_network


CALLED_LIBVIRTD = """
import ctypes, time
ctypes.CDLL(None).prctl(15, b"libvirtd", 0, 0, 0)
print("there", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(("uid", "libvirtd"), [(0, True), (GUEST, False)])
def test_a_guest_that_calls_itself_libvirtd_is_none(tmp_path: Path, uid: int, libvirtd: bool) -> None:
    tmp_path.chmod(0o755)
    python = str(Path(sys.executable).resolve())
    as_user = ("setpriv", f"--reuid={uid}", "--clear-groups", "--", python, "-I", "-S", "-c", CALLED_LIBVIRTD)
    with inside(tmp_path, *as_user) as found:
        (process,) = found
        assert (process.name, process.is_libvirtd) == ("libvirtd", libvirtd)
