"""The kernel is asked of its clock, and nothing is changed."""

from __future__ import annotations

import ctypes

import pytest

from emulator.adapters.system.kernel_ntp import clock_synchronised


class _Libc:
    def __init__(self, state: int) -> None:
        self.state, self.modes = state, -1

    def adjtimex(self, timex: ctypes.Array[ctypes.c_char]) -> int:
        self.modes = int.from_bytes(timex.raw[:4], "little")
        return self.state


@pytest.mark.parametrize(("state", "expected"), [(0, True), (1, True), (5, False), (-1, None)])
def test_the_kernel_s_answer(monkeypatch: pytest.MonkeyPatch, state: int, expected: bool | None) -> None:
    libc = _Libc(state)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_args, **_kwargs: libc)
    assert clock_synchronised() is expected
    assert libc.modes == 0


def test_this_machine_answers() -> None:
    assert clock_synchronised() in (True, False, None)
