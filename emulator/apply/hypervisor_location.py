"""The hypervisor of each lab of this home, kept outside the labs' directories.

A lab whose journal is lost must still be found on its hypervisor. If that libvirtd does not answer at the moment, this
record alone shows that the lab may have guests there.
"""

from __future__ import annotations

import hashlib
import json

from emulator.core.errors import StateError
from emulator.core.fs import sync, write_private
from emulator.core.paths import Home

VERSION = 1


def remember_hypervisor(home: Home, lab: str, hypervisor: str) -> None:
    """Record `embedded` or the libvirt URI of the lab; writes nothing if it is recorded already."""
    if remembered_hypervisor(home, lab) != hypervisor:
        body = {"version": VERSION, "lab": lab, "hypervisor": hypervisor}
        text = json.dumps({**body, "sum": _checksum(lab, hypervisor)}, sort_keys=True)
        write_private(home.hypervisor_of(lab), text.encode() + b"\n")


def remembered_hypervisor(home: Home, lab: str) -> str:
    """`embedded` or the libvirt URI of the lab; empty without a trustworthy record.

    Raises:
        StateError: the record is of a newer version, or cannot be read.
    """
    path = home.hypervisor_of(lab)
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise StateError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (ValueError, RecursionError):
        return ""
    if not isinstance(data, dict):
        return ""
    version, hypervisor = data.get("version"), data.get("hypervisor")
    if isinstance(version, int) and version > VERSION:
        raise StateError(
            f"the record is of format {version}, newer than this version understands ({VERSION})",
            where=str(path),
            fix="use the version of hyperscaler that wrote it, or a newer one",
        )
    if not isinstance(hypervisor, str) or data.get("sum") != _checksum(lab, hypervisor):
        return ""
    return hypervisor


def forget_hypervisor(home: Home, lab: str) -> None:
    """Remove the record; for `destroy`, once the lab is gone."""
    path = home.hypervisor_of(lab)
    try:
        path.unlink()
        sync(path.parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StateError(f"cannot be removed: {error.strerror}", where=str(path)) from error


def _checksum(lab: str, hypervisor: str) -> str:
    return hashlib.sha256(f"{VERSION} {lab} {hypervisor}".encode()).hexdigest()[:16]
