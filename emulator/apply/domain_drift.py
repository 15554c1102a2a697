"""Finds edits of a domain made outside the program. The metadata's digest does not show them: an edit keeps it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from emulator.apply.handler import Handle
from emulator.core.ports import DomainInfo, DomainRequest, DomainState
from emulator.plan.resources import Domain

SSH_CREDENTIAL = "lab.authorized_key"  # read by the image's /etc/tmpfiles.d/lab.conf

ACCOUNT = "account"
"""In a domain's handle: the label of the account that it was defined for; absent where libvirt chooses."""

_LONG_RECORDED = ("name", "disks", "networks", "kernel", "hostdevs")


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected properties of a domain. Fields that an older version did not record are None and not compared.

    Any of `public_keys` may be in its credentials: a guest keeps the key that it was started with until its next start.
    """

    memory_mib: int
    vcpus: int
    macs: tuple[str, ...]
    accelerated: bool
    console_log: str
    disks: tuple[str, ...] | None = None
    networks: tuple[str, ...] | None = None
    kernel: str | None = None
    initrd: str | None = None
    cmdline: str | None = None
    hostdevs: tuple[str, ...] | None = None
    extras: tuple[str, ...] | None = None
    public_keys: tuple[str, ...] | None = None
    account: str | None = None

    @classmethod
    def of(cls, resource: Domain, handle: Handle, public_key: str) -> Expected:
        """Expected properties according to the resource and the parts recorded in its handle."""

        def listed(key: str) -> tuple[str, ...] | None:
            return tuple(map(str, handle[key])) if isinstance(handle.get(key), (list, tuple)) else None

        def text(key: str) -> str | None:
            return handle[key] if isinstance(handle.get(key), str) else None

        key = text("public_key")
        return cls(
            memory_mib=resource.memory_mib,
            vcpus=resource.vcpus,
            macs=(resource.mac,),
            accelerated=resource.accelerated,
            console_log=resource.console_log,
            disks=listed("disks"),
            networks=listed("networks"),
            kernel=text("kernel"),
            initrd=text("initrd"),
            cmdline=text("cmdline"),
            hostdevs=listed("hostdevs"),
            extras=listed("extras"),
            public_keys=None if key is None else (key, public_key),
            account=text(ACCOUNT),
        )


def handle_of(request: DomainRequest) -> dict[str, Any]:
    """Handle of a domain: the parts it was assembled from that are not in its resource."""
    return {
        "name": request.name,
        "disks": [str(request.disk)],
        "networks": [request.network],
        "kernel": str(request.kernel),
        "initrd": str(request.initrd),
        "cmdline": " ".join(request.cmdline.split()),
        "hostdevs": sorted(device.address.lower() for device in request.hostdevs),
        "public_key": request.credentials[SSH_CREDENTIAL],
    }


def held_to(handle: Handle, recorded: Handle) -> dict[str, Any]:
    """The part of its handle that an existing domain is compared with.

    An older version recorded less and may have assembled the rest differently; no guest is restarted for that. The key
    of the running guest, its account and libvirt's additions stay as recorded.
    """
    whole = {**handle, **{key: recorded[key] for key in ("public_key", "extras", ACCOUNT) if key in recorded}}
    return {key: value for key, value in whole.items() if key in _LONG_RECORDED or key in recorded}


def drift_of(expected: Expected, info: DomainInfo) -> tuple[str, ...]:
    stopped = () if info.state is DomainState.RUNNING else (f"is {info.state.value}",)
    stored, live = settings_drift(expected, info)
    return (
        *stopped,
        *(f"has {text}" for text in stored),
        *(f"runs with {text}" for text in live if text not in stored),
    )


def settings_drift(expected: Expected, info: DomainInfo) -> tuple[list[str], list[str]]:
    """Differences in the stored description, which the next start uses, and in the running guest."""
    return _differences(expected, info), [] if info.live is None else _differences(expected, info.live)


def _differences(expected: Expected, info: DomainInfo) -> list[str]:
    found = [*_plain_differences(expected, info)]
    for what, seen, wanted in (
        ("kernel", info.kernel, expected.kernel),
        ("initrd", info.initrd, expected.initrd),
        ("kernel command line", info.cmdline, expected.cmdline),
        ("console log", info.console_log, expected.console_log),
        ("account", info.account, expected.account),
    ):
        if wanted not in (None, seen):
            found.append(f"the {what} {seen or 'none'} instead of {wanted}")
    for what, several, all_wanted in (
        ("disks", tuple(map(str, info.disks)), expected.disks),
        ("networks", info.networks, expected.networks),
        ("devices", tuple(sorted(device.address for device in info.hostdevs)), expected.hostdevs),
    ):
        if all_wanted not in (None, several):
            found.append(f"the {what} {_listed(several)} instead of {_listed(all_wanted)}")
    return [*found, *_access_differences(expected, info)]


def _plain_differences(expected: Expected, info: DomainInfo) -> Iterator[str]:
    if info.memory_mib != expected.memory_mib:
        yield f"{info.memory_mib} MiB of memory instead of {expected.memory_mib}"
    if info.vcpus != expected.vcpus:
        yield f"{info.vcpus} vCPUs instead of {expected.vcpus}"
    if info.macs != expected.macs:
        yield f"the network cards {_listed(info.macs)} instead of {_listed(expected.macs)}"
    if info.accelerated != expected.accelerated:
        yield f"KVM {_on(info.accelerated)} instead of {_on(expected.accelerated)}"


def _access_differences(expected: Expected, info: DomainInfo) -> Iterator[str]:
    if expected.public_keys is not None and not _lets_in(info, expected.public_keys):
        yield "other credentials than the lab's key"
    if expected.extras is not None:
        yield from (f"{text}, which the lab did not give it" for text in info.extras if text not in expected.extras)
        yield from (f"no longer {text}" for text in expected.extras if text not in info.extras)


def _on(value: bool) -> str:
    return "on" if value else "off"


def _lets_in(info: DomainInfo, keys: Sequence[str]) -> bool:
    return any(info.credentials == ((SSH_CREDENTIAL, key),) for key in keys)


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items) or "none"
