"""GPUs as an SVG drawing: self-contained, with title and description for screen readers, every name escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from emulator.gpu.pictures.picture import GpuPicture, Segment, SegmentKind
from emulator.gpu.pictures.render_text import holder_colours, node_name, shorten

_LEFT, _TOP, _STRIP, _CELL, _HEIGHT, _GAP = 24, 84, 800, 100, 62, 64
_WIDTH = _LEFT * 2 + _STRIP
# Eight fills on which dark text keeps a contrast above 4.5:1 (Okabe and Ito's hues, lightened).
_FILLS = ("#8ecae6", "#b7e4a1", "#f7c59f", "#d6c1f0", "#f4a6b8", "#a8e0d1", "#f2e29b", "#c3d0e8")
_FONT = "font-family=\"'Segoe UI','Helvetica Neue',Arial,sans-serif\""


def render_svg(pictures: Sequence[GpuPicture], *, title: str = "GPU layout") -> str:
    """The drawing as text, UTF-8 when written. Equal pictures give equal bytes."""
    colours = holder_colours(pictures)
    height = _TOP + len(pictures) * (_HEIGHT + _GAP) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" role="img" aria-labelledby="title desc" {_FONT}>',
        f'<title id="title">{_text(title)}</title>',
        f'<desc id="desc">{_text(" ".join(map(_described, pictures)))}</desc>',
        '<defs><pattern id="stranded" width="8" height="8" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect width="8" height="8" fill="#f3f1ee"/>'
        '<rect width="3" height="8" fill="#cfc8bf"/></pattern></defs>',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="40" font-size="22" font-weight="600" fill="#1c2733">{_text(title)}</text>',
    ]
    for n, picture in enumerate(pictures):
        parts += _gpu(picture, _TOP + n * (_HEIGHT + _GAP), colours, n)
    parts += _legend(height - 26)
    return "\n".join([*parts, "</svg>", ""])


def _gpu(picture: GpuPicture, top: int, colours: dict[str, int], number: int) -> list[str]:
    rest = f"can still be created: {picture.creatable}" if picture.creatable else "nothing more can be created"
    parts = [
        f'<g id="GPU-{number}"><text x="{_LEFT}" y="{top - 8}" font-size="14" fill="#1c2733">'
        f'<tspan font-weight="600">{_text(picture.id)}</tspan><tspan dx="10" fill="#51606e">'
        f"{_text(picture.product)}</tspan></text>",
        f'<text x="{_LEFT + _STRIP}" y="{top - 8}" font-size="12" text-anchor="end" fill="#51606e">'
        f"{_text(rest)}</text>",
    ]
    unit = _STRIP / picture.slices
    for segment in picture.segments:
        parts += _segment(segment, top, unit, colours)
    if picture.slices > 1:
        parts += [
            f'<text x="{_LEFT + n * unit + 4:g}" y="{top + _HEIGHT + 15}" font-size="11" fill="#7a8794">{n}</text>'
            for n in range(picture.slices)
        ]
    return [*parts, "</g>"]


def _segment(segment: Segment, top: int, unit: float, colours: dict[str, int]) -> list[str]:
    left, width = _LEFT + segment.start * unit + 1, (segment.end - segment.start) * unit - 2
    first, second = segment.label, node_name(segment.holder)
    fill, edge, ink = "#ffffff", 'stroke="#9aa5b1" stroke-dasharray="5 4"', "#51606e"
    if segment.kind in (SegmentKind.ASSIGNED, SegmentKind.WHOLE):
        fill, edge, ink = _FILLS[colours[second] % len(_FILLS)], 'stroke="#3a4a5a"', "#13202c"
    elif segment.kind is SegmentKind.STANDING:
        fill, edge, ink = "#dde2e7", 'stroke="#7a8794"', "#27323d"
        second = second or "in place"
    elif segment.kind is SegmentKind.STRANDED:
        fill, edge, first = "url(#stranded)", 'stroke="#b9b1a6"', "stranded"
    else:
        first = "free"
    middle = left + width / 2
    parts = [
        f'<g><title>{_text(_spoken(segment))}</title><rect x="{left:g}" y="{top}" width="{width:g}" '
        f'height="{_HEIGHT}" rx="5" fill="{fill}" {edge}/>'
    ]
    for words, drop, size in ((first, 27 if second else 36, 14), (second, 46, 11)):
        if words:
            parts.append(
                f'<text x="{middle:g}" y="{top + drop}" font-size="{size}" text-anchor="middle" '
                f'fill="{ink}">{_text(_short(words, width, size))}</text>'
            )
    return [*parts, "</g>"]


def _legend(top: int) -> list[str]:
    items = (
        ("given by this plan, one colour a node", "#8ecae6", "#3a4a5a"),
        ("in place before", "#dde2e7", "#7a8794"),
        ("free", "#ffffff", "#9aa5b1"),
        ("stranded: no profile fits", "url(#stranded)", "#b9b1a6"),
    )
    parts, left = [], _LEFT
    for words, fill, edge in items:
        parts.append(f'<rect x="{left}" y="{top}" width="14" height="14" rx="3" fill="{fill}" stroke="{edge}"/>')
        parts.append(f'<text x="{left + 20}" y="{top + 12}" font-size="12" fill="#51606e">{words}</text>')
        left += 46 + round(6.3 * len(words))
    return parts


def _described(picture: GpuPicture) -> str:
    return f"{picture.title}: {'; '.join(map(_spoken, picture.segments))}."


def _spoken(segment: Segment) -> str:
    last = segment.end - 1
    where = f"memory slice {segment.start}" if segment.start == last else f"memory slices {segment.start} to {last}"
    return f"{where} {segment.label or segment.kind.value}{' for ' + segment.holder if segment.holder else ''}"


def _short(words: str, width: float, size: int) -> str:
    most = max(3, int((width - 8) / (size * 0.54)))
    return words if len(words) <= most else shorten(words, most, "…")


def _text(words: str) -> str:
    """Escaped, and without the control characters that XML forbids."""
    return escape("".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in words))
