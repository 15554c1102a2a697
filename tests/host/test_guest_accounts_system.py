"""Guests' accounts under the host's own libvirt, as a distribution starts it: two guests of two labs, for real."""

from __future__ import annotations

import contextlib
import grp
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from emulator.adapters.libvirt import hypervisor as module
from emulator.adapters.libvirt.device_access import KVM, opened_for
from emulator.adapters.libvirt.errors import load_libvirt
from emulator.adapters.libvirt.guest_limits import TASKS, limits_of, processes_of
from emulator.adapters.libvirt.hypervisor import LibvirtHypervisor
from emulator.adapters.system.account_numbers import HostAccountNumbers
from emulator.adapters.system.process import HostProcess
from emulator.adapters.system.qemu_img import QemuImg
from emulator.apply.guest_accounts.ledger import AccountLedger
from emulator.core.errors import HypervisorError
from emulator.core.ports import DomainState
from emulator.core.ports.guest_accounts import GuestAccount
from tests.support.system_libvirt import system_libvirt
from tests.support.tiny_guest import TinyGuests

pytestmark = pytest.mark.host

RUNNER = HostProcess()
LABS = ("one", "two")
CAP_SYS_RESOURCE = 24  # <linux/capability.h>; root in a container may lack it


@pytest.fixture(scope="module")
def top() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="hs-accounts-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def accounts(top: Path) -> AccountLedger:
    return AccountLedger(top / "accounts.json", top / "lock", HostAccountNumbers(), home=str(top))


@pytest.fixture(scope="module")
def hypervisor(top: Path, accounts: AccountLedger) -> Iterator[LibvirtHypervisor]:
    """With a running guest `a` of each lab; its name is that of the lab."""
    guests = TinyGuests.prepare(top / "image")
    base = guests.root / "base.qcow2"
    RUNNER.run(["qemu-img", "create", "-q", "-f", "qcow2", base, "64M"], timeout=60)
    with system_libvirt() as words:
        holder = words[1].removeprefix("--target=")
        connection = LibvirtHypervisor(f"qemu+unix:///system?socket=/proc/{holder}/root/run/libvirt/libvirt-sock")
        try:
            connection.define_network(guests.network())
            for number, lab in enumerate(LABS, 1):
                root, account = top / lab, accounts.of_guest(lab, "a")
                root.mkdir(mode=0o700)
                disk = root / "a.qcow2"
                QemuImg(RUNNER).create_overlay(disk, base=base, size_gib=1)
                request = guests.domain(lab, disk=disk, index=number)
                connection.admit_guests((root,), account)
                connection.define_domain(replace(request, console_log=root / "a.log", account=account))
                connection.start_domain(lab)
            yield connection
        finally:
            for info in connection.domains():
                connection.delete_domain(info.name)
            connection.delete_network("net")
            connection.close()


def pid_of(accounts: AccountLedger, lab: str) -> int:
    (pid,) = processes_of(accounts.of_guest(lab, "a").uid)
    return pid


def status_of(pid: int) -> dict[str, str]:
    lines = (line.partition(":") for line in Path("/proc", str(pid), "status").read_text().splitlines())
    return {name: value.strip() for name, _, value in lines}


def test_each_guest_has_a_user_of_its_own(hypervisor: LibvirtHypervisor, accounts: AccountLedger) -> None:
    for lab in LABS:
        info = hypervisor.domain(lab)
        account = GuestAccount(accounts.of_guest(lab, "a").uid, grp.getgrnam("libvirt-qemu").gr_gid)
        assert info is not None and info.state is DomainState.RUNNING
        assert info.live is not None and info.account == info.live.account == account.label
        status = status_of(pid_of(accounts, lab))
        assert set(status["Uid"].split()) == {str(account.uid)}
        assert set(status["Gid"].split()) == {str(account.gid)}
        assert not any(int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"))
        assert status["Seccomp"] == "2"
        assert set(map(int, status["Groups"].split())) == {account.gid}


def test_one_lab_s_guest_reaches_nothing_of_another_s(
    hypervisor: LibvirtHypervisor, accounts: AccountLedger, top: Path
) -> None:
    """By a child with exactly the rights of the one guest's QEMU."""
    del hypervisor
    status, victim = status_of(pid_of(accounts, "one")), pid_of(accounts, "two")
    own, disk, log = top / "one" / "a.qcow2", top / "two" / "a.qcow2", top / "two" / "a.log"
    child = os.fork()
    if child == 0:
        worked = 1
        try:
            os.setgroups([int(word) for word in status["Groups"].split()])
            os.setgid(int(status["Gid"].split()[0]))
            os.setuid(int(status["Uid"].split()[0]))
            os.close(os.open(own, os.O_RDWR))  # so that the rest proves something
            worked = 0
            for path in (disk, log, f"/proc/{victim}/mem", f"/proc/{victim}/environ", f"/proc/{victim}/maps"):
                try:
                    os.close(os.open(path, os.O_RDONLY))
                    worked = 2
                except PermissionError:
                    pass
            try:
                os.kill(victim, 0)
                worked = 3
            except PermissionError:
                pass
        finally:
            os._exit(worked)
    _, ended = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(ended) == 0


def test_a_guest_with_kvm_opens_it_and_nobody_else_can_afterwards(
    hypervisor: LibvirtHypervisor, accounts: AccountLedger, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU opens the device and makes a virtual machine before the first instruction; that one is to halt."""
    if not KVM.exists() or not hypervisor.offers_kvm():
        pytest.skip("no /dev/kvm here")
    kvm = Path(hypervisor._uri.partition("socket=")[2].partition("/run/")[0], "dev", "kvm")  # where libvirt is
    monkeypatch.setattr(module, "opened_for", partial(opened_for, device=kvm))
    before = kvm.stat().st_mode, os.listxattr(kvm)
    guests, disk = TinyGuests(top / "image"), top / "one" / "kvm.qcow2"
    QemuImg(RUNNER).create_overlay(disk, base=guests.root / "base.qcow2", size_gib=1)
    request = guests.domain("kvm", disk=disk, index=3)
    account = accounts.of_guest("one", "kvm")
    hypervisor.define_domain(replace(request, console_log=top / "one" / "kvm.log", account=account, accelerated=True))
    try:
        assert before[0] & 0o6 == 0
        with monkeypatch.context() as without:
            without.setattr(module, "opened_for", lambda _account: contextlib.nullcontext())
            with pytest.raises(HypervisorError, match="Could not access KVM kernel module: Permission denied"):
                hypervisor.start_domain("kvm")
        try:
            hypervisor.start_domain("kvm")
            (pid,) = processes_of(account.uid)
            opened = {str(each.readlink()) for each in Path("/proc", str(pid), "fd").iterdir()}
            assert {"/dev/kvm", "anon_inode:kvm-vm"} <= opened
        except HypervisorError as error:
            # A /dev/kvm of little use, as some containers have: QEMU got as far as a register of its virtual processor.
            assert "failed to set MSR" in error.what, error
        assert (kvm.stat().st_mode, os.listxattr(kvm)) == before
    finally:
        hypervisor.delete_domain("kvm")


def test_images_stay_root_s_and_directories_are_closed(hypervisor: LibvirtHypervisor, top: Path) -> None:
    del hypervisor
    assert {path.stat().st_uid for path in (top / "image").iterdir() if path.suffix != ".log"} == {0}
    for lab in LABS:
        status = (top / lab).stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (0, grp.getgrnam("libvirt-qemu").gr_gid, 0o710)


def test_a_guest_is_limited_as_far_as_the_host_can(hypervisor: LibvirtHypervisor, accounts: AccountLedger) -> None:
    """Tasks always; memory and processors where libvirt has control groups here."""
    info = hypervisor.domain("one")
    assert info is not None
    limits = Path("/proc", str(pid_of(accounts, "one")), "limits").read_text().splitlines()
    words = {line[:26].strip(): line[26:].split() for line in limits}
    if int(status_of(os.getpid())["CapEff"], 16) >> CAP_SYS_RESOURCE & 1:
        assert words["Max processes"][:2] == [str(TASKS)] * 2
    libvirt = load_libvirt()
    handle = hypervisor._connect().lookupByName("one")
    try:
        memory = handle.memoryParameters(libvirt.VIR_DOMAIN_AFFECT_LIVE)
        processors = handle.schedulerParametersFlags(libvirt.VIR_DOMAIN_AFFECT_LIVE)
    except libvirt.libvirtError as error:
        pytest.skip(f"this host's libvirt has no control groups: {error}")
    assert memory["hard_limit"] == limits_of(info).memory_mib * 1024
    assert processors["cpu_shares"] == limits_of(info).cpu_weight
    assert "memtune" not in handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), "nothing is stored"
