"""The file that says who is notified, and with which secrets.

[mail]
host = smtp.example.org
port = 465
security = tls
from = lab@example.org
to = teacher@example.org, admin@example.org
user = lab
password = ...

[webhook]
url = https://chat.example.org/hooks/...
token = ...
"""

from __future__ import annotations

import configparser
import ipaddress
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from emulator.adapters.notify.mail import Mail
from emulator.adapters.notify.webhook import Webhook
from emulator.core.errors import ConfigError
from emulator.core.ports.notifications import Notifier
from emulator.core.trust.owners import require_own
from emulator.core.units import natural, printable

_MOST_BYTES = 65536
_ADDRESS = re.compile(r"[A-Za-z0-9._%+=/-]{1,64}@[A-Za-z0-9.-]{1,253}")
_HOST = re.compile(r"[A-Za-z0-9.:-]{1,253}")
_TOKEN = re.compile(r"[!-~]{0,4096}")
_PORTS: Mapping[str, int] = {"tls": 465, "starttls": 587, "none": 25}
_KEYS: Mapping[str, frozenset[str]] = {
    "mail": frozenset({"host", "port", "security", "from", "to", "user", "password"}),
    "webhook": frozenset({"url", "token"}),
}


def read_notifiers(path: Path) -> tuple[Notifier, ...]:
    """The ways to notify people that the file names.

    Raises:
        ConfigError: it cannot be read, or something in it cannot be used. No value is repeated in the message.
        ConflictError: other accounts can read or change it.
    """
    text = _private_text(path)
    parser = configparser.ConfigParser(interpolation=None, default_section="none")
    try:
        parser.read_string(text)
    except configparser.Error as error:
        line = getattr(error, "lineno", None)
        raise ConfigError(
            "this is not a file of `[section]` and `key = value` lines",
            where=f"{path}:{line}" if line else str(path),
            fix="see docs/user/nightly.md",
        ) from None
    found: list[Notifier] = []
    for name in parser.sections():
        if name not in _KEYS:
            raise _fault(path, name, f"unknown section [{printable(name)[:60]}]", f"known: {', '.join(_KEYS)}")
        section = dict(parser[name])
        unknown = sorted(section.keys() - _KEYS[name])
        if unknown:
            known = ", ".join(sorted(_KEYS[name]))
            raise _fault(path, name, f"unknown key {printable(unknown[0])[:60]}", f"known: {known}")
        found.append(_mail(path, section) if name == "mail" else _webhook(path, section))
    if not found:
        raise _fault(path, "", "it names nobody to notify", "add a section [mail] or [webhook]")
    return tuple(found)


def _private_text(path: Path) -> str:
    fix = f"chown root:root {path} && chmod 600 {path}, in a directory that only root can write to"
    try:
        require_own(path, fix=fix)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError("this is not a file", where=str(path), fix="name the notification file itself")
            if status.st_mode & 0o077:
                raise ConfigError("others can read the secrets in this file", where=str(path), fix=fix)
            data = stream.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ConfigError("the file is too large", where=str(path), fix="is this the right file?")
        return data.decode()
    except OSError as error:
        raise ConfigError(f"the file cannot be read: {error.strerror}", where=str(path), fix=fix) from error
    except UnicodeDecodeError:
        raise ConfigError("the file is not UTF-8 text", where=str(path), fix="save it as UTF-8") from None


def _mail(path: Path, given: Mapping[str, str]) -> Mail:
    security = given.get("security", "starttls")
    if security not in _PORTS:
        raise _fault(path, "mail", "security is none of tls, starttls and none", "write security = starttls")
    host = _need(path, "mail", given, "host", _HOST)
    port = natural(given.get("port", str(_PORTS[security])))
    if port is None or not 0 < port < 65536:
        raise _fault(path, "mail", "port is no number from 1 to 65535", f"write port = {_PORTS[security]}")
    if security == "none" and not _is_this_host(host):
        raise _fault(path, "mail", "security = none is for a server on this host alone", "write security = starttls")
    recipients = tuple(each.strip() for each in given.get("to", "").split(",") if each.strip())
    if not recipients or not all(_ADDRESS.fullmatch(each) for each in recipients):
        raise _fault(path, "mail", "to holds no mail addresses", "write to = name@example.org, other@example.org")
    sender = _need(path, "mail", given, "from", _ADDRESS)
    return Mail(host, port, security, sender, recipients, given.get("user", ""), given.get("password", ""))


def _webhook(path: Path, given: Mapping[str, str]) -> Webhook:
    url, token = given.get("url", ""), given.get("token", "")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 443) > 0
    except ValueError:
        usable = False
    if not usable or not _TOKEN.fullmatch(url) or parts.username is not None:
        raise _fault(path, "webhook", "url is no address that can be used", "write url = https://host/path")
    if parts.scheme == "http" and not _is_this_host(parts.hostname or ""):
        raise _fault(path, "webhook", "url is not encrypted, which is for this host alone", "write url = https://...")
    if not _TOKEN.fullmatch(token):
        raise _fault(path, "webhook", "token holds characters that no token has", "write it in one word")
    return Webhook(url, token)


def _need(path: Path, section: str, given: Mapping[str, str], key: str, form: re.Pattern[str]) -> str:
    value = given.get(key, "")
    if not form.fullmatch(value):
        raise _fault(path, section, f"{key} is missing or cannot be used", f"see {key} in docs/user/nightly.md")
    return value


def _is_this_host(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _fault(path: Path, section: str, what: str, fix: str) -> ConfigError:
    return ConfigError(what, where=f"{path} [{section}]" if section else str(path), fix=fix)
