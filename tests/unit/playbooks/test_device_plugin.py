"""The guest's device plugin, against a small kubelet that speaks the same API."""

from __future__ import annotations

import importlib.util
import tempfile
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest

from emulator.kubernetes.config.resources import MigStrategy, node_resources
from tests.support.waiting import PATIENCE

PROGRAM = Path(__file__).parents[3] / "playbooks/roles/k8s_device_plugin/files/device_plugin.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("device_plugin", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plugin = load()


def config(strategy: str, *gpus: tuple[str, int]) -> dict[str, Any]:
    listed = [{"type": type_, "count": count} for type_, count in gpus]
    return {"strategy": strategy, "lab": "demo", "node": "cloud-gpu-worker-1", "gpus": listed}


class Kubelet:
    """kubelet's side: takes registrations on its socket and asks the plugins that register."""

    def __init__(self, directory: Path, *, refusals: int = 0) -> None:
        self.directory = directory
        self.refusals = refusals
        self.registered: dict[str, str] = {}
        self.changed = threading.Condition()
        self.server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
        handler = grpc.unary_unary_rpc_method_handler(
            self._register, plugin.M["RegisterRequest"].FromString, lambda reply: reply.SerializeToString()
        )
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("v1beta1.Registration", {"Register": handler}),)
        )
        self.server.add_insecure_port(f"unix:{directory / 'kubelet.sock'}")
        self.server.start()

    def _register(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self.changed:
            if self.refusals:
                self.refusals -= 1
                context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
            if request.version != "v1beta1":
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"unsupported version {request.version}")
            self.registered[request.resource_name] = request.endpoint
            self.changed.notify_all()
        return plugin.M["Empty"]()

    def wait_for(self, *resources: str) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: set(resources) <= set(self.registered), PATIENCE), self.registered

    def channel(self, resource: str) -> grpc.Channel:
        return grpc.insecure_channel(f"unix:{self.directory / self.registered[resource]}")

    def devices(self, resource: str) -> list[str]:
        with self.channel(resource) as channel:
            call = channel.unary_stream(
                "/v1beta1.DevicePlugin/ListAndWatch",
                lambda message: message.SerializeToString(),
                plugin.M["ListAndWatchResponse"].FromString,
            )
            stream = call(plugin.M["Empty"](), timeout=PATIENCE)
            first = next(stream)
            stream.cancel()
        assert all(device.health == "Healthy" for device in first.devices)
        return [device.ID for device in first.devices]

    def allocate(self, resource: str, *ids: str) -> dict[str, str]:
        request = plugin.M["AllocateRequest"]()
        request.container_requests.add(devicesIDs=ids)
        with self.channel(resource) as channel:
            call = channel.unary_unary(
                "/v1beta1.DevicePlugin/Allocate",
                lambda message: message.SerializeToString(),
                plugin.M["AllocateResponse"].FromString,
            )
            reply = call(request, timeout=PATIENCE)
        return {entry.key: entry.value for entry in reply.container_responses[0].envs}

    def stop(self) -> None:
        self.server.stop(grace=0).wait()
        # A starting kubelet clears the directory of everything that plugins had there.
        for path in self.directory.iterdir():
            path.unlink()


@pytest.fixture
def directory() -> Iterator[Path]:
    # A socket's path has at most 107 bytes, which pytest's own directories take up.
    with tempfile.TemporaryDirectory(prefix="dp-") as name:
        yield Path(name)


class Running:
    def __init__(self, directory: Path, settings: dict[str, Any]) -> None:
        self.stop = threading.Event()
        plugins = [plugin.Plugin(str(directory), name, ids) for name, ids in plugin.devices(settings).items()]
        self.thread = threading.Thread(target=plugin.serve, args=(plugins, str(directory), self.stop, 0.02))
        self.thread.start()

    def end(self) -> None:
        self.stop.set()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


@pytest.fixture
def mixed(directory: Path) -> Iterator[Running]:
    running = Running(directory, config("mixed", ("1g.10gb", 2), ("3g.40gb", 1)))
    yield running
    running.end()


def test_registers_each_profile_and_allocates_with_nvidias_environment(directory: Path, mixed: Running) -> None:
    kubelet = Kubelet(directory)
    kubelet.wait_for("nvidia.com/mig-1g.10gb", "nvidia.com/mig-3g.40gb")
    small = kubelet.devices("nvidia.com/mig-1g.10gb")
    assert len(small) == 2
    assert all(one.startswith("MIG-") for one in small)
    assert len(kubelet.devices("nvidia.com/mig-3g.40gb")) == 1
    assert kubelet.allocate("nvidia.com/mig-1g.10gb", *small) == {"NVIDIA_VISIBLE_DEVICES": ",".join(small)}
    mixed.end()
    kubelet.stop()
    assert list(directory.iterdir()) == []


def test_survives_a_restart_of_kubelet_with_the_same_devices(directory: Path, mixed: Running) -> None:
    first = Kubelet(directory)
    first.wait_for("nvidia.com/mig-1g.10gb", "nvidia.com/mig-3g.40gb")
    before = first.devices("nvidia.com/mig-1g.10gb")
    first.stop()
    second = Kubelet(directory)
    second.wait_for("nvidia.com/mig-1g.10gb", "nvidia.com/mig-3g.40gb")
    assert second.devices("nvidia.com/mig-1g.10gb") == before
    mixed.end()
    second.stop()


def test_tries_again_when_kubelet_refuses(directory: Path, mixed: Running) -> None:
    kubelet = Kubelet(directory, refusals=2)
    kubelet.wait_for("nvidia.com/mig-1g.10gb", "nvidia.com/mig-3g.40gb")
    assert kubelet.refusals == 0
    mixed.end()
    kubelet.stop()


def test_refuses_a_device_that_it_does_not_have(directory: Path, mixed: Running) -> None:
    kubelet = Kubelet(directory)
    kubelet.wait_for("nvidia.com/mig-1g.10gb", "nvidia.com/mig-3g.40gb")
    with pytest.raises(grpc.RpcError) as caught:
        kubelet.allocate("nvidia.com/mig-1g.10gb", "MIG-of-somebody-else")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    mixed.end()
    kubelet.stop()


@pytest.mark.parametrize(
    ("strategy", "gpus"),
    [
        ("mixed", (("1g.10gb", 2), ("3g.40gb", 1))),
        ("mixed", (("1g.10gb+me", 1), ("1g.10gb", 3))),
        ("single", (("1g.5gb", 7),)),
        ("none", (("a100", 2),)),
        ("mixed", (("a100", 1), ("1g.10gb", 1))),
    ],
)
def test_offers_what_the_allocation_says(strategy: str, gpus: tuple[tuple[str, int], ...]) -> None:
    offered = {name: len(ids) for name, ids in plugin.devices(config(strategy, *gpus)).items()}
    assert offered == node_resources(gpus, MigStrategy(strategy))


def test_devices_are_told_apart_and_stay_the_same() -> None:
    ids = plugin.devices(config("mixed", ("1g.10gb", 7)))["nvidia.com/mig-1g.10gb"]
    assert len(set(ids)) == 7
    assert ids == plugin.devices(config("mixed", ("1g.10gb", 7)))["nvidia.com/mig-1g.10gb"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (config("both", ("1g.10gb", 1)), "none of none, single and mixed"),
        (config("none", ("1g.10gb", 1)), "cannot offer slices"),
        (config("single", ("1g.10gb", 1), ("2g.20gb", 1)), "one profile"),
    ],
)
def test_refuses_a_configuration_that_makes_no_sense(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(plugin.ConfigurationError, match=words):
        plugin.devices(settings)
