"""The kubeconfig files of a cluster, fetched from its control plane."""

from __future__ import annotations

import json

from emulator.core.errors import VerifyError
from emulator.core.ports import GuestAddress, GuestShell
from emulator.kubernetes.config.kubectl import ADMIN_CONF, KUBECTL
from emulator.kubernetes.config.users import USERS_NAMESPACE

STUDENTS = "students"
STUDENT = "student"
"""The account that all users of the namespace share. It is with those of users: see USERS_NAMESPACE."""
STUDENT_SECONDS = 8 * 3600
"""How long a token of the shared account lasts, as long as access of a user unless another time is asked for."""


def admin_kubeconfig(shell: GuestShell, head: GuestAddress) -> str:
    """The admin's kubeconfig. Whoever has it owns the cluster: write it with mode 0600, never show it.

    Raises:
        CommandError: the control plane has none, or cannot be reached.
    """
    return shell.run(head, f"sudo -n cat {ADMIN_CONF}", timeout=60).stdout


def student_kubeconfig(shell: GuestShell, head: GuestAddress, *, cluster: str, port: int = 6443) -> str:
    """A kubeconfig for the account that may work in the namespace `students` and nowhere else.

    Its token is made for this file and ends after `STUDENT_SECONDS`.

    Raises:
        VerifyError: the account has no token yet.
        CommandError: the control plane does not answer, or has no such account yet.
    """
    return user_kubeconfig(
        shell, head, cluster=cluster, user=STUDENT, namespace=STUDENTS, seconds=STUDENT_SECONDS, port=port
    )


def user_kubeconfig(
    shell: GuestShell, head: GuestAddress, *, cluster: str, user: str, namespace: str, seconds: int, port: int = 6443
) -> str:
    """A kubeconfig of a user's own, with a token that ends after `seconds`, or when the user's account is deleted.

    Args:
        shell: runs commands in the guests.
        head: the control plane.
        cluster: name that the file gives the cluster.
        user: who has a service account of this name in `hyperscaler-users`.
        namespace: that commands act in unless they name another.
        seconds: the token's lifetime; Kubernetes takes no less than 600.
        port: of the API server.

    Raises:
        VerifyError: the answer holds no token. What it held is not repeated.
        CommandError: the control plane cannot be asked.
    """
    # `kubectl create token` is younger than the oldest version that a lab may have.
    path = f"/api/v1/namespaces/{USERS_NAMESPACE}/serviceaccounts/{user}/token"
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": seconds},
    }
    answer = shell.run(head, f"{KUBECTL} create --raw {path} -f -", timeout=120, stdin=json.dumps(request)).stdout
    ca = shell.run(head, "sudo -n base64 --wrap=0 /etc/kubernetes/pki/ca.crt", timeout=60).stdout.strip()
    try:
        token = str(json.loads(answer)["status"]["token"])
    except (ValueError, KeyError, TypeError):
        raise VerifyError(
            f"Kubernetes gave no token to {user}", where=head.name, fix="run the same command again"
        ) from None
    return _kubeconfig(cluster, f"https://{head.ip}:{port}", ca, user=user, token=token, namespace=namespace)


def _kubeconfig(cluster: str, server: str, authority: str, *, user: str, token: str, namespace: str) -> str:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": user, "namespace": namespace}}],
        "current-context": cluster,
    }
    return json.dumps(document, indent=2) + "\n"
