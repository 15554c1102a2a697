"""A rotation's files: the staged new secrets, and the record of the current phase.

They are in `secrets/rotation/<secret>/` of the lab, 0600 below 0700. The new secrets are on disk before the record, and
the record before any effect. The directory is removed when the rotation has ended.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from emulator.apply.executor import HandlerTable
from emulator.apply.handler import ApplyContext
from emulator.apply.handlers.secrets import public_key
from emulator.apply.state import StateStore
from emulator.core.errors import StateError
from emulator.core.fs import private_directory, sync, write_private
from emulator.core.paths import LabPaths
from emulator.credentials.rotation_phases import (
    RESOURCES,
    Phase,
    RecordDamagedError,
    RotatedSecret,
    first_phase,
    parse_record,
    render_record,
)
from emulator.plan.resources import Secret, SshKeyPair

RECORD = "rotation.json"
OLD_CA = "old-ca.crt"


class RotationFiles:
    """The rotation of one secret of the lab whose directory is `paths`."""

    def __init__(self, paths: LabPaths, secret: RotatedSecret) -> None:
        self._paths = paths
        self.secret = secret
        self.directory = paths.rotation / secret.value

    def phase(self) -> Phase | None:
        """The current phase, or None if the secret is not being rotated. With a damaged record, the phase to start
        again with.

        Raises:
            StateError: the record is of a newer version, or cannot be read.
        """
        try:
            return self._recorded()
        except RecordDamagedError:
            return self._to_begin_anew()

    def _recorded(self) -> Phase | None:
        record = self.directory / RECORD
        try:
            return parse_record(self.secret, record.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"cannot be read: {error.strerror}", where=str(record)) from error

    def _to_begin_anew(self) -> Phase | None:
        """The phase to start again with after a damaged record: the first, since phases can be repeated, or `switch` if
        a new secret has begun to replace the old one, because half a pair is useless. None if new secrets are missing:
        the old ones stay."""
        pairs = self.secret is RotatedSecret.SSH
        halves = [
            half
            for path in _secrets_of(self._paths)[self.secret]
            for half in ((public_key(path), path) if pairs else (path,))
        ]
        try:
            staged = {half: self.staged(half).read_bytes() for half in halves}
        except FileNotFoundError:
            return None
        switched = any(half.is_file() and half.read_bytes() == new for half, new in staged.items())
        return Phase.SWITCH if switched else first_phase(self.secret)

    def repair(self) -> str:
        """Replace a damaged record and keep the damaged one; returns the user's message, empty for a whole record."""
        try:
            self._recorded()
            return ""
        except RecordDamagedError:
            kept = self._paths.rotation / f"{self.secret}.damaged-{time.strftime('%Y%m%dT%H%M%S')}"
            kept.unlink(missing_ok=True)
            os.link(self.directory / RECORD, kept)
            phase = self.phase()
            if phase is None:
                (self.directory / RECORD).unlink()
                sync(self.directory)
                done = "its new secrets are not all there, so the ones in use stay"
            else:
                self.record(phase)
                done = f"it starts again with: {phase}"
            return f"the record of the rotation of {self.secret} was damaged and is kept as {kept}; {done}"

    def record(self, phase: Phase) -> None:
        """Record that `phase` begins; on disk when this returns."""
        write_private(self.directory / RECORD, render_record(self.secret, phase))

    def staged(self, path: Path) -> Path:
        """Where the successor of the secret at `path` waits."""
        return self.directory / path.name

    def stage(self, lab: str, store: StateStore, handlers: HandlerTable) -> None:
        """Make the new secrets and then the record: from here on the next command finishes the rotation.

        Raises:
            StateError: the lab has no such secret.
        """
        resources = secrets_on_record(self.secret, store)
        # Remains of a run that died before it wrote its record are not in use yet.
        shutil.rmtree(self.directory, ignore_errors=True)
        private_directory(self.directory)
        context = ApplyContext(lab, store.handle)
        for resource in resources:
            successor = dataclasses.replace(resource, path=str(self.staged(Path(resource.path))))
            handlers[resource.kind].ensure(successor, None, context)
        self.record(first_phase(self.secret))

    def switch(self, store: StateStore) -> None:
        """Replace each old secret by the staged one, announced in the journal; can be repeated."""
        if self.secret is RotatedSecret.TLS:
            self._keep_old_authority()
        for resource in secrets_on_record(self.secret, store):
            current = Path(resource.path)
            store.begin("rotate", resource)
            if isinstance(resource, SshKeyPair):
                replace_pair(current, self.staged(current))
                handle = {"public": public_key(current).read_text().strip()}
            else:
                write_private(current, self.staged(current).read_bytes())
                handle = {}
            store.end("rotate", resource, handle)

    def _keep_old_authority(self) -> None:
        kept = self.directory / OLD_CA
        if not kept.is_file() and self._paths.tls_ca.is_file():
            write_private(kept, self._paths.tls_ca.read_bytes())

    def clear(self) -> None:
        """Remove the files of an ended rotation; the record first, since without it the rest means nothing."""
        (self.directory / RECORD).unlink(missing_ok=True)
        sync(self.directory)
        shutil.rmtree(self.directory)


def _secrets_of(paths: LabPaths) -> Mapping[RotatedSecret, tuple[Path, ...]]:
    """Paths of the secrets in use, in the order of their replacement."""
    return {
        RotatedSecret.SSH: (paths.ssh_key, paths.ssh_ca),
        RotatedSecret.MUNGE: (paths.munge_key,),
        RotatedSecret.TLS: (paths.tls_key,),
    }


def repair_rotation_records(paths: LabPaths) -> tuple[str, ...]:
    """Replace damaged records of rotations; returns a message for each.

    Raises:
        StateError: a record is of a newer version, or cannot be read.
    """
    return tuple(message for secret in RotatedSecret if (message := RotationFiles(paths, secret).repair()))


def secrets_on_record(secret: RotatedSecret, store: StateStore) -> Sequence[SshKeyPair | Secret]:
    """The resources that make up the secret.

    Raises:
        StateError: the lab's journal does not have them.
    """
    recorded = store.state.resources
    found = [recorded[name].resource for name in RESOURCES[secret] if name in recorded]
    kept = [resource for resource in found if isinstance(resource, SshKeyPair | Secret)]
    if len(kept) != len(RESOURCES[secret]):
        missing = ", ".join(name for name in RESOURCES[secret] if name not in recorded)
        raise StateError(
            f"the lab has no {missing} on record",
            fix="it was made by an older version, or not to the end: run `hyperscaler provision` with its file once",
        )
    return kept


def replace_pair(current: Path, successor: Path) -> None:
    """Replace a key pair by another one, the public half first: a pair without one counts as lost. A pair found between
    the two steps is useless, and this must be called again before anything else."""
    write_private(public_key(current), public_key(successor).read_bytes())
    write_private(current, successor.read_bytes())


def pending_rotations(paths: LabPaths) -> tuple[RotationFiles, ...]:
    """Rotations of the lab that have begun and not ended.

    Raises:
        StateError: a record is of a newer version, or cannot be read.
    """
    if not paths.rotation.is_dir():
        return ()
    return tuple(files for secret in RotatedSecret if (files := RotationFiles(paths, secret)).phase() is not None)
