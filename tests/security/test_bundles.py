"""Bundles from anywhere: only a trusted signer's are used where signers are named, and none takes more than it says."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from emulator.adapters.system.process import HostProcess
from emulator.core.errors import HyperscalerError, StateError, UsageError
from emulator.core.paths import Home
from emulator.core.units import GIB, MIB
from emulator.images.build.apt_sources import AptSources
from emulator.images.supply_chain.ssh_signatures import SignatureError
from emulator.kubernetes.release import image_input
from emulator.kubernetes.release.bundle import create_bundle, show_bundle, unpack_bundle, verify_bundle
from emulator.kubernetes.release.bundles.signing import BundleSignatures, signature_of
from emulator.kubernetes.release.containers.layers import require_plain_layers
from emulator.kubernetes.release.image_input import Bundles
from emulator.kubernetes.release.release import MANIFEST, Release, ReleaseError, ReleaseManifest, describe_file
from emulator.labfile.model import KubernetesSpec
from tests.support.image_archives import image_archive

REPOSITORY = "registry.invalid"
NAMES = (
    *(f"kube-{part}:v1.35.4" for part in ("apiserver", "controller-manager", "scheduler", "proxy")),
    *("etcd:3.5.15-0", "pause:3.10", "coredns/coredns:v1.11.3", "tools:1"),
)
IMAGES = tuple(f"{REPOSITORY}/{name}" for name in NAMES)


def release_in(directory: Path, archive: bytes) -> Release:
    content = {f"bin/{name}": name.encode() for name in ("kubeadm", "kubelet", "kubectl")}
    for name, data in {**content, "images/kubernetes.tar": archive}.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    files = {str(path.relative_to(directory)): describe_file(path) for path in sorted(directory.glob("*/*"))}
    pause, dns, tools = (f"{REPOSITORY}/{name}" for name in ("pause:3.10", "coredns/coredns:v1.11.3", "tools:1"))
    return Release(
        directory, ReleaseManifest("1.35.4", "amd64", "a test", REPOSITORY, pause, dns, tools, IMAGES, files)
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    create_bundle(release_in(tmp_path / "release", image_archive(*IMAGES)), tmp_path / "lab.bundle")
    return tmp_path / "lab.bundle"


# ------------------------------------------------------------------------------------------------------ signatures
def key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path], check=True)
    return path


@pytest.fixture
def signer(tmp_path: Path) -> Path:
    return key(tmp_path / "signer")


@pytest.fixture
def home(tmp_path: Path, signer: Path) -> Home:
    """A host that trusts `signer`."""
    home = Home(tmp_path / "home")
    home.root.mkdir()
    home.trusted_signers.write_text(f"builder@example.org {signer.with_suffix('.pub').read_text()}")
    return home


@pytest.fixture
def bundles(home: Home) -> Bundles:
    return Bundles(home, HostProcess())


def refused(bundles: Bundles, bundle: Path, why: str) -> SignatureError:
    with pytest.raises(SignatureError, match=why) as told:
        bundles.verify(bundle)
    assert f"hyperscaler bundle sign {bundle} --key KEY" in told.value.fix
    return told.value


def test_a_signed_bundle_is_trusted(bundles: Bundles, bundle: Path, signer: Path) -> None:
    refused(bundles, bundle, r"has no signature \(.*lab\.bundle\.sig\)")
    bundles.sign(bundle, signer)
    manifest, principal = bundles.verify(bundle)
    assert (manifest.version, principal) == ("1.35.4", "builder@example.org")


def test_a_signature_of_another_is_none(bundles: Bundles, bundle: Path, tmp_path: Path) -> None:
    bundles.sign(bundle, key(tmp_path / "stranger"))
    refused(bundles, bundle, "is not signed by anyone whom this host trusts")


def test_a_signature_for_another_purpose_is_none(bundles: Bundles, bundle: Path, signer: Path) -> None:
    """Of an image, say, whose manifest has the same text."""
    text = show_bundle(bundle).to_json()
    argv = ["ssh-keygen", "-q", "-Y", "sign", "-n", "hyperscaler-image", "-f", str(signer)]
    done = subprocess.run(argv, input=text.encode(), capture_output=True, check=True)
    signature_of(bundle).write_bytes(done.stdout)
    refused(bundles, bundle, "is not signed by anyone")


def test_the_signature_of_another_bundle_is_none(bundles: Bundles, bundle: Path, signer: Path, tmp_path: Path) -> None:
    bundles.sign(bundle, signer)
    altered = release_in(tmp_path / "altered", image_archive(*IMAGES))
    create_bundle(
        dataclasses.replace(altered, manifest=dataclasses.replace(altered.manifest, origin="evil")), tmp_path / "b"
    )
    shutil.copy(signature_of(bundle), tmp_path / "b.sig")
    refused(bundles, tmp_path / "b", "is not signed by anyone")


def test_files_that_are_not_the_signed_ones_are_refused(bundles: Bundles, bundle: Path, signer: Path) -> None:
    bundles.sign(bundle, signer)
    bundle.write_bytes(bundle.read_bytes().replace(b"kubelet\0\0", b"kubelex\0\0"))
    with pytest.raises(ReleaseError, match="not what its manifest says"):
        bundles.verify(bundle)


@pytest.mark.parametrize("plant", [Path.mkdir, os.mkfifo, lambda path: path.write_bytes(bytes(1 << 20))])
def test_what_is_no_signature_holds_nobody_up(bundles: Bundles, bundle: Path, plant: Callable[[Path], object]) -> None:
    plant(signature_of(bundle))
    refused(bundles, bundle, "has no signature")


def test_a_file_of_signers_that_others_could_write_to_trusts_nobody(
    bundles: Bundles, bundle: Path, signer: Path, home: Home
) -> None:
    bundles.sign(bundle, signer)
    home.trusted_signers.chmod(0o666)
    with pytest.raises(StateError, match="others could write to the file of trusted signers"):
        bundles.verify(bundle)


def test_signers_in_a_directory_where_others_write_are_not_believed(
    bundles: Bundles, bundle: Path, signer: Path, tmp_path: Path
) -> None:
    bundles.sign(bundle, signer)
    shared = tmp_path / "shared"
    shared.mkdir()
    signers = shared / "signers"
    signers.write_text(f"builder@example.org {signer.with_suffix('.pub').read_text()}")
    assert bundles.verify(bundle, signers)[1] == "builder@example.org"
    shared.chmod(0o777)
    with pytest.raises(StateError, match=r"or exchange it \(.*/shared: others can write to this directory"):
        bundles.verify(bundle, signers)


def test_other_signers_are_named_on_the_command_line(bundles: Bundles, bundle: Path, tmp_path: Path) -> None:
    friend = key(tmp_path / "friend")
    bundles.sign(bundle, friend)
    signers = tmp_path / "signers"
    signers.write_text(f"friend@example.org {friend.with_suffix('.pub').read_text()}")
    assert bundles.verify(bundle, signers)[1] == "friend@example.org"
    with pytest.raises(UsageError, match="no one is trusted to sign bundles"):
        bundles.verify(bundle, tmp_path / "absent")


def test_without_signers_a_bundle_needs_no_signature(bundle: Path, tmp_path: Path) -> None:
    assert Bundles(Home(tmp_path / "other"), HostProcess()).verify(bundle)[1] == ""


def test_nothing_of_an_unsigned_bundle_is_unpacked(bundle: Path, home: Home, tmp_path: Path, signer: Path) -> None:
    signatures = BundleSignatures(home.trusted_signers, HostProcess())

    def trust(manifest: str) -> None:
        signatures.check(manifest, bundle)

    with pytest.raises(SignatureError):
        unpack_bundle(bundle, tmp_path / "cache", trust)
    assert not (tmp_path / "cache").exists()
    signatures.sign(show_bundle(bundle).to_json(), bundle, signer)
    assert unpack_bundle(bundle, tmp_path / "cache", trust).manifest.version == "1.35.4"


def test_a_lab_s_bundle_is_refused_by_looking_and_by_making(
    bundle: Path, home: Home, signer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_input, "host_sources", lambda *_, **__: AptSources())
    sources = image_input.kubernetes_sources(home, HostProcess())
    wants = KubernetesSpec(source=f"bundle:{bundle}")
    for use in (sources.ready, lambda wants: sources.release(wants, progress=lambda _step, _line: None)):
        with pytest.raises(SignatureError, match="has no signature"):
            use(wants)
    assert list(sources.cache.glob("1.*")) == []
    Bundles(home, HostProcess()).sign(bundle, signer)
    release = sources.release(wants, progress=lambda _step, _line: None)
    assert release.manifest.version == "1.35.4"
    # What is unpacked already does not make up for a signature.
    signature_of(bundle).unlink()
    with pytest.raises(SignatureError):
        sources.ready(wants)


def test_a_bundle_is_signed_where_it_is_made(
    bundles: Bundles, tmp_path: Path, signer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = release_in(tmp_path / "release", image_archive(*IMAGES))

    class Sources:
        """Has that release ready."""

        def release(self, wants: KubernetesSpec, *, progress: object) -> Release:
            return made

    monkeypatch.setattr(image_input, "kubernetes_sources", lambda *_: Sources())
    with pytest.raises(UsageError, match="there is no such key"):
        bundles.create(KubernetesSpec(), tmp_path / "b", key=tmp_path / "absent", progress=lambda _step, _line: None)
    assert not (tmp_path / "b").exists()
    bundles.create(KubernetesSpec(), tmp_path / "b", key=signer, progress=lambda _step, _line: None)
    assert bundles.verify(tmp_path / "b")[1] == "builder@example.org"


def test_what_was_trusted_is_what_is_believed(bundle: Path) -> None:
    """The text that is checked is the one that is read: there is no second look at the file between the two."""
    seen: list[str] = []

    def trust(manifest: str) -> None:
        seen.append(manifest)
        bundle.unlink()
        bundle.write_bytes(b"another bundle")

    assert show_bundle(bundle, trust).to_json() == seen[0]


# ------------------------------------------------------------------------------------------------------------ bombs
@pytest.mark.parametrize(
    "files",
    [
        {f"bin/f{number}": {"sha256": "0" * 64, "size": 0} for number in range(3000)},
        {"images/huge.tar": {"sha256": "0" * 64, "size": 65 * GIB}},
    ],
    ids=["many", "large"],
)
def test_a_manifest_that_says_too_much_is_refused(bundle: Path, tmp_path: Path, files: Mapping[str, object]) -> None:
    data = json.loads(show_bundle(bundle).to_json())
    data["files"] |= files
    text = json.dumps(data).encode()
    path = tmp_path / "greedy.bundle"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo(MANIFEST)
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    for use in (show_bundle, verify_bundle, lambda path: unpack_bundle(path, tmp_path / "cache")):
        with pytest.raises(ReleaseError, match="no release has more than"):
            use(path)


def test_more_in_it_than_the_manifest_accounts_for_is_not_even_read(bundle: Path, tmp_path: Path) -> None:
    """Far more than fits into memory, and nothing on the disk: a sparse file."""
    with bundle.open("r+b") as stream:
        stream.truncate(200 * GIB)
    with pytest.raises(ReleaseError, match=r"there is more behind the end of the bundle, or in it: 200.0 GiB"):
        unpack_bundle(bundle, tmp_path / "cache")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
@pytest.mark.parametrize("first", [True, False])
def test_an_extended_header_takes_no_memory(bundle: Path, tmp_path: Path, kind: bytes, first: bool) -> None:
    """It says that its name has gigabytes, which are there: holes in a file. 1 GiB of address space is enough."""
    header = tarfile.TarInfo("name")
    header.type, header.size = kind, 4 * GIB
    data = b"" if first else bundle.read_bytes().rstrip(b"\0")
    data += bytes(-len(data) % tarfile.BLOCKSIZE)
    path = tmp_path / "long.bundle"
    path.write_bytes(data + header.tobuf(tarfile.GNU_FORMAT))
    with path.open("r+b") as stream:
        stream.truncate(5 * GIB)
    code = (
        "import sys; from pathlib import Path\n"
        "from emulator.core.errors import HyperscalerError\n"
        "from emulator.kubernetes.release.bundle import verify_bundle\n"
        "try: verify_bundle(Path(sys.argv[1]))\n"
        "except HyperscalerError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (GIB, GIB)),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "belong to it" in done.stdout or "more behind the end" in done.stdout
    assert "MemoryError" not in done.stdout


def test_of_many_faults_some_are_told(bundle: Path) -> None:
    with tarfile.open(bundle, "a") as archive:
        for number in range(50):
            archive.addfile(tarfile.TarInfo(f"x{number}"))
    with pytest.raises(ReleaseError) as told:
        verify_bundle(bundle)
    assert 5 < str(told.value).count("\n") < 30


def layer(*files: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def sparse_layer() -> bytes:
    """A file of 1 TiB in a block or two, as Go's archive/tar writes and reads it."""
    member = tarfile.TarInfo("var/log/huge")
    member.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 40)}
    return member.tobuf(tarfile.PAX_FORMAT) + bytes(1024)


def skippable() -> bytes:
    return (0x184D2A53).to_bytes(4, "little") + (4).to_bytes(4, "little") + b"abcd" + b"\x28\xb5\x2f\xfd"


BOMBS = {
    "gzip": (gzip.compress(bytes(MIB)), r"compressed \(gzip\)"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(1000), r"compressed \(zstd\)"),
    "zstd behind a frame that is skipped": (skippable(), r"compressed \(zstd\)"),
    "sparse": (sparse_layer(), "var/log/huge.*is a sparse file"),
}


@pytest.mark.parametrize(("content", "why"), BOMBS.values(), ids=BOMBS)
def test_a_layer_that_grows_when_it_is_unpacked(tmp_path: Path, content: bytes, why: str) -> None:
    archive = layer(("0123/layer.tar", content), ("manifest.json", b"[]"))
    with pytest.raises(ValueError, match=why):
        require_plain_layers(io.BytesIO(archive))
    bundle = tmp_path / "bomb.bundle"
    create_bundle(release_in(tmp_path / "bomb", archive), bundle)
    with pytest.raises(ReleaseError, match=f"(?s)images/kubernetes.tar is no archive .* that can be used.*{why}"):
        unpack_bundle(bundle, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_plain_layers_pass() -> None:
    whole = layer(("bin/busybox", b"program" * 1000), ("empty", b""))
    require_plain_layers(io.BytesIO(layer(("0123/layer.tar", whole), ("config.json", b"{}"), ("manifest.json", b"[]"))))


@pytest.fixture
def no_more_open() -> Iterator[None]:
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.usefixtures("no_more_open")
def test_a_pipe_in_the_place_of_a_bundle(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(HyperscalerError, match="there is no bundle"):
        verify_bundle(tmp_path / "pipe")
