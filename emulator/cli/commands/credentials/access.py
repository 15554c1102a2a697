"""hyperscaler access add|list|revoke"""

from __future__ import annotations

from pathlib import Path

import click

from emulator.cli.lazy_group import VerbsGroup
from emulator.cli.options import lab_argument, needs_host, wait_option
from emulator.cli.output import json_option, print_json, say
from emulator.cli.render.progress import reporting
from emulator.cli.render.run_log import run_log
from emulator.cli.render.tables import show as show_table
from emulator.cli.signals import stop_on_signals
from emulator.core import ids
from emulator.core.errors import UsageError

user_argument = click.argument("user")


@click.group("access", cls=VerbsGroup)
def command() -> None:
    """Give people access to a lab for a limited time, and revoke it."""


@command.command("add")
@lab_argument
@user_argument
@click.option("--role", type=click.Choice(["student", "admin"]), default="student", show_default=True)
@click.option("--ttl", default="8h", show_default=True, metavar="TIME", help="How long: 45m, 8h, 30d.")
@click.option(
    "--node",
    "nodes",
    multiple=True,
    metavar="NODE",
    help="Only this node; may be given several times. Without it: all for an admin, for a student the login nodes and"
    " the heads of clusters without any.",
)
@click.option(
    "--public-key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The user's own key (.pub); otherwise a key pair is made.",
)
@wait_option
@json_option
@needs_host
def add(
    lab: str,
    user: str,
    *,
    role: str,
    ttl: str,
    nodes: tuple[str, ...],
    public_key: Path | None,
    wait_seconds: float,
    as_json: bool,
) -> None:
    """Give USER an account on the nodes of LAB and a certificate that expires.

    Run it again for a longer time or another role.
    """
    from emulator.cli.render.access import until, user_json
    from emulator.credentials.users import AccessRole, check_public_key, parse_ttl
    from emulator.operations.credentials.access import GrantRequest, grant
    from emulator.wiring import real_environment

    key = "" if public_key is None else check_public_key(_read(public_key))
    request = GrantRequest(user, AccessRole(role), parse_ttl(ttl), nodes, key)
    env = real_environment()
    with (
        stop_on_signals() as stop,
        run_log(env.home.lab(lab).logs, "access"),
        reporting(live=True) as reporter,
    ):
        granted = grant(env, lab, request, reporter, stop, wait_seconds=wait_seconds)
    if as_json:
        print_json(
            {
                "version": 1,
                "lab": lab,
                "user": user_json(granted.user),
                "directory": str(granted.directory),
                "archive": str(granted.archive),
            }
        )
        return
    say(f"{user} may use {', '.join(granted.user.nodes) or 'all nodes'} of {lab} as {role}, {until(granted.user)}.")
    home, node = ids.handout_home(lab), next(iter(granted.user.nodes), "NODE")
    say(f"Hand over this archive: {granted.archive}")
    say(f"  {user} unpacks it (tar -xzf, in ~/.ssh) and logs in with: cd {home}, then ssh -F config {node}")
    say(f"  or, with the line `Include {home}/config` at the top of ~/.ssh/config: ssh {node}")
    if granted.kubectl_on:
        say(f"  on {granted.kubectl_on} kubectl is ready: kubectl get pods")
    if granted.namespaced:
        say("  The nodes are in a network of the lab's own: all this works for root of this host only.")


@command.command("list")
@lab_argument
@json_option
def show(lab: str, *, as_json: bool) -> None:
    """List who has, or had, access to LAB."""
    from emulator.cli.render.access import user_json, users_table
    from emulator.operations.credentials.access import list_users
    from emulator.wiring import real_environment

    users = list_users(real_environment(), lab)
    if as_json:
        print_json({"version": 1, "lab": lab, "users": [user_json(user) for user in users]})
    elif not users:
        say(f"nobody but you has access to {lab}; hyperscaler access add {lab} USER gives it")
    else:
        show_table(users_table(users))


@command.command("revoke")
@lab_argument
@user_argument
@wait_option
@json_option
@needs_host
def revoke(lab: str, user: str, *, wait_seconds: float, as_json: bool) -> None:
    """Revoke the access of USER to LAB at once: keys, account, running jobs. Files stay."""
    from emulator.cli.render.access import user_json
    from emulator.operations.credentials.access import revoke
    from emulator.wiring import real_environment

    env = real_environment()
    with (
        stop_on_signals() as stop,
        run_log(env.home.lab(lab).logs, "access"),
        reporting(live=True) as reporter,
    ):
        gone = revoke(env, lab, user, reporter, stop, wait_seconds=wait_seconds)
    if as_json:
        seen = [{"secret": each.name, "rotate": each.rotated_by} for each in gone.seen]
        print_json({"version": 1, "lab": lab, "user": user_json(gone.user), "seen_secrets": seen})
        return
    say(f"{user} has no access to {lab} any more.")
    if gone.seen:
        say(f"As an admin {user} could read, and copy, secrets that stay good until they are replaced:")
    for each in gone.seen:
        by = f"hyperscaler rotate {lab} {each.rotated_by}" if each.rotated_by else each.otherwise
        say(f"  {each.name}\n    replaced by: {by}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")[:16384]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("cannot be read as a public key", where=str(path)) from error
