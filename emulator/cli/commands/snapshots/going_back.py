"""What `snapshot restore` and `reset` share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.cli.options import confirmed, load_by_name
from emulator.cli.output import print_json, say
from emulator.cli.render.progress import paused, reporting
from emulator.cli.render.run_log import run_log
from emulator.cli.render.summary import checks_json, checks_text
from emulator.cli.signals import stop_on_signals

if TYPE_CHECKING:
    from emulator.lab.snapshots.manifest import Manifest


def go_back(
    lab: str,
    name: str,
    verb: str,
    *,
    disk_only: bool,
    verify: bool,
    yes: bool,
    wait_seconds: float,
    as_json: bool,
) -> None:
    """Ask, go back to the snapshot, and say how the lab is."""
    from emulator.cli.render.snapshots.text import age_text
    from emulator.operations.snapshots.restore import RestoreOptions, restore_snapshot
    from emulator.wiring import real_environment

    env = real_environment()
    load_by_name(env, lab)
    with (
        stop_on_signals() as stop,
        run_log(env.home.lab(lab).logs, verb.partition(" ")[0]),
        reporting(live=True) as reporter,
    ):

        def confirm(manifest: Manifest) -> bool:
            question = (
                f"Bring all machines of {lab} back to {age_text(manifest)}? What they did since, files of users"
                " included, is lost; who may log in stays as it is now."
            )
            with paused(reporter):
                return confirmed(question, yes=yes)

        options = RestoreOptions(disk_only, verify, confirm, wait_seconds, verb)
        done = restore_snapshot(env, lab, name, options, reporter, stop)
    if as_json:
        shown = {"restored": not done.declined, "checks": checks_json(done.checks)}
        print_json({"version": 1, "lab": lab, "snapshot": name, **shown})
    elif done.declined:
        say("nothing was changed")
    else:
        say(f"{lab} is back at {age_text(done.manifest)}")
        if done.checks:
            say(checks_text(done.checks))
