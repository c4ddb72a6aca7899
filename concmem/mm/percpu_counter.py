"""
``struct percpu_counter``: a sum that CPUs add to without each other's notice, most of the time.

Each CPU collects in a number of its own and adds it to ``count`` when it has reached a batch. So
``count`` is off by less than ``batch`` for each CPU.

Lock: fbc->lock protects ``count``, and what CPUs move there: who sums up sees it in one place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.errors import NotACpu

if TYPE_CHECKING:
    from concmem.runtime.api import Runtime


class PercpuCounter:
    """A counter of class *name* that is right to within ``nr_cpus * batch``."""

    def __init__(self, rt: Runtime, name: str, batch: int) -> None:
        self.batch = batch
        self.lock = rt.spinlock(f"{name}->lock")
        # lock: count
        self.count = rt.cell(0, f"{name}->count")
        self._local = rt.percpu(lambda: [0], name)

    def add(self, amount: int) -> None:
        """``percpu_counter_add_batch``. Not from interrupts. Off the CPUs it goes to `count`."""
        try:
            local = self._local.this()
        except NotACpu:
            self._add_count(amount)
            return
        local[0] += amount
        if abs(local[0]) >= self.batch:
            self._add_count(0, local)

    def _add_count(self, amount: int, local: list[int] | None = None) -> None:
        """Add *amount* to the count; or what is in *local*, which then is 0."""
        with self.lock:
            if local is not None:
                amount, local[0] = local[0], 0
            self.count.value += amount

    def read_positive(self) -> int:
        """The estimate, not below 0 (``percpu_counter_read_positive``). No lock: it may be stale."""
        return max(0, self.count.value)

    def sum(self) -> int:
        """Everything (``percpu_counter_sum``): exact but for what is being added now."""
        with self.lock:
            return self.count.value + sum(local[0] for local in self._local.all())
