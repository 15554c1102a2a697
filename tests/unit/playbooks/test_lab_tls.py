"""How a node trusts the lab's TLS authority, in directories like those of Debian; what serves with its certificate."""

from __future__ import annotations

import shlex
import subprocess
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from emulator.apply.handlers.secrets import new_ec_key
from emulator.core.data_files import share_dir
from emulator.credentials import x509
from tests.support.baseline_templates import inventory_of
from tests.support.waiting import PATIENCE

ROLES = share_dir() / "playbooks" / "roles"
SCRIPT = ROLES / "lab_tls" / "files" / "trust.sh"
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
        argv = ["sh", "-euc", SCRIPT.read_text(), "trust", str(self.certs), str(self.local)]
        subprocess.run(argv, check=True, timeout=PATIENCE)

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


# ---------------------------------------------------------------- what serves with the certificate
LAB = """
version: "1.0"
metadata: {name: x}
clusters:
  hpc: {compute_nodes: {count: 1}}
  cloud: {worker_nodes: {cpu_workers: {count: 1}}}
"""
ROLE_VARS = yaml.safe_load((ROLES / "lab_tls" / "vars" / "main.yml").read_text())


def serving(host: str, secrets: Path) -> dict[str, list[dict[str, Any]]]:
    """`tls_serving` on a node, as Ansible renders it."""
    hostvars, groups = inventory_of(LAB)
    values = {**ROLE_VARS, **hostvars[host], "groups": groups, "secrets_dir": str(secrets)}
    values = {key: trust_as_template(value) if isinstance(value, str) else value for key, value in values.items()}
    found = Templar(loader=DataLoader(), variables=values).template(values["tls_serving"])
    assert isinstance(found, dict)
    return found


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls" / "ca.crt").touch()
    return tmp_path


@pytest.mark.parametrize("host", ["cloud-control-plane", "cloud-cpu-worker-1"])
def test_kubelet_serves_with_the_files_that_are_laid(secrets: Path, host: str) -> None:
    given = serving(host, secrets)
    laid = {entry["path"] for entry in ROLE_VARS["tls_files"]}
    (file,), (unit,) = given["files"], given["units"]
    name, _, value = file["content"].removesuffix("\n").partition("=")
    options = dict(word.split("=") for word in shlex.split(value))
    assert set(options) == {"--tls-cert-file", "--tls-private-key-file"}
    assert set(options.values()) <= laid
    # systemd takes one line for one variable, and the unit hands it on word by word.
    assert "\n" not in value
    service = (share_dir() / "config/images/files/cloud/etc/systemd/system/kubelet.service").read_text()
    assert f"EnvironmentFile=-{file['path']}\n" in service
    assert f" ${name}\n" in service
    # Renewed, or said for the first time on a node of an earlier version: it starts anew. Nobody starts it but kubeadm.
    assert (unit["name"], unit["state"]) == ("kubelet", "kept")
    assert set(unit["reads"]) == {file["path"], *options.values()}
    assert "enabled" not in unit


def test_kubelet_runs_as_root_who_alone_reads_the_key() -> None:
    service = (share_dir() / "config/images/files/cloud/etc/systemd/system/kubelet.service").read_text()
    assert "User=" not in service
    (key,) = [entry for entry in ROLE_VARS["tls_files"] if entry["path"].endswith("node.key")]
    assert (key["mode"], key.get("owner")) == ("0600", None)


def test_nodes_of_slurm_and_labs_without_an_authority_have_nothing_that_serves(secrets: Path, tmp_path: Path) -> None:
    assert serving("hpc-controller", secrets) == {"files": [], "units": []}
    assert serving("cloud-control-plane", tmp_path / "none") == {"files": [], "units": []}


def test_a_rotation_lays_and_restarts_what_serves() -> None:
    """By the role that carries the tag `tls` in both playbooks."""
    (task,) = yaml.safe_load((ROLES / "lab_access" / "tasks" / "main.yml").read_text())
    assert "tls_serving['files']" in task["node_state"]["files"]
    assert "tls_serving['units']" in task["node_state"]["units"]
    for playbook in ("playbook-k8s.yml", "playbook-hpc.yml"):
        plays = yaml.safe_load((ROLES.parent / playbook).read_text())
        tags = [
            role.get("tags", []) for play in plays for role in play.get("roles", []) if role["role"] == "lab_access"
        ]
        assert len(tags) == 1
        assert "tls" in tags[0]
