"""How patient the playbooks' modules are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from emulator.core.waiting.pace import MOST
from tests.support.playbook_modules import PLAYBOOKS, kubeadm_run, pace
from tests.support.waiting import Ticking


@pytest.mark.parametrize(
    ("text", "factor"),
    [
        ("1", 1.0),
        ("2.5", 2.5),
        ("99", 10.0),
        ("0.1", 1.0),
        ("-3", 1.0),
        ("nan", 1.0),
        ("inf", 1.0),
        ("x", 1.0),
        ("", 1.0),
    ],
)
def test_the_factor_is_bounded_whatever_the_environment_says(text: str, factor: float) -> None:
    assert pace.factor(text) == factor


def test_the_bound_is_the_host_s() -> None:
    assert pace.MOST == MOST


def test_seconds_follow_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pace.seconds(60) == 60
    monkeypatch.setenv("HYPERSCALER_PACE", "2.5")
    assert pace.seconds(60) == 150


def test_every_play_says_the_pace_to_its_tasks() -> None:
    for file in PLAYBOOKS.glob("playbook-*.yml"):
        for play in yaml.safe_load(file.read_text()):
            assert "pace_factor" in play["environment"]["HYPERSCALER_PACE"], (file, play["name"])


def test_a_wait_goes_on_with_progress_and_ends_without() -> None:
    time = Ticking()
    watch = pace.Watch(60, time.monotonic)
    for number in range(100):
        time.sleep(2)
        assert watch.over(number) == ""
    for _ in range(7):
        time.sleep(2)
        assert watch.over("still") == ""
    time.sleep(2)
    assert watch.over("still") == "" or watch.over("still").endswith("without progress")


def test_a_wait_with_progress_has_a_bound() -> None:
    time = Ticking()
    watch = pace.Watch(60, time.monotonic)
    given_up = ""
    while not given_up:
        time.sleep(2)
        given_up = watch.over(time.seconds)
    assert given_up == "after 240 s, although there still was progress"


class Server:
    """An API server whose hooks end one after the other, each after `each` seconds."""

    def __init__(self, time: Ticking, hooks: int, each: float) -> None:
        self.time, self.hooks, self.each = time, hooks, each

    def urlopen(self, url: str, **_: Any) -> Any:
        import io
        import urllib.error

        assert url.endswith("/readyz?verbose")
        done = min(int(self.time.seconds // self.each), self.hooks)
        if done == self.hooks:
            return Reply()
        body = "".join(f"[{'+' if number < done else '-'}]hook-{number}\n" for number in range(self.hooks))
        raise urllib.error.HTTPError(url, 500, "not ready", {}, io.BytesIO(body.encode()))  # type: ignore[arg-type]


class Reply:
    status = 200

    def __enter__(self) -> Reply:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def slow_server(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(hooks: int, each: float) -> Ticking:
        time = Ticking()
        monkeypatch.setattr(kubeadm_run, "time", time)
        monkeypatch.setattr(kubeadm_run, "running_containers", frozenset)
        monkeypatch.setattr(kubeadm_run, "Watch", lambda base: pace.Watch(base, time.monotonic))
        monkeypatch.setattr(kubeadm_run.urllib.request, "urlopen", Server(time, hooks, each).urlopen)
        return time

    return make


def test_an_api_server_whose_hooks_end_slowly_is_waited_for(slow_server: Any) -> None:
    """It has a minute, and takes two and a half: 15 hooks of 10 s each."""
    time = slow_server(15, 10.0)
    assert kubeadm_run.answers("10.20.0.10", 60)
    assert time.seconds >= 150


def test_an_api_server_that_is_stuck_is_given_up_at_its_time(slow_server: Any) -> None:
    time = slow_server(2, 1000.0)
    assert not kubeadm_run.answers("10.20.0.10", 60)
    assert time.seconds == 60


def test_containers_of_kubelet_are_found_by_their_cgroups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pattern: list[str] = []

    def glob(text: str, **_: Any) -> list[str]:
        pattern.append(text)
        return ["a.scope", "b.scope"]

    monkeypatch.setattr(kubeadm_run.glob, "glob", glob)
    assert kubeadm_run.running_containers() == {"a.scope", "b.scope"}
    assert pattern == ["/sys/fs/cgroup/kubepods.slice/**/cri-containerd-*.scope"]
