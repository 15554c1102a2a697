"""Plan: what provision would do. Takes no lock and writes nothing."""

from __future__ import annotations

from emulator.core.progress import Reporter
from emulator.lab.environment import World
from emulator.lab.lab import open_lab
from emulator.lab.lab_files import LoadedLab
from emulator.lab.open_journal import open_record
from emulator.lab.planning.plan import backends_of, plan_lab
from emulator.operations.validate import require_fit
from emulator.plan.model import Plan


def preview(world: World, loaded: LoadedLab, reporter: Reporter) -> Plan:
    """The plan as of now; its blockers are reported in it, not raised."""
    spec = loaded.spec
    acceleration = world.accelerate(spec.hypervisor.acceleration)
    if acceleration.warning:
        reporter.warn(acceleration.warning)
    world, store = open_record(world, spec.name)
    state = store.state
    lab = open_lab(world, spec.name, backends_of(world, state, spec, dry=True))
    require_fit(world, loaded, lab, state, reporter)
    return plan_lab(lab, state, spec, acceleration)
