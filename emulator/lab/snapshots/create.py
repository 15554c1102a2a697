"""Make a snapshot: the guests stand still together, their states and disks are set aside, and they go on.

Each phase is on record before it begins, and can be carried out again. Once all states are saved there is only going
on: a guest that was let go on is never restored again, since its disk has been written to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from pathlib import Path

from emulator.apply.executor import os_errors_translated
from emulator.core.errors import ConflictError, HyperscalerError
from emulator.core.fs import sync
from emulator.core.ports import DomainState
from emulator.core.trust.identity import read_boot_id
from emulator.lab.run import LabRun
from emulator.lab.snapshots.guest_states import GuestStates
from emulator.lab.snapshots.manifest import SUSPENDED, Manifest, Operation, Phase, SavedNode, Verb
from emulator.lab.snapshots.present import domains
from emulator.lab.snapshots.store import SnapshotStore, used_bytes

_BLOCK = 1 << 20
SPARE_BYTES = 1 << 30
"""What stays free next to the guests' memory: new layers of disks grow from the first moment."""


@dataclasses.dataclass(frozen=True, slots=True)
class Creation:
    """The making of the snapshot `name`."""

    run: LabRun
    store: SnapshotStore
    guests: GuestStates
    name: str
    ram: bool

    @classmethod
    def of(cls, run: LabRun, name: str, *, ram: bool) -> Creation:
        store = SnapshotStore(run.paths)
        return cls(run, store, GuestStates(run, store), name, ram)

    def make(self, draft: Manifest) -> Manifest:
        """From the beginning to the end.

        Raises:
            HyperscalerError: a guest cannot be saved, or the disk is full; the lab goes on as before.
        """
        self._record(Phase.SAVING)
        self.guests.begin("snapshot")
        paused = time.monotonic()
        try:
            with os_errors_translated(f"snapshot {self.name}"):
                self.store.begin(draft)
                self._save()
        except HyperscalerError:
            with contextlib.suppress(HyperscalerError):  # the first error is the one to report; the record stays
                self._undo()
            raise
        return self._from_freezing(paused)

    def _save(self) -> None:
        if self.ram:
            self.guests.pause()
            self.guests.save(self.name)
        else:
            self.guests.shut_down()

    def _from_freezing(self, paused: float) -> Manifest:
        self._record(Phase.FREEZING)
        self.guests.freeze(self.name)
        if self.ram:
            self.guests.restore(self.name, only_off=True)
        self._record(Phase.RESUMING)
        self._resume()
        return self._seal(time.monotonic() - paused)

    def _resume(self) -> None:
        if self.ram:
            # One that is off by now has gone on and ended by itself: it boots.
            self.guests.resume(domains(self.run))
        else:
            self.guests.boot()
        self.guests.end("snapshot")

    def _seal(self, paused_seconds: float) -> Manifest:
        """Sum up what was set aside; from here on it is a snapshot."""
        self._record(Phase.SEALING)
        with os_errors_translated(f"snapshot {self.name}"):
            return self._published(paused_seconds)

    def _published(self, paused_seconds: float) -> Manifest:
        draft = self.store.draft(self.name)
        nodes = tuple(self._summed(node) for node in draft.nodes)
        manifest = dataclasses.replace(draft, nodes=nodes, paused_seconds=round(paused_seconds, 1))
        self.store.publish(manifest)
        self.store.clear()
        return manifest

    def _summed(self, node: SavedNode) -> SavedNode:
        disk, ram = self.store.frozen(self.name, node.name), self.store.ram(self.name, node.name)
        base = self.run.env.disks.overlay_base(disk)
        for path in (disk, ram) if self.ram else (disk,):
            sync(path)  # while the guests stood still there was no time for that
        return dataclasses.replace(
            node,
            base=str(base or ""),
            disk_bytes=used_bytes(disk),
            ram_bytes=used_bytes(ram),
            disk_sha256=sum_of(disk),
            ram_sha256=sum_of(ram) if self.ram else "",
        )

    # ---------------------------------------------------------------- after a stop
    def settle(self, operation: Operation) -> None:
        """Bring what a killed command has begun to an end: undone while guests were saved, else carried on.

        After a reboot of the host no guest is on, and what was not synced may be lost: the snapshot is given up, and
        the guests boot from their disks, as after every reboot.
        """
        if self.name in self.store.names():  # it was sealed, and only its end was not put on record
            self.store.clear()
            return
        rebooted = operation.boot != read_boot_id() or self.run.lab.session.revive() is None
        if operation.phase is Phase.SEALING and not rebooted:
            self._seal(0.0)
        elif rebooted:
            self._give_up(operation)
        elif operation.phase is Phase.SAVING:
            self._undo()
        elif operation.phase is Phase.FREEZING:
            self._from_freezing(time.monotonic())
        else:
            self._resume()
            self._seal(0.0)

    def _undo(self) -> None:
        """The guests as they were; those that were shut down boot."""
        if self.ram:
            self.guests.take_back(self.name)
            self.guests.end("snapshot")
        else:
            self._resume()
        self._forget()

    def _give_up(self, operation: Operation) -> None:
        if operation.phase is Phase.FREEZING:
            for node in domains(self.run):  # a disk with two names gets its overlay, or loses the second name
                if self.store.frozen(self.name, node).exists():
                    self.run.env.disks.freeze(self.store.disk(node), self.store.frozen(self.name, node))
        for node, domain in domains(self.run).items():
            self.store.ram(self.name, node).unlink(missing_ok=True)
            self.run.store.end("snapshot", domain, self.run.store.handle(domain.id))
        self._forget()

    def _forget(self) -> None:
        self.store.clear()
        self.store.collect(self.run.env.disks)

    def _record(self, phase: Phase) -> None:
        self.store.record(Operation(Verb.CREATE, self.name, phase, self.ram, read_boot_id()))


def require_ready(creation: Creation) -> None:
    """Raise unless a snapshot can be made now; nothing was changed.

    Raises:
        ConflictError: a guest does not run, has a device of the host, or there is no space for the guests' memory.
    """
    infos = creation.guests.infos()
    wanted = [node.name for node in creation.run.spec.nodes]
    found = {node: info.state for node, info in infos.items() if info is not None}
    stopped = [node for node in dict.fromkeys((*wanted, *infos)) if found.get(node) is not DomainState.RUNNING]
    name = creation.run.name
    if stopped:
        raise ConflictError(
            f"not all machines of the lab run: {', '.join(stopped)}", where=name, fix="hyperscaler provision FILE"
        )
    held = devices_of(creation.guests)
    if creation.ram and held:
        raise ConflictError(
            f"the memory of {', '.join(held)} cannot be saved: a device of the host is passed to it, whose state nobody"
            " can read",
            where=name,
            fix=f"hyperscaler stop {name}"
            if creation.name == SUSPENDED
            else f"hyperscaler snapshot create {name} {creation.name} --disk-only",
        )
    memory = sum(info.memory_mib for info in infos.values() if info is not None) << 20 if creation.ram else 0
    free = creation.store.free_bytes()
    if free < memory + SPARE_BYTES:
        raise ConflictError(
            f"there are {free / 2**30:.1f} GiB free where the disks are; a snapshot may take"
            f" {(memory + SPARE_BYTES) / 2**30:.1f} GiB: the guests' memory, and room for their disks to grow",
            where=str(creation.store.root.parent),
            fix="free space there (hyperscaler snapshot list, hyperscaler image gc)",
        )


def devices_of(guests: GuestStates) -> tuple[str, ...]:
    """Names of the nodes that have devices of the host."""
    infos = {node: info for node, info in guests.infos().items() if info is not None}
    return tuple(node for node, info in infos.items() if info.hostdevs or (info.live and info.live.hostdevs))


def sum_of(path: Path) -> str:
    """SHA-256 over the content of a file."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            total.update(block)
    return total.hexdigest()
