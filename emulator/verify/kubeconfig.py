"""The kubeconfig files of a cluster, fetched from its control plane."""

from __future__ import annotations

import base64
import binascii
import json

from emulator.errors import VerifyError
from emulator.ports import GuestAddress, GuestShell

STUDENTS = "students"
_KUBECTL = "kubectl --kubeconfig /etc/kubernetes/admin.conf"


def admin_kubeconfig(shell: GuestShell, head: GuestAddress) -> str:
    """The admin's kubeconfig. Whoever has it owns the cluster: write it with mode 0600, never show it.

    Raises:
        CommandError: the control plane has none, or cannot be reached.
    """
    return shell.run(head, "cat /etc/kubernetes/admin.conf", timeout=60).stdout


def student_kubeconfig(shell: GuestShell, head: GuestAddress, *, cluster: str, port: int = 6443) -> str:
    """A kubeconfig for the account that may work in the namespace `students` and nowhere else.

    Args:
        shell: runs commands in the guests.
        head: the control plane.
        cluster: name that the file gives the cluster.
        port: of the API server.

    Raises:
        VerifyError: the account has no token yet.
        CommandError: the control plane cannot be asked.
    """
    raw = shell.run(head, f"{_KUBECTL} get secret student-token -n {STUDENTS} -o json", timeout=120).stdout
    try:
        data = json.loads(raw)["data"]
        token = base64.b64decode(data["token"], validate=True).decode()
        authority = str(data["ca.crt"])
    except (ValueError, KeyError, TypeError, binascii.Error):
        raise VerifyError(
            "the account of the students has no token yet",
            where=f"{head.name}: secret {STUDENTS}/student-token",
            fix="try again in a minute; `hyperscaler verify` shows whether the cluster works",
        ) from None
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": cluster,
                "cluster": {"server": f"https://{head.ip}:{port}", "certificate-authority-data": authority},
            }
        ],
        "users": [{"name": "student", "user": {"token": token}}],
        "contexts": [
            {"name": cluster, "context": {"cluster": cluster, "user": "student", "namespace": STUDENTS}},
        ],
        "current-context": cluster,
    }
    return json.dumps(document, indent=2) + "\n"
