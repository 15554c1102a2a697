"""One command at work on one lab: what all its stages share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from emulator.apply.state import State, StateStore
from emulator.core.errors import UsageError
from emulator.core.paths import LabPaths
from emulator.core.ports import GuestShell
from emulator.core.progress import Reporter
from emulator.core.stop import StopFlag
from emulator.core.waiting.pace import Pace
from emulator.guests.ports import Access
from emulator.lab.command_log import CommandLog, logged_lock
from emulator.lab.environment import Environment
from emulator.lab.lab import Lab, open_lab
from emulator.lab.lab_files import load_recorded_lab, require_lab
from emulator.lab.open_journal import LabRecord, open_record
from emulator.lab.planning.gpu_placement import node_gpus
from emulator.lab.planning.plan import recorded_backends
from emulator.lab.planning.release_on_disks import slurm_on_disks
from emulator.labfile.model import ClusterSpec


@dataclass(frozen=True, slots=True)
class LockedRun:
    """A command that holds a lab's lock and has opened its record.

    Attributes:
        env: everything outside the program.
        record: the lab's journal, and where the lab is.
        reporter: for progress and warnings.
        stop: set when the user asks the command to stop.
        log: the host's record of who changed what.
    """

    env: Environment
    record: LabRecord
    reporter: Reporter
    stop: StopFlag
    log: CommandLog

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def store(self) -> StateStore:
        return self.record.store

    @property
    def state(self) -> State:
        return self.record.state

    @property
    def paths(self) -> LabPaths:
        return self.record.paths

    def begin(self, **facts: str) -> None:
        """Note in the journal and in the host's log that this command changes something from here on."""
        self.log.begin(self.store, **facts)

    def on(self, lab: Lab, spec: ClusterSpec) -> LabRun:
        """The run of this command on the opened lab."""
        return LabRun(self.env, self.record, self.reporter, self.stop, self.log, lab, spec)


@dataclass(frozen=True, slots=True)
class LabRun(LockedRun):
    """A command at work on an opened lab.

    Attributes:
        lab: its hypervisor, GPUs and handlers.
        spec: the lab file.
    """

    lab: Lab
    spec: ClusterSpec

    @property
    def access(self) -> Access:
        """The way into the nodes, with the GPUs and the Slurm that the nodes have by the record as it is now."""
        slurm = slurm_on_disks(self.spec, self.state.resources)
        return self.lab.access(self.spec.ssh.user, node_gpus(self.spec, self.state), self.pace, slurm)

    @property
    def pace(self) -> Pace:
        """How patient to be on this host; measured once in a run."""
        return self.env.pace(self.spec)

    @property
    def shell(self) -> GuestShell:
        return self.env.guests.shell(self.access)


@contextmanager
def locked_run(
    env: Environment, name: str, command: str, reporter: Reporter, stop: StopFlag, *, wait_seconds: float = 0.0
) -> Iterator[LockedRun]:
    """Take the lab's lock and open its record, for the block.

    Args:
        env: everything outside the program.
        name: of the lab.
        command: for the journal, the log and the message to commands that find the lock taken.
        reporter: for progress and warnings.
        stop: ends the wait for the lock.
        wait_seconds: how long to wait for a command that holds the lock.

    Raises:
        ConflictError: another command works on the lab, or the journal is another lab's.
    """
    with logged_lock(env.home, name, command, reporter, stop, wait_seconds=wait_seconds) as log:
        yield LockedRun(env, open_record(env.home, name), reporter, stop, log)


@contextmanager
def provisioned_run(
    env: Environment,
    name: str,
    command: str,
    reporter: Reporter,
    stop: StopFlag,
    *,
    spec: ClusterSpec | None = None,
    wait_seconds: float = 0.0,
) -> Iterator[LabRun]:
    """Like `locked_run`, on a lab that is provisioned. Without a `spec` it goes by the lab file as last provisioned.

    Raises:
        UsageError: there is no such lab, or it is not provisioned.
        ConflictError: another command works on the lab, or the journal is another lab's.
    """
    if spec is None:
        require_lab(env.home, name)
    with locked_run(env, name, command, reporter, stop, wait_seconds=wait_seconds) as run:
        # Read under the lock: the command that held it may have provisioned another file.
        wanted = spec or load_recorded_lab(env.home, name).spec
        yield run.on(open_provisioned(env, run.record), wanted)


def open_provisioned(env: Environment, record: LabRecord) -> Lab:
    """The lab on the hypervisor and GPUs that it is recorded on.

    Raises:
        UsageError: nothing was ever made of it.
    """
    backends = recorded_backends(record.state)
    if not backends.hypervisor:
        raise UsageError(f"lab {record.name} is not provisioned", fix="hyperscaler provision FILE")
    return open_lab(env, record, backends)
