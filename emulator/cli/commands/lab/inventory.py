"""hyperscaler inventory LAB"""

from __future__ import annotations

import click

from emulator.cli.options import lab_argument
from emulator.cli.output import say


@click.command("inventory")
@lab_argument
@click.option(
    "--format",
    "form",
    type=click.Choice(["ini", "yaml", "json", "kubespray"]),
    default="yaml",
    show_default=True,
    help="kubespray: the Kubernetes nodes alone, as the hosts.yaml that Kubespray's playbooks read.",
)
def command(lab: str, *, form: str) -> None:
    """Print the Ansible inventory of LAB; `ansible-playbook -i` takes it as it is."""
    from emulator.operations.connect import inventory
    from emulator.wiring import real_environment

    say(inventory(real_environment(), lab, form), nl=False)
