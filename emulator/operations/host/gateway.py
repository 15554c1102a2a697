"""The host's gateway, on and off: account, host key, network namespace, supervisor with the ssh server, unit.

What is wanted is written down first and forgotten last. Each step in between looks at the host and does what is
missing, so that the same command goes on after a crash, after a reboot and after an edit.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import pwd
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from emulator.apply.lock import exclusive_lock
from emulator.core.errors import ConflictError, HostNotFitError, ServiceError, StateError, UsageError
from emulator.core.fs import private_directory, write_private
from emulator.core.gateway.names import ACCOUNT, PLACE, UNIT, Door
from emulator.core.paths import Home
from emulator.core.ports import ProcessRunner
from emulator.core.ports.services import ServiceRequest, ServiceSupervisor
from emulator.core.progress import Reporter
from emulator.core.trust.users import end_user
from emulator.lab.environment import Units
from emulator.operations.host.autostart import quoted
from emulator.operations.host.program import Program, require_roots_places
from emulator.operations.host.record import audited

_MARK = "X-Hyperscaler-Gateway=this host"
_SERVICE = "gateway-front"
_VERSION = 1
_NOLOGIN = "/usr/sbin/nologin"
_SECONDS = 60.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}")


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """`address`: how clients find this host, a name or an address. `listen`: an address of this host; empty for all."""

    address: str
    port: int
    listen: str = ""

    def check(self) -> None:
        """Refuse what cannot be used.

        Raises:
            UsageError: says what.
        """
        if not 0 < self.port < 65536:
            raise UsageError(f"{self.port} is no port", fix="a number from 1 to 65535")
        if not _NAME.fullmatch(self.address) and not _is_address(self.address):
            raise UsageError(f"{self.address!r} is neither a name nor an address", fix="for example gpu.example.org")
        if self.listen and not _is_address(self.listen):
            raise UsageError(f"{self.listen!r} is not an address", fix="an address of this host, or leave --listen out")


class Namespace(Protocol):
    """The gateway's network namespace."""

    def ensure(self, *, adopt: bool) -> None: ...

    def is_ours(self) -> bool: ...

    def delete(self) -> None: ...


@dataclass(frozen=True, slots=True)
class GatewayHost:
    """This host, for its gateway.

    Attributes:
        home: root's own, whatever home the labs are in: a host has one gateway.
        locks: of what labs of all homes share.
        supervisor: of the ssh server.
        place: where the server reads.
        end_user: ends everything that runs as a user, by number; whether nothing is left.
    """

    home: Home
    locks: Path
    runner: ProcessRunner
    units: Units
    supervisor: ServiceSupervisor
    namespace: Namespace
    place: Path = PLACE
    end_user: Callable[[int], bool] = end_user

    @property
    def key(self) -> Path:
        return self.home.gateway / "host_key"

    @property
    def record(self) -> Path:
        return self.home.gateway / "gateway.json"


@dataclass(frozen=True, slots=True)
class Enabled:
    """`started_with_host`: whether it comes back by itself after a reboot."""

    door: Door
    started_with_host: bool


def enable_gateway(host: GatewayHost, settings: GatewaySettings, program: Program, reporter: Reporter) -> Enabled:
    """Have a gateway, with these settings.

    Args:
        host: this one.
        settings: of the gateway.
        program: this installation, which the unit runs.
        reporter: for warnings.

    Raises:
        UsageError: the settings cannot be used.
        HostNotFitError: not root, or others than root could change what the unit would run.
        ConflictError: another account, namespace or unit has the name.
        ServiceError: it does not start.
    """
    settings.check()
    _require_root()
    again = f"host enable-gateway --address {settings.address}"
    require_roots_places(program, (), when="at every start of this machine", again=again)
    with _alone(host, "host enable-gateway", reporter):
        _require_own_unit(host.units)
        write_private(host.record, json.dumps({"version": _VERSION, **_as_json(settings)}).encode() + b"\n")
        _ensure_account(host.runner)
        _ensure_key(host)
        host.namespace.ensure(adopt=False)
        host.supervisor.ensure(_request(host, settings))
        return Enabled(_door(host, settings), _ensure_unit(host.units, settings, program))


def disable_gateway(host: GatewayHost, reporter: Reporter) -> bool:
    """Have none; whether there was one. The host key stays, since users have its public half.

    Raises:
        HostNotFitError: not root.
        ConflictError: another unit has the name.
        ServiceError: it does not end.
    """
    _require_root()
    with _alone(host, "host disable-gateway", reporter):
        _require_own_unit(host.units)
        there = host.record.exists()
        # First of all, lest the gateway comes back when the host boots.
        host.units.remove(UNIT)
        host.supervisor.remove(_SERVICE)
        if host.namespace.is_ours():
            host.namespace.delete()
        if host.place.is_dir() and not host.place.is_symlink():
            shutil.rmtree(host.place)
        if (account := _account()) is not None and _is_gateways(account):
            # The labs' relays: they end by themselves, and an account that is in use cannot be removed.
            if not host.end_user(account.pw_uid):
                raise ServiceError(
                    f"a process of the account {ACCOUNT} does not end",
                    where=f"ps -U {ACCOUNT}",
                    fix="it is blocked in the kernel; then run the same command again",
                )
            host.runner.run(["userdel", ACCOUNT], timeout=_SECONDS)
        host.record.unlink(missing_ok=True)
    _remove_if_empty(host.home.gateway)
    return there


def open_door(home: Home) -> Door | None:
    """How users find the gateway of this host; None without one.

    Raises:
        StateError: its record is damaged.
    """
    record = home.gateway / "gateway.json"
    try:
        data = json.loads(record.read_bytes())
        settings = GatewaySettings(str(data["address"]), int(data["port"]), str(data["listen"]))
        settings.check()
        key = " ".join((home.gateway / "host_key.pub").read_text().split()[:2])
    except FileNotFoundError:
        return None
    except PermissionError:
        return None  # it is root's, and so are the labs that could use it
    except (ValueError, KeyError, TypeError, UsageError, RecursionError) as error:
        raise StateError(
            "the record of the host's gateway is damaged", where=str(record), fix="hyperscaler host enable-gateway"
        ) from error
    return Door(settings.address, settings.port, key)


def _remove_if_empty(directory: Path) -> None:
    with suppress(OSError):  # the host key stays
        directory.rmdir()


# ---------------------------------------------------------------- the steps
@contextmanager
def _alone(host: GatewayHost, command: str, reporter: Reporter) -> Iterator[None]:
    """One command at a time, in the host's audit log."""
    with exclusive_lock(host.locks / "gateway.lock", purpose=command):
        private_directory(host.home.gateway)
        with audited(host.home, command, (), reporter):
            yield


def _require_root() -> None:
    if os.geteuid() != 0:
        raise HostNotFitError("only root can have a gateway on this host", fix="run the same command with sudo")


def _account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(ACCOUNT)
    except KeyError:
        return None


def _is_gateways(account: pwd.struct_passwd) -> bool:
    """Whether it is as this program makes it; another one of the name is left alone."""
    return account.pw_uid != 0 and account.pw_shell == _NOLOGIN and account.pw_dir == "/nonexistent"


def _ensure_account(runner: ProcessRunner) -> None:
    """An account that nobody can log in to but by the gateway's server, and that owns nothing."""
    found = _account()
    if found is None:
        words = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", "--shell", _NOLOGIN]
        runner.run(["useradd", *words, ACCOUNT], timeout=_SECONDS)
    elif not _is_gateways(found):
        raise ConflictError(
            f"there is another account {ACCOUNT} on this host", where="/etc/passwd", fix="rename that account"
        )


def _ensure_key(host: GatewayHost) -> None:
    public = host.key.with_name(f"{host.key.name}.pub")
    if host.key.is_file() and public.is_file():
        return
    for half in (host.key, public):
        half.unlink(missing_ok=True)
    words = ["-q", "-t", "ed25519", "-N", "", "-C", "hyperscaler gateway", "-f", str(host.key)]
    host.runner.run(["ssh-keygen", *words], timeout=_SECONDS)


def _request(host: GatewayHost, settings: GatewaySettings) -> ServiceRequest:
    listen = ("--listen", settings.listen) if settings.listen else ()
    arguments = (*listen, "--port", str(settings.port), "--host-key", str(host.key), "--place", str(host.place))
    digest = hashlib.sha256("\0".join(arguments).encode()).hexdigest()[:16]
    return ServiceRequest(
        name=_SERVICE,
        digest=digest,
        program=_SERVICE,
        arguments=arguments,
        notifies=True,
        files=1024,
        processes=2048,
    )


def _door(host: GatewayHost, settings: GatewaySettings) -> Door:
    public = host.key.with_name(f"{host.key.name}.pub").read_text()
    return Door(settings.address, settings.port, " ".join(public.split()[:2]))


def _as_json(settings: GatewaySettings) -> dict[str, object]:
    return {"address": settings.address, "port": settings.port, "listen": settings.listen}


# ---------------------------------------------------------------- its start with the host
def _ensure_unit(units: Units, settings: GatewaySettings, program: Program) -> bool:
    text = unit_text(settings, program.path)
    try:
        if units.read(UNIT) != text or not units.is_enabled(UNIT):
            units.enable(UNIT, text)
    except HostNotFitError:  # without systemd it runs all the same, until the host stops
        return False
    return True


def unit_text(settings: GatewaySettings, program: Path) -> str:
    """The unit, which runs this command again."""
    listen = ("--listen", settings.listen) if settings.listen else ()
    words = ("host", "enable-gateway", "--address", settings.address, "--port", str(settings.port), *listen)
    command = [quoted(str(program), variables=False), *map(quoted, words)]
    return f"""\
[Unit]
Description=hyperscaler gateway
{_MARK}
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={" ".join(command)}
# The supervisor that it starts lives on; `hyperscaler host disable-gateway` ends it.
KillMode=process
UMask=0077

[Install]
WantedBy=multi-user.target
"""


def _require_own_unit(units: Units) -> None:
    there = units.read(UNIT)
    if there is not None and _MARK not in there.splitlines():
        raise ConflictError(
            "a unit of this name exists that is not the gateway's", where=UNIT, fix=f"systemctl cat {UNIT}; rename it"
        )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
