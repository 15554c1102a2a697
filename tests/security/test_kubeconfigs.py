"""A guest's kubeconfig is hostile: what runs programs, leads elsewhere or hides something never reaches the host."""

from __future__ import annotations

import base64
import json
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from emulator.core.data_files import share_dir
from emulator.core.errors import VerifyError
from emulator.core.paths import LabPaths
from emulator.core.ports import Completed, GuestAddress
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.credentials import kubeconfig
from emulator.guests import over_ssh
from emulator.guests.configure.model import ConfigureResult
from emulator.guests.ports import Access
from emulator.guests.verify.kubeconfigs import admin_kubeconfig, student_kubeconfig, user_kubeconfig
from emulator.labfile.load import load_spec
from emulator.labfile.model import ClusterKind
from tests.support.kubeadm_files import (
    SERVER,
    admin_conf,
    authority,
    certificate_of,
    client_certificate,
    client_key,
    encoded,
)

HEAD = GuestAddress("cloud-control-plane", IPv4Address("192.168.200.10"), "root")
EXEC = """\
    exec:
      apiVersion: client.authentication.k8s.io/v1
      command: /bin/sh
      args: [-c, "id > /root/owned"]
      interactiveMode: Never
"""
PLANTED = {
    "exec plugin": {"user_extra": EXEC},
    "auth provider": {"user_extra": "    auth-provider: {name: gcp, config: {cmd-path: /bin/sh, cmd-args: -c id}}\n"},
    "token file": {"user_extra": "    tokenFile: /root/.ssh/id_ed25519\n"},
    "impersonation": {"user_extra": "    as: system:admin\n"},
    "proxy": {"cluster_extra": "    proxy-url: http://203.0.113.9:3128\n"},
    "no verification": {"cluster_extra": "    insecure-skip-tls-verify: true\n"},
    "other name": {"cluster_extra": "    tls-server-name: evil.example\n"},
    "authority file": {"cluster_extra": "    certificate-authority: /etc/shadow\n"},
    "foreign server": {"server": "https://203.0.113.9:443"},
    "more contexts": {"end": "- name: other\n  user:\n" + EXEC + "extensions:\n- name: x\n  extension: {a: b}\n"},
}


class Head:
    """A control plane whose answers are ours to choose: by a word in the command, else the last one."""

    def __init__(self, answer: str, **by_word: str) -> None:
        self._answer = answer
        self._by_word = by_word

    def ready(self, guest: GuestAddress, *, timeout: float) -> bool:
        return True

    def run(
        self, guest: GuestAddress, command: str, *, timeout: float, check: bool = True, stdin: str | None = None
    ) -> Completed:
        said = next((text for word, text in self._by_word.items() if word in command), self._answer)
        return Completed((command,), 0, said, "")


def rebuilt(text: str) -> dict[str, Any]:
    loaded = json.loads(admin_kubeconfig(Head(text), HEAD, cluster="demo"))
    assert isinstance(loaded, dict)
    return loaded


def decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def test_the_file_holds_the_parts_of_the_control_planes_and_nothing_else() -> None:
    found = rebuilt(admin_conf())
    user = found["users"][0]["user"]
    assert found == {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "demo",
                "cluster": {"server": SERVER, "certificate-authority-data": encoded(authority())},
            }
        ],
        "users": [{"name": "kubernetes-admin", "user": user}],
        "contexts": [{"name": "demo", "context": {"cluster": "demo", "user": "kubernetes-admin"}}],
        "current-context": "demo",
    }
    assert set(user) == {"client-certificate-data", "client-key-data"}
    assert decoded(user["client-certificate-data"]).decode() == client_certificate()
    mine, theirs = decoded(user["client-key-data"]), client_key().encode()
    assert load_private(mine) == load_private(theirs)


def load_private(pem: bytes) -> int:
    key = load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key.private_numbers().private_value


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_what_was_planted_is_not_passed_on(planted: dict[str, str]) -> None:
    hostile = admin_conf(**planted)
    assert yaml.safe_load(hostile), "the attack is a file that kubectl would take"
    clean = rebuilt(admin_conf())
    assert rebuilt(hostile) == clean


def test_text_around_the_certificates_is_dropped() -> None:
    text = "proxy-url: http://203.0.113.9\n" + authority() + "\nexec: {command: id}\n"
    found = rebuilt(admin_conf(ca=text))
    assert decoded(found["clusters"][0]["cluster"]["certificate-authority-data"]).decode() == authority()


def encrypted_key() -> str:
    key = load_pem_private_key(client_key().encode(), None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pass")).decode()


REFUSED = {
    "nothing": ("", "there 0 times"),
    "no kubeconfig": ("root:x:0:0::/root:/bin/bash\n", "there 0 times"),
    "two authorities": (admin_conf(end="    certificate-authority-data: Q0E=\n"), "there 2 times"),
    "two keys": (admin_conf(user_extra="    client-key-data: Q0E=\n"), "there 2 times"),
    "no certificate": (admin_conf(ca="/etc/shadow"), "a certificate in it is not one"),
    "empty": (admin_conf(ca=""), "there 0 times"),
    "a key that is none": (admin_conf(key="#!/bin/sh\nid\n"), "client key is not one"),
    "an encrypted key": (admin_conf(key=encrypted_key()), "client key is not one"),
    "another's key": (
        admin_conf(certificate=certificate_of("kubernetes-admin", ec.generate_private_key(ec.SECP256R1()))),
        "does not belong",
    ),
    "a thousand certificates": (admin_conf(ca=authority() * 60), "60 certificates in one place"),
    "a long part": (admin_conf(ca=authority() + "#" * 100_000), "too long"),
    "a long file": (admin_conf(end="#" * 300_000), "it is too long"),
    "base64 of no kind": (admin_conf().replace("client-key-data: ", "client-key-data: =A"), "not base64"),
}


@pytest.mark.parametrize(("text", "why"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_kubeconfig_of_kubeadm_s_is_refused(text: str, why: str) -> None:
    with pytest.raises(VerifyError, match=why) as caught:
        rebuilt(text)
    assert caught.value.where == "cloud-control-plane:/etc/kubernetes/admin.conf"
    assert "PRIVATE KEY" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_key_whose_check_would_take_minutes_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    monkeypatch.setattr(kubeconfig, "load_pem_private_key", lambda data, _password: read.append(data))
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
    with pytest.raises(VerifyError, match="too long"):
        rebuilt(admin_conf(key=pem * 4))
    assert read == []


# ---------------------------------------------------------------- tokens
BAD_TOKENS = ["", "a b", "a\nb", "tok\x1b[2J", "x" * 20_000, '"}, "exec": {"command": "id"}', "é"]


@pytest.mark.parametrize("token", BAD_TOKENS)
def test_a_student_s_token_that_is_none_is_refused(token: str) -> None:
    head = Head(json.dumps({"status": {"token": token}}), base64=encoded(authority()))
    with pytest.raises(VerifyError, match="token is not one") as caught:
        student_kubeconfig(head, HEAD, cluster="demo")
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize("token", [*BAD_TOKENS, 7, ["a"], {"exec": "id"}])
def test_a_user_s_token_that_is_none_is_refused(token: object) -> None:
    head = Head(json.dumps({"status": {"token": token}}), base64=encoded(authority()))
    with pytest.raises(VerifyError, match="token is not one"):
        user_kubeconfig(head, HEAD, cluster="demo", user="ada", namespace="student-ada", seconds=600)


@pytest.mark.parametrize("ca", ["", "Q0E=", "no base64!", encoded("/etc/shadow")])
def test_an_authority_that_is_none_is_refused(ca: str) -> None:
    head = Head(json.dumps({"status": {"token": "abc"}}), base64=ca)
    with pytest.raises(VerifyError, match="refused"):
        student_kubeconfig(head, HEAD, cluster="demo")
    with pytest.raises(VerifyError, match="refused"):
        user_kubeconfig(head, HEAD, cluster="demo", user="ada", namespace="student-ada", seconds=600)


# ---------------------------------------------------------------- the whole way
def test_configure_keeps_a_rebuilt_file_with_the_lab_s_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, _ = load_spec(share_dir() / "config" / "demo.yaml")
    assert spec is not None
    paths = LabPaths(tmp_path / "labs" / "demo")

    class Trust:
        def __init__(self, *_: object) -> None: ...
        def certify(self, *_: object) -> None: ...

    monkeypatch.setattr(over_ssh, "SshCertificates", Trust)
    monkeypatch.setattr(over_ssh, "TlsCertificates", Trust)
    monkeypatch.setattr(over_ssh, "configure_cluster", lambda *_a, **_k: ConfigureResult(ok=True))
    guests = over_ssh.RealGuests(cast(Any, None))
    monkeypatch.setattr(guests, "_inventory", lambda *_: None)
    monkeypatch.setattr(guests, "_shell", lambda _access: Head(admin_conf(user_extra=EXEC)))
    access = Access(paths, "root", ())
    guests.configure(spec, ClusterKind.CLOUD, access, SilentReporter(), StopFlag())
    kept = paths.secrets / "kubeconfig"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert "exec" not in kept.read_text()
    assert json.loads(kept.read_text())["clusters"][0]["cluster"]["server"] == "https://192.168.200.10:6443"


def test_no_playbook_copies_a_node_s_file_to_the_host() -> None:
    """What a task does on `localhost` it does as the host's root, with values that may come from a guest."""
    for path in (share_dir() / "playbooks").rglob("*.yml"):
        text = path.read_text()
        assert "localhost" not in text and "local_action" not in text and "fetch:" not in text, path
        assert "connection: local" not in text, path
