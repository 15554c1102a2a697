"""hyperscaler rotate LAB ssh|munge|tls"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from emulator.cli.options import confirmed, lab_argument, needs_host, wait_option
from emulator.cli.output import json_option, print_json, say
from emulator.cli.render.progress import reporting
from emulator.cli.render.run_log import run_log
from emulator.cli.signals import stop_on_signals

if TYPE_CHECKING:
    from emulator.credentials.rotation_phases import RotatedSecret

_ASKS = {
    "ssh": "Change the ssh keys of {lab}? Certificates that users have end; new ones lie ready to be handed over.",
    "munge": "Change the MUNGE key of {lab}? Slurm pauses for some seconds; jobs go on.",
    "tls": "Change the TLS authority of {lab} and the certificates of all nodes?",
}


@click.command("rotate")
@lab_argument
@click.argument("secret", type=click.Choice(["ssh", "munge", "tls"]))
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@wait_option
@json_option
@needs_host
def command(lab: str, secret: str, *, yes: bool, wait_seconds: float, as_json: bool) -> None:
    """Replace a secret of LAB: ssh (the lab's key and certificate authority), munge or tls.

    Can be interrupted anywhere; run again, it goes on.
    """
    from emulator.credentials.rotation_phases import RotatedSecret
    from emulator.lab.lab_files import require_lab_name
    from emulator.operations.credentials.rotate import rotate
    from emulator.wiring import real_environment

    require_lab_name(lab)
    env = real_environment()

    def confirm(pending: tuple[RotatedSecret, ...]) -> bool:
        begun = f" The rotation of {', '.join(pending)}, which has begun, is finished first." if pending else ""
        return confirmed(_ASKS[secret].format(lab=lab) + begun, yes=yes)

    with (
        stop_on_signals() as stop,
        run_log(env.home.lab(lab).logs, "rotate"),
        reporting(live=yes) as reporter,
    ):
        done = rotate(env, lab, RotatedSecret(secret), reporter, stop, confirm=confirm, wait_seconds=wait_seconds)
    if as_json:
        finished = [each.value for each in done.finished]
        shown = {"secret": secret, "rotated": not done.declined, "finished": finished}
        print_json({"version": 1, "lab": lab, **shown, "hand_again": list(done.hand_again)})
        return
    say("nothing was changed" if done.declined else f"{lab}: {secret} rotated")
    if done.hand_again:
        say(f"Hand their directories over again: {', '.join(done.hand_again)} ({env.home.lab(lab).handouts})")
