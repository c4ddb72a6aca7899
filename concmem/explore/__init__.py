"""
Controlled mode: a scheduler owns every switch between CPUs.

    from concmem import explore

    def program(rt):
        x = rt.cell(0, "x")

        def body():
            v = x.value
            x.value = v + 1

        def after():
            assert x.value == 2

        return explore.Program([body, body], after=after)

    outcome = explore.check(program)
    print(outcome)
"""

from concmem.errors import Deadlock, Nondeterminism, ReplayDiverged
from concmem.explore.check import Coverage, Outcome, check, replay, shrink
from concmem.explore.controlled import ControlledRuntime
from concmem.explore.execution import Execution
from concmem.explore.failure import Failure
from concmem.explore.history import (
    History,
    NotLinearizable,
    check_linearizable,
    linearizable,
)
from concmem.explore.program import Program
from concmem.explore.schedule import Schedule
from concmem.explore.scheduler import Scheduler
from concmem.explore.schedulers import (
    DFS,
    DPOR,
    PCT,
    POS,
    SCHEDULERS,
    SURW,
    URW,
    Census,
    DelayBounding,
    NondeterminismCheck,
    PreemptionBounding,
    RandomWalk,
    Replay,
    RoundRobin,
)
from concmem.explore.shared import shared

__all__ = [
    "DFS",
    "DPOR",
    "PCT",
    "POS",
    "SCHEDULERS",
    "SURW",
    "URW",
    "Census",
    "ControlledRuntime",
    "Coverage",
    "Deadlock",
    "DelayBounding",
    "Execution",
    "Failure",
    "History",
    "Nondeterminism",
    "NondeterminismCheck",
    "NotLinearizable",
    "Outcome",
    "PreemptionBounding",
    "Program",
    "RandomWalk",
    "Replay",
    "ReplayDiverged",
    "RoundRobin",
    "Schedule",
    "Scheduler",
    "check",
    "check_linearizable",
    "linearizable",
    "replay",
    "shared",
    "shrink",
]
