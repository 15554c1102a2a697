"""Who has access to a lab, as text and as JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence

from emulator.cli.render.tables import Table
from emulator.credentials.users import LabUser


def users_table(users: Sequence[LabUser]) -> Table:
    """A row for each user, those who had access once included."""
    rows = [
        (user.name, user.role.value, str(user.uid), ", ".join(user.nodes) or "all nodes", until(user)) for user in users
    ]
    return Table(("USER", "ROLE", "UID", "NODES", "ACCESS"), rows)


def until(user: LabUser) -> str:
    """Until when the user has access, in local time."""
    if user.revoked:
        return "revoked"
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(user.expires))
    return f"until {when}" if user.expires > time.time() else f"ended {when}"


def user_json(user: LabUser) -> dict[str, object]:
    """Keys are an interface: add, do not rename."""
    return {
        "name": user.name,
        "uid": user.uid,
        "role": user.role.value,
        "nodes": list(user.nodes),
        "revoked": user.revoked,
        "certificates": [
            {"serial": each.serial, "public_key": each.public_key, "expires": each.expires}
            for each in user.certificates
        ],
    }
