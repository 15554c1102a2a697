"""Whether what a step of preparing a host has set is still as it left it: only then its undoing is not somebody's loss.
Pure."""

from __future__ import annotations

from emulator.host.checks.system import INOTIFY_INSTANCES, INOTIFY_KEY
from emulator.host.readings import HostReadings


def why_not_undone(words: tuple[str, ...], sets: str, host: HostReadings) -> str | None:
    """Why a command that undoes a step is not to be run on this host.

    Args:
        words: the command.
        sets: the `key=value` that the step has set; empty where it set none, or an older record does not tell.

    Returns:
        None: run it. Empty: there is nothing to take back. Else what stays, for people.
    """
    match words:
        case ("gpasswd", "-d", user, group):
            # It fails for who is not in the group: a step that was cut off may not have come so far.
            return None if user in host.groups.get(group, ()) else ""
        case ("sysctl", "-q", "-w", setting):
            return _setting(setting, sets or f"{INOTIFY_KEY}={INOTIFY_INSTANCES}", host)
        case ("systemctl", "disable" | "stop", *_, unit):
            # One that is enabled and does not run is ours, too: some end when their work is done.
            if host.units.get(unit):
                return None
            return f"{unit} as it is: it is not enabled any more" if unit in host.units else ""
    return None


def _setting(setting: str, sets: str, host: HostReadings) -> str | None:
    key, _, before = setting.partition("=")
    now = str(host.limits.inotify_instances) if key == INOTIFY_KEY else None
    if now == sets.partition("=")[2]:
        return None
    return "" if now == before else f"{key} as somebody has set it since: {now}"
