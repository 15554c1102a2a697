"""Reads a host below a root directory, `/` or a recorded one, into `HostReadings`. It translates and judges nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from emulator.adapters.nvidia.pci_sysfs import NVIDIA_VENDOR, SysfsPci, names, read_or
from emulator.core.pool import threads
from emulator.core.units import natural
from emulator.gpu.ports import DeviceHolder, FileAccess, PciDevice, VgpuFramework
from emulator.host.checks.system import CLOCKS
from emulator.host.facts import CGROUP_MEMORY, HostFacts, limited_memory
from emulator.host.framebuffers import framebuffer_on, parse_framebuffers
from emulator.host.parsers import (
    parse_apt_suites,
    parse_blacklist,
    parse_cgroup_mounts,
    parse_device_minor,
    parse_dpkg_status,
    parse_driver_version,
    parse_forward_drops,
    parse_modules,
    parse_open_files,
    parse_processor,
    parse_security_drivers,
    parse_version,
)
from emulator.host.platform import MARKERS, SystemSigns, parse_architecture
from emulator.host.prepare.steps import FILES, UNITS
from emulator.host.readings import (
    Cgroups,
    Confinement,
    DriverKind,
    HostProbe,
    HostReadings,
    HostUser,
    Iommu,
    Kernel,
    Limits,
    NvidiaDriver,
    PciGpu,
    Program,
)
from emulator.host.routes import reached_networks

DEVICES = ("/dev/kvm", "/dev/vhost-net", "/dev/net/tun")
PROGRAMS = ("libvirtd", "virtqemud", "qemu", "qemu-img", "dnsmasq", "ansible", "packer", "apt-get")
# Programs whose presence alone matters.
TOOLS = ("update-grub", "update-initramfs", "dracut")
_UNIT_DIRECTORIES = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
MODPROBE_DIRECTORIES = ("/etc/modprobe.d", "/run/modprobe.d", "/usr/local/lib/modprobe.d", "/usr/lib/modprobe.d")
PARAMETERS = ("kvm_intel/nested", "kvm_amd/nested", "kvm_amd/sev", "kvm_intel/tdx")
# Kernel arguments that keep modules from loading, obeyed by kmod, the kernel and the initramfs.
_BLACKLIST_ARGUMENTS = ("modprobe.blacklist", "module_blacklist", "rd.driver.blacklist")
# Processes whose presence decides something, and the first number of accounts that are not the system's.
_SERVICES = frozenset({*CLOCKS, "firewalld", "dockerd", "libvirtd", "virtqemud", "nvidia-vgpu-mgr", "nvidia-vgpud"})
_FIRST_PERSON = 1000
_RELEASE = "/proc/sys/kernel/osrelease"
_LIBVIRT_SOCKETS = ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")


class HostReader:
    """Reads one host.

    Args:
        files: the host's files.
        probe: the rest of it.
        home: the program's home directory, on whose file system the free space is counted.
        wanted_packages: the program's list of Debian packages, True for optional ones.
    """

    def __init__(
        self, files: FileAccess, probe: HostProbe, *, home: Path, wanted_packages: Mapping[str, bool] | None = None
    ) -> None:
        self._files, self._probe, self._home, self._wanted = files, probe, home, wanted_packages or {}
        self._pci = SysfsPci(files)

    def read(self) -> HostReadings:
        """Read everything once. Unreadable facts are empty in the result."""
        with threads(len(PROGRAMS) + 2, "programs") as pool:
            said = {name: pool.submit(self._probe.says, name) for name in (*PROGRAMS, *TOOLS)}
            processes = self._processes()
            facts = self._facts()
            docker = "dockerd" in processes or "docker0" in facts.interfaces
            loaded = self._loaded()
            # Only if it matters: asking loads the kernel's filter modules on hosts that do not have them loaded.
            iptables = docker or "iptable_filter" in loaded
            forward = pool.submit(self._probe.says, "iptables-forward") if iptables else None
            chains = pool.submit(self._probe.says, "nft-chains") if "nf_tables" in loaded else None
            gpus = self._gpus()
            user = self._user()
            release = self._pairs("/etc/os-release") or self._pairs("/usr/lib/os-release")
            answers = {name: future.result() for name, future in said.items()}
            policy = None if forward is None else forward.result()
            # Without the kernel's module there are no tables.
            tables = "" if chains is None else chains.result()
        return HostReadings(
            user=user,
            system=release.get("ID", ""),
            system_name=release.get("PRETTY_NAME", "an unknown system"),
            processor=parse_processor(self._read("/proc/cpuinfo")),
            kernel=self._kernel(loaded),
            devices={path: self._probe.device(path) for path in DEVICES},
            iommu=self._iommu(),
            cgroups=self._cgroups(),
            gpus=gpus,
            driver=self._driver(loaded, gpus, processes),
            holders=self._holders(gpus),
            sriov_manage=self._files.exists("/usr/lib/nvidia/sriov-manage"),
            programs={name: Program(parse_version(text)) for name, text in answers.items() if text is not None},
            packages=self._packages(),
            apt_suites=self._apt_suites(),
            wanted_packages=tuple(self._wanted),
            optional_packages=frozenset(name for name, optional in self._wanted.items() if optional),
            processes=processes,
            # With `hidepid`, and in some containers, users do not see others' processes, and so not the first one.
            processes_hidden=user.uid != 0 and not self._read("/proc/1/comm"),
            facts=facts,
            limits=self._limits(),
            forward_policy=_forward_policy(policy),
            forward_drops=None if tables is None else parse_forward_drops(tables),
            ufw=self._pairs("/etc/ufw/ufw.conf").get("ENABLED", "").lower() == "yes",
            bridge_filter=read_or(self._files, "/proc/sys/net/bridge/bridge-nf-call-iptables") == "1",
            system_libvirt=any(self._files.exists(path) for path in _LIBVIRT_SOCKETS),
            # systemd-timesyncd makes this file when it has set the clock.
            clock_synchronised=self._files.exists("/run/systemd/timesync/synchronized")
            or self._probe.clock_synchronised(),
            has_systemd=self._files.exists("/run/systemd/system"),
            accounts=frozenset(words[0] for words in self._records("/etc/passwd") if words[0]),
            groups={words[0]: _members(words) for words in self._records("/etc/group") if words[0]},
            units=self._units(),
            own_files=self._own_files(),
            architecture=parse_architecture(
                self._read("/proc/sys/kernel/arch"), self._read("/proc/cpuinfo"), self._read(_RELEASE)
            ),
            signs=SystemSigns(
                release,
                self._read(_RELEASE),
                frozenset(path for path in MARKERS if self._files.exists(path)),
                self._container(),
                "control_d" in self._read("/proc/xen/capabilities"),
            ),
            confinement=self._confinement(),
        )

    def _container(self) -> str:
        """The kind of container by the files that systemd, Podman, Docker and LXC leave; empty outside of one."""
        manager = self._read("/run/systemd/container") or self._read("/run/host/container-manager")
        if manager:
            return manager.split()[0]
        files = {"/run/.containerenv": "podman", "/.dockerenv": "docker", "/dev/.lxc": "lxc"}
        return next((name for path, name in files.items() if self._files.exists(path)), "")

    def _read(self, path: str) -> str:
        return read_or(self._files, path)

    def _pairs(self, path: str) -> dict[str, str]:
        pairs = (line.partition("=") for line in self._read(path).splitlines())
        return {key: value.strip("\"'") for key, sign, value in pairs if sign}

    def _user(self) -> HostUser:
        """The user of this process by the kernel's account, `/proc/self/status`."""
        status = dict(line.split(":", 1) for line in self._read("/proc/self/status").splitlines() if ":" in line)
        # The second of four is the effective one.
        uid = next((natural(word) for word in status.get("Uid", "").split()[1:2]), None) or 0
        numbers = {*status.get("Groups", "").split(), *status.get("Gid", "").split()[1:2]}
        name = next((words[0] for words in self._records("/etc/passwd") if words[2:3] == [str(uid)]), str(uid))
        groups = frozenset(words[0] for words in self._records("/etc/group") if words[2:3] and words[2] in numbers)
        return HostUser(uid, name, groups)

    def _records(self, path: str) -> list[list[str]]:
        """Lines of fields that are separated by colons, as in `/etc/passwd`."""
        return [line.split(":") for line in self._read(path).splitlines()]

    def _units(self) -> dict[str, bool]:
        wants = [name for name in names(self._files, _UNIT_DIRECTORIES[0]) if name.endswith(".wants")]
        return {
            unit: any(self._files.exists(f"{_UNIT_DIRECTORIES[0]}/{name}/{unit}") for name in wants)
            for unit in UNITS
            if any(self._files.exists(f"{directory}/{unit}") for directory in _UNIT_DIRECTORIES)
        }

    def _own_files(self) -> dict[str, str]:
        found = {}
        for path in FILES:
            with contextlib.suppress(OSError):
                found[path] = self._files.read(path)
        return found

    def _loaded(self) -> frozenset[str]:
        listed = {line.split()[0] for line in self._read("/proc/modules").splitlines() if line.split()}
        # sysfs also has the modules built into the kernel, if they have parameters or a version.
        here = {name.replace("-", "_") for name in (*listed, *names(self._files, "/sys/module"))}
        return frozenset(here | parse_modules(self._modules("builtin")))

    def _modules(self, table: str) -> str:
        release = self._read(_RELEASE)
        return self._read(f"/lib/modules/{release}/modules.{table}") if release else ""

    def _kernel(self, loaded: frozenset[str]) -> Kernel:
        arguments = tuple(self._read("/proc/cmdline").split())
        blacklisted: dict[str, str] = {}
        for word in arguments:
            name, _, value = word.partition("=")
            if name in _BLACKLIST_ARGUMENTS:
                blacklisted |= {module.replace("-", "_"): word for module in value.split(",")}
        for directory in MODPROBE_DIRECTORIES:
            for name in names(self._files, directory):
                if name.endswith(".conf"):
                    path = f"{directory}/{name}"
                    blacklisted |= dict.fromkeys(parse_blacklist(self._read(path)), path)
        parameters = {}
        for key in PARAMETERS:
            module, _, parameter = key.partition("/")
            text = self._read(f"/sys/module/{module}/parameters/{parameter}")
            if text:
                parameters[key] = text
        loadable = parse_modules(self._modules("dep"))
        return Kernel(arguments, loaded, loadable, parameters, blacklisted)

    def _iommu(self) -> Iommu:
        groups = len(names(self._files, "/sys/kernel/iommu_groups"))
        try:
            listed = self._files.listdir("/sys/firmware/acpi/tables")
        except FileNotFoundError:
            return Iommu((), groups)
        except OSError:
            return Iommu(None, groups)
        return Iommu(tuple(name for name in listed if name in ("DMAR", "IVRS")), groups)

    def _cgroups(self) -> Cgroups:
        return parse_cgroup_mounts(self._read("/proc/mounts"), self._read("/sys/fs/cgroup/cgroup.controllers"))

    def _confinement(self) -> Confinement:
        """See `Confinement`. The kernel's own files: /sys/fs/selinux is there only while SELinux is on."""
        try:
            drivers: tuple[str, ...] | None = parse_security_drivers(self._files.read("/etc/libvirt/qemu.conf"))
        except FileNotFoundError:
            drivers = ()
        except OSError:
            drivers = None
        return Confinement(
            apparmor=self._read("/sys/module/apparmor/parameters/enabled").strip() == "Y",
            selinux=self._read("/sys/fs/selinux/enforce").strip() == "1",
            profiles=self._files.exists("/etc/apparmor.d/libvirt/TEMPLATE.qemu"),
            drivers=drivers,
        )

    def _gpus(self) -> tuple[PciGpu, ...]:
        found = []
        framebuffers = parse_framebuffers(self._read("/proc/iomem"), self._read("/proc/fb"))
        for device in self._pci.devices(vendor=NVIDIA_VENDOR):
            if device.physfn is None and device.class_code.startswith("03"):
                group = () if device.iommu_group is None else self._pci.iommu_group(device.iommu_group)
                framework = self._pci.framework(device.address)
                console = framebuffer_on(device.address, device.boot_vga, framebuffers)
                found.append(PciGpu(device, _gpu_name(device), framework, group, self._node(device), console))
        return tuple(found)

    def _node(self, device: PciDevice) -> str:
        """The GPU's device node. NVIDIA's driver numbers nodes in its own order, and shows the number only in /proc."""
        if device.driver == "vfio-pci":
            return "" if device.iommu_group is None else f"/dev/vfio/{device.iommu_group}"
        minor = parse_device_minor(self._read(f"/proc/driver/nvidia/gpus/{device.address}/information"))
        return "" if minor is None else f"/dev/nvidia{minor}"

    def _driver(
        self, loaded: frozenset[str], gpus: tuple[PciGpu, ...], processes: frozenset[str]
    ) -> NvidiaDriver | None:
        """The loaded driver. Only the vGPU host driver has a VFIO module, a manager and vGPU types."""
        if "nvidia" not in loaded:
            return None
        version, is_open = parse_driver_version(self._read("/proc/driver/nvidia/version"))
        host = (
            "nvidia_vgpu_vfio" in loaded
            or "nvidia-vgpu-mgr" in processes
            or any(gpu.framework is not VgpuFramework.NONE for gpu in gpus)
        )
        return NvidiaDriver(version, DriverKind.VGPU_HOST if host else DriverKind.DATA_CENTRE, is_open)

    def _holders(self, gpus: tuple[PciGpu, ...]) -> tuple[DeviceHolder, ...]:
        devices = (name for name in names(self._files, "/dev") if name.startswith("nvidia") and name[6:].isdigit())
        nodes = [f"/dev/{name}" for name in devices]
        nodes += [f"/dev/vfio/{gpu.pci.iommu_group}" for gpu in gpus if gpu.pci.driver == "vfio-pci"]
        return self._pci.holders(*nodes) if nodes else ()

    def _packages(self) -> frozenset[str] | None:
        text = self._read("/var/lib/dpkg/status")
        return parse_dpkg_status(text) if text else None

    def _apt_suites(self) -> frozenset[str]:
        parts = "/etc/apt/sources.list.d"
        there = [f"{parts}/{name}" for name in sorted(names(self._files, parts))]
        lines = ["/etc/apt/sources.list", *(path for path in there if path.endswith(".list"))]
        paragraphs = [path for path in there if path.endswith(".sources")]
        return parse_apt_suites("\n".join(map(self._read, lines)), "\n\n".join(map(self._read, paragraphs)))

    def _processes(self) -> frozenset[str]:
        pids = (name for name in names(self._files, "/proc") if name.isdigit())
        found = ((pid, self._read(f"/proc/{pid}/comm")) for pid in pids)
        return frozenset(name for pid, name in found if name and not (name in _SERVICES and self._is_a_person_s(pid)))

    def _is_a_person_s(self, pid: str) -> bool:
        """Whether a process runs as an ordinary user. Users name their processes as they like, and a service that is
        only feigned must not be taken for one that runs."""
        lines = self._read(f"/proc/{pid}/status").splitlines()
        words = next((line.split() for line in lines if line.startswith("Uid:")), [])
        uid = next((natural(word) for word in words[1:2]), None)
        return uid is not None and uid >= _FIRST_PERSON

    def _facts(self) -> HostFacts:
        pairs = ([self._read(f"/sys/fs/cgroup/{name}") for name in pair] for pair in CGROUP_MEMORY)
        limit, used = next(filter(any, pairs), ("", ""))
        memory = limited_memory(self._read("/proc/meminfo"), limit=limit, used=used)
        return HostFacts(
            cores=self._cores(),
            memory_total_mib=memory.total,
            memory_available_mib=memory.available,
            memory_reserved_mib=memory.reserved,
            disk_free_gib=self._probe.disk_free_gib(self._home),
            networks=reached_networks(self._read("/proc/net/route"), self._read("/proc/net/ipv6_route")),
            interfaces=names(self._files, "/sys/class/net"),
        )

    def _cores(self) -> int:
        """CPUs that this process may use: `0-3,8` are five."""
        text = self._read("/proc/self/status")
        listed = next((line.split(":")[1] for line in text.splitlines() if line.startswith("Cpus_allowed_list:")), "")
        spans = ((natural(first), natural(last or first)) for first, _, last in _spans(listed))
        return sum(
            last - first + 1 for first, last in spans if first is not None and last is not None and last >= first
        )

    def _limits(self) -> Limits:
        soft, hard = parse_open_files(self._read("/proc/self/limits"))
        instances = self._read("/proc/sys/fs/inotify/max_user_instances")
        return Limits(soft, hard, natural(instances))


def _gpu_name(device: PciDevice) -> str:
    from emulator.gpu.catalog import find_gpu_by_pci  # it reads YAML: not where there is no GPU

    pci_id = f"{device.vendor}:{device.device}"
    model = find_gpu_by_pci(pci_id)
    return model.product_name if model else f"NVIDIA device {pci_id}"


def _spans(listed: str) -> Iterator[tuple[str, str, str]]:
    return (word.strip().partition("-") for word in listed.split(",") if word.strip())


def _members(words: list[str]) -> frozenset[str]:
    """Members in a line of `/etc/group`; users whose primary group it is are not listed there."""
    return frozenset(filter(None, words[3].split(","))) if len(words) > 3 else frozenset()


def _forward_policy(text: str | None) -> str | None:
    """`-P FORWARD DROP` -> `DROP`."""
    words = (text or "").split()
    return words[2] if words[:2] == ["-P", "FORWARD"] and len(words) > 2 else None
