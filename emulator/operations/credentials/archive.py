"""What a user is handed, as one archive: a directory that works where it is unpacked, with three lines that say how."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path

from emulator.core.fs import write_private
from emulator.core.gateway.names import forwards_host

_FILES = (
    "config",
    "known_hosts",
    "id_ed25519",
    "id_ed25519.pub",
    "id_ed25519-cert.pub",
    "gateway-cert.pub",
    "kubeconfig",
)
"""What is handed over, where it is there. All else in the directory is not for the user."""
README = "README.txt"


def archive_name(lab: str, user: str) -> str:
    return f"hyperscaler-{lab}-{user}.tar.gz"


def pack(directory: Path, lab: str, user: str, node: str) -> Path | None:
    """Write the archive of a directory into it; its path. None where nothing was handed to the user yet.

    Modes are in it, since ssh refuses a private key that others can read.

    Args:
        directory: of the user.
        lab: its name.
        user: the user.
        node: to log in to, in the example.
    """
    if not (directory / "config").is_file():
        return None
    parts = [(name, (directory / name).read_bytes()) for name in _FILES if (directory / name).is_file()]
    by_gateway = (directory / "gateway-cert.pub").is_file()
    kubernetes = any(name == "kubeconfig" for name, _ in parts)
    text = readme(lab, user, node, forwards=by_gateway and kubernetes)
    path = directory / archive_name(lab, user)
    write_private(path, _archive(f"hyperscaler-{lab}", [*parts, (README, text.encode())]))
    return path


def readme(lab: str, user: str, node: str, *, forwards: bool) -> str:
    """The three lines; the last one for labs whose Kubernetes is reached by the gateway.

    They hold in sh and in PowerShell. ssh is run in the directory, because ssh itself does not quote the path of a
    configuration when it starts the ssh to the gateway.
    """
    home = f'"$HOME/.ssh/hyperscaler-{lab}"'
    kubectl = "kubectl --kubeconfig kubeconfig get pods"
    first = f'1. Unpack this archive in .ssh of your home directory: tar -xzf {archive_name(lab, user)} -C "$HOME/.ssh"'
    second = f"2. Log in: cd {home}, then ssh -F config {node}"
    third = f"3. Kubernetes: in one window ssh -N -F config {forwards_host(lab)}, in another {kubectl}"
    if not forwards:
        third = f"3. Copy files: scp -F config FILE {node}:"
    return f"{first}\n{second}\n{third}\n"


def _archive(top: str, parts: Iterable[tuple[str, bytes]]) -> bytes:
    now, buffer = int(time.time()), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.USTAR_FORMAT) as archive:
        directory = tarfile.TarInfo(top)
        directory.type, directory.mode, directory.mtime = tarfile.DIRTYPE, 0o700, now
        archive.addfile(directory)
        for name, content in parts:
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.size, entry.mode, entry.mtime = len(content), 0o600, now
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
