"""hyperscaler host check|prepare|restore|enable-autostart|enable-nightly|accept-digest, and their opposites"""

from __future__ import annotations

import click

from emulator.cli.lazy_group import LazyGroup

_VERBS = {
    "check": "host.check:check",
    "prepare": "host.prepare:prepare",
    "restore": "host.prepare:restore",
    "enable-autostart": "host.autostart:enable_autostart",
    "disable-autostart": "host.autostart:disable_autostart",
    "enable-nightly": "host.nightly:enable_nightly",
    "disable-nightly": "host.nightly:disable_nightly",
    "accept-digest": "host.accept_digest",
}


@click.group("host", cls=LazyGroup, verbs=_VERBS)
def command() -> None:
    """Check and prepare this machine, have labs started with it or rebuilt at night."""
