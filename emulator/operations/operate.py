"""Working with a lab that is there: configure, verify, inventory, ssh."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from emulator.core.errors import ConflictError, UsageError
from emulator.core.fs import write_private
from emulator.core.progress import Reporter
from emulator.core.stop import StopFlag
from emulator.guests.verify.report import CheckResult
from emulator.lab.cluster_pipeline import work_on_clusters
from emulator.lab.environment import World
from emulator.lab.lab_files import LoadedLab, load_recorded_lab
from emulator.lab.locked_run import working_on
from emulator.lab.open_provisioned import opened_lab
from emulator.lab.planning.gpu_placement import node_gpus
from emulator.labfile.model import ClusterSpec
from emulator.operations.credentials.kubeconfigs import hand_out_kubeconfigs
from emulator.operations.credentials.rotator import Rotator
from emulator.operations.provision import ProvisionResult, cluster_steps
from emulator.plan.model import Plan


def configure(
    world: World, loaded: LoadedLab, reporter: Reporter, stop: StopFlag, *, wait_seconds: float = 0.0
) -> ProvisionResult:
    """Run the playbooks of a provisioned lab with the settings of the given file, which is kept with the lab like that
    of `provision`: whatever works on the lab later, a verification or a start of the host, goes by it.

    Raises:
        ConflictError: the file asks for other machines or networks than those that were made.
    """
    started = time.monotonic()
    spec = loaded.spec
    with working_on(world, spec.name, "configure", reporter, wait_seconds=wait_seconds, stop=stop) as work:
        lab, store = opened_lab(world, spec.name)
        _require_same_machines(load_recorded_lab(world.home, spec.name).spec, spec)
        work.begin(store)
        write_private(lab.paths.spec, loaded.source)
        Rotator(world, lab, store, spec, reporter, stop).settle()
        steps = dataclasses.replace(cluster_steps(world, lab, store, spec, reporter, stop), verify=None)
        clusters = work_on_clusters(spec, steps, store)
        clusters.conclude()
        hand_out_kubeconfigs(world, lab, spec)
    return ProvisionResult(Plan(spec.name, ()), changed=clusters.changed, seconds=time.monotonic() - started)


def _require_same_machines(recorded: ClusterSpec, wanted: ClusterSpec) -> None:
    before = {node.name: node for node in recorded.nodes}
    after = {node.name: node for node in wanted.nodes}
    differing = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    what = ", ".join(differing[:8]) + (" and more" if len(differing) > 8 else "")
    if not differing and recorded.networks != wanted.networks:
        what = "its networks"
    if what:
        raise ConflictError(
            f"the file asks for other machines than lab {wanted.name} has ({what}); playbooks alone cannot do that",
            where=str(wanted.source or ""),
            fix="hyperscaler provision with this file",
        )


def verify(world: World, name: str, reporter: Reporter, *, wait_seconds: float = 0.0) -> tuple[CheckResult, ...]:
    """Probe a provisioned lab.

    Raises:
        VerifyError: names every check that failed.
    """
    spec = load_recorded_lab(world.home, name).spec
    with working_on(world, name, "verify", reporter, wait_seconds=wait_seconds) as work:
        lab, store = opened_lab(world, name)
        work.begin(store)
        Rotator(world, lab, store, spec, reporter, StopFlag()).settle()
        steps = dataclasses.replace(cluster_steps(world, lab, store, spec, reporter, StopFlag()), configure=None)
        clusters = work_on_clusters(spec, steps, store)
        clusters.conclude()
        return clusters.checks


def inventory(world: World, name: str, form: str) -> str:
    """The lab's Ansible inventory; reads only."""
    spec = load_recorded_lab(world.home, name).spec
    lab, store = opened_lab(world, name)
    return world.guests.inventory(spec, lab.access(spec.ssh.user, node_gpus(spec, store.state)), form)


def ssh_argv(world: World, name: str, node: str, command: Sequence[str]) -> list[str]:
    """The command that opens a shell on a node.

    Raises:
        UsageError: no such lab or node; names those that there are.
    """
    spec = load_recorded_lab(world.home, name).spec
    if node not in {known.name for known in spec.nodes}:
        names = ", ".join(known.name for known in spec.nodes)
        raise UsageError(f"lab {name} has no node {node}", fix=f"its nodes are {names}")
    lab, _ = opened_lab(world, name)
    return world.guests.ssh_argv(lab.access(spec.ssh.user), node, command)


def kubeconfig(world: World, name: str, *, student: bool) -> str:
    """A kubeconfig of the lab's Kubernetes cluster. Whoever has the admin's owns the cluster.

    Raises:
        UsageError: the lab has no Kubernetes cluster.
    """
    spec = load_recorded_lab(world.home, name).spec
    if spec.kubernetes is None:
        raise UsageError(f"lab {name} has no Kubernetes cluster", fix="add clusters.cloud to its file and provision it")
    lab, _ = opened_lab(world, name)
    return world.guests.kubeconfig(spec, lab.access(spec.ssh.user), student=student)


def way_to_lab(world: World, name: str) -> tuple[str, ...]:
    """What a command on this host must begin with to reach the lab's nodes by their addresses; nothing where they are
    reachable as they are."""
    spec = load_recorded_lab(world.home, name).spec
    lab, _ = opened_lab(world, name)
    return tuple(lab.access(spec.ssh.user).prefix)
