#!/usr/bin/python3
"""kubectl for the people who log in to the control plane: a token for each, which this node renews, and the kubeconfig
that names it.

A systemd timer runs it, and the playbook when something has changed. The token lies in a directory of root's in memory,
readable by its user alone, and ends by itself; it is good only as long as the user's account in the cluster, which goes
with their access. The kubeconfig holds no secret. It is written with the user's own rights, since whatever lies in a
home directory may be a trap; one that the user made or edited stays. Standard library only, because it runs in the
guests.

/etc/hyperscaler/kubeconfigs.json says for whom: `server`, `cluster`, `accounts` (the namespace of the accounts) and
`users`, each with `name` and `namespace`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pwd
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, TypedDict

SETTINGS = "/etc/hyperscaler/kubeconfigs.json"
TOKENS = "/run/hyperscaler-kubeconfigs"
AUTHORITY = "/etc/kubernetes/pki/ca.crt"
ADMIN_CONF = "/etc/kubernetes/admin.conf"
USER_UIDS = range(3000, 60000)

TOKEN_SECONDS = 8 * 3600
RENEW_BELOW = TOKEN_SECONDS // 2
COMMAND_TIMEOUT = 120
HOME_SECONDS = 20
SIZE_LIMIT = 256 * 1024
MARK = "# Written by this node; the token that it names is renewed here. A file without this line is left alone.\n"


class User(TypedDict):
    name: str
    namespace: str


class Settings(TypedDict):
    server: str
    cluster: str
    accounts: str
    users: list[User]


class NoAccountError(Exception):
    """The cluster knows no account of this name: the user's access has ended."""


class ClusterError(Exception):
    """The API server gave no token; the text is for the operator."""


def request_token(name: str, accounts: str) -> str:
    """A new token of the user's account.

    Raises:
        NoAccountError: the user's access has ended.
        ClusterError: the API server does not answer, or not with a token.
    """
    wish = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": TOKEN_SECONDS},
    }
    path = f"/api/v1/namespaces/{accounts}/serviceaccounts/{name}/token"
    argv = ["kubectl", "--kubeconfig", ADMIN_CONF, "create", "--raw", path, "-f", "-"]
    env = {**os.environ, "HOME": "/root"}
    try:
        done = subprocess.run(
            argv, input=json.dumps(wish), capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False, env=env
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"the API server does not answer within {COMMAND_TIMEOUT} s") from error
    if done.returncode:
        if "NotFound" in done.stderr:
            raise NoAccountError(name)
        raise ClusterError(f"no token for {name}: {done.stderr.strip()[:500]!a}")
    try:
        token = json.loads(done.stdout)["status"]["token"]
        expiry(token)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ClusterError(f"no token for {name}: the answer holds none") from None
    return str(token)


def expiry(token: str) -> int:
    """When a JSON web token ends, in seconds since the epoch (RFC 7519, `exp`)."""
    body = token.split(".")[1]
    return int(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["exp"])


def lasts(path: str, now: float) -> bool:
    """Whether the token in the file is good for a while; false for none, or for a file that holds something else."""
    try:
        with open(path, encoding="ascii") as stream:
            return RENEW_BELOW < expiry(stream.read().strip()) - now <= TOKEN_SECONDS + RENEW_BELOW
    except (OSError, ValueError, LookupError, TypeError):
        return False


def put_token(path: str, token: str, account: pwd.struct_passwd) -> None:
    """The file at once and whole, and never readable by other users. The directory is root's."""
    temporary = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
    with os.fdopen(handle, "w", encoding="ascii") as stream:
        stream.write(token + "\n")
        os.fchown(stream.fileno(), account.pw_uid, account.pw_gid)
    os.rename(temporary, path)


def kubeconfig(settings: Settings, user: User, authority: bytes) -> str:
    """The user's file: JSON, which is YAML, after a line that marks it as ours."""
    cluster = {
        "server": settings["server"],
        "certificate-authority-data": base64.b64encode(authority).decode("ascii"),
    }
    context = {"cluster": settings["cluster"], "user": user["name"], "namespace": user["namespace"]}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": settings["cluster"], "cluster": cluster}],
        "users": [{"name": user["name"], "user": {"tokenFile": f"{TOKENS}/{user['name']}"}}],
        "contexts": [{"name": settings["cluster"], "context": context}],
        "current-context": settings["cluster"],
    }
    return MARK + json.dumps(document, indent=2) + "\n"


def is_ours(path: str) -> bool:
    """Whether a kubeconfig may be written there: none is, or one of ours. Neither a link is followed nor a pipe waited
    for."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    with os.fdopen(handle, "rb") as stream:
        return stat.S_ISREG(os.fstat(handle).st_mode) and stream.read(len(MARK)) == MARK.encode()


def write_config(home: str, text: str) -> None:
    """`~/.kube/config`, if nobody else wrote the one that is there. To be called with the user's rights."""
    directory = f"{home}/.kube"
    path = f"{directory}/config"
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    if not is_ours(path):
        return
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as stream:
        if stream.read(SIZE_LIMIT) == text:
            return
    temporary = f"{directory}/.config.hyperscaler"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.rename(temporary, path)


def as_user(account: pwd.struct_passwd, action: Callable[[], None], *, seconds: int = HOME_SECONDS) -> bool:
    """Do something with the rights of the account, for `seconds` at most; whether it ended well.

    The user cannot look into the process that does it, for tokens of others: the kernel keeps them out of one that gave
    up its uid. But they may signal it: its own alarm does not wake a process that was stopped, so this one kills it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(seconds)
            os.setgroups([])
            os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
            os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
            os.umask(0o077)
            action()
            status = 0
        except OSError as error:
            print(f"{account.pw_name}: {error!a}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    handle = os.pidfd_open(child)
    try:
        if not select.select([handle], [], [], seconds)[0]:
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(handle)
    return os.waitpid(child, 0)[1] == 0


def account_of(name: str) -> pwd.struct_passwd | None:
    """The account of a person whom the lab lets in; none of the node's own."""
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        return None
    return account if account.pw_uid in USER_UIDS else None


def forget_others(names: set[str]) -> None:
    """Remove tokens of people who are not in the list any more."""
    for name in os.listdir(TOKENS):
        if name not in names:
            os.unlink(f"{TOKENS}/{name}")


def serve(settings: Settings, user: User, authority: bytes, *, now: float) -> list[str]:
    """What one user needs, where it is missing; lines about what was not to be had.

    Raises:
        ClusterError: the API server gave no token.
    """
    account = account_of(user["name"])
    if account is None:
        return []
    path = f"{TOKENS}/{user['name']}"
    if not lasts(path, now):
        try:
            put_token(path, request_token(user["name"], settings["accounts"]), account)
        except NoAccountError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return [f"{user['name']} has no account in the cluster any more"]
    text = kubeconfig(settings, user, authority)
    if not as_user(account, lambda: write_config(account.pw_dir, text)):
        # The user's own doing, and no reason to fail for all others.
        return [f"{account.pw_dir}/.kube/config was not written"]
    return []


def read_settings(path: str) -> Settings:
    with open(path, encoding="utf-8") as stream:
        value: Any = json.load(stream)
    return {
        "server": str(value["server"]),
        "cluster": str(value["cluster"]),
        "accounts": str(value["accounts"]),
        "users": [{"name": str(each["name"]), "namespace": str(each["namespace"])} for each in value["users"]],
    }


def main() -> int:
    settings = read_settings(SETTINGS)
    os.makedirs(TOKENS, mode=0o711, exist_ok=True)
    forget_others({user["name"] for user in settings["users"]})
    if not settings["users"]:
        return 0
    with open(AUTHORITY, "rb") as stream:
        authority = stream.read(SIZE_LIMIT)
    status = 0
    for user in settings["users"]:
        try:
            for line in serve(settings, user, authority, now=time.time()):
                print(line, flush=True)
        except ClusterError as error:
            print(error, file=sys.stderr, flush=True)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
