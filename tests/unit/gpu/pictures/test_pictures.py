"""Pictures: what they show, and that hostile names stay text."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from emulator.gpu.model import GpuInstance, Placement
from emulator.gpu.pictures.picture import SegmentKind, picture_of
from emulator.gpu.pictures.render_svg import render_svg
from emulator.gpu.pictures.render_text import render_text, shorten
from emulator.gpu.placement.demand import Assignment, GpuState, GpuUse
from tests.support.placement_cases import A100, gpu_model

SVG = "{http://www.w3.org/2000/svg}"
GPU = GpuState("GPU-0", A100, (GpuInstance("1g.10gb", Placement(5, 1), owner="lab other"),))
GIVEN = (
    Assignment("hpc-compute-1/0", "GPU-0", "3g.40gb", Placement(0, 4)),
    Assignment("hpc-compute-2/0", "GPU-0", "1g.10gb", Placement(6, 1)),
)


def drawn(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 (our own drawing)


def test_segments_distinguish_given_standing_free_and_stranded() -> None:
    (picture,) = picture_of([GPU], GIVEN)
    assert [(s.kind.value, s.start, s.end, s.label) for s in picture.segments] == [
        ("assigned", 0, 4, "3g.40gb"),
        ("free", 4, 5, ""),
        ("standing", 5, 6, "1g.10gb"),
        ("assigned", 6, 7, "1g.10gb"),
        ("stranded", 7, 8, ""),
    ]
    assert picture.creatable == "1g.10gb"


def test_slices_outside_the_allowed_profiles_are_stranded() -> None:
    (picture,) = picture_of([GpuState("GPU-0", A100, allowed=("4g.40gb",))])
    assert [(s.kind, s.start, s.end) for s in picture.segments] == [
        (SegmentKind.FREE, 0, 4),
        (SegmentKind.STRANDED, 4, 8),
    ]


@pytest.mark.parametrize(("use", "kind"), [(GpuUse.WHOLE, SegmentKind.FREE), (GpuUse.CLOSED, SegmentKind.STRANDED)])
def test_a_gpu_that_is_not_cut_is_one_segment(use: GpuUse, kind: SegmentKind) -> None:
    (picture,) = picture_of([GpuState("GPU-0", gpu_model("l40s"), use=use)])
    assert [(s.kind, s.start, s.end) for s in picture.segments] == [(kind, 0, 1)]


def test_plain_text_shows_the_layout_in_ascii() -> None:
    text = render_text(picture_of([GPU], GIVEN), ascii_only=True).plain
    assert text.isascii()
    assert text.splitlines() == [
        "GPU-0  NVIDIA A100-SXM4-80GB",
        "+-------------------------------------------+----------+----------+----------+----------+",
        "|3g.40gb                                    |free      |1g.10gb   |1g.10gb   |stranded  |",
        "|hpc-compute-1                              |          |lab other |hpc~pute-2|          |",
        "+-------------------------------------------+----------+----------+----------+----------+",
        " 0          1          2          3          4          5          6          7",
        "can still be created: 1g.10gb",
        "stranded: memory that no further slice can use",
    ]


@pytest.mark.parametrize("columns", [80, 120])
def test_a_layout_fits_the_columns_of_the_terminal(columns: int) -> None:
    lines = render_text(picture_of([GPU], GIVEN), columns=columns).plain.splitlines()
    assert max(map(len, lines)) == {80: 8 * 9 + 1, 120: 8 * 11 + 1}[columns]
    assert "stranded" in lines[2]
    assert len({len(line) for line in lines[1:5]}) == 1


def test_slices_of_one_node_share_a_colour_and_nodes_differ() -> None:
    given = (*GIVEN, Assignment("hpc-compute-1/1", "GPU-0", "1g.10gb", Placement(4, 1)))
    text = render_text(picture_of([GPU], given))
    styles = {text.plain[s.start : s.end].strip(): str(s.style) for s in text.spans if "black on" in str(s.style)}
    assert styles["hpc-compute-1"] == styles["hpc~pute-1"] != styles["hpc~pute-2"]


def test_control_characters_of_names_do_not_reach_the_terminal() -> None:
    nasty = GpuState("GPU\x1b]0;x\x07", A100, (GpuInstance("1g\x1b[2J", Placement(0, 1), owner="a\nb"),))
    text = render_text(picture_of([nasty])).plain
    assert "\x1b" not in text
    assert "\x07" not in text
    assert len(text.splitlines()) == 7


def test_svg_is_well_formed_accessible_and_complete() -> None:
    drawing = drawn(render_svg(picture_of([GPU, GpuState("GPU-1", A100)], GIVEN), title="Lab demo"))
    assert drawing.get("role") == "img"
    labelled = (drawing.get("aria-labelledby") or "").split()
    assert labelled == ["title", "desc"]
    assert drawing.findtext(f"{SVG}title") == "Lab demo"
    described = drawing.findtext(f"{SVG}desc") or ""
    assert "memory slices 0 to 3 3g.40gb for hpc-compute-1/0" in described
    assert "memory slice 7 stranded" in described
    words = {"".join(node.itertext()) for node in drawing.iter(f"{SVG}text")}
    assert {"3g.40gb", "hpc-compute-1", "lab other", "free", "stranded", "GPU-1NVIDIA A100-SXM4-80GB"} <= words


def test_svg_segments_lie_side_by_side_on_the_strip() -> None:
    drawing = drawn(render_svg(picture_of([GPU], GIVEN)))
    group = next(node for node in drawing.iter(f"{SVG}g") if node.get("id") == "GPU-0")
    spans = [(float(r.get("x", "")), float(r.get("width", ""))) for r in group.iter(f"{SVG}rect")]
    assert [round(left) for left, _ in spans] == [25, 425, 525, 625, 725]
    assert [round(width) for _, width in spans] == [398, 98, 98, 98, 98]


def test_svg_escapes_hostile_names() -> None:
    nasty = GpuState('<script>"&\x00', A100, (GpuInstance("1g.10gb", Placement(0, 1), owner="</svg><script>x"),))
    text = render_svg(picture_of([nasty]), title="<b>&")
    drawing = drawn(text)
    assert not list(drawing.iter(f"{SVG}script"))
    assert not re.search(r"<script", text)
    assert drawing.findtext(f"{SVG}title") == "<b>&"


@pytest.mark.parametrize(
    ("words", "short"), [("hpc-compute-12", "hpc~ute-12"), ("short", "short"), ("exactlyten", "exactlyten")]
)
def test_long_names_lose_their_middle(words: str, short: str) -> None:
    assert shorten(words, 10, "~") == short
