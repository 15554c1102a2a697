"""What of a lab file's wishes for Slurm the nodes' release can do. Pure."""

from __future__ import annotations

from dataclasses import replace

from emulator.core.debian.releases import SlurmFeature
from emulator.labfile.model import SlurmSpec


def slurm_of_release(spec: SlurmSpec, features: frozenset[SlurmFeature]) -> SlurmSpec:
    """The settings that hold on nodes whose release has these features: without the wishes that need another one.

    The checks of the lab file refuse such wishes by the release that it asks for; a cluster that was made with an older
    one and keeps it goes on without them.
    """
    return replace(
        spec,
        mpi=spec.mpi if SlurmFeature.MPI in features else "none",
        rest_api=spec.rest_api and SlurmFeature.REST in features,
        scrontab=spec.scrontab and SlurmFeature.SCRONTAB in features,
    )
