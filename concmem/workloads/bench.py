"""Speed and memory as ratios measured in one run, so that they mean the same on every host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from concmem.workloads.bench_lockdep import bench_lockdep_contended, bench_lockdep_pair
from concmem.workloads.bench_malloc import bench_malloc_pair
from concmem.workloads.bench_pages import (
    bench_boot,
    bench_host,
    bench_idle_memory,
    bench_pair,
    bench_scaling,
)
from concmem.workloads.bench_slabs import (
    bench_bulk,
    bench_cache_pair,
    bench_kmalloc_pair,
    bench_remote_free,
    bench_slab_scaling,
)
from concmem.workloads.bench_tools import EFFORT, Measure
from concmem.workloads.bench_user import bench_mempool_wake, bench_page_fault

__all__ = ["BENCHMARKS", "EFFORT", "Measure"]

BENCHMARKS: Final[tuple[Callable[[], Measure], ...]] = (
    bench_pair,
    lambda: bench_pair(pagesets=False),
    bench_cache_pair,
    bench_kmalloc_pair,
    bench_bulk,
    bench_malloc_pair,
    bench_page_fault,
    bench_mempool_wake,
    bench_boot,
    bench_idle_memory,
    bench_host,
    bench_scaling,
    lambda: bench_scaling(pagesets=False),
    bench_slab_scaling,
    bench_remote_free,
    bench_lockdep_pair,
    bench_lockdep_contended,
)
"""In the order of the table."""
