"""What verify asks of MPI and of slurmrestd, and what it makes of the answers."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.guests.verify import slurm_extras
from emulator.guests.verify.report import Verdict
from emulator.labfile.model import PartitionSpec
from tests.support.waiting import PATIENCE

BOTH = ("hpc-compute-1", "hpc-compute-2")
WIDE = PartitionSpec("main", (*BOTH, "hpc-compute-3"))


def test_an_mpi_program_runs_on_two_nodes_without_being_told_how() -> None:
    command = slurm_extras.mpi_command(WIDE, "student", 600)
    assert "sudo -n -u student -- timeout 600 srun" in command
    assert "--nodes=2 --ntasks-per-node=1 --nodelist=hpc-compute-1,hpc-compute-2" in command
    assert "--mpi" not in command
    assert "--nodelist=hpc-compute-1 " in slurm_extras.mpi_command(PartitionSpec("one", BOTH[:1]), "student", 60)


@pytest.mark.parametrize(
    ("text", "nodes", "verdict"),
    [
        ("ranks 2 hpc-compute-2 hpc-compute-1\n", BOTH, Verdict(True, "2 ranks on hpc-compute-1 hpc-compute-2")),
        ("noise\nranks 1 hpc-compute-1.lab\n", BOTH[:1], Verdict(True, "1 ranks on hpc-compute-1")),
        # Without PMIx each process believes to be alone.
        (
            "ranks 1 hpc-compute-1\nranks 1 hpc-compute-2\n",
            BOTH,
            Verdict(False, "2 programs of their own instead of one with 2 ranks"),
        ),
        (
            "ranks 2 hpc-compute-1 hpc-compute-1\n",
            BOTH,
            Verdict(
                False,
                "2 ranks on hpc-compute-1 hpc-compute-1 instead of one on each of hpc-compute-1 hpc-compute-2",
            ),
        ),
        ("", BOTH, Verdict(False, "the ranks did not meet: srun: error: task 0: Killed")),
    ],
)
def test_ranks_have_to_meet(text: str, nodes: tuple[str, ...], verdict: Verdict) -> None:
    complaint = "PMIX ERROR\nsrun: error: task 0: Killed\n"
    assert slurm_extras.judge_mpi(text, nodes, complaint=complaint) == verdict


def answer(**changes: object) -> str:
    good = {"path": "/slurm/v0.0.42/nodes/", "status": 200, "nodes": [*BOTH], "forged": 511, "without": 401}
    return json.dumps({**good, **changes})


@pytest.mark.parametrize(
    ("text", "ok", "detail"),
    [
        (answer(), True, "/slurm/v0.0.42/nodes/ lists 2 nodes; refused without a token"),
        (answer(forged=200), False, "slurmrestd answers who has a forged token"),
        (answer(without=200), False, "slurmrestd answers who has no token"),
        (answer(status=500), False, "slurmrestd says 500 to /slurm/v0.0.42/nodes/"),
        (answer(nodes=["x"]), False, "slurmrestd lists other nodes: ['x']"),
        ("", False, "no answer from slurmrestd: FileNotFoundError: no socket"),
        ("7", False, "no answer from slurmrestd: FileNotFoundError: no socket"),
    ],
)
def test_slurmrestd_answers_who_has_a_token_and_nobody_else(text: str, ok: bool, detail: str) -> None:
    complaint = "Traceback\nFileNotFoundError: no socket\n"
    assert slurm_extras.judge_rest(text, BOTH, complaint=complaint) == Verdict(ok, detail)


@pytest.mark.parametrize(
    ("status", "text", "verdict"),
    [
        (0, "0 * * * * true\n", Verdict(True, "scrontab may be used")),
        (1, "no crontab for student\n", Verdict(True, "scrontab may be used")),
        (
            1,
            "\nscrontab: fatal: scrontab is disabled on this cluster\n",
            Verdict(False, "scrontab: fatal: scrontab is disabled on this cluster"),
        ),
        (127, "\n", Verdict(False, "scrontab: exit status 127")),
    ],
)
def test_scrontab_is_open_or_it_says_why_not(status: int, text: str, verdict: Verdict) -> None:
    assert slurm_extras.judge_scrontab(status, text) == verdict


@given(st.text())
def test_rubbish_is_a_verdict(text: str) -> None:
    assert not slurm_extras.judge_rest(text, BOTH, complaint=text).ok
    assert not slurm_extras.judge_mpi(text, BOTH, complaint=text).ok


TOKEN = "head.body.mark"


class Rest(BaseHTTPRequestHandler):
    """The part of slurmrestd that is asked: its description, and nodes for the one good token."""

    def do_GET(self) -> None:
        given_token = self.headers.get("X-SLURM-USER-TOKEN")
        if given_token is None:
            status, body = 401, "Authentication failure"
        elif self.path == "/openapi/v3":
            # With every slash escaped, as Slurm's serializer writes them.
            paths: dict[str, object] = {f"/slurm/v0.0.{version}/nodes/": {} for version in (40, 42, 41)}
            status, body = 200, json.dumps({"paths": {**paths, "/slurmdb/v0.0.43/nodes/": {}}}).replace("/", "\\/")
        elif given_token == TOKEN and self.path == "/slurm/v0.0.42/nodes/":
            status, body = 200, json.dumps({"nodes": [{"name": name} for name in BOTH]})
        else:
            status, body = 511, "{}"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        del format, args

    def address_string(self) -> str:
        return "local"


class Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


def test_the_question_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command as the guest's shell runs it, with stand-ins for sudo and scontrol, against a server on a socket."""
    path = str(tmp_path / "rest")
    command = slurm_extras.rest_command("student").replace(slurm_extras.REST_SOCKET, path)
    monkeypatch.chdir(tmp_path)
    for name, body in {
        "sudo": '[ "$1" = -n ] && shift\n[ "$1" = -u ] && shift 3\nexec "$@"',
        "scontrol": f'[ "$*" = "token username=student lifespan=600" ] && echo SLURM_JWT={TOKEN}',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    with Server(path, Rest) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = subprocess.run(
            ["sh", "-c", command],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        )
        server.shutdown()
    assert slurm_extras.judge_rest(done.stdout, BOTH, complaint=done.stderr) == Verdict(
        True, "/slurm/v0.0.42/nodes/ lists 2 nodes; refused without a token"
    )
