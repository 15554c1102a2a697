"""Configure: new settings for a lab that is there, and no other machines."""

from __future__ import annotations

import pytest

from emulator.core.errors import ConflictError
from emulator.core.hypervisors import EMBEDDED
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.lab.lab_files import load_recorded_lab
from emulator.operations.configure import configure
from tests.support.simulated_world import SYSTEM_URI, SimulatedHost, lab_text


def test_configure_takes_new_settings_but_no_other_machines(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text()))
    changed = configure(host.environment(), host.lab_file(lab_text()), SilentReporter(), StopFlag())
    assert set(changed) == {"hpc-controller", "hpc-compute-1"}
    other = host.lab_file(lab_text().replace("memory_gb: 1", "memory_gb: 2", 1))
    with pytest.raises(ConflictError, match=r"other machines than lab demo has \(hpc-") as caught:
        configure(host.environment(), other, SilentReporter(), StopFlag())
    assert "provision" in caught.value.fix


CLOUD = """\
version: "1.0"
metadata: {{name: demo}}
timeouts: {{boot: 10}}
clusters:
  cloud:
    control_plane: {{cpu_cores: 2, memory_gb: {memory}, disk_gb: 10}}
    worker_nodes:
      cpu_workers: {{count: 1, cpu_cores: 1, memory_gb: 2, disk_gb: 10}}
    kubernetes_config: {{mig_strategy: {strategy}}}
hypervisor: {{uri: embedded}}
"""


def test_configure_keeps_the_file_by_which_the_lab_is_now(host: SimulatedHost) -> None:
    def recorded() -> str:
        kubernetes = load_recorded_lab(host.home, "demo").spec.kubernetes
        assert kubernetes is not None
        return kubernetes.mig_strategy

    host.provision(host.lab_file(CLOUD.format(memory=3, strategy="mixed")))
    assert recorded() == "mixed"
    loaded = host.lab_file(CLOUD.format(memory=3, strategy="single"))
    configure(host.environment(), loaded, SilentReporter(), StopFlag())
    assert recorded() == "single"
    assert host.home.lab("demo").spec.read_bytes() == loaded.source
    refused = host.lab_file(CLOUD.format(memory=4, strategy="mixed"))
    with pytest.raises(ConflictError):
        configure(host.environment(), refused, SilentReporter(), StopFlag())
    assert recorded() == "single"


def test_the_plan_says_what_does_nothing_where_auto_takes_an_embedded_hypervisor(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"auto": EMBEDDED, SYSTEM_URI: SYSTEM_URI}
    monkeypatch.setattr(SimulatedHost, "_choose", lambda _host, wanted: chosen[wanted])
    source = "security: {unattended_upgrades: true, apt_sources: [deb http://mirror.lan/debian bookworm main]}\n"

    def notes(uri: str) -> list[str]:
        text = lab_text(hypervisor=uri, extra="networks: {hpc_network: {nat: true}}") + source
        return [note.partition(":")[0] for note in host.plan(host.lab_file(text)).notes]

    assert notes("auto") == ["nat has no effect", "nodes reach no package source"]
    assert notes(SYSTEM_URI) == []
    assert host.plan(host.lab_file(lab_text(hypervisor="auto"))).notes == ()
