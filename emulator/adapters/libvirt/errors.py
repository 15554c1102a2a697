"""libvirt's Python binding, loaded on first use. Translates its errors and retries transient ones."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

from emulator.core.errors import ConflictError, HostNotFitError, HyperscalerError, HypervisorError
from emulator.core.extras import missing_libraries

T = TypeVar("T")

# Error numbers of <libvirt/virterror.h>. They are ABI; named here because the binding is loaded lazily.
NO_CONNECT = 5
DOM_EXIST = 28
NETWORK_EXIST = 37
SYSTEM_ERROR = 38
RPC = 39
NO_DOMAIN = 42
NO_NETWORK = 43
AUTH_FAILED = 45
OPERATION_INVALID = 55
OPERATION_TIMEOUT = 68
RESOURCE_BUSY = 87
DEVICE_MISSING = 99

CALL_SECONDS = 300.0
"""Seconds that a call may take: starting a guest with a large disk on a busy host is the slowest."""
ALIVE_SECONDS = 30.0
"""Seconds that a libvirtd may take to answer the ping with which each use of a connection begins."""

# Another call holds the object's lock, or the object is being changed: these errors pass by themselves.
_TRANSIENT = frozenset({OPERATION_TIMEOUT, RESOURCE_BUSY})
_RETRY_DELAYS = (0.2, 0.5, 1.0, 2.0)

_FIXES = {
    NO_CONNECT: "start libvirtd, or set hypervisor.uri: embedded in the lab file",
    AUTH_FAILED: "run as root or as a member of the group libvirt, or set hypervisor.uri: embedded",
    DEVICE_MISSING: "the device has gone, as after a reboot: run provision again to create it",
    RPC: "libvirtd ended during the call: run the same command again",
}

# Phrases in messages without an error number of their own -> our error.
_IN_THE_WAY = (
    "already in use",
    "already exists",
    "is already defined",
    "already active",
)


@cache
def load_libvirt() -> Any:
    """The `libvirt` module, with its printing to stderr disabled.

    Raises:
        HostNotFitError: libvirt-python or its C library is not installed.
    """
    try:
        module = importlib.import_module("libvirt")
    except ModuleNotFoundError as error:
        raise missing_libraries(["libvirt-python"]) from error
    except ImportError as error:
        raise HostNotFitError(
            f"libvirt's Python binding cannot be loaded: {error}",
            fix="apt-get install libvirt0",
        ) from error
    # Without a handler the library prints every error, including expected ones.
    module.registerErrorHandler(lambda _context, _error: None, None)
    return module


def error_code(error: Exception) -> int:
    """libvirt's number of an error, or 0."""
    code = error.get_error_code() if hasattr(error, "get_error_code") else None
    return code if isinstance(code, int) else 0


def call(
    action: Callable[[], T],
    *,
    where: str,
    sleep: Callable[[float], None] = time.sleep,
    seconds: float = CALL_SECONDS,
) -> T:
    """Run one libvirt call. Transient errors are retried for about four seconds in all.

    Raises:
        ConflictError: something foreign has the name, the UUID or the bridge.
        HypervisorError: any other refusal, or no answer within `seconds`.
    """
    libvirt = load_libvirt()
    for delay in (*_RETRY_DELAYS, None):
        try:
            return answered(action, seconds=seconds, where=where)
        except libvirt.libvirtError as error:
            if delay is None or error_code(error) not in _TRANSIENT:
                raise translate(error, where=where) from error
            sleep(delay)
    raise AssertionError("unreachable")


def answered(action: Callable[[], T], *, seconds: float, where: str) -> T:
    """The call's result, or its error.

    libvirt's own keepalive needs an event loop in the client, and a hanging libvirtd never ends a call. The call
    therefore runs in a daemon thread, which is abandoned after `seconds` and does not keep the program from ending.

    Raises:
        HypervisorError: no answer within `seconds`.
    """
    outcome: list[tuple[T | None, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((action(), None))
        except BaseException as error:  # noqa: BLE001  handed to the caller
            outcome.append((None, error))

    thread = threading.Thread(target=run, name="libvirt", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise HypervisorError(
            f"libvirtd has not answered for {seconds:g} s",
            where=where,
            fix="it hangs or the host is overloaded: see its log; restart it, which leaves the guests running",
        )
    value, error = outcome[0]
    if error is not None:
        raise error
    return cast(T, value)


def tolerate(harmless: tuple[int, ...], action: Callable[[], Any], *, where: str) -> Any:
    """The call's result, or None if it failed with one of the `harmless` error numbers."""
    libvirt = load_libvirt()

    def attempt() -> Any:
        try:
            return action()
        except libvirt.libvirtError as error:
            if error_code(error) in harmless:
                return None
            raise

    return call(attempt, where=where)


def translate(error: Exception, *, where: str) -> HyperscalerError:
    """The error of ours for a `libvirtError`."""
    code = error_code(error)
    text = " ".join(str(error).split())
    if code in (DOM_EXIST, NETWORK_EXIST) or any(phrase in text for phrase in _IN_THE_WAY):
        return ConflictError(text, where=where, fix="remove or rename what is in the way; virsh list/net-list --all")
    if code == OPERATION_INVALID and "is not active" in text:
        return HypervisorError(text, where=where, fix="run provision again: it starts everything that does not run")
    return HypervisorError(text, where=where, fix=_FIXES.get(code, ""))
