"""What `host check` found, for people and as JSON."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator

from emulator.cli.output import Styled
from emulator.host.checks import HostReport
from emulator.host.checks.result import HostCheckResult, Level

_COLOURS = {Level.PASS: "green", Level.WARN: "yellow", Level.FAIL: "red"}
_LEFT = 30  # columns before what was found: level, title


def host_report_json(report: HostReport) -> dict[str, object]:
    """Keys are an interface: add, do not rename."""
    return {
        "version": 1,
        "fit": not report.failed,
        "counts": {level.value: report.count(level) for level in Level},
        "unseen": report.unseen,
        "checks": [{"group": group.title, **result.to_json()} for group in report.groups for result in group.results],
    }


def host_report_text(report: HostReport, *, verbose: bool, subject: str) -> str:
    """The report as it is written to a file or pipe."""
    return "\n".join(
        "".join(part if isinstance(part, str) else part.text for part in line)
        for line in host_report_lines(report, verbose=verbose, subject=subject)
    )


def host_report_lines(report: HostReport, *, verbose: bool, subject: str) -> list[tuple[str | Styled, ...]]:
    """Groups of aligned lines; what is not well has its reason and its remedy below it."""
    width = max(80, min(shutil.get_terminal_size((120, 24)).columns, 140))
    lines: list[tuple[str | Styled, ...]] = []
    for group in report.groups:
        lines.append((Styled(group.title, bold=True),))
        for result in group.results:
            lines.extend(_lines(result, verbose=verbose, width=width))
        lines.append(())
    lines.append((_summary(report, subject),))
    return lines


def _lines(result: HostCheckResult, *, verbose: bool, width: int) -> Iterator[tuple[str | Styled, ...]]:
    first, *rest = _wrap(result.found, width - _LEFT)
    word = Styled(result.level.value, _COLOURS[result.level], bold=True)
    yield "  ", word, f"  {result.title:<{_LEFT - 8}}{first}"
    for line in _below(result, rest, verbose=verbose, width=width):
        yield (line,)


def _below(result: HostCheckResult, rest: list[str], *, verbose: bool, width: int) -> Iterator[str]:
    """What follows the first line: the rest of what was found, the reason and the remedy."""
    for line in rest:
        yield " " * _LEFT + line
    troubled = result.level is not Level.PASS
    if troubled or verbose:
        yield from _labelled("why", result.why, width)
    if troubled and result.fix:
        # Never broken: it is there to be copied.
        yield f"{' ' * _LEFT}fix: {result.fix}"


def _labelled(label: str, text: str, width: int) -> Iterator[str]:
    for number, line in enumerate(_wrap(text, width - _LEFT - 5)):
        yield " " * _LEFT + (f"{label}: {line}" if number == 0 else f"     {line}")


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _summary(report: HostReport, subject: str) -> str:
    counts = ", ".join(f"{report.count(level)} {level.value}" for level in Level)
    verdict = "is not fit: fix what says FAIL" if report.failed else "can run labs"
    unseen = f"; {report.unseen} not to be seen by this user" if report.unseen else ""
    return f"{counts}{unseen}: {subject} {verdict}"
