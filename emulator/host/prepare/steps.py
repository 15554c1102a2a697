"""The plan that makes a host ready for labs: steps that are safe to take, and steps for a person. Pure.

A step is planned only if the host needs it, so that a second run plans nothing. The files that a step changes are known
before it is taken, so that all of them can be put back.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from emulator.host.checks.iommu import needed_arguments
from emulator.host.checks.processor import check_architecture
from emulator.host.checks.result import Level
from emulator.host.checks.system import CLOCKS, INOTIFY_INSTANCES, INOTIFY_KEY, INOTIFY_LEAST
from emulator.host.platform import system_kind
from emulator.host.prepare.manual import ManualStep, manual_steps
from emulator.host.prepare.modules import MODULES_FILE, NONE_TRIED, TriedModules, lacking_modules, modules_steps
from emulator.host.prepare.step import HEADER, Step
from emulator.host.readings import HostReadings

NOUVEAU_FILE = "/etc/modprobe.d/hyperscaler-nouveau.conf"
GRUB_FILE = "/etc/default/grub.d/60-hyperscaler.cfg"
SYSCTL_FILE = "/etc/sysctl.d/60-hyperscaler.conf"
FILES = (NOUVEAU_FILE, GRUB_FILE, MODULES_FILE, SYSCTL_FILE)

# Files that the tools of the shadow package write when a user joins a group, and the traces that they leave.
_GROUP_FILES = ("/etc/group", "/etc/gshadow")
_GROUP_TRACES = ("/etc/group-", "/etc/gshadow-", "/etc/.pwd.lock")
_GROUPS = ("libvirt", "kvm")
# Units of time services, the most likely one first.
_CLOCK_UNITS = ("chrony.service", "systemd-timesyncd.service", "ntpsec.service", "openntpd.service")
_VGPU_UNITS = ("nvidia-vgpud.service", "nvidia-vgpu-mgr.service")
UNITS = (*_CLOCK_UNITS, *_VGPU_UNITS)
# Seconds.
_SLOW = 1800.0


@dataclass(frozen=True, slots=True)
class PreparationPlan:
    """What to do to a host.

    Attributes:
        steps: in the order in which they are taken.
        reboot: reasons to reboot afterwards.
        manual: steps that only a person can take.
        notes: requests that are not fulfilled, and facts about this host that the user should know.
        refusal: why this host is not prepared at all, and what to do instead; empty if it is.
    """

    steps: tuple[Step, ...]
    reboot: tuple[str, ...] = ()
    manual: tuple[ManualStep, ...] = ()
    notes: tuple[str, ...] = field(default=())
    refusal: tuple[str, str] | None = None


PACKAGES, INITRAMFS, GRUB = "packages", "initramfs", "grub"
# An interrupted dpkg must be finished before apt installs anything.
FINISH_PACKAGES = ("dpkg", "--configure", "-a")


_OPTIONAL_PACKAGE = "package:"


def installs_packages(step_id: str) -> bool:
    return step_id == PACKAGES or step_id.startswith(_OPTIONAL_PACKAGE)


def plan_preparation(
    host: HostReadings,
    *,
    user: str | None,
    gpus: bool,
    leftover: Collection[str] = (),
    modules: TriedModules = NONE_TRIED,
) -> PreparationPlan:
    """The steps that this host needs.

    Args:
        user: the user who is to use libvirt and KVM without being root; None for none. Root needs no groups for it.
        gpus: whether to prepare for real GPUs, even if there is none yet.
        leftover: ids of steps that an earlier run planned and did not finish.
        modules: modules that earlier steps loaded or failed to load.
    """
    refusal = _refusal(host)
    if refusal is not None:
        return PreparationPlan((), notes=(f"{refusal[0]}; {refusal[1]}",), refusal=refusal)
    user = None if user == "root" else user
    files = [
        *modules_steps(host, modules, gpus=gpus),
        *_nouveau(host, gpus=gpus),
        *_grub_file(host, gpus=gpus),
        *_sysctl(host),
    ]
    files = [step for step in files if not step.path or host.own_files.get(step.path) != step.content]
    written = {step.path for step in files}
    steps = [
        *_packages(host, leftover),
        *files,
        *_account(host, user),
        *_services(host, gpus=gpus),
    ]
    if NOUVEAU_FILE in written or INITRAMFS in leftover:
        steps.extend(_initramfs(host))
    if GRUB_FILE in written or GRUB in leftover:
        steps.extend(_update_grub(host))
    there = written | host.own_files.keys()
    return PreparationPlan(
        tuple(steps),
        tuple(_reboot(host, there)),
        manual_steps(host, gpus=gpus),
        tuple(_notes(host, user, gpus=gpus, written=written)),
    )


def _refusal(host: HostReadings) -> tuple[str, str] | None:
    """Why a host is not prepared, and what to do instead; None for one that is."""
    architecture = check_architecture(host)
    if architecture.level is Level.FAIL:
        return f"this host is {architecture.found}", architecture.fix
    kind = system_kind(host.signs, host.packages)
    if kind is not None and kind.refused:
        return f"this host is {kind.name}, which is not prepared: {kind.why}", kind.fix
    return None


def _packages(host: HostReadings, leftover: Collection[str]) -> list[Step]:
    if host.packages is None or "apt-get" not in host.programs:
        return []
    missing = host.missing_packages
    needed = tuple(name for name in missing if name not in host.optional_packages)
    steps = [_install(PACKAGES, needed, "programs that labs need")] if needed else []
    # One step each: apt installs all packages of a command or none, and not every release has the optional ones.
    steps += [
        _install(f"{_OPTIONAL_PACKAGE}{name}", (name,), "optional: labs run without it", optional=True)
        for name in missing
        if name in host.optional_packages
    ]
    begun = sorted(filter(installs_packages, leftover))
    if steps:
        first = (*([FINISH_PACKAGES] if begun else []), ("apt-get", "update", "-q"))
        steps[0] = replace(steps[0], first=first)
    planned = {step.id for step in steps}
    return [*steps, *(_finish(step_id) for step_id in begun if step_id not in planned)]


def _install(step_id: str, names: tuple[str, ...], why: str, *, optional: bool = False) -> Step:
    return Step(
        step_id,
        f"install {', '.join(names)}",
        why,
        # A package of the host that conflicts with one of ours stays, and ours is not installed.
        argv=("apt-get", "install", "-y", "-q", "--no-remove", "--no-install-recommends", *names),
        timeout=_SLOW,
        lasting=f"the packages stay installed; to remove them: apt-get purge {' '.join(names)}",
        optional=optional,
    )


def _finish(step_id: str) -> Step:
    why = "an earlier run was interrupted while it installed them"
    return Step(step_id, "finish interrupted packages", why, argv=FINISH_PACKAGES, timeout=_SLOW)


def _nouveau(host: HostReadings, *, gpus: bool) -> list[Step]:
    elsewhere = host.kernel.blacklisted.get("nouveau")
    if not gpus or (elsewhere is not None and elsewhere != NOUVEAU_FILE):
        return []
    content = f"{HEADER}blacklist nouveau\noptions nouveau modeset=0\n"
    why = "nouveau would take the GPUs at boot"
    return [Step(f"file:{NOUVEAU_FILE}", f"write {NOUVEAU_FILE}", why, NOUVEAU_FILE, content)]


def _lacking_arguments(host: HostReadings) -> tuple[str, ...]:
    if host.iommu.groups:
        return ()
    return tuple(word for word in needed_arguments(host.processor.vendor) if word not in host.kernel.arguments)


def _grub_file(host: HostReadings, *, gpus: bool) -> list[Step]:
    lacking = _lacking_arguments(host)
    if not gpus or not lacking or "update-grub" not in host.programs:
        return []
    words = " ".join(needed_arguments(host.processor.vendor))
    content = f'{HEADER}GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT {words}"\n'
    why = "the IOMMU is off, and real GPUs reach guests only through it"
    return [Step(f"file:{GRUB_FILE}", f"write {GRUB_FILE} ({words})", why, GRUB_FILE, content)]


def _sysctl(host: HostReadings) -> list[Step]:
    limit = host.limits.inotify_instances
    if limit is None or limit >= INOTIFY_LEAST:
        return []
    key, why = INOTIFY_KEY, "every dnsmasq and libvirt daemon uses some inotify instances"
    setting = f"{key}={INOTIFY_INSTANCES}"
    content = f"{HEADER}{key} = {INOTIFY_INSTANCES}\n"
    return [
        Step(f"file:{SYSCTL_FILE}", f"write {SYSCTL_FILE}", why, SYSCTL_FILE, content),
        Step(
            f"sysctl:{key}",
            f"set {setting}",
            f"{why}, and {limit} are too few",
            argv=("sysctl", "-q", "-w", setting),
            sets=setting,
            undo=(("sysctl", "-q", "-w", f"{key}={limit}"),),
        ),
    ]


def _account(host: HostReadings, user: str | None) -> list[Step]:
    if user is None or user not in host.accounts:
        return []
    there = [name for name in _GROUPS if name in host.groups]
    lacking = [name for name in there if user not in host.groups[name]]
    if not lacking:
        return []
    return [
        Step(
            f"account:{user}",
            f"add {user} to {' and '.join(lacking)} (from the next login on)",
            "libvirt and KVM without being root",
            argv=("usermod", "-a", "-G", ",".join(lacking), user),
            touches=_GROUP_FILES,
            traces=_GROUP_TRACES,
            undo=tuple(("gpasswd", "-d", user, group) for group in lacking),
        )
    ]


def _services(host: HostReadings, *, gpus: bool) -> list[Step]:
    if not host.has_systemd:
        return []
    wanted: list[tuple[str, str]] = []
    # The kernel counts a clock as synchronised for hours after its service has ended, so that is not enough.
    if not CLOCKS.keys() & host.processes:
        clock = next((name for name in _CLOCK_UNITS if name in host.units), None)
        if clock is not None:
            wanted.append((clock, "no time service runs"))
    if gpus:
        names = (unit for unit in _VGPU_UNITS if unit in host.units)
        # The kernel keeps 15 characters of a process's name.
        stopped = (unit for unit in names if unit.removesuffix(".service")[:15] not in host.processes)
        wanted.extend((unit, "it makes and serves vGPUs") for unit in stopped)
    return [
        Step(
            f"service:{unit}",
            f"enable and start {unit}",
            why,
            argv=("systemctl", "enable", "--now", "-q", unit),
            # A unit that was enabled but not running is only stopped.
            undo=(("systemctl", *(("stop",) if host.units[unit] else ("disable", "--now", "-q")), unit),),
        )
        for unit, why in wanted
    ]


def _initramfs(host: HostReadings) -> list[Step]:
    if "update-initramfs" in host.programs:
        argv: tuple[str, ...] = ("update-initramfs", "-u", "-k", "all")
    elif "dracut" in host.programs:
        argv = ("dracut", "--regenerate-all", "--force")
    else:
        return []
    why = "it holds what is loaded first at boot"
    return [Step(INITRAMFS, "renew the initramfs", why, argv=argv, timeout=_SLOW, undo=(argv,))]


def _update_grub(host: HostReadings) -> list[Step]:
    argv = ("update-grub",)
    written = "/boot/grub/grub.cfg"
    traces = (f"{written}.new",)  # what update-grub leaves behind when it fails
    why = "GRUB reads the kernel's arguments from there"
    if "update-grub" not in host.programs:
        return []
    return [
        Step(
            GRUB,
            f"renew {written}",
            why,
            argv=argv,
            timeout=_SLOW,
            touches=(written,),
            traces=traces,
            undo=(argv,),
        )
    ]


def _reboot(host: HostReadings, there: Collection[str]) -> list[str]:
    why = []
    if GRUB_FILE in there and (lacking := _lacking_arguments(host)):
        why.append(f"the kernel gets {' '.join(lacking)} at its next boot")
    if "nouveau" in host.kernel.loaded and (NOUVEAU_FILE in there or "nouveau" in host.kernel.blacklisted):
        why.append("nouveau is loaded now, and stays away from the next boot on")
    return why


def _notes(host: HostReadings, user: str | None, *, gpus: bool, written: Collection[str]) -> list[str]:
    kind = system_kind(host.signs, host.packages)
    notes = [] if kind is None else [f"this host is {kind.name}: {kind.why}; {kind.fix}"]
    notes += lacking_modules(host, gpus=gpus)
    if user is not None and user not in host.accounts:
        notes.append(f"there is no user {user} in /etc/passwd, so no user is added to groups")
    elif user is not None and (absent := [name for name in _GROUPS if name not in host.groups]):
        notes.append(f"there is no group {' or '.join(absent)}: {user} cannot be added")
    lacking = _lacking_arguments(host)
    if gpus and lacking and "update-grub" not in host.programs:
        notes.append(f"no GRUB here: give the kernel {' '.join(lacking)} in this machine's boot loader")
    renewer = {"update-initramfs", "dracut"} & host.programs.keys()
    if NOUVEAU_FILE in written and not renewer:
        notes.append("no update-initramfs or dracut here: renew the initramfs by hand if it holds nouveau")
    if host.packages is None:
        notes.append(f"{host.system_name} has no dpkg: install what scripts/system-packages.txt lists by hand")
    return notes
