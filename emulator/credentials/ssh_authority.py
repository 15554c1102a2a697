"""A lab's ssh certificate authority, which signs with ssh-keygen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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

    def sign_host(self, public: Path, *, node: str, names: Sequence[str]) -> Path:
        """Certify a node's host key for its names and addresses, without an end: valid as long as the node is there."""
        return self._sign(public, ["-h", "-I", node, "-n", ",".join(names), "-V", "always:forever"])

    def _sign(self, public: Path, words: Sequence[str]) -> Path:
        self._runner.run(["ssh-keygen", "-q", "-s", str(self._key), *words, str(public)], timeout=_TIMEOUT)
        return public.with_name(f"{public.stem}-cert.pub")
