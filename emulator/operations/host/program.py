"""The installed program as a thing that root runs: who could change it.

A program that was changed cannot be the one that refuses to run, so root is only warned of it at the start. A unit is
another matter: it is written while the program is looked at, and runs later, with nobody there to read a warning. One
that an earlier version wrote ends at its start, while the program still is what it was.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from emulator.core.data_files import REQUIRED, share_dir
from emulator.core.errors import HostNotFitError
from emulator.core.paths import Home
from emulator.core.trust.caller import caller_uid
from emulator.core.trust.owners import exposed_to_others, owned_by_others, require_roots

_MOST_NAMED = 8
_INSTALL = (
    "install a copy that is root's alone, for example: sudo python3 -m venv /opt/hyperscaler && sudo "
    "/opt/hyperscaler/bin/pip install 'WHEEL[host]' (make wheel makes WHEEL; pipx as root does, too); then, as root: "
    "/opt/hyperscaler/bin/hyperscaler"
)


@dataclass(frozen=True, slots=True)
class Program:
    """An installation.

    Attributes:
        path: what is run.
        files: what else must be root's, with the way to it, such as the interpreter.
        trees: directories of which everything may be run or read as a playbook.
    """

    path: Path
    files: tuple[Path, ...] = ()
    trees: tuple[Path, ...] = ()


def this_program() -> Program:
    """The one that runs now: command, interpreter, all from which Python imports, and its data files."""
    share = share_dir()
    data = tuple(share / name for name in (*REQUIRED, "packer", "scripts"))
    imports = tuple(Path(entry) for entry in sys.path if entry)
    return Program(
        Path(sys.argv[0]).absolute(),
        files=(Path(sys.executable), Path(sys.prefix), Path(sys.base_prefix)),
        trees=(Path(__file__).parents[2], *data, *imports),
    )


def require_roots_program(program: Program, home: Home, lab: str) -> None:
    """Refuse to have root run what others could change: program, interpreter, checkout, or the lab's own files.

    Raises:
        HostNotFitError: names each place with its owner.
    """
    paths = home.lab(lab)
    places = (home.root, paths.root, paths.spec, paths.journal)
    require_roots_places(program, places, when="at every start of this machine", again=f"host enable-autostart {lab}")


def require_roots_places(program: Program, places: Iterable[Path], *, when: str, again: str) -> None:
    """Refuse to have root run a program, or use these places, if others could change them.

    Args:
        program: an installation.
        places: files and directories that it uses.
        when: root would do so, in words.
        again: the words of the command that asked, to be run from another installation.

    Raises:
        HostNotFitError: names each place with its owner.
    """
    if os.geteuid() != 0:
        return
    found = exposed_to_others((program.path, *program.files, *places), program.trees)
    if not found:
        return
    more = [f"and {len(found) - _MOST_NAMED} more"] if len(found) > _MOST_NAMED else []
    raise HostNotFitError(
        f"root would run {when} what others can change:\n    " + "\n    ".join([*map(str, found[:_MOST_NAMED]), *more]),
        where=str(program.path),
        fix=f"{_INSTALL} {again}",
    )


def require_roots_start(environment: Mapping[str, str] = os.environ) -> str:
    """Before root does anything: whose program and whose home directory this is. Returns what `doubt_about_program`
    says, for the terminal.

    Raises:
        ConflictError: others control the home directory.
        HostNotFitError: there is a doubt and nobody to read it, since systemd started this process.
    """
    doubt = doubt_about_program()
    if doubt and os.getppid() == 1 and "INVOCATION_ID" in environment:  # systemd.exec(5)
        raise HostNotFitError(doubt, fix="host enable-autostart from there writes the unit anew")
    # As it is written: `Home.default` resolves links, which their owners could turn later.
    require_roots(Path(environment.get("HYPERSCALER_HOME") or Home.system().root), what="home directory")
    return doubt


def doubt_about_program() -> str:
    """For root: that the program which runs now belongs neither to root nor to the person who became root,
    in words; empty where it does not."""
    if os.geteuid() != 0:
        return ""
    places = (Path(sys.argv[0]).absolute(), Path(sys.executable), Path(__file__))
    found = owned_by_others(places, {caller_uid()})
    if not found:
        return ""
    return f"root runs a program that another user could have changed ({found[0]}); {_INSTALL}"
