"""Wait for the nodes of a cluster until they let us in by ssh; that their domains run is not enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock

from emulator.core import ids
from emulator.core.console_log import marked_lines, read_tail
from emulator.core.errors import InterruptedRunError, WaitTimeoutError
from emulator.core.pool import threads
from emulator.core.ports import DomainInfo, DomainState, GuestAddress, GuestShell
from emulator.core.progress import Event, Reporter, Status
from emulator.core.stop import StopFlag
from emulator.core.waiting.pace import Pace
from emulator.core.waiting.watch import Clock, Look, wait_until
from emulator.lab.run import LabRun
from emulator.labfile.model import ClusterKind

POLL_SECONDS, LONGEST_POLL_SECONDS = 0.5, 5.0
"""Between two tries at a guest, at first and in the end: each try that fails costs a busy host a login."""
LOGIN_SECONDS = 15.0
"""For one try at a guest, on a fast host."""
CONSOLE_LINES = 8


@dataclass(frozen=True, slots=True)
class Guest:
    """A node to wait for; `domain` looks at its domain."""

    address: GuestAddress
    console: Path
    domain: Callable[[], DomainInfo | None]


class HostKeyBook:
    """The lab's known_hosts, filled from the guests' serial consoles as they come up.

    The console is a channel that only the guest itself writes to, so no key is ever trusted on first use.
    """

    def __init__(
        self,
        parse: Callable[[str], Sequence[str]],
        write: Callable[[Mapping[str, Sequence[str]]], None],
    ) -> None:
        self._parse = parse
        self._write = write
        self._lock = Lock()
        self._keys: dict[str, tuple[str, ...]] = {}

    def learn(self, guest: Guest) -> bool:
        """Look for the guest's key on its console; True once it is known."""
        keys = tuple(self._parse(marked_lines(guest.console)))
        if not keys:
            return False
        with self._lock:
            if self._keys.get(guest.address.name) != keys:
                self._keys[guest.address.name] = keys
                self._write(self._keys)
        return True


def open_host_keys(run: LabRun) -> HostKeyBook:
    """Write the lab's ssh_config, and begin the one book of host keys for all its clusters."""
    guests, spec, access = run.env.guests, run.spec, run.access
    guests.write_access(spec, access, None)
    return HostKeyBook(guests.parse_host_keys, lambda keys: guests.write_access(spec, access, keys))


def boot_cluster(run: LabRun, kind: ClusterKind, keys: HostKeyBook, shell: GuestShell | None = None) -> None:
    """Return when every node of the cluster lets us in, by the run's own shell or by another one.

    Raises:
        WaitTimeoutError: one did not within `timeouts.boot`, and made no progress any more.
        InterruptedRunError: a stop was asked for.
    """
    spec, hypervisor = run.spec, run.lab.session.get()
    guests = [
        Guest(
            GuestAddress(node.name, node.ip, spec.ssh.user),
            run.paths.console / f"{node.name}.log",
            partial(hypervisor.domain, ids.host_name(spec.name, node.name)),
        )
        for node in spec.nodes_of(kind)
    ]
    shell = shell or run.shell
    wait_for_guests(guests, keys, shell, run.reporter, pace=run.pace, seconds=spec.timeouts.boot, stop=run.stop)
    if run.stop.is_set():
        raise InterruptedRunError(
            "stopped on request while the nodes booted", fix="run the same command again to go on"
        )


def wait_for_guests(
    guests: Sequence[Guest],
    keys: HostKeyBook,
    shell: GuestShell,
    reporter: Reporter,
    *,
    pace: Pace,
    seconds: float,
    stop: StopFlag,
    clock: Clock | None = None,
) -> None:
    """Return when every guest lets us in by ssh, or a stop was asked for.

    A guest has `seconds`, and after that as long as it makes progress: its console grows, or it uses its processor.

    Raises:
        WaitTimeoutError: one made no progress any more, or stopped; says where it was stuck, with the last lines of its
            console.
    """
    with threads(min(len(guests), 32), "boot") as pool:
        boots = [_Boot(guest, keys, shell, reporter, pace, seconds) for guest in guests]
        waits = [pool.submit(boot.wait, stop, clock) for boot in boots]
        errors = [error for error in (wait.exception() for wait in waits) if error]
    if errors:
        raise errors[0]


class _Boot:
    """The wait for one guest."""

    def __init__(
        self, guest: Guest, keys: HostKeyBook, shell: GuestShell, reporter: Reporter, pace: Pace, seconds: float
    ) -> None:
        self._guest = guest
        self._keys = keys
        self._shell = shell
        self._reporter = reporter
        self._pace = pace
        self._patience = pace.patience(seconds)
        self._pause = POLL_SECONDS

    def wait(self, stop: StopFlag, clock: Clock | None) -> None:
        name = self._guest.address.name
        self._reporter.event(Event("boot", name, Status.STARTED, "waiting for ssh"))
        waited = wait_until(self._look, self._patience, clock=clock, stop=stop)
        if waited.done and not waited.value:
            self._reporter.event(Event("boot", name, Status.DONE, "ssh answers", waited.seconds))
            return
        if waited.done:
            raise self._failure(waited.value, f"after {waited.seconds:.0f} s", waited.seconds)
        if waited.given_up is not None:
            raise self._failure(waited.value, str(waited.given_up), waited.seconds)

    def _look(self) -> Look[str]:
        """Why the guest does not let us in yet; nothing once it does, and `_STOPPED` when it never will."""
        guest = self._guest
        known = self._keys.learn(guest)
        if known and self._shell.ready(guest.address, timeout=LOGIN_SECONDS):
            return Look("", done=True)
        info = guest.domain()
        if info is None or info.state is not DomainState.RUNNING:
            return Look(_paused(info) or _STOPPED, done=True)
        cause = "it booted, but ssh does not let us in" if known else _BOOTING
        # Looking at the console alone is cheap, so the tries become rarer only once ssh is asked.
        self._pause = min(self._pause * 1.5, LONGEST_POLL_SECONDS) if known else POLL_SECONDS
        sign = (known, console_size(guest.console), self._patience.steps(info.cpu_seconds))
        return Look(cause, done=False, sign=sign, pause=self._pause)

    def _failure(self, cause: str, how_long: str, seconds: float) -> WaitTimeoutError:
        guest = self._guest
        self._reporter.event(Event("boot", guest.address.name, Status.FAILED, cause, seconds))
        return WaitTimeoutError(
            f"{guest.address.name} is not reachable {how_long}: {cause} (waited for its ssh; {self._pace})."
            " Last lines of its console:\n" + last_lines(guest.console),
            where=str(guest.console),
            fix="look at the console log; where the node was still at work, end other work on the host, or raise"
            " timeouts.boot in the file, and run the same command again: it goes on from here",
        )


_BOOTING = "it has not printed its host key: still booting, or stuck"
_STOPPED = "the virtual machine stopped"


def _paused(info: DomainInfo | None) -> str:
    """What a paused guest means: QEMU pauses one whose disk cannot grow, and a person may have, too."""
    if info is None or info.state is not DomainState.PAUSED:
        return ""
    return (
        "the virtual machine is paused, as QEMU does when the host's disk is full (`virsh suspend` does it, too);"
        " with space on the disk, the next `hyperscaler provision` resumes it"
    )


def console_size(path: Path) -> int:
    """Bytes on a guest's console so far; 0 while there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def has_key_beyond(path: Path, offset: int) -> bool:
    """Whether a host key was printed behind the first `offset` bytes; a shorter log was begun anew or cut."""
    return bool(marked_lines(path, offset=offset if offset <= console_size(path) else 0))


def last_lines(path: Path) -> str:
    """The last printable lines of a console, for an error message; control sequences are dropped."""
    lines = ["".join(char for char in line if char.isprintable()) for line in read_tail(path, limit=16384).splitlines()]
    kept = [line for line in lines if line.strip()][-CONSOLE_LINES:]
    return "\n".join(f"    | {line}" for line in kept) or "    | (nothing yet)"
