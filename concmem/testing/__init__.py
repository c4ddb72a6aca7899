"""
For tests of what is built on concmem.

* `Sequencer` forces an order at named points.
* `programs`, `preemptions`, `schedules`, `ConcurrentStateMachine` let Hypothesis draw programs and their preemptions.
* `run_runtime_conformance_test`, `run_scheduler_conformance_test` say what runtimes and schedulers promise.
* :mod:`concmem.testing.pytest_plugin` is loaded by pytest itself.

Everything is imported when it is first used, so that the plugin costs a test run that does not need it nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concmem.testing.allocators import AllocatorProgram, Call
    from concmem.testing.conformance import run_runtime_conformance_test
    from concmem.testing.conformance_schedulers import run_scheduler_conformance_test
    from concmem.testing.recording import Preemption, check_schedule
    from concmem.testing.sequencer import OutOfOrder, Sequencer
    from concmem.testing.stateful import ConcurrentStateMachine, operation
    from concmem.testing.strategies import preemptions, programs, schedules

_HOMES = {
    "run_runtime_conformance_test": "conformance",
    "run_scheduler_conformance_test": "conformance_schedulers",
    "AllocatorProgram": "allocators",
    "Call": "allocators",
    "ConcurrentStateMachine": "stateful",
    "Preemption": "recording",
    "check_schedule": "recording",
    "operation": "stateful",
    "preemptions": "strategies",
    "programs": "strategies",
    "schedules": "strategies",
    "OutOfOrder": "sequencer",
    "Sequencer": "sequencer",
}

__all__ = [
    "AllocatorProgram",
    "Call",
    "ConcurrentStateMachine",
    "OutOfOrder",
    "Preemption",
    "Sequencer",
    "check_schedule",
    "operation",
    "preemptions",
    "programs",
    "run_runtime_conformance_test",
    "run_scheduler_conformance_test",
    "schedules",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
