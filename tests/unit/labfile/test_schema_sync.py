"""The published schema and the loader are one: same keys, same defaults, sound for editors."""

from __future__ import annotations

import json

from jsonschema import Draft202012Validator

from emulator.core.data_files import share_dir
from emulator.labfile.findings import Position
from emulator.labfile.model import (
    HypervisorSpec,
    ImageSpec,
    KubernetesSpec,
    NetworkSpec,
    SecuritySpec,
    SshSpec,
    TimeoutSpec,
)
from emulator.labfile.read.document import parse_document
from emulator.labfile.read.typed_view import Context, View
from emulator.labfile.schema import cluster_schema, expectation, merged, properties, schema_path, types_of
from emulator.labfile.sections import read_draft

# A file with every optional part in it, so that the loader has reason to read each key.
FULL = """
version: "1.0"
metadata: {name: x}
global:
  networks: {hpc_network: {allow: [{}]}, cloud_network: {allow: [{}]}}
  gpu_allocation: {devices: [{model: x}], mig_slices: {}, whole_gpus: {}}
clusters:
  hpc:
    controller: {}
    compute_nodes: {gpu: {count: 1}}
    slurm_config: {partitions: [{name: a, nodes: [b]}]}
  cloud:
    control_plane: {}
    worker_nodes: {cpu_workers: {}, gpu_workers: {gpu: {count: 1}}}
    kubernetes_config: {}
hypervisor: {}
images: {}
ssh: {}
security: {}
timeouts: {}
"""


def keys_read() -> set[str]:
    root = parse_document(FULL, file="f").root
    context = Context("f")
    read_draft(View(context, merged(cluster_schema()), (), root, Position(1, 1)))
    return {path.replace("[0]", "[]") for path in context.read}


def test_the_loader_reads_every_property_and_no_other() -> None:
    assert keys_read() == {path for path, _ in properties()}


def defaults() -> dict[str, object]:
    return {path: schema["default"] for path, schema in properties() if "default" in schema}


def test_defaults_are_those_of_the_types() -> None:
    found = defaults()
    kubernetes, hypervisor, timeouts = KubernetesSpec(), HypervisorSpec(), TimeoutSpec()
    at = "clusters.cloud.kubernetes_config"
    assert {key: found[f"{at}.{key}"] for key in KubernetesSpec.__dataclass_fields__ if key != "real_gpus"} == {
        "cni": kubernetes.cni,
        "ingress": kubernetes.ingress,
        "storage_class": kubernetes.storage_class,
        "network_policy": kubernetes.network_policy,
        "source": kubernetes.source,
        "version": kubernetes.version,
        "pod_subnet": str(kubernetes.pod_subnet),
        "service_subnet": str(kubernetes.service_subnet),
        "mig_strategy": kubernetes.mig_strategy,
        "taint_gpu_workers": kubernetes.taint_gpu_workers,
    }
    assert [found[f"hypervisor.{key}"] for key in HypervisorSpec.__dataclass_fields__] == [
        hypervisor.uri,
        hypervisor.acceleration.value,
        hypervisor.cpu_overcommit,
    ]
    assert [found[f"timeouts.{key}"] for key in TimeoutSpec.__dataclass_fields__] == [
        timeouts.boot,
        timeouts.configure,
        timeouts.verify,
        timeouts.drain,
        timeouts.shutdown,
        timeouts.lock,
    ]
    assert (found["images.hpc"], found["images.cloud"]) == (ImageSpec().hpc, ImageSpec().cloud)
    assert found["ssh.user"] == SshSpec().user
    security = SecuritySpec()
    assert found["security.unattended_upgrades"] is security.unattended_upgrades
    assert found["security.apt_sources"] == list(security.apt_sources)
    assert found["global.networks.hpc_network.nat"] is NetworkSpec.__dataclass_fields__["nat"].default


def test_every_default_satisfies_its_own_schema() -> None:
    for path, schema in properties():
        if "default" in schema:
            whole = {**schema, "$defs": cluster_schema()["$defs"]}
            assert list(Draft202012Validator(whole).iter_errors(schema["default"])) == [], path


def test_every_example_satisfies_its_own_schema() -> None:
    for path, schema in properties():
        examples = schema.get("examples", [])
        assert isinstance(examples, list)
        for example in examples:
            whole = {**schema, "$defs": cluster_schema()["$defs"]}
            assert list(Draft202012Validator(whole).iter_errors(example)) == [], path


def test_editors_find_a_description_for_every_key() -> None:
    assert [path for path, schema in properties() if not schema.get("description")] == []


def test_mappings_refuse_unknown_keys() -> None:
    open_ones = [
        path
        for path, schema in properties()
        if "object" in types_of(schema) and schema.get("additionalProperties") is not False
    ]
    # Slices by profile have profile names as keys.
    assert open_ones == ["global.gpu_allocation.mig_slices.hpc", "global.gpu_allocation.mig_slices.cloud"]


def test_the_schema_is_sound_and_versioned() -> None:
    schema = json.loads(schema_path().read_text())
    Draft202012Validator.check_schema(schema)
    assert schema["$id"].endswith("/cluster/1.0/cluster.schema.json")
    assert schema["properties"]["version"]["enum"] == ["1.0"]


def test_the_reference_has_every_key_with_its_bounds_and_default() -> None:
    text = (share_dir() / "docs" / "user" / "cluster-yaml.md").read_text()
    sections = {part.split("\n")[0].strip("`"): part for part in text.split("\n## ")}
    for path, schema in properties():
        parent, _, key = path.rpartition(".")
        rows = [line for line in sections[parent or "Top level"].split("\n") if line.startswith(f"| `{key}` |")]
        assert len(rows) == 1, path
        if "object" not in types_of(schema):
            assert f"| {expectation(schema)} |" in rows[0], path
        default = schema.get("default")
        if isinstance(default, int | float | str) and default != "":
            assert f"| `{str(default).lower() if isinstance(default, bool) else default}` |" in rows[0], path
