"""Put a lab to rest and wake it: with the memory of its machines in files, or shut down."""

from __future__ import annotations

import contextlib
import dataclasses

from emulator.apply.executor import Executor, os_errors_translated
from emulator.core.errors import HyperscalerError
from emulator.core.fs import sync
from emulator.core.trust.identity import read_boot_id
from emulator.host.acceleration import AccelerationDecision
from emulator.lab.planning.plan import plan_lab, refuse_blocked
from emulator.lab.run import LabRun
from emulator.lab.snapshots.guest_states import GuestStates
from emulator.lab.snapshots.manifest import SUSPENDED, Manifest, Operation, Phase, Verb
from emulator.lab.snapshots.present import domains
from emulator.lab.snapshots.restore import Restoration
from emulator.lab.snapshots.store import SnapshotStore
from emulator.plan.resources import Domain, GoldenImage, Volume


@dataclasses.dataclass(frozen=True, slots=True)
class Parking:
    """The rest of the lab of `run`."""

    run: LabRun
    store: SnapshotStore
    guests: GuestStates

    @classmethod
    def of(cls, run: LabRun) -> Parking:
        store = SnapshotStore(run.paths)
        return cls(run, store, GuestStates(run, store))

    def suspend(self, draft: Manifest) -> None:
        """Save the memory of all machines, synced, and free it.

        Raises:
            HyperscalerError: a guest cannot be saved; the lab goes on as before.
        """
        self._record(Verb.SUSPEND, Phase.SAVING)
        self.guests.begin("suspend")
        try:
            with os_errors_translated(SUSPENDED):
                self.store.begin(draft)
                self.guests.pause()
                self.guests.save(SUSPENDED)
                for node in domains(self.run):
                    sync(self.store.ram(SUSPENDED, node))
                sync(self.store.directory(SUSPENDED))
        except HyperscalerError:
            with contextlib.suppress(HyperscalerError):  # the first error is the one to report; the record stays
                self._take_back()
            raise
        self.guests.end("suspend")
        self._record(Verb.SUSPEND, Phase.PARKED)

    def stop(self) -> None:
        """Shut all machines down, workers first."""
        self._record(Verb.STOP, Phase.SAVING)
        self.guests.begin("stop")
        self.guests.shut_down()
        self.guests.end("stop")
        self._record(Verb.STOP, Phase.PARKED)

    def resume(self) -> None:
        """Let the machines of a suspended lab go on.

        Raises:
            HyperscalerError: one cannot be restored; the same command goes on.
        """
        Restoration.of(self.run, self.store.draft(SUSPENDED), ram=True, verb=Verb.SUSPEND).carry_out()

    def bring_up_host(self, acceleration: AccelerationDecision) -> None:
        """The hypervisor, networks and services of the lab, as `provision` would have them: after a reboot of the host
        there are none. No disk is touched, and no machine.

        Raises:
            HyperscalerError: something is in the way; the lab stays suspended.
        """
        run = self.run
        plan = plan_lab(run.lab, run.state, run.spec, acceleration)
        others = tuple(item for item in plan.changes if not isinstance(item.resource, (Domain, Volume, GoldenImage)))
        refuse_blocked(plan)
        Executor(run.lab.handlers, run.store, run.reporter, stop=run.stop).apply(
            dataclasses.replace(plan, changes=others)
        )

    def forget(self) -> None:
        """The lab is at rest no more, and memory that was saved is given up; its machines are for `provision`."""
        for node in domains(self.run):
            self.store.ram(SUSPENDED, node).unlink(missing_ok=True)
        self.store.clear()
        self.store.collect(self.run.env.disks)

    # ---------------------------------------------------------------- after a stop of the command
    def settle(self, operation: Operation) -> None:
        """Bring what a killed command has begun to an end: a lab that was not at rest yet goes on. One that was about
        to go on stays suspended after a reboot of the host, unless a machine went on already."""
        rebooted = operation.boot != read_boot_id() or self.run.lab.session.revive() is None
        if operation.verb is Verb.STOP:
            self.guests.end("stop")
            self.store.clear()
        elif operation.phase is Phase.SAVING:
            self._give_up() if rebooted else self._take_back()
        elif operation.phase is Phase.REWINDING and rebooted:
            self.guests.end("resume")
            self._record(Verb.SUSPEND, Phase.PARKED)
        else:
            found = Restoration.of(self.run, self.store.draft(SUSPENDED), ram=operation.ram, verb=Verb.SUSPEND)
            found.settle(operation)

    def _take_back(self) -> None:
        self.guests.take_back(SUSPENDED)
        self._forget()

    def _give_up(self) -> None:
        for node in domains(self.run):
            self.store.ram(SUSPENDED, node).unlink(missing_ok=True)
        self._forget()

    def _forget(self) -> None:
        self.guests.end("suspend")
        self.store.clear()
        self.store.collect(self.run.env.disks)

    def _record(self, verb: Verb, phase: Phase) -> None:
        self.store.record(Operation(verb, SUSPENDED, phase, verb is Verb.SUSPEND, read_boot_id()))
