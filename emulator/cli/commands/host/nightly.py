"""hyperscaler host enable-nightly FILE, hyperscaler host disable-nightly LAB"""

from __future__ import annotations

from pathlib import Path

import click

from emulator.cli.options import file_argument, lab_argument, load
from emulator.cli.output import say


@click.command("enable-nightly")
@file_argument
@click.option("--at", default="02:00", show_default=True, metavar="HH:MM", help="When, in this host's time.")
@click.option(
    "--delay",
    type=click.IntRange(min=0, max=720),
    default=30,
    show_default=True,
    metavar="MINUTES",
    help="Begin up to so much later, by chance.",
)
@click.option(
    "--report", "reports", multiple=True, type=click.Path(path_type=Path), metavar="FILE", help="See nightly."
)
@click.option("--notify", type=click.Path(path_type=Path), metavar="FILE", help="See nightly.")
def enable_nightly(file: Path, *, at: str, delay: int, reports: tuple[Path, ...], notify: Path | None) -> None:
    """Rebuild the lab of FILE every night, by a timer of systemd's."""
    from emulator.operations.host.nightly_timer import Timetable, enable_nightly, unit_names
    from emulator.operations.host.program import this_program
    from emulator.wiring import notifiers, real_environment

    if notify is not None:
        notifiers(notify)  # a fault in it is said now, and not in the first bad night
    loaded = load(file)
    changed = enable_nightly(real_environment(), loaded, Timetable(at, delay, reports, notify), this_program())
    timer, service = unit_names(loaded.spec.name)
    say(f"{timer} {'is now' if changed else 'was already'} at work: every night at {at}, up to {delay} minutes later")
    say(f"  systemctl list-timers {timer}; journalctl -u {service}")


@click.command("disable-nightly")
@lab_argument
def disable_nightly(lab: str) -> None:
    """Rebuild LAB (the name in its file) no longer at night. The labs stay."""
    from emulator.operations.host.nightly_timer import disable_nightly
    from emulator.wiring import real_environment

    removed = disable_nightly(real_environment(), lab)
    say(f"{lab}: {'no longer' if removed else 'was not'} rebuilt at night")
