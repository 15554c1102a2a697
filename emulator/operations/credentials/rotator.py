"""Carry rotations through, one phase after the other, from wherever an earlier command has left them.

In each phase nodes and tool accept each other whether or not a node has reached it yet, so that a stop anywhere locks
nobody out: the next `rotate` or `provision` carries out the same phase again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from emulator.core.errors import ConfigureError, InterruptedRunError, VerifyError
from emulator.core.fs import write_private
from emulator.core.progress import Event, Status
from emulator.credentials.rotation_files import RotationFiles, pending_rotations, repair_rotation_records
from emulator.credentials.rotation_phases import TAGS, Phase, RotatedSecret, next_phase
from emulator.credentials.ssh_trust import CertificateOrder
from emulator.credentials.users import AccessBook, AccessRole, LabUser, read_book, render_book
from emulator.lab.cluster_pipeline import configure_tagged
from emulator.lab.run import LabRun
from emulator.labfile.model import ClusterKind
from emulator.operations.credentials.handouts import door_for


@dataclass(frozen=True, slots=True)
class Rotator:
    """Rotates the secrets of a lab. The run has begun."""

    run: LabRun

    def settle(self) -> None:
        """Finish what a killed run has left half done on this host: until then the two halves of a key may not match.

        Works without the nodes.
        """
        self._repair_records()
        for files in pending_rotations(self.run.paths):
            if files.phase() is Phase.SWITCH:
                self._switch(files)
                self._advance(files, Phase.SWITCH)

    def finish_pending(self) -> tuple[RotatedSecret, ...]:
        """Carry every rotation that has begun to its end, and return which ones.

        Raises:
            HyperscalerError: a node could not be configured, or the new secret does not work. The rotation can be
                continued.
        """
        self._repair_records()
        pending = pending_rotations(self.run.paths)
        for files in pending:
            self._finish(files)
        return tuple(files.secret for files in pending)

    def _repair_records(self) -> None:
        for warning in repair_rotation_records(self.run.paths):
            self.run.reporter.warn(warning)

    def rotate(self, secret: RotatedSecret) -> None:
        """Make a new secret and carry it through; see `finish_pending`."""
        files = RotationFiles(self.run.paths, secret)
        files.stage(self.run.name, self.run.store, self.run.lab.handlers)
        self._finish(files)

    def _finish(self, files: RotationFiles) -> None:
        while (phase := files.phase()) is not None:
            if self.run.stop.is_set():
                raise InterruptedRunError(
                    f"stopped on request while {files.secret} was rotated, before: {phase}",
                    fix="run the same command again to go on",
                )
            started = time.monotonic()
            self._report(files, phase, Status.STARTED, _DOES[phase])
            self._carry_out(files, phase)
            self._report(files, phase, Status.DONE, _DOES[phase], time.monotonic() - started)
            self._advance(files, phase)

    def _carry_out(self, files: RotationFiles, phase: Phase) -> None:
        match phase:
            case Phase.SWITCH:
                self._switch(files)
            case Phase.PROVE:
                self._prove(files.secret)
            case _:
                configure_tagged(self.run, TAGS[files.secret], _KINDS.get(files.secret))
        if phase is Phase.TRUST and files.secret is RotatedSecret.SSH:
            self._require_login(files)

    def _advance(self, files: RotationFiles, phase: Phase) -> None:
        following = next_phase(files.secret, phase)
        if following is None:
            files.clear()
        else:
            files.record(following)

    def _require_login(self, files: RotationFiles) -> None:
        """Keep the old key unless every node lets us in with the new one."""
        new = files.staged(self.run.paths.ssh_key)
        refusing = self.run.env.guests.refusing(self.run.spec, self.run.access, new)
        if refusing:
            raise ConfigureError(
                f"the new key does not let us into {', '.join(refusing)}; the old one stays in use",
                where=self.run.name,
                fix=f"see that these nodes run (hyperscaler status {self.run.name}), then run the same command again",
            )

    def _switch(self, files: RotationFiles) -> None:
        files.switch(self.run.store)
        if files.secret is RotatedSecret.SSH:
            self._certify_users_again()

    def _certify_users_again(self) -> None:
        """Give everyone with access a certificate of the new authority, since those of the old one end.

        It is good for the time that is left, and lies in the user's directory.
        """
        book = read_book(self.run.paths.access)
        for user in book.users:
            left = user.expires - int(time.time())
            if not user.revoked and left > 0:
                book = self._certify_again(book, user, left)

    def _certify_again(self, book: AccessBook, user: LabUser, left: int) -> AccessBook:
        directory = self.run.paths.handouts / user.name
        made_here = (directory / "id_ed25519").is_file()
        order = CertificateOrder(
            user.name,
            book.next_serial,
            left,
            directory,
            "" if made_here else user.certificates[-1].public_key,
            forwarding=user.role is AccessRole.ADMIN,
            nodes=user.nodes,
            door=door_for(self.run),
        )
        access = self.run.access
        key = self.run.env.guests.user_key(self.run.spec, access, order, revoked=book.revoked_keys)
        book = book.granted(user.name, user.role, public_key=key, expires=user.expires, nodes=user.nodes)
        write_private(self.run.paths.access, render_book(book))
        self.run.env.guests.issue(self.run.spec, access, order)
        return book

    def _prove(self, secret: RotatedSecret) -> None:
        run = self.run
        checks = run.env.guests.prove(run.spec, secret, run.access, run.reporter)
        failed = [check for check in checks if not check.ok]
        if failed:
            lines = "\n    ".join(f"{check.name}: {check.detail}" for check in failed)
            raise VerifyError(
                f"the nodes have the new {secret} secret, but not all works with it:\n    {lines}",
                where=self.run.name,
                fix=f"look at the nodes' logs, then hyperscaler rotate {self.run.name} {secret} to try it again",
            )

    def _report(self, files: RotationFiles, phase: Phase, status: Status, text: str, seconds: float = 0.0) -> None:
        self.run.reporter.event(Event("rotate", f"{files.secret} {phase}", status, text, seconds))


_DOES: Mapping[Phase, str] = {
    Phase.TRUST: "nodes trust the new one along with the old",
    Phase.SWITCH: "the new one takes the old one's place on this host",
    Phase.RENEW: "nodes get what comes of the new one",
    Phase.DROP: "nodes forget the old one",
    Phase.PROVE: "the new one is tried",
}
_KINDS: Mapping[RotatedSecret, tuple[ClusterKind, ...]] = {RotatedSecret.MUNGE: (ClusterKind.HPC,)}
"""The clusters that need a secret, for secrets that not all need."""
