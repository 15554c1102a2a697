"""Nights: the last good lab stays until another is proved, and only what nights made is ever destroyed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from emulator.apply.lock import exclusive_lock
from emulator.core.debian.releases import image_of
from emulator.core.errors import ConflictError, HostNotFitError, HyperscalerError, InterruptedRunError, StateError
from emulator.core.stop import StopFlag
from emulator.lab.lab_files import load_recorded_lab
from emulator.operations.nightly import rebuild
from emulator.operations.nightly.model import Place
from tests.support.nights import Nights
from tests.support.simulated_world import LAB, SimulatedHost, lab_text

IMAGE = image_of("hpc-base", None)

FIRST, SECOND = f"{LAB}-a", f"{LAB}-b"


@pytest.fixture
def nights(host: SimulatedHost) -> Nights:
    return Nights(host)


def failing(*calls: str, error: BaseException | None = None) -> Callable[[str], None]:
    def before(call: str) -> None:
        if call in calls:
            raise error or HyperscalerError("a node \x1b[31mburns", where="hpc-controller", fix="put it out")

    return before


def heal(nights: Nights) -> None:
    nights.host.hook.before = lambda _call: None


def test_nights_take_turns(nights: Nights) -> None:
    first = nights.run()
    assert (first.good, first.candidate, first.place, first.kept) == (True, FIRST, Place.FIRST, FIRST)
    assert nights.labs == [FIRST]
    assert load_recorded_lab(nights.host.home, FIRST).spec.name == FIRST
    second = nights.run()
    assert (second.good, second.candidate, second.place, second.kept) == (True, SECOND, Place.NEXT_TO, SECOND)
    assert nights.labs == [SECOND]
    assert second.before is not None
    assert second.before.lab == FIRST
    assert [each.good for each in second.history] == [True]
    third = nights.run()
    assert (third.candidate, nights.labs) == (FIRST, [FIRST])
    assert nights.record.made == (FIRST,)


def test_a_good_night_knows_images_checks_and_phases(nights: Nights) -> None:
    night = nights.run()
    assert [each.name for each in night.images] == [IMAGE]
    assert nights.builds.kept == {"nightly-demo": night.images[0].digest}
    assert night.checks
    assert all(each.ok for each in night.checks)
    assert {"image", "plan"} < set(night.phases)
    assert night.seconds >= 0


def test_a_failure_leaves_the_last_good_lab_and_images(nights: Nights) -> None:
    nights.run()
    good = nights.builds.current[IMAGE]
    before = nights.host.home.lab(FIRST).journal.read_bytes()
    nights.host.hook.before = failing("guests.verify")
    night = nights.run()
    assert (night.good, night.candidate, night.kept) == (False, SECOND, FIRST)
    assert night.error is not None
    assert "a node \x1b[31mburns" in night.error["what"]
    assert nights.labs == [FIRST]
    assert nights.host.home.lab(FIRST).journal.read_bytes() == before
    assert nights.builds.given_back == [good.digest]
    assert nights.builds.current[IMAGE] == good
    assert [each.good for each in nights.record.nights] == [True, False]
    heal(nights)
    assert nights.run().kept == SECOND


def test_a_failed_lab_can_stay_to_be_looked_at_until_the_next_night(nights: Nights) -> None:
    nights.run()
    nights.host.hook.before = failing("guests.verify")
    nights.run(keep_failed=True)
    assert nights.labs == [FIRST, SECOND]
    heal(nights)
    assert nights.run().good
    assert nights.labs == [SECOND]


def test_an_image_that_cannot_be_built_touches_no_lab(nights: Nights) -> None:
    nights.run()
    nights.builds.failing = "no package source answers"
    night = nights.run()
    assert (night.good, night.kept, nights.labs) == (False, FIRST, [FIRST])
    assert nights.builds.given_back == []


def test_images_can_stay(nights: Nights) -> None:
    nights.run()
    night = nights.run(rebuild_images=False)
    assert nights.builds.built == 1
    assert [each.digest for each in night.images] == [f"{1:064d}"]


def test_what_does_not_fit_is_built_in_place(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    nights.run()

    def does_not_fit(*_rest: object) -> None:
        raise HostNotFitError("the lab needs 9 GiB")

    monkeypatch.setattr(rebuild, "preview", does_not_fit)
    night = nights.run()
    assert (night.good, night.place, night.kept, nights.labs) == (True, Place.IN_PLACE, SECOND, [SECOND])
    assert any("in its place, not next to it: the lab needs 9 GiB" in each for each in night.warnings)


def test_in_place_a_failure_leaves_none_and_says_so(nights: Nights) -> None:
    nights.run()
    nights.host.hook.before = failing("guests.verify")
    night = nights.run(place=Place.IN_PLACE)
    assert (night.good, night.kept, nights.labs) == (False, "", [])
    assert night.before is not None
    assert nights.builds.given_back == [f"{1:064d}"]
    heal(nights)
    again = nights.run()
    assert (again.good, again.place) == (True, Place.FIRST)


def test_in_place_nothing_goes_before_the_images_are_there(nights: Nights) -> None:
    nights.run()
    nights.builds.failing = "no package source answers"
    assert nights.run(place=Place.IN_PLACE).kept == FIRST
    assert nights.labs == [FIRST]


@pytest.mark.parametrize("call", ["guests.verify", "guests.configure"])
def test_a_killed_night_is_cleaned_up_by_the_next(nights: Nights, call: str) -> None:
    nights.run()
    nights.host.hook.before = failing(call, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        nights.run()
    heal(nights)
    assert nights.labs == [FIRST, SECOND]
    assert nights.record.good is not None
    assert nights.record.good.lab == FIRST
    assert (nights.run().kept, nights.labs) == (SECOND, [SECOND])


def test_a_stop_is_no_night(nights: Nights) -> None:
    nights.run()
    stop = StopFlag()
    stop.set()
    nights.stop = stop
    with pytest.raises(InterruptedRunError):
        nights.run()
    assert (len(nights.record.nights), nights.labs) == (1, [FIRST])


def test_a_lab_that_no_night_has_made_is_left_alone(nights: Nights) -> None:
    nights.host.provision(nights.host.lab_file(lab_text(name=FIRST)))
    night = nights.run()
    assert not night.good
    assert night.error is not None
    assert f"there is a lab {FIRST}, which no nightly rebuild has made" in night.error["what"]
    assert nights.labs == [FIRST]


def test_the_lab_of_the_file_itself_is_left_alone(nights: Nights) -> None:
    nights.host.provision(nights.host.lab_file(lab_text()))
    assert nights.run().good
    assert nights.labs == [LAB, FIRST]


def test_two_nights_of_one_lab_exclude_each_other(nights: Nights) -> None:
    lock = nights.host.home.host_locks / f"nightly-{LAB}.lock"
    with exclusive_lock(lock, purpose="another"), pytest.raises(ConflictError):
        nights.run()
    assert nights.builds.built == 0


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "good": null, "made": [], "nights": []}']
)
def test_a_damaged_record_stops_before_anything_is_done(nights: Nights, text: str) -> None:
    nights.run()
    (nights.host.home.nights / f"{LAB}.json").write_text(text)
    with pytest.raises(StateError, match="the record of nightly rebuilds cannot be used"):
        nights.run()
    assert nights.labs == [FIRST]


@pytest.mark.parametrize(
    "metadata",
    ["metadata: {name: demo}", "metadata:\n  name: demo", 'metadata: {name: "demo"}', "metadata: {'name': 'demo'}"],
)
def test_the_name_is_found_however_it_is_written(nights: Nights, metadata: str) -> None:
    nights.text = lab_text().replace("metadata: {name: demo}", metadata)
    assert metadata in nights.text
    assert nights.run().kept == FIRST
    assert load_recorded_lab(nights.host.home, FIRST).spec.name == FIRST


def test_a_name_that_becomes_too_long_is_a_failed_night(nights: Nights) -> None:
    nights.text = lab_text(name="a" * 30)
    night = nights.run()
    assert night.error is not None
    assert night.error["exit_code"] == 3
