"""systemd units of a node: they run, with the files that are on the disk, and answer."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, TypedDict

from ansible.module_utils.node_command import NodeStateError, run
from ansible.module_utils.node_files import last_change
from ansible.module_utils.pace import Watch

UNIT_PROPERTIES = (
    "Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload,ExecMainStartTimestamp,SubState,MainPID,CPUUsageNSec"
)


class Unit(TypedDict):
    name: str
    enabled: bool | None
    state: Literal["started", "stopped", "kept"]
    reads: list[str]
    listen: int | None


def parse_units(text: str) -> dict[str, dict[str, str]]:
    """`systemctl show` output: blocks of KEY=VALUE lines, one block per unit, by unit name."""
    units = {}
    for block in text.split("\n\n"):
        fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in fields:
            units[fields["Id"]] = fields
    return units


def start_time(text: str) -> float:
    """Seconds since the epoch of systemd's `Mon 2026-11-23 19:06:06.123456 UTC`; 0 for a unit that never started, or
    whose start cannot be read: it is started anew then."""
    words = text.split()
    if len(words) < 3:
        return 0.0
    form = "%Y-%m-%d %H:%M:%S.%f" if "." in words[2] else "%Y-%m-%d %H:%M:%S"
    try:
        return datetime.strptime(f"{words[1]} {words[2]}", form).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def unit_action(unit: Unit, seen: Mapping[str, str], changed_at: float) -> str:
    """What to do with a unit: `start`, `restart`, `try-restart`, `stop` or nothing (an empty string)."""
    running = seen.get("ActiveState") in ("active", "activating", "reloading")
    if unit["state"] == "stopped":
        return "stop" if running or seen.get("ActiveState") == "failed" else ""
    if not running:
        return "start" if unit["state"] == "started" else ""
    if "ExecMainStartTimestamp" not in seen:
        return ""  # a timer, say, has no process that could have read an old file
    if start_time(seen["ExecMainStartTimestamp"]) > changed_at:
        return ""
    # A kept one may have been stopped since we looked.
    return "restart" if unit["state"] == "started" else "try-restart"


def show_units(names: Sequence[str]) -> dict[str, dict[str, str]]:
    return parse_units(run(["systemctl", "show", "--timestamp=us+utc", "--property", UNIT_PROPERTIES, *names]))


def listening_ports() -> set[int]:
    """TCP ports with a listener."""
    ports: set[int] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii", errors="replace") as stream:
                ports |= parse_ports(stream.read())
        except FileNotFoundError:
            continue
    return ports


def parse_ports(text: str) -> set[int]:
    """Ports of the sockets in state LISTEN (0A) in /proc/net/tcp; a line that is none of a socket is left out."""
    rows = (re.match(r"\s*\d+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:[0-9A-F]{4} 0A\s", row) for row in text.splitlines())
    return {int(row.group(1), 16) for row in rows if row}


def full_name(unit: Unit) -> str:
    name = unit["name"]
    return name if "." in name else f"{name}.service"


def converge_units(units: Sequence[Unit], timeout: float, *, check: bool) -> list[str]:
    """Bring the units to their state one after the other, in the order given: each may count on those before it."""
    names = [full_name(unit) for unit in units]
    seen = show_units(names)
    if any(fields.get("NeedDaemonReload") == "yes" for fields in seen.values()) and not check:
        run(["systemctl", "daemon-reload"])
        seen = show_units(names)
    changes = []
    present = []
    for unit, name in zip(units, names, strict=True):
        fields = seen.get(name, {})
        if fields.get("LoadState") == "loaded":
            present.append((unit, name, fields))
        elif unit["state"] == "started":
            raise NodeStateError(f"{name} is not installed here (systemd says {fields.get('LoadState', 'nothing')})")
    for verb, wanted in (("enable", True), ("disable", False)):
        todo = [name for unit, name, fields in present if unit["enabled"] is wanted and differs_from(fields, wanted)]
        if todo and not check:
            run(["systemctl", "--no-reload", verb, *todo])
        changes += [f"{name} {verb}d" for name in todo]
    for unit, name, fields in present:
        action = unit_action(unit, fields, last_change(unit["reads"]))
        if action:
            changes.append(f"{name} {action}")
        if check or (not action and fields.get("ActiveState") in ("active", "inactive") and answers(unit)):
            continue
        if action:
            systemctl(action, name, timeout)
        if unit["state"] == "started":
            wait_until_up(unit, name, timeout)
    return changes


def differs_from(fields: Mapping[str, str], enabled: bool) -> bool:
    """Whether the unit file is not enabled (or disabled) as wanted; static units are neither."""
    state = fields.get("UnitFileState")
    return state not in ("static", "alias", "indirect") and (state == "enabled") is not enabled


def systemctl(verb: str, name: str, timeout: float) -> None:
    try:
        if verb != "stop":
            # A unit that failed too often refuses to start until its counter is cleared.
            subprocess.run(["systemctl", "reset-failed", name], capture_output=True, check=False)
        run(["systemctl", verb, name], timeout=timeout)
    except (NodeStateError, subprocess.TimeoutExpired) as error:
        raise NodeStateError(f"{error}\n{journal_of(name)}") from error


def answers(unit: Unit) -> bool:
    return unit["listen"] is None or unit["listen"] in listening_ports()


def wait_until_up(unit: Unit, name: str, timeout: float) -> None:
    """Until the unit is active and its port answers. A service of Type=simple is `active` at once, even if it is
    about to give up, so the port is the real sign."""
    watch = Watch(timeout)
    while True:
        seen = show_units([name]).get(name, {})
        state = seen.get("ActiveState", "")
        if state in ("failed", "inactive"):
            raise NodeStateError(f"{name} did not stay up\n{journal_of(name)}")
        if state == "active" and answers(unit):
            return
        # Its processes come and go, or it uses the processor: it is at work.
        if given_up := watch.over((state, seen.get("SubState"), seen.get("MainPID"), work_of(seen))):
            raise NodeStateError(f"{name} is not up {given_up}\n{journal_of(name)}")
        time.sleep(0.2)


def work_of(seen: Mapping[str, str]) -> int:
    """Whole seconds of processor time that the unit has used; 0 where systemd does not count it."""
    text = seen.get("CPUUsageNSec", "")
    return int(text) // 10**9 if text.isascii() and text.isdigit() and len(text) < 19 else 0


def journal_of(name: str) -> str:
    """The last lines of the unit's journal, so that the operator need not log in to see them."""
    argv = ["journalctl", "--no-pager", "--output=cat", "--lines=15", "--unit", name]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip()
