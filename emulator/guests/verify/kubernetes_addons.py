"""Whether add-ons of a Kubernetes cluster do their work: metrics of every node, policies that keep packets away.

The probe pods of `kubernetes_probes` are there, and have reached each other. `Kubectl` runs kubectl on the control
plane: output and complaint, and with a complaint the output is not reliable.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence

from emulator.core.pool import threads
from emulator.core.waiting.watch import Clock, Look, Patience, wait_until
from emulator.guests.verify.kubernetes_verdicts import PodState
from emulator.guests.verify.report import CheckResult, Verdict, after_waiting, check_from

Kubectl = Callable[..., tuple[str, str]]

_METRICS = "get --raw /apis/metrics.k8s.io/v1beta1/nodes"
_POLL_SECONDS = 5.0
_AGAIN_SECONDS = 2.0
# Of one attempt to get a page that a policy keeps away: it lasts as long.
_PAGE_SECONDS = 5
_OPEN, _CLOSED = "open", "closed"


def apply_own(kubectl: Kubectl, manifest: str, patience: Patience, clock: Clock) -> str:
    """What the API server complains of when it gets objects of ours; empty when it has them. It is asked again: a busy
    one answers late, or not at all. The manifest is ours, so kubectl does not fetch the schema of all objects first,
    several megabytes that an emulated API server needs its time for."""

    def ask() -> Look[str]:
        _, complaint = kubectl("apply --validate=false -f -", stdin=manifest)
        return Look(complaint, not complaint, sign=complaint, pause=_AGAIN_SECONDS)

    return wait_until(ask, patience, clock=clock).value


def metrics_check(kubectl: Kubectl, nodes: Sequence[str], patience: Patience, clock: Clock) -> CheckResult:
    """Every node has figures, which metrics-server got from its kubelet over a verified connection."""
    started = clock.now()

    def look() -> Look[Verdict]:
        output, complaint = kubectl(_METRICS)
        verdict = Verdict(False, complaint) if complaint else judge_metrics(output, nodes)
        return Look(verdict, verdict.ok, sign=verdict.detail, pause=_POLL_SECONDS)

    waited = wait_until(look, patience, clock=clock)
    return check_from("metrics", after_waiting(waited.value, waited.given_up), clock.now() - started)


def judge_metrics(output: str, nodes: Sequence[str]) -> Verdict:
    """`NodeMetricsList` of metrics.k8s.io/v1beta1: every node uses some CPU and memory."""
    try:
        items = json.loads(output)["items"]
        usage = {item["metadata"]["name"]: item["usage"] for item in items}
        used = {name for name, figures in usage.items() if figures["cpu"] != "0" and figures["memory"] != "0"}
    except (ValueError, KeyError, TypeError, RecursionError):
        return Verdict(False, "the metrics API's answer is no list of nodes")
    missing = [name for name in nodes if name not in used]
    if missing:
        return Verdict(False, f"no metrics of {', '.join(missing)}")
    return Verdict(True, f"CPU and memory of {len(nodes)} of {len(nodes)} nodes")


def policy_check(
    kubectl: Kubectl, namespace: str, port: int, pods: Sequence[PodState], patience: Patience, clock: Clock
) -> CheckResult:
    """A policy that lets nothing in keeps each probe pod from getting a page of the next one, which it got before."""
    started = clock.now()
    complaint = apply_own(kubectl, deny_manifest(namespace), patience, clock)
    if complaint:
        return check_from("network policy", Verdict(False, complaint), clock.now() - started)
    ways = {pod: other for pod, other in zip(pods, [*pods[1:], *pods[:1]], strict=True) if pod is not other}

    def ask(way: tuple[PodState, PodState]) -> tuple[str, str]:
        pod, other = way
        page = f"timeout {_PAGE_SECONDS} wget -q -O - http://{other.ip}:{port}/ >/dev/null"
        script = f"{page} && echo {_OPEN} || echo {_CLOSED}"
        output, _ = kubectl(shlex.join(["exec", "-n", namespace, pod.name, "--", "/bin/sh", "-c", script]))
        return f"{pod.node} to {other.node}", output.strip()

    def look() -> Look[Verdict]:
        with threads(4, "verify") as pool:
            verdict = judge_policy(dict(pool.map(ask, ways.items())))
        return Look(verdict, verdict.ok, sign=verdict.detail, pause=_POLL_SECONDS)

    waited = wait_until(look, patience, clock=clock)
    return check_from("network policy", after_waiting(waited.value, waited.given_up), clock.now() - started)


def judge_policy(ways: Mapping[str, str]) -> Verdict:
    """By way (`node to node`): whether the page came. An answer that is neither proves nothing."""
    unknown = [way for way, answer in ways.items() if answer not in (_OPEN, _CLOSED)]
    if unknown:
        return Verdict(False, f"no answer from the pods of {', '.join(unknown)}")
    passed = [way for way, answer in ways.items() if answer == _OPEN]
    if passed:
        return Verdict(False, f"a policy that lets nothing in does not hold: {', '.join(passed)}")
    return Verdict(True, f"a policy keeps packets away on {len(ways)} ways between nodes")


def deny_manifest(namespace: str) -> str:
    """A policy under which no pod of the namespace takes a connection."""
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "probe", "namespace": namespace},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }
    return json.dumps(policy) + "\n"
