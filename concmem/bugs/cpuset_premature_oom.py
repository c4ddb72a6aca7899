"""
Reported as e47483bca2cc ``mm, page_alloc: fix premature OOM when racing with cpuset mems update`` (2017).

An allocation looks at one zone after the other, and asks at each whether its node is allowed. While that changes,
it may come to each at the wrong time.

    CPU 0                                   CPU 1
    allocates: nodes {0} are allowed
                                            allows CPU 0 nodes {1}
    looks at node 0: not allowed
                                            allows CPU 0 nodes {0}
    looks at node 1: not allowed
    out of memory

Symptom: the OOM killer, with gigabytes free. Fix: a sequence number tells that the nodes have changed meanwhile; then
the allocation is tried again before it fails.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.cpuset import Cpusets
from concmem.mm.gfp import NOMEMALLOC, NOWARN, THISNODE
from concmem.mm.slow_path import SlowPath


class _NoCheck(SlowPath):
    """Fails when no zone has given anything."""

    def _check_retry_cpuset(self, cpusets: Cpusets, cookie: int) -> bool:
        return False


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """A CPU allocates, while it is moved to another node and back; on both there is just enough."""
    m = Machine(memory="8M", nodes=2, pagesets=False, cpusets=True, runtime=rt, classes=classes)
    gfp = NOMEMALLOC | NOWARN

    def fill() -> None:
        """To below the low watermark, so that the allocation takes the slow path; the min one allows it."""
        for node, zone in enumerate(m.zones):
            for order in range(9, -1, -1):
                while zone.nr_free_pages_exact() - (1 << order) > zone.watermark.min + 2:
                    assert m.alloc_pages(order, gfp | THISNODE, node) is not None

    m.run([fill])

    def allocate() -> None:
        assert m.alloc_pages(0, gfp) is not None, "out of memory, with enough on both nodes"

    def move() -> None:
        for node in (1, 0, 1, 0):
            m.set_mems_allowed(0, {node})

    return Program([allocate, move], m.verify)


BUG = Bug(
    name="cpuset-premature-oom",
    number="B28",
    title="an allocation fails because the nodes it may use change while it looks at them",
    fixed_by='reported as e47483bca2cc ("mm, page_alloc: fix premature OOM when racing with cpuset mems update")',
    subsystem="page_alloc",
    kind="stale read",
    depth=5,
    cpus=2,
    replaces={SlowPath: _NoCheck},
    expect=frozenset({"AssertionError"}),
    workload=_workload,
    witness="v1:11.0,21.0,22.0,29.0,30.0,37.0,38.0",
    executions={"dpor": 40},  # needs 12; random finds nothing in 900
    note="The depth is higher than Linux's: the slow path looks at the zones twice before it gives up.",
)
