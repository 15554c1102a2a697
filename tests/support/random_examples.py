"""How many random examples a test plays: few and always the same ones in `make test`, many new ones in `make fuzz`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

FACTOR = int(os.environ.get("FUZZ_FACTOR", "1"))


def examples(number: int, *, steps: int = 50) -> settings:
    """`number` examples (times `FUZZ_FACTOR`); `steps` for state machines."""
    return settings(
        max_examples=number * FACTOR,
        stateful_step_count=steps if FACTOR == 1 else 2 * steps,
        deadline=None,
        derandomize=FACTOR == 1,
        database=None,
        print_blob=True,
        report_multiple_bugs=False,
        phases=[phase for phase in Phase if phase is not Phase.shrink or steps == 50],
        suppress_health_check=list(HealthCheck),
    )
