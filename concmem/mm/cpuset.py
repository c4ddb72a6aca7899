"""
Cpusets, as far as memory goes: which nodes the tasks of a CPU may allocate from.

The nodes of a CPU may be changed at any time, also in the middle of its allocation. Readers notice that by a sequence
number, which is odd while a change is under way: an allocation that would fail is tried again if it has changed.

Locks:
    alloc_lock      a CPU's nodes and their sequence number are written; readers take none

Follows ``kernel/cgroup/cpuset.c`` and ``read_mems_allowed_begin`` of ``include/linux/cpuset.h`` of Linux 6.12.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from concmem.errors import BadArgument

if TYPE_CHECKING:
    from concmem.mm.node import PgData
    from concmem.runtime.api import Runtime


class MemsAllowed:
    """``current->mems_allowed`` of one CPU."""

    __slots__ = ("nodes", "seq")

    def __init__(self, rt: Runtime, nodes: frozenset[int]) -> None:
        self.nodes = rt.cell(nodes, "current->mems_allowed")
        self.seq = rt.cell(0, "current->mems_allowed_seq")


class Cpusets:
    """The nodes that each CPU may allocate from: at first, all of them."""

    def __init__(self, rt: Runtime, nodes: Iterable[PgData]) -> None:
        self._rt = rt
        self._all = frozenset(node.node_id for node in nodes if node.populated_zones())
        self._mems = rt.percpu(lambda: MemsAllowed(rt, self._all), "mems_allowed")
        self._lock = rt.spinlock("alloc_lock", irqsave=True)

    def set_mems_allowed(self, cpu: int, nodes: Iterable[int]) -> None:
        """
        Have CPU *cpu* allocate from *nodes* only from now on (``cpuset_change_task_nodemask``).

        Raises:
            BadArgument: there is no such CPU, or none of *nodes* has memory.
        """
        wanted = frozenset(nodes)
        if not wanted or not wanted <= self._all:
            raise BadArgument(f"nodes: must be some of {sorted(self._all)}, got {sorted(wanted)}")
        if not 0 <= cpu < self._rt.nr_cpus:
            raise BadArgument(f"cpu: must be 0 to {self._rt.nr_cpus - 1}, got {cpu}")
        mems = self._mems.of(cpu)
        with self._lock:
            mems.seq.value += 1
            mems.nodes.value = wanted
            mems.seq.value += 1

    def allows(self, node: int) -> bool:
        """Whether the calling CPU may allocate from *node* (``__cpuset_node_allowed``); interrupts may."""
        # No lock: who fails asks whether this has changed meanwhile.
        return node in self._mems.this().nodes.value or self._rt.in_interrupt()

    def read_begin(self) -> int:
        """A number for `read_retry` (``read_mems_allowed_begin``)."""
        seq = self._mems.this().seq
        while (number := seq.value) & 1:
            self._rt.cpu_relax()
        return number

    def read_retry(self, number: int) -> bool:
        """Whether the nodes may have changed since `read_begin` gave *number*."""
        return self._mems.this().seq.value != number
