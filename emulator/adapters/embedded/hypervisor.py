"""An embedded libvirtd with its own namespaces and directories, which shares nothing with the host's libvirtd.

Its parts, in the order in which they are created (each step completes an unfinished earlier one):

1. `DIRECTORY/embedded.json`, the intent: from now on the directory and the namespace are known to be ours;
2. the network namespace, marked (`network_namespace.py`);
3. libvirtd in a private mount namespace (`entry.py`), as a daemon that outlives the command.

`stop` reverses the order. Both look at the host instead of trusting a record, so they can be called after a crash at
any line, after a reboot, and after the directory was deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from emulator.adapters.control_groups.guests import GuestGroups
from emulator.adapters.embedded import entry
from emulator.adapters.embedded.network_namespace import NetworkNamespace, shared_notes
from emulator.adapters.embedded.processes import EmbeddedProcess, answered, end_processes, find_processes
from emulator.adapters.embedded.qemu_capabilities import QemuCapabilities
from emulator.adapters.libvirt.guest_account import guest_account
from emulator.adapters.system.process import missing_program
from emulator.core.errors import ConflictError, HostNotFitError, HypervisorError
from emulator.core.fs import finished_name, remove_unfinished, replace_file
from emulator.core.ports import DaemonPresence, ProcessRunner
from emulator.core.ports.guest_accounts import GuestAccount

_MARKER_VERSION = 1

# sun_path of struct sockaddr_un, 108 bytes with the closing NUL.
_SOCKET_PATH_LIMIT = 107

# Seconds. A cold libvirtd answers in about 0.2 s; on a busy host it may take much longer.
_START_TIMEOUT = 60.0
_PATIENCE = 10.0

_LIBVIRTD_CONF = """\
# Only root may connect, by the socket in this lab's directory. No TCP, no authentication daemons.
unix_sock_ro_perms = "0700"
unix_sock_rw_perms = "0700"
auth_unix_ro = "none"
auth_unix_rw = "none"
# One thread for each simultaneous call of the program.
min_workers = 4
max_workers = 16
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
"""

_QEMU_CONF = """\
# The lab's account. Each guest's QEMU runs as a user of its own in this group, by a label in its domain; it owns its
# disk and console log, which are handed over before it starts, and nothing else. Dynamic ownership would give it the
# golden images, too.
user = "+{uid}"
group = "+{gid}"
clear_emulator_capabilities = 1
seccomp_sandbox = 1
# Threads and processes of one user, so of one guest: virtual processors and at most some hundred for its disk.
max_processes = 2048
# A core dump would hold the guest's memory.
max_core = 0
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
# No cgroups and no further namespaces: a guest leaves nothing on the host when its process ends.
cgroup_controllers = []
namespaces = []
# QEMU itself writes consoles; virtlogd would be one more daemon that guests depend on.
stdio_handler = "file"
"""

_DIRECTORIES = tuple(entry.BINDS)
_MARKER = "embedded.json"


class EmbeddedHypervisor:
    """`HypervisorDaemon`: the embedded libvirtd of one lab.

    Args:
        directory: holds all its files; created and removed by this class.
        namespace: name of its network namespace.
        runner: runs `ip` and starts the daemon.
        known: cached capabilities of this host's QEMU; without them each libvirtd determines them itself.
        account: what QEMU runs as if a domain says nothing else; its group reaches the guests' directories.
        writable: directories of the guests' own files; what lies next to them is hidden from libvirtd and QEMU.
        readable: directories that guests only read, such as golden images.
    """

    def __init__(
        self,
        directory: Path,
        namespace: str,
        runner: ProcessRunner,
        known: QemuCapabilities | None = None,
        *,
        account: Callable[[], GuestAccount] = guest_account,
        writable: Sequence[Path] = (),
        readable: Sequence[Path] = (),
    ) -> None:
        self._directory = directory.absolute()
        self._netns = NetworkNamespace(namespace, str(self._directory), runner)
        self._runner = runner
        self._known = known
        self._account = account
        self._groups = GuestGroups()
        self._writable = tuple(path.absolute() for path in writable)
        self._readable = tuple(path.absolute() for path in readable)

    def guest_command_prefix(self) -> tuple[str, ...]:
        """Argv prefix for commands that must reach the guests."""
        return ("ip", "netns", "exec", self._netns.name)

    def uri(self) -> str:
        """See `HypervisorDaemon.uri`."""
        return f"qemu+unix:///system?socket={quote(str(self._socket()), safe='/')}"

    def presence(self) -> DaemonPresence:
        """Whether it is up, partly present, or absent without a trace.

        Up means that `start` has nothing to do. With a damaged marker, or without the namespace's name that leads to
        the guests, it is partly present.
        """
        if not _is_root():
            # Other users cannot inspect the processes, and only root can have started one.
            return DaemonPresence.ABSENT
        daemon = next(filter(_is_daemon, find_processes(self._directory)), None)
        if daemon is not None and self._marked() and daemon.netns == self._netns.inode() and self._answers():
            return DaemonPresence.UP
        return DaemonPresence.DOWN if self._remains() else DaemonPresence.ABSENT

    def start(self) -> str:
        """Start it and return its URI. A running one is adopted; running guests are not touched.

        Raises:
            HostNotFitError: not root, or a program is missing.
            ConflictError: the directory or the namespace is foreign.
            HypervisorError: libvirtd does not start.
        """
        _require_root()
        if not (self._directory / "run").exists():
            # Its directory was removed by hand, so its processes can no longer be reached. A damaged or missing marker
            # proves no such thing, and guests keep running then.
            self._end_all()
        self._mark_directory()
        self._link_socket()  # before its first use: an interrupted stop has removed it first
        processes = find_processes(self._directory)
        daemon = next((process for process in processes if _is_daemon(process)), None)
        if daemon is not None and not self._await_answer(_PATIENCE):
            self._end((daemon,))
            processes = tuple(process for process in processes if process != daemon)
        if not processes and self._namespace_is_ours():
            # All processes died, for example with a stopped container: libvirt would refuse its own old bridges.
            self._netns.delete()
        self._ensure_namespace(processes)
        if not self._answers():
            self._launch(fresh=not processes)
        return self.uri()

    def stop(self) -> None:
        """End all its processes, guests included, and remove namespace and directory. Nothing happens if it is absent.

        Raises:
            HypervisorError: a process does not die; the remains stay recognisable.
        """
        if self.presence() is DaemonPresence.ABSENT:
            return
        namespace_ours, directory_ours = self._namespace_is_ours(), self._directory_is_ours()
        # Nothing else leads to the link: if it were removed last, a kill before that would leave it for ever.
        with shared_notes():
            self._short_link().unlink(missing_ok=True)
        self._end_all()
        self._groups.remove(self._netns.name)
        if namespace_ours:
            self._netns.delete()
        if directory_ours:
            if self._known is not None:
                self._known.keep(self._directory / "cache")
            # The marker goes last: after an interrupted removal the directory is still recognisable as ours.
            for name in _DIRECTORIES:
                shutil.rmtree(self._directory / name, ignore_errors=True)
            shutil.rmtree(self._directory)

    # ------------------------------------------------------------ directory
    @property
    def _marker(self) -> Path:
        return self._directory / _MARKER

    def _marked_namespace(self) -> str | None:
        """The namespace that the marker names: empty if the marker is damaged, None if there is none."""
        if self._marker.is_symlink() or not self._marker.is_file():
            return None
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
            return str(json.loads(self._marker.read_text())["namespace"])
        return ""

    def _marked(self) -> bool:
        return self._marked_namespace() == self._netns.name

    def _directory_is_ours(self) -> bool:
        """Whether it is marked, or holds only our files together with a damaged marker or a live process of ours."""
        if self._marked():
            return True
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if all(self._is_our_name(path.name) for path in self._directory.iterdir()):
                named = self._marked_namespace()
                return not named and (named is not None or self._netns.is_ours() or self._lives())
        return False

    def _is_our_name(self, name: str) -> bool:
        return name in (*_DIRECTORIES, _MARKER, self._old_partial.name) or finished_name(name) == _MARKER

    @property
    def _old_partial(self) -> Path:
        """A marker that an earlier version did not finish."""
        return self._marker.with_suffix(".partial")

    def _lives(self) -> bool:
        return bool(find_processes(self._directory))

    def _remains(self) -> bool:
        return self._directory_is_ours() or self._namespace_is_ours() or self._lives()

    def _mark_directory(self) -> None:
        """Write the intent before anything else is created."""
        directory = self._directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.is_symlink() or directory.stat().st_uid != os.geteuid():
            raise ConflictError("not a directory of root's own", where=str(directory))
        directory.chmod(0o700)
        if not self._marked():
            remove_unfinished(self._marker)
            self._old_partial.unlink(missing_ok=True)
            if any(directory.iterdir()) and not self._directory_is_ours():
                raise ConflictError("the directory contains foreign files", where=str(directory), fix="move them away")
            if self._netns.inode() is not None and not self._netns.is_ours():
                self._netns.ensure(adopt=False)
            text = json.dumps({"version": _MARKER_VERSION, "namespace": self._netns.name})
            replace_file(self._marker, f"{text}\n".encode())
        for name in _DIRECTORIES:
            (directory / name).mkdir(mode=0o755, exist_ok=True)
        _write_settled(directory / "etc" / "libvirtd.conf", _LIBVIRTD_CONF)
        account = self._account()
        conf = _QEMU_CONF.format(uid=account.uid, gid=account.gid)
        _write_settled(directory / "etc" / "qemu.conf", conf)

    # ------------------------------------------------------------ namespace
    def _namespace_is_ours(self) -> bool:
        inode = self._netns.inode()
        if inode is None:
            return False
        if self._marked() or self._netns.is_ours():
            return True
        return any(process.netns == inode for process in find_processes(self._directory))

    def _ensure_namespace(self, processes: tuple[EmbeddedProcess, ...]) -> None:
        """Make the name lead to the namespace of the live processes; without any, create a new namespace.

        A namespace that a guest which broke out has made for itself is not looked at.

        Raises:
            ConflictError: they are in several namespaces of root's.
        """
        networks = {process.netns: process for process in processes if process.roots_network}
        if len(networks) > 1:
            found = ", ".join(f"{each.name} ({each.pid})" for each in networks.values())
            raise ConflictError(
                f"processes of the lab's hypervisor are in several network namespaces: {found}",
                where=str(self._directory),
                fix="find out who moved them; `hyperscaler destroy` ends them all",
            )
        for netns, process in networks.items():
            if netns != self._netns.inode():
                self._netns.attach(process.thread)
            if netns != self._netns.inode():
                raise HypervisorError(
                    f"{process.name} ({process.pid}) ended while its network namespace was looked for",
                    where=str(self._netns.path),
                    fix="run the same command again",
                )
        self._netns.ensure(adopt=True)

    # --------------------------------------------------------------- socket
    def _socket(self) -> Path:
        socket_path = self._directory / "run" / "libvirt-sock"
        if len(os.fsencode(socket_path)) <= _SOCKET_PATH_LIMIT:
            return socket_path
        return self._short_link() / "libvirt-sock"

    def _short_link(self) -> Path:
        digest = hashlib.sha256(os.fsencode(self._directory)).hexdigest()[:16]
        return Path("/run/hyperscaler") / digest

    def _link_socket(self) -> None:
        """Link to a socket whose own path is too long for the kernel."""
        link = self._short_link()
        if self._socket().parent == link and not link.is_symlink():
            with shared_notes():
                link.symlink_to(self._directory / "run")

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(5.0)
                client.connect(str(self._socket()))
        except OSError:
            return False
        return True

    def _await_answer(self, seconds: float) -> bool:
        return answered(self._answers, lambda: filter(_is_daemon, find_processes(self._directory)), seconds)

    # ------------------------------------------------------------ processes
    def _launch(self, *, fresh: bool) -> None:
        """Start libvirtd. `fresh`: none of our processes lives, so the status files in `run` are from before a reboot.

        libvirt relies on a reboot emptying /run: it would mistake a stale status file for a guest and end whatever
        process has that id now.
        """
        if fresh:
            shutil.rmtree(self._directory / "run")
            (self._directory / "run").mkdir(mode=0o755)
        for program in ("libvirtd", "dnsmasq", "qemu-system-x86_64"):
            if shutil.which(program) is None:
                raise missing_program(program)
        if self._known is not None:
            self._known.give(self._directory / "cache")
        starter = Path(entry.__file__)
        for path in self._writable:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self._readable:
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
        shown = [*(f"+{path}" for path in self._writable), *(f"={path}" for path in self._readable)]
        daemon = ["libvirtd", "-d", "-f", "/etc/libvirt/libvirtd.conf", "-p", "/run/libvirt/libvirtd.pid"]
        others = find_processes(self._directory)
        group = self._groups.launch(self._netns.name, others[0].pid if others else None)
        enter: list[str | Path] = [sys.executable, "-I", "-S", starter, self._netns.path, self._directory]
        group.run(self._runner, enter, [f"@{self._account().gid}", *shown, *daemon], timeout=_START_TIMEOUT)
        if not self._await_answer(_START_TIMEOUT):
            raise HypervisorError(
                "the lab's libvirtd does not answer on its socket",
                where=str(self._directory / "log" / "libvirtd.log"),
                fix="see that log, then run the same command again",
            )

    def _end_all(self) -> None:
        # libvirtd first, so that it neither restarts the others nor reacts to their end. The second round catches
        # processes that were started during the first.
        for _ in range(2):
            self._end(tuple(filter(_is_daemon, find_processes(self._directory))))
            self._end(find_processes(self._directory))

    def _end(self, processes: tuple[EmbeddedProcess, ...]) -> None:
        stuck = end_processes(processes, self._directory, patience=_PATIENCE)
        if stuck:
            names = ", ".join(f"{process.name} ({process.pid})" for process in stuck)
            raise HypervisorError(
                f"processes of the lab's hypervisor cannot be ended: {names}",
                where=str(self._directory),
                fix="they are blocked in the kernel, often by a device; release it or reboot, then try again",
            )


def find_embedded(directory: Path, namespace: str, runner: ProcessRunner) -> DaemonPresence:
    """Remains of an embedded hypervisor, found on the host without any state file."""
    return EmbeddedHypervisor(directory, namespace, runner).presence()


def _write_settled(path: Path, text: str) -> None:
    """Set a file's content without a moment when it is empty: a starting libvirtd may be reading it."""
    if path.is_file() and path.read_text() == text:
        return
    replace_file(path, text.encode(), mode=0o644)


def _is_daemon(process: EmbeddedProcess) -> bool:
    return process.is_libvirtd


def _is_root() -> bool:
    return os.geteuid() == 0


def _require_root() -> None:
    if not _is_root():
        raise HostNotFitError(
            "the embedded hypervisor needs root, for its namespaces and bridges",
            where="hypervisor.uri",
            fix="run the command with sudo, or set hypervisor.uri to a libvirt that you may use",
        )
