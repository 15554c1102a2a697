"""A lab's ssh certificate authority, which signs with ssh-keygen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from emulator.core.fs import write_private
from emulator.core.ports import ProcessRunner

_TIMEOUT = 60
# A guest's clock may be behind the host's.
_BACKDATE = "-5m"


class OpenSshAuthority:
    """Signs public keys with the CA's private key, which never leaves the host (ssh-keygen(1), CERTIFICATES).

    Args:
        key: the CA's private key.
        runner: runs ssh-keygen.
    """

    def __init__(self, key: Path, runner: ProcessRunner) -> None:
        self._key = key
        self._runner = runner

    @property
    def public_key(self) -> str:
        """`TYPE BASE64` of the CA."""
        return " ".join(self._key.with_name(f"{self._key.name}.pub").read_text().split()[:2])

    def sign_user(
        self, public: Path, *, user: str, serial: int, seconds: int, forwarding: bool, source: str = ""
    ) -> Path:
        """Certify the key in `public` for logging in as `user`, for `seconds` from now; the certificate's path.

        Args:
            public: ends in `.pub`; the certificate is written next to it.
            user: the account, and the certificate's identity in the nodes' logs.
            serial: of the certificate.
            seconds: lifetime.
            forwarding: whether ports and agents may be forwarded.
            source: addresses from which it is good, as CIDR; empty for all.

        Raises:
            CommandError: ssh-keygen refuses.
        """
        options = [] if forwarding else ["-O", "clear", "-O", "permit-pty"]
        if source:
            options += ["-O", f"source-address={source}"]
        validity = f"{_BACKDATE}:+{seconds}s"
        return self._sign(public, ["-I", user, "-n", user, "-z", str(serial), "-V", validity, *options])

    def sign_gateway(
        self, public: Path, out: Path, *, identity: str, principal: str, serial: int, seconds: int
    ) -> Path:
        """Certify the key in `public` for the host's gateway; the certificate's path, which is `out`.

        It permits forwarding and nothing else, and no node knows its principal.

        Args:
            public: ends in `.pub`.
            out: where the certificate is to be.
            identity: in the gateway's log.
            principal: what the gateway knows it by.
            serial: of the certificate.
            seconds: lifetime.

        Raises:
            CommandError: ssh-keygen refuses.
        """
        # ssh-keygen writes next to the key, where the user's other certificate is.
        copy = out.with_name(f"{out.name.removesuffix('-cert.pub')}.pub")
        write_private(copy, public.read_bytes())
        options = ["-O", "clear", "-O", "permit-port-forwarding"]
        words = ["-I", identity, "-n", principal, "-z", str(serial), "-V", f"{_BACKDATE}:+{seconds}s", *options]
        try:
            return self._sign(copy, words)
        finally:
            copy.unlink()

    def sign_host(self, public: Path, *, node: str, names: Sequence[str]) -> Path:
        """Certify a node's host key for its names and addresses, without an end: valid as long as the node is there."""
        return self._sign(public, ["-h", "-I", node, "-n", ",".join(names), "-V", "always:forever"])

    def _sign(self, public: Path, words: Sequence[str]) -> Path:
        self._runner.run(["ssh-keygen", "-q", "-s", str(self._key), *words, str(public)], timeout=_TIMEOUT)
        return public.with_name(f"{public.stem}-cert.pub")
