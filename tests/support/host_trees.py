"""Hosts as data: a tree of `/proc`, `/sys` and `/etc` made from a small table in tests/unit/host/trees/NAME.yaml.

Keys of a table: `extends` (another table, added to), `remove` (paths of it that this host lacks), `files`, `devices`
(node -> what opening it gives), `programs` (name -> what it prints; null: not installed), `processes` (pid -> name),
`holds` (pid -> device nodes it has open), `modules`, `interfaces`, `groups` (of the user), `uid`, `iommu_tables`,
`pci` (a row for each function), `packages` (`all`, or those of the product's list that are missing), `provides` (other
installed packages -> what each provides) and `disk_free_gib`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from emulator.adapters.system.host_files import RecordedFiles
from emulator.adapters.system.host_probe import RecordedProbe
from emulator.adapters.system.host_readings import HostReader
from emulator.host.readings import HostReadings
from emulator.host.wanted_packages import wanted_packages

TREES = Path(__file__).resolve().parents[1] / "unit" / "host" / "trees"
NAMES = tuple(sorted(path.stem for path in TREES.glob("*.yaml") if path.stem != "base"))

_PASSWD = "root:x:0:0:root:/root:/bin/bash\nada:x:1000:1000::/home/ada:/bin/bash\n"
_GROUPS = {"root": 0, "kvm": 104, "libvirt": 109, "ada": 1000}


def table(name: str) -> dict[str, Any]:
    """The table with what it extends; mappings are merged, all else is replaced."""
    own: dict[str, Any] = yaml.safe_load((TREES / f"{name}.yaml").read_text())
    if "extends" not in own:
        return own
    merged = table(own.pop("extends"))
    for key, value in own.items():
        merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
    return merged


def plant(root: Path, name: str, **changes: Any) -> Path:
    """Make the host's tree below `root`; `changes` are merged into its table."""
    host = table(name)
    for key, value in changes.items():
        host[key] = {**host.get(key, {}), **value} if isinstance(value, dict) else value
    files = {**host.get("files", {}), **_computed(host)}
    for path in host.get("remove", ()):
        files.pop(path, None)
    for path, text in files.items():
        _write(root, path, text)
    for row in host.get("pci", ()):
        _pci(root, row)
    for pid, nodes in host.get("holds", {}).items():
        for number, node in enumerate(nodes):
            _write(root, node, "usable")
            _link(root, f"/proc/{pid}/fd/{number}", node)
    return root


def texts(name: str) -> dict[str, str]:
    """The files of a host by their paths; a link is `->` and where it leads."""
    found = {}
    with TemporaryDirectory() as directory:
        root = plant(Path(directory), name)
        for path in sorted(root.rglob("*")):
            if path.is_symlink():
                found[f"/{path.relative_to(root)}"] = f"->{path.readlink()}"
            elif path.is_file():
                found[f"/{path.relative_to(root)}"] = path.read_text()
    return found


def read(root: Path) -> HostReadings:
    """The readings of a planted tree."""
    reader = HostReader(
        RecordedFiles(root), RecordedProbe(root), home=Path("/var/lib/hyperscaler"), wanted_packages=wanted_packages()
    )
    return reader.read()


def _computed(host: Mapping[str, Any]) -> dict[str, str]:
    uid = host.get("uid", 0)
    numbers = " ".join(str(_GROUPS[name]) for name in host.get("groups", ()))
    cpus = f"0-{host.get('cores', 16) - 1}"
    files = {
        "/etc/passwd": _PASSWD,
        "/etc/group": "".join(f"{name}:x:{number}:\n" for name, number in _GROUPS.items()),
        "/proc/self/status": f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{uid}\t{uid}\t{uid}\t{uid}\n"
        f"Groups:\t{numbers} \nCpus_allowed_list:\t{cpus}\n",
        "/proc/modules": "".join(f"{name} 16384 0 - Live 0x0\n" for name in host.get("modules", ())),
        "/recorded/disk_free_gib": str(host.get("disk_free_gib", 400)),
    }
    files |= {path: answer for path, answer in host.get("devices", {}).items() if answer}
    files |= {f"/recorded/programs/{name}": text for name, text in host.get("programs", {}).items() if text is not None}
    files |= {f"/proc/{pid}/comm": f"{name}\n" for pid, name in host.get("processes", {}).items()}
    files |= {f"/sys/class/net/{name}/ifindex": "1\n" for name in host.get("interfaces", ())}
    files |= {f"/sys/firmware/acpi/tables/{name}": "\n" for name in ("FACP", *host.get("iommu_tables", ()))}
    missing = host.get("packages", "all")
    if missing is not None:
        there = [name for name in wanted_packages() if missing == "all" or name not in missing]
        paragraphs = (f"Package: {name}\nStatus: install ok installed\nPriority: optional\n" for name in there)
        more = (
            f"Package: {name}\nStatus: install ok installed\nPriority: optional\nVersion: 1\n"
            + (f"Provides: {provided}\n" if provided else "")
            for name, provided in host.get("provides", {}).items()
        )
        files["/var/lib/dpkg/status"] = "\n".join((*paragraphs, *more))
    return files


def _pci(root: Path, row: Mapping[str, Any]) -> None:
    """`{at, id: vendor:device, class, driver, group, vfs: [total, now], vgpu: mdev|vendor, of: physical function}`."""
    address = row["at"]
    base = f"/sys/bus/pci/devices/{address}"
    vendor, device = row["id"].split(":")
    for name, digits in {"vendor": vendor, "device": device, "class": row.get("class", "030200")}.items():
        _write(root, f"{base}/{name}", f"0x{digits}\n")
    if "driver" in row:
        _link(root, f"{base}/driver", f"/sys/bus/pci/drivers/{row['driver']}")
    if "group" in row:
        _link(root, f"{base}/iommu_group", f"/sys/kernel/iommu_groups/{row['group']}")
        _write(root, f"/sys/kernel/iommu_groups/{row['group']}/devices/{address}/at", "\n")
    if "vfs" in row:
        total, now = row["vfs"]
        _write(root, f"{base}/sriov_totalvfs", f"{total}\n")
        _write(root, f"{base}/sriov_numvfs", f"{now}\n")
    if "of" in row:
        physical, number = row["of"]
        _link(root, f"{base}/physfn", f"../{physical}")
        _link(root, f"/sys/bus/pci/devices/{physical}/virtfn{number}", f"../{address}")
    if row.get("vgpu") == "vendor":
        _write(root, f"{base}/nvidia/current_vgpu_type", "0\n")
    if row.get("vgpu") == "mdev":
        _write(root, f"/sys/class/mdev_bus/{address}/mdev_supported_types/nvidia-699/available_instances", "1\n")


def _write(root: Path, path: str, text: str) -> None:
    target = root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


def _link(root: Path, path: str, to: str) -> None:
    link = root / path.lstrip("/")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(to)
