"""Package sources and options taken over from the host's apt."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.core.errors import HostNotFitError
from emulator.images.build.apt_sources import host_sources, require_keys
from tests.support.fake_runner import FakeRunner, Say


def apt(targets: str = "", config: str = "", *, status: int = 0) -> FakeRunner:
    """A host whose apt has these package sources and options."""
    return FakeRunner({"apt-get": Say(targets, status=status), "apt-config": Say(config, status=status)})


def lines(targets: str, *, status: int = 0) -> tuple[str, ...]:
    return host_sources(apt(targets, status=status), suite="bookworm", components=["main"]).lines


def test_suite_updates_and_security_are_taken() -> None:
    found = lines(
        "http://mirror.invalid/debian/|bookworm|main||Debian\n"
        "http://mirror.invalid/debian/|bookworm-updates|main||Debian\n"
        "http://mirror.invalid/security/|bookworm-security|main||Debian\n"
    )
    assert found == (
        "deb http://mirror.invalid/debian/ bookworm main",
        "deb http://mirror.invalid/debian/ bookworm-updates main",
        "deb http://mirror.invalid/security/ bookworm-security main",
    )


@pytest.mark.parametrize(
    "row",
    [
        "http://other.invalid/|bookworm|main||Docker",
        "http://mirror.invalid/debian/|trixie|main||Debian",
        "http://mirror.invalid/debian/|bookworm|non-free||Debian",
        "http://mirror.invalid/debian/|bookworm-backports|main||Debian Backports",
    ],
)
def test_what_does_not_belong_to_the_suite_is_left_out(row: str) -> None:
    base = "http://mirror.invalid/debian/|bookworm|main||Debian"
    assert lines(f"{base}\n{row}\n") == ("deb http://mirror.invalid/debian/ bookworm main",)


HOST = (
    "http://mirror.invalid/debian/|bookworm|main||Debian\n"
    "http://mirror.invalid/debian/|bookworm-updates|main||Debian\n"
    "http://mirror.invalid/debian/|bookworm-backports|main||Debian Backports\n"
    "http://mirror.invalid/security/|bookworm-security|main||Debian\n"
    "http://other.invalid/|bookworm|main||Docker\n"
)


def test_on_a_host_of_another_release_its_mirrors_are_asked_for_this_one() -> None:
    found = host_sources(apt(HOST), suite="trixie", components=["main"])
    assert found.lines == (
        "deb http://mirror.invalid/debian/ trixie main",
        "deb http://mirror.invalid/debian/ trixie-updates main",
        "deb http://mirror.invalid/security/ trixie-security main",
    )
    assert found.other_release
    assert not host_sources(apt(HOST), suite="bookworm", components=["main"]).other_release


@pytest.mark.parametrize("own", ["trixie", "stable", "testing", "oldstable"])
def test_a_host_may_call_its_release_by_any_name(own: str) -> None:
    assert lines(f"http://mirror.invalid/debian/|{own}|main||Debian\n") == (
        "deb http://mirror.invalid/debian/ bookworm main",
    )


def test_a_release_in_testing_has_no_pockets_yet() -> None:
    found = host_sources(apt(HOST), suite="forky", components=["main"])
    assert found.lines == ("deb http://mirror.invalid/debian/ forky main",)


def test_sources_of_the_release_itself_are_taken_as_they_are() -> None:
    """As on a host whose administrator has added another release, or another mirror of it."""
    added = f"{HOST}http://near.invalid/|trixie|main||Debian\n"
    found = host_sources(apt(added), suite="trixie", components=["main"])
    assert (found.lines, found.other_release) == (("deb http://near.invalid/ trixie main",), False)


def test_a_host_that_is_no_debian_leaves_the_choice_to_mmdebstrap() -> None:
    assert lines("http://mirror.invalid/ubuntu/|noble|main||Ubuntu\n") == ()
    assert lines("http://mirror.invalid/ubuntu/|noble|main||$(ORIGIN)\n") == ()
    assert lines("http://mirror.invalid/debian/|bookworm-updates|main||Debian\n") == ()


def test_a_release_whose_keys_the_host_does_not_have_is_named(tmp_path: Path) -> None:
    install = "apt-get update && apt-get install debian-archive-keyring"
    with pytest.raises(HostNotFitError) as caught:
        require_keys("trixie", tmp_path)
    assert caught.value.fix == install, "there is no release that this host could verify"
    (tmp_path / "debian-archive-bookworm-stable.gpg").touch()
    require_keys("bookworm", tmp_path)
    for suite, title in (("trixie", "Debian 13"), ("forky", "Debian 14 (testing)")):
        with pytest.raises(HostNotFitError) as caught:
            require_keys(suite, tmp_path)
        assert caught.value.what == f"this host has no key to verify the packages of {title} with"
        instead = "or ask for Debian 12 in the lab file: images: {release: bookworm}"
        assert caught.value.fix == f"{install}; {instead}"
    (tmp_path / "debian-archive-trixie-automatic.pgp").touch()
    require_keys("trixie", tmp_path)
    require_keys("forky", tmp_path)  # signed with Debian 13's until it is released
    require_keys("unknown", tmp_path)  # apt will say


def test_a_host_without_apt_leaves_the_choice_to_mmdebstrap() -> None:
    assert lines("E: nothing|bookworm|main", status=100) == ()


def test_keyring_and_trust_are_those_of_the_entry(tmp_path: Path) -> None:
    keyring = tmp_path / "archive.gpg"
    keyring.write_bytes(b"")
    entries = tmp_path / "sources.list"
    entries.write_text(
        f"deb [signed-by={keyring}] http://mirror.invalid/ bookworm main\n"
        "deb [trusted=yes] http://here.invalid/ bookworm main\n"
    )
    found = lines(
        f"http://mirror.invalid/|bookworm|main|{entries}:1|Debian\nhttp://here.invalid/|bookworm|main|{entries}:2|\n"
    )
    assert found == (
        f"deb [signed-by={keyring}] http://mirror.invalid/ bookworm main",
        "deb [trusted=yes] http://here.invalid/ bookworm main",
    )


def test_an_origin_not_fetched_yet_does_not_exclude() -> None:
    assert lines("http://m.invalid/|bookworm|main|$(SOURCESENTRY)|$(ORIGIN)\n") == (
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
