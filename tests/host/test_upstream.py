"""Kubernetes fetched from an upstream: a signed apt repository and a registry, both on loopback, both real."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import http.server
import os
import shutil
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.adapters.system.process import HostProcess
from emulator.core.errors import CommandError, ConfigError, HostNotFitError
from emulator.images.build.apt_sources import host_sources
from emulator.images.build.input_tree import input_digest
from emulator.images.build.overlay import write_overlay
from emulator.kubernetes.release.bundle import create_bundle, unpack_bundle, verify_bundle
from emulator.kubernetes.release.cache_lock import Progress
from emulator.kubernetes.release.containers.docker_archive import ContainerImage, write_archive
from emulator.kubernetes.release.node_files import CONTAINERD_ROOT, MANIFESTS, NodeFiles
from emulator.kubernetes.release.pinning.pins import ChangedError, Pins
from emulator.kubernetes.release.pinning.registry import manifest_digest
from emulator.kubernetes.release.release import brings_containerd
from emulator.kubernetes.release.upstream import SKOPEO_PACKAGES, UpstreamFetch
from emulator.kubernetes.release.upstream_origin import Addon, Origin, download, is_reachable
from tests.support.layered_image import CAPABILITY, GROUP, OWNER, write_layered_image

pytestmark = pytest.mark.host

RUNNER = HostProcess()
LAYERED = "flannel/flannel-cni-plugin:v1.6.0"
IMAGES = (
    *("kube-apiserver:v1.37.4", "coredns/coredns:v1.14.6", "pause:3.10.2", "etcd:3.7.0-0"),
    *("flannel/flannel:v0.26.2", LAYERED),
)
SNAPSHOTS = f"{CONTAINERD_ROOT}/io.containerd.snapshotter.v1.overlayfs/snapshots"


def run(*argv: str | Path, cwd: Path | None = None, **environment: str | Path) -> str:
    env = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debian's registry, repository tools, skopeo and containerd, unpacked and not installed."""
    if os.geteuid() != 0:
        pytest.exit("the tests on real services run as root", returncode=2)
    directory = tmp_path_factory.mktemp("tools")
    run("apt-get", "download", "-qq", "docker-registry", "apt-utils", "containerd", *SKOPEO_PACKAGES, cwd=directory)
    for package in directory.glob("*.deb"):
        run("dpkg-deb", "-x", package, directory)
    return directory


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline
        time.sleep(0.1)


@contextlib.contextmanager
def registry(tools: Path, directory: Path) -> Iterator[str]:
    port = free_port()
    config = directory / "registry.yaml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {directory}/registry}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with (directory / "registry.log").open("wb") as log:
        process = subprocess.Popen([tools / "usr/bin/docker-registry", "serve", config], stdout=log, stderr=log)
        try:
            wait_for(port)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=30)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Lists no directory, as the project's package host does not."""

    def log_message(self, *_: object) -> None: ...

    def list_directory(self, path: object) -> None:
        self.send_error(http.HTTPStatus.FORBIDDEN)


@contextlib.contextmanager
def web(directory: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def push_images(tools: Path, directory: Path, host: str) -> None:
    root = directory / "root"
    root.mkdir()
    (root / "file").write_text("content")
    libraries = ":".join(str(tools / path) for path in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"))
    for name in IMAGES:
        archive = directory / "image.tar"
        if name == LAYERED:
            write_layered_image(archive, f"x.invalid/{name}")
        else:
            write_archive(archive, [ContainerImage(f"x.invalid/{name}", root)], architecture="amd64")
        run(
            *(tools / "usr/bin/skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"),
            *(f"docker-archive:{archive}", f"docker://{host}/{name}"),
            LD_LIBRARY_PATH=libraries,
        )


def make_packages(repository: Path) -> None:
    """kubeadm that lists its images, in two versions; kubelet and kubectl that do nothing."""
    for version in ("1.37.3-1.1", "1.37.4-1.1"):
        for name in ("kubeadm", "kubelet", "kubectl"):
            tree = repository.parent / f"{name}-{version}"
            (tree / "DEBIAN").mkdir(parents=True)
            (tree / "usr/bin").mkdir(parents=True)
            control = f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: x <x@x.invalid>\n"
            (tree / "DEBIAN/control").write_text(f"{control}Description: for a test\n")
            # kubeadm config images list --kubernetes-version V --image-repository R
            images = "\n".join(f"echo $7/{image}" for image in IMAGES if not image.startswith("flannel"))
            shell = f"#!/bin/sh\n{images if name == 'kubeadm' else ''}\n"
            (tree / "usr/bin" / name).write_text(shell)
            (tree / "usr/bin" / name).chmod(0o755)
            run("dpkg-deb", "--root-owner-group", "--build", tree, repository)


def sign(tools: Path, repository: Path, home: Path) -> str:
    """Index and sign the repository with a key made for this; its fingerprint."""
    home.mkdir(mode=0o700)
    gpg = ("gpg", "--batch", "--homedir", str(home), "--pinentry-mode", "loopback", "--passphrase", "")
    run(*gpg, "--quick-gen-key", "lab <lab@x.invalid>", "rsa2048", "sign", "never")
    listing = run(*gpg, "--with-colons", "--fingerprint").splitlines()
    fingerprint = next(line.split(":")[9] for line in listing if line.startswith("fpr:"))
    ftparchive = tools / "usr/bin/apt-ftparchive"
    (repository / "Packages").write_text(run(ftparchive, "packages", ".", cwd=repository))
    (repository / "Release").write_text(run(ftparchive, "release", ".", cwd=repository))
    run(*gpg, "--clearsign", "--output", repository / "InRelease", repository / "Release")
    (repository / "Release.key").write_text(run(*gpg, "--armor", "--export"))
    run("gpgconf", "--homedir", home, "--kill", "gpg-agent")
    return fingerprint


@pytest.fixture(scope="module")
def origin(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    directory = tmp_path_factory.mktemp("upstream")
    repository = directory / "www/v1.37"
    repository.mkdir(parents=True)
    with registry(tools, directory) as host, web(directory / "www") as url:
        push_images(tools, directory, host)
        make_packages(repository)
        fingerprint = sign(tools, repository, directory / "gpg")
        (directory / "www/flannel.yaml").write_text(
            "kind: DaemonSet\nspec:\n  containers:\n"
            f"    - image: {host}/flannel/flannel:v0.26.2\n    - image: {host}/{LAYERED}\n"
        )
        addons = {"flannel": Addon("v0.26.2", f"{url}/flannel.yaml")}
        yield Origin(f"{url}/v{{minor}}/", f"{url}/v{{minor}}/Release.key", fingerprint, host, addons, insecure=True)


@dataclasses.dataclass(frozen=True)
class Programs:
    """Debian's containerd in the place of the one that is compiled, which takes minutes."""

    directory: Path
    key: str = "0123456789ab"

    def require_host(self) -> None: ...

    def provide(self, progress: Progress) -> tuple[Path, dict[str, str]]:
        progress("compile containerd", "")
        return self.directory, {"pkg:golang/example.org/x@v1": "h1:abc="}


@pytest.fixture(scope="module")
def runtime(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Programs:
    directory = tmp_path_factory.mktemp("runtime")
    for name in ("bin", "cni", "sbom"):
        (directory / name).mkdir()
    for name in ("containerd", "containerd-shim-runc-v2", "ctr"):
        shutil.copy2(tools / "usr/bin" / name, directory / "bin" / name)
    (directory / "cni/bridge").write_text("bridge")
    (directory / "sbom/bom.cdx.json").write_text("{}")
    return Programs(directory)


@pytest.fixture
def fetch(origin: Origin, runtime: Programs, tmp_path: Path) -> UpstreamFetch:
    lines = host_sources(RUNNER, suite="bookworm", components=("main",)).lines
    (tmp_path / "cache").mkdir()
    return UpstreamFetch(tmp_path / "cache", RUNNER, origin, lines, runtime)


def ignore(step: str, line: str) -> None:
    del step, line


def laid(tree: Path, work: Path) -> Path:
    """The tree as it is in the image of a node: unpacked from the builder's archive as mmdebstrap's `tar-in` does."""
    write_overlay(work / "overlay.tar", [], [tree])
    root = work / "root"
    root.mkdir()
    tar = ("tar", "--numeric-owner", "--xattrs", "--format=pax", "--xattrs-include=*", "--extract")
    run(*tar, "--directory", root, "--file", work / "overlay.tar", LC_ALL="C.UTF-8")
    assert input_digest(root) == input_digest(tree)
    return root


def check_layers(root: Path) -> None:
    ours = ("etc", "usr/local/bin", "var", "var/lib")
    assert {stat.S_IMODE((root / name).stat().st_mode) for name in ours} == {0o755}
    (lower,) = (path.parents[2] for path in root.glob(f"{SNAPSHOTS}/*/fs/srv/own/file"))
    (upper,) = (path.parents[2] for path in root.glob(f"{SNAPSHOTS}/*/fs/srv/emptied/new"))
    assert stat.S_IMODE((lower / "tmp").stat().st_mode) == 0o1777
    programs = [(lower / "bin" / name).stat() for name in ("busybox", "ls", "su")]
    assert {(stat.S_IMODE(status.st_mode), status.st_nlink) for status in programs} == {(0o4755, 3)}
    assert len({status.st_ino for status in programs}) == 1
    for name, mode in (("srv/own", 0o2750), ("srv/own/file", 0o640)):
        status = (lower / name).stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (OWNER, GROUP, mode)
    assert os.getxattr(lower / "bin/ping", "security.capability") == CAPABILITY
    deleted = (upper / "srv/deleted").lstat()
    assert (stat.S_ISCHR(deleted.st_mode), deleted.st_rdev) == (True, 0)
    assert os.getxattr(upper / "srv/emptied", "trusted.overlay.opaque") == b"y"


def test_a_release_is_fetched_once_and_makes_a_node(fetch: UpstreamFetch, origin: Origin, tmp_path: Path) -> None:
    release = fetch.fetch("1.37", ["flannel"], progress=ignore)
    manifest = release.manifest
    assert (manifest.version, manifest.addons, manifest.repository) == ("1.37.4", ("flannel",), origin.registry)
    assert manifest.pause_image == f"{origin.registry}/pause:3.10.2"
    assert manifest.cluster_dns == f"{origin.registry}/coredns/coredns:v1.14.6"
    assert set(manifest.images) == {*(f"{origin.registry}/{name}" for name in IMAGES), manifest.tools}
    content = download(origin.addons["flannel"].manifest)
    assert manifest.fetched == {"flannel": hashlib.sha256(content).hexdigest()}
    assert brings_containerd(manifest)
    assert {"bin/kubelet", "bin/containerd", "cni/bridge", "sbom/bom.cdx.json"} <= set(manifest.files)
    assert manifest.packages["pkg:golang/example.org/x@v1"] == "h1:abc="
    assert fetch.cached("v1.37", ["flannel"]) == release
    assert fetch.cached("1.37", []) is None
    # Out of reach from now on: what was fetched serves, anything else is told.
    alone = dataclasses.replace(fetch, reachable=lambda url: False)
    assert alone.fetch("1.37", ["flannel"], progress=ignore) == release
    with pytest.raises(HostNotFitError, match="cannot be reached"):
        alone.fetch("1.37.3", [], progress=ignore)
    assert not list(fetch.cache.glob("*.work"))

    # Without Debian's sources: the release has all that a node needs.
    tree = NodeFiles(fetch.cache, (), RUNNER).make(release)
    assert "/usr/local/bin/containerd" in (tree / "etc/systemd/system/containerd.service.d/release.conf").read_text()
    assert (tree / "etc/containerd/config.toml").read_text().count("version = 3") == 1
    assert "flannel" in (tree / MANIFESTS / "flannel.yaml").read_text()
    assert (tree / "opt/cni/bin").readlink() == Path("/usr/lib/cni")
    assert os.access(tree / "usr/local/bin/kubeadm", os.X_OK)
    check_layers(laid(tree, tmp_path))

    bundle = tmp_path / "k8s.bundle"
    create_bundle(release, bundle)
    assert verify_bundle(bundle) == manifest
    assert unpack_bundle(bundle, tmp_path / "elsewhere").manifest.addons == ("flannel",)


def test_an_exact_version_is_taken(fetch: UpstreamFetch) -> None:
    assert fetch.fetch("v1.37.3", [], progress=ignore).manifest.version == "1.37.3"


def test_a_version_that_is_not_there_is_told(fetch: UpstreamFetch) -> None:
    with pytest.raises(ConfigError, match=r"upstream has no Kubernetes 1\.37\.9"):
        fetch.fetch("1.37.9", [], progress=ignore)
    assert list(fetch.cache.iterdir()) == []


def test_another_key_is_not_trusted(fetch: UpstreamFetch, origin: Origin) -> None:
    stranger = dataclasses.replace(fetch, origin=dataclasses.replace(origin, fingerprint="A" * 40))
    with pytest.raises(CommandError):
        stranger.fetch("1.37", [], progress=ignore)
    assert list(fetch.cache.iterdir()) == []


def test_reachable_is_who_answers(fetch: UpstreamFetch, origin: Origin) -> None:
    assert fetch.is_reachable("1.37")
    assert not is_reachable(origin.packages.replace("{minor}", "1.37"))
    assert not is_reachable(f"http://127.0.0.1:{free_port()}/")


def test_an_image_that_was_exchanged_is_refused(
    fetch: UpstreamFetch, origin: Origin, tools: Path, tmp_path: Path
) -> None:
    """By a real registry's word, and a digest that skopeo fetches by."""
    pins = Pins(tmp_path / "upstream-digests.json")
    fetch = dataclasses.replace(fetch, pins=pins)
    name = f"{origin.registry}/flannel/flannel:v0.26.2"
    fetch.fetch("1.37", ["flannel"], progress=ignore)
    first = pins.read()[name].digest
    assert first == manifest_digest(name, insecure=True)

    for path in fetch.cache.iterdir():
        path.unlink() if path.is_symlink() else shutil.rmtree(path) if path.is_dir() else None
    other = tmp_path / "other"
    other.mkdir()
    push_one(tools, tmp_path / "other.tar", other, name)
    with pytest.raises(ChangedError, match=f"{name}: sha256:[0-9a-f]* now, {first} on"):
        fetch.fetch("1.37", ["flannel"], progress=ignore)
    assert not list(fetch.cache.glob("1.37*"))
    pins.accept(name, manifest_digest(name, insecure=True))
    assert fetch.fetch("1.37", ["flannel"], progress=ignore).manifest.addons == ("flannel",)


def push_one(tools: Path, archive: Path, root: Path, name: str) -> None:
    (root / "file").write_text("other content")
    libraries = ":".join(str(tools / path) for path in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"))
    write_archive(archive, [ContainerImage("x.invalid/x:1", root)], architecture="amd64")
    run(
        *(tools / "usr/bin/skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"),
        *(f"docker-archive:{archive}", f"docker://{name}"),
        LD_LIBRARY_PATH=libraries,
    )


def test_an_addon_that_cannot_be_had_is_told(fetch: UpstreamFetch, origin: Origin) -> None:
    damaged = dataclasses.replace(origin, addons={"flannel": Addon("v1", origin.addons["flannel"].manifest + ".gone")})
    with pytest.raises(HostNotFitError, match="cannot be fetched"):
        dataclasses.replace(fetch, origin=damaged).fetch("1.37", ["flannel"], progress=ignore)
    assert list(fetch.cache.iterdir()) == []
