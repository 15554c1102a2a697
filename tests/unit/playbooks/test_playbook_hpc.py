"""The Slurm playbook: what its templates make of an inventory, and that Ansible accepts it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from emulator.core.data_files import share_dir
from emulator.core.debian.releases import SlurmFeature
from emulator.credentials.ssh_trust import SshTrust
from emulator.credentials.users import AccessBook, AccessRole
from emulator.guests.inventory.build import build_inventory
from emulator.guests.inventory.model import AnsibleInventory, ConnectionFacts, NodeGpu
from emulator.guests.inventory.render import InventoryFormat, render
from emulator.guests.inventory.slurm_limits import student_tres
from emulator.labfile.model import ClusterKind, ClusterSpec, NodeSpec, PartitionSpec, Role, SlurmSpec
from emulator.labfile.networks import NetworkSpec
from tests.support.waiting import PATIENCE

PLAYBOOKS = share_dir() / "playbooks"
CONNECTION = ConnectionFacts("labadmin", Path("/lab/ssh/id"), Path("/lab/ssh/known_hosts"))


def lab(*, computes: int = 2, partitions: tuple[PartitionSpec, ...] = (PartitionSpec("main"),)) -> ClusterSpec:
    nodes = [NodeSpec("hpc-controller", Role.HPC_CONTROLLER, 2, 2048, 8, IPv4Address("192.168.100.10"))]
    nodes += [
        NodeSpec(f"hpc-compute-{n}", Role.HPC_COMPUTE, n, 1024 * n, 8, IPv4Address(f"192.168.100.{10 + n}"))
        for n in range(1, computes + 1)
    ]
    networks = {ClusterKind.HPC: NetworkSpec(ClusterKind.HPC, IPv4Network("192.168.100.0/24"), "virbr100")}
    return ClusterSpec("demo", "", tuple(nodes), networks, slurm=SlurmSpec(partitions, "main", 3600))


def template(name: str, inventory: AnsibleInventory, host: str) -> str:
    """A role's template as Ansible renders it (trim_blocks on), from the inventory's own YAML."""
    tree = yaml.safe_load(render(inventory, InventoryFormat.YAML))["all"]
    hostvars: dict[str, dict[str, Any]] = {}
    groups: dict[str, list[str]] = {}
    for cluster in tree["children"].values():
        for group, body in cluster["children"].items():
            groups[group] = list(body["hosts"])
            for node, variables in body["hosts"].items():
                hostvars[node] = {**tree["vars"], **cluster["vars"], **variables}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PLAYBOOKS / "roles"),
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 -- configuration files, not HTML
    )
    return environment.get_template(name).render(**hostvars[host], hostvars=hostvars, groups=groups)


def slurm_conf(spec: ClusterSpec, gpus: dict[str, tuple[NodeGpu, ...]] | None = None) -> list[str]:
    text = template("slurm_common/templates/slurm.conf.j2", build_inventory(spec, CONNECTION, gpus), "hpc-controller")
    return text.splitlines()


GPUS = {
    "hpc-compute-1": (NodeGpu("1g.10gb", 2, simulated=True), NodeGpu("3g.40gb", 1, simulated=True)),
    "hpc-compute-2": (NodeGpu("a100", 1, device_files=("/dev/nvidia0",)),),
}


def test_nodes_and_partitions() -> None:
    lines = slurm_conf(lab(), GPUS)
    assert "ClusterName=demo" in lines
    assert "SlurmctldHost=hpc-controller(192.168.100.10)" in lines
    assert [line for line in lines if line.startswith("NodeName=")] == [
        "NodeName=hpc-compute-1 NodeAddr=192.168.100.11 CPUs=1 RealMemory=924 Gres=gpu:1g.10gb:2,gpu:3g.40gb:1"
        " State=UNKNOWN",
        "NodeName=hpc-compute-2 NodeAddr=192.168.100.12 CPUs=2 RealMemory=1897 Gres=gpu:a100:1 State=UNKNOWN",
    ]
    assert "PartitionName=main Nodes=hpc-compute-1,hpc-compute-2 Default=YES MaxTime=0-01:00:00 State=UP" in lines
    assert "ReturnToService=2" in lines and "AccountingStorageTRES=gres/gpu" in lines
    assert "DefMemPerCPU=924" in lines  # the smallest share of any node, so that a job fits everywhere


def test_partitions_may_hold_some_nodes() -> None:
    partitions = (PartitionSpec("main"), PartitionSpec("debug", ("hpc-compute-2",)))
    lines = slurm_conf(lab(partitions=partitions))
    assert "PartitionName=debug Nodes=hpc-compute-2 Default=NO MaxTime=0-01:00:00 State=UP" in lines


def test_every_setting_is_on_a_line_of_its_own() -> None:
    for line in slurm_conf(lab(), GPUS):
        assert not line or line.startswith("#") or "=" in line.split()[0], line
        assert "{" not in line and "%" not in line


def test_gres_has_a_device_per_unit() -> None:
    text = template("slurm_common/templates/gres.conf.j2", build_inventory(lab(), CONNECTION, GPUS), "hpc-compute-1")
    assert text.splitlines()[1:] == [
        "NodeName=hpc-compute-1 Name=gpu Type=1g.10gb Count=2 File=/dev/lab-gpu0,/dev/lab-gpu1",
        "NodeName=hpc-compute-1 Name=gpu Type=3g.40gb Count=1 File=/dev/lab-gpu2",
        "NodeName=hpc-compute-2 Name=gpu Type=a100 Count=1 File=/dev/nvidia0",
    ]


@pytest.mark.parametrize(
    ("host", "lines"),
    [
        ("hpc-compute-1", [f"c /dev/lab-gpu{n} 0666 root root - 1:3" for n in range(3)]),
        ("hpc-compute-2", []),
        ("hpc-controller", []),
    ],
)
def test_only_simulated_gpus_have_stand_ins(host: str, lines: list[str]) -> None:
    text = template("slurm_common/templates/lab-gpu.conf.j2", build_inventory(lab(), CONNECTION, GPUS), host)
    assert text.splitlines()[1:] == lines


@pytest.mark.parametrize(
    ("gpus", "constrained"),
    [({}, "no"), ({"hpc-compute-1": GPUS["hpc-compute-1"]}, "no"), (GPUS, "yes")],
)
def test_devices_are_kept_apart_only_where_they_are_real(
    gpus: dict[str, tuple[NodeGpu, ...]], constrained: str
) -> None:
    text = template("slurm_common/templates/cgroup.conf.j2", build_inventory(lab(), CONNECTION, gpus), "hpc-compute-1")
    assert f"ConstrainDevices={constrained}" in text.splitlines()


def test_the_database_knows_no_password() -> None:
    inventory = build_inventory(lab(), CONNECTION)
    for name in ("slurm.sql.j2", "slurmdbd.conf.j2"):
        text = template(f"slurm_controller/templates/{name}", inventory, "hpc-controller")
        assert "StoragePass" not in text and "IDENTIFIED BY" not in text


SACCTMGR = """\
line() { printf 'lab|%s|%s\\n' "$1" "${2#qos=}"; }
case "$*" in
*'show associations'*) cat "$DATABASE" ;;
*'show qos student'*) [ ! -e "$DATABASE.qos" ] || cat "$DATABASE.qos" ;;
*' qos student '*MaxTRESPerUser=cpu=2,gres/gpu=1,mem=2048M' MaxJobsPerUser=4 MaxSubmitJobsPerUser=50')
    echo 'cpu=2,gres/gpu=1,mem=2G|4|50' >"$DATABASE.qos" ;;
*'add account'*) line '' normal >>"$DATABASE" ;;
*'add user labadmin '*' adminlevel=Administrator') line "$5" "$8" >>"$DATABASE" ;;
*adminlevel*) exit 1 ;;
*'add user '*) line "$5" "$8" >>"$DATABASE" ;;
*'modify user '*) sed -i "s/^lab|$5|.*/$(line "$5" "${10}")/" "$DATABASE" ;;
*'delete user '*) sed -i "/^lab|$5|/d" "$DATABASE" ;;
*) exit 1 ;;
esac
"""


def test_accounting_script_changes_only_what_differs(tmp_path: Path) -> None:
    """Run by a real shell with stubs: accounts come once; nodes drained by Slurm are resumed, by a person are not."""
    script = template("slurm_scheduler/templates/settle.sh.j2", build_inventory(lab(), CONNECTION), "hpc-controller")
    stubs = {
        "sacctmgr": SACCTMGR,
        "sinfo": 'cat "$DRAINED"',
        # Refuses the first time, as Slurm does while a node is about to come back by itself.
        "scontrol": '[ "$2" = nodename=hpc-compute-1 ] && [ "$3" = state=resume ] || exit 2\n'
        '[ -e "$DRAINED.asked" ] || { : >"$DRAINED.asked"; exit 1; }\n: >"$DRAINED"',
        "sleep": ":",
        "python3": '[ "$*" = "-IS /usr/lib/hyperscaler/ends jobs ada" ] && [ ! -e "$DATABASE.busy" ]',
    }
    (tmp_path / "bin").mkdir()
    for name, body in stubs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "database").write_text("root||normal\nroot|root|normal\n")
    (tmp_path / "drained").write_text("hpc-compute-1|slurm\nhpc-compute-1|slurm\nhpc-compute-2|root\n")
    environment = {
        "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
        "DATABASE": str(tmp_path / "database"),
        "DRAINED": str(tmp_path / "drained"),
    }

    def run(text: str) -> str:
        argv = ["sh", "-c", text]
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=PATIENCE, check=True, env=environment
        ).stdout

    assert run(script) == "added account lab\nadded user student\nadded user labadmin\nresumed hpc-compute-1\n"
    assert run(script) == ""

    book = AccessBook()
    for name, role in (("ada", AccessRole.STUDENT), ("bob", AccessRole.ADMIN)):
        book = book.granted(name, role, public_key=f"key of {name}", expires=1)
    script = _settle(book)
    assert run(script) == "added qos student\nadded user ada\nadded user bob\n"
    assert run(script) == ""
    # Of an older version of the playbook, or of the lab with fewer nodes.
    for other in ("gres/gpu=1|4|50", "cpu=1,gres/gpu=1,mem=2G|4|50", "cpu=2,gres/gpu=1,mem=2000M|4|50"):
        (tmp_path / "database.qos").write_text(f"{other}\n")
        assert run(script) == "changed qos student\n"
        assert run(script) == ""
    book = book.without("ada").granted("bob", AccessRole.STUDENT, public_key="key", expires=1)
    script = _settle(book)
    (tmp_path / "database.busy").touch()
    with pytest.raises(subprocess.CalledProcessError):
        run(script)
    assert "lab|ada|" in (tmp_path / "database").read_text(), "one whose jobs do not end stays on Slurm's list"
    (tmp_path / "database.busy").unlink()
    assert run(script) == "removed user ada\n"
    assert run(script) == ""


def _settle(book: AccessBook) -> str:
    inventory = build_inventory(lab(), CONNECTION, trust=SshTrust(book=book))
    script = template("slurm_scheduler/templates/settle.sh.j2", inventory, "hpc-controller")
    assert script.count("mem=1848M") == 2
    return script.replace("mem=1848M", "mem=2048M")  # which Slurm shows as 2G


@pytest.mark.parametrize(
    ("nodes", "limit"),
    [
        ([(8, 16000), (8, 16000)], "cpu=8,gres/gpu=1,mem=16000M"),
        ([(8, 16000)], "cpu=4,gres/gpu=1,mem=8000M"),
        # A core of each node, with its memory, whatever half would be.
        ([(1, 924), (1, 924)], "cpu=2,gres/gpu=1,mem=1848M"),
        ([(1, 924)], "cpu=1,gres/gpu=1,mem=924M"),
        ([(1, 924), (1, 924), (6, 9000)], "cpu=4,gres/gpu=1,mem=5424M"),
        ([], "cpu=1,gres/gpu=1,mem=1M"),
    ],
)
def test_a_student_has_half_of_the_cluster(nodes: list[tuple[int, int]], limit: str) -> None:
    assert student_tres(nodes) == limit


def test_ansible_accepts_the_playbook(tmp_path: Path) -> None:
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text(render(build_inventory(lab(), CONNECTION), InventoryFormat.YAML))
    bin_directory = Path(sys.executable).parent
    done = subprocess.run(
        [bin_directory / "ansible-playbook", "--syntax-check", "-i", inventory, PLAYBOOKS / "playbook-hpc.yml"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={
            "PATH": f"{bin_directory}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_CONFIG": str(PLAYBOOKS / "ansible.cfg"),
        },
    )
    assert done.returncode == 0, done.stderr


def test_login_nodes_are_no_nodes_of_slurm_and_change_nothing_on_the_others() -> None:
    login = NodeSpec("hpc-login-1", Role.HPC_LOGIN, 1, 512, 8, IPv4Address("192.168.100.129"))
    with_login = replace(lab(), nodes=(*lab().nodes, login))
    assert slurm_conf(with_login, GPUS) == slurm_conf(lab(), GPUS)
    for name in ("slurm.conf.j2", "gres.conf.j2", "cgroup.conf.j2", "job_container.conf.j2"):
        inventory = build_inventory(with_login, CONNECTION, GPUS)
        texts = {template(f"slurm_common/templates/{name}", inventory, node.name) for node in with_login.nodes}
        assert len(texts) == 1


ALL = frozenset(SlurmFeature)
NOTHING = frozenset[SlurmFeature]()


def test_mpi_is_slurm_s_default_only_where_it_is_asked_for_and_there() -> None:
    plain, asked = lab(), replace(lab(), slurm=replace(SlurmSpec((PartitionSpec("main"),), "main"), mpi="pmix"))
    for spec, features, default in ((plain, ALL, "none"), (asked, ALL, "pmix"), (asked, NOTHING, "none")):
        inventory = build_inventory(spec, CONNECTION, slurm=features)
        lines = template("slurm_common/templates/slurm.conf.j2", inventory, "hpc-controller").splitlines()
        assert f"MpiDefault={default}" in lines
    text = template("slurm_common/templates/mpi.conf.j2", build_inventory(asked, CONNECTION), "hpc-controller")
    assert "PMIxEnv=PMIX_MCA_gds=hash" in text.splitlines()


@pytest.mark.parametrize(
    ("settings", "features", "lines"),
    [
        ({}, ALL, set()),
        ({"scrontab": True}, ALL, {"ScronParameters=enable"}),
        ({"scrontab": True}, NOTHING, set()),
        ({"priority": "fairshare"}, NOTHING, {"PriorityType=priority/multifactor", "PriorityWeightFairshare=10000"}),
    ],
)
def test_what_is_off_by_default_is_in_the_file_where_it_is_asked_for(
    settings: dict[str, Any], features: frozenset[SlurmFeature], lines: set[str]
) -> None:
    spec = replace(lab(), slurm=replace(SlurmSpec((PartitionSpec("main"),), "main"), **settings))
    inventory = build_inventory(spec, CONNECTION, slurm=features)
    text = template("slurm_common/templates/slurm.conf.j2", inventory, "hpc-controller")
    seen = {line for line in text.splitlines() if line.startswith(("Scron", "PriorityType", "PriorityWeightFair"))}
    assert seen == lines


@pytest.mark.parametrize("configless", [True, False])
def test_nodes_ask_the_scheduler_for_their_configuration_where_it_can_give_it(*, configless: bool) -> None:
    inventory = build_inventory(lab(), CONNECTION, slurm=ALL if configless else NOTHING)
    conf = template("slurm_common/templates/slurm.conf.j2", inventory, "hpc-controller").splitlines()
    unit = template("slurm_compute/templates/slurmd.service.j2", inventory, "hpc-compute-1").splitlines()
    assert ("SlurmctldParameters=rl_enable,enable_configless" in conf) is configless
    assert ("SlurmctldParameters=rl_enable" in conf) is not configless
    assert ('Environment="SLURMD_OPTIONS=--conf-server 192.168.100.10:6817"' in unit) is configless
    # The controller may be up much later than this node: neither systemd's patience nor its count of starts ends it.
    assert {"TimeoutStartSec=infinity", "StartLimitIntervalSec=0", "Restart=on-failure"} <= set(unit) or not configless
    assert unit.index("[Service]") < unit.index("LimitNPROC=512")


def test_what_is_handed_out_is_asked_for_again_when_it_changes() -> None:
    """And nothing is restarted for it: slurmctld reads it again by itself, and so do the nodes that it tells."""
    _, hand_out, _ = yaml.safe_load((PLAYBOOKS / "roles/slurm_scheduler/tasks/main.yml").read_text())
    (derived,) = hand_out["node_state"]["derived"]
    assert derived["argv"] == ["sh", "-c", f"scontrol reconfigure && touch {derived['path']}"]
    assert derived["reads"] == "{{ slurm_handed_out }}" and hand_out["when"] == "slurm_configless"


def test_nodes_come_before_or_after_the_scheduler_but_not_both() -> None:
    plays = yaml.safe_load((PLAYBOOKS / "playbook-hpc.yml").read_text())
    names = [play["name"] for play in plays]
    assert names[1:] == ["Slurm cluster", "Scheduler", "Nodes with the scheduler's configuration", "Accounts"]
    for role, tasks in (("slurm_compute", plays[3]["tasks"][0]), ("slurm_login", plays[3]["tasks"][1])):
        assert tasks["when"].startswith("slurm_configless and ")
        before = yaml.safe_load((PLAYBOOKS / "roles" / role / "tasks/main.yml").read_text())[-1]
        assert before["when"] == "not slurm_configless"


def test_a_compute_node_bounds_the_processes_of_jobs() -> None:
    inventory = build_inventory(lab(), CONNECTION)
    text = template("slurm_compute/templates/slurmd.service.j2", inventory, "hpc-compute-2")
    assert "LimitNPROC=1024" in text.splitlines()
