"""What a failed fetch or build means, in words that say what to do. Pure."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from emulator.core.errors import CommandError, HostNotFitError, HyperscalerError

BUNDLE_WAY_OUT = (
    "take a release that another host has built: there `hyperscaler bundle create`, here `source: bundle:PATH` in the"
    " lab file"
)
_FULL_DISK = ("No space left on device", "no space left on device", "Disk quota exceeded", "disk quota exceeded")
# The go command's words: for a go.sum that does not fit, and for one that lacks a module.
_WRONG_HASH = re.compile(r"checksum mismatch|SECURITY ERROR")
_NO_HASH = re.compile(r"missing go\.sum entry|updates to go\.(?:mod|sum) needed|-mod=readonly")
_NETWORK = re.compile(
    r"dial tcp|dial unix|lookup \S+:? |i/o timeout|connection re(?:fused|set)|no such host|proxyconnect|TLS handshake"
    r"|x509:|Client\.Timeout|unexpected EOF|network is unreachable|module lookup disabled|reading \S+: \d{3} "
    r"|server misbehaving|stream error|no such file or directory\s*$",
    re.MULTILINE,
)
_MEMORY = re.compile(r"signal: killed|cannot allocate memory|out of memory")


def is_full_disk(error: OSError | str) -> bool:
    """Whether a system call's error, or what a program said, is about a full disk."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return any(words in error for words in _FULL_DISK)


def no_room(directory: Path) -> HostNotFitError:
    """The disk ran full under a build; what is there is used by the next one."""
    return HostNotFitError(
        "the disk is full",
        where=str(directory),
        fix="free some space and repeat the command, which goes on where it stopped, or put HYPERSCALER_HOME on"
        " another file system",
    )


def fetch_failure(error: CommandError, module: str, directory: Path) -> HyperscalerError:
    """Why the go command could not get what a module needs."""
    said = error.what
    if is_full_disk(said):
        return no_room(directory)
    if _WRONG_HASH.search(said):
        return HyperscalerError(
            f"a Go module is not the one that was pinned; nothing of it was used:\n{said}",
            where=f"module {module}",
            fix=f"find out what the Go module proxy serves under that version, or {BUNDLE_WAY_OUT}",
        )
    if _NO_HASH.search(said):
        return HyperscalerError(
            f"go.mod and go.sum do not pin all that the programs need:\n{said}",
            where=f"module {module}",
            fix="in a checkout: make kubernetes-modules MINOR=1.37, or the minor version that it is a module of",
        )
    if _NETWORK.search(said):
        return HostNotFitError(
            f"the Go module proxy cannot be reached or lacks a module:\n{said}",
            where=f"module {module}",
            fix=f"check GOPROXY and https_proxy, or {BUNDLE_WAY_OUT}",
        )
    return error


def compile_failure(error: CommandError, program: str, directory: Path) -> HyperscalerError:
    """Why a program could not be compiled."""
    if is_full_disk(error.what):
        return no_room(directory)
    if _MEMORY.search(error.what):
        return HostNotFitError(
            f"this host has too little memory to compile {program}:\n{error.what}",
            fix=f"end other programs and repeat the command, which goes on where it stopped, or {BUNDLE_WAY_OUT}",
        )
    return error
