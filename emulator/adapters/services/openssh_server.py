"""Where this host's OpenSSH server is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from emulator.core.errors import HostNotFitError

_PATH = "/usr/sbin:/usr/local/sbin:/usr/bin"


def find_sshd(given: str = "") -> Path:
    """The server as an absolute path; `given` is one that is to be taken.

    Raises:
        HostNotFitError: this host has none.
    """
    found = given or shutil.which("sshd", path=_PATH)
    if not found or not os.access(found, os.X_OK):
        raise HostNotFitError("this host has no OpenSSH server", where="sshd", fix="apt install openssh-server")
    return Path(found).absolute()
