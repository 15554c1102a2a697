"""Rotate one of a lab's secrets."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from emulator.core.errors import InterruptedRunError, UsageError
from emulator.core.progress import Reporter
from emulator.core.stop import StopFlag
from emulator.credentials.rotation_files import pending_rotations, secrets_on_record
from emulator.credentials.rotation_phases import RotatedSecret
from emulator.credentials.users import read_book
from emulator.lab.environment import Environment
from emulator.lab.lab_files import load_recorded_lab
from emulator.lab.run import provisioned_run
from emulator.labfile.model import ClusterKind, ClusterSpec
from emulator.operations.credentials.rotator import Rotator


@dataclass(frozen=True, slots=True)
class Rotated:
    """The result of `rotate`.

    Attributes:
        finished: rotations that an earlier run had begun and this one finished.
        declined: the user said no, and nothing was changed.
        hand_again: users whose directory holds a new certificate; the old one no longer lets them in.
    """

    secret: RotatedSecret
    finished: tuple[RotatedSecret, ...] = ()
    declined: bool = False
    hand_again: tuple[str, ...] = ()


def rotate(
    env: Environment,
    lab_name: str,
    secret: RotatedSecret,
    reporter: Reporter,
    stop: StopFlag,
    *,
    confirm: Callable[[tuple[RotatedSecret, ...]], bool],
    wait_seconds: float = 0.0,
) -> Rotated:
    """Replace a secret on the host and on every node, and try the new one.

    Rotations that an earlier run has begun are finished first; if the requested one is among them, that is all.
    `confirm` is given their secrets.

    Raises:
        UsageError: no such lab, or it has no use for this secret.
        ConflictError: another command works on the lab.
        InterruptedRunError: stopped on request; says whether there is something to be finished.
        ConfigureError: a node could not be configured.
        VerifyError: the new secret does not work.
    """
    _require_use(load_recorded_lab(env.home, lab_name).spec, secret)
    with provisioned_run(env, lab_name, "rotate", reporter, stop, wait_seconds=wait_seconds) as run:
        pending = tuple(files.secret for files in pending_rotations(run.paths))
        if secret not in pending:
            secrets_on_record(secret, run.store)
        if not confirm(pending):
            return Rotated(secret, declined=True)
        run.log.add(secret=secret.value)
        run.begin()
        rotator = Rotator(run)
        finished = rotator.finish_pending()
        if secret not in finished:
            if stop.is_set():  # once there is a new secret, the rotation has to be finished
                raise InterruptedRunError(
                    f"stopped on request before {secret} was rotated", fix="run the same command again"
                )
            rotator.rotate(secret)
        hand_again: tuple[str, ...] = ()
        if RotatedSecret.SSH in (secret, *finished):
            users = read_book(run.paths.access).users
            hand_again = tuple(user.name for user in users if not user.revoked and user.expires > time.time())
        return Rotated(secret, finished, hand_again=hand_again)


def _require_use(spec: ClusterSpec, secret: RotatedSecret) -> None:
    if secret is RotatedSecret.MUNGE and not spec.nodes_of(ClusterKind.HPC):
        raise UsageError(f"lab {spec.name} has no Slurm cluster, so it has no MUNGE key", fix="rotate ssh or tls")
