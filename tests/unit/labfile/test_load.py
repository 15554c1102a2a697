"""The spec that a file without errors becomes."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from emulator.core.data_files import share_dir
from emulator.core.debian.releases import image_of
from emulator.core.ids import mac_address
from emulator.labfile.load import load_spec, parse_spec
from emulator.labfile.model import (
    ClusterKind,
    ClusterSpec,
    HypervisorSpec,
    ImageSpec,
    KubernetesSpec,
    NodeSpec,
    PartitionSpec,
    Role,
    SecuritySpec,
    SlurmSpec,
    SshSpec,
    TimeoutSpec,
)
from emulator.labfile.networks import NetworkSpec

Load = Callable[[str], ClusterSpec]


def test_the_shortest_file_has_a_default_for_everything(spec_of: Load) -> None:
    spec = spec_of('version: "1.0"\nmetadata: {name: x}\nclusters: {hpc: {}, cloud: {}}\n')
    hpc, cloud = IPv4Network("192.168.100.0/24"), IPv4Network("192.168.200.0/24")
    assert spec == ClusterSpec(
        name="x",
        description="",
        nodes=(
            NodeSpec("hpc-controller", Role.HPC_CONTROLLER, 2, 2048, 20, IPv4Address("192.168.100.10")),
            NodeSpec("hpc-compute-1", Role.HPC_COMPUTE, 2, 2048, 20, IPv4Address("192.168.100.11")),
            NodeSpec("cloud-control-plane", Role.CLOUD_CONTROL_PLANE, 2, 2048, 20, IPv4Address("192.168.200.10")),
            NodeSpec("cloud-cpu-worker-1", Role.CLOUD_CPU_WORKER, 2, 2048, 20, IPv4Address("192.168.200.11")),
        ),
        networks={
            ClusterKind.HPC: NetworkSpec(ClusterKind.HPC, hpc, "virbr100"),
            ClusterKind.CLOUD: NetworkSpec(ClusterKind.CLOUD, cloud, "virbr200"),
        },
        slurm=SlurmSpec((PartitionSpec("main"),), "main", None),
        kubernetes=KubernetesSpec(),
        hypervisor=HypervisorSpec(),
        images=ImageSpec(),
        ssh=SshSpec(),
        timeouts=TimeoutSpec(),
    )


def test_either_cluster_may_be_absent(spec_of: Load) -> None:
    for kind, other in (("hpc", "cloud"), ("cloud", "hpc")):
        spec = spec_of(f'version: "1.0"\nmetadata: {{name: x}}\nclusters: {{{kind}: {{}}}}\n')
        assert [each.value for each in spec.clusters] == [kind]
        assert [each.value for each in spec.networks] == [kind]
        assert (spec.slurm is None, spec.kubernetes is None) == (other == "hpc", other == "cloud")


def test_values_of_every_section_arrive(spec_of: Load) -> None:
    spec = spec_of(
        """
        version: "1.0"
        metadata: {name: lab-2, description: a description}
        global:
          networks:
            hpc_network: {subnet: 10.5.0.0/16, bridge: br5, nat: true}
        clusters:
          hpc:
            controller: {cpu_cores: 3, memory_gb: 1.25, disk_gb: 9, ip_address: 10.5.9.9}
            compute_nodes: {count: 2, ip_range: 10.5.0.255-10.5.1.0}
        hypervisor: {uri: embedded, acceleration: tcg, cpu_overcommit: 2}
        images: {hpc: mine, cloud: other}
        ssh: {user: labadmin}
        security: {unattended_upgrades: true, apt_sources: [deb http://mirror.lan/debian bookworm main]}
        timeouts: {boot: 10, configure: 20, verify: 30, drain: 40, shutdown: 50, lock: 60}
        """
    )
    assert (spec.name, spec.description) == ("lab-2", "a description")
    assert spec.networks[ClusterKind.HPC] == NetworkSpec(ClusterKind.HPC, IPv4Network("10.5.0.0/16"), "br5", nat=True)
    assert spec.nodes[0] == NodeSpec("hpc-controller", Role.HPC_CONTROLLER, 3, 1280, 9, IPv4Address("10.5.9.9"))
    assert [str(node.ip) for node in spec.nodes[1:]] == ["10.5.0.255", "10.5.1.0"]
    assert (spec.hypervisor.uri, spec.hypervisor.acceleration.value, spec.hypervisor.cpu_overcommit) == (
        "embedded",
        "tcg",
        2.0,
    )
    assert spec.images == ImageSpec("mine", "other")
    assert spec.ssh == SshSpec("labadmin")
    assert spec.security == SecuritySpec(True, ("deb http://mirror.lan/debian bookworm main",))
    assert spec.timeouts == TimeoutSpec(10, 20, 30, 40, 50, 60)


def test_upgrades_without_a_package_source_are_refused() -> None:
    text = 'version: "1.0"\nmetadata: {name: a}\nclusters: {hpc: {}}\nsecurity: {unattended_upgrades: true}\n'
    spec, report = parse_spec(text, file="f")
    assert spec is None
    assert [each.render() for each in report.findings] == [
        "f:4:33: error: security.unattended_upgrades: upgrades need a package source, and the images name none\n"
        "    fix: add security.apt_sources with lines as in apt's sources.list"
    ]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("deb https://me:s3cret@mirror.lan/debian bookworm main", True),
        ("deb [arch=amd64] https://:s3cret@mirror.lan/debian bookworm main", True),
        ("deb http://mirror.lan:8080/debian bookworm main", False),
        ("deb http://[2001:db8::1]/a@b bookworm main", False),
    ],
)
def test_a_password_of_a_package_source_is_told_of_and_not_repeated(source: str, told: bool) -> None:
    text = f'version: "1.0"\nmetadata: {{name: a}}\nclusters: {{hpc: {{}}}}\nsecurity: {{apt_sources: ["{source}"]}}\n'
    _, report = parse_spec(text, file="f")
    findings = [each.render() for each in report.findings]
    assert [each for each in findings if "password" in each] == (findings if told else [])
    assert "s3cret" not in "".join(findings)


@pytest.mark.parametrize(
    ("images", "hpc", "cloud"),
    [
        ("{}", image_of("hpc-base", None), image_of("cloud-base", None)),
        ("{release: bookworm}", "hpc-base", "cloud-base"),
        ("{release: trixie}", "hpc-base-trixie", "cloud-base-trixie"),
        ("{release: trixie, hpc: hpc-base-bookworm}", "hpc-base", "cloud-base-trixie"),
        ("{release: trixie, hpc: 'hpc-base:v1', cloud: mine}", "hpc-base:v1", "mine"),
    ],
)
def test_the_release_decides_which_of_the_built_in_images_it_is(
    spec_of: Load, images: str, hpc: str, cloud: str
) -> None:
    spec = spec_of(f'version: "1.0"\nmetadata: {{name: a}}\nclusters: {{hpc: {{}}}}\nimages: {images}\n')
    assert (spec.images.of(ClusterKind.HPC), spec.images.of(ClusterKind.CLOUD)) == (hpc, cloud)


def test_a_release_that_is_none_of_these_is_refused() -> None:
    text = 'version: "1.0"\nmetadata: {name: a}\nclusters: {hpc: {}}\nimages: {release: buster}\n'
    spec, report = parse_spec(text, file="f")
    assert spec is None
    assert [each.render() for each in report.findings] == [
        "f:4:19: error: images.release: expected one of bookworm, trixie, forky, got 'buster'\n"
        "    fix: write bookworm, trixie or forky"
    ]


@pytest.mark.parametrize(
    "line", ["http://mirror.lan/debian bookworm main", "deb http://mirror.lan/debian", "'deb http://a b c\\nd'", "''"]
)
def test_what_is_no_package_source_is_refused(line: str) -> None:
    text = f'version: "1.0"\nmetadata: {{name: a}}\nclusters: {{hpc: {{}}}}\nsecurity:\n  apt_sources:\n    - {line}\n'
    spec, report = parse_spec(text, file="f")
    assert spec is None
    assert "a line such as deb http://mirror.lan/debian bookworm main" in report.findings[0].render()


APT = 'version: "1.0"\nmetadata: {name: a}\nclusters: {hpc: {}}\nsecurity:\n  apt_sources:\n'


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("deb http://apt.example.org/pub bookworm-pgdg main 16", ""),
        ("deb [arch=amd64,signed-by=/usr/share/keyrings/x.gpg] https://repo.example.org/apt/ bookworm mysql-8.0", ""),
        (
            "deb  http://a.lan/debian-security\tbookworm-security  main contrib",
            "deb http://a.lan/debian-security bookworm-security main contrib",
        ),
        ("deb http://a.lan/debian bookworm main # our mirror", "deb http://a.lan/debian bookworm main"),
        ("deb [ arch=amd64 trusted=yes ] http://a.lan/debian ./", ""),
        ("deb-src http://a.lan/debian bookworm main non-free-firmware", ""),
        ("deb http://[fd00::1]/debian bookworm main", ""),
    ],
)
def test_lines_of_apt(line: str, meant: str) -> None:
    spec, report = parse_spec(APT + f'    - "{line}"\n', file="f")
    assert spec is not None, report
    assert spec.security.apt_sources == (meant or line,)


@pytest.mark.parametrize(
    "line",
    [
        "deb http://a.lan/{{ lookup('pipe', 'id') }} bookworm main",
        "deb http://a.lan/{%x%} bookworm main",
        "deb http://a.lan/`id` bookworm main",
        "deb http://a.lan/ bookworm 'main",
        "deb http://a.lan/ bookworm main #\\x1b[31m",
    ],
)
def test_lines_that_mean_something_to_a_shell_or_a_template(line: str) -> None:
    spec, report = parse_spec(APT + f'    - "{line}"\n', file="f")
    assert spec is None
    assert "a line such as deb http://mirror.lan/debian bookworm main" in report.findings[0].what


def test_two_nodes_never_have_one_mac_address() -> None:
    text = 'version: "1.0"\nmetadata: {{name: {}}}\nclusters: {{hpc: {{compute_nodes: {{count: {}}}}}, cloud: {{}}}}\n'
    spec, report = parse_spec(text.format("ahyr", 14), file="f")
    assert spec is None
    assert [each.render() for each in report.findings] == [
        "f:2:18: error: metadata.name: hpc-compute-14 and cloud-control-plane of a lab of this name get the same MAC"
        " address, 52:54:00:7c:05:5e\n    fix: choose another name, for example ahyr-2"
    ]
    for name, count in (("ahyr", 13), ("ahyr-2", 14)):
        spec, _ = parse_spec(text.format(name, count), file="f")
        assert spec is not None
        macs = {mac_address(spec.name, node.name) for node in spec.nodes}
        assert len(macs) == len(spec.nodes)


@pytest.mark.parametrize("name", ["demo", "minimal", "production"])
def test_examples_have_no_findings(name: str) -> None:
    spec, report = load_spec(share_dir() / "config" / f"{name}.yaml")
    assert [each.render() for each in report.findings] == []
    assert spec is not None


def test_the_demo_fits_two_cores_and_twelve_gib() -> None:
    spec, _ = load_spec(share_dir() / "config" / "demo.yaml")
    assert spec is not None
    assert sum(node.memory_mib for node in spec.nodes) <= 9 * 1024
    assert len(spec.nodes_of(ClusterKind.HPC)) == 3
    assert max(node.cpu_cores for node in spec.nodes) <= 2


def test_the_original_structure_is_accepted_and_only_its_profiles_are_wrong(tmp_path: Path) -> None:
    """The plan's example names 40 GB profiles on an 80 GB GPU; everything else of it stands."""
    text = (share_dir() / "config" / "production.yaml").read_text()
    text = text.replace("[1g.10gb, 2g.20gb, 3g.40gb, 7g.80gb]", '["1g.5gb", "2g.10gb", "3g.20gb", "7g.80gb"]')
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    _, report = load_spec(file)
    assert [each.code for each in report.findings] == ["gpu.profile"] * 3
    assert [each.fix.split("?")[0] for each in report.findings] == [
        "did you mean 1g.10gb",
        "did you mean 2g.20gb",
        "did you mean 3g.40gb",
    ]


def test_the_production_lab_shares_two_gpus() -> None:
    spec, _ = load_spec(share_dir() / "config" / "production.yaml")
    assert spec is not None
    assert [len(spec.nodes_of(kind)) for kind in ClusterKind] == [5, 5]
    assert {kind.value: share.count for kind, share in spec.gpu.mig_slices.items()} == {"hpc": 4, "cloud": 2}
    assert {kind.value: count for kind, count in spec.gpu.whole_gpus.items()} == {"hpc": 0, "cloud": 1}


@pytest.mark.parametrize(("backend", "real"), [("auto", True), ("nvml", True), ("simulated", False)])
def test_gpus_of_kubernetes_nodes_are_real_unless_simulated(spec_of: Load, backend: str, real: bool) -> None:
    text = (share_dir() / "config" / "production.yaml").read_text(encoding="utf-8")
    assert "backend: auto" in text
    kubernetes = spec_of(text.replace("backend: auto", f"backend: {backend}")).kubernetes
    assert kubernetes is not None
    assert kubernetes.real_gpus is real
    without = spec_of('version: "1.0"\nmetadata: {name: x}\nclusters: {cloud: {}}\n').kubernetes
    assert without is not None
    assert not without.real_gpus
