"""Checks of a cluster's add-ons: metrics of each node, a policy that packets prove."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from emulator.core.ports import Completed, GuestAddress
from emulator.guests.verify import kubernetes_addons as addons
from emulator.guests.verify.kubernetes_probes import verify_kubernetes
from emulator.labfile.model import ClusterSpec
from tests.unit.guests.verify.test_kubernetes_verdicts import ADDRESSES, GOOD, GPUS, HEAD, WORKER, Cluster, names, spec

METRICS_SERVER = {
    "kind": "Deployment",
    "metadata": {"name": "metrics-server", "namespace": "kube-system", "generation": 1},
    "spec": {"replicas": 1},
    "status": {"observedGeneration": 1, "readyReplicas": 1, "replicas": 1, "updatedReplicas": 1},
}


def metrics(**usage: dict[str, str]) -> str:
    items = [{"metadata": {"name": name.replace("_", "-")}, "usage": figures} for name, figures in usage.items()]
    return json.dumps({"kind": "NodeMetricsList", "items": items})


FULL = metrics(a={"cpu": "12m", "memory": "1Ki"}, b={"cpu": "3n", "memory": "9Ki"})


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (FULL, "CPU and memory of 2 of 2 nodes"),
        (metrics(a={"cpu": "12m", "memory": "1Ki"}), "no metrics of b"),
        (metrics(a={"cpu": "0", "memory": "1Ki"}, b={"cpu": "1m", "memory": "0"}), "no metrics of a, b"),
        ("", "the metrics API's answer is no list of nodes"),
        ("[]", "the metrics API's answer is no list of nodes"),
        ('{"items": [{"metadata": {}}]}', "the metrics API's answer is no list of nodes"),
        ('{"items": 3}', "the metrics API's answer is no list of nodes"),
    ],
)
def test_every_node_has_figures(answer: str, detail: str) -> None:
    verdict = addons.judge_metrics(answer, ["a", "b"])
    assert (verdict.ok, verdict.detail) == (detail.startswith("CPU"), detail)


@pytest.mark.parametrize(
    ("answers", "detail"),
    [
        (("closed", "closed"), "a policy keeps packets away on 2 ways between nodes"),
        (("closed", "open"), "a policy that lets nothing in does not hold: b to a"),
        # A pod that cannot be asked is no proof that it gets nothing.
        (("closed", ""), "no answer from the pods of b to a"),
    ],
)
def test_a_policy_is_proved_by_packets(answers: tuple[str, str], detail: str) -> None:
    verdict = addons.judge_policy(dict(zip(("a to b", "b to a"), answers, strict=True)))
    assert (verdict.ok, verdict.detail) == (detail.startswith("a policy keeps"), detail)


class WithAddons(Cluster):
    """One with metrics-server, whose policies take hold after some looks."""

    def __init__(self, *, open_looks: int = 0, late: int = 0, **others: Any) -> None:
        super().__init__(nodes=[GOOD], others=(METRICS_SERVER,), **others)
        self.open_looks, self.late = open_looks, late
        self.policies: list[str] = []

    def answer(self, command: str) -> str:
        if "metrics.k8s.io" in command:
            self.late -= 1
            figures = {"cpu": "5m", "memory": "2Mi"}
            return metrics(**{HEAD.replace("-", "_"): figures}, **({} if self.late >= 0 else {WORKER: figures}))
        if " exec " in command and "closed" in command:
            self.open_looks -= 1
            return "open\n" if self.open_looks >= 0 else "closed\n"
        return super().answer(command)


def denying() -> ClusterSpec:
    made = spec()
    assert made.kubernetes is not None
    return dataclasses.replace(made, kubernetes=dataclasses.replace(made.kubernetes, network_policy="default-deny"))


def test_a_cluster_with_addons_has_a_check_of_each() -> None:
    cluster = WithAddons(open_looks=3, late=2)
    report = verify_kubernetes(denying(), cluster, ADDRESSES, GPUS, clock=cluster.clock())
    assert report.ok, report.failed
    assert [name for name, _ in names(report)][-2:] == ["metrics", "network policy"]
    assert "delete namespace" in cluster.commands[-1], "the policy goes with the namespace"


class LateForPolicies(WithAddons):
    """Its API server answers some requests to store the policy too late."""

    def run(
        self, guest: GuestAddress, command: str, *, timeout: float, check: bool = True, stdin: str | None = None
    ) -> Completed:
        if " apply " in command and "NetworkPolicy" in (stdin or ""):
            self.policies.append(command)
            if len(self.policies) <= 3:
                return Completed((command,), 1, "", "request canceled (Client.Timeout exceeded)")
        return super().run(guest, command, timeout=timeout, check=check, stdin=stdin)


def test_a_busy_api_server_is_asked_again_for_the_policy() -> None:
    cluster = LateForPolicies()
    assert verify_kubernetes(denying(), cluster, ADDRESSES, GPUS, clock=cluster.clock()).ok
    assert len(cluster.policies) == 4
    assert all("--validate=false" in command for command in cluster.policies)


def test_without_the_wish_no_policy_is_tried() -> None:
    cluster = WithAddons()
    assert names(verify_kubernetes(spec(), cluster, ADDRESSES, GPUS, clock=cluster.clock()))[-1] == ("metrics", True)


def test_a_policy_that_nobody_enforces_fails_the_cluster() -> None:
    cluster = WithAddons(open_looks=10**6)
    report = verify_kubernetes(denying(), cluster, ADDRESSES, GPUS, clock=cluster.clock())
    (check,) = report.failed
    assert check.name == "network policy"
    assert "does not hold" in check.detail and "given up after" in check.detail
    assert "delete namespace" in cluster.commands[-1]


def test_pods_that_do_not_reach_each_other_prove_no_policy() -> None:
    cluster = WithAddons(deaf=True)
    report = verify_kubernetes(denying(), cluster, ADDRESSES, GPUS, clock=cluster.clock())
    assert "network policy" not in [name for name, _ in names(report)]
