"""Uses a lab's ssh authority: its public half for the inventory, certificates for nodes and users."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from pathlib import Path

from emulator.apply.handlers.secrets import public_key
from emulator.core import ids
from emulator.core.errors import StateError
from emulator.core.fs import private_directory, write_private
from emulator.core.gateway.names import Door, endpoint, gateway_host, principal
from emulator.core.paths import Home, LabPaths
from emulator.core.ports import GuestAddress, ProcessRunner
from emulator.credentials.gateway_config import GatewayWay, gateway_config
from emulator.credentials.rotation_files import RotationFiles
from emulator.credentials.rotation_phases import Phase, RotatedSecret
from emulator.credentials.ssh_authority import OpenSshAuthority
from emulator.credentials.ssh_config import ssh_config
from emulator.credentials.ssh_trust import CertificateOrder, SshTrust
from emulator.credentials.users import AccessBook, parse_book
from emulator.labfile.model import ClusterSpec, NodeSpec
from emulator.plan.gateway import forwarded_targets

KEY_NAME = "id_ed25519"
GATEWAY_CERTIFICATE = "gateway-cert.pub"

_lock = threading.Lock()  # the clusters of a lab are configured in parallel


class SshCertificates:
    """The authority of the lab whose directory is `paths`."""

    def __init__(self, paths: LabPaths, runner: ProcessRunner) -> None:
        self._paths = paths
        self._runner = runner
        self._authority = OpenSshAuthority(paths.ssh_ca, runner)

    def read(self) -> SshTrust:
        """What the nodes trust; empty for a lab that was made before labs had an authority."""
        if not public_key(self._paths.ssh_ca).is_file() or not public_key(self._paths.ssh_key).is_file():
            return SshTrust()
        authorities, logins = self._trusted(self._paths.ssh_ca), self._trusted(self._paths.ssh_key)
        certificates = {
            file.name.removesuffix("-cert.pub"): file.read_text().strip()
            for file in self._paths.host_certificates.glob("*-cert.pub")
        }
        try:
            book = parse_book(self._paths.access.read_bytes())
        except FileNotFoundError:
            book = AccessBook()
        return SshTrust(authorities, certificates, book, logins)

    def _trusted(self, private: Path) -> tuple[str, ...]:
        """The public key of a pair, and that of its successor while nodes are to trust both."""
        rotation = RotationFiles(self._paths, RotatedSecret.SSH)
        pairs = [private, rotation.staged(private)] if rotation.phase() in (Phase.TRUST, Phase.SWITCH) else [private]
        return tuple(dict.fromkeys(_public_of(pair) for pair in pairs))

    def certify(self, spec: ClusterSpec, nodes: Sequence[NodeSpec]) -> None:
        """Certify the host keys in known_hosts that have no certificate of the current authority."""
        if not self._paths.ssh_ca.is_file() or not self._paths.known_hosts.is_file():
            return
        with _lock:
            self._forget_old_certificates()
            self._certify(spec, nodes)

    def _forget_old_certificates(self) -> None:
        """Remove certificates of another authority, then write the name of the current one."""
        signer = self._paths.host_certificates / "authority"
        present = f"{self._authority.public_key}\n"
        if signer.is_file() and signer.read_text() == present:
            return
        private_directory(self._paths.host_certificates)
        for certificate in self._paths.host_certificates.glob("*-cert.pub"):
            certificate.unlink()
        write_private(signer, present.encode())

    def _certify(self, spec: ClusterSpec, nodes: Sequence[NodeSpec]) -> None:
        known = dict(line.split(" ", 1) for line in self._paths.known_hosts.read_text().splitlines() if " " in line)
        for node in nodes:
            public = self._paths.host_certificates / f"{node.name}.pub"
            certificate = public.with_name(f"{node.name}-cert.pub")
            key = known.get(node.name)
            if key is None or (certificate.is_file() and public.read_text().strip() == key):
                continue
            # A certificate of an earlier key must not be taken for one of this key.
            certificate.unlink(missing_ok=True)
            write_private(public, f"{key}\n".encode())
            self._authority.sign_host(public, node=node.name, names=_names(spec, node))

    def user_key(self, spec: ClusterSpec, order: CertificateOrder, *, revoked: Collection[str]) -> str:
        """See `Guests.user_key`."""
        if not self._paths.ssh_ca.is_file():
            raise StateError(
                "the lab has no certificate authority yet",
                where=spec.name,
                fix="it was made by an older version: run `hyperscaler provision` with its file once",
            )
        private_directory(order.directory)
        private = order.directory / KEY_NAME
        public = public_key(private)
        if order.public_key:
            private.unlink(missing_ok=True)
            write_private(public, f"{order.public_key} {order.user}\n".encode())
            return order.public_key
        key = _public_of(private) if private.is_file() and public.is_file() else ""
        if not key or key in revoked:
            # Half a pair, or one that a revocation which was cut off has left.
            for leftover in (private, public, private.with_name(f"{KEY_NAME}-cert.pub")):
                leftover.unlink(missing_ok=True)
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{order.user} {spec.name}"]
            self._runner.run([*argv, "-f", str(private)], timeout=60)
        return _public_of(private)

    def issue(self, spec: ClusterSpec, order: CertificateOrder, *, guest_prefix: Sequence[str]) -> None:
        """See `Guests.issue`; `guest_prefix` is the argv prefix that enters the network of the guests."""
        directory = order.directory
        private = directory / KEY_NAME
        self._authority.sign_user(
            public_key(private),
            user=order.user,
            serial=order.serial,
            seconds=order.seconds,
            forwarding=order.forwarding,
        )
        known_hosts = directory / "known_hosts"
        write_private(known_hosts, f"@cert-authority * {self._authority.public_key}\n".encode())
        nodes = [node for node in spec.nodes if not order.nodes or node.name in order.nodes]
        if order.door is not None:
            self._issue_gateway(spec, order, order.door, nodes)
            return
        (directory / GATEWAY_CERTIFICATE).unlink(missing_ok=True)
        guests = [GuestAddress(node.name, node.ip, order.user) for node in nodes]
        # Where the user keeps the files: here only the owner can read them.
        home = Path(ids.handout_home(spec.name))
        config = ssh_config(
            guests, key=home / KEY_NAME, known_hosts=home / known_hosts.name, guest_prefix=tuple(guest_prefix)
        )
        write_private(directory / "config", config.encode())

    def _issue_gateway(self, spec: ClusterSpec, order: CertificateOrder, door: Door, nodes: Sequence[NodeSpec]) -> None:
        """The user's way in by the host's gateway: a certificate of its own, since the other one forwards nothing."""
        directory = order.directory
        self._authority.sign_gateway(
            public_key(directory / KEY_NAME),
            directory / GATEWAY_CERTIFICATE,
            identity=f"{order.user}@{spec.name}",
            principal=principal(spec.name, order.user, order.serial),
            serial=order.serial,
            seconds=order.seconds,
        )
        authority = f"@cert-authority * {self._authority.public_key}\n"
        known_hosts = f"{gateway_host(spec.name)} {door.host_key}\n{authority}"
        write_private(directory / "known_hosts", known_hosts.encode())
        identity = Home(self._paths.root.parent.parent).id
        way = GatewayWay(
            lab=spec.name,
            door=door,
            directory=ids.handout_home(spec.name),
            user=order.user,
            nodes=tuple((node.name, endpoint(identity, spec.name, order.user, node.name)) for node in nodes),
            forwards=tuple(
                (target.port, endpoint(identity, spec.name, order.user, target.node))
                for target in forwarded_targets(spec)
            ),
        )
        write_private(directory / "config", gateway_config(way).encode())


def _public_of(private: Path) -> str:
    return " ".join(public_key(private).read_text().split()[:2])


def _names(spec: ClusterSpec, node: NodeSpec) -> tuple[str, ...]:
    """What a user may call the node."""
    return (node.name, f"{node.name}.{ids.dns_domain(spec.name, node.role.cluster.value)}", str(node.ip))
