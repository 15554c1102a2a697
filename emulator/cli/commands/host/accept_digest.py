"""hyperscaler host accept-digest SUBJECT DIGEST"""

from __future__ import annotations

import click

from emulator.cli.output import say


@click.command("accept-digest")
@click.argument("subject")
@click.argument("digest")
def command(subject: str, digest: str) -> None:
    """Accept an add-on or image that upstream has changed: SUBJECT and DIGEST as the refusal prints them."""
    from emulator.wiring import accept_upstream_digest

    before = accept_upstream_digest(subject, digest)
    was = f", and no longer {before.digest} ({before.since})" if before else ", as before"
    say(f"{subject} is {digest} from now on{was}")
