"""The kubeconfig that each user is handed: their own, for as long as they have access."""

from __future__ import annotations

import re
import time
from pathlib import Path

from emulator.core.paths import LabPaths
from emulator.credentials.users import read_book
from emulator.lab.run import LabRun
from emulator.operations.credentials.handouts import forget_ended, pack_handouts

KUBECONFIG = "kubeconfig"
MIN_TOKEN_SECONDS = 600
"""Kubernetes issues no token for less than ten minutes."""
_AUTHORITY = re.compile(r'^[ \t]*"?certificate-authority-data"?:[ \t]*"?([A-Za-z0-9+/=]+)', re.MULTILINE)


def hand_out_kubeconfigs(run: LabRun, *, renew: str = "") -> None:
    """Put a kubeconfig into the directory of each user with access, and the directory into an archive.

    One that is there stays, except for that of the user `renew` and those of a cluster that no longer exists.
    Directories of users whose access has ended go.

    Raises:
        HyperscalerError: the control plane cannot be asked for a token.
    """
    forget_ended(run)
    if run.spec.kubernetes is not None:
        _hand_out(run, renew)
    pack_handouts(run)


def _hand_out(run: LabRun, renew: str) -> None:
    now = int(time.time())
    for user in read_book(run.paths.access).users:
        left = user.expires - now
        directory = run.paths.handouts / user.name
        if (
            user.revoked
            or left <= 0
            or not (user.name == renew or _lacks(run.paths, directory, by_gateway=run.spec.access.gateway))
        ):
            continue
        seconds = max(left, MIN_TOKEN_SECONDS)
        run.env.guests.hand_kubeconfig(run.spec, run.access, user, seconds=seconds, directory=directory)


def _lacks(paths: LabPaths, directory: Path, *, by_gateway: bool) -> bool:
    """Whether there is no kubeconfig, or one of a cluster that was made anew since: it has another authority; or one
    for another way to the cluster."""
    own = directory / KUBECONFIG
    if not own.is_file():
        return True
    present, text = cluster_authority(paths.secrets / KUBECONFIG), own.read_text()
    return (bool(present) and present not in text) or by_gateway != ('"tls-server-name"' in text)


def cluster_authority(admin: Path) -> str:
    """`certificate-authority-data` of the admin's kubeconfig, in base64; empty while there is none.

    The file is JSON; earlier versions of the program kept kubeadm's YAML.
    """
    try:
        text = admin.read_text()
    except FileNotFoundError:
        return ""
    found = _AUTHORITY.search(text)
    return found[1] if found else ""
