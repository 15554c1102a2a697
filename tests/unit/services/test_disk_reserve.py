from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from uuid import UUID

import pytest

from emulator.core.errors import HypervisorError
from emulator.core.ports import DomainInfo, DomainState
from emulator.core.units import GIB, MIB
from emulator.services.disk_reserve import BALLAST, DiskReserve
from emulator.services.requests import MOST, Question, Requests
from emulator.services.watched_guests import CONSOLE_ALLOWED

RESERVE = GIB


class Guests:
    """Two guests whose disks the test lets grow."""

    def __init__(self, root: Path) -> None:
        self.disks = {name: root / f"{name}.qcow2" for name in ("a", "b")}
        self.states = dict.fromkeys(self.disks, DomainState.RUNNING)
        self.accounts: dict[str, str] = {}
        self.logs: dict[str, str] = {}
        self.did: list[str] = []
        self.down = False
        for name in self.disks:
            self.grow(name)

    def grow(self, name: str) -> None:
        with self.disks[name].open("ab") as file:
            file.write(b"x" * 65536)

    def list(self) -> tuple[DomainInfo, ...]:
        self._require()
        self.did.append("list")
        return tuple(
            DomainInfo(
                name,
                UUID(int=1),
                self.states[name],
                None,
                disks=(disk,),
                account=self.accounts.get(name, ""),
                console_log=self.logs.get(name, ""),
            )
            for name, disk in self.disks.items()
        )

    def pause(self, name: str) -> None:
        self._require()
        self.did.append(f"pause {name}")
        self.states[name] = DomainState.PAUSED

    def resume(self, name: str) -> None:
        self._require()
        self.did.append(f"resume {name}")
        self.states[name] = DomainState.RUNNING

    def _require(self) -> None:
        if self.down:
            raise HypervisorError("libvirtd does not answer\nand more")


class FakeUsers:
    """Users of whom processes run or stand still."""

    def __init__(self) -> None:
        self.still: set[int] = set()
        self.immune: set[int] = set()

    def stop(self, uids: Collection[int]) -> frozenset[int]:
        self.still |= set(uids) - self.immune
        return frozenset(uids) - self.immune

    def let_go_on(self, uids: Collection[int]) -> None:
        self.still -= set(uids)

    def stopped(self, uids: Collection[int]) -> frozenset[int]:
        return frozenset(uids) & self.still


class Bench:
    def __init__(self, root: Path) -> None:
        self.users = FakeUsers()
        self.free = 10 * GIB
        self.guests = Guests(root)
        self.ballast = root / "x.ballast"
        self.remembered: list[list[str]] = []
        self.root = root

    def watch(self, paused: frozenset[str] = frozenset(), *, patience: float = 60.0) -> DiskReserve:
        remember: Callable[[frozenset[str]], None] = lambda names: self.remembered.append(sorted(names))  # noqa: E731
        return DiskReserve(
            self.root,
            self.ballast,
            RESERVE,
            self.guests,
            paused=paused,
            remember=remember,
            free=lambda _directory: self.free,
            requests=Requests(patience=patience),
            listing=Question(self.guests.list, patience),
            users=self.users,
        )

    def looks(self, watch: DiskReserve, *, free: int, growing: str = "") -> list[str]:
        """What is done at this much free space after these guests have grown."""
        self.free, self.guests.did = free, []
        for name in growing:
            self.guests.grow(name)
        watch.look()
        return [line for line in self.guests.did if line != "list"]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_far_from_the_reserve_nobody_is_asked(bench: Bench) -> None:
    watch = bench.watch()
    assert bench.looks(watch, free=10 * GIB, growing="ab") == [] and bench.guests.did == []
    assert watch.text == "a reserve of 1.0 GiB is kept free"
    assert bench.ballast.stat().st_size == BALLAST


def test_a_guest_that_grows_is_paused_and_goes_on_when_there_is_room(bench: Bench) -> None:
    watch = bench.watch()
    assert bench.looks(watch, free=GIB + MIB, growing="ab") == []
    assert bench.looks(watch, free=GIB - MIB, growing="a") == ["pause a"]
    assert watch.text == "a: paused, because less than the reserve of 1.0 GiB is free and their disks grow"
    assert bench.looks(watch, free=GIB - MIB) == []
    assert bench.looks(watch, free=GIB + MIB) == [], "no to and fro"
    assert bench.looks(watch, free=2 * GIB) == ["resume a"]
    assert watch.text == "a reserve of 1.0 GiB is kept free"


def test_what_is_paused_is_noted_before_it_is_done(bench: Bench) -> None:
    watch = bench.watch()
    bench.looks(watch, free=GIB + MIB)
    seen: list[list[list[str]]] = []
    bench.guests.pause = lambda name: seen.append(list(bench.remembered))  # type: ignore[method-assign]
    bench.looks(watch, free=GIB - MIB, growing="ab")
    assert seen == [[["a", "b"]]] * 2


def test_a_service_that_starts_again_lets_go_on_what_it_had_paused(bench: Bench) -> None:
    bench.guests.states["a"] = DomainState.PAUSED
    bench.guests.states["b"] = DomainState.PAUSED  # by another person
    watch = bench.watch(paused=frozenset({"a"}))
    assert bench.looks(watch, free=GIB - MIB) == []
    assert bench.looks(watch, free=10 * GIB) == ["resume a"]


def test_without_libvirt_it_says_so_and_tries_again(bench: Bench) -> None:
    watch = bench.watch()
    bench.looks(watch, free=GIB + MIB)
    bench.guests.down = True
    assert bench.looks(watch, free=GIB - MIB, growing="a") == []
    assert watch.text == (
        "less than the reserve of 1.0 GiB is free; guests cannot be paused or resumed: libvirtd does not answer"
    )
    bench.guests.down = False
    assert bench.looks(watch, free=GIB - MIB, growing="a") == ["pause a"]


def test_a_resume_that_fails_is_tried_again(bench: Bench) -> None:
    bench.guests.states["a"] = DomainState.PAUSED
    watch = bench.watch(paused=frozenset({"a"}))
    bench.guests.down = True
    bench.looks(watch, free=10 * GIB)
    assert watch.paused == {"a"}
    bench.guests.down = False
    assert bench.looks(watch, free=10 * GIB) == ["resume a"]
    assert watch.paused == frozenset()


def test_the_last_is_given_up_for_journals_and_taken_again(bench: Bench) -> None:
    watch = bench.watch()
    bench.looks(watch, free=10 * GIB)
    bench.looks(watch, free=BALLAST)
    assert bench.ballast.exists()
    bench.looks(watch, free=BALLAST - 1)
    assert not bench.ballast.exists()
    bench.looks(watch, free=GIB)
    assert not bench.ballast.exists(), "not out of the reserve itself"
    bench.looks(watch, free=10 * GIB)
    assert bench.ballast.exists()


def test_what_is_planted_in_its_place_is_left_alone(bench: Bench, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("data")
    bench.ballast.hardlink_to(precious)
    watch = bench.watch()
    bench.looks(watch, free=10 * GIB)
    bench.ballast.unlink()
    bench.ballast.symlink_to(tmp_path / "made")
    bench.looks(watch, free=10 * GIB)
    assert precious.read_text() == "data"
    assert not (tmp_path / "made").exists()


def test_guests_on_another_disk_do_no_harm(bench: Bench) -> None:
    bench.guests.disks["b"].unlink()
    watch = bench.watch()
    bench.looks(watch, free=GIB + MIB)
    assert bench.looks(watch, free=GIB - MIB, growing="a") == ["pause a"]


@pytest.mark.parametrize(
    ("before", "after", "pause"),
    [
        (4 * GIB, 4 * GIB, 1.0),
        (4 * GIB, 5 * GIB, 1.0),
        (4 * GIB, 3 * GIB, 1.0),
        (4 * GIB, 2 * GIB, 0.25),  # 2 GiB in a second, 1 GiB above the reserve
        (2 * GIB, GIB // 2, 1 / 6),  # 1.5 GiB in a second, half a GiB left
        (4 * GIB, 1, 0.05),
    ],
)
def test_the_faster_it_gets_full_the_sooner_it_is_looked_at(
    bench: Bench, before: int, after: int, pause: float
) -> None:
    now = 0.0
    watch = DiskReserve(
        bench.root, bench.ballast, RESERVE, bench.guests, free=lambda _directory: bench.free, clock=lambda: now
    )
    bench.free = before
    assert watch.look() == 1.0
    now, bench.free = 1.0, after
    assert watch.look() == pytest.approx(pause)


def test_a_guest_that_refuses_to_be_paused_shields_no_other_one(bench: Bench) -> None:
    """It broke out of QEMU, which answers libvirt as it likes."""
    pause = bench.guests.pause

    def obey(name: str) -> None:
        if name == "a":
            raise HypervisorError("QEMU says no")
        pause(name)

    bench.guests.pause = obey  # type: ignore[method-assign]
    watch = bench.watch()
    bench.looks(watch, free=GIB + MIB)
    assert bench.looks(watch, free=GIB - MIB, growing="ab") == ["pause b"]
    assert watch.paused == {"b"}
    assert watch.text.startswith("b: paused,") and watch.text.endswith("; a cannot be paused or resumed: QEMU says no")


def test_a_guest_that_does_not_answer_holds_up_no_other_one(bench: Bench) -> None:
    """When it answers in the end, it is known who paused it."""
    pause, answers = bench.guests.pause, threading.Event()

    def hesitate(name: str) -> None:
        if name == "a":
            answers.wait()
        pause(name)

    bench.guests.pause = hesitate  # type: ignore[method-assign]
    watch = bench.watch(patience=2.0)
    bench.looks(watch, free=GIB + MIB)
    assert bench.looks(watch, free=GIB - MIB, growing="ab") == ["pause b"]
    assert watch.text.endswith("; a cannot be paused or resumed: no answer yet")
    assert bench.remembered == [["a", "b"]] and watch.paused == {"a", "b"}
    assert bench.looks(watch, free=3 * GIB) == ["resume b"]
    answers.set()
    while bench.guests.states["a"] is not DomainState.PAUSED:
        threading.Event().wait(0.001)
    assert bench.looks(watch, free=3 * GIB) == ["resume a"]
    assert watch.paused == frozenset()


A, B = 0x7E000001, 0x7E000002
"""Users of the guests."""
LOW = "because less than the reserve of 1.0 GiB is free and their disks grow"
BY_SIGNAL = "stopped by a signal (their QEMU did not obey libvirt)"


@pytest.fixture
def own(bench: Bench) -> Bench:
    """Guests that have users of their own."""
    bench.guests.accounts = {"a": f"+{A}:+7", "b": f"+{B}:+7"}
    return bench


def refuse(guests: Guests, *names: str) -> None:
    """Their QEMU answers libvirt with an error."""
    pause = guests.pause

    def obey(name: str) -> None:
        if name in names:
            raise HypervisorError("QEMU says no")
        pause(name)

    guests.pause = obey  # type: ignore[method-assign]


def test_a_guest_that_refuses_is_stopped_by_a_signal_until_there_is_room(own: Bench) -> None:
    refuse(own.guests, "a")
    watch = own.watch()
    own.looks(watch, free=GIB + MIB)
    assert own.looks(watch, free=GIB - MIB, growing="ab") == ["pause b"]
    assert own.users.still == {A} and watch.paused == {"a", "b"}
    assert watch.text == f"b: paused, {LOW}; a: {BY_SIGNAL}, {LOW}"
    own.users.still.clear()  # a process of its own let it go on
    own.looks(watch, free=GIB - MIB, growing="a")
    assert own.users.still == {A}
    assert own.looks(watch, free=3 * GIB) == ["resume b"]
    assert own.users.still == set() and watch.paused == frozenset()
    assert watch.text == "a reserve of 1.0 GiB is kept free"


def test_what_an_earlier_start_has_stopped_goes_on(own: Bench) -> None:
    own.users.still = {A, B}  # the other one by another person
    watch = own.watch(paused=frozenset({"a"}))
    own.looks(watch, free=GIB - MIB)
    assert watch.paused == {"a"} and watch.text == f"a: {BY_SIGNAL}, {LOW}"
    own.looks(watch, free=3 * GIB)
    assert own.users.still == {B}


def test_nobody_is_left_stopped_when_the_service_ends(own: Bench) -> None:
    refuse(own.guests, "a")
    watch = own.watch()
    own.looks(watch, free=GIB + MIB)
    own.looks(watch, free=GIB - MIB, growing="a")
    own.users.still.add(B)  # by another person
    watch.end()
    assert own.users.still == {B}


def test_one_that_is_not_stopped_either_is_named(own: Bench) -> None:
    refuse(own.guests, "a")
    own.users.immune = {A}
    watch = own.watch()
    own.looks(watch, free=GIB + MIB)
    own.looks(watch, free=GIB - MIB, growing="a")
    assert watch.paused == frozenset()
    assert watch.text.endswith("is free; a cannot be paused or resumed: QEMU says no")


def test_under_a_libvirt_that_does_not_answer_guests_are_stopped_by_signals(own: Bench) -> None:
    watch = own.watch()
    own.looks(watch, free=GIB + MIB)
    own.guests.down = True
    own.looks(watch, free=GIB - MIB, growing="a")
    assert own.users.still == {A}
    told = "; guests cannot be paused or resumed: libvirtd does not answer"
    assert watch.text == f"a: {BY_SIGNAL}, {LOW}{told}"
    own.looks(watch, free=3 * GIB)
    assert own.users.still == set() and watch.paused == frozenset()


def test_a_guest_that_is_off_by_its_own_word_and_grows_is_stopped(own: Bench) -> None:
    """Its QEMU closed its connection to libvirt, or ended its first process alone."""
    own.guests.states["a"] = DomainState.SHUTOFF
    watch = own.watch()
    own.looks(watch, free=GIB + MIB)
    assert own.looks(watch, free=GIB - MIB, growing="a") == []
    assert own.users.still == {A} and own.remembered == [["a"]]
    assert watch.text == f"a: {BY_SIGNAL}, {LOW}"
    assert own.looks(watch, free=3 * GIB) == []
    assert own.users.still == set() and watch.paused == frozenset()


def test_a_disk_that_is_made_anew_below_the_reserve_belongs_to_nothing_that_runs(own: Bench) -> None:
    own.guests.states["a"] = DomainState.SHUTOFF
    own.users.immune = {A}  # there is none to stop
    watch = own.watch()
    own.looks(watch, free=GIB + MIB)
    own.looks(watch, free=GIB - MIB, growing="a")
    assert watch.paused == frozenset() and watch.text == "less than the reserve of 1.0 GiB is free"


def test_a_guest_that_lied_is_let_go_on_before_it_is_asked_to(own: Bench) -> None:
    watch = own.watch()
    own.looks(watch, free=GIB + MIB)
    for _ in range(3):
        own.looks(watch, free=GIB - MIB, growing="a")
    assert own.users.still == {A}
    resume, still = own.guests.resume, []

    def answer(name: str) -> None:
        still.append(set(own.users.still))
        resume(name)

    own.guests.resume = answer  # type: ignore[method-assign]
    assert own.looks(watch, free=3 * GIB) == ["resume a"]
    assert still == [set()] and watch.paused == frozenset()


def test_a_guest_that_lies_and_is_not_stopped_is_named(own: Bench) -> None:
    own.users.immune = {A}
    watch = own.watch()
    own.looks(watch, free=GIB + MIB)
    assert own.looks(watch, free=GIB - MIB, growing="a") == ["pause a"]
    own.looks(watch, free=GIB - MIB, growing="a")
    own.looks(watch, free=GIB - MIB, growing="a")
    assert watch.text.endswith(
        "; a cannot be paused or resumed: it grows although it is paused, and is not stopped by a signal either"
    )
    assert own.looks(watch, free=3 * GIB) == ["resume a"]


def test_far_from_the_reserve_guests_are_asked_for_once_a_minute(bench: Bench) -> None:
    now = 0.0
    watch = DiskReserve(
        bench.root, bench.ballast, RESERVE, bench.guests, free=lambda _directory: 10 * GIB, clock=lambda: now
    )
    for moment in (0.0, 59.0, 60.0, 61.0, 120.0):
        now = moment
        watch.look()
    assert bench.guests.did == ["list", "list"]


def test_a_libvirt_that_hangs_holds_up_nobody(own: Bench) -> None:
    hangs, goes_on = own.guests.list, threading.Event()
    watch = own.watch(patience=0.1)
    own.looks(watch, free=GIB + MIB)

    def hang() -> tuple[DomainInfo, ...]:
        goes_on.wait()
        return hangs()

    watch._listing = Question(hang, 0.1)
    for _ in range(2):
        own.looks(watch, free=GIB - MIB, growing="a")
    assert own.users.still == {A}
    assert watch.text.endswith("; guests cannot be paused or resumed: no answer after 0.1 s")
    goes_on.set()
    while "no answer" in watch.text:
        own.looks(watch, free=3 * GIB)
    assert own.users.still == set() and watch.text == "a reserve of 1.0 GiB is kept free"


def test_a_late_answer_of_one_that_was_stopped_is_known_as_ours(own: Bench) -> None:
    """Its QEMU carries the request out once it goes on."""
    pause, answers = own.guests.pause, threading.Event()

    def hesitate(name: str) -> None:
        answers.wait()
        pause(name)

    own.guests.pause = hesitate  # type: ignore[method-assign]
    watch = own.watch(patience=0.1)
    own.looks(watch, free=GIB + MIB)
    own.looks(watch, free=GIB - MIB, growing="a")
    assert own.users.still == {A}
    own.looks(watch, free=3 * GIB)
    assert own.users.still == set() and watch.paused == {"a"}, "not answered yet"
    answers.set()
    while own.guests.states["a"] is not DomainState.PAUSED:
        threading.Event().wait(0.001)
    assert own.looks(watch, free=3 * GIB) == ["resume a"]
    assert watch.paused == frozenset()


def test_any_number_of_mute_guests_shields_nobody(own: Bench) -> None:
    names = [f"mute{number}" for number in range(MOST + 3)]
    never = threading.Event()
    for number, name in enumerate(names, 10):
        own.guests.disks[name] = own.root / f"{name}.qcow2"
        own.guests.states[name] = DomainState.RUNNING
        own.guests.accounts[name] = f"+{0x7E000000 + number}:+7"
        own.guests.grow(name)
    own.guests.pause = lambda name: never.wait()  # type: ignore[method-assign, assignment]
    watch = own.watch(patience=0.1)
    own.looks(watch, free=GIB + MIB)
    for name in (*names, "a"):
        own.guests.grow(name)
    own.looks(watch, free=GIB - MIB)
    never.set()
    assert own.users.still == {A, *(0x7E000000 + number for number in range(10, 10 + len(names)))}


@pytest.mark.parametrize(("size", "paused"), [(CONSOLE_ALLOWED, []), (CONSOLE_ALLOWED + MIB, ["pause a"])])
def test_a_console_log_that_no_honest_guest_has_is_growth(own: Bench, size: int, paused: list[str]) -> None:
    log = own.root / "a.log"
    own.guests.logs["a"] = str(log)
    watch = own.watch()
    own.looks(watch, free=GIB + MIB)
    with log.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    assert own.looks(watch, free=GIB - MIB) == paused


@pytest.mark.parametrize("account", ["", "+0:+0", "+1000:+1000", "root", "libvirt-qemu:kvm"])
def test_users_that_are_not_one_guest_s_alone_are_never_stopped(own: Bench, account: str) -> None:
    own.guests.accounts["a"] = account
    refuse(own.guests, "a")
    watch = own.watch()
    own.looks(watch, free=GIB + MIB)
    own.looks(watch, free=GIB - MIB, growing="a")
    assert own.users.still == set() and "cannot be paused" in watch.text
