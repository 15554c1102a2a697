"""Signatures of images, with ssh keys: of the manifest, whose checksums cover the files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emulator.core.fs import replace_file
from emulator.core.ports import ProcessRunner
from emulator.images.store.golden_image import GoldenImage
from emulator.images.store.manifest import MANIFEST_NAME, SIGNATURE_NAME
from emulator.images.store.store import ImageStore
from emulator.images.supply_chain.ssh_signatures import SignatureError, SshSignatures, is_signature

NAMESPACE = "hyperscaler-image"


@dataclass(frozen=True, slots=True)
class ImageSignatures:
    """Signs and checks. `trusted` is a file of allowed signers (ssh-keygen(1)), which may be absent."""

    trusted: Path
    runner: ProcessRunner

    @property
    def required(self) -> bool:
        """Whether labs may use signed images only: there is a file of signers."""
        return self._signatures.required

    @property
    def _signatures(self) -> SshSignatures:
        return SshSignatures(self.trusted, NAMESPACE, "images", self.runner)

    def sign(self, store: ImageStore, image: GoldenImage, key: Path) -> None:
        """Sign with a private key, or with a public one whose private half an agent has.

        Raises:
            HyperscalerError: the image is damaged, there is no such key, or ssh-keygen refuses.
        """
        _intact(store, image)
        signature = self._signatures.sign(_manifest(image), key)
        with store.locked(image.name):
            replace_file(image.directory / SIGNATURE_NAME, signature, mode=0o444)

    def check(self, store: ImageStore, image: GoldenImage) -> str:
        """Whose trusted signature the image has: the principal in the file of signers.

        Raises:
            SignatureError: there is no trusted signature, or the files differ from the signed ones.
            StateError: the file of signers could be written to by others.
        """
        self._signatures.require_signers()
        signature = image.directory / SIGNATURE_NAME
        if not is_signature(signature):
            raise self._refused(image, "has no signature")
        principal = self._signatures.signer(_manifest(image), signature)
        if principal is None:
            raise self._refused(image, "is not signed by anyone whom this host trusts")
        _intact(store, image)
        return principal

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
