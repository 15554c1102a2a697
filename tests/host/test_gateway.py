"""The host's gateway with real ssh and sshd, from another network namespace: who gets where, and nowhere else."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.adapters.system.process import HostProcess
from emulator.core.gateway.names import endpoint, local_port, principal
from emulator.credentials.ssh_authority import OpenSshAuthority
from emulator.credentials.users import read_book
from tests.support.gateway_bench import CLIENT, HOST, PORT, Bench, Client, Lab, gateway_bench, ssh_key, unpack_sshd

pytestmark = pytest.mark.host

HEADS = ("hpc-controller", "cloud-control-plane")


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    if os.geteuid() != 0:
        pytest.exit("the tests on real services run as root", returncode=2)
    # Not below pytest's directory, which is closed to the accounts of the gateway and of the nodes.
    with tempfile.TemporaryDirectory(prefix="hsgw-", dir="/var/tmp") as directory:
        root = Path(directory)
        root.chmod(0o755)
        (root / "sshd").mkdir()
        with gateway_bench(unpack_sshd(root / "sshd"), root) as bench:
            yield bench


@pytest.fixture(scope="module")
def demo(bench: Bench) -> Lab:
    return bench.add_lab("demo")


@pytest.fixture(scope="module")
def other(bench: Bench) -> Lab:
    """A second lab, whose nodes have the names and the addresses of the first one's."""
    return bench.add_lab("other")


@pytest.fixture(scope="module")
def ada(demo: Lab) -> Client:
    return demo.grant("ada", nodes=HEADS)


def test_a_student_logs_in_to_a_node_from_elsewhere(demo: Lab, ada: Client) -> None:
    done = ada.ssh("hpc-controller", "id -un")
    assert (done.returncode, done.stdout) == (0, "ada\n"), (done.stderr, demo.bench.log("front"))
    assert "opened user=ada lab=demo target=hpc-controller:22" in demo.bench.log(demo.service)
    assert "ID ada@demo (serial 1)" in demo.bench.log("front")


@pytest.mark.parametrize(
    "words",
    [
        ("demo-gateway",),
        ("demo-gateway", "id"),
        ("-tt", "demo-gateway", "sh"),
        ("-s", "demo-gateway", "sftp"),
        ("-A", "-X", "demo-gateway", "id"),
    ],
)
def test_the_gateway_has_no_shell(ada: Client, words: tuple[str, ...]) -> None:
    done = ada.ssh(*words)
    assert done.returncode == 255
    assert "uid=" not in done.stdout + done.stderr
    assert "open failed" in done.stderr or "administratively prohibited" in done.stderr, done.stderr


def test_nothing_is_forwarded_back(ada: Client) -> None:
    done = ada.ssh("-N", "-o", "ExitOnForwardFailure=yes", "-R", "127.0.0.1:7777:127.0.0.1:22", "demo-gateway")
    assert done.returncode == 255
    assert "remote port forwarding failed" in done.stderr


def _reaches(client: Client, target: str, gateway: str = "demo-gateway") -> bool:
    """Whether `ssh -W` by the gateway gets to a port, and to an ssh server there."""
    done = client.ssh("-W", target, gateway)
    assert "open failed" in done.stderr or "SSH-2.0" in done.stdout, done.stderr
    return "SSH-2.0" in done.stdout


def test_the_gateway_leads_nowhere_but_to_a_user_s_own_nodes(demo: Lab, other: Lab, ada: Client) -> None:
    bob = demo.grant("bob", nodes=HEADS)
    eve = other.grant("ada", nodes=HEADS)
    home = demo.bench.home.id

    def at(lab: str, user: str, node: str) -> str:
        return f"[{endpoint(home, lab, user, node)}]:22"

    node = next(str(each.ip) for each in demo.spec.nodes if each.name == "hpc-controller")
    refused = {
        "the gateway's own loopback": f"127.0.0.1:{PORT}",
        "the same in IPv6": "[::1]:22",
        "by a name": "localhost:22",
        "the host": f"{HOST}:{PORT}",
        "the network of the client": f"{CLIENT}:22",
        "the node by its own address, which the other lab has as well": f"{node}:22",
        "a node that is not hers": at("demo", "ada", "hpc-compute-1"),
        "another port of a node": f"[{endpoint(home, 'demo', 'ada', 'hpc-controller')}]:6443",
        "what is another user's": at("demo", "bob", "hpc-controller"),
        "what is another lab's": at("other", "ada", "hpc-controller"),
        "what has the same number, written otherwise": at("demo", "ada", "hpc-controller").upper(),
    }
    assert [what for what, target in refused.items() if _reaches(ada, target)] == []
    assert _reaches(ada, at("demo", "ada", "hpc-controller"))
    # The others get to theirs, and that the names and addresses are the same confuses nobody.
    assert bob.ssh("hpc-controller", "id -un").stdout == "bob\n"
    assert eve.ssh("hpc-controller", "id -un").stdout == "ada\n"


def test_a_certificate_of_one_lab_counts_for_nothing_in_another(demo: Lab, other: Lab, ada: Client) -> None:
    """Not even one that names the other lab's principal: an authority speaks for its own lab."""
    forged = Client(demo, "ada", demo.bench.root / "laptop-forged")
    forged.receive(ada.directory)
    other.grant("ada", nodes=HEADS)
    number = read_book(other.paths.access).users[0].certificates[-1].serial
    OpenSshAuthority(demo.paths.ssh_ca, HostProcess()).sign_gateway(
        forged.directory / "id_ed25519.pub",
        forged.directory / "gateway-cert.pub",
        identity="ada@other",
        principal=principal("other", "ada", number),
        serial=number,
        seconds=600,
    )
    target = f"[{endpoint(demo.bench.home.id, 'other', 'ada', 'hpc-controller')}]:22"
    assert "Permission denied" in forged.ssh("-W", target, "demo-gateway").stderr


def test_each_certificate_opens_its_own_door_only(demo: Lab, ada: Client) -> None:
    only = Client(demo, "ada", demo.bench.root / "laptop-only")
    only.receive(ada.directory)
    (only.directory / "gateway-cert.pub").unlink()
    assert "Permission denied" in only.ssh("-W", "127.0.0.1:22", "demo-gateway").stderr
    only.receive(ada.directory)
    (only.directory / "id_ed25519-cert.pub").unlink()
    done = only.ssh("-o", f"CertificateFile={only.directory}/gateway-cert.pub", "hpc-controller", "id")
    assert done.returncode == 255
    assert "Permission denied" in done.stderr


def test_strange_keys_and_ended_certificates_are_refused(demo: Lab, ada: Client) -> None:
    stranger = Client(demo, "ada", demo.bench.root / "laptop-stranger")
    stranger.receive(ada.directory)
    for file in stranger.directory.glob("id_ed25519*"):
        file.unlink()
    ssh_key(stranger.directory / "id_ed25519")
    assert "Permission denied" in stranger.ssh("hpc-controller", "id").stderr

    late = Client(demo, "ada", demo.bench.root / "laptop-late")
    late.receive(ada.directory)
    number = read_book(demo.paths.access).user("ada").certificates[-1].serial  # type: ignore[union-attr]
    OpenSshAuthority(demo.paths.ssh_ca, HostProcess()).sign_gateway(
        late.directory / "id_ed25519.pub",
        late.directory / "gateway-cert.pub",
        identity="ada@demo",
        principal=principal("demo", "ada", number),
        serial=number,
        seconds=1,
    )
    time.sleep(2)
    assert "Permission denied" in late.ssh("hpc-controller", "id").stderr
    demo.bench.await_true("the front has logged why", lambda: "expired" in demo.bench.log("front"))


def _opened(lab: Lab, user: str) -> int:
    return lab.bench.log(lab.service).count(f"opened user={user} lab={lab.name}")


@pytest.mark.parametrize("how", ["revoked", "ended"])
def test_an_end_of_access_closes_the_door_and_the_sessions(demo: Lab, how: str) -> None:
    bob = demo.grant("bob", nodes=HEADS)
    before = _opened(demo, "bob")
    with (
        bob.session("hpc-controller", "echo in; sleep 3000") as session,
        bob.session("-N", "demo-kubernetes") as forwards,
    ):
        assert session.stdout is not None
        assert session.stdout.readline() == "in\n"
        assert _opened(demo, "bob") == before + 1
        if how == "revoked":
            demo.revoke("bob")
        else:
            book = read_book(demo.paths.access)
            now = int(time.time())
            past = [
                dataclasses.replace(
                    user, certificates=tuple(dataclasses.replace(each, expires=now) for each in user.certificates)
                )
                if user.name == "bob"
                else user
                for user in book.users
            ]
            demo.keep(dataclasses.replace(book, users=tuple(past)))
        assert session.wait(60) == 255
        assert forwards.wait(60) == 255
    demo.bench.await_true("the gateway lets go", lambda: "bob@demo has no access any more" in demo.bench.log("front"))
    assert "Permission denied" in bob.ssh("hpc-controller", "id").stderr
    if how == "revoked":  # access that is given again is for the new key, though the old certificate has not ended
        shut, opened = Client(demo, "bob", demo.bench.root / "laptop-old"), bob
        shut.receive(bob.directory)
        assert demo.grant("bob", nodes=HEADS).ssh("hpc-controller", "id -un").stdout == "bob\n"
        assert opened.home != shut.home
        assert "Permission denied" in shut.ssh("hpc-controller", "id").stderr


def test_ports_of_kubernetes_come_to_the_user_s_own_machine(demo: Lab, ada: Client) -> None:
    bench = demo.bench
    head = next(str(node.ip) for node in demo.spec.nodes if node.name == "cloud-control-plane")
    server = (
        "import http.server as h, sys;"
        " h.HTTPServer((sys.argv[1], int(sys.argv[2])), h.BaseHTTPRequestHandler).serve_forever()"
    )
    for port in (6443, 30080):
        argv = bench.inside("demo", [sys.executable, "-c", server, head, str(port)], bench.accounts("api"))
        bench.start(f"api-{port}", argv)
    with ada.session("-N", "demo-kubernetes"):
        for port in (local_port("demo"), 30080):
            fetch = (
                f"import socket; s = socket.create_connection(('127.0.0.1', {port}));"
                " s.sendall(b'GET / HTTP/1.0' + bytes((13, 10, 13, 10))); print(s.recv(99))"
            )
            argv = bench.inside("client", [sys.executable, "-c", fetch], bench.accounts("fetch"))
            deadline = time.monotonic() + 60
            while "501" not in (got := subprocess.run(argv, capture_output=True, text=True, check=False)).stdout:
                assert time.monotonic() < deadline, got.stderr
                time.sleep(0.2)
    assert "opened user=ada lab=demo target=cloud-control-plane:6443" in bench.log(demo.service)


def test_a_server_that_was_taken_over_finds_no_network(bench: Bench) -> None:
    """What runs as the gateway's account, in its namespace, reaches neither the host nor anything behind it."""
    probe = f"import socket; socket.create_connection(('{HOST}', {PORT}), 5)"
    argv = bench.inside(
        "gw", ["setpriv", "--reuid=64534", "--clear-groups", sys.executable, "-c", probe], bench.accounts("probe")
    )
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert "Network is unreachable" in done.stderr
    key = bench.inside(
        "gw",
        [
            "setpriv",
            "--reuid=64534",
            "--regid=64534",
            "--clear-groups",
            "sh",
            "-c",
            f"echo x >>{bench.place}/labs/x.keys; cat {bench.home.root}/labs/demo/ssh/ca_ed25519",
        ],
        bench.accounts("probe"),
    )
    done = subprocess.run(key, capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert done.stderr.count("Permission denied") == 2, done.stderr


def test_names_do_not_forge_lines_of_the_log(demo: Lab, ada: Client) -> None:
    hostile = "x\nAccepted publickey for root\x1b[2J"
    done = ada.ssh("-l", hostile, "-W", "127.0.0.1:22", "demo-gateway")
    assert done.returncode == 255
    demo.bench.await_true("it is logged", lambda: "x\\x0aAccepted" in demo.bench.log("front"))
    lines = demo.bench.log("front").splitlines()
    assert not [line for line in lines if "Accepted publickey for root" in line and "\\x0aAcc" not in line]
    assert "\x1b" not in demo.bench.log("front")
    ada.ssh("-W", "h\x1b[2J\nopened user=root:22", "demo-gateway")
    assert "\x1b" not in demo.bench.log("front")
    assert "opened user=root" not in demo.bench.log(demo.service)


def test_a_flood_of_connections_costs_one_address_its_own_share(bench: Bench, ada: Client) -> None:
    flood = f"""
import socket, sys
held = []
for _ in range(150):
    s = socket.create_connection(("{HOST}", {PORT})); s.settimeout(20); held.append(s)
served = 0
for s in held:
    try: served += bool(s.recv(4))
    except OSError: pass
print(served)
"""
    with ada.session("hpc-controller", "echo in; cat") as session:
        assert session.stdout is not None and session.stdin is not None
        assert session.stdout.readline() == "in\n"
        argv = bench.inside("client", [sys.executable, "-c", flood], bench.accounts("flood"))
        served = int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
        assert 0 < served <= 64
        session.stdin.write("still there\n")
        session.stdin.flush()
        assert session.stdout.readline() == "still there\n"
    assert f"refused {CLIENT}: " in bench.log("front")
    deadline = time.monotonic() + 60
    while ada.ssh("hpc-controller", "id -un").stdout != "ada\n":
        assert time.monotonic() < deadline
        time.sleep(1)


def test_a_lab_on_the_host_s_libvirt_is_reached_in_the_host_s_network(bench: Bench) -> None:
    lab = bench.add_lab("system", system=True)
    eve = lab.grant("ada", nodes=HEADS)
    assert eve.ssh("hpc-controller", "id -un").stdout == "ada\n"
    assert not _reaches(eve, f"{HOST}:{PORT}", "system-gateway")


def test_the_end_of_a_lab_s_relay_leaves_no_way_in(bench: Bench) -> None:
    lab = bench.add_lab("last")
    eve = lab.grant("ada", nodes=HEADS)
    assert eve.ssh("hpc-controller", "id -un").stdout == "ada\n"
    assert list(bench.place.glob("labs/last-*"))
    bench.end(lab.service)
    assert not list(bench.place.glob("labs/last-*"))
    assert "Permission denied" in eve.ssh("hpc-controller", "id").stderr
