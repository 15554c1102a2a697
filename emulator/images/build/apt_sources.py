"""The apt sources of an image's packages: the host's own, with keys and proxy. No server is named here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from emulator.core.ports import ProcessRunner

# What of the host's apt configuration matters for fetching. Everything else (hooks, pinning) belongs to the host.
_PASSED_OPTIONS = re.compile(
    r"Acquire::(?:(?:http|https|ftp)(?:::[^ ]+)?|Retries|ForceIPv4|ForceIPv6|Check-Valid-Until|Check-Date"
    r"|Max-ValidTime) \"(?P<value>[^\"]+)\";"
)
_FORMAT = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SIGNED_BY)|$(ORIGIN)|$(TRUSTED)"
# Up to the last '@': an account's password may have one in it too.
_ACCOUNT = re.compile(r"(?<=//)[^/\s\"]*@")
_PLAIN_PATH = re.compile(r"/[^\s\[\]|,]+")


@dataclass(frozen=True, slots=True)
class AptSources:
    """`lines` are one-line apt sources; empty means mmdebstrap's own default for the suite.

    `options` are apt configuration lines such as a proxy; they may hold a password and go into a file that
    only root reads, never into a command line.
    """

    lines: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def with_account(self) -> tuple[str, ...]:
        """Lines and options that contain a login (`//user:password@host`), without user and password."""
        found = (_ACCOUNT.subn("***@", line) for line in (*self.lines, *self.options))
        return tuple(masked for masked, count in found if count)


def host_sources(runner: ProcessRunner, *, suite: str, components: Iterable[str]) -> AptSources:
    """The host's sources that serve `suite`, with its updates and security companions.

    apt itself is asked, so that every format and place of its configuration counts. Third-party repositories
    that use the suite's name are left out by their origin. On a host of another release, or without apt,
    `lines` is empty.
    """
    listing = runner.run(
        ["apt-get", "indextargets", "--format", _FORMAT, "Created-By: Packages"], timeout=60, check=False
    )
    dump = runner.run(["apt-config", "dump"], timeout=60, check=False)
    return AptSources(
        lines=_source_lines(listing.stdout if listing.returncode == 0 else "", suite, set(components)),
        options=tuple(
            line for line in dump.stdout.splitlines() if dump.returncode == 0 and _PASSED_OPTIONS.fullmatch(line)
        ),
    )


def _source_lines(listing: str, suite: str, components: set[str]) -> tuple[str, ...]:
    wanted = {suite, f"{suite}-updates", f"{suite}-security", f"{suite}/updates"}
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in listing.splitlines():
        uri, release, component, signed_by, origin, trusted = (row.split("|") + [""] * 6)[:6]
        if release not in wanted or component not in components:
            continue
        # An origin that apt has not seen yet prints the placeholder itself: then the suite's name decides.
        if not origin.startswith("$(") and origin not in ("Debian", "Debian-Security", ""):
            continue
        options = []
        if _PLAIN_PATH.fullmatch(signed_by) and Path(signed_by).is_file():
            options.append(f"signed-by={signed_by}")
        if trusted == "yes":
            options.append("trusted=yes")
        found.setdefault((" ".join(options), uri, release), []).append(component)
    lines = []
    for (options_text, uri, release), names in found.items():
        bracket = f"[{options_text}] " if options_text else ""
        lines.append(f"deb {bracket}{uri} {release} {' '.join(dict.fromkeys(names))}")
    if not any(f" {suite} " in line for line in lines):
        return ()
    return tuple(lines)
