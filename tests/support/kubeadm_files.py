"""Certificates and an admin.conf as kubeadm writes them."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

SERVER = "https://192.168.200.10:6443"


def encoded(text: str) -> str:
    """Base64 in one line, as in a kubeconfig."""
    return base64.b64encode(text.encode()).decode()


@cache
def authority() -> str:
    """The certificate of a cluster's authority, PEM."""
    return certificate_of("kubernetes", _key("kubernetes"))


@cache
def client_key() -> str:
    """The admin's private key, PEM, in the traditional form that Go writes."""
    return _key("admin").private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()


@cache
def client_certificate() -> str:
    return certificate_of("kubernetes-admin", _key("admin"))


@cache
def _key(name: str) -> ec.EllipticCurvePrivateKey:
    del name
    return ec.generate_private_key(ec.SECP256R1())


def certificate_of(name: str, key: ec.EllipticCurvePrivateKey) -> str:
    """A self-signed certificate, PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=365))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM).decode()


def admin_conf(
    *,
    server: str = SERVER,
    ca: str | None = None,
    certificate: str | None = None,
    key: str | None = None,
    cluster_extra: str = "",
    user_extra: str = "",
    end: str = "",
) -> str:
    """/etc/kubernetes/admin.conf; the extras are lines for the cluster, for the user and for the end of the file."""
    return f"""\
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: {encoded(ca if ca is not None else authority())}
    server: {server}
{cluster_extra}  name: kubernetes
contexts:
- context:
    cluster: kubernetes
    user: kubernetes-admin
  name: kubernetes-admin@kubernetes
current-context: kubernetes-admin@kubernetes
kind: Config
preferences: {{}}
users:
- name: kubernetes-admin
  user:
    client-certificate-data: {encoded(certificate if certificate is not None else client_certificate())}
    client-key-data: {encoded(key if key is not None else client_key())}
{user_extra}{end}"""
