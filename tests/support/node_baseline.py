"""The security baseline of a lab's nodes, looked at from outside and from inside; both clusters' tests call it."""

from __future__ import annotations

import base64
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import testinfra

from emulator.core.paths import Home, LabPaths
from emulator.labfile.model import ADMIN

SSH_AUDIT = Path(sys.executable).with_name("ssh-audit")
NOT_POST_QUANTUM = {"curve25519-sha256", "curve25519-sha256@libssh.org"}
SSHD = {
    "permitrootlogin no",
    "passwordauthentication no",
    "kbdinteractiveauthentication no",
    "authenticationmethods publickey",
    "authorizedkeysfile /etc/ssh/lab_keys/%u",
    "x11forwarding no",
    "hostkey /etc/ssh/ssh_host_ed25519_key",
}
SYSCTLS = {
    "kernel.dmesg_restrict": 1,
    "kernel.kptr_restrict": 2,
    "kernel.kexec_load_disabled": 1,
    "kernel.unprivileged_bpf_disabled": 1,
    "net.ipv4.conf.all.accept_redirects": 0,
    "net.ipv4.conf.eth0.accept_redirects": 0,
    "net.ipv4.conf.eth0.accept_source_route": 0,
    "net.ipv4.conf.all.send_redirects": 0,
    "fs.protected_symlinks": 1,
    "fs.suid_dumpable": 0,
}
JOURNAL_LIMIT = 64 * 2**20


def guest(lab: str, name: str, *, sudo: bool = False) -> Any:
    """A node as testinfra sees it, as the lab's owner or as root."""
    config = Home.default().lab(lab).ssh_config
    return testinfra.get_host(f"ssh://{name}?ssh_config={config}{'&sudo=true' if sudo else ''}")


def check_baseline(lab: str, name: str) -> None:
    """Everything that is true of every node, whatever its role."""
    host = guest(lab, name, sudo=True)

    def out(command: str) -> str:
        done = host.run(command)
        assert done.rc == 0, f"{name}: {command}: {done.stderr}"
        return str(done.stdout).strip()

    began = time.time()
    now = int(out("date +%s"))
    assert began - 5 < now < time.time() + 5, f"the clock of {name} is {now - began:.0f} s off"
    assert set(out("sshd -T").splitlines()) >= SSHD
    assert [line for line in out("cut -d: -f2 /etc/shadow").split() if line[0] not in "!*"] == [], "a password"
    assert [out(f"passwd -S {name}").split()[1] for name in (ADMIN, "root")] == ["L", "L"]
    assert host.file("/etc/sudoers.d/lab-admin").mode == 0o440
    assert out("visudo -cq && echo sound") == "sound"
    values = out(f"sysctl -n {' '.join(SYSCTLS)}").split()
    assert dict(zip(SYSCTLS, map(int, values), strict=True)) == SYSCTLS
    assert host.file("/tmp").mode == 0o1777
    assert out(f"su {ADMIN} -s /bin/sh -c 'ulimit -c'") == "0"

    for service in ("auditd", "hyperscaler-firewall", "systemd-journal-flush", "ssh"):
        assert host.service(service).is_running, service
    assert out("systemctl list-units --failed --plain --no-legend") == ""
    for timer in ("apt-daily.timer", "apt-daily-upgrade.timer", "unattended-upgrades"):
        assert not host.service(timer).is_enabled, timer

    assert "enabled 1" in out("auditctl -s")
    rules = out("auditctl -l").splitlines()
    assert len([line for line in rules if line.startswith("-w")]) >= 10
    assert out("ausearch --input-logs -k sudo --raw | grep -c SYSCALL") != "0"

    sizes = out("stat -c %s /var/log/journal/*/*.journal").split()
    assert sizes and sum(map(int, sizes)) <= JOURNAL_LIMIT
    table = out("nft list table inet lab")
    assert "hook input priority filter; policy drop;" in table
    assert "elements = {" in table, "the playbook's rules, not the image's"


def check_ssh_audit(lab: str, address: str) -> None:
    """ssh-audit finds no failure, and warns only of exchanges that are not post-quantum."""
    prefix = _prefix(lab)
    done = subprocess.run(
        [*prefix, SSH_AUDIT, "--json", "--timeout=60", "--skip-rate-test", address],
        capture_output=True,
        text=True,
        timeout=300,
    )
    print(done.stdout[:6000], flush=True)
    report = json.loads(done.stdout)
    found: dict[str, set[str]] = {"fail": set(), "warn": set()}
    for kind in ("kex", "key", "enc", "mac"):
        for entry in report[kind]:
            for level in found:
                if entry["notes"].get(level):
                    found[level].add(entry["algorithm"])
    assert found["fail"] == set()
    assert found["warn"] <= NOT_POST_QUANTUM
    assert {entry["algorithm"] for entry in report["key"]} == {"ssh-ed25519", "ssh-ed25519-cert-v01@openssh.com"}


def _prefix(lab: str) -> list[str]:
    """What the lab's own ssh configuration does to come into its network."""
    match = re.search(r"ProxyCommand (.*) nc -F", Home.default().lab(lab).ssh_config.read_text())
    return shlex.split(match[1]) if match else []


def closed_from_outside(lab: str, address: str, port: int) -> bool:
    """Whether the host, standing in the lab's network, gets no answer from a port; ssh must answer there."""

    def answers(one: int) -> bool:
        argv = [*_prefix(lab), "nc", "-z", "-w", "10", address, str(one)]
        return subprocess.run(argv, capture_output=True, timeout=60, check=False).returncode == 0

    assert answers(22)
    return not answers(port)


_PAGE = """\
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
request = urllib.request.Request(sys.argv[1], headers={"Host": sys.argv[2]})
print(opener.open(request, timeout=30).read().decode())
"""


def page_from_host(lab: str, url: str, host: str) -> str:
    """What the host, standing in the lab's network, gets from `url` as the site `host`; empty for no page."""
    argv = [*_prefix(lab), sys.executable, "-c", _PAGE, url, host]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False).stdout.strip()


# ---------------------------------------------------------------- secrets
def secrets_of(paths: LabPaths) -> dict[str, bytes]:
    """What must not be seen elsewhere: a telling part of every private key and secret below the lab's directory."""
    found: dict[str, bytes] = {}
    for path in sorted(paths.root.rglob("*")):
        if not path.is_file() or path.suffix == ".qcow2" or path.stat().st_size > 2**20:
            continue
        text = path.read_text(errors="replace")
        name = str(path.relative_to(paths.root))
        for number, match in enumerate(re.finditer(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\n([^-]+)-----END", text)):
            found[f"{name}#{number}"] = _telling(match[1])
        for number, match in enumerate(re.finditer(r'client-key-data"?: "?([A-Za-z0-9+/=]{100,})', text)):
            found[f"{name}#base64-{number}"] = match[1][200:264].encode()
            found[f"{name}#pem-{number}"] = _telling(base64.b64decode(match[1]).decode().split("-----")[2])
        for number, match in enumerate(re.finditer(r'"?token"?: "?([A-Za-z0-9._-]{40,})', text)):
            found[f"{name}#token-{number}"] = match[1][-40:].encode()
    munge = paths.secrets / "munge.key"
    if munge.is_file():
        found["munge"] = munge.read_bytes()[:40]
        found["munge#base64"] = base64.b64encode(munge.read_bytes())[:52]
    return found


def _telling(body: str) -> bytes:
    """A line of a key's body that holds secret bits: in an OpenSSH ed25519 key the fourth has the seed."""
    lines = body.split()
    return lines[min(3, len(lines) // 2)].encode()


def check_secrets(lab: str, nodes: Iterable[str], outputs: Mapping[str, str]) -> None:
    """No secret is in a log, an output, a process's arguments or a file that others can read, on host or nodes.

    Args:
        lab: its name.
        nodes: which nodes to search.
        outputs: what commands printed, by a name for each.
    """
    home = Home.default()
    paths = home.lab(lab)
    secrets = secrets_of(paths)
    assert {"ssh/id_ed25519#0", "ssh/ca_ed25519#0"} <= set(secrets), sorted(secrets)
    # QEMU's group may pass to the disks and consoles, and list nothing; what lies next to them is closed to it, too.
    assert paths.root.stat().st_mode & 0o777 == 0o710
    for closed in (paths.secrets, paths.ssh, paths.logs, paths.hypervisor):
        if closed.exists():
            assert closed.stat().st_mode & 0o777 == 0o700, closed
    keepers = [paths.root / name.partition("#")[0] for name in secrets if not name.startswith("munge")]
    keepers.append(paths.secrets / "munge.key")
    for path in keepers:
        if path.exists():
            assert path.stat().st_mode & 0o077 == 0, path
            # ansible-runner's record of a run, say, is no place for a key, whatever its mode.
            assert path.is_relative_to(paths.secrets) or path.parent == paths.ssh, path
    places = {
        str(path): path.read_bytes()
        for path in (*paths.root.rglob("*"), home.audit)
        if path.is_file() and path.suffix != ".qcow2" and path not in keepers and path.stat().st_size < 2**28
    }
    places |= {f"output of {name}": text.encode() for name, text in outputs.items()}
    places["process arguments"] = b"\0".join(_command_lines())
    leaks = [(secret, place) for place, content in places.items() for secret, s in secrets.items() if s in content]
    assert leaks == []
    for name in nodes:
        found = _search(paths.ssh_config, name, secrets.values())
        assert found == "", f"{name}: {found}"


def _command_lines() -> Iterable[bytes]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield (entry / "cmdline").read_bytes()
            except OSError:
                continue  # ended while we looked


# The patterns come over stdin, since arguments are one of the places that are searched. Runtime state of containers and
# dpkg's lists are left out: large, and written by nobody of us.
_SEARCH = r"""
umask 077; f=$(mktemp -p /root); trap 'rm -f "$f"' EXIT; cat >"$f"
journalctl --no-pager --all --output=cat | grep -aFf "$f" | sed 's/.*/a line in the journal/'
ps -eww -o args | grep -aFf "$f" | sed 's/.*/a process argument/'
find /etc /home /opt /root /run /srv /tmp /usr/local/etc /var -xdev \
    \( -path /var/lib/containerd -o -path /var/lib/dpkg -o -path /var/cache -o -path /run/containerd \) -prune -o \
    -type f -perm -o=r -size -20M -print0 | xargs -0 -r grep -laFf "$f" || [ $? = 123 ] # nothing found
"""


def _search(config: Path, name: str, patterns: Iterable[bytes]) -> str:
    """Places on a node where one of the patterns is found, one per line."""
    done = subprocess.run(
        ["ssh", "-F", config, name, f"sudo -n sh -c {shlex.quote(_SEARCH)}"],
        input=b"\n".join(patterns) + b"\n",
        capture_output=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()
