"""The golden images on a real QEMU, without libvirt: the contract between a guest and its host."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import pytest

from emulator.adapters.system.process import HostProcess
from emulator.core.data_files import share_dir
from emulator.core.debian.releases import RELEASES, image_of, release_of
from emulator.core.errors import HostNotFitError
from emulator.core.ids import link_local_address
from emulator.guests.inventory.build import build_inventory
from emulator.guests.inventory.model import ConnectionFacts
from emulator.guests.inventory.render import InventoryFormat, render
from emulator.images.recipe import load_recipe, tree_paths
from emulator.images.store.golden_image import GoldenImage
from emulator.images.store.store import ImageStore
from emulator.images.supply_chain.sbom import packages_of
from emulator.labfile.load import parse_spec
from emulator.labfile.model import ADMIN
from emulator.wiring import images_of_host
from tests.support.guest_release import RELEASE
from tests.support.image_guest import DISK_GIB, MACHINE_ID, ImageGuest

pytestmark = pytest.mark.host

HPC, CLOUD = (image_of(name, RELEASE) for name in ("hpc-base", "cloud-base"))
HEAD = "cloud-control-plane"
# On QEMU's user network, where the guest is 10.0.2.15.
NODES = """\
version: "1.0"
metadata: {name: x}
clusters:
  hpc: {}
  cloud: {control_plane: {ip_address: 10.0.2.15}, worker_nodes: {cpu_workers: {count: 1, ip_range: 10.0.2.20}}}
"""
# Files of packages that the tree of an input replaces.
REPLACED_BY_INPUTS = {"kubernetes": {"/etc/containerd/config.toml"}}
# What the units of an image have set up beside the firewall.
TABLES = {HPC: {"table inet lab"}, CLOUD: {"table inet lab", "table ip nat"}}


@pytest.fixture(scope="module", params=[HPC, CLOUD])
def image(request: pytest.FixtureRequest) -> GoldenImage:
    if os.geteuid() != 0 or shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs root and qemu-system-x86_64")
    images = images_of_host()
    if images.store.needs_build(request.param) is None and (built := images.store.current(request.param)) is not None:
        return built
    try:
        return images.build(request.param, progress=lambda line: None)
    except HostNotFitError as error:
        pytest.skip(f"{request.param} cannot be built here: {error}")


@pytest.fixture(scope="module")
def guest(image: GoldenImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageGuest]:
    guest = ImageGuest(image, tmp_path_factory.mktemp("guest"))
    try:
        guest.boot()
        guest.wait_for_ssh()
        yield guest
    finally:
        guest.end()


def test_identity_comes_from_the_host(guest: ImageGuest) -> None:
    assert guest.output("hostname") == "hpc-compute-7"
    assert guest.output("cat /etc/machine-id") == MACHINE_ID
    keys = f"/etc/ssh/lab_keys/{ADMIN}"
    assert guest.output(f"cat {keys}") == guest.key.with_suffix(".pub").read_text().strip()
    assert guest.output(f"stat -c '%U %a' {keys} /home/{ADMIN} /etc/sudoers.d/lab-admin | paste -sd,") == (
        f"root 644,{ADMIN} 700,root 440"
    )
    assert guest.output("id -un; sudo -n id -un").split() == [ADMIN, "root"]


def test_the_guest_comes_up_whole(guest: ImageGuest) -> None:
    state = guest.ssh("systemctl is-system-running --wait").stdout.strip()
    failed = guest.output("systemctl --failed --plain --no-legend")
    assert (state, failed) == ("running", "")
    # systemd breaks a cycle by leaving out a job of its choice: another one at every boot.
    assert guest.output("journalctl -b --no-pager | grep -c 'rdering cycle' || true") == "0"


def test_the_release_is_the_one_of_its_name(guest: ImageGuest) -> None:
    release = release_of(guest.image.name)
    assert release is not None
    assert guest.output("(. /etc/os-release; echo $VERSION_CODENAME)") == release
    if guest.image.name == HPC:
        assert guest.output("sinfo --version").startswith(f"slurm-wlm {RELEASES[release].slurm}.")


def test_the_root_file_system_has_grown_to_the_disk(guest: ImageGuest) -> None:
    size = int(guest.output("df --output=size -B1 / | tail -1"))
    assert size > 0.94 * DISK_GIB * 2**30


def test_address_comes_by_dhcp_and_the_resolver_runs(guest: ImageGuest) -> None:
    assert guest.output("ip -4 -o addr show dev eth0 | grep -c ' 10.0.2.15/'") == "1"
    guest.output("systemctl is-system-running --wait || true")
    # QEMU's restricted network hands out no name server; a lab's own does, and its tests look names up.
    assert "managed by man:systemd-resolved" in guest.output("cat /etc/resolv.conf")


def test_only_a_key_lets_in(guest: ImageGuest) -> None:
    refused = guest.ssh("true", "-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password")
    assert refused.returncode == 255
    assert "Permission denied (publickey)" in refused.stderr
    passwords = guest.output("sudo cut -d: -f2 /etc/shadow | sort -u").split()
    assert all(word[0] in "!*" for word in passwords), "somebody has a password"
    lenient = guest.output("sudo grep -rlE '^[^#]*NOPASSWD|nullok' /etc/pam.d /etc/sudoers /etc/sudoers.d || true")
    assert set(lenient.split()) <= {
        "/etc/pam.d/common-auth",  # Debian's; nobody has an empty password to use it with
        "/etc/sudoers.d/lab-admin",  # the account of the key that is its only way in
    }


def test_root_is_not_let_in_and_nobody_can_let_himself_in(guest: ImageGuest) -> None:
    guest.output("sudo install -d -m 700 /root/.ssh; sudo cp /etc/ssh/lab_keys/labadmin /root/.ssh/authorized_keys")
    assert "Permission denied (publickey)" in guest.ssh("true", user="root").stderr
    settings = guest.output("sudo sshd -T")
    assert "permitrootlogin no" in settings
    assert "authorizedkeysfile /etc/ssh/lab_keys/%u" in settings
    guest.output("sudo rm -r /root/.ssh")


QUOTA = share_dir() / "playbooks" / "module_utils" / "user_quota.py"
SET_QUOTA = """
print(ensure_quota(3001, {"kib": 65536, "inodes": 100}, kernel("/"), check=False))
print(ensure_quota(3001, {"kib": 65536, "inodes": 100}, kernel("/"), check=False))
"""


def test_wrong_keys_of_one_person_lock_nobody_else_out(guest: ImageGuest, tmp_path: Path) -> None:
    """All come from the host's address, the tool as well; newer sshds would shut that out after the third."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "wrong"], check=True)
    for _ in range(5):
        refused = guest.ssh("true", key=tmp_path / "wrong")
        assert "Permission denied (publickey)" in refused.stderr
    assert guest.output("id -un") == ADMIN


def test_no_driver_searches_for_disks_that_no_guest_has(guest: ImageGuest) -> None:
    """The machine has an AHCI controller, which Debian 13's kernel has a driver for."""
    loaded = {line.split()[0] for line in guest.output("cat /proc/modules").splitlines()}
    assert "virtio_blk" in loaded
    assert loaded & {"ahci", "libata", "scsi_mod"} == set()


def test_a_user_who_logs_in_is_held_in_bounds(guest: ImageGuest) -> None:
    guest.output("sudo useradd --create-home --user-group --uid 3001 ada; sudo cp /etc/ssh/lab_keys/{labadmin,ada}")
    program = base64.b64encode((QUOTA.read_text() + SET_QUOTA).encode()).decode()
    # The second time there is nothing to change.
    assert guest.output(f"echo {program} | base64 -d | sudo python3 -").split() == ["True", "False"]

    def ada(command: str) -> str:
        done = guest.ssh(command, user="ada")
        return done.stdout + done.stderr

    group = ada("cat /proc/self/cgroup").strip().removeprefix("0::")
    assert group.startswith("/user.slice/user-3001.slice/session-")
    limits = "/sys/fs/cgroup/user.slice/user-3001.slice"
    assert [int(word) > 0 for word in ada(f"cat {limits}/pids.max {limits}/memory.max").split()] == [True, True]
    assert guest.output("cut -d: -f3 /proc/self/cgroup") == "/management.slice/ssh.service"
    assert ada("ps -e -o user= | sort -u").split() == ["ada"]
    assert "root" in guest.output("ps -e -o user= | sort -u")
    assert "Disk quota exceeded" in ada("fallocate -l 100M big")
    assert "Disk quota exceeded" in ada("for n in $(seq 120); do : >/tmp/ada-$n || exit; done")
    hog = ada("python3 -c 'held = [b\"x\" * 2**24 for _ in range(200)]'; echo $?")
    assert "137" in hog.split() or "Killed" in hog
    guest.output("sudo pkill -KILL -u ada; sudo sh -c 'rm /etc/ssh/lab_keys/ada /tmp/ada-*; userdel --remove ada'")


def test_the_firewall_lets_in_ssh_alone_until_the_node_has_a_role(guest: ImageGuest) -> None:
    rules = guest.output("sudo nft list table inet lab")
    assert "policy drop" in rules
    assert "tcp dport 22 accept" in rules
    assert set(guest.output("sudo nft list tables").splitlines()) == TABLES[guest.image.name]


def test_the_journal_is_kept_and_the_kernel_audits(guest: ImageGuest) -> None:
    guest.output("systemctl is-system-running --wait || true")
    assert guest.output("ls -d /var/log/journal/*/system.journal").endswith("/system.journal")
    assert "enabled 1" in guest.output("sudo auditctl -s")
    assert len(guest.output("sudo auditctl -l").splitlines()) >= 12
    guest.output("sudo -n true")
    assert "labadmin" in guest.output("sudo ausearch --input-logs -k sudo --interpret | tail -40")


def test_no_identity_or_secret_is_baked_in(guest: ImageGuest) -> None:
    assert guest.output("ls /etc/ssh/ssh_host_*") == (
        "/etc/ssh/ssh_host_ed25519_key\n/etc/ssh/ssh_host_ed25519_key.pub"
    )
    # Made in this guest: newer than the boot of its kernel.
    boot = int(guest.output("sed -n 's/^btime //p' /proc/stat"))
    assert int(guest.output("stat -c %Y /etc/ssh/ssh_host_ed25519_key")) >= boot - 2
    assert guest.ssh("sudo test -e /etc/munge/munge.key").returncode == 1
    assert guest.output("ls /etc/apt/sources.list.d /etc/apt/apt.conf.d").count("mmdebstrap") == 0
    assert guest.ssh("test -s /etc/apt/sources.list").returncode == 1
    # Nothing of the host that built the image, or of the machine in which it was made.
    skeleton = "! -name .bashrc ! -name .profile ! -name .bash_logout"
    assert guest.output(f"sudo find /home /root /tmp /var/tmp -xdev -type f {skeleton}") == ""
    assert guest.ssh("ls /etc/dpkg/dpkg.cfg.d/*hyperscaler* /usr/sbin/policy-rc.d").stdout == ""


def test_services_of_slurm_wait_for_the_playbook(guest: ImageGuest) -> None:
    if guest.image.name != HPC:
        pytest.skip("Slurm is in the other image")
    units = ("munge", "slurmctld", "slurmd", "slurmdbd", "mariadb")
    assert guest.ssh(f"systemctl is-enabled {' '.join(units)}").stdout.split() == ["disabled"] * len(units)
    guest.output("command -v srun sinfo sacctmgr mariadb munge python3")


def test_kubernetes_waits_for_the_playbook_and_has_all_it_needs(guest: ImageGuest) -> None:
    if guest.image.name != CLOUD:
        pytest.skip("Kubernetes is in the other image")
    assert guest.ssh("systemctl is-enabled kubelet").stdout.strip() == "disabled"
    assert guest.ssh("systemctl is-active kubelet").stdout.strip() == "inactive"
    for path in ("/etc/kubernetes/pki", "/etc/kubernetes/admin.conf", "/var/lib/kubelet/config.yaml"):
        assert guest.ssh(f"sudo test -e {path}").returncode == 1, path
    guest.output("command -v kubeadm kubelet kubectl containerd runc crictl python3")
    assert "/kube-apiserver:" in guest.output("sudo ctr --namespace k8s.io images list --quiet")


def test_every_unit_is_in_the_state_that_the_recipe_says(guest: ImageGuest) -> None:
    recipe = load_recipe(guest.image.name)
    guest.output("systemctl is-system-running --wait || true")
    active = dict(
        zip(recipe.enable, guest.ssh(f"systemctl is-active {' '.join(recipe.enable)}").stdout.split(), strict=True)
    )
    assert active == dict.fromkeys(recipe.enable, "active")
    for units, state in ((recipe.enable, "enabled"), (recipe.disable, "disabled"), (recipe.mask, "masked")):
        said = dict(zip(units, guest.ssh(f"systemctl is-enabled -- {' '.join(units)}").stdout.split(), strict=True))
        assert said == dict.fromkeys(units, state)


def test_the_packages_are_those_of_the_manifest(guest: ImageGuest) -> None:
    rows = guest.output("dpkg-query -W -f '${db:Status-Status} ${Package} ${Version}\\n'").splitlines()
    installed = {name: version for state, name, version in (row.split() for row in rows) if state == "installed"}
    assert len(installed) == len(rows), "a package was removed by halves"
    assert installed == dict(guest.image.manifest.packages)
    bill = packages_of((guest.image.directory / "sbom.spdx.json").read_text())
    assert {package.name: package.version for package in bill} == installed
    recipe = load_recipe(guest.image.name)
    assert {recipe.kernel, *recipe.packages} <= installed.keys()


def test_installed_files_are_as_packaged(guest: ImageGuest) -> None:
    """dpkg knows a checksum of every file. Those that the recipe leaves out, removes, replaces or masks differ, and
    what the guest's own boot writes; anything else was damaged on the way."""
    recipe = load_recipe(guest.image.name)
    left_out = [*recipe.exclude_paths, *recipe.remove]
    ours = {f"/{path.relative_to(tree)}" for tree in recipe.files for path in tree_paths(tree)}
    ours |= {*recipe.mask_files, *recipe.empty_files, *recipe.symlinks}
    ours |= {path for name in recipe.inputs for path in REPLACED_BY_INPUTS[name]}

    def expected(path: str) -> bool:
        parents = [str(parent) for parent in PurePosixPath(path).parents]
        removed = any(fnmatch(name, pattern) for name in (path, *parents) for pattern in left_out)
        return removed or path in ours

    changed = [line.split()[-1] for line in guest.ssh("sudo dpkg --verify").stdout.splitlines()]
    assert changed, "dpkg has no checksums: then this shows nothing"
    assert [path for path in changed if not expected(path)] == []


def test_the_image_keeps_to_its_size(guest: ImageGuest) -> None:
    recipe = load_recipe(guest.image.name)
    if not recipe.inputs:  # the budget is for the rest, and the guest cannot tell one from the other
        assert guest.image.disk.stat().st_size <= recipe.max_image_mib * 2**20
    used = int(guest.output("df --output=used -B1M / | tail -1"))
    assert used < 1.5 * guest.image.disk.stat().st_size / 2**20 + 64, "the disk holds much that is not in use"


def test_the_files_of_the_image_are_as_built(guest: ImageGuest) -> None:
    store = ImageStore(guest.image.directory.parent.parent, HostProcess())
    assert store.verify(guest.image) == []


def test_errors_are_seen_on_the_console(guest: ImageGuest) -> None:
    guest.output("echo '<3>lab test: this is an error' | sudo tee /dev/kmsg")
    deadline = time.monotonic() + 30
    while "lab test: this is an error" not in guest.text():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def configured(guest: ImageGuest, networks: str) -> int:
    """Run the first roles of the playbook on this guest, as a node of a lab with these networks; returns how many tasks
    changed something."""
    node, roles = ("hpc-compute-1", "baseline") if guest.image.name == HPC else (HEAD, "baseline, k8s_node")
    spec, report = parse_spec(NODES + networks, file="lab.yaml")
    assert spec is not None, report.findings
    inventory = build_inventory(spec, ConnectionFacts(ADMIN, guest.key, guest.known_hosts))
    (guest.directory / "inventory.yml").write_text(render(inventory, InventoryFormat.YAML))
    (guest.directory / "play.yml").write_text(f"[{{hosts: {node}, gather_facts: false, roles: [{roles}]}}]\n")
    here = {"ansible_host": "127.0.0.1", "ansible_port": guest.port}
    playbooks = share_dir() / "playbooks"
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "inventory.yml", "-e", json.dumps(here), "play.yml"],
        cwd=guest.directory,
        env={
            **os.environ,
            "ANSIBLE_LIBRARY": str(playbooks / "library"),
            "ANSIBLE_MODULE_UTILS": str(playbooks / "module_utils"),
            "ANSIBLE_ROLES_PATH": str(playbooks / "roles"),
            "ANSIBLE_LOCAL_TEMP": str(guest.directory / "ansible"),
        },
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    guest.wait_for_ssh()
    return int(done.stdout.rpartition("changed=")[2].split()[0])


def networks(prefix: str = "") -> str:
    """The lab's networks, where they have IPv6 with `prefix` before the number of the cluster."""
    hpc, cloud = (f"subnet_v6: {prefix}{number}::/64" if prefix else "" for number in (1, 2))
    return f"global: {{networks: {{hpc_network: {{{hpc}}}, cloud_network: {{subnet: 10.0.2.0/24, {cloud}}}}}}}\n"


def test_a_node_takes_the_lab_s_ipv6_address_and_no_other(guest: ImageGuest) -> None:
    """QEMU's network advertises a router, which nobody listens to."""
    configured(guest, networks())
    assert guest.output("ip -6 -o addr show dev eth0") == ""
    routes = guest.output("ip -4 route show")
    assert guest.image.name == HPC or "via 10.0.2.20 dev eth0 proto 201" in routes, "to the pods of the worker"
    link_local = f"{link_local_address(guest.output('cat /sys/class/net/eth0/address'))}/64"

    for prefix in ("fd00:a:", "fd00:b:"):
        assert configured(guest, networks(prefix)) > 0
        deadline = time.monotonic() + 60
        while "tentative" in (shown := guest.output("ip -6 -o addr show dev eth0")) or shown.count("inet6") != 2:
            assert time.monotonic() < deadline, shown
            time.sleep(0.5)
        own, gateway = (
            (f"{prefix}1::b/64", f"{prefix}1::1") if guest.image.name == HPC else (f"{prefix}2::f/64", f"{prefix}2::1")
        )
        assert {line.split()[3] for line in shown.splitlines()} == {own, link_local}
        ways = guest.output("ip -6 route show default").splitlines()
        assert [line.split()[:5] for line in ways] == [["default", "via", gateway, "dev", "eth0"]]
        assert guest.output("ip -4 route show") == routes, "those of IPv4 have come back"
        assert "nd-router-advert" in guest.output("sudo nft list table inet lab")
    assert configured(guest, networks(prefix)) == 0

    assert configured(guest, networks()) > 0
    assert guest.output("ip -6 -o addr show dev eth0 scope global") == ""
    assert guest.output("ip -4 route show") == routes
    assert configured(guest, networks()) == 0


# Last: it ends the guest and starts it again.
def off_by(guest: ImageGuest) -> float:
    """Seconds by which the guest's clock is off the host's; the time that the question takes is not counted."""
    before = time.time()
    there = float(guest.output("date +%s.%N"))
    return max(before - there, there - time.time(), 0.0)


def set_right(guest: ImageGuest) -> bool:
    """Whether the clock comes within two seconds of the host's before it was compared often enough."""
    deadline = time.monotonic() + 300  # a loaded host, an emulated guest; usually 20 s
    while off_by(guest) >= 2:
        if time.monotonic() > deadline:
            return False
        time.sleep(2)
    return True


def test_the_clock_follows_the_host_s(guest: ImageGuest) -> None:
    for wrong in ("-1 hour", "+1 hour"):
        guest.output(f"sudo date --set='{wrong}'")
        assert off_by(guest) > 3000
        assert set_right(guest), guest.output("systemctl status hyperscaler-clock.timer hyperscaler-clock.service")
    assert "clock set to the host's time, it was " in guest.output("sudo journalctl -o cat -u hyperscaler-clock")


def test_a_guest_that_was_paused_is_set_right(guest: ImageGuest) -> None:
    assert set_right(guest)
    guest.pause(8)
    assert off_by(guest) > 4
    assert set_right(guest)


def test_the_power_button_shuts_down_and_the_host_key_stays(guest: ImageGuest) -> None:
    guest.output("systemctl is-system-running --wait || true")
    key = guest.output("cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub")
    guest.press_power_button()
    assert guest.boot() == key
    guest.wait_for_ssh()
    assert guest.output("hostname") == "hpc-compute-7"
