"""The contributor's kit says what is true: stages, hooks, workflows, decisions and the guide fit the repository."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def ci(*words: str, make: Path | None = None) -> subprocess.CompletedProcess[str]:
    path = "/usr/bin:/bin" if make is None else f"{make}:/usr/bin:/bin"
    argv = ["bash", str(ROOT / ".ci" / "run"), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, env={"PATH": path}, timeout=PATIENCE)


@pytest.fixture
def recording_make(tmp_path: Path) -> Path:
    """A directory with a `make` that says what it was asked for, and fails for `e2e-slurm`."""
    program = tmp_path / "make"
    program.write_text('#!/bin/sh\necho "asked: $*"\n[ "$*" != e2e-slurm ]\n')
    program.chmod(0o755)
    return tmp_path


def asked(done: subprocess.CompletedProcess[str]) -> list[str]:
    return re.findall(r"^asked: (.*)$", done.stdout, re.MULTILINE)


# ------------------------------------------------------------ .ci/run
def test_ci_without_names_runs_the_standard_stages_until_one_fails(recording_make: Path) -> None:
    done = ci(make=recording_make)
    assert asked(done) == ["test", "e2e-demo", "e2e-slurm"]
    assert done.returncode == 1
    program = recording_make / "make"
    program.write_text(program.read_text().replace("e2e-slurm", "nothing"))
    done = ci(make=recording_make)
    assert asked(done) == ["test", "e2e-demo", "e2e-slurm", "test-libvirt", "test-isolation"]
    assert done.returncode == 0


def test_ci_runs_the_stages_that_are_named_in_their_order(recording_make: Path) -> None:
    done = ci("isolation", "libvirt", make=recording_make)
    assert (done.returncode, asked(done)) == (0, ["test-isolation", "test-libvirt"])


def test_ci_refuses_an_unknown_stage_before_it_runs_any(recording_make: Path) -> None:
    done = ci("test", "nonsense", make=recording_make)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no stage 'nonsense'; there are: test demo slurm libvirt isolation kubernetes" in done.stderr


def test_every_stage_is_a_target(tmp_path: Path, recording_make: Path) -> None:
    program = recording_make / "make"
    program.write_text('#!/bin/sh\necho "asked: $*"\n')
    done = ci(*ci("--list").stdout.split(), make=recording_make)
    assert done.returncode == 0
    assert set(asked(done)) <= TARGETS


def test_the_hosted_workflow_runs_stages_that_exist() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    stages = [*workflow["jobs"]["labs"]["strategy"]["matrix"]["stage"]]
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    stages += [word for text in commands for word in re.findall(r"^\.ci/run ([a-z-]+)$", text)]
    assert sorted(stages) == sorted(ci("--list").stdout.split()[:5]), "the standard stages, each once"
    assert workflow["permissions"] == {"contents": "read"}


def test_what_the_loop_leaves_out_exists() -> None:
    """A test file that was moved would come back into the loop unnoticed, slow as it is."""
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    (slow,) = re.findall(r"^SLOW := (.*)$", text, re.MULTILINE)
    assert [name for name in slow.split() if not (ROOT / "tests" / "unit" / name).exists()] == []


# ------------------------------------------------------------ hooks
def test_hooks_are_local_and_use_the_projects_own_tools() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in config["repos"]] == ["local"], "nothing is downloaded"
    for hook in config["repos"][0]["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")
        for path in re.findall(r"tests/\S+", hook["entry"]):
            assert (ROOT / path).exists()


# ------------------------------------------------------------ decisions
def test_decisions_are_numbered_without_holes() -> None:
    files = sorted((ROOT / "docs" / "design").glob("[0-9]*.md"))
    assert [path.name[:4] for path in files] == [f"{number:04}" for number in range(len(files))]
    for path in files[1:]:
        first = path.read_text().splitlines()[0]
        assert re.match(rf"# {path.name[:4]}:? \S", first), f"{path.name} begins with {first!r}"


# ------------------------------------------------------------ the guide
def is_there(path: str) -> bool:
    """A file, a folder, or a module named without its suffix."""
    return (ROOT / path).exists() or (ROOT / f"{path}.py").is_file()


def test_paths_in_the_guide_exist() -> None:
    folders = "emulator|playbooks|config|schemas|packer|docs|tests|scripts|constraints|benchmarks"
    named = re.findall(rf"`((?:{folders})/[^`*\s]*)`", GUIDE)
    assert len(named) > 40
    assert [path for path in named if not is_there(path)] == []


def test_the_guide_names_every_package() -> None:
    packages = {path.parent.name for path in (ROOT / "emulator").glob("*/__init__.py")}
    modules = {path.stem for path in (ROOT / "emulator").glob("*.py")} - {"__init__"}
    assert set(re.findall(r"^\| `emulator/([a-z]+)` \|", GUIDE, re.MULTILINE)) == packages | modules


def test_the_guide_and_the_readme_agree_on_the_loop() -> None:
    readme = (ROOT / "README.md").read_text()
    for command in (
        "make setup-dev",
        "make check",
        "make test",
        "make unit ARGS='-k name'",
        "make coverage",
        ".ci/run test",
    ):
        assert command in GUIDE, command
        assert command in readme, command


def test_code_that_the_guide_names_exists() -> None:
    for name, place in (
        ("VERBS", "emulator/cli/main.py"),
        ("def needs_host", "emulator/cli/options.py"),
        ("GROUPS", "emulator/host/checks/__init__.py"),
        ("class Handler(", "emulator/apply/handler.py"),
    ):
        assert name in (ROOT / place).read_text()


# ------------------------------------------------------------ the rest
def test_the_changelog_has_releases_in_order() -> None:
    heads = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d{2}-\d{2}", head) for head in heads[1:])
    assert "0.1.0 - 2026-11-27" in heads
    versions = [tuple(map(int, head.split(" ")[0].split("."))) for head in heads[1:]]
    assert versions == sorted(versions, reverse=True)


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda path: path.name
)
def test_issue_templates_are_complete(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert form.keys() >= {"name", "description", "body"}
    ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert len(ids) == len(set(ids)) > 0


def test_the_license_is_the_whole_text() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.lstrip().startswith("Apache License\n")
    assert "9. Accepting Warranty or Additional Liability." in text
    assert "limitations under the License." in text
