"""The steps of an upgrade: files to all nodes, then the control plane, then one worker after the other.

Each looks at what it finds and may be taken again, so that an upgrade that ended anywhere goes on with the same
command. What is to be done is decided from the nodes (`look`); the journal only says what the control plane has.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence

from emulator.core.errors import HyperscalerError, InterruptedRunError
from emulator.core.fs import write_private
from emulator.core.progress import ClusterReporter, Event, Status
from emulator.guests.ports import NodeUpgrade, UpgradeStep
from emulator.kubernetes.release.upgrade_files import UpgradeFiles
from emulator.kubernetes.upgrade.policy import NodeState
from emulator.lab.drain import cluster_nodes, drain_node, let_in_again
from emulator.lab.planning.kubernetes_on_disks import VERSION_FACT, upgraded_to
from emulator.lab.run import LabRun
from emulator.lab.upgrade.look import head_of
from emulator.labfile.model import CLUSTER_NAMES, ClusterKind


def upgrade_nodes(
    run: LabRun, left: Sequence[NodeState], files: UpgradeFiles, source: bytes, *, force: bool
) -> Mapping[str, int]:
    """Bring the nodes in `left`, control plane first, to the release; how many tasks changed, by node.

    Args:
        run: on the lab, with its changes begun.
        left: the nodes on which something is left to do, in their order.
        files: of the release.
        source: bytes of the lab file that asks for it, kept once the control plane is what the file says.
        force: end pods of workers that nothing makes again.

    Raises:
        ConflictError: a worker cannot be drained; it was left as it is.
        ConfigureError: a step failed on a node.
        InterruptedRunError: a stop was asked for.
    """
    changed: Counter[str] = Counter()
    if left:
        changed.update(_step(run, UpgradeStep.STAGE, [node.name for node in left], files))
    for node in left:
        if node.is_head:
            _require_no_stop(run)
            changed.update(_step(run, UpgradeStep.CONTROL_PLANE, [node.name], files))
    record_version(run, files.version, source)
    for node in left:
        if not node.is_head:
            _require_no_stop(run)
            changed.update(_upgrade_worker(run, node.name, files, force=force))
    return changed


def record_version(run: LabRun, version: str, source: bytes) -> None:
    """Note what the control plane has now: later workers get the same, and later commands go by this lab file.

    In this order: a lab that is stopped in between takes the new file, which its owner has, and not the kept one.
    """
    if upgraded_to(run.state) != version:
        run.store.fact(VERSION_FACT, version)
    write_private(run.paths.spec, source)


def forget_before(run: LabRun) -> None:
    """Have all nodes remove the images that only the release before had.

    Raises:
        ConfigureError: a node did not answer.
        InterruptedRunError: a stop was asked for.
    """
    _step(run, UpgradeStep.FORGET, [node.name for node in run.spec.nodes_of(ClusterKind.CLOUD)], None)


def _upgrade_worker(run: LabRun, name: str, files: UpgradeFiles, *, force: bool) -> Mapping[str, int]:
    """Drain the worker, upgrade it, let it take pods again; one that another person cordoned stays so."""
    shell, head = run.shell, head_of(run.spec)
    reporter = ClusterReporter(run.reporter, CLUSTER_NAMES[ClusterKind.CLOUD])
    reporter.event(Event("upgrade", name, Status.STARTED, "moving its pods away"))
    cordoned = cluster_nodes(shell, head, run.pace)[name].cordoned
    try:
        seconds = run.spec.timeouts.drain
        drain_node(name, shell, head, seconds, run.pace, cordoned=cordoned, force=force, verb="upgrade")
    except HyperscalerError:
        reporter.event(Event("upgrade", name, Status.FAILED, "its pods cannot be moved away"))
        if not cordoned:
            with contextlib.suppress(HyperscalerError, OSError):  # the first error is the one to report
                let_in_again(name, shell, head, run.pace)
        raise
    changed = _step(run, UpgradeStep.WORKER, [name], files)
    if not cordoned:
        let_in_again(name, shell, head, run.pace)
    return changed


def _step(run: LabRun, step: UpgradeStep, nodes: Sequence[str], files: UpgradeFiles | None) -> Mapping[str, int]:
    reporter = ClusterReporter(run.reporter, CLUSTER_NAMES[ClusterKind.CLOUD])
    part = NodeUpgrade(step, tuple(nodes), files)
    return run.env.guests.upgrade(run.spec, part, run.access, reporter, run.stop).changed


def _require_no_stop(run: LabRun) -> None:
    if run.stop.is_set():
        raise InterruptedRunError(
            "stopped on request between two nodes of the upgrade", fix="run the same command again to go on"
        )
