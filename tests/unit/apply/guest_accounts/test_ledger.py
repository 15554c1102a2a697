"""Who has which account: the same one for ever, no two the same, whatever dies in between."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from emulator.adapters.system.account_numbers import HostAccountNumbers
from emulator.apply.guest_accounts.ledger import AccountLedger, AccountsDamagedError, NoAccounts, Owner, host_accounts
from emulator.apply.ledger_file import write_ledger
from emulator.core.errors import HostNotFitError, StateError
from emulator.core.paths import Home
from emulator.core.ports.guest_accounts import GuestAccount, is_reserved
from tests.support.guest_accounts import FIRST, CountedNumbers, accounts_in


@dataclass
class Bench:
    root: Path
    numbers: CountedNumbers

    def ledger(self, home: str = "/home") -> AccountLedger:
        """As another command sees it."""
        return accounts_in(self.root, home=home, numbers=self.numbers)

    @property
    def file(self) -> Path:
        return self.root / "guest-accounts.json"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, CountedNumbers())


def test_guests_have_a_user_each_in_the_group_of_their_lab(bench: Bench) -> None:
    first, second = (bench.ledger().of_guest("demo", node) for node in ("controller", "compute-1"))
    other = bench.ledger().of_guest("other", "controller")
    lab = bench.ledger().of_lab("demo")
    assert lab.uid == lab.gid == first.gid == second.gid
    assert len({lab.uid, first.uid, second.uid, other.uid, other.gid}) == 5


def test_the_next_command_finds_the_same_accounts(bench: Bench) -> None:
    account = bench.ledger().of_guest("demo", "controller")
    before = bench.file.stat()
    assert bench.ledger().of_guest("demo", "controller") == account
    assert bench.file.stat().st_ino == before.st_ino, "nothing is written for what is there"
    assert bench.file.stat().st_mode & 0o777 == 0o600


def test_labs_of_one_name_in_two_homes_are_kept_apart(bench: Bench) -> None:
    here, there = (bench.ledger(home).of_guest("demo", "controller") for home in ("/a", "/b"))
    assert not {here.uid, here.gid} & {there.uid, there.gid}
    assert bench.ledger("/a").release("demo") == ()
    assert not bench.ledger("/a").knows("demo") and bench.ledger("/b").of_guest("demo", "controller") == there


def test_nothing_is_left_of_the_last_lab(bench: Bench) -> None:
    bench.ledger().of_guest("demo", "controller")
    assert bench.ledger().knows("demo")
    assert bench.ledger().release("demo") == ()
    assert not bench.file.exists() and not bench.ledger().knows("demo")
    assert bench.ledger().release("demo") == ()


def test_a_number_is_not_given_away_while_something_belongs_to_it(bench: Bench) -> None:
    left = bench.ledger().of_guest("demo", "controller").uid
    bench.numbers.left[left] = "/tmp/backdoor"
    assert bench.ledger().release("demo") == ("/tmp/backdoor",)
    again = bench.ledger().of_guest("demo", "controller")
    assert left not in (again.uid, again.gid), "not even to the lab that had it"
    bench.numbers.left.clear()
    assert bench.ledger().release("demo") == ()
    assert not bench.file.exists(), "with the file gone, the number is free again"
    assert bench.ledger().of_guest("demo", "controller").uid == left


def test_without_free_numbers_the_guest_is_not_made(bench: Bench) -> None:
    bench.numbers.count = 2
    bench.ledger().of_guest("demo", "controller")
    with pytest.raises(HostNotFitError):
        bench.ledger().of_guest("demo", "compute-1")
    assert set(bench.ledger().entries().owners) == {Owner("/home", "demo"), Owner("/home", "demo", "controller")}


# ------------------------------------------------------------------ several at once, and ends in between
def _claim(root: Path, lab: str, barrier: Any) -> None:
    barrier.wait()
    for node in range(5):
        accounts_in(root).of_guest(lab, f"node-{node}")


def test_commands_at_once_never_get_the_same_number(bench: Bench) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    processes = [context.Process(target=_claim, args=(bench.root, f"lab-{n}", barrier)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    numbers = list(bench.ledger().entries().owners.values())
    assert len(numbers) == len(set(numbers)) == 4 * 6


def dies_at(number: int, work: Callable[[], object]) -> bool:
    """Whether a process that dies at the n-th call that changes or syncs a file got that far."""
    child = os.fork()
    if child == 0:
        count = 0

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def step(*args: Any, **options: Any) -> Any:
                nonlocal count
                if count == number:
                    os._exit(42)
                count += 1
                return call(*args, **options)

            return step

        try:
            with ExitStack() as stack:
                for name in ("fsync", "replace", "rename", "unlink"):
                    stack.enter_context(patch(f"os.{name}", counted(getattr(os, name))))
                work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 42


@pytest.mark.parametrize("verb", ["claim", "release"])
def test_a_death_anywhere_costs_no_account(bench: Bench, verb: str) -> None:
    cuts = 0
    while True:
        other = bench.ledger().of_guest("other", "controller")
        if verb == "release":
            bench.ledger().of_guest("demo", "controller")
        work = {
            "claim": lambda: bench.ledger().of_guest("demo", "controller"),
            "release": lambda: bench.ledger().release("demo"),
        }[verb]
        if not dies_at(cuts, work):
            break
        cuts += 1
        mine = bench.ledger().of_guest("demo", "controller")
        assert not {mine.uid, mine.gid} & {other.uid, other.gid}
        assert bench.ledger().of_guest("other", "controller") == other
        assert bench.ledger().release("demo") == () and bench.ledger().release("other") == ()
        assert not bench.file.exists()
    assert cuts >= 3


# ------------------------------------------------------------------ damage
def rewritten(bench: Bench, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(bench.file.read_text())
    change(data)
    write_ledger(bench.file, data)


@pytest.mark.parametrize("number", [0, 1000, 64055, -1, FIRST - 1, 2**32 - 1, True, "0", None, 1.5])
def test_no_file_makes_a_guest_root_or_anybody_else(bench: Bench, number: object) -> None:
    bench.ledger().of_guest("demo", "controller")
    rewritten(bench, lambda data: data["owners"][1].update(number=number))
    with pytest.raises(AccountsDamagedError, match="not for guests"):
        bench.ledger().of_guest("demo", "controller")


def test_no_file_gives_two_guests_one_user(bench: Bench) -> None:
    bench.ledger().of_guest("demo", "controller")
    rewritten(bench, lambda data: data["owners"][1].update(number=data["owners"][0]["number"]))
    with pytest.raises(AccountsDamagedError, match="to several guests"):
        bench.ledger().of_guest("demo", "controller")


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b'{"version": 1}', b"[" * 100_000])
def test_damage_is_noticed_and_set_aside(bench: Bench, text: bytes) -> None:
    account = bench.ledger().of_guest("demo", "controller")
    bench.file.write_bytes(text)
    with pytest.raises(AccountsDamagedError) as caught:
        bench.ledger().knows("demo")
    assert caught.value.where == str(bench.file)
    kept = bench.ledger().set_aside_damaged()
    assert kept is not None and kept.read_bytes() == text
    assert bench.ledger().set_aside_damaged() is None
    bench.ledger().restore("demo", {"controller": account})
    assert bench.ledger().of_guest("demo", "controller") == account


def test_a_flipped_bit_is_noticed(bench: Bench) -> None:
    bench.ledger().of_guest("demo", "controller")
    bench.file.write_text(bench.file.read_text().replace("controller", "contrpller"))
    with pytest.raises(AccountsDamagedError, match="checksum"):
        bench.ledger().entries()


def test_a_newer_version_s_file_is_left_alone(bench: Bench) -> None:
    bench.file.write_text('{"version": 2, "sum": "x"}')
    for call in (lambda: bench.ledger().of_lab("demo"), lambda: bench.ledger().set_aside_damaged()):
        with pytest.raises(StateError, match="of format 2"):
            call()
    assert bench.file.read_text() == '{"version": 2, "sum": "x"}'


# ------------------------------------------------------------------ a lost file
def test_a_record_restores_what_was_lost(bench: Bench) -> None:
    account = bench.ledger().of_guest("demo", "controller")
    bench.file.unlink()
    bench.ledger().restore("demo", {"controller": account})
    assert bench.ledger().of_guest("demo", "controller") == account
    before = bench.file.read_bytes()
    bench.ledger().restore("demo", {"controller": account})
    assert bench.file.read_bytes() == before


def test_a_record_takes_nothing_from_another_lab(bench: Bench) -> None:
    mine = bench.ledger().of_guest("demo", "controller")
    bench.ledger().restore("copy", {"controller": mine})
    other = bench.ledger().of_guest("copy", "controller")
    assert not {mine.uid, mine.gid} & {other.uid, other.gid}


def test_a_record_takes_no_retired_number(bench: Bench) -> None:
    mine = bench.ledger().of_guest("demo", "controller")
    bench.numbers.left[mine.uid] = "/tmp/backdoor"
    bench.ledger().release("demo")
    bench.ledger().restore("demo", {"controller": mine})
    again = bench.ledger().of_guest("demo", "controller")
    assert again.uid != mine.uid and again.gid == mine.gid
    assert bench.ledger().entries().retired == {mine.uid: "/tmp/backdoor"}


def test_accounts_of_an_earlier_version_are_not_entered(bench: Bench) -> None:
    bench.ledger().restore("demo", {"controller": GuestAccount(64055, 107), "compute-1": GuestAccount(0, 0)})
    assert not bench.file.exists()


def test_the_homes_are_found_in_a_damaged_file(bench: Bench) -> None:
    for home in ("/b", "/a"):
        bench.ledger(home).of_lab("demo")
    bench.file.write_text(bench.file.read_text()[:-20])
    assert bench.ledger().homes() == (Path("/a"), Path("/b"))


# ------------------------------------------------------------------ of this host
def test_only_root_gives_accounts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home, numbers = Home(tmp_path), HostAccountNumbers()
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    none = host_accounts(home, numbers)
    assert isinstance(none, NoAccounts)
    assert (none.of_lab("demo"), none.of_guest("demo", "n"), none.knows("demo"), none.release("demo")) == (
        None,
        None,
        False,
        (),
    )
    monkeypatch.setattr("os.geteuid", lambda: 0)
    ledger = host_accounts(home, numbers)
    assert isinstance(ledger, AccountLedger) and ledger.path == Home.system().guest_accounts


def test_the_ranges_hold_no_user_that_a_system_may_have() -> None:
    foreign = (0, 999, 1000, 60000, 60513, 60577, 61184, 64055, 65519, 65534, 65535, 65536, 100_000, 600_100_000)
    containers = (524_288, 1_878_982_656 + 65_535, 2_000_200_000, 2**31 - 1, 2**32 - 2)
    assert not any(map(is_reserved, (*foreign, *containers)))
