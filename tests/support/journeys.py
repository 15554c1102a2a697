"""What is done with a lab that is there, and labs of other kinds: each is a command to be stopped anywhere."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from emulator.core.ports import DomainState
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.gpu.ports import VgpuFramework
from emulator.lab.lab_files import LoadedLab
from emulator.operations.configure import configure
from emulator.operations.gpu.release import release
from tests.support.simulated_world import (
    FIRST,
    LAB,
    SIMULATED_GPUS,
    SYSTEM_URI,
    SimulatedHost,
    gpu_section,
    journal_hooked,
    lab_text,
)
from tests.support.stop_points import InlinePool, Stops, Sweep, find_stops, in_sequence

Act = Callable[[SimulatedHost, LoadedLab], object]


def slices(compute: int, *, memory: int = 1) -> str:
    """A lab on the host's libvirt with a slice of one GPU for each compute node."""
    gpu = f'{{id: gpu-0, pci_address: "{FIRST}", model: A100-SXM4-80GB, mig_capable: true}}'
    share = f"gpu_allocation: {{backend: nvml, strategy: mig, devices: [{gpu}]}}"
    text = lab_text(hypervisor=SYSTEM_URI, compute=compute, memory=memory, extra=share)
    return text.replace("gpu: {count: 2}", "gpu: {count: 1, profile: 1g.10gb}")


DUAL = """\
version: "1.0"
metadata: {name: demo}
timeouts: {boot: 10}
clusters:
  hpc:
    controller: {cpu_cores: 1, memory_gb: 1, disk_gb: 4}
    compute_nodes: {count: 1, cpu_cores: 1, memory_gb: 1, disk_gb: 4, gpu_enabled: false}
  cloud:
    control_plane: {cpu_cores: 2, memory_gb: 2, disk_gb: 10}
    worker_nodes: {cpu_workers: {count: 1, cpu_cores: 1, memory_gb: 1, disk_gb: 10}}
    kubernetes_config: {cni: bridge}
hypervisor: {uri: embedded}
"""


def provision_it(host: SimulatedHost, lab: LoadedLab) -> None:
    host.provision(lab)


def configure_it(host: SimulatedHost, lab: LoadedLab) -> None:
    configure(host.environment(), lab, SilentReporter(), StopFlag())


def release_it(host: SimulatedHost, _lab: LoadedLab) -> None:
    release(host.environment(), LAB, SilentReporter(), StopFlag(), confirm=lambda _plan: True)


def unconfigured(host: SimulatedHost) -> None:
    """Somebody has undone in the guests what the playbooks did."""
    (host.machine / "configured.json").unlink()


def powered_off(host: SimulatedHost) -> None:
    libvirt = host.hypervisor(quiet=True)
    for info in libvirt.domains():
        if info.owner is not None and info.owner.lab == LAB:
            libvirt.set_state(info.name, DomainState.SHUTOFF)


@dataclass(frozen=True)
class Journey:
    """`before` is provisioned first, then `happens`; what is stopped is `act`; `after` is what the lab should be."""

    after: str
    before: str = ""
    act: Act = provision_it
    happens: Callable[[SimulatedHost], None] = lambda _host: None
    framework: VgpuFramework = VgpuFramework.MDEV
    gpus: bool = False


JOURNEYS = {
    "a node more": Journey(lab_text(compute=2), before=lab_text(compute=1)),
    "a node less": Journey(lab_text(compute=1), before=lab_text(compute=2)),
    "more memory": Journey(lab_text(memory=2), before=lab_text(memory=1)),
    "a larger disk": Journey(lab_text(disk=6), before=lab_text(disk=4)),
    "a second time": Journey(lab_text(), before=lab_text()),
    "configure": Journey(lab_text(), before=lab_text(), act=configure_it, happens=unconfigured),
    "the way in by the gateway": Journey(lab_text() + "access: {gateway: true}\n", before=lab_text()),
    "a slice more": Journey(slices(2), before=slices(1), gpus=True),
    "a slice less": Journey(slices(1), before=slices(2), gpus=True),
    "more memory beside slices": Journey(slices(1, memory=2), before=slices(1), gpus=True),
    "GPUs released": Journey(slices(1), before=slices(1), act=release_it, happens=powered_off, gpus=True),
    "both clusters": Journey(DUAL),
    "vendor VFIO": Journey(
        lab_text(hypervisor=SYSTEM_URI, extra=gpu_section()), framework=VgpuFramework.VENDOR_VFIO, gpus=True
    ),
}


class JourneySweep(Sweep):
    """A sweep whose command is the journey's; `initial` is the machine before the lab, `start` the one before it."""

    def __init__(self, name: str, directory: Path) -> None:
        self.journey = JOURNEYS[name]
        host = SimulatedHost(
            directory, gpus=SIMULATED_GPUS if self.journey.gpus else (), framework=self.journey.framework
        )
        self.name, self.host, self.lab = name, host, host.lab_file(self.journey.after)
        self.recovered, self.planned = set(), set()
        host.seed_foreign()
        self.initial = host.save()
        if self.journey.before:
            host.provision(host.lab_file(self.journey.before))
            self.lab = host.lab_file(self.journey.after)
        self.journey.happens(host)
        self.start = host.save()
        self.disks = self.host.disk_data()
        self.stops: Stops = find_stops(host, self.act)
        if self.journey.act is not provision_it:
            self.provision()
        self.done = host.save()
        self.assert_disks_kept("without a stop")

    def act(self) -> object:
        return self.journey.act(self.host, self.lab)

    def assert_disks_kept(self, where: str) -> None:
        """What people have on the disks of nodes that stay is not lost."""
        now = self.host.disk_data()
        lost = [name for name, data in self.disks.items() if now.get(name, data) != data]
        assert not lost, f"disks were made anew {where}: {lost}"

    def provision(self) -> None:
        self.disks = self.host.disk_data()
        super().provision()
        self.assert_disks_kept("by going on")


@contextmanager
def opened(name: str, directory: Path) -> Iterator[JourneySweep]:
    """The sweep of a journey on a machine in `directory`."""
    with in_sequence():
        made = JourneySweep(name, directory)
        try:
            yield made
        finally:
            made.host.close()


# ---------------------------------------------------------------- several effects at once
def dies_in_parallel(host: SimulatedHost, command: Callable[[], object], number: int, seed: int) -> bool:
    """Run a command with two effects at once in a process of its own, which ends at its `number`-th stop point without
    a word, whatever the other thread is about; True when it came so far."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            count, lock, chance = iter(range(1 << 30)), threading.Lock(), random.Random(seed)

            def step(_name: str) -> None:
                with lock:
                    here, pause = next(count), chance.random() * 0.002
                if here == number:
                    os._exit(42)
                time.sleep(pause)  # so that each seed meets the effects in another order

            host.hook.before = host.hook.after = step
            with (
                journal_hooked(host.hook),
                patch("emulator.core.pool.start", two_at_once),
                suppress(Exception),
            ):
                command()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 42


def two_at_once(_most: int, name: str) -> Executor:
    """Two threads for the effects, one for each cluster that is ready meanwhile, none for what only looks."""
    return ThreadPoolExecutor(2, name) if name in ("apply", "cluster") else InlinePool()
