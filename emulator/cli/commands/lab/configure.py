"""hyperscaler configure FILE"""

from __future__ import annotations

from pathlib import Path

import click

from emulator.cli.options import file_argument, load, needs_host, wait_option
from emulator.cli.output import json_option, print_json, say
from emulator.cli.render.progress import reporting
from emulator.cli.render.run_log import run_log
from emulator.cli.signals import stop_on_signals


@click.command("configure")
@file_argument
@wait_option
@json_option
@needs_host
def command(file: Path, *, wait_seconds: float, as_json: bool) -> None:
    """Run the playbooks of the provisioned lab of FILE again; machines and networks are left as they are."""
    from emulator.operations.configure import configure
    from emulator.wiring import real_environment

    loaded = load(file)
    env = real_environment()
    with (
        stop_on_signals() as stop,
        run_log(env.home.lab(loaded.spec.name).logs, "configure"),
        reporting(live=True) as reporter,
    ):
        changed = configure(env, loaded, reporter, stop, wait_seconds=wait_seconds)
    if as_json:
        print_json({"version": 1, "lab": loaded.spec.name, "configured": dict(changed)})
    else:
        for node, count in sorted(changed.items()):
            say(f"{node}: {count} changed")
