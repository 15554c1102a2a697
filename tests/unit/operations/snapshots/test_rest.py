"""Labs at rest: suspended and stopped, woken, and left alone by everything else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from emulator.adapters.simulated.saved_states import SimulatedSavedStates
from emulator.core.errors import ConflictError, HypervisorError, UsageError
from emulator.core.ports import DomainState
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.credentials.users import AccessRole, read_book
from emulator.operations.credentials.access import GrantRequest, grant, revoke
from emulator.operations.snapshots.listing import list_snapshots
from emulator.operations.snapshots.rest import resume_lab, start_lab, stop_lab, suspend_lab
from emulator.operations.status import lab_status
from emulator.operations.verify import verify
from tests.support.rewinding import NODES, Rewound
from tests.support.simulated_world import LAB, SYSTEM_URI, SimulatedHost, lab_text

HERE = "here"


@pytest.fixture
def lab(host: SimulatedHost) -> Rewound:
    made = Rewound(host)
    made.remember(HERE)
    return made


def suspend(lab: Rewound) -> None:
    suspend_lab(lab.host.environment(), LAB, SilentReporter(), StopFlag())


def resume(lab: Rewound) -> None:
    resume_lab(lab.host.environment(), LAB, SilentReporter(), StopFlag())


def stop(lab: Rewound, *, yes: bool = True) -> bool:
    return stop_lab(lab.host.environment(), LAB, SilentReporter(), StopFlag(), confirm=lambda: yes)


def start(lab: Rewound, *, cold: bool = False) -> None:
    start_lab(lab.host.environment(), LAB, SilentReporter(), StopFlag(), cold=cold)


def off(lab: Rewound) -> bool:
    return set(lab.states().values()) == {DomainState.SHUTOFF}


def test_a_suspended_lab_goes_on_where_it_was(lab: Rewound) -> None:
    disks = lab.disks()
    suspend(lab)
    assert off(lab) and lab.memories() == dict.fromkeys(NODES, "")
    resume(lab)
    lab.assert_well()
    assert lab.memories() == {node: f"{node} {HERE}" for node in NODES}
    assert lab.disks() == disks and not lab.store.root.exists()


def test_it_outlasts_a_reboot_of_the_host(lab: Rewound) -> None:
    suspend(lab)
    lab.host.reboot()
    assert lab_status(lab.host.environment(), LAB).problems == ()
    resume(lab)
    lab.assert_well()
    assert lab.memories() == {node: f"{node} {HERE}" for node in NODES}


@pytest.mark.parametrize(("rest", "word", "wake"), [(suspend, "suspended", "resume"), (stop, "stopped", "start")])
def test_status_knows_a_rest_and_calls_it_no_drift(
    lab: Rewound, rest: Callable[[Rewound], object], word: str, wake: str
) -> None:
    rest(lab)
    told = lab_status(lab.host.environment(), LAB)
    assert (told.rest, told.problems) == (word, ())
    assert {node.state for node in told.nodes} == {word}
    assert told.notes == (f"the lab is {word}; `hyperscaler {wake} {LAB}` lets it go on",)
    assert told.to_json()["rest"] == word
    assert not list_snapshots(lab.host.environment(), LAB).interrupted


@pytest.mark.parametrize(("rest", "word"), [(suspend, "suspended"), (stop, "stopped")])
def test_nothing_else_touches_a_lab_at_rest(lab: Rewound, rest: Callable[[Rewound], object], word: str) -> None:
    lab.create()
    rest(lab)
    others: dict[str, Callable[[], object]] = {
        "provision": lab.provision,
        "create": lambda: lab.create("second"),
        "restore": lab.restore,
        "delete": lab.delete,
        "suspend": lambda: suspend(lab),
        "stop": lambda: stop(lab),
        "verify": lambda: verify(lab.host.environment(), LAB, SilentReporter()),
    }
    for name, other in others.items():
        with pytest.raises(ConflictError, match=f"the lab is {word}"):
            other()
        assert off(lab), name
    lab.host.destroy()
    assert not lab.host.home.lab(LAB).root.exists()


def test_a_stopped_lab_is_started_from_its_disks(lab: Rewound) -> None:
    disks = lab.disks()
    assert not stop(lab, yes=False)
    assert lab.memories() == {node: f"{node} {HERE}" for node in NODES}
    assert stop(lab) and off(lab)
    start(lab)
    lab.assert_well()
    assert lab.disks() == disks and not lab.store.root.exists()
    start(lab)  # of one that runs: nothing is left to do
    lab.assert_well()


def test_the_memory_of_a_suspended_lab_is_given_up_only_when_that_is_said(lab: Rewound) -> None:
    suspend(lab)
    with pytest.raises(ConflictError, match="suspended") as caught:
        start(lab)
    assert caught.value.fix == f"hyperscaler resume {LAB}"
    start(lab, cold=True)
    lab.assert_well()
    assert lab.memories() == dict.fromkeys(NODES, "") and not lab.store.root.exists()


def test_qemu_that_was_upgraded_meanwhile_is_told(lab: Rewound, monkeypatch: pytest.MonkeyPatch) -> None:
    suspend(lab)
    with monkeypatch.context() as later:
        later.setattr(SimulatedSavedStates, "qemu", "QEMU of tomorrow")
        with pytest.raises(ConflictError, match="QEMU of tomorrow") as caught:
            resume(lab)
        assert caught.value.fix.endswith(f"hyperscaler start {LAB} --cold")
    assert off(lab)
    resume(lab)
    lab.assert_well()


def test_access_that_is_revoked_meanwhile_is_gone_when_the_lab_wakes(lab: Rewound) -> None:
    env = lab.host.environment
    grant(env(), LAB, GrantRequest("ada", AccessRole.STUDENT, 3600), SilentReporter(), StopFlag())
    suspend(lab)
    revoke(env(), LAB, "ada", SilentReporter(), StopFlag())
    assert read_book(lab.host.home.lab(LAB).access).users[0].revoked and off(lab)
    counted: list[str] = []
    lab.host.hook.before = counted.append
    resume(lab)
    assert counted.index("start_domain") < counted.index("guests.configure") < counted.index("guests.verify")
    lab.host.hook.before = lambda _name: None
    lab.assert_well()


def test_a_guest_that_cannot_be_saved_lets_all_go_on(lab: Rewound) -> None:
    count = 0

    def fail(name: str) -> None:
        nonlocal count
        count += name == "save_domain"
        if name == "save_domain" and count == 2:
            raise HypervisorError("No space left on device")

    lab.host.hook.before = fail
    with pytest.raises(HypervisorError, match="No space left"):
        suspend(lab)
    lab.host.hook.before = lambda _name: None
    lab.assert_well()
    assert lab.memories() == {node: f"{node} {HERE}" for node in NODES} and not lab.store.root.exists()


def test_only_what_rests_is_woken(lab: Rewound) -> None:
    with pytest.raises(UsageError, match="is not suspended"):
        resume(lab)
    with pytest.raises(UsageError, match="it is what `hyperscaler suspend` makes"):
        lab.create("suspended")


def test_a_hypervisor_that_others_use_stops_and_does_not_suspend(host: SimulatedHost) -> None:
    shared = Rewound(host, lab_text(hypervisor=SYSTEM_URI))
    with pytest.raises(ConflictError, match="hypervisor of their own"):
        suspend(shared)
