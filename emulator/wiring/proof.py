"""Whether a secret that was rotated does what it is for, asked of every node."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from emulator.adapters import x509
from emulator.app.world import CheckOutcome
from emulator.errors import HyperscalerError
from emulator.paths import LabPaths
from emulator.ports import GuestAddress, GuestShell
from emulator.rotation.model import RotatedSecret
from emulator.spec.model import ClusterSpec
from emulator.verify.hpc import verify_realm
from emulator.wiring.tls import certificate_of

_WORKERS = 8
_LOGIN_SECONDS = 60
# The node's own certificate, judged by what the node itself trusts; then its fingerprint.
_TLS = (
    "openssl verify -CApath /etc/ssl/certs /etc/hyperscaler/tls/node.crt"
    " && openssl x509 -noout -fingerprint -sha256 -in /etc/hyperscaler/tls/node.crt"
)


def closed_doors(shell: GuestShell, guests: Sequence[GuestAddress]) -> tuple[str, ...]:
    """Names of the guests that do not let us in."""
    with ThreadPoolExecutor(max_workers=_WORKERS, thread_name_prefix="login") as pool:
        answers = pool.map(lambda guest: shell.ready(guest, timeout=_LOGIN_SECONDS), guests)
        return tuple(guest.name for guest, let_in in zip(guests, answers, strict=True) if not let_in)


def prove_secret(
    spec: ClusterSpec, secret: RotatedSecret, paths: LabPaths, shell: GuestShell, guests: Sequence[GuestAddress]
) -> tuple[CheckOutcome, ...]:
    """Try the secret on the nodes that have it."""
    match secret:
        case RotatedSecret.MUNGE:
            report = verify_realm(spec, shell, {guest.name: guest for guest in guests})
            return tuple(CheckOutcome(check.name, check.ok, check.detail, check.seconds) for check in report.checks)
        case RotatedSecret.TLS:
            with ThreadPoolExecutor(max_workers=_WORKERS, thread_name_prefix="tls") as pool:
                return tuple(pool.map(lambda guest: _certificate(paths, shell, guest), guests))
        case RotatedSecret.SSH:
            refusing = closed_doors(shell, guests)
            return tuple(
                CheckOutcome(f"login {guest.name}", guest.name not in refusing, _LOGIN[guest.name not in refusing], 0.0)
                for guest in guests
            )


_LOGIN = {True: "lets us in with the new key", False: "does not let us in with the new key"}


def _certificate(paths: LabPaths, shell: GuestShell, guest: GuestAddress) -> CheckOutcome:
    started = time.monotonic()
    try:
        done = shell.run(guest, _TLS, timeout=_LOGIN_SECONDS, check=False)
        said = (done.stdout + done.stderr).strip()
    except HyperscalerError as error:
        return CheckOutcome(f"certificate {guest.name}", False, error.what, time.monotonic() - started)
    wanted = x509.fingerprint(certificate_of(paths, guest.name).read_bytes())
    has = said.rpartition("=")[2].replace(":", "").strip().lower()
    ok = done.returncode == 0 and has == wanted
    detail = "is trusted by the node" if ok else said[-500:] or "has another certificate"
    return CheckOutcome(f"certificate {guest.name}", ok, detail, time.monotonic() - started)
