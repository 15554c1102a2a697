"""Go back to a snapshot: everything as it was, but for who may log in and with what.

Each phase is on record before it begins, and can be carried out again. While the guests are rewound none has gone on,
so that it is simply done anew; once one may have, no state is restored any more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from emulator.core.errors import HyperscalerError, StateError
from emulator.core.trust.identity import read_boot_id
from emulator.lab.run import LabRun
from emulator.lab.snapshots.create import sum_of
from emulator.lab.snapshots.guest_states import GuestStates
from emulator.lab.snapshots.heal import Healing
from emulator.lab.snapshots.manifest import Manifest, Operation, Phase, Verb
from emulator.lab.snapshots.present import domains
from emulator.lab.snapshots.store import SnapshotStore


@dataclasses.dataclass(frozen=True, slots=True)
class Restoration:
    """The way back to the snapshot `manifest`; with `ram` its guests go on from their memory, else they boot.

    `verb`: suspend for a lab that was suspended: its guests go on with the disks that they have.
    """

    run: LabRun
    store: SnapshotStore
    guests: GuestStates
    manifest: Manifest
    ram: bool
    verb: Verb = Verb.RESTORE

    @classmethod
    def of(cls, run: LabRun, manifest: Manifest, *, ram: bool, verb: Verb = Verb.RESTORE) -> Restoration:
        store = SnapshotStore(run.paths)
        return cls(run, store, GuestStates(run, store), manifest, ram, verb)

    @property
    def _action(self) -> str:
        """In the journal."""
        return "resume" if self.verb is Verb.SUSPEND else "rewind"

    @property
    def name(self) -> str:
        return self.manifest.name

    def require_whole(self) -> None:
        """Raise unless the files of the snapshot are what was set aside; nothing was changed.

        The sums of the disks are left to `check_disks`: they take as long as the disks are large.

        Raises:
            StateError: a file is missing or damaged.
        """
        for node in self.manifest.nodes:
            frozen, ram = self.store.frozen(self.name, node.name), self.store.ram(self.name, node.name)
            if not frozen.is_file() or str(self.run.env.disks.overlay_base(frozen) or "") != node.base:
                raise _damaged(self.name, f"the disk of {node.name}", str(frozen))
            if self.ram and (not ram.is_file() or sum_of(ram) != node.ram_sha256):
                raise _damaged(self.name, f"the saved state of {node.name}", str(ram))

    def carry_out(self) -> None:
        """From the beginning to the end.

        Raises:
            HyperscalerError: a guest cannot be restored, or not be brought up to date; the same command goes on.
        """
        self._record(Phase.REWINDING)
        self.guests.begin(self._action)
        self._from_rewinding()

    def _from_rewinding(self) -> None:
        self.guests.power_off()
        if self.verb is Verb.RESTORE:
            self.guests.rewind(self.name)
        if self.ram:
            self.guests.restore(self.name)
        self._from_resuming()

    def _from_resuming(self) -> None:
        self._record(Phase.RESUMING)
        healing = self._healing()
        healing.close_networks()
        if self.ram:
            self.guests.resume(domains(self.run))
        else:
            self.guests.boot()
        self.guests.end(self._action, started_with=self.manifest if self.ram else None)
        self._record(Phase.HEALING)
        self._heal(healing)

    def _heal(self, healing: Healing) -> None:
        healing.heal()
        self.store.clear()
        self.store.collect(self.run.env.disks)

    # ---------------------------------------------------------------- after a stop
    def settle(self, operation: Operation) -> None:
        """Carry on what a killed command has begun. After a reboot of the host no guest is on: they boot from the
        rewound disks with the command that brings the hypervisor back, and are healed when this is called again."""
        up = self.run.lab.session.revive() is not None
        healing = operation.phase is Phase.HEALING
        if not healing and (operation.boot != read_boot_id() or not up):
            self._after_reboot(operation)
        elif operation.phase is Phase.REWINDING:
            self._from_rewinding()
        elif operation.phase is Phase.RESUMING:
            self._from_resuming()
        elif up and all(self.guests.is_on(node) for node in domains(self.run)):
            self._heal(self._healing())

    def _after_reboot(self, operation: Operation) -> None:
        if operation.phase is Phase.REWINDING:
            self._rewind_disks_alone()
        self.guests.end(self._action)
        self.store.record(dataclasses.replace(operation, phase=Phase.HEALING, ram=False, boot=read_boot_id()))

    def _healing(self) -> Healing:
        return Healing(self.run, self.manifest, self.store.key(self.name), booted=not self.ram)

    def _rewind_disks_alone(self) -> None:
        for node in domains(self.run):
            self.run.env.disks.rewind(self.store.disk(node), base=self.store.frozen(self.name, node))

    def _record(self, phase: Phase) -> None:
        self.store.record(Operation(self.verb, self.name, phase, self.ram, read_boot_id()))


def check_disks(store: SnapshotStore, manifest: Manifest) -> Mapping[str, bool]:
    """Whether each frozen disk has the content that was set aside, by node; reads them whole."""
    found = {}
    for node in manifest.nodes:
        frozen = store.frozen(manifest.name, node.name)
        found[node.name] = frozen.is_file() and sum_of(frozen) == node.disk_sha256
    return found


def _damaged(name: str, what: str, where: str) -> HyperscalerError:
    return StateError(
        f"{what} in snapshot {name} is not what was set aside; nothing was changed",
        where=where,
        fix="delete that snapshot, or restore with --disk-only if its disks are whole (hyperscaler snapshot show"
        " --check)",
    )
