"""The one place where host commands are started: argv lists, a deadline, no shell.

Every command gets its own session: a deadline or an interrupt then ends the command with all its children, and a Ctrl-C
on the terminal reaches only this program, which decides.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from emulator.core.errors import CommandError, CommandTimeoutError, HostNotFitError
from emulator.core.ports import Completed, log

# Debian package of each program that the product runs; a missing program is reported with its package.
DEBIAN_PACKAGES: Mapping[str, str] = {
    "ansible-playbook": "ansible-core",
    "debsecan": "debsecan",
    "debugfs": "e2fsprogs",
    "dnsmasq": "dnsmasq-base",
    "dumpe2fs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "e2image": "e2fsprogs",
    "ip": "iproute2",
    "iptables": "iptables",
    "lsmod": "kmod",
    "mdevctl": "mdevctl",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "modprobe": "kmod",
    "mount": "mount",
    "nc": "netcat-openbsd",
    "nft": "nftables",
    "nsenter": "util-linux",
    "nvidia-smi": "nvidia-smi",
    "packer": "packer",
    "qemu-img": "qemu-utils",
    "qemu-io": "qemu-utils",
    "qemu-nbd": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "resize2fs": "e2fsprogs",
    "scp": "openssh-client",
    "sfdisk": "fdisk",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "ssh-keyscan": "openssh-client",
    "sysctl": "procps",
    "tar": "tar",
    "tune2fs": "e2fsprogs",
    "unshare": "util-linux",
    "libvirtd": "libvirt-daemon",
    "virtlogd": "libvirt-daemon",
    "virsh": "libvirt-clients",
    "virt-xml-validate": "libvirt-clients",
    "zstd": "zstd",
}

# Seconds that a killed process group may take to vanish. A process in uninterruptible sleep (a blocked sysfs write, a
# dead NFS server) never does; it is left behind, and the error says so.
_KILL_GRACE = 5.0

# Characters that an error message quotes from the end of the output, where programs give their reasons.
_QUOTED = 2000


class HostProcess:
    """`ProcessRunner` on this host."""

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        timeout: float,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        cwd: Path | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        """Run `argv` to its end; see `ProcessRunner.run`.

        Raises:
            HostNotFitError: the program is not installed.
            CommandTimeoutError: `timeout` seconds have passed; the process group has been killed.
            CommandError: non-zero exit status and `check`.
        """
        words = tuple(str(word) for word in argv)
        started = time.monotonic()
        process = _start(words, env=env, cwd=cwd, merge=on_line is not None, feed=stdin is not None)
        try:
            if on_line is None:
                stdout, stderr = _communicate(process, stdin, timeout)
            else:
                stdout, stderr = _stream(process, stdin, timeout, on_line), ""
        except subprocess.TimeoutExpired as expired:
            _end_group(process)
            raise CommandTimeoutError(
                f"the command did not end within {timeout:g} s{_quote(expired.output)}",
                where=shlex.join(words),
                fix="run the command by hand to see what it waits for",
            ) from None
        except BaseException:
            _end_group(process)
            raise
        done = Completed(words, process.returncode, stdout, stderr)
        log.debug("%s -> %d in %.2f s", shlex.join(words), done.returncode, time.monotonic() - started)
        if check and done.returncode != 0:
            raise command_error(done)
        return done


def command_error(done: Completed) -> CommandError:
    """The error of a failed command: its exit status or signal, and the end of its output."""
    if done.returncode < 0:
        outcome = f"the command was killed by {_signal_name(-done.returncode)}"
    else:
        outcome = f"the command failed with exit status {done.returncode}"
    said = done.stderr.strip() or done.stdout.strip()
    return CommandError(outcome + _quote(said), where=shlex.join(done.argv))


def missing_program(name: str) -> HostNotFitError:
    """The error for a program that is not installed, with its Debian package if that is known."""
    package = DEBIAN_PACKAGES.get(Path(name).name)
    fix = f"apt-get install {package}" if package else f"install {name} or put it on PATH"
    return HostNotFitError(f"the program {name} is not installed", fix=fix)


def _start(
    words: tuple[str, ...], *, env: Mapping[str, str] | None, cwd: Path | None, merge: bool, feed: bool
) -> subprocess.Popen[bytes]:
    # LC_ALL=C.UTF-8: adapters parse the output, so it must not follow the user's language.
    environment = {**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merge else subprocess.PIPE,
            env=environment,
            cwd=cwd,
            start_new_session=True,
        )
    except FileNotFoundError:
        if cwd is not None and not cwd.is_dir():
            raise CommandError(f"the directory {cwd} does not exist", where=shlex.join(words)) from None
        raise missing_program(words[0]) from None
    except (OSError, ValueError) as error:
        # ValueError: a NUL byte in a word, which cannot be passed to any program.
        raise CommandError(f"the command cannot be started: {error}", where=shlex.join(words)) from error


def _communicate(process: subprocess.Popen[bytes], stdin: str | None, timeout: float) -> tuple[str, str]:
    """Both streams, read until the process has ended and closed them."""
    data = None if stdin is None else stdin.encode()
    stdout, stderr = process.communicate(data, timeout=timeout)
    return _decode(stdout), _decode(stderr)


def _stream(process: subprocess.Popen[bytes], stdin: str | None, timeout: float, on_line: Callable[[str], None]) -> str:
    """Combined output, with each line passed on as it appears; the caller's thread runs `on_line`."""
    feeder = _Feeder(process.stdin, stdin)
    lines = _Lines(on_line)
    pipe = process.stdout
    assert pipe is not None  # noqa: S101 - asked for in _start
    deadline = time.monotonic() + timeout
    with feeder, selectors.DefaultSelector() as selector:
        # A select with a deadline instead of a blocking read: a child that left the group (a daemon) may hold the
        # pipe open for ever, out of reach of the kill.
        selector.register(pipe, selectors.EVENT_READ)
        while selector.select(max(deadline - time.monotonic(), 0.0)):
            chunk = os.read(pipe.fileno(), 65536)
            if not chunk:
                break
            lines.feed(chunk)
        else:
            raise subprocess.TimeoutExpired(process.args, timeout, lines.text().encode())
    lines.close()
    pipe.close()
    try:
        process.wait(timeout=max(deadline - time.monotonic(), 0.0))
    except subprocess.TimeoutExpired:
        raise subprocess.TimeoutExpired(process.args, timeout, lines.text().encode()) from None
    return lines.text()


class _Lines:
    """Cuts chunks of output into lines."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._seen = bytearray()
        self._passed = 0

    def feed(self, chunk: bytes) -> None:
        searched = len(self._seen)
        self._seen += chunk
        while (end := self._seen.find(b"\n", max(searched, self._passed))) >= 0:
            self._pass_on(end + 1)

    def close(self) -> None:
        """Pass on a last line without a newline."""
        if self._passed < len(self._seen):
            self._pass_on(len(self._seen))

    def _pass_on(self, end: int) -> None:
        line = bytes(self._seen[self._passed : end])
        self._passed = end
        self._on_line(_decode(line).rstrip("\r\n"))

    def text(self) -> str:
        return _decode(bytes(self._seen))


class _Feeder:
    """Writes standard input from a thread, so that a process that writes before it reads cannot deadlock."""

    def __init__(self, pipe: IO[bytes] | None, text: str | None) -> None:
        self._pipe = pipe
        self._data = (text or "").encode()
        self._thread = threading.Thread(target=self._feed, daemon=True)

    def _feed(self) -> None:
        assert self._pipe is not None  # noqa: S101 - the thread is started only with a pipe
        with contextlib.suppress(BrokenPipeError), self._pipe:  # the process may stop reading early
            self._pipe.write(self._data)

    def __enter__(self) -> None:
        if self._pipe is not None:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        if self._pipe is not None:
            self._thread.join(timeout=_KILL_GRACE)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the process with its children and reap it; a process that cannot be killed is left behind."""
    _signal_group(process, signal.SIGKILL)
    try:
        process.wait(timeout=_KILL_GRACE)
    except subprocess.TimeoutExpired:
        log.warning("process %d does not die (uninterruptible); it is left behind", process.pid)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # The group's id is its leader's pid (start_new_session), which is reserved only until we reap the leader; after
    # that it could belong to a foreign process.
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _decode(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def _quote(output: bytes | str | None) -> str:
    """``: `` and the end of the output; empty without output."""
    text = _decode(output) if isinstance(output, bytes) else output or ""
    text = text.strip()
    if not text:
        return ""
    return ": " + (text if len(text) <= _QUOTED else "... " + text[-_QUOTED:])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
