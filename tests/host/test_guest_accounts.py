"""Guests that broke out of QEMU, with the rights that their QEMU has: two labs on libvirtds of their own, for real.

Guest `a` attacks `b` of its own lab and `c` of another, from its QEMU's namespaces and, as if these did not hold it,
from those of the host.
"""

from __future__ import annotations

import json
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from emulator.adapters.embedded.hypervisor import EmbeddedHypervisor
from emulator.adapters.embedded.processes import find_processes
from emulator.adapters.libvirt.hypervisor import LibvirtHypervisor
from emulator.adapters.system.account_numbers import HostAccountNumbers
from emulator.adapters.system.process import HostProcess
from emulator.adapters.system.qemu_img import QemuImg
from emulator.apply.guest_accounts.ledger import AccountLedger
from emulator.core.ports.guest_accounts import RESERVED, GuestAccount
from tests.support.tiny_guest import TinyGuests

pytestmark = pytest.mark.host

RUNNER = HostProcess()


@dataclass
class OneLab:
    """A lab in `root`, laid out as the program does it, with tiny guests on one network."""

    name: str
    root: Path
    base: Path
    accounts: AccountLedger
    pids: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root.mkdir(mode=0o700)
        for directory in (self.disks, self.console):
            directory.mkdir(mode=0o700)
        self.daemon = EmbeddedHypervisor(
            self.root / "hv",
            f"hst-a{self.root.parent.name[-6:]}-{self.name}",
            RUNNER,
            account=lambda: self.accounts.of_lab(self.name),
            writable=(self.disks, self.console),
            readable=(self.base,),
        )

    @property
    def disks(self) -> Path:
        return self.root / "disks"

    @property
    def console(self) -> Path:
        return self.root / "console"

    def disk(self, node: str) -> Path:
        return self.disks / f"{node}.qcow2"

    def account(self, node: str) -> GuestAccount:
        return self.accounts.of_guest(self.name, node)

    def start(self, *nodes: str) -> None:
        connection = LibvirtHypervisor(self.daemon.start())
        try:
            guests = TinyGuests(self.base)
            connection.define_network(guests.network())
            for number, node in enumerate(nodes, 1):
                QemuImg(RUNNER).create_overlay(self.disk(node), base=self.base / "base.qcow2", size_gib=1)
                request = guests.domain(node, disk=self.disk(node), index=number)
                log = self.console / f"{node}.log"
                connection.admit_guests((self.root, self.disks, self.console), self.account(node))
                connection.define_domain(replace(request, console_log=log, account=self.account(node)))
                before = self.qemus()
                connection.start_domain(node)
                (self.pids[node],) = self.qemus() - before
                info = connection.domain(node)
                assert info is not None and info.account == self.account(node).label
                assert info.live is not None and info.live.account == self.account(node).label
        finally:
            connection.close()

    def qemus(self) -> set[int]:
        return {process.pid for process in find_processes(self.root / "hv") if process.name.startswith("qemu-system")}


@pytest.fixture(scope="module")
def labs() -> Iterator[tuple[OneLab, OneLab]]:
    # Not below a directory that is closed to others: the labs' own modes are to hold.
    top = Path(tempfile.mkdtemp(prefix="hs-accounts-", dir="/var/tmp"))
    top.chmod(0o755)
    accounts = AccountLedger(top / "accounts.json", top / "lock", HostAccountNumbers(), home=str(top))
    base = top / "image"
    TinyGuests.prepare(base)
    RUNNER.run(["qemu-img", "create", "-q", "-f", "qcow2", base / "base.qcow2", "64M"], timeout=60)
    one, two = (OneLab(name, top / name, base, accounts) for name in ("one", "two"))
    try:
        one.start("a", "b")
        two.start("c")
        yield one, two
    finally:
        for lab in (one, two):
            lab.daemon.stop()
        shutil.rmtree(top)


def status_of(pid: int) -> dict[str, str]:
    lines = (line.partition(":") for line in Path("/proc", str(pid), "status").read_text().splitlines())
    return {name: value.strip() for name, _, value in lines}


def test_each_qemu_has_a_user_of_its_own_and_no_further_rights(labs: tuple[OneLab, OneLab]) -> None:
    one, two = labs
    for lab, node in ((one, "a"), (one, "b"), (two, "c")):
        status, account = status_of(lab.pids[node]), lab.account(node)
        assert set(status["Uid"].split()) == {str(account.uid)}
        assert set(status["Gid"].split()) == {str(account.gid)}
        assert set(status["Groups"].split()) <= {str(account.gid)}, "no group of the host's"
        assert not any(int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"))
        assert status["Seccomp"] == "2", "no system call filter"
        limits = Path("/proc", str(lab.pids[node]), "limits").read_text().splitlines()
        words = {line[:26].strip(): line[26:].split() for line in limits}
        assert (words["Max processes"][1], words["Max core file size"][1]) == ("2048", "0")
    users = {one.account("a").uid, one.account("b").uid, two.account("c").uid}
    assert len(users) == 3 and one.account("a").gid == one.account("b").gid != two.account("c").gid


def test_files_and_directories_belong_to_those_who_need_them(labs: tuple[OneLab, OneLab]) -> None:
    for lab in labs:
        for node in lab.pids:
            for file in (lab.disk(node), lab.console / f"{node}.log"):
                status = file.stat()
                assert (status.st_uid, status.st_gid) == (lab.account(node).uid, lab.account(node).gid)
                assert stat.S_IMODE(status.st_mode) == 0o600
        for directory in (lab.root, lab.disks, lab.console):
            status = directory.stat()
            assert (status.st_uid, status.st_gid) == (0, lab.accounts.of_lab(lab.name).gid)
            assert stat.S_IMODE(status.st_mode) == 0o710
        assert {path.stat().st_uid for path in lab.base.iterdir()} == {0}, "images stay root's"


# What a process can do to files and to other processes, each tried for real; prints what worked.
_ATTACK = r"""
import ctypes, json, os, signal, socket, sys
plan = json.loads(sys.argv[1])
os.setgroups(plan["groups"]); os.setgid(plan["gid"]); os.setuid(plan["uid"])
libc = ctypes.CDLL(None, use_errno=True)
done = []
def attempt(name, action):
    try:
        action()
    except OSError:
        return
    done.append(name)
def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
def opened(path, flags):
    os.close(os.open(path, flags))
def connected(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
def memory(pid):
    target = int(open(f"/proc/{pid}/maps").readline().split("-")[0], 16)
    buffer = ctypes.create_string_buffer(8)
    mine, theirs = Piece(ctypes.addressof(buffer), 8), Piece(target, 8)
    checked(libc.process_vm_readv(pid, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0))
def blind(pid):
    # The address may be wrong; what counts is whether the kernel would have looked.
    buffer = ctypes.create_string_buffer(8)
    mine, theirs = Piece(ctypes.addressof(buffer), 8), Piece(0x1000, 8)
    if libc.process_vm_readv(pid, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0) < 0:
        if ctypes.get_errno() != 14:
            raise OSError(ctypes.get_errno(), "refused")
def traced(pid):
    checked(libc.ptrace(16, pid, None, None))
    os.waitpid(pid, 0x40000000)
    checked(libc.ptrace(17, pid, None, None))
def stolen(pid):
    handle = os.pidfd_open(pid)
    checked(libc.syscall(438, handle, 0, 0))
for path in plan["read"]:
    attempt(f"read {path}", lambda: opened(path, os.O_RDONLY))
for path in plan["write"]:
    attempt(f"write {path}", lambda: opened(path, os.O_RDWR))
for path in plan["list"]:
    attempt(f"list {path}", lambda: os.listdir(path))
for path in plan["connect"]:
    attempt(f"connect {path}", lambda: connected(path))
for path in plan["chmod"]:
    attempt(f"chmod {path}", lambda: os.chmod(path, 0o777))
for path in plan["link"]:
    attempt(f"link {path}", lambda: os.link(path, plan["scratch"] + "/link"))
for pid in plan["pids"]:
    attempt(f"memory of {pid}", lambda: opened(f"/proc/{pid}/mem", os.O_RDWR))
    attempt(f"readv of {pid}", lambda: memory(pid))
    attempt(f"blind readv of {pid}", lambda: blind(pid))
    attempt(f"trace {pid}", lambda: traced(pid))
    attempt(f"descriptor of {pid}", lambda: stolen(pid))
    attempt(f"signal {pid}", lambda: os.kill(pid, 0))
    attempt(f"root of {pid}", lambda: os.stat(f"/proc/{pid}/root/etc"))
    attempt(f"descriptors of {pid}", lambda: os.listdir(f"/proc/{pid}/fd"))
    attempt(f"environment of {pid}", lambda: open(f"/proc/{pid}/environ").read())
print(json.dumps(done))
"""


def attack(lab: OneLab, node: str, *, inside: bool, scratch: Path, **plan: Sequence[object]) -> set[str]:
    """What worked for a process with the identity of a guest's QEMU, in its namespaces or in those of the host."""
    pid = lab.pids[node]
    status = status_of(pid)
    text = {
        "uid": int(status["Uid"].split()[0]),
        "gid": int(status["Gid"].split()[0]),
        "groups": [int(word) for word in status["Groups"].split()],
        "scratch": str(scratch),
        **{kind: [] for kind in ("read", "write", "list", "connect", "chmod", "link", "pids")},
        **{kind: [item if isinstance(item, int) else str(item) for item in items] for kind, items in plan.items()},
    }
    enter = ["nsenter", f"--mount=/proc/{pid}/ns/mnt", f"--net=/proc/{pid}/ns/net"] if inside else []
    done = RUNNER.run([*enter, sys.executable, "-I", "-c", _ATTACK, json.dumps(text)], timeout=120)
    found: list[str] = json.loads(done.stdout)
    return set(found)


@pytest.mark.parametrize("inside", [True, False])
def test_a_guest_reaches_its_own_things_so_the_attacks_are_real(
    labs: tuple[OneLab, OneLab], tmp_path: Path, *, inside: bool
) -> None:
    one, _ = labs
    pid, disk, log = one.pids["a"], one.disk("a"), one.console / "a.log"
    worked = attack(one, "a", inside=inside, scratch=tmp_path, write=[disk, log], pids=[pid])
    assert worked == {
        f"write {disk}",
        f"write {log}",
        f"memory of {pid}",
        f"readv of {pid}",
        f"blind readv of {pid}",
        f"trace {pid}",
        f"descriptor of {pid}",
        f"signal {pid}",
        f"root of {pid}",
        f"descriptors of {pid}",
        f"environment of {pid}",
    }


@pytest.mark.parametrize("inside", [True, False])
def test_a_guest_reaches_no_other_guest(labs: tuple[OneLab, OneLab], tmp_path: Path, *, inside: bool) -> None:
    """Neither one of its own lab nor one of another: disks, console logs, memory, monitors, descriptors."""
    one, two = labs
    scratch = Path(tempfile.mkdtemp(dir=one.root.parent))
    scratch.chmod(0o777)
    files = [one.disk("b"), two.disk("c"), one.console / "b.log", two.console / "c.log", one.accounts.path]
    places = [lab.root / "hv" / "lib" / "qemu" for lab in labs]
    names = [path.name for place in places for path in place.glob("domain-*") if not path.name.endswith("-a")]
    if inside:
        places.append(Path("/var/lib/libvirt/qemu"))
    others = [place / name for place in places for name in names]
    sockets = [
        *(path / "monitor.sock" for path in others),
        "/run/libvirt/libvirt-sock",
        one.root / "hv/run/libvirt-sock",
    ]
    daemons = [process.pid for process in find_processes(one.root / "hv") if process.name == "libvirtd"]
    assert len(names) == 2 and daemons
    worked = attack(
        one,
        "a",
        inside=inside,
        scratch=scratch,
        read=[*files, *(path / "master-key.aes" for path in others)],
        write=[*files, one.base / "base.qcow2", one.base / "vmlinuz"],
        list=[one.root, one.disks, one.console, two.root, two.disks, one.root / "hv", two.root / "hv"],
        connect=sockets,
        chmod=[*files, one.disks, one.root],
        link=files,
        pids=[one.pids["b"], two.pids["c"], *daemons],
    )
    assert worked == set()


def _start_at(number: int, _size: int) -> int:
    return number - RESERVED[0][0]


def test_a_lab_that_is_gone_leaves_nothing_and_its_accounts_are_given_back(labs: tuple[OneLab, OneLab]) -> None:
    """Last: it ends the labs."""
    one, two = labs
    users = {one.account("a").uid, one.account("b").uid, two.account("c").uid, one.account("a").gid}
    numbers = HostAccountNumbers()
    assert len(numbers.traces(users)) == 4, "while they run, their numbers are in use"
    drawn = {HostAccountNumbers(below=partial(_start_at, user)).draw(()) for user in users}
    assert not drawn & users
    for lab in labs:
        lab.daemon.stop()
        shutil.rmtree(lab.root)
        assert lab.accounts.release(lab.name) == ()
    assert not one.accounts.path.exists()
    assert numbers.traces(users) == {}
    one.root.mkdir()
    two.root.mkdir()
