"""The clocks of nodes, judged by what the round trip allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.core.errors import CommandTimeoutError
from emulator.core.ports import Completed, GuestAddress
from emulator.core.waiting.pace import Pace
from emulator.core.waiting.watch import Clock
from emulator.guests.verify.clocks import ALLOWED_SECONDS, judge, skew_of, verify_clocks
from emulator.guests.verify.report import CheckResult

NODE = GuestAddress("a", IPv4Address("10.0.0.2"), "labadmin")
EPOCH = 1_790_000_000.0


@dataclass
class Node:
    """Answers after half of each round trip. `ahead`: of the host, one figure for each question, the last one stays."""

    ahead: Sequence[float] = (0.0,)
    round_trip: float = 0.2
    text: str | None = None
    dead: bool = False
    host: float = EPOCH
    questions: int = field(default=0)

    def run(
        self, guest: GuestAddress, command: str, *, timeout: float, check: bool = True, stdin: str | None = None
    ) -> Completed:
        if self.dead:
            raise CommandTimeoutError("the command did not end within 60 s", where="ssh")
        ahead = self.ahead[min(self.questions, len(self.ahead) - 1)]
        self.questions += 1
        self.host += self.round_trip / 2
        said = self.text if self.text is not None else f"{self.host + ahead:.9f}"
        self.host += self.round_trip / 2
        return Completed(("ssh",), 0, f"{said}\n", "")

    def ready(self, guest: GuestAddress, *, timeout: float) -> bool:
        return not self.dead

    def check(self, pace: Pace | None = None) -> CheckResult:
        def sleep(seconds: float) -> None:
            self.host += seconds

        clock = Clock(now=lambda: self.host - EPOCH, sleep=sleep)
        (check,) = verify_clocks(self, [NODE], pace=pace or Pace(), wall=lambda: self.host, clock=clock)
        return check


def test_a_right_clock_says_how_exact_that_is_known() -> None:
    check = Node(round_trip=3.0).check()
    assert (check.name, check.ok) == ("clock a", True)
    assert check.detail == "0.0 s behind the host (to within 1.5 s, by the round trip)"


@pytest.mark.parametrize(("ahead", "way"), [(40.0, "40.0 s ahead of"), (-3600.0, "3600.0 s behind")])
def test_a_wrong_clock_is_named_with_what_to_do(ahead: float, way: str) -> None:
    check = Node(ahead=[ahead]).check()
    assert not check.ok
    assert check.detail.startswith(
        f"{way} the host (to within 0.1 s, by the round trip), and was not set right: on the"
    )
    assert "systemctl status hyperscaler-clock.timer" in check.detail
    assert check.seconds >= 60


def test_a_node_that_was_paused_is_given_the_time_to_set_its_clock() -> None:
    node = Node(ahead=[-500.0, -500.0, -500.0, 0.4])
    check = node.check()
    assert check.ok
    assert node.questions == 4


def test_a_slow_answer_is_no_wrong_clock() -> None:
    """Twenty seconds for an answer of a busy node: its clock may be right, and nothing says that it is not."""
    assert Node(ahead=[9.0], round_trip=20.0).check().ok
    assert not Node(ahead=[13.0], round_trip=20.0).check().ok


def test_a_busy_host_gives_a_node_longer_to_set_its_clock() -> None:
    assert not Node(ahead=[60.0]).check(Pace(factor=4.0)).seconds < 240


@pytest.mark.parametrize("text", ["", "Permission denied", "1e400", "-1.0", "\x1b[2J", "9" * 400, "١٢.٣"])
def test_what_is_no_time_is_said_and_not_believed(text: str) -> None:
    check = Node(text=text).check()
    assert not check.ok
    assert check.detail.startswith("the node does not say its time, but ")
    assert len(check.detail) < 200
    assert check.detail.isprintable()


def test_a_node_that_does_not_answer_is_no_exception() -> None:
    check = Node(dead=True).check()
    assert not check.ok
    assert "does not answer: the command did not end within 60 s" in check.detail


def test_a_host_whose_clock_is_set_back_meanwhile_blames_no_node() -> None:
    times = iter([EPOCH, EPOCH - 3600, EPOCH, EPOCH + 0.1])
    node = Node()
    (check,) = verify_clocks(
        node, [NODE], pace=Pace(), wall=lambda: next(times), clock=Clock(now=lambda: 0.0, sleep=lambda _: None)
    )
    assert check.ok


@given(st.floats(-1e6, 1e6), st.floats(0, 600), st.floats(0, 1))
def test_a_right_clock_is_never_blamed_and_one_that_is_surely_wrong_always(
    ahead: float, round_trip: float, when: float
) -> None:
    said = EPOCH + when * round_trip + ahead
    verdict = judge(skew_of(EPOCH, said, EPOCH + round_trip))
    if abs(ahead) <= ALLOWED_SECONDS - 0.001:
        assert verdict.ok
    if abs(ahead) > ALLOWED_SECONDS + round_trip + 0.001:
        assert not verdict.ok
