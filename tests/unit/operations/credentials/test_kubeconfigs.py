"""Each user of a lab with Kubernetes is handed a kubeconfig of their own, for as long as they have access."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from emulator.core.data_files import share_dir
from emulator.core.fs import write_private
from emulator.core.paths import LabPaths
from emulator.core.progress import SilentReporter
from emulator.credentials.users import AccessBook, AccessRole, LabUser, render_book
from emulator.labfile.load import load_spec
from emulator.labfile.model import ClusterSpec
from emulator.operations.credentials.kubeconfigs import MIN_TOKEN_SECONDS, cluster_authority, hand_out_kubeconfigs

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMoe+mH2elGa8VXf8MNkZOYF08DGeWUvGeJ47mhyUjgZ"


class Guests:
    """Hands out what says whose it is, for how long, and of which cluster."""

    def __init__(self) -> None:
        self.handed: list[tuple[str, int]] = []
        self.authority = "Q0E="

    def hand_kubeconfig(self, _spec: Any, _access: Any, user: LabUser, *, seconds: int, directory: Path) -> None:
        self.handed.append((user.name, seconds))
        write_private(directory / "kubeconfig", f'{{"certificate-authority-data": "{self.authority}"}}'.encode())


class Lab:
    def __init__(self, root: Path) -> None:
        self.paths = LabPaths(root)
        self.guests = Guests()
        self.cluster(self.guests.authority)

    def cluster(self, authority: str) -> None:
        self.guests.authority = authority
        text = f"clusters:\n- cluster:\n    certificate-authority-data: {authority}\n"
        write_private(self.paths.secrets / "kubeconfig", text.encode())

    def users(self, **lasting: int) -> None:
        book = AccessBook()
        for name, seconds in lasting.items():
            expires = int(time.time()) + seconds
            book = book.granted(name, AccessRole.STUDENT, public_key=KEY, expires=expires)
        write_private(self.paths.access, render_book(book))

    def hand_out(self, spec: ClusterSpec, renew: str = "") -> list[str]:
        self.guests.handed.clear()
        env = SimpleNamespace(guests=self.guests)
        run = SimpleNamespace(
            env=env, spec=spec, name=spec.name, paths=self.paths, access=None, reporter=SilentReporter()
        )
        hand_out_kubeconfigs(cast(Any, run), renew=renew)
        return [name for name, _ in self.guests.handed]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def spec_of(name: str) -> ClusterSpec:
    spec, _ = load_spec(share_dir() / "config" / f"{name}.yaml")
    assert spec is not None
    return spec


DEMO, SLURM_ONLY = spec_of("demo"), spec_of("minimal")


def test_who_has_access_is_handed_one_and_only_once(lab: Lab) -> None:
    lab.users(ada=3600, bob=86400, gone=-5)
    assert lab.hand_out(DEMO) == ["ada", "bob"]
    assert 3590 <= dict(lab.guests.handed)["ada"] <= 3600
    assert (lab.paths.handouts / "ada" / "kubeconfig").stat().st_mode & 0o777 == 0o600
    assert lab.hand_out(DEMO) == []


@pytest.mark.parametrize("spec", [DEMO, SLURM_ONLY], ids=["with Kubernetes", "Slurm alone"])
def test_what_was_handed_out_goes_when_access_has_ended(lab: Lab, spec: ClusterSpec) -> None:
    lab.users(ada=3600, gone=-5)
    for name in ("ada", "gone"):
        write_private(lab.paths.handouts / name / "id_ed25519", b"a private key")
    lab.hand_out(spec)
    assert [path.name for path in lab.paths.handouts.iterdir()] == ["ada"]


def test_a_new_grant_is_a_new_kubeconfig(lab: Lab) -> None:
    lab.users(ada=3600, bob=3600)
    lab.hand_out(DEMO)
    assert lab.hand_out(DEMO, renew="bob") == ["bob"]


def test_a_cluster_that_was_made_anew_hands_out_again(lab: Lab) -> None:
    lab.users(ada=3600)
    lab.hand_out(DEMO)
    lab.cluster("QU5PVEhFUg==")
    assert lab.hand_out(DEMO) == ["ada"]


def test_the_authority_is_found_in_todays_file_and_in_kubeadms(lab: Lab) -> None:
    admin = lab.paths.secrets / "kubeconfig"
    assert cluster_authority(admin) == "Q0E="
    write_private(admin, b'{\n  "cluster": {\n    "certificate-authority-data": "TkVX",\n    "server": ""\n  }\n}\n')
    assert cluster_authority(admin) == "TkVX"


def test_kubernetes_gives_no_token_for_less_than_ten_minutes(lab: Lab) -> None:
    lab.users(ada=60)
    lab.hand_out(DEMO)
    assert lab.guests.handed == [("ada", MIN_TOKEN_SECONDS)]


def test_a_lab_without_kubernetes_has_none(lab: Lab) -> None:
    lab.users(ada=3600)
    assert lab.hand_out(SLURM_ONLY) == []


def test_who_was_revoked_gets_none(lab: Lab) -> None:
    lab.users(ada=3600)
    book = AccessBook().granted("ada", AccessRole.ADMIN, public_key=KEY, expires=int(time.time()) + 60).without("ada")
    write_private(lab.paths.access, render_book(book))
    assert lab.hand_out(DEMO) == []
