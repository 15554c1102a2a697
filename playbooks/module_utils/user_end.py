#!/usr/bin/python3
"""The end of a lab user's access, on a node: no new login, job or pod, then nothing that runs is left.

The role lab_access lays this file on every node, where a systemd timer runs it once a minute, so that access ends
without the lab's host. Ansible's modules import it for the same ends. Standard library only, because it runs in the
guests.

Who ends when is in /etc/hyperscaler/ends, a line `NAME UID END NAMESPACE` for each user: END in seconds since the
epoch, 0 for a user whose access was revoked; NAMESPACE is the user's own in Kubernetes.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec, Protocol, TypedDict

ENDS = "/etc/hyperscaler/ends"
# Which end was carried out, and whether nothing was left; it outlives a boot, so that a clock that is set back gives no
# access again.
RECORD = "/var/lib/hyperscaler/ended.json"
# When each end comes by the clock that nobody sets; of this boot only.
DEADLINES = "/run/hyperscaler-ends.json"
ADMIN_CONF = "/etc/kubernetes/admin.conf"
# Where the control plane keeps a token for each user who logs in there; see the role k8s_users.
TOKENS = "/run/hyperscaler-kubeconfigs"
ACCOUNTS = "hyperscaler-users"
LABEL = "hyperscaler/user"
ACCOUNT = "lab"

# Of people whom the lab lets in; the nodes' own accounts are below, and `nobody` is above.
USER_UIDS = range(3000, 60000)
# Under this uid nothing ever runs: see `strike`.
NO_ONE = 65533

PATIENCE = 30
JOB_PATIENCE = 60
POD_PATIENCE = 60
COMMAND_TIMEOUT = 60
WORKLOADS = "cronjobs,deployments,statefulsets,daemonsets,replicasets,replicationcontrollers,jobs,pods"
_LINE = re.compile(r"([a-z][a-z0-9-]{0,30}) ([0-9]{4,5}) ([0-9]{1,12}) ([a-z][a-z0-9-]{0,62})")


class User(TypedDict):
    name: str
    uid: int
    end: int
    namespace: str


class Ended(TypedDict):
    """An end that was carried out, and whether nothing was left."""

    end: int
    settled: bool


P = ParamSpec("P")
# An end, and when it comes by the clock since boot, in seconds.
Limit = tuple[float, float]


class Kubectl(Protocol):
    def __call__(self, *words: str) -> str: ...


class CommandError(Exception):
    """A program of the node said no, or nothing for too long; the text is for the operator."""


def run(*argv: str) -> str:
    """A command's output."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandError(f"{' '.join(argv[:3])}: {error}") from error
    if done.returncode:
        raise CommandError(f"{' '.join(argv[:3])}: {(done.stderr or done.stdout).strip()[:500]!a}")
    return done.stdout


# ---------------------------------------------------------------- processes
def alive(uid: int, proc: str = "/proc") -> list[str]:
    """Processes that run under the uid, real, effective, saved or of file systems, as `PID (NAME)`."""
    found = []
    for pid in filter(str.isdigit, os.listdir(proc)):
        try:
            with open(f"{proc}/{pid}/status", encoding="utf-8", errors="replace") as stream:
                fields = dict(line.split(":", 1) for line in stream if ":" in line)
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(uid) in fields.get("Uid", "").split() and runs(fields):
            found.append(f"{pid} ({fields.get('Name', '').strip()!a})")
    return found


def runs(fields: Mapping[str, str]) -> bool:
    """Whether the process still runs. A zombie with other threads does: only its first thread is gone."""
    return fields.get("State", "").split()[:1] not in (["Z"], ["X"]) or int(fields.get("Threads", "1")) > 1


def strike(uid: int) -> None:
    """Send SIGKILL to all processes of the uid at once.

    kill(-1) holds the kernel's list of processes while it goes through it, so that a process which forks all the time
    is not faster. It reaches what the effective or the real uid of the sender may signal: with root's real uid that
    would be root's own processes. And the user may signal a sender that has their uid as its real or saved one: so
    these are a uid that nothing runs under, and the user cannot kill it first."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresuid(NO_ONE, uid, NO_ONE)
            os.kill(-1, signal.SIGKILL)
            status = 0
        except ProcessLookupError:
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if status:
        raise CommandError(f"processes of uid {uid} cannot be signalled: status {status}")


def end_processes(uid: int, *, patience: float = PATIENCE, cgroups: str = "/sys/fs/cgroup") -> list[str]:
    """Kill all that runs under the uid; what is left after `patience` seconds. Only uids of a lab's users are meant.

    Where logind keeps a slice for the user, the kernel kills all of it, programs with another uid included."""
    deadline = time.monotonic() + patience
    switch = f"{cgroups}/user.slice/user-{uid}.slice/cgroup.kill"
    while True:
        # Where there is no slice, or systemd removes it meanwhile, the signals below do it.
        with contextlib.suppress(OSError), open(switch, "w", encoding="ascii") as stream:
            stream.write("1")
        strike(uid)
        left = alive(uid)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.05)


# ---------------------------------------------------------------- accounts
def expiry(name: str, shadow: str = "/etc/shadow") -> str:
    """The account's day of expiry as it is in /etc/shadow; empty for none, or no such account."""
    with open(shadow, encoding="utf-8", errors="surrogateescape") as stream:
        fields = [line.rstrip("\n").split(":") for line in stream]
    return next((entry[7] for entry in fields if entry[0] == name and len(entry) > 7), "")


def has_account(user: User) -> bool:
    try:
        return pwd.getpwnam(user["name"]).pw_uid == user["uid"]
    except KeyError:
        return False


def bar(name: str) -> None:
    """Let nobody in with this account: sshd asks PAM, which refuses an account that is expired, whatever the key."""
    if expiry(name) != "1":
        run("usermod", "--expiredate", "1", name)
    for place in ("/var/lib/systemd/linger", "/var/spool/cron/crontabs"):
        if os.path.lexists(f"{place}/{name}"):
            os.unlink(f"{place}/{name}")


# ---------------------------------------------------------------- Slurm
def is_controller() -> bool:
    """Whether this node's slurmctld is meant to run, and so rules the jobs of the lab."""
    argv = ["systemctl", "is-enabled", "--quiet", "slurmctld.service"]
    return shutil.which("scancel") is not None and subprocess.run(argv, check=False).returncode == 0


def limit_jobs(name: str, most: int) -> None:
    """How many jobs the user may have submitted: 0, or -1 for as many as their quality of service says."""
    if run("sacctmgr", "-nP", "show", "associations", f"user={name}", f"account={ACCOUNT}", "format=user").strip():
        where = ["where", f"name={name}", f"account={ACCOUNT}"]
        run("sacctmgr", "--immediate", "--quiet", "modify", "user", *where, "set", f"maxsubmitjobs={most}")


def cancel_jobs(name: str) -> None:
    """Cancel pending and running jobs. The second call kills programs that ignore the first, without Slurm's grace."""
    run("scancel", "--quiet", f"--user={name}")
    run("scancel", "--quiet", "--full", "--signal=KILL", f"--user={name}")


def jobs_left(name: str, *, patience: float = JOB_PATIENCE) -> list[str]:
    """The user's jobs that Slurm still has after `patience` seconds; one that completes is still there."""
    deadline = time.monotonic() + patience
    while left := run("squeue", "--noheader", f"--user={name}", "--format=%i").split():
        if time.monotonic() > deadline:
            break
        time.sleep(1)
    return [f"job {job}" for job in left]


# ---------------------------------------------------------------- Kubernetes
def admin_kubectl(*words: str) -> str:
    return run("env", "HOME=/root", "kubectl", "--kubeconfig", ADMIN_CONF, *words)


def end_grants(name: str, kubectl: Kubectl) -> None:
    """Take roles and tokens: a service account's tokens end with it."""
    for kind in ("clusterrolebindings", "rolebindings"):
        everywhere = ["--all-namespaces"] if kind == "rolebindings" else []
        kubectl("delete", kind, *everywhere, "--selector", f"{LABEL}={name}", "--wait=false")
    kubectl("delete", "serviceaccount", name, "--namespace", ACCOUNTS, "--ignore-not-found", "--wait=false")
    # It is good for nothing now, and would be taken for one that lasts if the user comes back.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{TOKENS}/{name}")


def close_quota(namespace: str, kubectl: Kubectl) -> None:
    """No new pod begins in the namespace, and no token of an account in it is good any more.

    Tokens end with their account, whatever end they name; the cluster makes the namespace's own account anew."""
    patch = json.dumps([{"op": "replace", "path": "/spec/hard", "value": {"pods": "0"}}])
    kubectl("patch", "resourcequota", "hyperscaler", "--namespace", namespace, "--type=json", "--patch", patch)
    tokens = ["--field-selector", "type=kubernetes.io/service-account-token"]
    kubectl("delete", "secrets", "--namespace", namespace, *tokens, "--wait=false")
    kubectl("delete", "serviceaccounts", "--all", "--namespace", namespace, "--wait=false")


def end_pods(namespace: str, kubectl: Kubectl, *, patience: float = POD_PATIENCE) -> list[str]:
    """End what runs in a namespace whose quota is closed; the pods left after `patience` seconds.

    One second of grace, and not none: without grace the API server forgets a pod at once, while its kubelet may wait
    for as long as the pod itself asked for. Finalizers that a user put on a pod keep its record, not its programs."""
    kubectl("delete", WORKLOADS, "--all", "--namespace", namespace, "--grace-period=1", "--wait=false")
    started, freed = time.monotonic(), False
    while left := kubectl("get", "pods", "--namespace", namespace, "--output=name").split():
        waited = time.monotonic() - started
        if waited > patience:
            break
        if waited > patience / 4 and not freed:
            free(left, namespace, kubectl)
            freed = True
        time.sleep(2)
    return left


def free(pods: Sequence[str], namespace: str, kubectl: Kubectl) -> None:
    """Take finalizers from pods that end already: the API server keeps one until its kubelet says that it has ended."""
    kubectl("delete", "pods", "--all", "--namespace", namespace, "--grace-period=1", "--wait=false")
    for pod in pods:
        # One that has gone meanwhile cannot be patched; what is left is looked at again, and reported.
        with contextlib.suppress(Exception):
            kubectl(
                "patch", pod, "--namespace", namespace, "--type=merge", "--patch", '{"metadata":{"finalizers":null}}'
            )


def end_in_kubernetes(user: User, kubectl: Kubectl = admin_kubectl) -> list[str]:
    """What of the user is left in the cluster that this node rules."""
    namespace = user["namespace"]
    end_grants(user["name"], kubectl)
    if not kubectl("get", "resourcequota", "hyperscaler", "-n", namespace, "--ignore-not-found", "-o", "name").strip():
        return []
    close_quota(namespace, kubectl)
    return end_pods(namespace, kubectl)


# ---------------------------------------------------------------- one run
def parse_ends(text: str) -> tuple[list[User], list[str]]:
    """Users of the file, and lines that are none."""
    users: list[User] = []
    bad: list[str] = []
    for line in filter(None, text.splitlines()):
        match = _LINE.fullmatch(line)
        if match and int(match[2]) in USER_UIDS:
            users.append({"name": match[1], "uid": int(match[2]), "end": int(match[3]), "namespace": match[4]})
        else:
            bad.append(ascii(line[:80]))
    return users, bad


def read_json(path: str) -> dict[str, object]:
    """What `write_json` wrote; nothing for a file that is missing or damaged."""
    try:
        with open(path, encoding="utf-8") as stream:
            value = json.load(stream)
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: str, value: object) -> None:
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    with open(f"{path}.new", "w", encoding="utf-8") as stream:
        json.dump(value, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(f"{path}.new", path)


def read_record() -> dict[str, Ended]:
    """Ends that were carried out; an entry that is none counts as not there."""
    found: dict[str, Ended] = {}
    for name, entry in read_json(RECORD).items():
        if isinstance(entry, dict) and isinstance(entry.get("end"), int):
            found[name] = {"end": entry["end"], "settled": entry.get("settled") is True}
    return found


def read_deadlines() -> dict[str, Limit]:
    found: dict[str, Limit] = {}
    for name, entry in read_json(DEADLINES).items():
        if isinstance(entry, list) and len(entry) == 2 and all(isinstance(each, int | float) for each in entry):
            found[name] = (entry[0], entry[1])
    return found


def deadlines(users: Sequence[User], seen: Mapping[str, Limit], *, wall: float, boottime: float) -> dict[str, Limit]:
    """When each end comes by the clock since boot, which nobody sets. One that was seen before stays as it was."""
    limits: dict[str, Limit] = {}
    for user in users:
        known = seen.get(user["name"])
        limits[user["name"]] = (
            known if known and known[0] == user["end"] else (user["end"], boottime + user["end"] - wall)
        )
    return limits


def is_over(user: User, limit: Limit, record: Mapping[str, Ended], *, wall: float, boottime: float) -> bool:
    """By either clock; an end that was once carried out stays so whatever a clock says afterwards."""
    before = record.get(user["name"])
    carried_out = before is not None and before["end"] == user["end"]
    return wall >= user["end"] or boottime >= limit[1] or carried_out


def attempt(left: list[str], action: Callable[P, list[str] | None], *args: P.args, **kwargs: P.kwargs) -> None:
    """Do one step of an end. What fails is named among what is left and keeps no other step from being done."""
    try:
        left += action(*args, **kwargs) or []
    except (CommandError, OSError) as error:
        left.append(str(error))


def end(user: User, *, everything: bool) -> list[str]:
    """Take all that the user has on this node, new work first; what is left. `everything`: in the clusters, too."""
    left: list[str] = []
    name = user["name"]
    there = has_account(user)
    if there:
        attempt(left, bar, name)
    slurm = everything and there and is_controller()
    if slurm:
        attempt(left, limit_jobs, name, 0)
        attempt(left, cancel_jobs, name)
    attempt(left, end_processes, user["uid"])
    if everything and os.path.exists(ADMIN_CONF):
        attempt(left, end_in_kubernetes, user)
    if slurm:
        attempt(left, jobs_left, name)
    return left


def open_again(user: User) -> list[str]:
    """Undo `bar` and the limit on jobs for a user who has access again; the playbook gives roles in Kubernetes."""
    left: list[str] = []
    if has_account(user):
        if expiry(user["name"]) == "1":
            attempt(left, run_quietly, "usermod", "--expiredate", "", user["name"])
        if is_controller():
            attempt(left, limit_jobs, user["name"], -1)
    return left


def run_quietly(*argv: str) -> None:
    run(*argv)


def carry_out(
    users: Sequence[User],
    record: Mapping[str, Ended],
    limits: Mapping[str, Limit],
    *,
    wall: float,
    boottime: float,
    say: Callable[[str], None] = print,
) -> tuple[dict[str, Ended], bool]:
    """One run: the new record, and whether all is as it should be."""
    after: dict[str, Ended] = {}
    clean = True
    for user in users:
        name, before = user["name"], record.get(user["name"])
        if is_over(user, limits[name], record, wall=wall, boottime=boottime):
            same = before is not None and before["end"] == user["end"]
            settled = before is not None and same and before["settled"]
            left = end(user, everything=not settled)
            after[name] = {"end": user["end"], "settled": not left}
            if not same:
                say(f"the access of {name} has ended")
        elif before is not None:
            left = open_again(user)
            if left:
                after[name] = before
        else:
            left = []
        if left:
            clean = False
            say(f"{name}: left: {', '.join(left[:20])}")
    return after, clean


def end_jobs(name: str) -> list[str]:
    """Cancel all jobs of a user for good; what is left. Under a name without an account Slurm has none."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return []
    left: list[str] = []
    attempt(left, limit_jobs, name, 0)
    attempt(left, cancel_jobs, name)
    attempt(left, jobs_left, name)
    return left


def report_jobs(name: str) -> int:
    left = end_jobs(name)
    if left:
        print(f"the jobs of {name} do not end: {', '.join(left[:20])}")
    return 1 if left else 0


def main() -> int:
    with open(ENDS, encoding="ascii", errors="replace") as stream:
        users, bad = parse_ends(stream.read())
    for line in bad:
        print(f"{ENDS}: not understood: {line}")
    wall, boottime = time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
    limits = deadlines(users, read_deadlines(), wall=wall, boottime=boottime)
    write_json(DEADLINES, limits)
    after, clean = carry_out(users, read_record(), limits, wall=wall, boottime=boottime)
    write_json(RECORD, after)
    return 0 if clean and not bad else 1


if __name__ == "__main__":
    sys.exit(report_jobs(sys.argv[2]) if sys.argv[1:2] == ["jobs"] else main())
