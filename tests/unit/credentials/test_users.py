from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.core.errors import StateError, UsageError
from emulator.credentials.users import (
    AccessBook,
    AccessRole,
    check_name,
    check_public_key,
    parse_book,
    parse_ttl,
    render_book,
)

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMoe+mH2elGa8VXf8MNkZOYF08DGeWUvGeJ47mhyUjgZ"
OTHER = KEY[:-4] + "AAAA"


def book(*names: str) -> AccessBook:
    made = AccessBook()
    for name in names:
        made = made.granted(name, AccessRole.STUDENT, public_key=KEY, expires=100)
    return made


def test_uids_and_serials_are_never_used_twice() -> None:
    made = book("ada", "bob").without("ada").granted("eve", AccessRole.ADMIN, public_key=OTHER, expires=5)
    assert [(user.name, user.uid) for user in made.users] == [("ada", 3000), ("bob", 3001), ("eve", 3002)]
    assert [each.serial for user in made.users for each in user.certificates] == [2, 3]


def test_a_second_grant_keeps_the_account_and_changes_the_rest() -> None:
    made = book("ada").granted("ada", AccessRole.ADMIN, public_key=OTHER, expires=50, nodes=["b", "a"])
    user = made.user("ada")
    assert user is not None
    assert (user.uid, user.role, user.nodes, user.expires) == (3000, AccessRole.ADMIN, ("a", "b"), 100)
    assert user.may_use("a")
    assert not user.may_use("c")


def test_revoked_keys_stay_revoked() -> None:
    made = book("ada").without("ada")
    assert made.revoked_keys == (KEY,)
    assert made.on("any") == ()
    with pytest.raises(UsageError, match="was revoked and stays so"):
        made.granted("ada", AccessRole.STUDENT, public_key=KEY, expires=1)
    again = made.granted("ada", AccessRole.STUDENT, public_key=OTHER, expires=1)
    assert [user.name for user in again.on("any")] == ["ada"]
    assert again.revoked_keys == (KEY,)


def test_revoking_a_stranger_names_who_there_is() -> None:
    with pytest.raises(UsageError, match="eve has no access") as caught:
        book("ada").without("eve")
    assert "ada" in caught.value.fix


BAD_NAMES = ["", "-x", "Ada", "a_b", "a-", "a b", "a/b", "a" * 32, "root", "labadmin", "student", "slurm", "ä", "a\n"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_name(name)


@pytest.mark.parametrize(
    "name", ["systemd-network", "debian-tor", "adm", "sudo", "disk", "shadow", "mail", "docker", "nogroup", "mysql"]
)
def test_accounts_and_groups_of_the_nodes_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="an account of the nodes themselves"):
        check_name(name)


@pytest.mark.parametrize("master", ["passwd.master", "group.master"])
def test_all_base_accounts_and_groups_of_debian_are_refused(master: str) -> None:
    file = Path("/usr/share/base-passwd") / master
    if not file.is_file():
        pytest.skip("not on Debian")
    names = [line.split(":")[0] for line in file.read_text().splitlines() if ":" in line]
    assert len(names) > 10
    for name in names:
        with pytest.raises(UsageError):
            check_name(name)


def test_a_user_whose_name_has_been_reserved_since_can_be_revoked() -> None:
    made = book("ada")
    text = render_book(made).replace(b'"ada"', b'"systemd-network"')
    old = parse_book(text)
    assert [user.name for user in old.without("systemd-network").users] == ["systemd-network"]
    assert old.granted("systemd-network", AccessRole.STUDENT, public_key=OTHER, expires=5).users


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        f"{KEY}\n{OTHER}\n",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nabc",
        f"command=x {KEY}",
        "ssh-dss AAAA",
    ],
)
def test_what_is_no_public_key_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_public_key(text)
    assert "PRIVATE" not in caught.value.what


def test_a_comment_is_dropped() -> None:
    assert check_public_key(f"# mine\n{KEY} ada@laptop\n") == KEY


def test_the_book_survives_writing() -> None:
    made = book("ada", "bob").without("bob")
    assert parse_book(render_book(made)) == made


@given(st.binary(max_size=400))
def test_damage_is_told(text: bytes) -> None:
    with pytest.raises(StateError):
        parse_book(text)


@given(st.integers(0, 700), st.binary(min_size=1, max_size=3))
def test_a_damaged_book_is_read_whole_or_not_at_all(at: int, junk: bytes) -> None:
    text = render_book(book("ada", "bob").without("bob"))
    try:
        parse_book(text[:at] + junk + text[at + 1 :])
    except StateError as error:
        assert error.fix


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(StateError, match="format 2"):
        parse_book(render_book(AccessBook()).replace(b'"format": 1', b'"format": 2'))


@pytest.mark.parametrize(("text", "seconds"), [("60s", 60), ("45m", 2700), ("8h", 28800), ("365d", 31536000)])
def test_lifetimes(text: str, seconds: int) -> None:
    assert parse_ttl(text) == seconds


@pytest.mark.parametrize("text", ["", "8", "0h", "59s", "366d", "-1h", "8 h", "1.5h", "99999999h"])
def test_bad_lifetimes(text: str) -> None:
    with pytest.raises(UsageError, match="is not a lifetime"):
        parse_ttl(text)


def test_access_that_has_ended_is_former_access_whose_key_may_come_again() -> None:
    book = AccessBook().granted("ada", AccessRole.STUDENT, public_key=KEY, expires=1000)
    assert book.at(999) == book
    ended = book.at(1000)
    (user,) = ended.users
    assert (user.revoked, user.certificates, ended.revoked_keys) == (True, book.users[0].certificates, ())
    assert ended.on("hpc-controller") == ()
    # Renewed in time, the last certificate counts.
    again = book.granted("ada", AccessRole.STUDENT, public_key=KEY, expires=5000)
    assert not again.at(1000).users[0].revoked
    # Revoked is revoked, whatever time was left.
    assert again.without("ada").at(0).users[0].revoked
