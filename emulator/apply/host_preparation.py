"""The changes made to a host: a fold over the journal of `host prepare` and `host restore`.

Entries: `plan` (ids of the steps of a run), `begin` (a step, the files it touches and their earlier state), `end`
(their new state), `failed` (the reason and the new state), and `restored` (paths and steps that are back in the earlier
state).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from emulator.core.ports.files import FileLook


@dataclass(slots=True)
class Touched:
    """A file that steps have changed.

    Attributes:
        before: the state before the first step.
        after: the state after the last step; None while unknown because a step was interrupted.
        possible: digests that an interrupted step may have left, if known: the content it found and the content it was
            about to write. A command may leave anything.
        exact: nothing else changed the file between two steps, so that restoring `before` is enough.
        written: a step wrote the whole file. A file that a command changed belongs to others.
    """

    before: FileLook
    after: FileLook | None = None
    possible: frozenset[str | None] = frozenset()
    exact: bool = True
    written: bool = False

    def left_by_us(self, look: FileLook) -> bool:
        """Whether `look` is the state that the steps left. If that is unknown, no: it may contain others' changes."""
        return look.digest in self.possible if self.after is None else look == self.after


@dataclass(slots=True)
class DoneStep:
    """A step that was begun; neither `ended` nor `failed` if it was interrupted. `traces`, `sets`: see `Step`."""

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
    """Steps in the order in which they began. `leftover`: planned, but not ended."""

    touched: dict[str, Touched] = field(default_factory=dict)
    steps: dict[str, DoneStep] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    leftover: set[str] = field(default_factory=set)

    @property
    def is_empty(self) -> bool:
        return not (self.steps or self.touched or self.leftover)


def fold(entries: Iterable[Mapping[str, Any]]) -> Record:
    """The record that the journal's entries describe."""
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
    for path, seen in entry["touches"].items():
        _touch(record, path, look_of(seen), entry.get("writes"))
    step = DoneStep(
        entry["step"],
        entry["title"],
        tuple(entry["touches"]),
        frozenset(entry.get("traces", ())),
        tuple(tuple(words) for words in entry["undo"]),
        entry["lasting"],
        entry.get("sets", ""),
    )
    earlier = record.steps.get(step.id)
    if earlier is not None:
        # The state before the first run counts: its undo commands win over those of later runs for the same setting.
        known_subjects = {_subject(words) for words in earlier.undo}
        step.undo = (*earlier.undo, *(words for words in step.undo if _subject(words) not in known_subjects))
        step.lasting = "; ".join(dict.fromkeys(filter(None, (earlier.lasting, step.lasting))))
    record.steps[step.id] = step
    record.made.extend(path for path in entry["made"] if path not in record.made)
    record.leftover.add(step.id)


def _touch(record: Record, path: str, look: FileLook, writes: str | None) -> None:
    """A step that found the file as `look` has begun; it is about to write content of the digest `writes`, if any."""
    known = record.touched.get(path)
    if known is None or known.before == look:
        known = record.touched[path] = Touched(look)
    else:
        known.exact = known.exact and known.left_by_us(look)
    known.after = None
    known.written = known.written or bool(writes)
    known.possible = frozenset((look.digest, writes or look.digest))


def _subject(words: tuple[str, ...]) -> tuple[str, ...]:
    """The setting that a command changes: the command without the value after `=`."""
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
