"""Access to a lab's nodes: grant it for a time, list who has it, revoke it at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emulator.core.errors import HyperscalerError, UsageError
from emulator.core.fs import write_private
from emulator.core.progress import Reporter
from emulator.core.stop import StopFlag
from emulator.credentials.ssh_trust import CertificateOrder
from emulator.credentials.users import AccessRole, LabUser, check_name, read_book, render_book
from emulator.lab.cluster_pipeline import configure_tagged
from emulator.lab.environment import Environment
from emulator.lab.lab_files import load_recorded_lab, require_lab
from emulator.lab.open_journal import open_record
from emulator.lab.run import open_provisioned, provisioned_run
from emulator.labfile.model import ClusterSpec, Role
from emulator.operations.credentials.archive import archive_name
from emulator.operations.credentials.handouts import door_for, forget_handout
from emulator.operations.credentials.kubeconfigs import hand_out_kubeconfigs
from emulator.operations.credentials.rotator import Rotator
from emulator.operations.credentials.seen_secrets import SeenSecret, seen_secrets

TAG = "access"
"""The tag of the playbooks' tasks that depend on users."""


@dataclass(frozen=True, slots=True)
class GrantRequest:
    """Access for `user`. `nodes`: names; empty for all of an admin's, and for a student's login nodes.
    `public_key`: `TYPE BASE64`, empty to have a pair made."""

    user: str
    role: AccessRole
    seconds: int
    nodes: tuple[str, ...] = ()
    public_key: str = ""


@dataclass(frozen=True, slots=True)
class Revoked:
    """Whose access was revoked, and the secrets that they could read as an admin: those stay good until rotated."""

    user: LabUser
    seen: tuple[SeenSecret, ...] = ()


@dataclass(frozen=True, slots=True)
class Granted:
    """What was granted; `directory` holds what the user is to be handed. `namespaced`: only root of this host gets to
    the nodes. `kubectl_on`: the node on which kubectl is ready for the user; empty for none. `archive`: it as one
    file."""

    user: LabUser
    directory: Path
    namespaced: bool = False
    kubectl_on: str = ""
    archive: Path | None = None


def grant(
    env: Environment,
    lab_name: str,
    request: GrantRequest,
    reporter: Reporter,
    stop: StopFlag,
    *,
    wait_seconds: float = 0.0,
) -> Granted:
    """Give a user an account on the lab's nodes and a certificate that ends by itself.

    The grant is on record before the nodes are configured: if that fails, the next run of the same command, of
    `configure` or of `provision` does it.

    Raises:
        UsageError: no such lab or node, or not a possible name.
        ConflictError: another command works on the lab.
        ConfigureError: a node could not be configured.
    """
    check_name(request.user)
    _require_nodes(load_recorded_lab(env.home, lab_name).spec, request.nodes)
    with provisioned_run(env, lab_name, "access add", reporter, stop, wait_seconds=wait_seconds) as run:
        nodes = request.nodes or _usual_nodes(run.spec, request.role)
        run.log.add(who=request.user, role=request.role.value)
        run.begin()
        Rotator(run).settle()
        book = read_book(run.paths.access)
        expires = int(time.time()) + request.seconds
        if request.public_key:
            # Refused before anything is signed, if it must be.
            book.granted(request.user, request.role, public_key=request.public_key, expires=expires)
        directory = run.paths.handouts / request.user
        order = CertificateOrder(
            request.user,
            book.next_serial,
            request.seconds,
            directory,
            request.public_key,
            forwarding=request.role is AccessRole.ADMIN,
            nodes=nodes,
            door=(door := door_for(run)),
        )
        access = run.access
        key = env.guests.user_key(run.spec, access, order, revoked=book.revoked_keys)
        book = book.granted(request.user, request.role, public_key=key, expires=expires, nodes=nodes)
        # On record before it is signed: an unrecorded certificate could not be revoked.
        write_private(run.paths.access, render_book(book))
        env.guests.issue(run.spec, access, order)
        configure_tagged(run, (TAG,))
        hand_out_kubeconfigs(run, renew=request.user)
        user = book.user(request.user)
        assert user is not None  # noqa: S101  granted a moment ago
        return Granted(
            user,
            directory,
            namespaced=bool(access.prefix) and door is None,
            kubectl_on=kubectl_on(run.spec, user),
            archive=directory / archive_name(run.name, user.name),
        )


def revoke(
    env: Environment, lab_name: str, name: str, reporter: Reporter, stop: StopFlag, *, wait_seconds: float = 0.0
) -> Revoked:
    """Revoke all access of a user: keys, account, jobs. It is on record before the nodes are configured.

    Raises:
        UsageError: no such lab or user.
        ConflictError: another command works on the lab.
        ConfigureError: a node could not be configured, where the certificate stays good until it ends; or something
            that the user runs does not end, which is named.
    """
    with provisioned_run(env, lab_name, "access revoke", reporter, stop, wait_seconds=wait_seconds) as run:
        run.log.add(who=name)
        run.begin()
        book = read_book(run.paths.access).without(name)
        write_private(run.paths.access, render_book(book))
        try:
            Rotator(run).settle()
        except HyperscalerError as error:  # trouble with a rotation must not keep the user's access alive
            reporter.warn(str(error))
        forget_handout(run.paths.handouts / name, reporter)
        configure_tagged(run, (TAG,))
        user = book.user(name)
        assert user is not None  # noqa: S101  revoked a moment ago
        return Revoked(user, seen_secrets(run.spec, user))


def list_users(env: Environment, lab_name: str) -> Sequence[LabUser]:
    """Everybody who ever had access, by uid; reads only.

    Raises:
        UsageError: there is no such lab, or it is not provisioned.
    """
    require_lab(env.home, lab_name)
    record = open_record(env.home, lab_name)
    open_provisioned(env, record)
    return read_book(record.paths.access).users


def _usual_nodes(spec: ClusterSpec, role: AccessRole) -> tuple[str, ...]:
    """Where a role may log in by default; empty means everywhere.

    On a node that runs jobs, a login would be outside the scheduler's limits: it could take the GPUs of others.
    """
    if role is not AccessRole.STUDENT:
        return ()
    return tuple(node.name for node in spec.entrances)


def kubectl_on(spec: ClusterSpec, user: LabUser) -> str:
    """The control plane, if the user may log in there: it keeps a kubeconfig for each of them. Empty for none."""
    heads = [node.name for node in spec.nodes if node.role is Role.CLOUD_CONTROL_PLANE]
    return next((name for name in heads if not user.nodes or name in user.nodes), "")


def _require_nodes(spec: ClusterSpec, wanted: Sequence[str]) -> None:
    names = [node.name for node in spec.nodes]
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise UsageError(f"lab {spec.name} has no node {', '.join(unknown)}", fix=f"its nodes are {', '.join(names)}")
