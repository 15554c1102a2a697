"""mdev_map.json: its content, its schema, its file."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from emulator.core.errors import StateError
from emulator.gpu.placement.demand import Assignment
from emulator.lab.mdev_map import held_devices, lab_mdev_map, write_mdev_map
from emulator.plan.gpu_resources import Vgpu
from tests.support.gpu_environment import GpuEnvironment, gpu_environment
from tests.support.gpu_lab import FIRST, SECOND, sliced

SCHEMA = json.loads((Path(__file__).parents[3] / "schemas" / "mdev_map.schema.json").read_text())
NODES = {"n1": [sliced("a", "3g.40gb", 4), sliced("b", "1g.10gb", 1)], "n2": [Assignment("w", "gpu-1")]}


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[GpuEnvironment]:
    with gpu_environment(tmp_path) as made:
        yield made


def check(data: object) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker()).validate(data)


def test_the_map_says_who_has_what(demo: GpuEnvironment) -> None:
    wanted = demo.lab.wanted(**NODES)
    demo.lab.apply(wanted)
    data: Any = lab_mdev_map(demo.paths, demo.lab.state)
    check(data)
    by_start = {item.placement.start: item.gi_id for item in demo.lab.host.nvml.instances(FIRST)}
    first, second = data["nodes"]["n1"]
    assert first["profile"] == "1g.10gb" and first["placement"] == {"start": 1, "size": 1}
    assert second == {
        "kind": "vgpu",
        "device": "gpu-0",
        "pci_address": FIRST,
        "profile": "3g.40gb",
        "placement": {"start": 4, "size": 4},
        "gpu_instance_id": by_start[4],
        "framework": "mdev",
        "vgpu_type": "A100DX-3-40C",
        "function": demo.lab.handle(f"vgpu/{FIRST}-3g.40gb-at-4")["parent"],
        "uuid": next(item.uuid for item in wanted if isinstance(item, Vgpu) and item.profile == "3g.40gb"),
    }
    assert data["nodes"]["n2"] == [
        {
            "kind": "whole",
            "device": "gpu-1",
            "pci_address": SECOND,
            "framework": "vfio-pci",
            "functions": [SECOND],
        }
    ]


def test_the_vgpu_of_a_slice_is_on_that_slice(demo: GpuEnvironment) -> None:
    demo.lab.apply(demo.lab.wanted(**{f"n{start}": [sliced(f"d{start}", "1g.10gb", start)] for start in range(7)}))
    data: Any = lab_mdev_map(demo.paths, demo.lab.state)
    check(data)
    carried = {item.uuid: item.gi_id for gpu in demo.lab.gpus.store.look().gpus for item in gpu.vgpus}
    for (entry,) in data["nodes"].values():
        assert carried[entry["uuid"]] == entry["gpu_instance_id"]


def test_what_is_not_made_to_the_end_is_not_in_the_map(demo: GpuEnvironment) -> None:
    wanted = demo.lab.wanted(**NODES)
    demo.lab.apply(wanted)
    demo.lab.store.begin("update", next(item for item in wanted if isinstance(item, Vgpu)))
    assert len(held_devices(demo.lab.state)) == 2


def test_the_file_is_private_whole_and_goes_away(demo: GpuEnvironment) -> None:
    demo.lab.apply(demo.lab.wanted(**NODES))
    write_mdev_map(demo.paths, demo.lab.state)
    file = demo.paths.root / "output" / "mdev_map.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    check(json.loads(file.read_text()))
    assert [item.name for item in file.parent.iterdir()] == ["mdev_map.json"]
    demo.lab.apply([])
    write_mdev_map(demo.paths, demo.lab.state)
    write_mdev_map(demo.paths, demo.lab.state)
    assert not file.exists()


def test_a_planted_link_is_not_followed(demo: GpuEnvironment, tmp_path: Path) -> None:
    demo.lab.apply(demo.lab.wanted(**NODES))
    (tmp_path / "target").mkdir()
    (demo.paths.root / "output").symlink_to(tmp_path / "target")
    with pytest.raises(StateError):
        write_mdev_map(demo.paths, demo.lab.state)
    assert not list((tmp_path / "target").iterdir())


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"extra": 1},
        {"nodes": {"n1": []}},
        {"nodes": {"n1": [{"kind": "whole", "device": "d", "pci_address": "41:00.0", "framework": "vfio-pci"}]}},
    ],
)
def test_the_schema_refuses_other_things(change: dict[str, object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check({"version": 1, "lab": "demo", "nodes": {}, **change})
