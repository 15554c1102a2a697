"""Carrying rotations through, one phase after the other, from wherever an earlier command has left them.

In each phase nodes and tool get on with each other whether a node has heard of it or not, so that a stop anywhere locks
nobody out: the next `rotate` or `provision` carries the same phase out again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from emulator.apply.state import StateStore
from emulator.core.errors import ConfigureError, InterruptedRunError, VerifyError
from emulator.core.fs import write_private
from emulator.core.progress import Event, Reporter, Status
from emulator.core.stop import StopFlag
from emulator.credentials.rotation_files import RotationFiles, pending_rotations, repair_records
from emulator.credentials.rotation_phases import TAGS, Phase, RotatedSecret, next_phase
from emulator.credentials.ssh_trust import CertificateOrder
from emulator.credentials.users import AccessBook, AccessRole, LabUser, render_book
from emulator.lab.access_book import read_book
from emulator.lab.environment import World
from emulator.lab.lab import Lab
from emulator.lab.planning.gpu_placement import node_gpus
from emulator.lab.tagged_configure import tell_nodes
from emulator.labfile.model import ClusterKind, ClusterSpec


@dataclass(frozen=True, slots=True)
class Rotator:
    """Rotates the secrets of an open lab, whose lock is held and whose run is on record."""

    world: World
    lab: Lab
    store: StateStore
    spec: ClusterSpec
    reporter: Reporter
    stop: StopFlag

    def settle(self) -> None:
        """Finish what a killed run has left half done on this host; without it a key may fit no lock. Nodes are not
        needed for it."""
        self._mend_records()
        for files in pending_rotations(self.lab.paths):
            if files.phase() is Phase.SWITCH:
                self._switch(files)
                self._advance(files, Phase.SWITCH)

    def finish_pending(self) -> tuple[RotatedSecret, ...]:
        """Carry every rotation that has begun to its end; which those were.

        Raises:
            HyperscalerError: a node could not be told, or the new secret does not do; nothing is lost by it.
        """
        self._mend_records()
        pending = pending_rotations(self.lab.paths)
        for files in pending:
            self._finish(files)
        return tuple(files.secret for files in pending)

    def _mend_records(self) -> None:
        for told in repair_records(self.lab.paths):
            self.reporter.warn(told)

    def rotate(self, secret: RotatedSecret) -> None:
        """Make a new secret and carry it through; see `finish_pending`."""
        files = RotationFiles(self.lab.paths, secret)
        files.stage(self.spec.name, self.store, self.lab.handlers)
        self._finish(files)

    def _finish(self, files: RotationFiles) -> None:
        while (phase := files.phase()) is not None:
            if self.stop.is_set():
                raise InterruptedRunError(
                    f"stopped on request while {files.secret} was rotated, before: {phase}",
                    fix="run the same command again to go on",
                )
            started = time.monotonic()
            self._tell(files, phase, Status.STARTED, _DOES[phase])
            self._carry_out(files, phase)
            self._tell(files, phase, Status.DONE, _DOES[phase], time.monotonic() - started)
            self._advance(files, phase)

    def _carry_out(self, files: RotationFiles, phase: Phase) -> None:
        match phase:
            case Phase.SWITCH:
                self._switch(files)
            case Phase.PROVE:
                self._prove(files.secret)
            case _:
                tags, kinds = TAGS[files.secret], _KINDS.get(files.secret)
                tell_nodes(
                    self.world, self.lab, self.store, self.spec, self.reporter, self.stop, tags=tags, kinds=kinds
                )
        if phase is Phase.TRUST and files.secret is RotatedSecret.SSH:
            self._require_way_in(files)

    def _advance(self, files: RotationFiles, phase: Phase) -> None:
        following = next_phase(files.secret, phase)
        if following is None:
            files.clear()
        else:
            files.record(following)

    def _require_way_in(self, files: RotationFiles) -> None:
        """The old key is given up only when the new one has opened every door."""
        new = files.staged(self.lab.paths.ssh_key)
        refusing = self.world.guests.refusing(self.spec, self.lab.access(self.spec.ssh.user), new)
        if refusing:
            raise ConfigureError(
                f"the new key does not let us into {', '.join(refusing)}; the old one stays in use",
                where=self.spec.name,
                fix=f"see that these nodes run (hyperscaler status {self.spec.name}), then run the same command again",
            )

    def _switch(self, files: RotationFiles) -> None:
        files.switch(self.store)
        if files.secret is RotatedSecret.SSH:
            self._certify_users_again()

    def _certify_users_again(self) -> None:
        """Certificates of the old authority are about to end: whoever has access gets one of the new authority, for the
        time that is left, into the directory that was handed over."""
        book = read_book(self.lab)
        for user in book.users:
            left = user.expires - int(time.time())
            if not user.revoked and left > 0:
                book = self._certify_again(book, user, left)

    def _certify_again(self, book: AccessBook, user: LabUser, left: int) -> AccessBook:
        directory = self.lab.paths.handouts / user.name
        made_here = (directory / "id_ed25519").is_file()
        order = CertificateOrder(
            user.name,
            book.next_serial,
            left,
            directory,
            "" if made_here else user.certificates[-1].public_key,
            forwarding=user.role is AccessRole.ADMIN,
            nodes=user.nodes,
        )
        access = self.lab.access(self.spec.ssh.user)
        key = self.world.guests.user_key(self.spec, access, order, revoked=book.revoked_keys)
        book = book.granted(user.name, user.role, public_key=key, expires=user.expires, nodes=user.nodes)
        write_private(self.lab.paths.access, render_book(book))
        self.world.guests.issue(self.spec, access, order)
        return book

    def _prove(self, secret: RotatedSecret) -> None:
        access = self.lab.access(self.spec.ssh.user, node_gpus(self.spec, self.store.state))
        failed = [check for check in self.world.guests.prove(self.spec, secret, access, self.reporter) if not check.ok]
        if failed:
            lines = "\n    ".join(f"{check.name}: {check.detail}" for check in failed)
            raise VerifyError(
                f"the nodes have the new {secret} secret, but not all works with it:\n    {lines}",
                where=self.spec.name,
                fix=f"look at the nodes' logs, then hyperscaler rotate {self.spec.name} {secret} to try it again",
            )

    def _tell(self, files: RotationFiles, phase: Phase, status: Status, text: str, seconds: float = 0.0) -> None:
        self.reporter.event(Event("rotate", f"{files.secret} {phase}", status, text, seconds))


_DOES: Mapping[Phase, str] = {
    Phase.TRUST: "nodes trust the new one beside the old",
    Phase.SWITCH: "the new one takes the old one's place on this host",
    Phase.RENEW: "nodes get what comes of the new one",
    Phase.DROP: "nodes forget the old one",
    Phase.PROVE: "the new one is tried",
}
_KINDS: Mapping[RotatedSecret, tuple[ClusterKind, ...]] = {RotatedSecret.MUNGE: (ClusterKind.HPC,)}
"""The clusters that a secret matters to; those not named here are for all."""
