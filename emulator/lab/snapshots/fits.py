"""Whether a lab can go back to a snapshot as it is now, and what has to be applied again afterwards. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from emulator.credentials.users import AccessBook
from emulator.lab.snapshots.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Refusals:
    """`wholly`: why the snapshot does not fit at all. `memory`: why only its disks do."""

    wholly: tuple[str, ...] = ()
    memory: tuple[str, ...] = ()


def refusals(taken: Manifest, now: Manifest, *, with_devices: Iterable[str] = ()) -> Refusals:
    """What keeps the lab, as `now` describes it, from going back to the snapshot `taken`.

    Args:
        taken: the snapshot.
        now: the lab at present, as a snapshot would be.
        with_devices: names of nodes that have devices of the host at present.
    """
    wholly = [*_changed_resources(taken.resources, now.resources)]
    if taken.file_sha256 != now.file_sha256 and not wholly:
        wholly.append("the lab's file has changed since")
    before = {node.name: node for node in taken.nodes}
    for node in now.nodes:
        old = before.get(node.name)
        if old is not None and old.boot != node.boot:
            wholly.append(f"{node.name} has another kernel, or other words for it, since it was made anew")
    memory = [*_memory(taken, now, tuple(with_devices))]
    for node in now.nodes:
        old = before.get(node.name)
        if old is not None and old.host_keys != node.host_keys:
            memory.append(f"{node.name} was made anew since, and has another host key")
    return Refusals(tuple(wholly), tuple(memory))


def _memory(taken: Manifest, now: Manifest, with_devices: tuple[str, ...]) -> Iterable[str]:
    if not taken.ram:
        yield "it was made with --disk-only"
    elif taken.machine != now.machine:
        yield f"the guests' memory was saved on another machine ({taken.machine}), this one is {now.machine}"
    for name in with_devices:
        yield f"{name} has a device of the host, whose state cannot be restored"


def _changed_resources(before: Mapping[str, str], after: Mapping[str, str]) -> Iterable[str]:
    changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
    if changed:
        more = f" and {len(changed) - 6} more" if len(changed) > 6 else ""
        yield f"the lab has other machines, networks or GPUs than then: {', '.join(changed[:6])}{more}"


def stale_tags(taken: Manifest, now: Manifest, book: AccessBook, *, at: float) -> tuple[str, ...]:
    """Tags of the playbooks' tasks that bring guests of that time to the present secrets and users.

    Args:
        taken: the snapshot.
        now: the lab at present.
        book: who may log in, at present.
        at: seconds since the epoch.
    """
    tags = [name for name in sorted(now.secrets) if taken.secrets.get(name) != now.secrets[name]]
    ended = any(taken.taken <= user.expires <= at for user in book.users)
    if taken.access_sha256 != now.access_sha256 or ended:
        tags.append("access")
    return tuple(tags)
