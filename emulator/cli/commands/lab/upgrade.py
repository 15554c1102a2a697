"""hyperscaler upgrade LAB --to VERSION"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from emulator.cli.options import confirmed, lab_argument, load, needs_host, refuse_file_name, wait_option
from emulator.cli.output import json_option, print_json, say
from emulator.cli.render.progress import paused, reporting
from emulator.cli.render.run_log import run_log
from emulator.cli.signals import stop_on_signals


@click.command("upgrade")
@lab_argument
@click.option("--to", required=True, metavar="VERSION", help="Such as 1.37 or 1.37.2; the lab file must say so, too.")
@click.option(
    "--file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The lab file with the new version. Default: the one that was last provisioned.",
)
@click.option("--force", is_flag=True, help="End pods of workers that no controller makes again.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@wait_option
@json_option
@needs_host
def command(
    lab: str, *, to: str, file: Path | None, force: bool, yes: bool, wait_seconds: float, as_json: bool
) -> None:
    """Bring the Kubernetes cluster of LAB to the next minor version, or to another patch release of its own.

    The control plane goes first, then one worker after the other: its pods move away, and come back when it is
    upgraded. Can be interrupted anywhere; run again, it goes on.
    """
    from emulator.lab.lab_files import require_lab_name
    from emulator.operations.upgrade import Request, upgrade
    from emulator.wiring import real_environment

    refuse_file_name(lab)
    require_lab_name(lab)
    loaded = load(file) if file is not None else None
    env = real_environment()
    with (
        stop_on_signals() as stop,
        run_log(env.home.lab(lab).logs, "upgrade"),
        reporting(live=True) as reporter,
    ):

        def confirm(before: Mapping[str, str], wanted: str) -> bool:
            have = ", ".join(sorted(set(before.values())))
            question = (
                f"Upgrade Kubernetes of {lab} from {have} to {wanted}? Its API pauses for minutes, and the pods of"
                " one worker after the other move away."
            )
            with paused(reporter):
                return confirmed(question, yes=yes)

        request = Request(to, loaded, force=force, confirm=confirm, wait_seconds=wait_seconds)
        done = upgrade(env, lab, request, reporter, stop)
    if as_json:
        shown = {"kubernetes": done.version, "before": dict(done.before), "upgraded": not done.declined}
        print_json({"version": 1, "lab": lab, **shown, "changed": dict(done.changed)})
    elif done.declined:
        say("nothing was changed")
    elif not any(done.changed.values()):
        say(f"{lab}: all nodes have Kubernetes {done.version}; nothing to change")
    else:
        say(f"{lab}: all nodes have Kubernetes {done.version}")
        for node, count in sorted(done.changed.items()):
            say(f"{node}: {count} changed")
