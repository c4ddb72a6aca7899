"""
A lock validator, as ``lockdep``: it learns which classes of locks are taken inside which, and tells of orders that
could deadlock, also when they did not.

Classes are the names of locks. For each: was it taken in an interrupt handler (*irq-safe*), and was it ever held with
interrupts enabled (*irq-unsafe*)? For each pair: was one taken while the other was held? Wrong are

* a class taken while one of the same class is held (*recursive locking*);
* a circle in the order of classes (*circular locking dependency*);
* a class that is both irq-safe and irq-unsafe (*inconsistent lock state*): the handler may wait for what it interrupted;
* a way from an irq-safe class to an irq-unsafe one (*irq lock inversion*): the same, by way of another CPU.

``trylock`` never waits, so taking a lock that way orders nothing before it; but what is taken inside is ordered.
Follows ``kernel/locking/lockdep.c`` of Linux 6.12 in its rules.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import NamedTuple


class Violation(NamedTuple):
    """One thing that is wrong."""

    kind: str
    """As the kernel calls it: ``possible circular locking dependency detected``, ..."""
    text: str
    classes: tuple[str, ...]
    """The classes that it is about."""


class Lockdep:
    """What was seen of the locks of one machine. Not for several threads at once."""

    def __init__(self) -> None:
        self.violation: Violation | None = None
        """The first one."""
        self.order: dict[str, dict[str, str]] = {}
        """For each class, those taken while it was held, and where that was first seen."""
        self._safe: dict[str, str] = {}
        """Classes taken in interrupts, and where."""
        self._unsafe: dict[str, str] = {}
        """Classes held with interrupts enabled, and where."""
        self._seen: set[Hashable] = set()

    def acquired(
        self,
        name: str,
        held: Sequence[str],
        *,
        in_interrupt: bool,
        irqs_enabled: bool,
        sleeps: bool = False,
        trylock: bool = False,
        where: str = "",
    ) -> None:
        """
        A lock of class *name* was taken, with locks of the classes *held* already.

        Args:
            in_interrupt: in a handler.
            irqs_enabled: interrupts can come while it is held.
            sleeps: it is a mutex or semaphore, which no interrupt takes.
            where: who took it, for people.
        """
        key = (name, tuple(held), in_interrupt, irqs_enabled, trylock)
        if key in self._seen:
            return
        self._seen.add(key)
        if not sleeps:
            if in_interrupt and not trylock:  # who only tries does not wait for what it interrupted
                self._safe.setdefault(name, where)
            elif irqs_enabled and not in_interrupt:
                self._unsafe.setdefault(name, where)
            self._check_state(name)
        if not trylock:
            for other in held:
                self._check_pair(other, name, where)
        self._check_inversion()

    def _report(self, kind: str, text: str, *classes: str) -> None:
        if self.violation is None:
            self.violation = Violation(kind, f"{kind}: {text}", classes)

    def _check_state(self, name: str) -> None:
        if name in self._safe and name in self._unsafe:
            self._report(
                "inconsistent lock state",
                f"{name} is taken in an interrupt ({self._safe[name]}), and held with interrupts "
                f"enabled ({self._unsafe[name]})",
                name,
            )

    def _check_pair(self, outer: str, inner: str, where: str) -> None:
        if outer == inner:
            self._report(
                "possible recursive locking detected",
                f"{inner} is taken ({where}) while another one of that class is held",
                inner,
            )
            return
        inside = self.order.setdefault(outer, {})
        if inner in inside:
            return
        way = self._way(inner, {outer})
        inside[inner] = where
        if way:
            steps = [f"{a} -> {b} ({self.order[a][b]})" for a, b in pairwise(way)]
            self._report(
                "possible circular locking dependency detected",
                f"{outer} -> {inner} ({where}), but there was {', '.join(steps)}",
                *sorted(set(way)),
            )

    def _way(self, start: str, ends: set[str]) -> list[str]:
        """Classes from *start* to one of *ends*, by the order seen; empty if there is no such way."""
        came_from: dict[str, str | None] = {start: None}
        queue = [start]
        for name in queue:
            if name in ends:
                way: list[str] = []
                step: str | None = name
                while step is not None:
                    way.append(step)
                    step = came_from[step]
                return way[::-1]
            for following in self.order.get(name, ()):
                if following not in came_from:
                    came_from[following] = name
                    queue.append(following)
        return []

    def _check_inversion(self) -> None:
        unsafe = self._unsafe.keys() - self._safe.keys()
        for name in self._safe:
            way = self._way(name, unsafe) if unsafe else []
            if way:
                last = way[-1]
                self._report(
                    "possible irq lock inversion dependency detected",
                    f"{name} is taken in an interrupt ({self._safe[name]}), and "
                    f"{' -> '.join(way)}, but {last} is held with interrupts enabled "
                    f"({self._unsafe[last]})",
                    *sorted({name, last}),
                )
                return
