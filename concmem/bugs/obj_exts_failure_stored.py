"""
6ed8bfd24ce1 ``slab: Avoid race on slab->obj_exts in alloc_slab_obj_exts`` (2025).

A CPU that got no memory for the vector of a slab stored a mark that says so, whatever was there.

    CPU 0                                   CPU 1
    obj_exts is 0: allocates a vector       obj_exts is 0: gets no memory
    exchanges 0 for the vector
                                            stores "failed"
    uses obj_exts: NULL

Symptom: NULL dereference; the vector is lost. Fix: the mark, too, only by compare-exchange with 0.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.slab_flags import SLAB_ACCOUNT
from concmem.mm.slab_obj_ext import OBJEXTS_ALLOC_FAIL, SlabObjExts, slab_obj_exts
from concmem.runtime.api import Atomic


class _StoresFailure(SlabObjExts):
    """Stores the mark over whatever is there."""

    @staticmethod
    def _mark_failed(obj_exts: Atomic) -> None:
        obj_exts.value = OBJEXTS_ALLOC_FAIL


def tag_while_memory_is_short(rt: ControlledRuntime, classes: Classes) -> Program:
    """Two CPUs tag an object each of the same slab, and free it; one of them has no memory for a vector."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    cache = m.kmem_cache_create("objects", 8192, flags=SLAB_ACCOUNT)
    exts = m.slab.obj_exts
    objects: list[int] = []

    def prepare() -> None:
        objects.extend(cache.alloc_bulk(2))
        m.kfree(m.kcalloc(cache.objs_per_slab, 8))  # so that there is a slab with free vectors

    m.run([prepare])

    def kcalloc(n: int, size: int, gfp: int) -> int | None:
        return None if rt.smp_processor_id() == 1 else m.kcalloc(n, size, gfp)

    exts.kcalloc = kcalloc

    def body(address: int) -> None:
        tag = 7 if exts.tag(address, 7) else 0
        assert exts.untag(address) == tag, "the tag is not what it was"
        cache.free(address)

    def after() -> None:
        slabs = set(m.mem_map.slabs.values())
        known = [slab_obj_exts(slab) for slab in slabs if slab.slab_cache is cache]
        vectors = [address for slab in slabs for address in slab.owners]
        assert vectors == [vector for vector in known if vector], "a vector is lost"

    return Program([lambda: body(objects[0]), lambda: body(objects[1])], after, verify=m.verify)


BUG = Bug(
    name="obj-exts-failure-stored",
    number="B16",
    title="the mark of a failed allocation is stored over another CPU's vector",
    fixed_by="6ed8bfd24ce1 slab: Avoid race on slab->obj_exts in alloc_slab_obj_exts",
    subsystem="slub",
    kind="lost update",
    depth=2,
    cpus=2,
    replaces={SlabObjExts: _StoresFailure},
    expect=frozenset({"BadArgument", "AssertionError"}),
    workload=tag_while_memory_is_short,
    witness="v1:0.0,1.0",
    executions={"random": 50, "pb": 40},  # seed 0: random 5, pb 18
)
