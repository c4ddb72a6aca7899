"""
The lock validator: finds deadlocks that could happen, from orders that were seen at different times.

Locks are judged by class, not one by one: whatever is taken is compared with all that was ever done
with locks of that class, by anybody. A rule broken once is found, however unlikely the deadlock:

* a lock of a class that is held already (unless its level is told apart by a subclass);
* a cycle in the graph "taken while the other was held";
* a class taken in an interrupt handler and also held with interrupts enabled;
* a way from a class of the one sort to a class of the other;
* a lock whose waiters sleep, taken in an interrupt handler or while a spinlock is held;
* a lock released by somebody who does not hold it, or held at the end.

``trylock`` waits for nobody, so nothing can deadlock on it: the lock is held like any other from then
on, but nothing leads to it, and in an interrupt handler it does not count as taken there.

Each distinct *chain* (classes held, in order, and how they were taken) is validated once. Chains form
a tree: the node of what is held has, in a dict, the node for each lock more. So what has been done
before costs one lookup, without a lock; `_lock` protects everything else.

Follows ``kernel/locking/lockdep.c`` of Linux 6.12. Not modelled: softirqs, recursive readers, and locks
that are nested in a lock of their owner (``spin_lock_nest_lock``).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

from concmem.errors import BadArgument
from concmem.runtime import lockdep_report as report
from concmem.runtime.lockdep_classes import (
    CONFLICTS,
    ENABLED_HARDIRQ,
    ENABLED_HARDIRQ_READ,
    IN_HARDIRQ,
    IN_HARDIRQ_READ,
    IRQ,
    IRQS_ON,
    READ,
    SAFE,
    TRYLOCK,
    Chain,
    Edge,
    Held,
    LockClass,
    LockdepContext,
    backwards,
    forwards,
)
from concmem.runtime.lockdep_statistics import LockdepStatistics, LockEdge, statistics
from concmem.runtime.lockdep_text import Wanted
from concmem.runtime.lockdep_where import Place, Trace, trace

KINDS: Final = ("spinlock", "mutex", "rwsem")


class Lockdep:
    """
    The validator. One for as long as orders shall be remembered; a runtime tells it everything::

        dep = Lockdep()
        zone_lock = dep.lock_class("&zone->lock", "spinlock")
        cpu0 = dep.context("cpu0")
        dep.acquire(cpu0, zone_lock, id(lock), IRQS_ON)  # then wait for the lock
        dep.release(cpu0, zone_lock, id(lock))  # then give it up

    Any number of threads may call, each with contexts of its own. A method that finds a rule broken
    raises `LockdepError`, and nothing has changed: the lock is not held, or still is.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # _lock: _classes, _chains, and all that hangs from them, but for lookups in Chain.next
        self._classes: dict[tuple[str, str, int], LockClass] = {}
        self._chains: list[Chain] = []
        self._usage = 0
        """Usage bits that some class has: without a conflicting one, no way is looked for."""
        self._nothing = Chain(None, LockClass(-1, "nothing", "spinlock", 0), 0, ())

    def context(self, name: str, number: int = 0) -> LockdepContext:
        """For one CPU, kernel thread or other thread, which reports call ``name/number``."""
        return LockdepContext(name, number, self._nothing)

    def lock_class(self, name: str, kind: str, subclass: int = 0) -> LockClass:
        """
        The class of that name, the same at every call.

        Args:
            kind: ``"spinlock"``, ``"mutex"`` or ``"rwsem"``.
            subclass: the level of a lock that is taken while others of its name are held, in an
                order that only the caller can know (``SINGLE_DEPTH_NESTING`` is 1).
        """
        if kind not in KINDS:
            raise BadArgument(f"kind: expected one of {', '.join(KINDS)}; got {kind!r}")
        with self._lock:
            cls = self._classes.get((name, kind, subclass))
            if cls is None:
                cls = LockClass(len(self._classes), name, kind, subclass)
                self._classes[name, kind, subclass] = cls
            return cls

    def acquire(
        self,
        context: LockdepContext,
        cls: LockClass,
        lock_id: int,
        how: int,
        where: Place | None = None,
    ) -> None:
        """
        A lock is going to be waited for; or a ``trylock`` has got it.

        Args:
            lock_id: which one, to be found again at `release`.
            how: of `IRQ` (in an interrupt handler), `IRQS_ON` (interrupts will be enabled while it is
                held), `TRYLOCK` and `READ`.
            where: the place, for reports; by default where this chain came first.
        """
        held = context.held
        key = cls.key | how
        node = held[-1][1].next.get(key)
        if node is None:
            calls = trace()
            at = calls[0] if where is None else where
            node = self._validate(context, context.locks(), Wanted(cls, lock_id, key, at), calls)
        held.append((lock_id, node, where))

    def release(self, context: LockdepContext, cls: LockClass, lock_id: int) -> None:
        """A lock is going to be given up. *cls* is for the report that it is not held."""
        held = context.held
        if held[-1][0] == lock_id:
            held.pop()
        else:
            self._release_inner(context, cls, lock_id)

    def hardirqs_on(self, context: LockdepContext) -> None:
        """Interrupts are going to be enabled: what is held is held with them enabled from now on."""
        chain = context.held[-1][1]
        if not chain.irqs_on:
            self._enable_irqs(context, chain)

    def check_no_locks_held(self, context: LockdepContext) -> None:
        """The end: raises if something is still held, and forgets that."""
        if len(context.held) > 1:
            error = report.still_held(context)
            del context.held[1:]
            raise error

    def statistics(self) -> LockdepStatistics:
        """A copy of all that is known: classes, their order, chains."""
        with self._lock:
            return statistics(self._classes.values(), self._chains)

    def edges(self) -> tuple[LockEdge, ...]:
        """The graph: which class was taken while which was held, and where that was first."""
        return self.statistics().edges

    # -- what comes for the first time

    def _validate(
        self, context: LockdepContext, held: list[Held], new: Wanted, calls: Trace
    ) -> Chain:
        """Check the chain of *held* and then *new*, which *calls* have led to; its node, now known."""
        cls, key = new.cls, new.key
        chain = held[-1].chain if held else self._nothing
        with self._lock:
            known = chain.next.get(key)
            if known is not None:  # somebody was faster
                return known
            if not key & TRYLOCK:
                self._check_wait_context(context, held, new)
                if key & IRQ:
                    self._mark(context, new, IN_HARDIRQ_READ if key & READ else IN_HARDIRQ, calls)
            if key & IRQS_ON:
                bit = ENABLED_HARDIRQ_READ if key & READ else ENABLED_HARDIRQ
                self._mark(context, new, bit, calls)
            if not key & TRYLOCK:
                for each in held:
                    if each.cls is cls:
                        raise report.recursive(context, new, each)
                self._add_edges(context, held, new, calls)
            # An interrupt begins a chain of its own: it did not choose what it interrupts.
            parent = self._nothing if key & IRQ and not chain.irq else chain
            node = parent.next.get(key)
            if node is None:
                node = parent.next[key] = Chain(parent, cls, key, calls)
                self._chains.append(node)
            chain.next[key] = node
            return node

    @staticmethod
    def _check_wait_context(context: LockdepContext, held: Sequence[Held], new: Wanted) -> None:
        if new.cls.sleeps and (new.key & IRQ or not all(each.cls.sleeps for each in held)):
            raise report.wait_context(context, new)

    def _mark(self, context: LockdepContext, new: Wanted, bit: int, calls: Trace) -> None:
        """A class gets a usage bit, unless one of its own or one along the graph forbids that."""
        cls = new.cls
        if bit in cls.usage:
            return
        if self._usage & CONFLICTS[bit]:
            bad = cls.conflict(CONFLICTS[bit])
            if bad:
                raise report.inconsistent(context, new, bad, bit)
            for other, way in forwards(cls) if bit in SAFE else backwards(cls):
                bad = other.conflict(CONFLICTS[bit])
                if bad:
                    raise report.inversion(context, new, bit, other, bad, way)
        cls.usage[bit] = calls
        self._usage |= bit

    def _add_edges(
        self, context: LockdepContext, held: Sequence[Held], new: Wanted, calls: Trace
    ) -> None:
        """
        What is held comes before *new*.

        It is enough to say so of the innermost lock that was waited for: the others come before that one.
        """
        for each in reversed(held):
            if each.chain.irq != bool(new.key & IRQ):
                return  # what was interrupted
            if new.cls not in each.cls.after:
                edge = Edge(each.cls, new.cls, each.at, calls, str(context))
                self._check_edge(context, each, new, edge)
                each.cls.after[new.cls] = new.cls.before[each.cls] = edge
            if not each.chain.trylock:
                return

    def _check_edge(self, context: LockdepContext, held: Held, new: Wanted, edge: Edge) -> None:
        if edge.after.after and edge.before.before:
            for cls, way in forwards(edge.after):
                if cls is edge.before:
                    raise report.circular(context, held, new, edge, way)
        if not any(self._usage & bit and self._usage & CONFLICTS[bit] for bit in SAFE):
            return
        for safe, before in backwards(edge.before):
            for bit in filter(safe.usage.__contains__, SAFE):
                for unsafe, after in forwards(edge.after):
                    bad = unsafe.conflict(CONFLICTS[bit])
                    if bad:
                        way = [*before, edge, *after]
                        raise report.irq_order(context, held, new, (safe, bit, unsafe, bad), way)

    def _enable_irqs(self, context: LockdepContext, chain: Chain) -> None:
        calls = trace()
        with self._lock:
            for each in context.locks():
                key = each.chain.key | IRQS_ON
                bit = ENABLED_HARDIRQ_READ if key & READ else ENABLED_HARDIRQ
                self._mark(context, Wanted(each.cls, each.lock_id, key, each.at), bit, calls)
            chain.irqs_on = True

    def _release_inner(self, context: LockdepContext, cls: LockClass, lock_id: int) -> None:
        """Not the one taken last: those above it make another chain from now on."""
        held = context.held
        index = next((i for i in range(len(held) - 1, 0, -1) if held[i][0] == lock_id), 0)
        if not index:
            raise report.bad_unlock(context, cls.name, trace()[0])
        above = [Held(*each) for each in held[index + 1 :]]
        del held[index:]
        for each in above:
            # Nothing can be wrong with it: what it says has been said when the lock was there.
            new = Wanted(each.cls, each.lock_id, each.chain.key, each.at)
            node = self._validate(context, context.locks(), new, each.chain.trace)
            held.append((each.lock_id, node, each.where))
