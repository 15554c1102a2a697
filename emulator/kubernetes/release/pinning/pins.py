"""The host's record of digests: what a name of upstream's meant when it was first fetched here, it has to mean later.

A tag of a registry and a file behind a URL can be exchanged by those who control them, or their account; a version in
the name promises that nobody does. The record holds them to it. It is outside the cache, which may be removed.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulator.core.errors import HyperscalerError, StateError, UsageError
from emulator.core.fs import write_whole

FORMAT = 1
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SUBJECT = re.compile(r"[!-~]{1,500}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOST_BYTES = 4 << 20


class ChangedError(HyperscalerError):
    """Something of upstream's is not what it was when this host first fetched it."""


@dataclass(frozen=True, slots=True)
class Pin:
    """`digest` is `sha256:` and 64 hexadecimal digits, `since` the day (UTC) on which it was first seen or accepted."""

    digest: str
    since: str


@dataclass(frozen=True, slots=True)
class Pins:
    """The record at `path`, which the first fetch makes. To be changed under `cache_lock`."""

    path: Path

    def read(self) -> dict[str, Pin]:
        """Pins by what they are of: the reference of a container image, or the URL of a manifest.

        Raises:
            StateError: the record is damaged; without it nothing could be held to its word.
        """
        try:
            with self.path.open("rb") as stream:
                raw = json.loads(stream.read(_MOST_BYTES))
            if raw["format"] != FORMAT:
                raise ValueError(f"format {raw['format']!r}")
            return {_checked(key, _SUBJECT): _pin(entry) for key, entry in raw["pins"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StateError(
                f"the record of upstream's digests cannot be used: {error}",
                where=str(self.path),
                fix="put it back from a copy; or move it away, and whatever is fetched next is trusted anew",
            ) from error

    def require(self, found: Mapping[str, str]) -> None:
        """Compare digests, by what they are of, with the record, and add those that are not in it yet.

        Raises:
            ChangedError: some have changed; it names both digests of each. Nothing is added then.
            StateError: the record is damaged, or cannot be written.
        """
        known = self.read()
        changed = [subject for subject in sorted(found) if subject in known and known[subject].digest != found[subject]]
        if changed:
            raise ChangedError(
                "what upstream has is not what this host fetched before:\n    "
                + "\n    ".join(
                    f"{each}: {found[each]} now, {known[each].digest} on {known[each].since}" for each in changed
                ),
                where=str(self.path),
                fix="find out who changed it and why; to take the new one on purpose:\n    "
                + "\n    ".join(
                    f"hyperscaler host accept-digest {shlex.quote(each)} {found[each]}" for each in changed
                ),
            )
        new = {subject: Pin(digest, _today()) for subject, digest in found.items() if subject not in known}
        if new:
            self._write({**known, **new})

    def accept(self, subject: str, digest: str) -> Pin | None:
        """Let `subject` have this digest from now on; what it had before.

        Raises:
            UsageError: it is not on record, or that is no digest.
        """
        known = self.read()
        if not _DIGEST.fullmatch(digest):
            raise UsageError(
                f"{digest!r} is no digest", fix="write sha256: and 64 hexadecimal digits, as the refusal does"
            )
        if subject not in known:
            raise UsageError(
                f"there is no digest of {subject} on record", where=str(self.path), fix="write it as the refusal does"
            )
        before = known[subject]
        if before.digest == digest:
            return None
        self._write({**known, subject: Pin(digest, _today())})
        return before

    def _write(self, pins: Mapping[str, Pin]) -> None:
        entries = {subject: {"digest": pin.digest, "since": pin.since} for subject, pin in sorted(pins.items())}
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(self.path, (json.dumps({"format": FORMAT, "pins": entries}, indent=2) + "\n").encode())


def _pin(entry: Mapping[str, Any]) -> Pin:
    return Pin(_checked(entry["digest"], _DIGEST), _checked(entry["since"], _DATE))


def _checked(value: object, form: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError(f"{str(value)[:100]!r} cannot be used here")
    return value


def _today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())
