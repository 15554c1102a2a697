"""`image build NAME`: the names of an image in each release of Debian."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from emulator.core.debian import releases
from emulator.core.debian.releases import Release, image_of
from emulator.core.progress import SilentReporter
from emulator.images.lab_images import LabImages
from emulator.images.store.store import ImageStore
from emulator.operations.images.golden import build_image
from tests.support.image_fixtures import DEMO


@dataclass
class Notes(SilentReporter):
    notes: list[str] = field(default_factory=list)

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.mark.parametrize("release", [Release.BOOKWORM, Release.TRIXIE])
def test_who_builds_what_new_labs_do_not_get_is_told_so(
    store: ImageStore, recipes: Path, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releases, "DEFAULT_RELEASE", Release.TRIXIE)
    name = image_of("hpc-base", release)
    sections = "releases: {trixie: {suite: trixie}}\n"
    (recipes / "hpc-base.yaml").write_text(DEMO.replace("name: demo", "name: hpc-base") + sections)
    reporter = Notes()
    assert build_image(LabImages(store), name, reporter, force=False).name == name
    told = "hpc-base is the image of Debian 12; new labs get hpc-base-trixie"
    assert reporter.notes == ([told] if release is Release.BOOKWORM else [])
