"""The TLS authority's certificates, judged by OpenSSL and by this program."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from emulator.apply.handlers.secrets import new_ec_key
from emulator.core.errors import StateError
from emulator.credentials import x509

SCOPE = x509.Scope(("hpc.demo.internal", "hpc-controller"), (IPv4Network("192.168.100.0/24"),))
NODE = x509.Subject(("hpc-controller", "hpc-controller.hpc.demo.internal"), (IPv4Address("192.168.100.10"),))
KEY, NODE_KEY = new_ec_key(), new_ec_key()
AUTHORITY = x509.authority_certificate(KEY, lab="demo", scope=SCOPE)


def issue(subject: x509.Subject = NODE, *, authority: bytes = AUTHORITY, key: bytes = KEY) -> bytes:
    return x509.node_certificate(NODE_KEY, subject, authority_pem=authority, authority_key_pem=key)


def openssl(tmp_path: Path, certificate: bytes, *options: str, authority: bytes = AUTHORITY) -> str:
    for name, content in (("ca.crt", authority), ("node.crt", certificate)):
        (tmp_path / name).write_bytes(content)
    argv = [
        "openssl",
        "verify",
        "-x509_strict",
        "-CAfile",
        str(tmp_path / "ca.crt"),
        *options,
        str(tmp_path / "node.crt"),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return "OK" if done.returncode == 0 else done.stderr + done.stdout


@pytest.mark.parametrize(
    "options",
    [
        ("-verify_hostname", "hpc-controller"),
        ("-verify_hostname", "hpc-controller.hpc.demo.internal"),
        ("-verify_ip", "192.168.100.10"),
        ("-purpose", "sslserver"),
        ("-purpose", "sslclient"),
    ],
)
def test_openssl_takes_a_node_s_certificate(tmp_path: Path, options: tuple[str, ...]) -> None:
    assert openssl(tmp_path, issue(), *options) == "OK"


@pytest.mark.parametrize(
    "subject",
    [
        x509.Subject(("www.example.org",), (IPv4Address("192.168.100.10"),)),
        x509.Subject(("hpc-controller", "cloud-1.cloud.demo.internal"), (IPv4Address("192.168.100.10"),)),
        x509.Subject(("hpc-controller",), (IPv4Address("10.0.0.1"),)),
    ],
)
def test_the_authority_vouches_for_nothing_outside_the_lab(tmp_path: Path, subject: x509.Subject) -> None:
    assert "permitted subtree violation" in openssl(tmp_path, issue(subject))


def test_a_node_is_no_authority(tmp_path: Path) -> None:
    forged = x509.node_certificate(new_ec_key(), NODE, authority_pem=issue(), authority_key_pem=NODE_KEY)
    (tmp_path / "chain.crt").write_bytes(issue())
    assert "OK" not in openssl(tmp_path, forged, "-untrusted", str(tmp_path / "chain.crt"))


def test_two_authorities_of_a_lab_have_different_names(tmp_path: Path) -> None:
    other = x509.authority_certificate(new_ec_key(), lab="demo", scope=SCOPE)
    names = []
    for pem in (AUTHORITY, other):
        (tmp_path / "ca.crt").write_bytes(pem)
        argv = ["openssl", "x509", "-noout", "-subject", "-in", str(tmp_path / "ca.crt")]
        names.append(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    assert names[0] != names[1]
    assert all("hyperscaler demo " in name for name in names)


def test_what_an_authority_has_signed_stays_good_when_its_scope_grows(tmp_path: Path) -> None:
    wider = x509.authority_certificate(
        KEY, lab="demo", scope=x509.Scope((*SCOPE.names, "hpc-compute-9"), SCOPE.networks)
    )
    assert openssl(tmp_path, issue(), authority=wider) == "OK"
    assert x509.node_fits(issue(), NODE_KEY, NODE, authority_pem=wider)


def test_what_fits_is_kept() -> None:
    now = datetime.now(UTC)
    assert x509.authority_fits(AUTHORITY, KEY, SCOPE)
    assert not x509.authority_fits(AUTHORITY, NODE_KEY, SCOPE)
    assert not x509.authority_fits(AUTHORITY, KEY, x509.Scope(("hpc.demo.internal",), SCOPE.networks))
    assert not x509.authority_fits(AUTHORITY, KEY, SCOPE, now + timedelta(days=x509.AUTHORITY_DAYS - x509.RENEW_DAYS))
    assert x509.node_fits(issue(), NODE_KEY, NODE, authority_pem=AUTHORITY)
    assert not x509.node_fits(issue(), KEY, NODE, authority_pem=AUTHORITY)
    assert not x509.node_fits(issue(), b"damaged", NODE, authority_pem=AUTHORITY)
    assert not x509.node_fits(b"damaged", NODE_KEY, NODE, authority_pem=AUTHORITY)
    assert not x509.node_fits(issue(), NODE_KEY, x509.Subject(NODE.names[:1], NODE.addresses), authority_pem=AUTHORITY)
    later = now + timedelta(days=x509.NODE_DAYS - x509.RENEW_DAYS)
    assert not x509.node_fits(issue(), NODE_KEY, NODE, authority_pem=AUTHORITY, now=later)
    other = x509.authority_certificate(new_ec_key(), lab="demo", scope=SCOPE)
    assert not x509.node_fits(issue(), NODE_KEY, NODE, authority_pem=other)


def test_a_damaged_key_is_told_and_not_shown() -> None:
    with pytest.raises(StateError, match="TLS authority is damaged") as caught:
        x509.authority_certificate(b"-----BEGIN PRIVATE KEY-----\nsecret\n", lab="demo", scope=SCOPE)
    assert "secret" not in str(caught.value)
