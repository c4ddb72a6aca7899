"""Benchmarks of slab caches: objects of 64 bytes."""

from __future__ import annotations

from time import thread_time

from concmem.machine import Machine
from concmem.mm.kmem_cache import KmemCache
from concmem.runtime.interpreter import has_gil
from concmem.workloads.bench_tools import (
    EFFORT,
    Body,
    Measure,
    in_floors,
    make_measure,
    scaling,
)
from concmem.workloads.bounded_queue import BoundedQueue

BULK = 64
"""Objects at once."""

SIZE = 64
"""Bytes of an object."""


def _cache(machine: Machine) -> KmemCache:
    return machine.kmem_cache_create("bench", SIZE)


def _churn(cache: KmemCache, pairs: int) -> Body:
    """Local churn: a body that allocates and frees one object, *pairs* times."""

    def body() -> float:
        alloc, free = cache.alloc, cache.free
        start = thread_time()
        for _ in range(pairs):
            free(alloc())  # type: ignore[arg-type]  # memory does not run out here
        return thread_time() - start

    return body


def bench_cache_pair() -> Measure:
    """A kmem_cache allocate/free pair in floors."""
    with Machine(cpus=1, memory="256M") as machine:
        ratios = in_floors(machine, _churn(_cache(machine), EFFORT.pairs), EFFORT.pairs)
    return make_measure("kmem_cache allocate/free pair", ratios, "floors", "at most 8")


def bench_kmalloc_pair() -> Measure:
    """A kmalloc/kfree pair of 64 bytes in floors."""
    with Machine(cpus=1, memory="256M") as machine:

        def body() -> float:
            kmalloc, kfree = machine.kmalloc, machine.kfree
            start = thread_time()
            for _ in range(EFFORT.pairs):
                kfree(kmalloc(SIZE))
            return thread_time() - start

        ratios = in_floors(machine, body, EFFORT.pairs)
    return make_measure(f"kmalloc/kfree pair, {SIZE} bytes", ratios, "floors", "at most 12")


def bench_bulk() -> Measure:
    """Bulk allocation and free, for each object in floors."""
    bulks = -(-EFFORT.pairs // BULK)
    with Machine(cpus=1, memory="256M") as machine:
        cache = _cache(machine)

        def body() -> float:
            start = thread_time()
            for _ in range(bulks):
                cache.free_bulk(cache.alloc_bulk(BULK))
            return thread_time() - start

        ratios = in_floors(machine, body, bulks * BULK)
    return make_measure(
        f"bulk of {BULK}, alloc and free, per object", ratios, "floors", "at most 3"
    )


def bench_slab_scaling() -> Measure:
    """Work of 2 CPUs per second over that of 1, on local slab churn."""
    with Machine(cpus=2, memory="256M", pin=True) as machine:
        body = _churn(_cache(machine), EFFORT.churn_pairs)
        ratios = scaling(machine, body, EFFORT.churn_pairs)
    goal = "(a GIL: about 1)" if has_gil() else "at least 1.7"
    return make_measure("work of 2 CPUs / 1 CPU, local slab churn", ratios, "x", goal)


def bench_remote_free() -> Measure:
    """What an object costs that another CPU frees, over one that its own CPU frees. In CPU time."""
    batches = -(-EFFORT.churn_pairs // BULK)
    nr = batches * BULK
    with Machine(cpus=2, memory="256M", pin=True) as machine:
        cache = _cache(machine)
        local = _churn(cache, nr)

        def pass_on() -> float:
            queue: BoundedQueue[list[int]] = BoundedQueue(machine.runtime, 8, 1, 1)

            def produce() -> float:
                alloc = cache.alloc
                start = thread_time()
                for _ in range(batches):
                    queue.put([alloc() for _ in range(BULK)])  # type: ignore[misc]  # as above
                queue.producer_done()
                return thread_time() - start

            def consume() -> float:
                free = cache.free
                start = thread_time()
                while (addresses := queue.get()) is not None:
                    for address in addresses:
                        free(address)
                return thread_time() - start

            return sum(seconds or 0.0 for seconds in machine.run([produce, consume]))

        pass_on()
        ratios = [pass_on() / (machine.run([local])[0] or 1.0) for _ in range(EFFORT.rounds)]
    name = "producer-consumer of objects / local slab churn"
    return make_measure(name, ratios, "x", "(shows the cost)")
