"""How the programs are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine

Make = Callable[[ControlledRuntime], Program]

PROGRAMS: dict[str, Make] = {}
"""By name."""

After = Callable[[], Any]
Parts = tuple[list[Any], After]
"""What a program does on each CPU, and what is checked at its end, beyond ``verify()``."""


def program(function: Callable[[Machine], Parts], **machine: Any) -> Callable[[Machine], Parts]:
    """
    Make a function of a machine, which gives bodies and a check, a program.

    Bodies beyond the second are interrupts of CPU 0.

    Args:
        machine: arguments of `Machine`.
    """

    def make(rt: ControlledRuntime) -> Program:
        m = Machine(runtime=rt, **{"memory": "16M", "cma": "2M", **machine})
        bodies, after = function(m)
        interrupts = [(0, body) for body in bodies[2:]]

        def check() -> None:
            after()
            m.verify()

        return Program(bodies[:2], check, verify=m.verify, interrupts=interrupts)

    PROGRAMS[function.__name__] = make
    return function


def nothing() -> None:
    """No check but verify()."""
