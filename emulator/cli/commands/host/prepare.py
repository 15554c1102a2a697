"""hyperscaler host prepare, hyperscaler host restore"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from emulator.cli.output import json_option, print_json, say
from emulator.cli.render.progress import reporting
from emulator.core.errors import ExitCode, HostNotFitError

if TYPE_CHECKING:
    from emulator.host.prepare.steps import PreparationPlan
    from emulator.operations.host.record import Outcome, PreparedHost


@click.command("prepare")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and change nothing.")
@click.option(
    "--gpus/--no-gpus", default=None, help="Prepare for real GPUs, or not.  [default: if there are NVIDIA GPUs]"
)
@click.option("--user", help="User who is to use libvirt and KVM without being root.  [default: who called sudo]")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def prepare(*, dry_run: bool, gpus: bool | None, user: str | None, yes: bool, as_json: bool) -> None:
    """Set this machine up to run labs.

    Installs packages, keeps nouveau away from GPUs, switches the IOMMU on, sets limits, loads modules, starts services
    and adds you to groups: only what is needed, each file copied first. `host restore` puts everything back.
    """
    from emulator.cli.options import confirmed
    from emulator.cli.render.host_prepare import outcome_json, outcome_text, plan_json, plan_text
    from emulator.cli.signals import stop_on_signals
    from emulator.operations.host import prepare as app

    host = _host(dry=dry_run)
    wish = app.Wish(user or os.environ.get("SUDO_USER") or None, gpus)
    plan = app.plan(host, wish)
    if dry_run:
        _say(plan_json(plan), plan_text(plan), as_json=as_json)
        return
    app.require_preparable(plan)
    if plan.steps:
        say(plan_text(plan, manual=False), err=True, wrap=False)
        if not confirmed("Do this?", yes=yes):
            return
    outcome = _nothing(plan)
    if plan.steps:
        with stop_on_signals() as stop, reporting(live=False) as reporter:
            outcome = app.prepare(host, wish, reporter, stop=stop)
    _say(outcome_json(outcome), outcome_text(outcome, "done"), as_json=as_json)
    sys.exit(ExitCode.FAILED if outcome.failed else ExitCode.DONE)


@click.command("restore")
@click.option(
    "--force",
    is_flag=True,
    help="Put files that prepare wrote back though others have changed them, and keep theirs aside.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def restore(*, force: bool, yes: bool, as_json: bool) -> None:
    """Undo what `host prepare` did to this machine."""
    from emulator.cli.options import confirmed
    from emulator.cli.render.host_prepare import outcome_json, outcome_text
    from emulator.cli.signals import stop_on_signals
    from emulator.operations.host.record import standing
    from emulator.operations.host.restore import restore as take_back

    host = _host(dry=False)
    titles = standing(host)
    if titles:
        say("to take back: " + "; ".join(titles), err=True)
        if not confirmed("Put all of this back as it was?", yes=yes):
            return
    with stop_on_signals() as stop, reporting(live=False) as reporter:
        outcome = take_back(host, reporter, force=force, stop=stop)
    _say(outcome_json(outcome), outcome_text(outcome, "back"), as_json=as_json)
    sys.exit(ExitCode.FAILED if outcome.failed else ExitCode.DONE)


def _host(*, dry: bool) -> PreparedHost:
    from emulator.wiring import this_host

    if os.geteuid() != 0 and not dry:
        raise HostNotFitError("only root can change this machine", fix=f"sudo {' '.join(sys.argv)}")
    return this_host()


def _nothing(plan: PreparationPlan) -> Outcome:
    from emulator.operations.host.record import Outcome

    return Outcome(plan=plan)


def _say(data: dict[str, object], text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(data)
    else:
        say(text)
