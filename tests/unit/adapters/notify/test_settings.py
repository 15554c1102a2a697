"""The notification file: what can be said in it, and that its secrets stay in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from emulator.adapters.notify.mail import Mail
from emulator.adapters.notify.settings import read_notifiers
from emulator.adapters.notify.webhook import Webhook
from emulator.core.errors import ConfigError, ConflictError

MAIL = """\
[mail]
host = smtp.example.org
from = lab@example.org
to = ada@example.org, bob@example.org
user = lab
password = p%w{x}=geheim
"""
HOOK = "[webhook]\nurl = https://chat.example.org/hooks/geheim\ntoken = t0ken\n"


def file(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    path = tmp_path / "notify.conf"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_both_ways(tmp_path: Path) -> None:
    mail, hook = read_notifiers(file(tmp_path, MAIL + HOOK))
    assert isinstance(mail, Mail)
    assert (mail.host, mail.port, mail.security, mail.password) == (
        "smtp.example.org",
        587,
        "starttls",
        "p%w{x}=geheim",
    )
    assert mail.recipients == ("ada@example.org", "bob@example.org")
    assert isinstance(hook, Webhook)
    assert (hook.url, hook.token) == ("https://chat.example.org/hooks/geheim", "t0ken")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it names nobody to notify"),
        ("geheim\n", "this is not a file of"),
        ("[mail]\nno line\n", "this is not a file of"),
        ("[chat]\nurl = geheim\n", r"unknown section \[chat\]"),
        (MAIL + "pasword = geheim\n", "unknown key pasword"),
        (MAIL.replace("smtp.example.org", "a b"), "host is missing or cannot be used"),
        (MAIL.replace("host", "port", 1), "host is missing or cannot be used"),
        (MAIL + "port = 0\n", "port is no number from 1 to 65535"),
        (MAIL + "port = 9999999\n", "port is no number from 1 to 65535"),
        (MAIL + "security = ssl\n", "security is none of tls, starttls and none"),
        (MAIL + "security = none\n", "security = none is for a server on this host alone"),
        (MAIL.replace("ada@example.org", "ada"), "to holds no mail addresses"),
        (MAIL.replace("lab@example.org", "lab"), "from is missing or cannot be used"),
        ("[webhook]\ntoken = geheim\n", "url is no address"),
        ("[webhook]\nurl = ftp://example.org/geheim\n", "url is no address"),
        ("[webhook]\nurl = https://u:geheim@example.org/\n", "url is no address"),
        ("[webhook]\nurl = https://example.org:99999/geheim\n", "url is no address"),
        ("[webhook]\nurl = http://example.org/geheim\n", "url is not encrypted"),
        ("[webhook]\nurl = http://127.0.0.1.example.org/geheim\n", "url is not encrypted"),
        ("[webhook]\nurl = https://example.org/\ntoken = gehe im\n", "token holds characters"),
    ],
)
def test_faults_are_told_and_secrets_are_not(tmp_path: Path, text: str, said: str) -> None:
    path = file(tmp_path, text)
    with pytest.raises(ConfigError, match=said) as caught:
        read_notifiers(path)
    assert caught.value.where.startswith(str(path))
    assert caught.value.fix
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o606])
def test_secrets_that_others_can_read_are_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises((ConfigError, ConflictError)) as caught:
        read_notifiers(file(tmp_path, MAIL, mode))
    assert "chmod 600" in caught.value.fix


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
def test_a_file_of_another_account_is_refused(tmp_path: Path) -> None:
    path = file(tmp_path, MAIL)
    os.chown(path, 1234, 1234)
    with pytest.raises(ConflictError):
        read_notifiers(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "none", tmp_path / "pipe"):
        with pytest.raises(ConfigError):
            read_notifiers(path)
    path = file(tmp_path, "x" * 100_000)
    with pytest.raises(ConfigError, match="too large"):
        read_notifiers(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_notifiers(path)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_on_this_host_no_encryption_is_needed(tmp_path: Path, host: str) -> None:
    (mail,) = read_notifiers(file(tmp_path, MAIL.replace("smtp.example.org", host) + "security = none\n"))
    assert isinstance(mail, Mail)
    assert mail.port == 25
