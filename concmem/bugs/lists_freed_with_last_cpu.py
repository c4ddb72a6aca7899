"""
4484ebf12bdb ``[PATCH] NUMA slab locking fixes: fix cpu down and up locking`` (2006).

When the last CPU of a node went, the lists of the node were freed if nothing was on them. But memory of
the node may be used from anywhere.

    CPU 0                                   CPU 1, the last of node 1
    makes a slab on node 1, takes the
    node's lists to count it there
                                            goes: no slab is counted on node 1, frees
                                            the lists
    counts the slab in freed memory

Symptom: use after free; here a slab that is counted nowhere. Fix: the lists of a node stay; what else goes
with a CPU is unlinked under the lock, and freed after it.
"""

from __future__ import annotations

from typing import cast

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.gfp import GFP_KERNEL, THISNODE
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.kmem_cache_node import KmemCacheNode
from concmem.mm.slab_common import SlabCommon


class _FreesLists(SlabCommon):
    """Frees the lists with the last CPU of their node; if they are needed again there are new ones."""

    def _cpu_dead(self, s: KmemCache, cpu: int) -> None:
        super()._cpu_dead(s, cpu)
        nodes = cast(list[KmemCacheNode], s.node)
        for node in self.slub._nodes:
            if node.cpus == (cpu,) and not nodes[node.node_id].nr_slabs:
                nodes[node.node_id] = self._rt.watch(KmemCacheNode(self._rt, node.node_id))


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """The only CPU of a node goes while a CPU of the other node allocates there."""
    m = Machine(memory="8M", nodes=2, runtime=rt, classes=classes)
    cache = m.kmem_cache_create("objects", 8192)
    m.run([None, lambda: cache.free(cache.alloc() or 0)])
    m.run([cache.shrink])
    return Program(
        [lambda: cache.alloc(GFP_KERNEL | THISNODE, 1), lambda: m.slab.cpu_dead(1)], m.verify
    )


BUG = Bug(
    name="lists-freed-with-last-cpu",
    number="B70",
    title="the lists of a node are freed when its last CPU goes, though others use them",
    fixed_by="4484ebf12bdb [PATCH] NUMA slab locking fixes: fix cpu down and up locking",
    subsystem="slab",
    kind="use after free",
    depth=2,
    cpus=2,
    replaces={SlabCommon: _FreesLists},
    expect=frozenset({"SlabError"}),
    workload=_workload,
    witness="v1:24.0",
    executions={"pb": 60, "pos": 300},  # seed 0: pb 26, pos 129
)
