#!/usr/bin/python3
"""Ansible module: objects, node labels and taints of a Kubernetes cluster, in one round trip on its control plane.

Objects are applied with `kubectl apply`, which changes only what differs. Nodes that are no longer the lab's are
drained and deleted. At the end, if asked, it waits until all nodes and workloads are ready.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: kubernetes_objects
short_description: Objects, labels and taints of a cluster in one round trip
options:
  manifests:
    description: Documents to apply, YAML or JSON, several per text.
    type: list
    elements: str
  nodes:
    description: The nodes of the lab, each with C(name), C(labels) and C(taints) (C(key), C(value), C(effect)). All
      others are drained and deleted. Empty leaves the nodes as they are.
    type: list
    elements: dict
  managed_taints:
    description: Keys of taints that are removed from nodes which do not list them.
    type: list
    elements: str
  wait_ready:
    description: Wait for every node in C(nodes) and for the workloads of these namespaces.
    type: list
    elements: str
  timeout:
    type: int
"""

KUBECONFIG = "/etc/kubernetes/admin.conf"
READY_POLL = 3.0
DRAIN_TIMEOUT = 120


class ClusterError(Exception):
    """The cluster said no; the text is for the operator."""


def kubectl(*words, stdin=None, timeout=300):
    argv = ["kubectl", "--kubeconfig", KUBECONFIG, *words]
    # kubectl keeps what it learns about the API; without a home it would ask anew each time.
    env = {**os.environ, "HOME": "/root"}
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False, env=env)
    if done.returncode:
        raise ClusterError(f"kubectl {' '.join(words[:3])}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def apply(manifests, *, check):
    """Apply the documents; names of those that changed."""
    if not manifests:
        return []
    words = ["apply", "-f", "-"] + (["--dry-run=server"] if check else [])
    output = kubectl(*words, stdin="\n---\n".join(manifests))
    return [line for line in output.splitlines() if line.strip() and "unchanged" not in line]


def nodes_now():
    return {item["metadata"]["name"]: item for item in json.loads(kubectl("get", "nodes", "-o", "json"))["items"]}


def label_changes(node, seen):
    """Labels that differ, as `kubectl label` takes them."""
    have = seen["metadata"].get("labels", {})
    return [f"{key}={value}" for key, value in sorted((node.get("labels") or {}).items()) if have.get(key) != value]


def taint_changes(node, seen, managed):
    """Taints to set and managed ones to remove, as `kubectl taint` takes them."""
    have = {(taint["key"], taint["effect"]): taint.get("value", "") for taint in seen["spec"].get("taints", [])}
    wanted = {(taint["key"], taint["effect"]): taint.get("value", "") for taint in node.get("taints") or []}
    changes = [
        f"{key}={value}:{effect}" for (key, effect), value in sorted(wanted.items()) if have.get((key, effect)) != value
    ]
    changes += [f"{key}:{effect}-" for key, effect in sorted(have) if key in managed and (key, effect) not in wanted]
    return changes


def converge_nodes(nodes, managed, *, check):
    changes = []
    present = nodes_now()
    for node in nodes:
        seen = present.get(node["name"])
        if seen is None:
            continue
        for verb, words in (("label", label_changes(node, seen)), ("taint", taint_changes(node, seen, managed))):
            if words:
                changes.append(f"{node['name']} {verb} {' '.join(words)}")
                if not check:
                    kubectl(verb, "node", node["name"], "--overwrite", *words)
    for name in sorted(set(present) - {node["name"] for node in nodes}):
        changes.append(f"{name} removed")
        if not check:
            remove(name)
    return changes


def remove(name):
    """Drain as far as possible, then delete: the machine may be gone already, and its pods with it."""
    words = ["drain", name, "--ignore-daemonsets", "--delete-emptydir-data", "--force", f"--timeout={DRAIN_TIMEOUT}s"]
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in nodes_now()[name]["status"]["conditions"])
    try:
        if ready:
            kubectl(*words, timeout=DRAIN_TIMEOUT + 60)
        else:
            kubectl("cordon", name)
    except (ClusterError, subprocess.TimeoutExpired):
        pass  # its pods are made again elsewhere once the node object is gone
    kubectl("delete", "node", name, "--wait=true")


def waiting_for(names, namespaces):
    """What is not ready yet, one line each."""
    present = nodes_now()
    lines = []
    for name in names:
        conditions = present.get(name, {}).get("status", {}).get("conditions", [])
        ready = [c for c in conditions if c["type"] == "Ready"]
        if not ready:
            lines.append(f"node {name} has not registered")
        elif ready[0]["status"] != "True":
            lines.append(f"node {name}: {ready[0].get('message', '')}")
    for namespace in namespaces:
        found = json.loads(kubectl("get", "deployments,daemonsets", "-n", namespace, "-o", "json"))["items"]
        lines += [line for item in found for line in workload_trouble(item)]
    return lines


def workload_trouble(item):
    """Why a Deployment or DaemonSet is not ready; nothing when it is."""
    status, name = item.get("status", {}), f"{item['kind'].lower()} {item['metadata']['name']}"
    if status.get("observedGeneration") != item["metadata"].get("generation"):
        return [f"{name} has not been looked at yet"]
    if item["kind"] == "DaemonSet":
        want, have = status.get("desiredNumberScheduled", 0), status.get("numberReady", 0)
    else:
        want, have = item["spec"].get("replicas", 1), status.get("readyReplicas", 0)
    return [] if have >= want else [f"{name}: {have} of {want} pods ready"]


def watch_until_ready(names, namespaces, timeout):
    """Wait without asking again and again: each start of kubectl costs an emulated CPU seconds that the cluster needs
    to come up. Whether all is ready is judged afterwards; here a deadline or a pod that was replaced is no error."""
    waits = [["wait", "--for=condition=Ready", *(f"node/{name}" for name in names)]] if names else []
    waits += [["wait", "--for=condition=Ready", "pods", "--all", "-n", namespace] for namespace in namespaces]
    deadline = time.monotonic() + timeout
    for words in waits:
        left = int(deadline - time.monotonic())
        if left > 0:
            with contextlib.suppress(ClusterError):
                kubectl(*words, f"--timeout={left}s", timeout=left + 60)


def wait_ready(names, namespaces, timeout):
    deadline = time.monotonic() + timeout
    if waiting_for(names, namespaces):
        watch_until_ready(names, namespaces, timeout)
    while True:
        lines = waiting_for(names, namespaces)
        if not lines:
            return
        if time.monotonic() > deadline:
            raise ClusterError(f"not ready after {timeout} s: " + "; ".join(lines))
        time.sleep(READY_POLL)


def main():
    module = AnsibleModule(
        argument_spec={
            "manifests": {"type": "list", "elements": "str", "default": []},
            "nodes": {"type": "list", "elements": "dict", "default": []},
            "managed_taints": {"type": "list", "elements": "str", "default": []},
            "wait_ready": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    params, check = module.params, module.check_mode
    try:
        changes = apply(params["manifests"], check=check)
        if params["nodes"]:
            changes += converge_nodes(params["nodes"], params["managed_taints"], check=check)
        if params["wait_ready"] and not check:
            wait_ready([node["name"] for node in params["nodes"]], params["wait_ready"], params["timeout"])
    except (ClusterError, OSError, subprocess.SubprocessError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(changes), changes=changes)


if __name__ == "__main__":
    main()
