"""
00e962c5408b ``Revert "SLUB: Alternate fast paths using cmpxchg_local"`` (2008).

The fast path compared the head of the free list alone. The head can be the same object again although
what follows it is somebody's by now.

    CPU 0                                   interrupt on CPU 0
    alloc: reads the head A, then B, which
    follows it
                                            allocates A, allocates B, frees A
    exchanges A for B: the head is A
    B, which somebody has, is the head

Symptom: B is handed out twice; in 2008 rare and unrelated oopses, mostly in networking. Fix: a transaction
id that every change of the free list bumps, compared together with the head.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.bugs.pair_view import PairView
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.gfp import GFP_ATOMIC
from concmem.mm.kmem_cache_cpu import KmemCacheCpu
from concmem.runtime.api import Runtime


class _HeadOnly(PairView):
    """A pair that compares its first word only."""

    __slots__ = ()

    def try_cmpxchg(
        self, old_first: int, old_second: int, new_first: int, new_second: int, /
    ) -> bool:
        pair = self._pair
        while not pair.try_cmpxchg(old_first, old_second, new_first, old_second + 256):
            if pair.first != old_first:
                return False
            old_second = pair.second
        return True


class _IgnoresTid(KmemCacheCpu):
    """Its fast paths look at the head of the free list only."""

    __slots__ = ()

    def __init__(self, rt: Runtime, offset: int) -> None:
        super().__init__(rt, offset)
        self.freelist_tid = _HeadOnly(self.freelist_tid)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """A CPU allocates two of three free objects; its interrupt takes two and gives the first back."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    cache = m.kmem_cache_create("objects", 8192)  # four in a slab
    objects: set[int] = set()

    def take() -> int:
        address = cache.alloc(GFP_ATOMIC)
        assert address is not None
        assert address not in objects, "handed out twice"
        objects.add(address)
        return address

    def interrupt() -> None:
        first = take()
        take()
        objects.remove(first)
        cache.free(first)

    m.run([take])
    return Program([[take, take]], m.verify, interrupts=[(0, interrupt)])


BUG = Bug(
    name="fastpath-ignores-tid",
    number="B01",
    title="the fast paths compare the head of the free list, but no transaction id",
    fixed_by='00e962c5408b Revert "SLUB: Alternate fast paths using cmpxchg_local"',
    subsystem="slub",
    kind="aba",
    depth=2,
    cpus=1,
    replaces={KmemCacheCpu: _IgnoresTid},
    expect=frozenset({"ObjectHandedOutTwice", "SlabError"}),
    workload=_workload,
    witness="v1:4.0",
    executions={
        "pb": 20,
        "random": 300,
        "pos": 100,
    },  # seeds 0 to 7: 15 at the median with random and pos
)
