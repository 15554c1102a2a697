"""What is on the lab's hypervisor and looks like the lab's, but cannot be taken for it. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from emulator.apply.missing_metadata import missing_mark
from emulator.core.ports import DomainInfo, DomainState, NetworkInfo
from emulator.lab.lab import Lab
from emulator.plan.model import Blocker
from emulator.plan.resources import Domain, Network, Resource


def copy_notes(lab: Lab) -> tuple[str, ...]:
    """Notes on copies of the lab's domains and networks: the lab's mark was copied with their metadata."""
    view = lab.session.view()
    if view is None:
        return ()
    things: list[tuple[str, DomainInfo | NetworkInfo]] = [("domain", info) for info in view.domains()]
    things += [("network", info) for info in view.networks()]
    return tuple(
        f"{kind} {info.name} is a copy of this lab's {info.owner.resource_id} (it has another UUID) and is left alone"
        for kind, info in things
        if info.owner is not None and lab.identity.is_copy(info)
    )


def lost_blockers(lab: Lab, departing: Sequence[Resource]) -> tuple[Blocker, ...]:
    """Domains and networks on record that are to go and have lost the lab's mark: that is to be known before their
    disks are gone. On the lab's own hypervisor they are the lab's all the same."""
    view = lab.session.view()
    if view is None or lab.session.private:
        return ()
    blockers = []
    info: DomainInfo | NetworkInfo | None
    for resource in departing:
        match resource:
            case Domain():
                info = view.domain_by_uuid(UUID(resource.uuid))
            case Network():
                info = view.network_by_uuid(UUID(resource.uuid))
            case _:
                continue
        lost = missing_mark(lab.identity, info, resource.id) if info is not None else None
        if lost is not None:
            blockers.append(Blocker(resource.id, lost.what, lost.fix))
    return tuple(blockers)


def disk_blockers(lab: Lab) -> tuple[Blocker, ...]:
    """Machines of others that run on a disk of the lab's, which `destroy` would take away under them."""
    view = lab.session.view()
    if view is None or lab.session.private:
        return ()
    return tuple(
        Blocker(
            f"volume/{disk.stem}",
            f"domain {info.name} ({lab.identity.whose_is(info)}) runs on the disk {disk}",
            f"virsh shutdown {info.name}, or give it another disk; then run the same command again",
        )
        for info in view.domains()
        if info.state not in (DomainState.SHUTOFF, DomainState.CRASHED) and not lab.identity.owns_domain(info)
        for disk in (info.live or info).disks
        if disk.parent == lab.paths.disks
    )
