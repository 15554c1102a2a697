"""Nightly: build a lab from nothing, prove it, and only then let go of the last good one.

The file's lab is built under two names in turn, `NAME-a` and `NAME-b`. Where the host holds both, the new one is made
next to the last good one, which goes when the new one is proved. Where it does not, the last good one goes first.
Whatever a night leaves half done, the next one takes away: only labs that are on record as made by nights are ever
destroyed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from emulator.apply.lock import exclusive_lock
from emulator.core.errors import ConflictError, HyperscalerError, InterruptedRunError
from emulator.core.progress import Event, Reporter, Status
from emulator.core.stop import StopFlag
from emulator.guests.verify.report import CheckResult
from emulator.images.store.refs import parse_reference
from emulator.lab.environment import Environment
from emulator.lab.lab_files import LoadedLab
from emulator.operations.destroy import destroy
from emulator.operations.nightly.builds import Builds
from emulator.operations.nightly.model import Good, ImageFacts, Night, PastNight, Place, Record
from emulator.operations.nightly.names import lab_names_of, lab_under
from emulator.operations.nightly.record import read_nights, write_nights
from emulator.operations.nightly.watching import WatchingReporter
from emulator.operations.provision import Options, preview, provision


@dataclass(frozen=True, slots=True)
class NightOptions:
    """How a night goes.

    Attributes:
        rebuild_images: whether golden images are built anew, too.
        place: where to build; None for what the host holds.
        keep_failed: leave a lab that failed as it is, until the next night.
    """

    rebuild_images: bool = True
    place: Place | None = None
    keep_failed: bool = False


@dataclass(slots=True)
class _Night:
    """What is known while a night goes on."""

    env: Environment
    loaded: LoadedLab
    options: NightOptions
    builds: Builds
    reporter: WatchingReporter
    stop: StopFlag
    record: Record
    path: Path
    place: Place = Place.FIRST
    before: Mapping[str, ImageFacts] = field(default_factory=dict)
    images: tuple[ImageFacts, ...] = ()
    checks: tuple[CheckResult, ...] = ()

    @property
    def candidate(self) -> str:
        good = self.record.good
        return next(name for name in lab_names_of(self.loaded.spec.name) if good is None or good.lab != name)

    def keep(self, record: Record) -> None:
        write_nights(self.path, record)
        self.record = record


def nightly(
    env: Environment,
    loaded: LoadedLab,
    options: NightOptions,
    builds: Builds,
    reporter: Reporter,
    stop: StopFlag,
    *,
    now: Callable[[], float] = time.time,
) -> Night:
    """One night. A rebuild that fails is a night that was not good, and is no error of this function.

    Raises:
        ConflictError: another night of this lab goes on.
        InterruptedRunError: a stop was asked for; the next night takes away what is half done.
        StateError: the record of earlier nights is damaged.
    """
    name, path = loaded.spec.name, env.home.nights / f"{loaded.spec.name}.json"
    with exclusive_lock(env.home.host_locks / f"nightly-{name}.lock", purpose=f"nightly {name}"):
        night = _Night(env, loaded, options, builds, WatchingReporter(reporter), stop, read_nights(path), path)
        began, before, history = now(), night.record.good, night.record.nights
        candidate = night.candidate
        error = _rebuild(night, candidate, int(began))
        seconds = round(now() - began, 1)
        phases = night.reporter.phases
        past = PastNight(int(began), error is None, seconds, phases)
        night.keep(replace(night.record, nights=(*night.record.nights, past)))
        return Night(
            name=name,
            file=str(loaded.file),
            candidate=candidate,
            at=int(began),
            seconds=seconds,
            place=night.place,
            phases=phases,
            images=night.images,
            checks=night.checks,
            warnings=night.reporter.warnings,
            error=error.to_json() if error is not None else None,
            kept=night.record.good.lab if night.record.good else "",
            before=before,
            history=history,
        )


def _rebuild(night: _Night, candidate: str, at: int) -> HyperscalerError | None:
    """The night's work; why it failed, or None. After a failure the last good lab and images are what there is."""
    try:
        lab = lab_under(night.loaded, candidate)
        _take_away_leftovers(night)
        _make_images(night)
        night.place = _place(night, lab)
        if night.place is Place.IN_PLACE:
            _let_go(night)
        night.keep(replace(night.record, made=tuple({*night.record.made, candidate})))
        result = provision(night.env, lab, Options(command="nightly"), night.reporter, night.stop)
        night.checks = result.checks
    except InterruptedRunError:
        _give_images_back(night)
        raise
    except HyperscalerError as error:
        _undo(night, candidate)
        return error
    _succeed(night, candidate, at)
    return None


def _succeed(night: _Night, candidate: str, at: int) -> None:
    """The new lab is the good one from here on, whatever becomes of the old one."""
    night.keep(replace(night.record, good=Good(candidate, at, night.images)))
    for facts in night.images:
        _try(night, f"image {facts.name}", partial(night.builds.keep, facts.name, _tag(night)))
    _try(night, "the lab of the last night", partial(_take_away_leftovers, night))


def _undo(night: _Night, candidate: str) -> None:
    _give_images_back(night)
    if not night.options.keep_failed and candidate in night.record.made:
        _try(night, f"lab {candidate}", partial(_destroy, night, candidate))


def _give_images_back(night: _Night) -> None:
    for facts in night.images:
        before = night.before.get(facts.name)
        if before is not None and before.digest != facts.digest:
            _try(night, f"image {facts.name}", partial(night.builds.give_back, facts.name, before))


def _try(night: _Night, what: str, act: Callable[[], None]) -> None:
    """What comes after the night's own result: a failure is warned of."""
    try:
        act()
    except HyperscalerError as error:
        night.reporter.warn(f"{what}: {error}")


def _take_away_leftovers(night: _Night) -> None:
    """Labs of earlier nights other than the good one.

    Raises:
        ConflictError: a lab has one of the names and was not made by a night.
    """
    good = night.record.good.lab if night.record.good else ""
    for name in lab_names_of(night.loaded.spec.name):
        if name in night.record.made and name != good:
            _destroy(night, name)
        elif name not in night.record.made and night.env.home.lab(name).root.exists():
            raise ConflictError(
                f"there is a lab {name}, which no nightly rebuild has made",
                where=str(night.env.home.lab(name).root),
                fix=f"give the lab in {night.loaded.file} another name, or destroy {name} yourself",
            )


def _let_go(night: _Night) -> None:
    """Destroy the last good lab, to have its place. From here on there is none."""
    good = night.record.good
    if good is not None:
        night.keep(replace(night.record, good=None))
        _destroy(night, good.lab)


def _destroy(night: _Night, name: str) -> None:
    destroy(night.env, name, night.reporter, night.stop, confirm=lambda _plan: True, missing_ok=True)
    night.keep(replace(night.record, made=tuple(each for each in night.record.made if each != name)))


def _make_images(night: _Night) -> None:
    names = sorted({night.loaded.spec.images.of(kind) for kind in night.loaded.spec.clusters})
    night.before = {name: facts for name in names if (facts := night.builds.facts(name)) is not None}
    for name in names:
        reference = parse_reference(name)
        if not night.options.rebuild_images or (reference is not None and reference.fixed):
            facts = night.before.get(name)
        else:
            facts = _build(night, name)
        night.images = (*night.images, facts) if facts is not None else night.images


def _build(night: _Night, name: str) -> ImageFacts:
    if night.stop.is_set():
        raise InterruptedRunError("stopped on request before an image was built", fix="run the same command again")
    night.reporter.event(Event("image", name, Status.STARTED, "built from today's packages"))
    facts = night.builds.rebuild(name, lambda line: night.reporter.event(Event("image", name, Status.RUNNING, line)))
    night.reporter.event(Event("image", name, Status.DONE, facts.digest[:12]))
    return facts


def _place(night: _Night, lab: LoadedLab) -> Place:
    """Where the new lab goes: next to the good one if this host holds both."""
    if night.record.good is None:
        return Place.FIRST
    if night.options.place is not None:
        return night.options.place
    try:
        plan = preview(night.env, lab, night.reporter)
    except HyperscalerError as error:
        why = error.what
    else:
        if not plan.blockers:
            return Place.NEXT_TO
        why = plan.blockers[0].what
    night.reporter.warn(f"the last good lab {night.record.good.lab} is rebuilt in its place, not next to it: {why}")
    return Place.IN_PLACE


def _tag(night: _Night) -> str:
    return f"nightly-{night.loaded.spec.name}"
