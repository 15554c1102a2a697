"""Random histories of three labs on one host: edits, crashes, failures, drift, damage, reboots, and what others do.

Whatever happened before: a command touches nothing that is not its lab's; `provision` leads to the lab that the file
asks for, after which the plan is empty; `destroy` leaves the host as it was before the lab; and no slice of a GPU
belongs to two.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from emulator.adapters.libvirt.ownership_xml import parse
from emulator.adapters.simulated.gpus import gpu_at
from emulator.adapters.simulated.hypervisor import SimulatedHypervisor
from emulator.adapters.simulated.services import SUPERVISOR
from emulator.core.errors import DamagedDiskError, HyperscalerError
from emulator.core.hypervisors import EMBEDDED
from emulator.core.ports import DomainState
from emulator.lab.lab_files import LoadedLab
from tests.support.random_examples import examples
from tests.support.simulated_world import (
    FIRST,
    SIMULATED_GPUS,
    SYSTEM_URI,
    THIRD,
    SimulatedHost,
    comparable,
    differences,
    foreign_uuid,
)
from tests.support.stop_points import cut, documented, fail_at, in_sequence, stop_at

# Names that begin with each other: nothing may be known by the beginning of its name. The first two share a GPU.
T = TypeVar("T")

LABS = ("demo", "demo-2", "demo-hpc")
NUMBER = {name: index for index, name in enumerate(LABS)}
WITH_SLICES = LABS[:2]
WITH_IPV6 = LABS[1:]
FOREIGN_DOMAINS = (
    "demo",
    "demo-hpc-compute-2",
    "demo-2-hpc-compute-2",
    "demo-2-hpc-compute-20",
    "demo-hpc-hpc-controller",
)
FOREIGN_NETWORKS = {"demo-3-hpc": "virbr-3", "demo-2": "virbr-4", "demo-hpc": "virbr-5", "demo-hpc2": "virbr142"}

labs = st.sampled_from(LABS)
places = st.integers(0, 260)


def lab_text(name: str, compute: int, memory: int, disk: int) -> str:
    number = 140 + NUMBER[name]
    ipv6 = f", subnet_v6: fd00:{number}::/64" if name in WITH_IPV6 else ""
    networks = f"networks: {{hpc_network: {{subnet: 192.168.{number}.0/24, bridge: virbr{number}{ipv6}}}}}"
    slices = name in WITH_SLICES
    gpus = f'[{{id: gpu-0, pci_address: "{FIRST}", model: A100-SXM4-80GB, mig_capable: true}}]'
    share = f", gpu_allocation: {{backend: nvml, strategy: mig, devices: {gpus}}}" if slices else ""
    gpu = "gpu: {count: 1, profile: 1g.10gb}" if slices else "gpu_enabled: false"
    return f"""\
version: "1.0"
metadata: {{name: {name}}}
timeouts: {{boot: 10}}
global: {{{networks}{share}}}
clusters:
  hpc:
    controller: {{cpu_cores: 1, memory_gb: 1, disk_gb: 4}}
    compute_nodes: {{count: {compute}, cpu_cores: 1, memory_gb: {memory}, disk_gb: {disk}, {gpu}}}
hypervisor: {{uri: "{SYSTEM_URI if slices else EMBEDDED}"}}
"""


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="histories-"))
        self.open = ExitStack()
        self.open.enter_context(in_sequence())
        self.host = SimulatedHost(self.directory / "host", gpus=SIMULATED_GPUS)
        self.libvirt = self.host.hypervisor(quiet=True)
        self.wanted: dict[str, tuple[int, int, int]] = dict.fromkeys(LABS, (1, 1, 4))
        self.foreign_files: dict[Path, str] = {}
        self.foreign: dict[tuple[str, str], str] = {}
        self.reboots = 0

    @initialize()
    def others_are_here_already(self) -> None:
        self.libvirt.seed_foreign_domain("elsewhere", foreign_uuid("elsewhere"))
        gpus = self.host.opened_gpus()
        gpus.nvml.set_mig_mode(THIRD, enabled=True)
        profile = next(item for item in gpus.nvml.profiles(THIRD) if item.name == "1g.10gb")
        gpus.nvml.create_instance(THIRD, profile.gi_profile_id, (profile.placements or ())[-1])
        self.initial = self.host.save()
        self.note_foreign("domains", "elsewhere")

    # ------------------------------------------------------------ commands
    def lab(self, name: str) -> LoadedLab:
        return self.host.lab_file(lab_text(name, *self.wanted[name]), name)

    def commands(self, name: str) -> tuple[Callable[[], object], Callable[[], object]]:
        lab = self.lab(name)
        return (lambda: self.host.provision(lab)), (lambda: self.host.destroy(name))

    @rule(name=labs, compute=st.integers(1, 2), memory=st.integers(1, 2), grow=st.integers(0, 1))
    def edit(self, name: str, compute: int, memory: int, grow: int) -> None:
        self.wanted[name] = (compute, memory, self.wanted[name][2] + grow)

    @rule(name=labs)
    def provision(self, name: str) -> None:
        before = comparable(self.host.save())
        with self.disks_survive(name):
            made, refusal = self.tried(lambda: self.host.provision(self.lab(name)))
        if refusal:
            assert self.in_the_way(name), f"nothing was in the way of {name}: {refusal}"
            assert differences(before, comparable(self.host.save())) == {}, "refused, and yet something was done"
            return
        assert not self.in_the_way(name), "something foreign was in the way"
        assert made is not None and all(check.ok for check in made.checks)
        plan = self.host.plan(self.lab(name))
        assert plan.is_empty, plan.changes

    @rule(name=labs)
    def destroy(self, name: str) -> None:
        foreign = [path for path in self.foreign_files if path.is_relative_to(self.host.home.lab(name).root)]
        with self.disks_survive(name, destroying=True):
            _, refusal = self.tried(lambda: self.host.destroy(name))
        if refusal and "there is no lab" not in refusal:
            assert foreign and str(foreign[0].name) in refusal, refusal
            return
        assert not foreign
        self.assert_gone(name)

    @contextmanager
    def disks_survive(self, name: str, *, destroying: bool = False) -> Iterator[None]:
        """What is on the disks of nodes that the lab's file asks for, and on those of other labs, stays there."""
        before = {lab: self.host.disk_data(lab) for lab in LABS}
        try:
            yield
        finally:
            after = {lab: self.host.disk_data(lab) for lab in LABS}
            kept = () if destroying else self.nodes(name)
            for lab, disks in before.items():
                for node, data in disks.items():
                    if lab != name or node in kept:
                        assert after[lab].get(node) == data, f"{lab} lost the disk of {node}"

    @staticmethod
    def tried(command: Callable[[], T]) -> tuple[T | None, str]:
        """What came of it, or the error's text; the error itself would be the context of later ones."""
        try:
            return command(), ""
        except HyperscalerError as error:
            return None, str(error)

    def assert_gone(self, name: str) -> None:
        assert not self.host.home.lab(name).root.exists()
        owners = [item.owner for item in self.libvirt.domains()] + [item.owner for item in self.libvirt.networks()]
        for owner in owners:
            assert owner is None or owner.lab != name
        assert name not in self.owners().values()
        directory = str(self.host.home.lab(name).supervisor)
        for running in (self.host.machine / "services").iterdir():
            assert not (running / SUPERVISOR).is_file() or (running / SUPERVISOR).read_text() != directory

    @rule(name=labs, place=places, destroying=st.booleans())
    def crash(self, name: str, place: int, destroying: bool) -> None:
        try:
            with self.disks_survive(name, destroying=destroying):
                stop_at(self.host, self.commands(name)[destroying], place, cut)
        except HyperscalerError:
            return  # refused before it came so far: `provision` and `destroy` see to it that this is right

    @rule(name=labs, place=places, destroying=st.booleans(), which=st.integers(0, 9))
    def fail(self, name: str, place: int, destroying: bool, which: int) -> None:
        def fault(call: str) -> HyperscalerError | None:
            # A disk that is read and damaged is made anew, which is right and loses what was on it.
            errors = [error for error in documented(call) if not isinstance(error, DamagedDiskError)]
            return errors[which % len(errors)] if errors else None

        with self.disks_survive(name, destroying=destroying):
            _, error = fail_at(self.host, self.commands(name)[destroying], place, fault)
        assert error is None or isinstance(error, HyperscalerError), repr(error)

    @rule()
    def reboot(self) -> None:
        self.reboots += 1
        self.host.reboot()
        with self.host.gpus().store.change():
            pass  # the GPUs notice it when they are looked at

    # ------------------------------------------------------------ behind the program's back
    @rule(name=labs, number=st.integers(0, 3), state=st.sampled_from([*DomainState, None]))
    def change_a_domain(self, name: str, number: int, state: DomainState | None) -> None:
        libvirt = self.hypervisor(name)
        ours = [info.name for info in libvirt.domains() if info.owner and info.owner.lab == name]
        if number < len(ours):
            libvirt.delete_domain(ours[number]) if state is None else libvirt.set_state(ours[number], state)

    @rule(name=labs)
    def delete_a_network(self, name: str) -> None:
        libvirt = self.hypervisor(name)
        for info in libvirt.networks():
            if info.owner and info.owner.lab == name:
                libvirt.delete_network(info.name)

    @rule(name=labs, number=st.integers(0, 3))
    def delete_a_disk(self, name: str, number: int) -> None:
        disks = sorted(set(self.host.home.lab(name).disks.glob("*.qcow2")) - set(self.foreign_files))
        if number < len(disks):
            disks[number].unlink()

    @rule(name=labs, what=st.sampled_from(["console-limits", "disk-reserve", "the supervisor", "a record"]))
    def a_service_fails(self, name: str, what: str) -> None:
        directory = self.host.home.lab(name).supervisor
        for running in (self.host.machine / "services").iterdir():
            if (running / SUPERVISOR).is_file() and (running / SUPERVISOR).read_text() == str(directory):
                for process in running.iterdir():
                    if what == "the supervisor" or process.name == what:
                        process.unlink()
        for record in (directory / "wanted").glob("*.json"):
            if what == "a record":
                record.write_text("{")

    @rule(slices_too=st.booleans())
    def lose_what_is_on_the_gpu(self, slices_too: bool) -> None:
        with self.host.gpus().store.change() as state:
            gpu = gpu_at(state, FIRST)
            gpu.vgpus.clear()
            if slices_too:
                gpu.instances.clear()

    @rule(name=labs, how=st.sampled_from(["cut off", "flipped", "emptied", "deleted", "with its directory"]))
    def damage_the_record(self, name: str, how: str) -> None:
        paths = self.host.home.lab(name)
        if not paths.journal.exists():
            return
        content = bytearray(paths.journal.read_bytes())
        if how == "with its directory":
            if not any(path.is_relative_to(paths.root) for path in self.foreign_files):
                shutil.rmtree(paths.root)
        elif how == "deleted":
            paths.journal.unlink()
        elif how == "emptied":
            paths.journal.write_bytes(b"")
        elif how == "cut off":
            paths.journal.write_bytes(content[: len(content) * 2 // 3])
        else:
            for at in range(40, len(content), 700):
                content[at] ^= 4
            paths.journal.write_bytes(content)

    def hypervisor(self, name: str) -> SimulatedHypervisor:
        if name in WITH_SLICES:
            return self.libvirt
        paths = self.host.home.lab(name)
        return self.host.hypervisor(paths, quiet=True) if paths.hypervisor.is_dir() else self.libvirt

    # ------------------------------------------------------------ others
    @rule(name=st.sampled_from(FOREIGN_DOMAINS))
    def a_stranger_s_domain(self, name: str) -> None:
        if self.libvirt.domain(name) is None:
            self.libvirt.seed_foreign_domain(name, foreign_uuid(name))
            self.note_foreign("domains", name)

    @rule(name=st.sampled_from(sorted(FOREIGN_NETWORKS)))
    def a_stranger_s_network(self, name: str) -> None:
        if self.libvirt.network(name) is None:
            self.libvirt.seed_foreign_network(name, foreign_uuid(name), bridge=FOREIGN_NETWORKS[name])
            self.note_foreign("networks", name)

    @rule(name=labs, number=st.integers(1, 4))
    def a_stranger_s_file(self, name: str, number: int) -> None:
        disks = self.host.home.lab(name).disks
        path = disks / f"hpc-compute-{number}.qcow2"
        if disks.is_dir() and not path.exists():
            path.write_text(f"years of work {number}")
            self.foreign_files[path] = path.read_text()

    @precondition(lambda self: self.foreign or self.foreign_files)
    @rule(data=st.data())
    def a_stranger_leaves(self, data: st.DataObject) -> None:
        kind, name = data.draw(
            st.sampled_from([*sorted(self.foreign), *(("file", str(p)) for p in self.foreign_files)])
        )
        if kind == "file":
            Path(name).unlink()
            del self.foreign_files[Path(name)]
        elif name != "elsewhere":
            (self.libvirt.delete_domain if kind == "domains" else self.libvirt.delete_network)(name)
            del self.foreign[kind, name]

    def note_foreign(self, kind: str, name: str) -> None:
        self.foreign[kind, name] = self.libvirt_file()[kind][name]

    def libvirt_file(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = json.loads((self.host.machine / "libvirt.json").read_text())
        return found

    def nodes(self, name: str) -> list[str]:
        return ["hpc-controller", *(f"hpc-compute-{number + 1}" for number in range(self.wanted[name][0]))]

    def in_the_way(self, name: str) -> bool:
        """Whether something foreign has the place of something that the lab's file asks for."""
        nodes = self.nodes(name)
        disks = {self.host.home.lab(name).disks / f"{node}.qcow2" for node in nodes}
        if disks & set(self.foreign_files):
            return True
        if name not in WITH_SLICES:
            return False
        bridges = [FOREIGN_NETWORKS[found] for kind, found in self.foreign if kind == "networks"]
        return (
            any(("domains", f"{name}-{node}") in self.foreign for node in nodes)
            or ("networks", f"{name}-hpc") in self.foreign
            or f"virbr{140 + NUMBER[name]}" in bridges
        )

    # ------------------------------------------------------------ what always holds
    def owners(self) -> dict[str, str]:
        file = self.host.home.gpu_owners
        return json.loads(file.read_text())["owners"] if file.exists() else {}

    @invariant()
    def nothing_foreign_is_touched(self) -> None:
        now = self.libvirt_file() if (self.host.machine / "libvirt.json").exists() else {}
        for (kind, name), xml in self.foreign.items():
            assert now[kind].get(name) == xml, f"{kind} {name}"
        for path, text in self.foreign_files.items():
            assert path.read_text() == text, path
        gpu = gpu_at(self.host.gpus().store.look(), THIRD)
        assert len(gpu.instances) == (0 if self.reboots else 1) or not hasattr(self, "initial")
        assert not any(key.startswith(THIRD) for key in self.owners())

    @invariant()
    def no_slice_belongs_to_two(self) -> None:
        places = [key for key in self.owners() if "@" in key]
        assert len({key.rpartition("@")[2] for key in places}) == len(places), places
        devices = []
        for xml in (self.libvirt_file() if (self.host.machine / "libvirt.json").exists() else {"domains": {}})[
            "domains"
        ].values():
            for address in parse(xml, "domain").iterfind("devices/hostdev/source/address"):
                devices.append(tuple(sorted(address.attrib.items())))
        assert len(set(devices)) == len(devices), devices

    # ------------------------------------------------------------ the end
    def teardown(self) -> None:
        try:
            if hasattr(self, "initial"):
                self.all_can_be_brought_up_and_taken_away()
        finally:
            self.host.close()
            self.open.close()
            shutil.rmtree(self.directory)

    def all_can_be_brought_up_and_taken_away(self) -> None:
        self.nothing_foreign_is_touched()
        for path in self.foreign_files:
            path.unlink()
        self.foreign_files.clear()
        for kind, name in list(self.foreign):
            if name != "elsewhere":
                (self.libvirt.delete_domain if kind == "domains" else self.libvirt.delete_network)(name)
                del self.foreign[kind, name]
        state = self.host.save()
        for name in LABS:
            self.provision(name)
        for name in LABS:
            self.destroy(name)
        self.assert_as_before()
        self.host.restore(state)
        for name in reversed(LABS):
            self.destroy(name)
        self.assert_as_before()

    def assert_as_before(self) -> None:
        now = comparable(self.host.save(), images=False)
        end = self.host.save()
        self.host.restore(self.initial)
        for _ in range(self.reboots):
            self.host.reboot()
        if self.reboots:
            with self.host.gpus().store.change():
                pass
        left = differences(now, comparable(self.host.save(), images=False))
        self.host.restore(end)
        assert not left, [told(name, *pair) for name, pair in left.items()]


def told(name: str, now: str | None, before: str | None) -> str:
    """Where two contents part."""
    one, other = now or "absent", before or "absent"
    at = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), 0)
    return f"{name}: ...{one[max(0, at - 60) : at + 80]} BUT BEFORE ...{other[max(0, at - 60) : at + 80]}"


Histories.TestCase.settings = examples(12, steps=12)
TestHistories = Histories.TestCase
