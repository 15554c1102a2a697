"""Reports: what is compared, and that all text stays text."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from emulator.core.units import printable
from emulator.guests.verify.report import CheckResult
from emulator.operations.nightly.model import ImageFacts, PastNight, usual_seconds
from emulator.operations.nightly.report import report_html, report_json, summary
from tests.support.nights import night

FAILED = {"type": "VerifyError", "what": "nodes: none", "where": "demo-b", "fix": "look", "exit_code": 1}


class Page(HTMLParser):
    """The tags of a page and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.names: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


PLAIN = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "pre", "table", "tr", "th", "td"}


def test_json_has_phases_packages_and_the_nights_before() -> None:
    data = json.loads(json.dumps(report_json(night())))
    assert (data["good"], data["kept"], data["place"], data["started"]) == (
        True,
        "demo-b",
        "next_to",
        "2023-11-15T22:13:20Z",
    )
    assert data["phases"][1] == {"name": "Slurm boot", "seconds": 200.0, "usual": 100.0, "last": [100.0]}
    assert data["images"] == [
        {
            "name": "hpc-base",
            "digest": "b" * 64,
            "before": "a" * 64,
            "added": {"added": "3"},
            "removed": {"gone": "1"},
            "changed": {"new": ["1", "2"]},
        }
    ]
    assert data["error"] is None


def test_the_summary_says_what_there_is_now() -> None:
    good = summary(night())
    assert good.startswith("nightly rebuild of demo: good after 11m40s, next to the last good lab\n")
    assert "  Slurm boot: 3m20s, usually 1m40s\n" in good
    assert "  hpc-base bbbbbbbbbbbb: 3 packages differ from the last good build" in good
    failed = summary(night(error=FAILED, kept="demo-a"))
    assert "FAILED" in failed.splitlines()[0]
    assert "why: demo-b: nodes: none\nfix: look\nthere is now: lab demo-a\n" in failed
    assert "there is now no lab of these nights" in summary(night(error=FAILED, kept=""))


def test_the_page_has_the_same() -> None:
    page = Page(report_html(night(error=FAILED)))
    assert page.tags == PLAIN
    for said in (
        "FAILED after 11m40s",
        "Slurm boot",
        "1m40s",
        "gone",
        "2 nodes idle",
        "the disk is nearly full",
        "nodes: none",
    ):
        assert said in page.text


HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "</title><script>alert(1)</script>",
    "</style><script>",
    "<!--",
    "]]>",
    "&lt;script&gt;",
    "\x1b]0;x\x07\u202egnp",
    "javascript:alert(1)",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_guests_and_repositories_stays_text(text: str) -> None:
    """Whatever place it comes to: package, version, error, check, warning, file."""
    whole = night(
        file=text,
        error={**FAILED, "what": text, "where": text, "fix": text},
        images=(ImageFacts(text, text, {text: text}),),
        checks=(CheckResult(text, False, text, 1.0),),
        warnings=(text,),
        phases={text: 1.0},
        kept=text,
    )
    page = Page(report_html(whole))
    assert page.tags == PLAIN
    assert page.names <= {"class", "charset", "http-equiv", "content", "lang"}
    assert page.text.count(printable(text)) >= 8
    assert "\x1b" not in summary(whole) + report_html(whole)


def test_the_page_runs_and_loads_nothing() -> None:
    page = report_html(night())
    assert "default-src 'none'" in page
    assert "http://" not in page and "https://" not in page


@pytest.mark.parametrize(
    ("seconds", "usual"), [([], None), ([5.0], 5.0), ([1.0, 9.0, 2.0], 2.0), ([99.0, 1.0, 1.0, 1.0, 2.0, 2.0], 1.0)]
)
def test_usual_is_the_median_of_the_last_good_nights(seconds: list[float], usual: float | None) -> None:
    nights = tuple(PastNight(0, True, 1.0, {"boot": each}) for each in seconds)
    bad = PastNight(0, False, 1.0, {"boot": 1000.0})
    assert usual_seconds((*nights, bad), "boot") == usual
