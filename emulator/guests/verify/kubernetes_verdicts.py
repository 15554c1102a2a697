"""What a working Kubernetes cluster looks like: judgements of what kubectl and the probe pods say. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from emulator.core.units import natural
from emulator.guests.verify.report import Verdict


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node as the API server reports it; `trouble` is empty when it is Ready. `allocatable` counts whole units."""

    name: str
    trouble: str
    version: str
    allocatable: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PodState:
    """A pod; `trouble` is empty when it is Ready or has ended well."""

    name: str
    node: str
    ip: str
    trouble: str
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class WorkloadState:
    """A Deployment or DaemonSet; `trouble` is empty when all of its pods are Ready."""

    name: str
    namespace: str
    trouble: str


@dataclass(frozen=True, slots=True)
class ClusterState:
    """What one listing of several kinds says: nodes by name, pods that count, names of namespaces, workloads."""

    nodes: Mapping[str, NodeState]
    pods: tuple[PodState, ...]
    namespaces: frozenset[str]
    workloads: tuple[WorkloadState, ...] = ()

    def pods_of(self, namespaces: Sequence[str]) -> tuple[PodState, ...]:
        return tuple(pod for pod in self.pods if pod.namespace in namespaces)

    def workloads_of(self, namespaces: Sequence[str]) -> tuple[WorkloadState, ...]:
        return tuple(workload for workload in self.workloads if workload.namespace in namespaces)


def parse_cluster(text: str) -> ClusterState:
    """`kubectl get nodes,namespaces,pods,deployments,daemonsets -A -o json`; empty when it is not that."""
    items = _items(text)
    nodes = (_node(item) for item in items if item.get("kind") == "Node")
    return ClusterState(
        {node.name: node for node in nodes},
        _pods(item for item in items if item.get("kind") == "Pod"),
        frozenset(_text(item, "metadata", "name") for item in items if item.get("kind") == "Namespace"),
        tuple(_workload(item) for item in items if item.get("kind") in ("Deployment", "DaemonSet")),
    )


def parse_nodes(text: str) -> dict[str, NodeState]:
    """`kubectl get nodes -o json`, by name; empty when it is not that."""
    nodes = (_node(item) for item in _items(text))
    return {node.name: node for node in nodes}


def parse_pods(text: str) -> tuple[PodState, ...]:
    """`kubectl get pods -o json`, less the pods that a controller replaces."""
    return _pods(_items(text))


def _items(text: str) -> Sequence[Mapping[str, object]]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    items = document.get("items") if isinstance(document, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else ()


def _at(item: object, *path: str) -> object:
    for key in path:
        item = item.get(key) if isinstance(item, dict) else None
    return item


def _text(item: object, *path: str) -> str:
    found = _at(item, *path)
    return found if isinstance(found, str) else ""


def _conditions(item: object) -> dict[str, Mapping[str, object]]:
    found = _at(item, "status", "conditions")
    if not isinstance(found, list):
        return {}
    return {_text(one, "type"): one for one in found if isinstance(one, dict)}


def _node(item: Mapping[str, object]) -> NodeState:
    conditions = _conditions(item)
    ready = conditions.get("Ready", {})
    trouble = ""
    if ready.get("status") != "True":
        trouble = _text(ready, "message") or _text(ready, "reason") or "has not reported yet"
    elif _at(item, "spec", "unschedulable") is True:
        trouble = "is cordoned"
    raw = _at(item, "status", "allocatable")
    counts = {
        name: count
        for name, value in (raw.items() if isinstance(raw, dict) else ())
        if "/" in name and isinstance(value, str) and (count := natural(value)) is not None
    }
    return NodeState(
        _text(item, "metadata", "name"), trouble, _text(item, "status", "nodeInfo", "kubeletVersion"), counts
    )


def _pods(items: Iterable[Mapping[str, object]]) -> tuple[PodState, ...]:
    return tuple(_pod(item) for item in items if not _is_replaced(item))


def _is_replaced(item: object) -> bool:
    """Whether it is a pod that failed (was evicted, or its node was switched off) and that its controller makes anew
    under another name: what is left of it stays listed for long. A node owns its static pods and replaces none."""
    owners = _at(item, "metadata", "ownerReferences")
    return _text(item, "status", "phase") == "Failed" and any(
        _at(owner, "controller") is True and _at(owner, "kind") != "Node"
        for owner in (owners if isinstance(owners, list) else ())
    )


def _workload(item: Mapping[str, object]) -> WorkloadState:
    kind, name = _text(item, "kind").lower(), _text(item, "metadata", "name")
    if kind == "daemonset":
        wanted, ready = _count(item, "status", "desiredNumberScheduled"), _count(item, "status", "numberReady")
    else:
        wanted, ready = _count(item, "spec", "replicas", default=1), _count(item, "status", "readyReplicas")
    trouble = f"{kind} {name}: {ready} of {wanted} pods ready" if ready < wanted else ""
    if _at(item, "status", "observedGeneration") != _at(item, "metadata", "generation"):
        trouble = f"{kind} {name} has not been looked at yet"
    return WorkloadState(name, _text(item, "metadata", "namespace"), trouble)


def _count(item: object, *path: str, default: int = 0) -> int:
    found = _at(item, *path)
    return found if isinstance(found, int) else default


def _pod(item: Mapping[str, object]) -> PodState:
    phase = _text(item, "status", "phase")
    ready = _conditions(item).get("Ready", {})
    trouble = ""
    if phase != "Succeeded" and ready.get("status") != "True":
        trouble = _waiting(item) or _scheduling(item) or phase.lower() or "unknown"
    return PodState(
        _text(item, "metadata", "name"),
        _text(item, "spec", "nodeName"),
        _text(item, "status", "podIP"),
        trouble,
        _text(item, "metadata", "namespace"),
    )


def _waiting(item: object) -> str:
    statuses = _at(item, "status", "containerStatuses")
    for one in statuses if isinstance(statuses, list) else ():
        reason = _text(one, "state", "waiting", "reason")
        if reason:
            message = _text(one, "state", "waiting", "message")
            return f"{reason}: {message}" if message else reason
    return ""


def _scheduling(item: object) -> str:
    return _text(_conditions(item).get("PodScheduled", {}), "message")


# ---------------------------------------------------------------- judgements
def judge_nodes(nodes: Mapping[str, NodeState], expected: Sequence[str]) -> Verdict:
    """Every node of the lab is Ready, and there are no others."""
    lines = [f"{name} has not joined" for name in expected if name not in nodes]
    lines += [f"{name}: {nodes[name].trouble}" for name in expected if name in nodes and nodes[name].trouble]
    lines += [f"{name} is not a node of the lab" for name in sorted(set(nodes) - set(expected))]
    if lines:
        return Verdict(False, "; ".join(lines))
    versions = ", ".join(sorted({node.version for node in nodes.values()}))
    return Verdict(True, f"{len(expected)} nodes Ready, {versions}")


def judge_pods(
    pods: Iterable[PodState], needed: Sequence[str] = (), workloads: Iterable[WorkloadState] = ()
) -> Verdict:
    """Every pod is Ready, for each name in `needed` there is a pod whose name begins with it, and every workload has
    all of its pods."""
    pods = tuple(pods)
    lines = [f"{pod.name}: {pod.trouble}" for pod in pods if pod.trouble]
    lines += [workload.trouble for workload in workloads if workload.trouble]
    lines += [f"no pod of {name}" for name in needed if not any(pod.name.startswith(name) for pod in pods)]
    if lines or not pods:
        return Verdict(False, "; ".join(lines) or "there are no pods")
    return Verdict(True, f"{len(pods)} pods Ready")


def judge_spread(pods: Iterable[PodState], nodes: Sequence[str]) -> Verdict:
    """On each node of `nodes` runs a Ready probe pod with an address."""
    pods = tuple(pods)
    running = {pod.node for pod in pods if not pod.trouble and pod.ip}
    missing = [node for node in nodes if node not in running]
    if not missing:
        return Verdict(True, f"a pod runs on each of {', '.join(nodes)}")
    reasons = {pod.node: pod.trouble for pod in pods if pod.trouble}
    lines = [f"none on {node}" + (f" ({reasons[node]})" if node in reasons else "") for node in missing]
    unplaced = [pod.trouble for pod in pods if pod.trouble and not pod.node]
    return Verdict(False, "; ".join([*lines, *unplaced]))


@dataclass(frozen=True, slots=True)
class Reach:
    """One attempt of a probe pod on `source` to get the page at `target`; `answer` is what came, empty for nothing."""

    source: str
    target: str
    answer: str


def parse_reaches(source: str, output: str) -> tuple[Reach, ...]:
    """Lines `TARGET ANSWER` that the probe pod on `source` printed."""
    rows = (line.split(" ", 1) for line in output.splitlines() if line.strip())
    return tuple(Reach(source, row[0], row[1].strip() if len(row) > 1 else "") for row in rows)


def judge_pod_network(reaches: Iterable[Reach], pods: Iterable[PodState]) -> Verdict:
    """Each probe pod reaches every probe pod by its address, on its own node and across nodes."""
    node_of = {pod.ip: pod.node for pod in pods}
    seen = {(reach.source, reach.target): reach.answer for reach in reaches}
    lines = []
    for source in sorted(set(node_of.values())):
        for ip, node in sorted(node_of.items()):
            answer = seen.get((source, ip), "")
            if answer != node:
                lines.append(f"{source} -> {node} ({ip}): {answer or 'no answer'}")
    count = len(node_of) ** 2
    return Verdict(False, "; ".join(lines)) if lines else Verdict(True, f"{count} of {count} pairs of pods")


def judge_service(reaches: Iterable[Reach], name: str, nodes: Sequence[str]) -> Verdict:
    """From each node the service answers by its name; any of its pods may."""
    answers = {reach.source: reach.answer for reach in reaches if reach.target == name}
    lines = [f"from {node}: {answers.get(node) or 'no answer'}" for node in nodes if answers.get(node, "") not in nodes]
    if lines:
        return Verdict(False, f"{name} " + "; ".join(lines))
    return Verdict(True, f"{name} answers from every node")


def judge_gpus(nodes: Mapping[str, NodeState], expected: Mapping[str, Mapping[str, int]]) -> Verdict:
    """The nodes offer exactly the GPU resources that the allocation gave them."""
    lines, offered = [], 0
    for name, node in sorted(nodes.items()):
        have = {key: count for key, count in node.allocatable.items() if key.startswith("nvidia.com/") and count}
        want = dict(expected.get(name, {}))
        offered += sum(have.values())
        if have != want:
            lines.append(f"{name} offers {_counts(have)}, the allocation says {_counts(want)}")
    return Verdict(False, "; ".join(lines)) if lines else Verdict(True, f"{offered} GPUs as allocated")


def _counts(resources: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(resources.items())) or "none"


def summarise(nodes: Mapping[str, NodeState]) -> str:
    """One line for a status display."""
    if not nodes:
        return "no nodes"
    ready = sum(1 for node in nodes.values() if not node.trouble)
    gpus: dict[str, int] = {}
    for node in nodes.values():
        for name, count in node.allocatable.items():
            if name.startswith("nvidia.com/") and count:
                gpus[name] = gpus.get(name, 0) + count
    parts = [f"{ready} of {len(nodes)} nodes Ready"]
    versions = sorted({node.version for node in nodes.values() if node.version})
    release = [f"Kubernetes {' and '.join(versions)}"] if versions else []
    return ", ".join([*parts, *release, *([_counts(gpus)] if gpus else [])])
