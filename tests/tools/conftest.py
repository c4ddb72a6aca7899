"""A machine that has been used, as its statistics and as an exported tree."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from concmem import Machine
from concmem.mm.mman import MAP_SHARED
from concmem.mm.statistics import MachineStatistics
from concmem.reports.procfs import ProcFs


class Exported(NamedTuple):
    """The same moment, twice."""

    stats: MachineStatistics
    tree: Path


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Two nodes, CMA, caches of many sizes of which some objects are free, processes, shared memory."""
    tree = tmp_path_factory.mktemp("proc")
    with Machine(cpus=3, memory="64M", nodes=2, cma="4M", seed=5) as m:
        cache = m.kmem_cache_create("request", 200)
        owner, other = m.process("owner"), m.process("other")
        shared = m.submit(0, m.shmem_create, 3 * 4096).result()
        assert shared is not None

        def allocate() -> None:
            objects = [
                m.kmalloc(size) for size in (8, 64, 100, 700, 4096, 60_000) for _ in range(40)
            ]
            objects += [cache.alloc() for _ in range(300)]
            for number, address in enumerate(objects):
                if number % 3 and address:
                    m.kfree(address)
            for order in (0, 3, 7):
                m.alloc_pages(order)
            m.vmalloc(50_000)

        def use() -> None:
            heap = owner.brk(0)
            owner.brk(heap + 8 * 4096)
            for page in range(5):
                owner.write_u64(heap + page * 4096, 7)
            address = other.mmap(3 * 4096, flags=MAP_SHARED, file=shared)
            assert address is not None
            other.write_u64(address, 1)

        m.run([allocate, allocate, use])
        stats = m.statistics()
        ProcFs(lambda: stats).export(tree)
        m.run([owner.exit, other.exit])
    return Exported(stats, tree)
