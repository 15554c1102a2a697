"""kubectl is asked again while the API server does not answer, and only then."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from emulator.core.errors import HyperscalerError
from emulator.core.ports import Completed, GuestAddress
from emulator.core.waiting.pace import Pace
from emulator.core.waiting.watch import Clock
from emulator.kubernetes.config.patient_kubectl import ask_patiently, run_patiently

HEAD = GuestAddress("cloud-control-plane", IPv4Address("192.168.200.10"), "labadmin")
LATE = [
    "Unable to connect to the server: net/http: TLS handshake timeout",
    "The connection to the server 192.168.200.10:6443 was refused - did you specify the right host or port?",
    "error: Unable to connect to the server: EOF",
    'error: Get "https://10.0.0.10:6443/api/v1/nodes?limit=500": dial tcp 10.0.0.10:6443: connect: connection refused -'
    " error from a previous attempt: EOF",
    'Error from server (InternalError): an error on the server ("[-]poststarthook/rbac/bootstrap-roles failed")',
    "Error from server (Timeout): the server was unable to return a response in the time allotted",
]


class Answers:
    """A shell whose command ends in these ways, the last of them for ever, and a clock that its pauses move on."""

    def __init__(self, *ends: tuple[int, str, str]) -> None:
        self.ends = list(ends)
        self.asked = 0
        self.time = 0.0
        self.clock = Clock(now=lambda: self.time, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def ready(self, guest: GuestAddress, *, timeout: float) -> bool:
        return True

    def run(
        self, guest: GuestAddress, command: str, *, timeout: float, check: bool = True, stdin: str | None = None
    ) -> Completed:
        self.asked += 1
        code, out, err = self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]
        return Completed(("kubectl",), code, out, err)


def ask(shell: Answers, pace: Pace | None = None) -> str:
    return ask_patiently(shell, HEAD, "kubectl get nodes", timeout=60, pace=pace or Pace(), clock=shell.clock)


@pytest.mark.parametrize("late", LATE)
def test_an_answer_that_came_too_late_is_asked_for_again(late: str) -> None:
    shell = Answers((1, "", late), (1, "", late), (0, "{}", ""))
    assert ask(shell) == "{}"
    assert shell.asked == 3


def test_what_the_cluster_refuses_is_not_asked_again() -> None:
    shell = Answers((1, "", 'W1 a warning\nError from server (NotFound): nodes "n" not found\n'))
    with pytest.raises(HyperscalerError, match=r"cannot be asked: Error from server \(NotFound\)"):
        ask(shell)
    assert shell.asked == 1


def test_a_drain_that_is_refused_is_the_callers_to_judge() -> None:
    refused = "error when evicting pods: Cannot evict pod as it would violate the pod's disruption budget."
    shell = Answers((1, "", refused))
    done = run_patiently(shell, HEAD, "kubectl drain n", timeout=60, pace=Pace(), clock=shell.clock)
    assert (done.returncode, done.stderr, shell.asked) == (1, refused, 1)


def test_a_server_that_never_answers_is_given_up_in_one_line() -> None:
    shell = Answers((1, "", LATE[0]))
    with pytest.raises(HyperscalerError, match="cannot be asked: Unable to connect") as caught:
        ask(shell, Pace(factor=2.5))
    assert "\n" not in caught.value.what
    assert shell.time >= 90 * 2.5, "a slow host has more time"
