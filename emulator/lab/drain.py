"""Kubernetes nodes that leave a lab: their pods move away while their machine still runs."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from emulator.core.errors import ConflictError, HyperscalerError, InterruptedRunError
from emulator.core.ports import GuestAddress, GuestShell
from emulator.core.progress import Event, Reporter, Status
from emulator.core.stop import StopFlag
from emulator.core.waiting.pace import Pace
from emulator.kubernetes.config.kubectl import KUBECTL
from emulator.kubernetes.config.patient_kubectl import ask_patiently, run_patiently
from emulator.labfile.model import ClusterKind, ClusterSpec, Role
from emulator.plan.model import Action, Plan
from emulator.plan.resources import Domain, Network

MOST_ROUNDS = 4
"""Of the time for a node: pods that its owner starts again and again would go for ever."""
# What kubectl prints for a pod that has gone; that it was asked to go is another line.
_GONE = re.compile(r"^pod/\S+ (?:evicted|deleted)$|^pod \S+ (?:evicted|deleted)$", re.MULTILINE)
_ASK_SECONDS = 60.0
_LOGIN_SECONDS = 15.0
# Cordons a node and says in the same step who did: when this run ends before the node is gone and the file then keeps
# it, the playbook (kubernetes_objects) lets it take pods again. A node that another person cordoned is left as it was.
_DRAINING = "hyperscaler/draining"
_LEAVE = {"metadata": {"annotations": {_DRAINING: "true"}}, "spec": {"unschedulable": True}}
_STAY = {"metadata": {"annotations": {_DRAINING: None}}, "spec": {"unschedulable": None}}


def departing_nodes(plan: Plan, spec: ClusterSpec) -> tuple[str, ...]:
    """Kubernetes nodes whose machine the plan deletes, while their control plane stays as it is."""
    heads = {node.name for node in spec.nodes if node.role is Role.CLOUD_CONTROL_PLANE}
    domains = [(change.action, change.resource) for change in plan.changes if isinstance(change.resource, Domain)]
    if not heads or any(resource.node in heads for action, resource in domains if action is not Action.UPDATE):
        return ()
    cloud = f"{Network.kind}/{ClusterKind.CLOUD.value}"
    return tuple(
        sorted(resource.node for action, resource in domains if action is Action.DELETE and resource.network == cloud)
    )


def drain_departing(
    plan: Plan, spec: ClusterSpec, shell: GuestShell, reporter: Reporter, stop: StopFlag, pace: Pace | None = None
) -> None:
    """Drain the nodes that are about to go, one after the other, each in `timeouts.drain`, or longer while pods go.

    A node that is down has nothing to move, and one whose cluster cannot be asked is only warned about.

    Raises:
        ConflictError: pods of a node cannot be moved away. Nothing was deleted, and all nodes take pods again.
        InterruptedRunError: a stop was asked for; the same holds.
    """
    pace, nodes = pace or Pace(), departing_nodes(plan, spec)
    if not nodes:
        return
    node = next(node for node in spec.nodes if node.role is Role.CLOUD_CONTROL_PLANE)
    head = GuestAddress(node.name, node.ip, spec.ssh.user)
    try:
        ready = {name: node.cordoned for name, node in cluster_nodes(shell, head, pace).items() if node.ready}
    except HyperscalerError as error:
        reporter.warn(f"{', '.join(nodes)} cannot be drained, their pods end with them: {error.what.splitlines()[0]}")
        return
    cordoned: list[str] = []
    try:
        for name in nodes:
            _require_no_stop(stop)
            if name not in ready:
                continue
            reporter.event(Event("drain", name, Status.STARTED, "moving its pods away"))
            if not ready[name]:
                cordoned.append(name)
            drain_node(name, shell, head, spec.timeouts.drain, pace, cordoned=ready[name])
            reporter.event(Event("drain", name, Status.DONE, "drained"))
        _require_no_stop(stop)
    except Exception:
        for name in cordoned:
            with contextlib.suppress(HyperscalerError, OSError):  # the first error is the one to report
                let_in_again(name, shell, head, pace)
        raise


def _require_no_stop(stop: StopFlag) -> None:
    if stop.is_set():
        raise InterruptedRunError(
            "stopped on request while nodes were drained; nothing was deleted",
            fix="run the same command again to go on",
        )


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node as its cluster sees it.

    Attributes:
        cordoned: another person keeps pods away from it.
        draining: a run of this program does, or did not end.
        kubelet: the version of its kubelet (1.37.2); empty if it said none.
    """

    ready: bool
    cordoned: bool
    draining: bool
    kubelet: str


def cluster_nodes(shell: GuestShell, head: GuestAddress, pace: Pace) -> Mapping[str, ClusterNode]:
    """The nodes of the cluster by name, as the control plane `head` lists them; it may take what `pace` allows.

    Raises:
        HyperscalerError: it does not answer, or not in kubectl's form.
    """
    if not shell.ready(head, timeout=_LOGIN_SECONDS):
        raise HyperscalerError("the control plane does not answer", where=head.name)
    answer = ask_patiently(shell, head, f"{KUBECTL} get nodes -o json", timeout=_ASK_SECONDS, pace=pace)
    try:
        return {str(item["metadata"]["name"]): _cluster_node(item) for item in json.loads(answer)["items"]}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HyperscalerError(f"kubectl's answer cannot be read: {error}", where=head.name) from error


def _cluster_node(item: Mapping[str, Any]) -> ClusterNode:
    draining = _DRAINING in item["metadata"].get("annotations", {})
    conditions = item["status"]["conditions"]
    return ClusterNode(
        ready=any(each["type"] == "Ready" and each["status"] == "True" for each in conditions),
        cordoned=bool(item.get("spec", {}).get("unschedulable")) and not draining,
        draining=draining,
        kubelet=str(item["status"].get("nodeInfo", {}).get("kubeletVersion", "")).removeprefix("v"),
    )


def drain_node(
    name: str,
    shell: GuestShell,
    head: GuestAddress,
    seconds: int,
    pace: Pace,
    *,
    cordoned: bool,
    force: bool = True,
    verb: str = "provision",
) -> None:
    """Rounds of `kubectl drain`, each with the time that the file gives, as long as pods went in the last one.

    Args:
        name: of the node.
        shell: runs kubectl on `head`, the control plane.
        seconds: `timeouts.drain`.
        pace: of this host.
        cordoned: another person keeps pods away from the node, which stays so.
        force: end pods that nothing makes again, too.
        verb: the command to repeat.

    Raises:
        ConflictError: pods cannot be moved away.
    """
    options = f"--ignore-daemonsets --delete-emptydir-data --timeout={math.ceil(pace.seconds(seconds))}s"
    drain = f"{KUBECTL} drain {shlex.quote(name)} {options}{' --force' if force else ''}"
    command = drain if cordoned else f"{_patch(name, _LEAVE)} && {drain}"
    rounds, moved, said = 0, True, ""
    while moved and rounds < MOST_ROUNDS:
        rounds += 1
        try:
            done = run_patiently(shell, head, command, timeout=seconds + 60.0, pace=pace)
        except HyperscalerError as error:
            said, moved = error.what, False
        else:
            if done.returncode == 0:
                return
            said, moved = (done.stderr or done.stdout).strip(), _GONE.search(done.stdout) is not None
    waited = rounds * pace.seconds(seconds)
    raise ConflictError(
        f"{name} cannot be drained within {waited:.0f} s, so that it was kept as it is: "
        + "\n    ".join(said.splitlines()[-4:] or ["kubectl said nothing"]),
        where=name,
        fix=f"end those pods or the budget that keeps them, or raise timeouts.drain; then run {verb} again",
    )


def let_in_again(name: str, shell: GuestShell, head: GuestAddress, pace: Pace) -> None:
    """Let a drained node take pods again.

    Raises:
        HyperscalerError: the control plane did not answer, or refused.
    """
    ask_patiently(shell, head, _patch(name, _STAY), timeout=_ASK_SECONDS, pace=pace)


def _patch(name: str, patch: Mapping[str, object]) -> str:
    return f"{KUBECTL} patch node {shlex.quote(name)} --type=merge -p {shlex.quote(json.dumps(patch))}"
