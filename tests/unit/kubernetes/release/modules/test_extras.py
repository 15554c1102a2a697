"""What a lab asks for in addition is compiled apart, and makes a release of its own next to the one of every lab."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from emulator.core.data_files import share_dir
from emulator.kubernetes.release.modules.module_set import read_module_set
from emulator.kubernetes.release.release import Release, read_release, verify_release
from emulator.labfile.kubernetes_versions import MODULE_ADDONS, MODULE_EXTRA_ADDONS, MODULE_EXTRAS, MODULE_MINORS
from tests.unit.kubernetes.release.modules.test_module_build import Site

INGRESS = "hyperscaler.invalid/kubernetes/lab-ingress:v1.0.0"
MODULES = share_dir() / "config/kubernetes/modules"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def make(site: Site, *extras: str) -> Release:
    return site.build.build("", extras, progress=lambda step, line: site.steps.append(step))


def test_extras_come_next_to_what_every_lab_gets(site: Site) -> None:
    plain = make(site)
    site.compiled.clear()
    made = make(site, *MODULE_EXTRAS)
    assert site.compiled == list(MODULE_EXTRAS), "Kubernetes is not compiled again"
    assert made.manifest.digest != plain.manifest.digest
    assert set(plain.manifest.files) < set(made.manifest.files)
    assert {"bin/helm", "images/extras.tar", "manifests/lab-ingress.yaml"} <= set(made.manifest.files)
    assert made.manifest.addons == tuple(sorted((*MODULE_ADDONS, *MODULE_EXTRA_ADDONS)))
    assert INGRESS in made.manifest.images
    assert f"image: {INGRESS}\n" in made.path("manifests/lab-ingress.yaml").read_text()
    assert verify_release(made) == []
    # The release that it was made from is as it was.
    assert verify_release(plain) == []
    assert plain.manifest == read_release(plain.directory).manifest
    assert site.build.cached("") == plain
    assert site.build.cached("", MODULE_EXTRAS) == made
    assert not list(site.cache.glob("modules-extras-*"))
    calls = len(site.runner.calls)
    assert make(site, *MODULE_EXTRAS) == made
    assert len(site.runner.calls) == calls, "a second build is none"


def test_what_was_asked_for_alone_is_there(site: Site) -> None:
    helm = make(site, "helm")
    assert "bin/helm" in helm.manifest.files
    assert helm.manifest.addons == MODULE_ADDONS
    assert "images/extras.tar" not in helm.manifest.files
    ingress = make(site, "lab-ingress")
    assert "bin/helm" not in ingress.manifest.files
    assert len({helm.directory, ingress.directory, make(site).directory}) == 3


def test_extras_are_in_a_bill_of_materials_of_their_own(site: Site) -> None:
    made = make(site, *MODULE_EXTRAS)
    bom = json.loads(made.path("sbom/extras.cdx.json").read_text())
    assert set(MODULE_EXTRAS) <= {each["name"] for each in bom["components"]}
    assert "kubelet" in made.path("sbom/bom.cdx.json").read_text()


def test_a_build_of_extras_that_was_stopped_goes_on(site: Site) -> None:
    make(site)
    site.stop_before = "lab-ingress"
    with pytest.raises(KeyboardInterrupt):
        make(site, *MODULE_EXTRAS)
    assert site.build.cached("", MODULE_EXTRAS) is None
    left = site.build.unfinished("", MODULE_EXTRAS)
    assert left is not None
    assert (left / "bin/helm").is_file()
    assert site.build.unfinished("") is None
    site.stop_before = ""
    assert verify_release(make(site, *MODULE_EXTRAS)) == []
    assert not left.exists()


@pytest.mark.parametrize("change", ["helm/go.sum", "lab-ingress/routes.go", "manifests/lab-ingress.yaml"])
def test_other_pins_of_extras_are_another_release_for_who_asks_alone(site: Site, change: str) -> None:
    make(site, *MODULE_EXTRAS)
    with (site.modules / change).open("a") as stream:
        stream.write("\n")
    assert site.build.cached("", MODULE_EXTRAS) is None
    assert site.build.cached("") is not None


def test_no_lab_gets_them_unasked() -> None:
    for minor in MODULE_MINORS:
        assert not {module.name for module in read_module_set(MODULES, minor).modules} & set(MODULE_EXTRAS)
    listed = yaml.safe_load((MODULES / "programs.yaml").read_text())["modules"]
    assert [each["name"] for each in listed if each.get("optional")] == list(MODULE_EXTRAS)


def test_extras_are_pinned_like_the_rest() -> None:
    modules = read_module_set(MODULES, MODULE_MINORS[-1], MODULE_EXTRAS)
    for module in modules.modules:
        go_sum = (module.directory / "go.sum").read_text()
        for line in (module.directory / "go.mod").read_text().splitlines():
            words = line.removeprefix("require ").split()
            if len(words) > 1 and words[1].startswith("v") and not line.startswith(("module", "go ")):
                assert f"{words[0]} {words[1]}/go.mod h1:" in go_sum or f"{words[0]} {words[1]} h1:" in go_sum, line
    assert modules.module("helm").linker_flags.endswith(f"version.version=v{modules.module('helm').version}")
    # The client libraries that Kubernetes itself was compiled with.
    kubernetes = read_module_set(MODULES, MODULE_MINORS[-1]).version
    assert f"k8s.io/client-go v0.{kubernetes.partition('.')[2]}" in (MODULES / "lab-ingress/go.mod").read_text()
