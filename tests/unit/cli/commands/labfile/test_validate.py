"""`validate`: what is judged, and what the exit code says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from emulator.cli.commands.labfile.validate import command

MINIMAL = 'version: "1.0"\nmetadata: {name: x}\nclusters: {hpc: {}}\n'


def test_standard_input_is_judged_like_a_file(tmp_path: Path) -> None:
    good = CliRunner().invoke(command, ["-"], input=MINIMAL)
    assert (good.exit_code, good.output) == (0, "stdin: valid\n")
    bad = CliRunner().invoke(command, ["-"], input=MINIMAL.replace("hpc", "hcp"))
    assert bad.exit_code == 3
    assert "stdin:3:12: error: clusters: unknown key 'hcp'" in bad.output
    assert "did you mean 'hpc'?" in bad.output
    file = tmp_path / "lab.yaml"
    file.write_text(MINIMAL)
    assert CliRunner().invoke(command, [str(file)]).exit_code == 0


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "the file is empty"),
        ("#" * (1024 * 1024 + 1), "larger than the limit of 1024 KiB"),
        ("a\0b", "this is a binary file, not YAML text"),
    ],
)
def test_what_is_refused_of_a_file_is_refused_of_standard_input(text: str, what: str) -> None:
    result = CliRunner().invoke(command, ["--json", "-"], input=text)
    assert result.exit_code == 3
    report = json.loads(result.output)
    assert (report["file"], report["valid"]) == ("stdin", False)
    assert what in report["findings"][0]["what"]
