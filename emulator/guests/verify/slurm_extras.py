"""What a lab file may ask of Slurm beyond jobs: how it is tried, and what the answers mean. Pure.

Each is one shell command in a guest, as root or as an ordinary user through sudo.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Sequence

from emulator.guests.verify.report import Verdict
from emulator.labfile.model import PartitionSpec

MPI_NODES = 2
"""How many nodes the MPI program runs on, where the partition has as many: what fails over two fails over more."""

REST_SOCKET = "/run/slurmrestd/slurmrestd.socket"

# Every rank learns the others' names from them, and the first one says all.
_HELLO = (
    "from mpi4py import MPI; world = MPI.COMM_WORLD; names = world.allgather(MPI.Get_processor_name());"
    " world.rank or print('ranks', world.size, *names)"
)

# Asks with the token on standard input, with a forged one and with none; prints the status of each, then the first
# answer. The version of the API is the newest that this Slurm has, as its own description lists them.
_ASK = f"""
import http.client, json, re, socket, sys

class Local(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(120)
        self.sock.connect({REST_SOCKET!r})

def get(path, token):
    local = Local("localhost")
    local.request("GET", path, headers={{"X-SLURM-USER-TOKEN": token}} if token else {{}})
    answer = local.getresponse()
    return answer.status, answer.read().decode(errors="replace")

token = sys.stdin.read().strip().partition("=")[2]
_, described = get("/openapi/v3", token)
known = (re.fullmatch("/slurm/v0[.]0[.]([0-9]+)/nodes/", path) for path in json.loads(described)["paths"])
path = "/slurm/v0.0.%d/nodes/" % max(int(found.group(1)) for found in known if found)
head, body, mark = token.split(".")
other = head + "." + body + "." + mark[::-1]
status, text = get(path, token)
names = sorted(str(node.get("name")) for node in json.loads(text).get("nodes") or []) if status == 200 else []
print(json.dumps(dict(path=path, status=status, nodes=names, forged=get(path, other)[0], without=get(path, "")[0])))
"""


def mpi_command(partition: PartitionSpec, user: str, seconds: int) -> str:
    """Runs an MPI program of `user` with one rank on each of the first nodes of the partition; it has `seconds`.

    There is no `--mpi`: that the lab's default finds the ranks is what is tried.
    """
    nodes = partition.nodes[:MPI_NODES]
    argv = [
        "sudo", "-n", "-u", user, "--",
        "timeout", str(seconds),
        "srun", "--quiet", "--job-name=lab-verify-mpi", f"--partition={partition.name}",
        f"--time={max(5, -(-seconds // 60))}", f"--immediate={seconds * 3 // 4}",
        f"--nodes={len(nodes)}", "--ntasks-per-node=1", f"--nodelist={','.join(nodes)}",
        "python3", "-c", _HELLO,
    ]  # fmt: skip
    return f"cd /tmp; {shlex.join(argv)}"


def judge_mpi(text: str, expected: Sequence[str], *, complaint: str) -> Verdict:
    """One line `ranks COUNT NAME...`: as many ranks as nodes, each on its own."""
    wanted = expected[:MPI_NODES]
    found = re.findall(r"^ranks ([0-9]{1,6}) (.*)$", text, re.MULTILINE | re.ASCII)
    if not found:
        said = (complaint.strip().splitlines() or ["it said nothing"])[-1]
        return Verdict(False, f"the ranks did not meet: {said}")
    if len(found) > 1:
        return Verdict(False, f"{len(found)} programs of their own instead of one with {len(wanted)} ranks")
    count, names = found[0][0], [name.split(".")[0] for name in found[0][1].split()]
    if int(count) != len(wanted) or Counter(names) != Counter(wanted):
        return Verdict(False, f"{count} ranks on {' '.join(names)} instead of one on each of {' '.join(wanted)}")
    return Verdict(True, f"{count} ranks on {' '.join(sorted(names))}")


def scrontab_command(user: str) -> str:
    """Asks slurmctld for the jobs that `user` has by the clock, which changes none of them."""
    return f"sudo -n -u {user} -- scrontab -l"


def judge_scrontab(status: int, complaint: str) -> Verdict:
    """slurmctld has a list for the user, or says that there is none yet; it does not say that nobody may have one."""
    if status == 0 or "no crontab for" in complaint.lower():
        return Verdict(True, "scrontab may be used")
    return Verdict(False, (complaint.strip().splitlines() or [f"scrontab: exit status {status}"])[-1])


def rest_command(user: str) -> str:
    """Makes a token for `user` that ends soon, and asks slurmrestd for the nodes as that user."""
    ask = shlex.join(["sudo", "-n", "-u", user, "--", "python3", "-IS", "-c", _ASK])
    return f"sudo -n scontrol token username={user} lifespan=600 | {ask}"


def judge_rest(text: str, expected: Sequence[str], *, complaint: str) -> Verdict:
    """slurmrestd lists the nodes to who has a token, and nothing to others."""
    try:
        answer = json.loads((text.strip().splitlines() or [""])[-1])
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        said = (complaint.strip().splitlines() or ["it said nothing"])[-1]
        return Verdict(False, f"no answer from slurmrestd: {said}")
    for how, words in (("forged", "a forged token"), ("without", "no token")):
        if answer.get(how) == 200:
            return Verdict(False, f"slurmrestd answers who has {words}")
    if answer.get("status") != 200:
        return Verdict(False, f"slurmrestd says {answer.get('status')} to {answer.get('path')}")
    if answer.get("nodes") != sorted(expected):
        return Verdict(False, f"slurmrestd lists other nodes: {answer.get('nodes')}")
    return Verdict(True, f"{answer.get('path')} lists {len(expected)} nodes; refused without a token")
