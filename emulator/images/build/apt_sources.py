"""The apt sources of an image's packages: the host's own, with keys and proxy. No server is named here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from emulator.core.debian.releases import RELEASES, Release
from emulator.core.errors import HostNotFitError
from emulator.core.ports import ProcessRunner
from emulator.images.build.apt_entry import Signing, signing_of

# What of the host's apt configuration matters for fetching. Everything else (hooks, pinning) belongs to the host.
_PASSED_OPTIONS = re.compile(
    r"Acquire::(?:(?:http|https|ftp)(?:::[^ ]+)?|Retries|ForceIPv4|ForceIPv6|Check-Valid-Until|Check-Date"
    r"|Max-ValidTime) \"(?P<value>[^\"]+)\";"
)
_FORMAT = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SOURCESENTRY)|$(ORIGIN)"
# Up to the last '@': an account's password may have one in it too.
_ACCOUNT = re.compile(r"(?<=//)[^/\s\"]*@")
# What a source may call a release: its code name, or its place among them.
_SUITES = (*Release, "stable", "oldstable", "testing")
KEYRINGS = Path("/usr/share/keyrings")


@dataclass(frozen=True, slots=True)
class AptSources:
    """`lines` are one-line apt sources; empty means mmdebstrap's own default for the suite.

    `options` are apt configuration lines such as a proxy; they may hold a password and go into a file that
    only root reads, never into a command line. `other_release`: the lines are the host's for its own release, with the
    wanted one's name in its place.
    """

    lines: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    other_release: bool = False

    def with_account(self) -> tuple[str, ...]:
        """Lines and options that contain a login (`//user:password@host`), without user and password."""
        found = (_ACCOUNT.subn("***@", line) for line in (*self.lines, *self.options))
        return tuple(masked for masked, count in found if count)


def host_sources(runner: ProcessRunner, *, suite: str, components: Iterable[str]) -> AptSources:
    """The host's sources that serve `suite`, with its updates and security companions.

    apt itself is asked, so that every format and place of its configuration counts. Third-party repositories
    that use the suite's name are left out by their origin. On a host of another Debian release the same mirrors are
    asked for this one, with the keyrings that the host has for them; without apt, or on a host that is no Debian,
    `lines` is empty.
    """
    listing = runner.run(
        ["apt-get", "indextargets", "--format", _FORMAT, "Created-By: Packages"], timeout=60, check=False
    )
    dump = runner.run(["apt-config", "dump"], timeout=60, check=False)
    targets = _debian_targets(listing.stdout if listing.returncode == 0 else "", set(components))
    lines = _source_lines(targets, suite)
    elsewhere = () if lines else _source_lines(_renamed(targets, suite), suite)
    return AptSources(
        lines=lines or elsewhere,
        options=tuple(
            line for line in dump.stdout.splitlines() if dump.returncode == 0 and _PASSED_OPTIONS.fullmatch(line)
        ),
        other_release=bool(elsewhere),
    )


def require_keys(suite: str, keyrings: Path = KEYRINGS) -> None:
    """Raises: HostNotFitError when this host's packages of keys are older than the release `suite`."""
    if suite not in frozenset(Release) or _has_keys(Release(suite), keyrings):
        return
    # The newest that is finished: on a host whose package of keys ends there, it is what labs can have.
    other = next((each for each in reversed(Release) if not RELEASES[each].testing and _has_keys(each, keyrings)), None)
    instead = f"; or ask for {RELEASES[other].title} in the lab file: images: {{release: {other}}}" if other else ""
    raise HostNotFitError(
        f"this host has no key to verify the packages of {RELEASES[Release(suite)].title} with",
        where=str(keyrings),
        fix=f"apt-get update && apt-get install debian-archive-keyring{instead}",
    )


def _has_keys(release: Release, keyrings: Path) -> bool:
    return next(keyrings.glob(f"debian-archive-{RELEASES[release].keys}-*"), None) is not None


@dataclass(frozen=True, slots=True)
class _Target:
    uri: str
    release: str
    component: str
    signing: Signing


def _debian_targets(listing: str, components: set[str]) -> list[_Target]:
    found = []
    for row in listing.splitlines():
        uri, release, component, entry, origin = (row.split("|") + [""] * 5)[:5]
        # An origin that apt has not seen yet prints the placeholder itself: then the suite's name decides.
        known = origin.startswith("$(") or origin in ("Debian", "Debian-Security", "")
        if known and component in components:
            found.append(_Target(uri, release, component, signing_of(entry)))
    return found


def _renamed(targets: list[_Target], suite: str) -> list[_Target]:
    """The targets of the host's own release as those of another one."""
    pockets = RELEASES[Release(suite)].pockets if suite in frozenset(Release) else ()
    found = []
    for target in targets:
        own, dash, pocket = target.release.partition("-")
        if own in _SUITES and f"{dash}{pocket}" in ("", *pockets):
            found.append(replace(target, release=f"{suite}{dash}{pocket}"))
    return found


def _source_lines(targets: list[_Target], suite: str) -> tuple[str, ...]:
    wanted = {suite, f"{suite}-updates", f"{suite}-security", f"{suite}/updates"}
    found: dict[tuple[str, str, str], list[str]] = {}
    for target in targets:
        if target.release in wanted:
            found.setdefault((target.signing.options, target.uri, target.release), []).append(target.component)
    lines = [
        f"deb {options}{uri} {release} {' '.join(dict.fromkeys(names))}"
        for (options, uri, release), names in found.items()
    ]
    return tuple(lines) if any(f" {suite} " in line for line in lines) else ()
