"""Upgrade: bring a standing Kubernetes cluster to the next minor version, or to another patch release."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from emulator.core.errors import ConfigError, HyperscalerError, UsageError
from emulator.core.progress import Event, Reporter, Status
from emulator.core.stop import StopFlag
from emulator.kubernetes.release.upgrade_files import UpgradeFiles
from emulator.kubernetes.upgrade.policy import (
    NodeState,
    requested_version,
    require_same_repository,
    require_way,
    unfinished,
)
from emulator.lab.cluster_pipeline import CONFIGURE_FACT, VERIFY_FACT, Step, work_on_clusters
from emulator.lab.environment import Environment
from emulator.lab.lab_files import LoadedLab, load_recorded_lab
from emulator.lab.planning.kubernetes_on_disks import GOAL_FACT, VERSION_FACT, on_the_way_to
from emulator.lab.run import LabRun, provisioned_run
from emulator.lab.upgrade.look import look_at_nodes
from emulator.lab.upgrade.steps import forget_before, record_version, upgrade_nodes
from emulator.labfile.kubernetes_versions import version_fault
from emulator.labfile.model import ClusterKind
from emulator.operations.configure import require_same_machines
from emulator.operations.credentials.kubeconfigs import hand_out_kubeconfigs

KEY = "clusters.cloud.kubernetes_config.version"


@dataclass(frozen=True, slots=True)
class Upgraded:
    """The result of `upgrade`.

    Attributes:
        version: the release that all nodes have; of a declined one, the one asked for.
        before: the release that each node had, by name.
        changed: how many tasks Ansible changed, by node; empty where nothing was left to do.
        declined: the user said no, and nothing was changed.
    """

    version: str
    before: Mapping[str, str]
    changed: Mapping[str, int] = field(default_factory=dict)
    declined: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asks for: `to` is 1.37 or 1.37.2; `file` the lab file that says so, None for the recorded one;
    `force` ends pods that nothing makes again. `confirm` is given the versions by node, and the one to go to."""

    to: str
    file: LoadedLab | None = None
    force: bool = False
    confirm: Callable[[Mapping[str, str], str], bool] = field(default=lambda _before, _to: True)
    wait_seconds: float = 0.0


def upgrade(env: Environment, lab_name: str, request: Request, reporter: Reporter, stop: StopFlag) -> Upgraded:
    """Bring all nodes of a lab's Kubernetes cluster to another version; what an earlier run did not end is ended.

    The lab file is the wish: the command goes where it says, and refuses to go elsewhere.

    Raises:
        UsageError: no such lab, no Kubernetes cluster in it, or a version that there is no way to.
        ConfigError: the lab file asks for another version; names the line to change.
        ConflictError: a node is off, a worker cannot be drained, or another command works on the lab.
        ConfigureError: a step failed on a node; the same command goes on there.
        VerifyError: everything was upgraded, but a probe failed.
    """
    recorded = load_recorded_lab(env.home, lab_name)
    loaded = request.file or recorded
    spec, wanted = loaded.spec, _require_wish(lab_name, request, loaded)
    with provisioned_run(env, lab_name, "upgrade", reporter, stop, spec=spec, wait_seconds=request.wait_seconds) as run:
        require_same_machines(load_recorded_lab(env.home, lab_name).spec, spec)
        nodes = _look(run)
        before = {node.name: node.version for node in nodes}
        require_way(nodes, wanted, lab_name)
        if not unfinished(nodes, wanted):
            return _nothing_left(run, nodes, before, loaded.source)
        if not request.confirm(before, wanted):
            return Upgraded(wanted, before, declined=True)
        files = _files(run, wanted)
        require_way(nodes, files.version, lab_name)
        require_same_repository(nodes, files.repository, files.version)
        _begin(run, files.version)
        changed = upgrade_nodes(run, unfinished(nodes, files.version), files, loaded.source, force=request.force)
        return _conclude(run, Upgraded(files.version, before, changed))


def _require_wish(lab: str, request: Request, loaded: LoadedLab) -> str:
    """The version to go to, as the command and the lab file have it."""
    spec = loaded.spec
    if spec.name != lab:
        raise UsageError(f"{loaded.file} is the file of lab {spec.name}", where="--file", fix=f"name that of {lab}")
    if spec.kubernetes is None or not spec.nodes_of(ClusterKind.CLOUD):
        raise UsageError(f"lab {lab} has no Kubernetes cluster", where=lab, fix="hyperscaler status lists the labs")
    fault = version_fault(request.to, spec.kubernetes.source) if request.to else ("it names no version", "write 1.37")
    if fault is not None:
        raise UsageError(fault[0], where="--to", fix=fault[1])
    wanted = requested_version(request.to, spec.kubernetes.version)
    if not wanted:
        line = loaded.report.position_of(KEY).line
        again = f"hyperscaler upgrade {lab} --to {request.to} --file FILE"
        raise ConfigError(
            f"the lab file is the wish, and it asks for Kubernetes {spec.kubernetes.version}, not {request.to}:"
            f" line {line}, key {KEY}",
            where=f"{loaded.file}:{line}",
            fix=f'write `version: "{request.to}"` in that line'
            + (", then repeat the command" if request.file else f" of your lab file, then {again}"),
        )
    return wanted


def _look(run: LabRun) -> tuple[NodeState, ...]:
    run.reporter.event(Event("plan", run.name, Status.STARTED, "asking the nodes what they run"))
    nodes = look_at_nodes(run.spec, run.shell, run.pace)
    versions = ", ".join(sorted({node.version for node in nodes}))
    run.reporter.event(Event("plan", run.name, Status.DONE, f"{len(nodes)} nodes with Kubernetes {versions}"))
    return nodes


def _nothing_left(run: LabRun, nodes: tuple[NodeState, ...], before: Mapping[str, str], source: bytes) -> Upgraded:
    """All nodes are there. A run that died between the last node and its end is ended."""
    version = next(node.version for node in nodes if node.is_head)
    done = Upgraded(version, before)
    noted = run.state.facts.get(VERSION_FACT, version) == version
    if noted and not on_the_way_to(run.state) and run.state.facts.get(VERIFY_FACT) == "done":
        return done
    _begin(run, version)
    record_version(run, version, source)
    return _conclude(run, done)


def _files(run: LabRun, version: str) -> UpgradeFiles:
    """What the nodes get; the release is made where this host does not have it."""
    assert run.spec.kubernetes is not None  # noqa: S101  checked by _require_wish

    def show(step: str, line: str) -> None:
        text = f"{step}: {line}" if line else step
        run.reporter.event(Event("release", "kubernetes", Status.RUNNING, text))

    run.reporter.event(Event("release", "kubernetes", Status.STARTED, f"Kubernetes {version}"))
    try:
        files = run.env.upgrade_files(dataclasses.replace(run.spec.kubernetes, version=version), show)
    except HyperscalerError as error:
        run.reporter.event(Event("release", "kubernetes", Status.FAILED, error.what))
        raise
    run.reporter.event(Event("release", "kubernetes", Status.DONE, f"Kubernetes {files.version}"))
    return files


def _begin(run: LabRun, version: str) -> None:
    run.log.add(version=version)
    run.begin()
    run.store.fact(GOAL_FACT, version)
    for phase in (CONFIGURE_FACT, VERIFY_FACT):
        if run.state.facts.get(phase, "pending") != "pending":
            run.store.fact(phase, "pending")


def _conclude(run: LabRun, done: Upgraded) -> Upgraded:
    """The whole of the lab is configured and proved, as after provision: the cluster's own objects may be other ones in
    the new version, and the admin's certificate is."""
    clusters = work_on_clusters(run, Step.CONFIGURE, Step.VERIFY)
    clusters.conclude()
    hand_out_kubeconfigs(run)
    forget_before(run)
    run.store.fact(GOAL_FACT, "")
    total = {name: done.changed.get(name, 0) + count for name, count in clusters.changed.items()}
    return dataclasses.replace(done, changed=total)
