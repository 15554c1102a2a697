"""The GPUs of one run: opened once to be looked at, and once more when they may be changed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import cast

from emulator.apply.handlers.gpu.host import GpuHost
from emulator.lab.gpu_session import GpuSession


class Opener:
    """Counts what is opened, and how."""

    def __init__(self) -> None:
        self.opened: list[bool] = []

    def __call__(self, dry: bool) -> GpuHost:
        self.opened.append(dry)
        return cast(GpuHost, object())


def test_threads_share_one_dry_opening_and_later_one_that_changes() -> None:
    opener = Opener()
    session = GpuSession(opener, dry=True)
    assert opener.opened == []
    with ThreadPoolExecutor(max_workers=8) as pool:
        looked_at = set(pool.map(lambda _: session(), range(32)))
    assert (len(looked_at), opener.opened) == (1, [True])
    session.allow_changes()
    session.allow_changes()
    changed = session()
    assert changed is session()
    assert changed not in looked_at
    assert opener.opened == [True, False]


def test_a_session_for_changes_stays_open() -> None:
    opener = Opener()
    session = GpuSession(opener, dry=False)
    first = session()
    session.allow_changes()
    assert session() is first
    assert opener.opened == [False]
