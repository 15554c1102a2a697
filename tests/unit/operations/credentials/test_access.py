"""Granting and revoking access: on record first, told to the nodes then, gone with the lab."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emulator.apply.lock import exclusive_lock
from emulator.core.data_files import share_dir
from emulator.core.errors import ConfigureError, ConflictError, StateError, UsageError
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.credentials.users import AccessRole, LabUser
from emulator.lab.cluster_pipeline import CONFIGURE_FACT
from emulator.labfile.load import load_spec, parse_spec
from emulator.operations.credentials.access import GrantRequest, grant, kubectl_on, list_users, revoke
from emulator.operations.credentials.seen_secrets import seen_secrets
from tests.support import simulated_world
from tests.support.rotation_world import KeyedGuests, KeyedHost
from tests.support.simulated_world import SimulatedHost, lab_text
from tests.support.waiting import PATIENCE

ADA = GrantRequest("ada", AccessRole.STUDENT, 3600)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMoe+mH2elGa8VXf8MNkZOYF08DGeWUvGeJ47mhyUjgZ"


def give(host: SimulatedHost, request: GrantRequest = ADA) -> Any:
    return grant(host.environment(), "demo", request, SilentReporter(), StopFlag())


def take(host: SimulatedHost, name: str = "ada") -> Any:
    return revoke(host.environment(), "demo", name, SilentReporter(), StopFlag())


@pytest.fixture
def lab(host: SimulatedHost) -> SimulatedHost:
    host.provision(host.lab_file(lab_text()))
    return host


def test_granted_then_revoked(lab: SimulatedHost) -> None:
    granted = give(lab)
    assert (granted.user.name, granted.user.uid, granted.user.revoked) == ("ada", 3000, False)
    assert (granted.directory / "id_ed25519-cert.pub").read_text().startswith("1 3600 ")
    assert granted.directory.stat().st_mode & 0o077 == 0
    assert lab.home.lab("demo").access.stat().st_mode & 0o777 == 0o600
    assert [user.name for user in list_users(lab.environment(), "demo")] == ["ada"]

    assert take(lab).user.revoked
    assert not granted.directory.exists()
    assert [user.revoked for user in list_users(lab.environment(), "demo")] == [True]


def test_secrets_that_an_admin_could_read_are_named_with_what_replaces_them(lab: SimulatedHost) -> None:
    give(lab)
    assert take(lab).seen == ()
    give(lab, GrantRequest("bob", AccessRole.ADMIN, 60))
    assert [each.rotated_by for each in take(lab, "bob").seen] == ["munge", "tls", None]
    give(lab, GrantRequest("eve", AccessRole.ADMIN, 60, ("hpc-compute-1",)))
    tls = take(lab, "eve").seen[1].name
    assert "hpc-compute-1" in tls and "hpc-controller" not in tls


def test_each_cluster_has_secrets_of_its_own() -> None:
    spec, _ = load_spec(share_dir() / "config" / "demo.yaml")
    assert spec is not None
    names = {"worker": ("cloud-gpu-worker-1",), "head": ("cloud-control-plane",), "all": ()}
    seen = {
        key: " ".join(each.name for each in seen_secrets(spec, LabUser("bob", 3000, AccessRole.ADMIN, nodes)))
        for key, nodes in names.items()
    }
    assert [key for key, text in seen.items() if "MUNGE" in text] == ["all"]
    assert [key for key, text in seen.items() if "admin kubeconfig" in text] == ["head", "all"]
    assert all("TLS keys" in text and "host keys" in text for text in seen.values())


def test_students_come_in_at_the_heads_and_admins_everywhere(lab: SimulatedHost) -> None:
    assert give(lab).user.nodes == ("hpc-controller",)
    assert give(lab, GrantRequest("bob", AccessRole.ADMIN, 60)).user.nodes == ()
    assert give(lab, GrantRequest("ada", AccessRole.STUDENT, 60, ("hpc-compute-1",))).user.nodes == ("hpc-compute-1",)


def test_students_come_in_at_login_nodes_where_there_are_some() -> None:
    text = 'version: "1.0"\nmetadata: {name: x}\nclusters: {hpc: {login_nodes: {count: 2}}, cloud: {}}'
    spec, report = parse_spec(text, file="f")
    assert spec is not None, report.findings
    assert [node.name for node in spec.entrances] == ["hpc-login-1", "hpc-login-2", "cloud-control-plane"]
    # A group without nodes is no way in.
    spec, _ = parse_spec(text.replace("count: 2", "count: 0"), file="f")
    assert spec is not None
    assert [node.name for node in spec.entrances] == ["hpc-controller", "cloud-control-plane"]


def test_kubectl_is_ready_on_the_control_plane_for_who_logs_in_there() -> None:
    spec, _ = load_spec(share_dir() / "config" / "demo.yaml")
    assert spec is not None
    for nodes, where in (
        ((), "cloud-control-plane"),
        (("hpc-controller", "cloud-control-plane"), "cloud-control-plane"),
        (("hpc-controller",), ""),
        (("cloud-gpu-worker-1",), ""),
    ):
        assert kubectl_on(spec, LabUser("bob", 3000, AccessRole.ADMIN, nodes)) == where


def test_without_kubernetes_nobody_is_promised_kubectl(lab: SimulatedHost) -> None:
    assert give(lab).kubectl_on == ""


def test_a_second_grant_takes_the_next_serial(lab: SimulatedHost) -> None:
    give(lab)
    again = give(lab, GrantRequest("ada", AccessRole.ADMIN, 60, ("hpc-controller",), KEY))
    assert [each.serial for each in again.user.certificates] == [1, 2]
    assert (again.user.role, again.user.nodes) == (AccessRole.ADMIN, ("hpc-controller",))


def test_nodes_that_cannot_be_told_are_told_by_the_next_run(
    lab: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, ...]] = []
    whole = simulated_world.SimulatedGuests.configure

    def broken(self: Any, *args: Any) -> Any:
        told.append(args[5])
        raise ConfigureError("a node does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(simulated_world.SimulatedGuests, "configure", broken)
        with pytest.raises(ConfigureError):
            give(lab)
    assert told == [("access",)]
    assert [user.name for user in list_users(lab.environment(), "demo")] == ["ada"]
    # Nobody's access makes a configured lab an unfinished one.
    assert lab.state().facts[CONFIGURE_FACT] == "done"
    assert whole is simulated_world.SimulatedGuests.configure
    give(lab)


@pytest.mark.parametrize(
    ("request_", "match"),
    [
        (GrantRequest("root", AccessRole.ADMIN, 60), "account of the nodes themselves"),
        (GrantRequest("../x", AccessRole.STUDENT, 60), "cannot be a user name"),
        (GrantRequest("ada", AccessRole.STUDENT, 60, ("hpc-compute-9",)), "has no node hpc-compute-9"),
    ],
)
def test_refusals_change_nothing(lab: SimulatedHost, request_: GrantRequest, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        give(lab, request_)
    assert list_users(lab.environment(), "demo") == ()
    assert not lab.home.lab("demo").handouts.exists()


def test_a_revoked_key_is_not_signed_again(lab: SimulatedHost) -> None:
    give(lab, GrantRequest("ada", AccessRole.STUDENT, 60, public_key=KEY))
    take(lab)
    with pytest.raises(UsageError, match="was revoked and stays so"):
        give(lab, GrantRequest("ada", AccessRole.STUDENT, 60, public_key=KEY))
    assert not (lab.home.lab("demo").handouts / "ada").exists()


class Stopped(BaseException):
    pass


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[KeyedHost]:
    """A lab whose users have real files."""
    made = KeyedHost(tmp_path / "keyed")
    made.provision(made.lab_file(lab_text()))
    yield made
    made.close()


def private_key(host: SimulatedHost) -> Path:
    return host.home.lab("demo").handouts / "ada" / "id_ed25519"


def test_a_revocation_that_was_cut_off_does_not_leave_the_key_to_the_next_grant(
    keyed: KeyedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = give(keyed).user.certificates[0].public_key
    before = private_key(keyed).read_bytes()
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr("emulator.operations.credentials.handouts.shutil.rmtree", raising(Stopped()))
        take(keyed)
    assert private_key(keyed).read_bytes() == before
    again = give(keyed).user
    assert again.certificates[0].public_key != old
    assert private_key(keyed).read_bytes() != before
    assert (
        again.certificates[0].public_key.split()[1] in private_key(keyed).with_name("id_ed25519-cert.pub").read_text()
    )


def test_what_is_handed_over_works_from_where_the_user_puts_it(keyed: KeyedHost, tmp_path: Path) -> None:
    """As ssh itself reads it, included into a configuration of the user's own, whose other hosts it leaves alone."""
    granted = give(keyed, GrantRequest("ada", AccessRole.STUDENT, 3600, ("hpc-controller",)))
    assert granted.namespaced, "an embedded lab has a network of its own"
    own = tmp_path / "config"
    own.write_text(f"Include {granted.directory}/config\n")
    settings = settings_of(own, "hpc-controller")
    assert settings["identityfile"].endswith("/.ssh/hyperscaler-demo/id_ed25519")
    assert settings["userknownhostsfile"].endswith("/.ssh/hyperscaler-demo/known_hosts")
    assert settings["user"] == "ada"
    assert "secrets" not in (granted.directory / "config").read_text()
    for other in ("hpc-compute-1", "example.org"):
        assert "hyperscaler" not in "".join(settings_of(own, other).values())


def settings_of(config: Path, host: str) -> dict[str, str]:
    done = subprocess.run(
        ["ssh", "-G", "-F", config, host], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


def test_half_a_pair_is_made_anew(keyed: KeyedHost) -> None:
    give(keyed)
    public = private_key(keyed).with_name("id_ed25519.pub")
    public.write_bytes(b"")
    assert give(keyed).user.certificates[-1].public_key == " ".join(public.read_text().split()[:2])


def test_what_cannot_be_removed_is_told_and_the_nodes_hear_of_the_revocation(
    lab: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(lab)
    told: list[str] = []
    monkeypatch.setattr(
        "emulator.operations.credentials.handouts.shutil.rmtree", raising(OSError(30, "Read-only file system"))
    )
    monkeypatch.setattr(SilentReporter, "warn", lambda _self, text: told.append(text))
    assert take(lab).user.revoked
    assert [line for line in told if "Read-only file system; remove it by hand" in line]


def test_nothing_is_signed_that_is_not_on_record(keyed: KeyedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(KeyedGuests, "issue", raising(Stopped()))
        give(keyed)
    (user,) = list_users(keyed.environment(), "demo")
    assert user.certificates[0].public_key == " ".join(
        private_key(keyed).with_name("id_ed25519.pub").read_text().split()[:2]
    )
    assert take(keyed).user.revoked


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*_words: object, **_options: object) -> None:
        raise error

    return fail


def test_a_damaged_list_is_told_and_kept(lab: SimulatedHost) -> None:
    give(lab)
    file = lab.home.lab("demo").access
    file.write_bytes(file.read_bytes()[:-20])
    damaged = file.read_bytes()
    with pytest.raises(StateError, match="list of the lab's users is damaged"):
        give(lab)
    assert file.read_bytes() == damaged


def test_only_one_command_at_a_time(lab: SimulatedHost) -> None:
    with exclusive_lock(lab.home.locks / "demo.lock", purpose="provision demo"), pytest.raises(ConflictError):
        give(lab)


def test_no_lab_no_access(host: SimulatedHost) -> None:
    with pytest.raises(UsageError):
        give(host)


def test_access_goes_with_the_lab(lab: SimulatedHost) -> None:
    give(lab)
    lab.destroy()
    assert not lab.home.lab("demo").root.exists()
