"""Whether a secret that was rotated does what it is for, asked of every node."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from emulator.core.errors import HyperscalerError
from emulator.core.paths import LabPaths
from emulator.core.pool import threads
from emulator.core.ports import GuestAddress, GuestShell
from emulator.core.waiting.pace import Pace
from emulator.credentials import x509
from emulator.credentials.rotation_phases import RotatedSecret
from emulator.credentials.tls_certificates import certificate_of
from emulator.guests.verify.report import CheckResult
from emulator.guests.verify.slurm_probes import verify_realm
from emulator.labfile.model import ClusterKind, ClusterSpec

_WORKERS = 8
_LOGIN_SECONDS = 60
# The node's own certificate, judged by what the node itself trusts; then its fingerprint.
_TLS = (
    "openssl verify -CApath /etc/ssl/certs /etc/hyperscaler/tls/node.crt"
    " && openssl x509 -noout -fingerprint -sha256 -in /etc/hyperscaler/tls/node.crt"
)
# What kubelet serves, judged in the same way. It was restarted a short while ago, and may still be on its way; a node
# that has not joined its cluster to the end serves nothing that could be judged.
_NO_MEMBER = "is no member of the cluster"
_KUBELET = r"""
[ -e {record} ] || {{ echo '{no_member}'; exit 0; }}
deadline=$(($(date +%s) + {seconds}))
while :; do
    said=$(openssl s_client -connect 127.0.0.1:{port} -CApath {trusted} -verify_return_error -verify_hostname {name} \
        </dev/null 2>&1) && printf '%s\n' "$said" | openssl x509 -noout -fingerprint -sha256 && exit 0
    [ "$(date +%s)" -lt "$deadline" ] || break
    sleep {pause}
done
printf '%s\n' "$said"
exit 1
"""
_KUBELET_SECONDS = 180  # that kubelet may take to be up on an emulated CPU


def closed_doors(shell: GuestShell, guests: Sequence[GuestAddress]) -> tuple[str, ...]:
    """Names of the guests that do not let us in."""
    with threads(_WORKERS, "login") as pool:
        answers = pool.map(lambda guest: shell.ready(guest, timeout=_LOGIN_SECONDS), guests)
        return tuple(guest.name for guest, let_in in zip(guests, answers, strict=True) if not let_in)


def prove_secret(
    spec: ClusterSpec,
    secret: RotatedSecret,
    paths: LabPaths,
    shell: GuestShell,
    guests: Sequence[GuestAddress],
    pace: Pace | None = None,
) -> tuple[CheckResult, ...]:
    """Try the secret on the nodes that have it; `pace` is this host's."""
    pace = pace or Pace()
    match secret:
        case RotatedSecret.MUNGE:
            report = verify_realm(spec, shell, {guest.name: guest for guest in guests}, pace=pace)
            return report.checks
        case RotatedSecret.TLS:
            with threads(_WORKERS, "tls") as pool:
                laid = [pool.submit(_certificate, paths, shell, guest) for guest in guests]
                serving = {node.name for node in spec.nodes_of(ClusterKind.CLOUD)}
                served = [pool.submit(_kubelet, paths, shell, guest, pace) for guest in guests if guest.name in serving]
                return tuple(each.result() for each in (*laid, *served))
        case RotatedSecret.SSH:
            refusing = closed_doors(shell, guests)
            return tuple(
                CheckResult(f"login {guest.name}", guest.name not in refusing, _LOGIN[guest.name not in refusing], 0.0)
                for guest in guests
            )


_LOGIN = {True: "lets us in with the new key", False: "does not let us in with the new key"}


def _certificate(paths: LabPaths, shell: GuestShell, guest: GuestAddress) -> CheckResult:
    return _compared(paths, shell, guest, "certificate", _TLS, _LOGIN_SECONDS)


def _kubelet(paths: LabPaths, shell: GuestShell, guest: GuestAddress, pace: Pace) -> CheckResult:
    command = kubelet_command(guest.name, pace=pace)
    return _compared(paths, shell, guest, "kubelet", command, _KUBELET_SECONDS + _LOGIN_SECONDS)


def kubelet_command(
    name: str,
    *,
    port: int = 10250,
    record: str = "/var/lib/hyperscaler/kubeadm.json",
    trusted: str = "/etc/ssl/certs",
    seconds: int = _KUBELET_SECONDS,
    pause: int = 2,
    pace: Pace | None = None,
) -> str:
    """What asks the kubelet of the node `name`, on it, for its certificate, until one comes that the node trusts."""
    seconds = math.ceil((pace or Pace()).seconds(seconds))
    return _KUBELET.format(
        name=name, port=port, record=record, trusted=trusted, seconds=seconds, pause=pause, no_member=_NO_MEMBER
    ).strip()


def _compared(
    paths: LabPaths, shell: GuestShell, guest: GuestAddress, what: str, command: str, timeout: float
) -> CheckResult:
    """Whether the command prints the fingerprint of the node's certificate."""
    started = time.monotonic()
    try:
        done = shell.run(guest, command, timeout=timeout, check=False)
        said = (done.stdout + done.stderr).strip()
    except HyperscalerError as error:
        return CheckResult(f"{what} {guest.name}", False, error.what, time.monotonic() - started)
    if said == _NO_MEMBER:
        return CheckResult(f"{what} {guest.name}", True, said, time.monotonic() - started)
    wanted = x509.fingerprint(certificate_of(paths, guest.name).read_bytes())
    has = said.rpartition("=")[2].replace(":", "").strip().lower()
    ok = done.returncode == 0 and has == wanted
    detail = "is trusted by the node" if ok else said[-500:] or "has another certificate"
    return CheckResult(f"{what} {guest.name}", ok, detail, time.monotonic() - started)
