"""Who owns what of the host's GPUs.

A GPU instance carries no mark of its maker, nor does MIG mode, and a lab's journal can be lost; so the owner of
each is also written down in one file per host, next to the labs, not inside one. A claim is written before the
effect and struck out after the removal.

Labs of the default home are in the file by their names, those of other homes as `LAB in HOME`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from emulator.apply.lock import exclusive_lock, host_locks
from emulator.apply.state import read_boot_id
from emulator.core.errors import ConflictError, StateError
from emulator.core.fs import write_whole
from emulator.core.paths import Home
from emulator.core.units import natural

VERSION = 2  # 1 had neither boots nor a checksum
LAYOUT_SECONDS = 600.0
"""How long one may wait for another that works on the GPUs: a driver call of it may reset a GPU or hang."""
ENTRY_SECONDS = 60.0
"""How long one may wait for another that writes the file."""


def slice_key(pci_address: str, profile: str, start: int) -> str:
    """A GPU instance."""
    return f"{pci_address}/{profile}@{start}"


def slice_of(key: str) -> tuple[str, str, int] | None:
    """GPU, profile and start of a GPU instance; None for the key of something else."""
    pci_address, _, rest = key.partition("/")
    profile, at, start = rest.partition("@")
    place = natural(start) if at else None
    return None if place is None else (pci_address, profile, place)


def mode_key(pci_address: str) -> str:
    """That MIG mode of a GPU was off before: its owner switches it off again."""
    return f"{pci_address}/mig-mode"


def functions_key(pci_address: str) -> str:
    """That virtual functions of a GPU were off before: their owner disables them again."""
    return f"{pci_address}/virtual-functions"


def vgpus_on(pci_address: str) -> str:
    """What the keys of all vGPUs of a GPU begin with."""
    return f"{pci_address}/vgpu/"


def vgpu_key(pci_address: str, uuid: str, function: str) -> str:
    """A vGPU on a virtual function. In the vendor VFIO framework nothing on the host tells whose it is."""
    return f"{vgpus_on(pci_address)}{uuid}/{function}"


def whole_gpus(keys: Iterable[str]) -> tuple[str, ...]:
    """Those of the keys that stand for whole GPUs: PCI addresses."""
    return tuple(key for key in keys if "/" not in key)


_IN = " in "
"""Between a lab's name and its home; neither has blanks (`Home.id` is percent-encoded)."""


def release_command(owner: str) -> str:
    """The command that gives the GPUs of a lab back; `owner` may name its home."""
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
    """Whether what the key stands for can be there after a reboot of the host: slices and vGPUs cannot."""
    return "@" not in key and "/vgpu/" not in key


class GpuLedger:
    """Keys are those of the functions above, and `<pci address>` for a whole GPU; values are names of labs.

    A reboot takes slices and vGPUs away. The claims on them stay, as reservations of their places, but what is found
    there afterwards is not the lab's until it is made and claimed again (`holds`, `held`).

    A ledger is seen from one home: that one's labs go by their names alone here, those of others as `LAB in HOME`.

    Args:
        home: the id of the home it is seen from; empty for the default one, beside whose labs the ledger lies.
        layout: lock file of `layout()`, which labs of several homes share; else it lies beside the ledger.
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
        """What no other lab of the host is called: for a lab of another home than the default one, with that."""
        return f"{lab}{_IN}{self._home}" if self._home and _IN not in lab else lab

    def written(self, owner: str) -> str:
        """An owner as the file has it: what no other lab of the host is called."""
        return owner.removesuffix(f"{_IN}{Home(self._path.parent).id}") if _IN in owner else self.full_name(owner)

    def seen(self, written: str) -> str:
        """An owner of the file as it is called from this home."""
        if not self._home:
            return written
        if _IN not in written:
            return f"{written}{_IN}{Home(self._path.parent).id}"
        return written.removesuffix(f"{_IN}{self._home}")

    def homes(self) -> tuple[str, ...]:
        """Ids of the homes other than the default one that the file names, however damaged it is."""
        try:
            text = self._path.read_bytes().decode("ascii", "replace")
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise StateError(f"cannot be read: {error.strerror}", where=str(self._path)) from error
        return tuple(sorted(set(re.findall(rf'"[a-z0-9-]+{_IN}(/[^"\s]*)"', text))))

    def owner(self, key: str) -> str | None:
        """The lab that has the claim, of whatever boot."""
        claim = self.claims().get(key)
        return claim.lab if claim else None

    def holds(self, lab: str, key: str) -> bool:
        """Whether what is there is the lab's: its claim is of this boot, or of something that outlives boots."""
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
        """Write the lab down as the owner; it may be so already.

        Raises:
            ConflictError: another lab has it.
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
        """Strike the entry out if it is this lab's."""
        with self._locked():
            claims = self.claims()
            if key in claims and claims[key].lab == lab:
                self._write({name: claim for name, claim in claims.items() if name != key})

    def pass_on(self, key: str, lab: str, heir: str) -> None:
        """Make `heir` the owner of what was `lab`'s."""
        with self._locked():
            claims = self.claims()
            if key in claims and claims[key].lab == lab:
                self._write({**claims, key: Claim(heir, claims[key].boot)})

    def take_over(self, claims: Mapping[str, Claim]) -> None:
        """Add what nobody has a claim on yet."""
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
            LedgerDamagedError: its content cannot be believed.
            StateError: it is of a newer version, or cannot be read; it is never overwritten then.
        """
        try:
            data = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StateError(f"cannot be read: {error.strerror}", where=str(self._path)) from error
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"cannot be read: {error}") from error
        version = data.get("version") if isinstance(data, dict) else None
        if not isinstance(version, int):
            raise self._damaged("is no GPU ledger")
        # A flipped bit can make a version, too; then the rest of the file is as this version wrote it.
        if version > VERSION and data.get("sum") != _checksum({**data, "version": VERSION}):
            raise StateError(
                f"not a GPU ledger of this version: it is of format {version}, and this version understands {VERSION}",
                where=str(self._path),
                fix="use the version of hyperscaler that wrote it, or a newer one",
            )
        owners, boots = data.get("owners"), data.get("boots", {})
        if not isinstance(owners, dict) or not isinstance(boots, dict):
            raise self._damaged("is no GPU ledger")
        if version != 1 and data.get("sum") != _checksum(data):
            raise self._damaged("its checksum differs")
        return {str(key): Claim(self.seen(str(owner)), str(boots.get(key, ""))) for key, owner in owners.items()}

    def _damaged(self, why: str) -> LedgerDamagedError:
        fix = "the next provision or destroy of a lab with GPUs writes it anew from the labs' records"
        return LedgerDamagedError(f"the GPU ledger is damaged: {why}", where=str(self._path), fix=fix)

    def rewrite_damaged(self, claims: Mapping[str, Claim]) -> Path | None:
        """Put `claims` in the place of a ledger that is damaged, and keep that beside it; returns where. None when
        somebody else has done so in the meantime."""
        with self._locked():
            try:
                self.claims()
                return None
            except LedgerDamagedError:
                kept = self._path.with_name(f"{self._path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
                kept.unlink(missing_ok=True)
                os.link(self._path, kept)
                self._write(claims)
                return kept

    def _write(self, claims: Mapping[str, Claim]) -> None:
        data: dict[str, object] = {
            "version": VERSION,
            "owners": {key: self.written(claim.lab) for key, claim in claims.items()},
            "boots": {key: claim.boot for key, claim in claims.items()},
        }
        text = json.dumps({**data, "sum": _checksum(data)}, indent=1, sort_keys=True)
        write_whole(self._path, text.encode() + b"\n")

    def layout(self) -> AbstractContextManager[None]:
        """Exclusive over all threads and labs of the host: who looks for a free place takes it before others look.

        Raises:
            ConflictError: another one has not come to its end for LAYOUT_SECONDS; names its process.
        """
        return exclusive_lock(self._layout, purpose="layout of the GPUs", wait_seconds=LAYOUT_SECONDS)

    def _locked(self) -> AbstractContextManager[None]:
        lock = self._path.with_name(f".{self._path.name}.lock")
        return exclusive_lock(lock, purpose="GPU ledger", wait_seconds=ENTRY_SECONDS)


def _checksum(data: Mapping[str, object]) -> str:
    body = json.dumps({key: value for key, value in data.items() if key != "sum"}, sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def host_ledger(home: Home) -> GpuLedger:
    """The ledger of the host's own GPUs: one for all of root's homes, since they share the GPUs.

    It lies in root's default home, because it must outlive a reboot.
    """
    layout, default = host_locks(home) / "gpu-layout.lock", Home.system()
    if os.geteuid() != 0:
        return GpuLedger(home.gpu_owners, layout)
    return GpuLedger(default.gpu_owners, layout, home="" if home.id == default.id else home.id)
