"""A rotation that is stopped anywhere locks nobody out, and the next `rotate` or `provision` brings it to its end."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.credentials.rotation_files import pending_rotations
from emulator.credentials.rotation_phases import RotatedSecret
from emulator.credentials.users import AccessRole
from emulator.lab.lab_files import LoadedLab
from emulator.operations.credentials.access import GrantRequest, grant, list_users
from emulator.operations.credentials.rotate import rotate
from tests.support.rotation_world import KeyedHost, identity_of, signed_by, stops_of
from tests.support.simulated_world import Snapshot, lab_text
from tests.support.stop_points import in_sequence

LAB = "demo"


@dataclass
class Rotation:
    """A lab with two users, one secret of which is rotated."""

    host: KeyedHost
    lab: LoadedLab
    secret: RotatedSecret

    def rotate(self) -> None:
        rotate(self.host.environment(), LAB, self.secret, SilentReporter(), StopFlag(), confirm=lambda _pending: True)

    def provision(self) -> None:
        self.host.provision(self.lab)

    @property
    def files(self) -> dict[RotatedSecret, tuple[Path, ...]]:
        paths = self.host.home.lab(LAB)
        return {
            RotatedSecret.SSH: (paths.ssh_key, paths.ssh_ca),
            RotatedSecret.MUNGE: (paths.secrets / "munge.key",),
            RotatedSecret.TLS: (paths.tls_key,),
        }

    def contents(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.files[self.secret]}


@pytest.fixture(params=list(RotatedSecret))
def rotation(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rotation]:
    host = KeyedHost(tmp_path / "host")
    try:
        with in_sequence():
            lab = host.lab_file(lab_text(compute=2))
            host.provision(lab)
            for name, role in (("ada", AccessRole.STUDENT), ("bob", AccessRole.ADMIN)):
                grant(host.environment(), LAB, GrantRequest(name, role, 3600), SilentReporter(), StopFlag())
            yield Rotation(host, lab, request.param)
    finally:
        host.close()


def require_rotated(rotation: Rotation, before: dict[Path, bytes], where: str) -> None:
    """Everything has the new secret, nothing trusts the old one, and nothing of either lies about."""
    host, paths = rotation.host, rotation.host.home.lab(LAB)
    after = rotation.contents()
    for path, old in before.items():
        assert after[path] != old, f"{path.name} is the old one: {where}"
    assert pending_rotations(paths) == (), where
    assert not any(paths.rotation.rglob("*")) or not (paths.rotation / rotation.secret.value).exists(), where
    for name, node in host.nodes().items():
        assert node["logins"] == [f"ssh-ed25519 {identity_of(paths.ssh_key)}"], (name, where)
        assert node["authorities"] == [f"ssh-ed25519 {identity_of(paths.ssh_ca)}"], (name, where)
        assert node["host_certificate"].split()[1] == identity_of(paths.ssh_ca), (name, where)
        assert node["munge"] == hashlib.sha256((paths.secrets / "munge.key").read_bytes()).hexdigest(), (name, where)
        assert node["trusted"] == [paths.tls_ca.read_text()], (name, where)
        assert signed_by(node["certificate"], node["trusted"]), (name, where)
    for user in list_users(host.environment(), LAB):
        certificate = (paths.handouts / user.name / "id_ed25519-cert.pub").read_text()
        assert certificate.split()[1] == identity_of(paths.ssh_ca), (user.name, where)
        assert identity_of(paths.ssh_ca) in (paths.handouts / user.name / "known_hosts").read_text(), where
        assert time.time() < user.expires <= time.time() + 3600, where
    require_secret(paths.root, {*before.values(), *after.values()}, where)


def require_secret(root: Path, secrets: set[bytes], where: str) -> None:
    """Private halves are in the secrets' own files, 0600, and nowhere else: no journal, no log, no record."""
    for path in root.rglob("*"):
        if path.is_file() and path.parent.name not in ("ssh", "secrets", "tls", "munge"):
            content = path.read_bytes()
            assert not any(secret.strip() in content for secret in secrets), f"{path} holds a secret: {where}"
        if path.is_file() and any(part in ("secrets", "ssh") for part in path.parts):
            assert path.stat().st_mode & 0o077 == 0 or path.suffix == ".pub", f"{path} is open: {where}"


def test_rotated_at_once(rotation: Rotation) -> None:
    before = rotation.contents()
    rotation.rotate()
    require_rotated(rotation, before, "no stop")
    assert rotation.host.plan(rotation.lab).is_empty


def test_a_stop_anywhere_is_recovered_from(rotation: Rotation) -> None:
    before, start = rotation.contents(), rotation.host.save()
    stops = stops_of(rotation.host, rotation.rotate)
    recoveries: dict[str, Callable[[], None]] = {"rotate": rotation.rotate, "provision": rotation.provision}
    for where, machine in stops.items():
        for name, recover in recoveries.items():
            rotation.host.restore(machine)
            if name == "provision" and not begun(rotation, machine, before):
                recover()  # nothing has begun: the old secret is as good as ever
                assert rotation.contents() == before
                continue
            recover()
            require_rotated(rotation, before, f"{name} after a stop {where}")
            assert rotation.host.plan(rotation.lab).is_empty, where
    print(f"{rotation.secret}: recovered from {len(stops)} machines by {' and by '.join(recoveries)}")
    assert len(stops) > 10
    rotation.host.restore(start)


def test_a_damaged_record_is_recovered_from(rotation: Rotation) -> None:
    """However far the rotation had come: half a pair opens no door, so that it is not always the first phase."""
    before, start = rotation.contents(), rotation.host.save()
    record = rotation.host.home.lab(LAB).rotation / rotation.secret / "rotation.json"
    stops = stops_of(rotation.host, rotation.rotate)
    damaged = 0
    for where, machine in stops.items():
        rotation.host.restore(machine)
        if not record.is_file():
            continue
        content = b"" if damaged % 2 else record.read_bytes()[:-9]
        record.write_bytes(content)
        rotation.provision()
        require_rotated(rotation, before, f"provision after a damaged record {where}")
        (kept,) = (path for path in record.parent.parent.iterdir() if "damaged" in path.name)
        assert kept.read_bytes() == content
        damaged += 1
    assert damaged > 5
    rotation.host.restore(start)


def begun(rotation: Rotation, machine: Snapshot, before: dict[Path, bytes]) -> bool:
    """Whether the rotation was on record when the machine stopped, or had ended."""
    record = f"home/labs/{LAB}/secrets/rotation/{rotation.secret}/rotation.json"
    then = {path: machine[str(path.relative_to(rotation.host.root))][1] for path in before}
    return record in machine or then != before


def test_what_is_rotated_is_on_record_and_no_secret_with_it(rotation: Rotation) -> None:
    before = rotation.contents()
    rotation.rotate()
    told = [json.loads(line) for line in rotation.host.home.audit.read_text().splitlines()]
    (end,) = [entry for entry in told if entry["event"] == "end" and entry.get("secret") == rotation.secret]
    assert end["result"] == "done"
    assert {change["action"] for change in end["changes"]} == {"rotate"}
    text = rotation.host.home.audit.read_bytes() + rotation.host.home.lab(LAB).journal.read_bytes()
    for secret in (*before.values(), *rotation.contents().values()):
        assert secret.strip() not in text
