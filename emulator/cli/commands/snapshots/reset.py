"""hyperscaler reset LAB"""

from __future__ import annotations

import click

from emulator.cli.commands.snapshots.snapshot import disk_only_option
from emulator.cli.options import lab_argument, needs_host, wait_option
from emulator.cli.output import json_option


@click.command("reset")
@lab_argument
@disk_only_option
@click.option("--no-verify", is_flag=True, help="Do not try the clusters afterwards.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@wait_option
@json_option
@needs_host
def command(lab: str, *, disk_only: bool, no_verify: bool, yes: bool, wait_seconds: float, as_json: bool) -> None:
    """Bring LAB back to how it was when it was verified last, which its file asks for with `snapshots.pristine`.

    What its machines did since is lost. Who may log in, and with what, stays as it is now.
    """
    from emulator.cli.commands.snapshots.going_back import go_back
    from emulator.lab.snapshots.manifest import PRISTINE

    go_back(
        lab,
        PRISTINE,
        "reset",
        disk_only=disk_only,
        verify=not no_verify,
        yes=yes,
        wait_seconds=wait_seconds,
        as_json=as_json,
    )
