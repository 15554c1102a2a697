"""slurmrestd: nobody reaches it from outside, it can do nothing by itself, and a token is not to be had for the asking.

That Slurm refuses forged tokens and other names is tried in the labs (`tests/e2e/test_slurm_lab.py`).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import jinja2
import pytest
import yaml

from emulator.core.data_files import share_dir
from emulator.core.debian.releases import SlurmFeature
from emulator.guests.inventory.build import build_inventory
from emulator.guests.verify.slurm_extras import REST_SOCKET
from emulator.labfile.model import ClusterSpec
from tests.unit.playbooks.test_playbook_hpc import CONNECTION, lab, template

ROLES = share_dir() / "playbooks" / "roles"
UNIT = (ROLES / "slurm_scheduler/templates/slurmrestd.service.j2").read_text()
ALL = frozenset(SlurmFeature)


def asked() -> ClusterSpec:
    spec = lab()
    assert spec.slurm is not None
    return replace(spec, slurm=replace(spec.slurm, rest_api=True))


def conf(name: str, spec: ClusterSpec, features: frozenset[SlurmFeature] = ALL) -> list[str]:
    return template(name, build_inventory(spec, CONNECTION, slurm=features), "hpc-controller").splitlines()


def test_it_listens_on_a_unix_socket_and_nowhere_else() -> None:
    starts = [line.partition("=")[2] for line in UNIT.splitlines() if line.startswith("ExecStart=")]
    assert starts[0] == "", "the package's own command listens on 0.0.0.0:6820"
    (command,) = starts[1:]
    addresses = [word for word in command.split()[1:] if re.search("[:.][0-9]|^unix:", word)]
    assert addresses == [f"unix:{REST_SOCKET}"]
    assert "-a rest_auth/jwt " in command, "with rest_auth/local the account of the service would be asked for"


@pytest.mark.parametrize(
    "line", ["DynamicUser=yes", "User=slurmrestd", "CapabilityBoundingSet=", "ProtectHome=yes", "PrivateDevices=yes"]
)
def test_its_account_has_no_rights_and_nothing_else(line: str) -> None:
    assert line in UNIT.splitlines()


def test_it_cannot_take_the_controller_s_memory() -> None:
    bounds = dict(line.split("=", 1) for line in UNIT.splitlines() if re.match("(MemoryMax|TasksMax)=", line))
    assert bounds == {"MemoryMax": "25%", "TasksMax": "64"}


def test_only_root_makes_tokens() -> None:
    """Access that is revoked ends at once, and a token could be made for years: nobody gets one by asking for it."""
    lines = conf("slurm_common/templates/slurm.conf.j2", asked())
    assert "AuthAltTypes=auth/jwt" in lines
    assert "AuthAltParameters=jwt_key=/etc/slurm/jwt_hs256.key,disable_token_creation" in lines


@pytest.mark.parametrize(("spec", "features"), [(lab(), ALL), (asked(), frozenset[SlurmFeature]())])
def test_no_token_is_good_where_nobody_asked_for_it(spec: ClusterSpec, features: frozenset[SlurmFeature]) -> None:
    for name in ("slurm_common/templates/slurm.conf.j2", "slurm_controller/templates/slurmdbd.conf.j2"):
        assert not any("jwt" in line for line in conf(name, spec, features))


def test_the_key_of_the_tokens_follows_from_munge_s_and_is_slurm_s_alone(tmp_path: Path) -> None:
    role = yaml.safe_load((ROLES / "slurm_controller/vars/main.yml").read_text())
    (key,) = role["slurm_token_files"]
    assert (key["owner"], key["group"], key["mode"]) == ("slurm", "slurm", "0600")
    assert "content" not in key, "a secret is never shown"

    def rendered(munge: str) -> str:
        environment = jinja2.Environment(autoescape=False)  # noqa: S701 -- a key, not HTML
        environment.filters["hash"] = lambda text, kind: hashlib.new(kind, text.encode()).hexdigest()
        return environment.from_string(key["secret"]).render(lookup=lambda *_, **__: munge, secrets_dir=tmp_path)

    assert len(rendered("a")) == 64
    assert rendered("a") != rendered("b"), "`rotate LAB munge` ends all tokens"
    units = role["slurmdbd_units"] + yaml.safe_load((ROLES / "slurm_scheduler/tasks/main.yml").read_text())
    for unit in (units[0]["reads"], units[1]["vars"]["scheduler_files"]):
        assert key["path"] in unit, "who checks tokens is restarted when the key changes"
