"""Free numbers for guests' accounts on this host, and what still belongs to one."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import secrets
import signal
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from emulator.core.errors import HostNotFitError
from emulator.core.ports.guest_accounts import RESERVED, is_reserved
from emulator.core.trust.processes import end, holding, process_ids, running_thread, status_fields
from emulator.core.trust.users import users_of

WORLD_WRITABLE = tuple(map(Path, ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock")))  # noqa: S108 - read only
"""Where any user can leave files, a guest that broke out of QEMU included."""

_ROUNDS, _KILL_SECONDS = 5, 5.0

_MOST_ENTRIES = 1_000_000
"""Files that are looked at for traces of an account, some seconds. Where there are more, the number is retired."""


class HostAccountNumbers:
    """`AccountNumbers` of this host.

    Args:
        labs: directories of labs, whose files may belong to accounts that the ledger has lost.
        places: where any user can leave files.
        proc, etc: `/proc` and `/etc`.
        below: a random number below its argument.
    """

    def __init__(
        self,
        labs: Callable[[], Iterable[Path]] = tuple,
        *,
        places: Iterable[Path] = WORLD_WRITABLE,
        proc: Path = Path("/proc"),
        etc: Path = Path("/etc"),
        below: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        self._labs = labs
        self._places = tuple(places)
        self._proc = proc
        self._etc = etc
        self._below = below
        self._seen: frozenset[int] | None = None

    def draw(self, held: Collection[int]) -> int:
        """See `AccountNumbers.draw`. At random: where the ledger was lost, a number of before hardly comes again, and
        no guest can guess the number of the next one."""
        seen = self._in_use()
        subordinate = tuple(self._subordinate())
        for first, last in RESERVED:
            if not self._exists(first, last):
                continue
            size = last - first + 1
            start = self._below(size)
            for offset in range(size):
                number = first + (start + offset) % size
                taken = any(low <= number < low + count for low, count in subordinate)
                if not (taken or number in held or number in seen or _has_name(number)):
                    return number
        ranges = " and ".join(f"{first} to {last}" for first, last in RESERVED)
        raise HostNotFitError(
            f"no number is free for a guest's account; those of {ranges} are in use, or do not exist in this container",
            where="/proc/self/uid_map",
            fix="give the container more users, or destroy labs that nobody needs",
        )

    def end(self, numbers: Collection[int]) -> None:
        """See `AccountNumbers.end`. Always on the real host: the signals go there, whatever `proc` is.

        A guest that broke out may have left QEMU's process, its namespaces and its control group, but not its user.
        """
        wanted = frozenset(number for number in numbers if is_reserved(number) and not _has_name(number))

        def is_theirs(pid: int) -> bool:
            return bool(users_of(pid) & wanted)

        for _ in range(_ROUNDS):  # one of them may start another meanwhile
            with holding(filter(is_theirs, process_ids()), is_theirs) as held:
                if not held:
                    return
                end(held, ((signal.SIGKILL, _KILL_SECONDS),))

    def traces(self, numbers: Collection[int]) -> Mapping[int, str]:
        """See `AccountNumbers.traces`."""
        found: dict[int, str] = {}
        wanted = frozenset(numbers)
        try:
            for what, ids in (*self._processes(), *self._shared_memory(), *self._left_files(wanted)):
                for number in ids & wanted:
                    found.setdefault(number, what)
        except _UnseenError as error:
            for number in wanted:
                found.setdefault(number, f"perhaps a file: {error}")
        return found

    # ---------------------------------------------------------------- who has numbers
    def _in_use(self) -> frozenset[int]:
        """Numbers of processes and of files in labs' directories; looked at once, since they are drawn at random."""
        if self._seen is None:
            running = (number for _, ids in self._processes() for number in ids)
            self._seen = frozenset((*running, *(number for lab in self._labs() for number in _owners_in(lab))))
        return self._seen

    def _exists(self, first: int, last: int) -> bool:
        """Whether users and groups of these numbers exist here: in a user namespace most do not."""
        return all(self._mapped(name, first, last) for name in ("uid_map", "gid_map"))

    def _mapped(self, name: str, first: int, last: int) -> bool:
        with contextlib.suppress(OSError, ValueError):
            for line in (self._proc / "self" / name).read_text().splitlines():
                inside, _, count = map(int, line.split())
                if inside <= first and last < inside + count:
                    return True
        return False

    def _subordinate(self) -> Iterator[tuple[int, int]]:
        """First number and count of the ranges that users may give to containers: see subuid(5)."""
        for name in ("subuid", "subgid"):
            with contextlib.suppress(OSError):
                for line in (self._etc / name).read_text(errors="replace").splitlines():
                    with contextlib.suppress(ValueError):
                        _, first, count = line.split(":")
                        yield int(first), int(count)

    # ---------------------------------------------------------------- what belongs to numbers
    def _processes(self) -> Iterator[tuple[str, frozenset[int]]]:
        """Each process, in words, with the numbers of its users and groups: see proc_pid_status(5)."""
        for pid in process_ids(proc=self._proc):
            entry = self._proc / str(pid)
            with contextlib.suppress(OSError, ValueError):  # it ended
                if running_thread(pid, proc=self._proc) is None:
                    continue
                fields = status_fields(entry)
                words = (word for name in ("Uid", "Gid", "Groups") for word in fields.get(name, "").split())
                yield f"process {pid}", frozenset(map(int, words))

    def _shared_memory(self) -> Iterator[tuple[str, frozenset[int]]]:
        """System V objects, which outlive their processes: see proc_sysvipc(5)."""
        for kind, what in (("shm", "shared memory"), ("sem", "semaphores"), ("msg", "a message queue")):
            with contextlib.suppress(OSError, ValueError):
                head, *rows = (self._proc / "sysvipc" / kind).read_text().splitlines()
                columns = [head.split().index(name) for name in ("uid", "gid", "cuid", "cgid")]
                for row in rows:
                    words = row.split()
                    yield f"{what} of System V ({words[1]})", frozenset(int(words[column]) for column in columns)

    def _left_files(self, wanted: frozenset[int]) -> Iterator[tuple[str, frozenset[int]]]:
        """Files of `wanted` users and groups in places where any user may leave some.

        Raises:
            _UnseenError: not all of them could be looked at.
        """
        left = _MOST_ENTRIES
        pending = [str(place) for place in self._places]
        while pending:
            for entry in _entries_of(pending.pop()):
                left -= 1
                if left < 0:  # counted on the way: one directory alone may hold any number
                    raise _UnseenError(f"there are more than {_MOST_ENTRIES} in {', '.join(map(str, self._places))}")
                status = _status_of(entry)
                if status is None:
                    continue
                if status.st_uid in wanted or status.st_gid in wanted:
                    yield entry.path, frozenset({status.st_uid, status.st_gid})
                if stat.S_ISDIR(status.st_mode):
                    pending.append(entry.path)


class _UnseenError(Exception):
    """Not everything was looked at."""


def _entries_of(directory: str) -> Iterator[os.DirEntry[str]]:
    """Its entries, one after the other; none if it is gone."""
    try:
        with os.scandir(directory) as entries:
            yield from entries
    except FileNotFoundError:
        return
    except OSError as error:
        raise _UnseenError(f"{directory} cannot be looked at ({error.strerror})") from error


def _status_of(entry: os.DirEntry[str]) -> os.stat_result | None:
    """None if it is gone."""
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _UnseenError(f"{entry.path} cannot be looked at ({error.strerror})") from error


def _has_name(number: int) -> bool:
    for look in (pwd.getpwuid, grp.getgrgid):
        with contextlib.suppress(KeyError):
            look(number)
            return True
    return False


def _owners_in(lab: Path) -> Iterator[int]:
    """The numbers of those to whom a lab's directory, its disks and console logs belong."""
    for path in (lab, *(entry for name in ("disks", "console") for entry in _entries(lab / name))):
        with contextlib.suppress(OSError):
            status = path.lstat()
            yield from (status.st_uid, status.st_gid)


def _entries(directory: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return list(directory.iterdir())
    return []
