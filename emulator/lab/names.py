"""Names that a lab has on the host, and how the lab recognises its own objects."""

from __future__ import annotations

import hashlib

from emulator.apply.ownership import LabIdentity
from emulator.core.paths import Home


def namespace_name(home: Home, lab: str) -> str:
    """The lab's network namespace. Labs of another home directory have other namespaces."""
    if home.root == Home.system().root:
        return f"hs-{lab}"
    return f"hs-{lab}-{hashlib.sha256(str(home.root).encode()).hexdigest()[:6]}"


def identity_of(home: Home, lab: str) -> LabIdentity:
    """How the lab recognises its own objects.

    Older versions marked them without the home. Such objects belong to the home that has the lab's directory, or to
    root's own home, where that directory may have been lost.
    """
    paths = home.lab(lab)
    return LabIdentity(lab, home.id, paths.disks, inherits=paths.root.is_dir() or home.root == Home.system().root)
