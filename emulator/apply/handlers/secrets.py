"""A lab's own files: its ssh key pair and its secrets."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path

from emulator.apply.handler import ApplyContext, Handle
from emulator.apply.path_guard import require_below
from emulator.core.errors import StateError
from emulator.core.fs import private_directory, sync, write_private
from emulator.core.ports import ProcessRunner
from emulator.plan.model import Observation, Presence, Recorded
from emulator.plan.resources import Resource, Secret, SshKeyPair


def _observe_private(path: Path, *, size: int | None) -> Observation:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return Observation(Presence.ABSENT)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        return Observation(Presence.FOREIGN, detail=f"{path} is not a regular file of this user")
    if size is None and status.st_size == 0:
        return Observation(Presence.PARTIAL, detail=f"{path.name} is empty")
    if size is not None and status.st_size != size:
        return Observation(Presence.PARTIAL, detail=f"{path.name} has {status.st_size} bytes instead of {size}")
    if stat.S_IMODE(status.st_mode) & 0o077:
        return Observation(Presence.OURS, drift=("readable by others",))
    return Observation(Presence.OURS)


class SecretHandler:
    """Random bytes that never pass through the journal, a log or a command line.

    `root` is the lab's directory: nothing outside of it is ever removed.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def observe(self, resource: Secret, record: Recorded | None) -> Observation:
        del record
        size = resource.size_bytes if resource.encoding == "raw" else None
        return _observe_private(Path(resource.path), size=size)

    def ensure(self, resource: Secret, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous, context
        path = Path(resource.path)
        if self.observe(resource, None).presence is Presence.OURS:
            path.chmod(0o600)
        elif resource.encoding == "raw":
            write_private(path, secrets.token_bytes(resource.size_bytes))
        elif resource.encoding == "ec-key":
            write_private(path, new_ec_key())
        else:
            write_private(path, secrets.token_urlsafe(resource.size_bytes).encode() + b"\n")
        return {}

    def delete(self, resource: Secret, handle: Handle, context: ApplyContext) -> None:
        del handle, context
        require_below(self._root, Path(resource.path), resource.id)
        Path(resource.path).unlink(missing_ok=True)

    def find(self, lab: str) -> Sequence[Resource]:
        del lab
        return ()


def new_ec_key() -> bytes:
    """A new private key on the curve P-256, which every TLS library supports, as PKCS #8 in PEM."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class SshKeyPairHandler:
    """ed25519 by ssh-keygen, without a passphrase for unattended rebuilds. `root`: see `SecretHandler`."""

    def __init__(self, runner: ProcessRunner, root: Path) -> None:
        self._runner = runner
        self._root = root

    def observe(self, resource: SshKeyPair, record: Recorded | None) -> Observation:
        del record
        private = Path(resource.path)
        seen = _observe_private(private, size=None)
        public = public_key(private)
        if seen.presence is Presence.OURS and not (public.is_file() and public.stat().st_size):
            return Observation(Presence.PARTIAL, detail="the public half is missing")
        return seen

    def ensure(self, resource: SshKeyPair, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous
        private = Path(resource.path)
        if self.observe(resource, None).presence is Presence.OURS:
            private.chmod(0o600)
            return {"public": public_key(private).read_text().strip()}
        private_directory(private.parent)
        temporary = private.with_name(f".{private.name}.new")  # a lab's key pairs may be generated at the same time
        for leftover in (temporary, public_key(temporary)):
            leftover.unlink(missing_ok=True)
        comment = f"hyperscaler {context.lab}"
        self._runner.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(temporary)], timeout=60
        )
        try:
            # ssh-keygen does not sync its files to the disk.
            for half in (public_key(temporary), temporary):
                sync(half)
            # The private half comes last: its presence means that the pair is complete.
            public_key(temporary).replace(public_key(private))
            temporary.replace(private)
            sync(private.parent)
        except OSError as error:
            raise StateError(f"cannot be written: {error.strerror}", where=str(private)) from error
        return {"public": public_key(private).read_text().strip()}

    def delete(self, resource: SshKeyPair, handle: Handle, context: ApplyContext) -> None:
        del handle, context
        private = Path(resource.path)
        require_below(self._root, private, resource.id)
        private.unlink(missing_ok=True)
        public_key(private).unlink(missing_ok=True)

    def find(self, lab: str) -> Sequence[Resource]:
        del lab
        return ()


def public_key(private: Path) -> Path:
    return private.with_name(private.name + ".pub")
