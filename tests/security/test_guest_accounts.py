"""What lab files, guests and users of the host can plant so that two guests get one user, or one the other's files."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.adapters.libvirt.guest_account import admit, hand_over
from emulator.adapters.system import account_numbers
from emulator.adapters.system.account_numbers import HostAccountNumbers
from emulator.apply.guest_accounts.ledger import AccountLedger
from emulator.core.errors import HypervisorError, StateError
from emulator.core.ports.guest_accounts import GuestAccount, is_reserved
from tests.support.guest_accounts import accounts_in
from tests.support.simulated_world import LAB, SYSTEM_URI, SimulatedHost, lab_text

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
FIRST = 0x7E000000
MINE, OTHERS = GuestAccount(FIRST + 1, FIRST), GuestAccount(FIRST + 11, FIRST + 10)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[SimulatedHost]:
    host = SimulatedHost(tmp_path / "host")
    yield host
    host.close()


def real_ledger(root: Path) -> AccountLedger:
    return AccountLedger(root / "accounts.json", root / "lock", HostAccountNumbers(places=[root / "tmp"]), home="/home")


# ------------------------------------------------------------------ a lab file
@pytest.mark.parametrize("lab", ["demo", "2113929216", "root", "0"])
def test_names_of_a_lab_file_decide_about_no_number(tmp_path: Path, lab: str) -> None:
    numbers = set()
    for attempt in range(3):
        (tmp_path / str(attempt)).mkdir()
        numbers.add(real_ledger(tmp_path / str(attempt)).of_guest(lab, "hpc-controller").uid)
    assert len(numbers) == 3, "the same names, other numbers"
    assert all(map(is_reserved, numbers))


def test_a_lab_file_has_no_word_about_accounts(host: SimulatedHost) -> None:
    lab = host.lab_file(lab_text(hypervisor=SYSTEM_URI))
    host.provision(lab)
    for key in ("account", "uid", "user", "seclabel"):
        text = lab_text(hypervisor=SYSTEM_URI).replace("{cpu_cores: 1,", f"{{{key}: 0, cpu_cores: 1,", 1)
        with pytest.raises(AssertionError, match=key):
            host.lab_file(text)


# ------------------------------------------------------------------ the list
def test_links_in_the_place_of_the_list_or_its_lock_lead_nowhere(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "accounts.lock").symlink_to(victim)
    with pytest.raises(StateError):
        accounts_in(tmp_path).of_lab("demo")
    (tmp_path / "accounts.lock").unlink()
    (tmp_path / ".guest-accounts.json.new").symlink_to(victim)
    accounts_in(tmp_path).of_lab("demo")
    assert victim.read_text() == "precious" and (tmp_path / "guest-accounts.json").is_file()
    (tmp_path / "guest-accounts.json").unlink()
    (tmp_path / "guest-accounts.json").symlink_to(tmp_path / "absent")
    accounts_in(tmp_path).of_lab("demo")
    assert not (tmp_path / "guest-accounts.json").is_symlink() and not (tmp_path / "absent").exists()


def test_a_journal_gives_a_lab_no_account_of_another_or_of_the_host(tmp_path: Path) -> None:
    mine = accounts_in(tmp_path).of_guest("mine", "controller")
    for claimed in (mine, GuestAccount(0, 0), GuestAccount(1000, 1000), GuestAccount(mine.uid, 0)):
        accounts_in(tmp_path).restore("thief", {"controller": claimed})
        got = accounts_in(tmp_path).of_guest("thief", "controller")
        assert is_reserved(got.uid) and is_reserved(got.gid) and not {got.uid, got.gid} & {mine.uid, mine.gid}
        accounts_in(tmp_path).release("thief")


# ------------------------------------------------------------------ what a guest left behind
@needs_root
@pytest.mark.parametrize("what", ["setuid file", "directory", "link", "fifo", "deep"])
def test_a_file_that_a_guest_left_behind_keeps_its_number_from_others(tmp_path: Path, what: str) -> None:
    """A set-user-id program of a destroyed lab's guest must not become one of a later lab's guest."""
    (tmp_path / "tmp").mkdir()
    ledger = real_ledger(tmp_path)
    user = ledger.of_guest("demo", "a").uid
    trap = tmp_path / "tmp" / "trap"
    match what:
        case "setuid file":
            trap.touch(mode=0o4755)
        case "directory":
            trap.mkdir()
        case "link":
            trap.symlink_to("/etc/passwd")
        case "fifo":
            os.mkfifo(trap)
        case "deep":
            trap = tmp_path.joinpath("tmp", *["d" * 200] * 12, "trap")
            trap.parent.mkdir(parents=True)
            trap.touch()
    os.lchown(trap, user, user)
    assert ledger.release("demo") == (str(trap),)
    assert user in real_ledger(tmp_path).entries().retired


# ------------------------------------------------------------------ the handing over
@needs_root
@pytest.mark.parametrize("what", ["link", "hard link"])
def test_another_guest_s_disk_cannot_be_had_under_one_s_own_name(tmp_path: Path, what: str) -> None:
    theirs, mine = tmp_path / "theirs.qcow2", tmp_path / "mine.qcow2"
    theirs.write_bytes(b"disk")
    hand_over(OTHERS, disks=(theirs,), console_log=None)
    mine.symlink_to(theirs) if what == "link" else mine.hardlink_to(theirs)
    for disks, log in (((mine,), None), ((), mine)):
        with pytest.raises(HypervisorError):
            hand_over(MINE, disks=disks, console_log=log)
    assert (theirs.stat().st_uid, theirs.stat().st_gid) == (OTHERS.uid, OTHERS.gid)


@needs_root
def test_a_directory_of_another_guest_is_not_opened_for_one_s_lab(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, OTHERS.uid, OTHERS.gid)
    with pytest.raises(HypervisorError, match="not a directory of our own"):
        admit(MINE, [theirs])
    assert stat.S_IMODE(theirs.stat().st_mode) == 0o700


@needs_root
def test_a_guest_that_changes_hands_is_out_of_its_old_user_s_reach(tmp_path: Path) -> None:
    """After a lost list a guest may get another number: files and directories follow."""
    disk = tmp_path / "a.qcow2"
    disk.write_bytes(b"disk")
    for account in (OTHERS, MINE):
        admit(account, [tmp_path])
        hand_over(account, disks=(disk,), console_log=tmp_path / "a.log")
    for path in (disk, tmp_path / "a.log"):
        assert (path.stat().st_uid, path.stat().st_gid, stat.S_IMODE(path.stat().st_mode)) == (*vars_of(MINE), 0o600)
    assert (tmp_path.stat().st_gid, stat.S_IMODE(tmp_path.stat().st_mode)) == (MINE.gid, 0o710)


def vars_of(account: GuestAccount) -> tuple[int, int]:
    return account.uid, account.gid


def test_a_domain_that_was_edited_to_run_as_root_is_defined_anew(host: SimulatedHost) -> None:
    lab = host.lab_file(lab_text(hypervisor=SYSTEM_URI))
    host.provision(lab)
    hypervisor, name = host.hypervisor(quiet=True), f"{LAB}-hpc-controller"
    info = hypervisor.domain(name)
    assert info is not None and GuestAccount.of_label(info.account) is not None
    for label in ("+0:+0", "root:root"):
        for live in (False, True):
            hypervisor.edit(name, f"<label>{info.account}</label>", f"<label>{label}</label>", live=live)
        assert [change.resource.id for change in host.plan(lab).changes] == ["domain/hpc-controller"]
        host.provision(lab)
        again = hypervisor.domain(name)
        assert again is not None and again.live is not None
        assert again.account == again.live.account == info.account


# ------------------------------------------------------------------ what outlives a lab
@needs_root
def test_what_still_runs_as_a_guest_s_user_ends_with_its_lab(tmp_path: Path) -> None:
    """It left QEMU, its namespaces and its control group, hears no SIGTERM, and starts another process meanwhile."""
    (tmp_path / "tmp").mkdir()
    ledger = real_ledger(tmp_path)
    mine, others = ledger.of_guest("demo", "hpc-controller"), ledger.of_guest("other", "hpc-controller")
    loop = "trap '' TERM; echo there; while :; do sleep 0.01; done"
    with contextlib.ExitStack() as stack:
        started = []
        for account in (mine, others):
            argv = ["sh", "-c", loop]
            process = subprocess.Popen(argv, user=account.uid, group=account.gid, stdout=subprocess.PIPE, text=True)
            stack.callback(process.wait)
            stack.callback(process.kill)
            assert process.stdout is not None and process.stdout.readline() == "there\n"
            started.append(process)
        assert ledger.release("demo") == ()
        assert started[0].wait(60) == -signal.SIGKILL
        assert started[1].poll() is None, "another lab goes on"
        assert ledger.release("other") == ()


@needs_root
def test_nobody_but_guests_users_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["sleep", "100"], user=60000, group=60000) as innocent:
        HostAccountNumbers().end([60000, 0])
        monkeypatch.setattr(account_numbers, "is_reserved", lambda _number: True)
        monkeypatch.setattr(account_numbers, "_has_name", lambda _number: True)
        HostAccountNumbers().end([60000])
        assert innocent.poll() is None
        innocent.kill()
