"""The script with which a node trusts the lab's TLS authority, in directories like those of Debian."""

from __future__ import annotations

import subprocess
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from emulator.adapters import x509
from emulator.apply.handlers.files import new_ec_key
from emulator.share import share_dir

SCRIPT = share_dir() / "playbooks" / "roles" / "lab_tls" / "files" / "trust.sh"
NODE = x509.Subject(("hpc-controller",), (IPv4Address("192.168.100.10"),))
SCOPE = x509.Scope(NODE.names, (IPv4Network("192.168.100.0/24"),))


class Store:
    """/etc/ssl/certs with an authority of somebody else, and /usr/local/share/ca-certificates."""

    def __init__(self, root: Path) -> None:
        self.certs, self.local = root / "certs", root / "local"
        for directory in (self.certs, self.local, root / "mozilla"):
            directory.mkdir()
        self.foreign = root / "mozilla" / "Foreign_Root.crt"
        self.foreign.write_bytes(authority()[1])
        (self.certs / "Foreign_Root.pem").symlink_to(self.foreign)
        (self.certs / "deadbeef.0").symlink_to("Foreign_Root.pem")
        (self.certs / "ca-certificates.crt").write_bytes(self.foreign.read_bytes())

    def run(self) -> None:
        argv = ["sh", "-euc", SCRIPT.read_text(), "trust", self.certs, self.local]
        subprocess.run(argv, check=True, timeout=60)

    def trusts(self, certificate: bytes) -> tuple[bool, bool]:
        """By the directory, and by the bundle."""
        leaf = self.certs.parent / "leaf.crt"
        leaf.write_bytes(certificate)
        where = (("-CApath", self.certs), ("-CAfile", self.certs / "ca-certificates.crt"))
        by_directory, by_bundle = (
            subprocess.run(["openssl", "verify", *words, leaf], capture_output=True, check=False).returncode == 0
            for words in where
        )
        return by_directory, by_bundle


def authority() -> tuple[bytes, bytes]:
    key = new_ec_key()
    return key, x509.authority_certificate(key, lab="demo", scope=SCOPE)


def signed(pair: tuple[bytes, bytes]) -> bytes:
    return x509.node_certificate(new_ec_key(), NODE, authority_pem=pair[1], authority_key_pem=pair[0])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_a_node_trusts_both_authorities_of_a_rotation_and_then_the_new_one(store: Store) -> None:
    old, new = authority(), authority()
    (store.local / "hyperscaler.crt").write_bytes(old[1])
    store.run()
    assert (store.trusts(signed(old)), store.trusts(signed(new))) == ((True, True), (False, False))
    (store.local / "hyperscaler-other.crt").write_bytes(new[1])
    store.run()
    assert (store.trusts(signed(old)), store.trusts(signed(new))) == ((True, True), (True, True))
    (store.local / "hyperscaler.crt").write_bytes(new[1])
    (store.local / "hyperscaler-other.crt").unlink()
    store.run()
    assert (store.trusts(signed(old)), store.trusts(signed(new))) == ((False, False), (True, True))


def test_authorities_of_others_stay(store: Store) -> None:
    (store.local / "hyperscaler.crt").write_bytes(authority()[1])
    for _ in range(2):
        store.run()
    assert store.foreign.read_bytes() in (store.certs / "ca-certificates.crt").read_bytes()
    assert (store.certs / "deadbeef.0").is_symlink()
    assert (store.certs / "ca-certificates.crt").stat().st_mode & 0o777 == 0o644
    assert len([path for path in store.certs.iterdir() if path.name.startswith(".")]) == 0
    assert len(list(store.certs.iterdir())) == 5


def test_a_run_that_died_is_finished_by_the_next(store: Store) -> None:
    pair = authority()
    (store.local / "hyperscaler.crt").write_bytes(pair[1])
    (store.certs / "hyperscaler.pem").symlink_to(store.local / "hyperscaler.crt")
    (store.certs / ".bundle").write_text("half")
    store.run()
    assert store.trusts(signed(pair)) == (True, True)
