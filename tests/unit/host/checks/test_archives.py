"""Where the guests' packages come from, on Debian and on systems that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.host.checks import check_host_readings
from emulator.host.checks.result import HostCheckResult, Level, Wanted
from emulator.host.parsers import parse_apt_suites
from emulator.host.prepare.steps import PreparationPlan, plan_preparation
from tests.support import host_trees

DEBIAN = "/etc/apt/sources.list.d/debian.sources"
SOURCES = """\
Types: deb
URIs: http://mirror.invalid/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""


def result(root: Path, name: str, **changes: object) -> HostCheckResult | None:
    readings = host_trees.read(host_trees.plant(root, name, **changes))
    results = check_host_readings(readings, Wanted()).results
    return next((each for each in results if each.id == "program.archives"), None)


def preparation(root: Path, name: str, **changes: object) -> PreparationPlan:
    readings = host_trees.read(host_trees.plant(root, name, **changes))
    return plan_preparation(readings, user=None, gpus=False)


def test_ubuntu_as_it_comes_is_told_to_add_debians_archive(tmp_path: Path) -> None:
    found = result(tmp_path, "ubuntu-24.04")
    assert found is not None
    assert (found.level, found.found) == (Level.WARN, "apt of Ubuntu 24.04.3 LTS has no sources of Debian")
    assert "hyperscaler host prepare --dry-run" in found.fix


def test_preparing_ubuntu_installs_the_keys_and_says_what_to_write(tmp_path: Path) -> None:
    plan = preparation(tmp_path, "ubuntu-24.04")
    (packages,) = [step for step in plan.steps if step.id == "packages"]
    assert {"debian-archive-keyring", "mmdebstrap", "qemu-system-x86"} <= set(packages.argv)
    assert "--no-remove" in packages.argv
    (step,) = [each for each in plan.manual if "Debian's archive" in each.title]
    assert step.title == "Give apt Debian's archive (the guests are Debian, and this host is Ubuntu 24.04.3 LTS)"
    text = "\n".join(line.strip() for line in step.lines)
    # What it says to write is what the check then finds, and what the host takes nothing from.
    assert parse_apt_suites("", text.partition("Types:")[1] + text.partition("Types:")[2]) >= {"bookworm"}
    assert "Pin: release o=Debian\nPin-Priority: -1" in text
    assert "://" not in text, "which mirror is the user's choice"


def test_ubuntu_with_debians_archive_is_fine(tmp_path: Path) -> None:
    found = result(tmp_path, "ubuntu-24.04", remove=[], files={DEBIAN: SOURCES})
    assert found is not None and found.level is Level.PASS
    assert found.found == "apt has sources of Debian (bookworm)"
    assert not [
        each for each in preparation(tmp_path / "again", "ubuntu-24.04", remove=[]).manual if "apt" in each.title
    ]


def test_a_system_without_apt_is_not_asked_for_its_sources(tmp_path: Path) -> None:
    assert result(tmp_path, "ubuntu-24.04", programs={"apt-get": None}) is None


@pytest.mark.parametrize(
    ("lines", "paragraphs", "suites"),
    [
        ("", "", set()),
        ("deb http://mirror.invalid/debian bookworm main contrib\n", "", {"bookworm"}),
        ("deb [arch=amd64 signed-by=/k.gpg] http://x.invalid/d trixie main\ndeb-src http://x s main\n", "", {"trixie"}),
        ("# deb http://x.invalid bookworm main\n#deb http://x.invalid trixie main\ndeb\n", "", set()),
        ("", SOURCES, {"bookworm", "bookworm-updates"}),
        ("", f"{SOURCES}\n# more\n{SOURCES.replace('bookworm', 'trixie')}", {"bookworm", "trixie"}),
        ("", SOURCES + "Enabled: no\n", set()),
        ("", SOURCES.replace("Types: deb", "Types: deb-src"), set()),
        ("", "Types: deb\nSuites:\n noble\n noble-updates\n", {"noble", "noble-updates"}),
        ("", "# only\n# comments\n\n\n", set()),
    ],
)
def test_suites_of_apts_sources(lines: str, paragraphs: str, suites: set[str]) -> None:
    assert parse_apt_suites(lines, paragraphs) >= suites
    assert bool(parse_apt_suites(lines, paragraphs)) is bool(suites)
