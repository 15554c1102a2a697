from __future__ import annotations

from collections.abc import Callable
from textwrap import dedent

import pytest

from emulator.labfile.load import parse_spec
from emulator.labfile.model import ClusterSpec

Judge = Callable[[str], list[str]]


@pytest.fixture
def faults() -> Judge:
    """Rendered findings of a text, each as `line:column: severity: path: what | fix`."""

    def judge(text: str) -> list[str]:
        _, report = parse_spec(dedent(text), file="lab.yaml")
        return [each.render().removeprefix("lab.yaml:").replace("\n    fix: ", " | ") for each in report.findings]

    return judge


@pytest.fixture
def spec_of() -> Callable[[str], ClusterSpec]:
    """The spec of a text that has no errors."""

    def load(text: str) -> ClusterSpec:
        spec, report = parse_spec(dedent(text), file="lab.yaml")
        assert spec is not None, [each.render() for each in report.findings]
        return spec

    return load
