"""The journal: seconds of an append with fsync (bound 5 ms), and of planning after a crash with 500 nodes (bound 1 s).

    python benchmarks/bench_journal.py [--appends 300] [--nodes 500] [--runs 5] [--directory DIR]

The append is timed in `--directory` (default: the current one), since memory file systems fsync for nothing.
Planning reads the journal, looks at everything and compares; the hypervisor under it is the simulated one in memory, so
that the seconds are the program's own. Three machines are planned for: the lab complete; half of it missing, as a crash
leaves it; and all domains missing, though the record has them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from emulator.adapters.simulated.disks import SimulatedDisks
from emulator.adapters.simulated.hypervisor import SimulatedHypervisor
from emulator.adapters.simulated.packet_filter import SimulatedPacketFilter
from emulator.adapters.simulated.services import SimulatedSupervisor
from emulator.apply.executor import Executor
from emulator.apply.gpu_ownership import GpuLedger
from emulator.apply.guest_accounts.ledger import NoAccounts
from emulator.apply.journal import Journal
from emulator.apply.state import StateStore
from emulator.core import ids
from emulator.core.fs import private_directory
from emulator.core.paths import Home
from emulator.core.ports import Completed, Hypervisor
from emulator.core.progress import SilentReporter
from emulator.host.acceleration import AccelerationDecision
from emulator.lab.environment import Environment
from emulator.lab.lab import Backends, open_lab
from emulator.lab.open_journal import open_record
from emulator.lab.planning.plan import HYPERVISOR_FACT, plan_lab
from emulator.labfile.load import parse_spec
from emulator.labfile.model import ClusterSpec
from emulator.plan.model import Plan
from emulator.plan.resources import Volume
from tests.support.simulated_world import Image

APPEND_BOUND, PLAN_BOUND = 0.005, 1.0
URI = "qemu:///system"
SPEC = """
version: "1.0"
metadata: {{name: big}}
global: {{networks: {{hpc_network: {{subnet: 10.20.0.0/16}}}}}}
clusters:
  hpc:
    controller: {{cpu_cores: 1, memory_gb: 1, disk_gb: 8}}
    compute_nodes: {{count: {compute}, cpu_cores: 1, memory_gb: 1, disk_gb: 8}}
hypervisor: {{uri: "qemu:///system"}}
"""


class Images:
    """One image that is always there."""

    def __init__(self, directory: Path) -> None:
        self._image = Image("hpc-base", directory)
        for file in (self._image.disk, self._image.kernel, self._image.initrd):
            file.write_bytes(b"x")

    def current(self, name: str) -> Image:
        del name
        return self._image

    def kept(self, name: str) -> AbstractContextManager[None]:
        del name
        return nullcontext()

    def needs_build(self, name: str) -> None:
        del name

    def follow(self, name: str, disk: Path | None) -> None:
        del name, disk

    def contents(self, name: str) -> str:
        del name
        return ""

    def owning(self, disk: Path) -> Image | None:
        return self._image if disk == self._image.disk else None


class Keygen:
    def run(self, argv: list[str], **_options: object) -> Completed:
        target = Path(argv[argv.index("-f") + 1])
        for file in (target, target.with_name(f"{target.name}.pub")):
            file.touch(mode=0o600)
            file.write_text("key\n")
        return Completed(tuple(argv), 0, "", "")


def environment_on(root: Path, hypervisor: SimulatedHypervisor) -> Environment:
    unused = cast(Any, None)
    root.joinpath("image").mkdir()
    images = Images(root / "image")
    tables = SimulatedPacketFilter()
    return Environment(
        home=Home(root / "home"),
        host_locks=root / "locks",
        gpu_ledger=GpuLedger(root / "home" / "gpu-owners.json"),
        guest_accounts=NoAccounts(),
        runner=cast(Any, Keygen()),
        disks=SimulatedDisks(),
        images=lambda _kubernetes: cast(Any, images),
        guests=unused,
        choose_hypervisor=lambda _wanted: URI,
        system_hypervisor=unused,
        accelerate=unused,
        daemon=unused,
        connect=lambda _uri, _prefix: cast(Hypervisor, hypervisor),
        packet_filter=lambda _prefix: tables,
        supervisor=lambda directory: SimulatedSupervisor(directory, root / "running"),
        host_facts=unused,
        gpus=unused,
        upgrade_files=unused,
        units=unused,
    )


def appends(directory: Path, number: int) -> list[float]:
    disk = Volume(name="hpc-compute-1", path="/var/lib/hyperscaler/labs/x/disks/a", image="hpc-base", size_gib=8)
    with tempfile.TemporaryDirectory(dir=directory) as below:
        store = StateStore(Journal(Path(below) / "journal.jsonl"))
        times = []
        for _ in range(number):
            started = time.perf_counter()
            store.begin("create", disk)
            times.append(time.perf_counter() - started)
        return times


def planned(env: Environment, spec: ClusterSpec) -> tuple[float, Plan]:
    """What the next command does first: read the record, look, compare."""
    started = time.perf_counter()
    record = open_record(env.home, spec.name)
    lab = open_lab(env, record, Backends(URI))
    plan = plan_lab(lab, record.state, spec, AccelerationDecision(accelerated=False))
    return time.perf_counter() - started, plan


def made(env: Environment, spec: ClusterSpec) -> None:
    paths = env.home.lab(spec.name)
    private_directory(paths.root)
    lab = open_lab(env, open_record(env.home, spec.name), Backends(URI))
    store = StateStore(Journal(paths.journal))
    store.fact(HYPERVISOR_FACT, URI)
    plan = plan_lab(lab, store.state, spec, AccelerationDecision(accelerated=False))
    Executor(lab.handlers, store, SilentReporter()).apply(plan)


def cut_in_half(env: Environment, spec: ClusterSpec, hypervisor: SimulatedHypervisor) -> None:
    """As if the power had gone: every other node is missing, and the last entries of the journal with it."""
    paths = env.home.lab(spec.name)
    lines = paths.journal.read_bytes().splitlines(keepends=True)
    paths.journal.write_bytes(b"".join(lines[: len(lines) // 2]) + lines[-1][:100])
    for node in spec.nodes[::2]:
        hypervisor.delete_domain(ids.host_name(spec.name, node.name))
        (paths.disks / f"{node.name}.qcow2").unlink()


def all_missing(spec: ClusterSpec, hypervisor: SimulatedHypervisor) -> None:
    """Every other domain was taken away before; now the rest, too, and strangers have come instead."""
    for node in spec.nodes:
        hypervisor.delete_domain(ids.host_name(spec.name, node.name))
    for node in spec.nodes:
        hypervisor.seed_foreign_domain(f"other-{node.name}", ids.resource_uuid("other", node.name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--appends", type=int, default=300)
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--directory", type=Path, default=Path.cwd())
    options = parser.parse_args()

    print(f"compared: with nothing; appends to a file in {options.directory}, then planning from a journal there")
    times = appends(options.directory, options.appends)
    good = statistics.median(times) <= APPEND_BOUND
    print(
        f"append with fsync: median {statistics.median(times) * 1000:.2f} ms,"
        f" worst of {len(times)} {max(times) * 1000:.1f} ms (bound {APPEND_BOUND * 1000:.0f} ms)",
        flush=True,
    )
    spec, report = parse_spec(SPEC.format(compute=options.nodes - 1), file="bench")
    if spec is None:
        raise SystemExit(f"cannot start: {report.findings}")
    with tempfile.TemporaryDirectory(dir=options.directory.absolute()) as below:
        hypervisor = SimulatedHypervisor()
        env = environment_on(Path(below), hypervisor)
        made(env, spec)
        machines: tuple[tuple[str, Callable[[], None]], ...] = (
            ("complete", lambda: None),
            ("half missing", lambda: cut_in_half(env, spec, hypervisor)),
            ("all domains missing", lambda: all_missing(spec, hypervisor)),
        )
        for name, happen in machines:
            happen()
            runs = [planned(env, spec) for _ in range(options.runs)]
            assert not runs[0][1].blockers
            assert runs[0][1].is_empty == (name == "complete"), runs[0][1].changes[:3]
            seconds = [run[0] for run in runs]
            good &= statistics.median(seconds) <= PLAN_BOUND
            print(
                f"planning for {len(spec.nodes)} nodes, {name}: median {statistics.median(seconds):.2f} s,"
                f" {min(seconds):.2f} to {max(seconds):.2f} s, {len(runs[0][1].changes)} changes"
                f" (bound {PLAN_BOUND:g} s)",
                flush=True,
            )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
