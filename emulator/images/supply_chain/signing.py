"""Signatures of images, with ssh keys: of the manifest, whose checksums cover the files."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from emulator.core.errors import HyperscalerError, StateError, UsageError
from emulator.core.fs import replace_file
from emulator.core.ports import ProcessRunner
from emulator.images.store.golden_image import GoldenImage
from emulator.images.store.manifest import MANIFEST_NAME, SIGNATURE_NAME
from emulator.images.store.store import ImageStore

# What the signature is for (ssh-keygen(1), -n): one made for another purpose with the same key is none.
NAMESPACE = "hyperscaler-image"
_TIMEOUT = 60.0


class SignatureError(HyperscalerError):
    """An image has no signature that this host trusts, or differs from what was signed."""


@dataclass(frozen=True, slots=True)
class ImageSignatures:
    """Signs and checks. `trusted` is a file of allowed signers (ssh-keygen(1)), which may be absent."""

    trusted: Path
    runner: ProcessRunner

    @property
    def required(self) -> bool:
        """Whether labs may use signed images only: there is a file of signers."""
        return os.path.lexists(self.trusted)

    def sign(self, store: ImageStore, image: GoldenImage, key: Path) -> None:
        """Sign with a private key, or with a public one whose private half an agent has.

        Raises:
            HyperscalerError: the image is damaged; CommandError: ssh-keygen refuses.
        """
        _intact(store, image)
        if not key.is_file():
            raise UsageError("there is no such key", where=str(key))
        argv = ["ssh-keygen", "-q", "-Y", "sign", "-n", NAMESPACE, "-f", str(key)]
        done = self.runner.run(argv, timeout=_TIMEOUT, stdin=_manifest(image))
        with store.locked(image.name):
            replace_file(image.directory / SIGNATURE_NAME, done.stdout.encode(), mode=0o444)

    def check(self, store: ImageStore, image: GoldenImage) -> str:
        """Whose trusted signature the image has: the principal in the file of signers.

        Raises:
            SignatureError: there is no trusted signature, or the files differ from the signed ones.
            StateError: the file of signers could be written to by others.
        """
        self._check_signers()
        signature = image.directory / SIGNATURE_NAME
        if signature.is_symlink() or not signature.is_file():
            raise self._refused(image, "has no signature")
        known = ["-f", str(self.trusted), "-s", str(signature)]
        argv = ["ssh-keygen", "-Y", "find-principals", *known]
        found = self.runner.run(argv, timeout=_TIMEOUT, check=False, stdin="")
        principals = found.stdout.splitlines() if found.returncode == 0 else []
        for principal in principals:
            argv = ["ssh-keygen", "-Y", "verify", "-I", principal, "-n", NAMESPACE, *known]
            if self.runner.run(argv, timeout=_TIMEOUT, check=False, stdin=_manifest(image)).returncode == 0:
                _intact(store, image)
                return principal
        raise self._refused(image, "is not signed by anyone whom this host trusts")

    def _check_signers(self) -> None:
        try:
            status = self.trusted.lstat()
        except OSError as error:
            fix = "put the signers' public keys into it, as ssh-keygen(1) says under ALLOWED SIGNERS"
            raise UsageError("no one is trusted to sign images", where=str(self.trusted), fix=fix) from error
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
            raise StateError(
                "others could write to the file of trusted signers",
                where=str(self.trusted),
                fix=f"chown root {self.trusted} && chmod 644 {self.trusted}, after a look at what is in it",
            )

    def _refused(self, image: GoldenImage, why: str) -> SignatureError:
        ref = f"{image.name}@{image.digest[:12]}"
        return SignatureError(
            f"image {ref} {why}",
            where=str(self.trusted),
            fix=f"hyperscaler image sign {ref} --key KEY, with a key of a trusted signer",
        )


def _manifest(image: GoldenImage) -> str:
    return (image.directory / MANIFEST_NAME).read_text(encoding="utf-8")


def _intact(store: ImageStore, image: GoldenImage) -> None:
    faults = store.verify(image)
    if faults:
        raise SignatureError(
            "the image is not what its manifest says: " + "; ".join(faults),
            where=str(image.directory),
            fix=f"hyperscaler image build {image.name} --force",
        )
