"""The kubeconfig that each user is handed: their own, for as long as they have access."""

from __future__ import annotations

import re
import time
from pathlib import Path

from emulator.lab.access_book import read_book
from emulator.lab.environment import World
from emulator.lab.lab import Lab
from emulator.labfile.model import ClusterSpec

KUBECONFIG = "kubeconfig"
MIN_TOKEN_SECONDS = 600
"""Kubernetes issues no token for less than ten minutes."""
_AUTHORITY = re.compile(r'^[ \t]*"?certificate-authority-data"?:[ \t]*"?([A-Za-z0-9+/=]+)', re.MULTILINE)


def hand_out_kubeconfigs(world: World, lab: Lab, spec: ClusterSpec, *, renew: str = "") -> None:
    """Have a kubeconfig lie in the directory of each user with access. One that is there stays, but for that of the
    user `renew` and those of a cluster that is no more.

    Raises:
        HyperscalerError: the control plane cannot be asked for a token.
    """
    if spec.kubernetes is None:
        return
    now = int(time.time())
    for user in read_book(lab).users:
        left = user.expires - now
        directory = lab.paths.handouts / user.name
        if user.revoked or left <= 0 or not (user.name == renew or _lacks(lab, directory)):
            continue
        access = lab.access(spec.ssh.user)
        world.guests.hand_kubeconfig(spec, access, user, seconds=max(left, MIN_TOKEN_SECONDS), directory=directory)


def _lacks(lab: Lab, directory: Path) -> bool:
    """Whether there is no kubeconfig, or one of a cluster that was made anew since: it has another authority."""
    own = directory / KUBECONFIG
    if not own.is_file():
        return True
    present = cluster_authority(lab.paths.secrets / KUBECONFIG)
    return bool(present) and present not in own.read_text()


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
