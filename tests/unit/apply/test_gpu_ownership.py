"""The GPU ledger: claims, and files that are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.core.errors import ConflictError, StateError
from tests.support.gpu_lab import (
    GpuLab,
)


def test_a_damaged_ledger_is_never_overwritten(lab: GpuLab, tmp_path: Path) -> None:
    path = tmp_path / "owners.json"
    for text in ("{", '{"version": 9, "owners": {}}', '{"version": 1, "owners": []}', '{"version": 2, "owners": {}}'):
        path.write_text(text)
        with pytest.raises(StateError) as caught:
            lab.host.ledger.claim("key", "demo")
        assert caught.value.fix and path.read_text() == text


def test_a_claim_is_for_one_lab_and_only_it_can_give_it_back(lab: GpuLab) -> None:
    ledger = lab.host.ledger
    ledger.claim("key", "demo")
    ledger.claim("key", "demo")
    with pytest.raises(ConflictError, match="belongs to lab demo"):
        ledger.claim("key", "other")
    ledger.release("key", "other")
    assert ledger.of("demo") == ("key",)
    ledger.pass_on("key", "demo", "other")
    assert ledger.owner("key") == "other"
