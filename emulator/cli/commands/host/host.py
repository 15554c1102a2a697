"""hyperscaler host check|prepare|restore|accept-digest, and enable-|disable- of autostart and gateway."""

from __future__ import annotations

import click

from emulator.cli.lazy_group import LazyGroup

_VERBS = {
    "check": "host.check:check",
    "prepare": "host.prepare:prepare",
    "restore": "host.prepare:restore",
    "enable-autostart": "host.autostart:enable_autostart",
    "disable-autostart": "host.autostart:disable_autostart",
    "enable-gateway": "host.gateway:enable_gateway",
    "disable-gateway": "host.gateway:disable_gateway",
    "accept-digest": "host.accept_digest",
}


@click.group("host", cls=LazyGroup, verbs=_VERBS)
def command() -> None:
    """Check and prepare this machine, have labs started with it."""
