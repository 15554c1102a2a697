"""Uses a lab's TLS authority: its certificate, and a key pair with a certificate for each node."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from emulator.apply.handlers.secrets import new_ec_key
from emulator.core import ids
from emulator.core.fs import private_directory, write_private
from emulator.core.paths import LabPaths
from emulator.credentials import x509
from emulator.credentials.rotation_files import OLD_CA, RotationFiles
from emulator.credentials.rotation_phases import Phase, RotatedSecret
from emulator.labfile.model import ClusterSpec, NodeSpec

OTHER_CA = "also-trusted.crt"
"""The authority that nodes trust in addition to the current one during a rotation; otherwise empty."""

_lock = threading.Lock()  # the clusters of a lab are configured side by side


class TlsCertificates:
    """The TLS authority of the lab whose directory is `paths`."""

    def __init__(self, paths: LabPaths) -> None:
        self._paths = paths

    def certify(self, spec: ClusterSpec, nodes: Sequence[NodeSpec]) -> None:
        """Make a certificate for each of these nodes, and the file of trusted authorities; leaves valid ones alone.

        A lab that was made before it had an authority gets none here: provision makes its key.
        """
        if not self._paths.tls_key.is_file():
            return
        with _lock:
            scope = _scope(spec)
            self._certify_authority(spec, self._paths.tls_key, self._paths.tls_ca, scope)
            self._write_other(spec, scope)
            for node in nodes:
                self._certify_node(spec, node)

    def _certify_authority(self, spec: ClusterSpec, key: Path, certificate: Path, scope: x509.Scope) -> None:
        """The authority's certificate lists everything that it may certify, so it changes with the lab's nodes. Its key
        does not, so that its signatures stay valid."""
        private = key.read_bytes()
        if not (certificate.is_file() and x509.authority_fits(certificate.read_bytes(), private, scope)):
            write_private(certificate, x509.authority_certificate(private, lab=spec.name, scope=scope))

    def _write_other(self, spec: ClusterSpec, scope: x509.Scope) -> None:
        files = RotationFiles(self._paths, RotatedSecret.TLS)
        other = b""
        match files.phase():
            case Phase.TRUST:
                key = files.staged(self._paths.tls_key)
                successor = files.directory / self._paths.tls_ca.name
                self._certify_authority(spec, key, successor, scope)
                other = successor.read_bytes()
            case Phase.RENEW if (files.directory / OLD_CA).is_file():
                other = (files.directory / OLD_CA).read_bytes()
            case _:
                pass
        kept = self._paths.tls / OTHER_CA
        if not (kept.is_file() and kept.read_bytes() == other):
            write_private(kept, other)

    def _certify_node(self, spec: ClusterSpec, node: NodeSpec) -> None:
        directory = self._paths.tls / "nodes"
        private_directory(directory)
        key, certificate = directory / f"{node.name}.key", directory / f"{node.name}.crt"
        subject, authority = _subject(spec, node), self._paths.tls_ca.read_bytes()
        if (
            key.is_file()
            and certificate.is_file()
            and x509.node_fits(certificate.read_bytes(), key.read_bytes(), subject, authority_pem=authority)
        ):
            return
        # A new certificate comes with a new key. The certificate last: it does not fit an older key.
        private = new_ec_key()
        write_private(key, private)
        signed = x509.node_certificate(
            private, subject, authority_pem=authority, authority_key_pem=self._paths.tls_key.read_bytes()
        )
        write_private(certificate, signed)


def certificate_of(paths: LabPaths, node: str) -> Path:
    return paths.tls / "nodes" / f"{node}.crt"


def _scope(spec: ClusterSpec) -> x509.Scope:
    """The lab's own domains, node names and networks, and nothing else."""
    domains = [ids.dns_domain(spec.name, kind.value) for kind in spec.clusters]
    names = sorted(node.name for node in spec.nodes)
    return x509.Scope((*domains, *names), tuple(spec.networks[kind].subnet for kind in spec.clusters))


def _subject(spec: ClusterSpec, node: NodeSpec) -> x509.Subject:
    domain = ids.dns_domain(spec.name, node.role.cluster.value)
    return x509.Subject((node.name, f"{node.name}.{domain}"), (node.ip,))
