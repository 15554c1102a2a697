"""Labs and their nodes as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from emulator.cli.output import say
from emulator.cli.render.tables import Table, show

if TYPE_CHECKING:
    from emulator.core.ports.services import ServiceInfo
    from emulator.operations.status import LabLine, LabStatus


def labs_json(lines: Sequence[LabLine]) -> dict[str, Any]:
    """Keys are an interface: add, do not rename."""
    return {"version": 1, "labs": [_lab_json(line) for line in lines]}


def _lab_json(line: LabLine) -> dict[str, Any]:
    fields = {"lab": line.name, "nodes": line.nodes, "verified": line.verified, "busy": line.busy}
    return {**fields, **({"problem": line.problem} if line.problem else {})}


def labs_table(lines: Sequence[LabLine]) -> Table:
    """A row for each lab."""
    return Table(("LAB", "NODES", "VERIFY", "BUSY", "PROBLEM"), [_lab_row(line) for line in lines])


def _lab_row(line: LabLine) -> tuple[str, ...]:
    if line.problem:
        return (line.name, "?", "?", line.busy or "", line.problem)
    return (line.name, str(line.nodes), str(line.verified), line.busy or "", "")


def print_known(status: LabStatus, seconds: float) -> None:
    """One lab before its clusters have answered, and how long they have for it."""
    print_status(status)
    say(f"  asking the scheduler of each cluster, for at most {seconds:.0f} s", err=True)


def print_clusters(status: LabStatus) -> None:
    """What the clusters say."""
    for name, state in status.clusters.items():
        say(f"  {name}: {state}")


def print_status(status: LabStatus) -> None:
    """One lab: its nodes as a table, then a line for each other fact but the clusters' own answers."""
    say(f"lab {status.name} on hypervisor {status.hypervisor or 'none yet'}")
    if status.nodes:
        rows = [
            (node.name, str(node.ip), f"{node.cpu_cores} cores", f"{node.memory_mib / 1024:g} GiB", node.state)
            for node in status.nodes
        ]
        show(Table((), rows, indent=2))
    phases = ", ".join(f"{name} {value}" for name, value in status.phases.items())
    lines = [f"phases: {phases}"] if phases else []
    lines += [_service_line(info) for info in status.services]
    lines += ["is started with this machine"] if status.autostart else []
    lines += [f"busy: {status.busy}"] if status.busy else []
    lines += [f"problem: {problem}" for problem in status.problems]
    lines += [f"note: {note}" for note in status.notes]
    for line in lines:
        say(f"  {line}")


def _service_line(info: ServiceInfo) -> str:
    said = info.note or info.reason
    return f"service {info.name}: {info.state.value}" + (f" ({said})" if said else "")
