"""hyperscaler host enable-gateway, hyperscaler host disable-gateway"""

from __future__ import annotations

import click

from emulator.cli.output import say
from emulator.cli.render.progress import reporting
from emulator.core.gateway.names import DEFAULT_PORT


@click.command("enable-gateway")
@click.option("--address", default="", help="How users find this host: a name or an address. Default: its own name.")
@click.option("--port", default=DEFAULT_PORT, show_default=True, help="Of the gateway.")
@click.option("--listen", default="", help="Take connections at this address of the host alone. Default: at all.")
def enable_gateway(address: str, port: int, listen: str) -> None:
    """Let users of labs in from their own machines, by an ssh server of its own.

    It lets nobody onto this host. Labs say access.gateway: true in their file.
    """
    import socket

    from emulator.operations.host.gateway import GatewaySettings, enable_gateway
    from emulator.operations.host.program import this_program
    from emulator.wiring import gateway_of_host

    settings = GatewaySettings(address or socket.getfqdn(), port, listen)
    with reporting(live=False) as reporter:
        done = enable_gateway(gateway_of_host(), settings, this_program(), reporter)
    say(f"The gateway runs; users find it at {done.door.address}, port {done.door.port}.")
    say(f"  Its host key: {done.door.host_key}")
    if not done.started_with_host:
        say("  This host has no systemd: run the same command again after a reboot.")


@click.command("disable-gateway")
def disable_gateway() -> None:
    """Close the gateway, and end all connections that go through it. Labs run on."""
    from emulator.operations.host.gateway import disable_gateway
    from emulator.wiring import gateway_of_host

    with reporting(live=False) as reporter:
        there = disable_gateway(gateway_of_host(), reporter)
    say("The gateway is off." if there else "There was no gateway.")
