"""The script that lays a node's way to the pods of the others, with programs that only note their arguments."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from emulator.core.data_files import share_dir
from tests.support.waiting import PATIENCE

SCRIPT = share_dir() / "config/images/files/cloud/usr/lib/hyperscaler/kubernetes-network"
CHAIN = "-w -t nat -A HYPERSCALER-PODS -s 10.244.0.0/16"
MASQUERADE = f"{CHAIN} ! -d 10.244.0.0/16 -j MASQUERADE"


def commands(tmp_path: Path, conf: str | None) -> list[str]:
    """What the script calls, one line each."""
    programs, log = tmp_path / "bin", tmp_path / "log"
    programs.mkdir()
    for name in ("modprobe", "sysctl", "ip", "iptables"):
        # An address of eth0 where it is asked for; rules that are looked for are not there yet.
        answers = 'case "$*" in *address*) echo eth0;; *" -C "*) exit 1;; esac'
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{log}\n{answers}\n')
        (programs / name).chmod(0o755)
    file = tmp_path / "pod-network.conf"
    if conf is not None:
        file.write_text(conf)
    script = SCRIPT.read_text().replace("/etc/hyperscaler/pod-network.conf", str(file))
    env = {"PATH": f"{programs}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-c", script], env=env, check=True, timeout=PATIENCE)
    return log.read_text().splitlines()


@pytest.mark.parametrize(
    ("routes", "kept"),
    [
        ("", []),
        ("10.244.10.0/24 10.20.0.10\n", [f"{CHAIN} -d 10.20.0.10 -j RETURN"]),
        (
            "10.244.10.0/24 10.20.0.10\n10.244.12.0/24 10.20.0.12\n",
            [f"{CHAIN} -d 10.20.0.10,10.20.0.12 -j RETURN"],
        ),
    ],
)
def test_pods_keep_their_address_on_the_way_to_other_nodes(tmp_path: Path, routes: str, kept: list[str]) -> None:
    """With the address of their node they would pass the firewall of the others, which trusts nodes, on every port."""
    conf = f"POD_SUBNET=10.244.0.0/16\nSERVICE_SUBNET=10.96.0.0/12\nROUTES='\n{routes}'\n"
    called = commands(tmp_path, conf)
    rules = [line.removeprefix("iptables ") for line in called if " -A HYPERSCALER-PODS" in line]
    # Everything else out of the cluster has the node's address; the first rule that matches counts.
    assert rules == [*kept, MASQUERADE]
    for line in routes.splitlines():
        subnet, address = line.split()
        assert f"ip route replace {subnet} via {address} proto 201" in called


def test_without_a_pod_network_of_the_lab_nothing_is_masqueraded(tmp_path: Path) -> None:
    called = commands(tmp_path, None)
    assert not [line for line in called if " -A HYPERSCALER-PODS" in line or "route replace" in line]
