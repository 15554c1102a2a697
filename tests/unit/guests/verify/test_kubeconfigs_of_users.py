"""A user's kubeconfig: asked for over stdin, with a token that ends, and never quoted when something is wrong."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from typing import Any

import pytest

from emulator.core.errors import VerifyError
from emulator.core.ports import Completed, GuestAddress
from emulator.guests.verify.kubeconfigs import user_kubeconfig
from tests.support.kubeadm_files import authority, encoded

HEAD = GuestAddress("cloud-control-plane", IPv4Address("192.168.200.10"), "root")


class Shell:
    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str | None]] = []

    def run(
        self, guest: GuestAddress, command: str, *, timeout: float, check: bool = True, stdin: Any = None
    ) -> Completed:
        self.asked.append((command, stdin))
        return Completed((), 0, encoded(authority()) + "\n" if "base64" in command else self.answer, "")

    def ready(self, guest: GuestAddress, *, timeout: float) -> bool:
        return True


def kubeconfig(shell: Shell) -> str:
    return user_kubeconfig(shell, HEAD, cluster="demo", user="ada", namespace="student-ada", seconds=3600)


def test_it_holds_a_token_of_the_user_s_own_account() -> None:
    shell = Shell(json.dumps({"status": {"token": "a.b.c", "expirationTimestamp": "2026-11-26T12:00:00Z"}}))
    document = json.loads(kubeconfig(shell))
    assert document["users"] == [{"name": "ada", "user": {"token": "a.b.c"}}]
    assert document["contexts"][0]["context"]["namespace"] == "student-ada"
    assert document["clusters"][0]["cluster"] == {
        "server": "https://192.168.200.10:6443",
        "certificate-authority-data": encoded(authority()),
    }
    command, request = shell.asked[0]
    assert "create --raw /api/v1/namespaces/hyperscaler-users/serviceaccounts/ada/token -f -" in command
    assert request is not None
    assert json.loads(request)["spec"] == {"expirationSeconds": 3600}


@pytest.mark.parametrize(
    "answer", ["", "secret.token.text", "[]", '{"status": {"secret.token.text": 1}}', '{"status": null}']
)
def test_an_odd_answer_is_not_repeated(answer: str) -> None:
    with pytest.raises(VerifyError, match="Kubernetes gave no token to ada") as caught:
        kubeconfig(Shell(answer))
    assert "secret.token.text" not in str(caught.value)
