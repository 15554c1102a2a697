"""Hostile text for the parsers: what programs, kernels and people really write, and what becomes of it.

A parser answers with a value or with an error of the product's own, in bounded time, whatever it is given.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hypothesis import strategies as st

from emulator.core.errors import HyperscalerError

T = TypeVar("T")


def slowness() -> float:
    """How many times slower this host counts than one of 2020 does; at least 1."""
    started = time.thread_time()
    assert sum(range(1_000_000)) and [number * number for number in range(300_000)]
    return max(1.0, (time.thread_time() - started) / 0.04)


CPU_SECONDS = 2.0 * slowness()
"""What a parser may take for one of the small texts here, in CPU time of its own thread: other load does not count, and
a slow host gets more."""

# Digits that are none to `int`, a number that `int` refuses to read for its length, and more that has bitten parsers.
ODD_WORDS = (
    "", " ", "0", "-1", "1e999", "nan", "²", "٣", "9" * 5000, "0x", "1.5", "\ud800", "\x00", "\x1b[31m", "\x85",
    "\u2028",     "(null)", "N/A", "../..", "a" * 300, "=", "|", ":", ",", "{}", "[]", "None", "true",
)  # fmt: skip
odd_words = st.sampled_from(ODD_WORDS)
words = odd_words | st.text(max_size=12) | st.integers().map(str)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([10**400, 1e308]) | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def answered(parse: Callable[..., T], *arguments: object, **options: object) -> T | None:
    """What `parse` makes of it; None for an error of ours, which says what is wrong. Any other exception is a fault."""
    started = time.thread_time()
    try:
        value = parse(*arguments, **options)
    except HyperscalerError as error:
        assert error.what
        value = None
    spent = time.thread_time() - started
    assert spent < CPU_SECONDS, f"{parse} took {spent:.1f} s for {arguments!r}"
    return value


@st.composite
def changed(draw: st.DrawFn, texts: Sequence[str]) -> str:
    """One of the texts with some places cut out, doubled or written over."""
    text = draw(st.sampled_from(list(texts)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 40)))
        middle = draw(st.sampled_from(["", text[start:end] * 2]) | words)
        text = text[:start] + middle + text[end:]
    return text


@st.composite
def changed_json(draw: st.DrawFn, documents: Sequence[Any]) -> Any:
    """One of the documents with some of its values replaced, keys taken away or added."""
    document = json.loads(json.dumps(draw(st.sampled_from(list(documents)))))
    for _ in range(draw(st.integers(1, 3))):
        document = _edited(draw, document)
    return document


def _edited(draw: st.DrawFn, value: Any) -> Any:
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(value)))
        how = draw(st.sampled_from(["inside", "inside", "inside", "gone", "more"]))
        if how == "gone":
            return {name: item for name, item in value.items() if name != key}
        if how == "more":
            return {**value, draw(words): draw(json_values)}
        return {**value, key: _edited(draw, value[key])}
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], _edited(draw, value[at]), *value[at + 1 :]]
    return draw(odd_words if isinstance(value, str) and draw(st.booleans()) else json_values)


def as_bytes(text: str) -> bytes:
    """The text as it may lie on a disk, halves of surrogate pairs included."""
    return text.encode("utf-8", "surrogatepass")
