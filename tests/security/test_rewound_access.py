"""Who may log in, and with what, never goes back with a snapshot.

The guests of this machine know keys, authorities, secrets and users. What they know goes back with their memory and
their disks, as it does on real ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emulator.adapters.simulated.guests import SimulatedShell
from emulator.core.ports import Completed, GuestAddress
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.credentials.rotation_phases import RotatedSecret
from emulator.credentials.users import AccessRole, read_book
from emulator.guests.ports import Access
from emulator.operations.credentials.access import GrantRequest, grant, revoke
from emulator.operations.credentials.rotate import rotate
from emulator.plan.resources import Firewall
from tests.support.rewinding import NODES, Rewound
from tests.support.rotation_world import KeyedGuests, KeyedHost, identity_of, lets_in, public_text, signed_by
from tests.support.simulated_world import LAB
from tests.support.stop_points import PowerCut, in_sequence

_TRUST = re.compile(r"echo '?(ssh-ed25519 \S+)[^|]* \| sudo -n tee -a /etc/ssh/lab_keys/labadmin > /dev/null")


class RewoundShell(SimulatedShell):
    """ssh that is let in by guests that know the key, and a key that is added by one who is in."""

    def __init__(self, guests: RewoundGuests, access: Access, hypervisor: Any) -> None:
        super().__init__(hypervisor)
        self._guests, self._key = guests, access.private_key

    def ready(self, guest: GuestAddress, *, timeout: float) -> bool:
        known = self._guests.nodes().get(guest.name)
        return super().ready(guest, timeout=timeout) and (known is None or self._opens(known))

    def _opens(self, known: dict[str, Any]) -> bool:
        return f"ssh-ed25519 {identity_of(self._key)}" in known["logins"]

    def _answer(self, guest: GuestAddress, command: str) -> Completed:
        nodes = self._guests.nodes()
        if guest.name in nodes and not self._opens(nodes[guest.name]):
            return Completed(("ssh", guest.name), 255, "", "Permission denied (publickey)")
        if match := _TRUST.fullmatch(command):
            nodes[guest.name]["logins"].append(match[1])
            self._guests.write(nodes)
            return Completed(("ssh", guest.name), 0, "", "")
        if "scontrol" in command or "hyperscaler-clock" in command:
            return Completed(("ssh", guest.name), 0, "", "")
        return super()._answer(guest, command)


class RewoundGuests(KeyedGuests):
    def shell(self, access: Access) -> Any:
        return RewoundShell(self, access, self._host.hypervisor(access.paths if access.prefix else None, quiet=True))

    def _told(self, access: Access, node: str, tags: tuple[str, ...]) -> dict[str, object]:
        told = super()._told(access, node, tags)
        if not tags or "access" in tags:
            book = read_book(access.paths.access)
            told["users"] = sorted(user.name for user in book.users if not user.revoked)
        return told

    def write(self, nodes: dict[str, Any]) -> None:
        self._file.write_text(json.dumps(nodes))


class RewoundHost(KeyedHost):
    def guests(self) -> RewoundGuests:
        return RewoundGuests(self)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Rewound]:
    host = RewoundHost(tmp_path / "host")
    kept: dict[str, str] = {}

    def rewound(name: str) -> None:
        file = host.machine / "nodes.json"
        if name == "freeze":
            kept["nodes"] = file.read_text()
        if name in ("restore_domain", "rewind") and kept and host.going_back:  # type: ignore[attr-defined]
            file.write_text(kept["nodes"])

    host.going_back = False  # type: ignore[attr-defined]
    host.hook.after = rewound
    with in_sequence():
        yield Rewound(host)
    host.close()


def add(lab: Rewound, user: str) -> None:
    grant(lab.host.environment(), LAB, GrantRequest(user, AccessRole.STUDENT, 3600), SilentReporter(), StopFlag())


def back(lab: Rewound, **options: Any) -> None:
    lab.host.going_back = True  # type: ignore[attr-defined]
    lab.restore(**options)
    lab.host.going_back = False  # type: ignore[attr-defined]
    lab.assert_well()


def nodes(lab: Rewound) -> dict[str, dict[str, Any]]:
    assert isinstance(lab.host, RewoundHost)
    found = lab.host.nodes()
    assert set(found) == set(NODES)
    return found


WAYS = pytest.mark.parametrize("disk_only", [False, True], ids=["memory", "disks"])


@WAYS
def test_a_revoked_user_does_not_come_back_and_a_later_one_stays(lab: Rewound, disk_only: bool) -> None:
    add(lab, "ada")
    lab.create()
    revoke(lab.host.environment(), LAB, "ada", SilentReporter(), StopFlag())
    add(lab, "bob")
    back(lab, disk_only=disk_only)
    for name, node in nodes(lab).items():
        assert node["users"] == ["bob"], name


@WAYS
@pytest.mark.parametrize("secret", list(RotatedSecret))
def test_a_rotated_secret_does_not_come_back(
    lab: Rewound, secret: RotatedSecret, disk_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = lab.host.home.lab(LAB)
    former = paths.root.parent.parent / "former"
    former.write_bytes(paths.ssh_key.read_bytes())
    former.with_name("former.pub").write_bytes(paths.ssh_key.with_name("id_ed25519.pub").read_bytes())
    lab.create()
    before = nodes(lab)
    rotate(lab.host.environment(), LAB, secret, SilentReporter(), StopFlag(), confirm=lambda _pending: True)
    after = nodes(lab)
    assert before != after
    # Until all have the present authority they do not trust each other: they have just come back from another time.
    monkeypatch.setattr("tests.support.rotation_world.require_mutual_trust", lambda _nodes: None)
    back(lab, disk_only=disk_only)
    found = nodes(lab)
    for name in NODES:
        assert found[name]["logins"] == after[name]["logins"] == [public_text(paths.ssh_key)]
        assert found[name]["authorities"] == after[name]["authorities"]
        assert found[name]["munge"] == after[name]["munge"]
        assert found[name]["trusted"] == after[name]["trusted"]
        assert signed_by(found[name]["certificate"], found[name]["trusted"])
        if secret is RotatedSecret.SSH:
            assert not lets_in(found[name], former), "the old key is refused"


def test_the_networks_are_closed_until_the_present_users_hold(lab: Rewound) -> None:
    add(lab, "ada")
    table = lab.host.state().resources["firewall/lab"]
    open_rules = len(table.handle["parts"])
    lab.create()
    revoke(lab.host.environment(), LAB, "ada", SilentReporter(), StopFlag())
    closed: list[bool] = []

    def look(name: str) -> None:
        if name == "start_domain":
            closed.append(lab.host.state().resources["firewall/lab"].open_action == "close")

    lab.host.hook.before = look
    back(lab)
    lab.host.hook.before = lambda _name: None
    assert closed == [True] * len(NODES), "before a guest goes on"
    record = lab.host.state().resources["firewall/lab"]
    assert isinstance(record.resource, Firewall) and record.open_action is None
    assert len(record.handle["parts"]) == open_rules


def test_nothing_is_configured_where_nothing_has_changed(lab: Rewound) -> None:
    """It would cost minutes on a slow host, and `reset` is to take seconds."""
    add(lab, "ada")
    lab.create()
    counted: list[str] = []
    lab.host.hook.before = counted.append
    back(lab)
    lab.host.hook.before = lambda _name: None
    assert "guests.configure" not in counted and "node told" not in counted


def test_a_reboot_half_way_does_not_bring_them_back_either(lab: Rewound, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machines have the rewound disks, and boot with those: `provision` gets in and applies the present record."""
    add(lab, "ada")
    lab.create()
    revoke(lab.host.environment(), LAB, "ada", SilentReporter(), StopFlag())
    wanted = RotatedSecret.SSH
    rotate(lab.host.environment(), LAB, wanted, SilentReporter(), StopFlag(), confirm=lambda _pending: True)

    def cut(name: str) -> None:
        if name == "start_domain":
            raise PowerCut

    lab.host.hook.before = cut
    with pytest.raises(PowerCut):
        back(lab)
    lab.host.hook.before = lambda _name: None
    lab.host.going_back = False  # type: ignore[attr-defined]
    lab.host.reboot()
    for module in ("create", "restore"):
        monkeypatch.setattr(f"emulator.lab.snapshots.{module}.read_boot_id", lambda: "after the reboot")
    monkeypatch.setattr("tests.support.rotation_world.require_mutual_trust", lambda _nodes: None)
    lab.provision()
    lab.assert_well()
    for name, node in nodes(lab).items():
        assert node["users"] == [], name
        assert node["logins"] == [public_text(lab.host.home.lab(LAB).ssh_key)], name


def test_an_access_that_ended_since_is_ended_again(lab: Rewound, monkeypatch: pytest.MonkeyPatch) -> None:
    add(lab, "ada")
    lab.create()
    later = read_book(lab.host.home.lab(LAB).access).users[0].expires + 10
    counted: list[str] = []
    lab.host.hook.before = counted.append
    monkeypatch.setattr("emulator.lab.snapshots.heal.time.time", lambda: float(later))
    back(lab)
    lab.host.hook.before = lambda _name: None
    assert "node told" in counted


def test_the_keys_of_snapshots_are_private_and_go_with_them(lab: Rewound) -> None:
    lab.create()
    kept = lab.store.key("first")
    assert kept.read_bytes() == lab.host.home.lab(LAB).ssh_key.read_bytes()
    assert kept.stat().st_mode & 0o077 == 0 and kept.parent.stat().st_mode & 0o077 == 0
    lab.delete()
    assert not kept.exists()
