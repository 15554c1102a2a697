"""Where things are kept on the host. Pure path arithmetic: creates and reads no file, at most follows links.

Layout under the home directory (`/var/lib/hyperscaler` for root, else `$XDG_STATE_HOME/hyperscaler`;
`HYPERSCALER_HOME` overrides both):

    cache/                       replaceable data: Kubernetes' files, libvirt's knowledge of QEMU
    images/                      content-addressed golden images, shared by all labs
    guest-accounts.json          which guest's QEMU runs as which account
    gateway/                     host key, settings and supervisor of the host's gateway (0700)
    host/                        journal of `host prepare` and copies of the files that it changed (0700)
    nights/<lab>.json            nightly rebuilds of a lab: the last good one, and how long each took (0700)
    hypervisors/<lab>.json       the hypervisor that the lab is on
    trusted-signers              if present, whose signature an image or bundle needs (ssh allowed signers)
    upstream-digests.json        what add-ons and images of upstream were when they were first fetched
    labs/<lab>/journal.jsonl     write-ahead journal
    labs/<lab>/cluster.yaml      the file as last provisioned
    labs/<lab>/ssh/              key pair, certificate authority, known_hosts and ssh_config of the lab (0700)
    labs/<lab>/access.json       who may log in
    labs/<lab>/secrets/          MUNGE key, TLS authority, users' access files, open rotations (0700, files 0600)
    labs/<lab>/disks/            qcow2 overlays
    labs/<lab>/hypervisor/       the embedded libvirtd's own directories
    labs/<lab>/ansible/          inventory and runner artifacts
    labs/<lab>/console/          serial console logs of the guests
    labs/<lab>/logs/             one log file per run
    labs/<lab>/output/           map of GPU devices, for people
    labs/<lab>/exercises/        which exercises were started for whom (0700)
    labs/<lab>/supervisor/       the lab's services: which are to run, how they are, what they print (0700)
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from emulator.core.fs import finished_name


@dataclass(frozen=True, slots=True)
class LabPaths:
    """Paths of one lab."""

    #: Names of everything that the program puts into a lab's directory; add new ones here. `destroy` refuses to remove
    #: any other entry as foreign. `emulator/lab/recovery/foreign_files.py` has patterns for the contents.
    ENTRIES: ClassVar[frozenset[str]] = frozenset(
        {
            "journal.jsonl",
            "cluster.yaml",
            "access.json",
            "ssh",
            "secrets",
            "disks",
            "hypervisor",
            "ansible",
            "console",
            "gpu",
            "logs",
            "output",
            "supervisor",
            "exercises",
        }
    )

    root: Path

    def is_own(self, name: str) -> bool:
        """Whether an entry of the lab's directory belongs to the program: one of `ENTRIES`, one that is not
        finished, or a preserved damaged journal."""
        return name in self.ENTRIES or finished_name(name) in self.ENTRIES or name.startswith("journal.jsonl.damaged-")

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
    def rotation(self) -> Path:
        """New secrets about to replace old ones; absent most of the time."""
        return self.secrets / "rotation"

    @property
    def munge_key(self) -> Path:
        """The key of Slurm's realm."""
        return self.secrets / "munge.key"

    @property
    def tls(self) -> Path:
        """The lab's internal TLS authority, and `nodes/<node>.key` and `.crt`."""
        return self.secrets / "tls"

    @property
    def tls_key(self) -> Path:
        """Private key of the TLS authority; never copied to a node."""
        return self.tls / "ca.key"

    @property
    def tls_ca(self) -> Path:
        return self.tls / "ca.crt"

    @property
    def ssh_ca(self) -> Path:
        """Private key of the lab's ssh certificate authority."""
        return self.ssh / "ca_ed25519"

    @property
    def host_certificates(self) -> Path:
        """The nodes' host keys and their certificates: `<node>.pub` and `<node>-cert.pub`."""
        return self.ssh / "hosts"

    @property
    def access(self) -> Path:
        """Who may log in."""
        return self.root / "access.json"

    @property
    def handouts(self) -> Path:
        """One directory for each user: key, certificate, ssh configuration, kubeconfig."""
        return self.secrets / "access"

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
        """State of simulated GPUs."""
        return self.root / "gpu"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def output(self) -> Path:
        """Files written for people: the map of GPU devices."""
        return self.root / "output"

    @property
    def exercises(self) -> Path:
        """A file for each exercise and student: when it was started, how many hints were given."""
        return self.root / "exercises"

    @property
    def supervisor(self) -> Path:
        """Records and logs of the processes that stay running as long as the lab is there."""
        return self.root / "supervisor"


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
        """The home for this user and environment, as a path without links and `..`.

        The path ends up in disks, domains and names of namespaces, so that a home with two paths would be two homes.
        """
        chosen = os.environ.get("HYPERSCALER_HOME")
        if not chosen and os.geteuid() == 0:
            return cls.system()
        state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
        real = Path(os.path.realpath(chosen or Path(state) / "hyperscaler"))
        # /var/lib/hyperscaler may be a link to a larger disk; both paths are root's own home.
        return cls.system() if real == Path(os.path.realpath(cls.system().root)) else cls(real)

    @property
    def id(self) -> str:
        """Distinguishes this home's labs from labs of the same name in other homes: the path without links,
        percent-encoded for XML and messages. It is not stored in any file, so it cannot be lost."""
        return quote(os.fsencode(self.root.resolve()))

    @property
    def trusted_signers(self) -> Path:
        """Who may sign images and bundles, if this host requires signatures."""
        return self.root / "trusted-signers"

    @property
    def upstream_digests(self) -> Path:
        """What names of upstream's meant when they were first fetched; not in the cache, which may be removed."""
        return self.root / "upstream-digests.json"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def labs(self) -> Path:
        return self.root / "labs"

    @property
    def locks(self) -> Path:
        """Lock files of the labs; each goes with its lab."""
        return self.root / "locks"

    @property
    def host_locks(self) -> Path:
        """Locks that do not belong to one lab, in their own directory because a lab may have any of their names."""
        return self.locks / "host"

    @property
    def gpu_owners(self) -> Path:
        """Ledger of the labs' slices on this host's GPUs. Root uses the one of `system()` for labs of every home."""
        return self.root / "gpu-owners.json"

    @property
    def guest_accounts(self) -> Path:
        """Who has which account number. Root uses the one of `system()` for labs of every home."""
        return self.root / "guest-accounts.json"

    @property
    def preparation(self) -> Path:
        """Record of the changes that made this host ready for labs."""
        return self.root / "host"

    @property
    def gateway(self) -> Path:
        """Host key, settings and supervisor of the host's gateway. Root uses the one of `system()` for labs of every
        home."""
        return self.root / "gateway"

    @property
    def nights(self) -> Path:
        """What is kept of nightly rebuilds, by the name in the lab's file."""
        return self.root / "nights"

    @property
    def timings(self) -> Path:
        """How long each step took the last time; removing it costs the hints that slow steps print."""
        return self.root / "cache" / "timings.json"

    @property
    def qemu_capabilities(self) -> Path:
        """What embedded libvirtds found out about this host's QEMU; removing it costs the next lab some seconds."""
        return self.root / "cache" / "qemu"

    @property
    def hypervisors(self) -> Path:
        """The hypervisor of each lab; outside the labs' directories, so that it outlives the loss of one."""
        return self.root / "hypervisors"

    def hypervisor_of(self, lab: str) -> Path:
        return self.hypervisors / f"{lab}.json"

    @property
    def audit(self) -> Path:
        return self.root / "audit.jsonl"

    def lab(self, name: str) -> LabPaths:
        return LabPaths(self.labs / name)
