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
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO

from emulator.adapters.system.session_time import work_of_session
from emulator.core.errors import CommandError, CommandTimeoutError, HostNotFitError
from emulator.core.ports import Completed, log
from emulator.core.units import MIB, human_bytes
from emulator.core.waiting.starting import Starting
from emulator.core.waiting.watch import Patience, Watch

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

# A command that works has its time in processor seconds so many times, which is longer on a host with other work; and
# no more than so many times in all.
_MOST_WORK, _LONGEST_WORK = 4, 16

# Characters that an error message quotes from the end of the output, where programs give their reasons.
_QUOTED = 2000
_FLOOD_QUOTED = 200  # of one that printed too much, which repeats itself

OUTPUT_LIMIT = 32 * MIB
"""Bytes that a command may print on both streams together. The largest answer of an honest one (all objects of a full
cluster as JSON) is below 10 MiB; a guest that prints for ever must not take the host's memory."""


class HostProcess:
    """`ProcessRunner` on this host.

    Args:
        output_limit: bytes that a command may print before it is ended.
    """

    def __init__(self, *, output_limit: int = OUTPUT_LIMIT) -> None:
        self._output_limit = output_limit

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
            CommandTimeoutError: it was not over within `timeout` seconds, and then did nothing any more, or used four
                times as many of the processor; the process group has been killed.
            CommandError: the command printed more than the limit and has been killed, whatever `check` says; or it
                ended with a non-zero exit status and `check`.
        """
        words = tuple(str(word) for word in argv)
        started = time.monotonic()
        starting = Starting(partial(_start, words, env=env, cwd=cwd, merge=on_line is not None, feed=stdin is not None))
        output = _Output(self._output_limit, on_line)
        try:
            process = starting.process()
            _collect(process, stdin, timeout, output)
        except _GivenUpError as error:
            _end_group(process)
            raise CommandTimeoutError(
                f"the command did not end within {timeout:g} s{error}{_quote(output.stdout)}",
                where=shlex.join(words),
                fix="run the command by hand to see what it waits for",
            ) from None
        except _TooMuchError:
            _end_group(process)
            raise CommandError(
                f"the command printed more than {human_bytes(self._output_limit)} and was ended{output.quoted_end()}",
                where=shlex.join(words),
                fix="run the command by hand, with `| head`, to see what it prints",
            ) from None
        except BaseException:
            if begun := starting.found():
                _end_group(begun)
            raise
        done = Completed(words, process.returncode, output.stdout, output.stderr)
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


def _collect(process: subprocess.Popen[bytes], stdin: str | None, timeout: float, output: _Output) -> None:
    """Read both streams until they are closed and the process has ended.

    Raises:
        _GivenUpError: the time is over, and it does nothing any more.
        _TooMuchError: the process printed more than the output takes.
    """
    deadline = _Deadline(process.pid, timeout)
    pipes = [pipe for pipe in (process.stdout, process.stderr) if pipe is not None]
    with _Feeder(process.stdin, stdin), selectors.DefaultSelector() as selector:
        # A select with a deadline rather than a blocking read: a child that left the group (a daemon) may
        # hold the pipe open for ever, beyond the reach of the kill.
        for pipe, sink in zip(pipes, output.sinks, strict=False):
            selector.register(pipe, selectors.EVENT_READ, sink)
        while selector.get_map():
            ready = selector.select(deadline.left())
            for key, _events in ready:
                chunk = os.read(key.fd, 65536)
                if chunk:
                    key.data(chunk)
                else:
                    selector.unregister(key.fileobj)
    output.close()
    for pipe in pipes:
        pipe.close()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=deadline.left())
            return


class _Deadline:
    """When a command is given up: at its time, unless it uses the processor or waits for its turn. It is looked at
    from shortly before on.

    What it prints is no sign: a guest could hold a command for hours with a byte now and then.
    """

    def __init__(self, session: int, timeout: float) -> None:
        self._session = session
        self._timeout = timeout
        self._patience = replace(Patience.within(timeout), longest=_LONGEST_WORK * timeout)
        self._watch = Watch(self._patience, time.monotonic)
        self._next = 0.7 * timeout
        self._wanted = 0  # looks that found it runnable, or waiting for a disk

    def left(self) -> float:
        """Seconds until the next look, which is made here when it is due.

        Raises:
            _GivenUpError: it did nothing since its time was nearly over, or worked for too long.
        """
        if self._watch.seconds >= self._next:
            work = work_of_session(self._session)
            self._wanted += work.wants
            given_up = self._watch.look((self._patience.steps(work.seconds), self._wanted))
            if work.seconds >= _MOST_WORK * self._timeout or (given_up and given_up.moving):
                raise _GivenUpError(f", and was still at work after {self._watch.seconds:.0f} s")
            if given_up:
                raise _GivenUpError
            self._next = self._watch.seconds + self._timeout / 16
        return max(self._next - self._watch.seconds, 0.0)


class _GivenUpError(Exception):
    """The process takes too long; the text says more than that."""


class _TooMuchError(Exception):
    """The process printed more than it may."""


class _Output:
    """What a process prints, up to `limit` bytes on both streams together; whole lines of stdout go to `on_line`."""

    def __init__(self, limit: int, on_line: Callable[[str], None] | None) -> None:
        self._limit = limit
        self._on_line = on_line
        self._stdout = bytearray()
        self._stderr = bytearray()
        self._reported = 0

    @property
    def sinks(self) -> tuple[Callable[[bytes], None], Callable[[bytes], None]]:
        """Where chunks of stdout and of stderr go."""
        return self._take_stdout, self._take_stderr

    @property
    def stdout(self) -> str:
        return _decode(bytes(self._stdout))

    @property
    def stderr(self) -> str:
        return _decode(bytes(self._stderr))

    def quoted_end(self) -> str:
        """The end of the longer stream, for an error message."""
        longer = max(self._stdout, self._stderr, key=len)
        return _quote(bytes(longer[-_FLOOD_QUOTED - 1 :]), limit=_FLOOD_QUOTED)

    def close(self) -> None:
        """Pass on a last line without a newline."""
        if self._on_line is not None and self._reported < len(self._stdout):
            self._report(len(self._stdout))

    def _take_stdout(self, chunk: bytes) -> None:
        searched = len(self._stdout)
        self._stdout += chunk
        self._check()
        if self._on_line is None:
            return
        while (end := self._stdout.find(b"\n", max(searched, self._reported))) >= 0:
            self._report(end + 1)

    def _take_stderr(self, chunk: bytes) -> None:
        self._stderr += chunk
        self._check()

    def _check(self) -> None:
        if len(self._stdout) + len(self._stderr) > self._limit:
            raise _TooMuchError

    def _report(self, end: int) -> None:
        line = bytes(self._stdout[self._reported : end])
        self._reported = end
        assert self._on_line is not None  # noqa: S101 - both callers asked
        self._on_line(_decode(line).rstrip("\r\n"))


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


def _quote(output: bytes | str | None, *, limit: int = _QUOTED) -> str:
    """``: `` and the end of the output; empty without output."""
    text = _decode(output) if isinstance(output, bytes) else output or ""
    text = text.strip()
    if not text:
        return ""
    return ": " + (text if len(text) <= limit else "... " + text[-limit:])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
