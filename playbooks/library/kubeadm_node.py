#!/usr/bin/python3
"""Ansible module: makes a node a member of its Kubernetes cluster with kubeadm, whatever state it is found in.

A node is finished when kubeadm has ended well, which a record says that is written afterwards. A node with remains
of a run that did not end (kubeadm killed, machine switched off) has no record: the remains are removed, containers
included, and kubeadm starts over.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import string
import subprocess
import time
from collections.abc import Sequence
from typing import Any, Literal, TypedDict

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.kubeadm_config import (
    CRI_SOCKET,
    PATCHES,
    Cluster,
    Document,
    Node,
    Release,
    UnsupportedVersionError,
    init_documents,
    join_documents,
    patches,
    to_yaml,
    with_token,
)
from ansible.module_utils.kubeadm_reset import RECORD, NodeError, has_remains, reset, run
from ansible.module_utils.kubeadm_run import (
    RELEASE,
    again_where_it_fails,
    again_where_it_was_too_slow,
    answers,
    kubeadm,
    kubelet_journal,
    one_at_a_time,
    read_json,
    write_private,
)
from ansible.module_utils.pace import seconds

DOCUMENTATION = r"""
module: kubeadm_node
short_description: Makes a node a member of its Kubernetes cluster
options:
  action:
    description: C(init) a control plane; C(probe) whether this worker is a member; C(join) it; C(token) gives C(node)
      leave to join, on the control plane: forgets an older node of that name and makes a token; C(reset) removes the
      node's membership.
    type: str
  cluster:
    description: C(name), C(control_plane_ip), C(pod_subnet), C(service_subnet), C(cni), C(version), which is what the
      lab asks for (1.31, 1.31.4, or empty for any), and for C(join) C(running), the version of the control plane.
    type: dict
  node:
    description: C(name) and C(ip), and for C(join) C(taints) that the node registers with.
    type: dict
  token:
    description: Bootstrap token for C(join).
    type: str
  ca_hash:
    description: Hash of the cluster's CA, for C(join).
    type: str
  timeout:
    description: Seconds for kubeadm to end.
    type: int
"""

RETURN = r"""
ca_hash:
  description: Hash of the CA of the cluster that the node belongs to; empty when it belongs to none.
token:
  description: A new bootstrap token (action C(token) only).
"""


class Params(TypedDict):
    action: Literal["init", "probe", "join", "token", "reset"]
    cluster: Cluster
    node: Node
    token: str
    ca_hash: str
    timeout: int


ADMIN = "/etc/kubernetes/admin.conf"
CA = "/etc/kubernetes/pki/ca.crt"
# kubelet writes it when the cluster has signed its certificate.
KUBELET_CONF = "/etc/kubernetes/kubelet.conf"
CONFIG = "/etc/kubernetes/kubeadm.yaml"
FIRST_TOKEN = "/etc/kubernetes/first-token"  # noqa: S105  a path
# Well before the token's own end, so that a slow join is through with it.
FIRST_TOKEN_SECONDS = 600
TOKEN = re.compile(r"[a-z0-9]{6}\.[a-z0-9]{16}")
TOKEN_TTL = "30m"  # noqa: S105  a duration


def read_record(path: str) -> dict[str, Any]:
    """What the last kubeadm that ended well left; nothing where none did. One that cannot be read is refused: taking it
    for none would take the node's cluster down."""
    try:
        record = read_json(path)
    except (ValueError, RecursionError) as error:
        raise NodeError(f"{path} cannot be read: {error}; without the file the node starts over") from error
    if not isinstance(record, dict) or not all(isinstance(record.get(key, ""), str) for key in ("role", "ip")):
        raise NodeError(f"{path} is damaged; without the file the node starts over")
    if not isinstance(record.get("settings", {}), dict):
        raise NodeError(f"{path} is damaged; without the file the node starts over")
    if record.get("role") and not isinstance(record.get("ca_hash"), str):
        raise NodeError(f"{path} lacks the cluster's hash; without the file the node starts over")
    return record


def ca_hash(path: str = CA) -> str:
    """kubeadm's form: the SHA-256 of the CA's public key (SubjectPublicKeyInfo, DER)."""
    public = run(["openssl", "x509", "-pubkey", "-noout", "-in", path], 60).stdout
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-outform", "DER"],
        input=public.encode(),
        capture_output=True,
        timeout=60,
        check=True,
    ).stdout
    return "sha256:" + hashlib.sha256(der).hexdigest()


def settings(cluster: Cluster, node: Node) -> dict[str, str]:
    """What a finished control plane cannot change, and nothing else: options and deadlines that a later version of
    this program gives kubeadm are no reason to refuse a lab. Its version is changed by an upgrade."""
    return {
        "node": node["name"],
        "name": cluster["name"],
        "control_plane_ip": cluster["control_plane_ip"],
        "pod_subnet": cluster["pod_subnet"],
        "service_subnet": cluster["service_subnet"],
        "cni": cluster["cni"],
    }


def is_asked_for(version: str, asked: str) -> bool:
    """Whether 1.31.4 is what the lab asks for: 1.31 takes any 1.31.x, nothing takes all."""
    return not asked or version == asked or version.startswith(asked + ".")


def require_version(release: Release, asked: str | None) -> None:
    """The version on the control plane's disk against the one that the lab asks for: a disk keeps its image."""
    asked, have = (asked or "").lstrip("v"), release["version"]
    if not is_asked_for(have, asked):
        raise NodeError(
            f"this node has Kubernetes {have} on its disk, and the file now asks for version {asked}: `hyperscaler"
            f" upgrade` goes from one minor version to the next; else write {have}, or destroy the lab and provision"
            " it again"
        )


def require_skew(release: Release, cluster: Cluster) -> None:
    """kubeadm joins a control plane of its own minor version only, and kubelet may not be newer than the API server.

    The file's version is no way out: it is the control plane's, and the worker's disk stays as it is. A new disk is
    made with the Kubernetes of the control plane's.
    """
    have, running, asked = release["version"], cluster.get("running") or "", (cluster.get("version") or "").lstrip("v")
    if (running and have.split(".")[:2] != running.split(".")[:2]) or not is_asked_for(have, asked):
        raise NodeError(
            f"the disk of this worker holds Kubernetes {have}, and the control plane runs {running or asked}: take the"
            " worker out of the lab file and provision, then put it back and provision again; its new disk gets the"
            " control plane's Kubernetes"
        )


def start_kubelet() -> bool:
    """Start and enable kubelet where it is not; whether that was a change."""
    done = run(["systemctl", "is-active", "kubelet"], 60, check=False)
    if done.stdout.strip() in ("active", "activating"):
        return False
    run(["systemctl", "enable", "--now", "kubelet"], 120)
    return True


def init(params: Params, release: Release) -> tuple[bool, str]:
    """A running control plane; (changed, hash of its CA)."""
    cluster, node, timeout = params["cluster"], params["node"], params["timeout"]
    require_version(release, cluster.get("version"))
    documents = init_documents(release, cluster, node, seconds(timeout))
    wanted = settings(cluster, node)
    record = read_record(RECORD)
    if record.get("role") == "control-plane":
        # Only what was recorded is compared: a later version of this program may record more.
        recorded = record.get("settings", {})
        changes = [
            f"{key} was {recorded[key]}, now {wanted[key]}"
            for key in wanted
            if key in recorded and recorded[key] != wanted[key]
        ]
        if changes:
            raise NodeError(
                f"the control plane was made with other settings ({'; '.join(changes)}), which cannot be changed in"
                " place: set them back, or destroy the lab and provision it again"
            )
        restored = restore_admin(documents, timeout)
        changed = start_kubelet() or restored
        if not answers(node["ip"], timeout):
            raise NodeError(f"the API server does not answer after {timeout} s and more\n{kubelet_journal()}")
        return changed, record["ca_hash"]
    if has_remains():
        reset()
    token = random_token()
    write_private(CONFIG, to_yaml(with_token(documents, token, TOKEN_TTL)))
    for name, text in patches(release["version"]).items():
        write_private(f"{PATCHES}/{name}", text)
    argv = ["kubeadm", "init", "--config", CONFIG, "--skip-token-print"]
    kubeadm([*argv, f"--skip-phases={LATER_PHASES}"], timeout)
    if not answers(node["ip"], timeout):
        raise NodeError(f"the API server does not answer after {timeout} s\n{kubelet_journal()}")
    finish_init(argv, timeout)
    pinned = ca_hash()
    write_private(CONFIG, to_yaml(documents))
    write_private(FIRST_TOKEN, token)
    # The record comes last: without it, the next run starts over.
    write_private(RECORD, json.dumps({"format": 1, "role": "control-plane", "settings": wanted, "ca_hash": pinned}))
    return True, pinned


def restore_admin(documents: Sequence[Document], timeout: float) -> bool:
    """Make the admin kubeconfig of a finished control plane anew where it was lost; whether that was a change. It is
    one file of many, and no reason to start over: etcd holds all of the cluster."""
    if os.path.exists(ADMIN):
        return False
    write_private(CONFIG, to_yaml(documents))  # the one of init may name a version that an upgrade has left behind
    try:
        run(["kubeadm", "init", "phase", "kubeconfig", "admin", "--config", CONFIG], timeout)
    except NodeError as error:
        raise NodeError(
            f"{ADMIN} is missing on a finished control plane and cannot be made again; nothing was reset, since that"
            f" would lose the cluster's objects: put the file back, or destroy the lab. {error}"
        ) from error
    return True


# `kubeadm init` in two parts, which together are all of its phases. The first ends when kubelet has etcd and the API
# server to start, and nothing else. The API server does its first work once and within fixed times (a minute for its
# tables of addresses), and the other components end themselves while it does not answer, to come back later and later:
# on an emulated CPU they would keep each other from coming up.
FIRST_PHASES = "preflight,certs,kubeconfig,etcd,control-plane/apiserver,kubelet-start"
LATER_PHASES = (
    "control-plane/controller-manager,control-plane/scheduler,wait-control-plane,upload-config,upload-certs,"
    "mark-control-plane,bootstrap-token,kubelet-finalize,addon,show-join-command"
)


def finish_init(argv: Sequence[str], timeout: float) -> None:
    """The phases of `kubeadm init` after the API server has come up. They may be done again: kubeadm waits ten seconds
    for some answers of the API server, which a busy emulated CPU may not keep in its first minutes."""
    again_where_it_fails(lambda: kubeadm([*argv, f"--skip-phases={FIRST_PHASES}"], timeout))


def probe(params: Params, release: Release) -> tuple[bool, str]:
    """Whether the worker is a member: (changed, hash of its cluster's CA or nothing). One that joined with another
    address is none: kubelet would go on announcing that, and its pods have the network that belonged to it."""
    del release
    record = read_record(RECORD)
    here = record.get("ip", params["node"]["ip"]) == params["node"]["ip"]  # older versions recorded none
    if record.get("role") == "worker" and here and os.path.exists(KUBELET_CONF):
        return start_kubelet(), record["ca_hash"]
    return False, ""


def join(params: Params, release: Release) -> tuple[bool, str]:
    cluster, node, timeout = params["cluster"], params["node"], params["timeout"]
    require_skew(release, cluster)
    if has_remains():
        reset()
    documents = join_documents(release, cluster, node, params["token"], [params["ca_hash"]], seconds(timeout))

    def once() -> None:
        write_private(CONFIG, to_yaml(documents))
        try:
            kubeadm(["kubeadm", "join", "--config", CONFIG], timeout)
        except NodeError:
            if not os.path.exists(KUBELET_CONF):
                raise
            finish_join(node["name"])

    try:
        again_where_it_was_too_slow(once, reset)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(CONFIG)  # it holds the token
    record = {"format": 1, "role": "worker", "ip": node["ip"], "ca_hash": params["ca_hash"]}
    write_private(RECORD, json.dumps(record))
    return True, params["ca_hash"]


def finish_join(name: str) -> None:
    """What kubeadm does when kubelet has its own certificate: it notes the runtime's socket at the node. kubeadm waits
    ten seconds for the API server's answer to it, which a busy emulated CPU may not keep."""
    note = f"kubeadm.alpha.kubernetes.io/cri-socket={CRI_SOCKET}"
    patience = f"--request-timeout={seconds(120)}s"
    argv = ["kubectl", "--kubeconfig", KUBELET_CONF, patience, "annotate", "--overwrite", "node", name]
    again_where_it_fails(lambda: run([*argv, note], 300))


def random_token() -> str:
    """A bootstrap token in kubeadm's form."""
    letters = string.ascii_lowercase + string.digits
    return ".".join("".join(secrets.choice(letters) for _ in range(length)) for length in (6, 16))


def forget(name: str) -> None:
    """Delete the node of this name, which is about to join: kubeadm refuses one that the cluster knows as Ready, and
    such a node is what a join leaves that was killed after kubelet had registered."""
    run(
        ["kubectl", "--kubeconfig", ADMIN, "delete", "node", name, "--ignore-not-found", f"--timeout={seconds(120)}s"],
        300,
    )


def new_token() -> str:
    """A token that a worker may join with: init's own while it is fresh, since asking for another costs kubeadm
    a quarter of a minute on an emulated CPU."""
    try:
        age = time.time() - os.stat(FIRST_TOKEN).st_mtime
        if 0 <= age < FIRST_TOKEN_SECONDS:
            with open(FIRST_TOKEN, encoding="ascii", errors="replace") as stream:
                token = stream.read()
            if TOKEN.fullmatch(token):
                return token
        os.unlink(FIRST_TOKEN)
    except FileNotFoundError:
        pass
    argv = ["kubeadm", "token", "create", "--ttl", TOKEN_TTL, "--kubeconfig", ADMIN]
    # Warnings may come before it.
    token = (run(argv, 300).stdout.split() or [""])[-1]
    if not TOKEN.fullmatch(token):
        raise NodeError("kubeadm token create printed no token")  # what it printed may hold a secret
    return token


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "action": {"type": "str", "required": True, "choices": ["init", "probe", "join", "token", "reset"]},
            "cluster": {"type": "dict", "default": {}},
            "node": {"type": "dict", "default": {}},
            "token": {"type": "str", "no_log": True},
            "ca_hash": {"type": "str"},
            "timeout": {"type": "int", "default": 900},
        },
        required_if=[("action", "join", ("token", "ca_hash")), ("action", "token", ("node",))],
    )
    params = module.params
    try:
        if params["action"] == "token":
            forget(params["node"]["name"])
            module.exit_json(changed=False, token=new_token())
        if params["action"] == "reset":
            with one_at_a_time(params["timeout"]):
                found = has_remains()
                if found:
                    reset()
            module.exit_json(changed=found)
        release = read_json(RELEASE)
        if not release:
            raise NodeError(f"{RELEASE} is missing: this node was not started from a cloud-base image")
        steps = {"init": init, "probe": probe, "join": join}
        with one_at_a_time(params["timeout"]):
            changed, pinned = steps[params["action"]](params, release)
    except (NodeError, UnsupportedVersionError, OSError, subprocess.SubprocessError) as error:
        module.fail_json(msg=str(error))
    # kubeadm's socket address is worth knowing to a person who debugs by hand.
    module.exit_json(changed=changed, ca_hash=pinned, release=release, cri_socket=CRI_SOCKET)


if __name__ == "__main__":
    main()
