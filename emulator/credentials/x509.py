"""X.509 by the package `cryptography`: a lab's TLS authority and the certificates of its nodes. Bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from emulator.core.errors import StateError

AUTHORITY_DAYS = 3650
NODE_DAYS = 398
"""The longest life of a server's certificate that today's clients accept, in days."""
RENEW_DAYS = 60
"""A certificate with less than this left is renewed."""
# A guest's clock may be behind the host's.
_BACKDATE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Scope:
    """What an authority may certify. `names` are DNS names, each including its subdomains."""

    names: tuple[str, ...]
    networks: tuple[IPv4Network, ...]


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a certificate is for; the first of `names` is its common name."""

    names: tuple[str, ...]
    addresses: tuple[IPv4Address, ...]


def authority_certificate(key_pem: bytes, *, lab: str, scope: Scope, now: datetime | None = None) -> bytes:
    """A self-signed certificate of the authority with this private key, limited to `scope` (RFC 5280, 4.2.1.10).

    The name that it gives itself holds a digest of the key, so that two authorities of a lab never look alike.
    """
    key, now = _private(key_pem), now or datetime.now(UTC)
    digest = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"hyperscaler {lab[:40]} {digest.digest.hex()[:8]}")])
    permitted = [*map(x509.DNSName, scope.names), *map(x509.IPAddress, scope.networks)]
    usage = _usage(key_cert_sign=True, crl_sign=True)
    certificate = (
        _builder(name, name, key.public_key(), now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.NameConstraints(permitted, None), critical=True)
        .add_extension(digest, critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)


def node_certificate(
    key_pem: bytes, subject: Subject, *, authority_pem: bytes, authority_key_pem: bytes, now: datetime | None = None
) -> bytes:
    """A certificate for the node with this private key, as server and as client."""
    key, now = _private(key_pem), now or datetime.now(UTC)
    authority, signer = x509.load_pem_x509_certificate(authority_pem), _private(authority_key_pem)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject.names[0][:64])])
    certificate = (
        _builder(name, authority.subject, key.public_key(), now, NODE_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(_alternatives(subject)), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)


def authority_fits(certificate_pem: bytes, key_pem: bytes, scope: Scope, now: datetime | None = None) -> bool:
    """Whether the authority's certificate is of this key, for this scope, and lasts."""
    certificate = _certificate(certificate_pem)
    if certificate is None or certificate.public_key() != _private(key_pem).public_key():
        return False
    seen = certificate.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees
    wanted = [*map(x509.DNSName, scope.names), *map(x509.IPAddress, scope.networks)]
    return list(seen or ()) == wanted and _lasts(certificate, now)


def node_fits(
    certificate_pem: bytes, key_pem: bytes, subject: Subject, *, authority_pem: bytes, now: datetime | None = None
) -> bool:
    """Whether a node's certificate is of this key, for this subject, by this authority, and lasts."""
    certificate, authority, key = _certificate(certificate_pem), _certificate(authority_pem), _key(key_pem)
    if certificate is None or authority is None or key is None or certificate.public_key() != key.public_key():
        return False
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    seen = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return list(seen) == list(_alternatives(subject)) and _lasts(certificate, now)


def fingerprint(certificate_pem: bytes) -> str:
    """SHA-256 of the certificate as lower-case hex."""
    return x509.load_pem_x509_certificate(certificate_pem).fingerprint(hashes.SHA256()).hex()


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternatives(subject: Subject) -> Sequence[x509.GeneralName]:
    return [*map(x509.DNSName, subject.names), *map(x509.IPAddress, subject.addresses)]


def _lasts(certificate: x509.Certificate, now: datetime | None) -> bool:
    return certificate.not_valid_after_utc - (now or datetime.now(UTC)) > timedelta(days=RENEW_DAYS)


def _certificate(pem: bytes) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        return None


def _private(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = _key(pem)
    if key is None:
        raise StateError("the private key of the lab's TLS authority is damaged", fix="hyperscaler rotate LAB tls")
    return key


def _key(pem: bytes) -> ec.EllipticCurvePrivateKey | None:
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None
