"""A runtime that stops CPU 0 at every scheduling point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from concmem.runtime.cpu import Cpu
from concmem.runtime.jitter import JitterRuntime
from concmem.runtime.percpu import NoArea


class PointRuntime(JitterRuntime):
    """Never hesitates, but calls `at_point` at every point of CPU 0."""

    def __init__(self, nr_cpus: int = 1, **options: Any) -> None:
        self.at_point: Callable[[Cpu], None] | None = None
        super().__init__(nr_cpus, hesitation=0.0, **options)

    def hesitate(self) -> Cpu | None:
        here = self.area()
        if here.__class__ is NoArea:
            return None
        cpu = cast(Cpu, here[1])
        at_point = self.at_point
        if at_point is not None and cpu.number == 0:
            self.at_point = None  # what it looks at has points, too
            try:
                at_point(cpu)
            finally:
                self.at_point = at_point
        return cpu


class Kth:
    """Does something at the *k*-th point, from 0, of those that *allowed* lets through; once."""

    def __init__(
        self, k: int, action: Callable[[Cpu], None], allowed: Callable[[Cpu], bool]
    ) -> None:
        self.left = k
        self.action = action
        self.allowed = allowed
        self.done = False

    def __call__(self, cpu: Cpu) -> None:
        if self.done or not self.allowed(cpu):
            return
        if self.left:
            self.left -= 1
            return
        self.done = True
        self.action(cpu)
