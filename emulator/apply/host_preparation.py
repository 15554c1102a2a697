"""The record of what was done to a host: a fold over the journal of `host prepare` and `host restore`.

Entries: `plan` (ids of the steps of a run), `begin` (a step, what it touches and how that was before), `end` (how it
is now), `failed` (why, and how it is now), and `restored` (paths and steps that are back as they were).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from emulator.core.file_ports import FileLook


@dataclass(slots=True)
class Touched:
    """A file that steps have written.

    Attributes:
        before: what was there before the first of them.
        after: what the last one left; None while it is not known, because a step was cut off.
        possible: digests that the step that was cut off can have left, as far as that is known: what it found, and
            what it was about to write. A command may leave anything.
        exact: nobody else has changed it between two steps, so that `before` is all that is to be put back.
        written: a step wrote it itself, as a whole. What a command changed is others' file.
    """

    before: FileLook
    after: FileLook | None = None
    possible: frozenset[str | None] = frozenset()
    exact: bool = True
    written: bool = False

    def left_by_us(self, look: FileLook) -> bool:
        """Whether `look` is how the steps have left it. Not knowing is no: it may have others' changes."""
        return look.digest in self.possible if self.after is None else look == self.after


@dataclass(slots=True)
class DoneStep:
    """A step that has begun. Neither `ended` nor `failed`: it was cut off. `traces`, `sets`: see `Step`."""

    id: str
    title: str
    paths: tuple[str, ...]
    traces: frozenset[str]
    undo: tuple[tuple[str, ...], ...]
    lasting: str
    sets: str = ""
    ended: bool = False
    failed: bool = False


@dataclass(slots=True)
class Record:
    """What stands done, in the order in which it was begun. `leftover`: planned, and not ended."""

    touched: dict[str, Touched] = field(default_factory=dict)
    steps: dict[str, DoneStep] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    leftover: set[str] = field(default_factory=set)

    @property
    def is_empty(self) -> bool:
        return not (self.steps or self.touched or self.leftover)


def fold(entries: Iterable[Mapping[str, Any]]) -> Record:
    """The record as the journal's entries tell it."""
    record = Record()
    for entry in entries:
        match entry.get("type"):
            case "plan":
                record.leftover |= set(entry["steps"])
            case "begin":
                _begin(record, entry)
            case "end":
                _end(record, entry)
            case "restored":
                _restored(record, entry)
            case "failed":
                _looked(record, entry)
                record.steps[entry["step"]].failed = True
    return record


def _begin(record: Record, entry: Mapping[str, Any]) -> None:
    paths = []
    for path, seen in entry["touches"].items():
        paths.append(path)
        look = look_of(seen)
        known = record.touched.get(path)
        if known is None or known.before == look:
            known = record.touched[path] = Touched(look)
        else:
            known.exact = known.exact and known.left_by_us(look)
        known.after = None
        known.written = known.written or bool(entry.get("writes"))
        known.possible = frozenset((look.digest, entry.get("writes") or look.digest))
    step = DoneStep(
        entry["step"],
        entry["title"],
        tuple(paths),
        frozenset(entry.get("traces", ())),
        tuple(tuple(words) for words in entry["undo"]),
        entry["lasting"],
        entry.get("sets", ""),
    )
    earlier = record.steps.get(step.id)
    if earlier is not None:
        # How things were before the first run counts: its commands win over those of later runs about the same thing.
        known_subjects = {_subject(words) for words in earlier.undo}
        step.undo = (*earlier.undo, *(words for words in step.undo if _subject(words) not in known_subjects))
        step.lasting = "; ".join(dict.fromkeys(filter(None, (earlier.lasting, step.lasting))))
    record.steps[step.id] = step
    record.made.extend(path for path in entry["made"] if path not in record.made)
    record.leftover.add(step.id)


def _subject(words: tuple[str, ...]) -> tuple[str, ...]:
    """What a command is about: all of it but the value after `=`."""
    return tuple(word.partition("=")[0] for word in words)


def _looked(record: Record, entry: Mapping[str, Any]) -> None:
    for path, seen in entry.get("after", {}).items():
        record.touched[path].after = look_of(seen)


def _end(record: Record, entry: Mapping[str, Any]) -> None:
    _looked(record, entry)
    record.steps[entry["step"]].ended = True
    record.leftover.discard(entry["step"])


def _restored(record: Record, entry: Mapping[str, Any]) -> None:
    for path in entry["paths"]:
        record.touched.pop(path, None)
    for step in entry["steps"]:
        record.steps.pop(step, None)
        record.leftover.discard(step)
    if entry.get("all"):
        record.leftover.clear()
        record.made.clear()


def look_to_json(look: FileLook) -> list[object]:
    return [look.digest, look.mode, look.uid, look.gid, look.mtime_ns]


def look_of(data: Any) -> FileLook:
    digest, mode, uid, gid, mtime = data
    return FileLook(digest, mode, uid, gid, mtime)
