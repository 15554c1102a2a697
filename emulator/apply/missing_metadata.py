"""Domains and networks that have a UUID of the lab but no longer its mark, so that their owner is unknown."""

from __future__ import annotations

from emulator.apply.ownership import LabIdentity
from emulator.core.errors import ConflictError
from emulator.core.ports import DomainInfo, Hypervisor, HypervisorSession, NetworkInfo


def missing_mark(lab: LabIdentity, info: DomainInfo | NetworkInfo, resource_id: str) -> ConflictError | None:
    """Why an object with this resource's UUID is not removed; None if it is the lab's or certainly another lab's.

    A lab of the same name in another home has the same UUIDs. A mark that names that lab is believed, except for a
    domain on this lab's disk, which would lose its disk.
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
        f"{kind} {info.name} has the UUID that the lab gave it, but not the lab's mark in its metadata any more, so "
        "it is left alone",
        where=resource_id,
        fix=f"if it is not needed: virsh {remove.format(info.name)}; then run the same command again",
    )


def hypervisor_for_removal(session: HypervisorSession) -> Hypervisor | None:
    """The hypervisor from which the lab's objects are removed; None if it is the lab's own and does not run, because
    its guests ended with it. Any other hypervisor must answer."""
    return session.peek() if session.private else session.get()


def may_remove(lab: LabIdentity, info: DomainInfo | NetworkInfo, resource_id: str, *, private: bool) -> bool:
    """Whether the object with this resource's UUID may be removed. On the lab's own hypervisor (`private`) a missing
    mark is no obstacle.

    Raises:
        ConflictError: its owner is unknown.
    """
    lost = missing_mark(lab, info, resource_id)
    if lost is not None and not private:
        raise lost
    return lost is not None or lab.owns_thing(info)
