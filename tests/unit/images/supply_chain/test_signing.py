"""Signatures of images, made and checked by the real ssh-keygen."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from emulator.adapters.system.process import HostProcess
from emulator.core.errors import CommandError, StateError, UsageError
from emulator.images.build.builder import BuildPhase
from emulator.images.lab_images import LabImages
from emulator.images.store.golden_image import GoldenImage
from emulator.images.store.store import ImageStore
from emulator.images.supply_chain.signing import ImageSignatures
from emulator.images.supply_chain.ssh_signatures import SignatureError
from tests.support.build_tools import BuildTools


def quiet(phase: BuildPhase, line: str) -> None:
    """Progress of nobody."""


def key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path], check=True)
    return path


@pytest.fixture
def image(store: ImageStore) -> GoldenImage:
    return store.build("demo", progress=quiet)


@pytest.fixture
def signer(tmp_path: Path) -> Path:
    return key(tmp_path / "signer")


@pytest.fixture
def signatures(tmp_path: Path, signer: Path) -> ImageSignatures:
    """A host that trusts `signer` under the name builder@example.org."""
    trusted = tmp_path / "trusted-signers"
    trusted.write_text(f"builder@example.org {signer.with_suffix('.pub').read_text()}")
    trusted.chmod(0o644)
    return ImageSignatures(trusted, HostProcess())


def test_a_signed_image_is_trusted_and_used(
    store: ImageStore, image: GoldenImage, signer: Path, signatures: ImageSignatures
) -> None:
    labs = LabImages(store, signatures=signatures)
    with pytest.raises(SignatureError, match="has no signature") as caught:
        labs.current("demo")
    assert "hyperscaler image sign demo@" in caught.value.fix
    signatures.sign(store, image, signer)
    assert signatures.check(store, image) == "builder@example.org"
    assert labs.current("demo") == image
    assert store.verify(image) == []


def test_without_a_file_of_signers_nothing_is_asked_for(store: ImageStore, image: GoldenImage, tmp_path: Path) -> None:
    nobody = ImageSignatures(tmp_path / "absent", HostProcess())
    assert not nobody.required
    assert LabImages(store, signatures=nobody).current("demo") == image
    with pytest.raises(UsageError, match="no one is trusted"):
        nobody.check(store, image)


def test_another_key_is_not_trusted(
    store: ImageStore, image: GoldenImage, signatures: ImageSignatures, tmp_path: Path
) -> None:
    signatures.sign(store, image, key(tmp_path / "stranger"))
    with pytest.raises(SignatureError, match="not signed by anyone whom this host trusts"):
        signatures.check(store, image)


def test_a_signature_of_another_image_or_purpose_is_none(
    store: ImageStore, tools: BuildTools, image: GoldenImage, signer: Path, signatures: ImageSignatures
) -> None:
    signatures.sign(store, image, signer)
    signature = (image.directory / "manifest.json.sig").read_text()
    tools.payload = b"another"
    other = store.build("demo", progress=quiet, force=True)
    (other.directory / "manifest.json.sig").write_text(signature)
    with pytest.raises(SignatureError):
        signatures.check(store, other)
    argv = ["ssh-keygen", "-q", "-Y", "sign", "-n", "file", "-f", str(signer)]
    done = subprocess.run(argv, input=(other.directory / "manifest.json").read_bytes(), capture_output=True, check=True)
    (other.directory / "manifest.json.sig").write_bytes(done.stdout)
    with pytest.raises(SignatureError):
        signatures.check(store, other)


@pytest.mark.parametrize("name", ["disk.qcow2", "vmlinuz", "sbom.spdx.json", "manifest.json"])
def test_a_file_changed_after_signing_is_found(
    store: ImageStore, image: GoldenImage, signer: Path, signatures: ImageSignatures, name: str
) -> None:
    signatures.sign(store, image, signer)
    path = image.directory / name
    path.chmod(0o644)
    path.write_text(path.read_text() + " ")
    with pytest.raises(SignatureError):
        LabImages(store, signatures=signatures).current("demo")


def test_a_damaged_image_is_not_signed(
    store: ImageStore, image: GoldenImage, signer: Path, signatures: ImageSignatures
) -> None:
    image.kernel.unlink()
    with pytest.raises(SignatureError, match="vmlinuz"):
        signatures.sign(store, image, signer)
    assert not (image.directory / "manifest.json.sig").exists()


def test_keys_that_cannot_sign(
    store: ImageStore, image: GoldenImage, signatures: ImageSignatures, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no such key"):
        signatures.sign(store, image, tmp_path / "absent")
    (tmp_path / "noise").write_text("no key")
    with pytest.raises(CommandError):
        signatures.sign(store, image, tmp_path / "noise")
    assert not (image.directory / "manifest.json.sig").exists()


def test_a_file_of_signers_that_others_can_write_is_refused(
    store: ImageStore, image: GoldenImage, signer: Path, signatures: ImageSignatures, tmp_path: Path
) -> None:
    signatures.sign(store, image, signer)
    signatures.trusted.chmod(0o666)
    with pytest.raises(StateError, match="others could write"):
        signatures.check(store, image)
    signatures.trusted.rename(tmp_path / "elsewhere")
    signatures.trusted.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateError, match="others could write"):
        signatures.check(store, image)
