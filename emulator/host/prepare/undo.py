"""Whether a setting is still as a step left it. Only then it is undone, so that later changes are kept. Pure."""

from __future__ import annotations

from emulator.host.checks.system import INOTIFY_INSTANCES, INOTIFY_KEY
from emulator.host.readings import HostReadings

# Programs that undo steps. A record that names another one was not written by this program.
_PROGRAMS = frozenset({"gpasswd", "sysctl", "systemctl", "update-initramfs", "dracut", "update-grub", "dpkg"})


def is_undoing(words: tuple[str, ...]) -> bool:
    """Whether a recorded command is one that undoes a step."""
    return bool(words) and words[0] in _PROGRAMS


def why_not_undone(words: tuple[str, ...], sets: str, host: HostReadings) -> str | None:
    """The reason not to run a command that undoes a step.

    Args:
        words: the command.
        sets: the `key=value` that the step set; empty if it set none, or if an older record does not have it.

    Returns:
        None to run it; empty if there is nothing to undo; else a sentence about what remains.
    """
    match words:
        case ("gpasswd", "-d", user, group):
            # It fails for a user who is not in the group: an interrupted step may not have added them.
            return None if user in host.groups.get(group, ()) else ""
        case ("sysctl", "-q", "-w", setting):
            return _setting(setting, sets or f"{INOTIFY_KEY}={INOTIFY_INSTANCES}", host)
        case ("systemctl", "disable" | "stop", *_, unit):
            # An enabled unit that does not run is ours, too: some services end when their work is done.
            if host.units.get(unit):
                return None
            return f"{unit}, which has been disabled since" if unit in host.units else ""
    return None


def _setting(setting: str, sets: str, host: HostReadings) -> str | None:
    key, _, before = setting.partition("=")
    now = str(host.limits.inotify_instances) if key == INOTIFY_KEY else None
    if now == sets.partition("=")[2]:
        return None
    return "" if now == before else f"{key}, which has been set to {now} since"
