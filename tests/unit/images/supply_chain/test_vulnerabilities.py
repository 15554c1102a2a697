"""The listing of vulnerabilities: Debian's debsecan over a small copy of the tracker's data."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from emulator.adapters.system.process import HostProcess
from emulator.core.errors import CommandError, HyperscalerError, StateError, UsageError
from emulator.images.build.builder import BuildPhase
from emulator.images.store.golden_image import GoldenImage
from emulator.images.store.store import ImageStore
from emulator.images.supply_chain.sbom import Package
from emulator.images.supply_chain.vulnerabilities import Vulnerability, VulnerabilityListing, parse_listing, status_file
from tests.support.fake_runner import FakeRunner, Say

# What the tracker serves for a suite: vulnerabilities, affected packages, binaries of sources.
TRACKER = (
    "VERSION 1\n"
    "CVE-2026-0001,,lets anybody in\n"
    "CVE-2026-0002,,a small one\u2028  installed: bash 1\n"
    "CVE-2026-0003,,of another package\n"
    "CVE-2026-0004,,mended long ago\n"
    "\n"
    "munge,0, HRF,0.6,0.5.15-3\n"
    "munge,1, L  ,,\n"
    "bash,2, M? ,,\n"
    "munge,3, M  ,0.5.1,\n"
    "\n"
    "munge,munge libmunge2\n"
    "\n"
)
MUNGE = Package("munge", "0.5.15-2", "amd64", "munge", "0.5.15-2", "")


def quiet(phase: BuildPhase, line: str) -> None:
    """Progress of nobody."""


@pytest.fixture
def image(store: ImageStore) -> GoldenImage:
    return store.build("demo", progress=quiet)


@pytest.fixture
def tracker(tmp_path: Path) -> Path:
    path = tmp_path / "bookworm"
    path.write_bytes(zlib.compress(TRACKER.encode()))
    return path


def test_what_is_known_of_the_packages_in_the_image(image: GoldenImage, tracker: Path) -> None:
    found = VulnerabilityListing(HostProcess()).of(image, data=tracker)
    assert found == (
        Vulnerability("CVE-2026-0001", "munge", "0.5.15-2", "munge", "high", True, True, "lets anybody in"),
        Vulnerability(
            "CVE-2026-0002", "munge", "0.5.15-2", "munge", "low", False, False, "a small one installed: bash 1"
        ),
    )
    only = VulnerabilityListing(HostProcess()).of(image, data=tracker, only_fixed=True)
    assert [item.id for item in only] == ["CVE-2026-0001"]


def test_data_that_was_unpacked_already_is_taken_too(image: GoldenImage, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(TRACKER.encode())
    assert len(VulnerabilityListing(HostProcess()).of(image, data=path)) == 2


@pytest.mark.parametrize("content", [b"", b"root:x:0:0\n", zlib.compress(b"VERSION 2\n"), zlib.compress(b"\0" * 999)])
def test_something_else_is_no_tracker_data(image: GoldenImage, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "noise"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not what the security tracker serves"):
        VulnerabilityListing(HostProcess()).of(image, data=path)


def test_a_missing_file_is_named(image: GoldenImage, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        VulnerabilityListing(HostProcess()).of(image, data=tmp_path / "absent")


def test_damaged_data_is_an_error_and_no_empty_list(image: GoldenImage, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes(zlib.compress(b"VERSION 1\nCVE-2026-0001,,x\n\nmunge,7, HRF,1,1\n\n\n"))
    with pytest.raises(CommandError, match="debsecan failed"):
        VulnerabilityListing(HostProcess()).of(image, data=path)


OFFLINE = "error: while downloading https://tracker.invalid/bookworm:\nerror: Name or service not known\n"


def test_a_host_without_a_way_to_the_tracker_is_told_what_to_do(image: GoldenImage) -> None:
    runner = FakeRunner({"": Say(stderr=OFFLINE, status=1)})
    with pytest.raises(HyperscalerError, match="cannot be fetched from here: error: Name or service") as caught:
        VulnerabilityListing(runner).of(image, data=None)
    assert runner.calls
    assert not [word for words in runner.calls for word in words if word.startswith("--source")]
    assert "--data FILE" in caught.value.fix


def test_a_bill_of_materials_with_a_forged_package_is_refused(image: GoldenImage, tracker: Path) -> None:
    path = image.directory / "sbom.spdx.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"0.5.15-2"', '"1\\nPackage: evil"'))
    with pytest.raises(StateError, match="described in a way that no Debian package is"):
        VulnerabilityListing(HostProcess()).of(image, data=tracker)


def test_the_status_file_names_sources() -> None:
    assert status_file([MUNGE]) == (
        "Package: munge\nStatus: install ok installed\nArchitecture: amd64\n"
        "Version: 0.5.15-2\nSource: munge (0.5.15-2)\n\n"
    )


@pytest.mark.parametrize(
    "block",
    [
        "",
        "CVE-1",
        "CVE-1\n  text",
        "CVE-1\n  text\n  installed: other 1",
        "CVE;1\n  text\n  installed: munge 0.5.15-2",
        "CVE-1\n  installed: munge 0.5.15-2\n  elsewhere",
    ],
)
def test_blocks_that_say_nothing_of_the_image(block: str) -> None:
    assert parse_listing(block + "\n\n", [MUNGE]) == []


def test_an_unknown_urgency_counts_as_none_and_nothing_reaches_the_terminal() -> None:
    text = "TEMP-0-1 (fixed, mortal urgency)\n  red \x1b[31m text\n  installed: munge 0.5.15-2\n\n"
    (item,) = parse_listing(text, [MUNGE])
    assert (item.urgency, item.fixed, item.description) == ("", True, "red [31m text")
