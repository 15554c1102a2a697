from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from emulator.core.errors import StateError
from emulator.core.ports.services import ServiceRequest
from emulator.core.trust.identity import ProcessIdentity
from emulator.supervisor.records import SupervisorFiles

WEB = ServiceRequest(
    "web", "d1", "/bin/web", ("--port", "80"), "nobody", True, 64, 32, 4, 50, {"kind": "service", "needs": ["a"]}, True
)


@pytest.fixture
def files(tmp_path: Path) -> SupervisorFiles:
    return SupervisorFiles(tmp_path / "supervisor")


def test_a_record_is_read_as_it_was_written(files: SupervisorFiles) -> None:
    files.want(WEB)
    assert files.names() == ("web",)
    assert files.request("web") == WEB
    assert [info.definition for info in files.services()] == [WEB.definition]
    files.forget("web")
    assert files.names() == () and files.request("web") is None
    files.remove_all()
    assert not files.directory.exists()


def test_a_record_of_an_earlier_version_is_one_of_a_service_apart(files: SupervisorFiles) -> None:
    files.want(WEB)
    record = files.directory / "wanted" / "web.json"
    data = json.loads(record.read_text())
    del data["host_processes"]
    record.write_text(json.dumps(data))
    assert files.request("web") == dataclasses.replace(WEB, host_processes=False)


def test_records_are_private_and_a_directory_of_others_is_refused(files: SupervisorFiles, tmp_path: Path) -> None:
    files.want(WEB)
    assert files.directory.stat().st_mode & 0o777 == 0o700
    assert (files.directory / "wanted" / "web.json").stat().st_mode & 0o777 == 0o600
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateError):
        SupervisorFiles(tmp_path / "link").want(WEB)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"version": 2},
        {"program": ""},
        {"program": 5},
        {"arguments": [1]},
        {"arguments": ["a\0b"]},
        {"memory_mib": -1},
        {"files": "many"},
        {"processes": True},
        {"definition": []},
        {"host_processes": "yes"},
    ],
)
def test_what_is_not_a_record_is_none(files: SupervisorFiles, changes: dict[str, object]) -> None:
    files.want(WEB)
    record = files.directory / "wanted" / "web.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), **changes}))
    assert files.request("web") is None
    assert [(info.name, info.digest) for info in files.services()] == [("web", "")]


def test_a_record_that_others_could_write_is_not_believed(files: SupervisorFiles) -> None:
    files.want(WEB)
    (files.directory / "wanted" / "web.json").chmod(0o666)
    assert files.request("web") is None


def test_names_that_are_no_names_are_not_looked_at(files: SupervisorFiles) -> None:
    files.want(WEB)
    for name in ("..json", ".web.json.new", "A.json", "web", "x" * 80 + ".json"):
        (files.directory / "wanted" / name).write_text("{}")
    assert files.names() == ("web",)


def test_a_status_counts_only_in_the_place_that_it_is_of(files: SupervisorFiles, tmp_path: Path) -> None:
    files.want(WEB)
    me = ProcessIdentity.of(os.getpid())
    files.write_status(me, {"web": {"digest": "d1", "state": "running", "pid": 5, "reason": "", "failures": 0}})
    assert files.supervisor() == me and files.kept() == {"web"}
    copy = tmp_path / "copy"
    copy.mkdir(mode=0o700)
    (copy / "status").write_bytes(files.status.read_bytes())
    (copy / "status").chmod(0o600)
    assert SupervisorFiles(copy).supervisor() is None
    files.write_status(dataclasses.replace(me, started="1"), {})
    assert files.supervisor() is None


def test_what_is_not_ours_stays(files: SupervisorFiles) -> None:
    files.want(WEB)
    (files.directory / "notes.txt").write_text("somebody's")
    files.forget("web")
    files.remove_all()
    assert (files.directory / "notes.txt").exists()
