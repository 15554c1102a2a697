"""Plan: what provision would do. Takes no lock and writes nothing."""

from __future__ import annotations

from emulator.core.progress import Reporter
from emulator.lab.environment import Environment
from emulator.lab.lab import open_lab
from emulator.lab.lab_files import LoadedLab
from emulator.lab.open_journal import open_record
from emulator.lab.planning.plan import backends_of, plan_lab
from emulator.operations.validate import require_fit
from emulator.plan.model import Plan


def preview(env: Environment, loaded: LoadedLab, reporter: Reporter) -> Plan:
    """The plan as of now; its blockers are reported in it, not raised."""
    spec = loaded.spec
    acceleration = env.accelerate(spec.hypervisor.acceleration)
    if acceleration.warning:
        reporter.warn(acceleration.warning)
    env, store = open_record(env, spec.name)
    state = store.state
    lab = open_lab(env, spec.name, backends_of(env, state, spec, dry=True))
    require_fit(env, loaded, lab, state, reporter)
    return plan_lab(lab, state, spec, acceleration)
