"""Configure: run the playbooks of a provisioned lab again."""

from __future__ import annotations

from collections.abc import Mapping

from emulator.core.errors import ConflictError
from emulator.core.fs import write_private
from emulator.core.progress import Reporter
from emulator.core.stop import StopFlag
from emulator.lab.cluster_pipeline import Step, work_on_clusters
from emulator.lab.environment import Environment
from emulator.lab.lab_files import LoadedLab, load_recorded_lab
from emulator.lab.run import provisioned_run
from emulator.labfile.model import ClusterSpec
from emulator.operations.credentials.kubeconfigs import hand_out_kubeconfigs
from emulator.operations.credentials.rotator import Rotator


def configure(
    env: Environment, loaded: LoadedLab, reporter: Reporter, stop: StopFlag, *, wait_seconds: float = 0.0
) -> Mapping[str, int]:
    """Run the playbooks of a provisioned lab with the settings of the given file; how many tasks changed, by node.

    The file is kept with the lab like that of `provision`: a later verification, or a start of the host, goes by it.

    Raises:
        ConflictError: the file asks for other machines or networks than those that were made.
    """
    spec = loaded.spec
    with provisioned_run(env, spec.name, "configure", reporter, stop, spec=spec, wait_seconds=wait_seconds) as run:
        require_same_machines(load_recorded_lab(env.home, spec.name).spec, spec)
        run.begin()
        write_private(run.paths.spec, loaded.source)
        Rotator(run).settle()
        clusters = work_on_clusters(run, Step.CONFIGURE)
        clusters.conclude()
        hand_out_kubeconfigs(run)
        return clusters.changed


def require_same_machines(recorded: ClusterSpec, wanted: ClusterSpec) -> None:
    """Raises: ConflictError when the wanted lab has other nodes or networks than the recorded one."""
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
