#!/usr/bin/python3
"""Kubernetes device plugin for a node's simulated GPUs.

It speaks kubelet's device plugin API v1beta1 over Unix sockets: registers each resource, lists its devices, and
answers an allocation with the environment that NVIDIA's plugin sets. kubelet forgets its plugins when it restarts and
clears their directory, so the sockets are watched and everything is done again when they go.

The configuration is JSON: `strategy` (none, single, mixed), `lab`, `node` and `gpus`, each with `type` and `count`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, TypedDict

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool

try:  # protobuf 4.22 and later
    from google.protobuf.message_factory import GetMessageClass
except ImportError:
    from google.protobuf.message_factory import MessageFactory

    GetMessageClass = MessageFactory().GetPrototype

log = logging.getLogger("device-plugin")

# A message of the table below: its fields are known only when the program runs.
Message = Any


class Gpus(TypedDict):
    type: str
    count: int


class Config(TypedDict):
    strategy: str
    lab: str
    node: str
    gpus: list[Gpus]


API = "v1beta1"
DIRECTORY = "/var/lib/kubelet/device-plugins"
KUBELET = "kubelet.sock"
HEALTHY = "Healthy"
POLL_SECONDS = 1.0
# kubelet may be busy for long on an emulated CPU.
CALL_TIMEOUT = 30.0
WHOLE = "nvidia.com/gpu"

# Messages of kubelet's device plugin API that this program uses: name -> (field, number, type, repeated).
# The numbers are the wire format, published with the API (k8s.io/kubelet, deviceplugin/v1beta1/api.proto).
_STRING, _BOOL, _MESSAGE = 9, 8, 11
MESSAGES: dict[str, tuple[tuple[str, int, Any, bool], ...]] = {
    "Empty": (),
    "DevicePluginOptions": (
        ("pre_start_required", 1, _BOOL, False),
        ("get_preferred_allocation_available", 2, _BOOL, False),
    ),
    "RegisterRequest": (
        ("version", 1, _STRING, False),
        ("endpoint", 2, _STRING, False),
        ("resource_name", 3, _STRING, False),
        ("options", 4, "DevicePluginOptions", False),
    ),
    "Device": (("ID", 1, _STRING, False), ("health", 2, _STRING, False)),
    "ListAndWatchResponse": (("devices", 1, "Device", True),),
    "ContainerAllocateRequest": (("devicesIDs", 1, _STRING, True),),
    "AllocateRequest": (("container_requests", 1, "ContainerAllocateRequest", True),),
    "EnvsEntry": (("key", 1, _STRING, False), ("value", 2, _STRING, False)),
    "ContainerAllocateResponse": (("envs", 1, "EnvsEntry", True),),
    "AllocateResponse": (("container_responses", 1, "ContainerAllocateResponse", True),),
    "PreStartContainerRequest": (("devicesIDs", 1, _STRING, True),),
    "PreStartContainerResponse": (),
}


def message_classes() -> dict[str, Any]:
    """Message classes by name, built from the table above."""
    file = descriptor_pb2.FileDescriptorProto(name="deviceplugin.proto", package=API, syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, repeated in fields:
            field = message.field.add(name=field_name, number=number, label=3 if repeated else 1)
            if isinstance(kind, str):
                field.type, field.type_name = _MESSAGE, f".{API}.{kind}"
            else:
                field.type = kind
    # A map is a repeated entry on the wire, so EnvsEntry needs no more than its two fields.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"{API}.{name}")) for name in MESSAGES}


M = message_classes()


class ConfigurationError(Exception):
    """The configuration cannot be used; the text is for the operator."""


def is_mig_profile(type_: str) -> bool:
    return type_[:1].isdigit() and "g." in type_


def resource_name(type_: str, strategy: str) -> str:
    """The extended resource of a GPU type, as NVIDIA's plugin names it."""
    if strategy == "mixed" and is_mig_profile(type_):
        return f"nvidia.com/mig-{type_.replace('+', '.')}"
    return WHOLE


def device_id(lab: str, node: str, type_: str, index: int) -> str:
    """The UUID of a device: the same at every start, so that kubelet finds the devices of running pods again."""
    digest = hashlib.sha256(f"{lab}/{node}/{type_}/{index}".encode()).digest()
    prefix = "MIG-" if is_mig_profile(type_) else "GPU-"
    return prefix + str(uuid.UUID(bytes=digest[:16], version=5))


def devices(config: Config) -> dict[str, list[str]]:
    """Resource name -> device ids, from the configuration."""
    strategy = config["strategy"]
    if strategy not in ("none", "single", "mixed"):
        raise ConfigurationError(f"strategy {strategy!r} is none of none, single and mixed")
    found: dict[str, list[str]] = {}
    indices: dict[str, int] = {}
    for gpu in config["gpus"]:
        type_ = gpu["type"]
        if strategy == "none" and is_mig_profile(type_):
            raise ConfigurationError(f"strategy none cannot offer slices ({type_})")
        ids = found.setdefault(resource_name(type_, strategy), [])
        for _ in range(gpu["count"]):
            index = indices[type_] = indices.get(type_, -1) + 1
            ids.append(device_id(config["lab"], config["node"], type_, index))
    if strategy == "single" and len({gpu["type"] for gpu in config["gpus"]}) > 1:
        raise ConfigurationError("strategy single needs slices of one profile on a node")
    return found


def environment(ids: Sequence[str]) -> dict[str, str]:
    """What a container with these devices sees."""
    return {"NVIDIA_VISIBLE_DEVICES": ",".join(ids)}


class Plugin:
    """One resource: its socket in kubelet's directory, and kubelet's view of its devices."""

    def __init__(self, directory: str, resource: str, ids: Sequence[str]) -> None:
        self.directory = directory
        self.resource = resource
        self.ids = tuple(ids)
        self.endpoint = "hyperscaler-" + resource.replace("/", "-") + ".sock"
        self.path = os.path.join(directory, self.endpoint)
        self.stopping = threading.Event()
        self.server: grpc.Server | None = None
        self.inode: int | None = None

    # ------------------------------------------------------------ kubelet's calls
    def options(self, _request: Message, _context: grpc.ServicerContext) -> Message:
        return M["DevicePluginOptions"]()

    def list_and_watch(self, _request: Message, context: grpc.ServicerContext) -> Iterator[Message]:
        """The devices once, then silence for as long as kubelet listens: simulated devices do not fail."""
        reply = M["ListAndWatchResponse"]()
        for one in self.ids:
            reply.devices.add(ID=one, health=HEALTHY)
        yield reply
        while context.is_active() and not self.stopping.wait(POLL_SECONDS):
            pass

    def allocate(self, request: Message, context: grpc.ServicerContext) -> Message:
        reply = M["AllocateResponse"]()
        for container in request.container_requests:
            unknown = [one for one in container.devicesIDs if one not in self.ids]
            if unknown:
                context.abort(grpc.StatusCode.NOT_FOUND, f"no such device: {', '.join(unknown)}")
            answer = reply.container_responses.add()
            for key, value in environment(container.devicesIDs).items():
                answer.envs.add(key=key, value=value)
        return reply

    def pre_start(self, _request: Message, _context: grpc.ServicerContext) -> Message:
        return M["PreStartContainerResponse"]()

    # ------------------------------------------------------------ life
    def start(self) -> None:
        """Serve on our socket, then register with kubelet."""
        self.stop()
        self.stopping = threading.Event()
        if os.path.lexists(self.path):
            os.unlink(self.path)
        server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
        server.add_generic_rpc_handlers((self._handlers(),))
        server.add_insecure_port(f"unix:{self.path}")
        server.start()
        self.server = server
        self.inode = os.stat(self.path).st_ino
        self._register()
        log.info("registered %s with %d devices", self.resource, len(self.ids))

    def stop(self) -> None:
        self.stopping.set()
        if self.server is not None:
            self.server.stop(grace=1).wait()
            self.server = None

    def served(self) -> bool:
        """Whether our socket is still the one that we made."""
        try:
            return self.server is not None and os.stat(self.path).st_ino == self.inode
        except FileNotFoundError:
            return False

    def _handlers(self) -> grpc.GenericRpcHandler:
        def unary(method: Callable[[Message, grpc.ServicerContext], Message], request: str) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(
                method, M[request].FromString, lambda reply: reply.SerializeToString()
            )

        return grpc.method_handlers_generic_handler(
            f"{API}.DevicePlugin",
            {
                "GetDevicePluginOptions": unary(self.options, "Empty"),
                "ListAndWatch": grpc.unary_stream_rpc_method_handler(
                    self.list_and_watch, M["Empty"].FromString, lambda reply: reply.SerializeToString()
                ),
                "Allocate": unary(self.allocate, "AllocateRequest"),
                "PreStartContainer": unary(self.pre_start, "PreStartContainerRequest"),
            },
        )

    def _register(self) -> None:
        request = M["RegisterRequest"](version=API, endpoint=self.endpoint, resource_name=self.resource)
        with grpc.insecure_channel(f"unix:{os.path.join(self.directory, KUBELET)}") as channel:
            call = channel.unary_unary(
                f"/{API}.Registration/Register", lambda message: message.SerializeToString(), M["Empty"].FromString
            )
            call(request, timeout=CALL_TIMEOUT)


def kubelet_inode(directory: str) -> tuple[int, int] | None:
    """Identity of kubelet's socket; None while kubelet is not there. A restarted kubelet has a new one."""
    try:
        status = os.stat(os.path.join(directory, KUBELET))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_ino, status.st_ctime_ns


def serve(plugins: Sequence[Plugin], directory: str, stop: threading.Event, poll: float = POLL_SECONDS) -> None:
    """Keep every plugin registered until `stop` is set."""
    registered_with = None
    while not stop.is_set():
        kubelet = kubelet_inode(directory)
        current = kubelet is not None and kubelet == registered_with and all(one.served() for one in plugins)
        if kubelet is not None and not current:
            try:
                for one in plugins:
                    one.start()
                registered_with = kubelet
            except (grpc.RpcError, OSError, RuntimeError) as error:
                registered_with = None
                log.warning("kubelet did not take the registration, trying again: %s", first_line(error))
        stop.wait(poll)
    for one in plugins:
        one.stop()
        if os.path.lexists(one.path):
            os.unlink(one.path)


def first_line(error: Exception) -> str:
    detail = error.details() if isinstance(error, grpc.RpcError) and hasattr(error, "details") else str(error)
    return (detail or type(error).__name__).splitlines()[0]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--directory", default=DIRECTORY)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        with open(arguments.config, encoding="utf-8") as stream:
            wanted = devices(json.load(stream))
    except (OSError, ValueError, KeyError, TypeError, ConfigurationError) as error:
        print(f"{arguments.config}: {error}", file=sys.stderr)
        return 2
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    serve([Plugin(arguments.directory, name, ids) for name, ids in sorted(wanted.items())], arguments.directory, stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
