"""What verbs share: how a plan is printed."""

from __future__ import annotations

import pytest

from emulator.cli.options import print_plan
from emulator.plan.model import Action, Change, Plan
from emulator.plan.resources import SshKeyPair


def test_a_plan_ends_with_how_many_changes_there_are_of_each_kind(capsys: pytest.CaptureFixture[str]) -> None:
    key = SshKeyPair(name="lab", path="/none")
    actions = (Action.CREATE, Action.CREATE, Action.DELETE)
    print_plan(Plan("demo", tuple(Change(action, key, "for a reason") for action in actions)))
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "+ ssh-key lab: for a reason"
    assert err == "+ 2 to create, - 1 to delete\n"


def test_an_empty_plan_has_no_count(capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(Plan("demo", ()))
    assert capsys.readouterr() == ("demo: nothing to change\n", "")
