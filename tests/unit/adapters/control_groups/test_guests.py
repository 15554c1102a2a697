"""The control groups of a lab's libvirtd and of its guests, on a tree with the kernel's rules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from emulator.adapters.control_groups.guests import DAEMON, GuestGroups, Launch
from emulator.adapters.embedded import entry
from emulator.adapters.libvirt.guest_limits import GuestLimits
from emulator.core.errors import CommandError
from emulator.core.ports import Completed, ProcessRunner
from tests.support.fake_cgroups import FakeCgroups

LIMITS = GuestLimits(memory_mib=3000, tasks=2048, cpu_weight=200)
LIBVIRTD, QEMU, OTHER = 10, 20, 30
GROUP = "hyperscaler-hs-demo"


class Host:
    """A host with such a tree, with or without systemd; what is in `/proc` follows from the tree."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, *, systemd: bool = False, real: bool = True) -> None:
        self.proc = root / "proc"
        self.proc.mkdir()
        self.kernel = FakeCgroups(root / "cgroup", patch, me=LIBVIRTD, real=real)
        self.systemd = root / "systemd"
        if systemd:
            self.systemd.mkdir()

    def groups(self) -> GuestGroups:
        for file in self.kernel.root.rglob("cgroup.procs"):
            for pid in file.read_text().split():
                (self.proc / pid).mkdir(exist_ok=True)
                (self.proc / pid / "cgroup").write_text(f"0::{self.kernel.of(int(pid))}\n")
        return GuestGroups(self.kernel.root, self.proc, self.systemd)

    def start_libvirtd(self, running: int | None = None) -> Launch:
        """As `EmbeddedHypervisor` and `entry.py` do it together."""
        launch = self.groups().launch("hs-demo", running)
        if launch.prefix:  # systemd puts the process into a new scope of this name
            slice_ = self.kernel.root / "system.slice"
            slice_.mkdir(exist_ok=True)
            unit = next(word.removeprefix("--unit=") for word in launch.prefix if word.startswith("--unit="))
            (slice_ / f"{unit}.scope").mkdir()
            self.kernel.enter(LIBVIRTD, slice_ / f"{unit}.scope")
        else:
            self.kernel.enter(LIBVIRTD, self.kernel.root)
        self.groups()
        for word in launch.word:
            (self.proc / "self").mkdir(exist_ok=True)
            (self.proc / "self" / "cgroup").write_text(f"1:name=x:/\n0::{self.kernel.of(LIBVIRTD)}\n")
            entry.join_control_group(word[1:], str(self.proc), str(self.kernel.root))
        return launch

    def start_qemu(self, pid: int = QEMU) -> None:
        self.kernel.enter(pid, self.kernel.root / self.kernel.of(LIBVIRTD).lstrip("/"))

    def settings(self, guest: str) -> dict[str, str]:
        (group,) = self.kernel.root.rglob(f"guest-{guest}")
        return {file.name: file.read_text() for file in group.iterdir() if not file.name.startswith("cgroup.")}


def test_each_guest_gets_a_group_with_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(tmp_path, monkeypatch)
    assert host.start_libvirtd().prefix == ()
    assert host.kernel.of(LIBVIRTD) == f"/{GROUP}/{DAEMON}"
    host.start_qemu()
    assert host.groups().limit(QEMU, "demo-a", LIMITS)
    assert host.kernel.of(QEMU) == f"/{GROUP}/guest-demo-a"
    assert host.settings("demo-a") == {
        "memory.max": str(3000 * 2**20),
        "memory.swap.max": str(3000 * 2**20),
        "pids.max": "2048",
        "cpu.weight": "200",
        "io.bfq.weight": "default 100",
    }
    assert host.groups().limit(QEMU, "demo-a", LIMITS), "once more changes nothing"
    assert host.kernel.of(QEMU) == f"/{GROUP}/guest-demo-a"


def test_under_systemd_the_lab_has_a_scope_that_is_delegated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(tmp_path, monkeypatch, systemd=True)
    for controller in ("memory", "pids"):  # what systemd passes on by default
        (host.kernel.root / "cgroup.subtree_control").write_text(f"+{controller}")
    (host.kernel.root / "system.slice").mkdir()
    for controller in ("memory", "pids"):
        (host.kernel.root / "system.slice" / "cgroup.subtree_control").write_text(f"+{controller}")
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")
    launch = host.start_libvirtd()
    assert launch.prefix[0] == "systemd-run" and "--property=Delegate=yes" in launch.prefix
    assert launch.prefix[-1] == "--"
    assert host.kernel.of(LIBVIRTD) == f"/system.slice/{GROUP}.scope/{DAEMON}"
    host.start_qemu()
    host.groups().limit(QEMU, "demo-a", LIMITS)
    limits = dict.fromkeys(("memory.max", "memory.swap.max"), str(3000 * 2**20))
    assert host.settings("demo-a") == {**limits, "pids.max": "2048"}, "no cpu is passed on"
    host.groups().remove("hs-demo")
    assert f"system.slice/{GROUP}.scope/guest-demo-a" in host.kernel.tree(), "systemd's own to remove"


@pytest.mark.parametrize("systemd", [True, False])
def test_a_libvirtd_that_is_started_again_joins_its_guests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, systemd: bool
) -> None:
    host = Host(tmp_path, monkeypatch, systemd=systemd)
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")
    host.start_libvirtd()
    host.start_qemu()
    host.groups().limit(QEMU, "demo-a", LIMITS)
    before = host.kernel.of(LIBVIRTD)
    host.kernel.end(LIBVIRTD)
    assert host.start_libvirtd(running=QEMU).prefix == (), "the scope is there already"
    assert host.kernel.of(LIBVIRTD) == before


def test_a_lab_of_an_earlier_version_gets_no_group_of_systemd_s_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(tmp_path, monkeypatch, systemd=True)
    host.kernel.enter(QEMU, host.kernel.root)
    assert host.groups().launch("hs-demo", QEMU) == Launch() and host.kernel.tree() == []


def test_nothing_is_left_of_a_lab_that_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(tmp_path, monkeypatch)
    host.start_libvirtd()
    for pid, name in ((QEMU, "a"), (OTHER, "b")):
        host.start_qemu(pid)
        host.groups().limit(pid, name, LIMITS)
    host.kernel.end(QEMU)
    host.start_qemu(40)
    host.groups().limit(40, "c", LIMITS)
    assert host.kernel.tree() == [GROUP, f"{GROUP}/{DAEMON}", f"{GROUP}/guest-b", f"{GROUP}/guest-c"]
    host.groups().remove("hs-demo")
    assert f"{GROUP}/guest-b" in host.kernel.tree(), "a group with a process in it stays"
    for pid in (OTHER, 40, LIBVIRTD):
        host.kernel.end(pid)
    host.groups().remove("hs-demo")
    host.groups().remove("hs-demo")
    assert host.kernel.tree() == []


def test_a_lab_works_where_no_groups_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 1, or a container whose outermost group has processes in it."""
    none = GuestGroups(tmp_path / "none", tmp_path / "proc", tmp_path / "systemd")
    assert none.launch("hs-demo", None) == Launch() and not none.limit(QEMU, "a", LIMITS)
    none.remove("hs-demo")
    host = Host(tmp_path, monkeypatch, real=False)
    host.kernel.enter(OTHER, host.kernel.root)
    host.start_libvirtd()
    host.start_qemu()
    assert host.groups().limit(QEMU, "a", LIMITS)
    assert host.settings("a") == {}


def test_systemd_without_its_program_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(tmp_path, monkeypatch, systemd=True)
    monkeypatch.setattr("shutil.which", lambda program: None)
    assert host.groups().launch("hs-demo", None) == Launch() and host.kernel.tree() == []


@pytest.mark.parametrize("place", ["system.slice/sshd.service", "machine.slice/x.scope", "user/daemon", ""])
def test_a_process_elsewhere_is_not_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """A guest under the host's libvirt has a group by libvirt; its name is not ours."""
    host = Host(tmp_path, monkeypatch)
    for part in (Path(place).parent, Path(place)):
        (host.kernel.root / part).mkdir(exist_ok=True)
    host.kernel.enter(QEMU, host.kernel.root / place)
    before = host.kernel.of(QEMU)
    assert not host.groups().limit(QEMU, "a", LIMITS)
    assert host.kernel.of(QEMU) == before


def test_a_name_leads_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(tmp_path, monkeypatch)
    host.start_libvirtd()
    host.start_qemu()
    assert not host.groups().limit(QEMU, "../../system.slice", LIMITS)
    assert host.kernel.tree() == [GROUP, f"{GROUP}/{DAEMON}"]


class Runner:
    """Runs nothing; fails where systemd does."""

    def __init__(self, *, systemd: bool, entry: bool = True) -> None:
        self.systemd, self.entry, self.ran = systemd, entry, list[list[str]]()

    def run(self, argv: Sequence[str], **_options: object) -> Completed:
        self.ran.append([str(word) for word in argv])
        if not (self.systemd if argv[0] == "systemd-run" else self.entry):
            raise CommandError("failed")
        return Completed(tuple(argv), 0, "", "")


def test_a_scope_that_systemd_does_not_make_is_done_without() -> None:
    launch = Launch(("systemd-run", "--"), ("#",))
    works, fails = Runner(systemd=True), Runner(systemd=False)
    for runner in (works, fails):
        launch.run(cast(ProcessRunner, runner), ["entry"], ["@7", "libvirtd"], timeout=1)
    assert works.ran == [["systemd-run", "--", "entry", "#", "@7", "libvirtd"]]
    assert fails.ran == [*works.ran, ["entry", "@7", "libvirtd"]]
    for start, count in ((launch, 2), (Launch(), 1)):
        broken = Runner(systemd=False, entry=False)
        with pytest.raises(CommandError):
            start.run(cast(ProcessRunner, broken), ["entry"], ["libvirtd"], timeout=1)
        assert len(broken.ran) == count
