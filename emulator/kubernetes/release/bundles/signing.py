"""Signatures of bundles, as images have them: of the manifest, whose checksums cover the files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emulator.core.fs import write_whole
from emulator.core.ports import ProcessRunner
from emulator.images.supply_chain.ssh_signatures import SignatureError, SshSignatures, is_signature

NAMESPACE = "hyperscaler-bundle"


def signature_of(bundle: Path) -> Path:
    """Where the signature of a bundle is: next to it."""
    return bundle.with_name(bundle.name + ".sig")


@dataclass(frozen=True, slots=True)
class BundleSignatures:
    """Signs and checks. `trusted` is a file of allowed signers (ssh-keygen(1)), which may be absent."""

    trusted: Path
    runner: ProcessRunner

    @property
    def required(self) -> bool:
        """Whether labs may use signed bundles only: there is a file of signers."""
        return self._signatures.required

    @property
    def _signatures(self) -> SshSignatures:
        return SshSignatures(self.trusted, NAMESPACE, "bundles", self.runner)

    def sign(self, manifest: str, bundle: Path, key: Path) -> None:
        """Write the signature of a bundle with this text as its manifest, by a private key, or by a public one whose
        private half an agent has.

        Raises:
            UsageError: there is no such key.
            CommandError: ssh-keygen refuses.
            StateError: it cannot be written.
        """
        write_whole(signature_of(bundle), self._signatures.sign(manifest, key), mode=0o644)

    def check(self, manifest: str, bundle: Path) -> str:
        """Whose trusted signature the manifest of a bundle has: the principal in the file of signers.

        Raises:
            SignatureError: there is no trusted signature.
            UsageError: there is no file of signers.
            StateError: others could write to it.
        """
        self._signatures.require_signers()
        signature = signature_of(bundle)
        if not is_signature(signature):
            raise self._refused(bundle, f"has no signature ({signature})")
        principal = self._signatures.signer(manifest, signature)
        if principal is None:
            raise self._refused(bundle, "is not signed by anyone whom this host trusts")
        return principal

    def _refused(self, bundle: Path, why: str) -> SignatureError:
        return SignatureError(
            f"the bundle {bundle} {why}",
            where=str(self.trusted),
            fix=f"hyperscaler bundle sign {bundle} --key KEY, with a key of a trusted signer; copy the .sig file along",
        )
