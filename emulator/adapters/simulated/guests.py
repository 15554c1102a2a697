"""Simulated guests: reachable while their simulated domain runs, with outputs given by a test."""

from __future__ import annotations

import re
from dataclasses import dataclass

from emulator.adapters.simulated.calls import CallHook
from emulator.adapters.simulated.hypervisor import SimulatedHypervisor
from emulator.adapters.system.process import command_error
from emulator.core.ports import Completed, GuestAddress


@dataclass(frozen=True, slots=True)
class Answer:
    """A command's output: `pattern` must match the whole command line; `node` None means every node."""

    pattern: str
    stdout: str = ""
    returncode: int = 0
    node: str | None = None


class SimulatedShell:
    """`GuestShell` without ssh. Guests are found by address among the reservations of running networks.

    A command without a matching answer ends with status 127, as in a shell.
    """

    def __init__(
        self,
        hypervisor: SimulatedHypervisor,
        answers: tuple[Answer, ...] = (Answer("true"),),
        *,
        hook: CallHook | None = None,
    ) -> None:
        self._hypervisor = hypervisor
        self._answers = answers
        self._hook = hook or CallHook()

    def run(
        self,
        guest: GuestAddress,
        command: str,
        *,
        timeout: float,
        check: bool = True,
        stdin: str | None = None,
    ) -> Completed:
        del timeout, stdin
        with self._hook.around("run"):
            done = self._answer(guest, command)
        if check and done.returncode != 0:
            raise command_error(done)
        return done

    def ready(self, guest: GuestAddress, *, timeout: float) -> bool:
        del timeout
        with self._hook.around("ready"):
            return self._reachable(guest)

    def _answer(self, guest: GuestAddress, command: str) -> Completed:
        argv = ("ssh", f"{guest.user}@{guest.ip}", command)
        if not self._reachable(guest):
            text = f"ssh: connect to host {guest.ip} port 22: No route to host"
            return Completed(argv, 255, "", text)
        for answer in self._answers:
            if answer.node in (None, guest.name) and re.fullmatch(answer.pattern, command, re.DOTALL):
                return Completed(argv, answer.returncode, answer.stdout, "")
        return Completed(argv, 127, "", f"sh: {command.split()[0] if command.split() else ''}: not found")

    def _reachable(self, guest: GuestAddress) -> bool:
        running = self._hypervisor.running_macs()
        networks = [network for network in self._hypervisor.networks() if network.active]
        return any(host.ip == guest.ip and host.mac in running for network in networks for host in network.hosts)
