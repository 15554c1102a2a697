"""Files of exercises: what is wrong, where, and how to fix it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from emulator.core.errors import ConfigError, UsageError
from emulator.exercises.load import exercise_names, load_exercise, parse_exercise, shipped
from emulator.exercises.model import Exercise, Place, RunAs
from emulator.exercises.publish import guide_path, guide_text, schema_path, schema_text
from emulator.labfile.publish import BEGIN
from emulator.labfile.schema import properties
from tests.support.exercise_labs import EXERCISE


def findings(text: str) -> list[str]:
    found, report = parse_exercise(text, file="e.yaml")
    assert (found is None) == bool(report.errors)
    return [each.render() for each in report.findings]


def changed(before: str, after: str) -> list[str]:
    assert before in EXERCISE
    return findings(EXERCISE.replace(before, after))


def test_a_file_with_what_it_must_have_and_no_more() -> None:
    found, report = parse_exercise(EXERCISE, file="e.yaml")
    assert report.findings == ()
    assert found is not None
    assert (found.minutes, found.role.value, found.points) == (30, "student", 5)
    check = found.checks[0]
    assert (check.node, check.run_as, check.expect.prints, check.expect.exit) == (
        Place.CONTROLLER,
        RunAs.ADMIN,
        "yes",
        0,
    )
    assert (check.input_from, check.expect.at_least) == (None, None)
    assert found.hints == ("the first", "the second")


def test_another_command_s_output_as_input() -> None:
    text = EXERCISE.replace("run: look,", "run: look, input_from: {node: compute, as: root, run: say},")
    found, _ = parse_exercise(text, file="e.yaml")
    assert found is not None
    feeding = found.checks[0].input_from
    assert feeding is not None
    assert (feeding.node, feeding.run_as, feeding.run, feeding.seconds) == (Place.COMPUTE, RunAs.ROOT, "say", 60)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            "title: A title",
            "titel: A title",
            [
                "e.yaml:1:1: error: title: this key is missing\n    fix: add `title:`",
                "e.yaml:2:1: error: unknown key 'titel'\n    fix: did you mean 'title'?",
            ],
        ),
        (
            "cluster: slurm",
            "cluster: slrum",
            [
                "e.yaml:3:10: error: cluster: expected one of slurm, kubernetes, got 'slrum'\n"
                "    fix: did you mean 'slurm'?"
            ],
        ),
        (
            "points: 5",
            "points: many",
            [
                "e.yaml:6:65: error: checks[0].points: expected a whole number from 1 to 100, got 'many'\n"
                "    fix: for example 5"
            ],
        ),
        (
            "setup: [{node: controller",
            "setup: [{node: worker",
            [
                "e.yaml:5:16: error: setup[0].node: the node worker is not of the cluster slurm, which the exercise is"
                " about\n    fix: write compute or controller"
            ],
        ),
        (
            'prints: "yes"',
            'prints: "yes", at_least: 3',
            [
                "e.yaml:6:68: error: checks[0].expect: prints and at_least cannot both hold\n"
                "    fix: keep one, and make two checks of it"
            ],
        ),
        (
            "run: look,",
            "run: look, input_from: {node: control-plane, run: say},",
            [
                "e.yaml:6:76: error: checks[0].input_from.node: the node control-plane is not of the cluster slurm,"
                " which the exercise is about\n    fix: write compute or controller"
            ],
        ),
        (
            "setup: [{node: controller, run: prepare}]",
            "setup: [{node: controller, run: prepare, as: labadmin}]",
            [
                "e.yaml:5:46: error: setup[0].as: expected one of admin, root, user, got 'labadmin'\n"
                "    fix: did you mean 'admin'?"
            ],
        ),
    ],
)
def test_faults_are_told_with_place_and_fix(before: str, after: str, said: list[str]) -> None:
    assert changed(before, after) == said


def test_all_faults_at_once_and_no_check_is_none() -> None:
    said = findings('version: "2.0"\ncluster: slurm\nchecks: []\n')
    assert [each.split(": ")[2] for each in said] == ["text", "title", "version", "checks"]


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "- a\n- b\n", "a: &b [*b]\n", "[" * 5000, "\x00", "a: !!python/object:os.system x"]
)
def test_what_is_no_exercise_is_told(text: str) -> None:
    assert findings(text)


def own(directory: Path, name: str, text: str = EXERCISE) -> Path:
    (directory / name).mkdir(parents=True)
    (directory / name / "exercise.yaml").write_text(text)
    return directory


def test_one_s_own_are_in_a_directory(tmp_path: Path) -> None:
    own(tmp_path, "disk-full")
    (tmp_path / "notes").mkdir()
    (tmp_path / "Not_A_Name").mkdir()
    (tmp_path / "Not_A_Name" / "exercise.yaml").write_text(EXERCISE)
    assert exercise_names(tmp_path) == ("disk-full",)
    assert load_exercise(tmp_path, "disk-full").exercise.name == "disk-full"


@pytest.mark.parametrize("name", ["other", "../disk-full", "", ".", "disk-full/", "Disk-full"])
def test_no_other_name_leads_anywhere(tmp_path: Path, name: str) -> None:
    own(tmp_path, "disk-full")
    with pytest.raises(UsageError, match="there is no exercise") as caught:
        load_exercise(tmp_path, name)
    assert "there are: disk-full" in caught.value.fix


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        exercise_names(tmp_path / "none")


def test_an_invalid_file_is_refused_with_its_faults(tmp_path: Path) -> None:
    own(tmp_path, "bad", EXERCISE.replace("points: 5", "points: 0"))
    with pytest.raises(ConfigError, match=r"1 error in the exercise\n  .*checks\[0\].points") as caught:
        _ = load_exercise(tmp_path, "bad").exercise
    assert caught.value.details["findings"]


def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(tmp_path: Path) -> None:
    import os

    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "exercise.yaml")
    assert exercise_names(tmp_path) == ()


# ------------------------------------------------------------------------------------------------- what is published
def test_the_published_schema_is_that_of_the_types() -> None:
    assert schema_path().read_text() == schema_text(), "python -m emulator.exercises.publish renews it"
    Draft202012Validator.check_schema(json.loads(schema_text()))


def test_the_guide_has_the_tables_of_the_types() -> None:
    text = guide_path().read_text()
    assert BEGIN in text
    assert text == guide_text(text), "python -m emulator.exercises.publish renews it"


def test_the_guide_tells_of_every_exercise_and_variable() -> None:
    text = guide_path().read_text()
    assert [name for name in exercise_names(shipped()) if f"| `{name}` |" not in text] == []


def test_editors_find_a_description_for_every_key() -> None:
    schema = json.loads(schema_text())
    assert [path for path, about in properties(schema) if not about.get("description")] == []


def test_the_example_of_the_guide_is_valid() -> None:
    example = guide_path().read_text().partition("```yaml\n")[2].partition("```")[0]
    found, report = parse_exercise(example, file="guide")
    assert report.findings == ()
    assert isinstance(found, Exercise)
