"""Our configuration of kubeadm, as the kubeadm of each minor version itself says (`kubeadm config validate`).

Their programs are those of the releases on this machine (`make demo` builds one of the newest, and a lab with
`version: "1.36"` one of the version before), or lie in the directories that HYPERSCALER_KUBEADM names, separated by
colons."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from emulator.labfile.kubernetes_versions import MODULE_MINORS, minor_of
from tests.support.api_server import releases
from tests.support.playbook_modules import CLUSTER, PARAMS, RELEASE, kubeadm_config
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.host

TAINTS = [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]


def programs() -> list[Path]:
    named = [Path(each) for each in os.environ.get("HYPERSCALER_KUBEADM", "").split(":") if each]
    return [path / "kubeadm" for path in (*named, *(release / "bin" for release in releases()))]


def version_of(program: Path) -> str:
    said = subprocess.run(
        [program, "version", "--output=short"], capture_output=True, text=True, check=True, timeout=PATIENCE
    ).stdout
    return said.strip().removeprefix("v")


def validated(program: Path, documents: Sequence[Mapping[str, Any]], file: Path) -> str:
    """What kubeadm says against the documents; nothing when it takes them."""
    file.write_text(kubeadm_config.to_yaml(documents))
    argv = [str(program), "config", "validate", "--config", str(file)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE)
    complaints = re.findall(r".*unknown field.*", done.stderr)
    return "" if done.returncode == 0 and not complaints else done.stderr


@pytest.mark.parametrize("minor", MODULE_MINORS)
def test_kubeadm_takes_what_its_minor_version_is_given(minor: str, tmp_path: Path) -> None:
    fitting = [(each, version_of(each)) for each in programs() if each.is_file()]
    found = next(((program, version) for program, version in fitting if minor_of(version) == minor), None)
    if found is None:
        pytest.skip(f"no release of Kubernetes {minor} on this machine: a lab with that version builds one")
    program, version = found
    release = {**RELEASE, "version": version}
    token, hashes = PARAMS["token"], [f"sha256:{'a' * 64}"]
    worker = {**PARAMS["node"], "taints": TAINTS}
    documents = {
        "init": kubeadm_config.with_token(
            kubeadm_config.init_documents(release, CLUSTER, PARAMS["node"], 900), token, "30m"
        ),
        "join": kubeadm_config.join_documents(release, CLUSTER, worker, token, hashes, 900),
        "upgrade": [kubeadm_config.upgrade_document(version, 900)],
    }
    for name, each in documents.items():
        assert validated(program, each, tmp_path / f"{name}.yaml") == "", name
    wrong = [{**kubeadm_config.upgrade_document(version, 900), "kind": "UpgradeConfigurations"}]
    assert validated(program, wrong, tmp_path / "wrong.yaml"), "it does look at what it is given"
