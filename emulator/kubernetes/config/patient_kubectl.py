"""kubectl on a control plane that may be too busy to answer at once."""

from __future__ import annotations

import re

from emulator.core.errors import HyperscalerError
from emulator.core.ports import Completed, GuestAddress, GuestShell
from emulator.core.waiting.pace import Pace
from emulator.core.waiting.watch import Clock, Look, Patience, wait_until

_PATIENCE_SECONDS = 90.0
_AGAIN_SECONDS = 5.0
# kubectl's words for an API server that did not answer in time, or not at all. Go gives a TLS handshake ten seconds,
# which an emulated CPU that others compete for does not always keep.
_NO_ANSWER = re.compile(
    r"^(error: )?(Unable to connect to the server|The connection to the server \S+ was refused"
    r"|Error from server \((Timeout|ServerTimeout|ServiceUnavailable|InternalError|TooManyRequests)\))"
    r'|(Get|Post|Put|Patch|Delete) "https://\S+": (dial|read|write|net|http2|context|EOF)',
    re.MULTILINE,
)


def run_patiently(
    shell: GuestShell, head: GuestAddress, command: str, *, timeout: float, pace: Pace, clock: Clock | None = None
) -> Completed:
    """The end of a command with kubectl, which is repeated while the API server does not answer.

    Args:
        shell: runs it on `head`, the control plane.
        head: its address.
        command: may be taken again.
        timeout: seconds for one try, of a fast host.
        pace: of this host.
        clock: time; the real one if not given.

    Raises:
        HyperscalerError: the control plane does not let us in, or a try took too long.
    """

    def look() -> Look[Completed]:
        done = shell.run(head, command, timeout=timeout, check=False)
        answered = done.returncode == 0 or _NO_ANSWER.search(done.stderr) is None
        return Look(done, answered, sign=done.stderr.strip().rpartition("\n")[2], pause=_AGAIN_SECONDS)

    return wait_until(look, Patience.within(pace.seconds(_PATIENCE_SECONDS)), clock=clock).value


def ask_patiently(
    shell: GuestShell, head: GuestAddress, command: str, *, timeout: float, pace: Pace, clock: Clock | None = None
) -> str:
    """What the command prints; see `run_patiently`.

    Raises:
        HyperscalerError: it failed; its last line says why.
    """
    done = run_patiently(shell, head, command, timeout=timeout, pace=pace, clock=clock)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise HyperscalerError(
            f"the cluster cannot be asked: {said}",
            where=head.name,
            fix="wait until the host has less to do, then run the command again; `hyperscaler status` shows the nodes",
        )
    return done.stdout
