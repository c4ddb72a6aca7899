"""
03d1d43a1262 ``mm/slab: racy access/modify the slab color`` (2016), without the half that makes it right.

Each new slab of a node begins one colour further. The counter was guarded by list_lock: increment, and
start over at the end. Without the lock two CPUs may both be between those two steps.

    CPU 0                                   CPU 1
    reads the last colour, stores the next
                                            reads a colour that does not exist
    starts over with 0

Symptom: a slab that begins too far inside of its pages. Fix: what was read is compared with the number of
colours before it is used; that two slabs may get the same colour does no harm.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.page import Page
from concmem.mm.slab_page import SlabPages


class _NoClamp(SlabPages):
    """What was done under list_lock, without it."""

    def _next_colour(self, s: KmemCache, slab: Page, order: int) -> int:
        n = s.node[slab.zone.zone_pgdat.node_id]
        colour = n.colour_next.value
        n.colour_next.value = colour + 1
        if n.colour_next.value >= s.colour:
            n.colour_next.value = 0
        return colour * s.colour_off


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """Two CPUs make slabs of a cache with two colours."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    cache = m.kmem_cache_create("objects", 8160)
    m.run([lambda: cache.alloc_bulk(cache.objs_per_slab)])  # a slab of the first colour
    return Program([cache.alloc, cache.alloc], m.verify)


BUG = Bug(
    name="colour-next-unlocked",
    number="B71",
    title="the next colour is incremented and wrapped around without a lock",
    fixed_by="03d1d43a1262 mm/slab: racy access/modify the slab color",
    subsystem="slab",
    kind="data race",
    depth=2,
    cpus=2,
    replaces={SlabPages: _NoClamp},
    expect=frozenset({"SlabError"}),
    workload=_workload,
    witness="v1:48.0",
    executions={"random": 60, "pct": 60, "pb": 80},  # seed 0: random 11, pct 9, pb 50
)
