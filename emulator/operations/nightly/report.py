"""What a night has to say, as JSON and as a page. Pure.

Names of packages, errors and results of checks come from guests and repositories: in the page all text is escaped, and
the page asks the browser to run and load nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from emulator.core.units import human_duration, printable
from emulator.operations.nightly.model import ImageFacts, Night, PackageChanges, package_changes, usual_seconds

_STYLE = (
    "body{font:14px sans-serif;margin:2em}table{border-collapse:collapse;margin:.5em 0 1.5em}"
    "td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left;vertical-align:top}"
    ".bad{color:#a00}.good{color:#060}pre{white-space:pre-wrap}"
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def report_json(night: Night) -> dict[str, Any]:
    """Keys are an interface: add, do not rename."""
    return {
        "version": 1,
        "lab": night.name,
        "file": night.file,
        "built": night.candidate,
        "started": _when(night.at),
        "seconds": night.seconds,
        "good": night.good,
        "place": night.place.name.lower(),
        "kept": night.kept,
        "error": dict(night.error) if night.error is not None else None,
        "phases": [
            {"name": name, "seconds": seconds, "usual": usual_seconds(night.history, name), "last": _last(night, name)}
            for name, seconds in night.phases.items()
        ],
        "images": [_image(night, facts) for facts in night.images],
        "checks": [{"name": each.name, "ok": each.ok, "detail": each.detail} for each in night.checks],
        "warnings": list(night.warnings),
        "nights": [{"started": _when(each.at), "good": each.good, "seconds": each.seconds} for each in night.history],
    }


def summary(night: Night) -> str:
    """A few lines for a terminal and a notification."""
    lines = [headline(night)]
    if night.error is not None:
        where = f"{night.error['where']}: " if night.error["where"] else ""
        lines += [f"why: {where}{night.error['what']}", f"fix: {night.error['fix']}"]
    lines.append(f"there is now: lab {night.kept}" if night.kept else "there is now no lab of these nights")
    for name, seconds in night.phases.items():
        usual = usual_seconds(night.history, name)
        compared = f", usually {human_duration(usual)}" if usual is not None else ""
        lines.append(f"  {name}: {human_duration(seconds)}{compared}")
    for facts in night.images:
        found = changes_of(night, facts)
        count = len(found.added) + len(found.removed) + len(found.changed) if found is not None else 0
        said = f"{count} packages differ from the last good build" if found is not None else "no earlier build"
        lines.append(f"  {facts.name} {facts.digest[:12]}: {said}")
    lines += [f"  warning: {each}" for each in night.warnings]
    return "\n".join(printable(line, line_limit=1000) for line in lines)


def headline(night: Night) -> str:
    result = "good" if night.good else "FAILED"
    return f"nightly rebuild of {night.name}: {result} after {human_duration(night.seconds)}, {night.place.value}"


def changes_of(night: Night, facts: ImageFacts) -> PackageChanges | None:
    """What changed since the last good build; None when there is none to compare with."""
    before = next((each for each in night.before.images if each.name == facts.name), None) if night.before else None
    return package_changes(before.packages, facts.packages) if before is not None else None


def report_html(night: Night) -> str:
    """The same as a page of its own."""
    colour = "good" if night.good else "bad"
    parts = [
        f'<h1 class="{colour}">{_text(headline(night))}</h1>',
        f"<p>{_text(night.file)}, begun {_when(night.at)}; there is now: {_text(night.kept or 'no lab')}</p>",
    ]
    if night.error is not None:
        said = "\n".join(f"{key}: {night.error[key]}" for key in ("what", "where", "fix") if night.error[key])
        parts.append(f"<h2>Why</h2><pre>{_text(said)}</pre>")
    parts.append("<h2>Phases</h2>" + _table(("phase", "this night", "usually", "the last nights"), _phase_rows(night)))
    for facts in night.images:
        parts.append(f"<h2>Image {_text(facts.name)}</h2>" + _image_table(night, facts))
    checks = [(each.name, "ok" if each.ok else "FAILED", each.detail) for each in night.checks]
    parts.append("<h2>Checks</h2>" + _table(("check", "result", "detail"), checks))
    parts.append("<h2>Warnings</h2>" + _table(("warning",), [(each,) for each in night.warnings]))
    nights = [
        (_when(each.at), "good" if each.good else "FAILED", human_duration(each.seconds)) for each in night.history
    ]
    parts.append("<h2>Nights before</h2>" + _table(("begun", "result", "time"), nights))
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{_text(headline(night))}</title><style>{_STYLE}</style>"
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _phase_rows(night: Night) -> Iterable[Sequence[str]]:
    for name, seconds in night.phases.items():
        usual = usual_seconds(night.history, name)
        last = ", ".join(human_duration(each) for each in _last(night, name))
        yield name, human_duration(seconds), human_duration(usual) if usual is not None else "", last


def _image_table(night: Night, facts: ImageFacts) -> str:
    found = changes_of(night, facts)
    before = next((each.digest for each in night.before.images if each.name == facts.name), "") if night.before else ""
    said = f"<p>digest {_text(facts.digest)}, before {_text(before or 'none')}</p>"
    if found is None:
        return said
    rows = [
        *((name, "", version) for name, version in found.added.items()),
        *((name, version, "") for name, version in found.removed.items()),
        *((name, old, new) for name, (old, new) in found.changed.items()),
    ]
    return said + _table(("package", "before", "now"), sorted(rows))


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    made = ["".join(f"<td>{_text(cell)}</td>" for cell in row) for row in rows]
    if not made:
        return "<p>none</p>"
    top = "".join(f"<th>{_text(cell)}</th>" for cell in heading)
    return f"<table><tr>{top}</tr>" + "".join(f"<tr>{row}</tr>" for row in made) + "</table>"


def _text(text: str) -> str:
    """Text as text, whatever is in it."""
    return escape(printable(text), quote=True)


def _image(night: Night, facts: ImageFacts) -> dict[str, Any]:
    found = changes_of(night, facts)
    before = next((each.digest for each in night.before.images if each.name == facts.name), "") if night.before else ""
    changes = found or PackageChanges()
    return {
        "name": facts.name,
        "digest": facts.digest,
        "before": before or None,
        "added": dict(changes.added),
        "removed": dict(changes.removed),
        "changed": {name: list(versions) for name, versions in changes.changed.items()},
    }


def _last(night: Night, phase: str) -> list[float]:
    return [each.phases[phase] for each in night.history if phase in each.phases][-5:]


def _when(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
