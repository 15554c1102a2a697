"""hyperscaler host check|prepare|restore|accept-digest, and enable-|disable- of autostart, gateway and nightly."""

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
    "enable-nightly": "host.nightly:enable_nightly",
    "disable-nightly": "host.nightly:disable_nightly",
    "accept-digest": "host.accept_digest",
}


@click.group("host", cls=LazyGroup, verbs=_VERBS)
def command() -> None:
    """Check and prepare this machine, have labs started with it or rebuilt at night."""
