"""A Kubernetes API server and its etcd without nodes, on this machine's loopback, from the programs of a release that
was built here. No controllers run: `settle_quotas` and `account` do what the tests need of them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from emulator.core.paths import Home

PROGRAMS: tuple[str, ...] = ("kube-apiserver", "etcd", "kubectl")
WHERE = "HYPERSCALER_KUBERNETES_PROGRAMS"
"""Variable with a directory that holds all three; otherwise releases in the cache of Kubernetes are looked through."""
ADMIN_TOKEN = "admin"
# A loaded machine takes minutes; a server that has ended is noticed at once.
PATIENCE = 900.0


def releases() -> list[Path]:
    """Releases on this machine, newest Kubernetes first."""
    manifests = (Home.default().root / "cache" / "kubernetes").glob("*/manifest.json")
    found = {manifest.parent.resolve() for manifest in manifests}
    return sorted(found, key=lambda path: version_key(release_version(path)), reverse=True)


def release_version(release: Path) -> str:
    return str(json.loads((release / "manifest.json").read_text())["version"])


def version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def programs(release: Path, target: Path) -> Path | None:
    """A directory with all PROGRAMS of a release, some of which lie in its container images; None if one is missing."""
    target.mkdir()
    for name in PROGRAMS:
        if (release / "bin" / name).is_file():
            shutil.copy(release / "bin" / name, target / name)
    for archive in sorted((release / "images").glob("*.tar")):
        with tarfile.open(archive) as images:
            for layer in [member for member in images if member.name.endswith(".tar") or "blobs/" in member.name]:
                stream = images.extractfile(layer)
                if stream is not None:
                    take_programs(stream, target)
    return target if all((target / name).is_file() for name in PROGRAMS) else None


def take_programs(layer: IO[bytes], target: Path) -> None:
    """The programs among the files of a layer; nothing of what is no layer."""
    with contextlib.suppress(tarfile.ReadError), tarfile.open(fileobj=layer) as files:
        for member in files:
            name = Path(member.name).name
            content = files.extractfile(member) if name in PROGRAMS and member.isfile() else None
            if content is not None and not (target / name).exists():
                with (target / name).open("wb") as out:
                    shutil.copyfileobj(content, out)
                (target / name).chmod(0o755)


@dataclass(frozen=True)
class Answer:
    status: int
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def message(self) -> str:
        return str(self.body.get("message", ""))


@dataclass
class ApiServer:
    """One that answers. `kubeconfig` is its administrator's."""

    programs: Path
    port: int
    kubeconfig: Path
    version: str = ""

    def request(self, method: str, path: str, body: object = None, *, token: str = ADMIN_TOKEN) -> Answer:
        """One request; refusals are answers, too."""
        data = None if body is None else json.dumps(body).encode()
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
        address = f"https://127.0.0.1:{self.port}{path}"
        wish = urllib.request.Request(address, data, headers, method=method)
        context = ssl._create_unverified_context()  # noqa: S323  on loopback, with a certificate made for this run
        try:
            with urllib.request.urlopen(wish, timeout=120, context=context) as reply:  # noqa: S310  https, as it says
                return Answer(reply.status, as_json(reply.read()), dict(reply.headers))
        except urllib.error.HTTPError as error:
            return Answer(error.code, as_json(error.read()), dict(error.headers))

    def account(self, namespace: str, name: str = "default") -> None:
        """What the controller of accounts makes in each namespace."""
        body = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name},
        }
        self.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", body)

    def settle_quotas(self, namespace: str) -> None:
        """What the controller of quotas does with new ones: admission refuses everything until it has counted."""
        path = f"/api/v1/namespaces/{namespace}/resourcequotas"
        for quota in self.request("GET", path).body["items"]:
            hard = quota["spec"]["hard"]
            quota["status"] = {"hard": hard, "used": dict.fromkeys(hard, "0")}
            done = self.request("PUT", f"{path}/{quota['metadata']['name']}/status", quota)
            assert done.status == 200, done.message

    def token(self, namespace: str, name: str) -> str:
        wish = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
        done = self.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", wish)
        assert done.status == 201, done.message
        return str(done.body["status"]["token"])


def as_json(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {"message": text.decode(errors="replace")}
    return value if isinstance(value, dict) else {}


@contextlib.contextmanager
def running(programs: Path, work: Path, *arguments: str) -> Iterator[ApiServer]:
    """The server until the end of the block; `work` is an empty directory for its state, and `arguments` are further
    ones of kube-apiserver's, in the form `--name=value`."""
    etcd_port, peer_port, port = free_ports(3)
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (work / "accounts.key").write_bytes(private)
    (work / "accounts.pub").write_bytes(public)
    (work / "tokens.csv").write_text(f"{ADMIN_TOKEN},admin,1,system:masters\n")
    etcd = [
        programs / "etcd",
        f"--data-dir={work / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{etcd_port}",
        f"--advertise-client-urls=http://127.0.0.1:{etcd_port}",
        f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
        "--unsafe-no-fsync",
    ]
    server = [
        programs / "kube-apiserver",
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        f"--secure-port={port}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        f"--cert-dir={work / 'certificates'}",
        "--service-cluster-ip-range=10.96.0.0/24",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-signing-key-file={work / 'accounts.key'}",
        f"--service-account-key-file={work / 'accounts.pub'}",
        f"--token-auth-file={work / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--allow-privileged=true",
        *arguments,
    ]
    config = work / "admin.conf"
    config.write_text(json.dumps(admin_config(port)))
    config.chmod(0o600)
    with started(etcd, work / "etcd.log"), started(server, work / "server.log") as process:
        api = ApiServer(programs, port, config)
        wait_until_ready(api, process, work / "server.log")
        api.version = str(api.request("GET", "/version").body["gitVersion"]).removeprefix("v")
        yield api


def admin_config(port: int) -> dict[str, Any]:
    cluster = {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": ADMIN_TOKEN}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "current-context": "test",
    }


@contextlib.contextmanager
def started(argv: list[Any], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    env = {**os.environ, "ETCD_UNSUPPORTED_ARCH": ""}
    with log.open("wb") as out, subprocess.Popen([*map(str, argv)], stdout=out, stderr=out, env=env) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until_ready(api: ApiServer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        assert process.poll() is None, f"kube-apiserver ended:\n{log.read_text(errors='replace')[-3000:]}"
        with contextlib.suppress(OSError):
            if api.request("GET", "/readyz").status == 200:
                return
        assert time.monotonic() < deadline, f"kube-apiserver is not ready:\n{log.read_text(errors='replace')[-3000:]}"
        time.sleep(0.5)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
