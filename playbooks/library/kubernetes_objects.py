#!/usr/bin/python3
"""Ansible module: objects, node labels and taints of a Kubernetes cluster, in one round trip on its control plane.

Objects are applied with `kubectl apply`, which changes only what differs. Nodes that are no longer the lab's are
drained and deleted, and nodes of the lab that a run cordoned which did not end take pods again. At the end, if asked,
it waits until all nodes and workloads are ready.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Required, TypedDict

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.kubernetes_apply import ClusterError, Object, apply, kubectl, served
from ansible.module_utils.pace import Watch, seconds

DOCUMENTATION = r"""
module: kubernetes_objects
short_description: Objects, labels and taints of a cluster in one round trip
options:
  manifests:
    description: Documents to apply, YAML or JSON, several per text.
    type: list
    elements: str
  optional:
    description: Objects to apply before C(manifests), each only where the API server serves its kind.
    type: list
    elements: dict
  addons:
    description: Add-ons, each with C(name), C(path) of its documents on this node and C(edits) (C(from), C(to)) made
      to their text. One that was applied once and is not listed any more is an error, unless there is no list at all.
    type: list
    elements: dict
  absent:
    description: Objects of this program to delete, each with C(api_version), C(kind), C(namespace) and C(name), and
      C(unmarked) for one that an older version made, which did not mark it.
    type: list
    elements: dict
  known:
    description: Names of nodes to look for while objects are applied; those that the cluster has come back.
    type: list
    elements: str
  nodes:
    description: The nodes of the lab, each with C(name), C(labels), C(taints) (C(key), C(value), C(effect)) and
      C(joined). Others that were nodes of the lab are drained and deleted. Empty leaves the nodes as they are.
    type: list
    elements: dict
  managed_taints:
    description: Keys of taints that are removed from nodes which do not list them.
    type: list
    elements: str
  wait_ready:
    description: Wait for every node in C(nodes) that has C(joined), and for the workloads of these namespaces.
    type: list
    elements: str
  timeout:
    type: int
"""

RETURN = r"""
changes:
  description: What was changed, one line each.
  type: list
left_out:
  description: Kinds of C(optional) that the API server does not serve.
  type: list
known:
  description: Those nodes of C(known) that the cluster has.
  type: list
"""


class Taint(TypedDict):
    key: str
    value: str
    effect: str


class Node(TypedDict, total=False):
    name: Required[str]
    labels: dict[str, str] | None
    taints: list[Taint] | None
    joined: bool


READY_POLL = 3.0
# kubectl waits for the pods that it found when it began, one that was deleted since to the very end of its time.
WATCH_SECONDS = 60
DRAIN_TIMEOUT = 60
# On a node from the moment that a departure cordons it; see emulator/lab/drain.py.
DRAINING = "hyperscaler/draining"
# On every node of the lab since its first run.
OURS = "hyperscaler/role"

STAY = {"metadata": {"annotations": {DRAINING: None}}, "spec": {"unschedulable": None}}


def snapshot() -> tuple[dict[str, Object], list[Object]]:
    """Nodes by name, and Deployments and DaemonSets, of one start of kubectl: each costs an emulated CPU seconds."""
    try:
        answer = json.loads(kubectl("get", "nodes,deployments,daemonsets", "--all-namespaces", "-o", "json"))
    except (ValueError, RecursionError) as error:
        raise ClusterError(f"kubectl's listing is not JSON: {error}") from error
    items = answer.get("items") if isinstance(answer, dict) else None
    if not isinstance(items, list) or not all(map(is_object, items)):
        raise ClusterError("kubectl's listing is not one of nodes, deployments and daemonsets")
    nodes = {item["metadata"]["name"]: item for item in items if item["kind"] == "Node"}
    return nodes, [item for item in items if item["kind"] != "Node"]


def is_object(item: object) -> bool:
    """Whether an object of a listing has what is read of it below, in the right types."""
    if not isinstance(item, dict) or not all(
        isinstance(item.get(key, {}), dict) for key in ("metadata", "spec", "status")
    ):
        return False
    meta, spec, status = (item.get(key, {}) for key in ("metadata", "spec", "status"))
    strings = [item.get("kind"), meta.get("name"), *([] if item.get("kind") == "Node" else [meta.get("namespace")])]
    counts = [status.get(key, 0) for key in ("desiredNumberScheduled", "numberReady", "readyReplicas")]
    return (
        all(isinstance(value, str) for value in strings)
        and all(isinstance(value, int) for value in [*counts, spec.get("replicas", 1)])
        and isinstance(meta.get("labels", {}), dict)
        and all_have(spec.get("taints", []), "key", "effect")
        and all_have(status.get("conditions", []), "type", "status")
    )


def all_have(entries: object, *keys: str) -> bool:
    """Whether it is a list of mappings that hold a string under each of `keys`."""
    return isinstance(entries, list) and all(
        isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in keys) for entry in entries
    )


def label_changes(node: Node, seen: Object) -> list[str]:
    """Labels that differ, as `kubectl label` takes them."""
    have = seen["metadata"].get("labels", {})
    return [f"{key}={value}" for key, value in sorted((node.get("labels") or {}).items()) if have.get(key) != value]


def taint_changes(node: Node, seen: Object, managed: Collection[str]) -> list[str]:
    """Taints to set and managed ones to remove, as `kubectl taint` takes them."""
    have = {(taint["key"], taint["effect"]): taint.get("value", "") for taint in seen.get("spec", {}).get("taints", [])}
    wanted = {(taint["key"], taint["effect"]): taint.get("value", "") for taint in node.get("taints") or []}
    changes = [
        f"{key}={value}:{effect}" for (key, effect), value in sorted(wanted.items()) if have.get((key, effect)) != value
    ]
    changes += [f"{key}:{effect}-" for key, effect in sorted(have) if key in managed and (key, effect) not in wanted]
    return changes


def converge_nodes(
    nodes: Sequence[Node], present: Mapping[str, Object], managed: Collection[str], *, check: bool
) -> list[str]:
    """Labels and taints of the lab's nodes among those `present`, and the departure of all others."""
    changes = []
    for node in nodes:
        seen = present.get(node["name"])
        if seen is None:
            continue
        for verb, words in (("label", label_changes(node, seen)), ("taint", taint_changes(node, seen, managed))):
            if words:
                changes.append(f"{node['name']} {verb} {' '.join(words)}")
                if not check:
                    kubectl(verb, "node", node["name"], "--overwrite", *words)
        if DRAINING in seen["metadata"].get("annotations", {}):
            # The run that drained it did not end, and then the file kept the node.
            changes.append(f"{node['name']} takes pods again")
            if not check:
                kubectl("patch", "node", node["name"], "--type=merge", "-p", json.dumps(STAY))
    departed = set(present) - {node["name"] for node in nodes}
    # One without our label was never a node of this lab: it was joined by hand and stays, and verify names it.
    for name in sorted(name for name in departed if OURS in present[name]["metadata"].get("labels", {})):
        trouble = "" if check else remove(name, ready=is_ready(present[name]))
        changes.append(f"{name} removed" + (f", not drained: {trouble}" if trouble else ""))
    return changes


def is_ready(node: Object) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in node.get("status", {}).get("conditions", []))


def remove(name: str, *, ready: bool) -> str:
    """Drain as far as possible, then delete; why it could not be drained. Nodes are drained before their machine goes,
    so what is met here is mostly gone already: the wait is short, and its pods are made again elsewhere."""
    trouble = ""
    try:
        if ready:
            words = ["--ignore-daemonsets", "--delete-emptydir-data", "--force", f"--timeout={seconds(DRAIN_TIMEOUT)}s"]
            kubectl("drain", name, *words, timeout=DRAIN_TIMEOUT + 60)
    except (ClusterError, subprocess.TimeoutExpired) as error:
        trouble = str(error).splitlines()[-1]
    words = ["--ignore-not-found", f"--timeout={seconds(DRAIN_TIMEOUT)}s"]
    kubectl("delete", "node", name, *words, timeout=DRAIN_TIMEOUT + 60)
    return trouble


def waiting_for(
    names: Sequence[str], namespaces: Collection[str], present: Mapping[str, Object], workloads: Sequence[Object]
) -> list[str]:
    """What is not ready yet, one line each, of what `snapshot` saw."""
    lines = []
    for name in names:
        conditions = present.get(name, {}).get("status", {}).get("conditions", [])
        ready = [c for c in conditions if c["type"] == "Ready"]
        if not ready:
            lines.append(f"node {name} has not registered")
        elif ready[0]["status"] != "True":
            lines.append(f"node {name}: {ready[0].get('message', '')}")
    lines += [
        line for item in workloads if item["metadata"]["namespace"] in namespaces for line in workload_trouble(item)
    ]
    return lines


def workload_trouble(item: Object) -> list[str]:
    """Why a Deployment or DaemonSet is not ready; nothing when it is."""
    status, name = item.get("status", {}), f"{item['kind'].lower()} {item['metadata']['name']}"
    if status.get("observedGeneration") != item["metadata"].get("generation"):
        return [f"{name} has not been looked at yet"]
    if item["kind"] == "DaemonSet":
        want, have = status.get("desiredNumberScheduled", 0), status.get("numberReady", 0)
    else:
        want, have = item.get("spec", {}).get("replicas", 1), status.get("readyReplicas", 0)
    return [] if have >= want else [f"{name}: {have} of {want} pods ready"]


def watch_until_ready(names: Sequence[str], namespaces: Collection[str], timeout: float) -> None:
    """Wait without asking again and again: each start of kubectl costs an emulated CPU seconds that the cluster needs
    to come up. Whether all is ready is judged afterwards; here a deadline or a pod that was replaced is no error."""
    waits = [["wait", "--for=condition=Ready", *(f"node/{name}" for name in names)]] if names else []
    # Pods of Jobs end, and are never Ready then; nor are those that failed, which controllers make anew.
    which = ["--selector=!job-name", "--field-selector=status.phase!=Failed"]
    waits += [["wait", "--for=condition=Ready", "pods", *which, "-n", namespace] for namespace in namespaces]
    deadline = time.monotonic() + timeout
    for words in waits:
        left = int(deadline - time.monotonic())
        if left > 0:
            with contextlib.suppress(ClusterError):
                kubectl(*words, f"--timeout={left}s", timeout=left + 60)


def wait_ready(
    names: Sequence[str],
    namespaces: Collection[str],
    seen: tuple[Mapping[str, Object], Sequence[Object]],
    timeout: float,
) -> None:
    """Wait until nodes and workloads are ready; `seen` is a snapshot that may say so at once."""
    watch = Watch(timeout)
    if not waiting_for(names, namespaces, *seen):
        return
    watching = True
    while True:
        if watching:
            began = time.monotonic()
            watch_until_ready(names, namespaces, min(WATCH_SECONDS, timeout))
            watching = time.monotonic() - began >= WATCH_SECONDS  # it saw no end, which may be that of a pod
        lines = waiting_for(names, namespaces, *snapshot())
        if not lines:
            return
        if given_up := watch.over(tuple(lines)):
            raise ClusterError(f"not ready {given_up}: " + "; ".join(lines))
        if not watching:
            time.sleep(READY_POLL)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "manifests": {"type": "list", "elements": "str", "default": []},
            "optional": {"type": "list", "elements": "dict", "default": []},
            "absent": {"type": "list", "elements": "dict", "default": []},
            "addons": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "path": {"type": "path", "required": True},
                    "edits": {"type": "list", "elements": "dict", "default": []},
                },
            },
            "known": {"type": "list", "elements": "str", "default": []},
            "nodes": {"type": "list", "elements": "dict", "default": []},
            "managed_taints": {"type": "list", "elements": "str", "default": []},
            "wait_ready": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    params, check = module.params, module.check_mode
    try:
        changes: list[str] = []
        known: list[str] = []
        there, left_out = served(params["optional"])
        manifests = [*map(json.dumps, there), *params["manifests"]]
        if manifests or params["addons"]:
            changes, known = apply(manifests, params["addons"], params["absent"], params["known"], check=check)
        seen = snapshot() if params["nodes"] or params["wait_ready"] else ({}, [])
        if params["nodes"]:
            changes += converge_nodes(params["nodes"], seen[0], params["managed_taints"], check=check)
        if params["wait_ready"] and not check:
            names = [node["name"] for node in params["nodes"] if node.get("joined", True)]
            wait_ready(names, params["wait_ready"], seen, params["timeout"])
    except (ClusterError, OSError, subprocess.SubprocessError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(changes), changes=changes, known=known, left_out=left_out)


if __name__ == "__main__":
    main()
