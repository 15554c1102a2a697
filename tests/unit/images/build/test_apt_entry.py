"""What an entry of apt's sources says of signatures."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.images.build.apt_entry import Signing, signing_of

ONE_LINE = """\
# deb [trusted=yes] http://old.invalid/ bookworm main
deb http://a.invalid/ bookworm main
deb [ arch=amd64 signed-by=@KEY@ ] http://b.invalid/ bookworm main
deb [trusted=yes] http://c.invalid/ bookworm main
deb [trusted=no] http://d.invalid/ bookworm main # [trusted=yes]
"""
DEB822 = """\
# Types: deb
Types: deb
# http://old.invalid/
URIs: http://a.invalid/
Suites: bookworm
Signed-By: @KEY@

Types: deb
URIs: http://b.invalid/
Suites: bookworm
Trusted: yes
Description: goes on
 over two lines
 Signed-By: /not/a/field


Types: deb
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 AAAA
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
signed-by: @KEY@ /does/not/exist.gpg
trusted: No
"""


@pytest.fixture
def key(tmp_path: Path) -> Path:
    (tmp_path / "key.gpg").touch()
    return tmp_path / "key.gpg"


@pytest.mark.parametrize(
    ("name", "text", "number", "has_key", "unchecked"),
    [
        ("sources.list", ONE_LINE, 1, False, False),
        ("sources.list", ONE_LINE, 2, False, False),
        ("sources.list", ONE_LINE, 3, True, False),
        ("sources.list", ONE_LINE, 4, False, True),
        ("sources.list", ONE_LINE, 5, False, False),
        ("sources.list", ONE_LINE, 9, False, False),
        ("sources.list", ONE_LINE, 0, False, False),
        ("debian.sources", DEB822, 1, True, False),
        ("debian.sources", DEB822, 2, False, True),
        ("debian.sources", DEB822, 3, False, False),
        ("debian.sources", DEB822, 4, True, False),
        ("debian.sources", DEB822, 5, False, False),
        ("debian.sources", " \n:\n\n", 1, False, False),
    ],
)
def test_an_entry_is_found_by_its_number(
    tmp_path: Path, key: Path, name: str, text: str, number: int, has_key: bool, unchecked: bool
) -> None:
    path = tmp_path / name
    path.write_text(text.replace("@KEY@", str(key)))
    assert signing_of(f"{path}:{number}") == Signing((str(key),) if has_key else (), unchecked)


@pytest.mark.parametrize("entry", ["", "$(SOURCESENTRY)", "/absent/sources.list:1", "/etc/passwd:1", "sources.list:1"])
def test_an_entry_that_is_not_there_says_nothing(entry: str) -> None:
    assert signing_of(entry) == Signing()


def test_options_are_those_of_a_one_line_source() -> None:
    assert Signing().options == ""
    assert Signing(("/a.gpg", "/b.gpg")).options == "[signed-by=/a.gpg,/b.gpg] "
    assert Signing(("/a.gpg",), unchecked=True).options == "[signed-by=/a.gpg trusted=yes] "
