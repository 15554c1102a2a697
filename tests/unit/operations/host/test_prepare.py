"""`host prepare` and `host restore` over a tree in the place of `/`, with the programs that change it played."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from emulator.adapters.simulated.calls import CallHook
from emulator.adapters.system.host_edits import HostEdits
from emulator.apply.audit import AuditLog
from emulator.apply.journal import Journal
from emulator.cli.render.host_prepare import outcome_json, outcome_text
from emulator.core.errors import CommandError, ConflictError, InterruptedRunError, StateError
from emulator.core.paths import Home
from emulator.core.ports import Completed
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.host.prepare.modules import MODULES_FILE
from emulator.host.prepare.steps import GRUB_FILE, NOUVEAU_FILE, SYSCTL_FILE
from emulator.operations.host.prepare import Wish, plan, prepare
from emulator.operations.host.record import PreparedHost, backups_of, standing
from emulator.operations.host.restore import restore
from tests.support import host_trees
from tests.support.host_tools import HostTools, tree
from tests.support.simulated_world import HookedPort

ADA = Wish("ada")
QUIET = SilentReporter()


class PowerCut(BaseException):
    """The program ends here. No code may swallow it."""


@dataclass
class Machine:
    """A host in `root` and what is on it."""

    root: Path

    def __post_init__(self) -> None:
        self.home = Home(self.root / "home")
        self.tools = HostTools(self.root / "host")
        self.hook = CallHook()

    @classmethod
    def planted(cls, root: Path, name: str = "unprepared", **changes: object) -> Machine:
        host_trees.plant(root / "host", name, **changes)
        return cls(root)

    @property
    def host(self) -> PreparedHost:
        root = self.root / "host"
        edits = HookedPort(HostEdits(root, backups_of(self.home)), "files", self.hook)
        runner = HookedPort(self.tools, "tools", self.hook)
        return PreparedHost(self.home, lambda: host_trees.read(root), edits, runner)

    def look(self) -> dict[str, tuple[int, str]]:
        """What a preparation changes: configuration, boot files, limits, running services."""
        limit = (self.root / "host/proc/sys/fs/inotify/max_user_instances").read_text()
        service = (self.root / "host/proc/4321/comm").exists()
        return {**tree(self.root / "host", "etc", "boot"), "limit": (0, limit), "service": (0, str(service))}

    def text(self, path: str) -> str:
        return (self.root / "host" / path.lstrip("/")).read_text()

    def write(self, path: str, text: str) -> None:
        (self.root / "host" / path.lstrip("/")).write_text(text)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine.planted(tmp_path)


# ---------------------------------------------------------------- what is planned
def test_a_ready_host_needs_nothing(tmp_path: Path) -> None:
    for name in ("intel", "amd"):
        ready = Machine.planted(tmp_path / name, name)
        before = ready.look()
        assert plan(ready.host, Wish()).steps == ()
        outcome = prepare(ready.host, Wish(), QUIET)
        assert (outcome.done, outcome.failed, ready.tools.calls) == ([], [], [])
        assert ready.look() == before


def test_a_plan_changes_nothing(machine: Machine) -> None:
    before = machine.look()
    ids = [step.id for step in plan(machine.host, ADA).steps]
    assert ids == [
        "packages",
        "module:kvm_intel",
        "module:vhost_net",
        "module:vfio_pci",
        f"file:{MODULES_FILE}",
        f"file:{NOUVEAU_FILE}",
        f"file:{GRUB_FILE}",
        f"file:{SYSCTL_FILE}",
        "sysctl:fs.inotify.max_user_instances",
        "account:ada",
        "service:systemd-timesyncd.service",
        "initramfs",
        "grub",
    ]
    assert machine.look() == before
    assert not machine.home.root.exists()


def test_without_gpus_nothing_is_done_for_them(machine: Machine) -> None:
    ids = {step.id for step in plan(machine.host, Wish("ada", gpus=False)).steps}
    assert not ids & {f"file:{NOUVEAU_FILE}", f"file:{GRUB_FILE}", "initramfs", "grub", "module:vfio_pci"}


def test_steps_for_a_person_are_listed(machine: Machine, tmp_path: Path) -> None:
    titles = [step.title for step in plan(machine.host, ADA).manual]
    assert titles == [
        "Install NVIDIA's vGPU host driver (needed for slices, not for whole GPUs)",
        "License the guests (without a licence vGPUs slow down after a while)",
    ]
    assert plan(Machine.planted(tmp_path / "i", "intel").host, ADA).manual == ()


def test_without_grub_the_arguments_are_named(tmp_path: Path) -> None:
    machine = Machine.planted(tmp_path, programs={"update-grub": None, "update-initramfs": None})
    made = plan(machine.host, ADA)
    assert f"file:{GRUB_FILE}" not in {step.id for step in made.steps}
    assert "no GRUB here: give the kernel intel_iommu=on iommu=pt in this machine's boot loader" in made.notes


def test_an_unknown_user_is_added_to_nothing(machine: Machine) -> None:
    made = plan(machine.host, Wish("root:x; reboot"))
    assert not [step for step in made.steps if step.id.startswith("account:")]
    assert made.notes == ("there is no user root:x; reboot in /etc/passwd, so no user is added to groups",)


def test_root_needs_no_groups(machine: Machine) -> None:
    """`sudo` says that root called it where root did."""
    made = plan(machine.host, Wish("root"))
    assert not [step for step in made.steps if step.id.startswith("account:")]
    machine.write("/etc/group", "root:x:0:\n")
    assert plan(machine.host, Wish("root")).notes == ()


# ---------------------------------------------------------------- there and back
def test_prepare_then_nothing_then_restore(machine: Machine) -> None:
    before = machine.look()
    outcome = prepare(machine.host, ADA, QUIET)
    assert outcome.failed == []
    assert len(outcome.done) == 13
    assert machine.text(GRUB_FILE).splitlines()[1] == (
        'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT intel_iommu=on iommu=pt"'
    )
    assert machine.text("/boot/grub/grub.cfg") == "linux /boot/vmlinuz ro quiet intel_iommu=on iommu=pt\n"
    assert machine.text("/boot/initrd.img") == "modprobe.d: hyperscaler-nouveau.conf mine.conf\n"
    assert machine.text(MODULES_FILE).splitlines()[1:] == ["kvm_intel", "vhost_net", "vfio_pci"]
    assert "libvirt:x:109:ada\n" in machine.text("/etc/group")
    assert outcome.plan.reboot == (
        "the kernel gets intel_iommu=on iommu=pt at its next boot",
        "nouveau is loaded now, and stays away from the next boot on",
    )

    prepared, calls = machine.look(), len(machine.tools.calls)
    again = prepare(machine.host, ADA, QUIET)
    assert (again.done, again.failed) == ([], [])
    assert machine.look() == prepared
    assert len(machine.tools.calls) == calls
    assert again.plan.reboot == outcome.plan.reboot

    back = restore(machine.host, QUIET)
    assert back.failed == []
    assert machine.look() == before
    assert back.lasting == [
        "vfio_pci stays loaded until the next boot",
        "vhost_net stays loaded until the next boot",
        "kvm_intel stays loaded until the next boot",
        "the packages stay installed; to remove them: apt-get purge nftables zstd",
    ]
    assert not machine.home.preparation.exists()
    entries, unreadable = AuditLog(machine.home.audit).read()
    ends = [entry for entry in entries if entry["event"] == "end"]
    assert [len(entry["changes"]) for entry in ends] == [13, 0, len(back.done)]
    assert unreadable == 0
    assert restore(machine.host, QUIET).done == []


def test_modes_and_times_come_back(machine: Machine) -> None:
    group = machine.root / "host/etc/group"
    group.chmod(0o640)
    status = group.stat()
    prepare(machine.host, ADA, QUIET)
    assert group.read_text() != "" and standing(machine.host)
    restore(machine.host, QUIET)
    assert (group.stat().st_mode, group.stat().st_mtime_ns) == (status.st_mode, status.st_mtime_ns)


def test_copies_are_closed_to_others(machine: Machine) -> None:
    prepare(machine.host, ADA, QUIET)
    assert machine.home.preparation.stat().st_mode & 0o777 == 0o700
    copies = list(backups_of(machine.home).iterdir())
    assert copies and all(copy.stat().st_mode & 0o777 == 0o600 for copy in copies)


def test_one_step_that_fails_leaves_the_others_to_go_on(machine: Machine) -> None:
    before = machine.look()
    machine.tools.broken = {"apt-get": "E: Unable to locate package nftables", "modprobe": "Module not found"}
    outcome = prepare(machine.host, ADA, QUIET)
    assert outcome.failed == [
        ("install nftables, zstd", "the command failed with exit status 100: E: Unable to locate package nftables"),
        ("load kvm_intel", "the command failed with exit status 100: Module not found"),
        ("load vfio_pci", "the command failed with exit status 100: Module not found"),
    ]
    assert outcome.skipped == [("load vhost_net", "the command failed with exit status 100: Module not found")]
    assert len(outcome.done) == 8
    machine.tools.broken = {}
    assert prepare(machine.host, ADA, QUIET).done == [
        "install nftables, zstd",
        "load kvm_intel",
        "load vhost_net",
        "load vfio_pci",
        f"write {MODULES_FILE} (kvm_intel, vhost_net, vfio_pci)",
    ]
    assert restore(machine.host, QUIET).failed == []
    assert machine.look() == before


def test_an_optional_package_that_cannot_be_had_stops_nothing(tmp_path: Path) -> None:
    machine = Machine.planted(tmp_path, packages=["nftables", "packer", "debsecan"])
    before = machine.look()
    install = machine.tools._apt_get

    def without_packer(verb: str, *words: str) -> None:
        if "packer" in words:
            raise CommandError("E: Unable to locate package packer")
        install(verb, *words)

    with patch.object(machine.tools, "_apt_get", without_packer):
        outcome = prepare(machine.host, ADA, QUIET)
    assert (outcome.failed, outcome.skipped) == ([], [("install packer", "E: Unable to locate package packer")])
    assert {"install nftables", "install debsecan"} <= set(outcome.done)
    assert [words for words in machine.tools.calls if words[1:2] == ("update",)] == [("apt-get", "update", "-q")]
    assert [step.id for step in plan(machine.host, ADA).steps] == ["package:packer"]
    assert "left out: install packer (optional)\n    E: Unable to locate" in outcome_text(outcome, "done")
    assert outcome_json(outcome)["skipped"] == [{"title": "install packer", "why": outcome.skipped[0][1]}]
    back = restore(machine.host, QUIET)
    assert (back.failed, machine.look()) == ([], before)
    assert "the packages stay installed; to remove them: apt-get purge debsecan" in back.lasting
    assert not [text for text in back.lasting if "packer" in text]


def test_packages_that_came_otherwise_after_a_failure_are_finished_once(machine: Machine) -> None:
    failed_then(machine, "apt-get")
    machine.tools.run(["apt-get", "install", "nftables", "zstd"], timeout=1.0)
    assert prepare(machine.host, ADA, QUIET).done == ["finish interrupted packages"]
    assert machine.tools.calls[-1] == ("dpkg", "--configure", "-a")
    assert plan(machine.host, ADA).steps == ()


def test_a_command_that_failed_is_tried_again_though_its_file_is_there(machine: Machine) -> None:
    machine.tools.broken = {"update-grub": "no space left on device", "update-initramfs": "no space left on device"}
    assert [title for title, _ in prepare(machine.host, ADA, QUIET).failed] == [
        "renew the initramfs",
        "renew /boot/grub/grub.cfg",
    ]
    machine.tools.broken = {}
    prepare(machine.host, ADA, QUIET)
    assert "intel_iommu=on" in machine.text("/boot/grub/grub.cfg")
    assert plan(machine.host, ADA).steps == ()


KERNEL = "/lib/modules/6.1.0-44-amd64/modules"


def test_a_module_that_the_kernel_lacks_is_named_and_not_tried(tmp_path: Path) -> None:
    machine = Machine.planted(tmp_path, files={f"{KERNEL}.dep": "kernel/arch/x86/kvm/kvm-intel.ko:\n"})
    before = machine.look()
    outcome = prepare(machine.host, ADA, QUIET)
    assert (outcome.failed, outcome.skipped) == ([], [])
    assert machine.text(MODULES_FILE).splitlines()[1:] == ["kvm_intel"]
    lacking = (
        "this kernel has no module vhost_net: without it the network of guests is slower",
        "this kernel has no module vfio_pci: without it no guest gets a real GPU",
    )
    assert outcome.plan.notes == lacking

    calls = len(machine.tools.calls)
    assert plan(machine.host, ADA).steps == ()
    again = prepare(machine.host, ADA, QUIET)
    assert (again.done, again.failed, again.skipped, again.plan.notes) == ([], [], [], lacking)
    assert len(machine.tools.calls) == calls
    assert restore(machine.host, QUIET).failed == []
    assert machine.look() == before


def test_a_module_that_cannot_be_loaded_is_not_listed_for_the_next_boot(machine: Machine) -> None:
    load = machine.tools._modprobe

    def without_kvm(name: str) -> None:
        if name == "kvm_intel":
            raise CommandError("Operation not supported")
        load(name)

    with patch.object(machine.tools, "_modprobe", without_kvm):
        assert prepare(machine.host, ADA, QUIET).failed == [("load kvm_intel", "Operation not supported")]
        assert machine.text(MODULES_FILE).splitlines()[1:] == ["vhost_net", "vfio_pci"]
        assert prepare(machine.host, ADA, QUIET).done == []
    assert prepare(machine.host, ADA, QUIET).done == [
        "load kvm_intel",
        f"write {MODULES_FILE} (vhost_net, vfio_pci, kvm_intel)",
    ]


def test_what_another_kernel_had_is_listed_no_more(machine: Machine) -> None:
    prepare(machine.host, ADA, QUIET)
    machine.write("/proc/modules", "kvm_intel 16384 0 - Live 0x0\nvfio_pci 16384 0 - Live 0x0\n")
    machine.write(f"{KERNEL}.dep", "kernel/arch/x86/kvm/kvm-intel.ko:\n")
    assert prepare(machine.host, ADA, QUIET).done == [f"write {MODULES_FILE} (kvm_intel, vfio_pci)"]


def test_what_is_built_into_the_kernel_is_not_loaded(tmp_path: Path) -> None:
    built_in = {f"{KERNEL}.builtin": "kernel/drivers/vfio/pci/vfio-pci.ko\nkernel/arch/x86/kvm/kvm-intel.ko\n"}
    machine = Machine.planted(tmp_path, files=built_in)
    steps = {step.id for step in plan(machine.host, ADA).steps}
    assert {step for step in steps if step.startswith("module:")} == {"module:vhost_net"}


def test_what_never_came_about_needs_not_be_taken_back(machine: Machine) -> None:
    before = machine.look()
    machine.tools.broken = {"sysctl": "permission denied", "systemctl": "no systemd", "update-grub": "no device"}
    prepare(machine.host, ADA, QUIET)
    assert restore(machine.host, QUIET).failed == []
    assert machine.look() == before


# ---------------------------------------------------------------- stopped
def stopped_in(machine: Machine, program: str) -> StopFlag:
    """Ctrl-C comes while the command runs."""
    stop = StopFlag()
    machine.hook.after = lambda _name: stop.set() if machine.tools.calls[-1][0] == program else None
    return stop


def test_a_stop_ends_the_step_under_way_and_begins_no_other(machine: Machine) -> None:
    stop = stopped_in(machine, "usermod")
    with pytest.raises(InterruptedRunError, match="stopped on request, before: enable and start systemd-timesyncd"):
        prepare(machine.host, ADA, QUIET, stop=stop)
    machine.hook.after = lambda _name: None
    assert machine.tools.calls[-1][0] == "usermod"
    assert Journal(machine.home.preparation / "journal.jsonl").read().entries[-1]["type"] == "end"
    (_, last) = AuditLog(machine.home.audit).read()[0]
    assert last["result"] == "interrupted"
    assert prepare(machine.host, ADA, QUIET).failed == []
    assert plan(machine.host, ADA).steps == ()


def test_a_restoration_that_was_stopped_goes_on(machine: Machine) -> None:
    before = machine.look()
    prepare(machine.host, ADA, QUIET)
    stop = stopped_in(machine, "update-initramfs")
    with pytest.raises(InterruptedRunError, match="stopped on request, before: take back: "):
        restore(machine.host, QUIET, stop=stop)
    machine.hook.after = lambda _name: None
    assert machine.tools.calls[-1][0] == "update-initramfs"
    assert restore(machine.host, QUIET).failed == []
    assert machine.look() == before


@pytest.mark.parametrize("back", [False, True], ids=["prepare", "restore"])
def test_packages_that_were_cut_off_are_finished_before_all_else(machine: Machine, *, back: bool) -> None:
    def half(*words: str) -> None:
        if words[0] == "install":
            text = "\nPackage: nftables\nStatus: install ok unpacked\nPriority: optional\n"
            machine.write("/var/lib/dpkg/status", machine.text("/var/lib/dpkg/status") + text)
            raise PowerCut

    with patch.object(machine.tools, "_apt_get", half), pytest.raises(PowerCut):
        prepare(machine.host, ADA, QUIET)
    machine.tools.calls.clear()
    outcome = restore(machine.host, QUIET) if back else prepare(machine.host, ADA, QUIET)
    assert outcome.failed == []
    assert machine.tools.calls[0] == ("dpkg", "--configure", "-a")
    assert "unpacked" not in machine.text("/var/lib/dpkg/status")
    if not back:
        assert machine.tools.calls[1:3] == [
            ("apt-get", "update", "-q"),
            ("apt-get", "install", "-y", "-q", "--no-remove", "--no-install-recommends", "nftables", "zstd"),
        ]
        assert ("dpkg", "--configure", "-a") not in machine.tools.calls[1:]
        assert plan(machine.host, ADA).steps == ()


# ---------------------------------------------------------------- others
def test_a_file_that_was_changed_since_is_left(machine: Machine) -> None:
    before = machine.look()
    prepare(machine.host, ADA, QUIET)
    machine.write(SYSCTL_FILE, "mine now\n")
    outcome = restore(machine.host, QUIET)
    assert outcome.failed == [(SYSCTL_FILE, "it has been changed since")]
    left = {path: value for path, value in machine.look().items() if before.get(path) != value}
    assert left == {SYSCTL_FILE.lstrip("/"): left[SYSCTL_FILE.lstrip("/")]}
    assert machine.home.preparation.exists()
    calls = len(machine.tools.calls)
    forced = restore(machine.host, QUIET, force=True)
    assert forced.failed == []
    assert machine.look() == before
    assert len(machine.tools.calls) == calls, "what was taken back is not taken back twice"
    (kept,) = backups_of(machine.home).glob("*/*")
    assert (kept.read_text(), kept.stat().st_mode & 0o777) == ("mine now\n", 0o600)
    assert forced.lasting == [f"what was in {SYSCTL_FILE} is kept: {kept}"]
    assert [path.name for path in machine.home.preparation.iterdir()] == ["backups"]

    prepare(machine.host, ADA, QUIET)
    assert restore(machine.host, QUIET).failed == []
    assert (machine.look(), kept.read_text()) == (before, "mine now\n")


def test_force_puts_back_nothing_that_is_others_as_well(machine: Machine) -> None:
    """A whole group file or grub.cfg of before would take away groups and kernels that came since."""
    before = machine.text("/etc/group")
    prepare(machine.host, ADA, QUIET)
    machine.write("/etc/group", machine.text("/etc/group") + "later:x:2000:\n")
    machine.write("/boot/grub/grub.cfg", machine.text("/boot/grub/grub.cfg") + "linux /boot/vmlinuz-new ro\n")
    machine.tools.calls.clear()
    assert restore(machine.host, QUIET, force=True).failed == []
    assert machine.text("/etc/group") == before + "later:x:2000:\n"
    assert {("update-grub",), ("gpasswd", "-d", "ada", "libvirt")} <= set(machine.tools.calls)


def test_a_group_file_that_others_changed_keeps_their_change(machine: Machine) -> None:
    before = machine.text("/etc/group")
    prepare(machine.host, ADA, QUIET)
    machine.write("/etc/group", machine.text("/etc/group") + "later:x:2000:\n")
    assert restore(machine.host, QUIET).failed == []
    assert machine.text("/etc/group") == before + "later:x:2000:\n"
    assert ("gpasswd", "-d", "ada", "libvirt") in machine.tools.calls


LIMIT = "/proc/sys/fs/inotify/max_user_instances"


def test_a_limit_that_was_set_since_stays(machine: Machine) -> None:
    prepare(machine.host, ADA, QUIET)
    machine.write(LIMIT, "8192\n")
    back = restore(machine.host, QUIET)
    assert (back.failed, machine.text(LIMIT)) == ([], "8192\n")
    assert "fs.inotify.max_user_instances, which has been set to 8192 since" in back.lasting
    assert not machine.home.preparation.exists()


def test_a_limit_that_is_back_already_is_not_set_again(machine: Machine) -> None:
    prepare(machine.host, ADA, QUIET)
    machine.write(LIMIT, "128\n")
    machine.tools.calls.clear()
    back = restore(machine.host, QUIET)
    assert not [words for words in machine.tools.calls if words[0] == "sysctl"]
    assert not [text for text in back.lasting if "inotify" in text]


def test_a_record_that_does_not_tell_the_limit_is_restored_all_the_same(machine: Machine) -> None:
    """Older ones do not."""
    before, append = machine.look(), Journal.append

    def older(journal: Journal, entry: dict[str, object]) -> None:
        append(journal, {key: value for key, value in entry.items() if key != "sets"})

    with patch.object(Journal, "append", older):
        prepare(machine.host, ADA, QUIET)
    assert restore(machine.host, QUIET).failed == []
    assert machine.look() == before


def test_a_service_that_was_disabled_since_is_not_stopped(machine: Machine) -> None:
    prepare(machine.host, ADA, QUIET)
    (machine.root / "host/etc/systemd/system/sysinit.target.wants/systemd-timesyncd.service").unlink()
    machine.tools.calls.clear()
    back = restore(machine.host, QUIET)
    assert back.failed == []
    assert not [words for words in machine.tools.calls if words[0] == "systemctl"]
    assert "systemd-timesyncd.service, which has been disabled since" in back.lasting


def test_a_service_that_is_gone_needs_not_be_disabled(machine: Machine) -> None:
    """Another time service took its place: Debian's remove each other."""
    prepare(machine.host, ADA, QUIET)
    (machine.root / "host/usr/lib/systemd/system/systemd-timesyncd.service").unlink()
    machine.tools.calls.clear()
    assert restore(machine.host, QUIET).failed == []
    assert not [words for words in machine.tools.calls if words[0] == "systemctl"]


def failed_then(machine: Machine, program: str) -> None:
    machine.tools.broken = {program: "interrupted"}
    assert prepare(machine.host, ADA, QUIET).failed
    machine.tools.broken = {}


def cut_off_in(machine: Machine, program: str) -> None:
    """The program ends when the command has done its work, before that is on record."""
    run = machine.tools.run

    def and_cut(argv: Sequence[str | Path], **options: Any) -> Completed:
        done = run(argv, **options)
        if argv[0] == program:
            raise PowerCut
        return done

    with patch.object(machine.tools, "run", and_cut), pytest.raises(PowerCut):
        prepare(machine.host, ADA, QUIET)


@pytest.mark.parametrize("again", [False, True], ids=["once", "then done"])
@pytest.mark.parametrize("ends", [failed_then, cut_off_in])
def test_what_others_change_after_a_step_that_did_not_end_stays(
    machine: Machine, ends: Callable[[Machine, str], None], *, again: bool
) -> None:
    before = machine.text("/etc/group")
    ends(machine, "usermod")
    machine.write("/etc/group", machine.text("/etc/group") + "later:x:2000:\n")
    if again:
        assert prepare(machine.host, ADA, QUIET).failed == []
        assert "libvirt:x:109:ada\n" in machine.text("/etc/group")
    assert restore(machine.host, QUIET).failed == []
    assert machine.text("/etc/group") == before + "later:x:2000:\n"


def test_a_command_that_was_cut_off_before_it_did_anything_has_nothing_to_take_back(machine: Machine) -> None:
    before = machine.text("/etc/group")
    with patch.object(machine.tools, "_usermod", side_effect=PowerCut), pytest.raises(PowerCut):
        prepare(machine.host, ADA, QUIET)
    machine.write("/etc/group", before + "later:x:2000:\n")
    assert restore(machine.host, QUIET).failed == []
    assert machine.text("/etc/group") == before + "later:x:2000:\n"
    assert not [call for call in machine.tools.calls if call[0] == "gpasswd"]


@pytest.mark.parametrize("mine", [False, True])
def test_a_write_that_was_cut_off_is_taken_back_unless_others_wrote_since(machine: Machine, *, mine: bool) -> None:
    before = machine.look()

    def after(name: str) -> None:
        if name == "files.write" and (machine.root / "host" / SYSCTL_FILE.lstrip("/")).exists():
            raise PowerCut

    machine.hook.after = after
    with pytest.raises(PowerCut):
        prepare(machine.host, ADA, QUIET)
    machine.hook.after = lambda _name: None
    if mine:
        machine.write(SYSCTL_FILE, "mine now\n")
    failed = restore(machine.host, QUIET).failed
    assert failed == ([(SYSCTL_FILE, "it has been changed since")] if mine else [])
    assert mine or machine.look() == before
    assert not mine or machine.text(SYSCTL_FILE) == "mine now\n"


def test_a_grub_configuration_that_was_renewed_since_is_renewed(machine: Machine) -> None:
    before = machine.text("/boot/grub/grub.cfg")
    prepare(machine.host, ADA, QUIET)
    machine.write("/boot/grub/grub.cfg", machine.text("/boot/grub/grub.cfg") + "linux /boot/vmlinuz-new ro\n")
    assert restore(machine.host, QUIET).failed == []
    assert machine.text("/boot/grub/grub.cfg") == before


def test_a_service_that_was_enabled_stays_enabled(machine: Machine) -> None:
    wants = machine.root / "host/etc/systemd/system/sysinit.target.wants"
    wants.mkdir()
    (wants / "systemd-timesyncd.service").symlink_to("/usr/lib/systemd/system/systemd-timesyncd.service")
    before = machine.look()
    prepare(machine.host, ADA, QUIET)
    restore(machine.host, QUIET)
    assert machine.look() == before


def test_a_file_of_that_name_that_is_not_ours_is_not_written_over(machine: Machine) -> None:
    machine.write(MODULES_FILE, "dm_crypt\n")
    outcome = prepare(machine.host, ADA, QUIET)
    ((title, why),) = outcome.failed
    assert title.startswith(f"write {MODULES_FILE}")
    assert "not as this program left it" in why
    assert machine.text(MODULES_FILE) == "dm_crypt\n"


@pytest.mark.parametrize("link", ["etc/sysctl.d/60-hyperscaler.conf", "etc/sysctl.d"])
def test_no_link_is_followed(machine: Machine, link: str) -> None:
    target = machine.root / "elsewhere"
    at = machine.root / "host" / link
    if at.is_dir():
        at.rename(target)
    else:
        target.write_text("precious\n")
    at.symlink_to(target)
    before = target.read_text() if target.is_file() else sorted(path.name for path in target.iterdir())
    outcome = prepare(machine.host, ADA, QUIET)
    assert [title for title, _ in outcome.failed] == [f"write {SYSCTL_FILE}"]
    assert before == (target.read_text() if target.is_file() else sorted(path.name for path in target.iterdir()))


# ---------------------------------------------------------------- crashes
# Calls after which the machine is another one; a stop before a call is a stop after the one before it.
_CHANGING = ("back_up", "write", "put_back", "remove_directory", "forget", "run")


@contextmanager
def cut_at(machine: Machine, number: int) -> Iterator[list[str]]:
    """The program ends at the n-th place: after a call that changes something, or a line of the journal."""
    places: list[str] = []

    def step(name: str) -> None:
        places.append(name)
        if len(places) > number:
            raise PowerCut

    def after(name: str) -> None:
        if name.endswith(_CHANGING):
            step(f"after {name}")

    append = Journal.append

    def hooked(journal: Journal, entry: dict[str, object]) -> None:
        append(journal, entry)
        step(f"after the journal's {entry['type']}")

    machine.hook.after = after
    with patch.object(Journal, "append", hooked):
        yield places
    machine.hook.after = lambda _name: None


@pytest.fixture
def no_waiting_for_disks() -> Iterator[None]:
    """It is not the machine that loses power here."""
    with patch("os.fsync", lambda _: None):
        yield


def places_of(root: Path, command: str) -> int:
    machine = Machine.planted(root)
    if command == "restore":
        prepare(machine.host, ADA, QUIET)
    with cut_at(machine, 100000) as places:
        prepare(machine.host, ADA, QUIET) if command == "prepare" else restore(machine.host, QUIET)
    return len(places)


def test_a_preparation_cut_off_anywhere_goes_on_or_is_taken_back(tmp_path: Path, no_waiting_for_disks: None) -> None:
    whole = Machine.planted(tmp_path / "whole")
    before = whole.look()
    prepare(whole.host, ADA, QUIET)
    prepared = whole.look()
    count = places_of(tmp_path / "count", "prepare")
    assert count > 40
    for number in range(count):
        machine = Machine.planted(tmp_path / f"{number}")
        with cut_at(machine, number) as places, pytest.raises(PowerCut):
            prepare(machine.host, ADA, QUIET)
        other = Machine(tmp_path / f"{number}-restored")
        shutil.copytree(machine.root, other.root, symlinks=True)
        assert restore(other.host, QUIET).failed == [], places[-1]
        assert other.look() == before, places[-1]
        assert not other.home.preparation.exists(), places[-1]
        assert prepare(machine.host, ADA, QUIET).failed == [], places[-1]
        assert machine.look() == prepared, places[-1]
        assert restore(machine.host, QUIET).failed == [], places[-1]
        assert machine.look() == before, places[-1]


def test_a_restoration_cut_off_anywhere_goes_on(tmp_path: Path, no_waiting_for_disks: None) -> None:
    count = places_of(tmp_path / "count", "restore")
    assert count > 15
    for number in range(count):
        machine = Machine.planted(tmp_path / str(number))
        before = machine.look()
        prepare(machine.host, ADA, QUIET)
        with cut_at(machine, number) as places, pytest.raises(PowerCut):
            restore(machine.host, QUIET)
        assert restore(machine.host, QUIET).failed == [], places[-1]
        assert machine.look() == before, places[-1]
        assert not machine.home.preparation.exists(), places[-1]


def test_half_a_file_is_never_seen_and_does_not_stay(machine: Machine) -> None:
    before = machine.look()

    replace = os.replace

    def cut(source: str, target: str, **directories: int) -> None:
        if target == Path(NOUVEAU_FILE).name:
            raise PowerCut
        replace(source, target, **directories)

    with patch("os.replace", cut), pytest.raises(PowerCut):
        prepare(machine.host, ADA, QUIET)
    directory = machine.root / "host/etc/modprobe.d"
    half, whole = sorted(path.name for path in directory.iterdir())
    assert whole == "mine.conf"
    assert half.startswith(".hyperscaler-nouveau.conf.") and half.endswith(".hyperscaler-new")
    assert restore(machine.host, QUIET).failed == []
    assert machine.look() == before


def test_a_torn_last_line_is_no_obstacle(machine: Machine) -> None:
    before = machine.look()
    prepare(machine.host, ADA, QUIET)
    journal = machine.home.preparation / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    assert prepare(machine.host, ADA, QUIET).failed == []
    assert restore(machine.host, QUIET).failed == []
    assert machine.look() == before
    assert not machine.home.preparation.exists()


def test_a_record_that_others_can_write_is_not_trusted(machine: Machine) -> None:
    """Its commands would be run as root."""
    prepare(machine.host, ADA, QUIET)
    prepared, calls = machine.look(), len(machine.tools.calls)
    machine.home.preparation.chmod(0o777)
    commands: tuple[Callable[[], object], ...] = (
        lambda: restore(machine.host, QUIET),
        lambda: prepare(machine.host, ADA, QUIET),
    )
    for command in commands:
        with pytest.raises(ConflictError, match="not trusted"):
            command()
    machine.home.preparation.chmod(0o700)
    real = machine.home.preparation.with_name("elsewhere")
    machine.home.preparation.rename(real)
    machine.home.preparation.symlink_to(real)
    with pytest.raises(ConflictError, match="not trusted"):
        restore(machine.host, QUIET)
    assert machine.look() == prepared
    assert len(machine.tools.calls) == calls


def test_a_record_in_a_directory_that_others_can_exchange_is_not_trusted(machine: Machine) -> None:
    """Whoever can rename the directory can put another one in its place."""
    prepare(machine.host, ADA, QUIET)
    prepared, calls = machine.look(), len(machine.tools.calls)
    machine.root.chmod(0o777)
    commands: tuple[Callable[[], object], ...] = (
        lambda: restore(machine.host, QUIET),
        lambda: prepare(machine.host, ADA, QUIET),
    )
    for command in commands:
        with pytest.raises(ConflictError, match="can exchange the record"):
            command()
    assert machine.look() == prepared
    assert len(machine.tools.calls) == calls
    machine.root.chmod(0o1777)  # as /tmp: only owners rename there
    assert restore(machine.host, QUIET).failed == []


def test_a_command_that_undoes_no_step_is_not_run(machine: Machine) -> None:
    prepare(machine.host, ADA, QUIET)
    begun = "sysctl:fs.inotify.max_user_instances"
    entries = [dict(entry) for entry in machine.host.journal.read().entries]
    for entry in entries:
        if entry.get("type") == "begin" and entry["step"] == begun:
            entry["undo"] = [["sh", "-c", "id"]]
    machine.host.journal.rewrite(entries)
    machine.tools.calls.clear()
    back = restore(machine.host, QUIET)
    assert [why for _, why in back.failed] == ["the record holds a command that undoes no step: sh -c id"]
    assert not [words for words in machine.tools.calls if words[0] == "sh"]
    assert begun in machine.host.journal.path.read_text()


def test_a_damaged_journal_is_not_guessed_at(machine: Machine) -> None:
    prepare(machine.host, ADA, QUIET)
    journal = machine.home.preparation / "journal.jsonl"
    journal.write_text(journal.read_text().replace("sysctl.d", "sudoers.d", 1))
    prepared = machine.look()
    with pytest.raises(StateError, match="is damaged"):
        restore(machine.host, QUIET)
    assert machine.look() == prepared
