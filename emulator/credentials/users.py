"""The users of a lab, as stored in its directory. Nothing here is secret: only public keys and numbers."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from emulator.core.errors import StateError, UsageError

FORMAT = 1
FIRST_UID = 3000
LAST_UID = 59999
"""Above what Debian gives to system accounts (999) and below `nobody`; the lab's own accounts begin at 2000."""

MAX_SECONDS = 365 * 24 * 3600
MIN_SECONDS = 60

# Names that both useradd and Kubernetes (for a namespace) accept.
_NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,29}[a-z0-9])?")
_PUBLIC_KEY = re.compile(r"(ssh-ed25519|ecdsa-sha2-nistp(?:256|384|521)|ssh-rsa) [A-Za-z0-9+/]{16,2048}={0,2}")

# Users and groups of Debian's base-passwd (/usr/share/base-passwd/*.master): each user has a group of the same name.
_BASE = """root daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc gnats nobody adm tty disk
kmem dialout fax voice cdrom floppy tape sudo audio dip operator src shadow utmp video sasl plugdev staff users
nogroup"""
# Accounts of packages, in the images or often installed.
_PACKAGES = """sshd messagebus munge slurm mysql input sgx kvm render crontab netdev polkitd tss uuidd ntp ntpsec chrony
dnsmasq docker containerd etcd postfix tcpdump ssl-cert statd rtkit wheel lxd nvidia-persistenced"""
_OURS = "labadmin student admin default students"
RESERVED = frozenset(f"{_BASE} {_PACKAGES} {_OURS}".split())
RESERVED_PREFIXES = ("systemd-", "debian-", "libvirt")


class AccessRole(StrEnum):
    """`admin` may become root with sudo; `student` works with an ordinary account, within limits."""

    ADMIN = "admin"
    STUDENT = "student"


@dataclass(frozen=True, slots=True)
class Certificate:
    """An issued certificate. `public_key`: the certified key, as `TYPE BASE64`. `expires`: seconds since the epoch."""

    serial: int
    public_key: str
    expires: int


@dataclass(frozen=True, slots=True)
class LabUser:
    """A person with access. `nodes`: where, by name; empty means everywhere. `revoked` users keep their uid, so that
    no one else ever gets their files."""

    name: str
    uid: int
    role: AccessRole
    nodes: tuple[str, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    revoked: bool = False

    def may_use(self, node: str) -> bool:
        return not self.revoked and (not self.nodes or node in self.nodes)

    def role_at(self, head: str) -> AccessRole:
        """The role in the cluster of the controller or control plane `head`. An admin of a cluster can become root on
        all of its nodes, so an admin of some nodes is one of the cluster only if `head` is among them."""
        return self.role if self.may_use(head) else AccessRole.STUDENT

    @property
    def expires(self) -> int:
        """When the last certificate ends, in seconds since the epoch."""
        return max((certificate.expires for certificate in self.certificates), default=0)


@dataclass(frozen=True, slots=True)
class AccessBook:
    """All users that a lab ever had, and the revoked keys."""

    users: tuple[LabUser, ...] = ()
    revoked_keys: tuple[str, ...] = ()
    next_serial: int = 1

    def user(self, name: str) -> LabUser | None:
        return next((user for user in self.users if user.name == name), None)

    def at(self, now: float) -> AccessBook:
        """The book as the nodes are to have it at `now`, seconds since the epoch: access that has ended is former
        access. Keys of an ended user are not revoked: their certificates have ended, and new ones may be granted."""
        users = tuple(dataclasses.replace(user, revoked=user.revoked or user.expires <= now) for user in self.users)
        return dataclasses.replace(self, users=users)

    def on(self, node: str) -> tuple[LabUser, ...]:
        """Who may use this node."""
        return tuple(user for user in self.users if user.may_use(node))

    def granted(
        self, name: str, role: AccessRole, *, public_key: str, expires: int, nodes: Iterable[str] = ()
    ) -> AccessBook:
        """The book with one more certificate for `name`, who from now on has this role on these nodes.

        Raises:
            UsageError: not a name that a node can have an account for, or a key that was revoked.
        """
        if self.user(name) is None:  # what is reserved may have grown since a user was taken in
            check_name(name)
        if public_key in self.revoked_keys:
            raise UsageError(
                f"this key of {name} was revoked and stays so", fix="make a new key, or leave --public-key out"
            )
        known = self.user(name) or LabUser(name, self._next_uid(), role)
        certificate = Certificate(self.next_serial, public_key, expires)
        user = dataclasses.replace(
            known,
            role=role,
            nodes=tuple(sorted(set(nodes))),
            certificates=(*known.certificates, certificate),
            revoked=False,
        )
        return AccessBook(self._with(user), self.revoked_keys, self.next_serial + 1)

    def without(self, name: str) -> AccessBook:
        """The book after all access of `name` was revoked.

        Raises:
            UsageError: no such user.
        """
        known = self.user(name)
        if known is None:
            names = ", ".join(user.name for user in self.users if not user.revoked) or "nobody"
            raise UsageError(f"{name} has no access to this lab", fix=f"who has: {names}")
        keys = dict.fromkeys((*self.revoked_keys, *(each.public_key for each in known.certificates)))
        user = dataclasses.replace(known, certificates=(), revoked=True)
        return AccessBook(self._with(user), tuple(keys), self.next_serial)

    def _with(self, changed: LabUser) -> tuple[LabUser, ...]:
        others = [user for user in self.users if user.name != changed.name]
        return tuple(sorted([*others, changed], key=lambda user: user.uid))

    def _next_uid(self) -> int:
        uid = max((user.uid for user in self.users), default=FIRST_UID - 1) + 1
        if uid > LAST_UID:
            raise UsageError(f"this lab has had {LAST_UID - FIRST_UID + 1} users", fix="provision a new lab")
        return uid


def check_name(name: str) -> None:
    """Refuse a name that no account in a guest can have.

    Raises:
        UsageError: says why.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be a user name", fix="use up to 31 lower-case letters, digits and -, a letter first"
        )
    if name in RESERVED or name.startswith(RESERVED_PREFIXES):
        raise UsageError(f"{name!r} is an account of the nodes themselves", fix="choose another name")


def check_public_key(text: str) -> str:
    """`TYPE BASE64` of the one public key in `text`; its comment is dropped.

    Raises:
        UsageError: it is not one public key. What it was is not repeated: it may have been a private key.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    words = lines[0].split() if len(lines) == 1 else []
    key = " ".join(words[:2])
    if not _PUBLIC_KEY.fullmatch(key):
        raise UsageError("the file does not hold exactly one ssh public key", fix="give the .pub file")
    return key


def render_book(book: AccessBook) -> bytes:
    """The book as the text that `parse_book` reads."""
    return json.dumps({"format": FORMAT, **dataclasses.asdict(book)}, indent=1).encode() + b"\n"


def parse_book(text: bytes) -> AccessBook:
    """The inverse of `render_book`.

    Raises:
        StateError: damaged, or written by a newer version.
    """
    try:
        data = json.loads(text)
        if not isinstance(data, dict):
            raise TypeError("not an object")
        if data["format"] != FORMAT:
            raise StateError(
                f"the list of users has format {data['format']!r}, this version knows {FORMAT}",
                fix="use the version of hyperscaler that wrote it",
            )
        users = tuple(_user(entry) for entry in data["users"])
        keys = tuple(check_public_key(str(key)) for key in data["revoked_keys"])
        return AccessBook(users, keys, int(data["next_serial"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as error:
        raise StateError(
            "the list of the lab's users is damaged",
            fix="move it away, grant access again, and rotate the lab's certificate authority, since revocations are"
            " lost with it",
        ) from error


def _user(entry: Mapping[str, object]) -> LabUser:
    certificates = entry["certificates"]
    nodes = entry["nodes"]
    if not isinstance(certificates, list) or not isinstance(nodes, list):
        raise TypeError("not a list")
    name = str(entry["name"])
    if not _NAME.fullmatch(name):
        raise ValueError("not a name")
    uid = int(str(entry["uid"]))
    if not FIRST_UID <= uid <= LAST_UID:
        raise ValueError("uid out of range")
    issued = tuple(
        Certificate(int(each["serial"]), check_public_key(str(each["public_key"])), int(each["expires"]))
        for each in certificates
    )
    return LabUser(
        name, uid, AccessRole(str(entry["role"])), tuple(str(node) for node in nodes), issued, entry["revoked"] is True
    )


def parse_ttl(text: str) -> int:
    """Converts `45m`, `8h` or `30d` to seconds.

    Raises:
        UsageError: not of that form, or out of range.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text)
    seconds = int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]] if match else 0
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise UsageError(f"{text!r} is not a lifetime", fix="a number with s, m, h or d: from 60s to 365d")
    return seconds


def read_book(path: Path) -> AccessBook:
    """The users of a lab, from its file; an empty book for a lab that never had any.

    Raises:
        StateError: the file is damaged.
    """
    try:
        return parse_book(path.read_bytes())
    except FileNotFoundError:
        return AccessBook()
