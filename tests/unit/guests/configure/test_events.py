"""Events of ansible-runner: what becomes of each kind, and of rubbish."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from emulator.guests.configure.events import MESSAGE_LIMIT, RunRecord, failure_message, parse_event
from emulator.guests.configure.model import TaskEvent, TaskFailure, TaskStatus


def event(kind: str, **data: object) -> dict[str, object]:
    return {"event": kind, "event_data": {"host": "hpc-compute-1", "task": "Lay files", **data}}


def test_kinds() -> None:
    assert parse_event(event("runner_on_start")) == TaskEvent("hpc-compute-1", "Lay files", TaskStatus.STARTED)
    assert parse_event(event("runner_on_ok", res={"changed": False})) == TaskEvent(
        "hpc-compute-1", "Lay files", TaskStatus.OK
    )
    changed = parse_event(event("runner_on_ok", res={"changed": True}))
    assert changed is not None and changed.status is TaskStatus.CHANGED
    skipped = parse_event(event("runner_on_skipped"))
    assert skipped is not None and skipped.status is TaskStatus.SKIPPED


def test_a_task_that_only_names_others_does_not_begin() -> None:
    include = "ansible.builtin.include_role"
    assert parse_event(event("runner_on_start", task_action=include)) is None
    assert parse_event(event("runner_on_start", task_action="kubeadm_node")) is not None
    failed = parse_event(event("runner_on_failed", task_action=include, res={"msg": "no such role"}))
    assert failed is not None and failed.status is TaskStatus.FAILED


def test_failure_carries_its_reason() -> None:
    failed = parse_event(event("runner_on_failed", res={"msg": "slurmd did not stay up", "stderr": "fatal: no munge"}))
    assert failed == TaskEvent(
        "hpc-compute-1", "Lay files", TaskStatus.FAILED, "slurmd did not stay up\nfatal: no munge"
    )
    gone = parse_event(event("runner_on_unreachable", res={"msg": "Connection timed out"}))
    assert gone is not None and (gone.status, gone.message) == (TaskStatus.UNREACHABLE, "Connection timed out")


def test_an_ignored_failure_is_none() -> None:
    assert parse_event(event("runner_on_failed", ignore_errors=True)) is None


def test_what_is_no_task_event_is_none() -> None:
    for raw in ({}, {"event": "playbook_on_stats", "event_data": {}}, {"event": "runner_on_ok", "event_data": None}):
        assert parse_event(raw) is None


def test_a_message_is_cut_and_never_empty() -> None:
    assert failure_message({}) == "no reason given"
    assert failure_message({"msg": "x" * 10_000}) == "x" * MESSAGE_LIMIT + " ..."
    assert failure_message({"msg": "same", "stderr": "same\n"}) == "same"


def test_record_counts_changes_and_knows_what_is_under_way() -> None:
    record = RunRecord()
    for status in (TaskStatus.STARTED, TaskStatus.CHANGED, TaskStatus.STARTED, TaskStatus.OK):
        record.add(TaskEvent("a", "one", status))
    record.add(TaskEvent("b", "two", TaskStatus.STARTED))
    assert record.under_way() == "b: two"
    record.add(TaskEvent("b", "two", TaskStatus.FAILED, "why"))
    assert record.under_way() == "no task"
    assert record.changed == {"a": 1, "b": 0}
    assert record.failures == (TaskFailure("b", "two", "why"),)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
KINDS = st.sampled_from(["runner_on_start", "runner_on_ok", "runner_on_failed", "runner_on_unreachable", "other"])
FIELDS = st.sampled_from(["host", "task", "res", "ignore_errors"])


@given(kind=KINDS, data=st.dictionaries(FIELDS, JSON) | JSON)
def test_no_event_breaks_the_parser(kind: str, data: object) -> None:
    parsed = parse_event({"event": kind, "event_data": data})
    assert parsed is None or (parsed.node and isinstance(parsed.task, str) and isinstance(parsed.message, str))
