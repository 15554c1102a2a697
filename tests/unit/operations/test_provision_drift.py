"""What changes behind the program's back: the plan shows it with its reason, provisioning repairs it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from emulator.adapters.simulated.gpus import gpu_at
from emulator.apply.journal import Journal
from emulator.apply.state import StateStore
from emulator.core.errors import ConflictError
from emulator.core.ports import DomainState
from emulator.lab.lab_files import LoadedLab
from emulator.operations.status import lab_status
from tests.support.simulated_world import FIRST, SECOND, SYSTEM_URI, SimulatedHost, gpu_section, lab_text
from tests.support.stop_points import in_sequence

Event = Callable[[SimulatedHost], object]


def edit_memory(host: SimulatedHost) -> None:
    file = host.machine / "libvirt.json"
    data = json.loads(file.read_text())
    xml = data["domains"]["demo-hpc-compute-1"]
    data["domains"]["demo-hpc-compute-1"] = xml.replace(">1024</memory>", ">512</memory>")
    file.write_text(json.dumps(data))


def lose_disk(host: SimulatedHost) -> None:
    (host.home.lab("demo").disks / "hpc-compute-1.qcow2").unlink()


def stop_network(host: SimulatedHost) -> None:
    file = host.machine / "libvirt.json"
    file.write_text(file.read_text().replace('"demo-2-hpc", "demo-hpc"', '"demo-2-hpc"'))


def edit_network(host: SimulatedHost) -> None:
    file = host.machine / "libvirt.json"
    data = json.loads(file.read_text())
    xml = data["networks"]["demo-hpc"]
    data["networks"]["demo-hpc"] = xml.replace('ip="192.168.100.11"', 'ip="192.168.100.99"')
    assert data["networks"]["demo-hpc"] != xml
    file.write_text(json.dumps(data))


def lose_table(host: SimulatedHost) -> None:
    host.packet_filter(quiet=True).delete("hyperscaler_demo")


def edit_table(host: SimulatedHost) -> None:
    host.packet_filter(quiet=True).edit("hyperscaler_demo", "routed", "accept")


def edited(name: str, old: str, new: str, *, live: bool = False) -> Event:
    return lambda host: host.hypervisor(quiet=True).edit(name, old, new, live=live)


NODE = "demo-hpc-compute-1"
DEVICE = (
    '<hostdev mode="subsystem" type="pci" managed="yes"><source>'
    '<address domain="0x0000" bus="0x0a" slot="0x00" function="0x0"/></source></hostdev></devices>'
)
DRIFTS: dict[str, tuple[Event, dict[str, tuple[str, str]]]] = {
    "domain deleted": (
        lambda host: host.hypervisor(quiet=True).delete_domain("demo-hpc-compute-1"),
        {"domain/hpc-compute-1": ("create", "missing although it was made; removed outside of hyperscaler")},
    ),
    "domain shut off": (
        lambda host: host.hypervisor(quiet=True).set_state("demo-hpc-compute-1", DomainState.SHUTOFF),
        {"domain/hpc-compute-1": ("repair", "is shutoff")},
    ),
    "domain crashed": (
        lambda host: host.hypervisor(quiet=True).set_state("demo-hpc-controller", DomainState.CRASHED),
        {"domain/hpc-controller": ("repair", "is crashed")},
    ),
    "disk edited": (
        edited(NODE, "hpc-compute-1.qcow2", "other.qcow2"),
        {"domain/hpc-compute-1": ("repair", "has the disks ")},
    ),
    "moved to another network": (
        edited(NODE, 'network="demo-hpc"', 'network="default"'),
        {"domain/hpc-compute-1": ("repair", "has the networks default instead of demo-hpc")},
    ),
    "kernel edited": (
        edited(NODE, "vmlinuz", "vmlinuz.old"),
        {"domain/hpc-compute-1": ("repair", "has the kernel ")},
    ),
    "device added": (
        edited(NODE, "</devices>", DEVICE),
        {"domain/hpc-compute-1": ("repair", "has the devices 0000:0a:00.0 instead of none")},
    ),
    "memory of the running guest edited": (
        edited(NODE, ">1024</memory>", ">768</memory>", live=True),
        {"domain/hpc-compute-1": ("repair", "runs with 768 MiB of memory instead of 1024")},
    ),
    "device added to the running guest": (
        edited(NODE, "</devices>", DEVICE, live=True),
        {"domain/hpc-compute-1": ("repair", "runs with the devices 0000:0a:00.0 instead of none")},
    ),
    "command line edited": (
        edited(NODE, "root=/dev/vda1", "root=/dev/vda1 init=/bin/sh"),
        {"domain/hpc-compute-1": ("repair", "has the kernel command line root=/dev/vda1 init=/bin/sh ")},
    ),
    "initrd of the running guest edited": (
        edited(NODE, "/initrd<", "/initrd.other<", live=True),
        {"domain/hpc-compute-1": ("repair", "runs with the initrd ")},
    ),
    "console log edited": (
        edited(NODE, "/console/hpc-compute-1.log", "/console/other.log"),
        {"domain/hpc-compute-1": ("repair", "has the console log ")},
    ),
    "another accelerator": (
        edited(NODE, 'type="qemu"', 'type="kvm"'),
        {"domain/hpc-compute-1": ("repair", "has KVM on instead of off")},
    ),
    "a stranger's key": (
        edited(NODE, "=ssh-ed25519 AAAA lab", "=ssh-ed25519 EVIL"),
        {"domain/hpc-compute-1": ("repair", "has other credentials than the lab's key")},
    ),
    "no key": (
        edited(NODE, "<entry>io.systemd.credential:lab.authorized_key=ssh-ed25519 AAAA lab</entry>", ""),
        {"domain/hpc-compute-1": ("repair", "has other credentials than the lab's key")},
    ),
    "a directory of the host": (
        edited(NODE, "</devices>", '<filesystem><source dir="/"/><target dir="host"/></filesystem></devices>'),
        {"domain/hpc-compute-1": ("repair", "has the directory / of the host, which the lab did not give it")},
    ),
    "an unsafe cache": (
        edited(NODE, 'cache="writeback"', 'cache="unsafe"', live=True),
        {"domain/hpc-compute-1": ("repair", "runs with the cache mode unsafe for ")},
    ),
    "gateway edited": (
        edited("demo-hpc", 'address="192.168.100.1"', 'address="192.168.100.254"'),
        {"network/hpc": ("repair", "has the gateway 192.168.100.254 instead of 192.168.100.1")},
    ),
    "DNS asks the world": (
        edited("demo-hpc", 'value="no-resolv"', 'value="log-queries"'),
        {"network/hpc": ("repair", "has NAT on instead of off")},
    ),
    "NAT of libvirt": (
        edited("demo-hpc", '<forward mode="open"', '<forward mode="nat"'),
        {"network/hpc": ("repair", "is filtered by libvirt's rules in addition to the lab's own")},
    ),
    "address for a stranger": (
        edited("demo-hpc", "</dhcp>", '<host mac="52:54:00:aa:bb:cc" ip="192.168.100.77" name="mole"/></dhcp>'),
        {"network/hpc": ("repair", "has addresses for mole, which are not the lab's")},
    ),
    "address lost while it runs": (
        edited("demo-hpc", 'ip="192.168.100.11"', 'ip="192.168.100.99"', live=True),
        {"network/hpc": ("repair", "runs without the addresses of hpc-compute-1")},
    ),
    "address for a stranger while it runs": (
        edited("demo-hpc", "</dhcp>", '<host mac="52:54:00:aa:bb:cc" ip="192.168.100.77"/></dhcp>', live=True),
        {"network/hpc": ("repair", "runs with addresses for 52:54:00:aa:bb:cc, which are not the lab's")},
    ),
    "memory edited": (
        edit_memory,
        {"domain/hpc-compute-1": ("repair", "has 512 MiB of memory instead of 1024")},
    ),
    "network stopped": (stop_network, {"network/hpc": ("repair", "is not active")}),
    "network edited": (edit_network, {"network/hpc": ("repair", "has lost the addresses of hpc-compute-1")}),
    "network deleted": (
        lambda host: host.hypervisor(quiet=True).delete_network("demo-hpc"),
        {
            "network/hpc": ("create", "missing although it was made; removed outside of hyperscaler"),
            "domain/hpc-controller": ("replace", "network/hpc is made anew"),
            "domain/hpc-compute-1": ("replace", "network/hpc is made anew"),
        },
    ),
    "table lost": (lose_table, {"firewall/lab": ("repair", "its table is gone")}),
    "table edited": (edit_table, {"firewall/lab": ("repair", "has been edited: routed")}),
    "disk lost": (
        lose_disk,
        {
            "volume/hpc-compute-1": ("create", "missing although it was made; removed outside of hyperscaler"),
            "domain/hpc-compute-1": ("replace", "volume/hpc-compute-1 is made anew"),
        },
    ),
}


def changes(host: SimulatedHost, lab: LoadedLab) -> dict[str, tuple[str, str]]:
    plan = host.plan(lab)
    assert not plan.blockers, plan.blockers
    return {change.resource.id: (change.action.value, change.reason) for change in plan.changes}


@pytest.mark.parametrize("name", DRIFTS)
def test_drift_is_seen_and_repaired(host: SimulatedHost, name: str) -> None:
    event, expected = DRIFTS[name]
    lab = host.lab_file(lab_text(hypervisor=SYSTEM_URI))
    host.provision(lab)
    assert lab_status(host.environment(), "demo").problems == ()
    event(host)
    found = changes(host, lab)
    assert found.keys() == expected.keys()
    for resource, (action, reason) in expected.items():
        assert found[resource][0] == action and found[resource][1].startswith(reason), found
    problems = "\n".join(lab_status(host.environment(), "demo").problems)
    for resource, (_action, reason) in expected.items():
        assert f"{resource}: {reason}" in problems or f"{resource.partition('/')[2]} {reason}" in problems
    made = host.provision(lab)
    assert all(check.ok for check in made.checks)
    assert changes(host, lab) == {}


IPV6 = "networks: {hpc_network: {subnet_v6: fd00:100::/64}}"
IPV6_DRIFTS = {
    "another gateway": (
        edited("demo-hpc", 'address="fd00:100::1"', 'address="fd00:100::fe"'),
        "has the IPv6 gateway fd00:100::fe instead of fd00:100::1",
    ),
    "another subnet": (
        edited("demo-hpc", 'address="fd00:100::1"', 'address="fd00:101::1"'),
        "has the IPv6 subnet fd00:101::/64 instead of fd00:100::/64",
    ),
    "another address of a name while it runs": (
        edited("demo-hpc", 'ip="fd00:100::b"', 'ip="fd00:100::ff"', live=True),
        "runs without the names of hpc-compute-1",
    ),
}


@pytest.mark.parametrize("name", IPV6_DRIFTS)
def test_drift_of_ipv6_is_seen_and_repaired(host: SimulatedHost, name: str) -> None:
    event, reason = IPV6_DRIFTS[name]
    lab = host.lab_file(lab_text(hypervisor=SYSTEM_URI, extra=IPV6))
    host.provision(lab)
    event(host)
    assert changes(host, lab) == {"network/hpc": ("repair", reason)}
    host.provision(lab)
    assert host.plan(lab).is_empty


def test_ipv6_that_somebody_gave_a_network_without_is_drift(host: SimulatedHost) -> None:
    lab = host.lab_file(lab_text(hypervisor=SYSTEM_URI))
    host.provision(lab)
    edited("demo-hpc", "<ip address", '<ip family="ipv6" address="fd00:9::1" prefix="64"/><ip address')(host)
    assert changes(host, lab) == {"network/hpc": ("repair", "has the IPv6 subnet fd00:9::/64 instead of none")}


def test_a_stranger_s_table_of_that_name_is_left_alone(host: SimulatedHost) -> None:
    tables = host.packet_filter(quiet=True)
    tables.seed_foreign_table("hyperscaler_demo")
    before = tables.table("hyperscaler_demo")
    lab = host.lab_file(lab_text(hypervisor=SYSTEM_URI))
    (blocker,) = host.plan(lab).blockers
    assert (blocker.resource_id, blocker.what) == (
        "firewall/lab",
        "a table hyperscaler_demo is there already (not made by hyperscaler)",
    )
    with pytest.raises(ConflictError, match="hyperscaler_demo"):
        host.provision(lab)
    assert tables.table("hyperscaler_demo") == before


def test_a_table_that_lost_its_mark_is_not_taken_away(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text(hypervisor=SYSTEM_URI)))
    tables = host.packet_filter(quiet=True)
    tables.seed_foreign_table("hyperscaler_demo")
    host.destroy()
    assert tables.table("hyperscaler_demo") is not None


def test_after_a_reboot_the_table_is_there_before_the_guests(host: SimulatedHost) -> None:
    lab = host.lab_file(lab_text(hypervisor=SYSTEM_URI))
    host.provision(lab)
    host.reboot()
    assert host.packet_filter(quiet=True).table("hyperscaler_demo") is None
    order = [change.resource.kind for change in host.plan(lab).changes]
    assert order == ["firewall", "network", "service", "service", "domain", "domain"]
    host.provision(lab)
    assert host.packet_filter(quiet=True).table("hyperscaler_demo") is not None
    assert changes(host, lab) == {}


def calls_of(host: SimulatedHost) -> list[str]:
    """What is asked of the hypervisor's domains from now on."""
    calls: list[str] = []
    host.hook.before = lambda name: calls.append(name) if name.endswith("_domain") else None
    return calls


def test_a_paused_guest_goes_on_without_a_restart(host: SimulatedHost) -> None:
    """QEMU pauses guests whose disks cannot grow; to power them off would cost what they are about to write."""
    lab = host.lab_file(lab_text(hypervisor=SYSTEM_URI))
    host.provision(lab)
    host.hypervisor(quiet=True).set_state(NODE, DomainState.PAUSED)
    assert changes(host, lab) == {"domain/hpc-compute-1": ("repair", "is paused")}
    calls = calls_of(host)
    host.provision(lab)
    assert calls == ["start_domain"]
    assert changes(host, lab) == {}


def test_a_paused_guest_with_other_settings_is_restarted(host: SimulatedHost) -> None:
    lab = host.lab_file(lab_text(hypervisor=SYSTEM_URI))
    host.provision(lab)
    edit_memory(host)
    host.hypervisor(quiet=True).edit(NODE, ">1024</memory>", ">512</memory>", live=True)
    host.hypervisor(quiet=True).set_state(NODE, DomainState.PAUSED)
    calls = calls_of(host)
    host.provision(lab)
    assert calls == ["shutdown_domain", "define_domain", "start_domain"]
    assert changes(host, lab) == {}


EDIT = ("root=/dev/vda1", "root=/dev/vda1 init=/bin/sh")


def test_an_edit_that_the_running_guest_does_not_have_costs_no_restart(host: SimulatedHost) -> None:
    lab = host.lab_file(lab_text(hypervisor=SYSTEM_URI))
    host.provision(lab)
    host.hypervisor(quiet=True).edit(NODE, *EDIT)
    calls = calls_of(host)
    host.provision(lab)
    assert calls == ["define_domain", "start_domain"]
    assert changes(host, lab) == {}


def test_an_edit_that_it_runs_with_does(host: SimulatedHost) -> None:
    lab = host.lab_file(lab_text(hypervisor=SYSTEM_URI))
    host.provision(lab)
    host.hypervisor(quiet=True).edit(NODE, *EDIT, live=True)
    calls = calls_of(host)
    host.provision(lab)
    assert calls == ["shutdown_domain", "define_domain", "start_domain"]
    assert changes(host, lab) == {}


def forget(host: SimulatedHost, *keys: str) -> None:
    """A record as an older version wrote it."""
    store = StateStore(Journal(host.home.lab("demo").journal), boot_id="b")
    record = store.state.resources["domain/hpc-compute-1"]
    store.end("repair", record.resource, {key: value for key, value in record.handle.items() if key not in keys})


NEW_KEYS = ("initrd", "cmdline", "public_key", "extras")


@pytest.mark.parametrize("live", [False, True])
def test_what_an_older_version_did_not_record_is_no_drift(host: SimulatedHost, live: bool) -> None:
    lab = host.lab_file(lab_text(hypervisor=SYSTEM_URI))
    host.provision(lab)
    forget(host, *NEW_KEYS)
    host.hypervisor(quiet=True).edit(NODE, *EDIT, live=live)
    host.hypervisor(quiet=True).edit(NODE, "=ssh-ed25519 AAAA lab", "=ssh-ed25519 BBBB", live=live)
    assert changes(host, lab) == {}
    host.hypervisor(quiet=True).set_state(NODE, DomainState.PAUSED)
    calls = calls_of(host)
    host.provision(lab)
    assert calls == ["start_domain"]
    assert changes(host, lab) == {}


def test_what_libvirt_itself_adds_is_no_drift(host: SimulatedHost) -> None:
    """No version does today; one that does must not restart people's machines."""
    lab = host.lab_file(lab_text(hypervisor=SYSTEM_URI))

    def add(name: str) -> None:
        if name == "define_domain" and NODE in {info.name for info in host.hypervisor(quiet=True).domains()}:
            host.hook.after = lambda _name: None
            host.hypervisor(quiet=True).edit(NODE, "</devices>", "<vsock/></devices>")

    host.hook.after = add
    with in_sequence():
        host.provision(lab)
    found = host.hypervisor(quiet=True).domain(NODE)
    assert found is not None and found.extras == ("a vsock device",)
    assert changes(host, lab) == {}


def test_a_running_guest_keeps_the_key_that_it_was_started_with(host: SimulatedHost) -> None:
    lab = host.lab_file(lab_text(hypervisor=SYSTEM_URI))
    host.provision(lab)
    key = host.home.lab("demo").ssh_key
    key.with_name(f"{key.name}.pub").write_text("ssh-ed25519 CCCC lab\n")
    assert changes(host, lab) == {}
    host.hypervisor(quiet=True).set_state(NODE, DomainState.SHUTOFF)
    host.provision(lab)
    assert changes(host, lab) == {}


def test_a_stopped_domain_is_in_the_status(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text(hypervisor=SYSTEM_URI)))
    host.hypervisor(quiet=True).set_state("demo-hpc-compute-1", DomainState.SHUTOFF)
    assert "hpc-compute-1 is shutoff" in lab_status(host.environment(), "demo").problems


def test_after_a_reboot_of_the_host_everything_comes_back(host: SimulatedHost) -> None:
    lab = host.lab_file(lab_text())
    host.provision(lab)
    host.reboot()
    assert changes(host, lab) == {
        "hypervisor/embedded": ("repair", "does not run"),
        "service/console-limits": ("repair", "its supervisor does not run"),
        "service/disk-reserve": ("repair", "its supervisor does not run"),
        "firewall/lab": ("repair", "its hypervisor does not run"),
        "network/hpc": ("repair", "its hypervisor does not run"),
        "domain/hpc-controller": ("repair", "its hypervisor does not run"),
        "domain/hpc-compute-1": ("repair", "its hypervisor does not run"),
    }
    made = host.provision(lab)
    assert all(check.ok for check in made.checks)
    assert not any(made.changed.values()), "the guests kept their disks"
    assert changes(host, lab) == {}


# ---------------------------------------------------------------- GPUs
def gpu_lab(host: SimulatedHost) -> LoadedLab:
    return host.lab_file(lab_text(hypervisor=SYSTEM_URI, extra=gpu_section()))


def without_vgpus(host: SimulatedHost) -> None:
    with host.gpus().store.change() as state:
        gpu_at(state, SECOND).vgpus.clear()


def without_slices(host: SimulatedHost) -> None:
    with host.gpus().store.change() as state:
        gpu_at(state, SECOND).vgpus.clear()
        gpu_at(state, SECOND).instances.clear()


GPU_DRIFTS: dict[str, tuple[Event, tuple[str, ...]]] = {
    "vgpu removed": (without_vgpus, ("vgpu", "domain")),
    "gpu instance destroyed": (without_slices, ("gpu-instance", "vgpu", "domain")),
    "host rebooted": (lambda host: host.reboot(), ("virtual-functions", "whole-gpu", "gpu-instance", "vgpu", "domain")),
}


@pytest.mark.parametrize("name", GPU_DRIFTS)
def test_drift_of_gpus_is_seen_and_repaired(gpu_host: SimulatedHost, name: str) -> None:
    event, kinds = GPU_DRIFTS[name]
    lab = gpu_lab(gpu_host)
    gpu_host.provision(lab)
    event(gpu_host)
    seen = changes(gpu_host, lab)
    assert set(kinds) <= {key.partition("/")[0] for key in seen}, seen
    assert all(reason for _, reason in seen.values())
    problems = lab_status(gpu_host.environment(), "demo").problems
    assert any(line.startswith(f"{kinds[0]}/") for line in problems), problems
    gpu_host.provision(lab)
    assert changes(gpu_host, lab) == {}
    gpus = {gpu.pci_address: gpu for gpu in gpu_host.gpus().store.look().gpus}
    assert gpus[FIRST].driver == "vfio-pci"
    assert len(gpus[SECOND].instances) == len(gpus[SECOND].vgpus) == 1
