"""libvirt's errors in our words, and which of them are tried again."""

from __future__ import annotations

import threading

import pytest

from emulator.adapters.libvirt import errors
from emulator.adapters.libvirt.errors import call, tolerate, translate
from emulator.adapters.libvirt.hypervisor import choose_uri, probe_uri
from emulator.core.errors import ConflictError, HypervisorError
from tests.support.waiting import PATIENCE

libvirt = errors.load_libvirt()


def error(code: int, text: str = "internal error: it broke\nbadly") -> Exception:
    made: Exception = libvirt.libvirtError(text)
    # The class would rather take the text of this thread's last real error.
    made.args = (text,)
    made.err = (code, 0, text, 2, "", "", "", 0, 0)  # type: ignore[attr-defined]
    return made


def test_the_numbers_are_those_of_the_library() -> None:
    for name in ("NO_CONNECT", "DOM_EXIST", "NETWORK_EXIST", "SYSTEM_ERROR", "RPC", "NO_DOMAIN", "NO_NETWORK"):
        assert getattr(errors, name) == getattr(libvirt, f"VIR_ERR_{name}")
    for name in ("AUTH_FAILED", "OPERATION_INVALID", "OPERATION_TIMEOUT", "RESOURCE_BUSY", "DEVICE_MISSING"):
        assert getattr(errors, name) == getattr(libvirt, f"VIR_ERR_{name}")


@pytest.mark.parametrize("code", [errors.OPERATION_TIMEOUT, errors.RESOURCE_BUSY])
def test_transient_errors_are_tried_again_a_bounded_number_of_times(code: int) -> None:
    calls: list[int] = []
    pauses: list[float] = []

    def busy() -> None:
        calls.append(1)
        raise error(code)

    with pytest.raises(HypervisorError) as caught:
        call(busy, where="domain a", sleep=pauses.append)
    assert (len(calls), len(pauses), caught.value.where) == (5, 4, "domain a")
    assert sum(pauses) < 5
    assert caught.value.what == "internal error: it broke badly"


def test_a_transient_error_that_passes_is_not_seen() -> None:
    answers = iter([error(errors.OPERATION_TIMEOUT), None])

    def sometimes() -> str:
        failure = next(answers)
        if failure:
            raise failure
        return "done"

    assert call(sometimes, where="x", sleep=lambda _: None) == "done"


def test_other_errors_are_not_tried_again() -> None:
    calls: list[int] = []

    def broken() -> None:
        calls.append(1)
        raise error(1)

    with pytest.raises(HypervisorError):
        call(broken, where="x", sleep=lambda _: pytest.fail("slept"))
    assert calls == [1]


@pytest.mark.parametrize(
    ("code", "text", "kind", "fix"),
    [
        (1, "internal error: bridge name 'br0' already in use.", ConflictError, "what is in the way"),
        (9, "operation failed: domain 'a' is already defined with uuid u", ConflictError, "what is in the way"),
        (38, "Failed to connect socket", HypervisorError, ""),
        (5, "no connection driver", HypervisorError, "hypervisor.uri: embedded"),
        (55, "Requested operation is not valid: network 'n' is not active", HypervisorError, "provision"),
        (99, "mediated device not found", HypervisorError, "provision"),
    ],
)
def test_translation(code: int, text: str, kind: type[Exception], fix: str) -> None:
    translated = translate(error(code, text), where="w")
    assert type(translated) is kind
    assert fix in translated.fix


def test_tolerated_errors_become_none() -> None:
    def missing() -> None:
        raise error(errors.NO_DOMAIN)

    assert tolerate((errors.NO_DOMAIN,), missing, where="x") is None
    with pytest.raises(HypervisorError):
        tolerate((errors.NO_NETWORK,), missing, where="x")


def test_auto_takes_the_system_libvirt_only_when_it_answers() -> None:
    asked: list[str] = []

    def probe(uri: str) -> bool:
        asked.append(uri)
        return len(asked) == 1

    assert choose_uri("auto", probe=probe) == "qemu:///system"
    assert choose_uri("auto", probe=probe) == "embedded"
    assert choose_uri("qemu+ssh://h/system", probe=probe) == "qemu+ssh://h/system"
    assert choose_uri("embedded", probe=probe) == "embedded"
    assert asked == ["qemu:///system"] * 2


def test_a_socket_that_is_not_there_does_not_answer(capfd: pytest.CaptureFixture[str]) -> None:
    assert not probe_uri("qemu+unix:///system?socket=/nonexistent/sock")
    assert capfd.readouterr() == ("", "")


def test_a_libvirtd_that_hangs_is_not_waited_for_without_end() -> None:
    """No error of libvirt comes from one: the call simply does not end."""
    hanging = threading.Event()
    try:
        with pytest.raises(HypervisorError, match=r"has not answered for 0\.1 s") as caught:
            errors.call(lambda: hanging.wait(PATIENCE), where="qemu:///system", seconds=0.1)
    finally:
        hanging.set()
    assert caught.value.where == "qemu:///system"
    assert "restart it" in caught.value.fix


def test_what_a_call_raises_reaches_the_caller() -> None:
    def fail() -> None:
        raise KeyError("a fault of ours")

    with pytest.raises(KeyError, match="a fault of ours"):
        errors.call(fail, where="x")
