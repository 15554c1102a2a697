"""hyperscaler status [LAB]"""

from __future__ import annotations

import click

from emulator.cli.options import refuse_file_name
from emulator.cli.output import json_option, print_json
from emulator.core.units import printable
from emulator.operations.status import LabStatus


@click.command("status")
@click.argument("lab", required=False)
@json_option
def command(lab: str | None, *, as_json: bool) -> None:
    """Show the labs of this host, or the nodes of LAB. Takes no lock, so it works while a lab is being made."""
    from emulator.operations.status import lab_status, list_labs
    from emulator.wiring import real_environment

    env = real_environment()
    if lab is None:
        lines = list_labs(env)
        if as_json:
            fields = [
                {
                    "lab": line.name,
                    "nodes": line.nodes,
                    "verified": line.verified,
                    "busy": line.busy,
                    **({"problem": line.problem} if line.problem else {}),
                }
                for line in lines
            ]
            print_json({"version": 1, "labs": fields})
        elif not lines:
            click.echo("no labs on this host; `hyperscaler provision config/demo.yaml` makes one")
        for line in lines if not as_json else ():
            busy = f"  busy: {line.busy}" if line.busy else ""
            facts = line.problem or f"{line.nodes} nodes  verify: {line.verified}"
            click.echo(printable(f"{line.name:<20} {facts}{busy}"))
        return
    refuse_file_name(lab)
    status = lab_status(env, lab)
    if as_json:
        print_json(status.to_json())
    else:
        click.echo(printable(_text(status)))


def _text(status: LabStatus) -> str:
    width = max((len(node.name) for node in status.nodes), default=0)
    lines = [f"lab {status.name} on hypervisor {status.hypervisor or 'none yet'}"]
    lines += [
        f"  {node.name:<{width}}  {node.ip:<15}  {node.cpu_cores:>2} cores"
        f" {node.memory_mib / 1024:>5g} GiB  {node.state}"
        for node in status.nodes
    ]
    phases = ", ".join(f"{name} {value}" for name, value in status.phases.items())
    lines += [f"  phases: {phases}"] if phases else []
    lines += [f"  {name}: {state}" for name, state in status.clusters.items()]
    lines += ["  is started with this machine"] if status.autostart else []
    lines += [f"  busy: {status.busy}"] if status.busy else []
    lines += [f"  problem: {problem}" for problem in status.problems]
    lines += [f"  note: {note}" for note in status.notes]
    return "\n".join(lines)
