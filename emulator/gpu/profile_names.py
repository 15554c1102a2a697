"""The ways in which vendors and people spell a MIG profile, and the profile that is meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

_FORMS = tuple(
    re.compile(form)
    for form in (
        # `mig-1g.10gb` and `nvidia.com/mig-1g.10gb.me` of the device plugin, `MIG 1g.10gb` of nvidia-smi -L,
        # `1c.3g.40gb` of a compute instance, `1G.10GB`, and names without their point, unit or memory.
        r"(?:nvidia\.com/)?(?:nvidia |grid )?(?:mig[-_ ]*)?(?:\d+c\.)?(?P<slices>\d{1,2})g"
        r"(?:[._ -]?(?P<memory>\d{1,4}) ?g?b?)?(?P<extra>[+._ -]?(?:me\.all|me|gfx))?",
        # A vGPU type of a slice, such as `GRID A100D-1-10C` or `A100D-1-10CME`.
        r"(?:.* )?[a-z0-9]+-(?P<slices>\d)-(?P<memory>\d{1,3})[abcq](?P<extra>me|gfx)?",
        r"(?P<slices>)(?P<memory>\d{1,4}) ?gi?b(?P<extra>)",
    )
)


@dataclass(frozen=True, slots=True)
class _Spelled:
    """A profile in parts: compute slices, memory in GB (None: not said), and what is extra (`+me`, `-me`, `+gfx`)."""

    slices: int | None
    memory: int | None
    extra: str


def meant_profile(text: str, names: Iterable[str]) -> str | None:
    """The profile that was probably meant.

    Of as many compute slices the one with the nearest memory is taken, and of those the one with the same extras.

    Args:
        text: the profile as written, in any spelling.
        names: the profiles that there are, as NVIDIA writes them.
    """
    known = tuple(names)
    wanted = _spelled(text)
    parts = {name: each for name in known if (each := _spelled(name))}
    same = [name for name, each in parts.items() if wanted and wanted.slices in (None, each.slices)]
    if wanted is None or not same:
        return next(iter(difflib.get_close_matches(text[:100].lower(), known, n=1, cutoff=0.6)), None)
    return min(same, key=lambda name: _distance(wanted, parts[name]))


def _distance(wanted: _Spelled, offered: _Spelled) -> tuple[int, bool, int]:
    memory = offered.memory or 0
    return abs(memory - (memory if wanted.memory is None else wanted.memory)), offered.extra != wanted.extra, memory


def _spelled(text: str) -> _Spelled | None:
    plain = text.strip().lower()[:100]
    match = next((found for form in _FORMS if (found := form.fullmatch(plain))), None)
    if match is None:
        return None
    extra = (match["extra"] or "").lstrip("+._ ")
    return _Spelled(
        int(match["slices"]) if match["slices"] else None,
        int(match["memory"]) if match["memory"] else None,
        extra if not extra or extra.startswith("-") else f"+{extra}",
    )
