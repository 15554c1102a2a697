"""Every place where a command can be stopped: before and after each call of an adapter and each journal line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from unittest.mock import patch

from emulator.core.errors import (
    CommandError,
    CommandTimeoutError,
    ConfigureError,
    ConflictError,
    DamagedDiskError,
    HostNotFitError,
    HyperscalerError,
    HypervisorError,
    ServiceError,
    StateError,
    UsageError,
    VerifyError,
    WaitTimeoutError,
)
from emulator.gpu.errors import (
    GpuArgumentError,
    GpuBusyError,
    GpuDriverError,
    GpuLostError,
    GpuNoRoomError,
    GpuNotFoundError,
    GpuNotSupportedError,
    GpuPermissionError,
    GpuResetRequiredError,
    GpuTimeoutError,
)
from emulator.lab.lab_files import LoadedLab
from tests.support.simulated_world import LAB, SimulatedHost, Snapshot, comparable, differences, journal_hooked

Command = Callable[[], object]
Fault = Callable[[str], Exception | None]


class PowerCut(BaseException):
    """The process ends here. No code may swallow it."""


class Killed(BaseException):
    """The process ends here as by SIGKILL: no code learns of it."""


class InlinePool(Executor):
    """A pool that runs each task at once, so that the n-th call of an adapter is the same call in every run."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  what a pool does, too
            future.set_exception(error)
        return future


def inline(_most: int, _name: str) -> Executor:
    return InlinePool()


@contextmanager
def in_sequence() -> Iterator[None]:
    """One thread; and no waiting for the disk, since it is not the machine that loses power."""
    with ExitStack() as stack:
        stack.enter_context(patch("emulator.core.pool.start", inline))
        # A GPU has this many virtual functions where no public source counts them; fewer are looked at faster.
        stack.enter_context(patch("emulator.adapters.simulated.nvml.engine_vgpu.DEFAULT_VFS", 4))
        stack.enter_context(patch("os.fsync", lambda _descriptor: None))
        yield


def key_of(snapshot: Snapshot) -> str:
    """What the next command goes by: of a journal what it amounts to, and whether it is torn.

    `output/` is written for people, from the record and after every run, also one that an exception has ended.
    """
    facts = comparable(snapshot, journal="state")
    told = repr(sorted(item for item in facts.items() if f"labs/{LAB}/output" not in item[0]))
    return hashlib.sha256(told.encode(errors="surrogateescape")).hexdigest()


@dataclass
class Stops:
    """The stop points of a command by number: where they are, and what a crash there leaves behind.

    `states` holds each distinct machine once: many calls only look, so that stopping before and after them
    leaves the same files.
    """

    names: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    states: dict[str, Snapshot] = field(default_factory=dict)
    end: str = ""
    """The key of the machine after the command."""

    def add(self, name: str, snapshot: Snapshot) -> None:
        key = key_of(snapshot)
        self.names.append(name)
        self.keys.append(key)
        self.states.setdefault(key, snapshot)

    def where(self, key: str) -> str:
        return self.names[self.keys.index(key)]


def find_stops(host: SimulatedHost, command: Command) -> Stops:
    """Run a command to its end and note what is on the machine at each stop point.

    A journal line that is being written is a stop point of its own: half of it is on the disk.
    """
    stops = Stops()
    before: list[Snapshot] = []

    def enter(name: str) -> None:
        before.append(host.save())
        stops.add(f"before {name}", before[-1])

    def leave(name: str) -> None:
        now, then = host.save(), before.pop()
        if name == "journal.append":
            stops.add(f"within {name}", half_written(then, now))
        stops.add(f"after {name}", now)

    with hooked(host, enter, leave):
        command()
    stops.end = key_of(host.save())
    return stops


def half_written(then: Snapshot, now: Snapshot) -> Snapshot:
    torn = dict(now)
    for name, (mode, content) in now.items():
        if name.endswith("journal.jsonl") and content is not None:
            old = (then.get(name) or (0, b""))[1] or b""
            if content != old:
                torn[name] = (mode, content[: len(old) + (len(content) - len(old)) // 2])
    return torn


def stop_at(host: SimulatedHost, command: Command, number: int, end: Callable[[], None]) -> str:
    """Run a command and end it at a stop point; returns the point's name, or nothing when it was not reached.

    The points are counted as in `find_stops`. After the end nothing reaches the machine any more.
    """
    count = 0
    reached = ""
    position = 0

    def enter(name: str) -> None:
        step(f"before {name}")

    def leave(name: str) -> None:
        nonlocal position
        if name == "journal.append":
            position += 1  # half a line cannot be had by an exception; `find_stops` makes that state
        step(f"after {name}")

    def step(name: str) -> None:
        nonlocal count, reached, position
        if reached:
            raise PowerCut
        if position == number:
            reached = name
            end()
        count += 1
        position += 1

    with hooked(host, enter, leave):
        try:
            command()
        except PowerCut:
            return reached
    assert not reached, f"the command went on after it was stopped {reached}"
    return ""


def cut() -> None:
    raise PowerCut


def fail_at(host: SimulatedHost, command: Command, number: int, fault: Fault) -> tuple[str, BaseException | None]:
    """Run a command in which one call reports an error, and what came of it.

    The points are counted as in `find_stops`; `fault` gives the error for a name such as `after nvml.instances`.
    """
    position = 0
    failed = ""

    def enter(name: str) -> None:
        step(f"before {name}")

    def leave(name: str) -> None:
        nonlocal position
        position += name == "journal.append"
        step(f"after {name}")

    def step(name: str) -> None:
        nonlocal position, failed
        position += 1
        if position - 1 == number and (error := fault(name)) is not None:
            failed = name
            raise error

    with hooked(host, enter, leave):
        try:
            command()
        except Exception as error:  # noqa: BLE001  the caller judges it
            return failed, error
    return failed, None


@contextmanager
def hooked(host: SimulatedHost, enter: Callable[[str], None], leave: Callable[[str], None]) -> Iterator[None]:
    """`enter` and `leave` are called around each call of an adapter and each journal line, with its name."""
    hook = host.hook
    kept = hook.before, hook.after
    hook.before, hook.after = enter, leave
    try:
        with journal_hooked(hook):
            yield
    finally:
        hook.before, hook.after = kept


@dataclass
class Sweep:
    """A lab on a machine with others' things, its stop points, and the two machines that count: before and with it."""

    name: str
    host: SimulatedHost
    lab: LoadedLab

    def __post_init__(self) -> None:
        self.recovered: set[str] = set()
        self.planned: set[str] = set()
        self.losses: dict[str, dict[str, Stops]] = {}
        """Of `test_power_loss.py`: what losses of power leave, by command and by way to forget."""
        self.host.seed_foreign()
        self.initial = self.host.save()
        self.provisioning: Stops = find_stops(self.host, self.provision)
        self.done = self.host.save()
        self.destroying: Stops = find_stops(self.host, self.destroy)

    def provision(self) -> None:
        self.host.provision(self.lab)

    def destroy(self) -> None:
        self.host.destroy()

    def assert_recovers_from(self, key: str, machine: Snapshot, where: str) -> None:
        """The same from a machine that a stop left (`key_of`). Of stops that leave the same machine one is recovered
        from, whichever test of the sweep came to it first: the next command cannot tell them apart."""
        if key not in self.recovered:
            self.host.restore(machine)
            self.assert_recovers(where)
            self.recovered.add(key)

    def assert_recovers(self, where: str) -> None:
        """From the machine as it is: provisioning goes on to the same lab, and destroying leaves nothing."""
        stopped = self.host.save()
        self.provision()
        other = self.differences_to_done()
        assert not other, f"provisioned again after a stop {where}: {other}"
        self._assert_finished(where)
        self.host.restore(stopped)
        self.assert_destroys(where)

    def _assert_finished(self, where: str) -> None:
        """On the finished lab nothing is left to do. That follows from the machine, which is the same by now, and from
        what `comparable` leaves out of the record: it is asked once for each such record."""
        record = repr(sorted((name, repr(found)) for name, found in self.host.state().resources.items()))
        if record not in self.planned:
            plan = self.host.plan(self.lab)
            assert plan.is_empty and not plan.blockers, (where, plan)
            self.planned.add(record)

    def assert_destroys(self, where: str) -> None:
        try:
            self.destroy()
        except UsageError:  # nothing had begun, or all was gone
            assert not self.host.home.lab(LAB).root.exists(), where
        left = differences(comparable(self.host.save(), images=False), self._without_lab)
        assert not left, f"destroyed after a stop {where}"

    def differences_to_done(self) -> dict[str, tuple[str | None, str | None]]:
        return differences(comparable(self.host.save(), journal="state"), self._finished)

    @cached_property
    def _finished(self) -> dict[str, str]:
        return comparable(self.done, journal="state")

    @cached_property
    def _without_lab(self) -> dict[str, str]:
        return comparable(self.initial, images=False)


# What the ports document for each of their calls, by the beginning of its name in a sweep; the first entry that fits.
# NVML and what is built on it may report any error of the driver's.
_GPU: tuple[type[HyperscalerError], ...] = (
    GpuArgumentError,
    GpuBusyError,
    GpuDriverError,
    GpuLostError,
    GpuNoRoomError,
    GpuNotFoundError,
    GpuNotSupportedError,
    GpuPermissionError,
    GpuResetRequiredError,
    GpuTimeoutError,
)
_COMMAND = (CommandError, CommandTimeoutError, HostNotFitError)
ERRORS: tuple[tuple[str, tuple[type[HyperscalerError], ...]], ...] = (
    ("journal.", (StateError,)),
    ("ledger", (StateError,)),
    ("accounts", (StateError,)),
    ("guests.configure", (ConfigureError, HostNotFitError)),
    ("guests.verify", (VerifyError, ConfigureError)),
    ("guests.", (StateError,)),
    ("ssh-keygen", _COMMAND),
    ("images.", (StateError, HostNotFitError, CommandError)),
    ("nvml.", _GPU),
    ("pci.", (GpuDriverError, GpuPermissionError, GpuTimeoutError)),
    ("sriov.", (GpuDriverError, GpuBusyError, GpuNotSupportedError, GpuTimeoutError)),
    ("vgpus.", (GpuNoRoomError, GpuArgumentError, GpuBusyError, GpuPermissionError, GpuTimeoutError)),
    ("passthrough.", (GpuDriverError, GpuBusyError, GpuTimeoutError)),
    ("create_overlay", (*_COMMAND, ConflictError)),
    ("overlay_base", (*_COMMAND, DamagedDiskError)),
    ("size_gib", _COMMAND),
    ("freeze", (*_COMMAND, DamagedDiskError)),
    ("rewind", _COMMAND),
    ("resize", _COMMAND),
    ("run", _COMMAND),
    ("daemon.", (HypervisorError, HostNotFitError, ConflictError)),
    ("admit_guests", (HypervisorError,)),
    ("define_", (HypervisorError, ConflictError)),
    ("start_", (HypervisorError, ConflictError)),
    ("delete_", (HypervisorError,)),
    ("shutdown_", (WaitTimeoutError, HypervisorError)),
    ("pause_", (HypervisorError,)),
    ("power_off_", (HypervisorError,)),
    ("save_", (HypervisorError,)),
    ("restore_", (HypervisorError,)),
    ("flatten_", (HypervisorError,)),
    ("machine", (HypervisorError,)),
    ("write ", (StateError,)),
    ("domain", (HypervisorError,)),
    ("network", (HypervisorError,)),
    ("filter.", _COMMAND),
    ("services.", (ServiceError, StateError)),
    ("units.", (HostNotFitError, CommandError)),
)
# `ready` answers yes or no and nothing else, `close` always works, and a `gpu` is no call but an effect inside one.
SILENT = ("ready", "close", "gpu")


def documented(name: str) -> tuple[HyperscalerError, ...]:
    """The errors that a call can end with; none for what cannot fail."""
    call = name.partition(" ")[2]
    kinds = next((kinds for start, kinds in ERRORS if call.startswith(start)), ())
    return tuple(kind(f"refused {name}") for kind in kinds)


def one_documented(number: int, name: str) -> tuple[HyperscalerError, ...]:
    """One of the errors that the call of that number can end with, another from call to call."""
    errors = documented(name)
    return (errors[number % len(errors)],) if errors else ()


def refused(which: int, name: str) -> HyperscalerError:
    """The error of that number among those that a call can end with."""
    return documented(name)[which]
