"""Signatures with ssh keys (ssh-keygen(1), -Y): one way for everything that is signed here."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from emulator.core.errors import HyperscalerError, StateError, UsageError
from emulator.core.ports import ProcessRunner
from emulator.core.trust.owners import exposed

MAX_SIGNATURE_BYTES = 64 * 1024
_TIMEOUT = 60.0


class SignatureError(HyperscalerError):
    """Something has no signature that this host trusts, or differs from what was signed."""


@dataclass(frozen=True, slots=True)
class SshSignatures:
    """Signs and checks texts of one kind.

    Attributes:
        trusted: file of allowed signers (ssh-keygen(1)), which may be absent.
        namespace: what the signatures are for: one made for another purpose with the same key is none.
        subject: the kind, in the plural, for messages.
        runner: runs ssh-keygen.
    """

    trusted: Path
    namespace: str
    subject: str
    runner: ProcessRunner

    @property
    def required(self) -> bool:
        """Whether there is a file of signers."""
        return os.path.lexists(self.trusted)

    def sign(self, text: str, key: Path) -> bytes:
        """The signature by a private key, or by a public one whose private half an agent has.

        Raises:
            UsageError: there is no such key.
            CommandError: ssh-keygen refuses.
        """
        if not key.is_file():
            raise UsageError("there is no such key", where=str(key))
        argv = ["ssh-keygen", "-q", "-Y", "sign", "-n", self.namespace, "-f", str(key)]
        return self.runner.run(argv, timeout=_TIMEOUT, stdin=text).stdout.encode()

    def signer(self, text: str, signature: Path) -> str | None:
        """The trusted signer whose signature of `text` the file has, by the principal in the file of signers; None when
        it is nobody's.

        Raises:
            UsageError: there is no file of signers.
            StateError: others could write to it.
        """
        self.require_signers()
        known = ["-f", str(self.trusted), "-s", str(signature)]
        argv = ["ssh-keygen", "-Y", "find-principals", *known]
        found = self.runner.run(argv, timeout=_TIMEOUT, check=False, stdin="")
        for principal in found.stdout.splitlines() if found.returncode == 0 else []:
            argv = ["ssh-keygen", "-Y", "verify", "-I", principal, "-n", self.namespace, *known]
            if self.runner.run(argv, timeout=_TIMEOUT, check=False, stdin=text).returncode == 0:
                return principal
        return None

    def require_signers(self) -> None:
        """Raises: UsageError without a file of signers, StateError when others could write to it, or exchange it."""
        try:
            status = self.trusted.lstat()
        except OSError as error:
            fix = "put the signers' public keys into it, as ssh-keygen(1) says under ALLOWED SIGNERS"
            raise UsageError(f"no one is trusted to sign {self.subject}", where=str(self.trusted), fix=fix) from error
        fix = f"after a look at what is in it: chown root {self.trusted} && chmod 644 {self.trusted}"
        found = exposed(self.trusted) if stat.S_ISREG(status.st_mode) else "it is no regular file"
        if found:
            what = f"others could write to the file of trusted signers, or exchange it ({found})"
            raise StateError(what, where=str(self.trusted), fix=fix)


def is_signature(path: Path) -> bool:
    """Whether a regular file is there, and not a large one."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size <= MAX_SIGNATURE_BYTES
