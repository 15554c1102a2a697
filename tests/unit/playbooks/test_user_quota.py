"""Quotas of a node's users, on a kernel that is data; and what the system's own kernel says of a call that is wrong."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.playbook_modules import node_accounts, user_quota

QUOTA = {"kib": 1024, "inodes": 64}


class Kernel:
    """Limits by uid; `error` is its answer to everything."""

    def __init__(self, error: int = 0) -> None:
        self.error = error
        self.limits: dict[int, tuple[int, int]] = {}
        self.sets = 0

    def __call__(self, command: int, uid: int, record: Any) -> int:
        if self.error:
            return self.error
        if command == user_quota.GET_QUOTA:
            record.space_hard, record.inodes_hard = self.limits.get(uid, (0, 0))
            record.space_used, record.valid = 4096, 0x3F
            return 0
        assert command == user_quota.SET_QUOTA
        assert record.valid == user_quota.LIMITS, "what is used, and since when, is the kernel's own"
        self.limits[uid] = (record.space_hard, record.inodes_hard)
        self.sets += 1
        return 0


def test_the_record_is_the_kernel_s() -> None:
    """`struct if_dqblk` on 64-bit machines: eight fields of 8 bytes and one of 4, padded."""
    assert ctypes.sizeof(user_quota.Record) == 72
    assert (user_quota.Record.inodes_hard.offset, user_quota.Record.valid.offset) == (24, 64)


def test_limits_are_set_once() -> None:
    kernel = Kernel()
    assert user_quota.ensure_quota(3000, QUOTA, kernel, check=True) is True
    assert kernel.limits == {}
    assert user_quota.ensure_quota(3000, QUOTA, kernel, check=False) is True
    assert user_quota.ensure_quota(3000, QUOTA, kernel, check=False) is False
    assert (kernel.limits, kernel.sets) == ({3000: (1024, 64)}, 1)
    assert user_quota.ensure_quota(3000, {"kib": 512, "inodes": 64}, kernel, check=False) is True
    assert kernel.limits == {3000: (512, 64)}


@pytest.mark.parametrize("error", [errno.ESRCH, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_quotas_is_told_apart(error: int) -> None:
    with pytest.raises(user_quota.NoQuotasError):
        user_quota.ensure_quota(3000, QUOTA, Kernel(error), check=False)


def test_any_other_refusal_is_an_error() -> None:
    with pytest.raises(PermissionError, match="quota of uid 3000"):
        user_quota.ensure_quota(3000, QUOTA, Kernel(errno.EPERM), check=False)


def test_the_call_reaches_this_kernel(tmp_path: Path) -> None:
    """With a command that no kernel has: the answer is an errno of this call, and no descriptor stays open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert user_quota.kernel(str(tmp_path))(0x8000FF << 8, 3000, user_quota.Record()) in {
        errno.EINVAL, errno.ENOSYS, errno.ESRCH, errno.ENOTBLK, errno.EPERM,
    }  # fmt: skip
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def users(*uids: int) -> list[dict[str, Any]]:
    return [{"name": f"u{uid}", "uid": uid, "home": None, "shell": None} for uid in uids]


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[Kernel], None]:
    def use(kernel: Kernel) -> None:
        monkeypatch.setattr(node_accounts, "kernel", lambda _path: kernel)

    return use


def test_every_user_gets_the_same(on: Callable[[Kernel], None]) -> None:
    kernel, said = Kernel(), list[str]()
    kernel.limits[3001] = (1024, 64)
    on(kernel)
    assert node_accounts.ensure_quotas(users(2000, 3001), QUOTA, said.append, check=False) == ["quota u2000"]
    assert node_accounts.ensure_quotas(users(2000, 3001), QUOTA, said.append, check=False) == []
    assert node_accounts.ensure_quotas(users(2000), None, said.append, check=False) == []
    assert said == []


def test_an_older_disk_is_one_warning(on: Callable[[Kernel], None]) -> None:
    said = list[str]()
    on(Kernel(errno.ESRCH))
    assert node_accounts.ensure_quotas(users(2000, 3001), QUOTA, said.append, check=False) == []
    assert len(said) == 1
    assert "make the node again" in said[0]
