"""A guest that feigns progress does not hold the host for ever."""

from __future__ import annotations

import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from emulator.adapters.system.process import HostProcess
from emulator.core.errors import CommandTimeoutError, ConflictError, WaitTimeoutError
from emulator.core.ports import Completed, DomainInfo, DomainState, GuestAddress
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.core.waiting.pace import MOST, Pace
from emulator.guests.verify.clocks import verify_clocks
from emulator.lab import drain
from emulator.lab.wait_for_ssh import Guest, HostKeyBook, wait_for_guests
from tests.support.waiting import Ticking

NODE = GuestAddress("a", IPv4Address("10.0.0.2"), "labadmin")
DRIP = "import sys, time\nwhile True:\n    print('still at work', flush=True)\n    time.sleep(0.2)\n"


class Saying:
    """A guest that says the same to everything, and takes a second for it."""

    def __init__(self, text: str, returncode: int = 0) -> None:
        self.text, self.returncode, self.asked = text, returncode, 0

    def run(
        self, guest: GuestAddress, command: str, *, timeout: float, check: bool = True, stdin: str | None = None
    ) -> Completed:
        self.asked += 1
        return Completed(("ssh",), self.returncode, self.text, "")

    def ready(self, guest: GuestAddress, *, timeout: float) -> bool:
        return False


def test_a_console_that_grows_for_ever_is_given_up(tmp_path: Path) -> None:
    console, time = tmp_path / "log", Ticking()
    console.touch()

    def domain() -> DomainInfo:
        with console.open("a") as stream:
            stream.write("[  ok  ] progress\n")
        return DomainInfo("d", UUID(int=1), DomainState.RUNNING, None, cpu_seconds=time.seconds)

    keys = HostKeyBook(lambda _text: (), lambda _keys: None)
    with pytest.raises(WaitTimeoutError, match="although there still was progress"):
        wait_for_guests(
            [Guest(NODE, console, domain)],
            keys,
            Saying(""),
            SilentReporter(),
            pace=Pace(factor=MOST),
            seconds=60,
            stop=StopFlag(),
            clock=time.clock(),
        )
    assert time.seconds <= 60 * 4 * MOST + 5


def test_pods_that_seem_to_go_again_and_again_are_given_up() -> None:
    control_plane = Saying("pod/a evicted\npod/b evicted\n", returncode=1)
    with pytest.raises(ConflictError, match="cannot be drained"):
        drain.drain_node("worker", control_plane, NODE, 180, Pace(), cordoned=False)
    assert control_plane.asked == drain.MOST_ROUNDS


@pytest.mark.parametrize("text", ["9" * 10_000_000, "1790000000.0\n\x1b[2Jall is well", "\u202e0.0", "0.0"])
def test_a_clock_that_lies_is_a_failed_check_of_one_line(text: str) -> None:
    time = Ticking()
    (check,) = verify_clocks(Saying(text), [NODE], pace=Pace(), wall=lambda: 1_790_000_000.0, clock=time.clock())
    assert not check.ok
    assert check.detail.isprintable()
    assert len(check.detail) < 500
    assert time.seconds <= 70


def test_a_command_that_only_prints_now_and_then_is_ended_at_its_time() -> None:
    """What a guest prints through ssh looks like work; the processor of the host is idle meanwhile."""
    with pytest.raises(CommandTimeoutError, match=r"did not end within 3 s: still at work"):
        HostProcess().run([sys.executable, "-c", DRIP], timeout=3)


def test_a_pace_from_the_environment_is_bounded_on_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.playbook_modules import pace

    module: Any = pace
    monkeypatch.setenv("HYPERSCALER_PACE", "1e308")
    assert module.seconds(60) == 60 * MOST
