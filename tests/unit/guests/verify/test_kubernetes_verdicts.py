"""Judgements of a Kubernetes cluster, and the order in which it is probed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from emulator.core.ports import Completed, GuestAddress
from emulator.core.waiting.pace import Pace
from emulator.core.waiting.watch import Clock
from emulator.guests.inventory.model import NodeGpu
from emulator.guests.verify import kubernetes_verdicts as judge
from emulator.guests.verify.kubernetes_probes import (
    NAMESPACE,
    SERVICE,
    kubernetes_summary,
    probe_manifest,
    verify_kubernetes,
)
from emulator.guests.verify.report import Verdict
from emulator.labfile.model import ClusterKind, ClusterSpec, KubernetesSpec, NodeSpec, Role
from emulator.labfile.networks import NetworkSpec

HEAD, WORKER = "cloud-control-plane", "cloud-gpu-worker-1"
IPS = {HEAD: "10.20.0.10", WORKER: "10.20.0.11"}
POD_IPS = {HEAD: "10.244.10.2", WORKER: "10.244.11.2"}


def node(name: str, gpus: Mapping[str, str] | None = None, *, ready: bool = True, message: str = "") -> dict[str, Any]:
    return {
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {},
        "status": {
            "conditions": [{"type": "Ready", "status": "True" if ready else "False", "message": message}],
            "nodeInfo": {"kubeletVersion": "v1.37.2"},
            "allocatable": {"cpu": "2", "memory": "1Gi", **(gpus or {})},
        },
    }


def pod(name: str, where: str, *, ready: bool = True, **status: Any) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {"nodeName": where},
        "status": {"phase": "Running", "podIP": POD_IPS.get(where, ""), "conditions": conditions, **status},
    }


def listing(*items: dict[str, Any]) -> str:
    return json.dumps({"items": items})


SYSTEM = ("etcd-", "kube-apiserver-", "kube-controller-manager-", "kube-scheduler-", "kube-proxy-", "coredns-")


# ---------------------------------------------------------------- judges
def test_nodes_are_good_when_all_are_ready() -> None:
    nodes = judge.parse_nodes(listing(node(HEAD), node(WORKER)))
    verdict = judge.judge_nodes(nodes, [HEAD, WORKER])
    assert verdict.ok
    assert verdict.detail == "2 nodes Ready, v1.37.2"


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ((node(HEAD),), f"{WORKER} has not joined"),
        ((node(HEAD), node(WORKER, ready=False, message="cni plugin not initialized")), "cni plugin not initialized"),
        ((node(HEAD), node(WORKER), node("stranger")), "stranger is not a node of the lab"),
    ],
)
def test_nodes_are_bad_with_the_reason(items: tuple[dict[str, Any], ...], words: str) -> None:
    verdict = judge.judge_nodes(judge.parse_nodes(listing(*items)), [HEAD, WORKER])
    assert not verdict.ok
    assert words in verdict.detail


@pytest.mark.parametrize("text", ["", "not json", "[]", '{"items": 3}', '{"items": [null, {"status": 7}]}'])
def test_output_that_is_no_listing_proves_nothing(text: str) -> None:
    assert not judge.judge_nodes(judge.parse_nodes(text), [HEAD]).ok
    assert not judge.judge_pods(judge.parse_pods(text)).ok


def test_a_pod_that_cannot_start_says_why() -> None:
    waiting = {"containerStatuses": [{"state": {"waiting": {"reason": "ErrImageNeverPull", "message": "no image"}}}]}
    pods = judge.parse_pods(listing(pod("coredns-1", HEAD, ready=False, **waiting)))
    assert judge.judge_pods(pods).detail == "coredns-1: ErrImageNeverPull: no image"


def test_an_unscheduled_pod_gives_the_schedulers_reason() -> None:
    unplaced = pod("gpu", "", ready=False)
    unplaced["status"]["phase"] = "Pending"
    unplaced["status"]["conditions"] = [
        {
            "type": "PodScheduled",
            "status": "False",
            "message": "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.",
        }
    ]
    (found,) = judge.parse_pods(listing(unplaced))
    assert "Insufficient nvidia.com/gpu" in found.trouble


def test_a_missing_system_pod_is_named() -> None:
    pods = judge.parse_pods(listing(pod("etcd-x", HEAD)))
    assert judge.judge_pods(pods, ["etcd-", "kube-proxy-"]).detail == "no pod of kube-proxy-"


def failed(name: str, owner: dict[str, Any] | None) -> dict[str, Any]:
    item = pod(name, WORKER, ready=False, phase="Failed", reason="Evicted")
    item["metadata"]["ownerReferences"] = [owner] if owner else []
    return item


@pytest.mark.parametrize(
    ("owner", "counts"),
    [
        ({"kind": "ReplicaSet", "controller": True}, False),
        ({"kind": "DaemonSet", "controller": True}, False),
        ({"kind": "Node", "controller": True}, True),
        ({"kind": "ConfigMap"}, True),
        (None, True),
    ],
)
def test_what_is_left_of_a_pod_that_its_controller_replaces_is_no_fault(
    owner: dict[str, Any] | None, counts: bool
) -> None:
    text = listing(pod("coredns-1", HEAD), failed("coredns-0", owner))
    pods = judge.parse_pods(text)
    assert judge.parse_cluster(text).pods == pods
    verdict = judge.judge_pods(pods)
    assert verdict == (Verdict(False, "coredns-0: failed") if counts else Verdict(True, "1 pods Ready"))


def workload(kind: str, wanted: int, ready: int, *, seen: int = 1) -> dict[str, Any]:
    status = {
        "observedGeneration": seen,
        "desiredNumberScheduled": wanted,
        "numberReady": ready,
        "readyReplicas": ready,
    }
    meta = {"name": "coredns", "namespace": "kube-system", "generation": 1}
    return {"kind": kind, "metadata": meta, "spec": {"replicas": wanted}, "status": status}


@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet"])
def test_a_workload_whose_pods_are_not_all_there_is_a_fault(kind: str) -> None:
    lacking = Cluster(nodes=[GOOD], others=(failed("coredns-0", {"kind": "x", "controller": True}),))
    for item, words in (
        (workload(kind, 2, 1), f"{kind.lower()} coredns: 1 of 2 pods ready"),
        (workload(kind, 2, 2, seen=0), f"{kind.lower()} coredns has not been looked at yet"),
        (workload(kind, 2, 2), ""),
    ):
        lacking.others = (*lacking.others[:1], item)
        report = verify_kubernetes(spec(), lacking, ADDRESSES, GPUS, clock=lacking.clock())
        (check,) = [check for check in report.checks if check.name == "system pods"]
        given_up = " (given up after 300 s, the last 300 s of them without progress)" if words else ""
        assert (check.ok, check.detail if words else "") == (not words, words + given_up)


def test_pod_network_wants_every_pair() -> None:
    pods = judge.parse_pods(listing(pod("a", HEAD), pod("b", WORKER)))
    good = [judge.Reach(source, POD_IPS[target], target) for source in IPS for target in IPS]
    assert judge.judge_pod_network(good, pods).ok
    bad = [reach for reach in good if (reach.source, reach.answer) != (WORKER, HEAD)]
    verdict = judge.judge_pod_network(bad, pods)
    assert verdict.detail == f"{WORKER} -> {HEAD} ({POD_IPS[HEAD]}): no answer"


def test_an_answer_of_the_wrong_pod_is_no_answer() -> None:
    pods = judge.parse_pods(listing(pod("a", HEAD), pod("b", WORKER)))
    crossed = [judge.Reach(source, POD_IPS[target], HEAD) for source in IPS for target in IPS]
    assert not judge.judge_pod_network(crossed, pods).ok


def test_service_must_answer_from_every_node() -> None:
    reaches = [judge.Reach(HEAD, SERVICE, WORKER), judge.Reach(WORKER, SERVICE, "")]
    verdict = judge.judge_service(reaches, SERVICE, [HEAD, WORKER])
    assert not verdict.ok
    assert f"from {WORKER}: no answer" in verdict.detail


def test_gpus_are_compared_both_ways() -> None:
    nodes = judge.parse_nodes(listing(node(HEAD), node(WORKER, {"nvidia.com/mig-1g.10gb": "2"})))
    assert judge.judge_gpus(nodes, {WORKER: {"nvidia.com/mig-1g.10gb": 2}}).ok
    short = judge.judge_gpus(nodes, {WORKER: {"nvidia.com/mig-1g.10gb": 3}})
    assert short.detail == f"{WORKER} offers 2 nvidia.com/mig-1g.10gb, the allocation says 3 nvidia.com/mig-1g.10gb"
    assert not judge.judge_gpus(nodes, {}).ok


# ---------------------------------------------------------------- probes
def spec() -> ClusterSpec:
    nodes = tuple(
        NodeSpec(name, role, 2, 2048, 10, IPv4Address(IPS[name]))
        for name, role in ((HEAD, Role.CLOUD_CONTROL_PLANE), (WORKER, Role.CLOUD_GPU_WORKER))
    )
    network = NetworkSpec(ClusterKind.CLOUD, IPv4Network("10.20.0.0/24"), "virbr-cloud")
    return ClusterSpec("demo", "", nodes, {ClusterKind.CLOUD: network}, kubernetes=KubernetesSpec())


class Cluster:
    """A control plane that answers kubectl; `nodes` may change from one question to the next."""

    def __init__(self, *, nodes: list[str], deaf: bool = False, others: tuple[dict[str, Any], ...] = ()) -> None:
        self.nodes = nodes
        self.others = others
        self.deaf = deaf
        self.commands: list[str] = []
        self.time = self.slow = 0.0

    def clock(self) -> Clock:
        return Clock(lambda: self.time, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def ready(self, guest: GuestAddress, *, timeout: float) -> bool:
        return True

    def run(
        self, guest: GuestAddress, command: str, *, timeout: float, check: bool = True, stdin: str | None = None
    ) -> Completed:
        assert guest.name == HEAD
        self.commands.append(command)
        self.time += self.slow if "get nodes" in command else 0.0
        return Completed((command,), 0, self.answer(command), "")

    def answer(self, command: str) -> str:
        if "get nodes" in command:
            nodes = json.loads(self.nodes.pop(0) if len(self.nodes) > 1 else self.nodes[0])["items"]
            pods = [pod(f"{name}{HEAD}", HEAD) for name in SYSTEM]
            return listing(*nodes, *([*pods, *self.others] if "pods" in command else []))
        if f"get pods -n {NAMESPACE}" in command:
            return listing(pod("probe-a", HEAD), pod("probe-b", WORKER))
        if command.startswith("cat "):
            return json.dumps({"tools": "hyperscaler.invalid/kubernetes/tools:1"})
        if " exec " in command:
            lines = [f"{ip} {name}" for name, ip in POD_IPS.items()]
            return "\n".join([*lines, f"{SERVICE} {'' if self.deaf else WORKER}"])
        return ""


ADDRESSES: Mapping[str, GuestAddress] = {name: GuestAddress(name, IPv4Address(ip), "root") for name, ip in IPS.items()}
GOOD = listing(node(HEAD), node(WORKER, {"nvidia.com/mig-1g.10gb": "2"}))
GPUS = {WORKER: (NodeGpu("1g.10gb", 2, simulated=True),)}


def names(report: Any) -> list[tuple[str, bool]]:
    return [(check.name, check.ok) for check in report.checks]


def test_a_good_cluster_passes_everything_and_is_cleaned_up() -> None:
    cluster = Cluster(nodes=[GOOD])
    report = verify_kubernetes(spec(), cluster, ADDRESSES, GPUS, clock=cluster.clock())
    assert report.ok
    assert [name for name, _ in names(report)] == [
        "kubernetes nodes", "system pods", "kubernetes gpus", "pods", "pod network", "service by name",
    ]  # fmt: skip
    assert "delete namespace" in cluster.commands[-1]


def test_a_good_cluster_costs_few_starts_of_kubectl() -> None:
    cluster = Cluster(nodes=[GOOD])
    verify_kubernetes(spec(), cluster, ADDRESSES, GPUS, clock=cluster.clock())
    verbs = [command.split()[5] for command in cluster.commands if "kubectl" in command.split()[:3]]
    assert verbs == ["get", "apply", "rollout", "get", "exec", "exec", "delete"]


def test_probes_of_an_interrupted_run_are_removed_first() -> None:
    leftover = {"kind": "Namespace", "metadata": {"name": NAMESPACE}}
    cluster = Cluster(nodes=[GOOD], others=(leftover,))
    assert verify_kubernetes(spec(), cluster, ADDRESSES, GPUS, clock=cluster.clock()).ok
    verbs = [command.split()[5] for command in cluster.commands if "kubectl" in command.split()[:3]]
    assert verbs[:3] == ["get", "delete", "apply"]


def test_pods_of_add_ons_count_and_those_of_people_do_not() -> None:
    waiting = pod("controller", WORKER, ready=False)
    for namespace, ok in (("ingress-nginx", False), ("traefik", False), ("students", True)):
        waiting["metadata"]["namespace"] = namespace
        cluster = Cluster(nodes=[GOOD], others=(waiting,))
        report = verify_kubernetes(spec(), cluster, ADDRESSES, GPUS, clock=cluster.clock())
        assert ("system pods", ok) in names(report)


def test_checks_are_told_in_their_order_though_they_are_done_in_another() -> None:
    cluster = Cluster(nodes=[listing(node(HEAD)), GOOD])
    told: list[str] = []
    report = verify_kubernetes(
        spec(), cluster, ADDRESSES, GPUS, clock=cluster.clock(), on_check=lambda check: told.append(check.name)
    )
    assert told[:3] == ["kubernetes nodes", "system pods", "kubernetes gpus"]
    assert [check.seconds for check in report.checks[:2]] == [2.0, 0.0]


def test_it_waits_for_a_node_that_comes_late() -> None:
    cluster = Cluster(nodes=[listing(node(HEAD)), listing(node(HEAD)), GOOD])
    report = verify_kubernetes(spec(), cluster, ADDRESSES, GPUS, clock=cluster.clock())
    assert report.ok
    assert report.checks[0].seconds == 4.0


def test_pods_are_not_tried_on_a_cluster_that_is_not_up() -> None:
    cluster = Cluster(nodes=[listing(node(HEAD))])
    report = verify_kubernetes(spec(), cluster, ADDRESSES, clock=cluster.clock())
    assert names(report) == [("kubernetes nodes", False), ("system pods", True), ("pods", False)]
    assert not any("apply" in command for command in cluster.commands)


class Busy(Cluster):
    """Its API server answers some requests to make pods too late."""

    def __init__(self, late: int) -> None:
        super().__init__(nodes=[GOOD])
        self.late = late

    def run(
        self, guest: GuestAddress, command: str, *, timeout: float, check: bool = True, stdin: str | None = None
    ) -> Completed:
        if " apply " in command and self.late:
            self.late -= 1
            self.commands.append(command)
            return Completed((command,), 1, "", "request canceled (Client.Timeout exceeded while awaiting headers)")
        return super().run(guest, command, timeout=timeout, check=check, stdin=stdin)


def test_a_busy_api_server_is_asked_again_for_the_pods() -> None:
    cluster = Busy(late=3)
    assert verify_kubernetes(spec(), cluster, ADDRESSES, GPUS, clock=cluster.clock()).ok
    applied = [command for command in cluster.commands if " apply " in command]
    assert len(applied) == 4
    assert all("--validate=false" in command for command in applied)


def test_an_api_server_that_never_makes_the_pods_is_given_up() -> None:
    cluster = Busy(late=10**6)
    report = verify_kubernetes(spec(), cluster, ADDRESSES, GPUS, clock=cluster.clock())
    assert [check.name for check in report.failed] == ["pods"]
    assert "Client.Timeout exceeded" in report.failed[0].detail


def test_a_service_without_a_name_fails_and_is_cleaned_up() -> None:
    cluster = Cluster(nodes=[GOOD], deaf=True)
    report = verify_kubernetes(spec(), cluster, ADDRESSES, GPUS, clock=cluster.clock())
    assert [check.name for check in report.failed] == ["service by name"]
    assert "delete namespace" in cluster.commands[-1]


def test_summary_counts_nodes_and_gpus() -> None:
    cluster = Cluster(nodes=[GOOD])
    assert (
        kubernetes_summary(spec(), cluster, ADDRESSES, Pace(factor=4.0))
        == "2 of 2 nodes Ready, Kubernetes v1.37.2, 2 nvidia.com/mig-1g.10gb"
    )
    # kubectl on the node ends with the question: nobody waits for its answer any more.
    assert cluster.commands[-1].endswith("get nodes -o json --request-timeout=48s")


def test_nodes_that_come_one_after_the_other_are_waited_for_beyond_the_time() -> None:
    """Each look costs minutes on this host. The time is over long before the last node is there."""
    late = [listing(node(HEAD)), listing(node(HEAD)), GOOD]
    cluster = Cluster(nodes=late)
    cluster.slow = 400.0
    report = verify_kubernetes(spec(), cluster, ADDRESSES, GPUS, clock=cluster.clock())
    assert report.ok
    assert report.checks[0].seconds > 800


def test_the_probe_runs_on_every_node_whatever_its_taints() -> None:
    kinds = {item["kind"]: item for item in json.loads(probe_manifest("tools:1"))["items"]}
    template = kinds["DaemonSet"]["spec"]["template"]
    assert template["spec"]["tolerations"] == [{"operator": "Exists"}]
    assert template["metadata"]["labels"].items() >= kinds["Service"]["spec"]["selector"].items()
