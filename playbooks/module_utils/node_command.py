"""Runs the programs of a node for its modules."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from ansible.module_utils.pace import seconds


class NodeStateError(Exception):
    """Something that the playbook asks for cannot be had; the text is for the operator."""


def run(argv: Sequence[str], timeout: float = 120) -> str:
    """Run a command; its output. A failure becomes NodeStateError with what the command said."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds(timeout), check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise NodeStateError(f"{' '.join(argv)} ended with status {done.returncode}: {said}")
    return done.stdout
