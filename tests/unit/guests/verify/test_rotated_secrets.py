"""Whether the proof of a rotation sees what nodes serve: real handshakes, with a server in kubelet's place."""

from __future__ import annotations

import functools
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emulator.apply.handlers.secrets import new_ec_key
from emulator.core.data_files import share_dir
from emulator.core.fs import private_directory, write_private
from emulator.core.paths import LabPaths
from emulator.core.ports import Completed, GuestAddress
from emulator.credentials.rotation_phases import RotatedSecret
from emulator.credentials.tls_certificates import TlsCertificates, certificate_of
from emulator.guests.verify import rotated_secrets
from emulator.guests.verify.report import CheckResult
from emulator.labfile.load import load_spec
from emulator.labfile.model import ClusterSpec
from tests.support.waiting import PATIENCE

HEAD = "cloud-control-plane"


class HostShell:
    """A node's shell, on this machine."""

    def run(
        self, guest: GuestAddress, command: str, *, timeout: float, check: bool = True, stdin: str | None = None
    ) -> Completed:
        argv = ("sh", "-c", command)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
        return Completed(argv, done.returncode, done.stdout, done.stderr)

    def ready(self, guest: GuestAddress, *, timeout: float) -> bool:
        return True


class Lab:
    """A lab whose authority has certified its nodes, and the control plane's trust in that authority."""

    def __init__(self, root: Path) -> None:
        spec, _ = load_spec(share_dir() / "config" / "demo.yaml")
        assert spec is not None
        self.spec: ClusterSpec = spec
        self.paths = LabPaths(root / "lab")
        self.trusted = root / "trusted"
        self.record = root / "kubeadm.json"
        self.record.touch()
        self.trusted.mkdir()
        self.renew()
        self.trust()

    def renew(self) -> None:
        """Another authority, and certificates by it."""
        private_directory(self.paths.tls)
        write_private(self.paths.tls_key, new_ec_key())
        TlsCertificates(self.paths).certify(self.spec, self.spec.nodes)

    def trust(self) -> None:
        for old in self.trusted.iterdir():
            old.unlink()
        argv = ["openssl", "x509", "-noout", "-hash", "-in", str(self.paths.tls_ca)]
        digest = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
        (self.trusted / f"{digest}.0").write_bytes(self.paths.tls_ca.read_bytes())

    @contextmanager
    def served(self, name: str, *, refused: int = 0) -> Iterator[int]:
        """A TLS server with the present certificate of the node `name`, which hangs up on the first `refused` calls;
        its port."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate = certificate_of(self.paths, name)
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=answer, args=(listener, context, refused), daemon=True)
            thread.start()
            try:
                yield listener.getsockname()[1]
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                thread.join(timeout=PATIENCE)

    def prove(self, monkeypatch: pytest.MonkeyPatch, port: int, *, seconds: int = 0) -> CheckResult:
        """The proof's word on the control plane's kubelet, which is asked once and then again for `seconds`."""
        asked = functools.partial(
            rotated_secrets.kubelet_command,
            port=port,
            record=str(self.record),
            trusted=str(self.trusted),
            seconds=seconds,
            pause=0,
        )
        laid = f"openssl x509 -noout -fingerprint -sha256 -in {certificate_of(self.paths, HEAD)}"
        (address,) = [node.ip for node in self.spec.nodes if node.name == HEAD]
        with monkeypatch.context() as patch:
            patch.setattr(rotated_secrets, "kubelet_command", asked)
            patch.setattr(rotated_secrets, "_TLS", laid)
            head = [GuestAddress(HEAD, address, "labadmin")]
            checks = rotated_secrets.prove_secret(self.spec, RotatedSecret.TLS, self.paths, HostShell(), head)
        certificate, kubelet = checks
        assert certificate.ok, certificate.detail
        assert kubelet.name == f"kubelet {HEAD}"
        return kubelet


def answer(listener: socket.socket, context: ssl.SSLContext, refused: int) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # shut down
        if refused > 0:
            refused -= 1
            connection.close()
            continue
        connection.settimeout(PATIENCE)
        try:
            with context.wrap_socket(connection, server_side=True) as served:
                # A server that closes first, with words of the client still unread, resets the connection.
                while served.recv(4096):
                    pass
        except OSError:
            connection.close()  # it did not like our certificate


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_a_kubelet_that_serves_the_new_certificate_is_fine(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with lab.served(HEAD) as port:
        kubelet = lab.prove(monkeypatch, port)
    assert (kubelet.ok, kubelet.detail) == (True, "is trusted by the node")


def test_a_kubelet_that_is_not_up_yet_is_waited_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with lab.served(HEAD, refused=2) as port:
        kubelet = lab.prove(monkeypatch, port, seconds=int(PATIENCE))
    assert (kubelet.ok, kubelet.detail) == (True, "is trusted by the node")


def test_a_kubelet_that_goes_on_with_the_old_certificate_is_found(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with lab.served(HEAD) as port:
        lab.renew()
        assert not lab.prove(monkeypatch, port).ok, "an authority that is still trusted has signed it"
        lab.trust()
        refused = lab.prove(monkeypatch, port)
    assert not refused.ok
    assert "certificate verify failed" in refused.detail or "unable to get local issuer" in refused.detail


def test_a_certificate_of_another_node_is_none_of_this_one(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with lab.served("cloud-gpu-worker-1") as port:
        assert not lab.prove(monkeypatch, port).ok


def test_a_kubelet_that_does_not_answer_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    refused = lab.prove(monkeypatch, port)
    assert not refused.ok
    assert "onnect" in refused.detail


def test_a_node_that_has_not_joined_to_the_end_is_not_judged(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.record.unlink()
    kubelet = lab.prove(monkeypatch, 1)
    assert (kubelet.ok, kubelet.detail) == (True, "is no member of the cluster")


def test_nodes_of_slurm_have_no_kubelet(lab: Lab) -> None:
    class NoShell(HostShell):
        def run(self, guest: GuestAddress, command: str, **_options: object) -> Completed:
            assert "10250" not in command
            return Completed((command,), 1, "", "no such file")

    guests = [GuestAddress(node.name, node.ip, "labadmin") for node in lab.spec.nodes if node.name == "hpc-controller"]
    (check,) = rotated_secrets.prove_secret(lab.spec, RotatedSecret.TLS, lab.paths, NoShell(), guests)
    assert (check.name, check.ok) == ("certificate hpc-controller", False)
