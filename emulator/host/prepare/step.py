"""One step that prepares a host, as data."""

from __future__ import annotations

from dataclasses import dataclass

HEADER = "# Written by `hyperscaler host prepare`; `hyperscaler host restore` takes it away.\n"
# Seconds.
_QUICK = 120.0


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: a file to write, or a command to run.

    Attributes:
        id: names it in the journal; the same for the same thing in every run.
        path: the file to write with `content`; empty for a command.
        argv: the command; empty for a file.
        first: commands that run before it, and may fail.
        timeout: of the command, seconds.
        touches: files that the command writes, except those that it generates from others.
        traces: files that the command leaves next to them and that carry no information of their own: old copies,
            locks, unfinished files.
        undo: commands that undo the step. They run unless every touched file could be put back as it was.
        sets: the `key=value` that the command sets; it is undone only while it still has that value.
        lasting: a sentence about what remains after the step was undone; empty if nothing does.
        optional: whether labs run without it, so that it may fail.
    """

    id: str
    title: str
    why: str
    path: str = ""
    content: str = ""
    argv: tuple[str, ...] = ()
    first: tuple[tuple[str, ...], ...] = ()
    timeout: float = _QUICK
    touches: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()
    undo: tuple[tuple[str, ...], ...] = ()
    sets: str = ""
    lasting: str = ""
    optional: bool = False
