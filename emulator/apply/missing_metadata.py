"""Domains and networks with a UUID of the lab's that have lost its mark: nobody can tell whose they are now."""

from __future__ import annotations

from emulator.apply.ownership import LabIdentity
from emulator.core.errors import ConflictError
from emulator.core.ports import DomainInfo, Hypervisor, HypervisorSession, NetworkInfo


def lost_mark(lab: LabIdentity, info: DomainInfo | NetworkInfo, resource_id: str) -> ConflictError | None:
    """Why something with the UUID of this resource is not taken away; None when it is the lab's, or surely another's.

    That of a lab of the same name in another home has the same UUID. A mark that names it is believed, but not of a
    domain whose disk is this lab's: the disk would be taken away under it.
    """
    if isinstance(info, DomainInfo):
        kind, remove = "domain", "destroy {0}; virsh undefine {0}"
        on_disk = bool(info.disks) and lab.has_disks_of(info)
    else:
        kind, remove = "network", "net-destroy {0}; virsh net-undefine {0}"
        on_disk = False
    if lab.owns_thing(info) or not (info.owner is None or on_disk):
        return None
    return ConflictError(
        f"{kind} {info.name} has the UUID that the lab gave it, but no longer the lab's mark in its metadata, so that "
        "it is left alone",
        where=resource_id,
        fix=f"if nobody needs it: virsh {remove.format(info.name)}; then run the same command again",
    )


def to_take_from(session: HypervisorSession) -> Hypervisor | None:
    """Where the lab's things are taken away. The guests of a private hypervisor that does not run ended with it; any
    other must answer."""
    return session.peek() if session.private else session.get()


def is_to_go(lab: LabIdentity, info: DomainInfo | NetworkInfo, resource_id: str, *, private: bool) -> bool:
    """Whether what has the UUID of this resource is taken away with it; on the lab's own hypervisor (`private`) nothing
    is another's.

    Raises:
        ConflictError: nobody can tell whose it is.
    """
    lost = lost_mark(lab, info, resource_id)
    if lost is not None and not private:
        raise lost
    return lost is not None or lab.owns_thing(info)
