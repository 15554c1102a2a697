"""Tokens and kubeconfigs on the node where people log in: who gets one, when it is renewed, what is left alone."""

from __future__ import annotations

import base64
import json
import pwd
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from tests.support.playbook_modules import PLAYBOOKS, load

kubeconfigs = load("roles/k8s_users/files/kubeconfigs.py", "kubeconfigs")

NOW = 1_800_000_000
EIGHT_HOURS = 8 * 3600
SETTINGS = {
    "server": "https://10.20.0.10:6443",
    "cluster": "demo",
    "accounts": "hyperscaler-users",
    "users": [{"name": "ada", "namespace": "student-ada"}],
}


def token(end: int, number: int = 0) -> str:
    """A JSON web token as the API server makes it, without a signature that counts."""
    body = base64.urlsafe_b64encode(json.dumps({"exp": end, "n": number}).encode()).decode().rstrip("=")
    return f"e30.{body}.c2ln"


class Node:
    """A control plane: accounts, what the API server answers, and files below a temporary directory."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.now = NOW
        self.asked: list[str] = []
        self.gone: set[str] = set()
        self.answer: str | None = None
        self.trouble = ""
        self.accounts = {"ada": 3000, "eve": 3001, "student": 2000}
        self.written: list[str] = []
        for name in self.accounts:
            (root / "home" / name).mkdir(parents=True)
        (root / "ca.crt").write_text("-----BEGIN CERTIFICATE-----\n")
        for name, path in (("TOKENS", "tokens"), ("AUTHORITY", "ca.crt"), ("SETTINGS", "settings.json")):
            monkeypatch.setattr(kubeconfigs, name, str(root / path))
        monkeypatch.setattr(kubeconfigs.subprocess, "run", self.run)
        monkeypatch.setattr(kubeconfigs.pwd, "getpwnam", self.getpwnam)
        monkeypatch.setattr(kubeconfigs.os, "fchown", lambda handle, uid, gid: None)
        monkeypatch.setattr(kubeconfigs, "as_user", self.as_user)
        monkeypatch.setattr(kubeconfigs.time, "time", lambda: self.now)
        self.give("ada")

    def give(self, *names: str) -> None:
        users = [{"name": name, "namespace": f"student-{name}"} for name in names]
        (self.root / "settings.json").write_text(json.dumps({**SETTINGS, "users": users}))

    def getpwnam(self, name: str) -> pwd.struct_passwd:
        uid = self.accounts[name]
        return pwd.struct_passwd((name, "x", uid, uid, "", str(self.root / "home" / name), "/bin/bash"))

    def as_user(self, account: pwd.struct_passwd, action: Any) -> bool:
        self.written.append(account.pw_name)
        action()
        return True

    def run(self, argv: list[str], *, input: str, **rest: Any) -> subprocess.CompletedProcess[str]:
        assert argv[:5] == ["kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "create", "--raw"]
        name = argv[5].split("/")[-2]
        assert argv[5] == f"/api/v1/namespaces/hyperscaler-users/serviceaccounts/{name}/token"
        self.asked.append(name)
        if self.trouble or name in self.gone:
            error = self.trouble or f'Error from server (NotFound): serviceaccounts "{name}" not found'
            return subprocess.CompletedProcess(argv, 1, "", error)
        seconds = json.loads(input)["spec"]["expirationSeconds"]
        made = {"status": {"token": token(self.now + seconds, len(self.asked))}}
        return subprocess.CompletedProcess(argv, 0, self.answer or json.dumps(made), "")

    def config(self, name: str) -> Path:
        return self.root / "home" / name / ".kube" / "config"

    def token(self, name: str) -> Path:
        return self.root / "tokens" / name


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)


def test_a_user_who_logs_in_has_a_kubeconfig_without_a_secret_and_a_token_with_an_end(node: Node) -> None:
    assert kubeconfigs.main() == 0
    text = node.config("ada").read_text()
    made = yaml.safe_load(text)
    assert made["contexts"][0]["context"] == {"cluster": "demo", "user": "ada", "namespace": "student-ada"}
    assert made["clusters"][0]["cluster"]["server"] == "https://10.20.0.10:6443"
    assert made["users"] == [{"name": "ada", "user": {"tokenFile": str(node.token("ada"))}}]
    held = node.token("ada").read_text().strip()
    assert kubeconfigs.expiry(held) == NOW + EIGHT_HOURS
    assert held not in text
    assert node.token("ada").stat().st_mode & 0o777 == 0o400
    assert node.config("ada").stat().st_mode & 0o077 == 0


def test_a_token_is_renewed_when_half_of_its_time_is_over_and_not_before(node: Node) -> None:
    kubeconfigs.main()
    first = node.token("ada").read_text()
    for later, renewed in ((600, False), (EIGHT_HOURS // 2 + 60, True)):
        node.now = NOW + later
        node.asked.clear()
        assert kubeconfigs.main() == 0
        assert (node.asked == ["ada"]) is renewed
        assert (node.token("ada").read_text() != first) is renewed


@pytest.mark.parametrize("there", ["", "not a token", "a.b.c", token(NOW - 5), token(NOW + 10 * EIGHT_HOURS), "\xff"])
def test_what_is_no_token_for_a_while_is_replaced(node: Node, there: str) -> None:
    """One that ends far too late was made before the clock was set back."""
    node.token("ada").parent.mkdir()
    node.token("ada").write_text(there)
    assert kubeconfigs.main() == 0
    assert kubeconfigs.expiry(node.token("ada").read_text().strip()) == NOW + EIGHT_HOURS


def test_an_end_takes_the_token_and_keeps_nobody_else_waiting(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    node.give("ada", "eve")
    kubeconfigs.main()
    node.now += EIGHT_HOURS
    node.gone = {"ada"}
    assert kubeconfigs.main() == 0
    assert not node.token("ada").exists()
    assert node.token("eve").exists()
    assert "ada has no account in the cluster any more" in capsys.readouterr().out


def test_tokens_of_people_who_left_the_list_go(node: Node) -> None:
    node.give("ada", "eve")
    kubeconfigs.main()
    node.give("eve")
    kubeconfigs.main()
    assert not node.token("ada").exists()
    assert node.token("eve").exists()
    node.give()
    kubeconfigs.main()
    assert not node.token("eve").exists()


def test_only_people_of_the_lab_get_one(node: Node) -> None:
    node.give("student", "nobody-here")
    node.accounts["nobody-here"] = 65534
    kubeconfigs.main()
    assert node.asked == []
    assert node.written == []


@pytest.mark.parametrize(
    ("answer", "trouble"), [("{}", ""), ("[" * 100000, ""), ('{"status": {"token": "x"}}', ""), (None, "refused")]
)
def test_an_api_server_without_a_token_is_an_error_that_shows_no_secret(
    node: Node, answer: str | None, trouble: str, capsys: pytest.CaptureFixture[str]
) -> None:
    node.answer, node.trouble = answer, trouble
    assert kubeconfigs.main() == 1
    assert "no token for ada" in capsys.readouterr().err
    assert not node.token("ada").exists()


def test_a_kubeconfig_of_the_users_own_stays(node: Node) -> None:
    node.config("ada").parent.mkdir()
    node.config("ada").write_text("apiVersion: v1\nkind: Config\n")
    kubeconfigs.main()
    assert node.config("ada").read_text() == "apiVersion: v1\nkind: Config\n"
    assert node.token("ada").exists(), "their own may name the token, too"


def test_one_of_ours_follows_the_cluster(node: Node) -> None:
    kubeconfigs.main()
    (node.root / "ca.crt").write_text("another")
    kubeconfigs.main()
    made = yaml.safe_load(node.config("ada").read_text())
    assert base64.b64decode(made["clusters"][0]["cluster"]["certificate-authority-data"]) == b"another"


def test_a_home_that_cannot_be_written_is_its_users_alone(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubeconfigs, "as_user", lambda account, action: account.pw_name != "ada")
    node.give("ada", "eve")
    assert kubeconfigs.main() == 0
    assert node.token("eve").exists()


def settings(**values: Any) -> dict[str, Any]:
    """The rendered template, with the one filter of Ansible's that it uses."""
    environment = jinja2.Environment()  # noqa: S701  JSON, not HTML
    environment.filters["to_nice_json"] = lambda value, **_: json.dumps(value)
    text = (PLAYBOOKS / "roles/k8s_users/templates/kubeconfigs.json.j2").read_text()
    made: dict[str, Any] = json.loads(environment.from_string(text).render(values))
    return made


def test_the_node_serves_who_logs_in_there() -> None:
    people = [
        {"name": "ada", "role": "student", "namespace": "student-ada"},
        {"name": "bob", "role": "admin", "namespace": "student-bob"},
        {"name": "eve", "role": "student", "namespace": "student-eve"},
    ]
    made = settings(
        kubernetes_users=people,
        node_logins=["ada", "bob"],
        node_ip="10.20.0.10",
        kubernetes_cluster_name="demo",
        kubernetes_users_namespace="hyperscaler-users",
    )
    assert made == {
        **SETTINGS,
        "users": [{"name": "ada", "namespace": "student-ada"}, {"name": "bob", "namespace": "default"}],
    }


def test_the_units_say_where_the_program_is() -> None:
    files = PLAYBOOKS / "roles/k8s_users/files"
    tasks = yaml.safe_load((PLAYBOOKS / "roles/k8s_users/vars/main.yml").read_text())
    paths = {entry["path"]: entry for entry in tasks["kubernetes_kubeconfig_files"]}
    service = (files / "hyperscaler-kubeconfigs.service").read_text()
    program = next(line for line in service.splitlines() if line.startswith("ExecStart=")).split()[-1]
    assert program in paths
    assert paths[kubeconfigs.SETTINGS]["mode"] == "0600"
    assert f"RuntimeDirectory={kubeconfigs.TOKENS.removeprefix('/run/')}\n" in service
    for name in ("service", "timer"):
        assert f"/etc/systemd/system/hyperscaler-kubeconfigs.{name}" in paths
