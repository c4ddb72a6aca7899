"""
abca7c496584 ``mm: fix slab->page _count corruption when using slub`` (2012), and again a03208652dad
``mm/slub.c: fix page->_count corruption (again)`` (2014).

The counters of a slab share a word with the page's reference count. Without a double-word compare-exchange
they were stored under the slab's lock, the whole word at once. Who takes a reference does not know that
lock.

    CPU 0                                   CPU 1
    free: takes slab_lock, reads the word
                                            get_page: one reference more
    stores the word: the reference is gone
                                            put_page: the last one; the page is free

Symptom: a page is freed while it is in use. Fix: store the parts of the word one by one; the whole only by
compare-exchange.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.bugs.pair_view import PairView
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.page import Page
from concmem.mm.slab_page import SlabPages
from concmem.runtime.api import Pair, Runtime


class _WideStore(PairView):
    """Compares and exchanges under the slab's lock; its store takes the reference count along."""

    __slots__ = ("_lock", "_slab")

    def __init__(self, rt: Runtime, slab: Page, pair: Pair) -> None:
        super().__init__(pair)
        self._lock = rt.spinlock("slab_lock", irqsave=True)
        self._slab = slab

    def try_cmpxchg(
        self, old_first: int, old_second: int, new_first: int, new_second: int, /
    ) -> bool:
        with self._lock:
            references = self._slab._count.read()
            if not self._pair.try_cmpxchg(old_first, old_second, new_first, new_second):
                return False
            self._store_count(references)
        return True

    def _store_count(self, references: int) -> None:
        """The other half of the word."""
        count = self._slab._count
        for _ in range(len(count) - references):  # type: ignore[arg-type]
            count.dec_and_test()
        for _ in range(references - len(count)):  # type: ignore[arg-type]
            count.add(False)


class _NoDoubleCmpxchg(SlabPages):
    """Of a machine whose processor compares and exchanges one word only."""

    def _make_counters(self, slab: Page) -> Pair:
        return _WideStore(self._rt, slab, super()._make_counters(slab))


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """One CPU frees to a slab that is not its own; another looks at the page for a moment."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    cache = m.kmem_cache_create("objects", 8192)  # four in a slab
    objects: list[int] = []
    m.run([None, lambda: objects.extend(cache.alloc_bulk(4 + 1))])
    page = m.virt_to_page(objects[0])  # the slab's head

    def look() -> None:
        m.get_page(page)
        m.put_page(page)

    return Program([lambda: cache.free(objects[0]), look], m.verify)


BUG = Bug(
    name="counters-wide-store",
    number="B08",
    title="a store to a slab's counters takes the page's reference count along",
    fixed_by="abca7c496584 mm: fix slab->page _count corruption when using slub",
    subsystem="slub",
    kind="lost update",
    depth=2,
    cpus=2,
    replaces={SlabPages: _NoDoubleCmpxchg},
    expect=frozenset({"BadPageState"}),
    workload=_workload,
    witness="v1:11.0,12.0",
    executions={"pb": 50, "pos": 300},  # seeds 0 to 4: 79 at the median with pos
)
