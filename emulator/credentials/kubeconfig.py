"""Builds kubeconfig files from parts that were checked one by one. Pure.

kubectl executes what a kubeconfig says: an `exec` plugin runs as the user of the file, and `proxy-url`,
`insecure-skip-tls-verify` or a foreign server send credentials elsewhere. So a node's file is never passed on. Its
certificates and its key are parsed and written anew; all the rest comes from the lab file.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from emulator.core.errors import VerifyError

FILE_LIMIT = 256 * 1024
"""Characters of a kubeconfig or of an answer with a token. kubeadm's files have below 8 KiB."""
# Characters of one part in base64. With RSA of 4096 bits a certificate has about 3 KiB and a key 4.4 KiB. Reading a far
# longer key takes minutes, because its factors are tested for being primes.
_PEM_LIMIT = 64 * 1024
_KEY_LIMIT = 5 * 1024
_CERTIFICATES = 8  # in one part: an authority and, while it is exchanged, its predecessor; a chain
_RSA_BITS = 4096
# A JSON web token, or the random text that a cluster of an earlier version may still have: RFC 6750's b64token.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,16384}")
_FIELD = r"^[ \t-]*{}:[ \t]*([A-Za-z0-9+/=]+)[ \t]*$"


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """An admin's credentials: certificate and private key, both PEM."""

    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class ClusterAccess:
    """Where a cluster is: its name in the file, `https://ADDRESS:PORT`, and its authority as PEM. `tls_name`: what its
    certificate is to name, if not the address."""

    name: str
    server: str
    authority: str
    tls_name: str = ""


def token_kubeconfig(cluster: ClusterAccess, *, user: str, token: str, namespace: str) -> str:
    """A kubeconfig with a bearer token, as JSON, which is YAML too."""
    return _document(cluster, user, {"token": token}, {"namespace": namespace})


def certificate_kubeconfig(cluster: ClusterAccess, *, user: str, client: ClientCertificate) -> str:
    """A kubeconfig with a client certificate, as JSON, which is YAML too."""
    credentials = {
        "client-certificate-data": _base64(client.certificate),
        "client-key-data": _base64(client.key),
    }
    return _document(cluster, user, credentials, {})


def _document(cluster: ClusterAccess, user: str, credentials: Mapping[str, str], context: Mapping[str, str]) -> str:
    reached = {"server": cluster.server, "certificate-authority-data": _base64(cluster.authority)}
    if cluster.tls_name:
        reached["tls-server-name"] = cluster.tls_name
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster.name, "cluster": reached}],
        "users": [{"name": user, "user": dict(credentials)}],
        "contexts": [{"name": cluster.name, "context": {"cluster": cluster.name, "user": user, **context}}],
        "current-context": cluster.name,
    }
    return json.dumps(document, indent=2) + "\n"


def admin_parts(text: str, *, where: str) -> tuple[str, ClientCertificate]:
    """Authority and client certificate of a kubeconfig that kubeadm wrote on a node.

    Lines of the three fields are looked for, and no YAML is parsed: whatever else the file says has no effect.

    Raises:
        VerifyError: a part is missing, there twice, too long, or no PEM of its kind; or key and certificate differ.
    """
    if len(text) > FILE_LIMIT:
        raise _refused("it is too long", where)
    authority = authority_pem(_field(text, "certificate-authority-data", where), where=where)
    certificate = _certificates(_field(text, "client-certificate-data", where), where)
    key = _key(_field(text, "client-key-data", where), where)
    if _spki(certificate[0], where) != key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
        raise _refused("its client key does not belong to its client certificate", where)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return authority, ClientCertificate(_pem(certificate), private)


def authority_pem(encoded: str, *, where: str) -> str:
    """The certificates in this base64 of PEM, written anew: text around and between them is dropped.

    Raises:
        VerifyError: it is too long, no base64, or holds no certificate or too many.
    """
    return _pem(_certificates(encoded, where))


def checked_token(token: object, *, where: str) -> str:
    """The token, if it can be one.

    Raises:
        VerifyError: it is no text, too long, or has characters that no token has. What it held is not repeated.
    """
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise _refused("its token is not one", where)
    return token


def _field(text: str, name: str, where: str) -> str:
    found = re.findall(_FIELD.format(re.escape(name)), text, re.MULTILINE)
    if len(found) != 1:
        raise _refused(f"{name} is there {len(found)} times, not once", where)
    return str(found[0])


def _decoded(encoded: str, where: str, *, limit: int = _PEM_LIMIT) -> bytes:
    if len(encoded) > limit:
        raise _refused("a part of it is too long", where)
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise _refused("a part of it is not base64", where) from None


def _certificates(encoded: str, where: str) -> list[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(_decoded(encoded, where))
    except (ValueError, x509.InvalidVersion):  # the second is no ValueError
        raise _refused("a certificate in it is not one", where) from None
    if len(found) > _CERTIFICATES:
        raise _refused(f"it has {len(found)} certificates in one place", where)
    return found


def _key(encoded: str, where: str) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    try:
        key = load_pem_private_key(_decoded(encoded, where, limit=_KEY_LIMIT), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it is encrypted
        raise _refused("its client key is not one", where) from None
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size <= _RSA_BITS:
        return key
    raise _refused("its client key is of a kind that kubeadm does not make", where)


def _spki(certificate: x509.Certificate, where: str) -> bytes:
    try:
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        raise _refused("its client certificate has a key of a kind that kubeadm does not make", where) from None


def _pem(certificates: list[x509.Certificate]) -> str:
    return "".join(each.public_bytes(Encoding.PEM).decode() for each in certificates)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _refused(why: str, where: str) -> VerifyError:
    return VerifyError(
        f"the kubeconfig of the control plane is refused: {why}",
        where=where,
        fix="it may have been tampered with: look at it on the node, or destroy the lab and provision it again",
    )
