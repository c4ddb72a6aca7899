"""
Per-CPU data of the free-running modes: an area for each CPU, and variables as offsets into it.

As ``gs`` points to a CPU's area on x86-64, a context variable holds each thread's area, a list.
Finding a variable costs one C call and one index, takes no lock, and touches one shared object only,
which on a free-threaded interpreter is what decides whether CPUs scale (every use of a shared object
is a contended reference count).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, cast

from concmem.errors import BadArgument, BadArgumentType, NotACpu

if TYPE_CHECKING:
    from concmem.runtime.free import FreeRuntime

T = TypeVar("T")


class NoArea(list[Any]):
    """The area of a thread that is no CPU: every use says so."""

    def __getitem__(self, _offset: object) -> NoReturn:
        raise NotACpu(
            f"thread {threading.current_thread().name!r} is no CPU of this machine: "
            "run the call on one, with machine.run([...]) or machine.submit(cpu, fn)"
        )


class FreePerCpu(Generic[T]):
    """A per-CPU variable: an offset into each CPU's area."""

    def __init__(self, runtime: FreeRuntime, factory: Callable[[], T], name: str) -> None:
        self.name = name
        self._runtime = runtime
        self.offset = offset = runtime.allocate_percpu(factory)
        area = runtime.area

        # A closure, not a method: no shared `self` on the way.
        def this() -> T:
            return cast(T, area()[offset])

        self.this = this

    def of(self, cpu: int) -> T:
        areas = self._runtime.areas
        if isinstance(cpu, bool) or not isinstance(cpu, int):
            raise BadArgumentType(f"cpu: expected a CPU number, got {cpu!r}")
        if not 0 <= cpu < len(areas):
            raise BadArgument(f"cpu: there is no CPU {cpu}, only 0 to {self._runtime.nr_cpus - 1}")
        return cast(T, areas[cpu][self.offset])

    def all(self) -> Sequence[T]:
        return [area[self.offset] for area in self._runtime.areas]
