"""
What the leak detector costs, in CPU time: a scan of a large machine, and each allocation and free.

Usage: python stress/bench_kmemleak.py [--memory 1G] [--objects N] [--pairs N]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import thread_time

import concmem
from concmem.machine import Machine

REPEAT = 5


def boot(memory: str, kmemleak: bool) -> Machine:
    return Machine(cpus=1, memory=memory, runtime="free", lockstat=False, kmemleak=kmemleak)


def best(measure: Callable[[], float]) -> float:
    return min(measure() for _ in range(REPEAT))


def nanoseconds_per_pair(memory: str, pairs: int, kmemleak: bool) -> float:
    """Of ``kmalloc(64)`` and ``kfree``, on one CPU."""
    with boot(memory, kmemleak) as m:
        kmalloc, kfree = m.kmalloc, m.kfree

        def body() -> float:
            began = thread_time()
            for _ in range(pairs):
                kfree(kmalloc(64))
            return (thread_time() - began) / pairs * 1e9

        return best(lambda: m.submit(0, body).result())


def seconds_per_scan(memory: str, objects: int) -> float:
    """With *objects* blocks of 128 bytes, in a list that begins in static data."""
    with boot(memory, True) as m:
        head = m.data()

        def make_list() -> None:
            last = head.address
            for _ in range(objects):
                block = m.kmalloc(128)
                assert block is not None
                m.memory.write_u64(last, block)
                m.memory.write_u64(block, 0)
                last = block

        m.submit(0, make_list).result()

        def scan() -> float:
            began = thread_time()
            found = m.kmemleak.scan()
            assert found == 0
            return thread_time() - began

        return best(lambda: m.submit(0, scan).result())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().partition("\n")[0])
    parser.add_argument("--memory", default="1G")
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=20_000)
    args = parser.parse_args()
    print(f"concmem {concmem.__version__}, {args.memory}")
    for objects in (0, args.objects // 10, args.objects):
        print(f"scan, {objects:7} blocks: {seconds_per_scan(args.memory, objects):8.4f} s")
    for kmemleak in (False, True):
        pair = nanoseconds_per_pair(args.memory, args.pairs, kmemleak)
        print(f"kmalloc and kfree, kmemleak={kmemleak!s:5}: {pair:8.0f} ns")


if __name__ == "__main__":
    main()
