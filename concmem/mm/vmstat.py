"""
Event counters: one array for each CPU, no locks (``struct vm_event_state``).

Only the owning CPU adds to its array, and an interrupt cannot come between the load and the store
of one addition, since there is no point in it. Readers sum without a lock: for people.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from concmem.runtime.api import Runtime

EVENT_NAMES: Final = (
    "allocstall_dma",
    "allocstall_dma32",
    "allocstall_normal",
    "pgalloc_direct",
    "pgfree_direct",
    "pcp_trylock_failed",
    "page_alloc_failed",
    "pgsteal_kswapd",
    "pgsteal_direct",
    "slabs_scanned",
    "kswapd_wakeups",
    "kswapd_high_wmark_hit_quickly",
    "pageoutrun",
    "drain_all_pages",
    "highatomic_reserved",
    "highatomic_unreserved",
    "cma_alloc_success",
    "cma_alloc_fail",
    # address spaces
    "pgfault",
    "sys_mprotect",
    "mmap_write_downgrade",
    "cow_fault",
    "stack_growth",
    # fault injection
    "failslab_injected",
    "fail_page_alloc_injected",
    # Steps of the flowcharts (concmem/reports/flows) that nothing else counts.
    # kmalloc and kfree of what no cache serves; vmalloc
    "kmalloc_large",
    "kmalloc_vmalloc",
    "kfree_large",
    "vmalloc_map",
    # slabs on their way between lists
    "slab_free_emptied",
    "slab_put_partial",
    "slab_empty_kept",
    "slab_empty_discarded",
    # system calls of processes: on entry, and when they have done what was asked for
    "sys_brk",
    "brk_grow",
    "brk_shrink",
    "sys_mmap",
    "mmap_region",
    "sys_munmap",
    "munmap_region",
    # malloc and free, where they ask the kernel
    "user_malloc_brk",
    "user_malloc_mmap",
    "user_free_heap",
    "user_free_mapped",
    # memory pools
    "mempool_create",
    "mempool_prealloc",
    "mempool_prealloc_short",
    "mempool_created",
    "mempool_alloc_reserved",
    "mempool_alloc_allocator",
    "mempool_alloc_empty",
    "mempool_alloc_waited",
    "mempool_alloc_failed",
    "mempool_free_reserved",
    "mempool_free_allocator",
    # debugging: caches that are debugged, objects whose user is kept; pages filled and looked at
    "slub_debug_on",
    "slub_debug_tracked",
    "page_poisoning_on",
    "page_poisoned",
    "page_poison_checked",
    # the leak detector
    "kmemleak_on",
    "kmemleak_tracked",
    "kmemleak_read",
)
"""Names, kernel ones where it has them. The index of a name is its event number."""

_NUMBERS: Final = {name: number for number, name in enumerate(EVENT_NAMES)}


class VmEvents:
    """All event counters of a machine."""

    def __init__(self, rt: Runtime) -> None:
        self._counts = rt.percpu(lambda: [0] * len(EVENT_NAMES), "vm_event_states")
        self.switched_on: dict[str, int] = {}
        """Events of no CPU: what was switched on, mostly at boot."""

    def count(self, event: str, nr: int = 1) -> None:
        """Add *nr* to *event* on this CPU (``count_vm_events``)."""
        self._counts.this()[_NUMBERS[event]] += nr

    def switch_on(self, event: str) -> None:
        """Count *event*, from any thread; callers of the same event keep each other out."""
        self.switched_on[event] = self.switched_on.get(event, 0) + 1

    def sum(self) -> dict[str, int]:
        """Every event, summed over the CPUs (``all_vm_events``)."""
        arrays = self._counts.all()
        return {
            name: sum(array[i] for array in arrays) + self.switched_on.get(name, 0)
            for i, name in enumerate(EVENT_NAMES)
        }
