"""Our XML before libvirt's own schemas, and a golden image that boots and lets us in."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from emulator.adapters.embedded.hypervisor import EmbeddedHypervisor
from emulator.adapters.libvirt.domain_xml import domain_xml
from emulator.adapters.libvirt.errors import load_libvirt
from emulator.adapters.libvirt.hypervisor import LibvirtHypervisor
from emulator.adapters.libvirt.network_xml import network_xml
from emulator.adapters.system.process import HostProcess
from emulator.adapters.system.qemu_img import QemuImg
from emulator.core.paths import Home
from emulator.core.ports import GuestAddress, Hostdev, HostdevKind
from emulator.credentials.ssh_config import ssh_config
from emulator.guests.ssh import OpenSshShell, host_keys_from_console, write_known_hosts
from emulator.images.store.store import ImageStore
from emulator.labfile.model import ADMIN
from tests.support.guest_release import IMAGE
from tests.support.tiny_guest import TinyGuests

pytestmark = pytest.mark.host

RUNNER = HostProcess()
BOOT_SECONDS = 240


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedHypervisor]:
    top = tmp_path_factory.getbasetemp()
    daemon = EmbeddedHypervisor(tmp_path_factory.mktemp("g") / "hv", f"hst-g{os.getpid()}", RUNNER, writable=(top,))
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.stop()


def test_libvirts_schemas_accept_our_xml(embedded: EmbeddedHypervisor, tmp_path: Path) -> None:
    libvirt = load_libvirt()
    connection = libvirt.open(embedded.uri())
    guests = TinyGuests.prepare(tmp_path)
    plain = guests.domain("a", disk=tmp_path / "a.qcow2")
    devices = (
        Hostdev(HostdevKind.MDEV, "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"),
        Hostdev(HostdevKind.VFIO_VF, "0000:41:00.4"),
        Hostdev(HostdevKind.PCI, "0000:c1:00.0"),
    )
    for request in (plain, replace(plain, hostdevs=devices), replace(plain, credentials={}, vcpus=8)):
        domain = connection.defineXMLFlags(domain_xml(request), libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
        assert domain.UUIDString() == str(plain.uuid)
        domain.undefine()
    for nat in (False, True):
        wanted = replace(guests.network(), nat=nat)
        network = connection.networkDefineXMLFlags(network_xml(wanted), libvirt.VIR_NETWORK_DEFINE_VALIDATE)
        assert network.UUIDString() == str(wanted.uuid)
        network.undefine()
    connection.close()


@pytest.mark.parametrize("forward", ["", "<forward mode='nat'/>"])
def test_a_network_of_an_older_version_is_made_one_without_rules_of_libvirt_s(
    embedded: EmbeddedHypervisor, tmp_path: Path, forward: str
) -> None:
    request = TinyGuests.prepare(tmp_path).network()
    libvirt = load_libvirt()
    raw = libvirt.open(embedded.uri())
    older = re.sub("<forward.*?/>", forward, network_xml(request), count=1)
    older = re.sub("<dnsmasq:options>.*</dnsmasq:options>", "", older, flags=re.DOTALL)
    raw.networkDefineXML(older).create()
    connection = LibvirtHypervisor(embedded.uri())
    prefix = embedded.guest_command_prefix()
    try:
        before = connection.network("net")
        assert before is not None and before.filtered_by_libvirt
        assert "hsbr0" in RUNNER.run([*prefix, "iptables-save"], timeout=30).stdout
        connection.define_network(request)
        after = connection.network("net")
        assert after is not None and after.active and not after.filtered_by_libvirt
        assert "hsbr0" not in RUNNER.run([*prefix, "iptables-save"], timeout=30).stdout
    finally:
        connection.delete_network("net")
        connection.close()
        raw.close()


def test_a_golden_image_boots_and_lets_us_in(embedded: EmbeddedHypervisor, tmp_path: Path) -> None:
    # Takes a minute where the store has none of the present recipe.
    image = ImageStore(Home.default().images, RUNNER).build(IMAGE, progress=lambda _phase, _line: None)
    key, known_hosts = tmp_path / "key", tmp_path / "known_hosts"
    RUNNER.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], timeout=30)
    QemuImg(RUNNER).create_overlay(tmp_path / "a.qcow2", base=image.disk, size_gib=4)
    guests = TinyGuests.prepare(tmp_path / "lab")
    network = guests.network(hosts=1)
    request = guests.domain("a", disk=tmp_path / "a.qcow2")
    request = replace(
        request,
        memory_mib=1024,
        kernel=image.kernel,
        initrd=image.initrd,
        cmdline=f"{' '.join(image.cmdline)} systemd.hostname=n1 systemd.machine_id={request.uuid.hex}",
        credentials={"lab.authorized_key": key.with_suffix(".pub").read_text().strip()},
    )
    prefix = embedded.guest_command_prefix()
    connection = LibvirtHypervisor(embedded.uri(), prefix)
    shell = OpenSshShell(key, known_hosts, prefix, RUNNER)
    guest = GuestAddress("n1", network.hosts[0].ip, ADMIN)
    try:
        connection.admit_guests([tmp_path.parent, tmp_path])
        connection.define_network(network)
        connection.define_domain(request)
        connection.start_domain("a")
        deadline = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline:
            text = request.console_log.read_text(errors="replace")
            write_known_hosts(known_hosts, {"n1": host_keys_from_console(text)})
            if shell.ready(guest, timeout=10):
                break
            time.sleep(0.3)
        assert shell.run(guest, "hostname", timeout=60).stdout == "n1\n"
        config = tmp_path / "config"
        config.write_text(ssh_config([guest], key=key, known_hosts=known_hosts, guest_prefix=prefix))
        assert RUNNER.run(["ssh", "-F", config, "n1", "id", "-un"], timeout=60).stdout == f"{ADMIN}\n"
        # Another host under the same name is not let by.
        write_known_hosts(known_hosts, {})
        assert not shell.ready(guest, timeout=20)
        assert RUNNER.run(["ssh", "-F", config, "n1", "true"], timeout=60, check=False).returncode == 255
    finally:
        connection.delete_domain("a")
        connection.delete_network("net")
    assert connection.domain("a") is None
    connection.close()
