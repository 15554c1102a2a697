"""Guests that broke out fill the host's disk, and their QEMU does not answer libvirt: processes that write without end,
each as a user of its own, stand for them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID

import pytest

from emulator.core.ports import DomainInfo, DomainState
from emulator.services.disk_reserve import DiskReserve
from emulator.services.requests import MOST, Requests
from tests.support.waiting import until

FILLER = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
disk = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
parent = os.getpid()
if os.fork() == 0:  # lets the other one go on whenever it was stopped
    while True:
        os.kill(parent, signal.SIGCONT)
        time.sleep(0.005)
while True:
    os.write(disk, b"x" * 65536)
    time.sleep(0.01)
"""
FIRST = 60720
RESERVE = 1 << 30


class Guests:
    """`Guests` of a lab; who asks one of them to pause waits for ever."""

    def __init__(self, root: Path, count: int, stack: ExitStack) -> None:
        self.never = threading.Event()
        self.disks = {f"guest-{number}": root / f"{number}.qcow2" for number in range(count)}
        self.uids = {name: FIRST + number for number, name in enumerate(self.disks)}
        for name, disk in self.disks.items():
            argv = [sys.executable, "-I", "-S", "-c", FILLER, str(disk), str(self.uids[name])]
            process = stack.enter_context(subprocess.Popen(argv, process_group=0))
            stack.callback(os.killpg, process.pid, 9)
        stack.callback(self.never.set)
        until(lambda: all(disk.exists() for disk in self.disks.values()), "the first bytes")

    def list(self) -> tuple[DomainInfo, ...]:
        return tuple(
            DomainInfo(name, UUID(int=1), self.state(name), None, disks=(disk,), account=self.account(name))
            for name, disk in self.disks.items()
        )

    def state(self, name: str) -> DomainState:
        del name
        return DomainState.RUNNING

    def account(self, name: str) -> str:
        return f"+{self.uids[name]}:+{FIRST}"

    def pause(self, name: str) -> None:
        self.never.wait()

    def resume(self, name: str) -> None:
        pytest.fail("libvirt has paused none of them")

    def taken(self) -> Sequence[int]:
        return [disk.stat().st_size for disk in self.disks.values()]

    def stand_still(self) -> bool:
        before = self.taken()
        threading.Event().wait(0.2)
        return self.taken() == before

    def all_grow(self) -> bool:
        before = self.taken()
        threading.Event().wait(0.2)
        return all(now > then for now, then in zip(self.taken(), before, strict=True))


class Liars(Guests):
    """Their QEMU says that it was paused, and goes on."""

    said: frozenset[str] = frozenset()

    def state(self, name: str) -> DomainState:
        return DomainState.PAUSED if name in self.said else DomainState.RUNNING

    def pause(self, name: str) -> None:
        self.said |= {name}

    def resume(self, name: str) -> None:
        self.said -= {name}


@pytest.fixture
def guests(tmp_path: Path) -> Iterator[Guests]:
    if os.geteuid() != 0:
        pytest.skip("only root takes other accounts")
    with ExitStack() as stack:
        yield Guests(tmp_path, MOST + 2, stack)


def test_all_of_them_are_stopped_and_go_on_when_there_is_room(guests: Guests, tmp_path: Path) -> None:
    free = 2 * RESERVE - 1
    watch = DiskReserve(
        tmp_path, tmp_path / "x.ballast", RESERVE, guests, free=lambda _: free, requests=Requests(patience=0.1)
    )
    watch.look()
    free = RESERVE - 1

    def still() -> bool:
        watch.look()
        return guests.stand_still()

    until(still, "the stop of all guests")
    assert watch.paused == set(guests.disks)
    assert "stopped by a signal" in watch.text
    free = 2 * RESERVE - 1
    watch.look()
    until(guests.all_grow, "all of them to go on")
    assert "stopped" not in watch.text


def test_those_that_only_say_that_they_are_paused_are_stopped(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root takes other accounts")
    free = 2 * RESERVE - 1
    with ExitStack() as stack:
        guests = Liars(tmp_path, 2, stack)
        guests.said = frozenset({"guest-0"})  # unasked, so that nobody asks
        watch = DiskReserve(tmp_path, tmp_path / "x.ballast", RESERVE, guests, free=lambda _: free)
        watch.look()
        free = RESERVE - 1

        def still() -> bool:
            watch.look()
            return guests.stand_still()

        until(still, "the stop of all guests")
        assert guests.said == watch.paused == set(guests.disks)
        free = 2 * RESERVE - 1
        watch.look()
        until(guests.all_grow, "all of them to go on")
        assert guests.said == {"guest-0"}, "what another person may have paused is not resumed"
