"""Where things are kept on the host. Pure path arithmetic: nothing here creates or reads a file.

Layout under the home directory (`/var/lib/hyperscaler` for root, else `$XDG_STATE_HOME/hyperscaler`;
`HYPERSCALER_HOME` overrides both):

    images/                      content-addressed golden images, shared by all labs
    labs/<lab>/journal.jsonl     write-ahead journal
    labs/<lab>/cluster.yaml      the file as last provisioned
    labs/<lab>/ssh/              key pair, known_hosts and ssh_config of the lab (0700)
    labs/<lab>/secrets/          MUNGE key and passwords (0700, files 0600)
    labs/<lab>/disks/            qcow2 overlays
    labs/<lab>/hypervisor/       the embedded libvirtd's own directories
    labs/<lab>/ansible/          inventory and runner artifacts
    labs/<lab>/console/          serial console logs of the guests
    labs/<lab>/logs/             one log file per run
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LabPaths:
    """Paths of one lab."""

    root: Path

    @property
    def journal(self) -> Path:
        return self.root / "journal.jsonl"

    @property
    def spec(self) -> Path:
        return self.root / "cluster.yaml"

    @property
    def ssh(self) -> Path:
        return self.root / "ssh"

    @property
    def ssh_key(self) -> Path:
        return self.ssh / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.ssh / "known_hosts"

    @property
    def ssh_config(self) -> Path:
        return self.ssh / "config"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def disks(self) -> Path:
        return self.root / "disks"

    @property
    def hypervisor(self) -> Path:
        return self.root / "hypervisor"

    @property
    def ansible(self) -> Path:
        return self.root / "ansible"

    @property
    def console(self) -> Path:
        return self.root / "console"

    @property
    def gpu(self) -> Path:
        """State of simulated boards."""
        return self.root / "gpu"

    @property
    def logs(self) -> Path:
        return self.root / "logs"


@dataclass(frozen=True, slots=True)
class Home:
    """The product's directory on this host."""

    root: Path

    @classmethod
    def system(cls) -> Home:
        """Where root keeps labs."""
        return cls(Path("/var/lib/hyperscaler"))

    @classmethod
    def default(cls) -> Home:
        """The home for this user and environment."""
        chosen = os.environ.get("HYPERSCALER_HOME")
        if chosen:
            return cls(Path(chosen).absolute())
        if os.geteuid() == 0:
            return cls.system()
        state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
        return cls(Path(state) / "hyperscaler")

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def labs(self) -> Path:
        return self.root / "labs"

    @property
    def locks(self) -> Path:
        """Lock files outlive the labs that they guard, so that unlinking one never races with a waiter."""
        return self.root / "locks"

    @property
    def gpu_owners(self) -> Path:
        """Ledger of the slices that labs have on this host's boards."""
        return self.root / "gpu-owners.json"

    @property
    def audit(self) -> Path:
        return self.root / "audit.jsonl"

    def lab(self, name: str) -> LabPaths:
        return LabPaths(self.labs / name)
