"""What is in the way is named before anything is made; who works on a lab keeps others out; a stop is clean."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from uuid import uuid4

import pytest

from emulator.apply.state import State
from emulator.core import ids
from emulator.core.errors import ConflictError, HostNotFitError, HyperscalerError, InterruptedRunError
from emulator.core.ports import DomainState, NetworkRequest, Ownership
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.lab.lab_files import LoadedLab
from emulator.labfile.model import ClusterKind
from emulator.operations.provision import Options, provision
from emulator.operations.status import lab_status, list_labs
from emulator.operations.validate import judge_bundle, validate
from emulator.plan.model import Recorded
from emulator.plan.resources import Volume
from tests.support.simulated_world import (
    FIRST,
    SECOND,
    SYSTEM_URI,
    SimulatedHost,
    comparable,
    differences,
    gpu_section,
    lab_text,
)
from tests.support.waiting import PATIENCE

MAC = ids.mac_address("demo", "hpc-compute-1")


def system_lab(host: SimulatedHost, **options: object) -> LoadedLab:
    return host.lab_file(lab_text(hypervisor=SYSTEM_URI, **options))  # type: ignore[arg-type]


# ---------------------------------------------------------------- foreign things
def foreign_domain(host: SimulatedHost) -> None:
    host.hypervisor(quiet=True).seed_foreign_domain("demo-hpc-compute-1", uuid4())


def foreign_address(host: SimulatedHost) -> None:
    host.hypervisor(quiet=True).seed_foreign_domain("elsewhere", uuid4(), mac=MAC)


def foreign_network(host: SimulatedHost) -> None:
    host.hypervisor(quiet=True).seed_foreign_network("demo-hpc", uuid4(), bridge="virbr-theirs")


def bridge_of_another_lab(host: SimulatedHost) -> None:
    bridge = next(iter(system_lab(host).spec.networks.values())).bridge
    subnet = IPv4Network("10.9.0.0/24")
    owner = Ownership("other", "network/hpc", "d")
    request = NetworkRequest("other-hpc", uuid4(), owner, bridge, subnet, subnet[1], "other.internal", ())
    host.hypervisor(quiet=True).define_network(request)


def subnet_of_a_network_that_is_off(host: SimulatedHost) -> None:
    wanted = next(iter(system_lab(host).spec.networks.values())).subnet
    host.hypervisor(quiet=True).seed_foreign_network(
        "isolated", uuid4(), bridge="virbr-off", subnet=wanted.supernet(2), active=False
    )


def subnet_of_a_network_that_runs(host: SimulatedHost) -> None:
    wanted = next(iter(system_lab(host).spec.networks.values())).subnet
    host.hypervisor(quiet=True).seed_foreign_network("isolated", uuid4(), bridge="virbr-on", subnet=wanted)


def foreign_disk(host: SimulatedHost) -> None:
    disk = host.home.lab("demo").disks / "hpc-controller.qcow2"
    disk.parent.mkdir(parents=True)
    disk.write_text("a disk that somebody put here")


def linked_disk(host: SimulatedHost) -> None:
    disk = host.home.lab("demo").disks / "hpc-controller.qcow2"
    disk.parent.mkdir(parents=True)
    disk.symlink_to("/etc/passwd")


FOREIGN: dict[str, tuple[Callable[[SimulatedHost], None], str]] = {
    "domain of that name": (foreign_domain, "a domain demo-hpc-compute-1 is there already .not made by hyperscaler"),
    "powered-off domain with that address": (foreign_address, f"domain elsewhere has the address {MAC}"),
    "network of that name": (foreign_network, "network demo-hpc is there already .not made by hyperscaler"),
    "bridge of another lab": (bridge_of_another_lab, "belongs to network other-hpc .of lab other"),
    "subnet of a network that is off": (
        subnet_of_a_network_that_is_off,
        "of network isolated .not made by hyperscaler",
    ),
    "subnet of a network that runs": (subnet_of_a_network_that_runs, "of network isolated .not made by hyperscaler"),
    "disk file": (foreign_disk, "hpc-controller.qcow2 is a disk without a golden image"),
    "link in the place of a disk": (linked_disk, "hpc-controller.qcow2 is not a regular file"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_in_the_way_is_named_before_anything_is_made(host: SimulatedHost, name: str) -> None:
    put, message = FOREIGN[name]
    put(host)
    before = comparable(host.save())
    with pytest.raises(ConflictError, match=message):
        host.provision(system_lab(host))
    assert not differences(before, comparable(host.save()))


def test_of_two_labs_that_race_for_a_subnet_the_second_makes_no_network(host: SimulatedHost) -> None:
    """Another lab makes its network after this one has planned."""
    lab = system_lab(host)
    subnet = next(iter(lab.spec.networks.values())).subnet

    def meanwhile(_plan: object) -> bool:
        owner = Ownership("other", "network/hpc", "d")
        request = NetworkRequest("other-hpc", uuid4(), owner, "virbr-other2", subnet, subnet[1], "o.internal", ())
        host.hypervisor(quiet=True).define_network(request)
        return True

    with pytest.raises(ConflictError, match=f"subnet {subnet} overlaps .* of network other-hpc .of lab other"):
        provision(host.environment(), lab, Options(confirm=meanwhile), SilentReporter(), StopFlag())
    assert host.hypervisor(quiet=True).network("demo-hpc") is None


def test_of_two_labs_that_race_for_an_ipv6_subnet_the_second_makes_no_network(host: SimulatedHost) -> None:
    lab = host.lab_file(lab_text(hypervisor=SYSTEM_URI, extra="networks: {hpc_network: {subnet_v6: fd00:100::/64}}"))
    subnet, subnet_v6 = IPv4Network("10.9.0.0/24"), IPv6Network("fd00:100::/64")

    def meanwhile(_plan: object) -> bool:
        owner = Ownership("other", "network/hpc", "d")
        request = NetworkRequest("other-hpc", uuid4(), owner, "virbr-other2", subnet, subnet[1], "o.internal", ())
        request = replace(request, subnet_v6=subnet_v6, gateway_v6=subnet_v6[1])
        host.hypervisor(quiet=True).define_network(request)
        return True

    with pytest.raises(ConflictError, match=f"subnet {subnet_v6} overlaps .* of network other-hpc .of lab other"):
        provision(host.environment(), lab, Options(confirm=meanwhile), SilentReporter(), StopFlag())
    assert host.hypervisor(quiet=True).network("demo-hpc") is None
    with pytest.raises(ConflictError, match=f"{subnet_v6} overlaps {subnet_v6}, which this host reaches through"):
        host.provision(lab)


def test_validating_against_the_host_does_not_count_the_lab_s_own_things(host: SimulatedHost) -> None:
    lab = system_lab(host)
    host.provision(lab)
    assert validate(lab.file, host.environment()).errors == ()
    host.home.lab("demo").journal.unlink()
    assert validate(lab.file, host.environment()).errors == ()
    other = host.lab_file(lab_text(hypervisor=SYSTEM_URI, name="other"), "other")
    found = {finding.code: finding.what for finding in validate(other.file, host.environment()).errors}
    assert set(found) == {"host.bridge", "host.subnet"}
    assert all("network demo-hpc (of lab demo)" in what for what in found.values())


def test_a_slice_of_others_is_planned_around(gpu_host: SimulatedHost) -> None:
    """GPU 2 goes to others as far as it is cut; the lab takes the places that are left."""
    gpus = gpu_host.opened_gpus()
    for address in (FIRST, SECOND):
        gpus.nvml.set_mig_mode(address, enabled=True)
    profile = next(item for item in gpus.nvml.profiles(FIRST) if item.name == "7g.80gb")
    gpus.nvml.create_instance(FIRST, profile.gi_profile_id, (profile.placements or ())[0])
    before = comparable(gpu_host.save())
    with pytest.raises(HyperscalerError):
        gpu_host.provision(system_lab(gpu_host, extra=gpu_section()))
    assert not differences(before, comparable(gpu_host.save()))


def test_a_gpu_of_another_lab_is_refused(gpu_host: SimulatedHost) -> None:
    gpu_host.provision(system_lab(gpu_host, extra=gpu_section()))
    before = comparable(gpu_host.save())
    text = lab_text(
        hypervisor=SYSTEM_URI,
        name="rival",
        extra=gpu_section() + ", networks: {hpc_network: {subnet: 192.168.150.0/24, bridge: virbr-rival}}",
    )
    with pytest.raises(HyperscalerError, match=r"demo|do not fit"):
        gpu_host.provision(gpu_host.lab_file(text, "rival"))
    assert not differences(before, comparable(gpu_host.save()))


# ---------------------------------------------------------------- stop requests
def test_a_stop_at_any_call_is_clean_and_the_next_run_goes_on(host: SimulatedHost) -> None:
    lab = host.lab_file(lab_text())
    start = host.save()
    host.provision(lab)
    done = comparable(host.save(), journal="state")
    calls = sum(host.hook.counts.values())
    stopped = 0
    for number in range(0, calls, 3):
        host.restore(start)
        stop, reached = StopFlag(), list[str]()

        def ask(name: str, stop: StopFlag = stop, reached: list[str] = reached, number: int = number) -> None:
            reached.append(name)
            if len(reached) == number + 1:
                stop.set()

        host.hook.before = ask
        try:
            host.provision(lab, stop=stop)
        except HyperscalerError as error:
            stopped += 1
            assert "stopped on request" in error.what, error
        finally:
            host.hook.before = lambda _name: None
        state = host.state()
        assert not [key for key, record in state.resources.items() if record.open_action], "saved"
        host.provision(lab)
        left = differences(comparable(host.save(), journal="state"), done)
        assert not left, f"stopped at call {number}"
    assert stopped > calls // 6


def test_a_stop_during_destroy_keeps_the_record(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text()))
    stop = StopFlag()
    host.hook.before = lambda name: stop.set() if name == "delete_domain" else None
    with pytest.raises(InterruptedRunError, match="stopped on request"):
        host.destroy(stop=stop)
    host.hook.before = lambda _name: None
    assert host.state().resources
    host.destroy()
    assert not host.home.lab("demo").root.exists()


# ---------------------------------------------------------------- concurrency
def test_a_second_command_is_refused_at_once_and_status_answers(host: SimulatedHost) -> None:
    lab = host.lab_file(lab_text())
    inside, go_on = threading.Event(), threading.Event()

    def pause(name: str) -> None:
        if name == "define_network":
            inside.set()
            assert go_on.wait(PATIENCE)

    host.hook.before = pause
    failures: list[BaseException] = []

    def work() -> None:
        try:
            host.provision(lab)
        except BaseException as error:  # noqa: BLE001  handed to the test
            failures.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        assert inside.wait(PATIENCE)
        for command in (lambda: host.provision(lab), host.destroy):
            with pytest.raises(ConflictError, match=r"held by process \d+ on .* since .* \(provision demo\)") as caught:
                command()
            assert caught.value.exit_code == 5
        for _ in range(50):
            status = lab_status(host.environment(), "demo")
            assert "provision demo" in status.busy
            assert {node.state for node in status.nodes} <= {"absent", DomainState.SHUTOFF.value}
            assert "demo" in [line.name for line in list_labs(host.environment())]
    finally:
        go_on.set()
        worker.join(PATIENCE)
    assert not failures
    assert lab_status(host.environment(), "demo").busy == ""
    assert json.dumps(lab_status(host.environment(), "demo").to_json())


def test_a_stranger_s_file_among_the_disks_keeps_destroy_from_taking_the_directory(host: SimulatedHost) -> None:
    lab = system_lab(host)
    host.provision(lab)
    mine = host.home.lab("demo").disks / "thesis.qcow2"
    mine.write_text("somebody's years")
    swapped = host.home.lab("demo").disks / "hpc-compute-1.qcow2"
    swapped.unlink()
    swapped.write_text("somebody's other years")
    before = comparable(host.save())
    with pytest.raises(ConflictError, match=r"not hyperscaler's: disks/hpc-compute-1.qcow2, disks/thesis.qcow2"):
        host.destroy()
    assert not differences(before, comparable(host.save()))
    mine.unlink()
    swapped.unlink()
    host.destroy()
    assert not host.home.lab("demo").root.exists()


def bundle_lab(host: SimulatedHost, *, image: str = "cloud-base") -> LoadedLab:
    kubernetes = "clusters: {cloud: {kubernetes_config: {source: 'bundle:k8s.bundle'}}}"
    head = f'version: "1.0"\nmetadata: {{name: demo}}\nimages: {{cloud: "{image}"}}\n'
    return host.lab_file(f"{head}hypervisor: {{uri: embedded}}\n{kubernetes}\n")


def test_validating_against_the_host_looks_for_the_bundle(host: SimulatedHost) -> None:
    lab = bundle_lab(host)
    path = lab.file.parent / "k8s.bundle"
    found = [each for each in validate(lab.file, host.environment()).errors if each.code == "kubernetes.bundle"]
    assert [(each.path, each.what) for each in found] == [
        ("clusters.cloud.kubernetes_config.source", f"there is no bundle {path}")
    ]
    assert "bundle create" in found[0].fix
    assert not validate(lab.file, None).errors
    path.write_text("a bundle")
    assert not [each for each in validate(lab.file, host.environment()).errors if each.code == "kubernetes.bundle"]


def test_a_bundle_that_is_not_needed_may_be_gone(host: SimulatedHost) -> None:
    lab = bundle_lab(host)
    nodes = lab.spec.nodes_of(ClusterKind.CLOUD)
    disks = [Volume(name=node.name, path="", image="cloud-base", size_gib=20, admin="") for node in nodes]
    made = {disk.id: Recorded(disk, {}) for disk in disks}
    assert judge_bundle(lab, State(made)) == ()
    made.popitem()
    assert len(judge_bundle(lab, State(made))) == 1
    assert judge_bundle(bundle_lab(host, image="cloud-base:kept"), State()) == ()


# ---------------------------------------------------------------- the disk reserve
@pytest.mark.parametrize(("free", "refused"), [(5.5, True), (6.5, False)])
def test_nodes_that_would_eat_the_reserve_are_refused_and_those_that_are_there_are_not(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch, free: float, refused: bool
) -> None:
    """Two nodes take at least 4 GiB, and 2 GiB stay free."""
    lab, roomy = system_lab(host), host._facts()
    monkeypatch.setattr(host, "_facts", lambda: replace(roomy, disk_free_gib=free))
    before = comparable(host.save())
    if refused:
        with pytest.raises(HostNotFitError, match=r"would leave less than the reserve of 2 GiB, and 5\.5 GiB is free"):
            host.provision(lab)
        assert differences(before, comparable(host.save())) == {}
        return
    host.provision(lab)
    monkeypatch.setattr(host, "_facts", lambda: replace(roomy, disk_free_gib=0.5))
    host.provision(lab)  # repairs go on, whatever is left
    host.destroy()
