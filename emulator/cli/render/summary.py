"""The end of a provision: what there is now and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from emulator.cli.render.tables import Table, plain
from emulator.core.units import human_duration
from emulator.guests.verify.report import CheckResult
from emulator.labfile.model import ClusterSpec, Role
from emulator.operations.provision import ProvisionResult


def provision_summary(spec: ClusterSpec, result: ProvisionResult) -> str:
    """For people, on stdout."""
    if result.declined:
        return "nothing was changed"
    total = sum(result.changed.values())
    plan = "nothing to change" if result.plan.is_empty else f"{len(result.plan.changes)} changes applied"
    lines = [
        f"Lab {spec.name} is ready: {plan}, {total} tasks changed something on the nodes, "
        f"{sum(check.ok for check in result.checks)} of {len(result.checks)} checks passed "
        f"({human_duration(result.seconds)}).",
        "",
    ]
    rows = [(node.name, str(node.ip), f"{node.cpu_cores} cores, {node.memory_mib / 1024:g} GiB") for node in spec.nodes]
    lines.append(plain(Table((), rows, indent=2)))
    head = next((node.name for node in spec.nodes if node.role.is_head), spec.nodes[0].name)
    lines += ["", "Next:", f"  hyperscaler ssh {spec.name} {head}"]
    count = sum(node.role is Role.HPC_COMPUTE for node in spec.nodes)
    if spec.slurm and count:
        lines.append(f"  hyperscaler ssh {spec.name} {head} -- srun -N{count} hostname")
    lines += [f"  hyperscaler status {spec.name}", f"  hyperscaler destroy {spec.name}"]
    return "\n".join(lines)


def checks_text(checks: Sequence[CheckResult]) -> str:
    return "\n".join(
        f"{'ok    ' if check.ok else 'FAILED'} {check.name}: {check.detail} ({human_duration(check.seconds)})"
        for check in checks
    )


def checks_json(checks: Sequence[CheckResult]) -> list[dict[str, Any]]:
    return [
        {"name": check.name, "ok": check.ok, "detail": check.detail, "seconds": round(check.seconds, 3)}
        for check in checks
    ]


def provision_json(spec: ClusterSpec, result: ProvisionResult) -> dict[str, Any]:
    return {
        "version": 1,
        "lab": spec.name,
        "declined": result.declined,
        "changes": [change.to_json() for change in result.plan.changes],
        "configured": dict(result.changed),
        "checks": checks_json(result.checks),
        "nodes": [{"name": node.name, "ip": str(node.ip), "role": node.role.value} for node in spec.nodes],
        "seconds": round(result.seconds, 1),
    }
