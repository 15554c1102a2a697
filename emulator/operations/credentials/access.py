"""Access to a lab's nodes: granting it for a time, listing who has it, taking it back at once."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emulator.core.errors import HyperscalerError, UsageError
from emulator.core.fs import write_private
from emulator.core.progress import Reporter
from emulator.core.stop import StopFlag
from emulator.credentials.ssh_trust import CertificateOrder
from emulator.credentials.users import AccessRole, LabUser, check_name, render_book
from emulator.lab.access_book import read_book
from emulator.lab.environment import Environment
from emulator.lab.lab_files import load_recorded_lab
from emulator.lab.locked_run import working_on
from emulator.lab.open_provisioned import opened_lab
from emulator.lab.tagged_configure import tell_nodes
from emulator.labfile.model import ClusterSpec
from emulator.operations.credentials.kubeconfigs import hand_out_kubeconfigs
from emulator.operations.credentials.rotator import Rotator

TAG = "access"
"""Of the playbooks' tasks that users matter to."""


@dataclass(frozen=True, slots=True)
class GrantRequest:
    """Access for `user`. `nodes`: names; empty for all of an admin's, and for the heads of a student's clusters.
    `public_key`: `TYPE BASE64`, empty to have a pair made."""

    user: str
    role: AccessRole
    seconds: int
    nodes: tuple[str, ...] = ()
    public_key: str = ""


@dataclass(frozen=True, slots=True)
class Granted:
    """What was granted; `directory` holds what the user is to be handed. `namespaced`: only root of this host gets to
    the nodes."""

    user: LabUser
    directory: Path
    namespaced: bool = False


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

    The grant is on record before the nodes are told: if telling them fails, the next run of the same command, of
    `configure` or of `provision` does it.

    Raises:
        UsageError: no such lab or node, or not a possible name.
        ConflictError: another command works on the lab.
        ConfigureError: a node could not be told.
    """
    spec = load_recorded_lab(env.home, lab_name).spec
    check_name(request.user)
    _require_nodes(spec, request.nodes)
    nodes = request.nodes or _usual_nodes(spec, request.role)
    with working_on(env, lab_name, "access add", reporter, wait_seconds=wait_seconds, stop=stop) as work:
        lab, store = opened_lab(env, lab_name)
        work.tell(who=request.user, role=request.role.value)
        work.begin(store)
        Rotator(env, lab, store, spec, reporter, stop).settle()
        book = read_book(lab)
        expires = int(time.time()) + request.seconds
        if request.public_key:
            # Refused before anything is signed, if it must be.
            book.granted(request.user, request.role, public_key=request.public_key, expires=expires)
        directory = lab.paths.handouts / request.user
        order = CertificateOrder(
            request.user,
            book.next_serial,
            request.seconds,
            directory,
            request.public_key,
            forwarding=request.role is AccessRole.ADMIN,
            nodes=nodes,
        )
        access = lab.access(spec.ssh.user)
        key = env.guests.user_key(spec, access, order, revoked=book.revoked_keys)
        book = book.granted(request.user, request.role, public_key=key, expires=expires, nodes=nodes)
        # On record before it is signed: a certificate that nobody knows of could not be revoked.
        write_private(lab.paths.access, render_book(book))
        env.guests.issue(spec, access, order)
        tell_nodes(env, lab, store, spec, reporter, stop, tags=(TAG,))
        hand_out_kubeconfigs(env, lab, spec, renew=request.user)
        user = book.user(request.user)
        assert user is not None  # noqa: S101  granted a moment ago
        return Granted(user, directory, namespaced=bool(access.prefix))


def revoke(
    env: Environment, lab_name: str, name: str, reporter: Reporter, stop: StopFlag, *, wait_seconds: float = 0.0
) -> LabUser:
    """Take all access of a user back: keys, account, jobs. It is on record before the nodes are told.

    Raises:
        UsageError: no such lab or user.
        ConflictError: another command works on the lab.
        ConfigureError: a node could not be told; the certificate is good there until it ends, or this is run again.
    """
    spec = load_recorded_lab(env.home, lab_name).spec
    with working_on(env, lab_name, "access revoke", reporter, wait_seconds=wait_seconds, stop=stop) as work:
        lab, store = opened_lab(env, lab_name)
        work.tell(who=name)
        work.begin(store)
        book = read_book(lab).without(name)
        write_private(lab.paths.access, render_book(book))
        try:
            Rotator(env, lab, store, spec, reporter, stop).settle()
        except HyperscalerError as error:  # trouble with a rotation must not keep anybody's access alive
            reporter.warn(str(error))
        _forget_handout(lab.paths.handouts / name, reporter)
        tell_nodes(env, lab, store, spec, reporter, stop, tags=(TAG,))
        user = book.user(name)
        assert user is not None  # noqa: S101  revoked a moment ago
        return user


def _forget_handout(directory: Path, reporter: Reporter) -> None:
    """Remove what was handed out. What cannot be removed is told: the nodes refuse it all the same."""
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        reporter.warn(f"{directory} cannot be removed: {error.strerror or error}; remove it by hand")


def list_users(env: Environment, lab_name: str) -> Sequence[LabUser]:
    """Everybody who ever had access, by uid; reads only."""
    load_recorded_lab(env.home, lab_name)
    lab, _ = opened_lab(env, lab_name)
    return read_book(lab).users


def _usual_nodes(spec: ClusterSpec, role: AccessRole) -> tuple[str, ...]:
    """Where a role may log in unless that is said; empty means everywhere. On a node that runs jobs, what is started
    from a login is outside of the scheduler's limits: cores, memory and GPUs of others."""
    if role is not AccessRole.STUDENT:
        return ()
    return tuple(node.name for node in spec.nodes if node.role.is_head)


def _require_nodes(spec: ClusterSpec, wanted: Sequence[str]) -> None:
    names = [node.name for node in spec.nodes]
    strangers = [name for name in wanted if name not in names]
    if strangers:
        raise UsageError(f"lab {spec.name} has no node {', '.join(strangers)}", fix=f"its nodes are {', '.join(names)}")
