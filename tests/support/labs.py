"""Drives labs through the command, as a person would, and sees what they leave on the host."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from emulator.core.paths import Home

COMMAND = Path(sys.executable).with_name("hyperscaler")


@dataclass(frozen=True)
class Result:
    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        return json.loads(self.stdout)


def hyperscaler(
    *arguments: str | Path, timeout: float = 1500, check: bool = True, within: Sequence[str] = ()
) -> Result:
    """Run the command; its progress goes to the test's own output, so that a CI log shows it.

    `within`: the words before it that run it in other namespaces.
    """
    print(f"$ hyperscaler {' '.join(map(str, arguments))}", flush=True)
    done = subprocess.run(
        [*within, COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )
    print(done.stdout + done.stderr, flush=True)
    if check and done.returncode != 0:
        pytest.fail(f"exit code {done.returncode}: {done.stderr[-3000:]}")
    return Result(done.returncode, done.stdout, done.stderr)


def host_snapshot() -> dict[str, list[str]]:
    """Everything that a lab could leave behind on a host."""

    def lines(*argv: str) -> list[str]:
        return sorted(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines())

    home = Home.default()
    kept = {home.images, home.locks, home.hypervisors}
    files = [
        str(path)
        for top in (home.root.iterdir() if home.root.is_dir() else ())
        if top not in kept and top.name not in ("audit.jsonl", "cache")
        for path in (top, *top.rglob("*"))
        if path != home.labs
    ]
    processes = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue  # ended while we looked
            # The last are Ansible's and ssh's of a lab, which name its directory.
            if any(word in command for word in ("qemu-system", "libvirtd", "dnsmasq", "virtlogd", f"{home.labs}/")):
                processes.append(command)
    # iproute2 makes /run/netns a mount of its own the first time that anybody uses it, and keeps it.
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    mounts = [mount for mount in mounts if mount != "/run/netns"]
    return {
        "namespaces": lines("ip", "netns", "list"),
        "tables": lines("nft", "list", "tables"),
        "links": [line.split(":")[1] for line in lines("ip", "-o", "link")],
        "mounts": sorted(mounts),
        "processes": sorted(processes),
        "files": sorted(files),
        "run": sorted(str(path) for path in Path("/run").glob("*hyperscaler*/**/*")),
    }


def left_behind(before: dict[str, list[str]], after: dict[str, list[str]]) -> dict[str, list[str]]:
    """What came (+) and what went (-) between two snapshots, by kind; empty when the host is as it was."""
    found = {}
    for kind, old in before.items():
        new = after[kind]
        changes = [f"+{item}" for item in new if item not in old] + [f"-{item}" for item in old if item not in new]
        if changes:
            found[kind] = changes
    return found
