"""
Lock classes, the graph of their order, and chains: what :mod:`concmem.runtime.lockdep` knows for good.

A class is all locks of one name (and subclass). Class A comes before B in the graph once somebody has
taken a B while holding an A. The validator's lock protects everything here, but for lookups in
`Chain.next`: a chain is complete when it comes in there, and stays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from concmem.runtime.lockdep_where import Place, Trace

IN_HARDIRQ: Final = 1
IN_HARDIRQ_READ: Final = 2
ENABLED_HARDIRQ: Final = 4
ENABLED_HARDIRQ_READ: Final = 8

USAGE_NAMES: Final = {
    IN_HARDIRQ: "IN-HARDIRQ-W",
    IN_HARDIRQ_READ: "IN-HARDIRQ-R",
    ENABLED_HARDIRQ: "HARDIRQ-ON-W",
    ENABLED_HARDIRQ_READ: "HARDIRQ-ON-R",
}
"""A class used in an interrupt handler is *safe*; one held with interrupts enabled is *unsafe*."""

CONFLICTS: Final = {
    IN_HARDIRQ: ENABLED_HARDIRQ | ENABLED_HARDIRQ_READ,
    IN_HARDIRQ_READ: ENABLED_HARDIRQ,
    ENABLED_HARDIRQ: IN_HARDIRQ | IN_HARDIRQ_READ,
    ENABLED_HARDIRQ_READ: IN_HARDIRQ,
}
"""What must not come together in one class, or along a path from safe to unsafe. Readers share."""

SAFE: Final = (IN_HARDIRQ, IN_HARDIRQ_READ)

IRQ: Final = 1
IRQS_ON: Final = 2
TRYLOCK: Final = 4
READ: Final = 8
"""How a lock is taken: in an interrupt handler, held with interrupts enabled, ... Bits of a key."""

KEY_BITS: Final = 4


class LockClass:
    """
    All locks of one name, or of one nesting level of it. Made by :meth:`Lockdep.lock_class`.

    Args:
        subclass: 0, or the level at which a lock is taken while another of its name is held.
    """

    __slots__ = ("after", "before", "index", "key", "kind", "name", "sleeps", "usage")

    def __init__(self, index: int, name: str, kind: str, subclass: int) -> None:
        self.index = index
        self.key = index << KEY_BITS
        self.name = f"{name}/{subclass}" if subclass else name
        self.kind = kind
        self.sleeps = kind != "spinlock"
        self.usage: dict[int, Trace] = {}
        """Usage bits, with where each came first."""
        self.after: dict[LockClass, Edge] = {}
        self.before: dict[LockClass, Edge] = {}

    @property
    def usage_characters(self) -> str:
        """
        As in ``{-...}``: for hard interrupts, written and read; softirqs are not modelled.

        ``-`` used in one, ``+`` held with them enabled, ``?`` both (one as a reader), ``.`` neither.
        """
        return f"{self._character(IN_HARDIRQ)}{self._character(IN_HARDIRQ_READ)}.."

    def _character(self, used_in: int) -> str:
        enabled = ENABLED_HARDIRQ if used_in == IN_HARDIRQ else ENABLED_HARDIRQ_READ
        if enabled in self.usage:
            return "?" if used_in in self.usage else "+"
        return "-" if used_in in self.usage else "."

    def conflict(self, bits: int) -> int:
        """The first of *bits* that this class has, or 0."""
        for bit in self.usage:
            if bit & bits:
                return bit
        return 0

    def __repr__(self) -> str:
        return f"<LockClass {self.name} {self.usage_characters}>"


class Edge(NamedTuple):
    """Somebody took a lock of class `after` while holding one of class `before`: the first time."""

    before: LockClass
    after: LockClass
    held_at: Place
    """Where the one held had been taken."""
    trace: Trace
    """Where the other was taken."""
    context: str
    """Who did."""


def forwards(cls: LockClass) -> Iterator[tuple[LockClass, list[Edge]]]:
    """*cls* and every class that comes after it, nearest first, with a shortest way there."""
    return _walk(cls, lambda each: each.after)


def backwards(cls: LockClass) -> Iterator[tuple[LockClass, list[Edge]]]:
    """*cls* and every class that comes before it, nearest first, with a shortest way from there."""
    for each, way in _walk(cls, lambda each: each.before):
        yield each, way[::-1]


def _walk(
    start: LockClass, neighbours: Callable[[LockClass], dict[LockClass, Edge]]
) -> Iterator[tuple[LockClass, list[Edge]]]:
    ways: dict[LockClass, list[Edge]] = {start: []}
    queue = deque([start])
    while queue:
        cls = queue.popleft()
        yield cls, ways[cls]
        for neighbour, edge in neighbours(cls).items():
            if neighbour not in ways:
                ways[neighbour] = [*ways[cls], edge]
                queue.append(neighbour)


class Chain:
    """
    Some locks held in this order, taken in this way: the node of the last one.

    Args:
        parent: the chain without it; ``None`` for the root, which is nothing held.
        key: of `cls`, and how the lock is taken.
        trace: where the chain came first.
    """

    __slots__ = ("cls", "irq", "irqs_on", "key", "next", "parent", "trace", "trylock")

    def __init__(self, parent: Chain | None, cls: LockClass, key: int, trace: Trace) -> None:
        self.parent = parent
        self.cls = cls
        self.key = key
        self.irq = bool(key & IRQ)
        self.trylock = bool(key & TRYLOCK)
        self.trace = trace
        self.irqs_on = parent is None
        """Whether it has been validated that interrupts are enabled while this is held."""
        self.next: dict[int, Chain] = {}

    def classes(self) -> list[LockClass]:
        """The classes held, outermost first."""
        classes = []
        chain = self
        while chain.parent is not None:
            classes.append(chain.cls)
            chain = chain.parent
        return classes[::-1]


class Held(NamedTuple):
    """A lock that is held."""

    lock_id: int
    chain: Chain
    """All that is held, up to this one."""
    where: Place | None = None

    @property
    def cls(self) -> LockClass:
        """Its class."""
        return self.chain.cls

    @property
    def at(self) -> Place:
        """Where it was taken."""
        return self.chain.trace[0] if self.where is None else self.where


class LockdepContext:
    """What one CPU holds (or a kernel thread, or any thread). Made by :meth:`Lockdep.context`."""

    __slots__ = ("held", "name", "number")

    def __init__(self, name: str, number: int, nothing: Chain) -> None:
        self.name = name
        self.number = number
        self.held: list[tuple[int, Chain, Place | None]] = [(0, nothing, None)]
        """As `Held`, innermost last; plain tuples are made in half the time. Item 0 is no lock."""

    def locks(self) -> list[Held]:
        """What is held, outermost first."""
        return [Held(*each) for each in self.held[1:]]

    def __str__(self) -> str:
        return f"{self.name}/{self.number}"
