"""The private libvirtd on this machine: what it makes, what it survives, and that nothing of it stays."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import libvirt
import pytest

from emulator.adapters.embedded.hypervisor import EmbeddedHypervisor, find_embedded
from emulator.adapters.embedded.processes import end_processes, find_processes
from emulator.adapters.embedded.qemu_capabilities import QemuCapabilities
from emulator.adapters.libvirt.guest_account import guest_account
from emulator.adapters.libvirt.hypervisor import LibvirtHypervisor
from emulator.adapters.system.process import HostProcess
from emulator.adapters.system.qemu_img import QemuImg
from emulator.core.errors import ConflictError
from emulator.core.ports import Completed, DaemonPresence, DomainState
from tests.support.tiny_guest import TinyGuests
from tests.support.waiting import until

pytestmark = pytest.mark.host

RUNNER = HostProcess()
NAME = f"hst-e{os.getpid()}"


def traces(directory: Path, namespace: str) -> dict[str, object]:
    """All that an embedded hypervisor could leave behind on the host."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {
        "directory": directory.exists(),
        "namespace": Path("/run/netns", namespace).exists(),
        "processes": [process.name for process in find_processes(directory)],
        "mounts": [mount for mount in mounts if namespace in mount or str(directory) in mount],
        "run": sorted(
            str(path)
            for pattern in ("libvirt*", "leaseshelper*", "virtlogd*", "hyperscaler/*")
            for path in Path("/run").glob(pattern)
        ),
        "interfaces": sorted(path.name for path in Path("/sys/class/net").iterdir() if "hsbr" in path.name),
    }


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "hv"


@pytest.fixture
def embedded(directory: Path) -> Iterator[EmbeddedHypervisor]:
    before = traces(directory, NAME)
    daemon = EmbeddedHypervisor(directory, NAME, RUNNER, writable=(directory.parent,))
    try:
        yield daemon
    finally:
        daemon.stop()
    assert traces(directory, NAME) == before


@pytest.fixture
def guest(embedded: EmbeddedHypervisor, tmp_path: Path) -> Iterator[LibvirtHypervisor]:
    """A running domain `a` on a network `net`."""
    connection = LibvirtHypervisor(embedded.start())
    connection.admit_guests([tmp_path])
    add_guest(connection, tmp_path)
    yield connection
    connection.close()


def add_guest(connection: LibvirtHypervisor, root: Path) -> None:
    guests = TinyGuests.prepare(root / "lab")
    base, disk = root / "base.qcow2", root / "a.qcow2"
    RUNNER.run(["qemu-img", "create", "-q", "-f", "qcow2", base, "64M"], timeout=30)
    QemuImg(RUNNER).create_overlay(disk, base=base, size_gib=1)
    connection.define_network(guests.network())
    connection.define_domain(guests.domain("a", disk=disk))
    connection.start_domain("a")


def pids(directory: Path) -> Mapping[str, set[int]]:
    found: dict[str, set[int]] = {}
    for process in find_processes(directory):
        found.setdefault(process.name, set()).add(process.pid)
    return found


def await_end(directory: Path, name: str) -> None:
    processes = tuple(process for process in find_processes(directory) if process.name == name)
    assert processes
    assert end_processes(processes, directory, patience=10) == ()


def state_of(connection: LibvirtHypervisor, name: str) -> DomainState:
    info = connection.domain(name)
    assert info is not None
    return info.state


def test_start_is_idempotent_and_stop_leaves_nothing(embedded: EmbeddedHypervisor, directory: Path) -> None:
    assert embedded.presence() is DaemonPresence.ABSENT
    uri = embedded.start()
    # Only the daemon: libvirt asks dnsmasq for its version while it starts.
    first = pids(directory)["libvirtd"]
    assert embedded.start() == uri
    assert pids(directory)["libvirtd"] == first
    assert embedded.presence() is DaemonPresence.UP
    assert directory.stat().st_mode & 0o777 == 0o700
    embedded.stop()
    embedded.stop()
    assert embedded.presence() is DaemonPresence.ABSENT


def ask_for_capabilities(uri: str) -> None:
    """Has libvirtd know what QEMU can do."""
    connection = libvirt.open(uri)
    try:
        assert "<domainCapabilities>" in connection.getDomainCapabilities(None, "x86_64", None, "qemu")
    finally:
        connection.close()


@pytest.mark.parametrize("damaged", [False, True])
def test_the_next_libvirtd_is_told_what_qemu_can_do(directory: Path, tmp_path: Path, *, damaged: bool) -> None:
    kept = tmp_path / "kept"
    daemon = EmbeddedHypervisor(directory, NAME, RUNNER, QemuCapabilities(kept))
    try:
        ask_for_capabilities(daemon.start())
        daemon.stop()
        (entry,) = [path for path in kept.iterdir() if b"qemu-system-x86_64<" in path.read_bytes()]
        content = entry.read_bytes()
        if damaged:
            entry.write_bytes(content[:1000])
        uri = daemon.start()
        own = directory / "cache" / "qemu" / "capabilities" / entry.name
        given = own.stat()
        ask_for_capabilities(uri)
        # libvirt writes an entry that it made itself: it ran QEMU for that.
        assert ((own.stat().st_ino, own.stat().st_mtime_ns) != (given.st_ino, given.st_mtime_ns)) == damaged
        daemon.stop()
        assert b"</qemuCaps>" in entry.read_bytes()
    finally:
        daemon.stop()


def test_qemu_is_not_root_and_reaches_nothing_but_its_own_files(
    guest: LibvirtHypervisor, directory: Path, tmp_path: Path
) -> None:
    """A guest that broke out of QEMU would have this process's rights: looked at through /proc, and tried."""
    (qemu,) = [process for process in find_processes(directory) if process.name.startswith("qemu-system")]
    status = dict(line.split(":", 1) for line in Path("/proc", str(qemu.pid), "status").read_text().splitlines())
    account = guest_account()
    assert set(status["Uid"].split()) == {str(account.uid)} != {"0"}
    assert set(status["Gid"].split()) == {str(account.gid)} != {"0"}
    sets = {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")}
    assert not any(sets.values()), sets
    assert status["Seccomp"].strip() == "2", "no system call filter"
    secret, image, disk = tmp_path / "secret", tmp_path / "base.qcow2", tmp_path / "a.qcow2"
    secret.write_text("munge.key")
    secret.chmod(0o600)
    assert stat.S_IMODE(disk.stat().st_mode) == 0o600 and disk.stat().st_uid == account.uid
    script = f"""
import os
os.setgroups([]); os.setgid({account.gid}); os.setuid({account.uid})
def may(path, flags):
    try:
        os.close(os.open(path, flags))
    except OSError:
        return False
    return True
print(may("{disk}", os.O_RDWR), may("{image}", os.O_RDONLY), may("{image}", os.O_RDWR), may("{secret}", os.O_RDONLY))
print(may("{tmp_path}/new", os.O_WRONLY | os.O_CREAT), may("/etc/shadow", os.O_RDONLY))
try:
    print(os.listdir("{tmp_path}"))
except OSError:
    print("closed")
"""
    inside = ["nsenter", f"--mount=/proc/{qemu.pid}/ns/mnt", f"--net=/proc/{qemu.pid}/ns/net", sys.executable, "-c"]
    assert RUNNER.run([*inside, script], timeout=60).stdout.splitlines() == [
        "True True False False",
        "False False",
        "closed",
    ]


def test_stop_ends_the_guests_too(guest: LibvirtHypervisor, embedded: EmbeddedHypervisor, directory: Path) -> None:
    assert set(pids(directory)) == {"libvirtd", "dnsmasq", "qemu-system-x86"}
    embedded.stop()
    assert not directory.exists()
    assert find_processes(directory) == ()


def test_guests_survive_a_dead_libvirtd(
    guest: LibvirtHypervisor, embedded: EmbeddedHypervisor, directory: Path
) -> None:
    before = pids(directory)
    for pid in before["libvirtd"]:
        os.kill(pid, signal.SIGKILL)
    await_gone(directory, "libvirtd")
    assert embedded.presence() is DaemonPresence.DOWN
    embedded.start()
    after = pids(directory)
    assert after["qemu-system-x86"] == before["qemu-system-x86"]
    # A new libvirtd asks a dnsmasq of its own for its version, which may still run.
    until(lambda: pids(directory)["dnsmasq"] == before["dnsmasq"], "the dnsmasqs of before, and no other")
    # The same connection object goes on.
    assert state_of(guest, "a") is DomainState.RUNNING
    network = guest.network("net")
    assert network is not None
    assert network.active


def await_gone(directory: Path, name: str) -> None:
    for _ in range(10_000):
        if name not in pids(directory):
            return
    raise AssertionError(f"{name} is still there")


def test_after_a_reboot_the_definitions_are_there_and_nothing_runs(
    guest: LibvirtHypervisor, embedded: EmbeddedHypervisor, directory: Path
) -> None:
    for name in ("libvirtd", "qemu-system-x86", "dnsmasq"):
        await_end(directory, name)
    RUNNER.run(["ip", "netns", "del", NAME], timeout=30)
    # What a power cut leaves on a disk: status and pid files of processes that are no more.
    assert (directory / "run" / "libvirtd.pid").parent.exists()
    assert embedded.presence() is DaemonPresence.DOWN
    embedded.start()
    assert state_of(guest, "a") is DomainState.SHUTOFF
    network = guest.network("net")
    assert network is not None
    assert not network.active
    guest.start_network("net")
    guest.start_domain("a")
    assert state_of(guest, "a") is DomainState.RUNNING


def test_bridges_of_processes_that_all_died_are_no_obstacle(
    guest: LibvirtHypervisor, embedded: EmbeddedHypervisor, directory: Path
) -> None:
    for name in ("libvirtd", "qemu-system-x86", "dnsmasq"):
        await_end(directory, name)
    links = RUNNER.run(["ip", "-n", NAME, "-brief", "link"], timeout=30).stdout
    assert "hsbr0" in links, "the namespace is still there, with the bridge of before"
    embedded.start()
    guest.start_network("net")
    guest.start_domain("a")
    assert state_of(guest, "a") is DomainState.RUNNING


def test_a_start_after_the_directory_was_removed_ends_what_ran_in_it(
    guest: LibvirtHypervisor, embedded: EmbeddedHypervisor, directory: Path, tmp_path: Path
) -> None:
    before = pids(directory)
    shutil.rmtree(directory)
    connection = LibvirtHypervisor(embedded.start())
    try:
        assert connection.domains() == ()
        connection.define_network(TinyGuests(tmp_path / "lab").network())
    finally:
        connection.close()
    after = pids(directory)
    assert set(after) == {"libvirtd", "dnsmasq"}
    assert not running(before)


def test_a_lost_namespace_name_leads_back_to_the_guests(
    guest: LibvirtHypervisor, embedded: EmbeddedHypervisor, directory: Path
) -> None:
    inode = find_processes(directory)[0].netns
    RUNNER.run(["ip", "netns", "del", NAME], timeout=30)
    embedded.start()
    assert Path("/run/netns", NAME).stat().st_ino == inode


def test_remains_without_their_directory_are_found_and_ended(
    guest: LibvirtHypervisor, embedded: EmbeddedHypervisor, directory: Path
) -> None:
    before = pids(directory)
    shutil.rmtree(directory)
    assert find_embedded(directory, NAME, RUNNER) is DaemonPresence.DOWN
    assert pids(directory) == before
    embedded.stop()
    assert find_embedded(directory, NAME, RUNNER) is DaemonPresence.ABSENT
    assert not running(before)


def test_remains_are_found_on_a_host_with_a_libvirt_of_its_own(
    run_libvirt: Path, guest: LibvirtHypervisor, embedded: EmbeddedHypervisor, directory: Path
) -> None:
    """Its /run/libvirt is below the daemon's own in the daemon's mounts."""
    before = pids(directory)
    assert before["libvirtd"] and before["qemu-system-x86"]
    shutil.rmtree(directory)
    assert pids(directory) == before
    embedded.stop()
    assert not running(before)


def test_the_host_s_own_libvirt_can_go_without_taking_the_lab_along(
    run_libvirt: Path, guest: LibvirtHypervisor, embedded: EmbeddedHypervisor, directory: Path
) -> None:
    """Removing a directory takes away what is mounted on it in other namespaces."""
    if any(run_libvirt.iterdir()):
        pytest.skip("this host's own libvirt is at work")
    run_libvirt.rmdir()
    try:
        again = LibvirtHypervisor(embedded.uri())
        assert state_of(again, "a") is DomainState.RUNNING
        again.close()
        assert embedded.presence() is DaemonPresence.UP
        assert pids(directory)["qemu-system-x86"]
    finally:
        run_libvirt.mkdir(exist_ok=True)


@pytest.fixture
def run_libvirt() -> Iterator[Path]:
    place = Path("/run/libvirt")
    made = not place.exists()
    place.mkdir(exist_ok=True)
    yield place
    if made:
        place.rmdir()


def running(found: Mapping[str, set[int]]) -> set[int]:
    """Those of processes found before that still run, whatever we can tell of them now."""
    return {pid for group in found.values() for pid in group if _state(pid) not in "ZX"}


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def test_somebody_elses_namespace_is_left_alone(directory: Path) -> None:
    name = f"{NAME}-x"
    RUNNER.run(["ip", "netns", "add", name], timeout=30)
    try:
        daemon = EmbeddedHypervisor(directory, name, RUNNER)
        assert daemon.presence() is DaemonPresence.ABSENT
        with pytest.raises(ConflictError, match="a foreign network namespace"):
            daemon.start()
        daemon.stop()
        assert Path("/run/netns", name).exists()
    finally:
        RUNNER.run(["ip", "netns", "del", name], timeout=30)


def test_somebody_elses_directory_is_left_alone(directory: Path) -> None:
    directory.mkdir()
    (directory / "thesis.tex").write_text("years")
    daemon = EmbeddedHypervisor(directory, NAME, RUNNER)
    with pytest.raises(ConflictError, match="contains foreign files"):
        daemon.start()
    daemon.stop()
    assert [path.name for path in directory.iterdir()] == ["thesis.tex"]


def test_two_run_side_by_side_with_the_same_bridge_and_subnet(embedded: EmbeddedHypervisor, tmp_path: Path) -> None:
    other = EmbeddedHypervisor(tmp_path / "other", f"{NAME}-b", RUNNER, writable=(tmp_path,))
    try:
        connections = [LibvirtHypervisor(daemon.start()) for daemon in (embedded, other)]
        for number, connection in enumerate(connections):
            (tmp_path / str(number)).mkdir()
            connection.admit_guests([tmp_path, tmp_path / str(number)])
            add_guest(connection, tmp_path / str(number))
        assert [state_of(connection, "a") for connection in connections] == [DomainState.RUNNING] * 2
        other.stop()
        assert state_of(connections[0], "a") is DomainState.RUNNING
    finally:
        other.stop()


def test_a_directory_too_deep_for_a_socket(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 60) / ("e e%" * 20) / "hv"
    before = traces(directory, NAME)
    daemon = EmbeddedHypervisor(directory, NAME, RUNNER)
    try:
        connection = LibvirtHypervisor(daemon.start())
        assert connection.domains() == ()
        connection.close()
    finally:
        daemon.stop()
    assert traces(directory, NAME) == before


def test_a_live_change_of_reservations_keeps_dnsmasq(guest: LibvirtHypervisor, directory: Path, tmp_path: Path) -> None:
    before = pids(directory)["dnsmasq"]
    guest.define_network(TinyGuests(tmp_path / "lab").network(hosts=3))
    assert pids(directory)["dnsmasq"] == before
    network = guest.network("net")
    assert network is not None
    assert len(network.hosts) == 3
    hosts = (directory / "lib" / "dnsmasq" / "net.hostsfile").read_text()
    assert "192.168.90.13" in hosts


class CutShortError(RuntimeError):
    """Stands for the end of the program."""


class FailingRunner:
    """Ends the program before or after its n-th command."""

    def __init__(self, number: int, *, after: bool) -> None:
        self.left = number
        self.after = after

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        timeout: float,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        cwd: Path | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise CutShortError
        done = RUNNER.run(argv, timeout=timeout, check=check, env=env, stdin=stdin, cwd=cwd, on_line=on_line)
        if self.left == 0:
            raise CutShortError
        return done


def test_a_start_that_is_cut_short_anywhere_can_be_completed_or_removed(tmp_path: Path) -> None:
    cuts = 0
    for number in range(1, 20):
        for after in (False, True):
            for complete in (True, False):
                directory = tmp_path / f"{number}{after}{complete}"
                before = traces(directory, NAME)
                runner = FailingRunner(number, after=after)
                daemon = EmbeddedHypervisor(directory, NAME, RUNNER)
                try:
                    EmbeddedHypervisor(directory, NAME, runner).start()
                except CutShortError:
                    cuts += 1
                    if complete:
                        daemon.start()
                        assert daemon.presence() is DaemonPresence.UP
                finally:
                    daemon.stop()
                assert traces(directory, NAME) == before
        if runner.left > 0:
            break
    assert cuts >= 8
    assert runner.left > 0, "the sweep ended before the start did"
