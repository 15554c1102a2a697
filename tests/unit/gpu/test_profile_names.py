from __future__ import annotations

import pytest

from emulator.gpu.catalog import gpus
from emulator.gpu.model import GpuModel
from emulator.gpu.profile_names import meant_profile

A100 = ("1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb")
GB200 = ("1g.23gb", "1g.23gb+me", "1g.47gb", "2g.47gb", "3g.93gb", "4g.93gb", "7g.186gb")
H200 = ("1g.18gb", "1g.18gb+me", "1g.35gb", "2g.35gb", "3g.71gb", "4g.71gb", "7g.141gb")
RTX_PRO = ("1g.24gb", "1g.24gb+me", "1g.24gb+gfx", "1g.24gb+me.all", "1g.24gb-me", "2g.48gb")


@pytest.mark.parametrize(
    ("text", "names", "meant"),
    [
        ("mig-1g.10gb", A100, "1g.10gb"),
        ("MIG 1g.10gb", A100, "1g.10gb"),
        ("nvidia.com/mig-1g.10gb", A100, "1g.10gb"),
        ("1G.10GB", A100, "1g.10gb"),
        ("A100D-1-10C", A100, "1g.10gb"),
        ("GRID A100D-3-40C", A100, "3g.40gb"),
        ("1g10gb", A100, "1g.10gb"),
        ("1g.10", A100, "1g.10gb"),
        ("10gb", A100, "1g.10gb"),
        ("3g", A100, "3g.40gb"),
        ("1c.3g.40gb", A100, "3g.40gb"),
        ("1g.10gb.me", A100, "1g.10gb+me"),
        ("nvidia.com/mig-1g.10gb.me", A100, "1g.10gb+me"),
        ("A100D-1-10CME", A100, "1g.10gb+me"),
        ("1g.5gb", A100, "1g.10gb"),
        ("1g.5gb+me", A100, "1g.10gb+me"),
        ("7g.40gb", A100, "7g.80gb"),
        ("1g.45gb", GB200, "1g.47gb"),
        ("1g.24gb", GB200, "1g.23gb"),
        ("1g.40gb", H200, "1g.35gb"),
        ("1g.24gb.me.all", RTX_PRO, "1g.24gb+me.all"),
        ("1g.24gb-me", RTX_PRO, "1g.24gb-me"),
        ("1G.24GB+GFX", RTX_PRO, "1g.24gb+gfx"),
        ("whole", A100, None),
        ("", A100, None),
        ("1g.10gb", (), None),
    ],
)
def test_the_profile_that_is_meant(text: str, names: tuple[str, ...], meant: str | None) -> None:
    assert meant_profile(text, names) == meant


@pytest.mark.parametrize("model", [gpu for gpu in gpus() if gpu.profiles], ids=lambda gpu: gpu.id)
def test_every_profile_of_the_catalogue_means_itself_in_any_spelling(model: GpuModel) -> None:
    names = model.profile_names
    for name in names:
        for spelling in (name, name.upper(), f"MIG {name}", f"nvidia.com/mig-{name.replace('+', '.')}", f" {name} "):
            assert meant_profile(spelling, names) == name
