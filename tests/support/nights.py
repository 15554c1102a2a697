"""Nights on a simulated host: golden images that are counted, and labs that fail when they are told to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from emulator.core.errors import HyperscalerError
from emulator.core.stop import StopFlag
from emulator.guests.verify.report import CheckResult
from emulator.operations.nightly.model import Good, ImageFacts, Night, PastNight, Place, Record
from emulator.operations.nightly.names import lab_names_of
from emulator.operations.nightly.rebuild import NightOptions, nightly
from emulator.operations.nightly.record import read_nights
from tests.support.recording_reporter import RecordingReporter
from tests.support.simulated_world import LAB, SimulatedHost, lab_text


@dataclass
class CountedBuilds:
    """`Builds` of images whose digest says how often they were built; `failing` is what the next build says."""

    current: dict[str, ImageFacts] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    given_back: list[str] = field(default_factory=list)
    built: int = 0
    failing: str = ""

    def facts(self, name: str) -> ImageFacts | None:
        return self.current.get(name)

    def rebuild(self, name: str, progress: Callable[[str], None]) -> ImageFacts:
        progress("building")
        if self.failing:
            raise HyperscalerError(self.failing, where=name, fix="look")
        self.built += 1
        packages = {"base-files": "12", "slurmd": f"22.05.{self.built}"}
        self.current[name] = ImageFacts(name, f"{self.built:064d}", packages)
        return self.current[name]

    def give_back(self, name: str, before: ImageFacts) -> None:
        self.given_back.append(before.digest)
        self.current[name] = before

    def keep(self, name: str, tag: str) -> None:
        self.kept[tag] = self.current[name].digest


@dataclass
class Nights:
    host: SimulatedHost
    builds: CountedBuilds = field(default_factory=CountedBuilds)
    reporter: RecordingReporter = field(default_factory=RecordingReporter)
    text: str = ""
    stop: StopFlag = field(default_factory=StopFlag)

    def run(self, **options: object) -> Night:
        loaded = self.host.lab_file(self.text or lab_text())
        wanted = replace(NightOptions(), **options)  # type: ignore[arg-type]
        return nightly(self.host.environment(), loaded, wanted, self.builds, self.reporter, self.stop)

    @property
    def record(self) -> Record:
        return read_nights(self.host.home.nights / f"{LAB}.json")

    @property
    def labs(self) -> list[str]:
        """Those that are there, without the foreign ones of the machine."""
        return sorted(path.name for path in self.host.home.labs.iterdir() if path.name in (LAB, *lab_names_of(LAB)))


def night(**fields: object) -> Night:
    """A good night next to the last good one, with all that a report can show."""
    before = Good("demo-a", 1_700_000_000, (ImageFacts("hpc-base", "a" * 64, {"gone": "1", "same": "1", "new": "1"}),))
    made = Night(
        name="demo",
        file="/srv/demo.yaml",
        candidate="demo-b",
        at=1_700_086_400,
        seconds=700.0,
        place=Place.NEXT_TO,
        phases={"image": 60.0, "Slurm boot": 200.0},
        images=(ImageFacts("hpc-base", "b" * 64, {"same": "1", "new": "2", "added": "3"}),),
        checks=(CheckResult("nodes", True, "2 nodes idle", 1.0),),
        warnings=("the disk is nearly full",),
        kept="demo-b",
        before=before,
        history=(PastNight(1_700_000_000, True, 600.0, {"image": 50.0, "Slurm boot": 100.0}),),
    )
    return replace(made, **fields)  # type: ignore[arg-type]
