"""The kubeconfig files that a lab gives out."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import emulator.wiring
from emulator.cli.commands.credentials.kubeconfig import command
from emulator.core.errors import VerifyError
from emulator.core.ports import Completed, GuestAddress
from emulator.guests.verify.kubeconfigs import STUDENT_SECONDS, admin_kubeconfig, student_kubeconfig
from tests.support.kubeadm_files import admin_conf, authority, client_certificate, encoded
from tests.support.simulated_world import SimulatedHost

HEAD = GuestAddress("cloud-control-plane", IPv4Address("10.20.0.10"), "root")
LAB = """\
version: "1.0"
metadata: {name: demo}
timeouts: {boot: 10}
clusters: {cloud: {control_plane: {cpu_cores: 2, memory_gb: 3, disk_gb: 10}}}
hypervisor: {uri: embedded}
"""


class Head:
    """A control plane that prints one thing."""

    def __init__(self, stdout: str) -> None:
        self.stdout = stdout
        self.commands: list[str] = []

    def ready(self, guest: GuestAddress, *, timeout: float) -> bool:
        return True

    def run(
        self, guest: GuestAddress, command: str, *, timeout: float, check: bool = True, stdin: str | None = None
    ) -> Completed:
        self.commands.append(command)
        return Completed((command,), 0, self.stdout, "")


class Asked(Head):
    """A control plane that gives tokens, and its authority."""

    def __init__(self, answer: str, authority: str) -> None:
        super().__init__(answer)
        self.authority = authority
        self.requests: list[Any] = []

    def run(
        self, guest: GuestAddress, command: str, *, timeout: float, check: bool = True, stdin: str | None = None
    ) -> Completed:
        done = super().run(guest, command, timeout=timeout, check=check, stdin=stdin)
        if stdin is None:
            return Completed((command,), 0, self.authority, "")
        self.requests.append(json.loads(stdin))
        return done


def test_the_admins_file_is_made_of_the_control_planes() -> None:
    head = Head(admin_conf(server="https://10.20.0.10:6443"))
    config = json.loads(admin_kubeconfig(head, HEAD, cluster="demo"))
    assert config["users"][0]["user"]["client-certificate-data"] == encoded(client_certificate())
    assert config["clusters"][0]["cluster"] == {
        "server": "https://10.20.0.10:6443",
        "certificate-authority-data": encoded(authority()),
    }
    assert head.commands == ["sudo -n cat /etc/kubernetes/admin.conf"]


def test_a_students_file_has_a_token_that_ends_and_the_clusters_authority() -> None:
    head = Asked(json.dumps({"status": {"token": "its-token"}}), encoded(authority()))
    config = json.loads(student_kubeconfig(head, HEAD, cluster="demo"))
    assert config["users"] == [{"name": "student", "user": {"token": "its-token"}}]
    assert config["clusters"][0]["cluster"] == {
        "server": "https://10.20.0.10:6443",
        "certificate-authority-data": encoded(authority()),
    }
    assert config["contexts"][0]["context"]["namespace"] == "students"
    (request,) = head.requests
    assert request["spec"] == {"expirationSeconds": STUDENT_SECONDS}
    assert 600 <= STUDENT_SECONDS <= 24 * 3600
    # Of an account where no student makes tokens or secrets; each call is a new token.
    assert "/namespaces/hyperscaler-users/serviceaccounts/student/token" in head.commands[0]
    student_kubeconfig(head, HEAD, cluster="demo")
    assert len(head.requests) == 2


@pytest.mark.parametrize("answer", ["", "{}", '{"status": 1}', '{"status": {}}'])
def test_an_account_without_a_token_is_reported(answer: str) -> None:
    with pytest.raises(VerifyError, match="gave no token to student"):
        student_kubeconfig(Asked(answer, encoded(authority())), HEAD, cluster="demo")


def test_the_file_is_private_and_the_way_to_the_lab_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = SimulatedHost(tmp_path)
    host.provision(host.lab_file(LAB))
    monkeypatch.setattr(emulator.wiring, "real_environment", host.environment)
    file = tmp_path / "kubeconfig"
    done = CliRunner().invoke(command, ["demo", "--output", str(file)], catch_exceptions=False)
    assert done.exit_code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    namespace = host.state().resources["hypervisor/embedded"].resource.namespace  # type: ignore[attr-defined]
    assert f"ip netns exec {namespace} kubectl --kubeconfig {file} get nodes" in done.stderr
