"""The wait for booting nodes: by their progress, on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from uuid import UUID

import pytest

from emulator.core.errors import WaitTimeoutError
from emulator.core.ports import Completed, DomainInfo, DomainState, GuestAddress
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.core.waiting.pace import Pace
from emulator.core.waiting.watch import Clock
from emulator.lab.wait_for_ssh import Guest, HostKeyBook, wait_for_guests

KEY = "hyperscaler-host-key: ssh-ed25519 AAAA"


@dataclass
class Boot:
    """A guest on a clock of its own. `at`: what it does at each second: prints, works, comes up."""

    console: Path
    prints_until: float = 0.0
    cpu_share: float = 0.0
    key_at: float = 1e9
    ssh_at: float = 1e9
    state: DomainState = DomainState.RUNNING
    seconds: float = 0.0

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        if self.seconds <= self.prints_until:
            with self.console.open("a") as stream:
                stream.write("[  ok  ] something started\n")
        if self.seconds >= self.key_at and KEY not in self.console.read_text():
            with self.console.open("a") as stream:
                stream.write(f"{KEY}\n")

    def domain(self) -> DomainInfo:
        return DomainInfo("demo-a", UUID(int=1), self.state, None, cpu_seconds=self.seconds * self.cpu_share)

    def ready(self, guest: GuestAddress, *, timeout: float) -> bool:
        return self.seconds >= self.ssh_at

    def run(
        self, guest: GuestAddress, command: str, *, timeout: float, check: bool = True, stdin: str | None = None
    ) -> Completed:
        raise AssertionError("the boot needs no command")


Wait = Callable[..., None]


@pytest.fixture
def wait(tmp_path: Path) -> Wait:
    def run(boot: Boot, *, pace: Pace | None = None, seconds: float = 600) -> None:
        boot.console.touch()
        guest = Guest(GuestAddress("a", IPv4Address("10.0.0.2"), "labadmin"), boot.console, boot.domain)
        keys = HostKeyBook(lambda text: tuple(text.split("\n")) if KEY in text else (), lambda _keys: None)
        clock = Clock(now=lambda: boot.seconds, sleep=boot.sleep)
        wait_for_guests(
            [guest], keys, boot, SilentReporter(), pace=pace or Pace(), seconds=seconds, stop=StopFlag(), clock=clock
        )

    return run


def test_a_boot_that_takes_three_times_its_usual_time_is_no_failure(wait: Wait, tmp_path: Path) -> None:
    """A host of two cores with five guests and other work on it: the console moves on, slowly."""
    boot = Boot(tmp_path / "log", prints_until=1790, key_at=1780, ssh_at=1800)
    wait(boot)
    assert 1800 <= boot.seconds < 1810


def test_a_silent_guest_that_works_is_waited_for(wait: Wait, tmp_path: Path) -> None:
    """It prints nothing for twenty minutes (a check of a file system), and uses a fifth of a core."""
    boot = Boot(tmp_path / "log", prints_until=30, cpu_share=0.2, key_at=1200, ssh_at=1201)
    wait(boot)
    assert boot.seconds < 1210


def test_a_stuck_guest_is_given_up_at_its_usual_time(wait: Wait, tmp_path: Path) -> None:
    """It idles, at less than the two hundredths of a core that an emulated guest takes for it."""
    boot = Boot(tmp_path / "log", prints_until=30, cpu_share=0.015)
    with pytest.raises(WaitTimeoutError) as caught:
        wait(boot)
    assert boot.seconds == pytest.approx(600, abs=1)
    assert caught.value.what.startswith("a is not reachable after 600 s, the last ")
    assert "s of them without progress: it has not printed its host key: still booting, or stuck" in caught.value.what
    assert "(waited for its ssh; not measured: waits are 1.0 times as long" in caught.value.what
    assert "something started" in caught.value.what
    assert caught.value.fix is not None
    assert "raise timeouts.boot" in caught.value.fix


def test_a_guest_that_works_for_ever_ends_at_the_bound(wait: Wait, tmp_path: Path) -> None:
    """A kernel in a loop. The bound is generous, and there is one."""
    boot = Boot(tmp_path / "log", cpu_share=1.0)
    with pytest.raises(WaitTimeoutError, match="after 2400 s, although there still was progress"):
        wait(boot)


def test_a_console_that_a_guest_fills_for_ever_ends_at_the_bound(wait: Wait, tmp_path: Path) -> None:
    boot = Boot(tmp_path / "log", prints_until=1e9)
    with pytest.raises(WaitTimeoutError, match="although there still was progress"):
        wait(boot)
    assert boot.seconds <= 2410


def test_a_slow_host_waits_longer_for_a_sign(wait: Wait, tmp_path: Path) -> None:
    boot = Boot(tmp_path / "log", prints_until=10, key_at=500, ssh_at=1400)
    wait(boot, pace=Pace(factor=6.0))
    assert boot.seconds == pytest.approx(1400, abs=6)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (DomainState.SHUTOFF, "the virtual machine stopped"),
        (DomainState.CRASHED, "the virtual machine stopped"),
        (DomainState.PAUSED, "is paused, as QEMU does when the host's disk is full"),
    ],
)
def test_a_machine_that_does_not_run_is_said_at_once(wait: Wait, tmp_path: Path, state: DomainState, said: str) -> None:
    boot = Boot(tmp_path / "log", state=state)
    with pytest.raises(WaitTimeoutError, match=said):
        wait(boot)
    assert boot.seconds == 0
