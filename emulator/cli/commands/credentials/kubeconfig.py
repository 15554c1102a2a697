"""hyperscaler kubeconfig LAB"""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from emulator.cli.options import lab_argument
from emulator.cli.output import say
from emulator.core.errors import UsageError


@click.command("kubeconfig")
@lab_argument
@click.option("--student", is_flag=True, help="The restricted account instead of the admin's.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write it to this file (0600) instead of stdout.")
def command(lab: str, *, student: bool, output: Path | None) -> None:
    """Print a kubeconfig of the Kubernetes cluster of LAB. The admin's opens the whole cluster: keep it secret."""
    from emulator.core.fs import write_whole
    from emulator.operations.connect import kubeconfig, way_to_lab
    from emulator.wiring import real_environment

    if output is not None and output.exists() and not output.is_file():
        # The file takes the place of what is there, which must not be /dev/stdout.
        raise UsageError("is there, and is not a regular file", where=str(output), fix="leave --output out for stdout")
    env = real_environment()
    text = kubeconfig(env, lab, student=student)
    if output is None:
        say(text, nl=False)
    else:
        write_whole(output, text.encode())
        say(f"written to {output}", err=True)
    way = way_to_lab(env, lab)
    if way:
        shown = shlex.join([*way, "kubectl", "--kubeconfig", str(output or "FILE")])
        say(f"the lab has a network of its own; on this host, as root: {shown} get nodes", err=True, wrap=False)
