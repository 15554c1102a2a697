"""The end of a user's access against programs that do not want to end. Real processes of a uid that nobody has, in a
process namespace of their own: with root's rights, and gone with the test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.playbook_modules import PLAYBOOKS
from tests.support.waiting import PATIENCE

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to run something as another user"),
]

UID = 58232
PRIVATE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
# Starts an attacker as the user and bystanders as others, ends the user once, and says who is still there. What the
# attacks import is there before they give up root, who alone may read this Python's library.
DRIVER = f"""
import ctypes, importlib.util, json, os, resource, select, signal, subprocess, sys, threading, time
driver = os.fork()
while driver:  # the first process of a namespace takes in orphans: a relay must not end by the dead it leaves behind
    pid, status = os.wait()
    if pid == driver:
        os._exit(os.waitstatus_to_exitcode(status))
spec = importlib.util.spec_from_file_location("user_end", {str(PLAYBOOKS / "module_utils" / "user_end.py")!r})
user_end = importlib.util.module_from_spec(spec)
spec.loader.exec_module(user_end)
uid = {UID}
others = [subprocess.Popen(["sleep", "600"], user=uid + 1), subprocess.Popen(["sleep", "600"])]
begun, READY = os.pipe()
if os.fork() == 0:
    os.chdir("/")
    os.setgroups([])
    resource.setrlimit(resource.RLIMIT_NPROC, (60, 60))
    os.setresuid(uid, uid, uid)
    exec(sys.argv[1])
    os._exit(0)
ready = bool(select.select([begun], [], [], 900)[0])
time.sleep(0.3)
before = len(user_end.alive(uid))
left = user_end.end_processes(uid, patience=900, cgroups="/nonexistent")
time.sleep(0.5)
after = user_end.alive(uid)
states = [each.poll() for each in others]
print(json.dumps({{"ready": ready, "before": before, "left": left, "after": after, "others": states}}))
sys.stdout.flush()
os._exit(0)
"""
BEGUN = "os.write(READY, b'.')"
TERM_IGNORED = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
{BEGUN}
time.sleep(600)
"""
# As many as the limit lets it, each of which tries for more.
FORK_BOMB = """
{BEGUN}
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.001)
"""
# Never the same process for long: each one lives only until its child has taken over.
FORK_RELAY = """
{BEGUN}
while True:
    try:
        if os.fork():
            os._exit(0)
    except OSError:
        pass
"""
# Kills whatever it may signal, again and again, itself excepted: a killer that runs under its uid dies first.
COUNTERSTRIKE = """
{BEGUN}
while True:
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""
# The first thread is gone, so that the process looks like a zombie, and works on.
HEADLESS = """
threading.Thread(target=lambda: time.sleep(600)).start()
{BEGUN}
ctypes.CDLL(None).pthread_exit(None)
"""
STOPPED = """
{BEGUN}
os.kill(os.getpid(), signal.SIGSTOP)
"""
# A process namespace of its own, with the user as root in it.
CONTAINED = """
{BEGUN}
subprocess.run(["unshare", "--user", "--map-root-user", "--pid", "--fork", "sleep", "600"])
"""
ATTACKS = {
    "TERM ignored": TERM_IGNORED,
    "fork bomb": FORK_BOMB,
    "fork relay": FORK_RELAY,
    "counterstrike": COUNTERSTRIKE,
    "first thread gone": HEADLESS,
    "stopped": STOPPED,
    "own namespaces": CONTAINED,
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_one_run_ends_all_that_a_user_runs(attack: str) -> None:
    argv = [*PRIVATE, sys.executable, "-c", DRIVER, attack.replace("{BEGUN}", BEGUN)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["ready"], done.stderr
    assert seen["left"] == seen["after"] == []
    assert seen["others"] == [None, None], "processes of others are left alone"
    if attack not in (FORK_RELAY,):  # a relay is between two processes when one looks
        assert seen["before"] > 0


# What a node has of its own, in the place of this machine's: accounts, the file of ends and the records.
NODE = """
set -eu
cp -a /etc "$0/etc"
mount --bind "$0/etc" /etc
mount -t tmpfs none /run
mount -t tmpfs none /var/lib
printf 'ada:x:3000:3000::/nonexistent:/bin/sh\\nbob:x:3001:3001::/nonexistent:/bin/sh\\n' >>/etc/passwd
printf 'ada:!:19000:0:99999:7:::\\nbob:!:19000:0:99999:7:::\\n' >>/etc/shadow
mkdir -p /etc/hyperscaler
in_seconds() { echo $(($(date +%s) + $1)); }
ada_ends() { sed -i "s/^ada 3000 [0-9]*/ada 3000 $(in_seconds "$1")/" /etc/hyperscaler/ends; }
printf 'ada 3000 0 student-ada\\nbob 3001 %s student-bob\\n' "$(in_seconds 600)" >/etc/hyperscaler/ends
ada_ends 600
for uid in 3000 3001; do
    setpriv --reuid "$uid" --clear-groups sh -c 'trap "" TERM; while :; do sleep 1; done' &
done
# Each is started as root, and becomes the user's a moment later.
for uid in 3000 3001; do until pgrep --uid "$uid" >/dev/null; do sleep 0.1; done; done
look() {
    for uid in 3000 3001; do
        pgrep --uid "$uid" >/dev/null && runs=yes || runs=no
        echo "$uid $runs $(grep ":!:" /etc/shadow | grep "^$1" | cut -d: -f8)"
        shift
    done
}
/usr/bin/python3 -IS "$1"
look ada bob
ada_ends -1
/usr/bin/python3 -IS "$1"
look ada bob
# A new grant, as the playbook would note it.
ada_ends 900
/usr/bin/python3 -IS "$1"
look ada bob
cat /var/lib/hyperscaler/ended.json
"""


@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="no system Python")
def test_the_program_of_the_node_ends_whose_time_has_come_and_lets_in_who_is_granted_again(tmp_path: Path) -> None:
    program = PLAYBOOKS / "module_utils" / "user_end.py"
    argv = [*PRIVATE, "--mount", "--propagation", "private", "sh", "-c", NODE, str(tmp_path), str(program)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "3000 yes ",
        "3001 yes ",
        "the access of ada has ended",
        "3000 no 1",
        "3001 yes ",
        "3000 no ",
        "3001 yes ",
        "{}",
    ]
