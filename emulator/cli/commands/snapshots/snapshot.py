"""hyperscaler snapshot create|list|show|restore|delete"""

from __future__ import annotations

import click

from emulator.cli.lazy_group import VerbsGroup
from emulator.cli.options import lab_argument, load_by_name, needs_host, refuse_file_name, wait_option
from emulator.cli.output import json_option, print_json, say
from emulator.cli.render.progress import reporting
from emulator.cli.render.run_log import run_log
from emulator.cli.signals import stop_on_signals

name_argument = click.argument("name")
disk_only_option = click.option("--disk-only", is_flag=True, help="Without memory: the machines boot.")


@click.group("snapshot", cls=VerbsGroup)
def command() -> None:
    """Set the state of all machines of a lab aside, and go back to it."""


@command.command("create")
@lab_argument
@name_argument
@disk_only_option
@wait_option
@json_option
@needs_host
def create(lab: str, name: str, *, disk_only: bool, wait_seconds: float, as_json: bool) -> None:
    """Make the snapshot NAME of LAB: memory and disks of all machines, at one moment. The lab goes on at once.

    With --disk-only the machines are shut down for it, and booted again.
    """
    from emulator.cli.render.snapshots.text import made_text
    from emulator.operations.snapshots.create import create_snapshot
    from emulator.wiring import real_environment

    env = real_environment()
    load_by_name(env, lab)
    with (
        stop_on_signals() as stop,
        run_log(env.home.lab(lab).logs, "snapshot"),
        reporting(live=True) as reporter,
    ):
        made = create_snapshot(env, lab, name, reporter, stop, disk_only=disk_only, wait_seconds=wait_seconds)
    if as_json:
        shown = {"paused_seconds": made.paused_seconds, "space_bytes": made.space_bytes, "memory": made.ram}
        print_json({"version": 1, "lab": lab, "snapshot": name, **shown})
    else:
        say(made_text(made))


@command.command("list")
@lab_argument
@json_option
def show_all(lab: str, *, as_json: bool) -> None:
    """List the snapshots of LAB, and the space that they take."""
    from emulator.cli.render.snapshots.text import list_text, snapshots_table
    from emulator.cli.render.tables import show as show_table
    from emulator.operations.snapshots.listing import list_snapshots
    from emulator.wiring import real_environment

    refuse_file_name(lab)
    found = list_snapshots(real_environment(), lab)
    if as_json:
        print_json(
            {
                "version": 1,
                "lab": lab,
                "snapshots": [line.to_json() for line in found.snapshots],
                "remains_bytes": found.remains_bytes,
                "interrupted": found.interrupted,
            }
        )
        return
    if found.snapshots:
        show_table(snapshots_table(found))
    for line in list_text(lab, found):
        say(line)


@command.command("show")
@lab_argument
@name_argument
@click.option("--check", is_flag=True, help="Read the disks whole, and compare them with what was set aside.")
@json_option
def show(lab: str, name: str, *, check: bool, as_json: bool) -> None:
    """Show the snapshot NAME of LAB, machine by machine."""
    from emulator.cli.render.snapshots.text import snapshot_text
    from emulator.operations.snapshots.listing import show_snapshot
    from emulator.wiring import real_environment

    refuse_file_name(lab)
    found = show_snapshot(real_environment(), lab, name, check=check)
    if as_json:
        print_json({"version": 1, "lab": lab, **found.to_json()})
    else:
        for line in snapshot_text(found):
            say(line)


@command.command("restore")
@lab_argument
@name_argument
@disk_only_option
@click.option("--no-verify", is_flag=True, help="Do not try the clusters afterwards.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@wait_option
@json_option
@needs_host
def restore(
    lab: str, name: str, *, disk_only: bool, no_verify: bool, yes: bool, wait_seconds: float, as_json: bool
) -> None:
    """Bring all machines of LAB back to the snapshot NAME; what they did since is lost.

    Who may log in, and with what, stays as it is now: nobody whose access was revoked since gets it back.
    """
    from emulator.cli.commands.snapshots.going_back import go_back

    go_back(
        lab,
        name,
        "snapshot restore",
        disk_only=disk_only,
        verify=not no_verify,
        yes=yes,
        wait_seconds=wait_seconds,
        as_json=as_json,
    )


@command.command("delete")
@lab_argument
@name_argument
@wait_option
@json_option
@needs_host
def delete(lab: str, name: str, *, wait_seconds: float, as_json: bool) -> None:
    """Delete the snapshot NAME of LAB. The machines go on, and so does what other snapshots need of it."""
    from emulator.cli.render.snapshots.text import size_text
    from emulator.operations.snapshots.delete import delete_snapshot
    from emulator.wiring import real_environment

    env = real_environment()
    load_by_name(env, lab)
    with (
        stop_on_signals() as stop,
        run_log(env.home.lab(lab).logs, "snapshot"),
        reporting(live=True) as reporter,
    ):
        freed = delete_snapshot(env, lab, name, reporter, stop, wait_seconds=wait_seconds)
    if as_json:
        print_json({"version": 1, "lab": lab, "snapshot": name, "freed_bytes": freed})
    else:
        say(f"{lab}: snapshot {name} is deleted; {size_text(freed)} became free")
