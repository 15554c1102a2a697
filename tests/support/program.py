"""The program with its modules loaded once: each run of it is a copy (a fork) that gets streams and an environment of
its own and goes through `main`.

To load them takes nine tenths of the time of a verb that prints a few lines. How a process begins and ends that is
started by itself is not tested by this, but by `started`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]

SERVER = """
import io, json, os, pkgutil, socket, sys
from importlib import import_module

import emulator
from emulator.cli.main import main

for module in pkgutil.walk_packages(emulator.__path__, "emulator."):
    import_module(module.name)
for library in ("cryptography.x509", "jsonschema", "libvirt", "pynvml", "rich.console", "rich.table"):
    import_module(library)


def stream(number, mode, errors, encoding):
    # As the interpreter makes its standard streams: none for a descriptor that is closed.
    try:
        os.fstat(number)
    except OSError:
        return None
    binary = io.open(number, mode + "b", -1, closefd=False)
    lines = number == 2 or binary.isatty()
    return io.TextIOWrapper(binary, encoding, errors, newline=chr(10), line_buffering=lines)


asked = socket.socket(fileno=int(sys.argv[1]))
while True:
    message, descriptors, _, _ = socket.recv_fds(asked, 1 << 20, 3)
    if not message:
        sys.exit()
    child = os.fork()
    if child == 0:
        break
    for descriptor in descriptors:
        os.close(descriptor)
    asked.sendall(b"%d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

asked.close()
request = json.loads(message)
for number, descriptor in enumerate(descriptors):
    os.dup2(descriptor, number)
for number in (*descriptors, *request["closed"]):
    os.close(number)
os.environ.clear()
os.environ.update(request["environment"])
sys.argv = ["hyperscaler", *request["words"]]
encoding = os.environ.get("PYTHONIOENCODING", "utf-8")
sys.stdin = stream(0, "r", "strict", encoding)
sys.stdout = sys.__stdout__ = stream(1, "w", "strict", encoding)
sys.stderr = sys.__stderr__ = stream(2, "w", "backslashreplace", encoding)
try:
    main()
except SystemExit as end:
    code = int(end.code or 0)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = 120  # what an interpreter ends with that has complained of a stream
    os._exit(code)
"""

Completed = subprocess.CompletedProcess[bytes]


def started(words: Sequence[str], *, stdout: int, closed: Sequence[int], environment: Mapping[str, str]) -> Completed:
    """The program as a user starts it. See `LoadedProgram.run` for the arguments."""
    return subprocess.run(
        [sys.executable, "-m", "emulator.cli.main", *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: close(*closed),
        check=False,
        timeout=PATIENCE,
    )


def close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class LoadedProgram:
    """See `loaded_program`."""

    def __init__(self, asking: socket.socket) -> None:
        self._asking = asking

    def run(
        self, words: Sequence[str], *, stdout: int, closed: Sequence[int], environment: Mapping[str, str]
    ) -> Completed:
        """Run it to its end.

        Args:
            words: its arguments.
            stdout: a descriptor, or `subprocess.PIPE`.
            closed: which of its standard streams are closed.
            environment: beside that of the tests.
        """
        request = {"words": list(words), "closed": list(closed), "environment": {**os.environ, **environment}}
        with open(os.devnull, "rb") as nothing, _memory() as out, _memory() as err:  # noqa: PTH123
            given = out if stdout == subprocess.PIPE else stdout
            socket.send_fds(self._asking, [json.dumps(request).encode()], [nothing.fileno(), given, err])
            code = int(self._asking.recv(64))
            return subprocess.CompletedProcess(list(words), code, _content(out), _content(err))


@contextmanager
def _memory() -> Iterator[int]:
    descriptor = os.memfd_create("stream")
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


@contextmanager
def loaded_program() -> Iterator[LoadedProgram]:
    """The program, loaded, while the block runs."""
    ours, its = socket.socketpair()
    with ours, its:
        argv = [sys.executable, "-c", SERVER, str(its.fileno())]
        process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[its.fileno()])
        its.close()
        yield LoadedProgram(ours)
        ours.shutdown(socket.SHUT_RDWR)
    process.wait(timeout=PATIENCE)
