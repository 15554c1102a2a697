#!/usr/bin/python3
"""Ansible module: makes a node a member of its Kubernetes cluster with kubeadm, whatever state it is found in.

A node is finished when kubeadm has ended well, which a record says that is written afterwards. A node with remains
of a run that did not end (kubeadm killed, machine switched off) has no record: the remains are removed, containers
included, and kubeadm starts over.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import ssl
import string
import subprocess
import time
import urllib.error
import urllib.request

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.kubeadm_config import (
    API_PORT,
    CRI_SOCKET,
    PATCHES,
    UnsupportedVersionError,
    init_documents,
    join_documents,
    patches,
    to_yaml,
    with_token,
)

DOCUMENTATION = r"""
module: kubeadm_node
short_description: Makes a node a member of its Kubernetes cluster
options:
  action:
    description: C(init) a control plane; C(probe) whether this worker is a member; C(join) it; C(token) makes a token
      on the control plane; C(reset) removes the node's membership.
    type: str
  cluster:
    description: C(name), C(control_plane_ip), C(pod_subnet), C(service_subnet), C(cni).
    type: dict
  node:
    description: C(name) and C(ip).
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

RECORD = "/var/lib/hyperscaler/kubeadm.json"
RELEASE = "/usr/lib/hyperscaler/kubernetes.json"
ADMIN = "/etc/kubernetes/admin.conf"
CA = "/etc/kubernetes/pki/ca.crt"
CONFIG = "/etc/kubernetes/kubeadm.yaml"
FIRST_TOKEN = "/etc/kubernetes/first-token"  # noqa: S105  a path
# Well before the token's own end, so that a slow join is through with it.
FIRST_TOKEN_SECONDS = 600
# What kubeadm and kubelet leave behind. The device plugins' directory goes too: kubelet makes it again.
REMAINS = (
    "/etc/kubernetes",
    "/var/lib/etcd",
    "/var/lib/kubelet",
    "/var/lib/cni/networks",
    "/var/lib/cni/cache",
    RECORD,
)
KEPT = "/etc/kubernetes/manifests"
TOKEN_TTL = "30m"  # noqa: S105  a duration


class NodeError(Exception):
    """kubeadm or the node said no; the text is for the operator."""


def run(argv, timeout, *, check=True, stdin=None):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False, input=stdin)
    if check and done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-25:])
        raise NodeError(f"{' '.join(argv[:3])} ended with status {done.returncode}: {said}")
    return done


def read_json(path):
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except FileNotFoundError:
        return {}


def write_private(path, text):
    """Mode 0600 from its first byte on, complete or not at all."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.new"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(temporary, path)


def ca_hash(path=CA):
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


def digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def answers(ip, timeout):
    """Whether the API server at `ip` says that it is ready, within `timeout` seconds."""
    # Readiness is public, and no secret is sent: the certificate need not be looked at here.
    context = ssl._create_unverified_context()  # noqa: S323
    deadline = time.monotonic() + timeout
    while True:
        try:
            with urllib.request.urlopen(f"https://{ip}:{API_PORT}/readyz", timeout=10, context=context) as reply:
                if reply.status == 200:
                    return True
        except (OSError, urllib.error.URLError):
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(1)


def start_kubelet():
    """Start and enable kubelet where it is not; whether that was a change."""
    done = run(["systemctl", "is-active", "kubelet"], 60, check=False)
    if done.stdout.strip() in ("active", "activating"):
        return False
    run(["systemctl", "enable", "--now", "kubelet"], 120)
    return True


def has_remains():
    """Whether an earlier run left anything of a cluster; an empty manifests directory is kubelet's own."""
    if os.path.exists(RECORD):
        return True
    for path in (
        "/etc/kubernetes/kubelet.conf",
        "/etc/kubernetes/bootstrap-kubelet.conf",
        "/etc/kubernetes/pki",
        "/var/lib/etcd/member",
        "/var/lib/kubelet/config.yaml",
    ):
        if os.path.exists(path):
            return True
    return False


def reset():
    """Remove every trace of a cluster: kubelet stopped, all of kubelet's containers ended, files, mounts, rules."""
    run(["systemctl", "disable", "--now", "kubelet"], 180, check=False)
    remove_containers()
    for path in mounts_below("/var/lib/kubelet"):
        run(["umount", "--lazy", path], 60, check=False)
    for path in REMAINS:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        elif os.path.lexists(path):
            os.unlink(path)
    for link in ("cni0", "flannel.1"):
        run(["ip", "link", "delete", link], 60, check=False)
    # kube-proxy's chains of the old cluster would answer for addresses that the new one hands out otherwise.
    for table in ("nat", "filter", "mangle"):
        saved = run(["iptables-save", "-t", table], 60, check=False).stdout
        if "KUBE-" in saved:
            kept = "\n".join(line for line in saved.splitlines() if "KUBE-" not in line) + "\n"
            run(["iptables-restore", "--table", table], 60, check=False, stdin=kept)
    os.makedirs(KEPT, exist_ok=True)


def ctr(*words, check=False):
    return run(["ctr", "--namespace", "k8s.io", *words], 120, check=check)


def remove_containers():
    """End and delete every container of kubelet's. Without the real crictl, `kubeadm reset` ends none of them, and an
    old API server with an old CA would go on answering."""
    names = ctr("containers", "ls", "--quiet").stdout.split()
    if not names:
        return
    for name in ctr("tasks", "ls", "--quiet").stdout.split():
        ctr("tasks", "kill", "--signal", "KILL", name)
    for name in names:
        for _ in range(20):
            ctr("tasks", "delete", "--force", name)
            if (
                ctr("containers", "delete", name).returncode == 0
                or name not in ctr("containers", "ls", "--quiet").stdout.split()
            ):
                break
            time.sleep(0.3)
    # containerd's CRI service keeps its own list of pods, read at its start.
    run(["systemctl", "restart", "containerd"], 180)


def mounts_below(top):
    with open("/proc/self/mounts", encoding="utf-8") as stream:
        paths = [line.split()[1] for line in stream]
    return sorted((path for path in paths if path.startswith(top + "/")), reverse=True)


def init(params, release):
    """A running control plane; (changed, hash of its CA)."""
    cluster, node, timeout = params["cluster"], params["node"], params["timeout"]
    documents = init_documents(release, cluster, node, timeout)
    wanted = digest(documents)
    record = read_json(RECORD)
    if record.get("role") == "control-plane" and os.path.exists(ADMIN):
        if record["digest"] != wanted:
            raise NodeError(
                "the control plane was made with other settings (version, networks, CNI or addresses), which cannot be"
                " changed in place: destroy the lab and provision it again"
            )
        changed = start_kubelet()
        if not answers(node["ip"], timeout):
            raise NodeError(f"the API server does not answer after {timeout} s\n{kubelet_journal()}")
        return changed, record["ca_hash"]
    if has_remains():
        reset()
    token = random_token()
    write_private(CONFIG, to_yaml(with_token(documents, token, TOKEN_TTL)))
    for name, text in patches().items():
        write_private(f"{PATCHES}/{name}", text)
    argv = ["kubeadm", "init", "--config", CONFIG, "--skip-token-print"]
    if documents[0]["apiVersion"].endswith("/v1beta2"):
        argv += ["--experimental-patches", PATCHES]
    if "coredns" not in release["cluster_dns"]:
        # The other images were found in the image when it was built; this one is not to be had, and not needed.
        argv += ["--skip-phases=addon/coredns", "--ignore-preflight-errors=ImagePull"]
    try:
        kubeadm(argv, timeout)
    except NodeError:
        if not answers(node["ip"], 60):
            raise
        finish_init(argv, timeout)
    pinned = ca_hash()
    write_private(CONFIG, to_yaml(documents))
    write_private(FIRST_TOKEN, token)
    # The record comes last: without it, the next run starts over.
    write_private(RECORD, json.dumps({"format": 1, "role": "control-plane", "digest": wanted, "ca_hash": pinned}))
    return True, pinned


# What comes before the API server answers; what comes after may be done again.
FIRST_PHASES = "preflight,certs,kubeconfig,kubelet-start,control-plane,etcd"
FINISH_TRIES = 4


def finish_init(argv, timeout):
    """The phases of `kubeadm init` after the control plane has come up. kubeadm waits ten seconds for each answer of
    the API server, which a busy emulated CPU may not keep in its first minutes."""
    skipped = f"--skip-phases={FIRST_PHASES}"
    argv = [f"{skipped},{word.partition('=')[2]}" if word.startswith("--skip-phases=") else word for word in argv]
    if not any(word.startswith("--skip-phases=") for word in argv):
        argv.append(skipped)
    for tries in range(FINISH_TRIES):
        try:
            kubeadm(argv, timeout)
            return
        except NodeError:
            if tries == FINISH_TRIES - 1:
                raise
            time.sleep(5)


def probe(params, release):
    """Whether the worker is a member: (changed, hash of its cluster's CA or nothing)."""
    del params, release
    record = read_json(RECORD)
    if record.get("role") == "worker" and os.path.exists("/etc/kubernetes/kubelet.conf"):
        return start_kubelet(), record["ca_hash"]
    return False, ""


def join(params, release):
    cluster, node, timeout = params["cluster"], params["node"], params["timeout"]
    if has_remains():
        reset()
    documents = join_documents(release, cluster, node, params["token"], [params["ca_hash"]], timeout)
    write_private(CONFIG, to_yaml(documents))
    try:
        kubeadm(["kubeadm", "join", "--config", CONFIG], timeout)
    finally:
        os.unlink(CONFIG)  # it holds the token
    write_private(RECORD, json.dumps({"format": 1, "role": "worker", "ca_hash": params["ca_hash"]}))
    return True, params["ca_hash"]


def kubeadm(argv, timeout):
    run(["systemctl", "enable", "kubelet"], 120)
    try:
        run(argv, timeout)
    except (NodeError, subprocess.TimeoutExpired) as error:
        raise NodeError(f"{error}\n{kubelet_journal()}") from error


def kubelet_journal():
    argv = ["journalctl", "--unit", "kubelet", "--no-pager", "--output=cat", "--lines=12"]
    return run(argv, 60, check=False).stdout.strip()


def random_token():
    """A bootstrap token in kubeadm's form."""
    letters = string.ascii_lowercase + string.digits
    return ".".join("".join(secrets.choice(letters) for _ in range(length)) for length in (6, 16))


def new_token():
    """A token that a worker may join with: init's own while it is fresh, since asking for another costs kubeadm
    a quarter of a minute on an emulated CPU."""
    try:
        age = time.time() - os.stat(FIRST_TOKEN).st_mtime
        if 0 <= age < FIRST_TOKEN_SECONDS:
            with open(FIRST_TOKEN, encoding="utf-8") as stream:
                return stream.read()
        os.unlink(FIRST_TOKEN)
    except FileNotFoundError:
        pass
    argv = ["kubeadm", "token", "create", "--ttl", TOKEN_TTL, "--kubeconfig", ADMIN]
    return run(argv, 300).stdout.strip().splitlines()[-1]


def main():
    module = AnsibleModule(
        argument_spec={
            "action": {"type": "str", "required": True, "choices": ["init", "probe", "join", "token", "reset"]},
            "cluster": {"type": "dict", "default": {}},
            "node": {"type": "dict", "default": {}},
            "token": {"type": "str", "no_log": True},
            "ca_hash": {"type": "str"},
            "timeout": {"type": "int", "default": 900},
        },
        required_if=[("action", "join", ("token", "ca_hash"))],
    )
    params = module.params
    try:
        if params["action"] == "token":
            module.exit_json(changed=False, token=new_token())
        if params["action"] == "reset":
            found = has_remains()
            if found:
                reset()
            module.exit_json(changed=found)
        release = read_json(RELEASE)
        if not release:
            raise NodeError(f"{RELEASE} is missing: this node was not started from a cloud-base image")
        steps = {"init": init, "probe": probe, "join": join}
        changed, pinned = steps[params["action"]](params, release)
    except (NodeError, UnsupportedVersionError, OSError, subprocess.SubprocessError) as error:
        module.fail_json(msg=str(error))
    # kubeadm's socket address is worth knowing to a person who debugs by hand.
    module.exit_json(changed=changed, ca_hash=pinned, release=release, cri_socket=CRI_SOCKET)


if __name__ == "__main__":
    main()
