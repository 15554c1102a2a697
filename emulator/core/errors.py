"""Errors that a tired operator can act on: what happened, where, and how to fix it."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the command. They are an interface: nightly jobs branch on them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    INVALID_CONFIG = 3
    HOST_NOT_FIT = 4
    CONFLICT = 5


class HyperscalerError(Exception):
    """Base of every error that reaches the user.

    Args:
        what: what went wrong, one sentence without a trailing full stop.
        where: file:line:column, field path, resource id, command or host path; empty when it adds nothing.
        fix: the next thing to do, ideally a command that can be pasted; empty when there is none.
    """

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix
        #: Further JSON data for `--json` output, by key.
        self.details: dict[str, object] = {}

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  fix: {self.fix}" if self.fix else text

    def to_json(self) -> dict[str, str | int]:
        """The error as it appears under ``error`` in ``--json`` output."""
        return {
            "type": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "fix": self.fix,
            "exit_code": int(self.exit_code),
        }


class UsageError(HyperscalerError):
    """The command line asks for something impossible (unknown lab, wrong option)."""

    exit_code = ExitCode.USAGE


class ConfigError(HyperscalerError):
    """The lab file cannot be used."""

    exit_code = ExitCode.INVALID_CONFIG


class HostNotFitError(HyperscalerError):
    """The host lacks something that the lab needs."""

    exit_code = ExitCode.HOST_NOT_FIT


class ConflictError(HyperscalerError):
    """Another process holds the lock, or something foreign is in the way."""

    exit_code = ExitCode.CONFLICT


class CommandError(HyperscalerError):
    """An external command failed; ``where`` is the command, ready to be pasted."""


class CommandTimeoutError(CommandError):
    """An external command did not end within its time limit."""


class DamagedDiskError(HyperscalerError):
    """The file was read and is not a usable disk. Failing to read it is another error."""


class HypervisorError(HyperscalerError):
    """libvirt or QEMU refused or failed an operation."""


class ServiceError(HyperscalerError):
    """A process that is to stay running does not start, or does not end."""


class WaitTimeoutError(HyperscalerError):
    """Something did not become ready in time; ``what`` names the cause if it is known."""


class StateError(HyperscalerError):
    """The lab's recorded state cannot be read or written."""


class ConfigureError(HyperscalerError):
    """A playbook failed; the message names host, task and the log."""


class VerifyError(HyperscalerError):
    """The lab runs, but a check failed."""


class GpuError(HyperscalerError):
    """A GPU operation failed; subclasses say how."""


class InterruptedRunError(HyperscalerError):
    """A stop was asked for; the state is saved."""
