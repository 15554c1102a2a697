"""Wait for the nodes of a cluster until they let us in by ssh; that their domains run is not enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock

from emulator.core import ids
from emulator.core.console_log import marked_lines, read_tail
from emulator.core.errors import InterruptedRunError, WaitTimeoutError
from emulator.core.pool import threads
from emulator.core.ports import DomainState, GuestAddress, GuestShell, Hypervisor
from emulator.core.progress import Event, Reporter, Status
from emulator.core.stop import StopFlag
from emulator.lab.run import LabRun
from emulator.labfile.model import ClusterKind

POLL_SECONDS, LONGEST_POLL_SECONDS = 0.5, 5.0
"""Between two tries at a guest, at first and in the end: each try that fails costs a busy host a login."""
CONSOLE_LINES = 8


@dataclass(frozen=True, slots=True)
class Guest:
    """A node to wait for; `running` says whether its domain still runs."""

    address: GuestAddress
    console: Path
    running: Callable[[], bool]


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


def boot_cluster(run: LabRun, kind: ClusterKind, keys: HostKeyBook) -> None:
    """Return when every node of the cluster lets us in.

    Raises:
        WaitTimeoutError: one did not within `timeouts.boot`.
        InterruptedRunError: a stop was asked for.
    """
    spec, hypervisor = run.spec, run.lab.session.get()
    guests = [
        Guest(
            GuestAddress(node.name, node.ip, spec.ssh.user),
            run.paths.console / f"{node.name}.log",
            partial(_runs, hypervisor, ids.host_name(spec.name, node.name)),
        )
        for node in spec.nodes_of(kind)
    ]
    wait_for_guests(guests, keys, run.shell, run.reporter, timeout=spec.timeouts.boot, stop=run.stop)
    if run.stop.is_set():
        raise InterruptedRunError(
            "stopped on request while the nodes booted", fix="run the same command again to go on"
        )


def _runs(hypervisor: Hypervisor, domain: str) -> bool:
    info = hypervisor.domain(domain)
    return info is not None and info.state is DomainState.RUNNING


def wait_for_guests(
    guests: Sequence[Guest],
    keys: HostKeyBook,
    shell: GuestShell,
    reporter: Reporter,
    *,
    timeout: float,
    stop: StopFlag,
) -> None:
    """Return when every guest lets us in by ssh.

    Raises:
        WaitTimeoutError: one did not within `timeout` seconds; says where it was stuck, with the last lines of its
            console.
    """
    with threads(min(len(guests), 32), "boot") as pool:
        waits = [pool.submit(_wait, guest, keys, shell, reporter, timeout=timeout, stop=stop) for guest in guests]
        errors = [error for error in (wait.exception() for wait in waits) if error]
    if errors:
        raise errors[0]


def _wait(
    guest: Guest, keys: HostKeyBook, shell: GuestShell, reporter: Reporter, *, timeout: float, stop: StopFlag
) -> None:
    name = guest.address.name
    started = time.monotonic()
    reporter.event(Event("boot", name, Status.STARTED, "waiting for ssh"))
    cause, pause = "", POLL_SECONDS
    while not stop.is_set():
        known = keys.learn(guest)
        if known and shell.ready(guest.address, timeout=15):
            reporter.event(Event("boot", name, Status.DONE, "ssh answers", time.monotonic() - started))
            return
        if not guest.running():
            cause = "the virtual machine stopped"
        elif known:
            cause = "it booted, but ssh does not let us in"
        else:
            cause = "it has not printed its host key: still booting, or stuck"
        spent = time.monotonic() - started
        if spent > timeout or cause.startswith("the virtual machine"):
            reporter.event(Event("boot", name, Status.FAILED, cause, spent))
            raise WaitTimeoutError(
                f"{name} is not reachable after {spent:.0f} s: {cause}. Last lines of its console:\n"
                + last_lines(guest.console),
                where=str(guest.console),
                fix="look at the console log; a slow host may need a larger timeouts.boot in the file",
            )
        stop.wait(pause)
        # Looking at the console alone is cheap, so the tries become rarer only once ssh is asked.
        pause = min(pause * 1.5, LONGEST_POLL_SECONDS) if known else POLL_SECONDS


def last_lines(path: Path) -> str:
    """The last printable lines of a console, for an error message; control sequences are dropped."""
    lines = ["".join(char for char in line if char.isprintable()) for line in read_tail(path, limit=16384).splitlines()]
    kept = [line for line in lines if line.strip()][-CONSOLE_LINES:]
    return "\n".join(f"    | {line}" for line in kept) or "    | (nothing yet)"
