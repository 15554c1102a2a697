"""What a hostile student tries on a node, as commands for a shell there. Each ends by itself within its seconds."""

from __future__ import annotations

import shlex

_BOMB = """\
trap '' TERM
echo begun
bomb() {{ while [ $SECONDS -lt {seconds} ]; do bomb & done; }} 2>/dev/null
bomb
"""

_HOG = """\
held = []
while True:
    held.append(b"x" * 2**24)
"""

# Connections on which nobody logs in, from every address that a user of the node has for it.
_KNOCKER = """\
import socket, time
end, held = time.monotonic() + {seconds}, []
print("begun", flush=True)
for number in range(200):
    one = socket.socket()
    one.setblocking(False)
    try:
        one.bind(("{source}" if number % 2 else f"127.0.0.{{number + 2}}", 0))
        one.connect(("{target}" if number % 2 else "127.0.0.1", 22))
    except BlockingIOError:
        pass
    held.append(one)
time.sleep(max(0, end - time.monotonic()))
"""

# Space is taken without being written, which counts the same and spares the disks of the tests' host.
_FILL = """\
import errno, os
taken, said = 0, ""
for place in ({places}):
    for size in (2**26, 2**20, 2**12):
        number = 0
        while True:
            name = f"{{place}}/fill-{{size}}-{{number}}"
            try:
                with open(name, "wb") as stream:
                    os.posix_fallocate(stream.fileno(), 0, size)
            except OSError as error:
                said = errno.errorcode[error.errno]
                break
            taken += size
            number += 1
print(said, taken)
"""

_EMPTY = "find {places} -maxdepth 1 -user $(id -u) -name 'fill-*' -delete"
_PLACES = ("/tmp", "/var/tmp")


def python(program: str) -> str:
    return f"exec python3 -c {shlex.quote(program)}"


def fork_bomb(seconds: int) -> str:
    """Every process forks for so long, goes on where it is refused, and ignores SIGTERM; prints `begun` first."""
    return f"exec bash -c {shlex.quote(_BOMB.format(seconds=seconds))}"


def memory_hog() -> str:
    """Takes memory until something ends it."""
    return python(_HOG)


def connections(seconds: int, address: str) -> str:
    """Holds 200 connections to the node's own sshd, half of them by the node's address and half by loopback ones."""
    return python(_KNOCKER.format(seconds=seconds, source=address, target=address))


def fill_disk() -> str:
    """Fills home, /tmp and /var/tmp to the last block; prints the error that ended it, and the bytes taken."""
    places = ", ".join(["os.path.expanduser('~')", *map(repr, _PLACES)])
    return python(_FILL.format(places=places))


def empty_disk() -> str:
    """Removes what `fill_disk` left."""
    return _EMPTY.format(places=f"~ {' '.join(_PLACES)}")
