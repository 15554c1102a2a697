"""A lab that is rebuilt every night: a timer of systemd's, and the service that it starts.

A line in both units names the lab and its home directory, so that units of others are never touched. A dot is in their
names, which no lab's name has: the unit of a lab `nightly` is another one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emulator.core.errors import ConflictError, UsageError
from emulator.core.paths import Home
from emulator.lab.environment import Environment
from emulator.lab.lab_files import LoadedLab, require_lab_name
from emulator.operations.host.autostart import quoted
from emulator.operations.host.program import Program, require_roots_places

_MARK = "X-Hyperscaler-Nightly="
_AT = re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]")


@dataclass(frozen=True, slots=True)
class Timetable:
    """When and how a lab is rebuilt.

    Attributes:
        at: local time as HH:MM.
        delay_minutes: it begins so much later at most, by chance, so that not all hosts ask one mirror at a time.
        reports: files to write.
        notify: the file that says who is notified of a failure.
    """

    at: str = "02:00"
    delay_minutes: int = 30
    reports: tuple[Path, ...] = ()
    notify: Path | None = None


def unit_names(lab: str) -> tuple[str, str]:
    """The timer and the service of a lab."""
    return f"hyperscaler-nightly.{lab}.timer", f"hyperscaler-nightly.{lab}.service"


def enable_nightly(env: Environment, loaded: LoadedLab, table: Timetable, program: Program) -> bool:
    """Write both units and start the timer; whether anything changed.

    Raises:
        UsageError: not a time of the day.
        HostNotFitError: others than root could change what the unit would run, or this host has no systemd.
        ConflictError: a foreign unit has one of the names.
    """
    lab, file = loaded.spec.name, loaded.file.absolute()
    if not _AT.fullmatch(table.at):
        raise UsageError(f"{table.at!r} is no time of the day", fix="write it as HH:MM, such as 02:30")
    notify = (table.notify.absolute(),) if table.notify is not None else ()
    places = (env.home.root, file, *notify, *(report.absolute().parent for report in table.reports))
    require_roots_places(program, places, when="every night", again=f"host enable-nightly {file}")
    timer, service = unit_names(lab)
    wanted = {service: _service(env, lab, program.path, _words(file, table)), timer: _timer(env, lab, table)}
    for name in wanted:
        _require_ours(env, lab, name)
    if all(env.units.read(name) == text for name, text in wanted.items()) and env.units.is_enabled(timer):
        return False
    env.units.write(service, wanted[service])
    env.units.enable(timer, wanted[timer])
    env.units.start(timer)
    return True


def disable_nightly(env: Environment, lab: str) -> bool:
    """Stop the timer and remove both units; whether there were any. A night that goes on now is not ended.

    Raises:
        ConflictError: a foreign unit has one of the names.
    """
    require_lab_name(lab)
    timer, service = unit_names(lab)
    there = [name for name in (timer, service) if env.units.read(name) is not None]
    for name in there:
        _require_ours(env, lab, name)
    if timer in there:
        env.units.stop(timer)
    for name in there:
        env.units.remove(name)
    return bool(there)


def _words(file: Path, table: Timetable) -> Sequence[str]:
    reports = [word for report in table.reports for word in ("--report", str(report.absolute()))]
    notify = ["--notify", str(table.notify.absolute())] if table.notify is not None else []
    return ["nightly", str(file), *reports, *notify]


def _service(env: Environment, lab: str, program: Path, words: Sequence[str]) -> str:
    # systemd expands variables in the arguments of a command, but not in its path.
    command = [quoted(str(program), variables=False), *map(quoted, words)]
    return f"""\
[Unit]
Description=nightly rebuild of the hyperscaler lab {lab}
{_mark(env, lab)}
Wants=network-online.target
After=network-online.target time-sync.target

[Service]
Type=oneshot
TimeoutStartSec=infinity
Environment={quoted(f"HYPERSCALER_HOME={env.home.root}", variables=False)}
ExecStart={" ".join(command)}
# The lab's own libvirtd and its guests start here and live on.
KillMode=process
UMask=0077
"""


def _timer(env: Environment, lab: str, table: Timetable) -> str:
    return f"""\
[Unit]
Description=nightly rebuild of the hyperscaler lab {lab}
{_mark(env, lab)}

[Timer]
OnCalendar=*-*-* {table.at}:00
RandomizedDelaySec={table.delay_minutes}m
# A night that the host slept through is made up for.
Persistent=true
Unit={unit_names(lab)[1]}

[Install]
WantedBy=timers.target
"""


def _mark(env: Environment, lab: str) -> str:
    # Read back as a whole line; a line break in the home's path is refused by `quoted`.
    return f"{_MARK}{env.home.root} {lab}"


def _require_ours(env: Environment, lab: str, name: str) -> None:
    text = env.units.read(name)
    if text is None:
        return
    marks = [line.removeprefix(_MARK).rpartition(" ") for line in text.splitlines() if line.startswith(_MARK)]
    if not any(named == lab and Home(Path(root)).id == env.home.id for root, _, named in marks):
        raise ConflictError(
            "a unit of this name exists that does not belong to this lab",
            where=name,
            fix=f"look at it with systemctl cat {name}; rename it, or the lab",
        )
