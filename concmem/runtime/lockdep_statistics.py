"""What the lock validator has learnt, as plain values; for reports, ``/proc`` files and tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from concmem.runtime.lockdep_classes import Chain, LockClass, backwards, forwards
from concmem.runtime.lockdep_where import describe


class LockClassOrder(NamedTuple):
    """One class of locks."""

    number: int
    name: str
    """With ``/1`` and so on for a subclass."""
    kind: str
    usage: str
    """As in ``-...``: see :attr:`LockClass.usage_characters`."""
    nr_forwards: int
    """Classes that come after it, itself included."""
    nr_backwards: int
    after: tuple[int, ...]
    """`number` of each class taken while one of this was held last."""


class LockEdge(NamedTuple):
    """One class was taken while the other was held: the first time."""

    before: str
    after: str
    held_at: str
    """Where the first was taken, as ``function (file:line)``."""
    taken_at: str
    """Where the second was."""
    context: str
    """Who did, as ``name/number``."""


class LockChain(NamedTuple):
    """Classes that somebody held, outermost first."""

    irq_context: bool
    classes: tuple[int, ...]


class LockdepStatistics(NamedTuple):
    """All that one validator knows."""

    classes: tuple[LockClassOrder, ...]
    """That were ever made, also if never taken."""
    edges: tuple[LockEdge, ...]
    chains: tuple[LockChain, ...]
    """Each once, however many ways there are to take its locks."""

    @property
    def max_depth(self) -> int:
        """Most locks held at once."""
        return max((len(chain.classes) for chain in self.chains), default=0)


def statistics(classes: Iterable[LockClass], chains: Iterable[Chain]) -> LockdepStatistics:
    """A copy. Caller holds the validator's lock."""
    rows, edges = [], []
    for cls in classes:
        rows.append(
            LockClassOrder(
                cls.index,
                cls.name,
                cls.kind,
                cls.usage_characters,
                sum(1 for _ in forwards(cls)),
                sum(1 for _ in backwards(cls)),
                tuple(after.index for after in cls.after),
            )
        )
        edges += [
            LockEdge(
                cls.name, after.name, describe(edge.held_at), describe(edge.trace[0]), edge.context
            )
            for after, edge in cls.after.items()
        ]
    seen = {
        LockChain(chain.irq, tuple(cls.index for cls in chain.classes())): None for chain in chains
    }
    return LockdepStatistics(tuple(rows), tuple(edges), tuple(seen))
