"""The node_state module: files in a real directory, units judged from systemctl's output."""

from __future__ import annotations

import json
import os
import pwd
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jinja2.nativetypes import NativeEnvironment

from emulator.core.data_files import share_dir
from emulator.credentials.users import FIRST_UID, LAST_UID
from tests.support.playbook_modules import node_accounts, node_command, node_files, node_units, user_end
from tests.support.waiting import PATIENCE

SOURCE = share_dir() / "playbooks" / "library" / "node_state.py"
UTILS = SOURCE.parents[1] / "module_utils"
ME = pwd.getpwuid(os.geteuid()).pw_name
MINE: dict[str, Any] = {"owner": ME, "group": None if ME == "root" else ME}


def entry(path: Path, **fields: Any) -> dict[str, Any]:
    return {"path": str(path), "content": None, "secret": None, "mode": None, **MINE, **fields}


# ---------------------------------------------------------------- files
def test_a_file_is_written_once(tmp_path: Path) -> None:
    wanted = entry(tmp_path / "slurm.conf", content="ClusterName=demo\n", mode="0640")
    assert node_files.ensure_file(wanted, check=False) == [f"file {tmp_path}/slurm.conf"]
    assert (tmp_path / "slurm.conf").read_text() == "ClusterName=demo\n"
    assert stat.S_IMODE((tmp_path / "slurm.conf").stat().st_mode) == 0o640
    assert node_files.ensure_file(wanted, check=False) == []
    assert [path.name for path in tmp_path.iterdir()] == ["slurm.conf"]


@pytest.mark.parametrize("there", ["", "ClusterName=dem", "ClusterName=demo\nmore", "\0binary"])
def test_a_file_with_other_content_is_replaced(tmp_path: Path, there: str) -> None:
    path = tmp_path / "slurm.conf"
    path.write_text(there)
    assert node_files.ensure_file(entry(path, content="ClusterName=demo\n"), check=False)
    assert path.read_text() == "ClusterName=demo\n"


def test_a_file_that_is_too_open_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "munge.key"
    path.write_text("k")
    path.chmod(0o644)
    assert node_files.ensure_file(entry(path, secret="k", mode="0400"), check=False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o400


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("not ours")
    (tmp_path / "munge.key").symlink_to(other)
    assert node_files.ensure_file(entry(tmp_path / "munge.key", secret="k"), check=False)
    assert other.read_text() == "not ours"
    assert not (tmp_path / "munge.key").is_symlink()


def test_check_mode_changes_nothing(tmp_path: Path) -> None:
    assert node_files.ensure_file(entry(tmp_path / "a", content="x"), check=True)
    assert node_files.ensure_directory(entry(tmp_path / "d"), check=True)
    (tmp_path / "old").touch()
    assert node_files.ensure_absent(str(tmp_path / "old"), check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_directories_and_removals(tmp_path: Path) -> None:
    wanted = entry(tmp_path / "d", mode="0700")
    assert node_files.ensure_directory(wanted, check=False) and not node_files.ensure_directory(wanted, check=False)
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o700
    (tmp_path / "f").touch()
    with pytest.raises(node_command.NodeStateError, match="in the way"):
        node_files.ensure_directory(entry(tmp_path / "f"), check=False)
    assert node_files.ensure_absent(str(tmp_path / "f"), check=False)
    assert node_files.ensure_absent(str(tmp_path / "f"), check=False) == []


def test_files_that_nobody_asked_for_go_from_a_directory_that_is_ours(tmp_path: Path) -> None:
    for name in ("lab-access", "backdoor", "lab-admin"):
        (tmp_path / name).write_text("ALL")
    (tmp_path / "link").symlink_to(tmp_path / "lab-access")
    (tmp_path / "kept").mkdir()
    wanted = entry(tmp_path, mode=f"{stat.S_IMODE(tmp_path.stat().st_mode):o}", only=["lab-access", "lab-admin"])
    removed = [f"removed {tmp_path}/backdoor", f"removed {tmp_path}/link"]
    assert node_files.ensure_only(wanted, check=True) == removed
    assert len(list(tmp_path.iterdir())) == 5
    assert node_files.ensure_only(wanted, check=False) == removed
    assert node_files.ensure_only(wanted, check=False) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "lab-access", "lab-admin"]
    assert node_files.ensure_only(entry(tmp_path), check=False) == []


def test_what_a_former_admin_left_goes_from_every_directory_that_lets_people_in(tmp_path: Path) -> None:
    role = share_dir() / "playbooks" / "roles" / "lab_access"
    known: dict[str, Any] = {
        "node_logins": ["ada"],
        "ansible_user": "labadmin",
        "lab_login_keys": ["k"],
        "tls_authority": "none",
    }

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: filled(each) for name, each in value.items()}
        if isinstance(value, list):
            return [filled(each) for each in value]
        return environment.from_string(value).render(known) if isinstance(value, str) else value

    environment = NativeEnvironment()
    environment.tests["file"] = lambda _path: False
    for name, value in yaml.safe_load((role / "vars" / "main.yml").read_text()).items():
        if name.endswith("_directories"):
            known[name] = filled(value)
    task = yaml.safe_load((role / "tasks" / "main.yml").read_text())[0]["node_state"]
    stays = {"/etc/ssh/lab_principals": "ada", "/etc/sudoers.d": "lab-access", "/etc/ssh/lab_keys": "labadmin"}
    emptied = set()
    for wanted in filled(task["directories"]):
        here = tmp_path / wanted["path"].lstrip("/")
        here.mkdir(parents=True, exist_ok=True)
        for name in ("eve", stays.get(wanted["path"], "eve")):
            (here / name).write_text("eve")
        if node_files.ensure_only({**wanted, "path": str(here)}, check=False):
            emptied.add(wanted["path"])
            assert [path.name for path in here.iterdir()] == [stays[wanted["path"]]]
    assert emptied == set(stays)


def test_an_unknown_owner_is_named(tmp_path: Path) -> None:
    with pytest.raises(node_command.NodeStateError, match="no such owner or group"):
        node_files.ensure_file(entry(tmp_path / "f", content="", owner="nobody-of-that-name"), check=False)


def test_an_account_with_another_uid_is_an_error() -> None:
    with pytest.raises(node_command.NodeStateError, match=f"user {ME} has uid {os.geteuid()} on this node, not 64999"):
        node_accounts.ensure_user({"name": ME, "uid": 64999, "home": None, "shell": None}, check=False)


class Accounts:
    """A node's account `ada` and what it runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
        self.expired, self.runs, self.asked = False, True, []  # type: ignore[var-annotated]
        entry = pwd.struct_passwd(("ada", "x", uid, uid, "", "/home/ada", "/bin/bash"))
        monkeypatch.setattr(node_accounts.pwd, "getpwnam", lambda _name: entry)
        for names in (node_accounts, user_end):
            monkeypatch.setattr(names, "expiry", lambda _name: "1" if self.expired else "")
            monkeypatch.setattr(names, "alive", lambda _uid: ["1 ('relay')"] if self.runs else [])
        monkeypatch.setattr(user_end, "run", self.run)
        monkeypatch.setattr(node_accounts, "end_processes", self.end_processes)

    def run(self, *argv: str) -> str:
        assert argv[0] == "usermod"
        self.asked.append(argv)
        self.expired = True
        return ""

    def end_processes(self, uid: int) -> list[str]:
        assert self.expired, "new logins are barred first"
        self.asked.append(("kill", str(uid)))
        self.runs = False
        return []


def test_a_former_user_is_ended_with_what_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ada = Accounts(monkeypatch, 3000)
    assert node_accounts.ensure_former("ada", check=True) == ["ended user ada", "ended what user ada ran"]
    assert (ada.expired, ada.runs) == (False, True)
    node_accounts.ensure_former("ada", check=False)
    assert (ada.expired, ada.runs) == (True, False)
    assert ada.asked == [("usermod", "--expiredate", "1", "ada"), ("kill", "3000")]
    assert node_accounts.ensure_former("ada", check=False) == []
    # Whatever hides from a look at the processes is struck all the same.
    assert ada.asked[2:] == [("kill", "3000")]


def test_what_of_a_former_user_does_not_end_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Accounts(monkeypatch, 3000)
    monkeypatch.setattr(node_accounts, "end_processes", lambda _uid: ["7 ('stuck')"])
    with pytest.raises(
        node_command.NodeStateError, match=r"ada has no access any more, but these do not end: 7 \('stuck'\)"
    ):
        node_accounts.ensure_former("ada", check=False)


def test_what_a_former_user_runs_is_ended_by_the_run_after_one_that_was_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ada = Accounts(monkeypatch, 3000)
    ada.expired = True
    assert node_accounts.ensure_former("ada", check=False) == ["ended what user ada ran"]
    assert not ada.runs


@pytest.mark.parametrize("uid", [0, 998, 2000, 2999, 60000, 65534])
def test_an_account_of_the_system_is_never_ended(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    ada = Accounts(monkeypatch, uid)
    assert node_accounts.ensure_former("ada", check=False) == []
    assert ada.asked == []


def test_the_module_and_the_book_of_users_know_the_same_uids() -> None:
    assert (node_accounts.USER_UIDS[0], node_accounts.USER_UIDS[-1]) == (FIRST_UID, LAST_UID)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to run something as another user")
def test_processes_are_really_killed() -> None:
    uid = 58231
    with subprocess.Popen(["sleep", "300"], user=uid) as program:
        assert node_accounts.alive(uid) == [f"{program.pid} ('sleep')"]
        assert program.poll() is None
        assert node_accounts.end_processes(uid) == []
        assert program.wait(timeout=PATIENCE) == -9
    assert node_accounts.alive(uid) == []


# ---------------------------------------------------------------- units
SHOWN = """\
Id=slurmd.service
LoadState=loaded
ActiveState=active
UnitFileState=enabled
NeedDaemonReload=no
ExecMainStartTimestamp=Mon 2026-11-23 19:06:06.500000 UTC

Id=munge.service
LoadState=loaded
ActiveState=inactive
UnitFileState=disabled
NeedDaemonReload=no
ExecMainStartTimestamp=
"""
STARTED_AT = 1795460766.5


def test_units_as_systemd_shows_them() -> None:
    units = node_units.parse_units(SHOWN)
    assert set(units) == {"slurmd.service", "munge.service"}
    assert node_units.start_time(units["slurmd.service"]["ExecMainStartTimestamp"]) == STARTED_AT
    assert node_units.start_time(units["munge.service"]["ExecMainStartTimestamp"]) == 0.0
    assert node_units.start_time("n/a") == 0.0


@pytest.mark.parametrize(
    ("state", "active", "changed_at", "action"),
    [
        ("started", "inactive", 0.0, "start"),
        ("started", "failed", 0.0, "start"),
        ("started", "active", STARTED_AT - 1, ""),
        ("started", "active", STARTED_AT + 1, "restart"),
        ("started", "activating", STARTED_AT + 1, "restart"),
        ("stopped", "active", 0.0, "stop"),
        ("stopped", "failed", 0.0, "stop"),
        ("stopped", "inactive", STARTED_AT + 1, ""),
        ("kept", "inactive", STARTED_AT + 1, ""),
        ("kept", "failed", STARTED_AT + 1, ""),
        ("kept", "active", STARTED_AT - 1, ""),
        ("kept", "active", STARTED_AT + 1, "try-restart"),
        ("kept", "activating", STARTED_AT + 1, "try-restart"),
    ],
)
def test_a_unit_that_started_before_its_files_changed_is_restarted(
    state: str, active: str, changed_at: float, action: str
) -> None:
    seen = {**node_units.parse_units(SHOWN)["slurmd.service"], "ActiveState": active}
    assert node_units.unit_action({"state": state}, seen, changed_at) == action


@pytest.mark.parametrize(
    ("state", "active", "action"),
    [
        ("started", "active", ""),
        ("started", "inactive", "start"),
        ("stopped", "active", "stop"),
        ("stopped", "inactive", ""),
        ("kept", "active", ""),
    ],
)
def test_a_timer_has_no_process_that_could_be_stale(state: str, active: str, action: str) -> None:
    shown = f"Id=apt-daily.timer\nLoadState=loaded\nActiveState={active}\nUnitFileState=disabled\nNeedDaemonReload=no\n"
    seen = node_units.parse_units(shown)["apt-daily.timer"]
    assert node_units.unit_action({"state": state}, seen, 0.0) == action


def test_the_last_change_is_the_latest_of_the_files_there_are(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    os.utime(tmp_path / "a", (0, 0))  # setting the times back does not hide a change
    assert node_files.last_change([str(tmp_path / "a"), str(tmp_path / "absent")]) == (tmp_path / "a").stat().st_ctime
    assert node_files.last_change([str(tmp_path / "absent")]) == 0.0


@given(st.text())
def test_no_output_of_systemctl_breaks_the_parser(text: str) -> None:
    assert isinstance(node_units.parse_units(text), dict)


class Systemd:
    """A systemctl of two units; what it is told to do, it does, unless the unit is broken."""

    def __init__(self, states: dict[str, str]) -> None:
        self.states = dict(states)
        self.told: list[str] = []
        self.broken: set[str] = set()

    def run(self, argv: list[str], timeout: float = 0) -> str:
        verb, names = argv[1], argv[-1:]
        if verb == "show":
            blocks = []
            for name in [word for word in argv if word.endswith(".service")]:
                state = self.states.get(name)
                load = "loaded" if state else "not-found"
                blocks.append(
                    f"Id={name}\nLoadState={load}\nActiveState={state or 'inactive'}\nUnitFileState=disabled\n"
                    "NeedDaemonReload=no\nExecMainStartTimestamp=Mon 2026-11-23 19:06:06 UTC\n"
                )
            return "\n".join(blocks)
        self.told.append(" ".join(argv[1:]))
        for name in names:
            if verb in ("start", "restart"):
                self.states[name] = "failed" if name in self.broken else "active"
            if verb == "stop":
                self.states[name] = "inactive"
        return ""


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Systemd]:
    def make(**states: str) -> Systemd:
        fake = Systemd({f"{name}.service": state for name, state in states.items()})
        monkeypatch.setattr(node_units, "run", fake.run)
        monkeypatch.setattr(node_units, "journal_of", lambda name: f"last words of {name}")
        monkeypatch.setattr(node_units, "listening_ports", lambda: {6818})
        monkeypatch.setattr(node_units.subprocess, "run", lambda *args, **kwargs: None)
        return fake

    return make


def unit(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "enabled": None, "state": "started", "reads": [], "listen": None, **fields}


def test_units_come_up_in_the_order_given(systemd: Callable[..., Systemd]) -> None:
    fake = systemd(munge="inactive", slurmd="active", old="active")
    changes = node_units.converge_units(
        [unit("munge", enabled=True), unit("slurmd", listen=6818), unit("old", state="stopped"),
         unit("absent", state="stopped")],
        5,
        check=False,
    )  # fmt: skip
    assert changes == ["munge.service enabled", "munge.service start", "old.service stop"]
    assert fake.told == ["--no-reload enable munge.service", "start munge.service", "stop old.service"]


def test_a_unit_that_gives_up_fails_with_its_last_words(systemd: Callable[..., Systemd]) -> None:
    fake = systemd(slurmd="inactive")
    fake.broken.add("slurmd.service")
    with pytest.raises(
        node_command.NodeStateError, match=r"slurmd.service did not stay up\nlast words of slurmd.service"
    ):
        node_units.converge_units([unit("slurmd")], 5, check=False)


def test_a_port_that_never_answers_is_a_timeout(systemd: Callable[..., Systemd]) -> None:
    systemd(slurmdbd="inactive")
    with pytest.raises(node_command.NodeStateError, match=r"slurmdbd.service is not up after 0 s"):
        node_units.converge_units([unit("slurmdbd", listen=6819)], 0, check=False)


def test_a_missing_unit_is_named(systemd: Callable[..., Systemd]) -> None:
    systemd()
    with pytest.raises(node_command.NodeStateError, match=r"slurmd\.service is not installed here"):
        node_units.converge_units([unit("slurmd")], 5, check=False)


@pytest.mark.parametrize("state", ["active", "activating"])
def test_a_kept_unit_that_runs_is_restarted_and_not_waited_for(
    systemd: Callable[..., Systemd], tmp_path: Path, state: str
) -> None:
    """kubelet of a node that is half joined never comes up; kubeadm is what mends it."""
    (tmp_path / "node.crt").touch()
    fake = systemd(kubelet=state, munge="inactive")
    kept = unit("kubelet", state="kept", reads=[str(tmp_path / "node.crt")])
    changes = node_units.converge_units([kept, unit("munge")], 0, check=False)
    assert changes == ["kubelet.service try-restart", "munge.service start"]
    assert fake.told == ["try-restart kubelet.service", "start munge.service"]


@pytest.mark.parametrize("states", [{}, {"kubelet": "inactive"}, {"kubelet": "failed"}, {"kubelet": "active"}])
def test_a_kept_unit_is_never_started(systemd: Callable[..., Systemd], tmp_path: Path, states: dict[str, str]) -> None:
    """Before kubeadm there is no kubelet to speak of; and one that runs with what it reads is left alone."""
    reads = [] if states.get("kubelet") == "active" else [str(tmp_path)]
    fake = systemd(**states)
    assert node_units.converge_units([unit("kubelet", state="kept", reads=reads)], 0, check=False) == []
    assert fake.told == []


def test_check_mode_tells_systemd_nothing(systemd: Callable[..., Systemd]) -> None:
    fake = systemd(munge="inactive")
    changes = node_units.converge_units([unit("munge", enabled=True)], 5, check=True)
    assert changes == ["munge.service enabled", "munge.service start"]
    assert fake.told == []


# ---------------------------------------------------------------- as Ansible runs it
@pytest.mark.parametrize("secret", ["of-one-line-3d0c", "of-several\nlines-7be1\n"])
def test_arguments_are_not_copied_into_the_journal(tmp_path: Path, secret: str) -> None:
    """Run as Ansible runs it, with a log of our own in the journal's place."""
    arguments = {"files": [{"path": str(tmp_path / "laid"), "secret": secret, "owner": ME, "group": MINE["group"]}]}
    probe = (
        "import json, runpy, sys\n"
        "import ansible.module_utils\n"
        "from ansible.module_utils import basic\n"
        f"ansible.module_utils.__path__.append({str(UTILS)!r})\n"
        f"basic._ANSIBLE_ARGS = {json.dumps({'ANSIBLE_MODULE_ARGS': arguments}).encode()!r}\n"
        "basic._ANSIBLE_PROFILE = 'legacy'\n"
        "basic.AnsibleModule.log = lambda self, msg, log_args=None: print('LOGGED', msg, log_args, file=sys.stderr)\n"
        f"runpy.run_path({str(SOURCE)!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert json.loads(done.stdout)["changed"] is True, done.stderr
    assert "LOGGED" not in done.stderr
    assert (tmp_path / "laid").read_text() == secret


def test_ansible_hides_secrets_and_counts_changes(tmp_path: Path) -> None:
    secret = "never-to-be-seen-9b1f"
    (tmp_path / "key").write_text(secret)
    play = tmp_path / "play.yml"
    owner = "" if ME == "root" else f"            owner: {ME}\n            group: {ME}\n"
    play.write_text(
        "- hosts: localhost\n"
        "  gather_facts: false\n"
        "  tasks:\n"
        "    - name: Lay it\n"
        "      node_state:\n"
        "        files:\n"
        f"          - path: {tmp_path}/laid\n"
        "            mode: '0400'\n"
        f"            secret: \"{{{{ lookup('file', '{tmp_path}/key') }}}}\"\n"
        f"{owner}"
    )
    bin_directory = Path(sys.executable).parent

    def run() -> str:
        done = subprocess.run(
            [bin_directory / "ansible-playbook", "-vvv", "-i", "localhost,", "-c", "local", play],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env={
                "PATH": f"{bin_directory}:/usr/bin:/bin",
                "HOME": str(tmp_path),
                "LC_ALL": "C.UTF-8",
                "ANSIBLE_LIBRARY": str(SOURCE.parent),
                "ANSIBLE_MODULE_UTILS": str(UTILS),
                "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            },
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    first, second = run(), run()
    assert "changed=1" in first and "changed=0" in second
    assert secret not in first + second
    assert (tmp_path / "laid").read_text() == secret


# ---------------------------------------------------------------- derived files
def derived(tmp_path: Path, *argv: str) -> dict[str, Any]:
    return {"path": str(tmp_path / "bundle"), "argv": list(argv), "reads": [str(tmp_path / "sources")]}


def test_a_derived_file_is_made_when_its_sources_change(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    wanted = derived(tmp_path, "sh", "-c", f"ls {tmp_path}/sources > {tmp_path}/bundle")
    assert node_files.ensure_derived(wanted, 60, check=True) == [f"derived {tmp_path}/bundle"]
    assert not (tmp_path / "bundle").exists()
    assert node_files.ensure_derived(wanted, 60, check=False)
    assert node_files.ensure_derived(wanted, 60, check=False) == []
    time.sleep(0.02)  # a file system's clock is coarse
    (tmp_path / "sources" / "ca.crt").touch()
    assert node_files.ensure_derived(wanted, 60, check=False)
    assert (tmp_path / "bundle").read_text() == "ca.crt\n"
    assert node_files.ensure_derived(wanted, 60, check=False) == []


def test_a_command_that_finds_nothing_to_do_is_not_asked_for_ever(tmp_path: Path) -> None:
    (tmp_path / "bundle").touch()
    time.sleep(0.02)
    (tmp_path / "sources").mkdir()
    wanted = derived(tmp_path, "true")
    assert node_files.ensure_derived(wanted, 60, check=False)
    assert node_files.ensure_derived(wanted, 60, check=False) == []


def test_a_command_that_fails_is_asked_again(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    for _ in range(2):
        with pytest.raises(node_command.NodeStateError, match="ended with status 1"):
            node_files.ensure_derived(derived(tmp_path, "false"), 60, check=False)
