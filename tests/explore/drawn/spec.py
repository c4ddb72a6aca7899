"""A drawn program as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Op = tuple[Any, ...]


@dataclass
class Spec:
    """A program as data."""

    bodies: list[list[Op]]
    interrupts: list[tuple[int, list[Op]]] = field(default_factory=list)
    nr_cpus: int = 2
    kthread: bool = False
    early_timeouts: int = 0
    spurious_wakeups: int = 0

    def permuted(self, order: list[int]) -> Spec:
        """The same with its bodies in another order, on other CPUs."""
        where = {old: new for new, old in enumerate(order)}
        return Spec(
            [_moved(self.bodies[old], where) for old in order],
            [(where.get(cpu, cpu), _moved(ops, where)) for cpu, ops in self.interrupts],
            self.nr_cpus,
            self.kthread,
            self.early_timeouts,
            self.spurious_wakeups,
        )


def _moved(ops: list[Op], where: dict[int, int]) -> list[Op]:
    moved = []
    for name, *args in ops:
        if name in ("send", "post", "submit", "start"):
            args[0] = where.get(args[0], args[0])
        moved.append(
            (name, *(_moved(arg, where) if isinstance(arg, list) else arg for arg in args))
        )
    return moved
