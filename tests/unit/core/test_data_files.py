"""Where the program finds the data that it ships with."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.core.data_files import REQUIRED, first_complete, share_dir
from emulator.core.errors import HyperscalerError


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
    return root


def test_a_checkout_has_them_at_its_top() -> None:
    assert share_dir() == Path(__file__).resolve().parents[3]


def test_the_first_place_that_has_all_wins(tmp_path: Path) -> None:
    half, whole = tree(tmp_path / "half", *REQUIRED[:-1]), tree(tmp_path / "whole", *REQUIRED)
    other = tree(tmp_path / "other", *REQUIRED)
    assert first_complete((tmp_path / "absent", half, whole, other)) == whole


def test_a_broken_installation_is_named_with_the_places_and_the_fix(tmp_path: Path) -> None:
    with pytest.raises(HyperscalerError) as caught:
        first_complete((tmp_path / "one", tmp_path / "two"))
    assert caught.value.where == f"{tmp_path}/one or {tmp_path}/two"
    assert "make setup" in caught.value.fix
