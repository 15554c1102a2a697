"""The host's gateway between network namespaces: a host, a lab, and clients elsewhere, all made by the test itself.

client --veth-- host [front] - - - gateway's namespace [sshd, relay's listeners] - - - lab [relay, nodes' sshd]
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from emulator.adapters.services.own_programs import own_command
from emulator.adapters.system.process import HostProcess
from emulator.core.gateway.names import ACCOUNT, Door
from emulator.core.paths import Home, LabPaths
from emulator.core.trust.processes import process_ids
from emulator.core.trust.users import users_of
from emulator.credentials.ssh_authority import OpenSshAuthority
from emulator.credentials.ssh_certificates import SshCertificates
from emulator.credentials.ssh_trust import CertificateOrder
from emulator.credentials.users import AccessBook, AccessRole, read_book, render_book
from emulator.labfile.load import load_spec
from emulator.labfile.model import ClusterSpec
from emulator.plan.gateway import build_gateway

_FILE = """\
version: "1.0"
metadata: {{name: {name}}}
clusters: {{hpc: {{}}, cloud: {{}}}}
access: {{gateway: true, node_ports: [30080]}}
"""
HOST, CLIENT = "10.99.0.1", "10.99.0.2"
PORT = 2222
_GATEWAY_UID = 64534
SECONDS = 60


def sh(*words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(words), capture_output=True, text=True, check=check, timeout=SECONDS)


def ssh_key(path: Path) -> Path:
    sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
    return path.with_name(f"{path.name}.pub")


def unpack_sshd(directory: Path) -> Path:
    """Debian's sshd, unpacked and not installed, as a program that its account can run."""
    subprocess.run(["apt-get", "download", "-qq", "openssh-server", "libwrap0"], cwd=directory, check=True, timeout=120)
    for package in directory.glob("*.deb"):
        sh("dpkg-deb", "-x", package, directory)
    libraries = next(path.parent for path in directory.rglob("libwrap.so.0"))
    program = directory / "sshd"
    program.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {directory}/usr/sbin/sshd "$@"\n')
    program.chmod(0o755)
    directory.chmod(0o755)
    return program


@dataclass
class Bench:
    """What the tests act on.

    Attributes:
        root: directory of the test, passable for all accounts.
        sshd: the program.
        tag: in all names on this machine.
    """

    root: Path
    sshd: Path
    tag: str = field(default_factory=lambda: secrets.token_hex(3))
    stack: ExitStack = field(default_factory=ExitStack)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    # ------------------------------------------------------------- places
    @property
    def place(self) -> Path:
        return Path("/run") / f"hsgw-{self.tag}"

    @property
    def home(self) -> Home:
        return Home(self.root / "home")

    def netns(self, name: str) -> str:
        return f"hsgw-{name}-{self.tag}"

    def log(self, name: str) -> str:
        return (self.root / f"{name}.log").read_text(errors="replace")

    @property
    def door(self) -> Door:
        return Door(HOST, PORT, " ".join((self.root / "host_key.pub").read_text().split()[:2]))

    # ------------------------------------------------------------- networks
    def add_namespace(self, name: str) -> None:
        sh("ip", "netns", "add", self.netns(name))
        self.stack.callback(sh, "ip", "netns", "del", self.netns(name), check=False)
        sh("ip", "-n", self.netns(name), "link", "set", "lo", "up")

    def connect_client(self) -> None:
        self.add_namespace("host")
        self.add_namespace("client")
        host, client = f"h{self.tag}", f"c{self.tag}"
        sh("ip", "-n", self.netns("host"), "link", "add", host, "type", "veth", "peer", "name", client)
        sh("ip", "-n", self.netns("host"), "link", "set", client, "netns", self.netns("client"))
        for name, link, address in (("host", host, HOST), ("client", client, CLIENT)):
            sh("ip", "-n", self.netns(name), "addr", "add", f"{address}/24", "dev", link)
            sh("ip", "-n", self.netns(name), "link", "set", link, "up")

    # ------------------------------------------------------------- processes
    def accounts(self, name: str, *, home: Path | None = None) -> Path:
        """A list of accounts with those of the gateway and of the nodes; `home` is root's."""
        own = {"root", "sshd", ACCOUNT, "ada", "bob"}
        lines = [line for line in Path("/etc/passwd").read_text().splitlines() if line.split(":")[0] not in own]
        lines += [
            f"root:x:0:0:root:{home or '/root'}:/bin/sh",
            "sshd:x:64533:65534::/:/usr/sbin/nologin",
            f"{ACCOUNT}:x:{_GATEWAY_UID}:64534::/nonexistent:/usr/sbin/nologin",
            "ada:x:64535:64535::/:/bin/sh",
            "bob:x:64536:64536::/:/bin/sh",
        ]
        # A file for each process: it is mounted there, and what changes in it is seen at once.
        path = self.root / f"passwd-{name}-{secrets.token_hex(4)}"
        path.write_text("\n".join(lines) + "\n")
        return path

    def inside(self, namespace: str, words: Sequence[str | Path], accounts: Path, *, run: bool = False) -> list[str]:
        """A command in one of the namespaces, with these accounts; `run`: with a directory /run of its own."""
        script = f"mount --bind {accounts} /etc/passwd"
        script += " && mount -t tmpfs -o mode=755 none /run && mkdir /run/sshd" if run else ""
        enter = f"nsenter --net=/run/netns/{self.netns(namespace)}"
        return [*enter.split(), "unshare", "--mount", "sh", "-c", f'{script} && exec "$@"', "sh", *map(str, words)]

    def start(self, name: str, argv: Sequence[str]) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "HYPERSCALER_NOTE": str(self.root / f"{name}.note"),
            "HYPERSCALER_START": "1",
        }
        with (self.root / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=log, env=environment, stdin=subprocess.DEVNULL)
        self.processes[name] = process
        self.stack.callback(self.end, name)

    def end(self, name: str) -> None:
        process = self.processes.pop(name, None)
        if process is not None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(30)

    def await_true(self, what: str, look: Callable[[], bool]) -> None:
        """Wait until `look()` is true; the tests' own deadline is far beyond what anything here takes."""
        deadline = time.monotonic() + SECONDS
        while not look():
            assert time.monotonic() < deadline, f"{what}: {[(n, self.log(n)[-800:]) for n in self.processes]}"
            for name, process in self.processes.items():
                assert process.poll() is None, f"{name} has ended: {self.log(name)}"
            time.sleep(0.05)

    def ready(self, name: str) -> bool:
        note = self.root / f"{name}.note"
        return note.is_file() and b'"start": "1"' in note.read_bytes()

    # ------------------------------------------------------------- the parts
    def start_front(self) -> None:
        words: list[str | Path] = [
            "gateway-front",
            "--listen",
            HOST,
            "--port",
            str(PORT),
            "--host-key",
            self.root / "host_key",
        ]
        words += ["--sshd", self.sshd, "--gateway", self.netns("gw"), "--place", self.place]
        self.start("front", self.inside("host", [*own_command(), *words], self.accounts("front")))
        self.await_true("the front is ready", lambda: self.ready("front"))

    def add_lab(self, name: str, *, system: bool = False) -> Lab:
        lab = Lab(self, name, system)
        lab.make()
        return lab


@dataclass
class Lab:
    """A lab whose nodes are real sshds, in a namespace of its own unless it is on the host's libvirt (`system`)."""

    bench: Bench
    name: str
    system: bool = False

    @property
    def network(self) -> str:
        """Where its nodes are: with the host's libvirt in the host's own network."""
        return "host" if self.system else self.name

    @property
    def spec(self) -> ClusterSpec:
        file = self.bench.root / f"{self.name}.yaml"
        file.write_text(_FILE.format(name=self.name))
        spec, report = load_spec(file)
        assert spec is not None, report.errors
        return spec

    @property
    def paths(self) -> LabPaths:
        return self.bench.home.lab(self.name)

    @property
    def service(self) -> str:
        return f"gateway-{self.name}"

    def make(self) -> None:
        bench = self.bench
        if not self.system:
            bench.add_namespace(self.name)
        self.paths.ssh.mkdir(parents=True)
        for key in (self.paths.ssh_ca, self.paths.ssh_key):
            ssh_key(key)
        for node in self.spec.nodes:
            sh("ip", "-n", bench.netns(self.network), "addr", "add", f"{node.ip}/32", "dev", "lo")
            self._start_node(node.name, str(node.ip))
        self.start_relay()

    def _start_node(self, node: str, ip: str) -> None:
        directory = self.bench.root / f"{self.name}-{node}"
        (directory / "principals").mkdir(parents=True)
        for user in ("ada", "bob"):
            (directory / "principals" / user).write_text(f"{user}\n")
        public = ssh_key(directory / "host")
        certificate = OpenSshAuthority(self.paths.ssh_ca, HostProcess()).sign_host(public, node=node, names=[node])
        (directory / "config").write_text(
            f"HostKey {directory}/host\nHostCertificate {certificate}\nTrustedUserCAKeys {self.paths.ssh_ca}.pub\n"
            f"AuthorizedPrincipalsFile {directory}/principals/%u\nAuthorizedKeysFile none\nStrictModes no\n"
            f"PidFile none\nUsePAM no\nListenAddress {ip}\nAllowTcpForwarding no\n"
        )
        words: list[str | Path] = [self.bench.sshd, "-D", "-e", "-f", directory / "config"]
        self.bench.start(
            f"{self.name}-{node}", self.bench.inside(self.network, words, self.bench.accounts("node"), run=True)
        )

    def start_relay(self) -> None:
        (service,) = build_gateway(self.spec, self.paths, None if self.system else self.bench.netns(self.name), ())
        words = [*own_command(), service.program, *service.arguments]
        words += ["--gateway", self.bench.netns("gw"), "--place", str(self.bench.place)]
        argv = self.bench.inside("host", words, self.bench.accounts("relay"))
        (self.bench.root / f"{self.service}.note").unlink(missing_ok=True)
        self.bench.start(self.service, argv)
        self.bench.await_true("the relay is ready", lambda: self.bench.ready(self.service))

    # ------------------------------------------------------------- users
    def grant(self, user: str, *, nodes: tuple[str, ...] = (), seconds: int = 3600) -> Client:
        """As `access add` does it, and what it hands out in a home of the user's."""
        certificates = SshCertificates(self.paths, HostProcess())
        book = read_book(self.paths.access)
        order = CertificateOrder(
            user, book.next_serial, seconds, self.paths.handouts / user, nodes=nodes, door=self.bench.door
        )
        key = certificates.user_key(self.spec, order, revoked=book.revoked_keys)
        self.keep(
            book.granted(user, AccessRole.STUDENT, public_key=key, expires=int(time.time()) + seconds, nodes=nodes)
        )
        certificates.issue(self.spec, order, guest_prefix=())
        client = Client(self, user, self.bench.root / f"laptop-{self.name}-{user}")
        client.receive(order.directory)
        self.settle()
        return client

    def keep(self, book: AccessBook) -> None:
        self.paths.access.write_bytes(render_book(book))

    def revoke(self, user: str) -> None:
        self.keep(read_book(self.paths.access).without(user))

    def settle(self) -> None:
        """Wait until the relay has looked at who has access."""
        keys = next(iter(self.bench.place.glob(f"labs/{self.name}-*.keys")), None)
        wanted = {user.name for user in read_book(self.paths.access).at(time.time()).users if not user.revoked}

        def there() -> bool:
            text = keys.read_text() if keys else ""
            serials = [c.serial for u in read_book(self.paths.access).users if u.name in wanted for c in u.certificates]
            return all(f"/{serial}" in text for serial in serials[-1:]) and all(f"/{user}/" in text for user in wanted)

        self.bench.await_true("the relay has the users", there)
        time.sleep(0.3)  # the relay's sockets come after the file


@dataclass
class Client:
    """A user with the directory that was handed over, on a machine elsewhere."""

    lab: Lab
    user: str
    home: Path

    @property
    def directory(self) -> Path:
        return self.home / ".ssh" / f"hyperscaler-{self.lab.name}"

    def receive(self, handed: Path) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.copytree(handed, self.directory)
        self.directory.chmod(0o700)

    def argv(self, *words: str) -> list[str]:
        bench = self.lab.bench
        accounts = bench.accounts(f"{self.lab.name}-{self.user}", home=self.home)
        ssh = ["ssh", "-F", str(self.directory / "config"), "-o", "BatchMode=yes", "-o", "LogLevel=INFO", *words]
        return bench.inside("client", ssh, accounts)

    def ssh(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*words), capture_output=True, text=True, timeout=SECONDS, check=False, stdin=subprocess.DEVNULL
        )

    @contextlib.contextmanager
    def session(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """A connection that stays."""
        process = subprocess.Popen(
            self.argv(*words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


def _left_of_the_gateway() -> list[int]:
    """Processes of the gateway's account, once they have had their time to end."""
    deadline = time.monotonic() + SECONDS
    while True:
        found = [pid for pid in process_ids() if _GATEWAY_UID in users_of(pid)]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


@contextlib.contextmanager
def gateway_bench(sshd: Path, root: Path) -> Iterator[Bench]:
    """The host, its gateway and a client's machine; no lab yet."""
    bench = Bench(root, sshd)
    with bench.stack:
        bench.stack.callback(shutil.rmtree, bench.place, ignore_errors=True)
        bench.connect_client()
        bench.add_namespace("gw")
        ssh_key(root / "host_key")
        bench.start_front()
        yield bench
    assert _left_of_the_gateway() == [], "processes outlive the gateway and the labs"
