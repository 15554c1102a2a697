"""Kubeconfig files for people on the host, made from what the control plane says.

Nothing is passed through: see `emulator.credentials.kubeconfig`.
"""

from __future__ import annotations

import dataclasses
import json

from emulator.core.errors import VerifyError
from emulator.core.ports import GuestAddress, GuestShell
from emulator.credentials.kubeconfig import (
    ClusterAccess,
    admin_parts,
    authority_pem,
    certificate_kubeconfig,
    checked_token,
    token_kubeconfig,
)
from emulator.kubernetes.config.kubectl import ADMIN_CONF, KUBECTL
from emulator.kubernetes.config.users import USERS_NAMESPACE

STUDENTS = "students"
STUDENT = "student"
"""The account that all users of the namespace share. It is with those of users: see USERS_NAMESPACE."""
STUDENT_SECONDS = 8 * 3600
"""How long a token of the shared account lasts, as long as access of a user unless another time is asked for."""
ADMIN = "kubernetes-admin"
"""The admin's name in the file, as kubeadm has it."""


def admin_kubeconfig(shell: GuestShell, head: GuestAddress, *, cluster: str, port: int = 6443) -> str:
    """The admin's kubeconfig, which gives the whole cluster away: write it with mode 0600, never show it.

    Args:
        shell: runs commands in the guests.
        head: the control plane.
        cluster: the cluster's name in the file.
        port: of the API server.

    Raises:
        VerifyError: what the control plane has is not a kubeconfig of kubeadm's.
        CommandError: the control plane has none, or cannot be reached.
    """
    text = shell.run(head, f"sudo -n cat {ADMIN_CONF}", timeout=60).stdout
    authority, client = admin_parts(text, where=f"{head.name}:{ADMIN_CONF}")
    return certificate_kubeconfig(_cluster(cluster, head, port, authority), user=ADMIN, client=client)


def student_kubeconfig(shell: GuestShell, head: GuestAddress, *, cluster: str, port: int = 6443) -> str:
    """A kubeconfig for the account that may work in the namespace `students` and nowhere else.

    Its token is made for this file and ends after `STUDENT_SECONDS`.

    Args:
        shell: runs commands in the guests.
        head: the control plane.
        cluster: the cluster's name in the file.
        port: of the API server.

    Raises:
        VerifyError: the answer is not a token and a certificate.
        CommandError: the control plane does not answer, or has no such account yet.
    """
    return user_kubeconfig(
        shell, head, cluster=cluster, user=STUDENT, namespace=STUDENTS, seconds=STUDENT_SECONDS, port=port
    )


def user_kubeconfig(
    shell: GuestShell,
    head: GuestAddress,
    *,
    cluster: str,
    user: str,
    namespace: str,
    seconds: int,
    port: int = 6443,
    forwarded_to: int = 0,
) -> str:
    """A user's own kubeconfig, with a token that ends after `seconds`, or when the user's account is deleted.

    Args:
        shell: runs commands in the guests.
        head: the control plane.
        cluster: the cluster's name in the file.
        user: who has a service account of this name in `hyperscaler-users`.
        namespace: that commands act in unless they name another.
        seconds: the token's lifetime; Kubernetes takes no less than 600.
        port: of the API server.
        forwarded_to: the port of the user's own machine to which ssh forwards the API; 0 to name the control plane.

    Raises:
        VerifyError: the answer is not a token and a certificate. What it held is not repeated.
        CommandError: the control plane does not answer.
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
        token = json.loads(answer)["status"]["token"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise VerifyError(
            f"Kubernetes gave no token to {user}", where=head.name, fix="run the same command again"
        ) from None
    access = _cluster(cluster, head, port, authority_pem(ca, where=head.name))
    if forwarded_to:
        # kubeadm's certificate of the API names the service `kubernetes` in each cluster, and no loopback address.
        access = dataclasses.replace(access, server=f"https://127.0.0.1:{forwarded_to}", tls_name="kubernetes")
    return token_kubeconfig(access, user=user, token=checked_token(token, where=head.name), namespace=namespace)


def _cluster(name: str, head: GuestAddress, port: int, authority: str) -> ClusterAccess:
    """The cluster at the address that the lab file gives its control plane, whatever a file on the node says."""
    return ClusterAccess(name, f"https://{head.ip}:{port}", authority)
