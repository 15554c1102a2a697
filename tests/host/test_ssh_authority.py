"""Certificates of a lab's authority against a real sshd on loopback: who gets in, and who does not any more."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from emulator.adapters.system.process import HostProcess
from emulator.credentials.ssh_authority import OpenSshAuthority

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debian's sshd, unpacked and not installed: a service of this name on the host is nobody's wish."""
    if os.geteuid() != 0:
        pytest.exit("the tests on real services run as root", returncode=2)
    directory = tmp_path_factory.mktemp("sshd")
    subprocess.run(["apt-get", "download", "-qq", "openssh-server", "libwrap0"], cwd=directory, check=True, timeout=120)
    for package in directory.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, directory], check=True, timeout=60)
    passwd = [line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith("sshd:")]
    passwd.append(f"sshd:x:65533:65534::{directory}:/usr/sbin/nologin")
    (directory / "passwd").write_text("\n".join(passwd) + "\n")
    return directory


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_name(f"{path.name}.pub")


@dataclass
class Server:
    directory: Path
    port: int
    authority: OpenSshAuthority

    def revoke(self, *public: Path) -> None:
        (self.directory / "revoked").write_text("".join(key.read_text() for key in public))

    def login(self, key: Path, *, user: str = "root", host_checked: bool = True) -> subprocess.CompletedProcess[str]:
        known = self.directory / "known_hosts"
        known.write_text(f"@cert-authority * {self.authority.public_key}\n" if host_checked else "")
        options = {
            "IdentityFile": key,
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": known,
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "HostKeyAlias": "hpc-compute-1",
            "ConnectTimeout": "10",
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return subprocess.run(
            ["ssh", "-F", "none", *words, "-p", str(self.port), "-l", user, "127.0.0.1", "echo in"],
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            check=False,
        )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def server(tmp_path: Path, sshd: Path) -> Iterator[Server]:
    """An sshd with the settings that the role lays into nodes, for principal `root` only."""
    make_key(tmp_path / "ca")
    authority = OpenSshAuthority(tmp_path / "ca", HostProcess())
    host_key = make_key(tmp_path / "host")
    certificate = authority.sign_host(host_key, node="hpc-compute-1", names=["hpc-compute-1", "127.0.0.1"])
    (tmp_path / "principals").mkdir()
    (tmp_path / "principals" / "root").write_text("root\n")
    (tmp_path / "revoked").write_text("")
    (tmp_path / "config").write_text(
        f"""HostKey {tmp_path}/host
HostCertificate {certificate}
TrustedUserCAKeys {tmp_path}/ca.pub
AuthorizedPrincipalsFile {tmp_path}/principals/%u
RevokedKeys {tmp_path}/revoked
AuthorizedKeysFile none
AuthenticationMethods publickey
PermitRootLogin prohibit-password
StrictModes no
PidFile none
UsePAM no
"""
    )
    port = free_port()
    # In a mount namespace of its own: the account that sshd separates its privileges with, and its directory.
    script = f"""
mount --bind {sshd}/passwd /etc/passwd && mount -t tmpfs -o mode=755 none /run && mkdir /run/sshd &&
exec {sshd}/usr/sbin/sshd -D -e -f {tmp_path}/config -p {port} -o ListenAddress=127.0.0.1"""
    libraries = next(path.parent for path in sshd.rglob("libwrap.so.0"))
    environment = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(libraries)}
    argv = ["unshare", "--mount", "sh", "-c", script]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(argv, stderr=log, env=environment) as process:
        try:
            deadline = time.monotonic() + 30
            while not listens(port):
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield Server(tmp_path, port, authority)
        finally:
            process.terminate()


def test_a_certificate_opens_the_door_without_any_prompt(server: Server, tmp_path: Path) -> None:
    public = make_key(tmp_path / "user")
    assert server.login(tmp_path / "user").returncode != 0
    certificate = server.authority.sign_user(public, user="root", serial=7, seconds=300, forwarding=False)
    assert certificate == tmp_path / "user-cert.pub"
    done = server.login(tmp_path / "user")
    assert (done.returncode, done.stdout) == (0, "in\n"), done.stderr
    shown = subprocess.run(["ssh-keygen", "-L", "-f", certificate], capture_output=True, text=True, check=True).stdout
    assert "Serial: 7" in shown
    assert "permit-pty" in shown
    assert "permit-port-forwarding" not in shown


def test_the_host_proves_itself_by_the_authority_alone(server: Server, tmp_path: Path) -> None:
    server.authority.sign_user(make_key(tmp_path / "user"), user="root", serial=1, seconds=300, forwarding=False)
    refused = server.login(tmp_path / "user", host_checked=False)
    assert refused.returncode == 255
    assert "Host key verification failed" in refused.stderr


@pytest.mark.parametrize("case", ["another user", "too old", "another authority", "revoked"])
def test_who_does_not_get_in(server: Server, tmp_path: Path, case: str) -> None:
    public = make_key(tmp_path / "user")
    if case == "another user":
        server.authority.sign_user(public, user="ada", serial=1, seconds=300, forwarding=False)
    elif case == "another authority":
        make_key(tmp_path / "ca-2")
        other = OpenSshAuthority(tmp_path / "ca-2", HostProcess())
        other.sign_user(public, user="root", serial=1, seconds=300, forwarding=False)
    else:
        server.authority.sign_user(
            public, user="root", serial=1, seconds=1 if case == "too old" else 300, forwarding=False
        )
        assert case == "too old" or server.login(tmp_path / "user").returncode == 0
    if case == "too old":
        time.sleep(2)
    if case == "revoked":
        server.revoke(public)
    done = server.login(tmp_path / "user")
    assert done.returncode == 255
    assert "Permission denied" in done.stderr


def test_an_authority_is_changed_for_another_without_a_restart(server: Server, tmp_path: Path) -> None:
    """What a rotation counts on: sshd takes certificates of two authorities at a time, and forgets one at once."""
    trusted, old = tmp_path / "ca.pub", tmp_path / "ca-old"
    for half in ("", ".pub"):
        old.with_name(old.name + half).write_bytes((tmp_path / f"ca{half}").read_bytes())
        old.with_name(old.name + half).chmod(0o600)
    server.authority = OpenSshAuthority(old, HostProcess())  # it has certified the host
    new = make_key(tmp_path / "ca-new")
    for name, authority in (("ada", server.authority), ("bob", OpenSshAuthority(tmp_path / "ca-new", HostProcess()))):
        authority.sign_user(make_key(tmp_path / name), user="root", serial=1, seconds=300, forwarding=False)

    def let_in() -> list[str]:
        return [name for name in ("ada", "bob") if server.login(tmp_path / name).returncode == 0]

    assert let_in() == ["ada"]
    trusted.write_text(old.with_name("ca-old.pub").read_text() + new.read_text())
    assert let_in() == ["ada", "bob"]
    trusted.write_text(new.read_text())
    assert let_in() == ["bob"]
