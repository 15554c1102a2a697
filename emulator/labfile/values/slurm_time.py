"""Slurm's ways to write a duration."""

from __future__ import annotations

import re

FORMS = "minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS or UNLIMITED"

_CLOCK = re.compile(r"(\d{1,6})(?::(\d{1,2}))?(?::(\d{1,2}))?\Z", re.ASCII)
_DAYS = re.compile(r"(\d{1,4})-(\d{1,2})(?::(\d{1,2}))?(?::(\d{1,2}))?\Z", re.ASCII)


def parse_slurm_time(text: str) -> int | None:
    """Seconds of a duration in one of Slurm's forms (see `sbatch --time`); None for no limit.

    Raises:
        ValueError: it has none of the forms, or is zero; the message says which.
    """
    if text.upper() in ("UNLIMITED", "INFINITE", "-1"):
        return None
    if match := _DAYS.match(text):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        if hours > 23:
            raise ValueError(f"after days the hours go to 23, not {hours}")
    elif match := _CLOCK.match(text):
        days = hours = seconds = 0
        first, second, third = match.groups()
        if third is not None:
            hours, minutes, seconds = int(first), int(second), int(third)
        else:
            minutes, seconds = int(first), int(second or 0)
            hours, minutes = divmod(minutes, 60)
    else:
        raise ValueError("it has none of Slurm's forms")
    if minutes > 59 or seconds > 59:
        raise ValueError("minutes and seconds go to 59")
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if not total:
        raise ValueError("a limit of zero lets no job run")
    return total
