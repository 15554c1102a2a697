"""Package sources and options taken over from the host's apt."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.images.build.apt_sources import host_sources
from tests.support.fake_runner import FakeRunner, Say


def apt(targets: str = "", config: str = "", *, status: int = 0) -> FakeRunner:
    """A host whose apt has these package sources and options."""
    return FakeRunner({"apt-get": Say(targets, status=status), "apt-config": Say(config, status=status)})


def lines(targets: str, *, status: int = 0) -> tuple[str, ...]:
    return host_sources(apt(targets, status=status), suite="bookworm", components=["main"]).lines


def test_suite_updates_and_security_are_taken() -> None:
    found = lines(
        "http://mirror.invalid/debian/|bookworm|main|$(SIGNED_BY)|Debian|$(TRUSTED)\n"
        "http://mirror.invalid/debian/|bookworm-updates|main|$(SIGNED_BY)|Debian|$(TRUSTED)\n"
        "http://mirror.invalid/security/|bookworm-security|main|$(SIGNED_BY)|Debian|$(TRUSTED)\n"
    )
    assert found == (
        "deb http://mirror.invalid/debian/ bookworm main",
        "deb http://mirror.invalid/debian/ bookworm-updates main",
        "deb http://mirror.invalid/security/ bookworm-security main",
    )


@pytest.mark.parametrize(
    "row",
    [
        "http://other.invalid/|bookworm|main||Docker|no",
        "http://mirror.invalid/debian/|trixie|main||Debian|no",
        "http://mirror.invalid/debian/|bookworm|non-free||Debian|no",
        "http://mirror.invalid/debian/|bookworm-backports|main||Debian Backports|no",
    ],
)
def test_what_does_not_belong_to_the_suite_is_left_out(row: str) -> None:
    base = "http://mirror.invalid/debian/|bookworm|main||Debian|no"
    assert lines(f"{base}\n{row}\n") == ("deb http://mirror.invalid/debian/ bookworm main",)


def test_a_host_of_another_release_leaves_the_choice_to_mmdebstrap() -> None:
    assert lines("http://mirror.invalid/debian/|trixie|main||Debian|no\n") == ()
    assert lines("http://mirror.invalid/debian/|bookworm-updates|main||Debian|no\n") == ()


def test_a_host_without_apt_leaves_the_choice_to_mmdebstrap() -> None:
    assert lines("E: nothing|bookworm|main", status=100) == ()


def test_keyring_and_trust_are_kept(tmp_path: Path) -> None:
    keyring = tmp_path / "archive.gpg"
    keyring.write_bytes(b"")
    assert lines(f"http://mirror.invalid/|bookworm|main|{keyring}|Debian|yes\n") == (
        f"deb [signed-by={keyring} trusted=yes] http://mirror.invalid/ bookworm main",
    )


def test_an_origin_not_fetched_yet_does_not_exclude() -> None:
    assert lines("http://m.invalid/|bookworm|main|$(SIGNED_BY)|$(ORIGIN)|$(TRUSTED)\n") == (
        "deb http://m.invalid/ bookworm main",
    )


def test_only_fetch_options_with_a_value_are_passed() -> None:
    config = (
        'Acquire::http::Proxy "http://user:secret@proxy.invalid:3128";\n'
        'Acquire::http "";\n'
        'Acquire::Retries "3";\n'
        'DPkg::Post-Invoke:: "rm -rf /";\n'
        'Acquire::Check-Valid-Until "false";\n'
        'APT::Update::Post-Invoke-Success:: "evil";\n'
        'Acquire::Languages "none";\n'
    )
    assert host_sources(apt("", config), suite="bookworm", components=["main"]).options == (
        'Acquire::http::Proxy "http://user:secret@proxy.invalid:3128";',
        'Acquire::Retries "3";',
        'Acquire::Check-Valid-Until "false";',
    )
