"""Who owns what of the host's GPUs.

Neither a GPU instance nor MIG mode carries a mark of its owner, and a lab's journal can be lost. The owners are
therefore also recorded in one file per host, outside the labs' directories. A claim is written before the effect and
struck out after the removal.

The file names labs of the default home by their names, labs of other homes as `LAB in HOME`.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from emulator.apply.ledger_file import found_in, is_newer, is_whole, move_aside, read_ledger, write_ledger
from emulator.apply.lock import exclusive_lock, host_locks
from emulator.core.errors import ConflictError, StateError
from emulator.core.paths import Home
from emulator.core.trust.identity import read_boot_id
from emulator.core.units import natural

VERSION = 2  # version 1 had neither boots nor a checksum
LAYOUT_SECONDS = 600.0
"""Seconds to wait for another process that works on the GPUs: its driver call may reset a GPU or hang."""
ENTRY_SECONDS = 60.0
"""Seconds to wait for another process that writes the file."""


def slice_key(pci_address: str, profile: str, start: int) -> str:
    """Key of a GPU instance."""
    return f"{pci_address}/{profile}@{start}"


def slice_of(key: str) -> tuple[str, str, int] | None:
    """GPU, profile and start by the key of a GPU instance; None for any other key."""
    pci_address, _, rest = key.partition("/")
    profile, at, start = rest.partition("@")
    place = natural(start) if at else None
    return None if place is None else (pci_address, profile, place)


def mode_key(pci_address: str) -> str:
    """Key of MIG mode that was off before: its owner switches it off again."""
    return f"{pci_address}/mig-mode"


def functions_key(pci_address: str) -> str:
    """Key of virtual functions that were off before: their owner disables them again."""
    return f"{pci_address}/virtual-functions"


def vgpus_on(pci_address: str) -> str:
    """The common beginning of the keys of a GPU's vGPUs."""
    return f"{pci_address}/vgpu/"


def vgpu_key(pci_address: str, uuid: str, function: str) -> str:
    """Key of a vGPU on a virtual function. In the vendor VFIO framework only this key identifies its owner."""
    return f"{vgpus_on(pci_address)}{uuid}/{function}"


def whole_gpus(keys: Iterable[str]) -> tuple[str, ...]:
    """The keys of whole GPUs among `keys`: PCI addresses."""
    return tuple(key for key in keys if "/" not in key)


_IN = " in "
"""Separates a lab's name and its home; neither has blanks (`Home.id` is percent-encoded)."""


def release_command(owner: str) -> str:
    """The command that releases the GPUs of a lab; `owner` may name its home."""
    lab, _, home = owner.partition(_IN)
    release = f"hyperscaler gpu release {lab}"
    return f"HYPERSCALER_HOME={shlex.quote(unquote(home))} {release}" if home else release


class LedgerDamagedError(StateError):
    """The ledger's content cannot be trusted.

    `emulator.lab.recovery.ledger_repair` rewrites it from the labs' records.
    """


@dataclass(frozen=True, slots=True)
class Claim:
    """A lab's claim on a key. `boot`: when it was made, by the kernel's boot id; empty where that is unknown."""

    lab: str
    boot: str = ""


def outlives_boots(key: str) -> bool:
    """Whether the key's object survives a reboot of the host: slices and vGPUs do not."""
    return "@" not in key and "/vgpu/" not in key


class GpuLedger:
    """Owners of GPUs and their parts. Keys come from the functions above, or are the PCI address of a whole GPU.

    A reboot removes slices and vGPUs. The claims on them stay as reservations of their places, but a slice found there
    afterwards is not the lab's until the lab makes and claims it again (`holds`, `held`).

    A ledger is seen from one home: its methods name labs of that home by their names alone, others as `LAB in HOME`.

    Args:
        home: the id of the home that it is seen from; empty for the default home, in which the ledger lies.
        layout: lock file of `layout()`, shared by labs of several homes; by default next to the ledger.
        boot_id: the host's boot id.
    """

    def __init__(
        self,
        path: Path,
        layout: Path | None = None,
        boot_id: Callable[[], str] = read_boot_id,
        *,
        home: str = "",
    ) -> None:
        self._path = path
        self._home = home
        self._layout = layout or path.with_name(f".{path.name}.layout")
        self.boot_id = boot_id

    @property
    def path(self) -> Path:
        return self._path

    def full_name(self, lab: str) -> str:
        """The lab's name that is unique on the host: it includes the home unless that is the default one."""
        return f"{lab}{_IN}{self._home}" if self._home and _IN not in lab else lab

    def written(self, owner: str) -> str:
        """An owner as written in the file: the name that is unique on the host."""
        return owner.removesuffix(f"{_IN}{Home(self._path.parent).id}") if _IN in owner else self.full_name(owner)

    def seen(self, written: str) -> str:
        """An owner in the file, as named from this home."""
        if not self._home:
            return written
        if _IN not in written:
            return f"{written}{_IN}{Home(self._path.parent).id}"
        return written.removesuffix(f"{_IN}{self._home}")

    def homes(self) -> tuple[str, ...]:
        """Ids of the non-default homes that the file names, however damaged it is."""
        return found_in(self._path, rf'"[a-z0-9-]+{_IN}(/[^"\s]*)"')

    def owner(self, key: str) -> str | None:
        """The lab that has the claim, from this boot or an earlier one."""
        claim = self.claims().get(key)
        return claim.lab if claim else None

    def holds(self, lab: str, key: str) -> bool:
        """Whether the present object is the lab's: its claim is of this boot, or the object survives reboots."""
        claim = self.claims().get(key)
        return claim is not None and claim.lab == lab and self._in_effect(key, claim)

    def held(self, lab: str) -> tuple[str, ...]:
        """All keys that the lab `holds`."""
        return tuple(key for key, owner in self.in_effect().items() if owner == lab)

    def in_effect(self) -> dict[str, str]:
        """Owners by key, without reservations from before a reboot."""
        return {key: claim.lab for key, claim in self.claims().items() if self._in_effect(key, claim)}

    def _in_effect(self, key: str, claim: Claim) -> bool:
        return outlives_boots(key) or claim.boot in ("", self.boot_id())

    def claim(self, key: str, lab: str) -> None:
        """Record the lab as the owner; it may be the owner already.

        Raises:
            ConflictError: another lab is the owner.
        """
        with self._locked():
            claims = self.claims()
            there = claims.get(key)
            if there is not None and there.lab != lab:
                raise ConflictError(
                    f"{key} belongs to lab {there.lab}",
                    where=str(self._path),
                    fix=f"take another GPU, or {release_command(there.lab)}",
                )
            wanted = Claim(lab, self.boot_id())
            if there != wanted:
                self._write({**claims, key: wanted})

    def release(self, key: str, lab: str) -> None:
        """Strike out the claim if it is this lab's."""
        with self._locked():
            claims = self.claims()
            if key in claims and claims[key].lab == lab:
                self._write({name: claim for name, claim in claims.items() if name != key})

    def pass_on(self, key: str, lab: str, heir: str) -> None:
        """Pass the claim from `lab` to `heir`."""
        with self._locked():
            claims = self.claims()
            if key in claims and claims[key].lab == lab:
                self._write({**claims, key: Claim(heir, claims[key].boot)})

    def take_over(self, claims: Mapping[str, Claim]) -> None:
        """Add claims on keys that have no owner yet."""
        with self._locked():
            there = self.claims()
            if not claims.keys() <= there.keys():
                self._write({**claims, **there})

    def of(self, lab: str) -> tuple[str, ...]:
        """All keys that the lab has claimed, reservations from before a reboot included."""
        return tuple(key for key, owner in self.read().items() if owner == lab)

    def read(self) -> dict[str, str]:
        """Owners of all entries, reservations from before a reboot included; raises as `claims` does."""
        return {key: claim.lab for key, claim in self.claims().items()}

    def claims(self) -> dict[str, Claim]:
        """All entries.

        Raises:
            LedgerDamagedError: the content cannot be trusted.
            StateError: the file is of a newer version or cannot be read; it is never overwritten then.
        """
        try:
            data = read_ledger(self._path)
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise self._damaged(f"cannot be read: {error}") from error
        version = data.get("version") if isinstance(data, dict) else None
        if not isinstance(version, int):
            raise self._damaged("is not a GPU ledger")
        if is_newer(data, VERSION):
            raise StateError(
                f"not a GPU ledger of this version: it is of format {version}, and this version understands {VERSION}",
                where=str(self._path),
                fix="use the version of hyperscaler that wrote it, or a newer one",
            )
        owners, boots = data.get("owners"), data.get("boots", {})
        if not isinstance(owners, dict) or not isinstance(boots, dict):
            raise self._damaged("is not a GPU ledger")
        if version != 1 and not is_whole(data):
            raise self._damaged("its checksum differs")
        return {str(key): Claim(self.seen(str(owner)), str(boots.get(key, ""))) for key, owner in owners.items()}

    def _damaged(self, why: str) -> LedgerDamagedError:
        fix = "the next provision or destroy of a lab with GPUs writes it anew from the labs' records"
        return LedgerDamagedError(f"the GPU ledger is damaged: {why}", where=str(self._path), fix=fix)

    def rewrite_damaged(self, claims: Mapping[str, Claim]) -> Path | None:
        """Replace a damaged ledger by `claims` and keep the damaged file next to it; returns its path.

        None if another process has replaced it in the meantime.
        """
        with self._locked():
            try:
                self.claims()
                return None
            except LedgerDamagedError:
                kept = move_aside(self._path)
                self._write(claims)
                return kept

    def _write(self, claims: Mapping[str, Claim]) -> None:
        data: dict[str, object] = {
            "version": VERSION,
            "owners": {key: self.written(claim.lab) for key, claim in claims.items()},
            "boots": {key: claim.boot for key, claim in claims.items()},
        }
        write_ledger(self._path, data)

    def layout(self) -> AbstractContextManager[None]:
        """Exclusive lock over all threads and labs of the host, held from looking for a free place to claiming it.

        Raises:
            ConflictError: another process has held it for LAYOUT_SECONDS; names the process.
        """
        return exclusive_lock(self._layout, purpose="layout of the GPUs", wait_seconds=LAYOUT_SECONDS)

    def _locked(self) -> AbstractContextManager[None]:
        lock = self._path.with_name(f".{self._path.name}.lock")
        return exclusive_lock(lock, purpose="GPU ledger", wait_seconds=ENTRY_SECONDS)


def host_ledger(home: Home) -> GpuLedger:
    """The ledger of the host's own GPUs: one for all of root's homes, since they share the GPUs.

    It lies in root's default home, because it must outlive a reboot.
    """
    layout, default = host_locks(home) / "gpu-layout.lock", Home.system()
    if os.geteuid() != 0:
        return GpuLedger(home.gpu_owners, layout)
    return GpuLedger(default.gpu_owners, layout, home="" if home.id == default.id else home.id)
