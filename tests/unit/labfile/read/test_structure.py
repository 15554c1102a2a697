"""What the schema refuses, in our words and at the exact place."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Judge = Callable[[str], list[str]]

HEAD = 'version: "1.0"\nmetadata: {name: x}\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "metadata: {name: x}\nclusters: {hpc: {}}\n",
            ['1:1: error: version: this key is missing | add `version: "1.0"`'],
        ),
        (
            'version: "2.0"\nmetadata: {name: x}\nclusters: {hpc: {}}\n',
            ['1:10: error: version: expected "1.0", got \'2.0\' | write "1.0"'],
        ),
        ("version: 1.0\nmetadata: {name: x}\nclusters: {hpc: {}}\n", []),
        (
            HEAD + "clusters: {}\n",
            ["3:1: error: clusters: expected at least one of hpc, cloud, got none of them"],
        ),
        (
            'version: "1.0"\nmetadata:\nclusters: {hpc: }\n',
            ["2:1: error: metadata.name: this key is missing | add `name: demo`"],
        ),
        (
            HEAD + "clusters:\n  hpc: 3\n",
            ["4:8: error: clusters.hpc: expected a mapping (indented `key: value` lines), got 3"],
        ),
        (
            HEAD + "clusters:\n  hpc: [a]\n",
            ["4:3: error: clusters.hpc: expected a mapping (indented `key: value` lines), got a list"],
        ),
        (
            HEAD + "clusters:\n  hpc:\n    compute_nodes: {count: two}\n",
            ["5:28: error: clusters.hpc.compute_nodes.count: expected a whole number from 1 to 1000, got 'two'"],
        ),
        (
            HEAD + "clusters:\n  hpc:\n    compute_nodes: {count: '2'}\n",
            [
                "5:28: error: clusters.hpc.compute_nodes.count: expected a whole number from 1 to 1000, got '2'"
                " | write 2 without quotes"
            ],
        ),
        (
            HEAD + "clusters:\n  hpc:\n    compute_nodes: {cpu_cores: 256}\n",
            [
                "5:32: error: clusters.hpc.compute_nodes.cpu_cores: expected a whole number from 1 to 255, the most"
                " that a virtual machine can have, got 256 | for example 2"
            ],
        ),
        (
            HEAD + "clusters:\n  hpc:\n    compute_nodes: {count: '0'}\n",
            ["5:28: error: clusters.hpc.compute_nodes.count: expected a whole number from 1 to 1000, got '0'"],
        ),
        (
            HEAD + "clusters:\n  hpc:\n    compute_nodes: {count: 0}\n",
            ["5:28: error: clusters.hpc.compute_nodes.count: expected a whole number from 1 to 1000, got 0"],
        ),
        (
            HEAD + "clusters:\n  hpc:\n    compute_nodes:\n      count:\n",
            ["6:7: error: clusters.hpc.compute_nodes.count: expected a whole number from 1 to 1000, got nothing"],
        ),
        (
            HEAD + "clusters:\n  hpc:\n    controller: {memory_gb: 1.3}\n",
            [
                "5:29: error: clusters.hpc.controller.memory_gb: expected a number from 0.25 to 4096 in steps of 0.25,"
                " got 1.3 | for example 2"
            ],
        ),
        (
            HEAD + "clusters:\n  hpc:\n    compute_nodes: {gpu_enabled: yes}\n",
            ["5:34: error: clusters.hpc.compute_nodes.gpu_enabled: expected true or false, got 'yes' | write true"],
        ),
        (
            HEAD + "clusters:\n  hpc:\n    compute_node: {count: 1}\n",
            ["5:5: error: clusters.hpc: unknown key 'compute_node' | did you mean 'compute_nodes'?"],
        ),
        (
            HEAD + "clusters:\n  hpc:\n    controller: {subnet: 10.0.0.0/24}\n",
            [
                "5:18: error: clusters.hpc.controller: unknown key 'subnet'"
                " | 'subnet' belongs to global.networks.hpc_network, global.networks.cloud_network"
            ],
        ),
        (
            HEAD + "clusters:\n  hpc:\nqqqq: 1\n",
            [
                "5:1: error: unknown key 'qqqq'"
                " | known here: version, metadata, global, clusters, hypervisor, images, ssh, security,"
                " access, timeouts"
            ],
        ),
        (
            HEAD + "clusters:\n  hpc:\nhypervisor: {acceleration: kmv}\n",
            ["5:28: error: hypervisor.acceleration: expected one of auto, kvm, tcg, got 'kmv' | did you mean 'kvm'?"],
        ),
        (
            HEAD + "clusters:\n  hpc:\nhypervisor: {uri: 'qemu+ext:///system?command=/bin/sh'}\n",
            [
                "5:19: error: hypervisor.uri: expected auto, embedded or qemu:///system (a hypervisor of this host),"
                " got 'qemu+ext:///system?command=/bin/sh' | for example auto"
            ],
        ),
        (
            'version: "1.0"\nmetadata: {name: "x\\n"}\nclusters: {hpc: {}}\n',
            [
                "2:18: error: metadata.name: expected a name of at most 30 lower-case letters, digits and '-',"
                " with '-' only inside, got 'x\\n' | for example demo"
            ],
        ),
        (
            'version: "1.0"\nmetadata: {name: true}\nclusters: {hpc: {}}\n',
            [
                "2:18: error: metadata.name: expected a name of at most 30 lower-case letters, digits and '-',"
                " with '-' only inside, got true | put it in quotes if it is meant as text"
            ],
        ),
        (
            HEAD + "clusters:\n  hpc:\n    slurm_config: {partitions: []}\n",
            ["5:20: error: clusters.hpc.slurm_config.partitions: expected at least 1 item, got an empty list"],
        ),
        (
            HEAD + "clusters:\n  hpc:\nglobal: {gpu_allocation: {mig_slices: {hpc: {big: 2}}}}\n",
            [
                "5:46: error: global.gpu_allocation.mig_slices.hpc: expected a MIG profile such as 1g.10gb as key,"
                " got 'big'"
            ],
        ),
    ],
)
def test_wording_and_place(faults: Judge, text: str, expected: list[str]) -> None:
    assert faults(text) == expected


def test_a_value_that_is_wrong_in_several_ways_is_wrong_once(faults: Judge) -> None:
    assert faults(HEAD + "clusters: {hpc: {}}\nssh: {user: }\n") == [
        '4:7: error: ssh.user: expected "labadmin", got nothing | write "labadmin"'
    ]


def test_every_bad_key_is_reported(faults: Judge) -> None:
    found = faults(HEAD + "clusters: {hpc: {}}\nglobal: {gpu_allocation: {mig_slices: {hpc: {big: 2, huge: 1}}}}\n")
    assert [each.rsplit("got ")[1] for each in found] == ["'big'", "'huge'"]


def test_faults_of_every_kind_are_reported_at_once(faults: Judge) -> None:
    text = """\
        version: "1.0"
        metadata: {name: Lab, descripton: x}
        clusters:
          hpc:
            controller: {cpu_cores: two, ip_address: 192.168.100.1}
            compute_nodes: {count: 3, ip_range: 192.168.100.11-12}
            slurm_config: {default_partition: gpu, max_job_time: soon}
            slurm_config: {}
        """
    found = faults(text)
    assert [line.split(" error: ")[0] for line in found] == [
        "2:18:",
        "2:23:",
        "5:29:",
        "5:46:",
        "6:41:",
        "7:39:",
        "7:58:",
        "8:5:",
    ]
    assert "two" in found[2]
    assert "the key 'slurm_config' was already given in line 7" in found[-1]


@pytest.mark.parametrize("number", ["9" * 5000, f"'{'9' * 5000}'", "-" + "1" * 5000, f"0x{'f' * 5000}", "1e99999"])
def test_numbers_too_long_are_out_of_range(faults: Judge, number: str) -> None:
    (fault,) = faults(HEAD + f"clusters:\n  hpc:\n    compute_nodes: {{count: {number}}}\n")
    assert "clusters.hpc.compute_nodes.count: expected a whole number from 1 to 1000, got '" in fault
    assert len(fault) < 250


def test_the_most_cores_of_a_virtual_machine(faults: Judge) -> None:
    assert faults(HEAD + "clusters:\n  hpc:\n    compute_nodes: {cpu_cores: 255}\n") == []


def test_an_unquoted_number_is_text_where_text_is_meant(spec_of: Callable[..., object]) -> None:
    from emulator.labfile.model import ClusterSpec

    spec = spec_of(HEAD + "clusters: {cloud: {kubernetes_config: {version: 1.37}}}\n")
    assert isinstance(spec, ClusterSpec)
    assert spec.kubernetes is not None
    assert spec.kubernetes.version == "1.37"
