"""The host libvirt's files on disk: the only evidence of its guests while it does not answer."""

from __future__ import annotations

from pathlib import Path

# Where libvirt (built with sysconfdir /etc by every distribution) keeps the definitions of `qemu:///system`, and the
# descriptions of running domains.
DEFINITIONS = (Path("/etc/libvirt/qemu"), Path("/etc/libvirt/qemu/networks"))
RUNNING = (Path("/run/libvirt/qemu"), Path("/run/libvirt/network"))


def may_have(prefix: str, directories: tuple[Path, ...] = (*DEFINITIONS, *RUNNING)) -> bool:
    """Whether a domain or network whose name begins with `prefix` is described there; True if that is unreadable."""
    for directory in directories:
        try:
            names = [entry.name for entry in directory.iterdir()]
        except FileNotFoundError:
            continue  # libvirt is not installed, or never had any
        except OSError:
            return True
        if any(name.startswith(prefix) and name.endswith(".xml") for name in names):
            return True
    return False
