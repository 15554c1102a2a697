"""hyperscaler image build|list|show|verify|tag|untag|rollback|sign|vulnerabilities|packer-files|import|rm|gc"""

from __future__ import annotations

import click

from emulator.cli.lazy_group import LazyGroup

_VERBS = {
    "build": "images.build",
    "list": "images.list_images",
    "show": "images.show",
    "verify": "images.verify",
    "tag": "images.tag",
    "untag": "images.untag",
    "rollback": "images.rollback",
    "sign": "images.sign",
    "vulnerabilities": "images.vulnerabilities",
    "packer-files": "images.packer_files",
    "import": "images.import_disk",
    "rm": "images.rm",
    "gc": "images.gc",
}


@click.group("image", cls=LazyGroup, verbs=_VERBS)
def command() -> None:
    """Build, list and remove golden images. Labs share them; one that a lab's disk is based on is never removed."""
