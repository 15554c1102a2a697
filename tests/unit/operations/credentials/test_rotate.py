"""Rotating a secret: what is asked, what is refused, what is told; the stops are swept in tests/crash."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from emulator.apply.lock import exclusive_lock
from emulator.apply.state import StateStore
from emulator.core.errors import (
    ConfigureError,
    ConflictError,
    HyperscalerError,
    InterruptedRunError,
    StateError,
    UsageError,
    VerifyError,
)
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.credentials.rotation_files import RotationFiles, pending_rotations
from emulator.credentials.rotation_phases import RotatedSecret
from emulator.credentials.users import AccessRole
from emulator.guests.verify.report import CheckResult
from emulator.operations.credentials.access import GrantRequest, grant, list_users, revoke
from emulator.operations.credentials.rotate import Rotated, rotate
from emulator.operations.history import history
from emulator.operations.status import lab_status
from tests.support.rotation_world import KeyedGuests, KeyedHost
from tests.support.simulated_world import lab_text
from tests.support.waiting import PATIENCE

SSH, MUNGE, TLS = RotatedSecret


@pytest.fixture
def host(tmp_path: Path) -> Iterator[KeyedHost]:
    made = KeyedHost(tmp_path / "host")
    made.provision(made.lab_file(lab_text()))
    yield made
    made.close()


def run(host: KeyedHost, secret: RotatedSecret, *, stop: StopFlag | None = None, yes: bool = True) -> Rotated:
    return rotate(
        host.environment(), "demo", secret, SilentReporter(), stop or StopFlag(), confirm=lambda _pending: yes
    )


def test_declined_nothing_changes(host: KeyedHost) -> None:
    before = host.save()
    assert run(host, SSH, yes=False).declined
    after = {name: what for name, what in host.save().items() if "/locks" not in name}
    assert after == {name: what for name, what in before.items() if "/locks" not in name}


def test_users_are_named_who_need_their_directory_again(host: KeyedHost) -> None:
    grant(host.environment(), "demo", GrantRequest("ada", AccessRole.STUDENT, 3600), SilentReporter(), StopFlag())
    certificate = host.home.lab("demo").handouts / "ada" / "id_ed25519-cert.pub"
    before = certificate.read_text()
    assert run(host, SSH).hand_again == ("ada",)
    assert certificate.read_text() != before
    assert run(host, TLS).hand_again == ()


def test_a_user_s_own_key_is_certified_again_without_its_private_half(host: KeyedHost) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMoe+mH2elGa8VXf8MNkZOYF08DGeWUvGeJ47mhyUjgZ"
    request = GrantRequest("eve", AccessRole.STUDENT, 3600, public_key=key)
    grant(host.environment(), "demo", request, SilentReporter(), StopFlag())
    assert run(host, SSH).hand_again == ("eve",)
    directory = host.home.lab("demo").handouts / "eve"
    assert key.split()[1] in (directory / "id_ed25519-cert.pub").read_text()
    assert not (directory / "id_ed25519").exists()


def test_the_old_key_stays_while_the_new_one_opens_not_every_door(
    host: KeyedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = host.home.lab("demo")
    before = paths.ssh_key.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(KeyedGuests, "refusing", lambda *_args: ("hpc-compute-1",))
        with pytest.raises(ConfigureError, match="does not let us into hpc-compute-1; the old one stays in use"):
            run(host, SSH)
    assert paths.ssh_key.read_bytes() == before
    assert [files.secret for files in pending_rotations(paths)] == [SSH]
    assert any("rotation of ssh did not end" in line for line in lab_status(host.environment(), "demo").problems)
    assert run(host, SSH).finished == (SSH,)
    assert paths.ssh_key.read_bytes() != before


def test_another_rotation_finishes_the_one_that_has_begun(host: KeyedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(KeyedGuests, "prove", lambda *_args: (CheckResult("munge x", False, "Invalid credential", 0.0),))
        with pytest.raises(VerifyError, match="not all works with it:\n    munge x: Invalid credential"):
            run(host, MUNGE)
    asked: list[Any] = []

    def agree(pending: Any) -> bool:
        asked.append(pending)
        return True

    done = rotate(host.environment(), "demo", TLS, SilentReporter(), StopFlag(), confirm=agree)
    assert asked == [(MUNGE,)]
    assert (done.secret, done.finished) == (TLS, (MUNGE,))
    assert pending_rotations(host.home.lab("demo")) == ()


def stop_once_staged(host: KeyedHost, secret: RotatedSecret) -> None:
    """A rotation that is asked to stop while its new secrets are made."""
    stop, whole = StopFlag(), RotationFiles.stage

    def stage(files: RotationFiles, *words: Any) -> None:
        whole(files, *words)
        stop.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RotationFiles, "stage", stage)
        with pytest.raises(HyperscalerError, match=f"stopped on request while {secret} was rotated, before: "):
            run(host, secret, stop=stop)


def test_a_stop_is_taken_between_phases(host: KeyedHost) -> None:
    stop_once_staged(host, SSH)
    assert run(host, SSH).finished == (SSH,)


def test_a_stop_before_there_is_a_new_secret_leaves_nothing_to_finish(host: KeyedHost) -> None:
    stop = StopFlag()
    asked: list[Any] = []

    def confirm(pending: tuple[RotatedSecret, ...]) -> bool:
        asked.append(pending)
        stop.set()
        return True

    with pytest.raises(InterruptedRunError, match="stopped on request before ssh was rotated"):
        rotate(host.environment(), "demo", SSH, SilentReporter(), stop, confirm=confirm)
    assert asked == [()]
    assert pending_rotations(host.home.lab("demo")) == ()


def test_a_stop_ends_the_wait_for_the_lab(host: KeyedHost) -> None:
    stop = StopFlag()
    stop.set()
    env, lock = host.environment(), host.home.locks / "demo.lock"
    with exclusive_lock(lock, purpose="provision demo"):
        for begin in (
            lambda: rotate(
                env, "demo", SSH, SilentReporter(), stop, confirm=lambda _pending: True, wait_seconds=PATIENCE
            ),
            lambda: revoke(env, "demo", "ada", SilentReporter(), stop, wait_seconds=PATIENCE),
            lambda: grant(
                env, "demo", GrantRequest("ada", AccessRole.STUDENT, 60), SilentReporter(), stop, wait_seconds=PATIENCE
            ),
        ):
            with pytest.raises(InterruptedRunError):
                begin()


@dataclass
class Told(SilentReporter):
    warnings: list[str] = field(default_factory=list)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def damage(host: KeyedHost, secret: RotatedSecret, content: bytes = b"") -> Path:
    """A rotation that was stopped before its first phase, and whose record was damaged then."""
    stop_once_staged(host, secret)
    record = host.home.lab("demo").rotation / secret / "rotation.json"
    record.write_bytes(content)
    return record


def test_a_damaged_record_is_kept_and_reported(host: KeyedHost) -> None:
    record = damage(host, TLS)
    status = lab_status(host.environment(), "demo")
    assert any("rotation of tls did not end" in line for line in status.problems)
    assert record.read_bytes() == b"", "status only reads"
    told = Told()
    done = rotate(host.environment(), "demo", TLS, told, StopFlag(), confirm=lambda _pending: True)
    assert done.finished == (TLS,)
    assert [line for line in told.warnings if "starts again with: trust" in line]
    assert len([path for path in record.parent.parent.iterdir() if path.name.startswith("tls.damaged-")]) == 1


def test_with_a_damaged_record_and_no_new_secrets_the_old_ones_stay(host: KeyedHost) -> None:
    record = damage(host, SSH, b"junk")
    (record.parent / "ca_ed25519").unlink()
    before = host.home.lab("demo").ssh_key.read_bytes()
    host.provision(host.lab_file(lab_text()))
    assert host.home.lab("demo").ssh_key.read_bytes() == before
    assert pending_rotations(host.home.lab("demo")) == ()
    assert run(host, SSH).finished == ()
    assert host.home.lab("demo").ssh_key.read_bytes() != before


def test_a_record_of_a_newer_version_does_not_keep_access_alive(host: KeyedHost) -> None:
    """The nodes cannot be told by this version, but no command of a newer one lets the user back in."""
    grant(host.environment(), "demo", GrantRequest("ada", AccessRole.STUDENT, 3600), SilentReporter(), StopFlag())
    damage(host, TLS, b'{"format": 99, "secret": "tls", "phase": "trust"}')
    told = Told()
    with pytest.raises(HyperscalerError, match="has format 99"):
        revoke(host.environment(), "demo", "ada", told, StopFlag())
    assert [user.revoked for user in list_users(host.environment(), "demo")] == [True]
    assert not (host.home.lab("demo").handouts / "ada").exists()
    assert any("has format 99" in line for line in told.warnings)


def test_a_lab_without_slurm_has_no_munge_key(tmp_path: Path) -> None:
    text = """
version: "1.0"
metadata: {name: demo}
clusters: {cloud: {}}
"""
    made = KeyedHost(tmp_path / "other")
    try:
        paths = made.home.lab("demo")
        paths.root.mkdir(parents=True)
        paths.spec.write_text(text)
        with pytest.raises(UsageError, match="no Slurm cluster, so it has no MUNGE key"):
            run(made, MUNGE)
    finally:
        made.close()


def test_a_lab_of_an_older_version_is_told_what_to_do(host: KeyedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = StateStore.state.fget  # type: ignore[attr-defined]

    def older(store: StateStore) -> Any:
        state = whole(store)
        return type(state)(
            {key: value for key, value in state.resources.items() if key != "secret/tls-ca"}, state.facts
        )

    monkeypatch.setattr(StateStore, "state", property(older))
    with pytest.raises(StateError, match="no secret/tls-ca on record") as caught:
        run(host, TLS)
    assert "hyperscaler provision" in caught.value.fix
    assert not host.home.lab("demo").rotation.exists()


def test_only_one_command_at_a_time(host: KeyedHost) -> None:
    with exclusive_lock(host.home.locks / "demo.lock", purpose="provision demo"), pytest.raises(ConflictError):
        run(host, SSH)


def test_history_tells_which_secret(host: KeyedHost) -> None:
    run(host, MUNGE)
    last = history(host.environment(), "demo", last=1).commands[-1]
    assert (last.command, last.details, last.result) == ("rotate", {"secret": "munge"}, "done")
    assert last.changes == (("rotate", "secret/munge"),)
