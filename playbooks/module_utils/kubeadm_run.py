"""Running kubeadm on a node: one run at a time, with its files whole. Standard library only, because it runs in the
guests."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ansible.module_utils.kubeadm_config import API_PORT
from ansible.module_utils.kubeadm_reset import NodeError, run
from ansible.module_utils.pace import LONGEST, TOO_SLOW, Watch, seconds
from ansible.module_utils.whole_file import write_whole

LOCK = "/run/hyperscaler-kubeadm.lock"
# The node's record of the release on its disk.
RELEASE = "/usr/lib/hyperscaler/kubernetes.json"
TRIES = 4


def read_json(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except FileNotFoundError:
        return {}


def write_private(path: str, text: str) -> None:
    """Mode 0600 from its first byte on, complete or not at all."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    write_whole(path, text.encode())


def answers(ip: str, timeout: float) -> bool:
    """Whether the API server at `ip` says that it is ready. It has `timeout` seconds, and longer while its start-up
    hooks end one after the other or containers come up."""
    # Readiness is public, and no secret is sent: the certificate need not be looked at here.
    context = ssl._create_unverified_context()  # noqa: S323
    watch = Watch(timeout)
    while True:
        said = b""
        try:
            url = f"https://{ip}:{API_PORT}/readyz?verbose"
            with urllib.request.urlopen(url, timeout=seconds(10), context=context) as reply:
                if reply.status == 200:
                    return True
        except urllib.error.HTTPError as error:
            with contextlib.suppress(OSError):
                said = error.read(65536)  # a line for each hook and check, with whether it has ended
        except (OSError, urllib.error.URLError):
            pass
        if watch.over((said, running_containers())):
            return False
        time.sleep(1)


def running_containers() -> frozenset[str]:
    """kubelet's containers by their cgroups, and none where there are none yet."""
    return frozenset(glob.glob("/sys/fs/cgroup/kubepods.slice/**/cri-containerd-*.scope", recursive=True))


def again_where_it_fails(step: Callable[[], object]) -> None:
    """Take a step that may be taken again, with pauses, until it succeeds; the last failure is raised."""
    for _ in range(TRIES - 1):
        try:
            step()
            return
        except NodeError:
            time.sleep(5)
    step()


def again_where_it_was_too_slow(step: Callable[[], object], clean_up: Callable[[], object]) -> None:
    """Take a step until it succeeds, at most `TRIES` times. kubeadm has a fixed time and one try for some requests,
    which a busy emulated API server may not keep: after such a failure `clean_up` makes the node fit for another try.
    Any other failure is raised, and so is the last one, from which nothing is cleaned up."""
    for _ in range(TRIES - 1):
        try:
            step()
            return
        except NodeError as error:
            if not TOO_SLOW.search(str(error)):
                raise
        clean_up()
    step()


def kubeadm(argv: Sequence[str], timeout: float) -> None:
    run(["systemctl", "enable", "kubelet"], 120)
    try:
        # Each of its phases has the time; all together have it several times.
        run(argv, LONGEST * timeout)
    except (NodeError, subprocess.TimeoutExpired) as error:
        raise NodeError(f"{error}\n{kubelet_journal()}") from error


def kubelet_journal() -> str:
    argv = ["journalctl", "--unit", "kubelet", "--no-pager", "--output=cat", "--lines=12"]
    return run(argv, 60, check=False).stdout.strip()


@contextlib.contextmanager
def one_at_a_time(timeout: float) -> Iterator[None]:
    """Waits until no other run of this module works on the node. One goes on here after the tool on the other end was
    killed; what it is about to finish must not be torn down under it."""
    with open(LOCK, "w", encoding="utf-8") as stream:
        deadline = time.monotonic() + seconds(timeout)
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise NodeError(
                        f"an earlier run still works on this node after {seconds(timeout)} s: {LOCK}"
                    ) from error
                time.sleep(1)
        yield
