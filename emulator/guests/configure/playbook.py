"""Runs a cluster's playbook through ansible-runner."""

from __future__ import annotations

import math
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from emulator.core.data_files import share_dir
from emulator.core.errors import ConfigureError
from emulator.core.fs import private_directory, replace_link, write_private
from emulator.core.paths import LabPaths
from emulator.core.units import MIB
from emulator.core.waiting.pace import Pace
from emulator.core.waiting.watch import Watch
from emulator.guests.configure.events import RunRecord, parse_event
from emulator.guests.configure.model import ConfigureResult, EventSink, TaskStatus
from emulator.guests.configure.printable_log import make_log_printable
from emulator.guests.configure.processes import RUN_TAG, control_directory, end_leftovers, end_run, reap
from emulator.guests.inventory.model import AnsibleInventory
from emulator.guests.inventory.render import InventoryFormat, render
from emulator.labfile.model import ClusterKind

PLAYBOOK_OF_CLUSTER: Mapping[ClusterKind, str] = {
    ClusterKind.HPC: "playbook-hpc.yml",
    ClusterKind.CLOUD: "playbook-k8s.yml",
}
UPGRADE_PLAYBOOK = "playbook-upgrade.yml"
LONGEST_TASK = 4800.0
"""Seconds, on a fast host, after which a task that does not end is stuck: the longest wait inside one (kubeadm's 1200
with progress, see `playbooks/module_utils/pace.py`) is over before."""
CONNECT_TIMEOUT = 60
KEPT_RUNS = 5
"""Logs of this many runs are kept for each cluster of a lab."""
MEMORY_LIMIT = 1024 * MIB
"""Bytes of address space of each of Ansible's processes; they need 210 MiB. The task of a guest that floods its answer
fails at the limit."""

# A socket's path has at most 107 bytes (sun_path); ssh adds its 10 and, while it makes the socket, 17 more.
_CONTROL_DIR_LIMIT = 107 - 1 - 10 - 17
_FAR = "hyperscaler-"
"""How the names of control directories begin that have to be elsewhere."""


@dataclass(frozen=True, slots=True)
class PlaybookRun:
    """One playbook on one lab; `variables` are more variables of all hosts, none of them secret. `tags`: only tasks
    with one of these; empty means all. `nodes`: only these; empty means all. `pace`: of this host."""

    playbook: Path
    inventory: AnsibleInventory
    paths: LabPaths
    name: str
    variables: Mapping[str, str | int | bool]
    tags: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    pace: Pace = field(default_factory=Pace)

    @property
    def directory(self) -> Path:
        """ansible-runner's private data directory."""
        return self.paths.ansible / self.name


def unheard(node: str, task: str, status: TaskStatus) -> None:
    """An event sink for callers without progress."""
    del node, task, status


def never() -> bool:
    """For callers that cannot be cancelled."""
    return False


def configure_cluster(
    kind: ClusterKind,
    inventory: AnsibleInventory,
    paths: LabPaths,
    *,
    timeout: float,
    pace: Pace | None = None,
    on_event: EventSink = unheard,
    cancelled: Callable[[], bool] = never,
    variables: Mapping[str, str | int | bool] | None = None,
    tags: tuple[str, ...] = (),
    playbook: str = "",
    nodes: tuple[str, ...] = (),
) -> ConfigureResult:
    """Run the cluster's playbook on the lab's guests. Running it again converges and changes nothing.

    Args:
        kind: whose playbook.
        inventory: the lab's inventory.
        paths: where the lab keeps its secrets and the runs' logs.
        timeout: seconds that it has in any case; after that it goes on as long as tasks end.
        pace: of this host.
        on_event: called for each task on each node.
        cancelled: called about once a second; True ends the run and everything that it started.
        variables: more variables of all hosts, none of them secret.
        tags: run only tasks with one of these; empty means all.
        playbook: another one than the cluster's.
        nodes: run only on these; empty means all.

    Raises:
        ConfigureError: a task failed (names node, task, message and log), none ended any more, or it was cancelled.
    """
    pace = pace or Pace()
    run = PlaybookRun(
        playbook=share_dir() / "playbooks" / (playbook or PLAYBOOK_OF_CLUSTER[kind]),
        inventory=inventory,
        paths=paths,
        name=kind.value,
        variables={"secrets_dir": str(paths.secrets), "pace_factor": str(round(pace.factor, 1)), **(variables or {})},
        tags=tags,
        nodes=nodes,
        pace=pace,
    )
    result = run_playbook(run, timeout=timeout, on_event=on_event, cancelled=cancelled)
    if not result.ok:
        raise _failed(run, result)
    return result


def end_work(paths: LabPaths) -> set[int]:
    """End what killed runs left at work on the lab's guests, and remove where they had their control sockets, which may
    be elsewhere; returns process ids. Call it under the lab's lock."""
    ended: set[int] = set()
    for kind in PLAYBOOK_OF_CLUSTER:
        directory = paths.ansible / kind.value
        ended |= end_leftovers(directory)
        _remove_control_directory(directory)
    return ended


def run_playbook(
    run: PlaybookRun,
    *,
    timeout: float,
    on_event: EventSink,
    cancelled: Callable[[], bool],
) -> ConfigureResult:
    """Run a playbook to its end; a failed task is in the result, not raised.

    Raises:
        ConfigureError: no task ended any more, or it was cancelled.
    """
    # The modules give up by themselves what does not go on; a run that hears of no task for longer is stuck.
    patience = replace(run.pace.patience(timeout), quiet=run.pace.seconds(LONGEST_TASK))
    watch = Watch(patience, time.monotonic)
    heard = [0]
    record = RunRecord()
    identity = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}"
    log = run.directory / "artifacts" / identity / "stdout"
    ended_by: list[str] = []
    ended: set[int] = set()

    def handle(raw: Mapping[str, object]) -> bool:
        event = parse_event(raw)
        if event is not None:
            record.add(event)
            heard[0] += 1
            on_event(event.node, event.task, event.status)
        return False  # the event is not written to a file: the log says the same

    private_directory(run.directory)
    end_leftovers(run.directory)
    # ansible-runner would read the variables of an earlier run from here and mix them with ours.
    shutil.rmtree(run.directory / "env", ignore_errors=True)
    with _control_directory(run.directory) as control_dir:

        def stop() -> bool:
            if cancelled():
                ended_by.append("it was cancelled")
            elif given_up := watch.look(heard[0]):
                ended_by.append(f"it was given up {given_up}")
            if ended_by:
                ended.update(end_run(identity, control_dir))
            return bool(ended_by)

        try:
            returncode = _ansible(run, identity, control_dir, handle, stop)
        finally:
            ended.update(end_run(identity, control_dir))
            reap(ended)
            shutil.rmtree(run.directory / "tmp", ignore_errors=True)
            make_log_printable(log)
    if ended_by:
        raise ConfigureError(
            f"{run.playbook.name}: {ended_by[0]}, at {record.under_way()}",
            where=str(log),
            fix="run it again: it continues where it stopped; on a host with other work, that has to end first",
        )
    result = ConfigureResult(
        ok=returncode == 0 and not record.failures,
        changed=record.changed,
        failures=record.failures,
        seconds=watch.seconds,
    )
    return replace(result, log=log)


def _ansible(
    run: PlaybookRun,
    identity: str,
    control_dir: Path,
    handle: Callable[[Mapping[str, object]], bool],
    stop: Callable[[], bool],
) -> int:
    from ansible_runner.interface import init_runner  # lazy: half a second, and not needed to plan

    inventory = run.directory / "inventory.yaml"
    # Variables go into the inventory, where every string is literal: Ansible would evaluate those in ansible-runner's
    # file of extra variables as templates.
    whole = replace(run.inventory, vars={**run.inventory.vars, **run.variables})
    write_private(inventory, render(whole, InventoryFormat.YAML).encode())
    environment = _environment(run, identity, control_dir)
    runner = init_runner(
        private_data_dir=str(run.directory),
        playbook=str(run.playbook),
        inventory=str(inventory),
        tags=",".join(run.tags) or None,
        limit=",".join(run.nodes) or None,
        envvars=environment,
        ident=identity,
        rotate_artifacts=KEPT_RUNS,
        quiet=True,
        settings={"pexpect_timeout": 1, "suppress_ansible_output": True},
        event_handler=handle,
        # Given always, or ansible-runner would take over the process's signal handlers.
        cancel_callback=stop,
    )
    # ansible-runner passes our whole environment on; only its own additions and ours for Ansible may stay.
    added = {key: value for key, value in runner.config.env.items() if os.environ.get(key) != value}
    runner.config.env = {**added, **environment}
    # A guest may answer a task with gigabytes, which Ansible would all read into memory.
    runner.config.command = ["prlimit", f"--as={MEMORY_LIMIT}", "--", *runner.config.command]
    _status, returncode = runner.run()
    return int(returncode) if returncode is not None else 1


def _environment(run: PlaybookRun, identity: str, control_dir: Path) -> dict[str, str]:
    """The whole environment of Ansible and ssh: no agent, no user configuration, no Python path."""
    # Ansible is in the interpreter's directory, also when the virtual environment is not on PATH.
    path = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {
        "PATH": path,
        "HOME": str(run.directory),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        RUN_TAG: identity,
        "ANSIBLE_CONFIG": str(run.playbook.parent / "ansible.cfg"),
        "ANSIBLE_HOME": str(run.directory / "home"),
        "ANSIBLE_LOCAL_TEMP": str(run.directory / "tmp"),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(control_dir),
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_FORKS": str(run.pace.forks),
        "ANSIBLE_TIMEOUT": str(math.ceil(run.pace.seconds(CONNECT_TIMEOUT))),
    }


def _failed(run: PlaybookRun, result: ConfigureResult) -> ConfigureError:
    log = str(result.log)
    if not result.failures:
        return ConfigureError(f"{run.playbook.name} failed before any task", where=log, fix=f"see {log}")
    first, *others = result.failures
    more = "".join(f"\n  also {other.node}, task '{other.task}': {other.message}" for other in others)
    return ConfigureError(
        f"task '{first.task}' failed: {first.message}{more}",
        where=first.node,
        fix=f"see {log}; fix the cause, then run it again",
    )


@contextmanager
def _control_directory(directory: Path) -> Iterator[Path]:
    """A directory for ssh's control sockets with a path that is short enough for them; removed afterwards."""
    near = directory / "cp"
    _remove_control_directory(directory)
    if len(os.fsencode(near)) <= _CONTROL_DIR_LIMIT:
        private_directory(near)
        chosen = near
    else:
        chosen = Path(tempfile.mkdtemp(prefix=_FAR))
        replace_link(near, str(chosen))  # for the next run, should this one be killed
    try:
        yield chosen
    finally:
        _remove_control_directory(directory)


def _remove_control_directory(directory: Path) -> None:
    chosen = control_directory(directory)
    with suppress(FileNotFoundError):
        if chosen.parent == directory or (chosen.name.startswith(_FAR) and chosen.lstat().st_uid == os.geteuid()):
            shutil.rmtree(chosen, ignore_errors=True)
    if (directory / "cp").is_symlink():
        (directory / "cp").unlink()
