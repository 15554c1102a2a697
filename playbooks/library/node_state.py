#!/usr/bin/python3
"""Ansible module: accounts, directories, files and systemd units of a node, in one round trip.

One module for all of them, because a round trip costs seconds on an emulated CPU, and because it can then keep a
promise that notified handlers cannot: a unit runs with the files that are on the disk, also when an earlier run was
killed between writing a file and restarting the unit. The rule needs no record: a unit whose process started before
the last change (ctime) of one of the files it reads is stale, and is restarted.
"""

# Paths are plain strings here: they come from JSON and go to lstat, rename and unlink.

from __future__ import annotations

import grp
import os
import pwd
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TypedDict

from ansible.module_utils.pace import Watch, seconds
from ansible.module_utils.user_end import USER_UIDS, CommandError, alive, bar, end_processes, expiry
from ansible.module_utils.user_quota import NoQuotasError, Quota, ensure_quota, kernel

DOCUMENTATION = r"""
module: node_state
short_description: Accounts, directories, files and systemd units of a node in one round trip
description:
  - Applies, in this order, O(users), O(former_users), O(directories), O(absent), O(files), O(derived) and O(units),
    each only where it differs.
  - A unit is restarted when it started before one of the files named in its C(reads) last changed.
options:
  users:
    description: System or ordinary accounts, each with C(name), C(uid), C(home) and C(shell).
    type: list
    elements: dict
  quota:
    description: Hard limits of each of O(users) on the root file system, C(kib) and C(inodes). A file system that
      counts nothing is a warning.
    type: dict
  former_users:
    description: Accounts that are closed; their processes are ended. Their files stay.
    type: list
    elements: str
  directories:
    description: >-
      Directories, each with C(path), C(owner), C(group), C(mode) and C(only), the names of files that may be in it;
      others are removed. Directories in it stay.
    type: list
    elements: dict
  absent:
    description: Paths of files to remove.
    type: list
    elements: str
  files:
    description: Files, each with C(path), C(owner), C(group), C(mode) and C(content), or C(secret) for content that
      must never be shown.
    type: list
    elements: dict
  derived:
    description: Files that a command makes of others, each with C(path), C(argv) and C(reads). The command is run when
      one of the files (or directories) in C(reads) has changed since.
    type: list
    elements: dict
  units:
    description: systemd units, each with C(name), C(enabled), C(state) (started, stopped or kept), C(reads) (files) and
      C(listen) (TCP port that answers once the service is up). With the state C(kept), whether it runs is for others to
      decide: it is neither started nor waited for, and restarted only where it runs.
    type: list
    elements: dict
  timeout:
    description: Seconds, of a fast host, that a unit may take to be up; longer while it is at work.
    type: int
"""

RETURN = r"""
changes:
  description: What was changed, one line each.
  type: list
"""

# How long to wait for another stamp of a file, and how often; the kernel's clock has ticks of up to 10 ms.
TICK_SECONDS = 0.02
TICKS = 5
UNIT_PROPERTIES = (
    "Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload,ExecMainStartTimestamp,SubState,MainPID,CPUUsageNSec"
)


class User(TypedDict):
    name: str
    uid: int
    home: str | None
    shell: str | None


class Place(TypedDict):
    path: str
    owner: str | None
    group: str | None
    mode: str | None


class Directory(Place, total=False):
    only: list[str] | None


class File(Place):
    content: str | None
    secret: str | None


class Derived(TypedDict):
    path: str
    argv: list[str]
    reads: list[str]


class Unit(TypedDict):
    name: str
    enabled: bool | None
    state: Literal["started", "stopped", "kept"]
    reads: list[str]
    listen: int | None


class Params(TypedDict):
    users: list[User]
    quota: Quota | None
    former_users: list[str]
    directories: list[Directory]
    absent: list[str]
    files: list[File]
    derived: list[Derived]
    units: list[Unit]
    timeout: int


class NodeStateError(Exception):
    """Something that the playbook asks for cannot be had; the text is for the operator."""


def run(argv: Sequence[str], timeout: float = 120) -> str:
    """Run a command; its output. A failure becomes NodeStateError with what the command said."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds(timeout), check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise NodeStateError(f"{' '.join(argv)} ended with status {done.returncode}: {said}")
    return done.stdout


# ---------------------------------------------------------------- accounts and files
def ensure_user(user: User, *, check: bool) -> list[str]:
    """Create the account unless it exists; an existing one with another uid is an error, never changed."""
    name, uid = user["name"], user["uid"]
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        if not check:
            home = user["home"] or f"/home/{name}"
            shell = user["shell"] or "/bin/bash"
            ids = ["--gid", str(uid)]
            run(["groupadd", "--force", *ids, name])
            private = ["--create-home", "--home-dir", home, "--key", "HOME_MODE=0700"]
            run(["useradd", "--uid", str(uid), *ids, *private, "--shell", shell, name])
        return [f"user {name}"]
    if found.pw_uid != uid:
        raise NodeStateError(f"user {name} has uid {found.pw_uid} on this node, not {uid}")
    if expiry(name) == "1":
        if not check:
            run(["usermod", "--expiredate", "", name])
        return [f"user {name} again"]
    return []


def ensure_former(name: str, *, check: bool) -> list[str]:
    """Close this account, then end its processes. Its files stay, with a uid that no one else gets.

    What it runs is looked for each time: a run may have been cut off between the two. An account with a uid that no
    user of a lab gets is one of the system's that bears the same name, and is left alone."""
    try:
        uid = pwd.getpwnam(name).pw_uid
    except KeyError:
        return []
    if uid not in USER_UIDS:
        return []
    changes = []
    if expiry(name) != "1":
        changes.append(f"ended user {name}")
    if not check:
        bar(name)
    if alive(uid):
        changes.append(f"ended what user {name} ran")
    left = [] if check else end_processes(uid)
    if left:
        raise NodeStateError(f"user {name} has no access any more, but these do not end: {', '.join(left[:20])}")
    return changes


def wanted_ids(entry: Place) -> tuple[int, int]:
    """(uid, gid) of an entry's owner and group; root where nothing is said."""
    owner, group = entry["owner"] or "root", entry["group"] or "root"
    try:
        return pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise NodeStateError(f"{entry['path']}: no such owner or group: {error.args[0]}") from error


def differs(path: str, uid: int, gid: int, mode: int) -> bool:
    """Whether owner, group or permission bits of `path` (not followed) differ."""
    seen = os.lstat(path)
    return (seen.st_uid, seen.st_gid, seen.st_mode & 0o7777) != (uid, gid, mode)


def ensure_directory(entry: Place, *, check: bool) -> list[str]:
    path, mode = entry["path"], int(entry["mode"] or "0755", 8)
    uid, gid = wanted_ids(entry)
    if os.path.isdir(path) and not os.path.islink(path):
        if not differs(path, uid, gid, mode):
            return []
    elif os.path.lexists(path):
        raise NodeStateError(f"{path} is in the way: it is not a directory")
    elif not check:
        os.makedirs(path)
    if not check:
        os.chown(path, uid, gid)
        os.chmod(path, mode)
    return [f"directory {path}"]


def ensure_only(entry: Directory, *, check: bool) -> list[str]:
    """Remove files that nobody asked for from a directory that is all ours: keys, say, that an admin left there."""
    only = entry.get("only")
    if only is None or not os.path.isdir(entry["path"]):
        return []
    with os.scandir(entry["path"]) as entries:
        names = sorted(each.name for each in entries if not each.is_dir(follow_symlinks=False))
    changes = []
    for name in names:
        if name not in only:
            changes += ensure_absent(f"{entry['path']}/{name}", check=check)
    return changes


def ensure_absent(path: str, *, check: bool) -> list[str]:
    if not os.path.lexists(path):
        return []
    if not check:
        os.unlink(path)
    return [f"removed {path}"]


def ensure_file(entry: File, *, check: bool) -> list[str]:
    """Write under another name with the final owner and mode, then rename: never half there, never too open."""
    path, mode = entry["path"], int(entry["mode"] or "0644", 8)
    uid, gid = wanted_ids(entry)
    text = entry["secret"] if entry["secret"] is not None else entry["content"]
    data = (text or "").encode()
    if os.path.isfile(path) and not os.path.islink(path):
        with open(path, "rb") as stream:
            same = stream.read(len(data) + 1) == data
        if same and not differs(path, uid, gid, mode):
            return []
    if not check:
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".node_state.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                os.fchown(stream.fileno(), uid, gid)
                os.fchmod(stream.fileno(), mode)
                stream.flush()
                os.fsync(stream.fileno())
            os.rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    return [f"file {path}"]


def ensure_derived(entry: Derived, timeout: float, *, check: bool) -> list[str]:
    """Run the command unless what it makes is younger than all that it is made of, as make does."""
    path = entry["path"]
    if last_change([path]) > last_change(entry["reads"]):
        return []
    if not check:
        run(entry["argv"], timeout)
        for _ in range(TICKS):
            if last_change([path]) > last_change(entry["reads"]):
                break
            # The command found nothing to do and left the file alone, or both changed within one tick of the kernel's
            # clock, by which files are stamped: note when it was asked.
            time.sleep(TICK_SECONDS)
            os.utime(path)
    return [f"derived {path}"]


# ---------------------------------------------------------------- units
def parse_units(text: str) -> dict[str, dict[str, str]]:
    """`systemctl show` output: blocks of KEY=VALUE lines, one block per unit, by unit name."""
    units = {}
    for block in text.split("\n\n"):
        fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in fields:
            units[fields["Id"]] = fields
    return units


def start_time(text: str) -> float:
    """Seconds since the epoch of systemd's `Mon 2026-11-23 19:06:06.123456 UTC`; 0 for a unit that never started, or
    whose start cannot be read: it is started anew then."""
    words = text.split()
    if len(words) < 3:
        return 0.0
    form = "%Y-%m-%d %H:%M:%S.%f" if "." in words[2] else "%Y-%m-%d %H:%M:%S"
    try:
        return datetime.strptime(f"{words[1]} {words[2]}", form).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def last_change(paths: Collection[str]) -> float:
    """The latest ctime of those paths that exist: renames, chown and chmod count, and no one can set it back."""
    return max((os.lstat(path).st_ctime for path in paths if os.path.lexists(path)), default=0.0)


def unit_action(unit: Unit, seen: Mapping[str, str], changed_at: float) -> str:
    """What to do with a unit: `start`, `restart`, `try-restart`, `stop` or nothing (an empty string)."""
    running = seen.get("ActiveState") in ("active", "activating", "reloading")
    if unit["state"] == "stopped":
        return "stop" if running or seen.get("ActiveState") == "failed" else ""
    if not running:
        return "start" if unit["state"] == "started" else ""
    if "ExecMainStartTimestamp" not in seen:
        return ""  # a timer, say, has no process that could have read an old file
    if start_time(seen["ExecMainStartTimestamp"]) > changed_at:
        return ""
    # A kept one may have been stopped since we looked.
    return "restart" if unit["state"] == "started" else "try-restart"


def show_units(names: Sequence[str]) -> dict[str, dict[str, str]]:
    return parse_units(run(["systemctl", "show", "--timestamp=us+utc", "--property", UNIT_PROPERTIES, *names]))


def listening_ports() -> set[int]:
    """TCP ports with a listener."""
    ports: set[int] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii", errors="replace") as stream:
                ports |= parse_ports(stream.read())
        except FileNotFoundError:
            continue
    return ports


def parse_ports(text: str) -> set[int]:
    """Ports of the sockets in state LISTEN (0A) in /proc/net/tcp; a line that is none of a socket is left out."""
    rows = (re.match(r"\s*\d+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:[0-9A-F]{4} 0A\s", row) for row in text.splitlines())
    return {int(row.group(1), 16) for row in rows if row}


def full_name(unit: Unit) -> str:
    name = unit["name"]
    return name if "." in name else f"{name}.service"


def converge_units(units: Sequence[Unit], timeout: float, *, check: bool) -> list[str]:
    """Bring the units to their state one after the other, in the order given: each may count on those before it."""
    names = [full_name(unit) for unit in units]
    seen = show_units(names)
    if any(fields.get("NeedDaemonReload") == "yes" for fields in seen.values()) and not check:
        run(["systemctl", "daemon-reload"])
        seen = show_units(names)
    changes = []
    present = []
    for unit, name in zip(units, names, strict=True):
        fields = seen.get(name, {})
        if fields.get("LoadState") == "loaded":
            present.append((unit, name, fields))
        elif unit["state"] == "started":
            raise NodeStateError(f"{name} is not installed here (systemd says {fields.get('LoadState', 'nothing')})")
    for verb, wanted in (("enable", True), ("disable", False)):
        todo = [name for unit, name, fields in present if unit["enabled"] is wanted and differs_from(fields, wanted)]
        if todo and not check:
            run(["systemctl", "--no-reload", verb, *todo])
        changes += [f"{name} {verb}d" for name in todo]
    for unit, name, fields in present:
        action = unit_action(unit, fields, last_change(unit["reads"]))
        if action:
            changes.append(f"{name} {action}")
        if check or (not action and fields.get("ActiveState") in ("active", "inactive") and answers(unit)):
            continue
        if action:
            systemctl(action, name, timeout)
        if unit["state"] == "started":
            wait_until_up(unit, name, timeout)
    return changes


def differs_from(fields: Mapping[str, str], enabled: bool) -> bool:
    """Whether the unit file is not enabled (or disabled) as wanted; static units are neither."""
    state = fields.get("UnitFileState")
    return state not in ("static", "alias", "indirect") and (state == "enabled") is not enabled


def systemctl(verb: str, name: str, timeout: float) -> None:
    try:
        if verb != "stop":
            # A unit that failed too often refuses to start until its counter is cleared.
            subprocess.run(["systemctl", "reset-failed", name], capture_output=True, check=False)
        run(["systemctl", verb, name], timeout=timeout)
    except (NodeStateError, subprocess.TimeoutExpired) as error:
        raise NodeStateError(f"{error}\n{journal_of(name)}") from error


def answers(unit: Unit) -> bool:
    return unit["listen"] is None or unit["listen"] in listening_ports()


def wait_until_up(unit: Unit, name: str, timeout: float) -> None:
    """Until the unit is active and its port answers. A service of Type=simple is `active` at once, even if it is
    about to give up, so the port is the real sign."""
    watch = Watch(timeout)
    while True:
        seen = show_units([name]).get(name, {})
        state = seen.get("ActiveState", "")
        if state in ("failed", "inactive"):
            raise NodeStateError(f"{name} did not stay up\n{journal_of(name)}")
        if state == "active" and answers(unit):
            return
        # Its processes come and go, or it uses the processor: it is at work.
        if given_up := watch.over((state, seen.get("SubState"), seen.get("MainPID"), work_of(seen))):
            raise NodeStateError(f"{name} is not up {given_up}\n{journal_of(name)}")
        time.sleep(0.2)


def work_of(seen: Mapping[str, str]) -> int:
    """Whole seconds of processor time that the unit has used; 0 where systemd does not count it."""
    text = seen.get("CPUUsageNSec", "")
    return int(text) // 10**9 if text.isascii() and text.isdigit() and len(text) < 19 else 0


def journal_of(name: str) -> str:
    """The last lines of the unit's journal, so that the operator need not log in to see them."""
    argv = ["journalctl", "--no-pager", "--output=cat", "--lines=15", "--unit", name]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip()


def ensure_quotas(users: Sequence[User], quota: Quota | None, warn: Callable[[str], None], *, check: bool) -> list[str]:
    """The same limits for each of the users; a disk without quotas, of an older image, stays as it is."""
    if quota is None:
        return []
    quotactl = kernel("/")
    try:
        return [f"quota {user['name']}" for user in users if ensure_quota(user["uid"], quota, quotactl, check=check)]
    except NoQuotasError:
        warn("users can fill this node's disk: it was made from an image without quotas; make the node again")
        return []


def converge(params: Params, warn: Callable[[str], None], *, check: bool) -> list[str]:
    """Everything the parameters ask for; the changes made."""
    changes = []
    for user in params["users"]:
        changes += ensure_user(user, check=check)
    changes += ensure_quotas(params["users"], params["quota"], warn, check=check)
    for name in params["former_users"]:
        changes += ensure_former(name, check=check)
    for directory in params["directories"]:
        changes += ensure_directory(directory, check=check)
        changes += ensure_only(directory, check=check)
    for path in params["absent"]:
        changes += ensure_absent(path, check=check)
    for file in params["files"]:
        changes += ensure_file(file, check=check)
    for derived in params["derived"]:
        changes += ensure_derived(derived, params["timeout"], check=check)
    if params["units"]:
        changes += converge_units(params["units"], params["timeout"], check=check)
    return changes


def argument_spec() -> dict[str, Any]:
    place = {"owner": {"type": "str"}, "group": {"type": "str"}, "mode": {"type": "str"}}
    return {
        "former_users": {"type": "list", "elements": "str", "default": []},
        "quota": {
            "type": "dict",
            "options": {"kib": {"type": "int", "required": True}, "inodes": {"type": "int", "required": True}},
        },
        "users": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "name": {"type": "str", "required": True},
                "uid": {"type": "int", "required": True},
                "home": {"type": "str"},
                "shell": {"type": "str"},
            },
        },
        "directories": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "path": {"type": "path", "required": True},
                "only": {"type": "list", "elements": "str"},
                **place,
            },
        },
        "absent": {"type": "list", "elements": "path", "default": []},
        "files": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "path": {"type": "path", "required": True},
                "content": {"type": "str"},
                "secret": {"type": "str", "no_log": True},
                **place,
            },
            "required_one_of": [("content", "secret")],
            "mutually_exclusive": [("content", "secret")],
        },
        "derived": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "path": {"type": "path", "required": True},
                "argv": {"type": "list", "elements": "str", "required": True},
                "reads": {"type": "list", "elements": "path", "required": True},
            },
        },
        "units": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "name": {"type": "str", "required": True},
                "enabled": {"type": "bool"},
                "state": {"type": "str", "choices": ["started", "stopped", "kept"], "default": "started"},
                "reads": {"type": "list", "elements": "path", "default": []},
                "listen": {"type": "int"},
            },
        },
        "timeout": {"type": "int", "default": 180},
    }


def main() -> None:
    from ansible.module_utils.basic import AnsibleModule

    class UnloggedModule(AnsibleModule):
        """Ansible writes a module's arguments into the node's journal, and masks a secret there only if it has no line
        end: it looks for the value in a text in which line ends are already escaped."""

        def _log_invocation(self) -> None:
            pass

    module = UnloggedModule(argument_spec=argument_spec(), supports_check_mode=True)
    try:
        changes = converge(module.params, module.warn, check=module.check_mode)
    except (NodeStateError, CommandError, OSError, subprocess.TimeoutExpired) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(changes), changes=changes)


if __name__ == "__main__":
    main()
