"""A machine whose guests know keys and certificates: they let in who has one that they trust, and nobody else.

Guests are told by the product's own inventory and files; what they know lies in `nodes.json` of the machine, so that a
snapshot holds it. After each change of a node it is seen whether the nodes still trust each other's certificates.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from emulator.apply.handlers.secrets import public_key
from emulator.apply.journal import decode
from emulator.core.errors import ConfigureError
from emulator.core.progress import Reporter
from emulator.core.stop import StopFlag
from emulator.credentials.rotation_phases import RotatedSecret
from emulator.credentials.ssh_certificates import SshCertificates
from emulator.credentials.ssh_trust import CertificateOrder
from emulator.credentials.tls_certificates import OTHER_CA, TlsCertificates
from emulator.guests.ports import Access, ConfigureOutcome
from emulator.guests.verify.report import CheckResult
from emulator.labfile.model import ClusterKind, ClusterSpec
from tests.support.simulated_world import KeygenRunner, SimulatedGuests, SimulatedHost, Snapshot, journal_hooked

WRITERS = (
    "emulator.credentials.rotation_files",
    "emulator.apply.handlers.secrets",
    "emulator.operations.credentials.rotator",
    "emulator.credentials.tls_certificates",
    "emulator.credentials.ssh_certificates",
)
"""Modules whose files are places to be stopped at: before and after each is written."""


class PairRunner(KeygenRunner):
    """ssh-keygen whose pairs are all different, and whose certificates name their signer."""

    def keygen(self, words: tuple[str, ...]) -> None:
        if "-s" in words:
            signer, target = Path(words[words.index("-s") + 1]), Path(words[-1])
            with self._hook.around("ssh-keygen sign"):
                certificate = f"cert {identity_of(signer)} {target.read_text().split()[1]}\n"
                target.with_name(f"{target.stem}-cert.pub").write_text(certificate)
            return
        target, identity = Path(words[words.index("-f") + 1]), uuid.uuid4().hex
        with self._hook.around("ssh-keygen private"):
            target.touch(mode=0o600)
            target.write_text(f"PRIVATE {identity}\n")
        with self._hook.around("ssh-keygen public"):
            public_key(target).write_text(f"ssh-ed25519 {identity} lab\n")


def identity_of(private: Path) -> str:
    return private.read_text().split()[1]


def public_text(private: Path) -> str:
    return " ".join(public_key(private).read_text().split()[:2])


class KeyedGuests(SimulatedGuests):
    """Guests with what the roles lay on a node."""

    def __init__(self, host: KeyedHost) -> None:
        super().__init__(host)
        self._runner = host.keygen()

    def _trust(self, access: Access) -> SshCertificates:
        return SshCertificates(access.paths, cast(Any, self._runner))

    def user_key(self, spec: ClusterSpec, access: Access, order: CertificateOrder, *, revoked: Collection[str]) -> str:
        return self._trust(access).user_key(spec, order, revoked=revoked)

    def issue(self, spec: ClusterSpec, access: Access, order: CertificateOrder) -> None:
        self._trust(access).issue(spec, order, guest_prefix=access.prefix)

    def configure(
        self,
        spec: ClusterSpec,
        kind: ClusterKind,
        access: Access,
        reporter: Reporter,
        stop: StopFlag,
        tags: tuple[str, ...] = (),
    ) -> ConfigureOutcome:
        outcome = super().configure(spec, kind, access, reporter, stop, tags)
        self._trust(access).certify(spec, spec.nodes_of(kind))
        TlsCertificates(access.paths).certify(spec, spec.nodes_of(kind))
        for node in spec.nodes_of(kind):
            with self._hook.around("node told"):
                nodes = self.nodes()
                known = nodes.get(node.name) or {"logins": [public_text(access.paths.ssh_key)]}
                if not lets_in(known, access.paths.ssh_key):
                    raise ConfigureError("Permission denied (publickey)", where=node.name)
                nodes[node.name] = {**known, **self._told(access, node.name, tags)}
                self._file.write_text(json.dumps(nodes))
                require_mutual_trust(nodes)
        return outcome

    def _told(self, access: Access, node: str, tags: tuple[str, ...]) -> dict[str, object]:
        told: dict[str, object] = {}
        paths = access.paths
        if not tags or {"access", "ssh", "tls"} & set(tags):
            trust = self._trust(access).read()
            authorities = (paths.tls_ca.read_text() + (paths.tls / OTHER_CA).read_text()).split("-----BEGIN")[1:]
            told |= {
                "logins": list(trust.login_keys),
                "authorities": list(trust.authorities),
                "host_certificate": trust.host_certificates[node],
                "trusted": [f"-----BEGIN{text}" for text in authorities],
                "certificate": (paths.tls / "nodes" / f"{node}.crt").read_text(),
            }
        if not tags or "munge" in tags:
            told["munge"] = hashlib.sha256((paths.secrets / "munge.key").read_bytes()).hexdigest()
        return told

    def refusing(self, spec: ClusterSpec, access: Access, key: Path) -> tuple[str, ...]:
        with self._hook.around("guests.refusing"):
            return tuple(name for name, known in self.nodes().items() if not lets_in(known, key))

    def prove(
        self, spec: ClusterSpec, secret: RotatedSecret, access: Access, reporter: Reporter
    ) -> tuple[CheckResult, ...]:
        with self._hook.around("guests.prove"):
            same = len({known["munge"] for known in self.nodes().values()}) == 1
            refusing = self.refusing(spec, access, access.paths.ssh_key)
            return (CheckResult("munge", same, "", 0.0), CheckResult("login", not refusing, "", 0.0))

    @property
    def _file(self) -> Path:
        return self._host.machine / "nodes.json"

    def nodes(self) -> dict[str, dict[str, Any]]:
        return cast(Any, json.loads(self._file.read_text())) if self._file.exists() else {}


def lets_in(node: dict[str, Any], private: Path) -> bool:
    """sshd takes the pair: both halves belong together, and it trusts the public one."""
    public = public_text(private)
    return public == f"ssh-ed25519 {identity_of(private)}" and public in node["logins"]


def require_mutual_trust(nodes: dict[str, dict[str, Any]]) -> None:
    """Every node that has a certificate is trusted by every other."""
    for name, known in nodes.items():
        for other in nodes.values():
            if "certificate" in known and "trusted" in other:
                assert signed_by(known["certificate"], other["trusted"]), f"{name} is not trusted any more"


def signed_by(certificate: str, authorities: Sequence[str]) -> bool:
    leaf = x509.load_pem_x509_certificate(certificate.encode())
    for text in authorities:
        try:
            leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(text.encode()))
            return True
        except (InvalidSignature, ValueError):
            continue
    return False


class KeyedHost(SimulatedHost):
    def guests(self) -> KeyedGuests:
        return KeyedGuests(self)

    def keygen(self) -> PairRunner:
        return PairRunner(self.hook)

    def nodes(self) -> dict[str, dict[str, Any]]:
        return self.guests().nodes()


@contextmanager
def writes_hooked(host: SimulatedHost) -> Iterator[None]:
    """Let every private file that is written go through the host's hook, and every journal line."""
    from emulator.core.fs import write_private

    def hooked(path: Path, content: bytes) -> None:
        with host.hook.around(f"write {path.name}"):
            write_private(path, content)

    with ExitStack() as stack:
        for module in WRITERS:
            stack.enter_context(patch(f"{module}.write_private", hooked))
        stack.enter_context(journal_hooked(host.hook))
        yield


def stops_of(host: SimulatedHost, command: Callable[[], object]) -> dict[str, Snapshot]:
    """Run a command to its end; the distinct machines that a crash on its way leaves, by where that is."""
    found: dict[str, Snapshot] = {}
    seen: set[str] = set()

    def note(name: str) -> None:
        snapshot = host.save()
        key = repr(sorted(_facts(snapshot).items()))
        if key not in seen:
            seen.add(key)
            found[f"{len(found)}: {name}"] = snapshot

    host.hook.before, host.hook.after = (lambda name: note(f"before {name}")), (lambda name: note(f"after {name}"))
    try:
        with writes_hooked(host):
            command()
    finally:
        host.hook.before = host.hook.after = lambda _name: None
    return found


def _facts(snapshot: Snapshot) -> dict[str, object]:
    """What the next command goes by, without the time of day."""
    facts: dict[str, object] = {}
    for name, (mode, content) in snapshot.items():
        if name.endswith("journal.jsonl") and content is not None:
            entries = [decode(line)[0] or {} for line in content.splitlines()]
            facts[name] = [{key: entry.get(key) for key in ("type", "action", "id", "name")} for entry in entries]
        elif not name.endswith(("audit.jsonl", ".lock")):
            facts[name] = (mode, content)
    return facts
