"""Containerd's store, filled at build time: a node then starts its first container without importing anything."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emulator.core.errors import CommandError, HostNotFitError
from emulator.core.fs import left_by_the_dead
from emulator.core.ports import Completed, ProcessRunner
from emulator.core.waiting.watch import Look, Patience, wait_until

NAMESPACE = "k8s.io"
PACKAGE = "containerd"
_BLOBS = "io.containerd.content.v1.content/blobs/sha256"
_SOCKETS, _SOCKET = Path("/run"), "hyperscaler-containerd-"
_LEFT_OUT = (
    "io.containerd.grpc.v1.introspection",
    "io.containerd.runtime.v1.linux",
    "io.containerd.runtime.v2.task",
    "io.containerd.sandbox.controller.v1.shim",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.erofs",
    "tmpmounts",
)
_START_TIMEOUT = 30.0
_IMPORT_TIMEOUT = 900.0
_STOP_TIMEOUT = 20.0

# Nothing but the content store, the metadata and overlayfs: the rest looks at the host for what it has not.
_CONFIG = """\
version = 2
root = "{root}"
state = "{work}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.native", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "{socket}"
[debug]
  level = "warn"
"""


@dataclass(frozen=True, slots=True)
class ContentStore:
    """Runs a containerd of our own for a few seconds. It and `ctr` are in the directory `programs`.

    The store that it leaves has no paths of this host in it, so that it can be laid into an image.
    """

    programs: Path
    work: Path
    runner: ProcessRunner

    def fill(self, root: Path, tars: Sequence[Path]) -> tuple[str, ...]:
        """Make `root` (`/var/lib/containerd` of a node) hold the images of `tars`; the references in it.

        Raises:
            HostNotFitError: not root; mounting layers needs it.
            CommandError: containerd did not start, or refused an archive.
        """
        if os.geteuid() != 0:
            raise HostNotFitError("preparing container images needs root", fix="run the same command with sudo")
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.rmtree(root, ignore_errors=True)
        self.work.mkdir(parents=True)
        _forget_sockets_of_the_dead()
        # Socket addresses are short; the store's own path may not be.
        socket = _SOCKETS / f"{_SOCKET}{os.getpid()}.sock"
        config = self.work / "config.toml"
        config.write_text(_CONFIG.format(root=root, work=self.work, socket=socket), encoding="utf-8")
        try:
            with (self.work / "log").open("wb") as log:
                process = subprocess.Popen(
                    # In a session of its own, so that Ctrl-C leaves it to us; if we die, nothing else ends it.
                    ["setpriv", "--pdeathsig", "KILL", self.programs / "containerd", "--config", config],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    # Modes in the store go into the image; they must not depend on who makes it.
                    umask=0o022,
                )
            try:
                self._wait(process, socket)
                images, layers = self._import(socket, tars)
            finally:
                _stop(process)
            # The layers lie unpacked in the snapshots; their archives would only double the image. The metadata
            # forgot them above, but containerd collects the files much later.
            for digest in layers:
                (root / _BLOBS / digest.removeprefix("sha256:")).unlink(missing_ok=True)
            return images
        finally:
            for path in (socket, socket.with_name(socket.name + ".ttrpc")):
                path.unlink(missing_ok=True)
            # What only a running daemon uses, what is made again when it starts, and the id of this one.
            for name in _LEFT_OUT:
                shutil.rmtree(root / name, ignore_errors=True)

    def _wait(self, process: subprocess.Popen[bytes], socket: Path) -> None:
        log = self.work / "log"

        def look() -> Look[bool]:
            up = self._ctr(socket, ["version"], timeout=10, check=False).returncode == 0
            return Look(up, up or process.poll() is not None, sign=log.stat().st_size, pause=0.1)

        waited = wait_until(look, Patience.within(_START_TIMEOUT))
        if not waited.value:
            said = log.read_text(encoding="utf-8", errors="replace")[-2000:]
            how_long = f" ({waited.given_up})" if waited.given_up else ""
            raise CommandError(f"containerd did not start{how_long}: {said.strip()}", where=str(log))

    def _import(self, socket: Path, tars: Sequence[Path]) -> tuple[tuple[str, ...], list[str]]:
        for tar in tars:
            self._ctr(socket, ["images", "import", "--snapshotter", "overlayfs", str(tar)], timeout=_IMPORT_TIMEOUT)
        listing = self._ctr(socket, ["content", "ls"], timeout=60).stdout.splitlines()
        layers = [line.split()[0] for line in listing if "containerd.io/uncompressed=" in line]
        self._ctr(socket, ["content", "rm", *layers], timeout=60)
        images = self._ctr(socket, ["images", "ls", "-q"], timeout=60).stdout.split()
        return tuple(sorted(images)), layers

    def _ctr(self, socket: Path, words: Sequence[str], *, timeout: float, check: bool = True) -> Completed:
        argv = [str(self.programs / "ctr"), "--address", str(socket), "--namespace", NAMESPACE, *words]
        return self.runner.run(argv, timeout=timeout, check=check)


def _forget_sockets_of_the_dead() -> None:
    """Remove the sockets of runs that were killed."""
    for path in left_by_the_dead(_SOCKETS, _SOCKET, ".sock"):
        path.unlink(missing_ok=True)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End it gently, so that it closes its databases."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
