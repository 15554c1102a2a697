"""Slurm's and MUNGE's output: parsed and judged, with what real guests printed and with rubbish."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.guests.inventory.model import NodeGpu
from emulator.guests.verify import slurm_verdicts
from emulator.guests.verify.report import Verdict
from emulator.labfile.model import PartitionSpec

BOTH = ("hpc-compute-1", "hpc-compute-2")
SINFO = """\
hpc-compute-1|idle|gpu:1g.10gb:2|none
hpc-compute-1|idle|gpu:1g.10gb:2|none
hpc-compute-2|idle|gpu:1g.10gb:1,gpu:3g.40gb:1(S:0)|none
"""


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("(null)", {}),
        ("", {}),
        ("gpu:1g.10gb:2", {"1g.10gb": 2}),
        ("gpu:1g.10gb:1(S:0-1),gpu:3g.40gb:1", {"1g.10gb": 1, "3g.40gb": 1}),
        ("gpu:1g.10gb:1,gpu:1g.10gb:1", {"1g.10gb": 2}),
        ("tape:2,gpu:x", {}),
    ],
)
def test_gres(text: str, counts: dict[str, int]) -> None:
    assert slurm_verdicts.parse_gres(text) == counts


def test_all_idle() -> None:
    verdict = slurm_verdicts.judge_nodes(slurm_verdicts.parse_sinfo(SINFO), BOTH)
    assert verdict.ok and verdict.detail == "2 idle"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("hpc-compute-1|idle*|(null)|none", "hpc-compute-1 is idle and does not answer"),
        ("hpc-compute-1|drained|(null)|Low RealMemory", "hpc-compute-1 is drained (Low RealMemory)"),
        (
            "hpc-compute-1|inval|gpu:1g.10gb:2|gres/gpu count reported lower than configured (0 < 2)",
            "hpc-compute-1 is inval (gres/gpu count reported lower than configured (0 < 2))",
        ),
        ("hpc-compute-1|down*|(null)|Not responding", "hpc-compute-1 is down and does not answer (Not responding)"),
        ("hpc-compute-1|unknown|(null)|none", "hpc-compute-1 is unknown"),
        ("", "hpc-compute-1 is unknown to Slurm"),
    ],
)
def test_a_node_that_cannot_run_jobs_is_named_with_the_reason(line: str, complaint: str) -> None:
    rows = slurm_verdicts.parse_sinfo(f"{line}\nhpc-compute-2|idle|(null)|none\n")
    verdict = slurm_verdicts.judge_nodes(rows, BOTH)
    assert not verdict.ok and verdict.detail == complaint


def test_a_busy_node_is_fine_and_a_stranger_is_not() -> None:
    rows = slurm_verdicts.parse_sinfo("hpc-compute-1|mixed|(null)|none\nhpc-compute-2|allocated|(null)|none\n")
    assert slurm_verdicts.judge_nodes(rows, BOTH) == Verdict(True, "1 allocated, 1 mixed")
    assert slurm_verdicts.judge_nodes(rows, BOTH[:1]).detail == "hpc-compute-2 is not in the lab file"


def test_gpus_equal_the_allocation() -> None:
    rows = slurm_verdicts.parse_sinfo(SINFO)
    granted = {BOTH[0]: (NodeGpu("1g.10gb", 2),), BOTH[1]: (NodeGpu("1g.10gb", 1), NodeGpu("3g.40gb", 1))}
    assert slurm_verdicts.judge_gpus(rows, granted).ok
    fewer = slurm_verdicts.judge_gpus(rows, {BOTH[0]: (NodeGpu("1g.10gb", 2),)})
    assert fewer.detail == "hpc-compute-2 offers 1 x 1g.10gb, 1 x 3g.40gb instead of no GPUs"
    assert not slurm_verdicts.judge_gpus({}, granted).ok


# As printed by munge 0.5.15.
UNMUNGE = """\
STATUS:          Success (0)
ENCODE_HOST:     hpc-controller (192.168.100.10)
UID:             root (0)
"""


def test_unmunge() -> None:
    assert slurm_verdicts.judge_unmunge(0, UNMUNGE, sender="hpc-controller").ok
    for code, output, reason in (
        (16, "STATUS:          Invalid credential (16)\n", "Invalid credential (16)"),
        (15, "STATUS:          Expired credential (15)\nUID: root (0)\n", "Expired credential (15)"),
        (6, "unmunge: Error: Failed to connect to munged", "unmunge: Error: Failed to connect to munged"),
        (255, "", "no output"),
    ):
        verdict = slurm_verdicts.judge_unmunge(code, output, sender="hpc-controller")
        assert not verdict.ok and verdict.detail.endswith(reason)


def test_job_on_all_nodes() -> None:
    job = slurm_verdicts.parse_job("noise\n9 hpc-compute-2 hpc-compute-2\n9 hpc-compute-1 hpc-compute-1.lab\n")
    assert job.job_id == "9"
    assert slurm_verdicts.judge_job(job, BOTH, complaint="") == Verdict(True, "job 9: hpc-compute-1 hpc-compute-2")


@pytest.mark.parametrize(
    ("output", "detail"),
    [
        ("9 hpc-compute-1 hpc-compute-1\n", "no output from hpc-compute-2: srun: error: node failure"),
        ("", "no output from hpc-compute-1, hpc-compute-2: srun: error: node failure"),
        ("9 hpc-compute-1 hpc-compute-1\n9 hpc-compute-2 other\n", "hpc-compute-2 calls itself other"),
        ("9 hpc-compute-1 a\n8 hpc-compute-2 b\n", "no output from hpc-compute-2: srun: error: node failure"),
    ],
)
def test_job_that_did_not_run_everywhere(output: str, detail: str) -> None:
    verdict = slurm_verdicts.judge_job(
        slurm_verdicts.parse_job(output), BOTH, complaint="x\nsrun: error: node failure\n"
    )
    assert not verdict.ok and verdict.detail == detail


def test_accounting() -> None:
    job = slurm_verdicts.JobOutput("9", ())
    judge = slurm_verdicts.judge_accounting
    assert judge("8|student|FAILED|1|1:0\n9|student|COMPLETED|2|0:0\n", job, user="student", node_count=2).ok
    assert "no accounting record" in judge("", job, user="student", node_count=2).detail
    running = judge("9|student|RUNNING|2|0:0\n", job, user="student", node_count=2)
    assert running.detail == "job 9: user student, RUNNING, 2 nodes, exit 0:0"
    assert not judge("9|root|COMPLETED|2|0:0", job, user="student", node_count=2).ok
    assert not judge("9|student|COMPLETED|2|0:0", slurm_verdicts.JobOutput("", ()), user="student", node_count=2).ok


def test_few_partitions_cover_all_nodes() -> None:
    part = PartitionSpec
    nodes = ("a", "b", "c")
    assert slurm_verdicts.covering_partitions([part("small", ("a",)), part("all")], nodes) == (part("all", nodes),)
    apart = [part("one", ("a",)), part("two", ("b", "c")), part("three", ("c",))]
    assert [partition.name for partition in slurm_verdicts.covering_partitions(apart, nodes)] == ["two", "one"]
    assert slurm_verdicts.covering_partitions([part("one", ("a",))], nodes) == (part("one", ("a",)),)
    assert slurm_verdicts.covering_partitions([part("all")], ()) == ()


@given(st.text())
def test_no_output_breaks_a_parser(text: str) -> None:
    rows = slurm_verdicts.parse_sinfo(text)
    job = slurm_verdicts.parse_job(text)
    assert all(count >= 0 for count in slurm_verdicts.parse_gres(text).values())
    assert not slurm_verdicts.judge_nodes(rows, BOTH).ok
    assert not slurm_verdicts.judge_job(job, BOTH, complaint=text).ok
    assert not slurm_verdicts.judge_unmunge(1, text, sender="x").ok
    assert not slurm_verdicts.judge_accounting(text, slurm_verdicts.JobOutput("9", ()), user="student", node_count=2).ok


SINFO_LINE = st.tuples(
    st.sampled_from([*BOTH, "other", ""]),
    st.sampled_from(["idle", "idle*", "mixed-", "down*", "drained", "inval", "~", ""]),
    st.text(alphabet="gpu:1.b(),S0null", max_size=20),
    st.text(max_size=10),
).map("|".join)


@given(st.lists(SINFO_LINE, max_size=6).map("\n".join))
def test_nodes_are_up_only_if_each_is_shown_as_such(text: str) -> None:
    rows = slurm_verdicts.parse_sinfo(text)
    expected = set(rows) == set(BOTH) and all(row.usable for row in rows.values())
    assert slurm_verdicts.judge_nodes(rows, BOTH).ok is expected
