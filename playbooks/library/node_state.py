#!/usr/bin/python3
"""Ansible module: accounts, directories, files and systemd units of a node, in one round trip.

One module for all of them, because a round trip costs seconds on an emulated CPU, and because it can then keep a
promise that notified handlers cannot: a unit runs with the files that are on the disk, also when an earlier run was
killed between writing a file and restarting the unit. The rule needs no record: a unit whose process started before
the last change (ctime) of one of the files it reads is stale, and is restarted.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any, TypedDict

from ansible.module_utils.node_accounts import User, ensure_former, ensure_quotas, ensure_user
from ansible.module_utils.node_command import NodeStateError
from ansible.module_utils.node_files import (
    Derived,
    Directory,
    File,
    ensure_absent,
    ensure_derived,
    ensure_directory,
    ensure_file,
    ensure_only,
)
from ansible.module_utils.node_units import Unit, converge_units
from ansible.module_utils.user_end import CommandError
from ansible.module_utils.user_quota import Quota

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
