"""A lab that comes back after a reboot of the host: a systemd unit that provisions the lab's kept file again.

`provision` restores everything in order: GPUs first, then the hypervisor, networks and guests. A line in the unit names
its lab and home directory, so that units of others are never touched.
"""

from __future__ import annotations

from pathlib import Path

from emulator.apply.journal import Journal
from emulator.apply.state import StateStore
from emulator.core.errors import ConflictError, UsageError
from emulator.core.gateway.names import UNIT
from emulator.core.hypervisors import EMBEDDED
from emulator.core.paths import Home
from emulator.core.progress import Reporter
from emulator.core.stop import StopFlag
from emulator.lab.command_log import logged_lock
from emulator.lab.environment import Environment
from emulator.lab.lab_files import load_recorded_lab
from emulator.lab.planning.plan import HYPERVISOR_FACT
from emulator.lab.run import locked_run
from emulator.operations.host.program import Program, require_roots_program

WAIT_SECONDS = 600
"""How long the unit waits for a command that works on the lab."""

_MARK = "X-Hyperscaler-Lab="
_AFTER = ("network-online.target", "time-sync.target", "nvidia-persistenced.service", "nvidia-vgpu-mgr.service", UNIT)
_AFTER_SYSTEM_LIBVIRT = ("libvirtd.service", "virtqemud.socket", "virtnetworkd.socket")


def unit_name(lab: str) -> str:
    return f"hyperscaler-{lab}.service"


def enable_autostart(env: Environment, lab: str, program: Program, reporter: Reporter) -> bool:
    """Write and enable the unit; whether anything changed.

    Args:
        program: this installation.

    Raises:
        HostNotFitError: others than root could change what the unit would run.
        UsageError: there is no such lab, or nothing was ever made of it.
        ConflictError: a foreign unit has this name, or another command works on the lab.
    """
    load_recorded_lab(env.home, lab)
    require_roots_program(program, env.home, lab)
    with locked_run(env, lab, "host enable-autostart", reporter, StopFlag()) as run:
        hypervisor = run.state.facts.get(HYPERVISOR_FACT, "")
        if not hypervisor:
            raise UsageError(f"lab {lab} is not provisioned", fix="hyperscaler provision FILE")
        text = unit_text(env, lab, program.path, hypervisor)
        there = env.units.read(unit_name(lab))
        _require_ours(env, lab, there)
        if there == text and env.units.is_enabled(unit_name(lab)):
            return False
        run.begin()
        env.units.enable(unit_name(lab), text)
        return True


def disable_autostart(env: Environment, lab: str, reporter: Reporter) -> bool:
    """Remove the unit; whether there was one.

    Raises:
        ConflictError: a foreign unit has this name, or another command works on the lab.
    """
    with logged_lock(env.home, lab, "host disable-autostart", reporter, StopFlag()) as log:
        there = env.units.read(unit_name(lab))
        if there is None:
            return False
        _require_ours(env, lab, there)
        if env.home.lab(lab).root.is_dir():
            log.begin(StateStore(Journal(env.home.lab(lab).journal)))
        env.units.remove(unit_name(lab))
        return True


def has_autostart(env: Environment, lab: str) -> bool:
    """Whether a unit of this lab is there."""
    there = env.units.read(unit_name(lab))
    return there is not None and _is_marked(env, lab, there)


def forget_autostart(env: Environment, lab: str) -> None:
    """For `destroy`: remove the unit if it is this lab's."""
    if has_autostart(env, lab):
        env.units.remove(unit_name(lab))


def unit_text(env: Environment, lab: str, program: Path, hypervisor: str) -> str:
    """The unit.

    Raises:
        UsageError: a path holds what a unit file cannot.
    """
    after = " ".join((*_AFTER, *(() if hypervisor == EMBEDDED else _AFTER_SYSTEM_LIBVIRT)))
    words = ("provision", str(env.home.lab(lab).spec), "--yes", "--plain", "--wait", str(WAIT_SECONDS))
    # systemd expands variables in the arguments of a command, but not in its path.
    command = [quoted(str(program), variables=False), *map(quoted, words)]
    return f"""\
[Unit]
Description=hyperscaler lab {lab}
{_mark(env, lab)}
Wants=network-online.target
After={after}

[Service]
# Started once the program runs, not once the lab is verified: nothing else of the boot waits for that.
Type=exec
RemainAfterExit=yes
Environment={quoted(f"HYPERSCALER_HOME={env.home.root}", variables=False)}
ExecStart={" ".join(command)}
# The lab's own libvirtd and its guests start here and live on; `hyperscaler destroy` ends them.
KillMode=process
UMask=0077

[Install]
WantedBy=multi-user.target
"""


def quoted(word: str, *, variables: bool = True) -> str:
    """One word as systemd reads it (systemd.syntax(7), systemd.service(5)).

    Args:
        variables: the place expands `$`, as the arguments of a command do; its path and `Environment=` do not.

    Raises:
        UsageError: it holds a control character.
    """
    if any(ord(character) < 32 or ord(character) == 127 for character in word):
        raise UsageError(
            f"a systemd unit cannot hold the path {word!r}", fix="move it to a path without such characters"
        )
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return '"' + (text.replace("$", "$$") if variables else text) + '"'


def _mark(env: Environment, lab: str) -> str:
    # Only ever read back as a whole line, so that it needs no quoting; a line break in it is refused by `quoted`.
    # The lab's name comes last: a backslash at the end of a line would have systemd take the next one for its part.
    return f"{_MARK}{env.home.root} {lab}"


def _is_marked(env: Environment, lab: str, text: str) -> bool:
    """Whether the unit is this lab's; its home may be named by another path, such as one through a link."""
    marks = [line.removeprefix(_MARK).rpartition(" ") for line in text.splitlines() if line.startswith(_MARK)]
    return any(name == lab and Home(Path(root)).id == env.home.id for root, _, name in marks)


def _require_ours(env: Environment, lab: str, text: str | None) -> None:
    if text is not None and not _is_marked(env, lab, text):
        raise ConflictError(
            "a unit of this name exists that does not belong to this lab",
            where=unit_name(lab),
            fix=f"look at it with systemctl cat {unit_name(lab)}; rename it, or the lab",
        )
