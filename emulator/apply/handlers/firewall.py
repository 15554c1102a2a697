"""Firewall: the lab's own nftables table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from emulator.apply.firewall_rules import filter_table
from emulator.apply.handler import ApplyContext, Handle
from emulator.apply.ownership import LabIdentity
from emulator.core import ids
from emulator.core.errors import ConflictError
from emulator.core.ports import HypervisorSession
from emulator.core.ports.packet_filter import PacketFilter
from emulator.plan.model import Action, Observation, Presence, Recorded
from emulator.plan.resources import Firewall, Resource


class FirewallHandler:
    """`filter_` is the packet filter of the namespace that holds the lab's bridges."""

    def __init__(self, filter_: PacketFilter, session: HypervisorSession, identity: LabIdentity) -> None:
        self._filter = filter_
        self._session = session
        self._identity = identity

    def observe(self, resource: Firewall, record: Recorded | None) -> Observation:
        if self._unreachable():
            if record is None:
                return Observation(Presence.ABSENT)
            return Observation(Presence.UNKNOWN, detail="its hypervisor does not run")
        info = self._filter.table(resource.table)
        if info is None:
            # Not absent: replacing the table would replace its dependents, and guests need no restart for it.
            made = record is not None and record.open_action not in (Action.CREATE, Action.DELETE)
            return Observation(Presence.OURS, drift=("its table is gone",)) if made else Observation(Presence.ABSENT)
        if info.owner is None or not self._identity.owns(info.owner):
            return Observation(
                Presence.FOREIGN, detail=f"a table {info.name} is there already ({self._identity.whose(info.owner)})"
            )
        parts = record.handle.get("parts") if record else None
        drift = _drift(parts, info.parts) if isinstance(parts, Mapping) else ()
        return Observation(Presence.OURS, digest=info.owner.digest, drift=drift)

    def _unreachable(self) -> bool:
        """Whether the lab's own hypervisor is down: its namespace may be gone, and a new one comes without tables."""
        return self._session.private and self._session.peek() is None

    def ensure(self, resource: Firewall, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous, context
        info = self._filter.table(resource.table)
        if info and not self._identity.owns(info.owner):
            raise ConflictError(
                f"a table {info.name} is there already ({self._identity.whose(info.owner)})",
                where=resource.id,
                fix=f"if it is not needed: nft delete table inet {info.name}",
            )
        self._filter.replace(filter_table(self._identity.mark(resource.id, resource.digest), resource))
        made = self._filter.table(resource.table)
        # Later observations are compared with the table as the kernel reports it now.
        return {"table": resource.table, "parts": dict(made.parts) if made else {}}

    def delete(self, resource: Firewall, handle: Handle, context: ApplyContext) -> None:
        del handle, context
        if self._unreachable():
            return  # it goes with the namespace
        info = self._filter.table(resource.table)
        if info and self._identity.owns(info.owner):
            self._filter.delete(resource.table)

    def find(self, lab: str) -> Sequence[Resource]:
        if self._unreachable():
            return ()
        info = self._filter.table(ids.table_name(lab))
        if info is None or info.owner is None or not self._identity.owns(info.owner):
            return ()
        return (Firewall(name=info.owner.resource_id.partition("/")[2], table=info.name, zones=(), rules=()),)


def _drift(recorded: Mapping[str, str], there: Mapping[str, str]) -> tuple[str, ...]:
    """Parts of the table that were changed, added or removed by hand."""
    changed = sorted(name for name in {*recorded, *there} if recorded.get(name) != there.get(name))
    return (f"has been edited: {', '.join(changed[:6])}",) if changed else ()
